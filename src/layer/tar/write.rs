//! Entries to tar headers.
//!
//! The bytes depend on the entry alone. A header is plain ustar wherever it can be; a pax header precedes it for what ustar
//! cannot say: names that neither fit nor split, or hold other bytes than ASCII, large sizes and ids, times before 1970, and
//! `security.capability`.

use super::{BLOCK, OPAQUE, WHITEOUT, XATTR, field, number};
use crate::layer::entry::{join, parent};
use crate::layer::error::text;
use crate::layer::{Entry, Kind, LayerError, TarFault};

/// What ends an archive: two blocks of zeros.
pub const TRAILER_BYTES: usize = 2 * BLOCK;

/// How many zero bytes follow content of this length.
pub fn padding_bytes(size_bytes: u64) -> usize {
    let padding = size_bytes.wrapping_neg() % BLOCK as u64;
    usize::try_from(padding).expect("a remainder of 512 fits")
}

/// Appends the headers of `entry`. A file's content and its padding are to follow; nothing follows anything else. An implied
/// directory and the root give no bytes, an opaque one is followed by its opaque OCI whiteout.
pub fn write_header(out: &mut Vec<u8>, entry: &Entry) -> Result<(), LayerError> {
    let bad = |fault| LayerError::Unrepresentable {
        path: text(&entry.path),
        fault,
    };
    let mut name = entry.path.clone();
    let mut link: &[u8] = b"";
    let mut size_bytes = 0;
    let mut device = (0, 0);
    let flag = match &entry.kind {
        Kind::Whiteout => return whiteout(out, &entry.path).map_err(bad),
        Kind::Directory { opaque, implied } => {
            if !*implied && !name.is_empty() {
                name.push(b'/');
                header(out, entry, b'5', &name, b"", 0, (0, 0)).map_err(bad)?;
                name.pop();
            }
            if *opaque {
                join(&mut name, OPAQUE);
                bare(out, &name).map_err(bad)?;
            }
            return Ok(());
        }
        Kind::File { size_bytes: n, .. } => {
            size_bytes = *n;
            b'0'
        }
        Kind::HardLink { target } => {
            link = target;
            b'1'
        }
        Kind::Symlink { target } => {
            link = target;
            b'2'
        }
        Kind::CharDevice { major, minor } => {
            device = (*major, *minor);
            b'3'
        }
        Kind::BlockDevice { major, minor } => {
            device = (*major, *minor);
            b'4'
        }
        Kind::Fifo => b'6',
    };
    if matches!(flag, b'1' | b'2') && link.is_empty() {
        return Err(bad(TarFault::NoTarget));
    }
    header(out, entry, flag, &name, link, size_bytes, device).map_err(bad)
}

/// The OCI whiteout of a path: an empty file that nobody owns, of no time.
fn whiteout(out: &mut Vec<u8>, path: &[u8]) -> Result<(), TarFault> {
    let dir = parent(path).ok_or(TarFault::Whiteout)?;
    let at = if dir.is_empty() { 0 } else { dir.len() + 1 };
    let mut name = dir.to_vec();
    join(&mut name, &[WHITEOUT, &path[at..]].concat());
    bare(out, &name)
}

fn bare(out: &mut Vec<u8>, name: &[u8]) -> Result<(), TarFault> {
    let nothing = Entry {
        path: Vec::new(),
        meta: crate::layer::Meta::default(),
        kind: Kind::Whiteout,
    };
    header(out, &nothing, b'0', name, b"", 0, (0, 0))
}

