use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_bundle::{Manifest, VerifiedBundle, World};
use casemate_types::{Decision, Digest};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower};
use wasmtime::{Store, component};

use crate::bindings::types as wit;
use crate::runtime::{Engine, EngineError};
use crate::services::{Exchange, Invocation, NoServices};
use crate::state::{Grant, HostState};
use crate::{Refusal, capabilities, convert};

/// A verified component, compiled, checked against its manifest and ready to run. Each run gets a fresh instance.
pub struct Plugin {
    manifest: Manifest,
    component_digest: Digest,
    description: wit::Description,
    settings: Vec<wit::Setting>,
    pre: InstancePre<HostState>,
    main: ComponentExportIndex,
    settings_digest: Digest,
    engine: wasmtime::Engine,
    count_fuel: bool,
    grant: Arc<Grant>,
}

/// What a run did: for the audit record and for replay.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Every host call with its answer, in order.
    pub exchanges: Vec<Exchange>,
    /// How long the run took.
    pub elapsed: Duration,
    /// Instructions, as wasmtime counts fuel; none where the engine does not count.
    pub fuel: Option<u64>,
    /// Linear memory at the end, in bytes.
    pub memory_bytes: u64,
}

/// The outcome of one run and its trace. A refusal is always a denial: there is no third state.
#[derive(Debug, Clone)]
pub struct Evaluated<T> {
    /// What the component said, or why the host ended it.
    pub outcome: Result<T, Refusal>,
    /// What it did on the way.
    pub trace: Trace,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The passages it rests on.
    pub citations: Vec<wit::Reference>,
}

/// Lifts the world-level record `answer` of `agent-handler`.
#[derive(component::ComponentType, Lift, Lower)]
#[component(record)]
struct WitAnswer {
    text: String,
    citations: Vec<wit::Reference>,
}

/// A verified bundle that still cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The manifest asks for a capability that its world does not offer.
    #[error("plugin `{plugin}`: capability `{capability}` is not offered to a {world}; take it out of the manifest")]
    CapabilityNotOffered {
        /// The plugin.
        plugin: String,
        /// What it asks for.
        capability: &'static str,
        /// Its world.
        world: &'static str,
    },
    /// `describe` did not come back.
    #[error("plugin `{plugin}`: `describe` failed")]
    Describe {
        /// The plugin.
        plugin: String,
        /// Why.
        source: Refusal,
    },
    /// The component cannot be compiled.
    #[error("plugin `{plugin}`: the component cannot be compiled")]
    Engine {
        /// The plugin.
        plugin: String,
        /// Why.
        source: EngineError,
    },
    /// The settings do not fit what the component declares.
    #[error("plugin `{plugin}`: setting `{setting}` {problem}; the component declares its settings in `describe`")]
    Settings {
        /// The plugin.
        plugin: String,
        /// Which setting.
        setting: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The component imports something its manifest does not grant.
    #[error("plugin `{plugin}`: imports `{import}`, which its manifest does not grant")]
    UndeclaredImport {
        /// The plugin.
        plugin: String,
        /// The import.
        import: String,
    },
    /// The component does not export what its world asks for.
    #[error("plugin `{plugin}`: not a {world}: {problem}")]
    WrongWorld {
        /// The plugin.
        plugin: String,
        /// The world of its manifest.
        world: &'static str,
        /// What is missing or different.
        problem: String,
    },
}

/// The interface that holds types only; importing it grants nothing.
const TYPES: &str = "casemate:plugin/types@0.1.0";

impl Plugin {
    /// Compiles, checks imports against the manifest, links exactly the granted capabilities, asks the component to describe
    /// itself and checks its settings. Only a [`VerifiedBundle`] gets here.
    pub async fn load(engine: &Engine, bundle: &VerifiedBundle) -> Result<Self, LoadError> {
        Self::load_with(engine, bundle, bundle.settings()).await
    }

