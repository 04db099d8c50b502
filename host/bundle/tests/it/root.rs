//! The site's root of trust, and forged ones.

use casemate_bundle::{ApproverKey, BundleError, TrustRoot};
use serde_json::{Value, json};

use crate::forge::{Person, Site, canonical, envelope, envelope_of, key_id, time};

/// A root as the format describes it: `(key id, public key, name)` each.
fn root_part(keys: &[(String, String, &str)]) -> Value {
    let mut map = json!({});
    for (key_id, public, name) in keys {
        map[key_id] = json!({
            "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}, "x-casemate-approver": name
        });
    }
    let mut ids: Vec<_> = keys.iter().map(|(key_id, ..)| key_id).collect();
    ids.sort();
    let role = json!({"keyids": ids, "threshold": 2});
    json!({
        "_type": "root", "spec_version": "1.0.34", "version": 1, "consistent_snapshot": false,
        "expires": "2030-01-01T00:00:00Z", "keys": map,
        "roles": {"root": role, "timestamp": role, "snapshot": role, "targets": role}
    })
}

fn own(person: &Person) -> (String, String, &str) {
    (person.key_id(), person.public_hex(), &person.name)
}

#[track_caller]
fn refusal(bytes: &[u8]) -> BundleError {
    TrustRoot::parse(bytes).expect_err("the attack was not noticed")
}

#[test]
fn the_format_is_as_described_and_names_the_approvers() {
    let (ada, ben) = (Person::new("ada"), Person::new("ben"));
    let bytes = TrustRoot::create(&[&ben.key, &ada.key], time("2030-01-01T00:00:00.5Z")).unwrap();
    assert_eq!(bytes, envelope(&root_part(&[own(&ada), own(&ben)]), &[&ada, &ben]));
    let root = TrustRoot::parse(&bytes).unwrap();
    let mut names: Vec<_> = root.approvers().map(|(name, key_id)| (name.to_owned(), key_id.to_owned())).collect();
    names.sort();
    assert_eq!(names, [("ada".to_owned(), ada.key_id()), ("ben".to_owned(), ben.key_id())]);
    assert_eq!((root.version(), root.expires()), (1, time("2030-01-01T00:00:00Z")));
}

#[test]
fn one_approver_is_not_a_site() {
    let ada = Person::new("ada");
    assert!(matches!(TrustRoot::create(&[&ada.key], time("2030-01-01T00:00:00Z")), Err(BundleError::Root { .. })));
}

#[test]
fn one_person_or_one_key_twice_cannot_make_a_site() {
    let (ada, other) = (Person::new("ada"), ApproverKey::generate("ada").unwrap());
    let until = time("2030-01-01T00:00:00Z");
    assert!(matches!(TrustRoot::create(&[&ada.key, &ada.key], until), Err(BundleError::DuplicateApproverKey { .. })));
    assert!(matches!(TrustRoot::create(&[&ada.key, &other], until), Err(BundleError::DuplicateApproverName { .. })));
}

#[test]
fn same_key_under_two_ids_is_named() {
    let ada = Person::new("ada");
    let second = "0".repeat(64);
    let part = root_part(&[own(&ada), (second.clone(), ada.public_hex(), "ben")]);
    let bytes = envelope_of(&part, vec![ada.signature(&part), ada.signature_as(&second, &part)]);
    // The TUF client alone would take this root: two key ids, two good signatures.
    assert!(sigstore_tuf::TrustedMetadataSet::from_root(&bytes).is_ok());
    assert!(matches!(refusal(&bytes), BundleError::DuplicateApproverKey { .. }));
}

#[test]
fn same_key_in_two_spellings_is_named() {
    let ada = Person::new("ada");
    let upper = ada.public_hex().to_uppercase();
    let part = root_part(&[own(&ada), (key_id(&upper), upper.clone(), "ben")]);
    let bytes = envelope_of(&part, vec![ada.signature(&part), ada.signature_as(&key_id(&upper), &part)]);
    assert!(sigstore_tuf::TrustedMetadataSet::from_root(&bytes).is_ok());
    assert!(matches!(refusal(&bytes), BundleError::DuplicateApproverKey { .. }));
}

#[test]
fn one_person_with_two_keys_is_named() {
    let (ada, other) = (Person::new("ada"), Person::new("ada"));
    let bytes = envelope(&root_part(&[own(&ada), own(&other)]), &[&ada, &other]);
    assert!(matches!(refusal(&bytes), BundleError::DuplicateApproverName { .. }));
}

#[test]
fn key_id_that_is_not_the_digest_of_its_key_is_refused() {
    let (ada, ben) = (Person::new("ada"), Person::new("ben"));
    let chosen = "f".repeat(64);
    let part = root_part(&[own(&ada), (chosen.clone(), ben.public_hex(), "ben")]);
    let bytes = envelope_of(&part, vec![ada.signature(&part), ben.signature_as(&chosen, &part)]);
    assert!(matches!(refusal(&bytes), BundleError::Root { .. }));
}

#[test]
fn root_signed_by_too_few_is_refused() {
    let (ada, ben) = (Person::new("ada"), Person::new("ben"));
    let part = root_part(&[own(&ada), own(&ben)]);
    for people in [[].as_slice(), &[&ada]] {
        let error = refusal(&envelope(&part, people));
        assert!(matches!(error, BundleError::NotEnoughSignatures { needed: 2, .. }), "{error:?}");
    }
}

#[test]
fn weaker_roles_and_extra_trust_are_refused() {
    let (ada, ben, eve) = (Person::new("ada"), Person::new("ben"), Person::new("eve"));
    let weaken: [fn(&mut Value); 7] = [
        |part| part["roles"]["targets"]["threshold"] = json!(1),
        |part| part["roles"]["root"]["threshold"] = json!(0),
        |part| drop(part["roles"]["timestamp"]["keyids"].as_array_mut().unwrap().pop()),
        |part| part["roles"]["mirrors"] = part["roles"]["root"].clone(),
        |part| part["consistent_snapshot"] = json!(true),
        |part| part["note"] = json!("extra"),
        |part| part["version"] = json!(0),
    ];
    for (i, weaken) in weaken.into_iter().enumerate() {
        let mut part = root_part(&[own(&ada), own(&ben), own(&eve)]);
        weaken(&mut part);
        let error = refusal(&envelope(&part, &[&ada, &ben]));
        assert!(matches!(error, BundleError::Root { .. } | BundleError::Tuf { .. }), "{i} {error:?}");
    }
}

#[test]
fn altered_name_of_an_approver_is_noticed() {
    let site = Site::new();
    let mut value: Value = serde_json::from_slice(site.root.as_bytes()).unwrap();
    value["signed"]["keys"][site.ada.key_id()]["x-casemate-approver"] = json!("eve");
    assert!(matches!(refusal(&canonical(&value)), BundleError::BadSignature { .. }));
}

#[test]
fn every_flipped_byte_and_every_truncation_of_a_root_is_refused() {
    let bytes = Site::new().root.as_bytes().to_vec();
    for at in 0..bytes.len() {
        for mask in [1, 0x20, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= mask;
            assert!(TrustRoot::parse(&bad).is_err(), "byte {at} mask {mask:#x}");
        }
        assert!(TrustRoot::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
}
