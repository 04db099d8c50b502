//! Who tries to get a change in without what it takes.

use std::collections::BTreeMap;

use casemate_bundle::{ApproverKey, TrustRoot};
use casemate_change::cycle::{Change, Facts, Report, Seen, Staged};
use casemate_change::{Approval, ApprovalError, ApprovalFile};
use casemate_types::{Digest, Generation};
use serde_json::json;

use crate::site::{now, time};

struct World {
    ana: ApproverKey,
    bo: ApproverKey,
    cyd: ApproverKey,
    trust: TrustRoot,
}

fn world() -> World {
    let [ana, bo, cyd] = ["ana", "bo", "cyd"].map(|name| ApproverKey::generate(name).unwrap());
    let trust = TrustRoot::create(&[&ana, &bo, &cyd], time("2030-01-01T00:00:00Z")).unwrap();
    World { trust: TrustRoot::parse(&trust).unwrap(), ana, bo, cyd }
}

const CONTENT: &[u8] = b"content";

fn report() -> Report {
    Report {
        digest: Digest::of(b"report"),
        content: Digest::of(CONTENT),
        generation: Generation(7),
        newly_allowed: ["request-1".to_owned()].into(),
        expires: time("2027-01-08T00:00:00Z"),
    }
}

fn facts() -> Facts {
    Facts {
        name: "clearance".parse().unwrap(),
        version: 2,
        expires: time("2027-06-01T00:00:00Z"),
        settings: Digest::of(b"{}"),
        difference: json!({"gained": ["fpe"]}),
    }
}

fn staged_by(world: &World, requester: &str, report: Report) -> Result<Change<Staged>, ApprovalError> {
    let change = Change::received(Digest::of(CONTENT), requester.to_owned()).verified(facts());
    change.staged(report, "here", world.trust.digest(), Generation(7), now())
}

fn staged(world: &World) -> Change<Staged> {
    staged_by(world, "carla", report()).unwrap()
}

fn reasons() -> BTreeMap<String, String> {
    BTreeMap::from([("request-1".to_owned(), "was denied by mistake".to_owned())])
}

fn approval(seen: &Seen, key: &ApproverKey) -> ApprovalFile {
    ApprovalFile::sign(seen, reasons(), key, now()).unwrap()
}

fn verified(world: &World, seen: &Seen, keys: &[&ApproverKey]) -> Vec<Approval> {
    keys.iter().map(|key| approval(seen, key).verify(seen, &world.trust, now()).unwrap()).collect()
}

#[test]
fn two_who_saw_the_same_make_it_active() {
    let world = world();
    let change = staged(&world);
    let approvals = verified(&world, change.seen(), &[&world.bo, &world.ana]);
    let file = ApprovalFile::parse(&approval(change.seen(), &world.ana).to_bytes().unwrap()).unwrap();
    assert_eq!(file.verify(change.seen(), &world.trust, now()).unwrap().reasons(), &reasons());
    let approved = change.approved(&approvals).unwrap();
    assert_eq!(approved.approvers(), ["ana", "bo"]);
    let active = approved.activated(Generation(8));
    assert_eq!((active.generation(), active.requester()), (Generation(8), "carla"));
    assert_eq!(active.clone().superseded(Generation(9)).by(), Generation(9));
    let _ended = active.rolled_back(Generation(10)).revoked();
}

#[test]
fn one_person_twice_is_one_person() {
    let world = world();
    let change = staged(&world);
    let alone = verified(&world, change.seen(), &[&world.ana]);
    assert!(matches!(change.clone().approved(&[]), Err(ApprovalError::TooFew { found: 0, needed: 2 })));
    assert!(matches!(change.clone().approved(&alone), Err(ApprovalError::TooFew { found: 1, .. })));
    let twice = verified(&world, change.seen(), &[&world.ana, &world.ana]);
    assert!(matches!(change.approved(&twice), Err(ApprovalError::SamePerson { name }) if name == "ana"));
}

#[test]
fn who_asked_for_it_cannot_approve_it() {
    let world = world();
    let change = staged_by(&world, "ana", report()).unwrap();
    let refused = ApprovalFile::sign(change.seen(), reasons(), &world.ana, now());
    assert!(matches!(refused, Err(ApprovalError::Requester { name }) if name == "ana"));
    // Signed under the pretence that somebody else had asked: it is not what there is to see.
    let mut pretended = change.seen().clone();
    pretended.requester = "carla".to_owned();
    let file = approval(&pretended, &world.ana);
    let refused = file.verify(change.seen(), &world.trust, now());
    assert!(matches!(refused, Err(ApprovalError::OtherThing { approver }) if approver == "ana"));
    // Nor when the name is put into the list afterwards.
    let other = staged(&world);
    let approvals = verified(&world, other.seen(), &[&world.ana, &world.bo]);
    assert!(matches!(change.approved(&approvals), Err(ApprovalError::OtherThing { .. })));
}

