use std::fs;
use std::path::Path;

use casemate_audit::{AuditError, Log, VerifyError, verify_dir};

use crate::support::{
    ORIGIN, SIGNED, TAIL, TestSigner, fill, flip, image, open, options, record, sound, vkey, vkey_of,
};

/// Whether the error is the one that names the fault.
type Named = fn(&VerifyError) -> bool;

fn verdict(dir: &Path) -> VerifyError {
    verify_dir(dir, &vkey(), |_| {}).expect_err("the damage must be found")
}

fn refused(dir: &Path) -> AuditError {
    Log::open(dir, options(), Box::new(TestSigner::new(1))).err().expect("the log must not open")
}

/// Position of the text of record `index` in its bundle.
fn offset(index: u64) -> usize {
    (index / 256 * 256..index).map(|before| record(before).len() + 2).sum::<usize>() + 2
}

#[test]
fn a_sound_log_verifies_and_reports_progress() {
    let dir = sound();
    let mut seen = Vec::new();
    let verified = verify_dir(dir.path(), &vkey(), |count| seen.push(count)).unwrap();
    assert_eq!((verified.size, verified.unsigned_tail), (SIGNED, TAIL));
    assert_eq!(seen, [256, 512, 522]);
}

#[test]
fn a_flipped_byte_in_an_entry_is_named() {
    for (file, index) in [("000", 0), ("000", 255), ("001", 300), ("002.p/10", 512), ("002.p/10", 521)] {
        let dir = sound();
        flip(&dir.path().join("tile/entries").join(file), offset(index));
        let error = verdict(dir.path());
        assert!(matches!(error, VerifyError::BadEntry { index: found } if found == index), "{index}: {error}");
    }
}

#[test]
fn a_flipped_length_prefix_is_named() {
    for index in [0, 17, 254] {
        let dir = sound();
        flip(&dir.path().join("tile/entries/000"), offset(index) - 1);
        let error = verdict(dir.path());
        assert!(matches!(error, VerifyError::BadEntry { index: found } if found == index), "{index}: {error}");
        let dir = sound();
        // A high byte: the entry now claims to run past the end of the bundle.
        let path = dir.path().join("tile/entries/000");
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset(index) - 2] = 0xff;
        fs::write(&path, bytes).unwrap();
        let error = verdict(dir.path());
        assert!(matches!(error, VerifyError::MissingEntries { index: found } if found == index), "{index}: {error}");
    }
}

#[test]
fn a_flipped_byte_in_a_level_0_tile_is_named() {
    for (file, tile, position) in [("000", 0, 3), ("001", 1, 255), ("002.p/10", 2, 9)] {
        let dir = sound();
        flip(&dir.path().join("tile/0").join(file), position as usize * 32 + 5);
        let error = verdict(dir.path());
        let first = tile * 256 + position;
        assert!(
            matches!(error, VerifyError::BadTile { level: 0, tile: found, first_index }
                if found == tile && first_index == first),
            "{file}: {error}"
        );
    }
}

#[test]
fn a_flipped_byte_in_a_level_1_tile_is_named() {
    let dir = sound();
    flip(&dir.path().join("tile/1/000.p/2"), 32);
    let error = verdict(dir.path());
    assert!(matches!(error, VerifyError::BadTile { level: 1, tile: 0, first_index: 256 }), "{error}");
}

#[test]
fn the_first_of_several_faults_is_named() {
    let dir = sound();
    flip(&dir.path().join("tile/entries/002.p/10"), 3);
    flip(&dir.path().join("tile/1/000.p/2"), 32);
    flip(&dir.path().join("wal"), 100);
    flip(&dir.path().join("tile/entries/001"), offset(290));
    let error = verdict(dir.path());
    assert!(matches!(error, VerifyError::BadEntry { index: 290 }), "{error}");
}

#[test]
fn deleted_files_are_named() {
    let cases: [(&str, Named); 6] = [
        ("tile/entries/000", |e| matches!(e, VerifyError::MissingEntries { index: 0 })),
        ("tile/entries/001", |e| matches!(e, VerifyError::MissingEntries { index: 256 })),
        ("tile/entries/002.p/10", |e| matches!(e, VerifyError::MissingEntries { index: 512 })),
        ("tile/0/001", |e| matches!(e, VerifyError::MissingTile { level: 0, tile: 1, first_index: 256 })),
        ("tile/0/002.p/10", |e| matches!(e, VerifyError::MissingTile { level: 0, tile: 2, first_index: 512 })),
        ("tile/1/000.p/2", |e| matches!(e, VerifyError::MissingTile { level: 1, tile: 0, first_index: 0 })),
    ];
    for (file, expected) in cases {
        let dir = sound();
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = verdict(dir.path());
        assert!(expected(&error), "{file}: {error}");
    }
}

