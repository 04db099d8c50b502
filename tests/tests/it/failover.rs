//! A whole site on a pair of tokens: the primary goes away under a live server, and what users get is right or a denial.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::serve::Served;
use crate::site::{self, Site};

const QUESTION: &str = "Where do licence enquiries and licence invoices go by e-mail?";
const VERIFICATION: i32 = 4;
const UNAUTHENTICATED: i32 = 5;

/// Storage of a token that can be taken away and brought back.
pub struct Storage(PathBuf);

impl Storage {
    pub fn take(&self) {
        fs::rename(&self.0, self.away()).unwrap();
    }

    /// Whatever a program made in its place meanwhile goes.
    pub fn give_back(&self) {
        for made in [self.0.clone(), self.0.with_extension("sqlite-journal"), self.0.with_extension("sqlite-wal")] {
            let _ = fs::remove_file(&made);
        }
        let _ = fs::remove_dir_all(&self.0);
        fs::rename(self.away(), &self.0).unwrap();
    }

    fn away(&self) -> PathBuf {
        self.0.with_extension("away")
    }
}

pub fn pair_of(site: &Site, backup: &str) -> [Storage; 2] {
    let token = site.dir.join("token");
    [Storage(token.join("token.sqlite")), Storage(token.join(backup))]
}

/// The state of the tokens, as the server sees it.
fn tokens(served: &Served) -> Value {
    served.get("/v1/health", "ana").body["tokens"].clone()
}

/// Waits until the server says so; returns what it says.
#[track_caller]
fn until(served: &Served, state: &str) -> Value {
    wait(|| Some(tokens(served)).filter(|tokens| tokens["state"] == state))
}

/// Waits until so many health checks are over; returns what the server says then.
#[track_caller]
fn after_checks(served: &Served, checks: u64) -> Value {
    wait(|| Some(tokens(served)).filter(|tokens| tokens["checks"].as_u64() >= Some(checks)))
}

#[track_caller]
fn wait<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    // A guard against hanging, far above the interval.
    let found = (0..1200).find_map(|_| {
        let found = ready();
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        found
    });
    found.expect("it never came")
}

fn question() -> Value {
    json!({ "question": QUESTION })
}

/// The answer's text, or nothing when the host denied.
#[track_caller]
fn answer(served: &Served, user: &str) -> Option<String> {
    let reply = served.post("/v1/ask", user, &question());
    let outcome = &reply.body["outcome"];
    if reply.status == 200 && outcome["outcome"] == "answered" {
        return Some(outcome["text"].as_str().unwrap().to_owned());
    }
    let reason = outcome["reason"].as_str().or(reply.body["error"].as_str()).unwrap_or_default();
    assert!(reason.starts_with("host:"), "{reply:?}");
    None
}

/// The storage of the primary vanishes while identifiers are masked, and comes back.
fn the_primary_vanishes_under_load(site: Site, backup: &str) -> Site {
    let [primary, _] = pair_of(&site, backup);
    let served = Served::of(site);
    let expected = answer(&served, "ana").unwrap();
    assert!(expected.contains('@') && !expected.contains("harbour-works"), "{expected}");
    answer(&served, "ben").unwrap();
    let stop = AtomicBool::new(false);
    let (right, denied) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut right, mut denied) = (0, 0);
            while !stop.load(Ordering::SeqCst) {
                match answer(&served, "ana") {
                    // Masks of before, during and after are the same bits.
                    Some(text) => {
                        assert_eq!(text, expected);
                        right += 1;
                    }
                    None => denied += 1,
                }
            }
            (right, denied)
        });
        until(&served, "healthy");
        primary.take();
        let before = tokens(&served)["checks"].as_u64().unwrap();
        // One check may have been under way; the next one begins after, and notices.
        let noticed = after_checks(&served, before + 2);
        assert_eq!(noticed["state"], "primary-down", "{noticed}");
        assert_eq!(answer(&served, "ana").as_ref(), Some(&expected));
        // A session that opens now opens in the backup.
        answer(&served, "carla").unwrap();
        served.site().casemate(&["audit", "verify"]).expect(0);
        // What has to be in both tokens is refused by name; the user is out all the same.
        let refused = served.site().casemate(&["keys", "revoke", "ben"]).expect(2);
        assert!(refused["error"].as_str().unwrap().contains("the primary is down"), "{refused}");
        assert_eq!(served.post("/v1/ask", "ben", &question()).status, 401);

        primary.give_back();
        let back = until(&served, "healthy");
        assert_eq!(back["restored"], 1, "{back}");
        assert_eq!(answer(&served, "ana").as_ref(), Some(&expected));
        stop.store(true, Ordering::SeqCst);
        asking.join().unwrap()
    });
    assert!(right > 0, "{denied} denials");
    let (ended, site) = served.stop();
    assert!(ended.success());
    let records = site.records();
    let turns: Vec<&str> = records
        .iter()
        .filter(|record| record["event"] == "site")
        .filter_map(|record| record["action"].as_str())
        .filter(|action| action.starts_with("hsm-"))
        .collect();
    assert_eq!(turns, ["hsm-pair-founded", "hsm-failover", "hsm-fail-back"]);
    site.casemate(&["audit", "verify"]).expect(0);

    // With both tokens there, what was refused is finished, and both stay in step.
    site.casemate(&["keys", "revoke", "ben"]).expect(0);
    site.casemate(&["keys", "add-user", "dora", "--clearance", "internal", "--department", "engineering"]).expect(0);
    site.casemate(&["keys", "issue", "ana"]).expect(0);
    site.casemate(&["keys", "add-compartment", "finance", "--department", "finance", "--clearance", "internal"])
        .expect(0);
    assert_eq!(site.casemate(&["hsm", "status"]).expect(0)["state"], "healthy");
    site.ask("ben", QUESTION).expect(UNAUTHENTICATED);

    // A start without the primary.
    primary.take();
    assert_eq!(site.ask("ana", QUESTION).expect(0)["outcome"]["text"], expected);
    assert_eq!(site.casemate(&["hsm", "status"]).expect(VERIFICATION)["state"], "primary-down");
    let refused = site.casemate(&["keys", "issue", "dora"]);
    assert!(refused.code != 0 && refused.text.contains("the primary is down"), "{}", refused.text);
    primary.give_back();
    assert_eq!(site.ask("dora", QUESTION).expect(0)["outcome"]["text"], expected);
    site
}

