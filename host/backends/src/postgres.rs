//! PostgreSQL (13 or later): one table of keys and values, every change one transaction.
//!
//! Writers of all processes take turns at an advisory lock that lasts as long as the transaction: a process that dies frees it with
//! its connection.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use casemate_tier::{Dial, Endpoint};
use casemate_types::CollectionName;
use casemate_vectors::{Batch, Database, Each, Entries, Feed, Position, VectorsError};
use futures_util::TryStreamExt;
use tokio::runtime::Runtime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};
use zeroize::Zeroizing;

use crate::hints;
use crate::pool::{Lease, Pool};
use crate::{BackendError, PostgresConfig};

/// How long the server may take for anything but a stream of entries.
const PATIENCE: Duration = Duration::from_secs(120);

/// `id` is the key, or what [`id`] makes of a long one, which then stands in `long_key`. Ciphertext does not compress.
const SCHEMA: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(4846239480172531);
    CREATE TABLE IF NOT EXISTS casemate_store_1 (id bytea PRIMARY KEY, long_key bytea, value bytea NOT NULL);
    ALTER TABLE casemate_store_1 ALTER COLUMN value SET STORAGE EXTERNAL;
    COMMIT";

/// A connection's own settings. What is acknowledged is on disk, whatever the server's default; a process that was stopped in the
/// middle does not keep the others waiting for ever.
const SETTINGS: &str = "SET synchronous_commit TO on; SET lock_timeout TO '30s'; \
    SET idle_in_transaction_session_timeout TO '120s'; SET client_min_messages TO warning";

const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(4846239480172531)";

/// A B-tree of PostgreSQL takes 2,704 bytes at most.
const LONGEST_ID: usize = 960;

/// What one statement puts: bounds its message.
const CHUNK_BYTES: usize = 16 << 20;
const CHUNK_ENTRIES: usize = 4096;

/// A database in a PostgreSQL server.
pub struct Postgres {
    runtime: Runtime,
    config: tokio_postgres::Config,
    endpoint: Endpoint,
    dial: Arc<dyn Dial>,
    pool: Pool<Client>,
}

impl Postgres {
    /// Connects, and makes the table if it is not there.
    ///
    /// # Errors
    /// [`BackendError::Dial`], [`BackendError::Postgres`] in the server's words, [`BackendError::NotDurable`].
    pub fn open(
        config: &PostgresConfig,
        password: Option<Zeroizing<String>>,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, BackendError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-postgres")
            .enable_io()
            .enable_time()
            .build()?;
        let mut login = tokio_postgres::Config::new();
        login.dbname(&config.database).user(&config.user).application_name("casemate");
        if let Some(password) = password {
            login.password(password.as_bytes());
        }
        let pool = Pool::new(usize::from(config.connections.get()));
        let store = Self { runtime, config: login, endpoint: config.endpoint.clone(), dial, pool };
        let client = store.connect()?;
        for setting in ["fsync", "full_page_writes"] {
            let row = store.run(client.query_one(&format!("SHOW {setting}"), &[]))?;
            let value: String = row.try_get(0)?;
            if value != "on" {
                return Err(BackendError::NotDurable { setting, value });
            }
        }
        store.run(client.batch_execute(SCHEMA))?;
        Ok(store)
    }

