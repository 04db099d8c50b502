//! The site's audit log as a judge of statements.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_audit::{Record, Verified, entries_from, root_at, verify_dir};
use casemate_custody::{AuditHeads, CustodyError, UnixTime};

use crate::failure::Failure;

/// The log of a site, verified as a whole when it is opened.
pub struct SiteLog {
    dir: PathBuf,
    verified: Verified,
}

impl SiteLog {
    pub fn open(site: &Path) -> Result<Self, Failure> {
        let path = site.join("log.vkey");
        let key = fs::read_to_string(&path)
            .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
        let dir = site.join("log");
        let verified = verify_dir(&dir, key.trim(), |_| {})?;
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
