use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the log refused. Cloneable, because one failed group answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Checkpoints do not keep up: too much is durable and not yet signed.
    #[error("{records} records wait for a signed checkpoint: refusing more until the checkpoint catches up")]
    Behind {
        /// Durable records without a signature.
        records: u64,
    },
    /// The tail on disk begins after the end of the checkpoint on disk.
    #[error(
        "the checkpoint covers {checkpoint} records but the write-ahead file begins at {wal}: an older checkpoint was restored; \
         restore the whole log directory from one backup"
    )]
    CheckpointBehind {
        /// Records the checkpoint covers.
        checkpoint: u64,
        /// First index of the write-ahead file.
        wal: u64,
    },
    /// The checkpoint on disk is not the one this process wrote last.
    #[error("the checkpoint file was changed by somebody else: refusing to sign; verify the log before reopening it")]
    CheckpointChanged,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
    /// Something on disk is not what it was.
    #[error("the audit log on disk is damaged")]
    Damaged(#[source] VerifyError),
    /// What was signed last and what is on disk are two histories.
    #[error(
        "the first {size} records on disk are not those that were signed: the log was rewritten; refusing to sign a fork"
    )]
    Forked {
        /// Records the last signed checkpoint covers.
        size: u64,
    },
    /// Another process holds the log.
    #[error("the site is in use by another process: stop it before opening the audit log")]
    InUse,
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// There are records, and no checkpoint that covers them.
    #[error("the checkpoint file is missing although the log holds records: restore the log directory from a backup")]
    MissingCheckpoint,
    /// There is a signed log, and no copy of its last checkpoint beside it.
    #[error(
        "{} is missing: the copy of the last signed checkpoint; restore it, or put the checkpoint that the witness holds there",
        path.display()
    )]
    MissingHead {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is a checkpoint, and no write-ahead file.
    #[error("the write-ahead file is missing: records that were not yet signed may be lost; restore it from a backup")]
    MissingWal,
    /// There is no record of this index.
    #[error("there is no record {index}: the log holds {size}")]
    NoSuchRecord {
        /// The index asked for.
        index: u64,
        /// Records in the log.
        size: u64,
    },
    /// No whole segment is old enough to be sealed.
    #[error("nothing to seal: a segment is {segment} signed records, and {sealed} are sealed already")]
    NothingToSeal {
        /// Records of a segment.
        segment: u64,
        /// Records sealed before.
        sealed: u64,
    },
    /// The origin cannot name a log.
    #[error("`{origin}` cannot name a log: use text without spaces, `+` and control characters")]
    Origin {
        /// The text given.
        origin: String,
    },
    /// More records wait than the queue holds.
    #[error("the audit queue is full: try again later")]
    Overloaded,
    /// A blocking call from inside a `done` callback would wait for itself.
    #[error("a blocking audit call was made from the log's own thread: use `submit` there")]
    OwnThread,
    /// The bytes are not a record of this version.
    #[error("not an audit record: {detail}")]
    Record {
        /// What is wrong.
        detail: String,
    },
    /// The record does not fit an entry bundle.
    #[error("an audit record of {length} bytes is too large: the limit is 65535")]
    RecordTooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// More was signed than is on disk.
    #[error(
        "{signed} records were signed but the log holds {found}: an older log directory was restored; restore the newest, \
         or refuse to go on"
    )]
    RolledBack {
        /// Records the last signed checkpoint covers.
        signed: u64,
        /// Records on disk.
        found: u64,
    },
    /// The record was moved into an archive.
    #[error("record {index} is in a sealed segment: read it from the archive with SHA-256 {}", archive.hex())]
    Sealed {
        /// Its index.
        index: u64,
        /// SHA-256 of the archive.
        archive: casemate_types::Digest,
    },
    /// The checkpoint could not be signed.
    #[error("cannot sign the audit checkpoint: check the token; the log refuses records until signing works again")]
    Signer(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Signing takes so long that the token must be considered gone.
    #[error("signing the audit checkpoint hangs: check the token; the log refuses records until signing works again")]
    SignerStalled,
    /// The witness has not cosigned for too long.
    #[error(
        "{checkpoints} checkpoints were not cosigned, and the site allows {limit}: the log refuses records until the witness \
         answers ({last})"
    )]
    Unwitnessed {
        /// Checkpoints since the last cosigned one.
        checkpoints: u64,
        /// After how many the site refuses.
        limit: u64,
        /// What went wrong last.
        last: String,
    },
    /// The witness says that this log contradicts itself.
    #[error(
        "the witness refuses this log by name: {refusal}; the log refuses records: compare both with an older export"
    )]
    WitnessRefused {
        /// What it said.
        refusal: String,
    },
    /// The write-ahead file ends before the checkpoint does.
    #[error(
        "the checkpoint covers {checkpoint} records but the write-ahead file ends at {wal}: an older write-ahead file was \
         restored; restore the whole log directory from one backup"
    )]
    WalBehind {
        /// Records the checkpoint covers.
        checkpoint: u64,
        /// One past the last index of the write-ahead file.
        wal: u64,
    },
}

