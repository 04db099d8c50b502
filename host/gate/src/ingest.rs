//! Documents come in: embedded, encrypted, sealed, stored. Nothing in clear is written.

use std::collections::{BTreeMap, BTreeSet};

use casemate_audit::record::Event;
use casemate_fhe_owner::{CANARIES_PER_GROUP, GroupPlace};
use casemate_types::{Claims, CollectionName, CompartmentName, Digest, Level};
use casemate_vectors::{Change, DocumentId, GroupEntry, GroupManifest, GroupRecord, Position};
use serde::{Deserialize, Deserializer, Serialize};

use crate::GateError;
use crate::clusters::{Centroid, nearest, parts};
use crate::collection::{Manifest, Passage, fhe, store};
use crate::condition::OPERATORS;
use crate::metadata::FieldValue;
use crate::narrow::Columns;
use crate::search::{place_of, with_canaries};
use crate::session::{Compartment, Session};
use crate::site::Gate;
use crate::state::SiteKey;

/// One passage to ingest: one line of a JSON-lines file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Document {
    /// Names the passage within its compartment. Ingesting the same id again replaces it.
    pub id: String,
    /// Shown in citations.
    pub title: String,
    /// Where it comes from; shown in citations.
    pub source: String,
    /// Whose key it is encrypted under.
    pub compartment: CompartmentName,
    /// Its classification.
    pub label: Level,
    /// The passage. At most 16 KiB.
    pub text: String,
    /// For filters. Whole numbers may stand without quotes.
    #[serde(default, deserialize_with = "scalars")]
    pub metadata: BTreeMap<String, String>,
}

/// What an ingest did.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ingested {
    /// Passages added.
    pub added: usize,
    /// Passages that replaced an earlier one of the same id.
    pub replaced: usize,
    /// Passages that were there already, word for word.
    pub unchanged: usize,
    /// Which embedder ran.
    pub embedder: String,
}

fn scalars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "metadata are texts or whole numbers")]
    enum Scalar {
        Number(i64),
        Text(String),
    }
    let text = |scalar| match scalar {
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text,
    };
    let read: BTreeMap<String, Scalar> = BTreeMap::deserialize(deserializer)?;
    Ok(read.into_iter().map(|(name, scalar)| (name, text(scalar))).collect())
}

const MAX_TEXT: usize = 16 * 1024;
/// Longest id, title or source, and longest metadata in all, in bytes.
const MAX_NAME: usize = 1024;
const MAX_METADATA: usize = 16 * 1024;

/// Passages embedded and encrypted between two steps of progress.
const STEP: usize = 256;

impl Gate {
    /// Ingests documents into the compartments the session holds. `progress` is told how many are done. Applied a step at a time;
    /// each step is whole or not there.
    pub fn ingest(
        &self,
        session: &Session,
        documents: &[Document],
        mut progress: impl FnMut(usize),
    ) -> Result<Ingested, GateError> {
        self.check_current(session)?;
        self.check_not_stopped()?;
        let mut by_compartment: BTreeMap<&CompartmentName, Vec<&Document>> = BTreeMap::new();
        for document in documents {
            self.check_document(session, document)?;
            by_compartment.entry(&document.compartment).or_default().push(document);
        }
        let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let embedder = self.embedder_for_ingest(&texts)?;
        let mut ingested = Ingested { embedder: embedder.name().to_owned(), ..Ingested::default() };
        let mut done = 0;
        for (name, documents) in by_compartment {
            let compartment = self.held(session, name)?;
            let user = &session.claims.user;
            self.record_leakage(name)?;
            let what = format!("metadata of {} passages", documents.len());
            self.record_key_use_blocking(SiteKey::Metadata, "encrypt", user, &what)?;
            self.record_ingest("begun", name, documents.len(), 0, self.version_floor(name)?)?;
            let mut replaced_here = 0;
            let added_before = ingested.added;
            let mut version = 0;
            for all in documents.chunks(STEP) {
                // What an ingest before this one has brought in stays as it is: a cut-off one is finished by calling it again.
                let step = self.changed(name, compartment, embedder.name(), all)?;
                done += all.len();
                ingested.unchanged += all.len() - step.len();
                if step.is_empty() {
                    progress(done);
                    continue;
                }
                let texts: Vec<&str> = step.iter().map(|document| document.text.as_str()).collect();
                let vectors = embedder.embed(&texts)?;
                let (added, replaced, applied) =
                    self.add(session, name, compartment, embedder.name(), &step, vectors)?;
                version = applied;
                replaced_here += replaced;
                ingested.added += added;
                progress(done);
            }
            ingested.replaced += replaced_here;
            let came = ingested.added - added_before + replaced_here;
            self.record_ingest("done", name, came, replaced_here, version)?;
        }
        Ok(ingested)
    }

