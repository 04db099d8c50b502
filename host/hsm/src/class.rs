use std::fmt;

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::types::Ulong;
use serde::{Deserialize, Serialize};

use crate::KeyId;

pub(crate) mod nested;

use nested::Nested;

/// What a key is for. Each key has one purpose; the token is told so in its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyClass {
    /// ECDSA pair on P-256 with SHA-256 (FIPS 186-5): an approver's own token signs changes, where the token has no Ed25519.
    ApproverSigning,
    /// AES-256, GCM: seals the site's records at rest.
    AtRest,
    /// Ed25519 pair (RFC 8032): signs audit checkpoints.
    AuditSigning,
    /// AES-256, GCM: seals one compartment's secrets. The only stored class that may be wrapped (under a user's key).
    Compartment,
    /// RSA-3072 pair, OAEP (RFC 8017): a custodian's own token decrypts the shares given to that custodian.
    CustodianShares,
    /// Ed25519 pair (RFC 8032): a custodian's own token signs approvals and transcripts.
    CustodianSigning,
    /// AES-256, ECB, encrypt only: the block cipher of FF1 (SP 800-38G), and of nothing else.
    FpeFf1,
    /// AES-256, AES-KW (RFC 3394, SP 800-38F): wraps and unwraps users' key-encryption keys, and nothing else.
    KekWrapping,
    /// AES-256, ECB, encrypt only: the block cipher of FF3-1 (SP 800-38G r1, draft of 2019) under the reversed key. Legacy.
    FpeFf3,
    /// 32-byte generic secret, SP 800-108 in counter mode: derives role keys. Needs a token with that mechanism.
    RbacMaster,
    /// AES-256, AES-KW: the half of a synchronisation key that only unwraps, on the token keys are brought to.
    SyncKekDestination,
    /// AES-256, AES-KW: the half of a synchronisation key that only wraps, on the token keys come from.
    SyncKekSource,
    /// 32-byte generic secret, HMAC-SHA-256 (FIPS 198-1): keyed tokens for values whose domain is too small for FF1.
    Token,
    /// RSA-3072 pair, OAEP (RFC 8017): keys wrapped for this token under the public half open in it only.
    Transport,
    /// AES-256, AES-KW (RFC 3394, SP 800-38F): wraps and unwraps the compartment keys of one user.
    UserKek,
}

impl KeyClass {
    /// Every class.
    pub const ALL: &'static [Self] = &[
        Self::ApproverSigning,
        Self::AtRest,
        Self::AuditSigning,
        Self::Compartment,
        Self::CustodianShares,
        Self::CustodianSigning,
        Self::FpeFf1,
        Self::FpeFf3,
        Self::KekWrapping,
        Self::RbacMaster,
        Self::SyncKekDestination,
        Self::SyncKekSource,
        Self::Token,
        Self::Transport,
        Self::UserKek,
    ];

    /// Whether a key of this class can be made for two tokens (see [`crate::Keyring::birth`]).
    ///
    /// A pair belongs to one token. A compartment key has to stay extractable for its users' sakes, and no copy that comes in
    /// through a transport key may be.
    pub fn is_replicable(self) -> bool {
        self.generation().is_some_and(|generation| matches!(generation, Generation::Secret(_)))
            && self != Self::Compartment
    }
}

impl fmt::Display for KeyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApproverSigning => "approver-signing",
            Self::AtRest => "at-rest",
            Self::AuditSigning => "audit-signing",
            Self::Compartment => "compartment",
            Self::CustodianShares => "custodian-shares",
            Self::CustodianSigning => "custodian-signing",
            Self::FpeFf1 => "fpe-ff1",
            Self::KekWrapping => "kek-wrapping",
            Self::FpeFf3 => "fpe-ff3",
            Self::RbacMaster => "rbac-master",
            Self::SyncKekDestination => "sync-kek-destination",
            Self::SyncKekSource => "sync-kek-source",
            Self::Token => "token",
            Self::Transport => "transport",
            Self::UserKek => "user-kek",
        })
    }
}

/// Where a key's object in this token comes from, which decides what its attributes can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Generated as an extractable session object, to be wrapped for the tokens that will hold it. Never found again.
    Birth,
    /// Generated in this token, stored there.
    #[default]
    Generated,
    /// Brought in under a transport or synchronisation key and stored; it can never leave again.
    Replicated,
    /// A user's key-encryption key on its way under a wrapping key: a session object that does nothing but leave, wrapped.
    Transit,
    /// Unwrapped or derived into a session object that can never leave again and dies with its handle.
    Unwrapped,
}

