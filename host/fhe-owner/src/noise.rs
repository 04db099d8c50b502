//! Fresh randomness: seeds from the operating system, noise from a key stream that each seeds.

use aws_lc_rs::rand;
use casemate_fhe::stream::{self, Domain};
use casemate_fhe::{NOISE_BOUND_LOG2, RING_DEGREE};
use zeroize::Zeroizing;

use crate::OwnerError;

/// Random bytes that may become public: identifiers, seeds of masks.
pub(crate) fn public<const LEN: usize>() -> Result<[u8; LEN], OwnerError> {
    let mut out = [0; LEN];
    rand::fill(&mut out).map_err(|_| OwnerError::Entropy)?;
    Ok(out)
}

/// Random bytes that stay secret.
pub(crate) fn secret<const LEN: usize>() -> Result<Zeroizing<[u8; LEN]>, OwnerError> {
    let mut out = Zeroizing::new([0; LEN]);
    rand::fill(out.as_mut()).map_err(|_| OwnerError::Entropy)?;
    Ok(out)
}

/// N samples of TUniform(17), from AES-256-CTR under a key drawn for them alone.
///
/// As tfhe 1.8.2 defines it: of b + 2 uniform bits, half of the number after them, rounded down, less 2^b. So -2^b and 2^b come
/// half as often as what lies between.
pub(crate) fn polynomial() -> Result<Zeroizing<Vec<u64>>, OwnerError> {
    let mut bytes = Zeroizing::new([0; 4 * RING_DEGREE]);
    stream::fill(&*secret()?, Domain::Noise, 0, bytes.as_mut_slice())?;
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    Ok(Zeroizing::new(words.map(|word| sample(word) as u64).collect()))
}

/// One sample from the low b + 2 bits of a uniform word.
fn sample(word: u32) -> i64 {
    const MASK: u32 = (1 << (NOISE_BOUND_LOG2 + 2)) - 1;
    i64::from(((word & MASK) + 1) >> 1) - (1 << NOISE_BOUND_LOG2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Every value the low bits can take, against the definition: uniform, with halved ends.
    #[test]
    fn sampling_is_exactly_t_uniform() {
        let bound = 1_i64 << NOISE_BOUND_LOG2;
        let mut counts = vec![0_u8; 2 * bound as usize + 1];
        for word in 0..1_u32 << (NOISE_BOUND_LOG2 + 2) {
            counts[(sample(word) + bound) as usize] += 1;
            assert_eq!(sample(word), sample(word | 0xfff8_0000));
        }
        let (ends, inner) = ([counts[0], *counts.last().unwrap()], &counts[1..counts.len() - 1]);
        assert_eq!(ends, [1, 1]);
        assert!(inner.iter().all(|count| *count == 2));
    }

    /// tfhe's own generator as the judge of the distribution.
    #[test]
    fn noise_has_the_moments_of_tfhe() {
        use tfhe::core_crypto::commons::math::random::{RandomGenerator, TUniform};
        use tfhe_csprng::generators::SoftwareRandomGenerator;
        use tfhe_csprng::seeders::Seed;
        let mut theirs = vec![0_u64; 32 * RING_DEGREE];
        RandomGenerator::<SoftwareRandomGenerator>::new(Seed(7))
            .fill_slice_with_random_from_distribution(&mut theirs, TUniform::new(NOISE_BOUND_LOG2));
        let ours: Vec<u64> = (0..32).flat_map(|_| polynomial().unwrap().to_vec()).collect();
        let moments = |samples: &[u64]| {
            let n = samples.len() as f64;
            let values = || samples.iter().map(|x| *x as i64 as f64 / 2f64.powi(NOISE_BOUND_LOG2 as i32));
            [
                values().sum::<f64>() / n,
                values().map(|x| x * x).sum::<f64>() / n,
                values().map(|x| x.powi(4)).sum::<f64>() / n,
            ]
        };
        for (ours, theirs) in moments(&ours).iter().zip(moments(&theirs)) {
            assert!((ours - theirs).abs() < 0.015, "{ours} and {theirs}");
        }
    }

    #[test]
    fn noise_has_the_bound_and_variance_of_t_uniform() {
        let mut squares = 0.0;
        for _ in 0..32 {
            for sample in polynomial().unwrap().iter().map(|x| *x as i64) {
                assert!(sample.abs() <= 1 << NOISE_BOUND_LOG2);
                squares += (sample as f64).powi(2);
            }
        }
        // Variance (2^(2b+1) + 1) / 6.
        let deviation = (squares / (32.0 * RING_DEGREE as f64)).sqrt();
        let expected = ((2f64.powi(35) + 1.0) / 6.0).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02, "{deviation} instead of {expected}");
        assert_ne!(polynomial().unwrap(), polynomial().unwrap());
    }
}
