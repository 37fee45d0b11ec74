//! The synthesis filter bank: 32 subbands to samples, or the lower 16 to every other sample (ISO 11172-3, 2.4.3.2.2
//! and annex 3-B.3).
//!
//! With `s` the subband samples of a slot, `v` a vector of 64 for each slot and `D` the window of 512:
//!
//! ```text
//! v[t][i] = Σ cos((16 + i)(2k + 1)π/64) · s[t][k]                         i = 0..64, k = 0..32
//! x[t][j] = Σ D[64·m + j]·v[t − 2m][j] + D[64·m + 32 + j]·v[t − 2m − 1][32 + j]      j = 0..32, m = 0..8
//! ```
//!
//! Every other sample needs only every other `i` and `j`, and without the upper 16 subbands only half of the `k`: a
//! quarter of the products. They are plain matrix products, nine slots at a time.

use std::f64::consts::PI;

use pulp::Simd;

use super::hybrid::{SLOTS, Subbands};

/// Slots that a sample depends on besides its own.
const HISTORY: usize = 15;

/// `65536·D[i]` for `i` up to 256 (ISO 11172-3, table B.3) with the sign of every other 64 turned, which makes it the
/// prototype low-pass: symmetric around 256.
#[rustfmt::skip]
const PROTOTYPE: [i32; 257] = [
    0, -1, -1, -1, -1, -1, -1, -2, -2, -2, -2, -3, -3, -4, -4, -5, -5, -6, -7, -7, -8, -9, -10, -11, -13, -14, -16,
    -17, -19, -21, -24, -26, -29, -31, -35, -38, -41, -45, -49, -53, -58, -63, -68, -73, -79, -85, -91, -97, -104,
    -111, -117, -125, -132, -139, -147, -154, -161, -169, -176, -183, -190, -196, -202, -208, -213, -218, -222, -225,
    -227, -228, -228, -227, -224, -221, -215, -208, -200, -189, -177, -163, -146, -127, -106, -83, -57, -29, 2, 36,
    72, 111, 153, 197, 244, 294, 347, 401, 459, 519, 581, 645, 711, 779, 848, 919, 991, 1064, 1137, 1210, 1283, 1356,
    1428, 1498, 1567, 1634, 1698, 1759, 1817, 1870, 1919, 1962, 2001, 2032, 2057, 2075, 2085, 2087, 2080, 2063, 2037,
    2000, 1952, 1893, 1822, 1739, 1644, 1535, 1414, 1280, 1131, 970, 794, 605, 402, 185, -45, -288, -545, -814, -1095,
    -1388, -1692, -2006, -2330, -2663, -3004, -3351, -3705, -4063, -4425, -4788, -5153, -5517, -5879, -6237, -6589,
    -6935, -7271, -7597, -7910, -8209, -8491, -8755, -8998, -9219, -9416, -9585, -9727, -9838, -9916, -9959, -9966,
    -9935, -9863, -9750, -9592, -9389, -9139, -8840, -8492, -8092, -7640, -7134, -6574, -5959, -5288, -4561, -3776,
    -2935, -2037, -1082, -70, 998, 2122, 3300, 4533, 5818, 7154, 8540, 9975, 11455, 12980, 14548, 16155, 17799, 19478,
    21189, 22929, 24694, 26482, 28289, 30112, 31947, 33791, 35640, 37489, 39336, 41176, 43006, 44821, 46617, 48390,
    50137, 51853, 53534, 55178, 56778, 58333, 59838, 61289, 62684, 64019, 65290, 66494, 67629, 68692, 69679, 70590,
    71420, 72169, 72835, 73415, 73908, 74313, 74630, 74856, 74992, 75038,
];

/// The filter bank for `B` subbands, 32 or 16; `V` is `2·B`.
pub struct Polyphase<const B: usize, const V: usize> {
    /// For even and odd slots, in which odd subbands are upside down (2.4.3.4.10.4): `[parity][k][i]`.
    matrix: [[[f32; V]; B]; 2],
    /// `D`, `[2m + half][j]`.
    window: [[f32; B]; 16],
    /// `v` of the slots of a granule, behind those of the slots before it.
    v: [[f32; V]; HISTORY + SLOTS],
}

impl<const B: usize, const V: usize> Polyphase<B, V> {
    /// Gives samples `phase`, `phase + 32/B`, … of the whole sequence.
    pub fn new(phase: usize) -> Self {
        let step = 32 / B;
        let d = |i: usize| {
            let value = PROTOTYPE[i.min(512 - i)];
            f64::from(if i / 64 % 2 == 1 { -value } else { value }) / 65536.0
        };
        let matrix = std::array::from_fn(|parity| {
            std::array::from_fn(|k| {
                let sign = if parity == 1 && k % 2 == 1 { -1.0 } else { 1.0 };
                std::array::from_fn(|i| {
                    let i = phase + step * i;
                    (sign * (((16 + i) * (2 * k + 1)) as f64 * PI / 64.0).cos()) as f32
                })
            })
        });
        let window = std::array::from_fn(|half| std::array::from_fn(|j| d(32 * half + phase + step * j) as f32));
        Polyphase { matrix, window, v: [[0.0; V]; HISTORY + SLOTS] }
    }

