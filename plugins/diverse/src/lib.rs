//! A retrieval strategy that does not say the same thing twice.
#![deny(unsafe_code)]

use casemate_sdk::strategy::{diversify, everywhere, merge};
use casemate_sdk::vectors::{Collection, Query, search};
use casemate_sdk::{Description, Field, Reference, SettingKind, Settings, Strategy, similarity};

/// Maximal marginal relevance over the closest passages.
pub struct Diverse;

impl Strategy for Diverse {
    fn describe() -> Description {
        Description::new("Close passages that differ from each other, by maximal marginal relevance.")
            .optional(
                "relevance",
                SettingKind::Integer,
                "Percent that closeness to the question counts, 0 to 100. Default 70.",
            )
            .optional("collections", SettingKind::Texts, "Search only these collections, as far as the session may.")
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let pool = k.saturating_mul(4).min(MAX_POOL);
        let query = Query::embed(question).map_err(|error| error.explain("embedding the question"))?;
        let rankings =
            everywhere(settings.texts("collections"), |name| search(&Collection::open(name)?, &query, filter, pool))?;
        let found = merge(rankings, pool);
        if found.is_empty() {
            return Ok(found);
        }
        let closeness = similarity::closeness(&found).map_err(|error| error.explain("comparing passages"))?;
        let relevance = settings.integer("relevance").unwrap_or(70).clamp(0, 100) as u32;
        Ok(diversify(&found, &closeness, relevance, k))
    }
}

casemate_sdk::export_strategy!(Diverse);

/// The contract's limit of `similarity.closeness`.
const MAX_POOL: u32 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::testing::{Host, settings, with_host};

    use super::*;

    fn reference(document: &str, closeness: u16) -> Reference {
        Reference { collection: "alpha".to_owned(), document: document.to_owned(), closeness }
    }

    #[test]
    fn a_twin_gives_way_and_the_pool_keeps_to_the_contract() {
        let mut all = vec![reference("pump", 900), reference("pump again", 899), reference("valve", 600)];
        all.extend((0..90).map(|n| reference(&["x", &n.to_string()].concat(), 10)));
        let alike = |a: &Reference, b: &Reference| if a.document[..1] == b.document[..1] { 1000 } else { 100 };
        let host = Host::new().collection("alpha", Ok(all)).similarity(alike);
        let (found, _) = with_host(host, || Diverse::retrieve("Where?", &[], 60, &Settings::default()));
        let found = found.unwrap();
        assert_eq!(found.len(), 60);
        assert_eq!((found[0].document.as_str(), found[1].document.as_str()), ("pump", "valve"));
    }

    #[test]
    fn nothing_found_asks_for_nothing() {
        let (found, seen) = with_host(Host::new().collection("alpha", Ok(Vec::new())), || {
            Diverse::retrieve("?", &[], 3, &Settings::default())
        });
        assert!(found.unwrap().is_empty() && !seen.calls.contains(&"similarity.closeness".to_owned()));
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Diverse::describe());
    }
}
