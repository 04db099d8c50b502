//! The ranking under encryption beside the exact one, over real text, store and scoring tier.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use casemate_embed::{Embedder, Lexical, MiniLm};
use casemate_fhe::{Params, plaintext};
use casemate_fhe_owner::OwnerKey;
use casemate_inference::{ExpectedGroup, Tier};
use casemate_types::CollectionName;
use casemate_vectors::{Change, GroupRecord, SledStore, VectorStore};
use zeroize::Zeroizing;

use crate::guest::root;

const PASSAGES: usize = 500;
const QUESTIONS: usize = 200;
const TOP: usize = 10;

#[test]
fn encrypted_ranking_is_the_plaintext_ranking() {
    let mut passages = passages();
    assert!(passages.len() >= PASSAGES + QUESTIONS, "only {} passages in cargo's registry", passages.len());
    // Questions are passages that are not searched in: spread over all crates.
    let step = passages.len() / QUESTIONS;
    let questions: Vec<String> = (0..QUESTIONS).rev().map(|n| passages.remove(n * step)).collect();
    passages.truncate(PASSAGES);
    let embedder = embedder(&passages);
    let vectors = embed(&*embedder, &passages);
    let queries = embed(&*embedder, &questions);

    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(folder.path()).unwrap());
    let collection: CollectionName = "readmes".parse().unwrap();
    let owner = OwnerKey::from_seed(&Zeroizing::new([5; 32]), Params::default()).unwrap();
    let expected = fill(&store, &collection, &owner, &vectors);
    let counts: Vec<usize> = vectors.chunks(owner.params().documents_per_group()).map(<[_]>::len).collect();
    let tier = Tier::new(store, 1 << 30);

    let matrix = vectors.concat();
    let (mut found, mut worst) = (0, 0_f32);
    for query in &queries {
        let (encrypted, secret) = owner.query(query).unwrap();
        let reply = tier.score(&collection, &encrypted, &expected).unwrap();
        let scores = secret.decrypt(&reply, &counts).unwrap().concat();
        let exact = plaintext::scan(&matrix, query.len(), query);
        assert_eq!(scores.len(), exact.len());
        worst = scores.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        found += top(&scores).intersection(&top(&exact)).count();
    }
    let recall = found as f64 / (QUESTIONS * TOP) as f64;
    println!("{}: recall@{TOP} {recall:.4}, largest error {worst:.2e}", embedder.name());
    assert!(recall >= 0.99, "recall@{TOP} is {recall}");
    assert!(f64::from(worst) <= owner.params().noise_budget().tolerance(), "a score is off by {worst}");
}

fn fill(store: &SledStore, name: &CollectionName, owner: &OwnerKey, vectors: &[Vec<f32>]) -> Vec<ExpectedGroup> {
    let version = store.reserve_version(name).unwrap();
    let mut change = Change { version, manifest: b"sealed elsewhere".to_vec(), ..Change::default() };
    let mut expected = Vec::new();
    for (number, group) in (0_u32..).zip(vectors.chunks(owner.params().documents_per_group())) {
        let slices: Vec<&[f32]> = group.iter().map(Vec::as_slice).collect();
        let ciphertext = owner.encrypt_group(&slices).unwrap().to_bytes();
        let record = GroupRecord { version, count: group.len() as u32, ciphertext };
        expected.push(ExpectedGroup { group: number, version, digest: record.digest(name, number) });
        change.put_groups.push((number, record));
    }
    store.apply(name, change).unwrap();
    expected
}

fn top(scores: &[f32]) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.into_iter().take(TOP).collect()
}

/// The sentence model where it is there; the lexical embedder otherwise.
fn embedder(passages: &[String]) -> Box<dyn Embedder> {
    match std::env::var_os("CASEMATE_MODEL_DIR").map(PathBuf::from) {
        Some(dir) => Box::new(MiniLm::load(&dir).unwrap()),
        None => Box::new(Lexical::fit(passages.iter().map(String::as_str))),
    }
}

fn embed(embedder: &dyn Embedder, texts: &[String]) -> Vec<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.chunks(64).flat_map(|texts| embedder.embed(texts).unwrap()).collect()
}

/// Paragraphs of prose, without repetitions, from the READMEs of our own dependencies.
fn passages() -> Vec<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_string()) {
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
        let Ok(readme) = fs::read_to_string(folder.join(package["readme"].as_str().unwrap_or("README.md"))) else {
            continue;
        };
        let prose = readme.split("\n\n").map(str::trim).filter(|paragraph| {
            paragraph.len() >= 120 && paragraph.len() <= 700 && paragraph.starts_with(char::is_alphabetic)
        });
        found.extend(prose.take(4).filter(|paragraph| seen.insert((*paragraph).to_owned())).map(str::to_owned));
    }
    found
}
