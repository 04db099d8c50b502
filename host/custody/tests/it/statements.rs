//! Attacks on approvals.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_custody::*;
use casemate_hsm::KeyId;
use casemate_types::{Level, Profile};
use serde_json::{Value, json};

use crate::soft::{AuditLog, NOW, SITE, Soft, custodians, people, rita, root, roster, signed, statement, unproven};

struct Site {
    folder: tempfile::TempDir,
    roster: Roster,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        NonceFile::create(&folder.path().join("nonces")).unwrap();
        Self { folder, roster: roster() }
    }

    fn verifier(&self) -> Verifier<'_> {
        Verifier {
            site: SITE,
            roster: &self.roster,
            tier: QuorumBackend::SplitPackageAndPin,
            profile: Profile::Government,
            max_head_age: Verifier::MAX_HEAD_AGE,
        }
    }

    /// Each with a ledger opened anew, as after a restart.
    fn approve_at(&self, envelope: &Envelope, now: UnixTime) -> Result<Approved<Statement>, CustodyError> {
        let mut ledger = NonceFile::open(&self.folder.path().join("nonces"))?;
        self.verifier().approve(envelope, now, &AuditLog, &mut ledger)
    }

    fn approve(&self, envelope: &Envelope) -> Result<Approved<Statement>, CustodyError> {
        self.approve_at(envelope, NOW)
    }
}

fn two() -> [&'static Soft; 2] {
    let [ana, bo, ..] = people();
    [ana, bo]
}

#[test]
fn two_custodians_approve() {
    let site = Site::new();
    let approved = site.approve(&signed(&statement(&site.roster), &two())).unwrap();
    let names: Vec<_> = approved.approvers().iter().map(|signer| signer.name.as_str()).collect();
    assert_eq!(names, ["ana", "bo"]);
    assert_eq!(approved.tier(), QuorumBackend::SplitPackageAndPin);
    let record = serde_json::to_value(approved.record()).unwrap();
    assert_eq!(record["tier"], "split-package-and-pin");
    assert_eq!(record["statement"]["operation"], "rotate");
    assert_eq!(record["approvers"][1]["token-serial"], "TOKEN02");
}

#[test]
fn one_custodian_alone_is_refused() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &[&people()[0]]);
    assert!(matches!(site.approve(&envelope), Err(CustodyError::TooFewSignatures { found: 1, wanted: 2 })));
    let unsigned = signed(&statement(&site.roster), &[]);
    assert!(matches!(site.approve(&unsigned), Err(CustodyError::TooFewSignatures { found: 0, wanted: 2 })));
}

#[test]
fn one_custodian_twice_is_refused() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &[&people()[0]]);
    let again = people()[0].signature(&envelope.signing_bytes());
    let added = envelope.clone().add(&people()[0].custodian, &again);
    assert!(matches!(added, Err(CustodyError::SignedTwice { .. })));
    let mut file: Value = serde_json::from_slice(&envelope.to_bytes().unwrap()).unwrap();
    let first = file["signatures"][0].clone();
    file["signatures"].as_array_mut().unwrap().push(first);
    let doubled = Envelope::parse(file.to_string().as_bytes()).unwrap();
    assert!(matches!(site.approve(&doubled), Err(CustodyError::SignedTwice { .. })));
}

#[test]
fn requester_as_second_approver_is_refused() {
    let site = Site::new();
    let [ana, bo, carla, _] = people();
    let mut statement = statement(&site.roster);
    statement.requester = bo.custodian.person.clone();
    let refused = site.approve(&signed(&statement, &[ana, bo]));
    assert!(matches!(refused, Err(CustodyError::RequesterApproved { wanted: 2 })));
    // Nor does it count where only signatures are looked at.
    let refused = Signed::<Statement>::verify(&signed(&statement, &[ana, bo]), &site.roster);
    assert!(matches!(refused, Err(CustodyError::RequesterApproved { wanted: 2 })));
    // Nor under the name instead of the person.
    statement.requester = bo.custodian.name.as_str().parse().unwrap();
    let refused = site.approve(&signed(&statement, &[ana, bo]));
    assert!(matches!(refused, Err(CustodyError::RequesterApproved { wanted: 2 })));
    statement.requester = bo.custodian.person.clone();
    // Beside two others the requester's signature is harmless, and is not named as an approval.
    let approved = site.approve(&signed(&statement, &[bo, ana, carla])).unwrap();
    assert_eq!(approved.approvers().len(), 2);
    assert!(approved.approvers().iter().all(|signer| signer.person != statement.requester));
}

