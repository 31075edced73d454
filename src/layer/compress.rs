//! Compression: which there is, how blocks are made, how streams are read.
//!
//! Written blobs are sequences of independent blocks of [`BLOCK_BYTES`] of input, each a gzip member or a zstd frame, so that
//! any number of threads makes the same bytes. All readers take a sequence of members for one stream (RFC 1952 2.2, RFC 8878 3).

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::LayerError;
use crate::oci::MediaType;

/// What is compressed at a time: large enough that starting afresh costs 0.03%, small enough to keep every core busy.
/// Another value gives other blobs, with the same diffIDs.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;

/// A decompressor's input buffer.
const INPUT_BYTES: usize = 64 << 10;

/// The generation of the compressors: another one when the crates make other bytes of the same input. Compressed blocks of
/// earlier ones are not used again, so that what a store holds does not show in a blob.
pub(super) const COMPRESSORS: u8 = 1;

/// gzip's level unless another is asked for: blobs are 4 to 5 % larger than those of zlib's level 6, smaller than those of the
/// Go compressors that other builders use, and take little more than half of the time of level 6.
const GZIP_LEVEL: u8 = 2;

/// How a blob is to be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, levels 0 to 9.
    Gzip(Level),
    /// Zstandard, levels 1 to 22.
    Zstd(Level),
}

/// A level that its compressor has; made by [`Compression::gzip`] and [`Compression::zstd`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Level(u8);

/// How a blob turns out to be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// It starts with none of the marks below.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2, which no layer has but archives for ADD may.
    Bzip2,
    /// xz, likewise.
    Xz,
}

impl Default for Compression {
    /// gzip at its usual level here, which everybody reads.
    fn default() -> Compression {
        Compression::Gzip(Level(GZIP_LEVEL))
    }
}

impl Compression {
    /// gzip, at 2 unless told otherwise.
    pub fn gzip(level: Option<i64>) -> Result<Compression, LayerError> {
        Level::new("gzip", level.unwrap_or(i64::from(GZIP_LEVEL)), 0, 9).map(Compression::Gzip)
    }

    /// Zstandard, at 3 unless told otherwise.
    pub fn zstd(level: Option<i64>) -> Result<Compression, LayerError> {
        Level::new("zstd", level.unwrap_or(3), 1, 22).map(Compression::Zstd)
    }

    /// The media type of a layer that is compressed so.
    pub fn media_type(self) -> MediaType {
        match self {
            Compression::None => MediaType::OciLayer,
            Compression::Gzip(_) => MediaType::OciLayerGzip,
            Compression::Zstd(_) => MediaType::OciLayerZstd,
        }
    }

    /// What a blob looks like that is compressed so.
    pub fn format(self) -> Format {
        match self {
            Compression::None => Format::Plain,
            Compression::Gzip(_) => Format::Gzip,
            Compression::Zstd(_) => Format::Zstd,
        }
    }
}

