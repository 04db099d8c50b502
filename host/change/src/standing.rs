use std::collections::{BTreeMap, BTreeSet};

use casemate_types::{Digest, Generation, PluginName};
use serde::{Deserialize, Serialize};

use crate::{ActiveEntry, ActiveSet, Order, OrderError, Scope, SignedOrder};

/// What a site's audit log says about its changes: rebuilt from the records, in order, and from nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The active set.
    pub active: ActiveSet,
    /// The stops in force, each with the digest of the latest order that said so.
    pub stops: BTreeMap<Scope, Digest>,
    /// Bundles that may never run again.
    pub revoked: BTreeSet<Digest>,
    /// Every bundle that was ever active, by plugin and digest, with its version.
    pub history: BTreeMap<PluginName, BTreeMap<Digest, u64>>,
    /// Every order that was carried out.
    pub orders: BTreeSet<Digest>,
    /// A rollback that was ordered and is not recorded as done: the only one that a state may be ahead of the log with.
    pub pending: Option<(PluginName, Digest)>,
    /// The bundle that was verified last and is not recorded as active: the only new one that a state may be ahead of the log with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<(PluginName, Digest)>,
    /// Who asked for which change, by the digest of its content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<Digest, String>,
}

impl Standing {
    /// Takes in that a bundle became active, or came back, with `generation`.
    pub fn activated(&mut self, name: &PluginName, version: u64, bundle: Digest, generation: Generation) {
        self.history.entry(name.clone()).or_default().insert(bundle, version);
        self.pending = None;
        self.verified = None;
        self.active.put(name, ActiveEntry::new(version, bundle), generation);
    }

    /// Takes in that a bundle was verified, and is about to become active.
    pub fn verified(&mut self, name: PluginName, bundle: Digest) {
        self.verified = Some((name, bundle));
    }

    /// Takes in that somebody asks for a change. Whoever asked first is the one who asked.
    pub fn requested(&mut self, content: Digest, requester: &str) {
        self.requests.entry(content).or_insert_with(|| requester.to_owned());
    }

    /// Whether the order may be carried out now.
    ///
    /// Errors: [`OrderError::Replayed`], [`OrderError::NotStopped`], [`OrderError::NeverActive`], [`OrderError::Stale`],
    /// [`OrderError::Revoked`].
    pub fn check(&self, signed: &SignedOrder) -> Result<(), OrderError> {
        if self.orders.contains(&signed.digest()) && !self.cut_off(signed.order()) {
            return Err(OrderError::Replayed);
        }
        match signed.order() {
            Order::Stop { .. } | Order::Revoke { .. } => Ok(()),
            Order::Resume { scope, stop, .. } if self.stops.get(scope) == Some(stop) => Ok(()),
            Order::Resume { scope, stop, .. } => Err(OrderError::NotStopped { scope: scope.to_string(), stop: *stop }),
            Order::Rollback { name, from, to, .. } => {
                if self.revoked.contains(to) {
                    return Err(OrderError::Revoked { bundle: *to });
                }
                if self.active.entries.get(name).is_none_or(|entry| entry.bundle_digest != *from) || from == to {
                    return Err(OrderError::Stale { name: name.clone() });
                }
                match self.version_of(name, *to) {
                    Some(_) => Ok(()),
                    None => Err(OrderError::NeverActive { name: name.clone(), bundle: *to }),
                }
            }
        }
    }

    /// Whether the order was recorded, and not carried out before the process ended: it may be given again.
    fn cut_off(&self, order: &Order) -> bool {
        match order {
            Order::Rollback { name, to, .. } => self.pending.as_ref() == Some(&(name.clone(), *to)),
            _ => false,
        }
    }

    /// Takes in that something was stopped.
    pub fn stopped(&mut self, scope: Scope, order: Digest) {
        self.stops.insert(scope, order);
        self.orders.insert(order);
    }

    /// Takes in that a stop was lifted.
    pub fn resumed(&mut self, scope: &Scope, order: Digest) {
        self.stops.remove(scope);
        self.orders.insert(order);
    }

    /// Takes in that a bundle was revoked.
    pub fn revoke(&mut self, bundle: Digest, order: Digest) {
        self.revoked.insert(bundle);
        self.orders.insert(order);
    }

    /// Takes in that a rollback was ordered; [`Standing::activated`] says that it was done.
    pub fn ordered(&mut self, name: PluginName, to: Digest, order: Digest) {
        self.pending = Some((name, to));
        self.orders.insert(order);
    }

    /// The version of a bundle that was active once.
    pub fn version_of(&self, name: &PluginName, bundle: Digest) -> Option<u64> {
        self.history.get(name)?.get(&bundle).copied()
    }

    /// Whether this plugin may not run: stopped alone or with everything, or revoked.
    pub fn denies(&self, name: &PluginName, bundle: Digest) -> bool {
        self.stops.contains_key(&Scope::Everything)
            || self.stops.contains_key(&Scope::Component(name.clone()))
            || self.revoked.contains(&bundle)
    }

