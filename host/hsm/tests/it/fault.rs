//! A token that breaks inside a batch: every return code of PKCS#11 at every call, through the module in `tests/shim`.

use std::sync::Arc;
use std::time::Duration;

use casemate_hsm::fpe::{FpeQueue, QueueLimits};
use casemate_hsm::probe::{self, Access};
use casemate_hsm::{
    Backend, BatchReport, Ff1, Ff1Value, HsmError, KeyClass, KeyRef, Keyring, Login, NativeFf1, NativeLayout,
};
use casemate_types::Profile;
use cryptoki_sys::*;

use crate::fixture::{Fixture, LABEL, PIN, SO_PIN, pin};

crate::list![
    every_code_at_every_call_is_an_error_and_no_ciphertext,
    a_short_answer_is_an_error_and_no_ciphertext,
    an_outage_is_reported_until_the_token_is_back,
    sessions_that_cannot_be_opened_leave_the_pool_whole,
    a_fault_fails_every_caller_of_a_queue,
    a_key_is_not_taken_from_a_token_that_fails,
    a_native_mechanism_is_used_once_it_agrees,
    a_native_mechanism_that_differs_is_refused,
    a_native_mechanism_is_allowed_from_birth_or_not_used,
    no_pin_is_sent_to_a_token_with_a_pad_of_its_own,
    an_initialisation_that_was_cut_off_is_finished_and_none_is_repeated,
];

/// Codes after which the operator has to look at the token: [`HsmError::is_outage`].
const OUTAGES: &[CK_RV] = &[
    CKR_HOST_MEMORY,
    CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED,
    CKR_DEVICE_ERROR,
    CKR_DEVICE_MEMORY,
    CKR_DEVICE_REMOVED,
    CKR_SESSION_CLOSED,
    CKR_SESSION_HANDLE_INVALID,
    CKR_TOKEN_NOT_PRESENT,
    CKR_TOKEN_NOT_RECOGNIZED,
    CKR_USER_NOT_LOGGED_IN,
    CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_SLOT_ID_INVALID,
    CKR_FIPS_SELF_TEST_FAILED,
];

/// Codes that refuse this one request.
const REFUSALS: &[CK_RV] = &[
    CKR_CANCEL,
    CKR_ARGUMENTS_BAD,
    CKR_ACTION_PROHIBITED,
    CKR_BUFFER_TOO_SMALL,
    CKR_DATA_INVALID,
    CKR_DATA_LEN_RANGE,
    CKR_FUNCTION_CANCELED,
    CKR_FUNCTION_NOT_PARALLEL,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_FUNCTION_REJECTED,
    CKR_KEY_FUNCTION_NOT_PERMITTED,
    CKR_KEY_HANDLE_INVALID,
    CKR_KEY_SIZE_RANGE,
    CKR_KEY_TYPE_INCONSISTENT,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_PIN_EXPIRED,
    CKR_TOKEN_WRITE_PROTECTED,
    // A vendor's own, of which nothing is known, and one that no standard has.
    CKR_VENDOR_DEFINED | 0x17,
    0x7777,
];

/// Arms the module: from now on the `nth` call of `function` ends as `what` says.
fn arm(function: &str, nth: impl std::fmt::Display, what: impl std::fmt::Display) {
    std::fs::write(std::env::var_os("CASEMATE_SHIM_FAULT_FILE").unwrap(), format!("{function} {nth} {what}")).unwrap();
}

fn disarm() {
    std::fs::write(std::env::var_os("CASEMATE_SHIM_FAULT_FILE").unwrap(), "").unwrap();
}

fn code(code: CK_RV) -> String {
    format!("{code:#x}")
}

fn ff1(fixture: &Fixture) -> Ff1 {
    Ff1::new(Arc::clone(&fixture.ring), fixture.key(KeyClass::FpeFf1), 10).unwrap()
}

/// A word, a longer tweak, and a value with further blocks of S: every kind of call.
fn batch() -> Vec<Ff1Value> {
    let value = |length: usize, tweak: usize| Ff1Value {
        numerals: (0..length).map(|place| (place * 7 % 10) as u16).collect(),
        tweak: vec![7; tweak],
    };
    vec![value(16, 8), value(9, 40), value(60, 3)]
}

