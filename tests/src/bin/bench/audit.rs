use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_audit::{CheckpointSigner, Log, LogOptions, SignError};

use crate::report::{Baseline, Report, percentile};

const RECORD: usize = 512;
const LONG: Duration = Duration::from_secs(3);

/// Durable appends at several numbers of writers, beside one `fdatasync` per record on the same disk.
pub fn run(report: &mut Report) {
    let alone = fdatasync_rate();
    report.row("audit", "one fdatasync per record", alone, "records/s", None);
    for writers in [1, 8, 64, 256] {
        let (rate, mut latencies) = appends(writers);
        let baseline = Baseline { name: "one fdatasync per record", ratio: rate / alone };
        report.row("audit", &format!("durable appends, {writers} writers"), rate, "records/s", Some(baseline));
        let p99 = percentile(&mut latencies, 0.99);
        report.row("audit", &format!("latency p99, {writers} writers"), p99, "ms", None);
    }
}

fn fdatasync_rate() -> f64 {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut file = File::create(folder.path().join("records")).unwrap();
    let (started, mut records) = (Instant::now(), 0);
    while started.elapsed() < LONG {
        file.write_all(&[7; RECORD]).unwrap();
        file.sync_data().unwrap();
        records += 1;
    }
    f64::from(records) / started.elapsed().as_secs_f64()
}

fn appends(writers: usize) -> (f64, Vec<f64>) {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let signer = Box::new(Signer(Ed25519KeyPair::generate().unwrap()));
    let log = Arc::new(Log::open(folder.path(), LogOptions::new("casemate/bench"), signer).unwrap());
    let started = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut latencies = Vec::new();
                while started.elapsed() < LONG {
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

/// A checkpoint key in memory: what is measured here is the log.
struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.0.sign(message).as_ref().try_into()?)
    }
}
