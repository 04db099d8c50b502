use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_bundle::{TrustRoot, VerifiedBundle};

/// A site in a temporary folder with a policy that makes two host calls, and the plugins of a chain.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub site: PathBuf,
}

/// The rule of the decision benchmark: clearance and length, with the claims and the time asked from the host.
const POLICY: &str = r#"
use casemate_sdk::{Decision, Description, Level, Policy, Request, Settings, clock, session};
pub struct Rule;
impl Policy for Rule {
    fn describe() -> Description { Description::new("Clearance and length.") }
    fn evaluate(request: &Request, _: &Settings) -> Decision {
        let claims = session::current();
        let ok = claims.clearance >= Level::Internal && clock::now() > 0 && request.text.len() <= 20_000;
        if ok { Decision::allow() } else { Decision::deny("rule", "No.") }
    }
}
casemate_sdk::export_policy!(Rule);
"#;

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        let fixture = Self { site, folder };
        fixture.casemate(&["init"]);
        fixture
    }

    /// The policy with two host calls, compiled, signed and verified.
    pub fn rule(&self) -> VerifiedBundle {
        let dir = self.folder.path().join("rule");
        let new = Command::new(program())
            .args(["plugin", "new", "rule", "--sdk"])
            .arg(root().join("sdk-guest"))
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(new.success());
        fs::write(dir.join("src/lib.rs"), POLICY).unwrap();
        fs::write(dir.join("settings.json"), "{}").unwrap();
        let manifest = fs::read_to_string(dir.join("manifest.toml")).unwrap();
        fs::write(
            dir.join("manifest.toml"),
            manifest.replace("capabilities = []", "capabilities = [\"session\", \"clock\"]"),
        )
        .unwrap();
        let bundle = self.bundle(&dir, "rule");
        let root = TrustRoot::parse(&fs::read(self.site.join("trust/root.json")).unwrap()).unwrap();
        casemate_bundle::verify(&fs::read(bundle).unwrap(), &root, jiff::Timestamp::now()).unwrap()
    }

    /// Compiles, signs and loads a plugin of this project.
    pub fn load(&self, plugin: &str) {
        let dir = root().join("plugins").join(plugin);
        let bundle = self.bundle(&dir, plugin);
        self.casemate(&["plugin", "load", bundle.to_str().unwrap()]);
    }

    /// As [`Fixture::load`]; returns the seconds that the activation took.
    pub fn cold(&self, plugin: &str) -> f64 {
        let bundle = self.bundle(&root().join("plugins").join(plugin), plugin);
        let started = std::time::Instant::now();
        self.casemate(&["plugin", "load", bundle.to_str().unwrap()]);
        started.elapsed().as_secs_f64()
    }

    fn bundle(&self, dir: &Path, name: &str) -> PathBuf {
        let bundle = self.folder.path().join(format!("{name}.casemate"));
        let path = bundle.to_str().unwrap();
        self.casemate(&["bundle", "build", dir.to_str().unwrap(), "--out", path]);
        for approver in ["ana", "bo"] {
            let key = self.site.join(format!("approvers/{approver}.key"));
            self.casemate(&["bundle", "sign", path, "--key", key.to_str().unwrap()]);
        }
        bundle
    }

    pub fn casemate(&self, arguments: &[&str]) {
        let output = Command::new(program()).arg("--site").arg(&self.site).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The `casemate` binary beside this one.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("casemate")
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = std::env::current_dir().unwrap();
    here.ancestors().find(|folder| folder.join("sdk-guest").exists()).expect("run this inside the project").to_owned()
}
