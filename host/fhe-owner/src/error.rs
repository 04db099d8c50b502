use casemate_fhe::{FheError, Measure, Params};

/// Why the owner refused to encrypt, ask or decrypt. Holds no vector, score or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// A canary does not have the score its vector gives.
    #[error(
        "check scores: the canaries of group {group} do not have their scores; the scoring tier lowered, swapped or replayed \
         the group's scores"
    )]
    CanaryMissed {
        /// Number of the group.
        group: u32,
    },
    /// The list of document counts does not fit the reply.
    #[error("decrypt scores: {replies} replies for {counts} groups; ask again with the current list of groups")]
    Counts {
        /// Replies received.
        replies: usize,
        /// Groups expected.
        counts: usize,
    },
    /// A vector of another dimension.
    #[error("encrypt a vector: it has {actual} components, the collection has {expected}")]
    Dimension {
        /// The collection's dimension.
        expected: usize,
        /// The vector's.
        actual: usize,
    },
    /// The operating system or the cryptographic library gave no randomness.
    #[error("draw randomness: the system's generator failed; do not go on without it")]
    Entropy,
    /// A ciphertext was refused.
    #[error("read a ciphertext")]
    Fhe(#[from] FheError),
    /// The reply names another query.
    #[error("decrypt scores: the reply answers another query; discard it")]
    ForeignReply,
    /// Decryption gives no unit vectors.
    #[error("decrypt a group: it does not hold unit vectors under this key; it is damaged or belongs to another key")]
    GroupUnreadable,
    /// A measure that this build cannot encode.
    #[error("encrypt a vector: the measure `{measure}` is not known here")]
    Measure {
        /// The measure.
        measure: Measure,
    },
    /// A group without room for canaries.
    #[error("check scores: group {group} with {count} documents holds no canaries; encrypt the collection again")]
    NoCanaries {
        /// Number of the group.
        group: u32,
        /// Documents in it.
        count: usize,
    },
    /// A vector is longer than its collection declares.
    #[error("encrypt a vector: it is longer than the norm bound of its collection; declare a larger one or scale it")]
    NormBound,
    /// A component is infinite or not a number.
    #[error("encrypt a vector: a component is not finite; check the embedding")]
    NotFinite,
    /// The vector's length is not one.
    #[error("encrypt a vector: its length is not 1; normalise it first")]
    NotNormalised,
    /// Ciphertext and key were made for different parameters.
    #[error("parameters differ: the key has {expected}, the ciphertext {actual}")]
    ParamsMismatch {
        /// The key's.
        expected: Params,
        /// The ciphertext's.
        actual: Params,
    },
    /// Scores outside what noise can explain: the reply was altered.
    #[error("decrypt scores: reply {group} is no result of this query; the scoring tier is faulty or hostile")]
    ReplyAltered {
        /// Position in the reply.
        group: usize,
    },
    /// The sealing key's library call failed.
    #[error("seal {what}: AES-256-GCM failed; check the cryptographic library")]
    Seal {
        /// What was to be sealed.
        what: &'static str,
    },
    /// Authentication failed: altered, moved to another place, or sealed under another key.
    #[error("open {what}: authentication failed; it was altered, moved, or sealed under another key")]
    Tampered {
        /// What was to be opened.
        what: &'static str,
    },
    /// A query of length zero has no direction.
    #[error("encrypt a query: it is the zero vector, which is as close to every document as to any other")]
    ZeroQuery,
    /// More documents than slots.
    #[error("encrypt a group: {actual} documents do not fit in {limit} slots")]
    TooMany {
        /// Slots of a group.
        limit: usize,
        /// Documents given.
        actual: usize,
    },
}
