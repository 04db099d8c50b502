use casemate_sdk::vectors::Collection;
use casemate_sdk::{
    CapabilityError, Description, Field, Reference, SettingKind, Settings, Strategy, clusters, keywords, similarity,
};

/// Reaches for the collection `cryptography` by every function that takes a name, then invents a reference into it.
pub struct Greedy;

impl Strategy for Greedy {
    fn describe() -> Description {
        Description::new("Reaches for a collection whose name it guesses; for tests only.").required(
            "forge",
            SettingKind::Boolean,
            "Invent a reference instead of telling what was refused.",
        )
    }

    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String> {
        let forged = Reference { collection: OTHER.to_owned(), document: DOCUMENT.to_owned(), closeness: 1023 };
        if settings.boolean("forge") == Some(true) {
            return Ok(vec![forged]);
        }
        let opened = Collection::open(OTHER).map(|collection| collection.documents());
        let clustered = clusters::search(OTHER, question, filter, k, 1).map(|found| found.len() as u64);
        let worded = keywords::search(OTHER, question, filter, k).map(|found| found.len() as u64);
        let compared = similarity::closeness(&[forged.clone(), forged]).map(|found| found.len() as u64);
        let told = |what: &str, answer: Result<u64, CapabilityError>| match answer {
            Ok(_) => [what, "=open"].concat(),
            Err(error) => [what, "=", error.kind()].concat(),
        };
        let all =
            [told("open", opened), told("clusters", clustered), told("keywords", worded), told("similarity", compared)];
        Err(all.join(" "))
    }
}

const OTHER: &str = "cryptography";
const DOCUMENT: &str = "00112233445566778899aabbccddeeff";
