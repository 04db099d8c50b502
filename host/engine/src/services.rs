use std::sync::Arc;

use async_trait::async_trait;
use casemate_types::PluginName;
use serde::{Deserialize, Serialize};

use crate::bindings::fpe::Item;
use crate::bindings::hsm::KeyInfo;
use crate::bindings::types::{CapabilityError, Claims, Field, LogLevel, Passage, Reference};

/// What stands behind the capabilities. The gate implements it over HSM, store and log; a replay implements it over a record.
#[async_trait]
pub trait Services: Send + Sync {
    /// Answers one call of `plugin`. The answer's variant must be the one the call asks for (see [`HostCall`]); any other
    /// ends the component with `host:capability-failed`.
    async fn call(&self, plugin: &PluginName, call: &HostCall) -> HostAnswer;
}

/// Answers every call with `unavailable`: for components that must not need anything, such as while describing themselves.
pub struct NoServices;

#[async_trait]
impl Services for NoServices {
    async fn call(&self, _: &PluginName, _: &HostCall) -> HostAnswer {
        HostAnswer::Unit(Err(CapabilityError::Unavailable("no services here".to_owned())))
    }
}

/// Who and when: the recorded inputs of one run that every capability shares.
#[derive(Clone)]
pub struct Invocation {
    /// The claims of the session, minted by the gate.
    pub claims: Claims,
    /// When the request was accepted, in milliseconds since 1970 UTC.
    pub now_ms: u64,
    /// What stands behind the capabilities.
    pub services: Arc<dyn Services>,
}

/// A capability call, as recorded. After each variant: the answer it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the arguments are documented in wit/capabilities.wit")]
pub enum HostCall {
    /// `Unit`
    Annotate { name: String, value: String },
    /// `Time`; answered by the engine
    ClockNow,
    /// `References`
    ClustersSearch { collection: String, question: String, filter: Vec<Field>, k: u32, probes: u32 },
    /// `Closeness`
    Closeness { question: String, texts: Vec<String> },
    /// `Texts`
    FpeDecrypt { key: String, items: Vec<Item> },
    /// `Texts`
    FpeEncrypt { key: String, items: Vec<Item> },
    /// `Unit`
    FpeOpen { key: String },
    /// `Count`
    FpeVersion { key: String },
    /// `KeyInfo`
    HsmInfo { key: String },
    /// `Bytes`
    HsmMac { key: String, message: Vec<u8> },
    /// `Unit`
    HsmOpen { key: String },
    /// `Bytes`
    HsmRandom { count: u32 },
    /// `Bytes`
    HsmSign { key: String, message: Vec<u8> },
    /// `References`
    KeywordsSearch { collection: String, text: String, filter: Vec<Field>, k: u32 },
    /// `Unit`
    KvDelete { key: String },
    /// `Value`
    KvGet { key: String },
    /// `Unit`
    KvSet { key: String, value: Vec<u8> },
    /// `Unit`
    Log { level: LogLevel, message: String },
    /// `Bytes`
    RandomBytes { count: u32 },
    /// `Passages`
    RecordsOpen { references: Vec<Reference> },
    /// `References`
    Retrieve { question: String, filter: Vec<Field>, k: u32 },
    /// `Claims`; answered by the engine
    SessionClaims,
    /// `Closeness`
    Similarity { references: Vec<Reference> },
    /// `Names`
    VectorsCollections,
    /// `Count`
    VectorsDocuments { collection: String },
    /// `Unit`
    VectorsEmbed { text: String },
    /// `Unit`
    VectorsOpen { collection: String },
    /// `References`
    VectorsSearch { collection: String, query: String, filter: Vec<Field>, k: u32 },
}

impl HostCall {
    /// `capability.function`, as a policy sees it in the action phase.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Annotate { .. } => "audit.annotate",
            Self::ClockNow => "clock.now",
            Self::Closeness { .. } => "inference.closeness",
            Self::ClustersSearch { .. } => "clusters.search",
            Self::FpeDecrypt { .. } => "fpe.decrypt",
            Self::FpeEncrypt { .. } => "fpe.encrypt",
            Self::FpeOpen { .. } => "fpe.open",
            Self::FpeVersion { .. } => "fpe.version",
            Self::HsmInfo { .. } => "hsm.info",
            Self::HsmMac { .. } => "hsm.mac",
            Self::HsmOpen { .. } => "hsm.open",
            Self::HsmRandom { .. } => "hsm.random",
            Self::HsmSign { .. } => "hsm.sign",
            Self::KeywordsSearch { .. } => "keywords.search",
            Self::KvDelete { .. } => "kv.delete",
            Self::KvGet { .. } => "kv.get",
            Self::KvSet { .. } => "kv.set",
            Self::Log { .. } => "log.write",
            Self::RandomBytes { .. } => "random.bytes",
            Self::RecordsOpen { .. } => "records.open",
            Self::Retrieve { .. } => "retrieval.retrieve",
            Self::SessionClaims => "session.current",
            Self::Similarity { .. } => "similarity.closeness",
            Self::VectorsCollections => "vectors.collections",
            Self::VectorsDocuments { .. } => "vectors.documents",
            Self::VectorsEmbed { .. } => "vectors.embed",
            Self::VectorsOpen { .. } => "vectors.open",
            Self::VectorsSearch { .. } => "vectors.search",
        }
    }
}

