use casemate_types::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{AttestError, PublicKey, Signer, SignerError};

/// More signatures than any envelope of a site has.
pub const MAX_SIGNATURES: usize = 32;

/// What is signed: DSSE's pre-authentication encoding, `DSSEv1 LEN TYPE LEN PAYLOAD`.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {} {} ", payload_type.len(), payload_type, payload.len());
    [head.as_bytes(), payload].concat()
}

/// A payload and the signatures over it. Nothing in it is verified. `K` is how key ids are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<K = String> {
    #[serde(with = "base64_bytes")]
    payload: Vec<u8>,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signature<K>>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature<K = String> {
    /// Which key it claims: a hint, not evidence.
    pub keyid: K,
    /// Over the pre-authentication encoding.
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
}

impl<K> Envelope<K> {
    /// An envelope without signatures.
    pub fn new(payload_type: &str, payload: Vec<u8>) -> Self {
        Self { payload, payload_type: payload_type.to_owned(), signatures: Vec::new() }
    }

    /// The payload, whoever signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What the payload says it is.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// SHA-256 of the payload: names it whoever signed.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The signatures, unverified.
    pub fn signatures(&self) -> &[Signature<K>] {
        &self.signatures
    }

    /// The bytes that a key signs.
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Adds a signature that the caller has verified.
    pub fn push(&mut self, keyid: K, sig: Vec<u8>) {
        self.signatures.push(Signature { keyid, sig });
    }

    /// Signs, and replaces the signatures of that key id.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign(&mut self, keyid: K, signer: &(impl Signer + ?Sized)) -> Result<(), SignerError>
    where
        K: Ord,
    {
        let sig = signer.sign(&self.pae())?;
        self.signatures.retain(|other| other.keyid != keyid);
        self.push(keyid, sig);
        self.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
        Ok(())
    }
}

impl<K: Serialize + DeserializeOwned> Envelope<K> {
    /// Reads an envelope of at most `max` bytes.
    ///
    /// # Errors
    /// [`AttestError::TooLarge`], [`AttestError::Malformed`].
    pub fn parse(bytes: &[u8], max: usize) -> Result<Self, AttestError> {
        let too_large = AttestError::TooLarge { bytes: max, signatures: MAX_SIGNATURES };
        if bytes.len() > max {
            return Err(too_large);
        }
        let envelope: Self = serde_json::from_slice(bytes)
            .map_err(|error| AttestError::Malformed { what: "a DSSE envelope", why: error.to_string() })?;
        if envelope.signatures.len() > MAX_SIGNATURES { Err(too_large) } else { Ok(envelope) }
    }

