use std::path::PathBuf;

use casemate_custody::{CustodyError, TokenSerial};
use casemate_hsm::HsmError;
use casemate_types::{Digest, Profile};

/// Why a ceremony stopped or was refused. No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// The audit log did not take or give a record.
    #[error("use the audit log: {why}; nothing is done without it")]
    Audit {
        /// The cause.
        why: String,
    },
    /// The bindings do not fit the plan or the roster.
    #[error("bind the plan to this place: {why}")]
    Bindings {
        /// What does not fit.
        why: String,
    },
    /// A custodian's file or token, an approval or a signature.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The folder holds a ceremony.
    #[error("begin a ceremony in {}: it holds one already; go on with `resume`, or use a folder of its own", path.display())]
    FolderUsed {
        /// The folder.
        path: PathBuf,
    },
    /// A token refused.
    #[error("use a token")]
    Hsm(#[from] HsmError),
    /// Another process has the ceremony.
    #[error("open {}: another process is at this ceremony", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The journal is not the one that was written.
    #[error("read the journal: entry {entry} {why}; somebody changed it: begin anew with fresh tokens")]
    JournalAltered {
        /// Which entry, from 0.
        entry: usize,
        /// What shows it.
        why: &'static str,
    },
    /// The audit log knows more entries than there are.
    #[error(
        "read the journal: it ends after {found} entries, the audit log holds {recorded}; it was cut off or replaced by an \
         older one: put the newest back"
    )]
    JournalTruncated {
        /// Entries in the journal.
        found: usize,
        /// Entries in the log.
        recorded: usize,
    },
    /// A key that came back from escrow is another.
    #[error("recover `{key}`: its check value differs from the original's; the escrow is worthless")]
    KeyDiffers {
        /// Its name in the plan.
        key: String,
    },
    /// A file of a ceremony that is not what it should be.
    #[error("read {what}: {why}")]
    Malformed {
        /// Which kind of file.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The token holds something.
    #[error(
        "check that token {serial} is fresh: it holds {count} objects, the first is {first}; a key ceremony begins with an \
         empty token"
    )]
    NotFresh {
        /// The token.
        serial: String,
        /// How many objects.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The operator stopped.
    #[error("go on: {why}; `resume` goes on from here")]
    Paused {
        /// In words.
        why: String,
    },
    /// No PIN.
    #[error("get the PIN of {of}: {why}")]
    Pin {
        /// Whose.
        of: String,
        /// The cause.
        why: String,
    },
    /// The journal or the transcript is of another plan.
    #[error("compare the plan: this {what} is of plan {found}, not of {plan}; use the plan it was begun with")]
    PlanDiffers {
        /// What was compared.
        what: &'static str,
        /// Its plan.
        found: Digest,
        /// The plan at hand.
        plan: Digest,
    },
    /// The plan contradicts itself.
    #[error("check the plan{}: {why}", step.map_or_else(String::new, |step| format!(", step {step}")))]
    PlanInvalid {
        /// Which step, from 1.
        step: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// The custodians approved another plan.
    #[error(
        "compare the plan with the approval: the custodians approved {approved}, this plan is {plan}; it was changed after \
         they signed, or it is another: have this one approved"
    )]
    PlanNotApproved {
        /// What they signed.
        approved: String,
        /// The plan.
        plan: Digest,
    },
    /// No token has this serial number.
    #[error("find the token `{role}`: no initialised token has serial number {serial}; insert the right one")]
    SerialMissing {
        /// Its role in the plan.
        role: String,
        /// The serial number that is wanted.
        serial: TokenSerial,
    },
    /// The probe refused the token.
    #[error("probe token {serial}: it is not fit for profile {profile}, because of {failed}")]
    TokenUnfit {
        /// The token.
        serial: String,
        /// The profile.
        profile: Profile,
        /// The lines that failed.
        failed: String,
    },
    /// Fewer custodians are here than have to sign.
    #[error("begin: {found} custodians are bound, {wanted} have to be here and to sign the transcript")]
    TooFewCustodians {
        /// How many are bound.
        found: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// The audit log does not hold what the transcript says.
    #[error("verify the transcript: {why}")]
    TranscriptUnproven {
        /// What is missing or differs.
        why: String,
    },
}

impl CeremonyError {
    pub(crate) fn audit(error: impl std::fmt::Display) -> Self {
        Self::Audit { why: error.to_string() }
    }

    pub(crate) fn bindings(why: impl Into<String>) -> Self {
        Self::Bindings { why: why.into() }
    }

    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
