use crate::Params;

/// Why a ciphertext or a parameter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FheError {
    /// The first bytes are those of something else.
    #[error("read {what}: these bytes are not {what}; check which file or message was passed")]
    BadMagic {
        /// The kind of ciphertext expected.
        what: &'static str,
    },
    /// The block size is not offered.
    #[error("set up encrypted search: block size {block} is not offered; use 4, 8, 16 or 32")]
    Block {
        /// The block size asked for.
        block: usize,
    },
    /// The back end refused to produce a key stream.
    #[error("expand a mask: AES-256-CTR is not available; check the cryptographic library")]
    Cipher,
    /// The dimension is zero or too large.
    #[error("set up encrypted search: dimension {dimension} is outside 1 to 4096")]
    Dimension {
        /// The dimension asked for.
        dimension: usize,
    },
    /// The replies belong to two queries.
    #[error("join encrypted scores: the replies answer two different queries")]
    ForeignQuery,
    /// Made under constants that this build does not use.
    #[error("read {what}: its parameter digest is foreign; encrypt it again with this version")]
    ForeignScheme {
        /// The kind of ciphertext.
        what: &'static str,
    },
    /// Truncated, or followed by more bytes.
    #[error("read {what}: expected {expected} bytes, found {actual}; it is truncated or has trailing bytes")]
    Length {
        /// The kind of ciphertext.
        what: &'static str,
        /// Bytes the header calls for.
        expected: usize,
        /// Bytes present.
        actual: usize,
    },
    /// Two ciphertexts of different parameters met.
    #[error("score: parameters differ ({expected} and {actual}); use the collection's own parameters")]
    ParamsMismatch {
        /// Those of the query or of the key.
        expected: Params,
        /// Those of the other ciphertext.
        actual: Params,
    },
    /// A field holds a value outside its range.
    #[error("read {what}: a value is out of range; the bytes are damaged")]
    Range {
        /// The kind of ciphertext.
        what: &'static str,
    },
    /// Written by another version of the format.
    #[error("read {what}: format version {version} is not known to this build")]
    Version {
        /// The kind of ciphertext.
        what: &'static str,
        /// The version found.
        version: u8,
    },
}
