//! `kill -9` at every call that makes something durable or takes it away, one after the other: `plug/plug.c`, preloaded.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::guest::root;
use crate::site::{Site, text};

/// The library, compiled with the system's C compiler, which links this test as well.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libplug.so");
        let source = root().join("tests/tests/plug/plug.c");
        let made =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        library
    })
}

/// A run of a command.
pub struct Pulled {
    /// Whether the plug was pulled; otherwise the command came to its end before.
    pub killed: bool,
    /// The call before which it was pulled, with the file's path.
    pub step: String,
}

/// Runs a command and kills it before its `at`-th call of the named kinds; 0 lets it run.
pub fn pull(site: &Site, arguments: &[&str], calls: &str, at: usize) -> Pulled {
    pull_on(site, arguments, (calls, ""), at)
}

/// As [`pull`], of the calls about paths that hold `on`.
pub fn pull_on(site: &Site, arguments: &[&str], (calls, on): (&str, &str), at: usize) -> Pulled {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = site.command(arguments);
    command.env("LD_PRELOAD", library()).env("CASEMATE_PLUG_CALLS", calls).env("CASEMATE_PLUG_AT", at.to_string());
    if !on.is_empty() {
        command.env("CASEMATE_PLUG_PATH", on);
    }
    command.env("CASEMATE_PLUG_LOG", log.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().unwrap();
    let told = fs::read_to_string(log.path()).unwrap();
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{arguments:?} before call {at}: {status}, {told}");
    let step = told.lines().last().unwrap_or_default();
    let step = step.replace(text(&fs::canonicalize(&site.dir).unwrap()), "").replace(text(&site.dir), "");
    Pulled { killed, step }
}

/// Kills an order before each of its durable steps, in a copy of the site each time; `after` looks at what is left, and the log has to
/// verify. The first calls about the `named` paths are among them for certain: the log's own steps come when they do.
pub fn at_every_step(site: &Site, order: &[&str], named: &[&str], after: impl Fn(&Site, &str)) {
    const CALLS: &str = "rename unlink fdatasync";
    let killed = |on: &str, at: usize, steps: &[String]| {
        let site = site.copy();
        let pulled = pull_on(&site, order, (CALLS, on), at);
        let step = pulled.killed.then_some(pulled.step)?;
        after(&site, &format!("killed before {step}, after {steps:?}"));
        site.casemate(&["audit", "verify"]).expect(0);
        Some(step)
    };
    for on in named {
        assert!(killed(on, 1, &[]).is_some(), "nothing is done about {on}");
    }
    let mut steps = Vec::new();
    while let Some(step) = killed("", steps.len() + 1, &steps) {
        steps.push(step);
    }
}
