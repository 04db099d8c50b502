//! The log on a real disk: what is promised, and every attack we know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod append;
mod checkpoint;
mod export;
mod kill;
mod query;
mod receipt;
mod recovery;
mod retention;
mod rotation;
mod signer;
mod support;
mod tamper;
mod witness;
