//! What `casemate plugin new` writes is a whole plugin: its own tests pass, and it can be packed.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::guest::root;
use crate::site;

#[test]
fn every_kind_of_new_plugin_passes_its_tests_and_can_be_packed() {
    let work = tempfile::tempdir().unwrap();
    let site = site::bare();
    for kind in ["policy", "strategy", "agent"] {
        let name = format!("my-{kind}");
        let sdk = root().join("sdk-guest");
        let new = ["plugin", "new", &name, "--kind", kind, "--sdk", site::text(&sdk)];
        let new = run(site.command(&new).current_dir(work.path()));
        assert!(new.contains(&name), "{new}");
        let mut tests = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // One folder for all three, so that the SDK is compiled once; offline, because a policy team may be.
        tests.args(["test", "--offline"]).current_dir(work.path().join(&name)).env("CARGO_TARGET_DIR", target());
        let tested = run(&mut tests);
        let passed = tested.lines().filter_map(|line| line.strip_prefix("test result: ok. ")).next().expect(&tested);
        assert!(!passed.starts_with("0 passed"), "{kind}: {tested}");
        let mut build = site.command(&["bundle", "build", &name]);
        run(build.current_dir(work.path()).env("CARGO_TARGET_DIR", target()));
        assert!(work.path().join(format!("{name}.casemate")).exists());
    }
}

fn target() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("skeleton")
}

/// Insists on success and returns standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}{error}");
    out.into_owned()
}
