//! A change's way into a site: received, tried on what was asked before, approved by two who saw the same, active.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::guest::root;
use crate::serve::Served;
use crate::site::{self, Ended, Site, text};

const UNVERIFIED: i32 = 4;
const QUESTION: &str = "How do I book a room?";
pub const PAYROLL: &str = "Who is on the payroll?";
/// Ana and Bo approve, so carla asks.
pub const CARLA: &str = "carla";

pub fn key(site: &Site, name: &str) -> String {
    text(&site.dir.join(format!("approvers/{name}.key"))).to_owned()
}

/// `clearance` with other settings, as a bundle of a later version that ana and bo signed.
pub fn clearance(site: &Site, folder: &Path, settings: &Value, version: u64) -> PathBuf {
    let source = folder.join(format!("clearance-{version}"));
    fs::create_dir(&source).unwrap();
    fs::copy(root().join("plugins/clearance/manifest.toml"), source.join("manifest.toml")).unwrap();
    fs::write(source.join("settings.json"), settings.to_string()).unwrap();
    let component = folder.join("clearance.wasm");
    fs::write(&component, crate::guest::component("plugins/clearance", "")).unwrap();
    let bundle = folder.join(format!("clearance-{version}.casemate"));
    let version = version.to_string();
    let build = ["bundle", "build", text(&source), "--out", text(&bundle), "--component", text(&component)];
    site.casemate(&[&build[..], &["--bundle-version", &version]].concat()).expect(0);
    for approver in ["ana", "bo"] {
        site.casemate(&["bundle", "sign", text(&bundle), "--key", &key(site, approver)]).expect(0);
    }
    bundle
}

/// What the clearance of this project is set to.
pub fn settings() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("plugins/clearance/settings.json")).unwrap()).unwrap()
}

/// A site that runs a `clearance` whose component this test can build again, and that was asked something with it.
fn asked(folder: &Path) -> Site {
    let site = site::copy();
    let first = clearance(&site, folder, &settings(), 70_000_000_000);
    site.casemate(&["plugin", "load", text(&first)]).expect(0);
    for (user, question) in [("ben", QUESTION), ("ben", PAYROLL), ("ana", PAYROLL), ("ana", "What is a reactor for?")] {
        site.casemate(&["policy", "eval", "--text", question, "--as", user]);
    }
    site.ask("ana", "How does an authenticated cipher protect the integrity of a message?").expect(0);
    site
}

pub fn receive(site: &Site, bundle: &Path, user: &str) -> Ended {
    site.casemate(&["change", "receive", text(bundle), "--as", user])
}

#[track_caller]
pub fn received(site: &Site, bundle: &Path) -> String {
    let line = receive(site, bundle, CARLA).expect(0);
    assert_eq!((&line["state"], &line["requester"]), (&json!("verified"), &json!(CARLA)));
    line["change"].as_str().unwrap().to_owned()
}

pub fn show(site: &Site, change: &str) -> Value {
    site.casemate(&["change", "show", change]).expect(0)
}

pub fn approve(site: &Site, change: &str, who: &str, reasons: &[String]) -> Ended {
    let seen = show(site, change)["approve"].as_str().unwrap_or("sha256:").to_owned();
    let key = key(site, who);
    let mut arguments = vec!["change", "approve", change, "--seen", &seen, "--key", &key];
    for reason in reasons {
        arguments.extend(["--reason", reason]);
    }
    site.casemate(&arguments)
}

fn evaluate(site: &Site, question: &str) -> Value {
    site.casemate(&["policy", "eval", "--text", question, "--as", "ben"]).json
}

