//! The witness against a log that forks, rolls back or shows two faces, and the log against a witness that is gone.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use casemate_audit::{
    AuditError, Cosigned, Export, Log, LogOptions, Refusal, VerifyError, Witness, WitnessError, WitnessKey,
    WitnessLink, WitnessOptions, announce_reserve, rotate, serve_directory, serve_socket, verify_cosignature,
    verify_cosigned, verify_export_cosigned,
};
use tempfile::TempDir;

use crate::support::{FAILS, LIES, ORIGIN, TestSigner, copy_into, fill, image, open, options, record, vkey, vkey_of};

const NAME: &str = "witness.example/second-custodian";
const SEED: u8 = 77;

fn key() -> WitnessKey {
    use casemate_audit::CheckpointSigner;
    WitnessKey::new(NAME, TestSigner::new(SEED).public_key()).unwrap()
}

fn witness() -> (TempDir, Witness) {
    let dir = tempfile::tempdir().unwrap();
    let mut witness = reopened(dir.path());
    witness.add_log(&vkey()).unwrap();
    (dir, witness)
}

fn reopened(dir: &Path) -> Witness {
    use casemate_audit::CheckpointSigner;
    if !dir.join("witness.vkey").exists() {
        Witness::init(dir, NAME, TestSigner::new(SEED).public_key()).unwrap();
    }
    Witness::open(dir, Box::new(TestSigner::new(SEED))).unwrap()
}

/// A request made without the code under test, from the records alone.
fn request(old: u64, records: &[Vec<u8>], checkpoint: &str) -> String {
    struct Stored(Vec<tlog_tiles::Hash>);
    impl tlog_tiles::HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
            Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
        }
    }
    let mut stored = Stored(Vec::new());
    for (index, record) in (0..).zip(records) {
        let hashes = tlog_tiles::stored_hashes(index, record, &stored).unwrap();
        stored.0.extend(hashes);
    }
    let size = records.len() as u64;
    let proof = if old == 0 || old == size { Vec::new() } else { tlog_tiles::prove_tree(size, old, &stored).unwrap() };
    let proof: String = proof.iter().map(|hash| format!("{hash}\n")).collect();
    format!("old {old}\n{proof}\n{checkpoint}")
}

fn records(to: u64) -> Vec<Vec<u8>> {
    (0..to).map(record).collect()
}

/// A checkpoint over these records by the log's genuine key.
fn checkpoint(records: &[Vec<u8>]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    records.iter().for_each(|record| _ = log.append(record.clone()).unwrap());
    log.checkpoint().unwrap()
}

fn cosigned(witness: &mut Witness, old: u64, size: u64, seconds: u64) -> Result<casemate_audit::Answer, Refusal> {
    let records = records(size);
    witness.cosign(request(old, &records, &checkpoint(&records)).as_bytes(), seconds)
}

#[test]
fn a_log_that_grows_is_cosigned_in_the_format_of_the_standard() {
    let (_dir, mut witness) = witness();
    for (old, size) in [(0, 1), (1, 2), (2, 300), (300, 300), (300, 700)] {
        let answer = cosigned(&mut witness, old, size, 1_700_000_000 + size).unwrap();
        assert_eq!(verify_cosignature(&answer.checkpoint, &key()).unwrap(), 1_700_000_000 + size);
        assert_eq!(witness.last(ORIGIN).unwrap().unwrap(), answer.checkpoint, "persisted before it is answered");
        // By hand: name, key identifier of type 0x04, time, Ed25519 over `cosignature/v1`.
        use base64::prelude::*;
        let line = answer.line.strip_prefix(&format!("\u{2014} {NAME} ")).unwrap().trim_end();
        let bytes = BASE64_STANDARD.decode(line).unwrap();
        assert_eq!(bytes.len(), 4 + 8 + 64);
        assert_eq!(bytes[4..12], (1_700_000_000 + size).to_be_bytes());
        let body = answer.checkpoint.split_once("\n\n").unwrap().0;
        let message = format!("cosignature/v1\ntime {}\n{body}\n", 1_700_000_000 + size);
        use casemate_audit::CheckpointSigner;
        let public = TestSigner::new(SEED).public_key();
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public)
            .verify(message.as_bytes(), &bytes[12..])
            .unwrap();
    }
}

