//! The linear predictor on x86-64, four samples at a time.
//!
//! What the samples before the four contribute to each of them is summed up for all four at once, in the lanes of a
//! vector. What they contribute to one another comes last and in turn, and so does what the last two samples contribute
//! to the next: by way of memory and vectors they would be late.
//!
//! ```text
//!                      to sample  n   n+1   n+2   n+3
//! of sample n-3 and those before  v     v     v     v      v: in a vector
//!           n-2                  c1     v     v     v
//!           n-1                  c0    c1     v     v
//!           n                          c0    c1    c2
//!           n+1                              c0    c1
//!           n+2                                    c0
//! ```

use std::arch::x86_64::{__m128i, __m256i};

use pulp::x86::V3;

use super::predict::{Linear, Predictor};

/// The number that products are summed up in: i64, or i32 where it suffices, which is faster.
pub trait Sum: Copy {
    /// Of four.
    type Lanes: Copy;

    fn lanes(simd: V3, coefficients: [i32; 4]) -> Self::Lanes;
    /// `sums` + `past` × `coefficients`.
    fn add_products(simd: V3, sums: Self::Lanes, past: i32, coefficients: Self::Lanes) -> Self::Lanes;
    fn each(lanes: Self::Lanes) -> [Self; 4];
    fn add_product(self, a: i32, b: i32) -> Self;
    fn shifted(self, shift: u32) -> i32;
}

impl Sum for i32 {
    type Lanes = __m128i;

    #[inline(always)]
    fn lanes(simd: V3, [c0, c1, c2, c3]: [i32; 4]) -> __m128i {
        simd.sse2._mm_setr_epi32(c0, c1, c2, c3)
    }

    #[inline(always)]
    fn add_products(simd: V3, sums: __m128i, past: i32, coefficients: __m128i) -> __m128i {
        simd.sse2._mm_add_epi32(sums, simd.sse4_1._mm_mullo_epi32(simd.sse2._mm_set1_epi32(past), coefficients))
    }

    #[inline(always)]
    fn each(lanes: __m128i) -> [i32; 4] {
        pulp::cast(lanes)
    }

    #[inline(always)]
    fn add_product(self, a: i32, b: i32) -> i32 {
        self.wrapping_add(a.wrapping_mul(b))
    }

    #[inline(always)]
    fn shifted(self, shift: u32) -> i32 {
        self >> shift
    }
}

impl Sum for i64 {
    type Lanes = __m256i;

    #[inline(always)]
    fn lanes(simd: V3, coefficients: [i32; 4]) -> __m256i {
        let [c0, c1, c2, c3] = coefficients.map(i64::from);
        simd.avx._mm256_setr_epi64x(c0, c1, c2, c3)
    }

    #[inline(always)]
    fn add_products(simd: V3, sums: __m256i, past: i32, coefficients: __m256i) -> __m256i {
        // Of the lower halves.
        simd.avx2._mm256_add_epi64(sums, simd.avx2._mm256_mul_epi32(simd.avx._mm256_set1_epi32(past), coefficients))
    }

    #[inline(always)]
    fn each(lanes: __m256i) -> [i64; 4] {
        pulp::cast(lanes)
    }

    #[inline(always)]
    fn add_product(self, a: i32, b: i32) -> i64 {
        self + i64::from(a) * i64::from(b)
    }

    #[inline(always)]
    fn shifted(self, shift: u32) -> i32 {
        (self >> shift) as i32
    }
}

/// A [`Linear`] of order `ORDER` or less, for samples of 32 bits or less.
#[derive(Clone)]
pub struct Quad<S: Sum, const ORDER: usize> {
    simd: V3,
    /// `lanes[m]` is for sample n - 1 - m.
    lanes: [S::Lanes; ORDER],
    c: [i32; 3],
    shift: u32,
    /// Samples n - 1 and n - 2.
    last: i32,
    before: i32,
}

impl<S: Sum, const ORDER: usize> Quad<S, ORDER> {
    /// Goes on from `samples`.
    pub fn after(simd: V3, samples: &[i32], linear: &Linear) -> Quad<S, ORDER> {
        let c = |i: usize| linear.coefficients.get(i).copied().unwrap_or(0);
        let lanes = std::array::from_fn(|m| {
            let skipped = 2usize.saturating_sub(m);
            S::lanes(simd, std::array::from_fn(|j| if j < skipped { 0 } else { c(m + j) }))
        });
        let n = samples.len();
        Quad { simd, lanes, c: [c(0), c(1), c(2)], shift: linear.shift, last: samples[n - 1], before: samples[n - 2] }
    }
}

impl<S: Sum, const ORDER: usize> Predictor for Quad<S, ORDER> {
    #[inline(always)]
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]) {
        let reach = &mut samples[at - ORDER..at + N];
        let mut sums = S::lanes(self.simd, [0; 4]);
        for m in (0..ORDER).rev() {
            sums = S::add_products(self.simd, sums, reach[ORDER - 1 - m], self.lanes[m]);
        }
        let [c0, c1, c2] = self.c;
        let (mut s0, mut s1, mut s2) = (self.last, self.before, 0);
        for (n, (sum, residual)) in S::each(sums).into_iter().zip(residuals).enumerate() {
            let sum = if n == 3 { sum.add_product(c2, s2) } else { sum };
            let sum = sum.add_product(c1, s1).add_product(c0, s0);
            (s0, s1, s2) = (residual.wrapping_add(sum.shifted(self.shift)), s0, s1);
            reach[ORDER + n] = s0;
        }
        (self.last, self.before) = (s0, s1);
    }
}

#[test]
fn four_at_a_time_are_what_the_definition_gives() {
    use super::predict::{Clear, MAX_ORDER, Scalar};
    let Some(simd) = V3::try_new() else { return };
    let mut state = 1u64;
    let mut random = |bits: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state as i64 >> (64 - bits)) as i32
    };
    for round in 0..200 {
        let order = 1 + round % 12;
        let mut linear = Linear { coefficients: [0; MAX_ORDER], shift: 11 };
        linear.coefficients[..order].fill_with(|| random(9));
        let mut samples = [[0i32; MAX_ORDER + 100]; 4];
        samples[0][MAX_ORDER..].fill_with(|| random(16));
        samples = [samples[0]; 4];
        let first: Vec<i64> = samples[0][MAX_ORDER..][..order].iter().map(|&s| i64::from(s)).collect();
        fn all(samples: &mut [i32], order: usize, mut predictor: impl Predictor) {
            let mut at = MAX_ORDER + order;
            // All residuals lie where their samples will.
            while let Some(four) = samples[at..].first_chunk::<4>().copied() {
                predictor.extend(samples, at, four);
                at += 4;
            }
            while at < samples.len() {
                predictor.extend(samples, at, [samples[at]]);
                at += 1;
            }
        }
        let known = samples[0][..MAX_ORDER + order].to_vec();
        let [clear, scalar, narrow, wide] = &mut samples;
        all(clear, order, Clear::after(&first, &linear));
        all(scalar, order, Scalar::<12>::after(&known, &linear));
        all(narrow, order, Quad::<i32, 12>::after(simd, &known, &linear));
        all(wide, order, Quad::<i64, 12>::after(simd, &known, &linear));
        assert!(clear == scalar && clear == narrow && clear == wide, "order {order}");
    }
}
