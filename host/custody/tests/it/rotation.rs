//! Attacks on the notice of a rotation and on destruction.

use casemate_custody::*;
use casemate_hsm::{KeyClass, KeyId, KeyRef, Origin};
use casemate_types::{Digest, Profile};

use crate::soft::{SITE, Soft, people, root, roster, signed, statement};

const T0: UnixTime = UnixTime(1_800_000_000);
const HOUR: u64 = 3600;

/// A log whose record 3 is the notice; records follow at the given hours after it.
struct Hours(Vec<u64>);

impl AuditHeads for Hours {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        Ok((size <= self.size()).then(|| root(size)))
    }

    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError> {
        Ok(match index {
            0..=3 => Some(T0),
            later => self.0.get(later as usize - 4).map(|hours| UnixTime(T0.0 + hours * HOUR)),
        })
    }

    fn size(&self) -> u64 {
        4 + self.0.len() as u64
    }
}

struct Ledger;

impl NonceLedger for Ledger {
    fn spend(&mut self, _: &Nonce, _: &Digest, _: u32, _: UnixTime) -> Result<u32, CustodyError> {
        Ok(1)
    }
}

fn key(number: u8) -> KeyRef {
    KeyRef {
        id: KeyId::from_random([number; 16]),
        class: KeyClass::FpeFf1,
        check: "0011223344556677".into(),
        label: "site/metadata".into(),
        origin: Origin::Generated,
    }
}

fn token() -> TokenSerial {
    "OPS01".parse().unwrap()
}

fn at(hours: u64) -> UnixTime {
    UnixTime(T0.0 + hours * HOUR)
}

/// Approved by ana and bo at the given hour, after `change`.
fn approve(log: &Hours, hours: u64, change: impl FnOnce(&mut Statement)) -> Result<Approved<Statement>, CustodyError> {
    let roster = roster();
    let mut wanted = statement(&roster);
    wanted.tokens = vec![token()];
    wanted.audit_head = AuditHead { size: log.size(), root: root(log.size()) };
    (wanted.not_before, wanted.expires) = (at(hours), at(hours + 24));
    change(&mut wanted);
    let [ana, bo, ..]: &[Soft; 4] = people();
    let verifier = Verifier {
        site: SITE,
        roster: &roster,
        tier: QuorumBackend::SplitPackageAndPin,
        profile: Profile::Government,
        max_head_age: Verifier::MAX_HEAD_AGE,
    };
    verifier.approve(&signed(&wanted, &[ana, bo]), at(hours), log, &mut Ledger)
}

fn notice_statement(statement: &mut Statement) {
    (statement.key, statement.version) = (Some(key(1).id), Some(2));
}

fn activation(statement: &mut Statement) {
    (statement.key, statement.version) = (Some(key(2).id), Some(2));
    statement.subject = Some(Digest::of(b"the notice"));
}

fn noticed() -> KeyVersions {
    let mut versions = KeyVersions::default();
    versions.propose(T0).unwrap();
    let approved = approve(&Hours(vec![]), 0, notice_statement).unwrap();
    versions.may_notice(&approved, key(1).id, &token()).unwrap();
    let notice = Notice { statement: Digest::of(b"the notice"), from: T0, record: 3, next: key(2) };
    versions.notice(notice).unwrap();
    versions
}

fn active() -> KeyVersions {
    let mut versions = noticed();
    let log = Hours(vec![20, 40]);
    let right = versions.eligible(&approve(&log, 48, activation).unwrap(), &token(), &log).unwrap();
    assert!(!right.is_emergency());
    assert_eq!(versions.activate(&right, key(1)), Some(key(2)));
    versions
}

fn eligible(hours: u64, log: &Hours, change: impl FnOnce(&mut Statement)) -> Result<Activation, RotationError> {
    let approved = approve(log, hours, |statement| {
        activation(statement);
        change(statement);
    })?;
    noticed().eligible(&approved, &token(), log)
}

