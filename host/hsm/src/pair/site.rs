//! What a running site does with a pair besides using its keys: keys for both tokens, keys of one token, and what happened.

use std::sync::{Arc, PoisonError};

use zeroize::Zeroizing;

use super::member::{Live, Member};
use super::session_key::PairKek;
use super::{Pair, PairEvent, PairState, Role};
use crate::{Claim, Destruction, HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Proof, WrappedKek};

/// Makes a key in two tokens: it is born in the first, wrapped for each under that token's transport key, admitted in each, and the
/// birth object is destroyed. Whatever was admitted does not outlive an error, as far as the tokens answer.
///
/// # Errors
/// [`HsmError::NotReplicable`]; as [`Keyring::birth`], [`Keyring::wrap_for`] and [`Keyring::admit`].
pub fn replicate(
    rings: [&Keyring; 2],
    transports: [&Key; 2],
    class: KeyClass,
    label: &str,
) -> Result<KeyRef, HsmError> {
    replicate_announced(rings, transports, rings[0].draw_id()?, class, label)
}

/// As [`replicate`], under an identifier that was drawn and written down before ([`KeyRef::announced`]).
fn replicate_announced(
    rings: [&Keyring; 2],
    transports: [&Key; 2],
    id: KeyId,
    class: KeyClass,
    label: &str,
) -> Result<KeyRef, HsmError> {
    let [first, second] = rings;
    rings.into_iter().try_for_each(|ring| ring.require_unused(id))?;
    let birth = first.birth_announced(id, class, label)?;
    let reference = birth.reference();
    let admit = |ring: &Keyring, transport: &Key| {
        let package = first.wrap_for(&birth, &ring.transport_key(transport)?)?;
        ring.admit(transport, &package)
    };
    let [to_first, to_second] = transports;
    let made = admit(first, to_first).and_then(|_| admit(second, to_second));
    match made {
        Ok(_) => Ok(reference),
        Err(error) => {
            for ring in [first, second] {
                if let Ok(found) = ring.find(&reference) {
                    // The first error is the one to report.
                    drop(ring.destroy(found));
                }
            }
            Err(error)
        }
    }
}

impl Pair {
    /// As [`replicate`], in the pair's tokens, under an identifier that was drawn and written down before ([`KeyRef::announced`]). The next
    /// manifest has to list the key before it can be used.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`]; [`HsmError::KeyTwin`] when something answers to the identifier already; as [`replicate`].
    pub fn replicate(
        &self,
        transports: &[KeyRef; 2],
        id: KeyId,
        class: KeyClass,
        label: &str,
    ) -> Result<KeyRef, HsmError> {
        let [primary, backup] = self.both()?;
        let [to_primary, to_backup] = transports;
        let keys = [primary.own(to_primary)?, backup.own(to_backup)?];
        replicate_announced([&primary.keyring, &backup.keyring], [&keys[0], &keys[1]], id, class, label)
    }

    /// Destroys a key that the manifest in force no longer lists, in both tokens, and proves it in each; a token that has it no more
    /// says so.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`]; as [`Keyring::destroy`].
    pub fn destroy_unlisted(&self, key: &KeyRef) -> Result<[Destruction; 2], HsmError> {
        let destroy = |live: &Arc<Live>| {
            live.release(key.id);
            match live.keyring.find(key) {
                Ok(found) => live.keyring.destroy(found),
                Err(HsmError::KeyMissing { .. }) => Ok(Destruction {
                    key: key.clone(),
                    token: live.keyring.serial().to_owned(),
                    proofs: vec![Proof { claim: Claim::NothingFound, evidence: "0 objects".to_owned() }],
                }),
                Err(error) => Err(error),
            }
        };
        let [primary, backup] = self.both()?;
        Ok([destroy(&primary)?, destroy(&backup)?])
    }

    /// As [`Keyring::clear`], in both tokens. The manifest in force does not list the identifier.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`]; as [`Keyring::clear`].
    pub fn clear_unlisted(&self, id: KeyId) -> Result<usize, HsmError> {
        let clear = |live: &Arc<Live>| {
            live.release(id);
            live.keyring.clear(id)
        };
        let [primary, backup] = self.both()?;
        Ok(clear(&primary)? + clear(&backup)?)
    }

