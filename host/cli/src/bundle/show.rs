//! What an approver must know, on one screen.

use std::path::Path;
use std::process::ExitCode;

use casemate_bundle::{Difference, Inspection, contract_digest, dependencies};
use casemate_change::SiteStore;

use super::{inspect_file, trust};
use crate::failure::Failure;
use crate::output;

pub fn inspect(site: &Path, bundle: &Path, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let inspection = inspect_file(bundle, &trust)?;
    let active = active(site, &inspection)?;
    let difference = active.as_ref().map(|active| Difference::between(active, &inspection));
    let manifest = &inspection.manifest;
    let capabilities: Vec<&str> = manifest.capabilities.iter().map(|c| c.as_str()).collect();
    if json {
        output::json(&serde_json::json!({
            "name": manifest.name, "version": inspection.version, "world": manifest.world.as_str(),
            "summary": manifest.summary, "capabilities": capabilities, "keys": manifest.keys,
            "phases": manifest.phases, "ask-policy": manifest.ask_policy, "limits": manifest.limits,
            "component": inspection.component_digest, "component-bytes": inspection.component_bytes,
            "contract": inspection.contract, "replaces": inspection.replaces,
            "settings": inspection.settings, "settings-digest": inspection.settings_digest,
            "digest": inspection.bundle_digest, "expires": inspection.expires.to_string(),
            "signers": inspection.signers, "missing": inspection.missing_signatures,
            "evidence": inspection.evidence.iter().map(|evidence| serde_json::json!({
                "file": evidence.name, "type": evidence.statement.predicate_type, "signers": evidence.signers,
                "unknown-signatures": evidence.strangers,
            })).collect::<Vec<_>>(),
            "dependencies": dependencies(&inspection), "changes": difference,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let limits = &manifest.limits;
    let contract =
        if inspection.contract == contract_digest() { "this program's" } else { "ANOTHER ONE than this program's" };
    output::line(&format!(
        "{} {} ({}, bundle version {})\n  {}\n  capabilities  {}\n  keys          {}\n  ask-policy    {}\n  phases        {}\n  limits        {} bytes of memory, {} table elements, {} ms, {} host calls, {} bytes moved, {} bytes out\n  component     {}, {} bytes\n  contract      {contract}\n  settings      {}\n                {}\n  bundle        {}\n  expires       {}\n  signed by     {}{}",
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
        inspection.component_bytes,
        inspection.settings_digest,
        inspection.settings,
        inspection.bundle_digest,
        inspection.expires,
        or_none(&inspection.signers.join(", ")),
        match inspection.missing_signatures {
            0 => String::new(),
            missing => format!(" ({missing} more must sign)"),
        }
    ))?;
    if let Some(replaces) = inspection.replaces {
        output::line(&format!("  replaces      {replaces}"))?;
    }
    for evidence in &inspection.evidence {
        let strangers = match evidence.strangers {
            0 => String::new(),
            some => format!(", {some} signatures of unknown keys"),
        };
        output::line(&format!(
            "  evidence      {} ({}), signed by {}{strangers}",
            output::plain(&evidence.name),
            output::plain(&evidence.statement.predicate_type),
            or_none(&evidence.signers.join(", "))
        ))?;
    }
    match (&difference, active) {
        (Some(difference), Some(active)) => {
            output::line(&format!("changes against the active bundle version {}", active.version))?;
            changes(difference)?;
        }
        _ => output::line("no bundle of this name is active here: everything above is new")?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn diff(site: &Path, old: &Path, new: &Path, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let (before, after) = (inspect_file(old, &trust)?, inspect_file(new, &trust)?);
    let difference = Difference::between(&before, &after);
    if json {
        output::json(&difference)?;
    } else {
        output::line(&format!(
            "{} {} (bundle version {}) to {} {} (bundle version {})",
            before.manifest.name,
            before.manifest.version,
            before.version,
            after.manifest.name,
            after.manifest.version,
            after.version
        ))?;
        changes(&difference)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// More authority first.
pub fn changes(difference: &Difference) -> Result<(), Failure> {
    let mut lines = Vec::new();
    let mut list = |what: &str, names: &std::collections::BTreeSet<String>| {
        if !names.is_empty() {
            lines.push(format!("  {what:<22} {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")));
        }
    };
    list("MAY ALSO CALL", &difference.gained);
    list("MAY ALSO USE KEYS", &difference.new_keys);
    list("POLICIES NOT ASKED ON", &difference.no_longer_asked);
    list("NOT ASKED IN PHASES", &difference.dropped_phases);
    list("gives up", &difference.lost);
    if let Some(new) = &difference.new_dependencies {
        list("new dependencies", new);
    }
    if let Some(dropped) = &difference.dropped_dependencies {
        list("dropped dependencies", dropped);
    }
    if difference.new_dependencies.is_none() {
        lines.push("  dependencies           unknown: one of the two has no bill of materials".to_owned());
    }
    if difference.other_world {
        lines.push("  world                  ANOTHER ONE".to_owned());
    }
    if difference.other_contract {
        lines.push("  contract               another one".to_owned());
    }
    for (name, (old, new)) in &difference.limits {
        lines.push(format!("  limit {name:<16} {old} to {new}"));
    }
    for (name, (old, new)) in &difference.settings {
        lines.push(format!("  setting {:<14} {old} to {new}", output::plain(name)));
    }
    let (old, new) = difference.component_bytes;
    lines.push(match difference.other_component {
        true => format!("  component              another one, {old} to {new} bytes"),
        false => "  component              the same".to_owned(),
    });
    output::line(&lines.join("\n"))
}

/// The active bundle of the same name, if there is one.
fn active(site: &Path, new: &Inspection) -> Result<Option<Inspection>, Failure> {
    let trust = trust(site)?;
    let changes = SiteStore::open(site).map_err(casemate_gate::GateError::from)?;
    match changes.active().entries.get(&new.manifest.name) {
        Some(entry) => inspect_file(&site.join(&entry.file), &trust).map(Some),
        None => Ok(None),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}
