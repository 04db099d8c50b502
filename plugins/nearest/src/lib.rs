//! The retrieval strategy every site starts with: the closest passages of all collections.
#![deny(unsafe_code)]

use casemate_sdk::vectors::{Collection, Query, collections, search};
use casemate_sdk::{CapabilityError, Description, Field, Reference, SettingKind, Settings, Strategy};

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
        let chosen = settings.texts("collections");
        let mut names = collections();
        names.retain(|name| chosen.is_none_or(|chosen| chosen.contains(name)));
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let query = Query::embed(question).map_err(|error| error.explain("embedding the question"))?;
        let (mut found, mut searched, mut unfit) = (Vec::new(), 0_usize, None);
        for name in &names {
            match search_one(name, &query, filter, k) {
                Ok(references) => {
                    searched += 1;
                    found.extend(references);
                }
                // A key withdrawn since the names were listed: as if the collection were not there.
                Err(CapabilityError::Denied(_) | CapabilityError::NotFound(_)) => {}
                // Most likely a filter field that this collection does not have: nothing in it can match.
                Err(error @ CapabilityError::Invalid(_)) => unfit = Some((name, error)),
                // An altered or missing store must not look like a smaller one.
                Err(error) => return Err(error.explain(&["searching `", name, "`"].concat())),
            }
        }
        match unfit {
            Some((name, error)) if searched == 0 => Err(error.explain(&["searching `", name, "`"].concat())),
            _ => Ok(merge(found, k)),
        }
    }
}

casemate_sdk::export_strategy!(Nearest);

fn search_one(name: &str, query: &Query, filter: &[Field], k: u32) -> Result<Vec<Reference>, CapabilityError> {
    search(&Collection::open(name)?, query, filter, k)
}

/// Best first; equal closeness keeps the order of collections and of ranks. The first of two equal references stays.
fn merge(mut found: Vec<Reference>, k: u32) -> Vec<Reference> {
    found.sort_by_key(|reference| std::cmp::Reverse(reference.closeness));
    let mut best: Vec<Reference> = Vec::with_capacity(found.len().min(k as usize));
    for reference in found {
        if best.len() == k as usize {
            break;
        }
        if !best.iter().any(|each| each.document == reference.document && each.collection == reference.collection) {
            best.push(reference);
        }
    }
    best
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
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
