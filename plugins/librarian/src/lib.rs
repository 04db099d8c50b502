//! The agent every site starts with: it answers in the words of the passages the user may read.
#![deny(unsafe_code)]

mod answer;
mod markdown;
mod sentences;

use answer::{Candidate, compose};
use casemate_sdk::{
    Agent, Answer, CapabilityError, Description, Field, Passage, Reference, SettingKind, Settings, audit, inference,
    records, retrieval,
};

/// Quotes the sentences closest to the question, each with its source.
pub struct Librarian;

impl Agent for Librarian {
    fn describe() -> Description {
        Description::new("Answers with the closest sentences of the passages the user may read, each with its source.")
            .optional("passages", SettingKind::Integer, "Passages to retrieve, 1 to 64. Default 6.")
            .optional("sentences", SettingKind::Integer, "Sentences in an answer, 1 to 10. Default 4.")
            .optional("minimum", SettingKind::Integer, "Least closeness of a sentence, 0 to 1023. Default 0.")
    }

    fn handle(question: &str, filter: &[Field], settings: &Settings) -> Result<Answer, String> {
        let number = |name, default, min, max| settings.integer(name).unwrap_or(default).clamp(min, max) as u16;
        let found = retrieval::retrieve(question, filter, number("passages", 6, 1, 64).into())
            .map_err(|error| error.explain("retrieving passages"))?;
        let passages = open(found)?;
        let mut candidates = split(&passages);
        if candidates.is_empty() {
            return Ok(nothing());
        }
        let texts: Vec<String> = candidates.iter().map(|each| each.text.clone()).collect();
        let closeness = inference::closeness(question, &texts).map_err(|error| error.explain("comparing sentences"))?;
        if closeness.len() != candidates.len() {
            return Err("comparing sentences: the model answered for another number of them".to_owned());
        }
        for (candidate, closeness) in candidates.iter_mut().zip(closeness) {
            candidate.closeness = closeness;
        }
        candidates.retain(|each| each.closeness >= number("minimum", 0, 0, 1023));
        let (text, cited) = compose(candidates, number("sentences", 4, 1, 10).into());
        if cited.is_empty() {
            return Ok(nothing());
        }
        let citations =
            cited.into_iter().filter_map(|index| passages.get(index)).map(|(reference, _)| reference.clone());
        Ok(Answer { text, citations: citations.collect() })
    }
}

casemate_sdk::export_agent!(Librarian);

/// The passages that may be read, in order. How many may not, or could not, goes into the audit record as numbers only.
fn open(found: Vec<Reference>) -> Result<Vec<(Reference, Passage)>, String> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let answers = records::open(&found);
    if answers.len() != found.len() {
        return Err("opening passages: the host answered for another number of them".to_owned());
    }
    let (mut passages, mut denied, mut broken) = (Vec::new(), 0_u8, None);
    for (reference, answer) in found.into_iter().zip(answers) {
        match answer {
            Ok(passage) => passages.push((reference, passage)),
            Err(CapabilityError::Denied(_)) => denied = denied.saturating_add(1),
            Err(error) => broken = Some(error),
        }
    }
    if denied > 0 {
        // A full record of remarks is no reason not to answer: the host has recorded each denial itself.
        let _ = audit::annotate("passages-denied", &denied.to_string());
    }
    match broken {
        Some(error) if passages.is_empty() && denied == 0 => Err(error.explain("opening passages")),
        _ => Ok(passages),
    }
}

/// The sentences of all passages; each passage gets an equal share of what the model takes at once.
fn split(passages: &[(Reference, Passage)]) -> Vec<Candidate> {
    let share = MAX_TEXTS / passages.len().max(1);
    let candidates = passages.iter().enumerate().flat_map(|(passage, (_, content))| {
        let sentences = markdown::paragraphs(&content.text).into_iter().flat_map(|each| sentences::split(&each));
        sentences.take(share).map(move |text| Candidate { text, passage, closeness: 0 })
    });
    candidates.collect()
}

fn nothing() -> Answer {
    Answer { text: "I found nothing that you may read about this.".to_owned(), citations: Vec::new() }
}