#[test]
fn a_regrown_log_is_named_and_the_proof_of_it_is_kept() {
    let (dir, mut witness) = witness();
    cosigned(&mut witness, 0, 300, 1).unwrap();
    let mut forged = records(200);
    forged.extend((200..400).map(|n| format!("another {n}").into_bytes()));
    let head = checkpoint(&forged);
    // Whatever size the forger claims to start from.
    let refusal = witness.cosign(request(300, &forged, &head).as_bytes(), 2).unwrap_err();
    assert_eq!(refusal, Refusal::Inconsistent { size: 300, offered: 400 });
    let refusal = witness.cosign(request(200, &forged, &head).as_bytes(), 2).unwrap_err();
    assert_eq!(refusal, Refusal::Conflict { size: 300 });
    let refusal = witness.cosign(request(0, &forged, &head).as_bytes(), 2).unwrap_err();
    assert_eq!(refusal, Refusal::Conflict { size: 300 });
    let evidence: Vec<_> = fs::read_dir(dir.path().join("evidence")).unwrap().flatten().collect();
    assert_eq!(evidence.len(), 1);
    let text = fs::read_to_string(evidence[0].path()).unwrap();
    assert!(text.contains(&head) && text.contains(&format!("{ORIGIN}\n300\n")), "both signed checkpoints: {text}");
    // The genuine log goes on.
    cosigned(&mut witness, 300, 400, 2).unwrap();
}

#[test]
fn a_split_view_is_named() {
    let (_dir, mut witness) = witness();
    cosigned(&mut witness, 0, 300, 1).unwrap();
    let mut other = records(299);
    other.push(b"what the other auditor sees".to_vec());
    for old in [0, 299, 300] {
        let refusal = witness.cosign(request(old, &other, &checkpoint(&other)).as_bytes(), 2).unwrap_err();
        assert_eq!(refusal, Refusal::SplitView { size: 300 });
    }
}

#[test]
fn a_replayed_checkpoint_is_named() {
    let (_dir, mut witness) = witness();
    cosigned(&mut witness, 0, 100, 1).unwrap();
    cosigned(&mut witness, 100, 300, 2).unwrap();
    assert_eq!(cosigned(&mut witness, 0, 100, 3).unwrap_err(), Refusal::RolledBack { size: 300, offered: 100 });
    assert_eq!(cosigned(&mut witness, 50, 100, 3).unwrap_err(), Refusal::RolledBack { size: 300, offered: 100 });
}

#[test]
fn a_witness_whose_clock_was_set_back_does_not_cosign() {
    let (_dir, mut witness) = witness();
    cosigned(&mut witness, 0, 100, 5_000).unwrap();
    assert_eq!(cosigned(&mut witness, 100, 200, 4_990).unwrap_err(), Refusal::ClockSetBack { by_seconds: 10 });
    cosigned(&mut witness, 100, 200, 5_000).unwrap();
}

#[test]
fn unknown_logs_and_wrong_keys_are_named() {
    let (_dir, mut witness) = witness();
    let records = records(3);
    let text = request(0, &records, &checkpoint(&records));
    let other_log = text.replacen(ORIGIN, "other.example/log", 2);
    let refusal = witness.cosign(other_log.as_bytes(), 1).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownLog { origin: "other.example/log".into() });
    // Signed by somebody else under the log's name.
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options(), Box::new(TestSigner::new(2))).unwrap();
    records.iter().for_each(|record| _ = log.append(record.clone()).unwrap());
    let foreign = request(0, &records, &log.checkpoint().unwrap());
    assert_eq!(witness.cosign(foreign.as_bytes(), 1).unwrap_err(), Refusal::BadSignature);
    // A second key of a log that is known is not taken on anybody's word.
    assert!(matches!(witness.add_log(&vkey_of(ORIGIN, 2)), Err(WitnessError::NoHandOver { .. })));
    assert_eq!(witness.cosign(foreign.as_bytes(), 1).unwrap_err(), Refusal::BadSignature);
    let altered = text.replacen("\n3\n", "\n4\n", 1);
    assert!(matches!(witness.cosign(altered.as_bytes(), 1), Err(Refusal::BadSignature)));
}

