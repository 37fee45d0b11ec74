//! The network without training: the same weights and the same answers as [`AudioEncoder`](super::AudioEncoder), at
//! the speed that the processor has.
//!
//! Every layer is a matrix product, and nearly all time is spent in one loop, the tile:
//!
//! ```text
//!                    a panel: 2 registers of columns, all inputs      what the tile does for each input k:
//!                    ┌────────────────────────┐
//!                  k │ w w w w w w  w w w w w │                       load 2 registers of weights, once
//!                    └────────────────────────┘                       for each row: spread x[row, k] over a
//!  x[row ..]    k    ┌────────────────────────┐                         register, multiply, add twice
//!  ┌──────────────┐  │                        │
//!  │ x x x x x x  │  │  the sums of up to 12  │                       24 sums, 2 weights, 1 input: 27 of the 32
//!  │ x x x x x x  │  │  rows stay in registers│                       registers of AVX-512 and NEON (6 rows and
//!  └──────────────┘  └────────────────────────┘                       15 of 16 registers with AVX2)
//! ```
//!
//! In the layout `[time, channels]` the inputs of a convolution at frame t are the memory from `x[t, 0]` on: the next
//! row of its matrix begins one frame further in the same buffer, and nothing is copied to make it. The max-pool, then
//! bias and ReLU, are taken from a small block of finished sums that the first-level cache still holds. Weights are
//! packed into panels once, when a model is loaded. Those of the dense layers stay 16 bits wide, as they are in files,
//! since one song's dense layers only wait for memory; they are widened in registers.
//!
//! A sum is always added up in the order of its inputs, in one register lane, whatever the tile's size. So a song's
//! vector is the same to the last bit alone, in a batch and on any number of threads.

use std::array::from_fn;
use std::fmt;
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayView3, ArrayViewMut2, Axis};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{CONVOLUTIONS, EncoderConfig, Layer, RMS_FLOOR, Weights};

/// Songs that go through the dense layers together, at most. 64 make reading these layers' 15 MB of weights 2 % of a
/// song's time, and take 2 MB.
const BATCH: usize = 64;

/// Rows of the largest tile.
const TILE: usize = 12;

/// Rows of sums that are finished before they are pooled, about: 48 × 32 numbers are 6 KB. A multiple of every pool
/// that divides 12 leaves no small tiles.
const BLOCK: usize = 48;

/// A network for inference on the processor that runs it.
pub struct Network {
    config: EncoderConfig,
    /// Mean and standard deviation of each band, `[mel_bands]`.
    mean: Vec<f32>,
    std: Vec<f32>,
    layers: Vec<Packed>,
    arch: Arch,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Network").field("config", &self.config).field("arch", &self.arch).finish_non_exhaustive()
    }
}

impl Network {
    /// The network with these weights, which have the shapes of `config`.
    pub fn new(config: &EncoderConfig, weights: &Weights) -> Network {
        Network::on(Arch::new(), config, weights)
    }

    fn on(arch: Arch, config: &EncoderConfig, weights: &Weights) -> Network {
        let lanes = arch.dispatch(Lanes);
        let layers = weights.layers.iter().enumerate();
        Network {
            config: config.clone(),
            mean: weights.mean.to_vec(),
            std: weights.std.to_vec(),
            layers: layers
                .map(|(i, layer)| Packed {
                    pool: config.pools.get(i).copied().unwrap_or(1),
                    clip: i + 1 < weights.layers.len(),
                    ..Packed::new(layer, lanes, i >= CONVOLUTIONS)
                })
                .collect(),
            arch,
        }
    }

    /// From spectrograms `[n, frames, mel_bands]`, of the network's shape, to factors `[n, dimensions]`, on the threads
    /// of rayon's pool.
    pub fn predict(&self, mels: ArrayView3<f32>) -> Array2<f32> {
        let mut answers = Array2::zeros((mels.len_of(Axis(0)), self.config.dimensions));
        let batches = mels.axis_chunks_iter(Axis(0), BATCH);
        for (mels, answers) in batches.zip(answers.axis_chunks_iter_mut(Axis(0), BATCH)) {
            self.answer(self.listen(mels), answers);
        }
        answers
    }