    /// The file: JSON on several lines, and a line break.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] for a key id that is no JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AttestError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| AttestError::Malformed { what: "a DSSE envelope", why: error.to_string() })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl Envelope<String> {
    /// The keys whose signatures verify, in the order of the signatures. Each must be good and of a key that `trusted` finds by its id:
    /// one that is not is an attack or an accident. Keys are compared themselves, so one key under two ids is found.
    ///
    /// # Errors
    /// [`AttestError::WrongType`], [`AttestError::UnknownKey`], [`AttestError::BadSignature`], [`AttestError::DuplicateSignature`].
    pub fn signers<'a>(
        &self,
        payload_type: &'static str,
        trusted: impl Fn(&str) -> Option<&'a PublicKey>,
    ) -> Result<Vec<&'a PublicKey>, AttestError> {
        if self.payload_type != payload_type {
            let found = self.payload_type.chars().take(80).collect();
            return Err(AttestError::WrongType { found, wanted: payload_type });
        }
        let message = self.pae();
        let mut keys = Vec::new();
        for Signature { keyid, sig } in &self.signatures {
            let key_id = || keyid.chars().take(80).collect();
            let key = trusted(keyid).ok_or_else(|| AttestError::UnknownKey { key_id: key_id() })?;
            if !key.verifies(&message, sig) {
                return Err(AttestError::BadSignature { key_id: key_id() });
            }
            if keys.contains(&key) {
                return Err(AttestError::DuplicateSignature { key_id: key_id() });
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

/// Bytes as base64: written with padding in the standard alphabet, read in both alphabets with padding or without, as DSSE asks.
mod base64_bytes {
    use base64::Engine as _;
    use base64::alphabet::{STANDARD as STANDARD_ALPHABET, URL_SAFE as URL_SAFE_ALPHABET};
    use base64::engine::DecodePaddingMode;
    use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de};

    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        let alphabet = if text.contains(['-', '_']) { &URL_SAFE_ALPHABET } else { &STANDARD_ALPHABET };
        GeneralPurpose::new(alphabet, LENIENT).decode(text).map_err(|_| de::Error::custom("expected base64"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const TYPE: &str = "http://example.com/HelloWorld";

    struct Ed(Ed25519KeyPair, PublicKey);

    impl Ed {
        fn new() -> Self {
            let pair = Ed25519KeyPair::generate().unwrap();
            let public = PublicKey::from_bytes(pair.public_key().as_ref()).unwrap();
            Self(pair, public)
        }
    }

    impl Signer for Ed {
        fn public_key(&self) -> &PublicKey {
            &self.1
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
            Ok(self.0.sign(message).as_ref().to_vec())
        }
    }

    struct Ec(EcdsaKeyPair, PublicKey);

    impl Signer for Ec {
        fn public_key(&self) -> &PublicKey {
            &self.1
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
            Ok(self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
        }
    }

    /// The example of the DSSE specification (protocol.md).
    #[test]
    fn the_message_is_the_pre_authentication_encoding() {
        assert_eq!(pae(TYPE, b"hello world"), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn both_kinds_of_key_count_and_each_once() {
        let ed = Ed::new();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let public = PublicKey::from_bytes(pair.public_key().as_ref()).unwrap();
        let ec = Ec(pair, public);
        let trusted = |id: &str| match id {
            "ed" | "ed again" => Some(ed.public_key()),
            "ec" => Some(ec.public_key()),
            _ => None,
        };
        let mut envelope = Envelope::new(TYPE, b"hello world".to_vec());
        envelope.sign("ed".to_owned(), &ed).unwrap();
        envelope.sign("ec".to_owned(), &ec).unwrap();
        envelope.sign("ed".to_owned(), &ed).unwrap();
        let read = Envelope::<String>::parse(&envelope.to_bytes().unwrap(), 4096).unwrap();
        assert_eq!(read, envelope);
        assert_eq!(read.signers(TYPE, trusted).unwrap(), [ec.public_key(), ed.public_key()]);
        assert!(matches!(read.signers("text/plain", trusted), Err(AttestError::WrongType { .. })));

        let mut twice = envelope.clone();
        twice.sign("ed again".to_owned(), &ed).unwrap();
        assert!(matches!(twice.signers(TYPE, trusted), Err(AttestError::DuplicateSignature { .. })));
        let mut stranger = envelope.clone();
        stranger.sign("eve".to_owned(), &Ed::new()).unwrap();
        assert!(matches!(stranger.signers(TYPE, trusted), Err(AttestError::UnknownKey { key_id }) if key_id == "eve"));
        let mut claimed = Envelope::new(TYPE, b"hello world".to_vec());
        claimed.sign("ed".to_owned(), &Ed::new()).unwrap();
        assert!(matches!(claimed.signers(TYPE, trusted), Err(AttestError::BadSignature { .. })));
        let altered: Envelope = Envelope { payload: b"hello w0rld".to_vec(), ..envelope };
        assert!(matches!(altered.signers(TYPE, trusted), Err(AttestError::BadSignature { .. })));
    }

    #[test]
    fn both_alphabets_of_base64_are_read() {
        let read = |payload: &str| {
            let file = json!({"payload": payload, "payloadType": TYPE, "signatures": []}).to_string();
            Envelope::<String>::parse(file.as_bytes(), 4096)
        };
        for payload in ["+/8=", "-_8=", "-_8", "+/8"] {
            assert_eq!(read(payload).unwrap().payload(), [0xfb, 0xff], "{payload}");
        }
        for payload in ["+_8=", "*", "+/9="] {
            assert!(matches!(read(payload), Err(AttestError::Malformed { .. })), "{payload}");
        }
    }

    #[test]
    fn oversized_and_unknown_members_are_refused() {
        let one = json!({"keyid": "", "sig": ""});
        let file = |n: usize| json!({"payload": "", "payloadType": TYPE, "signatures": vec![&one; n]}).to_string();
        assert!(Envelope::<String>::parse(file(32).as_bytes(), 4096).is_ok());
        assert!(matches!(Envelope::<String>::parse(file(33).as_bytes(), 4096), Err(AttestError::TooLarge { .. })));
        assert!(matches!(Envelope::<String>::parse(file(1).as_bytes(), 10), Err(AttestError::TooLarge { .. })));
        let more = file(0).replace("{\"payload\"", "{\"verified\":true,\"payload\"");
        assert!(matches!(Envelope::<String>::parse(more.as_bytes(), 4096), Err(AttestError::Malformed { .. })));
    }
}
