use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_backends::Backend;
use casemate_tier::Direct;
use casemate_vectors::conformance::{BackEnd, check};
use casemate_vectors::{VectorStore, VectorsError};

use crate::servers::{self, Postgres};
use crate::{name, rewrite, whole};

fn open(config: &std::path::Path) -> Arc<dyn VectorStore> {
    Backend::read(config).unwrap().open(Arc::new(Direct)).unwrap()
}

/// Databases of their own in one server.
struct Databases {
    server: RefCell<Postgres>,
    made: Cell<u32>,
    open: RefCell<Vec<(PathBuf, usize)>>,
}

impl BackEnd for Databases {
    fn empty(&self) -> Arc<dyn VectorStore> {
        self.made.set(self.made.get() + 1);
        let database = format!("empty{}", self.made.get());
        let server = self.server.borrow();
        server.create(&database);
        let config = server.config(&database);
        let store = open(&config);
        self.open.borrow_mut().push((config, Arc::as_ptr(&store) as *const () as usize));
        store
    }

    fn reopen(&self, store: Arc<dyn VectorStore>) -> Arc<dyn VectorStore> {
        let place = Arc::as_ptr(&store) as *const () as usize;
        drop(store);
        let mut server = self.server.borrow_mut();
        server.kill();
        server.start_again();
        let stores = self.open.borrow();
        open(&stores.iter().rev().find(|(_, known)| *known == place).unwrap().0)
    }
}

#[test]
fn postgres_does_what_every_back_end_must_also_after_kill_9() {
    let Some(server) = Postgres::start() else { return };
    let databases = Databases { server: RefCell::new(server), made: Cell::new(0), open: RefCell::default() };
    let mut rules = 0;
    check(&databases, |_| rules += 1);
    assert_eq!(rules, 9);
}

/// Each round kills the server at another fraction of a change, measured in that round.
#[test]
fn kill_9_of_the_server_in_mid_change_loses_nothing_acknowledged() {
    const GROUPS: u32 = 6;
    const ROUNDS: u32 = 8;
    let Some(mut server) = Postgres::start() else { return };
    server.create("crash");
    let config = server.config("crash");
    let alpha = name("alpha");
    let store = open(&config);
    let mut cut_short = 0;
    for round in 0..ROUNDS {
        let (send, acknowledged) = std::sync::mpsc::channel();
        let (writer, collection) = (Arc::clone(&store), alpha.clone());
        let writing = std::thread::spawn(move || -> Result<(), VectorsError> {
            loop {
                let version = writer.reserve_version(&collection)?;
                writer.apply(&collection, rewrite(version, GROUPS))?;
                send.send(version).unwrap();
            }
        });
        acknowledged.recv().unwrap();
        let start = Instant::now();
        let mut last = 0;
        for _ in 0..3 {
            last = acknowledged.recv().unwrap();
        }
        let (cycle, start) = (start.elapsed() / 3, Instant::now());
        while start.elapsed() < cycle * round / ROUNDS {
            std::hint::spin_loop();
        }
        server.kill();
        assert!(matches!(writing.join().unwrap(), Err(VectorsError::Backend { .. })), "no error of the back end");
        last = acknowledged.try_iter().last().unwrap_or(last);
        server.start_again();
        // The same store object finds the server again.
        let found = whole(&*store, &alpha, GROUPS);
        assert!(found >= last, "an acknowledged change is gone: {last} was, {found} is");
        let next = store.reserve_version(&alpha).unwrap();
        assert!(next > found);
        cut_short += u32::from(next > found + 1);
    }
    println!("{cut_short} of {ROUNDS} deaths came during a change");
    assert!(cut_short > 0, "no death came during a change: this run shows nothing");
}

/// Several processes write to one database: connections of their own, one order of versions.
#[test]
fn writers_of_several_processes_never_get_the_same_version() {
    let Some(server) = Postgres::start() else { return };
    server.create("shared");
    let config = server.config("shared");
    let alpha = name("alpha");
    let stores: Vec<_> = (0..4).map(|_| open(&config)).collect();
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let draw = |store: &Arc<dyn VectorStore>| {
            let (store, alpha) = (Arc::clone(store), alpha.clone());
            scope.spawn(move || (0..25).map(|_| store.reserve_version(&alpha).unwrap()).collect::<Vec<_>>())
        };
        let threads: Vec<_> = stores.iter().map(draw).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, (1..=100).collect::<Vec<_>>());
    // One process's change is at once what another sees.
    let version = stores[0].reserve_version(&alpha).unwrap();
    stores[0].apply(&alpha, rewrite(version, 2)).unwrap();
    assert_eq!(whole(&*stores[3], &alpha, 2), version);
    // A process that was overtaken is told.
    let (old, new) = (stores[1].reserve_version(&alpha).unwrap(), stores[2].reserve_version(&alpha).unwrap());
    stores[2].apply(&alpha, rewrite(new, 2)).unwrap();
    assert!(matches!(stores[1].apply(&alpha, rewrite(old, 2)), Err(VectorsError::StaleVersion { .. })));
    assert_eq!(whole(&*stores[1], &alpha, 2), new);
}

