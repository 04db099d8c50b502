//! Somebody who can write to the site's disk: every change is refused, and named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_audit::{VerifyError, verify_dir};
use serde_json::json;

use crate::serve::{Served, Server};
use crate::site::{self, Site, copy_folder, files, passage, text};

const QUESTION: &str = "How does an authenticated cipher protect the integrity of a message?";
const DENIED: i32 = 3;
const UNVERIFIED: i32 = 4;

/// Asks ana's question and insists on a denial because of the store; returns what the operator is told.
#[track_caller]
fn store_denial(site: &Site) -> String {
    let reply = site.ask("ana", QUESTION).expect(DENIED);
    assert_eq!(reply["outcome"]["reason"], "host:store-failed", "{reply}");
    let plain = site.plain(&["ask", QUESTION, "--as", "ana"]);
    let operator = plain.lines().find_map(|line| line.trim().strip_prefix("operator: ")).expect(&plain).to_owned();
    // The user learns that something is wrong, and not what; the operator's line stands apart.
    let told = reply["outcome"].to_string();
    assert!(!told.contains(&operator) && !told.contains("group"), "{reply}");
    assert_eq!(without_ids(reply["operator"].as_str().unwrap_or_default()), without_ids(&operator), "{reply}");
    operator
}

/// Each search draws its decoys anew, so of several bad passages another one may be met first.
fn without_ids(message: &str) -> String {
    let id = |word: &&str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    message.split(' ').filter(|word| !id(word)).collect::<Vec<_>>().join(" ")
}

/// Changes the entries of the store whose keys begin with `prefix`, with the database's own checksums made good.
fn alter(site: &Site, prefix: &[u8], change: impl Fn(&mut Vec<(sled::IVec, Vec<u8>)>)) {
    let store = sled::open(site.dir.join("store")).unwrap();
    let mut entries: Vec<(sled::IVec, Vec<u8>)> =
        store.scan_prefix(prefix).map(Result::unwrap).map(|(key, value)| (key, value.to_vec())).collect();
    assert!(!entries.is_empty());
    change(&mut entries);
    for (key, value) in entries {
        store.insert(key, value).unwrap();
    }
    store.flush().unwrap();
}

#[test]
fn altered_group_is_named() {
    let site = site::copy();
    alter(&site, b"gcryptography\0", |entries| {
        let middle = entries[0].1.len() / 2;
        entries[0].1[middle] ^= 1;
    });
    let message = store_denial(&site);
    assert!(message.contains("cryptography") && message.contains("group 0"), "{message}");
}

#[test]
fn altered_passage_is_named() {
    let site = site::copy();
    alter(&site, b"pcryptography\0", |entries| {
        for (_, value) in entries {
            *value.last_mut().unwrap() ^= 1;
        }
    });
    let message = store_denial(&site);
    assert!(message.contains("passage") && message.contains("cryptography"), "{message}");
}

#[test]
fn passages_that_trade_places_are_refused() {
    for kind in [b'p', b's'] {
        let site = site::copy();
        alter(&site, &[&[kind], b"cryptography\0".as_slice()].concat(), |entries| {
            let mut values: Vec<Vec<u8>> = entries.iter().map(|(_, value)| value.clone()).collect();
            values.rotate_left(1);
            for (entry, value) in entries.iter_mut().zip(values) {
                entry.1 = value;
            }
        });
        let message = store_denial(&site);
        assert!(message.contains("cryptography"), "{message}");
    }
}

#[test]
fn store_rolled_back_to_an_old_copy_is_refused() {
    let site = site::copy();
    site.ingest(&[passage("new", "New", "A passage that was added after the old copy was made.")]);
    site.ask("ana", QUESTION).expect(0);
    fs::remove_dir_all(site.dir.join("store")).unwrap();
    copy_folder(&site::shared().dir.join("store"), &site.dir.join("store"));
    let message = store_denial(&site);
    assert!(message.contains("engineering") && message.contains("old copy"), "{message}");
}

