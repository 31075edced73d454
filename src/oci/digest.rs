//! Digests (image-spec, descriptor.md "Digests"), and the two identities of layers made from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// A registered digest algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// SHA-256, which everything strata writes uses.
    Sha256,
    /// SHA-512, accepted from others.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn len_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

/// A content identifier, `ALGORITHM:HEX`. Ordered by algorithm, then by bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // Bytes past the algorithm's length are zero, so that the derived comparisons hold.
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// No colon, or nothing on one of its sides.
    #[error("invalid digest {0:?}: expected sha256:<64 hexadecimal digits>")]
    Form(String),
    /// An algorithm that is not registered.
    #[error("unsupported digest algorithm in {0:?}: expected sha256 or sha512")]
    Algorithm(String),
    /// Wrong length, or characters other than 0-9a-f.
    #[error(
        "invalid digest {text:?}: expected {expected} lower-case hexadecimal digits after {algorithm}:"
    )]
    Hex {
        /// What was given.
        text: String,
        /// Its algorithm.
        algorithm: &'static str,
        /// How many digits it must have.
        expected: usize,
    },
}

impl Digest {
    /// The SHA-256 digest of `data`.
    pub fn of(data: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(data);
        hasher.finish()
    }

    /// The raw bytes of a SHA-256 sum; `None` for a digest of another algorithm.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.bytes().try_into().ok()
    }

    /// A digest from the raw bytes of a SHA-256 sum.
    pub fn from_sha256(sum: [u8; 32]) -> Digest {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&sum);
        Digest {
            algorithm: Algorithm::Sha256,
            bytes,
        }
    }

    /// Which algorithm made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes of the sum.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len_bytes()]
    }

    /// The digits after the colon.
    pub fn hex(&self) -> String {
        to_hex(self.bytes())
    }

    /// The first twelve digits, as people see image IDs.
    pub fn short(&self) -> String {
        to_hex(&self.bytes[..6])
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| DigestError::Form(text.to_owned()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "" => return Err(DigestError::Form(text.to_owned())),
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let expected = algorithm.len_bytes() * 2;
        let bad = || DigestError::Hex {
            text: text.to_owned(),
            algorithm: algorithm.name(),
            expected,
        };
        if hex.len() != expected {
            return Err(bad());
        }
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(bad()),
        };
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Digest { algorithm, bytes })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A running hash that ends in a [`Digest`].
#[derive(Clone)]
pub struct Hasher(HasherKind);

#[derive(Clone)]
enum HasherKind {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Starts a hash with `algorithm`.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => HasherKind::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => HasherKind::Sha512(Box::new(sha2::Sha512::new())),
        })
    }

    /// Starts a SHA-256 hash.
    pub fn sha256() -> Hasher {
        Hasher::new(Algorithm::Sha256)
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            HasherKind::Sha256(h) => h.update(data),
            HasherKind::Sha512(h) => h.update(data),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            HasherKind::Sha256(h) => {
                bytes[..32].copy_from_slice(&h.finalize());
                Algorithm::Sha256
            }
            HasherKind::Sha512(h) => {
                bytes.copy_from_slice(&h.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

/// Where a SHA-256 hash is after so many whole blocks of 64 bytes: what was before is not needed to go on from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashState {
    /// Eight words of four bytes, the lowest first (FIPS 180-4, the intermediate hash value).
    value: [u8; 32],
    size_bytes: u64,
}

impl Hasher {
    /// Where it is; `None` in the middle of a block of 64 bytes, or if it is no SHA-256.
    pub fn state(&self) -> Option<HashState> {
        let HasherKind::Sha256(hasher) = &self.0 else {
            return None;
        };
        let bytes = hasher.serialize();
        let (value, rest) = bytes.split_first_chunk()?;
        let (blocks, rest) = rest.split_first_chunk()?;
        // How many bytes of the next block there are, and those.
        if rest.first() != Some(&0) {
            return None;
        }
        let size_bytes = u64::from_le_bytes(*blocks).checked_mul(64)?;
        Some(HashState {
            value: *value,
            size_bytes,
        })
    }

    /// Goes on from where another was.
    pub fn resume(state: &HashState) -> Hasher {
        let mut bytes = SerializedState::<sha2::Sha256>::default();
        bytes[..32].copy_from_slice(&state.value);
        bytes[32..40].copy_from_slice(&(state.size_bytes / 64).to_le_bytes());
        let hasher = sha2::Sha256::deserialize(&bytes);
        Hasher(HasherKind::Sha256(
            hasher.expect("with nothing of a next block every state is one"),
        ))
    }
}

impl HashState {
    /// As it is kept: the value, and the number of bytes, lowest first.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..32].copy_from_slice(&self.value);
        bytes[32..].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes
    }

    /// What was kept; `None` if that cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Option<HashState> {
        let (value, rest) = bytes.split_first_chunk()?;
        let size_bytes = u64::from_le_bytes(rest.try_into().ok()?);
        size_bytes.is_multiple_of(64).then_some(HashState {
            value: *value,
            size_bytes,
        })
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<$name, DigestError> {
                text.parse().map($name)
            }
        }
    };
}

