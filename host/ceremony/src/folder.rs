//! The folder of a ceremony: what it leaves behind, and files that are whole or not there.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use casemate_custody::files;

use crate::CeremonyError;

/// Paths of one ceremony.
#[derive(Debug, Clone)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// A new folder, or one that is there.
    pub(crate) fn create(path: &Path) -> Result<Self, CeremonyError> {
        make(path)?;
        for name in ["packages", "shares", "issued"] {
            make(&path.join(name))?;
        }
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    pub(crate) fn approval(&self) -> PathBuf {
        self.0.join("approval.json")
    }

    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join("plan.toml")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys.json")
    }

    pub(crate) fn transcript(&self) -> PathBuf {
        self.0.join("transcript.json")
    }

    pub(crate) fn page(&self) -> PathBuf {
        self.0.join("transcript.txt")
    }

    /// The packages of a key on its way, for every token.
    pub(crate) fn packages(&self, key: &str) -> PathBuf {
        self.0.join(format!("packages/{key}.json"))
    }

    /// The package that is to be escrowed.
    pub(crate) fn escrow_package(&self, key: &str) -> PathBuf {
        self.0.join(format!("packages/{key}.escrow.json"))
    }

    /// Share set and shares of a key.
    pub(crate) fn shares(&self, key: &str) -> PathBuf {
        self.0.join(format!("shares/{key}"))
    }

    pub(crate) fn issued(&self, user: &str) -> PathBuf {
        self.0.join(format!("issued/{user}.json"))
    }
}

/// Writes a folder of files that is whole or not there; one that is there already is replaced.
pub(crate) fn write_folder(path: &Path, contents: &[(String, Vec<u8>)]) -> Result<(), CeremonyError> {
    let draft = path.with_extension("draft");
    for old in [&draft, path] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(CeremonyError::io("remove", old))?;
        }
    }
    make(&draft)?;
    for (name, bytes) in contents {
        files::write_new(&draft.join(name), bytes)?;
    }
    fs::rename(&draft, path).map_err(CeremonyError::io("rename", &draft))?;
    sync(path.parent().unwrap_or(path))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), CeremonyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CeremonyError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn make(path: &Path) -> Result<(), CeremonyError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(CeremonyError::io("create", path))?;
    sync(path)
}

fn sync(folder: &Path) -> Result<(), CeremonyError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(CeremonyError::io("sync", folder))
}
