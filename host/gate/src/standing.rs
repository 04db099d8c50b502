//! What the audit log says about the site's changes and about the versions of its collections: read at every opening, so that no file that
//! could be deleted or put back has the last word. A sealed copy saves reading the log from its beginning.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use casemate_audit::{Event, Record};
use casemate_change::{ActiveSet, ChangeError, SiteStore, Standing};
use casemate_fhe_owner::DataKey;
use casemate_types::CollectionName;
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::site::Gate;
use crate::state::write_private;

/// The standing after the records below `next`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copy {
    next: u64,
    pub(crate) standing: Standing,
    /// The latest version of each collection that a record says was written.
    #[serde(default)]
    pub(crate) collections: Collections,
    /// The latest generation of `state.json` that a record says was written.
    #[serde(default)]
    pub(crate) state: u64,
}

/// Versions of collections, by name.
pub(crate) type Collections = BTreeMap<CollectionName, u64>;

/// The copy, beside the log. Sealed: it cannot be made up, and an older one only means that more of the log is read.
const COPY: &str = "change.standing";
/// The standing as a record, written before records are moved out of the log.
pub(crate) const SUMMARY: &str = "change-standing";
/// The collections' versions as a record, written with it.
const VERSIONS: &str = "collection-versions";
/// The record of a generation of `state.json`.
const STATE: &str = "state-generation";
/// The record of a change that somebody asks for: `digest` is its content's, `signers` who asks.
pub(crate) const RECEIVED: &str = "received";
/// Records that may be read again at each opening before the copy is renewed.
const STALE: u64 = 4096;

/// Reads on from the copy to the end of the log, whose verifier key is `vkey`. What is read is checked against the signed root first: without
/// the copy that is the whole log.
pub(crate) fn read(dir: &Path, key: &DataKey, vkey: &str) -> Result<Copy, GateError> {
    let copy = open(dir, key).unwrap_or_default();
    casemate_audit::verify_from(&dir.join("log"), vkey, copy.next).map_err(casemate_audit::AuditError::from)?;
    let (read_from, before) = (copy.next, copy.standing.clone());
    let copy = read_on(dir, copy)?;
    if copy.standing != before || copy.next - read_from > STALE {
        keep(dir, key, &copy)?;
    }
    Ok(copy)
}

/// What the log of a site says about changes, whether or not another process has the site open; without any key, so for showing.
///
/// # Errors
/// [`GateError::Audit`] for a log that cannot be read.
pub fn standing_of(dir: &Path) -> Result<Standing, GateError> {
    Ok(read_on(dir, Copy::default())?.standing)
}

fn read_on(dir: &Path, copy: Copy) -> Result<Copy, GateError> {
    let Copy { mut next, mut standing, mut collections, mut state } = copy;
    let mut lost = false;
    for (index, bytes) in casemate_audit::entries_from(&dir.join("log"), next)? {
        // Records that are in an archive now held what the summary holds.
        lost |= index > next;
        next = index + 1;
        let bytes = bytes?;
        if !about_changes(&bytes) {
            continue;
        }
        match Record::from_bytes(&bytes)?.event {
            Event::Site { action, detail } if action == SUMMARY => {
                if lost {
                    standing = serde_json::from_str(&detail).map_err(|error| damaged(&error.to_string()))?;
                    lost = false;
                }
            }
            Event::Site { action, detail } if action == STATE => {
                state = state.max(detail.parse().map_err(|_| damaged("a generation of the state is none"))?);
            }
            Event::Site { action, detail } if action == VERSIONS => {
                let said: Collections = serde_json::from_str(&detail).map_err(|error| damaged(&error.to_string()))?;
                said.into_iter().for_each(|(name, version)| written(&mut collections, &name, version));
            }
            Event::Ingest { action, collection, generation_of_store, .. } => match action.as_str() {
                "done" => written(&mut collections, &collection, generation_of_store),
                "destroyed" => drop(collections.remove(&collection)),
                _ => {}
            },
            event => apply(&mut standing, &event)?,
        }
    }
    if lost {
        return Err(damaged("its records are in an archive, and no summary of them is in the log"));
    }
    Ok(Copy { next, standing, collections, state })
}

fn written(collections: &mut Collections, name: &CollectionName, version: u64) {
    let held = collections.entry(name.clone()).or_default();
    *held = version.max(*held);
}

