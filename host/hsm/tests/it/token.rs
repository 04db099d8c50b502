//! Tokens, PINs and logins.

use std::path::Path;
use std::sync::Arc;

use casemate_hsm::{HsmError, KeyClass, Keyring, Module};

use crate::fixture::{Fixture, LABEL, PIN, SO_PIN, by_id, pin};

crate::list![
    the_module_is_loaded_once,
    a_missing_module_is_named,
    a_file_that_is_no_module_is_named,
    a_label_is_given_once,
    hostile_labels_are_refused,
    an_unknown_token_is_named,
    a_wrong_pin_says_what_to_do,
    a_second_login_cannot_skip_the_pin,
    a_changed_user_pin_is_the_only_one,
    a_changed_officer_pin_is_the_only_one,
    no_pin_changes_behind_an_open_login,
    the_login_ends_with_the_keyring,
    random_bytes_differ,
    health_notices_a_lost_key,
];

fn the_module_is_loaded_once(fixture: &Fixture) {
    let again = Module::load(fixture.module.path()).unwrap();
    assert!(Arc::ptr_eq(&again, &fixture.module));
    assert!(again.tokens().unwrap().iter().any(|token| token.label == LABEL && !token.serial.is_empty()));
}

fn a_missing_module_is_named(_: &Fixture) {
    let error = Module::load(Path::new("/nowhere/libpkcs11.so")).unwrap_err();
    assert!(matches!(error, HsmError::ModuleUnusable { .. }));
    assert!(error.to_string().contains("/nowhere/libpkcs11.so"), "{error}");
}

fn a_file_that_is_no_module_is_named(_: &Fixture) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"not a library").unwrap();
    assert!(matches!(Module::load(file.path()), Err(HsmError::ModuleUnusable { .. })));
}

fn a_label_is_given_once(fixture: &Fixture) {
    let again = fixture.module.initialise(LABEL, &pin(SO_PIN), &pin(PIN));
    assert!(matches!(again, Err(HsmError::TokenTwin { .. })));
}

fn hostile_labels_are_refused(fixture: &Fixture) {
    for label in ["", " ", " a", "a ", "a\0", "é", &"x".repeat(33)] {
        let result = fixture.module.initialise(label, &pin(SO_PIN), &pin(PIN));
        assert!(matches!(result, Err(HsmError::Label)), "{label:?}");
    }
}

fn an_unknown_token_is_named(fixture: &Fixture) {
    let Err(error) = Keyring::open(Arc::clone(&fixture.module), "no such token", &pin(PIN)) else { panic!() };
    assert!(matches!(error, HsmError::TokenMissing { .. }));
    assert!(error.to_string().contains("no such token"), "{error}");
}

fn a_wrong_pin_says_what_to_do(fixture: &Fixture) {
    fixture.module.initialise("pins", &pin(SO_PIN), &pin(PIN)).unwrap();
    let Err(error) = Keyring::open(Arc::clone(&fixture.module), "pins", &pin("not the pin")) else { panic!() };
    assert!(matches!(error, HsmError::PinIncorrect));
    assert!(error.to_string().contains("check the PIN file"), "{error}");
    assert!(!error.to_string().contains("not the pin"));
    Keyring::open(Arc::clone(&fixture.module), "pins", &pin(PIN)).unwrap();
}

fn a_second_login_cannot_skip_the_pin(fixture: &Fixture) {
    for text in [PIN, "not the pin"] {
        let second = Keyring::open(Arc::clone(&fixture.module), LABEL, &pin(text));
        assert!(matches!(second, Err(HsmError::AlreadyOpen { .. })));
    }
    // The refusal has not ended the first login.
    fixture.ring.random(1).unwrap();
}

