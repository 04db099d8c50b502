//! The three TUF files of a bundle (TUF 1.0.34 sections 4.4 to 4.6).
//!
//! Their signed parts are a pure function of version, date and files, so they are rebuilt and compared rather than
//! interpreted: a delegation, an extra field or a hash for another file cannot hide in them.
//!
//! TUF lets `snapshot` pin the hash of the file `targets.json`, signatures included; then no one could add a signature
//! without re-signing the rest. Here the pin is a field of our own, over the signed part only, so approvers sign one
//! after the other and metadata of two bundles still cannot be mixed.

use std::collections::{BTreeMap, BTreeSet};

use casemate_attest::Signer;
use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::approver::key_id;
use crate::json::{canonical, malformed, parse_canonical, spelled};
use crate::{ApproverPublic, BundleError};

pub(crate) const SNAPSHOT: &str = "tuf/snapshot.json";
pub(crate) const TARGETS: &str = "tuf/targets.json";
pub(crate) const TIMESTAMP: &str = "tuf/timestamp.json";
/// The version of the TUF specification these files follow.
pub(crate) const SPEC: &str = "1.0.34";
/// The largest metadata file, in bytes.
pub(crate) const MAX_METADATA: usize = 512 << 10;

/// The signed parts for a bundle of `files`, by the file they go to. `custom` is said about the target of that name.
pub(crate) fn signed_parts(
    version: u64,
    expires: Timestamp,
    files: &BTreeMap<String, Vec<u8>>,
    custom: (&str, &Value),
) -> Result<[(&'static str, Value); 3], BundleError> {
    let expires = whole_seconds(expires)?;
    let part = |role: &str, content: (&str, Value)| {
        let mut part = Map::new();
        part.insert("_type".to_owned(), role.into());
        part.insert("expires".to_owned(), expires.as_str().into());
        part.insert("spec_version".to_owned(), SPEC.into());
        part.insert("version".to_owned(), version.into());
        part.insert(content.0.to_owned(), content.1);
        Value::Object(part)
    };
    let pin = |file: &'static str, short: &str, signed: &Value| -> Result<Value, BundleError> {
        let digest = Digest::of(&canonical(file, signed)?).hex();
        Ok(json!({short: {"version": version, SIGNED_PIN: digest}}))
    };
    let list: Map<String, Value> = files
        .iter()
        .map(|(name, body)| {
            let mut entry = json!({"hashes": {"sha256": Digest::of(body).hex()}, "length": body.len()});
            if name == custom.0 {
                entry["custom"] = custom.1.clone();
            }
            (name.clone(), entry)
        })
        .collect();
    let targets = part("targets", ("targets", Value::Object(list)));
    let snapshot = part("snapshot", ("meta", pin(TARGETS, "targets.json", &targets)?));
    let timestamp = part("timestamp", ("meta", pin(SNAPSHOT, "snapshot.json", &snapshot)?));
    Ok([(SNAPSHOT, snapshot), (TARGETS, targets), (TIMESTAMP, timestamp)])
}

/// TUF dates have no fraction of a second (TUF 1.0.34 section 4.2.1).
pub(crate) fn whole_seconds(time: Timestamp) -> Result<String, BundleError> {
    Timestamp::from_second(time.as_second())
        .map(|time| time.to_string())
        .map_err(|error| malformed("expires", error.to_string()))
}

/// A metadata file: the signed part and the signatures over its canonical form.
pub(crate) struct Envelope {
    pub(crate) signed: Value,
    canonical: Vec<u8>,
    signatures: Vec<(String, String)>,
}

impl Envelope {
    /// An envelope that nobody has signed yet.
    pub(crate) fn unsigned(file: &str, signed: Value) -> Result<Self, BundleError> {
        Ok(Self { canonical: canonical(file, &signed)?, signed, signatures: Vec::new() })
    }

