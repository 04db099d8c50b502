use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use casemate_fhe::{PreparedTile, plaintext, score, score_one_thread};
use instant_distance::{Builder, Point, Search};

use super::data::{DIMENSION, top, vectors};
use super::plot::{Series, svg};
use super::{Collection, DOCUMENTS, fastest};
use crate::fixture::root;
use crate::report::Report;

const SIZES: [usize; 7] = [10_240, 20_480, 51_200, 102_400, 204_800, 512_000, 1_024_000];
/// Building the graph takes far longer than searching it, so it stops here.
const LARGEST_GRAPH: usize = 20_480;

/// Cost per document as the collection grows, written as a plot.
pub fn run(report: &mut Report, collection: &Collection) {
    let per_group = collection.owner.params().documents_per_group();
    let query = collection.prepared(&vectors(1, 31)[0]);
    let vector = &vectors(1, 31)[0];
    let (mut one, mut all, mut plain, mut graph) = (vec![], vec![], vec![], vec![]);
    // Memory of its own for each copy; the ciphertexts repeat.
    let copies = SIZES.iter().max().map_or(1, |largest| largest.div_ceil(DOCUMENTS));
    let tiles: Vec<Arc<PreparedTile>> =
        (0..copies).flat_map(|_| PreparedTile::prepare(&collection.groups).unwrap()).collect();
    let matrix: Vec<f32> = collection.matrix.repeat(copies);
    for size in SIZES {
        let groups = size / per_group;
        let mut taken = 0;
        let some: Vec<Arc<PreparedTile>> = tiles
            .iter()
            .take_while(|tile| {
                taken += tile.groups();
                taken <= groups
            })
            .cloned()
            .collect();
        let there = some.iter().map(|tile| tile.groups()).sum::<usize>() * per_group;
        let cost = |seconds: f64| (there as f64, seconds / there as f64 * 1e9);
        one.push(cost(fastest(3, || drop(black_box(score_one_thread(&some, &query).unwrap())))));
        all.push(cost(fastest(3, || drop(black_box(score(&some, &query).unwrap())))));
        let rows = &matrix[..there * DIMENSION];
        plain.push(cost(fastest(3, || drop(black_box(plaintext::scan(rows, DIMENSION, vector))))));
        if size <= LARGEST_GRAPH {
            let (seconds, recall) = hnsw(&collection.matrix[..there * DIMENSION]);
            graph.push(cost(seconds));
            report.row("search", &format!("HNSW, {there} documents: recall@10"), recall, "", None);
        }
    }
    for (name, series) in [("encrypted, one thread", &one), ("plaintext scan, one thread", &plain), ("HNSW", &graph)] {
        for (documents, cost) in [series.first(), series.last()].into_iter().flatten() {
            report.row("search", &format!("{name}, {documents} documents"), *cost, "ns/document", None);
        }
    }
    let plot = svg(
        "Cost of a query per document, 384 dimensions",
        "documents",
        "ns per document",
        &[
            Series { name: "encrypted x encrypted, one thread", colour: "#b30000", points: one },
            Series { name: "encrypted x encrypted, all threads", colour: "#e08000", points: all },
            Series { name: "plaintext f32 scan, one thread", colour: "#0050b3", points: plain },
            Series { name: "HNSW on plaintext, one thread (for orientation)", colour: "#4d8c00", points: graph },
        ],
    );
    let path = target().join("search-growth.svg");
    std::fs::create_dir_all(target()).unwrap();
    std::fs::write(&path, plot).unwrap();
    eprintln!("plot: {}", path.display());
}

/// Seconds a query of ten, and how many of the exact ten it finds.
fn hnsw(matrix: &[f32]) -> (f64, f64) {
    let points: Vec<Vector> = matrix.chunks_exact(DIMENSION).map(|row| Vector(row.to_vec())).collect();
    let numbers: Vec<usize> = (0..points.len()).collect();
    let graph = Builder::default().ef_construction(100).ef_search(100).build(points, numbers);
    let queries = vectors(20, 44);
    let near = |query: &[f32]| -> Vec<usize> {
        let mut search = Search::default();
        graph.search(&Vector(query.to_vec()), &mut search).take(10).map(|item| *item.value).collect()
    };
    let mut found = 0;
    for query in &queries {
        let exact = top(&plaintext::scan(matrix, DIMENSION, query), 10);
        found += near(query).iter().filter(|document| exact.contains(document)).count();
    }
    let seconds = fastest(3, || {
        for query in &queries {
            black_box(near(query));
        }
    });
    (seconds / queries.len() as f64, found as f64 / (10 * queries.len()) as f64)
}

#[derive(Clone)]
struct Vector(Vec<f32>);

impl Point for Vector {
    /// Eight sums at a time, which the compiler vectorises.
    fn distance(&self, other: &Self) -> f32 {
        let mut sums = [0.0; 8];
        for (a, b) in self.0.as_chunks::<8>().0.iter().zip(other.0.as_chunks::<8>().0) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += a * b;
            }
        }
        1.0 - sums.iter().sum::<f32>()
    }
}

/// Where figures are left.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("casemate/bench")
}
