//! Writes recordings away from the request's path: one thread, batches, and back-pressure instead of loss.

use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::GateError;

/// Recordings that may wait to be written; then requests wait for them.
const QUEUE: usize = 4096;
/// Recordings written in one batch.
const BATCH: usize = 256;

/// The writing end of the store of recordings. Dropping it writes what is queued.
pub(crate) struct Recorder {
    queue: Option<mpsc::Sender<(String, Vec<u8>)>>,
    writer: Option<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) fn start(tree: sled::Tree) -> Result<Self, GateError> {
        let (queue, mut waiting) = mpsc::channel::<(String, Vec<u8>)>(QUEUE);
        let writer = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || {
                let mut taken = Vec::with_capacity(BATCH);
                while waiting.blocking_recv_many(&mut taken, BATCH) > 0 {
                    let mut batch = sled::Batch::default();
                    for (key, sealed) in taken.drain(..) {
                        batch.insert(key.as_bytes(), sealed);
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
        Ok(Self { queue: Some(queue), writer: Some(writer) })
    }

    /// Queues a sealed recording; waits while the queue is full.
    pub(crate) async fn put(&self, key: String, sealed: Vec<u8>) -> Result<(), GateError> {
        let stopped = || GateError::Store("recordings cannot be written; see the operator's log".to_owned());
        self.queue.as_ref().ok_or_else(stopped)?.send((key, sealed)).await.map_err(|_| stopped())
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
