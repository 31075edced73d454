//! `dedup`: what images hold twice, or in vain, and what would save it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use strata::inspect::{
    Chunks, Contents, DedupReport, Documents, Finding, FindingKind, ImageWaste, InspectError,
    LayerPart, Reading, Survey, escaped,
};
use strata::layer::Toc;
use strata::oci::{Descriptor, DiffId, Platform};
use strata::store::Store;

use super::opened;
use super::screen::{Screen, right};
use crate::cli::error::{CliError, Doing as _};
use crate::cli::inspect::wanted_platform;
use crate::cli::output::{Format, human_size, note, print, print_json};
use crate::cli::page;
use crate::cli::session::{Needs, Session};

/// Find what images hold twice, or in vain, and say what would save it; --apply frees disk space
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata dedup app                         the waste of one image
  strata dedup                             of all images of the store, and what they have in common
  strata dedup app docker://docker.io/library/app:1
  strata dedup --format json | jq '.findings[0]'
  strata dedup --html images.html          a page of it, to look at in a browser
  strata dedup --apply                     let equal files of unpacked layers share their blocks

Bytes are those of the contents of files, uncompressed. Wasted are (copies - 1) x size. What a waste takes in a compressed
layer is an estimate by the layer's own ratio.")]
pub(crate) struct DedupArgs {
    /// Images as for strata layers; without any, all of the store
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// The platform, where an image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Leave out findings that waste less
    #[arg(long, value_name = "BYTES", default_value = "1")]
    min: String,
    /// How many findings are shown; JSON has them all
    #[arg(long, value_name = "N", default_value = "20")]
    top: usize,
    /// Compare pieces of files, too (content-defined chunks of some 64 KiB): every layer is read and inflated
    #[arg(long)]
    chunks: bool,
    /// Let equal files of the store's unpacked layers share their blocks, and say what that freed
    #[arg(long, conflicts_with_all = ["images", "chunks"])]
    apply: bool,
    /// How the result is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Write a page to look at in a browser instead: what each image shares and wastes, and all findings; - for standard
    /// output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "apply"])]
    html: Option<PathBuf>,
}

