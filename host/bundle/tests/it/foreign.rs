//! python-tuf, which is not ours, judges what we sign; and what it signs is taken when it is right and refused by name when it is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_bundle::{ApproverKey, ApproverPublic, BundleError, TrustRoot, build, sign, ustar, verify};
use serde_json::json;
use tempfile::TempDir;

use crate::forge::{COMPONENT, Entries, Site, TUF, blob_name, custom, edit, expires, files, input, now, time};

/// python-tuf, where set-up installed it.
fn python(arguments: &[&str]) -> Option<Output> {
    if std::env::var_os("CASEMATE_WITHOUT_PYTHON_TUF").is_some() {
        eprintln!("left out: python-tuf is not installed here (CASEMATE_WITHOUT_PYTHON_TUF)");
        return None;
    }
    // `cargo xtask setup` puts it below the target folder.
    let below = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("casemate/python-tuf/bin/python");
    let python = std::env::var_os("CASEMATE_TUF_PYTHON").map_or(below, PathBuf::from);
    assert!(
        python.exists(),
        "python-tuf is needed: cargo xtask setup installs it, or sets CASEMATE_WITHOUT_PYTHON_TUF"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/python_tuf.py");
    Some(Command::new(python).arg(script).args(arguments).output().unwrap())
}

struct Judge {
    folder: TempDir,
    roots: Vec<PathBuf>,
}

impl Judge {
    fn new(roots: &[&TrustRoot]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = roots.iter().enumerate().map(|(number, root)| {
            let path = folder.path().join(format!("{number}.root.json"));
            fs::write(&path, root.as_bytes()).unwrap();
            path
        });
        Self { roots: roots.collect(), folder }
    }

    /// The judge's word on a bundle at a time; nothing where it is not installed.
    fn says(&self, bundle: &[u8], at: &str) -> Option<String> {
        let path = self.folder.path().join("bundle");
        fs::write(&path, bundle).unwrap();
        let mut arguments = vec!["judge", at, path.to_str().unwrap()];
        arguments.extend(self.roots.iter().map(|root| root.to_str().unwrap()));
        let output = python(&arguments)?;
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            output.status.success(),
            said.starts_with("ok"),
            "{said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(
            said.split_whitespace().next().unwrap_or_default().to_owned()
                + if output.status.success() { &said[2..] } else { "" },
        )
    }
}

const NOW: &str = "2027-01-01T00:00:00Z";

#[test]
fn python_tuf_takes_our_bundles_and_refuses_spoiled_ones() {
    let site = Site::new();
    let judge = Judge::new(&[&site.root]);
    let bundle = site.bundle(3);
    let Some(said) = judge.says(&bundle, NOW) else { return };
    assert_eq!(said.trim(), format!("ok 3 {}", files().len()));

    let expired = judge.says(&bundle, "2027-06-01T00:00:01Z").unwrap();
    assert_eq!(expired, "ExpiredMetadataError");
    let once = sign(&site.draft(3), &site.ada.key, &site.root).unwrap();
    assert_eq!(judge.says(&once, NOW).unwrap(), "UnsignedMetadataError");
    let altered = edit(&bundle, |entries| entries.get_mut("settings.json").unwrap()[2] ^= 1);
    assert_eq!(judge.says(&altered, NOW).unwrap(), "LengthOrHashMismatchError");
    let newer = ustar::read(&site.bundle(4)).unwrap();
    let mixed = edit(&bundle, |entries| drop(entries.insert(TUF[1].to_owned(), newer[TUF[1]].clone())));
    assert_eq!(judge.says(&mixed, NOW).unwrap(), "BadVersionNumberError");
}

#[test]
fn python_tuf_takes_p256_approvers_and_the_next_root() {
    let site = Site::new();
    let dee = ApproverKey::generate_p256("dee").unwrap();
    let people: Vec<ApproverPublic> = [&site.ada.key, &site.ben.key, &dee].map(|key| key.public().clone()).into();
    let mut next = site.root.draft_next(&people, time("2031-01-01T00:00:00Z")).unwrap();
    for key in [&site.ada.key, &site.ben.key, &dee] {
        next = site.root.sign_next(&next, key).unwrap();
    }
    let followed = site.root.follow(&next, now()).unwrap();
    let draft = build(&followed, input(1)).unwrap();
    let bundle = sign(&sign(&draft, &dee, &followed).unwrap(), &site.ben.key, &followed).unwrap();

    // With all the signatures it was accepted with.
    let next_root = |bytes: Vec<u8>| {
        let judge = Judge::new(&[&site.root]);
        let path = judge.folder.path().join("next.json");
        fs::write(&path, bytes).unwrap();
        Judge { roots: [judge.roots.as_slice(), &[path]].concat(), ..judge }
    };
    let Some(said) = next_root(next).says(&bundle, NOW) else { return };
    assert_eq!(said.trim(), format!("ok 1 {}", files().len()));
    assert_eq!(Judge::new(&[&site.root]).says(&bundle, NOW).unwrap(), "UnsignedMetadataError", "Dee is unknown before");
    let draft = site.root.draft_next(&people, time("2031-01-01T00:00:00Z")).unwrap();
    let by_one = site.root.sign_next(&draft, &site.ada.key).unwrap();
    assert_eq!(next_root(by_one).says(&bundle, NOW).unwrap(), "UnsignedMetadataError");
}

