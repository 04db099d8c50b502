mod new;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_change::SiteStore;
use casemate_gate::Gate;

use crate::args::PluginCommand;
use crate::bundle::read;
use crate::failure::Failure;
use crate::{environment, output};

pub fn run(site: &Path, command: PluginCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::New { name, kind, sdk } => new::run(&name, kind, sdk.as_deref()),
        PluginCommand::Load { bundles } => load(site, &bundles, json),
        PluginCommand::List => list(site, json),
    }
}

fn load(site: &Path, bundles: &[PathBuf], json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(async {
        // Opened without plugins, so that a site whose active set is broken can be put right.
        let gate = Gate::open_without_plugins(site)?;
        for path in bundles {
            let loaded = gate.load_bundle(&read(path)?).await;
            let (bundle, generation) = loaded.map_err(|error| Failure::from(error).about(path))?;
            let manifest = bundle.manifest();
            if json {
                output::json(&serde_json::json!({
                    "name": manifest.name, "version": bundle.version(), "generation": generation,
                    "digest": bundle.bundle_digest(), "signers": bundle.signers(),
                }))?;
            } else {
                let capabilities: Vec<&str> = manifest.capabilities.iter().map(|c| c.as_str()).collect();
                output::line(&format!(
                    "{} {} is active in generation {generation}; signed by {}; may use {}",
                    manifest.name,
                    bundle.version(),
                    bundle.signers().join(" and "),
                    if capabilities.is_empty() { "nothing".to_owned() } else { capabilities.join(", ") }
                ))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn list(site: &Path, json: bool) -> Result<ExitCode, Failure> {
    environment::require_site(site)?;
    let changes = SiteStore::open(site).map_err(casemate_gate::GateError::from)?;
    let active = changes.active();
    if json {
        output::json(active)?;
    } else {
        output::line(&format!("generation {}", active.generation))?;
        for (name, entry) in &active.entries {
            output::line(&format!("  {name} {} {}", entry.version, entry.bundle_digest))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
