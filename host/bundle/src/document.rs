//! Bundles without a component: what a site is told by two people besides code. Same container, same metadata, same signatures.
//!
//! ```text
//! NAME.casemate        strict USTAR
//!   document           the payload; what it is, the manifest says
//!   evidence/*         as in a bundle of a component, about `document`
//!   manifest.toml      kind, version and summary (`DocumentManifest`)
//!   tuf/*
//! ```

use std::collections::BTreeMap;
use std::fmt;

use casemate_types::{Digest, PluginName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::contents::{MANIFEST, Opened, entry, pack, settings, text};
use crate::evidence::Evidence;
use crate::json::malformed;
use crate::lifecycle::approved;
use crate::manifest::{MAX_MANIFEST, RESERVED, check_words, rule};
use crate::metadata::{Envelope, TARGETS, signed_parts};
use crate::{BundleError, THRESHOLD, TrustRoot, VerifiedBundle, verify};

/// The name of the payload.
pub(crate) const DOCUMENT: &str = "document";

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentKind {
    /// The list of sums of a host kit (`SHA256SUMS`): which build of the host is approved.
    HostKit,
    /// A model file, for instance weights of a classifier.
    Model,
    /// Users with their attributes, and compartments with their rules. TOML.
    People,
    /// The chain: which policies, how they combine, their modes, agent and strategy. TOML.
    PolicySet,
    /// Settings of one component that is active already. One JSON object.
    Settings,
}

impl DocumentKind {
    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostKit => "host-kit",
            Self::Model => "model",
            Self::People => "people",
            Self::PolicySet => "policy-set",
            Self::Settings => "settings",
        }
    }

    /// The largest payload, in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Self::Model => 48 << 20,
            Self::HostKit | Self::People => 8 << 20,
            Self::PolicySet | Self::Settings => 1 << 20,
        }
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `manifest.toml` of a document. Unknown keys are errors.
///
/// ```
/// let manifest = casemate_bundle::DocumentManifest::parse(r#"
///     kind = "settings"
///     subject = "clearance"
///     component = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
///     version = "1.0.0"
///     summary = "Confidential is the highest label that leaves."
/// "#)?;
/// assert_eq!(manifest.name()?.as_str(), "site-settings-clearance");
/// # Ok::<(), casemate_bundle::BundleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DocumentManifest {
    /// What it is.
    pub kind: DocumentKind,
    /// Whose settings, or which model; nothing for the other kinds, of which a site has one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<PluginName>,
    /// Of settings: the component that they are for, and no other version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Digest>,
    /// The author's version, `MAJOR.MINOR.PATCH` with an optional `-PRERELEASE`.
    pub version: String,
    /// One line for people, at most 200 characters.
    pub summary: String,
}

impl DocumentManifest {
    /// Parses a manifest of at most 64 KiB.
    ///
    /// Errors: [`BundleError::Manifest`], [`BundleError::ManifestRule`].
    pub fn parse(toml: &str) -> Result<Self, BundleError> {
        if toml.len() > MAX_MANIFEST {
            let (size, max) = (toml.len() as u64, MAX_MANIFEST as u64);
            return Err(BundleError::EntryTooLarge { entry: MANIFEST.to_owned(), size, max });
        }
        let manifest: Self = toml::from_str(toml).map_err(|error| BundleError::Manifest(Box::new(error)))?;
        check_words(&manifest.version, &manifest.summary)?;
        let many = matches!(manifest.kind, DocumentKind::Model | DocumentKind::Settings);
        if manifest.subject.is_some() != many {
            let said = if many { "must say which one" } else { "is for settings and models only; remove it" };
            return Err(rule("subject", said));
        }
        if manifest.component.is_some() != (manifest.kind == DocumentKind::Settings) {
            return Err(rule("component", "is the digest of the component, for settings and for nothing else"));
        }
        manifest.name()?;
        Ok(manifest)
    }

    /// The name under which it is active at a site: `site-KIND`, or `site-KIND-SUBJECT`. No component is called so.
    ///
    /// Errors: [`BundleError::ManifestRule`] for a subject that is too long.
    pub fn name(&self) -> Result<PluginName, BundleError> {
        document_name(self.kind, self.subject.as_ref())
    }

    /// The `custom` field of the target.
    fn custom(&self, replaces: Option<Digest>) -> Result<Value, BundleError> {
        let mut custom = json!({ "kind": self.kind, "name": self.name()?, "version": self.version });
        for (name, digest) in [("component", self.component), ("replaces", replaces)] {
            if let Some(digest) = digest {
                custom[name] = json!(digest.to_string());
            }
        }
        Ok(custom)
    }
}

/// The name under which a document of a kind is active.
fn document_name(kind: DocumentKind, subject: Option<&PluginName>) -> Result<PluginName, BundleError> {
    let name = match subject {
        Some(subject) => format!("{RESERVED}{kind}-{subject}"),
        None => format!("{RESERVED}{kind}"),
    };
    name.parse().map_err(|_| rule("subject", format!("is too long: `{name}` must be a name")))
}