/// The host's answer, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "one variant per result type of the contract")]
pub enum HostAnswer {
    Bytes(Result<Vec<u8>, CapabilityError>),
    Claims(Claims),
    Closeness(Result<Vec<u16>, CapabilityError>),
    Count(u64),
    KeyInfo(Result<KeyInfo, CapabilityError>),
    Names(Vec<String>),
    Passages(Vec<Result<Passage, CapabilityError>>),
    References(Result<Vec<Reference>, CapabilityError>),
    Texts(Result<Vec<String>, CapabilityError>),
    Time(u64),
    Unit(Result<(), CapabilityError>),
    Value(Result<Option<Vec<u8>>, CapabilityError>),
}

impl HostAnswer {
    /// What the host could not do, if that is the answer. A refusal (denied, invalid, not found) is an answer like any other.
    pub fn unavailable(&self) -> Option<&str> {
        let error = match self {
            Self::Bytes(Err(error))
            | Self::Closeness(Err(error))
            | Self::KeyInfo(Err(error))
            | Self::References(Err(error))
            | Self::Texts(Err(error))
            | Self::Unit(Err(error))
            | Self::Value(Err(error)) => Some(error),
            Self::Passages(passages) => passages
                .iter()
                .filter_map(|passage| passage.as_ref().err())
                .find(|error| matches!(error, CapabilityError::Unavailable(_))),
            _ => None,
        };
        match error {
            Some(CapabilityError::Unavailable(what)) => Some(what),
            _ => None,
        }
    }

    /// Bytes of variable-length results, for the byte budget.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Bytes(Ok(bytes)) => bytes.len(),
            Self::Claims(claims) => {
                let names = [&claims.roles, &claims.groups, &claims.departments, &claims.compartments];
                claims.user.len() + names.into_iter().map(|names| names_size(names)).sum::<usize>()
            }
            Self::Closeness(Ok(values)) => values.len() * 2,
            Self::KeyInfo(Ok(info)) => info.name.len() + info.purpose.len() + info.check.len(),
            Self::Names(names) => names_size(names),
            Self::Passages(passages) => passages.iter().map(|p| p.as_ref().map_or_else(error_size, passage_size)).sum(),
            Self::References(Ok(references)) => {
                references.iter().map(|r| r.collection.len() + r.document.len() + 16).sum()
            }
            Self::Texts(Ok(texts)) => texts.iter().map(|t| t.len() + 8).sum(),
            Self::Value(Ok(Some(value))) => value.len(),
            Self::Bytes(Err(error))
            | Self::Closeness(Err(error))
            | Self::KeyInfo(Err(error))
            | Self::References(Err(error))
            | Self::Texts(Err(error))
            | Self::Unit(Err(error))
            | Self::Value(Err(error)) => error_size(error),
            Self::Count(_) | Self::Time(_) | Self::Unit(Ok(())) | Self::Value(Ok(None)) => 0,
        }
    }
}

fn names_size(names: &[String]) -> usize {
    names.iter().map(|name| name.len() + 8).sum()
}

/// Metadata is as long as whoever ingested it wanted.
fn passage_size(passage: &Passage) -> usize {
    let info = &passage.info;
    let metadata: usize = info.metadata.iter().map(|field| field.name.len() + field.value.len() + 16).sum();
    passage.text.len() + info.title.len() + info.source.len() + metadata + 128
}

fn error_size(error: &CapabilityError) -> usize {
    match error {
        CapabilityError::Denied(text)
        | CapabilityError::Invalid(text)
        | CapabilityError::NotFound(text)
        | CapabilityError::Unavailable(text) => text.len() + 16,
    }
}

/// One call and its answer: what an exact replay needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// What the component asked.
    pub call: HostCall,
    /// What it was told.
    pub answer: HostAnswer,
}
