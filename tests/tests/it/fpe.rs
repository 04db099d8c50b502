//! `casemate fpe --vectors`: published vectors, given as files, through a token.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::guest::root;
use crate::site::{self, Site, passage, program, text, titles};

fn data(name: &str) -> PathBuf {
    root().join("host/hsm/tests/data").join(name)
}

/// Exit code, standard output as JSON, all output.
fn run(files: &[&Path]) -> (i32, Value, String) {
    let output = Command::new(program()).args(["fpe", "--json", "--vectors"]).args(files).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), serde_json::from_str(&stdout).unwrap_or_default(), text)
}

#[test]
fn published_vectors_pass_in_a_scratch_token() {
    for (name, algorithm, passed) in [
        ("nist-sp800-38g-ff1.json", "ACVP-AES-FF1", 18),
        ("acvp-aes-ff1.json", "ACVP-AES-FF1", 17),
        ("acvp-aes-ff3-1.json", "ACVP-AES-FF3-1", 24),
    ] {
        let (code, report, text) = run(&[&data(name)]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(
            (&report["algorithm"], &report["passed"], &report["failed"]),
            (&algorithm.into(), &passed.into(), &0.into())
        );
    }
}

#[test]
fn one_wrong_digit_fails_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors.json");
    let text = fs::read_to_string(data("acvp-aes-ff1.json")).unwrap();
    fs::write(&file, text.replace("51080586787848252017", "51080586787848252018")).unwrap();
    let (code, report, text) = run(&[&file]);
    assert_eq!(code, 4, "{text}");
    assert_eq!((&report["passed"], &report["failed"]), (&16.into(), &1.into()));
    assert_eq!(report["groups"][0]["failed"]["9"], "another result");
}

