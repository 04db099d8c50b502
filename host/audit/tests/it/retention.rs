//! Records that were moved into an archive: the log verifies without them, and nobody else can take any away.

use std::fs;

use casemate_audit::{
    AuditError, Event, Log, Record, SEGMENT, VerifyError, entries_from, root_at, verify_dir, verify_export,
    verify_receipt,
};

use crate::support::{fill, image, open, real, record, vkey};

/// A log of 66,000 records, its first segment sealed into `archive.tar` beside it.
fn sealed() -> (tempfile::TempDir, Log) {
    let site = tempfile::tempdir().unwrap();
    let log = open(&site.path().join("log"));
    fill(&log, 0, 66_000);
    let segment = log.seal(66_000, &site.path().join("archive.tar"), |event| real(5, event)).unwrap();
    assert_eq!((segment.from, segment.to), (0, SEGMENT));
    (site, log)
}

#[test]
fn a_sealed_log_verifies_and_its_archive_holds_the_records() {
    let (site, log) = sealed();
    let dir = site.path().join("log");
    assert!(!dir.join("tile/entries/000").exists() && dir.join("tile/entries/256").exists());
    let verified = verify_dir(&dir, &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.sealed), (66_001, SEGMENT));
    let archive = fs::read(site.path().join("archive.tar")).unwrap();
    let exported = verify_export(archive.as_slice(), &vkey()).unwrap();
    assert_eq!((exported.from, exported.to), (0, SEGMENT));
    let Event::Segment { archive: digest, .. } = Record::from_bytes(&log.read(66_000).unwrap()).unwrap().event else {
        panic!("the sealing is record 66,000");
    };
    assert_eq!(digest, casemate_types::Digest::of(&archive));
    assert!(matches!(log.read(5), Err(AuditError::Sealed { index: 5, archive }) if archive == digest));
    let receipt = log.receipt(65_600).unwrap().to_text();
    assert_eq!(verify_receipt(&receipt, &vkey()).unwrap().record, record(65_600));
    assert_eq!(entries_from(&dir, 0).unwrap().next().unwrap().0, SEGMENT);
    fill(&log, 66_001, 66_100);
    drop(log);
    let log = open(&dir);
    assert!(matches!(log.read(5), Err(AuditError::Sealed { .. })));
    assert!(matches!(
        log.seal(u64::MAX, &site.path().join("more.tar"), |event| real(6, event)),
        Err(AuditError::NothingToSeal { sealed: SEGMENT, .. })
    ));
    drop(log);
    assert_eq!(verify_dir(&dir, &vkey(), |_| {}).unwrap().size, 66_100);
}

#[test]
fn the_roots_of_the_past_stay_known_when_records_are_sealed() {
    let site = tempfile::tempdir().unwrap();
    let dir = site.path().join("log");
    let log = open(&dir);
    fill(&log, 0, 66_000);
    log.checkpoint().unwrap();
    let sizes = [0, 1, 255, 256, 257, 40_000, SEGMENT - 1, SEGMENT, SEGMENT + 1, 65_999, 66_000];
    let before = sizes.map(|size| root_at(&dir, size).unwrap().unwrap());
    log.seal(66_000, &site.path().join("archive.tar"), |event| real(5, event)).unwrap();
    assert_eq!(sizes.map(|size| root_at(&dir, size).unwrap().unwrap()), before);
    drop(log);
    assert_eq!(root_at(&dir, 66_001).unwrap(), Some(verify_dir(&dir, &vkey(), |_| {}).unwrap().root));
    assert_eq!(root_at(&dir, 66_002).unwrap(), None);
    // A stored hash that was changed makes no other past.
    crate::support::flip(&dir.join("tile/0/007"), 3);
    root_at(&dir, 2000).unwrap_err();
}

#[test]
fn records_taken_away_without_a_sealing_in_the_log_are_missed() {
    let (site, log) = sealed();
    drop(log);
    let dir = site.path().join("log");
    // Not sealed.
    let hostile = image(&dir);
    fs::remove_file(hostile.path().join("tile/entries/256")).unwrap();
    assert!(matches!(verify_dir(hostile.path(), &vkey(), |_| {}), Err(VerifyError::MissingEntries { index: 65_536 })));
    // A sealing that was made up.
    let hostile = image(&dir);
    fs::remove_file(hostile.path().join("tile/entries/256")).unwrap();
    let digest = casemate_types::Digest::of(b"");
    let forged = real(5, Event::Segment { action: "sealed".into(), from: 0, to: 2 * SEGMENT, archive: digest });
    use base64::prelude::*;
    fs::write(hostile.path().join("pinned"), format!("66000 {}\n", BASE64_STANDARD.encode(forged))).unwrap();
    assert!(matches!(verify_dir(hostile.path(), &vkey(), |_| {}), Err(VerifyError::BadPinned { index: 66_000 })));
    // A sealing that was dropped.
    let hostile = image(&dir);
    fs::remove_file(hostile.path().join("pinned")).unwrap();
    assert!(matches!(verify_dir(hostile.path(), &vkey(), |_| {}), Err(VerifyError::MissingEntries { index: 0 })));
    // A hash under sealed records is still guarded.
    let hostile = image(&dir);
    crate::support::flip(&hostile.path().join("tile/0/007"), 3);
    assert!(matches!(
        verify_dir(hostile.path(), &vkey(), |_| {}),
        Err(VerifyError::BadTile { level: 1, tile: 0, first_index: 1792 })
    ));
}

#[test]
fn nothing_is_deleted_when_the_archive_cannot_be_written() {
    let site = tempfile::tempdir().unwrap();
    let log = open(&site.path().join("log"));
    fill(&log, 0, SEGMENT);
    fs::write(site.path().join("archive.tar"), b"something else").unwrap();
    let error = log.seal(SEGMENT, &site.path().join("archive.tar"), |event| real(5, event)).unwrap_err();
    assert!(matches!(error, AuditError::Io { .. }), "{error}");
    assert!(log.seal(SEGMENT, &site.path().join("no/such/folder"), |event| real(5, event)).is_err());
    drop(log);
    let verified = verify_dir(&site.path().join("log"), &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.sealed), (SEGMENT, 0));
    assert_eq!(fs::read(site.path().join("archive.tar")).unwrap(), b"something else");
}
