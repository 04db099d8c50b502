//! Rotation and destruction of a site's own keys: what custodians approve is done, once, in time, and whatever cuts it off.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_custody::{
    AuditHead, AuditHeads, CustodyError, Envelope, Nonce, NonceFile, Operation, QuorumBackend, Roster, Statement,
    StatementFormat, UnixTime, Verifier,
};
use casemate_gate::{Gate, GateError, SiteConfig, SiteKey};
use casemate_hsm::KeyRef;
use casemate_types::Profile;
use serde_json::{Value, json};

use crate::custodian::Desk;
use crate::plug;
use crate::site::{self, Site, passage, program, text};

const QUESTION: &str = "When is the bilge of the ferry tested?";

/// A site with two custodians of three, and passages whose metadata are under the metadata key.
struct Office {
    desk: Desk,
}

impl Office {
    fn new() -> Self {
        Self::of(site::copy())
    }

    fn of(site: Site) -> Self {
        let desk = Desk::at(site);
        for name in ["ana", "bo", "carla"] {
            desk.enrol(name);
        }
        let roster = desk.site.dir.join("custody/roster.json");
        desk.custodian(&format!("roster build @ana.card @bo.card @carla.card --out {}", text(&roster)), false)
            .expect(0);
        desk.custodian("roster adopt", false).expect(0);
        Self { desk }
    }

    fn with_passages(self, count: usize) -> Self {
        let typed = "crate = \"fpe\"\npart = \"fpe:digits\"\nhull = { type = \"integer\", minimum = 0, maximum = 99999999 }\n\
                     year = { type = \"integer\", minimum = 1900, maximum = 2100 }\ndue = { type = \"date\" }";
        self.desk.site.configure("crate = \"fpe\"", typed);
        let lines: Vec<Value> = (0..count)
            .map(|number| {
                let mut line =
                    passage(&format!("pump-{number}"), &format!("Pump {number}"), "The bilge of the ferry is tested.");
                line["metadata"] = json!({
                    "part": part(number), "crate": format!("crate-number-{number}"), "year": "1999",
                    "hull": 5_000_000 + number, "due": format!("2026-01-{:02}", number % 28 + 1),
                });
                line
            })
            .collect();
        self.desk.site.ingest(&lines);
        self
    }

    fn rotate(&self, arguments: &str) -> site::Ended {
        let mut all = vec!["keys", "rotate"];
        all.extend(arguments.split(' '));
        self.desk.site.casemate(&all)
    }

    fn status(&self, key: &str) -> Value {
        let status = self.rotate("status").expect(0);
        status.as_array().unwrap().iter().find(|line| line["key"] == key).unwrap().clone()
    }

