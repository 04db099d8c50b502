//! The log as its users see it, and the state that its two threads share.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crate::checkpointer::Checkpointer;
use crate::courier::{Courier, WitnessOptions, Witnessed};
use crate::head::HeadFile;
use crate::note::{self, CheckpointSigner, LogKey, LogKeys, TreeHead};
use crate::pinned::{Pinned, Segment};
use crate::snapshot::Snapshot;
use crate::store;
use crate::tree::{Edge, WIDTH, hash_at, partial_number, partial_width};
use crate::writer::{Command, Pending, Writer};
use crate::{AuditError, MAX_RECORD, Receipt, VerifyError, wal};

/// More than this many durable, unsigned records, and the log refuses until a checkpoint catches up.
const MAX_UNSIGNED: u64 = 1 << 20;

/// The same in bytes.
const MAX_UNSIGNED_BYTES: usize = 256 << 20;

/// How a log is named and paced.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The origin line of its checkpoints and the name of its key, for instance `casemate.example/site`.
    pub origin: String,
    /// The most records that share one `fdatasync`.
    pub max_batch: usize,
    /// While there are new records, at most this time passes between two checkpoints.
    pub checkpoint_every: Duration,
    /// So many new records do not wait for that time to pass.
    pub checkpoint_after: u64,
    /// Where a copy of the last signed checkpoint is kept, outside the log's directory: what is signed must extend it.
    pub head_file: Option<PathBuf>,
    /// Who cosigns, and how long the log goes on without.
    pub witness: Option<WitnessOptions>,
}

impl LogOptions {
    /// Groups of up to 1024 records, a checkpoint per second or 1024 records, nothing kept elsewhere, no witness.
    pub fn new(origin: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            max_batch: 1024,
            checkpoint_every: Duration::from_secs(1),
            checkpoint_after: 1024,
            head_file: None,
            witness: None,
        }
    }

    /// The verifier key that a signer with this public key (RFC 8032) has as the log's.
    pub fn verifier_key(&self, public: &[u8; 32]) -> Result<String, AuditError> {
        Ok(LogKey::new(&self.origin, public)?.vkey().to_owned())
    }
}

/// An open log. One process at a time; dropping it signs what is left and closes it.
///
/// Fail closed: while a checkpoint cannot be signed or stored, appends are refused, and accepted again once it can.
pub struct Log {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    writer: Option<JoinHandle<()>>,
    writer_id: ThreadId,
    courier: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the log in `dir`, or begins one in an empty or missing directory.
    ///
    /// Checks the signature on the checkpoint, that the right edge of the tree gives the signed root, that the last bundle and the
    /// last tiles agree, that the write-ahead file continues the checkpoint, and that all this extends what was signed last
    /// ([`LogOptions::head_file`]). [`crate::verify_dir`] checks the rest.
    pub fn open(dir: &Path, options: LogOptions, signer: Box<dyn CheckpointSigner>) -> Result<Self, AuditError> {
        Self::open_as(dir, options, signer, None)
    }

    /// As [`Log::open`], with a key in reserve that signs whenever `signer` fails. It must have been announced
    /// ([`crate::announce_reserve`]) by the key of `signer`; otherwise it signs nothing.
    pub fn open_with_reserve(
        dir: &Path,
        options: LogOptions,
        signer: Box<dyn CheckpointSigner>,
        reserve: Box<dyn CheckpointSigner>,
    ) -> Result<Self, AuditError> {
        Self::open_as(dir, options, signer, Some(reserve))
    }

