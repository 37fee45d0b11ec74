//! From lines to subbands: alias reduction, the inverse MDCT of each subband, windows and overlap (ISO 11172-3,
//! 2.4.3.4.10).
//!
//! All of it is linear. So blocks of different kinds are simply added: a mixed block is a long and a short one, two
//! channels with different blocks are two blocks, and one overlap of the mean serves them all.
//!
//! Transforms are plain matrices, applied to all subbands at once: a vector holds the same line of neighbouring
//! subbands. Faster algorithms save multiplications, but not time: what is left is small beside the Huffman codes.

use std::f64::consts::PI;
use std::sync::LazyLock;

use pulp::Simd;

use super::bands::{Block, MIXED_LINES};
use super::huffman::Lines;

/// Lines of a subband, and samples of a subband in a granule.
pub const SLOTS: usize = 18;

/// Samples of `B` subbands in the slots of a granule.
pub type Subbands<const B: usize> = [[f32; B]; SLOTS];

struct Tables {
    /// The half of the 36-point inverse transform of which the other is a mirror image: `[sample][line]`.
    long: [[f32; SLOTS]; SLOTS],
    /// The 12-point one with its window: `[sample][line]`.
    short: [[f32; 6]; 12],
    /// By kind of block: 36 samples each.
    windows: [[f32; 2 * SLOTS]; 3],
    /// Alias reduction: `cs` and `ca`.
    cosine: [f32; 8],
    sine: [f32; 8],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let cos = |numerator: usize, denominator: f64| (PI * numerator as f64 / denominator).cos() as f32;
    let rise = |i: usize, n: f64| (PI / n * (i as f64 + 0.5)).sin();
    let short_window = |i: usize| rise(i, 12.0);
    let start = |i: usize| match i {
        0..18 => rise(i, 36.0),
        18..24 => 1.0,
        24..30 => short_window(i - 18),
        _ => 0.0,
    };
    // Table B.9.
    let c = [-0.6, -0.535, -0.33, -0.185, -0.095, -0.041, -0.0142, -0.0037f64];
    Tables {
        // Samples 9 to 26 of cos(π/72 · (2i + 1 + 18)(2k + 1)).
        long: std::array::from_fn(|i| std::array::from_fn(|k| cos((2 * (i + 9) + 19) * (2 * k + 1), 72.0))),
        short: std::array::from_fn(|i| {
            std::array::from_fn(|k| cos((2 * i + 7) * (2 * k + 1), 24.0) * short_window(i) as f32)
        }),
        windows: [
            std::array::from_fn(|i| rise(i, 36.0) as f32),
            std::array::from_fn(|i| start(i) as f32),
            std::array::from_fn(|i| start(35 - i) as f32),
        ],
        cosine: c.map(|c| (1.0 / (1.0 + c * c).sqrt()) as f32),
        sine: c.map(|c| (c / (1.0 + c * c).sqrt()) as f32),
    }
});

/// What the transforms keep from granule to granule.
pub struct Hybrid<const B: usize> {
    /// The second halves of the windowed blocks of the granule before.
    overlap: Subbands<B>,
}

impl<const B: usize> Hybrid<B> {
    pub fn new() -> Self {
        Hybrid { overlap: [[0.0; B]; SLOTS] }
    }

    /// Begins a granule: what the one before left over.
    pub fn begin(&mut self, subbands: &mut Subbands<B>) {
        *subbands = std::mem::replace(&mut self.overlap, [[0.0; B]; SLOTS]);
    }

    /// Adds a block. Of `lines` those from `18·B + 8` on are not looked at.
    #[inline(always)]
    pub fn add<S: Simd>(&mut self, simd: S, lines: &mut Lines, block: Block, subbands: &mut Subbands<B>) {
        let tables = &*TABLES;
        let low = MIXED_LINES / SLOTS;
        let window = match block {
            Block::Start { .. } => 1,
            Block::Stop { .. } => 2,
            _ => 0,
        };
        match block {
            Block::Long | Block::Start { mixed: false } | Block::Stop { mixed: false } => {
                reduce_alias(tables, lines, B.min(31));
                self.long(simd, tables, &transposed(lines, 0..B), window, subbands);
            }
            Block::Start { mixed: true } | Block::Stop { mixed: true } => {
                reduce_alias(tables, lines, B.min(31));
                self.long(simd, tables, &transposed(lines, 0..low), 0, subbands);
                self.long(simd, tables, &transposed(lines, low..B), window, subbands);
            }
            Block::Short { mixed: false } => self.short(simd, tables, &transposed(lines, 0..B), subbands),
            Block::Short { mixed: true } => {
                reduce_alias(tables, lines, low - 1);
                self.long(simd, tables, &transposed(lines, 0..low), 0, subbands);
                self.short(simd, tables, &transposed(lines, low..B), subbands);
            }
        }
    }

