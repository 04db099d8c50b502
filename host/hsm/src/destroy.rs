//! Destruction, and the evidence that it happened.
//!
//! In a software token zeroisation is best effort: one unlinks a file, another deletes a row, both encrypted under the PIN.
//! Only a validated module gives zeroisation in the sense of FIPS 140-3.

use std::fmt;

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};

use crate::{HsmError, Key, KeyClass, KeyRef, Keyring};

const ACTION: &str = "destroy a key";

/// What was tried after a key was destroyed, and failed as it must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destruction {
    /// The key.
    pub key: KeyRef,
    /// Serial number of the token.
    pub token: String,
    /// Each attempt; all of them failed.
    pub proofs: Vec<Proof>,
}

impl Destruction {
    /// The attempts and the token's answers, on one line.
    pub fn summary(&self) -> String {
        let proofs: Vec<String> =
            self.proofs.iter().map(|proof| format!("{} ({})", proof.claim, proof.evidence)).collect();
        proofs.join(", ")
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// What it shows.
    pub claim: Claim,
    /// How the token answered.
    pub evidence: String,
}

/// What an attempt shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// A ciphertext that the key opened before no longer opens.
    CiphertextDead,
    /// The old handle leads nowhere.
    HandleInvalid,
    /// A search by `CKA_ID` finds nothing.
    NothingFound,
    /// An operation that was begun with the key before does not go on.
    StreamDead,
    /// The operation that gave the key's check value before is refused.
    UseRefused,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CiphertextDead => "old ciphertext does not open",
            Self::HandleInvalid => "old handle is invalid",
            Self::NothingFound => "a search finds nothing",
            Self::StreamDead => "an operation begun before is dead",
            Self::UseRefused => "use is refused",
        })
    }
}

impl Keyring {
    /// Destroys a key in the token, after every operation that could still use it has ended, and proves it.
    ///
    /// # Errors
    /// As the module answers; [`HsmError::DestructionUnproven`] when the token still shows the key afterwards.
    pub fn destroy(&self, key: Key) -> Result<Destruction, HsmError> {
        let handle = key.handle_for(&self.sessions, ACTION, &[key.class()])?;
        let (id, class) = (key.id(), key.class());
        let unproven = |proof| HsmError::DestructionUnproven { id, proof };

        // What works now has to fail later: without this, a failure later would show nothing. A key that does not work now is
        // destroyed all the same.
        let works = self.matches(class, handle, key.public.as_ref(), &key.reference.check).unwrap_or(false);
        let sealed = if gcm(class) && works { self.seal(&key, b"destruction", b"known text").ok() } else { None };

        self.forget(id);
        let (streams, handle_answer) = self.sessions.alone(|anchor, closed| {
            let fail = |source| HsmError::from_pkcs11(ACTION, source);
            let mut streams = closed.to_vec();
            // One stream is certainly this key's own.
            let stream = self.sessions.open_extra().map_err(fail)?;
            if begin(&stream, class, handle).is_ok_and(|begun| begun) {
                streams.push(stream.handle());
            }
            drop(stream);
            for object in anchor.find_objects(&[Attribute::Id(id.as_bytes().to_vec())]).map_err(fail)? {
                anchor.destroy_object(object).map_err(fail)?;
            }
            let raw = &self.sessions.module.raw;
            let streams: Vec<_> = streams.into_iter().map(|stream| raw.encrypt_in_session(stream)).collect();
            Ok((streams, anchor.get_attributes(handle, &[AttributeType::Class])))
        })?;

        let mut proofs = Vec::new();
        let refused = |answer: Result<(), String>, proof| match answer {
            Err(evidence) => Ok(evidence),
            Ok(()) => Err(unproven(proof)),
        };
        let evidence = refused(handle_answer.map(drop).map_err(|error| code(&error)), "its handle still answers")?;
        proofs.push(Proof { claim: Claim::HandleInvalid, evidence });

        // The token answers this, so the refusals around it are not those of a token that has gone.
        let left = self.objects(id)?.len();
        if left > 0 {
            return Err(unproven("a search still finds it"));
        }
        proofs.push(Proof { claim: Claim::NothingFound, evidence: "0 objects".to_owned() });

        for answer in streams {
            let evidence = refused(answer.map_err(|error| code(&error)), "an operation begun before still goes on")?;
            if !proofs.iter().any(|proof| proof.claim == Claim::StreamDead && proof.evidence == evidence) {
                proofs.push(Proof { claim: Claim::StreamDead, evidence });
            }
        }
        if works {
            let answer = self.matches(class, handle, key.public.as_ref(), &key.reference.check);
            let evidence = match answer {
                Ok(true) => return Err(unproven("it can still be used")),
                Ok(false) => "another key answers to the old handle".to_owned(),
                Err(error) => told(&error),
            };
            proofs.push(Proof { claim: Claim::UseRefused, evidence });
        }
        if let Some(sealed) = sealed {
            let opened = self.open_sealed(&key, b"destruction", &sealed).map(drop).map_err(|error| told(&error));
            let evidence = refused(opened, "an old ciphertext still opens")?;
            proofs.push(Proof { claim: Claim::CiphertextDead, evidence });
        }
        self.random(1)?;

        let mut key = key;
        // The object is gone; dropping the handle must not destroy whatever comes to bear its number.
        key.session_object = false;
        let token = self.serial().to_owned();
        Ok(Destruction { key: key.reference.clone(), token, proofs })
    }
}

/// Begins a multi-part operation with the key; `false` for classes that have none.
fn begin(session: &Session, class: KeyClass, handle: ObjectHandle) -> Result<bool, Pkcs11Error> {
    match class {
        KeyClass::FpeFf1 | KeyClass::FpeFf3 => session.encrypt_init(&Mechanism::AesEcb, handle)?,
        KeyClass::AtRest | KeyClass::Compartment => {
            let mut iv = *b"destruction.";
            session.encrypt_init(&Mechanism::AesGcm(GcmParams::new(&mut iv, &[], 128.into())?), handle)?;
        }
        KeyClass::Token => session.sign_init(&Mechanism::Sha256Hmac, handle)?,
        KeyClass::ApproverSigning => session.sign_init(&Mechanism::Ecdsa, handle)?,
        KeyClass::AuditSigning | KeyClass::CustodianSigning => {
            session.sign_init(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)), handle)?;
        }
        KeyClass::CustodianShares
        | KeyClass::KekWrapping
        | KeyClass::RbacMaster
        | KeyClass::SyncKekDestination
        | KeyClass::SyncKekSource
        | KeyClass::Transport
        | KeyClass::UserKek => return Ok(false),
    }
    Ok(true)
}

fn gcm(class: KeyClass) -> bool {
    matches!(class, KeyClass::AtRest | KeyClass::Compartment)
}

/// The module's answer, without the function's name.
fn code(error: &Pkcs11Error) -> String {
    match error {
        Pkcs11Error::Pkcs11(code, _) => format!("{code:?}"),
        other => other.to_string(),
    }
}

fn told(error: &HsmError) -> String {
    match error {
        HsmError::Device { source, .. } | HsmError::Refused { source, .. } | HsmError::TokenGone { source, .. } => {
            code(source)
        }
        other => other.to_string(),
    }
}
