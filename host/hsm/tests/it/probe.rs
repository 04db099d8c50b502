//! The probe on real modules: each line's finding is compared with `golden/findings.tsv`.
//!
//! Each module runs in a process of its own, as in `main.rs`, and on a token that holds nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use casemate_hsm::probe::{self, Access, Finding, Fingerprint, Outcome, Report, ScratchToken};
use casemate_hsm::{HsmError, KeyClass, Keyring, Module};
use casemate_types::Profile;
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::Session;

use crate::fixture::{PIN, SO_PIN, pin};

/// Module and parameters, for the second process.
const MODULE: &str = "CASEMATE_TEST_PROBE_MODULE";
const PARAMETERS: &str = "CASEMATE_TEST_PROBE_PARAMETERS";

/// One line a finding: id, then what kryoptic, SoftHSM2 and NSS softokn do.
const GOLDEN: &str = include_str!("golden/findings.tsv");

#[test]
fn the_software_token_is_as_it_was_measured() {
    let module = crate::software_token();
    own_process("the_software_token_is_as_it_was_measured", &module, crate::kryoptic_configuration, None, |module| {
        let report = scratch_report(module);
        check_golden(&report, "kryoptic");
        assert_eq!(detail(&report, "mechanism/aes-kwp"), "0x210B RFC 5649, 0x210A absent");
        assert!(detail(&report, "derive/extract").contains("the base itself"), "{}", detail(&report, "derive/extract"));
        assert!(detail(&report, "pin/lock-out").contains("by 10 wrong ones"), "{}", detail(&report, "pin/lock-out"));
        accepted_for_rehearsal_only(module);
    });
}

#[test]
fn softhsm_is_as_it_was_measured() {
    let Some(module) = crate::softhsm("softhsm_is_as_it_was_measured") else { return };
    own_process("softhsm_is_as_it_was_measured", &module, crate::softhsm_configuration, None, |module| {
        let report = scratch_report(module);
        check_golden(&report, "softhsm2");
        // Casemate wraps 32 bytes; other lengths would not unwrap elsewhere.
        let kwp = "0x210B absent, 0x210A RFC 5649 for whole 8-byte blocks only";
        assert_eq!(detail(&report, "mechanism/aes-kwp"), kwp);
        accepted_for_rehearsal_only(module);
    });
}

/// NSS wraps a key that "cannot" leave, so that it comes out in clear.
#[test]
fn nss_leaks_and_is_refused() {
    const TEST: &str = "nss_leaks_and_is_refused";
    if std::env::var_os("CASEMATE_WITHOUT_NSS").is_some() {
        eprintln!("SKIPPED: {TEST} (CASEMATE_WITHOUT_NSS is set)");
        return;
    }
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let candidates = folders
        .iter()
        .flat_map(|folder| ["libsoftokn3.so", "nss/libsoftokn3.so"].map(|name| Path::new(folder).join(name)));
    let found = candidates.clone().find(|path| path.exists());
    let module = found.expect("libsoftokn3.so is missing: install NSS (Debian: `libnss3`), or run `cargo xtask setup`");
    let configure = |_: &Path| ("NSS_UNUSED", String::new());
    let parameters = |folder: &Path| format!("configDir='sql:{}' flags=noModDB", folder.display());
    own_process(TEST, &module, configure, Some(&parameters), |module| {
        let report = scratch_report(module);
        check_golden(&report, "nss");
        for profile in Profile::ALL {
            let judgement = report.judge(profile);
            assert!(judgement.with(Outcome::Failed).contains(&"leak/wrap"), "{profile}");
            let Err(HsmError::TokenRefused { lines, .. }) = judgement.require() else { panic!("{profile}") };
            assert!(lines.contains("leak/wrap"), "{lines}");
        }
        assert!(detail(&report, "leak/wrap").contains("is the key itself"), "{}", detail(&report, "leak/wrap"));
        assert!(!Fingerprint::of(&report, &report.judge(Profile::Development)).fit);
    });
}

fn scratch_report(module: &Arc<Module>) -> Report {
    let scratch = ScratchToken::make(module).unwrap();
    let report = scratch.probe(module, &|_| ()).unwrap();
    for line in &report.lines {
        println!("{} {}: {}", line.id, line.finding, line.detail);
        line.evidence.iter().for_each(|call| println!("    {call}"));
    }
    assert!(report.scratch);
    // All three take known keys, so a mechanism that is not compared with its standard would be a fault of the probe.
    for id in ["mechanism/aes-ecb", "mechanism/aes-gcm", "mechanism/aes-kw", "mechanism/hmac-sha256"] {
        assert_eq!(detail(&report, id), "gives the standard's example", "{id}");
    }
    assert!(
        report
            .lines
            .iter()
            .all(|line| line.id == "mechanism/listed" || line.finding == Finding::Absent || !line.evidence.is_empty())
    );
    // A second run finds the same: nothing of the first is left, and the PIN is what it was.
    let again = scratch.probe(module, &|_| ()).unwrap();
    assert_eq!(again.digest(), report.digest());
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    report
}

fn detail<'a>(report: &'a Report, id: &str) -> &'a str {
    &report.lines.iter().find(|line| line.id == id).unwrap().detail
}