#[test]
fn malformed_requests_are_refused() {
    let (_dir, mut witness) = witness();
    let records = records(3);
    let text = request(0, &records, &checkpoint(&records));
    let hostile = [
        String::new(),
        text.replacen("old 0", "old 00", 1),
        text.replacen("old 0", "old -1", 1),
        text.replacen("old 0", "old 18446744073709551616", 1),
        text.replacen("old 0", "Old 0", 1),
        text.replacen("old 0", "old 4", 1),
        text.replacen("old 0\n", "old 0\nnot a hash\n", 1),
        text.replacen("old 0\n", &format!("old 0\n{}", format!("{}\n", tlog_tiles::record_hash(b"")).repeat(64)), 1),
        text.replacen("\n3\n", "\n03\n", 1),
        "old 0\n".to_owned(),
        "A".repeat(1_000_001),
    ];
    for hostile in &hostile {
        let refusal = witness.cosign(hostile.as_bytes(), 1).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed { .. }), "{refusal}: {}", &hostile[..hostile.len().min(60)]);
    }
    // C2SP tlog-witness: from nothing the proof is empty.
    let padded = text.replacen("old 0\n", &format!("old 0\n{}\n", tlog_tiles::record_hash(b"")), 1);
    assert_eq!(witness.cosign(padded.as_bytes(), 1).unwrap_err(), Refusal::Inconsistent { size: 0, offered: 3 });
    witness.cosign(text.as_bytes(), 1).unwrap();
}

#[test]
fn signatures_the_witness_did_not_check_are_not_passed_on() {
    let (_dir, mut witness) = witness();
    let records = records(3);
    let lines: String = (0..16)
        .map(|n: u8| {
            use base64::prelude::*;
            format!("\u{2014} stranger{n}.example {}\n", BASE64_STANDARD.encode([n; 76]))
        })
        .collect();
    let text = request(0, &records, &checkpoint(&records)) + &lines;
    let answer = witness.cosign(text.as_bytes(), 1).unwrap();
    assert!(!answer.checkpoint.contains("stranger"), "{}", answer.checkpoint);
}

#[test]
fn a_token_that_fails_or_lies_gives_no_cosignature_and_changes_nothing() {
    for failure in [FAILS, LIES] {
        let (dir, first) = witness();
        drop(first);
        let mode = Arc::new(AtomicU8::new(0));
        struct Broken(TestSigner, Arc<AtomicU8>);
        impl casemate_audit::CheckpointSigner for Broken {
            fn public_key(&self) -> [u8; 32] {
                self.0.public_key()
            }
            fn sign(&self, message: &[u8]) -> Result<[u8; 64], casemate_audit::SignError> {
                match self.1.load(Ordering::SeqCst) {
                    FAILS => Err("CKR_DEVICE_REMOVED".into()),
                    LIES => Ok([7; 64]),
                    _ => self.0.sign(message),
                }
            }
        }
        let signer = Broken(TestSigner::new(SEED), mode.clone());
        let mut witness = Witness::open(dir.path(), Box::new(signer)).unwrap();
        cosigned(&mut witness, 0, 10, 1).unwrap();
        let last = witness.last(ORIGIN).unwrap();
        mode.store(failure, Ordering::SeqCst);
        assert!(matches!(cosigned(&mut witness, 10, 20, 2), Err(Refusal::Unavailable { .. })));
        assert_eq!(witness.last(ORIGIN).unwrap(), last);
        mode.store(0, Ordering::SeqCst);
        cosigned(&mut witness, 10, 20, 2).unwrap();
    }
}

