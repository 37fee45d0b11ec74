//! Matrices of factors as the processor likes them, and their Gram matrices.

use ndarray::{Array2, ArrayView2, Axis};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Numbers of a cache line.
const LINE: usize = 64 / size_of::<f32>();
/// Registers of a row that are worked on at a time, at most: eight sums of one row and eight numbers of another leave
/// the other half of AVX-512's registers free.
const MAX_TILE: usize = 8;
/// Rows of a Gram matrix that are summed at a time.
pub(super) const TALL: usize = 8;

/// How a row of `d` numbers lies in memory, for the registers of this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub d: usize,
    /// Registers that are worked on at a time, 1 to [`MAX_TILE`].
    pub tile: usize,
    /// Numbers from one row to the next: whole tiles, and at least `d` rounded up to [`TALL`].
    pub stride: usize,
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

impl Layout {
    pub fn of(d: usize) -> Layout {
        let lanes = Arch::new().dispatch(Lanes);
        let registers = d.next_multiple_of(TALL).div_ceil(lanes).max(1);
        // Of even size, so that the last is not mostly padding.
        let tiles = registers.div_ceil(MAX_TILE);
        let tile = registers.div_ceil(tiles);
        Layout { d, tile, stride: tiles * tile * lanes }
    }

    /// Numbers from one row to the next of a square matrix, which has room for a right-hand side in column `d`.
    pub fn width(&self) -> usize {
        if self.stride > self.d { self.stride } else { self.stride + LINE }
    }

    /// Rows of a square matrix.
    pub fn height(&self) -> usize {
        self.d.next_multiple_of(TALL)
    }
}

/// A matrix `[n, d]` of factors, a row each. Rows are padded with zeros to whole registers, and the first begins at a
/// cache line: with AVX-512 one of 40 numbers is three lines and three registers.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `[n, stride]` from `start` on.
    data: Vec<f32>,
    start: usize,
    layout: Layout,
    n: usize,
}

impl Rows {
    /// Zeros `[n, d]`.
    pub fn zeros(n: usize, d: usize) -> Rows {
        let layout = Layout::of(d);
        let data = vec![0.0f32; n * layout.stride + LINE];
        let start = data.as_ptr().align_offset(64).min(LINE);
        Rows { data, start, layout, n }
    }

    pub fn of(rows: ArrayView2<f32>) -> Rows {
        let mut copy = Rows::zeros(rows.nrows(), rows.ncols());
        for (i, row) in rows.rows().into_iter().enumerate() {
            copy.row_mut(i).iter_mut().zip(row).for_each(|(to, from)| *to = *from);
        }
        copy
    }

    pub fn to_array(&self) -> Array2<f32> {
        Array2::from_shape_fn((self.n, self.layout.d), |(i, j)| self.padded()[i * self.layout.stride + j])
    }

    /// As [`Rows::to_array`], in the memory that the rows had.
    pub fn into_array(mut self) -> Array2<f32> {
        let Layout { d, stride, .. } = self.layout;
        for i in 0..self.n {
            let from = self.start + i * stride;
            self.data.copy_within(from..from + d, i * d);
        }
        self.data.truncate(self.n * d);
        Array2::from_shape_vec((self.n, d), self.data).expect("n rows of d numbers")
    }

    pub fn len(&self) -> usize {
        self.n
    }

    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn dimensions(&self) -> usize {
        self.layout.d
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.padded()[i * self.layout.stride..][..self.layout.d]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        let Layout { d, stride, .. } = self.layout;
        &mut self.padded_mut()[i * stride..][..d]
    }

    /// `[n, stride]`
    pub(super) fn padded(&self) -> &[f32] {
        &self.data[self.start..][..self.n * self.layout.stride]
    }

    pub(super) fn padded_mut(&mut self) -> &mut [f32] {
        let numbers = self.n * self.layout.stride;
        &mut self.data[self.start..][..numbers]
    }

    /// Blocks of `rows` rows each, the last with the rest; the rows of a block are those of [`PaddedRows`].
    pub fn par_blocks_mut(&mut self, rows: usize) -> impl IndexedParallelIterator<Item = PaddedRows<'_>> {
        let stride = self.layout.stride;
        self.padded_mut().par_chunks_mut(rows * stride).map(move |data| PaddedRows { data, stride })
    }
}

/// Some rows of a [`Rows`], with their padding, which stays zero.
pub struct PaddedRows<'a> {
    data: &'a mut [f32],
    stride: usize,
}

impl PaddedRows<'_> {
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.stride)
    }
}

