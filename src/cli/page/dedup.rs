//! What `dedup` finds, as a page of several images, or on the page of one.

use strata::inspect::{DedupReport, Finding as Found, FindingKind, ImageWaste};

use super::{FileTable, Finding, Image, Page, Text, Totals};

/// The page of a report on several images.
pub(crate) fn dedup(report: &DedupReport, command: &str) -> Page {
    let title = match &report.images[..] {
        [only] => only.name.clone(),
        images => format!("{} images", images.len()),
    };
    let mut notes = Vec::new();
    let rest = &report.needless;
    if rest.findings > 0 {
        notes.push(format!(
            "{} smaller findings, {} bytes together, are left out.",
            rest.findings, rest.wasted_bytes
        ));
    }
    Page {
        command: command.into(),
        title: title.as_str().into(),
        generator: super::GENERATOR,
        totals: Totals {
            unpacked_bytes: report.contents.stored_bytes,
            compressed_bytes: report.layers.stored_bytes,
            wasted_bytes: match &report.images[..] {
                [only] => only.wasted_bytes(),
                _ => report.contents.wasted_bytes,
            },
            shared_bytes: report.layers.shared_bytes,
        },
        images: report.images.iter().map(image).collect(),
        layers: Vec::new(),
        findings: findings(report),
        notes,
        files: FileTable::default(),
    }
}

/// The findings, each with the layer to change.
pub(super) fn findings(report: &DedupReport) -> Vec<Finding> {
    let finding = |found: &Found| {
        let layer = found.layers.first();
        let image =
            layer.and_then(|layer| report.images.iter().position(|i| i.name == layer.image));
        let path = found.place();
        let paths = found
            .examples
            .iter()
            .map(|path| Text::from(&format!("/{path}")[..]));
        Finding {
            title: Text::from(&format!("{}: {path}", word(found.kind))[..]),
            wasted_bytes: found.wasted_bytes,
            compressed_estimate_bytes: found.compressed.estimated_bytes,
            image,
            instruction: layer.and_then(|layer| layer.instruction.clone()),
            file: layer.and_then(|layer| layer.file.clone()),
            line: layer.and_then(|layer| layer.line),
            // One path is in the title already.
            paths: paths.filter(|_| found.examples.len() > 1).collect(),
            more_paths: found.files.saturating_sub(found.examples.len() as u64),
            change: Some(found.change.clone()),
        }
    };
    report.findings.iter().map(finding).collect()
}

fn image(image: &ImageWaste) -> Image {
    Image {
        name: image.name.as_str().into(),
        digest: image.digest.to_string(),
        platform: String::new(),
        unpacked_bytes: image.stored_bytes,
        unique_bytes: image.distinct_bytes.saturating_sub(image.shared_bytes),
        shared_bytes: image.shared_bytes,
        wasted_bytes: image.wasted_bytes(),
    }
}

fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Overwritten => "Overwritten later",
        FindingKind::Deleted => "Deleted later",
        FindingKind::Metadata => "Stored again with another mode, owner or time",
        FindingKind::Moved => "Moved, and so stored again",
        FindingKind::Duplicate => "The same content at several paths",
        FindingKind::AcrossImages => "The same files in different layers",
    }
}
