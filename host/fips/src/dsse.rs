//! Signatures beside the snapshot: DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md), detached.
//!
//! The snapshot stays a plain file that any tool reads; `FILE.dsse` holds the payload's type and the signatures over
//! `PAE(type, bytes of the file)`. The signers are the approvers of the site's root of trust.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_attest::PublicKey;
use serde::{Deserialize, Serialize};

use crate::FipsError;

/// The type of a snapshot, bound by every signature.
pub const PAYLOAD_TYPE: &str = "application/vnd.casemate.cmvp-snapshot.v1+json";

/// The type of a statement about a token's mode.
pub const MODE_TYPE: &str = "application/vnd.casemate.fips-mode.v1+json";

/// How many distinct approvers must sign.
pub const THRESHOLD: usize = 2;

/// Somebody who may vouch for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// The person.
    pub name: String,
    /// Names the key: SHA-256 of its TUF key object, hexadecimal.
    pub key_id: String,
    /// The public key.
    pub key: PublicKey,
}

/// What is signed: DSSE's pre-authentication encoding of the file's bytes, under its type.
pub fn message(payload_type: &str, file: &[u8]) -> Vec<u8> {
    casemate_attest::pae(payload_type, file)
}

/// The signature file with one more signature, or with one replaced.
///
/// # Errors
/// [`FipsError::MalformedSignatures`] when `existing` is not a signature file.
pub fn add_signature(
    payload_type: &str,
    existing: Option<&[u8]>,
    key_id: &str,
    signature: &[u8],
) -> Result<Vec<u8>, FipsError> {
    let mut file = match existing {
        Some(bytes) => SignatureFile::parse(payload_type, bytes)?,
        None => SignatureFile { payload_type: payload_type.to_owned(), signatures: Vec::new() },
    };
    file.signatures.retain(|other| other.keyid != key_id);
    file.signatures.push(Signature { keyid: key_id.to_owned(), sig: STANDARD.encode(signature) });
    file.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    serde_json::to_vec(&file).map_err(|error| FipsError::MalformedSignatures { why: error.to_string() })
}

/// Who signed these bytes. Every signature must be good and an approver's: one that is not is an attack or an accident.
///
/// # Errors
/// [`FipsError::MalformedSignatures`], [`FipsError::UnknownSigner`], [`FipsError::BadSignature`],
/// [`FipsError::DuplicateSignature`].
pub fn signers(
    payload_type: &str,
    bytes: &[u8],
    signatures: &[u8],
    approvers: &[Approver],
) -> Result<BTreeSet<String>, FipsError> {
    let file = SignatureFile::parse(payload_type, signatures)?;
    let message = message(payload_type, bytes);
    let mut names = BTreeSet::new();
    for Signature { keyid, sig } in &file.signatures {
        let approver = approvers
            .iter()
            .find(|approver| approver.key_id == *keyid)
            .ok_or_else(|| FipsError::UnknownSigner { key_id: keyid.chars().take(80).collect() })?;
        let raw = STANDARD
            .decode(sig)
            .map_err(|_| FipsError::MalformedSignatures { why: "a signature is not base64".to_owned() })?;
        if !approver.key.verifies(&message, &raw) {
            return Err(FipsError::BadSignature { approver: approver.name.clone() });
        }
        if !names.insert(approver.name.clone()) {
            return Err(FipsError::DuplicateSignature { approver: approver.name.clone() });
        }
    }
    Ok(names)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureFile {
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

impl SignatureFile {
    fn parse(payload_type: &str, bytes: &[u8]) -> Result<Self, FipsError> {
        let malformed = |why: String| FipsError::MalformedSignatures { why };
        let file: Self = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if file.payload_type != payload_type {
            return Err(malformed(format!("its payloadType is not {payload_type}")));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of DSSE's own example: type and body, each behind its length in bytes.
    #[test]
    fn the_message_is_the_pre_authentication_encoding() {
        assert_eq!(
            message(PAYLOAD_TYPE, b"hello world"),
            b"DSSEv1 46 application/vnd.casemate.cmvp-snapshot.v1+json 11 hello world".to_vec()
        );
    }
}
