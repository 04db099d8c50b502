//! A search as the owner does it, against a scoring tier and a store that may both lie.
//!
//! ```text
//! fresh query secret -> scores -> canaries of every group -> candidates + decoys -> a fixed number of passages
//!     -> seal, place, version, metadata and exact score of each -> the k closest, by exact score
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use casemate_engine::wit;
use casemate_fhe_owner::{CANARIES_PER_GROUP, Canaries, Canary, GroupPlace, OwnerKey, fetch_plan};
use casemate_inference::{ExpectedGroup, Scorer};
use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{DocumentId, GroupEntry, Position};

use crate::GateError;
use crate::clusters::probed;
use crate::collection::{Manifest, Passage, closeness, fhe, store};
use crate::condition::Condition;
use crate::keywords::{covering_text, words};
use crate::session::Compartment;
use crate::site::Gate;

/// A passage found: what the component is told, and what was fetched, so that nobody sees which of the fetched is read.
pub(crate) struct Found {
    pub(crate) reference: wit::Reference,
    pub(crate) document: DocumentId,
    pub(crate) passage: Passage,
}

/// What is looked for.
pub(crate) struct Sought<'a> {
    /// The embedded question; empty in a search by words.
    pub(crate) vector: &'a [f32],
    /// All must hold.
    pub(crate) filter: &'a [Condition],
    /// How many passages are wanted.
    pub(crate) k: usize,
    /// In how many of the closest groups; in all without.
    pub(crate) probes: Option<usize>,
}

impl Sought<'_> {
    /// How many of the best-scored passages compete for the k places by their exact scores.
    pub(crate) fn candidates(&self) -> usize {
        self.k + self.k.div_ceil(2)
    }

    /// How many passages a search for k fetches, whatever it finds.
    fn fetched(&self) -> usize {
        (3 * self.k).max(24)
    }

    /// What makes one search the same as another, for the choice of decoys.
    pub(crate) fn question(&self, collection: &CollectionName, version: u64) -> Vec<Vec<u8>> {
        let mut parts = vec![
            collection.as_str().as_bytes().to_vec(),
            version.to_be_bytes().to_vec(),
            Passage::vector_bytes(self.vector),
            (self.k as u64).to_be_bytes().to_vec(),
            (self.probes.unwrap_or(0) as u64).to_be_bytes().to_vec(),
        ];
        parts.extend(self.filter.iter().map(|condition| format!("{condition:?}").into_bytes()));
        parts
    }

    /// Which passages are fetched, in which order.
    pub(crate) fn plan(
        &self,
        compartment: &Compartment,
        question: &[Vec<u8>],
        wanted: &[Position],
        likely: Vec<Position>,
        others: Vec<Position>,
    ) -> Result<Vec<Position>, GateError> {
        let question: Vec<&[u8]> = question.iter().map(Vec::as_slice).collect();
        fetch_plan(&compartment.identifiers, &question, wanted, likely, others, self.fetched()).map_err(fhe)
    }
}

/// The scores of a collection, checked as far as they can be before anything is fetched.
struct Scored {
    /// One value per slot of each group.
    groups: BTreeMap<u32, Vec<f32>>,
    canaries: BTreeSet<Position>,
    /// How far a score may be from the exact one.
    tolerance: f32,
}

impl Scored {
    /// Every slot that holds something, canaries among them.
    fn positions(&self) -> impl Iterator<Item = (Position, f32)> {
        self.groups.iter().flat_map(|(group, scores)| {
            scores.iter().zip(0..).map(|(score, slot)| (Position { group: *group, slot }, *score))
        })
    }

