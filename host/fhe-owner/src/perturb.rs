//! Scale-and-perturb (Fuchsbauer, Ghosal, Hauke, O'Neill, "Approximate Distance-Comparison-Preserving Symmetric Encryption", SCN 2022,
//! construction SAP): `c = s m + lambda`, with lambda uniform in the ball of radius `s beta / 4`.
//!
//! Not encryption as the rest of this crate is: distances between stored vectors show, and so do the vectors, up to noise, to whoever
//! knows the model that made them. For candidate mode only, which a site has to ask for; see `docs/encrypted-search.md`.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use casemate_fhe::FheError;
use zeroize::Zeroizing;

use crate::{OwnerError, noise};

/// A collection's secret scale, and how strong the noise is.
pub struct Perturbation {
    scale: f64,
    beta: f64,
}

impl Perturbation {
    /// The perturbation of a collection, from a secret of its owner's. With `beta` as the paper has it, distances that differ by more
    /// than that compare as those of the vectors do.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(secret: &Zeroizing<[u8; 32]>, collection: &str, beta: f64) -> Result<Self, OwnerError> {
        let prk = Salt::new(HKDF_SHA256, b"casemate scale-and-perturb 1").extract(secret.as_slice());
        let mut seed = Zeroizing::new([0; 8]);
        let info = [collection.as_bytes()];
        let okm = prk.expand(&info, Length).and_then(|okm| okm.fill(seed.as_mut()));
        okm.map_err(|_| FheError::Cipher)?;
        // Between 1 and 1,024, uniform in its logarithm.
        Ok(Self { scale: (uniform(*seed) * 10.0).exp2(), beta })
    }

    /// A vector, perturbed anew each time: for a stored one and for a query alike.
    ///
    /// # Errors
    /// [`OwnerError::Entropy`].
    pub fn perturb(&self, vector: &[f32]) -> Result<Vec<f32>, OwnerError> {
        let dimension = vector.len().max(1) as f64;
        // Direction: of a normal vector. Length: so that the ball is filled evenly.
        let mut direction = Zeroizing::new(Vec::with_capacity(vector.len() + 1));
        while direction.len() < vector.len() {
            // Box and Muller; 1 - u is not 0.
            let (radius, angle) = ((-2.0 * (1.0 - draw()?).ln()).sqrt(), std::f64::consts::TAU * draw()?);
            direction.extend([radius * angle.cos(), radius * angle.sin()]);
        }
        direction.truncate(vector.len());
        let norm = direction.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let length = self.scale * self.beta / 4.0 * draw()?.powf(dimension.recip());
        let perturbed = vector.iter().zip(direction.iter());
        Ok(perturbed.map(|(value, noise)| (self.scale * f64::from(*value) + length * noise / norm) as f32).collect())
    }
}

struct Length;

impl aws_lc_rs::hkdf::KeyType for Length {
    fn len(&self) -> usize {
        8
    }
}

fn draw() -> Result<f64, OwnerError> {
    Ok(uniform(*noise::secret()?))
}

/// 53 bits, at least 0 and below 1.
fn uniform(bytes: [u8; 8]) -> f64 {
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DIMENSION: usize = 64;

    fn perturbation(collection: &str, beta: f64) -> Perturbation {
        Perturbation::new(&Zeroizing::new([5; 32]), collection, beta).unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    }

    fn unit(number: usize) -> Vec<f32> {
        (0..DIMENSION).map(|place| if place == number % DIMENSION { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn noise_fills_its_ball_and_never_leaves_it() {
        let beta = 1.5;
        let perturbation = perturbation("alpha", beta);
        let scaled: Vec<f32> = unit(3).iter().map(|value| (f64::from(*value) * perturbation.scale) as f32).collect();
        let radius = perturbation.scale * beta / 4.0;
        let lengths: Vec<f64> =
            (0..2000).map(|_| distance(&perturbation.perturb(&unit(3)).unwrap(), &scaled) / radius).collect();
        assert!(lengths.iter().all(|length| *length <= 1.0 + 1e-4));
        // Half of a ball of 64 dimensions lies beyond 2^(-1/64) of its radius.
        let beyond = lengths.iter().filter(|length| **length > 0.5_f64.powf(1.0 / 64.0)).count();
        assert!((850..1150).contains(&beyond), "{beyond} of 2000");
    }

    #[test]
    fn distances_that_differ_by_more_than_beta_compare_as_before() {
        let beta = 0.4;
        let perturbation = perturbation("alpha", beta);
        let (origin, far) = (unit(0), unit(1));
        let near: Vec<f32> = origin.iter().zip(&far).map(|(a, b)| 0.7 * a + 0.3 * b).collect();
        assert!(distance(&origin, &near) + beta < distance(&origin, &far));
        for _ in 0..200 {
            let [origin, near, far] = [&origin, &near, &far].map(|vector| perturbation.perturb(vector).unwrap());
            assert!(distance(&origin, &near) < distance(&origin, &far));
        }
    }

    #[test]
    fn collections_have_scales_of_their_own_and_no_two_perturbations_are_alike() {
        let scales = ["alpha", "beta", "gamma"].map(|name| perturbation(name, 1.0).scale);
        assert!(scales.iter().all(|scale| (1.0..1024.0).contains(scale)), "{scales:?}");
        assert!(scales[0] != scales[1] && scales[1] != scales[2]);
        assert_eq!(perturbation("alpha", 1.0).scale, scales[0]);
        let alpha = perturbation("alpha", 1.0);
        assert_ne!(alpha.perturb(&unit(0)).unwrap(), alpha.perturb(&unit(0)).unwrap());
    }
}
