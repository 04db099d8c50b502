//! Users' keys as blobs under one key of the token.

use casemate_hsm::{HsmError, KeyClass, WrappedKek};
use cryptoki::mechanism::Mechanism;

use crate::fixture::{Fixture, LABEL};

crate::list![
    a_user_key_leaves_no_object,
    a_user_key_serves_from_its_blob,
    a_blob_of_another_user_is_noticed,
    a_tampered_user_key_is_refused,
    a_user_key_that_came_back_cannot_leave,
    a_wrapping_key_takes_users_keys_only,
    a_blob_moves_to_a_new_wrapping_key,
    a_destroyed_wrapping_key_kills_every_copy_of_its_blobs,
    the_token_tells_facts_without_a_login,
];

fn a_user_key_leaves_no_object(fixture: &Fixture) {
    let wrapping = fixture.key(KeyClass::KekWrapping);
    let before = fixture.ring.key_count().unwrap();
    let keks: Vec<WrappedKek> =
        (0..50).map(|n| fixture.ring.generate_user_kek(&wrapping, &format!("user/u{n}")).unwrap()).collect();
    assert_eq!(fixture.ring.key_count().unwrap(), before);
    let open: Vec<_> = keks.iter().map(|kek| fixture.ring.open_user_kek(&wrapping, kek).unwrap()).collect();
    assert_eq!(fixture.ring.key_count().unwrap(), before + 50);
    drop(open);
    assert_eq!(fixture.ring.key_count().unwrap(), before);
}

fn a_user_key_serves_from_its_blob(fixture: &Fixture) {
    let ring = &fixture.ring;
    let (wrapping, compartment) = (fixture.key(KeyClass::KekWrapping), fixture.key(KeyClass::Compartment));
    let kek = ring.generate_user_kek(&wrapping, "user/ana").unwrap();
    assert_eq!((kek.blob.len(), kek.key.class), (40, KeyClass::UserKek));
    let blob = ring.wrap(&ring.open_user_kek(&wrapping, &kek).unwrap(), &compartment).unwrap();
    // At another time, from the stored form.
    let stored: WrappedKek = serde_json::from_slice(&serde_json::to_vec(&kek).unwrap()).unwrap();
    let key = ring.open_user_kek(&wrapping, &stored).unwrap();
    assert_eq!(key.reference().check, kek.key.check);
    ring.unwrap_known(&key, compartment.reference(), &blob).unwrap();
}

fn a_blob_of_another_user_is_noticed(fixture: &Fixture) {
    let wrapping = fixture.key(KeyClass::KekWrapping);
    let mut ana = fixture.ring.generate_user_kek(&wrapping, "user/ana").unwrap();
    ana.blob = fixture.ring.generate_user_kek(&wrapping, "user/mallory").unwrap().blob;
    let result = fixture.ring.open_user_kek(&wrapping, &ana);
    assert!(matches!(result, Err(HsmError::KeyCheckMismatch { .. })), "{result:?}");
}

fn a_tampered_user_key_is_refused(fixture: &Fixture) {
    let wrapping = fixture.key(KeyClass::KekWrapping);
    let kek = fixture.ring.generate_user_kek(&wrapping, "user/ana").unwrap();
    let before = fixture.ring.key_count().unwrap();
    let refused = |blob: Vec<u8>| {
        let result = fixture.ring.open_user_kek(&wrapping, &WrappedKek { key: kek.key.clone(), blob });
        assert!(matches!(result, Err(HsmError::WrapRejected)), "{result:?}");
    };
    for position in 0..kek.blob.len() {
        let mut changed = kek.blob.clone();
        changed[position] ^= 0x80;
        refused(changed);
    }
    for length in [0, 8, 24, 32, 39] {
        refused(kek.blob[..length].to_vec());
    }
    assert_eq!(fixture.ring.key_count().unwrap(), before);
}

