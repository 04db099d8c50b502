//! The whole flow through the `casemate` binary: who is answered, who is denied, and what stays in the dark.

use std::fs;
use std::path::Path;

use casemate_audit::verify_receipt;
use casemate_vectors::{SledStore, VectorStore};
use serde_json::json;

use crate::corpus::{ADDRESS, CARD, IBAN, PLANTED};
use crate::site::{self, Site, compartments, files, passage, text, titles};

const RESTRICTED: &str = "How does an authenticated cipher protect the integrity of a message?";
const DENIED: i32 = 3;
const UNVERIFIED: i32 = 4;
const UNAUTHENTICATED: i32 = 5;

#[test]
fn cleared_user_gets_an_answer_with_citations() {
    let site = site::copy();
    let reply = site.ask("ana", RESTRICTED).expect(0);
    assert_eq!(reply["outcome"]["outcome"], "answered");
    assert!(titles(&reply).contains(&"Authenticated encryption".to_owned()), "{reply}");
    let answer = reply["outcome"]["text"].as_str().unwrap();
    assert!(answer.contains("[1]") && answer.contains("integrity"), "{answer}");
    assert_eq!(reply["rehearsal"], true);
}

#[test]
fn uncleared_user_is_denied_need_to_know() {
    let site = site::copy();
    let reply = site.ask("ben", RESTRICTED).expect(DENIED);
    assert_eq!(reply["outcome"]["outcome"], "denied");
    assert_eq!(reply["outcome"]["reason"], "need-to-know");
    assert_eq!(reply["outcome"]["policy"], "clearance");
    assert_eq!(reply["outcome"]["phase"], "request");
    assert!(reply["outcome"]["text"].is_null());
}

#[test]
fn no_passage_of_a_foreign_compartment_ever_appears() {
    let site = site::copy();
    for (question, word) in [
        ("What happens when the authentication tag does not match?", "tag"),
        ("What does an inclusion proof of a Merkle tree show?", "inclusion"),
        ("Why must a nonce be used once with a key?", "nonce"),
        ("How is a password hashed with a salt?", "salt"),
    ] {
        assert!(compartments(&site.ask("ana", question).expect(0)).contains(&"cryptography".to_owned()), "{question}");
        let reply = site.ask("ben", question).expect(0);
        let answer = reply["outcome"]["text"].as_str().unwrap().to_lowercase();
        assert!(compartments(&reply).iter().all(|compartment| compartment == "engineering"), "{question}: {reply}");
        assert!(!answer.split(|c: char| !c.is_alphanumeric()).any(|each| each == word), "{question}: {answer}");
        // Nothing had to be withheld for it: without the key there is nothing to find.
        assert!(reply["withheld"]["need-to-know"].is_null(), "{question}: {reply}");
    }
}

#[test]
fn no_read_up_within_a_compartment() {
    let site = site::copy();
    let question = "When is the frigate overhaul in the dry dock schedule?";
    assert!(titles(&site.ask("ana", question).expect(0)).contains(&"Dry dock schedule".to_owned()));
    let reply = site.ask("ben", question).expect(0);
    assert!(!titles(&reply).contains(&"Dry dock schedule".to_owned()), "{reply}");
    assert!(!reply["outcome"]["text"].as_str().unwrap().contains("frigate"), "{reply}");
    assert_eq!(reply["withheld"], json!({ "no-read-up": 1 }));
}

