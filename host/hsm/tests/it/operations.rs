//! What keys do, and what they refuse.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, UnparsedPublicKey};
use casemate_hsm::{Ff1, HsmError, Key, KeyClass, Keyring, OaepHash, encrypt_share};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType};

use crate::fixture::{Fixture, LABEL};

crate::list![
    a_wrong_class_never_reaches_the_token,
    a_signature_verifies_elsewhere,
    a_p256_signature_verifies_elsewhere,
    a_share_opens_at_its_custodian_only,
    a_share_key_is_no_other_oracle,
    a_master_derives_by_label_and_context,
    a_mac_depends_on_key_and_message,
    a_sealed_value_opens,
    a_tampered_sealed_value_is_refused,
    a_sealed_value_opens_in_its_place_only,
    a_wrapped_compartment_key_serves_its_user,
    another_user_cannot_unwrap,
    a_tampered_wrapped_key_is_refused,
    a_swapped_wrapped_key_is_noticed,
    an_unwrapped_key_cannot_leave,
    an_unwrapped_key_dies_with_its_handle,
    keys_that_stay_cannot_be_wrapped_by_force,
    a_wrapping_key_cannot_decrypt_what_it_wrapped,
    many_threads_share_one_keyring,
];

fn a_wrong_class_never_reaches_the_token(fixture: &Fixture) {
    let ring = &fixture.ring;
    let kek = fixture.key(KeyClass::UserKek);
    let compartment = fixture.key(KeyClass::Compartment);
    let blob = ring.wrap(&kek, &compartment).unwrap();
    let transport = fixture.transport();
    let birth = ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let package = ring.wrap_for(&birth, &ring.transport_key(&transport).unwrap()).unwrap();
    ring.admit(&transport, &package).unwrap();
    const SIGNING: &[KeyClass] = &[KeyClass::AuditSigning, KeyClass::CustodianSigning];
    type Operation<'a> = (&'static str, Box<dyn Fn(&Key) -> Result<(), HsmError> + 'a>, &'static [KeyClass]);
    let operations: Vec<Operation<'_>> = vec![
        ("public key", Box::new(|key| ring.public_key(key).map(drop)), SIGNING),
        ("sign", Box::new(|key| ring.sign(key, b"m").map(drop)), SIGNING),
        ("public point", Box::new(|key| ring.public_point(key).map(drop)), &[KeyClass::ApproverSigning]),
        ("sign on P-256", Box::new(|key| ring.sign_p256(key, b"m").map(drop)), &[KeyClass::ApproverSigning]),
        ("decrypt a share", Box::new(|key| decrypt_own(ring, key)), &[KeyClass::CustodianShares]),
        ("derive", Box::new(|key| ring.derive(key, b"role", b"").map(drop)), &[KeyClass::RbacMaster]),
        ("address", Box::new(|key| ring.transport_key(key).map(drop)), &[KeyClass::Transport]),
        (
            "wrap a birth under",
            Box::new(|key| ring.wrap_under(&ring.birth(KeyClass::FpeFf1, "test")?, key, "elsewhere").map(drop)),
            &[KeyClass::SyncKekSource],
        ),
        ("admit under", Box::new(|key| ring.admit(key, &package).map(drop)), &[KeyClass::Transport]),
        ("mac", Box::new(|key| ring.mac(key, b"m").map(drop)), &[KeyClass::Token]),
        ("seal", Box::new(|key| ring.seal(key, b"", b"m").map(drop)), &[KeyClass::AtRest, KeyClass::Compartment]),
        ("wrap under", Box::new(|key| ring.wrap(key, &compartment).map(drop)), &[KeyClass::UserKek]),
        ("wrap", Box::new(|key| ring.wrap(&kek, key).map(drop)), &[KeyClass::Compartment]),
        ("unwrap", Box::new(|key| ring.unwrap(key, KeyClass::Compartment, &blob).map(drop)), &[KeyClass::UserKek]),
        (
            "ff1",
            Box::new(|key| Ff1::new(Arc::clone(ring), ring.find(key.reference())?, 10).map(drop)),
            &[KeyClass::FpeFf1],
        ),
    ];
    for class in fixture.classes() {
        let key = fixture.key(class);
        for (name, operation, classes) in &operations {
            let result = operation(&key);
            let right = classes.contains(&class);
            match result {
                Ok(()) => assert!(right, "{name} with {class}"),
                Err(HsmError::WrongClass { .. }) => assert!(!right, "{name} with {class}"),
                // The right class, but another user's key.
                Err(HsmError::WrapRejected) => {
                    assert_eq!((*name, class), ("unwrap", KeyClass::UserKek))
                }
                Err(other) => panic!("{name} with {class}: {other:?}"),
            }
        }
        let opened = ring.open_sealed(&key, b"", &[0; 40]);
        let gcm = matches!(class, KeyClass::AtRest | KeyClass::Compartment);
        assert_eq!(matches!(opened, Err(HsmError::WrongClass { .. })), !gcm, "open with {class}");
        // A blob must not come back with another purpose.
        let reborn = ring.unwrap(&kek, class, &blob);
        assert_eq!(matches!(reborn, Err(HsmError::WrongClass { .. })), class != KeyClass::Compartment, "{class}");
    }
}

