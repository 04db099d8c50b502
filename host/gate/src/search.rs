//! A search as the owner does it, against a scoring tier and a store that may both lie.
//!
//! ```text
//! fresh query secret -> scores -> canaries of every group -> candidates + decoys -> a fixed number of passages
//!     -> seal, place, version, metadata and exact score of each -> the k closest, by exact score
//! ```

use std::collections::{BTreeMap, BTreeSet};

use casemate_engine::wit;
use casemate_fhe_owner::{CANARIES_PER_GROUP, Canaries, Canary, GroupPlace, OwnerKey, fetch_plan};
use casemate_inference::{ExpectedGroup, Scorer};
use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{DocumentId, GroupEntry, Position, VectorStore};

use crate::GateError;
use crate::collection::{Manifest, Passage, closeness, fhe, store};
use crate::metadata::FieldValue;
use crate::session::Compartment;
use crate::site::Gate;

/// A passage found: what the component is told, and what was fetched, so that nobody sees which of the fetched is read.
pub(crate) struct Found {
    pub(crate) reference: wit::Reference,
    pub(crate) document: DocumentId,
    pub(crate) passage: Passage,
}

/// How many of the best-scored passages compete for the k places by their exact scores.
fn candidates(k: usize) -> usize {
    k + k.div_ceil(2)
}

/// How many passages a search for k fetches, whatever it finds.
fn fetched(k: usize) -> usize {
    (3 * k).max(24)
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
    /// The `k` closest passages that match every filter field, best first.
    ///
    /// The tier scores ciphertext; the owner decrypts, checks canaries, fetches as many passages as for every search of this k,
    /// and recomputes the exact score of each: the ranking is exact among the candidates, and a difference is refused.
    pub(crate) fn search(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        vector: &[f32],
        filter: &[wit::Field],
        k: usize,
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
        let matching = self.matching(name, &collection, filter)?;
        let canaries = compartment.canaries(name);
        let scored = score(&*self.scorer, &compartment.owner, &canaries, &collection, &manifest.groups.groups, vector)?;

        let matches = |position: &Position| matching.as_ref().is_none_or(|set| set.contains(position));
        let wanted = scored.best(candidates(k), matches);
        // Canaries are among the decoys: they are passages like others, and a store must not lose them either.
        let (likely, others) = scored.positions().map(|(position, _)| position).partition(matches);
        let question = question(&collection, manifest.groups.version, vector, filter, k);
        let plan = fetch_plan(
            &compartment.identifiers,
            &question.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            &wanted,
            likely,
            others,
            fetched(k),
        )
        .map_err(fhe)?;

        let mut found = Vec::new();
        for position in plan {
            let (document, passage) = self.fetch(name, compartment, manifest, position)?;
            let exact = compartment.owner.params().measure().score(vector, &passage.vector()) as f32;
            if scored.of(position).is_none_or(|score| (exact - score).abs() > scored.tolerance) {
                let trick =
                    format!("the score of {document} is not what its vector gives; the scoring tier altered it");
                return Err(GateError::Tier { collection, trick });
            }
            if !wanted.contains(&position) {
                continue;
            }
            if filter.iter().any(|field| passage.metadata.get(&field.name) != Some(&field.value)) {
                return Err(GateError::Store(format!(
                    "`{name}`: the store's index says {document} matches, but it does not"
                )));
            }
            let (collection, document_name) = (name.to_string(), document.to_string());
            let reference = wit::Reference { collection, document: document_name, closeness: closeness(exact) };
            found.push((exact, position, Found { reference, document, passage }));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(k);
        Ok(found.into_iter().map(|(_, _, found)| found).collect())
    }

    fn matching(
        &self,
        name: &CompartmentName,
        collection: &CollectionName,
        filter: &[wit::Field],
    ) -> Result<Option<BTreeSet<Position>>, GateError> {
        if filter.is_empty() {
            return Ok(None);
        }
        let fields: Vec<FieldValue<'_>> =
            filter.iter().map(|field| FieldValue { name: &field.name, value: &field.value }).collect();
        let tokens = self.fields.encrypt(&self.config, name, &fields)?;
        Ok(Some(self.store.matching(collection, &tokens).map_err(store)?.into_iter().collect()))
    }

    /// The passage at a position: there, unaltered, in its place and in force.
    fn fetch(
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

/// What makes one search the same as another, for the choice of decoys.
fn question(
    collection: &CollectionName,
    version: u64,
    vector: &[f32],
    filter: &[wit::Field],
    k: usize,
) -> Vec<Vec<u8>> {
    let mut parts = vec![
        collection.as_str().as_bytes().to_vec(),
        version.to_be_bytes().to_vec(),
        Passage::vector_bytes(vector),
        (k as u64).to_be_bytes().to_vec(),
    ];
    parts.extend(filter.iter().flat_map(|field| [field.name.clone().into_bytes(), field.value.clone().into_bytes()]));
    parts
}

/// The members of a group in their slots, with its canaries among them. A canary looks like one of the members to whoever sees the
/// store: the same sealed length, the same metadata.
pub(crate) fn with_canaries(
    members: Vec<(DocumentId, Passage)>,
    canaries: Vec<Canary>,
) -> Result<Vec<(DocumentId, Passage)>, GateError> {
    let mut out = members;
    let models = out.len();
    for canary in canaries {
        let model = usize::from(canary.name[0]) % models.max(1);
        let Some((_, model)) = out.get(model) else {
            return Err(GateError::Store("a group without members has no canaries".to_owned()));
        };
        let written = serde_json::to_string(&model.text).map_err(store)?.len() - 2;
        let vector = Passage::vector_bytes(&canary.vector);
        let passage = Passage { text: "-".repeat(written), vector, ..model.clone() };
        out.insert(canary.slot, (DocumentId::from_bytes(canary.name), passage));
    }
    Ok(out)
}
