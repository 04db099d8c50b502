//! `site.toml`: what an operator decides about a site. Unknown keys are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use casemate_types::{Claims, CompartmentName, Level, PluginName, Profile, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteConfig {
    /// The site's name; part of the audit log's origin.
    pub name: String,
    /// How much is demanded of the token: see `casemate hsm probe`.
    #[serde(default)]
    pub profile: Profile,
    /// The PKCS#11 token that holds the keys.
    pub hsm: HsmConfig,
    /// The sentence model.
    #[serde(default)]
    pub embedding: EmbeddingConfig,
    /// Encrypted search.
    #[serde(default)]
    pub search: SearchConfig,
    /// Which components decide and answer.
    pub chain: ChainConfig,
    /// Access rules; each has keys of its own.
    pub compartments: BTreeMap<CompartmentName, CompartmentRule>,
    /// Metadata fields and how they are encrypted. A field that is not listed is a keyed token.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldKind>,
    /// Who may ask.
    pub users: BTreeMap<UserName, UserConfig>,
}

/// Where the token is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HsmConfig {
    /// The PKCS#11 module, absolute or relative to the site's folder.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// Environment variables the module reads; `{site}` stands for the site's folder.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// A second token, of whatever make, for `casemate hsm drill`; its PIN is in `pins/backup-user`.
    #[serde(default)]
    pub backup: Option<BackupConfig>,
}

/// Where the backup token is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackupConfig {
    /// The PKCS#11 module, absolute or relative to the site's folder.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// Environment variables the module reads; `{site}` stands for the site's folder.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// Where the sentence model is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// Folder with `model.safetensors` and `tokenizer.json`. Without it the lexical embedder runs.
    #[serde(default)]
    pub model_dir: Option<PathBuf>,
}

/// How encrypted search uses this machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SearchConfig {
    /// Memory for groups in the form they are scored in; the least recently used ones give way. A collection may be larger.
    #[serde(default)]
    pub memory: MemorySize,
}

/// A number of bytes, written as `512 MiB` or `2 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// The bytes.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self(2 << 30)
    }
}

impl TryFrom<String> for MemorySize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no size of memory; write a whole number and KiB, MiB or GiB, as in \"2 GiB\"");
        let (number, unit) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let shift = match unit.trim() {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        match size.0 {
            bytes if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
            bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
            bytes => format!("{} KiB", bytes >> 10),
        }
    }
}

/// Which components run, and how their decisions combine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChainConfig {
    /// `deny-overrides`, `permit-overrides`, `first-applicable`, or a boolean expression over policy names such as
    /// `clearance && (disclosure || audit-only)`. In each phase the policies that do not take part in it drop out.
    pub combining: String,
    /// The policies, in order.
    pub policies: Vec<PolicyEntry>,
    /// The agent that answers.
    pub agent: PluginName,
    /// The retrieval strategy.
    pub strategy: PluginName,
}

/// One policy of the chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicyEntry {
    /// Its manifest name.
    pub plugin: PluginName,
    /// Whether its decision counts.
    #[serde(default)]
    pub mode: Mode,
}

/// Whether a policy's decision counts or is only recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It counts.
    #[default]
    Enforce,
    /// It is evaluated and recorded, without effect.
    Monitor,
}

/// Who belongs to a compartment: one of each kind that is listed. Partial matches do not count; an empty rule admits nobody.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CompartmentRule {
    /// One of these roles.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// One of these groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// One of these departments.
    #[serde(default)]
    pub departments: BTreeSet<String>,
    /// The lowest clearance admitted.
    pub clearance: Level,
}

/// A user's attributes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserConfig {
    /// The highest label the user may read.
    pub clearance: Level,
    /// Roles.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// Groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Departments.
    #[serde(default)]
    pub departments: BTreeSet<String>,
}

/// How a metadata field is encrypted so that equality filters still work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// Format-preserving (FF1) where the value has at least a million alternatives, otherwise a keyed token.
    Fpe,
    /// A keyed token (HMAC): for small domains such as labels, years, licences.
    Token,
}

impl SiteConfig {
    /// Reads and checks `site.toml` of a site folder.
    pub fn read(site: &Path) -> Result<Self, GateError> {
        let path = site.join("site.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| GateError::NoSite { path: path.clone(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() })?;
        let mut named = BTreeSet::new();
        match config.chain.policies.iter().find(|entry| !named.insert(&entry.plugin)) {
            // Twice, once to enforce and once to monitor, would share one small state.
            Some(twice) => {
                Err(GateError::Config { path, problem: format!("chain.policies names `{}` twice", twice.plugin) })
            }
            None => Ok(config),
        }
    }

    /// The compartments a user satisfies.
    pub fn compartments_of(&self, user: &UserConfig) -> BTreeSet<CompartmentName> {
        self.compartments.iter().filter(|(_, rule)| rule.admits(user)).map(|(name, _)| name.clone()).collect()
    }

    /// What the host vouches for about `user` when the session holds `compartments`.
    pub fn claims(&self, user: &UserName, compartments: BTreeSet<CompartmentName>) -> Option<Claims> {
        let config = self.users.get(user)?;
        Some(Claims {
            user: user.clone(),
            clearance: config.clearance,
            roles: config.roles.clone(),
            groups: config.groups.clone(),
            departments: config.departments.clone(),
            compartments,
        })
    }
}

impl CompartmentRule {
    /// Whether a user satisfies every listed kind.
    pub fn admits(&self, user: &UserConfig) -> bool {
        let kinds = [(&self.roles, &user.roles), (&self.groups, &user.groups), (&self.departments, &user.departments)];
        let listed = kinds.iter().any(|(rule, _)| !rule.is_empty());
        let matched = kinds.iter().all(|(rule, held)| rule.is_empty() || !rule.is_disjoint(held));
        listed && matched && user.clearance >= self.clearance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    fn user(roles: &[&str], departments: &[&str]) -> UserConfig {
        UserConfig { clearance: Level::Internal, roles: set(roles), groups: set(&[]), departments: set(departments) }
    }

    #[test]
    fn sizes_of_memory_are_written_with_their_unit() {
        for (text, bytes) in [("800 KiB", 800 << 10), ("512 MiB", 512 << 20), ("2 GiB", 2 << 30), ("0 GiB", 0)] {
            let size = MemorySize::try_from(text.to_owned());
            assert_eq!(size.as_ref().map(MemorySize::bytes), Ok(bytes), "{text}");
            assert_eq!(size.map(String::from).as_deref(), Ok(text));
        }
        for text in ["2048", "2GiB", "2 GB", "-1 MiB", "1.5 GiB", "99999999999999999999 KiB", "18014398509481984 MiB"] {
            assert!(MemorySize::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn partial_matches_and_empty_rules_admit_nobody() {
        let rule = CompartmentRule {
            roles: set(&["analyst"]),
            departments: set(&["engineering", "research"]),
            clearance: Level::Internal,
            ..CompartmentRule::default()
        };
        assert!(rule.admits(&user(&["analyst"], &["research"])));
        assert!(!rule.admits(&user(&["analyst"], &["sales"])));
        assert!(!rule.admits(&user(&[], &["research"])));
        let secret = CompartmentRule { clearance: Level::Secret, ..rule };
        assert!(!secret.admits(&user(&["analyst"], &["research"])));
        let empty = CompartmentRule { clearance: Level::Public, ..CompartmentRule::default() };
        assert!(!empty.admits(&user(&["analyst"], &["research"])));
    }
}