    /// Parses the canonical form, and nothing else. Checks no signature.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Self, BundleError> {
        let shape = || malformed(file, "it is not `{\"signatures\":[{\"keyid\",\"sig\"}...],\"signed\":{}}`");
        let Value::Object(mut members) = parse_canonical(file, bytes, MAX_METADATA)? else {
            return Err(shape());
        };
        let (Some(signed @ Value::Object(_)), Some(Value::Array(list))) =
            (members.remove("signed"), members.remove("signatures"))
        else {
            return Err(shape());
        };
        if !members.is_empty() {
            return Err(shape());
        }
        let mut signatures = Vec::new();
        for item in list {
            let Value::Object(mut item) = item else {
                return Err(shape());
            };
            match (item.remove("keyid"), item.remove("sig"), item.is_empty()) {
                (Some(Value::String(key_id)), Some(Value::String(sig)), true) => signatures.push((key_id, sig)),
                _ => return Err(shape()),
            }
        }
        if !signatures.is_sorted_by(|a, b| a.0 <= b.0) {
            return Err(malformed(file, "its signatures are not sorted by key id"));
        }
        Ok(Self { canonical: canonical(file, &signed)?, signed, signatures })
    }

    /// Adds the signature of `key`, or replaces the one it made before.
    pub(crate) fn sign(&mut self, signer: &(impl Signer + ?Sized)) -> Result<(), BundleError> {
        let key_id = key_id(signer.public_key())?;
        let signature = signer.sign(&self.canonical)?;
        self.signatures.retain(|(other, _)| *other != key_id);
        self.signatures.push((key_id, hex::encode(signature)));
        self.signatures.sort();
        Ok(())
    }

    /// The names of those who have signed. Every signature must be good: one that is not is an attack or an accident, and
    /// either way nothing to skip.
    pub(crate) fn signers(
        &self,
        file: &str,
        approvers: &BTreeMap<String, ApproverPublic>,
    ) -> Result<BTreeSet<String>, BundleError> {
        let keys = self.signing_keys(file, approvers)?;
        Ok(keys.iter().filter_map(|key_id| approvers.get(key_id)).map(|approver| approver.name.clone()).collect())
    }

    /// The key ids of those who have signed; as [`Envelope::signers`]. One key has one id, because ids are digests of keys.
    pub(crate) fn signing_keys(
        &self,
        file: &str,
        approvers: &BTreeMap<String, ApproverPublic>,
    ) -> Result<BTreeSet<String>, BundleError> {
        let mut signers = BTreeSet::new();
        for (key_id, sig) in &self.signatures {
            let Some(approver) = approvers.get(key_id) else {
                return Err(BundleError::UnknownSigner {
                    file: file.to_owned(),
                    key_id: key_id.chars().take(80).collect(),
                });
            };
            let (file, name) = (file.to_owned(), approver.name.clone());
            if !verifies(approver, &self.canonical, sig) {
                return Err(BundleError::BadSignature { file, approver: name });
            }
            if !signers.insert(key_id.clone()) {
                return Err(BundleError::DuplicateSignature { file, approver: name });
            }
        }
        Ok(signers)
    }

    /// Drops the signatures of other key ids.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.signatures.retain(|(key_id, _)| keep(key_id));
    }

    /// The file.
    pub(crate) fn to_bytes(&self, file: &str) -> Result<Vec<u8>, BundleError> {
        let signatures: Vec<Value> =
            self.signatures.iter().map(|(key_id, sig)| json!({"keyid": key_id, "sig": sig})).collect();
        spelled(file, &json!({"signatures": signatures, "signed": self.signed}))
    }
}

/// Whether `signature`, lower-case hexadecimal digits, is this approver's over `message`.
fn verifies(approver: &ApproverPublic, message: &[u8], signature: &str) -> bool {
    // Lower case only: one spelling per signature.
    !signature.bytes().any(|b| b.is_ascii_uppercase())
        && hex::decode(signature).is_ok_and(|raw| approver.key.verifies(message, &raw))
}

/// The field that pins the canonical signed part of another file by SHA-256.
const SIGNED_PIN: &str = "x-casemate-signed-sha256";
