//! A rehearsal site made of real parts, once; copies of it for tests that change something.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use casemate_bundle::{ApproverKey, BuildInput, TrustRoot};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::corpus;
use crate::guest::root;

pub const PLUGINS: [&str; 4] = ["clearance", "disclosure", "librarian", "nearest"];

/// A site's folder; a copy goes away with its value.
pub struct Site {
    pub dir: PathBuf,
    _copy: Option<TempDir>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    /// The last line of standard output.
    pub json: Value,
    /// All output.
    pub text: String,
}

impl Ended {
    /// Insists on a refusal that says this.
    #[track_caller]
    pub fn refused(&self, why: &str) {
        assert!(self.code != 0 && self.text.contains(why), "{}", self.text);
    }

    /// Insists on an exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json
    }
}

/// The program under test, beside this one.
pub fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.parent().and_then(Path::parent).unwrap().join("casemate");
    assert!(program.exists(), "{} is not there; `cargo xtask test` builds it first", program.display());
    program
}

/// A site with four plugins and the corpus. Shared: for tests that only ask.
pub fn shared() -> &'static Site {
    &made().0
}

/// A copy of the shared site.
pub fn copy() -> Site {
    shared().copy()
}

/// A copy of a site that has neither plugins nor documents.
pub fn bare() -> Site {
    made().1.copy()
}

/// A new site of its own, without plugins and documents: for tests of its keys.
pub fn fresh() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let site = Site { dir: folder.path().join("site"), _copy: Some(folder) };
    site.casemate(&["init"]).expect(0);
    site
}

/// A new site on a pair of tokens, without plugins and documents.
pub fn bare_pair(backup: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let site = Site { dir: folder.path().join("site"), _copy: Some(folder) };
    site.casemate(&["init", "--backup", backup]).expect(0);
    site
}

/// A new site on a pair of tokens, checked every second, with plugins and documents.
pub fn pair(backup: &str) -> Site {
    let site = bare_pair(backup);
    let work = site.dir.parent().unwrap().to_owned();
    site.configure("token-label = \"casemate backup\"", "token-label = \"casemate backup\"\ncheck-every = 1");
    fill(&site, &work);
    site
}

/// The shared site and the same site before anything was loaded.
fn made() -> &'static (Site, Site) {
    static MADE: OnceLock<(Site, Site)> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = work();
        let site = Site { dir: folder.join("site"), _copy: None };
        let mut init = vec!["init"];
        let model = std::env::var("CASEMATE_MODEL_DIR").ok();
        if let Some(model) = &model {
            init.extend(["--model-dir", model]);
        }
        site.casemate(&init).expect(0);
        let bare = Site { dir: folder.join("bare"), _copy: None };
        copy_folder(&site.dir, &bare.dir);
        fill(&site, &folder);
        (site, bare)
    })
}

/// Loads the plugins and ingests the corpus; `folder` is for what is made on the way.
pub fn fill(site: &Site, folder: &Path) {
    for plugin in PLUGINS {
        site.casemate(&["plugin", "load", &bundle(site, plugin, folder)]).expect(0);
    }
    let corpus = folder.join("corpus.jsonl");
    fs::write(&corpus, corpus::json_lines()).unwrap();
    let ingested = site.casemate(&["ingest", text(&corpus), "--as", "carla"]).expect(0);
    assert_eq!(ingested["added"], corpus::PASSAGES.len());
}

/// Compiles a plugin of this project and has both approvers sign it.
pub fn bundle(site: &Site, plugin: &str, folder: &Path) -> String {
    let path = folder.join(format!("{plugin}.casemate"));
    let bundle = text(&path);
    let source = root().join("plugins").join(plugin);
    site.casemate(&["bundle", "build", text(&source), "--out", bundle]).expect(0);
    for approver in ["ana", "bo"] {
        let key = site.dir.join(format!("approvers/{approver}.key"));
        site.casemate(&["bundle", "sign", bundle, "--key", text(&key)]).expect(0);
    }
    site.casemate(&["bundle", "verify", bundle]).expect(0);
    bundle.to_owned()
}