#[test]
fn a_damaged_memory_is_no_fresh_start() {
    let (dir, mut witness) = witness();
    cosigned(&mut witness, 0, 10, 1).unwrap();
    drop(witness);
    let state = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
    let state = state.into_iter().find(|path| path.file_name().unwrap().len() == 32).unwrap();
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replacen("\n10\n", "\n11\n", 1)).unwrap();
    assert!(matches!(cosigned(&mut reopened(dir.path()), 11, 20, 2), Err(Refusal::Unavailable { .. })));
    fs::write(&state, "").unwrap();
    assert!(matches!(cosigned(&mut reopened(dir.path()), 0, 20, 2), Err(Refusal::Unavailable { .. })));
}

#[test]
fn another_key_or_a_second_process_does_not_open_the_witness() {
    let (dir, first) = witness();
    assert!(matches!(Witness::open(dir.path(), Box::new(TestSigner::new(SEED))), Err(WitnessError::InUse)));
    drop(first);
    let other = Witness::open(dir.path(), Box::new(TestSigner::new(1)));
    assert!(matches!(other, Err(WitnessError::AnotherKey { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Witness::open(empty.path(), Box::new(TestSigner::new(1))), Err(WitnessError::NoWitness { .. })));
}

#[test]
fn witness_keys_round_trip_and_others_are_refused() {
    let text = key().vkey();
    assert_eq!(WitnessKey::from_vkey(&text).unwrap(), key());
    for hostile in
        [vkey(), text.replacen("+", "-", 1), text.replacen(NAME, "other", 1), format!("{text}A"), String::new()]
    {
        assert!(matches!(WitnessKey::from_vkey(&hostile), Err(VerifyError::MalformedKey)), "{hostile}");
    }
}

/// A log that asks this witness.
fn watched(dir: &Path, link: WitnessLink, deny_after: u64) -> Result<Log, AuditError> {
    let witness = Some(WitnessOptions { key: key(), link, deny_after });
    Log::open(
        dir,
        LogOptions { witness, checkpoint_every: Duration::from_millis(5), ..options() },
        Box::new(TestSigner::new(1)),
    )
}

fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn without_its_witness_the_log_refuses_after_the_allowed_checkpoints_and_recovers_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (witness_dir, witness) = witness();
    drop(witness);
    let socket = witness_dir.path().join("socket");
    let log = watched(dir.path(), WitnessLink::Socket(socket.clone()), 3).unwrap();
    let mut accepted = 0;
    let error = loop {
        match log.append(record(accepted)) {
            Ok(index) => {
                assert_eq!(index, accepted);
                accepted += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AuditError::Unwitnessed { checkpoints: 3.., limit: 3, .. }), "{error}");
    // It stays so over a restart: the count is on disk.
    drop(log);
    let log = watched(dir.path(), WitnessLink::Socket(socket.clone()), 3).unwrap();
    assert!(matches!(log.append(record(accepted)), Err(AuditError::Unwitnessed { .. })));

    let listener = UnixListener::bind(&socket).unwrap();
    let place = witness_dir.path().to_owned();
    std::thread::spawn(move || serve_socket(&mut reopened(&place), &listener));
    until(|| log.append(record(accepted)).is_ok());
    accepted += 1;
    for _ in 0..50 {
        log.append(record(accepted)).unwrap();
        accepted += 1;
    }
    log.checkpoint().unwrap();
    until(|| log.witnessed() == Some((0, accepted)));
    drop(log);
    let text = fs::read_to_string(dir.path().join("cosigned")).unwrap();
    verify_cosignature(&text, &key()).unwrap();
    assert_eq!(casemate_audit::verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, accepted);
}

#[test]
fn a_folder_on_removable_media_carries_requests_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let media = tempfile::tempdir().unwrap();
    let (_place, mut witness) = witness();
    let log = watched(dir.path(), WitnessLink::Directory(media.path().to_owned()), 1000).unwrap();
    let mut size = 0;
    for round in 1..=3 {
        fill(&log, size, size + 40);
        size += 40;
        log.checkpoint().unwrap();
        until(|| {
            serve_directory(&mut witness, media.path()).unwrap();
            log.witnessed() == Some((0, size))
        });
        assert!(size == 40 * round);
    }
    // An answer by somebody else, and one about another log, change nothing.
    fill(&log, size, size + 1);
    log.checkpoint().unwrap();
    let request = || {
        let mut paths = fs::read_dir(media.path()).unwrap().flatten().map(|entry| entry.path());
        paths.find(|path| path.extension().is_some_and(|extension| extension == "request"))
    };
    until(|| request().is_some());
    let response = request().unwrap().with_extension("response");
    let forged = format!("200 ok\n{}", checkpoint(&records(41)));
    fs::write(&response, forged).unwrap();
    until(|| !response.exists());
    assert_eq!(log.witnessed().unwrap().1, size);
}

#[test]
fn after_a_hand_over_the_witness_takes_nothing_from_the_retired_key() {
    let site = tempfile::tempdir().unwrap();
    let log = open(site.path());
    fill(&log, 0, 300);
    drop(log);
    let hand_over = |event, _| crate::support::real(5, event);
    rotate(site.path(), options(), TestSigner::new(1), &TestSigner::new(2), Vec::new(), hand_over).unwrap();
    let log = Log::open(site.path(), options(), Box::new(TestSigner::new(2))).unwrap();
    fill(&log, 301, 400);
    let genuine = log.checkpoint().unwrap();
    let mut history: Vec<_> = (0..400).map(|index| log.read(index).unwrap()).collect();

    let (dir, mut witness) = witness();
    cosigned(&mut witness, 0, 300, 1).unwrap();
    let pinned = fs::read(site.path().join("pinned")).unwrap();
    let next = vkey_of(ORIGIN, 2);
    for (vkey, pinned) in [(&next, b"".as_slice()), (&vkey_of(ORIGIN, 3), &pinned), (&next, b"300 AAAA\n")] {
        assert!(matches!(witness.hand_over(vkey, pinned), Err(WitnessError::NoHandOver { .. })));
    }
    witness.hand_over(&next, &pinned).unwrap();
    drop(witness);
    // Whoever has the old key goes on with it, in any size.
    let mut witness = reopened(dir.path());
    for size in [300, 301, 350, 500] {
        let refusal = cosigned(&mut witness, 300, size, 2).unwrap_err();
        assert_eq!(refusal, Refusal::RetiredKey { handed_over: 301 }, "{size}");
    }
    witness.cosign(request(300, &history, &genuine).as_bytes(), 2).unwrap();
    history.clear();
    assert!(witness.add_log(&vkey()).is_ok(), "known, and not revived");
    assert_eq!(cosigned(&mut witness, 300, 500, 3).unwrap_err(), Refusal::RetiredKey { handed_over: 301 });
}

#[test]
fn the_witness_takes_a_key_in_reserve_only_from_the_logs_own_announcement() {
    let site = tempfile::tempdir().unwrap();
    let log = open(site.path());
    fill(&log, 0, 10);
    drop(log);
    let mode = Arc::new(AtomicU8::new(0));
    let (first, reserve) = (TestSigner::with_mode(&mode), TestSigner::new(2));
    let record = |event, _| crate::support::real(5, event);
    announce_reserve(site.path(), options(), first.clone(), &reserve, record).unwrap();
    let log = Log::open_with_reserve(site.path(), options(), Box::new(first), Box::new(reserve)).unwrap();
    mode.store(FAILS, Ordering::SeqCst);
    log.append(b"while the first is down".to_vec()).unwrap();
    let checkpoint = log.checkpoint().unwrap();
    let history: Vec<_> = (0..12).map(|index| log.read(index).unwrap()).collect();

    let (dir, mut witness) = witness();
    let (vkey, request) = (vkey_of(ORIGIN, 2), request(0, &history, &checkpoint));
    assert!(matches!(witness.add_log(&vkey), Err(WitnessError::NoHandOver { .. })));
    assert_eq!(witness.cosign(request.as_bytes(), 1).unwrap_err(), Refusal::BadSignature);
    witness.hand_over(&vkey, &fs::read(site.path().join("pinned")).unwrap()).unwrap();
    drop(witness);
    let mut witness = reopened(dir.path());
    witness.cosign(request.as_bytes(), 1).unwrap();
    // The first key is still the log's.
    mode.store(0, Ordering::SeqCst);
    log.append(b"it is back".to_vec()).unwrap();
    let checkpoint = log.checkpoint().unwrap();
    let history: Vec<_> = (0..13).map(|index| log.read(index).unwrap()).collect();
    witness.cosign(self::request(12, &history, &checkpoint).as_bytes(), 2).unwrap();
}

#[test]
fn replays_and_garbage_leave_room_for_the_proof_of_a_split_view() {
    let (dir, mut witness) = witness();
    let old = checkpoint(&records(100));
    cosigned(&mut witness, 0, 300, 1).unwrap();
    let grown = checkpoint(&records(400));
    let kept = || match fs::read_dir(dir.path().join("evidence")) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(_) => Vec::new(),
    };
    for n in 0..1100u32 {
        use base64::prelude::*;
        // A genuine old checkpoint, a genuine new one with a proof of garbage; each time with another stranger's line.
        let line = format!("\u{2014} stranger{n}.example {}\n", BASE64_STANDARD.encode([7; 76]));
        let replay = request(0, &records(100), &old) + &line;
        assert!(matches!(witness.cosign(replay.as_bytes(), 2), Err(Refusal::RolledBack { .. })));
        let hash = tlog_tiles::record_hash(&n.to_be_bytes());
        let garbage = format!("old 300\n{hash}\n{hash}\n\n{grown}{line}");
        assert!(matches!(witness.cosign(garbage.as_bytes(), 2), Err(Refusal::Inconsistent { .. })));
    }
    assert_eq!(kept().len(), 0, "none of it proves anything");
    let mut other = records(299);
    other.push(b"what the other auditor sees".to_vec());
    let head = checkpoint(&other);
    for n in 0..3 {
        use base64::prelude::*;
        let line = format!("\u{2014} {ORIGIN} {}\n", BASE64_STANDARD.encode([n; 68]));
        let split = request(300, &other, &head) + &line;
        assert_eq!(witness.cosign(split.as_bytes(), 2).unwrap_err(), Refusal::SplitView { size: 300 });
    }
    let evidence = kept();
    assert_eq!(evidence.len(), 1, "once");
    let text = fs::read_to_string(&evidence[0]).unwrap();
    assert!(text.ends_with(&head), "without lines that nobody checked: {text}");

    // Where no room is left, that is an error and no silence.
    let name = evidence[0].file_name().unwrap().to_str().unwrap().to_owned();
    fs::remove_file(&evidence[0]).unwrap();
    (0..200).for_each(|n| fs::write(dir.path().join(format!("evidence/split-view-{n}")), "").unwrap());
    let split = request(300, &other, &head);
    assert!(matches!(witness.cosign(split.as_bytes(), 2), Err(Refusal::Unavailable { .. })));
    fs::remove_file(dir.path().join("evidence/split-view-0")).unwrap();
    assert_eq!(witness.cosign(split.as_bytes(), 2).unwrap_err(), Refusal::SplitView { size: 300 });
    assert!(dir.path().join("evidence").join(name).exists());
}

