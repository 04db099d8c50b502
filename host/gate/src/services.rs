//! What stands behind the capabilities of one request: HSM, store, model and log, as far as its session reaches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use casemate_audit::Event;
use casemate_bundle::Capability;
use casemate_engine::wit::{CapabilityError, Field, LogLevel, Reference, Request};
use casemate_engine::{Exchange, FpeItem, HostAnswer, HostCall, Invocation, Plugin, Services, wit};
use casemate_hsm::HsmError;
use casemate_types::{CompartmentName, Decision, DecisionId, Digest, Level, Obligation, Phase, PluginName, Reason};
use casemate_vectors::DocumentId;

use crate::chain::annotations;
use crate::collection::{Manifest, Passage, closeness, cosine, parse_document, store};
use crate::journal::{RecordedRun, Said};
use crate::search::Found;
use crate::session::{Compartment, Session};
use crate::site::{Active, Gate};
use crate::state::SiteKey;
use crate::{GateError, random_salt};

/// One request's view of the gate. A handle, shared by every component that runs for it.
#[derive(Clone)]
pub(crate) struct RequestServices(Arc<Inner>);

impl std::ops::Deref for RequestServices {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

pub(crate) struct Inner {
    pub(crate) gate: Arc<Gate>,
    pub(crate) active: Arc<Active>,
    pub(crate) session: Arc<Session>,
    pub(crate) id: DecisionId,
    pub(crate) now_ms: u64,
    /// The highest label any passage may have; lowered by `cap-classification`.
    pub(crate) cap: Level,
    /// Manifests opened so far: one request sees one state of a collection.
    manifests: Mutex<BTreeMap<CompartmentName, Arc<Manifest>>>,
    vectors: Mutex<BTreeMap<String, Arc<Vec<f32>>>>,
    /// Passages that searches of this request returned: read from here, so that the store does not see which of those it was asked
    /// for are read.
    fetched: Mutex<BTreeMap<(CompartmentName, DocumentId), Passage>>,
    /// Passages a component was shown: only these may be cited.
    opened: Mutex<BTreeMap<(String, String), Opened>>,
    withheld: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<Vec<(Reason, String)>>,
}

/// Longest thing a component may say to the operator, in characters.
const MAX_SAID: usize = 256;

/// What a component says to the operator, on one line: it may be anything.
pub(crate) fn said(message: &str) -> String {
    message.chars().take(MAX_SAID).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a citation may say about a passage that was opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) title: String,
    pub(crate) source: String,
    pub(crate) label: Level,
}

impl RequestServices {
    pub(crate) fn new(
        gate: Arc<Gate>,
        active: Arc<Active>,
        session: Arc<Session>,
        id: DecisionId,
        now_ms: u64,
        cap: Level,
    ) -> Self {
        Self(Arc::new(Inner {
            gate,
            active,
            session,
            id,
            now_ms,
            cap,
            manifests: Mutex::default(),
            vectors: Mutex::default(),
            fetched: Mutex::default(),
            opened: Mutex::default(),
            withheld: Mutex::default(),
            faults: Mutex::default(),
        }))
    }

    pub(crate) fn invocation(&self) -> Invocation {
        Invocation { claims: (&self.session.claims).into(), now_ms: self.now_ms, services: Arc::new(self.clone()) }
    }

    /// Another view of the same request: what fails behind it is not this request's.
    pub(crate) fn apart(&self) -> Self {
        let (gate, active, session) = (Arc::clone(&self.gate), Arc::clone(&self.active), Arc::clone(&self.session));
        Self::new(gate, active, session, self.id, self.now_ms, self.cap)
    }

    pub(crate) fn opened(&self, reference: &Reference) -> Option<Opened> {
        let key = (reference.collection.clone(), reference.document.clone());
        self.opened.lock().ok()?.get(&key).cloned()
    }

