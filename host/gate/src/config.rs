//! `site.toml`: what an operator decides about a site. Unknown keys are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use casemate_audit::{WitnessKey, WitnessLink, WitnessOptions};
use casemate_hsm::{NativeFf1, Role};
use casemate_tier::Endpoint;
use casemate_types::{Claims, CompartmentName, Digest, Level, PluginName, Profile, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::schema::{CollectionConfig, FieldRule};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteConfig {
    /// The site's name; part of the audit log's origin.
    pub name: String,
    /// How much is demanded of the token: see `casemate hsm probe`.
    #[serde(default)]
    pub profile: Profile,
    /// How the token's validation is judged.
    #[serde(default)]
    pub fips: FipsConfig,
    /// The PKCS#11 token that holds the keys.
    pub hsm: HsmConfig,
    /// The sentence model.
    #[serde(default)]
    pub embedding: EmbeddingConfig,
    /// Who watches the audit log, and what it says about people.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Encrypted search.
    #[serde(default)]
    pub search: SearchConfig,
    /// The inference tier, where it is not in this process.
    #[serde(default)]
    pub inference: Option<InferenceConfig>,
    /// Compartments whose vectors show their distances to the store. None, unless it is asked for.
    #[serde(default)]
    pub candidates: Option<CandidatesConfig>,
    /// Which components decide and answer.
    pub chain: ChainConfig,
    /// Access rules; each has keys of its own.
    pub compartments: BTreeMap<CompartmentName, CompartmentRule>,
    /// Metadata fields of every collection: what they hold, and how the store gets them. A field that is not listed is a keyed token.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldRule>,
    /// How single collections are kept, by their compartments' names.
    #[serde(default)]
    pub collections: BTreeMap<CompartmentName, CollectionConfig>,
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
    /// The HSM's own FF1 mechanism. It encrypts where it was found to give FF1's results, and is refused where it does not; the
    /// site's keys allow it from their birth on.
    #[serde(default)]
    pub native_ff1: Option<NativeFf1>,
    /// The folder with the shares of the token's PINs, which nobody knows; absolute, or relative to the site's folder. The site is then
    /// opened by its custodians.
    #[serde(default)]
    pub custody: Option<PathBuf>,
    /// The token asks for its maker's own quorum at its own pad (`CKF_PROTECTED_AUTHENTICATION_PATH`). PKCS#11 does not show whether more
    /// than one person is asked: whoever writes this states it.
    #[serde(default)]
    pub vendor_quorum: bool,
    /// A second token, of whatever make, that takes over; its PIN is in `pins/backup-user`. A site that was made without one uses it
    /// for `casemate hsm drill` only.
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
    /// The HSM's own FF1 mechanism.
    #[serde(default)]
    pub native_ff1: Option<NativeFf1>,
    /// The folder with the shares of this token's PINs.
    #[serde(default)]
    pub custody: Option<PathBuf>,
    /// The token asks for its maker's own quorum at its own pad (`CKF_PROTECTED_AUTHENTICATION_PATH`). PKCS#11 does not show whether more
    /// than one person is asked: whoever writes this states it.
    #[serde(default)]
    pub vendor_quorum: bool,
    /// Seconds between two health checks of both tokens.
    #[serde(default = "check_every")]
    pub check_every: NonZeroU16,
}

fn check_every() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(4)
}

impl HsmConfig {
    /// A token's own FF1 mechanism, where one is named.
    pub fn native_ff1(&self, role: Role) -> Option<NativeFf1> {
        match role {
            Role::Primary => self.native_ff1,
            Role::Backup => self.backup.as_ref().and_then(|backup| backup.native_ff1),
        }
    }

    /// The folder with the shares of a token's PINs, where they are split.
    pub fn custody(&self, role: Role) -> Option<&Path> {
        match role {
            Role::Primary => self.custody.as_deref(),
            Role::Backup => self.backup.as_ref().and_then(|backup| backup.custody.as_deref()),
        }
    }

    /// Whether a token is stated to ask for its maker's own quorum.
    pub fn vendor_quorum(&self, role: Role) -> bool {
        match role {
            Role::Primary => self.vendor_quorum,
            Role::Backup => self.backup.as_ref().is_some_and(|backup| backup.vendor_quorum),
        }
    }

    /// Module and label of a token; nothing for a backup that is not named.
    pub fn place(&self, role: Role) -> Option<(&Path, &str)> {
        match role {
            Role::Primary => Some((&self.module, &self.token_label)),
            Role::Backup => self.backup.as_ref().map(|backup| (backup.module.as_path(), backup.token_label.as_str())),
        }
    }
}

/// How the token's validation is judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FipsConfig {
    /// The certificate of the module; found by the token's names otherwise.
    #[serde(default)]
    pub certificate: Option<u32>,
    /// The oldest list of certificates that is taken, in days.
    #[serde(default = "max_snapshot_age")]
    pub max_snapshot_age_days: u32,
}

impl Default for FipsConfig {
    fn default() -> Self {
        Self { certificate: None, max_snapshot_age_days: max_snapshot_age() }
    }
}

fn max_snapshot_age() -> u32 {
    90
}

