//! What strategies ask of one request: searches by closeness and by words, and how close passages and texts are.

use casemate_engine::HostAnswer;
use casemate_engine::wit::{CapabilityError, Field, Reference};
use casemate_types::CompartmentName;
use casemate_vectors::DocumentId;

use crate::GateError;
use crate::clusters::probed;
use crate::collection::{Manifest, Passage, closeness, cosine, parse_document};
use crate::condition::Condition;
use crate::search::{Found, Sought};
use crate::services::RequestServices;
use crate::session::Compartment;
use crate::state::SiteKey;

impl RequestServices {
    pub(crate) async fn search(
        &self,
        collection: &str,
        query: &str,
        filter: &[Field],
        k: u32,
        probes: Option<u32>,
    ) -> Result<Vec<Reference>, CapabilityError> {
        let filter = self.conditions(collection, filter)?;
        let query = query.to_owned();
        self.in_collection(collection, move |this, name, compartment, manifest| {
            if probes.is_some() && probed(manifest, &[], 1).is_none() {
                let unfit = format!("`{name}` is not clustered; see `casemate reindex`");
                return Ok(Err(CapabilityError::Invalid(unfit)));
            }
            let vector = this.vector(&query)?;
            this.record_filter(name, &filter)?;
            let probes = probes.map(|probes| probes as usize);
            let sought = Sought { vector: &vector, filter: &filter, k: k as usize, probes };
            Ok(Ok(this.keep(name, this.gate.search(name, compartment, manifest, &sought)?)))
        })
        .await
    }

    pub(crate) async fn search_words(
        &self,
        collection: &str,
        text: &str,
        filter: &[Field],
        k: u32,
    ) -> Result<Vec<Reference>, CapabilityError> {
        let filter = self.conditions(collection, filter)?;
        let text = text.to_owned();
        self.in_collection(collection, move |this, name, compartment, manifest| {
            if manifest.groups.groups.iter().any(|entry| !manifest.worded.contains(&entry.group)) {
                let unfit = format!("`{name}` keeps no keywords, or not of every passage; see `casemate reindex`");
                return Ok(Err(CapabilityError::Invalid(unfit)));
            }
            this.record_filter(name, &filter)?;
            let sought = Sought { vector: &[], filter: &filter, k: k as usize, probes: None };
            Ok(Ok(this.keep(name, this.gate.search_words(name, compartment, manifest, &text, &sought)?)))
        })
        .await
    }

    /// Runs blocking work on a collection of the session; nothing is found in one that holds nothing.
    async fn in_collection(
        &self,
        collection: &str,
        work: impl FnOnce(
            &Self,
            &CompartmentName,
            &Compartment,
            &Manifest,
        ) -> Result<Result<Vec<Reference>, CapabilityError>, GateError>
        + Send
        + 'static,
    ) -> Result<Vec<Reference>, CapabilityError> {
        let collection = collection.to_owned();
        self.blocking(move |this| {
            let Some((name, compartment)) = this.session.compartment(&collection) else {
                return Ok(Err(CapabilityError::Denied("no-key".to_owned())));
            };
            match this.manifest(name, compartment)? {
                Some(manifest) => work(this, name, compartment, &manifest),
                None => Ok(Ok(Vec::new())),
            }
        })
        .await?
    }

    /// Every use of the metadata key is recorded before it happens.
    fn record_filter(&self, name: &CompartmentName, filter: &[Condition]) -> Result<(), GateError> {
        if filter.is_empty() {
            return Ok(());
        }
        let what = format!("a filter of {} fields on `{name}`", filter.len());
        self.gate.record_key_use_blocking(SiteKey::Metadata, "encrypt", &self.session.claims.user, &what)
    }

    /// Closeness of passages to each other. Only of those that a search of this request returned: others the component has no reason to
    /// know about.
    pub(crate) fn similarity(&self, references: &[Reference]) -> Result<Vec<u16>, CapabilityError> {
        let vector = |reference: &Reference| {
            let (name, _) = self.session.compartment(&reference.collection)?;
            Some(self.kept(name, &parse_document(&reference.document)?)?.vector())
        };
        let unknown = || CapabilityError::Invalid("only of passages that a search of this request returned".to_owned());
        let vectors: Vec<Vec<f32>> = references.iter().map(vector).collect::<Option<_>>().ok_or_else(unknown)?;
        let row = |a: &Vec<f32>| vectors.iter().map(|b| closeness(cosine(a, b))).collect::<Vec<u16>>();
        Ok(vectors.iter().flat_map(row).collect())
    }

    /// The conditions of a filter, if the collection can be asked them.
    fn conditions(&self, collection: &str, filter: &[Field]) -> Result<Vec<Condition>, CapabilityError> {
        let Some((name, _)) = self.session.compartment(collection) else {
            return Err(CapabilityError::Denied("no-key".to_owned()));
        };
        let conditions: Vec<Condition> = filter.iter().map(Condition::of).collect();
        conditions
            .iter()
            .try_for_each(|condition| condition.check(&self.gate.config, name))
            .map_err(CapabilityError::Invalid)?;
        Ok(conditions)
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

    pub(crate) fn kept(&self, name: &CompartmentName, document: &DocumentId) -> Option<Passage> {
        self.fetched.lock().ok()?.get(&(name.clone(), *document)).cloned()
    }

    pub(crate) fn documents(&self, collection: &str) -> HostAnswer {
        let Some((name, compartment)) = self.session.compartment(collection) else {
            return HostAnswer::Unit(Err(CapabilityError::Denied("no-key".to_owned())));
        };
        match self.manifest(name, compartment) {
            Ok(manifest) => HostAnswer::Count(manifest.map_or(0, |manifest| manifest.documents())),
            Err(error) => HostAnswer::Unit(Err(self.unavailable(error))),
        }
    }

    pub(crate) async fn closeness(&self, question: &str, texts: &[String]) -> Result<Vec<u16>, CapabilityError> {
        let (question, texts) = (question.to_owned(), texts.to_vec());
        self.blocking(move |this| {
            let question = this.vector(&question)?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let vectors = this.gate.embedder()?.embed(&texts)?;
            Ok(vectors.iter().map(|vector| closeness(cosine(&question, vector))).collect())
        })
        .await
    }
}