    /// The convolutions: `[n, frames, mel_bands]` to mean, maximum and RMS of each channel, `[n, 3 * channels]`.
    fn listen(&self, mels: ArrayView3<f32>) -> Vec<f32> {
        let songs = mels.len_of(Axis(0));
        let width = 3 * self.config.channels[CONVOLUTIONS - 1];
        let mut heard = vec![0.0; songs * width];
        let threads = rayon::current_num_threads();
        if threads == 1 {
            let mut buffers = Buffers::default();
            for (heard, mel) in heard.chunks_exact_mut(width).zip(mels.outer_iter()) {
                self.convolve(mel, &mut buffers, false, heard);
            }
            return heard;
        }
        // Whole songs to each thread as long as all threads have one; they share the work on each of the rest.
        let (shared_out, shared) = heard.split_at_mut((songs - songs % threads) * width);
        shared_out.par_chunks_exact_mut(width).enumerate().for_each_init(Buffers::default, |buffers, (song, heard)| {
            self.convolve(mels.index_axis(Axis(0), song), buffers, false, heard);
        });
        let mut buffers = Buffers::default();
        for (i, heard) in shared.chunks_exact_mut(width).enumerate() {
            let mel = mels.index_axis(Axis(0), songs - songs % threads + i);
            self.convolve(mel, &mut buffers, true, heard);
        }
        heard
    }

    /// One song: `[frames, mel_bands]` to `[3 * channels]`.
    fn convolve(&self, mel: ArrayView2<f32>, buffers: &mut Buffers, share: bool, heard: &mut [f32]) {
        let Buffers { x, y } = buffers;
        let mel = mel.as_standard_layout();
        let mel = mel.as_slice().expect("made so in the line above");
        x.resize(mel.len(), 0.0);
        self.arch.dispatch(|| standardise(mel, &self.mean, &self.std, x));
        let mut channels = self.config.mel_bands;
        let mut frames = self.config.frames;
        for layer in &self.layers[..CONVOLUTIONS] {
            frames = (frames + 1 - self.config.kernel) / layer.pool;
            self.product(layer, x, channels, frames, share, y);
            channels = layer.outputs;
            std::mem::swap(x, y);
        }
        self.arch.dispatch(|| over_time(x, channels, heard));
    }

    /// The dense layers: `[n, 3 * channels]` to `[n, dimensions]`.
    fn answer(&self, heard: Vec<f32>, mut answers: ArrayViewMut2<f32>) {
        let songs = answers.nrows();
        let share = rayon::current_num_threads() > 1;
        let (mut x, mut y) = (heard, Vec::new());
        for layer in &self.layers[CONVOLUTIONS..] {
            self.product(layer, &x, layer.inputs, songs, share, &mut y);
            std::mem::swap(&mut x, &mut y);
        }
        answers.iter_mut().zip(x).for_each(|(answer, x)| *answer = x);
    }

