use std::fs;
use std::path::{Path, PathBuf};

use casemate_bundle::{BuildInput, Manifest, TrustRoot};
use casemate_types::Digest;
use serde::Serialize;

use crate::failure::Failure;
use crate::plugin::compile::{Sources, component as compiled};
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
        None => compiled(dir, &Sources::default())?,
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