type Direction = fn(&Ff1, &mut [Ff1Value]) -> Result<BatchReport, HsmError>;
const DIRECTIONS: [Direction; 2] = [Ff1::encrypt, Ff1::decrypt];

/// The functions a batch calls, and how often.
fn calls(report: BatchReport) -> [(&'static str, u32); 3] {
    [("C_EncryptInit", 1), ("C_EncryptUpdate", report.hsm_calls), ("C_EncryptFinal", 1)]
}

fn every_code_at_every_call_is_an_error_and_no_ciphertext(fixture: &Fixture) {
    disarm();
    let ff1 = ff1(fixture);
    let plain = batch();
    for direction in DIRECTIONS {
        let mut sound = plain.clone();
        let report = direction(&ff1, &mut sound).unwrap();
        assert!(report.hsm_calls > 20 && sound != plain);
        for (function, count) in calls(report) {
            for nth in 1..=count {
                for (codes, outage) in [(OUTAGES, true), (REFUSALS, false)] {
                    for each in codes {
                        let what = format!("{} at call {nth} of {function}", code(*each));
                        arm(function, nth, code(*each));
                        let mut values = plain.clone();
                        let error = direction(&ff1, &mut values).expect_err(&what);
                        assert!(values == plain, "{what}: the batch changed");
                        assert_eq!(error.is_outage(), outage, "{what}: {error}");
                        // The fault was one call; the next batch has a session of its own.
                        direction(&ff1, &mut values).unwrap_or_else(|error| panic!("after {what}: {error}"));
                        assert!(values == sound, "after {what}");
                    }
                }
            }
        }
    }
    disarm();
    fixture.ring.health().unwrap();
}

/// PKCS#11 lets a token hold bytes back; FF1 would go on with old ones.
fn a_short_answer_is_an_error_and_no_ciphertext(fixture: &Fixture) {
    disarm();
    let ff1 = ff1(fixture);
    let plain = batch();
    let count = ff1.encrypt(&mut plain.clone()).unwrap().hsm_calls;
    for nth in 1..=count {
        arm("C_EncryptUpdate", nth, "short");
        let mut values = plain.clone();
        let error = ff1.encrypt(&mut values).unwrap_err();
        assert!(matches!(error, HsmError::StrangeAnswer { .. }), "call {nth}: {error}");
        assert!(values == plain, "call {nth}");
    }
    disarm();
}

fn an_outage_is_reported_until_the_token_is_back(fixture: &Fixture) {
    disarm();
    let ff1 = ff1(fixture);
    let plain = batch();
    let mut sound = plain.clone();
    ff1.encrypt(&mut sound).unwrap();
    for (function, each) in [
        ("C_EncryptUpdate", CKR_DEVICE_ERROR),
        ("C_EncryptInit", CKR_USER_NOT_LOGGED_IN),
        ("C_EncryptFinal", CKR_DEVICE_REMOVED),
    ] {
        arm(function, "1+", code(each));
        let mut values = plain.clone();
        // More often than the pool has sessions.
        for _ in 0..10 {
            let error = ff1.encrypt(&mut values).unwrap_err();
            assert!(error.is_outage(), "{function}: {error}");
            assert!(values == plain, "{function}");
        }
        disarm();
        ff1.encrypt(&mut values).unwrap();
        assert!(values == sound, "{function}");
    }
    // A monitor sees it as well.
    arm("C_GenerateRandom", "1+", code(CKR_DEVICE_ERROR));
    assert!(fixture.ring.health().unwrap_err().is_outage());
    disarm();
    fixture.ring.health().unwrap();
}

fn sessions_that_cannot_be_opened_leave_the_pool_whole(fixture: &Fixture) {
    disarm();
    let ff1 = ff1(fixture);
    // Faults close the sessions there are, so that new ones are wanted.
    arm("C_EncryptInit", "1+", code(CKR_DEVICE_ERROR));
    for _ in 0..10 {
        ff1.encrypt(&mut batch()).unwrap_err();
    }
    arm("C_OpenSession", "1+", code(CKR_SESSION_COUNT));
    for _ in 0..10 {
        let mut values = batch();
        ff1.encrypt(&mut values).unwrap_err();
        assert!(values == batch());
    }
    disarm();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| ff1.encrypt(&mut batch()).unwrap());
        }
    });
}

