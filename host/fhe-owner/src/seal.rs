use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::OwnerError;

/// Seals passages, manifests and whatever else of a compartment rests outside: AES-256-GCM (SP 800-38D) with a random
/// 96-bit nonce, so at most 2^32 messages per key. No `Debug`, no `Clone`.
pub struct DataKey(RandomizedNonceKey);

impl DataKey {
    /// A key from its 32 bytes.
    ///
    /// # Errors
    /// [`OwnerError::Seal`] when the cryptographic library refuses it.
    pub fn from_bytes(bytes: &Zeroizing<[u8; 32]>) -> Result<Self, OwnerError> {
        RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice())
            .map(Self)
            .map_err(|_| OwnerError::Seal { what: "with a data key" })
    }

    /// Nonce, ciphertext and tag: 28 bytes more than `plaintext`.
    ///
    /// `context` says where the result belongs (collection, document, version); [`open`](Self::open) wants the same.
    ///
    /// # Errors
    /// [`OwnerError::Seal`] when the cryptographic library fails.
    pub fn seal(&self, what: &'static str, context: &[&[u8]], plaintext: &[u8]) -> Result<Vec<u8>, OwnerError> {
        // Plaintext space doubles as ciphertext space, so nothing is left behind in a reallocated buffer.
        let mut out = Vec::with_capacity(NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(&[0; NONCE_LEN]);
        out.extend_from_slice(plaintext);
        let (head, body) = out.split_at_mut(NONCE_LEN);
        let (nonce, tag) = self
            .0
            .seal_in_place_separate_tag(Aad::from(associated(context)), body)
            .map_err(|_| OwnerError::Seal { what })?;
        head.copy_from_slice(nonce.as_ref());
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// What [`seal`](Self::seal) sealed for the same context.
    ///
    /// # Errors
    /// [`OwnerError::Tampered`] for anything else.
    pub fn open(&self, what: &'static str, context: &[&[u8]], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OwnerError> {
        let tampered = |_| OwnerError::Tampered { what };
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(OwnerError::Tampered { what })?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(tampered)?;
        let mut out = Zeroizing::new(body.to_vec());
        let len =
            self.0.open_in_place(nonce, Aad::from(associated(context)), out.as_mut_slice()).map_err(tampered)?.len();
        out.truncate(len);
        Ok(out)
    }
}

/// Each part behind its length, so that no two lists of parts read the same.
fn associated(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = b"casemate sealed 1\0".to_vec();
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::from_bytes(&Zeroizing::new([byte; 32])).unwrap()
    }

    #[test]
    fn sealed_text_opens_only_in_its_place() {
        let key = key(1);
        let sealed = key.seal("a passage", &[b"alpha", b"doc 1"], b"the text").unwrap();
        assert_eq!(sealed.len(), 8 + 28);
        assert_eq!(*key.open("a passage", &[b"alpha", b"doc 1"], &sealed).unwrap(), b"the text");
        let refused = Err(OwnerError::Tampered { what: "a passage" });
        for context in [&[b"alpha".as_slice(), b"doc 2"][..], &[b"alph", b"adoc 1"], &[b"alphadoc 1"], &[]] {
            assert_eq!(key.open("a passage", context, &sealed), refused);
        }
        assert_eq!(self::key(2).open("a passage", &[b"alpha", b"doc 1"], &sealed), refused);
    }

    #[test]
    fn altered_and_truncated_seals_are_named() {
        let key = key(3);
        let sealed = key.seal("a manifest", &[b"c"], b"groups").unwrap();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(key.open("a manifest", &[b"c"], &bad), Err(OwnerError::Tampered { what: "a manifest" }));
            assert!(key.open("a manifest", &[b"c"], &sealed[..at]).is_err());
        }
        assert_ne!(sealed, key.seal("a manifest", &[b"c"], b"groups").unwrap());
    }
}