#[test]
fn a_bad_answer_in_the_folder_closes_the_log_for_one_attempt_only() {
    let dir = tempfile::tempdir().unwrap();
    let media = tempfile::tempdir().unwrap();
    let (_place, mut witness) = witness();
    let log = watched(dir.path(), WitnessLink::Directory(media.path().to_owned()), 1000).unwrap();
    let find = |kind: &str| {
        let mut paths = fs::read_dir(media.path()).unwrap().flatten().map(|entry| entry.path());
        paths.find(|path| path.extension().is_some_and(|extension| extension == kind))
    };
    for (round, size) in [(1, u64::MAX), (2, 1000), (3, 1), (4, 0)] {
        fill(&log, log.size(), round * 10);
        log.checkpoint().unwrap();
        until(|| find("request").is_some());
        let response = find("request").unwrap().with_extension("response");
        fs::write(&response, format!("409 conflict\n{size}\n")).unwrap();
        until(|| !response.exists());
        // Nothing of it is believed for longer than one question.
        log.append(record(round * 10)).unwrap();
        log.checkpoint().unwrap();
        until(|| {
            serve_directory(&mut witness, media.path()).unwrap();
            log.witnessed() == Some((0, round * 10 + 1))
        });
    }
}

#[test]
fn a_refusal_by_the_witness_lasts_over_a_restart_and_an_old_cosignature_does_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let media = tempfile::tempdir().unwrap();
    let (_place, mut witness) = witness();
    let open = || {
        let link = WitnessLink::Directory(media.path().to_owned());
        let witness = Some(WitnessOptions { key: key(), link, deny_after: 1000 });
        let head_file = Some(dir.path().join("log.head"));
        let options = LogOptions { witness, head_file, checkpoint_every: Duration::from_millis(5), ..options() };
        Log::open(&dir.path().join("log"), options, Box::new(TestSigner::new(1))).unwrap()
    };
    let log = open();
    fill(&log, 0, 50);
    log.checkpoint().unwrap();
    until(|| {
        serve_directory(&mut witness, media.path()).unwrap();
        log.witnessed() == Some((0, 50))
    });
    // The witness sees another history of the same log.
    let mut other = records(60);
    other.push(b"another".to_vec());
    witness.cosign(request(50, &other, &checkpoint(&other)).as_bytes(), 4_000_000_000).unwrap();
    fill(&log, 50, 70);
    log.checkpoint().unwrap();
    let refused = |log: &Log| matches!(log.append(record(70)), Err(AuditError::WitnessRefused { .. }));
    until(|| {
        serve_directory(&mut witness, media.path()).unwrap();
        log.append(b"more".to_vec()).is_err()
    });
    assert!(refused(&log));
    let cosigned = fs::read_to_string(dir.path().join("log/cosigned")).unwrap();
    drop(log);
    let log = open();
    assert!(refused(&log), "from the first record of the next process on");
    // What the witness said before is no answer.
    until(|| {
        fs::read_dir(media.path())
            .unwrap()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|e| e == "request"))
    });
    let request = fs::read_dir(media.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "request"))
        .unwrap();
    let response = request.with_extension("response");
    fs::write(&response, format!("200 ok\n{cosigned}")).unwrap();
    until(|| !response.exists());
    assert!(refused(&log));
}

