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
}

impl Standing {
    /// Takes in that a bundle became active, or came back, with `generation`.
    pub fn activated(&mut self, name: &PluginName, version: u64, bundle: Digest, generation: Generation) {
        self.history.entry(name.clone()).or_default().insert(bundle, version);
        self.active.put(name, ActiveEntry::new(version, bundle), generation);
    }

    /// Whether the order may be carried out now.
    ///
    /// Errors: [`OrderError::Replayed`], [`OrderError::NotStopped`], [`OrderError::NeverActive`], [`OrderError::Stale`],
    /// [`OrderError::Revoked`].
    pub fn check(&self, signed: &SignedOrder) -> Result<(), OrderError> {
        if self.orders.contains(&signed.digest()) {
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
    pub fn ordered(&mut self, order: Digest) {
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
            return Err(format!("it is of generation {}, the log has seen only {}", written.generation, log.generation));
        }
        if written.generation == log.generation && written.entries != log.entries {
            return Err(format!("its bundles are not those of generation {} in the log", log.generation));
        }
        for (name, floor) in &log.floors {
            if written.floors.get(name).is_none_or(|found| found < floor) {
                return Err(format!("its floor of `{name}` is below {floor}, which the log has seen"));
            }
        }
        for (name, entry) in &written.entries {
            let known = self.version_of(name, entry.bundle_digest) == Some(entry.version);
            if !known && log.floors.get(name).is_some_and(|floor| entry.version <= *floor) {
                return Err(format!("`{name}` version {} is no bundle that the log has seen", entry.version));
            }
        }
        Ok(())
    }
}
