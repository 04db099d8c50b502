use rayon::prelude::*;

/// Dimension of the sentence model.
pub const DIMENSION: usize = 384;
/// Directions in which the vectors differ: embeddings of text lie near a space of far fewer dimensions than they have.
const LATENT: usize = 32;

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

/// Unit vectors: random points of a space of 32 dimensions, turned into 384, with a little noise in all of them.
pub fn vectors(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let turn: Vec<f32> = (0..LATENT * DIMENSION).map(|_| random.next()).collect();
    (0..count)
        .into_par_iter()
        .map(|number| {
            let mut random = Random((seed << 32 | number as u64) * 2 + 1);
            for _ in 0..8 {
                random.next();
            }
            let point: Vec<f32> = (0..LATENT).map(|_| random.next()).collect();
            let mut vector: Vec<f32> = (0..DIMENSION).map(|_| 0.3 * random.next()).collect();
            for (share, row) in point.iter().zip(turn.chunks(DIMENSION)) {
                for (value, direction) in vector.iter_mut().zip(row) {
                    *value += share * direction;
                }
            }
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter().map(|x| x / norm).collect()
        })
        .collect()
}

/// The positions of the `count` highest scores, best first.
pub fn top(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}
