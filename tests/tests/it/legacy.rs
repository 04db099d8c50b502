//! FF3-1 in a site: off, until two custodians say until when, and off again at once.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::consent::Office;
use crate::site::{self, Site, program};

struct Legacy {
    office: Office,
}

impl Legacy {
    fn new() -> Self {
        Self { office: Office::adopted(site::bare()) }
    }

    fn site(&self) -> &Site {
        &self.office.desk.site
    }

    fn run(&self, arguments: &[&str]) -> site::Ended {
        self.office.keys(&[&["legacy"], arguments].concat())
    }

    fn make_key(&self) -> Value {
        let made = self.office.approved("generate --class fpe-ff3 --name site/legacy", "make.json");
        self.run(&["make-key", "--approval", &made]).expect(0)["key"].clone()
    }

    /// A statement that enables the key for as many seconds.
    fn enabling(&self, key: &Value, seconds: i64, file: &str) -> String {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let id = key["id"].as_str().unwrap();
        self.office.approved(&format!("enable-legacy --key {id} --class fpe-ff3 --until {until:.0}"), file)
    }

    /// Exit code, standard output and error.
    fn convert(&self, way: &str, lines: &str) -> (i32, String, String) {
        let order = ["keys", "legacy", way, "--alphabet", "digits", "--tweak", "01020304050607"];
        let mut command = Command::new(program());
        command.arg("--site").arg(&self.site().dir).args(order);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
    }
}

#[track_caller]
fn refused(ended: &site::Ended, why: &str) {
    assert!(ended.code != 0 && ended.text.contains(why), "{}: {}", ended.code, ended.text);
}

const CARDS: &str = "4111111111111111\n5500005555555559\n";

#[test]
fn ff3_is_off_until_two_custodians_say_until_when_and_off_again_at_once() {
    let legacy = Legacy::new();
    refused(&legacy.run(&["make-key"]), "needs 2 custodians");
    refused(&legacy.run(&["enable"]), "two custodians enable");
    let key = legacy.make_key();
    assert_eq!(legacy.run(&["status"]).expect(0)["enabled"], false);
    let (code, out, error) = legacy.convert("encrypt", CARDS);
    assert!(code != 0 && out.is_empty() && error.contains("it is off"), "{error}");
    // One custodian, another key, a date that is over, a date too far.
    let id = key["id"].as_str().unwrap();
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let one = format!("enable-legacy --key {id} --class fpe-ff3 --until {until:.0}");
    legacy.office.ask(&one, "one.json");
    legacy.office.desk.approve("ana", "one.json").expect(0);
    let one = legacy.office.desk.path("one.json");
    let enable = |statement: &str| legacy.run(&["enable", "--approval", statement]);
    refused(&enable(site::text(&one)), "1 of 2 custodians signed");
    let other = legacy
        .office
        .approved(&format!("enable-legacy --key {} --class fpe-ff3 --until {until:.0}", "ab".repeat(16)), "other.json");
    refused(&enable(&other), "key");
    let over = legacy.enabling(&key, 1, "over.json");
    std::thread::sleep(std::time::Duration::from_secs(3));
    refused(&enable(&over), "expired");
    refused(&enable(&legacy.enabling(&key, 367 * 86_400, "far.json")), "366 days at most");
    assert_eq!(legacy.run(&["status"]).expect(0)["enabled"], false);

    let good = legacy.enabling(&key, 3600, "good.json");
    let status = enable(&good).expect(0);
    assert_eq!((&status["enabled"], status["custodians"].as_array().unwrap().len()), (&true.into(), 2));
    let (code, sealed, error) = legacy.convert("encrypt", CARDS);
    assert_eq!(code, 0, "{error}");
    assert!(sealed != CARDS && sealed.lines().all(|line| line.len() == 16 && line.bytes().all(|b| b.is_ascii_digit())));
    assert_eq!(legacy.convert("decrypt", &sealed).1, CARDS);
    // All or none, and nothing of a value in the error.
    let (code, out, error) = legacy.convert("encrypt", "4111111111111111\n41x\n");
    assert!(code != 0 && out.is_empty() && !error.contains("41x"), "{error}");

    let off = legacy.run(&["disable"]).expect(0);
    assert_eq!(off["enabled"], false);
    let (code, out, error) = legacy.convert("decrypt", &sealed);
    assert!(code != 0 && out.is_empty() && error.contains("it is off"), "{error}");
    refused(&enable(&good), "used before");
    legacy.site().casemate(&["audit", "verify"]).expect(0);
    let records = legacy.site().records();
    for operation in ["legacy-key", "legacy-enable", "legacy-encrypt", "legacy-decrypt", "legacy-disable"] {
        assert!(records.iter().any(|record| record["operation"] == operation), "{operation}");
    }
    let all = records.iter().map(Value::to_string).collect::<String>();
    assert!(!all.contains("4111111111111111") && all.contains("use FF3-1: it is off"));
    let destroy =
        legacy.office.approved(&format!("destroy --key {id} --class fpe-ff3 --name site/legacy"), "destroy.json");
    refused(&legacy.run(&["destroy-key"]), "needs 2 custodians");
    legacy.run(&["destroy-key", "--approval", &destroy]).expect(0);
    assert_eq!(legacy.run(&["status"]).expect(0).get("key"), None);
}

