use std::io::ErrorKind;
use std::path::PathBuf;

use casemate_audit::AuditError;
use casemate_types::{CollectionName, Reason, UserName};

use crate::state::STATE_FORMAT;

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
    /// A user's attributes in site.toml are not those the user's key was issued for.
    #[error(
        "the attributes of `{user}` in site.toml differ from those its key was issued for; review them, then `casemate keys issue {user}`"
    )]
    AttributesChanged {
        /// Whose.
        user: UserName,
    },
    /// An order of custodians was refused.
    #[error("order: {0}")]
    Order(#[from] casemate_change::OrderError),
    /// The process that has the site open refused.
    #[error("{0}")]
    Refused(String),
    /// The combining expression is wrong.
    #[error("site.toml: `combining`: {0}")]
    Combining(String),
    /// Custodians have to be asked, and what is there does not show that they agreed.
    #[error("{0}")]
    Consent(String),
    /// A file of the site is malformed.
    #[error("{path}: {problem}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The lists of keys in `state.json` are not those that were written last; nothing is destroyed by them.
    #[error("state.json: {problem}; nothing was destroyed. Put back the state.json that was written last")]
    Doomed {
        /// What does not fit.
        problem: String,
    },
    /// A key's older version was to encrypt.
    #[error("{key}@{version} only decrypts; {key}@{in_force} is in force")]
    OlderVersion {
        /// The key.
        key: &'static str,
        /// The older version.
        version: u32,
        /// The version in force.
        in_force: u32,
    },
    /// A step of a rotation or destruction was refused.
    #[error("{0}")]
    Rotation(#[from] casemate_custody::RotationError),
    /// Custody refused.
    #[error("{0}")]
    Custody(#[from] casemate_custody::CustodyError),
    /// The embedder failed.
    #[error("embedding: {0}")]
    Embed(#[from] casemate_embed::EmbedError),
    /// The Wasm engine failed.
    #[error("engine: {0}")]
    Engine(#[from] casemate_engine::EngineError),
    /// Encrypted search failed on the owner's side.
    #[error("encrypted search: {0}")]
    Fhe(String),
    /// The list of certificates cannot be believed, or is older than the one in force.
    #[error("certificate list: {0}")]
    FipsSnapshot(#[from] casemate_fips::FipsError),
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
    /// An officer asked for something that does not fit the site's users and compartments.
    #[error("{0}")]
    KeyOffice(String),
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
    /// A site does not take the keys of a ceremony.
    #[error("take the keys of the ceremony: {why}")]
    Ceremony {
        /// What differs from the transcript, or from what the site wants.
        why: String,
    },
    /// The profile asks for a validated module, and the token is not shown to be one.
    #[error(
        "profile `{profile}` asks for a validated module, and `{check}` does not hold: {evidence}; \
         `casemate fips status` shows every check"
    )]
    NotValidated {
        /// The site's profile.
        profile: casemate_types::Profile,
        /// The first check that does not hold.
        check: &'static str,
        /// What was seen.
        evidence: String,
    },
    /// A model, or what a model is to be made of, was refused.
    #[error("model: {0}")]
    Model(String),
    /// The tier gave logits that no honest one gives.
    #[error("model {model}: {trick}")]
    ModelTier {
        /// The model's digest.
        model: casemate_types::Digest,
        /// What the owner's checks saw.
        trick: String,
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
    /// A change was not staged or approved.
    #[error(transparent)]
    Approval(#[from] casemate_change::ApprovalError),
    /// A change without a staging report.
    #[error("the change was not staged yet: casemate change stage {}", change.hex())]
    NotStaged {
        /// The change.
        change: casemate_types::Digest,
    },
    /// A set of recordings that cannot be trusted.
    #[error("the recordings cannot be used for staging: {request}: {problem}")]
    Replay {
        /// Which one.
        request: String,
        /// What is wrong.
        problem: String,
    },
    /// A signed document that the site cannot use.
    #[error("the {kind} document cannot be used: {problem}")]
    Document {
        /// Its kind.
        kind: &'static str,
        /// What is wrong.
        problem: String,
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
    /// The list of certificates is older than one this site has accepted.
    #[error("the list of certificates is of {date}, and this site has accepted the one of {floor}: it was put back")]
    SnapshotRolledBack {
        /// The list's date.
        date: jiff::civil::Date,
        /// The newest date accepted.
        floor: jiff::civil::Date,
    },
    /// The session's user was revoked, or given another key.
    #[error("the session has ended: its user was revoked or given another key; open a new one")]
    SessionEnded,
    /// The state file is of another format.
    #[error(
        "{path} has format {found}, and this version reads format {STATE_FORMAT}; make the site anew with `casemate init`"
    )]
    StateFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A custodian stopped the site, or a component that was running.
    #[error("{what} is stopped by order of a custodian; see `casemate change status`")]
    Stopped {
        /// What.
        what: String,
    },
    /// The state file lacks something the configuration names.
    #[error("state.json holds no {what}; site.toml names something for which no key was made (`casemate keys --help`)")]
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
    /// A destruction is not proven, or its notes were altered.
    #[error("destruction of {name}: {what}")]
    Undestroyed {
        /// Of what.
        name: String,
        /// What still answers.
        what: String,
    },
    /// Wrong or missing credentials.
    #[error("the credentials are wrong or missing")]
    Unauthenticated,
    /// A user's key does not open with this credential: it was altered, or it is another user's.
    #[error("the key of `{user}` does not open: state.json was altered, or it was issued to somebody else")]
    UserKey {
        /// Whose.
        user: UserName,
    },
}

impl GateError {
    /// The reason code a denial carries.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Audit(error) => audit_reason(error),
            Self::Hsm(_) => Reason::token_unavailable(),
            Self::Fhe(_) | Self::Store(_) | Self::Doomed { .. } | Self::UserKey { .. } => Reason::store_failed(),
            Self::ModelTier { .. } | Self::Tier { .. } => Reason::scores_refused(),
            Self::Below { reason, .. } => reason.clone(),
            Self::NotLoaded { .. } => Reason::no_plugin(),
            Self::Document { kind: "people", .. } => Reason::unauthenticated(),
            Self::Stopped { .. } => Reason::stopped(),
            Self::Ingest(_) | Self::KeyOffice(_) | Self::Model(_) | Self::Question(_) | Self::Rotation(_) => {
                Reason::bad_request()
            }
            Self::Consent(_) | Self::Custody(_) | Self::SessionEnded | Self::Unauthenticated => {
                Reason::unauthenticated()
            }
            _ => Reason::capability_failed(),
        }
    }
}

/// Why the log refused, so that an operator knows which of disk, token and witness to look at.
fn audit_reason(error: &AuditError) -> Reason {
    match error {
        AuditError::Io { source, .. }
            if matches!(source.kind(), ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded | ErrorKind::StorageFull) =>
        {
            Reason::audit_disk_full()
        }
        AuditError::Signer(_) | AuditError::SignerStalled => Reason::token_unavailable(),
        AuditError::Unwitnessed { .. } | AuditError::WitnessRefused { .. } => Reason::audit_unwitnessed(),
        _ => Reason::audit_unavailable(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_log_that_refuses_says_which_part_is_missing() {
        let io =
            |kind: ErrorKind| AuditError::Io { action: "write", path: "wal".into(), source: Arc::new(kind.into()) };
        let cases = [
            (io(ErrorKind::StorageFull), "host:audit-disk-full"),
            (io(ErrorKind::PermissionDenied), "host:audit-unavailable"),
            (AuditError::Signer(Arc::from(Box::from("gone"))), "host:token-unavailable"),
            (AuditError::SignerStalled, "host:token-unavailable"),
            (AuditError::Unwitnessed { checkpoints: 3, limit: 3, last: String::new() }, "host:audit-unwitnessed"),
            (AuditError::WitnessRefused { refusal: "split-view".into() }, "host:audit-unwitnessed"),
            (AuditError::Closed, "host:audit-unavailable"),
        ];
        for (error, reason) in cases {
            assert_eq!(GateError::Audit(error).reason().as_str(), reason);
        }
    }
}
