//! The time that the dates of signatures are judged by: the clock's, but never before the latest record of the audit log. A clock that was
//! set back revives nothing that has expired.

use std::path::Path;

use jiff::Timestamp;

use crate::GateError;

/// The later of the clock and the latest record of the site's log, whether or not another process has the site open, and without any key:
/// the log is not verified. A folder without a log, as an approver's desk may be, has the clock alone.
///
/// # Errors
/// [`GateError::Audit`] for a log that cannot be read.
pub fn trusted_time_of(site: &Path) -> Result<Timestamp, GateError> {
    let log = site.join("log");
    let latest = if log.exists() { casemate_audit::latest_ms(&log)? } else { None };
    Ok(not_before(latest.unwrap_or(0)))
}

/// The clock's time, or this one if it is later.
pub(crate) fn not_before(ms: u64) -> Timestamp {
    let floor = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    floor.map_or_else(Timestamp::now, |floor| floor.max(Timestamp::now()))
}
