//! Compiles guests and makes signed bundles of them with approvers of the test's own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use casemate_bundle::{ApproverKey, BuildInput, TrustRoot, VerifiedBundle};
use jiff::{SignedDuration, Timestamp};
use wit_component::ComponentEncoder;

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Compiles the guest in `folder` (relative to the workspace) with one feature, or none (""), to a component.
pub fn component(folder: &str, feature: &str) -> Vec<u8> {
    // Variants of one guest have one output file: compiled and read one at a time.
    static BUILT: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let built = built.get_or_insert_default();
    built.entry(format!("{folder} {feature}")).or_insert_with(|| encode(&compile(folder, feature))).clone()
}

/// As `casemate bundle build` does it, which knows no features.
fn compile(folder: &str, feature: &str) -> Vec<u8> {
    let manifest = root().join(folder).join("Cargo.toml");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--profile", "plugin", "--target", "wasm32-unknown-unknown"])
        .args(["--message-format", "json-render-diagnostics", "--features", feature, "--manifest-path"])
        .arg(&manifest)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Clink-arg=-zstack-size=65536")
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    let module = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["manifest_path"].as_str().map(Path::new) == Some(&manifest))
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|name| name.extension().is_some_and(|extension| extension == "wasm"))
        .expect("cargo named no Wasm module");
    std::fs::read(module).unwrap()
}

fn encode(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default().validate(true).module(module).unwrap().encode().unwrap()
}

/// Two approvers and the root of trust that names them.
struct Approvers {
    keys: [ApproverKey; 2],
    root: TrustRoot,
}

fn approvers() -> &'static Approvers {
    static APPROVERS: OnceLock<Approvers> = OnceLock::new();
    APPROVERS.get_or_init(|| {
        let keys = ["ana", "bo"].map(|name| ApproverKey::generate(name).unwrap());
        let root = TrustRoot::create(&[&keys[0], &keys[1]], tomorrow()).unwrap();
        Approvers { root: TrustRoot::parse(&root).unwrap(), keys }
    })
}

fn tomorrow() -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_hours(24)).unwrap()
}

/// A bundle that both approvers signed and that verifies.
pub fn bundle(component: &[u8], manifest_toml: &str, settings_json: &str) -> VerifiedBundle {
    let Approvers { keys, root } = approvers();
    let input = BuildInput {
        manifest_toml,
        component,
        settings_json: settings_json.as_bytes(),
        version: 1,
        expires: tomorrow(),
    };
    let draft = casemate_bundle::build(root, input).unwrap();
    let signed = keys.iter().fold(draft, |bundle, key| casemate_bundle::sign(&bundle, key, root).unwrap());
    casemate_bundle::verify(&signed, root, Timestamp::now()).unwrap()
}
