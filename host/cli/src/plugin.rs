mod build;
mod compile;
mod new;
mod rebuild;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_bundle::{ApproverKey, Inspection, TrustRoot};
use casemate_change::SiteStore;
use casemate_gate::{Activated, Gate, GateError, Request};

use crate::args::PluginCommand;
use crate::failure::Failure;
use crate::{environment, output};

pub fn run(site: &Path, command: PluginCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::New { name, kind, sdk } => new::run(&name, kind, sdk.as_deref()),
        PluginCommand::Build { dir, out, bundle_version, valid_days, component } => {
            let packed = build::run(&trust(site)?, &dir, out, bundle_version, valid_days, component.as_deref())?;
            if json {
                output::json(&packed)?;
            } else {
                output::line(&format!(
                    "{} holds {} {}: {} bytes, {}; unsigned, two approvers must sign it",
                    packed.bundle.display(),
                    packed.name,
                    packed.version,
                    packed.bytes,
                    packed.component
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
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
        PluginCommand::Inspect { bundle } => {
            let bytes = read(&bundle)?;
            let inspection = about(&bundle, casemate_bundle::inspect(&bytes, &trust(site)?))?;
            show(&inspection, &settings(&bytes)?, json)
        }
        PluginCommand::Sign { bundle, key } => sign(site, &bundle, &key, json),
        PluginCommand::Verify { bundle } => {
            let verified =
                about(&bundle, casemate_bundle::verify(&read(&bundle)?, &trust(site)?, jiff::Timestamp::now()))?;
            let line = format!(
                "{} {} is signed by {} and unaltered",
                verified.manifest().name,
                verified.version(),
                verified.signers().join(" and ")
            );
            if json {
                output::json(&serde_json::json!({
                    "verified": true, "name": verified.manifest().name, "version": verified.version(),
                    "signers": verified.signers(), "digest": verified.bundle_digest(),
                }))?;
            } else {
                output::line(&line)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Load { bundles } => load(site, &bundles, json),
        PluginCommand::List => list(site, json),
    }
}

fn sign(site: &Path, bundle: &Path, key: &Path, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let key = ApproverKey::load(key).map_err(|error| {
        Failure::from(error)
            .with_code(crate::failure::code::FAILED)
            .hint("a key file of an approver, such as site/approvers/NAME.key")
    })?;
    let signed = about(bundle, casemate_bundle::sign(&read(bundle)?, &key, &trust))?;
    write(bundle, &signed)?;
    let inspection = casemate_bundle::inspect(&signed, &trust)?;
    if json {
        output::json(&serde_json::json!({ "signers": inspection.signers, "missing": inspection.missing_signatures }))?;
    } else {
        output::line(&format!(
            "{} is signed by {}; {}",
            bundle.display(),
            inspection.signers.join(" and "),
            match inspection.missing_signatures {
                0 => "it can be loaded".to_owned(),
                missing => format!("{missing} more must sign"),
            }
        ))?;
    }
    Ok(ExitCode::SUCCESS)
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

/// Says which bundle an error is about.
fn about<T>(bundle: &Path, result: Result<T, casemate_bundle::BundleError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::from(error).about(bundle))
}

/// The settings as they stand in the bundle: a policy's behaviour may lie in them.
fn settings(bundle: &[u8]) -> Result<serde_json::Value, Failure> {
    let entries = casemate_bundle::ustar::read(bundle)?;
    let bytes = entries.get("settings.json").map_or(&b"{}"[..], Vec::as_slice);
    serde_json::from_slice(bytes).map_err(|error| Failure::caused_by("settings.json is no JSON", &error))
}

fn show(inspection: &Inspection, settings: &serde_json::Value, json: bool) -> Result<ExitCode, Failure> {
    let manifest = &inspection.manifest;
    let capabilities: Vec<&str> = manifest.capabilities.iter().map(|c| c.as_str()).collect();
    if json {
        output::json(&serde_json::json!({
            "name": manifest.name, "version": inspection.version, "world": manifest.world.as_str(),
            "summary": manifest.summary, "capabilities": capabilities, "keys": manifest.keys,
            "phases": manifest.phases, "ask-policy": manifest.ask_policy, "limits": manifest.limits,
            "component": inspection.component_digest, "settings": settings,
            "settings-digest": inspection.settings_digest,
            "digest": inspection.bundle_digest, "expires": inspection.expires.to_string(),
            "signers": inspection.signers, "missing": inspection.missing_signatures,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let limits = &manifest.limits;
    output::line(&format!(
        "{} {} ({}, bundle version {})\n  {}\n  capabilities  {}\n  keys          {}\n  ask-policy    {}\n  phases        {}\n  limits        {} bytes of memory, {} table elements, {} ms, {} host calls, {} bytes moved, {} bytes out\n  component     {}\n  settings      {}\n                {settings}\n  bundle        {}\n  expires       {}\n  signed by     {}{}",
        manifest.name,
        manifest.version,
        manifest.world.as_str(),
        inspection.version,
        manifest.summary,
        or_none(&capabilities.join(", ")),
        or_none(&manifest.keys.join(", ")),
        or_none(&manifest.ask_policy.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", ")),
        or_none(&manifest.phases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        limits.memory_bytes,
        limits.table_elements,
        limits.time_ms,
        limits.host_calls,
        limits.host_bytes,
        limits.output_bytes,
        inspection.component_digest,
        inspection.settings_digest,
        inspection.bundle_digest,
        inspection.expires,
        or_none(&inspection.signers.join(", ")),
        match inspection.missing_signatures {
            0 => String::new(),
            missing => format!(" ({missing} more must sign)"),
        }
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// The site's pinned root of trust.
fn trust(site: &Path) -> Result<TrustRoot, Failure> {
    let path = site.join("trust/root.json");
    let bytes = fs::read(&path).map_err(|error| {
        Failure::caused_by(format!("cannot read the root of trust {}", path.display()), &error).hint("casemate init")
    })?;
    Ok(TrustRoot::parse(&bytes)?)
}

/// A bundle from media, of bounded size.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let received = casemate_change::ReceivedBundle::read(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    Ok(received.as_bytes().to_vec())
}

/// Replaces a file whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::caused_by(format!("cannot write {}", path.display()), &error))
}
