use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_types::PluginName;

use crate::args::Kind;
use crate::failure::Failure;
use crate::output;

/// Writes the skeleton of a plugin into a folder of its name.
pub fn run(name: &str, kind: Kind, sdk: Option<&Path>) -> Result<ExitCode, Failure> {
    let name: PluginName =
        name.parse().map_err(|error: casemate_types::NameError| Failure::new(error.to_string()).with_code(2))?;
    let dir = PathBuf::from(name.as_str());
    if dir.exists() {
        return Err(Failure::new(format!("{} is there already", dir.display())));
    }
    let sdk = find_sdk(sdk)?;
    let dependency = if is_registry(&sdk) {
        format!("{{ version = \"{}\", registry = \"{REGISTRY}\" }}", env!("CARGO_PKG_VERSION"))
    } else {
        format!("{{ path = {} }}", quoted(&sdk))
    };
    let (world, source) = match kind {
        Kind::Policy => ("policy", POLICY),
        Kind::Strategy => ("retrieval-strategy", STRATEGY),
        Kind::Agent => ("agent-handler", AGENT),
    };
    let mut files = vec![
        ("Cargo.toml", CARGO.replace("{name}", name.as_str()).replace("{sdk}", &dependency)),
        ("manifest.toml", manifest(&name, world, kind)),
        ("src/lib.rs", source.to_owned()),
    ];
    if is_registry(&sdk) {
        files.push((".cargo/config.toml", replaced_by(&sdk).join("\n") + "\n"));
    }
    match kind {
        Kind::Policy => {
            files.push(("settings.json", "{\"word\": \"secret\"}\n".to_owned()));
            files.push(("cases.json", CASES.to_owned()));
        }
        Kind::Strategy | Kind::Agent => files.push(("settings.json", "{}\n".to_owned())),
    }
    for (file, text) in files {
        let path = dir.join(file);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| Failure::caused_by(format!("cannot write {}", path.display()), &error))?;
    }
    let article = if world.starts_with('a') { "an" } else { "a" };
    output::line(&format!(
        "{name}/ is {article} {world}. Test it with `cargo test` there, pack it with `casemate bundle build {name}`."
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Name of the registry that holds the SDK. Its address is one that no resolver knows (RFC 6761 section 6.4): the crate's name cannot be
/// taken by somebody on a public registry.
const REGISTRY: &str = "casemate";
const ADDRESS: &str = "sparse+https://casemate.invalid/index/";

/// Cargo settings, one a line, under which every crate comes from the local registry in this folder.
pub fn replaced_by(registry: &Path) -> Vec<String> {
    let folder = std::path::absolute(registry).unwrap_or_else(|_| registry.to_owned());
    vec![
        format!("source.kit.local-registry = {}", quoted(&folder)),
        "source.crates-io.replace-with = \"kit\"".to_owned(),
        format!("registries.{REGISTRY}.index = \"{ADDRESS}\""),
        format!("source.{REGISTRY}.registry = \"{ADDRESS}\""),
        format!("source.{REGISTRY}.replace-with = \"kit\""),
    ]
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

fn is_registry(sdk: &Path) -> bool {
    sdk.join("index").is_dir()
}

/// The SDK's folder: named, or beside this program's sources, or above the current folder.
fn find_sdk(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let from_program = std::env::current_exe().ok();
    let from_here = std::env::current_dir().ok();
    let above = [from_program, from_here]
        .into_iter()
        .flatten()
        .flat_map(|path| path.ancestors().map(|ancestor| ancestor.join("sdk-guest")).collect::<Vec<_>>());
    named
        .map(Path::to_owned)
        .into_iter()
        .chain(above)
        .find(|path| path.join("Cargo.toml").exists() || is_registry(path))
        .and_then(|path| fs::canonicalize(path).ok())
        .ok_or_else(|| {
            Failure::new("cannot find the guest SDK").hint("--sdk PATH/TO/sdk-guest, or --sdk PATH/TO/KIT/sdk")
        })
}

fn manifest(name: &PluginName, world: &str, kind: Kind) -> String {
    let capabilities = match kind {
        Kind::Policy => "[]",
        Kind::Strategy => "[\"vectors\"]",
        Kind::Agent => "[\"retrieval\", \"records\"]",
    };
    format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\nworld = \"{world}\"\nsummary = \"What it does, in one sentence.\"\n# Everything it may call; nothing is granted by default.\ncapabilities = {capabilities}\n"
    )
}

const CARGO: &str = r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
casemate-sdk = {sdk}

[workspace]
"#;

const POLICY: &str = include_str!("templates/policy.rs.txt");
const STRATEGY: &str = include_str!("templates/strategy.rs.txt");
const AGENT: &str = include_str!("templates/agent.rs.txt");
const CASES: &str = include_str!("templates/cases.json.txt");
