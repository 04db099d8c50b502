//! A map with atomic changes, on a database that can only put and remove single records.
//!
//! A change of several entries is written down first, in records of its own; then one record says that it holds: from there on it will
//! be carried out, if need be by the next process that opens the store. One process writes; others open it to read only, and what they
//! may see of a change under way the owner's digests give away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::digest::{SHA256, digest};
use casemate_vectors::{Batch, Database, Each, Entries, Feed, VectorsError};

use crate::BackendError;

/// Keys of the journal begin with this, which no key of the store does.
const JOURNAL: &[u8] = b"~";
/// The record that makes a change hold: number of parts (u32, big endian), SHA-256 of all of them.
const HOLDS: &[u8] = b"~holds";
/// Present while an import runs.
const IMPORTING: &[u8] = b"~importing";
/// What one record of the journal holds, and about what one request puts.
const PART: usize = 4 << 20;
const PUT_AT_A_TIME: usize = 512;

/// A key and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// A key and what becomes of it: another value, or none.
type Step = (Vec<u8>, Option<Vec<u8>>);

/// A database of single records, each put durably and as a whole. Requests may come twice.
pub(crate) trait Records: Send + Sync {
    /// Those of the keys that are there, with their values, in no particular order.
    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Entry>, BackendError>;

    /// The keys under a [`Scope`], in no particular order.
    fn keys(&self, scope: &Scope) -> Result<Vec<Vec<u8>>, BackendError>;

    /// Puts entries of a few megabytes in all.
    fn put(&self, entries: &[Entry]) -> Result<(), BackendError>;

    /// Removes some hundred keys, as far as they are there.
    fn remove(&self, keys: &[Vec<u8>]) -> Result<(), BackendError>;
}

/// A prefix as a field of a record and that field's value: databases without an order look up by equality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) field: &'static str,
    pub(crate) value: String,
}

const FIELDS: [&str; 4] = ["s0", "s1", "s2", "s3"];

impl Scope {
    fn of(prefix: &[u8]) -> Self {
        let level = match prefix.iter().position(|byte| *byte == 0) {
            None => prefix.len().min(1),
            Some(nul) if nul + 1 == prefix.len() => 2,
            Some(_) => 3,
        };
        // Of one length, whatever a token's is.
        let value = hex::encode(digest(&SHA256, prefix).as_ref().get(..16).unwrap_or_default());
        Self { field: FIELDS[level], value }
    }

    /// All the scopes that a key is under.
    pub(crate) fn all(key: &[u8]) -> Vec<Self> {
        if key.starts_with(JOURNAL) {
            return vec![Self::of(JOURNAL)];
        }
        casemate_vectors::scopes(key).into_iter().map(Self::of).collect()
    }
}

pub(crate) struct Journaled<R> {
    records: R,
    read_only: bool,
    lock: RwLock<()>,
    /// A change may be left to carry out.
    unsettled: AtomicBool,
}

impl<R: Records> Journaled<R> {
    pub(crate) fn new(records: R, read_only: bool) -> Self {
        Self { records, read_only, lock: RwLock::default(), unsettled: AtomicBool::new(!read_only) }
    }

    fn reading(&self) -> Result<RwLockReadGuard<'_, ()>, VectorsError> {
        if self.unsettled.load(Ordering::SeqCst) {
            drop(self.writing()?);
        }
        Ok(self.lock.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Alone, with nothing left of changes before.
    fn writing(&self) -> Result<RwLockWriteGuard<'_, ()>, VectorsError> {
        let guard = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        if self.unsettled.load(Ordering::SeqCst) {
            self.settle().map_err(backend("carry out a change that was cut short"))?;
            self.unsettled.store(false, Ordering::SeqCst);
        }
        Ok(guard)
    }

