use std::sync::OnceLock;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use casemate_bundle::{ApproverKey, TrustRoot};
use casemate_change::{Order, OrderError, OrderFile, Scope, Standing};
use casemate_types::{Digest, Generation, PluginName};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

struct World {
    ana: ApproverKey,
    bo: ApproverKey,
    stranger: ApproverKey,
    trust: TrustRoot,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let [ana, bo, stranger] = ["ana", "bo", "eve"].map(|name| ApproverKey::generate(name).unwrap());
        let root = TrustRoot::create(&[&ana, &bo], hours(48)).unwrap();
        World { trust: TrustRoot::parse(&root).unwrap(), ana, bo, stranger }
    })
}

fn hours(hours: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap()
}

fn name() -> PluginName {
    "clearance".parse().unwrap()
}

fn stop(scope: Scope) -> Order {
    Order::Stop { scope, reason: "a leak".to_owned(), at: Timestamp::now() }
}

fn resume(stop: Digest) -> Order {
    Order::Resume { scope: Scope::Everything, stop, reason: "looked into".to_owned(), expires: hours(24) }
}

fn rollback(from: &str, to: &str) -> Order {
    let (from, to) = (Digest::of(from.as_bytes()), Digest::of(to.as_bytes()));
    Order::Rollback { name: name(), from, to, reason: "denies too much".to_owned(), expires: hours(24) }
}

fn signed(order: Order, keys: &[&ApproverKey]) -> OrderFile {
    let mut file = OrderFile::new(order, "here", &world().trust).unwrap();
    keys.iter().for_each(|key| file.sign(key).unwrap());
    OrderFile::parse(&file.to_bytes().unwrap()).unwrap()
}

fn refusal(file: &OrderFile) -> OrderError {
    file.verify("here", &world().trust, Timestamp::now()).unwrap_err()
}

/// The file with one member changed.
fn forged(file: &OrderFile, change: impl FnOnce(&mut Value)) -> OrderFile {
    let mut value: Value = serde_json::from_slice(&file.to_bytes().unwrap()).unwrap();
    change(&mut value);
    OrderFile::parse(value.to_string().as_bytes()).unwrap()
}

/// The file with a text in its statement replaced, signatures kept.
fn reworded(file: &OrderFile, from: &str, to: &str) -> OrderFile {
    forged(file, |value| {
        let payload = BASE64_STANDARD.decode(value["payload"].as_str().unwrap()).unwrap();
        let text = String::from_utf8(payload).unwrap();
        assert!(text.contains(from), "{text}");
        value["payload"] = BASE64_STANDARD.encode(text.replace(from, to)).into();
    })
}

#[test]
fn one_closes_and_two_open() {
    let World { ana, bo, trust, .. } = world();
    let now = Timestamp::now();
    assert_eq!(signed(stop(Scope::Everything), &[ana]).verify("here", trust, now).unwrap().signers(), ["ana"]);
    for order in [resume(Digest::of(b"s")), rollback("two", "one")] {
        assert!(matches!(refusal(&signed(order.clone(), &[ana])), OrderError::TooFew { found: 1, needed: 2 }));
        assert_eq!(signed(order, &[ana, bo]).verify("here", trust, now).unwrap().signers(), ["ana", "bo"]);
    }
    assert!(matches!(refusal(&signed(stop(Scope::Everything), &[])), OrderError::TooFew { found: 0, needed: 1 }));
}

#[test]
fn one_person_twice_is_one_person() {
    let World { ana, .. } = world();
    let mut file = signed(resume(Digest::of(b"s")), &[ana]);
    assert!(matches!(file.sign(ana), Err(OrderError::SamePerson { .. })));
    let doubled = forged(&file, |value| {
        let signature = value["signatures"][0].clone();
        value["signatures"].as_array_mut().unwrap().push(signature);
    });
    assert!(matches!(refusal(&doubled), OrderError::SamePerson { .. }));
}

#[test]
fn a_stranger_and_a_borrowed_key_id_sign_nothing() {
    let World { ana, bo, stranger, .. } = world();
    assert!(matches!(refusal(&signed(stop(Scope::Everything), &[stranger])), OrderError::BadSignature { .. }));
    // A good signature beside it does not help.
    assert!(matches!(
        refusal(&signed(resume(Digest::of(b"s")), &[ana, bo, stranger])),
        OrderError::BadSignature { .. }
    ));
    let borrowed = forged(&signed(stop(Scope::Everything), &[stranger]), |value| {
        value["signatures"][0]["keyid"] = ana.public().key_id().unwrap().into();
    });
    assert!(matches!(refusal(&borrowed), OrderError::BadSignature { .. }));
}