/// Inputs without results, or half a set, must not look like a pass.
#[test]
fn a_set_without_its_results_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (prompt, results) = (folder.path().join("prompt.json"), folder.path().join("expectedResults.json"));
    let mut set: Value = serde_json::from_str(&fs::read_to_string(data("acvp-aes-ff1.json")).unwrap()).unwrap();
    let mut answers = set.clone();
    for (group, answer) in
        set["testGroups"].as_array_mut().unwrap().iter_mut().zip(answers["testGroups"].as_array_mut().unwrap())
    {
        let result = if group["direction"] == "encrypt" { "ct" } else { "pt" };
        let cases = group["tests"].as_array_mut().unwrap().iter_mut();
        for (case, known) in cases.zip(answer["tests"].as_array_mut().unwrap()) {
            *known = serde_json::json!({ "tcId": case["tcId"], result: case[result] });
            case.as_object_mut().unwrap().remove(result);
        }
        *answer = serde_json::json!({ "tgId": answer["tgId"], "tests": answer["tests"] });
    }
    fs::write(&prompt, set.to_string()).unwrap();
    fs::write(&results, answers.to_string()).unwrap();
    let (code, _, text) = run(&[&prompt]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no expected result"), "{text}");
    let (code, report, text) = run(&[&prompt, &results]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(report["passed"], 17);
    let (code, _, text) = run(&[&folder.path().join("nothing.json")]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn a_token_of_ones_own_runs_vectors_under_its_pin() {
    let site = site::bare();
    let module = program().with_file_name("libcasemate_softtoken.so");
    let environment = format!("KRYOPTIC_CONF={}", text(&site.dir.join("token/token.conf")));
    let run = |label: &str, pin: &str| {
        let (vectors, pin) = (data("acvp-aes-ff1.json"), site.dir.join(pin));
        let arguments = ["fpe", "--vectors", text(&vectors), "--module", text(&module), "--module-env", &environment];
        site.casemate(&[&arguments[..], &["--token-label", label, "--pin-file", text(&pin)]].concat())
    };
    assert_eq!(run("casemate", "pins/user").expect(0)["passed"], 17);
    run("casemate", "pins/so").expect(1);
    run("another", "pins/user").expect(1);
}

#[test]
fn a_field_over_its_own_alphabet_still_filters() {
    let site = site::copy();
    site.configure("crate = \"fpe\"", "crate = \"fpe\"\npart = \"fpe:digits\"\nplace = \"fpe:cyrillic\"");
    let mut line = passage("pump", "Pump", "The bilge pump of the ferry is tested on Mondays.");
    // The last does not fit its alphabet and becomes a token; a filter must not tell.
    line["metadata"] = serde_json::json!({ "part": "0012345678", "place": "Владивосток" });
    let mut other = passage("valve", "Valve", "The bilge valve of the ferry is tested on Fridays.");
    other["metadata"] = serde_json::json!({ "part": "0012345679", "place": "Kronstadt" });
    site.ingest(&[line, other]);
    let ask = |filter: &str| {
        titles(
            &site
                .casemate(&["ask", "When is the bilge of the ferry tested?", "--as", "ben", "--filter", filter])
                .expect(0),
        )
    };
    assert_eq!(ask("part=0012345678"), ["Pump"]);
    assert_eq!(ask("part=0012345679"), ["Valve"]);
    assert_eq!(ask("place=Владивосток"), ["Pump"]);
    assert_eq!(ask("place=Kronstadt"), ["Valve"]);
    assert!(ask("part=0012345670").is_empty());
    site.configure("fpe:digits", "fpe:digit");
    let refused = site.casemate(&["ask", "When?", "--as", "ben"]);
    assert!(refused.code != 0 && refused.text.contains("digits, base36"), "{}", refused.text);
}

/// A whole site on an HSM that has FF1 itself: the module in `tests/shim` before the embedded token.
#[test]
fn a_site_runs_on_the_hsms_own_ff1_and_stops_when_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::at(folder.path().join("site"));
    let example = fs::read_to_string(site::bare().dir.join("site.toml")).unwrap();
    let module = example.lines().find_map(|line| line.strip_prefix("module = ")).unwrap().to_owned();
    let shim = std::env::current_exe().unwrap().with_file_name("libcasemate_shim.so");
    let (shim, fault) = (format!("{shim:?}"), folder.path().join("fault"));
    fs::write(&fault, "").unwrap();
    // Of a module that is not the embedded one `init` configures nothing.
    let slots = folder.path().join("token.conf");
    let storage = folder.path().join("token.sql");
    fs::write(&slots, format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {storage:?}\n")).unwrap();
    let native = "native-ff1 = { mechanism = 0x80004646, layout = \"radix-tweak\" }\n";
    let environment =
        format!("[hsm.environment]\nCASEMATE_SHIM_MODULE = {module}\nCASEMATE_SHIM_FAULT_FILE = {fault:?}\n");
    let config = example
        .replace(&format!("module = {module}"), &format!("module = {shim}"))
        .replace("[hsm.environment]\n", &format!("{native}{environment}"))
        .replace("\"{site}/token/token.conf\"", &format!("{slots:?}"))
        .replace("crate = \"fpe\"", "crate = \"fpe\"\npart = \"fpe:digits\"");
    let file = folder.path().join("native.toml");
    fs::write(&file, &config).unwrap();
    site.casemate(&["init", "--config", text(&file)]).expect(0);
    site::fill(&site, folder.path());
    let mut line = passage("pump", "The pump", "The bilge of the ferry is tested.");
    line["metadata"] = serde_json::json!({ "part": "0001234567" });
    site.ingest(&[line]);
    let ask = || {
        site.casemate(&["ask", "When is the bilge of the ferry tested?", "--as", "ben", "--filter", "part=0001234567"])
    };
    assert_eq!(titles(&ask().expect(0)), ["The pump"]);
    // It is used: when it gives other results than FF1's, the site does not open.
    fs::write(&fault, "C_Encrypt 1+ wrong").unwrap();
    let refused = ask();
    assert!(refused.code != 0 && refused.text.contains("FF1"), "{}", refused.text);
    fs::write(&fault, "").unwrap();
    assert_eq!(titles(&ask().expect(0)), ["The pump"]);
    // The keys allow it from their birth on, so a site that does not say so refuses them.
    site.configure(native, "");
    assert_ne!(ask().code, 0);
}
