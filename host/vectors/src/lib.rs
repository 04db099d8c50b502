//! The encrypted vector store: ciphertext groups, sealed passages and an index over opaque metadata tokens.
//!
//! Nothing that reaches this crate is plaintext, and no key type is in its reach. A collection is
//!
//! - *groups*: blobs of 256 or so encrypted vectors, addressed by a [`Position`] of group and slot;
//! - *passages*: sealed texts by [`DocumentId`], each with its position and its metadata tokens;
//! - a *manifest*: sealed by the owner, opaque here;
//! - a *version* that only rises, and survives the collection's deletion.
//!
//! [`VectorStore`] is what a back end offers; [`SledStore`] is the default one. [`EntryStore`] makes one of any [`Database`] that is an
//! ordered map of bytes.

#![forbid(unsafe_code)]

pub mod conformance;
mod database;
mod entry_store;
mod error;
mod key;
mod manifest;
mod record;
mod sled_store;
mod store;
mod transfer;

pub use database::{Batch, Database, Each, Entries, Feed, Hints};
pub use entry_store::EntryStore;
pub use error::VectorsError;
pub use key::scopes;
pub use manifest::{GroupEntry, GroupManifest};
pub use record::{DocumentId, GroupRecord, PassageRecord, Position};
pub use sled_store::{Sled, SledStore};
pub use store::{Change, VectorStore};