fn a_fault_fails_every_caller_of_a_queue(fixture: &Fixture) {
    disarm();
    let limits = QueueLimits { wait: Duration::from_secs(3_600), blocks: 6, waiting: 100 };
    let queue = FpeQueue::start(ff1(fixture), limits).unwrap();
    let deadline = Duration::from_secs(3_600);
    let value = |n: u16| [Ff1Value { numerals: vec![n; 16], tweak: Vec::new() }];
    let round = |n: u16, fails: bool| {
        let queue = &queue;
        move || {
            let mut values = value(n);
            let result = queue.encrypt(&mut values, deadline);
            assert_eq!(values == value(n), fails);
            match result {
                Ok(report) => {
                    assert!(!fails && report == BatchReport { hsm_calls: 11, values: 6, backend: Backend::HostFeistel })
                }
                Err(error) => assert!(fails && error.is_outage(), "{error}"),
            }
        }
    };
    for fails in [false, true, false] {
        if fails {
            arm("C_EncryptUpdate", 7, code(CKR_DEVICE_ERROR));
        }
        std::thread::scope(|scope| {
            for n in 0..6 {
                scope.spawn(round(n, fails));
            }
        });
        disarm();
    }
}

fn a_key_is_not_taken_from_a_token_that_fails(fixture: &Fixture) {
    disarm();
    let reference = fixture.ring.generate(KeyClass::FpeFf1, "test").unwrap();
    for function in ["C_FindObjectsInit", "C_FindObjects", "C_GetAttributeValue", "C_EncryptInit", "C_Encrypt"] {
        arm(function, 1, code(CKR_DEVICE_ERROR));
        let error = fixture.ring.find(&reference).map(drop).expect_err(function);
        assert!(error.is_outage(), "{function}: {error}");
        disarm();
        fixture.ring.find(&reference).unwrap();
    }
}

const NATIVE: NativeFf1 = NativeFf1 { mechanism: 0x8000_4646, layout: NativeLayout::RadixTweak };

fn a_native_mechanism_is_used_once_it_agrees(fixture: &Fixture) {
    disarm();
    for radix in [10, 62, 65_536] {
        let reference = fixture.ring.generate(KeyClass::FpeFf1, "test").unwrap();
        let host = Ff1::new(Arc::clone(&fixture.ring), fixture.ring.find(&reference).unwrap(), radix).unwrap();
        let native = Ff1::new(Arc::clone(&fixture.ring), fixture.ring.find(&reference).unwrap(), radix).unwrap();
        let native = native.with_native(NATIVE).unwrap();
        let plain = batch();
        let (mut ours, mut theirs) = (plain.clone(), plain.clone());
        assert_eq!(host.encrypt(&mut ours).unwrap().backend, Backend::HostFeistel);
        let report = native.encrypt(&mut theirs).unwrap();
        assert_eq!(report, BatchReport { hsm_calls: 9, values: 3, backend: Backend::Native });
        assert!(ours == theirs, "radix {radix}");
        assert_eq!(native.decrypt(&mut theirs).unwrap().backend, Backend::HostFeistel);
        assert!(theirs == plain, "radix {radix}");
    }
    // The domain floor holds in front of the HSM's own mechanism too.
    let native = ff1(fixture).with_native(NATIVE).unwrap();
    let mut short = [Ff1Value { numerals: vec![1; 5], tweak: Vec::new() }];
    assert!(matches!(native.encrypt(&mut short), Err(HsmError::DomainTooSmall { .. })));
    let standard = NativeFf1 { mechanism: 0x1081, ..NATIVE };
    assert!(matches!(ff1(fixture).with_native(standard), Err(HsmError::NativeFf1 { .. })));
}

