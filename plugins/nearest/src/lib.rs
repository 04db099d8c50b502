//! The retrieval strategy every site starts with: the closest passages of all collections.
#![deny(unsafe_code)]

use casemate_sdk::strategy::{everywhere, merge};
use casemate_sdk::vectors::{Collection, Query, search};
use casemate_sdk::{Description, Field, Reference, SettingKind, Settings, Strategy};

/// Searches every collection the session may search and merges by closeness.
pub struct Nearest;

impl Strategy for Nearest {
    fn describe() -> Description {
        Description::new("The closest passages of all collections the session may search.").optional(
            "collections",
            SettingKind::Texts,
            "Search only these collections, as far as the session may.",
        )
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let query = Query::embed(question).map_err(|error| error.explain("embedding the question"))?;
        let rankings =
            everywhere(settings.texts("collections"), |name| search(&Collection::open(name)?, &query, filter, k))?;
        Ok(merge(rankings, k))
    }
}

casemate_sdk::export_strategy!(Nearest);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::CapabilityError;
    use casemate_sdk::testing::{Host, settings, with_host};

    use super::*;

    fn reference(collection: &str, document: &str, closeness: u16) -> Reference {
        Reference { collection: collection.to_owned(), document: document.to_owned(), closeness }
    }

    fn two() -> Host {
        Host::new()
            .collection("alpha", Ok(vec![reference("alpha", "a1", 900), reference("alpha", "a2", 500)]))
            .collection("beta", Ok(vec![reference("beta", "b1", 900), reference("beta", "b2", 700)]))
    }

    fn documents(host: Host, k: u32, settings: &Settings) -> (Result<Vec<String>, String>, Vec<String>) {
        let (found, seen) = with_host(host, || Nearest::retrieve("Where?", &[], k, settings));
        (found.map(|found| found.into_iter().map(|each| each.document).collect()), seen.calls)
    }

    #[test]
    fn collections_are_merged_by_closeness_and_the_question_is_embedded_once() {
        let (found, calls) = documents(two(), 3, &Settings::default());
        assert_eq!(found.unwrap(), ["a1", "b1", "b2"]);
        assert_eq!(calls.iter().filter(|call| *call == "vectors.embed").count(), 1);
        assert_eq!(documents(two(), 64, &Settings::default()).0.unwrap(), ["a1", "b1", "b2", "a2"]);
    }

    #[test]
    fn the_setting_restricts_and_never_widens() {
        let beta = settings(r#"{"collections": ["beta", "gamma"]}"#, &Nearest::describe());
        let (found, calls) = documents(two(), 9, &beta);
        assert_eq!(found.unwrap(), ["b1", "b2"]);
        assert_eq!(calls.iter().filter(|call| *call == "vectors.open").count(), 1);
        let none = settings(r#"{"collections": []}"#, &Nearest::describe());
        assert!(documents(two(), 9, &none).0.unwrap().is_empty());
    }

    #[test]
    fn duplicates_are_dropped_but_equal_names_in_two_collections_are_not() {
        let host = Host::new()
            .collection("alpha", Ok(vec![reference("alpha", "x", 900), reference("alpha", "x", 800)]))
            .collection("beta", Ok(vec![reference("beta", "x", 850)]));
        assert_eq!(documents(host, 9, &Settings::default()).0.unwrap(), ["x", "x"]);
    }

    #[test]
    fn a_store_that_fails_fails_the_whole_search() {
        let host = two().collection("gamma", Err(CapabilityError::Unavailable("group 3 altered".to_owned())));
        let error = documents(host, 9, &Settings::default()).0.unwrap_err();
        assert_eq!(error, "searching `gamma`: unavailable: group 3 altered");
    }

    #[test]
    fn a_filter_unknown_to_one_collection_leaves_the_others() {
        let unfit = || Err(CapabilityError::Invalid("unknown filter field".to_owned()));
        let host = two().collection("gamma", unfit());
        assert_eq!(documents(host, 1, &Settings::default()).0.unwrap(), ["a1"]);
        let host = Host::new().collection("gamma", unfit());
        assert!(documents(host, 1, &Settings::default()).0.unwrap_err().contains("unknown filter field"));
    }

    #[test]
    fn a_collection_whose_key_was_withdrawn_is_not_there() {
        let host = two().collection("gamma", Err(CapabilityError::Denied("no-key".to_owned())));
        assert_eq!(documents(host, 2, &Settings::default()).0.unwrap(), ["a1", "b1"]);
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Nearest::describe());
    }
}
