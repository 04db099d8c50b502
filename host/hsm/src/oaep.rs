//! RSA-OAEP (RFC 8017 section 7.1) and RSA public keys as SubjectPublicKeyInfo (RFC 3279 section 2.3.1).

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use serde::{Deserialize, Serialize};

use crate::HsmError;
use crate::class::{RSA_BITS, RSA_EXPONENT};

/// The hash of OAEP and of its mask generation function. A token's own is found by trying, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OaepHash {
    /// For tokens that know no better, such as SoftHSM 2.6.1. OAEP does not rest on collision resistance.
    Sha1,
    /// The rule.
    Sha256,
}

impl OaepHash {
    pub(crate) const BEST_FIRST: [Self; 2] = [Self::Sha256, Self::Sha1];

    pub(crate) fn mechanism(self) -> Mechanism<'static> {
        let (hash, mask) = match self {
            Self::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
            Self::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        };
        Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
    }
}

/// Bytes of a ciphertext and of a modulus.
pub(crate) const RSA_BYTES: usize = RSA_BITS as usize / 8;

/// Encrypts to a pair of class `custodian-shares`, from its public half as DER. At most 318 bytes fit under SHA-256.
///
/// # Errors
/// [`HsmError::PublicKeyInvalid`], also for a plaintext that does not fit.
pub fn encrypt_share(spki: &[u8], hash: OaepHash, plaintext: &[u8]) -> Result<Vec<u8>, HsmError> {
    modulus_from_spki(spki)?;
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| HsmError::PublicKeyInvalid)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| HsmError::PublicKeyInvalid)?;
    let mut ciphertext = vec![0; RSA_BYTES];
    let length =
        key.encrypt(algorithm, plaintext, &mut ciphertext, None).map_err(|_| HsmError::PublicKeyInvalid)?.len();
    ciphertext.truncate(length);
    Ok(ciphertext)
}

/// `SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING { SEQUENCE { modulus, 65537 } } }`.
pub(crate) fn spki_from_modulus(modulus: &[u8]) -> Vec<u8> {
    const ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        let bytes = &bytes[start..];
        let sign: &[u8] = if bytes.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
        der(0x02, &[sign, bytes].concat())
    };
    let key = der(0x30, &[integer(modulus), integer(&RSA_EXPONENT)].concat());
    der(0x30, &[ALGORITHM, &der(0x03, &[&[0], key.as_slice()].concat())].concat())
}

/// The modulus of a key of the one shape above: anything else, however it parses elsewhere, is refused.
pub(crate) fn modulus_from_spki(spki: &[u8]) -> Result<Vec<u8>, HsmError> {
    // The shape has one length, so the modulus has one place: before the exponent, which ends the structure.
    let exponent = 2 + RSA_EXPONENT.len();
    let modulus = spki
        .len()
        .checked_sub(exponent + RSA_BYTES)
        .and_then(|start| spki.get(start..start + RSA_BYTES))
        .ok_or(HsmError::PublicKeyInvalid)?;
    if modulus.first().is_some_and(|first| *first >= 0x80) && spki_from_modulus(modulus) == spki {
        Ok(modulus.to_vec())
    } else {
        Err(HsmError::PublicKeyInvalid)
    }
}

/// Tag, length, content (X.690 sections 8.1 and 10.1).
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..0x80 => bytes.push(length as u8),
        0x80..0x100 => bytes.extend([0x81, length as u8]),
        // Nothing here comes near 65,536 bytes.
        _ => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend(content);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

    use super::*;

    /// aws-lc judges the encoding, and opens what was encrypted to it.
    #[test]
    fn a_public_key_is_the_one_others_write() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
        let theirs: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let modulus = modulus_from_spki(theirs.as_ref()).unwrap();
        assert_eq!(spki_from_modulus(&modulus), theirs.as_ref());
        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        for (hash, algorithm) in [(OaepHash::Sha1, &OAEP_SHA1_MGF1SHA1), (OaepHash::Sha256, &OAEP_SHA256_MGF1SHA256)] {
            let ciphertext = encrypt_share(theirs.as_ref(), hash, b"a share").unwrap();
            let mut plaintext = [0; RSA_BYTES];
            assert_eq!(private.decrypt(algorithm, &ciphertext, &mut plaintext, None).unwrap(), b"a share");
        }
        assert!(encrypt_share(theirs.as_ref(), OaepHash::Sha256, &[0; 319]).is_err());
    }

    #[test]
    fn weak_and_mangled_public_keys_are_refused() {
        let small = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let small: PublicKeyX509Der<'_> = small.public_key().as_der().unwrap();
        assert!(matches!(modulus_from_spki(small.as_ref()), Err(HsmError::PublicKeyInvalid)));
        let good = spki_from_modulus(&[0xff; RSA_BYTES]);
        modulus_from_spki(&good).unwrap();
        let modulus_at = good.len() - 5 - RSA_BYTES;
        for position in (0..=modulus_at).chain(good.len() - 5..good.len()) {
            let mut mangled = good.clone();
            mangled[position] ^= 0x80;
            assert!(modulus_from_spki(&mangled).is_err(), "{position}");
        }
        for length in [0, 1, 100, good.len() - 1] {
            assert!(modulus_from_spki(&good[..length]).is_err(), "{length}");
        }
        assert!(modulus_from_spki(&[good.as_slice(), &[0]].concat()).is_err());
    }
}
