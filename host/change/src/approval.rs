//! What one approver signs: the digest of exactly what was seen, with a reason for each request that would be allowed from now on.

use std::collections::BTreeMap;

use casemate_attest::{Envelope, Statement, Subject};
use casemate_bundle::{ApproverKey, TrustRoot};
use casemate_types::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cycle::Seen;
use crate::{ApprovalError, MAX_REASON};

/// The predicate type of an approval.
pub const APPROVAL: &str = "urn:casemate:approval:v1";
/// The largest file, in bytes.
pub const MAX_APPROVAL: usize = 1 << 20;

/// An approval on its way: an in-toto Statement v1 in a DSSE v1 envelope. Nothing in it is verified.
#[derive(Debug, Clone)]
pub struct ApprovalFile(Envelope);

/// An approval whose signature and contents were checked. Only [`ApprovalFile::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    approver: String,
    seen: Digest,
    reasons: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Predicate {
    at: Timestamp,
    reasons: BTreeMap<String, String>,
    seen: Seen,
}

impl ApprovalFile {
    /// Signs what was seen. `reasons` has one for each request that would be allowed from now on.
    ///
    /// # Errors
    /// [`ApprovalError::Requester`], [`ApprovalError::Reason`], [`ApprovalError::Expired`], [`ApprovalError::Key`].
    pub fn sign(
        seen: &Seen,
        reasons: BTreeMap<String, String>,
        key: &ApproverKey,
        at: Timestamp,
    ) -> Result<Self, ApprovalError> {
        let name = &key.public().name;
        if *name == seen.requester {
            return Err(ApprovalError::Requester { name: name.clone() });
        }
        check_reasons(seen, &reasons)?;
        if at > seen.expires {
            return Err(ApprovalError::Expired { at: seen.expires });
        }
        let subject = Subject::new(&seen.site, seen.digest()?);
        let predicate = serde_json::to_value(Predicate { at, reasons, seen: seen.clone() });
        let predicate = predicate.map_err(|error| ApprovalError::Malformed(error.to_string()))?;
        let mut envelope: Envelope = Statement::new(vec![subject], APPROVAL, predicate).envelope()?;
        let key_id = key.public().key_id()?;
        let signature = key.sign_dsse(&envelope.pae())?;
        envelope.push(key_id, signature);
        Ok(Self(envelope))
    }

    /// Reads a file of at most [`MAX_APPROVAL`] bytes.
    ///
    /// # Errors
    /// [`ApprovalError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ApprovalError> {
        Envelope::parse(bytes, MAX_APPROVAL).map(Self).map_err(|error| ApprovalError::Malformed(error.to_string()))
    }

    /// The file.
    ///
    /// # Errors
    /// [`ApprovalError::Malformed`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ApprovalError> {
        self.0.to_bytes().map_err(|error| ApprovalError::Malformed(error.to_string()))
    }

    /// Checks signature, person and contents against what there is to see now.
    ///
    /// # Errors
    /// Each attack has a variant of its own in [`ApprovalError`].
    pub fn verify(&self, now_seen: &Seen, trust: &TrustRoot, now: Timestamp) -> Result<Approval, ApprovalError> {
        let [signature] = self.0.signatures() else {
            return Err(ApprovalError::Malformed("an approval has one signature".to_owned()));
        };
        let key_id: String = signature.keyid.chars().take(80).collect();
        let approver = trust.dsse_signer(&key_id, &self.0.pae(), &signature.sig);
        let approver = approver.ok_or(ApprovalError::BadSignature { key_id })?.to_owned();
        let statement = Statement::of(&self.0)?;
        if statement.predicate_type != APPROVAL {
            return Err(ApprovalError::Malformed("it is a statement of another kind".to_owned()));
        }
        let Predicate { reasons, seen, .. } =
            serde_json::from_value(statement.predicate).map_err(|error| ApprovalError::Malformed(error.to_string()))?;
        if seen.site != now_seen.site || seen.root != now_seen.root {
            return Err(ApprovalError::OtherSite { site: seen.site.chars().take(64).collect() });
        }
        if seen.content == now_seen.content && (seen.report, seen.generation) != (now_seen.report, now_seen.generation)
        {
            return Err(ApprovalError::Stale { then: seen.generation, now: now_seen.generation });
        }
        let digest = seen.digest()?;
        let [subject] = statement.subject.as_slice() else {
            return Err(ApprovalError::Malformed("an approval has one subject".to_owned()));
        };
        if seen != *now_seen || !subject.is(digest) {
            return Err(ApprovalError::OtherThing { approver });
        }
        if approver == seen.requester {
            return Err(ApprovalError::Requester { name: approver });
        }
        if now > seen.expires {
            return Err(ApprovalError::Expired { at: seen.expires });
        }
        check_reasons(&seen, &reasons)?;
        Ok(Approval { approver, seen: digest, reasons })
    }
}

impl Approval {
    /// Who approved.
    pub fn approver(&self) -> &str {
        &self.approver
    }

    /// The digest of what was seen.
    pub fn seen(&self) -> Digest {
        self.seen
    }

    /// Why requests may be allowed that were denied, by their names.
    pub fn reasons(&self) -> &BTreeMap<String, String> {
        &self.reasons
    }
}

fn check_reasons(seen: &Seen, reasons: &BTreeMap<String, String>) -> Result<(), ApprovalError> {
    for request in &seen.newly_allowed {
        let reason = reasons.get(request).map(String::as_str).unwrap_or_default();
        if reason.trim().is_empty() || reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(ApprovalError::Reason { request: request.chars().take(80).collect() });
        }
    }
    match reasons.keys().find(|request| !seen.newly_allowed.contains(*request)) {
        Some(request) => Err(ApprovalError::Reason { request: request.chars().take(80).collect() }),
        None => Ok(()),
    }
}
