//! Groups of close passages, so that a search needs to score only a few: inverted lists under encryption.
//!
//! The owner keeps the groups' centroids in the sealed manifest, compares a question with them in the gate, and has a fixed number of
//! groups scored. The tier learns which. See `docs/encrypted-search.md`.

use std::collections::BTreeMap;

use casemate_vectors::{DocumentId, GroupEntry};
use serde::{Deserialize, Serialize};

use crate::collection::{Manifest, Passage, cosine};

/// The direction of a group's mean, eight bits a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Centroid(#[serde(with = "hex::serde")] Vec<u8>);

impl Centroid {
    /// Of these passages; canaries, which point anywhere, are to be left out.
    pub(crate) fn of(members: &[(DocumentId, Passage)]) -> Self {
        let vectors: Vec<Vec<f32>> = members.iter().map(|(_, passage)| passage.vector()).collect();
        let mean = mean(vectors.iter().map(Vec::as_slice));
        let largest = mean.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        Self(mean.iter().map(|value| ((value / largest * 127.0).round() as i8).cast_unsigned()).collect())
    }

    /// The cosine to a vector of unit length, whatever the length of what was stored.
    fn closeness(&self, vector: &[f32]) -> f32 {
        let own: Vec<f32> = self.0.iter().map(|byte| f32::from(byte.cast_signed())).collect();
        cosine(&own, vector) / cosine(&own, &own).sqrt().max(f32::MIN_POSITIVE)
    }
}

/// The `probes` groups whose centroids are closest to a vector, in the manifest's order; none while some group has no centroid.
pub(crate) fn probed(manifest: &Manifest, vector: &[f32], probes: usize) -> Option<Vec<GroupEntry>> {
    let mut close: Vec<(f32, &GroupEntry)> = Vec::with_capacity(manifest.groups.groups.len());
    for entry in &manifest.groups.groups {
        close.push((manifest.centroids.get(&entry.group)?.closeness(vector), entry));
    }
    close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.group.cmp(&b.1.group)));
    let mut groups: Vec<GroupEntry> = close.into_iter().take(probes).map(|(_, entry)| *entry).collect();
    groups.sort_by_key(|entry| entry.group);
    Some(groups)
}

/// The group whose centroid is closest to a vector.
pub(crate) fn nearest(centroids: &BTreeMap<u32, Centroid>, vector: &[f32]) -> Option<u32> {
    let close = centroids.iter().map(|(group, centroid)| (centroid.closeness(vector), *group));
    close.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, group)| group)
}

/// Parts of at most `most` passages, close ones together: bisecting k-means (Steinbach, Karypis and Kumar, 2000) by cosine.
pub(crate) fn parts(members: Vec<(DocumentId, Passage)>, most: usize) -> Vec<Vec<(DocumentId, Passage)>> {
    let vectors: Vec<Vec<f32>> = members.iter().map(|(_, passage)| passage.vector()).collect();
    let mut members: Vec<Option<(DocumentId, Passage)>> = members.into_iter().map(Some).collect();
    let (mut open, mut done) = (vec![(0..vectors.len()).collect::<Vec<usize>>()], Vec::new());
    while let Some(part) = open.pop() {
        if part.len() <= most.max(1) {
            done.push(part);
        } else {
            let (one, other) = halves(&vectors, &part);
            open.extend([one, other]);
        }
    }
    done.retain(|part| !part.is_empty());
    done.into_iter()
        .map(|part| part.into_iter().filter_map(|place| members.get_mut(place).and_then(Option::take)).collect())
        .collect()
}

