//! Who signed: too few, the wrong ones, the same one again.

use casemate_bundle::{ApproverKey, BundleError, TrustRoot, build, inspect, sign, ustar, verify};
use serde_json::{Value, json};

use crate::forge::{Person, Site, TUF, edit, edit_json, envelope, files, input, now, signed_parts, time};

#[test]
fn two_approvers_are_enough_and_any_order_gives_the_same_bytes() {
    let site = Site::new();
    let draft = site.draft(1);
    let one = sign(&sign(&draft, &site.ada.key, &site.root).unwrap(), &site.ben.key, &site.root).unwrap();
    let two = sign(&sign(&draft, &site.ben.key, &site.root).unwrap(), &site.ada.key, &site.root).unwrap();
    assert_eq!(one, two);
    assert_eq!(verify(&one, &site.root, now()).unwrap().signers(), ["ada", "ben"]);
    let three = sign(&one, &site.cyd.key, &site.root).unwrap();
    assert_eq!(verify(&three, &site.root, now()).unwrap().signers(), ["ada", "ben", "cyd"]);
}

#[test]
fn unsigned_draft_is_refused() {
    let site = Site::new();
    assert!(matches!(site.refusal(&site.draft(1)), BundleError::NotEnoughSignatures { found: 0, needed: 2, .. }));
}

#[test]
fn stripped_signatures_are_refused() {
    let site = Site::new();
    for file in TUF {
        let bundle = edit_json(&site.bundle(1), file, |value| value["signatures"] = json!([]));
        assert!(
            matches!(site.refusal(&bundle), BundleError::NotEnoughSignatures { file: f, found: 0, .. } if f == file)
        );
        let bundle =
            edit_json(&site.bundle(1), file, |value| drop(value.as_object_mut().unwrap().remove("signatures")));
        assert!(matches!(site.refusal(&bundle), BundleError::MalformedJson { file: f, .. } if f == file));
    }
}

#[test]
fn emptied_signatures_are_refused() {
    let site = Site::new();
    let bundle = edit_json(&site.bundle(1), TUF[1], |value| value["signatures"][0]["sig"] = json!(""));
    assert!(matches!(site.refusal(&bundle), BundleError::BadSignature { .. }));
}

#[test]
fn one_signature_only_is_refused() {
    let site = Site::new();
    let once = sign(&site.draft(1), &site.ada.key, &site.root).unwrap();
    assert!(matches!(site.refusal(&once), BundleError::NotEnoughSignatures { found: 1, needed: 2, .. }));
    for file in TUF {
        let bundle = edit_json(&site.bundle(1), file, |value| drop(value["signatures"].as_array_mut().unwrap().pop()));
        assert!(
            matches!(site.refusal(&bundle), BundleError::NotEnoughSignatures { file: f, found: 1, .. } if f == file)
        );
    }
}

#[test]
fn same_approver_twice_counts_once() {
    let site = Site::new();
    let once = sign(&site.draft(1), &site.ada.key, &site.root).unwrap();
    assert_eq!(sign(&once, &site.ada.key, &site.root).unwrap(), once);
    let twice = TUF.into_iter().fold(once, |bundle, file| {
        edit_json(&bundle, file, |value| {
            let first = value["signatures"][0].clone();
            value["signatures"].as_array_mut().unwrap().push(first);
        })
    });
    assert!(matches!(site.refusal(&twice), BundleError::DuplicateSignature { approver, .. } if approver == "ada"));
}

#[test]
fn two_of_three_on_each_file_but_not_the_same_two_are_refused() {
    let site = Site::new();
    let mut entries = files();
    let pairs = [[&site.ada, &site.ben], [&site.ben, &site.cyd], [&site.cyd, &site.ada]];
    for ((file, signed), people) in signed_parts(&files(), 1).into_iter().zip(pairs) {
        entries.insert(file.to_owned(), envelope(&signed, &people));
    }
    let error = site.refusal(&ustar::write(&entries).unwrap());
    assert!(matches!(error, BundleError::NotEnoughSignatures { found: 0, .. }), "{error:?}");
}

#[test]
fn outsiders_key_is_refused_when_signing() {
    let site = Site::new();
    let eve = Person::new("eve");
    assert!(
        matches!(sign(&site.draft(1), &eve.key, &site.root), Err(BundleError::NotAnApprover { key_id }) if key_id == eve.key_id())
    );
    let impostor = Person::new("ada");
    assert!(matches!(sign(&site.draft(1), &impostor.key, &site.root), Err(BundleError::NotAnApprover { .. })));
}

