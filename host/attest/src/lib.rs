//! Signed statements that any tool can check: DSSE envelopes (v1, secure-systems-lab/dsse `protocol.md`) and in-toto Statements (v1,
//! in-toto/attestation `spec/v1`).
//!
//! ```text
//! Statement --canonical JSON--> payload --PAE(type, payload)--> signature of a PublicKey
//! Envelope = payload, its type, signatures; nothing in it is verified until Envelope::signers has looked
//! ```
//!
//! The key id of a signature only says where to look: a signature counts when a key that the caller trusts verifies it, and keys count,
//! not ids. No I/O, no secret key: whoever holds one is a [`Signer`].

#![forbid(unsafe_code)]

mod envelope;
mod error;
mod key;
mod statement;

pub use envelope::{Envelope, MAX_SIGNATURES, Signature, pae};
pub use error::AttestError;
pub use key::{PublicKey, Signer, SignerError, ecdsa_der};
pub use statement::{IN_TOTO, STATEMENT_V1, Statement, Subject};