/// What a document's bundle is made of.
#[derive(Debug, Clone, Copy)]
pub struct DocumentInput<'a> {
    /// The text of `manifest.toml`.
    pub manifest_toml: &'a str,
    /// The payload.
    pub document: &'a [u8],
    /// The bundle's version, from 1.
    pub version: u64,
    /// After this nothing takes it any more. Whole seconds.
    pub expires: Timestamp,
    /// The payload that it is to take the place of.
    pub replaces: Option<Digest>,
}

/// Makes an unsigned draft. Two people with the same input get the same bytes.
///
/// Errors: everything [`inspect_document`] would refuse.
pub fn build_document(
    trust: &TrustRoot,
    input: DocumentInput<'_>,
    evidence: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<u8>, BundleError> {
    let manifest = DocumentManifest::parse(input.manifest_toml)?;
    let custom = manifest.custom(input.replaces)?;
    let mut files = evidence.clone();
    files.insert(MANIFEST.to_owned(), input.manifest_toml.as_bytes().to_vec());
    files.insert(DOCUMENT.to_owned(), input.document.to_vec());
    let mut envelopes = BTreeMap::new();
    for (file, signed) in signed_parts(input.version, input.expires, &files, (DOCUMENT, &custom))? {
        envelopes.insert(file, Envelope::unsigned(file, signed)?);
    }
    let draft = pack(files, &envelopes)?;
    inspect_document(&draft, trust)?;
    Ok(draft)
}

/// A document that matches its metadata. Whether enough people signed is another question.
pub(crate) struct Contents {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<&'static str, Envelope>,
    manifest: DocumentManifest,
    name: PluginName,
    replaces: Option<Digest>,
    evidence: Vec<Evidence>,
    version: u64,
    expires: Timestamp,
}

/// Checks that the metadata is for exactly these files, and that the payload has the form of its kind.
pub(crate) fn bind(opened: Opened, trust: &TrustRoot) -> Result<Contents, BundleError> {
    if !opened.is_document() {
        return Err(BundleError::OtherKind { found: "component" });
    }
    let listed = opened.listed()?;
    let manifest = DocumentManifest::parse(text(MANIFEST, entry(&listed.files, MANIFEST)?)?)?;
    let custom =
        listed.envelopes.get(TARGETS).and_then(|part| part.signed.get("targets")?.get(DOCUMENT)?.get("custom"));
    let replaces = custom.and_then(|custom| custom.get("replaces"));
    let replaces = replaces.map(|value| {
        let digest = value.as_str().and_then(|text| text.parse().ok());
        digest.ok_or_else(|| malformed(TARGETS, "`replaces` is not `sha256:` and 64 hexadecimal digits"))
    });
    let replaces = replaces.transpose()?;
    listed.check_metadata((DOCUMENT, &manifest.custom(replaces)?))?;
    let document = entry(&listed.files, DOCUMENT)?;
    check_form(manifest.kind, document)?;
    let evidence = listed.evidence(Digest::of(document), trust)?;
    let (name, version, expires) = (manifest.name()?, listed.version, listed.expires);
    Ok(Contents {
        files: listed.files,
        envelopes: listed.envelopes,
        manifest,
        name,
        replaces,
        evidence,
        version,
        expires,
    })
}

/// What can be said of a payload without a site. Whether a site can use it is decided there, before it becomes active.
fn check_form(kind: DocumentKind, document: &[u8]) -> Result<(), BundleError> {
    let (size, max) = (document.len() as u64, kind.max_bytes() as u64);
    if size > max {
        return Err(BundleError::EntryTooLarge { entry: DOCUMENT.to_owned(), size, max });
    }
    match kind {
        DocumentKind::Settings => settings(DOCUMENT, document).map(drop),
        DocumentKind::People | DocumentKind::PolicySet => {
            let table = text(DOCUMENT, document)?.parse::<toml::Table>();
            table.map(drop).map_err(|error| malformed(DOCUMENT, error.to_string()))
        }
        DocumentKind::HostKit => {
            let is_sum = |line: &str| {
                let split = line.split_once("  ");
                split.is_some_and(|(sum, name)| {
                    sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()) && !name.is_empty()
                })
            };
            match text(DOCUMENT, document)?.lines().all(is_sum) && size > 0 {
                true => Ok(()),
                false => Err(malformed(DOCUMENT, "it is not the SHA256SUMS of a kit")),
            }
        }
        DocumentKind::Model if size == 0 => Err(malformed(DOCUMENT, "it is empty")),
        DocumentKind::Model => Ok(()),
    }
}

/// What a document says about itself, for people to read before they sign. Implies no trust.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DocumentInspection {
    /// The manifest.
    pub manifest: DocumentManifest,
    /// The name under which it becomes active.
    pub name: PluginName,
    /// The payload.
    pub document: Vec<u8>,
    /// The payload's digest.
    pub document_digest: Digest,
    /// The payload that it is to take the place of, if it says so.
    pub replaces: Option<Digest>,
    /// The evidence, sorted by name.
    pub evidence: Vec<Evidence>,
    /// The digest of the whole file; every further signature changes it.
    pub bundle_digest: Digest,
    /// The bundle's version.
    pub version: u64,
    /// When it stops to verify.
    pub expires: Timestamp,
    /// The approvers who have signed, sorted.
    pub signers: Vec<String>,
    /// How many more must sign.
    pub missing_signatures: usize,
}

