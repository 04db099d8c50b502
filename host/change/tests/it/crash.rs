use std::fs;
use std::process::{Command, Stdio};

use casemate_bundle::{TrustRoot, verify_any};
use casemate_change::SiteStore;
use casemate_types::Generation;

use crate::site::{Site, now};

#[test]
fn leftovers_of_an_interrupted_change_are_ignored() {
    let site = Site::new();
    let mut store = site.store();
    let raw = site.bundle("clearance", 1, "{}");
    store.activate(&site.verify(&raw), &raw).unwrap();
    fs::write(site.dir().join("active.new"), b"{\"gener").unwrap();
    fs::write(site.dir().join("bundles/0123.new"), b"half").unwrap();
    let mut store = site.store();
    assert_eq!(store.load_all(&site.root, now()).unwrap().len(), 1);
    let newer = site.bundle("clearance", 2, "{}");
    assert_eq!(store.activate(&site.verify(&newer), &newer).unwrap(), Generation(2));
}

#[test]
fn kill_9_leaves_the_old_set_or_the_new_one() {
    const ROUNDS: u64 = 8;
    const PER_ROUND: u64 = 12;
    let site = Site::new();
    drop(site.store());
    fs::write(site.dir().join("root.json"), site.root.as_bytes()).unwrap();
    for version in 1..=ROUNDS * PER_ROUND {
        fs::write(site.dir().join(format!("{version}.in")), site.bundle("clearance", version, "{}")).unwrap();
    }
    let mut before = Generation(0);
    for round in 1..=ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_activates_until_killed", "--ignored"])
            .env(DIR, site.dir())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Each round kills at another point of the child's work; the child ends by itself after the last bundle.
        let until = Generation(before.0 + 1 + round % 4);
        while site.store().active().generation < until && child.try_wait().unwrap().is_none() {
            for _ in 0..round * 997 {
                std::hint::spin_loop();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = SiteStore::open(site.dir()).unwrap();
        let after = store.active().generation;
        assert!(after >= until || after.0 == ROUNDS * PER_ROUND, "{after} after {before}");
        let loaded = store.load_all(&site.root, now()).unwrap();
        // Versions and generations go in step here, so the set is one that was committed as a whole.
        assert_eq!(loaded[0].version(), after.0);
        before = after;
    }
}

#[test]
#[ignore = "the victim of kill_9_leaves_the_old_set_or_the_new_one"]
fn child_that_activates_until_killed() {
    let Some(dir) = std::env::var_os(DIR).map(std::path::PathBuf::from) else {
        return;
    };
    let root = TrustRoot::parse(&fs::read(dir.join("root.json")).unwrap()).unwrap();
    let mut store = SiteStore::open(&dir).unwrap();
    for version in store.active().generation.0 + 1.. {
        let Ok(raw) = fs::read(dir.join(format!("{version}.in"))) else {
            return;
        };
        store.activate(&verify_any(&raw, &root, now()).unwrap(), &raw).unwrap();
    }
}

const DIR: &str = "CASEMATE_CRASH_DIR";
