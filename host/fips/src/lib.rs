//! Whether a token is a validated cryptographic module (FIPS 140-3), by a list of certificates that two people signed.
//!
//! ```text
//! snapshot.json + snapshot.json.dsse   what CMVP published on a day, and who vouches for it   -> VerifiedSnapshot
//! mode-SERIAL.json + .dsse             who saw the token in its approved mode, and how                -> VerifiedMode
//! TokenFacts                           what the token and its library say about themselves
//! evaluate                             one check after the other, each with its evidence      -> Verdict
//! ```
//!
//! "Validated" is said of a module, its versions and its certificate, never of an algorithm. What is not known fails. A
//! software token is never called validated, whatever it or a snapshot says. The core does no I/O: bytes, facts and the day
//! go in.

#![forbid(unsafe_code)]

mod dsse;
mod error;
mod mode;
mod snapshot;
mod token;
mod verdict;

pub use dsse::{Approver, MODE_TYPE, PAYLOAD_TYPE, THRESHOLD, add_signature, message, signers};
pub use error::FipsError;
pub use mode::{MAX_MODE_DAYS, MODE_FORMAT, Mode, ModeStatement, VerifiedMode};
pub use snapshot::{
    Certificate, Configuration, FORMAT, ModuleKind, Snapshot, Standard, Status, TokenIdentity, VerifiedSnapshot,
};
pub use token::{ApprovedMode, Claim, TokenFacts};
pub use verdict::{Check, FF1_BOUNDARY, NEEDED, Question, Verdict, evaluate};
