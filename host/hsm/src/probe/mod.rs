//! Finds out by doing what a token really enforces, on scratch objects, before it is trusted with keys.
//!
//! Attribute lists promise more than tokens keep: some hand out a key that "cannot" leave, some let a user mint trusted keys,
//! most go on encrypting after a key is destroyed. Each line of a [`Report`] is one such question with the calls that were
//! made and the token's answers. [`Report::judge`] says what that means under a profile; a token that leaks keys is refused
//! under each.
//!
//! Every object is a session object, but for one that has to survive a reset of the PIN; all are destroyed at the end of their
//! line, also after an error. Lines that lock a PIN or change a login run only where [`Access::Scratch`] permits it.

mod bench;
mod derive;
mod keys;
mod line;
mod lines;
mod logins;
mod mechanisms;
mod report;
mod roles;
mod template;

use std::sync::Arc;

use cryptoki::context::Function;

use self::bench::Bench;
use self::lines::{LINES, LISTED};
pub use self::report::{Finding, Fingerprint, Judged, Judgement, LineReport, Outcome, Report};
use crate::driver::{Code, Driver};
use crate::{HsmError, Module, Pin, TokenInfo};

/// What a probe may do to a token.
pub enum Access<'a> {
    /// A token in use: nothing is done that touches its logins or PINs.
    Live {
        /// The user's PIN; none for a token that takes it by a way of its own.
        pin: Option<&'a Pin>,
    },
    /// A token that holds nothing: PINs are locked and reset. At the end the user's PIN is what it was.
    Scratch {
        /// The user's PIN.
        pin: &'a Pin,
        /// The security officer's PIN; none for a token that knows no such officer once the user's PIN is set.
        so_pin: Option<&'a Pin>,
    },
}

/// Runs every line on the token with this label. `progress` is told each line's title before it runs.
///
/// # Errors
/// [`HsmError::AlreadyOpen`] when this process is logged in already, [`HsmError::PinIncorrect`], [`HsmError::PinUnwanted`],
/// [`HsmError::PinMissing`], [`HsmError::TokenMissing`],
/// [`HsmError::StrangeAnswer`] when a scratch object cannot be destroyed, or as the module answers. A failure within a line is
/// no error but its finding.
pub fn run(
    module: &Arc<Module>,
    label: &str,
    access: &Access<'_>,
    progress: &dyn Fn(&str),
) -> Result<Report, HsmError> {
    let (slot, token) = module.slot(label)?;
    let (pin, so_pin) = match access {
        Access::Live { pin } => (*pin, None),
        Access::Scratch { pin, so_pin } => {
            (Some(*pin), Some(so_pin.map_or(&[][..], |pin| pin.expose_secret().as_bytes())))
        }
    };
    match (token.protected_authentication_path, pin) {
        (true, Some(_)) => return Err(HsmError::PinUnwanted { label: label.to_owned() }),
        (false, None) => return Err(HsmError::PinMissing { label: label.to_owned() }),
        _ => {}
    }
    // An empty PIN asks the token to take it by its own way; no PIN is empty.
    let pin = pin.map_or(&[][..], |pin| pin.expose_secret().as_bytes());
    let bench = Bench::open(Arc::clone(module), slot.id(), label, pin, so_pin)?;
    let mut lines = Vec::new();
    for spec in LINES {
        progress(spec.title);
        let (finding, detail, evidence) = if spec.destructive && !bench.scratch() {
            let why =
                "it would lock the PIN or end the login of a token in use; probe a scratch token of the same make";
            (Finding::NotTried, why.to_owned(), Vec::new())
        } else {
            bench.line(spec.run)?
        };
        lines.push(LineReport { id: spec.id.to_owned(), title: spec.title.to_owned(), finding, detail, evidence });
    }
    lines.push(listed(&lines));
    let scratch = bench.scratch();
    bench.finish()?;
    Ok(Report { token, library: module.library()?, scratch, lines })
}

/// Mechanisms that are listed and fail: a list alone proves nothing.
fn listed(lines: &[LineReport]) -> LineReport {
    let failing: Vec<&str> = lines
        .iter()
        .filter(|line| line.id.starts_with("mechanism/") && !matches!(line.finding, Finding::Held | Finding::Absent))
        .map(|line| line.title.as_str())
        .collect();
    let (finding, detail) = if failing.is_empty() {
        (Finding::Held, "every listed mechanism that was tried works".to_owned())
    } else {
        (Finding::Broken, format!("listed and failing: {}", failing.join(", ")))
    };
    let title = "mechanisms that are listed and fail".to_owned();
    LineReport { id: LISTED.to_owned(), title, finding, detail, evidence: Vec::new() }
}

/// A token initialised for a probe, with random PINs that nobody keeps.
pub struct ScratchToken {
    /// What the token says of itself.
    pub token: TokenInfo,
    pin: Pin,
    so_pin: Option<Pin>,
}

impl ScratchToken {
    /// Initialises the first uninitialised token of the module. Point the module's configuration at storage of its own first,
    /// or give up a free slot: PKCS#11 cannot undo an initialisation.
    ///
    /// # Errors
    /// [`HsmError::NoFreeSlot`], or as the module answers.
    pub fn make(module: &Arc<Module>) -> Result<Self, HsmError> {
        let (pin, so_pin) = (Pin::random()?, Pin::random()?);
        // A label of its own: an earlier scratch token may still be there.
        let label = format!("casemate scratch {}", Pin::random()?.expose_secret().get(..8).unwrap_or_default());
        let (slot, _) = module.free_slot()?;
        let driver = Driver::new(Arc::clone(module));
        let fail = |code: Code| HsmError::from_code("initialise a scratch token", Function::InitToken, code);
        driver.init_token(slot.id(), so_pin.expose_secret().as_bytes(), &label).map_err(fail)?;
        // Some modules move the token to another slot; NSS leaves it where it is, under a name of its own.
        let slot = module.slot(&label).map_or(slot, |(slot, _)| slot);
        let session = driver.open_session(slot.id()).map_err(fail)?;
        let officer = driver.login(session, cryptoki_sys::CKU_SO, so_pin.expose_secret().as_bytes());
        // NSS knows a security officer, with an empty PIN, only until the user's PIN is set.
        let (so_pin, officer) = match officer {
            Ok(()) => (Some(so_pin), Ok(())),
            Err(_) => (None, driver.login(session, cryptoki_sys::CKU_SO, &[])),
        };
        let set = officer.and_then(|()| {
            driver.init_pin(session, pin.expose_secret().as_bytes())?;
            driver.logout(session)
        });
        let closed = driver.close_session(session);
        set.and(closed).map_err(fail)?;
        Ok(Self { token: module.token_in(slot)?, pin, so_pin })
    }

    /// Runs every line on it.
    ///
    /// # Errors
    /// As [`run`].
    pub fn probe(&self, module: &Arc<Module>, progress: &dyn Fn(&str)) -> Result<Report, HsmError> {
        let access = Access::Scratch { pin: &self.pin, so_pin: self.so_pin.as_ref() };
        run(module, &self.token.label, &access, progress)
    }
}
