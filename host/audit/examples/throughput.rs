//! Durable appends per second: `throughput [directory] [threads] [records per thread]`.
//!
//! Prints the disk's own `fdatasync` beside the log's latency, so that the figure can be judged on any machine.
#![allow(clippy::expect_used, reason = "a benchmark stops at the first failure")]

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_audit::{CheckpointSigner, Log, LogOptions, SignError, verify_dir};

struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.0.sign(message).as_ref().try_into()?)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let number = |text: Option<String>, default| text.map_or(default, |text| text.parse().expect("a number"));
    let threads: usize = number(arguments.next(), 64);
    let each: usize = number(arguments.next(), 1000);
    let dir = tempfile::tempdir_in(parent).expect("a directory to write to");

    let mut file = std::fs::File::create(dir.path().join("probe")).expect("a file");
    let mut alone: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[0x41; 512]).and_then(|()| file.sync_data()).expect("fdatasync");
            start.elapsed()
        })
        .collect();
    print("fdatasync of one 512-byte record", &mut alone);

    let signer = Signer(Ed25519KeyPair::generate().expect("a key"));
    let log = dir.path().join("log");
    let open = Log::open(&log, LogOptions::new("casemate.example/throughput"), Box::new(signer)).expect("a log");
    let start = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let append = |_| {
                        let start = Instant::now();
                        open.append(vec![0x41; 512]).expect("an append");
                        start.elapsed()
                    };
                    (0..each).map(append).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    let elapsed = start.elapsed();
    print("append, from call to durable", &mut latencies);
    let count = threads * each;
    println!("{count} records, {threads} threads: {:.0} durable appends/s", count as f64 / elapsed.as_secs_f64());

    let key = open.verifier_key();
    drop(open);
    let start = Instant::now();
    let verified = verify_dir(&log, &key, |_| {}).expect("a sound log");
    println!("verified {} records in {:.2?}", verified.size, start.elapsed());
}

fn print(what: &str, samples: &mut [Duration]) {
    samples.sort();
    let at = |percent: usize| samples.get(samples.len() * percent / 100).copied().unwrap_or_default();
    println!("{what}: p50 {:.2?}, p99 {:.2?}", at(50), at(99));
}
