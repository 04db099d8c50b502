//! Encrypted query against encrypted documents, beside a brute-force scan of the same vectors in plaintext f32 (AVX2 where there).

mod data;
mod growth;
mod plot;
mod real;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use casemate_fhe::{
    EncryptedGroup, Params, PreparedQuery, PreparedTile, QUERIES_PER_PASS, plaintext, score, score_many,
    score_one_thread,
};
use casemate_fhe_owner::OwnerKey;
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::report::{Baseline, Report, percentile};
use data::{DIMENSION, top, vectors};

const DOCUMENTS: usize = 102_400;
const QUERIES: usize = 20;
const SCAN: &str = "plaintext brute force, one thread";

pub fn run(report: &mut Report) {
    bandwidth(report);
    let params = Params::default();
    let collection = Collection::new(params, &vectors(DOCUMENTS, 7));
    one_query(report, &collection);
    several_queries(report, &collection);
    sizes(report, params);
    million(report, &collection);
    growth::run(report, &collection);
    drop(collection);
    real::run(report);
}

/// Documents, encrypted and prepared, and what the owner needs.
struct Collection {
    owner: OwnerKey,
    matrix: Vec<f32>,
    groups: Vec<EncryptedGroup>,
    tiles: Vec<Arc<PreparedTile>>,
    counts: Vec<usize>,
    /// Microseconds a document to encrypt and to prepare, on one thread.
    encrypt: f64,
    prepare: f64,
}

impl Collection {
    fn new(params: Params, documents: &[Vec<f32>]) -> Self {
        let owner = OwnerKey::from_seed(&Zeroizing::new([3; 32]), params).unwrap();
        let slices: Vec<&[f32]> = documents.iter().map(Vec::as_slice).collect();
        let chunks: Vec<&[&[f32]]> = slices.chunks(params.documents_per_group()).collect();
        // Cost per core is taken from the first groups, on one thread; the rest is made on all.
        let (first, rest) = chunks.split_at(chunks.len().min(24));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let sample: usize = first.iter().map(|group| group.len()).sum();
        let started = Instant::now();
        let mut groups: Vec<EncryptedGroup> =
            one.install(|| first.iter().map(|group| owner.encrypt_group(group).unwrap()).collect());
        let encrypt = started.elapsed().as_secs_f64() * 1e6 / sample as f64;
        let started = Instant::now();
        one.install(|| black_box(PreparedTile::prepare(&groups).unwrap()));
        let prepare = started.elapsed().as_secs_f64() * 1e6 / sample as f64;
        groups.extend(rest.iter().map(|group| owner.encrypt_group(group).unwrap()).collect::<Vec<_>>());
        let tiles = PreparedTile::prepare(&groups).unwrap();
        let counts = chunks.iter().map(|group| group.len()).collect();
        Self { owner, matrix: documents.concat(), groups, tiles, counts, encrypt, prepare }
    }

    fn prepared(&self, vector: &[f32]) -> PreparedQuery {
        PreparedQuery::new(&self.owner.query(vector).unwrap().0).unwrap()
    }
}

/// What memory gives: the limit of any scan.
fn bandwidth(report: &mut Report) {
    let memory: Vec<f64> = vec![1.0; 64 << 20];
    let bytes = (memory.len() * 8) as f64;
    let read = |part: &[f64]| {
        let mut sums = [0.0; 32];
        for chunk in part.as_chunks::<32>().0 {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value;
            }
        }
        black_box(sums);
    };
    let one = fastest(6, || read(&memory));
    let all = fastest(6, || memory.par_chunks(1 << 20).for_each(read));
    report.row("search", "memory read, one thread", bytes / one / 1e9, "GB/s", None);
    report.row("search", "memory read, all threads", bytes / all / 1e9, "GB/s", None);
    report.row("search", casemate_fhe::instructions(), rayon::current_num_threads() as f64, "threads", None);
}

