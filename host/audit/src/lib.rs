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
mod clock;
mod cosignature;
mod courier;
mod error;
mod evidence;
mod export;
mod head;
mod index;
mod log;
mod note;
mod pinned;
mod proof;
mod query;
mod receipt;
pub mod record;
mod retention;
mod rotation;
mod signer_file;
mod snapshot;
mod store;
mod tree;
mod verify;
mod wal;
mod witness;
mod witness_logs;
mod writer;

pub use clock::RecordClock;
pub use cosignature::{Cosigned, WitnessKey, verify_cosignature, verify_cosigned};
pub use courier::{WitnessLink, WitnessOptions};
pub use error::{AuditError, VerifyError};
pub use export::{Export, Exported, verify_export, verify_export_cosigned};
pub use index::Index;
pub use log::{Log, LogOptions};
pub use note::{CheckpointSigner, SignError};
pub use pinned::Segment;
pub use query::Query;
pub use receipt::{Receipt, VerifiedReceipt, receipt_from, verify_receipt};
pub use record::{Event, Record};
pub use retention::SEGMENT;
pub use rotation::{announce_reserve, rotate};
pub use signer_file::FileSigner;
pub use verify::{RecordReader, Verified, entries, entries_from, latest_ms, root_at, size_of, verify_dir, verify_from};
pub use witness::{Answer, Refusal, Witness, WitnessError, serve_directory, serve_socket};

/// The largest record, in bytes: an entry bundle counts the length of an entry in 16 bits (C2SP `tlog-tiles`, log entries).
pub const MAX_RECORD: usize = 65_535;
