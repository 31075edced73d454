//! Tar headers to entries.
//!
//! Reads ustar, pax, the old format, and GNU's long names, base-256 numbers and sparse files. What a name means is decided
//! here once: paths come out clean, and what would lead upwards is an error.

use std::io::{self, BufRead};

use super::sparse::{self, Map};
use super::{AUFS, BLOCK, OPAQUE, WHITEOUT, XATTR, field, number};
use crate::layer::error::text;
use crate::layer::{Entry, Kind, LayerError, Meta, TarFault};

/// The longest extended header; Go's reader, and so containerd's, has the same limit.
const MAX_PAX_BYTES: u64 = 1 << 20;

/// The kernel takes no longer path or link target (PATH_MAX, less its NUL).
const MAX_NAME_BYTES: usize = 4095;

/// More attributes or headers before one entry than any real archive has.
const MAX_XATTRS: usize = 1024;

/// Whether names like `.wh.x` mean something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhiteoutNames {
    /// They are OCI whiteouts: the archive is a layer.
    Oci,
    /// They are names like any other: the archive is a file tree.
    Literal,
}

/// One thing the archive says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Member {
    /// A path; a file's content is read with [`TarReader::data`].
    Entry(Entry),
    /// The directory of this path hides what lower layers have in it.
    Opaque(Vec<u8>),
}

/// A stretch of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data<'a> {
    /// Bytes, never none; as many as lie in memory. Take them with [`TarReader::consume`].
    Bytes(&'a [u8]),
    /// So many zero bytes that are not stored; taken already.
    Hole(u64),
    /// There is no more.
    End,
}

/// Reads an archive entry by entry.
pub struct TarReader<R> {
    inner: R,
    whiteouts: WhiteoutNames,
    /// How many bytes were taken from `inner`.
    offset: u64,
    /// Where the current entry's first header starts.
    start: u64,
    name: String,
    /// Stored bytes of the current entry that are still to come.
    stored: u64,
    /// Zero bytes after them.
    padding: u64,
    /// What is left of a sparse file's map, last part first, and how far its content went.
    sparse: Option<(Map, u64)>,
    ended: bool,
}

/// What the extended headers before an entry say.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_parts: Option<Vec<(u64, u64)>>,
    sparse_offset: Option<u64>,
}

impl<R: BufRead> TarReader<R> {
    /// Reads the archive that `inner` gives, uncompressed.
    pub fn new(inner: R, whiteouts: WhiteoutNames) -> TarReader<R> {
        TarReader {
            inner,
            whiteouts,
            offset: 0,
            start: 0,
            name: String::new(),
            stored: 0,
            padding: 0,
            sparse: None,
            ended: false,
        }
    }

    /// What the archive is read from.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Where the current entry's first header starts.
    pub fn entry_offset(&self) -> u64 {
        self.start
    }

    /// The next entry; what was not read of the one before is skipped. `None` at the archive's end: two blocks of zeros, or
    /// the end of the input where an entry could start.
    pub fn next_member(&mut self) -> Result<Option<Member>, LayerError> {
        self.skip_rest()?;
        let mut extended = Extended::default();
        let mut first = true;
        loop {
            if self.ended {
                return Ok(None);
            }
            if first {
                self.start = self.offset;
                self.name.clear();
            }
            let Some(block) = self.header_block(first)? else {
                return Ok(None);
            };
            first = false;
            match self.header(&block, &mut extended)? {
                Some(member) => return Ok(Some(member)),
                None if !is_prelude(block[field::TYPE]) => {
                    // An entry without a meaning; the next one starts afresh.
                    self.skip_rest()?;
                    extended = Extended::default();
                    first = true;
                }
                None => {}
            }
        }
    }

