//! Evidence: in-toto Statements in DSSE envelopes, each about a file of this very bundle.
//!
//! The two approvers' signatures on the bundle pin every file of evidence. Signatures inside an envelope say besides who made the statement:
//! one of an approver must be good, one of anybody else is shown and counts for nothing.

use casemate_attest::{Envelope, Statement};
use casemate_types::Digest;
use serde_json::Value;

use crate::{BundleError, TrustRoot};

/// Where evidence lies in a bundle.
pub(crate) const EVIDENCE: &str = "evidence/";
/// How its names end.
const SUFFIX: &str = ".dsse.json";
const MAX_EVIDENCE: usize = 8 << 20;

/// The predicate type of SLSA provenance v1.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// The predicate type of a CycloneDX bill of materials.
pub const CYCLONEDX: &str = "https://cyclonedx.org/bom";

/// One file of evidence, read and checked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Evidence {
    /// Its name in the bundle.
    pub name: String,
    /// What it says.
    pub statement: Statement,
    /// The approvers of this site who signed it, sorted.
    pub signers: Vec<String>,
    /// How many keys signed that this site does not know. They count for nothing.
    pub strangers: usize,
}

impl Evidence {
    /// Reads a file of evidence that has to be about `subject`.
    ///
    /// Errors: [`BundleError::Evidence`], [`BundleError::BadSignature`], [`BundleError::DuplicateSignature`].
    pub(crate) fn read(name: &str, bytes: &[u8], subject: Digest, trust: &TrustRoot) -> Result<Self, BundleError> {
        let bad = |why: String| BundleError::Evidence { entry: name.to_owned(), why };
        if name.strip_prefix(EVIDENCE).and_then(|rest| rest.strip_suffix(SUFFIX)).is_none_or(str::is_empty) {
            return Err(bad(format!("evidence is called `{EVIDENCE}NAME{SUFFIX}`")));
        }
        let envelope = Envelope::parse(bytes, MAX_EVIDENCE).map_err(|error| bad(error.to_string()))?;
        let statement = Statement::of(&envelope).map_err(|error| bad(error.to_string()))?;
        if !statement.subject.iter().any(|file| file.is(subject)) {
            return Err(bad(format!("it is about other files than {subject}: it was made for another bundle")));
        }
        check_predicate(&statement).map_err(|why| bad(why.to_owned()))?;
        let (signers, strangers) = signers(name, &envelope, trust)?;
        Ok(Self { name: name.to_owned(), statement, signers, strangers })
    }
}

fn signers(name: &str, envelope: &Envelope, trust: &TrustRoot) -> Result<(Vec<String>, usize), BundleError> {
    let message = envelope.pae();
    let mut signers: Vec<String> = Vec::new();
    let mut strangers = 0;
    for signature in envelope.signatures() {
        // The key id is a hint: what counts is the key that verifies.
        let Some(approver) = trust.by_key_id().get(&signature.keyid) else {
            strangers += 1;
            continue;
        };
        let (file, approver_name) = (name.to_owned(), approver.name.clone());
        if !approver.key.verifies(&message, &signature.sig) {
            return Err(BundleError::BadSignature { file, approver: approver_name });
        }
        if signers.contains(&approver_name) {
            return Err(BundleError::DuplicateSignature { file, approver: approver_name });
        }
        signers.push(approver_name);
    }
    signers.sort();
    Ok((signers, strangers))
}

/// A statement of a known type must be one.
fn check_predicate(statement: &Statement) -> Result<(), &'static str> {
    let text = |path: &str| statement.predicate.pointer(path).and_then(Value::as_str);
    match statement.predicate_type.as_str() {
        PROVENANCE if text("/buildDefinition/buildType").is_none() || text("/runDetails/builder/id").is_none() => {
            Err("it calls itself SLSA provenance v1 and names no build type or no builder")
        }
        CYCLONEDX if text("/bomFormat") != Some("CycloneDX") || text("/specVersion").is_none() => {
            Err("it calls itself a CycloneDX bill of materials and is none")
        }
        _ => Ok(()),
    }
}