#[test]
fn a_change_is_staged_on_recordings_approved_by_two_and_made_active() {
    let folder = tempfile::tempdir().unwrap();
    let site = asked(folder.path());
    // Payroll opens, rooms close.
    let mut other = settings();
    other["blocked-topics"] = json!(["room"]);
    let bundle = clearance(&site, folder.path(), &other, 70_000_000_001);
    let change = received(&site, &bundle);
    let refused = receive(&site, &bundle, "ben");
    assert!(refused.text.contains("asked for this change before"), "{}", refused.text);
    site.casemate(&["change", "activate", &change]).expect(UNVERIFIED);

    let report = site.casemate(&["change", "stage", &change]).expect(0);
    let trial = &report["trial"];
    assert!(trial["replayed"].as_u64().unwrap() > 5, "{report}");
    let newly: Vec<String> = trial["newly-allowed"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(newly.len(), 2, "payroll was asked for twice: {report}");
    assert_eq!(trial["counts"]["newly-denied"], 1, "{report}");
    assert!(trial["fuel"][0].as_u64().unwrap() > 0 && trial["memory-bytes"][0].as_u64().unwrap() > 0, "{report}");
    assert!(!report.to_string().contains("Who is on"), "a report holds nothing that was asked: {report}");
    let plain = site.plain(&["change", "show", &change]);
    let first = plain.find("NOW ALLOWED").unwrap();
    assert!(first < plain.find("now denied").unwrap(), "what opens comes first: {plain}");

    // Without reasons, with the digest of something else, and alone it is not approved.
    let refused = approve(&site, &change, "ana", &[]);
    assert!(refused.text.contains("reason"), "{}", refused.text);
    refused.expect(UNVERIFIED);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let blind = ["change", "approve", &change, "--seen", &wrong, "--key", &key(&site, "ana")];
    let refused = site.casemate(&blind);
    assert!(refused.text.contains("look again"), "{}", refused.text);
    let reasons: Vec<String> = newly.iter().map(|request| format!("{request}=payroll is public now")).collect();
    assert_eq!(approve(&site, &change, "ana", &reasons).expect(0)["state"], "staged");
    let alone = site.casemate(&["change", "activate", &change]);
    assert!(alone.text.contains("1 of 2"), "{}", alone.text);
    alone.expect(UNVERIFIED);
    // Ana's approval under Bo's name.
    let approvals = site.dir.join("changes").join(change.trim_start_matches("sha256:")).join("approvals");
    fs::copy(approvals.join("ana.dsse.json"), approvals.join("bo.dsse.json")).unwrap();
    let twice = site.casemate(&["change", "activate", &change]);
    assert!(twice.text.contains("ana approved already"), "{}", twice.text);
    twice.expect(UNVERIFIED);
    assert_eq!(approve(&site, &change, "bo", &reasons).expect(0)["state"], "approved");

    let before = site.casemate(&["change", "status"]).expect(0)["active"]["generation"].as_u64().unwrap();
    let active = site.casemate(&["change", "activate", &change]).expect(0);
    assert_eq!(active["generation"], before + 1);
    assert_eq!(evaluate(&site, PAYROLL)["decision"]["verdict"], "allow");
    assert_eq!(evaluate(&site, QUESTION)["decision"]["reason"], "blocked-topic");
    assert_eq!(show(&site, &change)["change"]["state"], "active");
    // What is approved is approved once: the report is of an earlier generation now.
    let again = site.casemate(&["change", "activate", &change]);
    assert!(again.text.contains("generation"), "{}", again.text);
    let steps: Vec<String> = site
        .records()
        .iter()
        .filter(|record| record["event"] == "bundle" && record["version"] == 70_000_000_001_u64)
        .map(|record| record["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(steps, ["received", "staged", "approved", "verified", "activated"]);
}

#[test]
fn who_asks_does_not_approve_and_a_stale_report_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let site = asked(folder.path());
    let mut other = settings();
    other["blocked-topics"] = json!(["payroll", "pension"]);
    let bundle = clearance(&site, folder.path(), &other, 70_000_000_001);
    let change = receive(&site, &bundle, "ana").expect(0)["change"].as_str().unwrap().to_owned();
    assert_eq!(site.casemate(&["change", "stage", &change]).expect(0)["trial"]["newly-allowed"], json!({}));
    let refused = approve(&site, &change, "ana", &[]);
    assert!(refused.text.contains("asked for this change"), "{}", refused.text);
    refused.expect(UNVERIFIED);
    approve(&site, &change, "bo", &[]).expect(0);

    // Something else becomes active meanwhile: what bo saw is not what there is to see.
    let mut third = settings();
    third["blocked-topics"] = json!(["payroll", "lottery"]);
    let meanwhile = clearance(&site, folder.path(), &third, 70_000_000_002);
    site.casemate(&["plugin", "load", text(&meanwhile)]).expect(0);
    let stale = site.casemate(&["change", "activate", &change]);
    assert!(stale.text.contains("stage and approve again"), "{}", stale.text);
    stale.expect(UNVERIFIED);
    assert!(show(&site, &change)["change"]["problem"].as_str().unwrap().contains("generation"));
}

#[test]
fn altered_recordings_reports_and_bundles_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let site = asked(folder.path());
    let mut other = settings();
    other["blocked-topics"] = json!(["payroll", "pension"]);
    let bundle = clearance(&site, folder.path(), &other, 70_000_000_001);
    let change = received(&site, &bundle);
    let place = site.dir.join("changes").join(change.trim_start_matches("sha256:"));

    // A recording under another name, as if it had been asked twice.
    let moved = site.copy();
    let gate = sled::open(moved.dir.join("gate")).unwrap();
    let recordings = gate.open_tree("recordings").unwrap();
    let (name, value) = recordings.iter().next().unwrap().unwrap();
    let mut renamed = name.to_vec();
    renamed[0] = if renamed[0] == b'0' { b'1' } else { b'0' };
    recordings.insert(renamed, value).unwrap();
    recordings.flush().unwrap();
    drop((recordings, gate));
    let refused = moved.casemate(&["change", "stage", &change]);
    assert!(refused.text.contains("cannot be used for staging"), "{}", refused.text);
    refused.expect(UNVERIFIED);

    // One that is taken away, so that nobody sees what becomes of it, is missed.
    let taken = site.copy();
    let gate = sled::open(taken.dir.join("gate")).unwrap();
    let recordings = gate.open_tree("recordings").unwrap();
    recordings.pop_min().unwrap().unwrap();
    recordings.flush().unwrap();
    drop((recordings, gate));
    let before = site.copy().casemate(&["change", "stage", &change]).expect(0)["trial"]["left-out"].clone();
    let after = taken.casemate(&["change", "stage", &change]).expect(0)["trial"]["left-out"].clone();
    const GONE: &str = "the log knows it, and it is gone";
    assert_eq!(after[GONE].as_u64(), Some(before[GONE].as_u64().unwrap_or_default() + 1), "{after}");

    let report = site.casemate(&["change", "stage", &change]).expect(0);
    assert_eq!(report["trial"]["counts"].as_object().unwrap().keys().collect::<Vec<_>>(), ["same"]);
    let path = place.join("staging.json");
    let good = fs::read_to_string(&path).unwrap();
    let forged = good.replace("\\\"newly-allowed\\\":{}", "\\\"newly-allowed\\\":{\\\"x\\\":\\\"y\\\"}");
    assert_ne!(good, forged);
    fs::write(&path, forged).unwrap();
    let line = show(&site, &change);
    assert!(line["change"]["problem"].as_str().unwrap().contains("did not sign"), "{line}");
    fs::write(&path, good).unwrap();
    // What is active is exchanged for the new one, so that nothing seems to change.
    let status = site.casemate(&["change", "status"]).expect(0);
    let active = site.dir.join(status["active"]["entries"]["clearance"]["file"].as_str().unwrap());
    let kept = fs::read(&active).unwrap();
    fs::copy(place.join("bundle.casemate"), &active).unwrap();
    site.casemate(&["change", "show", &change]).refused("is not the bundle that is active");
    fs::write(&active, kept).unwrap();
    // Another bundle in its place.
    let mut third = settings();
    third["blocked-topics"] = json!([]);
    let other = clearance(&site, folder.path(), &third, 70_000_000_002);
    fs::copy(&other, place.join("bundle.casemate")).unwrap();
    let listed = site.casemate(&["change", "list"]).expect(0);
    assert!(listed[0]["problem"].as_str().unwrap().contains("another one"), "{listed}");
    site.casemate(&["change", "activate", &change]).expect(UNVERIFIED);
    // One that nobody asked for.
    let unasked = site.dir.join("changes").join("0".repeat(64));
    fs::create_dir(&unasked).unwrap();
    fs::copy(&other, unasked.join("bundle.casemate")).unwrap();
    assert_eq!(site.casemate(&["change", "list"]).expect(0).as_array().unwrap().len(), 2);
    // One that only one person signed.
    let half = folder.path().join("half.casemate");
    let source = folder.path().join("clearance-70000000002");
    let build = ["bundle", "build", text(&source), "--out", text(&half)];
    let component = folder.path().join("clearance.wasm");
    site.casemate(&[&build[..], &["--component", text(&component), "--bundle-version", "70000000003"]].concat())
        .expect(0);
    site.casemate(&["bundle", "sign", text(&half), "--key", &key(&site, "ana")]).expect(0);
    receive(&site, &half, CARLA).expect(UNVERIFIED);
}

/// A policy that a team begins with `plugin new`, gives its settings, builds, and has ana and bo sign. Its name is that of a plugin of the
/// site, so that its version is a later one.
fn new_plugin(site: &Site, folder: &Path) -> PathBuf {
    let run = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skeleton");
        let output = command.current_dir(folder).env("CARGO_TARGET_DIR", target).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["plugin", "new", "clearance", "--sdk", text(&root().join("sdk-guest"))]);
    fs::write(folder.join("clearance/settings.json"), r#"{"word":"room"}"#).unwrap();
    run(&["bundle", "build", "clearance", "--bundle-version", "70000000001"]);
    let bundle = folder.join("clearance.casemate");
    for approver in ["ana", "bo"] {
        site.casemate(&["bundle", "sign", text(&bundle), "--key", &key(site, approver)]).expect(0);
    }
    bundle
}

/// Two sites under one root of trust, media between them, and a server that answers throughout.
#[test]
fn from_a_new_plugin_to_its_rollback_across_the_air_gap() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    fs::create_dir(&media).unwrap();
    // The building site: the same approvers, nothing active.
    let building = site::bare();
    let deployed = Served::of(asked(folder.path()));
    fs::copy(new_plugin(&building, folder.path()), media.join("clearance.casemate")).unwrap();

    let site = deployed.site();
    let bundle = media.join("clearance.casemate");
    site.casemate(&["bundle", "verify", text(&bundle)]).expect(0);
    let inspected = site.casemate(&["bundle", "inspect", text(&bundle)]).expect(0);
    assert_eq!(inspected["changes"]["settings"]["word"][1], json!("room"));
    // The site is served, so the change comes in over HTTP, with the user's own token.
    let line = deployed.post_bytes("/v1/changes", CARLA, &fs::read(&bundle).unwrap());
    assert_eq!((line.status, &line.body["state"]), (200, &json!("verified")), "{line:?}");
    let change = line.body["change"].as_str().unwrap().to_owned();
    let garbage = deployed.post_bytes("/v1/changes", CARLA, b"no bundle");
    assert_eq!(garbage.status, 400, "{garbage:?}");

    let report = site.casemate(&["change", "stage", &change]).expect(0);
    let newly: Vec<String> = report["trial"]["newly-allowed"].as_object().unwrap().keys().cloned().collect();
    let reasons: Vec<String> = newly.iter().map(|request| format!("{request}=payroll is public now")).collect();
    for approver in ["ana", "bo"] {
        approve(site, &change, approver, &reasons).expect(0);
    }
    let evaluate = |question: &str| deployed.post("/v1/policy/evaluate", "ben", &json!({ "text": question })).body;
    assert_eq!(evaluate(PAYROLL)["decision"]["reason"], "blocked-topic");
    site.casemate(&["change", "activate", &change]).expect(0);
    assert_eq!(evaluate(PAYROLL)["decision"]["verdict"], "allow", "in the running server");
    assert_eq!(evaluate(QUESTION)["decision"]["reason"], "word", "by the new plugin's own rule");
    // It was a mistake: back, by an order of two.
    let order = folder.path().join("back.order");
    let ana = key(site, "ana");
    let roll = ["change", "rollback", "clearance", "--reason", "too open", "--key", &ana, "--out", text(&order)];
    site.casemate(&roll).expect(0);
    site.casemate(&["change", "sign", text(&order), "--key", &key(site, "bo")]).expect(0);
    site.casemate(&["change", "submit", text(&order)]).expect(0);
    assert_eq!(evaluate(PAYROLL)["decision"]["reason"], "blocked-topic");
    assert_eq!(show(site, &change)["change"]["state"], "rolled-back");
    let (_, site) = deployed.stop();
    site.casemate(&["audit", "verify"]).expect(0);
}