    /// Whether the manifest in force lists a key.
    pub fn lists(&self, key: KeyId) -> bool {
        self.inner.reference(key).is_ok()
    }

    /// Runs an operation with a key that one token alone holds. A token that fails is taken out of use, and nothing stands in for it.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while the token is down; as `operation`.
    pub fn at<T>(
        &self,
        role: Role,
        key: &KeyRef,
        operation: impl FnOnce(&Arc<Keyring>, &Key) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        self.on(role, |live| {
            // A handle that stopped working is looked up again next time.
            operation(&live.keyring, &*live.own(key)?).inspect_err(|_| live.forget(key.id))
        })
    }

    /// Destroys a key that one token alone holds.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while the token is down; as [`Keyring::destroy`].
    pub fn destroy_at(&self, role: Role, key: &KeyRef) -> Result<Destruction, HsmError> {
        self.on(role, |live| {
            live.release(key.id);
            live.keyring.destroy(live.keyring.find(key)?)
        })
    }

    /// Runs an operation on one token.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while the token is down; as `operation`.
    pub fn keyring_at<T>(
        &self,
        role: Role,
        operation: impl FnOnce(&Arc<Keyring>) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        self.on(role, |live| operation(&live.keyring))
    }

    /// Random bytes from the token that serves.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`Keyring::random`].
    pub fn random(&self, n: usize) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        for role in [Role::Primary, Role::Backup] {
            match self.keyring_at(role, |ring| ring.random(n)) {
                Err(HsmError::PairIncomplete { .. }) => {}
                Err(error) if error.is_outage() => {}
                outcome => return outcome,
            }
        }
        Err(HsmError::PairDown)
    }

    /// Makes a user's key-encryption key, as [`Keyring::generate_user_kek`]; it opens in either token.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`Keyring::generate_user_kek`].
    pub fn generate_user_kek(&self, wrapping: KeyId, label: &str) -> Result<WrappedKek, HsmError> {
        self.inner.run(wrapping, |live, key| live.keyring.generate_user_kek(&*live.wanted(key)?, label))
    }

    /// The same key-encryption key under another wrapping key of the pair.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], [`HsmError::NotInPair`], or as [`Keyring::rewrap_user_kek`].
    pub fn rewrap_user_kek(&self, old: KeyId, new: KeyId, kek: &WrappedKek) -> Result<WrappedKek, HsmError> {
        let new = self.inner.reference(new)?;
        self.inner.run(old, |live, old| live.keyring.rewrap_user_kek(&*live.wanted(old)?, &*live.wanted(&new)?, kek))
    }

    /// Wraps a compartment key, which the primary alone holds, under a user's key-encryption key.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while the primary is down; as [`Keyring::wrap`].
    pub fn wrap(&self, kek: &PairKek, target: &KeyRef) -> Result<Vec<u8>, HsmError> {
        self.on(Role::Primary, |live| {
            let kek = kek.in_token(live)?;
            live.keyring.wrap(&kek, &*live.own(target)?).inspect_err(|_| live.forget(target.id))
        })
    }

    /// Nothing, unless both tokens are down.
    ///
    /// # Errors
    /// [`HsmError::PairDown`].
    pub fn serves(&self) -> Result<(), HsmError> {
        if self.status().state == PairState::BothDown { Err(HsmError::PairDown) } else { Ok(()) }
    }

    /// Nothing, unless one of the tokens is down.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`].
    pub fn complete(&self) -> Result<(), HsmError> {
        self.both().map(drop)
    }

    /// What happened since the last call, oldest first.
    pub fn take_events(&self) -> Vec<PairEvent> {
        std::mem::take(&mut *self.inner.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn on<T>(&self, role: Role, operation: impl FnOnce(&Arc<Live>) -> Result<T, HsmError>) -> Result<T, HsmError> {
        let member = self.inner.member(role);
        let live = member.live().ok_or(HsmError::PairIncomplete { role })?;
        operation(&live).inspect_err(|error| {
            if error.is_outage() {
                self.inner.latch(member, &live, error);
            }
        })
    }

    fn both(&self) -> Result<[Arc<Live>; 2], HsmError> {
        let live = |member: &Member| member.live().ok_or(HsmError::PairIncomplete { role: member.role });
        let [primary, backup] = &self.inner.members;
        Ok([live(primary)?, live(backup)?])
    }
}
