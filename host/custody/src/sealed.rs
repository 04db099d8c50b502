//! Hybrid encryption to a custodian: a fresh AES-256 key under RSA-OAEP (RFC 8017 section 7.1), the content under
//! AES-256-GCM (SP 800-38D) with associated data.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use casemate_hsm::encrypt_share;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::entropy::{Entropy, array};
use crate::roster::SharesKey;
use crate::{CustodyError, json};

/// What only the holder of one RSA key can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Sealed {
    /// The AES key under RSA-OAEP.
    #[serde(with = "json::base64_bytes")]
    pub(crate) key: Vec<u8>,
    #[serde(with = "json::hex_array")]
    iv: [u8; 12],
    /// Ciphertext and tag.
    #[serde(with = "json::base64_bytes")]
    content: Vec<u8>,
}

impl Sealed {
    pub(crate) fn seal(
        to: &SharesKey,
        aad: &[u8],
        content: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<Self, CustodyError> {
        let key = Zeroizing::new(array::<32>(entropy)?);
        let iv = array::<12>(entropy)?;
        let wrapped = encrypt_share(&to.public, to.oaep, &key[..])?;
        let mut buffer = Zeroizing::new(content.to_vec());
        let tag = cipher(&key)?
            .seal_in_place_separate_tag(Nonce::from(&iv), Aad::from(aad), &mut buffer)
            .map_err(|_| CustodyError::Sealing)?;
        Ok(Self { key: wrapped, iv, content: [&buffer[..], tag.as_ref()].concat() })
    }

    /// Opens the content with the AES key that the custodian's token has decrypted; `None` for anything that was changed.
    pub(crate) fn open(&self, key: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = Zeroizing::new(<[u8; 32]>::try_from(key).ok()?);
        let mut buffer = Zeroizing::new(self.content.clone());
        let length = cipher(&key).ok()?.open_in_place(Nonce::from(&self.iv), Aad::from(aad), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, CustodyError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| CustodyError::Sealing)
}
