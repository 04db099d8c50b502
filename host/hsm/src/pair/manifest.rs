//! The signed list of what both tokens of a pair hold.
//!
//! Each manifest names the one before by its hash, and has the next number. Both tokens keep a mark of the newest they have
//! served, so an older list is refused even by a host whose files were rolled back.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Origin};

/// Separates these signatures from all others of the same key.
const CONTEXT: &[u8] = b"casemate hsm pair manifest 1\n";

/// The list itself. Signed and hashed as JSON without blanks, in the order of these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// 1 for the first manifest of a pair, then one more each time.
    pub sequence: u64,
    /// SHA-256 of the manifest before; zeroes in the first.
    #[serde(with = "hex::serde")]
    pub previous: [u8; 32],
    /// Serial number of the primary token.
    pub primary: String,
    /// Serial number of the backup token.
    pub backup: String,
    /// Every key of the pair, by rising identifier.
    pub keys: Vec<ManifestKey>,
}

/// One key that both tokens hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ManifestKey {
    /// Its `CKA_ID` on both tokens.
    pub id: KeyId,
    /// What it is for.
    pub class: KeyClass,
    /// Which version of its purpose's key it is, from 1.
    pub version: u32,
    /// Its check value on both tokens.
    pub check: String,
    /// For people only.
    pub label: String,
}

impl ManifestKey {
    /// An admitted key, as [`Keyring::admit`] names it.
    pub fn new(key: &KeyRef, version: u32) -> Self {
        Self { id: key.id, class: key.class, version, check: key.check.clone(), label: key.label.clone() }
    }

    /// How the key is found in either token.
    pub fn reference(&self) -> KeyRef {
        KeyRef {
            id: self.id,
            class: self.class,
            check: self.check.clone(),
            label: self.label.clone(),
            origin: Origin::Replicated,
        }
    }
}

impl Manifest {
    /// The manifest after `previous`, or the first one of a pair.
    pub fn after(previous: Option<&VerifiedManifest>, primary: &str, backup: &str, mut keys: Vec<ManifestKey>) -> Self {
        keys.sort_by_key(|key| key.id);
        Self {
            sequence: previous.map_or(1, |previous| previous.manifest.sequence + 1),
            previous: previous.map_or([0; 32], |previous| previous.digest),
            primary: primary.to_owned(),
            backup: backup.to_owned(),
            keys,
        }
    }

    /// Signs the manifest.
    ///
    /// # Errors
    /// As the signer.
    pub fn sign(self, signer: &dyn ManifestSigner) -> Result<SignedManifest, HsmError> {
        let signature = signer.sign(&self.message())?;
        Ok(SignedManifest { manifest: self, signer: signer.public_key(), signature: signature.to_vec() })
    }

    fn message(&self) -> Vec<u8> {
        // A structure of strings and numbers always serialises.
        [CONTEXT, &serde_json::to_vec(self).unwrap_or_default()].concat()
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.message()).as_ref());
        hash
    }

    fn check_form(&self) -> Result<(), HsmError> {
        let reject = |reason| Err(HsmError::ManifestRejected { reason });
        if self.primary == self.backup {
            return reject("primary and backup are one token");
        }
        if self.sequence == 0 || (self.sequence == 1) != (self.previous == [0; 32]) {
            return reject("its number and its link to the one before contradict each other");
        }
        if self.keys.windows(2).any(|two| two[0].id >= two[1].id) {
            return reject("its keys are not in order, or one occurs twice");
        }
        if self.keys.iter().any(|key| !key.class.is_replicable() || key.class == KeyClass::SyncKekSource) {
            return reject("it lists a key that two tokens cannot share");
        }
        Ok(())
    }
}

/// Signs manifests: a custodian's token, or whoever the site trusts with its list of keys.
pub trait ManifestSigner {
    /// Ed25519 (RFC 8032).
    fn public_key(&self) -> [u8; 32];