#[test]
fn identifiers_are_masked_and_equal_values_stay_equal() {
    let site = site::copy();
    let reply = site.ask("ben", "Where do licence enquiries and licence invoices go by e-mail?").expect(0);
    let cited = titles(&reply);
    assert!(
        cited.contains(&"Licence enquiries".to_owned()) && cited.contains(&"Licence invoices".to_owned()),
        "{reply}"
    );
    let answer = reply["outcome"]["text"].as_str().unwrap();
    assert!(!answer.contains("harbour") && !answer.contains("licences@"), "{answer}");
    let masked: Vec<&str> = answer.split_whitespace().filter(|word| word.contains('@')).collect();
    assert!(masked.len() == 2 && masked[0] == masked[1], "{answer}");
    // The format is preserved: an address of the same length with the same separators.
    assert_eq!(masked[0].len(), ADDRESS.len());
    assert_eq!(masked[0].find('@'), ADDRESS.find('@'));
    assert!(reply["outcome"]["masked"].as_u64().unwrap() >= 2, "{reply}");

    for (question, title, value) in [
        ("Which company card are travel expenses charged to?", "Travel expenses", CARD),
        ("From which account do suppliers receive their payments?", "Supplier payments", IBAN),
    ] {
        let reply = site.ask("ben", question).expect(0);
        let answer = reply["outcome"]["text"].as_str().unwrap();
        assert!(titles(&reply).contains(&title.to_owned()), "{reply}");
        assert!(!answer.contains(value) && !answer.contains(&value[5..14]), "{answer}");
        assert!(reply["outcome"]["masked"].as_u64().unwrap() >= 1, "{reply}");
    }
}

#[test]
fn identifiers_in_titles_and_sources_are_masked() {
    let site = site::copy();
    let mut line =
        passage("pump", "Ask pumps@harbour-works.example", "The bilge pump of the ferry is tested on Mondays.");
    line["source"] = json!("mail from keeper@harbour-works.example");
    site.ingest(&[line]);
    let reply = site.ask("ben", "When is the bilge pump of the ferry tested?").expect(0);
    let shown = reply.to_string();
    assert!(shown.contains("Ask ") && shown.contains("mail from "), "the passage is cited: {reply}");
    assert!(!shown.contains("pumps@") && !shown.contains("keeper@") && !shown.contains("harbour"), "{reply}");
}

#[test]
fn every_use_of_a_site_key_for_a_request_is_in_the_log() {
    let site = site::copy();
    let before = site.records().len();
    site.casemate(&["ask", "What does a pool do?", "--as", "ben", "--filter", "licence=MIT"]).expect(0);
    site.ask("ben", "Where do licence enquiries and licence invoices go by e-mail?").expect(0);
    let used: Vec<String> = site.records()[before..]
        .iter()
        .filter(|record| record["event"] == "key-operation" && record["operation"] == "encrypt")
        .map(|record| record["result"].as_str().unwrap().to_owned())
        .collect();
    assert!(used.iter().any(|what| what == "a filter of 1 fields on `engineering`"), "{used:?}");
    let spans = |what: &String| what.strip_suffix(" spans").is_some_and(|n| n.parse::<u32>().is_ok());
    assert!(used.iter().any(spans), "{used:?}");
}

#[test]
fn a_passage_masked_on_the_way_to_the_agent_is_recorded_first() {
    let site = site_with_hostile_policy("enforce", "retrieval", "mask-first");
    site.ask("ben", "What does a pool do?").expect(0);
    let records = site.records();
    let masked = records.iter().position(|record| record["result"] == "1 spans of a passage").unwrap();
    assert_eq!(records[masked]["operation"], "encrypt");
    let answered = records.iter().rposition(|record| record["event"] == "answer").unwrap();
    assert!(masked < answered);
}

#[test]
fn a_change_of_a_collection_is_recorded_before_and_after() {
    let site = site::copy();
    let before = site.records().len();
    site.ingest(&[passage("new", "New", "One more passage.")]);
    site.casemate(&["ingest", "--as", "carla", "--compartment", "engineering", "--delete", "new"]).expect(0);
    let records = site.records();
    let made: Vec<(&str, &str)> = records[before..]
        .iter()
        .filter_map(|record| {
            Some((record["event"].as_str()?, record["action"].as_str().or(record["operation"].as_str())?))
        })
        .filter(|(event, action)| *event != "session" && *action != "unwrap")
        .collect();
    let change = [("key-operation", "encrypt"), ("ingest", "begun"), ("ingest", "done")];
    assert_eq!(made, [change, change].concat());
}

