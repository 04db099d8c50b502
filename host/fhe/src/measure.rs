use std::fmt;

use crate::FheError;

/// The greatest Euclidean norm a vector of a collection may have: finite and above zero. Declared by its owner, enforced at
/// encryption.
#[derive(Debug, Clone, Copy)]
pub struct NormBound(f32);

impl NormBound {
    /// # Errors
    /// [`FheError::NormBound`] unless `bound` is in 1e-6 to 1e6.
    pub fn new(bound: f32) -> Result<Self, FheError> {
        if (1e-6..=1e6).contains(&bound) { Ok(Self(bound)) } else { Err(FheError::NormBound) }
    }

    /// The bound.
    pub fn value(&self) -> f64 {
        f64::from(self.0)
    }

    pub(crate) fn to_bits(self) -> u32 {
        self.0.to_bits()
    }
}

// The value is no NaN and never negative zero, so equal bits mean equal bounds.
impl PartialEq for NormBound {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for NormBound {}

impl std::hash::Hash for NormBound {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// What a score says about a query and a document. A higher score is always closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Measure {
    /// The cosine. Documents and queries have length one.
    #[default]
    Cosine,
    /// The dot product. Documents have at most this norm; a query may have any but zero.
    Dot(NormBound),
    /// Minus the squared Euclidean distance. Documents have at most this norm; a query may have any.
    Euclidean(NormBound),
}

impl Measure {
    /// The exact score, in f64.
    pub fn score(&self, query: &[f32], document: &[f32]) -> f64 {
        let pairs = || query.iter().zip(document).map(|(q, x)| (f64::from(*q), f64::from(*x)));
        match self {
            Self::Cosine => {
                let norm = query.iter().map(|q| f64::from(*q).powi(2)).sum::<f64>().sqrt();
                pairs().map(|(q, x)| q * x).sum::<f64>() / norm
            }
            Self::Dot(_) => pairs().map(|(q, x)| q * x).sum(),
            Self::Euclidean(_) => -pairs().map(|(q, x)| (q - x).powi(2)).sum::<f64>(),
        }
    }

    /// Components added to a vector before it is encrypted: one for the squared norm of a document.
    pub(crate) fn extra(&self) -> usize {
        match self {
            Self::Cosine | Self::Dot(_) => 0,
            Self::Euclidean(_) => 1,
        }
    }

    pub(crate) fn to_tag(self) -> (u8, u32) {
        match self {
            Self::Cosine => (0, 0),
            Self::Dot(bound) => (1, bound.to_bits()),
            Self::Euclidean(bound) => (2, bound.to_bits()),
        }
    }

    pub(crate) fn from_tag(tag: u8, bound: u32) -> Result<Self, FheError> {
        let bounded = || NormBound::new(f32::from_bits(bound));
        match tag {
            0 if bound == 0 => Ok(Self::Cosine),
            1 => Ok(Self::Dot(bounded()?)),
            2 => Ok(Self::Euclidean(bounded()?)),
            _ => Err(FheError::Measure { tag }),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosine => f.write_str("cosine"),
            Self::Dot(bound) => write!(f, "dot product up to norm {}", bound.0),
            Self::Euclidean(bound) => write!(f, "Euclidean up to norm {}", bound.0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn exact_scores_are_those_of_the_textbook() {
        let bound = NormBound::new(10.0).unwrap();
        let (q, x) = ([3.0, 4.0], [1.0, 2.0]);
        assert!((Measure::Cosine.score(&q, &x) - 2.2).abs() < 1e-12);
        assert!((Measure::Dot(bound).score(&q, &x) - 11.0).abs() < 1e-12);
        assert!((Measure::Euclidean(bound).score(&q, &x) + 8.0).abs() < 1e-12);
    }

    #[test]
    fn hostile_bounds_and_measures_are_named() {
        for bound in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-30, 1e30] {
            assert_eq!(NormBound::new(bound).unwrap_err(), FheError::NormBound);
        }
        assert_eq!(Measure::from_tag(3, 0), Err(FheError::Measure { tag: 3 }));
        assert_eq!(Measure::from_tag(0, 1), Err(FheError::Measure { tag: 0 }));
        assert_eq!(Measure::from_tag(1, f32::NAN.to_bits()), Err(FheError::NormBound));
        for measure in [Measure::Cosine, Measure::Euclidean(NormBound::new(0.5).unwrap())] {
            let (tag, bound) = measure.to_tag();
            assert_eq!(Measure::from_tag(tag, bound), Ok(measure));
        }
    }
}
