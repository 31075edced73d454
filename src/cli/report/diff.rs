//! `diff`: what is other in one image than in another.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use strata::inspect::{ChangeKind, DiffReport, DiffRow, FileType, Side, escaped, folder};

use super::screen::{Screen, right};
use super::{blamed, contents};
use crate::cli::error::{CliError, Doing as _, exit};
use crate::cli::output::{Format, human_size, print_json, print_with};
use crate::cli::session::Session;

/// Compare two images, two layers, or an image and a folder: files and configuration
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata diff app:1 app:2
  strata diff app:1 docker://registry.example/app:1       is it what was pushed?
  strata diff 'app#3' 'app#4'                             two layers, by their numbers in strata layers
  strata diff app ./rootfs                                an image and a folder
  strata diff --exit-code app:1 app:2 > /dev/null || echo they differ

- is only in A, + only in B, ~ in both and different. Owners, attributes and times are not compared with a folder's; nor is the
time of directories at all.")]
pub(crate) struct DiffArgs {
    /// An image as for strata layers, IMAGE#N for one layer of it, or a folder (dir:PATH, or a path that begins with . or /)
    #[arg(value_name = "A")]
    a: String,
    /// What it is compared with
    #[arg(value_name = "B")]
    b: String,
    /// The platform, where an image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Exit with 1 if there is a difference
    #[arg(long)]
    exit_code: bool,
    /// How the result is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

impl DiffArgs {
    /// Runs `diff`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let (a, b) = (self.side(session, &self.a)?, self.side(session, &self.b)?);
        let report = DiffReport::new(&a, &b);
        match self.format {
            Format::Json => print_json(&report)?,
            Format::Table => print_with(|out| render(&report, &Screen::of_stdout(), out))?,
        }
        match self.exit_code && !report.is_same() {
            true => Err(CliError::Exit(exit::FAILED)),
            false => Ok(()),
        }
    }

    fn side(&self, session: &Session, text: &str) -> Result<Side, CliError> {
        let path = text
            .strip_prefix("dir:")
            .or_else(|| text.starts_with(['.', '/']).then_some(text));
        if let Some(path) = path {
            let toc = folder(Path::new(path)).doing(|| format!("compare {text}"))?;
            return Ok(Side::Folder(text.to_owned(), Arc::new(toc)));
        }
        let Some((image, number)) = text.rsplit_once('#') else {
            let contents = contents(session, text, self.platform.as_deref())?;
            return Ok(Side::Image(Box::new(contents)));
        };
        let Ok(number) = number.parse::<usize>() else {
            return Err(CliError::Usage(format!(
                "no layer {text:?}: expected IMAGE#N with N from 1"
            )));
        };
        let contents = contents(session, image, self.platform.as_deref())?;
        let count = contents.layers.len();
        if !(1..=count).contains(&number) {
            return Err(CliError::Refused(format!(
                "no layer {text:?}: {image} has {count}, counted from 1"
            )));
        }
        Ok(Side::Layer(Box::new(contents), number - 1))
    }
}

fn render(report: &DiffReport<'_>, screen: &Screen, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} {}", screen.red("- A"), report.a)?;
    writeln!(out, "{} {}", screen.green("+ B"), report.b)?;
    if report.is_same() {
        return writeln!(out, "\nno difference");
    }
    if !report.config.is_empty() {
        writeln!(out)?;
    }
    for change in &report.config {
        let said = |sign: &str, value: &serde_json::Value| {
            let said = escaped(format!("{sign} {} = {value}", change.field).as_bytes());
            screen.fit(&said, 0)
        };
        if !change.a.is_null() {
            writeln!(out, "{}", screen.red(&said("-", &change.a)))?;
        }
        if !change.b.is_null() {
            writeln!(out, "{}", screen.green(&said("+", &change.b)))?;
        }
    }
    if !report.files.is_empty() {
        writeln!(out)?;
    }
    for row in report.files.iter() {
        writeln!(out, "{}", line(&row, screen))?;
    }
    let totals = &report.totals;
    writeln!(
        out,
        "\n{} added, {} changed, {} removed; +{} -{}",
        totals.added,
        totals.changed,
        totals.removed,
        human_size(totals.added_bytes),
        human_size(totals.removed_bytes)
    )
}

fn line(row: &DiffRow<'_>, screen: &Screen) -> String {
    let size = |state: &Option<strata::inspect::DiffState<'_>>| {
        let file = state
            .as_ref()
            .filter(|s| matches!(s.state.kind, FileType::File | FileType::HardLink));
        file.map(|s| human_size(s.state.size_bytes))
            .unwrap_or_default()
    };
    let path = format!("/{}", escaped(row.path.bytes()));
    match row.change {
        ChangeKind::Added => screen.green(&format!("+ {}  {path}", right(&size(&row.b), 7))),
        ChangeKind::Removed => screen.red(&format!("- {}  {path}", right(&size(&row.a), 7))),
        ChangeKind::Changed => {
            let (was, now) = (size(&row.a), size(&row.b));
            let mut what = row.what.join(", ");
            if was != now && !was.is_empty() && !now.is_empty() {
                what.push_str(&format!(", {was} before"));
            }
            if let (Some(a), Some(b)) = (&row.a, &row.b)
                && row.what.contains(&"mode")
            {
                what.push_str(&format!(
                    ", {:04o} -> {:04o}",
                    a.state.mode.0, b.state.mode.0
                ));
            }
            let from = row.b.as_ref().and_then(|b| b.from.as_ref());
            let line = screen.yellow(&format!("~ {}  {path} ({what})", right(&now, 7)));
            match from {
                Some(from) if from.instruction.is_some() => {
                    let made = escaped(blamed(from).as_bytes());
                    format!(
                        "{line}\n             {}",
                        screen.dim(&screen.fit(&made, 13))
                    )
                }
                _ => line,
            }
        }
    }
}
