//! The images of `testdata/waste`, whose waste is known to the byte.
//!
//! ```text
//! # why the case is there
//! image NAME                         an image begins
//! layer [@LINE] INSTRUCTION          a layer begins; with a line, it was built here
//! copied TO [FROM]                   what COPY took from the context
//! f PATH WORD*N [MODE [UID:GID [MTIME]]]   a file of N bytes, told by WORD     d, o PATH   a directory, an opaque one
//! l PATH TARGET   a hard link        s PATH TARGET   a symbolic link           w PATH   a whiteout
//! = NAME stored N distinct N [overwritten N] [deleted N] [recopied N] [duplicate N]
//! = contents STORED DISTINCT         = layers COUNT SHARED
//! = find KIND BYTES LAYER… WORDS     a finding, and words of its advice; there are no others
//! = dive SCORE BYTES                 what dive's formula says: percent, and bytes it calls wasted
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::super::{Contents, Documents, LayersReport, Reading};
use super::{DedupReport, Survey};
use crate::layer::{KindRef, Stack};
use crate::oci::{
    Descriptor, DiffId, History, ImageConfig, Manifest, MediaType, Platform, to_pretty_json,
};
use crate::store::{Copied, CopyOrigin, Lineage, Made, PathBytes, Store, StoreOptions};

/// A case, read.
struct Case {
    images: Vec<(String, Vec<Layer>)>,
    expected: Vec<String>,
}

struct Layer {
    line: Option<u32>,
    instruction: String,
    copied: Vec<Copied>,
    members: Vec<String>,
}

fn cases() -> Vec<(String, Case)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/waste");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "txt") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            cases.push((name, parse(&std::fs::read_to_string(&path).unwrap())));
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

fn parse(text: &str) -> Case {
    let mut case = Case {
        images: Vec::new(),
        expected: Vec::new(),
    };
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let layers = case.images.last_mut().map(|(_, layers)| layers);
        match word {
            "" | "#" => {}
            "=" => case.expected.push(rest.to_owned()),
            "image" => case.images.push((rest.to_owned(), Vec::new())),
            "layer" => {
                let numbered = rest.strip_prefix('@').and_then(|r| r.split_once(' '));
                let (line, instruction) = match numbered {
                    Some((line, rest)) => (Some(line.parse().unwrap()), rest),
                    None => (None, rest),
                };
                layers.unwrap().push(Layer {
                    line,
                    instruction: instruction.to_owned(),
                    copied: Vec::new(),
                    members: Vec::new(),
                });
            }
            "copied" => {
                let (to, from) = rest.split_once(' ').unwrap_or((rest, ""));
                let layer = layers.unwrap().last_mut().unwrap();
                layer.copied.push(Copied {
                    to: PathBytes(to.into()),
                    from: PathBytes(from.into()),
                    origin: CopyOrigin::Context,
                });
            }
            _ => layers
                .unwrap()
                .last_mut()
                .unwrap()
                .members
                .push(line.to_owned()),
        }
    }
    case
}

