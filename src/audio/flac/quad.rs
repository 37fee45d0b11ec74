//! The linear predictor for the usual case on x86-64: sums of 32 bits, four samples at a time.
//!
//! What the samples before the four contribute to each of them is summed up for all four at once, in the lanes of a
//! vector. What they contribute to one another comes last and in turn, and so does what the last two samples contribute
//! to the next few: by way of memory and vectors they would be late.
//!
//! ```text
//! sample            predictions for n   n+1   n+2   n+3
//! n-3 and before                    v     v     v     v      v: in a vector
//! n-2                              c1     v     v     v
//! n-1                              c0    c1     v     v
//! n                                      c0    c1    c2
//! n+1                                          c0    c1
//! n+2                                                c0
//! ```

use std::arch::x86_64::__m128i;

use pulp::x86::V3;

use super::predict::{Linear, Predictor};

/// A [`Linear`] of order `ORDER` or less, where sums of 32 bits suffice.
#[derive(Clone)]
pub struct Quad<const ORDER: usize> {
    simd: V3,
    /// `lanes[m]` is for sample n - 1 - m.
    lanes: [__m128i; ORDER],
    c: [i32; 3],
    shift: u32,
    /// Samples n - 1 and n - 2.
    last: i32,
    before: i32,
}

impl<const ORDER: usize> Quad<ORDER> {
    /// Goes on from `samples`.
    pub fn after(simd: V3, samples: &[i32], linear: &Linear) -> Quad<ORDER> {
        let c = |i: usize| linear.coefficients.get(i).copied().unwrap_or(0);
        let lanes = std::array::from_fn(|m| match m {
            0 => simd.sse2._mm_setr_epi32(0, 0, c(2), c(3)),
            1 => simd.sse2._mm_setr_epi32(0, c(2), c(3), c(4)),
            _ => simd.sse2._mm_setr_epi32(c(m), c(m + 1), c(m + 2), c(m + 3)),
        });
        let n = samples.len();
        Quad { simd, lanes, c: [c(0), c(1), c(2)], shift: linear.shift, last: samples[n - 1], before: samples[n - 2] }
    }
}

impl<const ORDER: usize> Predictor for Quad<ORDER> {
    #[inline(always)]
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]) {
        let simd = self.simd;
        let reach = &mut samples[at - ORDER..at + N];
        let mut sums = simd.sse2._mm_set1_epi32(0);
        for m in (0..ORDER).rev() {
            let past = simd.sse2._mm_set1_epi32(reach[ORDER - 1 - m]);
            sums = simd.sse2._mm_add_epi32(sums, simd.sse4_1._mm_mullo_epi32(past, self.lanes[m]));
        }
        let sums: [i32; 4] = pulp::cast(sums);
        let [c0, c1, c2] = self.c;
        let (mut s0, mut s1, mut s2) = (self.last, self.before, 0);
        for n in 0..N.min(4) {
            let mut sum = sums[n];
            if n == 3 {
                sum = sum.wrapping_add(c2.wrapping_mul(s2));
            }
            sum = sum.wrapping_add(c1.wrapping_mul(s1)).wrapping_add(c0.wrapping_mul(s0));
            (s0, s1, s2) = (residuals[n].wrapping_add(sum >> self.shift), s0, s1);
            reach[ORDER + n] = s0;
        }
        (self.last, self.before) = (s0, s1);
    }
}
