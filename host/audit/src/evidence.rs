//! What a witness keeps when a log contradicts itself: two signed checkpoints of which at most one can be true.
//!
//! Only what the log's key alone can have brought about is kept, reduced to that key's signature, one file for each checkpoint offered: so
//! nobody without the key fills the folder, and every file proves its case to others.

use std::fs;
use std::path::Path;

use casemate_types::Digest;
use tlog_tiles::Hash;

use crate::proof::old_root;
use crate::{AuditError, store};

const FOLDER: &str = "evidence";

/// How two checkpoints contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One size, two roots.
    SplitView,
    /// The proof leads from another beginning to the checkpoint's own root.
    Rewritten,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::SplitView => "split-view-",
            Self::Rewritten => "rewritten-",
        }
    }

    /// Files kept, each kind in room of its own; more of the same proves nothing more.
    fn room(self) -> usize {
        match self {
            Self::SplitView => 200,
            Self::Rewritten => 800,
        }
    }
}

/// Whether a proof that does not lead from the root `known` of `old` records still shows that the tree `(size, root)` begins otherwise.
pub(crate) fn is_rewritten(proof: &[Hash], (size, root): (u64, Hash), (old, known): (u64, Hash)) -> bool {
    old_root(proof, size, root, old).is_some_and(|found| found != known)
}

/// Keeps `text` as the proof against the checkpoint of this text, durably.
///
/// # Errors
/// When it cannot be written, or there is no room left.
pub(crate) fn keep(witness: &Path, kind: Kind, offered: &str, text: &str) -> Result<(), AuditError> {
    let dir = witness.join(FOLDER);
    fs::create_dir_all(&dir).map_err(AuditError::io("create", &dir))?;
    let name = format!("{}{}", kind.prefix(), Digest::of(offered.as_bytes()).hex());
    if dir.join(&name).exists() {
        return Ok(());
    }
    let entries = fs::read_dir(&dir).map_err(AuditError::io("read", &dir))?;
    let of_kind = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(kind.prefix());
    if entries.flatten().filter(of_kind).count() >= kind.room() {
        return Err(AuditError::io("keep more evidence in", &dir)(std::io::ErrorKind::QuotaExceeded.into()));
    }
    store::replace(&dir, &name, text.as_bytes())?;
    store::sync_dir(&dir)
}
