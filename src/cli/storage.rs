//! `df`, `prune`, `check` and `unpack`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use strata::store::{CheckDepth, PruneImages, PruneOptions, Share};

use super::error::{CliError, Doing as _, exit};
use super::output::{Format, Table, human_size, note, print, print_json, print_line};
use super::session::Session;
use super::{export, inspect};

/// Show what the store costs on disk
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  strata df\n  strata df --format json | jq .total_bytes")]
pub(crate) struct DfArgs {
    /// How it is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Free space: what nothing refers to, and what is asked for
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata prune                           images without a name, the build cache, and failed steps
  strata prune --all --force             everything: images, cache, cache mounts
  strata prune --keep-storage 10g        the least recently used of the build cache, down to 10 GiB
  strata prune --until 168h --dry-run    say what of last week would go

It waits until no other strata uses the store. Unpacked layers come back from their blobs when they are needed.")]
pub(crate) struct PruneArgs {
    /// Images with names and cache mounts, too
    #[arg(short = 'a', long)]
    all: bool,
    /// Do not ask; without a terminal nothing is asked
    #[arg(short = 'f', long)]
    force: bool,
    /// Only images; the build cache and failed steps stay
    #[arg(long, conflicts_with = "all")]
    images_only: bool,
    /// Unpacked layers, too; with --images-only those stay that only stages read and that have no other form
    #[arg(long)]
    unpacked: bool,
    /// Only what was not used for this long: 90m, 24h, 7d
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Take the oldest of the build cache away until the store uses no more than this
    #[arg(long, value_name = "BYTES")]
    keep_storage: Option<String>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// How the result is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Hold the store against what it promises
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata check                 every blob is read and verified
  strata check --full          every file of every unpacked layer, too
  strata check --repair        remove what is damaged; pull or build it again

It exits with 1 if something is wrong.")]
pub(crate) struct CheckArgs {
    /// Read every file of every unpacked layer, too
    #[arg(long)]
    full: bool,
    /// Remove what is torn, damaged or unknown
    #[arg(long)]
    repair: bool,
    /// How the result is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Write an image's files into a folder
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata unpack app rootfs
  strata unpack --platform linux/arm64 app rootfs")]
pub(crate) struct UnpackArgs {
    /// A name or ID in the store
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The folder; made if it is not there, and empty otherwise
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Write into a folder that is not empty
    #[arg(short = 'f', long)]
    force: bool,
}

impl DfArgs {
    /// Runs `df`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let usage = session
            .store()?
            .df()
            .doing(|| "measure the store".to_owned())?;
        if self.format == Format::Json {
            return print_json(&usage);
        }
        let mut table = Table::new(&["TYPE", "TOTAL", "SIZE", "RECLAIMABLE"]);
        let mut row = |name: &str, share: &Share| {
            table.row(vec![
                name.to_owned(),
                share.count.to_string(),
                human_size(share.bytes),
                human_size(share.reclaimable_bytes),
            ]);
        };
        row("Blobs", &usage.blobs);
        row("Layers", &usage.layers);
        row("Build Cache", &usage.cache);
        row("Cache Mounts", &usage.mounts);
        row("Failed Steps", &usage.failed);
        row("Work", &usage.work);
        print(table.render())?;
        print_line(&format!(
            "\n{} images, {} in all",
            usage.images,
            human_size(usage.total_bytes)
        ))
    }
}

/// A span of time in seconds: `90s`, `15m`, `24h`, `7d`.
fn span(text: &str) -> Result<i64, CliError> {
    let bad = || {
        CliError::Usage(format!(
            "invalid value {text:?} for --until: expected a number and s, m, h or d, for example 24h"
        ))
    };
    let unit = text.chars().last().ok_or_else(bad)?;
    let number: i64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| bad())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(bad()),
    };
    number
        .checked_mul(seconds)
        .filter(|s| *s >= 0)
        .ok_or_else(bad)
}

