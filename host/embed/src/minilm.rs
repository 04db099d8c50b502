use std::cmp::Reverse;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use casemate_types::Digest;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::bert::{self, Bert};
use crate::{DIMENSION, EmbedError, Embedder, unit};

const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";

/// Tokens of a text, `[CLS]` and `[SEP]` included; the rest of a longer text does not count (`max_seq_length` of the
/// model's own package).
const MAX_TOKENS: usize = 256;
/// Texts that go through the network together.
const BATCH_TEXTS: usize = 32;
/// Tokens, padding included, that go through the network together: keeps a batch of long texts small in memory.
const BATCH_TOKENS: usize = 2_048;
/// Ids the published vocabulary gives its special tokens.
const SPECIAL: [(&str, u32); 3] = [("[PAD]", 0), ("[CLS]", 101), ("[SEP]", 102)];

/// all-MiniLM-L6-v2: BERT of 6 layers, mean over the tokens, length 1. English; the first 256 tokens count.
///
/// The same text in another batch may differ in the last bits, because the order of additions follows the shapes.
pub struct MiniLm {
    bert: Bert,
    tokenizer: Tokenizer,
    digest: Digest,
    /// Of the tokenizer's file.
    tokens: Digest,
    /// One pool of one thread per core. The matrix product splits its work over the pool it finds itself in, so a
    /// batch stays on its own core, and nothing is oversubscribed.
    lanes: Vec<ThreadPool>,
}

impl MiniLm {
    /// Reads `model.safetensors`, `tokenizer.json` and, if it is there, `config.json` from `dir`.
    ///
    /// The file's digest is not compared with anything: pin it at set-up and compare [`model_digest`](Self::model_digest).
    ///
    /// # Errors
    ///
    /// [`EmbedError::ModelMissing`] if a file cannot be read, [`EmbedError::ModelFile`] if it is truncated or is not
    /// this model's.
    pub fn load(dir: &Path) -> Result<Self, EmbedError> {
        let config = dir.join(CONFIG);
        if config.exists() {
            let bytes = read(&config)?;
            Config::check(&bytes).map_err(|source| EmbedError::ModelFile { path: config, source })?;
        }

        let path = dir.join(TOKENIZER);
        let bytes = read(&path)?;
        let tokens = Digest::of(&bytes);
        let tokenizer = tokenizer(&bytes).map_err(|source| EmbedError::ModelFile { path, source })?;

        let path = dir.join(WEIGHTS);
        let bytes = read(&path)?;
        let digest = Digest::of(&bytes);
        let bert = Bert::load(bytes).map_err(|source| EmbedError::ModelFile { path, source: source.into() })?;

        let lanes = (0..rayon::current_num_threads())
            .map(|i| ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| format!("embed-{i}")).build())
            .collect::<Result<_, _>>()
            .map_err(|_| EmbedError::Worker)?;
        Ok(Self { bert, tokenizer, digest, tokens, lanes })
    }

    /// Whether `dir` holds the files [`load`](Self::load) needs. Says nothing about their content.
    pub fn present(dir: &Path) -> bool {
        [WEIGHTS, TOKENIZER].iter().all(|name| dir.join(name).is_file())
    }

    /// The SHA-256 of `model.safetensors` as it was read.
    pub fn model_digest(&self) -> Digest {
        self.digest
    }

    /// The vectors of `batch`.
    fn embed_batch(&self, batch: &[Tokens]) -> Result<Vec<Indexed>, EmbedError> {
        let longest = batch.iter().map(|tokens| tokens.ids.len()).max().unwrap_or_default();
        let lengths: Vec<usize> = batch.iter().map(|tokens| tokens.ids.len()).collect();
        let mut ids = Vec::with_capacity(longest * batch.len());
        for tokens in batch {
            ids.extend_from_slice(&tokens.ids);
            ids.resize(ids.len() + longest - tokens.ids.len(), 0);
        }
        let means = self
            .bert
            .forward(ids, &lengths)
            .map_err(|source| EmbedError::Compute { texts: batch.len(), source: source.into() })?;
        batch
            .iter()
            .zip(means)
            .map(|(tokens, mean)| {
                let mean: Vec<f64> = mean.into_iter().map(f64::from).collect();
                let vector = unit(&mean).ok_or(EmbedError::NotFinite)?;
                Ok((tokens.index, vector))
            })
            .collect()
    }

    /// The vectors of all batches, in any order. Lanes take the next batch as they become free.
    fn embed_batches(&self, batches: &[&[Tokens]]) -> Result<Vec<Indexed>, EmbedError> {
        if let [batch] = batches {
            // One batch, as in a query: here the matrix product itself may use every core.
            return self.embed_batch(batch);
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Indexed>, EmbedError> {
            let mut done = Vec::new();
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.extend(self.embed_batch(batch)?);
            }
            Ok(done)
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| Builder::new().spawn_scoped(scope, || lane.install(work)))
                .collect::<Result<_, _>>()
                .map_err(|_| EmbedError::Worker)?;
            let mut all = Vec::new();
            for lane in lanes {
                all.extend(lane.join().map_err(|_| EmbedError::Worker)??);
            }
            Ok(all)
        })
    }
}