#[test]
fn outsiders_signature_is_refused_under_any_key_id() {
    let site = Site::new();
    let eve = Person::new("eve");
    let with = |key_id: String| {
        edit_json(&site.bundle(1), TUF[1], |value| {
            let signature = eve.signature_as(&key_id, &value["signed"]);
            let signatures = value["signatures"].as_array_mut().unwrap();
            signatures.retain(|old| old["keyid"] != json!(key_id));
            signatures.push(signature);
            signatures.sort_by_key(|signature| signature["keyid"].to_string());
        })
    };
    assert!(matches!(site.refusal(&with(eve.key_id())), BundleError::UnknownSigner { .. }));
    let borrowed = site.refusal(&with(site.ben.key_id()));
    assert!(matches!(borrowed, BundleError::BadSignature { approver, .. } if approver == "ben"));
}

#[test]
fn a_bad_third_signature_is_refused_beside_two_good_ones() {
    let site = Site::new();
    let three = sign(&site.bundle(1), &site.cyd.key, &site.root).unwrap();
    let bundle = edit_json(&three, TUF[0], |value| {
        let list = value["signatures"].as_array_mut().unwrap();
        let cyd = list.iter_mut().find(|s| s["keyid"] == json!(site.cyd.key_id())).unwrap();
        cyd["sig"] = json!("00".repeat(64));
    });
    assert!(matches!(site.refusal(&bundle), BundleError::BadSignature { approver, .. } if approver == "cyd"));
    assert!(sign(&bundle, &site.ada.key, &site.root).is_err(), "no one adds to a bundle with a bad signature");
    assert!(inspect(&bundle, &site.root).is_err());
}

#[test]
fn signature_in_another_spelling_is_refused() {
    let site = Site::new();
    let bundle = edit_json(&site.bundle(1), TUF[1], |value| {
        let sig = value["signatures"][0]["sig"].as_str().unwrap().to_uppercase();
        value["signatures"][0]["sig"] = json!(sig);
    });
    assert!(matches!(site.refusal(&bundle), BundleError::BadSignature { .. }));
}

#[test]
fn metadata_in_another_spelling_is_refused() {
    let site = Site::new();
    type Respell = fn(&[u8]) -> Vec<u8>;
    let respell: [Respell; 3] = [
        |bytes| serde_json::to_vec_pretty(&serde_json::from_slice::<Value>(bytes).unwrap()).unwrap(),
        |bytes| [bytes, b"\n"].concat(),
        |bytes| [b"{\"signed\":{},", &bytes[1..]].concat(),
    ];
    for respell in respell {
        let bundle = edit(&site.bundle(1), |entries| {
            let bytes = respell(&entries[TUF[1]]);
            entries.insert(TUF[1].to_owned(), bytes);
        });
        assert!(matches!(site.refusal(&bundle), BundleError::MalformedJson { .. }));
    }
}

#[test]
fn root_from_another_site_is_refused() {
    let (site, other) = (Site::new(), Site::new());
    let error = verify(&site.bundle(1), &other.root, now()).unwrap_err();
    assert!(matches!(error, BundleError::UnknownSigner { .. }), "{error:?}");
}

#[test]
fn root_carried_in_the_bundle_is_refused() {
    let (site, other) = (Site::new(), Site::new());
    let bundle = edit(&other.bundle(1), |entries| {
        entries.insert("tuf/root.json".to_owned(), other.root.as_bytes().to_vec());
    });
    assert!(matches!(site.refusal(&bundle), BundleError::UnexpectedEntry { entry } if entry == "tuf/root.json"));
}

#[test]
fn a_p256_approver_counts_like_an_ed25519_one_and_an_altered_signature_is_named() {
    let (ada, ben) = (ApproverKey::generate("ada").unwrap(), ApproverKey::generate_p256("ben").unwrap());
    let root = TrustRoot::create(&[&ada, &ben], time("2030-01-01T00:00:00Z")).unwrap();
    let root = TrustRoot::parse(&root).unwrap();
    let draft = build(&root, input(1)).unwrap();
    let bundle = sign(&sign(&draft, &ben, &root).unwrap(), &ada, &root).unwrap();
    assert_eq!(verify(&bundle, &root, now()).unwrap().signers(), ["ada", "ben"]);
    let key_id = ben.public().key_id().unwrap();
    let bad = edit_json(&bundle, TUF[0], |value| {
        let list = value["signatures"].as_array_mut().unwrap();
        let entry = list.iter_mut().find(|entry| entry["keyid"] == json!(key_id)).unwrap();
        let sig = entry["sig"].as_str().unwrap().to_owned();
        let (head, last) = sig.split_at(sig.len() - 1);
        entry["sig"] = json!(format!("{head}{}", if last == "0" { "1" } else { "0" }));
    });
    let error = verify(&bad, &root, now()).unwrap_err();
    assert!(matches!(error, BundleError::BadSignature { ref approver, .. } if approver == "ben"), "{error:?}");
}
