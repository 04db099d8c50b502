//! Documents that nobody wrote: planted by the owner into every group, at places and with vectors that only the owner can
//! compute. Their scores are known before the reply comes, so a tier that lowers, zeroes, swaps or replays a group's scores is
//! seen, whatever the question was.

use std::collections::BTreeMap;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use casemate_fhe::stream::{self, Domain};
use casemate_fhe::{FheError, Measure, Params};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::OwnerError;

/// Canaries in each group. Each has a score away from zero by more than the noise with probability 0.97 at least.
pub const CANARIES_PER_GROUP: usize = 4;

/// Where a group's canaries lie and what they are; derived, never stored.
pub struct Canaries {
    key: Prk,
    params: Params,
}

/// One canary.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// Its slot.
    pub slot: usize,
    /// Its vector.
    pub vector: Vec<f32>,
    /// A name for it that nobody can guess, for a group that is new. A group that is written anew keeps its canaries' first names:
    /// names that changed would tell canaries from documents.
    pub name: [u8; 16],
}

/// Which group of which version, and how full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPlace {
    /// Number of the group.
    pub group: u32,
    /// The version it was encrypted in.
    pub version: u64,
    /// Documents in it, canaries among them.
    pub count: usize,
}

impl Canaries {
    /// Derives from a secret of the owner's and the collection's name (HKDF-SHA256, RFC 5869).
    pub fn new(secret: &Zeroizing<[u8; 32]>, collection: &str, params: Params) -> Self {
        let salt = Salt::new(HKDF_SHA256, b"casemate canaries 1");
        let mut material = Zeroizing::new(secret.to_vec());
        material.extend_from_slice(collection.as_bytes());
        Self { key: salt.extract(&material), params }
    }

    /// The canaries of a group, by rising slot. They differ with the group, its version and its count.
    ///
    /// # Errors
    /// [`OwnerError::NoCanaries`] for a group that is too small or too large to have any, or when the library fails.
    pub fn of(&self, place: GroupPlace) -> Result<Vec<Canary>, OwnerError> {
        if !(CANARIES_PER_GROUP..=self.params.documents_per_group()).contains(&place.count) {
            return Err(OwnerError::NoCanaries { group: place.group, count: place.count });
        }
        let digest = self.params.digest();
        let info: [&[u8]; 4] = [
            digest.as_bytes(),
            &place.group.to_be_bytes(),
            &place.version.to_be_bytes(),
            &(place.count as u64).to_be_bytes(),
        ];
        let mut seed = Zeroizing::new([0; 32]);
        self.key.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(seed.as_mut())).map_err(|_| FheError::Cipher)?;
        let signs = self.params.dimension().div_ceil(8);
        let each = 8 + 16 + signs;
        let mut bytes = Zeroizing::new(vec![0; CANARIES_PER_GROUP * each]);
        stream::fill(&seed, Domain::Canaries, 0, &mut bytes)?;

