//! One queue for each key: callers with a few values share the calls of one batch.
//!
//! A round costs a call whatever the size of the batch, so a caller waits a moment for others. The worker is one thread, which
//! is right for tokens that serialise on a lock, and is the order in which a network HSM answers best.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lockstep::{CHUNK, check_values};
use super::shape::{Shape, word_length};
use super::words::Direction;
use super::{Backend, BatchReport, Ff1, Ff1Value};
use crate::HsmError;

/// How long and how much a queue gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// How long the first value of a batch waits for others.
    pub wait: Duration,
    /// Blocks of one call at which a batch is closed; at most 1,024. A value has one, or more if it is longer than a word.
    pub blocks: usize,
    /// Values that may be in the queue or in work. More are refused.
    pub waiting: usize,
}

impl Default for QueueLimits {
    /// 200 us, 1,024 blocks, 16 batches.
    fn default() -> Self {
        Self { wait: Duration::from_micros(200), blocks: CHUNK, waiting: 16 * CHUNK }
    }
}

/// The queue of one FF1 key. Shared between threads; its calls block, so async code uses its runtime's blocking threads.
///
/// Dropping it answers who waits, then ends the worker.
pub struct FpeQueue {
    shared: Arc<Shared>,
    radix: u32,
    worker: Option<JoinHandle<()>>,
}

impl FpeQueue {
    /// Starts the worker. Make one queue for each key: two of them only share less.
    ///
    /// # Errors
    /// [`HsmError::QueueThread`].
    pub fn start(ff1: Ff1, limits: QueueLimits) -> Result<Self, HsmError> {
        let radix = ff1.radix();
        Self::start_with(radix, limits, move |batch, direction| ff1.run(batch, direction))
    }

    /// Encrypts every value in place, in one batch with whatever other callers bring meanwhile. On any error no value is changed.
    ///
    /// # Errors
    /// What is wrong with the values themselves, before they can harm a batch (see [`Ff1::encrypt`]); [`HsmError::QueueFull`],
    /// [`HsmError::QueueDeadline`], [`HsmError::QueueClosed`]; [`HsmError::BatchFailed`] with the token's error.
    pub fn encrypt(&self, values: &mut [Ff1Value], deadline: Duration) -> Result<BatchReport, HsmError> {
        self.submit(values, deadline, Direction::Encrypt)
    }

    /// Decrypts every value in place.
    ///
    /// # Errors
    /// As [`FpeQueue::encrypt`].
    pub fn decrypt(&self, values: &mut [Ff1Value], deadline: Duration) -> Result<BatchReport, HsmError> {
        self.submit(values, deadline, Direction::Decrypt)
    }

    /// Values in the queue or in work.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting
    }

    pub(super) fn start_with(
        radix: u32,
        limits: QueueLimits,
        run: impl Fn(&mut [Ff1Value], Direction) -> Result<BatchReport, HsmError> + Send + 'static,
    ) -> Result<Self, HsmError> {
        let limits = QueueLimits { blocks: limits.blocks.clamp(1, CHUNK), ..limits };
        let shared = Arc::new(Shared { limits, state: Mutex::default(), changed: Condvar::new() });
        let mine = Closing(Arc::clone(&shared));
        let worker = std::thread::Builder::new().name("fpe queue".to_owned()).spawn(move || {
            while let Some(batch) = mine.0.next_batch() {
                mine.0.answer(batch, &run);
            }
        });
        let worker = worker.map_err(|source| HsmError::QueueThread { source })?;
        Ok(Self { shared, radix, worker: Some(worker) })
    }

    fn submit(
        &self,
        values: &mut [Ff1Value],
        deadline: Duration,
        direction: Direction,
    ) -> Result<BatchReport, HsmError> {
        check_values(self.radix, values)?;
        if values.is_empty() {
            return Ok(BatchReport { hsm_calls: 0, values: 0, backend: Backend::HostFeistel });
        }
        let until = Instant::now() + deadline;
        let (reply, answer) = sync_channel(1);
        let blocks = values.iter().map(|value| blocks(self.radix, value)).sum();
        self.shared.push(Request { values: values.to_vec(), blocks, direction, until, reply })?;
        let (numerals, report) = wait(&answer, deadline)?;
        for (value, numerals) in values.iter_mut().zip(numerals) {
            value.numerals = numerals.numerals;
        }
        Ok(report)
    }
}

fn wait(answer: &Receiver<Answer>, deadline: Duration) -> Answer {
    match answer.recv_timeout(deadline) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => Err(HsmError::QueueDeadline),
        Err(RecvTimeoutError::Disconnected) => Err(HsmError::QueueClosed),
    }
}

