//! The time in records: never earlier than what the log already holds, whatever the system's clock says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{AuditError, Log, VerifyError};

/// Records that are written at once may overtake each other by so much; more is a clock that was set back.
pub(crate) const OVERTAKING_MS: u64 = 60_000;

/// A clock that starts at the log's latest time and never goes back.
#[derive(Debug)]
pub struct RecordClock {
    floor: AtomicU64,
    behind: u64,
}

impl RecordClock {
    /// A clock over a log whose latest record says `floor` (milliseconds since 1970).
    pub fn after(floor: u64) -> Self {
        Self { floor: AtomicU64::new(floor), behind: floor.saturating_sub(system_ms()) }
    }

    /// A clock over this log.
    pub fn of(log: &Log) -> Result<Self, AuditError> {
        let latest = log.size().checked_sub(1).map(|last| log.read(last)).transpose()?;
        Ok(Self::after(latest.and_then(|record| time_of(&record)).unwrap_or(0)))
    }

    /// Milliseconds since 1970 UTC; never less than it said before.
    pub fn now_ms(&self) -> u64 {
        let now = system_ms();
        self.floor.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// By how many milliseconds the system's clock was behind the log when this clock was made.
    pub fn was_behind_ms(&self) -> u64 {
        self.behind
    }
}

/// The time of a record, read from its first bytes; `None` when it is not one of ours.
pub(crate) fn time_of(record: &[u8]) -> Option<u64> {
    // Fields have a fixed order and no spaces: `Record::to_bytes`.
    let digits = record.strip_prefix(b"{\"v\":1,\"time_ms\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// Finds the first record of a sequence that is older than one before it.
#[derive(Debug, Default)]
pub(crate) struct ClockCheck {
    latest: u64,
}

impl ClockCheck {
    pub(crate) fn see(&mut self, index: u64, record: &[u8]) -> Result<(), VerifyError> {
        let Some(time) = time_of(record) else { return Ok(()) };
        let by_ms = self.latest.saturating_sub(time);
        if by_ms > OVERTAKING_MS {
            return Err(VerifyError::ClockSetBack { index, by_ms });
        }
        self.latest = self.latest.max(time);
        Ok(())
    }
}

fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_take_the_log_back() {
        let future = system_ms() + 3_600_000;
        let clock = RecordClock::after(future);
        assert!(clock.was_behind_ms() > 3_500_000);
        assert_eq!(clock.now_ms(), future);
        assert!(clock.now_ms() >= future);
        assert_eq!(RecordClock::after(0).was_behind_ms(), 0);
    }

    #[test]
    fn only_our_records_have_a_time() {
        assert_eq!(time_of(b"{\"v\":1,\"time_ms\":17,\"site\":\"a\"}"), Some(17));
        for other in [b"record 1".as_slice(), b"{\"v\":1,\"time_ms\":", b"{\"v\":1,\"time_ms\":x,", b""] {
            assert_eq!(time_of(other), None);
        }
    }
}
