//! What is encrypted of a vector, and what a decrypted number means: the one place that knows the measures.

use casemate_fhe::{Measure, Params};
use zeroize::Zeroizing;

use crate::OwnerError;

/// A vector this far from length one is a caller's mistake.
pub(crate) const NORM_TOLERANCE: f64 = 1e-3;
/// A norm may exceed its declared bound by rounding.
const BOUND_TOLERANCE: f64 = 1e-6;
/// The longest encoded document of the Euclidean measure: u in the unit ball and |u|^2 - 1/2.
const EUCLIDEAN_LENGTH: f64 = 1.118_033_988_749_895;

/// The score a decrypted share of one full score stands for: `offset + factor * share`.
#[derive(Clone, Copy)]
pub(crate) struct Meaning {
    pub(crate) factor: f64,
    pub(crate) offset: f64,
}

impl Meaning {
    pub(crate) fn score(&self, share: f32) -> f32 {
        (self.offset + self.factor * f64::from(share)) as f32
    }
}

/// The components of a document that are encrypted: `width` of them, of length one at most.
///
/// Cosine: x. Dot product: x/R. Euclidean: u = x/R and |u|^2 - 1/2, divided by the greatest length these can have.
pub(crate) fn document(params: &Params, vector: &[f32]) -> Result<Zeroizing<Vec<f64>>, OwnerError> {
    let norm = norm(params, vector)?;
    let mut out = Zeroizing::new(Vec::with_capacity(params.width()));
    match params.measure() {
        Measure::Cosine => {
            if (norm - 1.0).abs() > NORM_TOLERANCE {
                return Err(OwnerError::NotNormalised);
            }
            out.extend(vector.iter().map(|x| f64::from(*x)));
        }
        Measure::Dot(bound) => {
            within(norm, bound.value())?;
            out.extend(vector.iter().map(|x| f64::from(*x) / bound.value()));
        }
        Measure::Euclidean(bound) => {
            within(norm, bound.value())?;
            out.extend(vector.iter().map(|x| f64::from(*x) / bound.value() / EUCLIDEAN_LENGTH));
            out.push(((norm / bound.value()).powi(2) - 0.5) / EUCLIDEAN_LENGTH);
        }
        other => return Err(OwnerError::Measure { measure: other }),
    }
    Ok(out)
}

/// The components of a query that are encrypted, of length one, and what a decrypted share will mean.
///
/// Euclidean: with v = q/R the squared distance is `R^2 (|v|^2 - 2 u v + |u|^2)`, and the product of (u, |u|^2 - 1/2) with
/// (-2v, 1) holds all of it that depends on the document.
pub(crate) fn query(params: &Params, vector: &[f32]) -> Result<(Zeroizing<Vec<f64>>, Meaning), OwnerError> {
    let norm = norm(params, vector)?;
    let mut out = Zeroizing::new(Vec::with_capacity(params.width()));
    let meaning = match params.measure() {
        Measure::Cosine => {
            if (norm - 1.0).abs() > NORM_TOLERANCE {
                return Err(OwnerError::NotNormalised);
            }
            out.extend(vector.iter().map(|x| f64::from(*x) / norm));
            Meaning { factor: 1.0, offset: 0.0 }
        }
        Measure::Dot(bound) => {
            if norm == 0.0 {
                return Err(OwnerError::ZeroQuery);
            }
            out.extend(vector.iter().map(|x| f64::from(*x) / norm));
            Meaning { factor: bound.value() * norm, offset: 0.0 }
        }
        Measure::Euclidean(bound) => {
            let relative = norm / bound.value();
            let length = (4.0 * relative.powi(2) + 1.0).sqrt();
            out.extend(vector.iter().map(|x| -2.0 * f64::from(*x) / bound.value() / length));
            out.push(1.0 / length);
            let square = bound.value().powi(2);
            Meaning { factor: -square * EUCLIDEAN_LENGTH * length, offset: -square * (relative.powi(2) + 0.5) }
        }
        other => return Err(OwnerError::Measure { measure: other }),
    };
    Ok((out, meaning))
}

