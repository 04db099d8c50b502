//! The inner loop: digits times query rows, accumulated in registers.
//!
//! A tile is read once, from front to back. Up to four groups (a *quad*) share each load of the query's row, and several queries
//! share each pass: their part of the query for one lane stays in the cache while the tile streams from memory. AVX-512 or AVX2
//! with FMA is chosen at run time; elsewhere (NEON among others) the compiler vectorises the portable form.

use crate::fft::{LANES, Lane};

/// Groups whose accumulators share the registers.
pub(crate) const GROUPS_PER_QUAD: usize = 4;

/// The result of one group for one query: mask and body spectra.
///
/// The spare lines keep the spectra of many groups out of one another's cache sets, since a lane of all of them is written at a
/// time.
#[derive(Clone)]
pub(crate) struct Accumulator {
    pub(crate) mask: [Lane; LANES],
    _after_mask: Lane,
    pub(crate) body: [Lane; LANES],
    _after_body: Lane,
}

impl Accumulator {
    pub(crate) const ZERO: Self = {
        const NONE: Lane = Lane { re: [0.0; 4], im: [0.0; 4] };
        Self { mask: [NONE; LANES], _after_mask: NONE, body: [NONE; LANES], _after_body: NONE }
    };
}

/// Mask and body of one group, one lane.
type Pair = (Lane, Lane);

/// Which instructions the kernel uses on this processor.
pub fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if pulp::x86::V4::try_new().is_some() {
            return "AVX-512";
        }
        if pulp::x86::V3::try_new().is_some() {
            return "AVX2 and FMA";
        }
    }
    if cfg!(target_arch = "aarch64") { "NEON" } else { "portable" }
}

/// Sets `out[q * groups + g]` to the sum over rows of `tile[lane][row][g] * query[lane][row]`. `tile` is laid out as
/// [`PreparedTile`](crate::PreparedTile) says, each query as `[lane][row][mask, body]`.
pub(crate) fn accumulate(tile: &[Lane], groups: usize, queries: &[&[Lane]], rows: usize, out: &mut [Accumulator]) {
    let tile = Tile { lanes: tile, groups, queries, rows, out };
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(avx512::Run { simd, tile });
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(avx2::Run { simd, tile });
        }
    }
    tile.walk(Portable);
}

/// Products of one lane over all rows: `digits` is `[row][group]`, W groups; `query` is `[row][mask, body]`.
trait Products: Copy {
    fn of<const W: usize>(self, digits: &[Lane], query: &[Lane]) -> [Pair; W];
}

struct Tile<'a> {
    lanes: &'a [Lane],
    groups: usize,
    queries: &'a [&'a [Lane]],
    rows: usize,
    out: &'a mut [Accumulator],
}