#[test]
fn rows_come_back_as_they_went_in_and_lie_on_cache_lines() {
    for d in [1, 7, 8, 16, 40, 41, 64, 100, 129, 256, 300] {
        let array = Array2::from_shape_fn((5, d), |(i, j)| (i * 1000 + j) as f32);
        let mut rows = Rows::of(array.view());
        assert_eq!(rows.to_array(), array);
        assert_eq!(rows.row(3), array.row(3).to_slice().unwrap());
        let Layout { stride, tile, .. } = rows.layout();
        let lanes = Arch::new().dispatch(Lanes);
        assert!(
            stride >= d.next_multiple_of(TALL) && stride % (tile * lanes) == 0 && stride < 2 * d + 32,
            "{d}: {stride}"
        );
        assert_eq!(rows.row(0).as_ptr() as usize % 64, 0);
        rows.row_mut(4)[d - 1] = -1.0;
        assert_eq!((rows.row(4)[d - 1], rows.row(3)[d - 1]), (-1.0, array[[3, d - 1]]));
        assert_eq!(rows.clone().into_array(), rows.to_array());
    }
}

/// Rows whose products are summed in `f32` before the sum moves on to `f64`.
const GRAM_BLOCK: usize = 1024;
/// Partial Gram matrices that are summed side by side: a number that no thread count changes, so that neither does
/// the result.
const GRAM_PARTS: usize = 64;

/// `YᵀY` `[d, d]` of the rows `Y` `[n, d]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    /// `[height, width]`; zero beyond `d`.
    pub(super) data: Vec<f32>,
    pub(super) layout: Layout,
}

impl Gram {
    /// Summed in `f64`; the same bits whatever the number of threads.
    pub fn of(rows: &Rows) -> Gram {
        let layout = rows.layout;
        Gram::sum(layout, rows.padded(), layout.stride, |block, sums| add_products(block, layout, sums))
    }

    /// The same of an array, which is copied block by block.
    pub fn of_array(rows: ArrayView2<f32>) -> Gram {
        let layout = Layout::of(rows.ncols());
        let numbers: Vec<usize> = (0..rows.nrows()).collect();
        Gram::sum(layout, &numbers, 1, |block, sums| {
            let first = block.first().copied().unwrap_or(0);
            let block = Rows::of(rows.slice_axis(Axis(0), (first..first + block.len()).into()));
            add_products(block.padded(), layout, sums);
        })
    }

    /// `row` elements of `data` are a row.
    fn sum<T: Sync>(layout: Layout, data: &[T], row: usize, add: impl Fn(&[T], &mut [f32]) + Sync) -> Gram {
        let size = layout.height() * layout.width();
        let part = (data.len() / row).div_ceil(GRAM_PARTS).max(GRAM_BLOCK);
        let partial = |part: &[T]| {
            let mut sum = vec![0.0f64; size];
            let mut of_block = vec![0.0f32; size];
            for block in part.chunks(GRAM_BLOCK * row) {
                of_block.fill(0.0);
                add(block, &mut of_block);
                sum.iter_mut().zip(&of_block).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            sum
        };
        let parts: Vec<_> = data.par_chunks(part * row).map(partial).collect();
        let mut sum = vec![0.0f64; size];
        parts.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
        let mut gram = Gram { data: sum.iter().map(|&x| x as f32).collect(), layout };
        gram.mirror();
        gram
    }

    /// # Panics
    /// Where it is not square.
    pub fn from_matrix(matrix: ArrayView2<f32>) -> Gram {
        let layout = Layout::of(matrix.ncols());
        assert!(matrix.is_square(), "a Gram matrix is square");
        let mut data = vec![0.0; layout.height() * layout.width()];
        for ((i, j), x) in matrix.indexed_iter() {
            data[i * layout.width() + j] = *x;
        }
        Gram { data, layout }
    }

    /// `[d, d]`
    pub fn to_matrix(&self) -> Array2<f32> {
        let Layout { d, .. } = self.layout;
        Array2::from_shape_fn((d, d), |(i, j)| self.data[i * self.layout.width() + j])
    }

    pub fn dimensions(&self) -> usize {
        self.layout.d
    }

    /// The mean of its eigenvalues.
    pub fn mean_diagonal(&self) -> f32 {
        let diagonal = self.data.iter().step_by(self.layout.width() + 1).take(self.layout.d);
        diagonal.sum::<f32>() / self.layout.d as f32
    }

    /// The lower triangle from the upper one, and nothing beyond `d`.
    fn mirror(&mut self) {
        let (d, width) = (self.layout.d, self.layout.width());
        for i in 0..d {
            for j in 0..i {
                self.data[i * width + j] = self.data[j * width + i];
            }
            self.data[i * width + d..(i + 1) * width].fill(0.0);
        }
        self.data[d * width..].fill(0.0);
    }
}

#[test]
fn the_gram_matrix_is_the_sum_of_outer_products() {
    for d in [1, 5, 16, 40, 70] {
        let rows = Array2::from_shape_fn((3000, d), |(i, j)| ((i * 7 + j * 13) % 11) as f32 - 5.0);
        // Small integers: exact in f32.
        let plain = rows.t().dot(&rows);
        let gram = Gram::of(&Rows::of(rows.view()));
        assert_eq!(gram.to_matrix(), plain);
        assert_eq!(Gram::of_array(rows.view()), gram);
        assert_eq!(Gram::from_matrix(plain.view()), gram);
        assert!((gram.mean_diagonal() / plain.diag().mean().unwrap() - 1.0).abs() < 1e-6);
    }
    let none = Gram::of(&Rows::zeros(0, 3));
    assert_eq!(none, Gram::from_matrix(Array2::zeros((3, 3)).view()));
}

/// Adds `ZᵀZ` of the padded rows `z` to the upper triangle of `sums` `[height, width]`.
pub(super) fn add_products(z: &[f32], layout: Layout, sums: &mut [f32]) {
    Arch::new().dispatch(Products { z, layout, sums });
}

struct Products<'a> {
    z: &'a [f32],
    layout: Layout,
    sums: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Products { z, layout, sums } = self;
        let registers = layout.stride / S::F32_LANES;
        for (panel, i) in sums.chunks_exact_mut(TALL * layout.width()).zip((0..).step_by(TALL)) {
            Panel::<true> { z, stride: layout.stride, i, registers, width: layout.width() }.run(simd, panel);
        }
    }
}