/// Whoever can write to the disk neither turns FF3-1 on nor prolongs it.
#[test]
fn ff3_is_not_enabled_by_files() {
    let legacy = Legacy::new();
    let key = legacy.make_key();
    let path = legacy.site().dir.join("custody/legacy.json");
    let state_path = legacy.site().dir.join("state.json");
    let edit = |change: &dyn Fn(&mut Value)| {
        let kept = fs::read(&state_path).unwrap();
        let mut state: Value = serde_json::from_slice(&kept).unwrap();
        change(&mut state);
        fs::write(&state_path, state.to_string()).unwrap();
        kept
    };
    // An approval that nobody used here, laid where the site keeps what it used.
    let unused = legacy.enabling(&key, 3600, "unused.json");
    fs::copy(&unused, &path).unwrap();
    assert_eq!(legacy.run(&["status"]).expect(0)["enabled"], false);
    let digest =
        legacy.office.desk.custodian("verify @unused.json --tier approvals-only", false).expect(0)["digest"].clone();
    assert!(digest.is_string());
    let kept = edit(&|state| state["legacy"] = digest.clone());
    refused(&legacy.run(&["status"]), "were altered");
    fs::write(&state_path, kept).unwrap();

    let good = legacy.enabling(&key, 3600, "good.json");
    legacy.run(&["enable", "--approval", &good]).expect(0);
    // Another statement, and the right one with another person's signature.
    let longer = legacy.enabling(&key, 7200, "longer.json");
    fs::copy(&longer, &path).unwrap();
    let status = legacy.run(&["status"]).expect(0);
    assert!(status["enabled"] == false && status["why"].as_str().unwrap().contains("not what the custodians signed"));
    let mut envelope: Value = serde_json::from_slice(&fs::read(&good).unwrap()).unwrap();
    let other: Value = serde_json::from_slice(&fs::read(&longer).unwrap()).unwrap();
    envelope["signatures"] = other["signatures"].clone();
    fs::write(&path, envelope.to_string()).unwrap();
    let status = legacy.run(&["status"]).expect(0);
    assert!(
        status["enabled"] == false && status["why"].as_str().unwrap().contains("changed after signing"),
        "{status}"
    );
    fs::copy(&good, &path).unwrap();
    assert_eq!(legacy.run(&["status"]).expect(0)["enabled"], true);
    // What was disabled is not brought back by the state of before.
    let kept = fs::read(&state_path).unwrap();
    legacy.run(&["disable"]).expect(0);
    fs::write(&state_path, kept).unwrap();
    refused(&legacy.run(&["status"]), "an old copy");
}

#[test]
fn ff3_needs_custodians() {
    let alone = site::bare();
    refused(&alone.casemate(&["keys", "legacy", "make-key"]), "this site has none");
    assert_eq!(alone.casemate(&["keys", "legacy", "status"]).expect(0)["enabled"], false);
}

/// Two custodians agree, and their approvals are good: the profile has the last word, and says why.
#[test]
fn ff3_is_refused_in_government_with_two_valid_approvals_and_a_site_with_a_permit_does_not_start() {
    let none = "profile `government` has no FF3-1";
    let legacy = Legacy::new();
    let profile = |from: &str, to: &str| {
        legacy.site().configure(&format!("profile = \"{from}\""), &format!("profile = \"{to}\""));
    };
    let make = legacy.office.approved("generate --class fpe-ff3 --name site/legacy", "make.json");
    profile("rehearsal", "government");
    refused(&legacy.run(&["make-key", "--approval", &make]), none);
    profile("government", "rehearsal");
    // The refusal cost nothing: the very same approval is good under the other profile.
    let key = legacy.run(&["make-key", "--approval", &make]).expect(0)["key"].clone();
    let enable = legacy.enabling(&key, 3600, "enable.json");
    profile("rehearsal", "government");
    refused(&legacy.run(&["enable", "--approval", &enable]), none);
    profile("government", "rehearsal");
    legacy.run(&["enable", "--approval", &enable]).expect(0);
    let (code, sealed, error) = legacy.convert("encrypt", CARDS);
    assert_eq!(code, 0, "{error}");

    profile("rehearsal", "government");
    let (code, out, error) = legacy.convert("decrypt", &sealed);
    assert!(code != 0 && out.is_empty() && error.contains(none), "{error}");
    for order in [&["keys", "list"][..], &["serve", "--listen", "127.0.0.1:0"], &["keys", "legacy", "status"]] {
        refused(&legacy.site().casemate(order), "it is on in this site");
    }
    // Off under the profile of before, the permit no longer stands in the way: the software token does.
    profile("government", "rehearsal");
    legacy.run(&["disable"]).expect(0);
    profile("rehearsal", "government");
    let closed = legacy.site().casemate(&["keys", "list"]);
    assert!(closed.code != 0 && !closed.text.contains("FF3-1"), "{}", closed.text);
}

#[test]
fn ff3_serves_from_either_token_of_a_pair() {
    let legacy = Legacy { office: Office::adopted(site::pair("embedded")) };
    // Both tokens are named, because the key is made in both.
    let on: String = legacy.run(&["status"]).expect(0)["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|serial| format!(" --on {}", serial.as_str().unwrap().trim()))
        .collect();
    let made = legacy.office.approved(&format!("generate --class fpe-ff3 --name site/legacy{on}"), "make.json");
    let key = legacy.run(&["make-key", "--approval", &made]).expect(0)["key"].clone();
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let enable = format!("enable-legacy --key {} --class fpe-ff3 --until {until:.0}{on}", key["id"].as_str().unwrap());
    let enable = legacy.office.approved(&enable, "enable.json");
    legacy.run(&["enable", "--approval", &enable]).expect(0);
    let sealed = legacy.convert("encrypt", CARDS).1;
    assert_eq!(legacy.convert("decrypt", &sealed).1, CARDS);
}