/// In a site where nothing was ingested there is no embedder, so the capability `inference` fails.
fn site_with_a_policy_that_ignores_a_fault(mode: &str) -> Site {
    let site = site::bare();
    let model = model_line(&site);
    site.configure(&model, "");
    let entry = format!("{{ plugin = \"hostile\", mode = \"{mode}\" }},\n]");
    site.configure("]\nagent", &format!("    {entry}\nagent"));
    for plugin in ["clearance", "disclosure"] {
        let bundle = site::shared().dir.with_file_name(format!("{plugin}.casemate"));
        site.casemate(&["plugin", "load", text(&bundle)]).expect(0);
    }
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\nworld = \"policy\"\nsummary = \"Attacks.\"\n\
                    capabilities = [\"audit\", \"clock\", \"hsm\", \"inference\", \"kv\", \"log\", \"random\"]\n\
                    [limits]\ntime-ms = 5000\n";
    site.load(&crate::guest::component("tests/hostile", ""), manifest, 3600);
    site
}

/// The line of `site.toml` that names the sentence model, if there is one.
fn model_line(site: &Site) -> String {
    let toml = fs::read_to_string(site.dir.join("site.toml")).unwrap();
    let line = toml.lines().find(|line| line.starts_with("model-dir"));
    line.map_or_else(|| "[embedding]".to_owned(), str::to_owned)
}

#[test]
fn an_enforced_policy_that_ignores_a_failed_capability_does_not_allow() {
    let site = site_with_a_policy_that_ignores_a_fault("enforce");
    let evaluate = ["policy", "eval", "--text", "Anything?", "--as", "ana", "--action", "deaf"];
    let denied = site.casemate(&evaluate).expect(DENIED);
    assert_eq!(denied["decision"]["reason"], "host:store-failed", "{denied}");
    assert_eq!(denied["policy"], "hostile");
}

#[test]
fn a_failed_capability_of_a_policy_that_monitors_ends_nothing() {
    let site = site_with_a_policy_that_ignores_a_fault("monitor");
    let evaluate = ["policy", "eval", "--text", "Anything?", "--as", "ana", "--action", "deaf"];
    assert_eq!(site.casemate(&evaluate).expect(0)["decision"]["verdict"], "allow");
    // What it would have meant is in the log.
    let monitored = site.records().into_iter().find(|record| record["mode"] == "monitor").unwrap();
    assert_eq!((&monitored["verdict"], &monitored["reason"]), (&json!("deny"), &json!("host:store-failed")));
}

/// A site with documents in which the hostile policy carries out one attack in one phase, beside the usual plugins.
fn site_with_hostile_policy(mode: &str, phase: &str, attack: &str) -> Site {
    let site = site::copy();
    site.configure("]\nagent", &format!("    {{ plugin = \"hostile\", mode = \"{mode}\" }},\n]\nagent"));
    let manifest = format!("{HOSTILE}phases = [\"{phase}\"]\n[limits]\ntime-ms = 5000\n");
    let settings = json!({ "attack": attack }).to_string();
    site.load_with(&crate::guest::component("tests/hostile", ""), &manifest, &settings, 3600);
    site
}

/// Everything that a policy may be granted; without limits and phases.
const HOSTILE: &str = "name = \"hostile\"\nversion = \"0.1.0\"\nworld = \"policy\"\nsummary = \"Attacks.\"\n\
                       capabilities = [\"audit\", \"clock\", \"hsm\", \"inference\", \"kv\", \"log\", \"random\"]\n";

/// Lets the agent's calls of `records` be put to the policies.
fn ask_about_records(site: &Site) {
    let manifest = fs::read_to_string(crate::guest::root().join("plugins/librarian/manifest.toml")).unwrap();
    let manifest = manifest.replace("[limits]", "ask-policy = [\"records\"]\n[limits]");
    let component = crate::guest::component("plugins/librarian", "");
    let settings = fs::read_to_string(crate::guest::root().join("plugins/librarian/settings.json")).unwrap();
    site.load_next(&component, &manifest, &settings, 2);
}

/// Breaks what plugins have in `kv`, so that reading it fails.
fn break_small_state(site: &Site) {
    let state = sled::open(site.dir.join("gate")).unwrap();
    let kv = state.open_tree("kv").unwrap();
    let keys: Vec<_> = kv.scan_prefix("plugin/hostile/").keys().map(Result::unwrap).collect();
    assert!(!keys.is_empty());
    for key in keys {
        kv.insert(key, b"no longer what was sealed").unwrap();
    }
    state.flush().unwrap();
}

