use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_hsm::{Ff1, Ff1Value, KeyClass, Keyring, Module, Pin};
use fpe::ff1::{FF1, FlexibleNumeralString};

use crate::report::{Baseline, Report};

const MODULE: &str = "CASEMATE_BENCH_MODULE";
const TWEAK: &[u8] = b"card no.";
const LONG: Duration = Duration::from_millis(600);

/// FF1 with the key in a token (lock-step) against the `fpe` crate with an AES-256 key in software: 16 digits, 8-byte tweak.
pub fn run(report: &mut Report) {
    let software = software();
    report.row("fpe", "fpe crate, AES-256 in software", software, "values/s", None);
    let executable = std::env::current_exe().unwrap();
    let embedded = executable.with_file_name("libcasemate_softtoken.so");
    for (name, module, variable) in [
        ("embedded token", embedded.as_path(), "KRYOPTIC_CONF"),
        ("SoftHSM2", Path::new("/usr/lib/softhsm/libsofthsm2.so"), "SOFTHSM2_CONF"),
    ] {
        if !module.exists() {
            eprintln!("{name} is not here; run `cargo xtask setup`");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let text = if variable == "KRYOPTIC_CONF" {
            format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {:?}\n", folder.path().join("token.sqlite"))
        } else {
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                folder.path().display()
            )
        };
        let configuration = folder.path().join("token.conf");
        std::fs::write(&configuration, text).unwrap();
        // A module reads its environment once, so each token is measured in a process of its own.
        let output = Command::new(&executable).env(variable, &configuration).env(MODULE, module).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let (batch, rate) = line.split_once(' ').unwrap();
            let rate: f64 = rate.parse().unwrap();
            let case = format!("lock-step FF1 in the {name}, batch {batch}");
            let baseline = Baseline { name: "fpe in software", ratio: rate / software };
            report.row("fpe", &case, rate, "values/s", Some(baseline));
        }
    }
}

/// Whether this process measures one token.
pub fn is_child() -> bool {
    std::env::var_os(MODULE).is_some()
}

/// Prints `batch rate` for each batch size.
pub fn child() -> ExitCode {
    let module = std::env::var_os(MODULE).unwrap();
    let module = Module::load(Path::new(&module)).unwrap();
    let pin = Pin::random().unwrap();
    module.initialise("bench", &Pin::random().unwrap(), &pin).unwrap();
    let keyring = Keyring::open(module, "bench", &pin).unwrap();
    let reference = keyring.generate(KeyClass::FpeFf1, "bench").unwrap();
    let ff1 = Ff1::new(Arc::clone(&keyring), keyring.find(&reference).unwrap(), 10).unwrap();
    for size in [1, 10, 100, 1000] {
        let mut batch: Vec<Ff1Value> =
            (0..size).map(|n| Ff1Value { numerals: digits(n), tweak: TWEAK.to_vec() }).collect();
        ff1.encrypt(&mut batch).unwrap();
        let (started, mut values) = (Instant::now(), 0);
        while started.elapsed() < LONG {
            ff1.encrypt(&mut batch).unwrap();
            values += size;
        }
        println!("{size} {}", values as f64 / started.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}

fn software() -> f64 {
    let ff1 = FF1::<aes::Aes256>::new(&[9; 32], 10).unwrap();
    let (started, mut values) = (Instant::now(), 0);
    while started.elapsed() < LONG {
        for n in 0..100 {
            let value = FlexibleNumeralString::from(digits(n));
            std::hint::black_box(ff1.encrypt(TWEAK, &value).unwrap());
        }
        values += 100;
    }
    values as f64 / started.elapsed().as_secs_f64()
}

fn digits(n: usize) -> Vec<u16> {
    (0..16).map(|place| ((n * 7 + place * 3) % 10) as u16).collect()
}
