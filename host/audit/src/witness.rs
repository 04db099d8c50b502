//! The witness: another person's process with a key of its own. It cosigns a checkpoint only when that extends the last one it saw.
//!
//! Rules and request format are those of C2SP `tlog-witness`, the cosignature is C2SP `tlog-cosignature` v1. There is no network here,
//! so requests come over a Unix socket, or as files in a folder that may lie on removable media:
//!
//! ```text
//! request   old 256 <LF> consistency proof, a base64 hash a line <LF> empty line <LF> signed checkpoint
//! answer    200 ok <LF> cosigned checkpoint      or      409 split-view <LF> what is wrong
//! ```
//!
//! Per log the witness keeps the *full* last checkpoint, signatures included: that is what proves misbehaviour. Everything is on disk
//! before an answer leaves.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use casemate_types::Digest;
use signed_note::Signature;
use tlog_tiles::Hash;

use crate::cosignature::{self, WitnessKey};
use crate::evidence::{self, Kind};
use crate::note::{self, TreeHead};
use crate::pinned::Pinned;
use crate::proof::{MAX_PROOF, is_consistent};
use crate::witness_logs::{WitnessLogs, followed, origin_of};
use crate::{AuditError, CheckpointSigner, VerifyError, store};

/// The largest request or answer, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1_000_000;

/// How long one request over a socket may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a witness does not cosign. The names are the ones in its answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The log's key did not sign the checkpoint.
    #[error("the checkpoint is not signed by the log's key")]
    BadSignature,
    /// The time is before that of the last cosignature.
    #[error("this machine's clock was set back: the last cosignature is {by_seconds} s in the future")]
    ClockSetBack {
        /// By how much.
        by_seconds: u64,
    },
    /// The request starts from another size than the last one cosigned.
    #[error("the last checkpoint cosigned here covers {size} records")]
    Conflict {
        /// That size.
        size: u64,
    },
    /// The proof does not lead from the last checkpoint to the new one.
    #[error(
        "the log of {offered} records does not begin with the {size} that were cosigned: its history was rewritten"
    )]
    Inconsistent {
        /// Records cosigned.
        size: u64,
        /// Records of the new checkpoint.
        offered: u64,
    },
    /// Not a request.
    #[error("the request is malformed: {detail}")]
    Malformed {
        /// What is wrong.
        detail: &'static str,
    },
    /// A key that handed over signed the checkpoint.
    #[error(
        "the checkpoint is signed by a key that handed over at {handed_over} records: only the next one signs since"
    )]
    RetiredKey {
        /// Records at the hand-over.
        handed_over: u64,
    },
    /// The checkpoint is older than the last one cosigned.
    #[error("a checkpoint of {offered} records, but {size} were cosigned: it was replayed, or the log was rolled back")]
    RolledBack {
        /// Records cosigned.
        size: u64,
        /// Records of the checkpoint offered.
        offered: u64,
    },
    /// Two checkpoints of one size with different roots.
    #[error("another tree of {size} records was cosigned: the log shows different people different histories")]
    SplitView {
        /// That size.
        size: u64,
    },
    /// The witness could not sign or store.
    #[error("the witness cannot cosign: {detail}")]
    Unavailable {
        /// Why.
        detail: String,
    },
    /// No log of that origin.
    #[error("the log `{origin}` is not known to this witness")]
    UnknownLog {
        /// The origin line.
        origin: String,
    },
}

impl Refusal {
    /// Its name in an answer, with the status code of C2SP `tlog-witness` (500 where that has none).
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadSignature => "403 bad-signature",
            Self::ClockSetBack { .. } => "500 clock-set-back",
            Self::Conflict { .. } => "409 conflict",
            Self::Inconsistent { .. } => "422 inconsistent",
            Self::Malformed { .. } => "400 malformed",
            Self::RetiredKey { .. } => "403 retired-key",
            Self::RolledBack { .. } => "409 rolled-back",
            Self::SplitView { .. } => "409 split-view",
            Self::Unavailable { .. } => "500 unavailable",
            Self::UnknownLog { .. } => "404 unknown-log",
        }
    }
}