    /// Deletes documents by id. The groups they were in are encrypted anew. Returns how many there were. Passages above the user's
    /// clearance are not touched, and a store that hides one is caught.
    pub fn delete(&self, session: &Session, name: &CompartmentName, ids: &[String]) -> Result<usize, GateError> {
        self.check_current(session)?;
        self.check_not_stopped()?;
        let compartment = self.held(session, name)?;
        let Some(manifest) = self.manifest(name, compartment)? else { return Ok(0) };
        let mut doomed = BTreeSet::new();
        let mut hidden = BTreeMap::new();
        for id in ids {
            let document = document_id(compartment, id);
            match self.open_passage(name, compartment, &manifest, &document)? {
                Some(passage) => {
                    self.may_change(session, id, passage.label)?;
                    doomed.insert(document);
                }
                None => drop(hidden.insert(document, id)),
            }
        }
        // The store says that it holds no such passage; the manifest, which it cannot write, knows how many there are.
        if !hidden.is_empty() {
            for entry in &manifest.groups.groups {
                for (document, _) in self.members(name, compartment, &manifest, entry, &BTreeSet::new())?.written {
                    if let Some(id) = hidden.get(&document) {
                        return Err(GateError::Store(format!("`{name}`: the store hid the passage `{id}`")));
                    }
                }
            }
        }
        if doomed.is_empty() {
            return Ok(0);
        }
        // The groups the documents were in are written anew, with the metadata of their other members.
        let what = format!("metadata beside {} deleted passages", doomed.len());
        self.record_key_use_blocking(SiteKey::Metadata, "encrypt", &session.claims.user, &what)?;
        self.record_ingest("begun", name, 0, doomed.len(), manifest.groups.version)?;
        let version = self.rewrite(name, compartment, manifest, &doomed, Vec::new())?;
        self.record_ingest("done", name, 0, doomed.len(), version)?;
        Ok(doomed.len())
    }

    /// Recorded before the store is touched and after: a change that was cut off stands in the log as begun.
    pub(crate) fn record_ingest(
        &self,
        action: &str,
        name: &CompartmentName,
        documents: usize,
        deleted: usize,
        version: u64,
    ) -> Result<(), GateError> {
        let event = Event::Ingest {
            action: action.to_owned(),
            collection: CollectionName::from(name),
            documents: documents as u64,
            deleted: deleted as u64,
            generation_of_store: version,
        };
        self.journal.record_blocking(event)?;
        match action {
            "done" => self.take_in_version(&name.into(), Some(version)),
            "destroyed" => self.take_in_version(&name.into(), None),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn held<'a>(&self, session: &'a Session, name: &CompartmentName) -> Result<&'a Compartment, GateError> {
        session
            .compartments
            .get(name)
            .ok_or_else(|| GateError::Ingest(format!("{} holds no key of compartment `{name}`", session.claims.user)))
    }

    /// Who may not read a passage may not write, replace or delete it.
    fn may_change(&self, session: &Session, id: &str, label: Level) -> Result<(), GateError> {
        let Claims { user, clearance, .. } = &session.claims;
        if label > *clearance {
            return Err(GateError::Ingest(format!("document `{id}`: its label is above the clearance of {user}")));
        }
        Ok(())
    }

