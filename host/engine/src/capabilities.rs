//! The capabilities, one block each, all of one pattern: turn the call into a [`HostCall`], ask, take the answer apart.
//!
//! Numbers and lengths that a guest controls are clamped or refused here, at the border, with the limits of the WIT files.

use wasmtime::Result;
use wasmtime::component::{Linker, Resource};

use casemate_bundle::Capability;

use crate::Refusal;
use crate::bindings::types::{CapabilityError, Claims, Field, LogLevel, Passage, Reference};
use crate::bindings::{
    audit, clock, clusters, fpe, hsm, inference, keywords, kv, log, random, records, retrieval, session, similarity,
    types, vectors,
};
use crate::services::{HostAnswer, HostCall};
use crate::state::{Collection, FpeKey, HostState, HsmKey, Query};

type Fallible<T> = Result<std::result::Result<T, CapabilityError>>;

/// Adds one capability to a linker. Only granted ones are added: what is not linked cannot be called.
pub(crate) fn add(linker: &mut Linker<HostState>, capability: Capability) -> Result<()> {
    type Has = wasmtime::component::HasSelf<HostState>;
    match capability {
        Capability::Audit => audit::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Clock => clock::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Clusters => clusters::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Fpe => fpe::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Hsm => hsm::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Inference => inference::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Keywords => keywords::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Kv => kv::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Log => log::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Random => random::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Records => records::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Retrieval => retrieval::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Session => session::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Similarity => similarity::add_to_linker::<_, Has>(linker, |s| s),
        Capability::Vectors => vectors::add_to_linker::<_, Has>(linker, |s| s),
    }
}

/// Asks, and takes the one answer variant that the call allows.
macro_rules! ask {
    ($state:expr, $call:expr, $variant:ident) => {{
        let call = $call;
        let action = call.action();
        match $state.ask(call).await? {
            HostAnswer::$variant(value) => Ok(value),
            _ => Err(Refusal::CapabilityFailed { action }.into()),
        }
    }};
}

/// As [`ask!`], and a service that is not there may answer any fallible call with an error.
macro_rules! ask_fallible {
    ($state:expr, $call:expr, $variant:ident) => {{
        let call = $call;
        let action = call.action();
        match $state.ask(call).await? {
            HostAnswer::$variant(value) => Ok(value),
            HostAnswer::Unit(Err(error)) => Ok(Err(error)),
            _ => Err(Refusal::CapabilityFailed { action }.into()),
        }
    }};
}

/// Bytes of a list of fields, for the byte budget.
fn field_bytes(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.name.len() + field.value.len() + 16).sum()
}

/// An answer that depends on the arguments alone: charged like any call, and not recorded, because a replay gives it again.
fn invalid<T>(rule: &str) -> Fallible<T> {
    Ok(Err(CapabilityError::Invalid(rule.to_owned())))
}

impl types::Host for HostState {}

impl session::Host for HostState {
    async fn current(&mut self) -> Result<Claims> {
        self.enter(0)?;
        ask!(self, HostCall::SessionClaims, Claims)
    }
}

impl clock::Host for HostState {
    async fn now(&mut self) -> Result<u64> {
        self.enter(0)?;
        ask!(self, HostCall::ClockNow, Time)
    }
}

const MAX_RANDOM: u32 = 1024;

impl random::Host for HostState {
    async fn bytes(&mut self, count: u32) -> Fallible<Vec<u8>> {
        self.enter(0)?;
        if count > MAX_RANDOM {
            return invalid("random.bytes: at most 1,024 bytes a call");
        }
        ask_fallible!(self, HostCall::RandomBytes { count }, Bytes)
    }
}

impl log::Host for HostState {
    async fn write(&mut self, level: LogLevel, message: String) -> Result<()> {
        self.enter(message.len())?;
        let message = message.chars().filter(|c| !c.is_control()).take(1024).collect();
        // A lost operational line is not a reason to end a decision; the audit record is elsewhere.
        let _ = self.ask(HostCall::Log { level, message }).await?;
        Ok(())
    }
}

const MAX_FPE_ITEMS: usize = 1024;

impl HostState {
    fn fpe_key(&mut self, key: &Resource<FpeKey>) -> Result<String> {
        Ok(self.table.get(key)?.0.clone())
    }

