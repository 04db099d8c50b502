//! A compartment's collection as its owner sees it: sealed manifest and sealed passages, checked against a store that lies.

use std::collections::{BTreeMap, BTreeSet};

use casemate_engine::wit;
use casemate_fhe_owner::CANARIES_PER_GROUP;
use casemate_types::{CollectionName, CompartmentName, Level};
use casemate_vectors::{DocumentId, GroupManifest, PassageRecord, Position};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::clusters::Centroid;
use crate::narrow::Columns;
use crate::session::Compartment;
use crate::site::Gate;

/// What a collection consists of. Sealed under the compartment's data key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Which embedder made the vectors: a query by another one would be noise.
    pub(crate) embedder: String,
    pub(crate) groups: GroupManifest,
    /// What the store cannot filter by, of each group that was written since the site's schema has such fields.
    #[serde(default)]
    pub(crate) columns: BTreeMap<u32, Columns>,
    /// Of each group whose passages were put together because they are close.
    #[serde(default)]
    pub(crate) centroids: BTreeMap<u32, Centroid>,
    /// Groups whose passages are found by words.
    #[serde(default)]
    pub(crate) worded: BTreeSet<u32>,
    /// Groups whose perturbed vectors are in the store's index, in the version in force.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) hinted: BTreeSet<u32>,
}

/// A passage as it is sealed: with its vector, so that a score can be checked, and its place, so that none can be swapped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Passage {
    pub(crate) title: String,
    pub(crate) source: String,
    pub(crate) label: Level,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) text: String,
    pub(crate) position: Position,
    /// The collection version its group was encrypted in; an older passage is not the present.
    pub(crate) version: u64,
    #[serde(with = "hex::serde")]
    pub(crate) vector: Vec<u8>,
}

/// Highest closeness given to a component: 10 bits.
const CLOSENESS_ONE: f32 = 1023.0;

impl Manifest {
    /// Passages that somebody wrote: all but the canaries.
    pub(crate) fn documents(&self) -> u64 {
        let documents = |count: u32| u64::from(count).saturating_sub(CANARIES_PER_GROUP as u64);
        self.groups.groups.iter().map(|entry| documents(entry.count)).sum()
    }
}

impl Manifest {
    /// The number of a group that is new.
    pub(crate) fn next_group(&self) -> u32 {
        self.groups.groups.iter().map(|entry| entry.group + 1).max().unwrap_or(0)
    }

    /// Removes all that is said of a group.
    pub(crate) fn forget(&mut self, group: u32) {
        self.groups.groups.retain(|entry| entry.group != group);
        self.columns.remove(&group);
        self.centroids.remove(&group);
        self.worded.remove(&group);
        self.hinted.remove(&group);
    }
}

impl Passage {
    pub(crate) fn vector(&self) -> Vec<f32> {
        self.vector.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub(crate) fn vector_bytes(vector: &[f32]) -> Vec<u8> {
        vector.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    pub(crate) fn info(&self, compartment: &CompartmentName, document: &DocumentId) -> wit::PassageInfo {
        wit::PassageInfo {
            collection: compartment.to_string(),
            document: document.to_string(),
            title: self.title.clone(),
            source: self.source.clone(),
            compartment: compartment.to_string(),
            label: self.label.into(),
            metadata: self
                .metadata
                .iter()
                .map(|(name, value)| wit::Field { name: name.clone(), value: value.clone() })
                .collect(),
        }
    }
}

/// Rounds a cosine to what a component may see.
pub(crate) fn closeness(cosine: f32) -> u16 {
    (cosine.clamp(0.0, 1.0) * CLOSENESS_ONE).round() as u16
}

/// The dot product of two vectors of unit length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(crate) fn parse_document(text: &str) -> Option<DocumentId> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(DocumentId::from_bytes(bytes))
}

impl Gate {
    /// The manifest in force, or `None` for a collection that holds nothing yet. A collection older than the one this gate last
    /// wrote is refused: a restored backup of the store is not the present.
    pub(crate) fn manifest(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
    ) -> Result<Option<Manifest>, GateError> {
        let collection = CollectionName::from(name);
        let floor = self.version_floor(name)?;
        let Some(sealed) = self.store.manifest(&collection).map_err(store)? else {
            return if floor == 0 { Ok(None) } else { Err(stale(name, 0, floor)) };
        };
        let bytes = compartment
            .data
            .open("a collection manifest", &[b"manifest", name.as_str().as_bytes()], &sealed)
            .map_err(store)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(store)?;
        if manifest.groups.collection != collection {
            return Err(GateError::Store(format!("the manifest of `{name}` is another collection's")));
        }
        if manifest.groups.version < floor {
            return Err(stale(name, manifest.groups.version, floor));
        }
        Ok(Some(manifest))
    }

