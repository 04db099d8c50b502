use casemate_audit::{AuditError, Receipt, VerifyError, verify_receipt};

use crate::support::{fill, open, record, sound, vkey, vkey_of};

#[test]
fn receipts_round_trip_at_every_shape_of_tree() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut size = 0;
    for next in [1, 2, 3, 255, 256, 257, 600] {
        fill(&log, size, next);
        size = next;
        log.checkpoint().unwrap();
        for index in [0, 1, size / 2, size.saturating_sub(2), size - 1] {
            if index >= size {
                continue;
            }
            let receipt = log.receipt(index).unwrap();
            let text = receipt.to_text();
            assert_eq!(Receipt::from_text(&text).unwrap(), receipt);
            let verified = verify_receipt(&text, &vkey()).unwrap();
            assert_eq!((verified.index, verified.size), (index, size));
            assert_eq!(verified.record, record(index));
        }
    }
    assert!(matches!(log.receipt(600), Err(AuditError::NoSuchRecord { index: 600, size: 600 })));
}

#[test]
fn the_text_is_the_one_of_the_standard() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 2);
    let text = log.receipt(1).unwrap().to_text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["c2sp.org/tlog-proof@v1", "extra cmVjb3JkIDE=", "index 1"]);
    assert_eq!(lines[3], tlog_tiles::record_hash(&record(0)).to_string());
    assert_eq!(lines[4..7], ["", crate::support::ORIGIN, "2"]);
    assert!(text.ends_with(&log.checkpoint().unwrap()));
}

#[test]
fn forged_receipts_are_refused() {
    let dir = sound();
    let log = open(dir.path());
    let genuine = log.receipt(300).unwrap();
    let text = genuine.to_text();
    verify_receipt(&text, &vkey()).unwrap();
    let bad_proof = |text: &str| {
        let error = verify_receipt(text, &vkey()).unwrap_err();
        assert!(matches!(error, VerifyError::BadProof { .. }), "{error}\n{text}");
    };
    // another record
    bad_proof(&Receipt { record: record(301), ..genuine.clone() }.to_text());
    bad_proof(&Receipt { record: Vec::new(), ..genuine.clone() }.to_text());
    // another index: the neighbour, one that takes another path, one outside the tree
    for index in ["301", "0", "521", "522", "18446744073709551615"] {
        bad_proof(&text.replacen("index 300", &format!("index {index}"), 1));
    }
    // another size: the signature no longer fits
    let other_size = text.replacen("\n522\n", "\n523\n", 1);
    assert_ne!(other_size, text);
    assert!(matches!(verify_receipt(&other_size, &vkey()), Err(VerifyError::BadSignature)));
    // a genuine checkpoint of another size
    fill(&log, 525, 530);
    let newer = log.checkpoint().unwrap();
    let older = text.split_once("\n\n").unwrap().1;
    bad_proof(&text.replace(older, &newer));
    // one hash missing, one too many, two exchanged
    let lines: Vec<&str> = text.lines().collect();
    let with = |change: &dyn Fn(&mut Vec<&str>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        lines.join("\n") + "\n"
    };
    bad_proof(&with(&|lines| _ = lines.remove(3)));
    bad_proof(&with(&|lines| lines.insert(3, lines[4])));
    bad_proof(&with(&|lines| lines.swap(3, 4)));
    // other keys
    assert!(matches!(verify_receipt(&text, &vkey_of("casemate.example/test", 2)), Err(VerifyError::UnknownSigner)));
    assert!(matches!(verify_receipt(&text, &vkey_of("other.example", 1)), Err(VerifyError::WrongOrigin { .. })));
    assert!(matches!(verify_receipt(&text, "nonsense"), Err(VerifyError::MalformedKey)));
}

#[test]
fn malformed_receipts_are_refused() {
    let dir = sound();
    let text = open(dir.path()).receipt(3).unwrap().to_text();
    let hostile = [
        String::new(),
        text.replacen("@v1", "@v2", 1),
        text.replacen("extra ", "Extra ", 1),
        text.replacen("extra ", "extra !", 1),
        text.replacen("index 3", "index 03", 1),
        text.replacen("index 3", "index +3", 1),
        text.replacen("index 3", "index -3", 1),
        text.replacen("index 3", "index 18446744073709551616", 1),
        text.replacen("index 3\n", "index 3\nnot a hash\n", 1),
        text.replacen("\n\n", "\n", 2),
        text.replacen("\n", "\r\n", 3),
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n".to_owned(),
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n\n".to_owned(),
        "A".repeat(2_000_000),
    ];
    for hostile in &hostile {
        let error = verify_receipt(hostile, &vkey()).unwrap_err();
        assert!(
            matches!(error, VerifyError::MalformedReceipt { .. } | VerifyError::MalformedCheckpoint { .. }),
            "{error}"
        );
    }
    // Cut anywhere, it proves nothing.
    for end in 0..text.len() {
        if let Some(cut) = text.get(..end) {
            assert!(verify_receipt(cut, &vkey()).is_err(), "{end}");
        }
    }
}

#[test]
fn no_receipt_for_a_record_that_was_changed_on_disk() {
    let dir = sound();
    let log = open(dir.path());
    crate::support::flip(&dir.path().join("tile/entries/000"), 9);
    let error = log.receipt(0).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(VerifyError::BadEntry { index: 0 })), "{error}");
    crate::support::flip(&dir.path().join("tile/0/000"), 40);
    assert!(matches!(log.receipt(5), Err(AuditError::Damaged(VerifyError::BadProof { .. }))));
    std::fs::remove_file(dir.path().join("tile/0/001")).unwrap();
    assert!(matches!(
        log.receipt(300),
        Err(AuditError::Damaged(VerifyError::MissingTile { level: 0, tile: 1, first_index: 256 }))
    ));
}