    /// The next stretch of the current file's content.
    pub fn data(&mut self) -> Result<Data<'_>, LayerError> {
        let mut limit = self.stored;
        if let Some((map, at)) = &mut self.sparse {
            while let Some((offset, length)) = map.parts.last_mut() {
                if *offset > *at {
                    let hole = *offset - *at;
                    *at = *offset;
                    return Ok(Data::Hole(hole));
                }
                if *length > 0 {
                    limit = limit.min(*length);
                    break;
                }
                map.parts.pop();
            }
            if map.parts.is_empty() {
                let hole = map.size_bytes - *at;
                *at = map.size_bytes;
                return Ok(match hole {
                    0 => Data::End,
                    _ => Data::Hole(hole),
                });
            }
        }
        if limit == 0 {
            return Ok(Data::End);
        }
        // Filled and looked at in two steps, because the error needs what the bytes borrow.
        if self.fill()? == 0 {
            return Err(self.fault(TarFault::Truncated));
        }
        let offset_bytes = self.offset;
        let buffer = self.inner.fill_buf().map_err(|source| LayerError::Input {
            offset_bytes,
            source,
        })?;
        let length = buffer
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Data::Bytes(&buffer[..length]))
    }

    /// Takes `count` of the bytes that [`TarReader::data`] gave last.
    pub fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        let taken = count as u64;
        self.offset += taken;
        self.stored = self.stored.saturating_sub(taken);
        if let Some((map, at)) = &mut self.sparse {
            *at += taken;
            if let Some((offset, length)) = map.parts.last_mut() {
                *offset += taken;
                *length = length.saturating_sub(taken);
            }
        }
    }

    /// Reads what follows the archive's end up to the end of the input.
    pub fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            let count = self.fill()?;
            if count == 0 {
                return Ok(());
            }
            self.inner.consume(count);
            self.offset += count as u64;
        }
    }

    /// An error at the current entry.
    pub fn fault(&self, fault: TarFault) -> LayerError {
        LayerError::Archive {
            offset_bytes: self.start,
            name: self.name.clone(),
            fault,
        }
    }

    /// How many bytes lie in memory, after reading some if there were none; 0 at the end.
    fn fill(&mut self) -> Result<usize, LayerError> {
        loop {
            match self.inner.fill_buf() {
                Ok(buffer) => return Ok(buffer.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(LayerError::Input {
                        offset_bytes: self.offset,
                        source,
                    });
                }
            }
        }
    }

    /// Reads up to `out.len()` bytes; fewer only at the end of the input.
    fn take(&mut self, out: &mut [u8]) -> Result<usize, LayerError> {
        let mut done = 0;
        while done < out.len() {
            if self.fill()? == 0 {
                break;
            }
            let offset_bytes = self.offset;
            let buffer = self.inner.fill_buf().map_err(|source| LayerError::Input {
                offset_bytes,
                source,
            })?;
            let count = buffer.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&buffer[..count]);
            self.inner.consume(count);
            self.offset += count as u64;
            done += count;
        }
        Ok(done)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], LayerError> {
        let mut block = [0; BLOCK];
        match self.take(&mut block)? {
            BLOCK => Ok(block),
            _ => Err(self.fault(TarFault::Truncated)),
        }
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        self.sparse = None;
        let mut left = self.stored + self.padding;
        // The padding of the last entry may be missing.
        while left > 0 {
            let count = self.fill()? as u64;
            if count == 0 {
                if left > self.padding {
                    return Err(self.fault(TarFault::Truncated));
                }
                break;
            }
            let count = count.min(left);
            self.inner
                .consume(usize::try_from(count).unwrap_or(usize::MAX));
            self.offset += count;
            left -= count;
        }
        (self.stored, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header's block; `None` at the archive's end.
    fn header_block(&mut self, first: bool) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let count = self.take(&mut block)?;
        if count == 0 && first {
            self.ended = true;
            return Ok(None);
        }
        if count < BLOCK {
            return Err(self.fault(TarFault::Truncated));
        }
        if block != [0; BLOCK] {
            self.check_sum(&block)?;
            return Ok(Some(block));
        }
        let count = self.take(&mut block)?;
        if !first || (count == BLOCK && block != [0; BLOCK]) {
            // A single block of zeros among entries: readers disagree about what follows, so nobody should rely on it.
            return Err(self.fault(TarFault::Checksum));
        }
        self.ended = true;
        Ok(None)
    }

    fn check_sum(&self, block: &[u8; BLOCK]) -> Result<(), LayerError> {
        let stated = number::parse(&block[field::CHECKSUM]);
        let masked = block.iter().enumerate().map(|(at, byte)| match at {
            148..156 => b' ',
            _ => *byte,
        });
        // Some old writers summed signed bytes.
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for byte in masked {
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stated == Some(unsigned) || stated == Some(signed) {
            Ok(())
        } else {
            Err(self.fault(TarFault::Checksum))
        }
    }

    /// Takes one header: part of what precedes an entry (`None`), or the entry.
    fn header(
        &mut self,
        block: &[u8; BLOCK],
        extended: &mut Extended,
    ) -> Result<Option<Member>, LayerError> {
        let flag = block[field::TYPE];
        if self.name.is_empty() {
            self.name = text(&short_name(block));
        }
        let size = number::parse(&block[field::SIZE]).and_then(|n| u64::try_from(n).ok());
        let size = size.ok_or_else(|| self.fault(TarFault::Number("size")))?;
        match flag {
            b'x' | b'X' => {
                let body = self.prelude("extended header", size)?;
                extended.read(&body).map_err(|f| self.fault(f))?;
            }
            // What a global header says, Go's reader, and so containerd's, leaves out; its grammar is checked.
            b'g' => {
                let body = self.prelude("global header", size)?;
                let mut ignored = Extended::default();
                ignored.read(&body).map_err(|f| self.fault(f))?;
            }
            b'L' => extended.path = Some(until_nul(self.prelude("long name", size)?)),
            b'K' => extended.link = Some(until_nul(self.prelude("long link name", size)?)),
            // A volume's label.
            b'V' => self.expect_content(size)?,
            _ => return self.entry(block, flag, size, extended),
        }
        Ok(None)
    }

    /// The content of a header that precedes an entry.
    fn prelude(&mut self, what: &'static str, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        if size_bytes > MAX_PAX_BYTES {
            return Err(self.fault(TarFault::TooLarge {
                what,
                size_bytes,
                limit_bytes: MAX_PAX_BYTES,
            }));
        }
        let length = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        let mut body = vec![0; length.next_multiple_of(BLOCK)];
        if self.take(&mut body)? < length {
            return Err(self.fault(TarFault::Truncated));
        }
        body.truncate(length);
        Ok(body)
    }

    fn expect_content(&mut self, size: u64) -> Result<(), LayerError> {
        let padding = size.wrapping_neg() % BLOCK as u64;
        if size.checked_add(padding).is_none() {
            return Err(self.fault(TarFault::Number("size")));
        }
        (self.stored, self.padding) = (size, padding);
        Ok(())
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        flag: u8,
        size: u64,
        extended: &mut Extended,
    ) -> Result<Option<Member>, LayerError> {
        let extended = std::mem::take(extended);
        let raw = extended.sparse_name.as_ref().or(extended.path.as_ref());
        let raw = raw.map_or_else(|| short_name(block), Vec::clone);
        self.name = text(&raw);
        let path = clean(&raw, self.whiteouts).map_err(|f| self.fault(f))?;
        let link = || {
            let field = until_nul(block[field::LINK].to_vec());
            extended.link.clone().unwrap_or(field)
        };
        let directory = Kind::Directory {
            opaque: false,
            implied: false,
        };
        let kind = match flag {
            // Before ustar a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if raw.ends_with(b"/") => directory,
            0 | b'0' | b'7' | b'S' => {
                let size_bytes = self.content(block, flag, size, &extended)?;
                Kind::File {
                    size_bytes,
                    content: None,
                }
            }
            b'1' => Kind::HardLink {
                target: clean(&link(), self.whiteouts).map_err(|f| self.fault(f))?,
            },
            b'2' => Kind::Symlink { target: link() },
            b'3' | b'4' => {
                let (major, minor) = self.device(block)?;
                match flag {
                    b'3' => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                }
            }
            b'5' | b'D' => directory,
            b'6' => Kind::Fifo,
            other => return Err(self.fault(TarFault::Type(char::from(other)))),
        };
        // GNU's incremental directories have their listing as content; nothing else but files has any.
        if flag == b'D' {
            self.expect_content(extended.size.unwrap_or(size))?;
        }
        if let Kind::HardLink { target } | Kind::Symlink { target } = &kind {
            if target.is_empty() {
                return Err(self.fault(TarFault::NoTarget));
            }
            if target.contains(&0) || target.len() > MAX_NAME_BYTES {
                return Err(self.fault(TarFault::Name));
            }
        }
        if path.is_empty() && !matches!(kind, Kind::Directory { .. }) {
            return Err(self.fault(TarFault::Root));
        }
        if self.whiteouts == WhiteoutNames::Oci
            && let Some(member) = self.whiteout(&path)?
        {
            return Ok(member);
        }
        let meta = self.meta(block, extended)?;
        Ok(Some(Member::Entry(Entry { path, meta, kind })))
    }

    /// The whiteout that a name stands for; inner `None`: a name that AUFS used, which stands for nothing.
    fn whiteout(&mut self, path: &[u8]) -> Result<Option<Option<Member>>, LayerError> {
        let slash = path.iter().rposition(|c| *c == b'/');
        let (dir, name) = slash.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        if name == OPAQUE {
            return Ok(Some(Some(Member::Opaque(dir.to_vec()))));
        }
        if name.starts_with(AUFS) {
            return Ok(Some(None));
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(None);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.fault(TarFault::Whiteout));
        }
        let mut target = dir.to_vec();
        if !dir.is_empty() {
            target.push(b'/');
        }
        target.extend_from_slice(hidden);
        Ok(Some(Some(Member::Entry(Entry {
            path: target,
            meta: Meta::default(),
            kind: Kind::Whiteout,
        }))))
    }

    /// Prepares for a file's content and says how long it is.
    fn content(
        &mut self,
        block: &[u8; BLOCK],
        flag: u8,
        size: u64,
        extended: &Extended,
    ) -> Result<u64, LayerError> {
        let size = extended.size.unwrap_or(size);
        self.expect_content(size)?;
        let bad = |f| LayerError::Archive {
            offset_bytes: self.start,
            name: self.name.clone(),
            fault: f,
        };
        let (parts, whole) = if flag == b'S' {
            let whole = sparse::old_size(block).map_err(bad)?;
            let mut parts = Vec::new();
            let mut more = sparse::old_pairs(block, true, &mut parts).map_err(bad)?;
            while more {
                let next = self.block()?;
                more = sparse::old_pairs(&next, false, &mut parts).map_err(|f| self.fault(f))?;
            }
            (parts, whole)
        } else if extended.sparse_major == Some(1) && extended.sparse_minor == Some(0) {
            let whole = extended.sparse_size.ok_or_else(|| bad(TarFault::Sparse))?;
            let mut lines = sparse::Lines::default();
            loop {
                if self.stored < BLOCK as u64 {
                    return Err(self.fault(TarFault::Sparse));
                }
                let next = self.block()?;
                self.stored -= BLOCK as u64;
                if lines.feed(&next).map_err(|f| self.fault(f))? {
                    break;
                }
            }
            (lines.parts, whole)
        } else if let Some(parts) = &extended.sparse_parts {
            let whole = extended.sparse_size.ok_or_else(|| bad(TarFault::Sparse))?;
            (parts.clone(), whole)
        } else {
            return Ok(size);
        };
        let map = Map::new(parts, whole, self.stored).map_err(|f| self.fault(f))?;
        let mut map = map;
        map.parts.reverse();
        self.sparse = Some((map, 0));
        Ok(whole)
    }

    fn device(&self, block: &[u8; BLOCK]) -> Result<(u32, u32), LayerError> {
        let value = |range| {
            let value = number::parse(&block[range]).and_then(|n| u32::try_from(n).ok());
            value.ok_or_else(|| self.fault(TarFault::Number("device number")))
        };
        Ok((value(field::MAJOR)?, value(field::MINOR)?))
    }

    fn meta(&self, block: &[u8; BLOCK], extended: Extended) -> Result<Meta, LayerError> {
        let bad = |what| self.fault(TarFault::Number(what));
        let mode = number::parse(&block[field::MODE]).ok_or_else(|| bad("mode"))?;
        let id = |what, range, said: Option<u64>| {
            let raw = number::parse(&block[range]).and_then(|n| u64::try_from(n).ok());
            let value = said.or(raw).and_then(|n| u32::try_from(n).ok());
            // The last number means "no one" to the kernel.
            value.filter(|n| *n != u32::MAX).ok_or_else(|| bad(what))
        };
        let mtime = number::parse(&block[field::MTIME]);
        let mut xattrs = extended.xattrs;
        xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Meta {
            // The low 12 bits.
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id("uid", field::UID, extended.uid)?,
            gid: id("gid", field::GID, extended.gid)?,
            mtime: extended.mtime.or(mtime).ok_or_else(|| bad("mtime"))?,
            xattrs,
        })
    }
}