    #[inline(always)]
    fn long<S: Simd>(&mut self, simd: S, tables: &Tables, x: &Subbands<B>, window: usize, subbands: &mut Subbands<B>) {
        let window = &tables.windows[window];
        for v in 0..B / S::F32_LANES {
            let x: [S::f32s; SLOTS] = std::array::from_fn(|k| S::as_simd_f32s(&x[k]).0[v]);
            for half in 0..2 {
                // Samples 9·half + 9.. of 36, nine sums at a time.
                let mut y = [simd.splat_f32s(0.0); 9];
                for (k, &x) in x.iter().enumerate() {
                    for (j, y) in y.iter_mut().enumerate() {
                        *y = simd.mul_add_e_f32s(simd.splat_f32s(tables.long[9 * half + j][k]), x, *y);
                    }
                }
                for (j, &y) in y.iter().enumerate() {
                    let (direct, mirrored) = if half == 0 { (9 + j, 8 - j) } else { (j, 17 - j) };
                    for (t, sign) in [(direct, 1.0), (mirrored, if half == 0 { -1.0 } else { 1.0 })] {
                        let target = if half == 0 { &mut *subbands } else { &mut self.overlap };
                        let weight = simd.splat_f32s(sign * window[SLOTS * half + t]);
                        let sum = &mut S::as_mut_simd_f32s(&mut target[t]).0[v];
                        *sum = simd.mul_add_e_f32s(weight, y, *sum);
                    }
                }
            }
        }
    }

    /// Three transforms of six lines each; the 12 samples of window `w` begin at sample 6 + 6·w of 36.
    #[inline(always)]
    fn short<S: Simd>(&mut self, simd: S, tables: &Tables, x: &Subbands<B>, subbands: &mut Subbands<B>) {
        for v in 0..B / S::F32_LANES {
            for window in 0..3 {
                let x: [S::f32s; 6] = std::array::from_fn(|k| S::as_simd_f32s(&x[3 * k + window]).0[v]);
                for (i, row) in tables.short.iter().enumerate() {
                    let t = 6 + 6 * window + i;
                    let target = if t < SLOTS { &mut subbands[t] } else { &mut self.overlap[t - SLOTS] };
                    let sum = &mut S::as_mut_simd_f32s(target).0[v];
                    for (&factor, &x) in row.iter().zip(&x) {
                        *sum = simd.mul_add_e_f32s(simd.splat_f32s(factor), x, *sum);
                    }
                }
            }
        }
    }
}

/// Butterflies across the lower `boundaries` boundaries of subbands.
#[inline(always)]
fn reduce_alias(tables: &Tables, lines: &mut Lines, boundaries: usize) {
    for boundary in 1..=boundaries {
        let (below, above) = lines.split_at_mut(SLOTS * boundary);
        let (Some(below), Some(above)) = (below.last_chunk_mut::<8>(), above.first_chunk_mut::<8>()) else { return };
        for i in 0..8 {
            let (low, high) = (below[7 - i], above[i]);
            below[7 - i] = low * tables.cosine[i] - high * tables.sine[i];
            above[i] = high * tables.cosine[i] + low * tables.sine[i];
        }
    }
}

