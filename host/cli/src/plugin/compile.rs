//! Compiles a plugin's folder to a component, the same bytes wherever sources, caches and registries lie.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_types::Digest;
use serde::{Deserialize, Serialize};
use wasm_encoder::{ComponentSection, CustomSection};
use wit_component::ComponentEncoder;

use crate::bundle::{read, write};
use crate::failure::Failure;

/// Name of the custom section that says what a component was compiled with.
pub const BUILT_WITH: &str = "casemate-build";

/// What a component was compiled with, as it stands in the component: a builder's word, and a rebuild shows whether it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltWith {
    /// As `rustc --version` says it.
    pub rustc: String,
    /// SHA-256 of the packages in the lock file that went into it.
    pub lock: Digest,
}

/// Where crates come from, and where what is compiled goes.
#[derive(Default)]
pub struct Sources {
    /// Nothing is asked of a network, and the lock file must be whole.
    pub offline: bool,
    /// A local registry, such as `sdk/` of a kit, in the place of all registries.
    pub registry: Option<PathBuf>,
    /// A folder for this build alone.
    pub target: Option<PathBuf>,
}

/// A guest's shadow stack: resetting a small one is what makes a fresh instance per call cheap.
const GUEST_STACK: usize = 65_536;

/// How every guest is compiled, whatever its own Cargo.toml says: small, one codegen unit, no unwinding.
const PROFILE: [&str; 7] = [
    "profile.plugin.inherits=\"release\"",
    "profile.plugin.codegen-units=1",
    "profile.plugin.incremental=false",
    "profile.plugin.lto=true",
    "profile.plugin.opt-level=\"s\"",
    "profile.plugin.panic=\"abort\"",
    "profile.plugin.strip=true",
];

const TARGET: &str = "wasm32-unknown-unknown";

/// Compiles the plugin in `dir` to a component that says what it was compiled with.
pub fn component(dir: &Path, sources: &Sources) -> Result<Vec<u8>, Failure> {
    let dir =
        fs::canonicalize(dir).map_err(|error| Failure::caused_by(format!("cannot find {}", dir.display()), &error))?;
    let module = module(&dir, sources)?;
    let mut component = encode(&module)?;
    let built = serde_json::to_vec(&built_with(&dir, sources)?)
        .map_err(|error| Failure::caused_by("cannot encode what the component was built with", &error))?;
    CustomSection { name: BUILT_WITH.into(), data: built.into() }.append_to_component(&mut component);
    Ok(component)
}

/// What [`component`] compiles with here and now.
pub fn built_with(dir: &Path, sources: &Sources) -> Result<BuiltWith, Failure> {
    let version = answer(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version"))?;
    // The packages that this plugin takes in, and not those of the workspace that it may lie in.
    let mut tree = cargo("tree", dir, sources);
    tree.args(["--edges", "normal,build", "--target", TARGET, "--prefix", "none", "--no-dedupe"]);
    tree.args(["--format", "{p}"]);
    let mut packages: Vec<String> = answer(&mut tree)?
        .lines()
        .filter_map(|line| {
            // `name v1.2.3 (/path)`, `name v1.2.3 (proc-macro)`: a path says nothing of what is compiled.
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    Ok(BuiltWith { rustc: version.trim().to_owned(), lock: Digest::of(packages.join("\n").as_bytes()) })
}

/// Compiles to a core module.
fn module(dir: &Path, sources: &Sources) -> Result<Vec<u8>, Failure> {
    let manifest = dir.join("Cargo.toml");
    let metadata = metadata(dir, sources)?;
    let target = match &sources.target {
        Some(target) => target.clone(),
        // Apart from what cargo compiles there without the script: cargo would take the one for the other.
        None => target_of(&metadata)?.join("component"),
    };
    let wrapper = wrapper(&target)?;
    let _own = own(&target, &module_name(&metadata, &manifest)?, dir)?;
    let mut cargo = cargo("build", dir, sources);
    cargo
        .args(["--profile", "plugin", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-zstack-size={GUEST_STACK}"))
        .env("RUSTC_WRAPPER", wrapper)
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
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
    let module = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|reason| reason == "compiler-artifact"))
        .filter(|message| message.get("manifest_path").and_then(|path| path.as_str()).map(Path::new) == Some(&manifest))
        .flat_map(|message| message.get("filenames").and_then(|names| names.as_array()).cloned().unwrap_or_default())
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|name| name.extension().is_some_and(|extension| extension == "wasm"))
        .ok_or_else(no_module)?;
    read(&module)
}

fn no_module() -> Failure {
    Failure::new("the plugin builds no Wasm module").hint("Cargo.toml needs crate-type = [\"cdylib\"]")
}

/// The name under which cargo leaves the module.
fn module_name(metadata: &serde_json::Value, manifest: &Path) -> Result<String, Failure> {
    let list = |value: &serde_json::Value, name: &str| {
        value.get(name).and_then(|list| list.as_array()).cloned().unwrap_or_default()
    };
    let of_manifest = |package: &serde_json::Value| {
        package.get("manifest_path").and_then(|path| path.as_str()).map(Path::new) == Some(manifest)
    };
    let package = list(metadata, "packages").into_iter().find(of_manifest).ok_or_else(no_module)?;
    let target =
        list(&package, "targets").into_iter().find(|target| list(target, "crate_types").contains(&"cdylib".into()));
    let name = target.as_ref().and_then(|target| target.get("name")).and_then(|name| name.as_str());
    name.map(|name| name.replace('-', "_")).ok_or_else(no_module)
}

/// Has the place of a module to itself while the answer lives, and clears it where another folder's module lies. Cargo names a Wasm module by
/// its package alone and takes the one that is there for its own, so that one of two packages of one name would get the other's code.
fn own(target: &Path, module: &str, dir: &Path) -> Result<fs::File, Failure> {
    let cannot = |error: std::io::Error| Failure::caused_by(format!("cannot write in {}", target.display()), &error);
    let lock = fs::File::create(target.join("casemate.lock")).map_err(cannot)?;
    lock.lock().map_err(cannot)?;
    let owner = target.join(format!("{module}.owner"));
    if fs::read(&owner).ok().as_deref() != Some(dir.as_os_str().as_encoded_bytes()) {
        let path = target.join(TARGET).join("plugin/deps").join(format!("{module}.wasm"));
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(error)),
            _ => fs::write(&owner, dir.as_os_str().as_encoded_bytes()).map_err(cannot)?,
        }
    }
    Ok(lock)
}

