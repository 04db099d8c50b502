//! The audit log as a ceremony needs it: a record before and after each step, each naming a link of the journal's chain.

use std::path::Path;

use casemate_audit::{Event, Record};
use casemate_custody::AuditHead;
use casemate_types::Digest;

use crate::CeremonyError;

const ACTION: &str = "ceremony";

/// The site's audit log, for writing.
pub trait AuditTrail {
    /// Appends a record, durably before it returns.
    ///
    /// # Errors
    /// [`CeremonyError::Audit`].
    fn append(&mut self, event: Event) -> Result<(), CeremonyError>;

    /// Signs the log as it is now and tells its state.
    ///
    /// # Errors
    /// [`CeremonyError::Audit`].
    fn head(&mut self) -> Result<AuditHead, CeremonyError>;

    /// The marks of a ceremony in the log, in their order.
    ///
    /// # Errors
    /// [`CeremonyError::Audit`].
    fn marks(&mut self, ceremony: &str) -> Result<Vec<Mark>, CeremonyError>;
}

/// A record of the audit log that names an entry of a ceremony's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The record's index in the log.
    pub index: u64,
    /// The entry's number in the journal, from 0.
    pub entry: usize,
    /// The entry's digest.
    pub digest: Digest,
    /// What it says.
    pub words: String,
}

/// Every mark of a ceremony in the log of this folder. Nothing is verified here: see [`casemate_audit::verify_dir`].
///
/// # Errors
/// [`CeremonyError::Audit`].
pub fn marks(log: &Path, ceremony: &str) -> Result<Vec<Mark>, CeremonyError> {
    let mut found = Vec::new();
    for (index, bytes) in casemate_audit::entries_from(log, 0).map_err(CeremonyError::audit)? {
        let record = Record::from_bytes(&bytes.map_err(CeremonyError::audit)?).map_err(CeremonyError::audit)?;
        if let Event::Site { action, detail } = record.event
            && action == ACTION
            && let Some(mark) = read(index, &detail, ceremony)
        {
            found.push(mark);
        }
    }
    Ok(found)
}

fn read(index: u64, detail: &str, ceremony: &str) -> Option<Mark> {
    let mut parts = detail.splitn(4, ' ');
    if parts.next()? != ceremony {
        return None;
    }
    let (entry, digest) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Mark { index, entry, digest, words: parts.next().unwrap_or_default().to_owned() })
}

/// The record of an entry.
pub(crate) fn mark(ceremony: &str, entry: usize, digest: Digest, words: &str) -> Event {
    Event::Site { action: ACTION.to_owned(), detail: format!("{ceremony} {entry} {digest} {words}") }
}

/// The record of a step that failed; it names no entry.
pub(crate) fn failure(ceremony: &str, step: usize, why: &str) -> Event {
    Event::Site { action: "ceremony-failed".to_owned(), detail: format!("{ceremony} step {step}: {why}") }
}