impl DedupArgs {
    /// Runs `dedup`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        if self.apply {
            return self.apply(session);
        }
        let min_bytes = crate::cli::values::bytes("--min", &self.min)?;
        let mut survey = Survey::default();
        let mut chunks = self.chunks.then(Chunks::default);
        let store = session.store_if_there()?;
        if self.images.is_empty() {
            let store = session.store()?;
            let platform = wanted_platform(self.platform.as_deref())?;
            self.all(session, &store, &platform, &mut survey, &mut chunks)?;
        }
        let reading = Reading {
            store: store.as_ref(),
            cancel: session.cancel(),
        };
        // Without a store nobody else keeps the tables, of which paths are named in the end.
        let mut tables: HashMap<DiffId, Arc<Toc>> = HashMap::new();
        for text in &self.images {
            let (contents, source) = opened(session, text, self.platform.as_deref())?;
            if let Some(chunks) = &mut chunks {
                let added = chunks.add(&contents, source.as_ref(), reading);
                added.doing(|| format!("look into {text}"))?;
            }
            survey.add(&contents);
            if store.is_none() {
                let layers = contents.layers.into_iter();
                tables.extend(layers.map(|layer| (layer.diff_id, layer.toc)));
            }
        }
        let toc = |id: &DiffId| {
            let kept = tables.get(id).cloned();
            let toc = match &store {
                Some(store) if kept.is_none() => store.toc(id)?,
                _ => kept,
            };
            toc.ok_or_else(|| InspectError::NoTable {
                diff_id: Box::new(*id),
            })
        };
        let report = survey.finish(min_bytes, toc);
        let mut report = report.doing(|| "name what was found".to_owned())?;
        report.chunks = chunks.map(|chunks| chunks.sums());
        if let Some(path) = &self.html {
            let command = [&["strata dedup".to_owned()], &self.images[..]].concat();
            return page::dedup(&report, &command.join(" ")).write(path);
        }
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => print(render(&report, self.top, &Screen::of_stdout())),
        }
    }

    /// Adds every image of the store, each once; of an image for several platforms, the wanted one. They are looked at in the order
    /// of their layers, so that images on the same base follow one another.
    fn all(
        &self,
        session: &Session,
        store: &Store,
        platform: &Platform,
        survey: &mut Survey,
        chunks: &mut Option<Chunks>,
    ) -> Result<(), CliError> {
        let mut seen = BTreeSet::new();
        let mut images: Vec<(Vec<DiffId>, usize, String, Descriptor)> = Vec::new();
        for named in store.names().doing(|| "list the images".to_owned())? {
            if session.is_canceled() {
                return Err(CliError::Interrupted);
            }
            if !seen.insert(named.descriptor.digest) {
                continue;
            }
            let name = match (&named.reference, &named.foreign_name) {
                (Some(reference), _) => reference.familiar(),
                (None, Some(name)) => name.clone(),
                (None, None) => named.descriptor.digest.short(),
            };
            let source = store.source(&name, named.descriptor.clone());
            match Documents::read(&source, platform) {
                Ok(documents) => {
                    let chain = documents.config.rootfs.diff_ids;
                    images.push((chain, images.len(), name, named.descriptor));
                }
                // It may be an image of another platform only, or no image at all.
                Err(error) => note(&format!("note: {name} is left out: {error}")),
            }
        }
        images.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        for (_, rank, name, descriptor) in images {
            if session.is_canceled() {
                return Err(CliError::Interrupted);
            }
            let source = store.source(&name, descriptor);
            let doing = || format!("look into {name}");
            // Held from before, thousands of configurations would be most of the memory.
            let documents = Documents::read(&source, platform).doing(doing)?;
            let reading = Reading {
                store: Some(store),
                cancel: session.cancel(),
            };
            let contents = Contents::read(documents, &source, reading).doing(doing)?;
            if let Some(chunks) = chunks {
                chunks.add(&contents, &source, reading).doing(doing)?;
            }
            survey.add_ranked(rank, &contents);
        }
        Ok(())
    }

    fn apply(&self, session: &Session) -> Result<(), CliError> {
        let mut store = session.store()?;
        let waiting = || note("waiting for other strata processes to be done with the store");
        let report = store
            .dedup(&waiting, session.cancel())
            .doing(|| "free space in the store".to_owned())?;
        if self.format == Format::Json {
            return print_json(&report);
        }
        let size = |bytes: i64| match u64::try_from(bytes) {
            Ok(bytes) => human_size(bytes),
            Err(_) => format!("-{}", human_size(bytes.unsigned_abs())),
        };
        print(format!(
            "{} files of {} unpacked layers: {} share the blocks of equal ones now ({}),\n{} by reflink, {} by hard link; {} did before\nfreed on disk: {}\n",
            report.files,
            report.layers,
            report.cloned + report.linked,
            human_size(report.shared_bytes),
            report.cloned,
            report.linked,
            report.already,
            size(report.freed_bytes),
        ))
    }

    /// What the command works on.
    pub(crate) fn needs(&self) -> Needs {
        match self.apply {
            true => Needs::Layers,
            false => Needs::Blobs,
        }
    }
}

/// How many images of a finding are named.
const IMAGES: usize = 3;

fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Overwritten => "overwritten later",
        FindingKind::Deleted => "deleted later",
        FindingKind::Metadata => "stored again, other mode, owner or time",
        FindingKind::Moved => "moved, and so stored again",
        FindingKind::Duplicate => "the same content at several paths",
        FindingKind::AcrossImages => "the same files in different layers",
    }
}

fn place(part: &LayerPart) -> String {
    let instruction = part.instruction.as_deref().unwrap_or("(unknown)");
    match (&part.file, part.line) {
        (Some(file), Some(line)) => format!("{file}:{line} {instruction}"),
        _ => instruction.to_owned(),
    }
}

/// A text in lines of so many characters; a word that is longer is a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// Which images have it, where it is not the one that the first layer names: how many, and the first few.
fn whose(images: &[String]) -> Option<String> {
    let (first, more) = images.split_at(images.len().min(IMAGES));
    match (first, more.len()) {
        ([] | [_], _) => None,
        (_, 0) => Some(format!("in {} images: {}", images.len(), first.join(", "))),
        (_, rest) => Some(format!(
            "in {} images: {} and {rest} more",
            images.len(),
            first.join(", ")
        )),
    }
}

