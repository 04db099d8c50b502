use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::VectorsError;
use crate::database::{Batch, Database, Each, Entries, Feed};
use crate::entry_store::EntryStore;

/// Present while an import runs, so that a crash in the middle leaves an empty store. Sorts behind all other keys: a
/// clearing that is cut short has not removed it yet.
const IMPORTING: &[u8] = b"~importing";

/// The default back end: one directory, one ordered map, one process at a time.
pub type SledStore = EntryStore<Sled>;

/// The map of a [`SledStore`].
pub struct Sled {
    db: sled::Db,
    /// Readers that look twice see one state; a change reads and writes as one step.
    lock: RwLock<()>,
}

impl SledStore {
    /// Opens or creates the store in `directory`. One process at a time.
    ///
    /// # Errors
    /// [`VectorsError::Backend`] when the directory cannot be opened or another process holds it.
    pub fn open(directory: &Path) -> Result<Self, VectorsError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(64 << 20)
            // Changes are flushed where they are applied.
            .flush_every_ms(None);
        // A process that is just being started may hold a copy of the database's lock until it runs: wait a little.
        let mut patience = 40;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(sled::Error::Io(_)) if patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(std::time::Duration::from_millis(25));
                }
                Err(error) => return Err(backend("open the vector store")(error)),
            }
        };
        let database = Sled { db, lock: RwLock::new(()) };
        if Database::get(&database, IMPORTING)?.is_some() {
            database.clear()?;
        }
        Ok(Self::new(database))
    }
}

impl Sled {
    fn commit(&self, batch: Batch) -> Result<(), VectorsError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.db.apply_batch(changes).map_err(backend("write the vector store"))?;
        self.flush()
    }

    fn flush(&self) -> Result<(), VectorsError> {
        self.db.flush().map(drop).map_err(backend("flush the vector store"))
    }

    fn clear(&self) -> Result<(), VectorsError> {
        self.db.clear().map_err(backend("clear the vector store"))?;
        self.flush()
    }

    fn mark_importing(&self, change: impl FnOnce(&mut Batch)) -> Result<(), VectorsError> {
        let mut batch = Batch::default();
        change(&mut batch);
        self.commit(batch)
    }
}

impl Entries for sled::Db {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        let value = sled::Tree::get(self, key).map_err(backend("read the vector store"))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, VectorsError> {
        let keys = self.scan_prefix(prefix).keys();
        keys.map(|key| Ok(key.map_err(backend("read the vector store"))?.to_vec())).collect()
    }

    fn pairs(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), VectorsError> {
        self.scan_prefix(prefix).try_for_each(|entry| {
            let (key, value) = entry.map_err(backend("read the vector store"))?;
            each(&key, &value)
        })
    }
}

// The lock guards no data of its own: a panic elsewhere leaves nothing half done.
impl Database for Sled {
    fn read<T>(&self, work: impl FnOnce(&dyn Entries) -> Result<T, VectorsError>) -> Result<T, VectorsError> {
        let _guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        work(&self.db)
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&dyn Entries, &mut Batch) -> Result<T, VectorsError>,
    ) -> Result<T, VectorsError> {
        let _guard = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::default();
        let done = work(&self.db, &mut batch)?;
        self.commit(batch)?;
        Ok(done)
    }

    fn fill(&self, feed: &mut Feed<'_>) -> Result<(), VectorsError> {
        let _guard = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        if !self.db.is_empty() {
            return Err(VectorsError::NotEmpty);
        }
        self.mark_importing(|batch| batch.insert(IMPORTING.to_vec(), Vec::new()))?;
        let filled =
            feed(&mut |key, value| self.db.insert(key, value).map(drop).map_err(backend("write the vector store")));
        match filled {
            Ok(()) => {
                self.flush()?;
                self.mark_importing(|batch| batch.remove(IMPORTING.to_vec()))
            }
            Err(error) => {
                self.clear()?;
                Err(error)
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        Entries::get(&self.db, key)
    }
}

fn backend(action: &'static str) -> impl Fn(sled::Error) -> VectorsError + Copy {
    move |source| VectorsError::Backend { action, source: Box::new(source) }
}
