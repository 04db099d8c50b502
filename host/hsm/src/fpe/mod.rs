//! Format-preserving encryption with the key in the token: FF1 (SP 800-38G, with the domain floor of the r1 draft).
//!
//! FF1 is a Feistel network of ten rounds over AES. The AES operations run in the token, the arithmetic runs here, and all
//! values of a batch walk through the rounds in step, so that a round costs one call whatever the size of the batch.
//! What the token's validation covers is therefore AES, not FF1.
//!
//! FF1 is deterministic and not authenticated: equal values under equal tweaks give equal ciphertexts.

mod alphabet;
mod arithmetic;
pub mod danger;
mod ff3;
mod interrupted;
mod legacy;
mod lockstep;
mod native;
mod overlap;
mod queue;
mod shape;
mod stream;
mod token;
mod tweak;
mod walker;
mod words;

pub use alphabet::Alphabet;
pub use ff3::FF3_TWEAK;
pub use lockstep::{decrypt_batch, encrypt_batch};
pub use native::{NativeFf1, NativeLayout};
pub use overlap::OverlapFf1;
pub use queue::{FpeQueue, QueueLimits};
pub use shape::{MAXIMUM_LENGTH, calls_per_batch, minimum_length};
pub use token::Ff1;
pub use tweak::TweakPolicy;

use crate::HsmError;

/// One value of a batch, changed in place.
#[derive(Clone, PartialEq, Eq)]
pub struct Ff1Value {
    /// The numerals, most significant first, each below the radix.
    pub numerals: Vec<u16>,
    /// The tweak: not secret, and part of the schema (collection, field).
    pub tweak: Vec<u8>,
}

impl std::fmt::Debug for Ff1Value {
    /// Sizes only: the numerals may be plaintext.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ff1Value({} numerals, {} tweak bytes)", self.numerals.len(), self.tweak.len())
    }
}

/// What a batch cost. In a queue, the batch that the caller's values went with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Calls into the token, one after another; see [`calls_per_batch`].
    pub hsm_calls: u32,
    /// Values in the batch.
    pub values: usize,
    /// What walked the rounds.
    pub backend: Backend,
}

/// What walks the rounds of FF1 or FF3-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// This crate, over AES in the token.
    HostFeistel,
    /// The HSM's own mechanism.
    Native,
}

/// The block cipher under one key: all that FF1 needs of a token.
pub trait EcbBlocks {
    /// Replaces each block by its encryption, or fails and leaves the blocks in an unspecified state.
    ///
    /// # Errors
    /// Whatever made the token fail.
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError>;
}
