//! A Gram matrix made diagonal: its eigenvalues, and the rotation into the coordinates of its eigenvectors.

use ndarray::Array2;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::jacobi::orthogonalise;
use super::rows::{Gram, Layout, Rows, TALL};
use crate::error::Result;

/// Cosines between eigenvectors times eigenvalues; far below the rounding of the factors that they turn.
const ORTHOGONAL: f64 = 1e-8;
/// Rows that one task turns.
const ROWS_PER_TASK: usize = 64 * TALL;

/// What a Gram matrix is in the coordinates of its eigenvectors.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues `[1, d]`.
    pub(super) values: Rows,
    /// The eigenvectors `[d, d]`, a column each.
    vectors: Rows,
}

impl Gram {
    /// Its eigenvalues and eigenvectors, in no order: the nearer the matrix is to diagonal, the fewer sweeps of Jacobi's
    /// method it needs (40 dimensions: 0.2 ms from scratch).
    ///
    /// # Errors
    /// `Invalid` where its numbers are not finite.
    pub fn eigen(&self) -> Result<Eigen> {
        let d = self.dimensions();
        let mut scaled = self.to_matrix().mapv(f64::from);
        let mut vectors = Array2::eye(d);
        orthogonalise(&mut scaled, &mut vectors, ORTHOGONAL)?;
        // What was the matrix is now a row per eigenvector, times its eigenvalue.
        let mut values = Rows::zeros(1, d);
        let pairs = scaled.rows().into_iter().zip(vectors.rows());
        for (value, (scaled, vector)) in values.row_mut(0).iter_mut().zip(pairs) {
            // A Gram matrix has none below 0 but by rounding.
            *value = scaled.dot(&vector).max(0.0) as f32;
        }
        Ok(Eigen { values, vectors: Rows::of(vectors.t().mapv(|x| x as f32).view()) })
    }
}

impl Eigen {
    /// `[d]`
    pub fn values(&self) -> &[f32] {
        self.values.row(0)
    }

    /// What turns back: [`Rows::rotate`] with it undoes that with `self`. Its eigenvalues are the same.
    pub fn inverse(&self) -> Eigen {
        Eigen { values: self.values.clone(), vectors: Rows::of(self.vectors.to_array().t()) }
    }
}

impl Rows {
    /// Every row in the coordinates of the eigenvectors, in place. Inner products with rows that are turned alike stay.
    pub fn rotate(&mut self, eigen: &Eigen) {
        let layout = self.layout();
        let vectors = eigen.vectors.padded();
        self.padded_mut().par_chunks_mut(ROWS_PER_TASK * layout.stride).for_each_init(
            || Rows::zeros(TALL, layout.d),
            |copy, rows| Arch::new().dispatch(Rotation { rows, vectors, copy: copy.padded_mut(), layout }),
        );
    }
}

/// `X ← XV`
struct Rotation<'a> {
    rows: &'a mut [f32],
    vectors: &'a [f32],
    /// Room for [`TALL`] rows.
    copy: &'a mut [f32],
    layout: Layout,
}

impl WithSimd for Rotation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rotation { rows, vectors, copy, layout: Layout { d, stride, .. } } = self;
        let registers = stride / S::F32_LANES;
        // As many rows at a time as have their sums in registers, beside a row of the eigenvectors (see `Panel`).
        let tall = if S::REGISTER_COUNT >= 32 { TALL } else { TALL / 2 };
        for rows in rows.chunks_mut(tall * stride) {
            let from = &mut copy[..tall * stride];
            from[..rows.len()].copy_from_slice(rows);
            let mut at = 0;
            while at < registers {
                let many = match registers - at {
                    4 => 2,
                    left => left.min(3),
                };
                let (from, work) = (&*from, Work { vectors, d, stride, at });
                match (tall == TALL, many) {
                    (true, 1) => tile::<S, TALL, 1>(simd, work, from, rows),
                    (true, 2) => tile::<S, TALL, 2>(simd, work, from, rows),
                    (true, _) => tile::<S, TALL, 3>(simd, work, from, rows),
                    (false, 1) => tile::<S, { TALL / 2 }, 1>(simd, work, from, rows),
                    (false, 2) => tile::<S, { TALL / 2 }, 2>(simd, work, from, rows),
                    (false, _) => tile::<S, { TALL / 2 }, 3>(simd, work, from, rows),
                }
                at += many;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Work<'a> {
    /// `[d, stride]`
    vectors: &'a [f32],
    d: usize,
    stride: usize,
    /// The first register of a row that is wanted.
    at: usize,
}

/// Compiled on its own: within one large function the compiler keeps its sums in memory.
#[inline(never)]
fn tile<S: Simd, const R: usize, const K: usize>(simd: S, work: Work, from: &[f32], to: &mut [f32]) {
    simd.vectorize(Tile::<R, K> { work, from, to });
}

/// `K` registers of up to `R` rows.
struct Tile<'a, const R: usize, const K: usize> {
    work: Work<'a>,
    /// `[R, stride]`
    from: &'a [f32],
    to: &'a mut [f32],
}

