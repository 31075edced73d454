//! What is shown and where the user is in it: everything but the terminal.

use strata::inspect::{LayersReport, Paths, WhyReport, escaped};

use super::card::Card;
use super::keys;
use super::layers;
use super::pattern::Pattern;
use super::tree::{Filter, Mark, Seen, Span, Tree};
use crate::cli::report::why_text;

/// The two sides of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    Layers,
    Tree,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    SwitchPane,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    LayerBelow,
    LayerAbove,
    OpenFolder,
    CloseFolder,
    Fold,
    FoldAll,
    Enter,
    Info,
    Span(Span),
    OtherSpan,
    Filter(Mark),
    OnlyWasted,
    Attributes,
    Sort,
    Search,
    Type(char),
    Erase,
    EraseAll,
    Accept,
    NextMatch,
    MatchBefore,
    Back,
    Help,
    Suspend,
    /// Closes the page that is over the others, else ends.
    Leave,
    Quit,
}

/// What the terminal has to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Stay,
    Suspend,
    Quit,
}

/// How the paths of a folder are sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Name,
    /// The largest first; where only the wasted are shown, the most wasted.
    Size,
}

/// A line of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    /// Which path.
    pub(super) at: usize,
    /// How many folders it is in.
    pub(super) depth: usize,
}

/// A search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Search {
    /// What was typed.
    pub(super) text: String,
    /// Whether it still is.
    pub(super) typing: bool,
    /// Which match the cursor is on, from 1, and of how many. None where it is on no match.
    pub(super) found: Option<(usize, usize)>,
    /// Where the cursor was when it began.
    from: usize,
}

/// How many rows the parts of the screen have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pages {
    pub(super) layers: usize,
    pub(super) tree: usize,
    /// Columns and rows of a page over the others.
    pub(super) card: (usize, usize),
    /// Whether there is room for modes and owners.
    pub(super) attributes: bool,
}

/// The whole state.
pub(super) struct Model<'a> {
    pub(super) report: LayersReport<'a>,
    pub(super) paths: Paths<'a>,
    pub(super) tree: Tree,
    pub(super) focus: Pane,
    /// The selected layer, from 0.
    pub(super) layer: usize,
    /// The first layer that is seen.
    pub(super) layers_top: usize,
    pub(super) span: Span,
    pub(super) filter: Filter,
    pub(super) order: Order,
    /// The lines of the tree; the root is always one.
    pub(super) rows: Vec<Row>,
    /// The line the cursor is on.
    pub(super) cursor: usize,
    /// The first line that is seen.
    pub(super) top: usize,
    pub(super) search: Option<Search>,
    pub(super) card: Option<Card>,
    open: Vec<bool>,
    /// As the user wants it; else as there is room.
    attributes: Option<bool>,
    pages: Pages,
}

