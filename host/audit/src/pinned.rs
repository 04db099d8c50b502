//! Copies of the few records that a verifier needs before the tree can be walked: hand-overs of the log's key, announcements of one
//! in reserve, sealed segments.
//!
//! The file `pinned` holds one line per record, `index base64`, in rising order. Nothing in it is trusted: a hand-over, and an
//! announcement, carries the signatures of both keys, and every copy must be the record that the tree has at its index.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use casemate_types::Digest;
use signed_note::{Note, Signature, StandardVerifier, Verifier, VerifierList};
use tlog_tiles::Hash;

use crate::note::{LogKey, LogKeys};
use crate::tree::leaf_hash;
use crate::{AuditError, CheckpointSigner, Event, Record, VerifyError, store};

/// Name of the file below the log directory.
pub(crate) const NAME: &str = "pinned";

/// The file, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pinned {
    records: Vec<(u64, Vec<u8>)>,
}

/// Records whose entry bundles were moved out of the log into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The first record.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// SHA-256 of the archive that holds them.
    pub archive: Digest,
}

impl Pinned {
    pub(crate) fn read(dir: &Path) -> Result<Self, VerifyError> {
        match store::read_note(&dir.join(NAME))? {
            Some(bytes) => Self::parse(&bytes),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let malformed = VerifyError::MalformedPinned;
        let text = str::from_utf8(bytes).map_err(|_| malformed.clone())?;
        let mut records = Vec::new();
        for line in text.lines() {
            let (index, record) = line.split_once(' ').ok_or_else(|| malformed.clone())?;
            let index: u64 = index.parse().map_err(|_| malformed.clone())?;
            let record = BASE64_STANDARD.decode(record).map_err(|_| malformed.clone())?;
            if records.last().is_some_and(|(last, _)| *last >= index) {
                return Err(malformed);
            }
            records.push((index, record));
        }
        Ok(Self { records })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let line = |(index, record): &(u64, Vec<u8>)| format!("{index} {}\n", BASE64_STANDARD.encode(record));
        self.records.iter().map(line).collect::<String>().into_bytes()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a record, durably.
    pub(crate) fn add(&mut self, dir: &Path, index: u64, record: Vec<u8>) -> Result<(), AuditError> {
        self.records.push((index, record));
        store::replace(dir, NAME, &self.to_bytes())?;
        store::sync_dir(dir)
    }

    /// The keys that may sign checkpoints, given the one the verifier trusts: that one, and those it handed over to.
    pub(crate) fn keys(&self, trusted: &str) -> Result<LogKeys, VerifyError> {
        let mut keys = LogKeys::of(trusted);
        for (index, record) in &self.records {
            let Ok(Record { event: Event::LogKey { action, from, to, note }, .. }) = Record::from_bytes(record) else {
                continue;
            };
            if keys.current() != from {
                continue;
            }
            let change = if action == Change::Reserve.action() { Change::Reserve } else { Change::HandOver };
            check(change, *index, &from, &to, &note)?;
            match change {
                Change::HandOver => keys.hand_over(index + 1, to),
                Change::Reserve => keys.announce(*index, to),
            }
        }
        Ok(keys)
    }

    /// As [`Pinned::keys`], for who holds the current key and trusts nothing else: the chain that ends with it.
    pub(crate) fn keys_ending_with(&self, current: &str) -> Result<LogKeys, VerifyError> {
        let mut first = current.to_owned();
        for (_, record) in self.records.iter().rev() {
            if let Ok(Record { event: Event::LogKey { action, from, to, .. }, .. }) = Record::from_bytes(record)
                && action != Change::Reserve.action()
                && to == first
            {
                first = from;
            }
        }
        self.keys(&first)
    }

    /// The sealed segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.records
            .iter()
            .filter_map(|(_, record)| match Record::from_bytes(record).ok()?.event {
                Event::Segment { from, to, archive, .. } => Some(Segment { from, to, archive }),
                _ => None,
            })
            .collect()
    }

    /// Checks that every copy is the record the tree has at its index; `leaf` gives the tree's hash.
    pub(crate) fn check(
        &self,
        size: u64,
        mut leaf: impl FnMut(u64) -> Result<Option<Hash>, VerifyError>,
    ) -> Result<(), VerifyError> {
        for (index, record) in &self.records {
            if *index >= size || leaf(*index)? != Some(leaf_hash(record)) {
                return Err(VerifyError::BadPinned { index: *index });
            }
        }
        Ok(())
    }
}

/// What two keys of a log say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The second takes the place of the first.
    HandOver,
    /// The second may sign as well, for when the first cannot.
    Reserve,
}

impl Change {
    /// What the record says.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::HandOver => "rotated",
            Self::Reserve => "reserve",
        }
    }

    fn text(self, index: u64, from: &str, to: &str) -> String {
        let heading = match self {
            Self::HandOver => "casemate/log-key-hand-over/v1",
            Self::Reserve => "casemate/log-key-reserve/v1",
        };
        format!("{heading}\nindex {index}\nfrom {from}\nto {to}\n")
    }
}

/// The hand-over from one key to the next, or the announcement of one in reserve, to be logged as record `index`: a note that both
/// keys sign.
pub(crate) fn declare(
    change: Change,
    index: u64,
    old: (&LogKey, &dyn CheckpointSigner),
    new: (&LogKey, &dyn CheckpointSigner),
) -> Result<String, AuditError> {
    let text = change.text(index, old.0.vkey(), new.0.vkey());
    let malformed = || AuditError::Damaged(VerifyError::MalformedKey);
    let signatures = [old, new].map(|(key, signer)| key.signature(text.as_bytes(), signer));
    let signatures = signatures.into_iter().collect::<Result<Vec<Signature>, _>>()?;
    let note = Note::new(text.as_bytes(), &signatures).map_err(|_| malformed())?;
    let note = String::from_utf8(note.to_bytes()).map_err(|_| malformed())?;
    check(change, index, old.0.vkey(), new.0.vkey(), &note)?;
    Ok(note)
}

fn check(change: Change, index: u64, from: &str, to: &str, note: &str) -> Result<(), VerifyError> {
    let bad = VerifyError::BadHandOver { index };
    let verifier = |vkey: &str| StandardVerifier::new(vkey).map_err(|_| VerifyError::MalformedKey);
    let (old, new) = (verifier(from)?, verifier(to)?);
    if old.name() != new.name() || from == to {
        return Err(bad);
    }
    let note = Note::from_bytes(note.as_bytes()).map_err(|_| bad.clone())?;
    if note.text() != change.text(index, from, to).as_bytes() {
        return Err(bad);
    }
    match note.verify(&VerifierList::new(vec![Box::new(old), Box::new(new)])) {
        Ok((verified, _)) if verified.len() == 2 => Ok(()),
        _ => Err(bad),
    }
}