#[test]
fn replayed_approval_is_refused_also_after_a_restart() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &two());
    let mut ledger = NonceFile::open(&site.folder.path().join("nonces")).unwrap();
    site.verifier().approve(&envelope, NOW, &AuditLog, &mut ledger).unwrap();
    let again = site.verifier().approve(&envelope, NOW, &AuditLog, &mut ledger);
    assert!(matches!(again, Err(CustodyError::Replayed { .. })));
    // Two processes cannot race for one approval.
    assert!(matches!(site.approve(&envelope), Err(CustodyError::InUse { .. })));
    drop(ledger);
    assert!(matches!(site.approve(&envelope), Err(CustodyError::Replayed { .. })));
    // With other signatures it is still the same approval.
    let others = signed(&statement(&site.roster), &[&people()[1], &people()[2]]);
    assert!(matches!(site.approve(&others), Err(CustodyError::Replayed { .. })));
}

#[test]
fn a_refused_approval_does_not_use_up_its_nonce() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &two());
    site.approve_at(&envelope, UnixTime(NOW.0 - 3600)).unwrap_err();
    site.approve(&envelope).unwrap();
}

#[test]
fn a_ledger_that_is_gone_or_damaged_is_not_an_empty_one() {
    let site = Site::new();
    let path = site.folder.path().join("nonces");
    site.approve(&signed(&statement(&site.roster), &two())).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut other = statement(&site.roster);
    other.nonce = Nonce::from_random([2; 16]);
    let envelope = signed(&other, &two());
    for bad in ["", "casemate nonces 2\n", &text.replacen("01", "zz", 1), &text.replacen('\n', "\n\n", 2)] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(site.approve(&envelope), Err(CustodyError::Malformed { .. })), "{bad:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(site.approve(&envelope), Err(CustodyError::Io { .. })));
    assert!(NonceFile::create(&path).is_ok() && NonceFile::create(&path).is_err());
    // A torn last line was never answered; it goes, and the ledger goes on.
    std::fs::write(&path, format!("{text}0202")).unwrap();
    site.approve(&envelope).unwrap();
    assert!(matches!(site.approve(&envelope), Err(CustodyError::Replayed { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
}

#[test]
fn expired_and_premature_approvals_are_refused() {
    let site = Site::new();
    let statement = statement(&site.roster);
    let envelope = signed(&statement, &two());
    let at = |seconds| site.approve_at(&envelope, UnixTime(seconds));
    assert!(matches!(at(statement.not_before.0 - 1), Err(CustodyError::NotYetValid { .. })));
    assert!(matches!(at(statement.expires.0), Err(CustodyError::Expired { .. })));
    assert!(matches!(at(u64::MAX), Err(CustodyError::Expired { .. })));
    assert!(at(statement.expires.0 - 1).is_ok());
}

#[test]
fn a_clock_that_was_set_back_is_noticed() {
    let site = Site::new();
    // Good the day before yesterday, and the clock says it is that day; the log knows better.
    let mut old = statement(&site.roster);
    (old.not_before, old.expires) = (UnixTime(NOW.0 - 200_000), UnixTime(NOW.0 - 100_000));
    let refused = site.approve_at(&signed(&old, &two()), UnixTime(NOW.0 - 150_000));
    assert!(matches!(refused, Err(CustodyError::ClockBehind { .. })));
}

#[test]
fn useless_validity_is_refused_before_anybody_signs() {
    let site = Site::new();
    let mut statement = statement(&site.roster);
    for (from, to) in [(10, 10), (10, 9), (0, MAX_VALIDITY_SECONDS + 1)] {
        (statement.not_before, statement.expires) = (UnixTime(from), UnixTime(to));
        assert!(matches!(Envelope::new(&statement), Err(CustodyError::Malformed { .. })), "{from} to {to}");
    }
}

#[test]
fn approval_of_another_site_is_refused() {
    let site = Site::new();
    let foreign = Roster::new("another-site", 1, 2, custodians()).unwrap();
    let refused = site.approve(&signed(&statement(&foreign), &two()));
    assert!(matches!(refused, Err(CustodyError::OtherSite { .. })));
}

#[test]
fn approval_under_another_roster_is_refused() {
    let site = Site::new();
    // The same people in the next epoch; a lower threshold is no roster, so try a higher one.
    for foreign in [Roster::new(SITE, 2, 2, custodians()), Roster::new(SITE, 1, 3, custodians())] {
        let refused = site.approve(&signed(&statement(&foreign.unwrap()), &two()));
        assert!(matches!(refused, Err(CustodyError::OtherRoster { .. })));
    }
}

#[test]
fn a_stranger_among_the_signers_is_refused() {
    let site = Site::new();
    let [ana, bo, _, mallory] = people();
    for signers in [&[ana, mallory][..], &[ana, bo, mallory]] {
        let refused = site.approve(&signed(&statement(&site.roster), signers));
        assert!(matches!(refused, Err(CustodyError::Stranger { .. })));
    }
}

#[test]
fn a_statement_altered_after_signing_is_refused() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &two());
    let file: Value = serde_json::from_slice(&envelope.to_bytes().unwrap()).unwrap();
    let payload = String::from_utf8(STANDARD.decode(file["payload"].as_str().unwrap()).unwrap()).unwrap();
    let with = |payload: &str| {
        let mut file = file.clone();
        file["payload"] = json!(STANDARD.encode(payload));
        site.approve(&Envelope::parse(file.to_string().as_bytes()).unwrap())
    };
    for (from, to) in [
        ("\"rotate\"", "\"destroy\""),
        ("OPS01", "OPS02"),
        ("yearly", "weekly"),
        ("\"version\":2", "\"version\":3"),
        ("\"p-77\"", "\"p-78\""),
        (&format!("\"expires\":{}", NOW.0 + 3600), &format!("\"expires\":{}", NOW.0 + 3601)),
    ] {
        let altered = payload.replacen(from, to, 1);
        assert_ne!(altered, payload, "{from}");
        assert!(matches!(with(&altered), Err(CustodyError::SignatureInvalid { .. })), "{to}");
    }
    // Another spelling of the same statement is another file, not another statement.
    for (from, to) in [(":", ": "), ("\"until\":null,", ""), ("{", "{\"force\":true,"), ("yearly", "y\\u0065arly")] {
        let altered = payload.replacen(from, to, 1);
        assert!(matches!(with(&altered), Err(CustodyError::Malformed { .. })), "{to}");
    }
    // A signature over one kind of document is none over another.
    let mut file = file.clone();
    file["payloadType"] = json!("application/vnd.casemate.share-set+json");
    let refused = site.approve(&Envelope::parse(file.to_string().as_bytes()).unwrap());
    assert!(matches!(refused, Err(CustodyError::WrongDocument { .. })));
    site.approve(&envelope).unwrap();
}

#[test]
fn a_flipped_bit_in_a_signature_is_refused() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &two());
    let bytes = people()[0].signature(&envelope.signing_bytes());
    for bit in (0..512).step_by(37) {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut fresh = signed(&statement(&site.roster), &[]);
        let added = fresh.add(&people()[0].custodian, &bad);
        assert!(matches!(added, Err(CustodyError::SignatureInvalid { .. })), "{bit}");
    }
}