    /// The highest label of any passage a component was shown.
    pub(crate) fn highest_opened(&self) -> Option<Level> {
        self.opened.lock().ok()?.values().map(|opened| opened.label).max()
    }

    /// How many passages each reason kept from the agent.
    pub(crate) fn withheld(&self) -> BTreeMap<String, usize> {
        self.withheld.lock().map(|w| w.clone()).unwrap_or_default()
    }

    /// What went wrong behind the capabilities, for the operator.
    pub(crate) fn faults(&self) -> Vec<(Reason, String)> {
        self.faults.lock().map(|f| f.clone()).unwrap_or_default()
    }

    /// Records an internal error for the operator and gives the component a message without detail.
    fn unavailable(&self, error: GateError) -> CapabilityError {
        tracing::error!(id = %self.id, %error, "a capability failed");
        if let Ok(mut faults) = self.faults.lock() {
            faults.push((error.reason(), error.to_string()));
        }
        CapabilityError::Unavailable(error.reason().to_string())
    }

    /// Runs blocking work (HSM, scoring, model) away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, GateError> + Send + 'static,
    ) -> Result<T, CapabilityError> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.unavailable(error)),
            Err(error) => Err(self.unavailable(store(error))),
        }
    }

    fn vector(&self, text: &str) -> Result<Arc<Vec<f32>>, GateError> {
        if let Ok(known) = self.vectors.lock()
            && let Some(vector) = known.get(text)
        {
            return Ok(Arc::clone(vector));
        }
        let vector = self.gate.embedder()?.embed(&[text])?.into_iter().next();
        let vector = Arc::new(vector.ok_or_else(|| store("the embedder gave no vector"))?);
        if let Ok(mut known) = self.vectors.lock() {
            known.insert(text.to_owned(), Arc::clone(&vector));
        }
        Ok(vector)
    }

    /// The manifest of a collection; none while it holds nothing.
    fn manifest(&self, name: &CompartmentName, compartment: &Compartment) -> Result<Option<Arc<Manifest>>, GateError> {
        if let Ok(known) = self.manifests.lock()
            && let Some(manifest) = known.get(name)
        {
            return Ok(Some(Arc::clone(manifest)));
        }
        let Some(manifest) = self.gate.manifest(name, compartment)?.map(Arc::new) else { return Ok(None) };
        if let Ok(mut known) = self.manifests.lock() {
            known.insert(name.clone(), Arc::clone(&manifest));
        }
        Ok(Some(manifest))
    }

    fn plugin(&self, name: &PluginName) -> Option<&Arc<Plugin>> {
        let policies = self.active.chain.policies.iter().map(|(plugin, _)| plugin);
        policies.chain(&self.active.agent).chain(&self.active.strategy).find(|p| p.manifest().name == *name)
    }

    /// The action phase: the chain decides on calls whose manifest asks for it.
    async fn action_allowed(&self, plugin: &PluginName, call: &HostCall) -> Result<(), CapabilityError> {
        let Some(capability) = capability_of(call) else { return Ok(()) };
        let asks = self.plugin(plugin).is_none_or(|p| p.manifest().ask_policy.contains(&capability));
        if !asks {
            return Ok(());
        }
        let request = Request {
            phase: wit::Phase::Action,
            claims: (&self.session.claims).into(),
            action: call.action().to_owned(),
            text: format!("{plugin} calls {}", call.action()),
            passage: None,
            attributes: vec![Field { name: "plugin".to_owned(), value: plugin.to_string() }],
        };
        // Deciding cannot recurse: a policy has no `ask-policy`.
        let decided =
            self.active.chain.decide(self, request, Phase::Action).await.map_err(|error| self.unavailable(error))?;
        match decided.decision {
            Decision::Allow => Ok(()),
            Decision::Transform { obligations }
                if obligations.iter().all(|o| matches!(o, Obligation::LogAt { .. })) =>
            {
                Ok(())
            }
            Decision::Transform { .. } => Err(CapabilityError::Denied("obligation-not-possible".to_owned())),
            Decision::Deny { reason, .. } => Err(CapabilityError::Denied(reason.to_string())),
        }
    }

    /// Keeps what a replay of an agent's or strategy's run needs, and returns once the record of the run is durable.
    pub(crate) async fn record_run(
        &self,
        plugin: &Plugin,
        input: &serde_json::Value,
        said: Said,
        exchanges: &[Exchange],
    ) -> Result<Option<Digest>, GateError> {
        let journal = &self.gate.journal;
        let ended = match &said {
            Said::Ended(reason) => Some(reason.clone()),
            Said::Error(_) => Some(Reason::capability_failed()),
            _ => None,
        };
        let run = RecordedRun::of(plugin, said, exchanges.to_vec());
        let asked = ((&self.session.claims).into(), self.now_ms);
        let kept = journal
            .keep(self.id, random_salt()?, Phase::Action, (&asked.0, asked.1), input, std::slice::from_ref(&run))
            .await?;
        let event = Event::Run {
            id: self.id,
            user: self.session.claims.user.to_string(),
            plugin: plugin.manifest().name.clone(),
            generation: self.active.generation,
            component: plugin.component_digest(),
            ended,
            input: kept.input,
            recording: kept.recording,
            host_calls: exchanges.len() as u32,
            annotations: annotations(exchanges),
        };
        journal.record(event).await?;
        self.gate.run_shadow(self.id, Phase::Action, (&asked.0, asked.1), input, &run);
        Ok(kept.recording)
    }

    async fn retrieve(&self, question: &str, filter: &[Field], k: u32) -> Result<Vec<Reference>, CapabilityError> {
        let Some(strategy) = &self.active.strategy else {
            return Err(self.unavailable(GateError::NotLoaded {
                name: self.active.chosen.strategy.to_string(),
                role: "retrieval strategy",
            }));
        };
        let run = strategy.retrieve(question, filter, k, self.invocation()).await;
        let input = serde_json::json!({ "question": question, "filter": filter, "k": k });
        self.record_run(strategy, &input, Said::from(&run.outcome), &run.trace.exchanges)
            .await
            .map_err(|error| self.unavailable(error))?;
        let found = match run.outcome {
            Ok(Ok(references)) => references,
            Ok(Err(message)) => return Err(self.unavailable(store(format!("strategy: {}", said(&message))))),
            Err(refusal) => {
                let message = format!("strategy: {refusal}");
                return Err(self.unavailable(GateError::Below { reason: refusal.reason(), message }));
            }
        };
        // A reference into a collection the session cannot open would only ever be refused later; say so now.
        match found.iter().find(|r| self.session.compartment(&r.collection).is_none()) {
            None => Ok(found),
            Some(_) => Err(CapabilityError::Denied("no-key".to_owned())),
        }
    }

    /// Opens passages, asks the chain about each, and masks or withholds what it says.
    async fn open_records(&self, references: &[Reference]) -> Vec<Result<wit::Passage, CapabilityError>> {
        let mut passages = Vec::with_capacity(references.len());
        for reference in references {
            let passage = self.open_record(reference).await;
            if let Err(CapabilityError::Denied(reason)) = &passage
                && let Ok(mut withheld) = self.withheld.lock()
            {
                *withheld.entry(reason.clone()).or_default() += 1;
            }
            passages.push(passage);
        }
        passages
    }

    async fn open_record(&self, reference: &Reference) -> Result<wit::Passage, CapabilityError> {
        let document = parse_document(&reference.document)
            .ok_or_else(|| CapabilityError::Invalid("a document is named by 32 hexadecimal digits".to_owned()))?;
        let collection = reference.collection.clone();
        let opened = self
            .blocking(move |this| {
                let Some((name, compartment)) = this.session.compartment(&collection) else { return Ok(None) };
                let Some(manifest) = this.manifest(name, compartment)? else { return Ok(Some(None)) };
                let passage = match this.kept(name, &document) {
                    Some(passage) => Some(passage),
                    None => this.gate.open_passage(name, compartment, &manifest, &document)?,
                };
                // Nobody is ever told a canary's name; whoever finds it out is told that there is nothing.
                if let Some(passage) = &passage
                    && this.gate.is_canary(name, compartment, &manifest, passage.position)?
                {
                    return Ok(Some(None));
                }
                Ok(Some(passage.map(|passage| (passage.info(name, &document), passage))))
            })
            .await?;
        let (info, passage) = match opened {
            None => return Err(CapabilityError::Denied("no-key".to_owned())),
            Some(None) => return Err(CapabilityError::NotFound("no such passage".to_owned())),
            Some(Some(found)) => found,
        };
        if passage.label > self.cap {
            return Err(CapabilityError::Denied("above-cap".to_owned()));
        }
        let text = self.screen(&info, passage.text.clone()).await?;
        if let Ok(mut opened) = self.opened.lock() {
            let seen = Opened { title: passage.title, source: passage.source, label: passage.label };
            opened.insert((reference.collection.clone(), reference.document.clone()), seen);
        }
        Ok(wit::Passage { info, text })
    }

    /// The retrieval phase for one passage.
    async fn screen(&self, info: &wit::PassageInfo, text: String) -> Result<String, CapabilityError> {
        let request = Request {
            phase: wit::Phase::Retrieval,
            claims: (&self.session.claims).into(),
            action: "ask".to_owned(),
            text: text.clone(),
            passage: Some(info.clone()),
            attributes: Vec::new(),
        };
        let decided =
            self.active.chain.decide(self, request, Phase::Retrieval).await.map_err(|error| self.unavailable(error))?;
        match decided.decision {
            Decision::Allow => Ok(text),
            Decision::Deny { reason, .. } => Err(CapabilityError::Denied(reason.to_string())),
            Decision::Transform { obligations } => {
                let label = Level::from(info.label);
                let masked: usize = obligations.iter().map(crate::ask::spans_of).sum();
                if masked > 0 {
                    let what = format!("{masked} spans of a passage");
                    let recorded =
                        self.gate.record_key_use(SiteKey::Mask, "encrypt", &self.session.claims.user, &what).await;
                    recorded.map_err(|error| self.unavailable(error))?;
                }
                self.blocking(move |this| this.gate.oblige(text, &obligations, Some(label)))
                    .await
                    .and_then(|obliged| obliged.map_err(|reason| CapabilityError::Denied(reason.to_string())))
            }
        }
    }
}

