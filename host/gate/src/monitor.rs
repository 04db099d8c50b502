//! Policies that only monitor run beside the request: nothing waits for them, and what they take cannot be taken from it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Runs under way at once. Beyond that a run is skipped, and its record says so.
const PLACES: usize = 64;
/// No component may run for longer.
const LONGEST: Duration = Duration::from_secs(60);

/// The monitoring runs of an open site.
pub(crate) struct Monitors(Arc<Semaphore>);

impl Default for Monitors {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

impl Monitors {
    /// Starts a run; `false` when there is no place for it.
    pub(crate) fn start(&self, run: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else { return false };
        tokio::spawn(async move {
            run.await;
            drop(place);
        });
        true
    }

    /// Waits until every run has ended. Nothing may be started meanwhile.
    pub(crate) async fn finish(&self) {
        let _ = tokio::time::timeout(LONGEST, self.0.acquire_many(PLACES as u32)).await;
    }
}
