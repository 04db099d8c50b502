//! Bindings: which tokens of this place play the plan's roles. Apart from the plan, so that its hash is the same everywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_custody::TokenSerial;
use casemate_types::UserName;
use serde::{Deserialize, Serialize};

use crate::CeremonyError;

/// The bindings file, TOML. Relative paths are relative to it; `{folder}` in variables stands for its folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bindings {
    format: BindingsFormat,
    /// The custodians' roster.
    pub roster: PathBuf,
    /// Every token below asks for its maker's own quorum. Stated by the operator; a token that takes its PIN from the host
    /// contradicts.
    #[serde(default)]
    pub vendor_quorum: bool,
    /// PKCS#11 modules by name.
    pub modules: BTreeMap<String, ModuleBinding>,
    /// Tokens by their role in the plan.
    pub tokens: BTreeMap<String, TokenBinding>,
    /// The custodians who are here, by name. Their tokens' serial numbers are on the roster.
    pub custodians: BTreeMap<UserName, CustodianBinding>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum BindingsFormat {
    #[serde(rename = "casemate ceremony bindings 1")]
    One,
}

/// A PKCS#11 module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleBinding {
    /// The library, or `embedded`.
    pub path: PathBuf,
    /// Variables that it reads.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// A token, by serial number.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TokenBinding {
    /// The module's name above.
    pub module: String,
    /// The serial number.
    pub serial: TokenSerial,
    /// A file with the PIN; asked for at the terminal otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_file: Option<PathBuf>,
    /// The folder with the shares of its PINs, which nobody knows: the custodians who are here open theirs, and the PINs are replaced at
    /// the end (`casemate custodian token init --folder`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custody: Option<PathBuf>,
}

/// A custodian's token; its serial number is on the roster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CustodianBinding {
    /// The module's name above.
    pub module: String,
    /// A file with the PIN; asked for at the terminal otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_file: Option<PathBuf>,
}

impl Bindings {
    /// Bindings to be written to a file.
    pub fn new(roster: PathBuf, modules: BTreeMap<String, ModuleBinding>) -> Self {
        let (tokens, custodians) = (BTreeMap::new(), BTreeMap::new());
        Self { format: BindingsFormat::One, roster, vendor_quorum: false, modules, tokens, custodians }
    }

    /// Reads bindings; `folder` is where their file is. Unknown keys are errors.
    ///
    /// # Errors
    /// [`CeremonyError::Malformed`]; [`CeremonyError::Bindings`] for one token in two roles or a module that is not there.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, CeremonyError> {
        let mut read: Self = toml::from_str(text).map_err(|error| CeremonyError::malformed("bindings", error))?;
        for (role, token) in &read.tokens {
            let twin = read.tokens.iter().find(|(other, twin)| *other > role && twin.serial.same_device(&token.serial));
            if let Some((other, _)) = twin {
                return Err(CeremonyError::bindings(format!(
                    "`{role}` and `{other}` are one token ({})",
                    token.serial
                )));
            }
        }
        if let Some((role, _)) =
            read.tokens.iter().find(|(_, token)| token.custody.is_some() && token.pin_file.is_some())
        {
            return Err(CeremonyError::bindings(format!(
                "`{role}` has a PIN file, and nobody knows a PIN that is split"
            )));
        }
        let named = read.tokens.values().map(|token| &token.module);
        for name in named.chain(read.custodians.values().map(|custodian| &custodian.module)) {
            if !read.modules.contains_key(name) {
                return Err(CeremonyError::bindings(format!("there is no module `{name}`")));
            }
        }
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        absolute(&mut read.roster);
        read.tokens.values_mut().filter_map(|token| token.pin_file.as_mut()).for_each(absolute);
        read.tokens.values_mut().filter_map(|token| token.custody.as_mut()).for_each(absolute);
        read.custodians.values_mut().filter_map(|custodian| custodian.pin_file.as_mut()).for_each(absolute);
        for module in read.modules.values_mut() {
            if module.path != Path::new("embedded") {
                absolute(&mut module.path);
            }
            for value in module.environment.values_mut() {
                *value = value.replace("{folder}", &folder.to_string_lossy());
            }
        }
        Ok(read)
    }

    /// The file.
    ///
    /// # Errors
    /// [`CeremonyError::Malformed`] for paths that are not UTF-8.
    pub fn to_text(&self) -> Result<String, CeremonyError> {
        toml::to_string(self).map_err(|error| CeremonyError::malformed("bindings", error))
    }

    /// What all modules read from the environment. To be set before the first is loaded.
    ///
    /// # Errors
    /// [`CeremonyError::Bindings`] when two want different values of one variable.
    pub fn environment(&self) -> Result<BTreeMap<String, String>, CeremonyError> {
        let mut all = BTreeMap::new();
        for (name, value) in self.modules.values().flat_map(|module| &module.environment) {
            if all.insert(name.clone(), value.clone()).is_some_and(|other| other != *value) {
                return Err(CeremonyError::bindings(format!("two modules want different values of {name}")));
            }
        }
        Ok(all)
    }
}