fn header(
    out: &mut Vec<u8>,
    entry: &Entry,
    flag: u8,
    name: &[u8],
    link: &[u8],
    size_bytes: u64,
    device: (u32, u32),
) -> Result<(), TarFault> {
    if name.is_empty() || name.contains(&0) || link.contains(&0) {
        return Err(TarFault::Name);
    }
    let mut pax = Pax::default();
    let mut block = [0; BLOCK];
    // ustar means ASCII by a name; other bytes are only safe in a pax record.
    match split(name).filter(|_| name.is_ascii()) {
        Some((prefix, rest)) => {
            put_text(&mut block[field::PREFIX], prefix);
            put_text(&mut block[field::NAME], rest);
        }
        None => {
            pax.record(b"path", name);
            put_text(&mut block[field::NAME], name);
        }
    }
    if link.len() > field::LINK.len() || !link.is_ascii() {
        pax.record(b"linkpath", link);
    }
    put_text(&mut block[field::LINK], link);
    let meta = &entry.meta;
    number::put_octal(&mut block[field::MODE], u64::from(meta.mode & 0o7777));
    for (key, range, id) in [
        (&b"uid"[..], field::UID, meta.uid),
        (b"gid", field::GID, meta.gid),
    ] {
        if !number::put_octal(&mut block[range], u64::from(id)) {
            pax.record(key, id.to_string().as_bytes());
        }
    }
    if !number::put_octal(&mut block[field::SIZE], size_bytes) {
        pax.record(b"size", size_bytes.to_string().as_bytes());
    }
    // A time that does not fit, or is before 1970, leaves zeros here.
    let seconds = u64::try_from(meta.mtime).unwrap_or(u64::MAX);
    if !number::put_octal(&mut block[field::MTIME], seconds) {
        pax.record(b"mtime", meta.mtime.to_string().as_bytes());
    }
    block[field::TYPE] = flag;
    block[field::MAGIC].copy_from_slice(b"ustar\0");
    block[field::VERSION].copy_from_slice(b"00");
    let (major, minor) = (u64::from(device.0), u64::from(device.1));
    if !number::put_octal(&mut block[field::MAJOR], major)
        || !number::put_octal(&mut block[field::MINOR], minor)
    {
        return Err(TarFault::Number("device number"));
    }
    for (xattr, value) in &meta.xattrs {
        // A key ends at the first `=`; it cannot be escaped.
        if xattr.is_empty() || xattr.contains(&b'=') || xattr.contains(&0) {
            return Err(TarFault::Pax);
        }
        pax.record(&[XATTR, xattr].concat(), value);
    }
    pax.write(out, name);
    seal(&mut block);
    out.extend_from_slice(&block);
    Ok(())
}

/// The records of one pax header.
#[derive(Default)]
struct Pax(Vec<(Vec<u8>, Vec<u8>)>);

impl Pax {
    fn record(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    /// The records sorted by key, behind a header of their own.
    fn write(mut self, out: &mut Vec<u8>, name: &[u8]) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort();
        let mut body = Vec::new();
        for (key, value) in &self.0 {
            // LENGTH SPACE key = value NEWLINE, where the length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + digits(length) {
                length = rest + digits(length);
            }
            body.extend_from_slice(format!("{length} ").as_bytes());
            body.extend_from_slice(key);
            body.push(b'=');
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let dir = parent(name).unwrap_or_default();
        let at = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let mut pax_name = dir.to_vec();
        join(&mut pax_name, b"PaxHeaders.0");
        join(&mut pax_name, &name[at..]);
        let mut block = [0; BLOCK];
        // Readers of pax ignore this name, so it may be cut.
        let ascii: Vec<u8> = pax_name.into_iter().filter(u8::is_ascii).collect();
        put_text(&mut block[field::NAME], &ascii);
        for range in [field::MODE, field::UID, field::GID, field::MTIME] {
            number::put_octal(&mut block[range], 0);
        }
        number::put_octal(&mut block[field::SIZE], body.len() as u64);
        block[field::TYPE] = b'x';
        block[field::MAGIC].copy_from_slice(b"ustar\0");
        block[field::VERSION].copy_from_slice(b"00");
        seal(&mut block);
        out.extend_from_slice(&block);
        let padding = padding_bytes(body.len() as u64);
        out.append(&mut body);
        out.resize(out.len() + padding, 0);
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |n| n as usize + 1)
}

/// A name as ustar's prefix and name: whole where it fits, else at the last slash that makes both fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len() {
        return Some((b"", name));
    }
    // The slash is written in neither part; one at the very end belongs to the name.
    let longest = (field::PREFIX.len() + 1).min(name.len() - 1);
    let slash = name[..longest].iter().rposition(|c| *c == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    let fits = !prefix.is_empty() && !rest.is_empty() && rest.len() <= field::NAME.len();
    fits.then_some((prefix, rest))
}