    /// Signs with Ed25519.
    ///
    /// # Errors
    /// As the token.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], HsmError>;
}

/// A signing key in a token.
pub struct TokenSigner {
    keyring: Arc<Keyring>,
    key: Key,
    public: [u8; 32],
}

impl TokenSigner {
    /// Signs with a key of class `custodian-signing` or `audit-signing`.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], [`HsmError::ForeignKey`].
    pub fn new(keyring: Arc<Keyring>, key: Key) -> Result<Self, HsmError> {
        let public = keyring.public_key(&key)?;
        Ok(Self { keyring, key, public })
    }
}

impl ManifestSigner for TokenSigner {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], HsmError> {
        self.keyring.sign(&self.key, message)
    }
}

/// A manifest as it is stored: nothing about it has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignedManifest {
    /// The list.
    pub manifest: Manifest,
    /// The signer's Ed25519 public key.
    #[serde(with = "hex::serde")]
    pub signer: [u8; 32],
    /// The signature, 64 bytes.
    #[serde(with = "hex::serde")]
    pub signature: Vec<u8>,
}

/// How far a pair has come: what an older manifest is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The number of the newest manifest.
    pub sequence: u64,
    /// Its SHA-256.
    #[serde(with = "hex::serde")]
    pub digest: [u8; 32],
}

/// A manifest whose signature, form and place in the chain have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedManifest {
    manifest: Manifest,
    digest: [u8; 32],
}

impl SignedManifest {
    /// Checks who signed, what was signed, and that it is the manifest last seen or the one right after it.
    ///
    /// # Errors
    /// [`HsmError::ManifestRejected`] with the reason.
    pub fn verify(&self, trusted: &[[u8; 32]], last: Option<&Seen>) -> Result<VerifiedManifest, HsmError> {
        let reject = |reason| Err(HsmError::ManifestRejected { reason });
        if !trusted.contains(&self.signer) {
            return reject("it is signed by a key that is not trusted");
        }
        let verifier = UnparsedPublicKey::new(&ED25519, &self.signer);
        if verifier.verify(&self.manifest.message(), &self.signature).is_err() {
            return reject("its signature does not hold");
        }
        self.manifest.check_form()?;
        let verified = VerifiedManifest { digest: self.manifest.digest(), manifest: self.manifest.clone() };
        if let Some(last) = last {
            verified.follows(last)?;
        }
        Ok(verified)
    }
}

impl VerifiedManifest {
    /// The list.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the list has the key.
    pub(super) fn lists(&self, id: KeyId) -> bool {
        self.manifest.keys.iter().any(|key| key.id == id)
    }

    /// What the next manifest is measured by.
    pub fn seen(&self) -> Seen {
        Seen { sequence: self.manifest.sequence, digest: self.digest }
    }

    /// Refuses a manifest that is neither the last one seen nor its successor.
    pub(super) fn follows(&self, last: &Seen) -> Result<(), HsmError> {
        let reject = |reason| Err(HsmError::ManifestRejected { reason });
        let sequence = self.manifest.sequence;
        if self.seen() == *last {
            Ok(())
        } else if sequence < last.sequence {
            reject("its sequence number is lower than one already seen")
        } else if sequence == last.sequence {
            reject("another manifest with its sequence number has been seen")
        } else if sequence == last.sequence + 1 && self.manifest.previous == last.digest {
            Ok(())
        } else {
            reject("it does not follow the one before: a link of the chain is missing or forged")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    struct Software(Ed25519KeyPair);

    impl Software {
        fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
        }
    }

    impl ManifestSigner for Software {
        fn public_key(&self) -> [u8; 32] {
            self.0.public_key().as_ref().try_into().unwrap()
        }
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], HsmError> {
            Ok(self.0.sign(message).as_ref().try_into().unwrap())
        }
    }