    fn connect(&self) -> Result<Client, BackendError> {
        let socket: OwnedFd = self.dial.dial(&self.endpoint)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        let stream = {
            let _inside = self.runtime.enter();
            tokio::net::UnixStream::from_std(stream)?
        };
        let (client, connection) = self.run(self.config.connect_raw(stream, NoTls))?;
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "the connection to the database ended");
            }
        });
        self.run(client.batch_execute(SETTINGS))?;
        Ok(client)
    }

    /// Runs something to its end, from a thread that is none of the runtime's.
    pub(crate) fn run<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, BackendError> {
        self.runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, work).await {
                Ok(done) => Ok(done?),
                Err(_) => Err(BackendError::Silent { seconds: PATIENCE.as_secs() }),
            }
        })
    }

    /// Does the first thing on a connection. One that lay idle may have died with the server meanwhile; then another is taken.
    fn lease_with<T>(
        &self,
        mut first: impl FnMut(&Client) -> Result<T, BackendError>,
    ) -> Result<(Lease<'_, Client>, T), BackendError> {
        loop {
            let mut lease = self.pool.lease()?;
            let fresh = lease.connection.is_none();
            let client = match lease.connection.take() {
                Some(client) if client.is_closed() => continue,
                Some(client) => client,
                None => self.connect()?,
            };
            match first(&client) {
                Ok(done) => {
                    lease.connection = Some(client);
                    return Ok((lease, done));
                }
                Err(error) if fresh => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A transaction: `work` in it, then `COMMIT`, or `ROLLBACK` where it failed.
    fn transaction<T>(
        &self,
        begin: &str,
        action: &'static str,
        work: impl FnOnce(&Open<'_>) -> Result<T, VectorsError>,
    ) -> Result<T, VectorsError> {
        let failed = backend(action);
        let (lease, ()) = self.lease_with(|client| self.run(client.batch_execute(begin))).map_err(failed)?;
        let Some(client) = lease.connection.as_ref() else { return Err(failed(BackendError::Busy { connections: 0 })) };
        let done = work(&Open { store: self, client });
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = self.run(client.batch_execute(end));
        match (done, ended) {
            (done, Ok(())) => {
                lease.give_back();
                done
            }
            // The connection is closed, and what was not committed is gone.
            (Ok(_), Err(error)) => Err(failed(error)),
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// A transaction that is open.
struct Open<'a> {
    store: &'a Postgres,
    client: &'a Client,
}

impl Open<'_> {
    fn write(&self, entries: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), BackendError> {
        let mut removed = Vec::new();
        let mut chunk = Chunk::default();
        for (key, value) in entries {
            match value {
                None => removed.push(id(&key)),
                Some(value) => chunk.put(self, &key, value)?,
            }
        }
        chunk.send(self)?;
        for removed in removed.chunks(CHUNK_ENTRIES) {
            let sql = "DELETE FROM casemate_store_1 WHERE id = ANY($1)";
            self.store.run(self.client.query_typed(sql, &[(&removed, Type::BYTEA_ARRAY)]))?;
        }
        Ok(())
    }

    /// Every entry with the prefix, from the server as it comes.
    fn stream(
        &self,
        columns: &str,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &Row) -> Result<(), VectorsError>,
    ) -> Result<(), VectorsError> {
        let start = prefix.get(..LONGEST_ID).unwrap_or(prefix);
        let end = successor(start);
        let sql = format!(
            "SELECT {columns} FROM casemate_store_1 WHERE id >= $1 AND ($2::bytea IS NULL OR id < $2) ORDER BY id"
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&start, Type::BYTEA), (&end, Type::BYTEA)];
        let failed = |error| backend("read the vector store")(BackendError::Postgres { source: error });
        self.store.runtime.block_on(async {
            let mut rows = pin!(self.client.query_typed_raw(&sql, parameters).await.map_err(failed)?);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                let short: &[u8] = row.try_get(0).map_err(failed)?;
                let long: Option<&[u8]> = row.try_get(1).map_err(failed)?;
                let key = long.unwrap_or(short);
                if key.starts_with(prefix) {
                    each(key, &row)?;
                }
            }
            Ok(())
        })
    }
}

impl Entries for Open<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        get(self.store, self.client, key).map_err(backend("read the vector store"))
    }

    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, VectorsError> {
        let mut keys = Vec::new();
        self.stream("id, long_key", prefix, |key, _| {
            keys.push(key.to_vec());
            Ok(())
        })?;
        Ok(keys)
    }

    fn pairs(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), VectorsError> {
        self.stream("id, long_key, value", prefix, |key, row| {
            let value = row.try_get(2).map_err(|error| backend("read the vector store")(error.into()))?;
            each(key, value)
        })
    }
}

fn get(store: &Postgres, client: &Client, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
    let sql = "SELECT value FROM casemate_store_1 WHERE id = $1";
    let rows = store.run(client.query_typed(sql, &[(&id(key), Type::BYTEA)]))?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
}

impl Database for Postgres {
    const HINTS: bool = true;