/// Rows `i..i + 8` of `ZᵀZ`, from the diagonal on, to be added to a panel `[8, width]` or (`ADD` false) subtracted.
///
/// Tiles of up to 8 rows and 3 registers of it are summed over all of `Z` in registers: 24 sums, 3 numbers along and 1
/// across are 28 of AVX-512's 32.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a, const ADD: bool> {
    /// `[n, stride]`
    pub z: &'a [f32],
    pub stride: usize,
    pub i: usize,
    /// Of a row of `Z`, those that are wanted.
    pub registers: usize,
    pub width: usize,
}

impl<const ADD: bool> Panel<'_, ADD> {
    #[inline(always)]
    pub fn run<S: Simd>(self, simd: S, panel: &mut [f32]) {
        let mut at = self.i / S::F32_LANES;
        while at < self.registers {
            // Two and two rather than three and one.
            let many = match self.registers - at {
                4 => 2,
                left => left.min(3),
            };
            if S::REGISTER_COUNT >= 32 {
                match many {
                    1 => tile::<S, ADD, TALL, 1>(simd, self, at, panel),
                    2 => tile::<S, ADD, TALL, 2>(simd, self, at, panel),
                    _ => tile::<S, ADD, TALL, 3>(simd, self, at, panel),
                }
            } else {
                let (upper, lower) = panel.split_at_mut(TALL / 2 * self.width);
                for (i, half) in [(self.i, upper), (self.i + TALL / 2, lower)] {
                    let work = Panel { i, ..self };
                    match many {
                        1 => tile::<S, ADD, { TALL / 2 }, 1>(simd, work, at, half),
                        2 => tile::<S, ADD, { TALL / 2 }, 2>(simd, work, at, half),
                        _ => tile::<S, ADD, { TALL / 2 }, 3>(simd, work, at, half),
                    }
                }
            }
            at += many;
        }
    }
}

/// Each tile is compiled on its own: within one large function the compiler keeps its sums in memory.
#[inline(never)]
fn tile<S: Simd, const ADD: bool, const R: usize, const K: usize>(
    simd: S,
    work: Panel<ADD>,
    at: usize,
    rows: &mut [f32],
) {
    simd.vectorize(Tile::<ADD, R, K> { work, at, rows });
}

struct Tile<'a, const ADD: bool, const R: usize, const K: usize> {
    work: Panel<'a, ADD>,
    at: usize,
    rows: &'a mut [f32],
}

impl<const ADD: bool, const R: usize, const K: usize> WithSimd for Tile<'_, ADD, R, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { work: Panel { z, stride, i, width, .. }, at, rows } = self;
        let mut sums = [[simd.splat_f32s(0.0); K]; R];
        for z in z.chunks_exact(stride) {
            let across: [f32; R] = *z[i..].first_chunk().expect("rows are padded to whole panels");
            let along: [S::f32s; K] = *S::as_simd_f32s(z).0[at..].first_chunk().expect("and to whole registers");
            for r in 0..R {
                let a = simd.splat_f32s(across[r]);
                for k in 0..K {
                    sums[r][k] = simd.mul_add_f32s(a, along[k], sums[r][k]);
                }
            }
        }
        for (row, sums) in rows.chunks_exact_mut(width).zip(sums) {
            for (x, sum) in S::as_mut_simd_f32s(row).0[at..].iter_mut().zip(sums) {
                *x = if ADD { simd.add_f32s(*x, sum) } else { simd.sub_f32s(*x, sum) };
            }
        }
    }
}