#[test]
fn a_restored_snapshot_answers_nothing_where_its_witness_can_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (place, witness) = witness();
    drop(witness);
    let socket = place.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let at = place.path().to_owned();
    std::thread::spawn(move || serve_socket(&mut reopened(&at), &listener));
    let link = || WitnessLink::Socket(socket.clone());
    let log = watched(dir.path(), link(), 1000).unwrap();
    fill(&log, 0, 50);
    log.checkpoint().unwrap();
    until(|| log.witnessed() == Some((0, 50)));
    drop(log);
    let backup = image(dir.path());
    let log = watched(dir.path(), link(), 1000).unwrap();
    fill(&log, 50, 90);
    log.checkpoint().unwrap();
    until(|| log.witnessed() == Some((0, 90)));
    drop(log);
    // Again and again, as a command at a time would.
    for _ in 0..3 {
        let restored = tempfile::tempdir().unwrap();
        copy_into(backup.path(), restored.path());
        let log = watched(restored.path(), link(), 1000).unwrap();
        assert!(matches!(log.append(b"first".to_vec()), Err(AuditError::WitnessRefused { .. })));
    }
    let log = watched(dir.path(), link(), 1000).unwrap();
    assert_eq!(log.append(record(90)).unwrap(), 90);
}

#[test]
fn a_cosignature_is_verified_against_the_tree_and_another_tree_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_place, mut witness) = witness();
    let log = open(dir.path());
    fill(&log, 0, 300);
    let text = log.checkpoint().unwrap();
    let answer = witness.cosign(request(0, &records(300), &text).as_bytes(), 77).unwrap();
    fill(&log, 300, 700);
    log.checkpoint().unwrap();
    let both = || {
        let export = Export { dir: dir.path(), vkey: &vkey(), witness: None, from: 0, to: 10 };
        let export = export.write(Vec::new()).unwrap();
        let of_export = verify_export_cosigned(export.as_slice(), &vkey(), &key());
        (verify_cosigned(dir.path(), &vkey(), &key()), of_export.map(|verified| verified.cosigned.unwrap()))
    };
    let file = dir.path().join("cosigned");
    let not_cosigned = |(here, there): (Result<_, _>, Result<_, _>)| {
        let named = |result| matches!(result, Err(VerifyError::NotCosigned { .. }));
        named(here) && named(there)
    };
    assert!(not_cosigned(both()), "no file");
    fs::write(&file, &text).unwrap();
    assert!(not_cosigned(both()), "the log's signature alone");
    fs::write(&file, &answer.checkpoint).unwrap();
    let cosigned = Cosigned { size: 300, seconds: 77 };
    let (here, there) = both();
    assert_eq!((here.unwrap(), there.unwrap()), (cosigned, cosigned));
    let stranger = WitnessKey::new("witness.example/other", [9; 32]);
    assert!(stranger.is_ok_and(|key| verify_cosigned(dir.path(), &vkey(), &key).is_err()));
    // The log's key and the witness, and a history that is not here: of a size there is, and of one that is not.
    for forged in [(0..300).map(|n| format!("forged {n}").into_bytes()).collect::<Vec<_>>(), records(701)] {
        let (_place, mut colluding) = self::witness();
        let head = checkpoint(&forged);
        let answer = colluding.cosign(request(0, &forged, &head).as_bytes(), 78).unwrap();
        fs::write(&file, &answer.checkpoint).unwrap();
        let size = forged.len() as u64;
        let (here, there) = both();
        for error in [here.unwrap_err(), there.unwrap_err()] {
            assert!(matches!(error, VerifyError::CosignedAnother { size: named } if named == size), "{error}");
        }
    }
}

