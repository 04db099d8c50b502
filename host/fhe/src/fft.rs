//! Negacyclic products through the f64 FFT of `tfhe-fft`: the only module that knows that crate.
//!
//! `x` in `R[X]/(X^N + 1)` folds into N/2 complex numbers `z_k = (x_k + i x_{k+N/2}) exp(i pi k / N)`; a cyclic FFT of
//! length N/2 then turns the negacyclic product into a pointwise one. With the whole length as its base a plan of `tfhe-fft`
//! gives frequencies in their natural order, which leaving out coefficients relies on; it never leaves the process.

use std::sync::OnceLock;

use tfhe::core_crypto::commons::computation_buffers::ComputationBuffers;
use tfhe_fft::c64;
use tfhe_fft::ordered::FftAlgo;
use tfhe_fft::unordered::{Method, Plan};
use zeroize::Zeroize;

use crate::{BLOCKS, RING_DEGREE};

const HALF: usize = RING_DEGREE / 2;
/// [`Lane`]s of one spectrum.
pub const LANES: usize = HALF / 4;

/// Four complex frequencies, real parts first: one cache line.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
#[repr(C, align(64))]
pub struct Lane {
    /// Real parts.
    pub re: [f64; 4],
    /// Imaginary parts.
    pub im: [f64; 4],
}

impl Zeroize for Lane {
    fn zeroize(&mut self) {
        self.re.zeroize();
        self.im.zeroize();
    }
}

/// One worker's scratch memory for transforms. Wiped on drop, since the owner transforms secrets.
pub struct Fft {
    values: Vec<c64>,
    scratch: ComputationBuffers,
    scratch_bytes: usize,
}

impl Fft {
    /// Scratch memory for one thread; the plan itself is shared.
    pub fn new() -> Self {
        let scratch_bytes = tables().plan.fft_scratch().unaligned_bytes_required();
        let mut scratch = ComputationBuffers::new();
        scratch.resize(scratch_bytes);
        Self { values: vec![c64::new(0.0, 0.0); HALF], scratch, scratch_bytes }
    }

    /// The spectrum of the polynomial with coefficients `value(coefficients[k])`, N of them.
    ///
    /// Lane `l` goes to `out[l * stride]`. `out` must hold `(LANES - 1) * stride + 1` lanes.
    #[inline]
    pub fn forward<T: Copy>(&mut self, coefficients: &[T], value: impl Fn(T) -> f64, out: &mut [Lane], stride: usize) {
        let Tables { plan, twist, .. } = tables();
        let (low, high) = coefficients.split_at(HALF);
        vectorize(
            #[inline(always)]
            || {
                for (((z, re), im), twist) in self.values.iter_mut().zip(low).zip(high).zip(twist) {
                    *z = c64::new(value(*re), value(*im)) * twist;
                }
            },
        );
        plan.fwd(&mut self.values, self.scratch.stack());
        for (values, lane) in self.values.as_chunks::<4>().0.iter().zip(out.iter_mut().step_by(stride)) {
            *lane = Lane { re: values.map(|value| value.re), im: values.map(|value| value.im) };
        }
    }

    /// The polynomial of a spectrum of [`LANES`] lanes: `each` is called with every element of `out` (N of them) and the
    /// coefficient that belongs there.
    #[inline]
    pub fn inverse<T>(&mut self, spectrum: &[Lane], out: &mut [T], each: impl Fn(&mut T, f64)) {
        let Tables { plan, twist, .. } = tables();
        for (values, lane) in self.values.as_chunks_mut::<4>().0.iter_mut().zip(spectrum) {
            for ((value, re), im) in values.iter_mut().zip(lane.re).zip(lane.im) {
                *value = c64::new(re, im);
            }
        }
        plan.inv(&mut self.values, self.scratch.stack());
        let (low, high) = out.split_at_mut(HALF);
        vectorize(
            #[inline(always)]
            || {
                for (((z, re), im), twist) in self.values.iter().zip(low).zip(high).zip(twist) {
                    let z = z * twist.conj() * (1.0 / HALF as f64);
                    each(re, z.re);
                    each(im, z.im);
                }
            },
        );
    }

