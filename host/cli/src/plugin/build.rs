use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_bundle::{BuildInput, Manifest, TrustRoot};
use casemate_types::Digest;
use serde::Serialize;
use wit_component::ComponentEncoder;

use crate::failure::Failure;
use crate::plugin::{read, write};

/// What was packed.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Packed {
    pub bundle: PathBuf,
    pub name: String,
    pub version: String,
    pub component: Digest,
    pub bytes: usize,
}

/// Compiles a plugin's folder and packs component, manifest and settings, unsigned.
pub fn run(
    trust: &TrustRoot,
    dir: &Path,
    out: Option<PathBuf>,
    bundle_version: u64,
    valid_days: u32,
    component: Option<&Path>,
) -> Result<Packed, Failure> {
    let manifest_toml = text(&dir.join("manifest.toml"))?;
    let manifest = Manifest::parse(&manifest_toml)?;
    let settings = dir.join("settings.json");
    let settings_json = if settings.exists() { read(&settings)? } else { b"{}".to_vec() };
    let component = match component {
        Some(path) => read(path)?,
        None => encode(&read(&compile(dir)?)?)?,
    };
    let expires = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(24 * i64::from(valid_days)))
        .map_err(|error| Failure::caused_by("--valid-days is out of range", &error))?;
    let bundle = casemate_bundle::build(
        trust,
        BuildInput {
            manifest_toml: &manifest_toml,
            component: &component,
            settings_json: &settings_json,
            version: bundle_version,
            expires,
        },
    )?;
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{}.casemate", manifest.name)));
    write(&path, &bundle)?;
    Ok(Packed {
        bundle: path,
        name: manifest.name.to_string(),
        version: manifest.version.to_string(),
        component: Digest::of(&component),
        bytes: bundle.len(),
    })
}

fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::caused_by(format!("cannot read {}", path.display()), &error)
            .hint("casemate plugin new NAME writes a skeleton")
    })
}

/// A guest's shadow stack: resetting a small one is what makes a fresh instance per call cheap.
const GUEST_STACK: usize = 65_536;

/// How every guest is compiled, whatever its own Cargo.toml says: small, one codegen unit, no unwinding.
const PROFILE: [&str; 6] = [
    "profile.plugin.inherits=\"release\"",
    "profile.plugin.codegen-units=1",
    "profile.plugin.lto=true",
    "profile.plugin.opt-level=\"s\"",
    "profile.plugin.panic=\"abort\"",
    "profile.plugin.strip=true",
];

/// Compiles to a core module and returns its path.
fn compile(dir: &Path) -> Result<PathBuf, Failure> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--profile",
            "plugin",
            "--target",
            "wasm32-unknown-unknown",
            "--message-format",
            "json-render-diagnostics",
        ])
        .arg("--manifest-path")
        .arg(dir.join("Cargo.toml"))
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    let output = cargo
        .output()
        .map_err(|error| Failure::caused_by("cannot start cargo", &error).hint("install the Rust toolchain"))?;
    if !output.status.success() {
        return Err(Failure::new(format!("the plugin in {} does not compile", dir.display()))
            .hint("`rustup target add wasm32-unknown-unknown` if the target is missing"));
    }
    let manifest = fs::canonicalize(dir.join("Cargo.toml"))
        .map_err(|error| Failure::caused_by(format!("cannot find {}", dir.display()), &error))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|reason| reason == "compiler-artifact"))
        .filter(|message| message.get("manifest_path").and_then(|path| path.as_str()).map(Path::new) == Some(&manifest))
        .flat_map(|message| message.get("filenames").and_then(|names| names.as_array()).cloned().unwrap_or_default())
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|name| name.extension().is_some_and(|extension| extension == "wasm"))
        .ok_or_else(|| {
            Failure::new("the plugin builds no Wasm module").hint("Cargo.toml needs crate-type = [\"cdylib\"]")
        })
}

/// Paths of this machine are mapped away, so that another machine builds the same bytes.
fn rustflags() -> String {
    let mut flags = vec![format!("-Clink-arg=-zstack-size={GUEST_STACK}")];
    let cargo_home =
        std::env::var("CARGO_HOME").ok().or_else(|| std::env::var("HOME").ok().map(|home| format!("{home}/.cargo")));
    if let Some(home) = cargo_home {
        flags.push(format!("--remap-path-prefix={home}=/cargo"));
    }
    if let Ok(folder) = std::env::current_dir() {
        flags.push(format!("--remap-path-prefix={}=/plugin", folder.display()));
    }
    flags.join("\u{1f}")
}

/// Turns a core module that wit-bindgen made into a component. Imports it does not use are not in it.
fn encode(module: &[u8]) -> Result<Vec<u8>, Failure> {
    ComponentEncoder::default().validate(true).module(module).and_then(|mut encoder| encoder.encode()).map_err(
        |error| {
            Failure::new(format!("the module is no component: {error:#}"))
                .hint("export it with casemate_sdk::export_policy!")
        },
    )
}