/// What is wrong with a log directory or a receipt; where an index exists, the first bad one.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A cosignature by the witness's name and key, and not its.
    #[error("the cosignature of `{witness}` is wrong")]
    BadCosignature {
        /// The witness.
        witness: String,
    },
    /// A record is not the one that was logged.
    #[error("record {index} was changed: its hash is not the one in the tree")]
    BadEntry {
        /// Its index.
        index: u64,
    },
    /// A hand-over of the log's key that the two keys did not sign.
    #[error("the hand-over of the log's key at record {index} is not signed by both keys")]
    BadHandOver {
        /// Its index.
        index: u64,
    },
    /// A pinned copy is not the record of that index.
    #[error("the pinned copy of record {index} is not the record in the tree")]
    BadPinned {
        /// Its index.
        index: u64,
    },
    /// The inclusion proof does not lead from the record to the signed root.
    #[error("the inclusion proof does not connect record {index} with the signed root")]
    BadProof {
        /// The index the receipt claims.
        index: u64,
    },
    /// The right key's name and identifier, and a signature that is not its.
    #[error("the signature on the checkpoint is wrong")]
    BadSignature,
    /// A record that was durable and not yet signed is damaged.
    #[error("record {index} in the write-ahead file is damaged")]
    BadTail {
        /// Its index.
        index: u64,
    },
    /// A tile is not the one that was written.
    #[error("tile {tile} of level {level} was changed; the first record it concerns is {first_index}")]
    BadTile {
        /// Level: 0 holds leaf hashes.
        level: u8,
        /// Number of the tile within its level.
        tile: u64,
        /// First record under the first bad hash.
        first_index: u64,
    },
    /// A record is older than one before it by more than records may overtake each other.
    #[error("the clock was set back at record {index}: it is {by_ms} ms older than one before it")]
    ClockSetBack {
        /// Its index.
        index: u64,
        /// By how much, in milliseconds.
        by_ms: u64,
    },
    /// The write-ahead file and the checkpoint do not meet.
    #[error(
        "the checkpoint covers {checkpoint} records but the write-ahead file holds {first} to {end}: one of them is older"
    )]
    Gap {
        /// Records the checkpoint covers.
        checkpoint: u64,
        /// First index of the write-ahead file.
        first: u64,
        /// One past its last index.
        end: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// Not a `tlog-checkpoint` in a `signed-note`.
    #[error("the checkpoint is malformed: {detail}")]
    MalformedCheckpoint {
        /// What is wrong.
        detail: &'static str,
    },
    /// Bytes after the last entry of a bundle.
    #[error("the entry bundle that begins at record {first_index} carries bytes that belong to no record")]
    MalformedEntries {
        /// First record of the bundle.
        first_index: u64,
    },
    /// Not a verifier key.
    #[error("the verifier key is malformed: expected `<origin>+<8 hexadecimal digits>+<base64>` of an Ed25519 key")]
    MalformedKey,
    /// Not an export of this log.
    #[error("the export is malformed: {detail}")]
    MalformedExport {
        /// What is wrong.
        detail: String,
    },
    /// Not the file of pinned records.
    #[error("the file of pinned records is malformed")]
    MalformedPinned,
    /// Not a `tlog-proof` with the record in its extra line.
    #[error("the receipt is malformed: {detail}")]
    MalformedReceipt {
        /// What is wrong.
        detail: &'static str,
    },
    /// The write-ahead file is not one of ours.
    #[error("the header of the write-ahead file is damaged")]
    MalformedWal,
    /// No checkpoint.
    #[error("the checkpoint file is missing")]
    MissingCheckpoint,
    /// Records are gone.
    #[error("records from {index} on are missing: their entry bundle is gone or too short")]
    MissingEntries {
        /// The first missing one.
        index: u64,
    },
    /// A tile is gone or too short.
    #[error("tile {tile} of level {level} is missing or too short; the first record it concerns is {first_index}")]
    MissingTile {
        /// Level: 0 holds leaf hashes.
        level: u8,
        /// Number of the tile within its level.
        tile: u64,
        /// First record under the first missing hash.
        first_index: u64,
    },
    /// No write-ahead file.
    #[error("the write-ahead file is missing: records that were not yet signed may be lost")]
    MissingWal,
    /// The witness did not cosign.
    #[error("the checkpoint carries no cosignature by `{witness}`")]
    NotCosigned {
        /// The witness.
        witness: String,
    },
    /// The witness cosigned a checkpoint that is none of this log's.
    #[error("the witness cosigned another tree of {size} records: this log and the one it saw are two histories")]
    CosignedAnother {
        /// Records it covers.
        size: u64,
    },
    /// A key that handed over signed something newer.
    #[error("a checkpoint of {size} records is signed by a key that was retired at {handed_over}")]
    RetiredKey {
        /// Records it covers.
        size: u64,
        /// The most the key may sign.
        handed_over: u64,
    },
    /// The tree on disk is sound in itself and is not the one that was signed.
    #[error(
        "the {size} records on disk do not give the signed root: this is another log, or its history was rewritten"
    )]
    RootMismatch {
        /// Records the checkpoint covers.
        size: u64,
    },
    /// The log is busy: every look at it met another checkpoint.
    #[error("the log changes faster than it can be read: try again")]
    TooBusy,
    /// No signature by the key we trust.
    #[error("the checkpoint carries no signature by the given key")]
    UnknownSigner,
    /// Another log's checkpoint.
    #[error("the checkpoint is of the log `{found}`, expected `{expected}`")]
    WrongOrigin {
        /// The origin line.
        found: String,
        /// The name in the verifier key.
        expected: String,
    },
}

impl AuditError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

impl VerifyError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

impl From<VerifyError> for AuditError {
    /// Failures of the operating system stay what they are; everything else is damage.
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Io { action, path, source } => Self::Io { action, path, source },
            other => Self::Damaged(other),
        }
    }
}
