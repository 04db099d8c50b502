//! A retrieval strategy that has only the closest groups of a collection scored.
#![deny(unsafe_code)]

use casemate_sdk::strategy::{everywhere, merge};
use casemate_sdk::vectors::{Collection, Query, search};
use casemate_sdk::{CapabilityError, Description, Field, Reference, SettingKind, Settings, Strategy, clusters};

/// Searches a fixed number of clusters of each collection.
pub struct Clustered;

impl Strategy for Clustered {
    fn describe() -> Description {
        Description::new("The closest passages of the few groups of each collection that are closest to the question.")
            .optional("probes", SettingKind::Integer, "Groups scored in each collection, 1 to 64. Default 8.")
            .optional("collections", SettingKind::Texts, "Search only these collections, as far as the session may.")
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let probes = settings.integer("probes").unwrap_or(8).clamp(1, 64) as u32;
        let rankings = everywhere(settings.texts("collections"), |name| {
            match clusters::search(name, question, filter, k, probes) {
                // Not clustered, or a filter it cannot be asked, which then says so again.
                Err(CapabilityError::Invalid(_)) => {
                    search(&Collection::open(name)?, &Query::embed(question)?, filter, k)
                }
                answer => answer,
            }
        })?;
        Ok(merge(rankings, k))
    }
}

casemate_sdk::export_strategy!(Clustered);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::testing::{Host, settings, with_host};

    use super::*;

    fn reference(collection: &str, document: &str, closeness: u16) -> Reference {
        Reference { collection: collection.to_owned(), document: document.to_owned(), closeness }
    }

    #[test]
    fn a_collection_that_is_not_clustered_is_searched_whole() {
        let host = Host::new()
            .collection("alpha", Ok(vec![reference("alpha", "whole", 500)]))
            .collection("beta", Ok(vec![reference("beta", "never", 1000)]))
            .clustered("alpha", Err(CapabilityError::Invalid("not clustered".to_owned())))
            .clustered("beta", Ok(vec![reference("beta", "near", 900)]));
        let (found, seen) = with_host(host, || Clustered::retrieve("Where?", &[], 3, &Settings::default()));
        let found: Vec<String> = found.unwrap().into_iter().map(|each| each.document).collect();
        assert_eq!(found, ["near", "whole"]);
        assert_eq!(seen.calls.iter().filter(|call| *call == "vectors.search").count(), 1);
    }

    #[test]
    fn probes_out_of_range_are_clamped() {
        for json in [r#"{"probes": 0}"#, r#"{"probes": 9999}"#] {
            let host = Host::new().collection("alpha", Ok(Vec::new())).clustered("alpha", Ok(Vec::new()));
            let settings = settings(json, &Clustered::describe());
            assert!(with_host(host, || Clustered::retrieve("?", &[], 3, &settings)).0.is_ok(), "{json}");
        }
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Clustered::describe());
    }
}