/// The contract's limit of `inference.closeness`.
const MAX_TEXTS: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_sdk::testing::{Host, Recording, settings, with_host};
    use casemate_sdk::{Level, PassageInfo};

    use super::*;

    fn reference(document: &str) -> Reference {
        Reference { collection: "handbook".to_owned(), document: document.to_owned(), closeness: 800 }
    }

    fn passage(document: &str, text: &str) -> Passage {
        let info = PassageInfo {
            collection: "handbook".to_owned(),
            document: document.to_owned(),
            title: "Handbook".to_owned(),
            source: "handbook.md".to_owned(),
            compartment: "staff".to_owned(),
            label: Level::Internal,
            metadata: Vec::new(),
        };
        Passage { info, text: text.to_owned() }
    }

    /// Closeness is the number of words that question and text share.
    fn host(passages: &[(&str, Result<&str, CapabilityError>)]) -> Host {
        let shared = |question: &str, text: &str| text.split(' ').filter(|word| question.contains(word)).count() as u16;
        let host = Host::new().audit().closeness(shared);
        let host = host.retrieved(Ok(passages.iter().map(|(document, _)| reference(document)).collect()));
        passages.iter().fold(host, |host, (document, answer)| {
            host.passage(reference(document), answer.clone().map(|text| passage(document, text)))
        })
    }

    fn ask(host: Host, question: &str, json: &str) -> (Result<Answer, String>, Recording) {
        let settings = settings(json, &Librarian::describe());
        with_host(host, || Librarian::handle(question, &[], &settings))
    }

    const ROOMS: &str =
        "# Rooms\n\nMeeting rooms are booked at the front desk. The canteen closes at three o'clock sharp.";
    const KEYS: &str = "Keys to the meeting rooms are kept by the guard. Nobody may copy any of these keys.";

    #[test]
    fn the_closest_sentences_are_quoted_with_their_sources() {
        let two = host(&[("a", Ok(ROOMS)), ("b", Ok(KEYS))]);
        let answer = ask(two, "Who has Keys to the meeting rooms?", r#"{"sentences": 2}"#).0.unwrap();
        assert_eq!(
            answer.text,
            "Keys to the meeting rooms are kept by the guard. [1] Meeting rooms are booked at the front desk. [2]"
        );
        let cited: Vec<_> = answer.citations.iter().map(|each| each.document.as_str()).collect();
        assert_eq!(cited, ["b", "a"]);
    }

    #[test]
    fn denied_passages_leave_no_trace_but_a_number_in_the_record() {
        let denied = || Err(CapabilityError::Denied("no-read-up".to_owned()));
        let three = host(&[("a", denied()), ("b", Ok(KEYS)), ("c", denied())]);
        let (answer, seen) = ask(three, "Who has Keys?", r#"{"sentences": 1}"#);
        let answer = answer.unwrap();
        assert_eq!(answer.citations, [reference("b")]);
        assert!(answer.text.ends_with("[1]"));
        assert_eq!(seen.annotations.len(), 1);
        assert_eq!((seen.annotations[0].name.as_str(), seen.annotations[0].value.as_str()), ("passages-denied", "2"));
    }

    #[test]
    fn nothing_readable_is_said_in_one_way_only() {
        let denied = Err(CapabilityError::Denied("no-read-up".to_owned()));
        let cases = [
            (host(&[]), "{}"),
            (host(&[("a", denied)]), "{}"),
            (host(&[("a", Ok("# Heading only\n\n```\nlet a = 1;\n```\n"))]), "{}"),
            (host(&[("a", Ok(ROOMS))]), r#"{"minimum": 1023}"#),
        ];
        for (host, settings) in cases {
            assert_eq!(ask(host, "Who has Keys?", settings).0.unwrap(), nothing());
        }
    }

    #[test]
    fn a_broken_seal_is_an_error_when_nothing_else_is_left() {
        let broken = || Err(CapabilityError::Unavailable("seal broken".to_owned()));
        let error = ask(host(&[("a", broken())]), "Who?", "{}").0.unwrap_err();
        assert_eq!(error, "opening passages: unavailable: seal broken");
        assert!(ask(host(&[("a", broken()), ("b", Ok(KEYS))]), "Who?", "{}").0.is_ok());
    }

    #[test]
    fn retrieval_that_fails_is_an_error() {
        let failing = Host::new().retrieved(Err(CapabilityError::Unavailable("no strategy".to_owned())));
        assert_eq!(ask(failing, "Who?", "{}").0.unwrap_err(), "retrieving passages: unavailable: no strategy");
    }

    #[test]
    fn many_long_passages_stay_within_the_models_limits() {
        let text = "This sentence is repeated with many words in it. ".repeat(400) + &"word ".repeat(20_000);
        let names: Vec<String> = (0..64).map(|index| format!("d{index}")).collect();
        let passages: Vec<_> = names.iter().map(|name| (name.as_str(), Ok(text.as_str()))).collect();
        let answer = ask(host(&passages), "many words", r#"{"passages": 64}"#).0.unwrap();
        assert_eq!(answer.citations.len(), 1, "equal sentences are quoted once");
    }

    #[test]
    fn numbers_outside_their_range_are_clamped() {
        let two = || host(&[("a", Ok(ROOMS)), ("b", Ok(KEYS))]);
        let few = ask(two(), "Keys", r#"{"passages": -5, "sentences": 0}"#).0.unwrap();
        assert_eq!((few.citations.len(), few.text.matches('[').count()), (1, 1));
        let many = ask(two(), "Keys", r#"{"passages": 900, "sentences": 900}"#).0.unwrap();
        assert_eq!(many.text.matches('[').count(), 4);
    }

    #[test]
    fn the_published_settings_fit() {
        settings(include_str!("../settings.json"), &Librarian::describe());
    }
}
