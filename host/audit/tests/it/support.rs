use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_audit::{CheckpointSigner, Log, LogOptions, SignError};
use tempfile::TempDir;

pub const ORIGIN: &str = "casemate.example/test";
pub const HOUR: Duration = Duration::from_secs(3600);

/// 522 signed records (two full bundles, a partial one, a level 1 tile) and three unsigned ones.
pub const SIGNED: u64 = 522;
pub const TAIL: u64 = 3;

pub const WORKS: u8 = 0;
pub const FAILS: u8 = 1;
pub const LIES: u8 = 2;

#[derive(Clone)]
pub struct TestSigner {
    pair: Arc<Ed25519KeyPair>,
    mode: Arc<AtomicU8>,
    /// Waits for a message before each signature, if set.
    gate: Option<Arc<Mutex<Receiver<()>>>>,
}

impl TestSigner {
    pub fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Self { pair: Arc::new(pair), mode: Arc::default(), gate: None }
    }

    pub fn with_mode(mode: &Arc<AtomicU8>) -> Self {
        Self { mode: mode.clone(), ..Self::new(1) }
    }

    pub fn with_gate(gate: Receiver<()>) -> Self {
        Self { gate: Some(Arc::new(Mutex::new(gate))), ..Self::new(1) }
    }
}

impl CheckpointSigner for TestSigner {
    fn public_key(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().unwrap()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        if let Some(gate) = &self.gate {
            gate.lock().unwrap().recv()?;
        }
        match self.mode.load(Ordering::SeqCst) {
            FAILS => Err("CKR_DEVICE_REMOVED".into()),
            LIES => Ok([7; 64]),
            _ => Ok(self.pair.sign(message).as_ref().try_into()?),
        }
    }
}

/// Checkpoints only when asked, so that tests know what is signed.
pub fn options() -> LogOptions {
    LogOptions { checkpoint_every: HOUR, checkpoint_after: u64::MAX, max_batch: 8192, ..LogOptions::new(ORIGIN) }
}

pub fn open(dir: &Path) -> Log {
    Log::open(dir, options(), Box::new(TestSigner::new(1))).unwrap()
}

pub fn vkey() -> String {
    vkey_of(ORIGIN, 1)
}

/// A verifier key made without the code under test.
pub fn vkey_of(origin: &str, seed: u8) -> String {
    use base64::prelude::*;
    let key = [&[1][..], &TestSigner::new(seed).public_key()].concat();
    let id = casemate_types::Digest::of_parts(&[origin.as_bytes(), b"\n", &key]);
    format!("{origin}+{}+{}", &id.hex()[..8], BASE64_STANDARD.encode(key))
}

/// A record as a site writes it: JSON with a time.
pub fn real(time_ms: u64, event: casemate_audit::Event) -> Vec<u8> {
    let record = casemate_audit::Record { v: 1, time_ms, site: "north".into(), rehearsal: false, event };
    record.to_bytes()
}

pub fn record(index: u64) -> Vec<u8> {
    format!("record {index}").into_bytes()
}

/// Appends the records `from..to`.
pub fn fill(log: &Log, from: u64, to: u64) {
    for index in from..to {
        // Each blocking append waits until everything before it is durable and the queue is empty again.
        if index % 4096 == 0 || index + 1 == to {
            assert_eq!(log.append(record(index)).unwrap(), index);
        } else {
            log.submit(record(index), move |result| assert_eq!(result.unwrap(), index));
        }
    }
}

/// A copy, as a crash would leave it when the log is open.
pub fn image(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(dir, copy.path());
    copy
}

pub fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A sound log to damage: [`SIGNED`] records under a checkpoint, [`TAIL`] behind it, never closed.
pub fn sound() -> TempDir {
    static SOUND: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        fill(&log, 0, SIGNED);
        drop(log);
        let log = open(dir.path());
        fill(&log, SIGNED, SIGNED + TAIL);
        image(dir.path())
    });
    image(SOUND.path())
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x01;
    fs::write(path, bytes).unwrap();
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
