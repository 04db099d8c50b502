//! From raw bytes to contents that match their metadata, in two steps: who signed what, then what it is.

use std::collections::{BTreeMap, BTreeSet};

use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::{Value, json};
use sigstore_tuf::{Metadata, Targets};

use crate::document::{DOCUMENT, DocumentManifest};
use crate::evidence::{EVIDENCE, Evidence};
use crate::json::{malformed, parse_strict};
use crate::metadata::{Envelope, SNAPSHOT, TARGETS, TIMESTAMP, signed_parts};
use crate::oci::{self, BLOBS, INDEX, LAYOUT};
use crate::{BundleError, Manifest, TrustRoot, ustar};

pub(crate) const MANIFEST: &str = "manifest.toml";
pub(crate) const SETTINGS: &str = "settings.json";

/// A well-formed file whose signatures are all good, however many there are. Its contents are not looked at yet.
pub(crate) struct Opened {
    pub(crate) entries: BTreeMap<String, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<&'static str, Envelope>,
    /// Who signed which of the three files.
    pub(crate) signers: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Opened {
    pub(crate) fn open(bytes: &[u8], trust: &TrustRoot) -> Result<Self, BundleError> {
        let entries = ustar::read(bytes)?;
        let document = entries.contains_key(DOCUMENT);
        let known: &[&str] = match document {
            true => &[DOCUMENT, MANIFEST, SNAPSHOT, TARGETS, TIMESTAMP],
            false => &[INDEX, LAYOUT, MANIFEST, SETTINGS, SNAPSHOT, TARGETS, TIMESTAMP],
        };
        let free = |name: &str| name.starts_with(EVIDENCE) || !document && name.starts_with(BLOBS);
        if let Some(entry) = entries.keys().find(|name| !known.contains(&name.as_str()) && !free(name)) {
            return Err(BundleError::UnexpectedEntry { entry: entry.clone() });
        }
        if let Some(entry) = known.iter().find(|name| !entries.contains_key(**name)) {
            return Err(BundleError::MissingEntry { entry: (*entry).to_owned() });
        }
        let mut envelopes = BTreeMap::new();
        let mut signers = BTreeMap::new();
        for file in [SNAPSHOT, TARGETS, TIMESTAMP] {
            let envelope = Envelope::parse(file, entry(&entries, file)?)?;
            signers.insert(file, envelope.signers(file, trust.by_key_id())?);
            envelopes.insert(file, envelope);
        }
        Ok(Self { entries, envelopes, signers })
    }

    /// Those who signed all three files.
    pub(crate) fn complete_signers(&self) -> BTreeSet<String> {
        let everyone = self.signers.values().flatten();
        everyone.filter(|name| self.signers.values().all(|file| file.contains(*name))).cloned().collect()
    }

    /// Whether it holds a document, and no component.
    pub(crate) fn is_document(&self) -> bool {
        self.entries.contains_key(DOCUMENT)
    }

    /// Checks that the metadata lists exactly these files.
    pub(crate) fn listed(self) -> Result<Listed, BundleError> {
        let metadata = Metadata::<Targets>::from_slice(entry(&self.entries, TARGETS)?)
            .map_err(|source| BundleError::Tuf { file: TARGETS.to_owned(), source })?;
        let (targets, version, expires) =
            (&metadata.signed().targets, metadata.signed().version, metadata.signed().expires);
        if let Some(entry) = targets.keys().find(|name| !self.entries.contains_key(*name)) {
            return Err(BundleError::MissingEntry { entry: entry.clone() });
        }
        let files: BTreeMap<String, Vec<u8>> =
            self.entries.into_iter().filter(|(name, _)| !self.envelopes.contains_key(name.as_str())).collect();
        for (name, body) in &files {
            let entry = name.clone();
            let Some(target) = targets.get(name) else {
                return Err(BundleError::UnlistedEntry { entry });
            };
            if target.length != body.len() as u64 || target.hashes.get("sha256") != Some(&Digest::of(body).hex()) {
                return Err(BundleError::AlteredEntry { entry });
            }
        }
        if version == 0 {
            return Err(malformed(TARGETS, "versions start at 1"));
        }
        Ok(Listed { files, envelopes: self.envelopes, version, expires })
    }

    /// Checks that the metadata is for exactly these files, and that the files are what a plugin is made of.
    pub(crate) fn bind(self, trust: &TrustRoot) -> Result<Contents, BundleError> {
        let document = self.is_document();
        let listed = self.listed()?;
        let Listed { files, envelopes, version, expires } = &listed;
        let manifest = text(MANIFEST, entry(files, MANIFEST)?)?;
        if document {
            return Err(BundleError::OtherKind { found: DocumentManifest::parse(manifest)?.kind.as_str() });
        }
        let manifest = Manifest::parse(manifest)?;
        let component = oci::find_component(files)?;
        let layout = oci::layout(&manifest, entry(files, &component)?)?;
        // Both ways: nothing else, and nothing different.
        if let Some((entry, _)) = layout.iter().find(|(name, body)| files.get(*name) != Some(*body)) {
            return Err(BundleError::OciLayout { entry: entry.clone() });
        }
        if let Some(entry) = files.keys().find(|name| name.starts_with(BLOBS) && !layout.contains_key(*name)) {
            return Err(BundleError::UnexpectedEntry { entry: entry.clone() });
        }
        let about = About::read(envelopes.get(TARGETS).map(|envelope| &envelope.signed), &component)?;
        listed.check_metadata((&component, &about.custom(&manifest)?))?;
        let settings = settings(SETTINGS, entry(files, SETTINGS)?)?;
        let subject = Digest::of(entry(files, &component)?);
        let evidence = listed.evidence(subject, trust)?;
        let (version, expires) = (*version, *expires);
        let Listed { files, envelopes, .. } = listed;
        Ok(Contents {
            envelopes,
            component_digest: subject,
            files,
            component,
            manifest,
            settings,
            about,
            evidence,
            version,
            expires,
        })
    }
}

/// Files that are exactly those that the metadata lists.
pub(crate) struct Listed {
    /// Every file but the metadata.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<&'static str, Envelope>,
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
}

impl Listed {
    /// The metadata is rebuilt and compared: it says what it must, and nothing else.
    pub(crate) fn check_metadata(&self, custom: (&str, &Value)) -> Result<(), BundleError> {
        for (file, expected) in signed_parts(self.version, self.expires, &self.files, custom)? {
            if self.envelopes.get(file).is_none_or(|envelope| envelope.signed != expected) {
                return Err(BundleError::MixAndMatch { file: file.to_owned() });
            }
        }
        Ok(())
    }