fn decrypt_own(ring: &Keyring, key: &Key) -> Result<(), HsmError> {
    let ciphertext = match ring.oaep_hash(key) {
        Ok(hash) => encrypt_share(&ring.public_key_der(key)?, hash, b"a share")?,
        Err(_) => vec![0; 384],
    };
    ring.decrypt_share(key, &ciphertext).map(drop)
}

fn a_share_opens_at_its_custodian_only(fixture: &Fixture) {
    let ring = &fixture.ring;
    let (alice, mallory) = (fixture.key(KeyClass::CustodianShares), fixture.key(KeyClass::CustodianShares));
    let spki = ring.public_key_der(&alice).unwrap();
    let hash = ring.oaep_hash(&alice).unwrap();
    let longest = if hash == OaepHash::Sha256 { 318 } else { 342 };
    for length in [0, 1, 32, longest] {
        let ciphertext = encrypt_share(&spki, hash, &vec![7; length]).unwrap();
        assert_eq!(*ring.decrypt_share(&alice, &ciphertext).unwrap(), vec![7; length]);
    }
    let ciphertext = encrypt_share(&spki, hash, b"a share").unwrap();
    let refused = |key, ciphertext: &[u8]| {
        let result = ring.decrypt_share(key, ciphertext);
        assert!(matches!(result, Err(HsmError::ShareRejected)), "{result:?}");
    };
    refused(&mallory, &ciphertext);
    for position in [0, 1, 100, 383] {
        let mut changed = ciphertext.clone();
        changed[position] ^= 1;
        refused(&alice, &changed);
    }
    refused(&alice, &ciphertext[1..]);
    refused(&alice, &[&ciphertext[..], &[0]].concat());
    assert_eq!(*ring.decrypt_share(&alice, &ciphertext).unwrap(), b"a share");
}

/// RSA keys answer to their one padding: no PKCS #1 v1.5, no raw RSA.
fn a_share_key_is_no_other_oracle(fixture: &Fixture) {
    let key = fixture.key(KeyClass::CustodianShares);
    let session = fixture.session(LABEL);
    for object in fixture.objects(key.id()) {
        for mechanism in [Mechanism::RsaPkcs, Mechanism::RsaX509] {
            assert!(session.decrypt(&mechanism, object, &[1; 384]).is_err(), "{mechanism:?}");
            assert!(session.sign(&mechanism, object, &[1; 32]).is_err(), "{mechanism:?}");
        }
    }
}

