//! What was signed is what is there: every file, every field, every byte.

use casemate_bundle::{BundleError, build_with_evidence, inspect, sign, ustar, verify};
use serde_json::{Value, json};

use crate::forge::{Site, TUF, canonical, edit, edit_json, envelope, expires, files, input, now, signed_parts, time};

#[test]
fn altered_component_manifest_and_settings_are_named() {
    let site = Site::new();
    for name in ["component.wasm", "manifest.toml", "settings.json"] {
        let bundle = edit(&site.bundle(1), |entries| *entries.get_mut(name).unwrap().last_mut().unwrap() ^= 1);
        assert!(matches!(site.refusal(&bundle), BundleError::AlteredEntry { entry } if entry == name));
        let bundle = edit(&site.bundle(1), |entries| entries.get_mut(name).unwrap().push(b' '));
        assert!(matches!(site.refusal(&bundle), BundleError::AlteredEntry { entry } if entry == name));
    }
}

#[test]
fn nobody_signs_a_draft_that_does_not_match() {
    let site = Site::new();
    let draft = edit(&site.draft(1), |entries| *entries.get_mut("component.wasm").unwrap().last_mut().unwrap() ^= 1);
    assert!(matches!(sign(&draft, &site.ada.key, &site.root), Err(BundleError::AlteredEntry { .. })));
    assert!(matches!(inspect(&draft, &site.root), Err(BundleError::AlteredEntry { .. })));
}

#[test]
fn missing_entries_are_named() {
    let site = Site::new();
    for name in ["component.wasm", "manifest.toml", "settings.json", TUF[0], TUF[1], TUF[2]] {
        let bundle = edit(&site.bundle(1), |entries| drop(entries.remove(name)));
        assert!(matches!(site.refusal(&bundle), BundleError::MissingEntry { entry } if entry == name));
    }
}

#[test]
fn extra_entries_are_named() {
    let site = Site::new();
    let add = |name: &str| edit(&site.bundle(1), |entries| drop(entries.insert(name.to_owned(), b"x".to_vec())));
    assert!(matches!(site.refusal(&add("evidence/x")), BundleError::UnlistedEntry { entry } if entry == "evidence/x"));
    for name in ["component.wasm.bak", "tuf/1.root.json", "evidence", "run.sh"] {
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
    let evidence = [("evidence/replay.json".to_owned(), b"{}".to_vec())].into();
    let bundle = site.sign_two(&build_with_evidence(&site.root, input(1), &evidence).unwrap());
    let verified = verify(&bundle, &site.root, now()).unwrap();
    assert_eq!(verified.evidence().collect::<Vec<_>>(), [("evidence/replay.json", b"{}".as_slice())]);
    let gone = edit(&bundle, |entries| drop(entries.remove("evidence/replay.json")));
    assert!(matches!(site.refusal(&gone), BundleError::MissingEntry { entry } if entry == "evidence/replay.json"));
    let altered = edit(&bundle, |entries| drop(entries.insert("evidence/replay.json".to_owned(), b"[]".to_vec())));
    assert!(matches!(site.refusal(&altered), BundleError::AlteredEntry { .. }));
    let evidence = [("replay.json".to_owned(), Vec::new())].into();
    assert!(matches!(build_with_evidence(&site.root, input(1), &evidence), Err(BundleError::UnexpectedEntry { .. })));
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
        |part| part["targets"]["component.wasm"]["custom"] = json!({"run": "native"}),
        |part| part["targets"]["component.wasm"]["hashes"]["sha512"] = json!("00"),
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
        (b"", "shorter"),
    ] {
        let mut files = files();
        files.insert("component.wasm".to_owned(), code.to_vec());
        let error = site.refusal(&site.seal(&files, 1));
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
