//! What was signed is what is there: every file, every field, every byte.

use casemate_attest::{Envelope, IN_TOTO, Statement, Subject};
use casemate_bundle::{Additions, BundleError, CYCLONEDX, PROVENANCE, build_with, inspect, sign, ustar, verify};
use casemate_types::Digest;
use serde_json::{Value, json};

use crate::forge::{
    COMPONENT, Person, Site, TUF, blob_name, canonical, edit, edit_json, envelope, expires, files, files_of, input,
    now, signed_parts, time,
};

#[test]
fn altered_component_manifest_and_settings_are_named() {
    let site = Site::new();
    for name in [blob_name(COMPONENT).as_str(), "manifest.toml", "settings.json", "index.json", "oci-layout"] {
        let bundle = edit(&site.bundle(1), |entries| *entries.get_mut(name).unwrap().last_mut().unwrap() ^= 1);
        assert!(matches!(site.refusal(&bundle), BundleError::AlteredEntry { entry } if entry == name));
        let bundle = edit(&site.bundle(1), |entries| entries.get_mut(name).unwrap().push(b' '));
        assert!(matches!(site.refusal(&bundle), BundleError::AlteredEntry { entry } if entry == name));
    }
}

#[test]
fn nobody_signs_a_draft_that_does_not_match() {
    let site = Site::new();
    let draft =
        edit(&site.draft(1), |entries| *entries.get_mut(&blob_name(COMPONENT)).unwrap().last_mut().unwrap() ^= 1);
    assert!(matches!(sign(&draft, &site.ada.key, &site.root), Err(BundleError::AlteredEntry { .. })));
    assert!(matches!(inspect(&draft, &site.root), Err(BundleError::AlteredEntry { .. })));
}

#[test]
fn missing_entries_are_named() {
    let site = Site::new();
    let component = blob_name(COMPONENT);
    for name in
        [component.as_str(), "manifest.toml", "settings.json", "index.json", "oci-layout", TUF[0], TUF[1], TUF[2]]
    {
        let bundle = edit(&site.bundle(1), |entries| drop(entries.remove(name)));
        assert!(matches!(site.refusal(&bundle), BundleError::MissingEntry { entry } if entry == name));
    }
}

#[test]
fn extra_entries_are_named() {
    let site = Site::new();
    let add = |name: &str| edit(&site.bundle(1), |entries| drop(entries.insert(name.to_owned(), b"x".to_vec())));
    assert!(matches!(site.refusal(&add("evidence/x")), BundleError::UnlistedEntry { entry } if entry == "evidence/x"));
    assert!(matches!(site.refusal(&add("blobs/sha256/x")), BundleError::UnlistedEntry { .. }));
    for name in ["component.wasm", "tuf/1.root.json", "evidence", "blobs/sha512/x", "run.sh"] {
        assert!(matches!(site.refusal(&add(name)), BundleError::UnexpectedEntry { entry } if entry == name));
    }
}

#[test]
fn even_two_approvers_cannot_add_other_files() {
    let site = Site::new();
    let mut files = files();
    files.insert("run.sh".to_owned(), b"x".to_vec());
    assert!(matches!(site.refusal(&site.seal(&files, 1)), BundleError::UnexpectedEntry { .. }));
}

#[test]
fn listed_evidence_is_pinned_like_the_rest() {
    let site = Site::new();
    let statement = envelope_about(COMPONENT, "https://example.com/replay/v1", json!({"same": 7}));
    let bytes = statement.to_bytes().unwrap();
    let bundle = site.sign_two(&build_with(&site.root, input(1), &evidence(REPLAY, bytes.clone())).unwrap());
    let verified = verify(&bundle, &site.root, now()).unwrap();
    assert_eq!(verified.evidence().collect::<Vec<_>>(), [(REPLAY, bytes.as_slice())]);
    assert_eq!(verified.statements()[0].statement.predicate["same"], 7);
    let gone = edit(&bundle, |entries| drop(entries.remove(REPLAY)));
    assert!(matches!(site.refusal(&gone), BundleError::MissingEntry { entry } if entry == REPLAY));
    let altered = edit(&bundle, |entries| drop(entries.insert(REPLAY.to_owned(), b"[]".to_vec())));
    assert!(matches!(site.refusal(&altered), BundleError::AlteredEntry { .. }));
    let loose = build_with(&site.root, input(1), &evidence("replay.dsse.json", bytes));
    assert!(matches!(loose, Err(BundleError::UnexpectedEntry { .. })));
}

const REPLAY: &str = "evidence/replay.dsse.json";

fn evidence(name: &str, bytes: Vec<u8>) -> Additions {
    Additions { evidence: [(name.to_owned(), bytes)].into(), ..Additions::default() }
}

