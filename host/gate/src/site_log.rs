//! The site's audit log as a judge of statements.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_audit::{Record, Verified, entries_from, root_at, verify_dir};
use casemate_custody::{AuditHeads, CustodyError, UnixTime};

use crate::GateError;

/// The log of a site, verified as a whole when it is opened.
pub struct SiteLog {
    dir: PathBuf,
    verified: Verified,
}

impl SiteLog {
    /// Verifies the log of the site in `site`, up to its newest checkpoint. Another process may be writing it.
    ///
    /// # Errors
    /// [`GateError::Io`] without `log.vkey`; [`GateError::Custody`] with [`CustodyError::AuditLog`] for a log that does not verify.
    pub fn open(site: &Path) -> Result<Self, GateError> {
        let path = site.join("log.vkey");
        let key = fs::read_to_string(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
        let dir = site.join("log");
        let verified = verify_dir(&dir, key.trim(), |_| {}).map_err(unreadable)?;
        Ok(Self { dir, verified })
    }

    /// Size and root of the signed log.
    pub fn head(&self) -> (u64, [u8; 32]) {
        (self.verified.size, self.verified.root)
    }
}

fn unreadable(error: impl std::fmt::Display) -> CustodyError {
    CustodyError::AuditLog { why: error.to_string() }
}

impl AuditHeads for SiteLog {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        // Only what is signed counts: the tail beyond may still be lost.
        if size > self.verified.size {
            return Ok(None);
        }
        root_at(&self.dir, size).map_err(unreadable)
    }

    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError> {
        if index >= self.verified.size {
            return Ok(None);
        }
        match entries_from(&self.dir, index).map_err(unreadable)?.next() {
            Some((found, bytes)) if found == index => {
                let record = Record::from_bytes(&bytes.map_err(unreadable)?).map_err(unreadable)?;
                Ok(Some(UnixTime(record.time_ms / 1000)))
            }
            // In an archive.
            _ => Ok(None),
        }
    }

    fn times_from(&self, index: u64) -> Result<Vec<UnixTime>, CustodyError> {
        let mut times = Vec::new();
        for (expected, entry) in (index..self.verified.size).zip(entries_from(&self.dir, index).map_err(unreadable)?) {
            let (found, bytes) = entry;
            if found != expected {
                return Err(CustodyError::RecordMissing { index: expected });
            }
            let record = Record::from_bytes(&bytes.map_err(unreadable)?).map_err(unreadable)?;
            times.push(UnixTime(record.time_ms / 1000));
        }
        if times.len() as u64 != self.verified.size.saturating_sub(index) {
            return Err(CustodyError::RecordMissing { index: index + times.len() as u64 });
        }
        Ok(times)
    }

    fn size(&self) -> u64 {
        self.verified.size
    }
}

/// The log of a site that has none yet.
pub(crate) struct NoLog;

impl NoLog {
    /// Size and root (RFC 6962 section 2.1: the hash of nothing).
    pub(crate) fn head() -> (u64, [u8; 32]) {
        (0, *casemate_types::Digest::of(b"").as_bytes())
    }
}

impl AuditHeads for NoLog {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        Ok((size == 0).then(|| Self::head().1))
    }

    fn time_of(&self, _: u64) -> Result<Option<UnixTime>, CustodyError> {
        Ok(None)
    }

    fn size(&self) -> u64 {
        0
    }
}