/// A shadow sees every live request and changes nothing: not the answer, not what is kept, not the floor.
#[test]
fn a_shadow_has_no_effect_and_says_what_it_would_have_done() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::of(asked(folder.path()));
    let mut other = settings();
    other["blocked-topics"] = json!(["room"]);
    let bundle = clearance(served.site(), folder.path(), &other, 70_000_000_001);
    let line = served.post_bytes("/v1/changes", CARLA, &fs::read(&bundle).unwrap());
    let change = line.body["change"].as_str().unwrap().to_owned();
    let shadow = |more: &[&str]| served.site().casemate(&[&["change", "shadow", &change][..], more].concat()).expect(0);
    assert_eq!(shadow(&["--on"])["runs"], 0);
    let evaluate = |question: &str| served.post("/v1/policy/evaluate", "ben", &json!({ "text": question })).body;
    for _ in 0..3 {
        assert_eq!(evaluate(PAYROLL)["decision"]["reason"], "blocked-topic", "the active one decides");
        assert_eq!(evaluate(QUESTION)["decision"]["verdict"], "allow");
    }
    let runs = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Some(shadow(&[])).filter(|summary| summary["runs"] == 6)
    });
    let summary = runs.expect("six runs in the log");
    assert_eq!(summary["counts"], json!({ "newly-allowed": 3, "newly-denied": 3 }));
    assert_eq!(summary["newly-allowed"].as_array().unwrap().len(), 3);
    shadow(&["--off"]);
    evaluate(QUESTION);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(shadow(&[])["runs"], 6);
    let status = served.site().casemate(&["change", "status"]).expect(0);
    assert_eq!(status["active"]["floors"]["clearance"], 70_000_000_000_u64);
}