fn a_master_derives_by_label_and_context(fixture: &Fixture) {
    let ring = &fixture.ring;
    if !ring.supports(KeyClass::RbacMaster).unwrap() {
        let error = ring.generate(KeyClass::RbacMaster, "test").unwrap_err();
        assert!(matches!(error, HsmError::MechanismMissing { class: KeyClass::RbacMaster, .. }), "{error}");
        assert!(error.to_string().contains("SP800_108"), "{error}");
        return;
    }
    let (master, other) = (fixture.key(KeyClass::RbacMaster), fixture.key(KeyClass::RbacMaster));
    let check = |master, label: &[u8], context: &[u8]| {
        let key = ring.derive(master, label, context).unwrap();
        assert_eq!(key.class(), KeyClass::Compartment);
        key.reference().check.clone()
    };
    assert_eq!(check(&master, b"role", b"a"), check(&master, b"role", b"a"));
    assert_ne!(check(&master, b"role", b"a"), check(&master, b"role", b"b"));
    assert_ne!(check(&master, b"role", b"a"), check(&master, b"rolea", b""));
    assert_ne!(check(&master, b"role", b"a"), check(&other, b"role", b"a"));
    for label in [b"".as_slice(), b"ro\0le"] {
        assert!(matches!(ring.derive(&master, label, b""), Err(HsmError::DerivationLabel)));
    }
    let derived = ring.derive(&master, b"role", b"a").unwrap();
    let sealed = ring.seal(&derived, b"place", b"text").unwrap();
    assert_eq!(*ring.open_sealed(&derived, b"place", &sealed).unwrap(), b"text");
    let id = derived.id();
    drop(derived);
    assert!(fixture.objects(id).is_empty());
}

fn a_signature_verifies_elsewhere(fixture: &Fixture) {
    for class in [KeyClass::AuditSigning, KeyClass::CustodianSigning] {
        signature_verifies(fixture, &fixture.key(class));
    }
}

fn a_p256_signature_verifies_elsewhere(fixture: &Fixture) {
    let key = fixture.key(KeyClass::ApproverSigning);
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, fixture.ring.public_point(&key).unwrap());
    for message in [b"".as_slice(), b"a bundle", &[7; 10_000]] {
        let signature = fixture.ring.sign_p256(&key, message).unwrap();
        verifier.verify(message, &signature).unwrap();
        assert!(verifier.verify(b"another bundle", &signature).is_err());
    }
    let der = fixture.ring.public_key_der(&key).unwrap();
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &der).unwrap();
    parsed.verify_sig(b"m", &fixture.ring.sign_p256(&key, b"m").unwrap()).unwrap();
}

fn signature_verifies(fixture: &Fixture, key: &Key) {
    let verifier = UnparsedPublicKey::new(&ED25519, fixture.ring.public_key(key).unwrap());
    for message in [b"".as_slice(), b"a checkpoint", &[7; 10_000]] {
        let signature = fixture.ring.sign(key, message).unwrap();
        verifier.verify(message, &signature).unwrap();
        assert!(verifier.verify(b"another checkpoint", &signature).is_err());
    }
}

fn a_mac_depends_on_key_and_message(fixture: &Fixture) {
    let (a, b) = (fixture.key(KeyClass::Token), fixture.key(KeyClass::Token));
    let mac = |key, message: &[u8]| fixture.ring.mac(key, message).unwrap();
    assert_eq!(mac(&a, b"label"), mac(&a, b"label"));
    assert_ne!(mac(&a, b"label"), mac(&a, b"labels"));
    assert_ne!(mac(&a, b"label"), mac(&b, b"label"));
    assert_eq!(mac(&a, b""), mac(&a, b""));
}

fn a_sealed_value_opens(fixture: &Fixture) {
    for class in [KeyClass::AtRest, KeyClass::Compartment] {
        let key = fixture.key(class);
        for length in [0, 1, 16, 1_000, 100_000] {
            let plaintext = vec![42; length];
            let sealed = fixture.ring.seal(&key, b"place", &plaintext).unwrap();
            assert_eq!(sealed.len(), 12 + length + 16);
            assert_eq!(*fixture.ring.open_sealed(&key, b"place", &sealed).unwrap(), plaintext, "{class}, {length}");
            let again = fixture.ring.seal(&key, b"place", &plaintext).unwrap();
            assert_ne!(sealed[..12], again[..12], "an IV must not come twice");
        }
    }
}

