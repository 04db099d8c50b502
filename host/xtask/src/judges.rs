//! Judges that are not ours: python-tuf in an environment of its own, and the TUF conformance suite, run by path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{setup, shell};

/// python-tuf and pytest, pinned by version and SHA-256.
const PINS: &str = include_str!("python-tuf.txt");

/// A digest over the files of the suite, as anybody can take it in the suite's folder.
const DIGEST: &str = "find tuf_conformance -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";

/// The Python of an environment with python-tuf, made where it is missing.
pub fn python_tuf() -> Result<PathBuf, String> {
    let folder = shell::work().join("python-tuf");
    let (python, pins) = (folder.join("bin/python"), folder.join("pins.txt"));
    if python.exists() && fs::read_to_string(&pins).is_ok_and(|made| made == PINS) {
        return Ok(python);
    }
    println!("== installing python-tuf by pip into {}: a foreign judge of bundles (hashes pinned)", folder.display());
    let _ = fs::remove_dir_all(&folder);
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .map_err(|error| format!("{error}; on Debian: apt-get install python3-venv"))?;
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, PINS).map_err(|error| error.to_string())?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]);
    shell::run(pip.arg("--requirement").arg(&wanted))?;
    // Under its final name only when everything is there.
    fs::rename(&wanted, &pins).map_err(|error| error.to_string())?;
    Ok(python)
}

/// Runs the suite that lies at a path, with our client in it. Nothing counts but every test passed.
pub fn conformance(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let suite = std::path::absolute(&options.suite).map_err(|error| error.to_string())?;
    let (version, digest) = identity(&suite)?;
    println!("== tuf-conformance {version}, its files: sha256 {digest}");
    for (what, wanted, found) in [("version", &options.version, &version), ("digest", &options.digest, &digest)] {
        if wanted.as_ref().is_some_and(|wanted| wanted != found) {
            return Err(format!("the suite at {} has another {what} than the one named: {found}", suite.display()));
        }
    }
    setup::faketime()?;
    let python = python_tuf()?;
    if !options.built {
        setup::build(&setup::run()?)?;
    }
    let client = shell::binary("casemate-tuf-client");
    if !client.exists() {
        return Err(format!("{} is missing; leave --built out, and it is built", client.display()));
    }
    let report = shell::work().join("tuf-conformance.xml");
    let _ = fs::remove_file(&report);
    let mut pytest = Command::new(python);
    pytest.args(["-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "tuf_conformance", "--entrypoint"]);
    pytest.arg(&client).arg("--junitxml").arg(&report).current_dir(&suite).env("PYTHONDONTWRITEBYTECODE", "1");
    // Its exit code says no more than the report.
    let ran = shell::run(&mut pytest);
    let counts = Counts::read(&fs::read_to_string(&report).map_err(|_| "the suite did not run to its end")?)?;
    println!(
        "== tuf-conformance {version}: {} passed, {} failed, {} left out",
        counts.passed, counts.failed, counts.left_out
    );
    match counts {
        Counts { passed: 1.., failed: 0, left_out: 0 } => ran,
        _ => Err("the TUF client does not pass the whole suite".to_owned()),
    }
}

#[derive(Default)]
struct Options {
    suite: PathBuf,
    version: Option<String>,
    digest: Option<String>,
    built: bool,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    const USAGE: &str = "usage: cargo xtask tuf-conformance PATH [--version V] [--digest SHA256] [--built]";
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().ok_or_else(|| USAGE.to_owned());
        match argument.as_str() {
            "--built" => options.built = true,
            "--version" => options.version = Some(value()?),
            "--digest" => options.digest = Some(value()?),
            path if options.suite.as_os_str().is_empty() && !path.starts_with('-') => options.suite = path.into(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    if options.suite.as_os_str().is_empty() { Err(USAGE.to_owned()) } else { Ok(options) }
}

/// The version the suite names, and the digest over its files.
fn identity(suite: &Path) -> Result<(String, String), String> {
    let init = suite.join("tuf_conformance/__init__.py");
    let text = fs::read_to_string(&init).map_err(|error| {
        format!("{}: {error}; name the folder that tuf-conformance was unpacked to", init.display())
    })?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))
        .ok_or_else(|| format!("{} names no version", init.display()))?;
    let (digest, code) = shell::capture(Command::new("sh").args(["-c", DIGEST]).current_dir(suite))?;
    let digest = digest.split_whitespace().next().unwrap_or_default();
    if code != 0 || digest.len() != 64 {
        return Err(format!("no digest could be taken of {}", suite.display()));
    }
    Ok((version.trim_matches('"').to_owned(), digest.to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    left_out: u32,
}

impl Counts {
    /// Reads the totals of a JUnit report.
    fn read(report: &str) -> Result<Self, String> {
        let suite = report.split_once("<testsuite ").map_or("", |(_, rest)| rest.split('>').next().unwrap_or_default());
        let count = |name: &str| {
            let value = suite.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
            value.and_then(|value| value.parse::<u32>().ok()).ok_or_else(|| format!("the suite's report has no {name}"))
        };
        let (all, failed, left_out) =
            (count("tests")?, count("failures")?.saturating_add(count("errors")?), count("skipped")?);
        let passed = all.checked_sub(failed).and_then(|rest| rest.checked_sub(left_out));
        Ok(Self { passed: passed.ok_or("the suite's report does not add up")?, failed, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_erring_and_skipped_tests_are_not_counted_as_passed() {
        let report = r#"<?xml version="1.0"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="113" time="18.1">"#;
        assert_eq!(Counts::read(report), Ok(Counts { passed: 107, failed: 3, left_out: 3 }));
        assert!(Counts::read("<testsuites/>").is_err());
        assert!(Counts::read(r#"<testsuite errors="0" failures="2" skipped="0" tests="1">"#).is_err());
    }

    #[test]
    fn every_pin_has_a_hash() {
        let (mut pins, mut bare) = (0, false);
        for line in PINS.lines().filter(|line| !line.starts_with('#')) {
            if line.contains("==") {
                assert!(!bare, "a pin without a hash before {line}");
                (pins, bare) = (pins + 1, true);
            } else {
                assert!(line.trim_start().starts_with("--hash=sha256:"), "{line}");
                bare = false;
            }
        }
        assert!(pins > 5 && !bare);
    }
}
