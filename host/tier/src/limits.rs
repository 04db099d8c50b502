use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::TierError;

/// What one tier takes on. A peer that wants more waits, or is told that the tier is busy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one client: one certificate, or one account of this machine.
    pub per_client: usize,
    /// Bytes of a request.
    pub request_bytes: u32,
    /// Queries scored at the same time; others wait their turn.
    pub scoring: usize,
    /// Queries that may wait.
    pub waiting: usize,
    /// How long a query waits.
    pub patience: Duration,
    /// How long a connection may be quiet between two requests.
    pub idle: Duration,
    /// How long a peer may neither send nor take anything within a message.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            per_client: 32,
            request_bytes: 256 << 20,
            scoring: 2,
            waiting: 64,
            patience: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            stall: Duration::from_secs(30),
        }
    }
}

/// Who is connected, by certificate or account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    Certificate([u8; 32]),
    Account(u32),
}

/// Counts connections.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<Client, usize>>);

impl Clients {
    /// One connection more, unless the client has as many as it may have.
    pub(crate) fn enter(&self, client: Client, limit: usize) -> Result<Place<'_>, TierError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client.clone()).or_default();
        if *count >= limit {
            return Err(TierError::Busy { what: format!("{limit} connections of this client are open") });
        }
        *count += 1;
        Ok(Place { clients: self, client })
    }
}

/// A client's connection, as long as it lasts.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    clients: &'a Clients,
    client: Client,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// So many queries at a time; a bounded number of others waits.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    state: Mutex<(usize, usize)>,
    freed: Condvar,
}

impl Turnstile {
    pub(crate) fn enter(&self, limits: &Limits) -> Result<Turn<'_>, TierError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 >= limits.scoring {
            if state.1 >= limits.waiting {
                return Err(TierError::Busy { what: format!("{} queries wait", state.1) });
            }
            state.1 += 1;
            let until = Instant::now() + limits.patience;
            while state.0 >= limits.scoring {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    state.1 -= 1;
                    return Err(TierError::Busy { what: "a query waited too long".to_owned() });
                }
                state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.1 -= 1;
        }
        state.0 += 1;
        Ok(Turn(self))
    }
}

/// A query's turn.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turnstile);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_places_back() {
        let clients = Clients::default();
        let one = clients.enter(Client::Account(1), 1).unwrap();
        assert!(matches!(clients.enter(Client::Account(1), 1), Err(TierError::Busy { .. })));
        let _other = clients.enter(Client::Account(2), 1).unwrap();
        drop(one);
        clients.enter(Client::Account(1), 1).unwrap();
    }

    #[test]
    fn a_flood_of_queries_waits_in_bounds() {
        let limits = Limits { scoring: 1, waiting: 1, patience: Duration::from_millis(20), ..Limits::default() };
        let turnstile = Turnstile::default();
        let first = turnstile.enter(&limits).unwrap();
        assert!(matches!(turnstile.enter(&limits), Err(TierError::Busy { .. })), "patience");
        std::thread::scope(|scope| {
            let patient = Limits { patience: Duration::from_secs(60), ..limits.clone() };
            let turnstile = &turnstile;
            let waits = scope.spawn(move || turnstile.enter(&patient).map(drop));
            while turnstile.state.lock().unwrap().1 == 0 {
                std::thread::yield_now();
            }
            assert!(matches!(turnstile.enter(&limits), Err(TierError::Busy { .. })), "queue");
            drop(first);
            waits.join().unwrap().unwrap();
        });
    }
}