    fn open_as(
        dir: &Path,
        options: LogOptions,
        signer: Box<dyn CheckpointSigner>,
        reserve: Option<Box<dyn CheckpointSigner>>,
    ) -> Result<Self, AuditError> {
        let key = LogKey::new(&options.origin, &signer.public_key())?;
        fs::create_dir_all(dir).map_err(AuditError::io("create", dir))?;
        let lock = lock(dir)?;
        let head_file = HeadFile(options.head_file.clone());
        if store::read_checkpoint(dir)?.is_none() {
            head_file.must_be_new()?;
            begin(dir, &key, signer.as_ref())?;
        }
        let pinned = Pinned::read(dir)?;
        let keys = pinned.keys_ending_with(key.vkey())?;
        if keys.current() != key.vkey() {
            let handed_over = keys.retired_at(key.vkey()).unwrap_or(0);
            return Err(VerifyError::RetiredKey { size: handed_over, handed_over }.into());
        }
        let announced = pinned.keys(key.vkey())?;
        let reserve = match reserve {
            Some(signer) => {
                let key = LogKey::new(&options.origin, &signer.public_key())?;
                let reserve = Reserve { key, signer: Mutex::new(signer) };
                (announced.reserve() == Some(reserve.key.vkey())).then_some(reserve)
            }
            None => None,
        };
        let (mut head, mut tail) = recover(dir, keys.all().next().unwrap_or_default())?;
        let tail_first = head.tree.size / WIDTH * WIDTH;
        let unsigned = tail.split_off((head.tree.size - tail_first) as usize);
        head_file.check(dir, &keys, &head, &unsigned)?;
        let own = if reserve.is_some() { announced } else { LogKeys::of(key.vkey()) };
        if own.open(head.tree.text.as_bytes()).is_err() {
            // Signed by the key that has just handed over to this one, or by one in reserve that is not at hand.
            head.tree = key.sign(head.tree.size, head.tree.root, signer.as_ref())?;
            head_file.write(&head.tree)?;
            store::replace(dir, store::CHECKPOINT, head.tree.text.as_bytes())?;
            store::sync_dir(dir)?;
        }
        let witnessed = match &options.witness {
            Some(witness) => Some(Witnessed::read(dir, witness, &keys, &head, options.head_file.as_deref())?),
            None => None,
        };

        // A fresh write-ahead file: without torn end, without records that are signed already.
        let mut encoder = wal::Encoder::begin(head.tree.size);
        unsigned.iter().for_each(|record| encoder.push(record));
        let file = store::replace(dir, wal::NAME, &encoder.bytes)?;
        store::sync_dir(dir)?;

        let tail: VecDeque<_> = tail.into_iter().chain(unsigned).map(Arc::new).collect();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            key,
            reserve,
            every: options.checkpoint_every,
            after: options.checkpoint_after.max(1),
            head_file,
            state: Mutex::new(State {
                tail_first,
                tail_bytes: tail.iter().map(|record| record.len()).sum(),
                tail,
                signed: Arc::new(head),
                requested: 0,
                answered: 0,
                fault: None,
                signing_since: None,
                closing: false,
                closed: false,
                segments: pinned.segments(),
                witnessed,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            _lock: lock,
        });
        let courier = options.witness.map(|witness| Courier::new(shared.clone(), witness)).map(|mut courier| {
            courier.ask_first();
            courier
        });
        let max_batch = options.max_batch.max(1);
        let (commands, receiver) = sync_channel(max_batch.saturating_mul(16));
        let writer = start(&shared, signer, &commands, receiver, max_batch, file, &encoder)?;
        let writer_id = writer.thread().id();
        let courier = courier.map(|courier| spawn("audit-witness", Box::new(move || courier.run()))).transpose()?;
        Ok(Self { shared, commands, writer: Some(writer), writer_id, courier })
    }

    /// Queues a record and returns at once. `done` is told the record's index once it is durable, or why it was refused.
    ///
    /// `done` runs on the log's own thread and holds up everyone else: it must be quick and must not call blocking methods of the log
    /// ([`AuditError::OwnThread`]). When the record is refused before it is queued, `done` runs on the caller's thread.
    pub fn submit(&self, record: Vec<u8>, done: impl FnOnce(Result<u64, AuditError>) + Send + 'static) {
        if record.len() > MAX_RECORD {
            return done(Err(AuditError::RecordTooLarge { length: record.len() }));
        }
        let pending = Pending { record, done: Box::new(done) };
        match self.commands.try_send(Command::Append(pending)) {
            Ok(()) => {}
            Err(TrySendError::Full(command)) => command.refuse(AuditError::Overloaded),
            Err(TrySendError::Disconnected(command)) => command.refuse(AuditError::Closed),
        }
    }

