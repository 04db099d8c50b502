//! Opens a site: token, log, store, engine and the active plugins, in that order, refusing at the first that is not sound.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use casemate_audit::{AuditError, Event, Log, LogOptions, Record};
use casemate_bundle::{TrustRoot, Verified, VerifiedBundle, World};
use casemate_change::{Scope, Standing};
use casemate_embed::{Embedder, Lexical, MiniLm};
use casemate_engine::{CacheKey, Engine, EngineOptions, Plugin};
use casemate_fhe_owner::DataKey;
use casemate_hsm::probe::{Judgement, Report};
use casemate_hsm::{KeyRef, PairStatus};
use casemate_inference::{Scorer, Tier};
use casemate_tier::{ClientTls, Endpoint, Remote, Shared, TierError};
use casemate_types::{Digest, Generation, PluginName};
use casemate_vectors::{SledStore, VectorStore};
use zeroize::Zeroizing;

use crate::GateError;
use crate::activation::Written;
use crate::chain::Chain;
use crate::combine::Combining;
use crate::config::{ChainConfig, Mode, SiteConfig, UserConfig, in_site};
use crate::documents::Documents;
use crate::fips;
use crate::journal::{HsmSigner, Journal, key_operation};
use crate::legacy;
use crate::mask::Masker;
use crate::metadata::FieldCipher;
use crate::monitor::Monitors;
use crate::people::People;
use crate::session::{RefusalMeter, Session};
use crate::standing::Collections;
use crate::state::{SiteKey, SiteState, write_private};
use crate::vault::{Vault, VaultKey, is_down};
use crate::watch::TokenWatch;
use crate::{pins, probing};

pub(crate) const SITE_AAD: &[u8] = b"casemate/site-secrets";

/// An open site. One per folder, whatever the process; a file lock sees to that.
pub struct Gate {
    pub(crate) config: SiteConfig,
    state: RwLock<Arc<SiteState>>,
    policy: RwLock<Arc<SiteConfig>>,
    office: Mutex<()>,
    pub(crate) keyring: Arc<Vault>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) monitors: Monitors,
    pub(crate) store: Arc<dyn VectorStore>,
    pub(crate) scorer: Arc<dyn Scorer>,
    pub(crate) embedder: RwLock<Option<Arc<dyn Embedder>>>,
    pub(crate) masker: Masker,
    pub(crate) fields: FieldCipher,
    pub(crate) small: sled::Tree,
    pub(crate) site_key: Arc<DataKey>,
    /// Keys the names of small state.
    pub(crate) names_key: Zeroizing<[u8; 32]>,
    pub(crate) dir: PathBuf,
    engine: Engine,
    refusals: RefusalMeter,
    active: RwLock<Arc<Active>>,
    /// Components that run beside the active ones of their names, without effect.
    pub(crate) shadows: RwLock<BTreeMap<PluginName, (Digest, Arc<Plugin>)>>,
    /// What the log says about changes.
    pub(crate) standing: RwLock<Arc<Standing>>,
    pub(crate) collections: Mutex<Collections>,
    pub(crate) recorded_state: AtomicU64,
    /// One change of what runs at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Before the lock: it records until it ends.
    _watch: Option<TokenWatch>,
    _lock: fs::File,
}

/// The plugins of one generation. A request holds on to the set it started with.
pub struct Active {
    /// The generation.
    pub generation: Generation,
    pub(crate) chain: Chain,
    pub(crate) agent: Option<Arc<Plugin>>,
    pub(crate) strategy: Option<Arc<Plugin>>,
    pub(crate) documents: Arc<Documents>,
    /// The chain in force: of the active policy set, or of `site.toml`.
    pub(crate) chosen: ChainConfig,
    /// Every plugin of the generation, whether or not it may run.
    loaded: Vec<Loaded>,
    /// When the first signature of the set expires.
    expires: Option<jiff::Timestamp>,
}

/// A plugin with the bundles that it came from.
#[derive(Clone)]
struct Loaded {
    plugin: Arc<Plugin>,
    bundle: Digest,
    /// Name and bundle of the settings that were signed apart.
    settings: Option<(PluginName, Digest)>,
}

impl Loaded {
    fn denied(&self, standing: &Standing) -> bool {
        self.parts().any(|(name, bundle)| standing.denies(name, bundle))
    }

