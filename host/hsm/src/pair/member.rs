//! One token of a pair: connected, or latched as down with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::manifest::VerifiedManifest;
use super::{PairMember, PairOptions, Role, references};
use crate::{Ff1, HsmError, Key, KeyId, KeyRef, Keyring, Login, Module};

/// A member and its state.
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) serial: String,
    source: PairMember,
    state: RwLock<State>,
}

enum State {
    Up(Arc<Live>),
    /// Why, in the error's words, which name no secret.
    Down(String),
}

/// A login, and the pair's keys as this login sees them: handles mean nothing in the next one.
pub(super) struct Live {
    pub(super) keyring: Arc<Keyring>,
    keys: RwLock<BTreeMap<KeyId, Arc<Key>>>,
    ff1: Mutex<BTreeMap<(KeyId, u32), Arc<Ff1>>>,
    /// Keys that this token alone holds.
    own: Mutex<BTreeMap<KeyId, Arc<Key>>>,
    /// Session objects of [`super::PairKey`]s.
    pub(super) unwrapped: Mutex<BTreeMap<u64, Arc<Key>>>,
}

impl Member {
    pub(super) fn new(role: Role, serial: &str, source: PairMember) -> Self {
        let state = RwLock::new(State::Down("not connected yet".to_owned()));
        Self { role, serial: serial.to_owned(), source, state }
    }

    /// The login, unless the member is latched.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Up(live) => Some(Arc::clone(live)),
            State::Down(_) => None,
        }
    }

    /// Why the member is down.
    pub(super) fn fault(&self) -> Option<String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Up(_) => None,
            State::Down(reason) => Some(reason.clone()),
        }
    }

    /// Takes the member out of use, if `live` is still its login; tells whether it was.
    pub(super) fn latch(&self, live: &Arc<Live>, error: &HsmError) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Up(current) if Arc::ptr_eq(current, live) => {
                tracing::error!(role = %self.role, token = %self.serial, %error, "a token of the pair is down");
                *state = State::Down(error.to_string());
                true
            }
            _ => false,
        }
    }

    /// Logs in anew and looks every key of the manifest up, but for those in `retired`, to which the token adds what it knows. The
    /// member is in use only if all of it succeeds.
    pub(super) fn connect(
        &self,
        manifest: &VerifiedManifest,
        retired: &RwLock<BTreeSet<KeyId>>,
        options: PairOptions,
    ) -> Result<(), HsmError> {
        let connected = self.try_connect(manifest, retired, options);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match connected {
            Ok(live) => {
                *state = State::Up(Arc::new(live));
                Ok(())
            }
            Err(error) => {
                *state = State::Down(error.to_string());
                Err(error)
            }
        }
    }

    fn try_connect(
        &self,
        manifest: &VerifiedManifest,
        retired: &RwLock<BTreeSet<KeyId>>,
        options: PairOptions,
    ) -> Result<Live, HsmError> {
        let pin = (self.source.pin)()?;
        let module = Module::load(&self.source.module)?;
        let login = Login { pin: pin.as_ref(), native_ff1: self.source.native_ff1 };
        let keyring = Keyring::open_with(module, &self.source.token_label, &login)?;
        if keyring.serial() != self.serial {
            return Err(HsmError::ManifestRejected { reason: "the token with this label is not the one it names" });
        }
        // A token that has served a newer list, or another of the same number, refuses this one.
        let mark = if options.marks { keyring.manifest_mark()? } else { None };
        // (Newer ones than the next are fine: this token may have been down for several.)
        if let Some(mark) = mark
            && manifest.manifest().sequence <= mark.sequence
        {
            manifest.follows(&mark)?;
        }
        let begun = if options.marks { keyring.retired()? } else { BTreeSet::new() };
        let keys: Vec<KeyRef> = {
            let mut retired = retired.write().unwrap_or_else(PoisonError::into_inner);
            retired.extend(begun);
            references(manifest).into_iter().filter(|key| !retired.contains(&key.id)).collect()
        };
        let live = Live {
            keyring,
            keys: RwLock::default(),
            ff1: Mutex::default(),
            own: Mutex::default(),
            unwrapped: Mutex::default(),
        };
        live.refresh(&keys)?;
        if options.writes {
            live.keyring.check_storage()?;
        }
        if options.marks && mark != Some(manifest.seen()) {
            live.keyring.set_manifest_mark(&manifest.seen())?;
            live.keyring.forget_retired(|id| manifest.lists(id))?;
        }
        Ok(live)
    }
}

impl Live {
    /// Looks up every key, with its check value.
    pub(super) fn refresh(&self, keys: &[KeyRef]) -> Result<(), HsmError> {
        let mut found = BTreeMap::new();
        for key in keys {
            found.insert(key.id, Arc::new(self.keyring.find(key)?));
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// The health check: real keys, and storage that takes a write. Open operations and random numbers outlive both.
    pub(super) fn check(&self, keys: &[KeyRef], writes: bool) -> Result<(), HsmError> {
        self.keyring.random(1)?;
        for key in keys {
            self.keyring.find(key)?;
        }
        if writes { self.keyring.check_storage() } else { Ok(()) }
    }

    pub(super) fn key(&self, id: KeyId) -> Option<Arc<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn ff1(&self, key: &KeyRef, radix: u32) -> Result<Arc<Ff1>, HsmError> {
        let mut made = self.ff1.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ff1) = made.get(&(key.id, radix)) {
            return Ok(Arc::clone(ff1));
        }
        let ff1 = Arc::new(Ff1::best(Arc::clone(&self.keyring), self.keyring.find(key)?, radix)?);
        made.insert((key.id, radix), Arc::clone(&ff1));
        Ok(ff1)
    }

    /// A key that this token alone holds, looked up once in a login.
    pub(super) fn own(&self, key: &KeyRef) -> Result<Arc<Key>, HsmError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = own.get(&key.id) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(self.keyring.find(key)?);
        own.insert(key.id, Arc::clone(&found));
        Ok(found)
    }

    /// Lets go of the handle of a key that this token alone holds.
    pub(super) fn forget(&self, id: KeyId) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Lets go of a key that is about to be destroyed.
    pub(super) fn release(&self, id: KeyId) {
        self.forget(id);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.ff1.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| *key != id);
    }
}
