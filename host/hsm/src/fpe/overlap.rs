//! FF1 for many callers at once: one alone goes to the token as it is, those who come meanwhile share batches.
//!
//! A queue costs a lone caller two changes of thread, so it is used by those alone who find somebody in the token already: they would have
//! waited anyway, and a round costs a call whatever the size of the batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::words::Direction;
use super::{BatchReport, Ff1Value, FpeQueue, QueueLimits};
use crate::HsmError;

/// The batch is changed in place, or an error leaves it as it was.
type Run = dyn Fn(&mut [Ff1Value], Direction) -> Result<BatchReport, HsmError> + Send + Sync;

/// Values from which a batch gains nothing by company.
const LARGE: usize = 256;

/// FF1 under one key and radix, shared between threads. Its calls block.
pub struct OverlapFf1 {
    run: Arc<Run>,
    radix: u32,
    limits: QueueLimits,
    deadline: Duration,
    in_token: AtomicUsize,
    /// Started when two callers first meet: many keys never see it.
    queue: Mutex<Option<Arc<FpeQueue>>>,
}

impl OverlapFf1 {
    /// `encrypt` and `decrypt` do one batch each. A queued caller waits at most `deadline`, and the queue takes no more values than
    /// `limits` says.
    pub fn new(
        radix: u32,
        limits: QueueLimits,
        deadline: Duration,
        encrypt: impl Fn(&mut [Ff1Value]) -> Result<BatchReport, HsmError> + Send + Sync + 'static,
        decrypt: impl Fn(&mut [Ff1Value]) -> Result<BatchReport, HsmError> + Send + Sync + 'static,
    ) -> Self {
        let run = move |batch: &mut [Ff1Value], direction| match direction {
            Direction::Encrypt => encrypt(batch),
            Direction::Decrypt => decrypt(batch),
        };
        Self { run: Arc::new(run), radix, limits, deadline, in_token: AtomicUsize::new(0), queue: Mutex::new(None) }
    }

    /// No wait for company that may never come, 1,024 blocks, 16 batches, ten seconds.
    pub fn with_defaults(
        radix: u32,
        encrypt: impl Fn(&mut [Ff1Value]) -> Result<BatchReport, HsmError> + Send + Sync + 'static,
        decrypt: impl Fn(&mut [Ff1Value]) -> Result<BatchReport, HsmError> + Send + Sync + 'static,
    ) -> Self {
        let limits = QueueLimits { wait: Duration::ZERO, ..QueueLimits::default() };
        Self::new(radix, limits, Duration::from_secs(10), encrypt, decrypt)
    }

    /// Encrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As the batch's own call; of a shared batch as [`FpeQueue::encrypt`].
    pub fn encrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.go(batch, Direction::Encrypt)
    }

    /// Decrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`OverlapFf1::encrypt`].
    pub fn decrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.go(batch, Direction::Decrypt)
    }

    fn go(&self, batch: &mut [Ff1Value], direction: Direction) -> Result<BatchReport, HsmError> {
        let here = InToken(&self.in_token);
        let alone = self.in_token.fetch_add(1, Ordering::AcqRel) == 0;
        let done =
            if alone || batch.len() >= LARGE { (self.run)(batch, direction) } else { self.queued(batch, direction) };
        drop(here);
        done
    }

    fn queued(&self, batch: &mut [Ff1Value], direction: Direction) -> Result<BatchReport, HsmError> {
        let queue = {
            let mut slot = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            match &*slot {
                Some(queue) => Arc::clone(queue),
                None => {
                    let run = Arc::clone(&self.run);
                    let started = FpeQueue::start_with(self.radix, self.limits, move |batch, way| run(batch, way))?;
                    Arc::clone(slot.insert(Arc::new(started)))
                }
            }
        };
        match direction {
            Direction::Encrypt => queue.encrypt(batch, self.deadline),
            Direction::Decrypt => queue.decrypt(batch, self.deadline),
        }
    }
}

/// Counts a caller until it leaves, however it leaves.
struct InToken<'a>(&'a AtomicUsize);

impl Drop for InToken<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::super::Backend;
    use super::*;

    const FOREVER: Duration = Duration::from_secs(3_600);

    fn value(numeral: u16) -> Ff1Value {
        Ff1Value { numerals: vec![numeral; 6], tweak: Vec::new() }
    }

    fn shift(batch: &mut [Ff1Value], by: u16) -> Result<BatchReport, HsmError> {
        batch.iter_mut().flat_map(|value| &mut value.numerals).for_each(|numeral| *numeral = (*numeral + by) % 10);
        Ok(BatchReport { hsm_calls: 11, values: batch.len(), backend: Backend::HostFeistel })
    }

    /// A token whose first batch lasts until the sender says so. Counts batches.
    fn held() -> (Arc<OverlapFf1>, Arc<AtomicUsize>, Sender<()>) {
        let (go, wait) = channel::<()>();
        let (wait, batches) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&batches);
        let encrypt = move |batch: &mut [Ff1Value]| {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                wait.lock().unwrap().recv().unwrap();
            }
            shift(batch, 1)
        };
        let limits = QueueLimits { wait: FOREVER, blocks: 8, waiting: 8 };
        (Arc::new(OverlapFf1::new(10, limits, FOREVER, encrypt, |batch| shift(batch, 9))), batches, go)
    }

    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_lone_caller_starts_no_queue() {
        let ff1 = OverlapFf1::with_defaults(10, |batch| shift(batch, 1), |batch| shift(batch, 9));
        let mut batch = [value(3)];
        for _ in 0..3 {
            ff1.encrypt(&mut batch).unwrap();
            ff1.decrypt(&mut batch).unwrap();
        }
        assert_eq!(batch, [value(3)]);
        assert!(ff1.queue.lock().unwrap().is_none() && ff1.in_token.load(Ordering::SeqCst) == 0);
    }

    #[test]
    fn callers_who_find_somebody_in_the_token_share_one_batch() {
        let (ff1, batches, go) = held();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let mut batch = [value(0)];
                ff1.encrypt(&mut batch).unwrap();
                batch
            });
            until(|| batches.load(Ordering::SeqCst) == 1);
            let others: Vec<_> = (1..9u16)
                .map(|numeral| {
                    let ff1 = &ff1;
                    scope.spawn(move || {
                        let mut batch = [value(numeral)];
                        let report = ff1.encrypt(&mut batch).unwrap();
                        assert_eq!((batch, report.values), ([value((numeral + 1) % 10)], 8));
                    })
                })
                .collect();
            others.into_iter().for_each(|other| other.join().unwrap());
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap(), [value(1)]);
        });
        assert_eq!(batches.load(Ordering::SeqCst), 2);
        assert_eq!(ff1.in_token.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn more_than_the_queue_takes_is_refused_and_left_as_it_was() {
        let (ff1, batches, go) = held();
        std::thread::scope(|scope| {
            scope.spawn(|| ff1.encrypt(&mut [value(0)]).unwrap());
            until(|| batches.load(Ordering::SeqCst) == 1);
            let mut nine: Vec<Ff1Value> = (0..9).map(value).collect();
            let before = nine.clone();
            assert!(matches!(ff1.encrypt(&mut nine), Err(HsmError::QueueFull { limit: 8, .. })));
            assert!(nine == before);
            go.send(()).unwrap();
        });
    }
}
