//! Behaviour on real PKCS#11 modules: the software token built here, and SoftHSM.
//!
//! A module reads its environment once per process, so each token gets a process of its own: the test starts this binary
//! again with the environment set, and the second process runs every check in turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod fixture;
mod fpe;
mod keys;
mod operations;
mod probe;
mod token;
mod user_kek;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::Fixture;

/// Names the module to the second process.
const MODULE: &str = "CASEMATE_TEST_MODULE";

#[test]
fn every_check_holds_on_the_software_token() {
    let remedy = "run `cargo xtask setup`, or `cargo build --release -p casemate-softtoken`";
    run("every_check_holds_on_the_software_token", software_token(), kryoptic_configuration, remedy);
}

#[test]
fn every_check_holds_on_softhsm() {
    let Some(module) = softhsm("every_check_holds_on_softhsm") else { return };
    let remedy = "install SoftHSM (Debian: `softhsm2`), or run `cargo xtask setup`";
    run("every_check_holds_on_softhsm", module, softhsm_configuration, remedy);
}

/// The module built here: target/release/deps/it-... -> target/release
fn software_token() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    executable.parent().and_then(Path::parent).unwrap().join("libcasemate_softtoken.so")
}

fn kryoptic_configuration(folder: &Path) -> (&'static str, String) {
    let slots: String = (1..=3)
        .map(|slot| {
            let path = folder.join(format!("token{slot}.sql"));
            format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {path:?}\n")
        })
        .collect();
    ("KRYOPTIC_CONF", slots)
}

/// SoftHSM2, unless set-up says why it cannot be installed here; the embedded token's run stays.
fn softhsm(test: &str) -> Option<PathBuf> {
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        eprintln!("SKIPPED: {test} (CASEMATE_WITHOUT_SOFTHSM is set)");
        return None;
    }
    let candidates = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    Some(found.unwrap_or_else(|| PathBuf::from(candidates[0])))
}

fn softhsm_configuration(folder: &Path) -> (&'static str, String) {
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", folder.display());
    ("SOFTHSM2_CONF", text)
}

/// First process: configures the token and starts the second. Second process: runs the checks.
fn run(test: &str, module: PathBuf, configure: impl Fn(&Path) -> (&'static str, String), remedy: &str) {
    if let Some(module) = std::env::var_os(MODULE) {
        return run_checks(Path::new(&module));
    }
    assert!(module.exists(), "{} is missing: {remedy}", module.display());
    let folder = tempfile::tempdir().unwrap();
    let (variable, text) = configure(folder.path());
    let configuration = folder.path().join("token.conf");
    std::fs::write(&configuration, text).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, &configuration)
        .env(MODULE, &module)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a check failed on {}", module.display());
    let held = stdout.lines().filter(|line| line.starts_with("check ")).count();
    assert_eq!(held, checks().count(), "every check must have run");
}

type Check = (&'static str, fn(&Fixture));

fn checks() -> impl Iterator<Item = &'static Check> {
    [token::CHECKS, keys::CHECKS, operations::CHECKS, fpe::CHECKS, user_kek::CHECKS].into_iter().flatten()
}

fn run_checks(module: &Path) {
    // The harness has begun a line of its own.
    println!();
    let fixture = Fixture::new(module);
    let mut failed = Vec::new();
    for (name, check) in checks() {
        // A check never leaves the fixture half changed in a way the next one relies on.
        let held = catch_unwind(AssertUnwindSafe(|| check(&fixture))).is_ok();
        println!("check {name} ... {}", if held { "ok" } else { "FAILED" });
        std::io::stdout().flush().unwrap();
        if !held {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// A list of checks under their own names.
#[macro_export]
macro_rules! list {
    ($($check:ident),* $(,)?) => {
        pub const CHECKS: &[$crate::Check] = &[$((stringify!($check), $check)),*];
    };
}