impl PruneArgs {
    /// Runs `prune`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let keep = self
            .keep_storage
            .as_deref()
            .map(|t| super::values::bytes("--keep-storage", t))
            .transpose()?;
        let until = self
            .until
            .as_deref()
            .map(|t| span(t).map(|s| jiff::Timestamp::now().as_second() - s))
            .transpose()?;
        let options = PruneOptions {
            images: if self.all {
                PruneImages::All
            } else {
                PruneImages::Dangling
            },
            // A bound on the cache's size says itself how much of it goes.
            build_cache: !self.images_only && keep.is_none(),
            unpacked: self.unpacked || self.all,
            cache_mounts: self.all,
            failed: !self.images_only,
            until,
            keep_storage_bytes: keep,
            dry_run: self.dry_run,
        };
        if !self.force && !self.dry_run && !self.confirmed()? {
            return Err(CliError::Refused("nothing was pruned".to_owned()));
        }
        let mut store = session.store()?;
        let report = store
            .prune(&options, &|| {
                note("waiting for other strata processes to be done with the store");
            })
            .doing(|| "prune the store".to_owned())?;
        if self.format == Format::Json {
            return print_json(&report);
        }
        let would = if self.dry_run {
            "Would untag"
        } else {
            "Untagged"
        };
        for name in &report.untagged {
            print_line(&format!("{would}: {}", name.familiar()))?;
        }
        let would = if self.dry_run {
            "Would remove"
        } else {
            "Removed"
        };
        for digest in &report.images {
            print_line(&format!("{would}: {digest}"))?;
        }
        let would = if self.dry_run {
            "Total reclaimable space"
        } else {
            "Total reclaimed space"
        };
        print_line(&format!("{would}: {}", human_size(report.freed_bytes)))
    }

    /// Asks on a terminal; elsewhere nobody can answer, and a script means what it says.
    fn confirmed(&self) -> Result<bool, CliError> {
        let what = if self.all {
            "all images, the build cache, failed steps and all cache mounts"
        } else {
            "images without a name, the build cache and failed steps"
        };
        if !io::stdin().is_terminal() {
            return Ok(true);
        }
        // A question that cannot be shown does not keep the answer from being read.
        let _ = write!(io::stderr(), "This removes {what}. Continue? [y/N] ");
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .doing(|| "read the answer".to_owned())?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
    }
}

impl CheckArgs {
    /// Runs `check`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let mut store = session.store()?;
        let depth = if self.full {
            CheckDepth::Full
        } else {
            CheckDepth::Quick
        };
        let report = if self.repair {
            store.repair(depth, &|| {
                note("waiting for other strata processes to be done with the store");
            })
        } else {
            store.check(depth)
        }
        .doing(|| "check the store".to_owned())?;
        match self.format {
            Format::Json => print_json(&report)?,
            Format::Table => {
                for finding in &report.findings {
                    let problem = &finding.problem;
                    let done = if finding.repaired { " (removed)" } else { "" };
                    let severity = format!("{:?}", finding.severity).to_lowercase();
                    print_line(&format!(
                        "{severity}: {}: {problem}{done}",
                        finding.path.display()
                    ))?;
                }
                print_line(&format!(
                    "{} images, {} blobs ({}), {} unpacked layers: {}",
                    report.images,
                    report.blobs,
                    human_size(report.bytes),
                    report.layers,
                    if report.is_clean() {
                        "clean"
                    } else {
                        "DAMAGED"
                    }
                ))?;
            }
        }
        if report.is_clean() {
            Ok(())
        } else {
            Err(CliError::Exit(exit::FAILED))
        }
    }
}

impl UnpackArgs {
    /// Runs `unpack`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        let platform = inspect::wanted_platform(self.platform.as_deref())?;
        let image = store
            .find(&self.image)
            .doing(|| format!("unpack {}", self.image))?;
        let source = store.source(&self.image, image.descriptor);
        let documents = inspect::read(&source, &platform)?;
        let is_empty = match std::fs::read_dir(&self.dir) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(e).doing(|| format!("read {}", self.dir.display())),
        };
        if !is_empty && !self.force {
            return Err(CliError::Refused(format!(
                "{} is not empty; use --force to write into it all the same",
                self.dir.display()
            )));
        }
        let diff_ids = documents.config.rootfs.diff_ids;
        let blobs = documents.manifest.layers.into_iter().map(Some);
        let layers: Vec<_> = blobs.zip(diff_ids).collect();
        export::unpack(session, &store, &layers, &self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604_800)] {
            assert_eq!(span(text).unwrap(), seconds, "{text}");
        }
        for bad in ["", "h", "24", "-1h", "1w", "9223372036854775807d", "é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