    /// One layer. Row r of its input is the `layer.inputs` numbers of `x` from `r * stride` on; `y` becomes
    /// `[rows, layer.outputs]`. `share`: with all threads.
    fn product(&self, layer: &Packed, x: &[f32], stride: usize, rows: usize, share: bool, y: &mut Vec<f32>) {
        y.resize(rows * layer.outputs, 0.0);
        let panels = layer.panels();
        if !share {
            let columns = layer.outputs;
            return self.arch.dispatch(Product { layer, x, stride, panels: 0..panels, out: y, columns });
        }
        // Each panel's columns of the result as a block [rows, width] of its own, since threads cannot write into the
        // same rows. With fewer panels than twice the threads the blocks are divided by rows too.
        let width = layer.width();
        let mut blocks = vec![0.0; panels * rows * width];
        let span = rows.div_ceil((2 * rayon::current_num_threads()).div_ceil(panels));
        blocks.par_chunks_exact_mut(rows * width).enumerate().for_each(|(panel, block)| {
            block.par_chunks_mut(span * width).enumerate().for_each(|(part, out)| {
                let x = &x[part * span * layer.pool * stride..];
                self.arch.dispatch(Product { layer, x, stride, panels: panel..panel + 1, out, columns: width });
            });
        });
        for (panel, block) in blocks.chunks_exact(rows * width).enumerate() {
            for (to, from) in y.chunks_exact_mut(layer.outputs).zip(block.chunks_exact(width)) {
                to.iter_mut().skip(panel * width).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// One song's numbers between two layers, `[time, channels]` (460 KB for the preset).
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
}

/// `(mel - mean) / std` of each band; all rows are `[mel_bands]`.
#[inline(always)]
fn standardise(mel: &[f32], mean: &[f32], std: &[f32], out: &mut [f32]) {
    for (out, mel) in out.chunks_exact_mut(mean.len()).zip(mel.chunks_exact(mean.len())) {
        for (((out, mel), mean), std) in out.iter_mut().zip(mel).zip(mean).zip(std) {
            *out = (mel - mean) / std;
        }
    }
}

/// Mean, maximum and RMS over time, side by side: `[time, channels]` to `[3 * channels]`.
#[inline(always)]
fn over_time(x: &[f32], channels: usize, heard: &mut [f32]) {
    let frames = (x.len() / channels) as f32;
    // 0 is the least maximum too, after a ReLU.
    heard.fill(0.0);
    let (mean, rest) = heard.split_at_mut(channels);
    let (max, rms) = rest.split_at_mut(channels);
    for x in x.chunks_exact(channels) {
        for (((x, sum), max), squares) in x.iter().zip(&mut *mean).zip(&mut *max).zip(&mut *rms) {
            *sum += x;
            *max = if *x > *max { *x } else { *max };
            *squares += x * x;
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= frames);
    rms.iter_mut().for_each(|squares| *squares = (*squares / frames + RMS_FLOOR).sqrt());
}

/// A layer's weights, in the order in which a tile reads them.
///
/// ```text
/// panel 0: input 0, columns 0 .. w ─ input 1, columns 0 .. w ─ … ─ the last input     w = 2 registers: 32 columns
/// panel 1: input 0, columns w .. 2w ─ …                                              with AVX-512, 16 with AVX2
/// ```
///
/// The last panel is filled up with columns of zeros.
struct Packed {
    inputs: usize,
    outputs: usize,
    /// Rows of the product of which the maximum is taken.
    pool: usize,
    /// Whether a ReLU follows.
    clip: bool,
    /// Numbers in a register.
    lanes: usize,
    /// `[panels * width]`
    bias: Vec<f32>,
    columns: Columns,
}

enum Columns {
    /// `[panels, inputs, 2, lanes]`
    Wide(Vec<f32>),
    /// `[panels, inputs, lanes]`: columns l and lanes + l of an input as two [`code`]s, the first in the low half.
    Half(Vec<u32>),
}

impl Packed {
    /// Without pool and ReLU. `halve`: as 16 bits each, if that changes no weight.
    fn new(layer: &Layer, lanes: usize, halve: bool) -> Packed {
        let (inputs, outputs) = layer.weight.dim();
        let width = 2 * lanes;
        let panels = outputs.div_ceil(width);
        let mut wide = vec![0.0; panels * inputs * width];
        for (panel, columns) in wide.chunks_exact_mut(inputs * width).zip(layer.weight.axis_chunks_iter(Axis(1), width))
        {
            for (to, from) in panel.chunks_exact_mut(width).zip(columns.outer_iter()) {
                from.iter().zip(to).for_each(|(&from, to)| *to = from);
            }
        }
        let mut bias = layer.bias.to_vec();
        bias.resize(panels * width, 0.0);
        // A fold over all is faster than looking for the first.
        let exact = |&w: &f32| decode(code(w)).to_bits() == w.to_bits();
        let columns = match halve && wide.iter().fold(true, |all, w| all & exact(w)) {
            true => {
                let mut half = vec![0; wide.len() / 2];
                for (half, wide) in half.chunks_exact_mut(lanes).zip(wide.chunks_exact(width)) {
                    for ((half, &low), &high) in half.iter_mut().zip(&wide[..lanes]).zip(&wide[lanes..]) {
                        *half = u32::from(code(low)) | u32::from(code(high)) << 16;
                    }
                }
                Columns::Half(half)
            }
            false => Columns::Wide(wide),
        };
        Packed { inputs, outputs, pool: 1, clip: false, lanes, bias, columns }
    }

    fn width(&self) -> usize {
        2 * self.lanes
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(self.width())
    }
}

// A weight in 16 bits: sign, 5 bits of exponent and 10 of mantissa, as IEEE's binary16 has them, but the lower 15 are
// those that the weight has as a 32-bit float after scaling by 2⁻¹⁰². So widening it is a shift, a mask and a
// multiplication. To do that with binary16's own exponents takes 2⁻¹¹², which makes its subnormal numbers, below 2⁻¹⁴,
// subnormal 32-bit ones; some processors take a hundred times as long over these. The price is that weights of 128 and
// more cannot be written: a layer that has one stays 32 bits wide.

/// What is undone when a weight is widened, 2¹⁰².
const SCALE: f32 = f32::from_bits((127 + 102) << 23);
const SIGN: u32 = 0x8000_0000;
/// Where the lower 15 bits are in the 32-bit float: a scaled weight is below 2⁻⁹⁵, so the 3 highest of the exponent are 0.
const REST: u32 = 0x0fff_e000;

fn code(weight: f32) -> u16 {
    let bits = (weight * (1.0 / SCALE)).to_bits();
    ((bits & SIGN) >> 16 | (bits & REST) >> 13) as u16
}

fn decode(code: u16) -> f32 {
    let code = u32::from(code);
    f32::from_bits(code << 16 & SIGN | code << 13 & REST) * SCALE
}

/// How a panel's weights are written.
trait Format {
    /// What they are stored as.
    type Raw;
    /// An input's columns.
    type Word<S: Simd>: Copy;
    fn words<S: Simd>(raw: &[Self::Raw]) -> &[Self::Word<S>];
    fn widen<S: Simd>(simd: S, word: Self::Word<S>) -> [S::f32s; 2];
}

struct Wide;
struct Half;

impl Format for Wide {
    type Raw = f32;
    type Word<S: Simd> = [S::f32s; 2];

    #[inline(always)]
    fn words<S: Simd>(raw: &[f32]) -> &[[S::f32s; 2]] {
        S::as_simd_f32s(raw).0.as_chunks().0
    }

    #[inline(always)]
    fn widen<S: Simd>(_: S, word: [S::f32s; 2]) -> [S::f32s; 2] {
        word
    }
}

impl Format for Half {
    type Raw = u32;
    type Word<S: Simd> = S::u32s;

    #[inline(always)]
    fn words<S: Simd>(raw: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(raw).0
    }

    /// [`decode`] for every lane's two codes.
    #[inline(always)]
    fn widen<S: Simd>(simd: S, word: S::u32s) -> [S::f32s; 2] {
        let (sign, rest, scale) = (simd.splat_u32s(SIGN), simd.splat_u32s(REST), simd.splat_f32s(SCALE));
        let to_sign = simd.wrapping_dyn_shl_u32s(word, simd.splat_u32s(16));
        let to_rest = simd.wrapping_dyn_shl_u32s(word, simd.splat_u32s(13));
        let low = simd.or_u32s(simd.and_u32s(to_sign, sign), simd.and_u32s(to_rest, rest));
        let to_rest = simd.wrapping_dyn_shr_u32s(word, simd.splat_u32s(3));
        let high = simd.or_u32s(simd.and_u32s(word, sign), simd.and_u32s(to_rest, rest));
        [simd.mul_f32s(simd.transmute_f32s_u32s(low), scale), simd.mul_f32s(simd.transmute_f32s_u32s(high), scale)]
    }
}

/// Some rows and columns of a layer's result; see [`Network::product`].
struct Product<'a> {
    layer: &'a Packed,
    x: &'a [f32],
    stride: usize,
    panels: Range<usize>,
    /// `[rows, columns]`: from the first panel's first column on, as many as fit in.
    out: &'a mut [f32],
    columns: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match &self.layer.columns {
            Columns::Wide(columns) => self.run::<S, Wide>(simd, columns),
            Columns::Half(columns) => self.run::<S, Half>(simd, columns),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Format>(self, simd: S, weights: &[F::Raw]) {
        let Product { layer, x, stride, panels, out, columns } = self;
        let (width, pool) = (layer.width(), layer.pool);
        let rows = out.len() / columns;
        let zero = simd.splat_f32s(0.0);
        let bias = S::as_simd_f32s(&layer.bias).0.as_chunks::<2>().0;
        let weights = weights.chunks_exact(weights.len() / layer.panels());
        // Whole pools, about a block of them.
        let block = (BLOCK / pool).clamp(1, rows.max(1));
        let mut sums = vec![0.0; block * pool * width];
        let panels = weights.zip(bias).skip(panels.start).take(panels.len());
        for ((panel, bias), column) in panels.zip((0..).step_by(width)) {
            let end = (column + width).min(columns);
            for (out, first) in out.chunks_mut(block * columns).zip((0..).step_by(block)) {
                let sums = &mut sums[..out.len() / columns * pool * width];
                tiles::<S, F>(simd, &x[first * pool * stride..], stride, panel, sums);
                let pools = S::as_simd_f32s(sums).0.as_chunks::<2>().0.chunks_exact(pool);
                for (out, pool) in out.chunks_exact_mut(columns).zip(pools) {
                    let mut y = pool[0];
                    for more in &pool[1..] {
                        y = [simd.max_f32s(y[0], more[0]), simd.max_f32s(y[1], more[1])];
                    }
                    // Bias and ReLU grow with their input, so they may come after the pool.
                    y = [simd.add_f32s(y[0], bias[0]), simd.add_f32s(y[1], bias[1])];
                    if layer.clip {
                        // In this order what is not a number stays so, on x86 at least, and is refused in the end.
                        y = [simd.max_f32s(zero, y[0]), simd.max_f32s(zero, y[1])];
                    }
                    match S::as_mut_simd_f32s(&mut out[column..end]) {
                        ([a, b], _) => (*a, *b) = (y[0], y[1]),
                        ([a], rest) => {
                            *a = y[0];
                            simd.partial_store_f32s(rest, y[1]);
                        }
                        (_, rest) => simd.partial_store_f32s(rest, y[0]),
                    }
                }
            }
        }
    }
}

/// The rows of the tallest tile whose sums stay in registers.
const fn tallest<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { TILE } else { TILE / 2 }
}

/// A panel's columns of some rows, `[rows, 2 * lanes]`, in tiles as even as can be.
#[inline(always)]
fn tiles<S: Simd, F: Format>(simd: S, x: &[f32], stride: usize, panel: &[F::Raw], sums: &mut [f32]) {
    let width = 2 * S::F32_LANES;
    let rows = sums.len() / width;
    let tiles = rows.div_ceil(tallest::<S>());
    for i in 0..tiles {
        let (first, end) = (rows * i / tiles, rows * (i + 1) / tiles);
        let (x, out) = (&x[first * stride..], &mut sums[first * width..end * width]);
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                match end - first {
                    $($rows if $rows <= tallest::<S>() => tile(simd, Tile::<F, $rows> { x, stride, panel, out }),)*
                    _ => {}
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

/// Each tile is compiled on its own: within one large function the compiler keeps its sums in memory.
#[inline(never)]
fn tile<S: Simd, F: Format, const ROWS: usize>(simd: S, tile: Tile<F, ROWS>) {
    simd.vectorize(tile);
}

/// The tile of the module's picture.
struct Tile<'a, F: Format, const ROWS: usize> {
    x: &'a [f32],
    stride: usize,
    panel: &'a [F::Raw],
    /// The sums, `[ROWS, 2 * lanes]`.
    out: &'a mut [f32],
}

impl<F: Format, const ROWS: usize> WithSimd for Tile<'_, F, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Four inputs to a turn of the loop; slices whose lengths the compiler can compare, so that it checks no index.
        let words = F::words::<S>(self.panel);
        let (quads, rest) = words.as_chunks::<4>();
        let rows: [&[f32]; ROWS] = from_fn(|r| &self.x[r * self.stride..][..words.len()]);
        let x: [&[[f32; 4]]; ROWS] = from_fn(|r| &rows[r].as_chunks::<4>().0[..quads.len()]);
        let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
        for (i, quad) in quads.iter().enumerate() {
            for (j, &word) in quad.iter().enumerate() {
                let w = F::widen(simd, word);
                for r in 0..ROWS {
                    let x = simd.splat_f32s(x[r][i][j]);
                    sums[r] = [simd.mul_add_e_f32s(x, w[0], sums[r][0]), simd.mul_add_e_f32s(x, w[1], sums[r][1])];
                }
            }
        }
        let done = words.len() - rest.len();
        for (j, &word) in rest.iter().enumerate() {
            let w = F::widen(simd, word);
            for r in 0..ROWS {
                let x = simd.splat_f32s(rows[r][done + j]);
                sums[r] = [simd.mul_add_e_f32s(x, w[0], sums[r][0]), simd.mul_add_e_f32s(x, w[1], sums[r][1])];
            }
        }
        for (out, sums) in S::as_mut_simd_f32s(self.out).0.as_chunks_mut().0.iter_mut().zip(sums) {
            *out = sums;
        }
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::AudioEncoder;
    use crate::encoder::tests::tiny;
    use burn::tensor::{Device, Tensor, TensorData};
    use half::f16;
    use ndarray::Array3;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Every instruction set that this machine has, the plainest first.
    fn instruction_sets() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = pulp::x86::V3::try_new().map(Arch::V3);
            let v4 = pulp::x86::V4::try_new().map(Arch::V4);
            [Arch::Scalar].into_iter().chain(v3).chain(v4).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Arch::Scalar, Arch::new()]
    }

    /// Weights as a model has them, all exact in 16 bits.
    fn weights(config: &EncoderConfig, seed: u64) -> Weights {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Weights::random(config, seed);
        weights.mean.iter_mut().for_each(|m| *m = rng.random_range(3.0..5.0));
        weights.std.iter_mut().for_each(|s| *s = rng.random_range(1.0..3.0));
        for layer in &mut weights.layers {
            layer.weight.mapv_inplace(|w| f16::from_f32(w).to_f32());
            layer.bias.iter_mut().for_each(|b| *b = rng.random_range(-0.3..0.3));
        }
        weights
    }

    fn noise(config: &EncoderConfig, songs: usize) -> Array3<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        Array3::from_shape_simple_fn((songs, config.frames, config.mel_bands), || rng.random_range(0.0..8.0))
    }

    fn burn(config: &EncoderConfig, weights: &Weights, mels: &Array3<f32>) -> Array2<f32> {
        let device = Device::flex();
        let data = TensorData::new(mels.iter().copied().collect(), <[usize; 3]>::from(mels.dim()));
        let answers = AudioEncoder::new(config, weights, &device).forward(Tensor::from_data(data, &device), None);
        Array2::from_shape_vec((mels.dim().0, config.dimensions), answers.into_data().try_into_vec_as().unwrap())
            .unwrap()
    }

    #[test]
    fn it_is_the_network() {
        let odd = EncoderConfig {
            mel_bands: 3,
            frames: 200,
            channels: [5, 33, 7, 50],
            kernel: 3,
            pools: [5, 3, 1],
            dense: [17, 100],
            dimensions: 1,
            dropout: 0.0,
        };
        let narrow =
            EncoderConfig { mel_bands: 1, kernel: 1, channels: [16, 48, 1, 31], pools: [64, 1, 2], ..odd.clone() };
        let cases =
            [(EncoderConfig::default(), 2), (tiny(), 1), (tiny(), 20), (odd.clone(), 7), (odd, 70), (narrow, 3)];
        for (config, songs) in cases {
            config.check().unwrap();
            let weights = weights(&config, 3);
            let mels = noise(&config, songs);
            let truth = burn(&config, &weights, &mels);
            let scale = truth.iter().fold(1.0, |most: f32, y| most.max(y.abs()));
            assert!(truth.iter().any(|y| y.abs() > 0.01), "{truth}");
            for arch in instruction_sets() {
                let ours = Network::on(arch, &config, &weights).predict(mels.view());
                let worst = ours.iter().zip(&truth).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
                assert!(worst < 1e-5 * scale, "{worst} of {scale} with {arch:?}, {config:?}");
            }
        }
    }

    /// Both multiply and add in one rounding, in the same order.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn avx2_and_avx512_agree_to_the_last_bit() {
        let config = EncoderConfig { dense: [40, 33], ..tiny() };
        let weights = weights(&config, 1);
        let mels = noise(&config, 3);
        let fused: Vec<_> = instruction_sets()[1..].iter().map(|&a| Network::on(a, &config, &weights)).collect();
        for pair in fused.windows(2) {
            assert_eq!(pair[0].predict(mels.view()), pair[1].predict(mels.view()));
        }
    }

