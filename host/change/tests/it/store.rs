use std::fs;

use casemate_bundle::BundleError;
use casemate_change::{ActiveSet, ChangeError, ReceivedBundle, SiteStore};
use casemate_types::{Digest, Generation};

use crate::site::{Site, now, time};

#[test]
fn from_media_to_active_and_back_from_disk() {
    let site = Site::new();
    let raw = site.bundle("clearance", 3, "{}");
    let media = site.dir().with_extension("casemate");
    fs::write(&media, &raw).unwrap();
    let received = ReceivedBundle::read(&media).unwrap();
    assert_eq!(received.inspect(&site.root).unwrap().missing_signatures, 0);
    let verified = received.verify(&site.root, now()).unwrap();
    let mut store = site.store();
    assert_eq!(store.activate(&verified, received.as_bytes()).unwrap(), Generation(1));

    let store = site.store();
    assert_eq!(store.active().generation, Generation(1));
    assert_eq!(store.active().floors[&"clearance".parse().unwrap()], 3);
    let entry = &store.active().entries[&"clearance".parse().unwrap()];
    assert_eq!(entry.file, format!("bundles/{}.casemate", received.digest().hex()));
    let loaded = store.load_all(&site.root, now()).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].bundle_digest(), Digest::of(&raw));
}

#[test]
fn activating_the_same_bundle_again_changes_nothing() {
    let site = Site::new();
    let raw = site.bundle("clearance", 1, "{}");
    let mut store = site.store();
    store.activate(&site.verify(&raw), &raw).unwrap();
    assert_eq!(store.activate(&site.verify(&raw), &raw).unwrap(), Generation(1));
    assert_eq!(site.store().active(), store.active());
}

#[test]
fn version_rollback_is_refused_and_the_old_set_stays() {
    let site = Site::new();
    let mut store = site.store();
    for version in [1, 5] {
        let raw = site.bundle("clearance", version, "{}");
        store.activate(&site.verify(&raw), &raw).unwrap();
    }
    let old = site.bundle("clearance", 1, "{}");
    let twin = site.bundle("clearance", 5, "{\"a\":1}");
    // Restarting does not help the attacker, and neither does taking the plugin out first.
    for _ in 0..2 {
        let mut store = site.store();
        let error = store.activate(&site.verify(&old), &old);
        assert!(matches!(error, Err(ChangeError::Rollback { floor: 5, offered: 1, .. })), "{error:?}");
        let error = store.activate(&site.verify(&twin), &twin);
        assert!(matches!(error, Err(ChangeError::SameVersion { version: 5, .. })), "{error:?}");
        assert_eq!(site.store().active(), store.active());
        if !store.active().entries.is_empty() {
            store.deactivate(&"clearance".parse().unwrap()).unwrap();
        }
    }
    assert_eq!(site.store().active().generation, Generation(3));
}

#[test]
fn bytes_other_than_the_verified_ones_are_refused() {
    let site = Site::new();
    let (raw, other) = (site.bundle("clearance", 1, "{}"), site.bundle("clearance", 2, "{}"));
    let error = site.store().activate(&site.verify(&raw), &other);
    assert!(matches!(error, Err(ChangeError::NotTheVerifiedBytes { .. })));
    assert_eq!(*site.store().active(), ActiveSet::default());
}

#[test]
fn altered_bundle_on_disk_is_named_and_can_be_put_back() {
    let site = Site::new();
    let mut store = site.store();
    for name in ["clearance", "disclosure"] {
        let raw = site.bundle(name, 1, "{}");
        store.activate(&site.verify(&raw), &raw).unwrap();
    }
    let path = site.dir().join(&store.active().entries[&"disclosure".parse().unwrap()].file);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[600] ^= 1;
    for bad in [bad, good[..good.len() - 1].to_vec(), Vec::new(), site.bundle("disclosure", 1, "{\"a\":1}")] {
        fs::write(&path, bad).unwrap();
        let error = store.load_all(&site.root, now());
        assert!(
            matches!(&error, Err(ChangeError::BundleAltered { name, .. }) if name.as_str() == "disclosure"),
            "{error:?}"
        );
    }
    fs::remove_file(&path).unwrap();
    let error = store.load_all(&site.root, now());
    assert!(matches!(error, Err(ChangeError::BundleMissing { name, .. }) if name.as_str() == "disclosure"));
    assert_eq!(store.activate(&site.verify(&good), &good).unwrap(), Generation(2));
    assert_eq!(store.load_all(&site.root, now()).unwrap().len(), 2);
}

