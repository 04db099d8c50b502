use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sigstore_tuf::{Metadata, Root, TrustedMetadataSet};

use crate::json::malformed;
use crate::metadata::{Envelope, SPEC, whole_seconds};
use crate::{ApproverKey, ApproverPublic, BundleError};

/// How many distinct approvers must sign: two.
pub const THRESHOLD: usize = 2;

/// The site's TUF root (TUF 1.0.34 section 4.3): who may approve. Pinned at the site, never taken from a bundle.
///
/// A value of this type has been checked: self-signed by two, every role asks for two, each key and each person once.
#[derive(Clone)]
pub struct TrustRoot {
    bytes: Vec<u8>,
    approvers: BTreeMap<String, ApproverPublic>,
    version: u64,
    expires: Timestamp,
}

impl TrustRoot {
    /// Makes and signs version 1 of `root.json` for a ceremony where all `approvers` are present.
    ///
    /// Errors: [`BundleError::Root`] for fewer than two, [`BundleError::DuplicateApproverName`],
    /// [`BundleError::DuplicateApproverKey`].
    pub fn create(approvers: &[&ApproverKey], expires: Timestamp) -> Result<Vec<u8>, BundleError> {
        let mut by_id = BTreeMap::new();
        for key in approvers {
            insert_distinct(&mut by_id, key.public().key_id()?, key.public().clone())?;
        }
        let mut envelope = Envelope::unsigned(FILE, signed_part(1, expires, &by_id)?)?;
        for key in approvers {
            envelope.sign(key)?;
        }
        let bytes = envelope.to_bytes(FILE)?;
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// Parses and checks `root.json`. Its date is checked when it is used.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let envelope = Envelope::parse(FILE, bytes)?;
        let metadata = Metadata::<Root>::from_slice(bytes).map_err(tuf)?;
        let root = metadata.signed();
        let mut approvers = BTreeMap::new();
        let mut declared = BTreeSet::new();
        for (key_id, key) in &root.keys {
            let mut public = [0; 32];
            // Any spelling is decoded before keys are compared: the same key written twice differently is one key.
            hex::decode_to_slice(&key.keyval.public, &mut public)
                .map_err(|_| unusable(format!("key {key_id:?} is not 64 hexadecimal digits")))?;
            let name = key.extra.get(NAME_FIELD).and_then(Value::as_str);
            let name = name.ok_or_else(|| unusable(format!("key {key_id:?} has no `{NAME_FIELD}`")))?;
            let approver = ApproverPublic::new(name, public)?;
            insert_distinct(&mut approvers, approver.key_id()?, approver)?;
            declared.insert(key_id);
        }
        if !approvers.keys().eq(declared) {
            return Err(unusable("a key id is not the SHA-256 of its key"));
        }
        if approvers.len() < THRESHOLD {
            return Err(unusable(format!("it names {} approvers; at least {THRESHOLD} are needed", approvers.len())));
        }
        // Covers thresholds, key lists, spelling of dates and keys, delegations of trust and fields unknown to us.
        if envelope.signed != signed_part(root.version, root.expires, &approvers)? || root.version == 0 {
            return Err(unusable(
                "it holds more or other than names, keys and four roles of threshold 2 for all of them",
            ));
        }
        let found = envelope.signers(FILE, &approvers)?.len();
        if found < THRESHOLD {
            return Err(BundleError::NotEnoughSignatures { file: FILE.to_owned(), found, needed: THRESHOLD });
        }
        // TUF 1.0.34 section 5.3.4, by the TUF client itself.
        TrustedMetadataSet::from_root(bytes).map_err(tuf)?;
        Ok(Self { bytes: bytes.to_vec(), approvers, version: root.version, expires: root.expires })
    }

    /// The names of the approvers and their key ids, sorted by key id.
    pub fn approvers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.approvers.iter().map(|(key_id, approver)| (approver.name.as_str(), key_id.as_str()))
    }

    /// The approvers' public keys, sorted by key id.
    pub fn approver_keys(&self) -> impl Iterator<Item = (&str, &ApproverPublic)> {
        self.approvers.iter().map(|(key_id, approver)| (key_id.as_str(), approver))
    }

    /// The person whose key `key_id` made `signature` over `message`, the pre-authentication encoding of DSSE v1; none for an unknown key
    /// or a signature that is not that key's.
    pub fn dsse_signer(&self, key_id: &str, message: &[u8], signature: &[u8]) -> Option<&str> {
        let approver = self.approvers.get(key_id)?;
        let good = message.starts_with(b"DSSEv1 ") && approver.verifies(message, &hex::encode(signature));
        good.then_some(approver.name.as_str())
    }

    /// The file as parsed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the file: what two sites compare on paper.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// The root's version, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The date after which nothing verifies under this root.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    pub(crate) fn by_key_id(&self) -> &BTreeMap<String, ApproverPublic> {
        &self.approvers
    }
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustRoot(version {}, {} approvers, {})", self.version, self.approvers.len(), self.digest())
    }
}

fn insert_distinct(
    approvers: &mut BTreeMap<String, ApproverPublic>,
    key_id: String,
    new: ApproverPublic,
) -> Result<(), BundleError> {
    for old in approvers.values() {
        if old.key == new.key {
            return Err(BundleError::DuplicateApproverKey { first: old.name.clone(), second: new.name });
        }
        if old.name == new.name {
            return Err(BundleError::DuplicateApproverName { name: new.name });
        }
    }
    approvers.insert(key_id, new);
    Ok(())
}

fn signed_part(
    version: u64,
    expires: Timestamp,
    approvers: &BTreeMap<String, ApproverPublic>,
) -> Result<Value, BundleError> {
    let mut keys = Map::new();
    for (key_id, approver) in approvers {
        let Value::Object(mut key) = approver.tuf_key() else {
            return Err(malformed(FILE, "a key is not an object"));
        };
        key.insert(NAME_FIELD.to_owned(), approver.name.as_str().into());
        keys.insert(key_id.clone(), Value::Object(key));
    }
    let role = json!({"keyids": approvers.keys().collect::<Vec<_>>(), "threshold": THRESHOLD});
    Ok(json!({
        "_type": "root",
        "consistent_snapshot": false,
        "expires": whole_seconds(expires)?,
        "keys": keys,
        "roles": {"root": role, "snapshot": role, "targets": role, "timestamp": role},
        "spec_version": SPEC,
        "version": version,
    }))
}

fn unusable(why: impl Into<String>) -> BundleError {
    BundleError::Root { why: why.into() }
}

fn tuf(source: sigstore_tuf::Error) -> BundleError {
    BundleError::Tuf { file: FILE.to_owned(), source }
}

const FILE: &str = "root.json";
/// Who holds a key. Unknown to TUF, kept by its clients, and under the root's signatures.
const NAME_FIELD: &str = "x-casemate-approver";
