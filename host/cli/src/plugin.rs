pub mod compile;
mod new;
mod rebuild;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_change::SiteStore;
use casemate_gate::{Activated, Gate, GateError, Request};

use crate::args::PluginCommand;
use crate::bundle::read;
use crate::failure::Failure;
use crate::{environment, output};

pub fn run(site: &Path, command: PluginCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::New { name, kind, sdk } => new::run(&name, kind, sdk.as_deref()),
        PluginCommand::Component { dir, out, registry, offline } => {
            let sources = compile::Sources { offline, registry, target: None };
            let digest = compile::run(&dir, &out, &sources)?;
            if json {
                output::json(&serde_json::json!({ "component": digest, "file": out }))?;
            } else {
                output::line(&format!("{} holds component {digest}", out.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Rebuild { bundle, source, registry } => {
            rebuild::run(&bundle, &source, registry.as_deref(), json)
        }
        PluginCommand::Load { bundles } => load(site, &bundles, json),
        PluginCommand::List => list(site, json),
    }
}

fn load(site: &Path, bundles: &[PathBuf], json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(async {
        // Opened without plugins, so that a site whose active set is broken can be put right.
        let gate = match Gate::open_without_plugins(site) {
            Ok(gate) => Some(gate),
            // Beside a running server the server activates: requests under way end with the old set, new ones begin with the new one.
            Err(GateError::InUse { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        for path in bundles {
            let raw = read(path)?;
            let loaded = match &gate {
                Some(gate) => gate.activate(&raw).await,
                None => beside(site, &raw),
            };
            let activated = loaded.map_err(|error| Failure::from(error).about(path))?;
            if json {
                output::json(&activated)?;
            } else {
                output::line(&format!(
                    "{} {} is active in generation {}{}; signed by {}; may use {}",
                    activated.name,
                    activated.version,
                    activated.generation,
                    if gate.is_some() { "" } else { " of the running server" },
                    activated.signers.join(" and "),
                    if activated.capabilities.is_empty() {
                        "nothing".to_owned()
                    } else {
                        activated.capabilities.join(", ")
                    }
                ))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn beside(site: &Path, raw: &[u8]) -> Result<Activated, GateError> {
    let reply = casemate_gate::ask_beside(site, Request::Bundle, raw)?;
    serde_json::from_value(reply).map_err(|error| GateError::Refused(format!("the server's answer is none: {error}")))
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