    fn settle(&self) -> Result<(), BackendError> {
        if let Some(holds) = self.value(HOLDS)? {
            let damaged = || BackendError::Journal;
            let (count, sum) = holds.split_first_chunk::<4>().ok_or_else(damaged)?;
            let mut journal = Vec::new();
            for part in 0..u32::from_be_bytes(*count) {
                journal.extend(self.value(&part_key(part))?.ok_or_else(damaged)?);
            }
            if digest(&SHA256, &journal).as_ref() != sum {
                return Err(damaged());
            }
            self.carry_out(decode(&journal).ok_or_else(damaged)?)?;
            self.records.remove(&[HOLDS.to_vec()])?;
        }
        if self.value(IMPORTING)?.is_some() {
            self.remove(self.records.keys(&Scope::of(b""))?)?;
        }
        self.remove(self.records.keys(&Scope::of(JOURNAL))?)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.records.get(&[key])?.pop().map(|(_, value)| value))
    }

    fn carry_out(&self, entries: Vec<Step>) -> Result<(), BackendError> {
        let mut removed = Vec::new();
        let mut puts = Puts::default();
        for (key, value) in entries {
            match value {
                Some(value) => puts.add(&self.records, key, value)?,
                None => removed.push(key),
            }
        }
        puts.send(&self.records)?;
        self.remove(removed)
    }

    fn remove(&self, keys: Vec<Vec<u8>>) -> Result<(), BackendError> {
        keys.chunks(PUT_AT_A_TIME).try_for_each(|keys| self.records.remove(keys))
    }

    fn commit(&self, batch: Batch) -> Result<(), BackendError> {
        let entries: Vec<_> = batch.into_iter().collect();
        if entries.len() <= 1 {
            // One record is whole or not there.
            return self.carry_out(entries);
        }
        let journal = encode(&entries);
        let mut parts = 0;
        for part in journal.chunks(PART) {
            self.records.put(&[(part_key(parts), part.to_vec())])?;
            parts += 1;
        }
        let holds = [&parts.to_be_bytes(), digest(&SHA256, &journal).as_ref()].concat();
        self.records.put(&[(HOLDS.to_vec(), holds)])?;
        self.carry_out(entries)?;
        self.records.remove(&[HOLDS.to_vec()])?;
        self.remove((0..parts).map(part_key).collect())
    }
}

#[derive(Default)]
struct Puts {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Puts {
    fn add(&mut self, records: &impl Records, key: Vec<u8>, value: Vec<u8>) -> Result<(), BackendError> {
        self.bytes += key.len() + value.len();
        self.entries.push((key, value));
        if self.bytes < PART && self.entries.len() < PUT_AT_A_TIME {
            return Ok(());
        }
        self.send(records)
    }

    fn send(&mut self, records: &impl Records) -> Result<(), BackendError> {
        if !self.entries.is_empty() {
            records.put(&self.entries)?;
        }
        *self = Self::default();
        Ok(())
    }
}

impl<R: Records> Entries for Journaled<R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        self.value(key).map_err(backend("read the vector store"))
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, VectorsError> {
        let mut keys = self.records.keys(&Scope::of(prefix)).map_err(backend("read the vector store"))?;
        keys.retain(|key| key.starts_with(prefix));
        keys.sort_unstable();
        Ok(keys)
    }

    fn pairs(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), VectorsError> {
        let keys = Entries::keys(self, prefix)?;
        // Groups and passages are large.
        let large = |key: &[u8]| matches!(key.first(), Some(b'g' | b'p'));
        for keys in keys.chunk_by(|one, next| large(one) == large(next)) {
            let at_a_time = if keys.first().is_some_and(|key| large(key)) { 8 } else { PUT_AT_A_TIME };
            for keys in keys.chunks(at_a_time) {
                let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                let mut pairs = self.records.get(&keys).map_err(backend("read the vector store"))?;
                pairs.sort_unstable();
                pairs.iter().try_for_each(|(key, value)| each(key, value))?;
            }
        }
        Ok(())
    }
}

