use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_audit::{
    CheckpointSigner, Event, Export, Index, Log, LogOptions, Query, Record, RecordReader, SignError, verify_dir,
    verify_export,
};

use crate::report::{Baseline, Report, percentile};

const RECORD: usize = 512;
/// Records a second of the paced writers.
const PACE: u64 = 21_000;
const LONG: Duration = Duration::from_secs(3);
/// Records of the log that is verified, exported and asked.
const MANY: u64 = 1_000_000;
/// Records of the large log that is asked.
const LARGE: u64 = 10_000_000;

/// Durable appends at several numbers of writers, beside the disk's own `fdatasync`, of one record and of a group; then what an auditor
/// does with a million records.
pub fn run(report: &mut Report) {
    let (alone, mut single) = fdatasync(1);
    report.row("audit", "one fdatasync per record", alone, "records/s", None);
    report.row("audit", "one fdatasync per record, p99", percentile(&mut single, 0.99), "ms", None);
    for writers in [1, 8, 64, 256] {
        let (bare, mut group) = fdatasync(writers);
        let bare_p99 = percentile(&mut group, 0.99);
        report.row("audit", &format!("bare group of {writers} per fdatasync"), bare, "records/s", None);
        report.row("audit", &format!("bare group of {writers}, p99"), bare_p99, "ms", None);
        let (rate, mut latencies) = appends(writers, None);
        let baseline = Baseline { name: "one fdatasync per record", ratio: rate / alone };
        report.row("audit", &format!("durable appends, {writers} writers"), rate, "records/s", Some(baseline));
        let p99 = percentile(&mut latencies, 0.99);
        let baseline = Baseline { name: "bare group p99", ratio: p99 / bare_p99 };
        report.row("audit", &format!("latency p99, {writers} writers"), p99, "ms", Some(baseline));
        if writers == 256 {
            // Not as fast as they can, but as fast as the bar asks: each waits for its turn.
            let (rate, mut latencies) = appends(writers, Some(Duration::from_micros(256 * 1_000_000 / PACE)));
            report.row("audit", "durable appends, 256 paced writers", rate, "records/s", None);
            let p99 = percentile(&mut latencies, 0.99);
            let baseline = Baseline { name: "bare group p99", ratio: p99 / bare_p99 };
            report.row("audit", "latency p99, 256 paced writers", p99, "ms", Some(baseline));
        }
    }
    auditor(report);
}

/// Groups of records, one write and one `fdatasync` each: records a second, and milliseconds of each group.
fn fdatasync(group: usize) -> (f64, Vec<f64>) {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut file = File::create(folder.path().join("records")).unwrap();
    let bytes = vec![7; RECORD * group];
    let (started, mut latencies) = (Instant::now(), Vec::new());
    while started.elapsed() < LONG {
        let one = Instant::now();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        latencies.push(one.elapsed().as_secs_f64() * 1e3);
    }
    ((latencies.len() * group) as f64 / started.elapsed().as_secs_f64(), latencies)
}

fn appends(writers: usize, pause: Option<Duration>) -> (f64, Vec<f64>) {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let options = LogOptions { head_file: Some(folder.path().join("log.head")), ..LogOptions::new("casemate/bench") };
    let log = Arc::new(Log::open(&folder.path().join("log"), options, signer()).unwrap());
    let started = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut latencies = Vec::new();
                let mut turn = pause.unwrap_or_default() * writer as u32 / writers as u32;
                while started.elapsed() < LONG {
                    if let Some(pause) = pause {
                        std::thread::sleep(turn.saturating_sub(started.elapsed()));
                        turn += pause;
                    }
                    let append = Instant::now();
                    log.append(vec![b'x'; RECORD]).unwrap();
                    latencies.push(append.elapsed().as_secs_f64() * 1e3);
                }
                latencies
            })
        })
        .collect();
    let latencies: Vec<f64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    (latencies.len() as f64 / started.elapsed().as_secs_f64(), latencies)
}

