//! The FIPS gate of a whole site: lists are signed, taken in and judged by, and a site that must not open does not.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guest::root;
use crate::site::{self, Site, text};

const UNVERIFIED: i32 = 4;

/// A list in a folder of its own.
struct List {
    _folder: TempDir,
    path: PathBuf,
}

impl List {
    fn new(value: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cmvp.json");
        fs::write(&path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
        Self { _folder: folder, path }
    }

    fn signed(value: &Value, site: &Site, approvers: &[&str]) -> Self {
        let list = Self::new(value);
        for approver in approvers {
            let key = site.dir.join(format!("approvers/{approver}.key"));
            site.casemate(&["fips", "sign", text(&list.path), "--key", text(&key)]).expect(0);
        }
        list
    }

    fn install(&self, site: &Site) -> crate::site::Ended {
        site.casemate(&["fips", "install", text(&self.path)])
    }
}

/// A list that certifies the embedded token to the full, were it not a software token.
fn flattering(site: &Site, date: &str) -> Value {
    let status = site.casemate(&["fips", "status"]).expect(0);
    let token = &status["token"];
    json!({
        "format": 1, "sample": false, "date": date, "source": "a test",
        "certificates": [{
            "number": 9001, "standard": "FIPS 140-3", "status": "active", "level": 4, "module-name": "m", "vendor": "v",
            "kind": "hardware", "validated": "2020-01-01", "sunset": "9000-01-01",
            "token": { "manufacturer": token["manufacturer"], "models": [token["model"]] },
            "configurations": [{ "hardware": token["hardware"], "firmware": token["firmware"] }],
            "approved": ["AES-ECB", "AES-GCM", "AES-KW", "EDDSA", "HMAC-SHA2-256"],
        }],
    })
}

fn today() -> String {
    jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date().to_string()
}

fn failed(status: &Value) -> Vec<String> {
    let checks = status["verdict"]["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["passed"] == false);
    failed.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn software_token_is_not_validated_whatever_the_list_says() {
    let site = site::fresh();
    let status = site.casemate(&["fips", "status"]).expect(0);
    assert_eq!((&status["validated"], &status["admitted"]), (&json!(false), &json!(true)));
    site.casemate(&["fips", "status", "--profile", "enterprise"]).expect(UNVERIFIED);

    let list = List::signed(&flattering(&site, &today()), &site, &["ana", "bo"]);
    let asked = ["fips", "status", "--profile", "government", "--snapshot", text(&list.path)];
    let judged = site.casemate(&asked).expect(UNVERIFIED);
    // Everything else holds; the embedded token itself says that it is not in an approved mode.
    assert_eq!(failed(&judged), ["hardware", "mode statement", "approved mode"], "{judged:#}");
    let words = site.plain(&asked);
    assert!(words.contains("software tokens are never called validated"), "{words}");
    assert!(words.contains("FF1 construction outside the boundary"), "{words}");
    assert!(words.contains("NOT VALIDATED"), "{words}");
}

#[test]
fn site_of_another_profile_does_not_open_on_a_software_token() {
    let site = site::fresh();
    List::signed(&flattering(&site, &today()), &site, &["ana", "bo"]).install(&site).expect(0);
    let profile = |from: &str, to: &str| {
        site.configure(&format!("profile = \"{from}\""), &format!("profile = \"{to}\""));
    };
    profile("rehearsal", "government");
    site.ask("ana", "What is a casemate?").expect(UNVERIFIED);
    // The token is fit for this profile, and not validated.
    profile("government", "enterprise");
    site.casemate(&["hsm", "probe", "--scratch"]).expect(0);
    let refused = site.ask("ana", "What is a casemate?").expect(UNVERIFIED);
    assert!(refused["error"].as_str().unwrap().contains("`hardware` does not hold"), "{refused}");
    site.casemate(&["keys", "list"]).expect(UNVERIFIED);
    site.casemate(&["serve", "--listen", "127.0.0.1:0"]).expect(UNVERIFIED);
    profile("enterprise", "rehearsal");
    site.casemate(&["hsm", "probe"]).expect(0);
    site.casemate(&["keys", "list"]).expect(0);
    profile("rehearsal", "relaxed");
    site.casemate(&["keys", "list"]).expect(1);
}

#[test]
fn list_of_one_signature_is_not_taken() {
    let site = site::fresh();
    let value = flattering(&site, &today());
    let list = List::signed(&value, &site, &["ana"]);
    list.install(&site).expect(UNVERIFIED);
    // Twice the same approver is one.
    let list = List::signed(&value, &site, &["ana", "ana"]);
    list.install(&site).expect(UNVERIFIED);
    // Approvers of another site are nobody here.
    let other = site::fresh();
    List::signed(&value, &other, &["ana", "bo"]).install(&site).expect(UNVERIFIED);
    List::new(&value).install(&site).expect(1);
    assert!(!site.dir.join("fips").exists());
}

#[test]
fn list_altered_after_signing_is_not_believed() {
    let site = site::fresh();
    let list = List::signed(&flattering(&site, &today()), &site, &["ana", "bo"]);
    let original = fs::read_to_string(&list.path).unwrap();
    fs::write(&list.path, original.replace("\"level\": 4", "\"level\": 3")).unwrap();
    list.install(&site).expect(UNVERIFIED);
    fs::write(&list.path, original).unwrap();
    list.install(&site).expect(0);
    // In the site's folder as well.
    let path = site.dir.join("fips/cmvp.json");
    let installed = fs::read_to_string(&path).unwrap();
    fs::write(&path, installed.replace("9000-01-01", "9001-01-01")).unwrap();
    let judged = site.casemate(&["fips", "status", "--profile", "government"]).expect(UNVERIFIED);
    assert!(failed(&judged).contains(&"snapshot signatures".to_owned()), "{judged:#}");
}

#[test]
fn older_list_than_one_accepted_is_refused() {
    let site = site::fresh();
    let day = |days: i64| {
        let day = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(24 * days)).unwrap();
        jiff::tz::Offset::UTC.to_datetime(day).date().to_string()
    };
    let [older, newer] = [10, 3].map(|days| List::signed(&flattering(&site, &day(days)), &site, &["ana", "bo"]));
    older.install(&site).expect(0);
    newer.install(&site).expect(0);
    let refused = older.install(&site).expect(UNVERIFIED);
    assert!(refused["error"].as_str().unwrap().contains("put back"), "{refused}");
    // Put back by hand, past the command.
    for (from, to) in [(older.path.clone(), "cmvp.json"), (beside(&older.path), "cmvp.json.dsse")] {
        fs::copy(from, site.dir.join("fips").join(to)).unwrap();
    }
    let judged = site.casemate(&["fips", "status", "--profile", "government"]).expect(UNVERIFIED);
    assert_eq!(
        failed(&judged),
        ["hardware", "snapshot not rolled back", "mode statement", "approved mode"],
        "{judged:#}"
    );
    let lists: Vec<Value> =
        site.records().into_iter().filter(|record| record["action"] == "certificate-list").collect();
    assert_eq!(lists.len(), 2);
}

#[test]
fn sample_of_the_guide_is_read_and_never_counts() {
    let site = site::fresh();
    let sample: Value =
        serde_json::from_slice(&fs::read(root().join("docs/samples/cmvp-sample.json")).unwrap()).unwrap();
    let list = List::signed(&sample, &site, &["ana", "bo"]);
    let words = site.plain(&["fips", "inspect", text(&list.path)]);
    assert!(words.starts_with("SAMPLE") && words.contains("900001"), "{words}");
    list.install(&site).expect(0);
    let judged =
        site.casemate(&["fips", "status", "--profile", "enterprise", "--certificate", "900001"]).expect(UNVERIFIED);
    assert!(failed(&judged).contains(&"snapshot is real".to_owned()), "{judged:#}");
    // It shuts out no real list of an earlier day.
    List::signed(&flattering(&site, "2026-01-01"), &site, &["ana", "bo"]).install(&site).expect(0);
}

fn beside(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".dsse");
    name.into()
}

#[test]
fn statement_about_the_mode_takes_two_approvers_and_the_token_that_is_there() {
    let site = site::fresh();
    List::signed(&flattering(&site, &today()), &site, &["ana", "bo"]).install(&site).expect(0);
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("mode.json"), folder.path().join("other.json"));
    let write = ["fips", "mode", "--certificate", "9001", "--seen", "maker's tool: FIPS mode on", "--out", text(&path)];
    site.casemate(&write).expect(0);
    let sign = |file: &Path, name: &str| {
        let key = site.dir.join(format!("approvers/{name}.key"));
        site.casemate(&["fips", "sign", text(file), "--key", text(&key)]).expect(0);
    };
    let judged = || site.casemate(&["fips", "status", "--profile", "government"]).expect(UNVERIFIED);
    let install = |file: &Path| site.casemate(&["fips", "install", text(file)]);
    sign(&path, "ana");
    install(&path).expect(UNVERIFIED);
    // Another token's.
    let honest = fs::read_to_string(&path).unwrap();
    let mut value: Value = serde_json::from_str(&honest).unwrap();
    value["serial"] = json!("0815");
    fs::write(&other, value.to_string()).unwrap();
    sign(&other, "ana");
    sign(&other, "bo");
    assert_ne!(install(&other).code, 0);
    assert_eq!(failed(&judged()), ["hardware", "mode statement", "approved mode"]);
    sign(&path, "bo");
    install(&path).expect(0);
    // Now people say so. The token still denies it, and it is software.
    let judged_now = judged();
    assert_eq!(failed(&judged_now), ["hardware", "approved mode"], "{judged_now:#}");
    let words = site.plain(&["fips", "status"]);
    assert!(words.contains("ana and bo saw it on") && words.contains("maker's tool: FIPS mode on"), "{words}");
    assert!(site.records().iter().any(|record| record["action"] == "fips-mode"));
    // Altered where it lies.
    let stated: Value = serde_json::from_str(&honest).unwrap();
    let serial = stated["serial"].as_str().unwrap();
    let lies = site.dir.join(format!("fips/mode-{serial}.json"));
    fs::write(&lies, honest.replace("\"certificate\": 9001", "\"certificate\": 9002")).unwrap();
    assert_eq!(failed(&judged()), ["hardware", "mode statement", "approved mode"]);
}
