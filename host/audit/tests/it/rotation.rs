//! The log's key is handed over; nobody but both keys can do it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use casemate_audit::{
    AuditError, Event, Export, Log, VerifyError, announce_reserve, rotate, verify_dir, verify_export, verify_receipt,
};

use crate::support::{FAILS, ORIGIN, TestSigner, fill, image, open, options, real, record, vkey, vkey_of};

fn rotated(dir: &Path, from: u8, to: u8) -> String {
    rotate(dir, options(), TestSigner::new(from), &TestSigner::new(to), Vec::new(), |event, _| real(5, event)).unwrap()
}

fn opened(dir: &Path, seed: u8) -> Result<Log, AuditError> {
    Log::open(dir, options(), Box::new(TestSigner::new(seed)))
}

/// 300 records under key 1, the hand-over, 300 under key 2, a hand-over, 100 under key 3.
fn twice() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 300);
    drop(log);
    assert_eq!(rotated(dir.path(), 1, 2), vkey_of(ORIGIN, 2));
    let log = opened(dir.path(), 2).unwrap();
    fill(&log, 301, 600);
    drop(log);
    rotated(dir.path(), 2, 3);
    let log = opened(dir.path(), 3).unwrap();
    fill(&log, 601, 700);
    drop(log);
    dir
}

#[test]
fn who_trusts_an_old_key_verifies_what_the_new_one_signed() {
    let dir = twice();
    for seed in [1, 2, 3] {
        assert_eq!(verify_dir(dir.path(), &vkey_of(ORIGIN, seed), |_| {}).unwrap().size, 700);
        let vkey = vkey_of(ORIGIN, seed);
        let export = Export { dir: dir.path(), vkey: &vkey, witness: None, from: 0, to: 700 };
        assert_eq!(verify_export(export.write(Vec::new()).unwrap().as_slice(), &vkey).unwrap().size, 700);
    }
    let log = opened(dir.path(), 3).unwrap();
    let receipt = log.receipt(10).unwrap().to_text();
    assert_eq!(verify_receipt(&receipt, &vkey_of(ORIGIN, 3)).unwrap().record, record(10));
    let Event::LogKey { from, to, .. } = casemate_audit::Record::from_bytes(&log.read(300).unwrap()).unwrap().event
    else {
        panic!("the hand-over is record 300");
    };
    assert_eq!((from, to), (vkey(), vkey_of(ORIGIN, 2)));
}

#[test]
fn a_retired_key_opens_and_signs_nothing_any_more() {
    let dir = twice();
    for seed in [1, 2] {
        let error = opened(dir.path(), seed).err().unwrap();
        assert!(matches!(error, AuditError::Damaged(VerifyError::RetiredKey { .. })), "{error}");
    }
    assert!(matches!(opened(dir.path(), 9).err(), Some(AuditError::Damaged(VerifyError::UnknownSigner))));
    // Somebody has stolen key 1 and signs a longer history with it, as if there had been no hand-over.
    let forged = tempfile::tempdir().unwrap();
    let log = open(forged.path());
    (0..700).for_each(|n| _ = log.append(format!("forged {n}").into_bytes()).unwrap());
    drop(log);
    fs::copy(dir.path().join("pinned"), forged.path().join("pinned")).unwrap();
    let error = verify_dir(forged.path(), &vkey(), |_| {}).unwrap_err();
    assert!(matches!(error, VerifyError::RetiredKey { size: 700, handed_over: 301 }), "{error}");
}

#[test]
fn a_hand_over_that_is_forged_moved_or_dropped_is_named() {
    use base64::prelude::*;
    let dir = twice();
    let pinned = fs::read_to_string(dir.path().join("pinned")).unwrap();
    let with = |text: &str| {
        let hostile = image(dir.path());
        fs::write(hostile.path().join("pinned"), text).unwrap();
        verify_dir(hostile.path(), &vkey(), |_| {}).unwrap_err()
    };
    assert!(matches!(with(""), VerifyError::UnknownSigner));
    let first = pinned.lines().next().unwrap();
    assert!(matches!(with(&format!("{first}\n")), VerifyError::UnknownSigner));
    let moved = format!("299 {}\n", first.split_once(' ').unwrap().1);
    assert!(matches!(with(&moved), VerifyError::BadHandOver { index: 299 }));
    // A hand-over to a key of the attacker's, with a made-up signature of the old one.
    let record = BASE64_STANDARD.decode(first.split_once(' ').unwrap().1).unwrap();
    let forged = String::from_utf8(record).unwrap().replace(&vkey_of(ORIGIN, 2), &vkey_of(ORIGIN, 9));
    assert!(matches!(
        with(&format!("300 {}\n", BASE64_STANDARD.encode(forged))),
        VerifyError::BadHandOver { index: 300 }
    ));
    // One that both keys signed, and that is not in the tree.
    let other = tempfile::tempdir().unwrap();
    let log = open(other.path());
    fill(&log, 0, 300);
    drop(log);
    rotate(other.path(), options(), TestSigner::new(1), &TestSigner::new(2), Vec::new(), |event, _| real(6, event))
        .unwrap();
    let elsewhere = fs::read_to_string(other.path().join("pinned")).unwrap();
    let mixed = pinned.replacen(first, elsewhere.trim_end(), 1);
    assert!(matches!(with(&mixed), VerifyError::BadPinned { index: 300 }));
    assert!(matches!(with("nonsense"), VerifyError::MalformedPinned));
}