/// The hostile policy remembers something, then cannot read it any more and allows all the same.
fn site_with_forgetful_policy(mode: &str, phase: &str) -> Site {
    let site = site_with_hostile_policy(mode, "request", "state");
    site.casemate(&["policy", "eval", "--text", "Remember me.", "--as", "ana"]).expect(0);
    let manifest = format!("{HOSTILE}phases = [\"{phase}\"]\n[limits]\ntime-ms = 5000\n");
    site.load_next(&crate::guest::component("tests/hostile", ""), &manifest, "{\"attack\":\"forgetful\"}", 2);
    break_small_state(&site);
    site
}

#[test]
fn an_action_that_a_policy_denies_is_not_carried_out() {
    let site = site_with_hostile_policy("enforce", "action", "echo");
    ask_about_records(&site);
    let reply = site.ask("ana", RESTRICTED).expect(0);
    assert!(titles(&reply).is_empty(), "{reply}");
    let denied = site.records().into_iter().find(|record| record["phase"] == "action").unwrap();
    assert_eq!((&denied["verdict"], &denied["policy"]), (&json!("deny"), &json!("hostile")));
}

#[test]
fn a_policy_has_its_capabilities_in_the_action_phase() {
    // `state` allows the first time, and denies once it remembers: it could not if `kv` were refused.
    let site = site_with_hostile_policy("enforce", "action", "state");
    ask_about_records(&site);
    assert!(!titles(&site.ask("ana", RESTRICTED).expect(0)).is_empty());
    assert!(titles(&site.ask("ana", RESTRICTED).expect(0)).is_empty());
}

#[test]
fn a_policy_that_could_not_be_told_allows_no_action() {
    let site = site_with_forgetful_policy("enforce", "action");
    ask_about_records(&site);
    let reply = site.ask("ana", RESTRICTED).expect(DENIED);
    assert_eq!(reply["outcome"]["reason"], "host:store-failed", "{reply}");
}

#[test]
fn a_fault_behind_a_policy_that_only_monitors_passages_ends_nothing() {
    let enforced = site_with_forgetful_policy("enforce", "retrieval");
    assert_eq!(enforced.ask("ana", RESTRICTED).expect(DENIED)["outcome"]["reason"], "host:store-failed");
    let monitored = site_with_forgetful_policy("monitor", "retrieval");
    assert!(!titles(&monitored.ask("ana", RESTRICTED).expect(0)).is_empty());
    let faults =
        monitored.records().iter().filter(|r| r["mode"] == "monitor" && r["reason"] == "host:store-failed").count();
    assert!(faults > 0);
}

#[test]
fn a_slow_policy_that_only_monitors_delays_nothing() {
    // It would run for five seconds a passage; the agent has five in all.
    let site = site_with_hostile_policy("monitor", "retrieval", "loop");
    assert!(!titles(&site.ask("ana", RESTRICTED).expect(0)).is_empty());
    let ended = site.records().iter().filter(|r| r["mode"] == "monitor" && r["reason"] == "host:deadline").count();
    assert!(ended > 0, "each run is recorded before the command ends");
}

#[test]
fn a_fault_is_told_to_the_operator_and_not_to_the_user() {
    let site = site_with_hostile_policy("enforce", "response", "trap");
    let reply = site.ask("ana", RESTRICTED).expect(DENIED);
    assert_eq!(reply["outcome"]["reason"], "host:trap");
    assert!(!reply["outcome"]["message"].as_str().unwrap().contains("wasm"), "{reply}");
    assert!(reply["operator"].as_str().unwrap().contains("trapped"), "{reply}");
}

