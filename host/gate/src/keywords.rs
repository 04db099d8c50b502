//! Search by words: each word of a passage is a keyed token to the store.
//!
//! Opt-in (`keywords = true` of a collection), because the store sees how many words a passage has, which of them passages share and
//! which are asked for. See `docs/encrypted-search.md`.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use casemate_engine::wit;
use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{DocumentId, Position};
use zeroize::Zeroizing;

use crate::GateError;
use crate::collection::{Manifest, Passage, closeness, fhe, store};
use crate::condition::Condition;
use crate::search::{Found, Sought, below, place_of};
use crate::session::Compartment;
use crate::site::Gate;

/// The field under which the store knows words. Control characters are in no field of a document.
const FIELD: &str = "\u{1f}words";
/// Most distinct words of a passage and of a question.
const MAX_WORDS: usize = 1024;
const MAX_ASKED: usize = 32;

/// Words that say nothing about a text: left out, because they would tell the most about tokens.
const STOP_WORDS: &[&str] = &[
    "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "been", "before", "but",
    "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "if",
    "in", "into", "is", "it", "its", "may", "more", "most", "must", "no", "not", "of", "on", "only", "or", "other",
    "our", "over", "she", "should", "so", "some", "such", "than", "that", "the", "their", "then", "there", "these",
    "they", "this", "those", "to", "was", "we", "were", "what", "when", "where", "which", "while", "who", "why",
    "will", "with", "would", "you", "your",
];

/// The distinct words of a text, lower-case: runs of letters and digits of at least two characters, without the most common ones.
pub(crate) fn words(text: &str) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let runs = lower.split(|letter: char| !letter.is_alphanumeric());
    let telling = runs.filter(|word| word.chars().nth(1).is_some() && STOP_WORDS.binary_search(word).is_err());
    telling.map(str::to_owned).take(MAX_WORDS).collect()
}

/// Turns words of one collection into tokens.
pub(crate) struct WordKey(hmac::Key);

impl Compartment {
    /// Keyed by the compartment's identifier key: what the HSM unwraps for a session.
    pub(crate) fn word_key(&self, name: &CompartmentName) -> Result<WordKey, GateError> {
        let prk = Salt::new(HKDF_SHA256, b"casemate keywords 1").extract(self.identifiers.as_slice());
        let mut key = Zeroizing::new([0; 32]);
        let filled = prk.expand(&[name.as_str().as_bytes()], HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut_slice()));
        filled.map_err(|_| fhe("the cryptographic library failed"))?;
        Ok(WordKey(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }
}

impl WordKey {
    /// 128 bits of HMAC-SHA-256.
    fn token(&self, word: &str) -> (String, String) {
        let tag = hmac::sign(&self.0, word.as_bytes());
        (FIELD.to_owned(), format!("k:{}", hex::encode(tag.as_ref().get(..16).unwrap_or_default())))
    }