impl Level {
    fn new(codec: &'static str, level: i64, min: i64, max: i64) -> Result<Level, LayerError> {
        let known = u8::try_from(level).ok();
        let known = known.filter(|_| (min..=max).contains(&level));
        known.map(Level).ok_or(LayerError::Level {
            codec,
            level,
            min,
            max,
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Format {
    /// What the first bytes of a blob say; four are enough to tell, six for xz.
    pub fn sniff(start: &[u8]) -> Format {
        const MARKS: [(&[u8], Format); 5] = [
            (b"\x1f\x8b", Format::Gzip),
            (b"\x28\xb5\x2f\xfd", Format::Zstd),
            (b"BZh", Format::Bzip2),
            (b"\xfd7zXZ\0", Format::Xz),
            // zstd's skippable frames have sixteen marks; this one comes first in seekable and chunked blobs.
            (b"\x50\x2a\x4d\x18", Format::Zstd),
        ];
        let mark = MARKS.iter().find(|(mark, _)| start.starts_with(mark));
        mark.map_or(Format::Plain, |(_, format)| *format)
    }
}

/// Makes one block at a time; a worker thread has one.
pub(crate) enum Encoder {
    /// A gzip member a block.
    Gzip(libdeflater::Compressor),
    /// A zstd frame a block.
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// `None` where nothing is to be done.
    pub(crate) fn new(compression: Compression) -> io::Result<Option<Encoder>> {
        Ok(match compression {
            Compression::None => None,
            Compression::Gzip(level) => {
                let level = libdeflater::CompressionLvl::new(i32::from(level.0));
                let level = level.map_err(|e| io::Error::other(format!("{e:?}")))?;
                Some(Encoder::Gzip(libdeflater::Compressor::new(level)))
            }
            Compression::Zstd(level) => {
                let compressor = zstd::bulk::Compressor::new(i32::from(level.0))?;
                Some(Encoder::Zstd(compressor))
            }
        })
    }

    /// Compresses `block` into the first bytes of `out`, which grows if it has to; gives how many they are.
    pub(crate) fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let bound = match self {
            Encoder::Gzip(compressor) => compressor.gzip_compress_bound(block.len()),
            Encoder::Zstd(_) => zstd::zstd_safe::compress_bound(block.len()),
        };
        // A buffer that was used before is long enough and not cleared again. A new one is all zero pages, and what is not
        // written to takes no memory.
        if out.len() < bound {
            *out = vec![0; bound];
        }
        match self {
            Encoder::Gzip(compressor) => {
                let length = compressor.gzip_compress(block, out);
                let length = length.map_err(io::Error::other)?;
                // The byte that says how hard the compressor tried, as Go leaves it.
                out[8] = 0;
                Ok(length)
            }
            Encoder::Zstd(compressor) => compressor.compress_to_buffer(block, &mut out[..]),
        }
    }
}

/// Undoes what an [`Encoder`] did, one block at a time.
pub(crate) enum BlockDecoder {
    Gzip(libdeflater::Decompressor),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl BlockDecoder {
    /// `None` where nothing was done.
    pub(crate) fn new(compression: Compression) -> io::Result<Option<BlockDecoder>> {
        Ok(match compression {
            Compression::None => None,
            Compression::Gzip(_) => Some(BlockDecoder::Gzip(libdeflater::Decompressor::new())),
            Compression::Zstd(_) => Some(BlockDecoder::Zstd(zstd::bulk::Decompressor::new()?)),
        })
    }

    /// Puts a block into `out`, from its start, and says how many bytes it has; `None` if it is damaged or longer.
    pub(crate) fn decode(&mut self, coded: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            BlockDecoder::Gzip(decompressor) => decompressor.gzip_decompress(coded, out).ok(),
            BlockDecoder::Zstd(decompressor) => decompressor.decompress_to_buffer(coded, out).ok(),
        }
    }
}

/// What was read to see the format, and then the rest.
type Input<R> = BufReader<io::Chain<Cursor<Vec<u8>>, R>>;

/// Decompresses a stream as its first bytes say.
pub struct Decoder<R: Read> {
    stream: Stream<R>,
    format: Format,
    limit_bytes: u64,
    left: u64,
}

enum Stream<R: Read> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
    Bzip2(Box<MultiBzDecoder<Input<R>>>),
    Xz(Box<XzReader<Input<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `input`. More than `limit_bytes` of output is an error of kind `InvalidData` with
    /// [`LayerError::Limit`] inside.
    pub fn new(mut input: R, limit_bytes: u64) -> io::Result<Decoder<R>> {
        let mut start = Vec::with_capacity(6);
        input.by_ref().take(6).read_to_end(&mut start)?;
        let format = Format::sniff(&start);
        let input = BufReader::with_capacity(INPUT_BYTES, Cursor::new(start).chain(input));
        let stream = match format {
            Format::Plain => Stream::Plain(input),
            Format::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(input))),
            Format::Zstd => {
                Stream::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
            }
            Format::Bzip2 => Stream::Bzip2(Box::new(MultiBzDecoder::new(input))),
            Format::Xz => Stream::Xz(Box::new(XzReader::new(input, true))),
        };
        Ok(Decoder {
            stream,
            format,
            limit_bytes,
            left: limit_bytes,
        })
    }

    /// How the stream is compressed.
    pub fn format(&self) -> Format {
        self.format
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Stream::Plain(s) => s.read(buf),
            Stream::Gzip(s) => s.read(buf),
            Stream::Zstd(s) => s.read(buf),
            Stream::Bzip2(s) => s.read(buf),
            Stream::Xz(s) => s.read(buf),
        }?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                let limit_bytes = self.limit_bytes;
                let over = LayerError::Limit { limit_bytes };
                return Err(io::Error::new(io::ErrorKind::InvalidData, over));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> [Compression; 5] {
        [
            Compression::None,
            Compression::default(),
            Compression::gzip(Some(0)).unwrap(),
            Compression::gzip(Some(9)).unwrap(),
            Compression::zstd(None).unwrap(),
        ]
    }

    fn compress(compression: Compression, blocks: &[&[u8]]) -> Vec<u8> {
        let Some(mut encoder) = Encoder::new(compression).unwrap() else {
            return blocks.concat();
        };
        let (mut all, mut out) = (Vec::new(), Vec::new());
        for block in blocks {
            let length = encoder.encode(block, &mut out).unwrap();
            all.extend(&out[..length]);
        }
        all
    }

    #[test]
    fn levels_are_checked() {
        for (made, fine) in [
            (Compression::gzip(Some(0)), true),
            (Compression::gzip(Some(10)), false),
            (Compression::gzip(Some(-1)), false),
            (Compression::zstd(Some(22)), true),
            (Compression::zstd(Some(0)), false),
            (Compression::zstd(Some(300)), false),
        ] {
            assert_eq!(made.is_ok(), fine, "{made:?}");
        }
    }

    #[test]
    fn gzip_headers_are_those_of_go() {
        for level in [0, 1, 6, 9] {
            let bytes = compress(Compression::gzip(Some(level)).unwrap(), &[b"x"]);
            assert_eq!(bytes[..10], *b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
        }
    }

    #[test]
    fn compressors_make_the_bytes_of_their_generation() {
        let text: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| format!("{} ", n * 31 % 1009).into_bytes())
            .collect();
        let digests = [Compression::default(), Compression::zstd(None).unwrap()]
            .map(|c| crate::oci::Digest::of(&compress(c, &[&text])).short());
        // If this is another one, raise `COMPRESSORS`.
        assert_eq!(
            (digests, COMPRESSORS),
            (["e2ca2a0f52cf".to_owned(), "036d3afba7fb".to_owned()], 1)
        );
    }

    #[test]
    fn formats_of_others_are_read() {
        use std::io::Write;
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(b"content").unwrap();
        let skippable = [
            b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
            compress(Compression::zstd(None).unwrap(), &[b"content"]),
        ];
        for (bytes, format) in [
            (bz.finish().unwrap(), Format::Bzip2),
            (skippable.concat(), Format::Zstd),
        ] {
            let mut decoder = Decoder::new(&bytes[..], 100).unwrap();
            assert_eq!(decoder.format(), format);
            let mut text = String::new();
            decoder.read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 1 << 20];
        for compression in all() {
            let bytes = compress(compression, &[&zeros, &zeros]);
            let mut out = Vec::new();
            let mut decoder = Decoder::new(&bytes[..], 1 << 20).unwrap();
            let error = decoder.read_to_end(&mut out).unwrap_err();
            assert!(error.get_ref().is_some_and(|e| e.is::<LayerError>()));
            assert!(out.len() <= 1 << 20);
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        for compression in &all()[1..] {
            let bytes = compress(*compression, &[b"some content that is long enough"]);
            for cut in 6..bytes.len() {
                let decoded = Decoder::new(&bytes[..cut], 100)
                    .and_then(|mut d| d.read_to_end(&mut Vec::new()));
                assert!(decoded.is_err(), "{compression:?} {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(a in prop::collection::vec(any::<u8>(), 0..3000), b in prop::collection::vec(0u8..3, 0..3000), which in 0usize..5) {
            let bytes = compress(all()[which], &[&a, &b]);
            prop_assume!(which != 0 || Format::sniff(&bytes) == Format::Plain);
            let mut decoder = Decoder::new(&bytes[..], 6000).unwrap();
            let mut back = Vec::new();
            decoder.read_to_end(&mut back).unwrap();
            prop_assert_eq!(back, [a, b].concat());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mark in 0usize..5, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let start = [&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0"][mark];
            let bytes = [start, &tail].concat();
            if let Ok(mut decoder) = Decoder::new(&bytes[..], 1 << 20) {
                let _ = decoder.read_to_end(&mut Vec::new());
            }
        }
    }
}
