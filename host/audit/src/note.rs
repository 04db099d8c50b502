//! Checkpoints: C2SP `tlog-checkpoint` text inside a C2SP `signed-note` with an Ed25519 signature (type 0x01).

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use signed_note::{Note, NoteError, Signature, StandardVerifier, Verifier, VerifierList};
use tlog_tiles::{Checkpoint, EMPTY_HASH, Hash};

use crate::tree::MAX_SIZE;
use crate::{AuditError, VerifyError};

/// Signature type 0x01 of C2SP `signed-note`: Ed25519 over the note text.
const ED25519: u8 = 0x01;

/// Why a signer could not sign.
pub type SignError = Box<dyn std::error::Error + Send + Sync>;

/// Signs checkpoints with an Ed25519 key (RFC 8032), in production inside the HSM.
pub trait CheckpointSigner: Send {
    /// The public key, 32 bytes. Read once, when the log is opened.
    fn public_key(&self) -> [u8; 32];
    /// The signature over `message`. What comes back is verified before it is used.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// A signer in use at two places.
impl<T: CheckpointSigner + Sync + ?Sized> CheckpointSigner for Arc<T> {
    fn public_key(&self) -> [u8; 32] {
        (**self).public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        (**self).sign(message)
    }
}

/// A tree head whose signature was checked, or that was only parsed; see the function it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TreeHead {
    pub(crate) text: String,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// A log's name and public key.
pub(crate) struct LogKey {
    vkey: String,
    verifier: StandardVerifier,
    algorithm_and_key: [u8; 33],
}

impl LogKey {
    /// The key of the log `origin`. The origin is also the name of the key (C2SP `tlog-checkpoint`, signatures).
    pub(crate) fn new(origin: &str, public_key: &[u8; 32]) -> Result<Self, AuditError> {
        if !signed_note::is_key_name_valid(origin) || origin.chars().any(char::is_control) {
            return Err(AuditError::Origin { origin: origin.chars().filter(|c| !c.is_control()).take(80).collect() });
        }
        let mut algorithm_and_key = [ED25519; 33];
        algorithm_and_key[1..].copy_from_slice(public_key);
        let id = signed_note::key_id(origin, &algorithm_and_key);
        let vkey = format!("{origin}+{id:08x}+{}", BASE64_STANDARD.encode(algorithm_and_key));
        let verifier = StandardVerifier::new(&vkey).map_err(|error| AuditError::Signer(Arc::new(error)))?;
        Ok(Self { vkey, verifier, algorithm_and_key })
    }

    /// The verifier key in the encoding of C2SP `signed-note`.
    pub(crate) fn vkey(&self) -> &str {
        &self.vkey
    }

    /// Signs a tree head. A signature that does not verify under our own key is an error of the signer.
    pub(crate) fn sign(&self, size: u64, root: Hash, signer: &dyn CheckpointSigner) -> Result<TreeHead, AuditError> {
        let origin = self.verifier.name();
        let malformed = |detail| AuditError::Damaged(VerifyError::MalformedCheckpoint { detail });
        let body = Checkpoint::new(origin, size, root, "").map_err(|_| malformed("origin"))?.to_bytes();
        let signature = self.signature(&body, signer)?;
        let note = Note::new(&body, &[signature]).map_err(|_| malformed("note"))?;
        let text = String::from_utf8(note.to_bytes()).map_err(|_| malformed("not UTF-8"))?;
        Ok(TreeHead { text, size, root })
    }

    /// Signs the text of a note. A signature that does not verify under our own key is an error of the signer.
    pub(crate) fn signature(&self, body: &[u8], signer: &dyn CheckpointSigner) -> Result<Signature, AuditError> {
        let signature = signer.sign(body).map_err(|error| AuditError::Signer(error.into()))?;
        if !self.verifier.verify(body, &signature) {
            let error = SignError::from("the token returned a signature that does not verify");
            return Err(AuditError::Signer(error.into()));
        }
        let origin = self.verifier.name().to_owned();
        let id = signed_note::key_id(&origin, &self.algorithm_and_key);
        let malformed = |_| AuditError::Damaged(VerifyError::MalformedKey);
        Signature::new(origin, id, signature.to_vec()).map_err(malformed)
    }
}

/// A key of the log, and the size of the tree that goes with it.
pub(crate) type KeyAndSize = (String, u64);

/// The keys that may have signed a checkpoint: the current one, one in reserve from its announcement on, and retired ones up to the
/// size at which they handed over.
#[derive(Debug, Clone)]
pub(crate) struct LogKeys {
    retired: Vec<KeyAndSize>,
    current: String,
    /// With the index of the record that announces it.
    reserve: Option<KeyAndSize>,
}

impl LogKeys {
    /// One key that was never handed over.
    pub(crate) fn of(vkey: &str) -> Self {
        Self { retired: Vec::new(), current: vkey.to_owned(), reserve: None }
    }

