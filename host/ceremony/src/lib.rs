//! Key ceremonies: a reviewed plan, carried out step by step before two people, with a transcript that both sign.
//!
//! ```text
//! plan.toml (hashed, approved) --+
//! bindings.toml (this place) ----+--> Ceremony --> journal --> audit log --> token, in this order, for each step
//!                                                   |
//!                                                   +--> transcript (DSSE, every custodian's signature), on paper too
//! ```
//!
//! * [`Plan`]: what is done, the same in rehearsal and for real; its SHA-256 is what custodians approve.
//! * [`Bindings`] and [`Desk`]: which tokens, by serial number, and where PINs come from.
//! * [`Ceremony`]: runs a plan, or goes on after a crash. Its journal is a chain of hashes, and every link is in the audit log
//!   before anything is done on it, so neither can be shortened or changed alone.
//! * [`Transcript`]: what happened; [`verify`] checks it against plan, roster and audit log, [`print`] makes a page of it.

#![forbid(unsafe_code)]

mod bindings;
mod desk;
mod error;
mod folder;
mod journal;
mod lease;
mod plan;
pub mod print;
mod run;
mod steps;
mod trail;
mod transcript;

pub use bindings::{Bindings, CustodianBinding, ModuleBinding, TokenBinding};
pub use desk::Desk;
pub use error::CeremonyError;
pub use journal::{Address, Call, EscrowRecord, Holder, MadeKey, StepResult};
pub use lease::Leases;
pub use plan::{Plan, Step};
pub use run::{Ceremony, Console, Permission, check_statement};
pub use trail::{AuditTrail, Mark, marks};
pub use transcript::{Hashed, LoginBy, TokenFact, Transcript, TranscriptStep, Verified, verify};
