//! Keys that come in from another token, and what the token itself enforces on their way.

use casemate_hsm::{HsmError, KeyClass, KeyId, KeyRef, Origin, WrappedPackage};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::fixture::{Fixture, LABEL, by_id};

crate::list![
    pairs_and_compartments_stay_in_their_token,
    half_a_synchronisation_key_is_not_generated,
    a_birth_key_dies_with_its_handle,
    an_admitted_key_is_found_and_cannot_leave,
    a_package_comes_in_once,
    a_package_for_another_token_is_refused,
    a_tampered_package_is_refused,
    a_relabelled_package_is_refused,
    a_package_does_not_replace_another_object,
    a_transport_key_admits_nothing_that_could_leave,
    a_user_key_unwraps_nothing_that_could_leave,
    a_master_derives_nothing_that_could_leave,
    a_synchronisation_key_carries_no_stored_key_away,
    a_synchronisation_key_does_not_go_back,
];

fn package(fixture: &Fixture, class: KeyClass) -> (KeyRef, WrappedPackage) {
    let birth = fixture.ring.birth(class, "replicated").unwrap();
    let address = fixture.ring.transport_key(&fixture.transport()).unwrap();
    assert_eq!(address.fingerprint().len(), 64);
    (birth.reference(), fixture.ring.wrap_for(&birth, &address).unwrap())
}

/// The one birth object that lives.
fn born(fixture: &Fixture) -> ObjectHandle {
    let template = [Attribute::Token(false), Attribute::Extractable(true)];
    let [object] = fixture.session(LABEL).find_objects(&template).unwrap()[..] else { panic!("one birth object") };
    object
}

fn pairs_and_compartments_stay_in_their_token(fixture: &Fixture) {
    for class in fixture.classes().into_iter().filter(|class| !class.is_replicable()) {
        let result = fixture.ring.birth(class, "test");
        assert!(matches!(result, Err(HsmError::NotReplicable { .. })), "{class}");
    }
    let replicable: Vec<_> = KeyClass::ALL.iter().filter(|class| class.is_replicable()).collect();
    for class in [KeyClass::AtRest, KeyClass::FpeFf1, KeyClass::Token, KeyClass::UserKek, KeyClass::RbacMaster] {
        assert!(replicable.contains(&&class), "{class}");
    }
}

fn half_a_synchronisation_key_is_not_generated(fixture: &Fixture) {
    for class in [KeyClass::SyncKekDestination, KeyClass::SyncKekSource] {
        let result = fixture.ring.generate(class, "test");
        assert!(matches!(result, Err(HsmError::NeedsTwoTokens { .. })), "{result:?}");
    }
}

fn a_birth_key_dies_with_its_handle(fixture: &Fixture) {
    let birth = fixture.ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let object = born(fixture);
    let types = [AttributeType::Sensitive, AttributeType::Label];
    let said = fixture.session(LABEL).get_attributes(object, &types).unwrap();
    assert_eq!(said, [Attribute::Sensitive(true), Attribute::Label(b"test".to_vec())]);
    // It is not a key to work with.
    assert!(matches!(fixture.ring.find(&birth.reference()), Err(HsmError::KeyMissing { .. })));
    drop(birth);
    assert!(fixture.session(LABEL).get_attributes(object, &types).is_err());
}

fn an_admitted_key_is_found_and_cannot_leave(fixture: &Fixture) {
    let transport = fixture.transport();
    let session = fixture.session(LABEL);
    for class in fixture.classes().into_iter().filter(|class| class.is_replicable()) {
        let (wanted, package) = package(fixture, class);
        let reference = fixture.ring.admit(&transport, &package).unwrap();
        assert_eq!((reference.origin, &reference), (Origin::Replicated, &wanted), "{class}");
        fixture.ring.find(&reference).unwrap();
        let [object] = fixture.objects(reference.id)[..] else { panic!("one stored object") };
        let said = session.get_attributes(object, &[AttributeType::Token, AttributeType::Extractable]).unwrap();
        assert_eq!(said, [Attribute::Token(true), Attribute::Extractable(false)], "{class}");
        let kek = fixture.objects(fixture.key(KeyClass::UserKek).id())[0];
        assert!(session.wrap_key(&Mechanism::AesKeyWrap, kek, object).is_err(), "{class}");
        assert!(session.update_attributes(object, &[Attribute::Extractable(true)]).is_err(), "{class}");
    }
}

