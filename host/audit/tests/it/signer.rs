use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use casemate_audit::{AuditError, Log, LogOptions, verify_dir};

use crate::support::{FAILS, LIES, TestSigner, WORKS, fill, options, record, vkey};

fn fast() -> LogOptions {
    LogOptions { checkpoint_every: Duration::from_millis(5), ..options() }
}

#[test]
fn without_a_token_no_log_begins() {
    let dir = tempfile::tempdir().unwrap();
    let mode = Arc::new(AtomicU8::new(FAILS));
    let error = Log::open(dir.path(), options(), Box::new(TestSigner::with_mode(&mode))).err().unwrap();
    assert!(matches!(error, AuditError::Signer(_)));
    assert!(!dir.path().join("checkpoint").exists());
}

#[test]
fn a_failing_signer_closes_the_log_and_a_working_one_opens_it_again() {
    for failure in [FAILS, LIES] {
        let dir = tempfile::tempdir().unwrap();
        let mode = Arc::new(AtomicU8::new(WORKS));
        let log = Log::open(dir.path(), fast(), Box::new(TestSigner::with_mode(&mode))).unwrap();
        fill(&log, 0, 300);
        log.checkpoint().unwrap();
        mode.store(failure, Ordering::SeqCst);
        // Accepted until the next checkpoint fails, then refused.
        let mut accepted = 300;
        let error = loop {
            match log.append(record(accepted)) {
                Ok(index) => {
                    assert_eq!(index, accepted);
                    accepted += 1;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AuditError::Signer(_)), "{error}");
        assert!(matches!(log.checkpoint(), Err(AuditError::Signer(_))));
        assert!(matches!(log.receipt(accepted - 1), Err(AuditError::Signer(_))));
        // What was signed before can still be proven.
        log.receipt(0).unwrap();
        assert_eq!(log.size(), accepted);

        mode.store(WORKS, Ordering::SeqCst);
        while let Err(error) = log.append(record(accepted)) {
            assert!(matches!(error, AuditError::Signer(_)), "{error}");
        }
        drop(log);
        let verified = verify_dir(dir.path(), &vkey(), |_| {}).unwrap();
        assert_eq!((verified.size, verified.unsigned_tail), (accepted + 1, 0));
    }
}

#[test]
fn a_signer_that_fails_at_close_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mode = Arc::new(AtomicU8::new(WORKS));
    let log = Log::open(dir.path(), options(), Box::new(TestSigner::with_mode(&mode))).unwrap();
    fill(&log, 0, 5);
    mode.store(FAILS, Ordering::SeqCst);
    drop(log);
    let verified = verify_dir(dir.path(), &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.unsigned_tail), (0, 5));
    mode.store(WORKS, Ordering::SeqCst);
    drop(Log::open(dir.path(), options(), Box::new(TestSigner::with_mode(&mode))).unwrap());
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 5);
}

#[test]
fn a_token_that_hangs_closes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (go, gate) = sync_channel(1);
    go.send(()).unwrap(); // for the checkpoint of the empty tree
    let log = Log::open(dir.path(), fast(), Box::new(TestSigner::with_gate(gate))).unwrap();
    let mut index = 0;
    let error = loop {
        match log.append(record(index)) {
            Ok(_) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AuditError::SignerStalled), "{error}");
    // The token comes back: the gate is open from now on.
    let opener = std::thread::spawn(move || {
        while go.send(()).is_ok() {
            std::thread::yield_now()
        }
    });
    while log.append(record(index)).is_err() {}
    drop(log);
    opener.join().unwrap();
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, index + 1);
}

#[test]
fn a_checkpoint_replaced_under_a_running_log_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options(), Box::new(TestSigner::new(1))).unwrap();
    fill(&log, 0, 3);
    let old = log.checkpoint().unwrap();
    fill(&log, 3, 6);
    log.checkpoint().unwrap();
    std::fs::write(dir.path().join("checkpoint"), old).unwrap();
    fill(&log, 6, 7);
    assert!(matches!(log.checkpoint(), Err(AuditError::CheckpointChanged)));
    assert!(matches!(log.append(record(7)), Err(AuditError::CheckpointChanged)));
}
