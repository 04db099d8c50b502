//! Approver keys on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use casemate_bundle::{ApproverKey, BundleError};

#[test]
fn a_saved_key_is_private_and_loads_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ada.key");
    let key = ApproverKey::generate("ada").unwrap();
    key.save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ApproverKey::load(&path).unwrap().public(), key.public());
}

#[test]
fn an_existing_key_file_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ada.key");
    ApproverKey::generate("ada").unwrap().save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(ApproverKey::generate("ada").unwrap().save(&path), Err(BundleError::Io { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ada.key");
    ApproverKey::generate("ada").unwrap().save(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(ApproverKey::load(&path), Err(BundleError::KeyFileExposed { mode: 0o640, .. })));
}

#[test]
fn damaged_key_files_are_refused_without_showing_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ada.key");
    ApproverKey::generate("ada").unwrap().save(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let secret = good.split('"').nth(7).unwrap().to_owned();
    for bad in [
        String::new(),
        good.replace("ada", "Ada"),
        good.replace('}', ",\"x\":1}"),
        good.replacen("MF", "MG", 1),
        "x".repeat(9999),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, &bad).unwrap();
        let error = ApproverKey::load(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[20..60]), "{error:?}");
    }
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", ApproverKey::generate("ada").unwrap()), "ApproverKey(ada, secret)");
}

#[test]
fn hostile_approver_names_are_refused() {
    for name in ["", "Ada", "ada lovelace", "../ada", "ada\n"] {
        assert!(matches!(ApproverKey::generate(name), Err(BundleError::ApproverName(_))), "{name:?}");
    }
}

#[test]
fn a_key_under_a_passphrase_opens_with_it_alone() {
    const PASSPHRASE: &str = "correct horse battery";
    let dir = tempfile::tempdir().unwrap();
    for (name, key) in
        [("ada", ApproverKey::generate("ada").unwrap()), ("ben", ApproverKey::generate_p256("ben").unwrap())]
    {
        let path = dir.path().join(name);
        key.save_encrypted(&path, PASSPHRASE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let with = |text: &str| ApproverKey::load_with::<BundleError>(&path, || Ok(text.to_owned().into()));
        assert_eq!(with(PASSPHRASE).unwrap().public(), key.public());
        assert!(matches!(with("correct horse batterx"), Err(BundleError::WrongPassphrase)));
        assert!(matches!(ApproverKey::load(&path), Err(BundleError::KeyFileEncrypted { .. })));
        // Nothing of the key in clear: not even its PKCS#8 head.
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("encrypted-pkcs8") && !text.contains("\"pkcs8\"") && !text.contains("MC4CAQ"), "{text}");
        // One flipped character of the ciphertext's end is a wrong passphrase, never another key.
        let at = text.len() - 12;
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        fs::write(&path, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
        assert!(matches!(with(PASSPHRASE), Err(BundleError::WrongPassphrase | BundleError::BadKeyFile { .. })));
    }
    let weak = ApproverKey::generate("cyd").unwrap().save_encrypted(&dir.path().join("cyd"), "short");
    assert!(matches!(weak, Err(BundleError::WeakPassphrase { min: 12 })));
    assert!(!dir.path().join("cyd").exists());
}

#[test]
fn a_p256_key_in_clear_loads_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ada.key");
    let key = ApproverKey::generate_p256("ada").unwrap();
    key.save(&path).unwrap();
    assert_eq!(ApproverKey::load(&path).unwrap().public(), key.public());
}
