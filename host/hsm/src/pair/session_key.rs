use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use zeroize::Zeroizing;

use super::member::{Live, Member};
use super::{Inner, Pair};
use crate::{HsmError, Key, KeyId, KeyRef};

/// A compartment key unwrapped under a user's key of the pair: it is unwrapped again in whichever token serves, and gone from
/// both when this is dropped.
pub struct PairKey {
    pair: Arc<Inner>,
    number: u64,
    kek: KeyId,
    original: KeyRef,
    blob: Vec<u8>,
}

impl Pair {
    /// Unwraps a compartment key and checks that it is the one the site recorded.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::unwrap_known`].
    pub fn unwrap_known(&self, kek: KeyId, original: &KeyRef, blob: &[u8]) -> Result<PairKey, HsmError> {
        let key = PairKey {
            pair: Arc::clone(&self.inner),
            number: self.inner.unwrapped.fetch_add(1, Ordering::Relaxed),
            kek,
            original: original.clone(),
            blob: blob.to_vec(),
        };
        key.run(|_, _| Ok(()))?;
        Ok(key)
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
        self.run(|live, key| live.keyring.seal(key, aad, plaintext))
    }

    /// Opens what was sealed under the same key, in whichever token.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::open_sealed`].
    pub fn open_sealed(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.run(|live, key| live.keyring.open_sealed(key, aad, sealed))
    }

    fn run<T>(&self, operation: impl Fn(&Live, &Key) -> Result<T, HsmError>) -> Result<T, HsmError> {
        self.pair.run(self.kek, |live, kek| {
            let known = live.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).get(&self.number).cloned();
            let key = match known {
                Some(key) => key,
                None => {
                    let kek = live.wanted(kek)?;
                    let key = Arc::new(live.keyring.unwrap_known(&kek, &self.original, &self.blob)?);
                    let mut unwrapped = live.unwrapped.lock().unwrap_or_else(PoisonError::into_inner);
                    unwrapped.insert(self.number, Arc::clone(&key));
                    key
                }
            };
            operation(live, &key)
        })
    }
}

impl Drop for PairKey {
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