/// Copies what fits.
fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Fills in the checksum: the sum of all bytes, itself taken as blanks.
fn seal(block: &mut [u8; BLOCK]) {
    block[field::CHECKSUM].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    // Six digits, a NUL and the blank that is there.
    number::put_octal(&mut block[field::CHECKSUM][..7], sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Meta;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            meta: Meta {
                mode: 0o644,
                ..Meta::default()
            },
            kind,
        }
    }

    const FILE: Kind = Kind::File {
        size_bytes: 0,
        content: None,
    };

    fn blocks(entry: &Entry) -> usize {
        let mut out = Vec::new();
        write_header(&mut out, entry).unwrap();
        assert_eq!(out.len() % BLOCK, 0);
        out.len() / BLOCK
    }

    #[test]
    fn pax_only_where_needed() {
        let long = |n: usize| vec![b'x'; n];
        let deep = |dir: usize, name: usize| [long(dir), b"/".to_vec(), long(name)].concat();
        for (path, want) in [
            (b"plain".to_vec(), 1),
            (long(100), 1),
            (long(101), 3),
            (deep(155, 100), 1),
            (deep(156, 100), 3),
            (deep(155, 101), 3),
            ("ünicode".into(), 3),
            (b"\xff\xfe".to_vec(), 3),
        ] {
            assert_eq!(blocks(&entry(&path, FILE)), want, "{}", text(&path));
        }
        let with = |change: &dyn Fn(&mut Entry)| {
            let mut e = entry(b"f", FILE);
            change(&mut e);
            blocks(&e)
        };
        assert_eq!(with(&|e| e.meta.uid = 0o7777777), 1);
        assert_eq!(with(&|e| e.meta.uid = 0o10000000), 3);
        assert_eq!(with(&|e| e.meta.mtime = 0o77777777777), 1);
        assert_eq!(with(&|e| e.meta.mtime = 0o100000000000), 3);
        assert_eq!(with(&|e| e.meta.mtime = -1), 3);
        let size = |n: u64| Kind::File {
            size_bytes: n,
            content: None,
        };
        assert_eq!(with(&|e| e.kind = size((8 << 30) - 1)), 1);
        assert_eq!(with(&|e| e.kind = size(8 << 30)), 3);
        let capability = (b"security.capability".to_vec(), b"\x01\n\0=".to_vec());
        assert_eq!(with(&|e| e.meta.xattrs = vec![capability.clone()]), 3);
        let link = |n: usize| Kind::Symlink { target: long(n) };
        assert_eq!(with(&|e| e.kind = link(100)), 1);
        assert_eq!(with(&|e| e.kind = link(101)), 3);
    }

    #[test]
    fn whiteouts_are_empty_files_of_no_one() {
        let mut out = Vec::new();
        write_header(&mut out, &entry(b"a/b", Kind::Whiteout)).unwrap();
        assert_eq!(&out[..9], b"a/.wh.b\0\0");
        assert_eq!(&out[field::MODE], b"0000000\0");
        assert_eq!(&out[field::MTIME], b"00000000000\0");
        assert_eq!(out[field::TYPE], b'0');
        assert_eq!(out.len(), BLOCK);
        assert!(write_header(&mut out, &entry(b"", Kind::Whiteout)).is_err());
    }

    #[test]
    fn what_has_no_header() {
        let dir = |opaque, implied| Kind::Directory { opaque, implied };
        assert_eq!(blocks(&entry(b"a", dir(false, true))), 0);
        assert_eq!(blocks(&entry(b"", dir(false, false))), 0);
        assert_eq!(blocks(&entry(b"a", dir(true, false))), 2);
        assert_eq!(blocks(&entry(b"a", dir(false, false))), 1);
    }

    #[test]
    fn record_lengths_count_themselves() {
        for size in 1..1200 {
            let mut pax = Pax::default();
            pax.record(b"k", &vec![b'v'; size]);
            let mut out = Vec::new();
            pax.write(&mut out, b"n");
            let body = &out[BLOCK..];
            let end = body.iter().position(|c| *c == b'\n').unwrap();
            let space = body.iter().position(|c| *c == b' ').unwrap();
            let length = number::parse_decimal(&body[..space]).unwrap();
            assert_eq!(length, end as u64 + 1);
        }
    }
}
