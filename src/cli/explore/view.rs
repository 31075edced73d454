//! Draws a model: which part of the screen is for what, and the lines in it.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use strata::inspect::{FileType, LayerRow, WhyState, escaped};

use super::card::{Card, columns, wrapped};
use super::layers::{facts, instruction};
use super::model::{Model, Order, Pages, Pane, Row};
use super::pattern::Pattern;
use super::tree::{Mark, Span};
use crate::cli::output::human_size;
use crate::cli::report::{blamed, permissions};

/// The smallest screen on which something can be seen, columns and rows.
const SMALLEST: (u16, u16) = (30, 8);

/// From so many columns on both sides are seen at once.
const BOTH_SIDES: u16 = 64;

/// From so many columns on the tree has room for what is wasted, and for modes and owners.
const WITH_WASTED: u16 = 42;
const WITH_ATTRIBUTES: u16 = 72;

/// How deep a path may be indented, as a part of the line: a hostile image has folders in folders in folders.
const DEEPEST: u16 = 3;

/// Draws it on the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model<'_>, colours: bool) {
    let area = frame.area();
    let Some(parts) = Parts::of(area, model) else {
        let buffer = frame.buffer_mut();
        let (columns, rows) = SMALLEST;
        let lines = ["too small:", &format!("{columns}x{rows} at least")];
        for (at, line) in (0..area.height).zip(lines) {
            buffer.set_stringn(0, at, line, area.width.into(), Style::new());
        }
        return;
    };
    model.fit(parts.pages());
    let mut canvas = Canvas {
        buffer: frame.buffer_mut(),
        colours,
    };
    if let (Some(_), Some(tree)) = (parts.layers, parts.tree) {
        for y in 0..tree.height {
            canvas.text(tree.x - 1, y, 1, "│", canvas.dim());
        }
    }
    if let Some(area) = parts.layers {
        layers(&mut canvas, area, model);
    }
    if let Some(area) = parts.details {
        details(&mut canvas, area, model);
    }
    if let Some(area) = parts.image {
        image(&mut canvas, area, model);
    }
    if let Some(area) = parts.tree {
        tree(&mut canvas, area, parts.path_rows, model);
    }
    if let Some(open) = &model.card {
        card(&mut canvas, parts.card, open);
    }
    if let Some(x) = status(&mut canvas, parts.status, model) {
        frame.set_cursor_position((x, parts.status.y));
    }
}

/// Where everything is. Each part begins with its heading.
struct Parts {
    layers: Option<Rect>,
    details: Option<Rect>,
    image: Option<Rect>,
    tree: Option<Rect>,
    /// How many of the tree's rows tell of the path under the cursor.
    path_rows: u16,
    card: Rect,
    status: Rect,
}

impl Parts {
    /// None: the screen is too small.
    fn of(area: Rect, model: &Model<'_>) -> Option<Parts> {
        if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
            return None;
        }
        let height = area.height - 1;
        let (left, right) = if area.width >= BOTH_SIDES {
            let left = (area.width * 2 / 5).clamp(36, 70);
            let right = Rect::new(left + 1, 0, area.width - left - 1, height);
            (Some(Rect::new(0, 0, left, height)), Some(right))
        } else {
            let whole = Rect::new(0, 0, area.width, height);
            match model.focus {
                Pane::Layers => (Some(whole), None),
                Pane::Tree => (None, Some(whole)),
            }
        };
        let mut parts = Parts {
            layers: None,
            details: None,
            image: None,
            tree: right,
            path_rows: match height {
                0..10 => 1,
                _ => 2,
            },
            card: Rect::new(0, 0, area.width, height),
            status: Rect::new(0, height, area.width, 1),
        };
        if let Some(left) = left {
            let image = if height >= 18 { 7 } else { 0 };
            let rest = height - image;
            let count = u16::try_from(model.report.layers.len()).unwrap_or(u16::MAX);
            let details = if rest >= 8 { rest / 2 + 1 } else { 0 };
            // What the list does not need shows more of the layer.
            let list = (rest - details).min(count.saturating_add(1).max(3));
            let part = |y, height| (height > 0).then(|| Rect::new(left.x, y, left.width, height));
            let details = if details > 0 { rest - list } else { 0 };
            parts.layers = part(0, if details > 0 { list } else { rest });
            parts.details = part(list, details);
            parts.image = part(rest, image);
        }
        Some(parts)
    }

    fn pages(&self) -> Pages {
        let rows = |part: Option<Rect>, others: u16| {
            part.map_or(1, |p| usize::from(p.height.saturating_sub(others)).max(1))
        };
        Pages {
            layers: rows(self.layers, 1),
            tree: rows(self.tree, 2 + self.path_rows),
            card: (
                usize::from(self.card.width.saturating_sub(2)),
                usize::from(self.card.height.saturating_sub(2)),
            ),
            attributes: self.tree.is_some_and(|t| t.width >= WITH_ATTRIBUTES),
        }
    }
}

