//! `layers`: an image, layer by layer.

use std::fmt::Write as _;
use std::path::PathBuf;

use strata::inspect::{ChangeKind, ChangeRow, FileType, LayerRow, LayersReport, escaped};

use super::gate::GateArgs;
use super::screen::{Screen, right};
use super::{blamed, head, opened};
use crate::cli::error::CliError;
use crate::cli::output::{Format, human_size, print, print_json};
use crate::cli::page;
use crate::cli::session::Session;

/// Show an image layer by layer: what made each, its sizes, what it changes, what it wastes
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata layers app
  strata layers --files app | less
  strata layers --html app.html app       a page with a map of it, to look at in a browser
  strata layers docker://docker.io/library/debian:bookworm       without pulling it
  strata layers --format json app | jq '.layers[] | select(.wasted_bytes > 1e6)'
  strata layers --fail-on 'wasted>10%,size>500MB,setuid own,secret-like' app
  strata layers --fail-on @image.rules --junit junit.xml --sarif strata.sarif app

UNPACKED is the sum of the layer's files. WASTED is what of it the image does not show, because a later layer overwrites or
deletes it. An image that is not in the store is read once, layer by layer; nothing of it is kept but tables of contents, in
the store if there is one.

Rules of --fail-on are NAME [BOUND] [own] [except PATH...], separated by commas
or line ends; # begins a comment:
  wasted>50MB       bytes that the image does not show
  wasted>10%        the same, of all bytes
  efficiency<95%    the part that it shows
  size>500MB        the image unpacked: the files of all layers
  compressed>200MB  what is pushed: the blobs of all layers
  layers>20         the number of layers
  layer>300MB       one layer unpacked
  file>100MB        a file of any layer, also if a later one deletes it
  setuid            setuid and setgid files
  capability        files with capabilities
  world-writable    files, and directories without the sticky bit
  root-user         USER is not set, 0 or root
  secret-like       files of any layer that look like credentials
own judges only the layers that the Dockerfile made; except leaves out paths:
setuid own except /usr/bin/su **/sudo. > may be >=, and < may be <=. MB are
1000000 bytes, as in reports, MiB 1048576. A broken rule exits with 3.")]
pub(crate) struct LayersArgs {
    /// A name or ID in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// List what each layer adds (+), changes (~) and removes (-)
    #[arg(long)]
    files: bool,
    /// How the list is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Write a page to look at in a browser instead: a map of sizes, layers, all files; - for standard output
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    html: Option<PathBuf>,
    #[command(flatten)]
    gate: GateArgs,
}

impl LayersArgs {
    /// Runs `layers`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let gate = self.gate.gate(self.format, self.html.as_deref())?;
        let platform = self.platform.as_deref();
        let (contents, source) = opened(session, &self.image, platform)?;
        let mut report = LayersReport::new(&contents, self.files);
        if let Some(gate) = &gate {
            let asked = (self.image.as_str(), platform);
            let verdict = gate.judge(session, &contents, source.as_ref(), &report, asked)?;
            report.gate = Some(verdict);
        }
        if let Some(path) = &self.html {
            let command = format!("strata layers {}", self.image);
            page::layers(&contents, &command).write(path)?;
        } else if !self.gate.takes_stdout() {
            match self.format {
                Format::Json => print_json(&report)?,
                Format::Table => print(render(&report, &Screen::of_stdout()))?,
            }
        }
        match (&gate, &report.gate) {
            (Some(gate), Some(verdict)) => gate.tell(&contents, &report, verdict),
            _ => Ok(()),
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0%".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// The report in at most 80 columns: two lines for each layer.
fn render(report: &LayersReport<'_>, screen: &Screen) -> String {
    let totals = &report.totals;
    let mut text = head(screen, &report.image);
    let wasted = format!(
        "{} wasted ({})",
        human_size(totals.wasted_bytes),
        percent(totals.wasted_bytes, totals.unpacked_bytes)
    );
    let wasted = match totals.wasted_bytes {
        0 => "nothing wasted".to_owned(),
        _ => screen.red(&wasted),
    };
    let layers = match report.layers.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    // A String takes any text.
    let _ = writeln!(
        text,
        "{layers}: {} compressed, {} unpacked in {} files, {wasted}\n",
        human_size(totals.size_bytes),
        human_size(totals.unpacked_bytes),
        totals.files,
    );
    if report.layers.is_empty() {
        return text;
    }
    let heading = " #  DIGEST        DIFFID          SIZE  UNPACKED  ADDED CHANGED REMOVED  WASTED";
    let _ = writeln!(text, "{}", screen.dim(heading));
    for row in &report.layers {
        let wasted = right(&human_size(row.wasted_bytes), 7);
        let _ = writeln!(
            text,
            "{}  {}  {}  {}  {}  {} {} {} {}",
            right(&row.blame.layer.to_string(), 2),
            row.digest.short(),
            row.diff_id.0.short(),
            right(&human_size(row.size_bytes), 6),
            right(&human_size(row.unpacked_bytes), 8),
            right(&row.added.to_string(), 5),
            right(&row.changed.to_string(), 7),
            right(&row.removed.to_string(), 7),
            if row.wasted_bytes > 0 {
                screen.red(&wasted)
            } else {
                wasted
            },
        );
        let blamed = escaped(blamed(&row.blame).as_bytes());
        let _ = writeln!(text, "    {}", screen.bold(&screen.fit(&blamed, 4)));
        if row.hidden_bytes > 0 {
            let hidden = format!("hides {} of the layers below", human_size(row.hidden_bytes));
            let _ = writeln!(text, "    {}", screen.yellow(&hidden));
        }
        files(&mut text, row, screen);
    }
    text
}

fn files(text: &mut String, row: &LayerRow<'_>, screen: &Screen) {
    for file in row.files.iter().flatten() {
        let _ = writeln!(text, "{}", file_line(file, screen));
    }
}

fn file_line(file: &ChangeRow<'_>, screen: &Screen) -> String {
    let mut name = format!("/{}", escaped(file.path.bytes()));
    if file.kind == FileType::Directory && name != "/" {
        name.push('/');
    }
    let size = match file.kind {
        FileType::File => human_size(file.size_bytes),
        _ => String::new(),
    };
    let line = format!("{}  {name}", right(&size, 7));
    let line = match file.change {
        ChangeKind::Added => screen.green(&format!("  + {line}")),
        ChangeKind::Changed => screen.yellow(&format!("  ~ {line}")),
        ChangeKind::Removed => screen.red(&format!("  - {line}")),
    };
    if file.wasted && file.size_bytes > 0 {
        format!("{line} {}", screen.red("(wasted)"))
    } else {
        line
    }
}
