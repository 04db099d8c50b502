//! Connections that are lent to one piece of work at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::BackendError;

/// How long work waits for a connection.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pool<C> {
    limit: usize,
    state: Mutex<State<C>>,
    freed: Condvar,
}

struct State<C> {
    idle: Vec<C>,
    lent: usize,
}

/// A place in the pool, with a connection that was used before or none.
pub(crate) struct Lease<'a, C> {
    pool: &'a Pool<C>,
    pub(crate) connection: Option<C>,
}

impl<C> Pool<C> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::new(State { idle: Vec::new(), lent: 0 }), freed: Condvar::new() }
    }

    /// A place, waiting for one if need be.
    pub(crate) fn lease(&self) -> Result<Lease<'_, C>, BackendError> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state();
        while state.lent >= self.limit {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BackendError::Busy { connections: self.limit });
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.lent += 1;
        Ok(Lease { pool: self, connection: state.idle.pop() })
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Lease<'_, C> {
    /// Keeps the connection for others. One that is not given back is closed.
    pub(crate) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.state().idle.push(connection);
        }
    }
}

impl<C> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        self.pool.state().lent -= 1;
        self.pool.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_lent_to_one_at_a_time_and_only_what_was_given_back_is_kept() {
        let pool = Pool::new(2);
        let (mut one, two) = (pool.lease().unwrap(), pool.lease().unwrap());
        assert!(one.connection.is_none() && two.connection.is_none());
        one.connection = Some("first");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pool.lease().unwrap().connection);
            one.give_back();
            assert_eq!(waits.join().unwrap(), Some("first"));
        });
        // That thread did not give it back.
        assert!(pool.lease().unwrap().connection.is_none());
        drop(two);
    }
}