/// Why a witness cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The folder belongs to a witness of another name or key.
    #[error("the folder is of the witness `{found}`, and the key given is another: use the witness's own key")]
    AnotherKey {
        /// Verifier key in the folder.
        found: String,
    },
    /// Something on disk is damaged, or the operating system refused.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another process has the folder open.
    #[error("the witness is in use by another process: stop it first")]
    InUse,
    /// The log's key is known, and nothing shows that it handed over to the one given.
    #[error(
        "the witness knows a key of `{origin}` already, and no hand-over from that one to the key given: \
         give the log's own with `--hand-over site/log/pinned`"
    )]
    NoHandOver {
        /// The log.
        origin: String,
    },
    /// There is no witness.
    #[error("{} is no witness: make one with `casemate witness init`", path.display())]
    NoWitness {
        /// The folder.
        path: PathBuf,
    },
}

impl From<VerifyError> for WitnessError {
    fn from(error: VerifyError) -> Self {
        Self::Audit(error.into())
    }
}

/// An open witness. One process at a time.
pub struct Witness {
    dir: PathBuf,
    key: WitnessKey,
    signer: Box<dyn CheckpointSigner>,
    logs: WitnessLogs,
    _lock: File,
}

/// What a witness answers when it cosigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The cosignature line, with its line feed (the body of C2SP `tlog-witness`).
    pub line: String,
    /// The checkpoint with the log's signature and that line.
    pub checkpoint: String,
}

impl Witness {
    /// Makes a witness in `dir`: writes its name and key. Returns its verifier key.
    pub fn init(dir: &Path, name: &str, public: [u8; 32]) -> Result<WitnessKey, WitnessError> {
        let key = WitnessKey::new(name, public)?;
        fs::create_dir_all(dir).map_err(AuditError::io("create", dir))?;
        if store::read_note(&dir.join("witness.vkey"))?.is_some() {
            return Err(
                AuditError::io("create", &dir.join("witness.vkey"))(std::io::ErrorKind::AlreadyExists.into()).into()
            );
        }
        WitnessLogs::default().write(dir)?;
        store::replace(dir, "witness.vkey", format!("{}\n", key.vkey()).as_bytes())?;
        store::sync_dir(dir)?;
        Ok(key)
    }

    /// The verifier key of the witness in `dir`.
    pub fn key_of(dir: &Path) -> Result<WitnessKey, WitnessError> {
        let path = dir.join("witness.vkey");
        let text = store::read_note(&path)?.ok_or(WitnessError::NoWitness { path: dir.to_owned() })?;
        Ok(WitnessKey::from_vkey(String::from_utf8_lossy(&text).trim())?)
    }

    /// Opens the witness in `dir` with its signer.
    pub fn open(dir: &Path, signer: Box<dyn CheckpointSigner>) -> Result<Self, WitnessError> {
        let key = Self::key_of(dir)?;
        if WitnessKey::new(key.name(), signer.public_key())? != key {
            return Err(WitnessError::AnotherKey { found: key.vkey() });
        }
        let lock = File::open(dir).map_err(AuditError::io("open", dir))?;
        lock.try_lock().map_err(|_| WitnessError::InUse)?;
        let logs = WitnessLogs::read(dir)?;
        Ok(Self { dir: dir.to_owned(), key, signer, logs, _lock: lock })
    }

    /// Its verifier key.
    pub fn key(&self) -> &WitnessKey {
        &self.key
    }

    /// Makes a log known by its verifier key. The next key of a log that is known comes with [`Witness::hand_over`].
    pub fn add_log(&mut self, vkey: &str) -> Result<(), WitnessError> {
        note::LogKeys::of(vkey).check()?;
        match self.logs.of(origin_of(vkey)) {
            Some(known) if known.all().chain(known.reserve()).any(|known| known == vkey) => Ok(()),
            Some(_) => Err(WitnessError::NoHandOver { origin: origin_of(vkey).to_owned() }),
            None => self.change(|logs| logs.add(vkey)),
        }
    }