/// Two halves by 2-means, begun from two passages far apart; by number where they do not come apart.
fn halves(vectors: &[Vec<f32>], part: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let of = |place: usize| vectors.get(place).map_or(&[][..], Vec::as_slice);
    let farthest = |from: &[f32]| {
        let far = part.iter().map(|place| (cosine(from, of(*place)), *place));
        far.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map_or(0, |(_, place)| place)
    };
    let first = farthest(&mean(part.iter().map(|place| of(*place))));
    let mut centres = (of(first).to_vec(), of(farthest(of(first))).to_vec());
    let mut halves = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let next: (Vec<usize>, Vec<usize>) =
            part.iter().partition(|place| cosine(&centres.0, of(**place)) >= cosine(&centres.1, of(**place)));
        if next == halves {
            break;
        }
        halves = next;
        centres = (mean(halves.0.iter().map(|place| of(*place))), mean(halves.1.iter().map(|place| of(*place))));
    }
    if halves.0.is_empty() || halves.1.is_empty() {
        let (one, other) = part.split_at(part.len() / 2);
        return (one.to_vec(), other.to_vec());
    }
    halves
}

/// The mean's direction, of length one.
fn mean<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for vector in vectors {
        sum.resize(vector.len(), 0.0);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    let length = cosine(&sum, &sum).sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|value| *value /= length);
    sum
}

/// Rounds of 2-means: it settles within a few.
const ROUNDS: usize = 12;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use casemate_types::{Digest, Level};
    use casemate_vectors::{GroupManifest, Position};

    use super::*;

    fn member(n: u8, vector: [f32; 3]) -> (DocumentId, Passage) {
        let length = cosine(&vector, &vector).sqrt();
        let passage = Passage {
            title: String::new(),
            source: String::new(),
            label: Level::default(),
            metadata: BTreeMap::new(),
            text: String::new(),
            position: Position { group: 0, slot: 0 },
            version: 0,
            vector: Passage::vector_bytes(&vector.map(|value| value / length)),
        };
        (DocumentId::from_bytes([n; 16]), passage)
    }

    /// Passages about three directions, in turn.
    fn members() -> Vec<(DocumentId, Passage)> {
        let near = |n: u8| {
            let small = f32::from(n) * 0.01;
            match n % 3 {
                0 => [1.0, small, 0.0],
                1 => [0.0, 1.0, small],
                _ => [small, 0.0, 1.0],
            }
        };
        (0..30).map(|n| member(n, near(n))).collect()
    }

    #[test]
    fn close_passages_come_together_and_none_is_lost() {
        let parts = parts(members(), 10);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 10]);
        for part in parts {
            let kinds: Vec<u8> = part.iter().map(|(document, _)| document.as_bytes()[0] % 3).collect();
            assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{kinds:?}");
        }
    }

    #[test]
    fn equal_passages_are_parted_by_number() {
        let equal: Vec<_> = (0..23).map(|n| member(n, [1.0, 0.0, 0.0])).collect();
        let parts = parts(equal, 5);
        assert!(parts.iter().all(|part| part.len() <= 5));
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 23);
    }

    #[test]
    fn exactly_as_many_groups_are_probed_as_are_asked_for() {
        let mut manifest = Manifest {
            embedder: String::new(),
            groups: GroupManifest { collection: "alpha".parse().unwrap(), version: 1, groups: Vec::new() },
            columns: BTreeMap::new(),
            centroids: BTreeMap::new(),
            worded: BTreeSet::new(),
            hinted: BTreeSet::new(),
        };
        for (group, part) in (0..).zip(parts(members(), 4)) {
            let entry = GroupEntry { group, version: 1, count: 8, digest: Digest::of(b"") };
            manifest.groups.groups.push(entry);
            manifest.centroids.insert(group, Centroid::of(&part));
        }
        let all = manifest.groups.groups.len();
        for probes in 1..=all + 2 {
            let probed = probed(&manifest, &[0.0, 1.0, 0.0], probes).unwrap();
            assert_eq!(probed.len(), probes.min(all));
        }
        let nearest = nearest(&manifest.centroids, &[0.0, 1.0, 0.0]).unwrap();
        assert_eq!(probed(&manifest, &[0.0, 1.0, 0.0], 1).unwrap()[0].group, nearest);
        manifest.centroids.remove(&0);
        assert!(probed(&manifest, &[0.0, 1.0, 0.0], 1).is_none(), "one that is not clustered would never be found");
    }
}
