//! From raw bytes to contents that match their metadata, in two steps: who signed what, then what it is.

use std::collections::{BTreeMap, BTreeSet};

use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::Value;
use sigstore_tuf::{Metadata, Targets};

use crate::json::{malformed, parse_strict};
use crate::metadata::{Envelope, SNAPSHOT, TARGETS, TIMESTAMP, signed_parts};
use crate::{BundleError, Manifest, TrustRoot, ustar};

pub(crate) const COMPONENT: &str = "component.wasm";
pub(crate) const MANIFEST: &str = "manifest.toml";
pub(crate) const SETTINGS: &str = "settings.json";
pub(crate) const EVIDENCE: &str = "evidence/";

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
        let known = [COMPONENT, MANIFEST, SETTINGS, SNAPSHOT, TARGETS, TIMESTAMP];
        if let Some(entry) = entries.keys().find(|name| !known.contains(&name.as_str()) && !name.starts_with(EVIDENCE))
        {
            return Err(BundleError::UnexpectedEntry { entry: entry.clone() });
        }
        if let Some(entry) = known.into_iter().find(|name| !entries.contains_key(*name)) {
            return Err(BundleError::MissingEntry { entry: entry.to_owned() });
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

    /// Checks that the metadata is for exactly these files, and that the files are what a plugin is made of.
    pub(crate) fn bind(self) -> Result<Contents, BundleError> {
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
        for (file, expected) in signed_parts(version, expires, &files)? {
            if self.envelopes.get(file).is_none_or(|envelope| envelope.signed != expected) {
                return Err(BundleError::MixAndMatch { file: file.to_owned() });
            }
        }
        if version == 0 {
            return Err(malformed(TARGETS, "versions start at 1"));
        }
        check_component(entry(&files, COMPONENT)?)?;
        let manifest = entry(&files, MANIFEST)?;
        let manifest = std::str::from_utf8(manifest).map_err(|_| malformed(MANIFEST, "it is not UTF-8"))?;
        let manifest = Manifest::parse(manifest)?;
        let settings = parse_strict(SETTINGS, entry(&files, SETTINGS)?, MAX_SETTINGS)?;
        if !settings.is_object() {
            return Err(malformed(SETTINGS, "it must be one JSON object, `{}` if there is nothing to set"));
        }
        Ok(Contents { files, envelopes: self.envelopes, manifest, settings, version, expires })
    }
}

/// Contents that match their metadata. Whether enough people signed is another question.
pub(crate) struct Contents {
    /// Every file but the metadata.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<&'static str, Envelope>,
    pub(crate) manifest: Manifest,
    pub(crate) settings: Value,
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
}

impl Contents {
    /// The bundle file.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        pack(self.files.clone(), &self.envelopes)
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

/// The preamble of a component binary: magic, version 13, layer 1 (component-model `Binary.md`, "Component Definitions").
fn check_component(bytes: &[u8]) -> Result<(), BundleError> {
    let reason = match bytes.first_chunk::<8>() {
        Some(b"\0asm\x0d\0\x01\0") => return Ok(()),
        // What `wasmtime compile` makes: native code, which would escape every limit.
        Some([0x7f, b'E', b'L', b'F', ..]) => "native code (an ELF image, as an ahead-of-time compiler makes)",
        Some(b"\0asm\x01\0\0\0") => "a core module; make a component of it first",
        Some([0, b'a', b's', b'm', ..]) => "WebAssembly of another version or layer",
        Some(_) => "not WebAssembly at all",
        None => "shorter than the eight bytes a component starts with",
    };
    Err(BundleError::NotAComponent { reason })
}

const MAX_SETTINGS: usize = 1 << 20;