#[test]
fn old_passages_put_back_are_refused() {
    let site = site::copy();
    let kept = site.dir.with_file_name("kept");
    copy_folder(&site.dir.join("store"), &kept);
    site.ingest(&[passage("Backups", "Backups", "Backups are written to a glass archive in the lighthouse.")]);
    let old = sled::open(kept).unwrap();
    alter(&site, b"pengineering\0", |entries| {
        for (key, value) in entries {
            // What was not there is left as it is.
            if let Some(old) = old.get(key).unwrap() {
                *value = old.to_vec();
            }
        }
    });
    let message = store_denial(&site);
    assert!(message.contains("passage") && message.contains("old copy was put back"), "{message}");
}

/// The store and the floor that is kept apart from it, both as they were: the log has seen a later version.
#[test]
fn store_and_its_floor_put_back_together_are_refused() {
    let site = site::copy();
    let kept = site.dir.with_file_name("kept");
    for folder in ["store", "gate"] {
        copy_folder(&site.dir.join(folder), &kept.join(folder));
    }
    site.ingest(&[passage("Backups", "Backups", "Backups are written to a glass archive in the lighthouse.")]);
    for folder in ["store", "gate"] {
        fs::remove_dir_all(site.dir.join(folder)).unwrap();
        copy_folder(&kept.join(folder), &site.dir.join(folder));
    }
    let message = store_denial(&site);
    assert!(message.contains("old copy was put back"), "{message}");
    fs::remove_file(site.dir.join("change.standing")).unwrap();
    assert!(store_denial(&site).contains("old copy was put back"));
}

/// Two versions of one group: had canaries new names, those that stay would be documents for certain.
#[test]
fn store_cannot_tell_canaries_by_the_ids_that_change() {
    let site = site::copy();
    let ids = || -> BTreeSet<Vec<u8>> {
        let store = sled::open(site.dir.join("store")).unwrap();
        store.scan_prefix(b"pengineering\0").map(|entry| entry.unwrap().0.to_vec()).collect()
    };
    let before = ids();
    site.ingest(&[passage("one", "One", "A passage that has the group written anew.")]);
    let after = ids();
    assert!(
        before.len() > 4 && after.is_superset(&before),
        "{} of {} ids stayed",
        before.intersection(&after).count(),
        before.len()
    );
    assert_eq!(after.len(), before.len() + 1);
}

#[test]
fn version_that_the_store_drew_before_is_refused() {
    let site = site::copy();
    site.ingest(&[passage("one", "One", "A passage that raises the version.")]);
    for number in [b"cengineering\0", b"hengineering\0"] {
        alter(&site, number, |entries| entries[0].1[..8].fill(0));
    }
    let path = site.dir.with_file_name("more.jsonl");
    fs::write(&path, passage("two", "Two", "A passage under an old version.").to_string()).unwrap();
    let ended = site.casemate(&["ingest", text(&path), "--as", "carla"]);
    assert!(ended.code != 0 && ended.text.contains("drew version 1, which is not new"), "{}", ended.text);
}