    /// One granule: `18·B` samples.
    #[inline(always)]
    pub fn process<S: Simd>(&mut self, simd: S, subbands: &Subbands<B>, out: &mut [f32]) {
        self.v.copy_within(SLOTS.., 0);
        for (parity, matrix) in self.matrix.iter().enumerate() {
            for n in 0..V / S::F32_LANES {
                let mut sums = [simd.splat_f32s(0.0); SLOTS / 2];
                for (k, row) in matrix.iter().enumerate() {
                    let row = S::as_simd_f32s(row).0[n];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul_add_e_f32s(row, simd.splat_f32s(subbands[2 * i + parity][k]), *sum);
                    }
                }
                for (i, &sum) in sums.iter().enumerate() {
                    S::as_mut_simd_f32s(&mut self.v[HISTORY + 2 * i + parity]).0[n] = sum;
                }
            }
        }
        let (out, _) = out.as_chunks_mut::<B>();
        for (nine, out) in out.chunks_exact_mut(SLOTS / 2).enumerate() {
            for n in 0..B / S::F32_LANES {
                let mut sums = [simd.splat_f32s(0.0); SLOTS / 2];
                for (half, window) in self.window.iter().enumerate() {
                    let window = S::as_simd_f32s(window).0[n];
                    let first = HISTORY + SLOTS / 2 * nine - half;
                    let at = n + half % 2 * (B / S::F32_LANES);
                    for (sum, v) in sums.iter_mut().zip(&self.v[first..first + SLOTS / 2]) {
                        *sum = simd.mul_add_e_f32s(window, S::as_simd_f32s(v).0[at], *sum);
                    }
                }
                for (out, &sum) in out.iter_mut().zip(&sums) {
                    S::as_mut_simd_f32s(out).0[n] = sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state as f32 / 2f32.powi(31) - 1.0
        }
    }

    /// The flow chart of ISO 11172-3, figure A.2, step by step, for slots of 32 subbands.
    fn by_the_book(slots: &[[f64; 32]]) -> Vec<f64> {
        let d = |i: usize| {
            let sign = if i / 64 % 2 == 1 { -1.0 } else { 1.0 };
            sign * f64::from(PROTOTYPE[i.min(512 - i)]) / 65536.0
        };
        let mut v = vec![0.0; 1024];
        let mut samples = Vec::new();
        for slot in slots {
            v.rotate_right(64);
            for (i, v) in v[..64].iter_mut().enumerate() {
                let n = |k: usize| ((16 + i) * (2 * k + 1)) as f64 * PI / 64.0;
                *v = slot.iter().enumerate().map(|(k, s)| n(k).cos() * s).sum();
            }
            let mut u = vec![0.0; 512];
            for i in 0..8 {
                for j in 0..32 {
                    u[64 * i + j] = v[128 * i + j];
                    u[64 * i + 32 + j] = v[128 * i + 96 + j];
                }
            }
            samples.extend((0..32).map(|j| (0..16).map(|i| u[j + 32 * i] * d(j + 32 * i)).sum::<f64>()));
        }
        samples
    }

    struct Run<'a, const B: usize, const V: usize>(&'a mut Polyphase<B, V>, &'a [Subbands<B>], &'a mut Vec<f32>);

    impl<const B: usize, const V: usize> pulp::WithSimd for Run<'_, B, V> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            for subbands in self.1 {
                let mut out = vec![0.0; B * SLOTS];
                self.0.process(simd, subbands, &mut out);
                self.2.extend(out);
            }
        }
    }

    /// With the widest vectors of this machine, and without any.
    fn run<const B: usize, const V: usize>(phase: usize, granules: &[Subbands<B>]) -> Vec<f32> {
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        pulp::Arch::new().dispatch(Run(&mut Polyphase::<B, V>::new(phase), granules, &mut out));
        pulp::WithSimd::with_simd(Run(&mut Polyphase::<B, V>::new(phase), granules, &mut plain), pulp::Scalar);
        assert!(out.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5));
        out
    }

    #[test]
    fn the_bank_is_that_of_the_standard_and_its_half_every_other_sample() {
        let mut noise = noise(1);
        // Silence in the upper 16 subbands.
        let half: Vec<Subbands<16>> =
            (0..4).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| noise()))).collect();
        let full: Vec<Subbands<32>> = half
            .iter()
            .map(|granule| granule.map(|slot| std::array::from_fn(|k| slot.get(k).copied().unwrap_or(0.0))))
            .collect();
        // The frequency inversion is part of our matrix, not of the flow chart.
        let upright = |(t, slot): (usize, &[f32; 32])| -> [f64; 32] {
            std::array::from_fn(|k| f64::from(if t % 2 == 1 && k % 2 == 1 { -slot[k] } else { slot[k] }))
        };
        let slots: Vec<[f64; 32]> = full.iter().flat_map(|g| g.iter().enumerate().map(upright)).collect();
        let expected = by_the_book(&slots);
        let close = |a: &[f32], b: &mut dyn Iterator<Item = f64>| {
            a.iter().zip(b).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-5)
        };
        assert!(expected.iter().any(|x| x.abs() > 0.5));
        assert!(close(&run::<32, 64>(0, &full), &mut expected.iter().copied()));
        for phase in [0, 1] {
            assert!(close(&run::<16, 32>(phase, &half), &mut expected.iter().copied().skip(phase).step_by(2)));
        }
    }
}
