use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_hsm::fpe::encrypt_batch;
use casemate_hsm::{BatchReport, EcbBlocks, Ff1, Ff1Value, HsmError, KeyClass, Keyring, Module, OverlapFf1, Pin};
use fpe::ff1::{FF1, FlexibleNumeralString};

use crate::report::{Baseline, Report};

const MODULE: &str = "CASEMATE_BENCH_MODULE";
const TWEAK: &[u8] = b"card no.";
const LONG: Duration = Duration::from_millis(600);

/// Bar: how many times the `fpe` crate in software a batch of 1,000 has to reach.
const BAR: f64 = 15.0;
/// Bar: values/s at batch 1,000 through a token that answers each call after 1 ms.
const DELAYED_BAR: f64 = 50_000.0;

/// FF1 with the key in a token (lock-step) against the `fpe` crate with an AES-256 key in software: 16 digits, 8-byte tweak.
pub fn run(report: &mut Report) {
    let software = software();
    report.row("fpe", "fpe crate, AES-256 in software", software, "values/s", None);
    let executable = std::env::current_exe().unwrap();
    let embedded = executable.with_file_name("libcasemate_softtoken.so");
    let shim = executable.with_file_name("libcasemate_shim.so");
    for (name, module, variable) in [
        ("embedded token", embedded.as_path(), "KRYOPTIC_CONF"),
        ("SoftHSM2", Path::new("/usr/lib/softhsm/libsofthsm2.so"), "SOFTHSM2_CONF"),
    ] {
        if !module.exists() {
            eprintln!("{name} is not here; run `cargo xtask setup`");
            continue;
        }
        let (mut one, mut crowd) = (0.0, 0.0);
        for line in measure(&executable, module, variable, &[]) {
            match line.split_once(' ').unwrap() {
                ("arithmetic", rate) => {
                    let case = format!("the same arithmetic for the {name}, AES left out");
                    report.row("fpe", &case, rate.parse().unwrap(), "values/s", None);
                }
                ("share", share) => {
                    let case = format!("time of a batch of 1000 in the {name} itself");
                    report.row("fpe", &case, share.parse().unwrap(), "%", None);
                }
                ("crowd", rate) => {
                    crowd = rate.parse().unwrap();
                    report.row("fpe", &format!("one value a call, 32 threads, {name}"), crowd, "values/s", None);
                }
                ("overlap", rate) => {
                    let rate: f64 = rate.parse().unwrap();
                    let baseline = Baseline { name: "each on its own", ratio: rate / crowd };
                    let case = format!("the same, overlapping calls share batches, {name}");
                    report.row("fpe", &case, rate, "values/s", Some(baseline));
                }
                ("overlap-alone", rate) => {
                    let rate: f64 = rate.parse().unwrap();
                    let baseline = Baseline { name: "batch 1", ratio: rate / one };
                    report.row("fpe", &format!("the same, one thread alone, {name}"), rate, "values/s", Some(baseline));
                }
                (batch, rate) => {
                    let rate: f64 = rate.parse().unwrap();
                    if batch == "1" {
                        one = rate;
                    }
                    let case = format!("lock-step FF1 in the {name}, batch {batch}");
                    let baseline = Baseline { name: "fpe in software", ratio: rate / software };
                    report.row("fpe", &case, rate, "values/s", Some(baseline));
                    if batch == "1000" && rate < BAR * software {
                        eprintln!("below the bar: {case} is less than {BAR} times fpe in software");
                    }
                }
            }
        }
        let delayed = [("CASEMATE_SHIM_MODULE", module.as_os_str()), ("CASEMATE_SHIM_DELAY_US", "1000".as_ref())];
        for line in measure(&executable, &shim, variable, &delayed) {
            let (batch, rate) = line.split_once(' ').unwrap();
            if batch.parse::<usize>().is_err() {
                continue;
            }
            let rate: f64 = rate.parse().unwrap();
            let case = format!("the same, 1 ms a call, batch {batch}");
            report.row("fpe", &case, rate, "values/s", None);
            if batch == "1000" && rate < DELAYED_BAR {
                eprintln!("below the bar: {case} in the {name} is less than {DELAYED_BAR} values/s");
            }
        }
    }
}

