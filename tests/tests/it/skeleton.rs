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

/// Two teams, or one that began with a copy: what is packed is the code of the folder that was named.
#[test]
fn a_plugin_of_the_same_name_elsewhere_is_not_taken_for_it() {
    let work = tempfile::tempdir().unwrap();
    let site = site::bare();
    let component = |team: &str, word: &str| {
        let folder = work.path().join(team);
        std::fs::create_dir(&folder).unwrap();
        let sdk = root().join("sdk-guest");
        let new = ["plugin", "new", "guard", "--sdk", site::text(&sdk)];
        run(site.command(&new).current_dir(&folder));
        let source = folder.join("guard/src/lib.rs");
        let code = std::fs::read_to_string(&source).unwrap();
        assert!(code.contains("This word may not be asked about."));
        std::fs::write(&source, code.replace("This word may not be asked about.", word)).unwrap();
        run(site.command(&["bundle", "build", "guard"]).current_dir(&folder).env("CARGO_TARGET_DIR", target()));
        std::fs::read(folder.join("guard.casemate")).unwrap()
    };
    let holds = |bundle: &[u8], word: &str| bundle.windows(word.len()).any(|window| window == word.as_bytes());
    let (red, blue) = (component("red", "Not for the red team."), component("blue", "Not for the blue team."));
    assert!(holds(&red, "Not for the red team.") && !holds(&red, "Not for the blue team."));
    assert!(holds(&blue, "Not for the blue team.") && !holds(&blue, "Not for the red team."));
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
