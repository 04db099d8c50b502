//! What is signed extends what was signed last, whoever restored what.

use std::fs;
use std::path::Path;

use casemate_audit::{AuditError, Log, LogOptions, verify_dir};

use crate::support::{HOUR, TestSigner, copy_into, fill, image, options, record, vkey};

/// A site: `log/`, and beside it the copy of the last signed checkpoint.
fn with_head(site: &Path) -> LogOptions {
    LogOptions { head_file: Some(site.join("log.head")), ..options() }
}

fn open(site: &Path) -> Result<Log, AuditError> {
    Log::open(&site.join("log"), with_head(site), Box::new(TestSigner::new(1)))
}

fn restore(from: &Path, site: &Path) {
    fs::remove_dir_all(site.join("log")).unwrap();
    copy_into(from, &site.join("log"));
}

#[test]
fn a_checkpoint_comes_after_1024_records() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { checkpoint_every: HOUR, ..LogOptions::new(crate::support::ORIGIN) };
    assert_eq!(options.checkpoint_after, 1024);
    let log = Log::open(dir.path(), options, Box::new(TestSigner::new(1))).unwrap();
    fill(&log, 0, 1023);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 0);
    fill(&log, 1023, 1024);
    while verify_dir(dir.path(), &vkey(), |_| {}).map_or(true, |verified| verified.size < 1024) {
        std::thread::yield_now();
    }
}

#[test]
fn a_log_that_was_restored_from_an_older_backup_signs_nothing() {
    let site = tempfile::tempdir().unwrap();
    let log = open(site.path()).unwrap();
    fill(&log, 0, 300);
    drop(log);
    let backup = image(&site.path().join("log"));
    let log = open(site.path()).unwrap();
    fill(&log, 300, 700);
    drop(log);
    restore(backup.path(), site.path());
    let error = open(site.path()).err().unwrap();
    assert!(matches!(error, AuditError::RolledBack { signed: 700, found: 300 }), "{error}");
    // Deleted altogether and begun again.
    fs::remove_dir_all(site.path().join("log")).unwrap();
    assert!(matches!(open(site.path()).err(), Some(AuditError::RolledBack { signed: 700, found: 0 })));
    assert!(!site.path().join("log/checkpoint").exists());
}

#[test]
fn a_log_that_was_restored_and_regrown_is_a_fork() {
    for regrown in [700, 900] {
        let site = tempfile::tempdir().unwrap();
        let log = open(site.path()).unwrap();
        fill(&log, 0, 300);
        drop(log);
        let backup = image(&site.path().join("log"));
        let log = open(site.path()).unwrap();
        fill(&log, 300, 700);
        drop(log);
        // The attacker even has the key, and lets another process sign the other history.
        restore(backup.path(), site.path());
        let log = Log::open(&site.path().join("log"), options(), Box::new(TestSigner::new(1))).unwrap();
        for index in 300..regrown {
            log.append(format!("another {index}").into_bytes()).unwrap();
        }
        drop(log);
        let error = open(site.path()).err().unwrap();
        assert!(matches!(error, AuditError::Forked { size: 700 }), "{error}");
    }
}

#[test]
fn a_fork_in_records_that_were_signed_and_not_yet_published_is_refused() {
    // A crash after the signature, before the checkpoint file: the write-ahead file must lead to what was signed.
    let site = tempfile::tempdir().unwrap();
    let log = open(site.path()).unwrap();
    fill(&log, 0, 300);
    log.checkpoint().unwrap();
    let before = image(&site.path().join("log"));
    fill(&log, 300, 310);
    let unsigned = image(&site.path().join("log"));
    log.checkpoint().unwrap();
    drop(log);
    // Crashed there: it goes on, and signs the same tree.
    restore(unsigned.path(), site.path());
    let log = open(site.path()).unwrap();
    fill(&log, 310, 320);
    drop(log);
    assert_eq!(verify_dir(&site.path().join("log"), &vkey(), |_| {}).unwrap().size, 320);
    // Other records in their place.
    let site = tempfile::tempdir().unwrap();
    copy_into(before.path(), &site.path().join("log"));
    let log = Log::open(&site.path().join("log"), options(), Box::new(TestSigner::new(1))).unwrap();
    (0..30).for_each(|n| drop(log.append(format!("forged {n}").into_bytes())));
    let forged = image(&site.path().join("log"));
    drop(log);
    let genuine = tempfile::tempdir().unwrap();
    copy_into(before.path(), &genuine.path().join("log"));
    fs::copy(before.path().join("checkpoint"), genuine.path().join("log.head")).unwrap();
    let log = open(genuine.path()).unwrap();
    fill(&log, 300, 310);
    drop(log);
    restore(forged.path(), genuine.path());
    assert!(matches!(open(genuine.path()).err(), Some(AuditError::Forked { size: 310 })));
}

#[test]
fn a_missing_or_foreign_copy_of_the_last_checkpoint_is_refused() {
    let site = tempfile::tempdir().unwrap();
    let log = open(site.path()).unwrap();
    fill(&log, 0, 20);
    drop(log);
    let head = site.path().join("log.head");
    let right = fs::read(&head).unwrap();
    assert_eq!(right, fs::read(site.path().join("log/checkpoint")).unwrap());
    fs::remove_file(&head).unwrap();
    assert!(matches!(open(site.path()).err(), Some(AuditError::MissingHead { .. })));
    let other = tempfile::tempdir().unwrap();
    let log = Log::open(other.path(), options(), Box::new(TestSigner::new(2))).unwrap();
    fill(&log, 0, 20);
    drop(log);
    fs::copy(other.path().join("checkpoint"), &head).unwrap();
    assert!(matches!(open(site.path()).err(), Some(AuditError::Damaged(casemate_audit::VerifyError::UnknownSigner))));
    // What the witness holds brings it back.
    fs::write(&head, right).unwrap();
    assert_eq!(open(site.path()).unwrap().append(record(20)).unwrap(), 20);
}