fn one_query(report: &mut Report, collection: &Collection) {
    let (mut plain, mut one, mut all, mut build, mut prepare, mut open) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    let (mut recall, mut worst) = (0, 0_f32);
    let rate = |started: Instant| DOCUMENTS as f64 / started.elapsed().as_secs_f64();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for vector in &vectors(QUERIES, 99) {
        let started = Instant::now();
        let exact = plaintext::scan(&collection.matrix, DIMENSION, vector);
        plain.push(rate(started));

        let started = Instant::now();
        let (query, secret) = collection.owner.query(vector).unwrap();
        build.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        let prepared = PreparedQuery::new(&query).unwrap();
        prepare.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        let scores = score_one_thread(&collection.tiles, &prepared).unwrap();
        one.push(rate(started));
        let started = Instant::now();
        black_box(score(&collection.tiles, &prepared).unwrap());
        all.push(rate(started));

        let started = Instant::now();
        let opened = one_thread.install(|| secret.decrypt(&scores, &collection.counts).unwrap());
        open.push(started.elapsed().as_secs_f64() * 1e6 / DOCUMENTS as f64);
        let opened: Vec<f32> = opened.concat();
        let best = top(&exact, 10);
        recall += top(&opened, 10).iter().filter(|document| best.contains(document)).count();
        worst = opened.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    // The best of the runs on both sides: what the machine can do, undisturbed.
    let plain = percentile(&mut plain, 1.0);
    let one = percentile(&mut one, 1.0);
    let all = percentile(&mut all, 1.0);
    let against = |rate: f64| Some(Baseline { name: SCAN, ratio: rate / plain });
    let bytes = collection.tiles.iter().map(|tile| tile.bytes()).sum::<usize>() as f64 / DOCUMENTS as f64;
    report.row("search", "plaintext f32 scan, one thread", plain, "documents/s", None);
    report.row("search", "encrypted x encrypted, one thread", one, "documents/s", against(one));
    report.row("search", "  read from memory meanwhile", one * bytes / 1e9, "GB/s", None);
    report.row("search", "  times slower than plaintext (bar 2.5)", plain / one, "times", None);
    report.row("search", "encrypted x encrypted, all threads", all, "documents/s", against(all));
    report.row("search", "recall@10, synthetic vectors", recall as f64 / (QUERIES * 10) as f64, "", None);
    report.row("search", "largest error of a cosine", f64::from(worst) * 1e6, "millionths", None);
    report.row("search", "encrypt, one document, one thread (bar 15)", collection.encrypt, "us", None);
    report.row("search", "prepare, one document, one thread", collection.prepare, "us", None);
    report.row("search", "query build, all threads (bar 5)", percentile(&mut build, 0.5), "ms", None);
    report.row("search", "prepare a query, one thread", percentile(&mut prepare, 0.5), "ms", None);
    report.row("search", "decrypt, one document, one thread (bar 0.1)", percentile(&mut open, 0.5), "us", None);
}

/// Queries that share a pass against queries one after another, both on all threads.
fn several_queries(report: &mut Report, collection: &Collection) {
    let queries: Vec<PreparedQuery> =
        vectors(QUERIES_PER_PASS, 5).iter().map(|vector| collection.prepared(vector)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (threads, case) in
        [(Some(&pool), "four queries a pass, each, one thread"), (None, "four queries a pass, each, all threads")]
    {
        let on = |work: &(dyn Fn() + Sync)| match threads {
            Some(pool) => fastest(5, || pool.install(work)),
            None => fastest(5, work),
        };
        let alone = on(&|| drop(black_box(score(&collection.tiles, &queries[0]).unwrap())));
        let together = on(&|| drop(black_box(score_many(&collection.tiles, &queries).unwrap())));
        let (alone, each) = (DOCUMENTS as f64 / alone, (QUERIES_PER_PASS * DOCUMENTS) as f64 / together);
        let name = "one query a pass (bar 1.5)";
        report.row("search", case, each, "documents/s", Some(Baseline { name, ratio: each / alone }));
    }
}

fn sizes(report: &mut Report, default: Params) {
    let document = |params: &Params, bytes: usize| bytes as f64 / params.documents_per_group() as f64;
    report.row("search", "in memory, one document", document(&default, default.memory_bytes()), "bytes", None);
    report.row("search", "at rest, one document", document(&default, default.group_bytes()), "bytes", None);
    report.row("search", "query on the wire", default.query_bytes() as f64, "bytes", None);
    report.row("search", "reply, one document", document(&default, default.reply_bytes()), "bytes", None);
    let offered = Params::offered(DIMENSION).unwrap();
    let least = |of: &dyn Fn(&Params) -> f64| offered.iter().map(of).fold(f64::MAX, f64::min);
    let rest = least(&|params| document(params, params.group_bytes()));
    report.row("search", "least at rest of any setting (bar 1,152)", rest, "bytes", None);
    let query = least(&|params| params.query_bytes() as f64);
    report.row("search", "least query of any setting (bar 250,000)", query, "bytes", None);
    let reply = least(&|params| document(params, params.reply_bytes()));
    report.row("search", "least reply of any setting (bar 11)", reply, "bytes", None);
    // The trade-offs: `casemate fhe settings` has the same as a table of its own.
    for params in &offered {
        let name = format!(
            "block {}, body {}, reply {}: {:.0} B at rest, {:.0} in memory, {:.1} in a reply, query {} B; error",
            params.block(),
            params.body_bits(),
            params.reply_bits(),
            document(params, params.group_bytes()),
            document(params, params.memory_bytes()),
            document(params, params.reply_bytes()),
            params.query_bytes(),
        );
        report.row("search", &name, params.noise_budget().total() * 1e6, "millionths", None);
    }
}

/// A million documents in memory of their own (copies of the same ciphertexts: what they hold does not change the time).
fn million(report: &mut Report, collection: &Collection) {
    let copies = 1_000_000_usize.div_ceil(DOCUMENTS);
    let tiles: Vec<Arc<PreparedTile>> =
        (0..copies).flat_map(|_| PreparedTile::prepare(&collection.groups).unwrap()).collect();
    let documents = (copies * DOCUMENTS) as f64;
    let query = collection.prepared(&vectors(1, 12)[0]);
    let seconds = fastest(5, || drop(black_box(score(&tiles, &query).unwrap())));
    let at_a_million = seconds / documents * 1e6;
    report.row("search", "a million documents, all threads (bar 0.3)", at_a_million, "s", None);
    report.row("search", "  read from memory meanwhile", documents * 3200.0 / seconds / 1e9, "GB/s", None);
}

/// The shortest of several runs: what the machine can do, undisturbed.
fn fastest(runs: usize, mut work: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}
