//! Models over encrypted vectors: the tier multiplies, the owner reads the logits and says what they mean.

use casemate_audit::Event;
use casemate_fhe_owner::ModelKey;
use casemate_types::{CompartmentName, PluginName};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::collection::store;
use crate::model::refused;
use crate::session::Session;
use crate::site::Gate;
use crate::train::{classes, greatest, held_out, logistic, softmax};
use crate::{GateError, Model, ModelKind};

/// What a model says about a text.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Classified {
    /// The class.
    pub class: String,
    /// Its probability; none of a linear model.
    pub probability: Option<f64>,
    /// The decrypted logit of each row of the model.
    pub logits: Vec<f32>,
    /// How far an honest logit may be from that of the model in clear: ten times the RMS error of the noise budget.
    pub tolerance: f32,
    /// Whether another class could be the right one within the tolerance.
    pub close: bool,
}

/// A model that was trained, and how good it is.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model, its weights in clear.
    pub model: Model,
    /// Texts it was trained on.
    pub texts: usize,
    /// Share of the texts that models trained on four fifths got right of the other fifth.
    pub held_out: f64,
}

/// Labelled texts at most.
const MAX_LABELLED: usize = 100_000;

impl Gate {
    /// Trains a logistic model on labelled texts (label, text) with the site's embedder, inside the gate. The weights follow from the
    /// texts and may give some of them away: a model is as secret as what it was trained on.
    ///
    /// # Errors
    /// [`GateError::Model`] for fewer than two classes or two texts in one; no embedder.
    pub fn train_model(&self, session: &Session, labelled: &[(String, String)]) -> Result<Trained, GateError> {
        self.check_current(session)?;
        if labelled.len() > MAX_LABELLED {
            return Err(refused(format!("{} labelled texts; at most {MAX_LABELLED} are taken", labelled.len())));
        }
        let labels: Vec<&str> = labelled.iter().map(|(label, _)| label.as_str()).collect();
        let (names, places) = classes(&labels)?;
        let detail = format!("{} texts of {} classes by {}", labelled.len(), names.len(), session.claims.user);
        self.journal.record_blocking(Event::Site { action: "training".to_owned(), detail })?;
        let embedder = self.embedder()?;
        let texts: Vec<&str> = labelled.iter().map(|(_, text)| text.as_str()).collect();
        let vectors = embedder.embed(&texts)?;
        let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let rows = logistic(&vectors, &places, names.len());
        let held_out = held_out(&vectors, &places, names.len());
        let model = Model::new(ModelKind::Logistic, names, &rows, &*embedder)?;
        Ok(Trained { model, texts: texts.len(), held_out })
    }

    /// The model with its weights encrypted under the key for models of a compartment that the session holds.
    ///
    /// # Errors
    /// [`GateError::Model`] for one that is encrypted already; a compartment whose key the session does not hold.
    pub fn encrypt_model(&self, session: &Session, name: &CompartmentName, model: &Model) -> Result<Model, GateError> {
        self.check_current(session)?;
        let plain = model.plain().ok_or_else(|| refused("its weights are encrypted already"))?;
        let mut number = [0; 8];
        aws_lc_rs::rand::fill(&mut number).map_err(|_| store("no randomness"))?;
        // Fifty-three bits: every reader of JSON keeps them.
        let number = u64::from_be_bytes(number) >> 11;
        let (seed, rows) = (models_of(session, name)?, model.rows());
        let key = ModelKey::kept(seed, name.as_str(), number, *plain.params(), rows).map_err(fhe)?;
        let tier = key.encrypt(plain).map_err(fhe)?;
        let detail = format!("model {} for `{name}` by {}", tier.digest(), session.claims.user);
        self.journal.record_blocking(Event::Site { action: "model encrypted".to_owned(), detail })?;
        Ok(model.hide(name.clone(), number, tier))
    }

