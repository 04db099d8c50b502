//! Encrypted search end to end: exactness, freshness, refusals, and what reaches the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod hostile;
mod malicious;
mod measures;
mod models;
mod ranking;
mod rest;

use casemate_fhe::{EncryptedGroup, EncryptedQuery, EncryptedScores, Params, PreparedQuery, PreparedTile, score};
use casemate_fhe_owner::OwnerKey;
use zeroize::Zeroizing;

fn key(byte: u8, params: Params) -> OwnerKey {
    OwnerKey::from_seed(&Zeroizing::new([byte; 32]), params).unwrap()
}

/// Deterministic unit vectors with normal components (sum of twelve uniforms).
fn unit_vectors(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        (0..12)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 24) as f32
            })
            .sum::<f32>()
            - 6.0
    };
    (0..count)
        .map(|_| {
            let vector: Vec<f32> = (0..dimension).map(|_| next()).collect();
            let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
            vector.iter().map(|x| x / norm).collect()
        })
        .collect()
}

fn encrypt(key: &OwnerKey, vectors: &[Vec<f32>]) -> Vec<EncryptedGroup> {
    vectors
        .chunks(key.params().documents_per_group())
        .map(|group| key.encrypt_group(&group.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap())
        .collect()
}

fn counts(key: &OwnerKey, vectors: &[Vec<f32>]) -> Vec<usize> {
    vectors.chunks(key.params().documents_per_group()).map(<[_]>::len).collect()
}

/// What the inference tier does, over the wire formats.
fn serve(groups: &[EncryptedGroup], query: &EncryptedQuery) -> EncryptedScores {
    let groups: Vec<_> = groups.iter().map(|group| EncryptedGroup::from_bytes(&group.to_bytes()).unwrap()).collect();
    let tiles = PreparedTile::prepare(&groups).unwrap();
    let query = EncryptedQuery::from_bytes(&query.to_bytes()).unwrap();
    let scores = score(&tiles, &PreparedQuery::new(&query).unwrap()).unwrap();
    EncryptedScores::from_bytes(&scores.to_bytes()).unwrap()
}
