use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use serde::{Deserialize, Serialize};

use crate::raw::RawFunctions;
use crate::{HsmError, Pin};

/// Which PKCS#11 module a site uses, and the environment it wants.
///
/// A module reads its environment when it is first loaded, and changing the environment is only safe while the process has
/// one thread: the program sets it first thing in `main`, before [`Module::load`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// The shared library.
    pub module: PathBuf,
    /// Variables the library reads, such as `KRYOPTIC_CONF` or `SOFTHSM2_CONF`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// What a token says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TokenInfo {
    /// The label given at initialisation.
    pub label: String,
    /// Who made the token.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// The serial number: unlike the label, not chosen by the operator.
    pub serial: String,
    /// The firmware version, `major.minor`.
    pub firmware: String,
    /// Whether the token has been initialised.
    pub initialised: bool,
    /// Whether the user PIN has been set.
    pub user_pin_set: bool,
    /// Whether the user PIN is locked.
    pub user_pin_locked: bool,
    /// Whether the token takes its PIN by a way of its own (a keypad, cards), `CKF_PROTECTED_AUTHENTICATION_PATH`.
    #[serde(default)]
    pub protected_authentication_path: bool,
}

/// A loaded PKCS#11 library.
pub struct Module {
    path: PathBuf,
    pub(crate) context: Pkcs11,
    pub(crate) raw: RawFunctions,
    /// A module may go on pointing at its parameters.
    _parameters: Option<CString>,
}