#[async_trait]
impl Services for RequestServices {
    async fn call(&self, plugin: &PluginName, call: &HostCall) -> HostAnswer {
        if let Err(error) = self.action_allowed(plugin, call).await {
            return match call {
                HostCall::RecordsOpen { references } => {
                    HostAnswer::Passages(references.iter().map(|_| Err(error.clone())).collect())
                }
                _ => HostAnswer::Unit(Err(error)),
            };
        }
        match call {
            HostCall::Annotate { .. } => HostAnswer::Unit(Ok(())),
            HostCall::ClockNow => HostAnswer::Time(self.now_ms),
            HostCall::SessionClaims => HostAnswer::Claims((&self.session.claims).into()),
            HostCall::Log { level, message } => {
                match level {
                    LogLevel::Info => tracing::info!(%plugin, id = %self.id, "{message}"),
                    LogLevel::Notice => tracing::warn!(%plugin, id = %self.id, "{message}"),
                    LogLevel::Alert => tracing::error!(%plugin, id = %self.id, "{message}"),
                }
                HostAnswer::Unit(Ok(()))
            }
            HostCall::RandomBytes { count } | HostCall::HsmRandom { count } => {
                let count = *count as usize;
                HostAnswer::Bytes(self.blocking(move |this| Ok(this.gate.keyring.random(count)?.to_vec())).await)
            }
            HostCall::FpeOpen { key } => HostAnswer::Unit(self.mask_version(key).map(drop)),
            HostCall::FpeVersion { key } => match self.mask_version(key) {
                Ok(version) => HostAnswer::Count(version.into()),
                Err(error) => HostAnswer::Unit(Err(error)),
            },
            HostCall::FpeEncrypt { key, items } => self.fpe(plugin, key, items, true).await,
            HostCall::FpeDecrypt { key, items } => self.fpe(plugin, key, items, false).await,
            HostCall::HsmOpen { key } => HostAnswer::Unit(site_key(key, &["audit", "tokens"])),
            HostCall::HsmInfo { key } => HostAnswer::KeyInfo(self.key_info(key)),
            HostCall::HsmSign { key, message } => self.hsm(plugin, key, "audit", message).await,
            HostCall::HsmMac { key, message } => self.hsm(plugin, key, "tokens", message).await,
            HostCall::KvGet { key } => HostAnswer::Value(self.kv_get(plugin, key)),
            HostCall::KvSet { key, value } => HostAnswer::Unit(self.kv_set(plugin, key, value)),
            HostCall::KvDelete { key } => HostAnswer::Unit(
                self.gate
                    .small
                    .remove(kv_key(&self.gate, plugin, key))
                    .map(drop)
                    .map_err(|e| self.unavailable(store(e))),
            ),
            HostCall::Closeness { question, texts } => HostAnswer::Closeness(self.closeness(question, texts).await),
            HostCall::RecordsOpen { references } => HostAnswer::Passages(self.open_records(references).await),
            HostCall::Retrieve { question, filter, k } => {
                HostAnswer::References(self.retrieve(question, filter, *k).await)
            }
            HostCall::VectorsCollections => {
                HostAnswer::Names(self.session.compartments.keys().map(ToString::to_string).collect())
            }
            HostCall::VectorsOpen { collection } => HostAnswer::Unit(match self.session.compartment(collection) {
                Some(_) => Ok(()),
                None => Err(CapabilityError::Denied("no-key".to_owned())),
            }),
            HostCall::VectorsDocuments { collection } => self.documents(collection),
            HostCall::VectorsEmbed { text } => {
                let text = text.clone();
                HostAnswer::Unit(self.blocking(move |this| this.vector(&text).map(drop)).await)
            }
            HostCall::VectorsSearch { collection, query, filter, k } => {
                HostAnswer::References(self.search(collection, query, filter, *k).await)
            }
        }
    }
}