/// Line `k` of every subband of `range` side by side, zero for the others: `[18][B]`.
#[inline(always)]
fn transposed<const B: usize>(lines: &Lines, range: std::ops::Range<usize>) -> Subbands<B> {
    let mut rows = [[0.0; B]; SLOTS];
    for (subband, lines) in lines.as_chunks::<SLOTS>().0.iter().enumerate().take(range.end).skip(range.start) {
        for (row, &line) in rows.iter_mut().zip(lines) {
            row[subband] = line;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One granule of one subband by the formulas of ISO 11172-3, 2.4.3.4.10.2 and 10.3: 36 samples. `kind` is the
    /// block type of the standard.
    fn by_the_book(x: &[f64], kind: usize) -> Vec<f64> {
        let transform = |x: &[f64], n: usize| -> Vec<f64> {
            let angle = |i: usize, k: usize| PI / (2 * n) as f64 * ((2 * i + 1 + n / 2) * (2 * k + 1)) as f64;
            (0..n).map(|i| x.iter().enumerate().map(|(k, x)| x * angle(i, k).cos()).sum()).collect()
        };
        let rise = |i: usize, n: f64| (PI / n * (i as f64 + 0.5)).sin();
        if kind == 2 {
            let mut out = vec![0.0; 36];
            for window in 0..3 {
                let lines: Vec<f64> = (0..6).map(|k| x[3 * k + window]).collect();
                for (i, y) in transform(&lines, 12).iter().enumerate() {
                    out[6 + 6 * window + i] += y * rise(i, 12.0);
                }
            }
            return out;
        }
        let window = |i: usize| match (kind, i) {
            (1, 18..24) | (3, 12..18) => 1.0,
            (1, 24..30) => rise(i - 18, 12.0),
            (3, 6..12) => rise(i - 6, 12.0),
            (1, 30..) | (3, ..6) => 0.0,
            _ => rise(i, 36.0),
        };
        transform(x, 36).iter().enumerate().map(|(i, y)| y * window(i)).collect()
    }

    /// Kinds of block of the standard in the lowest two subbands and in the others, and how many boundaries have
    /// butterflies.
    fn meaning(block: Block) -> (usize, usize, usize) {
        match block {
            Block::Long => (0, 0, 31),
            Block::Start { mixed } => (if mixed { 0 } else { 1 }, 1, 31),
            Block::Short { mixed: false } => (2, 2, 0),
            Block::Short { mixed: true } => (0, 2, 1),
            Block::Stop { mixed } => (if mixed { 0 } else { 3 }, 3, 31),
        }
    }

    struct Run<'a, const B: usize>(&'a mut Hybrid<B>, &'a mut Lines, Block, &'a mut Subbands<B>);

    impl<const B: usize> pulp::WithSimd for Run<'_, B> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            self.0.begin(self.3);
            self.0.add(simd, self.1, self.2, self.3);
        }
    }

    #[test]
    fn every_block_is_transformed_as_the_standard_says() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state as f32 / 2f32.powi(31) - 1.0
        };
        let c = [-0.6, -0.535, -0.33, -0.185, -0.095, -0.041, -0.0142, -0.0037f64];
        let mut full = Hybrid::<32>::new();
        let mut half = Hybrid::<16>::new();
        let mut plain = Hybrid::<16>::new();
        let mut overlap = vec![[0.0; 18]; 32];
        let kinds = [false, true].map(|mixed| [Block::Start { mixed }, Block::Short { mixed }, Block::Stop { mixed }]);
        for block in [Block::Long].into_iter().chain(kinds.concat()).chain([Block::Long]) {
            let mut lines = [0.0; 584];
            lines[..576].fill_with(&mut noise);
            let (low, high, boundaries) = meaning(block);
            let mut x: Vec<f64> = lines[..576].iter().map(|&l| f64::from(l)).collect();
            for boundary in 1..=boundaries {
                for (i, c) in c.iter().enumerate() {
                    let (cs, ca) = (1.0 / (1.0 + c * c).sqrt(), c / (1.0 + c * c).sqrt());
                    let (below, above) = (18 * boundary - 1 - i, 18 * boundary + i);
                    (x[below], x[above]) = (x[below] * cs - x[above] * ca, x[above] * cs + x[below] * ca);
                }
            }
            let (mut whole, mut lower, mut scalar) = ([[0.0; 32]; 18], [[0.0; 16]; 18], [[0.0; 16]; 18]);
            pulp::Arch::new().dispatch(Run(&mut full, &mut lines.clone(), block, &mut whole));
            pulp::Arch::new().dispatch(Run(&mut half, &mut lines.clone(), block, &mut lower));
            pulp::WithSimd::with_simd(Run(&mut plain, &mut lines, block, &mut scalar), pulp::Scalar);
            for (subband, overlap) in overlap.iter_mut().enumerate() {
                let y = by_the_book(&x[18 * subband..][..18], if subband < 2 { low } else { high });
                for t in 0..18 {
                    let expected = overlap[t] + y[t];
                    let found = [whole[t].get(subband), lower[t].get(subband), scalar[t].get(subband)];
                    for &found in found.iter().flatten() {
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{block:?}, subband {subband}");
                    }
                    overlap[t] = y[18 + t];
                }
            }
        }
    }
}
