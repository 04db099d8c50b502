//! Attacks on the verdict: each changes one thing about a token, a certificate or a snapshot that would otherwise pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_fips::{
    ApprovedMode, Approver, Claim, FipsError, MODE_TYPE, NEEDED, PAYLOAD_TYPE, Question, TokenFacts, Verdict,
    VerifiedMode, VerifiedSnapshot, add_signature, evaluate, message,
};
use casemate_types::Profile;
use jiff::civil::{Date, date};
use serde_json::{Value, json};

const TODAY: Date = date(2026, 11, 25);

struct People {
    approvers: Vec<Approver>,
    keys: Vec<Ed25519KeyPair>,
}

impl People {
    fn new() -> Self {
        let keys: Vec<Ed25519KeyPair> = (0..3).map(|_| Ed25519KeyPair::generate().unwrap()).collect();
        let approvers = ["ana", "bo", "cy"]
            .iter()
            .zip(&keys)
            .map(|(name, key)| Approver {
                name: (*name).to_owned(),
                key_id: format!("key of {name}"),
                key: casemate_attest::PublicKey::from_bytes(key.public_key().as_ref()).unwrap(),
            })
            .collect();
        Self { approvers, keys }
    }

    fn sign(&self, snapshot: &[u8], who: &[usize]) -> Vec<u8> {
        self.sign_as(PAYLOAD_TYPE, snapshot, who)
    }

    fn sign_as(&self, payload_type: &str, file_bytes: &[u8], who: &[usize]) -> Vec<u8> {
        let mut file = None;
        for &person in who {
            let signature = self.keys[person].sign(&message(payload_type, file_bytes));
            let key_id = &self.approvers[person].key_id;
            file = Some(add_signature(payload_type, file.as_deref(), key_id, signature.as_ref()).unwrap());
        }
        file.unwrap_or_else(|| add_signature(payload_type, None, "nobody", &[0; 64]).unwrap())
    }
}

/// A snapshot that passes with [`token`] for profile `government`.
fn snapshot() -> Value {
    let approved: Vec<&str> = NEEDED.iter().map(|(algorithm, _)| *algorithm).collect();
    json!({
        "format": 1, "sample": false, "date": "2026-11-20", "source": "the list of the CMVP",
        "certificates": [{
            "number": 9001, "standard": "FIPS 140-3", "status": "active", "level": 3,
            "module-name": "Fortress HSM", "vendor": "Fortress Ltd", "kind": "hardware",
            "validated": "2025-03-01", "sunset": "2030-02-28",
            "token": { "manufacturer": "Fortress", "models": ["Fortress 7"] },
            "configurations": [
                { "hardware": "2.0", "firmware": "7.8" },
                { "hardware": "3.0", "firmware": "7.9.1", "reported-firmware": "7.9" }
            ],
            "approved": approved,
        }],
    })
}

fn token() -> TokenFacts {
    TokenFacts {
        manufacturer: "Fortress".to_owned(),
        model: "Fortress 7".to_owned(),
        serial: "0815".to_owned(),
        hardware: "2.0".to_owned(),
        firmware: "7.8".to_owned(),
        library: "Fortress cryptoki".to_owned(),
        file: "libfortress.so".to_owned(),
        hardware_slot: true,
        approved_mode: ApprovedMode::Yes,
        claims: Vec::new(),
    }
}

/// What two people say of [`token`].
fn mode() -> Value {
    json!({
        "format": 1, "site": "north", "certificate": 9001, "serial": "0815", "manufacturer": "Fortress", "model": "Fortress 7",
        "hardware": "2.0", "firmware": "7.8", "mode": "approved", "seen": "maker's tool: FIPS mode on",
        "checked": "2026-11-01", "expires": "2027-01-30",
    })
}

struct Case {
    profile: Profile,
    snapshot: Value,
    token: TokenFacts,
    signers: Vec<usize>,
    floor: Option<Date>,
    certificate: Option<u32>,
    today: Date,
    mode: Option<Value>,
    mode_signers: Vec<usize>,
}

impl Case {
    fn new() -> Self {
        Self {
            profile: Profile::Government,
            snapshot: snapshot(),
            token: token(),
            signers: vec![0, 1],
            floor: None,
            certificate: None,
            today: TODAY,
            mode: None,
            mode_signers: vec![0, 2],
        }
    }

    fn certificate(mut self, field: &str, value: Value) -> Self {
        self.snapshot["certificates"][0][field] = value;
        self
    }