    /// The `count` best-scored passages that match, canaries left out.
    fn best(&self, count: usize, matches: impl Fn(&Position) -> bool) -> Vec<Position> {
        let better = |a: &(Position, f32), b: &(Position, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let mut all: Vec<(Position, f32)> =
            self.positions().filter(|(position, _)| !self.canaries.contains(position) && matches(position)).collect();
        if count < all.len() {
            all.select_nth_unstable_by(count, better);
            all.truncate(count);
        }
        all.sort_unstable_by(better);
        all.into_iter().map(|(position, _)| position).collect()
    }

    fn of(&self, position: Position) -> Option<f32> {
        self.groups.get(&position.group)?.get(position.slot as usize).copied()
    }
}

impl Compartment {
    /// Where the canaries of this compartment's collection lie.
    pub(crate) fn canaries(&self, name: &CompartmentName) -> Canaries {
        Canaries::new(&self.identifiers, name.as_str(), *self.owner.params())
    }
}

/// Where a group's canaries lie, for the group a manifest names.
pub(crate) fn place_of(entry: &GroupEntry) -> GroupPlace {
    GroupPlace { group: entry.group, version: entry.version, count: entry.count as usize }
}

impl Gate {
    /// The `k` closest passages that meet every condition, best first.
    ///
    /// The tier scores ciphertext; the owner decrypts, checks canaries, fetches as many passages as for every search of this k,
    /// and recomputes the exact score of each: the ranking is exact among the candidates, and a difference is refused.
    pub(crate) fn search(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        sought: &Sought<'_>,
    ) -> Result<Vec<Found>, GateError> {
        let embedder = self.embedder()?;
        if manifest.embedder != embedder.name() {
            return Err(GateError::Store(format!(
                "`{name}` was ingested with {}, but {} runs now; ingest again or restore the model",
                manifest.embedder,
                embedder.name()
            )));
        }
        let collection = CollectionName::from(name);
        let narrowed = self.narrow(name, compartment, manifest, sought.filter)?;
        let canaries = compartment.canaries(name);
        let groups = match sought.probes {
            None if sought.filter.is_empty() => {
                match self.candidate_groups(name, compartment, manifest, sought.vector)? {
                    Some(groups) => Cow::Owned(groups),
                    None => Cow::Borrowed(&manifest.groups.groups),
                }
            }
            None => Cow::Borrowed(&manifest.groups.groups),
            Some(probes) => Cow::Owned(
                probed(manifest, sought.vector, probes)
                    .ok_or_else(|| GateError::Question(format!("`{name}` is not clustered; see `casemate reindex`")))?,
            ),
        };
        let scored = score(&*self.scorer, &compartment.owner, &canaries, &collection, &groups, sought.vector)?;

        let wanted = scored.best(sought.candidates(), |position| narrowed.matches(position));
        // Canaries are among the decoys: they are passages like others, and a store must not lose them either.
        let (likely, others) =
            scored.positions().map(|(position, _)| position).partition(|position| narrowed.seems_to_match(position));
        let question = sought.question(&collection, manifest.groups.version);
        let plan = sought.plan(compartment, &question, &wanted, likely, others)?;

        let mut found = Vec::new();
        for position in plan {
            let (document, passage) = self.fetch(name, compartment, manifest, position)?;
            let exact = compartment.owner.params().measure().score(sought.vector, &passage.vector()) as f32;
            if scored.of(position).is_none_or(|score| (exact - score).abs() > scored.tolerance) {
                let trick =
                    format!("the score of {document} is not what its vector gives; the scoring tier altered it");
                return Err(GateError::Tier { collection, trick });
            }
            if !wanted.contains(&position) {
                continue;
            }
            if !self.meets(name, sought.filter, &passage) {
                return Err(GateError::Store(format!(
                    "`{name}`: the store's index says {document} matches, but it does not"
                )));
            }
            let (collection, document_name) = (name.to_string(), document.to_string());
            let reference = wit::Reference { collection, document: document_name, closeness: closeness(exact) };
            found.push((exact, position, Found { reference, document, passage }));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(sought.k);
        Ok(found.into_iter().map(|(_, _, found)| found).collect())
    }

    /// The passage at a position: there, unaltered, in its place and in force.
    pub(crate) fn fetch(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        position: Position,
    ) -> Result<(DocumentId, Passage), GateError> {
        let missing = || GateError::Store(format!("`{name}`: the store lost the document at {position}"));
        let document = self.store.document_at(&name.into(), position).map_err(store)?.ok_or_else(missing)?;
        let passage = self.open_passage(name, compartment, manifest, &document)?.ok_or_else(missing)?;
        if passage.position != position {
            return Err(GateError::Store(format!("`{name}`: the store's index names another document at {position}")));
        }
        Ok((document, passage))
    }

    /// Whether a document is one that nobody wrote.
    pub(crate) fn is_canary(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        position: Position,
    ) -> Result<bool, GateError> {
        let Some(entry) = manifest.groups.groups.iter().find(|entry| entry.group == position.group) else {
            return Ok(false);
        };
        let canaries = compartment.canaries(name).of(place_of(entry)).map_err(fhe)?;
        Ok(canaries.iter().any(|canary| canary.slot == position.slot as usize))
    }
}

/// Asks the tier and checks its answer against everything the owner knows beforehand.
fn score(
    scorer: &dyn Scorer,
    owner: &OwnerKey,
    canaries: &Canaries,
    collection: &CollectionName,
    groups: &[GroupEntry],
    vector: &[f32],
) -> Result<Scored, GateError> {
    let lied = |error: casemate_fhe_owner::OwnerError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        GateError::Tier { collection: collection.clone(), trick: format!("{error}{cause}") }
    };
    let (query, secret) = owner.query(vector).map_err(fhe)?;
    let expected: Vec<ExpectedGroup> = groups.iter().map(ExpectedGroup::from).collect();
    let encrypted = scorer.score(collection, &query, &expected).map_err(store)?;
    let counts: Vec<usize> = groups.iter().map(|entry| entry.count as usize).collect();
    let tolerance = secret.tolerance();
    let scores = secret.decrypt(&encrypted, &counts).map_err(lied)?;
    let places: Vec<GroupPlace> = groups.iter().map(place_of).collect();
    let hidden = canaries.check(vector, &places, &scores, tolerance).map_err(lied)?;
    let at = |(place, slots): (&GroupPlace, [usize; CANARIES_PER_GROUP])| {
        slots.map(|slot| Position { group: place.group, slot: slot as u32 })
    };
    Ok(Scored {
        canaries: places.iter().zip(hidden).flat_map(at).collect(),
        groups: places.iter().map(|place| place.group).zip(scores).collect(),
        tolerance,
    })
}

/// The members of a group in new places, with its canaries among them.
///
/// To whoever sees the store a canary is a member: it keeps its id and its covering text and metadata (`covers`) when the group
/// is written anew, as a document does, and all places are drawn anew. A group's first canaries get a cover from members that are
/// drawn in secret.
pub(crate) fn with_canaries(
    mut members: Vec<(DocumentId, Passage)>,
    canaries: Vec<Canary>,
    covers: Vec<(DocumentId, Passage)>,
) -> Result<Vec<(DocumentId, Passage)>, GateError> {
    let covers = if covers.is_empty() {
        let cover = |canary: &Canary| Ok((DocumentId::from_bytes(canary.name), cover(&members)?));
        canaries.iter().map(cover).collect::<Result<Vec<_>, GateError>>()?
    } else {
        covers
    };
    // Those from before canaries had words get some, in the room they have.
    let covers = covers.into_iter().map(|(document, cover)| {
        if words(&cover.text).is_empty() && !cover.text.is_empty() {
            let text = covering_text(&members, cover.text.len())?;
            return Ok((document, Passage { text, ..cover }));
        }
        Ok((document, cover))
    });
    let covers = covers.collect::<Result<Vec<_>, GateError>>()?;
    if covers.len() != canaries.len() {
        return Err(GateError::Store("a group does not have as many canaries as it should".to_owned()));
    }
    shuffle(&mut members)?;
    // By rising slot, so that each lands where it belongs.
    for (canary, (document, cover)) in canaries.into_iter().zip(shuffled(covers)?) {
        if canary.slot > members.len() {
            return Err(GateError::Store("a canary's place lies outside its group".to_owned()));
        }
        members.insert(canary.slot, (document, Passage { vector: Passage::vector_bytes(&canary.vector), ..cover }));
    }
    Ok(members)
}

/// What a canary shows the store: the metadata of one member, and a text whose length lies between those of two others, so that
/// it is like the group without being anybody's twin. The choice is made once and by no rule that the store could follow.
fn cover(members: &[(DocumentId, Passage)]) -> Result<Passage, GateError> {
    let none = || GateError::Store("a group without members has no canaries".to_owned());
    let drawn = || -> Result<&Passage, GateError> {
        let number = below(members.len()).map_err(|_| none())?;
        members.get(number).map(|(_, passage)| passage).ok_or_else(none)
    };
    let written = |passage: &Passage| -> Result<usize, GateError> {
        let strings = [&passage.text, &passage.title, &passage.source];
        strings.iter().try_fold(0, |sum, text| Ok(sum + serde_json::to_string(text).map_err(store)?.len() - 2))
    };
    let (model, one, other) = (drawn()?, written(drawn()?)?, written(drawn()?)?);
    let length = one.min(other) + below(one.abs_diff(other) + 1)?;
    Ok(Passage { title: String::new(), source: String::new(), text: covering_text(members, length)?, ..model.clone() })
}

/// A random number below `bound`. 64 bits modulo a group's size: no bias worth the name.
pub(crate) fn below(bound: usize) -> Result<usize, GateError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| GateError::Store("the system gives no random numbers".to_owned()))?;
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    Ok((u64::from_be_bytes(bytes).checked_rem(bound).unwrap_or(0)) as usize)
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T]) -> Result<(), GateError> {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last + 1)?);
    }
    Ok(())
}