impl<const R: usize, const K: usize> WithSimd for Tile<'_, R, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { work: Work { vectors, d, stride, at }, from, to } = self;
        let from: [&[f32]; R] = std::array::from_fn(|r| &from[r * stride..][..d]);
        let mut sums = [[simd.splat_f32s(0.0); K]; R];
        for (j, vectors) in vectors.chunks_exact(stride).take(d).enumerate() {
            let along: [S::f32s; K] =
                *S::as_simd_f32s(vectors).0[at..].first_chunk().expect("rows are padded to whole registers");
            for r in 0..R {
                let x = simd.splat_f32s(from[r][j]);
                for k in 0..K {
                    sums[r][k] = simd.mul_add_f32s(x, along[k], sums[r][k]);
                }
            }
        }
        for (row, sums) in to.chunks_exact_mut(stride).zip(sums) {
            S::as_mut_simd_f32s(row).0[at..].iter_mut().zip(sums).for_each(|(x, sum)| *x = sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_its_own_coordinates_a_gram_matrix_is_diagonal() {
        for d in [1, 5, 16, 40, 70, 256] {
            for n in [d / 2, 3 * d + 5] {
                let rows = Array2::from_shape_fn((n, d), |(i, j)| {
                    ((i * 31 + j * 17 + i * j) % 101) as f32 / 50.0 - 1.0 + 3.0 / (1 + j) as f32
                });
                let mut turned = Rows::of(rows.view());
                let gram = Gram::of(&turned);
                let eigen = gram.eigen().unwrap();
                turned.rotate(&eigen);
                assert!(
                    turned.padded().chunks_exact(turned.layout().stride).all(|row| row[d..].iter().all(|&x| x == 0.0))
                );
                // Only a rotation: inner products stay.
                let (before, after) = (rows.dot(&rows.t()), turned.to_array().dot(&turned.to_array().t()));
                let scale = before.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                (&before - &after).iter().for_each(|x| assert!(x.abs() <= 1e-5 * scale, "{d} {n}: {x} of {scale}"));
                let matrix = Gram::of(&turned).to_matrix();
                let largest = matrix.diag().iter().fold(0.0f32, |m, x| m.max(*x));
                for ((i, j), &x) in matrix.indexed_iter() {
                    let expected = if i == j { eigen.values.row(0)[i] } else { 0.0 };
                    assert!((x - expected).abs() <= 2e-5 * largest, "{d} {n}: {i} {j}: {x} {expected} of {largest}");
                }
                assert_eq!(eigen.values(), eigen.values.row(0));
                turned.rotate(&eigen.inverse());
                let back = turned.to_array();
                (&back - &rows).iter().for_each(|x| assert!(x.abs() <= 1e-5 * scale.sqrt(), "{d} {n}: {x}"));
            }
        }
    }

    #[test]
    fn nothing_and_nonsense() {
        let none = Gram::of(&Rows::zeros(0, 3)).eigen().unwrap();
        assert_eq!(none.values.row(0), [0.0; 3]);
        assert!(Gram::from_matrix(Array2::from_elem((3, 3), f32::NAN).view()).eigen().is_err());
    }
}
