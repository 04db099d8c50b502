//! The log's side of the witness: carries checkpoints to it, checks what comes back, and counts what was not cosigned.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cosignature::{self, WitnessKey};
use crate::log::{Head, Shared};
use crate::note::{self, LogKeys};
use crate::proof::HeadHashes;
use crate::witness::{MAX_MESSAGE, file_name, request};
use crate::{AuditError, VerifyError, head, store};

/// The last checkpoint that the witness cosigned, with its cosignature, below the log directory.
pub(crate) const COSIGNED: &str = "cosigned";
/// The sizes of the checkpoints since then, one a line.
const UNWITNESSED: &str = "unwitnessed";

/// How long the witness may take over a socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait after an attempt that failed, or for an answer in a folder.
const PAUSE: Duration = Duration::from_millis(100);

/// Who cosigns a log's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessOptions {
    /// The witness's key.
    pub key: WitnessKey,
    /// How it is reached.
    pub link: WitnessLink,
    /// The log refuses records while so many checkpoints in a row are not cosigned; at least 1.
    pub deny_after: u64,
}

/// How a witness is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessLink {
    /// Files in a folder, which may lie on removable media.
    Directory(PathBuf),
    /// A Unix socket on this machine.
    Socket(PathBuf),
}

/// What is known about the witness; part of the log's state.
#[derive(Debug)]
pub(crate) struct Witnessed {
    limit: u64,
    /// Records of the last cosigned checkpoint.
    size: u64,
    /// Sizes of the checkpoints since.
    waiting: VecDeque<u64>,
    /// What went wrong last.
    last: String,
    /// The witness says that the log contradicts itself.
    contradiction: Option<Contradiction>,
    /// Where that is kept over restarts: beside the copy of the last checkpoint, outside the log's directory.
    refused: Option<PathBuf>,
}

/// What the witness said, and when, in seconds since 1970: only a cosignature from after that takes it back, not one that was kept.
#[derive(Debug, Clone)]
struct Contradiction {
    seconds: u64,
    what: String,
}

impl Contradiction {
    fn read(path: &Path) -> Result<Option<Self>, AuditError> {
        let Some(text) = store::read_note(path)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text).into_owned();
        // A file that cannot be read is a contradiction of unknown time: it lasts until somebody looks at it.
        let read = text.trim_end().split_once(' ').and_then(|(seconds, what)| Some((seconds.parse().ok()?, what)));
        let (seconds, what) = read.unwrap_or((u64::MAX, "the note of its refusal is damaged"));
        Ok(Some(Self { seconds, what: what.to_owned() }))
    }
}

