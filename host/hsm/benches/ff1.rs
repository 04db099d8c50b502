//! FF1 with the key in a token against the `fpe` crate with an AES-256 key in software: 16 digits, 8-byte tweak, batches
//! of 1,000. Exits with 1 if a token is slower than the software it is compared with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "benchmark"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes::Aes256;
use casemate_hsm::{Ff1, Ff1Value, KeyClass, Keyring, Module, Pin};
use fpe::ff1::{FF1, FlexibleNumeralString};

const MODULE: &str = "CASEMATE_BENCH_MODULE";
const BATCH: usize = 1_000;
const TWEAK: &[u8] = b"card no.";

fn main() -> ExitCode {
    // A module reads its environment once, so each token is measured in a process of its own.
    if let Some(module) = std::env::var_os(MODULE) {
        return measure(Path::new(&module));
    }
    let executable = std::env::current_exe().unwrap();
    let softtoken = executable
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("libcasemate_softtoken.so");
    let softhsm = PathBuf::from("/usr/lib/softhsm/libsofthsm2.so");
    let mut slow = false;
    for (module, variable) in [(softtoken, "KRYOPTIC_CONF"), (softhsm, "SOFTHSM2_CONF")] {
        if !module.exists() {
            println!("{} is missing: run `cargo xtask setup`", module.display());
            slow = true;
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token.sql");
        let text = if variable == "KRYOPTIC_CONF" {
            format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = {token:?}\n")
        } else {
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                folder.path().display()
            )
        };
        let configuration = folder.path().join("token.conf");
        std::fs::write(&configuration, text).unwrap();
        let status = Command::new(&executable)
            .env(variable, &configuration)
            .env(MODULE, &module)
            .status()
            .unwrap();
        slow |= !status.success();
    }
    ExitCode::from(u8::from(slow))
}

fn measure(path: &Path) -> ExitCode {
    let module = Module::load(path).unwrap();
    let (so_pin, pin) = (Pin::random().unwrap(), Pin::random().unwrap());
    let token = module.initialise("bench", &so_pin, &pin).unwrap();
    let ring = Keyring::open(module, "bench", &pin).unwrap();
    let key = ring
        .find(&ring.generate(KeyClass::FpeFf1, "bench").unwrap())
        .unwrap();
    let ff1 = Ff1::new(Arc::clone(&ring), key, 10).unwrap();
    let software = FF1::<Aes256>::new(&[7; 32], 10).unwrap();

    let numerals = |seed: usize| {
        (0..16)
            .map(|place| ((seed * 7 + place) % 10) as u16)
            .collect::<Vec<_>>()
    };
    let plain: Vec<Vec<u16>> = (0..BATCH).map(numerals).collect();
    let mut batch: Vec<Ff1Value> = plain
        .iter()
        .map(|numerals| Ff1Value {
            numerals: numerals.clone(),
            tweak: TWEAK.to_vec(),
        })
        .collect();

    let in_token = rate(|| {
        ff1.encrypt(&mut batch).unwrap();
    });
    let in_software = rate(|| {
        for numerals in &plain {
            std::hint::black_box(
                software
                    .encrypt(TWEAK, &FlexibleNumeralString::from(numerals.clone()))
                    .unwrap(),
            );
        }
    });
    println!(
        "ff1 {:<24} {:>10.0} values/s in the token, {:>10.0} values/s with fpe in software, ratio {:.1}",
        format!("{} {}", token.manufacturer, token.model),
        in_token,
        in_software,
        in_token / in_software
    );
    ExitCode::from(u8::from(in_token < in_software))
}

/// Values per second of the best of several runs: the machine's other work only ever slows one down.
fn rate(mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    BATCH as f64 / best
}
