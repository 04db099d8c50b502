//! The last signed checkpoint, kept apart from the log: whoever restores an older log directory cannot make the log sign a fork.
//!
//! Order of writes: signature, this file, tiles, `checkpoint`. So after a crash this file is at most one checkpoint ahead, and the
//! write-ahead file still holds the records that lead to it.

use std::path::{Path, PathBuf};

use crate::note::{LogKeys, TreeHead};
use crate::proof::HeadHashes;
use crate::tree::{Edge, leaf_hash};
use crate::{AuditError, log::Head, store};

/// The file, if the log keeps one.
#[derive(Debug, Clone)]
pub(crate) struct HeadFile(pub(crate) Option<PathBuf>);

impl HeadFile {
    /// Replaces the file durably.
    pub(crate) fn write(&self, head: &TreeHead) -> Result<(), AuditError> {
        let Some((dir, name)) = self.place() else { return Ok(()) };
        store::replace(dir, name, head.text.as_bytes())?;
        store::sync_dir(dir)
    }

    /// Refuses to begin a log where one was signed before.
    pub(crate) fn must_be_new(&self) -> Result<(), AuditError> {
        let Some(path) = &self.0 else { return Ok(()) };
        match store::read_note(path)? {
            Some(text) => {
                let signed = crate::note::parse_unverified(&text).map_or(0, |head| head.size);
                if signed == 0 { Ok(()) } else { Err(AuditError::RolledBack { signed, found: 0 }) }
            }
            None => Ok(()),
        }
    }

    /// Checks that the log on disk, `head` and the durable records after it, extends what was signed last.
    pub(crate) fn check(
        &self,
        dir: &Path,
        keys: &LogKeys,
        head: &Head,
        unsigned: &[Vec<u8>],
    ) -> Result<(), AuditError> {
        let Some(path) = &self.0 else { return Ok(()) };
        let size = head.tree.size;
        let Some(text) = store::read_note(path)? else {
            return if size == 0 { Ok(()) } else { Err(AuditError::MissingHead { path: path.clone() }) };
        };
        let signed = keys.open(&text)?;
        let root = if signed.size <= size {
            if signed.size == size { head.tree.root } else { HeadHashes::new(dir, head).root_at(signed.size)? }
        } else {
            let found = size + unsigned.len() as u64;
            if found < signed.size {
                return Err(AuditError::RolledBack { signed: signed.size, found });
            }
            let mut edge: Edge = head.edge.clone();
            for record in unsigned.iter().take((signed.size - size) as usize) {
                edge.push(leaf_hash(record), |_| {});
            }
            edge.root()
        };
        if root == signed.root { Ok(()) } else { Err(AuditError::Forked { size: signed.size }) }
    }

    fn place(&self) -> Option<(&Path, &str)> {
        place(self.0.as_deref()?)
    }
}

/// Folder and name of a file.
pub(crate) fn place(path: &Path) -> Option<(&Path, &str)> {
    let name = path.file_name()?.to_str()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((dir, name))
}