    fn check_document(&self, session: &Session, document: &Document) -> Result<(), GateError> {
        self.held(session, &document.compartment)?;
        self.may_change(session, &document.id, document.label)?;
        let names = [&document.id, &document.title, &document.source];
        if names.iter().any(|name| name.len() > MAX_NAME) {
            return Err(GateError::Ingest(format!("a document's id, title and source have at most {MAX_NAME} bytes")));
        }
        if document.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
            return Err(GateError::Ingest(format!(
                "document `{}`: the metadata have at most {MAX_METADATA} bytes",
                document.id
            )));
        }
        if document.metadata.keys().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err(GateError::Ingest(format!(
                "document `{}`: a metadata field's name is empty or has control characters",
                document.id
            )));
        }
        for (field, value) in &document.metadata {
            let refused =
                |why: &str| GateError::Ingest(format!("document `{}`: metadata field `{field}`: {why}", document.id));
            if OPERATORS.iter().any(|operator| field.ends_with(operator)) {
                return Err(refused("a name cannot end in `>=`, `<=` or ` in`: no filter could name it"));
            }
            match self.config.field(&document.compartment, field) {
                Some(rule) => rule.check(value).map_err(|wanted| refused(&wanted))?,
                None if self.config.takes_unlisted(&document.compartment) => {}
                None => {
                    let collection = &document.compartment;
                    return Err(refused(&format!("the schema of `{collection}` in site.toml has no such field")));
                }
            }
        }
        if document.text.trim().is_empty() || document.text.len() > MAX_TEXT {
            return Err(GateError::Ingest(format!(
                "document `{}`: the text must have 1 to {MAX_TEXT} bytes",
                document.id
            )));
        }
        Ok(())
    }

    fn add(
        &self,
        session: &Session,
        name: &CompartmentName,
        compartment: &Compartment,
        embedder: &str,
        documents: &[&Document],
        vectors: Vec<Vec<f32>>,
    ) -> Result<(usize, usize, u64), GateError> {
        let collection = CollectionName::from(name);
        let manifest = match self.manifest(name, compartment)? {
            Some(manifest) if manifest.embedder == embedder => manifest,
            Some(other) => {
                return Err(GateError::Ingest(format!(
                    "`{name}` holds vectors of {}, not of {embedder}",
                    other.embedder
                )));
            }
            None => Manifest {
                embedder: embedder.to_owned(),
                groups: GroupManifest { collection: collection.clone(), version: 0, groups: Vec::new() },
                columns: BTreeMap::new(),
                centroids: BTreeMap::new(),
                worded: BTreeSet::new(),
                hinted: BTreeSet::new(),
            },
        };
        let mut replaced = BTreeSet::new();
        let mut fresh = BTreeMap::new();
        for (document, vector) in documents.iter().zip(vectors) {
            let id = document_id(compartment, &document.id);
            if manifest.groups.version > 0
                && let Some(old) = self.open_passage(name, compartment, &manifest, &id)?
            {
                self.may_change(session, &document.id, old.label)?;
                replaced.insert(id);
            }
            let passage = Passage {
                title: document.title.clone(),
                source: document.source.clone(),
                label: document.label,
                metadata: document.metadata.clone(),
                text: document.text.clone(),
                position: Position { group: 0, slot: 0 },
                version: 0,
                vector: Passage::vector_bytes(&vector),
            };
            // The last of several documents with one id wins.
            fresh.insert(id, passage);
        }
        let added = fresh.len() - replaced.len();
        let version = self.rewrite(name, compartment, manifest, &replaced, fresh.into_iter().collect())?;
        Ok((added, replaced.len(), version))
    }

    /// The documents that are not there yet, or are there otherwise.
    fn changed<'d>(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        embedder: &str,
        documents: &[&'d Document],
    ) -> Result<Vec<&'d Document>, GateError> {
        let manifest = self.manifest(name, compartment)?.filter(|manifest| manifest.embedder == embedder);
        let Some(manifest) = manifest else { return Ok(documents.to_vec()) };
        let mut changed = Vec::new();
        for document in documents {
            let held = self.open_passage(name, compartment, &manifest, &document_id(compartment, &document.id))?;
            let same = held.is_some_and(|held| {
                (&held.text, &held.title, &held.source) == (&document.text, &document.title, &document.source)
                    && (held.label, &held.metadata) == (document.label, &document.metadata)
            });
            // Of several with one id the last wins, so none of them is left out.
            if !same || documents.iter().filter(|other| other.id == document.id).count() > 1 {
                changed.push(*document);
            }
        }
        Ok(changed)
    }

    /// Removes `doomed`, adds `fresh`, and encrypts anew every group that changes, under a version of its own.
    fn rewrite(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: Manifest,
        doomed: &BTreeSet<DocumentId>,
        fresh: Vec<(DocumentId, Passage)>,
    ) -> Result<u64, GateError> {
        let touched = match self.config.cluster_size(name) {
            None => self.fill_up(name, compartment, &manifest, doomed, fresh)?,
            Some(_) => self.place_by_closeness(name, compartment, &manifest, doomed, fresh)?,
        };
        self.write(name, compartment, manifest, doomed, touched)
    }

    /// Fresh documents go where there is room, then into new groups.
    fn fill_up(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        doomed: &BTreeSet<DocumentId>,
        fresh: Vec<(DocumentId, Passage)>,
    ) -> Result<BTreeMap<u32, Members>, GateError> {
        let capacity = capacity(compartment);
        let mut queue = fresh.into_iter();
        let mut touched: BTreeMap<u32, Members> = BTreeMap::new();
        let doomed_groups = self.groups_of(&name.into(), doomed)?;
        for entry in &manifest.groups.groups {
            let room = queue.len() > 0 && (entry.count as usize) < capacity + CANARIES_PER_GROUP;
            if !room && !doomed_groups.contains(&entry.group) {
                continue;
            }
            let mut members = self.members(name, compartment, manifest, entry, doomed)?;
            let room = capacity.saturating_sub(members.written.len());
            members.written.extend(queue.by_ref().take(room));
            touched.insert(entry.group, members);
        }
        let mut next = manifest.next_group();
        while queue.len() > 0 {
            let written = queue.by_ref().take(capacity).collect();
            touched.insert(next, Members { written, covers: Vec::new() });
            next += 1;
        }
        Ok(touched)
    }

    /// Fresh documents go to the group they are closest to; a group that grows beyond the cluster's size is parted.
    fn place_by_closeness(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        doomed: &BTreeSet<DocumentId>,
        fresh: Vec<(DocumentId, Passage)>,
    ) -> Result<BTreeMap<u32, Members>, GateError> {
        let size = self.config.cluster_size(name).unwrap_or(usize::MAX).min(capacity(compartment));
        let mut placed: BTreeMap<Option<u32>, Vec<(DocumentId, Passage)>> = BTreeMap::new();
        for (document, passage) in fresh {
            let group = nearest(&manifest.centroids, &passage.vector());
            placed.entry(group).or_default().push((document, passage));
        }
        let doomed_groups = self.groups_of(&name.into(), doomed)?;
        let mut next = manifest.next_group();
        let mut touched: BTreeMap<u32, Members> = BTreeMap::new();
        for entry in &manifest.groups.groups {
            let new = placed.remove(&Some(entry.group));
            if new.is_none() && !doomed_groups.contains(&entry.group) {
                continue;
            }
            let mut members = self.members(name, compartment, manifest, entry, doomed)?;
            members.written.extend(new.into_iter().flatten());
            let mut parts = parts(members.written, size).into_iter();
            members.written = parts.next().unwrap_or_default();
            touched.insert(entry.group, members);
            for written in parts {
                touched.insert(next, Members { written, covers: Vec::new() });
                next += 1;
            }
        }
        for written in placed.into_values().flat_map(|fresh| parts(fresh, size)) {
            touched.insert(next, Members { written, covers: Vec::new() });
            next += 1;
        }
        Ok(touched)
    }

    /// Encrypts groups with these members anew under a version of their own, and seals the manifest.
    pub(crate) fn write(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        mut manifest: Manifest,
        doomed: &BTreeSet<DocumentId>,
        touched: BTreeMap<u32, Members>,
    ) -> Result<u64, GateError> {
        let collection = CollectionName::from(name);
        let canaries = compartment.canaries(name);
        let version = self.store.reserve_version(&collection).map_err(store)?;
        // The store draws the number, and is not trusted: a version that is not new would let an old manifest pass for the present.
        if version <= manifest.groups.version.max(self.version_floor(name)?) {
            return Err(GateError::Store(format!("`{name}`: the store drew version {version}, which is not new")));
        }
        let mut change = Change { version, delete_passages: doomed.iter().copied().collect(), ..Change::default() };
        let clustered = self.config.cluster_size(name).is_some();
        let word_key = match self.config.keeps_keywords(name) {
            true => Some(compartment.word_key(name)?),
            false => None,
        };

        for (group, Members { written, covers }) in touched {
            manifest.forget(group);
            if written.is_empty() {
                change.delete_groups.push(group);
                change.delete_passages.extend(covers.into_iter().map(|(document, _)| document));
                continue;
            }
            if clustered {
                manifest.centroids.insert(group, Centroid::of(&written));
            }
            if word_key.is_some() {
                manifest.worded.insert(group);
            }
            let place = GroupPlace { group, version, count: written.len() + CANARIES_PER_GROUP };
            let members = with_canaries(written, canaries.of(place).map_err(fhe)?, covers)?;
            let record = self.encrypt_group(compartment, version, &members)?;
            manifest.groups.groups.push(GroupEntry {
                group,
                version,
                count: record.count,
                digest: record.digest(&collection, group),
            });
            change.put_groups.push((group, record));
            manifest.columns.insert(group, Columns::of(&self.config, name, &members));
            if let Some(hints) = self.hints(name, compartment, &members)? {
                change.hints.push((group, hints));
                manifest.hinted.insert(group);
            }
            for (slot, (document, mut passage)) in members.into_iter().enumerate() {
                passage.position = Position { group, slot: slot as u32 };
                passage.version = version;
                let fields: Vec<FieldValue<'_>> =
                    passage.metadata.iter().map(|(name, value)| FieldValue { name, value }).collect();
                let mut metadata = self.fields.encrypt(&self.config, name, &fields)?;
                metadata.extend(word_key.iter().flat_map(|key| key.tokens(&passage)));
                let record = self.seal_passage(name, compartment, &document, &passage, metadata)?;
                change.put_passages.push((document, record));
            }
        }
        // A replaced document is put, not deleted.
        let put: BTreeSet<DocumentId> = change.put_passages.iter().map(|(document, _)| *document).collect();
        change.delete_passages.retain(|document| !put.contains(document));
        manifest.groups.groups.sort_by_key(|entry| entry.group);
        manifest.groups.version = version;
        change.manifest = self.seal_manifest(name, compartment, &manifest)?;
        self.store.apply(&collection, change).map_err(store)?;
        self.raise_version_floor(name, version)?;
        Ok(version)
    }

    fn groups_of(
        &self,
        collection: &CollectionName,
        documents: &BTreeSet<DocumentId>,
    ) -> Result<BTreeSet<u32>, GateError> {
        let mut groups = BTreeSet::new();
        for document in documents {
            if let Some(record) = self.store.passage(collection, document).map_err(store)? {
                groups.insert(record.position.group);
            }
        }
        Ok(groups)
    }

    /// The passages of a group that stay, and its canaries. A group that does not hold what its manifest says is refused.
    pub(crate) fn members(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        entry: &GroupEntry,
        doomed: &BTreeSet<DocumentId>,
    ) -> Result<Members, GateError> {
        let mut members = Members { written: Vec::new(), covers: Vec::new() };
        let canaries = compartment.canaries(name).of(place_of(entry)).map_err(fhe)?;
        for slot in 0..entry.count {
            let position = Position { group: entry.group, slot };
            let lost = || GateError::Store(format!("`{name}`: the store lost the document at {position}"));
            let document = self.store.document_at(&name.into(), position).map_err(store)?.ok_or_else(lost)?;
            let passage = self.open_passage(name, compartment, manifest, &document)?.ok_or_else(lost)?;
            if passage.position != position {
                return Err(lost());
            }
            if canaries.iter().any(|canary| canary.slot == slot as usize) {
                members.covers.push((document, passage));
            } else if !doomed.contains(&document) {
                members.written.push((document, passage));
            }
        }
        Ok(members)
    }

    fn encrypt_group(
        &self,
        compartment: &Compartment,
        version: u64,
        members: &[(DocumentId, Passage)],
    ) -> Result<GroupRecord, GateError> {
        let vectors: Vec<Vec<f32>> = members.iter().map(|(_, passage)| passage.vector()).collect();
        let slices: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let group = compartment.owner.encrypt_group(&slices).map_err(fhe)?;
        Ok(GroupRecord { version, count: members.len() as u32, ciphertext: group.to_bytes() })
    }
}

/// What a group holds: documents, and what its canaries show the store.
pub(crate) struct Members {
    pub(crate) written: Vec<(DocumentId, Passage)>,
    pub(crate) covers: Vec<(DocumentId, Passage)>,
}

/// Most documents of a group.
pub(crate) fn capacity(compartment: &Compartment) -> usize {
    compartment.owner.params().documents_per_group() - CANARIES_PER_GROUP
}

/// The id under which the store knows a document: keyed, so that the store cannot guess names.
pub(crate) fn document_id(compartment: &Compartment, id: &str) -> DocumentId {
    let digest = Digest::of_parts(&[b"document\0", compartment.identifiers.as_slice(), id.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    DocumentId::from_bytes(bytes)
}
