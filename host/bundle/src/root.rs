use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use casemate_attest::Signer;
use casemate_types::Digest;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sigstore_tuf::{Metadata, Root, TrustedMetadataSet};

use crate::approver::{key_id, public_of, tuf_key};
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
            envelope.sign(*key)?;
        }
        let bytes = envelope.to_bytes(FILE)?;
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// An unsigned root that may follow this one (TUF 1.0.34 section 5.3): the next version, with these approvers.
    ///
    /// Errors: as [`TrustRoot::create`].
    pub fn draft_next(&self, approvers: &[ApproverPublic], expires: Timestamp) -> Result<Vec<u8>, BundleError> {
        let mut by_id = BTreeMap::new();
        for approver in approvers {
            insert_distinct(&mut by_id, approver.key_id()?, approver.clone())?;
        }
        check_count(&by_id)?;
        let version = self.version.checked_add(1).ok_or_else(|| unusable("its version cannot rise any more"))?;
        Envelope::unsigned(FILE, signed_part(version, expires, &by_id)?)?.to_bytes(FILE)
    }

    /// Adds the signature of an approver of this root or of the next one.
    ///
    /// Errors: [`BundleError::NotAnApprover`], and what [`TrustRoot::follow`] says about its contents.
    pub fn sign_next(&self, next: &[u8], signer: &(impl Signer + ?Sized)) -> Result<Vec<u8>, BundleError> {
        let mut next = self.read_next(next)?;
        let key_id = key_id(signer.public_key())?;
        let known = [&self.approvers, &next.approvers].into_iter().filter_map(|approvers| approvers.get(&key_id));
        if !known.into_iter().any(|approver| approver.key == *signer.public_key()) {
            return Err(BundleError::NotAnApprover { key_id });
        }
        next.envelope.sign(signer)?;
        next.envelope.to_bytes(FILE)
    }

    /// Takes the next root: signed by two approvers of this root and by two of its own (TUF 1.0.34 section 5.3.4), in date at `now`, its version
    /// one higher. An old root may be past its date: that is one reason to have a new one.
    ///
    /// The root that is returned keeps the signatures of its own approvers only, so that it stands alone.
    ///
    /// Errors: [`BundleError::RootVersion`], [`BundleError::NotEnoughSignatures`], [`BundleError::UnknownSigner`], [`BundleError::BadSignature`],
    /// [`BundleError::Expired`], [`BundleError::Root`].
    pub fn follow(&self, next: &[u8], now: Timestamp) -> Result<Self, BundleError> {
        let NextRoot { mut envelope, approvers, signers } = self.read_next(next)?;
        for (whose, approvers) in [("root.json, by the old approvers", &self.approvers), (FILE, &approvers)] {
            // Keys are counted, not names: the same person may have another key in the new root.
            let found = signers.iter().filter(|key_id| approvers.contains_key(*key_id)).count();
            if found < THRESHOLD {
                return Err(BundleError::NotEnoughSignatures { file: whose.to_owned(), found, needed: THRESHOLD });
            }
        }
        // The TUF client must agree.
        let mut set = TrustedMetadataSet::from_root(&self.bytes).map_err(tuf)?;
        set.update_root(next).map_err(tuf)?;
        set.check_root_expired(now).map_err(|error| match error {
            sigstore_tuf::Error::Expired { role, expires } => BundleError::Expired { role, expires },
            source => tuf(source),
        })?;
        envelope.retain(|key_id| approvers.contains_key(key_id));
        Self::parse(&envelope.to_bytes(FILE)?)
    }

    /// Reads a next root; every signature on it must be good, however many there are.
    fn read_next(&self, next: &[u8]) -> Result<NextRoot, BundleError> {
        let envelope = Envelope::parse(FILE, next)?;
        let (root, approvers) = read_part(next, &envelope)?;
        if Some(root.version) != self.version.checked_add(1) {
            return Err(BundleError::RootVersion { offered: root.version, pinned: self.version });
        }
        // A person may change the key: keys are looked up by id, whichever of the two roots they come from.
        let mut known = self.approvers.clone();
        known.extend(approvers.clone());
        let signers = envelope.signing_keys(FILE, &known)?;
        Ok(NextRoot { envelope, approvers, signers })
    }

    /// Parses and checks `root.json`. Its date is checked when it is used.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let envelope = Envelope::parse(FILE, bytes)?;
        let (root, approvers) = read_part(bytes, &envelope)?;
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
        let good = message.starts_with(b"DSSEv1 ") && approver.key.verifies(message, signature);
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

/// A next root, read.
struct NextRoot {
    envelope: Envelope,
    approvers: BTreeMap<String, ApproverPublic>,
    /// The key ids of those who signed.
    signers: BTreeSet<String>,
}

/// The signed part of a root, and its approvers by key id. Looks at no signature.
fn read_part(bytes: &[u8], envelope: &Envelope) -> Result<(Root, BTreeMap<String, ApproverPublic>), BundleError> {
    let metadata = Metadata::<Root>::from_slice(bytes).map_err(tuf)?;
    let root = metadata.signed();
    let mut approvers = BTreeMap::new();
    let mut declared = BTreeSet::new();
    for (key_id, key) in &root.keys {
        // Any spelling is decoded before keys are compared: the same key written twice differently is one key.
        let public = public_of(&key.keytype, &key.keyval.public)
            .ok_or_else(|| unusable(format!("key {key_id:?} is neither Ed25519 nor P-256 as this site writes them")))?;
        let name = key.extra.get(NAME_FIELD).and_then(Value::as_str);
        let name = name.ok_or_else(|| unusable(format!("key {key_id:?} has no `{NAME_FIELD}`")))?;
        let approver = ApproverPublic::new(name, public)?;
        insert_distinct(&mut approvers, approver.key_id()?, approver)?;
        declared.insert(key_id);
    }
    if !approvers.keys().eq(declared) {
        return Err(unusable("a key id is not the SHA-256 of its key"));
    }
    check_count(&approvers)?;
    // Covers thresholds, key lists, spelling of dates and keys, delegations of trust and fields unknown to us.
    if envelope.signed != signed_part(root.version, root.expires, &approvers)? || root.version == 0 {
        return Err(unusable("it holds more or other than names, keys and four roles of threshold 2 for all of them"));
    }
    Ok((root.clone(), approvers))
}

fn check_count(approvers: &BTreeMap<String, ApproverPublic>) -> Result<(), BundleError> {
    if approvers.len() < THRESHOLD {
        return Err(unusable(format!("it names {} approvers; at least {THRESHOLD} are needed", approvers.len())));
    }
    Ok(())
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
        let Value::Object(mut key) = tuf_key(&approver.key) else {
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