#[test]
fn from_proposal_to_destruction() {
    let mut versions = active();
    assert_eq!((versions.in_force(), versions.older()[0].stage), (2, Stage::DecryptOnly));
    let log = Hours(vec![20, 40, 49]);
    let destroy = || {
        approve(&log, 50, |s| (s.operation, s.key, s.version) = (Operation::Destroy, Some(key(1).id), Some(1))).unwrap()
    };
    assert!(matches!(versions.counted(3), Err(RotationError::NotReEncrypted { left: Some(3) })));
    versions.counted(0).unwrap();
    versions.schedule_destruction(&destroy(), 1, &token(), 9).unwrap();
    versions.destroyed(&versions.older()[0].key.clone());
    assert_eq!(versions.older()[0].stage, Stage::Destroyed);
    assert!(matches!(
        versions.schedule_destruction(&destroy(), 1, &token(), 9),
        Err(RotationError::Gone { version: 1 })
    ));
    let text = serde_json::to_string(&versions).unwrap();
    assert_eq!(serde_json::from_str::<KeyVersions>(&text).unwrap(), versions);
}

#[test]
fn activation_before_48_hours_is_refused() {
    let log = Hours(vec![20, 40]);
    // A statement that is good before the notice is over, although it is used afterwards.
    let early = |s: &mut Statement| s.not_before = UnixTime(at(48).0 - 1);
    assert!(matches!(eligible(48, &log, early), Err(RotationError::PromisedTooEarly { .. })));
    // One that is not good yet: the custodians' promise and the clock agree.
    let late = |s: &mut Statement| s.not_before = at(48);
    assert!(matches!(eligible(47, &log, late), Err(RotationError::Approval(CustodyError::NotYetValid { .. }))));
    assert!(eligible(48, &log, |_| ()).is_ok());
}

#[test]
fn a_notice_shortened_by_setting_the_clock_forward_is_refused() {
    // Nobody saw the time between: the log bears out a day of it, whatever the clock says.
    for log in [Hours(vec![]), Hours(vec![1]), Hours(vec![1, 2, 3])] {
        let refused = eligible(72, &log, |_| ());
        assert!(
            matches!(refused, Err(RotationError::NoticeUncounted { counted }) if counted < NOTICE_SECONDS),
            "{refused:?}"
        );
    }
    assert!(eligible(60, &Hours(vec![10]), |_| ()).is_err());
    assert!(eligible(48, &Hours(vec![24]), |_| ()).is_ok());
}

#[test]
fn a_clock_that_was_set_back_is_refused() {
    let log = Hours(vec![20, 40, 60]);
    let refused = eligible(50, &log, |_| ());
    assert!(matches!(refused, Err(RotationError::Approval(CustodyError::ClockBehind { .. }))), "{refused:?}");
    assert!(matches!(counted(&log, 3, at(50)), Err(CustodyError::ClockBehind { .. })));
}

#[test]
fn an_approval_for_another_key_version_token_or_notice_is_refused() {
    let log = Hours(vec![20, 40]);
    let refused = eligible(48, &log, |s| s.key = Some(key(1).id));
    assert!(matches!(refused, Err(RotationError::Approval(CustodyError::NotApproved { what: "key", .. }))));
    let refused = eligible(48, &log, |s| s.version = Some(3));
    assert!(matches!(refused, Err(RotationError::OtherVersion { named: Some(3), wanted: 2 })));
    let refused = eligible(48, &log, |s| s.version = None);
    assert!(matches!(refused, Err(RotationError::OtherVersion { named: None, .. })));
    let refused = eligible(48, &log, |s| s.tokens = vec!["OPS02".parse().unwrap()]);
    assert!(matches!(refused, Err(RotationError::Approval(CustodyError::NotApproved { what: "token", .. }))));
    let refused = eligible(48, &log, |s| s.subject = Some(Digest::of(b"another notice")));
    assert!(matches!(refused, Err(RotationError::OtherNotice)));
    let refused = eligible(48, &log, |s| s.operation = Operation::RotateEmergency);
    assert!(matches!(refused, Err(RotationError::Approval(CustodyError::NotApproved { what: "operation", .. }))));
    // The notice itself, again, does not activate.
    let refused = eligible(48, &log, |s| s.subject = None);
    assert!(matches!(refused, Err(RotationError::OtherNotice)));
    // Written before the notice was in the log.
    let refused = eligible(48, &log, |s| s.audit_head = AuditHead { size: 3, root: root(3) });
    assert!(matches!(refused, Err(RotationError::BeforeNotice)));
}

