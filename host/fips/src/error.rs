use crate::THRESHOLD;

/// Why a snapshot of the certificate list is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FipsError {
    /// A signature does not fit the bytes: the snapshot or the signature was altered.
    #[error("the signature of `{approver}` is not one of this file: the file was altered after it was signed")]
    BadSignature {
        /// Whose signature it claims to be.
        approver: String,
    },
    /// Two entries share a certificate number, so there are two answers to one question.
    #[error("the snapshot lists certificate {number} twice; correct it and sign it anew")]
    DuplicateCertificate {
        /// The number.
        number: u32,
    },
    /// One person signed twice.
    #[error("`{approver}` signed twice; two different people must sign")]
    DuplicateSignature {
        /// Who.
        approver: String,
    },
    /// The snapshot is not what the format says.
    #[error("the file is not in the format of docs/fips-snapshot.md: {why}")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// The signature file is not what the format says.
    #[error("the signature file is not in the format of docs/fips-snapshot.md: {why}")]
    MalformedSignatures {
        /// What is wrong.
        why: String,
    },
    /// Nobody stated the token's mode.
    #[error("nobody states that the token runs in its approved mode: look at the device, then `casemate fips mode`")]
    NoMode,
    /// The statement is about another site's token.
    #[error("the statement is of site `{site}`")]
    OtherSite {
        /// Whose.
        site: String,
    },
    /// There is no snapshot.
    #[error("there is no snapshot of the certificate list; install one with `casemate fips install FILE`")]
    NoSnapshot,
    /// Too few people signed.
    #[error("{found} of {THRESHOLD} signatures are there; a second approver signs with `casemate fips sign`")]
    NotEnoughSignatures {
        /// How many distinct approvers signed.
        found: usize,
    },
    /// The site's root of trust cannot say who may sign.
    #[error("the site's root of trust does not say who may sign: {why}")]
    Root {
        /// Why not.
        why: String,
    },
    /// Somebody signed who is no approver of this site.
    #[error("key {key_id} signed, and it is no approver's of this site")]
    UnknownSigner {
        /// The key id in the signature file.
        key_id: String,
    },
}
