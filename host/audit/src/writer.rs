//! The writer thread: one `fdatasync` per group, then every answer of the group.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use crate::log::Shared;
use crate::{AuditError, store, wal};

/// A write-ahead file up to this length keeps what is signed already: replacing it would hold up records that wait.
const KEEP: u64 = 4 << 20;

/// A record on its way, and whom to tell.
pub(crate) struct Pending {
    pub(crate) record: Vec<u8>,
    pub(crate) done: Box<dyn FnOnce(Result<u64, AuditError>) + Send>,
}

/// What the writer thread is asked to do, in order.
pub(crate) enum Command {
    Append(Pending),
    /// Answer once everything before is durable or refused.
    Barrier(Sender<()>),
    /// Take no more, sign what is left, end.
    Close,
    /// A checkpoint is out: shorten the write-ahead file.
    Reset,
}

impl Command {
    /// Turns a record away.
    pub(crate) fn refuse(self, error: AuditError) {
        if let Self::Append(pending) = self {
            (pending.done)(Err(error));
        }
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    max_batch: usize,
    file: File,
    /// Bytes of the file that hold whole, answered records.
    length: u64,
    check: [u8; 32],
    /// A write failed: the space of what is signed is needed.
    full: bool,
    /// Set when nobody can know any more what the disk holds; only reopening helps.
    dead: Option<AuditError>,
    checkpoints: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        max_batch: usize,
        file: File,
        written: &wal::Encoder,
        checkpoints: JoinHandle<()>,
    ) -> Self {
        let (length, check) = (written.bytes.len() as u64, written.check());
        Self { shared, commands, max_batch, file, length, check, full: false, dead: None, checkpoints }
    }

    pub(crate) fn run(mut self) {
        let mut closing = false;
        while !closing {
            let Ok(first) = self.commands.recv() else {
                break;
            };
            let (mut group, mut barriers, mut reset) = (Vec::new(), Vec::new(), false);
            let mut next = Some(first);
            // Everything that queued up while the previous group was synchronised shares the next one.
            while let Some(command) = next.take() {
                match command {
                    Command::Append(pending) => group.push(pending),
                    Command::Barrier(reached) => barriers.push(reached),
                    Command::Close => closing = true,
                    Command::Reset => reset = true,
                }
                if group.len() < self.max_batch && !closing {
                    next = self.commands.try_recv().ok();
                }
            }
            self.commit(group);
            for reached in barriers {
                // Whoever asked may have given up.
                let _ = reached.send(());
            }
            if reset && (self.full || self.length > KEEP) {
                self.reset();
            }
        }
        self.close();
    }

    fn commit(&mut self, group: Vec<Pending>) {
        if group.is_empty() {
            return;
        }
        let refusal = self.dead.clone().or_else(|| self.shared.state().refusal(self.shared.every));
        let written = match refusal {
            Some(error) => Err(error),
            None => self.write(&group),
        };
        match written {
            Ok(()) => {
                let (records, answers): (Vec<_>, Vec<_>) =
                    group.into_iter().map(|pending| (Arc::new(pending.record), pending.done)).unzip();
                let mut state = self.shared.state();
                let first = state.size();
                state.tail_bytes += records.iter().map(|record| record.len()).sum::<usize>();
                state.tail.extend(records);
                drop(state);
                self.shared.work.notify_one();
                for (index, done) in (first..).zip(answers) {
                    answer(done, Ok(index));
                }
            }
            Err(error) => group.into_iter().for_each(|pending| answer(pending.done, Err(error.clone()))),
        }
    }

    fn write(&mut self, group: &[Pending]) -> Result<(), AuditError> {
        let mut encoder = wal::Encoder::resume(self.check);
        group.iter().for_each(|pending| encoder.push(&pending.record));
        let path = self.shared.dir.join(wal::NAME);
        if let Err(error) = self.file.write_all(&encoder.bytes) {
            let error = AuditError::io("write", &path)(error);
            self.full = true;
            // A full disk is no reason to give up for good: take back what was written, refuse this group, try the next.
            let restored = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            if restored.is_err() {
                self.dead = Some(error.clone());
            }
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            // After a failed fsync the kernel may have dropped the pages: whether the records are there is anybody's guess.
            let error = AuditError::io("synchronise", &path)(error);
            self.dead = Some(error.clone());
            return Err(error);
        }
        self.length += encoder.bytes.len() as u64;
        self.check = encoder.check();
        Ok(())
    }

    /// Replaces the write-ahead file by one that holds only what the latest checkpoint does not cover.
    fn reset(&mut self) {
        if self.dead.is_some() {
            return;
        }
        let state = self.shared.state();
        let size = state.signed.tree.size;
        let skip = (size - state.tail_first) as usize;
        let records: Vec<_> = state.tail.iter().skip(skip).cloned().collect();
        drop(state);
        let mut encoder = wal::Encoder::begin(size);
        records.iter().for_each(|record| encoder.push(record));
        match store::replace(&self.shared.dir, wal::NAME, &encoder.bytes) {
            Ok(file) => {
                self.file = file;
                self.length = encoder.bytes.len() as u64;
                self.check = encoder.check();
                self.full = false;
            }
            // The old file still holds everything; the next checkpoint tries again.
            Err(error) => {
                return tracing::warn!(%error, "cannot shorten the audit write-ahead file");
            }
        }
        if let Err(error) = store::sync_dir(&self.shared.dir) {
            // Which of the two files a crash would leave is unknown, and new records go only to one.
            tracing::error!(%error, "the audit write-ahead file may not be durable");
            self.dead = Some(error);
        }
    }

    fn close(mut self) {
        self.shared.state().closing = true;
        self.shared.work.notify_one();
        // The checkpoint thread may still post a reset: leave it a free slot until it has ended.
        while !self.checkpoints.is_finished() {
            let state = self.shared.state();
            if !state.closed {
                drop(self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                break;
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            command.refuse(AuditError::Closed);
        }
        self.reset();
        if self.checkpoints.join().is_err() {
            tracing::error!("the checkpoint thread of the audit log ended in a panic");
        }
    }
}

/// A callback that panics must not take the log with it.
fn answer(done: Box<dyn FnOnce(Result<u64, AuditError>) + Send>, result: Result<u64, AuditError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a caller of the audit log panicked while it was answered");
    }
}
