//! Which passages are fetched after a search: a fixed number, most of them decoys, in an order that says nothing.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use casemate_fhe::FheError;
use casemate_fhe::stream::{self, Domain};
use zeroize::Zeroizing;

use crate::OwnerError;

/// Picks `size` of `likely` and `others` (positions, without repetitions): all of `wanted`, and decoys; in random order.
///
/// Decoys and order come from a stream keyed by a secret of the owner's and the question, so the same question always fetches
/// the same passages: asking again and intersecting what is fetched gives nothing. Decoys are drawn from `likely` first (with a
/// filter: what matches it, since the store knows that), then from `others`. Fewer than `size` come out only when there are not
/// so many.
///
/// # Errors
/// When the cryptographic library fails.
pub fn fetch_plan<T: Copy + PartialEq>(
    secret: &Zeroizing<[u8; 32]>,
    question: &[&[u8]],
    wanted: &[T],
    likely: Vec<T>,
    others: Vec<T>,
    size: usize,
) -> Result<Vec<T>, OwnerError> {
    let prk = Salt::new(HKDF_SHA256, b"casemate decoys 1").extract(secret.as_slice());
    let mut seed = Zeroizing::new([0; 32]);
    let lengths: Vec<[u8; 8]> = question.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
    let info: Vec<&[u8]> = lengths.iter().zip(question).flat_map(|(length, part)| [length.as_slice(), part]).collect();
    prk.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(seed.as_mut())).map_err(|_| FheError::Cipher)?;
    let mut stream = Numbers { seed, block: 0 };

    let mut plan = wanted.to_vec();
    for mut pool in [likely, others] {
        // A partial Fisher-Yates shuffle: wanted ones may be drawn, and are passed over.
        let mut drawn = 0;
        while plan.len() < size && drawn < pool.len() {
            let other = drawn + stream.below(pool.len() - drawn)?;
            pool.swap(drawn, other);
            if let Some(place) = pool.get(drawn).filter(|place| !wanted.contains(place)) {
                plan.push(*place);
            }
            drawn += 1;
        }
    }
    for last in (1..plan.len()).rev() {
        let other = stream.below(last + 1)?;
        plan.swap(last, other);
    }
    Ok(plan)
}

/// Random numbers from a key stream.
struct Numbers {
    seed: Zeroizing<[u8; 32]>,
    block: u64,
}

impl Numbers {
    /// A number below `limit` (at least 1): the high half of a product of 64 bits, of negligible bias.
    fn below(&mut self, limit: usize) -> Result<usize, OwnerError> {
        let mut bytes = [0; 16];
        stream::fill(&self.seed, Domain::Decoys, self.block, &mut bytes)?;
        self.block += 1;
        let number = u128::from_be_bytes(bytes) >> 64;
        Ok(((number * limit as u128) >> 64) as usize)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan(question: &[u8], wanted: &[u32], likely: u32, total: u32, size: usize) -> Vec<u32> {
        let secret = Zeroizing::new([9; 32]);
        fetch_plan(&secret, &[question], wanted, (0..likely).collect(), (likely..total).collect(), size).unwrap()
    }

    #[test]
    fn every_search_fetches_the_same_number() {
        for wanted in [&[][..], &[3], &[1, 2, 3, 500, 999]] {
            let plan = plan(b"q", wanted, 1000, 1000, 24);
            assert_eq!(plan.iter().collect::<BTreeSet<_>>().len(), 24);
            assert!(wanted.iter().all(|place| plan.contains(place)));
        }
        assert_eq!(plan(b"q", &[1], 5, 5, 24).len(), 5);
    }

    #[test]
    fn asking_again_fetches_the_same_and_another_question_others() {
        let first = plan(b"one question", &[7, 8], 1000, 1000, 24);
        assert_eq!(first, plan(b"one question", &[7, 8], 1000, 1000, 24));
        let second = plan(b"another", &[7, 8], 1000, 1000, 24);
        assert!(first.iter().filter(|place| second.contains(place)).count() < 8);
    }

    #[test]
    fn order_does_not_tell_the_wanted_from_the_decoys() {
        let mut at = [0; 8];
        for question in 0..800_u32 {
            let plan = plan(&question.to_be_bytes(), &[5], 1000, 1000, 8);
            at[plan.iter().position(|place| *place == 5).unwrap()] += 1;
        }
        // 100 expected at each place.
        assert!(at.iter().all(|count| (60..140).contains(count)), "{at:?}");
    }

    #[test]
    fn decoys_match_the_filter_as_long_as_there_are_any() {
        let plan = plan(b"q", &[2], 10, 1000, 24);
        assert_eq!(plan.iter().filter(|place| **place < 10).count(), 10);
        assert_eq!(plan.len(), 24);
    }
}
