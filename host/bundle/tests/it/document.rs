//! Bundles that hold a document: the same container and signatures, and none can pass for a component.

use std::collections::BTreeMap;

use casemate_bundle::{
    BundleError, DocumentInput, DocumentKind, DocumentManifest, Manifest, Verified, build_document, inspect,
    inspect_document, sign, ustar, verify, verify_any,
};
use casemate_types::Digest;

use crate::forge::{COMPONENT, Entries, Site, expires, now};

const CHAIN: &str = "combining = \"deny-overrides\"\npolicies = []\nagent = \"a\"\nstrategy = \"s\"\n";
const POLICY_SET: &str = "kind = \"policy-set\"\nversion = \"1.0.0\"\nsummary = \"The chain.\"\n";

fn input<'a>(manifest_toml: &'a str, document: &'a [u8]) -> DocumentInput<'a> {
    DocumentInput { manifest_toml, document, version: 1, expires: expires(), replaces: None }
}

fn draft(site: &Site, manifest: &str, document: &[u8]) -> Result<Vec<u8>, BundleError> {
    build_document(&site.root, input(manifest, document), &BTreeMap::new())
}

fn settings_manifest() -> String {
    let component = Digest::of(COMPONENT);
    format!(
        "kind = \"settings\"\nsubject = \"clearance\"\ncomponent = \"{component}\"\nversion = \"1.0.0\"\nsummary = \"s\"\n"
    )
}

#[test]
fn a_document_is_verified_like_a_component_and_under_a_name_of_its_own() {
    let site = Site::new();
    let unsigned = draft(&site, POLICY_SET, CHAIN.as_bytes()).unwrap();
    assert_eq!(unsigned, draft(&site, POLICY_SET, CHAIN.as_bytes()).unwrap(), "two builders compare one hash");
    let bundle = site.sign_two(&unsigned);
    let verified = verify_any(&bundle, &site.root, now()).unwrap();
    assert_eq!((verified.name().as_str(), verified.kind()), ("site-policy-set", "policy-set"));
    assert_eq!(verified.signers(), ["ada", "ben"]);
    let Verified::Document(document) = verified else { panic!("a document") };
    assert_eq!(document.document(), CHAIN.as_bytes());
    assert_eq!(inspect_document(&bundle, &site.root).unwrap().missing_signatures, 0);
    // Of any kind, and named apart.
    for (kind, document) in [("people", ""), ("host-kit", &*format!("{}  README.md\n", "0".repeat(64)))] {
        let manifest = POLICY_SET.replace("policy-set", kind);
        let bundle = site.sign_two(&draft(&site, &manifest, document.as_bytes()).unwrap());
        assert_eq!(verify_any(&bundle, &site.root, now()).unwrap().name().as_str(), format!("site-{kind}"));
    }
    let bundle = site.sign_two(&draft(&site, &settings_manifest(), b"{\"level\": 1}").unwrap());
    assert_eq!(verify_any(&bundle, &site.root, now()).unwrap().name().as_str(), "site-settings-clearance");
}

#[test]
fn a_document_cannot_pass_for_a_component_nor_take_its_name() {
    let site = Site::new();
    let bundle = site.sign_two(&draft(&site, POLICY_SET, CHAIN.as_bytes()).unwrap());
    assert!(matches!(verify(&bundle, &site.root, now()), Err(BundleError::OtherKind { found: "policy-set" })));
    assert!(matches!(inspect(&bundle, &site.root), Err(BundleError::OtherKind { .. })));
    let component = site.bundle(1);
    assert!(matches!(inspect_document(&component, &site.root), Err(BundleError::OtherKind { found: "component" })));
    // A component that calls itself so.
    let named = crate::forge::MANIFEST.replace("\"clearance\"", "\"site-policy-set\"");
    assert!(matches!(Manifest::parse(&named), Err(BundleError::ManifestRule { key: "name", .. })));
    // Both in one file, signed by both approvers.
    let mut both: Entries = crate::forge::files();
    both.insert("document".to_owned(), CHAIN.as_bytes().to_vec());
    let bundle = site.seal(&both, 1);
    assert!(matches!(verify_any(&bundle, &site.root, now()), Err(BundleError::UnexpectedEntry { .. })));
}