fn check_golden(report: &Report, column: &str) {
    let mut rows =
        GOLDEN.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect::<Vec<_>>());
    let header = rows.next().unwrap();
    let column = header.iter().position(|name| *name == column).unwrap();
    let expected: Vec<String> = rows.map(|row| format!("{} {}", row[0], row[column])).collect();
    let found: Vec<String> = report.lines.iter().map(|line| format!("{} {}", line.id, line.finding)).collect();
    assert_eq!(found, expected, "{} {}", report.library, report.token.model);
}

/// A token as a site has it: probed live, with its keys in it.
fn accepted_for_rehearsal_only(module: &Arc<Module>) {
    let label = "a site's token";
    module.initialise(label, &pin(SO_PIN), &pin(PIN)).unwrap();
    let ring = Keyring::open(Arc::clone(module), label, &pin(PIN)).unwrap();
    let key = ring.generate(KeyClass::AtRest, "kept").unwrap();
    let session = direct(module, label);
    let objects = session.find_objects(&[]).unwrap().len();
    // What a crash left behind.
    let left = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Label(b"casemate probe scratch".to_vec()),
        Attribute::Value(vec![7; 32]),
    ];
    session.create_object(&left).unwrap();
    drop(session);
    let live = Access::Live { pin: Some(&pin(PIN)) };
    // The PIN of a process that is logged in cannot be checked.
    assert!(matches!(probe::run(module, label, &live, &|_| ()), Err(HsmError::AlreadyOpen { .. })));
    drop(ring);
    let wrong = pin("not the pin");
    let refused = probe::run(module, label, &Access::Live { pin: Some(&wrong) }, &|_| ());
    assert!(matches!(refused, Err(HsmError::PinIncorrect)));

    let report = probe::run(module, label, &live, &|_| ()).unwrap();
    assert!(!report.scratch);
    let not_tried: Vec<&str> =
        report.lines.iter().filter(|line| line.finding == Finding::NotTried).map(|line| line.id.as_str()).collect();
    assert_eq!(not_tried, ["stream/after-logout", "pin/so-reset", "pin/lock-out"]);
    for (profile, fit) in [
        (Profile::Government, false),
        (Profile::Enterprise, true),
        (Profile::Rehearsal, true),
        (Profile::Development, true),
    ] {
        assert_eq!(report.judge(profile).fit, fit, "{profile}");
    }
    // The token is as it was: its key is there, its PIN is right, and nothing was added.
    let ring = Keyring::open(Arc::clone(module), label, &pin(PIN)).unwrap();
    ring.find(&key).unwrap();
    assert_eq!(direct(module, label).find_objects(&[]).unwrap().len(), objects);
    fingerprint(module, label, &report);
    // The first scratch token is still there, and does not stand in the way of a second.
    ScratchToken::make(module).unwrap().probe(module, &|_| ()).unwrap();
}

/// A session around this crate. The login is the process's, so it holds here too.
fn direct(module: &Arc<Module>, label: &str) -> Session {
    let direct = Pkcs11::new(module.path()).unwrap();
    let slots = direct.get_slots_with_initialized_token().unwrap();
    let slot = slots.into_iter().find(|slot| direct.get_token_info(*slot).unwrap().label().trim_end() == label);
    direct.open_rw_session(slot.unwrap()).unwrap()
}

fn fingerprint(module: &Arc<Module>, label: &str, report: &Report) {
    let print = Fingerprint::of(report, &report.judge(Profile::Rehearsal));
    print.check(module, label, Profile::Rehearsal).unwrap();
    let stricter = print.check(module, label, Profile::Government);
    assert!(matches!(stricter, Err(HsmError::TokenUnprobed { profile: Profile::Government })));
    let other = Fingerprint { firmware: "0.0 of before".to_owned(), ..print.clone() };
    let Err(HsmError::TokenChanged { what: "firmware", .. }) = other.check(module, label, Profile::Rehearsal) else {
        panic!("another firmware must be noticed")
    };
    let other = Fingerprint { serial: "another".to_owned(), ..print.clone() };
    assert!(matches!(other.check(module, label, Profile::Rehearsal), Err(HsmError::TokenChanged { .. })));
    let refused = Fingerprint { fit: false, ..print };
    assert!(matches!(refused.check(module, label, Profile::Rehearsal), Err(HsmError::TokenRefused { .. })));
}

/// First process: configures the module and starts the second. Second process: runs the checks.
fn own_process(
    test: &str,
    module: &Path,
    configure: impl Fn(&Path) -> (&'static str, String),
    parameters: Option<&dyn Fn(&Path) -> String>,
    checks: impl Fn(&Arc<Module>),
) {
    if let Some(module) = std::env::var_os(MODULE) {
        let parameters = std::env::var(PARAMETERS).ok();
        println!();
        checks(&Module::load_with(&PathBuf::from(module), parameters.as_deref()).unwrap());
        println!("checked {test}");
        return;
    }
    assert!(module.exists(), "{} is missing; run `cargo xtask setup` and build the workspace", module.display());
    let folder = tempfile::tempdir().unwrap();
    let (variable, text) = configure(folder.path());
    let configuration = folder.path().join("token.conf");
    std::fs::write(&configuration, text).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("probe::{test}"), "--nocapture", "--test-threads=1"]);
    command.env(variable, &configuration).env(MODULE, module);
    if let Some(parameters) = parameters {
        command.env(PARAMETERS, parameters(folder.path()));
    }
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a check failed on {}", module.display());
    assert!(stdout.contains(&format!("checked {test}")), "the checks must have run");
}
