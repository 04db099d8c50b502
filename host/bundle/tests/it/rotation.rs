//! A new root of trust: who may say so.

use casemate_bundle::{ApproverPublic, BundleError, TrustRoot, build, sign, verify};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::forge::{Person, Site, canonical, input, now, time};

const UNTIL: &str = "2031-01-01T00:00:00Z";

/// Cyd leaves, Dee comes.
struct Change {
    site: Site,
    dee: Person,
    draft: Vec<u8>,
}

impl Change {
    fn new() -> Self {
        let (site, dee) = (Site::new(), Person::new("dee"));
        let draft = draft(&site.root, &[&site.ada, &site.ben, &dee]);
        Self { site, dee, draft }
    }

    fn signed(&self, people: &[&Person]) -> Vec<u8> {
        people.iter().fold(self.draft.clone(), |next, person| self.site.root.sign_next(&next, &person.key).unwrap())
    }

    #[track_caller]
    fn refusal(&self, next: &[u8]) -> BundleError {
        self.site.root.follow(next, now()).expect_err("the attack was not noticed")
    }
}

fn draft(root: &TrustRoot, people: &[&Person]) -> Vec<u8> {
    let approvers: Vec<ApproverPublic> = people.iter().map(|person| person.key.public().clone()).collect();
    root.draft_next(&approvers, time(UNTIL)).unwrap()
}

#[test]
fn two_old_and_two_new_approvers_change_the_root() {
    let change = Change::new();
    let next = change.signed(&[&change.site.ada, &change.site.ben]);
    let root = change.site.root.follow(&next, now()).unwrap();
    assert_eq!((root.version(), root.expires()), (2, time(UNTIL)));
    assert_eq!(TrustRoot::parse(root.as_bytes()).unwrap().digest(), root.digest(), "it stands alone");
    // Who left cannot approve any more, who came can.
    let draft = build(&root, input(1)).unwrap();
    assert!(matches!(sign(&draft, &change.site.cyd.key, &root), Err(BundleError::NotAnApprover { .. })));
    let bundle = sign(&sign(&draft, &change.dee.key, &root).unwrap(), &change.site.ben.key, &root).unwrap();
    assert_eq!(verify(&bundle, &root, now()).unwrap().signers(), ["ben", "dee"]);
    assert!(verify(&bundle, &change.site.root, now()).is_err());
}

#[test]
fn all_approvers_may_change_at_once_if_both_sides_sign() {
    let site = Site::new();
    let (dee, eli) = (Person::new("dee"), Person::new("eli"));
    let mut next = draft(&site.root, &[&dee, &eli]);
    for person in [&site.ada, &site.cyd, &dee, &eli] {
        next = site.root.sign_next(&next, &person.key).unwrap();
    }
    let root = site.root.follow(&next, now()).unwrap();
    assert_eq!(root.approvers().count(), 2);
    assert!(!String::from_utf8_lossy(root.as_bytes()).contains(&site.ada.key_id()));
}

#[test]
fn a_root_that_one_old_approver_or_only_new_ones_signed_is_refused() {
    let change = Change::new();
    let (ada, cyd) = (&change.site.ada, &change.site.cyd);
    for (people, found) in [(vec![], 0), (vec![ada], 1), (vec![ada, &change.dee], 1)] {
        let error = change.refusal(&change.signed(&people));
        assert!(
            matches!(error, BundleError::NotEnoughSignatures { ref file, found: f, needed: 2 } if f == found && file.contains("old")),
            "{error:?}"
        );
    }
    // Two old ones, of whom one is not in the new root: the new root lacks one of its own.
    let error = change.refusal(&change.signed(&[ada, cyd]));
    assert!(
        matches!(error, BundleError::NotEnoughSignatures { ref file, found: 1, .. } if file == "root.json"),
        "{error:?}"
    );
}