/// Where the sentence model is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// Folder with `model.safetensors` and `tokenizer.json`. Without it the lexical embedder runs.
    #[serde(default)]
    pub model_dir: Option<PathBuf>,
}

/// How the audit log is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AuditConfig {
    /// Record users as salted commitments; the salts lie in `people.json`, where they can be erased.
    #[serde(default)]
    pub pseudonyms: bool,
    /// The witness that cosigns checkpoints. Without one, only who keeps later checkpoints notices an older log.
    #[serde(default)]
    pub witness: Option<WitnessConfig>,
}

/// A witness, and how long the site decides without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its verifier key, as `casemate witness init` prints it.
    pub key: String,
    /// Its Unix socket; absolute, or relative to the site's folder. This or `directory`.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// A folder for requests and answers, which may lie on removable media.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Everything is denied while so many checkpoints in a row are not cosigned; at least 1.
    pub deny_after: u64,
}

/// How encrypted search uses this machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SearchConfig {
    /// Memory for groups in the form they are scored in; the least recently used ones give way. A collection may be larger.
    #[serde(default)]
    pub memory: MemorySize,
}

/// The inference tier, in processes of its own (`casemate inference serve`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InferenceConfig {
    /// The tier that keeps the store: `unix:PATH`, relative to the site's folder if it does not begin with `/`, or `tls:HOST:PORT`.
    /// Several where they keep it in one database: the next is asked where one cannot be reached.
    pub store: Keepers,
    /// The tiers that score, each a share of the groups; without any, those that keep the store.
    #[serde(default)]
    pub score: Vec<Endpoint>,
    /// For `tls:`: the folder with `ca.pem`, `revoked.pem`, `gate.pem` and `gate.key`, relative to the site's folder.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
}

impl InferenceConfig {
    /// Every endpoint, of the site in `dir`.
    pub fn endpoints(&self, dir: &Path) -> BTreeSet<Endpoint> {
        self.store.0.iter().chain(&self.score).map(|endpoint| in_site(dir, endpoint)).collect()
    }
}

/// Candidate mode: an index of the database over perturbed vectors says which groups are scored under encryption at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CandidatesConfig {
    /// The highest label that a passage of such a compartment may have.
    pub ceiling: Level,
    /// The compartments.
    pub compartments: BTreeMap<CompartmentName, CandidateRule>,
}

/// How a compartment's candidates are found, and what that gives away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CandidateRule {
    /// What shows. To be written out, so that nobody turns it on without having read it.
    pub leakage: Leakage,
    /// The strength of the noise, up to 4: distances that differ by less may compare otherwise.
    #[serde(default = "beta")]
    pub beta: f64,
    /// Candidates that are asked for, 1 to 1,000.
    #[serde(default = "candidate_count")]
    pub count: u32,
}

/// What candidate mode gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leakage {
    /// Distances between all vectors of the compartment, and with them, to whoever knows the model, what the passages are about.
    Distances,
}

fn beta() -> f64 {
    1.0
}

fn candidate_count() -> u32 {
    200
}

impl CandidatesConfig {
    /// Why a site may not have it, if it may not.
    fn refusal(&self, config: &SiteConfig) -> Option<String> {
        if config.profile == Profile::Government {
            return Some(
                "[candidates] lets the store see distances between vectors; profile `government` refuses it".to_owned(),
            );
        }
        if config.inference.is_none() {
            return Some("[candidates] needs an index: a store in PostgreSQL behind [inference]".to_owned());
        }
        self.compartments.iter().find_map(|(name, rule)| {
            if !config.compartments.contains_key(name) {
                return Some(format!("[candidates] names `{name}`, which is no compartment"));
            }
            let sound = rule.beta.is_finite() && (0.0..=4.0).contains(&rule.beta) && (1..=1000).contains(&rule.count);
            (!sound).then(|| format!("[candidates] of `{name}`: beta is 0 to 4, count 1 to 1000"))
        })
    }
}

/// One endpoint, or a list of them that is not empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "OneOrMore", into = "OneOrMore")]
pub struct Keepers(Vec<Endpoint>);

impl Keepers {
    /// The endpoints, the one that is asked first in front.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl TryFrom<OneOrMore> for Keepers {
    type Error = String;