    /// Of the polynomial of a spectrum only the coefficients `block - 1`, `2 block - 1` and so on: `each` is called with every element
    /// of `out` (N / `block` of them) and its coefficient. `block` is one of [`BLOCKS`](crate::BLOCKS).
    ///
    /// Leaving out coefficients folds frequencies: a transform of N / (2 `block`) points instead of N / 2, and one product for each
    /// frequency.
    #[inline]
    pub fn inverse_every<T>(&mut self, block: usize, spectrum: &[Lane], out: &mut [T], each: impl Fn(&mut T, f64)) {
        let Tables { twist, folds, .. } = tables();
        let Some(Fold { plan, turn, .. }) = folds.iter().find(|fold| fold.block == block) else { return };
        let points = HALF / block;
        let mut folded = [Lane::default(); LANES / SMALLEST_BLOCK];
        let folded = &mut folded[..points / 4];
        for (spectrum, turn) in spectrum.chunks_exact(points / 4).zip(turn.chunks_exact(points / 4)) {
            multiply_add(folded, spectrum, turn);
        }
        let values = &mut self.values[..points];
        for (values, lane) in values.as_chunks_mut::<4>().0.iter_mut().zip(folded) {
            for ((value, re), im) in values.iter_mut().zip(lane.re).zip(lane.im) {
                *value = c64::new(re, im);
            }
        }
        plan.inv(values, self.scratch.stack());
        let (low, high) = out.split_at_mut(points);
        let twist = twist.iter().skip(block - 1).step_by(block);
        for (((z, re), im), twist) in values.iter().zip(low).zip(high).zip(twist) {
            let z = z * twist.conj() * (1.0 / HALF as f64);
            each(re, z.re);
            each(im, z.im);
        }
    }
}

impl Default for Fft {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Fft {
    fn drop(&mut self) {
        for value in &mut self.values {
            value.re.zeroize();
            value.im.zeroize();
        }
        self.scratch.stack().make_raw::<u8>(self.scratch_bytes).0.zeroize();
    }
}

/// Room for `rows` spectra.
pub fn lanes(rows: usize) -> Vec<Lane> {
    vec![Lane::default(); rows * LANES]
}

/// `out += a * b`, frequency by frequency.
pub fn multiply_add(out: &mut [Lane], a: &[Lane], b: &[Lane]) {
    vectorize(
        #[inline(always)]
        || {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                for i in 0..4 {
                    out.re[i] += a.re[i] * b.re[i] - a.im[i] * b.im[i];
                    out.im[i] += a.re[i] * b.im[i] + a.im[i] * b.re[i];
                }
            }
        },
    );
}

/// A polynomial with 64-bit coefficients, ready for exact products with small ones.
///
/// Kept as two signed 32-bit halves, so that every coefficient of a product stays below 2^48 and f64 rounds it exactly.
pub struct ExactFactor {
    low: Vec<Lane>,
    high: Vec<Lane>,
}

impl ExactFactor {
    /// Transforms both halves of `coefficients` (N of them).
    pub fn new(fft: &mut Fft, coefficients: &[u64]) -> Self {
        let (mut low, mut high) = (lanes(1), lanes(1));
        fft.forward(coefficients, |x| f64::from(x as i32), &mut low, 1);
        // The low half is signed, so the high half takes its borrow: x = low + 2^32 high modulo 2^64.
        let rest = |x: u64| (x.wrapping_sub(x as i32 as i64 as u64) >> 32) as i32;
        fft.forward(coefficients, |x| f64::from(rest(x)), &mut high, 1);
        Self { low, high }
    }

