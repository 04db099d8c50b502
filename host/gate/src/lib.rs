//! The gate tier: authenticates, opens sessions in the HSM, asks the policies, runs agents, and answers only what is recorded.
//!
//! ```text
//! init     a site comes into being: token, keys, compartments, users, root of trust
//! site     opens it: HSM, log, store, engine, active plugins                       -> Gate
//! keys     users and compartments come, change and go
//! vault    the keys, in one token or in a pair that fails over
//! fips     whether the token is a validated module                                -> Verdict
//! session  authenticates a user and opens the user's compartment keys              -> Session
//! ingest   documents -> embedded, encrypted, sealed, stored
//! ask      question -> policies -> agent -> passages -> policies -> answer          -> Reply
//! ```
//!
//! This is the only tier that sees plaintext, one session at a time.

#![forbid(unsafe_code)]

mod activation;
mod ask;
mod candidates;
mod chain;
mod changes;
mod classify;
mod clusters;
mod collection;
mod combine;
mod condition;
mod config;
mod consent;
mod destruction;
mod documents;
mod doomed;
mod error;
mod evaluate;
mod finding;
mod fips;
mod inbox;
mod ingest;
mod init;
mod journal;
mod keys;
mod keywords;
mod legacy;
mod mask;
mod metadata;
mod model;
mod monitor;
mod narrow;
mod orders;
mod people;
mod pins;
mod policy_file;
mod probing;
mod recorder;
mod reindex;
mod replay;
mod revocations;
mod rotation;
mod schema;
mod search;
mod services;
mod session;
mod shadow;
mod site;
mod site_log;
mod staging;
mod standing;
mod state;
mod taken;
mod train;
mod trusted_time;
mod user_key;
mod vault;
mod versions;
mod watch;

pub use ask::{Citation, MAX_QUESTION, MAX_TEXT, Outcome, Question, Reply};
pub use casemate_engine::wit;
pub use chain::{Chain, Decided};
pub use changes::{ChangeLine, StagingReport, approve_change, change_of, changes_of};
pub use classify::{Classified, Trained};
pub use combine::{Combined, Combining, Expression, Vote};
pub use condition::condition;
pub use config::{
    AuditConfig, BackupConfig, ChainConfig, CompartmentRule, EmbeddingConfig, FipsConfig, HsmConfig, InferenceConfig,
    MemorySize, Mode, PolicyEntry, SearchConfig, SiteConfig, UserConfig, WitnessConfig,
};
pub use consent::{AdoptedRoster, Founding, Officer, approvals_path, ledger_path, roster_path};
pub use destruction::Destroyed;
pub use error::GateError;
pub use evaluate::{Evaluation, JudgedQuery, Quality, Searched};
pub use fips::{
    FipsOverrides, draft_mode, fips_status, install_mode, install_snapshot, signatures_path, snapshot_path,
};
pub use inbox::{Activated, Request, ask_beside};
pub use ingest::{Document, Ingested};
pub use init::{Created, create, create_from, prepare};
pub use journal::{Journal, RecordedRun, Recording, Said};
pub use keys::{Issued, KeyList, UserLine, UserStatus};
pub use legacy::{LegacyDirection, LegacyStatus, MAX_LEGACY_VALUES};
pub use model::{MAX_MODEL_BYTES, Model, ModelKind};
pub use orders::CarriedOut;
pub use people::Pseudonyms;
pub use pins::{provide_pin, refuse_planted, user_pin};
pub use reindex::Reindexed;
pub use replay::Outcome as ReplayOutcome;
pub use revocations::ask_to_revoke;
pub use rotation::rotate_log_key;
pub use schema::{CollectionConfig, FieldKind, FieldRule};
pub use session::Session;
pub use shadow::{ShadowSummary, shadow_of};
pub use site::{Active, Gate, pair_status};
pub use site_log::SiteLog;
pub use staging::Trial;
pub use standing::standing_of;
pub use state::{STATE_FORMAT, SiteKey, SiteState};
pub use taken::{Taken, TakenToken};
pub use trusted_time::trusted_time_of;
pub use versions::{KeyStatus, OlderStatus, ReEncrypted};

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
