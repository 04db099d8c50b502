//! A collection is written anew as `site.toml` has it now: forms of fields, columns, keywords, clusters.

use std::collections::{BTreeMap, BTreeSet};

use casemate_types::CompartmentName;
use serde::Serialize;

use crate::GateError;
use crate::clusters::parts;
use crate::ingest::{Members, capacity};
use crate::session::Session;
use crate::site::Gate;
use crate::state::SiteKey;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reindexed {
    /// Passages written anew.
    pub passages: u64,
    /// Groups there are now.
    pub groups: usize,
    /// Whether close passages share groups.
    pub clustered: bool,
    /// Whether passages are found by words.
    pub keywords: bool,
}

impl Gate {
    /// Writes a collection of the session anew. Nothing of what anybody may read changes. A collection that is to be clustered is
    /// written as one change, and held in memory meanwhile; any other group by group, and can be cut off and called again.
    /// `progress` is told groups done, and their number.
    ///
    /// # Errors
    /// As an ingest. A group that does not hold what the manifest says is refused.
    pub fn reindex(
        &self,
        session: &Session,
        name: &CompartmentName,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Reindexed, GateError> {
        self.check_current(session)?;
        let compartment = self.held(session, name)?;
        let mut done = Reindexed {
            clustered: self.config.cluster_size(name).is_some(),
            keywords: self.config.keeps_keywords(name),
            ..Reindexed::default()
        };
        let Some(manifest) = self.manifest(name, compartment)? else { return Ok(done) };
        let total = manifest.groups.groups.len();
        done.passages = manifest.documents();
        let what = format!("metadata of {} passages written anew", done.passages);
        self.record_key_use_blocking(SiteKey::Metadata, "encrypt", &session.claims.user, &what)?;
        self.record_ingest("begun", name, 0, 0, manifest.groups.version)?;
        let keep = BTreeSet::new();
        let mut version = manifest.groups.version;
        if let Some(size) = self.config.cluster_size(name) {
            let (mut written, mut covers) = (Vec::new(), BTreeMap::new());
            for (number, entry) in manifest.groups.groups.iter().enumerate() {
                let members = self.members(name, compartment, &manifest, entry, &keep)?;
                written.extend(members.written);
                covers.insert(entry.group, members.covers);
                progress(number + 1, total);
            }
            // Groups keep their numbers and canaries as far as there are any; what is left over goes with its canaries.
            let mut parts = parts(written, size.min(capacity(compartment))).into_iter();
            let mut touched: BTreeMap<u32, Members> = covers
                .into_iter()
                .map(|(group, covers)| (group, Members { written: parts.next().unwrap_or_default(), covers }))
                .collect();
            for (group, written) in (manifest.next_group()..).zip(parts) {
                touched.insert(group, Members { written, covers: Vec::new() });
            }
            version = self.write(name, compartment, manifest, &keep, touched)?;
        } else {
            for (number, entry) in manifest.groups.groups.iter().enumerate() {
                // Each step has left a manifest of its own.
                let Some(manifest) = self.manifest(name, compartment)? else { break };
                let members = self.members(name, compartment, &manifest, entry, &keep)?;
                version = self.write(name, compartment, manifest, &keep, BTreeMap::from([(entry.group, members)]))?;
                progress(number + 1, total);
            }
        }
        self.record_ingest("done", name, 0, 0, version)?;
        done.groups = self.manifest(name, compartment)?.map_or(0, |manifest| manifest.groups.groups.len());
        Ok(done)
    }
}
