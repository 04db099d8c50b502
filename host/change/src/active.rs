use std::collections::{BTreeMap, BTreeSet};

use casemate_bundle::VerifiedBundle;
use casemate_types::{Digest, Generation, PluginName};
use serde::{Deserialize, Serialize};

use crate::ChangeError;

/// What is active at a site, and how far each plugin has come. The content of `active.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveSet {
    /// One up for every change.
    pub generation: Generation,
    /// The active bundles.
    pub entries: BTreeMap<PluginName, ActiveEntry>,
    /// The highest version ever activated, per plugin. Never falls, and outlives deactivation.
    pub floors: BTreeMap<PluginName, u64>,
    /// The last bundle of each plugin that is not active now: the only one of its version that may come back.
    pub retired: BTreeMap<PluginName, ActiveEntry>,
    /// Plugins that two people took back to a bundle of a lower version than their floor.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rolled_back: BTreeSet<PluginName>,
}

/// One active bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveEntry {
    /// The bundle's version.
    pub version: u64,
    /// The digest of the whole file.
    pub bundle_digest: Digest,
    /// Where it is kept, relative to the store: `bundles/<64 hexadecimal digits>.casemate`.
    pub file: String,
}

impl ActiveSet {
    /// The set after `bundle` is activated; the same set if it is active already.
    ///
    /// Errors: [`ChangeError::Rollback`], [`ChangeError::SameVersion`].
    pub fn with(&self, bundle: &VerifiedBundle) -> Result<Self, ChangeError> {
        self.with_entry(&bundle.manifest().name, ActiveEntry::new(bundle.version(), bundle.bundle_digest()))
    }

    /// The set after the plugin `name` is taken out. Its floor stays.
    ///
    /// Errors: [`ChangeError::NotActive`].
    pub fn without(&self, name: &PluginName) -> Result<Self, ChangeError> {
        let mut next = self.clone();
        let entry = next.entries.remove(name).ok_or_else(|| ChangeError::NotActive { name: name.clone() })?;
        next.retired.insert(name.clone(), entry);
        next.step()
    }

    /// The set after `name` goes back to a bundle that was active before. The floor stays where it is.
    ///
    /// Errors: [`ChangeError::NotActive`], [`ChangeError::GenerationsExhausted`].
    pub fn back_to(&self, name: &PluginName, version: u64, bundle: Digest) -> Result<Self, ChangeError> {
        let mut next = self.clone();
        if next.entries.insert(name.clone(), ActiveEntry::new(version, bundle)).is_none() {
            return Err(ChangeError::NotActive { name: name.clone() });
        }
        // Going forward again, up to the floor, is the same step.
        match self.floors.get(name) {
            Some(floor) if version < *floor => next.rolled_back.insert(name.clone()),
            _ => next.rolled_back.remove(name),
        };
        next.step()
    }

    /// Takes over what the log says was done, in its order.
    pub(crate) fn put(&mut self, name: &PluginName, entry: ActiveEntry, generation: Generation) {
        let floor = self.floors.entry(name.clone()).or_default();
        *floor = entry.version.max(*floor);
        if entry.version < *floor {
            self.rolled_back.insert(name.clone());
        } else {
            self.rolled_back.remove(name);
        }
        self.retired.remove(name);
        self.entries.insert(name.clone(), entry);
        self.generation = self.generation.max(generation);
    }

    /// Checks what no writer of ours would have written; says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, entry) in self.entries.iter().chain(&self.retired) {
            if *entry != ActiveEntry::new(entry.version, entry.bundle_digest) {
                return Err(format!("`{name}` is kept under a name that is not its digest"));
            }
            let floor = self.floors.get(name).copied().unwrap_or_default();
            let fits = if self.rolled_back.contains(name) { entry.version < floor } else { entry.version == floor };
            if !fits {
                return Err(format!("`{name}` is at version {}, which is not its floor", entry.version));
            }
        }
        match self.floors.keys().find(|name| self.entries.contains_key(*name) == self.retired.contains_key(*name)) {
            Some(name) => Err(format!("`{name}` has a floor but is not either active or retired")),
            None => Ok(()),
        }
    }

    fn with_entry(&self, name: &PluginName, entry: ActiveEntry) -> Result<Self, ChangeError> {
        if self.entries.get(name) == Some(&entry) {
            return Ok(self.clone());
        }
        if let Some(&floor) = self.floors.get(name) {
            if entry.version < floor {
                return Err(ChangeError::Rollback { name: name.clone(), floor, offered: entry.version });
            }
            if entry.version == floor && self.retired.get(name) != Some(&entry) {
                return Err(ChangeError::SameVersion { name: name.clone(), version: floor });
            }
        }
        let mut next = self.clone();
        next.floors.insert(name.clone(), entry.version);
        next.retired.remove(name);
        next.rolled_back.remove(name);
        next.entries.insert(name.clone(), entry);
        next.step()
    }

    fn step(mut self) -> Result<Self, ChangeError> {
        self.generation = self.generation.next().ok_or(ChangeError::GenerationsExhausted)?;
        Ok(self)
    }
}