    /// Appends a record and waits until it is durable. Returns its index.
    pub fn append(&self, record: Vec<u8>) -> Result<u64, AuditError> {
        self.refuse_own_thread()?;
        if record.len() > MAX_RECORD {
            return Err(AuditError::RecordTooLarge { length: record.len() });
        }
        let (answer, answered) = channel();
        let done = Box::new(move |result| {
            // The receiver waits below and cannot be gone.
            let _ = answer.send(result);
        });
        self.commands.send(Command::Append(Pending { record, done })).map_err(|_| AuditError::Closed)?;
        answered.recv().map_err(|_| AuditError::Closed)?
    }

    /// The signed checkpoint (C2SP `tlog-checkpoint`) over at least everything submitted before the call; signs a new one if needed.
    pub fn checkpoint(&self) -> Result<String, AuditError> {
        self.refuse_own_thread()?;
        let (reached, barrier) = channel();
        self.commands.send(Command::Barrier(reached)).map_err(|_| AuditError::Closed)?;
        barrier.recv().map_err(|_| AuditError::Closed)?;
        let target = self.size();
        Ok(self.signed_up_to(target)?.tree.text.clone())
    }

    /// A proof that record `index` is in the log, against the latest checkpoint; signs a new one if that does not cover it.
    pub fn receipt(&self, index: u64) -> Result<Receipt, AuditError> {
        let record = self.read(index)?;
        let head = self.signed_up_to(index + 1)?;
        Ok(Receipt::prove(&self.shared.dir, &head, index, record)?)
    }

    /// Durable records, signed or not.
    pub fn size(&self) -> u64 {
        self.shared.state().size()
    }

    /// The record of this index as stored. A receipt proves it, this does not.
    pub fn read(&self, index: u64) -> Result<Vec<u8>, AuditError> {
        let state = self.shared.state();
        if index >= state.size() {
            return Err(AuditError::NoSuchRecord { index, size: state.size() });
        }
        if let Some(position) = index.checked_sub(state.tail_first)
            && let Some(record) = state.tail.get(position as usize)
        {
            return Ok(record.to_vec());
        }
        let sealed = state.segments.iter().find(|segment| (segment.from..segment.to).contains(&index)).cloned();
        drop(state);
        let bundle = match (store::read_bundle(&self.shared.dir, index / WIDTH, WIDTH), sealed) {
            (Err(VerifyError::MissingEntries { .. }), Some(segment)) => {
                return Err(AuditError::Sealed { index, archive: segment.archive });
            }
            (bundle, _) => bundle?,
        };
        let entry = bundle.entries().nth((index % WIDTH) as usize);
        Ok(entry.ok_or(VerifyError::MissingEntries { index }).flatten()?.to_vec())
    }

    /// The log's verifier key, `origin+id+base64` (C2SP `signed-note`): what an auditor needs to have from a trusted place.
    pub fn verifier_key(&self) -> String {
        self.shared.key.vkey().to_owned()
    }

    /// Checkpoints since the last one that the witness cosigned, and the size of that one; `None` without a witness.
    pub fn witnessed(&self) -> Option<(u64, u64)> {
        let state = self.shared.state();
        state.witnessed.as_ref().map(|witnessed| (witnessed.missing(), witnessed.size()))
    }

    /// The log's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Remembers a segment whose entry bundles may be gone from now on.
    pub(crate) fn forget(&self, segment: Segment) {
        self.shared.state().segments.push(segment);
    }

    /// A head that covers `target` records.
    fn signed_up_to(&self, target: u64) -> Result<Arc<Head>, AuditError> {
        self.refuse_own_thread()?;
        let mut state = self.shared.state();
        if state.signed.tree.size >= target {
            return Ok(state.signed.clone());
        }
        state.requested += 1;
        let request = state.requested;
        self.shared.work.notify_one();
        loop {
            if state.signed.tree.size >= target {
                return Ok(state.signed.clone());
            }
            if state.answered >= request || state.closed {
                return Err(state.fault.clone().unwrap_or(AuditError::Closed));
            }
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn refuse_own_thread(&self) -> Result<(), AuditError> {
        if std::thread::current().id() == self.writer_id { Err(AuditError::OwnThread) } else { Ok(()) }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let sent = self.commands.send(Command::Close);
        // The last handle may be dropped inside a `done` callback: that thread cannot wait for itself, it closes right after.
        if let Some(writer) = self.writer.take()
            && sent.is_ok()
            && std::thread::current().id() != self.writer_id
            && writer.join().is_err()
        {
            tracing::error!("the writer thread of the audit log ended in a panic");
        }
        // It ends once no checkpoint will follow, after one last attempt to have that one cosigned.
        if let Some(courier) = self.courier.take()
            && std::thread::current().id() != self.writer_id
            && courier.join().is_err()
        {
            tracing::error!("the witness thread of the audit log ended in a panic");
        }
    }
}

/// The latest signed tree: its checkpoint and its right edge.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) tree: TreeHead,
    pub(crate) edge: Edge,
}

/// What the log, the writer and the checkpoint thread share.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) key: LogKey,
    pub(crate) reserve: Option<Reserve>,
    pub(crate) every: Duration,
    pub(crate) after: u64,
    pub(crate) head_file: HeadFile,
    state: Mutex<State>,
    /// The checkpoint thread waits here.
    pub(crate) work: Condvar,
    /// Those who asked for a checkpoint wait here.
    pub(crate) done: Condvar,
    _lock: File,
}

