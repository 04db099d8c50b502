//! `kill -9` at random points under load: what was acknowledged is there, and the log verifies.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use casemate_audit::{Log, LogOptions, entries, verify_dir};

use crate::support::{ORIGIN, TestSigner, vkey};

const DIR: &str = "CASEMATE_AUDIT_VICTIM";
/// Kills before a new log is begun, so that looking at it stays quick.
const PER_LOG: usize = 25;

fn options(site: &Path) -> LogOptions {
    LogOptions {
        checkpoint_every: Duration::from_millis(3),
        checkpoint_after: 40,
        head_file: Some(site.join("log.head")),
        ..LogOptions::new(ORIGIN)
    }
}

#[test]
#[ignore = "the victim of the kill -9 tests"]
fn child_that_appends_until_killed() {
    let Some(site) = std::env::var_os(DIR) else { return };
    let site = Path::new(&site);
    let log = Log::open(&site.join("log"), options(site), Box::new(TestSigner::new(1))).unwrap();
    println!("\nopen");
    let pid = std::process::id();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0.. {
                    let record = format!("{pid}/{thread}/{n}");
                    let index = log.append(record.clone().into_bytes()).unwrap();
                    // One write: an acknowledgement is in the pipe whole or not at all.
                    std::io::stdout().write_all(format!("ack {index} {record}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

fn kill_rounds(rounds: usize) {
    let mut random = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut site = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let (mut total, mut deaths_before_open) = (0, 0);
    for round in 0..rounds {
        if round % PER_LOG == 0 {
            site = tempfile::tempdir().unwrap();
            acknowledged.clear();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_appends_until_killed", "--ignored", "--nocapture"])
            .env(DIR, site.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = Vec::new();
        // A tenth dies while it starts, the others somewhere in their work: at a random acknowledgement and a random moment after.
        if next(10) > 0 {
            let wanted = next(300);
            for line in lines.by_ref() {
                heard.push(line.unwrap());
                if heard.len() as u64 > wanted {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(next(8_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        heard.extend(lines.map_while(Result::ok));
        deaths_before_open += usize::from(!heard.iter().any(|line| line.ends_with("open")));
        for line in &heard {
            if let Some((index, record)) = line.strip_prefix("ack ").and_then(|rest| rest.split_once(' ')) {
                acknowledged.insert(index.parse().unwrap(), record.to_owned());
                total += 1;
            }
        }

        // As the next start would, and then as an auditor would.
        let log = Log::open(&site.path().join("log"), options(site.path()), Box::new(TestSigner::new(1)));
        let log = log.unwrap_or_else(|error| panic!("round {round}: {error} {:?}", std::error::Error::source(&error)));
        drop(log);
        let verified = verify_dir(&site.path().join("log"), &vkey(), |_| {}).unwrap();
        let stored: Vec<Vec<u8>> = entries(&site.path().join("log")).unwrap().map(Result::unwrap).collect();
        assert_eq!((verified.size, verified.unsigned_tail), (stored.len() as u64, 0));
        for (index, record) in &acknowledged {
            let found = stored.get(*index as usize).map(|bytes| String::from_utf8_lossy(bytes));
            assert_eq!(found.as_deref(), Some(record.as_str()), "round {round}: acknowledged record {index}");
        }
    }
    println!("{rounds} kills, {deaths_before_open} before the log was open, {total} acknowledged records, none lost");
    assert!(total > rounds as u64, "the victims did work");
}

#[test]
fn a_thousand_kills_under_load_lose_no_acknowledged_record() {
    kill_rounds(1000);
}

#[test]
#[ignore = "the victim of the test with a full disk"]
fn child_that_fills_its_disk() {
    let Some(site) = std::env::var_os(DIR) else { return };
    let site = Path::new(&site);
    let options =
        LogOptions { checkpoint_every: Duration::from_secs(3600), checkpoint_after: u64::MAX, ..options(site) };
    let log = Log::open(&site.join("log"), options, Box::new(TestSigner::new(1))).unwrap();
    let mut n = 0;
    let mut refusals = 0;
    while refusals < 3 {
        match log.append(format!("{n} {}", "x".repeat(700)).into_bytes()) {
            Ok(index) => {
                assert_eq!(index, n);
                n += 1;
            }
            Err(casemate_audit::AuditError::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge, "{source}");
                refusals += 1;
                assert_eq!(log.size(), n, "what was refused is not there");
                // Room is made: the checkpoint takes the records out of the write-ahead file.
                log.checkpoint().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("\nfilled {n}");
}

#[test]
fn a_full_disk_refuses_records_and_goes_on_without_loss_once_there_is_room() {
    // A limit on the size of files stands for the disk: writes are cut short in the middle of a record.
    let site = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_that_fills_its_disk", "--ignored", "--nocapture"])
        .env(DIR, site.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let filled: u64 = said.lines().find_map(|line| line.strip_prefix("filled ")).unwrap().parse().unwrap();
    assert!(filled > 100);
    let verified = verify_dir(&site.path().join("log"), &vkey(), |_| {}).unwrap();
    assert_eq!((verified.size, verified.unsigned_tail), (filled, 0));
    for (n, record) in entries(&site.path().join("log")).unwrap().enumerate() {
        assert!(record.unwrap().starts_with(format!("{n} ").as_bytes()), "{n}");
    }
}
