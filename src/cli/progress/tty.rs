//! A live view: finished steps scroll away, what runs stays at the bottom with the end of its output.

use std::io;
use std::time::Duration;

use super::steps::{Change, State, Step, Steps};
use crate::cli::output::human_size;

/// How many lines of a running step's output are shown (BuildKit's BUILDKIT_TTY_LOG_LINES).
const LOG_LINES: usize = 6;

/// A terminal's width and height in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// The size of the terminal on standard error now; 80 by 24 where it does not say.
pub(crate) fn size() -> Size {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let or = |value: Option<u16>, fallback: usize| match value {
        None | Some(0) => fallback,
        Some(v) => usize::from(v),
    };
    Size {
        columns: or(size.map(|s| s.ws_col), 80),
        rows: or(size.map(|s| s.ws_row), 24),
    }
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Plain,
    Done,
    Failed,
    Dim,
    /// Nothing of it is cut off: the terminal breaks it where it must. Only for what scrolls away.
    Whole,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain | Style::Whole => "",
            Style::Done => "\x1b[36m",
            Style::Failed => "\x1b[31m",
            Style::Dim => "\x1b[2m",
        }
    }
}

struct Styled {
    text: String,
    style: Style,
}

/// The terminal view.
pub(crate) struct Tty {
    /// What the summary calls the work: `Building`.
    doing: &'static str,
    colours: bool,
    /// Lines that will scroll away with the next frame.
    permanent: Vec<Styled>,
    /// The widths of the lines of the last frame, which the next one overwrites.
    drawn: Vec<usize>,
}

impl Tty {
    /// An empty view.
    pub(crate) fn new(doing: &'static str, colours: bool) -> Tty {
        Tty {
            doing,
            colours,
            permanent: Vec::new(),
            drawn: Vec::new(),
        }
    }

    /// Takes note of `change`; whether it should be seen at once.
    pub(crate) fn change(&mut self, steps: &Steps, change: &Change) -> bool {
        match change {
            Change::Ended(id, _) => match steps.get(*id) {
                Some(step) => {
                    let style = match step.state {
                        State::Failed(_) | State::Canceled => Style::Failed,
                        _ => Style::Done,
                    };
                    self.permanent.push(Styled {
                        text: headline(step, step.ended.unwrap_or_default()),
                        style,
                    });
                    for reason in step.why.iter().flat_map(|why| &why.reasons) {
                        self.permanent.push(Styled {
                            text: printable(format!(" => => not cached: {reason}").as_bytes()),
                            style: Style::Whole,
                        });
                    }
                    true
                }
                None => false,
            },
            Change::Notice(text) => {
                self.permanent.push(Styled {
                    text: format!(" note: {}", printable(text.as_bytes())),
                    style: Style::Plain,
                });
                true
            }
            // The next tick shows them.
            Change::Started(_)
            | Change::Lines(..)
            | Change::Part(..)
            | Change::NotCached(_)
            | Change::Nothing => false,
        }
    }

    /// The bytes that turn the last frame into this one.
    pub(crate) fn draw(&mut self, at: Duration, steps: &Steps, size: Size) -> Vec<u8> {
        let live = live(self.doing, at, steps, size);
        self.paint(live, size)
    }

    /// The last frame: everything has scrolled, and the summary stays.
    pub(crate) fn end(&mut self, at: Duration, steps: &Steps) -> Vec<u8> {
        let (ended, all) = steps.counts();
        if all > 0 {
            let word = if steps.failed().is_some() {
                "FAILED"
            } else {
                "FINISHED"
            };
            let seconds = at.as_secs_f64();
            self.permanent.push(Styled {
                text: format!("[+] {} {seconds:.1}s ({ended}/{all}) {word}", self.doing),
                style: Style::Plain,
            });
        }
        self.paint(Vec::new(), size())
    }

    fn paint(&mut self, live: Vec<Styled>, size: Size) -> Vec<u8> {
        let mut out = String::new();
        // After a resize the terminal has wrapped the old lines anew: count the rows they take at today's width.
        let rows: usize = self
            .drawn
            .iter()
            .map(|w| w.div_ceil(size.columns).max(1))
            .sum();
        if rows > 0 {
            out.push_str(&format!("\x1b[{rows}A"));
        }
        out.push('\r');
        let permanent = std::mem::take(&mut self.permanent);
        self.drawn.clear();
        for (line, stays) in permanent
            .into_iter()
            .map(|l| (l, false))
            .chain(live.into_iter().map(|l| (l, true)))
        {
            let (text, width) = match line.style {
                Style::Whole => (line.text, 0),
                _ => fit(&line.text, size.columns),
            };
            let code = if self.colours { line.style.code() } else { "" };
            out.push_str(code);
            out.push_str(&text);
            if !code.is_empty() {
                out.push_str("\x1b[0m");
            }
            // Clearing after the text, not before it, is what keeps the frame from flickering.
            out.push_str("\x1b[K\n");
            if stays {
                self.drawn.push(width);
            }
        }
        out.push_str("\x1b[J");
        out.into_bytes()
    }
}

