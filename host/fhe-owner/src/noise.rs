//! Fresh randomness: seeds from the operating system, noise from tfhe's generator.

use aws_lc_rs::rand;
use casemate_fhe::{NOISE_BOUND_LOG2, RING_DEGREE};
use tfhe::core_crypto::commons::math::random::{RandomGenerator, TUniform};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use tfhe_csprng::generators::DefaultRandomGenerator;
use tfhe_csprng::generators::SoftwareRandomGenerator;
use tfhe_csprng::seeders::Seed;
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

/// N samples of TUniform(17) from a generator seeded for them alone.
pub(crate) fn polynomial() -> Result<Zeroizing<Vec<u64>>, OwnerError> {
    let seed = Seed(u128::from_le_bytes(*secret()?));
    let mut noise = Zeroizing::new(vec![0_u64; RING_DEGREE]);
    let distribution = TUniform::new(NOISE_BOUND_LOG2);
    // tfhe's fast generators abort on processors without AES instructions.
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("sse2");
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if fast {
        RandomGenerator::<DefaultRandomGenerator>::new(seed)
            .fill_slice_with_random_from_distribution(&mut noise, distribution);
        return Ok(noise);
    }
    RandomGenerator::<SoftwareRandomGenerator>::new(seed)
        .fill_slice_with_random_from_distribution(&mut noise, distribution);
    Ok(noise)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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
