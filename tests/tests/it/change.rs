//! What runs changes only by bundles and orders that enough people signed, at once also in a running server, and no file says otherwise
//! than the audit log.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::guest::{component, root};
use crate::serve::Served;
use crate::site::{self, Ended, Site, text};

const DENIED: i32 = 3;
const UNVERIFIED: i32 = 4;
const QUESTION: &str = "How do I book a room?";

fn key(site: &Site, name: &str) -> String {
    text(&site.dir.join(format!("approvers/{name}.key"))).to_owned()
}

fn order(site: &Site) -> String {
    let path = site.dir.join("order");
    let _ = fs::remove_file(&path);
    text(&path).to_owned()
}

/// Stops as ana.
#[track_caller]
fn stop(site: &Site, scope: &[&str]) {
    let key = key(site, "ana");
    let command = [&["change", "stop"], scope, &["--reason", "a leak", "--key", &key]].concat();
    assert_eq!(site.casemate(&command).expect(0)["action"], "stopped");
}

/// Resumes as ana, then with bo.
#[track_caller]
fn resume(site: &Site, scope: &[&str]) {
    let (ana, bo, path) = (key(site, "ana"), key(site, "bo"), order(site));
    let command = [&["change", "resume"], scope, &["--reason", "looked into", "--key", &ana, "--out", &path]].concat();
    site.casemate(&command).expect(0);
    let alone = site.casemate(&["change", "submit", &path]);
    assert!(alone.text.contains("1 of 2"), "{}", alone.text);
    alone.expect(UNVERIFIED);
    site.casemate(&["change", "sign", &path, "--key", &ana]).expect(UNVERIFIED);
    site.casemate(&["change", "sign", &path, "--key", &bo]).expect(0);
    assert_eq!(site.casemate(&["change", "submit", &path]).expect(0)["action"], "resumed");
    // Once only.
    site.casemate(&["change", "submit", &path]).expect(UNVERIFIED);
}

fn evaluate(site: &Site) -> Value {
    site.casemate(&["policy", "eval", "--text", QUESTION, "--as", "ben"]).json
}

/// `clearance` as a later version.
fn load_clearance(site: &Site, version: u64) -> Value {
    let folder = root().join("plugins/clearance");
    let [manifest, settings] =
        ["manifest.toml", "settings.json"].map(|file| fs::read_to_string(folder.join(file)).unwrap());
    site.load_next(&component("plugins/clearance", ""), &manifest, &settings, version)
}

fn generation(site: &Site) -> u64 {
    site.casemate(&["change", "status"]).expect(0)["active"]["generation"].as_u64().unwrap()
}

#[test]
fn one_custodian_stops_a_running_server_at_once_and_deleted_files_do_not_start_it() {
    let served = Served::of(site::copy());
    let evaluate = || served.post("/v1/policy/evaluate", "ben", &json!({ "text": QUESTION })).body;
    assert_eq!(evaluate()["decision"]["verdict"], "allow");
    stop(served.site(), &["--everything"]);
    assert_eq!(evaluate()["decision"]["reason"], "host:stopped");
    let asked = served.post("/v1/ask", "ana", &json!({ "question": QUESTION })).body;
    assert_eq!(asked["outcome"]["reason"], "host:stopped", "{asked}");
    let (_, site) = served.stop();

    // After a restart, and without every file that a thief of the stop would take away.
    let saved = fs::read(site.dir.join("active.json")).unwrap();
    for name in ["change.standing", "active.json", "state.floor"] {
        let path = site.dir.join(name);
        let held = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        let denied = site.casemate(&["policy", "eval", "--text", QUESTION, "--as", "ben"]);
        assert_ne!(denied.code, 0, "without {name}: {}", denied.text);
        if let Some(held) = held.filter(|_| name == "state.floor") {
            fs::write(&path, held).unwrap();
        }
    }
    assert_eq!(saved, fs::read(site.dir.join("active.json")).unwrap(), "rebuilt from the log");
    assert_eq!(self::evaluate(&site)["decision"]["reason"], "host:stopped");
    let error = site.casemate(&["ask", QUESTION, "--as", "ana"]).expect(DENIED);
    assert_eq!(error["outcome"]["reason"], "host:stopped");

    resume(&site, &["--everything"]);
    assert_eq!(self::evaluate(&site)["decision"]["verdict"], "allow");
    let orders: Vec<Value> = site.records().into_iter().filter(|record| record["event"] == "order").collect();
    let actions: Vec<&str> = orders.iter().filter_map(|record| record["action"].as_str()).collect();
    assert_eq!(actions, ["stopped", "refused", "resumed", "refused"]);
    assert_eq!(orders[0]["signers"], json!(["ana"]));
    assert_eq!(orders[2]["signers"], json!(["ana", "bo"]));
}

