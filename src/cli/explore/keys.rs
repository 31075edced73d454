//! Which key does what: one table, which is the help page, too.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Pane};
use super::tree::{Mark, Span};

/// A key, with Ctrl or without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Plain(KeyCode),
    Ctrl(char),
}

const fn c(char: char) -> Key {
    Key::Plain(KeyCode::Char(char))
}

/// Keys that do one thing.
struct Binding {
    keys: &'static [Key],
    /// How the help page calls them.
    shown: &'static str,
    what: &'static str,
    /// Where; nothing is everywhere.
    pane: Option<Pane>,
    action: Action,
}

const fn everywhere(
    keys: &'static [Key],
    shown: &'static str,
    what: &'static str,
    action: Action,
) -> Binding {
    Binding {
        keys,
        shown,
        what,
        pane: None,
        action,
    }
}

const fn of(pane: Pane, binding: Binding) -> Binding {
    Binding {
        pane: Some(pane),
        ..binding
    }
}

/// All of them. A key of a pane comes before the same key of everywhere. Ctrl+M, dive's key for changed files, is Enter on a terminal.
const BINDINGS: &[Binding] = &[
    everywhere(
        &[Key::Plain(KeyCode::Tab), Key::Plain(KeyCode::BackTab)],
        "Tab",
        "to the other side",
        Action::SwitchPane,
    ),
    everywhere(&[Key::Plain(KeyCode::Up), c('k')], "↑ k", "up", Action::Up),
    everywhere(
        &[Key::Plain(KeyCode::Down), c('j')],
        "↓ j",
        "down",
        Action::Down,
    ),
    everywhere(
        &[Key::Plain(KeyCode::PageUp)],
        "PageUp",
        "a page up",
        Action::PageUp,
    ),
    everywhere(
        &[Key::Plain(KeyCode::PageDown)],
        "PageDown",
        "a page down",
        Action::PageDown,
    ),
    everywhere(
        &[Key::Plain(KeyCode::Home), c('g')],
        "Home g",
        "to the first",
        Action::First,
    ),
    everywhere(
        &[Key::Plain(KeyCode::End), c('G')],
        "End G",
        "to the last",
        Action::Last,
    ),
    everywhere(
        &[c('['), c('<')],
        "[",
        "the layer below",
        Action::LayerBelow,
    ),
    everywhere(
        &[c(']'), c('>')],
        "]",
        "the layer above",
        Action::LayerAbove,
    ),
    of(
        Pane::Tree,
        everywhere(
            &[Key::Plain(KeyCode::Right), c('l')],
            "→ l",
            "open the folder",
            Action::OpenFolder,
        ),
    ),
    of(
        Pane::Tree,
        everywhere(
            &[Key::Plain(KeyCode::Left), c('h')],
            "← h",
            "close the folder, or go to the one it is in",
            Action::CloseFolder,
        ),
    ),
    of(
        Pane::Tree,
        everywhere(&[c(' ')], "Space", "open or close the folder", Action::Fold),
    ),
    everywhere(
        &[Key::Ctrl(' '), c('z')],
        "Ctrl+Space z",
        "open or close all folders",
        Action::FoldAll,
    ),
    everywhere(
        &[Key::Plain(KeyCode::Enter)],
        "Enter",
        "a folder: open or close it; a file: why it is as it is; a layer: all about it",
        Action::Enter,
    ),
    everywhere(
        &[c('i')],
        "i",
        "why a path is as it is: layers, lines, times",
        Action::Info,
    ),
    everywhere(
        &[Key::Ctrl('l')],
        "Ctrl+L",
        "mark what this layer does",
        Action::Span(Span::One),
    ),
    of(
        Pane::Layers,
        everywhere(
            &[Key::Ctrl('a')],
            "Ctrl+A",
            "mark what all layers up to this one do",
            Action::Span(Span::UpTo),
        ),
    ),
    everywhere(
        &[c('c')],
        "c",
        "the one or the other of these two",
        Action::OtherSpan,
    ),
    everywhere(
        &[c('a'), Key::Ctrl('a')],
        "a Ctrl+A",
        "hide or show added files",
        Action::Filter(Mark::Added),
    ),
    everywhere(
        &[c('m')],
        "m",
        "… modified files (Ctrl+M is Enter)",
        Action::Filter(Mark::Changed),
    ),
    everywhere(
        &[c('r'), Key::Ctrl('r')],
        "r Ctrl+R",
        "… removed files",
        Action::Filter(Mark::Removed),
    ),
    everywhere(
        &[c('u'), Key::Ctrl('u')],
        "u Ctrl+U",
        "… unmodified files",
        Action::Filter(Mark::Same),
    ),
    everywhere(
        &[c('w'), Key::Ctrl('w')],
        "w Ctrl+W",
        "only what is wasted, or all",
        Action::OnlyWasted,
    ),
    everywhere(
        &[c('b'), Key::Ctrl('b')],
        "b Ctrl+B",
        "hide or show mode and owner",
        Action::Attributes,
    ),
    everywhere(
        &[c('s'), Key::Ctrl('o')],
        "s Ctrl+O",
        "sort by size, or by name",
        Action::Sort,
    ),
    everywhere(
        &[c('/'), Key::Ctrl('f')],
        "/ Ctrl+F",
        "search: part of a name, or * and ?; with / of a path",
        Action::Search,
    ),
    everywhere(&[c('n')], "n", "the next match", Action::NextMatch),
    everywhere(&[c('N')], "N", "the match before", Action::MatchBefore),
    everywhere(
        &[Key::Plain(KeyCode::Esc)],
        "Esc",
        "close this page; forget the search",
        Action::Back,
    ),
    everywhere(
        &[c('?'), Key::Plain(KeyCode::F(1))],
        "?",
        "this page",
        Action::Help,
    ),
    everywhere(
        &[Key::Ctrl('z')],
        "Ctrl+Z",
        "suspend; fg comes back",
        Action::Suspend,
    ),
    everywhere(&[c('q')], "q", "close this page; end", Action::Leave),
    everywhere(&[Key::Ctrl('c')], "Ctrl+C", "end", Action::Quit),
];

