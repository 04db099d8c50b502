//! The tokens of a ceremony at hand: found by serial number, opened for one step at a time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use casemate_custody::{Custodian, HsmToken, QuorumBackend, Roster};
use casemate_hsm::probe::{self, Access, Report};
use casemate_hsm::{HsmError, Keyring, Login, Module, Pin, TokenInfo};
use casemate_types::UserName;

use crate::{Bindings, CeremonyError, LoginBy, Plan, lease};

/// Where PINs come from: whose, and the file that the bindings name.
pub type PinSource<'a> = dyn Fn(&str, Option<&Path>) -> Result<Pin, CeremonyError> + 'a;

/// Tokens, custodians and PINs of one ceremony.
pub struct Desk<'a> {
    pub(crate) bindings: &'a Bindings,
    pub(crate) roster: &'a Roster,
    modules: BTreeMap<&'a str, Arc<Module>>,
    pins: &'a PinSource<'a>,
    /// Each PIN is asked for once. Those that were split are here while the token is open.
    pub(crate) known: RefCell<BTreeMap<String, Rc<Pin>>>,
}

impl<'a> Desk<'a> {
    /// Loads the modules. `embedded` is where the embedded software token is.
    ///
    /// # Errors
    /// [`CeremonyError::Bindings`] when a role is not bound or a bound custodian is not on the roster;
    /// [`CeremonyError::TooFewCustodians`]; as [`Module::load`].
    pub fn open(
        bindings: &'a Bindings,
        roster: &'a Roster,
        plan: &Plan,
        embedded: Option<&Path>,
        pins: &'a PinSource<'a>,
    ) -> Result<Self, CeremonyError> {
        if let Some((role, _)) = plan.roles().find(|(role, _)| !bindings.tokens.contains_key(*role)) {
            return Err(CeremonyError::bindings(format!("the plan's token `{role}` is not bound")));
        }
        for name in bindings.custodians.keys() {
            roster.custodian(name)?;
        }
        let (found, wanted) = (bindings.custodians.len(), roster.threshold());
        if found < wanted {
            return Err(CeremonyError::TooFewCustodians { found, wanted });
        }
        let mut modules = BTreeMap::new();
        for (name, module) in &bindings.modules {
            let path = match embedded {
                Some(embedded) if module.path == Path::new("embedded") => embedded,
                _ => &module.path,
            };
            modules.insert(name.as_str(), Module::load(path)?);
        }
        Ok(Self { bindings, roster, modules, pins, known: RefCell::default() })
    }

    /// The libraries in use, by name.
    pub fn libraries(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.modules.iter().map(|(name, module)| (*name, module.path().to_owned()))
    }

    /// The token that plays a role.
    ///
    /// # Errors
    /// [`CeremonyError::SerialMissing`], [`CeremonyError::Bindings`], or as the module answers.
    pub fn token(&self, role: &str) -> Result<TokenInfo, CeremonyError> {
        Ok(self.place(role)?.1)
    }

    /// By what means two people are needed on the tokens of this ceremony: the weakest counts.
    ///
    /// # Errors
    /// As [`Desk::token`] and [`QuorumBackend::of`].
    pub fn tier(&self) -> Result<QuorumBackend, CeremonyError> {
        let mut tier = QuorumBackend::Vendor;
        for (role, binding) in &self.bindings.tokens {
            let token = self.token(role)?;
            tier = tier.min(QuorumBackend::of(&token, self.bindings.vendor_quorum, lease::is_split(binding, &token)?)?);
        }
        Ok(tier)
    }

    /// Logs in. The login ends when everything from it is dropped.
    pub(crate) fn keyring(&self, role: &str) -> Result<Arc<Keyring>, CeremonyError> {
        let (module, token) = self.place(role)?;
        let pin = self.pin(role, &token)?;
        let login = Login { pin: pin.as_deref(), native_ff1: None };
        let ring = Keyring::open_with(module, &token.label, &login)?;
        if ring.serial() == token.serial { Ok(ring) } else { Err(self.missing(role)) }
    }

    /// Runs the probe on a token in use.
    pub(crate) fn probe(&self, role: &str) -> Result<Report, CeremonyError> {
        let (module, token) = self.place(role)?;
        let pin = self.pin(role, &token)?;
        Ok(probe::run(&module, &token.label, &Access::Live { pin: pin.as_deref() }, &|_| {})?)
    }