#[test]
fn a_stopped_component_is_missed_by_whatever_needs_it() {
    let site = site::copy();
    stop(&site, &["--component", "librarian"]);
    assert_eq!(evaluate(&site)["decision"]["verdict"], "allow", "the policies go on");
    assert_eq!(site.ask("ana", QUESTION).expect(DENIED)["outcome"]["reason"], "host:no-plugin");
    resume(&site, &["--component", "librarian"]);
    stop(&site, &["--component", "clearance"]);
    assert_eq!(evaluate(&site)["decision"]["reason"], "host:stopped", "a chain without a policy is none");
    // Loading it again, in a new version, does not lift the stop.
    load_clearance(&site, 70_000_000_000);
    assert_eq!(evaluate(&site)["decision"]["reason"], "host:stopped");
}

#[test]
fn a_stop_of_a_stranger_is_refused_and_recorded_without_a_name() {
    let site = site::copy();
    let stranger = casemate_bundle::ApproverKey::generate("ana").unwrap();
    let path = site.dir.join("stranger.key");
    stranger.save(&path).unwrap();
    let stop = ["change", "stop", "--everything", "--reason", "mischief", "--key", text(&path)];
    let refused = site.casemate(&stop);
    assert!(refused.text.contains("does not hold"), "{}", refused.text);
    refused.expect(UNVERIFIED);
    let record = site.records().pop().unwrap();
    assert_eq!((record["event"].as_str(), record["action"].as_str()), (Some("order"), Some("refused")));
    assert_eq!(record["signers"], json!([]));
    assert_eq!(evaluate(&site)["decision"]["verdict"], "allow");
}

