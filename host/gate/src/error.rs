use std::path::PathBuf;

use casemate_types::{CollectionName, Reason};

/// What can go wrong in the gate, named after who is at fault. Every variant becomes a denial with a reason code of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The audit log refused.
    #[error("audit log: {0}")]
    Audit(#[from] casemate_audit::AuditError),
    /// A bundle was refused.
    #[error("bundle: {0}")]
    Bundle(#[from] casemate_bundle::BundleError),
    /// The set of active bundles is broken.
    #[error("active plugins: {0}")]
    Change(#[from] casemate_change::ChangeError),
    /// The combining expression is wrong.
    #[error("site.toml: `combining`: {0}")]
    Combining(String),
    /// A file of the site is malformed.
    #[error("{path}: {problem}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The embedder failed.
    #[error("embedding: {0}")]
    Embed(#[from] casemate_embed::EmbedError),
    /// The Wasm engine failed.
    #[error("engine: {0}")]
    Engine(#[from] casemate_engine::EngineError),
    /// Encrypted search failed on the owner's side.
    #[error("encrypted search: {0}")]
    Fhe(String),
    /// The HSM failed or refused.
    #[error("HSM: {0}")]
    Hsm(#[from] casemate_hsm::HsmError),
    /// Another process has the site open.
    #[error("the site {path} is in use by another process; stop it first")]
    InUse {
        /// Which site.
        path: PathBuf,
    },
    /// A document of an ingest cannot be taken.
    #[error("ingest: {0}")]
    Ingest(String),
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A plugin cannot be loaded.
    #[error("{0}")]
    Load(#[from] casemate_engine::LoadError),
    /// The folder holds no site.
    #[error("no site here: cannot read {path}")]
    NoSite {
        /// Which file was missing.
        path: PathBuf,
        /// Why it could not be read.
        source: std::io::Error,
    },
    /// A plugin that the chain names is not active in its role.
    #[error(
        "site.toml names `{name}` as {role}, but no {role} of that name is active; load it with `casemate plugin load`"
    )]
    NotLoaded {
        /// Which plugin.
        name: String,
        /// As what.
        role: &'static str,
    },
    /// A question or a text that cannot be taken.
    #[error("{0}")]
    Question(String),
    /// Something below an agent failed.
    #[error("{message}")]
    Below {
        /// The reason of what failed.
        reason: Reason,
        /// What failed.
        message: String,
    },
    /// A site is there already.
    #[error("{path} holds a site already; remove it or choose another folder")]
    SiteExists {
        /// Which folder.
        path: PathBuf,
    },
    /// The state file lacks something the configuration names.
    #[error("state.json holds no {what}; site.toml was changed after `casemate init`")]
    StateIncomplete {
        /// What is missing.
        what: String,
    },
    /// The encrypted store refused, or was altered.
    #[error("{0}")]
    Store(String),
    /// The scoring tier gave an answer that no honest one gives.
    #[error("`{collection}`: {trick}")]
    Tier {
        /// The collection asked about.
        collection: CollectionName,
        /// What the owner's checks saw.
        trick: String,
    },
    /// Wrong or missing credentials.
    #[error("the credentials are wrong or missing")]
    Unauthenticated,
}

impl GateError {
    /// The reason code a denial carries.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Audit(_) => Reason::audit_unavailable(),
            Self::Hsm(_) => Reason::token_unavailable(),
            Self::Fhe(_) | Self::Store(_) => Reason::store_failed(),
            Self::Tier { .. } => Reason::scores_refused(),
            Self::Below { reason, .. } => reason.clone(),
            Self::NotLoaded { .. } => Reason::no_plugin(),
            Self::Ingest(_) | Self::Question(_) => Reason::bad_request(),
            Self::Unauthenticated => Reason::unauthenticated(),
            _ => Reason::capability_failed(),
        }
    }
}
