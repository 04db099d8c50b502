//! What must work: build, inspect, sign, verify.

use casemate_bundle::{build, inspect, sign, verify};
use casemate_types::Digest;

use crate::forge::{COMPONENT, SETTINGS, Site, expires, input, now};

#[test]
fn same_inputs_give_the_same_bytes() {
    let site = Site::new();
    assert_eq!(build(&site.root, input(4)).unwrap(), build(&site.root, input(4)).unwrap());
    assert_ne!(build(&site.root, input(4)).unwrap(), build(&site.root, input(5)).unwrap());
    // The draft does not depend on the site either: officers of two sites compare one digest.
    assert_eq!(site.draft(4), Site::new().draft(4));
}

#[test]
fn inspection_shows_what_will_be_signed_and_who_is_missing() {
    let site = Site::new();
    let draft = site.draft(4);
    let shown = inspect(&draft, &site.root).unwrap();
    assert_eq!((shown.version, shown.expires, shown.missing_signatures), (4, expires(), 2));
    assert_eq!(shown.component_digest, Digest::of(COMPONENT));
    assert_eq!(shown.settings_digest, Digest::of(SETTINGS));
    assert_eq!(shown.bundle_digest, Digest::of(&draft));
    assert_eq!(shown.manifest.name.as_str(), "clearance");
    assert_eq!(shown.entries.len(), 10);
    assert!(shown.entries.contains(&(crate::forge::blob_name(COMPONENT), COMPONENT.len() as u64)));
    assert_eq!((shown.component_bytes, shown.contract), (COMPONENT.len() as u64, casemate_bundle::contract_digest()));
    let once = sign(&draft, &site.ben.key, &site.root).unwrap();
    let shown = inspect(&once, &site.root).unwrap();
    assert_eq!((shown.signers, shown.missing_signatures), (vec!["ben".to_owned()], 1));
}

#[test]
fn verified_bundle_gives_what_was_put_in() {
    let site = Site::new();
    let bundle = site.bundle(4);
    let verified = verify(&bundle, &site.root, now()).unwrap();
    assert_eq!(verified.component(), COMPONENT);
    assert_eq!(verified.component_digest(), Digest::of(COMPONENT));
    assert_eq!(verified.settings_bytes(), SETTINGS);
    assert_eq!(verified.settings()["level"], "secret");
    assert_eq!(verified.bundle_digest(), Digest::of(&bundle));
    assert_eq!((verified.version(), verified.expires()), (4, expires()));
    assert_eq!(verified.manifest().name.as_str(), "clearance");
    assert_eq!(verified.evidence().count(), 0);
}
