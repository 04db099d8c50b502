//! Model files: a linear or logistic model over sentence vectors, its weights in clear or encrypted under a compartment's key.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_embed::DIMENSION;
use casemate_fhe::{MAX_CLASSES, NormBound, Params, PlainModel, TierModel};
use casemate_types::{CompartmentName, Digest};
use serde::{Deserialize, Serialize};

use crate::GateError;

/// Bytes of a model file at most: 256 classes of 384 weights take 2 MB, an encrypted model 1 MB.
pub const MAX_MODEL_BYTES: usize = 16 << 20;
const FORMAT: &str = "casemate model 1";

/// What the logits of a model mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// The class with the highest logit; no probabilities.
    Linear,
    /// Softmax over the classes; with two classes and one row of weights, the sigmoid of its logit for the second class.
    Logistic,
}

/// The file, as JSON. Unknown members are errors.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ModelFile {
    format: String,
    kind: ModelKind,
    classes: Vec<String>,
    dimension: usize,
    norm_bound: f32,
    embedder: String,
    embedder_digest: Digest,
    weights: Weights,
}

/// Where the weights are.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Weights {
    /// A row of `dimension` numbers and a bias for each class.
    Clear { rows: Vec<Vec<f32>>, bias: Vec<f32> },
    /// An encrypted group under the compartment's key for models, base64, with the number that its canaries follow from.
    Encrypted { compartment: CompartmentName, rows: usize, number: u64, ciphertext: String },
}

/// A model that passed its checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    kind: ModelKind,
    classes: Vec<String>,
    bound: NormBound,
    embedder: String,
    embedder_digest: Digest,
    rows: usize,
    /// Under whose key the weights are encrypted, and the number of its canaries; none in clear.
    hidden: Option<(CompartmentName, u64)>,
    plain: Option<PlainModel>,
    tier: TierModel,
}