impl RequestServices {
    async fn search(
        &self,
        collection: &str,
        query: &str,
        filter: &[Field],
        k: u32,
    ) -> Result<Vec<Reference>, CapabilityError> {
        let (collection, query, filter) = (collection.to_owned(), query.to_owned(), filter.to_vec());
        let found = self
            .blocking(move |this| {
                let Some((name, compartment)) = this.session.compartment(&collection) else { return Ok(None) };
                let Some(manifest) = this.manifest(name, compartment)? else { return Ok(Some(Vec::new())) };
                let vector = this.vector(&query)?;
                if !filter.is_empty() {
                    let what = format!("a filter of {} fields on `{name}`", filter.len());
                    let user = &this.session.claims.user;
                    this.gate.record_key_use_blocking(SiteKey::Metadata, "encrypt", user, &what)?;
                }
                let found = this.gate.search(name, compartment, &manifest, &vector, &filter, k as usize)?;
                Ok(Some(this.keep(name, found)))
            })
            .await?;
        found.ok_or_else(|| CapabilityError::Denied("no-key".to_owned()))
    }

    /// Remembers what a search fetched, and returns what the component is told of it.
    fn keep(&self, name: &CompartmentName, found: Vec<Found>) -> Vec<Reference> {
        let mut references = Vec::with_capacity(found.len());
        let mut fetched = self.fetched.lock();
        for Found { reference, document, passage } in found {
            references.push(reference);
            if let Ok(fetched) = &mut fetched {
                fetched.insert((name.clone(), document), passage);
            }
        }
        references
    }