    /// Takes the next key of a log that is known, or its key in reserve. `pinned` is the log's file of that name: the hand-overs and the
    /// announcement in it, signed by both keys each, must lead from the key known here to `vkey`. What an old key signs from then on is
    /// refused.
    pub fn hand_over(&mut self, vkey: &str, pinned: &[u8]) -> Result<(), WitnessError> {
        let no_hand_over = || WitnessError::NoHandOver { origin: origin_of(vkey).to_owned() };
        let known = self.logs.of(origin_of(vkey)).ok_or_else(no_hand_over)?;
        let keys = followed(known, &Pinned::parse(pinned)?)?;
        if keys.current() != vkey && keys.reserve() != Some(vkey) {
            return Err(no_hand_over());
        }
        self.change(|logs| logs.replace(keys))
    }

    /// The last checkpoint cosigned for the log of this origin.
    pub fn last(&self, origin: &str) -> Result<Option<String>, WitnessError> {
        let text = store::read_note(&self.dir.join(file_name(origin)))?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Judges a request and cosigns, at a time in seconds since 1970. What was decided is durable when this returns.
    pub fn cosign(&mut self, request: &[u8], seconds: u64) -> Result<Answer, Refusal> {
        let request = Request::parse(request)?;
        let (head, signer) = self.known(&request)?;
        let unavailable = |error: &dyn std::fmt::Display| Refusal::Unavailable { detail: error.to_string() };
        let kept = self.last(&request.origin).map_err(|error| unavailable(&error))?;
        let last = kept.as_deref().map(|text| self.parse_last(text)).transpose()?;
        // Only the signature that was checked is passed on and kept: the request may carry a hundred others.
        let checkpoint = format!("{}\n{}", request.body, request.signature_of(signer)?);
        if let Err(refusal) = judge(last.as_ref(), &request, &head, seconds) {
            if let Some(kind) = last.as_ref().and_then(|last| contradiction(&refusal, &request, &head, last)) {
                self.keep_evidence(kind, kept.as_deref().unwrap_or_default(), &request, &checkpoint)
                    .map_err(|error| unavailable(&error))?;
            }
            return Err(refusal);
        }
        let signature = self
            .key
            .cosign(request.body.as_bytes(), seconds, self.signer.as_ref())
            .map_err(|error| unavailable(&cosignature::shared(error)))?;
        let line = String::from_utf8(signature.to_bytes()).map_err(|error| unavailable(&error))?;
        let checkpoint = format!("{checkpoint}{line}");
        store::replace(&self.dir, &file_name(&request.origin), checkpoint.as_bytes())
            .and_then(|_| store::sync_dir(&self.dir))
            .map_err(|error| unavailable(&error))?;
        Ok(Answer { line, checkpoint })
    }

    /// As [`Witness::cosign`], from a request to the text of an answer, now.
    pub fn answer(&mut self, request: &[u8]) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        match self.cosign(request, seconds) {
            Ok(answer) => format!("200 ok\n{}", answer.checkpoint),
            Err(Refusal::Conflict { size }) => format!("{}\n{size}\n", Refusal::Conflict { size }.name()),
            Err(refusal) => {
                tracing::warn!(%refusal, "not cosigned");
                format!("{}\n{refusal}\n", refusal.name())
            }
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut WitnessLogs)) -> Result<(), WitnessError> {
        let mut logs = self.logs.clone();
        change(&mut logs);
        logs.write(&self.dir)?;
        self.logs = logs;
        Ok(store::sync_dir(&self.dir)?)
    }

