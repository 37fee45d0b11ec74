//! Small dense algebra: factors laid out for the processor, Gram matrices, and the one weighted ridge regression that
//! alternating least squares, fold-in and hand-over share.

mod eigen;
mod jacobi;
mod ridge;
mod rows;
mod symmetric;

use ndarray::{Array2, ArrayView2};

pub use eigen::Eigen;
pub use jacobi::orthogonalise;
pub use ridge::{CONVERGED, Entries, WeightedRidge};
pub use rows::{Gram, PaddedRows, Rows};
pub use symmetric::symmetric_eigen;

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

/// The rows at unit length; one without a direction stays as it is.
pub fn unit_rows(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.outer_iter_mut() {
        let length = row.dot(&row).sqrt();
        if length > 0.0 {
            row /= length;
        }
    }
    rows
}

#[test]
fn a_unit_vector_has_norm_one_and_zero_has_none() {
    let v = unit(&[3.0, 0.0, -4.0]).unwrap();
    assert_eq!((norm(&v), v[2]), (1.0, -0.8));
    assert!(unit(&[0.0, 0.0]).is_none() && unit(&[f32::NAN]).is_none() && unit(&[]).is_none());
    assert_eq!(unit_rows(ndarray::arr2(&[[3.0, -4.0], [0.0, 0.0]])), ndarray::arr2(&[[0.6, -0.8], [0.0, 0.0]]));
}

/// `YᵀY` `[d, d]` of the rows `Y` `[n, d]`, summed in `f64`; the same bits whatever the number of threads.
pub fn gram(rows: ArrayView2<f32>) -> Array2<f32> {
    Gram::of_array(rows).to_matrix()
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
