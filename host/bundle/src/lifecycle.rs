use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use casemate_attest::Signer;
use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::Value;
use sigstore_tuf::TrustedMetadataSet;

use crate::approver::key_id;
use crate::contents::{About, Contents, MANIFEST, Opened, SETTINGS, entry, pack};
use crate::evidence::{EVIDENCE, Evidence};
use crate::metadata::{Envelope, SNAPSHOT, TARGETS, TIMESTAMP, signed_parts};
use crate::{BundleError, Manifest, THRESHOLD, TrustRoot, ustar};
use crate::{contract_digest, oci};

/// What a bundle is made of.
#[derive(Debug, Clone, Copy)]
pub struct BuildInput<'a> {
    /// The text of `manifest.toml`.
    pub manifest_toml: &'a str,
    /// A WebAssembly component.
    pub component: &'a [u8],
    /// One JSON object.
    pub settings_json: &'a [u8],
    /// The bundle's version, from 1. A site never goes back to a lower one of the same plugin.
    pub version: u64,
    /// After this nothing loads it any more. Whole seconds; a fraction is cut off.
    pub expires: Timestamp,
}

/// Makes an unsigned draft. Two people with the same input get the same bytes.
///
/// Errors: everything [`inspect`] would refuse, so that no one is asked to sign what no site would take.
pub fn build(trust: &TrustRoot, input: BuildInput<'_>) -> Result<Vec<u8>, BundleError> {
    build_with(trust, input, &Additions::default())
}

/// What a bundle can hold besides.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// DSSE envelopes of in-toto statements about the component, by full names, for instance `evidence/replay.dsse.json`.
    pub evidence: BTreeMap<String, Vec<u8>>,
    /// The component that it is to take the place of; said in the signed metadata.
    pub replaces: Option<Digest>,
}

/// As [`build`], with evidence and the component it replaces.
pub fn build_with(trust: &TrustRoot, input: BuildInput<'_>, additions: &Additions) -> Result<Vec<u8>, BundleError> {
    let evidence = &additions.evidence;
    if let Some(name) = evidence.keys().find(|name| !name.starts_with(EVIDENCE)) {
        return Err(BundleError::UnexpectedEntry { entry: name.clone() });
    }
    let manifest = Manifest::parse(input.manifest_toml)?;
    let component = oci::blob(Digest::of(input.component));
    let about = About { contract: contract_digest(), replaces: additions.replaces };
    let custom = about.custom(&manifest)?;
    let mut files = evidence.clone();
    files.extend(oci::layout(&manifest, input.component)?);
    files.insert(MANIFEST.to_owned(), input.manifest_toml.as_bytes().to_vec());
    files.insert(SETTINGS.to_owned(), input.settings_json.to_vec());
    let mut envelopes = BTreeMap::new();
    for (file, signed) in signed_parts(input.version, input.expires, &files, (&component, &custom))? {
        envelopes.insert(file, Envelope::unsigned(file, signed)?);
    }
    let draft = pack(files, &envelopes)?;
    inspect(&draft, trust)?;
    Ok(draft)
}

/// Adds the signatures of `key`, or replaces the ones it made before.
///
/// Errors: [`BundleError::NotAnApprover`], and everything [`inspect`] refuses: nobody signs contents that do not match.
pub fn sign(bundle: &[u8], key: &(impl Signer + ?Sized), trust: &TrustRoot) -> Result<Vec<u8>, BundleError> {
    let key_id = key_id(key.public_key())?;
    if trust.by_key_id().get(&key_id).is_none_or(|approver| approver.key != *key.public_key()) {
        return Err(BundleError::NotAnApprover { key_id });
    }
    let mut contents = Opened::open(bundle, trust)?.bind(trust)?;
    for envelope in contents.envelopes.values_mut() {
        envelope.sign(key)?;
    }
    contents.to_bytes()
}

/// What a bundle says about itself, for people to read before they sign. Implies no trust and cannot be loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// The manifest.
    pub manifest: Manifest,
    /// The digest of the component.
    pub component_digest: Digest,
    /// The component's length in bytes.
    pub component_bytes: u64,
    /// The contract it was built against, as [`contract_digest`].
    pub contract: Digest,
    /// The component that it is to take the place of, if it says so.
    pub replaces: Option<Digest>,
    /// The settings: a JSON object.
    pub settings: Value,
    /// The evidence, sorted by name.
    pub evidence: Vec<Evidence>,
    /// The digest of the settings.
    pub settings_digest: Digest,
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
    /// Every file with its length in bytes, sorted by name.
    pub entries: Vec<(String, u64)>,
}

/// Reads a draft or a bundle without trusting it. Signatures that are there must be good; none need be there, and dates are
/// not looked at.
pub fn inspect(bundle: &[u8], trust: &TrustRoot) -> Result<Inspection, BundleError> {
    let opened = Opened::open(bundle, trust)?;
    let signers = opened.complete_signers();
    let entries = opened.entries.iter().map(|(name, body)| (name.clone(), body.len() as u64)).collect();
    let contents = opened.bind(trust)?;
    Ok(Inspection {
        component_digest: contents.component_digest,
        component_bytes: entry(&contents.files, &contents.component)?.len() as u64,
        contract: contents.about.contract,
        replaces: contents.about.replaces,
        settings_digest: Digest::of(entry(&contents.files, SETTINGS)?),
        bundle_digest: Digest::of(bundle),
        version: contents.version,
        expires: contents.expires,
        missing_signatures: THRESHOLD.saturating_sub(signers.len()),
        signers: signers.into_iter().collect(),
        entries,
        settings: contents.settings,
        evidence: contents.evidence,
        manifest: contents.manifest,
    })
}

