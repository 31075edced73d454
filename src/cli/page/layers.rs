//! The page of `layers`: one image, layer by layer, with all its files.

use std::collections::HashMap;

use strata::inspect::{ChangeKind, ChangeRow, Contents, FileType, LayersReport, Survey};

use super::{Change, Fate, FileTable, Finding, Image, Layer, Page, Row, Totals};

/// The page of an image: its layers, its files, and what would save what it wastes.
pub(crate) fn layers(contents: &Contents, command: &str) -> Page {
    let report = LayersReport::new(contents, true);
    let waste = Survey::of_image(contents);
    page(contents, &report, super::dedup::findings(&waste), command)
}

fn page(
    contents: &Contents,
    report: &LayersReport<'_>,
    findings: Vec<Finding>,
    command: &str,
) -> Page {
    let fates = fates(report);
    let mut files = FileTable::default();
    let mut layers = Vec::with_capacity(report.layers.len());
    let top = report
        .layers
        .iter()
        .rposition(|row| row.blame.dockerfile.is_some());
    for (at, (row, fates)) in report.layers.iter().zip(&fates).enumerate() {
        let mut deleted_bytes = 0;
        for (file, fate) in rows(row.files.as_deref()).zip(fates) {
            if *fate == Fate::Deleted {
                deleted_bytes += file.size_bytes;
            }
            files.push(Row {
                path: file.path.bytes(),
                size_bytes: match file.change {
                    ChangeKind::Removed => 0,
                    _ => file.size_bytes,
                },
                layer: at,
                change: match file.change {
                    ChangeKind::Added => Change::Added,
                    ChangeKind::Changed => Change::Changed,
                    ChangeKind::Removed => Change::Removed,
                },
                fate: *fate,
                kind: letter(file),
                attributes: attributes(contents, at, file),
            });
        }
        let lines = row.blame.dockerfile;
        layers.push(Layer {
            digest: row.digest.to_string(),
            diff_id: row.diff_id.to_string(),
            instruction: row.blame.instruction.unwrap_or_default().to_owned(),
            file: lines.map(|lines| lines.file.to_owned()),
            line: lines.map(|lines| lines.line),
            // What lies below a layer that is known to be of the Dockerfile, and is not itself.
            base: lines.is_none() && top.is_some_and(|top| at < top),
            compressed_bytes: row.size_bytes,
            unpacked_bytes: row.unpacked_bytes,
            overwritten_bytes: row.wasted_bytes.saturating_sub(deleted_bytes),
            deleted_bytes,
            added: row.added,
            changed: row.changed,
            removed: row.removed,
        });
    }
    let totals = report.totals;
    Page {
        command: command.into(),
        title: report.image.name.into(),
        generator: super::GENERATOR,
        totals: Totals {
            unpacked_bytes: totals.unpacked_bytes,
            compressed_bytes: totals.size_bytes,
            wasted_bytes: totals.wasted_bytes,
            shared_bytes: 0,
        },
        images: vec![Image {
            name: report.image.name.into(),
            digest: report.image.digest.to_string(),
            platform: report.image.platform.to_string(),
            unpacked_bytes: totals.unpacked_bytes,
            unique_bytes: totals.seen_bytes,
            shared_bytes: 0,
            wasted_bytes: totals.wasted_bytes,
        }],
        layers,
        findings,
        notes: Vec::new(),
        files,
    }
}

/// What the table shows: directories hold no bytes.
fn rows<'r, 'a>(files: Option<&'r [ChangeRow<'a>]>) -> impl Iterator<Item = &'r ChangeRow<'a>> {
    let files = files.unwrap_or_default().iter();
    files.filter(|file| file.kind != FileType::Directory)
}

/// What becomes of each row of each layer: what the next layer that has its path does to it.
fn fates(report: &LayersReport<'_>) -> Vec<Vec<Fate>> {
    let mut later: HashMap<&[u8], ChangeKind> = HashMap::new();
    let mut fates: Vec<Vec<Fate>> = Vec::with_capacity(report.layers.len());
    for row in report.layers.iter().rev() {
        let fate = |file: &ChangeRow<'_>| match later.get(file.path.bytes()) {
            // Under another name the bytes of a file may still be there.
            _ if file.kind == FileType::File && !file.wasted => Fate::Kept,
            Some(ChangeKind::Removed) => Fate::Deleted,
            Some(_) => Fate::Overwritten,
            None if file.wasted => Fate::Overwritten,
            None => Fate::Kept,
        };
        let own = || rows(row.files.as_deref());
        fates.push(own().map(fate).collect());
        later.extend(own().map(|file| (file.path.bytes(), file.change)));
    }
    fates.reverse();
    fates
}

fn letter(file: &ChangeRow<'_>) -> u8 {
    match file.kind {
        _ if file.change == ChangeKind::Removed => b'w',
        FileType::File => b'f',
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::HardLink => b'h',
        FileType::CharDevice => b'c',
        FileType::BlockDevice => b'b',
        FileType::Fifo => b'p',
        // No tree shows one.
        FileType::Whiteout => b'w',
    }
}

/// Mode, owner and group; nothing for what is gone.
fn attributes(contents: &Contents, layer: usize, file: &ChangeRow<'_>) -> (u32, u32, u32) {
    let found = match file.change {
        ChangeKind::Removed => None,
        _ => contents.layers[layer].toc.find(file.path.bytes()),
    };
    found.map_or((0, 0, 0), |entry| (entry.mode, entry.uid, entry.gid))
}
