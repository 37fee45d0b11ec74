//! Small dense algebra: Gram matrices, Cholesky, and the one weighted ridge solve that alternating least squares,
//! fold-in and hand-over share.

use ndarray::linalg::general_mat_mul;
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis, NdFloat, s};

use crate::error::{Error, Result};

/// The inner product, in eight running sums, so that it vectorises and its order of addition is fixed.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// The Euclidean norm.
pub fn norm(v: &[f32]) -> f32 {
    v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
}

/// `v` at unit length; `None` where it has no direction (zero, or not finite).
pub fn unit(v: &[f32]) -> Option<Vec<f32>> {
    let length = norm(v);
    (length.is_finite() && length > 0.0).then(|| v.iter().map(|x| x / length).collect())
}

#[test]
fn a_unit_vector_has_norm_one_and_zero_has_none() {
    let v = unit(&[3.0, 0.0, -4.0]).unwrap();
    assert_eq!((norm(&v), v[2]), (1.0, -0.8));
    assert!(unit(&[0.0, 0.0]).is_none() && unit(&[f32::NAN]).is_none() && unit(&[]).is_none());
}

/// Rows that are summed in `f32` before the sum moves on to `f64`.
const GRAM_BLOCK: usize = 1024;
/// Partial Gram matrices that are summed side by side: a number that no thread count changes, so that neither does
/// the result.
const GRAM_PARTS: usize = 64;

/// `YᵀY` `[d, d]` of the rows `Y` `[n, d]`, summed in `f64`; the same bits whatever the number of threads.
pub fn gram(rows: ArrayView2<f32>) -> Array2<f32> {
    let (n, d) = rows.dim();
    let part_rows = n.div_ceil(GRAM_PARTS).max(GRAM_BLOCK);
    let partial = |part: ArrayView2<f32>| {
        let mut sum = Array2::<f64>::zeros((d, d));
        for block in part.axis_chunks_iter(Axis(0), GRAM_BLOCK) {
            sum.zip_mut_with(&block.t().dot(&block), |s, &g| *s += f64::from(g));
        }
        sum
    };
    let parts: Vec<_> = rows.axis_chunks_iter(Axis(0), part_rows).into_par_iter().map(partial).collect();
    parts.iter().fold(Array2::<f64>::zeros((d, d)), |sum, part| sum + part).mapv(|g| g as f32)
}

#[test]
fn the_gram_matrix_is_the_sum_of_outer_products() {
    let rows = Array2::from_shape_fn((3000, 5), |(i, j)| ((i * 7 + j * 13) % 11) as f32 - 5.0);
    let mut plain = Array2::<f32>::zeros((5, 5));
    for row in rows.rows() {
        for i in 0..5 {
            for j in 0..5 {
                plain[[i, j]] += row[i] * row[j]; // small integers: exact in f32
            }
        }
    }
    assert_eq!(gram(rows.view()), plain);
}

/// Factorises the symmetric `a` `[d, d]`, row by row, into `UᵀU` in place: `U` in its upper triangle, nothing of use
/// below. False where `a` is not positive definite (or not finite).
pub fn cholesky<T: NdFloat>(a: &mut [T], d: usize) -> bool {
    for k in 0..d {
        let pivot = a[k * d + k];
        if !(pivot > T::zero() && pivot.is_finite()) {
            return false;
        }
        let inverse = T::one() / pivot.sqrt();
        a[k * d + k..(k + 1) * d].iter_mut().for_each(|x| *x *= inverse);
        let (done, rest) = a.split_at_mut((k + 1) * d);
        let row = &done[k * d..];
        // Every later row, as an update along itself: contiguous, so it vectorises without reordering sums. It begins
        // at a whole vector of lanes, up to seven numbers left of the diagonal, where nothing is read.
        for (i, later) in (k + 1..d).zip(rest.chunks_exact_mut(d)) {
            let (factor, start) = (row[i], i & !7);
            later[start..].iter_mut().zip(&row[start..]).for_each(|(x, &r)| *x -= factor * r);
        }
    }
    true
}