fn render(report: &DedupReport, top: usize, screen: &Screen) -> String {
    let mut text = String::new();
    let mut images: Vec<&ImageWaste> = report.images.iter().collect();
    if images.len() > top {
        // Those that can save most.
        images.sort_by_key(|image| std::cmp::Reverse(image.wasted_bytes()));
    }
    for image in images.iter().take(top) {
        // A String takes any text.
        let _ = writeln!(
            text,
            "{}  {} stored, {} of it needed, {}",
            screen.bold(&escaped(image.name.as_bytes())),
            human_size(image.stored_bytes),
            human_size(image.distinct_bytes),
            match image.wasted_bytes() {
                0 => "nothing wasted".to_owned(),
                wasted => screen.red(&format!("{} wasted", human_size(wasted))),
            }
        );
        if image.wasted_bytes() > 0 {
            let _ = writeln!(
                text,
                "  overwritten {}, deleted {}, stored again {}, at several paths {}",
                human_size(image.overwritten_bytes),
                human_size(image.deleted_bytes),
                human_size(image.recopied_bytes),
                human_size(image.duplicate_bytes)
            );
        }
    }
    if images.len() > top {
        let rest = images.len() - top;
        let _ = writeln!(
            text,
            "and {rest} images that waste no more; --top shows more"
        );
    }
    let layers = &report.layers;
    let contents = &report.contents;
    let _ = writeln!(
        text,
        "\nLayers    {} different, {} of them in several images: {} compressed,\n          {} without sharing",
        layers.count,
        layers.shared_count,
        human_size(layers.stored_bytes),
        human_size(layers.referenced_bytes)
    );
    let _ = writeln!(
        text,
        "Contents  {} files, {} different: {} unpacked, {} of it copies",
        contents.count,
        contents.distinct_count,
        human_size(contents.stored_bytes),
        human_size(contents.wasted_bytes)
    );
    if let Some(chunks) = &report.chunks {
        let _ = writeln!(
            text,
            "Chunks    {}, {} different: {} of the bytes are copies",
            chunks.count,
            chunks.distinct_count,
            human_size(chunks.wasted_bytes)
        );
    }
    for finding in report.findings.iter().take(top) {
        text.push('\n');
        show(&mut text, finding, screen);
    }
    let hidden = report.findings.len().saturating_sub(top);
    if hidden > 0 {
        let rest = report.findings.iter().skip(top).map(|f| f.wasted_bytes);
        let _ = writeln!(
            text,
            "\nand {hidden} smaller findings, {} in all; --top shows more",
            human_size(rest.sum())
        );
    }
    text
}

fn show(text: &mut String, finding: &Finding, screen: &Screen) {
    let files = match finding.files {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let _ = writeln!(
        text,
        "{}  {} ({files}, about {} compressed)",
        screen.red(&right(&human_size(finding.wasted_bytes), 6)),
        screen.bold(word(finding.kind)),
        human_size(finding.compressed.estimated_bytes)
    );
    let path = escaped(finding.place().as_bytes());
    let _ = writeln!(text, "        {path}");
    if let Some(images) = whose(&finding.images) {
        let images = escaped(images.as_bytes());
        let _ = writeln!(text, "        {}", screen.dim(&screen.fit(&images, 8)));
    }
    for part in finding.layers.iter().take(4) {
        let what =
            escaped(format!("{} layer {}  {}", part.image, part.layer, place(part)).as_bytes());
        let _ = writeln!(text, "        {}", screen.dim(&screen.fit(&what, 8)));
    }
    if finding.layers.len() > 4 {
        let _ = writeln!(text, "        and {} more layers", finding.layers.len() - 4);
    }
    // A line at a time, so that a pager that shows one has its colour.
    for line in wrapped(&escaped(finding.change.as_bytes()), screen.width(8, 70)) {
        let _ = writeln!(text, "{}", screen.green(&format!("      > {line}")));
    }
}
