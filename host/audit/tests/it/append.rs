use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use casemate_audit::{AuditError, Log, LogOptions, entries, root_at, verify_dir};

use crate::support::{HOUR, ORIGIN, TestSigner, fill, image, open, options, record, sound, vkey};

#[test]
fn records_are_durable_before_they_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 0..10 {
        assert_eq!(log.append(record(index)).unwrap(), index);
        // What a crash at this very moment leaves behind.
        let crashed = image(dir.path());
        assert_eq!(verify_dir(crashed.path(), &vkey(), |_| {}).unwrap().unsigned_tail, index + 1);
    }
}

#[test]
fn many_threads_get_each_index_once_and_every_record_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..16_u64 {
            let (log, seen) = (&log, &seen);
            scope.spawn(move || {
                for n in 0..50 {
                    let record = format!("{thread}/{n}").into_bytes();
                    let index = log.append(record.clone()).unwrap();
                    seen.lock().unwrap().push((index, record));
                    if n % 10 == 0 {
                        log.checkpoint().unwrap();
                    }
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert_eq!(seen.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..800).collect::<Vec<_>>());
    for (index, record) in &seen {
        assert_eq!(&log.read(*index).unwrap(), record);
    }
    drop(log);
    let stored: Vec<_> = entries(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored, seen.into_iter().map(|(_, record)| record).collect::<Vec<_>>());
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 800);
}

#[test]
fn verification_and_listing_work_on_a_log_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    fill(&log, 0, 300);
    let writer = std::thread::spawn({
        let log = log.clone();
        move || {
            for round in 0..20 {
                fill(&log, 300 + round * 40, 340 + round * 40);
                log.checkpoint().unwrap();
            }
        }
    });
    let mut last = 0;
    while last < 1100 {
        match verify_dir(dir.path(), &vkey(), |_| {}) {
            Ok(verified) => {
                assert!(verified.size >= last);
                last = verified.size;
            }
            Err(casemate_audit::VerifyError::TooBusy) => {}
            Err(error) => panic!("{error}"),
        }
        match entries(dir.path()) {
            Ok(mut all) => assert!(all.all(|entry| entry.is_ok())),
            Err(AuditError::Damaged(casemate_audit::VerifyError::TooBusy)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_checkpoint_covers_what_was_submitted_before_it_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 0..7 {
        log.submit(record(index), |result| assert!(result.is_ok()));
    }
    let text = log.checkpoint().unwrap();
    assert!(text.starts_with(&format!("{ORIGIN}\n7\n")), "{text}");
    assert_eq!(log.checkpoint().unwrap(), text);
    assert_eq!(std::fs::read_to_string(dir.path().join("checkpoint")).unwrap(), text);
}

#[test]
fn checkpoints_come_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { checkpoint_every: std::time::Duration::from_millis(1), ..options() };
    let log = Log::open(dir.path(), options, Box::new(TestSigner::new(1))).unwrap();
    log.append(record(0)).unwrap();
    while verify_dir(dir.path(), &vkey(), |_| {}).map_or(true, |verified| verified.size == 0) {
        std::thread::yield_now();
    }
}

#[test]
fn consecutive_checkpoints_are_consistent_by_rfc_6962() {
    // An independent judge over the same leaves: the proofs of tlog_tiles.
    struct Stored(Vec<tlog_tiles::Hash>);
    impl tlog_tiles::HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
            Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut stored = Stored(Vec::new());
    let mut heads = Vec::new();
    for (from, to) in [(0, 1), (1, 2), (2, 255), (255, 256), (256, 257), (257, 700)] {
        fill(&log, from, to);
        for index in from..to {
            let hashes = tlog_tiles::stored_hashes(index, &record(index), &stored).unwrap();
            stored.0.extend(hashes);
        }
        let text = log.checkpoint().unwrap();
        let root = tlog_tiles::Hash::parse_hash(text.lines().nth(2).unwrap()).unwrap();
        assert_eq!(root, tlog_tiles::tree_hash(to, &stored).unwrap());
        heads.push((to, root));
    }
    // Every head of the past is found again, and none that never was.
    for (size, root) in &heads {
        assert_eq!(root_at(dir.path(), *size).unwrap(), Some(root.0));
    }
    assert_eq!(root_at(dir.path(), 701).unwrap(), None);
    for (old, new) in heads.iter().zip(&heads[1..]) {
        let proof = tlog_tiles::prove_tree(new.0, old.0, &stored).unwrap();
        tlog_tiles::check_tree(&proof, new.0, new.1, old.0, old.1).unwrap();
    }
}

#[test]
fn the_layout_is_the_one_of_the_standard() {
    let dir = sound();
    let names: Vec<_> = crate::support::files(dir.path())
        .iter()
        .map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/10",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/10",
            "wal"
        ]
    );
    let bundle = std::fs::read(dir.path().join("tile/entries/000")).unwrap();
    assert_eq!(&bundle[..10], b"\x00\x08record 0");
}