/// Solves `UᵀU x = b` in place of `b`, with `U` from [`cholesky`].
pub fn cholesky_solve<T: NdFloat>(u: &[T], b: &mut [T]) {
    let d = b.len();
    for k in 0..d {
        let (row, value) = (&u[k * d..(k + 1) * d], b[k] / u[k * d + k]);
        b[k] = value;
        b[k + 1..].iter_mut().zip(&row[k + 1..]).for_each(|(x, &r)| *x -= value * r);
    }
    for k in (0..d).rev() {
        let row = &u[k * d..(k + 1) * d];
        let known = b[k + 1..].iter().zip(&row[k + 1..]).fold(T::zero(), |sum, (&x, &r)| sum + x * r);
        b[k] = (b[k] - known) / row[k];
    }
}

#[test]
fn cholesky_solves_what_was_multiplied_and_refuses_what_is_not_positive_definite() {
    let d = 13;
    let y = Array2::from_shape_fn((40, d), |(i, j)| ((i * i + 3 * j * i + j) % 17) as f64 - 8.0);
    let a = y.t().dot(&y);
    let x: Vec<f64> = (0..d).map(|i| i as f64 - 4.5).collect();
    let mut b = a.dot(&ndarray::aview1(&x)).to_vec();
    let mut u = a.into_raw_vec_and_offset().0;
    assert!(cholesky(&mut u, d));
    cholesky_solve(&u, &mut b);
    x.iter().zip(&b).for_each(|(x, b)| assert!((x - b).abs() < 1e-9, "{x} {b}"));
    assert!(!cholesky(&mut [1.0f32, 2.0, 2.0, 1.0], 2));
    assert!(!cholesky(&mut [f32::NAN], 1));
}

/// Entries that are gathered before one matrix product takes them in: few enough for the nearest cache at 40
/// dimensions (10 KiB), enough to pay for the call.
const BLOCK: usize = 64;
/// How often the ridge is raised, tenfold each time, where rounding has made the matrix indefinite.
const RIDGE_TRIES: usize = 6;

/// The weighted ridge regression behind every row of a factorisation, with its working space.
///
/// Given the Gram matrix `G = YᵀY` of *all* rows of the other side, and the entries (row `yᵢ`, confidence `cᵢ ≥ 1`,
/// target `tᵢ`) that were observed, it finds
/// `x = (G + Σ(cᵢ−1)yᵢyᵢᵀ + λI)⁻¹ Σcᵢtᵢyᵢ`: Hu, Koren & Volinsky 2008, equation 4 and the speed-up below it, in which
/// every unobserved row has confidence 1 and target 0.
pub struct WeightedRidge {
    /// The matrix `[d, d]`.
    a: Array2<f32>,
    /// Its Cholesky factor, in the upper triangle.
    u: Vec<f32>,
    b: Vec<f64>,
    x: Vec<f32>,
    /// `√(c−1) y` of the gathered entries `[BLOCK, d]`.
    scaled: Array2<f32>,
}

impl WeightedRidge {
    pub fn new(d: usize) -> WeightedRidge {
        WeightedRidge {
            a: Array2::zeros((d, d)),
            u: vec![0.0; d * d],
            b: vec![0.0; d],
            x: vec![0.0; d],
            scaled: Array2::zeros((BLOCK, d)),
        }
    }

    /// The solution `[d]`, and `bᵀx` with `b = Σcᵢtᵢyᵢ`: by so much does the solution lower the row's loss.
    ///
    /// # Errors
    /// `Invalid` where the numbers that come in are not finite.
    pub fn solve<'a>(
        &mut self,
        gram: ArrayView2<f32>,
        ridge: f32,
        entries: impl Iterator<Item = (&'a [f32], f32, f32)>,
    ) -> Result<(&[f32], f64)> {
        self.assemble(gram, entries);
        self.factorise(ridge)?;
        self.substitute()
    }

