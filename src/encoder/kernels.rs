//! The loops that a network on the CPU spends its time in, for the instruction set found at run time.
//!
//! Every layer is a matrix product, and nearly all time of a forward pass is spent in one loop, the tile:
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
//! bias and ReLU, are taken from a small block of finished sums that the first-level cache still holds.
//!
//! A sum is always added up in the order of its inputs, in one register lane, whatever the tile's size. So a song's
//! numbers are the same to the last bit alone, in a batch and on any number of threads.
//!
//! Going back, most factors are 0: of a pool's frames only the loudest has a gradient, and what a ReLU silenced has
//! none. There the loop is [`Gather`], which multiplies by the others only:
//!
//! ```text
//!   terms (place, g): ─► sums, 16 registers  +=  g × source[place ..]        one load for each multiplication
//! ```

use std::array::from_fn;
use std::ops::{Deref, DerefMut, Range};

use ndarray::{ArrayView2, Axis};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Layer, RMS_FLOOR};

/// Rows of the largest tile.
const TILE: usize = 12;

/// Rows of sums that are finished before they are pooled, about: 48 × 32 numbers are 6 KB. A multiple of every pool
/// that divides 12 leaves no small tiles.
const BLOCK: usize = 48;

/// `(mel - mean) / std` of each band; all rows are `[mel_bands]`.
#[inline(always)]
pub(super) fn standardise(mel: &[f32], mean: &[f32], std: &[f32], out: &mut [f32]) {
    for (out, mel) in out.chunks_exact_mut(mean.len()).zip(mel.chunks_exact(mean.len())) {
        for (((out, mel), mean), std) in out.iter_mut().zip(mel).zip(mean).zip(std) {
            *out = (mel - mean) / std;
        }
    }
}

/// Mean, maximum and RMS over time, side by side: `[time, channels]` to `[3 * channels]`.
#[inline(always)]
pub(super) fn over_time(x: &[f32], channels: usize, heard: &mut [f32]) {
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
pub(super) struct Packed {
    pub inputs: usize,
    pub outputs: usize,
    /// Rows of the product of which the maximum is taken.
    pub pool: usize,
    /// Whether a ReLU follows.
    pub clip: bool,
    /// Numbers in a register.
    pub lanes: usize,
    /// `[panels * width]`
    pub bias: Vec<f32>,
    pub columns: Columns,
}

pub(super) enum Columns {
    /// `[panels, inputs, 2, lanes]`
    Wide(Aligned),
    /// `[panels, inputs, lanes]`: columns l and lanes + l of an input as two [`code`]s, the first in the low half.
    Half(Vec<u32>),
}

impl Packed {
    /// Without pool and ReLU. `halve`: as 16 bits each, if that changes no weight.
    pub fn new(layer: &Layer, lanes: usize, halve: bool) -> Packed {
        let mut packed = Packed::empty(lanes);
        packed.fill(layer.weight.view(), layer.bias.as_slice().unwrap_or_default());
        if let Columns::Wide(wide) = &packed.columns {
            // A fold over all is faster than looking for the first.
            let exact = |&w: &f32| decode(code(w)).to_bits() == w.to_bits();
            if halve && wide.iter().fold(true, |all, w| all & exact(w)) {
                let mut half = vec![0; wide.len() / 2];
                for (half, wide) in half.chunks_exact_mut(lanes).zip(wide.chunks_exact(2 * lanes)) {
                    for ((half, &low), &high) in half.iter_mut().zip(&wide[..lanes]).zip(&wide[lanes..]) {
                        *half = u32::from(code(low)) | u32::from(code(high)) << 16;
                    }
                }
                packed.columns = Columns::Half(half);
            }
        }
        packed
    }

    /// A buffer for [`Packed::fill`], for a layer without pool and ReLU.
    pub fn empty(lanes: usize) -> Packed {
        let columns = Columns::Wide(Aligned::default());
        Packed { inputs: 0, outputs: 0, pool: 1, clip: false, lanes, bias: Vec::new(), columns }
    }

    /// Holds these weights `[inputs, outputs]` from now on, 32 bits wide. An empty bias is one of zeros.
    pub fn fill(&mut self, weight: ArrayView2<f32>, bias: &[f32]) {
        let (inputs, width) = (weight.nrows(), 2 * self.lanes);
        let panels = self.resize(inputs, weight.ncols(), bias).par_chunks_exact_mut(inputs * width);
        panels.zip(weight.axis_chunks_iter(Axis(1), width).into_par_iter()).for_each(|(panel, columns)| {
            for (to, from) in panel.chunks_exact_mut(width).zip(columns.outer_iter()) {
                let (to, rest) = to.split_at_mut(from.len());
                match from.as_slice() {
                    Some(from) => to.copy_from_slice(from),
                    None => from.iter().zip(to).for_each(|(&from, to)| *to = from),
                }
                rest.fill(0.0);
            }
        });
    }

    /// [`Packed::fill`] with the transpose of `weight`, rows `[outputs, inputs]` side by side in memory; no bias.
    pub fn fill_transposed(&mut self, weight: &[f32], inputs: usize) {
        let width = 2 * self.lanes;
        let panels = self.resize(inputs, weight.len() / inputs, &[]).chunks_exact_mut(inputs * width);
        for (panel, rows) in panels.zip(weight.chunks(inputs * width)) {
            if rows.len() < panel.len() {
                panel.fill(0.0);
            }
            transpose(rows, inputs, panel, width);
        }
    }

    fn resize(&mut self, inputs: usize, outputs: usize, bias: &[f32]) -> &mut [f32] {
        (self.inputs, self.outputs) = (inputs, outputs);
        let columns = self.panels() * self.width();
        self.bias.clear();
        self.bias.extend_from_slice(bias);
        self.bias.resize(columns, 0.0);
        if let Columns::Half(_) = self.columns {
            self.columns = Columns::Wide(Aligned::default());
        }
        match &mut self.columns {
            Columns::Wide(wide) => {
                wide.resize(columns * inputs);
                wide
            }
            Columns::Half(_) => &mut [],
        }
    }

    pub fn width(&self) -> usize {
        2 * self.lanes
    }

    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(self.width())
    }
}