/// The store answers that it has no such passage, so that it is not deleted.
#[test]
fn hidden_passage_cannot_escape_its_deletion() {
    let site = site::copy();
    site.ingest(&[passage("doomed", "Doomed", "A passage that somebody wants to keep.")]);
    let store = sled::open(site.dir.join("store")).unwrap();
    let entries: Vec<_> = store.scan_prefix(b"pengineering\0").map(Result::unwrap).collect();
    let delete = ["ingest", "--as", "carla", "--compartment", "engineering", "--delete", "doomed"];
    for (key, _) in &entries {
        store.remove(key).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let ended = site.casemate(&delete);
    assert!(ended.code == 4 && ended.text.contains("lost the document"), "{}", ended.text);
    // Put back, it is deleted.
    let store = sled::open(site.dir.join("store")).unwrap();
    for (key, value) in entries {
        store.insert(key, value).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    assert_eq!(site.casemate(&delete).expect(0)["deleted"], 1);
}

#[test]
fn store_that_was_taken_away_is_refused() {
    let site = site::copy();
    fs::remove_dir_all(site.dir.join("store")).unwrap();
    assert!(store_denial(&site).contains("old copy"));
}

#[test]
fn fault_in_the_store_is_not_told_over_http() {
    let site = site::copy();
    alter(&site, b"gcryptography\0", |entries| entries[0].1[100] ^= 1);
    let served = Served::of(site);
    let answer = served.post("/v1/ask", "ana", &json!({ "question": QUESTION }));
    assert_eq!(answer.body["outcome"]["reason"], "host:store-failed", "{answer:?}");
    let text = answer.body.to_string();
    assert!(!text.contains("group") && !text.contains("export"), "{text}");
}

#[test]
fn active_bundle_altered_by_one_byte_is_refused_by_name() {
    let site = site::copy();
    let list = site.casemate(&["plugin", "list"]).expect(0);
    for (name, entry) in list["entries"].as_object().unwrap() {
        let path = site.dir.join(entry["file"].as_str().unwrap());
        let good = fs::read(&path).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            let error = site.ask("ana", QUESTION).expect(UNVERIFIED)["error"].to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains("altered"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = site.ask("ana", QUESTION).expect(UNVERIFIED)["error"].to_string();
        assert!(error.contains(&format!("`{name}`")) && error.contains("missing"), "{error}");
        fs::write(&path, good).unwrap();
    }
    site.ask("ana", QUESTION).expect(0);
}

#[test]
fn signatures_that_expire_while_the_site_is_served_are_no_signatures() {
    let site = site::bare();
    for plugin in ["clearance", "disclosure"] {
        let bundle = site::shared().dir.with_file_name(format!("{plugin}.casemate"));
        site.casemate(&["plugin", "load", text(&bundle)]).expect(0);
    }
    let manifest = "name = \"brief\"\nversion = \"0.1.0\"\nworld = \"policy\"\nsummary = \"Is soon over.\"\n\
                    capabilities = []\n";
    site.load(&crate::guest::component("plugins/disclosure", ""), manifest, 15);
    let served = Served::of(site);
    let evaluate = || served.post("/v1/policy/evaluate", "ben", &json!({ "text": "How do I book a room?" })).body;
    let before = evaluate();
    assert_eq!(before["decision"]["verdict"], "allow", "{before}");
    let mut last = before;
    for _ in 0..120 {
        std::thread::sleep(std::time::Duration::from_millis(500));
        last = evaluate();
        if last["decision"]["verdict"] == "deny" {
            break;
        }
    }
    assert_eq!(last["decision"]["reason"], "host:no-policy", "{last}");
}

#[test]
fn bundle_with_one_signature_is_refused_and_recorded() {
    let site = site::bare();
    let bundle = site.dir.with_file_name("one.casemate");
    let source = crate::guest::root().join("plugins/clearance");
    site.casemate(&["bundle", "build", text(&source), "--out", text(&bundle)]).expect(0);
    let key = site.dir.join("approvers/ana.key");
    // Signing twice is still one person.
    for _ in 0..2 {
        site.casemate(&["bundle", "sign", text(&bundle), "--key", text(&key)]).expect(0);
    }
    site.casemate(&["bundle", "verify", text(&bundle)]).expect(UNVERIFIED);
    site.casemate(&["plugin", "load", text(&bundle)]).expect(UNVERIFIED);
    let record = site.casemate(&["audit", "show", "--last", "1"]).expect(0);
    assert_eq!((record["event"].as_str(), record["action"].as_str()), (Some("bundle"), Some("refused")));
    assert!(site.casemate(&["plugin", "list"]).expect(0)["entries"].as_object().unwrap().is_empty());
}

/// The last bundle of entries of a log with less than 256 records.
fn entries(site: &Site) -> PathBuf {
    let folder = site.dir.join("log/tile/entries");
    let width = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
    let last = files(&folder).into_iter().filter(|path| text(path).contains("000.p")).max_by_key(|path| width(path));
    last.expect("the log has less than 256 records")
}

/// Record of each byte of a bundle of entries (C2SP tlog-tiles: length in two bytes, then the record); none for lengths.
fn records(bundle: &[u8]) -> Vec<Option<u64>> {
    let (mut owners, mut index) = (Vec::new(), 0);
    while let Some(length) = bundle.get(owners.len()..owners.len() + 2) {
        let length = u16::from_be_bytes([length[0], length[1]]).into();
        owners.extend([None, None]);
        owners.extend(std::iter::repeat_n(Some(index), length));
        index += 1;
    }
    assert_eq!(owners.len(), bundle.len());
    owners
}

#[test]
fn log_altered_by_one_byte_names_the_record() {
    let site = site::copy();
    let log = site.dir.join("log");
    let key = fs::read_to_string(site.dir.join("log.vkey")).unwrap();
    let path = entries(&site);
    let good = fs::read(&path).unwrap();
    verify_dir(&log, key.trim(), |_| {}).unwrap();
    for (at, owner) in records(&good).into_iter().enumerate().step_by(53) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let error = verify_dir(&log, key.trim(), |_| {}).expect_err("an altered log verified");
        if let Some(owner) = owner {
            assert!(matches!(error, VerifyError::BadEntry { index } if index == owner), "byte {at}: {error}");
        }
    }
    let owners = records(&good);
    let at = owners.len() / 2;
    let owner = owners[at..].iter().flatten().next().unwrap();
    let mut bad = good.clone();
    bad[owners.iter().position(|each| each == &Some(*owner)).unwrap()] ^= 1;
    fs::write(&path, bad).unwrap();
    let error = site.casemate(&["audit", "verify"]).expect(UNVERIFIED)["error"].to_string();
    assert!(error.contains(&format!("record {owner} ")), "{error}");
    fs::write(&path, good).unwrap();
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn truncated_log_is_refused_and_nobody_is_answered() {
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    type Attack<'a> = (&'a str, &'a dyn Fn(&Path));
    let attacks: [Attack<'_>; 4] = [("entries", &cut), ("entries", &gone), ("checkpoint", &gone), ("wal", &gone)];
    for (what, attack) in attacks {
        let site = site::copy();
        attack(&if what == "entries" { entries(&site) } else { site.dir.join("log").join(what) });
        let error = site.casemate(&["audit", "verify"]).expect(UNVERIFIED)["error"].to_string();
        let named = ["record", "checkpoint", "write-ahead"].iter().any(|part| error.contains(part));
        assert!(named, "{what}: {error}");
        site.ask("ana", QUESTION).expect(UNVERIFIED);
    }
}

#[test]
fn log_of_another_site_is_refused() {
    let site = site::copy();
    let other = site::bare();
    // The same keys and another history: the site before anything was loaded, which then took another turn.
    other.ask("ana", QUESTION).expect(DENIED);
    let receipt = site.dir.with_file_name("receipt.txt");
    site.casemate(&["ask", QUESTION, "--as", "ana", "--receipt", text(&receipt)]).expect(0);
    let foreign = fs::read_to_string(other.dir.join("log/checkpoint")).unwrap();
    fs::write(site.dir.join("log/checkpoint"), foreign).unwrap();
    site.casemate(&["audit", "verify"]).expect(UNVERIFIED);
}

#[test]
fn second_process_on_the_same_site_is_refused() {
    let site = site::copy();
    let server = Server::start(&site);
    let ended = site.ask("ana", QUESTION);
    assert_ne!(ended.code, 0, "{}", ended.text);
    assert_ne!(ended.code, DENIED, "{}", ended.text);
    assert!(ended.json["outcome"].is_null() && ended.json["error"].is_string(), "{}", ended.text);
    // Reading needs no lock.
    site.casemate(&["audit", "verify"]).expect(0);
    drop(server);
    site.ask("ana", QUESTION).expect(0);
}
