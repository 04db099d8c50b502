//! How good retrieval is, by judgements: the encrypted search of a site beside an exact search over the same vectors in clear.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use casemate_audit::Event;
use casemate_types::CompartmentName;
use casemate_vectors::{DocumentId, Position};
use serde::Serialize;

use crate::GateError;
use crate::collection::cosine;
use crate::ingest::document_id;
use crate::session::{Compartment, Session};
use crate::site::Gate;

/// Cosines that differ by less are the same: rounding of f32 over 384 dimensions.
const TIE: f32 = 1e-6;

/// A question, and which documents answer it how well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedQuery {
    /// The question.
    pub text: String,
    /// Grades by the document's id in its compartment; 0 and below is not relevant.
    pub grades: BTreeMap<String, i64>,
}

/// Means over all judged questions, as trec_eval defines the measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Quality {
    /// Normalised discounted cumulative gain of the first ten: gain is the grade, the discount log2(rank + 1) (Järvelin and Kekäläinen
    /// 2002, as `ndcg_cut_10`).
    pub ndcg_10: f64,
    /// Share of the relevant documents among the first k.
    pub recall: f64,
    /// One over the rank of the first relevant document, 0 where none is among the first k (`recip_rank`).
    pub mrr: f64,
}

/// What an evaluation found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Evaluation {
    /// Questions with at least one relevant document.
    pub queries: usize,
    /// Questions that were left out, because nothing is judged relevant for them.
    pub unjudged: usize,
    /// Relevant documents that the collection does not hold.
    pub missing: usize,
    /// Documents searched.
    pub documents: usize,
    /// How many results are looked at.
    pub k: usize,
    /// Through store and tier, everything encrypted, as a component gets it.
    pub encrypted: Quality,
    /// Exact search over the same vectors in clear.
    pub plaintext: Quality,
    /// Of the encrypted search's ten, the share that is as close as the tenth in clear (recall@10 by distance).
    pub overlap_10: f64,
    /// Milliseconds a question, mean: embedding not counted.
    pub encrypted_ms: f64,
    /// The same for the exact search in clear, on one thread.
    pub plaintext_ms: f64,
}

