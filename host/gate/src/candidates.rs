//! Candidate mode: which groups are scored at all, by an index of the store over vectors that are perturbed and not encrypted.
//!
//! Off unless `[candidates]` of `site.toml` names the compartment. Whatever the index says, the groups are scored under encryption, and
//! passages are checked and ranked as in every search: an index that lies hides passages, and cannot put one in.

use std::collections::BTreeSet;

use casemate_audit::record::Event;
use casemate_fhe_owner::Perturbation;
use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{DocumentId, GroupEntry};

use crate::GateError;
use crate::collection::{Manifest, Passage, fhe, store};
use crate::config::CandidateRule;
use crate::session::Compartment;
use crate::site::Gate;

impl Gate {
    fn candidate_rule(&self, name: &CompartmentName) -> Option<&CandidateRule> {
        self.config.candidates.as_ref()?.compartments.get(name)
    }

    /// Who reads the log learns that the compartment's vectors show their distances.
    pub(crate) fn record_leakage(&self, name: &CompartmentName) -> Result<(), GateError> {
        let Some(rule) = self.candidate_rule(name) else { return Ok(()) };
        let detail =
            format!("`{name}`: its vectors show their distances to the store, with noise of beta {}", rule.beta);
        self.journal.record_blocking(Event::Site { action: "leakage-distances".to_owned(), detail }).map(drop)
    }

    /// What the store's index is given for a group: nothing, unless the compartment is in candidate mode.
    pub(crate) fn hints(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        members: &[(DocumentId, Passage)],
    ) -> Result<Option<Vec<Vec<f32>>>, GateError> {
        let (Some(rule), Some(candidates)) = (self.candidate_rule(name), &self.config.candidates) else {
            return Ok(None);
        };
        if let Some((_, passage)) = members.iter().find(|(_, passage)| passage.label > candidates.ceiling) {
            return Err(GateError::Ingest(format!(
                "`{name}` lets the store see distances between vectors ([candidates]), up to label {}; `{}` is {}",
                candidates.ceiling, passage.title, passage.label
            )));
        }
        let perturbation = perturbation(compartment, name, rule)?;
        members
            .iter()
            .map(|(_, passage)| perturbation.perturb(&passage.vector()).map_err(fhe))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The groups that hold candidates, and those that the index does not know; none where all are to be scored.
    pub(crate) fn candidate_groups(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        vector: &[f32],
    ) -> Result<Option<Vec<GroupEntry>>, GateError> {
        let Some(rule) = self.candidate_rule(name) else { return Ok(None) };
        let hint = perturbation(compartment, name, rule)?.perturb(vector).map_err(fhe)?;
        let found = self.store.nearest(&CollectionName::from(name), &hint, rule.count).map_err(store)?;
        let known = |entry: &&GroupEntry| manifest.hinted.contains(&entry.group);
        let indexed: u64 = manifest.groups.groups.iter().filter(known).map(|entry| u64::from(entry.count)).sum();
        // An index that was lost, as by an import, must not pass for a collection without passages.
        if (found.len() as u64) < indexed.min(u64::from(rule.count)) {
            tracing::warn!(%name, found = found.len(), "the store's index gave too few candidates; every group is scored");
            return Ok(None);
        }
        let wanted: BTreeSet<u32> = found.into_iter().map(|position| position.group).collect();
        let scored = |entry: &&GroupEntry| !known(entry) || wanted.contains(&entry.group);
        Ok(Some(manifest.groups.groups.iter().filter(scored).copied().collect()))
    }
}

fn perturbation(
    compartment: &Compartment,
    name: &CompartmentName,
    rule: &CandidateRule,
) -> Result<Perturbation, GateError> {
    Perturbation::new(&compartment.identifiers, name.as_str(), rule.beta).map_err(fhe)
}
