//! Jacobi's method, one-sided: pairs of rows are rotated until all are orthogonal (M. Hestenes 1958; G. Golub and
//! C. Van Loan, *Matrix Computations*, 4th edition, section 8.6.3).

use ndarray::Array2;
use pulp::{Arch, Simd, WithSimd};

use crate::error::{Error, Result};

/// Sweeps over all pairs of rows: six to twelve serve any matrix that was tried.
const MAX_SWEEPS: usize = 60;

/// Turns `rows` `[d, d]` by rotations of pairs until the cosine of any two is at most `tolerance`, and `turn` `[d, d]`
/// by the same rotations: `turn · rows` as it was stays what it was.
///
/// # Errors
/// `Invalid` where the numbers are not finite.
pub fn orthogonalise(rows: &mut Array2<f64>, turn: &mut Array2<f64>, tolerance: f64) -> Result<()> {
    let d = rows.nrows();
    // Rows shorter than the rounding of the longest are zero: their angles mean nothing, and would never settle.
    let nothing = rows.iter().map(|x| x * x).sum::<f64>() * f64::EPSILON * f64::EPSILON;
    let failed = |found| Error::invalid("a matrix to decompose", "finite numbers", found);
    if !nothing.is_finite() {
        return Err(failed("overflow or NaN"));
    }
    let (rows, turn) = (rows.as_slice_mut(), turn.as_slice_mut());
    let (rows, turn) = rows.zip(turn).expect("both are in standard layout");
    for _ in 0..MAX_SWEEPS {
        if !Arch::new().dispatch(Sweep { rows, turn, d, nothing, tolerance }) {
            return Ok(());
        }
    }
    Err(failed("one that does not converge"))
}

/// One sweep; false where no pair had to be turned.
struct Sweep<'a> {
    rows: &'a mut [f64],
    turn: &'a mut [f64],
    d: usize,
    nothing: f64,
    tolerance: f64,
}

impl WithSimd for Sweep<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Sweep { rows, turn, d, nothing, tolerance } = self;
        let mut turned = false;
        for p in 0..d {
            for q in p + 1..d {
                let (x, y) = pair(rows, d, p, q);
                let (xx, yy, xy) = products(simd, x, y);
                if xx.min(yy) <= nothing || xy * xy <= tolerance * tolerance * xx * yy {
                    continue;
                }
                turned = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let tangent = zeta.signum() / (zeta.abs() + (zeta * zeta + 1.0).sqrt());
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                rotate(simd, x, y, cosine, cosine * tangent);
                let (x, y) = pair(turn, d, p, q);
                rotate(simd, x, y, cosine, cosine * tangent);
            }
        }
        turned
    }
}

#[inline(always)]
fn pair(rows: &mut [f64], d: usize, p: usize, q: usize) -> (&mut [f64], &mut [f64]) {
    let (before, from) = rows.split_at_mut(q * d);
    (&mut before[p * d..][..d], &mut from[..d])
}

/// `x·x`, `y·y` and `x·y`.
#[inline(always)]
fn products<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> (f64, f64, f64) {
    let ((x, x_tail), (y, y_tail)) = (S::as_simd_f64s(x), S::as_simd_f64s(y));
    let (mut xx, mut yy, mut xy) = (simd.splat_f64s(0.0), simd.splat_f64s(0.0), simd.splat_f64s(0.0));
    for (x, y) in x.iter().zip(y) {
        xx = simd.mul_add_f64s(*x, *x, xx);
        yy = simd.mul_add_f64s(*y, *y, yy);
        xy = simd.mul_add_f64s(*x, *y, xy);
    }
    let mut sums = (simd.reduce_sum_f64s(xx), simd.reduce_sum_f64s(yy), simd.reduce_sum_f64s(xy));
    for (x, y) in x_tail.iter().zip(y_tail) {
        sums = (sums.0 + x * x, sums.1 + y * y, sums.2 + x * y);
    }
    sums
}

#[inline(always)]
fn rotate<S: Simd>(simd: S, x: &mut [f64], y: &mut [f64], cosine: f64, sine: f64) {
    let ((x, x_tail), (y, y_tail)) = (S::as_mut_simd_f64s(x), S::as_mut_simd_f64s(y));
    let (c, s) = (simd.splat_f64s(cosine), simd.splat_f64s(sine));
    for (x, y) in x.iter_mut().zip(y) {
        let turned = simd.sub_f64s(simd.mul_f64s(c, *x), simd.mul_f64s(s, *y));
        *y = simd.mul_add_f64s(s, *x, simd.mul_f64s(c, *y));
        *x = turned;
    }
    for (x, y) in x_tail.iter_mut().zip(y_tail) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}
