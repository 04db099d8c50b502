//! Evidence that a build makes of itself: SLSA provenance v1 and a CycloneDX 1.6 bill of materials, as unsigned in-toto statements. Equal
//! sources make equal bytes: neither holds a date.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_attest::{Envelope, Statement, Subject};
use casemate_bundle::{CYCLONEDX, Manifest, PROVENANCE};
use casemate_types::Digest;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::plugin::compile::{Sources, cargo};

/// How a plugin is built; docs/writing-plugins.md describes the type.
const BUILD_TYPE: &str = "https://casemate.invalid/plugin-build/v1";
const BUILDER: &str = "https://casemate.invalid/builder/casemate-bundle-build";

/// The files of evidence about a component compiled from `dir`, by their names in the bundle.
pub fn of(dir: &Path, manifest: &Manifest, component: Digest) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let metadata = metadata(dir)?;
    let subject = Subject::new(&format!("{}.wasm", manifest.name), component);
    let file = |name: &str, kind: &str, predicate: Value| {
        let statement = Statement::new(vec![subject.clone()], kind, predicate);
        let envelope: Envelope =
            statement.envelope().map_err(|error| Failure::caused_by("cannot write evidence", &error))?;
        let bytes = envelope.to_bytes().map_err(|error| Failure::caused_by("cannot write evidence", &error))?;
        Ok::<_, Failure>((format!("evidence/{name}.dsse.json"), bytes))
    };
    Ok([file("provenance", PROVENANCE, provenance(dir, &metadata)?)?, file("sbom", CYCLONEDX, bill(&metadata)?)?]
        .into())
}

/// SLSA provenance v1 (slsa.dev/spec/v1.0/provenance).
fn provenance(dir: &Path, metadata: &Value) -> Result<Value, Failure> {
    let lock = PathBuf::from(text(metadata, "workspace_root")).join("Cargo.lock");
    let lock =
        fs::read(&lock).map_err(|error| Failure::caused_by(format!("cannot read {}", lock.display()), &error))?;
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("--version")
        .output()
        .map_err(|error| Failure::caused_by("cannot ask rustc for its version", &error))?;
    let rustc = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"profile": "plugin", "target": "wasm32-unknown-unknown"},
            "resolvedDependencies": [
                {"name": "source", "digest": {"sha256": source(dir)?.hex()}},
                {"name": "Cargo.lock", "digest": {"sha256": Digest::of(&lock).hex()}},
            ],
        },
        "runDetails": {"builder": {
            "id": BUILDER, "version": {"casemate": env!("CARGO_PKG_VERSION"), "rustc": rustc}
        }},
    }))
}

/// SHA-256 over the folder's files in order of their names, each as the lengths and bytes of name and content; without `target` and what
/// begins with a dot.
fn source(dir: &Path) -> Result<Digest, Failure> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let fault = |error: std::io::Error| Failure::caused_by(format!("cannot read {}", folder.display()), &error);
        for entry in fs::read_dir(&folder).map_err(fault)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))).map_err(fault)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || name == "target" || name.ends_with(".casemate") {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let inner = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                files.insert(inner, fs::read(&path).map_err(fault)?);
            }
        }
    }
    let mut all = Vec::new();
    for (name, body) in files {
        for part in [name.as_bytes(), &body] {
            all.extend((part.len() as u64).to_be_bytes());
            all.extend(part);
        }
    }
    Ok(Digest::of(&all))
}

/// CycloneDX 1.6 (ECMA-424): the crates that the plugin is made of or built with, without those of its tests.
fn bill(metadata: &Value) -> Result<Value, Failure> {
    let broken = || Failure::new("cargo metadata names no package of the plugin's folder");
    let root = metadata.pointer("/resolve/root").and_then(Value::as_str).ok_or_else(broken)?;
    let list = |path: &str| metadata.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let packages: BTreeMap<&str, &Value> = list("/packages").map(|package| (text(package, "id"), package)).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in list("/resolve/nodes") {
        let needed = node.get("deps").and_then(Value::as_array).into_iter().flatten().filter(|dep| {
            let kinds = dep.get("dep_kinds").and_then(Value::as_array).into_iter().flatten();
            kinds.into_iter().any(|kind| kind.get("kind").and_then(Value::as_str) != Some("dev"))
        });
        edges.insert(text(node, "id"), needed.map(|dep| text(dep, "pkg")).collect());
    }
    let mut reached = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        for dep in edges.get(id).into_iter().flatten() {
            if reached.insert(dep) {
                open.push(dep);
            }
        }
    }
    let purl = |id: &str| {
        let package = packages.get(id).copied().unwrap_or(&Value::Null);
        format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
    };
    let component = |id: &str, kind: &str| {
        let package = packages.get(id).copied().unwrap_or(&Value::Null);
        let mut component = json!({
            "bom-ref": purl(id), "name": text(package, "name"), "purl": purl(id), "type": kind,
            "version": text(package, "version"),
        });
        if let Some(license) = package.get("license").and_then(Value::as_str) {
            // Cargo once took a slash for OR.
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        component
    };
    let by_purl: BTreeMap<String, &str> = reached.iter().map(|id| (purl(id), *id)).collect();
    let others = by_purl.values().filter(|id| **id != root);
    let dependencies = by_purl.iter().map(|(purl_of, id)| {
        let on: BTreeSet<String> = edges.get(id).into_iter().flatten().map(|dep| purl(dep)).collect();
        json!({"dependsOn": on, "ref": purl_of})
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "components": others.map(|id| component(id, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
        "metadata": {"component": component(root, "application")},
        "specVersion": "1.6",
        "version": 1,
    }))
}

fn metadata(dir: &Path) -> Result<Value, Failure> {
    let dir =
        fs::canonicalize(dir).map_err(|error| Failure::caused_by(format!("cannot find {}", dir.display()), &error))?;
    // The lock file as the build left it.
    let output = cargo("metadata", &dir, &Sources { offline: true, ..Sources::default() })
        .args(["--format-version", "1", "--filter-platform", "wasm32-unknown-unknown"])
        .output()
        .map_err(|error| Failure::caused_by("cannot start cargo", &error).hint("install the Rust toolchain"))?;
    if !output.status.success() {
        return Err(Failure::new(format!(
            "cargo does not say what the plugin is made of: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Failure::caused_by("cargo metadata is no JSON", &error))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
