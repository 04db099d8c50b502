use std::fs;

use casemate_audit::{AuditError, Log, VerifyError, entries, verify_dir};

use crate::support::{SIGNED, TAIL, TestSigner, copy_into, fill, flip, image, open, options, record, sound, vkey};

fn refused(dir: &std::path::Path) -> AuditError {
    Log::open(dir, options(), Box::new(TestSigner::new(1))).err().expect("the log must not open")
}

#[test]
fn the_tail_survives_a_crash_and_is_signed_later() {
    let dir = sound();
    let verified = verify_dir(dir.path(), &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.unsigned_tail), (SIGNED, TAIL));
    let log = open(dir.path());
    assert_eq!(log.size(), SIGNED + TAIL);
    for index in 0..SIGNED + TAIL {
        assert_eq!(log.read(index).unwrap(), record(index));
    }
    fill(&log, SIGNED + TAIL, 800);
    drop(log);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 800);
    let all: Vec<_> = entries(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(all, (0..800).map(record).collect::<Vec<_>>());
}

#[test]
fn a_torn_end_loses_only_the_record_that_was_never_answered() {
    let whole = fs::read(sound().path().join("wal")).unwrap();
    for cut in [1, 5, 11, 30, 46] {
        let dir = sound();
        fs::write(dir.path().join("wal"), &whole[..whole.len() - cut]).unwrap();
        assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().unsigned_tail, TAIL - 1);
        let log = open(dir.path());
        assert_eq!(log.append(b"after".to_vec()).unwrap(), SIGNED + TAIL - 1, "cut {cut}");
        drop(log);
        let all: Vec<_> = entries(dir.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.last().unwrap(), b"after");
        assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, SIGNED + TAIL);
    }
}

#[test]
fn a_damaged_record_in_the_tail_is_named_and_the_log_stays_closed() {
    // header 56 bytes; each record 36 bytes of header and 10 of text
    for (at, index) in [(60, SIGNED), (56 + 40, SIGNED), (56 + 46 + 40, SIGNED + 1), (56 + 92 + 45, SIGNED + 2)] {
        let dir = sound();
        flip(&dir.path().join("wal"), at);
        let named = |error: &VerifyError| matches!(error, VerifyError::BadTail { index: found } if *found == index);
        assert!(named(&verify_dir(dir.path(), &vkey(), |_| {}).unwrap_err()), "byte {at}");
        match refused(dir.path()) {
            AuditError::Damaged(error) => assert!(named(&error)),
            error => panic!("{error}"),
        }
        assert!(entries(dir.path()).is_err());
    }
}

#[test]
fn a_crash_between_checkpoint_and_reset_counts_no_record_twice() {
    let dir = sound();
    let before = fs::read(dir.path().join("wal")).unwrap();
    drop(open(dir.path()));
    assert_ne!(fs::read(dir.path().join("wal")).unwrap(), before);
    fs::write(dir.path().join("wal"), before).unwrap();
    let verified = verify_dir(dir.path(), &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.unsigned_tail), (SIGNED + TAIL, 0));
    let log = open(dir.path());
    assert_eq!(log.size(), SIGNED + TAIL);
    assert_eq!(log.append(b"next".to_vec()).unwrap(), SIGNED + TAIL);
}

#[test]
fn a_crash_while_tiles_are_written_is_repaired() {
    // Tiles of the next checkpoint are there, the checkpoint is not.
    let old = sound();
    let new = sound();
    let log = open(new.path());
    fill(&log, SIGNED + TAIL, 1000);
    drop(log);
    copy_into(&new.path().join("tile"), &old.path().join("tile"));
    fs::write(old.path().join("tile/0/003.p.tmp"), b"half").unwrap();
    assert_eq!(verify_dir(old.path(), &vkey(), |_| {}).unwrap().size, SIGNED);
    let log = open(old.path());
    assert_eq!(log.size(), SIGNED + TAIL);
    fill(&log, SIGNED + TAIL, 1100);
    drop(log);
    assert_eq!(verify_dir(old.path(), &vkey(), |_| {}).unwrap().size, 1100);
}

#[test]
fn every_step_of_a_run_leaves_an_image_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for step in 0..12 {
        let at = log.size();
        fill(&log, at, at + 60);
        if step % 3 == 1 {
            log.checkpoint().unwrap();
        }
        let crashed = image(dir.path());
        let reopened = open(crashed.path());
        assert_eq!(reopened.size(), at + 60);
        drop(reopened);
        assert_eq!(verify_dir(crashed.path(), &vkey(), |_| {}).unwrap().size, at + 60);
    }
}

#[test]
fn a_restored_older_checkpoint_is_refused_by_name() {
    let dir = sound();
    let old = fs::read(dir.path().join("checkpoint")).unwrap();
    drop(open(dir.path()));
    // Keep the older partial tiles too: the restore is complete but for the write-ahead file.
    copy_into(&sound().path().join("tile"), &dir.path().join("tile"));
    fs::write(dir.path().join("checkpoint"), old).unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(error, AuditError::CheckpointBehind { checkpoint: SIGNED, wal } if wal == SIGNED + TAIL),
        "{error}"
    );
    let error = verify_dir(dir.path(), &vkey(), |_| {}).unwrap_err();
    assert!(matches!(error, VerifyError::Gap { checkpoint: SIGNED, .. }), "{error}");
}

#[test]
fn a_restored_older_tail_is_refused_by_name() {
    let dir = sound();
    let old = fs::read(dir.path().join("wal")).unwrap();
    let log = open(dir.path());
    fill(&log, SIGNED + TAIL, SIGNED + 10);
    drop(log);
    fs::write(dir.path().join("wal"), old).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, AuditError::WalBehind { checkpoint: 532, wal: 525 }), "{error}");
}

#[test]
fn a_missing_checkpoint_or_tail_is_refused_by_name() {
    let dir = sound();
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    assert!(matches!(refused(dir.path()), AuditError::MissingCheckpoint));
    assert!(matches!(verify_dir(dir.path(), &vkey(), |_| {}), Err(VerifyError::MissingCheckpoint)));
    let dir = sound();
    fs::remove_file(dir.path().join("wal")).unwrap();
    assert!(matches!(refused(dir.path()), AuditError::MissingWal));
    assert!(matches!(verify_dir(dir.path(), &vkey(), |_| {}), Err(VerifyError::MissingWal)));
    // A log that only ever held a tail.
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 2);
    let crashed = image(dir.path());
    fs::remove_file(crashed.path().join("checkpoint")).unwrap();
    assert!(matches!(refused(crashed.path()), AuditError::MissingCheckpoint));
}

#[test]
fn a_first_start_that_was_cut_short_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    assert_eq!(open(dir.path()).append(record(0)).unwrap(), 0);
}