#[test]
fn reworded_orders_of_other_sites_and_kinds_are_refused() {
    let World { ana, bo, trust, .. } = world();
    let file = signed(stop(Scope::Component(name())), &[ana]);
    assert!(matches!(
        refusal(&reworded(&file, "component:clearance", "component:nearest")),
        OrderError::BadSignature { .. }
    ));
    assert!(matches!(refusal(&reworded(&file, "\"stop\"", "\"revoke\"")), OrderError::BadSignature { .. }));
    let elsewhere = file.verify("elsewhere", trust, Timestamp::now());
    assert!(matches!(elsewhere, Err(OrderError::OtherSite { .. })), "{elsewhere:?}");
    // The same people at a site with another root.
    let other = TrustRoot::parse(&TrustRoot::create(&[ana, bo], hours(99)).unwrap()).unwrap();
    let there = file.verify("here", &other, Timestamp::now());
    assert!(matches!(there, Err(OrderError::OtherSite { .. })), "{there:?}");
    let kind = forged(&file, |value| value["payloadType"] = "application/json".into());
    assert!(matches!(refusal(&kind), OrderError::Malformed(_)));
}

#[test]
fn expired_orders_and_roots_are_refused() {
    let World { ana, bo, trust, .. } = world();
    let file = signed(resume(Digest::of(b"s")), &[ana, bo]);
    assert!(matches!(file.verify("here", trust, hours(25)), Err(OrderError::Expired { .. })));
    assert!(matches!(file.verify("here", trust, hours(49)), Err(OrderError::RootExpired { .. })));
    // A stop does not lapse while the root holds.
    signed(stop(Scope::Everything), &[ana]).verify("here", trust, hours(47)).unwrap();
}

#[test]
fn an_order_without_a_reason_or_with_lines_is_none() {
    for reason in ["", " ", "two\nlines", &"x".repeat(201)] {
        let order = Order::Stop { scope: Scope::Everything, reason: reason.to_owned(), at: Timestamp::now() };
        assert!(matches!(OrderFile::new(order, "here", &world().trust), Err(OrderError::Reason)), "{reason:?}");
    }
}

#[test]
fn orders_count_once_and_only_for_what_is_there() {
    let World { ana, bo, trust, .. } = world();
    let verified = |order| signed(order, &[ana, bo]).verify("here", trust, Timestamp::now()).unwrap();
    let mut standing = Standing::default();
    standing.activated(&name(), 1, Digest::of(b"one"), Generation(1));
    standing.activated(&name(), 2, Digest::of(b"two"), Generation(2));

    let stopping = verified(stop(Scope::Everything));
    standing.check(&stopping).unwrap();
    standing.stopped(Scope::Everything, stopping.digest());
    assert!(matches!(standing.check(&stopping), Err(OrderError::Replayed)));
    // Signed about an earlier stop: the later one stays.
    let resuming = verified(resume(stopping.digest()));
    standing.check(&resuming).unwrap();
    standing.stopped(Scope::Everything, Digest::of(b"a later stop"));
    assert!(matches!(standing.check(&resuming), Err(OrderError::NotStopped { .. })));

    standing.check(&verified(rollback("two", "one"))).unwrap();
    assert!(matches!(standing.check(&verified(rollback("one", "two"))), Err(OrderError::Stale { .. })));
    assert!(matches!(standing.check(&verified(rollback("two", "never"))), Err(OrderError::NeverActive { .. })));
    standing.revoke(Digest::of(b"one"), Digest::of(b"order"));
    assert!(matches!(standing.check(&verified(rollback("two", "one"))), Err(OrderError::Revoked { .. })));
}

#[test]
fn a_rollback_that_was_cut_off_is_finished_by_the_same_order_and_only_once() {
    let World { ana, bo, trust, .. } = world();
    let mut standing = Standing::default();
    standing.activated(&name(), 1, Digest::of(b"one"), Generation(1));
    standing.activated(&name(), 2, Digest::of(b"two"), Generation(2));
    let order = signed(rollback("two", "one"), &[ana, bo]).verify("here", trust, Timestamp::now()).unwrap();
    standing.check(&order).unwrap();
    // Recorded, and not done.
    standing.ordered(name(), Digest::of(b"one"), order.digest());
    standing.check(&order).unwrap();
    // Done, and then another version: the order brings nothing back again.
    standing.activated(&name(), 1, Digest::of(b"one"), Generation(3));
    assert!(matches!(standing.check(&order), Err(OrderError::Replayed)));
    standing.activated(&name(), 2, Digest::of(b"two"), Generation(4));
    assert!(matches!(standing.check(&order), Err(OrderError::Replayed)));
}