    /// As [`Plugin::load`], with settings that were signed apart from the component: a JSON object.
    pub async fn load_with(
        engine: &Engine,
        bundle: &VerifiedBundle,
        values: &serde_json::Value,
    ) -> Result<Self, LoadError> {
        let manifest = bundle.manifest().clone();
        let name = manifest.name.to_string();
        let world = manifest.world;
        check_capabilities(&manifest)?;
        let component = engine
            .component(bundle.component())
            .map_err(|source| LoadError::Engine { plugin: name.clone(), source })?;
        check_imports(&component, &manifest)?;

        let wrong_world =
            |problem: String| LoadError::WrongWorld { plugin: name.clone(), world: world.as_str(), problem };
        let linker = linker(engine, &manifest).map_err(|error| wrong_world(format!("{error:#}")))?;
        let pre = linker.instantiate_pre(&component).map_err(|error| wrong_world(format!("{error:#}")))?;
        let main = export(&component, main_export(world)).map_err(&wrong_world)?;
        let describe = export(&component, "describe").map_err(&wrong_world)?;
        let grant = Arc::new(Grant {
            plugin: manifest.name.clone(),
            keys: manifest.keys.clone(),
            host_calls: manifest.limits.host_calls,
            host_bytes: manifest.limits.host_bytes,
            memory_bytes: manifest.limits.memory_bytes as usize,
            table_elements: manifest.limits.table_elements as usize,
        });
        let mut plugin = Self {
            component_digest: bundle.component_digest(),
            description: wit::Description { summary: String::new(), settings: Vec::new() },
            settings: Vec::new(),
            pre,
            main,
            settings_digest: Digest::of(values.to_string().as_bytes()),
            engine: engine.wasmtime.clone(),
            count_fuel: engine.count_fuel,
            grant,
            manifest,
        };
        plugin.check_main_type().await?;
        plugin.description = plugin.describe(describe).await?;
        plugin.settings = settings(&name, &plugin.description, values)?;
        Ok(plugin)
    }

    /// The signed manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest of the component.
    pub fn component_digest(&self) -> Digest {
        self.component_digest
    }

    /// Names the settings it runs with.
    pub fn settings_digest(&self) -> Digest {
        self.settings_digest
    }

    /// What the component says about itself.
    pub fn description(&self) -> &wit::Description {
        &self.description
    }

    /// Asks a policy. What comes back is checked against the contract and against `request.text`.
    pub async fn evaluate(&self, request: &wit::Request, invocation: Invocation) -> Evaluated<Decision> {
        let run = self.run::<_, (wit::Decision,)>((request.clone(), self.settings.clone()), invocation).await;
        self.finish(run, |(decision,)| {
            self.check_output(convert::decision_size(&decision))?;
            convert::decision(decision, &request.text)
        })
    }

    /// Asks a retrieval strategy for up to `k` references.
    pub async fn retrieve(
        &self,
        question: &str,
        filter: &[wit::Field],
        k: u32,
        invocation: Invocation,
    ) -> Evaluated<Result<Vec<wit::Reference>, String>> {
        let params = (question.to_owned(), filter.to_vec(), k, self.settings.clone());
        let run = self.run::<_, (Result<Vec<wit::Reference>, String>,)>(params, invocation).await;
        self.finish(run, |(result,)| {
            let size = match &result {
                Ok(references) => references.iter().map(|r| r.collection.len() + r.document.len() + 16).sum(),
                Err(message) => message.len(),
            };
            self.check_output(size)?;
            match &result {
                Ok(references) if references.len() > k as usize => {
                    Err(Refusal::MalformedOutput { detail: "more references than asked for".to_owned() })
                }
                _ => Ok(result),
            }
        })
    }

    /// Asks an agent.
    pub async fn handle(
        &self,
        question: &str,
        filter: &[wit::Field],
        invocation: Invocation,
    ) -> Evaluated<Result<Answer, String>> {
        let params = (question.to_owned(), filter.to_vec(), self.settings.clone());
        let run = self.run::<_, (Result<WitAnswer, String>,)>(params, invocation).await;
        self.finish(run, |(result,)| {
            let size = match &result {
                Ok(answer) => answer.text.len() + answer.citations.len() * 64,
                Err(message) => message.len(),
            };
            self.check_output(size)?;
            Ok(result.map(|answer| Answer { text: answer.text, citations: answer.citations }))
        })
    }

    fn check_output(&self, size: usize) -> Result<(), Refusal> {
        let limit = self.manifest.limits.output_bytes;
        if size as u64 > limit { Err(Refusal::OutputLimit { size, limit }) } else { Ok(()) }
    }