/// The lines at the bottom: what runs, the end of its output, and a summary.
fn live(doing: &str, at: Duration, steps: &Steps, size: Size) -> Vec<Styled> {
    let running = steps.running();
    let (ended, all) = steps.counts();
    // One row for the summary and one below it for the cursor: a frame higher than the screen could not be overwritten.
    let mut room = size.rows.saturating_sub(2);
    let mut lines = Vec::new();
    for (index, step) in running.iter().enumerate() {
        if room == 0 {
            break;
        }
        let mut headline = headline(step, at);
        if let Some(transfer) = transfer(step) {
            headline = insert_before_time(&headline, &transfer);
        }
        lines.push(Styled {
            text: headline,
            style: Style::Plain,
        });
        room -= 1;
        // Every other step that runs keeps its own line.
        let others = running.len() - index - 1;
        let log = step
            .tail
            .len()
            .min(LOG_LINES)
            .min(room.saturating_sub(others));
        for line in step.tail.iter().skip(step.tail.len() - log) {
            lines.push(Styled {
                text: format!(" => => # {}", printable(&line.bytes)),
                style: Style::Dim,
            });
        }
        room -= log;
    }
    if all > 0 {
        let seconds = at.as_secs_f64();
        lines.push(Styled {
            text: format!("[+] {doing} {seconds:.1}s ({ended}/{all})"),
            style: Style::Plain,
        });
    }
    lines
}

/// Separates a line's text from what stands at its right edge.
const RIGHT: char = '\u{1f}';

fn headline(step: &Step, at: Duration) -> String {
    let word = match step.state {
        State::Cached => "CACHED ",
        State::Failed(_) => "ERROR ",
        State::Canceled => "CANCELED ",
        State::Running | State::Done => "",
    };
    let seconds = step.duration(at).as_secs_f64();
    format!(
        " => {word}{}{RIGHT}{seconds:.1}s",
        printable(step.name.as_bytes())
    )
}

fn insert_before_time(headline: &str, text: &str) -> String {
    match headline.split_once(RIGHT) {
        Some((left, right)) => format!("{left}{RIGHT}{text}  {right}"),
        None => headline.to_owned(),
    }
}

/// The sum of a step's transfers, if it has any under way.
fn transfer(step: &Step) -> Option<String> {
    if step.parts.is_empty() {
        return None;
    }
    let done = step.parts.values().map(|(d, _)| d).sum();
    let total: Option<u64> = step.parts.values().map(|(_, t)| *t).sum();
    Some(match total {
        Some(total) => format!("{} / {}", human_size(done), human_size(total)),
        None => human_size(done),
    })
}

/// Text that moves no cursor: what is after the last carriage return, without escape sequences and control characters.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let last = text.rsplit('\r').find(|t| !t.is_empty()).unwrap_or("");
    let mut out = String::with_capacity(last.len());
    let mut chars = last.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // CSI: parameters, then a letter.
                Some('[') => {
                    chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
                // OSC: text, then BEL or ESC \.
                Some(']') => {
                    chars.by_ref().find(|c| matches!(c, '\x07' | '\x1b'));
                    chars.next_if_eq(&'\\');
                }
                _ => {}
            },
            '\t' => out.push_str("    "),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// How many columns a character takes: two for East Asian wide ones and emoji.
fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text within `columns`, its right part at the edge, and its width. The last column stays free: a terminal may wrap there.
fn fit(text: &str, columns: usize) -> (String, usize) {
    let limit = columns.saturating_sub(1);
    let (left, right) = text.split_once(RIGHT).unwrap_or((text, ""));
    let width = |t: &str| t.chars().map(char_width).sum::<usize>();
    let right_width = width(right);
    let room = limit.saturating_sub(if right.is_empty() { 0 } else { right_width + 1 });
    let mut out = String::new();
    let mut used = 0;
    let cut = width(left) > room;
    for c in left.chars() {
        let w = char_width(c);
        if used + w + usize::from(cut) > room {
            break;
        }
        out.push(c);
        used += w;
    }
    if cut && used < room {
        out.push('…');
        used += 1;
    }
    if !right.is_empty() && right_width < limit {
        out.extend(std::iter::repeat_n(' ', limit - right_width - used));
        out.push_str(right);
        used = limit;
    }
    (out, used)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use strata::build::{EventKind, Explanation, InputChange, Reason, StepId};

    use super::*;

    const SIZE: Size = Size {
        columns: 40,
        rows: 24,
    };

    fn start(steps: &mut Steps, tty: &mut Tty, id: usize, name: &str) {
        let change = steps.apply(
            Duration::ZERO,
            &EventKind::Started {
                step: StepId(id),
                name: name.to_owned(),
            },
        );
        tty.change(steps, &change);
    }

    fn visible(bytes: &[u8]) -> String {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines()
            .map(|l| printable(l.as_bytes()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn finished_steps_scroll_and_running_ones_stay() {
        let (mut steps, mut tty) = (Steps::default(), Tty::new("Building", false));
        start(&mut steps, &mut tty, 0, "[1/3] FROM busybox");
        start(
            &mut steps,
            &mut tty,
            1,
            "[2/3] RUN something that is far too long",
        );
        let change = steps.apply(
            Duration::from_millis(400),
            &EventKind::Finished {
                step: StepId(0),
                cached: true,
            },
        );
        assert!(tty.change(&steps, &change));
        steps.apply(
            Duration::from_millis(900),
            &EventKind::Output {
                step: StepId(1),
                stderr: false,
                data: b"\x1b[31mred\x1b[0m\n10%\r20%\n".to_vec(),
            },
        );
        let frame = tty.draw(Duration::from_secs(1), &steps, SIZE);
        insta::assert_snapshot!(visible(&frame), @r"
        => CACHED [1/3] FROM busybox      0.4s
        => [2/3] RUN something that is f… 1.0s
        => => # red
        => => # 20%
       [+] Building 1.0s (1/2)
        ");
        // The next frame goes back over the four live lines and leaves the one that scrolled.
        let next = tty.draw(Duration::from_secs(2), &steps, SIZE);
        assert!(next.starts_with(b"\x1b[4A\r"));
    }

    #[test]
    fn reasons_scroll_with_their_step_and_are_whole() {
        let (mut steps, mut tty) = (Steps::default(), Tty::new("Building", false));
        start(&mut steps, &mut tty, 0, "[1/1] COPY src /src");
        let at = Duration::from_millis(400);
        let path = "src/a/path/that/is/longer/than/the/terminal/is/wide".to_owned();
        let step = StepId(0);
        let file = Reason::File {
            path,
            from: None,
            change: InputChange::Changed,
            what: vec!["content".to_owned()],
        };
        let why = Arc::new(Explanation {
            step: "[1/1] COPY src /src".to_owned(),
            reasons: vec![file, Reason::MoreFiles { count: 2 }],
        });
        let change = steps.apply(at, &EventKind::NotCached { step, why });
        assert!(!tty.change(&steps, &change), "seen when the step ends");
        let cached = false;
        let change = steps.apply(at, &EventKind::Finished { step, cached });
        assert!(tty.change(&steps, &change));
        let frame = tty.draw(Duration::from_secs(1), &steps, SIZE);
        insta::assert_snapshot!(visible(&frame), @r"
        => [1/1] COPY src /src            0.4s
        => => not cached: src/a/path/that/is/longer/than/the/terminal/is/wide changed: content
        => => not cached: 2 more files
       [+] Building 1.0s (1/1)
        ");
    }

    #[test]
    fn a_narrower_terminal_has_wrapped_the_old_frame() {
        let (mut steps, mut tty) = (Steps::default(), Tty::new("Building", false));
        start(&mut steps, &mut tty, 0, "a");
        tty.draw(Duration::ZERO, &steps, SIZE);
        let narrow = Size {
            columns: 20,
            rows: 24,
        };
        // 39 columns take two rows of 20, and the summary of 23 takes two.
        assert!(
            tty.draw(Duration::ZERO, &steps, narrow)
                .starts_with(b"\x1b[4A")
        );
    }

    #[test]
    fn a_frame_is_never_higher_than_the_screen() {
        let (mut steps, mut tty) = (Steps::default(), Tty::new("Building", true));
        for id in 0..50 {
            start(&mut steps, &mut tty, id, "step");
        }
        for rows in [1, 2, 3, 10] {
            let lines = live(
                "Building",
                Duration::ZERO,
                &steps,
                Size { columns: 10, rows },
            );
            assert!(lines.len() <= rows.max(2), "{rows}: {}", lines.len());
        }
    }

    #[test]
    fn lines_fit() {
        for (text, columns) in [
            ("short", 80),
            ("a long line that must be cut", 10),
            ("left\u{1f}1.0s", 20),
            ("left\u{1f}1.0s", 3),
            ("wide 日本語日本語日本語\u{1f}1.0s", 16),
            ("", 1),
            ("x", 0),
        ] {
            let (fitted, width) = fit(text, columns);
            let real: usize = fitted.chars().map(char_width).sum();
            assert_eq!(real, width, "{text}");
            assert!(width <= columns.saturating_sub(1), "{text}: {fitted:?}");
        }
    }

    #[test]
    fn nothing_moves_the_cursor() {
        for (bytes, want) in [
            (&b"plain"[..], "plain"),
            (b"\x1b[2J\x1b[1;1Hx", "x"),
            (b"\x1b]0;title\x07x", "x"),
            (b"\x1b]0;title\x1b\\x", "x"),
            (b"a\tb\x07\x08", "a    b"),
            (b"1%\r2%\r", "2%"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"\x1b", ""),
        ] {
            assert_eq!(printable(bytes), want, "{bytes:?}");
        }
    }
}