/// What python-tuf made: a folder for each case.
struct Foreign {
    folder: TempDir,
    root: TrustRoot,
}

impl Foreign {
    fn make() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let hex: serde_json::Map<_, _> =
            files().iter().map(|(name, body)| (name.clone(), hex::encode(body).into())).collect();
        let given = json!({
            "files": hex, "component": blob_name(COMPONENT), "custom": custom(), "expires": expires().to_string()
        });
        fs::write(folder.path().join("input.json"), given.to_string()).unwrap();
        let output = python(&["make", folder.path().to_str().unwrap()])?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let root = TrustRoot::parse(&fs::read(folder.path().join("root.json")).unwrap()).unwrap();
        Some(Self { folder, root })
    }

    fn file(&self, case: &str, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(case).join(name)).unwrap()
    }

    fn bundle_of(&self, case: &str, mut entries: Entries) -> Vec<u8> {
        for name in TUF {
            entries.insert(name.to_owned(), self.file(case, name.strip_prefix("tuf/").unwrap()));
        }
        ustar::write(&entries).unwrap()
    }

    fn bundle(&self, case: &str) -> Vec<u8> {
        self.bundle_of(case, files())
    }

    #[track_caller]
    fn refusal(&self, case: &str) -> BundleError {
        verify(&self.bundle(case), &self.root, now()).expect_err("the attack was not noticed")
    }
}

#[test]
fn metadata_that_python_tuf_signs_is_taken_when_it_is_right() {
    let Some(foreign) = Foreign::make() else { return };
    assert_eq!(verify(&foreign.bundle("right"), &foreign.root, now()).unwrap().signers(), ["ada", "ben"]);
    assert_eq!(verify(&foreign.bundle("all-three"), &foreign.root, now()).unwrap().signers(), ["ada", "ben", "cyd"]);
    let next = foreign.root.follow(&foreign.file("rotated", "root.json"), now()).unwrap();
    assert_eq!(verify(&foreign.bundle("rotated"), &next, now()).unwrap().signers(), ["ben", "dee"]);
}

#[test]
fn attacks_that_python_tuf_signs_are_refused_by_name() {
    let Some(foreign) = Foreign::make() else { return };
    let error = foreign.refusal("one-signature");
    assert!(matches!(error, BundleError::NotEnoughSignatures { found: 1, needed: 2, .. }), "{error:?}");
    let error = foreign.refusal("arbitrary-software");
    assert!(matches!(error, BundleError::UnknownSigner { .. }), "{error:?}");
    let error = foreign.refusal("freeze");
    assert!(matches!(error, BundleError::Expired { ref role, .. } if role == "timestamp"), "{error:?}");
    let error = foreign.refusal("one-key-two-ids");
    assert!(matches!(error, BundleError::UnknownSigner { .. }), "{error:?}");
    let error = TrustRoot::parse(&foreign.file("one-key-two-ids", "root.json")).expect_err("one key under two ids");
    assert!(matches!(error, BundleError::DuplicateApproverKey { .. }), "{error:?}");

    let mut other = files();
    other.insert("settings.json".to_owned(), b"{}".to_vec());
    let mixed = foreign.bundle_of("mix-and-match", other);
    let error = verify(&mixed, &foreign.root, now()).expect_err("two bundles of one version");
    assert!(matches!(error, BundleError::MixAndMatch { ref file } if file == TUF[0]), "{error:?}");
    let error = foreign.refusal("wrong-targets-version");
    assert!(matches!(error, BundleError::Tuf { ref file, .. } if file == TUF[1]), "{error:?}");
    let error = foreign.refusal("wrong-snapshot-version");
    assert!(matches!(error, BundleError::Tuf { ref file, .. } if file == TUF[0]), "{error:?}");

    for case in ["delegation", "second-hash"] {
        let error = foreign.refusal(case);
        assert!(matches!(error, BundleError::MixAndMatch { .. }), "{case} {error:?}");
    }
    let error = foreign.refusal("endless-data");
    assert!(matches!(error, BundleError::EntryTooLarge { ref entry, .. } if entry == TUF[1]), "{error:?}");
}

#[test]
fn after_a_rotation_by_python_tuf_the_lost_key_counts_no_more() {
    let Some(foreign) = Foreign::make() else { return };
    let old = foreign.bundle("signed-before-the-rotation");
    assert!(verify(&old, &foreign.root, now()).is_ok(), "until then it did");
    let next = foreign.root.follow(&foreign.file("rotated", "root.json"), now()).unwrap();
    let error = verify(&old, &next, now()).expect_err("a lost key");
    assert!(matches!(error, BundleError::UnknownSigner { .. }), "{error:?}");
    // Back to the root that trusts it, on to one that it made alone, and past a version.
    let error = next.follow(&foreign.file(".", "root.json"), now()).expect_err("rollback");
    assert!(matches!(error, BundleError::RootVersion { .. }), "{error:?}");
    let error = foreign.root.follow(&foreign.file("skipped", "root.json"), now()).expect_err("fast forward");
    assert!(matches!(error, BundleError::RootVersion { .. }), "{error:?}");
    let error = foreign.root.follow(&foreign.file("seized", "root.json"), now()).expect_err("one old key");
    assert!(matches!(error, BundleError::NotEnoughSignatures { found: 1, .. }), "{error:?}");
}