#[test]
fn expired_bundle_and_another_sites_root_are_refused_at_load() {
    let (site, other) = (Site::new(), Site::new());
    let raw = site.bundle("clearance", 1, "{}");
    let mut store = site.store();
    store.activate(&site.verify(&raw), &raw).unwrap();
    let error = store.load_all(&site.root, time("2028-01-01T00:00:00Z"));
    assert!(matches!(error, Err(ChangeError::BundleRefused { source: BundleError::Expired { .. }, .. })), "{error:?}");
    let error = store.load_all(&other.root, now());
    assert!(matches!(error, Err(ChangeError::BundleRefused { source: BundleError::UnknownSigner { .. }, .. })));
}

#[test]
fn edited_state_cannot_pass_one_bundle_for_another() {
    let site = Site::new();
    let mut store = site.store();
    let raw = site.bundle("clearance", 1, "{}");
    store.activate(&site.verify(&raw), &raw).unwrap();
    let path = site.dir().join("active.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [("clearance", "disclosure"), (": 1", ": 7")] {
        fs::write(&path, text.replace(from, to)).unwrap();
        let error = site.store().load_all(&site.root, now());
        assert!(matches!(error, Err(ChangeError::StateDamaged { .. })), "{to} {error:?}");
    }
}

#[test]
fn damaged_state_is_named() {
    let site = Site::new();
    let mut store = site.store();
    let raw = site.bundle("clearance", 4, "{}");
    store.activate(&site.verify(&raw), &raw).unwrap();
    let path = site.dir().join("active.json");
    let text = fs::read_to_string(&path).unwrap();
    let floors = text.find("\"floors\"").unwrap();
    let lowered = format!("{}{}", &text[..floors], text[floors..].replacen('4', "1", 1));
    let moved = text.replace("bundles/", "../bundles/");
    let unknown = text.replacen('{', "{\"x\":1,", 1);
    for bad in [String::new(), text[..text.len() / 2].to_owned(), lowered, moved, unknown] {
        fs::write(&path, &bad).unwrap();
        assert!(matches!(SiteStore::open(site.dir()), Err(ChangeError::StateDamaged { .. })), "{bad}");
        assert!(matches!(store.activate(&site.verify(&raw), &raw), Err(ChangeError::StateDamaged { .. })));
    }
}

#[test]
fn deleting_the_state_does_not_lower_the_floor() {
    let site = Site::new();
    let mut store = site.store();
    let raw = site.bundle("clearance", 4, "{}");
    store.activate(&site.verify(&raw), &raw).unwrap();
    fs::remove_file(site.dir().join("active.json")).unwrap();
    assert!(matches!(SiteStore::open(site.dir()), Err(ChangeError::StateMissing { .. })));
    assert!(matches!(store.reload(), Err(ChangeError::StateMissing { .. })));
}

#[test]
fn putting_an_old_state_back_is_noticed_by_a_running_process() {
    let site = Site::new();
    let mut store = site.store();
    let raw = site.bundle("clearance", 1, "{}");
    store.activate(&site.verify(&raw), &raw).unwrap();
    let old = fs::read(site.dir().join("active.json")).unwrap();
    let newer = site.bundle("clearance", 2, "{}");
    store.activate(&site.verify(&newer), &newer).unwrap();
    fs::write(site.dir().join("active.json"), old).unwrap();
    assert!(matches!(store.reload(), Err(ChangeError::StateDamaged { .. })));
    assert!(matches!(store.deactivate(&"clearance".parse().unwrap()), Err(ChangeError::StateDamaged { .. })));
}

#[test]
fn a_second_process_waits_its_turn_and_sees_the_first_ones_change() {
    let site = Site::new();
    let (mut first, mut second) = (site.store(), site.store());
    let raw = site.bundle("clearance", 1, "{}");
    let other = site.bundle("disclosure", 1, "{}");
    let lock = fs::File::options().append(true).open(site.dir().join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(first.activate(&site.verify(&raw), &raw), Err(ChangeError::Locked { .. })));
    lock.unlock().unwrap();
    first.activate(&site.verify(&raw), &raw).unwrap();
    assert_eq!(second.activate(&site.verify(&other), &other).unwrap(), Generation(2));
    assert_eq!(first.reload().unwrap().entries.len(), 2);
}

#[test]
fn oversized_file_from_media_is_refused() {
    let site = Site::new();
    let path = site.dir().with_extension("big");
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(matches!(ReceivedBundle::read(&path), Err(ChangeError::TooLarge { .. })));
}