#[test]
fn activation_beside_a_loaded_server_fails_no_request() {
    let served = Served::of(site::copy());
    let before = served.get("/v1/health", "ben").body["generation"].as_u64().unwrap();
    let over = AtomicBool::new(false);
    let asked: usize = std::thread::scope(|scope| {
        let load = || {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = served.post("/v1/policy/evaluate", "ben", &json!({ "text": QUESTION }));
                assert_eq!((answer.status, &answer.body["decision"]["verdict"]), (200, &json!("allow")), "{answer:?}");
                asked += 1;
            }
            asked
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for version in 1..=3 {
            let loaded = load_clearance(served.site(), 70_000_000_000 + version);
            assert_eq!(loaded["generation"], before + version);
        }
        over.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(asked > 4, "{asked}");
    assert_eq!(served.get("/v1/health", "ben").body["generation"], before + 3);
    // Requests were decided in the old generation and in the new ones.
    let (_, site) = served.stop();
    let records = site.records();
    for generation in [before, before + 3] {
        let decided = |record: &Value| record["event"] == "decision" && record["generation"] == generation;
        assert!(generation != before || records.iter().any(decided), "{generation}");
    }
}

#[test]
fn a_bundle_that_is_refused_beside_a_server_leaves_the_set_as_it_is() {
    let served = Served::of(site::copy());
    let before = served.get("/v1/health", "ben").body["generation"].clone();
    let path = served.site().dir.join("junk.casemate");
    let mut bytes = fs::read(site::shared().dir.with_file_name("clearance.casemate")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    served.site().casemate(&["plugin", "load", text(&path)]).expect(UNVERIFIED);
    assert_eq!(served.get("/v1/health", "ben").body["generation"], before);
    assert!(fs::read_dir(served.site().dir.join("inbox")).unwrap().next().is_none(), "nothing is left lying");
}

#[test]
fn a_rollback_takes_two_and_is_a_new_generation() {
    let served = Served::of(site::copy());
    let site = served.site();
    let before = generation(site);
    let old = site.casemate(&["change", "status"]).expect(0)["active"]["entries"]["clearance"].clone();
    load_clearance(site, 70_000_000_000);
    let (ana, bo, path) = (key(site, "ana"), key(site, "bo"), order(site));
    let roll = ["change", "rollback", "clearance", "--reason", "too strict", "--key", &ana, "--out", &path];
    site.casemate(&roll).expect(0);
    site.casemate(&["change", "submit", &path]).expect(UNVERIFIED);
    site.casemate(&["change", "sign", &path, "--key", &bo]).expect(0);
    assert_eq!(site.casemate(&["change", "submit", &path]).expect(0)["generation"], before + 2);
    let standing = site.casemate(&["change", "status"]).expect(0);
    assert_eq!(standing["active"]["entries"]["clearance"], old);
    assert_eq!(standing["active"]["floors"]["clearance"], 70_000_000_000_u64, "the floor stays");
    let evaluate = || served.post("/v1/policy/evaluate", "ben", &json!({ "text": QUESTION })).body;
    assert_eq!(evaluate()["decision"]["verdict"], "allow");
    site.casemate(&["change", "submit", &path]).expect(UNVERIFIED);

    let (_, site) = served.stop();
    assert_eq!(self::evaluate(&site)["decision"]["verdict"], "allow", "it holds after a restart");
    let revoke = ["change", "revoke", old["bundle_digest"].as_str().unwrap(), "--reason", "broken", "--key", &ana];
    site.casemate(&revoke).expect(0);
    assert_eq!(self::evaluate(&site)["decision"]["reason"], "host:stopped");
}

#[test]
fn a_state_of_yesterday_is_refused_and_a_deleted_one_is_rebuilt() {
    let site = site::copy();
    let state = site.dir.join("active.json");
    let yesterday = fs::read(&state).unwrap();
    load_clearance(&site, 70_000_000_000);
    let today = fs::read(&state).unwrap();
    fs::write(&state, &yesterday).unwrap();
    let refused = site.casemate(&["ask", QUESTION, "--as", "ana"]);
    assert!(refused.text.contains("the log has seen"), "{}", refused.text);
    refused.expect(UNVERIFIED);

    // Back by hand, marked as if it had been ordered.
    let mut forged: Value = serde_json::from_slice(&today).unwrap();
    let old: Value = serde_json::from_slice(&yesterday).unwrap();
    forged["entries"]["clearance"] = old["entries"]["clearance"].clone();
    forged["rolled_back"] = json!(["clearance"]);
    forged["generation"] = (forged["generation"].as_u64().unwrap() + 1).into();
    fs::write(&state, forged.to_string()).unwrap();
    let refused = site.casemate(&["ask", QUESTION, "--as", "ana"]);
    assert!(refused.text.contains("nobody ordered"), "{}", refused.text);
    refused.expect(UNVERIFIED);

    fs::remove_file(&state).unwrap();
    assert_eq!(evaluate(&site)["decision"]["verdict"], "allow");
    assert_eq!(fs::read(&state).unwrap(), today);

    // Bundles that are gone cannot be rebuilt: nothing runs, and nothing is forgotten.
    let before = generation(&site);
    fs::remove_dir_all(site.dir.join("bundles")).unwrap();
    fs::remove_file(&state).unwrap();
    let error = site.casemate(&["ask", QUESTION, "--as", "ana"]);
    assert!(error.text.contains("missing"), "{}", error.text);
    error.expect(UNVERIFIED);
    assert_eq!(generation(&site), before);
}

/// The keys' state and the floor beside it, both as they were before a user's key was taken away: the log has seen a later generation.
#[test]
fn a_state_of_keys_put_back_with_its_floor_is_refused() {
    let site = site::fresh();
    site.casemate(&["keys", "issue", "ben"]).expect(0);
    let files = ["state.json", "state.floor"].map(|name| site.dir.join(name));
    let kept = files.clone().map(|path| fs::read(path).unwrap());
    site.casemate(&["keys", "revoke", "ben"]).expect(0);
    files.iter().zip(&kept).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let refused = site.casemate(&["keys", "list"]);
    assert!(refused.code != 0 && refused.text.contains("an old copy"), "{}", refused.text);
    // Without the floor it is no better, nor as a state that never changed.
    fs::remove_file(&files[1]).unwrap();
    site.casemate(&["keys", "list"]).refused("an old copy");
}

/// A file that would have a rotation of the log's key destroy the key of everything at rest.
#[test]
fn a_planted_announcement_destroys_no_key_in_force() {
    let site = site::fresh();
    let state: Value = serde_json::from_slice(&fs::read(site.dir.join("state.json")).unwrap()).unwrap();
    for key in ["at-rest", "audit"] {
        let id = &state["keys"][key]["id"];
        let planted = json!({ "id": id, "class": "audit-signing", "check": "", "label": "site/audit" });
        fs::write(site.dir.join("log.next-key"), planted.to_string()).unwrap();
        site.casemate(&["audit", "rotate-key"]).refused("it was planted");
    }
    fs::remove_file(site.dir.join("log.next-key")).unwrap();
    site.casemate(&["audit", "rotate-key"]).expect(0);
    site.casemate(&["keys", "list"]).expect(0);
}

/// Whoever can write the folder cuts an order out of the log's files and removes the copy of what it says.
#[test]
fn a_stop_that_is_cut_out_of_the_logs_files_does_not_end() {
    let site = site::copy();
    stop(&site, &["--component", "clearance"]);
    assert_eq!(evaluate(&site)["decision"]["reason"], "host:stopped");
    let mut altered = 0;
    for path in site::files(&site.dir.join("log")) {
        let bytes = fs::read(&path).unwrap();
        // The same length, and no word of an order.
        let (from, to) = (b"\"action\":\"stopped\"", b"\"action\":\"refused\"");
        let places: Vec<usize> =
            (0..bytes.len().saturating_sub(from.len())).filter(|at| bytes[*at..].starts_with(from)).collect();
        if text(&path).contains("/tile/entries/") && !places.is_empty() {
            let mut bytes = bytes;
            places.iter().for_each(|at| bytes[*at..at + to.len()].copy_from_slice(to));
            fs::write(&path, bytes).unwrap();
            altered += places.len();
        }
    }
    assert_eq!(altered, 1, "the stop is in a signed bundle of entries");
    // With the sealed copy, which the record's neighbours come after, and without it.
    for copy in [true, false] {
        if !copy {
            fs::remove_file(site.dir.join("change.standing")).unwrap();
        }
        let refused = site.casemate(&["policy", "eval", "--text", QUESTION, "--as", "ben"]);
        assert!(
            refused.code != 0 && refused.text.contains("was changed: its hash is not the one in the tree"),
            "{}",
            refused.text
        );
    }
}

/// A bundle that two people signed is put into the site's folder and into its state, as if a crash had kept it from the log. (What a crash
/// really leaves is caught up on: `killed`.)
#[test]
fn a_bundle_that_was_slipped_into_the_state_is_refused() {
    let site = site::copy();
    let after = site.copy();
    load_clearance(&after, 70_000_000_000);
    let list = after.casemate(&["plugin", "list"]).expect(0);
    for name in ["active.json", list["entries"]["clearance"]["file"].as_str().unwrap()] {
        fs::copy(after.dir.join(name), site.dir.join(name)).unwrap();
    }
    site.casemate(&["policy", "eval", "--text", QUESTION, "--as", "ben"]).refused("did not become active here");
    assert!(!site.records().iter().any(|record| record["version"] == 70_000_000_000_u64));
}

/// A command on the site under another date, or `None` where libfaketime was left out by name.
fn casemate_in(days: u32, site: &Site, arguments: &[&str]) -> Option<Ended> {
    if std::env::var_os("CASEMATE_WITHOUT_FAKETIME").is_some() {
        eprintln!("left out: faketime is not installed here (CASEMATE_WITHOUT_FAKETIME)");
        return None;
    }
    let command = site.command(arguments);
    let mut faketime = Command::new("faketime");
    faketime.args(["-f", &format!("+{days}d")]).arg(command.get_program()).args(command.get_args());
    let output = faketime.current_dir(root()).stdin(Stdio::null()).output();
    let output = output.expect("faketime is needed: cargo xtask setup installs it, or sets CASEMATE_WITHOUT_FAKETIME");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(Ended { code: output.status.code().unwrap_or(-1), json: Value::Null, text })
}

#[test]
fn clock_set_back_does_not_revive_an_expired_bundle() {
    let site = site::copy();
    let (bundle, folder) = (site.dir.join("short.casemate"), root().join("plugins/clearance"));
    let tomorrow = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24)).to_string();
    let build = ["bundle", "build", text(&folder), "--out", text(&bundle), "--expires", &tomorrow];
    site.casemate(&[build.as_slice(), &["--bundle-version", "7"]].concat()).expect(0);
    for approver in ["ana", "bo"] {
        site.casemate(&["bundle", "sign", text(&bundle), "--key", &key(&site, approver)]).expect(0);
    }
    site.casemate(&["bundle", "verify", text(&bundle)]).expect(0);

    // Three days later it has expired, and the site decides something.
    let Some(later) = casemate_in(3, &site, &["bundle", "verify", text(&bundle)]) else { return };
    assert!(later.code == UNVERIFIED && later.text.contains("expired"), "{}", later.text);
    let before = site.records().len();
    let decided = casemate_in(3, &site, &["policy", "eval", "--text", QUESTION, "--as", "ben"]).unwrap();
    let records = site.records();
    assert!(records.len() > before, "{}", decided.text);
    let latest = records.last().unwrap()["time_ms"].as_i64().unwrap();
    assert!(latest > (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).as_millisecond());

    // Back to today, when the bundle was in date: the log has seen a later day.
    let verified = site.casemate(&["bundle", "verify", text(&bundle)]);
    assert!(verified.text.contains("expired") && verified.text.contains("behind the audit log"), "{}", verified.text);
    verified.expect(UNVERIFIED);
    let loaded = site.casemate(&["plugin", "load", text(&bundle)]);
    assert!(loaded.text.contains("expired"), "{}", loaded.text);
    loaded.expect(UNVERIFIED);
}