impl<R: Records> Database for Journaled<R> {
    fn read<T>(&self, work: impl FnOnce(&dyn Entries) -> Result<T, VectorsError>) -> Result<T, VectorsError> {
        let _guard = self.reading()?;
        work(self)
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&dyn Entries, &mut Batch) -> Result<T, VectorsError>,
    ) -> Result<T, VectorsError> {
        let failed = backend("write the vector store");
        if self.read_only {
            return Err(failed(BackendError::ReadOnly));
        }
        let _guard = self.writing()?;
        let mut batch = Batch::default();
        let done = work(self, &mut batch)?;
        self.unsettled.store(true, Ordering::SeqCst);
        self.commit(batch).map_err(failed)?;
        self.unsettled.store(false, Ordering::SeqCst);
        Ok(done)
    }

    fn fill(&self, feed: &mut Feed<'_>) -> Result<(), VectorsError> {
        let failed = backend("import a store");
        if self.read_only {
            return Err(failed(BackendError::ReadOnly));
        }
        let _guard = self.writing()?;
        if !self.records.keys(&Scope::of(b"")).map_err(failed)?.is_empty() {
            return Err(VectorsError::NotEmpty);
        }
        self.unsettled.store(true, Ordering::SeqCst);
        self.records.put(&[(IMPORTING.to_vec(), Vec::new())]).map_err(failed)?;
        let mut puts = Puts::default();
        let fed = feed(&mut |key, value| puts.add(&self.records, key.to_vec(), value.to_vec()).map_err(failed));
        let filled = fed.and_then(|()| puts.send(&self.records).map_err(failed));
        if filled.is_ok() {
            self.records.remove(&[IMPORTING.to_vec()]).map_err(failed)?;
        } else {
            self.settle().map_err(failed)?;
        }
        self.unsettled.store(false, Ordering::SeqCst);
        filled
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        let _guard = self.reading()?;
        Entries::get(self, key)
    }
}

fn part_key(part: u32) -> Vec<u8> {
    format!("~{part:08}").into_bytes()
}

