use std::fmt;

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::types::Ulong;
use serde::{Deserialize, Serialize};

use crate::KeyId;

/// What a key is for. Each key has one purpose; the token is told so in its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyClass {
    /// AES-256, GCM: seals the site's records at rest.
    AtRest,
    /// Ed25519 pair (RFC 8032): signs audit checkpoints.
    AuditSigning,
    /// AES-256, GCM: seals one compartment's secrets. The only class that may be wrapped (under a user's key).
    Compartment,
    /// AES-256, ECB, encrypt only: the block cipher of FF1 (SP 800-38G), and of nothing else.
    FpeFf1,
    /// AES-256, AES-KW (RFC 3394, SP 800-38F): wraps and unwraps users' key-encryption keys, and nothing else.
    KekWrapping,
    /// 32-byte generic secret, HMAC-SHA-256 (FIPS 198-1): keyed tokens for values whose domain is too small for FF1.
    Token,
    /// AES-256, AES-KW (RFC 3394, SP 800-38F): wraps and unwraps the compartment keys of one user.
    UserKek,
}

impl fmt::Display for KeyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtRest => "at-rest",
            Self::AuditSigning => "audit-signing",
            Self::Compartment => "compartment",
            Self::FpeFf1 => "fpe-ff1",
            Self::KekWrapping => "kek-wrapping",
            Self::Token => "token",
            Self::UserKek => "user-kek",
        })
    }
}

/// Length in bytes of every secret key.
pub(crate) const SECRET_LENGTH: u64 = 32;

/// edwards25519 as an object identifier (RFC 8410), then as the printable name of PKCS#11 3.0 for modules that want it.
pub(crate) const EDWARDS25519: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"];

/// Attributes of one object: what the token must be told, and must then say of itself.
pub(crate) struct Template {
    /// Attributes every token has to store; compared at each look-up.
    pub(crate) required: Vec<Attribute>,
    /// Attributes some tokens do not know; compared where the token has them.
    pub(crate) optional: Vec<Attribute>,
}

impl Template {
    /// Everything, for creation.
    pub(crate) fn full(&self) -> Vec<Attribute> {
        self.required.iter().chain(&self.optional).cloned().collect()
    }
}

/// Where a secret key comes from, which decides what its attributes can say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Generated in this token, stored there.
    Generated,
    /// A user's key-encryption key on its way under a wrapping key: a session object that does nothing but leave, wrapped.
    Transit,
    /// Unwrapped into a session object that can never leave again.
    Unwrapped,
}

impl KeyClass {
    /// The secret key's, or the private key's, attributes.
    pub(crate) fn template(self, id: KeyId, origin: Origin) -> Template {
        let (class, key_type, mechanism) = match self {
            Self::AuditSigning => (ObjectClass::PRIVATE_KEY, KeyType::EC_EDWARDS, MechanismType::EDDSA),
            Self::AtRest | Self::Compartment => (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_GCM),
            Self::FpeFf1 => (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_ECB),
            Self::Token => (ObjectClass::SECRET_KEY, KeyType::GENERIC_SECRET, MechanismType::SHA256_HMAC),
            Self::KekWrapping | Self::UserKek => (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_KEY_WRAP),
        };
        let wraps = matches!(self, Self::KekWrapping | Self::UserKek) && origin != Origin::Transit;
        let leaves = match origin {
            Origin::Generated => self == Self::Compartment,
            Origin::Transit => self == Self::UserKek,
            Origin::Unwrapped => false,
        };
        let gcm = matches!(self, Self::AtRest | Self::Compartment);
        let mut required = vec![
            Attribute::Class(class),
            Attribute::KeyType(key_type),
            Attribute::Id(id.as_bytes().to_vec()),
            Attribute::Token(origin == Origin::Generated),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(leaves),
            Attribute::Modifiable(false),
            Attribute::Decrypt(gcm),
            Attribute::Sign(matches!(self, Self::AuditSigning | Self::Token)),
            Attribute::Unwrap(wraps),
            Attribute::Derive(false),
        ];
        // Halves of a key pair carry only the flags of their half (PKCS#11 3.1 sections 4.8 and 4.9).
        required.extend(if self == Self::AuditSigning {
            vec![Attribute::SignRecover(false)]
        } else {
            vec![Attribute::Encrypt(gcm || self == Self::FpeFf1), Attribute::Verify(false), Attribute::Wrap(wraps)]
        });
        let optional = vec![Attribute::Copyable(false), Attribute::AllowedMechanisms(vec![mechanism])];
        Template { required, optional }
    }

