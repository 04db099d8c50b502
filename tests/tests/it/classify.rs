//! Models over encrypted vectors through the real program: trained, encrypted, asked here and on a tier of its own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::site::{self, Site, text};
use crate::tier::Split;

/// Texts of two classes, and of each two that training does not see.
const LABELLED: [(&str, &str); 16] = [
    ("pay", "What does the chief engineer earn a month?"),
    ("pay", "How high is the salary of a deck officer?"),
    ("pay", "Show me the wages of the kitchen staff."),
    ("pay", "Who got a bonus on top of the salary last year?"),
    ("pay", "Which pension and pay grade does Anna have?"),
    ("pay", "How much is the captain paid?"),
    ("pay", "List everybody's income and overtime pay."),
    ("pay", "What is the hourly wage of a welder?"),
    ("pump", "When is the bilge pump tested?"),
    ("pump", "How do I replace the seal of the pump?"),
    ("pump", "Which valve leaks in the engine room?"),
    ("pump", "What pressure does the fire pump need?"),
    ("pump", "How often is the oil filter of the engine changed?"),
    ("pump", "Where is the spare impeller of the pump?"),
    ("pump", "What does the alarm of the bilge well mean?"),
    ("pump", "How is the cooling water valve opened?"),
];
const ASKED: [(&str, &str); 4] = [
    ("pay", "What salary does the second officer get?"),
    ("pay", "Tell me the monthly pay of the welder."),
    ("pump", "How is the seal of the bilge pump checked?"),
    ("pump", "Why does the engine valve leak?"),
];

fn train(site: &Site) -> PathBuf {
    let (labelled, model) = (site.dir.with_file_name("labelled.tsv"), site.dir.with_file_name("model.json"));
    let lines: Vec<String> = LABELLED.iter().map(|(label, text)| format!("{label}\t{text}")).collect();
    fs::write(&labelled, lines.join("\n")).unwrap();
    let trained = site.casemate(&["fhe", "train", text(&labelled), "--as", "ana", "--out", text(&model)]).expect(0);
    assert_eq!(trained["classes"], json!(["pay", "pump"]), "{trained}");
    assert!(trained["held-out-accuracy"].as_f64().unwrap() > 0.6, "{trained}");
    model
}

fn encrypt(site: &Site, model: &Path) -> PathBuf {
    let hidden = model.with_file_name("hidden.json");
    let arguments = ["fhe", "encrypt-model", text(model), "--as", "ana", "--compartment", "cryptography", "--out"];
    site.casemate(&[&arguments[..], &[text(&hidden)]].concat()).expect(0);
    hidden
}

fn classify(site: &Site, user: &str, model: &Path) -> site::Ended {
    let texts = ASKED.map(|(_, text)| text);
    site.casemate(&[&["fhe", "classify", "--model", text(model), "--as", user], &texts[..]].concat())
}

fn classes(answer: &Value) -> Vec<String> {
    let classified = answer["classified"].as_array().unwrap();
    classified.iter().map(|found| found["class"].as_str().unwrap().to_owned()).collect()
}

/// The logits of both ways are those of one model: no further apart than both tolerances, and with noise of their own, which may meet in
/// one of them and not in all.
fn same_logits(one: &Value, other: &Value) {
    let mut differ = false;
    for (one, other) in one["classified"].as_array().unwrap().iter().zip(other["classified"].as_array().unwrap()) {
        let tolerance = one["tolerance"].as_f64().unwrap() + other["tolerance"].as_f64().unwrap();
        let pairs = one["logits"].as_array().unwrap().iter().zip(other["logits"].as_array().unwrap());
        for (a, b) in pairs {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= tolerance, "{a} and {b} with {tolerance}");
            differ |= a != b;
        }
    }
    assert!(differ, "one of the two was not computed under encryption");
}

#[test]
fn a_trained_model_classifies_with_its_weights_in_clear_and_encrypted() {
    let site = site::copy();
    let model = train(&site);
    let clear = classify(&site, "ana", &model).expect(0);
    assert_eq!(classes(&clear), ASKED.map(|(class, _)| class));
    assert!(clear["classified"][0]["probability"].as_f64().unwrap() > 0.5);
    let hidden = encrypt(&site, &model);
    let encrypted = classify(&site, "ana", &hidden).expect(0);
    assert_eq!(classes(&encrypted), ASKED.map(|(class, _)| class));
    same_logits(&clear, &encrypted);
    let log = site.casemate(&["audit", "show", "--last", "40"]).text;
    for recorded in ["training", "model encrypted", "classification"] {
        assert!(log.contains(recorded), "{recorded}: {log}");
    }
    for (_, asked) in ASKED {
        assert!(!log.contains(asked), "{log}");
    }
}