    /// The evidence, which has to be about `subject`.
    pub(crate) fn evidence(&self, subject: Digest, trust: &TrustRoot) -> Result<Vec<Evidence>, BundleError> {
        let pinned = self.files.iter().filter(|(name, _)| name.starts_with(EVIDENCE));
        pinned.map(|(name, body)| Evidence::read(name, body, subject, trust)).collect()
    }
}

/// Settings of a component: one JSON object.
pub(crate) fn settings(entry: &str, bytes: &[u8]) -> Result<Value, BundleError> {
    let settings = parse_strict(entry, bytes, MAX_SETTINGS)?;
    match settings.is_object() {
        true => Ok(settings),
        false => Err(malformed(entry, "it must be one JSON object, `{}` if there is nothing to set")),
    }
}

pub(crate) fn text<'a>(entry: &str, bytes: &'a [u8]) -> Result<&'a str, BundleError> {
    std::str::from_utf8(bytes).map_err(|_| malformed(entry, "it is not UTF-8"))
}

/// Contents that match their metadata. Whether enough people signed is another question.
pub(crate) struct Contents {
    /// Every file but the metadata.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<&'static str, Envelope>,
    /// The name of the blob that is the component.
    pub(crate) component: String,
    pub(crate) component_digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) about: About,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) settings: Value,
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
}

/// What the signed metadata says about the component besides what its manifest does.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// SHA-256 of the contract it was built against, as [`crate::contract_digest`].
    pub(crate) contract: Digest,
    /// The component that it is to take the place of.
    pub(crate) replaces: Option<Digest>,
}

impl About {
    /// From the `custom` field of the target `component`.
    fn read(targets: Option<&Value>, component: &str) -> Result<Self, BundleError> {
        let custom = targets.and_then(|part| part.get("targets")?.get(component)?.get("custom"));
        let digest = |name: &str| {
            custom.and_then(|custom| custom.get(name)).map(|value| {
                let digest = value.as_str().and_then(|text| text.parse().ok());
                digest.ok_or_else(|| malformed(TARGETS, format!("`{name}` is not `sha256:` and 64 hexadecimal digits")))
            })
        };
        let contract =
            digest("wit").ok_or_else(|| malformed(TARGETS, "the component has no `custom` with `wit`"))??;
        Ok(Self { contract, replaces: digest("replaces").transpose()? })
    }

    /// The `custom` field (TUF 1.0.34 section 4.5): what an approver's eye needs, readable by any TUF tool.
    pub(crate) fn custom(&self, manifest: &Manifest) -> Result<Value, BundleError> {
        let limits = serde_json::to_value(manifest.limits).map_err(|error| malformed(TARGETS, error.to_string()))?;
        let mut custom = json!({
            "ask-policy": manifest.ask_policy,
            "capabilities": manifest.capabilities,
            "keys": manifest.keys,
            "kind": "component",
            "limits": limits,
            "name": manifest.name.as_str(),
            "version": manifest.version,
            "wit": self.contract.to_string(),
            "world": manifest.world.target(),
        });
        if let Some(replaces) = self.replaces {
            custom["replaces"] = json!(replaces.to_string());
        }
        Ok(custom)
    }
}

/// Writes `files` and their metadata as one file.
pub(crate) fn pack(
    mut files: BTreeMap<String, Vec<u8>>,
    envelopes: &BTreeMap<&'static str, Envelope>,
) -> Result<Vec<u8>, BundleError> {
    for (file, envelope) in envelopes {
        files.insert((*file).to_owned(), envelope.to_bytes(file)?);
    }
    ustar::write(&files)
}

pub(crate) fn entry<'a>(entries: &'a BTreeMap<String, Vec<u8>>, name: &str) -> Result<&'a [u8], BundleError> {
    let entry = entries.get(name).map(Vec::as_slice);
    entry.ok_or_else(|| BundleError::MissingEntry { entry: name.to_owned() })
}

const MAX_SETTINGS: usize = 1 << 20;

/// Names what a bundle's signatures are over, whoever signed so far: SHA-256 of the canonical signed part of `tuf/targets.json`, which lists
/// every file with its digest, the version and the date. Implies no trust.
///
/// Errors: those of the container, [`BundleError::MissingEntry`], and those of the metadata's form.
pub fn content_digest(bundle: &[u8]) -> Result<Digest, BundleError> {
    let entries = ustar::read(bundle)?;
    let envelope = Envelope::parse(TARGETS, entry(&entries, TARGETS)?)?;
    Ok(Digest::of(&crate::json::canonical(TARGETS, &envelope.signed)?))
}