    fn parts(&self) -> impl Iterator<Item = (&PluginName, Digest)> {
        let settings = self.settings.iter().map(|(name, bundle)| (name, *bundle));
        std::iter::once((&self.plugin.manifest().name, self.bundle)).chain(settings)
    }
}

impl Active {
    /// No policy, no agent: everything is denied.
    fn nothing(generation: Generation, chosen: &ChainConfig) -> Self {
        let chain = Chain { combining: Combining::DenyOverrides, policies: Vec::new(), generation, stopped: false };
        let (documents, chosen) = (Arc::default(), chosen.clone());
        Self { generation, chain, agent: None, strategy: None, documents, chosen, loaded: Vec::new(), expires: None }
    }

    /// The plugins and documents that answers rest on, each with the digest of its bundle.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&PluginName, Digest)> {
        let used = |plugin: &Arc<Plugin>| {
            let others = self.agent.iter().chain(&self.strategy);
            self.chain.policies.iter().map(|(policy, _)| policy).chain(others).any(|other| Arc::ptr_eq(other, plugin))
        };
        let policy_set = self.documents.chain().map(|(name, _, bundle)| (name, bundle));
        self.loaded.iter().filter(move |loaded| used(&loaded.plugin)).flat_map(Loaded::parts).chain(policy_set)
    }
}

impl Gate {
    /// Opens the site in `dir` with its active plugins. The PIN is read from the site's folder, because the site is a rehearsal.
    pub async fn open(dir: &Path) -> Result<Self, GateError> {
        let gate = Self::open_without_plugins(dir)?;
        gate.reload().await?;
        Ok(gate)
    }

    /// Opens the site without any plugin, so that it denies everything: for putting a broken set of plugins right.
    pub fn open_without_plugins(dir: &Path) -> Result<Self, GateError> {
        let gate = Self::open_judged(dir, true)?;
        gate.tidy()?;
        Ok(gate)
    }

    /// Opens the site although its profile may ask for more than its token shows: for that evidence to be installed.
    pub(crate) fn open_unjudged(dir: &Path) -> Result<Self, GateError> {
        Self::open_judged(dir, false)
    }

    fn open_judged(dir: &Path, judged: bool) -> Result<Self, GateError> {
        let lock = lock(dir)?;
        let (config, state) = (SiteConfig::read(dir)?, SiteState::read(dir)?);
        legacy::check(&config, &state)?;
        // The tokens of a pair are checked at each of their logins, because one may be down now.
        if state.manifest_signer.is_none() {
            probing::check(dir, &config, &state)?;
            if judged {
                // Before the PIN is used: a token that is not shown to be validated gets nothing from such a site.
                fips::require(dir, &config, &state)?;
            }
        }
        Self::assemble(dir, lock, config, state, judged)
    }

    /// The site with the log key that the log has handed over to; `state` is the written one, which still names the old key.
    pub(crate) fn with_log_key(
        dir: &Path,
        lock: fs::File,
        config: SiteConfig,
        state: &SiteState,
        next: KeyRef,
    ) -> Result<Self, GateError> {
        let mut changed = state.clone();
        changed.keys.insert(SiteKey::Audit, next);
        let gate = Self::assemble_unchecked(dir, lock, config, changed, true)?;
        gate.check_keys(state)?;
        Ok(gate)
    }

    /// Records what a probe of the site's token, or of a scratch token of the same make, found; keeps it; and says what it
    /// means under the site's profile. A token that is refused stays recorded as refused, and the site does not open.
    ///
    /// # Errors
    /// [`casemate_hsm::HsmError::TokenChanged`] for a report about a token of another make.
    pub fn record_probe(dir: &Path, report: &Report) -> Result<Judgement, GateError> {
        let lock = lock(dir)?;
        let (config, mut state) = (SiteConfig::read(dir)?, SiteState::read(dir)?);
        let judgement = report.judge(config.profile);
        for print in probing::of_site(dir, &config, report, &judgement)? {
            state.probed.insert(print.serial.clone(), print);
        }
        let gate = Self::assemble(dir, lock, config, state, false)?;
        gate.journal.record_blocking(probing::event(report, &judgement))?;
        gate.journal.checkpoint()?;
        probing::keep(dir, probing::REPORT, report, &judgement)?;
        gate.state().write(dir)?;
        Ok(judgement)
    }

