//! Qdrant's engine and Chroma's server, by their HTTP interfaces.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use casemate_backends::Backend;
use casemate_tier::Direct;
use casemate_vectors::conformance::{BackEnd, check};
use casemate_vectors::{VectorStore, VectorsError};

use crate::servers::{Kind, Loopback};
use crate::{name, rewrite, whole};

fn open(config: &std::path::Path) -> Arc<dyn VectorStore> {
    Backend::read(config).unwrap().open(Arc::new(Direct)).unwrap()
}

/// Collections of their own in one server.
struct Collections {
    server: RefCell<Loopback>,
    made: Cell<u32>,
    open: RefCell<Vec<(PathBuf, usize)>>,
}

impl BackEnd for Collections {
    fn empty(&self) -> Arc<dyn VectorStore> {
        self.made.set(self.made.get() + 1);
        let config = self.server.borrow().config(&format!("empty{}", self.made.get()), false);
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

fn conforms(kind: Kind) {
    let Some(server) = Loopback::start(kind) else { return };
    let collections = Collections { server: RefCell::new(server), made: Cell::new(0), open: RefCell::default() };
    let mut rules = 0;
    check(&collections, |rule| {
        rules += 1;
        println!("{rule}");
    });
    assert_eq!(rules, 9);
}

#[test]
fn qdrants_engine_does_what_every_back_end_must_also_after_kill_9() {
    conforms(Kind::Qdrant);
}

#[test]
fn chroma_does_what_every_back_end_must_also_after_kill_9() {
    conforms(Kind::Chroma);
}

/// Each round kills the server at another fraction of a change, measured in that round.
fn survives(kind: Kind) {
    const GROUPS: u32 = 6;
    const ROUNDS: u32 = 6;
    let Some(mut server) = Loopback::start(kind) else { return };
    let config = server.config("crash", false);
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
        let mut last = acknowledged.recv().unwrap();
        let (cycle, start) = (start.elapsed(), Instant::now());
        while start.elapsed() < cycle * round / ROUNDS {
            std::thread::yield_now();
        }
        server.kill();
        assert!(matches!(writing.join().unwrap(), Err(VectorsError::Backend { .. })), "no error of the back end");
        last = acknowledged.try_iter().last().unwrap_or(last);
        server.start_again();
        let found = whole(&*store, &alpha, GROUPS);
        assert!(found >= last, "an acknowledged change is gone: {last} was, {found} is");
        let next = store.reserve_version(&alpha).unwrap();
        assert!(next > found);
        cut_short += u32::from(next > found + 1);
    }
    println!("{cut_short} of {ROUNDS} deaths came before a change held");
    // Another process that only reads sees the same, and changes nothing.
    let reader = open(&server.config("crash", true));
    let version = whole(&*reader, &alpha, GROUPS);
    let refused = reader.reserve_version(&alpha).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("read-only"), "{why}");
    assert_eq!(whole(&*store, &alpha, GROUPS), version);
}

#[test]
fn kill_9_of_qdrants_engine_in_mid_change_loses_nothing_acknowledged() {
    survives(Kind::Qdrant);
}

#[test]
fn kill_9_of_chroma_in_mid_change_loses_nothing_acknowledged() {
    survives(Kind::Chroma);
}

#[test]
fn qdrant_without_its_key_and_something_else_on_the_port_are_named() {
    let Some(server) = Loopback::start(Kind::Qdrant) else { return };
    let config = server.config("refused", false);
    let refusal = || Backend::read(&config).unwrap().open(Arc::new(Direct)).map(drop).unwrap_err().to_string();
    let key = config.with_file_name("store.password");
    std::fs::write(&key, "guessed").unwrap();
    let words = refusal();
    assert!(words.contains("401") && !words.contains("guessed"), "{words}");
    let text = std::fs::read_to_string(&config).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().port();
    std::fs::write(&config, text.replace(&format!("loopback:{}", server.port), &format!("loopback:{other}"))).unwrap();
    let answers = std::thread::spawn(move || {
        use std::io::Write;
        listener.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").unwrap();
    });
    let words = refusal();
    assert!(words.contains("is it the server that was configured?"), "{words}");
    answers.join().unwrap();
}