/// Cargo in the plugin's folder, whose `.cargo/config.toml` may name a registry.
pub fn cargo(subcommand: &str, dir: &Path, sources: &Sources) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).arg("--manifest-path").arg(dir.join("Cargo.toml")).current_dir(dir).stdin(Stdio::null());
    if sources.offline {
        cargo.args(["--locked", "--offline"]);
    } else if subcommand == "tree" {
        // The lock file as the build left it.
        cargo.arg("--locked");
    }
    if let Some(registry) = &sources.registry {
        for setting in super::new::replaced_by(registry) {
            cargo.arg("--config").arg(setting);
        }
    }
    cargo
}

fn metadata(dir: &Path, sources: &Sources) -> Result<serde_json::Value, Failure> {
    let mut metadata = cargo("metadata", dir, sources);
    metadata.args(["--no-deps", "--format-version", "1"]);
    serde_json::from_str(&answer(&mut metadata)?)
        .map_err(|error| Failure::caused_by("cannot read cargo metadata", &error))
}

fn target_of(metadata: &serde_json::Value) -> Result<PathBuf, Failure> {
    // Relative to where we were called, and cargo runs in the plugin's folder.
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return std::path::absolute(target)
            .map_err(|error| Failure::caused_by("CARGO_TARGET_DIR names no folder", &error));
    }
    let target = metadata.get("target_directory").and_then(|target| target.as_str());
    target.map(PathBuf::from).ok_or_else(|| Failure::new("cargo metadata names no target folder"))
}

/// The script between cargo and rustc. Its place and age are part of cargo's fingerprints: written once.
fn wrapper(target: &Path) -> Result<PathBuf, Failure> {
    const SCRIPT: &str = include_str!("rustc.sh");
    let path = target.join("casemate-rustc.sh");
    if fs::read(&path).ok().as_deref() != Some(SCRIPT.as_bytes()) {
        let cannot = |error: std::io::Error| Failure::caused_by(format!("cannot write {}", path.display()), &error);
        fs::create_dir_all(target).map_err(cannot)?;
        // Under its name only when it can be run: another build may be about to.
        let fresh = tempfile::NamedTempFile::new_in(target).map_err(cannot)?;
        fs::write(fresh.path(), SCRIPT).map_err(cannot)?;
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755)).map_err(cannot)?;
        fresh.into_temp_path().persist(&path).map_err(|error| cannot(error.error))?;
    }
    Ok(path)
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

fn answer(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::caused_by(format!("cannot start {:?}", command.get_program()), &error))?;
    if !output.status.success() {
        return Err(Failure::new(format!("failed: {command:?}")).hint("a lock file must be there and current"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Compiles a plugin's folder to a file, without a site.
pub fn run(dir: &Path, out: &Path, sources: &Sources) -> Result<Digest, Failure> {
    let component = component(dir, sources)?;
    write(out, &component)?;
    Ok(Digest::of(&component))
}
