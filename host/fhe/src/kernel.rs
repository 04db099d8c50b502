//! The inner loop: digits times query rows, accumulated in registers, one cache line of each at a time.
//!
//! Groups are taken a few at a time and frequencies a few lanes at a time, so that the query's part stays in the
//! first-level cache while the groups stream from memory. AVX2 with FMA is chosen at run time.

use crate::fft::{LANES, Lane};

/// Groups that share one pass over the query: their accumulators (32 KiB each) stay in the second-level cache.
pub(crate) const GROUPS_PER_TILE: usize = 4;
const LANES_PER_TILE: usize = 4;

/// The result of one group: mask and body spectra.
#[derive(Clone)]
pub(crate) struct Accumulator {
    pub(crate) mask: [Lane; LANES],
    pub(crate) body: [Lane; LANES],
}

impl Accumulator {
    pub(crate) const ZERO: Self =
        Self { mask: [Lane { re: [0.0; 4], im: [0.0; 4] }; LANES], body: [Lane { re: [0.0; 4], im: [0.0; 4] }; LANES] };
}

/// Sets `out` to the sum over rows of `group[lane][row] * query[lane][row]`, for each group. `query` is
/// `[lane][row][mask, body]`.
pub(crate) fn accumulate(groups: &[&[Lane]], query: &[Lane], rows: usize, out: &mut [Accumulator]) {
    let tiles = Tiles { groups, query, rows, out };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(avx2::Run { simd, tiles });
    }
    tiles.walk(portable);
}

struct Tiles<'a> {
    groups: &'a [&'a [Lane]],
    query: &'a [Lane],
    rows: usize,
    out: &'a mut [Accumulator],
}

impl Tiles<'_> {
    #[inline(always)]
    fn walk(self, dot: impl Fn(&[Lane], &[Lane]) -> (Lane, Lane)) {
        let Self { groups, query, rows, out } = self;
        for first in (0..LANES).step_by(LANES_PER_TILE) {
            for (group, out) in groups.iter().zip(out.iter_mut()) {
                for lane in first..first + LANES_PER_TILE {
                    let digits = &group[lane * rows..(lane + 1) * rows];
                    let query = &query[lane * rows * 2..(lane + 1) * rows * 2];
                    (out.mask[lane], out.body[lane]) = dot(digits, query);
                }
            }
        }
    }
}

/// One lane over all rows, in plain Rust.
fn portable(digits: &[Lane], query: &[Lane]) -> (Lane, Lane) {
    let (mut mask, mut body) = (Lane::default(), Lane::default());
    for (digit, [to_mask, to_body]) in digits.iter().zip(query.as_chunks::<2>().0) {
        for (sum, row) in [(&mut mask, to_mask), (&mut body, to_body)] {
            for i in 0..4 {
                sum.re[i] += digit.re[i] * row.re[i] - digit.im[i] * row.im[i];
                sum.im[i] += digit.re[i] * row.im[i] + digit.im[i] * row.re[i];
            }
        }
    }
    (mask, body)
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use pulp::x86::V3;
    use pulp::{cast, f64x4};

    use super::{Lane, Tiles};

    pub(super) struct Run<'a> {
        pub(super) simd: V3,
        pub(super) tiles: Tiles<'a>,
    }

    impl pulp::NullaryFnOnce for Run<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let simd = self.simd;
            self.tiles.walk(
                #[inline(always)]
                |digits, query| dot(simd, digits, query),
            );
        }
    }

    /// One lane over all rows. Eight independent sums hide the latency of the fused multiply-add.
    #[inline(always)]
    fn dot(simd: V3, digits: &[Lane], query: &[Lane]) -> (Lane, Lane) {
        let zero = simd.splat_f64x4(0.0);
        let (mut mask_rr, mut mask_ii, mut mask_ri, mut mask_ir) = (zero, zero, zero, zero);
        let (mut body_rr, mut body_ii, mut body_ri, mut body_ir) = (zero, zero, zero, zero);
        for (digit, [mask, body]) in digits.iter().zip(query.as_chunks::<2>().0) {
            let (re, im): (f64x4, f64x4) = (cast(digit.re), cast(digit.im));
            let (mask_re, mask_im): (f64x4, f64x4) = (cast(mask.re), cast(mask.im));
            let (body_re, body_im): (f64x4, f64x4) = (cast(body.re), cast(body.im));
            mask_rr = simd.mul_add_f64x4(re, mask_re, mask_rr);
            mask_ii = simd.mul_add_f64x4(im, mask_im, mask_ii);
            mask_ri = simd.mul_add_f64x4(re, mask_im, mask_ri);
            mask_ir = simd.mul_add_f64x4(im, mask_re, mask_ir);
            body_rr = simd.mul_add_f64x4(re, body_re, body_rr);
            body_ii = simd.mul_add_f64x4(im, body_im, body_ii);
            body_ri = simd.mul_add_f64x4(re, body_im, body_ri);
            body_ir = simd.mul_add_f64x4(im, body_re, body_ir);
        }
        let lane = |rr, ii, ri, ir| Lane { re: cast(simd.sub_f64x4(rr, ii)), im: cast(simd.add_f64x4(ri, ir)) };
        (lane(mask_rr, mask_ii, mask_ri, mask_ir), lane(body_rr, body_ii, body_ri, body_ir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u64) -> Vec<Lane> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / 2f64.powi(53) - 0.5
        };
        (0..count).map(|_| Lane { re: [0; 4].map(|_| next()), im: [0; 4].map(|_| next()) }).collect()
    }

    #[test]
    fn vector_and_portable_paths_agree() {
        for rows in [3, 14, 50] {
            let query = noise(rows * 2 * LANES, 1);
            let groups: Vec<_> = (2..5).map(|seed| noise(rows * LANES, seed)).collect();
            let groups: Vec<&[Lane]> = groups.iter().map(Vec::as_slice).collect();
            let (mut fast, mut slow) = (vec![Accumulator::ZERO; 3], vec![Accumulator::ZERO; 3]);
            accumulate(&groups, &query, rows, &mut fast);
            Tiles { groups: &groups, query: &query, rows, out: &mut slow }.walk(portable);
            for (fast, slow) in fast.iter().zip(&slow) {
                for (a, b) in fast.mask.iter().chain(&fast.body).zip(slow.mask.iter().chain(&slow.body)) {
                    assert_ne!(*b, Lane::default());
                    for (a, b) in a.re.iter().chain(&a.im).zip(b.re.iter().chain(&b.im)) {
                        assert!((a - b).abs() < 1e-13 * rows as f64, "{a} and {b}");
                    }
                }
            }
        }
    }
}
