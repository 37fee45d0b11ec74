//! The mean of the channels of a frame, from what its subframes hold.

use pulp::{Arch, Simd, WithSimd};

use super::header::Channels;

/// Writes the mean to `mono`; full scale is 1. `a` and `b` are the subframes of one or two channels modulo 2^32, `sum`
/// is the sum of more than two. All have the length of the block.
pub fn mix(channels: Channels, bits_per_sample: u32, a: &[i32], b: &[i32], sum: &[i64], mono: &mut [f32]) {
    Arch::new().dispatch(Mix { channels, bits_per_sample, a, b, sum, mono });
}

/// Up to this many bits per sample, the sum of two samples and its half are at home in 32 bits.
const NARROW: u32 = 30;

struct Mix<'a> {
    channels: Channels,
    bits_per_sample: u32,
    a: &'a [i32],
    b: &'a [i32],
    sum: &'a [i64],
    mono: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.channels {
            Channels::Independent(1) => {
                let scale = self.scale();
                self.mono.iter_mut().zip(self.a).for_each(|(mono, &only)| *mono = only as f32 * scale);
            }
            // Here alone the scale is no power of two, and rounds.
            Channels::Independent(n @ 3..) => {
                let full = f64::from(n) / f64::from(self.scale());
                self.mono.iter_mut().zip(self.sum).for_each(|(mono, &sum)| *mono = (sum as f64 / full) as f32);
            }
            Channels::Independent(_) => self.two(|l, r| l.wrapping_add(r), |l, r| i64::from(l) + i64::from(r)),
            Channels::LeftSide => self.two(
                |left, side| (left << 1).wrapping_sub(side),
                |left, side| i64::from(left) + i64::from(left.wrapping_sub(side)),
            ),
            Channels::SideRight => self.two(
                |side, right| (right << 1).wrapping_add(side),
                |side, right| i64::from(right) + i64::from(right.wrapping_add(side)),
            ),
            Channels::MidSide => {
                self.two(|mid, side| (mid << 1) | (side & 1), |mid, side| (i64::from(mid) << 1) | i64::from(side & 1))
            }
        }
    }
}

impl Mix<'_> {
    /// Of a sample.
    fn scale(&self) -> f32 {
        1.0 / (1u64 << (self.bits_per_sample - 1)) as f32
    }

    /// From the sum of two, in 32 bits or exact.
    #[inline(always)]
    fn two(self, narrow: impl Fn(i32, i32) -> i32, exact: impl Fn(i32, i32) -> i64) {
        let scale = 0.5 * self.scale();
        let pairs = self.mono.iter_mut().zip(self.a.iter().zip(self.b));
        if self.bits_per_sample <= NARROW {
            pairs.for_each(|(mono, (&a, &b))| *mono = narrow(a, b) as f32 * scale);
        } else {
            pairs.for_each(|(mono, (&a, &b))| *mono = exact(a, b) as f32 * scale);
        }
    }
}

#[test]
fn all_ways_to_store_a_pair_have_the_same_mean() {
    for bits in [4, 16, 24, 30, 31, 32] {
        let full = 1i64 << (bits - 1);
        let ends = [-full, -full + 1, -1, 0, 1, full / 3, full - 2, full - 1];
        for (&left, right) in ends.iter().flat_map(|l| ends.map(|r| (l, r))) {
            let mean = (left + right) as f32 / (2 * full) as f32;
            let side = left - right;
            for (channels, a, b) in [
                (Channels::Independent(2), left, right),
                (Channels::LeftSide, left, side),
                (Channels::SideRight, side, right),
                (Channels::MidSide, (left + right) >> 1, side),
            ] {
                let mut mono = [f32::NAN];
                mix(channels, bits, &[a as i32], &[b as i32], &[], &mut mono);
                assert_eq!(mono, [mean], "{left}, {right} as {channels:?} of {bits} bits");
            }
        }
    }
}
