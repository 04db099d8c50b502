//! `casemate hsm drill`: in rehearsal, and on a site's own pair of different make.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::site::{self, program, text};

#[track_caller]
fn passed(report: &Value) {
    assert_eq!(
        (&report["different"], &report["lost"], &report["state"]),
        (&0.into(), &0.into(), &"healthy".into()),
        "{report}"
    );
    assert_eq!((&report["repeated"], &report["noticed-by-operation"]), (&1.into(), &true.into()), "{report}");
    let destroyed = report["destroyed"].as_array().unwrap();
    assert_eq!(destroyed.len(), 2);
    assert!(destroyed.iter().all(|token| token["proofs"].as_array().unwrap().len() >= 4), "{report}");
}

#[test]
fn a_rehearsed_drill_passes_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["--json", "hsm", "drill", "--rehearsal", "--values", "500"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    passed(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_site_without_a_backup_is_told_how_to_name_one() {
    let ended = site::bare().casemate(&["hsm", "drill"]);
    assert!(ended.text.contains("[hsm.backup]"), "{}", ended.text);
    ended.expect(1);
}

#[test]
fn a_sites_own_pair_drills_beside_its_keys() {
    let module = Path::new("/usr/lib/softhsm/libsofthsm2.so");
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        eprintln!("SKIPPED: a_sites_own_pair_drills_beside_its_keys (CASEMATE_WITHOUT_SOFTHSM is set)");
        return;
    }
    let site = site::copy();
    let token = site.dir.join("token");
    fs::create_dir_all(token.join("backup")).unwrap();
    let configuration = token.join("softhsm2.conf");
    let tokens = token.join("backup");
    fs::write(&configuration, format!("directories.tokendir = {}\nobjectstore.backend = file\n", text(&tokens)))
        .unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "casemate backup", "--so-pin", "12345678", "--pin", "87654321"])
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(site.dir.join("pins/backup-user"), "87654321\n").unwrap();
    let path = site.dir.join("site.toml");
    let mut config = fs::read_to_string(&path).unwrap();
    config.push_str(&format!(
        "\n[hsm.backup]\nmodule = {:?}\ntoken-label = \"casemate backup\"\nenvironment = {{ SOFTHSM2_CONF = \"{{site}}/token/softhsm2.conf\" }}\n",
        text(module)
    ));
    fs::write(&path, config).unwrap();
    for _ in 0..2 {
        passed(&site.casemate(&["hsm", "drill", "--values", "500"]).expect(0));
    }
    let steps: Vec<String> = site
        .records()
        .iter()
        .filter_map(|record| record["action"].as_str().filter(|action| action.starts_with("drill-")).map(str::to_owned))
        .collect();
    assert_eq!(steps, ["drill-begun", "drill-ended", "drill-begun", "drill-ended"]);
    // A site of a profile that claims something takes no backup that was not probed, and then no software either.
    site.configure("profile = \"rehearsal\"", "profile = \"enterprise\"");
    site.casemate(&["hsm", "probe", "--scratch"]).expect(0);
    let refused = || site.casemate(&["hsm", "drill"]).expect(4)["error"].as_str().unwrap().to_owned();
    assert!(refused().contains("probe"), "{}", refused());
    site.casemate(&["hsm", "probe", "--backup", "--scratch"]).expect(0);
    assert!(refused().contains("validated module"), "{}", refused());
    site.configure("profile = \"enterprise\"", "profile = \"rehearsal\"");
    site.casemate(&["hsm", "probe"]).expect(0);
    // The site's own keys are as they were.
    site.casemate(&["ask", "What does a pool do?", "--as", "ana"]).expect(0);
}
