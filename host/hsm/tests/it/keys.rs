//! What a key is: found, checked, never read.

use casemate_hsm::{HsmError, KeyClass, KeyId, KeyRef, Origin};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass};

use crate::fixture::{Fixture, LABEL, by_id, ff1_template};

crate::list![
    every_class_generates_and_is_found,
    a_missing_key_is_named,
    a_key_of_another_class_is_not_found,
    a_planted_twin_is_refused,
    a_planted_public_half_is_refused,
    half_a_pair_is_no_key,
    an_imported_key_is_refused,
    a_key_with_one_flag_more_is_refused,
    a_replaced_key_is_refused,
    key_bytes_cannot_be_read,
    flags_cannot_be_raised_later,
    a_key_cannot_be_copied_into_another_purpose,
    a_destroyed_key_is_gone,
    debug_output_names_no_secret,
];

fn every_class_generates_and_is_found(fixture: &Fixture) {
    for class in fixture.classes() {
        let reference = fixture.reference(class);
        assert_eq!((reference.class, reference.label.as_str()), (class, "test"));
        let whole = matches!(class, KeyClass::SyncKekDestination | KeyClass::SyncKekSource);
        assert_eq!(reference.check.len(), if whole { 80 } else { 16 }, "{class}");
        let key = fixture.ring.find(&reference).unwrap();
        assert_eq!(key.reference(), &reference, "{class}");
        // Two keys of a class are two keys.
        let other = fixture.reference(class);
        assert_ne!(other.id, reference.id, "{class}");
        assert_ne!(other.check, reference.check, "{class}");
    }
}

fn a_missing_key_is_named(fixture: &Fixture) {
    let id = KeyId::from_random([9; 16]);
    let missing =
        KeyRef { id, class: KeyClass::AtRest, check: String::new(), label: String::new(), origin: Origin::Generated };
    let error = fixture.ring.find(&missing).unwrap_err();
    assert!(matches!(error, HsmError::KeyMissing { .. }));
    assert!(error.to_string().contains(&id.to_string()), "{error}");
}

fn a_key_of_another_class_is_not_found(fixture: &Fixture) {
    for class in fixture.classes() {
        let reference = fixture.reference(class);
        for other in KeyClass::ALL.iter().copied().filter(|other| *other != class) {
            let result = fixture.ring.find(&KeyRef { class: other, ..reference.clone() });
            assert!(result.is_err(), "a {class} key was found as {other}");
        }
        for origin in [Origin::Birth, Origin::Generated, Origin::Replicated, Origin::Unwrapped] {
            let result = fixture.ring.find(&KeyRef { origin, ..reference.clone() });
            assert_eq!(result.is_ok(), origin == reference.origin, "a {class} key was found as {origin:?}");
        }
    }
}

fn a_planted_twin_is_refused(fixture: &Fixture) {
    let reference = fixture.ring.generate(KeyClass::FpeFf1, "test").unwrap();
    let session = fixture.session(LABEL);
    for on_token in [true, false] {
        let mut template = ff1_template(reference.id);
        template.push(Attribute::Value(vec![1; 32]));
        template.retain(|attribute| !matches!(attribute, Attribute::Token(_)));
        template.push(Attribute::Token(on_token));
        let twin = session.create_object(&template).unwrap();
        let error = fixture.ring.find(&reference).unwrap_err();
        assert!(matches!(error, HsmError::KeyTwin { count: 2, .. }), "{error}");
        session.destroy_object(twin).unwrap();
        fixture.ring.find(&reference).unwrap();
    }
}

fn a_planted_public_half_is_refused(fixture: &Fixture) {
    let reference = fixture.ring.generate(KeyClass::AuditSigning, "test").unwrap();
    let other = fixture.key(KeyClass::AuditSigning);
    let session = fixture.session(LABEL);
    let public_of = |id: KeyId| {
        let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), by_id(id)[0].clone()];
        session.find_objects(&template).unwrap()[0]
    };
    let mut template =
        session.get_attributes(public_of(other.id()), &[AttributeType::EcParams, AttributeType::EcPoint]).unwrap();
    template.extend([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Id(reference.id.as_bytes().to_vec()),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
        Attribute::Encrypt(false),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ]);
    let planted = session.create_object(&template).unwrap();
    assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyTwin { count: 3, .. })));
    // Put in the place of the real half, it does not verify what the private half signs.
    let real = session.find_objects(&[template[2].clone(), by_id(reference.id)[0].clone()]).unwrap();
    for object in real.into_iter().filter(|object| *object != planted) {
        session.destroy_object(object).unwrap();
    }
    assert!(matches!(
        fixture.ring.find(&reference),
        Err(HsmError::StrangeAnswer { .. } | HsmError::KeyCheckMismatch { .. })
    ));
}

fn half_a_pair_is_no_key(fixture: &Fixture) {
    let reference = fixture.ring.generate(KeyClass::AuditSigning, "test").unwrap();
    let session = fixture.session(LABEL);
    let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), by_id(reference.id)[0].clone()];
    session.destroy_object(session.find_objects(&template).unwrap()[0]).unwrap();
    assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyMissing { .. })));
}

