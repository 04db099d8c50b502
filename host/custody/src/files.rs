//! Files that are whole or not there, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::CustodyError;
use crate::json::MAX_FILE;

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> CustodyError + use<'a> {
    move |source| CustodyError::Io { action, path: path.to_owned(), source }
}

/// Reads a file of this crate.
///
/// # Errors
/// [`CustodyError::Io`], [`CustodyError::Malformed`] for one that is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, CustodyError> {
    let fail = failed("read", path);
    let mut bytes = Vec::new();
    File::open(path).map_err(&fail)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(&fail)?;
    if bytes.len() > MAX_FILE {
        return Err(CustodyError::malformed("a file", "it is larger than any such file"));
    }
    Ok(bytes)
}

/// Writes a new file for its owner alone, durably. Never overwrites.
///
/// # Errors
/// [`CustodyError::Io`].
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CustodyError> {
    let fail = failed("write", path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(&fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&fail)?;
    sync_parent(path)
}

/// Replaces a file at once, durably.
///
/// # Errors
/// [`CustodyError::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), CustodyError> {
    let fail = failed("replace", path);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(&fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&fail)?;
    fs::rename(&new, path).map_err(&fail)?;
    sync_parent(path)
}

/// Makes what happened in the folder of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), CustodyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of", path))
}