impl Origin {
    /// For `skip_serializing_if`: files written before other origins existed stay as they are.
    pub(crate) fn is_generated(&self) -> bool {
        *self == Self::Generated
    }

    fn is_stored(self) -> bool {
        matches!(self, Self::Generated | Self::Replicated)
    }
}

/// How the token makes a key.
pub(crate) enum Generation {
    Ed25519,
    P256,
    Rsa,
    Secret(Mechanism<'static>),
}

/// Length in bytes of every secret key.
pub(crate) const SECRET_LENGTH: u64 = 32;

/// Length in bits of every RSA modulus: 128 bits of strength (SP 800-57 part 1 table 2).
pub(crate) const RSA_BITS: u64 = 3072;

/// 65,537, the only public exponent used.
pub(crate) const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// edwards25519 as an object identifier (RFC 8410), then as the printable name of PKCS#11 3.0 for modules that want it.
pub(crate) const EDWARDS25519: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"];

/// prime256v1 as an object identifier (RFC 5480 section 2.1.1.1).
pub(crate) const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

/// Attributes of one object: what the token must be told, and must then say of itself.
pub(crate) struct Template {
    /// Attributes every token has to store; compared at each look-up.
    pub(crate) required: Vec<Attribute>,
    /// Attributes some tokens do not know; compared where the token has them.
    pub(crate) optional: Vec<Attribute>,
    /// What the token itself enforces on keys that come and go through this one, where it can.
    pub(crate) nested: Vec<&'static Nested>,
}

impl Template {
    /// What to try at creation, from everything to the least a token must take.
    pub(crate) fn attempts(&self) -> Vec<Vec<Attribute>> {
        let optional: Vec<_> = self.required.iter().chain(&self.optional).cloned().collect();
        let mut attempts = Vec::with_capacity(3);
        if !self.nested.is_empty() {
            attempts
                .push(optional.iter().cloned().chain(self.nested.iter().map(|nested| nested.to_attribute())).collect());
        }
        attempts.push(optional);
        attempts.push(self.required.clone());
        attempts
    }
}

impl KeyClass {
    /// The secret key's, or the private key's, attributes.
    pub(crate) fn template(self, id: KeyId, origin: Origin) -> Template {
        let (class, key_type, mechanism) = match self {
            Self::AuditSigning | Self::CustodianSigning => {
                (ObjectClass::PRIVATE_KEY, KeyType::EC_EDWARDS, MechanismType::EDDSA)
            }
            Self::ApproverSigning => (ObjectClass::PRIVATE_KEY, KeyType::EC, MechanismType::ECDSA),
            Self::AtRest | Self::Compartment => (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_GCM),
            Self::CustodianShares | Self::Transport => {
                (ObjectClass::PRIVATE_KEY, KeyType::RSA, MechanismType::RSA_PKCS_OAEP)
            }
            Self::FpeFf1 | Self::FpeFf3 => (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_ECB),
            Self::RbacMaster => {
                (ObjectClass::SECRET_KEY, KeyType::GENERIC_SECRET, MechanismType::SP800_108_COUNTER_KDF)
            }
            Self::Token => (ObjectClass::SECRET_KEY, KeyType::GENERIC_SECRET, MechanismType::SHA256_HMAC),
            Self::KekWrapping | Self::SyncKekDestination | Self::SyncKekSource | Self::UserKek => {
                (ObjectClass::SECRET_KEY, KeyType::AES, MechanismType::AES_KEY_WRAP)
            }
        };
        let gcm = matches!(self, Self::AtRest | Self::Compartment);
        let both_ways = matches!(self, Self::KekWrapping | Self::UserKek) && origin != Origin::Transit;
        let leaves = match origin {
            Origin::Birth => true,
            Origin::Generated => self == Self::Compartment,
            Origin::Transit => self == Self::UserKek,
            Origin::Replicated | Origin::Unwrapped => false,
        };
        let mut required = vec![
            Attribute::Class(class),
            Attribute::KeyType(key_type),
            Attribute::Id(id.as_bytes().to_vec()),
            Attribute::Token(origin.is_stored()),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(leaves),
            Attribute::Modifiable(false),
            Attribute::Decrypt(gcm || self == Self::CustodianShares),
            Attribute::Sign(self.signs() || self == Self::Token),
            Attribute::Unwrap(both_ways || matches!(self, Self::SyncKekDestination | Self::Transport)),
            Attribute::Derive(self == Self::RbacMaster),
        ];
        // Halves of a key pair carry only the flags of their half (PKCS#11 3.1 sections 4.8 and 4.9).
        required.extend(if self.is_pair() {
            vec![Attribute::SignRecover(false)]
        } else {
            vec![
                Attribute::Encrypt(gcm || matches!(self, Self::FpeFf1 | Self::FpeFf3)),
                Attribute::Verify(false),
                Attribute::Wrap(both_ways || self == Self::SyncKekSource),
            ]
        });
        let mut optional = vec![Attribute::Copyable(false)];
        let mechanisms = Attribute::AllowedMechanisms(vec![mechanism]);
        // Some tokens hand a sensitive secret out in clear through their other derivations.
        if self == Self::RbacMaster {
            required.push(mechanisms)
        } else {
            optional.push(mechanisms)
        }
        let nested = match self {
            Self::RbacMaster => vec![&nested::DERIVED],
            Self::SyncKekDestination | Self::Transport => vec![&nested::ADMITTED],
            Self::SyncKekSource => vec![&nested::WRAPPED_AT_BIRTH],
            Self::UserKek if origin != Origin::Transit => vec![&nested::UNWRAPPED],
            _ => Vec::new(),
        };
        Template { required, optional, nested }
    }