    fn judge(&self) -> Verdict {
        let people = People::new();
        let bytes = serde_json::to_vec(&self.snapshot).unwrap();
        let verified = VerifiedSnapshot::verify(&bytes, &people.sign(&bytes, &self.signers), &people.approvers);
        self.judge_with(verified.as_ref())
    }

    fn judge_with(&self, snapshot: Result<&VerifiedSnapshot, &FipsError>) -> Verdict {
        let people = People::new();
        let bytes = serde_json::to_vec(&self.mode.clone().unwrap_or_else(|| self.fitting_mode())).unwrap();
        let signatures = people.sign_as(MODE_TYPE, &bytes, &self.mode_signers);
        let mode = VerifiedMode::verify(&bytes, &signatures, &people.approvers, "north");
        evaluate(&Question {
            mode: mode.as_ref(),
            profile: self.profile,
            today: self.today,
            max_age_days: 90,
            floor: self.floor,
            certificate: self.certificate,
            token: &self.token,
            snapshot,
        })
    }

    /// What two people would say of this very token today.
    fn fitting_mode(&self) -> Value {
        let mut mode = mode();
        let token = &self.token;
        let texts = [
            ("serial", &token.serial),
            ("manufacturer", &token.manufacturer),
            ("model", &token.model),
            ("hardware", &token.hardware),
            ("firmware", &token.firmware),
        ];
        for (field, text) in texts {
            mode[field] = json!(text);
        }
        mode["certificate"] = json!(self.certificate.unwrap_or(9001));
        mode["checked"] = json!(self.today.checked_sub(jiff::Span::new().days(10)).unwrap());
        mode["expires"] = json!(self.today.checked_add(jiff::Span::new().days(60)).unwrap());
        mode
    }

    /// Insists that exactly these checks fail, and that the site stays shut. Without a certificate no statement is about the token's.
    #[track_caller]
    fn fails(&self, names: &[&str]) -> Verdict {
        let verdict = self.judge();
        let failed: Vec<&str> = verdict.failed().map(|check| check.name).collect();
        let mut names = names.to_vec();
        if let Some(place) = names.iter().position(|name| *name == "certificate") {
            names.insert(place + 1, "mode statement");
        }
        assert_eq!(failed, names, "{verdict:#?}");
        assert!(!verdict.validated() && !verdict.admits());
        verdict
    }
}

#[test]
fn a_certified_module_passes() {
    for profile in [Profile::Government, Profile::Enterprise] {
        let case = Case { profile, ..Case::new() };
        let verdict = case.judge();
        assert!(verdict.validated() && verdict.admits(), "{verdict:#?}");
        assert_eq!(verdict.certificate, Some(9001));
        assert!(verdict.checks.iter().all(|check| !check.evidence.is_empty()));
    }
    let named = Case { certificate: Some(9001), ..Case::new() };
    assert!(named.judge().validated());
}

#[test]
fn pending_certificate_is_refused() {
    Case::new().certificate("status", json!("pending")).fails(&["status"]);
    // The module's own word, with which kryoptic's FIPS build answers.
    let mut case = Case::new();
    case.token.claims = vec![Claim { certificate: "Pending".to_owned(), level: 1 }];
    case.fails(&["the token's own claim"]);
}

#[test]
fn historical_140_2_is_refused() {
    Case::new().certificate("status", json!("historical")).fails(&["status"]);
    // An entry that still says `active` is no better.
    Case::new().certificate("standard", json!("FIPS 140-2")).fails(&["standard"]);
}

#[test]
fn wrong_firmware_with_a_real_number_is_refused() {
    let mut case = Case { certificate: Some(9001), ..Case::new() };
    case.token.firmware = "7.7".to_owned();
    case.fails(&["hardware and firmware versions"]);
    // Each version is on the certificate, but they were not tested together.
    case.token.firmware = "7.9".to_owned();
    case.fails(&["hardware and firmware versions"]);
    case.token.hardware = "3.0".to_owned();
    assert!(case.judge().validated());
    // A longer version that only begins alike.
    for firmware in ["7.90", "7.9.1", "7", ""] {
        case.token.firmware = firmware.to_owned();
        case.fails(&["hardware and firmware versions"]);
    }
}

#[test]
fn revoked_certificate_is_refused() {
    Case::new().certificate("status", json!("revoked")).fails(&["status"]);
}

