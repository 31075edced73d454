//! The little of tar that archives of images need: plain files by name, read in any order, and written in one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

const BLOCK: usize = 512;

/// How long a name in a header may be; a longer one goes into an extended header.
const NAME_BYTES: usize = 100;

/// The largest extended header or long name, bytes: a path is shorter than 4 KiB, a header has a few of them.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The most members an archive may have: an image has some hundreds.
const MAX_MEMBERS: usize = 1 << 20;

/// How many links may lie between a name and its file.
const MAX_LINKS: usize = 8;

/// A size that a header's octal digits cannot say is written in binary from here on.
const MAX_OCTAL_BYTES: u64 = 0o77_777_777_777;

/// Where a file's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

enum Member {
    File(Extent),
    /// A link, and the name it points to.
    Link(String),
}

/// The members of a tar by name.
pub(super) struct Members(HashMap<String, Member>);

impl Members {
    /// Reads the headers of a tar of `length` bytes; of members with the same name the last counts.
    pub(super) fn read(file: &File, length: u64) -> io::Result<Members> {
        let mut members = HashMap::new();
        let mut offset = 0;
        let mut path: Option<String> = None;
        let mut link: Option<String> = None;
        let mut long_size: Option<u64> = None;
        let mut block = [0; BLOCK];
        // A tar ends with two blocks of zeros; some writers leave them out.
        while offset < length {
            file.read_exact_at(&mut block, offset)
                .map_err(|_| bad("it ends inside a header"))?;
            if block == [0; BLOCK] {
                break;
            }
            let header = Header::parse(&block)?;
            let extended = matches!(header.kind, b'x' | b'g' | b'L' | b'K');
            let size = match long_size {
                Some(size) if !extended => size,
                _ => header.size,
            };
            let start = offset + BLOCK as u64;
            offset = size
                .checked_next_multiple_of(BLOCK as u64)
                .and_then(|padded| start.checked_add(padded))
                .filter(|_| start.checked_add(size).is_some_and(|end| end <= length))
                .ok_or_else(|| bad("it ends inside a member"))?;
            let extent = Extent {
                offset: start,
                size,
            };
            match header.kind {
                b'x' => {
                    for (key, value) in pax_records(&extension(file, extent)?)? {
                        match key.as_str() {
                            "path" => path = Some(value),
                            "linkpath" => link = Some(value),
                            "size" => {
                                let size = value.parse();
                                long_size = Some(size.map_err(|_| bad("a malformed size"))?);
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
                b'L' => path = Some(text(&extension(file, extent)?)),
                b'K' => link = Some(text(&extension(file, extent)?)),
                b'g' => {}
                kind => {
                    let path = clean(&path.take().unwrap_or(header.path));
                    let target = link.take().unwrap_or(header.link);
                    long_size = None;
                    let member = match kind {
                        b'0' | 0 | b'7' => Some(Member::File(extent)),
                        b'1' => Some(Member::Link(clean(&target))),
                        b'2' => Some(Member::Link(beside(&path, &target))),
                        // Folders and whatever else holds no bytes.
                        _ => None,
                    };
                    if let Some(member) = member {
                        members.insert(path, member);
                    }
                    if members.len() > MAX_MEMBERS {
                        return Err(bad("it has too many members"));
                    }
                }
            }
        }
        Ok(Members(members))
    }

    /// Where the bytes of a file are; links are followed.
    pub(super) fn find(&self, path: &str) -> Option<Extent> {
        let mut path = clean(path);
        for _ in 0..MAX_LINKS {
            match self.0.get(&path)? {
                Member::File(extent) => return Some(*extent),
                Member::Link(target) => path.clone_from(target),
            }
        }
        None
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a valid tar archive: {what}"),
    )
}

/// A path without `.`, `..` and empty parts. Names are only compared, so `..` needs no more than to be gone.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Where a symbolic link at `path` leads.
fn beside(path: &str, target: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) if !target.starts_with('/') => clean(&format!("{dir}/{target}")),
        _ => clean(target),
    }
}

fn extension(file: &File, extent: Extent) -> io::Result<Vec<u8>> {
    let length = usize::try_from(extent.size)
        .ok()
        .filter(|_| extent.size <= MAX_EXTENSION_BYTES)
        .ok_or_else(|| bad("an extended header is too large"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, extent.offset)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `LENGTH KEY=VALUE\n`… (POSIX pax, "Extended Header").
fn pax_records(mut bytes: &[u8]) -> io::Result<Vec<(String, String)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let malformed = || bad("a malformed extended header");
        let blank = bytes
            .iter()
            .position(|b| *b == b' ')
            .ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&bytes[..blank])
            .ok()
            .and_then(|t| t.parse().ok())
            .filter(|l| *l > blank + 1 && *l <= bytes.len())
            .ok_or_else(malformed)?;
        let record = String::from_utf8_lossy(&bytes[blank + 1..length - 1]).into_owned();
        let (key, value) = record.split_once('=').ok_or_else(malformed)?;
        records.push((key.to_owned(), value.to_owned()));
        bytes = &bytes[length..];
    }
    Ok(records)
}

struct Header {
    path: String,
    link: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(block: &[u8; BLOCK]) -> io::Result<Header> {
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
            .sum();
        if number(&block[148..156]) != Some(sum) {
            return Err(bad("a header has a wrong checksum"));
        }
        let name = text(&block[..100]);
        let prefix = text(&block[345..500]);
        let path = if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
            format!("{prefix}/{name}")
        } else {
            name
        };
        Ok(Header {
            path,
            link: text(&block[157..257]),
            size: number(&block[124..136]).ok_or_else(|| bad("a malformed size"))?,
            kind: block[156],
        })
    }
}

