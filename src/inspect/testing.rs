//! Tables and images for tests, from a few words.

use std::sync::Arc;

use crate::layer::{Entry, Kind, Meta, Toc};
use crate::oci::Digest;

/// A table from lines: `f PATH CONTENT [MODE]`, `d PATH [MODE]`, `o PATH` (opaque), `i PATH` (implied), `w PATH`, `l PATH TARGET`,
/// `s PATH TARGET`. A content `WORD*N` is N bytes long.
pub(crate) fn toc(lines: &str) -> Arc<Toc> {
    let lines = lines.lines().map(str::trim).filter(|l| !l.is_empty());
    Arc::new(Toc::from_entries(lines.map(entry).collect()))
}

fn entry(line: &str) -> Entry {
    let words: Vec<&str> = line.split(' ').collect();
    let dir = |opaque, implied| Kind::Directory { opaque, implied };
    let (kind, mode) = match words[0] {
        "f" => {
            let (text, size) = words[2].split_once('*').unwrap_or((words[2], ""));
            let size_bytes = size.parse().unwrap_or(text.len() as u64);
            let content = Some(Digest::of(words[2].as_bytes()));
            (
                Kind::File {
                    size_bytes,
                    content,
                },
                words.get(3).unwrap_or(&"644"),
            )
        }
        "d" => (dir(false, false), words.get(2).unwrap_or(&"755")),
        "o" => (dir(true, false), &"755"),
        "i" => (dir(false, true), &"755"),
        "w" => (Kind::Whiteout, &"0"),
        "l" => (
            Kind::HardLink {
                target: words[2].into(),
            },
            &"644",
        ),
        "s" => (
            Kind::Symlink {
                target: words[2].into(),
            },
            &"777",
        ),
        other => panic!("{other}"),
    };
    Entry {
        path: words[1].into(),
        meta: Meta {
            mode: u32::from_str_radix(mode, 8).unwrap(),
            ..Meta::default()
        },
        kind,
    }
}
