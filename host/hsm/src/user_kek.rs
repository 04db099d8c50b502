//! Users' key-encryption keys as blobs under one key of the token, so that thousands of users leave no object in it.
//!
//! A user's key is generated in the token as a session object that can do nothing but leave, wrapped. It comes back as one
//! that wraps and unwraps and cannot leave. Destroying the wrapping key makes every blob under it, and every copy of one,
//! worthless.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use serde::{Deserialize, Serialize};

use crate::class::Origin;
use crate::keyring::with_fallback;
use crate::ops::WRAPPED_LENGTH;
use crate::{HsmError, Key, KeyClass, KeyRef, Keyring};

/// A user's key-encryption key outside the token: AES-KW (RFC 3394) under the site's wrapping key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKek {
    /// The key, by the identifier it was born with and its check value.
    pub key: KeyRef,
    /// 40 bytes.
    #[serde(with = "hex::serde")]
    pub blob: Vec<u8>,
}

impl Keyring {
    /// Makes a user's key-encryption key. Nothing of it stays in the token.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] unless `wrapping` is a [`KeyClass::KekWrapping`] key; [`HsmError::AttributeMismatch`], or as
    /// the module answers.
    pub fn generate_user_kek(&self, wrapping: &Key, label: &str) -> Result<WrappedKek, HsmError> {
        let action = "generate a user's key";
        wrapping.handle_for(&self.sessions, action, &[KeyClass::KekWrapping])?;
        let class = KeyClass::UserKek;
        let id = self.draw_id()?;
        let template = class.template(id, Origin::Transit);
        let handle = self.sessions.with_anchor(action, |session| {
            with_fallback(&template, &[KeyClass::length()], |attributes| {
                session.generate_key(&Mechanism::AesKeyGen, attributes)
            })
        })?;
        // Destroyed in the token at the end of this function, whatever happens.
        let newborn = self.session_key(handle, id, class, Origin::Transit)?;
        let blob = self.wrap_user_kek(wrapping, &newborn)?;
        drop(newborn);
        // The key has to come back from the blob before anything rests on it; only then does it have a check value.
        let handle = wrapping.handle_for(&self.sessions, action, &[KeyClass::KekWrapping])?;
        let usable = self.unwrap_session(handle, class, Origin::Unwrapped, &blob)?;
        let check = usable.reference.check.clone();
        let origin = Origin::Unwrapped;
        Ok(WrappedKek { key: KeyRef { id, class, check, label: label.to_owned(), origin }, blob })
    }

    /// Brings a user's key-encryption key back into the token, for as long as the returned [`Key`] lives.
    ///
    /// # Errors
    /// [`HsmError::WrapRejected`] for a changed byte or another wrapping key; [`HsmError::KeyCheckMismatch`] for another
    /// user's blob; [`HsmError::WrongClass`], or as the module answers.
    pub fn open_user_kek(&self, wrapping: &Key, kek: &WrappedKek) -> Result<Key, HsmError> {
        let class = KeyClass::UserKek;
        let handle = wrapping.handle_for(&self.sessions, "unwrap a user's key", &[KeyClass::KekWrapping])?;
        let key = self.unwrap_session(handle, class, Origin::Unwrapped, &kek.blob)?;
        if key.reference.check == kek.key.check { Ok(key) } else { Err(HsmError::KeyCheckMismatch { id: kek.key.id }) }
    }

    /// The same key-encryption key under another wrapping key. Needs no secret of the user's.
    ///
    /// # Errors
    /// As [`Keyring::open_user_kek`].
    pub fn rewrap_user_kek(&self, old: &Key, new: &Key, kek: &WrappedKek) -> Result<WrappedKek, HsmError> {
        let handle = old.handle_for(&self.sessions, "unwrap a user's key", &[KeyClass::KekWrapping])?;
        let moving = self.unwrap_session(handle, KeyClass::UserKek, Origin::Transit, &kek.blob)?;
        Ok(WrappedKek { key: kek.key.clone(), blob: self.wrap_user_kek(new, &moving)? })
    }

    /// How many key objects the token holds; a pair counts twice.
    ///
    /// # Errors
    /// As the module answers.
    pub fn key_count(&self) -> Result<usize, HsmError> {
        // One search for each class: some tokens show hundreds of objects that are no keys.
        [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY].into_iter().try_fold(
            0,
            |sum, class| {
                let found =
                    self.sessions.with("count keys", |session| session.find_objects(&[Attribute::Class(class)]))?;
                Ok(sum + found.len())
            },
        )
    }

    fn wrap_user_kek(&self, wrapping: &Key, kek: &Key) -> Result<Vec<u8>, HsmError> {
        let action = "wrap a user's key";
        let wrapping = wrapping.handle_for(&self.sessions, action, &[KeyClass::KekWrapping])?;
        let target = kek.handle_for(&self.sessions, action, &[KeyClass::UserKek])?;
        let blob =
            self.sessions.with_anchor(action, |session| session.wrap_key(&Mechanism::AesKeyWrap, wrapping, target))?;
        if blob.len() == WRAPPED_LENGTH { Ok(blob) } else { Err(HsmError::StrangeAnswer { action }) }
    }
}
