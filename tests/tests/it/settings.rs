//! `casemate fhe settings`: computed from the code, and the guide prints the same.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::guest::root;
use crate::site::program;

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program()).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn guide_prints_the_table_of_the_command() {
    let (code, printed) = run(&["fhe", "settings"]);
    assert_eq!(code, 0, "{printed}");
    let guide = fs::read_to_string(root().join("docs/encrypted-search.md")).unwrap();
    let (_, rest) = guide.split_once("<!-- settings -->\n```text\n").unwrap();
    let (table, _) = rest.split_once("```").unwrap();
    // The first line names this machine's instructions.
    let (_, rows) = printed.split_once("\n\n").unwrap();
    assert_eq!(table, rows);
}

#[test]
fn settings_are_there_for_programs_and_hostile_dimensions_are_refused() {
    let (code, printed) = run(&["--json", "fhe", "settings", "--dimension", "768"]);
    assert_eq!(code, 0, "{printed}");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let settings = printed["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 24);
    assert_eq!(settings.iter().filter(|setting| setting["default"] == true).count(), 1);
    assert!(settings.iter().any(|setting| setting["reply-per-document"].as_f64().unwrap() < 11.0));
    for dimension in ["0", "4097"] {
        let (code, printed) = run(&["fhe", "settings", "--dimension", dimension]);
        assert!(code == 2 && printed.contains("outside 1 to 4096"), "{printed}");
    }
}
