//! Masks from seeds: AES-256 in counter mode (SP 800-38A section 6.5), the seed as the key.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use crate::{FheError, RING_DEGREE};

/// Bytes of a seed.
pub const SEED_BYTES: usize = 32;

/// Separates what one seed may be used for: the first half of the counter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Where a group's canaries lie, and what they are.
    Canaries,
    /// Which documents are fetched beside the wanted ones.
    Decoys,
    /// The mask of a group.
    GroupMask,
    /// Noise of a ciphertext.
    Noise,
    /// The masks of a query's rows.
    QueryMask,
    /// The owner's binary secrets.
    Secrets,
}

/// Writes the key stream of `seed` from byte `16 * first_block` over `out`.
///
/// # Errors
/// [`FheError::Cipher`] when the back end fails.
pub fn fill(seed: &[u8; SEED_BYTES], domain: Domain, first_block: u64, out: &mut [u8]) -> Result<(), FheError> {
    let mut counter = [0_u8; 16];
    let (tag, block) = counter.split_at_mut(8);
    tag.copy_from_slice(match domain {
        Domain::Canaries => b"canaries",
        Domain::Decoys => b"decoys\0\0",
        Domain::GroupMask => b"grp-mask",
        Domain::Noise => b"noise\0\0\0",
        Domain::QueryMask => b"qry-mask",
        Domain::Secrets => b"secrets\0",
    });
    block.copy_from_slice(&first_block.to_be_bytes());
    out.fill(0);
    let key = UnboundCipherKey::new(&AES_256, seed).map_err(|_| FheError::Cipher)?;
    EncryptingKey::ctr(key)
        .and_then(|key| key.less_safe_encrypt(out, EncryptionContext::Iv128(FixedLength::from(counter))))
        .map_err(|_| FheError::Cipher)?;
    Ok(())
}

/// Polynomial `index` of the mask stream of `seed`: N uniform 64-bit coefficients.
///
/// # Errors
/// [`FheError::Cipher`] when the back end fails.
pub fn mask(seed: &[u8; SEED_BYTES], domain: Domain, index: usize) -> Result<Vec<u64>, FheError> {
    const BYTES: usize = RING_DEGREE * 8;
    let mut bytes = vec![0; BYTES];
    fill(seed, domain, (index * (BYTES / 16)) as u64, &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consecutive_and_domains_differ() {
        let seed = [7; 32];
        let mut both = vec![0; RING_DEGREE * 16];
        fill(&seed, Domain::QueryMask, 0, &mut both).unwrap();
        let second = mask(&seed, Domain::QueryMask, 1).unwrap();
        assert_eq!(both[RING_DEGREE * 8..][..8], second[0].to_le_bytes());
        assert_ne!(mask(&seed, Domain::GroupMask, 0).unwrap(), mask(&seed, Domain::QueryMask, 0).unwrap());
    }

    #[test]
    fn stream_can_be_entered_at_any_block() {
        // One AES block per counter value: a stream started one block later is shifted by 16 bytes.
        let (mut a, mut b) = ([1; 48], [2; 32]);
        fill(&[9; 32], Domain::Secrets, 0, &mut a).unwrap();
        fill(&[9; 32], Domain::Secrets, 1, &mut b).unwrap();
        assert_eq!(a[16..], b);
    }
}