fn a_native_mechanism_that_differs_is_refused(fixture: &Fixture) {
    disarm();
    let native = ff1(fixture).with_native(NATIVE).unwrap();
    let plain = batch();
    let mut values = plain.clone();
    // Each result of the comparison is the second call for its value.
    for nth in [2, 4, 6] {
        let native = ff1(fixture).with_native(NATIVE).unwrap();
        arm("C_Encrypt", nth, "wrong");
        assert!(matches!(native.encrypt(&mut values), Err(HsmError::NativeFf1 { .. })), "call {nth}");
        disarm();
        assert!(matches!(native.encrypt(&mut values), Err(HsmError::NativeFf1 { .. })), "refused for good");
        assert!(values == plain);
        native.decrypt(&mut values.clone()).unwrap();
    }
    // A fault is no verdict.
    arm("C_Encrypt", 1, code(CKR_DEVICE_ERROR));
    assert!(native.encrypt(&mut values).unwrap_err().is_outage());
    disarm();
    native.encrypt(&mut values).unwrap();
    let before = values.clone();
    for nth in 1..=6 {
        arm("C_Encrypt", nth, code(CKR_DEVICE_ERROR));
        assert!(native.encrypt(&mut values).unwrap_err().is_outage());
        assert!(values == before, "call {nth}");
    }
    disarm();
    // A token without the mechanism.
    let absent = ff1(fixture).with_native(NativeFf1 { mechanism: 0x8000_4647, ..NATIVE }).unwrap();
    assert!(matches!(absent.encrypt(&mut values), Err(HsmError::Refused { .. })));
}

/// A login of this process to a further token of the same module.
fn another(fixture: &Fixture, label: &str) {
    fixture.module.initialise(label, &pin(SO_PIN), &pin(PIN)).unwrap();
}

fn a_native_mechanism_is_allowed_from_birth_or_not_used(fixture: &Fixture) {
    disarm();
    another(fixture, "native");
    let (pin, module) = (pin(PIN), &fixture.module);
    let with = |native_ff1| Keyring::open_with(Arc::clone(module), "native", &Login { pin: Some(&pin), native_ff1 });
    let plain = batch();
    let encrypted = |ring: &Arc<Keyring>, reference: &KeyRef| {
        let ff1 = Ff1::best(Arc::clone(ring), ring.find(reference)?, 10)?;
        let mut values = plain.clone();
        let report = ff1.encrypt(&mut values)?;
        Ok::<_, HsmError>((report.backend, values))
    };
    // A key of before the mechanism was named does not allow it, and goes on in lock-step.
    let ring = with(None).unwrap();
    let older = ring.generate(KeyClass::FpeFf1, "older").unwrap();
    let (backend, expected) = encrypted(&ring, &older).unwrap();
    assert_eq!(backend, Backend::HostFeistel);
    drop(ring);
    let ring = with(Some(NATIVE)).unwrap();
    let (backend, values) = encrypted(&ring, &older).unwrap();
    assert!(backend == Backend::HostFeistel && values == expected);
    // One of afterwards allows the two, and nothing else.
    let newer = ring.generate(KeyClass::FpeFf1, "newer").unwrap();
    let told = ring.read_back(&ring.find(&newer).unwrap()).unwrap();
    assert!(told.iter().any(|line| line == "CKA_ALLOWED_MECHANISMS = CKM_AES_ECB 0x80004646"), "{told:?}");
    let (backend, natively) = encrypted(&ring, &newer).unwrap();
    assert_eq!(backend, Backend::Native);
    // A mechanism that lies is found out before the first value.
    let key = ring.find(&newer).unwrap();
    arm("C_Encrypt", 2, "wrong");
    let lying = Ff1::best(Arc::clone(&ring), key, 10);
    assert!(matches!(lying, Err(HsmError::NativeFf1 { .. })));
    disarm();
    drop(lying);
    drop(ring);
    // Without the mechanism's name, a key that allows it is one that allows too much.
    let ring = with(None).unwrap();
    assert!(matches!(ring.find(&newer), Err(HsmError::AttributeMismatch { .. })));
    drop(ring);
    // A mechanism that the token does not list is not used.
    let ring = with(Some(NativeFf1 { mechanism: 0x8000_4647, ..NATIVE })).unwrap();
    assert_eq!(encrypted(&ring, &older).unwrap().0, Backend::HostFeistel);
    drop(ring);
    assert!(matches!(with(Some(NativeFf1 { mechanism: 0x1081, ..NATIVE })), Err(HsmError::NativeFf1 { .. })));
    let ring = with(Some(NATIVE)).unwrap();
    let host = Ff1::new(Arc::clone(&ring), ring.find(&newer).unwrap(), 10).unwrap();
    let mut values = plain.clone();
    host.encrypt(&mut values).unwrap();
    assert!(values == natively, "the same bits with and without");
}

