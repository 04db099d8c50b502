//! `kill -9` between and during changes: the store holds one whole change, never a mix.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use casemate_vectors::{SledStore, VectorStore};

use crate::{apply, group, id, name, passage};

const DIRECTORY: &str = "CASEMATE_CRASH_STORE";
const GROUPS: u32 = 6;
const ROUNDS: u32 = 40;

/// Runs in the child: rewrites the collection until it is killed.
#[test]
#[ignore = "run by sudden_death_leaves_old_or_new_state"]
fn writer() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = SledStore::open(Path::new(&directory)).unwrap();
    loop {
        let version = apply(&store, &name("alpha"), |change| {
            let version = change.version;
            change.put_groups = (0..GROUPS).map(|number| (number, group(version, 1))).collect();
            change.put_passages = (0..GROUPS)
                .map(|slot| (id(slot as u8), passage(slot, 0, &[("version", &version.to_string())])))
                .collect();
        });
        println!("applied {version}");
    }
}

/// Each round kills at another fraction of a cycle, measured in that round: a kill right behind an acknowledgement would
/// never meet a change half written.
#[test]
fn sudden_death_leaves_old_or_new_state() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let mut unacknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut versions = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .filter_map(|line| line.unwrap().strip_prefix("applied ")?.parse::<u64>().ok());
        versions.next().unwrap();
        let start = Instant::now();
        let acknowledged = versions.by_ref().take(3).last().unwrap();
        let (cycle, start) = (start.elapsed() / 3, Instant::now());
        while start.elapsed() < cycle * round / ROUNDS {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died.
        let acknowledged = versions.last().unwrap_or(acknowledged);

        let store = SledStore::open(dir.path()).unwrap();
        let version = store.version(&alpha).unwrap();
        assert!(version >= acknowledged, "an acknowledged change is gone");
        assert_eq!(store.manifest(&alpha).unwrap().unwrap(), version.to_be_bytes());
        assert_eq!(store.groups(&alpha).unwrap(), (0..GROUPS).collect::<Vec<_>>());
        for number in 0..GROUPS {
            let record = store.group(&alpha, number).unwrap().unwrap();
            assert_eq!(record, group(version, 1), "group {number} is of another change");
        }
        let token = [("version".to_owned(), version.to_string())];
        assert_eq!(store.matching(&alpha, &token).unwrap().len(), GROUPS as usize);
        assert_eq!(store.documents(&alpha).unwrap().len(), GROUPS as usize);
        let next = store.reserve_version(&alpha).unwrap();
        assert!(next > version);
        // A version was drawn and its change is not there: the death came in between.
        unacknowledged += u32::from(next > version + 1);
    }
    println!("{unacknowledged} of {ROUNDS} deaths came during a change");
    assert!(unacknowledged > 0, "no death came during a change: this run shows nothing");
}
