//! `files`: the tree that an image shows.

use std::fmt::Write as _;

use strata::inspect::{FileRow, FileType, FilesReport, SourceRow, escaped};

use super::screen::{Screen, right};
use super::{blamed, contents, head};
use crate::cli::error::CliError;
use crate::cli::output::{Format, human_size, print, print_json};
use crate::cli::session::Session;

/// Show the files of an image, and which layer, instruction and source each came from
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata files app                         as ls -lR would
  strata files app /usr/share/app          a file or a folder of it
  strata files --tree --depth 2 app        folders with what is in them, the sizes added up
  strata files --format json app | jq '.files[] | select(.size_bytes > 1e8) | .path'

L is the layer that the path comes from; the list below says what made it. Where COPY or ADD made it in this store, <- says
from which path.")]
pub(crate) struct FilesArgs {
    /// A name or ID in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only this path and what is below it
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Show a tree, with the sizes of folders
    #[arg(long)]
    tree: bool,
    /// How many folders deep
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// How the list is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// A path as users write it, as tables of contents have it.
pub(super) fn clean(path: &str) -> Vec<u8> {
    let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
    parts.collect::<Vec<_>>().join("/").into_bytes()
}

impl FilesArgs {
    /// Runs `files`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let contents = contents(session, &self.image, self.platform.as_deref())?;
        let top = self.path.as_deref().map(clean).unwrap_or_default();
        let mut report = FilesReport::new(&contents, &top);
        if report.files.is_empty() && !top.is_empty() {
            return Err(CliError::Refused(format!(
                "{} has no file /{}",
                report.image.name,
                escaped(&top)
            )));
        }
        if let Some(depth) = self.depth {
            report
                .files
                .retain(|row| below(&top, row.path.bytes()) <= depth);
        }
        let screen = Screen::of_stdout();
        match self.format {
            Format::Json => print_json(&report),
            Format::Table if self.tree => print(tree(&report, &screen)),
            Format::Table => print(list(&report, &screen)),
        }
    }
}

/// How many folders below `top` a path is.
fn below(top: &[u8], path: &[u8]) -> usize {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.split(|c| *c == b'/').filter(|p| !p.is_empty()).count()
}

/// `drwxr-xr-x`.
pub(crate) fn permissions(kind: FileType, mode: u32) -> String {
    let mut text = String::from(match kind {
        FileType::File | FileType::HardLink => "-",
        FileType::Directory => "d",
        FileType::Symlink => "l",
        FileType::CharDevice => "c",
        FileType::BlockDevice => "b",
        FileType::Fifo => "p",
        FileType::Whiteout => "w",
    });
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub(super) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "?".to_owned(),
        |t| t.strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// What a path was copied from.
pub(super) fn source_text(source: &SourceRow<'_>) -> String {
    let path = escaped(source.path.as_bytes());
    match (source.origin, source.name) {
        ("context", _) => format!(" <- {path}"),
        ("inline", _) => format!(" <- here-document {path}"),
        ("stage", Some(name)) => format!(" <- {}:/{path}", escaped(name.as_bytes())),
        (_, Some(name)) => format!(" <- {}:{path}", escaped(name.as_bytes())),
        (_, None) => format!(" <- {path}"),
    }
}

/// The path's last words: where a link leads, what it was copied from.
fn tail(row: &FileRow<'_>, screen: &Screen) -> String {
    let mut text = String::new();
    if let Some(target) = row.target {
        let arrow = if row.kind == FileType::HardLink {
            " = /"
        } else {
            " -> "
        };
        text.push_str(arrow);
        text.push_str(&escaped(target.bytes()));
    }
    if let Some(source) = &row.source {
        text.push_str(&screen.dim(&source_text(source)));
    }
    text
}

fn painted(row: &FileRow<'_>, name: &str, screen: &Screen) -> String {
    match row.kind {
        FileType::Directory => screen.blue(name),
        FileType::File | FileType::HardLink if row.mode.0 & 0o111 != 0 => screen.green(name),
        _ => name.to_owned(),
    }
}

fn list(report: &FilesReport<'_>, screen: &Screen) -> String {
    let mut text = head(screen, &report.image);
    text.push('\n');
    let owner = |row: &FileRow<'_>| format!("{}:{}", row.uid, row.gid);
    let size = |row: &FileRow<'_>| match (row.kind, row.device) {
        (FileType::File | FileType::HardLink, _) => human_size(row.size_bytes),
        (_, Some((major, minor))) => format!("{major},{minor}"),
        _ => "-".to_owned(),
    };
    let owners = report
        .files
        .iter()
        .map(|r| owner(r).len())
        .max()
        .unwrap_or(0);
    let layers = report.layers.len().to_string().len();
    for row in &report.files {
        // A String takes any text.
        let _ = writeln!(
            text,
            "{} {} {} {} {} {}{}",
            permissions(row.kind, row.mode.0),
            right(&owner(row), owners),
            right(&size(row), 6),
            time(row.mtime),
            right(&row.layer.to_string(), layers),
            painted(row, &format!("/{}", escaped(row.path.bytes())), screen),
            tail(row, screen),
        );
    }
    legend(&mut text, report, screen);
    text
}