#[test]
fn an_encrypted_model_is_refused_to_whom_does_not_hold_its_key() {
    let site = site::copy();
    let hidden = encrypt(&site, &train(&site));
    let refused = classify(&site, "ben", &hidden);
    assert!(
        refused.code != 0 && refused.text.contains("holds no key of compartment `cryptography`"),
        "{}",
        refused.text
    );
    // Under another compartment's name it is not readable: whatever the tier computes, the owner sees that it is no result.
    let mut stolen: Value = serde_json::from_slice(&fs::read(&hidden).unwrap()).unwrap();
    stolen["weights"]["encrypted"]["compartment"] = json!("engineering");
    let path = hidden.with_file_name("stolen.json");
    fs::write(&path, stolen.to_string()).unwrap();
    let refused = classify(&site, "ben", &path);
    assert!(refused.code != 0 && refused.text.contains("is no result of this query"), "{}", refused.text);
}

/// The same on a tier of its own, which is sent the model once, and again when it was restarted.
#[test]
fn a_tier_of_its_own_classifies_as_this_process_does() {
    let split = Split::over_unix();
    let model = {
        let _tier = split.start();
        let model = train(&split.site);
        assert_eq!(classes(&classify(&split.site, "ana", &model).expect(0)), ASKED.map(|(class, _)| class));
        model
    };
    let refused = classify(&split.site, "ana", &model);
    assert!(refused.code != 0 && refused.text.contains("reach the inference tier at unix:"), "{}", refused.text);
    let _again = split.start();
    let hidden = encrypt(&split.site, &model);
    assert_eq!(classes(&classify(&split.site, "ana", &hidden).expect(0)), ASKED.map(|(class, _)| class));
}

/// As a bundle of kind `model`: two approvals, and only what parses.
#[test]
fn a_signed_model_is_used_by_its_name() {
    let site = site::copy();
    let model = train(&site);
    let folder = model.with_file_name("document");
    fs::create_dir(&folder).unwrap();
    let manifest = "kind = \"model\"\nsubject = \"topics\"\nversion = \"1.0.0\"\nsummary = \"Pay or pump.\"\n";
    fs::write(folder.join("manifest.toml"), manifest).unwrap();
    let build = |name: &str, approvers: &[&str]| {
        let out = model.with_file_name(name);
        site.casemate(&["bundle", "build", text(&folder), "--out", text(&out), "--bundle-version", "1"]).expect(0);
        for approver in approvers {
            let key = site.dir.join(format!("approvers/{approver}.key"));
            site.casemate(&["bundle", "sign", text(&out), "--key", text(&key)]).expect(0);
        }
        site.casemate(&["plugin", "load", text(&out)])
    };
    fs::write(folder.join("model"), "no model").unwrap();
    let refused = build("broken.casemate", &["ana", "bo"]);
    assert!(refused.code != 0 && refused.text.contains("model: "), "{}", refused.text);
    fs::copy(&model, folder.join("model")).unwrap();
    assert_ne!(build("one.casemate", &["ana"]).code, 0, "one approval is not enough");
    let ask = || site.casemate(&["fhe", "classify", "--signed", "topics", "--as", "ana", ASKED[0].1]);
    let before = ask();
    assert!(before.code != 0 && before.text.contains("`site-model-topics` is not active"), "{}", before.text);
    build("both.casemate", &["ana", "bo"]).expect(0);
    assert_eq!(classes(&ask().expect(0)), [ASKED[0].0]);
}

#[test]
fn hostile_model_files_are_refused_by_name() {
    let site = site::copy();
    let model = train(&site);
    let honest: Value = serde_json::from_slice(&fs::read(&model).unwrap()).unwrap();
    let path = model.with_file_name("hostile.json");
    let refused = |change: &dyn Fn(&mut Value), words: &str| {
        let mut value = honest.clone();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let refused = classify(&site, "ana", &path);
        assert!(refused.code == 1 || refused.code == 2, "{words}: {}", refused.text);
        assert!(refused.text.contains(words), "{words}: {}", refused.text);
    };
    refused(&|value| value["dimension"] = json!(3), "its dimension is 3");
    refused(&|value| value["norm-bound"] = json!(0.001), "exceed its norm bound");
    refused(&|value| value["weights"] = json!(null), "model:");
    let other = format!("sha256:{}", "0".repeat(64));
    refused(&|value| value["embedder-digest"] = json!(other), "train it again");
    // An existing file is not overwritten.
    let again = site.casemate(&["fhe", "train", text(&model), "--as", "ana", "--out", text(&model)]);
    assert!(again.code != 0 && again.text.contains("not label, tab, text"), "{}", again.text);
}