    fn kept(&self, name: &CompartmentName, document: &DocumentId) -> Option<Passage> {
        self.fetched.lock().ok()?.get(&(name.clone(), *document)).cloned()
    }

    fn documents(&self, collection: &str) -> HostAnswer {
        let Some((name, compartment)) = self.session.compartment(collection) else {
            return HostAnswer::Unit(Err(CapabilityError::Denied("no-key".to_owned())));
        };
        match self.manifest(name, compartment) {
            Ok(manifest) => HostAnswer::Count(manifest.map_or(0, |manifest| manifest.documents())),
            Err(error) => HostAnswer::Unit(Err(self.unavailable(error))),
        }
    }

    async fn closeness(&self, question: &str, texts: &[String]) -> Result<Vec<u16>, CapabilityError> {
        let (question, texts) = (question.to_owned(), texts.to_vec());
        self.blocking(move |this| {
            let question = this.vector(&question)?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let vectors = this.gate.embedder()?.embed(&texts)?;
            Ok(vectors.iter().map(|vector| closeness(cosine(&question, vector))).collect())
        })
        .await
    }

    /// Every use of a site key by a plugin is recorded before it happens.
    async fn record_use(&self, plugin: &PluginName, key: SiteKey, operation: &str) -> Result<(), CapabilityError> {
        let who = format!("{} by {plugin}", self.session.claims.user);
        self.gate.record_key_use(key, operation, &who, "requested").await.map_err(|error| self.unavailable(error))
    }