    /// The product modulo 2^64 with a polynomial given as a spectrum, exact when the sum of the absolute values of its
    /// coefficients is at most 2^15 (a binary secret has at most 2^11).
    pub fn multiply(&self, fft: &mut Fft, small: &[Lane], product: &mut [u64]) {
        let mut spectrum = [Lane::default(); LANES];
        multiply_add(&mut spectrum, &self.low, small);
        fft.inverse(&spectrum, product, |out, value| *out = round_small(value) as u64);
        spectrum.fill(Lane::default());
        multiply_add(&mut spectrum, &self.high, small);
        fft.inverse(&spectrum, product, |out, value| {
            *out = out.wrapping_add((round_small(value) as u64) << 32);
        });
        spectrum.zeroize();
    }
}

/// 1.5 * 2^52: adding it to a number below 2^51 leaves the nearest integer in the low bits of the mantissa.
const SHIFT: f64 = 6_755_399_441_055_744.0;

/// The integer nearest to `value`, for |value| < 2^51.
#[inline(always)]
pub fn round_small(value: f64) -> i64 {
    ((value + SHIFT).to_bits() as i64).wrapping_sub(SHIFT.to_bits() as i64)
}

/// `value` modulo one, in -1/2..=1/2, for |value| < 2^51.
#[inline(always)]
pub fn fraction(value: f64) -> f64 {
    value - ((value + SHIFT) - SHIFT)
}

/// A 64-bit torus element as a number in -1/2..1/2.
#[inline(always)]
pub fn from_torus(value: u64) -> f64 {
    value as i64 as f64 * (1.0 / 18_446_744_073_709_551_616.0)
}

/// Runs `op` compiled for AVX2 where the processor has it. No fused multiply-add is introduced: same results.
#[inline(always)]
fn vectorize(op: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(op);
    }
    op();
}

struct Tables {
    plan: Plan,
    twist: Vec<c64>,
    folds: Vec<Fold>,
}

/// The least of [`BLOCKS`], which leaves the most coefficients.
const SMALLEST_BLOCK: usize = BLOCKS[0];

/// What it takes to compute every `block`-th coefficient alone.
struct Fold {
    block: usize,
    plan: Plan,
    /// `exp(2 i pi f (block - 1) / (N / 2))` for each frequency f: moves coefficient `block - 1` to the front.
    turn: Vec<Lane>,
}

impl Fold {
    fn new(block: usize) -> Self {
        let points = HALF / block;
        let angle = |f: usize| 2.0 * std::f64::consts::PI * (f * (block - 1) % HALF) as f64 / HALF as f64;
        let lane = |lane: usize| {
            let angles: [f64; 4] = std::array::from_fn(|i| angle(4 * lane + i));
            Lane { re: angles.map(f64::cos), im: angles.map(f64::sin) }
        };
        Self {
            block,
            plan: Plan::new(points, Method::UserProvided { base_algo: FftAlgo::Dif4, base_n: points }),
            turn: (0..LANES).map(lane).collect(),
        }
    }
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        // Fixed rather than measured: the same arithmetic in every run.
        plan: Plan::new(HALF, Method::UserProvided { base_algo: FftAlgo::Dif4, base_n: HALF }),
        twist: (0..HALF)
            .map(|k| {
                let (sin, cos) = (std::f64::consts::PI * k as f64 / RING_DEGREE as f64).sin_cos();
                c64::new(cos, sin)
            })
            .collect(),
        folds: BLOCKS.map(Fold::new).into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::stream::{Domain, mask};