#[test]
fn an_approval_for_another_site_or_of_one_custodian_is_refused() {
    let log = Hours(vec![]);
    let refused = approve(&log, 0, |s| s.site = "elsewhere".to_owned());
    assert!(matches!(refused, Err(CustodyError::OtherSite { .. })), "{refused:?}");
    let refused = approve(&log, 0, |s| s.requester = people()[0].custodian.person.clone());
    assert!(refused.is_err(), "the requester does not count");
}

#[test]
fn an_emergency_without_a_reason_code_is_refused() {
    let log = Hours(vec![]);
    let emergency = |reason: &str| {
        let approved = approve(&log, 1, |s| {
            notice_statement(s);
            s.operation = Operation::RotateEmergency;
            s.reason = reason.to_owned();
        })?;
        KeyVersions::default().emergency(&approved, key(1).id, &token())
    };
    for reason in ["a hurry", "key-compromised", "key-compromised:", "key-compromised: ", "hurry: now"] {
        assert!(matches!(emergency(reason), Err(RotationError::EmergencyReason)), "{reason}");
    }
    assert!(emergency("key-compromised: found in a dump").unwrap().is_emergency());
}

#[test]
fn steps_out_of_order_are_refused_by_name() {
    let log = Hours(vec![20, 40]);
    let mut versions = KeyVersions::default();
    let give = approve(&log, 41, notice_statement).unwrap();
    assert!(matches!(versions.may_notice(&give, key(1).id, &token()), Err(RotationError::NotProposed)));
    let activate = approve(&log, 48, activation).unwrap();
    assert!(matches!(versions.eligible(&activate, &token(), &log), Err(RotationError::NotNoticed)));
    versions.propose(T0).unwrap();
    assert!(matches!(versions.propose(T0), Err(RotationError::UnderWay { next: 2 })));
    assert!(matches!(versions.eligible(&activate, &token(), &log), Err(RotationError::NotNoticed)));
    assert!(matches!(noticed().may_notice(&give, key(1).id, &token()), Err(RotationError::UnderWay { .. })));
    assert!(matches!(active().propose(T0), Err(RotationError::OlderInUse { version: 1 })));
    assert_eq!(noticed().withdraw().unwrap(), Some(key(2)));
}

#[test]
fn the_version_in_force_and_one_with_data_under_it_are_not_destroyed() {
    let log = Hours(vec![20, 40, 49]);
    let destroy = |number: u8| {
        let change = |s: &mut Statement| {
            (s.operation, s.key, s.version) = (Operation::Destroy, Some(key(number).id), Some(number.into()));
        };
        approve(&log, 50, change).unwrap()
    };
    let mut versions = active();
    let refused = versions.schedule_destruction(&destroy(2), 2, &token(), 9);
    assert!(matches!(refused, Err(RotationError::InForce { version: 2 })));
    let refused = versions.schedule_destruction(&destroy(1), 1, &token(), 9);
    assert!(matches!(refused, Err(RotationError::NotReEncrypted { .. })));
    versions.counted(0).unwrap();
    let refused = versions.schedule_destruction(&destroy(2), 1, &token(), 9);
    assert!(matches!(refused, Err(RotationError::Approval(CustodyError::NotApproved { what: "key", .. }))));
    assert!(matches!(
        versions.schedule_destruction(&destroy(7), 7, &token(), 9),
        Err(RotationError::Unknown { version: 7 })
    ));
    versions.destroyed(&versions.older()[0].key.clone());
    assert_eq!(versions.older()[0].stage, Stage::ReEncrypted, "destroyed without being scheduled");
}
