//! The gate tier: authenticates, opens sessions in the HSM, asks the policies, runs agents, and answers only what is recorded.
//!
//! ```text
//! init     a site comes into being: token, keys, compartments, users, root of trust
//! site     opens it: HSM, log, store, engine, active plugins                       -> Gate
//! session  authenticates a user and opens the user's compartment keys              -> Session
//! ingest   documents -> embedded, encrypted, sealed, stored
//! ask      question -> policies -> agent -> passages -> policies -> answer          -> Reply
//! ```
//!
//! This is the only tier that sees plaintext, one session at a time.

#![forbid(unsafe_code)]

mod activation;
mod ask;
mod chain;
mod collection;
mod combine;
mod config;
mod error;
mod ingest;
mod init;
mod journal;
mod mask;
mod metadata;
mod monitor;
mod probing;
mod recorder;
mod search;
mod services;
mod session;
mod site;
mod state;

pub use ask::{Citation, MAX_QUESTION, MAX_TEXT, Outcome, Question, Reply};
pub use casemate_engine::wit;
pub use chain::{Chain, Decided};
pub use combine::{Combined, Combining, Expression, Vote};
pub use config::{
    BackupConfig, ChainConfig, CompartmentRule, EmbeddingConfig, FieldKind, HsmConfig, MemorySize, Mode, PolicyEntry,
    SearchConfig, SiteConfig, UserConfig,
};
pub use error::GateError;
pub use ingest::{Document, Ingested};
pub use init::{Created, create, prepare};
pub use journal::{Journal, Recording};
pub use session::Session;
pub use site::{Active, Gate};
pub use state::{SiteKey, SiteState};

use casemate_types::DecisionId;

fn random_salt() -> Result<[u8; 32], GateError> {
    let mut salt = [0; 32];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| GateError::Store("no randomness".to_owned()))?;
    Ok(salt)
}

fn random_id() -> Result<DecisionId, GateError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| GateError::Store("no randomness".to_owned()))?;
    Ok(DecisionId::from_random(id))
}