impl Gate {
    /// Puts every question to the collection of a compartment that the session holds, encrypted and in clear. Only passages at or below
    /// the user's clearance count. `progress` is told how many questions are done.
    ///
    /// # Errors
    /// As a search; [`GateError::Question`] where nothing is judged, or nothing ingested.
    pub fn measure_retrieval(
        &self,
        session: &Session,
        name: &CompartmentName,
        judged: &[JudgedQuery],
        k: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Evaluation, GateError> {
        self.check_current(session)?;
        let compartment = self.held(session, name)?;
        let empty = || GateError::Question(format!("nothing has been ingested into `{name}`"));
        let manifest = self.manifest(name, compartment)?.ok_or_else(empty)?;
        let detail = format!("{} questions by {} on `{name}`", judged.len(), session.claims.user);
        self.journal.record_blocking(Event::Site { action: "evaluation".to_owned(), detail })?;
        let vectors = self.in_clear(session, name, compartment)?;
        let k = k.max(10);
        let (mut encrypted, mut plaintext) = (Sum::default(), Sum::default());
        let (mut overlap, mut unjudged, mut missing) = (0.0, 0, 0);
        let (mut encrypted_time, mut plaintext_time) = (Duration::ZERO, Duration::ZERO);
        for (done, query) in judged.iter().enumerate() {
            let grades = query.grades.iter().filter(|(_, grade)| **grade > 0);
            let grades: BTreeMap<DocumentId, i64> =
                grades.map(|(id, grade)| (document_id(compartment, id), *grade)).collect();
            if grades.is_empty() {
                unjudged += 1;
                continue;
            }
            missing += grades.keys().filter(|document| !vectors.contains_key(*document)).count();
            let embedded = self.embedder()?.embed(&[query.text.as_str()])?;
            let vector = embedded.first().ok_or_else(empty)?;
            let begun = Instant::now();
            let found = self.search(name, compartment, &manifest, vector, &[], k)?;
            encrypted_time += begun.elapsed();
            let readable = found.into_iter().filter(|found| found.passage.label <= session.claims.clearance);
            let by_cipher: Vec<DocumentId> = readable.map(|found| found.document).collect();
            let begun = Instant::now();
            let by_plain = exact(&vectors, vector, k);
            plaintext_time += begun.elapsed();
            encrypted.add(&by_cipher, &grades, k);
            plaintext.add(&by_plain, &grades, k);
            let score = |document: &DocumentId| vectors.get(document).map_or(-1.0, |found| cosine(vector, found));
            // Of several equally close, any may be the tenth.
            let tenth = by_plain.iter().take(10).next_back().map_or(-1.0, &score) - TIE;
            let shared = by_cipher.iter().take(10).filter(|document| score(document) >= tenth).count();
            overlap += shared as f64 / by_plain.len().clamp(1, 10) as f64;
            progress(done + 1);
        }
        let queries = judged.len() - unjudged;
        if queries == 0 {
            return Err(GateError::Question("no question has a document that is judged relevant".to_owned()));
        }
        let each = |time: Duration| time.as_secs_f64() * 1000.0 / queries as f64;
        Ok(Evaluation {
            queries,
            unjudged,
            missing,
            documents: vectors.len(),
            k,
            encrypted: encrypted.mean(queries),
            plaintext: plaintext.mean(queries),
            overlap_10: overlap / queries as f64,
            encrypted_ms: each(encrypted_time),
            plaintext_ms: each(plaintext_time),
        })
    }

    /// The vectors of what somebody wrote and the user may read, out of the sealed passages.
    fn in_clear(
        &self,
        session: &Session,
        name: &CompartmentName,
        compartment: &Compartment,
    ) -> Result<BTreeMap<DocumentId, Vec<f32>>, GateError> {
        let Some(manifest) = self.manifest(name, compartment)? else { return Ok(BTreeMap::new()) };
        let mut vectors = BTreeMap::new();
        for entry in &manifest.groups.groups {
            for slot in 0..entry.count {
                let position = Position { group: entry.group, slot };
                if self.is_canary(name, compartment, &manifest, position)? {
                    continue;
                }
                let (document, passage) = self.fetch(name, compartment, &manifest, position)?;
                if passage.label <= session.claims.clearance {
                    vectors.insert(document, passage.vector());
                }
            }
        }
        Ok(vectors)
    }
}

/// The k closest in clear, best first; equal ones by id.
fn exact(vectors: &BTreeMap<DocumentId, Vec<f32>>, query: &[f32], k: usize) -> Vec<DocumentId> {
    let mut scored: Vec<(f32, DocumentId)> =
        vectors.iter().map(|(document, vector)| (cosine(query, vector), *document)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().take(k).map(|(_, document)| document).collect()
}

#[derive(Default)]
struct Sum(Quality);

impl Sum {
    fn add<D: Ord>(&mut self, ranking: &[D], grades: &BTreeMap<D, i64>, k: usize) {
        let quality = quality(ranking, grades, k);
        self.0.ndcg_10 += quality.ndcg_10;
        self.0.recall += quality.recall;
        self.0.mrr += quality.mrr;
    }

    fn mean(self, queries: usize) -> Quality {
        let Quality { ndcg_10, recall, mrr } = self.0;
        let queries = queries as f64;
        Quality { ndcg_10: ndcg_10 / queries, recall: recall / queries, mrr: mrr / queries }
    }
}

/// The measures of one ranking. `grades` holds relevant documents only, at least one.
fn quality<D: Ord>(ranking: &[D], grades: &BTreeMap<D, i64>, k: usize) -> Quality {
    let discounted = |gains: &mut dyn Iterator<Item = i64>| -> f64 {
        gains.take(10).zip(1_u32..).map(|(gain, rank)| gain as f64 / (f64::from(rank) + 1.0).log2()).sum()
    };
    let mut ideal: Vec<i64> = grades.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted(&mut ideal.into_iter());
    let got = discounted(&mut ranking.iter().map(|document| grades.get(document).copied().unwrap_or(0)));
    let first = ranking.iter().take(k).position(|document| grades.contains_key(document));
    let found = ranking.iter().take(k).filter(|document| grades.contains_key(*document)).count();
    Quality {
        ndcg_10: if best > 0.0 { got / best } else { 0.0 },
        recall: found as f64 / grades.len().max(1) as f64,
        mrr: first.map_or(0.0, |place| 1.0 / (place as f64 + 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, from the definitions of trec_eval: grades 3 and 1 at ranks 2 and 4, one of grade 2 not found.
    #[test]
    fn measures_are_those_of_trec_eval() {
        let grades = BTreeMap::from([("a", 3), ("b", 1), ("c", 2)]);
        let got = quality(&["x", "a", "y", "b", "z"], &grades, 10);
        let dcg = 3.0 / 3_f64.log2() + 1.0 / 5_f64.log2();
        let ideal = 3.0 / 2_f64.log2() + 2.0 / 3_f64.log2() + 1.0 / 4_f64.log2();
        assert!((got.ndcg_10 - dcg / ideal).abs() < 1e-12, "{got:?}");
        assert!((got.recall - 2.0 / 3.0).abs() < 1e-12 && (got.mrr - 0.5).abs() < 1e-12, "{got:?}");
        let perfect = quality(&["a", "c", "b"], &grades, 10);
        assert_eq!(perfect, Quality { ndcg_10: 1.0, recall: 1.0, mrr: 1.0 });
        assert_eq!(quality(&["x"], &grades, 10), Quality::default());
        // The eleventh does not count for the gain, and counts for recall at 20.
        let late: Vec<String> = (0..10).map(|n| format!("x{n}")).chain(["a".to_owned()]).collect();
        let late = quality(&late.iter().map(String::as_str).collect::<Vec<_>>(), &grades, 20);
        assert_eq!(late.ndcg_10, 0.0);
        assert!((late.recall - 1.0 / 3.0).abs() < 1e-12 && (late.mrr - 1.0 / 11.0).abs() < 1e-12);
    }
}