    fn key(id: u8) -> ManifestKey {
        ManifestKey {
            id: KeyId::from_random([id; 16]),
            class: KeyClass::FpeFf1,
            version: 1,
            check: "00".repeat(8),
            label: String::new(),
        }
    }

    fn reason(result: Result<VerifiedManifest, HsmError>) -> &'static str {
        match result {
            Err(HsmError::ManifestRejected { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chain_goes_forward_only() {
        let signer = Software::new(1);
        let trusted = [signer.public_key()];
        let first = Manifest::after(None, "a", "b", vec![key(2), key(1)]).sign(&signer).unwrap();
        assert_eq!(first.manifest.keys[0].id, KeyId::from_random([1; 16]));
        let one = first.verify(&trusted, None).unwrap();
        let second = Manifest::after(Some(&one), "a", "b", vec![key(1)]).sign(&signer).unwrap();
        let two = second.verify(&trusted, Some(&one.seen())).unwrap();
        // Read again after a restart.
        second.verify(&trusted, Some(&two.seen())).unwrap();
        assert!(reason(first.verify(&trusted, Some(&two.seen()))).contains("lower"));

        let third = Manifest::after(Some(&two), "a", "b", vec![key(1)]).sign(&signer).unwrap();
        assert!(reason(third.verify(&trusted, Some(&one.seen()))).contains("chain"), "one was left out");
        let forged = Manifest { previous: [7; 32], ..third.manifest.clone() }.sign(&signer).unwrap();
        assert!(reason(forged.verify(&trusted, Some(&two.seen()))).contains("chain"));
        let fork = Manifest { keys: vec![key(9)], ..second.manifest.clone() }.sign(&signer).unwrap();
        assert!(reason(fork.verify(&trusted, Some(&two.seen()))).contains("another manifest"));
    }

    #[test]
    fn a_foreign_or_mangled_manifest_is_refused() {
        let (signer, mallory) = (Software::new(1), Software::new(2));
        let trusted = [signer.public_key()];
        let manifest = Manifest::after(None, "a", "b", vec![key(1)]);
        let foreign = manifest.clone().sign(&mallory).unwrap();
        assert!(reason(foreign.verify(&trusted, None)).contains("not trusted"));
        let dressed = SignedManifest { signer: signer.public_key(), ..foreign };
        assert!(reason(dressed.verify(&trusted, None)).contains("signature"));
        let good = manifest.sign(&signer).unwrap();
        for change in [
            |manifest: &mut Manifest| manifest.sequence = 2,
            |manifest: &mut Manifest| manifest.backup = "c".to_owned(),
            |manifest: &mut Manifest| manifest.keys[0].version = 2,
            |manifest: &mut Manifest| manifest.keys.clear(),
        ] {
            let mut changed = good.clone();
            change(&mut changed.manifest);
            assert!(reason(changed.verify(&trusted, None)).contains("signature"));
        }
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<SignedManifest>(&text).unwrap(), good);
    }

    #[test]
    fn a_manifest_that_says_nonsense_is_refused_although_signed() {
        let signer = Software::new(1);
        let trusted = [signer.public_key()];
        let good = Manifest::after(None, "a", "b", vec![key(1), key(2)]);
        let refused = |manifest: Manifest| reason(manifest.sign(&signer).unwrap().verify(&trusted, None));
        assert!(refused(Manifest { backup: "a".to_owned(), ..good.clone() }).contains("one token"));
        assert!(refused(Manifest { keys: vec![key(2), key(1)], ..good.clone() }).contains("order"));
        assert!(refused(Manifest { keys: vec![key(1), key(1)], ..good.clone() }).contains("twice"));
        assert!(refused(Manifest { sequence: 5, ..good.clone() }).contains("contradict"));
        let pair = ManifestKey { class: KeyClass::AuditSigning, ..key(1) };
        assert!(refused(Manifest { keys: vec![pair], ..good }).contains("share"));
    }
}