impl ActiveEntry {
    pub(crate) fn new(version: u64, bundle_digest: Digest) -> Self {
        Self { version, bundle_digest, file: format!("bundles/{}.casemate", bundle_digest.hex()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entry(version: u64, content: &str) -> ActiveEntry {
        ActiveEntry::new(version, Digest::of(content.as_bytes()))
    }

    fn name() -> PluginName {
        "clearance".parse().unwrap()
    }

    #[test]
    fn every_change_is_one_generation_and_a_repeat_is_none() {
        let one = ActiveSet::default().with_entry(&name(), entry(1, "a")).unwrap();
        assert_eq!(one.generation, Generation(1));
        assert_eq!(one.with_entry(&name(), entry(1, "a")).unwrap(), one);
        let two = one.with_entry(&name(), entry(7, "b")).unwrap();
        assert_eq!((two.generation, two.floors[&name()]), (Generation(2), 7));
        two.check().unwrap();
    }

    #[test]
    fn rollback_is_named_even_after_deactivation() {
        let set = ActiveSet::default().with_entry(&name(), entry(3, "a")).unwrap();
        for set in [set.clone(), set.without(&name()).unwrap()] {
            let error = set.with_entry(&name(), entry(2, "old"));
            assert!(matches!(error, Err(ChangeError::Rollback { floor: 3, offered: 2, .. })), "{error:?}");
            let error = set.with_entry(&name(), entry(3, "twin"));
            assert!(matches!(error, Err(ChangeError::SameVersion { version: 3, .. })), "{error:?}");
        }
    }

    #[test]
    fn a_deactivated_bundle_may_come_back_itself() {
        let set = ActiveSet::default().with_entry(&name(), entry(3, "a")).unwrap().without(&name()).unwrap();
        set.check().unwrap();
        let back = set.with_entry(&name(), entry(3, "a")).unwrap();
        assert_eq!((back.generation, back.retired.len()), (Generation(3), 0));
        back.check().unwrap();
    }

    #[test]
    fn going_back_is_a_generation_and_leaves_the_floor() {
        let (old, new) = (entry(1, "a"), entry(2, "b"));
        let set = ActiveSet::default().with_entry(&name(), old.clone()).unwrap();
        let set = set.with_entry(&name(), new.clone()).unwrap();
        let back = set.back_to(&name(), 1, old.bundle_digest).unwrap();
        assert_eq!((back.generation, back.floors[&name()]), (Generation(3), 2));
        back.check().unwrap();
        // Whoever edits the file cannot go back without the mark, nor keep it.
        let mut unmarked = back.clone();
        unmarked.rolled_back.clear();
        assert!(unmarked.check().is_err());
        let forward = back.back_to(&name(), 2, new.bundle_digest).unwrap();
        assert_eq!((forward.generation, forward.rolled_back.len()), (Generation(4), 0));
        forward.check().unwrap();
        assert!(matches!(back.with_entry(&name(), entry(1, "c")), Err(ChangeError::Rollback { .. })));
        assert!(back.with_entry(&name(), entry(3, "c")).unwrap().check().is_ok());
    }

    #[test]
    fn taking_out_what_is_not_there_is_named() {
        assert!(matches!(ActiveSet::default().without(&name()), Err(ChangeError::NotActive { .. })));
    }

    #[test]
    fn the_generation_never_wraps() {
        let set = ActiveSet { generation: Generation(u64::MAX), ..ActiveSet::default() };
        assert!(matches!(set.with_entry(&name(), entry(1, "a")), Err(ChangeError::GenerationsExhausted)));
    }

    #[test]
    fn lowered_or_lost_floors_are_seen() {
        let good = ActiveSet::default().with_entry(&name(), entry(3, "a")).unwrap();
        let mut lowered = good.clone();
        lowered.floors.insert(name(), 1);
        let mut lost = good.clone();
        lost.floors.clear();
        let mut renamed = good;
        renamed.entries.get_mut(&name()).unwrap().file = "../../etc/passwd".to_owned();
        for set in [lowered, lost, renamed] {
            assert!(set.check().is_err(), "{set:?}");
        }
    }
}