    /// The custodians who are here.
    pub(crate) fn custodians(&self) -> impl Iterator<Item = &UserName> {
        self.bindings.custodians.keys()
    }

    /// Logs in to a custodian's own token, by the serial number on the roster.
    pub(crate) fn custodian(&self, name: &UserName) -> Result<(&'a Custodian, HsmToken), CeremonyError> {
        let custodian = self.roster.custodian(name)?;
        let not_bound = || CeremonyError::bindings(format!("custodian `{name}` is not bound"));
        let binding = self.bindings.custodians.get(name).ok_or_else(not_bound)?;
        let module = self.modules.get(binding.module.as_str()).ok_or_else(not_bound)?;
        let serial = custodian.token_serial.clone();
        let found =
            module.tokens()?.into_iter().find(|token| token.initialised && same(&token.serial, serial.as_str()));
        let missing = || CeremonyError::SerialMissing { role: name.to_string(), serial };
        let token = found.ok_or_else(missing)?;
        let pin = self.ask(&format!("custodian {name}"), binding.pin_file.as_deref(), &token)?;
        let token = HsmToken::open_with(Arc::clone(module), &token.label, pin.as_deref())?;
        token.check_holder(custodian)?;
        Ok((custodian, token))
    }

    pub(crate) fn place(&self, role: &str) -> Result<(Arc<Module>, TokenInfo), CeremonyError> {
        let not_bound = || CeremonyError::bindings(format!("token `{role}` is not bound"));
        let binding = self.bindings.tokens.get(role).ok_or_else(not_bound)?;
        let module = self.modules.get(binding.module.as_str()).ok_or_else(not_bound)?;
        let serial = binding.serial.as_str();
        let found = module.tokens()?.into_iter().find(|token| token.initialised && same(&token.serial, serial));
        Ok((Arc::clone(module), found.ok_or_else(|| self.missing(role))?))
    }

    /// Whether the PINs of `token ROLE` are split.
    fn is_split(&self, of: &str) -> bool {
        let binding = of.strip_prefix("token ").and_then(|role| self.bindings.tokens.get(role));
        binding.is_some_and(|binding| binding.custody.is_some())
    }

    fn missing(&self, role: &str) -> CeremonyError {
        match self.bindings.tokens.get(role) {
            Some(binding) => CeremonyError::SerialMissing { role: role.to_owned(), serial: binding.serial.clone() },
            None => CeremonyError::bindings(format!("token `{role}` is not bound")),
        }
    }

    /// By whose leave a token is logged in to.
    pub(crate) fn login_by(&self, role: &str, token: &TokenInfo) -> Result<LoginBy, CeremonyError> {
        let binding = self.bindings.tokens.get(role).ok_or_else(|| self.missing(role))?;
        Ok(match (token.protected_authentication_path, self.bindings.vendor_quorum) {
            (true, true) => LoginBy::VendorQuorum,
            (true, false) => LoginBy::Pad,
            (false, _) if binding.custody.is_some() => LoginBy::SplitPins,
            (false, _) => LoginBy::HostPin,
        })
    }

    fn pin(&self, role: &str, token: &TokenInfo) -> Result<Option<Rc<Pin>>, CeremonyError> {
        let file = self.bindings.tokens.get(role).and_then(|binding| binding.pin_file.as_deref());
        self.ask(&format!("token {role}"), file, token)
    }

    /// Nothing for a token that takes its PIN by a way of its own; a file for one is refused.
    fn ask(&self, of: &str, file: Option<&Path>, token: &TokenInfo) -> Result<Option<Rc<Pin>>, CeremonyError> {
        if token.protected_authentication_path {
            return match file {
                None => Ok(None),
                Some(_) => Err(HsmError::PinUnwanted { label: token.label.clone() }.into()),
            };
        }
        if let Some(pin) = self.known.borrow().get(of) {
            return Ok(Some(Rc::clone(pin)));
        }
        if self.is_split(of) {
            return Err(CeremonyError::bindings(format!("the PINs of {of} are split, and it is not open")));
        }
        let pin = Rc::new((self.pins)(of, file)?);
        self.known.borrow_mut().insert(of.to_owned(), Rc::clone(&pin));
        Ok(Some(pin))
    }
}

/// Makers print serial numbers in either case.
fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}