    /// The public half's attributes.
    pub(crate) fn public_template(self, id: KeyId) -> Template {
        let key_type = match self {
            Self::CustodianShares | Self::Transport => KeyType::RSA,
            Self::ApproverSigning => KeyType::EC,
            _ => KeyType::EC_EDWARDS,
        };
        let required = vec![
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(key_type),
            Attribute::Id(id.as_bytes().to_vec()),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(self == Self::CustodianShares),
            Attribute::Verify(self.signs()),
            Attribute::VerifyRecover(false),
            Attribute::Wrap(self == Self::Transport),
            Attribute::Derive(false),
        ];
        Template { required, optional: vec![Attribute::Copyable(false)], nested: Vec::new() }
    }

    /// What the token itself says about a key's history; it cannot be asked for.
    pub(crate) fn history(self, origin: Origin) -> Vec<Attribute> {
        match origin {
            // A token cannot know where a key that came in was before, and SoftHSM does not even note its length: the wrapped
            // blob's length, or the check value of a key born here with the right length, tells that.
            Origin::Transit | Origin::Unwrapped => Vec::new(),
            Origin::Replicated => vec![Attribute::Local(false)],
            Origin::Birth | Origin::Generated => {
                let mut history = vec![
                    Attribute::Local(true),
                    Attribute::AlwaysSensitive(true),
                    Attribute::NeverExtractable(self != Self::Compartment && origin == Origin::Generated),
                ];
                if !self.is_pair() {
                    history.push(Self::length());
                }
                history
            }
        }
    }

    pub(crate) fn length() -> Attribute {
        Attribute::ValueLen(Ulong::from(SECRET_LENGTH))
    }

    pub(crate) fn is_pair(self) -> bool {
        self.signs() || matches!(self, Self::CustodianShares | Self::Transport)
    }

    fn signs(self) -> bool {
        matches!(self, Self::ApproverSigning | Self::AuditSigning | Self::CustodianSigning)
    }

    /// How the token makes a key of this class; `None` for the half that exists only as a copy of the other.
    pub(crate) fn generation(self) -> Option<Generation> {
        Some(match self {
            Self::ApproverSigning => Generation::P256,
            Self::AuditSigning | Self::CustodianSigning => Generation::Ed25519,
            Self::CustodianShares | Self::Transport => Generation::Rsa,
            Self::RbacMaster | Self::Token => Generation::Secret(Mechanism::GenericSecretKeyGen),
            Self::SyncKekDestination => return None,
            Self::AtRest
            | Self::Compartment
            | Self::FpeFf1
            | Self::FpeFf3
            | Self::KekWrapping
            | Self::SyncKekSource
            | Self::UserKek => Generation::Secret(Mechanism::AesKeyGen),
        })
    }