#[test]
fn one_signature_and_an_altered_document_are_refused() {
    let site = Site::new();
    let unsigned = draft(&site, POLICY_SET, CHAIN.as_bytes()).unwrap();
    let refusal = |bundle: &[u8]| verify_any(bundle, &site.root, now()).expect_err("the attack was not noticed");
    assert!(matches!(refusal(&unsigned), BundleError::NotEnoughSignatures { found: 0, .. }));
    let once = sign(&unsigned, &site.ada.key, &site.root).unwrap();
    assert!(matches!(refusal(&once), BundleError::NotEnoughSignatures { found: 1, .. }));
    let twice = sign(&once, &site.ada.key, &site.root).unwrap();
    assert!(matches!(refusal(&twice), BundleError::NotEnoughSignatures { found: 1, .. }));
    let bundle = site.sign_two(&unsigned);
    let mut entries = ustar::read(&bundle).unwrap();
    entries.insert("document".to_owned(), CHAIN.replace("deny", "permit").into_bytes());
    assert!(
        matches!(refusal(&ustar::write(&entries).unwrap()), BundleError::AlteredEntry { entry } if entry == "document")
    );
    // The manifest of another kind: the name under which it would be active is signed.
    let mut entries = ustar::read(&bundle).unwrap();
    entries.insert("manifest.toml".to_owned(), POLICY_SET.replace("policy-set", "people").into_bytes());
    assert!(matches!(refusal(&ustar::write(&entries).unwrap()), BundleError::AlteredEntry { .. }));
    // Signed for by both, with metadata that says nothing of its kind.
    let files =
        ["document", "manifest.toml"].map(|name| (name.to_owned(), ustar::read(&bundle).unwrap()[name].clone()));
    let bundle = site.seal(&Entries::from(files), 1);
    assert!(matches!(refusal(&bundle), BundleError::MixAndMatch { .. }), "{:?}", refusal(&bundle));
    for offset in (0..once.len()).step_by(97) {
        let mut flipped = site.sign_two(&unsigned);
        let Some(byte) = flipped.get_mut(offset) else { continue };
        *byte ^= 1;
        refusal(&flipped);
    }
}

#[test]
fn documents_that_are_not_what_they_say_are_refused_before_anybody_signs() {
    let site = Site::new();
    let kinds = [
        ("policy-set", &b"not = [toml"[..]),
        ("people", &b"\xff"[..]),
        ("host-kit", &b"README.md\n"[..]),
        ("host-kit", &b""[..]),
    ];
    for (kind, document) in kinds {
        let refused = draft(&site, &POLICY_SET.replace("policy-set", kind), document);
        assert!(matches!(refused, Err(BundleError::MalformedJson { .. })), "{kind}: {refused:?}");
    }
    for settings in ["[]", "{\"a\": 1, \"a\": 2}", "", "{\"a\":"] {
        let refused = draft(&site, &settings_manifest(), settings.as_bytes());
        assert!(matches!(refused, Err(BundleError::MalformedJson { .. })), "{settings}: {refused:?}");
    }
    let large = vec![b' '; DocumentKind::PolicySet.max_bytes() + 1];
    assert!(matches!(draft(&site, POLICY_SET, &large), Err(BundleError::EntryTooLarge { .. })));
    let component = Digest::of(b"c");
    for manifest in [
        POLICY_SET.replace("policy-set", "firmware"),
        format!("{POLICY_SET}subject = \"x\"\n"),
        format!("{POLICY_SET}component = \"{component}\"\n"),
        settings_manifest().replace("subject = \"clearance\"\n", ""),
        settings_manifest().lines().filter(|line| !line.starts_with("component")).collect::<Vec<_>>().join("\n"),
        POLICY_SET.replace("1.0.0", "one"),
        POLICY_SET.replace("The chain.", ""),
        format!("{POLICY_SET}world = \"policy\"\n"),
        settings_manifest().replace("\"clearance\"", &format!("\"{}\"", "c".repeat(63))),
    ] {
        assert!(DocumentManifest::parse(&manifest).is_err(), "{manifest}");
    }
}