    /// As a witness keeps them.
    pub(crate) fn from_parts(retired: Vec<KeyAndSize>, current: String, reserve: Option<KeyAndSize>) -> Self {
        Self { retired, current, reserve }
    }

    /// Retired keys with the size at which they were, and the one in reserve with the record that announces it.
    pub(crate) fn parts(&self) -> (&[KeyAndSize], Option<&KeyAndSize>) {
        (&self.retired, self.reserve.as_ref())
    }

    /// Whether the current key can be read.
    pub(crate) fn check(&self) -> Result<(), VerifyError> {
        StandardVerifier::new(&self.current).map(drop).map_err(|_| VerifyError::MalformedKey)
    }

    pub(crate) fn current(&self) -> &str {
        &self.current
    }

    /// The key that may sign when the current one cannot.
    pub(crate) fn reserve(&self) -> Option<&str> {
        self.reserve.as_ref().map(|(vkey, _)| vkey.as_str())
    }

    /// Record `index` announces a key in reserve. One before it may sign nothing larger.
    pub(crate) fn announce(&mut self, index: u64, to: String) {
        if self.reserve() == Some(&to) {
            return;
        }
        if let Some((replaced, _)) = self.reserve.replace((to, index)) {
            self.retired.push((replaced, index + 1));
        }
    }

    /// All verifier keys that were the log's own, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.retired.iter().map(|(vkey, _)| vkey.as_str()).chain([self.current.as_str()])
    }

    /// The most records this key may sign, if it was retired.
    pub(crate) fn retired_at(&self, vkey: &str) -> Option<u64> {
        self.retired.iter().find(|(retired, _)| retired == vkey).map(|(_, size)| *size)
    }

    /// The current key hands over to the next; it may sign trees of at most `size` records.
    pub(crate) fn hand_over(&mut self, size: u64, to: String) {
        let from = std::mem::replace(&mut self.current, to);
        self.retired.push((from, size));
    }

    /// Checks a signed checkpoint against the current key, then against the one in reserve and the retired ones.
    pub(crate) fn open(&self, text: &[u8]) -> Result<TreeHead, VerifyError> {
        let mut result = open(text, &self.current);
        if let (Err(VerifyError::UnknownSigner), Some((vkey, announced))) = (&result, &self.reserve) {
            // What does not hold the announcement was signed before anybody could have asked this key.
            match open(text, vkey) {
                Ok(head) if head.size <= *announced => {}
                other => result = other,
            }
        }
        for (vkey, size) in self.retired.iter().rev() {
            if !matches!(result, Err(VerifyError::UnknownSigner)) {
                break;
            }
            result = match open(text, vkey) {
                Ok(head) if head.size > *size => Err(VerifyError::RetiredKey { size: head.size, handed_over: *size }),
                other => other,
            };
        }
        result
    }
}

/// Checks a signed checkpoint against a verifier key `origin+id+base64`.
///
/// Signatures by other keys, for instance of witnesses, are ignored; one by this key that is wrong is an error.
pub(crate) fn open(text: &[u8], vkey: &str) -> Result<TreeHead, VerifyError> {
    let verifier = StandardVerifier::new(vkey).map_err(|_| VerifyError::MalformedKey)?;
    let expected = verifier.name().to_owned();
    let (note, head, found) = split(text)?;
    if found != expected {
        return Err(VerifyError::WrongOrigin { found, expected });
    }
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(|error| match error {
        NoteError::InvalidSignature { .. } => VerifyError::BadSignature,
        NoteError::UnverifiedNote => VerifyError::UnknownSigner,
        _ => VerifyError::MalformedCheckpoint { detail: "not a signed note" },
    })?;
    Ok(head)
}

/// Parses a checkpoint without a key: for showing, never for trusting.
pub(crate) fn parse_unverified(text: &[u8]) -> Result<TreeHead, VerifyError> {
    split(text).map(|(_, head, _)| head)
}

fn split(text: &[u8]) -> Result<(Note, TreeHead, String), VerifyError> {
    let malformed = |detail| VerifyError::MalformedCheckpoint { detail };
    let note = Note::from_bytes(text).map_err(|_| malformed("not a signed note"))?;
    let checkpoint = Checkpoint::from_bytes(note.text())
        .map_err(|_| malformed("expected origin, size and root hash, a line each"))?;
    if !checkpoint.extension().is_empty() {
        return Err(malformed("extension lines are not known here"));
    }
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    if size > MAX_SIZE {
        return Err(malformed("the size is larger than any log of this kind"));
    }
    if size == 0 && root != EMPTY_HASH {
        return Err(malformed("the root of the empty tree is wrong"));
    }
    let text = str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?.to_owned();
    let origin = checkpoint.origin().to_owned();
    Ok((note, TreeHead { text, size, root }, origin))
}
