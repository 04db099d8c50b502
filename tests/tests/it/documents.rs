//! What two people sign besides components: the chain, people, settings. Each is in force from one generation to the next, and no file says
//! otherwise.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::serve::Served;
use crate::site::{self, Site, text};

const DENIED: i32 = 3;
const UNVERIFIED: i32 = 4;
const QUESTION: &str = "How do I book a room?";

/// Builds and signs a document, and returns the bundle's path.
fn signed(site: &Site, folder: &Path, manifest: &str, (file, document): (&str, &str), version: u64) -> String {
    fs::write(folder.join("manifest.toml"), format!("version = \"1.0.0\"\nsummary = \"For a test.\"\n{manifest}"))
        .unwrap();
    fs::write(folder.join(file), document).unwrap();
    let out = folder.join(format!("{version}.casemate"));
    let version = version.to_string();
    site.casemate(&["bundle", "build", text(folder), "--out", text(&out), "--bundle-version", &version]).expect(0);
    for approver in ["ana", "bo"] {
        let key = site.dir.join(format!("approvers/{approver}.key"));
        site.casemate(&["bundle", "sign", text(&out), "--key", text(&key)]).expect(0);
    }
    text(&out).to_owned()
}

fn chain(policies: &[(&str, &str)], combining: &str) -> String {
    let policies: Vec<String> =
        policies.iter().map(|(name, mode)| format!("{{ plugin = \"{name}\", mode = \"{mode}\" }}")).collect();
    format!(
        "combining = \"{combining}\"\npolicies = [{}]\nagent = \"librarian\"\nstrategy = \"nearest\"\n",
        policies.join(", ")
    )
}

fn evaluate(site: &Site, question: &str, user: &str) -> Value {
    site.casemate(&["policy", "eval", "--text", question, "--as", user]).json
}

const SET: &str = "kind = \"policy-set\"\n";
const PEOPLE: &str = "kind = \"people\"\n";
const PAYROLL: &str = "Who is on the payroll?";

#[test]
fn a_signed_policy_set_is_the_chain_whatever_site_toml_says() {
    let (site, folder) = (site::copy(), tempfile::tempdir().unwrap());
    assert_eq!(evaluate(&site, PAYROLL, "ben")["decision"]["reason"], "blocked-topic");
    // A set that cannot run never becomes active.
    for (policies, combining, why) in [
        (&[("clearance", "enforce"), ("stranger", "enforce")][..], "deny-overrides", "stranger"),
        (&[("clearance", "enforce"), ("librarian", "enforce")], "deny-overrides", "librarian"),
        (&[("clearance", "enforce"), ("clearance", "monitor")], "deny-overrides", "twice"),
        (&[("clearance", "enforce"), ("disclosure", "enforce")], "clearance", "disclosure"),
    ] {
        let refused = signed(&site, folder.path(), SET, ("policy-set.toml", &chain(policies, combining)), 1);
        let refused = site.casemate(&["plugin", "load", &refused]);
        assert!(refused.code != 0 && refused.text.contains(why), "{why}: {}", refused.text);
    }
    let last = site.records().pop().unwrap();
    assert_eq!((last["event"].as_str(), last["action"].as_str()), (Some("bundle"), Some("refused")));

    let watching = chain(&[("clearance", "monitor"), ("disclosure", "enforce")], "deny-overrides");
    let set = signed(&site, folder.path(), SET, ("policy-set.toml", &watching), 1);
    let shown = site.casemate(&["bundle", "inspect", &set]).expect(0);
    assert_eq!((&shown["kind"], &shown["changes"]), (&json!("policy-set"), &Value::Null));
    let loaded = site.casemate(&["plugin", "load", &set]).expect(0);
    assert_eq!((&loaded["name"], &loaded["kind"]), (&json!("site-policy-set"), &json!("policy-set")));
    assert_eq!(evaluate(&site, PAYROLL, "ben")["decision"]["reason"], "host:no-policy", "clearance only watches");
    // Whoever edits site.toml changes nothing now.
    site.configure("{ plugin = \"disclosure\", mode = \"enforce\" },", "");
    assert_eq!(evaluate(&site, PAYROLL, "ben")["decision"]["reason"], "host:no-policy");

    // The next one shows what it changes, and going back takes two.
    let strict = chain(&[("clearance", "enforce"), ("disclosure", "enforce")], "deny-overrides");
    let next = signed(&site, folder.path(), SET, ("policy-set.toml", &strict), 2);
    let shown = site.casemate(&["bundle", "inspect", &next]).expect(0);
    assert_eq!(shown["changes"], json!({ "policies.1.mode": ["monitor", "enforce"] }));
    assert_eq!(shown["changes"], site.casemate(&["bundle", "diff", &set, &next]).expect(0));
    site.casemate(&["plugin", "load", &next]).expect(0);
    assert_eq!(evaluate(&site, PAYROLL, "ben")["decision"]["reason"], "blocked-topic");
    let older = site.casemate(&["plugin", "load", &set]);
    assert!(older.text.contains("is older than 2"), "{}", older.text);
    older.expect(UNVERIFIED);

    // One custodian revokes it: without a chain nothing is allowed.
    let active = site.casemate(&["change", "status"]).expect(0)["active"]["entries"]["site-policy-set"].clone();
    let key = site.dir.join("approvers/ana.key");
    let digest = active["bundle_digest"].as_str().unwrap();
    site.casemate(&["change", "revoke", digest, "--reason", "wrong", "--key", text(&key)]).expect(0);
    assert_eq!(evaluate(&site, QUESTION, "ben")["decision"]["reason"], "host:stopped");
}