    /// The model that two people signed and that is active as `site-model-NAME`.
    ///
    /// # Errors
    /// [`GateError::Model`] when there is none, or it is stopped or revoked.
    pub fn signed_model(&self, name: &PluginName) -> Result<Model, GateError> {
        let active = format!("site-model-{name}");
        let none = || refused(format!("`{active}` is not active, or it is stopped; see `casemate change status`"));
        let document = active.parse().ok().and_then(|active| self.document(&active)).ok_or_else(none)?;
        Model::from_bytes(document.document())
    }

    /// Classifies texts: embeds each, encrypts the vector under a secret for this query alone, has the tier multiply, decrypts the
    /// logits. The tier learns the digest and shape of the model, with weights in clear the weights, and how many texts there were.
    ///
    /// # Errors
    /// [`GateError::Model`] for a model of another embedder; a compartment whose key the session does not hold; a tier that gives no
    /// answer, or one that no honest tier gives.
    pub fn classify(&self, session: &Session, model: &Model, texts: &[&str]) -> Result<Vec<Classified>, GateError> {
        self.check_current(session)?;
        let key = self.model_key(session, model)?;
        let embedder = self.embedder()?;
        model.check_embedder(&*embedder)?;
        let detail = format!("{} texts by {} with model {}", texts.len(), session.claims.user, model.tier().digest());
        self.journal.record_blocking(Event::Site { action: "classification".to_owned(), detail })?;
        embedder.embed(texts)?.into_iter().map(|vector| self.classify_vector(&key, model, &vector)).collect()
    }

    /// The key under which queries to a model are encrypted.
    pub(crate) fn model_key(&self, session: &Session, model: &Model) -> Result<ModelKey, GateError> {
        let (params, rows) = (*model.tier().params(), model.rows());
        match model.hidden() {
            Some((name, number)) => ModelKey::kept(models_of(session, name)?, name.as_str(), *number, params, rows),
            None => ModelKey::passing(params, rows),
        }
        .map_err(fhe)
    }

    /// One text, given as its vector.
    pub(crate) fn classify_vector(
        &self,
        key: &ModelKey,
        model: &Model,
        vector: &[f32],
    ) -> Result<Classified, GateError> {
        let (query, secret) = key.query(vector).map_err(fhe)?;
        let reply = self.scorer.classify(model.tier(), &query).map_err(|error| store(words(&error)))?;
        let tolerance = secret.tolerance();
        let logits = secret
            .decrypt(&reply)
            .map_err(|error| GateError::ModelTier { model: model.tier().digest(), trick: words(&error) })?;
        Ok(judged(model, logits, tolerance))
    }
}

/// What the keys for models of a compartment are derived from.
fn models_of<'a>(session: &'a Session, name: &CompartmentName) -> Result<&'a Zeroizing<[u8; 32]>, GateError> {
    let held = session.compartments.get(name);
    let none = || refused(format!("{} holds no key of compartment `{name}`", session.claims.user));
    held.map(|compartment| &compartment.models).ok_or_else(none)
}

/// What logits mean.
fn judged(model: &Model, logits: Vec<f32>, tolerance: f32) -> Classified {
    let mut numbers: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    if let [logit] = numbers[..] {
        // The sigmoid of one logit is the softmax of it and zero.
        numbers = vec![0.0, logit];
    }
    let place = greatest(&numbers);
    let best = numbers.get(place).copied().unwrap_or_default();
    // One tolerance where one logit was decrypted, two where two were.
    let apart = f64::from(tolerance) * if logits.len() == 1 { 1.0 } else { 2.0 };
    let close = numbers.iter().enumerate().any(|(other, logit)| other != place && best - logit <= apart);
    let probability =
        (model.kind() == ModelKind::Logistic).then(|| softmax(&numbers).get(place).copied().unwrap_or(0.0));
    let class = model.classes().get(place).cloned().unwrap_or_default();
    Classified { class, probability, logits, tolerance, close }
}

fn fhe(error: casemate_fhe_owner::OwnerError) -> GateError {
    GateError::Fhe(words(&error))
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}
