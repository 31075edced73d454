//! A page over the others: text, broken to its width, that can be scrolled.

use ratatui::text::Span;

/// Text over the panes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Card {
    /// What it is about.
    pub(super) title: String,
    text: String,
    lines: Vec<String>,
    top: usize,
    width: usize,
    height: usize,
}

impl Card {
    /// Of a text that has no controls but line ends.
    pub(super) fn new(title: String, text: String) -> Card {
        Card {
            title,
            text,
            lines: Vec::new(),
            top: 0,
            width: 0,
            height: 0,
        }
    }

    /// Says how many columns and rows it has.
    pub(super) fn fit(&mut self, width: usize, height: usize) {
        if self.width != width {
            let lines = self.text.lines();
            self.lines = lines.flat_map(|line| wrapped(line, width)).collect();
        }
        (self.width, self.height) = (width, height);
        self.scroll_to(self.top);
    }

    /// The lines that are seen.
    pub(super) fn seen(&self) -> &[String] {
        let end = (self.top + self.height).min(self.lines.len());
        &self.lines[self.top..end]
    }

    /// How many lines are below those that are seen.
    pub(super) fn below(&self) -> usize {
        self.lines.len().saturating_sub(self.top + self.height)
    }

    /// How many lines are seen at once.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// The first line that is seen.
    pub(super) fn top(&self) -> usize {
        self.top
    }

    /// Shows it from a line on, or as far as it goes.
    pub(super) fn scroll_to(&mut self, top: usize) {
        self.top = top.min(self.lines.len().saturating_sub(self.height));
    }
}

/// The columns that a text takes.
pub(super) fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// A line in pieces of so many columns, the second and later ones as far in as the first. It is broken at blanks, and in a word that
/// has no room on a line of its own.
pub(super) fn wrapped(line: &str, width: usize) -> Vec<String> {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let indent = if indent * 2 < width { indent } else { 0 };
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut taken = 0;
    let mut next_piece = |piece: &mut String, taken: &mut usize| {
        let lead = " ".repeat(indent);
        let done = std::mem::replace(piece, lead);
        pieces.push(done.trim_end().to_owned());
        *taken = indent;
    };
    for word in line.split_inclusive(' ') {
        let own = columns(word.trim_end());
        if taken + own > width && own <= width - indent.min(width) && taken > indent {
            next_piece(&mut piece, &mut taken);
        }
        for c in word.chars() {
            let own = columns(c.encode_utf8(&mut [0; 4]));
            if taken + own > width && taken > indent {
                next_piece(&mut piece, &mut taken);
                if c == ' ' {
                    continue;
                }
            }
            piece.push(c);
            taken += own;
        }
    }
    pieces.push(piece.trim_end().to_owned());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_blanks() {
        for (line, width, want) in [
            ("", 5, &[""][..]),
            ("short", 5, &["short"]),
            ("one two three", 7, &["one two", "three"]),
            ("one two three", 9, &["one two", "three"]),
            ("  one two three", 7, &["  one", "  two", "  three"]),
            ("abcdefghij", 4, &["abcd", "efgh", "ij"]),
            ("ab cdefghij", 4, &["ab c", "defg", "hij"]),
            ("日本語", 4, &["日本", "語"]),
            ("          deep", 8, &["", " deep"]),
            ("fits   ", 5, &["fits", ""]),
        ] {
            assert_eq!(wrapped(line, width), want, "{line:?} {width}");
        }
        // A width of nothing is no reason to stop.
        assert_eq!(wrapped("ab", 0).concat(), "ab");
    }

    #[test]
    fn it_scrolls_as_far_as_it_goes() {
        let mut card = Card::new("t".to_owned(), "1\n2\n3\n4\n5".to_owned());
        card.fit(10, 2);
        assert_eq!(
            (card.seen(), card.below()),
            (&["1", "2"].map(String::from)[..], 3)
        );
        card.scroll_to(99);
        assert_eq!((card.top(), card.below()), (3, 0));
        card.fit(10, 4);
        assert_eq!(card.top(), 1);
        card.fit(10, 9);
        assert_eq!((card.top(), card.seen().len()), (0, 5));
    }
}
