//! `why`: what the layers of an image did to one path.

use std::fmt::Write as _;

use strata::inspect::{ChangeKind, WhyReport, WhyStep, escaped};

use super::files::{clean, permissions, source_text, time};
use super::screen::Screen;
use super::{blamed, contents, head};
use crate::cli::error::{CliError, exit};
use crate::cli::output::{Format, human_size, print, print_json};
use crate::cli::session::Session;

/// Show why a path of an image is as it is: what each layer did to it
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata why app /etc/passwd
  strata why docker://docker.io/library/debian:bookworm /bin
  strata why --format json app /srv/data | jq -r '.steps[-1].instruction'

It exits with 1 if no layer has the path.")]
pub(crate) struct WhyArgs {
    /// A name or ID in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The path; a link in it is not followed
    #[arg(value_name = "PATH")]
    path: String,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// How the result is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

impl WhyArgs {
    /// Runs `why`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let contents = contents(session, &self.image, self.platform.as_deref())?;
        let path = clean(&self.path);
        let report = WhyReport::new(&contents, &path);
        match self.format {
            Format::Json => print_json(&report)?,
            Format::Table if report.steps.is_empty() => {
                return Err(CliError::Refused(format!(
                    "no layer of {} has a file /{}",
                    report.image.name,
                    escaped(&path)
                )));
            }
            Format::Table => print(render(&report, &Screen::of_stdout()))?,
        }
        match report.steps.is_empty() {
            true => Err(CliError::Exit(exit::FAILED)),
            false => Ok(()),
        }
    }
}

fn render(report: &WhyReport<'_>, screen: &Screen) -> String {
    let mut text = head(screen, &report.image);
    text.push('\n');
    text.push_str(&steps(report, screen));
    text
}

/// What was done to the path, without colours and with nothing cut off.
pub(crate) fn why_text(report: &WhyReport<'_>) -> String {
    steps(report, &Screen::PLAIN)
}

fn steps(report: &WhyReport<'_>, screen: &Screen) -> String {
    let mut text = String::new();
    let path = screen.bold(&format!("/{}", escaped(report.path.bytes())));
    let state = if report.present {
        String::new()
    } else {
        screen.red("  (not in the image)")
    };
    // A String takes any text.
    let _ = writeln!(text, "{path}{state}");
    for step in &report.steps {
        let made = escaped(blamed(&step.blame).as_bytes());
        let _ = writeln!(
            text,
            "\nlayer {}  {}",
            step.blame.layer,
            screen.bold(&screen.fit(&made, 8 + step.blame.layer.to_string().len()))
        );
        let _ = writeln!(text, "  {}", done(step, screen));
        if let Some(now) = &step.now {
            let mut line = format!(
                "  {} {}:{} {} {}",
                permissions(now.kind, now.mode.0),
                now.uid,
                now.gid,
                human_size(now.size_bytes),
                time(now.mtime)
            );
            if let Some(target) = now.target {
                let _ = write!(line, " -> {}", escaped(target.bytes()));
            }
            if let Some(source) = &now.source {
                line.push_str(&source_text(source));
            }
            let _ = writeln!(text, "{line}");
            if let Some(content) = now.content {
                let _ = writeln!(text, "  {}", screen.dim(&content.to_string()));
            }
        }
    }
    text
}

/// What a layer did, in words.
fn done(step: &WhyStep<'_>, screen: &Screen) -> String {
    match (step.change, &step.removed_with) {
        (ChangeKind::Added, _) => screen.green("added"),
        (ChangeKind::Changed, _) if step.what.is_empty() => {
            screen.yellow("written again, and the same")
        }
        (ChangeKind::Changed, _) if step.what.contains(&"content") => {
            screen.yellow(&format!("changed: {}", step.what.join(", ")))
        }
        (ChangeKind::Changed, _) => screen.yellow(&format!(
            "changed: {} (the content is the same)",
            step.what.join(", ")
        )),
        (ChangeKind::Removed, Some(with)) => {
            screen.red(&format!("removed, with /{}", escaped(with.as_bytes())))
        }
        (ChangeKind::Removed, None) => screen.red("removed"),
    }
}