#[test]
fn truncated_approval_is_refused_at_every_length() {
    let site = Site::new();
    let bytes = signed(&statement(&site.roster), &two()).to_bytes().unwrap();
    for length in 0..bytes.len() - 2 {
        assert!(Envelope::parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_head_that_the_log_never_had_is_refused() {
    let site = Site::new();
    for head in [AuditHead { size: 3, root: root(2) }, AuditHead { size: 4, root: root(4) }] {
        let mut statement = statement(&site.roster);
        statement.audit_head = head;
        let refused = site.approve(&signed(&statement, &two()));
        assert!(matches!(refused, Err(CustodyError::ForeignHead { .. })));
    }
}

#[test]
fn a_head_that_was_outdated_too_long_is_refused() {
    let site = Site::new();
    let mut old = statement(&site.roster);
    // Record 1, which outdates this head, is two hours old.
    old.audit_head = AuditHead { size: 1, root: root(1) };
    let envelope = signed(&old, &two());
    let strict = Verifier { max_head_age: 7199, ..site.verifier() };
    assert!(matches!(strict.inspect(&envelope, NOW, &AuditLog), Err(CustodyError::StaleHead { .. })));
    assert!(Verifier { max_head_age: 7200, ..site.verifier() }.inspect(&envelope, NOW, &AuditLog).is_ok());
}

/// [`AuditLog`] with records that are not at hand.
struct Sealed(std::ops::Range<u64>);

impl AuditHeads for Sealed {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        AuditLog.root_at(size)
    }

    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError> {
        if self.0.contains(&index) { Ok(None) } else { AuditLog.time_of(index) }
    }

    fn size(&self) -> u64 {
        AuditLog.size()
    }
}

#[test]
fn a_record_that_is_not_at_hand_excuses_nothing() {
    let site = Site::new();
    let with_head = |size| {
        let mut statement = statement(&site.roster);
        statement.audit_head = AuditHead { size, root: root(size) };
        signed(&statement, &two())
    };
    // Nobody can tell for how long these heads have been outdated.
    for size in [0, 1] {
        let refused = site.verifier().inspect(&with_head(size), NOW, &Sealed(0..2));
        assert!(matches!(refused, Err(CustodyError::RecordMissing { index }) if index == size), "{refused:?}");
    }
    for size in [2, 3] {
        site.verifier().inspect(&with_head(size), NOW, &Sealed(0..2)).unwrap();
    }
    // Nor whether the clock is behind.
    let refused = site.verifier().inspect(&with_head(3), NOW, &Sealed(2..3));
    assert!(matches!(refused, Err(CustodyError::RecordMissing { index: 2 })), "{refused:?}");
}

#[test]
fn approvals_without_force_are_refused_by_profile() {
    let site = Site::new();
    let envelope = signed(&statement(&site.roster), &two());
    for (profile, tier, fine) in [
        (Profile::Government, QuorumBackend::ApprovalsOnly, false),
        (Profile::Enterprise, QuorumBackend::ApprovalsOnly, false),
        (Profile::Rehearsal, QuorumBackend::ApprovalsOnly, true),
        (Profile::Development, QuorumBackend::ApprovalsOnly, true),
        (Profile::Government, QuorumBackend::SplitPackageAndPin, true),
        (Profile::Government, QuorumBackend::Vendor, true),
    ] {
        let result = Verifier { profile, tier, ..site.verifier() }.inspect(&envelope, NOW, &AuditLog);
        match result {
            Ok(_) => assert!(fine, "{profile} {tier}"),
            Err(error) => {
                assert!(!fine && matches!(error, CustodyError::TierTooLow { .. }), "{profile} {tier}: {error}")
            }
        }
    }
}

#[test]
fn an_approval_is_for_one_operation_key_and_token() {
    let site = Site::new();
    let approved = site.approve(&signed(&statement(&site.roster), &two())).unwrap();
    let (key, other) = (Some(KeyId::from_random([7; 16])), Some(KeyId::from_random([8; 16])));
    let (here, there) = ("OPS01".parse().unwrap(), "OPS02".parse().unwrap());
    approved.permits(Operation::Rotate, key, Some(&here)).unwrap();
    for (operation, key, token) in
        [(Operation::Destroy, key, &here), (Operation::Rotate, other, &here), (Operation::Rotate, key, &there)]
    {
        let refused = approved.permits(operation, key, Some(token));
        assert!(matches!(refused, Err(CustodyError::NotApproved { .. })), "{operation}");
    }
}

#[test]
fn a_statement_that_says_too_little_is_refused() {
    let base = statement(&roster());
    let broken: [fn(&mut Statement); 8] = [
        |s| s.key = None,
        |s| s.class = None,
        |s| s.tokens.clear(),
        |s| s.tokens.push("ops01".parse().unwrap()),
        |s| s.reason = "looks fine\u{202e}".to_owned(),
        |s| s.operation = Operation::ChangeRoster,
        |s| s.operation = Operation::EnableLegacy,
        |s| s.until = Some(NOW),
    ];
    for (number, breaks) in broken.into_iter().enumerate() {
        let mut statement = base.clone();
        breaks(&mut statement);
        assert!(Envelope::new(&statement).is_err(), "{number}");
    }
    Envelope::new(&base).unwrap();
}

/// What a custodian reads is what is signed: every member of the payload is on the screen.
#[test]
fn everything_that_is_signed_is_shown() {
    let mut statement = statement(&roster());
    statement.operation = Operation::EnableLegacy;
    statement.template = Some(casemate_types::Digest::of(b"template"));
    statement.subject = Some(casemate_types::Digest::of(b"subject"));
    statement.until = Some(UnixTime(1_900_000_000));
    let screen = statement.to_string();
    let Value::Object(members) = serde_json::to_value(&statement).unwrap() else { panic!() };
    for (name, value) in members.into_iter().filter(|(name, _)| name != "format") {
        let texts: Vec<String> = match value {
            Value::Object(inner) => inner.values().map(|value| value.to_string()).collect(),
            Value::Array(items) => items.iter().map(Value::to_string).collect(),
            scalar => vec![scalar.to_string()],
        };
        for text in texts {
            assert!(screen.contains(text.trim_matches('"')), "{name} = {text} is not shown");
        }
    }
}

/// The example of the DSSE specification (protocol.md).
#[test]
fn signing_bytes_are_those_of_dsse() {
    let file = json!({ "payload": STANDARD.encode("hello world"), "payloadType": "http://example.com/HelloWorld", "signatures": [] });
    let envelope = Envelope::parse(file.to_string().as_bytes()).unwrap();
    assert_eq!(envelope.signing_bytes(), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
}

/// The name in a statement is a claim until its owner signs.
#[test]
fn requester_whose_name_another_used_is_refused() {
    let site = Site::new();
    let [ana, bo, carla, mallory] = people();
    let asked = statement(&site.roster);
    let refused = site.approve(&unproven(&asked, &two()));
    assert!(matches!(refused, Err(CustodyError::RequesterUnproven { .. })), "{refused:?}");
    assert!(site.approve(&signed(&asked, &two())).unwrap().requester_proven());
    // A custodian's name too: whoever writes `carla` is not carla.
    let mut as_carla = statement(&site.roster);
    (as_carla.requester, as_carla.nonce) = ("p-3".parse().unwrap(), Nonce::from_random([2; 16]));
    let refused = site.approve(&unproven(&as_carla, &two()));
    assert!(matches!(refused, Err(CustodyError::RequesterUnproven { .. })), "{refused:?}");
    assert_eq!(site.approve(&unproven(&as_carla, &[carla, ana, bo])).unwrap().approvers().len(), 2);
    // Somebody of no roster cannot prove anything.
    let mut stranger = statement(&site.roster);
    stranger.requester = "p-9".parse().unwrap();
    let refused = site.approve(&unproven(&stranger, &two()));
    assert!(matches!(refused, Err(CustodyError::RequesterUnknown { .. })), "{refused:?}");
    let mut envelope = unproven(&stranger, &two());
    mallory.sign(&mut envelope);
    assert!(matches!(site.approve(&envelope), Err(CustodyError::Stranger { .. })));
}

#[test]
fn requester_is_no_second_approver() {
    let site = Site::new();
    let [ana, ..] = people();
    let refused = site.approve(&signed(&statement(&site.roster), &[ana]));
    assert!(matches!(refused, Err(CustodyError::TooFewSignatures { found: 1, wanted: 2 })), "{refused:?}");
    // Nor of somebody else's request.
    let mut other = statement(&site.roster);
    other.requester = "p-3".parse().unwrap();
    let mut envelope = unproven(&other, &[ana]);
    rita().sign(&mut envelope);
    assert!(matches!(site.approve(&envelope), Err(CustodyError::Stranger { .. })));
    // Nor under a custodian's hat: nobody is both.
    let refused = Roster::with_requesters(SITE, 1, 2, custodians(), vec![ana.custodian.clone()]);
    assert!(matches!(refused, Err(CustodyError::NotDistinct { .. })));
}

fn grant(uses: u32) -> Grant {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Grant {
        user: None,
        clearance: Level::Confidential,
        roles: set(&["analyst"]),
        groups: set(&[]),
        departments: set(&["engineering", "sales"]),
        compartments: ["engineering".parse().unwrap()].into(),
        uses,
    }
}

#[test]
fn standing_approval_is_refused_when_it_is_used_up() {
    let site = Site::new();
    let mut standing = statement(&site.roster);
    (standing.operation, standing.grant) = (Operation::IssueUser, Some(grant(3)));
    let envelope = signed(&standing, &two());
    let used: Vec<u32> = (0..3).map(|_| site.approve(&envelope).unwrap().used()).collect();
    assert_eq!(used, [1, 2, 3]);
    assert!(matches!(site.approve(&envelope), Err(CustodyError::UsedUp { uses: 3, .. })));
    let ledger = NonceFile::open(&site.folder.path().join("nonces")).unwrap();
    assert_eq!(ledger.uses(&standing.nonce), [Some(NOW); 3]);
    drop(ledger);
    // Nor after it has expired, whatever is left of it.
    standing.nonce = Nonce::from_random([3; 16]);
    let refused = site.approve_at(&signed(&standing, &two()), standing.expires);
    assert!(matches!(refused, Err(CustodyError::Expired { .. })));
    // Counts beyond bounds, a grant of nothing, and grants where none belong are no statements.
    for change in [
        |s: &mut Statement| s.grant = Some(grant(0)),
        |s: &mut Statement| s.grant = Some(grant(MAX_USES + 1)),
        |s: &mut Statement| s.grant = None,
        |s: &mut Statement| s.operation = Operation::Rotate,
        |s: &mut Statement| s.expires = UnixTime(s.not_before.0 + MAX_VALIDITY_SECONDS + 1),
    ] {
        let mut bad = standing.clone();
        change(&mut bad);
        assert!(Envelope::new(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn key_beyond_the_grant_is_named() {
    let exceeded = |change: &dyn Fn(&mut Grant)| {
        let (mut held, mut wanted) = (grant(5), grant(1));
        (held.user, wanted.user) = (Some("dora".parse().unwrap()), Some("dora".parse().unwrap()));
        change(&mut wanted);
        held.exceeded_by(&wanted)
    };
    assert_eq!(exceeded(&|_| ()), None);
    assert_eq!(exceeded(&|wanted| wanted.user = Some("mallory".parse().unwrap())), Some("user"));
    assert_eq!(exceeded(&|wanted| wanted.clearance = Level::Secret), Some("clearance"));
    assert_eq!(
        exceeded(&|wanted| {
            wanted.roles.insert("curator".to_owned());
        }),
        Some("role")
    );
    assert_eq!(
        exceeded(&|wanted| {
            wanted.groups.insert("board".to_owned());
        }),
        Some("group")
    );
    assert_eq!(
        exceeded(&|wanted| {
            wanted.departments.insert("legal".to_owned());
        }),
        Some("department")
    );
    assert_eq!(
        exceeded(&|wanted| {
            wanted.compartments.insert("legal".parse().unwrap());
        }),
        Some("compartment")
    );
}
