/// Why an envelope, a statement or a key was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// A signature of a trusted key does not verify.
    #[error("the signature of key {key_id} is wrong: what it signs was altered afterwards")]
    BadSignature {
        /// The key id, cut at 80 characters.
        key_id: String,
    },
    /// One key signs more than once, under whatever ids.
    #[error("key {key_id} signs more than once; one key counts once")]
    DuplicateSignature {
        /// The key id of the second signature, cut at 80 characters.
        key_id: String,
    },
    /// A public key that is none.
    #[error("the public key cannot be used: {why}")]
    Key {
        /// What is wrong.
        why: &'static str,
    },
    /// JSON that is not an envelope or a statement.
    #[error("it is not {what}: {why}")]
    Malformed {
        /// What it should be, with its article.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Too many bytes or signatures.
    #[error("the envelope is too large: at most {bytes} bytes and {signatures} signatures are read")]
    TooLarge {
        /// The most bytes.
        bytes: usize,
        /// The most signatures.
        signatures: usize,
    },
    /// A signature by a key that the caller does not trust.
    #[error("key {key_id} signs, and nobody here trusts it")]
    UnknownKey {
        /// The key id, cut at 80 characters.
        key_id: String,
    },
    /// The payload is of another type.
    #[error("the payload is {found:?}, and {wanted} is wanted")]
    WrongType {
        /// The type it has, cut at 80 characters.
        found: String,
        /// The type asked for.
        wanted: &'static str,
    },
}
