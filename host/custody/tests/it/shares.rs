//! Attacks on split packages.

use casemate_custody::*;
use serde_json::{Value, json};

use crate::soft::{SITE, Soft, custodians, people, roster};

const SECRET: &[u8] = b"a wrapped key, which only one HSM can open";

fn package(epoch: u64) -> (ShareSet, Vec<SealedShare>) {
    let of = SplitOf { kind: SecretKind::Package, about: "key 07", epoch };
    split(SECRET, of, &roster(), &mut SystemEntropy).unwrap()
}

fn open(share: &SealedShare, holder: &Soft) -> OpenShare {
    share.open(&holder.custodian, holder).unwrap()
}

#[test]
fn any_two_custodians_put_a_package_together_and_one_does_not() {
    let (set, shares) = package(4);
    let people = people();
    for pair in [[0, 1], [0, 2], [2, 1]] {
        let mut collector = Collector::new(&set, &roster(), 4).unwrap();
        assert_eq!(collector.enter(open(&shares[pair[0]], &people[pair[0]])).unwrap(), 1);
        assert_eq!(collector.enter(open(&shares[pair[1]], &people[pair[1]])).unwrap(), 0);
        assert_eq!(&collector.combine().unwrap()[..], SECRET);
    }
    let mut alone = Collector::new(&set, &roster(), 4).unwrap();
    alone.enter(open(&shares[0], &people[0])).unwrap();
    assert!(matches!(alone.combine(), Err(CustodyError::TooFewShares { found: 1, wanted: 2 })));
}

#[test]
fn one_share_twice_is_refused() {
    let (set, shares) = package(1);
    let mut collector = Collector::new(&set, &roster(), 1).unwrap();
    collector.enter(open(&shares[0], &people()[0])).unwrap();
    let again = collector.enter(open(&shares[0], &people()[0]));
    assert!(matches!(again, Err(CustodyError::ShareTwice { .. })));
}

#[test]
fn share_of_an_older_epoch_is_refused() {
    let ((old_set, old), (set, _)) = (package(1), package(2));
    let mut collector = Collector::new(&set, &roster(), 2).unwrap();
    let refused = collector.enter(open(&old[0], &people()[0]));
    assert!(matches!(refused, Err(CustodyError::OlderEpoch { found: 1, current: 2 })));
    // The whole old set, put back in place of the new one.
    let refused = Collector::new(&old_set, &roster(), 2);
    assert!(matches!(refused, Err(CustodyError::OlderEpoch { found: 1, current: 2 })));
    // An old share that claims to be new.
    let mut file: Value = serde_json::from_slice(&old[0].to_bytes().unwrap()).unwrap();
    file["header"]["epoch"] = json!(2);
    let forged = SealedShare::parse(file.to_string().as_bytes()).unwrap();
    let refused = forged.open(&people()[0].custodian, &people()[0]);
    assert!(matches!(refused, Err(CustodyError::ShareAltered { .. })));
}

#[test]
fn share_of_another_package_is_refused() {
    let ((set, _), (_, others)) = (package(1), package(1));
    let mut collector = Collector::new(&set, &roster(), 1).unwrap();
    let refused = collector.enter(open(&others[0], &people()[0]));
    assert!(matches!(refused, Err(CustodyError::ShareOfOtherSet { .. })));
}

#[test]
fn corrupted_share_is_refused_at_entry() {
    let (_, shares) = package(1);
    let ana = &people()[0];
    let file: Value = serde_json::from_slice(&shares[0].to_bytes().unwrap()).unwrap();
    for (part, member) in [
        ("header", "custodian"),
        ("header", "epoch"),
        ("header", "index"),
        ("header", "kind"),
        ("header", "set"),
        ("header", "set-digest"),
        ("header", "site"),
        ("header", "token-serial"),
        ("sealed", "content"),
        ("sealed", "iv"),
        ("sealed", "key"),
    ] {
        let mut bad = file.clone();
        bad[part][member] = match &file[part][member] {
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::String(text) if member == "kind" => json!(if text == "package" { "so-pin" } else { "package" }),
            Value::String(text) => {
                // Another letter of the alphabet at the last place that carries whole bits.
                let at = text.trim_end_matches('=').len() - 3;
                let other = if &text[at..=at] == "a" { "b" } else { "a" };
                json!(format!("{}{other}{}", &text[..at], &text[at + 1..]))
            }
            other => panic!("{other}"),
        };
        let opened = SealedShare::parse(bad.to_string().as_bytes()).unwrap().open(&ana.custodian, ana);
        assert!(
            matches!(opened, Err(CustodyError::ShareAltered { .. } | CustodyError::ShareOfAnother { .. })),
            "{part}.{member}: {opened:?}"
        );
    }
}

