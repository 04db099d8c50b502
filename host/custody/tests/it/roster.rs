//! Attacks on the roster and on cards.

use casemate_custody::{Card, Custodian, CustodyError, Envelope, Roster};
use serde_json::{Value, json};

use crate::soft::{SITE, custodians, people, roster};

fn refused(custodians: Vec<Custodian>) -> &'static str {
    match Roster::new(SITE, 1, 2, custodians) {
        Err(CustodyError::NotDistinct { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn threshold_one_is_no_roster() {
    for threshold in [0, 1, 4] {
        let made = Roster::new(SITE, 1, threshold, custodians());
        assert!(matches!(made, Err(CustodyError::Threshold { .. })), "{threshold}");
    }
    let alone = Roster::new(SITE, 1, 2, custodians()[..1].to_vec());
    assert!(matches!(alone, Err(CustodyError::Threshold { .. })));
    let mut file: Value = serde_json::from_slice(&roster().to_bytes().unwrap()).unwrap();
    file["threshold"] = json!(1);
    assert!(matches!(Roster::parse(file.to_string().as_bytes()), Err(CustodyError::Threshold { .. })));
}

#[test]
fn one_person_with_two_keys_is_refused() {
    let mut all = custodians();
    all[1].person = all[0].person.clone();
    assert_eq!(refused(all), "person");
}

#[test]
fn two_people_on_one_token_are_refused() {
    let mut all = custodians();
    all[1].token_serial = all[0].token_serial.clone();
    assert_eq!(refused(all.clone()), "token");
    // In the other case, as another program may print it.
    all[1].token_serial = all[0].token_serial.as_str().to_lowercase().parse().unwrap();
    assert_eq!(refused(all), "token");
}

#[test]
fn one_key_under_two_names_is_refused() {
    let mut all = custodians();
    all[1].signing.public = all[0].signing.public;
    assert_eq!(refused(all), "signing key");
    let mut all = custodians();
    all[1].shares.public = all[0].shares.public.clone();
    assert_eq!(refused(all), "key for shares");
    let mut all = custodians();
    all[1].name = all[0].name.clone();
    assert_eq!(refused(all), "name");
}

#[test]
fn unknown_and_repeated_members_are_refused() {
    let text = String::from_utf8(roster().to_bytes().unwrap()).unwrap();
    assert_eq!(Roster::parse(text.as_bytes()).unwrap(), roster());
    for (from, to) in [
        ("\"epoch\": 1", "\"epoch\": 1, \"approve-all\": true"),
        ("\"epoch\": 1", "\"epoch\": 1, \"epoch\": 2"),
        ("\"epoch\": 1", "\"epoch\": 0"),
        ("\"person\": \"p-1\"", "\"person\": \"P-1\""),
        ("casemate roster 1", "casemate roster 2"),
    ] {
        let altered = text.replacen(from, to, 1);
        assert_ne!(altered, text, "{from}");
        assert!(matches!(Roster::parse(altered.as_bytes()), Err(CustodyError::Malformed { .. })), "{to}");
    }
}

#[test]
fn truncated_roster_is_refused_at_every_length() {
    let bytes = roster().to_bytes().unwrap();
    // The last two bytes are a brace and a line end.
    for length in 0..bytes.len() - 2 {
        assert!(Roster::parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn layout_does_not_change_the_digest_and_content_does() {
    let (roster, mut all) = (roster(), custodians());
    let compact: Value = serde_json::from_slice(&roster.to_bytes().unwrap()).unwrap();
    assert_eq!(Roster::parse(compact.to_string().as_bytes()).unwrap().digest(), roster.digest());
    all.swap(0, 1);
    assert_ne!(Roster::new(SITE, 1, 2, all).unwrap().digest(), roster.digest());
    assert_ne!(Roster::new(SITE, 2, 2, custodians()).unwrap().digest(), roster.digest());
    assert_ne!(Roster::new(SITE, 1, 3, custodians()).unwrap().digest(), roster.digest());
}

#[test]
fn a_card_that_another_key_signed_is_refused() {
    let [ana, bo, ..] = people();
    let mut card = Envelope::new(&Card::new(ana.custodian.clone())).unwrap();
    ana.sign(&mut card);
    assert_eq!(Card::open(&card.to_bytes().unwrap()).unwrap(), ana.custodian);

    // Bo announces ana's key as his own: he cannot sign with it.
    let mut stolen = bo.custodian.clone();
    stolen.signing = ana.custodian.signing.clone();
    let stolen = Envelope::new(&Card::new(stolen)).unwrap();
    let unsigned = Card::open(&stolen.to_bytes().unwrap());
    assert!(matches!(unsigned, Err(CustodyError::CardNotSigned { .. })));
    let mut forged: Value = serde_json::from_slice(&stolen.to_bytes().unwrap()).unwrap();
    forged["signatures"] = serde_json::from_slice::<Value>(&card.to_bytes().unwrap()).unwrap()["signatures"].clone();
    assert!(matches!(Card::open(forged.to_string().as_bytes()), Err(CustodyError::CardNotSigned { .. })));
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let mut all = custodians();
    all[0].signing.key.class = casemate_hsm::KeyClass::AuditSigning;
    assert!(matches!(Roster::new(SITE, 1, 2, all), Err(CustodyError::Custodian { .. })));
    let mut all = custodians();
    all[0].shares.public.push(0);
    assert!(matches!(Roster::new(SITE, 1, 2, all), Err(CustodyError::Custodian { .. })));
}