fn a_package_comes_in_once(fixture: &Fixture) {
    let (_, package) = package(fixture, KeyClass::Token);
    let transport = fixture.transport();
    let bytes = package.to_bytes();
    let again = WrappedPackage::from_bytes(&bytes).unwrap();
    assert_eq!(fixture.ring.admit(&transport, &package).unwrap(), fixture.ring.admit(&transport, &again).unwrap());
    assert_eq!(fixture.objects(package.id).len(), 1);
    for length in [0, 1, bytes.len() - 1] {
        assert!(matches!(WrappedPackage::from_bytes(&bytes[..length]), Err(HsmError::PackageMalformed)));
    }
}

fn a_package_for_another_token_is_refused(fixture: &Fixture) {
    let (_, package) = package(fixture, KeyClass::FpeFf1);
    let foreign = WrappedPackage { destination: "another serial".to_owned(), ..package };
    let error = fixture.ring.admit(&fixture.transport(), &foreign).unwrap_err();
    assert!(matches!(error, HsmError::ForeignPackage { .. }), "{error}");
    // Wrapped for somebody else's transport key, whatever the package says.
    let other = fixture.key(KeyClass::Transport);
    let birth = fixture.ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let stolen = fixture.ring.wrap_for(&birth, &fixture.ring.transport_key(&other).unwrap()).unwrap();
    let error = fixture.ring.admit(&fixture.transport(), &stolen).unwrap_err();
    assert!(matches!(error, HsmError::WrapRejected), "{error:?}");
    drop(birth);
    assert!(fixture.objects(stolen.id).is_empty());
}

fn a_tampered_package_is_refused(fixture: &Fixture) {
    let (_, package) = package(fixture, KeyClass::FpeFf1);
    let transport = fixture.transport();
    for position in [0, 1, 191, 383] {
        let mut changed = package.clone();
        changed.blob[position] ^= 1;
        let error = fixture.ring.admit(&transport, &changed).unwrap_err();
        assert!(matches!(error, HsmError::WrapRejected), "{error:?}");
    }
    for length in [0, 40, 383] {
        let mut changed = package.clone();
        changed.blob.truncate(length);
        assert!(matches!(fixture.ring.admit(&transport, &changed), Err(HsmError::WrapRejected)));
    }
    let lie = WrappedPackage { check: "0011223344556677".to_owned(), ..package.clone() };
    assert!(matches!(fixture.ring.admit(&transport, &lie), Err(HsmError::KeyCheckMismatch { .. })));
    assert!(fixture.objects(package.id).is_empty(), "a refused package leaves nothing behind");
    fixture.ring.admit(&transport, &package).unwrap();
}

/// A package of one purpose, given another on its way.
fn a_relabelled_package_is_refused(fixture: &Fixture) {
    let transport = fixture.transport();
    for class in fixture.classes().into_iter().filter(|class| class.is_replicable()) {
        let (_, package) = package(fixture, class);
        for other in KeyClass::ALL.iter().copied().filter(|other| *other != class) {
            if (class, other) == (KeyClass::SyncKekSource, KeyClass::SyncKekDestination) {
                // Two halves of one key: which one comes in is for the signed record to say.
                continue;
            }
            let relabelled = WrappedPackage { class: other, ..package.clone() };
            let result = fixture.ring.admit(&transport, &relabelled);
            assert!(result.is_err(), "a {class} key came in as {other}");
            assert!(fixture.objects(package.id).is_empty(), "{class} as {other}");
        }
    }
}

fn a_package_does_not_replace_another_object(fixture: &Fixture) {
    let (_, package) = package(fixture, KeyClass::FpeFf1);
    let mut template = crate::fixture::ff1_template(package.id);
    template.push(Attribute::Value(vec![1; 32]));
    let planted = fixture.session(LABEL).create_object(&template).unwrap();
    assert!(fixture.ring.admit(&fixture.transport(), &package).is_err());
    assert_eq!(fixture.session(LABEL).find_objects(&by_id(package.id)).unwrap(), [planted]);
}

/// What an attacker with a session of his own asks for when he unwraps.
fn hostile(changed: Attribute) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Id(vec![0xee; 16]),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    template.retain(|attribute| attribute.attribute_type() != changed.attribute_type());
    template.push(changed);
    template
}

fn refuses_to_weaken(unwrap: impl Fn(&[Attribute]) -> bool) {
    assert!(unwrap(&hostile(Attribute::Label(b"harmless".to_vec()))), "the attack itself must work");
    assert!(!unwrap(&hostile(Attribute::Extractable(true))), "extractable");
    assert!(!unwrap(&hostile(Attribute::Sensitive(false))), "not sensitive");
}

fn private_half(fixture: &Fixture, session: &Session, id: KeyId) -> ObjectHandle {
    let private = |object: &ObjectHandle| {
        session.get_attributes(*object, &[AttributeType::Class]).unwrap()
            == [Attribute::Class(ObjectClass::PRIVATE_KEY)]
    };
    fixture.objects(id).into_iter().find(private).unwrap()
}