    /// Asks for an operation as `status` says it has to be written, and has people sign it.
    fn statement(
        &self,
        file: &str,
        operation: &str,
        about: &Value,
        version: u64,
        more: &str,
        signed: &[&str],
    ) -> String {
        let serials: String = self.status("metadata")["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|serial| format!(" --on {}", serial.as_str().unwrap()))
            .collect();
        let request = format!(
            "request --operation {operation} --key {} --class {} --version {version}{serials} --requester p-dora --out @{file}{more}",
            about["id"].as_str().unwrap(),
            about["class"].as_str().unwrap(),
        );
        self.desk.custodian(&request, false).expect(0);
        for name in signed {
            self.desk.approve(name, file).expect(0);
        }
        text(&self.desk.path(file)).to_owned()
    }

    fn emergency(&self, key: &str) {
        let status = self.status(key);
        let next = status["version"].as_u64().unwrap() + 1;
        let file = format!("emergency-{key}-{next}.json");
        let more = " --reason key-suspected:test";
        let statement = self.statement(&file, "rotate-emergency", &status["reference"], next, more, &["ana", "bo"]);
        self.rotate(&format!("emergency {key} --statement {statement}")).expect(0);
    }

    fn titles(&self, filter: &str) -> Vec<String> {
        let answer = self.desk.site.casemate(&["ask", QUESTION, "--as", "ben", "--filter", filter]).expect(0);
        site::titles(&answer)
    }
}

/// A part's number: ten digits, more than a million alternatives.
fn part(number: usize) -> String {
    format!("{:010}", 1_234_567 + number * 7919)
}

#[test]
fn at_once_for_a_reason_then_everything_is_found_and_the_old_version_is_destroyed() {
    let office = Office::new().with_passages(40);
    let before = office.status("metadata");
    office.emergency("metadata");
    assert_eq!(office.titles(&format!("part={}", part(3))), ["Pump 3"], "under the old version");
    assert_eq!(office.titles("hull=5000003"), ["Pump 3"], "a number, under the old version");
    // Not while data is under it.
    let destroy = |file: &str| {
        let statement =
            office.statement(file, "destroy", &before["reference"], 1, " --reason retired", &["ana", "carla"]);
        office.desk.site.casemate(&["keys", "destroy", "metadata@1", "--statement", &statement])
    };
    let early = destroy("early.json");
    assert!(early.code != 0 && early.text.contains("still encrypted under the old version"), "{}", early.text);

    let done = office.rotate("reencrypt metadata").expect(0);
    assert!(done["passages"].as_u64().unwrap() > 0 && done["left"] == 0, "{done}");
    assert_eq!(office.rotate("reencrypt metadata").expect(0)["passages"], 0);
    // What comes in now is under the new one.
    let mut line = passage("pump-new", "Pump new", "The bilge of the ferry is tested.");
    line["metadata"] = json!({ "part": part(900), "year": "1999" });
    office.desk.site.ingest(&[line]);
    assert_eq!(office.titles(&format!("part={}", part(900))), ["Pump new"]);
    // Numbers were re-encrypted; tokens and sealed values have no version and are found as before.
    assert_eq!(office.titles("hull in 5000003,9"), ["Pump 3"]);
    let narrowed = ["--filter", "year=1999", "--filter", "due<=2026-01-01"];
    let site = &office.desk.site;
    let mut found =
        site::titles(&site.casemate(&[&["ask", QUESTION, "--as", "ben"], &narrowed[..]].concat()).expect(0));
    found.sort();
    assert!(
        !found.is_empty() && found.iter().all(|title| ["Pump 0", "Pump 28"].contains(&title.as_str())),
        "{found:?}"
    );
    for number in [0, 3, 39] {
        assert_eq!(office.titles(&format!("part={}", part(number))), [format!("Pump {number}")]);
    }
    assert_eq!(office.titles(&format!("part={}", part(900))), ["Pump new"]);

    destroy("late.json").expect(0);
    assert_eq!(office.status("metadata")["older"][0]["stage"], "destroyed");
    assert_eq!(office.titles(&format!("part={}", part(3))), ["Pump 3"]);
    let again = destroy("again.json");
    assert!(again.code != 0 && again.text.contains("approved before"), "{}", again.text);

    // The log says who did what with which version, and how its end was proven; no value is in it.
    let records = office.desk.site.records();
    let of =
        |operation: &str| -> Vec<&Value> { records.iter().filter(|record| record["operation"] == operation).collect() };
    assert!(of("rotation-emergency").iter().any(|record| record["version"] == 2 && record["result"] == "ok"));
    assert!(of("rotation-reencrypt").iter().any(|record| record["result"] == "ok"));
    let id = before["reference"]["id"].as_str().unwrap();
    let destroyed = of("destroy");
    let proof = destroyed.iter().find(|record| record["key_id"] == id && record["result"] != "begun").unwrap();
    assert!(proof["result"].as_str().unwrap().starts_with("ok: "), "{proof}");
    let approvals: Vec<_> = records.iter().filter(|record| record["action"] == "approval").collect();
    assert_eq!(approvals.len(), 2, "one for each step that was done");
    assert!(approvals[1]["detail"].as_str().unwrap().contains("ana and carla"));
    assert!(!records.iter().any(|record| record.to_string().contains(&part(3))));
}

#[test]
fn masks_name_their_version_and_the_at_rest_key_seals_anew() {
    let office = Office::new();
    let question = "What is the licences address?";
    let masked = |office: &Office| {
        let answer = office.desk.site.casemate(&["ask", question, "--as", "ana"]).expect(0);
        (answer["outcome"]["mask-key"].clone(), answer["outcome"]["text"].as_str().unwrap().to_owned())
    };
    let (first, text) = masked(&office);
    assert_eq!(first, "mask@1", "{text}");
    office.emergency("mask");
    let (second, other) = masked(&office);
    assert_eq!(second, "mask@2");
    assert_ne!(text, other, "masked under the same key");
    let used = office.desk.site.records();
    let mask: Vec<_> =
        used.iter().filter(|record| record["operation"] == "encrypt" && record["version"] == 2).collect();
    assert!(!mask.is_empty(), "the record of a mask names the key's version");

    let sealed = || -> String {
        let state: Value = serde_json::from_slice(&fs::read(office.desk.site.dir.join("state.json")).unwrap()).unwrap();
        state["sealed-site-secrets"].as_str().unwrap().to_owned()
    };
    let before = sealed();
    office.emergency("at-rest");
    assert_ne!(before, sealed());
    assert_eq!(office.status("at-rest")["older"][0]["stage"], "re-encrypted");
    assert_eq!(masked(&office).1, other);
}

#[test]
fn wrong_approvals_are_refused_by_name() {
    let office = Office::new();
    let status = office.status("metadata");
    let (reference, mask) = (&status["reference"], office.status("mask")["reference"].clone());
    let refused = |arguments: &str, name: &str| {
        let ended = office.rotate(arguments);
        assert!(ended.code != 0 && ended.text.contains(name), "{arguments}: {}", ended.text);
    };
    let reason = " --reason key-suspected:test";
    let make = |file: &str, operation: &str, about: &Value, version: u64, more: &str, signed: &[&str]| {
        office.statement(file, operation, about, version, more, signed)
    };
    let one = make("one.json", "rotate-emergency", reference, 2, reason, &["ana"]);
    refused(&format!("emergency metadata --statement {one}"), "1 of 2 custodians signed");
    let other = make("other.json", "rotate-emergency", &mask, 2, reason, &["ana", "bo"]);
    refused(&format!("emergency metadata --statement {other}"), "key");
    let later = make("later.json", "rotate-emergency", reference, 3, reason, &["ana", "bo"]);
    refused(&format!("emergency metadata --statement {later}"), "version");
    let code = make("code.json", "rotate-emergency", reference, 2, " --reason because", &["ana", "bo"]);
    refused(&format!("emergency metadata --statement {code}"), "must begin with a code");
    let wrong = make("wrong.json", "rotate", reference, 2, " --reason yearly", &["ana", "bo"]);
    refused(&format!("emergency metadata --statement {wrong}"), "operation");
    // Without a proposal there is no notice, without a notice nothing is activated.
    let early = make("early.json", "rotate", reference, 2, " --reason yearly", &["ana", "bo"]);
    refused(&format!("notice metadata --statement {early}"), "no rotation was proposed");
    office.rotate("propose metadata").expect(0);
    refused("propose metadata", "under way");
    refused(&format!("notice metadata --statement {early}"), "used before");
    let notice = make("notice.json", "rotate", reference, 2, " --reason yearly", &["bo", "carla"]);
    office.rotate(&format!("notice metadata --statement {notice}")).expect(0);
    refused(&format!("notice metadata --statement {notice}"), "used before");
    // The notice runs.
    let ahead = office.status("metadata")["ahead"]["noticed"].clone();
    let soon = format!(" --reason yearly --subject {}", ahead["statement"].as_str().unwrap());
    let activate = make("activate.json", "rotate", &ahead["next"], 2, &soon, &["ana", "bo"]);
    refused(&format!("activate metadata --statement {activate}"), "the notice runs until");
    assert_eq!(office.status("metadata")["version"], 1);
    // Taken back, nothing of it is left in the token.
    office.rotate("withdraw metadata").expect(0);
    assert!(office.status("metadata").get("ahead").is_none());
    let id = ahead["next"]["id"].as_str().unwrap();
    let gone = office.desk.site.records();
    assert!(
        gone.iter()
            .any(|record| record["operation"] == "destroy" && record["key_id"] == id && record["result"] != "begun")
    );
    assert!(office.rotate("propose tokens").code == 2, "a key without versions");
}

/// Versions live in two tokens, or not at all.
#[test]
fn in_a_pair_the_next_version_is_in_both_tokens_or_nowhere() {
    let office = Office::of(site::pair("embedded"));
    office.emergency("metadata");
    assert_eq!(office.status("metadata")["version"], 2);
    let records = office.desk.site.records();
    let proven =
        records.iter().find(|record| record["operation"] == "prove").unwrap()["result"].as_str().unwrap().to_owned();
    assert!(proven.contains(" and "), "{proven}");
    // With the backup gone there is no next version, and the one in force stays.
    let [_, backup] = crate::failover::pair_of(&office.desk.site, "backup.sqlite");
    let status = office.status("metadata");
    let statement = office.statement(
        "half.json",
        "rotate-emergency",
        &status["reference"],
        3,
        " --reason key-suspected:test",
        &["ana", "bo"],
    );
    backup.take();
    let refused = office.rotate(&format!("emergency metadata --statement {statement}"));
    assert_ne!(refused.code, 0, "{}", refused.text);
    backup.give_back();
    assert_eq!(office.status("metadata")["version"], 2);
}

/// `kill -9` at random moments of re-encryption: nothing is lost, and calling again finishes it.
#[test]
fn re_encryption_that_is_killed_loses_nothing_and_is_finished_by_the_next() {
    let office = Office::new().with_passages(300);
    office.emergency("metadata");
    let mut kills = 0;
    for milliseconds in [150, 250, 300, 350, 400, 450, 500, 600] {
        let mut child = office
            .desk
            .site
            .command(&["keys", "rotate", "reencrypt", "metadata"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no run was cut off");
    assert_eq!(office.titles(&format!("part={}", part(7))), ["Pump 7"], "half way");
    assert_eq!(office.rotate("reencrypt metadata").expect(0)["left"], 0);
    for number in (0..300).step_by(37) {
        assert_eq!(office.titles(&format!("part={}", part(number))), [format!("Pump {number}")]);
    }
    office.desk.site.casemate(&["audit", "verify"]).expect(0);
}

/// `kill -9` around the birth and the end of keys: one version is in force, and no key is left over.
#[test]
fn steps_that_are_killed_leave_one_version_in_force_and_no_stray_key() {
    let office = Office::new();
    let before = objects(&office.desk.site);
    for (round, milliseconds) in [60, 120, 180, 240, 320, 400].into_iter().enumerate() {
        let status = office.status("mask");
        let next = status["version"].as_u64().unwrap() + 1;
        let file = format!("killed-{round}.json");
        let more = " --reason key-suspected:test";
        let statement = office.statement(&file, "rotate-emergency", &status["reference"], next, more, &["ana", "bo"]);
        let mut child = office
            .desk
            .site
            .command(&["keys", "rotate", "emergency", "mask", "--statement", &statement])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = office.status("mask");
        let version = after["version"].as_u64().unwrap();
        assert!(version == next || version == next - 1, "{after}");
        if version == next {
            office.rotate("reencrypt mask").expect(0);
        }
    }
    let versions = office.status("mask")["version"].as_u64().unwrap();
    assert_eq!(
        objects(&office.desk.site),
        before + versions - 1,
        "every version that was put in force, and nothing else"
    );
}

fn objects(site: &Site) -> u64 {
    site.casemate(&["keys", "list"]).expect(0)["token-objects"].as_u64().unwrap()
}

fn status_of(site: &Site, key: &str) -> Value {
    let status = site.casemate(&["keys", "rotate", "status"]).expect(0);
    status.as_array().unwrap().iter().find(|line| line["key"] == key).unwrap().clone()
}

/// Every step of a rotation at once is the last one of a process, once: the old version is in force or the new one, whole, and the token
/// holds no key that the site does not know.
fn an_emergency_killed_at_every_step(office: &Office) {
    let before = objects(&office.desk.site);
    let status = office.status("mask");
    let more = " --reason key-suspected:test";
    let statement = office.statement("at-once.json", "rotate-emergency", &status["reference"], 2, more, &["ana", "bo"]);
    let order = ["keys", "rotate", "emergency", "mask", "--statement", &statement];
    // Before the state, before its floor, and inside the token.
    let named = ["/state.json", "/state.floor", "/token/"];
    plug::at_every_step(&office.desk.site, &order, &named, |site, told| {
        let mut version = status_of(site, "mask")["version"].as_u64().unwrap();
        assert!(version == 1 || version == 2, "{told}");
        assert_eq!(objects(site), before + version - 1, "{told}");
        if version == 1 {
            let again = site.casemate(&order);
            assert!(again.code == 0 || again.text.contains("used before"), "{told}: {}", again.text);
            version += u64::from(again.code == 0);
        }
        let after = status_of(site, "mask");
        assert_eq!((after["version"].as_u64(), objects(site)), (Some(version), before + version - 1), "{told}");
        if version == 2 {
            // The version in force does its work, and the old one can go.
            site.casemate(&["keys", "rotate", "reencrypt", "mask"]).expect(0);
            assert_eq!(status_of(site, "mask")["older"][0]["stage"], "re-encrypted", "{told}");
        }
    });
}

#[test]
fn kill_9_at_every_step_of_a_rotation_leaves_one_version_and_no_stray_key() {
    an_emergency_killed_at_every_step(&Office::of(site::fresh()));
}

#[test]
fn kill_9_at_every_step_of_a_rotation_in_a_pair_leaves_one_version_and_no_stray_key() {
    an_emergency_killed_at_every_step(&Office::of(site::bare_pair("embedded")));
}

#[test]
fn kill_9_at_every_step_of_a_notice_leaves_a_proposal_or_the_whole_notice() {
    let office = Office::of(site::fresh());
    office.rotate("propose mask").expect(0);
    let before = objects(&office.desk.site);
    let reference = &office.status("mask")["reference"];
    let statement = office.statement("notice.json", "rotate", reference, 2, " --reason yearly", &["ana", "bo"]);
    let order = ["keys", "rotate", "notice", "mask", "--statement", &statement];
    plug::at_every_step(&office.desk.site, &order, &["/state.json"], |site, told| {
        let ahead = status_of(site, "mask")["ahead"].clone();
        let made = u64::from(ahead.get("noticed").is_some());
        assert!(made == 1 || ahead.get("proposed").is_some(), "{told}: {ahead}");
        assert_eq!(objects(site), before + made, "{told}");
        site.casemate(&["keys", "rotate", "withdraw", "mask"]).expect(0);
        assert_eq!(objects(site), before, "{told}");
    });
}

#[test]
fn kill_9_at_every_step_of_a_change_of_the_logs_key_is_finished_by_the_same_command() {
    let site = site::fresh();
    let before = objects(&site);
    let order = ["audit", "rotate-key"];
    plug::at_every_step(&site, &order, &["/log.next-key", "/state.json", "/log.vkey"], |site, told| {
        let done = site.casemate(&order);
        assert_eq!(done.code, 0, "{told}: {}", done.text);
        assert_eq!(objects(site), before, "{told}");
    });
}

/// Every step of a version's destruction is the last one of a process, once; then custodians sign that it is gone.
#[test]
fn kill_9_at_every_step_of_a_versions_destruction_is_finished_by_the_same_command() {
    let office = Office::new();
    office.emergency("mask");
    office.rotate("reencrypt mask").expect(0);
    let older = office.status("mask")["older"][0].clone();
    let key = older["reference"]["id"].as_str().unwrap().to_owned();
    let statement =
        office.statement("destroy.json", "destroy", &older["reference"], 1, " --reason retired", &["ana", "bo"]);
    let order = ["keys", "destroy", "mask@1", "--statement", &statement];
    let before = objects(&office.desk.site);
    let (mut steps, mut spent) = (Vec::new(), 0);
    // These for certain, then every one: the log's own steps come when they do.
    let certificate = format!("/custody/destroyed/{key}.json");
    let named = ["/state.json", "/state.floor", ".txt", &certificate].map(|on| (on, 1));
    for (on, at) in named.into_iter().chain((1..).map(|at| ("", at))) {
        let site = office.desk.site.copy();
        let pulled = plug::pull_on(&site, &order, ("rename unlink fdatasync", on), at);
        if !pulled.killed {
            assert_eq!(on, "", "nothing is done about it");
            break;
        }
        steps.push(pulled.step);
        let status = site.casemate(&["keys", "rotate", "status"]).expect(0);
        let mask = status.as_array().unwrap().iter().find(|line| line["key"] == "mask").unwrap();
        let stage = mask["older"][0]["stage"].clone();
        let done = site.casemate(&order);
        let certificate = site.dir.join(format!("custody/destroyed/{key}.json"));
        if done.code != 0 {
            assert!(done.text.contains("used before"), "{at}: {}", done.text);
            // Cut off between the ledger and the state: nothing was done, and the approval is used up all the same.
            if !certificate.exists() {
                assert_eq!((&stage, objects(&site)), (&json!("re-encrypted"), before), "{at}: {steps:?}");
                spent += 1;
                continue;
            }
        }
        assert_eq!(objects(&site), before - 1, "{at}: {steps:?}");
        assert!(fs::read_to_string(certificate.with_extension("txt")).unwrap().contains("mask@1"), "{at}: {steps:?}");
        site.casemate(&["audit", "verify"]).expect(0);
    }
    assert!(spent <= 8, "{spent} of {}", steps.len());

    let done = office.desk.site.casemate(&order).expect(0);
    let file = done["file"].as_str().unwrap();
    assert_eq!(
        (&done["certificate"]["name"], &done["certificate"]["statement"].is_string()),
        (&json!("mask@1"), &true)
    );
    let proofs = done["certificate"]["proofs"].to_string();
    for proof in ["old handle is invalid", "use is refused", "finds nothing in token"] {
        assert!(proofs.contains(proof), "{proof}: {proofs}");
    }
    assert!(office.desk.custodian(&format!("certify {file}"), false).text.contains("0 of 2 custodians signed"));
    for name in ["ana", "carla"] {
        let sign = format!("certify {file} --as {name} --token {name} --pin-file @{name}.pin --yes");
        office.desk.custodian(&sign, true).expect(0);
    }
    office.desk.custodian(&format!("certify {file}"), false).expect(0);
}

const SITE: &str = "CASEMATE_TEST_ROTATION";

/// Two days pass in a process whose log and clock are played.
#[test]
fn after_two_days_by_clock_log_and_custodians_the_next_version_comes_into_force() {
    let office = Office::new();
    office.rotate("propose metadata").expect(0);
    let status = office.status("metadata");
    let statement =
        office.statement("notice.json", "rotate", &status["reference"], 2, " --reason yearly", &["bo", "carla"]);
    office.rotate(&format!("notice metadata --statement {statement}")).expect(0);
    let dir = fs::canonicalize(&office.desk.site.dir).unwrap();
    let config = SiteConfig::read(&dir).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["rotation::played", "--exact", "--ignored", "--nocapture"])
        .env(SITE, &dir)
        .env("CASEMATE_TEST_DESK", office.desk.path(""))
        .envs(config.hsm.environment.iter().map(|(name, value)| (name, value.replace("{site}", text(&dir)))))
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
    let after = office.status("metadata");
    assert_eq!((after["version"].as_u64(), &after["older"][0]["stage"]), (Some(2), &json!("decrypt-only")));
    assert_eq!(office.rotate("reencrypt metadata").expect(0)["left"], 0);
}

/// A log that says what the test wants about time, and the truth about its roots.
struct Played {
    times: Vec<UnixTime>,
}

impl AuditHeads for Played {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        Ok(Some([size as u8; 32]))
    }

    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError> {
        Ok(self.times.get(index as usize).copied())
    }

    fn size(&self) -> u64 {
        self.times.len() as u64
    }
}

#[test]
#[ignore = "run by after_two_days_by_clock_log_and_custodians_the_next_version_comes_into_force in a process of its own"]
fn played() {
    let Some(dir) = std::env::var_os(SITE).map(PathBuf::from) else { return };
    let desk = PathBuf::from(std::env::var_os("CASEMATE_TEST_DESK").unwrap());
    let gate = Gate::open_without_plugins(&dir).unwrap();
    let state: Value = serde_json::from_slice(&fs::read(dir.join("state.json")).unwrap()).unwrap();
    let notice = &state["versions"]["metadata"]["ahead"]["noticed"];
    let (from, record) = (notice["from"].as_u64().unwrap(), notice["record"].as_u64().unwrap() as usize);
    let next: KeyRef = serde_json::from_value(notice["next"].clone()).unwrap();
    let roster = Roster::parse(&fs::read(dir.join("custody/roster.json")).unwrap()).unwrap();
    let serial = state["token-serial"].as_str().unwrap();
    let hour = |hours: u64| UnixTime(from + hours * 3600);
    let log = |gaps: &[u64]| {
        let mut times = vec![UnixTime(from); record + 1];
        times.extend(gaps.iter().map(|hours| hour(*hours)));
        Played { times }
    };
    // Ana and bo sign with their tokens, as `custodian approve` has them do.
    let mut number = 0;
    let mut activate = |log: &Played, from_hour: u64, at: u64, head: u64| {
        number += 1;
        let wanted = Statement {
            format: StatementFormat::One,
            operation: Operation::Rotate,
            site: roster.site().to_owned(),
            roster: roster.digest(),
            epoch: roster.epoch(),
            key: Some(next.id),
            class: Some(next.class),
            name: None,
            version: Some(2),
            tokens: vec![serial.parse().unwrap()],
            template: None,
            subject: Some(notice["statement"].as_str().unwrap().parse().unwrap()),
            until: None,
            grant: None,
            reason: "yearly".to_owned(),
            requester: "p-dora".parse().unwrap(),
            nonce: Nonce::from_random([number; 16]),
            audit_head: AuditHead { size: head, root: [head as u8; 32] },
            not_before: hour(from_hour),
            expires: hour(from_hour + 72),
        };
        let mut envelope = Envelope::new(&wanted).unwrap();
        for name in ["ana", "bo"] {
            sign(&desk, &roster, name, &mut envelope);
        }
        let verifier = Verifier {
            site: roster.site(),
            roster: &roster,
            tier: QuorumBackend::ApprovalsOnly,
            profile: Profile::Rehearsal,
            max_head_age: Verifier::MAX_HEAD_AGE,
        };
        let mut ledger = NonceFile::open(&dir.join("custody/nonces")).unwrap();
        let approved = verifier.approve(&envelope, hour(at), log, &mut ledger)?;
        gate.activate_rotation("test", SiteKey::Metadata, &approved, log)
    };
    let head = record as u64 + 1;
    let refused = |result: Result<u32, GateError>, name: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    };
    refused(activate(&log(&[10, 20, 30, 40, 47]), 48, 47, head), "is good from");
    refused(activate(&log(&[10, 20, 30, 40, 47]), 47, 49, head), "the notice runs until");
    refused(activate(&log(&[10, 20, 30, 40]), 48, 49, record as u64), "before the notice was recorded");
    // The clock was set forward: the log knows of one hour.
    refused(activate(&log(&[1]), 48, 49, head), "clock set forward");
    // And back, behind the log.
    refused(activate(&log(&[10, 20, 30, 40, 60]), 48, 50, head), "clock");
    assert_eq!(activate(&log(&[10, 20, 30, 40, 48]), 48, 49, head).unwrap(), 2);
    refused(activate(&log(&[10, 20, 30, 40, 48]), 48, 49, head), "no notice was given");
}

fn sign(desk: &std::path::Path, roster: &Roster, name: &str, envelope: &mut Envelope) {
    // Custodians' tokens are another module's configuration: the program signs, in a process of its own.
    let (file, environment) =
        (desk.join("played.json"), format!("KRYOPTIC_CONF={}", desk.join("tokens.conf").display()));
    fs::write(&file, envelope.to_bytes().unwrap()).unwrap();
    let roster_file = desk.join("roster.json");
    fs::write(&roster_file, roster.to_bytes().unwrap()).unwrap();
    let signed = Command::new(program())
        .args([
            "custodian",
            "approve",
            text(&file),
            "--as",
            name,
            "--token",
            name,
            "--yes",
            "--roster",
            text(&roster_file),
        ])
        .args(["--pin-file", text(&desk.join(format!("{name}.pin"))), "--module-env", &environment])
        .output()
        .unwrap();
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    *envelope = Envelope::parse(&fs::read(&file).unwrap()).unwrap();
}