fn envelope_about(file: &[u8], kind: &str, predicate: Value) -> Envelope {
    Statement::new(vec![Subject::new("clearance.wasm", Digest::of(file))], kind, predicate).envelope().unwrap()
}

#[test]
fn evidence_swapped_in_from_another_bundle_is_refused_even_when_signed() {
    let site = Site::new();
    let other = envelope_about(b"another component", "https://example.com/replay/v1", json!({})).to_bytes().unwrap();
    let built = build_with(&site.root, input(1), &evidence(REPLAY, other.clone()));
    assert!(matches!(built, Err(BundleError::Evidence { ref entry, .. }) if entry == REPLAY), "{built:?}");
    let mut files = files();
    files.insert(REPLAY.to_owned(), other);
    assert!(matches!(site.refusal(&site.seal(&files, 1)), BundleError::Evidence { entry, .. } if entry == REPLAY));
}

#[test]
fn files_that_are_no_statement_are_no_evidence() {
    let site = Site::new();
    let good = envelope_about(COMPONENT, "https://example.com/replay/v1", json!({}));
    let cases = [
        ("evidence/replay.json", good.to_bytes().unwrap()),
        ("evidence/.dsse.json", good.to_bytes().unwrap()),
        (REPLAY, b"{}".to_vec()),
        (REPLAY, b"\x7fELF\x02\x01\x01\0 precompiled".to_vec()),
        (REPLAY, Envelope::<String>::new("text/plain", good.payload().to_vec()).to_bytes().unwrap()),
        (REPLAY, Envelope::<String>::new(IN_TOTO, b"{}".to_vec()).to_bytes().unwrap()),
        (REPLAY, envelope_about(COMPONENT, PROVENANCE, json!({"buildDefinition": {}})).to_bytes().unwrap()),
        (REPLAY, envelope_about(COMPONENT, CYCLONEDX, json!({"bomFormat": "SPDX"})).to_bytes().unwrap()),
    ];
    for (i, (name, bytes)) in cases.into_iter().enumerate() {
        let built = build_with(&site.root, input(1), &evidence(name, bytes));
        assert!(matches!(built, Err(BundleError::Evidence { .. })), "{i} {built:?}");
    }
}

#[test]
fn signatures_inside_evidence_are_good_or_count_for_nothing() {
    let site = Site::new();
    let statement = envelope_about(COMPONENT, "https://example.com/replay/v1", json!({}));
    let signers = |envelope: &Envelope| {
        let built = build_with(&site.root, input(1), &evidence(REPLAY, envelope.to_bytes().unwrap()))?;
        let shown = inspect(&built, &site.root)?.evidence.remove(0);
        Ok::<_, BundleError>((shown.signers, shown.strangers))
    };
    let mut signed = statement.clone();
    signed.sign(site.ben.key_id(), &site.ben.key).unwrap();
    signed.sign(crate::forge::key_id("eve"), &Person::new("eve").key).unwrap();
    assert_eq!(signers(&signed).unwrap(), (vec!["ben".to_owned()], 1));
    let mut borrowed = statement.clone();
    borrowed.sign(site.ben.key_id(), &Person::new("eve").key).unwrap();
    assert!(matches!(signers(&borrowed), Err(BundleError::BadSignature { approver, .. }) if approver == "ben"));
    let mut twice = signed.clone();
    twice.push(
        site.ben.key_id(),
        signed.signatures().iter().find(|s| s.keyid == site.ben.key_id()).unwrap().sig.clone(),
    );
    assert!(matches!(signers(&twice), Err(BundleError::DuplicateSignature { approver, .. }) if approver == "ben"));
}

#[test]
fn an_oci_layout_of_other_content_is_refused_even_when_signed() {
    let site = Site::new();
    let good = files();
    // Index and manifest of another component, whose blob is there as well: two tools would load two components.
    let mut both = good.clone();
    let other = b"\0asm\x0d\0\x01\0\x00\x0e\x04note or other";
    both.extend(files_of(other).into_iter().filter(|(name, _)| name.starts_with("blobs/")));
    assert!(matches!(
        site.refusal(&site.seal(&both, 1)),
        BundleError::UnexpectedEntry { .. } | BundleError::MalformedJson { .. }
    ));
    for (name, from, to) in [
        ("oci-layout", "1.0.0", "1.1.0"),
        ("index.json", "1.0.0", "2.0.0"),
        ("index.json", "\"schemaVersion\":2", "\"schemaVersion\":1"),
    ] {
        let mut files = good.clone();
        let text = String::from_utf8(files[name].clone()).unwrap();
        assert!(text.contains(from));
        files.insert(name.to_owned(), text.replace(from, to).into_bytes());
        let error = site.refusal(&site.seal(&files, 1));
        assert!(matches!(error, BundleError::OciLayout { ref entry } if entry == name), "{error:?}");
    }
    let mut files = good;
    files.insert("index.json".to_owned(), b"{\"manifests\":[]}".to_vec());
    assert!(
        matches!(site.refusal(&site.seal(&files, 1)), BundleError::MalformedJson { file, .. } if file == "index.json")
    );
}