#[test]
fn certificate_past_its_sunset_is_refused() {
    Case::new().certificate("sunset", json!("2026-11-20")).fails(&["validity"]);
    // Active on the snapshot's day, over today.
    Case::new().certificate("sunset", json!("2026-11-25")).fails(&["validity"]);
    assert!(Case::new().certificate("sunset", json!("2026-11-26")).judge().validated());
    Case::new().certificate("validated", json!("2026-11-21")).fails(&["validity"]);
}

#[test]
fn level_too_low_is_refused() {
    let two = Case::new().certificate("level", json!(2));
    two.fails(&["level"]);
    assert!(Case { profile: Profile::Enterprise, ..two }.judge().validated());
    Case { profile: Profile::Enterprise, ..Case::new() }.certificate("level", json!(1)).fails(&["level"]);
}

#[test]
fn sample_snapshot_is_refused() {
    for profile in [Profile::Government, Profile::Enterprise] {
        let mut case = Case { profile, ..Case::new() };
        case.snapshot["sample"] = json!(true);
        case.fails(&["snapshot is real"]);
    }
    // Left out it is not `false`.
    let mut bare = snapshot();
    bare.as_object_mut().unwrap().remove("sample");
    let bytes = serde_json::to_vec(&bare).unwrap();
    let people = People::new();
    let error = VerifiedSnapshot::verify(&bytes, &people.sign(&bytes, &[0, 1]), &people.approvers).unwrap_err();
    assert!(matches!(error, FipsError::Malformed { .. }), "{error}");
}

#[test]
fn one_signature_is_refused() {
    let verdict = Case { signers: vec![1], ..Case::new() }.fails(&["snapshot signatures", "certificate"]);
    assert!(verdict.failed().next().unwrap().evidence.contains("1 of 2"));
    // The same person twice is one: a second signature replaces the first, and a hand-made list is refused.
    Case { signers: vec![1, 1], ..Case::new() }.fails(&["snapshot signatures", "certificate"]);
    let people = People::new();
    let bytes = serde_json::to_vec(&snapshot()).unwrap();
    let mut twice: Value = serde_json::from_slice(&people.sign(&bytes, &[0])).unwrap();
    let again = twice["signatures"][0].clone();
    twice["signatures"].as_array_mut().unwrap().push(again);
    let twice = serde_json::to_vec(&twice).unwrap();
    let error = VerifiedSnapshot::verify(&bytes, &twice, &people.approvers).unwrap_err();
    assert!(matches!(error, FipsError::DuplicateSignature { .. }), "{error}");
}

#[test]
fn signature_of_a_stranger_is_refused() {
    let people = People::new();
    let bytes = serde_json::to_vec(&snapshot()).unwrap();
    let error = VerifiedSnapshot::verify(&bytes, &people.sign(&bytes, &[0, 2]), &people.approvers[..2]).unwrap_err();
    assert!(matches!(error, FipsError::UnknownSigner { .. }), "{error}");
    // Under a known key id, but made with another key.
    let mut forged = people.approvers.clone();
    forged[1].key = forged[2].key.clone();
    let error = VerifiedSnapshot::verify(&bytes, &people.sign(&bytes, &[0, 1]), &forged).unwrap_err();
    assert!(matches!(error, FipsError::BadSignature { .. }), "{error}");
}

#[test]
fn altered_snapshot_is_refused() {
    let people = People::new();
    let bytes = serde_json::to_vec(&snapshot()).unwrap();
    let signatures = people.sign(&bytes, &[0, 1]);
    assert!(VerifiedSnapshot::verify(&bytes, &signatures, &people.approvers).is_ok());
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let error = VerifiedSnapshot::verify(&altered, &signatures, &people.approvers).unwrap_err();
        assert!(matches!(error, FipsError::BadSignature { .. }), "byte {at}: {error}");
        let verdict = Case::new().judge_with(Err(&error));
        assert!(!verdict.admits());
    }
    for longer in [[&bytes[..], b" "].concat(), [b" ", &bytes[..]].concat()] {
        assert!(VerifiedSnapshot::verify(&longer, &signatures, &people.approvers).is_err());
    }
    // Of another kind of payload, every byte of the signature file counts as well.
    for at in 0..signatures.len() {
        let mut altered = signatures.clone();
        altered[at] ^= 1;
        assert!(VerifiedSnapshot::verify(&bytes, &altered, &people.approvers).is_err(), "byte {at}");
    }
}

