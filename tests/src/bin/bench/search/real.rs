//! Real embeddings: passages of the demo's corpus by the sentence model, every setting of the bodies and replies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use casemate_embed::{Embedder, MiniLm};
use casemate_fhe::{Params, PreparedQuery, PreparedTile, plaintext, score};
use casemate_fhe_owner::OwnerKey;
use zeroize::Zeroizing;

use super::data::top;
use crate::report::Report;

const QUESTIONS: usize = 300;
const PASSAGES: usize = 1_200;

pub fn run(report: &mut Report) {
    let (Some(model), Some(corpus)) =
        (std::env::var_os("CASEMATE_MODEL_DIR"), std::env::var_os("CASEMATE_BENCH_CORPUS"))
    else {
        eprintln!("recall on real embeddings left out: it needs the sentence model and the demo's corpus");
        return;
    };
    let embedder = MiniLm::load(&PathBuf::from(model)).unwrap();
    let mut seen = BTreeSet::new();
    let mut texts: Vec<String> = std::fs::read_to_string(corpus)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        // Crates of one family repeat each other's words.
        .filter(|text| seen.insert(text.clone()))
        .collect();
    // Questions are passages that are not searched in, spread over the corpus, cut to their first sentence.
    let step = texts.len() / QUESTIONS;
    let questions: Vec<String> = (0..QUESTIONS).rev().map(|n| first_sentence(&texts.remove(n * step))).collect();
    let step = (texts.len() / PASSAGES).max(1);
    let passages: Vec<String> = texts.into_iter().step_by(step).take(PASSAGES).collect();
    let (documents, queries) = (embed(&embedder, &passages), embed(&embedder, &questions));
    let matrix = documents.concat();
    let exact: Vec<Vec<f32>> = queries.iter().map(|query| plaintext::scan(&matrix, query.len(), query)).collect();

    let offered = |block: usize, reply: u32, body: u32| {
        Params::new(queries[0].len(), block).unwrap().with_reply_bits(reply).unwrap().with_body_bits(body).unwrap()
    };
    for params in [offered(8, 20, 32), offered(8, 20, 24), offered(4, 18, 24), offered(16, 20, 24), offered(32, 20, 24)]
    {
        let owner = OwnerKey::from_seed(&Zeroizing::new([5; 32]), params).unwrap();
        let slices: Vec<&[f32]> = documents.iter().map(Vec::as_slice).collect();
        let groups: Vec<_> =
            slices.chunks(params.documents_per_group()).map(|group| owner.encrypt_group(group).unwrap()).collect();
        let counts: Vec<usize> = slices.chunks(params.documents_per_group()).map(<[_]>::len).collect();
        let tiles = PreparedTile::prepare(&groups).unwrap();
        let mut tally = Tally::default();
        for (query, exact) in queries.iter().zip(&exact) {
            let (encrypted, secret) = owner.query(query).unwrap();
            let reply = score(&tiles, &PreparedQuery::new(&encrypted).unwrap()).unwrap();
            tally.add(exact, &secret.decrypt(&reply, &counts).unwrap().concat());
        }
        let name = format!("block {}, reply {}, body {}", params.block(), params.reply_bits(), params.body_bits());
        let share = |sum: f64| sum / queries.len() as f64;
        report.row("search", &format!("recall@10, real, {name}"), share(tally.recall), "", None);
        report.row("search", &format!("  nDCG@10 (in clear 1.000), {name}"), share(tally.ndcg), "", None);
        // What a site gives.
        let what = "  after exact ranking of 15: recall@10 (bar 0.998)";
        report.row("search", &format!("{what}, {name}"), share(tally.ranked_again), "", None);
        let what = "  after exact ranking of 15: nDCG@10 (bar 1.000)";
        report.row("search", &format!("{what}, {name}"), share(tally.ndcg_again), "", None);
    }
}

#[derive(Default)]
struct Tally {
    recall: f64,
    ranked_again: f64,
    ndcg: f64,
    ndcg_again: f64,
}

impl Tally {
    fn add(&mut self, exact: &[f32], decrypted: &[f32]) {
        let (best, found) = (top(exact, 10), top(decrypted, 10));
        // As close as the tenth within the precision of f32 counts: which of two equals comes first says nothing.
        let tenth = best.last().map_or(0.0, |document| exact[*document]) - 1e-6;
        let shared = |found: &[usize]| found.iter().filter(|document| exact[**document] >= tenth).count() as f64 / 10.0;
        self.recall += shared(&found);
        // As the gate does: half as many candidates more, then by exact score.
        let mut again = top(decrypted, 15);
        again.sort_by(|a, b| exact[*b].total_cmp(&exact[*a]));
        again.truncate(10);
        self.ranked_again += shared(&again);
        // Relevance 10 for the exact best, down to 1 for the tenth; linear gain, log2 discount (Jarvelin and Kekalainen 2002).
        let relevance: BTreeMap<usize, f64> =
            best.iter().zip(0..).map(|(d, rank)| (*d, f64::from(10 - rank))).collect();
        let gain = |ranking: &[usize]| {
            let gains = ranking
                .iter()
                .zip(2..)
                .map(|(document, rank)| relevance.get(document).copied().unwrap_or(0.0) / f64::from(rank).log2());
            gains.sum::<f64>()
        };
        self.ndcg += gain(&found) / gain(&best);
        self.ndcg_again += gain(&again) / gain(&best);
    }
}

fn first_sentence(text: &str) -> String {
    text.split_inclusive(['.', '!', '?']).next().unwrap_or(text).trim().to_owned()
}

fn embed(embedder: &MiniLm, texts: &[String]) -> Vec<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.chunks(64).flat_map(|texts| embedder.embed(texts).unwrap()).collect()
}
