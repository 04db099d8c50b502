use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_tier::{Dial, Direct, Endpoint, Limits, Remote, TierError};
use casemate_vectors::conformance::{BackEnd, check};
use casemate_vectors::{Change, VectorStore, VectorsError};
use tempfile::TempDir;

use crate::{remote, serve, sled};

/// Stores behind tiers of their own.
#[derive(Default)]
struct Tiers(RefCell<Vec<(TempDir, Endpoint)>>);

impl BackEnd for Tiers {
    fn empty(&self) -> Arc<dyn VectorStore> {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = serve(sled(&dir.path().join("store")), &dir.path().join("socket"), Limits::default());
        let store = Arc::new(remote(&endpoint));
        self.0.borrow_mut().push((dir, endpoint));
        store
    }

    fn reopen(&self, store: Arc<dyn VectorStore>) -> Arc<dyn VectorStore> {
        drop(store);
        let tiers = self.0.borrow();
        Arc::new(remote(&tiers.last().unwrap().1))
    }
}

#[test]
fn a_tier_does_what_every_back_end_must() {
    let mut rules = 0;
    check(&Tiers::default(), |_| rules += 1);
    assert!(rules > 5);
}

/// Hands every request on, and cuts the connection instead of the answer once it is told to.
struct CutsAnswers {
    to: Endpoint,
    cut: Arc<AtomicBool>,
}

impl Dial for CutsAnswers {
    fn dial(&self, _: &Endpoint) -> Result<OwnedFd, TierError> {
        let mut tier = UnixStream::from(Direct.dial(&self.to)?);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let cut = Arc::clone(&self.cut);
        let (mut requests, mut back) = (theirs.try_clone().unwrap(), tier.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut requests, &mut back));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = tier.read(&mut bytes) {
                if cut.swap(false, Ordering::SeqCst) {
                    break;
                }
                theirs.write_all(&bytes[..read]).unwrap();
            }
            let _ = theirs.shutdown(std::net::Shutdown::Both);
        });
        Ok(ours.into())
    }
}

#[test]
fn a_change_whose_answer_was_lost_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled(&dir.path().join("store"));
    let endpoint = serve(store.clone(), &dir.path().join("socket"), Limits::default());
    let cut = Arc::new(AtomicBool::new(false));
    let dial = CutsAnswers { to: endpoint.clone(), cut: Arc::clone(&cut) };
    let remote = Remote::new(endpoint, None, Arc::new(dial)).unwrap();
    let alpha = "alpha".parse().unwrap();
    for _ in 0..3 {
        let version = remote.reserve_version(&alpha).unwrap();
        cut.store(true, Ordering::SeqCst);
        remote.apply(&alpha, Change { version, ..Change::default() }).unwrap();
        assert!(!cut.load(Ordering::SeqCst), "no answer was cut off");
        assert_eq!(store.version(&alpha).unwrap(), version);
    }
    // An older change is still told from a repeated one.
    let stale = remote.reserve_version(&alpha).unwrap();
    let version = remote.reserve_version(&alpha).unwrap();
    remote.apply(&alpha, Change { version, ..Change::default() }).unwrap();
    assert!(matches!(
        remote.apply(&alpha, Change { version: stale, ..Change::default() }),
        Err(VectorsError::StaleVersion { .. })
    ));
}

#[test]
fn a_tier_that_is_gone_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(dir.path().join("nobody"));
    let error = remote(&endpoint).collections().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&endpoint.to_string()), "{cause}");
}