fn tree(report: &FilesReport<'_>, screen: &Screen) -> String {
    let mut text = head(screen, &report.image);
    text.push('\n');
    let layers = report.layers.len().to_string().len();
    let Some(top) = report.files.first() else {
        return text;
    };
    let depths: Vec<usize> = report
        .files
        .iter()
        .map(|row| below(top.path.bytes(), row.path.bytes()))
        .collect();
    // From the end, so that each line knows which of the folders above it go on below it.
    let mut open: Vec<bool> = Vec::new();
    let mut lines = Vec::with_capacity(report.files.len());
    for (row, depth) in report.files.iter().zip(&depths).rev() {
        let mut guides = String::new();
        for level in 1..*depth {
            guides.push_str(if open.get(level).copied().unwrap_or(false) {
                "│  "
            } else {
                "   "
            });
        }
        if *depth > 0 {
            let more = open.get(*depth).copied().unwrap_or(false);
            guides.push_str(if more { "├─ " } else { "└─ " });
        }
        open.resize(*depth + 1, false);
        open[*depth] = true;
        let path = row.path.bytes();
        let name = match *depth {
            0 => format!("/{}", escaped(path)),
            _ => escaped(path.rsplit(|c| *c == b'/').next().unwrap_or_default()),
        };
        let size = row.tree_bytes.unwrap_or(row.size_bytes);
        lines.push(format!(
            "{} {} {}{}{}\n",
            right(&human_size(size), 6),
            right(&row.layer.to_string(), layers),
            screen.dim(&guides),
            painted(row, &name, screen),
            tail(row, screen),
        ));
    }
    lines.iter().rev().for_each(|line| text.push_str(line));
    legend(&mut text, report, screen);
    text
}

/// What made the layers that are in the list.
fn legend(text: &mut String, report: &FilesReport<'_>, screen: &Screen) {
    let width = report.layers.len().to_string().len();
    text.push('\n');
    for layer in &report.layers {
        if report.files.iter().any(|row| row.layer == layer.layer) {
            let number = right(&layer.layer.to_string(), width);
            let made = escaped(blamed(layer).as_bytes());
            let _ = writeln!(
                text,
                "{number}  {}",
                screen.dim(&screen.fit(&made, width + 2))
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_as_ls_shows_them() {
        for (kind, mode, want) in [
            (FileType::File, 0o644, "-rw-r--r--"),
            (FileType::File, 0o4755, "-rwsr-xr-x"),
            (FileType::File, 0o2644, "-rw-r-Sr--"),
            (FileType::Directory, 0o1777, "drwxrwxrwt"),
            (FileType::Directory, 0o1776, "drwxrwxrwT"),
            (FileType::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(permissions(kind, mode), want);
        }
    }

    #[test]
    fn paths_as_tables_have_them() {
        for (path, want) in [("/", ""), ("/usr//lib/", "usr/lib"), ("./a", "a"), ("", "")] {
            assert_eq!(clean(path), want.as_bytes());
        }
    }
}