#[test]
fn runs_of_agent_and_strategy_are_recorded() {
    let site = site::copy();
    let reply = site.ask("ana", RESTRICTED).expect(0);
    let runs: Vec<String> = site
        .records()
        .iter()
        .filter(|record| record["event"] == "run" && record["id"] == reply["id"])
        .map(|record| record["plugin"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(runs, ["nearest", "librarian"]);
}

#[test]
fn a_policy_named_twice_is_refused() {
    let site = site::copy();
    site.configure("]\nagent", "    { plugin = \"clearance\", mode = \"monitor\" },\n]\nagent");
    let ended = site.ask("ana", RESTRICTED);
    assert!(ended.code != 0 && ended.text.contains("names `clearance` twice"), "{}", ended.text);
}

#[test]
fn who_may_not_read_a_passage_may_not_replace_or_delete_it() {
    let site = site::copy();
    let mut secret = passage("dock", "Dry dock", "The dry dock opens its gate at night.");
    secret["label"] = json!("secret");
    site.ingest(&[secret.clone()]);
    let delete =
        |user: &str| site.casemate(&["ingest", "--as", user, "--compartment", "engineering", "--delete", "dock"]);
    let refused = delete("ben");
    assert!(refused.code != 0 && refused.text.contains("above the clearance of ben"), "{}", refused.text);
    let path = site.dir.with_file_name("dock.jsonl");
    for label in ["secret", "internal"] {
        secret["label"] = json!(label);
        fs::write(&path, secret.to_string()).unwrap();
        let refused = site.casemate(&["ingest", text(&path), "--as", "ben"]);
        assert!(refused.code != 0 && refused.text.contains("above the clearance of ben"), "{}", refused.text);
    }
    assert_eq!(delete("carla").expect(0)["deleted"], 1);
}

#[test]
fn a_failed_request_leaves_the_old_receipt() {
    let site = site::copy();
    let receipt = site.dir.with_file_name("receipt.txt");
    let ask = ["ask", "What does a pool do?", "--as", "ben", "--receipt", text(&receipt)];
    site.casemate(&ask).expect(0);
    let before = fs::read(&receipt).unwrap();
    let failed = site.casemate(&["ask", " ", "--as", "ben", "--receipt", text(&receipt)]);
    assert_ne!(failed.code, 0);
    assert_eq!(fs::read(&receipt).unwrap(), before);
    // Nothing else is left beside it, and the session of the failed command is closed in the log.
    let beside = fs::read_dir(receipt.parent().unwrap()).unwrap().flatten();
    assert!(!beside.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")));
    let last = site.records().pop().unwrap();
    assert_eq!((&last["event"], &last["action"]), (&json!("session"), &json!("closed")));
}

#[test]
fn an_expression_that_leaves_out_an_enforced_policy_is_refused() {
    let site = site::copy();
    site.configure("\"deny-overrides\"", "\"disclosure\"");
    let ended = site.ask("ana", RESTRICTED);
    assert!(ended.code != 0 && ended.text.contains("leaves out `clearance`"), "{}", ended.text);
    site.configure("\"disclosure\"\npolicies", "\"clearance && disclosure\"\npolicies");
    assert_eq!(site.ask("ben", RESTRICTED).expect(DENIED)["outcome"]["reason"], "need-to-know");
    assert!(!titles(&site.ask("ana", RESTRICTED).expect(0)).is_empty());
}

#[test]
fn filter_restricts() {
    let site = site::copy();
    let question = "What does a connection pool or a retry with backoff do?";
    assert!(titles(&site.ask("ben", question).expect(0)).contains(&"Connection pools".to_owned()));
    let filtered = site.casemate(&["ask", question, "--as", "ben", "--filter", "licence=BSD-3-Clause"]).expect(0);
    assert_eq!(titles(&filtered), ["Bloom filters"]);
    let nothing = site.casemate(&["ask", question, "--as", "ben", "--filter", "licence=none-such"]).expect(0);
    assert!(titles(&nothing).is_empty(), "{nothing}");
}

#[test]
fn receipt_verifies_and_no_altered_byte_of_it_does() {
    let site = site::copy();
    let receipt = site.dir.with_file_name("receipt.txt");
    site.casemate(&["ask", RESTRICTED, "--as", "ana", "--receipt", text(&receipt)]).expect(0);
    let verified = site.casemate(&["audit", "verify", "--receipt", text(&receipt)]).expect(0);
    assert_eq!(verified["verified"], true);
    assert_eq!(verified["record"]["event"], "answer");
    assert_eq!(verified["record"]["user"], "ana");

    let good = fs::read(&receipt).unwrap();
    let key = fs::read_to_string(site.dir.join("log.vkey")).unwrap();
    let verifies =
        |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|receipt| verify_receipt(receipt, key.trim()).is_ok());
    assert!(verifies(&good));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(!verifies(&bad), "byte {at} changed: {}", String::from_utf8_lossy(&bad));
    }
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&receipt, bad).unwrap();
    site.casemate(&["audit", "verify", "--receipt", text(&receipt)]).expect(UNVERIFIED);
}