/// The vector that [`document`] encoded, from its components; nothing when no document could have given them.
pub(crate) fn decode(params: &Params, components: &[f64]) -> Option<Vec<f32>> {
    let slack = 2.0 * NORM_TOLERANCE + 8.0 * component_error(params) * (params.width() as f64).sqrt();
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scaled = |values: &[f64], by: f64| values.iter().map(|x| (x * by) as f32).collect();
    match params.measure() {
        Measure::Cosine => ((norm(components) - 1.0).abs() < slack).then(|| scaled(components, 1.0)),
        Measure::Dot(bound) => (norm(components) < 1.0 + slack).then(|| scaled(components, bound.value())),
        Measure::Euclidean(bound) => {
            let (last, rest) = components.split_last()?;
            let length = norm(rest) * EUCLIDEAN_LENGTH;
            let expected = (length.powi(2) - 0.5) / EUCLIDEAN_LENGTH;
            ((last - expected).abs() < 3.0 * slack && length < 1.0 + slack)
                .then(|| scaled(rest, bound.value() * EUCLIDEAN_LENGTH))
        }
        _ => None,
    }
}

/// Whether components are those of a slot without a document.
pub(crate) fn empty(params: &Params, components: &[f64]) -> bool {
    let slack = 2.0 * NORM_TOLERANCE + 8.0 * component_error(params) * (params.width() as f64).sqrt();
    components.iter().map(|x| x * x).sum::<f64>().sqrt() < slack
}

/// RMS error of a decrypted component: what the bits dropped at rest leave.
fn component_error(params: &Params) -> f64 {
    2f64.powi(64 - params.body_bits() as i32) / 12f64.sqrt() / params.delta()
}

/// The length of a vector that is one of this collection's.
fn norm(params: &Params, vector: &[f32]) -> Result<f64, OwnerError> {
    if vector.len() != params.dimension() {
        return Err(OwnerError::Dimension { expected: params.dimension(), actual: vector.len() });
    }
    if vector.iter().any(|x| !x.is_finite()) {
        return Err(OwnerError::NotFinite);
    }
    Ok(vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt())
}

fn within(norm: f64, bound: f64) -> Result<(), OwnerError> {
    if norm <= bound * (1.0 + BOUND_TOLERANCE) { Ok(()) } else { Err(OwnerError::NormBound) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_fhe::NormBound;

    use super::*;

    fn params(measure: Measure) -> Params {
        Params::new(3, 4).unwrap().with_measure(measure)
    }

    #[test]
    fn product_of_the_encodings_is_the_exact_score() {
        let bound = NormBound::new(5.0).unwrap();
        for (measure, q, x) in [
            (Measure::Cosine, [0.6, 0.8, 0.0], [0.0, 0.6, -0.8]),
            (Measure::Dot(bound), [3.0, -7.0, 20.0], [1.0, 2.0, -4.0]),
            (Measure::Euclidean(bound), [3.0, -7.0, 20.0], [1.0, 2.0, -4.0]),
            (Measure::Euclidean(bound), [0.0, 0.0, 0.0], [3.0, 0.0, -4.0]),
            (Measure::Euclidean(bound), [0.5, 0.25, 0.125], [0.0, 0.0, 0.0]),
        ] {
            let params = params(measure);
            let (encoded, meaning) = query(&params, &q).unwrap();
            let document = document(&params, &x).unwrap();
            assert_eq!((encoded.len(), document.len()), (params.width(), params.width()));
            let product: f64 = encoded.iter().zip(document.iter()).map(|(a, b)| a * b).sum();
            assert!(product.abs() <= 1.0 + 1e-9);
            let score = meaning.offset + meaning.factor * product;
            assert!((score - measure.score(&q, &x)).abs() < 1e-4, "{measure}: {score}");
            let back = decode(&params, &document).unwrap();
            assert!(back.iter().zip(x).all(|(a, b)| (a - b).abs() < 1e-6), "{measure}: {back:?}");
        }
    }

    #[test]
    fn vector_beyond_its_declared_bound_is_refused() {
        let bound = NormBound::new(5.0).unwrap();
        for measure in [Measure::Dot(bound), Measure::Euclidean(bound)] {
            assert!(document(&params(measure), &[3.0, 4.0, 0.0]).is_ok());
            assert_eq!(document(&params(measure), &[3.0, 4.0, 0.1]).unwrap_err(), OwnerError::NormBound);
            assert_eq!(document(&params(measure), &[f32::MAX; 3]).unwrap_err(), OwnerError::NormBound);
        }
        assert_eq!(query(&params(Measure::Dot(bound)), &[0.0; 3]).map(drop).unwrap_err(), OwnerError::ZeroQuery);
    }
}