/// Verification, export and questions over a million records.
fn auditor(report: &mut Report) {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let dir = folder.path().join("log");
    let key = fill(&dir, MANY);
    let mut seconds = |what: &str, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        report.row("audit", what, started.elapsed().as_secs_f64(), "s", None);
    };
    seconds("verify 1,000,000 records", &mut || assert_eq!(verify_dir(&dir, &key, |_| {}).unwrap().size, MANY));
    let path = folder.path().join("export.tar");
    seconds("export 1,000,000 records", &mut || {
        let export = Export { dir: &dir, vkey: &key, witness: None, from: 0, to: MANY };
        let out = BufWriter::with_capacity(1 << 20, File::create(&path).unwrap());
        export.write(out).unwrap().into_inner().unwrap().sync_all().unwrap();
    });
    seconds("verify that export", &mut || {
        let input = BufReader::with_capacity(1 << 20, File::open(&path).unwrap());
        assert_eq!(verify_export(input, &key).unwrap().to, MANY);
    });
    let index = folder.path().join("index");
    seconds("index 1,000,000 records", &mut || drop(Index::open(&dir, &index, |_| {}).unwrap()));
    let one = Query { user: Some("user77".to_owned()), reason: Some("need-to-know".to_owned()), ..Query::default() };
    seconds("a question to the index, with its records", &mut || {
        // A million is not a whole number of bundles: the last records are looked at one by one.
        assert!(ask(&dir, &index, &one) >= MANY / 1000 - 1);
    });
}

/// Questions to ten million records, by the index.
pub fn large(report: &mut Report) {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (dir, index) = (folder.path().join("log"), folder.path().join("index"));
    let started = Instant::now();
    let key = fill(&dir, LARGE);
    report.row(
        "audit-large",
        "append 10,000,000 records",
        LARGE as f64 / started.elapsed().as_secs_f64(),
        "records/s",
        None,
    );
    let mut seconds = |what: &str, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        report.row("audit-large", what, started.elapsed().as_secs_f64(), "s", None);
    };
    seconds("verify 10,000,000 records", &mut || assert_eq!(verify_dir(&dir, &key, |_| {}).unwrap().size, LARGE));
    seconds("index 10,000,000 records", &mut || drop(Index::open(&dir, &index, |_| {}).unwrap()));
    let none = Query::default;
    let user = |name: &str| Some(name.to_owned());
    let noon = 1_700_000_000_000;
    for (what, query, found) in [
        ("one user's 10,000 records", Query { user: user("user77"), ..none() }, LARGE / 1000),
        ("a user that is not there", Query { user: user("nobody"), ..none() }, 0),
        (
            "a second of time",
            Query { since_ms: Some(noon + 5_000_000), until_ms: Some(noon + 5_001_000), ..none() },
            1000,
        ),
        ("a generation that is not there", Query { generation: Some(7), ..none() }, 0),
    ] {
        seconds(&format!("ask for {what}"), &mut || assert_eq!(ask(&dir, &index, &query), found));
    }
}

/// A log of so many records; its verifier key.
fn fill(dir: &Path, records: u64) -> String {
    let options = LogOptions { max_batch: 8192, ..LogOptions::new("casemate/bench") };
    let log = Log::open(dir, options, signer()).unwrap();
    for n in 0..records {
        let record = record(n);
        if n % 4096 == 0 || n + 1 == records {
            log.append(record).unwrap();
        } else {
            log.submit(record, |result| assert!(result.is_ok()));
        }
    }
    log.verifier_key()
}

fn ask(dir: &Path, index: &Path, query: &Query) -> u64 {
    let index = Index::open(dir, index, |_| {}).unwrap();
    let mut reader = RecordReader::new(dir);
    let found = index.select(query).unwrap();
    found.iter().filter(|found| query.matches(reader.read(**found).unwrap().unwrap())).count() as u64
}

/// A refused session of one of a thousand users: about 160 bytes.
fn record(n: u64) -> Vec<u8> {
    let event = Event::Session {
        action: "refused".to_owned(),
        user: format!("user{}", n % 1000),
        compartments: Vec::new(),
        reason: Some(casemate_types::Reason::from_policy("need-to-know")),
    };
    Record { v: 1, time_ms: 1_700_000_000_000 + n, site: "bench".to_owned(), rehearsal: true, event }.to_bytes()
}

/// A checkpoint key in memory: what is measured here is the log.
fn signer() -> Box<Signer> {
    Box::new(Signer(Ed25519KeyPair::generate().unwrap()))
}

struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.0.sign(message).as_ref().try_into()?)
    }
}