/// Octal digits, or GNU's binary form behind a set high bit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        if field[0] != 0x80 || high.iter().skip(1).any(|b| *b != 0) {
            return None;
        }
        return low.try_into().ok().map(u64::from_be_bytes);
    }
    let digits = field
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(|b| !matches!(b, b' ' | 0));
    digits.into_iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// The bytes of a member, from wherever the file is shared.
pub(super) struct MemberReader {
    file: Arc<File>,
    extent: Extent,
}

impl MemberReader {
    pub(super) fn new(file: &Arc<File>, extent: Extent) -> MemberReader {
        MemberReader {
            file: Arc::clone(file),
            extent,
        }
    }
}

impl Read for MemberReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.extent.size).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.file.read_at(&mut buf[..want], self.extent.offset)?;
        self.extent.offset += n as u64;
        self.extent.size -= n as u64;
        Ok(n)
    }
}

/// Writes the header of a member: no owner, no time.
pub(super) fn write_header(
    out: &mut impl Write,
    path: &str,
    size: u64,
    mode: u32,
) -> io::Result<()> {
    let kind = if path.ends_with('/') { b'5' } else { b'0' };
    if path.len() <= NAME_BYTES {
        return write_block(out, path, size, mode, kind);
    }
    // The length of a record counts its own digits.
    let rest = format!(" path={path}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    let record = format!("{length}{rest}");
    write_block(out, "pax", record.len() as u64, mode, b'x')?;
    out.write_all(record.as_bytes())?;
    write_padding(out, record.len() as u64)?;
    write_block(out, &path[..NAME_BYTES], size, mode, kind)
}

fn write_block(out: &mut impl Write, name: &str, size: u64, mode: u32, kind: u8) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    if size <= MAX_OCTAL_BYTES {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\x000000000\0");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

/// Fills the last block of a member.
pub(super) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let used = usize::try_from(size % BLOCK as u64).expect("less than a block");
    let missing = (BLOCK - used) % BLOCK;
    out.write_all(&[0; BLOCK][..missing])
}

/// Ends a tar.
pub(super) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(bytes: &[u8]) -> io::Result<(Arc<File>, Members)> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        let members = Members::read(&file, bytes.len() as u64)?;
        Ok((Arc::new(file), members))
    }

    fn content(file: &Arc<File>, extent: Extent) -> Vec<u8> {
        let mut bytes = Vec::new();
        MemberReader::new(file, extent)
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    #[test]
    fn another_writer_is_read() {
        let long = format!("{}/layer.tar", "d".repeat(180));
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_gnu();
        header.set_size(4);
        builder
            .append_data(&mut header, "./a/layer.tar", &b"AAAA"[..])
            .unwrap();
        builder
            .append_data(&mut header, &long, &b"LONG"[..])
            .unwrap();
        let mut link = ::tar::Header::new_gnu();
        link.set_entry_type(::tar::EntryType::Symlink);
        link.set_size(0);
        builder
            .append_link(&mut link, "b/layer.tar", "../a/layer.tar")
            .unwrap();
        link.set_entry_type(::tar::EntryType::Link);
        builder.append_link(&mut link, "c", "b/layer.tar").unwrap();
        builder.append_link(&mut link, "loop", "loop").unwrap();
        let (file, members) = members(&builder.into_inner().unwrap()).unwrap();
        for (path, want) in [
            ("a/layer.tar", b"AAAA"),
            ("/b/layer.tar", b"AAAA"),
            ("c", b"AAAA"),
            (long.as_str(), b"LONG"),
        ] {
            assert_eq!(content(&file, members.find(path).unwrap()), want, "{path}");
        }
        assert_eq!(members.find("loop"), None);
        assert_eq!(members.find("a"), None);
    }

    #[test]
    fn what_is_written_another_reader_reads() {
        let mut out = Vec::new();
        let long = format!("blobs/sha512/{}", "0".repeat(128));
        write_header(&mut out, &long, 0, 0o644).unwrap();
        write_header(&mut out, "blobs/", 0, 0o755).unwrap();
        write_header(&mut out, "blobs/x", 3, 0o644).unwrap();
        out.extend_from_slice(b"abc");
        write_padding(&mut out, 3).unwrap();
        write_end(&mut out).unwrap();
        let mut archive = ::tar::Archive::new(out.as_slice());
        let got: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                let h = e.header();
                let mode = h.mode().unwrap();
                (
                    e.path().unwrap().display().to_string(),
                    e.size(),
                    mode,
                    h.mtime().unwrap(),
                )
            })
            .collect();
        let want = [
            (long, 0, 0o644, 0),
            ("blobs/".to_owned(), 0, 0o755, 0),
            ("blobs/x".to_owned(), 3, 0o644, 0),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn sizes_past_octal_go_round() {
        for size in [0, MAX_OCTAL_BYTES, MAX_OCTAL_BYTES + 1, u64::MAX] {
            let mut out = Vec::new();
            write_header(&mut out, "x", size, 0o644).unwrap();
            let header = Header::parse(out.as_slice().try_into().unwrap()).unwrap();
            assert_eq!(header.size, size);
            assert!(members(&out).is_err() || size == 0);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = members(&bytes);
        }

        #[test]
        fn arbitrary_fields_never_panic(kind in any::<u8>(), size in any::<u64>(), rest in proptest::collection::vec(any::<u8>(), 0..1024)) {
            let mut out = Vec::new();
            write_header(&mut out, "x", size % 2048, 0o644).unwrap();
            out[156] = kind;
            let sum: u32 = out.iter().enumerate().map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
            out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            out.extend_from_slice(&rest);
            let _ = members(&out);
        }
    }
}
