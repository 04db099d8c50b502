use std::sync::Arc;
use std::time::Instant;

use casemate_fhe::{Params, PreparedGroup, PreparedQuery, plaintext, score, score_one_thread};
use casemate_fhe_owner::OwnerKey;
use zeroize::Zeroizing;

use crate::report::{Baseline, Report, percentile};

const DIMENSION: usize = 384;
const DOCUMENTS: usize = 51_200;
const QUERIES: usize = 20;

/// Encrypted query against encrypted documents, beside a brute-force scan of the same vectors in plaintext f32 (AVX2 where there).
pub fn run(report: &mut Report) {
    let mut random = Random(7);
    let matrix: Vec<f32> = (0..DOCUMENTS).flat_map(|_| unit(&mut random)).collect();
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| unit(&mut random)).collect();

    let params = Params::default();
    let owner = OwnerKey::from_seed(&Zeroizing::new([3; 32]), params).unwrap();
    let rows: Vec<&[f32]> = matrix.chunks_exact(DIMENSION).collect();
    let started = Instant::now();
    let encrypted: Vec<_> =
        rows.chunks(params.documents_per_group()).map(|group| owner.encrypt_group(group).unwrap()).collect();
    let ingest = started.elapsed().as_secs_f64() * 1e6 / DOCUMENTS as f64;
    let at_rest: usize = encrypted.iter().map(|group| group.to_bytes().len()).sum();
    let groups: Vec<Arc<PreparedGroup>> =
        encrypted.iter().map(|group| Arc::new(PreparedGroup::new(group).unwrap())).collect();
    let resident: usize = groups.iter().map(|group| group.bytes()).sum();
    let counts: Vec<usize> = rows.chunks(params.documents_per_group()).map(<[_]>::len).collect();

    let (mut plain, mut one, mut all, mut build, mut open) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut recall, mut worst, mut query_bytes) = (0, 0_f32, 0);
    for vector in &queries {
        let started = Instant::now();
        let exact = plaintext::scan(&matrix, DIMENSION, vector);
        plain.push(DOCUMENTS as f64 / started.elapsed().as_secs_f64());

        let started = Instant::now();
        let (query, secret) = owner.query(vector).unwrap();
        build.push(started.elapsed().as_secs_f64() * 1e3);
        query_bytes = query.to_bytes().len();
        let prepared = PreparedQuery::new(&query).unwrap();
        let started = Instant::now();
        let scores = score_one_thread(&groups, &prepared).unwrap();
        one.push(DOCUMENTS as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        let _ = score(&groups, &prepared).unwrap();
        all.push(DOCUMENTS as f64 / started.elapsed().as_secs_f64());

        let started = Instant::now();
        let opened: Vec<f32> = secret.decrypt(&scores, &counts).unwrap().concat();
        open.push(started.elapsed().as_secs_f64() * 1e6 / DOCUMENTS as f64);
        let best = top(&exact);
        recall += top(&opened).iter().filter(|document| best.contains(document)).count();
        worst = opened.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    let plain = percentile(&mut plain, 0.5);
    let one = percentile(&mut one, 0.5);
    let all = percentile(&mut all, 0.5);
    let name = "plaintext brute force, one thread";
    report.row("search", "plaintext f32 scan, one thread", plain, "documents/s", None);
    report.row(
        "search",
        "encrypted x encrypted, one thread",
        one,
        "documents/s",
        Some(Baseline { name, ratio: one / plain }),
    );
    report.row(
        "search",
        "encrypted x encrypted, all threads",
        all,
        "documents/s",
        Some(Baseline { name, ratio: all / plain }),
    );
    report.row("search", "recall@10 against exact plaintext", recall as f64 / (QUERIES * 10) as f64, "", None);
    report.row("search", "largest error of a cosine", f64::from(worst) * 1e6, "millionths", None);
    report.row("search", "ingest, one document", ingest, "us", None);
    report.row("search", "query build", percentile(&mut build, 0.5), "ms", None);
    report.row("search", "owner's decryption, one document", percentile(&mut open, 0.5), "us", None);
    report.row("search", "in memory, one document", resident as f64 / DOCUMENTS as f64, "bytes", None);
    report.row("search", "at rest, one document", at_rest as f64 / DOCUMENTS as f64, "bytes", None);
    report.row("search", "query on the wire", query_bytes as f64, "bytes", None);
}

fn top(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(10);
    order
}

/// xorshift64*: the same vectors in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        bits as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

fn unit(random: &mut Random) -> Vec<f32> {
    let vector: Vec<f32> = (0..DIMENSION).map(|_| random.next()).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}
