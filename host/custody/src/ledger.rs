//! Approvals that were used. Each is good for once, also after a restart.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use casemate_types::Digest;

use crate::statement::Nonce;
use crate::text::UnixTime;
use crate::{CustodyError, files};

const FIRST_LINE: &str = "casemate nonces 1\n";

/// Remembers nonces.
pub trait NonceLedger {
    /// Notes that an approval, good for `uses` times, is used at `now`, durably before it returns. Returns which use it is, from 1.
    ///
    /// # Errors
    /// [`CustodyError::Replayed`] when it was used before, [`CustodyError::UsedUp`] when it was used as often as it allows;
    /// [`CustodyError::Io`] when it cannot be noted.
    fn spend(&mut self, nonce: &Nonce, statement: &Digest, uses: u32, now: UnixTime) -> Result<u32, CustodyError>;
}

/// A ledger in a file: a line per use, with nonce, digest and second. One process at a time.
pub struct NonceFile {
    path: PathBuf,
    file: File,
    spent: BTreeMap<Nonce, Vec<Option<UnixTime>>>,
}

impl NonceFile {
    /// Begins a ledger; there must be none.
    ///
    /// # Errors
    /// [`CustodyError::Io`].
    pub fn create(path: &Path) -> Result<Self, CustodyError> {
        files::write_new(path, FIRST_LINE.as_bytes())?;
        Self::open(path)
    }

    /// Opens a ledger. A ledger that is gone is not an empty one: every approval that is still valid could be used again.
    ///
    /// # Errors
    /// [`CustodyError::Io`], [`CustodyError::InUse`], [`CustodyError::Malformed`] for a line that is none.
    pub fn open(path: &Path) -> Result<Self, CustodyError> {
        let io =
            |source| CustodyError::Io { action: "open the ledger of used approvals", path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CustodyError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let malformed = || CustodyError::malformed("the ledger of used approvals", "a line of it is damaged");
        let lines = text.strip_prefix(FIRST_LINE).ok_or_else(malformed)?;
        // A torn last line was never answered, so nothing was done on it.
        let whole = lines.rfind('\n').map_or(0, |end| end + 1);
        let mut spent = BTreeMap::<Nonce, Vec<Option<UnixTime>>>::new();
        for line in lines[..whole].lines() {
            let mut parts = line.split(' ');
            let (Some(nonce), Some(_)) = (parts.next(), parts.next()) else { return Err(malformed()) };
            // Early ledgers did not note the time.
            let at = parts.next().map(str::parse).transpose().map_err(|_| malformed())?.map(UnixTime);
            spent.entry(nonce.parse().map_err(|_| malformed())?).or_default().push(at);
        }
        let end = (FIRST_LINE.len() + whole) as u64;
        file.set_len(end).map_err(io)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, spent })
    }
}

impl NonceFile {
    /// When an approval was used, each time; `None` where the time was not noted.
    pub fn uses(&self, nonce: &Nonce) -> &[Option<UnixTime>] {
        self.spent.get(nonce).map_or(&[], Vec::as_slice)
    }
}

impl NonceLedger for NonceFile {
    fn spend(&mut self, nonce: &Nonce, statement: &Digest, uses: u32, now: UnixTime) -> Result<u32, CustodyError> {
        let spent = self.spent.entry(*nonce).or_default();
        let used = u32::try_from(spent.len()).unwrap_or(u32::MAX);
        if used >= uses {
            return Err(match uses {
                1 => CustodyError::Replayed { nonce: *nonce },
                _ => CustodyError::UsedUp { nonce: *nonce, uses },
            });
        }
        // Counted before it is written: what may have been noted must not be used again by this process.
        spent.push(Some(now));
        let line = format!("{nonce} {statement} {}\n", now.0);
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map(|()| used + 1).map_err(|source| CustodyError::Io {
            action: "note a used approval",
            path: self.path.clone(),
            source,
        })
    }
}
