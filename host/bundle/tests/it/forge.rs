//! A site with three approvers, and an attacker's tool kit: raw keys, and metadata written without the crate.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use casemate_bundle::{ApproverKey, BuildInput, BundleError, TrustRoot, build, sign, ustar, verify};
use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;

pub type Entries = BTreeMap<String, Vec<u8>>;

pub const MANIFEST: &str = "name = \"clearance\"\nversion = \"1.0.0\"\nworld = \"policy\"\nsummary = \"No read up.\"\ncapabilities = [\"session\"]\n";
/// A component of nothing but a custom section.
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\x00\x0e\x04note and more";
pub const SETTINGS: &[u8] = b"{\"level\":\"secret\"}";
pub const TUF: [&str; 3] = ["tuf/snapshot.json", "tuf/targets.json", "tuf/timestamp.json"];

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn now() -> Timestamp {
    time("2027-01-01T00:00:00Z")
}

pub fn expires() -> Timestamp {
    time("2027-06-01T00:00:00Z")
}

/// One person: the key as the crate holds it, and the same key in the attacker's reach.
pub struct Person {
    pub name: String,
    pub key: ApproverKey,
    pub pair: Ed25519KeyPair,
}

impl Person {
    pub fn new(name: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let pkcs8 = base64::engine::general_purpose::STANDARD.encode(pair.to_pkcs8().unwrap());
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(json!({"name": name, "pkcs8": pkcs8}).to_string().as_bytes()).unwrap();
        Self { name: name.to_owned(), key: ApproverKey::load(&path).unwrap(), pair }
    }

    pub fn public_hex(&self) -> String {
        hex::encode(self.pair.public_key())
    }

    pub fn key_id(&self) -> String {
        key_id(&self.public_hex())
    }

    pub fn signature(&self, signed: &Value) -> Value {
        self.signature_as(&self.key_id(), signed)
    }

    pub fn signature_as(&self, key_id: &str, signed: &Value) -> Value {
        json!({"keyid": key_id, "sig": hex::encode(self.pair.sign(&canonical(signed)))})
    }
}

pub fn key_id(public: &str) -> String {
    let key = json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}});
    Digest::of(&canonical(&key)).hex()
}

pub struct Site {
    pub ada: Person,
    pub ben: Person,
    pub cyd: Person,
    pub root: TrustRoot,
}

impl Site {
    pub fn new() -> Self {
        let (ada, ben, cyd) = (Person::new("ada"), Person::new("ben"), Person::new("cyd"));
        let root = TrustRoot::create(&[&ada.key, &ben.key, &cyd.key], time("2030-01-01T00:00:00Z")).unwrap();
        Self { root: TrustRoot::parse(&root).unwrap(), ada, ben, cyd }
    }

    pub fn draft(&self, version: u64) -> Vec<u8> {
        build(&self.root, input(version)).unwrap()
    }

    /// Signed by Ada and Ben.
    pub fn bundle(&self, version: u64) -> Vec<u8> {
        self.sign_two(&self.draft(version))
    }

    pub fn sign_two(&self, draft: &[u8]) -> Vec<u8> {
        let once = sign(draft, &self.ada.key, &self.root).unwrap();
        sign(&once, &self.ben.key, &self.root).unwrap()
    }

    /// What the two approvers would have if they signed any files at all, without the crate's checks.
    pub fn seal(&self, files: &Entries, version: u64) -> Vec<u8> {
        let mut entries = files.clone();
        for (file, signed) in signed_parts(files, version) {
            entries.insert(file.to_owned(), envelope(&signed, &[&self.ada, &self.ben]));
        }
        ustar::write(&entries).unwrap()
    }

    /// The refusal of `bundle`.
    #[track_caller]
    pub fn refusal(&self, bundle: &[u8]) -> BundleError {
        match verify(bundle, &self.root, now()) {
            Ok(_) => panic!("the attack was not noticed"),
            Err(error) => error,
        }
    }
}

pub fn input(version: u64) -> BuildInput<'static> {
    BuildInput { manifest_toml: MANIFEST, component: COMPONENT, settings_json: SETTINGS, version, expires: expires() }
}

pub fn files() -> Entries {
    files_of(COMPONENT)
}

