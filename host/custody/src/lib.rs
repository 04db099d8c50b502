//! Dual control: nothing is done with the keys of a site unless enough custodians agree, and the agreement has force.
//!
//! Three layers, of which each works alone:
//!
//! * **Statements** ([`Statement`], [`Verifier`], [`Approved`]): custodians sign what is to be done, with keys in tokens of
//!   their own. Whoever asks for an operation does not approve it.
//! * **Split packages** ([`split`], [`Collector`]): a key on its way is wrapped for the HSM it goes to, and the package is
//!   shared among custodians. Put together it still opens in that HSM only.
//! * **One-time PINs** ([`session`]): the custody token's USER and SO PINs are random and shared; they are put together in a
//!   short-lived process, used once and replaced.
//!
//! The cores do no I/O: bytes, time and randomness go in, decisions come out. [`files`], [`NonceFile`], [`HsmToken`],
//! [`CustodyFolder`] and [`process`] are the thin shells around them.

#![deny(unsafe_code)]

mod approval;
mod certificate;
mod entropy;
mod envelope;
mod error;
pub mod files;
mod folder;
mod json;
mod ledger;
mod legacy;
pub mod process;
mod quorum;
mod roster;
mod rotation;
mod sealed;
pub mod session;
mod shamir;
mod shares;
mod split_pin;
mod statement;
mod succession;
mod text;
mod token;

pub use approval::{ApprovalRecord, Approved, AuditHeads, Verifier};
pub use certificate::{CertificateFormat, DestructionCertificate};
pub use entropy::{Entropy, SystemEntropy, TokenEntropy};
pub use envelope::{Document, Envelope, Signature, Signed, Signer};
pub use error::CustodyError;
pub use folder::{CustodyFolder, Generation, Journal, Phase};
pub use ledger::{NonceFile, NonceLedger};
pub use legacy::{LegacyPermit, MAX_LEGACY_SECONDS};
pub use quorum::QuorumBackend;
pub use roster::{Card, Custodian, Roster, SharesKey, SigningKey};
pub use rotation::{
    Activation, Ahead, COUNTED_GAP_SECONDS, EMERGENCY_CODES, End, KeyVersions, NOTICE_SECONDS, Notice, Older,
    RotationError, Stage, counted,
};
pub use shares::{Collector, OpenShare, SealedShare, SecretKind, ShareSet, SplitOf, split};
pub use split_pin::SplitPin;
pub use statement::{AuditHead, Grant, MAX_USES, MAX_VALIDITY_SECONDS, Nonce, Operation, Statement, StatementFormat};
pub use text::{PersonId, TokenSerial, UnixTime};
pub use token::{CustodianToken, HsmToken, serial_of};