#[test]
fn signed_metadata_that_shows_other_authority_than_the_manifest_is_refused() {
    let site = Site::new();
    let change: [fn(&mut Value); 6] = [
        |custom| custom["capabilities"] = json!(["log", "session"]),
        |custom| custom["limits"]["time-ms"] = json!(49),
        |custom| custom["version"] = json!("1.0.1"),
        |custom| custom["world"] = json!("casemate:plugin/agent-handler@0.1.0"),
        |custom| custom["kind"] = json!("model"),
        |custom| custom["name"] = json!("clearance2"),
    ];
    let name = blob_name(COMPONENT);
    let with = |change: &dyn Fn(&mut Value)| {
        edit_json(&site.bundle(1), TUF[1], |value| {
            change(&mut value["signed"]["targets"][&name]["custom"]);
            *value = serde_json::from_slice(&envelope(&value["signed"], &[&site.ada, &site.ben])).unwrap();
        })
    };
    for change in change {
        assert!(matches!(site.refusal(&with(&change)), BundleError::MixAndMatch { .. }));
    }
    for bad in [json!("sha256:00"), json!(7), Value::Null] {
        let bundle = with(&|custom: &mut Value| custom["wit"] = bad.clone());
        assert!(matches!(site.refusal(&bundle), BundleError::MalformedJson { .. }), "{bad}");
    }
}

#[test]
fn what_is_replaced_is_in_the_signed_metadata() {
    let site = Site::new();
    let replaces = Some(Digest::of(b"the old component"));
    let draft = build_with(&site.root, input(1), &Additions { replaces, ..Additions::default() }).unwrap();
    assert_eq!(verify(&site.sign_two(&draft), &site.root, now()).unwrap().replaces(), replaces);
    assert_eq!(inspect(&site.draft(1), &site.root).unwrap().replaces, None);
}

#[test]
fn swapped_targets_of_another_bundle_are_refused() {
    let site = Site::new();
    let mut other = files();
    other.insert("settings.json".to_owned(), b"{}".to_vec());
    // The same version and date, signed by the same two: only the content differs.
    let other = ustar::read(&site.seal(&other, 1)).unwrap();
    let swap = |names: &[&str]| {
        edit(&site.bundle(1), |entries| {
            for name in names {
                entries.insert((*name).to_owned(), other[*name].clone());
            }
        })
    };
    let error = site.refusal(&swap(&[TUF[1]]));
    assert!(matches!(error, BundleError::AlteredEntry { ref entry } if entry == "settings.json"), "{error:?}");
    // With the files that go with them, TUF's version pins are content; ours are not.
    let error = site.refusal(&swap(&[TUF[1], "settings.json"]));
    assert!(matches!(error, BundleError::MixAndMatch { ref file } if file == TUF[0]), "{error:?}");
    let error = site.refusal(&swap(&[TUF[1], TUF[0], "settings.json"]));
    assert!(matches!(error, BundleError::MixAndMatch { ref file } if file == TUF[2]), "{error:?}");
}

#[test]
fn metadata_of_another_version_is_refused() {
    let site = Site::new();
    let newer = ustar::read(&site.bundle(2)).unwrap();
    for name in TUF {
        let bundle = edit(&site.bundle(1), |entries| drop(entries.insert(name.to_owned(), newer[name].clone())));
        let error = site.refusal(&bundle);
        assert!(matches!(error, BundleError::Tuf { .. } | BundleError::MixAndMatch { .. }), "{name} {error:?}");
    }
}

#[test]
fn edited_version_or_date_breaks_the_signature() {
    let site = Site::new();
    for file in TUF {
        for (key, value) in [("version", json!(9)), ("expires", json!("2099-01-01T00:00:00Z"))] {
            let bundle = edit_json(&site.bundle(1), file, |metadata| metadata["signed"][key] = value);
            assert!(matches!(site.refusal(&bundle), BundleError::BadSignature { file: f, .. } if f == file));
        }
    }
}