        let mut canaries: BTreeMap<usize, Canary> = BTreeMap::new();
        for chunk in bytes.chunks_exact(each) {
            let (place_bytes, rest) = chunk.split_at(8);
            let (name_bytes, signs) = rest.split_at(16);
            let (mut number, mut name) = ([0; 8], [0; 16]);
            number.copy_from_slice(place_bytes);
            name.copy_from_slice(name_bytes);
            // 64 bits modulo at most 512: no bias worth the name. A slot that is taken gives way to the next free one.
            let mut slot = (u64::from_be_bytes(number) % place.count as u64) as usize;
            while canaries.contains_key(&slot) {
                slot = (slot + 1) % place.count;
            }
            canaries.insert(slot, Canary { slot, vector: self.vector(signs), name });
        }
        Ok(canaries.into_values().collect())
    }

    /// Compares the decrypted scores of every canary with what its vector gives, and returns the slots of each group's canaries.
    ///
    /// # Errors
    /// [`OwnerError::CanaryMissed`] with the number of the first group whose canaries do not have their scores.
    pub fn check(
        &self,
        query: &[f32],
        places: &[GroupPlace],
        scores: &[Vec<f32>],
        tolerance: f32,
    ) -> Result<Vec<[usize; CANARIES_PER_GROUP]>, OwnerError> {
        if places.len() != scores.len() {
            return Err(OwnerError::Counts { replies: scores.len(), counts: places.len() });
        }
        let checked = places.par_iter().zip(scores).map(|(place, scores)| {
            let mut slots = [0; CANARIES_PER_GROUP];
            for (slot, canary) in slots.iter_mut().zip(self.of(*place)?) {
                let exact = self.params.measure().score(query, &canary.vector) as f32;
                if scores.get(canary.slot).is_none_or(|score| (score - exact).abs() > tolerance) {
                    return Err(OwnerError::CanaryMissed { group: place.group });
                }
                *slot = canary.slot;
            }
            Ok(slots)
        });
        // In order, so that the first group is named whichever thread is faster.
        checked.collect::<Vec<_>>().into_iter().collect()
    }

    /// Equal components with random signs, as long as a document may be.
    fn vector(&self, signs: &[u8]) -> Vec<f32> {
        let length = match self.params.measure() {
            Measure::Dot(bound) | Measure::Euclidean(bound) => bound.value(),
            _ => 1.0,
        };
        let dimension = self.params.dimension();
        let component = (length / (dimension as f64).sqrt()) as f32;
        let negative = |i: usize| signs.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
        (0..dimension).map(|i| if negative(i) { -component } else { component }).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn canaries(byte: u8, collection: &str) -> Canaries {
        Canaries::new(&Zeroizing::new([byte; 32]), collection, Params::default())
    }

    fn place(group: u32, version: u64, count: usize) -> GroupPlace {
        GroupPlace { group, version, count }
    }

    #[test]
    fn places_and_vectors_depend_on_everything_and_repeat() {
        let all = [
            canaries(1, "a").of(place(0, 1, 200)),
            canaries(2, "a").of(place(0, 1, 200)),
            canaries(1, "b").of(place(0, 1, 200)),
            canaries(1, "a").of(place(1, 1, 200)),
            canaries(1, "a").of(place(0, 2, 200)),
            canaries(1, "a").of(place(0, 1, 201)),
        ]
        .map(Result::unwrap);
        assert_eq!(all[0], canaries(1, "a").of(place(0, 1, 200)).unwrap());
        let names: BTreeSet<_> = all.iter().flatten().map(|canary| canary.name).collect();
        assert_eq!(names.len(), 6 * CANARIES_PER_GROUP);
        for canary in all.iter().flatten() {
            let norm = canary.vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn slots_are_distinct_and_cover_the_group() {
        let canaries = canaries(3, "a");
        let mut seen = [0; 8];
        for version in 0..400 {
            let slots: BTreeSet<_> =
                canaries.of(place(0, version, 8)).unwrap().iter().map(|canary| canary.slot).collect();
            assert_eq!(slots.len(), CANARIES_PER_GROUP);
            slots.iter().for_each(|slot| seen[*slot] += 1);
        }
        // 200 expected of each.
        assert!(seen.iter().all(|count| (140..260).contains(count)), "{seen:?}");
        assert!(canaries.of(place(0, 1, 4)).is_ok());
        for count in [0, 3, 257] {
            assert_eq!(canaries.of(place(9, 1, count)).unwrap_err(), OwnerError::NoCanaries { group: 9, count });
        }
    }

    #[test]
    fn scores_of_random_questions_are_away_from_zero() {
        // What makes zeroed scores visible: of four canaries nearly always all are out of the noise, and always some.
        let canaries = canaries(4, "a");
        let tolerance = Params::default().noise_budget().tolerance() as f32;
        let question: Vec<f32> = canaries.of(place(7, 7, 100)).unwrap()[0].vector.clone();
        let mut visible = 0;
        for group in 0..200 {
            let scores = canaries.of(place(group, 1, 250)).unwrap();
            let out = |canary: &&Canary| Measure::Cosine.score(&question, &canary.vector).abs() as f32 > tolerance;
            let number = scores.iter().filter(out).count();
            assert!(number > 0);
            visible += number;
        }
        assert!(visible > 760, "{visible} of 800");
    }
}
