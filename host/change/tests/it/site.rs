//! A site with two approvers and bundles of one plugin.

use std::path::PathBuf;

use casemate_bundle::{ApproverKey, BuildInput, TrustRoot, Verified, build, sign, verify_any};
use casemate_change::SiteStore;
use jiff::Timestamp;
use tempfile::TempDir;

pub struct Site {
    keys: [ApproverKey; 2],
    pub root: TrustRoot,
    dir: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let keys = ["ada", "ben"].map(|name| ApproverKey::generate(name).unwrap());
        let root = TrustRoot::create(&[&keys[0], &keys[1]], time("2030-01-01T00:00:00Z")).unwrap();
        Self { root: TrustRoot::parse(&root).unwrap(), keys, dir: tempfile::tempdir().unwrap() }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    pub fn store(&self) -> SiteStore {
        SiteStore::open(self.dir()).unwrap()
    }

    /// A signed bundle; `settings` tell two of one version apart.
    pub fn bundle(&self, name: &str, version: u64, settings: &str) -> Vec<u8> {
        let manifest = format!("name='{name}'\nversion='1.0.0'\nworld='policy'\nsummary='s'\ncapabilities=[]");
        let input = BuildInput {
            manifest_toml: &manifest,
            component: b"\0asm\x0d\0\x01\0",
            settings_json: settings.as_bytes(),
            version,
            expires: time("2027-06-01T00:00:00Z"),
        };
        let draft = build(&self.root, input).unwrap();
        self.keys.iter().fold(draft, |bundle, key| sign(&bundle, key, &self.root).unwrap())
    }

    pub fn verify(&self, raw: &[u8]) -> Verified {
        verify_any(raw, &self.root, now()).unwrap()
    }
}

pub fn now() -> Timestamp {
    time("2027-01-01T00:00:00Z")
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}
