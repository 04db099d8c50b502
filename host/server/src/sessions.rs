use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The session of a token, opened where there is none. Every session that ends by it is recorded as closed.
    pub(crate) async fn get(&self, gate: &Gate, token: &str) -> Result<Arc<Session>, GateError> {
        let key = Digest::of(token.as_bytes());
        if let Some(session) = self.lookup(&key) {
            // Its user may have been revoked a moment ago.
            gate.check_current(&session)?;
            return Ok(session);
        }
        let session = gate.session(token).await?;
        let (session, ended) = self.keep(key, session);
        close(gate, ended).await;
        Ok(session)
    }

    /// Ends every session that has been idle for too long; their keys go with them.
    pub(crate) async fn sweep(&self, gate: &Gate) {
        let ended = self.take(|used| used.elapsed() >= IDLE);
        close(gate, ended).await;
    }

    /// Ends the sessions of users who were revoked.
    pub(crate) async fn end_revoked(&self, gate: &Gate) {
        let ended = self
            .lock()
            .extract_if(|_, (session, _)| gate.check_current(session).is_err())
            .map(|(_, (session, _))| session)
            .collect();
        close(gate, ended).await;
    }

    /// Ends every session.
    pub(crate) async fn end_all(&self, gate: &Gate) {
        let ended = self.take(|_| true);
        close(gate, ended).await;
    }

    /// An expired session is left for [`Sessions::keep`] to end, so that its end is recorded.
    fn lookup(&self, key: &Digest) -> Option<Arc<Session>> {
        let mut open = self.lock();
        let (session, used) = open.get_mut(key).filter(|(_, used)| used.elapsed() < IDLE)?;
        *used = Instant::now();
        Some(Arc::clone(session))
    }

    /// Keeps a session that was just opened. Returns the one in force, which another request may have opened meanwhile, and those
    /// that ended.
    fn keep(&self, key: Digest, session: Arc<Session>) -> (Arc<Session>, Vec<Arc<Session>>) {
        let now = Instant::now();
        let mut open = self.lock();
        if let Some((other, used)) = open.get_mut(&key).filter(|(_, used)| used.elapsed() < IDLE) {
            *used = now;
            return (Arc::clone(other), vec![session]);
        }
        let mut ended: Vec<Arc<Session>> = open.remove(&key).map(|(expired, _)| expired).into_iter().collect();
        if open.len() >= MAX_SESSIONS {
            let oldest = open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            ended.extend(oldest.and_then(|oldest| open.remove(&oldest)).map(|(evicted, _)| evicted));
        }
        open.insert(key, (Arc::clone(&session), now));
        (session, ended)
    }

    fn take(&self, ends: impl Fn(&Instant) -> bool) -> Vec<Arc<Session>> {
        self.lock().extract_if(|_, (_, used)| ends(used)).map(|(_, (session, _))| session).collect()
    }

    /// A panic elsewhere leaves the map whole: every change to it is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Arc<Session>, Instant)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn close(gate: &Gate, ended: Vec<Arc<Session>>) {
    for session in ended {
        if let Err(error) = gate.close(&session).await {
            tracing::warn!(%error, "the end of a session could not be recorded");
        }
    }
}
