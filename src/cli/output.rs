//! Results on standard output: tables as docker prints them, JSON, and the units people read.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::error::{CliError, Doing as _};

/// How a listing is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// How much of a long result is written at once: enough that a system call is nothing beside making it.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes a result; a closed pipe is [`CliError::Stdout`], which ends the command without a word.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())
        .and_then(|()| out.flush())
        .map_err(CliError::Stdout)
}

/// Writes a long result as it comes.
pub(crate) fn print_with(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CliError> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(CliError::Stdout)
}

/// Writes a line.
pub(crate) fn print_line(text: &str) -> Result<(), CliError> {
    print(format!("{text}\n"))
}

/// Writes a value as indented JSON.
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), CliError> {
    let mut failed = None;
    print_with(|out| match serde_json::to_writer_pretty(&mut *out, value) {
        Ok(()) => writeln!(out),
        Err(e) if e.is_io() => Err(e.into()),
        Err(e) => {
            failed = Some(e);
            Ok(())
        }
    })?;
    match failed {
        Some(e) => Err(CliError::Cannot {
            doing: "write JSON".to_owned(),
            source: e.into(),
        }),
        None => Ok(()),
    }
}

/// Writes a document that was asked for by its file, whole or not at all; `-` is standard output.
pub(crate) fn write_document(path: &Path, text: impl AsRef<[u8]>) -> Result<(), CliError> {
    if path == Path::new("-") {
        return print(text);
    }
    let doing = || format!("write {}", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    // Readable by others like any file that a command writes.
    let mut temp = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .doing(doing)?;
    temp.write_all(text.as_ref()).doing(doing)?;
    temp.persist(path).doing(doing)?;
    Ok(())
}

/// Says something on standard error that is no result. Nobody can be told of a failure there, so it is let go.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table: columns are as wide as their widest cell and three blanks apart; the last is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Table {
        Table {
            rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    /// Adds a row, as many cells as headings.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, a line each row.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(column));
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes in decimal units with three significant digits, as docker shows them: `1.23MB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(
        clippy::cast_precision_loss,
        reason = "three digits are shown; a double has fifteen"
    )]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000 with three digits: it belongs to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let mut number = format!("{value:.decimals$}");
    if number.contains('.') {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{}", UNITS[unit])
}

/// A span of time in docker's words: `3 weeks`, `About an hour`.
pub(crate) fn human_age(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds.saturating_add(1800) / 3600);
    let days = hours / 24;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 60 => format!("{} weeks", days / 7),
        () if days < 730 => format!("{} months", days / 30),
        () => format!("{} years", days / 365),
    }
}

/// How long ago an RFC 3339 time was; `N/A` where there is none or it cannot be read.
pub(crate) fn human_created(created: Option<&str>, now: SystemTime) -> String {
    let parsed = created.and_then(|c| c.parse::<jiff::Timestamp>().ok());
    let Some(then) = parsed else {
        return "N/A".to_owned();
    };
    let age = now
        .duration_since(SystemTime::from(then))
        .map_or(0, |d| d.as_secs());
    format!("{} ago", human_age(age))
}

/// At most `width` characters, the last an ellipsis where something was cut.
pub(crate) fn truncate(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345, "12.3kB"),
            (123_456, "123kB"),
            (999_600, "1MB"),
            (1_020_000, "1.02MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(human_size(bytes), want);
        }
    }

    #[test]
    fn ages() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human_age(seconds), want);
        }
    }

    #[test]
    fn created_times() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86400 * 3);
        assert_eq!(
            human_created(Some("1970-01-01T00:00:00Z"), now),
            "3 days ago"
        );
        assert_eq!(human_created(Some("soon"), now), "N/A");
        assert_eq!(human_created(None, now), "N/A");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["REPOSITORY", "TAG", "SIZE"]);
        table.row(vec!["app".into(), "latest".into(), "1MB".into()]);
        table.row(vec!["a/longer/name".into(), "1".into(), "12B".into()]);
        insta::assert_snapshot!(table.render(), @r"
        REPOSITORY      TAG      SIZE
        app             latest   1MB
        a/longer/name   1        12B
        ");
    }

    #[test]
    fn cut_text_ends_with_an_ellipsis() {
        assert_eq!(truncate("abcdef", 4), "abc…");
        assert_eq!(truncate("abcd", 4), "abcd");
    }
}