#[test]
fn tokens_of_any_length_are_kept_apart() {
    let Some(server) = Postgres::start() else { return };
    server.create("long");
    let store = open(&server.config("long"));
    let alpha = name("alpha");
    let version = store.reserve_version(&alpha).unwrap();
    let mut change = rewrite(version, 3);
    let values = ["x".repeat(65_535), format!("{}y", "x".repeat(65_534)), "x".repeat(960)];
    for ((_, passage), value) in change.put_passages.iter_mut().zip(&values) {
        passage.metadata = vec![("f".to_owned(), value.clone())];
    }
    store.apply(&alpha, change).unwrap();
    for (group, value) in (0..).zip(&values) {
        let found = store.matching(&alpha, &[("f".to_owned(), value.clone())]).unwrap();
        assert_eq!(found.iter().map(|position| position.group).collect::<Vec<u32>>(), [group]);
    }
    let mut stream = Vec::new();
    store.export(&mut stream).unwrap();
    // What PostgreSQL exports the default back end takes.
    let folder = tempfile::tempdir().unwrap();
    let sled = casemate_vectors::SledStore::open(folder.path()).unwrap();
    sled.import(&mut stream.as_slice()).unwrap();
    assert_eq!(sled.matching(&alpha, &[("f".to_owned(), values[1].clone())]).unwrap().len(), 1);
    store.delete_collection(&alpha).unwrap();
    assert_eq!(store.collections().unwrap(), []);
    let left = server.sql("long", "SELECT count(*) FROM casemate_store_1");
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "1", "only the version counter stays");
}

/// Perturbed vectors come and go with their groups, in the same transaction.
#[test]
fn hints_are_found_by_an_index_and_go_with_their_group() {
    let Some(server) = Postgres::start() else { return };
    server.create("hints");
    let store = open(&server.config("hints"));
    let (alpha, other) = (name("alpha"), name("other"));
    assert_eq!(store.nearest(&alpha, &[1.0, 0.0], 5).unwrap(), []);
    let put = |collection, group: u32, hints: &[[f32; 2]]| {
        let version = store.reserve_version(collection).unwrap();
        let mut change = rewrite(version, group + 1);
        change.put_groups.retain(|(number, _)| *number == group);
        change.put_groups[0].1.count = hints.len().max(1) as u32;
        change.put_passages.clear();
        if !hints.is_empty() {
            change.hints = vec![(group, hints.iter().map(|hint| hint.to_vec()).collect())];
        }
        store.apply(collection, change).unwrap();
    };
    let nearest = |collection, hint: &[f32], count| -> Vec<(u32, u32)> {
        let found = store.nearest(collection, hint, count).unwrap();
        found.iter().map(|position| (position.group, position.slot)).collect()
    };
    put(&alpha, 0, &[[1.0, 0.0], [0.0, 1.0], [0.9, 0.2]]);
    put(&alpha, 1, &[[1.1, 0.0]]);
    put(&other, 0, &[[1.0, 0.0]]);
    assert_eq!(nearest(&alpha, &[1.0, 0.01], 3), [(0, 0), (1, 0), (0, 2)]);
    assert_eq!(nearest(&alpha, &[0.0, 2.0], 1), [(0, 1)]);
    assert_eq!(nearest(&other, &[0.0, 2.0], 9), [(0, 0)]);
    let plan = "SET enable_seqscan = off; EXPLAIN SELECT grp, slot FROM casemate_hints_1 WHERE collection = 'alpha' ORDER BY hint::vector(2) <-> '[1,0]' LIMIT 3";
    let plan = String::from_utf8(server.sql("hints", plan).stdout).unwrap();
    assert!(plan.contains("Index Scan using casemate_hints_"), "{plan}");
    // A group that is put anew without hints has none.
    put(&alpha, 0, &[]);
    assert_eq!(nearest(&alpha, &[1.0, 0.0], 9), [(1, 0)]);
    // More than the index looks at in one go, most of it gone.
    for round in 0..5 {
        let hints: Vec<[f32; 2]> = (0..200).map(|n| [n as f32, round as f32]).collect();
        put(&alpha, 2, &hints);
    }
    assert_eq!(nearest(&alpha, &[100.2, 4.0], 150).len(), 150);
    assert_eq!(nearest(&alpha, &[100.2, 4.0], 2), [(2, 100), (2, 101)]);
    store.delete_collection(&alpha).unwrap();
    assert_eq!(nearest(&alpha, &[1.0, 0.0], 9), []);
    assert_eq!(nearest(&other, &[1.0, 0.0], 9), [(0, 0)]);

    let folder = tempfile::tempdir().unwrap();
    let sled = casemate_vectors::SledStore::open(folder.path()).unwrap();
    let mut change = rewrite(sled.reserve_version(&alpha).unwrap(), 1);
    change.hints = vec![(0, vec![vec![1.0, 0.0]])];
    assert!(matches!(sled.apply(&alpha, change), Err(VectorsError::NoIndex { .. })));
    assert!(matches!(sled.nearest(&alpha, &[1.0], 1), Err(VectorsError::NoIndex { .. })));
}

#[test]
fn a_wrong_password_and_a_server_that_may_lose_changes_are_refused() {
    let Some(server) = Postgres::start() else { return };
    server.create("refused");
    let config = server.config("refused");
    let refusal = || {
        let error = Backend::read(&config).unwrap().open(Arc::new(Direct)).map(drop).unwrap_err();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    };
    let password = server.folder.path().join("store.password");
    std::fs::write(&password, "guessed").unwrap();
    let words = refusal();
    assert!(words.contains("password authentication failed") && !words.contains("guessed"), "{words}");
    std::fs::write(&password, servers::PASSWORD).unwrap();
    let done = server.sql("refused", "ALTER SYSTEM SET fsync TO off");
    assert!(done.status.success());
    server.sql("refused", "SELECT pg_reload_conf()");
    let mut words = String::new();
    for _ in 0..100 {
        if server.sql("refused", "SHOW fsync").stdout.starts_with(b"off") {
            words = refusal();
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(words.contains("fsync = off"), "{words}");
}
