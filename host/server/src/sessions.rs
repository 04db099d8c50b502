use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_gate::{Gate, GateError, Session};
use casemate_types::Digest;

/// Open sessions by the digest of their token, so that the HSM unwraps a user's keys once and not once a request. A session ends
/// after this long without a request, and its keys with it.
const IDLE: Duration = Duration::from_secs(600);

/// Sessions open at once; the one idle longest makes room.
const MAX_SESSIONS: usize = 1024;

/// The sessions of one server.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<Digest, (Arc<Session>, Instant)>>,
}

impl Sessions {
    pub(crate) async fn get(&self, gate: &Gate, token: &str) -> Result<Arc<Session>, GateError> {
        let key = Digest::of(token.as_bytes());
        if let Some(session) = self.lookup(&key) {
            return Ok(session);
        }
        let session = gate.session(token).await?;
        if let Ok(mut open) = self.open.lock() {
            if open.len() >= MAX_SESSIONS
                && let Some(oldest) = open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
            {
                open.remove(&oldest);
            }
            open.insert(key, (Arc::clone(&session), Instant::now()));
        }
        Ok(session)
    }

    /// Ends every session that has been idle for too long; their keys go with them.
    pub(crate) async fn sweep(&self, gate: &Gate) {
        let mut ended = Vec::new();
        if let Ok(mut open) = self.open.lock() {
            open.retain(|_, (session, used)| {
                let keep = used.elapsed() < IDLE;
                if !keep {
                    ended.push(Arc::clone(session));
                }
                keep
            });
        }
        for session in ended {
            if let Err(error) = gate.close(&session).await {
                tracing::warn!(%error, "the end of a session could not be recorded");
            }
        }
    }

    fn lookup(&self, key: &Digest) -> Option<Arc<Session>> {
        let mut open = self.open.lock().ok()?;
        let (session, used) = open.get_mut(key)?;
        if used.elapsed() >= IDLE {
            open.remove(key);
            return None;
        }
        *used = Instant::now();
        Some(Arc::clone(session))
    }
}