    /// The tokens of a passage.
    pub(crate) fn tokens(&self, passage: &Passage) -> Vec<(String, String)> {
        passage.words().iter().map(|word| self.token(word)).collect()
    }
}

impl Passage {
    /// The words by which it is found.
    fn words(&self) -> BTreeSet<String> {
        words(&format!("{} {}", self.title, self.text))
    }
}

/// The text of a canary, `length` bytes: as many words as one or another member has, each drawn from some member, so that its tokens
/// are like the group's without being anybody's twin; dashes fill the rest.
pub(crate) fn covering_text(members: &[(DocumentId, Passage)], length: usize) -> Result<String, GateError> {
    let all: Vec<Vec<String>> = members.iter().map(|(_, passage)| passage.words().into_iter().collect()).collect();
    let drawn = || -> Result<&[String], GateError> { Ok(all.get(below(all.len())?).map_or(&[], Vec::as_slice)) };
    let (one, other) = (drawn()?.len(), drawn()?.len());
    let count = one.min(other) + below(one.abs_diff(other) + 1)?;
    let (mut text, mut words) = (String::new(), BTreeSet::new());
    // Members may have too few different words, or too long ones: not for ever.
    for _ in 0..count * 4 {
        if words.len() == count {
            break;
        }
        let member = drawn()?;
        let Some(word) = member.get(below(member.len())?) else { continue };
        if text.len() + word.len() < length && words.insert(word) {
            text.push_str(word);
            text.push(' ');
        }
    }
    text.extend(std::iter::repeat_n('-', length - text.len()));
    Ok(text)
}

impl Gate {
    /// The `k` passages that have most of the weight of a text's words and meet every condition, best first. A word weighs
    /// `ln(1 + (N - n + 1/2) / (n + 1/2))` when n of N passages have it (the inverse document frequency of BM25).
    ///
    /// The store answers which passages have a token. Of what it claims each passage fetched is checked; what it hides is not noticed.
    pub(crate) fn search_words(
        &self,
        name: &CompartmentName,
        compartment: &Compartment,
        manifest: &Manifest,
        text: &str,
        sought: &Sought<'_>,
    ) -> Result<Vec<Found>, GateError> {
        let collection = CollectionName::from(name);
        let narrowed = self.narrow(name, compartment, manifest, sought.filter)?;
        let canaries = compartment.canaries(name);
        let mut hidden = BTreeSet::new();
        let mut places = Vec::new();
        for entry in &manifest.groups.groups {
            let group = entry.group;
            let slots = canaries.of(place_of(entry)).map_err(fhe)?;
            hidden.extend(slots.iter().map(|canary| Position { group, slot: canary.slot as u32 }));
            places.extend((0..entry.count).map(|slot| Position { group, slot }));
        }
        let key = compartment.word_key(name)?;
        let asked: Vec<String> = words(text).into_iter().take(MAX_ASKED).collect();
        let mut whole = 0.0;
        let mut having: BTreeMap<Position, (f32, Vec<&str>)> = BTreeMap::new();
        for word in &asked {
            let found = self.store.matching(&collection, &[key.token(word)]).map_err(store)?;
            let (all, these) = (places.len() as f32, found.len() as f32);
            let weight = ((all - these).max(0.0) + 0.5) / (these + 0.5);
            let weight = weight.ln_1p();
            whole += weight;
            for position in found {
                let (sum, words) = having.entry(position).or_default();
                *sum += weight;
                words.push(word);
            }
        }
        let mut best: Vec<(&Position, f32)> = having
            .iter()
            .filter(|(position, _)| !hidden.contains(position) && narrowed.matches(position))
            .map(|(position, (sum, _))| (position, *sum))
            .collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        best.truncate(sought.candidates());
        let wanted: Vec<Position> = best.iter().map(|(position, _)| **position).collect();

        let seems = |position: &Position| having.contains_key(position) && narrowed.seems_to_match(position);
        let (likely, others) = places.into_iter().partition(seems);
        let mut question = sought.question(&collection, manifest.groups.version);
        question.push(text.as_bytes().to_vec());
        let mut found = Vec::new();
        for position in sought.plan(compartment, &question, &wanted, likely, others)? {
            let (document, passage) = self.fetch(name, compartment, manifest, position)?;
            if !wanted.contains(&position) {
                continue;
            }
            let (sum, claimed) = having.get(&position).cloned().unwrap_or_default();
            let held = passage.words();
            if !claimed.iter().all(|word| held.contains(*word)) || !self.meets(name, sought.filter, &passage) {
                return Err(GateError::Store(format!(
                    "`{name}`: the store's index says {document} matches, but it does not"
                )));
            }
            let share = if whole > 0.0 { sum / whole } else { 0.0 };
            let reference = wit::Reference {
                collection: name.to_string(),
                document: document.to_string(),
                closeness: closeness(share),
            };
            found.push((sum, position, Found { reference, document, passage }));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(sought.k);
        Ok(found.into_iter().map(|(_, _, found)| found).collect())
    }

    /// Whether a passage meets every condition.
    pub(crate) fn meets(&self, name: &CompartmentName, filter: &[Condition], passage: &Passage) -> bool {
        filter.iter().all(|condition| condition.holds(self.config.field(name, &condition.field), &passage.metadata))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_types::Level;

    use super::*;

    fn member(n: u8, text: &str) -> (DocumentId, Passage) {
        let passage = Passage {
            title: String::new(),
            source: String::new(),
            label: Level::default(),
            metadata: BTreeMap::new(),
            text: text.to_owned(),
            position: Position { group: 0, slot: 0 },
            version: 0,
            vector: Vec::new(),
        };
        (DocumentId::from_bytes([n; 16]), passage)
    }

    #[test]
    fn canaries_have_words_of_members_in_the_room_they_have() {
        let members = [
            member(1, "bilge pump ferry Monday anchor"),
            member(2, "orbit of Mars and Venus"),
            member(3, "rye bread, wheat bread, salt, water, yeast and patience"),
        ];
        let all: BTreeSet<String> = members.iter().flat_map(|(_, member)| member.words()).collect();
        let mut twins = 0;
        for length in [0, 1, 7, 40, 200] {
            for _ in 0..40 {
                let text = covering_text(&members, length).unwrap();
                assert_eq!(text.len(), length, "{text}");
                let own = words(&text);
                assert!(own.is_subset(&all), "{own:?}");
                assert!(length < 40 || !own.is_empty(), "a passage without words would be a canary");
                twins += usize::from(members.iter().any(|(_, member)| member.words() == own));
            }
        }
        assert!(twins < 20, "{twins} of 200 are some member's twin");
    }

    #[test]
    fn words_are_telling_and_distinct() {
        let found = words("The FERRY's pump P-4711 is tested; the ferry is Москва. A b c");
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["4711", "ferry", "pump", "tested", "москва"]);
        assert!(STOP_WORDS.is_sorted());
    }
}