    fn schoolbook(a: &[u64], b: &[i64]) -> Vec<u64> {
        let mut out = vec![0_u64; RING_DEGREE];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate().filter(|(_, y)| **y != 0) {
                let term = x.wrapping_mul(*y as u64);
                let k = (i + j) % RING_DEGREE;
                out[k] = if i + j < RING_DEGREE { out[k].wrapping_add(term) } else { out[k].wrapping_sub(term) };
            }
        }
        out
    }

    #[test]
    fn known_answer_x_to_the_n_is_minus_one() {
        let mut fft = Fft::new();
        let (mut a, mut b) = (lanes(1), lanes(1));
        let (mut last, mut first) = ([0.0; RING_DEGREE], [0.0; RING_DEGREE]);
        (last[RING_DEGREE - 1], first[1]) = (1.0, 3.0);
        fft.forward(&last, |x| x, &mut a, 1);
        fft.forward(&first, |x| x, &mut b, 1);
        let mut spectrum = lanes(1);
        multiply_add(&mut spectrum, &a, &b);
        let mut product = [0.0; RING_DEGREE];
        fft.inverse(&spectrum, &mut product, |out, value| *out = value);
        assert!((product[0] + 3.0).abs() < 1e-12);
        assert!(product[1..].iter().all(|value| value.abs() < 1e-12));
    }

    #[test]
    fn every_blockth_coefficient_is_that_of_the_whole_inverse() {
        let mut fft = Fft::new();
        let values: Vec<f64> = mask(&[9; 32], Domain::QueryMask, 0).unwrap().into_iter().map(from_torus).collect();
        let mut spectrum = lanes(1);
        fft.forward(&values, |x| x, &mut spectrum, 1);
        for block in BLOCKS {
            let mut some = vec![0.0; RING_DEGREE / block];
            fft.inverse_every(block, &spectrum, &mut some, |out, value| *out = value);
            for (value, whole) in some.iter().zip(values.iter().skip(block - 1).step_by(block)) {
                assert!((value - whole).abs() < 1e-14, "{block}: {value} and {whole}");
            }
        }
    }

    #[test]
    fn exact_product_equals_schoolbook() {
        let mut fft = Fft::new();
        let random = mask(&[3; 32], Domain::Secrets, 0).unwrap();
        for (name, secret) in [
            ("random binary", random.iter().map(|x| (x & 1) as i64).collect()),
            ("all ones", vec![1; RING_DEGREE]),
            ("signed digits", (0..RING_DEGREE as i64).map(|k| k % 15 - 7).collect::<Vec<i64>>()),
        ] {
            for factor in [mask(&[1; 32], Domain::GroupMask, 0).unwrap(), vec![u64::MAX / 2 + 1; RING_DEGREE]] {
                let mut small = lanes(1);
                fft.forward(&secret, |x| x as f64, &mut small, 1);
                let mut product = vec![0; RING_DEGREE];
                ExactFactor::new(&mut fft, &factor).multiply(&mut fft, &small, &mut product);
                assert_eq!(product, schoolbook(&factor, &secret), "{name}");
            }
        }
    }

    #[test]
    fn digit_times_torus_is_within_the_published_error() {
        // 25-bit digits times 64-bit torus values: the error stays near 2^39.7 of 2^64 (relative 2^-51.2).
        let mut fft = Fft::new();
        let torus = mask(&[5; 32], Domain::QueryMask, 0).unwrap();
        let random = mask(&[6; 32], Domain::QueryMask, 0).unwrap();
        let digits: Vec<i64> = random.iter().map(|x| ((*x as i64) << 39) >> 39).collect();
        let (mut a, mut b, mut c) = (lanes(1), lanes(1), lanes(1));
        fft.forward(&digits, |x| x as f64, &mut a, 1);
        fft.forward(&torus, from_torus, &mut b, 1);
        multiply_add(&mut c, &a, &b);
        let mut product = [0.0; RING_DEGREE];
        fft.inverse(&c, &mut product, |out, value| *out = value);
        let squares: f64 = product
            .iter()
            .zip(schoolbook(&torus, &digits))
            .map(|(value, exact)| {
                let error = fraction(*value) - from_torus(exact);
                (error - error.round()).powi(2)
            })
            .sum();
        let rms = (squares / RING_DEGREE as f64).sqrt().log2() + 64.0;
        assert!((30.0..41.0).contains(&rms), "error is 2^{rms}");
    }

    #[test]
    fn rounding_helpers_agree_with_the_slow_ones() {
        for value in [0.0, 0.49, -0.51, 1e9 + 0.25, -2f64.powi(47) + 0.4] {
            assert_eq!(round_small(value), value.round() as i64, "{value}");
        }
        assert_eq!(fraction(3.25), 0.25);
        assert_eq!(fraction(-7.75), 0.25);
        assert_eq!(from_torus(1 << 62), 0.25);
        assert_eq!(from_torus(3 << 62), -0.25);
    }
}
