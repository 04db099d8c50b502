//! Behaviour on real PKCS#11 modules: the software token built here, and SoftHSM.
//!
//! A module reads its environment once per process, so each token gets a process of its own: the test starts this binary
//! again with the environment set, and the second process runs every check in turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod destruction;
mod fault;
mod fixture;
mod fpe;
mod keys;
mod operations;
mod pair;
mod probe;
mod raw;
mod replication;
mod token;
mod user_kek;
mod vectors;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::Fixture;

/// Names the module to the second process.
const MODULE: &str = "CASEMATE_TEST_MODULE";

/// Tells the second process where its tokens keep their objects.
const FOLDER: &str = "CASEMATE_TEST_FOLDER";

#[test]
fn every_check_holds_on_the_software_token() {
    let Some(tokens) = second_process("every_check_holds_on_the_software_token", &[Make::Embedded], checks().count())
    else {
        return;
    };
    run_checks(&tokens[0], checks());
}

#[test]
fn every_check_holds_on_softhsm() {
    let Some(tokens) = second_process("every_check_holds_on_softhsm", &[Make::SoftHsm], checks().count()) else {
        return;
    };
    run_checks(&tokens[0], checks());
}

#[test]
fn no_fault_gives_ciphertext_on_the_software_token() {
    run_faults("no_fault_gives_ciphertext_on_the_software_token", Make::Embedded);
}

#[test]
fn no_fault_gives_ciphertext_on_softhsm() {
    run_faults("no_fault_gives_ciphertext_on_softhsm", Make::SoftHsm);
}

/// Through the module in `tests/shim`, which is among this program's dependencies.
fn run_faults(test: &str, make: Make) {
    if second_process(test, &[make], fault::CHECKS.len()).is_some() {
        run_checks(&std::env::current_exe().unwrap().with_file_name("libcasemate_shim.so"), fault::CHECKS.iter());
    }
}

/// The module built here: target/release/deps/it-... -> target/release
fn software_token() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    executable.parent().and_then(Path::parent).unwrap().join("libcasemate_softtoken.so")
}

fn kryoptic_configuration(folder: &Path) -> (&'static str, String) {
    let slots: String = (1..=5)
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
    Some(softhsm_module())
}

fn softhsm_module() -> PathBuf {
    let candidates = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(candidates[0]))
}

fn softhsm_configuration(folder: &Path) -> (&'static str, String) {
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", folder.display());
    ("SOFTHSM2_CONF", text)
}

#[test]
fn every_check_holds_on_a_pair_of_the_software_token() {
    run_pair("every_check_holds_on_a_pair_of_the_software_token", [Make::Embedded, Make::Embedded]);
}

#[test]
fn every_check_holds_on_a_pair_of_softhsm() {
    run_pair("every_check_holds_on_a_pair_of_softhsm", [Make::SoftHsm, Make::SoftHsm]);
}

#[test]
fn every_check_holds_with_softhsm_behind_the_software_token() {
    run_pair("every_check_holds_with_softhsm_behind_the_software_token", [Make::Embedded, Make::SoftHsm]);
}

#[test]
fn every_check_holds_with_the_software_token_behind_softhsm() {
    run_pair("every_check_holds_with_the_software_token_behind_softhsm", [Make::SoftHsm, Make::Embedded]);
}

/// The two modules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Embedded,
    SoftHsm,
}

impl Make {
    fn module(self) -> PathBuf {
        match self {
            Self::Embedded => software_token(),
            Self::SoftHsm => softhsm_module(),
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Embedded => "run `cargo xtask setup`, or `cargo build --release -p casemate-softtoken`",
            Self::SoftHsm => "install SoftHSM (Debian: `softhsm2`), or run `cargo xtask setup`",
        }
    }