    /// `(G + Σ(cᵢ−1)yᵢyᵢᵀ + λI)⁻¹ v` `[d]`, for entries of row and confidence.
    ///
    /// # Errors
    /// As [`WeightedRidge::solve`].
    pub fn apply_inverse<'a>(
        &mut self,
        gram: ArrayView2<f32>,
        ridge: f32,
        entries: impl Iterator<Item = (&'a [f32], f32)>,
        v: &[f32],
    ) -> Result<&[f32]> {
        self.assemble(gram, entries.map(|(row, confidence)| (row, confidence, 0.0)));
        self.factorise(ridge)?;
        self.b.iter_mut().zip(v).for_each(|(b, &v)| *b = v.into());
        Ok(self.substitute()?.0)
    }

    /// The matrix, without its ridge, into `a`, and the right-hand side into `b`.
    fn assemble<'a>(&mut self, gram: ArrayView2<f32>, entries: impl Iterator<Item = (&'a [f32], f32, f32)>) {
        self.a.assign(&gram);
        self.b.fill(0.0);
        // The right-hand side of a block is summed in `f32`, that of all blocks in `f64`.
        self.x.fill(0.0);
        let mut filled = 0;
        for (row, confidence, target) in entries {
            let (root, weight) = ((confidence - 1.0).sqrt(), confidence * target);
            self.scaled.row_mut(filled).iter_mut().zip(row).for_each(|(s, y)| *s = root * y);
            self.x.iter_mut().zip(row).for_each(|(x, y)| *x += weight * y);
            filled += 1;
            if filled == BLOCK {
                self.take_block(filled);
                filled = 0;
            }
        }
        self.take_block(filled);
    }

    fn take_block(&mut self, filled: usize) {
        let scaled = self.scaled.slice(s![..filled, ..]);
        if filled > 0 {
            general_mat_mul(1.0, &scaled.t(), &scaled, 1.0, &mut self.a);
        }
        self.b.iter_mut().zip(&mut self.x).for_each(|(b, x)| *b += f64::from(std::mem::take(x)));
    }

    /// `b` through the factor in `a` into `x`.
    fn substitute(&mut self) -> Result<(&[f32], f64)> {
        self.x.iter_mut().zip(&self.b).for_each(|(x, &b)| *x = b as f32);
        cholesky_solve(&self.u, &mut self.x);
        let lowered = self.b.iter().zip(&self.x).map(|(b, &x)| b * f64::from(x)).sum::<f64>();
        if lowered.is_finite() && self.x.iter().all(|x| x.is_finite()) {
            Ok((&self.x, lowered))
        } else {
            Err(not_finite())
        }
    }

    /// The Cholesky factor of `a + λI`.
    fn factorise(&mut self, ridge: f32) -> Result<()> {
        let d = self.b.len();
        let diagonal = self.a.diag().mean().unwrap_or(0.0);
        if !diagonal.is_finite() {
            return Err(not_finite());
        }
        // In f32 a ridge far below the rounding of the diagonal is lost, and a rank-deficient matrix may then come
        // out indefinite. It is raised to that rounding (2⁻²³ ≈ 1.2e-7), in steps, as little as serves.
        let mut lambda = ridge;
        for _ in 0..RIDGE_TRIES {
            self.u.iter_mut().zip(&self.a).for_each(|(u, a)| *u = *a);
            self.u.iter_mut().step_by(d + 1).for_each(|u| *u += lambda);
            if cholesky(&mut self.u, d) {
                return Ok(());
            }
            lambda = (lambda * 10.0).max(diagonal * f32::EPSILON);
        }
        Err(Error::invalid("regularisation", "enough to make the equations solvable", ridge))
    }
}

fn not_finite() -> Error {
    Error::invalid("vectors and confidences", "finite numbers", "overflow or NaN in a least squares solve")
}