#[test]
fn a_crash_between_hand_over_and_the_new_keys_first_checkpoint_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 300);
    drop(log);
    let before = image(dir.path());
    rotated(dir.path(), 1, 2);
    // The checkpoint is still the old key's, and covers the hand-over: both can be told.
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 301);
    assert_eq!(opened(dir.path(), 2).unwrap().append(b"next".to_vec()).unwrap(), 301);
    // Logged and not pinned: the old key goes on.
    let log = opened(before.path(), 1).unwrap();
    assert_eq!(log.size(), 300);
}

/// The log of key 1, in reserve key 2; the first signs as `mode` says.
fn with_reserve(dir: &Path, mode: &Arc<AtomicU8>) -> Log {
    let first = TestSigner::with_mode(mode);
    let vkey = announce_reserve(dir, options(), first.clone(), &TestSigner::new(2), |event, _| real(5, event)).unwrap();
    assert_eq!(vkey, vkey_of(ORIGIN, 2));
    Log::open_with_reserve(dir, options(), Box::new(first), Box::new(TestSigner::new(2))).unwrap()
}

#[test]
fn a_key_in_reserve_signs_while_the_first_cannot_and_no_longer() {
    let (dir, mode) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU8::new(0)));
    let signer = |checkpoint: &str| [1, 2].map(|seed| checkpoint.contains(&key_hash(seed)));
    let log = with_reserve(dir.path(), &mode);
    log.append(record(1)).unwrap();
    assert_eq!(signer(&log.checkpoint().unwrap()), [true, false]);
    mode.store(FAILS, Ordering::SeqCst);
    log.append(record(2)).unwrap();
    assert_eq!(signer(&log.checkpoint().unwrap()), [false, true]);
    // Who trusts the first key alone verifies it all the same, while the log is open and after.
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 3);
    drop(log);
    // A start while the first key cannot sign.
    let log = with_reserve(dir.path(), &mode);
    log.append(record(3)).unwrap();
    assert_eq!(signer(&log.checkpoint().unwrap()), [false, true]);
    mode.store(0, Ordering::SeqCst);
    log.append(record(4)).unwrap();
    assert_eq!(signer(&log.checkpoint().unwrap()), [true, false]);
    drop(log);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 5);
    // Both may still hand over; the next key has to announce the one in reserve again.
    rotated(dir.path(), 1, 3);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 6);
}

#[test]
fn a_key_that_was_not_announced_signs_nothing() {
    let (dir, mode) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU8::new(0)));
    drop(with_reserve(dir.path(), &mode));
    let first = TestSigner::with_mode(&mode);
    let log = Log::open_with_reserve(dir.path(), options(), Box::new(first), Box::new(TestSigner::new(9))).unwrap();
    mode.store(FAILS, Ordering::SeqCst);
    log.append(record(1)).unwrap();
    assert!(matches!(log.checkpoint(), Err(AuditError::Signer(_))));
    drop(log);
    // Whoever holds the key in reserve alone cannot pass its signature off under the first one without the announcement.
    mode.store(0, Ordering::SeqCst);
    let log = with_reserve(dir.path(), &mode);
    mode.store(FAILS, Ordering::SeqCst);
    log.append(record(2)).unwrap();
    log.checkpoint().unwrap();
    drop(log);
    let pinned = fs::read_to_string(dir.path().join("pinned")).unwrap();
    fs::write(dir.path().join("pinned"), "").unwrap();
    assert!(matches!(verify_dir(dir.path(), &vkey(), |_| {}), Err(VerifyError::UnknownSigner)));
    // Nor can an announcement be made from a hand-over, or for another record.
    let moved = pinned.replacen("0 ", "1 ", 1);
    fs::write(dir.path().join("pinned"), moved).unwrap();
    assert!(matches!(verify_dir(dir.path(), &vkey(), |_| {}), Err(VerifyError::BadHandOver { index: 1 })));
}

/// How a checkpoint's signature line by this key begins.
fn key_hash(seed: u8) -> String {
    use base64::prelude::*;
    let vkey = vkey_of(ORIGIN, seed);
    let id = hex::decode(vkey.split('+').nth(1).unwrap()).unwrap();
    // Four bytes of the key's hash come first in the base64: five full characters of them.
    format!("{ORIGIN} {}", &BASE64_STANDARD.encode(id)[..5])
}

#[test]
fn a_rotation_under_a_clock_that_was_set_back_leaves_a_log_that_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    // An hour ahead of the clock of the rotation.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let site = |detail: &str| Event::Site { action: "started".into(), detail: detail.into() };
    log.append(real(now + 3_600_000, site("before"))).unwrap();
    drop(log);
    let announced = vec![site("rotated by")];
    let record = |event, time_ms| real(time_ms, event);
    rotate(dir.path(), options(), TestSigner::new(1), &TestSigner::new(2), announced, record).unwrap();
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 3);
    let log = opened(dir.path(), 2).unwrap();
    let said = casemate_audit::Record::from_bytes(&log.read(1).unwrap()).unwrap();
    assert_eq!((said.event, said.time_ms), (site("rotated by"), now + 3_600_000));
}