#[test]
fn an_approval_of_something_else_counts_for_nothing() {
    let world = world();
    let change = staged(&world);
    type Edit = fn(&mut Seen);
    let edits: [Edit; 6] = [
        |seen| seen.content = Digest::of(b"another"),
        |seen| seen.difference = json!({"gained": []}),
        |seen| seen.settings = Digest::of(b"{\"a\": 1}"),
        |seen| seen.expires = time("2027-01-09T00:00:00Z"),
        |seen| seen.version = 3,
        |seen| seen.name = "disclosure".parse().unwrap(),
    ];
    for edit in edits {
        let mut other = change.seen().clone();
        edit(&mut other);
        let file = approval(&other, &world.bo);
        let refused = file.verify(change.seen(), &world.trust, now());
        assert!(matches!(refused, Err(ApprovalError::OtherThing { .. })), "{refused:?}");
    }
    let mut fewer = change.seen().clone();
    fewer.newly_allowed.clear();
    let file = ApprovalFile::sign(&fewer, BTreeMap::new(), &world.bo, now()).unwrap();
    let refused = file.verify(change.seen(), &world.trust, now());
    assert!(matches!(refused, Err(ApprovalError::OtherThing { .. })), "{refused:?}");
}

#[test]
fn a_stale_report_and_an_approval_of_it_are_refused() {
    let world = world();
    let change = Change::received(Digest::of(CONTENT), "carla".to_owned()).verified(facts());
    let later = change.clone().staged(report(), "here", world.trust.digest(), Generation(8), now());
    assert!(matches!(later, Err(ApprovalError::Stale { then: Generation(7), now: Generation(8) })));
    let foreign = Report { content: Digest::of(b"another"), ..report() };
    let foreign = change.clone().staged(foreign, "here", world.trust.digest(), Generation(7), now());
    assert!(matches!(foreign, Err(ApprovalError::OtherReport { .. })));
    let expired = change.staged(report(), "here", world.trust.digest(), Generation(7), time("2027-01-09T00:00:00Z"));
    assert!(matches!(expired, Err(ApprovalError::Expired { .. })));
    // Approved on the first report, staged again.
    let first = staged(&world);
    let file = approval(first.seen(), &world.ana);
    let second = staged_by(&world, "carla", Report { digest: Digest::of(b"second"), ..report() }).unwrap();
    assert!(matches!(file.verify(second.seen(), &world.trust, now()), Err(ApprovalError::Stale { .. })));
    let too_late = file.verify(first.seen(), &world.trust, time("2027-01-08T00:00:01Z"));
    assert!(matches!(too_late, Err(ApprovalError::Expired { .. })));
}

#[test]
fn an_approval_for_another_site_is_refused() {
    let world = world();
    let change = staged(&world);
    for (site, root) in [("there", world.trust.digest()), ("here", Digest::of(b"another root"))] {
        let there = Change::received(Digest::of(CONTENT), "carla".to_owned()).verified(facts());
        let there = there.staged(report(), site, root, Generation(7), now()).unwrap();
        let refused = approval(there.seen(), &world.ana).verify(change.seen(), &world.trust, now());
        assert!(matches!(refused, Err(ApprovalError::OtherSite { .. })), "{refused:?}");
    }
}

#[test]
fn what_would_be_allowed_from_now_on_wants_a_reason_of_each() {
    let world = world();
    let change = staged(&world);
    for reason in ["", "  ", "two\nlines"] {
        let reasons = BTreeMap::from([("request-1".to_owned(), reason.to_owned())]);
        let refused = ApprovalFile::sign(change.seen(), reasons, &world.ana, now());
        assert!(matches!(refused, Err(ApprovalError::Reason { request }) if request == "request-1"), "{reason:?}");
    }
    assert!(matches!(
        ApprovalFile::sign(change.seen(), BTreeMap::new(), &world.ana, now()),
        Err(ApprovalError::Reason { .. })
    ));
    let mut more = reasons();
    more.insert("request-2".to_owned(), "for nothing".to_owned());
    assert!(matches!(ApprovalFile::sign(change.seen(), more, &world.ana, now()), Err(ApprovalError::Reason { .. })));
}

#[test]
fn forged_approvals_are_refused_by_name() {
    let world = world();
    let change = staged(&world);
    let stranger = ApproverKey::generate("ana").unwrap();
    let refused = approval(change.seen(), &stranger).verify(change.seen(), &world.trust, now());
    assert!(matches!(refused, Err(ApprovalError::BadSignature { .. })));
    let bytes = approval(change.seen(), &world.cyd).to_bytes().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let one = value["signatures"][0].clone();
    value["signatures"].as_array_mut().unwrap().push(one);
    let two = ApprovalFile::parse(value.to_string().as_bytes()).unwrap();
    let refused = two.verify(change.seen(), &world.trust, now());
    assert!(matches!(refused, Err(ApprovalError::Malformed(_))));
    value["signatures"] = json!([]);
    let none = ApprovalFile::parse(value.to_string().as_bytes()).unwrap();
    assert!(matches!(none.verify(change.seen(), &world.trust, now()), Err(ApprovalError::Malformed(_))));
    for garbage in [&b""[..], b"{}", b"[1]", &vec![b' '; casemate_change::MAX_APPROVAL + 1]] {
        assert!(ApprovalFile::parse(garbage).is_err());
    }
}