#[test]
fn a_custodian_who_enters_another_value_is_named() {
    let (set, shares) = package(1);
    let mut line: Value = serde_json::from_slice(&open(&shares[1], &people()[1]).expose_for_pipe().unwrap()).unwrap();
    let content = line["content"].as_str().unwrap().to_owned();
    for at in [0, 63, 64, 66, content.len() - 1] {
        let other = if &content[at..=at] == "0" { "1" } else { "0" };
        line["content"] = json!(format!("{}{other}{}", &content[..at], &content[at + 1..]));
        let mut collector = Collector::new(&set, &roster(), 1).unwrap();
        collector.enter(open(&shares[0], &people()[0])).unwrap();
        match collector.enter(OpenShare::from_pipe(line.to_string().as_bytes()).unwrap()) {
            Err(CustodyError::ShareCorrupted { custodian }) => assert_eq!(custodian.as_str(), "bo"),
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn share_under_another_custodian_is_refused() {
    let (set, shares) = package(1);
    let [ana, bo, ..] = people();
    // Bo presents ana's share with his token, as himself and as ana.
    assert!(matches!(shares[0].open(&bo.custodian, bo), Err(CustodyError::ShareOfAnother { .. })));
    assert!(matches!(shares[0].open(&ana.custodian, bo), Err(CustodyError::ShareOfAnother { .. })));
    // He writes his name on it.
    let mut file: Value = serde_json::from_slice(&shares[0].to_bytes().unwrap()).unwrap();
    (file["header"]["custodian"], file["header"]["token-serial"]) = (json!("bo"), json!("TOKEN02"));
    let forged = SealedShare::parse(file.to_string().as_bytes()).unwrap();
    assert!(matches!(forged.open(&bo.custodian, bo), Err(CustodyError::ShareAltered { .. })));
    // He puts his index on an opened share.
    let mut line: Value = serde_json::from_slice(&open(&shares[1], bo).expose_for_pipe().unwrap()).unwrap();
    line["header"]["index"] = json!(1);
    let mut collector = Collector::new(&set, &roster(), 1).unwrap();
    let refused = collector.enter(OpenShare::from_pipe(line.to_string().as_bytes()).unwrap());
    assert!(matches!(refused, Err(CustodyError::ShareOfAnother { .. })));
}

#[test]
fn truncated_share_and_set_are_refused_at_every_length() {
    let (set, shares) = package(1);
    let share = shares[0].to_bytes().unwrap();
    (0..share.len() - 2).for_each(|length| assert!(SealedShare::parse(&share[..length]).is_err(), "{length}"));
    let set = set.to_bytes().unwrap();
    (0..set.len()).for_each(|length| assert!(ShareSet::parse(&set[..length]).is_err(), "{length}"));
}

#[test]
fn a_set_of_another_roster_or_site_is_refused() {
    let (set, _) = package(1);
    let next = Roster::new(SITE, 2, 2, custodians()).unwrap();
    assert!(matches!(Collector::new(&set, &next, 1), Err(CustodyError::SetOfOtherRoster)));
    let foreign = Roster::new("another-site", 1, 2, custodians()).unwrap();
    assert!(matches!(Collector::new(&set, &foreign, 1), Err(CustodyError::OtherSite { .. })));
}

#[test]
fn a_set_whose_commitments_were_replaced_does_not_take_the_shares() {
    let (set, shares) = package(1);
    let mut file: Value = serde_json::from_slice(&set.to_bytes().unwrap()).unwrap();
    file["shares"][1]["commitment"] = file["shares"][0]["commitment"].clone();
    let forged = ShareSet::parse(file.to_string().as_bytes()).unwrap();
    let mut collector = Collector::new(&forged, &roster(), 1).unwrap();
    // Each share is bound to the digest of its own set.
    let refused = collector.enter(open(&shares[0], &people()[0]));
    assert!(matches!(refused, Err(CustodyError::ShareOfOtherSet { .. })));
    file["threshold"] = json!(1);
    assert!(matches!(ShareSet::parse(file.to_string().as_bytes()), Err(CustodyError::Threshold { .. })));
}

#[test]
fn two_splits_of_one_secret_share_nothing() {
    let ((a, a_shares), (b, b_shares)) = (package(1), package(1));
    assert_ne!(a.digest().unwrap(), b.digest().unwrap());
    let commitments = |set: &ShareSet| set.holders().map(|(_, commitment)| commitment).collect::<Vec<_>>();
    assert!(commitments(&a).iter().all(|one| !commitments(&b).contains(one)));
    assert_ne!(a_shares[0].to_bytes().unwrap(), b_shares[0].to_bytes().unwrap());
}

#[test]
fn custodians_sign_a_set_in_a_ceremony() {
    let (set, _) = package(1);
    let [ana, bo, ..] = people();
    let mut envelope = Envelope::new(&set).unwrap();
    ana.sign(&mut envelope);
    assert!(matches!(Signed::<ShareSet>::verify(&envelope, &roster()), Err(CustodyError::TooFewSignatures { .. })));
    bo.sign(&mut envelope);
    assert_eq!(Signed::<ShareSet>::verify(&envelope, &roster()).unwrap().document(), &set);
}

#[test]
fn a_share_is_not_printed() {
    let (_, shares) = package(1);
    let opened = open(&shares[0], &people()[0]);
    let clear = String::from_utf8(opened.expose_for_pipe().unwrap().to_vec()).unwrap();
    let content = serde_json::from_str::<Value>(&clear).unwrap()["content"].as_str().unwrap().to_owned();
    assert!(!format!("{opened:?}").contains(&content[..16]));
    assert!(!String::from_utf8(shares[0].to_bytes().unwrap()).unwrap().contains(&content[64..]));
}
