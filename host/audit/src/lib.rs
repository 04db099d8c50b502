//! The audit log: append-only, Merkle, verifiable by other people's tools.
//!
//! One directory is one log in the C2SP `tlog-tiles` layout: `checkpoint` (a C2SP `signed-note` around a `tlog-checkpoint`),
//! `tile/<L>/<N>[.p/<W>]` (RFC 6962 hashes, 256 per tile), `tile/entries/<N>[.p/<W>]` (256 records per bundle, each behind a
//! big-endian `u16` length), and one file of our own, `wal`: the records that are durable and not yet signed.
//!
//! ```text
//! append -> writer thread: wal, one fdatasync per group -> answer
//!                              |
//!                              v (every checkpoint_every)
//!           checkpoint thread: hash, sign, bundles and tiles, checkpoint -> writer resets wal
//! ```
//!
//! What it proves and what not: once a checkpoint is out, no signed record can be changed, removed or reordered unseen. The
//! records in `wal` (at most about one interval) are guarded against accidents only, and restoring the whole directory to
//! an older state is visible only to somebody who kept a later checkpoint: keep them, or keep receipts.

#![forbid(unsafe_code)]

mod checkpointer;
mod error;
mod log;
mod note;
mod receipt;
pub mod record;
mod snapshot;
mod store;
mod tree;
mod verify;
mod wal;
mod writer;

pub use error::{AuditError, VerifyError};
pub use log::{Log, LogOptions};
pub use note::{CheckpointSigner, SignError};
pub use receipt::{Receipt, VerifiedReceipt, verify_receipt};
pub use record::{Event, Record};
pub use verify::{Verified, entries, root_at, verify_dir};

/// The largest record, in bytes: an entry bundle counts the length of an entry in 16 bits (C2SP `tlog-tiles`, log entries).
pub const MAX_RECORD: usize = 65_535;
