use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use zeroize::Zeroizing;

use super::member::{Live, Member};
use super::{Inner, Pair};
use crate::{HsmError, Key, KeyId, KeyRef, WrappedKek};

/// A compartment key unwrapped under a user's key: it is unwrapped again in whichever token serves, and gone from both when this is
/// dropped.
pub struct PairKey {
    object: SessionObject,
    original: KeyRef,
}

/// A user's key-encryption key, opened under a wrapping key of the pair in whichever token serves.
pub struct PairKek {
    object: Arc<SessionObject>,
    kek: WrappedKek,
}

/// A session object that can be made again in each token, and its number there.
struct SessionObject {
    pair: Arc<Inner>,
    number: u64,
    /// The pair's key at the root of the way to it.
    root: KeyId,
    source: Source,
}

enum Source {
    /// Wrapped under a stored user's key.
    Stored { original: KeyRef, blob: Vec<u8> },
    /// A user's key-encryption key under the wrapping key.
    Kek(WrappedKek),
    /// Wrapped under another session object.
    Under { kek: Arc<SessionObject>, original: KeyRef, blob: Vec<u8> },
}

impl Pair {
    /// Unwraps a compartment key under a stored user's key and checks that it is the one the site recorded.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::unwrap_known`].
    pub fn unwrap_known(&self, kek: KeyId, original: &KeyRef, blob: &[u8]) -> Result<PairKey, HsmError> {
        let source = Source::Stored { original: original.clone(), blob: blob.to_vec() };
        let object = SessionObject::new(&self.inner, kek, source);
        object.run(|_, _| Ok(()))?;
        Ok(PairKey { object, original: original.clone() })
    }

    /// Brings a user's key-encryption key back, as [`crate::Keyring::open_user_kek`].
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::open_user_kek`].
    pub fn open_user_kek(&self, wrapping: KeyId, kek: &WrappedKek) -> Result<PairKek, HsmError> {
        let object = Arc::new(SessionObject::new(&self.inner, wrapping, Source::Kek(kek.clone())));
        object.run(|_, _| Ok(()))?;
        Ok(PairKek { object, kek: kek.clone() })
    }
}

impl PairKek {
    /// What the site recorded of the key.
    pub fn reference(&self) -> &KeyRef {
        &self.kek.key
    }

    /// Unwraps a compartment key and checks that it is the one the site recorded.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::unwrap_known`].
    pub fn unwrap_known(&self, original: &KeyRef, blob: &[u8]) -> Result<PairKey, HsmError> {
        let kek = Arc::clone(&self.object);
        let (pair, root) = (Arc::clone(&kek.pair), kek.root);
        let source = Source::Under { kek, original: original.clone(), blob: blob.to_vec() };
        let object = SessionObject::new(&pair, root, source);
        object.run(|_, _| Ok(()))?;
        Ok(PairKey { object, original: original.clone() })
    }

    /// Runs an operation with the key in the token of `live`.
    pub(super) fn in_token(&self, live: &Live) -> Result<Arc<Key>, HsmError> {
        let root = self.object.pair.reference(self.object.root)?;
        self.object.in_token(live, &root)
    }
}

impl PairKey {
    /// What the site recorded of the key.
    pub fn reference(&self) -> &KeyRef {
        &self.original
    }

    /// Seals with AES-256-GCM.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::seal`].
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, HsmError> {
        self.object.run(|live, key| live.keyring.seal(key, aad, plaintext))
    }

    /// Opens what was sealed under the same key, in whichever token.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::open_sealed`].
    pub fn open_sealed(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.object.run(|live, key| live.keyring.open_sealed(key, aad, sealed))
    }
}

impl SessionObject {
    fn new(pair: &Arc<Inner>, root: KeyId, source: Source) -> Self {
        let number = pair.unwrapped.fetch_add(1, Ordering::Relaxed);
        Self { pair: Arc::clone(pair), number, root, source }
    }

    fn run<T>(&self, operation: impl Fn(&Live, &Key) -> Result<T, HsmError>) -> Result<T, HsmError> {
        self.pair.run(self.root, |live, root| operation(live, &*self.in_token(live, root)?))
    }

    fn in_token(&self, live: &Live, root: &KeyRef) -> Result<Arc<Key>, HsmError> {
        let known = live.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).get(&self.number).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = match &self.source {
            Source::Stored { original, blob } => live.keyring.unwrap_known(&*live.wanted(root)?, original, blob)?,
            Source::Kek(kek) => live.keyring.open_user_kek(&*live.wanted(root)?, kek)?,
            Source::Under { kek, original, blob } => {
                live.keyring.unwrap_known(&*kek.in_token(live, root)?, original, blob)?
            }
        };
        let key = Arc::new(key);
        live.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, Arc::clone(&key));
        Ok(key)
    }
}

impl Drop for SessionObject {
    fn drop(&mut self) {
        for live in self.pair.members.iter().filter_map(Member::live) {
            let key = live.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
            drop(key);
        }
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairKey").field("original", &self.original.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for PairKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairKek").field("kek", &self.kek.key.id).finish_non_exhaustive()
    }
}
