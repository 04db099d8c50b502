//! A retrieval strategy for passages that meet conditions, whoever asks.
#![deny(unsafe_code)]

use casemate_sdk::strategy::{condition, everywhere, merge};
use casemate_sdk::vectors::{Collection, Query, search};
use casemate_sdk::{Description, Field, Reference, SettingKind, Settings, Strategy};

/// Searches as `nearest` does, among what meets the conditions of request and settings.
pub struct Filtered;

impl Strategy for Filtered {
    fn describe() -> Description {
        Description::new("The closest passages that meet conditions of the settings besides those of the question.")
            .required(
                "where",
                SettingKind::Texts,
                "Conditions as \"year>=2020\" or \"licence in MIT,BSD-3-Clause\"; all hold.",
            )
            .optional("collections", SettingKind::Texts, "Search only these collections, as far as the session may.")
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let mut conditions = filter.to_vec();
        for text in settings.texts("where").unwrap_or_default() {
            conditions.push(condition(text)?);
        }
        let query = Query::embed(question).map_err(|error| error.explain("embedding the question"))?;
        let rankings =
            everywhere(settings.texts("collections"), |name| search(&Collection::open(name)?, &query, &conditions, k))?;
        Ok(merge(rankings, k))
    }
}

casemate_sdk::export_strategy!(Filtered);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::testing::{Host, settings, with_host};

    use super::*;

    fn found(host: Host, json: &str) -> Result<usize, String> {
        let settings = settings(json, &Filtered::describe());
        with_host(host, || Filtered::retrieve("Where?", &[], 3, &settings)).0.map(|found| found.len())
    }

    #[test]
    fn a_condition_that_cannot_be_read_fails_and_is_not_left_out() {
        let reference = Reference { collection: "alpha".to_owned(), document: "a".to_owned(), closeness: 9 };
        let host = || Host::new().collection("alpha", Ok(vec![reference.clone()]));
        assert_eq!(found(host(), r#"{"where": ["year>=2020"]}"#), Ok(1));
        assert!(found(host(), r#"{"where": ["year>=2020", "year>2020"]}"#).unwrap_err().contains("year>2020"));
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Filtered::describe());
    }
}
