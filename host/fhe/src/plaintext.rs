//! The baseline that encrypted scoring is measured against: an exhaustive scan of plaintext f32 vectors.
//!
//! Not used by the product, which keeps no plaintext vector.

/// The dot product of `query` with each row of `matrix` (rows of `dim` values, one after another).
///
/// AVX2 and FMA where the processor has them. An empty result when `dim` is zero or differs from the query's length.
pub fn scan(matrix: &[f32], dim: usize, query: &[f32]) -> Vec<f32> {
    if dim == 0 || query.len() != dim {
        return Vec::new();
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(avx2::Scan { simd, matrix, dim, query });
    }
    matrix.chunks_exact(dim).map(|row| portable(row, query)).collect()
}

fn portable(row: &[f32], query: &[f32]) -> f32 {
    row.iter().zip(query).map(|(a, b)| a * b).sum()
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use pulp::x86::V3;
    use pulp::{cast, f32x8};

    pub(super) struct Scan<'a> {
        pub(super) simd: V3,
        pub(super) matrix: &'a [f32],
        pub(super) dim: usize,
        pub(super) query: &'a [f32],
    }

    impl pulp::NullaryFnOnce for Scan<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn call(self) -> Vec<f32> {
            let Self { simd, matrix, dim, query } = self;
            let mut scores = Vec::with_capacity(matrix.len() / dim);
            for row in matrix.chunks_exact(dim) {
                scores.push(dot(simd, row, query));
            }
            scores
        }
    }

    /// Eight sums of eight values each.
    #[inline(always)]
    fn dot(simd: V3, row: &[f32], query: &[f32]) -> f32 {
        let mut sums = [simd.splat_f32x8(0.0); 8];
        let (rows, row_tail) = row.as_chunks::<64>();
        let (queries, query_tail) = query.as_chunks::<64>();
        for (row, query) in rows.iter().zip(queries) {
            let (row, query): ([f32x8; 8], [f32x8; 8]) = (cast(*row), cast(*query));
            for i in 0..8 {
                sums[i] = simd.mul_add_f32x8(row[i], query[i], sums[i]);
            }
        }
        let mut sum = sums[0];
        for other in &sums[1..] {
            sum = simd.add_f32x8(sum, *other);
        }
        let lanes: [f32; 8] = cast(sum);
        lanes.iter().sum::<f32>() + super::portable(row_tail, query_tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_equals_the_plain_sum() {
        for dim in [1, 63, 64, 100, 384, 385] {
            let matrix: Vec<f32> = (0..3 * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let query: Vec<f32> = (0..dim).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
            let scores = scan(&matrix, dim, &query);
            assert_eq!(scores.len(), 3);
            for (row, score) in matrix.chunks(dim).zip(scores) {
                assert!((portable(row, &query) - score).abs() < 1e-3, "{dim}");
            }
        }
        assert!(scan(&[1.0], 1, &[1.0, 2.0]).is_empty());
    }
}