/// Takes in one record.
pub(crate) fn apply(standing: &mut Standing, event: &Event) -> Result<(), GateError> {
    match event {
        Event::Bundle { action, name, version, digest, generation, .. }
            if matches!(action.as_str(), "activated" | "rolled-back") =>
        {
            let name = name.parse().map_err(|_| damaged("a bundle's name in the log is none"))?;
            standing.activated(&name, *version, *digest, *generation);
        }
        Event::Bundle { action, name, digest, .. } if action == "verified" => {
            standing.verified(name.parse().map_err(|_| damaged("a bundle's name in the log is none"))?, *digest);
        }
        Event::Bundle { action, digest, signers, .. } if action == RECEIVED => {
            let requester = signers.first().ok_or_else(|| damaged("nobody asked for a change"))?;
            standing.requested(*digest, requester);
        }
        Event::Order { action, scope, order, .. } => match action.as_str() {
            "stopped" => standing.stopped(scope.parse().map_err(|error: String| damaged(&error))?, *order),
            "resumed" => standing.resumed(&scope.parse().map_err(|error: String| damaged(&error))?, *order),
            "revoked" => standing.revoke(scope.parse().map_err(|_| damaged("a revoked digest is none"))?, *order),
            "rollback" => {
                let (name, to) =
                    scope.split_once('@').ok_or_else(|| damaged("a rollback in the log names no bundle"))?;
                let name = name.parse().map_err(|_| damaged("a rollback in the log names no plugin"))?;
                standing.ordered(
                    name,
                    to.parse().map_err(|_| damaged("a rollback in the log names no bundle"))?,
                    *order,
                );
            }
            _ => {}
        },
        _ => {}
    }
    Ok(())
}

/// Whether a record can matter here. Most are of decisions, and are not parsed.
fn about_changes(record: &[u8]) -> bool {
    let text = std::str::from_utf8(record).unwrap_or_default();
    ["\"event\":\"bundle\"", "\"event\":\"order\"", "\"event\":\"ingest\"", SUMMARY, VERSIONS, STATE]
        .iter()
        .any(|mark| text.contains(mark))
}

fn open(dir: &Path, key: &DataKey) -> Option<Copy> {
    let bytes = key.open("the standing of changes", &[COPY.as_bytes()], &fs::read(dir.join(COPY)).ok()?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn keep(dir: &Path, key: &DataKey, copy: &Copy) -> Result<(), GateError> {
    let bytes = serde_json::to_vec(copy).map_err(|error| damaged(&error.to_string()))?;
    let sealed = key.seal("the standing of changes", &[COPY.as_bytes()], &bytes);
    write_private(&dir.join(COPY), &sealed.map_err(|error| GateError::Store(error.to_string()))?)
}

fn damaged(why: &str) -> GateError {
    GateError::Store(format!("the audit log does not say what is active: {why}"))
}

impl Gate {
    /// What the log says about changes, up to now.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what was just recorded at `index`. The caller holds `changing`.
    pub(crate) fn take_in(&self, event: &Event, index: u64) -> Result<(), GateError> {
        let mut standing = (*self.standing()).clone();
        apply(&mut standing, event)?;
        self.set_standing(standing.clone());
        let collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner).clone();
        keep(&self.dir, &self.site_key, &Copy { next: index + 1, standing, collections, state: self.recorded_state() })
    }

    /// Records a generation of `state.json`, so that the log knows an older one.
    pub(crate) fn record_state(&self, generation: u64) -> Result<(), GateError> {
        let detail = generation.to_string();
        self.journal.record_blocking(Event::Site { action: STATE.to_owned(), detail })?;
        self.recorded_state.fetch_max(generation, Ordering::AcqRel);
        Ok(())
    }

    /// The latest generation of `state.json` that a record says was written; 0 for none.
    pub(crate) fn recorded_state(&self) -> u64 {
        self.recorded_state.load(Ordering::Acquire)
    }

    /// The version of a collection that a record says was written; 0 for none.
    pub(crate) fn recorded_version(&self, name: &CollectionName) -> u64 {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }

    /// Takes in what was just recorded about a collection: the version that was written, or that it is gone.
    pub(crate) fn take_in_version(&self, name: &CollectionName, version: Option<u64>) {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        match version {
            Some(version) => written(&mut collections, name, version),
            None => drop(collections.remove(name)),
        }
    }

    pub(crate) fn set_standing(&self, standing: Standing) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(standing);
    }

    /// The store of bundles, if its state is one that the log has seen; a state that is gone is written anew.
    pub(crate) fn changes(&self) -> Result<SiteStore, GateError> {
        let standing = self.standing();
        if !SiteStore::has_state(&self.dir) && standing.active != ActiveSet::default() {
            SiteStore::restore(&self.dir, &standing.active)?;
        }
        let changes = SiteStore::open(&self.dir)?;
        standing.allows(changes.active()).map_err(|why| ChangeError::StateDamaged {
            path: self.dir.join("active.json"),
            why: format!("{why}; move the file away, and it is written anew from the log"),
        })?;
        Ok(changes)
    }

    /// Moves whole segments of records before `before` into an archive; what they say about changes stays in the log as a summary.
    ///
    /// # Errors
    /// As [`casemate_audit::Log::seal`].
    pub fn seal_log(&self, before: u64, archive: &Path) -> Result<casemate_audit::Segment, GateError> {
        let detail = serde_json::to_string(&*self.standing()).map_err(|error| damaged(&error.to_string()))?;
        self.journal.record_blocking(Event::Site { action: SUMMARY.to_owned(), detail })?;
        let versions = self.collections.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let detail = serde_json::to_string(&versions).map_err(|error| damaged(&error.to_string()))?;
        self.journal.record_blocking(Event::Site { action: VERSIONS.to_owned(), detail })?;
        self.record_state(self.recorded_state())?;
        self.journal.seal(before, archive)
    }
}
