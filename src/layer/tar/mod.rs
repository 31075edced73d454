//! The tar format: what the reader and the writer share.
//!
//! ustar and pax are POSIX.1-2024 "pax Interchange Format"; the long names, base-256 numbers and sparse files of GNU are read
//! and never written. Whiteouts follow image-spec layer.md.

pub(super) mod number;
mod read;
mod sparse;
mod write;

pub use read::{Data, Member, TarReader, WhiteoutNames};
pub use write::{TRAILER_BYTES, padding_bytes, write_header};

/// Everything comes in blocks of this size.
pub(crate) const BLOCK: usize = 512;

/// The prefix of the name of an OCI whiteout.
const WHITEOUT: &[u8] = b".wh.";

/// The name of an opaque OCI whiteout.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The prefix of names that AUFS used for itself; all but [`OPAQUE`] mean nothing.
const AUFS: &[u8] = b".wh..wh.";

/// What precedes an extended attribute's name in a pax record.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Where a header's fields are.
pub(super) mod field {
    use std::ops::Range;

    pub(in crate::layer) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(in crate::layer) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(in crate::layer) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..263;
    pub(super) const VERSION: Range<usize> = 263..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::layer::{Entry, Kind, LayerError, Meta, TarFault};

    /// An archive of entries and contents, by the writer.
    fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (entry, content) in entries {
            write_header(&mut out, entry).unwrap();
            out.extend_from_slice(content);
            out.resize(out.len() + padding_bytes(content.len() as u64), 0);
        }
        out.resize(out.len() + TRAILER_BYTES, 0);
        out
    }

    /// All that the reader finds.
    fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, LayerError> {
        let mut reader = TarReader::new(bytes, WhiteoutNames::Oci);
        let mut all = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut content = Vec::new();
            loop {
                match reader.data()? {
                    Data::Bytes(bytes) => {
                        content.extend_from_slice(bytes);
                        let count = bytes.len();
                        reader.consume(count);
                    }
                    // Small, or the test would not be about it.
                    Data::Hole(size) if size > 1 << 24 => break,
                    Data::Hole(size) => {
                        content.resize(content.len() + usize::try_from(size).unwrap(), 0)
                    }
                    Data::End => break,
                }
            }
            all.push((member, content));
        }
        reader.drain()?;
        Ok(all)
    }

    fn entry(path: &[u8], kind: Kind) -> Entry {
        let meta = Meta {
            mode: 0o644,
            ..Meta::default()
        };
        Entry {
            path: path.to_vec(),
            meta,
            kind,
        }
    }

    fn file(size: usize) -> Kind {
        Kind::File {
            size_bytes: size as u64,
            content: None,
        }
    }

    /// A header with fields set by hand, its checksum right.
    fn raw(name: &[u8], flag: u8, size: &[u8], link: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[field::MODE].copy_from_slice(b"0000755\0");
        block[field::SIZE][..size.len()].copy_from_slice(size);
        block[field::TYPE] = flag;
        block[field::LINK][..link.len()].copy_from_slice(link);
        block[field::MAGIC].copy_from_slice(b"ustar\0");
        block[field::CHECKSUM].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        number::put_octal(&mut block[field::CHECKSUM][..7], sum);
        block
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn fault(bytes: &[u8]) -> TarFault {
        match read(bytes) {
            Err(LayerError::Archive { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let upwards = |n: &str| TarFault::Upwards(n.to_owned());
        for (name, flag, link, want) in [
            (&b"../x"[..], b'0', &b""[..], upwards("../x")),
            (b"a/../../x", b'0', b"", upwards("a/../../x")),
            (b"a/..", b'5', b"", upwards("a/..")),
            (b"/../x", b'0', b"", upwards("/../x")),
            (b"x", b'1', b"../y", upwards("../y")),
            (b"x", b'1', b"", TarFault::Name),
            (b"x", b'1', b"/", TarFault::NoTarget),
            (b"x", b'2', b"", TarFault::NoTarget),
            (b"", b'0', b"", TarFault::Name),
            (b"./", b'2', b"x", TarFault::Root),
            (b"a/.wh.", b'0', b"", TarFault::Whiteout),
            (b".wh...", b'0', b"", TarFault::Whiteout),
            (b".wh..", b'0', b"", TarFault::Whiteout),
            (b"x", b'?', b"", TarFault::Type('?')),
        ] {
            let name_text = String::from_utf8_lossy(name).into_owned();
            assert_eq!(fault(&raw(name, flag, b"0", link)), want, "{name_text}");
        }
        assert_eq!(
            fault(&raw(b"x", b'0', b"9z", b"")),
            TarFault::Number("size")
        );
        let max = [&b"\x80\0\0\0\x7f"[..], &[0xff; 7]].concat();
        assert_eq!(fault(&raw(b"x", b'0', &max, b"")), TarFault::Truncated);
        let negative = [0xff; 12];
        assert_eq!(
            fault(&raw(b"x", b'0', &negative, b"")),
            TarFault::Number("size")
        );
        let pax = fault(&raw(b"x", b'x', b"77777777777", b""));
        assert!(matches!(pax, TarFault::TooLarge { .. }));
        let mut broken = raw(b"x", b'0', b"0", b"");
        broken[0] = b'y';
        assert_eq!(fault(&broken), TarFault::Checksum);
        for body in [
            &b"9999999999 path=x\n"[..],
            b"0 path=x\n",
            b"5 path=x\n",
            b"10 path=xx",
            b"nonsense",
            b"99999999999999999999999 path=x\n",
            b"6 =xx\n",
            b"18446744073709551615 path=x\n",
        ] {
            let size = format!("{:o}", body.len());
            let header = raw(b"x", b'x', size.as_bytes(), b"");
            let bytes = [header, padded(body.to_vec()), raw(b"y", b'0', b"0", b"")].concat();
            assert_eq!(
                fault(&bytes),
                TarFault::Pax,
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        for (body, want) in [
            (&b"12 path=a\0b\n"[..], TarFault::Name),
            (b"14 path=../xx\n", upwards("../xx")),
            (b"18 uid=4294967295\n", TarFault::Number("uid")),
        ] {
            let size = format!("{:o}", body.len());
            let header = raw(b"x", b'x', size.as_bytes(), b"");
            let bytes = [header, padded(body.to_vec()), raw(b"y", b'0', b"0", b"")].concat();
            assert_eq!(fault(&bytes), want);
        }
        let long = [b"a/".repeat(100_000), b"f\0".to_vec()].concat();
        let size = format!("{:o}", long.len());
        let bytes = [
            raw(b"x", b'L', size.as_bytes(), b""),
            padded(long),
            raw(b"y", b'0', b"0", b""),
        ];
        assert_eq!(fault(&bytes.concat()), TarFault::Name);
    }

    #[test]
    fn a_cut_archive_is_an_error_everywhere() {
        let long = vec![b'n'; 150];
        let whole = archive(&[
            (entry(&long, file(700)), vec![7; 700]),
            (entry(b"z", Kind::Fifo), vec![]),
        ]);
        let first = 3 * BLOCK + 1024;
        for cut in 0..whole.len() {
            let result = read(&whole[..cut]);
            // Clean ends: nothing, before the second entry (its padding may be missing), after it, after a block of zeros.
            let clean = cut == 0
                || (first - 324..=first).contains(&cut)
                || cut == first + BLOCK
                || cut >= first + 2 * BLOCK;
            assert_eq!(result.is_ok(), clean, "{cut}");
        }
    }

    #[test]
    fn names_are_cleaned() {
        for (name, want) in [
            ("/abs/x", "abs/x"),
            ("./x", "x"),
            ("a//b/./c", "a/b/c"),
            ("...", "..."),
        ] {
            let bytes = raw(name.as_bytes(), b'0', b"0", b"");
            let Member::Entry(e) = &read(&bytes).unwrap()[0].0 else {
                panic!()
            };
            assert_eq!(e.path, want.as_bytes());
        }
    }

    #[test]
    fn whiteouts_are_recognised() {
        let bytes = [
            raw(b"d/.wh..wh..opq", b'0', b"0", b""),
            raw(b".wh..wh.plnk/12.3", b'0', b"0", b""),
            raw(b".wh..wh.aufs", b'0', b"0", b""),
            raw(b"d/.wh.gone", b'0', b"0", b""),
        ]
        .concat();
        let all = read(&bytes).unwrap();
        assert_eq!(all[0].0, Member::Opaque(b"d".to_vec()));
        let gone = &all.last().unwrap().0;
        assert!(
            matches!(gone, Member::Entry(e) if e.path == b"d/gone" && e.kind == Kind::Whiteout)
        );
        let mut literal = TarReader::new(&bytes[..], WhiteoutNames::Literal);
        let first = literal.next_member().unwrap().unwrap();
        assert!(matches!(first, Member::Entry(e) if e.path == b"d/.wh..wh..opq"));
    }

    #[test]
    fn gnu_tar_reads_what_is_written_and_writes_what_is_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("t");
        let deep = dir.join("d".repeat(120)).join("e".repeat(130));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("\u{fc}n\u{ef}"), b"content").unwrap();
        std::os::unix::fs::symlink("t".repeat(300), dir.join("link")).unwrap();
        let mut sparse = std::fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        for at in (0..40u64).map(|n| n * 65536) {
            std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at).unwrap();
        }
        sparse.flush().unwrap();
        let plain = std::fs::read(dir.join("sparse")).unwrap();
        for format in [
            &["--format=gnu"][..],
            &["--format=gnu", "-S"],
            &["--format=posix"],
            &["--format=posix", "-S", "--sparse-version=0.0"],
            &["--format=posix", "-S", "--sparse-version=0.1"],
            &["--format=posix", "-S", "--sparse-version=1.0"],
        ] {
            let made = Command::new("tar")
                .args(format)
                .args(["-C", home.path().to_str().unwrap(), "-cf", "-", "t"])
                .output()
                .unwrap();
            assert!(made.status.success());
            let all = read(&made.stdout).unwrap();
            assert_eq!(all.len(), 6, "{format:?}");
            let found = |end: &str| {
                let is =
                    |m: &Member| matches!(m, Member::Entry(e) if e.path.ends_with(end.as_bytes()));
                all.iter().find(|(m, _)| is(m)).unwrap()
            };
            assert_eq!(found("n\u{ef}").1, b"content");
            let (member, content) = found("sparse");
            assert!(content == &plain, "{format:?}");
            assert!(matches!(
                member,
                Member::Entry(Entry {
                    kind: Kind::File {
                        size_bytes: 3145728,
                        ..
                    },
                    ..
                })
            ));
        }
        let odd = vec![b'o'; 200];
        let written = archive(&[
            (
                entry(
                    b"dir",
                    Kind::Directory {
                        opaque: false,
                        implied: false,
                    },
                ),
                vec![],
            ),
            (entry("dir/\u{e9}".as_bytes(), file(3)), b"abc".to_vec()),
            (entry(&odd, file(0)), vec![]),
            (
                entry(
                    b"hard",
                    Kind::HardLink {
                        target: odd.clone(),
                    },
                ),
                vec![],
            ),
        ]);
        let mut tar = Command::new("tar")
            .args(["-tf", "-", "--quoting-style=literal"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&written).unwrap();
        let listed = tar.wait_with_output().unwrap();
        assert!(listed.status.success());
        let want = format!("dir/\ndir/\u{e9}\n{0}\nhard\n", "o".repeat(200));
        assert_eq!(String::from_utf8(listed.stdout).unwrap(), want);
        let mut other = tar::Archive::new(&written[..]);
        let mut contents = Vec::new();
        for e in other.entries().unwrap() {
            let mut e = e.unwrap();
            let mut text = String::new();
            e.read_to_string(&mut text).unwrap();
            contents.push((e.path_bytes().into_owned(), text));
        }
        assert_eq!(contents[1], ("dir/\u{e9}".into(), "abc".to_owned()));
        assert_eq!(contents[2].0, odd);
    }

    prop_compose! {
        fn any_member()(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("a clean name", |b| *b != 0 && *b != b'/' && *b != b'.'), 1..200), 1..4),
            choice in 0u8..8,
            mode in 0u32..0o10000,
            ids in (0u32..u32::MAX, 0u32..u32::MAX),
            mtime in any::<i64>(),
            value in prop::collection::vec(any::<u8>(), 0..40),
            target in prop::collection::vec(1u8.., 1..300),
            content in prop::collection::vec(any::<u8>(), 0..1500),
        ) -> (Entry, Vec<u8>) {
            let device = (ids.0 & 0o7777, ids.1 & 0o777_7777);
            let kind = match choice {
                0 | 1 => file(content.len()),
                2 => Kind::Directory { opaque: false, implied: false },
                3 => Kind::Symlink { target },
                4 => Kind::HardLink { target: parts.join(&b'/') },
                5 => Kind::CharDevice { major: device.0, minor: device.1 },
                6 => Kind::BlockDevice { major: device.0, minor: device.1 },
                _ => Kind::Fifo,
            };
            let content = if choice < 2 { content } else { Vec::new() };
            let xattrs = if mode & 1 == 0 { vec![] } else { vec![(b"security.capability".to_vec(), value)] };
            (Entry { path: parts.join(&b'/'), meta: Meta { mode, uid: ids.0, gid: ids.1, mtime, xattrs }, kind }, content)
        }
    }

    proptest! {
        #[test]
        fn round_trip(members in prop::collection::vec(any_member(), 0..6)) {
            let back = read(&archive(&members)).unwrap();
            let want: Vec<_> = members.into_iter().map(|(e, c)| (Member::Entry(e), c)).collect();
            prop_assert_eq!(back, want);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            member in any_member(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            fix in any::<bool>(),
        ) {
            let mut bytes = archive(&[member]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if fix {
                bytes[field::CHECKSUM].fill(b' ');
                let sum: u64 = bytes[..BLOCK].iter().map(|b| u64::from(*b)).sum();
                number::put_octal(&mut bytes[field::CHECKSUM][..7], sum);
            }
            let _ = read(&bytes);
        }
    }
}