    fn finish<R, T>(
        &self,
        run: (Result<R, Refusal>, Trace),
        check: impl FnOnce(R) -> Result<T, Refusal>,
    ) -> Evaluated<T> {
        let (result, trace) = run;
        let outcome = result.and_then(check);
        if let Err(refusal) = &outcome {
            tracing::warn!(plugin = %self.manifest.name, %refusal, "component refused");
        }
        Evaluated { outcome, trace }
    }

    async fn run<P, R>(&self, params: P, invocation: Invocation) -> (Result<R, Refusal>, Trace)
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        self.run_export(self.main, params, invocation).await
    }

    /// One fresh instance, one call. Instantiation runs guest code, so it lies inside the deadline; host calls are awaited inside
    /// it too, because epochs interrupt only guest code.
    async fn run_export<P, R>(
        &self,
        export: ComponentExportIndex,
        params: P,
        invocation: Invocation,
    ) -> (Result<R, Refusal>, Trace)
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let started = Instant::now();
        let limits = &self.manifest.limits;
        let mut store = Store::new(&self.engine, HostState::new(Arc::clone(&self.grant), invocation));
        self.prepare(&mut store);
        // Twice the output limit, so that a value a little too large is measured and named; beyond that lifting itself stops.
        store.set_hostcall_fuel((limits.output_bytes * 2 + limits.host_bytes) as usize + 65_536);
        store.set_max_component_handles(1024);
        let call = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            let function = instance.get_typed_func::<P, R>(&mut store, export)?;
            function.call_async(&mut store, params).await
        };
        let called = tokio::time::timeout(Duration::from_millis(limits.time_ms), call).await;
        let outcome = match called {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Refusal::from_wasmtime(&error, limits.time_ms)),
            Err(_) => Err(Refusal::Deadline { limit_ms: limits.time_ms }),
        };
        let fuel = store.get_fuel().ok().map(|left| FUEL - left);
        let state = store.into_data();
        let memory_bytes = state.limiter.memory_used();
        let trace = Trace { exchanges: state.trace, elapsed: started.elapsed(), fuel, memory_bytes };
        (outcome, trace)
    }

    /// Limits of one run.
    fn prepare(&self, store: &mut Store<HostState>) {
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(self.manifest.limits.time_ms + 1);
        store.epoch_deadline_trap();
        if self.count_fuel {
            // Counted, not limited: time is the limit, here as elsewhere. It fails only where the engine does not count.
            let _ = store.set_fuel(FUEL);
        }
    }

    async fn describe(&self, export: ComponentExportIndex) -> Result<wit::Description, LoadError> {
        let (described, _) = self.run_export::<_, (wit::Description,)>(export, (), nobody()).await;
        let (description,) =
            described.map_err(|source| LoadError::Describe { plugin: self.manifest.name.to_string(), source })?;
        Ok(description)
    }

    /// Instantiates once and compares the main export's type with the world's.
    async fn check_main_type(&self) -> Result<(), LoadError> {
        let plugin = || self.manifest.name.to_string();
        let limits = &self.manifest.limits;
        let mut store = Store::new(&self.engine, HostState::new(Arc::clone(&self.grant), nobody()));
        self.prepare(&mut store);
        let instance = self.pre.instantiate_async(&mut store).await.map_err(|error| LoadError::Describe {
            plugin: plugin(),
            source: Refusal::from_wasmtime(&error, limits.time_ms),
        })?;
        let checked = match self.manifest.world {
            World::Policy => instance
                .get_typed_func::<(wit::Request, Vec<wit::Setting>), (wit::Decision,)>(&mut store, self.main)
                .map(drop),
            World::RetrievalStrategy => instance
                .get_typed_func::<(String, Vec<wit::Field>, u32, Vec<wit::Setting>), (Result<Vec<wit::Reference>, String>,)>(
                    &mut store, self.main,
                )
                .map(drop),
            World::AgentHandler => instance
                .get_typed_func::<(String, Vec<wit::Field>, Vec<wit::Setting>), (Result<WitAnswer, String>,)>(
                    &mut store, self.main,
                )
                .map(drop),
        };
        checked.map_err(|error| LoadError::WrongWorld {
            plugin: plugin(),
            world: self.manifest.world.as_str(),
            problem: format!("{error:#}"),
        })
    }
}