fn no_pin_is_sent_to_a_token_with_a_pad_of_its_own(fixture: &Fixture) {
    disarm();
    another(fixture, "pad");
    let module = || Arc::clone(&fixture.module);
    let typed = |text: &str| std::fs::write(std::env::var_os("CASEMATE_SHIM_PAD_FILE").unwrap(), text).unwrap();
    let without = Login::default();
    assert!(matches!(Keyring::open_with(module(), "pad", &without), Err(HsmError::PinMissing { .. })));
    typed(&format!("pad={PIN}"));
    assert!(fixture.module.token("pad").unwrap().protected_authentication_path);
    assert!(!fixture.module.token(LABEL).unwrap().protected_authentication_path);
    // Each call that would send a PIN is refused before it does: the module is not asked at all.
    arm("C_Login", "1+", code(CKR_DEVICE_ERROR));
    let pin = pin(PIN);
    assert!(matches!(Keyring::open(module(), "pad", &pin), Err(HsmError::PinUnwanted { .. })));
    for refused in [
        fixture.module.change_user_pin("pad", &pin, &pin),
        fixture.module.change_so_pin("pad", &pin, &pin),
        fixture.module.reset_user_pin("pad", &pin, &pin),
        fixture.module.check_so_pin("pad", &pin),
        probe::run(&fixture.module, "pad", &Access::Live { pin: Some(&pin) }, &|_| ()).map(drop),
        probe::run(&fixture.module, "pad", &Access::Scratch { pin: &pin, so_pin: None }, &|_| ()).map(drop),
    ] {
        assert!(matches!(refused, Err(HsmError::PinUnwanted { .. })), "{refused:?}");
    }
    disarm();
    let ring = Keyring::open_with(module(), "pad", &without).unwrap();
    let key = ring.generate(KeyClass::Token, "behind the pad").unwrap();
    ring.mac(&ring.find(&key).unwrap(), b"message").unwrap();
    drop(ring);
    let report = probe::run(&fixture.module, "pad", &Access::Live { pin: None }, &|_| ()).unwrap();
    assert!(!report.scratch && report.judge(Profile::Rehearsal).fit);
    typed("pad=a wrong one");
    assert!(matches!(Keyring::open_with(module(), "pad", &without), Err(HsmError::PinIncorrect)));
    typed("");
}

fn an_initialisation_that_was_cut_off_is_finished_and_none_is_repeated(fixture: &Fixture) {
    disarm();
    let (so, user, module) = (pin(SO_PIN), pin(PIN), &fixture.module);
    module.check_blank(&["cut off"]).unwrap();
    arm("C_InitPIN", 1, code(CKR_DEVICE_ERROR));
    assert!(module.initialise("cut off", &so, &user).unwrap_err().is_outage());
    disarm();
    assert!(!module.token("cut off").unwrap().user_pin_set);
    // Only who has the officer's PIN goes on.
    let other = pin("an officer of another time");
    assert!(matches!(module.initialise("cut off", &other, &user), Err(HsmError::PinIncorrect)));
    let made = module.initialise("cut off", &so, &user).unwrap();
    let ring = Keyring::open(Arc::clone(module), "cut off", &user).unwrap();
    let key = ring.generate(KeyClass::Token, "of the token").unwrap();
    // What is initialised is not initialised again, neither by label nor by serial number: its keys would be gone.
    assert!(matches!(module.initialise("cut off", &so, &user), Err(HsmError::TokenTwin { .. })));
    let again = module.initialise_this(Some(&made.serial), "another name", &so, &user);
    assert!(matches!(again, Err(HsmError::TokenInUse { .. })), "{again:?}");
    let nowhere = module.initialise_this(Some("no such serial"), "another name", &so, &user);
    assert!(matches!(nowhere, Err(HsmError::TokenMissing { .. })), "{nowhere:?}");
    assert!(matches!(module.check_blank(&["cut off"]), Err(HsmError::TokenTwin { .. })));
    assert!(matches!(module.check_blank(&["a\nline"]), Err(HsmError::Label)));
    ring.find(&key).unwrap();
    // A PIN that the token would refuse is refused before anything changes.
    let short = pin("1");
    assert!(matches!(module.initialise("short", &so, &short), Err(HsmError::PinInvalid)));
    assert!(matches!(module.token("short"), Err(HsmError::TokenMissing { .. })));
}
