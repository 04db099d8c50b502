use std::error::Error;
use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::AttestError;

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublicKey {
    /// Ed25519 (RFC 8032).
    Ed25519([u8; 32]),
    /// ECDSA on P-256 with SHA-256 (FIPS 186-5): the uncompressed point of SEC 1 section 2.3.3. Signatures are DER (RFC 3279 section 2.2.3).
    EcdsaP256([u8; 65]),
}

impl PublicKey {
    /// The key of these bytes: 32 of Ed25519, or 65 of a point on P-256.
    ///
    /// # Errors
    /// [`AttestError::Key`] for bytes of another length or form. That a point lies on the curve is checked when it verifies.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttestError> {
        if let Ok(key) = bytes.try_into() {
            return Ok(Self::Ed25519(key));
        }
        match <[u8; 65]>::try_from(bytes) {
            Ok(point) if point[0] == 4 => Ok(Self::EcdsaP256(point)),
            Ok(_) => Err(AttestError::Key { why: "the point is not in uncompressed form (04, x, y)" }),
            Err(_) => Err(AttestError::Key { why: "it has neither 32 bytes (Ed25519) nor 65 (P-256)" }),
        }
    }

    /// The raw bytes: 32 or 65.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) => key,
            Self::EcdsaP256(point) => point,
        }
    }

    /// `ed25519` or `ecdsa-p256`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ed25519",
            Self::EcdsaP256(_) => "ecdsa-p256",
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Self::EcdsaP256(key) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature).is_ok()
            }
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), hex::encode(self.as_bytes()))
    }
}

/// Lower-case hexadecimal; the length says which algorithm.
impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex::encode(self.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let bytes = hex::decode(&text).ok().filter(|bytes| hex::encode(bytes) == text);
        let bytes = bytes.ok_or_else(|| de::Error::custom("expected lower-case hexadecimal digits"))?;
        Self::from_bytes(&bytes).map_err(de::Error::custom)
    }
}

/// Who holds a secret key: a file, or a token that never gives it out.
pub trait Signer {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// A signature over `message`, as [`PublicKey::verifies`] takes it.
    ///
    /// # Errors
    /// What the holder says.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError>;
}

/// Why a holder of a key did not sign.
#[derive(Debug, thiserror::Error)]
#[error("the key of the signer did not sign")]
pub struct SignerError(#[source] pub Box<dyn Error + Send + Sync>);

/// The DER form (RFC 3279 section 2.2.3) of an ECDSA signature that a token gives as r and s, 32 bytes each (PKCS#11 2.40 section 2.3.1).
pub fn ecdsa_der(raw: &[u8; 64]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        let body = &bytes[start..];
        let pad = body.first().is_some_and(|byte| *byte >= 0x80);
        let mut out = vec![2, (body.len() + usize::from(pad)) as u8];
        out.extend(pad.then_some(0));
        out.extend(body);
        out
    };
    let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [&[0x30, body.len() as u8], body.as_slice()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    #[test]
    fn fixed_ecdsa_signatures_verify_in_der_form() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = PublicKey::from_bytes(pair.public_key().as_ref()).unwrap();
        // Many, so that short and high integers occur.
        for message in (0..64u8).map(|byte| [byte; 9]) {
            let raw = pair.sign(&SystemRandom::new(), &message).unwrap();
            let der = ecdsa_der(raw.as_ref().try_into().unwrap());
            assert!(key.verifies(&message, &der));
            assert!(!key.verifies(b"another message", &der));
            assert!(!key.verifies(&message, raw.as_ref()), "only one form");
        }
    }

    #[test]
    fn small_integers_are_minimal() {
        let mut raw = [0; 64];
        (raw[31], raw[32]) = (7, 0x80);
        let der = ecdsa_der(&raw);
        assert_eq!(der[..7], [0x30, 38, 2, 1, 7, 2, 33]);
        assert_eq!(der[7..9], [0, 0x80]);
    }

    #[test]
    fn keys_of_other_forms_are_refused() {
        for bytes in [vec![], vec![1; 31], vec![2; 33], vec![3; 65], vec![4; 64]] {
            assert!(PublicKey::from_bytes(&bytes).is_err(), "{}", bytes.len());
        }
        assert!(serde_json::from_str::<PublicKey>(&format!("\"{}\"", "AB".repeat(32))).is_err(), "one spelling");
    }
}
