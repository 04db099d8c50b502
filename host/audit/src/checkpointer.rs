//! The checkpoint thread: hashes what is durable, signs it, stores bundles, tiles and checkpoint.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::log::{Head, Shared, State};
use crate::note::CheckpointSigner;
use crate::tree::{self, Edge, WIDTH, leaf_hash, partial_number, partial_width};
use crate::writer::Command;
use crate::{AuditError, VerifyError, store};

pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    signer: Box<dyn CheckpointSigner>,
    commands: SyncSender<Command>,
}

impl Checkpointer {
    pub(crate) fn new(shared: Arc<Shared>, signer: Box<dyn CheckpointSigner>, commands: SyncSender<Command>) -> Self {
        Self { shared, signer, commands }
    }

    pub(crate) fn run(self) {
        // However this thread ends: nobody may wait for it, and nothing may be appended behind its back.
        let _ended = Ended(&self.shared);
        let mut last = Instant::now();
        loop {
            let closing = self.wait_for_work(last);
            let covered = self.shared.state().requested;
            last = Instant::now();
            let result = self.attempt();
            let signed = self.publish(covered, result);
            if signed {
                // Fails only when the writer is gone, and then there is no file to shorten.
                let _ = self.commands.send(Command::Reset);
            }
            if closing {
                return;
            }
        }
    }

    /// Waits until a checkpoint is asked for or due; says whether the log is closing.
    fn wait_for_work(&self, last: Instant) -> bool {
        let mut state = self.shared.state();
        loop {
            if state.closing || state.requested > state.answered {
                return state.closing;
            }
            // Under a fault the pace is the clock's: a token that refuses is not asked for every record.
            if state.unsigned() >= self.shared.after && state.fault.is_none() {
                return false;
            }
            let rest = self.shared.every.saturating_sub(last.elapsed());
            state = if state.unsigned() == 0 {
                self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if rest.is_zero() {
                return false;
            } else {
                self.shared.work.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Makes one checkpoint over everything durable. On failure nothing that counts has changed.
    fn attempt(&self) -> Result<Arc<Head>, AuditError> {
        let (old, tail_first, records) = {
            let state = self.shared.state();
            if state.unsigned() == 0 {
                return Ok(state.signed.clone());
            }
            (state.signed.clone(), state.tail_first, state.tail.iter().cloned().collect::<Vec<_>>())
        };
        let old_size = old.tree.size;
        // What is signed next must extend what was signed last: start from an edge that still gives the signed root, and from a
        // checkpoint file that nobody replaced.
        if old.edge.size() != old_size || old.edge.root() != old.tree.root {
            return Err(VerifyError::RootMismatch { size: old_size }.into());
        }
        if store::read_checkpoint(&self.shared.dir)?.as_deref() != Some(old.tree.text.as_bytes()) {
            return Err(AuditError::CheckpointChanged);
        }

        let mut files = Vec::new();
        let mut edge = old.edge.clone();
        for record in records.iter().skip((old_size - tail_first) as usize) {
            edge.push(leaf_hash(record), |full| {
                files.push((tree::tile_path(full.level, full.tile, WIDTH), full.bytes));
            });
        }
        let size = edge.size();
        add_partial_tiles(&mut files, &edge, old_size);
        for (number, bundle) in (tail_first / WIDTH..).zip(records.chunks(WIDTH as usize)) {
            let mut bytes = Vec::new();
            bundle.iter().for_each(|record| tree::push_entry(&mut bytes, record));
            files.push((tree::bundle_path(number, bundle.len() as u64), bytes));
        }

        self.shared.state().signing_since = Some(Instant::now());
        let signed = self.shared.sign(size, edge.root(), self.signer.as_ref());
        self.shared.state().signing_since = None;
        let head = Head { tree: signed?, edge };
        // From here on the signature exists: nothing but an extension of it may ever be signed.
        self.shared.head_file.write(&head.tree)?;
        // Tiles before the checkpoint that needs them, the checkpoint before the write-ahead file is shortened.
        store::write_files(&self.shared.dir, &files)?;
        store::replace(&self.shared.dir, store::CHECKPOINT, head.tree.text.as_bytes())?;
        store::sync_dir(&self.shared.dir)?;
        store::remove_partials(&self.shared.dir, old_size, size);
        Ok(Arc::new(head))
    }

    /// Makes the outcome visible; says whether there is a new checkpoint.
    fn publish(&self, covered: u64, result: Result<Arc<Head>, AuditError>) -> bool {
        let mut state = self.shared.state();
        state.answered = state.answered.max(covered);
        let new = match result {
            Ok(head) => {
                if state.fault.take().is_some() {
                    tracing::info!("audit checkpoints work again");
                }
                let new = head.tree.size > state.signed.tree.size;
                if new && let Some(witnessed) = &mut state.witnessed {
                    witnessed.signed(&self.shared.dir, head.tree.size);
                }
                advance(&mut state, head);
                new
            }
            Err(error) => {
                tracing::error!(%error, "no audit checkpoint: the log refuses records until there is one");
                state.fault = Some(error);
                false
            }
        };
        drop(state);
        self.shared.done.notify_all();
        new
    }
}

/// The partial tiles of the new edge that differ from those of the tree of `old_size` records.
fn add_partial_tiles(files: &mut Vec<(String, Vec<u8>)>, edge: &Edge, old_size: u64) {
    for level in tree::levels(edge.size()) {
        let (tile, width) = (partial_number(edge.size(), level), partial_width(edge.size(), level));
        if width > 0 && (tile, width) != (partial_number(old_size, level), partial_width(old_size, level)) {
            files.push((tree::tile_path(level, tile, width), edge.partial(level).to_vec()));
        }
    }
}

/// Takes over a new head and forgets the records whose bundles are full and signed.
fn advance(state: &mut State, head: Arc<Head>) {
    let first = head.tree.size / WIDTH * WIDTH;
    let full = (first - state.tail_first) as usize;
    let bytes: usize = state.tail.drain(..full).map(|record| record.len()).sum();
    state.tail_bytes -= bytes;
    state.tail_first = first;
    state.signed = head;
}

struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.fault.get_or_insert(AuditError::Closed);
        drop(state);
        self.0.done.notify_all();
    }
}
