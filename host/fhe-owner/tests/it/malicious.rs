//! A scoring tier that acts: what it does to a reply, byte by byte, and the name under which the owner refuses it.

use casemate_fhe::{EncryptedGroup, EncryptedScores, Params};
use casemate_fhe_owner::{CANARIES_PER_GROUP, Canaries, GroupPlace, OwnerError, OwnerKey};
use zeroize::Zeroizing;

use crate::{key, serve, unit_vectors};

/// Bytes before the first group's mask: header, query identifier, number of groups.
const FRONT: usize = 52 + 16 + 4;

struct Collection {
    key: OwnerKey,
    canaries: Canaries,
    places: Vec<GroupPlace>,
    groups: Vec<EncryptedGroup>,
    question: Vec<f32>,
}

impl Collection {
    /// Three groups, each with its canaries among 60 documents.
    fn new() -> Self {
        let params = Params::new(64, 8).unwrap();
        let key = key(6, params);
        let canaries = Canaries::new(&Zeroizing::new([8; 32]), "alpha", params);
        let places: Vec<_> =
            (0..3).map(|group| GroupPlace { group, version: 5, count: 60 + CANARIES_PER_GROUP }).collect();
        let groups = places
            .iter()
            .map(|place| {
                let mut vectors = unit_vectors(60, 64, u64::from(place.group) + 1);
                for canary in canaries.of(*place).unwrap() {
                    vectors.insert(canary.slot, canary.vector);
                }
                key.encrypt_group(&vectors.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
            })
            .collect();
        Self { key, canaries, places, groups, question: unit_vectors(1, 64, 77).remove(0) }
    }

    /// Asks, lets `trick` change the reply on its way, and checks it as the owner does.
    fn ask(&self, groups: &[EncryptedGroup], trick: impl FnOnce(&mut Vec<u8>)) -> Result<(), OwnerError> {
        let (query, secret) = self.key.query(&self.question).unwrap();
        let mut bytes = serve(groups, &query).to_bytes();
        trick(&mut bytes);
        let reply = EncryptedScores::from_bytes(&bytes)?;
        let counts: Vec<usize> = self.places.iter().map(|place| place.count).collect();
        let tolerance = secret.tolerance();
        let scores = secret.decrypt(&reply, &counts)?;
        self.canaries.check(&self.question, &self.places, &scores, tolerance).map(drop)
    }

    fn each(&self) -> usize {
        self.key.params().reply_bytes()
    }

    fn mask_bytes(&self) -> usize {
        2048 * self.key.params().reply_bits() as usize / 8
    }
}

#[test]
fn honest_tier_passes() {
    let collection = Collection::new();
    for _ in 0..20 {
        assert_eq!(collection.ask(&collection.groups, |_| {}), Ok(()));
    }
}

#[test]
fn zeroed_group_is_named() {
    let collection = Collection::new();
    let each = collection.each();
    for group in 0..3 {
        let refused = collection.ask(&collection.groups, |bytes| bytes[FRONT + group * each..][..each].fill(0));
        assert_eq!(refused, Err(OwnerError::CanaryMissed { group: group as u32 }));
    }
}

#[test]
fn lowered_scores_of_a_group_are_named() {
    let collection = Collection::new();
    let start = FRONT + collection.each() + collection.mask_bytes();
    let slots = collection.key.params().documents_per_group();
    // Every body of group 1 is a 16-bit number; a cosine of 0.01 is about 306.
    let refused = collection.ask(&collection.groups, |bytes| {
        for body in bytes[start..start + 2 * slots].chunks_exact_mut(2) {
            let lowered = u16::from_le_bytes([body[0], body[1]]).wrapping_sub(306);
            body.copy_from_slice(&lowered.to_le_bytes());
        }
    });
    assert!(
        matches!(refused, Err(OwnerError::CanaryMissed { group: 1 } | OwnerError::ReplyAltered { group: 1 })),
        "{refused:?}"
    );
    // Only where documents are, so that empty slots do not give it away.
    let refused = collection.ask(&collection.groups, |bytes| {
        for body in bytes[start..start + 2 * 64].chunks_exact_mut(2) {
            let lowered = u16::from_le_bytes([body[0], body[1]]).wrapping_sub(306);
            body.copy_from_slice(&lowered.to_le_bytes());
        }
    });
    assert_eq!(refused, Err(OwnerError::CanaryMissed { group: 1 }));
}

#[test]
fn swapped_groups_are_named() {
    let collection = Collection::new();
    let each = collection.each();
    let refused = collection.ask(&collection.groups, |bytes| {
        let (first, second) = bytes[FRONT..].split_at_mut(each);
        first.swap_with_slice(&mut second[..each]);
    });
    assert_eq!(refused, Err(OwnerError::CanaryMissed { group: 0 }));
    // The same by scoring a group twice instead of the one asked for.
    let twice = [collection.groups[0].clone(), collection.groups[0].clone(), collection.groups[2].clone()];
    assert_eq!(collection.ask(&twice, |_| {}), Err(OwnerError::CanaryMissed { group: 1 }));
}

#[test]
fn old_version_of_a_group_is_named() {
    let collection = Collection::new();
    let old = GroupPlace { version: 4, ..collection.places[2] };
    let mut vectors = unit_vectors(60, 64, 3);
    for canary in collection.canaries.of(old).unwrap() {
        vectors.insert(canary.slot, canary.vector);
    }
    let group = collection.key.encrypt_group(&vectors.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let groups = [collection.groups[0].clone(), collection.groups[1].clone(), group];
    assert_eq!(collection.ask(&groups, |_| {}), Err(OwnerError::CanaryMissed { group: 2 }));
}

#[test]
fn replayed_reply_is_named() {
    let collection = Collection::new();
    let (old, _) = collection.key.query(&collection.question).unwrap();
    let replayed = serve(&collection.groups, &old).to_bytes();
    let refused = collection.ask(&collection.groups, |bytes| *bytes = replayed.clone());
    assert_eq!(refused, Err(OwnerError::ForeignReply));
    // Relabelled with the identifier of the query that is asked: under the new secret it is noise.
    let refused = collection.ask(&collection.groups, |bytes| {
        let id = bytes[52..68].to_vec();
        bytes.clone_from(&replayed);
        bytes[52..68].copy_from_slice(&id);
    });
    assert!(matches!(refused, Err(OwnerError::ReplyAltered { .. })), "{refused:?}");
}

#[test]
fn truncated_reply_is_named() {
    let collection = Collection::new();
    let each = collection.each();
    let refused = collection.ask(&collection.groups, |bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(refused, Err(OwnerError::Fhe(_))), "{refused:?}");
    // A whole group less, with the number put right.
    let refused = collection.ask(&collection.groups, |bytes| {
        bytes.truncate(bytes.len() - each);
        bytes[68..72].copy_from_slice(&2_u32.to_le_bytes());
    });
    assert_eq!(refused, Err(OwnerError::Counts { replies: 2, counts: 3 }));
}
