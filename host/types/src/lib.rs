//! The vocabulary every room shares: identifiers, digests, classification levels, decisions and reason codes.
//!
//! Nothing here does I/O. A value that exists has passed its check: names are parsed, never validated later.

#![forbid(unsafe_code)]

mod decision;
mod digest;
mod id;
mod profile;
mod reason;

pub use decision::{Claims, Decision, Level, LogLevel, Obligation, Phase, Span};
pub use digest::{Digest, ParseDigestError};
pub use id::{CollectionName, CompartmentName, DecisionId, Generation, NameError, PluginName, UserName};
pub use profile::{ParseProfileError, Profile};
pub use reason::Reason;