    pub(crate) fn seal_manifest(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
    ) -> Result<Vec<u8>, GateError> {
        let bytes = serde_json::to_vec(manifest).map_err(store)?;
        compartment.data.seal("a collection manifest", &[b"manifest", name.as_str().as_bytes()], &bytes).map_err(store)
    }

    /// The version this gate last wrote, kept apart from the store, and in the log besides: store and floor put back together are noticed.
    pub(crate) fn version_floor(&self, name: &CompartmentName) -> Result<u64, GateError> {
        let key = floor_key(name);
        let recorded = self.recorded_version(&name.into());
        let Some(sealed) = self.small.get(&key).map_err(store)? else { return Ok(recorded) };
        let bytes = self.site_key.open("a collection version", &[key.as_bytes()], &sealed).map_err(store)?;
        let bytes: [u8; 8] = bytes.as_slice().try_into().map_err(store)?;
        Ok(recorded.max(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn raise_version_floor(&self, name: &CompartmentName, version: u64) -> Result<(), GateError> {
        let version = version.max(self.version_floor(name)?);
        let key = floor_key(name);
        let sealed =
            self.site_key.seal("a collection version", &[key.as_bytes()], &version.to_be_bytes()).map_err(store)?;
        self.small.insert(key, sealed).map_err(store)?;
        self.small.flush().map_err(store)?;
        Ok(())
    }

    /// Opens a passage and checks that it is the one asked for, at the place the store says, and the one in force: an old passage that
    /// was put back, or one that was deleted, is refused.
    pub(crate) fn open_passage(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        document: &DocumentId,
    ) -> Result<Option<Passage>, GateError> {
        let Some(record) = self.store.passage(&name.into(), document).map_err(store)? else { return Ok(None) };
        let bytes = compartment
            .data
            .open("a passage", &[b"passage", name.as_str().as_bytes(), document.as_bytes()], &record.sealed)
            .map_err(|error| GateError::Store(format!("passage {document} of `{name}`: {error}")))?;
        let passage: Passage = serde_json::from_slice(&bytes).map_err(store)?;
        if passage.position != record.position {
            return Err(GateError::Store(format!("passage {document} of `{name}` was moved by someone else")));
        }
        let position = passage.position;
        let in_force = manifest.groups.groups.iter().any(|entry| {
            entry.group == position.group && entry.version == passage.version && position.slot < entry.count
        });
        if !in_force {
            return Err(GateError::Store(format!(
                "passage {document} of `{name}` is not the one in force: an old copy was put back"
            )));
        }
        Ok(Some(passage))
    }

    pub(crate) fn seal_passage(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        document: &DocumentId,
        passage: &Passage,
        metadata: Vec<(String, String)>,
    ) -> Result<PassageRecord, GateError> {
        let bytes = zeroize::Zeroizing::new(serde_json::to_vec(passage).map_err(store)?);
        let sealed = compartment
            .data
            .seal("a passage", &[b"passage", name.as_str().as_bytes(), document.as_bytes()], &bytes)
            .map_err(store)?;
        Ok(PassageRecord { position: passage.position, metadata, sealed })
    }
}

pub(crate) fn floor_key(name: &CompartmentName) -> String {
    format!("site/collection-version/{name}")
}

fn stale(name: &CompartmentName, found: u64, floor: u64) -> GateError {
    GateError::Store(format!(
        "`{name}` is at version {found}, but version {floor} was written: an old copy was put back"
    ))
}

/// A store's or tier's error, with its causes.
pub(crate) fn store(error: impl Into<Box<dyn std::error::Error>>) -> GateError {
    let error = error.into();
    let causes = std::iter::successors(error.source(), |error| error.source());
    GateError::Store(causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}")))
}

pub(crate) fn fhe(error: impl std::fmt::Display) -> GateError {
    GateError::Fhe(error.to_string())
}