/// PKCS#11 5.4: one `C_Initialize` per process and library. Loaded modules therefore stay for the life of the process.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    /// Loads and initialises a library; loading the same one again gives the same module.
    ///
    /// # Errors
    /// [`HsmError::ModuleUnusable`] when the library is missing, is not a PKCS#11 module or refuses its configuration.
    pub fn load(path: &Path) -> Result<Arc<Self>, HsmError> {
        Self::load_with(path, None)
    }

    /// As [`Module::load`], with the parameter string that some modules want at initialisation, such as `configDir=...` of
    /// NSS. A module that is loaded already keeps the parameters it has.
    ///
    /// # Errors
    /// As [`Module::load`]; [`HsmError::Parameters`] for a string that C cannot hold.
    pub fn load_with(path: &Path, parameters: Option<&str>) -> Result<Arc<Self>, HsmError> {
        let parameters = parameters.map(CString::new).transpose().map_err(|_| HsmError::Parameters)?;
        let unusable = |source| HsmError::ModuleUnusable { path: path.to_owned(), source };
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&name) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&name).map_err(unusable)?;
        let raw = RawFunctions::load(&name).map_err(unusable)?;
        let initialised = match &parameters {
            None => context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)),
            Some(parameters) => raw.initialise(parameters),
        };
        match initialised {
            // Another part of the process has initialised it: the library is usable, which is all we need.
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(source) => return Err(unusable(source)),
        }
        let module = Arc::new(Self { path: name.clone(), context, raw, _parameters: parameters });
        loaded.insert(name, Arc::clone(&module));
        Ok(module)
    }

    /// The library's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the library says of itself: maker, description and version.
    ///
    /// # Errors
    /// As the module answers.
    pub fn library(&self) -> Result<String, HsmError> {
        let fail = |source| HsmError::from_pkcs11("ask the module for its name", source);
        let info = self.context.get_library_info().map_err(fail)?;
        let version = info.library_version();
        let words = [info.manufacturer_id().trim_end(), info.library_description().trim_end()].join(" ");
        Ok(format!("{} {}.{}", words.trim(), version.major(), version.minor()))
    }

    /// The one initialised token with this label.
    ///
    /// # Errors
    /// [`HsmError::TokenMissing`], [`HsmError::TokenTwin`], or as the module answers.
    pub fn token(&self, label: &str) -> Result<TokenInfo, HsmError> {
        Ok(self.slot(label)?.1)
    }

    /// Every token in the module's slots, initialised or not.
    ///
    /// # Errors
    /// As the module answers.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, HsmError> {
        Ok(self.slots()?.into_iter().map(|(_, info)| info).collect())
    }

    /// Initialises the first uninitialised token: sets its label, the security officer's PIN and the user's PIN.
    ///
    /// Whoever holds the security officer's PIN can reset the user's, so both belong under dual control.
    ///
    /// # Errors
    /// As [`Module::initialise_this`].
    pub fn initialise(&self, label: &str, so_pin: &Pin, user_pin: &Pin) -> Result<TokenInfo, HsmError> {
        self.initialise_this(None, label, so_pin, user_pin)
    }

    /// Refuses what [`Module::initialise`] would refuse of `labels`, one for each token that is to be initialised. Changes nothing.
    ///
    /// # Errors
    /// [`HsmError::NoFreeSlot`], [`HsmError::TokenTwin`] when a label is taken, [`HsmError::Label`], [`HsmError::PinUnwanted`].
    pub fn check_blank(&self, labels: &[&str]) -> Result<(), HsmError> {
        let slots = self.slots()?;
        for label in labels {
            check_label(label)?;
            if slots.iter().any(|(_, info)| info.initialised && info.label == *label) {
                return Err(HsmError::TokenTwin { label: (*label).to_owned() });
            }
        }
        // Some modules show the next free slot only when the one before is taken: the first has to be there.
        let (_, info) = self.free_slot()?;
        match (info.protected_authentication_path, labels.first()) {
            (true, Some(label)) => Err(HsmError::PinUnwanted { label: (*label).to_owned() }),
            _ => Ok(()),
        }
    }

    /// As [`Module::initialise`], of the token with this serial number, if one is given. A token of this label that was cut off
    /// between its two PINs is finished; one that has both is refused.
    ///
    /// # Errors
    /// [`HsmError::NoFreeSlot`], [`HsmError::TokenTwin`] when the label is taken, [`HsmError::TokenInUse`] when the token is
    /// initialised, [`HsmError::Label`], [`HsmError::PinInvalid`], [`HsmError::PinUnwanted`], or as the module answers.
    pub fn initialise_this(
        &self,
        serial: Option<&str>,
        label: &str,
        so_pin: &Pin,
        user_pin: &Pin,
    ) -> Result<TokenInfo, HsmError> {
        check_label(label)?;
        let slots = self.slots()?;
        let named = |info: &TokenInfo| serial.is_none_or(|serial| info.serial.eq_ignore_ascii_case(serial));
        if let Some((_, taken)) = slots.iter().find(|(_, info)| info.initialised && info.label == label) {
            if taken.user_pin_set || !named(taken) {
                return Err(HsmError::TokenTwin { label: label.to_owned() });
            }
            return self.set_first_pin(label, so_pin, user_pin);
        }
        let free = match serial {
            None => self.free_slot()?,
            Some(serial) => match slots.into_iter().find(|(_, info)| named(info)) {
                Some((_, info)) if info.initialised => {
                    return Err(HsmError::TokenInUse { serial: info.serial, label: info.label });
                }
                Some(found) => found,
                None => return Err(HsmError::TokenMissing { label: format!("serial number {serial}") }),
            },
        };
        let (free, info) = free;
        if info.protected_authentication_path {
            return Err(HsmError::PinUnwanted { label: label.to_owned() });
        }
        let fail = |source| HsmError::from_pkcs11("initialise a token", source);
        let told = self.context.get_token_info(free).map_err(fail)?;
        for pin in [so_pin, user_pin] {
            let length = pin.expose_secret().len();
            // A maximum of 0 says nothing.
            if length < told.min_pin_length() || (told.max_pin_length() > 0 && length > told.max_pin_length()) {
                return Err(HsmError::PinInvalid);
            }
        }
        self.context.init_token(free, &so_pin.to_auth(), label).map_err(fail)?;
        self.set_first_pin(label, so_pin, user_pin)
    }

    /// The user's first PIN, as the security officer.
    fn set_first_pin(&self, label: &str, so_pin: &Pin, user_pin: &Pin) -> Result<TokenInfo, HsmError> {
        let fail = |source| HsmError::from_pkcs11("initialise a token", source);
        // Some modules move the token to another slot, so it is looked up again.
        let (slot, _) = self.slot(label)?;
        let session = self.context.open_rw_session(slot).map_err(fail)?;
        session.login(UserType::So, Some(&so_pin.to_auth())).map_err(fail)?;
        let set = session.init_pin(&user_pin.to_auth()).map_err(fail);
        session.logout().map_err(fail)?;
        session.close().map_err(fail)?;
        set?;
        Ok(self.slot(label)?.1)
    }

    /// Replaces the user's PIN (`C_SetPIN`, PKCS#11 3.1 section 5.5.9). Nobody may be logged in to the token in this process.
    ///
    /// # Errors
    /// [`HsmError::PinIncorrect`] for a wrong old PIN, [`HsmError::PinInvalid`], [`HsmError::AlreadyOpen`], or as the module
    /// answers.
    pub fn change_user_pin(&self, label: &str, old: &Pin, new: &Pin) -> Result<(), HsmError> {
        self.as_user(label, UserType::User, old, |session| session.set_pin(&old.to_auth(), &new.to_auth()))
    }

    /// Replaces the security officer's PIN, as [`Module::change_user_pin`].
    ///
    /// # Errors
    /// As [`Module::change_user_pin`].
    pub fn change_so_pin(&self, label: &str, old: &Pin, new: &Pin) -> Result<(), HsmError> {
        self.as_user(label, UserType::So, old, |session| session.set_pin(&old.to_auth(), &new.to_auth()))
    }

    /// Sets the user's PIN as the security officer (`C_InitPIN`): whoever has the officer's PIN has every key.
    ///
    /// # Errors
    /// As [`Module::change_user_pin`].
    pub fn reset_user_pin(&self, label: &str, so_pin: &Pin, new: &Pin) -> Result<(), HsmError> {
        self.as_user(label, UserType::So, so_pin, |session| session.init_pin(&new.to_auth()))
    }

    /// Whether the security officer's PIN is right; some tokens count wrong ones.
    ///
    /// # Errors
    /// As [`Module::change_user_pin`].
    pub fn check_so_pin(&self, label: &str, so_pin: &Pin) -> Result<(), HsmError> {
        self.as_user(label, UserType::So, so_pin, |_| Ok(()))
    }

    /// Logs in, does one thing, logs out.
    fn as_user(
        &self,
        label: &str,
        user: UserType,
        pin: &Pin,
        action: impl FnOnce(&Session) -> Result<(), Pkcs11Error>,
    ) -> Result<(), HsmError> {
        let fail = |source| HsmError::from_pkcs11("change or check a PIN", source);
        let (slot, info) = self.slot(label)?;
        if info.protected_authentication_path {
            return Err(HsmError::PinUnwanted { label: label.to_owned() });
        }
        let session = self.context.open_rw_session(slot).map_err(fail)?;
        match session.login(user, Some(&pin.to_auth())) {
            Ok(()) => {}
            // Going on would change a PIN without the old one.
            Err(Pkcs11Error::Pkcs11(
                RvError::UserAlreadyLoggedIn
                | RvError::UserAnotherAlreadyLoggedIn
                | RvError::SessionReadOnlyExists
                | RvError::SessionExists,
                _,
            )) => return Err(HsmError::AlreadyOpen { label: label.to_owned() }),
            Err(source) => return Err(fail(source)),
        }
        let done = action(&session).map_err(fail);
        let out = session.logout().map_err(fail);
        done.and(out)
    }

    /// The slot of the one initialised token with this label.
    pub(crate) fn slot(&self, label: &str) -> Result<(Slot, TokenInfo), HsmError> {
        let mut matching = self.slots()?.into_iter().filter(|(_, info)| info.initialised && info.label == label);
        let found = matching.next().ok_or_else(|| HsmError::TokenMissing { label: label.to_owned() })?;
        match matching.next() {
            None => Ok(found),
            Some(_) => Err(HsmError::TokenTwin { label: label.to_owned() }),
        }
    }

    /// The first slot with an uninitialised token.
    pub(crate) fn free_slot(&self) -> Result<(Slot, TokenInfo), HsmError> {
        self.slots()?.into_iter().find(|(_, info)| !info.initialised).ok_or(HsmError::NoFreeSlot)
    }

    /// The token in a slot.
    pub(crate) fn token_in(&self, slot: Slot) -> Result<TokenInfo, HsmError> {
        let found = self.slots()?.into_iter().find(|(other, _)| *other == slot);
        found.map(|(_, info)| info).ok_or(HsmError::NoFreeSlot)
    }

    fn slots(&self) -> Result<Vec<(Slot, TokenInfo)>, HsmError> {
        let fail = |source| HsmError::from_pkcs11("list the tokens", source);
        let slots = self.context.get_slots_with_token().map_err(fail)?;
        slots
            .into_iter()
            .map(|slot| {
                let info = self.context.get_token_info(slot).map_err(fail)?;
                let firmware = info.firmware_version();
                Ok((
                    slot,
                    TokenInfo {
                        label: info.label().trim_end().to_owned(),
                        manufacturer: info.manufacturer_id().trim_end().to_owned(),
                        model: info.model().trim_end().to_owned(),
                        serial: info.serial_number().trim_end().to_owned(),
                        firmware: format!("{}.{}", firmware.major(), firmware.minor()),
                        initialised: info.token_initialized(),
                        user_pin_set: info.user_pin_initialized(),
                        user_pin_locked: info.user_pin_locked(),
                        protected_authentication_path: info.protected_authentication_path(),
                    },
                ))
            })
            .collect()
    }
}

/// The label field is 32 bytes, space padded (PKCS#11 3.1 section 5.5.7).
fn check_label(label: &str) -> Result<(), HsmError> {
    let printable = label.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if label.is_empty() || label.len() > 32 || label.trim() != label || !printable {
        return Err(HsmError::Label);
    }
    Ok(())
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("path", &self.path).finish_non_exhaustive()
    }
}