#[test]
fn stale_snapshot_is_refused() {
    Case { today: date(2027, 2, 19), ..Case::new() }.fails(&["snapshot age"]);
    assert!(Case { today: date(2027, 2, 18), ..Case::new() }.judge().validated());
    // One from the future says that a clock is wrong.
    Case { today: date(2026, 11, 19), ..Case::new() }.fails(&["snapshot age"]);
}

#[test]
fn snapshot_rolled_back_is_refused() {
    Case { floor: Some(date(2026, 11, 21)), ..Case::new() }.fails(&["snapshot not rolled back"]);
    assert!(Case { floor: Some(date(2026, 11, 20)), ..Case::new() }.judge().validated());
}

#[test]
fn token_that_claims_validation_for_itself_is_refused() {
    let mut case = Case::new();
    case.snapshot["certificates"] = json!([]);
    case.token.claims = vec![Claim { certificate: "9001".to_owned(), level: 3 }];
    case.fails(&["certificate", "the token's own claim"]);
    // Beside a real certificate, a claim of more than that says that somebody lies.
    for (certificate, level) in [("9002", 3), ("9001", 4), ("", 3)] {
        let claims = vec![Claim { certificate: certificate.to_owned(), level }];
        let case = Case { token: TokenFacts { claims, ..token() }, ..Case::new() };
        case.fails(&["the token's own claim"]);
    }
    let claims = vec![Claim { certificate: "#9001".to_owned(), level: 3 }];
    assert!(Case { token: TokenFacts { claims, ..token() }, ..Case::new() }.judge().validated());
}

#[test]
fn unknown_model_is_refused() {
    let mut case = Case::new();
    case.token.model = "Fortress 8".to_owned();
    case.fails(&["certificate"]);
    case.certificate = Some(9001);
    case.fails(&["model"]);
    case.certificate = Some(1);
    case.fails(&["certificate"]);
    let case = Case { token: TokenFacts { manufacturer: "fortress".to_owned(), ..token() }, ..Case::new() };
    case.fails(&["certificate"]);
}

#[test]
fn two_certificates_for_one_token_are_not_chosen_from() {
    let mut case = Case::new();
    let mut second = case.snapshot["certificates"][0].clone();
    second["number"] = json!(9002);
    case.snapshot["certificates"].as_array_mut().unwrap().push(second);
    case.fails(&["certificate"]);
    case.certificate = Some(9002);
    assert!(case.judge().validated());
    // Two entries of one number are two answers.
    case.snapshot["certificates"][1]["number"] = json!(9001);
    case.fails(&["snapshot signatures", "certificate"]);
}

#[test]
fn software_token_is_never_called_validated() {
    // Each is certified to the full by the snapshot, and says of itself that it is hardware.
    for (manufacturer, model, library, file) in [
        ("Kryoptic Project", "v1", "Kryoptic", "libkryoptic_pkcs11.so"),
        ("SoftHSM project", "SoftHSM v2", "Implementation of PKCS11", "libsofthsm2.so"),
        ("Mozilla Foundation", "NSS 3", "NSS Internal Crypto Services", "libsoftokn3.so"),
        // Renamed in its configuration: the library and its file still tell.
        ("Fortress", "Fortress 7", "Kryoptic PKCS11", "libfortress.so"),
        ("Fortress", "Fortress 7", "Fortress cryptoki", "libcasemate_softtoken.so"),
    ] {
        let mut case = Case::new();
        case.snapshot["certificates"][0]["token"] = json!({ "manufacturer": manufacturer, "models": [model] });
        case.token = TokenFacts {
            manufacturer: manufacturer.to_owned(),
            model: model.to_owned(),
            library: library.to_owned(),
            file: file.to_owned(),
            ..token()
        };
        case.fails(&["hardware"]);
    }
    // One that hides everything is no hardware slot, or its certificate is one of software.
    Case { token: TokenFacts { hardware_slot: false, ..token() }, ..Case::new() }.fails(&["hardware"]);
    Case::new().certificate("kind", json!("software")).fails(&["kind of module"]);
}

#[test]
fn token_outside_its_approved_mode_is_refused() {
    Case { token: TokenFacts { approved_mode: ApprovedMode::No, ..token() }, ..Case::new() }.fails(&["approved mode"]);
}

