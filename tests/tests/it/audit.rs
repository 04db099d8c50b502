//! The log of a whole site: questions to it, an export for an auditor, erasure, a new key, and a witness of another person.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::site::{self, Site, program, text};

const QUESTION: &str = "What does a connection pool do?";
const FAILED: i32 = 1;
const UNVERIFIED: i32 = 4;

fn shown(site: &Site, options: &[&str]) -> Vec<Value> {
    let output = site.command(&[&["audit", "show"], options].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_filter_finds_what_a_look_at_all_records_finds() {
    let site = site::copy();
    site.ask("ana", QUESTION).expect(0);
    site.ask("ben", QUESTION).expect(0);
    let all = site.records();
    let of = |field: &str| -> Vec<String> {
        let values: BTreeSet<String> =
            all.iter().filter_map(|record| record[field].as_str().map(str::to_owned)).collect();
        values.into_iter().collect()
    };
    let fields = [
        ("--user", "user"),
        ("--policy", "policy"),
        ("--decision", "verdict"),
        ("--key", "key_id"),
        ("--component", "component"),
        ("--event", "event"),
        ("--reason", "reason"),
    ];
    let mut asked = 0;
    for (option, field) in fields {
        for value in of(field).iter().take(3) {
            let expected: Vec<&Value> = all
                .iter()
                .filter(|record| {
                    let instead = match option {
                        "--component" => "digest",
                        "--policy" => "plugin",
                        "--reason" => "ended",
                        _ => field,
                    };
                    record[field] == value.as_str() || record[field].is_null() && record[instead] == value.as_str()
                })
                .collect();
            let found = shown(&site, &[option, value]);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{option} {value}");
            assert_eq!(shown(&site, &[option, value, "--no-index"]), found);
            assert_eq!(shown(&site, &[option, value, "--last", "1"]).as_slice(), &found[found.len() - 1..]);
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked}");
    let time = all[all.len() / 2]["time_ms"].as_u64().unwrap();
    let text = |ms: u64| jiff::Timestamp::from_millisecond(ms as i64).unwrap().to_string();
    let (since, until) = (text(time), text(time + 1));
    let at = |record: &&Value| record["time_ms"].as_u64().unwrap();
    assert_eq!(shown(&site, &["--since", &since]).len(), all.iter().filter(|r| at(r) >= time).count());
    assert_eq!(
        shown(&site, &["--since", &since, "--until", &until]).len(),
        all.iter().filter(|r| at(r) == time).count()
    );
    assert_eq!(shown(&site, &["--since", "1d"]).len(), all.len());
    assert!(shown(&site, &["--user", "nobody"]).is_empty());
    site.casemate(&["audit", "show", "--since", "yesterday"]).expect(2);
}

#[test]
fn an_export_verifies_elsewhere_and_an_altered_one_does_not() {
    let site = site::copy();
    let elsewhere = tempfile::tempdir().unwrap();
    let (file, receipt) = (elsewhere.path().join("log.tar"), elsewhere.path().join("7.tlog-proof"));
    let records = site.records().len() as u64;
    let said = site.casemate(&["audit", "export", text(&file)]).expect(0);
    assert_eq!((said["size"].as_u64(), said["to"].as_u64()), (Some(records), Some(records)));
    site.casemate(&["audit", "export", text(&file)]).expect(FAILED);
    site.casemate(&["audit", "receipt", "7", text(&receipt)]).expect(0);
    let key = fs::read_to_string(site.dir.join("log.vkey")).unwrap();
    // Where there is no site.
    let verify = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.current_dir(elsewhere.path()).args(["--json", "audit", "verify", "--key", key.trim()]).args(arguments);
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(verify(&["--export", text(&file)]), 0);
    assert_eq!(verify(&["--receipt", text(&receipt)]), 0);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(verify(&["--export", text(&file)]), UNVERIFIED);
}

#[test]
fn erasing_a_decision_takes_its_recordings_and_leaves_a_log_that_verifies() {
    let site = site::copy();
    site.ask("ana", QUESTION).expect(0);
    let records = site.records();
    let answer = records.iter().rev().find(|record| record["event"] == "answer").unwrap();
    let id = answer["id"].as_str().unwrap();
    let erased = site.casemate(&["audit", "erase", "--decision", id, "--reason", "request 7"]).expect(0);
    assert!(erased["erased"].as_u64().unwrap() > 1, "{erased}");
    let again = site.casemate(&["audit", "erase", "--decision", id, "--reason", "again"]).expect(0);
    assert_eq!(again["erased"], 0);
    site.casemate(&["audit", "verify"]).expect(0);
    let last = shown(&site, &["--event", "erasure"]);
    assert_eq!((last.len(), &last[0]["id"], &last[0]["reason"]), (2, &answer["id"], &"request 7".into()));
    // Everything that was recorded is still there.
    assert_eq!(site.records()[..records.len()], records);
}

#[test]
fn with_pseudonyms_the_log_names_nobody_and_an_erased_person_cannot_be_found() {
    let site = site::copy();
    let before = site.records().len();
    site.configure("[chain]\n", "[audit]\npseudonyms = true\n\n[chain]\n");
    site.ask("ben", QUESTION).expect(0);
    let records = site.records().split_off(before);
    assert!(records.iter().any(|record| record["user"].is_string()));
    for record in &records {
        let user = record["user"].as_str().unwrap_or("p:");
        assert!(user.starts_with("p:"), "{record}");
    }
    let found = shown(&site, &["--user", "ben"]);
    let of_ben = found.iter().filter(|record| record["user"].as_str().unwrap().starts_with("p:")).count();
    assert!(of_ben > 2);
    site.casemate(&["audit", "erase", "--person", "ben", "--reason", "left"]).expect(0);
    assert!(!fs::read_to_string(site.dir.join("people.json")).unwrap().contains("ben"));
    let found = shown(&site, &["--user", "ben"]);
    assert!(found.iter().all(|record| record["user"] == "ben"), "only what was recorded before pseudonyms");
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn a_new_log_key_signs_and_the_old_one_still_verifies() {
    let site = site::copy();
    let old = fs::read_to_string(site.dir.join("log.vkey")).unwrap();
    let said = site.casemate(&["audit", "rotate-key"]).expect(0);
    let new = fs::read_to_string(site.dir.join("log.vkey")).unwrap();
    assert_eq!(said["log-key"], new.trim());
    assert_ne!(old, new);
    site.ask("ana", QUESTION).expect(0);
    for key in [&old, &new] {
        site.casemate(&["audit", "verify", "--key", key.trim()]).expect(0);
    }
    assert!(!site.dir.join("log.next-key").exists());
    assert_eq!(shown(&site, &["--event", "log-key"]).len(), 1);
    site.casemate(&["audit", "rotate-key"]).expect(0);
    site.ask("ana", QUESTION).expect(0);
    site.casemate(&["audit", "verify", "--key", old.trim()]).expect(0);
}

#[test]
fn a_rotation_that_was_cut_off_at_any_step_is_finished_by_the_next() {
    let site = site::copy();
    let read = |name: &str| fs::read(site.dir.join(name)).unwrap();
    let [state, vkey] = ["state.json", "log.vkey"].map(read);
    let key = |state: &[u8]| serde_json::from_slice::<Value>(state).unwrap()["keys"]["audit"].clone();
    site.casemate(&["audit", "rotate-key"]).expect(0);
    let [done, new] = ["state.json", "log.vkey"].map(read);
    assert_ne!(key(&state), key(&done));
    let next = serde_json::to_vec(&key(&done)).unwrap();
    // `state.json` written; then `log.vkey`; each time with what comes after it undone. (What comes before: `rotation`, by `kill -9`.)
    for vkey in [&vkey, &new] {
        fs::write(site.dir.join("log.vkey"), vkey).unwrap();
        fs::write(site.dir.join("log.next-key"), &next).unwrap();
        site.casemate(&["audit", "rotate-key"]).expect(0);
        assert_eq!(fs::read(site.dir.join("log.vkey")).unwrap(), new);
        assert_eq!(key(&fs::read(site.dir.join("state.json")).unwrap()), key(&done));
        assert!(!site.dir.join("log.next-key").exists());
    }
    assert_eq!(shown(&site, &["--event", "log-key"]).len(), 1, "one rotation");
    // Who asked is in the log; the old key is destroyed at the next opening.
    let old = key(&state)["id"].as_str().unwrap().to_owned();
    let of_old = |operation: &str| {
        let records = shown(&site, &["--event", "key-operation", "--key", &old]);
        records.into_iter().filter(|record| record["operation"] == operation).collect::<Vec<_>>()
    };
    assert!(of_old("rotate").iter().all(|record| record["by"].is_string()) && !of_old("rotate").is_empty());
    site.ask("ana", QUESTION).expect(0);
    assert_eq!(of_old("destroy").len(), 2);
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn a_restored_log_directory_is_refused_by_name() {
    let site = site::copy();
    let backup = site::copy();
    site.ask("ana", QUESTION).expect(0);
    fs::remove_dir_all(site.dir.join("log")).unwrap();
    site::copy_folder(&backup.dir.join("log"), &site.dir.join("log"));
    let ended = site.ask("ana", QUESTION);
    assert_eq!(ended.code, UNVERIFIED, "{}", ended.text);
    assert!(ended.text.contains("an older log directory was restored"), "{}", ended.text);
}

/// A witness process that ends with its value.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn witness(arguments: &[&str]) -> std::process::Output {
    Command::new(program()).args(["--json", "witness"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn watching(arguments: &[&str]) -> Watching {
    let mut command = Command::new(program());
    command.args(["witness", "serve"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Watching(command.spawn().unwrap())
}

/// A witness that knows the site's log, and its verifier key.
fn made(site: &Site, dir: &Path) -> String {
    let output = witness(&["init", text(dir), "--name", "witness.example/second"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let added = witness(&["add-log", text(dir), text(&site.dir.join("log.vkey"))]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stdout));
    said["witness-key"].as_str().unwrap().to_owned()
}

#[test]
fn a_site_whose_witness_is_down_denies_and_goes_on_when_it_is_back() {
    let site = site::copy();
    let other = tempfile::tempdir().unwrap();
    let (dir, socket) = (other.path().join("witness"), other.path().join("socket"));
    let key = made(&site, &dir);
    site.configure(
        "[chain]\n",
        &format!("[audit.witness]\nkey = \"{key}\"\nsocket = \"{}\"\ndeny-after = 2\n\n[chain]\n", socket.display()),
    );
    let cosigning = watching(&[text(&dir), "--socket", text(&socket)]);
    while !socket.exists() {
        std::thread::yield_now();
    }
    // Three commands, more than two checkpoints: each was cosigned.
    for _ in 0..3 {
        site.ask("ana", QUESTION).expect(0);
    }
    assert!(fs::read_to_string(site.dir.join("log/cosigned")).unwrap().contains("witness.example/second"));
    drop(cosigning);
    let mut denied = None;
    for _ in 0..4 {
        let ended = site.ask("ana", QUESTION);
        if ended.code != 0 {
            denied = Some(ended);
            break;
        }
    }
    let denied = denied.expect("without a witness the site must stop deciding");
    assert!(
        denied.text.contains("were not cosigned") || denied.text.contains("host:audit-unwitnessed"),
        "{}",
        denied.text
    );
    let kept = site.records();
    let _cosigning = watching(&[text(&dir), "--socket", text(&socket)]);
    while site.ask("ana", QUESTION).code != 0 {
        std::thread::yield_now();
    }
    assert_eq!(site.records()[..kept.len()], kept, "nothing was lost");
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn media_carried_between_a_site_and_its_witness_bring_cosignatures() {
    let site = site::copy();
    let other = tempfile::tempdir().unwrap();
    let (dir, media) = (other.path().join("witness"), other.path().join("media"));
    fs::create_dir(&media).unwrap();
    let key = made(&site, &dir);
    site.configure(
        "[chain]\n",
        &format!(
            "[audit.witness]\nkey = \"{key}\"\ndirectory = \"{}\"\ndeny-after = 100\n\n[chain]\n",
            media.display()
        ),
    );
    for _ in 0..2 {
        site.ask("ana", QUESTION).expect(0);
        // The media travel to the witness and back.
        let output = witness(&["cosign", text(&dir), text(&media)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(witness(&["cosign", text(&dir), text(&media)]).status.code(), Some(FAILED), "answered once");
    }
    site.ask("ana", QUESTION).expect(0);
    let cosigned = fs::read_to_string(site.dir.join("log/cosigned")).unwrap();
    let key = casemate_audit::WitnessKey::from_vkey(&key).unwrap();
    casemate_audit::verify_cosignature(&cosigned, &key).unwrap();
    // An export names the witness.
    let file = other.path().join("log.tar");
    site.casemate(&["audit", "export", text(&file)]).expect(0);
    let bytes = fs::read(&file).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("quorum custodian"));
}

#[test]
fn a_witness_with_a_token_of_its_own_cosigns() {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        eprintln!("left out: SoftHSM2 is not installed here (CASEMATE_WITHOUT_SOFTHSM)");
        return;
    }
    let site = site::copy();
    let other = tempfile::tempdir().unwrap();
    let (dir, media) = (other.path().join("witness"), other.path().join("media"));
    fs::create_dir_all(dir.join("tokens")).unwrap();
    fs::create_dir(&media).unwrap();
    let configuration = dir.join("softhsm2.conf");
    let tokens = dir.join("tokens");
    fs::write(&configuration, format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()))
        .unwrap();
    let pin = other.path().join("pin");
    fs::write(&pin, "custodian-pin\n").unwrap();
    // The custodian initialises the token with its vendor's tool.
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "witness", "--so-pin", "custodian-so", "--pin", "custodian-pin"])
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pin = ["--pin-file", text(&pin)];
    let init = ["init", text(&dir), "--name", "witness.example/token", "--module", MODULE, "--token-label", "witness"];
    let output = witness(&[&init[..], &["--module-env", "SOFTHSM2_CONF={site}/softhsm2.conf"], &pin].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = said["witness-key"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(!dir.join("witness.key").exists(), "the key is in the token only");
    let added = witness(&[&["add-log", text(&dir), text(&site.dir.join("log.vkey"))], &pin[..]].concat());
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stdout));
    // Without the PIN nothing is signed.
    assert_eq!(witness(&["cosign", text(&dir), text(&media)]).status.code(), Some(2));

    site.configure(
        "[chain]\n",
        &format!(
            "[audit.witness]\nkey = \"{key}\"\ndirectory = \"{}\"\ndeny-after = 100\n\n[chain]\n",
            media.display()
        ),
    );
    site.ask("ana", QUESTION).expect(0);
    let output = witness(&[&["cosign", text(&dir), text(&media)], &pin[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    site.ask("ana", QUESTION).expect(0);
    let cosigned = fs::read_to_string(site.dir.join("log/cosigned")).unwrap();
    let key = casemate_audit::WitnessKey::from_vkey(&key).unwrap();
    casemate_audit::verify_cosignature(&cosigned, &key).unwrap();
}

/// A misspelt filter would look like a log that holds no such records.
#[test]
fn filter_that_names_no_kind_of_record_is_refused() {
    let site = site::shared();
    for arguments in [["--event", "decison"], ["--event", "key-operations"], ["--decision", "denied"]] {
        let refused = site.casemate(&[&["audit", "show"], &arguments[..]].concat());
        assert!(refused.code == 2 && refused.text.contains("possible values"), "{}", refused.text);
    }
    // Every kind that is recorded can be asked for.
    let kinds: std::collections::BTreeSet<String> =
        site.records().iter().map(|record| record["event"].as_str().unwrap().to_owned()).collect();
    for kind in kinds {
        assert_eq!(site.casemate(&["audit", "show", "--last", "1", "--event", &kind]).code, 0, "{kind}");
    }
}

#[test]
fn follow_prints_each_match_once_as_it_comes() {
    use std::io::{BufRead, BufReader};

    let site = site::copy();
    let decide = || drop(site.casemate(&["policy", "eval", "--text", "What is a pool?", "--as", "ben"]).expect(0));
    decide();
    let filter = ["--event", "decision", "--user", "ben"];
    let before = shown(&site, &filter).len();
    let arguments = [&["audit", "show", "--last", "1", "--follow"], &filter[..]].concat();
    let mut follower = site.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let mut followed = vec![next()];
    decide();
    decide();
    let expected = shown(&site, &filter).split_off(before - 1);
    assert!(expected.len() > 2, "{expected:?}");
    while followed.len() < expected.len() {
        followed.push(next());
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(followed, expected);
}