    fn mask_version(&self, name: &str) -> Result<u32, CapabilityError> {
        let unknown = || CapabilityError::NotFound(format!("this capability has no key `{name}`"));
        self.gate.masker.version_of(name).ok_or_else(unknown)
    }

    async fn fpe(&self, plugin: &PluginName, key: &str, items: &[FpeItem], encrypt: bool) -> HostAnswer {
        let version = match self.mask_version(key) {
            Ok(version) => version,
            Err(error) => return HostAnswer::Texts(Err(error)),
        };
        let operation = if encrypt { "encrypt" } else { "decrypt" };
        let who = format!("{} by {plugin}", self.session.claims.user);
        let recorded = self.gate.record_version_use(SiteKey::Mask, version, operation, &who, "requested").await;
        if let Err(error) = recorded.map_err(|error| self.unavailable(error)) {
            return HostAnswer::Texts(Err(error));
        }
        let (items, plugin) = (items.to_vec(), plugin.clone());
        let texts = self
            .blocking(move |this| match this.gate.masker.transform(&plugin, version, &items, encrypt) {
                Ok(texts) => Ok(Ok(texts)),
                Err(GateError::Hsm(error)) if is_invalid_value(&error) => {
                    Ok(Err(CapabilityError::Invalid(error.to_string())))
                }
                Err(error @ GateError::OlderVersion { .. }) => Ok(Err(CapabilityError::Invalid(error.to_string()))),
                Err(error) => Err(error),
            })
            .await;
        HostAnswer::Texts(texts.and_then(|inner| inner))
    }

    async fn hsm(&self, plugin: &PluginName, key: &str, purpose: &'static str, message: &[u8]) -> HostAnswer {
        if key != purpose {
            return HostAnswer::Bytes(Err(CapabilityError::Invalid("this key has another purpose".to_owned())));
        }
        let operation = if purpose == "audit" { "sign" } else { "mac" };
        if let Err(error) = self.record_use(plugin, site_key_of(purpose), operation).await {
            return HostAnswer::Bytes(Err(error));
        }
        let message = plugin_message(plugin, message);
        let bytes = self
            .blocking(move |this| {
                let state = this.gate.state();
                let key = this.gate.keyring.find(state.key(site_key_of(purpose))?)?;
                Ok(match purpose {
                    "audit" => this.gate.keyring.sign_or_reserve(&key, &message)?.to_vec(),
                    _ => this.gate.keyring.mac(&key, &message)?.to_vec(),
                })
            })
            .await;
        HostAnswer::Bytes(bytes)
    }