/// The files of a bundle of this component, whatever it is, written from the format's description.
pub fn files_of(component: &[u8]) -> Entries {
    let layer = Digest::of(component);
    let blob = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let config = canonical(&json!({
        "created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": [layer.to_string()],
        "component": {"imports": [], "exports": [], "target": "casemate:plugin/policy@0.1.0"}
    }));
    let image = canonical(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.wasm.config.v0+json", &config),
        "layers": [blob("application/wasm", component)],
        "annotations": {"org.opencontainers.image.title": "clearance", "org.opencontainers.image.version": "1.0.0"}
    }));
    let mut entry = blob("application/vnd.oci.image.manifest.v1+json", &image);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1.0.0"});
    let index = canonical(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]
    }));
    [
        (blob_name(component), component.to_vec()),
        (blob_name(&config), config),
        (blob_name(&image), image),
        ("index.json".to_owned(), index),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("manifest.toml".to_owned(), MANIFEST.as_bytes().to_vec()),
        ("settings.json".to_owned(), SETTINGS.to_vec()),
    ]
    .into()
}

pub fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// What the signed metadata says about the component of [`files`].
pub fn custom() -> Value {
    json!({
        "kind": "component", "name": "clearance", "version": "1.0.0", "world": "casemate:plugin/policy@0.1.0",
        "wit": casemate_bundle::contract_digest().to_string(), "capabilities": ["session"], "ask-policy": [], "keys": [],
        "limits": {
            "memory-bytes": 4 << 20, "table-elements": 1024, "time-ms": 50, "output-bytes": 64 << 10, "host-calls": 64,
            "host-bytes": 1 << 20
        }
    })
}

/// The name of the component among these files: the largest blob that is no JSON.
fn component_name(files: &Entries) -> String {
    let mut blobs = files.iter().filter(|(name, body)| name.starts_with("blobs/") && !body.starts_with(b"{"));
    blobs.next().map(|(name, _)| name.clone()).unwrap_or_default()
}

/// The metadata of `files`, written from the format's description.
pub fn signed_parts(files: &Entries, version: u64) -> [(&'static str, Value); 3] {
    let part = |role: &str, key: &str, value: Value| json!({"_type": role, "spec_version": "1.0.34", "version": version, "expires": expires().to_string(), key: value});
    let pin =
        |signed: &Value| json!({"version": version, "x-casemate-signed-sha256": Digest::of(&canonical(signed)).hex()});
    let mut list = json!({});
    let component = component_name(files);
    for (name, body) in files {
        list[name] = json!({"length": body.len(), "hashes": {"sha256": Digest::of(body).hex()}});
        if *name == component {
            list[name]["custom"] = custom();
        }
    }
    let targets = part("targets", "targets", list);
    let snapshot = part("snapshot", "meta", json!({"targets.json": pin(&targets)}));
    let timestamp = part("timestamp", "meta", json!({"snapshot.json": pin(&snapshot)}));
    [(TUF[0], snapshot), (TUF[1], targets), (TUF[2], timestamp)]
}

pub fn envelope(signed: &Value, people: &[&Person]) -> Vec<u8> {
    envelope_of(signed, people.iter().map(|person| person.signature(signed)).collect())
}

pub fn envelope_of(signed: &Value, mut signatures: Vec<Value>) -> Vec<u8> {
    signatures.sort_by_key(|signature| signature["keyid"].to_string());
    canonical(&json!({"signatures": signatures, "signed": signed}))
}

pub fn canonical(value: &Value) -> Vec<u8> {
    to_canonical_bytes(value).unwrap()
}

/// `bundle` with its entries changed and packed again.
pub fn edit(bundle: &[u8], change: impl FnOnce(&mut Entries)) -> Vec<u8> {
    let mut entries = ustar::read(bundle).unwrap();
    change(&mut entries);
    ustar::write(&entries).unwrap()
}

/// `bundle` with one metadata file changed as JSON and written in canonical form again.
pub fn edit_json(bundle: &[u8], file: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    edit(bundle, |entries| {
        let mut value = serde_json::from_slice(&entries[file]).unwrap();
        change(&mut value);
        entries.insert(file.to_owned(), canonical(&value));
    })
}