    /// The public half's attributes.
    pub(crate) fn public_template(id: KeyId) -> Template {
        let required = vec![
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC_EDWARDS),
            Attribute::Id(id.as_bytes().to_vec()),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(false),
            Attribute::Verify(true),
            Attribute::Wrap(false),
            Attribute::Derive(false),
        ];
        Template { required, optional: vec![Attribute::Copyable(false)] }
    }

    /// What the token itself says about a key's history; it cannot be asked for.
    pub(crate) fn history(self, origin: Origin) -> Vec<Attribute> {
        if origin != Origin::Generated {
            // A token cannot know where an unwrapped key was before, and SoftHSM does not even note its length: the
            // wrapped blob's length tells that.
            return Vec::new();
        }
        let mut history = vec![
            Attribute::Local(true),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(self != Self::Compartment),
        ];
        if self != Self::AuditSigning {
            history.push(Self::length());
        }
        history
    }

    pub(crate) fn length() -> Attribute {
        Attribute::ValueLen(Ulong::from(SECRET_LENGTH))
    }

    /// How the token generates a secret key of this class; `None` for a key pair.
    pub(crate) fn generation(self) -> Option<Mechanism<'static>> {
        match self {
            Self::AuditSigning => None,
            Self::Token => Some(Mechanism::GenericSecretKeyGen),
            Self::AtRest | Self::Compartment | Self::FpeFf1 | Self::KekWrapping | Self::UserKek => {
                Some(Mechanism::AesKeyGen)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [KeyClass; 7] = [
        KeyClass::AtRest,
        KeyClass::AuditSigning,
        KeyClass::Compartment,
        KeyClass::FpeFf1,
        KeyClass::KekWrapping,
        KeyClass::Token,
        KeyClass::UserKek,
    ];

    /// Clulow 2003: a key that wraps and decrypts gives any extractable key away in clear.
    #[test]
    fn no_class_both_wraps_and_decrypts() {
        for class in CLASSES {
            for origin in [Origin::Generated, Origin::Transit, Origin::Unwrapped] {
                let required = class.template(KeyId::from_random([0; 16]), origin).required;
                let wraps = required.contains(&Attribute::Wrap(true)) || required.contains(&Attribute::Unwrap(true));
                let data = required.contains(&Attribute::Decrypt(true)) || required.contains(&Attribute::Encrypt(true));
                assert!(!(wraps && data), "{class}");
            }
        }
    }

    #[test]
    fn only_a_stored_compartment_key_can_be_wrapped() {
        for class in CLASSES {
            let extractable = |origin| {
                class.template(KeyId::from_random([0; 16]), origin).required.contains(&Attribute::Extractable(true))
            };
            assert_eq!(extractable(Origin::Generated), class == KeyClass::Compartment, "{class}");
            assert!(!extractable(Origin::Unwrapped), "{class}");
        }
    }

    /// A user's key that can leave does nothing else: it neither wraps, unwraps nor touches data.
    #[test]
    fn a_user_key_in_transit_has_no_use() {
        for class in CLASSES {
            let required = class.template(KeyId::from_random([0; 16]), Origin::Transit).required;
            let leaves = required.contains(&Attribute::Extractable(true));
            assert_eq!(leaves, class == KeyClass::UserKek, "{class}");
            let uses = [
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Sign(true),
            ];
            assert!(!leaves || uses.iter().all(|usage| !required.contains(usage)), "{class}");
        }
    }
}