/// A layer's tar.
fn tar(members: &[String]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        let words: Vec<&str> = member.split(' ').collect();
        let mut header = tar::Header::new_gnu();
        let mut content = Vec::new();
        let mut path = words[1].to_owned();
        let mut mode = "755";
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        match words[0] {
            "f" => {
                let (word, count) = words[2].split_once('*').unwrap();
                let length = count.parse().unwrap();
                content.extend(word.bytes().cycle().take(length));
                mode = words.get(3).unwrap_or(&"644");
                if let Some((uid, gid)) = words.get(4).and_then(|o| o.split_once(':')) {
                    header.set_uid(uid.parse().unwrap());
                    header.set_gid(gid.parse().unwrap());
                }
                if let Some(mtime) = words.get(5) {
                    header.set_mtime(mtime.parse().unwrap());
                }
                header.set_entry_type(tar::EntryType::Regular);
            }
            "d" => header.set_entry_type(tar::EntryType::Directory),
            "o" => path = format!("{path}/.wh..wh..opq"),
            "w" => {
                let at = path.rfind('/').map_or(0, |at| at + 1);
                path.insert_str(at, ".wh.");
            }
            "l" => header.set_entry_type(tar::EntryType::Link),
            "s" => header.set_entry_type(tar::EntryType::Symlink),
            other => panic!("{other}"),
        }
        if words[0] == "o" {
            let mut dir = header.clone();
            dir.set_entry_type(tar::EntryType::Directory);
            dir.set_mode(0o755);
            dir.set_size(0);
            tar.append_data(&mut dir, words[1], &[][..]).unwrap();
        }
        header.set_mode(u32::from_str_radix(mode, 8).unwrap());
        header.set_size(content.len() as u64);
        match words[0] {
            "l" | "s" => tar.append_link(&mut header, &path, words[2]).unwrap(),
            _ => tar.append_data(&mut header, &path, &content[..]).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

/// Puts an image into a store, and reads it back as any command does: its layers are scanned.
fn contents(store: &Store, name: &str, layers: &[Layer]) -> Contents {
    let mut config = ImageConfig::scratch(&Platform::host());
    let mut blobs = Vec::new();
    let mut lineage = Lineage::default();
    for layer in layers {
        let blob = store
            .put_bytes(MediaType::OciLayer, &tar(&layer.members))
            .unwrap();
        config.rootfs.diff_ids.push(DiffId(blob.digest));
        config.history.push(History {
            created_by: Some(layer.instruction.clone()),
            ..History::default()
        });
        blobs.push(blob);
        let line = layer.line.or(Some(1).filter(|_| !layer.copied.is_empty()));
        lineage.layers.push(line.map(|line| Made {
            dockerfile: "Dockerfile".to_owned(),
            line,
            end_line: line,
            stage: "stage-0".to_owned(),
            copied: layer.copied.clone(),
        }));
    }
    // Equal stacks of several images are several images.
    config.author = Some(name.to_owned());
    let config = store
        .put_bytes(MediaType::OciConfig, &config.to_bytes())
        .unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config,
        layers: blobs,
        subject: None,
        annotations: Default::default(),
    };
    let bytes = to_pretty_json(&manifest);
    let root: Descriptor = store.put_bytes(MediaType::OciManifest, &bytes).unwrap();
    store.put_lineage(&root.digest, &lineage).unwrap();
    let source = store.source(name, root);
    let documents = Documents::read(&source, &Platform::host()).unwrap();
    let reading = Reading {
        store: Some(store),
        cancel: &AtomicBool::new(false),
    };
    Contents::read(documents, &source, reading).unwrap()
}

/// What a report says, as the lines of a case.
fn said(report: &DedupReport) -> Vec<String> {
    let mut lines = Vec::new();
    for image in &report.images {
        let mut line = format!(
            "{} stored {} distinct {}",
            image.name, image.stored_bytes, image.distinct_bytes
        );
        for (word, bytes) in [
            ("overwritten", image.overwritten_bytes),
            ("deleted", image.deleted_bytes),
            ("recopied", image.recopied_bytes),
            ("duplicate", image.duplicate_bytes),
        ] {
            if bytes > 0 {
                line.push_str(&format!(" {word} {bytes}"));
            }
        }
        lines.push(line);
    }
    if report.images.len() > 1 {
        let layers = &report.layers;
        lines.push(format!("layers {} {}", layers.count, layers.shared_count));
    }
    let contents = &report.contents;
    lines.push(format!(
        "contents {} {}",
        contents.stored_bytes, contents.distinct_bytes
    ));
    lines
}

/// What dive's published algorithm makes of the layers: the share of the bytes it counts that is the smallest copy of each path, in
/// tenths of a percent, and the bytes of all copies of paths that several layers have. It looks at leaves of each layer's tree; a
/// whiteout counts as the folder that it removes, or as nothing where that is a file. `None` where it is not defined: it fails on a
/// whiteout of what no layer below has, as an opaque one is to it.
fn dive(contents: &Contents) -> Option<(u64, u64)> {
    let tocs = contents.tocs();
    // Sizes by path: of all copies, of the smallest one, and how many there are.
    let mut paths: BTreeMap<Vec<u8>, (u64, u64, u64)> = BTreeMap::new();
    for (at, toc) in tocs.iter().enumerate() {
        let below = Stack::new(tocs[..at].to_vec());
        let parents: BTreeSet<Vec<u8>> = toc
            .refs()
            .filter_map(|e| crate::layer::entry::parent(e.path).map(<[u8]>::to_vec))
            .collect();
        for entry in toc.refs() {
            let size = match entry.kind {
                KindRef::Directory { opaque: true, .. } => return None,
                KindRef::Directory { .. } if parents.contains(entry.path) => continue,
                KindRef::File { size_bytes, .. } => size_bytes,
                KindRef::Whiteout => {
                    let gone = below.walk(entry.path);
                    let is_dir = below.lookup(entry.path)?.entry.is_dir();
                    let size = |found: crate::layer::Found| match found.entry.kind {
                        crate::layer::Kind::File { size_bytes, .. } => size_bytes,
                        _ => 0,
                    };
                    if is_dir { gone.map(size).sum() } else { 0 }
                }
                _ => 0,
            };
            let known = paths.entry(entry.path.to_vec()).or_insert((0, size, 0));
            *known = (known.0 + size, known.1.min(size), known.2 + 1);
        }
    }
    let all: u64 = paths.values().map(|p| p.0).sum();
    let least: u64 = paths.values().map(|p| p.1).sum();
    let wasted = paths.values().filter(|p| p.2 > 1).map(|p| p.0).sum();
    Some(((least * 1000).checked_div(all).unwrap_or(1000), wasted))
}

#[test]
fn the_waste_of_the_corpus_is_told_to_the_byte() {
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for (name, case) in &cases {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let mut survey = Survey::default();
        let mut dives = Vec::new();
        let mut mistakes = Vec::new();
        for (image, layers) in &case.images {
            let contents = contents(&store, image, layers);
            survey.add(&contents);
            dives.push(dive(&contents));
            let report = LayersReport::new(&contents, true);
            let hidden: u64 = report.layers.iter().map(|l| l.hidden_bytes).sum();
            let wasted: u64 = report.layers.iter().map(|l| l.wasted_bytes).sum();
            let listed = report.layers.iter().flat_map(|l| l.files.iter().flatten());
            let listed: u64 = listed.filter(|f| f.wasted).map(|f| f.size_bytes).sum();
            let totals = report.totals;
            if [hidden, wasted, listed] != [totals.wasted_bytes; 3] {
                mistakes.push(format!("layers: {hidden} {wasted} {listed} {totals:?}"));
            }
        }
        let toc = |id: &DiffId| Ok::<_, Infallible>(store.toc(id).unwrap().unwrap());
        let Ok(report) = survey.finish(1, toc);
        for (image, sums) in report.images.iter().enumerate() {
            if sums.stored_bytes != sums.distinct_bytes + sums.wasted_bytes() {
                mistakes.push(format!("image {image} does not add up: {sums:?}"));
            }
            let within = report.findings.iter().filter(|f| {
                f.kind != super::FindingKind::AcrossImages && f.images.contains(&sums.name)
            });
            let found: u64 = within.map(|f| f.wasted_bytes).sum();
            if found != sums.wasted_bytes() {
                mistakes.push(format!("image {image}: findings have {found}: {sums:?}"));
            }
        }
        let (finds, sums): (Vec<&String>, Vec<&String>) =
            case.expected.iter().partition(|l| l.starts_with("find "));
        let (dive_says, sums): (Vec<&String>, Vec<&String>) =
            sums.into_iter().partition(|l| l.starts_with("dive "));
        if sums
            .iter()
            .map(|s| s.as_str())
            .ne(said(&report).iter().map(String::as_str))
        {
            mistakes.push(format!("expected {sums:#?}, found {:#?}", said(&report)));
        }
        for line in dive_says {
            let says = dives[0]
                .map(|(tenths, wasted)| format!("dive {}.{} {wasted}", tenths / 10, tenths % 10));
            if says.as_ref() != Some(line) {
                mistakes.push(format!("{line}: {says:?}"));
            }
        }
        let mut left: Vec<String> = report
            .findings
            .iter()
            .map(|f| {
                let kind = serde_json::to_value(f.kind).unwrap();
                let layers: Vec<String> = f.layers.iter().map(|l| l.layer.to_string()).collect();
                let layers = layers.join(" ");
                format!(
                    "find {} {} {layers} {}",
                    kind.as_str().unwrap(),
                    f.wasted_bytes,
                    f.change
                )
            })
            .collect();
        for line in finds {
            // The kind, the bytes and the layers are the beginning; the words are anywhere in the advice.
            let number = |w: &&str| w.bytes().all(|b| b.is_ascii_digit());
            let words: Vec<&str> = line.split(' ').collect();
            let head = 2 + words[2..].iter().take_while(|w| number(w)).count();
            let (head, advice) = (words[..head].join(" "), words[head..].join(" "));
            let is = |f: &String| {
                f.strip_prefix(&head)
                    .is_some_and(|rest| rest.starts_with(' ') && rest.contains(&advice))
            };
            match left.iter().position(is) {
                Some(at) => drop(left.remove(at)),
                None => mistakes.push(format!("not found: {line}")),
            }
        }
        if !left.is_empty() {
            mistakes.push(format!("nobody expects {left:#?}"));
        }
        if !mistakes.is_empty() {
            wrong.push(format!("{name}: {}", mistakes.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The README's comparison is what the formulas say.
#[test]
fn the_comparison_with_dive_is_true() {
    let readme = include_str!("../../../README.md");
    let mut rows: HashMap<&str, &str> = HashMap::new();
    for line in readme.lines() {
        if let Some((name, rest)) = line.strip_prefix("| `").and_then(|l| l.split_once("` |")) {
            rows.insert(name, rest);
        }
    }
    let mut compared = 0;
    for (name, case) in cases() {
        let Some(row) = rows.get(name.as_str()) else {
            continue;
        };
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let (image, layers) = &case.images[0];
        let contents = contents(&store, image, layers);
        let (tenths, wasted) = dive(&contents).unwrap();
        let mut survey = Survey::default();
        survey.add(&contents);
        let toc = |id: &DiffId| Ok::<_, Infallible>(store.toc(id).unwrap().unwrap());
        let Ok(report) = survey.finish(1, toc);
        let truth = report.images[0].wasted_bytes();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let want = [
            format!("{}.{} %", tenths / 10, tenths % 10),
            wasted.to_string(),
            truth.to_string(),
        ];
        assert_eq!(cells[1..4], want, "{name}");
        compared += 1;
    }
    assert!(
        compared >= 10,
        "{compared} cases of the README are compared"
    );
}
