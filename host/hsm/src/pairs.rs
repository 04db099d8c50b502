//! Key pairs: two objects, one key. The halves carry one `CKA_ID`, and each proves that it belongs to the other.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use crate::class::{EDWARDS25519, Generation, P256, RSA_BITS, RSA_EXPONENT};
use crate::key::PublicHalf;
use crate::keyring::with_fallback;
use crate::oaep::{RSA_BYTES, spki_from_modulus};
use crate::{HsmError, Key, KeyClass, KeyId, Keyring, OaepHash, Origin};

const READ: &str = "read a public key";

impl Keyring {
    /// The public half of an Ed25519 pair: 32 bytes (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key without one.
    pub fn public_key(&self, key: &Key) -> Result<[u8; 32], HsmError> {
        key.handle_for(&self.sessions, READ, &[KeyClass::AuditSigning, KeyClass::CustodianSigning])?;
        match &key.public {
            Some(PublicHalf::Ed25519(public)) => Ok(*public),
            _ => Err(HsmError::WrongClass { action: READ, class: key.class() }),
        }
    }

    /// The public half of a pair on P-256: the uncompressed point, 65 bytes (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key without one.
    pub fn public_point(&self, key: &Key) -> Result<[u8; 65], HsmError> {
        key.handle_for(&self.sessions, READ, &[KeyClass::ApproverSigning])?;
        match &key.public {
            Some(PublicHalf::P256(point)) => Ok(*point),
            _ => Err(HsmError::WrongClass { action: READ, class: key.class() }),
        }
    }

    /// The public half of any pair as SubjectPublicKeyInfo, DER (RFC 8410 section 4, RFC 5480 section 2, RFC 3279 section 2.3.1).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key without one.
    pub fn public_key_der(&self, key: &Key) -> Result<Vec<u8>, HsmError> {
        const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        const ON_P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
        const BIT_STRING: &[u8] = b"\x03\x42\x00";
        key.handle_for(&self.sessions, READ, &[key.class()])?;
        match &key.public {
            Some(PublicHalf::Ed25519(public)) => Ok([ED25519, public].concat()),
            Some(PublicHalf::P256(point)) => Ok([ON_P256, P256, BIT_STRING, point].concat()),
            Some(PublicHalf::Rsa(modulus)) => Ok(spki_from_modulus(modulus)),
            None => Err(HsmError::WrongClass { action: READ, class: key.class() }),
        }
    }

    /// The hash this token takes in OAEP: whoever encrypts to one of its pairs uses it.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key that is not an RSA pair.
    pub fn oaep_hash(&self, key: &Key) -> Result<OaepHash, HsmError> {
        let action = "tell the hash of OAEP";
        key.handle_for(&self.sessions, action, &[KeyClass::CustodianShares, KeyClass::Transport])?;
        // Finding the key has tried the pair.
        self.oaep.get().copied().ok_or(HsmError::StrangeAnswer { action })
    }

    /// Sorts two objects into private and public half.
    pub(crate) fn halves(
        &self,
        first: ObjectHandle,
        second: ObjectHandle,
    ) -> Result<(ObjectHandle, ObjectHandle), HsmError> {
        let class =
            self.sessions.with("find a key", |session| session.get_attributes(first, &[AttributeType::Class]))?;
        let public_first = class.contains(&Attribute::Class(ObjectClass::PUBLIC_KEY));
        Ok(if public_first { (second, first) } else { (first, second) })
    }

    pub(crate) fn generate_pair(
        &self,
        class: KeyClass,
        id: KeyId,
        label: &str,
    ) -> Result<(ObjectHandle, Option<PublicHalf>), HsmError> {
        let public_template = class.public_template(id);
        let template = class.template(id, Origin::Generated);
        let label = Attribute::Label(label.as_bytes().to_vec());
        let generate = |session: &Session, mechanism: &Mechanism<'_>, extra: &[Attribute]| {
            let extra = [extra, std::slice::from_ref(&label)].concat();
            with_fallback(&public_template, &extra, |public| {
                with_fallback(&template, std::slice::from_ref(&label), |private| {
                    session.generate_key_pair(mechanism, public, private)
                })
            })
        };
        let (public, private) = self.sessions.with_anchor("generate a key pair", |session| {
            if matches!(class.generation(), Some(Generation::Rsa)) {
                let size = Attribute::ModulusBits(Ulong::from(RSA_BITS));
                let exponent = Attribute::PublicExponent(RSA_EXPONENT.to_vec());
                return generate(session, &Mechanism::RsaPkcsKeyPairGen, &[size, exponent]);
            }
            if matches!(class.generation(), Some(Generation::P256)) {
                return generate(session, &Mechanism::EccKeyPairGen, &[Attribute::EcParams(P256.to_vec())]);
            }
            let on_curve = |curve: &[u8]| {
                generate(session, &Mechanism::EccEdwardsKeyPairGen, &[Attribute::EcParams(curve.to_vec())])
            };
            let [oid, name] = EDWARDS25519;
            on_curve(oid).or_else(|_| on_curve(name))
        })?;
        self.check_attributes(private, class, id, &template, &class.history(Origin::Generated))?;
        self.check_attributes(public, class, id, &public_template, &[])?;
        Ok((private, Some(self.read_public_half(class, public)?)))
    }

    pub(crate) fn read_public_half(&self, class: KeyClass, public: ObjectHandle) -> Result<PublicHalf, HsmError> {
        match class.generation() {
            Some(Generation::Rsa) => self.read_modulus(public).map(PublicHalf::Rsa),
            Some(Generation::P256) => self.read_point(public).map(PublicHalf::P256),
            _ => self.read_point(public).map(PublicHalf::Ed25519),
        }
    }

    /// `CKA_EC_POINT` of `N` bytes: raw, or as the DER OCTET STRING of PKCS#11 2.40.
    fn read_point<const N: usize>(&self, public: ObjectHandle) -> Result<[u8; N], HsmError> {
        let strange = HsmError::StrangeAnswer { action: READ };
        let found = self.sessions.with(READ, |session| session.get_attributes(public, &[AttributeType::EcPoint]))?;
        match found.as_slice() {
            [Attribute::EcPoint(point)] => match point.as_slice() {
                [0x04, length, rest @ ..] if usize::from(*length) == N && rest.len() == N => rest,
                raw => raw,
            }
            .try_into()
            .map_err(|_| strange),
            _ => Err(strange),
        }
    }

    /// The modulus, of the one size and with the one exponent that are in use here.
    fn read_modulus(&self, public: ObjectHandle) -> Result<Vec<u8>, HsmError> {
        let types = [AttributeType::Modulus, AttributeType::PublicExponent];
        let found = self.sessions.with(READ, |session| session.get_attributes(public, &types))?;
        let trimmed = |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
        let [Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)] = found.as_slice() else {
            return Err(HsmError::StrangeAnswer { action: READ });
        };
        let modulus = trimmed(modulus);
        if modulus.len() == RSA_BYTES && modulus[0] >= 0x80 && trimmed(exponent) == RSA_EXPONENT {
            Ok(modulus)
        } else {
            Err(HsmError::StrangeAnswer { action: READ })
        }
    }
}