impl Tile<'_> {
    #[inline(always)]
    fn walk(self, products: impl Products) {
        let Self { lanes, groups, queries, rows, out } = self;
        for lane in 0..LANES {
            let digits = &lanes[lane * rows * groups..][..rows * groups];
            for (quad, digits) in digits.chunks(GROUPS_PER_QUAD * rows).enumerate() {
                for (number, query) in queries.iter().enumerate() {
                    let query = &query[lane * rows * 2..][..rows * 2];
                    let out = &mut out[number * groups + quad * GROUPS_PER_QUAD..];
                    match digits.len() / rows {
                        4 => put(products.of::<4>(digits, query), lane, out),
                        3 => put(products.of::<3>(digits, query), lane, out),
                        2 => put(products.of::<2>(digits, query), lane, out),
                        _ => put(products.of::<1>(digits, query), lane, out),
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn put<const W: usize>(pairs: [Pair; W], lane: usize, out: &mut [Accumulator]) {
    for (out, (mask, body)) in out.iter_mut().zip(pairs) {
        (out.mask[lane], out.body[lane]) = (mask, body);
    }
}

/// Plain Rust over arrays of four.
#[derive(Clone, Copy)]
struct Portable;

impl Products for Portable {
    #[inline(always)]
    fn of<const W: usize>(self, digits: &[Lane], query: &[Lane]) -> [Pair; W] {
        let mut sums = [(Lane::default(), Lane::default()); W];
        for (digits, [to_mask, to_body]) in digits.as_chunks::<W>().0.iter().zip(query.as_chunks::<2>().0) {
            for (digit, (mask, body)) in digits.iter().zip(&mut sums) {
                for (sum, row) in [(mask, to_mask), (body, to_body)] {
                    for i in 0..4 {
                        sum.re[i] = fused(digit.re[i], row.re[i], sum.re[i]);
                        sum.im[i] = fused(digit.re[i], row.im[i], sum.im[i]);
                    }
                    for i in 0..4 {
                        sum.re[i] = fused(-digit.im[i], row.im[i], sum.re[i]);
                        sum.im[i] = fused(digit.im[i], row.re[i], sum.im[i]);
                    }
                }
            }
        }
        sums
    }
}

/// `a b + c`, with one rounding where the processor always has that instruction (without it, it would be a slow call).
#[inline(always)]
fn fused(a: f64, b: f64, c: f64) -> f64 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use pulp::x86::V4;
    use pulp::{cast, f64x8};

    use super::{Lane, Pair, Products, Tile};

    pub(super) struct Run<'a> {
        pub(super) simd: V4,
        pub(super) tile: Tile<'a>,
    }

    impl pulp::NullaryFnOnce for Run<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.tile.walk(Avx512(self.simd));
        }
    }

    #[derive(Clone, Copy)]
    struct Avx512(V4);

    impl Products for Avx512 {
        /// A register holds a lane: four real parts, four imaginary ones. Sixteen sums for four groups.
        #[inline(always)]
        fn of<const W: usize>(self, digits: &[Lane], query: &[Lane]) -> [Pair; W] {
            let simd = self.0;
            let zero = simd.splat_f64x8(0.0);
            // Products of a digit with (re, im) and with (im, re) of the query, for mask and body.
            let mut sums = [[zero; 4]; W];
            let cross = |v: f64x8| cast(simd.avx512f._mm512_shuffle_f64x2::<0b01_00_11_10>(cast(v), cast(v)));
            for (digits, [mask, body]) in digits.as_chunks::<W>().0.iter().zip(query.as_chunks::<2>().0) {
                let (mask, body) = (load(mask), load(body));
                let (mask_crossed, body_crossed): (f64x8, f64x8) = (cross(mask), cross(body));
                for (digit, sums) in digits.iter().zip(&mut sums) {
                    let digit = load(digit);
                    sums[0] = simd.mul_add_f64x8(digit, mask, sums[0]);
                    sums[1] = simd.mul_add_f64x8(digit, mask_crossed, sums[1]);
                    sums[2] = simd.mul_add_f64x8(digit, body, sums[2]);
                    sums[3] = simd.mul_add_f64x8(digit, body_crossed, sums[3]);
                }
            }
            sums.map(|[mask, mask_crossed, body, body_crossed]| (lane(mask, mask_crossed), lane(body, body_crossed)))
        }
    }

    #[inline(always)]
    fn load(lane: &Lane) -> f64x8 {
        cast([lane.re, lane.im])
    }

    #[inline(always)]
    fn lane(straight: f64x8, crossed: f64x8) -> Lane {
        let ([rr, ii], [ri, ir]): ([[f64; 4]; 2], [[f64; 4]; 2]) = (cast(straight), cast(crossed));
        let mut lane = Lane::default();
        for i in 0..4 {
            lane.re[i] = rr[i] - ii[i];
            lane.im[i] = ri[i] + ir[i];
        }
        lane
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use pulp::x86::V3;
    use pulp::{cast, f64x4};

    use super::{Lane, Pair, Products, Tile};

    pub(super) struct Run<'a> {
        pub(super) simd: V3,
        pub(super) tile: Tile<'a>,
    }

    impl pulp::NullaryFnOnce for Run<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.tile.walk(Avx2(self.simd));
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(pub(super) V3);

    impl Products for Avx2 {
        /// Sixteen registers hold the sums of two groups, so that four groups take two turns, the second from the cache.
        #[inline(always)]
        fn of<const W: usize>(self, digits: &[Lane], query: &[Lane]) -> [Pair; W] {
            let mut out = [(Lane::default(), Lane::default()); W];
            for first in (0..W).step_by(2) {
                if first + 1 < W {
                    let pairs: [Pair; 2] = self.turn::<W, 2>(first, digits, query);
                    (out[first], out[first + 1]) = (pairs[0], pairs[1]);
                } else {
                    [out[first]] = self.turn::<W, 1>(first, digits, query);
                }
            }
            out
        }
    }

    impl Avx2 {
        /// Groups `first..first + G` of the W in `digits`.
        #[inline(always)]
        fn turn<const W: usize, const G: usize>(self, first: usize, digits: &[Lane], query: &[Lane]) -> [Pair; G] {
            let simd = self.0;
            let mut sums = [[simd.splat_f64x4(0.0); 4]; G];
            for (digits, [mask, body]) in digits.as_chunks::<W>().0.iter().zip(query.as_chunks::<2>().0) {
                let (mask_re, mask_im): (f64x4, f64x4) = (cast(mask.re), cast(mask.im));
                let (body_re, body_im): (f64x4, f64x4) = (cast(body.re), cast(body.im));
                for (digit, sums) in digits[first..first + G].iter().zip(&mut sums) {
                    let (re, im): (f64x4, f64x4) = (cast(digit.re), cast(digit.im));
                    sums[0] = simd.mul_add_f64x4(re, mask_re, sums[0]);
                    sums[1] = simd.mul_add_f64x4(re, mask_im, sums[1]);
                    sums[2] = simd.mul_add_f64x4(re, body_re, sums[2]);
                    sums[3] = simd.mul_add_f64x4(re, body_im, sums[3]);
                    sums[0] = simd.negate_mul_add_f64x4(im, mask_im, sums[0]);
                    sums[1] = simd.mul_add_f64x4(im, mask_re, sums[1]);
                    sums[2] = simd.negate_mul_add_f64x4(im, body_im, sums[2]);
                    sums[3] = simd.mul_add_f64x4(im, body_re, sums[3]);
                }
            }
            sums.map(|[mask_re, mask_im, body_re, body_im]| {
                let lane = |re: f64x4, im: f64x4| Lane { re: cast(re), im: cast(im) };
                (lane(mask_re, mask_im), lane(body_re, body_im))
            })
        }
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

    /// One group and one query at a time, by the definition of the layout.
    fn slow(tile: &[Lane], groups: usize, queries: &[&[Lane]], rows: usize) -> Vec<Accumulator> {
        let mut out = vec![Accumulator::ZERO; groups * queries.len()];
        for (number, query) in queries.iter().enumerate() {
            for group in 0..groups {
                let (quad, place) = (group / 4, group % 4);
                let width = (groups - quad * 4).min(4);
                for lane in 0..LANES {
                    for row in 0..rows {
                        let digit = tile[lane * rows * groups + quad * 4 * rows + row * width + place];
                        let sums = &mut out[number * groups + group];
                        for (sum, column) in [(&mut sums.mask, 0), (&mut sums.body, 1)] {
                            let row = query[(lane * rows + row) * 2 + column];
                            for i in 0..4 {
                                sum[lane].re[i] += digit.re[i] * row.re[i] - digit.im[i] * row.im[i];
                                sum[lane].im[i] += digit.re[i] * row.im[i] + digit.im[i] * row.re[i];
                            }
                        }
                    }
                }
            }
        }
        out
    }

    #[track_caller]
    fn assert_close(fast: &[Accumulator], slow: &[Accumulator], what: &str) {
        assert_eq!(fast.len(), slow.len());
        for (fast, slow) in fast.iter().zip(slow) {
            for (a, b) in fast.mask.iter().chain(&fast.body).zip(slow.mask.iter().chain(&slow.body)) {
                assert_ne!(*b, Lane::default());
                for (a, b) in a.re.iter().chain(&a.im).zip(b.re.iter().chain(&b.im)) {
                    assert!((a - b).abs() < 1e-11, "{what}: {a} and {b}");
                }
            }
        }
    }

    /// Every path that this processor has, at every width of a tile, for one query and for several.
    #[test]
    fn vector_and_portable_paths_agree() {
        for (groups, rows, count) in [(1, 3, 1), (2, 14, 3), (3, 50, 1), (4, 50, 2), (5, 14, 4), (7, 5, 1), (8, 50, 4)]
        {
            let queries: Vec<_> = (0..count).map(|seed| noise(rows * 2 * LANES, 100 + seed)).collect();
            let queries: Vec<&[Lane]> = queries.iter().map(Vec::as_slice).collect();
            let lanes = noise(rows * groups * LANES, 2);
            let expected = slow(&lanes, groups, &queries, rows);
            let mut out = vec![Accumulator::ZERO; groups * queries.len()];
            accumulate(&lanes, groups, &queries, rows, &mut out);
            assert_close(&out, &expected, instructions());
            out.fill(Accumulator::ZERO);
            Tile { lanes: &lanes, groups, queries: &queries, rows, out: &mut out }.walk(Portable);
            assert_close(&out, &expected, "portable");
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                out.fill(Accumulator::ZERO);
                let tile = Tile { lanes: &lanes, groups, queries: &queries, rows, out: &mut out };
                simd.vectorize(avx2::Run { simd, tile });
                assert_close(&out, &expected, "AVX2");
            }
        }
    }
}
