//! `casemate hsm probe`: a token is probed before a key is made in it, and again when it has changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::site::{self, Site, program, text};

/// A command that opens the site and needs no plugin.
fn opens(site: &Site) -> crate::site::Ended {
    let nothing = site.dir.join("nothing.txt");
    fs::write(&nothing, "Nothing of interest.").unwrap();
    site.casemate(&["ingest", text(&nothing), "--as", "ben", "--compartment", "engineering"])
}

fn edit_state(site: &Site, edit: impl Fn(&mut Value)) {
    let path = site.dir.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut state);
    fs::write(path, state.to_string()).unwrap();
}

fn finding<'a>(answer: &'a Value, id: &str) -> &'a str {
    let lines = answer["report"]["lines"].as_array().unwrap();
    lines.iter().find(|line| line["id"] == id).unwrap()["finding"].as_str().unwrap()
}

#[test]
fn a_token_is_probed_before_a_key_is_made_in_it() {
    let site = site::bare();
    let records = site.records();
    let position = |event: &str, field: &str, value: &str| {
        records.iter().position(|record| record["event"] == event && record[field] == value).unwrap()
    };
    let probed = position("site", "action", "token-probed");
    assert!(probed < position("key-operation", "operation", "generate"));
    let detail = records[probed]["detail"].as_str().unwrap();
    assert!(detail.contains("profile rehearsal") && detail.contains("failed: none"), "{detail}");
    let kept: Value = serde_json::from_slice(&fs::read(site.dir.join("probe.json")).unwrap()).unwrap();
    // At that time the token held nothing, so every line was tried.
    assert_eq!(finding(&kept, "pin/lock-out"), "held");
    assert!(kept["report"]["lines"].as_array().unwrap().iter().all(|line| line["finding"] != "not-tried"));
}

#[test]
fn token_with_other_firmware_opens_only_after_a_probe() {
    let site = site::bare();
    opens(&site).expect(0);
    edit_state(&site, |state| {
        for print in state["probed"].as_object_mut().unwrap().values_mut() {
            print["firmware"] = "0.9".into();
        }
    });
    let refused = opens(&site);
    assert!(
        refused.text.contains("its firmware is") && refused.text.contains("casemate hsm probe"),
        "{}",
        refused.text
    );
    refused.expect(4);
    let before = site.records().len();
    let answer = site.casemate(&["hsm", "probe"]).expect(0);
    assert_eq!(finding(&answer, "leak/wrap"), "held");
    assert_eq!(finding(&answer, "pin/lock-out"), "not-tried");
    let records = site.records();
    assert!(records[before..].iter().any(|record| record["action"] == "token-probed"), "{:?}", &records[before..]);
    opens(&site).expect(0);
}

#[test]
fn token_that_was_never_probed_does_not_open() {
    let site = site::bare();
    edit_state(&site, |state| drop(state.as_object_mut().unwrap().remove("probed")));
    let refused = opens(&site);
    assert!(refused.text.contains("was not probed"), "{}", refused.text);
    refused.expect(4);
    // A scratch token of the same make tells about the site's.
    let answer = site.casemate(&["hsm", "probe", "--scratch"]).expect(0);
    assert_eq!(finding(&answer, "pin/lock-out"), "held");
    opens(&site).expect(0);
}