fn a_changed_user_pin_is_the_only_one(fixture: &Fixture) {
    let module = &fixture.module;
    module.initialise("user pin", &pin(SO_PIN), &pin(PIN)).unwrap();
    let wrong = module.change_user_pin("user pin", &pin("not the pin"), &pin("a newer user pin"));
    assert!(matches!(wrong, Err(HsmError::PinIncorrect)));
    module.change_user_pin("user pin", &pin(PIN), &pin("a newer user pin")).unwrap();
    assert!(matches!(Keyring::open(Arc::clone(module), "user pin", &pin(PIN)), Err(HsmError::PinIncorrect)));
    Keyring::open(Arc::clone(module), "user pin", &pin("a newer user pin")).unwrap();
    module.reset_user_pin("user pin", &pin(SO_PIN), &pin(PIN)).unwrap();
    Keyring::open(Arc::clone(module), "user pin", &pin(PIN)).unwrap();
}

fn a_changed_officer_pin_is_the_only_one(fixture: &Fixture) {
    let module = &fixture.module;
    module.initialise("officer pin", &pin(SO_PIN), &pin(PIN)).unwrap();
    module.change_so_pin("officer pin", &pin(SO_PIN), &pin("a newer officer pin")).unwrap();
    let old = module.reset_user_pin("officer pin", &pin(SO_PIN), &pin("forged by the old officer"));
    assert!(matches!(old, Err(HsmError::PinIncorrect)));
    assert!(matches!(module.check_so_pin("officer pin", &pin(SO_PIN)), Err(HsmError::PinIncorrect)));
    module.check_so_pin("officer pin", &pin("a newer officer pin")).unwrap();
    // The user's PIN and keys stay.
    Keyring::open(Arc::clone(module), "officer pin", &pin(PIN)).unwrap();
}

fn no_pin_changes_behind_an_open_login(fixture: &Fixture) {
    let module = &fixture.module;
    for result in [
        module.change_user_pin(LABEL, &pin("not the pin"), &pin("forged")),
        module.change_so_pin(LABEL, &pin(SO_PIN), &pin("forged")),
        module.check_so_pin(LABEL, &pin(SO_PIN)),
    ] {
        assert!(matches!(result, Err(HsmError::AlreadyOpen { .. })), "{result:?}");
    }
    fixture.ring.random(1).unwrap();
}

fn the_login_ends_with_the_keyring(fixture: &Fixture) {
    fixture.module.initialise("login", &pin(SO_PIN), &pin(PIN)).unwrap();
    let ring = Keyring::open(Arc::clone(&fixture.module), "login", &pin(PIN)).unwrap();
    let reference = ring.generate(KeyClass::Token, "test").unwrap();
    let key = ring.find(&reference).unwrap();
    drop(ring);
    // The key still holds the login.
    assert_eq!(fixture.session("login").find_objects(&by_id(reference.id)).unwrap().len(), 1);
    drop(key);
    assert_eq!(fixture.session("login").find_objects(&by_id(reference.id)).unwrap().len(), 0);

    let ring = Keyring::open(Arc::clone(&fixture.module), "login", &pin(PIN)).unwrap();
    let key = ring.find(&reference).unwrap();
    assert_eq!(key.reference(), &reference);
    // A key of one token means nothing in another.
    let foreign = fixture.ring.mac(&key, b"message");
    assert!(matches!(foreign, Err(HsmError::ForeignKey { .. })));
    assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyMissing { .. })));
}

fn random_bytes_differ(fixture: &Fixture) {
    let (a, b) = (fixture.ring.random(32).unwrap(), fixture.ring.random(32).unwrap());
    assert_eq!(a.len(), 32);
    assert_ne!(a, b);
}

fn health_notices_a_lost_key(fixture: &Fixture) {
    let key = fixture.key(KeyClass::AtRest);
    fixture.ring.health().unwrap();
    for object in fixture.objects(key.id()) {
        fixture.session(LABEL).destroy_object(object).unwrap();
    }
    // Random numbers still come, so only the key's absence tells.
    fixture.ring.random(1).unwrap();
    assert!(matches!(fixture.ring.health(), Err(HsmError::KeyMissing { .. })));
    fixture.key(KeyClass::AtRest);
    fixture.ring.health().unwrap();
}
