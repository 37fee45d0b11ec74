//! From spectra back to samples: inverse MDCT, window and overlap (Vorbis I, sections 4.3.1, 4.3.7 and 4.3.8).
//!
//! The 2·K samples that the inverse MDCT makes of K lines hold only K different numbers, a DCT-IV `u` of the lines:
//!
//! ```text
//! samples of the block     0 ........ K/2 ........ K ........ 3K/2 ........ 2K
//!                          u[K/2..K]     −u[K..0], backwards       −u[0..K/2]
//! ```
//!
//! The first half is odd and the second even about its own centre, where it meets the neighbouring block. So of the
//! block before K/2 numbers are kept, and each pair of numbers gives a pair of samples.

use std::f64::consts::FRAC_PI_2;

use crate::audio::dct::Dct4;

/// What blocks of one size need.
struct Size {
    dct: Dct4,
    /// `[K]`: the rising half of the window.
    slope: Vec<f32>,
}

impl Size {
    fn new(lines: usize, gain: f64) -> Size {
        let window = |i: usize| {
            let t = FRAC_PI_2 * (i as f64 + 0.5) / lines as f64;
            (FRAC_PI_2 * t.sin().powi(2)).sin() as f32
        };
        Size { dct: Dct4::new(lines, gain), slope: (0..lines).map(window).collect() }
    }
}

/// Overlaps the blocks of one channel.
pub(super) struct Synthesis {
    /// Of short and of long blocks.
    sizes: [Size; 2],
    /// `u[0..K/2]` of the block before; empty at the beginning.
    before: Vec<f32>,
    u: Vec<f32>,
}

impl Synthesis {
    /// For blocks of these numbers of lines, powers of two from 16 on, the second not below the first.
    pub fn new(lines: [usize; 2], gain: f64) -> Synthesis {
        Synthesis {
            sizes: lines.map(|lines| Size::new(lines, gain)),
            before: Vec::with_capacity(lines[1] / 2),
            u: vec![0.0; lines[1]],
        }
    }

    /// Forgets the block before.
    pub fn reset(&mut self) {
        self.before.clear();
    }

    /// How many samples [`next`](Self::next) will give: those from the centre of the block before to the centre of this
    /// one, none at the beginning.
    pub fn samples(&self, long: bool) -> usize {
        if self.before.is_empty() { 0 } else { self.before.len() + self.sizes[usize::from(long)].slope.len() / 2 }
    }

    /// Takes the spectrum of the next block, `[K]`, and writes `out`, [`samples`](Self::samples) long.
    pub fn next(&mut self, long: bool, spectrum: &[f32], out: &mut [f32]) {
        let size = &mut self.sizes[usize::from(long)];
        let lines = size.slope.len();
        size.dct.run(&spectrum[..lines], 1.0, &mut self.u[..lines]);
        let (keep, now) = self.u[..lines].split_at(lines / 2);
        if !self.before.is_empty() {
            // They overlap by half of the smaller block.
            let long_slope = long && self.before.len() == self.sizes[1].slope.len() / 2;
            overlap(&self.before, now, &self.sizes[usize::from(long_slope)].slope, out);
        }
        self.before.clear();
        self.before.extend_from_slice(keep);
    }
}

/// `before`: `u[0..P/2]` of the block before, of P lines; `now`: `u[K/2..K]` of this one; `slope`: the window where they
/// meet, as long as the smaller block has lines; `out`: `P/2 + K/2` samples.
fn overlap(before: &[f32], now: &[f32], slope: &[f32], out: &mut [f32]) {
    let half = slope.len() / 2;
    let (falling, rising) = slope.split_at(half);
    let (left, right) = out.split_at_mut(before.len());
    // Outward from the centre of the overlap, `left` backwards; and then what lies outside it.
    let pairs = left.iter_mut().rev().zip(right.iter_mut()).zip(before.iter().zip(now.iter().rev()));
    let windows = falling.iter().rev().zip(rising);
    for (((left, right), (a, b)), (low, high)) in pairs.zip(windows) {
        *left = b * low - a * high;
        *right = -(a * low + b * high);
    }
    left.iter_mut().rev().zip(before).skip(half).for_each(|(x, a)| *x = -a);
    right.iter_mut().zip(now.iter().rev()).skip(half).for_each(|(x, b)| *x = -b);
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    /// Numbers from −1 to 1.
    fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / 2f32.powi(31) - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The inverse MDCT as it is defined: `y[n] = Σ X[k] cos(π/K (n + ½ + K/2)(k + ½))`.
    fn inverse_mdct(x: &[f32]) -> Vec<f64> {
        let k = x.len();
        let term = |n: usize, i: usize| PI / k as f64 * (n as f64 + 0.5 + k as f64 / 2.0) * (i as f64 + 0.5);
        (0..2 * k).map(|n| (0..k).map(|i| f64::from(x[i]) * term(n, i).cos()).sum()).collect()
    }

    #[test]
    fn blocks_of_any_sizes_overlap_as_the_standard_says() {
        let lines = [32, 128];
        let mut synthesis = Synthesis::new(lines, 0.5);
        let window = |i: usize, n: usize| (FRAC_PI_2 * (PI * (i as f64 + 0.5) / n as f64).sin().powi(2)).sin();
        // Windowed blocks laid out on one time line, the clear way (section 4.3.1 and 4.3.8).
        let order = [true, true, false, false, false, true, false, true, true];
        let mut expected = vec![0.0; 2048];
        let mut centre = 256;
        let mut out = Vec::new();
        let mut ends = (0, 0);
        for (at, &long) in order.iter().enumerate() {
            let k = lines[usize::from(long)];
            let x = noise(k);
            let before = at.checked_sub(1).map_or(k, |i| lines[usize::from(order[i])]);
            let after = order.get(at + 1).map_or(k, |&long| lines[usize::from(long)]);
            if at > 0 {
                centre += (before + k) / 2;
            }
            ends = (if at == 0 { centre } else { ends.0 }, centre);
            let slope = |distance: i64, neighbour: usize| {
                // `distance` from the point where this block and its neighbour meet, inwards.
                let s = k.min(neighbour) as i64;
                match distance + s / 2 {
                    i if i < 0 => 0.0,
                    i if i >= s => 1.0,
                    i => window(i as usize, 2 * s as usize),
                }
            };
            for (n, y) in inverse_mdct(&x).into_iter().enumerate() {
                let (n, half) = (n as i64, (k / 2) as i64);
                let gain = slope(n - half, before) * slope(3 * half - 1 - n, after);
                expected[centre + n as usize - k] += 0.5 * gain * y;
            }
            let mut part = vec![0.0; synthesis.samples(long)];
            synthesis.next(long, &x, &mut part);
            assert_eq!(part.is_empty(), at == 0, "the first block only fills the memory");
            out.extend(part);
        }
        let expected = &expected[ends.0..ends.1];
        assert_eq!(out.len(), expected.len());
        let worst = out.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "differs by {worst}");
    }

    #[test]
    fn half_of_the_lines_give_the_samples_between_the_samples() {
        // A spectrum without its upper half means a function of time; full size samples it at n + ½, half size at
        // 2m + 1, both counted from the beginning of the block.
        let mut x = noise(64);
        x[32..].fill(0.0);
        let half = inverse_mdct(&x[..32]);
        for (m, y) in half.iter().enumerate() {
            let t = 2.0 * m as f64 + 1.0;
            let at = |i: usize| f64::from(x[i]) * (PI / 64.0 * (t + 32.0) * (i as f64 + 0.5)).cos();
            assert!(((0..32).map(at).sum::<f64>() - y).abs() < 1e-9);
        }
    }
}