/// What marks mean, below the keys.
const MARKS: &str = "
Marks of paths
  +  added
  ~  changed: content, kind, mode, owner or target
  -  removed
  *  something in the folder is other than it was
  !  wasted: bytes in layers that the image does not show
";

/// Shift is in the character already.
fn key(event: &KeyEvent) -> Option<Key> {
    match (event.code, event.modifiers - KeyModifiers::SHIFT) {
        (code, KeyModifiers::NONE) => Some(Key::Plain(code)),
        (KeyCode::Char(c), KeyModifiers::CONTROL) => Some(Key::Ctrl(c.to_ascii_lowercase())),
        _ => None,
    }
}

/// What a key does in a pane.
pub(super) fn action(event: &KeyEvent, pane: Pane) -> Option<Action> {
    let key = key(event)?;
    let found = BINDINGS
        .iter()
        .find(|b| b.keys.contains(&key) && b.pane.is_none_or(|p| p == pane));
    found.map(|b| b.action)
}

/// What a key does while the search is typed.
pub(super) fn typed(event: &KeyEvent) -> Option<Action> {
    Some(match key(event)? {
        Key::Plain(KeyCode::Char(c)) => Action::Type(c),
        Key::Plain(KeyCode::Backspace) | Key::Ctrl('h') => Action::Erase,
        Key::Ctrl('u' | 'w') => Action::EraseAll,
        Key::Plain(KeyCode::Enter) => Action::Accept,
        Key::Plain(KeyCode::Down) | Key::Ctrl('n') => Action::NextMatch,
        Key::Plain(KeyCode::Up) | Key::Ctrl('p') => Action::MatchBefore,
        Key::Plain(KeyCode::Esc) => Action::Back,
        Key::Ctrl('c') => Action::Quit,
        Key::Ctrl('z') => Action::Suspend,
        _ => return None,
    })
}

/// The help page.
pub(super) fn help() -> String {
    let width = BINDINGS.iter().map(|b| b.shown.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for binding in BINDINGS {
        let place = match binding.pane {
            Some(Pane::Layers) => " (in the list of layers)",
            Some(Pane::Tree) | None => "",
        };
        text.push_str(&format!(
            "{:width$}  {}{place}\n",
            binding.shown, binding.what
        ));
    }
    text.push_str(MARKS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: Key) -> KeyEvent {
        match key {
            Key::Plain(code) => KeyEvent::new(code, KeyModifiers::NONE),
            Key::Ctrl(c) => KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL),
        }
    }

    #[test]
    fn every_key_of_the_table_does_what_it_says() {
        for binding in BINDINGS {
            for key in binding.keys {
                let panes = match binding.pane {
                    Some(pane) => vec![pane],
                    // Ctrl+A is what dive makes of it on each side.
                    None if *key == Key::Ctrl('a') => vec![Pane::Tree],
                    None => vec![Pane::Layers, Pane::Tree],
                };
                for pane in panes {
                    let found = action(&event(*key), pane);
                    assert_eq!(found, Some(binding.action), "{key:?} {pane:?}");
                }
            }
        }
    }

    #[test]
    fn keys_of_the_other_side_do_nothing_here() {
        assert_eq!(action(&event(c('l')), Pane::Layers), None);
        assert_eq!(action(&event(Key::Ctrl('x')), Pane::Tree), None);
        let alt = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT);
        assert_eq!(action(&alt, Pane::Tree), None);
        let shifted = KeyEvent::new(KeyCode::Char('N'), KeyModifiers::SHIFT);
        assert_eq!(action(&shifted, Pane::Tree), Some(Action::MatchBefore));
    }

    #[test]
    fn while_typing_letters_are_letters() {
        for (key, want) in [
            (c('q'), Some(Action::Type('q'))),
            (c('/'), Some(Action::Type('/'))),
            (Key::Ctrl('c'), Some(Action::Quit)),
            (Key::Plain(KeyCode::Esc), Some(Action::Back)),
            (Key::Plain(KeyCode::Tab), None),
        ] {
            assert_eq!(typed(&event(key)), want, "{key:?}");
        }
    }
}
