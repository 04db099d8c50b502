//! Witness cosignatures: C2SP `tlog-cosignature` v1, signature type 0x04 of C2SP `signed-note`.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use signed_note::{Note, Signature, Verifier};

use crate::log::Head;
use crate::note::{LogKeys, TreeHead};
use crate::proof::HeadHashes;
use crate::snapshot::Snapshot;
use crate::{AuditError, CheckpointSigner, SignError, VerifyError, store};

/// Signature type 0x04: Ed25519 over a timestamp and the checkpoint.
const COSIGNATURE: u8 = 0x04;

/// A witness's name and public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl WitnessKey {
    /// The key `public` (RFC 8032) under a witness's name.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, AuditError> {
        if !signed_note::is_key_name_valid(name) || name.chars().any(char::is_control) {
            return Err(AuditError::Origin { origin: name.chars().filter(|c| !c.is_control()).take(80).collect() });
        }
        let id = signed_note::key_id(name, &typed(&public));
        Ok(Self { name: name.to_owned(), id, public })
    }

    /// Reads a verifier key `name+id+base64`.
    pub fn from_vkey(text: &str) -> Result<Self, VerifyError> {
        let malformed = VerifyError::MalformedKey;
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed);
        };
        let bytes = BASE64_STANDARD.decode(key).map_err(|_| VerifyError::MalformedKey)?;
        let public = bytes.strip_prefix(&[COSIGNATURE]).and_then(|key| key.try_into().ok());
        let key = public.and_then(|public| Self::new(name, public).ok()).ok_or(VerifyError::MalformedKey)?;
        if key.vkey() == text { Ok(key) } else { Err(malformed) }
    }

    /// The verifier key in the encoding of C2SP `signed-note`.
    pub fn vkey(&self) -> String {
        format!("{}+{:08x}+{}", self.name, self.id, BASE64_STANDARD.encode(typed(&self.public)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cosigns the text of a checkpoint at a time in seconds since 1970. What the signer returns is verified before it is used.
    pub(crate) fn cosign(
        &self,
        body: &[u8],
        seconds: u64,
        signer: &dyn CheckpointSigner,
    ) -> Result<Signature, SignError> {
        let signature = signer.sign(&message(seconds, body))?;
        let bytes = [&seconds.to_be_bytes()[..], &signature].concat();
        if !self.verify(body, &bytes) {
            return Err("the token returned a cosignature that does not verify".into());
        }
        Ok(Signature::new(self.name.clone(), self.id, bytes)?)
    }

    /// The time of this witness's cosignature among `signatures` over the checkpoint `body`; `None` when it gave none.
    pub(crate) fn find(&self, body: &[u8], signatures: &[Signature]) -> Result<Option<(u64, Signature)>, VerifyError> {
        for signature in signatures {
            if signature.name() != self.name || signature.id() != self.id {
                continue;
            }
            if !self.verify(body, signature.signature()) {
                return Err(VerifyError::BadCosignature { witness: self.name.clone() });
            }
            let seconds = signature.signature().first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            return Ok(seconds.map(|seconds| (seconds, signature.clone())));
        }
        Ok(None)
    }
}

impl Verifier for WitnessKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, body: &[u8], signature: &[u8]) -> bool {
        let Some((seconds, signature)) = signature.split_first_chunk() else { return false };
        let message = message(u64::from_be_bytes(*seconds), body);
        UnparsedPublicKey::new(&ED25519, self.public).verify(&message, signature).is_ok()
    }
}

/// Checks that `checkpoint` (a signed note) carries a cosignature of `witness`; returns its time in seconds since 1970.
pub fn verify_cosignature(checkpoint: &str, witness: &WitnessKey) -> Result<u64, VerifyError> {
    let (body, signatures) = take_apart(checkpoint)?;
    let found = witness.find(body.as_bytes(), &signatures)?;
    found.map(|(seconds, _)| seconds).ok_or_else(|| VerifyError::NotCosigned { witness: witness.name.clone() })
}

/// A checkpoint that a witness cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// Records it covers.
    pub size: u64,
    /// When, in seconds since 1970, by the witness's clock.
    pub seconds: u64,
}

/// Checks that the log in `dir` holds a checkpoint which `witness` cosigned, and that its root is that of the log's own tree at that size.
/// [`crate::verify_dir`] checks the tree itself.
pub fn verify_cosigned(dir: &Path, vkey: &str, witness: &WitnessKey) -> Result<Cosigned, VerifyError> {
    let not_cosigned = || VerifyError::NotCosigned { witness: witness.name.clone() };
    let text = store::read_note(&dir.join(crate::courier::COSIGNED))?.ok_or_else(not_cosigned)?;
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let keys = snapshot.pinned.keys(vkey)?;
    let (cosigned, seconds) = open(&text, &keys, witness)?;
    let another = VerifyError::CosignedAnother { size: cosigned.size };
    let head = Head { edge: snapshot.edge()?, tree: snapshot.head };
    if cosigned.size > head.tree.size {
        return Err(another);
    }
    let root = match cosigned.size {
        0 => tlog_tiles::EMPTY_HASH,
        size if size == head.tree.size => head.tree.root,
        size => HeadHashes::new(dir, &head).root_at(size)?,
    };
    if root == cosigned.root { Ok(Cosigned { size: cosigned.size, seconds }) } else { Err(another) }
}

/// A checkpoint with the log's signature and the witness's, both checked, and the time of the latter.
pub(crate) fn open(text: &[u8], keys: &LogKeys, witness: &WitnessKey) -> Result<(TreeHead, u64), VerifyError> {
    let head = keys.open(text)?;
    let seconds = verify_cosignature(&head.text, witness)?;
    Ok((head, seconds))
}

/// The text of a note, with its last line feed, and its signature lines. Nothing is verified.
pub(crate) fn take_apart(note: &str) -> Result<(&str, Vec<Signature>), VerifyError> {
    let malformed = VerifyError::MalformedCheckpoint { detail: "not a signed note" };
    if Note::from_bytes(note.as_bytes()).is_err() {
        return Err(malformed);
    }
    let at = note.rfind("\n\n").ok_or(malformed)?;
    Ok((&note[..=at], lines(&note[at + 2..])?))
}

/// Signature lines, as a witness answers them.
pub(crate) fn lines(text: &str) -> Result<Vec<Signature>, VerifyError> {
    let malformed = |_| VerifyError::MalformedCheckpoint { detail: "not a signature line" };
    text.lines().map(|line| Signature::from_bytes(line.as_bytes()).map_err(malformed)).collect()
}

/// C2SP `tlog-cosignature`, cosignature/v1: what is signed.
fn message(seconds: u64, body: &[u8]) -> Vec<u8> {
    [format!("cosignature/v1\ntime {seconds}\n").as_bytes(), body].concat()
}

fn typed(public: &[u8; 32]) -> [u8; 33] {
    let mut bytes = [COSIGNATURE; 33];
    bytes[1..].copy_from_slice(public);
    bytes
}

/// An error of a signer, to be shared.
pub(crate) fn shared(error: SignError) -> Arc<dyn std::error::Error + Send + Sync> {
    Arc::from(error)
}