fn a_transport_key_admits_nothing_that_could_leave(fixture: &Fixture) {
    use cryptoki::mechanism::MechanismType;
    use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
    let (_, package) = package(fixture, KeyClass::AtRest);
    let session = fixture.session(LABEL);
    let private = private_half(fixture, &session, fixture.transport().id());
    let (hash, mask) = match package.rfc {
        casemate_hsm::Envelope::OaepSha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        _ => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
    };
    let oaep = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()));
    refuses_to_weaken(|template| session.unwrap_key(&oaep, private, &package.blob, template).is_ok());
    // Nor does it open a package as data.
    assert!(fixture.session(LABEL).decrypt(&oaep, private, &package.blob).is_err());
}

fn a_user_key_unwraps_nothing_that_could_leave(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let session = fixture.session(LABEL);
    let kek = fixture.objects(kek.id())[0];
    refuses_to_weaken(|template| session.unwrap_key(&Mechanism::AesKeyWrap, kek, &blob, template).is_ok());
    let stored = hostile(Attribute::Token(true));
    assert!(session.unwrap_key(&Mechanism::AesKeyWrap, kek, &blob, &stored).is_err(), "stored");
}

/// Some tokens hand out a sensitive secret through their derivations.
fn a_master_derives_nothing_that_could_leave(fixture: &Fixture) {
    use cryptoki::mechanism::MechanismType;
    use cryptoki::mechanism::kbkdf::{Endianness, KbkdfCounterFormat, KbkdfParams, PrfDataParam, PrfDataParamType};
    if !fixture.ring.supports(KeyClass::RbacMaster).unwrap() {
        return;
    }
    let session = fixture.session(LABEL);
    let master = fixture.objects(fixture.key(KeyClass::RbacMaster).id())[0];
    let counter = KbkdfCounterFormat::new(Endianness::Big, std::num::NonZeroUsize::new(32).unwrap());
    let input = [PrfDataParam::new(PrfDataParamType::IterationVariable(Some(&counter)))];
    let derive = |template: &[Attribute]| {
        let mechanism = Mechanism::KbkdfCounter(KbkdfParams::new(MechanismType::SHA256_HMAC, &input, None));
        let template = [template, &[Attribute::ValueLen(32.into())]].concat();
        session.derive_key(&mechanism, master, &template).is_ok()
    };
    refuses_to_weaken(derive);
    let generic = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(1.into()),
    ];
    let object = fixture.objects(fixture.key(KeyClass::RbacMaster).id())[0];
    for mechanism in [Mechanism::ConcatenateBaseAndKey(object), Mechanism::Sha256Hmac] {
        assert!(session.derive_key(&mechanism, master, &generic).is_err(), "{mechanism:?}");
    }
    assert!(fixture.session(LABEL).sign(&Mechanism::Sha256Hmac, master, b"an oracle").is_err());
}

fn a_synchronisation_key_carries_no_stored_key_away(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    let kek = fixture.objects(fixture.key(KeyClass::SyncKekSource).id())[0];
    let stored = fixture.key(KeyClass::Compartment);
    let object = fixture.objects(stored.id())[0];
    assert!(session.wrap_key(&Mechanism::AesKeyWrap, kek, object).is_err(), "a stored key, although extractable");
    let _birth = fixture.ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let object = born(fixture);
    session.wrap_key(&Mechanism::AesKeyWrap, kek, object).unwrap();
}

/// Wrapped and unwrapped on one token, a key would come back with whatever attributes one likes.
fn a_synchronisation_key_does_not_go_back(fixture: &Fixture) {
    let session = fixture.session(LABEL);
    let source = fixture.key(KeyClass::SyncKekSource);
    let birth = fixture.ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let package = fixture.ring.wrap_under(&birth, &source, fixture.ring.serial()).unwrap();
    assert_eq!(package.blob.len(), 40);
    let kek = fixture.objects(source.id())[0];
    let harmless = hostile(Attribute::Label(b"harmless".to_vec()));
    assert!(session.unwrap_key(&Mechanism::AesKeyWrap, kek, &package.blob, &harmless).is_err());
    assert!(matches!(fixture.ring.admit(&source, &package), Err(HsmError::WrongClass { .. })));

    drop(birth);

    let destination = fixture.key(KeyClass::SyncKekDestination);
    let birth = fixture.ring.birth(KeyClass::FpeFf1, "test").unwrap();
    let kek = fixture.objects(destination.id())[0];
    assert!(session.wrap_key(&Mechanism::AesKeyWrap, kek, born(fixture)).is_err());
    assert!(matches!(
        fixture.ring.wrap_under(&birth, &destination, fixture.ring.serial()),
        Err(HsmError::WrongClass { .. })
    ));
}