#[test]
fn a_site_restored_from_backup_whole_is_refused_by_its_witness() {
    // The copy of the last checkpoint is in the backup too: only the witness remembers.
    let dir = tempfile::tempdir().unwrap();
    let (place, witness) = witness();
    drop(witness);
    let socket = place.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let at = place.path().to_owned();
    std::thread::spawn(move || serve_socket(&mut reopened(&at), &listener));
    let link = || WitnessLink::Socket(socket.clone());
    let log = watched(dir.path(), link(), 1000).unwrap();
    fill(&log, 0, 50);
    drop(log);
    let backup = image(dir.path());
    let log = watched(dir.path(), link(), 1000).unwrap();
    fill(&log, 50, 90);
    log.checkpoint().unwrap();
    until(|| log.witnessed() == Some((0, 90)));
    drop(log);

    let restored = tempfile::tempdir().unwrap();
    copy_into(backup.path(), restored.path());
    let log = watched(restored.path(), link(), 1000).unwrap();
    let error = loop {
        if let Err(error) = log.append(b"another".to_vec()) {
            break error;
        }
    };
    assert!(matches!(error, AuditError::WitnessRefused { .. }), "{error}");
    drop(log);
    // The newest backup is the genuine log, and the witness cosigns it again.
    let log = watched(dir.path(), link(), 1000).unwrap();
    fill(&log, 90, 100);
    log.checkpoint().unwrap();
    until(|| log.witnessed() == Some((0, 100)));
}