impl Embedder for MiniLm {
    fn name(&self) -> &str {
        "all-MiniLM-L6-v2"
    }

    fn digest(&self) -> Digest {
        Digest::of_parts(&[self.digest.as_bytes(), self.tokens.as_bytes()])
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let encodings = self
            .tokenizer
            .encode_batch_char_offsets(texts.to_vec(), true)
            .map_err(|source| EmbedError::Tokenize { source })?;
        let mut tokens: Vec<Tokens> = encodings
            .iter()
            .enumerate()
            .map(|(index, encoding)| Tokens { index, ids: encoding.get_ids().to_vec() })
            .collect();
        // Neighbours of like length need little padding; the longest first leaves the short ones to even out the lanes.
        tokens.sort_by_key(|tokens| Reverse(tokens.ids.len()));

        let mut vectors = vec![Vec::new(); texts.len()];
        for (index, vector) in self.embed_batches(&batches(&tokens))? {
            if let Some(place) = vectors.get_mut(index) {
                *place = vector;
            }
        }
        Ok(vectors)
    }
}

impl fmt::Debug for MiniLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiniLm").field("model_digest", &self.digest).finish_non_exhaustive()
    }
}

/// A vector and the position of its text.
type Indexed = (usize, Vec<f32>);

/// The token ids of the text at `index`.
struct Tokens {
    index: usize,
    ids: Vec<u32>,
}

/// Cuts tokens, longest first, into batches of at most [`BATCH_TEXTS`] texts and [`BATCH_TOKENS`] tokens.
fn batches(tokens: &[Tokens]) -> Vec<&[Tokens]> {
    let mut rest = tokens;
    let mut batches = Vec::new();
    while let Some(longest) = rest.first() {
        let texts = (BATCH_TOKENS / longest.ids.len().max(1)).clamp(1, BATCH_TEXTS).min(rest.len());
        let (batch, after) = rest.split_at(texts);
        batches.push(batch);
        rest = after;
    }
    batches
}

fn read(path: &Path) -> Result<Vec<u8>, EmbedError> {
    std::fs::read(path).map_err(|source| EmbedError::ModelMissing { path: PathBuf::from(path), source })
}

fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, Box<dyn std::error::Error + Send + Sync>> {
    let mut tokenizer = Tokenizer::from_bytes(bytes)?;
    if tokenizer.get_vocab_size(true) != bert::VOCABULARY {
        return Err(format!("it has {} tokens, not {}", tokenizer.get_vocab_size(true), bert::VOCABULARY).into());
    }
    if let Some((name, id)) = SPECIAL.into_iter().find(|&(name, id)| tokenizer.token_to_id(name) != Some(id)) {
        return Err(format!("its token {name} does not have the number {id}").into());
    }
    // The file asks for 128 tokens and fixed padding, for training; embedding takes 256 and pads per batch.
    tokenizer.with_truncation(Some(TruncationParams { max_length: MAX_TOKENS, ..Default::default() }))?;
    tokenizer.with_padding(None);
    // `[CLS]` and `[SEP]` are there even for an empty text, so no mean is ever taken over nothing.
    if tokenizer.encode("", true)?.get_ids() != [101, 102] {
        return Err("it does not put [CLS] and [SEP] around a text".into());
    }
    Ok(tokenizer)
}

/// The part of `config.json` that the code has as constants.
#[derive(Deserialize)]
struct Config {
    hidden_act: String,
    hidden_size: usize,
    intermediate_size: usize,
    layer_norm_eps: f64,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
}

impl Config {
    fn check(bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let config: Self = serde_json::from_slice(bytes)?;
        let ours = config.hidden_act == "gelu"
            && config.hidden_size == DIMENSION
            && config.intermediate_size == bert::INTERMEDIATE
            && config.layer_norm_eps == bert::LAYER_NORM_EPS
            && config.max_position_embeddings == bert::POSITIONS
            && config.num_attention_heads == bert::HEADS
            && config.num_hidden_layers == bert::LAYERS
            && config.vocab_size == bert::VOCABULARY;
        if ours { Ok(()) } else { Err("it describes another network".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_within_texts_and_tokens_and_lose_nothing() {
        let tokens: Vec<Tokens> =
            (0..100).map(|index| Tokens { index, ids: vec![7; if index < 20 { MAX_TOKENS } else { 5 }] }).collect();
        let batches = batches(&tokens);
        for batch in &batches {
            assert!(batch.len() <= BATCH_TEXTS && batch.len() * batch[0].ids.len() <= BATCH_TOKENS);
        }
        let order: Vec<usize> = batches.iter().flat_map(|batch| batch.iter().map(|tokens| tokens.index)).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn config_of_another_network_is_refused() {
        let config = |layers: usize| {
            format!(
                r#"{{"hidden_act":"gelu","hidden_size":384,"intermediate_size":1536,"layer_norm_eps":1e-12,
                "max_position_embeddings":512,"num_attention_heads":12,"num_hidden_layers":{layers},"vocab_size":30522}}"#
            )
        };
        assert!(Config::check(config(6).as_bytes()).is_ok());
        assert!(Config::check(config(12).as_bytes()).is_err());
        assert!(Config::check(b"{}").is_err());
    }
}