/// A key that signs when the log's own cannot.
pub(crate) struct Reserve {
    key: LogKey,
    signer: Mutex<Box<dyn CheckpointSigner>>,
}

impl Shared {
    /// Signs a tree head with the log's key; if that cannot sign, with the one in reserve.
    pub(crate) fn sign(
        &self,
        size: u64,
        root: tlog_tiles::Hash,
        signer: &dyn CheckpointSigner,
    ) -> Result<TreeHead, AuditError> {
        let signed = self.key.sign(size, root, signer);
        match (&self.reserve, signed) {
            (Some(reserve), Err(AuditError::Signer(_))) => {
                let signer = reserve.signer.lock().unwrap_or_else(PoisonError::into_inner);
                reserve.key.sign(size, root, signer.as_ref())
            }
            (_, signed) => signed,
        }
    }

    /// Checks a checkpoint that one of the log's two keys has signed.
    pub(crate) fn open_own(&self, text: &[u8]) -> Result<TreeHead, VerifyError> {
        let opened = note::open(text, self.key.vkey());
        match (&self.reserve, opened) {
            (Some(reserve), Err(VerifyError::UnknownSigner)) => note::open(text, reserve.key.vkey()),
            (_, opened) => opened,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct State {
    /// Index of the first record in `tail`: the start of the bundle in which the signed part ends.
    pub(crate) tail_first: u64,
    /// Durable records from there on.
    pub(crate) tail: VecDeque<Arc<Vec<u8>>>,
    pub(crate) tail_bytes: usize,
    pub(crate) signed: Arc<Head>,
    /// Checkpoints asked for, and those answered, by signing or by failing.
    pub(crate) requested: u64,
    pub(crate) answered: u64,
    /// Why the last checkpoint failed, until one succeeds.
    pub(crate) fault: Option<AuditError>,
    pub(crate) signing_since: Option<Instant>,
    /// The writer has taken its last record.
    pub(crate) closing: bool,
    /// No checkpoint will follow.
    pub(crate) closed: bool,
    /// Records whose entry bundles may be in an archive.
    pub(crate) segments: Vec<Segment>,
    /// What the witness has cosigned, if there is one.
    pub(crate) witnessed: Option<Witnessed>,
}

impl State {
    pub(crate) fn size(&self) -> u64 {
        self.tail_first + self.tail.len() as u64
    }

    pub(crate) fn unsigned(&self) -> u64 {
        self.size() - self.signed.tree.size
    }

    /// Why a new record must be refused now.
    pub(crate) fn refusal(&self, every: Duration) -> Option<AuditError> {
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        // A token that does not answer is as gone as one that refuses.
        if self.signing_since.is_some_and(|since| since.elapsed() > every.saturating_mul(10)) {
            return Some(AuditError::SignerStalled);
        }
        if let Some(refusal) = self.witnessed.as_ref().and_then(Witnessed::refusal) {
            return Some(refusal);
        }
        let records = self.unsigned();
        (records >= MAX_UNSIGNED || self.tail_bytes >= MAX_UNSIGNED_BYTES).then_some(AuditError::Behind { records })
    }
}

fn lock(dir: &Path) -> Result<File, AuditError> {
    let file = File::open(dir).map_err(AuditError::io("open", dir))?;
    // A process that is just being started may hold a copy of the lock until its program runs: wait a little.
    let mut patience = 50;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(AuditError::InUse),
            Err(TryLockError::Error(source)) => return Err(AuditError::io("lock", dir)(source)),
        }
    }
}

/// Begins a log: an empty write-ahead file, then the checkpoint of the empty tree.
fn begin(dir: &Path, key: &LogKey, signer: &dyn CheckpointSigner) -> Result<(), AuditError> {
    // A first start may have ended between the two files; anything more than that is a log without its checkpoint.
    let empty = wal::read(dir)?.is_none_or(|wal| wal.end() == 0);
    if !empty || dir.join("tile").exists() {
        return Err(AuditError::MissingCheckpoint);
    }
    let tree = key.sign(0, tlog_tiles::EMPTY_HASH, signer)?;
    store::replace(dir, wal::NAME, &wal::Encoder::begin(0).bytes)?;
    store::sync_dir(dir)?;
    store::replace(dir, store::CHECKPOINT, tree.text.as_bytes())?;
    store::sync_dir(dir)
}

/// Reads and checks what a previous run left: the signed head, and the records from the start of its partial bundle on.
fn recover(dir: &Path, vkey: &str) -> Result<(Head, Vec<Vec<u8>>), AuditError> {
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let size = snapshot.head.size;
    if let (Some(Ok(bundle)), Some(Ok(tile))) = (&snapshot.bundle, snapshot.partials.first()) {
        snapshot.compare_leaves(dir, partial_number(size, 0), bundle, tile, |_, _, _| Ok(()))?;
    }
    let edge = snapshot.edge()?;
    let sealed = snapshot.pinned.segments().iter().map(|segment| segment.to).max().unwrap_or(0);
    if let Some(last) = (size / WIDTH).checked_sub(1).filter(|last| last * WIDTH >= sealed) {
        let bundle = store::read_bundle(dir, last, WIDTH)?;
        let tile = store::read_tile(dir, 0, last, WIDTH)?;
        snapshot.compare_leaves(dir, last, &bundle, &tile, |_, _, _| Ok(()))?;
    }
    // The last hash of each upper partial tile stands for a full tile: it must be there and give that hash.
    for level in crate::tree::levels(size).skip(1) {
        let width = partial_width(size, level);
        let Some(position) = width.checked_sub(1) else {
            continue;
        };
        let child = partial_number(size, level) * WIDTH + position;
        let tile = store::read_tile(dir, level - 1, child, WIDTH)?;
        if hash_at(edge.partial(level), position as usize) != Some(tlog_tiles::Tile::subtree_hash(&tile)) {
            let first_index = crate::tree::first_index(level - 1, child, 0);
            return Err(VerifyError::BadTile { level: level - 1, tile: child, first_index }.into());
        }
    }
    let mut tail = Vec::new();
    if let Some(bundle) = snapshot.bundle {
        for entry in bundle?.entries() {
            tail.push(entry?.to_vec());
        }
    }
    let wal = snapshot.wal?.ok_or(AuditError::MissingWal)?;
    if wal.first > size {
        return Err(AuditError::CheckpointBehind { checkpoint: size, wal: wal.first });
    }
    if wal.end() < size {
        return Err(AuditError::WalBehind { checkpoint: size, wal: wal.end() });
    }
    tail.extend(wal.after(size)?);
    Ok((Head { tree: snapshot.head, edge }, tail))
}

fn start(
    shared: &Arc<Shared>,
    signer: Box<dyn CheckpointSigner>,
    commands: &SyncSender<Command>,
    receiver: Receiver<Command>,
    max_batch: usize,
    file: File,
    encoder: &wal::Encoder,
) -> Result<JoinHandle<()>, AuditError> {
    let checkpointer = Checkpointer::new(shared.clone(), signer, commands.clone());
    let checkpoints = spawn("audit-checkpoint", Box::new(move || checkpointer.run()))?;
    let writer = Writer::new(shared.clone(), receiver, max_batch, file, encoder, checkpoints);
    spawn("audit-writer", Box::new(move || writer.run()))
}

fn spawn(name: &str, body: Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>, AuditError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(AuditError::io("start", Path::new(name)))
}