    /// What `active.json` may say: the set of the log, or one more change, which a crash kept from the log. Says what is wrong.
    pub fn allows(&self, written: &ActiveSet) -> Result<(), String> {
        let log = &self.active;
        if written.generation < log.generation {
            return Err(format!("it is of generation {}, the log has seen {}", written.generation, log.generation));
        }
        if written.generation.0 > log.generation.0.saturating_add(1) {
            return Err(format!(
                "it is of generation {}, the log has seen only {}",
                written.generation, log.generation
            ));
        }
        if written.generation == log.generation && written.entries != log.entries {
            return Err(format!("its bundles are not those of generation {} in the log", log.generation));
        }
        for (name, floor) in &log.floors {
            if written.floors.get(name).is_none_or(|found| found < floor) {
                return Err(format!("its floor of `{name}` is below {floor}, which the log has seen"));
            }
        }
        if let Some(name) = log.entries.keys().find(|name| !written.entries.contains_key(*name)) {
            return Err(format!("`{name}` is missing from it, and is active as the log has it"));
        }
        for (name, entry) in &written.entries {
            let same = log.entries.get(name) == Some(entry);
            let above = log.floors.get(name).is_none_or(|floor| entry.version > *floor);
            let newer = above && self.verified.as_ref() == Some(&(name.clone(), entry.bundle_digest));
            let ordered = self.pending.as_ref() == Some(&(name.clone(), entry.bundle_digest))
                && self.version_of(name, entry.bundle_digest) == Some(entry.version);
            if !same && !newer && !ordered {
                return Err(match above {
                    true => format!("version {} of `{name}` did not become active here", entry.version),
                    false => format!("nobody ordered `{name}` back to version {}", entry.version),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn name() -> PluginName {
        "clearance".parse().unwrap()
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    /// Version 1, then version 2.
    fn two() -> Standing {
        let mut standing = Standing::default();
        standing.activated(&name(), 1, digest("one"), Generation(1));
        standing.activated(&name(), 2, digest("two"), Generation(2));
        standing
    }

    #[test]
    fn a_state_put_back_from_a_copy_is_refused() {
        let (mut old, new) = (Standing::default(), two());
        old.activated(&name(), 1, digest("one"), Generation(1));
        assert!(new.allows(&new.active).is_ok());
        assert!(new.allows(&old.active).unwrap_err().contains("generation 1"));
        assert!(new.allows(&ActiveSet::default()).is_err());
    }

    #[test]
    fn a_rollback_that_nobody_ordered_is_refused_whatever_the_state_says() {
        let mut standing = two();
        let back = standing.active.back_to(&name(), 1, digest("one")).unwrap();
        assert!(standing.allows(&back).unwrap_err().contains("nobody ordered"));
        standing.ordered(name(), digest("one"), digest("order"));
        standing.allows(&back).unwrap();
        // Done is done: the order does not cover a second one.
        standing.activated(&name(), 1, digest("one"), Generation(3));
        standing.activated(&name(), 3, digest("three"), Generation(4));
        let back = standing.active.back_to(&name(), 1, digest("one")).unwrap();
        assert!(standing.allows(&back).unwrap_err().contains("nobody ordered"));
    }

    /// Whoever can write the folder lists a bundle that two people signed once, and that nobody staged or approved.
    #[test]
    fn a_bundle_that_the_site_did_not_verify_last_is_refused_whatever_the_state_says() {
        let mut standing = two();
        let mut next = standing.active.clone();
        next.put(&name(), ActiveEntry::new(3, digest("three")), Generation(3));
        assert!(standing.allows(&next).unwrap_err().contains("did not become active"));
        standing.verified("nearest".parse().unwrap(), digest("three"));
        assert!(standing.allows(&next).is_err());
        standing.verified(name(), digest("three"));
        standing.allows(&next).unwrap();
    }

    /// A policy set that is dropped would leave the unsigned chain of `site.toml` in force.
    #[test]
    fn an_entry_that_is_dropped_from_the_state_is_missed() {
        let standing = two();
        let mut without = standing.active.clone();
        without.entries.remove(&name());
        without.generation = Generation(3);
        assert!(standing.allows(&without).unwrap_err().contains("is missing"));
    }

    #[test]
    fn same_generation_other_bundles_and_skipped_generations_are_refused() {
        let standing = two();
        let mut other = standing.active.clone();
        other.entries.insert(name(), ActiveEntry::new(2, digest("twin")));
        assert!(standing.allows(&other).is_err());
        let mut ahead = standing.active.clone();
        ahead.generation = Generation(4);
        assert!(standing.allows(&ahead).is_err());
        ahead.generation = Generation(3);
        ahead.entries.insert(name(), ActiveEntry::new(2, digest("twin")));
        assert!(standing.allows(&ahead).is_err());
        let mut lowered = standing.active.clone();
        lowered.floors.insert(name(), 1);
        assert!(standing.allows(&lowered).is_err());
    }

    #[test]
    fn the_log_rebuilds_a_set_that_checks() {
        let mut standing = two();
        assert!(standing.active.check().is_ok());
        standing.activated(&name(), 1, digest("one"), Generation(3));
        assert!(standing.active.check().is_ok());
        assert_eq!(standing.active.floors[&name()], 2);
        assert_eq!(standing.version_of(&name(), digest("two")), Some(2));
    }

    #[test]
    fn a_stop_denies_its_plugin_and_everything_denies_all() {
        let mut standing = two();
        let other: PluginName = "nearest".parse().unwrap();
        standing.stopped(Scope::Component(name()), digest("s"));
        assert!(standing.denies(&name(), digest("two")) && !standing.denies(&other, digest("n")));
        standing.stopped(Scope::Everything, digest("t"));
        assert!(standing.denies(&other, digest("n")));
        standing.resumed(&Scope::Everything, digest("r"));
        assert!(standing.denies(&name(), digest("two")) && !standing.denies(&other, digest("n")));
        standing.revoke(digest("n"), digest("v"));
        assert!(standing.denies(&other, digest("n")));
    }
}