    fn key_info(&self, key: &str) -> Result<casemate_engine::KeyInfo, CapabilityError> {
        site_key(key, &["audit", "tokens"])?;
        let state = self.gate.state();
        let reference = state.key(site_key_of(key)).map_err(|error| self.unavailable(error))?;
        Ok(casemate_engine::KeyInfo {
            name: key.to_owned(),
            purpose: if key == "audit" { "signing" } else { "mac" }.to_owned(),
            check: reference.check.clone(),
        })
    }

    fn kv_get(&self, plugin: &PluginName, key: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        let key = kv_key(&self.gate, plugin, key);
        let Some(sealed) = self.gate.small.get(&key).map_err(|e| self.unavailable(store(e)))? else { return Ok(None) };
        let value = self.gate.site_key.open("small state", &[key.as_bytes()], &sealed);
        value.map(|value| Some(value.to_vec())).map_err(|e| self.unavailable(store(e)))
    }

    fn kv_set(&self, plugin: &PluginName, key: &str, value: &[u8]) -> Result<(), CapabilityError> {
        let full = kv_key(&self.gate, plugin, key);
        let small = &self.gate.small;
        let known = small.contains_key(&full).map_err(|e| self.unavailable(store(e)))?;
        if !known && small.scan_prefix(kv_prefix(plugin)).count() >= MAX_KV_KEYS {
            return Err(CapabilityError::Invalid("kv: at most 1,024 keys a plugin".to_owned()));
        }
        let sealed = self
            .gate
            .site_key
            .seal("small state", &[full.as_bytes()], value)
            .map_err(|e| self.unavailable(store(e)))?;
        small.insert(full, sealed).map(drop).map_err(|e| self.unavailable(store(e)))
    }
}

const MAX_KV_KEYS: usize = 1024;

/// The name under which small state is stored: the plugin's prefix and a keyed digest, because a key is a plugin's own text.
fn kv_key(gate: &Gate, plugin: &PluginName, key: &str) -> String {
    let digest = casemate_types::Digest::of_parts(&[
        gate.names_key.as_slice(),
        plugin.as_str().as_bytes(),
        b"\0",
        key.as_bytes(),
    ]);
    format!("{}{}", kv_prefix(plugin), digest.hex())
}

fn kv_prefix(plugin: &PluginName) -> String {
    format!("plugin/{plugin}/")
}

/// What a plugin signs or authenticates is marked with its name: it can never pass for a checkpoint, a token of ours, or another
/// plugin's message.
fn plugin_message(plugin: &PluginName, message: &[u8]) -> Vec<u8> {
    [b"casemate plugin message\0".as_slice(), plugin.as_str().as_bytes(), b"\0", message].concat()
}

fn site_key(key: &str, offered: &[&str]) -> Result<(), CapabilityError> {
    if offered.contains(&key) {
        Ok(())
    } else {
        Err(CapabilityError::NotFound(format!("this capability has no key `{key}`")))
    }
}

fn site_key_of(name: &str) -> SiteKey {
    if name == "audit" { SiteKey::Audit } else { SiteKey::Tokens }
}

/// The capability a call belongs to, for `ask-policy`.
fn capability_of(call: &HostCall) -> Option<Capability> {
    let (capability, _) = call.action().split_once('.')?;
    Capability::ALL.iter().copied().find(|c| c.as_str() == capability)
}

/// Whether the component's value is at fault and not the token.
fn is_invalid_value(error: &HsmError) -> bool {
    matches!(error, HsmError::DomainTooSmall { .. } | HsmError::ForeignCharacter { .. } | HsmError::TooLong { .. })
}