/// One folder under cargo's target, emptied at the start; whoever holds its lock has it alone.
fn work() -> PathBuf {
    static LOCK: OnceLock<File> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("casemate-tests");
    fs::create_dir_all(&folder).unwrap();
    LOCK.get_or_init(|| {
        let lock = File::create(folder.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        lock
    });
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir_all(&folder).unwrap();
    folder
}

impl Site {
    /// A folder that is a site, or is to become one.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir, _copy: None }
    }

    /// The same site in another folder.
    pub fn copy(&self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        let dir = copy.path().join("site");
        copy_folder(&self.dir, &dir);
        Self { dir, _copy: Some(copy) }
    }

    /// A command on this site, with JSON output.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--json").arg("--site").arg(&self.dir).args(arguments);
        command.current_dir(root()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn casemate(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let text = format!("{arguments:?}\n{stdout}{}", String::from_utf8_lossy(&output.stderr));
        Ended { code: output.status.code().unwrap_or(-1), json, text }
    }

    /// Runs a command without JSON and returns what it printed.
    pub fn plain(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program());
        command.arg("--site").arg(&self.dir).args(arguments).current_dir(root()).stdin(Stdio::null());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// Signs a component with both approvers of the site and loads it; the signatures expire in `seconds`.
    #[track_caller]
    pub fn load(&self, component: &[u8], manifest_toml: &str, seconds: i64) -> Value {
        self.load_with(component, manifest_toml, "{}", seconds)
    }

    /// As [`Site::load`], with settings.
    #[track_caller]
    pub fn load_with(&self, component: &[u8], manifest_toml: &str, settings_json: &str, seconds: i64) -> Value {
        self.load_bundle(component, manifest_toml, settings_json, 1, seconds)
    }

    /// As [`Site::load_with`], as a later version of a plugin that is there.
    #[track_caller]
    pub fn load_next(&self, component: &[u8], manifest_toml: &str, settings_json: &str, version: u64) -> Value {
        self.load_bundle(component, manifest_toml, settings_json, version, 3600)
    }

    #[track_caller]
    fn load_bundle(
        &self,
        component: &[u8],
        manifest_toml: &str,
        settings_json: &str,
        version: u64,
        seconds: i64,
    ) -> Value {
        let root = TrustRoot::parse(&fs::read(self.dir.join("trust/root.json")).unwrap()).unwrap();
        let expires = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let input = BuildInput { manifest_toml, component, settings_json: settings_json.as_bytes(), version, expires };
        let keys =
            ["ana", "bo"].map(|name| ApproverKey::load(&self.dir.join(format!("approvers/{name}.key"))).unwrap());
        let draft = casemate_bundle::build(&root, input).unwrap();
        let signed = keys.iter().fold(draft, |bundle, key| casemate_bundle::sign(&bundle, key, &root).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made.casemate");
        fs::write(&path, signed).unwrap();
        self.casemate(&["plugin", "load", text(&path)]).expect(0)
    }

    /// Changes `site.toml`; the text must be there.
    #[track_caller]
    pub fn configure(&self, from: &str, to: &str) {
        let path = self.dir.join("site.toml");
        let old = fs::read_to_string(&path).unwrap();
        assert!(old.contains(from), "{old}");
        fs::write(path, old.replace(from, to)).unwrap();
    }

    /// Every record of the log.
    pub fn records(&self) -> Vec<Value> {
        let output = self.command(&["audit", "show"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asks a question.
    pub fn ask(&self, user: &str, question: &str) -> Ended {
        self.casemate(&["ask", question, "--as", user])
    }

    /// Ingests passages as carla.
    #[track_caller]
    pub fn ingest(&self, lines: &[Value]) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("more.jsonl");
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, lines).unwrap();
        self.casemate(&["ingest", text(&path), "--as", "carla"]).expect(0)
    }
}

/// A passage of compartment `engineering`.
pub fn passage(id: &str, title: &str, body: &str) -> Value {
    json!({
        "id": id, "title": title, "source": format!("{id}.md"), "compartment": "engineering", "label": "internal",
        "text": body, "metadata": { "licence": "MIT" },
    })
}

/// Titles of an answer's citations.
pub fn titles(reply: &Value) -> Vec<String> {
    citations(reply, "title")
}

/// Compartments of an answer's citations.
pub fn compartments(reply: &Value) -> Vec<String> {
    citations(reply, "compartment")
}

fn citations(reply: &Value, field: &str) -> Vec<String> {
    let citations = reply["outcome"]["citations"].as_array().unwrap_or_else(|| panic!("not an answer: {reply}"));
    citations.iter().map(|citation| citation[field].as_str().unwrap().to_owned()).collect()
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies a site's folder. The token's configuration names its storage by absolute path.
pub fn copy_folder(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, target).unwrap();
    }
    let configuration = to.join("token/token.conf");
    if let Ok(old) = fs::read_to_string(&configuration) {
        fs::write(configuration, old.replace(text(&fs::canonicalize(from).unwrap()), text(to))).unwrap();
    }
}
