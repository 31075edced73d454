//! The reader of layers: however the bytes arrive, it finds the same; nothing it gives leaves the root; the writer says it
//! again; and the table of contents of it can be kept.

use std::io::{self, BufRead, Read};

use strata::layer::tar::{Data, Member, TarReader, WhiteoutNames, write_header};
use strata::layer::{Entry, Kind, Toc};

/// Content beyond it is not looked at: holes are as long as a header says.
const MAX_CONTENT_BYTES: u64 = 1 << 20;

/// `data` is an archive.
pub(crate) fn check(data: &[u8]) {
    for whiteouts in [WhiteoutNames::Oci, WhiteoutNames::Literal] {
        let (found, end) = read(data, whiteouts);
        for step in [1, 511, 513] {
            let trickle = Trickle { data, step };
            let again = read(trickle, whiteouts);
            assert_eq!(
                again,
                (found.clone(), end.clone()),
                "{step} bytes at a time"
            );
        }
        let mut entries = Vec::new();
        for (at, member, _) in found {
            assert_eq!(at % 512, 0, "headers start at blocks");
            let entry = match member {
                Member::Opaque(path) => {
                    clean(&path);
                    continue;
                }
                Member::Entry(entry) => entry,
            };
            clean(&entry.path);
            if let Kind::HardLink { target } = &entry.kind {
                clean(target);
            }
            assert_eq!(entry.meta.mode & !0o7777, 0);
            assert!(entry.meta.xattrs.is_sorted_by(|a, b| a.0 < b.0));
            if whiteouts == WhiteoutNames::Oci {
                says_again(&entry);
            }
            entries.push(entry);
        }
        let toc = Toc::from_entries(entries);
        let kept = Toc::parse(toc.to_bytes()).expect("what was written can be read");
        assert_eq!(kept, toc);
        assert_eq!(Toc::from_entries(toc.entries().collect()), toc);
    }
}

/// Where each member started, what it was, and its content; then the error's words, if there was one.
type Found = Vec<(u64, Member, Vec<u8>)>;

fn read(input: impl BufRead, whiteouts: WhiteoutNames) -> (Found, Option<String>) {
    let mut reader = TarReader::new(input, whiteouts);
    let mut found = Vec::new();
    let result = loop {
        match reader.next_member() {
            Ok(Some(member)) => {
                let mut content = Vec::new();
                let error = content_of(&mut reader, &member, &mut content).err();
                found.push((reader.entry_offset(), member, content));
                if let Some(error) = error {
                    break Err(error);
                }
            }
            Ok(None) => break reader.drain(),
            Err(error) => break Err(error),
        }
    };
    (found, result.err().map(|error| format!("{error:?}")))
}

fn content_of<R: BufRead>(
    reader: &mut TarReader<R>,
    member: &Member,
    content: &mut Vec<u8>,
) -> Result<(), strata::layer::LayerError> {
    let mut length = 0;
    let ended = loop {
        match reader.data()? {
            Data::Bytes(bytes) => {
                assert!(!bytes.is_empty());
                content.extend_from_slice(bytes);
                let count = bytes.len();
                length += count as u64;
                reader.consume(count);
            }
            Data::Hole(size) => {
                assert!(size > 0);
                length += size;
                content.push(0);
                if length > MAX_CONTENT_BYTES {
                    break false;
                }
            }
            Data::End => break true,
        }
    };
    if let (true, Member::Entry(entry)) = (ended, member) {
        let size = match entry.kind {
            Kind::File { size_bytes, .. } => size_bytes,
            _ => 0,
        };
        assert_eq!(length, size, "{entry:?}");
    }
    Ok(())
}

fn clean(path: &[u8]) {
    let fine = path.is_empty()
        || path
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0));
    assert!(fine, "{:?}", String::from_utf8_lossy(path));
}

/// What the writer makes of an entry is that entry; attributes of other systems are not written.
fn says_again(entry: &Entry) {
    let mut bytes = Vec::new();
    if !entry.meta.xattrs.is_empty() || write_header(&mut bytes, entry).is_err() || bytes.is_empty()
    {
        return;
    }
    let mut reader = TarReader::new(&bytes[..], WhiteoutNames::Oci);
    let again = reader.next_member().expect("what was written can be read");
    if entry.kind == Kind::Whiteout {
        // A whiteout has no owner and no mode.
        assert!(
            matches!(&again, Some(Member::Entry(e)) if e.path == entry.path && e.kind == entry.kind)
        );
    } else {
        assert_eq!(again, Some(Member::Entry(entry.clone())));
    }
}

/// Bytes that arrive a few at a time.
struct Trickle<'d> {
    data: &'d [u8],
    step: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut now = self.fill_buf()?;
        let count = now.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Trickle<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.data[..self.data.len().min(self.step)])
    }

    fn consume(&mut self, count: usize) {
        self.data = &self.data[count..];
    }
}