#[test]
fn site_under_a_stricter_profile_does_not_open() {
    let site = site::bare();
    site.configure(r#"profile = "rehearsal""#, r#"profile = "government""#);
    opens(&site).expect(4);
    let before = site.records().len();
    let answer = site.casemate(&["hsm", "probe", "--scratch"]).expect(4);
    assert_eq!(answer["judgement"]["fit"], false);
    let records = site.records();
    let refusal = records[before..].iter().find(|record| record["action"] == "token-refused").unwrap();
    assert!(refusal["detail"].as_str().unwrap().contains("derive/extract"), "{refusal}");
    let refused = opens(&site);
    assert!(refused.text.contains("must not hold keys"), "{}", refused.text);
    refused.expect(4);
    // The profile that it is fit for is another matter.
    site.configure(r#"profile = "government""#, r#"profile = "rehearsal""#);
    site.casemate(&["hsm", "probe"]).expect(0);
    opens(&site).expect(0);
}

#[test]
fn no_key_is_made_in_a_token_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(site::bare().dir.join("site.toml")).unwrap();
    let strict = folder.path().join("strict.toml");
    fs::write(&strict, config.replace(r#"profile = "rehearsal""#, r#"profile = "government""#)).unwrap();
    let site = Site::at(folder.path().join("site"));
    let refused = site.casemate(&["init", "--config", text(&strict)]);
    assert!(refused.text.contains("must not hold keys") && refused.text.contains("derive/extract"), "{}", refused.text);
    refused.expect(4);
    assert!(!site.dir.join("state.json").exists() && site.dir.join("probe.json").exists());
    // No initialised token and no PIN are left: the next attempt finds a blank one.
    for folder in ["pins", "token"] {
        assert!(!site.dir.join(folder).exists(), "{folder}");
    }
    site.casemate(&["init"]).expect(0);
    site.casemate(&["hsm", "probe"]).expect(0);
}

#[test]
fn a_token_in_use_is_not_initialised_again() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::at(folder.path().join("none"));
    let (so, user, same) = (folder.path().join("so"), folder.path().join("user"), folder.path().join("same"));
    fs::write(&so, "an officer of the device\n").unwrap();
    fs::write(&user, "a user of the device\n").unwrap();
    fs::write(&same, "an officer of the device").unwrap();
    let configuration = folder.path().join("token.conf");
    let storage = folder.path().join("token.sqlite");
    fs::write(&configuration, format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {storage:?}\n")).unwrap();
    let variable = format!("KRYOPTIC_CONF={}", text(&configuration));
    let initialise = |label: &str, user: &[&str]| {
        let fixed = ["hsm", "init-token", "--module", "embedded", "--module-env", &variable, "--label", label];
        site.casemate(&[&fixed[..], &["--so-pin-file", text(&so)], user].concat())
    };
    // One person with both PINs by one word, and no terminal to ask at.
    let refused = initialise("device", &["--pin-file", text(&same)]);
    assert!(refused.code == 2 && refused.text.contains("the two PINs are the same"), "{}", refused.text);
    let refused = initialise("device", &[]);
    assert!(refused.code == 2 && refused.text.contains("there is no terminal"), "{}", refused.text);
    let made = initialise("device", &["--pin-file", text(&user)]).expect(0);
    assert_eq!(made["label"], "device");
    let before = fs::read(&storage).unwrap();
    let serial = made["serial"].as_str().unwrap();
    for (label, more, said) in [
        ("device", &[][..], "label"),
        ("other", &["--serial", serial][..], "is initialised already, as `device`"),
        ("other", &[][..], "no slot holds an uninitialised token"),
    ] {
        let refused = initialise(label, &[&["--pin-file", text(&user)], more].concat());
        assert!(refused.code != 0 && refused.text.contains(said), "{said}: {}", refused.text);
        assert!(!refused.text.contains("of the device"), "a PIN is shown");
    }
    assert!(fs::read(&storage).unwrap() == before, "a refusal changed the token");
}

#[test]
fn probe_of_a_token_in_use_changes_nothing_and_tells_no_secret() {
    let site = site::bare();
    let state = |site: &Site| fs::read(site.dir.join("pins/user")).unwrap();
    let pin = state(&site);
    let shown = site.plain(&["hsm", "probe"]);
    assert!(shown.contains("FIT for profile rehearsal") && shown.contains("CKR_KEY_UNEXTRACTABLE"), "{shown}");
    for secret in ["pins/user", "pins/so"] {
        let secret = fs::read_to_string(site.dir.join(secret)).unwrap();
        assert!(!shown.contains(secret.trim()));
        assert!(!fs::read_to_string(site.dir.join("probe.json")).unwrap().contains(secret.trim()));
    }
    assert_eq!(state(&site), pin);
    opens(&site).expect(0);
}

#[test]
fn any_module_can_be_probed_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::at(folder.path().join("no site"));
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let probe = |module: &Path, expected: i32| {
        let mut command = site.command(&["hsm", "probe", "--scratch", "--module", text(module)]);
        let output = command.env("TMPDIR", &temporary).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(expected), "{shown}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "a folder is left");
        serde_json::from_str::<Value>(shown.trim()).unwrap()
    };
    let embedded = program().with_file_name("libcasemate_softtoken.so");
    assert_eq!(finding(&probe(&embedded, 0), "pin/so-reset"), "broken");
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_none() {
        let softhsm = probe(Path::new("/usr/lib/softhsm/libsofthsm2.so"), 0);
        assert_eq!(finding(&softhsm, "role/defaults"), "broken");
    }
    match nss() {
        Some(nss) => assert_eq!(finding(&probe(&nss, 4), "leak/wrap"), "broken"),
        None => assert!(std::env::var_os("CASEMATE_WITHOUT_NSS").is_some(), "NSS is missing: run `cargo xtask setup`"),
    }
}

/// A whole site on a module that gives its keys away is never made, whatever its profile, and nothing of it is left.
#[test]
fn a_site_on_nss_is_refused_by_what_its_token_does() {
    let Some(nss) = nss() else {
        assert!(std::env::var_os("CASEMATE_WITHOUT_NSS").is_some(), "NSS is missing: run `cargo xtask setup`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let example = fs::read_to_string(site::bare().dir.join("site.toml")).unwrap();
    let module = example.lines().find(|line| line.starts_with("module = ")).unwrap();
    let honest = module.trim_start_matches("module = ");
    for (name, profile) in [("a", "development"), ("b", "rehearsal"), ("c", "enterprise"), ("d", "government")] {
        let profile = example.replace("profile = \"rehearsal\"", &format!("profile = \"{profile}\""));
        // As the site's token, and as the backup behind an honest one.
        let configurations = [
            profile.replace(module, &format!("module = {:?}", text(&nss))),
            profile.replace(
                "[embedding]",
                &format!("[hsm.backup]\nmodule = {:?}\ntoken-label = \"backup\"\n\n[embedding]", text(&nss)),
            ),
        ];
        for (which, config) in configurations.iter().enumerate() {
            assert!(config.contains("libsoftokn3.so") && (which == 0 || config.contains(honest)));
            let file = folder.path().join("nss.toml");
            fs::write(&file, config).unwrap();
            let site = Site::at(folder.path().join(format!("{name}{which}")));
            let refused = site.casemate(&["init", "--config", text(&file)]);
            assert!(
                refused.text.contains("must not hold keys") && refused.text.contains("leak/wrap"),
                "{}",
                refused.text
            );
            refused.expect(4);
            assert!(!site.dir.exists(), "{name}{which}");
        }
    }
}

/// NSS softokn, which wraps keys that must not leave.
fn nss() -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .flat_map(|folder| ["libsoftokn3.so", "nss/libsoftokn3.so"].map(|name| PathBuf::from(folder).join(name)))
        .find(|path| path.exists())
}

#[test]
fn wrong_pin_is_no_verdict() {
    let site = site::bare();
    let wrong = site.dir.join("wrong");
    fs::write(&wrong, "not the pin").unwrap();
    let refused = site.casemate(&["hsm", "probe", "--pin-file", text(&wrong)]);
    assert!(refused.text.contains("the PIN is wrong"), "{}", refused.text);
    refused.expect(1);
}

#[test]
fn scratch_probe_of_a_named_token_leaves_its_pin_as_it_was() {
    let site = site::bare();
    let file = |name: &str| site.dir.join(name);
    let module = program().with_file_name("libcasemate_softtoken.so");
    let variable = format!("KRYOPTIC_CONF={}", text(&file("token/token.conf")));
    let (user, officer) = (file("pins/user"), file("pins/so"));
    let mut probe = vec!["hsm", "probe", "--scratch", "--module", text(&module), "--module-env", &variable];
    probe.extend(["--token-label", "casemate", "--pin-file", text(&user)]);
    // Without the officer's PIN a locked user PIN would stay locked.
    site.casemate(&probe).expect(2);
    opens(&site).expect(0);
    probe.extend(["--so-pin-file", text(&officer)]);
    let answer = site.casemate(&probe).expect(0);
    assert_eq!(finding(&answer, "pin/lock-out"), "held");
    opens(&site).expect(0);
    // A stricter profile refuses the same findings.
    probe.extend(["--profile", "government"]);
    site.casemate(&probe).expect(4);
    opens(&site).expect(0);
}