impl Witnessed {
    /// Reads what a previous run left, and checks that the cosigned checkpoint is one of this log's.
    pub(crate) fn read(
        dir: &Path,
        options: &WitnessOptions,
        keys: &LogKeys,
        head: &Head,
        head_file: Option<&Path>,
    ) -> Result<Self, AuditError> {
        let mut size = 0;
        if let Some(text) = store::read_note(&dir.join(COSIGNED))? {
            let text = String::from_utf8_lossy(&text).into_owned();
            let cosigned = keys.open(text.as_bytes())?;
            match cosignature::verify_cosignature(&text, &options.key) {
                Ok(_) => size = cosigned.size,
                // Another witness than before has seen nothing yet.
                Err(VerifyError::NotCosigned { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            check_history(dir, head, &cosigned)?;
        }
        let sizes = store::read_note(&dir.join(UNWITNESSED))?.unwrap_or_default();
        let sizes = String::from_utf8_lossy(&sizes).into_owned();
        let mut waiting: VecDeque<u64> = sizes.lines().filter_map(|line| line.parse().ok()).collect();
        waiting.retain(|waits| *waits > size && *waits <= head.tree.size);
        if waiting.is_empty() && head.tree.size > size {
            waiting.push_back(head.tree.size);
        }
        let last = "it has not answered yet".to_owned();
        let refused = head_file.map(|path| path.with_extension("refused"));
        let contradiction = refused.as_deref().map(Contradiction::read).transpose()?.flatten();
        Ok(Self { limit: options.deny_after.max(1), size, waiting, last, contradiction, refused })
    }

    /// A checkpoint of `size` records was signed.
    pub(crate) fn signed(&mut self, dir: &Path, size: u64) {
        self.waiting.push_back(size);
        // Losing a line to a crash makes the count smaller by one checkpoint; the size of the last cosigned one stands apart.
        let file = OpenOptions::new().create(true).append(true).open(dir.join(UNWITNESSED));
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{size}\n").as_bytes())) {
            tracing::warn!(%error, "cannot count an unwitnessed checkpoint on disk");
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Checkpoints that wait for a cosignature.
    pub(crate) fn missing(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Why a new record must be refused now.
    pub(crate) fn refusal(&self) -> Option<AuditError> {
        if let Some(contradiction) = &self.contradiction {
            return Some(AuditError::WitnessRefused { refusal: contradiction.what.clone() });
        }
        let (checkpoints, limit) = (self.missing(), self.limit);
        (checkpoints >= limit).then(|| AuditError::Unwitnessed { checkpoints, limit, last: self.last.clone() })
    }

    fn cosigned(&mut self, dir: &Path, size: u64) -> Result<(), AuditError> {
        self.size = self.size.max(size);
        self.waiting.retain(|waits| *waits > size);
        let rest: String = self.waiting.iter().map(|size| format!("{size}\n")).collect();
        store::replace(dir, UNWITNESSED, rest.as_bytes()).map(drop)
    }

    /// Whether there is something to ask the witness.
    fn asks(&self) -> bool {
        self.missing() > 0 || self.contradiction.is_some()
    }

    /// The witness refuses the log: kept, so that a restart does not begin anew.
    fn contradicted(&mut self, what: String) {
        if self.contradiction.is_some() {
            return;
        }
        let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
        let contradiction = Contradiction { seconds: now(), what };
        if let Some((dir, name)) = self.refused.as_deref().and_then(head::place) {
            let text = format!("{} {}\n", contradiction.seconds, contradiction.what);
            if let Err(error) = store::replace(dir, name, text.as_bytes()).and_then(|_| store::sync_dir(dir)) {
                tracing::error!(%error, "cannot keep the witness's refusal: it lasts until this process ends");
            }
        }
        self.contradiction = Some(contradiction);
    }

    /// Takes a refusal back, for a cosignature of this time over all that is signed.
    fn reconciled(&mut self, seconds: u64) -> Result<(), AuditError> {
        let Some(contradiction) = &self.contradiction else { return Ok(()) };
        if seconds < contradiction.seconds {
            return Ok(());
        }
        if let Some(path) = &self.refused {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(AuditError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        self.contradiction = None;
        Ok(())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The thread that carries checkpoints to the witness.
pub(crate) struct Courier {
    shared: Arc<Shared>,
    options: WitnessOptions,
    /// The size that lies in the folder's request because the witness told it; until its next answer.
    told: Option<u64>,
}

/// What an answer brought.
enum Answer {
    Cosigned,
    /// Only the size the witness says it has cosigned last. Nobody signed that.
    Told(u64),
}

/// Why an attempt gave no cosignature.
enum Fault {
    /// For now.
    Absent(String),
    /// The witness has proof against the log.
    Contradiction(String),
}

impl Courier {
    pub(crate) fn new(shared: Arc<Shared>, options: WitnessOptions) -> Self {
        Self { shared, options, told: None }
    }

    pub(crate) fn run(mut self) {
        loop {
            let closed = self.wait();
            let outcome = self.attempt();
            // A cosignature that is older than the refusal does not take it back: ask again, and not at once.
            let failed = outcome.is_err() || self.is_refused();
            if let Err(fault) = outcome {
                self.note(fault);
            }
            if closed {
                return;
            }
            if failed || matches!(self.options.link, WitnessLink::Directory(_)) {
                let state = self.shared.state();
                if !state.closed {
                    drop(self.shared.done.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// Asks a witness that can be reached at once before the first record of this process: what was restored must not begin anew. A folder
    /// is asked later, by [`Courier::run`].
    pub(crate) fn ask_first(&mut self) {
        let WitnessLink::Socket(path) = self.options.link.clone() else { return };
        let (head, known) = self.state();
        if let Err(fault) = self.ask(&path, &head, known) {
            self.note(fault);
        }
    }

    /// Waits for a checkpoint that is not cosigned; says whether none will follow.
    fn wait(&self) -> bool {
        let mut state = self.shared.state();
        loop {
            let behind = state.witnessed.as_ref().is_some_and(Witnessed::asks);
            if behind || state.closed {
                return state.closed;
            }
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn note(&self, fault: Fault) {
        let mut state = self.shared.state();
        let Some(witnessed) = &mut state.witnessed else { return };
        match fault {
            Fault::Absent(why) => {
                if witnessed.last != why {
                    tracing::warn!(why, "the witness did not cosign");
                }
                witnessed.last = why;
            }
            Fault::Contradiction(why) => {
                tracing::error!(why, "the witness refuses this log: no record is accepted");
                witnessed.contradicted(why);
            }
        }
    }

    fn attempt(&mut self) -> Result<(), Fault> {
        let (head, known) = self.state();
        if head.tree.size == known && !self.asks() {
            return Ok(());
        }
        match self.options.link.clone() {
            WitnessLink::Socket(path) => self.ask(&path, &head, known),
            WitnessLink::Directory(dir) => self.folder(&dir, &head, known),
        }
    }

    /// The last checkpoint, and the records of the last one cosigned.
    fn state(&self) -> (Arc<Head>, u64) {
        let state = self.shared.state();
        (state.signed.clone(), state.witnessed.as_ref().map_or(0, Witnessed::size))
    }

    fn is_refused(&self) -> bool {
        self.shared.state().witnessed.as_ref().is_some_and(|witnessed| witnessed.contradiction.is_some())
    }

    fn asks(&self) -> bool {
        self.shared.state().witnessed.as_ref().is_some_and(Witnessed::asks)
    }

    fn ask(&self, socket: &Path, head: &Head, known: u64) -> Result<(), Fault> {
        let mut old = known;
        // The second time with the size the witness has told.
        for _ in 0..2 {
            match self.take(head, &exchange(socket, &self.request(head, old)?)?)? {
                Answer::Cosigned => return Ok(()),
                Answer::Told(size) => old = size,
            }
        }
        Err(Fault::Absent("the witness changes its mind about what it cosigned".to_owned()))
    }

    /// Takes the answer that lies in the folder, if there is one, and leaves the next request.
    fn folder(&mut self, dir: &Path, head: &Head, known: u64) -> Result<(), Fault> {
        let absent = |error: AuditError| Fault::Absent(with_cause(&error));
        let name = file_name(self.origin());
        let response = dir.join(format!("{name}.response"));
        let mut known = known;
        if let Some(answer) = store::read_note(&response).map_err(|error| absent(error.into()))? {
            // Removed first: an answer that cannot be taken must not block the next one.
            fs::remove_file(&response).map_err(AuditError::io("remove", &response)).map_err(absent)?;
            // What an earlier answer told has had its attempt.
            self.told = None;
            if let Answer::Told(size) = self.take(head, &String::from_utf8_lossy(&answer))? {
                self.told = Some(size);
            }
            known = self.state().1;
        }
        if head.tree.size == known && !self.asks() {
            return Ok(());
        }
        let text = self.request(head, self.told.unwrap_or(known))?;
        let path = dir.join(format!("{name}.request"));
        let there = store::read_note(&path).map_err(|error| absent(error.into()))?;
        if there.as_deref() != Some(text.as_bytes()) {
            store::replace(dir, &format!("{name}.request"), text.as_bytes())
                .and_then(|_| store::sync_dir(dir))
                .map_err(absent)?;
        }
        Err(Fault::Absent("its answer has not come back yet".to_owned()))
    }

    fn request(&self, head: &Head, old: u64) -> Result<String, Fault> {
        let proof = HeadHashes::new(&self.shared.dir, head)
            .consistency(old)
            .map_err(|error| Fault::Absent(format!("no consistency proof: {error}")))?;
        Ok(request(old, &proof, &head.tree.text))
    }

    /// Judges an answer.
    fn take(&self, head: &Head, answer: &str) -> Result<Answer, Fault> {
        let (status, body) = answer.split_once('\n').unwrap_or((answer, ""));
        match status {
            "200 ok" => {
                self.accept(head, body).map_err(|error| Fault::Absent(with_cause(&error)))?;
                Ok(Answer::Cosigned)
            }
            "409 conflict" => {
                let size: u64 =
                    body.trim_end().parse().map_err(|_| Fault::Absent("a conflict without a size".to_owned()))?;
                // A witness that has cosigned more says `rolled-back`.
                if size > head.tree.size {
                    return Err(Fault::Absent(format!("a conflict at {size}, and this log has {}", head.tree.size)));
                }
                Ok(Answer::Told(size))
            }
            "409 rolled-back" | "409 split-view" | "422 inconsistent" => {
                let name = status.get(4..).unwrap_or_default();
                Err(Fault::Contradiction(format!("{name}: {}", body.trim_end())))
            }
            _ => Err(Fault::Absent(format!("{status}: {}", body.lines().next().unwrap_or_default()))),
        }
    }

    /// Stores a cosigned checkpoint, if it is one of this log and the witness did sign it.
    fn accept(&self, head: &Head, cosigned: &str) -> Result<(), AuditError> {
        let dir = &self.shared.dir;
        let seconds = cosignature::verify_cosignature(cosigned, &self.options.key)?;
        let found = self.shared.open_own(cosigned.as_bytes())?;
        check_history(dir, head, &found)?;
        store::replace(dir, COSIGNED, cosigned.as_bytes())?;
        store::sync_dir(dir)?;
        let mut state = self.shared.state();
        let Some(witnessed) = &mut state.witnessed else { return Ok(()) };
        witnessed.cosigned(dir, found.size)?;
        if found.size == head.tree.size {
            witnessed.reconciled(seconds)?;
        }
        Ok(())
    }

    fn origin(&self) -> &str {
        self.shared.key.vkey().split('+').next().unwrap_or_default()
    }
}

/// Whether a checkpoint is one that this log has passed through.
fn check_history(dir: &Path, head: &Head, past: &note::TreeHead) -> Result<(), AuditError> {
    if past.size > head.tree.size {
        return Err(AuditError::RolledBack { signed: past.size, found: head.tree.size });
    }
    let root = match past.size {
        0 => tlog_tiles::EMPTY_HASH,
        size if size == head.tree.size => head.tree.root,
        size => HeadHashes::new(dir, head).root_at(size)?,
    };
    if root == past.root { Ok(()) } else { Err(AuditError::Forked { size: past.size }) }
}

fn exchange(socket: &Path, request: &str) -> Result<String, Fault> {
    let absent = |error: std::io::Error| Fault::Absent(format!("{}: {error}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(absent)?;
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(absent)?;
    stream.write_all(request.as_bytes()).map_err(absent)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(absent)?;
    let mut answer = String::new();
    stream.take(MAX_MESSAGE as u64).read_to_string(&mut answer).map_err(absent)?;
    Ok(answer)
}

fn with_cause(error: &AuditError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