/// Checks what the public solves are given: `n` vectors of `d` numbers, with a confidence and a preference each.
///
/// # Errors
/// `Mismatch` of counts or dimensions; `Invalid` for a confidence below 1 or a preference outside 0..=1 (or NaN).
pub fn check_entries(d: usize, vectors: ArrayView2<f32>, confidence: &[f32], preference: &[f32]) -> Result<()> {
    if vectors.ncols() != d {
        return Err(Error::mismatch("vectors and Gram matrix", format!("{d} dimensions"), vectors.ncols()));
    }
    if confidence.len() != vectors.nrows() || preference.len() != vectors.nrows() {
        let found = format!("{} confidences and {} preferences", confidence.len(), preference.len());
        return Err(Error::mismatch("evidence", format!("one of each for {} vectors", vectors.nrows()), found));
    }
    if let Some(c) = confidence.iter().find(|c| !(c.is_finite() && **c >= 1.0)) {
        return Err(Error::invalid("confidence", "a finite number, 1 or more", c));
    }
    if let Some(p) = preference.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::invalid("preference", "a number between 0 and 1", p));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow clear version: every matrix written out, in `f64`.
    fn plain(gram: &Array2<f32>, ridge: f64, y: &Array2<f32>, c: &[f32], t: &[f32]) -> Vec<f64> {
        let d = y.ncols();
        let mut a = gram.mapv(f64::from);
        let mut b = vec![0.0; d];
        for (row, (c, t)) in y.rows().into_iter().zip(c.iter().zip(t)) {
            for i in 0..d {
                b[i] += f64::from(c * t * row[i]);
                for j in 0..d {
                    a[[i, j]] += f64::from(c - 1.0) * f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        a.diag_mut().mapv_inplace(|x| x + ridge);
        let mut u = a.into_raw_vec_and_offset().0;
        assert!(cholesky(&mut u, d));
        cholesky_solve(&u, &mut b);
        b
    }

    #[test]
    fn the_blocked_solve_equals_the_plain_one_at_every_block_boundary() {
        for (d, n) in [(1, 1), (7, 0), (7, BLOCK - 1), (40, BLOCK), (40, BLOCK + 1), (65, 3 * BLOCK + 5)] {
            let y = Array2::from_shape_fn((n, d), |(i, j)| (((i * 31 + j * 17) % 101) as f32 - 50.0) / 100.0);
            let other = Array2::from_shape_fn((2 * d, d), |(i, j)| (((i * 13 + j * 29) % 97) as f32 - 48.0) / 100.0);
            let c: Vec<f32> = (0..n).map(|i| 1.0 + (i % 40) as f32).collect();
            let t: Vec<f32> = (0..n).map(|i| (i % 3) as f32 / 2.0).collect();
            let gram = gram(other.view());
            let expected = plain(&gram, 0.5, &y, &c, &t);
            let entries = (0..n).map(|i| (y.row(i).to_slice().unwrap(), c[i], t[i]));
            let mut solver = WeightedRidge::new(d);
            let (x, _) = solver.solve(gram.view(), 0.5, entries).unwrap();
            x.iter().zip(&expected).for_each(|(x, e)| assert!((f64::from(*x) - e).abs() < 1e-4, "{d} {n}: {x} {e}"));
        }
    }

    #[test]
    fn a_ridge_below_rounding_still_solves_and_nan_is_an_error() {
        let y = Array2::from_elem((1, 20), 300.0f32); // rank one: 19 of 20 pivots are rounding
        let mut solver = WeightedRidge::new(20);
        let entries = || [(y.row(0).to_slice().unwrap(), 40.0, 1.0)].into_iter();
        let (x, _) = solver.solve(gram(y.view()).view(), 1e-9, entries()).unwrap();
        let score = dot(x, y.row(0).to_slice().unwrap());
        assert!((score - 1.0).abs() < 0.01, "{score}");
        let bad = Array2::from_elem((20, 20), f32::NAN);
        assert!(solver.solve(bad.view(), 1.0, entries()).is_err());
    }
}
