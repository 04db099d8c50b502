//! The custody token's folder: which PINs are in force, and the sealed shares of them.
//!
//! ```text
//! journal.json                         token, generation in force, phase
//! gen-7/user-pin.set.json              public description of the split
//! gen-7/user-pin.NAME.share.json       sealed to one custodian
//! gen-7/so-pin. ...
//! gen-7/succession.json                proof that a session with the PINs of gen-6 wrote it
//! ```
//!
//! A generation is written whole into a folder of another name, made durable and renamed; only then the journal names it. The
//! journal is one small file that is replaced at once, so a crash leaves one phase or the next.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use casemate_types::UserName;
use serde::{Deserialize, Serialize};

use crate::shares::{SealedShare, SecretKind, ShareSet};
use crate::succession::Succession;
use crate::text::TokenSerial;
use crate::{CustodyError, files, json};

/// The file of a generation that proves where it comes from.
const SUCCESSION: &str = "succession.json";

/// Counts the PINs of a custody token: each use makes the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Where a change of PINs stands. What is said of `g` is the journal's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The first shares are written; the token may not be initialised yet, or its PINs may be those of `g`.
    Initialising,
    /// Both PINs are those of `g`.
    Settled,
    /// The shares of `g + 1` are written; both PINs are still those of `g`.
    Prepared,
    /// The USER PIN is that of `g` or of `g + 1`; the SO PIN is that of `g`.
    ChangingUser,
    /// The USER PIN is that of `g + 1`; the SO PIN is that of `g` or of `g + 1`.
    ChangingSo,
}

/// The state of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Journal {
    format: JournalFormat,
    /// The custody token's label.
    pub token_label: String,
    /// Its serial number; not known before it is initialised.
    pub token_serial: Option<TokenSerial>,
    /// The generation in force, unless the phase says otherwise.
    pub generation: Generation,
    /// Where a change stands.
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum JournalFormat {
    #[serde(rename = "casemate custody journal 1")]
    One,
}

impl Journal {
    pub(crate) fn first(token_label: &str) -> Self {
        Self {
            format: JournalFormat::One,
            token_label: token_label.to_owned(),
            token_serial: None,
            generation: Generation(1),
            phase: Phase::Initialising,
        }
    }

    /// Which PINs have to be put together to go on from here, each of which generation.
    pub fn needed(&self) -> Vec<(SecretKind, Generation)> {
        let (now, next) = (self.generation, self.generation.next());
        let (user, so) = (SecretKind::UserPin, SecretKind::SoPin);
        match self.phase {
            Phase::Initialising | Phase::Settled | Phase::Prepared => vec![(user, now), (so, now)],
            // Both PINs before, also when one of them is dead: they prove that the next ones are not forged.
            Phase::ChangingUser | Phase::ChangingSo => vec![(user, now), (user, next), (so, now), (so, next)],
        }
    }
}

/// The folder, held by one process.
pub struct CustodyFolder {
    path: PathBuf,
    _lock: File,
}

impl CustodyFolder {
    /// Opens a folder, or makes an empty one.
    ///
    /// # Errors
    /// [`CustodyError::InUse`], [`CustodyError::Io`].
    pub fn open(path: &Path) -> Result<Self, CustodyError> {
        let io = |source| CustodyError::Io { action: "open the custody folder", path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(CustodyError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// The journal; `None` before the first PINs.
    ///
    /// # Errors
    /// [`CustodyError::Io`], [`CustodyError::Malformed`].
    pub fn journal(&self) -> Result<Option<Journal>, CustodyError> {
        let path = self.path.join("journal.json");
        if !path.exists() {
            return Ok(None);
        }
        json::decode("the custody journal", &files::read(&path)?).map(Some)
    }

    /// Reads the public description of one PIN's split.
    ///
    /// # Errors
    /// [`CustodyError::Io`], as [`ShareSet::parse`].
    pub fn set(&self, kind: SecretKind, generation: Generation) -> Result<ShareSet, CustodyError> {
        let name = format!("{}.set.json", kind.file_name());
        ShareSet::parse(&files::read(&self.generation(generation).join(name))?)
    }

    /// Reads one custodian's sealed share.
    ///
    /// # Errors
    /// [`CustodyError::Io`], as [`SealedShare::parse`].
    pub fn share(
        &self,
        kind: SecretKind,
        generation: Generation,
        custodian: &UserName,
    ) -> Result<SealedShare, CustodyError> {
        let name = format!("{}.{custodian}.share.json", kind.file_name());
        SealedShare::parse(&files::read(&self.generation(generation).join(name))?)
    }

    /// Reads the proof that belongs to a generation; `None` if there is none.
    pub(crate) fn succession(&self, generation: Generation) -> Result<Option<Succession>, CustodyError> {
        let path = self.generation(generation).join(SUCCESSION);
        if !path.exists() {
            return Ok(None);
        }
        json::decode("the proof of a generation", &files::read(&path)?).map(Some)
    }

    pub(crate) fn write_journal(&self, journal: &Journal) -> Result<(), CustodyError> {
        files::replace(&self.path.join("journal.json"), &json::canonical(journal)?)
    }

    /// Writes a generation, whole and durable, in place of an unfinished one of the same number.
    pub(crate) fn write_generation(
        &self,
        generation: Generation,
        splits: &[(ShareSet, Vec<SealedShare>)],
        succession: Option<&Succession>,
    ) -> Result<(), CustodyError> {
        let target = self.generation(generation);
        let draft = self.path.join(format!("gen-{}.new", generation.0));
        self.remove(&draft)?;
        self.remove(&target)?;
        let io = |source| CustodyError::Io { action: "write shares into", path: draft.clone(), source };
        fs::create_dir(&draft).map_err(io)?;
        for (set, shares) in splits {
            let kind = set.kind().file_name();
            files::write_new(&draft.join(format!("{kind}.set.json")), &set.to_bytes()?)?;
            for share in shares {
                files::write_new(&draft.join(format!("{kind}.{}.share.json", share.custodian())), &share.to_bytes()?)?;
            }
        }
        if let Some(succession) = succession {
            files::write_new(&draft.join(SUCCESSION), &json::canonical(succession)?)?;
        }
        fs::rename(&draft, &target).map_err(io)?;
        files::sync_parent(&target)
    }

    /// Removes what a process that was cut off has left: dead generations and drafts.
    pub(crate) fn sweep(&self, alive: &[Generation]) -> Result<(), CustodyError> {
        let io = |source| CustodyError::Io { action: "list the custody folder", path: self.path.clone(), source };
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("gen-") && !alive.iter().any(|generation| self.generation(*generation) == path) {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes a generation that is dead or was never alive.
    pub(crate) fn remove_generation(&self, generation: Generation) -> Result<(), CustodyError> {
        self.remove(&self.generation(generation))
    }

    fn generation(&self, generation: Generation) -> PathBuf {
        self.path.join(format!("gen-{}", generation.0))
    }

    fn remove(&self, path: &Path) -> Result<(), CustodyError> {
        match fs::remove_dir_all(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CustodyError::Io { action: "remove the shares in", path: path.to_owned(), source })
            }
            _ => files::sync_parent(path),
        }
    }
}