/// The cells of the screen, and how they may look.
struct Canvas<'b> {
    buffer: &'b mut Buffer,
    colours: bool,
}

impl Canvas<'_> {
    /// Writes at most so many columns; the column after them.
    fn text(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        self.buffer.set_stringn(x, y, text, width.into(), style).0
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn wasted(&self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn mark(&self, mark: Mark) -> Style {
        match mark {
            Mark::Added => self.colour(Color::Green),
            Mark::Changed => self.colour(Color::Yellow),
            Mark::Removed => self.colour(Color::Red),
            Mark::Same => Style::new(),
        }
    }

    /// A heading over the whole width; that of the side the keys are for stands out.
    fn heading(&mut self, area: Rect, text: &str, focused: bool) {
        let style = match focused {
            true => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        let blank = " ".repeat(area.width.into());
        if focused {
            self.text(area.x, area.y, area.width, &blank, style);
            self.text(area.x, area.y, area.width, &format!(" {text}"), style);
            return;
        }
        let x = self.text(area.x, area.y, area.width, &format!("─ {text} "), style);
        let line = "─".repeat(usize::from(area.right().saturating_sub(x)));
        self.text(x, area.y, area.right().saturating_sub(x), &line, self.dim());
    }
}

/// A text with blanks before it, so many columns in all.
fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

fn layers(canvas: &mut Canvas<'_>, area: Rect, model: &Model<'_>) {
    let count = model.report.layers.len();
    let heading = match count {
        0 => "No layers".to_owned(),
        _ => format!("Layer {} of {count}", model.layer + 1),
    };
    canvas.heading(area, &heading, model.focus == Pane::Layers);
    let digits = count.to_string().len();
    let rows = model.report.layers.iter().enumerate();
    let rows = rows.skip(model.layers_top);
    for (y, (at, row)) in (area.y + 1..area.bottom()).zip(rows) {
        let selected = at == model.layer;
        let base = line_style(selected, model.focus == Pane::Layers);
        // What is marked in the tree.
        let in_span = match model.span {
            Span::One => selected,
            Span::UpTo => at > 0 && at <= model.layer,
        };
        let end = area.right();
        let sign = match (selected, in_span) {
            (true, _) => "▌",
            (_, true) => "│",
            _ => " ",
        };
        let mut x = canvas.text(area.x, y, 1, sign, Style::new());
        let number = format!("{} ", right(&row.blame.layer.to_string(), digits));
        x = canvas.text(x, y, end - x, &number, base);
        let size = right(&human_size(row.unpacked_bytes), 6);
        x = canvas.text(x, y, end - x, &size, base);
        let (wasted, style) = match row.wasted_bytes {
            0 => (" ", base),
            _ => ("!", base.patch(canvas.wasted())),
        };
        x = canvas.text(x, y, end - x, wasted, style);
        x = canvas.text(x, y, end - x, " ", base);
        let rest = format!("{:width$}", instruction(row), width = usize::from(end - x));
        canvas.text(x, y, end - x, &rest, base);
    }
}

/// How a line looks that the cursor may be on.
fn line_style(selected: bool, focused: bool) -> Style {
    match (selected, focused) {
        (true, true) => Style::new().add_modifier(Modifier::REVERSED),
        (true, false) => Style::new().add_modifier(Modifier::BOLD),
        _ => Style::new(),
    }
}

fn details(canvas: &mut Canvas<'_>, area: Rect, model: &Model<'_>) {
    let Some(row) = model.report.layers.get(model.layer) else {
        return;
    };
    canvas.heading(area, &format!("Layer {}", row.blame.layer), false);
    let width = usize::from(area.width);
    let mut lines: Vec<(String, String)> = Vec::new();
    for (label, value) in about(row, usize::from(area.height) - 1) {
        lines.push((format!("{label:7}"), value));
    }
    let words = wrapped(&instruction(row), width.saturating_sub(1).max(1));
    let room = usize::from(area.height - 1).saturating_sub(lines.len());
    let is_cut = words.len() > room;
    for (at, mut line) in words.into_iter().take(room).enumerate() {
        if is_cut && at + 1 == room {
            line.push('…');
        }
        lines.push((String::new(), line));
    }
    for (y, (label, value)) in (area.y + 1..area.bottom()).zip(lines) {
        let x = canvas.text(area.x, y, area.width, &format!(" {label}"), canvas.dim());
        let style = match label.trim() {
            "wasted" if row.wasted_bytes > 0 => canvas.wasted(),
            "hides" => canvas.colour(Color::Yellow),
            "" => Style::new().add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        canvas.text(x, y, area.right() - x, &value, style);
    }
}

/// What is known of a layer, in at most two lines less than there are; the digests are all on its page.
fn about(row: &LayerRow<'_>, lines: usize) -> Vec<(&'static str, String)> {
    let mut facts = facts(row);
    facts.push(("digest", row.digest.short().to_string()));
    facts.push(("diffID", row.diff_id.0.short().to_string()));
    facts.truncate(lines.saturating_sub(2));
    facts
}

fn image(canvas: &mut Canvas<'_>, area: Rect, model: &Model<'_>) {
    let (image, totals) = (&model.report.image, &model.report.totals);
    canvas.heading(area, "Image", false);
    let name = escaped(image.name.as_bytes());
    let efficiency = format!("{:.1} %", totals.efficiency_ratio * 100.0);
    let platform = escaped(image.platform.to_string().as_bytes());
    let size = format!(
        "{}, {} unpacked",
        human_size(totals.size_bytes),
        human_size(totals.unpacked_bytes)
    );
    let wasted = match totals.wasted_bytes {
        0 => Style::new(),
        _ => canvas.wasted(),
    };
    let lines = [
        ("name", name, Style::new()),
        ("ID", image.id.short().to_string(), Style::new()),
        ("platform", platform, Style::new()),
        ("size", size, Style::new()),
        ("wasted", human_size(totals.wasted_bytes), wasted),
        ("efficiency", efficiency, Style::new()),
    ];
    for (y, (label, value, style)) in (area.y + 1..area.bottom()).zip(lines) {
        let x = canvas.text(
            area.x,
            y,
            area.width,
            &format!(" {label:10} "),
            canvas.dim(),
        );
        canvas.text(x, y, area.right() - x, &value, style);
    }
}

fn tree(canvas: &mut Canvas<'_>, area: Rect, path_rows: u16, model: &Model<'_>) {
    let number = model.layer + 1;
    let heading = match (model.span, number) {
        (_, 1) => "After layer 1".to_owned(),
        (Span::One, _) => format!("After layer {number}, its changes"),
        (Span::UpTo, 2) => "After layer 2, changes of 2".to_owned(),
        (Span::UpTo, _) => format!("After layer {number}, changes of 2 to {number}"),
    };
    canvas.heading(area, &heading, model.focus == Pane::Tree);
    let with_wasted = model.filter.only_wasted || area.width >= WITH_WASTED;
    let mut names = String::from("    ");
    if model.attributes() {
        names.push_str("MODE           UID:GID ");
    }
    // An arrow on what is sorted by.
    let by_wasted = model.filter.only_wasted;
    let arrow = |sorted_by: bool| match model.order {
        Order::Size if sorted_by => "↓",
        _ => " ",
    };
    names.push_str(&format!("  SIZE{}", arrow(!by_wasted)));
    if with_wasted {
        names.push_str(&format!("WASTED{}", arrow(by_wasted)));
    }
    names.push_str(" PATH");
    canvas.text(area.x, area.y + 1, area.width, &names, canvas.dim());
    let filter = filter(model);
    let width = u16::try_from(columns(&filter)).unwrap_or(u16::MAX);
    if width < area.width {
        let style = canvas.colour(Color::Cyan).add_modifier(Modifier::BOLD);
        canvas.text(area.right() - width, area.y + 1, width, &filter, style);
    }
    let end = area.bottom() - path_rows;
    let pattern = model.pattern();
    let rows = model.rows.iter().enumerate().skip(model.top);
    for (y, (line, row)) in (area.y + 2..end).zip(rows) {
        let place = Rect::new(area.x, y, area.width, 1);
        path(
            canvas,
            place,
            model,
            (line, *row),
            with_wasted,
            pattern.as_ref(),
        );
    }
    under_cursor(canvas, Rect::new(area.x, end, area.width, path_rows), model);
}

/// What is not shown, in a few words; nothing where all is.
fn filter(model: &Model<'_>) -> String {
    let hidden = Mark::ALL.iter().filter(|m| !model.filter.shows(**m));
    let hidden: Vec<&str> = hidden
        .map(|mark| match mark {
            Mark::Added => "+",
            Mark::Changed => "~",
            Mark::Removed => "-",
            Mark::Same => "unmodified",
        })
        .collect();
    let mut text = String::new();
    if model.filter.only_wasted {
        text.push_str(" only !");
    }
    if !hidden.is_empty() {
        text.push_str(&format!(" without {}", hidden.join(" ")));
    }
    text
}

/// A line of the tree.
fn path(
    canvas: &mut Canvas<'_>,
    area: Rect,
    model: &Model<'_>,
    (line, row): (usize, Row),
    with_wasted: bool,
    pattern: Option<&Pattern>,
) {
    let seen = *model.seen(row.at);
    let state = model.tree.step(&model.paths, row.at);
    let state = state.map(|step| model.paths.state(step));
    let selected = line == model.cursor;
    let base = line_style(selected, model.focus == Pane::Tree);
    let (y, end) = (area.y, area.right());
    let sign = if selected { "▌" } else { " " };
    let mut x = canvas.text(area.x, y, 1, sign, Style::new());
    let mark = match seen.mark {
        Mark::Added => "+",
        Mark::Changed => "~",
        Mark::Removed => "-",
        Mark::Same if model.tree.changed_below(row.at) => "*",
        Mark::Same => " ",
    };
    let painted = base.patch(canvas.mark(seen.mark));
    x = canvas.text(x, y, end - x, mark, painted);
    let wasted = if seen.wasted { "!" } else { " " };
    x = canvas.text(x, y, end - x, wasted, base.patch(canvas.wasted()));
    x = canvas.text(x, y, end - x, " ", base);
    if model.attributes() {
        let text = match &state {
            Some(state) => format!(
                "{} {:>11} ",
                permissions(state.kind, state.mode.0),
                format!("{}:{}", state.uid, state.gid)
            ),
            None => " ".repeat(23),
        };
        x = canvas.text(x, y, end - x, &text, base);
    }
    let size = format!("{} ", right(&human_size(seen.bytes), 6));
    x = canvas.text(x, y, end - x, &size, base);
    if with_wasted {
        let wasted = match seen.wasted_bytes {
            0 => " ".repeat(7),
            bytes => format!("{} ", right(&human_size(bytes), 6)),
        };
        x = canvas.text(x, y, end - x, &wasted, base.patch(canvas.wasted()));
    }
    let indent = u16::try_from(row.depth * 2).unwrap_or(u16::MAX);
    let indent = " ".repeat(indent.min((end - x) / DEEPEST).into());
    let fold = match model.fold(row.at) {
        Some(true) => "▾ ",
        Some(false) => "▸ ",
        None => "  ",
    };
    x = canvas.text(x, y, end - x, &format!("{indent}{fold}"), base);
    let name = match row.at {
        0 => "/".to_owned(),
        at => escaped(model.paths.name(at)),
    };
    let mut style = painted;
    match state.as_ref().map(|s| s.kind) {
        Some(FileType::Directory) | None if seen.mark == Mark::Same => {
            style = style.patch(canvas.colour(Color::Blue));
        }
        Some(FileType::Symlink) if seen.mark == Mark::Same => {
            style = style.patch(canvas.colour(Color::Cyan));
        }
        _ => {}
    }
    if row.at > 0 && pattern.is_some_and(|p| p.matches(model.paths.path(row.at))) {
        style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    }
    x = canvas.text(x, y, end - x, &name, style);
    let target = state.as_ref().map(target).unwrap_or_default();
    let rest = format!("{target:width$}", width = usize::from(end - x));
    canvas.text(x, y, end - x, &rest, base.patch(canvas.dim()));
}

/// Where a link leads.
fn target(state: &WhyState<'_>) -> String {
    let Some(target) = state.target else {
        return String::new();
    };
    let arrow = match state.kind {
        FileType::HardLink => " = /",
        _ => " -> ",
    };
    format!("{arrow}{}", escaped(target.bytes()))
}

/// The path under the cursor, whole where there is room, and what made it what it is.
fn under_cursor(canvas: &mut Canvas<'_>, area: Rect, model: &Model<'_>) {
    let at = model.here();
    let text = format!("/{}", escaped(model.paths.path(at)));
    let text = end_of(&text, usize::from(area.width.saturating_sub(1)));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    canvas.text(area.x + 1, area.y, area.width - 1, &text, bold);
    let step = model.tree.step(&model.paths, at);
    let row = step.and_then(|step| model.report.layers.get(step.layer));
    if let (Some(row), true) = (row, area.height > 1) {
        let made = escaped(blamed(&row.blame).as_bytes());
        let text = format!("layer {} {made}", row.blame.layer);
        canvas.text(area.x + 1, area.y + 1, area.width - 1, &text, canvas.dim());
    }
}

/// The last so many columns of a text, with a sign that something is missing.
fn end_of(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut taken = 1;
    let mut from = text.len();
    for (at, c) in text.char_indices().rev() {
        taken += columns(c.encode_utf8(&mut [0; 4]));
        if taken > width {
            break;
        }
        from = at;
    }
    format!("…{}", &text[from..])
}

fn card(canvas: &mut Canvas<'_>, area: Rect, card: &Card) {
    let blank = " ".repeat(area.width.into());
    for y in area.y..area.bottom() {
        canvas.text(area.x, y, area.width, &blank, Style::reset());
    }
    canvas.heading(area, &card.title, true);
    let lines = card.seen().iter();
    for (y, line) in (area.y + 1..area.bottom() - 1).zip(lines) {
        canvas.text(area.x + 1, y, area.width - 2, line, Style::new());
    }
    let more = match card.below() {
        0 => "Esc closes".to_owned(),
        1 => "1 more line ↓   Esc closes".to_owned(),
        below => format!("{below} more lines ↓   Esc closes"),
    };
    let foot = Rect::new(area.x, area.bottom() - 1, area.width, 1);
    canvas.heading(foot, &more, false);
}

/// The last line; where the cursor is, while a search is typed.
fn status(canvas: &mut Canvas<'_>, area: Rect, model: &Model<'_>) -> Option<u16> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let Some(search) = &model.search else {
        let hints = match model.focus {
            Pane::Layers => {
                " ? help  q quit  Tab files  Enter all about it  ^A all changes  ^L its own"
            }
            Pane::Tree => {
                " ? help  q quit  Tab layers  Space open  Enter why  / search  a m r u w filter"
            }
        };
        canvas.text(area.x, area.y, area.width, hints, canvas.dim());
        return None;
    };
    // What is typed may hold anything that a terminal can send.
    let typed = escaped(search.text.as_bytes());
    let typed = end_of(&typed, usize::from(area.width / 2));
    let x = canvas.text(area.x, area.y, area.width, &format!("/{typed}"), bold);
    let found = match (search.found, search.text.is_empty()) {
        (Some((at, count)), _) => format!("   {at} of {count}"),
        (None, true) => "   part of a name, or * and ?; with / of a path".to_owned(),
        (None, false) => "   no match".to_owned(),
    };
    let keys = match search.typing {
        true => "   Enter keeps, Esc goes back",
        false => "   n next, N before, Esc forgets",
    };
    let after = canvas.text(x, area.y, area.right() - x, &found, Style::new());
    canvas.text(after, area.y, area.right() - after, keys, canvas.dim());
    search.typing.then_some(x.min(area.right() - 1))
}

#[cfg(test)]
mod tests;