    fn nearest(&self, collection: &CollectionName, hint: &[f32], count: u32) -> Result<Vec<Position>, VectorsError> {
        self.transaction(BEGIN_READ, "look up candidates", |open| {
            hints::nearest(self, open.client, collection, hint, count).map_err(backend("look up candidates"))
        })
    }

    fn read<T>(&self, work: impl FnOnce(&dyn Entries) -> Result<T, VectorsError>) -> Result<T, VectorsError> {
        self.transaction(BEGIN_READ, "read the vector store", |open| work(open))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&dyn Entries, &mut Batch) -> Result<T, VectorsError>,
    ) -> Result<T, VectorsError> {
        self.transaction(BEGIN_WRITE, "write the vector store", |open| {
            let mut batch = Batch::default();
            let done = work(open, &mut batch)?;
            let failed = backend("write the vector store");
            hints::replace(self, open.client, batch.take_hints()).map_err(failed)?;
            open.write(batch).map_err(failed)?;
            Ok(done)
        })
    }

    fn fill(&self, feed: &mut Feed<'_>) -> Result<(), VectorsError> {
        self.transaction(BEGIN_WRITE, "import a store", |open| {
            let failed = backend("import a store");
            let there = self.run(open.client.query_typed("SELECT 1 FROM casemate_store_1 LIMIT 1", &[]));
            if !there.map_err(failed)?.is_empty() {
                return Err(VectorsError::NotEmpty);
            }
            let mut chunk = Chunk::default();
            feed(&mut |key, value| chunk.put(open, key, value.to_vec()).map_err(failed))?;
            chunk.send(open).map_err(failed)
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        let read = self.lease_with(|client| get(self, client, key));
        let (lease, value) = read.map_err(backend("read the vector store"))?;
        lease.give_back();
        Ok(value)
    }
}

/// Entries that are put with one statement.
#[derive(Default)]
struct Chunk {
    ids: Vec<Vec<u8>>,
    long_keys: Vec<Option<Vec<u8>>>,
    values: Vec<Vec<u8>>,
    bytes: usize,
}

impl Chunk {
    fn put(&mut self, open: &Open<'_>, key: &[u8], value: Vec<u8>) -> Result<(), BackendError> {
        self.bytes += key.len() + value.len();
        self.ids.push(id(key));
        self.long_keys.push((key.len() > LONGEST_ID).then(|| key.to_vec()));
        self.values.push(value);
        if self.bytes < CHUNK_BYTES && self.ids.len() < CHUNK_ENTRIES {
            return Ok(());
        }
        std::mem::take(self).send(open)
    }

    fn send(self, open: &Open<'_>) -> Result<(), BackendError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO casemate_store_1 (id, long_key, value) SELECT * FROM unnest($1, $2, $3)
            ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value";
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&self.ids, Type::BYTEA_ARRAY), (&self.long_keys, Type::BYTEA_ARRAY), (&self.values, Type::BYTEA_ARRAY)];
        open.store.run(open.client.query_typed(sql, &parameters)).map(drop)
    }
}

/// What a key is found by: itself, or the beginning of a long one with its SHA-256.
fn id(key: &[u8]) -> Vec<u8> {
    match key.get(..LONGEST_ID) {
        Some(start) if key.len() > LONGEST_ID => [start, digest(&SHA256, key).as_ref()].concat(),
        _ => key.to_vec(),
    }
}

/// The first byte string behind all those that begin with `prefix`; none where there is no such string.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut next = prefix.get(..=end)?.to_vec();
    *next.last_mut()? += 1;
    Some(next)
}

fn backend(action: &'static str) -> impl Fn(BackendError) -> VectorsError + Copy {
    move |source| VectorsError::Backend { action, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_begins_with_the_prefix_and_nothing_else() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn long_keys_that_differ_at_their_end_stay_apart() {
        let (one, other) = (vec![7; 5_000], [vec![7; 4_999], vec![8]].concat());
        assert_ne!(id(&one), id(&other));
        assert_eq!(id(&one).len(), LONGEST_ID + 32);
        assert_eq!(id(&[7; LONGEST_ID]), [7; LONGEST_ID]);
    }
}
