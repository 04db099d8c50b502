//! The embedding model from its files: known values, and every way the files can be wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::explicit_write, reason = "eprintln! is captured by the test harness")]

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use casemate_embed::{DIMENSION, EmbedError, Embedder, MiniLm};

/// Where set-up puts the model, unless `CASEMATE_MODEL_DIR` says otherwise.
fn model_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("CASEMATE_MODEL_DIR") {
        return dir.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    target.join("casemate/model")
}

/// The model, or `None` if this machine is declared to be without it.
fn model() -> Option<&'static MiniLm> {
    static MODEL: OnceLock<Option<MiniLm>> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let dir = model_dir();
            if MiniLm::present(&dir) {
                return Some(MiniLm::load(&dir).unwrap());
            }
            if std::env::var("CASEMATE_WITHOUT_MODEL").is_ok_and(|value| value == "1") {
                // Past the capture of the test harness: a skipped test must be seen.
                writeln!(std::io::stderr(), "SKIPPED: no embedding model in {}", dir.display()).unwrap();
                return None;
            }
            panic!("no embedding model in {}: run `cargo xtask setup`, or set CASEMATE_WITHOUT_MODEL=1", dir.display());
        })
        .as_ref()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn published_sentence_pair_has_its_published_cosine() {
    let Some(model) = model() else { return };
    let vectors = model.embed(&["A man is eating food.", "A man is eating a piece of bread."]).unwrap();
    let cosine = dot(&vectors[0], &vectors[1]);
    assert!((cosine - 0.7553).abs() < 0.001, "{cosine}");
}

#[test]
fn meaning_counts_where_no_word_is_shared() {
    let Some(model) = model() else { return };
    let vectors = model
        .embed(&["How do I reset my password?", "Recovering access to a locked account", "The soup is served hot"])
        .unwrap();
    assert!(dot(&vectors[0], &vectors[1]) > dot(&vectors[0], &vectors[2]) + 0.2);
}

#[test]
fn order_length_and_batch_do_not_change_a_vector() {
    let Some(model) = model() else { return };
    let texts: Vec<String> =
        (0..150).map(|i| format!("Item {i}: {}", "the pump is leaking ".repeat(i * 7 % 40))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = model.embed(&texts).unwrap();
    assert_eq!(together.len(), texts.len());
    for i in [0, 1, 37, 74, 149] {
        let alone = model.embed(&[texts[i]]).unwrap();
        assert!(dot(&alone[0], &together[i]) > 0.99999, "{i}");
    }
}

#[test]
fn every_vector_has_length_one() {
    let Some(model) = model() else { return };
    let long = "pump ".repeat(5_000);
    let vectors = model.embed(&["", " ", "\u{0}", "[PAD] [CLS]", "日本語", "🚂", &long]).unwrap();
    for vector in &vectors {
        let length: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((length - 1.0).abs() < 1e-6 && vector.len() == DIMENSION);
    }
    assert!(model.embed(&[]).unwrap().is_empty());
}

#[test]
fn tokens_after_the_256th_do_not_count_and_those_before_do() {
    let Some(model) = model() else { return };
    // 254 one-token words fill the text up between [CLS] and [SEP].
    let text = |words: usize, end: &str| format!("{}{end}", "pump ".repeat(words));
    let pair = |words| {
        let vectors = model.embed(&[&text(words, "zebra"), &text(words, "invoice")]).unwrap();
        dot(&vectors[0], &vectors[1])
    };
    assert!(pair(254) > 0.999_999);
    assert!(pair(253) < 0.999_999);
}

#[test]
fn throughput_is_printed() {
    let Some(model) = model() else { return };
    let text =
        "The pump in hall three was replaced after the inspection found a leak in the seal, and the report was filed. ";
    let texts: Vec<String> = (0..256).map(|i| format!("{i} {}", text.repeat(1 + i % 4))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let start = Instant::now();
    model.embed(&texts).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for text in &texts[..20] {
        model.embed(&[text]).unwrap();
    }
    let query = start.elapsed().as_secs_f64() * 1e3 / 20.0;
    println!("{:.0} texts/s in batches of about 60 tokens; {query:.1} ms for one text", texts.len() as f64 / seconds);
}

/// A directory with the model's small files, and `weights` as `model.safetensors`.
fn broken(weights: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(model_dir().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    dir
}

/// Asserts that loading fails for the file `name`, with advice and a cause.
fn refused(dir: &Path, name: &str) -> EmbedError {
    let error = MiniLm::load(dir).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&dir.join(name).display().to_string()) && text.contains("cargo xtask setup"), "{text}");
    assert!(error.source().is_some());
    error
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!MiniLm::present(dir.path()));
    assert!(matches!(refused(dir.path(), "tokenizer.json"), EmbedError::ModelMissing { .. }));
}

#[test]
fn missing_weights_are_named() {
    if model().is_none() {
        return;
    }
    let dir = broken(b"");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(!MiniLm::present(dir.path()));
    assert!(matches!(refused(dir.path(), "model.safetensors"), EmbedError::ModelMissing { .. }));
}

#[test]
fn truncated_weights_are_refused_at_every_depth() {
    if model().is_none() {
        return;
    }
    let weights = std::fs::read(model_dir().join("model.safetensors")).unwrap();
    for length in [0, 7, 8, 1_000, 20_000, weights.len() / 2, weights.len() - 1] {
        let dir = broken(&weights[..length]);
        assert!(matches!(refused(dir.path(), "model.safetensors"), EmbedError::ModelFile { .. }), "{length}");
    }
    let dir = broken(&[&weights[..], b"more"].concat());
    refused(dir.path(), "model.safetensors");
}

#[test]
fn header_length_bomb_is_refused() {
    if model().is_none() {
        return;
    }
    let dir = broken(&[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    refused(dir.path(), "model.safetensors");
}

#[test]
fn weights_of_another_network_are_refused() {
    if model().is_none() {
        return;
    }
    let header = r#"{"embeddings.word_embeddings.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    let dir = broken(&file);
    refused(dir.path(), "model.safetensors");
}

#[test]
fn weights_that_are_not_numbers_give_no_vector() {
    if model().is_none() {
        return;
    }
    let mut weights = std::fs::read(model_dir().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    weights[header..].fill(0xff);
    let dir = broken(&weights);
    let damaged = MiniLm::load(dir.path()).unwrap();
    assert!(matches!(damaged.embed(&["text"]), Err(EmbedError::NotFinite)));
    assert_ne!(damaged.model_digest(), model().unwrap().model_digest());
}

#[test]
fn foreign_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let of_one_word = r###"{"version":"1.0","model":{"type":"WordPiece","unk_token":"[UNK]",
        "continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0}}}"###;
    for text in ["", "{}", of_one_word] {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        assert!(matches!(refused(dir.path(), "tokenizer.json"), EmbedError::ModelFile { .. }));
    }
}

#[test]
fn foreign_config_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"hidden_size": 768}"#).unwrap();
    assert!(matches!(refused(dir.path(), "config.json"), EmbedError::ModelFile { .. }));
}

#[test]
fn digest_is_that_of_the_file() {
    let Some(model) = model() else { return };
    let bytes = std::fs::read(model_dir().join("model.safetensors")).unwrap();
    assert_eq!(model.model_digest(), casemate_types::Digest::of(&bytes));
}
