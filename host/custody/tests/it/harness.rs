//! Real PKCS#11 modules. A module reads its environment once per process and a login is the process's, so each role of a test
//! is played by this binary, started again.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROLE: &str = "CASEMATE_TEST_ROLE";
const MODULE: &str = "CASEMATE_TEST_MODULE";
const FOLDER: &str = "CASEMATE_TEST_FOLDER";

/// A module with storage of its own, for the roles of one test.
pub struct Ground {
    test: &'static str,
    module: PathBuf,
    folder: tempfile::TempDir,
    variable: &'static str,
}

impl Ground {
    pub fn software_token(test: &'static str) -> Self {
        // target/release/deps/it-... -> target/release
        let executable = std::env::current_exe().unwrap();
        let module = executable.parent().and_then(Path::parent).unwrap().join("libcasemate_softtoken.so");
        assert!(module.exists(), "{} is missing: run `cargo xtask setup`", module.display());
        let folder = tempfile::tempdir().unwrap();
        let slots: String = (1..=12)
            .map(|slot| {
                let path = folder.path().join(format!("token{slot}.sql"));
                format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {path:?}\n")
            })
            .collect();
        std::fs::write(folder.path().join("token.conf"), slots).unwrap();
        Self { test, module, folder, variable: "KRYOPTIC_CONF" }
    }

    pub fn softhsm(test: &'static str) -> Option<Self> {
        if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
            eprintln!("SKIPPED: {test} (CASEMATE_WITHOUT_SOFTHSM is set)");
            return None;
        }
        let candidates = [
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib64/pkcs11/libsofthsm2.so",
            "/usr/local/lib/softhsm/libsofthsm2.so",
        ];
        let module = candidates.iter().map(PathBuf::from).find(|path| path.exists());
        let module = module.expect("install SoftHSM (Debian: `softhsm2`), or run `cargo xtask setup`");
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(folder.path().join("token.conf"), text).unwrap();
        Some(Self { test, module, folder, variable: "SOFTHSM2_CONF" })
    }

    /// Plays a role to its end.
    pub fn play(&self, role: &str) -> String {
        let output = self.output(role);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{role} on {}:\n{stdout}{stderr}", self.module.display());
        assert!(stdout.contains(&format!("played {role}")), "{role} was not played:\n{stdout}");
        stdout
    }

    /// Plays a role that is killed.
    pub fn play_killed(&self, role: &str) {
        let output = self.output(role);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "{role} on {}:\n{stderr}", self.module.display());
    }

    fn output(&self, role: &str) -> Output {
        let mut command = again(self.test, role);
        command.env(self.variable, self.folder.path().join("token.conf"));
        command.env(MODULE, &self.module).env(FOLDER, self.folder.path());
        command.output().unwrap()
    }
}

/// This binary again, for one role of one test; inherits the environment.
pub fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// In a process that was started for a role: plays it.
pub fn play_own_role(play: impl FnOnce(&str, &Path, &Path)) -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    play(&role, &path(MODULE), &path(FOLDER));
    println!("\nplayed {role}");
    true
}

/// Ends this process as a power cut would.
pub fn die() -> ! {
    let me = std::process::id().to_string();
    Command::new("kill").args(["-9", &me]).status().unwrap();
    unreachable!("killed");
}