    #[test]
    fn any_layout_of_the_input_is_read() {
        let (config, mels) = (tiny(), noise(&tiny(), 3));
        let network = Network::new(&config, &weights(&config, 1));
        let mut other = Array3::zeros((119, 3, 8)).permuted_axes([1, 0, 2]);
        other.assign(&mels);
        assert_eq!(network.predict(other.view()), network.predict(mels.view()));
        assert_eq!(network.predict(mels.slice(ndarray::s![..0, .., ..])).dim(), (0, 5));
    }

    #[test]
    fn sixteen_bits_hold_every_half_below_128() {
        for half in (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()) {
            let weight = half.to_f32();
            assert_eq!(decode(code(weight)).to_bits() == weight.to_bits(), weight.abs() < 128.0, "{weight}");
        }
        for rounded in [0.1, 1e-9, f32::MIN_POSITIVE] {
            assert_ne!(decode(code(rounded)), rounded);
        }
    }

    #[test]
    fn a_layer_is_halved_only_where_that_changes_nothing() {
        let config = tiny();
        let exact = weights(&config, 1);
        let mels = noise(&config, 15);
        let half = Network::new(&config, &exact);
        let mut wide = Network::new(&config, &exact);
        for (i, layer) in exact.layers.iter().enumerate().skip(CONVOLUTIONS) {
            assert!(matches!(half.layers[i].columns, Columns::Half(_)));
            wide.layers[i].columns = Packed::new(layer, wide.layers[i].lanes, false).columns;
        }
        assert_eq!(half.predict(mels.view()), wide.predict(mels.view()));

        for weight in [200.0, 0.1] {
            let mut weights = exact.clone();
            weights.layers[4].weight[[35, 23]] = weight;
            assert!(matches!(Network::new(&config, &weights).layers[4].columns, Columns::Wide(_)));
        }
    }
}