/// Each entry: its key behind its length, then 1 and the value behind its length, or 0.
fn encode(entries: &[Step]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    for (key, value) in entries {
        put(key);
        match value {
            Some(value) => {
                put(&[1]);
                put(value);
            }
            None => put(&[0]),
        }
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Step>> {
    let mut take = || -> Option<Option<Vec<u8>>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(Some(part.to_vec()))
    };
    let mut entries = Vec::new();
    while let Some(key) = take()? {
        let value = match take()??.as_slice() {
            [0] => None,
            [1] => Some(take()??),
            _ => return None,
        };
        entries.push((key, value));
    }
    Some(entries)
}

fn backend(action: &'static str) -> impl Fn(BackendError) -> VectorsError + Copy {
    move |source| VectorsError::Backend { action, source: Box::new(source) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use casemate_vectors::{Change, EntryStore, GroupRecord, VectorStore};

    use super::*;

    /// Records in memory that fail from one request on, as a server does that dies.
    #[derive(Default)]
    struct Memory {
        entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
        left: AtomicUsize,
    }

    impl Memory {
        fn change(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>)) -> Result<(), BackendError> {
            let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            left.map_err(|_| BackendError::Journal)?;
            change(&mut self.entries.lock().unwrap());
            Ok(())
        }
    }

    impl Records for Arc<Memory> {
        fn get(&self, keys: &[&[u8]]) -> Result<Vec<Entry>, BackendError> {
            let entries = self.entries.lock().unwrap();
            let found = keys.iter().filter_map(|key| Some((key.to_vec(), entries.get(*key)?.clone())));
            Ok(found.collect())
        }

        fn keys(&self, scope: &Scope) -> Result<Vec<Vec<u8>>, BackendError> {
            let entries = self.entries.lock().unwrap();
            Ok(entries.keys().filter(|key| Scope::all(key).contains(scope)).cloned().collect())
        }

        fn put(&self, entries: &[Entry]) -> Result<(), BackendError> {
            // As a server may, one after the other.
            entries.iter().try_for_each(|(key, value)| {
                self.change(|all| {
                    all.insert(key.clone(), value.clone());
                })
            })
        }

        fn remove(&self, keys: &[Vec<u8>]) -> Result<(), BackendError> {
            keys.iter().try_for_each(|key| {
                self.change(|all| {
                    all.remove(key);
                })
            })
        }
    }

    fn change(version: u64) -> Change {
        let record = GroupRecord { version, count: 1, ciphertext: vec![version as u8; PART / 2] };
        let put_groups = (0..5).map(|group| (group + version as u32 % 2, record.clone())).collect();
        let delete_groups = vec![if version.is_multiple_of(2) { 5 } else { 0 }];
        Change { version, put_groups, delete_groups, manifest: vec![version as u8], ..Change::default() }
    }

    /// The server dies before each of the requests that a change takes; whoever comes next finds all of it or nothing.
    #[test]
    fn a_death_before_any_request_of_a_change_leaves_all_of_it_or_nothing() {
        let alpha = "alpha".parse().unwrap();
        let (mut before, mut after) = (0, 0);
        for requests in 0_usize.. {
            let memory = Arc::new(Memory::default());
            memory.left.store(usize::MAX, Ordering::SeqCst);
            let store = EntryStore::new(Journaled::new(Arc::clone(&memory), false));
            for version in 1..=2 {
                assert_eq!(store.reserve_version(&alpha).unwrap(), version);
                if version == 1 {
                    store.apply(&alpha, change(1)).unwrap();
                }
            }
            memory.left.store(requests, Ordering::SeqCst);
            let done = store.apply(&alpha, change(2));
            memory.left.store(usize::MAX, Ordering::SeqCst);
            // The same process goes on, or another one comes.
            let store = if requests.is_multiple_of(2) {
                drop(store);
                EntryStore::new(Journaled::new(Arc::clone(&memory), false))
            } else {
                store
            };
            let version = store.version(&alpha).unwrap();
            assert!(version == 2 || done.is_err(), "an acknowledged change is gone");
            let groups = store.groups(&alpha).unwrap();
            assert_eq!(groups, (0..5).map(|group| group + version as u32 % 2).collect::<Vec<_>>(), "{requests}");
            for group in groups {
                assert_eq!(store.group(&alpha, group).unwrap().unwrap().version, version, "{requests}");
            }
            assert_eq!(store.manifest(&alpha).unwrap().unwrap(), [version as u8]);
            if store.database().records.keys(&Scope::of(JOURNAL)).unwrap().is_empty() {
                *(if version == 1 { &mut before } else { &mut after }) += 1;
            }
            if done.is_ok() {
                break;
            }
        }
        assert!(before >= 4 && after >= 7, "{before} {after}");
    }

    #[test]
    fn who_opened_it_to_read_changes_nothing() {
        let memory = Arc::new(Memory::default());
        let store = EntryStore::new(Journaled::new(Arc::clone(&memory), true));
        let alpha = "alpha".parse().unwrap();
        assert_eq!(store.version(&alpha).unwrap(), 0);
        for done in [store.reserve_version(&alpha).map(drop), store.import(&mut b"".as_slice())] {
            assert!(matches!(done, Err(VectorsError::Backend { .. })));
        }
        assert!(memory.entries.lock().unwrap().is_empty());
    }

    #[test]
    fn a_journal_reads_back_and_half_of_one_does_not() {
        let entries =
            vec![(b"a".to_vec(), Some(b"value".to_vec())), (b"b".to_vec(), None), (Vec::new(), Some(Vec::new()))];
        let bytes = encode(&entries);
        assert_eq!(decode(&bytes).unwrap(), entries);
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
        assert!(decode(&[0, 0, 0, 1, 7, 0, 0, 0, 1, 9]).is_none());
    }
}