    /// The tree head of a request by a known log, its signature checked, and the key that signed.
    fn known(&self, request: &Request) -> Result<(TreeHead, &str), Refusal> {
        let unknown = || Refusal::UnknownLog { origin: request.origin.clone() };
        let keys = self.logs.of(&request.origin).ok_or_else(unknown)?;
        let open = |vkey: &str| note::open(request.checkpoint.as_bytes(), vkey);
        match open(keys.current()) {
            Ok(head) => Ok((head, keys.current())),
            // Nothing more from a key that handed over, not even of an old size: the log itself is signed by the next one since.
            Err(VerifyError::UnknownSigner) => {
                if let (_, Some((reserve, announced))) = keys.parts()
                    && let Ok(head) = open(reserve)
                    && head.size > *announced
                {
                    return Ok((head, reserve.as_str()));
                }
                let retired = keys.all().find(|vkey| open(vkey).is_ok()).and_then(|vkey| keys.retired_at(vkey));
                Err(retired.map_or(Refusal::BadSignature, |handed_over| Refusal::RetiredKey { handed_over }))
            }
            Err(VerifyError::BadSignature) => Err(Refusal::BadSignature),
            Err(_) => Err(Refusal::Malformed { detail: "not a checkpoint" }),
        }
    }

    /// What was cosigned last, its own cosignature checked: a damaged file must not become a fresh start.
    fn parse_last(&self, text: &str) -> Result<Last, Refusal> {
        let damaged = |_| Refusal::Unavailable { detail: "the last checkpoint kept here is damaged".to_owned() };
        let head = note::parse_unverified(text.as_bytes()).map_err(damaged)?;
        let seconds = cosignature::verify_cosignature(text, &self.key).map_err(damaged)?;
        Ok(Last { size: head.size, root: head.root, seconds })
    }

    fn keep_evidence(&self, kind: Kind, kept: &str, request: &Request, offered: &str) -> Result<(), AuditError> {
        let offered = match kind {
            Kind::SplitView => offered.to_owned(),
            // With the proof, so that others can follow it.
            Kind::Rewritten => self::request(request.old, &request.proof, offered),
        };
        evidence::keep(&self.dir, kind, &request.body, &format!("{kept}\n{offered}"))
    }
}

/// Serves requests over a Unix socket until the listener fails: one at a time, a request is everything up to the writer's shutdown.
pub fn serve_socket(witness: &mut Witness, listener: &UnixListener) -> std::io::Error {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = answer_stream(witness, stream) {
                    tracing::warn!(%error, "a request to the witness ended early");
                }
            }
            Err(error) => return error,
        }
    }
}

/// Answers every request in a folder: `NAME.request` makes room for `NAME.response`. Returns name and answer of each.
pub fn serve_directory(witness: &mut Witness, dir: &Path) -> Result<Vec<(String, String)>, AuditError> {
    let mut answers = Vec::new();
    let entries = fs::read_dir(dir).map_err(AuditError::io("read", dir))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let Some(stem) = name.strip_suffix(".request") else { continue };
        let path = dir.join(&name);
        let mut request = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut request))
            .map_err(AuditError::io("read", &path))?;
        let answer = witness.answer(&request);
        store::replace(dir, &format!("{stem}.response"), answer.as_bytes())?;
        store::sync_dir(dir)?;
        // Gone, so that it is answered once; a log whose next request went with it writes it again.
        fs::remove_file(&path).map_err(AuditError::io("remove", &path))?;
        answers.push((stem.to_owned(), answer));
    }
    Ok(answers)
}

fn answer_stream(witness: &mut Witness, mut stream: UnixStream) -> std::io::Result<()> {
    // Whoever dawdles must not keep the log's own process waiting for long.
    let started = Instant::now();
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let rest = PATIENCE.saturating_sub(started.elapsed());
        if rest.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(rest))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => request.extend_from_slice(&buffer[..read]),
        }
        if request.len() > MAX_MESSAGE {
            break;
        }
    }
    stream.write_all(witness.answer(&request).as_bytes())
}

struct Last {
    size: u64,
    root: Hash,
    seconds: u64,
}