#[test]
fn unknown_user_and_wrong_token_are_refused_and_recorded() {
    let site = site::copy();
    site.ask("mallory", RESTRICTED).expect(UNAUTHENTICATED);
    let refused = site.casemate(&["audit", "show", "--last", "1"]).expect(0);
    assert_eq!((&refused["event"], &refused["action"]), (&json!("session"), &json!("refused")));
    assert_eq!(refused["reason"], "host:unauthenticated");

    let path = site.dir.join("users/ana.token");
    let token = fs::read_to_string(&path).unwrap();
    let other = if token.starts_with('0') { "1" } else { "0" };
    for wrong in [String::new(), "0".repeat(64), format!("{other}{}", &token[1..]), token[1..].to_owned()] {
        fs::write(&path, wrong).unwrap();
        site.ask("ana", RESTRICTED).expect(UNAUTHENTICATED);
    }
    fs::write(&path, token).unwrap();
    site.ask("ana", RESTRICTED).expect(0);
}

#[test]
fn policy_evaluation_allows_and_denies_by_exit_code() {
    let site = site::copy();
    let evaluate = |user, text| site.casemate(&["policy", "eval", "--text", text, "--as", user]);
    assert_eq!(evaluate("ben", "How do I book a room?").expect(0)["decision"]["verdict"], "allow");
    assert_eq!(evaluate("ana", "Which cipher is it?").expect(0)["decision"]["verdict"], "allow");
    let denied = evaluate("ben", "Which cipher is it?").expect(DENIED);
    assert_eq!(denied["decision"]["reason"], "need-to-know");
    let blocked = evaluate("ana", "Show me the payroll.").expect(DENIED);
    assert_eq!(blocked["decision"]["reason"], "blocked-topic");
    // Transforming is allowing: the caller gets the obligations.
    let mail = ["policy", "eval", "--text", "Write to a@b.example", "--as", "ben", "--phase", "response"];
    assert_eq!(site.casemate(&mail).expect(0)["decision"]["verdict"], "transform");
}

#[test]
fn deleted_passage_is_not_cited_any_more() {
    let site = site::copy();
    let question = "What does a Bloom filter answer about an element of a set?";
    assert!(titles(&site.ask("ben", question).expect(0)).contains(&"Bloom filters".to_owned()));
    let delete = ["ingest", "--as", "carla", "--compartment", "engineering", "--delete", "Bloom filters"];
    assert_eq!(site.casemate(&delete).expect(0)["deleted"], 1);
    let reply = site.ask("ben", question).expect(0);
    assert!(!titles(&reply).contains(&"Bloom filters".to_owned()), "{reply}");
    assert!(!reply["outcome"]["text"].as_str().unwrap().contains("Bloom"), "{reply}");
    assert_eq!(site.casemate(&delete).expect(0)["deleted"], 0);
}

#[test]
fn ingesting_again_replaces_and_does_not_duplicate() {
    let site = site::copy();
    let before = documents(&site);
    let new = passage("Backups", "Backups", "Backups are written to a glass archive in the lighthouse.");
    let ingested = site.ingest(&[new]);
    assert_eq!((&ingested["added"], &ingested["replaced"]), (&json!(0), &json!(1)));
    assert_eq!(documents(&site), before);
    let reply = site.ask("ben", "Where are backups written?").expect(0);
    let answer = reply["outcome"]["text"].as_str().unwrap();
    assert!(answer.contains("lighthouse") && !answer.contains("tape"), "{answer}");
    assert_eq!(titles(&reply).iter().filter(|title| *title == "Backups").count(), 1);
}