fn a_user_key_that_came_back_cannot_leave(fixture: &Fixture) {
    let wrapping = fixture.key(KeyClass::KekWrapping);
    let kek = fixture.ring.generate_user_kek(&wrapping, "user/ana").unwrap();
    let key = fixture.ring.open_user_kek(&wrapping, &kek).unwrap();
    let (wrapping, target) = (fixture.objects(wrapping.id())[0], fixture.objects(key.id())[0]);
    // Around this crate, from inside the process.
    let wrapped = fixture.session(LABEL).wrap_key(&Mechanism::AesKeyWrap, wrapping, target);
    assert!(wrapped.is_err());
    for mechanism in [Mechanism::AesKeyWrap, Mechanism::AesEcb] {
        assert!(fixture.session(LABEL).decrypt(&mechanism, wrapping, &kek.blob[8..]).is_err(), "{mechanism:?}");
    }
}

fn a_wrapping_key_takes_users_keys_only(fixture: &Fixture) {
    let ring = &fixture.ring;
    let wrapping = fixture.key(KeyClass::KekWrapping);
    let compartment = fixture.key(KeyClass::Compartment);
    // Straight under the wrapping key every user could be given every compartment.
    assert!(matches!(ring.wrap(&wrapping, &compartment), Err(HsmError::WrongClass { .. })));
    let kek = ring.generate_user_kek(&wrapping, "user/ana").unwrap();
    let refused = ring.unwrap(&wrapping, KeyClass::Compartment, &kek.blob);
    assert!(matches!(refused, Err(HsmError::WrongClass { .. })), "{refused:?}");
    let other = fixture.key(KeyClass::UserKek);
    assert!(matches!(ring.generate_user_kek(&other, "user/bo"), Err(HsmError::WrongClass { .. })));
    assert!(matches!(ring.open_user_kek(&other, &kek), Err(HsmError::WrongClass { .. })));
}

fn a_blob_moves_to_a_new_wrapping_key(fixture: &Fixture) {
    let ring = &fixture.ring;
    let (old, new) = (fixture.key(KeyClass::KekWrapping), fixture.key(KeyClass::KekWrapping));
    let compartment = fixture.key(KeyClass::Compartment);
    let kek = ring.generate_user_kek(&old, "user/ana").unwrap();
    let blob = ring.wrap(&ring.open_user_kek(&old, &kek).unwrap(), &compartment).unwrap();
    let before = ring.key_count().unwrap();
    let moved = ring.rewrap_user_kek(&old, &new, &kek).unwrap();
    assert_eq!(ring.key_count().unwrap(), before);
    assert_eq!(moved.key, kek.key);
    ring.unwrap_known(&ring.open_user_kek(&new, &moved).unwrap(), compartment.reference(), &blob).unwrap();
    assert!(matches!(ring.open_user_kek(&new, &kek), Err(HsmError::WrapRejected)));
    assert!(matches!(ring.open_user_kek(&old, &moved), Err(HsmError::WrapRejected)));
}

fn a_destroyed_wrapping_key_kills_every_copy_of_its_blobs(fixture: &Fixture) {
    let ring = &fixture.ring;
    let old = fixture.key(KeyClass::KekWrapping);
    let reference = old.reference().clone();
    let copy = ring.generate_user_kek(&old, "user/ana").unwrap();
    ring.destroy(old).unwrap();
    assert!(matches!(ring.find(&reference), Err(HsmError::KeyMissing { .. })));
    let new = fixture.key(KeyClass::KekWrapping);
    assert!(matches!(ring.open_user_kek(&new, &copy), Err(HsmError::WrapRejected)));
}

fn the_token_tells_facts_without_a_login(fixture: &Fixture) {
    let facts = fixture.module.facts(LABEL).unwrap();
    assert!(!facts.manufacturer.is_empty() && !facts.model.is_empty() && !facts.serial.is_empty(), "{facts:?}");
    // Software tokens: none says that its slot is hardware, and none says that it is in an approved mode.
    assert!(!facts.hardware_slot, "{facts:?}");
    assert_ne!(facts.approved, Some(true), "{facts:?}");
    assert!(facts.claims.is_empty(), "{facts:?}");
    assert!(matches!(fixture.module.facts("no such token"), Err(HsmError::TokenMissing { .. })));
}
