//! The workbench: a login, a session of its own for each line, and every scratch object destroyed.

use std::collections::BTreeSet;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Finding;
use super::line::{Found, Line};
use super::template::LABEL;
use crate::driver::{Attr, Code, Driver, Value};
use crate::{HsmError, Module};

/// A login on one token.
pub(super) struct Bench {
    pub(super) driver: Driver,
    pub(super) slot: CK_SLOT_ID,
    /// The login ends with its last session, so this one stays open.
    anchor: CK_SESSION_HANDLE,
    pub(super) mechanisms: BTreeSet<CK_MECHANISM_TYPE>,
    pub(super) user_pin: Zeroizing<Vec<u8>>,
    /// There only on a scratch token.
    pub(super) so_pin: Option<Zeroizing<Vec<u8>>>,
}

impl Bench {
    /// Logs in as the token's user and destroys what an earlier probe may have left.
    pub(super) fn open(
        module: Arc<Module>,
        slot: CK_SLOT_ID,
        label: &str,
        user_pin: &[u8],
        so_pin: Option<&[u8]>,
    ) -> Result<Self, HsmError> {
        let driver = Driver::new(module);
        let mechanisms = driver.mechanisms(slot).map_err(|code| fault(Function::GetMechanismList, code))?;
        let anchor = driver.open_session(slot).map_err(|code| fault(Function::OpenSession, code))?;
        let bench = Self {
            driver,
            slot,
            anchor,
            mechanisms: mechanisms.into_iter().collect(),
            user_pin: Zeroizing::new(user_pin.to_vec()),
            so_pin: so_pin.map(|pin| Zeroizing::new(pin.to_vec())),
        };
        match bench.driver.login(anchor, CKU_USER, user_pin) {
            Ok(()) => bench.sweep()?,
            // Going on would accept any PIN at all.
            Err(Code(CKR_USER_ALREADY_LOGGED_IN | CKR_USER_ANOTHER_ALREADY_LOGGED_IN)) => {
                return Err(HsmError::AlreadyOpen { label: label.to_owned() });
            }
            Err(Code(CKR_FUNCTION_CANCELED | CKR_FUNCTION_REJECTED)) if user_pin.is_empty() => {
                return Err(HsmError::PadRefused { label: label.to_owned() });
            }
            Err(code) => return Err(fault(Function::Login, code)),
        }
        Ok(bench)
    }

    /// Whether lines may lock PINs and change logins.
    pub(super) fn scratch(&self) -> bool {
        self.so_pin.is_some()
    }

    /// Runs one line in a session of its own. Session objects end with it; token objects are swept.
    pub(super) fn line(
        &self,
        run: impl FnOnce(&mut Line<'_>) -> Found,
    ) -> Result<(Finding, String, Vec<String>), HsmError> {
        let session = self.driver.open_session(self.slot).map_err(|code| fault(Function::OpenSession, code))?;
        let mut line = Line::new(self, session);
        let (finding, detail) = run(&mut line).unwrap_or_else(|code| {
            (Finding::Unknown, format!("a call that has to work was answered with {code}, so nothing is known"))
        });
        let evidence = std::mem::take(&mut line.evidence);
        drop(line);
        self.sweep()?;
        Ok((finding, detail, evidence))
    }

    /// Checks that nothing is left and that the user's PIN is what it was.
    pub(super) fn finish(self) -> Result<(), HsmError> {
        self.sweep()?;
        if self.scratch() {
            self.driver.logout(self.anchor).map_err(|code| fault(Function::Logout, code))?;
            let login = self.driver.login(self.anchor, CKU_USER, &self.user_pin);
            login.map_err(|code| fault(Function::Login, code))?;
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), HsmError> {
        let template = [Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec()))];
        let find = || self.driver.find(self.anchor, &template).map_err(|code| fault(Function::FindObjects, code));
        for object in find()? {
            // What cannot be destroyed shows in the second search.
            let _ = self.driver.destroy(self.anchor, object);
        }
        if find()?.is_empty() {
            Ok(())
        } else {
            Err(HsmError::StrangeAnswer { action: "destroy the probe's scratch objects" })
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.driver.close_session(self.anchor);
    }
}

fn fault(function: Function, code: Code) -> HsmError {
    HsmError::from_code("probe the token", function, code)
}