fn shuffled<T>(mut items: Vec<T>) -> Result<Vec<T>, GateError> {
    shuffle(&mut items)?;
    Ok(items)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_fhe::Params;
    use casemate_types::Level;
    use zeroize::Zeroizing;

    use super::*;

    const MEMBERS: usize = 16;

    fn canaries() -> Canaries {
        Canaries::new(&Zeroizing::new([7; 32]), "engineering", Params::default())
    }

    /// Every member has a length and metadata of its own.
    fn members() -> Vec<(DocumentId, Passage)> {
        let member = |n: usize| {
            let passage = Passage {
                title: "t".repeat(5),
                source: "s".repeat(n % 3),
                label: Level::default(),
                metadata: BTreeMap::from([("case".to_owned(), n.to_string())]),
                text: "x".repeat(100 + 20 * n),
                position: Position { group: 0, slot: 0 },
                version: 0,
                vector: Passage::vector_bytes(&[0.5; 4]),
            };
            (DocumentId::from_bytes([n as u8; 16]), passage)
        };
        (0..MEMBERS).map(member).collect()
    }

    fn written(group: u32, version: u64, covers: Vec<(DocumentId, Passage)>) -> Vec<(DocumentId, Passage)> {
        let place = GroupPlace { group, version, count: MEMBERS + CANARIES_PER_GROUP };
        with_canaries(members(), canaries().of(place).unwrap(), covers).unwrap()
    }

    fn hidden(group: &[(DocumentId, Passage)]) -> Vec<(DocumentId, Passage)> {
        let known: BTreeSet<DocumentId> = members().into_iter().map(|(document, _)| document).collect();
        group.iter().filter(|(document, _)| !known.contains(document)).cloned().collect()
    }

    /// All that the store sees of a passage: its length and its metadata.
    fn seen(passage: &Passage) -> (usize, BTreeMap<String, String>) {
        (passage.title.len() + passage.source.len() + passage.text.len(), passage.metadata.clone())
    }

    #[test]
    fn ids_and_lengths_that_stay_do_not_tell_documents_from_canaries() {
        let first = written(3, 1, Vec::new());
        let second = written(3, 2, hidden(&first));
        let all = |group: &[(DocumentId, Passage)]| -> BTreeMap<_, _> {
            group.iter().map(|(document, passage)| (*document, seen(passage))).collect()
        };
        assert_eq!(hidden(&first).len(), CANARIES_PER_GROUP);
        assert_eq!(all(&first), all(&second), "something changed that tells which are canaries");
        // A group that is made again under an old number has other ones.
        let again = written(3, 9, Vec::new());
        assert!(hidden(&again).iter().all(|(document, _)| !all(&first).contains_key(document)));
    }

    #[test]
    fn order_that_stays_does_not_tell_documents_from_canaries() {
        // A document goes anywhere, as a canary does.
        let mut places = BTreeSet::new();
        let mut group = written(0, 1, Vec::new());
        for version in 2..200 {
            group = written(0, version, hidden(&group));
            places.insert(group.iter().position(|(document, _)| *document == DocumentId::from_bytes([0; 16])).unwrap());
        }
        assert_eq!(places.len(), MEMBERS + CANARIES_PER_GROUP);
    }

    #[test]
    fn public_id_does_not_tell_whom_a_canary_looks_like() {
        let (members, mut by_id, mut twins, mut tried) = (members(), 0, 0, 0);
        for group in 0..100 {
            for (document, passage) in hidden(&written(group, 1, Vec::new())) {
                let of_id = &members[usize::from(document.as_bytes()[0]) % MEMBERS].1;
                by_id += usize::from(of_id.metadata == passage.metadata);
                twins += usize::from(members.iter().any(|(_, member)| seen(member) == seen(&passage)));
                tried += 1;
            }
        }
        // One in sixteen by chance: 25 of 400 expected.
        assert!(by_id < 60, "{by_id} of {tried} follow the id");
        assert!(twins < 40, "{twins} of {tried} are some member's twin");
    }
}