impl<'a> Model<'a> {
    /// The uppermost layer of an image is selected, and the root is open.
    pub(super) fn new(paths: Paths<'a>) -> Model<'a> {
        let report = LayersReport::new(paths.contents(), false);
        let layer = report.layers.len().saturating_sub(1);
        let mut open = vec![false; paths.len()];
        open[0] = true;
        let mut model = Model {
            tree: Tree::new(&paths, layer, Span::One),
            report,
            paths,
            focus: Pane::Layers,
            layer,
            layers_top: 0,
            span: Span::One,
            filter: Filter::ALL,
            order: Order::Name,
            rows: Vec::new(),
            cursor: 0,
            top: 0,
            search: None,
            card: None,
            open,
            attributes: None,
            pages: Pages {
                layers: 1,
                tree: 1,
                card: (1, 1),
                attributes: false,
            },
        };
        model.list();
        model
    }

    /// Takes note of the size of the screen's parts, so that what is selected is seen.
    pub(super) fn fit(&mut self, pages: Pages) {
        self.pages = pages;
        self.scroll();
    }

    /// Whether modes and owners are shown.
    pub(super) fn attributes(&self) -> bool {
        self.attributes.unwrap_or(self.pages.attributes)
    }

    /// The path under the cursor.
    pub(super) fn here(&self) -> usize {
        self.rows[self.cursor].at
    }

    /// What a path is after the layer.
    pub(super) fn seen(&self, at: usize) -> &Seen {
        self.tree.at(at)
    }

    /// Whether there is something to show in a path, and whether it is shown.
    pub(super) fn fold(&self, at: usize) -> Option<bool> {
        self.children(at).next().map(|_| self.open[at])
    }

    /// Whether the search is being typed.
    pub(super) fn is_typing(&self) -> bool {
        self.search.as_ref().is_some_and(|s| s.typing)
    }

    /// What the search is, once it is something.
    pub(super) fn pattern(&self) -> Option<Pattern> {
        Pattern::new(&self.search.as_ref()?.text)
    }

    /// Does what a key asks for.
    pub(super) fn act(&mut self, action: Action) -> Outcome {
        let outcome = match self.card {
            Some(_) => self.act_on_card(action),
            None => self.act_on_panes(action),
        };
        self.scroll();
        outcome
    }

    fn act_on_card(&mut self, action: Action) -> Outcome {
        let Some(card) = &mut self.card else {
            return Outcome::Stay;
        };
        let (top, page) = (card.top(), card.height());
        match action {
            Action::Up => card.scroll_to(top.saturating_sub(1)),
            Action::Down => card.scroll_to(top + 1),
            Action::PageUp => card.scroll_to(top.saturating_sub(page)),
            Action::PageDown | Action::Fold => card.scroll_to(top + page),
            Action::First => card.scroll_to(0),
            Action::Last => card.scroll_to(usize::MAX),
            Action::Suspend => return Outcome::Suspend,
            Action::Quit => return Outcome::Quit,
            Action::Back | Action::Leave | Action::Enter | Action::Info | Action::Help => {
                self.card = None;
            }
            _ => {}
        }
        Outcome::Stay
    }

    fn act_on_panes(&mut self, action: Action) -> Outcome {
        match action {
            Action::Quit | Action::Leave => return Outcome::Quit,
            Action::Suspend => return Outcome::Suspend,
            Action::SwitchPane => {
                self.focus = match self.focus {
                    Pane::Layers => Pane::Tree,
                    Pane::Tree => Pane::Layers,
                }
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown => self.walk(action),
            Action::First => self.go(0),
            Action::Last => self.go(usize::MAX),
            Action::LayerBelow => self.select(self.layer.saturating_sub(1)),
            Action::LayerAbove => self.select(self.layer + 1),
            Action::OpenFolder => self.set_open(true),
            Action::CloseFolder => self.close(),
            Action::Fold => self.set_open(!self.open[self.here()]),
            Action::FoldAll => self.fold_all(),
            Action::Enter => match (self.focus, self.fold(self.here())) {
                (Pane::Layers, _) => self.show_layer(),
                (Pane::Tree, Some(open)) => self.set_open(!open),
                (Pane::Tree, None) => self.show_why(),
            },
            Action::Info => self.show_why(),
            Action::Span(span) => self.look(self.layer, span),
            Action::OtherSpan => self.look(
                self.layer,
                match self.span {
                    Span::One => Span::UpTo,
                    Span::UpTo => Span::One,
                },
            ),
            Action::Filter(mark) => {
                self.filter.toggle(mark);
                self.list();
            }
            Action::OnlyWasted => {
                self.filter.only_wasted = !self.filter.only_wasted;
                self.list();
            }
            Action::Attributes => self.attributes = Some(!self.attributes()),
            Action::Sort => {
                self.order = match self.order {
                    Order::Name => Order::Size,
                    Order::Size => Order::Name,
                };
                self.list();
            }
            Action::Help => {
                let title = "Keys of strata explore".to_owned();
                self.card = Some(Card::new(title, keys::help()));
            }
            Action::Search
            | Action::Type(_)
            | Action::Erase
            | Action::EraseAll
            | Action::Accept
            | Action::NextMatch
            | Action::MatchBefore
            | Action::Back => self.seek(action),
        }
        Outcome::Stay
    }

    fn walk(&mut self, action: Action) {
        let (now, page) = match self.focus {
            Pane::Layers => (self.layer, self.pages.layers),
            Pane::Tree => (self.cursor, self.pages.tree),
        };
        // A line of the page before stays in sight.
        let page = page.saturating_sub(1).max(1);
        self.go(match action {
            Action::Up => now.saturating_sub(1),
            Action::PageUp => now.saturating_sub(page),
            Action::PageDown => now + page,
            _ => now + 1,
        });
    }

    /// To a line of the pane, or to its last.
    fn go(&mut self, line: usize) {
        match self.focus {
            Pane::Layers => self.select(line),
            Pane::Tree => self.cursor = line.min(self.rows.len() - 1),
        }
    }

    fn select(&mut self, layer: usize) {
        let layer = layer.min(self.report.layers.len().saturating_sub(1));
        self.look(layer, self.span);
    }

    fn look(&mut self, layer: usize, span: Span) {
        if (layer, span) != (self.layer, self.span) {
            (self.layer, self.span) = (layer, span);
            self.tree = Tree::new(&self.paths, layer, span);
            self.list();
        }
    }

    fn set_open(&mut self, open: bool) {
        let here = self.here();
        if self.fold(here).is_some_and(|is_open| is_open != open) {
            self.open[here] = open;
            self.list();
        }
    }

    /// Closes the folder, or goes to the one that it is in.
    fn close(&mut self) {
        let here = self.here();
        match (self.fold(here), self.paths.parent(here)) {
            (Some(true), _) => self.set_open(false),
            (_, Some(parent)) => self.put_cursor(parent),
            (_, None) => {}
        }
    }

    /// Opens all folders, unless all are open; then only the root stays open.
    fn fold_all(&mut self) {
        let closed = |row: &Row| self.fold(row.at) == Some(false);
        let open = self.rows.iter().any(closed);
        self.open.fill(open);
        self.open[0] = true;
        self.list();
    }

    fn show_layer(&mut self) {
        if let Some(row) = self.report.layers.get(self.layer) {
            let title = format!("Layer {}", row.blame.layer);
            self.card = Some(Card::new(title, layers::all_about(row)));
        }
    }

    fn show_why(&mut self) {
        let path = self.paths.path(self.here());
        let report = WhyReport::new(self.paths.contents(), path);
        let title = format!("/{}", escaped(path));
        self.card = Some(Card::new(title, why_text(&report)));
    }

    /// The paths directly in a folder that are to be shown.
    fn children(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let end = self.paths.end(at);
        let mut next = at + 1;
        std::iter::from_fn(move || {
            while next < end {
                let child = next;
                next = self.paths.end(child);
                if self.tree.shows(child, self.filter) {
                    return Some(child);
                }
            }
            None
        })
    }

    /// The lines, if these folders are open.
    fn lines(&self, is_open: impl Fn(usize) -> bool) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut rest = vec![Row { at: 0, depth: 0 }];
        let mut children: Vec<usize> = Vec::new();
        while let Some(row) = rest.pop() {
            rows.push(row);
            if !is_open(row.at) {
                continue;
            }
            children.extend(self.children(row.at));
            if self.order == Order::Size {
                let key = |at: &usize| {
                    let seen = self.tree.at(*at);
                    match self.filter.only_wasted {
                        true => (seen.wasted_bytes, seen.bytes),
                        false => (seen.bytes, seen.wasted_bytes),
                    }
                };
                // Stable: what is equal stays sorted by name.
                children.sort_by_key(|at| std::cmp::Reverse(key(at)));
            }
            let depth = row.depth + 1;
            rest.extend(children.drain(..).rev().map(|at| Row { at, depth }));
        }
        rows
    }

    /// Makes the lines anew; the cursor stays on its path, or on the nearest folder above it that is seen.
    fn list(&mut self) {
        let here = self.rows.get(self.cursor).map_or(0, |row| row.at);
        self.rows = self.lines(|at| self.open[at]);
        self.put_cursor(here);
    }

    fn put_cursor(&mut self, at: usize) {
        let mut at = at;
        // The root is always there.
        loop {
            if let Some(line) = self.rows.iter().position(|row| row.at == at) {
                self.cursor = line;
                return;
            }
            match self.paths.parent(at) {
                Some(parent) => at = parent,
                None => {
                    self.cursor = 0;
                    return;
                }
            }
        }
    }

    fn seek(&mut self, action: Action) {
        match action {
            Action::Search => {
                let from = self.here();
                self.search = Some(Search {
                    text: String::new(),
                    typing: true,
                    found: None,
                    from,
                });
                self.focus = Pane::Tree;
            }
            Action::Type(_) | Action::Erase | Action::EraseAll => {
                let Some(search) = &mut self.search else {
                    return;
                };
                match action {
                    Action::Type(c) => search.text.push(c),
                    Action::Erase => drop(search.text.pop()),
                    _ => search.text.clear(),
                }
                let from = search.from;
                self.find(from, Direction::Here);
            }
            Action::Accept => {
                if let Some(search) = &mut self.search {
                    search.typing = false;
                }
                if self.pattern().is_none() {
                    self.search = None;
                }
            }
            Action::NextMatch => self.find(self.here(), Direction::Next),
            Action::MatchBefore => self.find(self.here(), Direction::Before),
            _ => {
                if let Some(search) = self.search.take()
                    && search.typing
                {
                    self.put_cursor(search.from);
                }
            }
        }
    }

    /// Goes to a match, and opens the folders that it is in. After the last comes the first.
    fn find(&mut self, from: usize, direction: Direction) {
        let Some(pattern) = self.pattern() else {
            if let Some(search) = &mut self.search {
                search.found = None;
            }
            return;
        };
        let all = self.lines(|_| true);
        let from = all.iter().position(|row| row.at == from).unwrap_or(0);
        let matches = all.iter().enumerate().skip(1);
        let matches: Vec<usize> = matches
            .filter(|(_, row)| pattern.matches(self.paths.path(row.at)))
            .map(|(line, _)| line)
            .collect();
        let count = matches.len();
        let found = match direction {
            Direction::Here => matches.partition_point(|line| *line < from) % count.max(1),
            Direction::Next => matches.partition_point(|line| *line <= from) % count.max(1),
            Direction::Before => match matches.partition_point(|line| *line < from) {
                0 => count.saturating_sub(1),
                after => after - 1,
            },
        };
        let line = matches.get(found).copied();
        if let Some(search) = &mut self.search {
            search.found = line.map(|_| (found + 1, count));
        }
        let Some(at) = line.map(|line| all[line].at) else {
            return;
        };
        let mut folder = at;
        while let Some(parent) = self.paths.parent(folder) {
            self.open[parent] = true;
            folder = parent;
        }
        self.list();
        self.put_cursor(at);
    }

    /// Brings what is selected into sight.
    fn scroll(&mut self) {
        let Pages { layers, tree, .. } = self.pages;
        self.layers_top = scrolled(
            self.layers_top,
            self.layer,
            layers,
            self.report.layers.len(),
        );
        self.top = scrolled(self.top, self.cursor, tree, self.rows.len());
        let (columns, rows) = self.pages.card;
        if let Some(card) = &mut self.card {
            card.fit(columns, rows);
        }
    }
}

/// Which match is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    /// From the path on.
    Here,
    /// After it.
    Next,
    /// Before it.
    Before,
}

/// The first line that is seen, so that `line` is and no room is left empty without need.
fn scrolled(top: usize, line: usize, page: usize, lines: usize) -> usize {
    let last = (line + 1).saturating_sub(page);
    let top = top.clamp(last.min(line), line);
    top.min(lines.saturating_sub(page).max(last))
}

#[cfg(test)]
mod tests;
