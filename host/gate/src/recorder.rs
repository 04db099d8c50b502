//! Writes recordings away from the request's path: one thread, batches, and back-pressure instead of loss.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::GateError;

/// Recordings that may wait to be written; then requests wait for them.
const QUEUE: usize = 4096;
/// Bytes that may wait, counted in KiB; one recording alone may be larger.
const QUEUE_KIB: u32 = 64 << 10;
/// Recordings written in one batch.
const BATCH: usize = 256;

/// A sealed recording, and its share of the bytes that may wait.
type Waiting = (String, Vec<u8>, OwnedSemaphorePermit);

/// The writing end of the store of recordings. Dropping it writes what is queued.
pub(crate) struct Recorder {
    queue: Option<mpsc::Sender<Waiting>>,
    room: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) fn start(tree: sled::Tree) -> Result<Self, GateError> {
        let (queue, mut waiting) = mpsc::channel::<Waiting>(QUEUE);
        let writer = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || {
                let mut taken = Vec::with_capacity(BATCH);
                while waiting.blocking_recv_many(&mut taken, BATCH) > 0 {
                    let mut batch = sled::Batch::default();
                    let mut shares = Vec::with_capacity(taken.len());
                    for (key, sealed, share) in taken.drain(..) {
                        batch.insert(key.as_bytes(), sealed);
                        shares.push(share);
                    }
                    if let Err(error) = tree.apply_batch(batch) {
                        // Closing the queue makes every later decision a denial.
                        tracing::error!(%error, "recordings cannot be written");
                        return;
                    }
                }
                let _ = tree.flush();
            })
            .map_err(|error| GateError::Store(format!("cannot start the recorder: {error}")))?;
        Ok(Self { queue: Some(queue), room: Arc::new(Semaphore::new(QUEUE_KIB as usize)), writer: Some(writer) })
    }

    /// Queues a sealed recording; waits while the queue is full.
    pub(crate) async fn put(&self, key: String, sealed: Vec<u8>) -> Result<(), GateError> {
        let stopped = || GateError::Store("recordings cannot be written; see the operator's log".to_owned());
        let kib = u32::try_from(sealed.len().div_ceil(1024)).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let share = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| stopped())?;
        self.queue.as_ref().ok_or_else(stopped)?.send((key, sealed, share)).await.map_err(|_| stopped())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
