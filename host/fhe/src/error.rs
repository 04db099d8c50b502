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
    /// The number of bits of a body at rest is not offered.
    #[error("set up encrypted search: {bits} bits at rest are not offered; use 24 or 32")]
    BodyBits {
        /// The bits asked for.
        bits: u32,
    },
    /// A model has too many classes, or none.
    #[error("read a model: it has {classes} classes; 1 to {limit} are possible")]
    Classes {
        /// Its classes.
        classes: usize,
        /// The most there can be.
        limit: usize,
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
    /// No measure has this tag.
    #[error("read a ciphertext: measure {tag} is not known to this build; encrypt it again with this version")]
    Measure {
        /// The tag found.
        tag: u8,
    },
    /// The declared norm bound is no sensible number.
    #[error("set up encrypted search: the norm bound must be a number from 1e-6 to 1e6")]
    NormBound,
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
    /// The number of bits of a reply is not offered.
    #[error("set up encrypted search: replies of {bits} bits are not offered; use 16, 18 or 20")]
    ReplyBits {
        /// The bits asked for.
        bits: u32,
    },
    /// Groups are prepared 1 to 8 at a time.
    #[error("prepare groups: {groups} at a time is not possible; use 1 to 8")]
    Tile {
        /// Groups given.
        groups: usize,
    },
    /// A model's weights are no numbers, or longer than the model declares; or these are no weights of a model.
    #[error("read a model: its weights are not finite, exceed its norm bound, or are not those of a model")]
    Weights,
    /// Written by another version of the format.
    #[error("read {what}: format version {version} is not known to this build")]
    Version {
        /// The kind of ciphertext.
        what: &'static str,
        /// The version found.
        version: u8,
    },
}
