//! A compartment's key is destroyed: nothing of the collection comes back, whoever kept a copy and whenever the command was killed.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use casemate_custody::{Roster, SecretKind, SplitOf, SystemEntropy, split};
use serde_json::{Value, json};

use crate::consent::Office;
use crate::plug;
use crate::site::{self, Site, copy_folder};

const UNVERIFIED: i32 = 4;

fn state(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.dir.join("state.json")).unwrap()).unwrap()
}

/// Whether a session opens for the user: what policies say afterwards is another matter.
fn served(site: &Site, user: &str) -> bool {
    matches!(site.ask(user, "How is a key wrapped?").code, 0 | 3)
}

/// The number of passages, as the command names it.
fn passages(site: &Site, name: &str) -> String {
    let asked = site.casemate(&["keys", "destroy", name]);
    assert!(asked.code == 2 && asked.text.contains("unreadable for ever"), "{}", asked.text);
    asked.json["hint"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn destroyed_compartment_does_not_come_back_from_a_backup() {
    let office = Office::adopted(site::copy());
    let site = &office.desk.site;
    let before = state(site);
    let key = before["compartments"]["cryptography"]["key"]["id"].as_str().unwrap();
    let other = before["compartments"]["engineering"]["key"]["id"].as_str().unwrap();
    // A package of the key, in escrow, and another key's.
    let roster = Roster::parse(&fs::read(site.dir.join("custody/roster.json")).unwrap()).unwrap();
    let escrow = |name: &str, about: &str| {
        let folder = site.dir.join("custody/escrow").join(name);
        fs::create_dir_all(&folder).unwrap();
        let of = SplitOf { kind: SecretKind::Package, about, epoch: 1 };
        let (set, shares) = split(b"a wrapped key", of, &roster, &mut SystemEntropy).unwrap();
        fs::write(folder.join("package.set.json"), set.to_bytes().unwrap()).unwrap();
        for share in shares {
            fs::write(folder.join(format!("package.{}.share.json", share.custodian())), share.to_bytes().unwrap())
                .unwrap();
        }
        move || fs::read_dir(&folder).unwrap().count()
    };
    let (doomed, kept) = (escrow("this", key), escrow("that", other));
    let backup = tempfile::tempdir().unwrap();
    copy_folder(&site.dir, &backup.path().join("site"));
    let count = passages(site, "compartment/cryptography");
    assert_ne!(count, "0");
    let destroy = |more: &[&str]| {
        let order = ["destroy", "compartment/cryptography", "--confirm-passages", &count];
        office.keys(&[&order, more].concat())
    };
    let refused = destroy(&[]);
    assert!(refused.text.contains("needs 2 custodians"), "{}", refused.text);
    refused.expect(UNVERIFIED);
    let wrong = office
        .approved(&format!("destroy --class compartment --name compartment/cryptography --key {other}"), "wrong.json");
    let refused = destroy(&["--approval", &wrong]);
    assert!(refused.text.contains("another key"), "{}", refused.text);
    refused.expect(UNVERIFIED);
    let good = office
        .approved(&format!("destroy --class compartment --name compartment/cryptography --key {key}"), "good.json");
    // Not more than was confirmed.
    let order = ["destroy", "compartment/cryptography", "--confirm-passages", "1", "--approval", &good];
    office.keys(&order).expect(2);
    assert_eq!(state(site)["compartments"], before["compartments"]);

    let done = destroy(&["--approval", &good]).expect(0);
    let certificate = &done["certificate"];
    assert_eq!(certificate["key"]["id"], key);
    assert_eq!(certificate["users"], json!(["ana", "carla"]));
    let proofs = certificate["proofs"].to_string();
    for proof in [
        "old handle is invalid",
        "an operation begun before is dead",
        "old ciphertext does not open",
        &format!("a search by CKA_ID {key} finds nothing in token"),
        "old backup: the key of user ana no longer unwraps",
        "old backup: nothing opens the collection's sealed secrets",
    ] {
        assert!(proofs.contains(proof), "{proof}: {proofs}");
    }
    assert_eq!((doomed(), kept(), certificate["deleted"].as_array().unwrap().len()), (0, 4, 4));
    let after = state(site);
    assert!(after["compartments"].get("cryptography").is_none() && after["users"].get("ana").is_none());
    assert!(!fs::read_to_string(site.dir.join("site.toml")).unwrap().contains("[compartments.cryptography]"));
    site.casemate(&["audit", "verify"]).expect(0);
    assert!(site.records().iter().any(|record| record["action"] == "key-destroyed"));
    // Whoever held another compartment goes on, and the others get new keys for what is left.
    assert!(served(site, "ben") && !served(site, "ana"));
    // The certificate counts with two custodians, as it was signed.
    let file = done["file"].as_str().unwrap();
    assert!(fs::read_to_string(file.replace(".json", ".txt")).unwrap().starts_with("CERTIFICATE OF DESTRUCTION"));
    let verify = || office.desk.custodian(&format!("certify {file}"), false);
    assert!(verify().text.contains("0 of 2 custodians signed"));
    let certify = |name: &str| {
        office.desk.custodian(&format!("certify {file} --as {name} --token {name} --pin-file @{name}.pin --yes"), true)
    };
    certify("ana").expect(0);
    assert_ne!(certify("ana").code, 0, "twice");
    assert_ne!(certify("rita").code, 0, "no custodian");
    assert!(verify().text.contains("1 of 2 custodians signed"));
    certify("carla").expect(0);
    assert_eq!(verify().expect(0)["signers"][1]["name"], "carla");

    // Everything of the folder but the token, put back.
    for name in ["state.json", "state.floor", "site.toml", "store", "gate", "users"] {
        let (from, to) = (backup.path().join("site").join(name), site.dir.join(name));
        let keep = office.desk.path(&format!("after-{name}"));
        fs::rename(&to, &keep).unwrap();
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
    assert!(!served(site, "ana") && !served(site, "carla"));
}

#[test]
fn kill_9_at_any_moment_of_a_destruction_is_finished_by_the_same_command() {
    let (mut killed_begun, mut killed_late) = (0, 0);
    for round in 0..14u64 {
        let site = site::bare();
        let before = state(&site);
        let key = before["compartments"]["cryptography"]["key"]["id"].as_str().unwrap().to_owned();
        let count = passages(&site, "compartment/cryptography");
        let order = ["keys", "destroy", "compartment/cryptography", "--confirm-passages", &count];
        let mut child = site.command(&order).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Until the moment that is wanted: the plan is written, or a while after.
        let plan = site.dir.join("destruction.json");
        let mut ended = false;
        while !plan.exists() && !ended {
            ended = child.try_wait().unwrap().is_some();
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(round * round));
        // It may have ended.
        let _ = child.kill();
        child.wait().unwrap();
        if plan.exists() {
            killed_begun += 1;
            let committed = state(&site)["compartments"].get("cryptography").is_none();
            killed_late += u32::from(committed);
            // Neither altered nor for something else.
            let written = fs::read(&plan).unwrap();
            let altered = String::from_utf8(written.clone()).unwrap().replace("cryptography", "engineering");
            fs::write(&plan, altered).unwrap();
            site.casemate(&order).expect(UNVERIFIED);
            fs::write(&plan, written).unwrap();
            let other = site.casemate(&["keys", "destroy", "compartment/engineering", "--confirm-passages", "0"]);
            assert!(other.code == 2 && other.text.contains("was cut off"), "{}", other.text);
            let done = site.casemate(&["keys", "destroy", "compartment/cryptography"]).expect(0);
            assert_eq!(done["certificate"]["key"]["id"], key);
            assert_eq!(done["certificate"]["rehearsal"], true);
        }
        assert!(!plan.exists());
        let after = state(&site);
        assert_eq!((after["compartments"].get("cryptography"), &after["doomed"]), (None, &json!([])), "round {round}");
        assert!(site.dir.join(format!("custody/destroyed/{key}.json")).exists(), "round {round}");
        site.casemate(&["audit", "verify"]).expect(0);
    }
    assert!(
        killed_begun > 2 && killed_late > 0,
        "{killed_begun} kills under way, {killed_late} of them after the commit"
    );
}

#[test]
fn destruction_on_a_pair_leaves_the_key_in_neither_token() {
    let site = site::pair("embedded");
    let key = state(&site)["compartments"]["cryptography"]["key"]["id"].as_str().unwrap().to_owned();
    let count = passages(&site, "compartment/cryptography");
    let done = site.casemate(&["keys", "destroy", "compartment/cryptography", "--confirm-passages", &count]).expect(0);
    let proofs = done["certificate"]["proofs"].to_string();
    assert_eq!(proofs.matches(&format!("a search by CKA_ID {key} finds nothing in token")).count(), 2, "{proofs}");
    assert_eq!(done["certificate"]["tokens"].as_array().unwrap().len(), 2);
    assert!(served(&site, "ben"));
    // A remade compartment of the same name is a new one.
    site.casemate(&[
        "keys",
        "add-compartment",
        "cryptography",
        "--clearance",
        "secret",
        "--department",
        "cryptography",
    ])
    .expect(0);
    let issued = site.casemate(&["keys", "issue", "--all"]);
    assert_eq!(issued.code, 0, "{}", issued.text);
}

/// Every step of a compartment's destruction is the last one of a process, once.
#[test]
fn kill_9_at_every_step_of_a_destruction_is_finished_by_the_same_command() {
    let made = site::bare();
    every_step(&made, "rename unlink fdatasync", 0);
}

/// As above over two tokens: what the killed process left in one of them is finished in both by the next process.
#[test]
fn kill_9_at_every_step_of_a_destruction_on_a_pair_is_finished_in_both_tokens() {
    let made = site::bare_pair("embedded");
    every_step(&made, "rename unlink", 2);
}

fn every_step(made: &Site, calls: &str, tokens: usize) {
    let before = state(made);
    let key = before["compartments"]["cryptography"]["key"]["id"].as_str().unwrap().to_owned();
    let order = ["keys", "destroy", "compartment/cryptography", "--confirm-passages", "0"];
    let (mut steps, mut at) = (Vec::new(), 0);
    loop {
        at += 1;
        let site = made.copy();
        let pulled = plug::pull(&site, &order, calls, at);
        if !pulled.killed {
            break;
        }
        steps.push(pulled.step);
        // Nothing that was destroyed half can be used, and nothing else is lost.
        let half = state(&site);
        let gone = half["compartments"].get("cryptography").is_none();
        let listed = site.casemate(&["keys", "list"]).expect(0);
        assert_eq!(listed["keys"].get("compartment/cryptography").is_none(), gone, "{at}: {steps:?}");
        assert!(listed["keys"].get("compartment/engineering").is_some(), "{at}");
        let done = site.casemate(&order);
        // The last step is the plan's removal: then it is finished already.
        if done.code != 0 {
            assert!(
                done.text.contains("has no key") && !site.dir.join("destruction.json").exists(),
                "{at}: {}",
                done.text
            );
        }
        let after = state(&site);
        assert_eq!(
            (after["compartments"].get("cryptography"), &after["doomed"]),
            (None, &json!([])),
            "{at}: {steps:?}"
        );
        assert!(after["users"].get("ben").is_some() && after["users"].get("carla").is_none(), "{at}");
        let certificate = site.dir.join(format!("custody/destroyed/{key}.txt"));
        let certificate = fs::read_to_string(certificate).unwrap();
        assert!(certificate.matches("finds nothing in token").count() >= tokens.max(1) * 2, "{at}: {certificate}");
        assert!(!site.dir.join("destruction.json").exists(), "{at}");
        site.casemate(&["audit", "verify"]).expect(0);
    }
    let came = |name: &str| steps.iter().any(|step| step.contains(name));
    for step in ["/destruction.json", "/site.toml", "/state.json", "/state.floor", ".txt", "unlink /destruction.json"] {
        assert!(came(step), "no kill before {step}: {steps:?}");
    }
    println!("{} steps", steps.len());
}