#[test]
fn a_record_of_65535_bytes_fits_and_one_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert!(matches!(log.append(vec![0x41; 65_536]), Err(AuditError::RecordTooLarge { length: 65_536 })));
    let (answer, answered) = channel();
    log.submit(vec![0; 70_000], move |result| answer.send(result).unwrap());
    assert!(matches!(answered.recv().unwrap(), Err(AuditError::RecordTooLarge { length: 70_000 })));
    assert_eq!(log.append(vec![0x41; 65_535]).unwrap(), 0);
    assert_eq!(log.append(Vec::new()).unwrap(), 1);
    drop(log);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 2);
    let log = open(dir.path());
    assert_eq!(log.read(0).unwrap().len(), 65_535);
    assert!(matches!(log.read(2), Err(AuditError::NoSuchRecord { index: 2, size: 2 })));
}

#[test]
fn a_second_opener_is_refused_until_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Log::open(dir.path(), options(), Box::new(TestSigner::new(1))).err().unwrap();
    assert!(matches!(error, AuditError::InUse));
    assert!(error.to_string().contains("the site is in use by another process"));
    drop(first);
    open(dir.path());
}

#[test]
fn a_callback_may_panic_block_wrongly_or_drop_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    log.submit(record(0), |_| panic!("a caller's bug"));
    let (answer, answered) = channel();
    let inner = log.clone();
    log.submit(record(1), move |result| {
        assert!(matches!(inner.append(record(9)), Err(AuditError::OwnThread)));
        assert!(matches!(inner.checkpoint(), Err(AuditError::OwnThread)));
        answer.send(result).unwrap();
    });
    assert_eq!(answered.recv().unwrap().unwrap(), 1);
    let inner = log.clone();
    let (go, wait) = channel::<()>();
    log.submit(record(2), move |_| {
        // Ends with the last handle in the log's own hands.
        let _ = wait.recv();
        drop(inner);
    });
    drop(log);
    go.send(()).unwrap();
    let reopened = loop {
        match Log::open(dir.path(), options(), Box::new(TestSigner::new(1))) {
            Ok(log) => break log,
            Err(AuditError::InUse) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(reopened.size(), 3);
}

#[test]
fn an_origin_that_cannot_name_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for origin in ["", "a b", "a+b", "a\nb", "a\u{7f}"] {
        let options = LogOptions { max_batch: 1, checkpoint_every: HOUR, ..LogOptions::new(origin) };
        let error = Log::open(dir.path(), options, Box::new(TestSigner::new(1))).err().unwrap();
        assert!(matches!(error, AuditError::Origin { .. }), "{origin:?}");
    }
}

#[test]
fn the_verifier_key_is_the_one_of_the_standard() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open(dir.path()).verifier_key(), vkey());
    let text = std::fs::read(dir.path().join("checkpoint")).unwrap();
    let verifier = signed_note::StandardVerifier::new(&vkey()).unwrap();
    let note = signed_note::Note::from_bytes(&text).unwrap();
    let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    assert_eq!(note.verify(&known).unwrap().0.len(), 1);
}
