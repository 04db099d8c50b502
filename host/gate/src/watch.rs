//! Writes into the log what happens to the tokens of a pair: each failover, each fail back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_audit::Event;
use casemate_hsm::{PairEvent, PairState, Role};

use crate::GateError;
use crate::journal::Journal;
use crate::vault::Vault;

/// How soon an event is recorded. The pair itself is checked at the interval of `site.toml`.
const PACE: Duration = Duration::from_millis(100);

/// A thread that records until it is dropped. What cannot be recorded now, because the log has no token to sign with either, waits.
pub(crate) struct TokenWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TokenWatch {
    /// Begins to watch a pair; nothing for a site with one token.
    pub(crate) fn start(vault: &Arc<Vault>, journal: &Arc<Journal>) -> Result<Option<Self>, GateError> {
        if vault.status().is_none() {
            return Ok(None);
        }
        let (vault, journal) = (Arc::clone(vault), Arc::clone(journal));
        let (stop, stopped) = channel();
        let body = move || {
            let mut waiting = VecDeque::new();
            loop {
                let ends = !matches!(stopped.recv_timeout(PACE), Err(RecvTimeoutError::Timeout));
                waiting.extend(vault.take_events());
                while let Some(event) = waiting.front() {
                    if journal.record_blocking(record(event)).is_err() {
                        break;
                    }
                    waiting.pop_front();
                }
                if ends {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("token-watch".to_owned()).spawn(body);
        let thread =
            thread.map_err(|error| GateError::Store(format!("cannot start the watch over the tokens: {error}")))?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for TokenWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch over the tokens had died");
        }
    }
}

fn record(event: &PairEvent) -> Event {
    let PairEvent { role, serial, fault, state } = event;
    let action = match (role, fault, state) {
        (_, Some(_), PairState::BothDown) => "hsm-both-down",
        (Role::Primary, Some(_), _) => "hsm-failover",
        (Role::Primary, None, _) => "hsm-fail-back",
        (Role::Backup, Some(_), _) => "hsm-backup-down",
        (Role::Backup, None, _) => "hsm-backup-back",
    };
    let what = fault.as_deref().unwrap_or("in use again after a new login, every key checked");
    Event::Site { action: action.to_owned(), detail: format!("{role} token {serial}: {what}; {}", said(*state)) }
}

fn said(state: PairState) -> &'static str {
    match state {
        PairState::Healthy => "both tokens are in use",
        PairState::PrimaryDown => "the backup serves",
        PairState::BackupDown => "the primary serves, nothing would take over",
        PairState::BothDown => "nothing is served",
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_a_record_of_its_own() {
        let turn = |role, fault: Option<&str>, state| {
            let event = PairEvent { role, serial: "7".to_owned(), fault: fault.map(str::to_owned), state };
            match record(&event) {
                Event::Site { action, detail } => (action, detail),
                other => panic!("{other:?}"),
            }
        };
        let (action, detail) = turn(Role::Primary, Some("gone"), PairState::PrimaryDown);
        assert_eq!((action.as_str(), detail.as_str()), ("hsm-failover", "primary token 7: gone; the backup serves"));
        assert_eq!(turn(Role::Primary, None, PairState::Healthy).0, "hsm-fail-back");
        assert_eq!(turn(Role::Backup, Some("gone"), PairState::BackupDown).0, "hsm-backup-down");
        assert_eq!(turn(Role::Backup, None, PairState::PrimaryDown).0, "hsm-backup-back");
        assert_eq!(turn(Role::Backup, Some("gone"), PairState::BothDown).0, "hsm-both-down");
    }
}