fn a_tampered_sealed_value_is_refused(fixture: &Fixture) {
    let key = fixture.key(KeyClass::AtRest);
    let sealed = fixture.ring.seal(&key, b"place", b"a secret passage").unwrap();
    let refused = |sealed: &[u8]| {
        let result = fixture.ring.open_sealed(&key, b"place", sealed);
        assert!(matches!(result, Err(HsmError::SealRejected)), "{result:?}");
    };
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        refused(&changed);
    }
    for length in [0, 11, 12, 27, sealed.len() - 1] {
        refused(&sealed[..length]);
    }
    refused(&[&sealed[..], &[0]].concat());
    // Refusals leave the token in order.
    fixture.ring.health().unwrap();
    fixture.ring.open_sealed(&key, b"place", &sealed).unwrap();
}

fn a_sealed_value_opens_in_its_place_only(fixture: &Fixture) {
    let (key, other) = (fixture.key(KeyClass::Compartment), fixture.key(KeyClass::Compartment));
    let sealed = fixture.ring.seal(&key, b"document 1", b"text").unwrap();
    for (key, place) in [(&key, b"document 2".as_slice()), (&key, b""), (&other, b"document 1")] {
        assert!(matches!(fixture.ring.open_sealed(key, place, &sealed), Err(HsmError::SealRejected)));
    }
}

fn a_wrapped_compartment_key_serves_its_user(fixture: &Fixture) {
    let ring = &fixture.ring;
    let (kek, compartment) = (fixture.key(KeyClass::UserKek), fixture.key(KeyClass::Compartment));
    let sealed = ring.seal(&compartment, b"place", b"a compartment secret").unwrap();
    let blob = ring.wrap(&kek, &compartment).unwrap();
    assert_eq!(blob.len(), 40);
    let unwrapped = ring.unwrap_known(&kek, compartment.reference(), &blob).unwrap();
    assert_eq!(unwrapped.reference().check, compartment.reference().check);
    assert_ne!(unwrapped.id(), compartment.id());
    assert_eq!(*ring.open_sealed(&unwrapped, b"place", &sealed).unwrap(), b"a compartment secret");
    // And the other way round.
    let sealed = ring.seal(&unwrapped, b"place", b"new").unwrap();
    assert_eq!(*ring.open_sealed(&compartment, b"place", &sealed).unwrap(), b"new");
}

fn another_user_cannot_unwrap(fixture: &Fixture) {
    let (alice, mallory) = (fixture.key(KeyClass::UserKek), fixture.key(KeyClass::UserKek));
    let blob = fixture.ring.wrap(&alice, &fixture.key(KeyClass::Compartment)).unwrap();
    let result = fixture.ring.unwrap(&mallory, KeyClass::Compartment, &blob);
    assert!(matches!(result, Err(HsmError::WrapRejected)), "{result:?}");
    fixture.ring.unwrap(&alice, KeyClass::Compartment, &blob).unwrap();
}

fn a_tampered_wrapped_key_is_refused(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let refused = |blob: &[u8]| {
        let result = fixture.ring.unwrap(&kek, KeyClass::Compartment, blob);
        assert!(matches!(result, Err(HsmError::WrapRejected)), "{result:?}");
    };
    for position in 0..blob.len() {
        let mut changed = blob.clone();
        changed[position] ^= 0x80;
        refused(&changed);
    }
    for length in [0, 8, 24, 32, 39] {
        refused(&blob[..length]);
    }
    refused(&[&blob[..], &[0; 8]].concat());
    fixture.ring.unwrap(&kek, KeyClass::Compartment, &blob).unwrap();
}

/// A store that hands out another compartment's blob, wrapped for the same user.
fn a_swapped_wrapped_key_is_noticed(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let (wanted, other) = (fixture.key(KeyClass::Compartment), fixture.key(KeyClass::Compartment));
    let blob = fixture.ring.wrap(&kek, &other).unwrap();
    let result = fixture.ring.unwrap_known(&kek, wanted.reference(), &blob);
    assert!(matches!(result, Err(HsmError::KeyCheckMismatch { .. })), "{result:?}");
}