#[test]
fn truncated_tile_is_named() {
    for (file, length, level, tile, first) in
        [("tile/0/000", 100, 0, 0, 3), ("tile/0/002.p/10", 319, 0, 2, 521), ("tile/1/000.p/2", 32, 1, 0, 256)]
    {
        let dir = sound();
        let path = dir.path().join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..length]).unwrap();
        let error = verdict(dir.path());
        assert!(
            matches!(error, VerifyError::MissingTile { level: l, tile: t, first_index }
                if (l, t, first_index) == (level, tile, first)),
            "{file}: {error}"
        );
    }
}

#[test]
fn truncated_and_extended_bundles_are_named() {
    let dir = sound();
    let path = dir.path().join("tile/entries/001");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..offset(400) + 1]).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::MissingEntries { index: 400 }));
    fs::write(&path, [bytes.as_slice(), b"\x00\x01x"].concat()).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::MalformedEntries { first_index: 256 }));
    fs::write(&path, &bytes).unwrap();
    let tile = dir.path().join("tile/0/000");
    let mut bytes = fs::read(&tile).unwrap();
    bytes.push(0);
    fs::write(&tile, bytes).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::BadTile { level: 0, tile: 0, first_index: 0 }));
}

#[test]
fn swapped_removed_and_inserted_records_are_named() {
    let bundle = |order: &[u64]| {
        let mut bytes = Vec::new();
        for index in order {
            let record = record(*index);
            bytes.extend_from_slice(&(record.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&record);
        }
        bytes
    };
    let mut order: Vec<u64> = (0..256).collect();
    order.swap(40, 41);
    let dir = sound();
    fs::write(dir.path().join("tile/entries/000"), bundle(&order)).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::BadEntry { index: 40 }));
    order.swap(40, 41);
    order.remove(77);
    fs::write(dir.path().join("tile/entries/000"), bundle(&order)).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::BadEntry { index: 77 }));
    order.insert(77, 77);
    order.insert(99, 500);
    fs::write(dir.path().join("tile/entries/000"), bundle(&order)).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::BadEntry { index: 99 }));
}

#[test]
fn a_record_rewritten_together_with_its_tile_is_named_by_the_tile_above() {
    let dir = sound();
    let entries = dir.path().join("tile/entries/001");
    flip(&entries, offset(300));
    let mut forged = record(300);
    forged[0] ^= 1;
    let tile = dir.path().join("tile/0/001");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[(300 - 256) * 32..][..32].copy_from_slice(&tlog_tiles::record_hash(&forged).0);
    fs::write(&tile, bytes).unwrap();
    let error = verdict(dir.path());
    assert!(matches!(error, VerifyError::BadTile { level: 1, tile: 0, first_index: 256 }), "{error}");
}

#[test]
fn a_whole_other_history_under_the_signed_checkpoint_is_a_root_mismatch() {
    let dir = sound();
    let other = tempfile::tempdir().unwrap();
    let log = open(other.path());
    fill(&log, 0, 3);
    log.append(b"something else".to_vec()).unwrap();
    fill(&log, 4, SIGNED);
    drop(log);
    fs::remove_dir_all(dir.path().join("tile")).unwrap();
    crate::support::copy_into(&other.path().join("tile"), &dir.path().join("tile"));
    assert!(matches!(verdict(dir.path()), VerifyError::RootMismatch { size: SIGNED }));
    assert!(matches!(refused(dir.path()), AuditError::Damaged(VerifyError::RootMismatch { size: SIGNED })));
}

#[test]
fn a_flipped_byte_anywhere_in_the_checkpoint_is_found() {
    let length = fs::read(sound().path().join("checkpoint")).unwrap().len();
    for at in 0..length {
        let dir = sound();
        flip(&dir.path().join("checkpoint"), at);
        let error = verdict(dir.path());
        assert!(
            matches!(
                error,
                VerifyError::BadSignature
                    | VerifyError::MalformedCheckpoint { .. }
                    | VerifyError::UnknownSigner
                    | VerifyError::WrongOrigin { .. }
            ),
            "byte {at}: {error}"
        );
        refused(dir.path());
    }
}