/// C2SP `tlog-witness`, add-checkpoint: what must hold before a cosignature.
fn judge(last: Option<&Last>, request: &Request, head: &TreeHead, seconds: u64) -> Result<(), Refusal> {
    if request.old > head.size {
        return Err(Refusal::Malformed { detail: "the old size is larger than the checkpoint's" });
    }
    let (size, root) = last.map_or((0, tlog_tiles::EMPTY_HASH), |last| (last.size, last.root));
    if head.size < size {
        return Err(Refusal::RolledBack { size, offered: head.size });
    }
    if head.size == size && head.root != root {
        return Err(Refusal::SplitView { size });
    }
    if request.old != size {
        return Err(Refusal::Conflict { size });
    }
    if !is_consistent(&request.proof, head.size, head.root, size, root) {
        return Err(Refusal::Inconsistent { size, offered: head.size });
    }
    match last.map_or(0, |last| last.seconds.saturating_sub(seconds)) {
        0 => Ok(()),
        by_seconds => Err(Refusal::ClockSetBack { by_seconds }),
    }
}

/// What a refusal proves against the log's key, and nobody else can bring about: a replay or a wrong proof proves nothing.
fn contradiction(refusal: &Refusal, request: &Request, head: &TreeHead, last: &Last) -> Option<Kind> {
    match refusal {
        Refusal::SplitView { .. } => Some(Kind::SplitView),
        Refusal::Inconsistent { .. } => {
            evidence::is_rewritten(&request.proof, (head.size, head.root), (last.size, last.root))
                .then_some(Kind::Rewritten)
        }
        _ => None,
    }
}

/// A parsed request; the checkpoint's signature is not checked yet.
struct Request {
    old: u64,
    proof: Vec<Hash>,
    checkpoint: String,
    /// The signed text of the checkpoint.
    body: String,
    origin: String,
    signatures: Vec<Signature>,
}

impl Request {
    fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |detail| Refusal::Malformed { detail };
        if bytes.len() > MAX_MESSAGE {
            return Err(malformed("it is larger than any request"));
        }
        let text = str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        let (header, checkpoint) = text.split_once("\n\n").ok_or(malformed("no empty line before the checkpoint"))?;
        let mut lines = header.split('\n');
        let number = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(malformed("no line `old SIZE`"))?;
        let old: u64 = number.parse().map_err(|_| malformed("the old size is not a number"))?;
        if old.to_string() != number {
            return Err(malformed("the old size is not in canonical form"));
        }
        let proof = lines
            .map(|line| Hash::parse_hash(line).map_err(|_| malformed("a line of the proof is not a hash")))
            .collect::<Result<Vec<_>, _>>()?;
        if proof.len() > MAX_PROOF {
            return Err(malformed("the proof is longer than any proof"));
        }
        let not_a_checkpoint = |_| malformed("not a checkpoint");
        let (body, signatures) = cosignature::take_apart(checkpoint).map_err(not_a_checkpoint)?;
        let origin = body.lines().next().unwrap_or_default().to_owned();
        Ok(Self { old, proof, checkpoint: checkpoint.to_owned(), body: body.to_owned(), origin, signatures })
    }

    /// The signature line of this key, which [`note::open`] has checked.
    fn signature_of(&self, vkey: &str) -> Result<String, Refusal> {
        let id = vkey.split('+').nth(1).and_then(|id| u32::from_str_radix(id, 16).ok());
        let found = self.signatures.iter().find(|found| found.name() == self.origin && Some(found.id()) == id);
        let line = found.and_then(|signature| String::from_utf8(signature.to_bytes()).ok());
        line.ok_or(Refusal::BadSignature)
    }
}

/// The name of a log's files: its origin may hold any character.
pub(crate) fn file_name(origin: &str) -> String {
    Digest::of(origin.as_bytes()).hex().chars().take(32).collect()
}

/// What a log asks of its witness (C2SP `tlog-witness`, add-checkpoint).
pub(crate) fn request(old: u64, proof: &[Hash], checkpoint: &str) -> String {
    let proof: String = proof.iter().map(|hash| format!("{hash}\n")).collect();
    format!("old {old}\n{proof}\n{checkpoint}")
}