#[test]
fn who_is_not_approved_is_not_let_in_whatever_site_toml_says() {
    let (site, folder) = (site::copy(), tempfile::tempdir().unwrap());
    let rule = "[compartments.engineering]\ndepartments = [\"engineering\", \"cryptography\"]\nclearance = \"internal\"\n\
                [compartments.cryptography]\ndepartments = [\"cryptography\"]\nroles = [\"curator\"]\nclearance = \"secret\"\n";
    let ana = "[users.ana]\nclearance = \"secret\"\nroles = [\"analyst\"]\ndepartments = [\"cryptography\"]\n";
    let ben = "[users.ben]\nclearance = \"internal\"\nroles = [\"analyst\"]\ndepartments = [\"engineering\"]\n";
    let secret = "What does the compartment of cryptography say about an authenticated cipher?";
    assert_eq!(evaluate(&site, secret, "ana")["decision"]["verdict"], "allow");

    let served = Served::of(site);
    let ask = |user: &str| served.post("/v1/policy/evaluate", user, &json!({ "text": QUESTION }));
    assert_eq!(ask("ben").status, 200);
    // Only ana is approved; and the cryptography compartment is for curators, whom she is none of.
    let people = signed(served.site(), folder.path(), PEOPLE, ("people.toml", &format!("{rule}{ana}")), 1);
    served.site().casemate(&["plugin", "load", &people]).expect(0);
    assert_eq!(ask("ben").status, 401, "a session that is open ends: {:?}", ask("ben").body);
    assert_eq!(ask("ana").status, 200, "{:?}", ask("ana").body);
    let (_, site) = served.stop();
    let refused = site.ask("ben", QUESTION);
    assert_ne!(refused.code, 0, "{}", refused.text);
    assert_eq!(
        evaluate(&site, secret, "ana")["decision"]["reason"],
        "need-to-know",
        "the compartment's rule is the approved one"
    );

    // Ben comes, by the next document; a lower clearance than site.toml's is what counts.
    let people = signed(
        &site,
        folder.path(),
        PEOPLE,
        ("people.toml", &format!("{rule}{ana}{}", ben.replace("internal", "public"))),
        2,
    );
    let shown = site.casemate(&["bundle", "inspect", &people]).expect(0);
    assert_eq!(shown["changes"]["users.ben.clearance"], json!([null, "public"]));
    site.casemate(&["plugin", "load", &people]).expect(0);
    let answer = site.ask("ben", "What does a deadline say?");
    assert!(!answer.text.contains("stops being useful"), "a passage above the approved clearance: {}", answer.text);

    // The file of active bundles without it, and the bundle deleted: nobody is let in.
    let entry = site.casemate(&["change", "status"]).expect(0)["active"]["entries"]["site-people"].clone();
    fs::remove_file(site.dir.join(entry["file"].as_str().unwrap())).unwrap();
    let refused = site.ask("ana", QUESTION);
    assert!(refused.text.contains("missing"), "{}", refused.text);
    refused.expect(UNVERIFIED);
}

#[test]
fn settings_are_changed_without_code_and_for_one_component_only() {
    let (site, folder) = (site::copy(), tempfile::tempdir().unwrap());
    let bundle = site::shared().dir.with_file_name("clearance.casemate");
    let component =
        site.casemate(&["bundle", "inspect", text(&bundle)]).expect(0)["component"].as_str().unwrap().to_owned();
    let manifest =
        |component: &str| format!("kind = \"settings\"\nsubject = \"clearance\"\ncomponent = \"{component}\"\n");
    let topics = "{\"blocked-topics\": [\"room\"]}";
    let other = format!("sha256:{}", "0".repeat(64));
    for (manifest, settings, why) in [
        (manifest(&other), topics, "another component"),
        (manifest(&component).replace("clearance", "stranger"), topics, "not active"),
        (manifest(&component), "{\"blocked\": []}", "blocked"),
    ] {
        let refused = signed(&site, folder.path(), &manifest, ("settings.json", settings), 1);
        let refused = site.casemate(&["plugin", "load", &refused]);
        assert!(refused.code != 0 && refused.text.contains(why), "{why}: {}", refused.text);
    }
    let settings = signed(&site, folder.path(), &manifest(&component), ("settings.json", topics), 1);
    site.casemate(&["plugin", "load", &settings]).expect(0);
    assert_eq!(evaluate(&site, QUESTION, "ben")["decision"]["reason"], "blocked-topic");
    assert_eq!(evaluate(&site, PAYROLL, "ben")["decision"]["verdict"], "allow", "the settings as a whole");
    // Stopping the settings stops what runs with them.
    let key = site.dir.join("approvers/ana.key");
    let stop = ["change", "stop", "--component", "site-settings-clearance", "--reason", "wrong", "--key", text(&key)];
    site.casemate(&stop).expect(0);
    assert_eq!(evaluate(&site, QUESTION, "ben")["decision"]["reason"], "host:stopped");
    let refused = site.ask("ana", QUESTION).expect(DENIED);
    assert_eq!(refused["outcome"]["reason"], "host:stopped");
}