    fn hsm_key(&mut self, key: &Resource<HsmKey>) -> Result<String> {
        Ok(self.table.get(key)?.0.clone())
    }
}

impl fpe::Host for HostState {}

impl fpe::HostKey for HostState {
    async fn open(&mut self, name: String) -> Fallible<Resource<FpeKey>> {
        self.enter(name.len())?;
        // A manifest names keys; which of their versions is the site's matter.
        if !self.may_use_key(name.split('@').next().unwrap_or_default()) {
            return Ok(Err(CapabilityError::Denied("key-not-in-manifest".to_owned())));
        }
        let opened: Fallible<()> = ask!(self, HostCall::FpeOpen { key: name.clone() }, Unit);
        match opened? {
            Ok(()) => Ok(Ok(self.table.push(FpeKey(name))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn version(&mut self, key: Resource<FpeKey>) -> Result<u64> {
        self.enter(0)?;
        let key = self.fpe_key(&key)?;
        ask!(self, HostCall::FpeVersion { key }, Count)
    }

    async fn encrypt(&mut self, key: Resource<FpeKey>, items: Vec<fpe::Item>) -> Fallible<Vec<String>> {
        self.enter(items.iter().map(|item| item.text.len() + item.tweak.len() + 24).sum())?;
        if items.len() > MAX_FPE_ITEMS {
            return invalid("fpe.encrypt: at most 1,024 items a call");
        }
        let key = self.fpe_key(&key)?;
        ask_fallible!(self, HostCall::FpeEncrypt { key, items }, Texts)
    }

    async fn decrypt(&mut self, key: Resource<FpeKey>, items: Vec<fpe::Item>) -> Fallible<Vec<String>> {
        self.enter(items.iter().map(|item| item.text.len() + item.tweak.len() + 24).sum())?;
        if items.len() > MAX_FPE_ITEMS {
            return invalid("fpe.decrypt: at most 1,024 items a call");
        }
        let key = self.fpe_key(&key)?;
        ask_fallible!(self, HostCall::FpeDecrypt { key, items }, Texts)
    }

    async fn drop(&mut self, key: Resource<FpeKey>) -> Result<()> {
        self.table.delete(key)?;
        Ok(())
    }
}

const MAX_MESSAGE: usize = 64 * 1024;

impl hsm::Host for HostState {
    async fn random(&mut self, count: u32) -> Fallible<Vec<u8>> {
        self.enter(0)?;
        if count > MAX_RANDOM {
            return invalid("hsm.random: at most 1,024 bytes a call");
        }
        ask_fallible!(self, HostCall::HsmRandom { count }, Bytes)
    }
}

impl hsm::HostKey for HostState {
    async fn open(&mut self, name: String) -> Fallible<Resource<HsmKey>> {
        self.enter(name.len())?;
        if !self.may_use_key(&name) {
            return Ok(Err(CapabilityError::Denied("key-not-in-manifest".to_owned())));
        }
        let opened: Fallible<()> = ask!(self, HostCall::HsmOpen { key: name.clone() }, Unit);
        match opened? {
            Ok(()) => Ok(Ok(self.table.push(HsmKey(name))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn info(&mut self, key: Resource<HsmKey>) -> Result<hsm::KeyInfo> {
        self.enter(0)?;
        let key = self.hsm_key(&key)?;
        let info: Fallible<hsm::KeyInfo> = ask_fallible!(self, HostCall::HsmInfo { key }, KeyInfo);
        info?.map_err(|_| Refusal::CapabilityFailed { action: "hsm.info" }.into())
    }

    async fn sign(&mut self, key: Resource<HsmKey>, message: Vec<u8>) -> Fallible<Vec<u8>> {
        self.enter(message.len())?;
        if message.len() > MAX_MESSAGE {
            return invalid("hsm.sign: at most 64 KiB");
        }
        let key = self.hsm_key(&key)?;
        ask_fallible!(self, HostCall::HsmSign { key, message }, Bytes)
    }

    async fn mac(&mut self, key: Resource<HsmKey>, message: Vec<u8>) -> Fallible<Vec<u8>> {
        self.enter(message.len())?;
        if message.len() > MAX_MESSAGE {
            return invalid("hsm.mac: at most 64 KiB");
        }
        let key = self.hsm_key(&key)?;
        ask_fallible!(self, HostCall::HsmMac { key, message }, Bytes)
    }

    async fn drop(&mut self, key: Resource<HsmKey>) -> Result<()> {
        self.table.delete(key)?;
        Ok(())
    }
}

const MAX_QUESTION: usize = 16 * 1024;

impl vectors::Host for HostState {
    async fn collections(&mut self) -> Result<Vec<String>> {
        self.enter(0)?;
        ask!(self, HostCall::VectorsCollections, Names)
    }

    async fn search(
        &mut self,
        collection: Resource<Collection>,
        query: Resource<Query>,
        filter: Vec<Field>,
        k: u32,
    ) -> Fallible<Vec<Reference>> {
        self.enter(field_bytes(&filter))?;
        if !(1..=256).contains(&k) {
            return invalid("vectors.search: k is 1 to 256");
        }
        let collection = self.table.get(&collection)?.0.clone();
        let query = self.table.get(&query)?.0.clone();
        ask_fallible!(self, HostCall::VectorsSearch { collection, query, filter, k }, References)
    }
}

impl vectors::HostCollection for HostState {
    async fn open(&mut self, name: String) -> Fallible<Resource<Collection>> {
        self.enter(name.len())?;
        let opened: Fallible<()> = ask!(self, HostCall::VectorsOpen { collection: name.clone() }, Unit);
        match opened? {
            Ok(()) => Ok(Ok(self.table.push(Collection(name))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn name(&mut self, collection: Resource<Collection>) -> Result<String> {
        self.enter(0)?;
        Ok(self.table.get(&collection)?.0.clone())
    }

    async fn documents(&mut self, collection: Resource<Collection>) -> Result<u64> {
        self.enter(0)?;
        let collection = self.table.get(&collection)?.0.clone();
        ask!(self, HostCall::VectorsDocuments { collection }, Count)
    }

    async fn drop(&mut self, collection: Resource<Collection>) -> Result<()> {
        self.table.delete(collection)?;
        Ok(())
    }
}

impl vectors::HostQuery for HostState {
    async fn embed(&mut self, text: String) -> Fallible<Resource<Query>> {
        self.enter(text.len())?;
        if text.len() > MAX_QUESTION {
            return invalid("vectors.query.embed: at most 16 KiB");
        }
        let embedded: Fallible<()> = ask!(self, HostCall::VectorsEmbed { text: text.clone() }, Unit);
        match embedded? {
            Ok(()) => Ok(Ok(self.table.push(Query(text))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn drop(&mut self, query: Resource<Query>) -> Result<()> {
        self.table.delete(query)?;
        Ok(())
    }
}

impl clusters::Host for HostState {
    async fn search(
        &mut self,
        collection: String,
        question: String,
        filter: Vec<Field>,
        k: u32,
        probes: u32,
    ) -> Fallible<Vec<Reference>> {
        self.enter(collection.len() + question.len() + field_bytes(&filter))?;
        if question.len() > MAX_QUESTION || !(1..=256).contains(&k) || !(1..=64).contains(&probes) {
            return invalid("clusters.search: a question of 16 KiB, k of 1 to 256 and 1 to 64 probes");
        }
        ask_fallible!(self, HostCall::ClustersSearch { collection, question, filter, k, probes }, References)
    }
}

impl keywords::Host for HostState {
    async fn search(
        &mut self,
        collection: String,
        text: String,
        filter: Vec<Field>,
        k: u32,
    ) -> Fallible<Vec<Reference>> {
        self.enter(collection.len() + text.len() + field_bytes(&filter))?;
        if text.len() > MAX_QUESTION || !(1..=256).contains(&k) {
            return invalid("keywords.search: a text of 16 KiB and k of 1 to 256");
        }
        ask_fallible!(self, HostCall::KeywordsSearch { collection, text, filter, k }, References)
    }
}

impl similarity::Host for HostState {
    async fn closeness(&mut self, references: Vec<Reference>) -> Fallible<Vec<u16>> {
        self.enter(references.iter().map(|r| r.collection.len() + r.document.len() + 16).sum())?;
        if references.len() > MAX_OPEN {
            return invalid("similarity.closeness: at most 64 passages");
        }
        let wanted = references.len() * references.len();
        let values: Fallible<Vec<u16>> = ask_fallible!(self, HostCall::Similarity { references }, Closeness);
        match values? {
            Ok(values) if values.len() != wanted => {
                Err(Refusal::CapabilityFailed { action: "similarity.closeness" }.into())
            }
            answer => Ok(answer),
        }
    }
}

const MAX_OPEN: usize = 64;

impl records::Host for HostState {
    async fn open(&mut self, references: Vec<Reference>) -> Result<Vec<std::result::Result<Passage, CapabilityError>>> {
        self.enter(references.iter().map(|r| r.collection.len() + r.document.len() + 16).sum())?;
        if references.len() > MAX_OPEN {
            let error = || Err(CapabilityError::Invalid("records.open: at most 64 passages a call".to_owned()));
            return Ok(references.iter().map(|_| error()).collect());
        }
        let asked = references.len();
        let passages: Result<Vec<_>> = ask!(self, HostCall::RecordsOpen { references }, Passages);
        let passages = passages?;
        if passages.len() == asked {
            Ok(passages)
        } else {
            Err(Refusal::CapabilityFailed { action: "records.open" }.into())
        }
    }
}

impl retrieval::Host for HostState {
    async fn retrieve(&mut self, question: String, filter: Vec<Field>, k: u32) -> Fallible<Vec<Reference>> {
        self.enter(question.len() + field_bytes(&filter))?;
        if question.len() > MAX_QUESTION {
            return invalid("retrieval.retrieve: at most 16 KiB");
        }
        if !(1..=64).contains(&k) {
            return invalid("retrieval.retrieve: k is 1 to 64");
        }
        ask_fallible!(self, HostCall::Retrieve { question, filter, k }, References)
    }
}

impl inference::Host for HostState {
    async fn closeness(&mut self, question: String, texts: Vec<String>) -> Fallible<Vec<u16>> {
        self.enter(question.len() + texts.iter().map(|text| text.len() + 8).sum::<usize>())?;
        if texts.len() > 256 || question.len() > MAX_QUESTION || texts.iter().any(|t| t.len() > 4096) {
            return invalid("inference.closeness: at most 256 texts of 4 KiB and a question of 16 KiB");
        }
        ask_fallible!(self, HostCall::Closeness { question, texts }, Closeness)
    }
}

impl audit::Host for HostState {
    async fn annotate(&mut self, name: String, value: String) -> Fallible<()> {
        self.enter(name.len() + value.len())?;
        if name.chars().count() > 64 || value.chars().count() > 256 {
            return invalid("audit.annotate: name at most 64 and value at most 256 characters");
        }
        // A remark is one line, and takes no more room in a record than its characters.
        let [name, value] = [name, value].map(|text| text.replace(char::is_control, " "));
        let made = self.trace.iter().filter(|e| matches!(e.call, HostCall::Annotate { .. })).count();
        if made >= 8 {
            return invalid("audit.annotate: at most 8 remarks a decision");
        }
        ask!(self, HostCall::Annotate { name, value }, Unit)
    }
}

fn kv_key_ok(key: &str) -> bool {
    !key.is_empty() && key.chars().count() <= 128
}

impl kv::Host for HostState {
    async fn get(&mut self, key: String) -> Fallible<Option<Vec<u8>>> {
        self.enter(key.len())?;
        if !kv_key_ok(&key) {
            return invalid("kv: a key has 1 to 128 characters");
        }
        ask_fallible!(self, HostCall::KvGet { key }, Value)
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> Fallible<()> {
        self.enter(key.len() + value.len())?;
        if !kv_key_ok(&key) || value.len() > 4096 {
            return invalid("kv: a key has 1 to 128 characters, a value at most 4 KiB");
        }
        ask!(self, HostCall::KvSet { key, value }, Unit)
    }

    async fn delete(&mut self, key: String) -> Fallible<()> {
        self.enter(key.len())?;
        if !kv_key_ok(&key) {
            return invalid("kv: a key has 1 to 128 characters");
        }
        ask!(self, HostCall::KvDelete { key }, Unit)
    }
}