    /// The mechanism without which a token cannot hold this class, where tokens are known to lack it.
    pub(crate) fn needs(self) -> Option<MechanismType> {
        (self == Self::RbacMaster).then_some(MechanismType::SP800_108_COUNTER_KDF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINS: [Origin; 5] =
        [Origin::Birth, Origin::Generated, Origin::Replicated, Origin::Transit, Origin::Unwrapped];

    const ID: KeyId = KeyId::from_random([0; 16]);

    /// Clulow 2003: a key that wraps and decrypts gives any extractable key away in clear.
    #[test]
    fn no_class_both_wraps_and_decrypts() {
        for class in KeyClass::ALL {
            for origin in ORIGINS {
                let required = class.template(ID, origin).required;
                let wraps = required.contains(&Attribute::Wrap(true)) || required.contains(&Attribute::Unwrap(true));
                let data = required.contains(&Attribute::Decrypt(true)) || required.contains(&Attribute::Encrypt(true));
                assert!(!(wraps && data), "{class}");
            }
            // A pair is one key: neither half may add what the other must not have.
            let public = class.public_template(ID).required;
            let private = class.template(ID, Origin::Generated).required;
            assert!(
                !(public.contains(&Attribute::Wrap(true)) && private.contains(&Attribute::Decrypt(true))),
                "{class}"
            );
            assert!(
                !(public.contains(&Attribute::Encrypt(true)) && private.contains(&Attribute::Unwrap(true))),
                "{class}"
            );
        }
    }

    #[test]
    fn every_class_has_one_purpose() {
        for class in KeyClass::ALL {
            let required = class.template(ID, Origin::Generated).required;
            let purposes = [
                required.contains(&Attribute::Decrypt(true)) || required.contains(&Attribute::Encrypt(true)),
                required.contains(&Attribute::Sign(true)),
                required.contains(&Attribute::Wrap(true)) || required.contains(&Attribute::Unwrap(true)),
                required.contains(&Attribute::Derive(true)),
            ];
            assert_eq!(purposes.into_iter().filter(|purpose| *purpose).count(), 1, "{class}");
            assert!(!required.contains(&Attribute::Verify(true)), "{class}");
        }
    }

    /// Some tokens set every flag that a template does not name.
    #[test]
    fn no_usage_flag_is_left_to_the_token() {
        for class in KeyClass::ALL {
            let named = |template: Template| -> Vec<_> {
                template.required.iter().map(Attribute::attribute_type).map(|kind| kind.to_string()).collect()
            };
            let object = named(class.template(ID, Origin::Generated));
            for flag in ["DECRYPT", "SIGN", "UNWRAP", "DERIVE", "SENSITIVE", "EXTRACTABLE", "MODIFIABLE", "PRIVATE"] {
                assert!(object.contains(&format!("CKA_{flag}")), "{class}: {flag}");
            }
            let public = named(class.public_template(ID));
            for flag in ["ENCRYPT", "VERIFY", "VERIFY_RECOVER", "WRAP", "DERIVE", "MODIFIABLE"] {
                assert!(public.contains(&format!("CKA_{flag}")), "{class}: {flag}");
            }
        }
    }

    /// Wrap on one token, unwrap on the same with weaker attributes.
    #[test]
    fn a_synchronisation_key_goes_one_way() {
        let flags = |class: KeyClass| {
            let required = class.template(ID, Origin::Replicated).required;
            (required.contains(&Attribute::Wrap(true)), required.contains(&Attribute::Unwrap(true)))
        };
        assert_eq!(flags(KeyClass::SyncKekSource), (true, false));
        assert_eq!(flags(KeyClass::SyncKekDestination), (false, true));
    }

    #[test]
    fn only_a_stored_compartment_key_or_a_birth_can_be_wrapped() {
        for class in KeyClass::ALL {
            let extractable = |origin| class.template(ID, origin).required.contains(&Attribute::Extractable(true));
            assert_eq!(extractable(Origin::Generated), *class == KeyClass::Compartment, "{class}");
            assert!(!extractable(Origin::Unwrapped) && !extractable(Origin::Replicated), "{class}");
            assert!(class.template(ID, Origin::Birth).required.contains(&Attribute::Token(false)), "{class}");
        }
    }

    #[test]
    fn all_names_every_class_once() {
        let names: std::collections::BTreeSet<_> = KeyClass::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), KeyClass::ALL.len());
        for class in KeyClass::ALL {
            assert_eq!(serde_json::to_string(class).ok(), Some(format!("\"{class}\"")));
        }
    }

    /// A user's key that can leave does nothing else: it neither wraps, unwraps nor touches data.
    #[test]
    fn a_user_key_in_transit_has_no_use() {
        for class in KeyClass::ALL {
            let required = class.template(ID, Origin::Transit).required;
            let leaves = required.contains(&Attribute::Extractable(true));
            assert_eq!(leaves, *class == KeyClass::UserKek, "{class}");
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