/// Blocks of a value in the widest call.
fn blocks(radix: u32, value: &Ff1Value) -> usize {
    if value.numerals.len() <= word_length(radix) {
        return 1;
    }
    Shape::new(radix, value.numerals.len(), value.tweak.len()).extra_blocks.max(1)
}

impl Drop for FpeQueue {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has closed the queue already.
            let _ = worker.join();
        }
    }
}

type Answer = Result<(Vec<Ff1Value>, BatchReport), HsmError>;

struct Request {
    values: Vec<Ff1Value>,
    blocks: usize,
    direction: Direction,
    until: Instant,
    reply: SyncSender<Answer>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Request>,
    waiting: usize,
    closed: bool,
}

struct Shared {
    limits: QueueLimits,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn push(&self, request: Request) -> Result<(), HsmError> {
        let mut state = self.lock();
        if state.closed {
            return Err(HsmError::QueueClosed);
        }
        let limit = self.limits.waiting;
        if state.waiting + request.values.len() > limit {
            return Err(HsmError::QueueFull { limit, waiting: state.waiting });
        }
        state.waiting += request.values.len();
        state.queue.push_back(request);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Requests of one direction that fit one call, or one larger request; `None` when the queue is closed and empty.
    fn next_batch(&self) -> Option<Vec<Request>> {
        let mut state = self.lock();
        let first = loop {
            match state.queue.pop_front() {
                Some(first) => break first,
                None if state.closed => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let until = Instant::now() + self.limits.wait;
        let (direction, mut blocks, mut batch) = (first.direction, first.blocks, vec![first]);
        loop {
            let fits = |next: &mut Request| {
                next.direction == direction && blocks.saturating_add(next.blocks) <= self.limits.blocks
            };
            if let Some(next) = state.queue.pop_front_if(fits) {
                blocks += next.blocks;
                batch.push(next);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if !state.queue.is_empty() || state.closed || blocks >= self.limits.blocks || left.is_zero() {
                return Some(batch);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn answer(&self, batch: Vec<Request>, run: &impl Fn(&mut [Ff1Value], Direction) -> Result<BatchReport, HsmError>) {
        let count: usize = batch.iter().map(|request| request.values.len()).sum();
        let now = Instant::now();
        // Who has stopped waiting must not cost the others anything.
        let mut batch: Vec<Request> = batch.into_iter().filter(|request| request.until > now).collect();
        let mut values: Vec<Ff1Value> = Vec::with_capacity(count);
        let lengths: Vec<usize> = batch.iter().map(|request| request.values.len()).collect();
        for request in &mut batch {
            values.append(&mut request.values);
        }
        let direction = batch.first().map(|request| request.direction);
        let result = direction.map(|direction| run(&mut values, direction));
        // Before the answers: who has one finds the place free.
        self.lock().waiting -= count;
        match result {
            Some(Ok(report)) => {
                let mut values = values.into_iter();
                for (request, length) in batch.into_iter().zip(lengths) {
                    // A caller past its deadline has left; there is nobody to tell.
                    let _ = request.reply.send(Ok((values.by_ref().take(length).collect(), report)));
                }
            }
            Some(Err(error)) => {
                let source = Arc::new(error);
                for request in batch {
                    let _ = request.reply.send(Err(HsmError::BatchFailed { source: Arc::clone(&source) }));
                }
            }
            None => {}
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue when the worker ends, however it ends, and lets go of who still waits.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
        self.0.lock().queue.clear();
    }
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const FOREVER: Duration = Duration::from_secs(3_600);

    fn value(numeral: u16) -> Ff1Value {
        Ff1Value { numerals: vec![numeral; 6], tweak: Vec::new() }
    }

    /// Stands for a token: "encrypts" a digit to its neighbour.
    fn shift(batch: &mut [Ff1Value], direction: Direction) -> Result<BatchReport, HsmError> {
        let by = if direction == Direction::Encrypt { 1 } else { 9 };
        batch.iter_mut().flat_map(|value| &mut value.numerals).for_each(|numeral| *numeral = (*numeral + by) % 10);
        Ok(BatchReport { hsm_calls: 11, values: batch.len(), backend: Backend::HostFeistel })
    }

    /// Gathers until a batch is full, however slow the machine is.
    fn patient(blocks: usize) -> QueueLimits {
        QueueLimits { wait: FOREVER, blocks, waiting: 64 }
    }

    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn callers_share_one_batch() {
        let queue = FpeQueue::start_with(10, patient(8), shift).unwrap();
        std::thread::scope(|scope| {
            for numeral in 0..8 {
                let queue = &queue;
                scope.spawn(move || {
                    let mut values = [value(numeral)];
                    let report = queue.encrypt(&mut values, FOREVER).unwrap();
                    assert_eq!(report, BatchReport { hsm_calls: 11, values: 8, backend: Backend::HostFeistel });
                    assert_eq!(values, [value(numeral + 1)]);
                });
            }
        });
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn a_fault_fails_every_value_of_the_batch() {
        let broken = |batch: &mut [Ff1Value], direction| {
            shift(batch, direction)?;
            Err(HsmError::StrangeAnswer { action: "fail on purpose" })
        };
        let queue = FpeQueue::start_with(10, patient(4), broken).unwrap();
        std::thread::scope(|scope| {
            for numeral in 0..4 {
                let queue = &queue;
                scope.spawn(move || {
                    let mut values = [value(numeral)];
                    let error = queue.encrypt(&mut values, FOREVER).unwrap_err();
                    assert!(matches!(&error, HsmError::BatchFailed { source } if source.is_outage()), "{error}");
                    assert!(error.is_outage());
                    assert_eq!(values, [value(numeral)], "never ciphertext");
                });
            }
        });
    }

    #[test]
    fn a_bad_value_harms_only_its_caller() {
        let ran = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ran);
        let queue = FpeQueue::start_with(10, patient(1), move |batch, direction| {
            seen.fetch_add(1, Ordering::SeqCst);
            shift(batch, direction)
        });
        let queue = queue.unwrap();
        let mut short = [Ff1Value { numerals: vec![1; 5], tweak: Vec::new() }];
        assert!(matches!(queue.encrypt(&mut short, FOREVER), Err(HsmError::DomainTooSmall { minimum: 6, .. })));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        queue.encrypt(&mut [value(1)], FOREVER).unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_full_queue_refuses_by_name_and_closing_answers_who_waits() {
        let limits = QueueLimits { waiting: 3, ..patient(100) };
        let queue = FpeQueue::start_with(10, limits, shift).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut values = [value(1), value(2), value(3)];
                queue.encrypt(&mut values, FOREVER).map(|report| (report, values))
            });
            until(|| queue.waiting() == 3);
            let error = queue.encrypt(&mut [value(4)], FOREVER).unwrap_err();
            assert!(matches!(error, HsmError::QueueFull { limit: 3, waiting: 3 }), "{error}");
            queue.shared.close();
            let (report, values) = waiter.join().unwrap().unwrap();
            assert_eq!((report.values, values), (3, [value(2), value(3), value(4)]));
        });
        assert!(matches!(queue.encrypt(&mut [value(4)], FOREVER), Err(HsmError::QueueClosed)));
    }

    #[test]
    fn who_left_at_the_deadline_is_not_encrypted() {
        let queue = FpeQueue::start_with(10, patient(2), shift).unwrap();
        let mut late = [value(1)];
        assert!(matches!(queue.encrypt(&mut late, Duration::ZERO), Err(HsmError::QueueDeadline)));
        assert_eq!(late, [value(1)]);
        // Its place in the batch is counted, its value is not run.
        assert_eq!(queue.encrypt(&mut [value(2)], FOREVER).unwrap().values, 1);
    }

    #[test]
    fn directions_never_mix_and_large_requests_go_alone() {
        let queue = FpeQueue::start_with(10, QueueLimits { wait: Duration::ZERO, waiting: 1_000, ..patient(4) }, shift)
            .unwrap();
        std::thread::scope(|scope| {
            for round in 0..20 {
                let queue = &queue;
                scope.spawn(move || {
                    let mut values = vec![value(round % 10); 1 + usize::from(round) % 7];
                    let before = values.clone();
                    queue.encrypt(&mut values, FOREVER).unwrap();
                    queue.decrypt(&mut values, FOREVER).unwrap();
                    assert_eq!(values, before);
                });
            }
        });
    }

    #[test]
    fn a_worker_that_dies_leaves_nobody_waiting() {
        let queue = FpeQueue::start_with(10, patient(1), |_, _| panic!("on purpose")).unwrap();
        assert!(matches!(queue.encrypt(&mut [value(1)], FOREVER), Err(HsmError::QueueClosed)));
        until(|| queue.shared.lock().closed);
        assert!(matches!(queue.encrypt(&mut [value(1)], FOREVER), Err(HsmError::QueueClosed)));
    }
}
