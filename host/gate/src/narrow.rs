//! What a filter leaves of a collection: by the store's index where the store can tell, by the owner's sealed columns where it
//! must not.

use std::collections::{BTreeMap, BTreeSet};

use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{DocumentId, Position};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::collection::{Manifest, Passage, store};
use crate::condition::{Condition, Test};
use crate::config::SiteConfig;
use crate::metadata::FieldValue;
use crate::schema::{Cell, FieldKind, FieldRule};
use crate::session::Compartment;
use crate::site::Gate;

/// Of one group: by field, the value in each slot. A field that no passage of the group has is there without slots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Columns(BTreeMap<String, Vec<Option<Cell>>>);

/// What matches a filter.
pub(crate) struct Narrowed {
    /// What the store knows to match.
    indexed: Option<BTreeSet<Position>>,
    /// What only the owner knows to match.
    sealed: Option<BTreeSet<Position>>,
}

impl Columns {
    /// The columns of a group whose slots hold these passages.
    pub(crate) fn of(config: &SiteConfig, collection: &CompartmentName, members: &[(DocumentId, Passage)]) -> Self {
        let column = |(name, rule): (&str, &FieldRule)| {
            let cell = |(_, passage): &(DocumentId, Passage)| passage.metadata.get(name).map(|value| rule.cell(value));
            let mut cells: Vec<Option<Cell>> = members.iter().map(cell).collect();
            if cells.iter().all(Option::is_none) {
                cells.clear();
            }
            (name.to_owned(), cells)
        };
        Self(config.columns(collection).into_iter().map(column).collect())
    }
}

impl Narrowed {
    /// Whether a passage matches.
    pub(crate) fn matches(&self, position: &Position) -> bool {
        self.seems_to_match(position) && self.sealed.as_ref().is_none_or(|set| set.contains(position))
    }

    /// Whether it does as far as the store can tell: where decoys come from.
    pub(crate) fn seems_to_match(&self, position: &Position) -> bool {
        self.indexed.as_ref().is_none_or(|set| set.contains(position))
    }
}

impl Gate {
    /// What matches all conditions. The store is asked for keyed tokens and FF1 ciphertexts alone; ranges, and fields that are sealed,
    /// are decided here.
    pub(crate) fn narrow(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        conditions: &[Condition],
    ) -> Result<Narrowed, GateError> {
        let is_sealed = |condition: &&Condition| {
            let rule = self.config.field(name, &condition.field);
            !matches!(condition.test, Test::OneOf(_)) || rule.is_some_and(|rule| *rule.kind() == FieldKind::Sealed)
        };
        let (sealed, indexed): (Vec<&Condition>, Vec<&Condition>) = conditions.iter().partition(is_sealed);
        Ok(Narrowed {
            indexed: intersection(indexed, |condition| self.by_index(name, condition))?,
            sealed: intersection(sealed, |condition| self.by_column(name, compartment, manifest, condition))?,
        })
    }

    fn by_index(&self, name: &CompartmentName, condition: &Condition) -> Result<BTreeSet<Position>, GateError> {
        let Test::OneOf(values) = &condition.test else { return Ok(BTreeSet::new()) };
        let collection = CollectionName::from(name);
        let fields: Vec<FieldValue<'_>> =
            values.iter().map(|value| FieldValue { name: &condition.field, value }).collect();
        let mut found = BTreeSet::new();
        let mut asked = BTreeSet::new();
        for token in self.fields.filters(&self.config, name, &fields)?.into_iter().flatten() {
            if asked.insert(token.clone()) {
                found.extend(self.store.matching(&collection, &[token]).map_err(store)?);
            }
        }
        Ok(found)
    }

    fn by_column(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        condition: &Condition,
    ) -> Result<BTreeSet<Position>, GateError> {
        let rule = self.config.field(name, &condition.field);
        let number = |value: &String| rule.and_then(|rule| rule.number(value));
        let wanted: BTreeSet<Cell> = match (&condition.test, rule) {
            (Test::OneOf(values), Some(rule)) => values.iter().map(|value| rule.cell(value)).collect(),
            _ => BTreeSet::new(),
        };
        let fits = |cell: &Cell| match (&condition.test, cell) {
            (Test::OneOf(_), cell) => wanted.contains(cell),
            (Test::AtLeast(value), Cell::Number(held)) => number(value).is_some_and(|value| *held >= value),
            (Test::AtMost(value), Cell::Number(held)) => number(value).is_some_and(|value| *held <= value),
            _ => false,
        };
        let mut found = BTreeSet::new();
        for entry in &manifest.groups.groups {
            let column = manifest.columns.get(&entry.group).and_then(|columns| columns.0.get(&condition.field));
            match column {
                Some(cells) => {
                    let fitting = cells.iter().zip(0..).filter(|(cell, _)| cell.as_ref().is_some_and(fits));
                    found.extend(fitting.map(|(_, slot)| Position { group: entry.group, slot }));
                }
                // Ingested before the field was typed or sealed: the passages themselves say.
                None => {
                    for slot in 0..entry.count {
                        let position = Position { group: entry.group, slot };
                        let (_, passage) = self.fetch(name, compartment, manifest, position)?;
                        if condition.holds(rule, &passage.metadata) {
                            found.insert(position);
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What is in the sets of all; nothing without any.
fn intersection(
    conditions: Vec<&Condition>,
    set_of: impl Fn(&Condition) -> Result<BTreeSet<Position>, GateError>,
) -> Result<Option<BTreeSet<Position>>, GateError> {
    let mut all: Option<BTreeSet<Position>> = None;
    for condition in conditions {
        let these = set_of(condition)?;
        all = Some(match all {
            Some(all) => &all & &these,
            None => these,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoys_do_not_follow_what_only_the_owner_knows() {
        let at = |slot| Position { group: 0, slot };
        let narrowed = Narrowed { indexed: Some([at(1), at(2)].into()), sealed: Some([at(2), at(3)].into()) };
        let both = |of: fn(&Narrowed, &Position) -> bool| (0..5).filter(|slot| of(&narrowed, &at(*slot))).collect();
        let (matching, seeming): (Vec<u32>, Vec<u32>) = (both(Narrowed::matches), both(Narrowed::seems_to_match));
        assert_eq!((matching, seeming), (vec![2], vec![1, 2]));
    }
}