/// More than any run uses up.
const FUEL: u64 = u64::MAX;

fn main_export(world: World) -> &'static str {
    match world {
        World::Policy => "evaluate",
        World::RetrievalStrategy => "retrieve",
        World::AgentHandler => "handle",
    }
}

fn export(component: &Component, name: &str) -> Result<ComponentExportIndex, String> {
    component.get_export_index(None, name).ok_or_else(|| format!("it does not export `{name}`"))
}

fn check_capabilities(manifest: &Manifest) -> Result<(), LoadError> {
    match manifest.capabilities.iter().find(|c| !manifest.world.offers(**c)) {
        None => Ok(()),
        Some(capability) => Err(LoadError::CapabilityNotOffered {
            plugin: manifest.name.to_string(),
            capability: capability.as_str(),
            world: manifest.world.as_str(),
        }),
    }
}

fn check_imports(component: &Component, manifest: &Manifest) -> Result<(), LoadError> {
    let undeclared = component
        .component_type()
        .imports(component.engine())
        .find(|(import, item)| !is_granted(import, &item.ty, manifest))
        .map(|(import, _)| import.to_owned());
    match undeclared {
        None => Ok(()),
        Some(import) => Err(LoadError::UndeclaredImport { plugin: manifest.name.to_string(), import }),
    }
}

fn is_granted(import: &str, item: &ComponentItem, manifest: &Manifest) -> bool {
    let is_type = matches!(item, ComponentItem::Type(_));
    is_type || import == TYPES || manifest.capabilities.iter().any(|c| c.interface() == import)
}

fn linker(engine: &Engine, manifest: &Manifest) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(&engine.wasmtime);
    for capability in &manifest.capabilities {
        capabilities::add(&mut linker, *capability)?;
    }
    Ok(linker)
}

/// Turns the settings file into typed settings, by what the component declares.
fn settings(
    plugin: &str,
    description: &wit::Description,
    file: &serde_json::Value,
) -> Result<Vec<wit::Setting>, LoadError> {
    let error = |setting: &str, problem| LoadError::Settings {
        plugin: plugin.to_owned(),
        setting: setting.chars().take(64).collect(),
        problem,
    };
    let empty = serde_json::Map::new();
    let values = match file {
        serde_json::Value::Null => &empty,
        serde_json::Value::Object(values) => values,
        _ => return Err(error("settings.json", "is not an object")),
    };
    for name in values.keys() {
        if !description.settings.iter().any(|spec| spec.name == *name) {
            return Err(error(name, "is not declared"));
        }
    }
    let mut settings = Vec::new();
    for spec in &description.settings {
        match values.get(&spec.name) {
            None if spec.required => return Err(error(&spec.name, "is required")),
            None => {}
            Some(value) => settings.push(wit::Setting {
                name: spec.name.clone(),
                value: setting_value(spec.kind, value)
                    .ok_or_else(|| error(&spec.name, "has another type than declared"))?,
            }),
        }
    }
    Ok(settings)
}

fn setting_value(kind: wit::SettingKind, value: &serde_json::Value) -> Option<wit::SettingValue> {
    Some(match kind {
        wit::SettingKind::Boolean => wit::SettingValue::Boolean(value.as_bool()?),
        wit::SettingKind::Integer => wit::SettingValue::Integer(value.as_i64()?),
        wit::SettingKind::Text => wit::SettingValue::Text(value.as_str()?.to_owned()),
        wit::SettingKind::Texts => {
            let texts = value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned));
            wit::SettingValue::Texts(texts.collect::<Option<_>>()?)
        }
    })
}

/// The invocation of a component that describes itself: nobody asks, at no time, and no service answers.
fn nobody() -> Invocation {
    Invocation {
        claims: wit::Claims {
            user: String::new(),
            clearance: wit::Level::Public,
            roles: Vec::new(),
            groups: Vec::new(),
            departments: Vec::new(),
            compartments: Vec::new(),
        },
        now_ms: 0,
        services: Arc::new(NoServices),
    }
}
