//! `files`: the tree that an image shows.

use std::io::{self, Write};

use strata::inspect::{FileRow, FileType, FilesReport, SourceRow, escaped};

use super::screen::{Screen, right};
use super::{blamed, contents, head};
use crate::cli::error::CliError;
use crate::cli::output::{Format, human_size, print_json, print_with};
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
            report.files.retain(|path| below(&top, path) <= depth);
        }
        let screen = Screen::of_stdout();
        match self.format {
            Format::Json => print_json(&report),
            Format::Table if self.tree => print_with(|out| tree(&report, &screen, out)),
            Format::Table => print_with(|out| list(&report, &screen, out)),
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

fn list(report: &FilesReport<'_>, screen: &Screen, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", head(screen, &report.image))?;
    let owner = |row: &FileRow<'_>| format!("{}:{}", row.uid, row.gid);
    let size = |row: &FileRow<'_>| match (row.kind, row.device) {
        (FileType::File | FileType::HardLink, _) => human_size(row.size_bytes),
        (_, Some((major, minor))) => format!("{major},{minor}"),
        _ => "-".to_owned(),
    };
    let owners = report.files.iter().map(|r| owner(&r).len());
    let owners = owners.max().unwrap_or(0);
    let layers = report.layers.len().to_string().len();
    for row in report.files.iter() {
        writeln!(
            out,
            "{} {} {} {} {} {}{}",
            permissions(row.kind, row.mode.0),
            right(&owner(&row), owners),
            right(&size(&row), 6),
            time(row.mtime),
            right(&row.layer.to_string(), layers),
            painted(&row, &format!("/{}", escaped(row.path.bytes())), screen),
            tail(&row, screen),
        )?;
    }
    legend(report, screen, out)
}

fn tree(report: &FilesReport<'_>, screen: &Screen, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", head(screen, &report.image))?;
    let layers = report.layers.len().to_string().len();
    let files = &report.files;
    if files.is_empty() {
        return Ok(());
    }
    let top = files.path(0);
    let depth = |at: usize| below(top, files.path(at));
    // Whether the folder that a row is in goes on below it: known from the end.
    let mut goes_on = vec![false; files.len()];
    let mut open: Vec<bool> = Vec::new();
    for at in (0..files.len()).rev() {
        open.resize(depth(at) + 1, false);
        goes_on[at] = std::mem::replace(&mut open[depth(at)], true);
    }
    // The same of the folders above the current row.
    let mut above: Vec<bool> = Vec::new();
    for (at, row) in files.iter().enumerate() {
        let depth = depth(at);
        above.resize(depth, false);
        let mut guides = String::new();
        for more in above.iter().skip(1) {
            guides.push_str(if *more { "│  " } else { "   " });
        }
        if depth > 0 {
            guides.push_str(if goes_on[at] { "├─ " } else { "└─ " });
        }
        above.push(goes_on[at]);
        let path = row.path.bytes();
        let name = match depth {
            0 => format!("/{}", escaped(path)),
            _ => escaped(path.rsplit(|c| *c == b'/').next().unwrap_or_default()),
        };
        let size = row.tree_bytes.unwrap_or(row.size_bytes);
        writeln!(
            out,
            "{} {} {}{}{}",
            right(&human_size(size), 6),
            right(&row.layer.to_string(), layers),
            screen.dim(&guides),
            painted(&row, &name, screen),
            tail(&row, screen),
        )?;
    }
    legend(report, screen, out)
}

/// What made the layers that are in the list.
fn legend(report: &FilesReport<'_>, screen: &Screen, out: &mut dyn Write) -> io::Result<()> {
    let width = report.layers.len().to_string().len();
    writeln!(out)?;
    for layer in &report.layers {
        if report.files.has_layer(layer.layer) {
            let number = right(&layer.layer.to_string(), width);
            let made = escaped(blamed(layer).as_bytes());
            let made = screen.dim(&screen.fit(&made, width + 2));
            writeln!(out, "{number}  {made}")?;
        }
    }
    Ok(())
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
