//! A retrieval strategy by closeness and by words.
#![deny(unsafe_code)]

use casemate_sdk::strategy::{everywhere, fuse, merge};
use casemate_sdk::vectors::{Collection, Query, search};
use casemate_sdk::{CapabilityError, Description, Field, Reference, SettingKind, Settings, Strategy, keywords};

/// Reciprocal rank fusion of a search by closeness and one by words.
pub struct Hybrid;

impl Strategy for Hybrid {
    fn describe() -> Description {
        Description::new("Passages that are close or share rare words with the question, fused by reciprocal rank.")
            .optional("collections", SettingKind::Texts, "Search only these collections, as far as the session may.")
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let pool = k.saturating_mul(2).max(20);
        let query = Query::embed(question).map_err(|error| error.explain("embedding the question"))?;
        let chosen = settings.texts("collections");
        let close = everywhere(chosen, |name| search(&Collection::open(name)?, &query, filter, pool))?;
        let worded = everywhere(chosen, |name| match keywords::search(name, question, filter, pool) {
            // It keeps no keywords: closeness alone has to do.
            Err(CapabilityError::Invalid(_)) => Ok(Vec::new()),
            answer => answer,
        })?;
        Ok(fuse(&[merge(close, pool), merge(worded, pool)], k))
    }
}

casemate_sdk::export_strategy!(Hybrid);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::testing::{Host, settings, with_host};

    use super::*;

    fn reference(document: &str, closeness: u16) -> Reference {
        Reference { collection: "alpha".to_owned(), document: document.to_owned(), closeness }
    }

    fn documents(host: Host) -> Result<Vec<String>, String> {
        let (found, _) = with_host(host, || Hybrid::retrieve("Where?", &[], 3, &Settings::default()));
        found.map(|found| found.into_iter().map(|each| each.document).collect())
    }

    fn close() -> Host {
        Host::new().collection("alpha", Ok(vec![reference("a", 900), reference("b", 800), reference("c", 700)]))
    }

    #[test]
    fn what_both_searches_find_comes_first() {
        let host = close().keywords("alpha", Ok(vec![reference("c", 1023), reference("z", 500)]));
        assert_eq!(documents(host).unwrap(), ["c", "a", "b"]);
    }

    #[test]
    fn a_collection_without_keywords_is_searched_by_closeness() {
        let host = close().keywords("alpha", Err(CapabilityError::Invalid("no keywords".to_owned())));
        assert_eq!(documents(host).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn an_index_that_lies_fails_the_whole_search() {
        let host = close().keywords("alpha", Err(CapabilityError::Unavailable("index altered".to_owned())));
        assert!(documents(host).unwrap_err().contains("index altered"));
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Hybrid::describe());
    }
}
