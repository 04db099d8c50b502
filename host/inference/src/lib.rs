//! The tier that sees ciphertext only: it scores encrypted groups against encrypted queries.
//!
//! It holds no key and links no crate that defines one. With each query the owner says which groups it expects, by
//! digest; a group that the store altered, replaced or rolled back is named and nothing is scored.

#![forbid(unsafe_code)]

mod cache;
mod error;
mod models;
mod scorer;
mod tier;

pub use error::InferenceError;
pub use scorer::Scorer;
pub use tier::{CacheUse, ExpectedGroup, Tier};