#[test]
fn module_with_a_certificate_and_without_a_statement_of_its_mode_is_refused() {
    for profile in [Profile::Government, Profile::Enterprise] {
        // One person, one person twice, nobody; and whatever the token says of itself.
        for signers in [vec![0], vec![1, 1], vec![]] {
            Case { profile, mode_signers: signers, ..Case::new() }.fails(&["mode statement"]);
        }
    }
    let changed = |field: &str, value: Value| {
        let mut mode = mode();
        mode[field] = value;
        Case { mode: Some(mode), ..Case::new() }
    };
    for (field, value) in [
        ("serial", json!("0816")),
        ("manufacturer", json!("Fortune")),
        ("model", json!("Fortress 8")),
        ("hardware", json!("3.0")),
        ("firmware", json!("7.9")),
        ("certificate", json!(9002)),
        ("site", json!("south")),
        ("mode", json!("on")),
        ("format", json!(2)),
        ("seen", json!(" ")),
        // Not looked at yet, no longer good, good for too long.
        ("checked", json!("2026-11-26")),
        ("expires", json!("2026-11-25")),
        ("expires", json!("2027-12-01")),
        ("remark", json!("x")),
    ] {
        let verdict = changed(field, value.clone()).fails(&["mode statement"]);
        assert!(!verdict.failed().next().unwrap().evidence.is_empty(), "{field}: {value}");
    }
    // A signature under a list's type is none under a statement's.
    let people = People::new();
    let bytes = serde_json::to_vec(&mode()).unwrap();
    let verified = VerifiedMode::verify(&bytes, &people.sign(&bytes, &[0, 1]), &people.approvers, "north");
    assert!(matches!(verified, Err(FipsError::MalformedSignatures { .. })), "{verified:?}");
}

#[test]
fn token_that_cannot_say_its_mode_is_refused_unless_two_people_do() {
    let silent = || TokenFacts { approved_mode: ApprovedMode::CannotSay, ..token() };
    for profile in [Profile::Government, Profile::Enterprise] {
        let case = Case { token: silent(), profile, mode_signers: vec![1], ..Case::new() };
        let verdict = case.fails(&["mode statement", "approved mode"]);
        assert!(verdict.failed().last().unwrap().evidence.contains("C_GetSessionValidationFlags"));
        assert!(Case { token: silent(), profile, ..Case::new() }.judge().validated());
        // One that denies it is believed, whatever people say; and people make no module of software.
        let denying = TokenFacts { approved_mode: ApprovedMode::No, ..token() };
        Case { token: denying, profile, ..Case::new() }.fails(&["approved mode"]);
        let soft = TokenFacts { library: "kryoptic".to_owned(), ..silent() };
        Case { token: soft, profile, ..Case::new() }.fails(&["hardware"]);
    }
    assert!(Case { token: silent(), profile: Profile::Rehearsal, ..Case::new() }.judge().admits());
}

#[test]
fn needed_mechanism_outside_the_approved_services_is_refused() {
    for (needed, _) in NEEDED {
        let rest: Vec<&str> = NEEDED.iter().map(|(name, _)| *name).filter(|name| name != needed).collect();
        let verdict = Case::new().certificate("approved", json!(rest)).fails(&["approved services"]);
        assert!(verdict.failed().next().unwrap().evidence.contains(needed));
    }
}

#[test]
fn rehearsal_opens_and_claims_nothing() {
    assert!(Case { profile: Profile::Development, ..Case::new() }.judge().admits());
    let mut case = Case { profile: Profile::Rehearsal, ..Case::new() };
    assert!(case.judge().admits() && !case.judge().validated());
    case.snapshot["sample"] = json!(true);
    assert!(case.judge().admits() && !case.judge().validated());
    let none = case.judge_with(Err(&FipsError::NoSnapshot));
    assert!(none.admits() && !none.validated());
    assert!(!Case::new().judge_with(Err(&FipsError::NoSnapshot)).admits());
}

#[test]
fn unknown_fields_formats_and_values_are_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut value = snapshot();
        change(&mut value);
        casemate_fips::Snapshot::parse(&serde_json::to_vec(&value).unwrap()).unwrap_err()
    };
    refused(&|value| value["format"] = json!(2));
    refused(&|value| value["remark"] = json!("x"));
    refused(&|value| value["certificates"][0]["level"] = json!(5));
    refused(&|value| value["certificates"][0]["level"] = json!(0));
    refused(&|value| value["certificates"][0]["status"] = json!("Active"));
    refused(&|value| value["certificates"][0]["standard"] = json!("FIPS 140-4"));
    refused(&|value| value["certificates"][0]["token"]["manufacturer"] = json!(""));
    refused(&|value| value["certificates"][0]["sunset"] = json!("2026-02-30"));
}
