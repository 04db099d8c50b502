//! The journal: one line of JSON per entry, each with the digest of the one before, durable before anything is done on it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use casemate_custody::{AuditHead, UnixTime};
use casemate_hsm::{KeyId, KeyRef, TransportKey};
use casemate_types::{Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::transcript::{Hashed, TokenFact};
use crate::{CeremonyError, Mark};

/// What was done or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Entry {
    /// The ceremony begins.
    Begun(Begun),
    /// Custodians approved that it goes on, because the first approval is over.
    ApprovedAgain { statement: Digest, approvers: Vec<UserName> },
    /// A step begins, perhaps again.
    StepBegun { step: usize, at: UnixTime },
    /// An identifier was drawn; the key is made after this.
    Drawn { step: usize, key: KeyId },
    /// A step is over.
    StepDone { step: usize, at: UnixTime, result: StepResult },
    /// All steps are over; the transcript speaks of the log up to here.
    Closed { head: AuditHead, at: UnixTime },
    /// The transcript is signed.
    Finished { transcript: Digest },
}

impl Entry {
    /// Its kind and its step, 0 for none: the same in every attempt.
    pub(crate) fn place(&self) -> (&'static str, usize) {
        match self {
            Self::Begun(_) => ("begun", 0),
            Self::ApprovedAgain { .. } => ("approved-again", 0),
            Self::StepBegun { step, .. } => ("step-begun", *step),
            Self::Drawn { step, .. } => ("drawn", *step),
            Self::StepDone { step, .. } => ("step-done", *step),
            Self::Closed { .. } => ("closed", 0),
            Self::Finished { .. } => ("finished", 0),
        }
    }
}

/// What is fixed from the first entry on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Begun {
    pub(crate) ceremony: String,
    pub(crate) site: String,
    pub(crate) plan: Digest,
    pub(crate) statement: Digest,
    pub(crate) approvers: Vec<UserName>,
    pub(crate) roster: Digest,
    pub(crate) software: Vec<Hashed>,
    pub(crate) tokens: Vec<TokenFact>,
    pub(crate) at: UnixTime,
}

/// What a step did. Nothing in it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StepResult {
    /// Calls in their order.
    pub calls: Vec<Call>,
    /// Keys that are there now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<MadeKey>,
    /// Public halves of transport pairs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// The split of a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<EscrowRecord>,
    /// In words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// A call of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The token's role, or the custodian.
    pub token: String,
    /// What was called, after PKCS#11.
    pub call: String,
    /// What came of it.
    pub result: String,
    /// Attributes that were read back, `NAME = value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
}

/// A key in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeKey {
    /// Its name in the plan.
    pub name: String,
    /// The token's role.
    pub token: String,
    /// How it is found there.
    pub key: KeyRef,
}

/// A token's address for wrapped keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The token's role.
    pub token: String,
    /// SHA-256 of the public key: what people compare.
    pub fingerprint: String,
    /// The public half.
    pub address: TransportKey,
}

/// A package that was split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EscrowRecord {
    /// The key.
    pub key: String,
    /// The token in which the package opens.
    pub opens_in: String,
    /// Which split.
    pub epoch: u64,
    /// Digest of the share set.
    pub set: Digest,
    /// How many shares are needed.
    pub threshold: usize,
    /// Who holds a share, and its commitment.
    pub shares: Vec<Holder>,
}

/// A share's holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The custodian.
    pub custodian: UserName,
    /// The commitment to the share.
    pub commitment: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    n: usize,
    previous: Digest,
    entry: Entry,
}

/// An open journal; one process at a time.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    entries: Vec<(Digest, Entry)>,
}

/// What the first entry names as the one before.
fn root() -> Digest {
    Digest::of(b"casemate ceremony journal 1")
}

impl Journal {
    /// Begins a journal; there must be none. One without a whole entry began nothing.
    pub(crate) fn create(path: &Path) -> Result<Self, CeremonyError> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(CeremonyError::io("create", path))?;
        lock(&file, path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(CeremonyError::io("read", path))?;
        if text.contains(&b'\n') {
            let path = path.parent().unwrap_or(path).to_owned();
            return Err(CeremonyError::FolderUsed { path });
        }
        let emptied = file.set_len(0).and_then(|()| file.rewind());
        emptied.map_err(CeremonyError::io("begin", path))?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(CeremonyError::io("sync", folder))?;
        }
        Ok(Self { path: path.to_owned(), file, entries: Vec::new() })
    }

    /// Reads a journal and checks its chain. A torn last line was never acted on.
    pub(crate) fn open(path: &Path) -> Result<Self, CeremonyError> {
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(CeremonyError::io("open", path))?;
        lock(&file, path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(CeremonyError::io("read", path))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut entries: Vec<(Digest, Entry)> = Vec::new();
        for (n, bytes) in text.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n').enumerate() {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let altered = |why| CeremonyError::JournalAltered { entry: n, why };
            let line: Line = serde_json::from_slice(bytes).map_err(|_| altered("is not the expected JSON"))?;
            let previous = entries.last().map_or_else(root, |(digest, _)| *digest);
            if line.n != n || line.previous != previous {
                return Err(altered("does not follow the one before"));
            }
            entries.push((Digest::of(bytes), line.entry));
        }
        file.set_len(whole as u64).map_err(CeremonyError::io("cut the torn end of", path))?;
        file.seek(SeekFrom::End(0)).map_err(CeremonyError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// Appends an entry, durably before it returns; gives its number and digest.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<(usize, Digest), CeremonyError> {
        let n = self.entries.len();
        let previous = self.entries.last().map_or_else(root, |(digest, _)| *digest);
        let line = Line { n, previous, entry };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| CeremonyError::malformed("an entry", error))?;
        let digest = Digest::of(&bytes);
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(CeremonyError::io("append to", &self.path))?;
        self.entries.push((digest, line.entry));
        Ok((n, digest))
    }

    pub(crate) fn entries(&self) -> &[(Digest, Entry)] {
        &self.entries
    }

    /// Compares the chain with what the audit log holds of it. Gives the entry whose record is missing, if the process ended
    /// between the two.
    pub(crate) fn compare(&self, marks: &[Mark]) -> Result<Option<usize>, CeremonyError> {
        if marks.len() > self.entries.len() {
            return Err(CeremonyError::JournalTruncated { found: self.entries.len(), recorded: marks.len() });
        }
        for (n, (mark, (digest, _))) in marks.iter().zip(&self.entries).enumerate() {
            if mark.entry != n || mark.digest != *digest {
                return Err(CeremonyError::JournalAltered { entry: n, why: "is not the one that the audit log holds" });
            }
        }
        match self.entries.len() - marks.len() {
            0 => Ok(None),
            1 => Ok(Some(marks.len())),
            _ => {
                let entry = marks.len() + 1;
                Err(CeremonyError::JournalAltered { entry, why: "is not in the audit log" })
            }
        }
    }
}

fn lock(file: &File, path: &Path) -> Result<(), CeremonyError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(CeremonyError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(CeremonyError::io("lock", path)(source)),
    }
}
