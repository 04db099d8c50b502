//! From a plugin's folder to an unsigned bundle with its evidence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use casemate_bundle::{Additions, BuildInput, Manifest};
use casemate_types::Digest;
use wit_component::ComponentEncoder;

use super::args::BuildOptions;
use super::{evidence, read, trust, write};
use crate::failure::Failure;
use crate::output;

/// Compiles a plugin's folder and packs component, manifest, settings and evidence, unsigned.
pub fn run(site: &Path, options: &BuildOptions, json: bool) -> Result<ExitCode, Failure> {
    let (trust, dir) = (trust(site)?, &options.dir);
    let manifest_toml = text(&dir.join("manifest.toml"))?;
    let manifest = Manifest::parse(&manifest_toml)?;
    let settings = dir.join("settings.json");
    let settings_json = if settings.exists() { read(&settings)? } else { b"{}".to_vec() };
    let mut pinned = BTreeMap::new();
    let component = match &options.component {
        Some(path) => read(path)?,
        None => {
            let component = encode(&read(&compile(dir)?)?)?;
            pinned = evidence::of(dir, &manifest, Digest::of(&component))?;
            component
        }
    };
    for path in &options.evidence {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if pinned.insert(format!("evidence/{name}"), read(path)?).is_some() {
            return Err(Failure::new(format!("there are two files of evidence called `{name}`")).with_code(2));
        }
    }
    let valid = jiff::SignedDuration::from_hours(24 * i64::from(options.valid_days));
    let expires = match options.expires {
        Some(expires) => expires,
        None => jiff::Timestamp::now()
            .checked_add(valid)
            .map_err(|error| Failure::caused_by("--valid-days is out of range", &error))?,
    };
    let input = BuildInput {
        manifest_toml: &manifest_toml,
        component: &component,
        settings_json: &settings_json,
        version: options.bundle_version,
        expires,
    };
    let additions = Additions { evidence: pinned, replaces: options.replaces };
    let bundle = casemate_bundle::build_with(&trust, input, &additions)?;
    let path = options.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.casemate", manifest.name)));
    write(&path, &bundle)?;
    if json {
        output::json(&serde_json::json!({
            "bundle": path, "name": manifest.name, "version": manifest.version, "component": Digest::of(&component),
            "bytes": bundle.len(), "digest": Digest::of(&bundle),
        }))?;
    } else {
        output::line(&format!(
            "{} holds {} {}: {} bytes, {}; unsigned, two approvers must sign it",
            path.display(),
            manifest.name,
            manifest.version,
            bundle.len(),
            Digest::of(&component)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
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
