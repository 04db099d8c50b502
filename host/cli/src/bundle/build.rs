//! From a plugin's folder to an unsigned bundle with its evidence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_bundle::{Additions, BuildInput, Manifest};
use casemate_types::Digest;

use super::args::BuildOptions;
use super::{evidence, read, trust, write};
use crate::failure::Failure;
use crate::output;
use crate::plugin::compile::{Sources, component as compiled};

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
            let component = compiled(dir, &Sources::default())?;
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