/// Whether a header of this type belongs to the entry after it.
fn is_prelude(flag: u8) -> bool {
    matches!(flag, b'x' | b'X' | b'g' | b'L' | b'K')
}

impl Extended {
    /// Reads pax records: `LENGTH KEY=VALUE\n`, where the length counts all of it.
    fn read(&mut self, mut body: &[u8]) -> Result<(), TarFault> {
        while !body.is_empty() {
            // 20 digits hold any length.
            let space = body.iter().take(21).position(|c| *c == b' ');
            let space = space.ok_or(TarFault::Pax)?;
            let length = number::parse_decimal(&body[..space]).ok_or(TarFault::Pax)?;
            let length = usize::try_from(length).map_err(|_| TarFault::Pax)?;
            let record = body.get(space + 1..length).ok_or(TarFault::Pax)?;
            let record = record.strip_suffix(b"\n").ok_or(TarFault::Pax)?;
            let equals = record.iter().position(|c| *c == b'=');
            let equals = equals.filter(|at| *at > 0).ok_or(TarFault::Pax)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            body = &body[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarFault> {
        let count = |what| number::parse_decimal(value).ok_or(TarFault::Number(what));
        match key {
            // An empty value takes the record back.
            b"path" => self.path = Some(value.to_vec()).filter(|v| !v.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|v| !v.is_empty()),
            b"size" if value.is_empty() => self.size = None,
            b"uid" if value.is_empty() => self.uid = None,
            b"gid" if value.is_empty() => self.gid = None,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"size" => self.size = Some(count("size")?),
            b"uid" => self.uid = Some(count("uid")?),
            b"gid" => self.gid = Some(count("gid")?),
            b"mtime" => {
                let seconds = number::parse_seconds(value).ok_or(TarFault::Number("mtime"))?;
                self.mtime = Some(seconds);
            }
            b"GNU.sparse.major" => self.sparse_major = Some(count("sparse version")?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(count("sparse version")?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_size = Some(count("sparse size")?);
            }
            b"GNU.sparse.map" => self.sparse_parts = Some(sparse::listed(value)?),
            // The number of parts; they are counted as they come.
            b"GNU.sparse.numblocks" => {
                self.sparse_parts.get_or_insert_default();
            }
            b"GNU.sparse.offset" => self.sparse_offset = Some(count("sparse offset")?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse_offset.take().ok_or(TarFault::Sparse)?;
                let parts = self.sparse_parts.get_or_insert_default();
                sparse::push(parts, offset, count("sparse length")?)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarFault> {
        if name.is_empty() || name.contains(&0) || self.xattrs.len() >= MAX_XATTRS {
            return Err(TarFault::Pax);
        }
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// The name in the header itself.
fn short_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(block[field::NAME].to_vec());
    // Only POSIX has a prefix; GNU keeps other things there.
    if &block[field::MAGIC] != b"ustar\0" {
        return name;
    }
    let mut whole = until_nul(block[field::PREFIX].to_vec());
    if whole.is_empty() {
        return name;
    }
    whole.push(b'/');
    whole.extend(name);
    whole
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|c| *c == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

/// The name as a path of a layer. In a layer a name that leads upwards is refused even where it would come back, because
/// readers disagree; in an archive of files `a/../b` is `b`, and only what leaves the archive is refused.
fn clean(name: &[u8], names: WhiteoutNames) -> Result<Vec<u8>, TarFault> {
    if name.is_empty() || name.contains(&0) {
        return Err(TarFault::Name);
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." if names == WhiteoutNames::Literal && !path.is_empty() => {
                path.truncate(path.iter().rposition(|c| *c == b'/').unwrap_or(0));
            }
            b".." => return Err(TarFault::Upwards(text(name))),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    if path.len() > MAX_NAME_BYTES || path.split(|c| *c == b'/').any(|part| part.len() > 255) {
        return Err(TarFault::Name);
    }
    Ok(path)
}