identity! {
    /// The digest of a layer's *uncompressed* tar (image-spec, config.md "Layer DiffID").
    DiffId
}
identity! {
    /// The identity of a stack of layers (image-spec, config.md "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The chainID of a stack given bottom first; `None` for an empty stack.
    pub fn of(layers: &[DiffId]) -> Option<ChainId> {
        let (first, rest) = layers.split_first()?;
        Some(
            rest.iter()
                .fold(ChainId(first.0), |below, layer| below.push(*layer)),
        )
    }

    /// The chainID after `layer` is put on top.
    pub fn push(self, layer: DiffId) -> ChainId {
        ChainId(Digest::of(format!("{self} {layer}").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_table() {
        let ok = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(ok.parse::<Digest>().unwrap().to_string(), ok);
        let long = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
        for bad in [
            "",
            "sha256",
            "sha256:",
            ":00",
            "md5:00",
            &ok[..70],
            &format!("{ok}0"),
            &ok.to_uppercase(),
            &ok.replace('a', "g"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hash_goes_on_from_where_it_was() {
        let bytes: Vec<u8> = (0..1000_u32).map(|at| at.to_le_bytes()[0]).collect();
        for at in 0..bytes.len() {
            let mut hasher = Hasher::sha256();
            hasher.update(&bytes[..at]);
            let state = hasher.state();
            assert_eq!(state.is_some(), at % 64 == 0, "{at}");
            let Some(state) = state else { continue };
            let kept = HashState::from_bytes(&state.to_bytes()).unwrap();
            assert_eq!(kept, state);
            let mut resumed = Hasher::resume(&kept);
            assert_eq!(resumed.state(), Some(state));
            resumed.update(&bytes[at..]);
            assert_eq!(resumed.finish(), Digest::of(&bytes));
        }
        assert_eq!(Hasher::new(Algorithm::Sha512).state(), None);
        assert_eq!(HashState::from_bytes(&[0; 39]), None);
        assert_eq!(HashState::from_bytes(&[1; 40]), None);
        // Stores keep states: those of another version of the crate have to be the same. These are the initial values.
        let start = Hasher::sha256().state().unwrap().to_bytes();
        assert_eq!(to_hex(&start[..8]), "67e6096a85ae67bb");
    }

    #[test]
    fn empty_sum() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
    }

    #[test]
    fn chain_id_of_one_is_its_diff_id() {
        let a = DiffId(Digest::of(b"a"));
        let b = DiffId(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        assert_eq!(
            ChainId::of(&[a, b]),
            Some(ChainId(Digest::of(format!("{a} {b}").as_bytes())))
        );
    }
}