/// The lines of [`child`]. A module reads its environment once, so each is measured in a process of its own, on a fresh token.
fn measure(executable: &Path, module: &Path, variable: &str, environment: &[(&str, &OsStr)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let text = if variable == "KRYOPTIC_CONF" {
        format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {:?}\n", folder.path().join("token.sqlite"))
    } else {
        format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", folder.path().display())
    };
    let configuration = folder.path().join("token.conf");
    std::fs::write(&configuration, text).unwrap();
    let mut command = Command::new(executable);
    command.env(variable, &configuration).env(MODULE, module).envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Whether this process measures one token.
pub fn is_child() -> bool {
    std::env::var_os(MODULE).is_some()
}

/// Prints `batch rate` for each batch size, then what limits the largest.
pub fn child() -> ExitCode {
    let module = std::env::var_os(MODULE).unwrap();
    let module = Module::load(Path::new(&module)).unwrap();
    let pin = Pin::random().unwrap();
    module.initialise("bench", &Pin::random().unwrap(), &pin).unwrap();
    let keyring = Keyring::open(module, "bench", &pin).unwrap();
    let reference = keyring.generate(KeyClass::FpeFf1, "bench").unwrap();
    let ff1 = Ff1::new(Arc::clone(&keyring), keyring.find(&reference).unwrap(), 10).unwrap();
    let mut largest = 0.0;
    for size in [1, 10, 100, 1000] {
        largest = rate(size, |batch| ff1.encrypt(batch).unwrap());
        println!("{size} {largest}");
    }
    // One value a call from 32 threads at once, as requests come.
    let crowd = |encrypt: &(dyn Fn(&mut [Ff1Value]) + Sync)| {
        let (started, done) = (Instant::now(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..32 {
                let done = &done;
                scope.spawn(move || {
                    let mut batch = [Ff1Value { numerals: digits(thread), tweak: TWEAK.to_vec() }];
                    while started.elapsed() < LONG {
                        encrypt(&mut batch);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
    };
    println!("crowd {}", crowd(&|batch| _ = ff1.encrypt(batch).unwrap()));
    let shared = Arc::new(Ff1::new(Arc::clone(&keyring), keyring.find(&reference).unwrap(), 10).unwrap());
    let other = Arc::clone(&shared);
    let overlap = OverlapFf1::with_defaults(10, move |batch| shared.encrypt(batch), move |batch| other.decrypt(batch));
    println!("overlap {}", crowd(&|batch| _ = overlap.encrypt(batch).unwrap()));
    println!("overlap-alone {}", rate(1, |batch| overlap.encrypt(batch).unwrap()));
    let arithmetic = rate(1000, |batch| encrypt_batch(&NoCipher, 10, batch).unwrap());
    println!("arithmetic {arithmetic}");
    println!("share {}", 100.0 * (1.0 - largest / arithmetic));
    ExitCode::SUCCESS
}

/// Leaves blocks as they are: what remains is the work outside the token.
struct NoCipher;

impl EcbBlocks for NoCipher {
    fn encrypt_blocks(&self, _: &mut [[u8; 16]]) -> Result<(), HsmError> {
        Ok(())
    }
}

/// Values per second in batches of `size`.
fn rate(size: usize, encrypt: impl Fn(&mut [Ff1Value]) -> BatchReport) -> f64 {
    let mut batch: Vec<Ff1Value> = (0..size).map(|n| Ff1Value { numerals: digits(n), tweak: TWEAK.to_vec() }).collect();
    encrypt(&mut batch);
    let (started, mut values) = (Instant::now(), 0);
    while started.elapsed() < LONG {
        values += encrypt(&mut batch).values;
    }
    values as f64 / started.elapsed().as_secs_f64()
}

fn software() -> f64 {
    let ff1 = FF1::<aes::Aes256>::new(&[9; 32], 10).unwrap();
    let plain: Vec<FlexibleNumeralString> = (0..100).map(|n| FlexibleNumeralString::from(digits(n))).collect();
    let (started, mut values) = (Instant::now(), 0);
    while started.elapsed() < LONG {
        for value in &plain {
            std::hint::black_box(ff1.encrypt(TWEAK, value).unwrap());
        }
        values += plain.len();
    }
    values as f64 / started.elapsed().as_secs_f64()
}

fn digits(n: usize) -> Vec<u16> {
    (0..16).map(|place| ((n * 7 + place * 3) % 10) as u16).collect()
}