    fn try_from(written: OneOrMore) -> Result<Self, String> {
        let texts = match written {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        let endpoints: Vec<Endpoint> = texts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, casemate_tier::TierError>>()
            .map_err(|e| e.to_string())?;
        if endpoints.is_empty() {
            return Err("inference.store names no tier".to_owned());
        }
        Ok(Self(endpoints))
    }
}

impl From<Keepers> for OneOrMore {
    fn from(keepers: Keepers) -> Self {
        Self::More(keepers.0.iter().map(ToString::to_string).collect())
    }
}

/// The endpoint with its path as seen from anywhere.
pub(crate) fn in_site(dir: &Path, endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Unix(path) => Endpoint::Unix(dir.join(path)),
        tls => tls.clone(),
    }
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl SiteConfig {
    /// Reads and checks `site.toml` of a site folder.
    pub fn read(site: &Path) -> Result<Self, GateError> {
        let path = site.join("site.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| GateError::NoSite { path: path.clone(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() })?;
        if let Some(problem) = config.candidates.as_ref().and_then(|candidates| candidates.refusal(&config)) {
            return Err(GateError::Config { path, problem });
        }
        config.chain.check().map_err(|problem| GateError::Config { path, problem })?;
        Ok(config)
    }

    /// The compartments a user satisfies.
    pub fn compartments_of(&self, user: &UserConfig) -> BTreeSet<CompartmentName> {
        entitled(&self.compartments, user)
    }
}

/// The compartments whose rules admit a user.
pub(crate) fn entitled(
    compartments: &BTreeMap<CompartmentName, CompartmentRule>,
    user: &UserConfig,
) -> BTreeSet<CompartmentName> {
    compartments.iter().filter(|(_, rule)| rule.admits(user)).map(|(name, _)| name.clone()).collect()
}

impl ChainConfig {
    /// What no chain may say; says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut named = BTreeSet::new();
        match self.policies.iter().find(|entry| !named.insert(&entry.plugin)) {
            // Twice, once to enforce and once to monitor, would share one small state.
            Some(twice) => Err(format!("chain.policies names `{}` twice", twice.plugin)),
            None => Ok(()),
        }
    }
}

impl UserConfig {
    /// What is in both: a key's attributes and those of the policy file. Neither alone gives anything.
    pub fn both(&self, other: &Self) -> Self {
        let common = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.intersection(b).cloned().collect();
        Self {
            clearance: self.clearance.min(other.clearance),
            roles: common(&self.roles, &other.roles),
            groups: common(&self.groups, &other.groups),
            departments: common(&self.departments, &other.departments),
        }
    }

    /// What the host vouches for about `user` with these attributes when the session holds `compartments`.
    pub fn claims(self, user: &UserName, compartments: BTreeSet<CompartmentName>) -> Claims {
        Claims {
            user: user.clone(),
            clearance: self.clearance,
            roles: self.roles,
            groups: self.groups,
            departments: self.departments,
            compartments,
        }
    }
}

impl WitnessConfig {
    /// What the log is told, for the site in `dir`.
    pub(crate) fn options(&self, dir: &Path) -> Result<WitnessOptions, String> {
        let key = WitnessKey::from_vkey(&self.key).map_err(|error| format!("audit.witness.key: {error}"))?;
        let link = match (&self.socket, &self.directory) {
            (Some(socket), None) => WitnessLink::Socket(dir.join(socket)),
            (None, Some(directory)) => WitnessLink::Directory(dir.join(directory)),
            _ => return Err("audit.witness: give `socket` or `directory`, and not both".to_owned()),
        };
        if self.deny_after == 0 {
            return Err("audit.witness.deny-after: 0 would deny everything; use at least 1".to_owned());
        }
        Ok(WitnessOptions { key, link, deny_after: self.deny_after })
    }
}

impl CompartmentRule {
    /// SHA-256 of the rule, which an approval names as its subject: `{clearance}`, then roles, groups and departments, each on a line of
    /// its own after the kind and a space, in the order of the alphabet.
    pub fn digest(&self) -> Digest {
        let mut text = format!("clearance {}\n", self.clearance);
        for (kind, names) in [("role", &self.roles), ("group", &self.groups), ("department", &self.departments)] {
            for name in names {
                // Quoted, so that no name looks like two lines.
                text.push_str(&format!("{kind} {name:?}\n"));
            }
        }
        Digest::of(text.as_bytes())
    }

    /// Whether a user satisfies every listed kind.
    pub fn admits(&self, user: &UserConfig) -> bool {
        let kinds = [(&self.roles, &user.roles), (&self.groups, &user.groups), (&self.departments, &user.departments)];
        let listed = kinds.iter().any(|(rule, _)| !rule.is_empty());
        let matched = kinds.iter().all(|(rule, held)| rule.is_empty() || !rule.is_disjoint(held));
        listed && matched && user.clearance >= self.clearance
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    fn user(roles: &[&str], departments: &[&str]) -> UserConfig {
        UserConfig { clearance: Level::Internal, roles: set(roles), groups: set(&[]), departments: set(departments) }
    }

    #[test]
    fn attributes_of_key_and_policy_meet_in_what_both_say() {
        let key = UserConfig { clearance: Level::Secret, ..user(&["analyst"], &["research", "sales"]) };
        let policy = user(&["analyst", "curator"], &["research"]);
        assert_eq!(key.both(&policy), user(&["analyst"], &["research"]));
        assert_eq!(key.both(&policy), policy.both(&key));
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
    fn a_store_is_kept_by_one_tier_or_by_several() {
        let read = |store: &str| toml::from_str::<InferenceConfig>(&format!("store = {store}"));
        let endpoints = |store: &str| read(store).unwrap().endpoints(Path::new("/site")).len();
        assert_eq!(endpoints("\"unix:a\""), 1);
        assert_eq!(endpoints("[\"unix:a\", \"tls:b:1\"]"), 2);
        for wrong in ["[]", "\"a\"", "[\"unix:a\", 3]"] {
            assert!(read(wrong).is_err(), "{wrong}");
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