#[test]
fn the_primary_vanishes_under_a_server_of_two_software_tokens() {
    let site = the_primary_vanishes_under_load(site::pair("embedded"), "backup.sqlite");
    nothing_is_served_without_either(site, "backup.sqlite");
}

#[test]
fn the_primary_vanishes_before_softhsm() {
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        eprintln!("SKIPPED: the_primary_vanishes_before_softhsm (CASEMATE_WITHOUT_SOFTHSM is set)");
        return;
    }
    the_primary_vanishes_under_load(site::pair("/usr/lib/softhsm/libsofthsm2.so"), "softhsm");
}

fn nothing_is_served_without_either(site: Site, backup: &str) {
    let storages = pair_of(&site, backup);
    let served = Served::of(site);
    let expected = answer(&served, "ana").unwrap();
    storages.iter().for_each(Storage::take);
    until(&served, "both-down");
    let health = served.get("/v1/health", "ana");
    assert_eq!((health.status, &health.body["error"]), (503, &json!("host:token-unavailable")));
    for (route, body) in [("/v1/ask", question()), ("/v1/policy/evaluate", json!({ "text": "a" }))] {
        // A session that is open, and one that would have to be opened.
        for user in ["ana", "carla"] {
            let denied = served.post(route, user, &body);
            assert_eq!(
                (denied.status, &denied.body["error"]),
                (503, &json!("host:token-unavailable")),
                "{route} {user}"
            );
        }
    }
    storages.iter().for_each(Storage::give_back);
    until(&served, "healthy");
    // The log tries to sign once a second, and takes records again after that.
    assert_eq!(wait(|| answer(&served, "ana")), expected);
    let (ended, site) = served.stop();
    assert!(ended.success());
    let both = site.records().into_iter().filter(|record| record["action"] == "hsm-both-down").count();
    assert_eq!(both, 1);
    site.casemate(&["audit", "verify"]).expect(0);
    an_old_pair_file_is_refused(&site);
}

/// Somebody puts yesterday's files back: the tokens remember what they have served.
fn an_old_pair_file_is_refused(site: &Site) {
    let path = site.dir.join("pair.json");
    let old = fs::read(&path).unwrap();
    site.casemate(&["keys", "issue", "ana"]).expect(0);
    let new = fs::read(&path).unwrap();
    fs::write(&path, old).unwrap();
    let refused = site.ask("ana", QUESTION);
    assert!(refused.code != 0 && refused.text.contains("sequence number is lower"), "{}", refused.text);
    fs::write(&path, new).unwrap();
    site.ask("ana", QUESTION).expect(0);
    a_foreign_signature_is_refused(site, &path);
}

fn a_foreign_signature_is_refused(site: &Site, path: &Path) {
    let good = fs::read_to_string(path).unwrap();
    let mut changed: Value = serde_json::from_str(&good).unwrap();
    changed["manifest"]["manifest"]["keys"][0]["version"] = 2.into();
    fs::write(path, changed.to_string()).unwrap();
    let refused = site.ask("ana", QUESTION);
    assert!(refused.code != 0 && refused.text.contains("signature does not hold"), "{}", refused.text);
    fs::write(path, good).unwrap();
}

#[test]
fn a_site_with_one_token_has_no_pair_to_show() {
    let ended = site::bare().casemate(&["hsm", "status"]);
    assert!(ended.text.contains("casemate init --backup"), "{}", ended.text);
    ended.expect(1);
}

/// The library itself is gone, of one token or the other: the site starts on what is there, and says so.
#[test]
fn a_missing_library_of_one_token_does_not_keep_a_site_from_starting() {
    let site = site::pair("embedded");
    let path = site.dir.join("site.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let module = whole.lines().find(|line| line.starts_with("module = ")).unwrap().to_owned();
    let (before, after) = whole.split_once("[hsm.backup]").unwrap();
    let missing = "module = \"gone/libtoken.so\"";
    for (which, changed) in [
        ("backup", format!("{before}[hsm.backup]{}", after.replacen(&module, missing, 1))),
        ("primary", format!("{}[hsm.backup]{after}", before.replacen(&module, missing, 1))),
    ] {
        assert_ne!(changed, whole);
        fs::write(&path, changed).unwrap();
        let answer = site.casemate(&["ask", QUESTION, "--as", "ana"]).expect(0);
        assert_eq!(answer["outcome"]["outcome"], "answered", "{which}: {answer}");
        let refused = site.casemate(&["keys", "renew-credential", "ben"]);
        assert_ne!(refused.code, 0, "a key was made while the {which} is missing");
    }
    fs::write(&path, whole).unwrap();
    site.casemate(&["ask", QUESTION, "--as", "ana"]).expect(0);
}