    /// Records a step of a drill on the site's tokens, which have to be fit for the site's profile. Where another process has the
    /// site open, the log is that process's: then nothing is recorded, and the answer is `false`.
    ///
    /// # Errors
    /// As [`Gate::open`].
    pub fn record_drill(dir: &Path, step: &str, detail: &str) -> Result<bool, GateError> {
        let gate = match Self::open_without_plugins(dir) {
            Ok(gate) => gate,
            Err(GateError::InUse { .. }) => {
                let (config, state) = (SiteConfig::read(dir)?, SiteState::read(dir)?);
                probing::check(dir, &config, &state)?;
                fips::require(dir, &config, &state)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        gate.journal.record_blocking(Event::Site { action: format!("drill-{step}"), detail: detail.to_owned() })?;
        gate.journal.checkpoint()?;
        Ok(true)
    }

    fn assemble(
        dir: &Path,
        lock: fs::File,
        config: SiteConfig,
        state: SiteState,
        judged: bool,
    ) -> Result<Self, GateError> {
        let gate = Self::assemble_unchecked(dir, lock, config, state, judged)?;
        gate.check_keys(&gate.state())?;
        Ok(gate)
    }

    /// As [`Gate::assemble`]; the caller checks the lists of keys.
    fn assemble_unchecked(
        dir: &Path,
        lock: fs::File,
        config: SiteConfig,
        state: SiteState,
        judged: bool,
    ) -> Result<Self, GateError> {
        let keyring = Vault::open(dir, &config, &state, judged)?;
        let site_secrets =
            keyring.open_sealed(&keyring.find(state.key(SiteKey::AtRest)?)?, SITE_AAD, &state.sealed_site_secrets)?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(
            site_secrets.get(..32).ok_or(GateError::StateIncomplete { what: "site secrets".to_owned() })?,
        );
        let site_key = Arc::new(DataKey::from_bytes(&key).map_err(|e| GateError::Fhe(e.to_string()))?);

        let small = open_sled(&dir.join("gate"))?;
        let recordings = small.open_tree("recordings").map_err(|e| GateError::Store(e.to_string()))?;
        let kv = small.open_tree("kv").map_err(|e| GateError::Store(e.to_string()))?;
        let journal = Arc::new(open_journal(dir, &config, &state, &keyring, recordings, Arc::clone(&site_key))?);
        let read = crate::standing::read(dir, &site_key, &journal.verifier_key())?;
        let watch = TokenWatch::start(&keyring, &journal)?;
        let (store, scorer) = open_tier(dir, &config)?;
        let masker = Masker::open(&keyring, &state.live(SiteKey::Mask)?, state.key(SiteKey::Tokens)?)?;
        let fields =
            FieldCipher::open(&keyring, &config, &state.live(SiteKey::Metadata)?, state.key(SiteKey::Tokens)?)?;
        for unknown in config.collections.keys().filter(|name| !state.compartments.contains_key(*name)) {
            tracing::warn!("site.toml: collections.{unknown} is of no compartment of this site and does nothing");
        }
        let engine = open_engine(dir, &keyring, &state)?;
        let tokens = keyring.find(state.key(SiteKey::Tokens)?)?;
        let names_key = Zeroizing::new(keyring.mac(&tokens, b"casemate/names-of-small-state")?);
        let embedder = RwLock::new(open_embedder(&config, &kv, &site_key)?);
        let nothing = Arc::new(Active::nothing(Generation::default(), &config.chain));
        let gate = Self {
            dir: dir.to_owned(),
            policy: RwLock::new(Arc::new(config.clone())),
            config,
            state: RwLock::new(Arc::new(state)),
            office: Mutex::default(),
            keyring,
            journal,
            monitors: Monitors::default(),
            store,
            scorer,
            embedder,
            masker,
            fields,
            small: kv,
            site_key,
            names_key,
            engine,
            refusals: RefusalMeter::default(),
            active: RwLock::new(nothing),
            shadows: RwLock::default(),
            standing: RwLock::new(Arc::new(read.standing)),
            collections: Mutex::new(read.collections),
            recorded_state: AtomicU64::new(read.state),
            changing: tokio::sync::Mutex::default(),
            _watch: watch,
            _lock: lock,
        };
        if let Some(opened) = pins::opened_by(&gate.config) {
            gate.journal.record_blocking(pins::record(&opened))?;
        }
        Ok(gate)
    }

    /// The same gate with scoring done by another: a tier behind a socket, several of them, or one that lies, for a test. The
    /// gate trusts none of them.
    pub fn scored_by(self, make: impl FnOnce(Arc<dyn Scorer>) -> Arc<dyn Scorer>) -> Self {
        let scorer = make(Arc::clone(&self.scorer));
        Self { scorer, ..self }
    }

    /// Verifies every active bundle anew, loads it, and swaps the whole set in at once. On any error the old set stays.
    pub async fn reload(&self) -> Result<Generation, GateError> {
        let _changing = self.changing.lock().await;
        self.reload_held().await
    }

    /// As [`Gate::reload`], for a caller that holds `changing`.
    pub(crate) async fn reload_held(&self) -> Result<Generation, GateError> {
        let trust = self.trust()?;
        let changes = self.changes()?;
        let bundles = changes.load_all(&trust, self.trusted_now())?;
        let generation = changes.active().generation;
        // Under a root that has expired nothing verifies any more.
        let expires = bundles.iter().map(Verified::expires).min().map(|expires| expires.min(trust.expires()));
        let written = Written::of(&bundles);
        let (documents, components) = Documents::read(bundles)?;
        let mut loaded = Vec::new();
        for bundle in &components {
            let settings = documents.settings_of(bundle);
            let plugin = self.load_plugin(bundle, settings.as_ref().map(|(.., document)| *document)).await?;
            let settings = settings.map(|(name, digest, _)| (name, digest));
            loaded.push(Loaded { plugin: Arc::new(plugin), bundle: bundle.bundle_digest(), settings });
        }
        self.catch_up(&changes, &written).await?;
        let active = self.arrange(generation, loaded, Arc::new(documents), expires)?;
        if let Ok(mut slot) = self.active.write() {
            *slot = Arc::new(active);
        }
        Ok(generation)
    }

    /// Puts the stops in force into effect, or out of it, without loading anything. The caller holds `changing`.
    pub(crate) fn rearrange(&self) {
        let mut slot = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let documents = Arc::clone(&slot.documents);
        let arranged = self.arrange(slot.generation, slot.loaded.clone(), documents, slot.expires);
        // It was arranged before: only the stops have changed.
        *slot = Arc::new(arranged.unwrap_or_else(|_| Active::nothing(slot.generation, &self.config.chain)));
    }

    fn arrange(
        &self,
        generation: Generation,
        loaded: Vec<Loaded>,
        documents: Arc<Documents>,
        expires: Option<jiff::Timestamp>,
    ) -> Result<Active, GateError> {
        let standing = self.standing();
        let named = |name: &PluginName, world: World| {
            let of_name = |plugin: &Plugin| plugin.manifest().name == *name && plugin.manifest().world == world;
            let found = loaded.iter().find(|loaded| of_name(&loaded.plugin) && !loaded.denied(&standing));
            found.map(|loaded| Arc::clone(&loaded.plugin))
        };
        let config = documents.chain().map_or(&self.config.chain, |(_, chain, _)| chain).clone();
        let chosen = &config.policies;
        let enforced: Vec<PluginName> =
            chosen.iter().filter(|entry| entry.mode == Mode::Enforce).map(|entry| entry.plugin.clone()).collect();
        let combining = Combining::parse(&config.combining, &enforced).map_err(GateError::Combining)?;
        // A policy that the chain names and that is not loaded is not skipped: without it there is no chain.
        let mut policies = chosen
            .iter()
            .map(|entry| named(&entry.plugin, World::Policy).map(|plugin| (plugin, entry.mode)))
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default();
        let without_chain = documents.chain().is_some_and(|(name, _, bundle)| standing.denies(name, bundle));
        if without_chain {
            policies.clear();
        }
        let stopped = without_chain
            || standing.stops.contains_key(&Scope::Everything)
            || loaded.iter().any(|loaded| {
                let name = &loaded.plugin.manifest().name;
                loaded.denied(&standing) && chosen.iter().any(|entry| entry.plugin == *name)
            });
        Ok(Active {
            generation,
            chain: Chain { combining, policies, generation, stopped },
            agent: named(&config.agent, World::AgentHandler),
            strategy: named(&config.strategy, World::RetrievalStrategy),
            documents,
            chosen: config,
            loaded,
            expires,
        })
    }

    /// The time that signatures are judged by: never before the latest record of the log.
    pub(crate) fn trusted_now(&self) -> jiff::Timestamp {
        crate::trusted_time::not_before(self.journal.now_ms())
    }

    /// Compiles, checks and describes a verified bundle without activating it.
    pub async fn try_load(&self, bundle: &VerifiedBundle) -> Result<Plugin, GateError> {
        let active = self.active();
        let settings = active.documents.settings_of(bundle);
        self.load_plugin(bundle, settings.map(|(.., document)| document)).await
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The set in force now. Once a signature of it has expired, that is nothing.
    pub fn active(&self) -> Arc<Active> {
        let active = match self.active.read() {
            Ok(active) => Arc::clone(&active),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        };
        match active.expires {
            Some(expires) if self.trusted_now() > expires => {
                Arc::new(Active::nothing(active.generation, &active.chosen))
            }
            _ => active,
        }
    }

    /// The site's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The site's pinned root of trust.
    pub fn trust(&self) -> Result<TrustRoot, GateError> {
        let path = self.dir.join("trust/root.json");
        let bytes = fs::read(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
        Ok(TrustRoot::parse(&bytes)?)
    }

    /// Opens a session for a bearer token.
    pub async fn session(&self, credential: &str) -> Result<Arc<Session>, GateError> {
        Session::open(self, &self.refusals, credential).await
    }

    /// Waits until the policies that only monitor have ended; for a process that is about to end.
    pub async fn finish(&self) {
        self.monitors.finish().await;
    }

    /// Ends a session in the log. Its keys go when the last request that uses it does.
    pub async fn close(&self, session: &Session) -> Result<(), GateError> {
        let closed = Event::Session {
            action: "closed".to_owned(),
            user: session.claims.user.to_string(),
            compartments: session.claims.compartments.iter().cloned().collect(),
            reason: None,
        };
        self.journal.record(closed).await.map(drop)
    }

    /// Refuses a session whose user was revoked, or given another key, since it was opened.
    pub fn check_current(&self, session: &Session) -> Result<(), GateError> {
        let state = self.state();
        let held = state.users.get(&session.claims.user).map(|held| held.version);
        // A revocation that could not be finished, because a token of the pair is down, has come as far as the policy file.
        let known = self.policy().users.contains_key(&session.claims.user);
        if let Some(people) = self.approved_people()? {
            // What was approved since may be less than what the session was opened with.
            let claims = &session.claims;
            let held = UserConfig {
                clearance: claims.clearance,
                roles: claims.roles.clone(),
                groups: claims.groups.clone(),
                departments: claims.departments.clone(),
            };
            if !people.allows(&claims.user, &held) || !claims.compartments.is_subset(&people.compartments_of(&held)) {
                return Err(GateError::SessionEnded);
            }
        }
        if known && held == Some(session.key_version) { Ok(()) } else { Err(GateError::SessionEnded) }
    }

    /// The keys in force.
    pub(crate) fn state(&self) -> Arc<SiteState> {
        Arc::clone(&self.hold_state())
    }

    /// The keys in force, which stay so as long as this is held.
    pub(crate) fn hold_state(&self) -> RwLockReadGuard<'_, Arc<SiteState>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy file as this process last read or wrote it: users and compartments.
    pub(crate) fn policy(&self) -> Arc<SiteConfig> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_policy(&self, policy: SiteConfig) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// One change of the keys at a time.
    pub(crate) fn lock_office(&self) -> MutexGuard<'_, ()> {
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `state.json`, whole or not at all, and puts it in force. The caller holds [`Gate::lock_office`].
    pub(crate) fn commit_state(&self, mut state: SiteState) -> Result<(), GateError> {
        let mut slot = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.tag_keys(&mut state)?;
        state.write(&self.dir)?;
        let generation = state.generation;
        *slot = Arc::new(state);
        self.raise_generation(generation)
    }

    /// Changes `state.json` under the office's lock; nothing is written when `change` refuses.
    pub(crate) fn change_state(
        &self,
        change: impl FnOnce(&mut SiteState) -> Result<(), GateError>,
    ) -> Result<(), GateError> {
        let _exclusive = self.lock_office();
        let mut state = (*self.state()).clone();
        change(&mut state)?;
        self.commit_state(state)
    }

    /// Records that a site key is about to be used on somebody's behalf.
    pub(crate) async fn record_key_use(
        &self,
        key: SiteKey,
        operation: &str,
        who: &impl std::fmt::Display,
        what: &str,
    ) -> Result<(), GateError> {
        let state = self.state();
        let version = state.version_in_force(key);
        let event = key_operation(state.key(key)?, Some(version), operation, Some(who.to_string()), what);
        self.journal.record(event).await.map(drop)
    }

    /// As [`Gate::record_key_use`], for a version that may be an older one.
    pub(crate) async fn record_version_use(
        &self,
        key: SiteKey,
        version: u32,
        operation: &str,
        who: &impl std::fmt::Display,
        what: &str,
    ) -> Result<(), GateError> {
        let live = self.state().live(key)?;
        let held = live.iter().find(|(held, _)| *held == version);
        let (_, reference) = held.ok_or(GateError::StateIncomplete { what: format!("{key}@{version}") })?;
        let event = key_operation(reference, Some(version), operation, Some(who.to_string()), what);
        self.journal.record(event).await.map(drop)
    }

    /// As [`Gate::record_key_use`], for work outside the async runtime.
    pub(crate) fn record_key_use_blocking(
        &self,
        key: SiteKey,
        operation: &str,
        who: &impl std::fmt::Display,
        what: &str,
    ) -> Result<(), GateError> {
        let state = self.state();
        let version = state.version_in_force(key);
        let event = key_operation(state.key(key)?, Some(version), operation, Some(who.to_string()), what);
        self.journal.record_blocking(event).map(drop)
    }

    /// The audit log's pen.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The site's configuration.
    pub fn config(&self) -> &SiteConfig {
        &self.config
    }

    /// Which embedder runs, if one is ready.
    pub fn embedder_name(&self) -> String {
        self.embedder().map_or_else(|_| "none yet".to_owned(), |embedder| embedder.name().to_owned())
    }

    pub(crate) fn embedder(&self) -> Result<Arc<dyn Embedder>, GateError> {
        let slot = self.embedder.read().map_err(|_| GateError::Store("embedder lock".to_owned()))?;
        slot.clone().ok_or(GateError::Store("nothing has been ingested yet, so there is no embedder".to_owned()))
    }

    /// Why no policy decided, for the operator.
    pub(crate) fn why_no_policy(&self, phase: casemate_types::Phase) -> String {
        let active = self.active();
        let names: Vec<&str> = active.chosen.policies.iter().map(|entry| entry.plugin.as_str()).collect();
        if active.chain.policies.is_empty() {
            return format!(
                "the policies of the chain ({}) are not all active; load them with `casemate plugin load`",
                names.join(", ")
            );
        }
        format!("no enforced policy of the chain ({}) decides in the {phase} phase", names.join(", "))
    }

    /// Refuses while both tokens of a pair are down, whatever of the request would need none.
    pub(crate) fn check_tokens(&self) -> Result<(), GateError> {
        Ok(self.keyring.serves()?)
    }

    /// The state of the site's pair of tokens; nothing for a site with one.
    pub fn tokens(&self) -> Option<PairStatus> {
        self.keyring.status()
    }

    /// Whether the token answers, or one of the pair's.
    pub fn health(&self) -> Result<(), GateError> {
        Ok(self.keyring.health()?)
    }
}

/// Only one process may have a site open: it would otherwise find the databases half written.
pub(crate) fn lock(dir: &Path) -> Result<fs::File, GateError> {
    let path = dir.join("gate.lock");
    let io = |source| GateError::Io { action: "lock", path: path.clone(), source };
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(GateError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

/// The state of a site's pair as this process finds it now, whether or not another one has the site open.
///
/// # Errors
/// [`casemate_hsm::HsmError::PairDown`]; as [`Gate::open`].
pub fn pair_status(dir: &Path) -> Result<Option<PairStatus>, GateError> {
    let vault = Vault::open(dir, &SiteConfig::read(dir)?, &SiteState::read(dir)?, true)?;
    Ok(vault.status())
}

/// Opens the audit log with the audit key of the HSM, and in a pair with the backup's in reserve.
pub(crate) fn open_journal(
    dir: &Path,
    config: &SiteConfig,
    state: &SiteState,
    keyring: &Arc<Vault>,
    recordings: sled::Tree,
    key: Arc<DataKey>,
) -> Result<Journal, GateError> {
    let audit_key = keyring.find(state.key(SiteKey::Audit)?)?;
    let public = audit_public(dir, keyring, &audit_key, &state.key(SiteKey::Audit)?.check)?;
    let signer = HsmSigner { keyring: Arc::clone(keyring), key: audit_key, public };
    let (folder, options) = (dir.join("log"), log_options(dir, config)?);
    let log = match keyring.reserve() {
        None => Log::open(&folder, options, Box::new(signer))?,
        Some((key, public)) => {
            let signer = Arc::new(signer);
            let reserve = HsmSigner { keyring: Arc::clone(keyring), key, public };
            let (site, rehearsal) = (config.name.clone(), state.rehearsal);
            let record = |event, time_ms| {
                let v = casemate_audit::record::VERSION;
                Record { v, time_ms, site, rehearsal, event }.to_bytes()
            };
            match casemate_audit::announce_reserve(&folder, options.clone(), Arc::clone(&signer), &reserve, record) {
                Ok(vkey) if !dir.join(RESERVE_VKEY).exists() => {
                    write_private(&dir.join(RESERVE_VKEY), format!("{vkey}\n").as_bytes())?;
                }
                Ok(_) => {}
                // Both keys sign an announcement, so both tokens have to be there.
                Err(AuditError::Signer(error)) => {
                    tracing::warn!(%error, "the log's key in reserve is not announced yet")
                }
                Err(error) => return Err(error.into()),
            }
            Log::open_with_reserve(&folder, options, Box::new(signer), Box::new(reserve))?
        }
    };
    let people = config.audit.pseudonyms.then(|| People::open(dir)).transpose()?;
    Journal::new(log, &config.name, state.rehearsal, recordings, key, people)
}

/// The verifier key of the log's key in reserve, for auditors and the witness.
const RESERVE_VKEY: &str = "log.reserve.vkey";

/// The public half of the log's key. While its token is down it comes from `log.vkey`, and must fit the key's check value.
fn audit_public(dir: &Path, keyring: &Vault, key: &VaultKey, check: &str) -> Result<[u8; 32], GateError> {
    let error = match keyring.public_key(key) {
        Err(error) if is_down(&error) => error,
        asked => return Ok(asked?),
    };
    match public_of_vkey(&fs::read_to_string(dir.join("log.vkey")).unwrap_or_default()) {
        Some(public) if hex::encode(digest(&SHA256, &public)).starts_with(check) && !check.is_empty() => Ok(public),
        _ => Err(error.into()),
    }
}

/// The key in a line of C2SP signed-note: name, hash, base64 of the algorithm's byte and the key.
pub(crate) fn public_of_vkey(text: &str) -> Option<[u8; 32]> {
    let key = text.trim().splitn(3, '+').nth(2).and_then(|key| BASE64_STANDARD.decode(key).ok())?;
    key.split_first().and_then(|(_, public)| <[u8; 32]>::try_from(public).ok())
}

/// How the site's log is named, paced, anchored and witnessed.
pub(crate) fn log_options(dir: &Path, config: &SiteConfig) -> Result<LogOptions, GateError> {
    let witness = config.audit.witness.as_ref().map(|witness| witness.options(dir)).transpose();
    let witness = witness.map_err(|problem| GateError::Config { path: dir.join("site.toml"), problem })?;
    let origin = format!("casemate/{}", config.name);
    Ok(LogOptions { head_file: Some(dir.join("log.head")), witness, ..LogOptions::new(origin) })
}

fn open_sled(path: &Path) -> Result<sled::Db, GateError> {
    sled::Config::new()
        .path(path)
        .cache_capacity(64 << 20)
        .open()
        .map_err(|error| GateError::Store(format!("{}: {error}", path.display())))
}

/// Where ciphertext is kept, and where it is scored.
type StoreAndScorer = (Arc<dyn VectorStore>, Arc<dyn Scorer>);

/// The store and scorer of this process, or wherever `[inference]` says.
fn open_tier(dir: &Path, config: &SiteConfig) -> Result<StoreAndScorer, GateError> {
    let Some(inference) = &config.inference else {
        let store: Arc<dyn VectorStore> =
            Arc::new(SledStore::open(&dir.join("store")).map_err(crate::collection::store)?);
        let tier = Tier::new(Arc::clone(&store), config.search.memory.bytes());
        return Ok((store, Arc::new(tier)));
    };
    if dir.join("store").exists() {
        return Err(GateError::Store(format!(
            "site.toml has [inference], but {} is here too; move it to the tier (`casemate inference serve --store`)",
            dir.join("store").display()
        )));
    }
    let tls = inference.certificates.as_ref().map(|folder| ClientTls::read(&dir.join(folder), "gate")).transpose();
    let tls = tls.map_err(crate::collection::store)?;
    let remotes = inference.endpoints(dir).into_iter().map(|endpoint| {
        let remote = Remote::new(endpoint.clone(), tls.clone(), casemate_tier::dialler())?;
        Ok((endpoint, Arc::new(remote)))
    });
    let remotes = remotes.collect::<Result<BTreeMap<_, _>, TierError>>().map_err(crate::collection::store)?;
    let named = |endpoint: &Endpoint| {
        let remote = remotes.get(&in_site(dir, endpoint)).map(Arc::clone);
        remote.ok_or_else(|| GateError::Store(format!("{endpoint} is not among the tiers")))
    };
    let keepers = inference.store.endpoints();
    let scoring = if inference.score.is_empty() { keepers } else { &inference.score };
    let scoring = scoring.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let mut keepers = keepers.iter().map(|endpoint| in_site(dir, endpoint));
    let first = keepers.next().ok_or_else(|| GateError::Store("no tier keeps the store".to_owned()))?;
    let store = Remote::of_several(first, keepers.collect(), tls, casemate_tier::dialler());
    Ok((Arc::new(store.map_err(crate::collection::store)?), Arc::new(Shared::new(scoring))))
}

/// The key that authenticates precompiled code is derived in the HSM, so a copied cache is worthless elsewhere.
fn open_engine(dir: &Path, keyring: &Vault, state: &SiteState) -> Result<Engine, GateError> {
    let tokens = keyring.find(state.key(SiteKey::Tokens)?)?;
    let key = Zeroizing::new(keyring.mac(&tokens, b"casemate/precompiled-code")?);
    Ok(Engine::new(&EngineOptions::default(), Some((&dir.join("cache"), CacheKey::new(&key))))?)
}

const LEXICAL: &str = "site/lexical";

/// The sentence model when its files are there; otherwise the lexical embedder that the first ingest fitted.
fn open_embedder(config: &SiteConfig, kv: &sled::Tree, key: &DataKey) -> Result<Option<Arc<dyn Embedder>>, GateError> {
    if let Some(dir) = config.embedding.model_dir.as_deref().filter(|dir| MiniLm::present(dir)) {
        return Ok(Some(Arc::new(MiniLm::load(dir)?)));
    }
    let Some(sealed) = kv.get(LEXICAL).map_err(|e| GateError::Store(e.to_string()))? else { return Ok(None) };
    let bytes = key
        .open("the lexical embedder", &[LEXICAL.as_bytes()], &sealed)
        .map_err(|e| GateError::Store(e.to_string()))?;
    Ok(Some(Arc::new(Lexical::from_bytes(&bytes)?)))
}

impl Gate {
    /// The embedder; at the first ingest without a sentence model, a lexical one is fitted to `texts` and kept, sealed.
    pub(crate) fn embedder_for_ingest(&self, texts: &[&str]) -> Result<Arc<dyn Embedder>, GateError> {
        if let Ok(embedder) = self.embedder() {
            return Ok(embedder);
        }
        let fault = |e: &dyn std::fmt::Display| GateError::Store(e.to_string());
        let lexical = Lexical::fit(texts.iter().copied());
        let sealed = self
            .site_key
            .seal("the lexical embedder", &[LEXICAL.as_bytes()], &lexical.to_bytes())
            .map_err(|e| fault(&e))?;
        self.small.insert(LEXICAL, sealed).map_err(|e| fault(&e))?;
        self.small.flush().map_err(|e| fault(&e))?;
        let lexical: Arc<dyn Embedder> = Arc::new(lexical);
        if let Ok(mut slot) = self.embedder.write() {
            *slot = Some(Arc::clone(&lexical));
        }
        Ok(lexical)
    }
}