impl Model {
    /// Reads a model file.
    ///
    /// # Errors
    /// [`GateError::Model`] says which rule it breaks.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GateError> {
        if bytes.len() > MAX_MODEL_BYTES {
            return Err(refused(format!("it has {} bytes; at most {MAX_MODEL_BYTES} are read", bytes.len())));
        }
        let file: ModelFile = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        if file.format != FORMAT {
            return Err(refused(format!("its format is not `{FORMAT}`")));
        }
        if file.dimension != DIMENSION {
            return Err(refused(format!("its dimension is {}, that of the embedders {DIMENSION}", file.dimension)));
        }
        let bound = NormBound::new(file.norm_bound).map_err(|error| refused(error.to_string()))?;
        let params = Params::of_model(file.dimension, bound).map_err(|error| refused(error.to_string()))?;
        let rows = match &file.weights {
            Weights::Clear { rows, bias } if rows.len() == bias.len() => rows.len(),
            Weights::Clear { rows, bias } => {
                return Err(refused(format!("it has {} rows of weights and {} biases", rows.len(), bias.len())));
            }
            Weights::Encrypted { rows, .. } => *rows,
        };
        check_classes(file.kind, &file.classes, rows)?;
        let (hidden, plain, tier) = match file.weights {
            Weights::Clear { mut rows, bias } => {
                rows.iter_mut().zip(bias).for_each(|(row, bias)| row.push(bias));
                let plain = PlainModel::new(params, &rows).map_err(|error| refused(error.to_string()))?;
                (None, Some(plain.clone()), TierModel::plain(plain))
            }
            Weights::Encrypted { compartment, number, ciphertext, .. } => {
                let bytes = STANDARD.decode(ciphertext).map_err(|_| refused("its ciphertext is no base64"))?;
                let tier = TierModel::from_bytes(bytes).map_err(|error| refused(error.to_string()))?;
                if tier.is_plain() || *tier.params() != params {
                    return Err(refused("its ciphertext is not one of its dimension and norm bound"));
                }
                (Some((compartment, number)), None, tier)
            }
        };
        let ModelFile { kind, classes, embedder, embedder_digest, .. } = file;
        Ok(Self { kind, classes, bound, embedder, embedder_digest, rows, hidden, plain, tier })
    }

    /// A model in clear. `rows` hold the bias last; the norm bound is that of the longest row.
    pub(crate) fn new(
        kind: ModelKind,
        classes: Vec<String>,
        rows: &[Vec<f32>],
        embedder: &dyn casemate_embed::Embedder,
    ) -> Result<Self, GateError> {
        check_classes(kind, &classes, rows.len())?;
        let norm = |row: &Vec<f32>| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // A little more, so that rounding to f32 does not put a row beyond its bound.
        let longest = rows.iter().map(norm).fold(1e-3, f64::max) * 1.000_001;
        let bound = NormBound::new(longest as f32).map_err(|error| refused(error.to_string()))?;
        let params = Params::of_model(DIMENSION, bound).map_err(|error| refused(error.to_string()))?;
        let plain = PlainModel::new(params, rows).map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            kind,
            classes,
            bound,
            embedder: embedder.name().to_owned(),
            embedder_digest: embedder.digest(),
            rows: rows.len(),
            hidden: None,
            tier: TierModel::plain(plain.clone()),
            plain: Some(plain),
        })
    }

    /// The same model with its weights encrypted, and no others.
    pub(crate) fn hide(&self, compartment: CompartmentName, number: u64, tier: TierModel) -> Self {
        Self { hidden: Some((compartment, number)), plain: None, tier, ..self.clone() }
    }

    /// The file that [`from_bytes`](Self::from_bytes) reads.
    ///
    /// # Errors
    /// [`GateError::Model`] when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GateError> {
        let weights = match (&self.plain, &self.hidden) {
            (Some(plain), _) => {
                let split = |row: &[f32]| row.split_last().map(|(bias, weights)| (weights.to_vec(), *bias));
                let (rows, bias) = plain.rows().filter_map(split).unzip();
                Weights::Clear { rows, bias }
            }
            (None, Some((compartment, number))) => Weights::Encrypted {
                compartment: compartment.clone(),
                rows: self.rows,
                number: *number,
                ciphertext: STANDARD.encode(self.tier.bytes()),
            },
            (None, None) => return Err(refused("it has no weights")),
        };
        let file = ModelFile {
            format: FORMAT.to_owned(),
            kind: self.kind,
            classes: self.classes.clone(),
            dimension: DIMENSION,
            norm_bound: self.bound.value() as f32,
            embedder: self.embedder.clone(),
            embedder_digest: self.embedder_digest,
            weights,
        };
        serde_json::to_vec(&file).map_err(|error| refused(error.to_string()))
    }

    /// What its logits mean.
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// What its classes are called.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Rows of weights: one for each class, or one for two.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The compartment under whose key its weights are encrypted, and the number of its canaries; none when they are in clear.
    pub(crate) fn hidden(&self) -> Option<&(CompartmentName, u64)> {
        self.hidden.as_ref()
    }

    /// Its weights in clear.
    pub(crate) fn plain(&self) -> Option<&PlainModel> {
        self.plain.as_ref()
    }

    /// What the tier gets.
    pub fn tier(&self) -> &TierModel {
        &self.tier
    }

    /// Refuses vectors of another embedder: the weights would mean nothing.
    pub(crate) fn check_embedder(&self, embedder: &dyn casemate_embed::Embedder) -> Result<(), GateError> {
        if self.embedder_digest == embedder.digest() {
            return Ok(());
        }
        Err(refused(format!(
            "it was trained with {} ({}), but {} ({}) runs here; train it again",
            self.embedder,
            self.embedder_digest,
            embedder.name(),
            embedder.digest()
        )))
    }
}

/// Longest name of a class, in characters.
const MAX_CLASS_NAME: usize = 64;

