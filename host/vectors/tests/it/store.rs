//! The default back end against the suite for all of them, and what is its own.

use std::cell::RefCell;
use std::sync::Arc;

use casemate_vectors::conformance::{BackEnd, check};
use casemate_vectors::{SledStore, VectorStore, VectorsError};
use tempfile::TempDir;

/// Stores in folders of their own, which stay until the end.
#[derive(Default)]
struct Sled(RefCell<Vec<(TempDir, usize)>>);

impl BackEnd for Sled {
    fn empty(&self) -> Arc<dyn VectorStore> {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SledStore::open(dir.path()).unwrap());
        self.0.borrow_mut().push((dir, Arc::as_ptr(&store) as usize));
        store
    }

    fn reopen(&self, store: Arc<dyn VectorStore>) -> Arc<dyn VectorStore> {
        let place = Arc::as_ptr(&store) as *const () as usize;
        drop(store);
        let dirs = self.0.borrow();
        let (dir, _) = dirs.iter().rev().find(|(_, known)| *known == place).unwrap();
        Arc::new(SledStore::open(dir.path()).unwrap())
    }
}

#[test]
fn sled_does_what_every_back_end_must() {
    let mut rules = 0;
    check(&Sled::default(), |_| rules += 1);
    assert_eq!(rules, 9);
}

#[test]
fn second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _store = SledStore::open(dir.path()).unwrap();
    assert!(matches!(SledStore::open(dir.path()), Err(VectorsError::Backend { .. })));
}