#[test]
fn an_outsiders_root_is_refused() {
    let change = Change::new();
    let eve = Person::new("eve");
    assert!(matches!(change.site.root.sign_next(&change.draft, &eve.key), Err(BundleError::NotAnApprover { .. })));
    let other = Site::new();
    let theirs = draft(&other.root, &[&other.ada, &other.ben]);
    let theirs = other.root.sign_next(&other.root.sign_next(&theirs, &other.ada.key).unwrap(), &other.ben.key).unwrap();
    let error = change.refusal(&theirs);
    assert!(matches!(error, BundleError::NotEnoughSignatures { found: 0, .. }), "{error:?}");
}

#[test]
fn rollback_replay_and_fast_forward_of_the_root_are_named() {
    let change = Change::new();
    let next = change.signed(&[&change.site.ada, &change.site.ben]);
    let second = change.site.root.follow(&next, now()).unwrap();
    for (root, bytes, versions) in [
        (&second, change.site.root.as_bytes(), (1, 2)),
        (&second, next.as_slice(), (2, 2)),
        (&change.site.root, change.site.root.as_bytes(), (1, 1)),
    ] {
        let error = root.follow(bytes, now()).unwrap_err();
        assert!(
            matches!(error, BundleError::RootVersion { offered, pinned } if (offered, pinned) == versions),
            "{error:?}"
        );
    }
    let third = draft(&second, &[&change.site.ada, &change.site.ben]);
    assert!(matches!(change.refusal(&third), BundleError::RootVersion { offered: 3, pinned: 1 }));
}

#[test]
fn an_expired_new_root_is_refused_and_an_expired_old_one_is_not() {
    let change = Change::new();
    let next = change.signed(&[&change.site.ada, &change.site.ben]);
    let at = |text: &str| change.site.root.follow(&next, text.parse::<Timestamp>().unwrap());
    assert!(at("2030-06-01T00:00:00Z").is_ok(), "the old one is past its date");
    assert!(matches!(at("2031-01-01T00:00:01Z"), Err(BundleError::Expired { role, .. }) if role == "root"));
}

#[test]
fn altered_after_signing_or_weakened_roots_are_refused() {
    let change = Change::new();
    let next = change.signed(&[&change.site.ada, &change.site.ben]);
    let with = |edit: fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&next).unwrap();
        edit(&mut value);
        change.refusal(&canonical(&value))
    };
    let later = with(|value| value["signed"]["expires"] = json!("2099-01-01T00:00:00Z"));
    assert!(matches!(later, BundleError::BadSignature { .. }), "{later:?}");
    let weak = with(|value| value["signed"]["roles"]["targets"]["threshold"] = json!(1));
    assert!(matches!(weak, BundleError::Root { .. } | BundleError::Tuf { .. }), "{weak:?}");
    let stripped = with(|value| value["signatures"] = json!([]));
    assert!(matches!(stripped, BundleError::NotEnoughSignatures { found: 0, .. }), "{stripped:?}");
}

#[test]
fn one_key_for_two_people_cannot_come_in_by_a_new_root() {
    let site = Site::new();
    let twin = ApproverPublic::new("dee", site.ada.key.public().key.clone()).unwrap();
    let both = [site.ada.key.public().clone(), twin];
    assert!(matches!(site.root.draft_next(&both, time(UNTIL)), Err(BundleError::DuplicateApproverKey { .. })));
    assert!(matches!(site.root.draft_next(&both[..1], time(UNTIL)), Err(BundleError::Root { .. })));
}

#[test]
fn a_person_may_change_the_key() {
    let site = Site::new();
    let ada = Person::new("ada");
    let mut next = draft(&site.root, &[&ada, &site.ben]);
    for person in [&site.ada, &site.ben, &ada] {
        next = site.root.sign_next(&next, &person.key).unwrap();
    }
    let root = site.root.follow(&next, now()).unwrap();
    assert!(root.approvers().any(|(name, key_id)| name == "ada" && key_id == ada.key_id()));
}