#[test]
fn wrong_keys_and_origins_are_named() {
    let dir = sound();
    let with = |vkey: &str| verify_dir(dir.path(), vkey, |_| {}).unwrap_err();
    assert!(matches!(with(&vkey_of(ORIGIN, 2)), VerifyError::UnknownSigner));
    assert!(matches!(with(&vkey_of("other.example/log", 1)), VerifyError::WrongOrigin { .. }));
    assert!(matches!(with(&vkey().replace('+', "-")), VerifyError::MalformedKey));
    let other_key = Log::open(dir.path(), options(), Box::new(TestSigner::new(2))).err().unwrap();
    assert!(matches!(other_key, AuditError::Damaged(VerifyError::UnknownSigner)));
    let other_origin = casemate_audit::LogOptions { origin: "other.example/log".into(), ..options() };
    let error = Log::open(dir.path(), other_origin, Box::new(TestSigner::new(1))).err().unwrap();
    assert!(matches!(error, AuditError::Damaged(VerifyError::WrongOrigin { .. })));
}

/// Signs any text with the log's own key, as a hostile but genuine signer could.
fn signed(body: &str) -> String {
    use base64::prelude::*;
    use casemate_audit::CheckpointSigner;
    let signature = TestSigner::new(1).sign(body.as_bytes()).unwrap();
    let id = u32::from_str_radix(vkey().split('+').nth(1).unwrap(), 16).unwrap();
    let line = BASE64_STANDARD.encode([&id.to_be_bytes()[..], &signature].concat());
    format!("{body}\n\u{2014} {ORIGIN} {line}\n")
}

#[test]
fn malformed_sizes_and_roots_are_refused_even_when_signed() {
    let dir = sound();
    let text = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let root = text.lines().nth(2).unwrap();
    assert_eq!(signed(&format!("{ORIGIN}\n522\n{root}\n")), text, "the forger is as good as the log");
    let bodies = [
        format!("{ORIGIN}\n0522\n{root}\n"),
        format!("{ORIGIN}\n+522\n{root}\n"),
        format!("{ORIGIN}\n-1\n{root}\n"),
        format!("{ORIGIN}\n522 \n{root}\n"),
        format!("{ORIGIN}\n0x20a\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551616\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551615\n{root}\n"),
        format!("{ORIGIN}\n281474976710657\n{root}\n"),
        format!("{ORIGIN}\n\n{root}\n"),
        format!("{ORIGIN}\n0\n{root}\n"),
        format!("{ORIGIN}\n522\n{}\n", &root[..40]),
        format!("{ORIGIN}\n522\n{root}\nextension\n"),
        format!("{ORIGIN}\n522\n"),
    ];
    for body in bodies {
        fs::write(dir.path().join("checkpoint"), signed(&body)).unwrap();
        let error = verdict(dir.path());
        assert!(matches!(error, VerifyError::MalformedCheckpoint { .. }), "{body}: {error}");
    }
    // Well formed and not true.
    for size in [521_u64, 523, 1 << 40] {
        fs::write(dir.path().join("checkpoint"), signed(&format!("{ORIGIN}\n{size}\n{root}\n"))).unwrap();
        let error = verdict(dir.path());
        let expected = match size {
            521 | 523 => matches!(error, VerifyError::MissingEntries { index: 512 }),
            // In so large a tree the first level 1 tile is a full one.
            _ => matches!(error, VerifyError::MissingTile { level: 1, tile: 0, first_index: 0 }),
        };
        assert!(expected, "{size}: {error}");
    }
}

#[test]
fn cosignatures_by_unknown_keys_are_ignored_and_a_lying_line_is_not() {
    use base64::prelude::*;
    let dir = sound();
    let path = dir.path().join("checkpoint");
    let text = fs::read_to_string(&path).unwrap();
    let witness = |n: u8| format!("\u{2014} witness{n}.example {}\n", BASE64_STANDARD.encode([n; 76]));
    let sixteen: String = (0..16).map(witness).collect();
    fs::write(&path, format!("{text}{sixteen}")).unwrap();
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, SIGNED);
    // Our name and key identifier in front of somebody else's signature.
    let id = u32::from_str_radix(vkey().split('+').nth(1).unwrap(), 16).unwrap();
    let lie = BASE64_STANDARD.encode([&id.to_be_bytes()[..], &[9; 64]].concat());
    let (body, _) = text.split_once("\n\n").unwrap();
    fs::write(&path, format!("{body}\n\n\u{2014} {ORIGIN} {lie}\n")).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::BadSignature));
}

