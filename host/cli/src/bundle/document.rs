//! Bundles that hold a document instead of a component.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_bundle::{DocumentInput, DocumentInspection, DocumentKind, DocumentManifest, inspect_document};
use casemate_change::SiteStore;
use casemate_types::Digest;
use serde_json::Value;

use super::args::BuildOptions;
use super::{about, read, trust, write};
use crate::failure::Failure;
use crate::output;

/// The payload's file beside `manifest.toml`.
fn file_of(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::HostKit => "SHA256SUMS",
        DocumentKind::Model => "model",
        DocumentKind::People => "people.toml",
        DocumentKind::PolicySet => "policy-set.toml",
        DocumentKind::Settings => "settings.json",
    }
}

/// Packs the document in a folder, unsigned. `pinned` is evidence by its names in the bundle.
pub fn build(
    site: &Path,
    options: &BuildOptions,
    manifest_toml: &str,
    pinned: &BTreeMap<String, Vec<u8>>,
    expires: jiff::Timestamp,
    json: bool,
) -> Result<ExitCode, Failure> {
    if options.component.is_some() {
        return Err(Failure::new("--component is for plugins; a document's folder holds the document").with_code(2));
    }
    let manifest = DocumentManifest::parse(manifest_toml)?;
    let document = options.dir.join(file_of(manifest.kind));
    let document = fs::read(&document)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", document.display()), &error))?;
    let input = DocumentInput {
        manifest_toml,
        document: &document,
        version: options.bundle_version,
        expires,
        replaces: options.replaces,
    };
    let bundle = casemate_bundle::build_document(&trust(site)?, input, pinned)?;
    let name = manifest.name()?;
    let path = options.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.casemate")));
    write(&path, &bundle)?;
    if json {
        output::json(&serde_json::json!({
            "bundle": path, "name": name, "kind": manifest.kind, "version": manifest.version,
            "document": Digest::of(&document), "bytes": bundle.len(), "digest": Digest::of(&bundle),
        }))?;
    } else {
        output::line(&format!(
            "{} holds {name} {}: {} bytes; unsigned, two approvers must sign it",
            path.display(),
            manifest.version,
            bundle.len()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What an approver must know: what it is, what it says, and what it changes here.
pub fn inspect(site: &Path, bundle: &Path, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let new = about(bundle, inspect_document(&read(bundle)?, &trust))?;
    let changes = SiteStore::open(site).map_err(casemate_gate::GateError::from)?;
    let active = changes.active().entries.get(&new.name);
    let active = active.map(|entry| {
        let path = site.join(&entry.file);
        about(&path, inspect_document(&read(&path)?, &trust))
    });
    let difference = active.transpose()?.map(|active| differences(&active, &new));
    if json {
        output::json(&serde_json::json!({
            "name": new.name, "kind": new.manifest.kind, "subject": new.manifest.subject,
            "component": new.manifest.component, "summary": new.manifest.summary, "version": new.version,
            "document": new.document_digest, "document-bytes": new.document.len(), "replaces": new.replaces,
            "digest": new.bundle_digest, "expires": new.expires.to_string(), "signers": new.signers,
            "missing": new.missing_signatures, "changes": difference,
            "evidence": new.evidence.iter().map(|evidence| serde_json::json!({
                "file": evidence.name, "type": evidence.statement.predicate_type, "signers": evidence.signers,
                "unknown-signatures": evidence.strangers,
            })).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let missing = match new.missing_signatures {
        0 => String::new(),
        missing => format!(" ({missing} more must sign)"),
    };
    let component = new.manifest.component.map(|digest| format!("\n  for           {digest}")).unwrap_or_default();
    output::line(&format!(
        "{} {} (bundle version {})\n  {}{component}\n  document      {}, {} bytes\n  bundle        {}\n  expires       {}\n  signed by     {}{missing}",
        new.name,
        new.manifest.version,
        new.version,
        new.manifest.summary,
        new.document_digest,
        new.document.len(),
        new.bundle_digest,
        new.expires,
        if new.signers.is_empty() { "none".to_owned() } else { new.signers.join(", ") },
    ))?;
    match difference {
        Some(difference) => say(&difference)?,
        None => {
            output::line("nothing of this name is active here: all of it is new")?;
            say(&flat(&new).into_iter().map(|(name, value)| (name, [None, Some(value)])).collect())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What changes from one document to another.
pub fn diff(site: &Path, old: &Path, new: &Path, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let read_one = |path: &Path| about(path, inspect_document(&read(path)?, &trust));
    let (old, new) = (read_one(old)?, read_one(new)?);
    if old.name != new.name {
        return Err(Failure::new(format!("they are two things: `{}` and `{}`", old.name, new.name)));
    }
    let difference = differences(&old, &new);
    if json {
        output::json(&difference)?;
    } else {
        say(&difference)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Old and new value by path; nothing where there is none.
type Differences = BTreeMap<String, [Option<Value>; 2]>;

fn differences(old: &DocumentInspection, new: &DocumentInspection) -> Differences {
    let (before, mut after) = (flat(old), flat(new));
    let mut differences = Differences::new();
    for (name, value) in before {
        let now = after.remove(&name);
        if now.as_ref() != Some(&value) {
            differences.insert(name, [Some(value), now]);
        }
    }
    differences.extend(after.into_iter().map(|(name, value)| (name, [None, Some(value)])));
    differences
}

fn say(differences: &Differences) -> Result<(), Failure> {
    if differences.is_empty() {
        return output::line("  the document is the same");
    }
    let word = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let lines = differences.iter().map(|(name, [old, new])| {
        let (old, new) = (output::plain(&word(old)).to_string(), output::plain(&word(new)).to_string());
        format!("  {}: {old} -> {new}", output::plain(name))
    });
    output::line(&lines.collect::<Vec<_>>().join("\n"))
}

/// Every value of a document by its path, so that a change shows where it is.
fn flat(document: &DocumentInspection) -> BTreeMap<String, Value> {
    let text = std::str::from_utf8(&document.document).unwrap_or_default();
    let mut flat = BTreeMap::new();
    match document.manifest.kind {
        DocumentKind::Settings => spread("", serde_json::from_str(text).unwrap_or_default(), &mut flat),
        DocumentKind::People | DocumentKind::PolicySet => {
            let table: toml::Table = text.parse().unwrap_or_default();
            spread("", serde_json::to_value(table).unwrap_or_default(), &mut flat);
        }
        DocumentKind::HostKit => flat.extend(text.lines().filter_map(|line| {
            let (sum, name) = line.split_once("  ")?;
            Some((name.to_owned(), Value::from(sum)))
        })),
        DocumentKind::Model => {
            flat.insert("digest".to_owned(), Value::from(document.document_digest.to_string()));
            flat.insert("bytes".to_owned(), Value::from(document.document.len()));
        }
    }
    flat
}

fn spread(path: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.into_iter().for_each(|(name, value)| spread(&below(&name), value, into));
        }
        // Lists of tables, such as the policies of a chain, by position; plain lists as one value.
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.into_iter().enumerate().for_each(|(n, value)| spread(&below(&(n + 1).to_string()), value, into));
        }
        value => {
            into.insert(path.to_owned(), value);
        }
    }
}