/// An attacker inside the process writes a key he knows under the recorded identifier.
fn an_imported_key_is_refused(fixture: &Fixture) {
    let key = fixture.key(KeyClass::FpeFf1);
    let reference = key.reference().clone();
    fixture.ring.destroy(key).unwrap();
    let mut template = ff1_template(reference.id);
    template.push(Attribute::Value(vec![1; 32]));
    fixture.session(LABEL).create_object(&template).unwrap();
    let error = fixture.ring.find(&reference).unwrap_err();
    assert!(matches!(error, HsmError::AttributeMismatch { .. }), "{error}");
}

fn a_key_with_one_flag_more_is_refused(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    for (index, raised) in [
        Attribute::Decrypt(true),
        Attribute::Sign(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Derive(true),
        Attribute::Extractable(true),
        Attribute::Modifiable(true),
        Attribute::Sensitive(false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = KeyId::from_random([0x40 + index as u8; 16]);
        let mut template = ff1_template(id);
        template.retain(|attribute| attribute.attribute_type() != raised.attribute_type());
        template.extend([raised.clone(), Attribute::ValueLen(32.into())]);
        session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        let planted = KeyRef {
            id,
            class: KeyClass::FpeFf1,
            check: String::new(),
            label: String::new(),
            origin: Origin::Generated,
        };
        let error = fixture.ring.find(&planted).unwrap_err();
        assert!(matches!(error, HsmError::AttributeMismatch { .. }), "{raised:?}: {error}");
    }
}

fn a_replaced_key_is_refused(fixture: &Fixture) {
    let key = fixture.key(KeyClass::FpeFf1);
    let reference = key.reference().clone();
    fixture.ring.destroy(key).unwrap();
    let mut template = ff1_template(reference.id);
    template.push(Attribute::ValueLen(32.into()));
    fixture.session(LABEL).generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyCheckMismatch { .. })));
}

fn key_bytes_cannot_be_read(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    for class in fixture.classes() {
        let key = fixture.key(class);
        for object in fixture.objects(key.id()) {
            let found = session.get_attributes(object, &[AttributeType::Class]).unwrap();
            if found == [Attribute::Class(ObjectClass::PUBLIC_KEY)] {
                continue;
            }
            let info = session.get_attribute_info(object, &[AttributeType::Value]).unwrap();
            assert!(!matches!(info[0], AttributeInfo::Available(length) if length > 0), "{class}: {info:?}");
            if matches!(class, KeyClass::CustodianShares | KeyClass::Transport) {
                let parts = [AttributeType::PrivateExponent, AttributeType::Prime1, AttributeType::Coefficient];
                let read = session.get_attributes(object, &parts).unwrap_or_default();
                let secret = |part: &Attribute| match part {
                    Attribute::PrivateExponent(bytes) | Attribute::Prime1(bytes) | Attribute::Coefficient(bytes) => {
                        !bytes.is_empty()
                    }
                    _ => false,
                };
                assert!(!read.iter().any(secret), "{class}");
                continue;
            }
            // Some tokens answer with nothing, some refuse; none may answer with bytes.
            let read = session.get_attributes(object, &[AttributeType::Value]).unwrap_or_default();
            assert!(!matches!(read.as_slice(), [Attribute::Value(bytes)] if !bytes.is_empty()), "{class}");
        }
    }
}

fn flags_cannot_be_raised_later(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    for class in fixture.classes() {
        let key = fixture.key(class);
        for object in fixture.objects(key.id()) {
            for raised in [
                Attribute::Decrypt(true),
                Attribute::Encrypt(true),
                Attribute::Sign(true),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
                Attribute::Derive(true),
                Attribute::Extractable(true),
                Attribute::Sensitive(false),
                Attribute::Modifiable(true),
            ] {
                let held = session.get_attributes(object, &[raised.attribute_type()]).unwrap_or_default();
                if held.contains(&raised) || held.is_empty() {
                    continue;
                }
                let result = session.update_attributes(object, std::slice::from_ref(&raised));
                assert!(result.is_err(), "{class}: {raised:?}");
            }
        }
        fixture.ring.find(key.reference()).unwrap();
    }
}

fn a_key_cannot_be_copied_into_another_purpose(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    for class in fixture.classes() {
        let key = fixture.key(class);
        for object in fixture.objects(key.id()) {
            let copied = session.copy_object(object, &[Attribute::Wrap(true), Attribute::Id(vec![1])]);
            assert!(copied.is_err(), "{class}");
        }
    }
}

fn a_destroyed_key_is_gone(fixture: &Fixture) {
    for class in fixture.classes() {
        let key = fixture.key(class);
        let reference = key.reference().clone();
        fixture.ring.destroy(key).unwrap();
        assert!(fixture.objects(reference.id).is_empty(), "{class}");
        assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyMissing { .. })), "{class}");
    }
}

fn debug_output_names_no_secret(fixture: &Fixture) {
    let key = fixture.key(KeyClass::Token);
    let text = format!("{key:?}");
    assert!(text.contains(&key.id().to_string()) && !text.contains("handle"), "{text}");
}