#[test]
fn expired_bundle_and_expired_root_are_named() {
    let site = Site::new();
    let bundle = site.bundle(1);
    assert!(verify(&bundle, &site.root, expires()).is_ok(), "the last moment");
    let error = verify(&bundle, &site.root, time("2027-06-01T00:00:01Z")).unwrap_err();
    assert!(matches!(error, BundleError::Expired { ref role, .. } if role == "timestamp"), "{error:?}");
    let error = verify(&bundle, &site.root, time("2030-01-01T00:00:01Z")).unwrap_err();
    assert!(matches!(error, BundleError::Expired { ref role, .. } if role == "root"), "{error:?}");
}

#[test]
fn delegations_and_unknown_fields_are_refused_even_when_signed() {
    let site = Site::new();
    let add: [fn(&mut Value); 4] = [
        |part| part["delegations"] = json!({"keys": {}, "roles": []}),
        |part| part["note"] = json!("extra"),
        |part| part["targets"]["settings.json"]["custom"] = json!({"run": "native"}),
        |part| part["targets"]["settings.json"]["hashes"]["sha512"] = json!("00"),
    ];
    for add in add {
        let bundle = edit_json(&site.bundle(1), TUF[1], |value| {
            add(&mut value["signed"]);
            *value = serde_json::from_slice(&envelope(&value["signed"], &[&site.ada, &site.ben])).unwrap();
        });
        assert!(matches!(site.refusal(&bundle), BundleError::MixAndMatch { .. }));
    }
}

#[test]
fn signed_code_that_is_not_a_component_is_refused() {
    let site = Site::new();
    for (code, word) in [
        (b"\x7fELF\x02\x01\x01\0 precompiled".as_slice(), "ELF"),
        (b"\0asm\x01\0\0\0 core module", "core module"),
        (b"\0asm\x0e\0\x01\0 tomorrow's component", "another version"),
        (b"#!/bin/sh -e", "not WebAssembly"),
        (b"\0asm\x0d", "shorter"),
        (b"\0asm\x0d\0\x01\0\x01", "cut off"),
        (b"\0asm\x0d\0\x01\0\x7fELF", "cut off"),
        (b"", "shorter"),
    ] {
        let error = site.refusal(&site.seal(&files_of(code), 1));
        assert!(matches!(error, BundleError::NotAComponent { reason } if reason.contains(word)), "{error:?}");
        let input = casemate_bundle::BuildInput { component: code, ..input(1) };
        assert!(matches!(casemate_bundle::build(&site.root, input), Err(BundleError::NotAComponent { .. })));
    }
}

#[test]
fn signed_manifest_and_settings_still_must_parse() {
    let site = Site::new();
    let with = |name: &str, body: &[u8]| {
        let mut files = files();
        files.insert(name.to_owned(), body.to_vec());
        site.refusal(&site.seal(&files, 1))
    };
    assert!(matches!(with("manifest.toml", b"network = true"), BundleError::Manifest(_)));
    assert!(matches!(with("manifest.toml", b"\xff"), BundleError::MalformedJson { .. }));
    for settings in [b"[]".as_slice(), b"null", b"", b"{\"a\":1,\"a\":2}", b"{} {}"] {
        assert!(matches!(with("settings.json", settings), BundleError::MalformedJson { .. }), "{settings:?}");
    }
    let large = [b"{\"a\":\"".as_slice(), &[b'x'; 1 << 20], b"\"}"].concat();
    assert!(matches!(with("settings.json", &large), BundleError::EntryTooLarge { .. }));
}

#[test]
fn version_zero_is_refused() {
    let site = Site::new();
    assert!(casemate_bundle::build(&site.root, input(0)).is_err());
    assert!(matches!(site.refusal(&site.seal(&files(), 0)), BundleError::MalformedJson { .. }));
}

#[test]
fn the_attackers_tools_make_the_same_bytes_as_the_crate() {
    // Without this the attacks above might be refused for being badly made.
    let site = Site::new();
    assert_eq!(site.seal(&files(), 3), site.bundle(3));
    let [(_, snapshot), ..] = signed_parts(&files(), 3);
    assert!(canonical(&snapshot).len() < 1024);
}

#[test]
fn every_flipped_byte_is_refused() {
    let site = Site::new();
    let bundle = site.bundle(1);
    assert!(verify(&bundle, &site.root, now()).is_ok());
    for at in 0..bundle.len() {
        for mask in [1, 0x20, 0x80] {
            let mut bad = bundle.clone();
            bad[at] ^= mask;
            assert!(verify(&bad, &site.root, now()).is_err(), "byte {at} mask {mask:#x}");
        }
    }
}

#[test]
fn truncated_at_every_length_is_refused() {
    let site = Site::new();
    let bundle = site.bundle(1);
    for end in 0..bundle.len() {
        assert!(verify(&bundle[..end], &site.root, now()).is_err(), "{end}");
    }
}
