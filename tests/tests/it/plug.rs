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
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = site.command(arguments);
    command.env("LD_PRELOAD", library()).env("CASEMATE_PLUG_CALLS", calls).env("CASEMATE_PLUG_AT", at.to_string());
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
/// verify. Returns the steps.
pub fn at_every_step(site: &Site, order: &[&str], after: impl Fn(&Site, &str)) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        let site = site.copy();
        let pulled = pull(&site, order, "rename unlink fdatasync", steps.len() + 1);
        if !pulled.killed {
            return steps;
        }
        steps.push(pulled.step);
        let told = format!("killed at step {}: {steps:?}", steps.len());
        after(&site, &told);
        site.casemate(&["audit", "verify"]).expect(0);
    }
}