fn an_unwrapped_key_cannot_leave(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let unwrapped = fixture.ring.unwrap(&kek, KeyClass::Compartment, &blob).unwrap();
    let result = fixture.ring.wrap(&kek, &unwrapped);
    assert!(matches!(result, Err(HsmError::Refused { .. })), "{result:?}");

    let session = fixture.session(LABEL);
    let [object] = fixture.objects(unwrapped.id())[..] else { panic!("one session object") };
    let said = session.get_attributes(
        object,
        &[AttributeType::Extractable, AttributeType::Sensitive, AttributeType::Token, AttributeType::Encrypt],
    );
    assert_eq!(
        said.unwrap(),
        [Attribute::Extractable(false), Attribute::Sensitive(true), Attribute::Token(false), Attribute::Encrypt(true)]
    );
    let read = session.get_attributes(object, &[AttributeType::Value]).unwrap_or_default();
    assert!(!matches!(read.as_slice(), [Attribute::Value(bytes)] if !bytes.is_empty()));
    assert!(session.update_attributes(object, &[Attribute::Extractable(true)]).is_err());
}

fn an_unwrapped_key_dies_with_its_handle(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let unwrap = || fixture.ring.unwrap(&kek, KeyClass::Compartment, &blob).unwrap();
    let key = unwrap();
    let id = key.id();
    assert_eq!(fixture.objects(id).len(), 1);
    drop(key);
    assert!(fixture.objects(id).is_empty());

    let key = unwrap();
    let id = key.id();
    fixture.ring.destroy(key).unwrap();
    assert!(fixture.objects(id).is_empty());
}

/// Some tokens hand out a non-extractable key when asked to wrap it.
fn keys_that_stay_cannot_be_wrapped_by_force(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    let kek = fixture.objects(fixture.key(KeyClass::UserKek).id())[0];
    let stay = fixture.classes().into_iter().filter(|class| *class != KeyClass::Compartment);
    for class in stay {
        let target = fixture.objects(fixture.key(class).id())[0];
        assert!(session.wrap_key(&Mechanism::AesKeyWrap, kek, target).is_err(), "{class}");
    }
}

/// Clulow 2003: wrap an extractable key, then decrypt the blob as if it were data.
fn a_wrapping_key_cannot_decrypt_what_it_wrapped(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let kek = fixture.objects(kek.id())[0];
    for mechanism in
        [Mechanism::AesKeyWrap, Mechanism::AesEcb, Mechanism::AesCbc([0; 16]), Mechanism::AesCbcPad([0; 16])]
    {
        // One session each: a token may leave an operation open after its refusal.
        assert!(fixture.session(LABEL).decrypt(&mechanism, kek, &blob[8..]).is_err(), "{mechanism:?}");
    }
}

fn many_threads_share_one_keyring(fixture: &Fixture) {
    let (at_rest, signing, token) =
        (fixture.key(KeyClass::AtRest), fixture.key(KeyClass::AuditSigning), fixture.key(KeyClass::Token));
    let expected = fixture.ring.mac(&token, b"label").unwrap();
    let verifier = UnparsedPublicKey::new(&ED25519, fixture.ring.public_key(&signing).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (at_rest, signing, token, verifier) = (&at_rest, &signing, &token, &verifier);
            scope.spawn(move || {
                for _ in 0..20 {
                    let sealed = fixture.ring.seal(at_rest, &[thread], &[thread; 64]).unwrap();
                    assert_eq!(*fixture.ring.open_sealed(at_rest, &[thread], &sealed).unwrap(), [thread; 64]);
                    assert_eq!(fixture.ring.mac(token, b"label").unwrap(), expected);
                    verifier.verify(&[thread], &fixture.ring.sign(signing, &[thread]).unwrap()).unwrap();
                }
            });
        }
    });
}