fn check_classes(kind: ModelKind, classes: &[String], rows: usize) -> Result<(), GateError> {
    let fits = rows == classes.len() || (kind == ModelKind::Logistic && classes.len() == 2 && rows == 1);
    if !(2..=MAX_CLASSES).contains(&classes.len()) || !fits {
        return Err(refused(format!(
            "it has {} classes and {rows} rows of weights; 2 to {MAX_CLASSES} classes are possible, and a row for each (one row for \
             the two classes of a logistic model)",
            classes.len()
        )));
    }
    let named =
        |name: &String| (1..=MAX_CLASS_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if !classes.iter().all(named) || classes.iter().collect::<BTreeSet<_>>().len() != classes.len() {
        return Err(refused("its classes need names of 1 to 64 characters on one line, each another"));
    }
    Ok(())
}

pub(crate) fn refused(problem: impl Into<String>) -> GateError {
    GateError::Model(problem.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_embed::Lexical;
    use serde_json::{Value, json};

    use super::*;

    fn model() -> Model {
        let rows = vec![vec![0.25; DIMENSION + 1], vec![-0.5; DIMENSION + 1]];
        let classes = vec!["harmless".to_owned(), "personal".to_owned()];
        Model::new(ModelKind::Logistic, classes, &rows, &Lexical::fit(["a pump"])).unwrap()
    }

    fn with(change: impl FnOnce(&mut Value)) -> Result<Model, GateError> {
        let mut value: Value = serde_json::from_slice(&model().to_bytes().unwrap()).unwrap();
        change(&mut value);
        Model::from_bytes(value.to_string().as_bytes())
    }

    #[test]
    fn a_model_comes_back_from_its_file() {
        assert_eq!(Model::from_bytes(&model().to_bytes().unwrap()).unwrap(), model());
        let one_row = with(|value| {
            value["weights"]["clear"]["rows"].as_array_mut().unwrap().pop();
            value["weights"]["clear"]["bias"].as_array_mut().unwrap().pop();
        });
        assert_eq!(one_row.unwrap().rows(), 1);
    }

    #[test]
    fn malformed_foreign_and_oversized_models_are_refused_by_name() {
        let clear = |value: &mut Value, member: &str, new: Value| value["weights"]["clear"][member] = new;
        let cases: [(&str, Result<Model, GateError>); 12] = [
            ("format", with(|value| value["format"] = json!("other"))),
            ("unknown field", with(|value| value["extra"] = json!(1))),
            ("dimension is 385", with(|value| value["dimension"] = json!(385))),
            ("norm bound", with(|value| value["norm-bound"] = json!(-1.0))),
            ("exceed its norm bound", with(|value| value["norm-bound"] = json!(0.5))),
            ("1 biases", with(|value| clear(value, "bias", json!([0.0])))),
            ("classes", with(|value| value["classes"] = json!(["one"]))),
            ("each another", with(|value| value["classes"] = json!(["one", "one"]))),
            ("one line", with(|value| value["classes"] = json!(["one", "two\nlines"]))),
            ("expected", with(|value| clear(value, "rows", json!([[1.0], [2.0]])))),
            ("classes", with(|value| value["classes"] = json!((0..300).map(|n| n.to_string()).collect::<Vec<_>>()))),
            ("bytes; at most", Model::from_bytes(&vec![b' '; MAX_MODEL_BYTES + 1])),
        ];
        for (words, outcome) in cases {
            let error = outcome.map(drop).unwrap_err();
            assert!(matches!(&error, GateError::Model(problem) if problem.contains(words)), "{words}: {error}");
        }
        let encrypted = |ciphertext: String| {
            with(|value| {
                value["weights"] = json!({ "encrypted": { "compartment": "alpha", "rows": 2, "number": 1, "ciphertext": ciphertext } });
            })
        };
        assert!(encrypted("?".to_owned()).unwrap_err().to_string().contains("base64"));
        assert!(encrypted(STANDARD.encode([0; 90])).unwrap_err().to_string().contains("a model"));
        // Weights in clear under the name of encrypted ones.
        let clear = STANDARD.encode(model().tier().bytes());
        assert!(encrypted(clear).unwrap_err().to_string().contains("not one of its dimension"));
    }

    #[test]
    fn a_model_of_another_embedder_is_refused() {
        let other = Lexical::fit(["a valve", "a pump"]);
        assert!(model().check_embedder(&Lexical::fit(["a pump"])).is_ok());
        assert!(model().check_embedder(&other).unwrap_err().to_string().contains("train it again"));
    }
}
