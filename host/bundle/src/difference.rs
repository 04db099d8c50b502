//! What changes from one bundle to another, for the people who approve it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::evidence::CYCLONEDX;
use crate::lifecycle::Inspection;

/// What a bundle changes. More authority is what is `gained`, `new_keys`, `no_longer_asked`, and a higher limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Difference {
    /// Capabilities it has and the old one has not.
    pub gained: BTreeSet<String>,
    /// Capabilities it gives up.
    pub lost: BTreeSet<String>,
    /// Keys of the site it may use and the old one may not.
    pub new_keys: BTreeSet<String>,
    /// Capabilities it has of whose calls policies were asked, and are asked no longer.
    pub no_longer_asked: BTreeSet<String>,
    /// Phases in which the policy is not asked any more.
    pub dropped_phases: BTreeSet<String>,
    /// Limits that differ: old and new value, by name.
    pub limits: BTreeMap<String, (u64, u64)>,
    /// Settings that differ: old and new value (`null` where there is none), by name.
    pub settings: BTreeMap<String, (Value, Value)>,
    /// Crates and versions it is made of and the old one was not; `None` where one of the two has no bill of materials.
    pub new_dependencies: Option<BTreeSet<String>>,
    /// Crates and versions it is no longer made of; `None` likewise.
    pub dropped_dependencies: Option<BTreeSet<String>>,
    /// Bytes of the component: old and new.
    pub component_bytes: (u64, u64),
    /// Whether the component is another one.
    pub other_component: bool,
    /// Whether it is of another world.
    pub other_world: bool,
    /// Whether it was built against another text of the contract.
    pub other_contract: bool,
}

impl Difference {
    /// From `old` to `new`.
    pub fn between(old: &Inspection, new: &Inspection) -> Self {
        let capabilities = |of: &Inspection| names(&of.manifest.capabilities);
        let asked = |of: &Inspection| names(&of.manifest.ask_policy);
        let phases = |of: &Inspection| names(&of.manifest.phases);
        let keys = |of: &Inspection| of.manifest.keys.iter().cloned().collect::<BTreeSet<_>>();
        let minus = |a: BTreeSet<String>, b: BTreeSet<String>| a.difference(&b).cloned().collect::<BTreeSet<_>>();
        let (before, after) = (dependencies(old), dependencies(new));
        let both = before.zip(after);
        let dropped = minus(asked(old), asked(new));
        Self {
            gained: minus(capabilities(new), capabilities(old)),
            lost: minus(capabilities(old), capabilities(new)),
            new_keys: minus(keys(new), keys(old)),
            no_longer_asked: dropped.intersection(&capabilities(new)).cloned().collect(),
            dropped_phases: minus(phases(old), phases(new)),
            limits: changed(&members(&old.manifest.limits), &members(&new.manifest.limits))
                .filter_map(|(name, old, new)| Some((name, (old.as_u64()?, new.as_u64()?))))
                .collect(),
            settings: changed(&members(&old.settings), &members(&new.settings))
                .map(|(name, old, new)| (name, (old, new)))
                .collect(),
            new_dependencies: both.as_ref().map(|(before, after)| minus(after.clone(), before.clone())),
            dropped_dependencies: both.map(|(before, after)| minus(before, after)),
            component_bytes: (old.component_bytes, new.component_bytes),
            other_component: old.component_digest != new.component_digest,
            other_world: old.manifest.world != new.manifest.world,
            other_contract: old.contract != new.contract,
        }
    }
}

/// Crates and versions of the bundle's CycloneDX bill of materials, or `None` without one.
pub fn dependencies(of: &Inspection) -> Option<BTreeSet<String>> {
    let bill = of.evidence.iter().find(|evidence| evidence.statement.predicate_type == CYCLONEDX)?;
    let components = bill.statement.predicate.get("components")?.as_array()?;
    let text = |component: &Value, name: &str| component.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    Some(
        components
            .iter()
            .map(|component| format!("{} {}", text(component, "name"), text(component, "version")))
            .collect(),
    )
}

fn names<T: ToString>(of: &BTreeSet<T>) -> BTreeSet<String> {
    of.iter().map(ToString::to_string).collect()
}

fn members(of: &impl Serialize) -> BTreeMap<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(members)) => members.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

fn changed<'a>(
    old: &'a BTreeMap<String, Value>,
    new: &'a BTreeMap<String, Value>,
) -> impl Iterator<Item = (String, Value, Value)> + 'a {
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of = |map: &BTreeMap<String, Value>, name: &String| map.get(name).cloned().unwrap_or(Value::Null);
    all.into_iter().map(move |name| (name.clone(), of(old, name), of(new, name))).filter(|(_, old, new)| old != new)
}