/// As [`crate::inspect`], for a document.
pub fn inspect_document(bundle: &[u8], trust: &TrustRoot) -> Result<DocumentInspection, BundleError> {
    let opened = Opened::open(bundle, trust)?;
    let signers = opened.complete_signers();
    let mut contents = bind(opened, trust)?;
    let document = contents.files.remove(DOCUMENT).unwrap_or_default();
    Ok(DocumentInspection {
        document_digest: Digest::of(&document),
        document,
        name: contents.name,
        replaces: contents.replaces,
        evidence: contents.evidence,
        bundle_digest: Digest::of(bundle),
        version: contents.version,
        expires: contents.expires,
        missing_signatures: THRESHOLD.saturating_sub(signers.len()),
        signers: signers.into_iter().collect(),
        manifest: contents.manifest,
    })
}

/// Whether the file holds a document, by its container alone. Implies no trust.
///
/// Errors: those of the container.
pub fn is_document(bundle: &[u8]) -> Result<bool, BundleError> {
    Ok(crate::ustar::read(bundle)?.contains_key(DOCUMENT))
}

/// A document that two approvers of this site have signed and that is in date. Only [`verify_any`] makes one.
pub struct VerifiedDocument {
    contents: Contents,
    bundle_digest: Digest,
    signers: Vec<String>,
}

impl VerifiedDocument {
    /// The manifest.
    pub fn manifest(&self) -> &DocumentManifest {
        &self.contents.manifest
    }

    /// The payload.
    pub fn document(&self) -> &[u8] {
        self.contents.files.get(DOCUMENT).map(Vec::as_slice).unwrap_or_default()
    }

    /// Settings as a JSON object; `null` for any other kind.
    pub fn settings(&self) -> Value {
        match self.contents.manifest.kind {
            DocumentKind::Settings => serde_json::from_slice(self.document()).unwrap_or_default(),
            _ => Value::Null,
        }
    }
}

impl fmt::Debug for VerifiedDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedDocument({} version {}, {})", self.contents.name, self.contents.version, self.bundle_digest)
    }
}

/// A verified bundle of any kind.
#[derive(Debug)]
pub enum Verified {
    /// With a component.
    Component(Box<VerifiedBundle>),
    /// With a document.
    Document(Box<VerifiedDocument>),
}

impl From<VerifiedBundle> for Verified {
    fn from(bundle: VerifiedBundle) -> Self {
        Self::Component(Box::new(bundle))
    }
}

impl Verified {
    /// The name under which it is active.
    pub fn name(&self) -> &PluginName {
        match self {
            Self::Component(bundle) => &bundle.manifest().name,
            Self::Document(document) => &document.contents.name,
        }
    }

    /// The digest of the whole file.
    pub fn bundle_digest(&self) -> Digest {
        match self {
            Self::Component(bundle) => bundle.bundle_digest(),
            Self::Document(document) => document.bundle_digest,
        }
    }

    /// The bundle's version, from 1.
    pub fn version(&self) -> u64 {
        match self {
            Self::Component(bundle) => bundle.version(),
            Self::Document(document) => document.contents.version,
        }
    }

    /// When it stops to verify.
    pub fn expires(&self) -> Timestamp {
        match self {
            Self::Component(bundle) => bundle.expires(),
            Self::Document(document) => document.contents.expires,
        }
    }

    /// The approvers who signed, sorted; at least two.
    pub fn signers(&self) -> &[String] {
        match self {
            Self::Component(bundle) => bundle.signers(),
            Self::Document(document) => &document.signers,
        }
    }

    /// The evidence, read and checked, sorted by name.
    pub fn statements(&self) -> &[Evidence] {
        match self {
            Self::Component(bundle) => bundle.statements(),
            Self::Document(document) => &document.contents.evidence,
        }
    }

    /// `component`, or the kind of document.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Component(_) => "component",
            Self::Document(document) => document.contents.manifest.kind.as_str(),
        }
    }

    /// What it may call: nothing, for a document.
    pub fn capabilities(&self) -> Vec<String> {
        match self {
            Self::Component(bundle) => bundle.manifest().capabilities.iter().map(|c| c.as_str().to_owned()).collect(),
            Self::Document(_) => Vec::new(),
        }
    }
}

/// As [`verify`], for a bundle of any kind.
pub fn verify_any(bundle: &[u8], trust: &TrustRoot, now: Timestamp) -> Result<Verified, BundleError> {
    if !is_document(bundle)? {
        return verify(bundle, trust, now).map(Verified::from);
    }
    let (opened, signers) = approved(bundle, trust, now)?;
    let document = VerifiedDocument { contents: bind(opened, trust)?, bundle_digest: Digest::of(bundle), signers };
    Ok(Verified::Document(Box::new(document)))
}
