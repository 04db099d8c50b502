//! The files of a log directory: whole-file reads with limits, and replacement that survives a crash.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use tlog_tiles::HASH_SIZE;

use crate::tree::{self, WIDTH, first_index};
use crate::{AuditError, MAX_RECORD, VerifyError};

/// Name of the checkpoint below the log directory.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Files written side by side: their `fsync`s share journal commits.
const PARALLEL: usize = 8;

/// The checkpoint as it is on disk; `None` when there is none. At most 1 MB (the limit of the note parser).
pub(crate) fn read_checkpoint(dir: &Path) -> Result<Option<Vec<u8>>, VerifyError> {
    read(&dir.join(CHECKPOINT), 1_000_001)
}

/// A small file of text: a note, or the pinned records; `None` when there is none. At most 4 MB.
pub(crate) fn read_note(path: &Path) -> Result<Option<Vec<u8>>, VerifyError> {
    read(path, 4_000_000)
}

/// The `width` hashes of a tile.
///
/// A partial tile may have been replaced by the full one, whose first hashes are the same (C2SP `tlog-tiles`, partial tiles).
pub(crate) fn read_tile(dir: &Path, level: u8, tile: u64, width: u64) -> Result<Vec<u8>, VerifyError> {
    let wanted = width as usize * HASH_SIZE;
    let limit = WIDTH as usize * HASH_SIZE + 1;
    let mut found = read(&dir.join(tree::tile_path(level, tile, width)), limit)?;
    let mut longest = wanted;
    if found.is_none() && width < WIDTH {
        found = read(&dir.join(tree::tile_path(level, tile, WIDTH)), limit)?;
        longest = limit - 1;
    }
    let mut bytes = found.ok_or(VerifyError::MissingTile { level, tile, first_index: first_index(level, tile, 0) })?;
    if bytes.len() < wanted {
        let whole = (bytes.len() / HASH_SIZE) as u64;
        return Err(VerifyError::MissingTile { level, tile, first_index: first_index(level, tile, whole) });
    }
    if bytes.len() > longest {
        return Err(VerifyError::BadTile { level, tile, first_index: first_index(level, tile, 0) });
    }
    bytes.truncate(wanted);
    Ok(bytes)
}

/// The bytes of an entry bundle and whether it may hold more than `width` entries (a full one in place of a partial one).
pub(crate) fn read_bundle(dir: &Path, tile: u64, width: u64) -> Result<Bundle, VerifyError> {
    let limit = WIDTH as usize * (MAX_RECORD + 2) + 1;
    let mut found = read(&dir.join(tree::bundle_path(tile, width)), limit)?;
    let mut longer = false;
    if found.is_none() && width < WIDTH {
        found = read(&dir.join(tree::bundle_path(tile, WIDTH)), limit)?;
        longer = true;
    }
    let bytes = found.ok_or(VerifyError::MissingEntries { index: tile * WIDTH })?;
    Ok(Bundle { bytes, first: tile * WIDTH, width, longer })
}

/// An entry bundle as read, its framing not yet checked.
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    first: u64,
    width: u64,
    longer: bool,
}

impl Bundle {
    /// The entries in order. The first error ends it: records from there on are missing, or bytes follow the last one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<&[u8], VerifyError>> {
        let mut rest = self.bytes.as_slice();
        let mut position = 0;
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || position == self.width {
                return None;
            }
            let entry = tree::take_entry(&mut rest).ok_or(VerifyError::MissingEntries { index: self.first + position });
            position += 1;
            let surplus = position == self.width && !rest.is_empty() && !self.longer;
            let entry = if surplus && entry.is_ok() {
                Err(VerifyError::MalformedEntries { first_index: self.first })
            } else {
                entry
            };
            failed = entry.is_err();
            Some(entry)
        })
    }
}

/// Writes `files` (paths below `dir`) so that after a crash each is whole or absent: temporary file, `fsync`, rename, `fsync` of
/// every directory touched.
pub(crate) fn write_files(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<(), AuditError> {
    let mut directories = BTreeSet::new();
    for (name, _) in files {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        if directories.insert(parent.to_owned()) {
            fs::create_dir_all(parent).map_err(AuditError::io("create", parent))?;
            // Those above may be new as well, from here or from a run that ended before it could synchronise them.
            directories.extend(parent.ancestors().take_while(|above| above.starts_with(dir)).map(Path::to_owned));
        }
    }
    let share = files.len().div_ceil(PARALLEL).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || {
                    chunk
                        .iter()
                        .try_for_each(|(name, bytes)| write_synced(&temporary(&dir.join(name)), bytes).map(drop))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(AuditError::Closed)))
    })?;
    for (name, _) in files {
        let path = dir.join(name);
        fs::rename(temporary(&path), &path).map_err(AuditError::io("replace", &path))?;
    }
    directories.iter().try_for_each(|directory| sync_dir(directory))
}

/// Replaces one file and hands over the open new one, positioned at its end.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<File, AuditError> {
    let path = dir.join(name);
    let file = write_synced(&temporary(&path), bytes)?;
    fs::rename(temporary(&path), &path).map_err(AuditError::io("replace", &path))?;
    Ok(file)
}

/// Makes renames and new names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), AuditError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(AuditError::io("synchronise", dir))
}

/// Deletes the partial tiles and bundles of a tree of `old` records that a tree of `new` records has replaced.
pub(crate) fn remove_partials(dir: &Path, old: u64, new: u64) {
    for level in tree::levels(old) {
        let (width, tile) = (tree::partial_width(old, level), tree::partial_number(old, level));
        if width == 0 || (tile, width) == (tree::partial_number(new, level), tree::partial_width(new, level)) {
            continue;
        }
        let mut gone = vec![dir.join(tree::tile_path(level, tile, width))];
        if level == 0 {
            gone.push(dir.join(tree::bundle_path(tile, width)));
        }
        for path in gone {
            // Leftovers do no harm: a tree of the new size never looks at them.
            let removed = fs::remove_file(&path);
            tracing::trace!(?path, ?removed, "partial tile replaced");
            if let Some(parent) = path.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, VerifyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(VerifyError::io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).map_err(VerifyError::io("read", path))?;
    Ok(Some(bytes))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<File, AuditError> {
    let mut file = File::create(path).map_err(AuditError::io("create", path))?;
    file.write_all(bytes).map_err(AuditError::io("write", path))?;
    file.sync_all().map_err(AuditError::io("synchronise", path))?;
    Ok(file)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