/// Numbers that begin where a cache line does, so that no load of a register touches two. A resized buffer holds
/// anything.
#[derive(Default)]
pub(super) struct Aligned {
    numbers: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Of a cache line, in bytes and in numbers.
    const LINE: usize = 64;
    const SLACK: usize = Aligned::LINE / size_of::<f32>() - 1;

    pub fn resize(&mut self, len: usize) {
        if self.numbers.len() < len + Aligned::SLACK {
            self.numbers = vec![0.0; len + Aligned::SLACK];
            // At most the slack, but the method may answer that it does not know.
            self.start = self.numbers.as_ptr().align_offset(Aligned::LINE).min(Aligned::SLACK);
        }
        self.len = len;
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.numbers[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.start..][..self.len]
    }
}

/// `to[c, r] = from[r, c]`. The rows of `from` are `columns` long, those of `to` at least as long as `from` has rows.
pub(super) fn transpose(from: &[f32], columns: usize, to: &mut [f32], to_columns: usize) {
    // Squares of 16 × 16: as many cache lines on either side as stay in the first-level cache.
    const SIDE: usize = 16;
    let rows = from.len() / columns;
    for r in (0..rows).step_by(SIDE) {
        for c in (0..columns).step_by(SIDE) {
            let end = (c + SIDE).min(columns);
            for r in r..(r + SIDE).min(rows) {
                let from = &from[r * columns..][c..end];
                for (to, &from) in to[c * to_columns..].iter_mut().skip(r).step_by(to_columns).zip(from) {
                    *to = from;
                }
            }
        }
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

/// Some rows and columns of a layer's result. Row r of its input is the `layer.inputs` numbers of `x` from `r * stride` on,
/// and `layer.pool` such rows make one of the result.
pub(super) struct Product<'a> {
    pub layer: &'a Packed,
    pub x: &'a [f32],
    pub stride: usize,
    pub panels: Range<usize>,
    /// `[rows, columns]`: from the first panel's first column on, as many as fit in.
    pub out: &'a mut [f32],
    pub columns: usize,
    /// Of the same shape: which row of its pool was the greatest, the first of equals.
    pub places: Option<&'a mut [u32]>,
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
        let Product { layer, x, stride, panels, out, columns, mut places } = self;
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
                for ((out, pool), row) in out.chunks_exact_mut(columns).zip(pools).zip(first..) {
                    let mut y = pool[0];
                    if let Some(places) = &mut places {
                        let mut place = [simd.splat_u32s(0); 2];
                        for (more, i) in pool[1..].iter().zip(1..) {
                            let i = simd.splat_u32s(i);
                            for half in 0..2 {
                                let greater = simd.greater_than_f32s(more[half], y[half]);
                                place[half] = simd.select_u32s(greater, i, place[half]);
                                y[half] = simd.max_f32s(y[half], more[half]);
                            }
                        }
                        match S::as_mut_simd_u32s(&mut places[row * columns..][column..end]) {
                            ([a, b], _) => (*a, *b) = (place[0], place[1]),
                            ([a], rest) => {
                                *a = place[0];
                                simd.partial_store_u32s(rest, place[1]);
                            }
                            (_, rest) => simd.partial_store_u32s(rest, place[0]),
                        }
                    } else {
                        for more in &pool[1..] {
                            y = [simd.max_f32s(y[0], more[0]), simd.max_f32s(y[1], more[1])];
                        }
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

/// One product of a sum: what is read from place `at`, times `by`.
#[derive(Clone, Copy, Default)]
pub(super) struct Term {
    pub at: u32,
    pub by: f32,
}

/// Lists of terms, each with room for `room` of them.
#[derive(Default)]
pub(super) struct Terms {
    room: usize,
    counts: Vec<usize>,
    terms: Vec<Term>,
}

impl Terms {
    /// So many empty lists.
    pub fn reset(&mut self, lists: usize, room: usize) {
        self.room = room;
        self.counts.clear();
        self.counts.resize(lists, 0);
        if self.terms.len() < lists * room {
            self.terms.resize(lists * room, Term::default());
        }
    }

    /// Without a branch, which would be mispredicted half of the time: a term of 0 is overwritten by the next. At most
    /// `room` terms are pushed to a list, those of 0 too.
    #[inline(always)]
    pub fn push(&mut self, list: usize, term: Term) {
        let count = &mut self.counts[list];
        self.terms[list * self.room + *count] = term;
        *count += usize::from(term.by != 0.0);
    }

    #[inline(always)]
    pub fn list(&self, list: usize) -> &[Term] {
        &self.terms[list * self.room..][..self.counts[list]]
    }
}

/// For each of some lists, `width` numbers of `out`: `+= Σ by · source[at * step ..][.. width]`.
pub(super) struct Gather<'a> {
    pub terms: &'a Terms,
    pub lists: Range<usize>,
    pub source: &'a [f32],
    pub step: usize,
    /// The first list's numbers, from `stride` on the second's ..; they may overlap.
    pub out: &'a mut [f32],
    pub stride: usize,
    pub width: usize,
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gather { terms, lists, source, step, out, stride, width } = self;
        for (list, place) in lists.zip((0..).step_by(stride)) {
            let terms = terms.list(list);
            let out = &mut out[place..][..width];
            let mut done = 0;
            macro_rules! run_of {
                ($($registers:literal)*) => {$(
                    // Of AVX2's 16 registers, 8 hold sums.
                    while $registers < S::REGISTER_COUNT && width - done >= $registers * S::F32_LANES {
                        let out = &mut out[done..][..$registers * S::F32_LANES];
                        run(simd, Run::<$registers> { terms, source: &source[done..], step, out });
                        done += out.len();
                    }
                )*};
            }
            run_of!(16 8 4 2 1);
            for (i, out) in out.iter_mut().enumerate().skip(done) {
                *out = terms.iter().fold(*out, |sum, term| sum + term.by * source[term.at as usize * step + i]);
            }
        }
    }
}

/// Compiled on its own, as a tile is.
#[inline(never)]
fn run<S: Simd, const REGISTERS: usize>(simd: S, run: Run<REGISTERS>) {
    simd.vectorize(run);
}

/// As much of one list's numbers as stays in registers.
struct Run<'a, const REGISTERS: usize> {
    terms: &'a [Term],
    source: &'a [f32],
    step: usize,
    /// `[REGISTERS * lanes]`
    out: &'a mut [f32],
}

impl<const REGISTERS: usize> WithSimd for Run<'_, REGISTERS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Run { terms, source, step, out } = self;
        let Some(out) = S::as_mut_simd_f32s(out).0.first_chunk_mut::<REGISTERS>() else { return };
        let mut sums = *out;
        for term in terms {
            let by = simd.splat_f32s(term.by);
            let numbers = &source[term.at as usize * step..][..REGISTERS * S::F32_LANES];
            let Some(numbers) = S::as_simd_f32s(numbers).0.first_chunk::<REGISTERS>() else { return };
            for (sum, &x) in sums.iter_mut().zip(numbers) {
                *sum = simd.mul_add_e_f32s(by, x, *sum);
            }
        }
        *out = sums;
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

/// Numbers in a register.
pub(super) fn lanes(arch: Arch) -> usize {
    arch.dispatch(Lanes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use half::f16;

    /// Every instruction set that this machine has, the plainest first.
    pub(crate) fn instruction_sets() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = pulp::x86::V3::try_new().map(Arch::V3);
            let v4 = pulp::x86::V4::try_new().map(Arch::V4);
            [Arch::Scalar].into_iter().chain(v3).chain(v4).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Arch::Scalar, Arch::new()]
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
}
