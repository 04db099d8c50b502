//! A folder with tokens of the embedded module. A module reads its environment once per process and a login is the process's,
//! so each role of a test is played by this binary, started again.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const ROLE: &str = "CASEMATE_TEST_ROLE";
const FOLDER: &str = "CASEMATE_TEST_FOLDER";
const SLOTS: usize = 8;

/// The folder of one test.
pub struct Ground {
    test: &'static str,
    folder: tempfile::TempDir,
}

impl Ground {
    /// A copy of a place that is ready for a ceremony: tokens, custodians, roster, log, plan, bindings, approval.
    pub fn ready(test: &'static str) -> Self {
        static READY: OnceLock<Ground> = OnceLock::new();
        READY.get_or_init(|| Self::made("ready")).copy(test)
    }

    /// A copy of a place where the ceremony is over.
    pub fn finished(test: &'static str) -> Self {
        static FINISHED: OnceLock<Ground> = OnceLock::new();
        FINISHED.get_or_init(|| Self::made("finished")).copy(test)
    }

    /// A place whose tokens are of several makes: those of these roles are SoftHSM's. Nothing where SoftHSM cannot be installed.
    pub fn of_makes(test: &'static str, softhsm: &[&str]) -> Option<Self> {
        if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
            eprintln!("SKIPPED: {test} (CASEMATE_WITHOUT_SOFTHSM is set)");
            return None;
        }
        Some(Self::made(&format!("softhsm:{}", softhsm.join(","))).copy(test))
    }

    /// A place whose tokens take their PINs at pads of their own.
    pub fn with_pads(test: &'static str) -> Self {
        Self::made("pads:").copy(test)
    }

    fn made(role: &str) -> Self {
        // It lives as long as this process, and is never dropped: so it lies in cargo's folder.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ground = Self { test: "world::a_place_is_made", folder };
        ground.write_slots();
        ground.play(role);
        ground
    }

    fn copy(&self, test: &'static str) -> Self {
        let copy = Self { test, folder: tempfile::tempdir().unwrap() };
        copy_folder(self.folder.path(), copy.folder.path());
        copy.write_slots();
        copy
    }

    /// The module's configuration names absolute paths.
    fn write_slots(&self) {
        let slots: String = (1..=SLOTS)
            .map(|slot| {
                let path = self.folder.path().join(format!("token{slot}.sql"));
                format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {path:?}\n")
            })
            .collect();
        fs::write(self.folder.path().join("tokens.conf"), slots).unwrap();
        let softhsm = self.folder.path().join("softhsm");
        fs::create_dir_all(&softhsm).unwrap();
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", softhsm.display());
        fs::write(self.folder.path().join("softhsm.conf"), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Plays a role to its end.
    pub fn play(&self, role: &str) {
        assert!(!self.play_or_die(role), "{role} was killed");
    }

    /// Plays a role; tells whether it was killed.
    pub fn play_or_die(&self, role: &str) -> bool {
        let output = self.output(role);
        if output.status.signal() == Some(9) {
            return true;
        }
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{role}:\n{stdout}{stderr}");
        assert!(stdout.contains(&format!("played {role}")), "{role} was not played:\n{stdout}");
        false
    }

    fn output(&self, role: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", self.test, "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(FOLDER, self.path());
        command.env("KRYOPTIC_CONF", self.path().join("tokens.conf"));
        command.env("SOFTHSM2_CONF", self.path().join("softhsm.conf"));
        command.env("CASEMATE_SHIM_MODULE", module()).env("CASEMATE_SHIM_PAD_FILE", self.path().join("pads"));
        command.env("CASEMATE_SHIM_QUORUM_FILE", self.path().join("quorum"));
        command.output().unwrap()
    }
}

/// In a process that was started for a role: plays it.
pub fn play_own_role(play: impl FnOnce(&str, &Path)) -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    play(&role, &PathBuf::from(std::env::var_os(FOLDER).unwrap()));
    println!("\nplayed {role}");
    true
}

/// A test of one role on a copy of a place.
pub fn in_a_process(ground: impl FnOnce() -> Ground, play: impl FnOnce(&Path)) {
    if !play_own_role(|_, folder| play(folder)) {
        ground().play("attack");
    }
}

/// Ends this process as a power cut would.
pub fn die() -> ! {
    let me = std::process::id().to_string();
    Command::new("kill").args(["-9", &me]).status().unwrap();
    unreachable!("killed");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The embedded token, beside this program.
pub fn module() -> PathBuf {
    // target/release/deps/it-... -> target/release
    let executable = std::env::current_exe().unwrap();
    let module = executable.parent().and_then(Path::parent).unwrap().join("libcasemate_softtoken.so");
    assert!(module.exists(), "{} is missing: run `cargo xtask setup`", module.display());
    module
}

/// SoftHSM, where distributions have it.
pub fn softhsm() -> PathBuf {
    let candidates = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("install SoftHSM (Debian: `softhsm2`), or run `cargo xtask setup`")
}

/// The embedded token behind a pad of its own: the module in `tests/shim`, which is among this program's dependencies.
pub fn padded() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libcasemate_shim.so")
}