#[test]
fn opening_finds_damage_at_the_edge() {
    let cases: [(&str, usize, Named); 5] = [
        ("tile/entries/002.p/10", offset(515), |e| matches!(e, VerifyError::BadEntry { index: 515 })),
        ("tile/entries/001", offset(400), |e| matches!(e, VerifyError::BadEntry { index: 400 })),
        ("tile/0/002.p/10", 0, |e| matches!(e, VerifyError::BadTile { level: 0, tile: 2, first_index: 512 })),
        ("tile/0/001", 64, |e| matches!(e, VerifyError::BadTile { level: 0, tile: 1, first_index: 258 })),
        ("tile/1/000.p/2", 0, |e| matches!(e, VerifyError::RootMismatch { size: SIGNED })),
    ];
    for (file, at, expected) in cases {
        let dir = sound();
        flip(&dir.path().join(file), at);
        match refused(dir.path()) {
            AuditError::Damaged(error) => assert!(expected(&error), "{file}: {error}"),
            error => panic!("{file}: {error}"),
        }
    }
}

/// More than 65,536 records: a full level 1 tile and a level 2 tile.
#[test]
fn a_log_of_three_levels_is_verified_to_the_top() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 66_000);
    let receipt = log.receipt(70).unwrap();
    assert_eq!(casemate_audit::verify_receipt(&receipt.to_text(), &vkey()).unwrap().size, 66_000);
    drop(log);
    assert_eq!(verify_dir(dir.path(), &vkey(), |_| {}).unwrap().size, 66_000);
    assert_eq!(open(dir.path()).size(), 66_000);

    let cases: [(&str, usize, Named); 4] = [
        ("tile/1/000", 32 * 200 + 1, |e| matches!(e, VerifyError::BadTile { level: 1, tile: 0, first_index: 51_200 })),
        ("tile/1/001.p/1", 0, |e| matches!(e, VerifyError::BadTile { level: 1, tile: 1, first_index: 65_536 })),
        ("tile/2/000.p/1", 31, |e| matches!(e, VerifyError::BadTile { level: 2, tile: 0, first_index: 0 })),
        ("tile/0/100", 0, |e| matches!(e, VerifyError::BadTile { level: 0, tile: 100, first_index: 25_600 })),
    ];
    for (file, at, expected) in cases {
        let hostile = image(dir.path());
        flip(&hostile.path().join(file), at);
        let error = verdict(hostile.path());
        assert!(expected(&error), "{file}: {error}");
    }
}

#[test]
fn seventeen_signatures_are_read_and_more_than_a_hundred_are_refused() {
    use base64::prelude::*;
    let dir = sound();
    let path = dir.path().join("checkpoint");
    let text = fs::read_to_string(&path).unwrap();
    let with = |count: u8| {
        let lines: String =
            (0..count).map(|n| format!("\u{2014} stranger{n}.example {}\n", BASE64_STANDARD.encode([n; 76]))).collect();
        fs::write(&path, format!("{text}{lines}")).unwrap();
        verify_dir(dir.path(), &vkey(), |_| {})
    };
    // C2SP signed-note asks for at least sixteen; ours is the seventeenth.
    assert_eq!(with(16).unwrap().size, SIGNED);
    assert_eq!(with(99).unwrap().size, SIGNED);
    assert!(matches!(with(100), Err(VerifyError::MalformedCheckpoint { .. })));
    // Sixteen strangers and none of ours.
    let (body, _) = text.split_once("\n\n").unwrap();
    let strangers: String =
        (0..16).map(|n: u8| format!("\u{2014} {ORIGIN} {}\n", BASE64_STANDARD.encode([n; 68]))).collect();
    fs::write(&path, format!("{body}\n\n{strangers}")).unwrap();
    assert!(matches!(verdict(dir.path()), VerifyError::UnknownSigner));
}

#[test]
fn records_of_a_clock_that_was_set_back_are_named() {
    use crate::support::real;
    let event = || casemate_audit::Event::Site { action: "started".into(), detail: String::new() };
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let noon = 1_700_000_000_000;
    // Records written at once may overtake each other by moments.
    for time in [noon, noon + 5, noon + 3, noon + 60_000, noon] {
        log.append(real(time, event())).unwrap();
    }
    log.checkpoint().unwrap();
    verify_dir(dir.path(), &vkey(), |_| {}).unwrap();
    log.append(real(noon - 3_600_000, event())).unwrap();
    log.checkpoint().unwrap();
    let error = verdict(dir.path());
    assert!(matches!(error, VerifyError::ClockSetBack { index: 5, by_ms: 3_660_000 }), "{error}");
}