/// A bundle that two approvers of this site have signed and that is in date. Only [`verify`] makes one.
pub struct VerifiedBundle {
    contents: Contents,
    bundle_digest: Digest,
    signers: Vec<String>,
}

impl VerifiedBundle {
    /// The plugin's authority.
    pub fn manifest(&self) -> &Manifest {
        &self.contents.manifest
    }

    /// The component binary.
    pub fn component(&self) -> &[u8] {
        self.file(&self.contents.component)
    }

    /// The digest of the component binary.
    pub fn component_digest(&self) -> Digest {
        self.contents.component_digest
    }

    /// The settings: a JSON object.
    pub fn settings(&self) -> &Value {
        &self.contents.settings
    }

    /// The settings as signed.
    pub fn settings_bytes(&self) -> &[u8] {
        self.file(SETTINGS)
    }

    /// The digest of the whole file.
    pub fn bundle_digest(&self) -> Digest {
        self.bundle_digest
    }

    /// The bundle's version, from 1.
    pub fn version(&self) -> u64 {
        self.contents.version
    }

    /// When it stops to verify.
    pub fn expires(&self) -> Timestamp {
        self.contents.expires
    }

    /// The approvers who signed, sorted; at least two.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The contract it was built against, as [`contract_digest`].
    pub fn contract(&self) -> Digest {
        self.contents.about.contract
    }

    /// The component that it is to take the place of, if it says so.
    pub fn replaces(&self) -> Option<Digest> {
        self.contents.about.replaces
    }

    /// The evidence, read and checked, sorted by name.
    pub fn statements(&self) -> &[Evidence] {
        &self.contents.evidence
    }

    /// The files below `evidence/`.
    pub fn evidence(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let files = self.contents.files.iter().map(|(name, body)| (name.as_str(), body.as_slice()));
        files.filter(|(name, _)| name.starts_with(EVIDENCE))
    }

    /// A file whose presence `Opened::open` has checked.
    fn file(&self, name: &str) -> &[u8] {
        self.contents.files.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

impl fmt::Debug for VerifiedBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.contents.manifest.name;
        write!(f, "VerifiedBundle({name} version {}, {})", self.contents.version, self.bundle_digest)
    }
}

/// Checks everything there is to check about a bundle, at the time `now`.
///
/// Our own rules run first, because they name the defect; then the TUF client workflow (TUF 1.0.34 section 5) from the
/// pinned root, by a client that passes the whole conformance suite. Both must agree.
pub fn verify(bundle: &[u8], trust: &TrustRoot, now: Timestamp) -> Result<VerifiedBundle, BundleError> {
    let opened = Opened::open(bundle, trust)?;
    let signers = opened.complete_signers();
    require_threshold(&opened.signers, signers.len())?;
    run_tuf(&opened.entries, trust, now)?;
    let contents = opened.bind(trust)?;
    Ok(VerifiedBundle { bundle_digest: Digest::of(bundle), signers: signers.into_iter().collect(), contents })
}

/// The same two people must have signed all three files: a bundle is approved as a whole.
fn require_threshold(signers: &BTreeMap<&'static str, BTreeSet<String>>, complete: usize) -> Result<(), BundleError> {
    let counts = signers.iter().map(|(file, names)| (*file, names.len()));
    for (file, found) in counts.chain([("tuf/*.json", complete)]) {
        if found < THRESHOLD {
            return Err(BundleError::NotEnoughSignatures { file: file.to_owned(), found, needed: THRESHOLD });
        }
    }
    Ok(())
}

fn run_tuf(entries: &BTreeMap<String, Vec<u8>>, trust: &TrustRoot, now: Timestamp) -> Result<(), BundleError> {
    let named = |file: &'static str| {
        move |error| match error {
            sigstore_tuf::Error::Expired { role, expires } => BundleError::Expired { role, expires },
            source => BundleError::Tuf { file: file.to_owned(), source },
        }
    };
    // 5.2 and 5.3.10: the pinned root, in date. 5.4, 5.5, 5.6: the three files in turn. 5.7 is `Opened::bind`.
    let mut set = TrustedMetadataSet::from_root(trust.as_bytes()).map_err(named("root.json"))?;
    set.check_root_expired(now).map_err(named("root.json"))?;
    set.update_timestamp(entry(entries, TIMESTAMP)?, now).map_err(named(TIMESTAMP))?;
    set.update_snapshot(entry(entries, SNAPSHOT)?, now).map_err(named(SNAPSHOT))?;
    set.update_targets(entry(entries, TARGETS)?, now).map_err(named(TARGETS))?;
    Ok(())
}

const _: () = assert!(ustar::MAX_ENTRY < ustar::MAX_TOTAL);