    /// The environment variable, and the configuration it leads to.
    fn configuration(self, folder: &Path) -> (&'static str, String) {
        match self {
            Self::Embedded => kryoptic_configuration(folder),
            Self::SoftHsm => {
                let tokens = folder.join("softhsm");
                std::fs::create_dir_all(&tokens).unwrap();
                softhsm_configuration(&tokens)
            }
        }
    }

    /// Where the token that was initialised as number `number` keeps its objects.
    fn storage(self, folder: &Path, number: usize) -> PathBuf {
        match self {
            Self::Embedded => folder.join(format!("token{number}.sql")),
            Self::SoftHsm => {
                let entries = std::fs::read_dir(folder.join("softhsm")).unwrap();
                let mut folders: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
                folders.sort_by_key(|entry| entry.metadata().unwrap().created().unwrap());
                folders[number - 1].path()
            }
        }
    }
}

/// First process: configures the tokens, starts the second and judges it. Second process: gives the modules' paths.
fn second_process(test: &str, makes: &[Make], checks: usize) -> Option<Vec<PathBuf>> {
    if let Some(modules) = std::env::var_os(MODULE) {
        return Some(std::env::split_paths(&modules).collect());
    }
    if makes.contains(&Make::SoftHsm) && std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        // Set-up says why SoftHSM cannot be installed here; the embedded token's run stays.
        eprintln!("SKIPPED: {test} (CASEMATE_WITHOUT_SOFTHSM is set)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    for make in makes {
        let module = make.module();
        assert!(module.exists(), "{} is missing: {}", module.display(), make.remedy());
        let (variable, text) = make.configuration(folder.path());
        let configuration = folder.path().join(variable);
        std::fs::write(&configuration, text).unwrap();
        command.env(variable, &configuration).env("CASEMATE_SHIM_MODULE", &module);
    }
    let modules = std::env::join_paths(makes.iter().map(|make| make.module())).unwrap();
    command.env(MODULE, &modules).env(FOLDER, folder.path());
    command.env("CASEMATE_SHIM_PAD_FILE", folder.path().join("pad"));
    let output = command.env("CASEMATE_SHIM_FAULT_FILE", folder.path().join("fault")).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a check failed in {test}");
    let held = stdout.lines().filter(|line| line.starts_with("check ")).count();
    assert_eq!(held, checks, "every check must have run");
    None
}

fn run_pair(test: &str, makes: [Make; 2]) {
    let Some(modules) = second_process(test, &makes, pair::CHECKS.len()) else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    println!();
    let token = |index: usize, label| {
        let module = casemate_hsm::Module::load(&modules[index]).unwrap();
        // The second token of one make is its second.
        let number = if makes[0] == makes[1] { index + 1 } else { 1 };
        pair::Token::new(module, label, || makes[index].storage(&folder, number))
    };
    let lab = pair::Lab::new([token(0, "pair primary"), token(1, "pair backup")]);
    judge(pair::CHECKS.iter().map(|(name, check)| (*name, || check(&lab))));
}

type Check = (&'static str, fn(&Fixture));

fn checks() -> impl Iterator<Item = &'static Check> {
    [
        token::CHECKS,
        keys::CHECKS,
        operations::CHECKS,
        user_kek::CHECKS,
        replication::CHECKS,
        destruction::CHECKS,
        fpe::CHECKS,
        vectors::CHECKS,
    ]
    .into_iter()
    .flatten()
}

fn run_checks(module: &Path, checks: impl Iterator<Item = &'static Check>) {
    // The harness has begun a line of its own.
    println!();
    let fixture = Fixture::new(module);
    judge(checks.map(|(name, check)| (*name, || check(&fixture))));
}

/// Runs each check, says how it went, and fails if one did.
fn judge<F: Fn()>(checks: impl Iterator<Item = (&'static str, F)>) {
    let mut failed = Vec::new();
    for (name, check) in checks {
        // A check never leaves the tokens half changed in a way the next one relies on.
        let held = catch_unwind(AssertUnwindSafe(&check)).is_ok();
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
