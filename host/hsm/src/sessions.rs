//! The login and its sessions. A `cryptoki` session is used by one thread at a time, so each operation borrows one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki_sys::CK_SESSION_HANDLE;

use crate::{HsmError, Login, Module, NativeFf1, Pin};

/// Sessions for operations. Software tokens serialise on locks, so more would gain nothing.
const POOL: usize = 4;

/// One login on one token.
pub(crate) struct Sessions {
    pub(crate) module: Arc<Module>,
    slot: Slot,
    /// The token's serial number.
    pub(crate) serial: String,
    /// Owns session objects and the login: both end when their last session closes, so this one stays open.
    anchor: Mutex<Session>,
    /// The token's own FF1, if it was named.
    pub(crate) native_ff1: Option<NativeFf1>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Session>,
    /// Sessions that exist, idle or lent.
    open: usize,
    draining: bool,
}

impl Sessions {
    /// Logs the user in. A token that takes its PIN by a way of its own gets none from here, so that no host has to know it.
    pub(crate) fn open(module: Arc<Module>, label: &str, login: &Login<'_>) -> Result<Arc<Self>, HsmError> {
        let fail = |source| HsmError::from_pkcs11("log in to the token", source);
        let (slot, info) = module.slot(label)?;
        match (info.protected_authentication_path, login.pin) {
            (true, Some(_)) => return Err(HsmError::PinUnwanted { label: label.to_owned() }),
            (false, None) => return Err(HsmError::PinMissing { label: label.to_owned() }),
            _ => {}
        }
        let anchor = module.context.open_rw_session(slot).map_err(fail)?;
        match anchor.login(UserType::User, login.pin.map(Pin::to_auth).as_ref()) {
            Ok(()) => {}
            // Going on would accept any PIN at all.
            Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn | RvError::UserAnotherAlreadyLoggedIn, _)) => {
                return Err(HsmError::AlreadyOpen { label: label.to_owned() });
            }
            // The token asked somebody, and they did not agree, or not enough of them.
            Err(Pkcs11Error::Pkcs11(RvError::FunctionCanceled | RvError::FunctionRejected, _))
                if login.pin.is_none() =>
            {
                return Err(HsmError::PadRefused { label: label.to_owned() });
            }
            Err(source) => return Err(fail(source)),
        }
        Ok(Arc::new(Self {
            module,
            slot,
            serial: info.serial,
            anchor: Mutex::new(anchor),
            native_ff1: login.native_ff1,
            pool: Mutex::default(),
            returned: Condvar::new(),
        }))
    }

    /// Runs `operation` on a session of the pool.
    pub(crate) fn with<T>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Session) -> Result<T, Pkcs11Error>,
    ) -> Result<T, HsmError> {
        let mut lent = self.lend(action)?;
        let result = match lent.session() {
            Some(session) => operation(session),
            None => Err(Pkcs11Error::InvalidValue),
        };
        result.map_err(|source| {
            lent.discard();
            HsmError::from_pkcs11(action, source)
        })
    }

    /// Runs `operation` on the session that owns session objects and may write to the token.
    pub(crate) fn with_anchor<T>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Session) -> Result<T, Pkcs11Error>,
    ) -> Result<T, HsmError> {
        let anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        operation(&anchor).map_err(|source| HsmError::from_pkcs11(action, source))
    }

    /// Borrows a session, waiting for one if all are lent.
    pub(crate) fn lend(&self, action: &'static str) -> Result<Lent<'_>, HsmError> {
        let mut pool = self.lock();
        loop {
            if !pool.draining {
                if let Some(session) = pool.idle.pop() {
                    return Ok(Lent { owner: self, session: Some(session) });
                }
                if pool.open < POOL {
                    pool.open += 1;
                    drop(pool);
                    // Built first: if opening fails, its drop gives the place in the pool back.
                    let mut lent = Lent { owner: self, session: None };
                    let opened = self.module.context.open_ro_session(self.slot);
                    lent.session = Some(opened.map_err(|source| HsmError::from_pkcs11(action, source))?);
                    return Ok(lent);
                }
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for running operations, closes every session of the pool, and lets none begin before `operation` is over. It gets
    /// the numbers of the closed sessions.
    ///
    /// Tokens go on encrypting in an operation that was open before its key was destroyed, so destruction closes first, and no
    /// operation may begin in between. `operation` must not borrow from the pool.
    pub(crate) fn alone<T>(
        &self,
        operation: impl FnOnce(&Session, &[CK_SESSION_HANDLE]) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let mut pool = self.lock();
        while pool.draining {
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.draining = true;
        let _ends = Draining(self);
        while pool.open > pool.idle.len() {
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        let closed: Vec<_> = pool.idle.drain(..).map(|session| session.handle()).collect();
        pool.open = 0;
        drop(pool);
        let anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        operation(&anchor, &closed)
    }

    /// A further session, outside the pool.
    pub(crate) fn open_extra(&self) -> Result<Session, Pkcs11Error> {
        self.module.context.open_ro_session(self.slot)
    }

    /// Whether the token lists a mechanism.
    pub(crate) fn has_mechanism(&self, mechanism: MechanismType) -> Result<bool, HsmError> {
        match self.module.context.get_mechanism_info(self.slot, mechanism) {
            Ok(_) => Ok(true),
            Err(Pkcs11Error::Pkcs11(RvError::MechanismInvalid, _)) => Ok(false),
            Err(source) => Err(HsmError::from_pkcs11("list the token's mechanisms", source)),
        }
    }

    /// Closes every session of this process with the token, as a token does that is unplugged.
    pub(crate) fn sever(&self) -> Result<(), HsmError> {
        let closed = self.module.raw.close_all_sessions(self.slot);
        closed.map_err(|source| HsmError::from_pkcs11("cut the token off", source))
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets sessions be borrowed again, however the exclusive operation ended.
struct Draining<'a>(&'a Sessions);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.lock().draining = false;
        self.0.returned.notify_all();
    }
}

/// A borrowed session, given back on drop.
pub(crate) struct Lent<'a> {
    owner: &'a Sessions,
    session: Option<Session>,
}

impl Lent<'_> {
    /// Closes the session instead of giving it back: after an error an operation may still be open in it.
    pub(crate) fn discard(&mut self) {
        self.session = None;
    }

    /// The session, unless it has been discarded.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.owner.lock();
        match self.session.take() {
            Some(session) => pool.idle.push(session),
            None => pool.open -= 1,
        }
        drop(pool);
        // A drain may wait besides borrowers, so all have to look.
        self.owner.returned.notify_all();
    }
}