#[test]
fn ingest_into_a_compartment_without_its_key_is_refused() {
    let site = site::copy();
    let path = site.dir.with_file_name("foreign.jsonl");
    let mut line = passage("x", "X", "A passage in somebody else's compartment.");
    line["compartment"] = json!("cryptography");
    fs::write(&path, line.to_string()).unwrap();
    let ended = site.casemate(&["ingest", text(&path), "--as", "ben"]);
    assert!(ended.code != 0 && ended.text.contains("ben holds no key"), "{}", ended.text);
}

#[test]
fn without_its_policies_a_site_denies_everything() {
    let site = site::bare();
    let evaluate =
        |site: &Site| site.casemate(&["policy", "eval", "--text", "Anything?", "--as", "ana"]).expect(DENIED);
    assert_eq!(evaluate(&site)["decision"]["reason"], "host:no-policy");
    let reply = site.ask("ana", "Anything?").expect(DENIED);
    assert_eq!(reply["outcome"]["reason"], "host:no-policy");
    assert!(reply["outcome"]["policy"].is_null());
}

#[test]
fn one_policy_of_two_is_none() {
    let site = site::bare();
    let clearance = site::shared().dir.with_file_name("clearance.casemate");
    site.casemate(&["plugin", "load", text(&clearance)]).expect(0);
    let ended = site.casemate(&["policy", "eval", "--text", "Anything?", "--as", "ana"]);
    assert_eq!(ended.expect(DENIED)["decision"]["reason"], "host:no-policy");
}

#[test]
fn no_file_of_the_site_holds_plaintext() {
    const ASKED: [&str; 2] = ["flugelhornist", "quokkazanzibar"];
    let site = site::copy();
    let reply = site.ask("ben", "Does the flugelhornist open the quokkazanzibar valve?").expect(0);
    assert!(reply["outcome"]["text"].as_str().unwrap().contains("quokkazanzibar"), "the passage is found: {reply}");
    site.ask("ben", "Does the flugelhornist know a cipher?").expect(DENIED);

    for word in PLANTED.iter().chain(&ASKED).chain(&[ADDRESS, CARD, "frigate", "upper sluice"]) {
        assert_eq!(holding(&site.dir, word), Vec::<String>::new(), "`{word}` is on disk in clear");
    }
    // The search itself finds what is there: users, reasons and compartments are in the log in clear.
    for word in ["need-to-know", "\"user\":\"ben\""] {
        assert!(holding(&site.dir, word).iter().any(|file| file.starts_with("log/")), "{word}");
    }
}

/// Files below `folder` that hold `word`.
fn holding(folder: &Path, word: &str) -> Vec<String> {
    let holds = |path: &Path| fs::read(path).unwrap().windows(word.len()).any(|window| window == word.as_bytes());
    let found = files(folder).into_iter().filter(|path| holds(path));
    found.map(|path| text(path.strip_prefix(folder).unwrap()).to_owned()).collect()
}

/// How many documents the store of a closed site holds, by collection.
fn documents(site: &Site) -> Vec<(String, usize)> {
    let store = SledStore::open(&site.dir.join("store")).unwrap();
    let count = |name| (String::clone(name), store.documents(&name.parse().unwrap()).unwrap().len());
    ["engineering".to_owned(), "cryptography".to_owned()].iter().map(count).collect()
}

#[test]
fn every_step_of_a_request_is_in_the_log() {
    let site = site::copy();
    let reply = site.ask("ana", RESTRICTED).expect(0);
    let records = site.records();
    let phase = |phase: &str| records.iter().filter(|r| r["id"] == reply["id"] && r["phase"] == phase).count();
    assert_eq!((phase("request"), phase("response")), (1, 1));
    assert!(phase("retrieval") >= 1);
    let last = &records[reply["record"].as_u64().unwrap() as usize];
    assert_eq!((&last["event"], &last["id"]), (&json!("answer"), &reply["id"]));
    assert!(records.iter().all(|record| record["rehearsal"] == true));
}
