//! Eigenvalues and eigenvectors of symmetric matrices of up to some thousand rows, for which Jacobi's method takes too many
//! sweeps: made tridiagonal by Householder's reflections, then diagonal by implicit QL with Wilkinson's shifts (G. Golub
//! and C. Van Loan, *Matrix Computations*, 4th edition, sections 8.3.1 and 8.3.3; the procedures `tred2` and `imtql2` of
//! J. Wilkinson and C. Reinsch, *Handbook for Automatic Computation II*, 1971).

use ndarray::Array2;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Columns of the eigenvectors that are turned together: 4,000 rows of 32 numbers are 1 MB, which a core's cache holds.
const STRIP: usize = 32;
/// Sweeps of rotations that are gathered before the eigenvectors are turned, so that a strip is read for all at once.
const SWEEPS: usize = 8;
/// Sweeps for one eigenvalue; two are usual.
const MAX_SWEEPS: usize = 60;

/// The eigenvalues of a symmetric matrix `[n, n]`, falling, and their eigenvectors, of unit length and orthogonal: a row
/// each of as many as `wanted` says when it is told the eigenvalues. The same bits on any number of threads.
///
/// # Errors
/// `Invalid` where the matrix is not square or its numbers are not finite.
pub fn symmetric_eigen(a: Array2<f64>, wanted: impl FnOnce(&[f64]) -> usize) -> Result<(Vec<f64>, Array2<f64>)> {
    let n = a.nrows();
    if a.ncols() != n || a.iter().any(|x| !x.is_finite()) {
        return Err(Error::invalid("a symmetric matrix", "a square one of finite numbers", format!("{:?}", a.dim())));
    }
    let mut numbers = a.as_standard_layout().into_owned().into_raw_vec_and_offset().0;
    let (mut diagonal, mut beside, reflections) = tridiagonal(&mut numbers, n);
    drop(numbers);
    let strips = diagonalise(&mut diagonal, &mut beside)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]));
    let values: Vec<f64> = order.iter().map(|&i| diagonal[i]).collect();
    let wanted = wanted(&values).min(n);
    let mut vectors = Array2::zeros((wanted, n));
    vectors.outer_iter_mut().into_par_iter().zip(&order).for_each(|(mut vector, &row)| {
        for (part, strip) in vector.axis_chunks_iter_mut(ndarray::Axis(0), STRIP).zip(&strips) {
            part.into_iter().zip(&strip[row * STRIP..]).for_each(|(x, v)| *x = *v);
        }
        let vector = vector.as_slice_mut().expect("a row of an array in standard layout");
        for (k, reflection) in reflections.iter().enumerate().rev() {
            let part = &mut vector[k + 1..];
            let along = dot(reflection, part);
            add(part, -2.0 * along, reflection);
        }
    });
    Ok((values, vectors))
}

/// Eight sums, so that the compiler may use its vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// `to += share · from`
fn add(to: &mut [f64], share: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += share * from);
}

/// The diagonal `[n]` and what stands beside it `[n]` (the last is 0) of `QᵀAQ`, and the reflections that make Q, each a
/// unit vector of the numbers from k + 1 on; one of zeros reflects nothing.
fn tridiagonal(numbers: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>, Vec<Vec<f64>>) {
    let mut beside = vec![0.0; n];
    let mut reflections = Vec::with_capacity(n.saturating_sub(2));
    for k in 0..n.saturating_sub(1) {
        // The rest of row k is to become one number: it is reflected to the first axis.
        let (done, rest) = numbers.split_at_mut((k + 1) * n);
        let row = &done[k * n + k + 1..];
        let length = dot(row, row).sqrt();
        let to = if row[0] > 0.0 { -length } else { length };
        let mut v = row.to_vec();
        v[0] -= to;
        let norm = dot(&v, &v).sqrt();
        if k + 2 >= n || norm == 0.0 {
            beside[k] = row[0];
            reflections.push(vec![0.0; n - k - 1]);
            continue;
        }
        beside[k] = to;
        v.iter_mut().for_each(|x| *x /= norm);
        // HAH of what is below and to the right, H = I − 2vvᵀ: A − vwᵀ − wvᵀ with w = 2Av − 2(vᵀAv)v.
        let mut w = vec![0.0; v.len()];
        w.par_iter_mut()
            .zip(rest.par_chunks(n))
            .with_min_len(64)
            .for_each(|(w, row)| *w = 2.0 * dot(&row[k + 1..], &v));
        let along = dot(&w, &v);
        add(&mut w, -along, &v);
        rest.par_chunks_mut(n).zip(v.par_iter().zip(&w)).with_min_len(64).for_each(|(row, (&v_i, &w_i))| {
            for ((x, v), w) in row[k + 1..].iter_mut().zip(&v).zip(&w) {
                *x -= v_i * w + w_i * v;
            }
        });
        reflections.push(v);
    }
    (numbers.iter().step_by(n + 1).copied().collect(), beside, reflections)
}

/// Turns the tridiagonal matrix diagonal, in place, and returns what turned it: eigenvector `i` is row `i` of the strips.
fn diagonalise(d: &mut [f64], e: &mut [f64]) -> Result<Vec<Vec<f64>>> {
    let n = d.len();
    let mut strips: Vec<Vec<f64>> = (0..n.div_ceil(STRIP)).map(|_| vec![0.0; n * STRIP]).collect();
    (0..n).for_each(|i| strips[i / STRIP][i * STRIP + i % STRIP] = 1.0);
    let mut rotations: Vec<(usize, f64, f64)> = Vec::new();
    // Beside this nothing counts: a matrix of zeros but for rounding would never settle.
    let scale = d.iter().chain(&*e).fold(0.0f64, |m, x| m.max(x.abs())) * f64::EPSILON * 1e-3;
    for l in 0..n {
        for sweep in 0.. {
            let small = |i: usize| e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs()) + scale;
            let m = (l..n - 1).find(|&i| small(i)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if sweep == MAX_SWEEPS {
                return Err(Error::invalid("a matrix to decompose", "one that converges", "one that does not"));
            }
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (half + half.hypot(1.0).copysign(half));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                rotations.push((i, c, s));
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
            if rotations.len() >= SWEEPS * n {
                turn(&mut strips, &mut rotations);
            }
        }
    }
    turn(&mut strips, &mut rotations);
    Ok(strips)
}

/// Turns rows `i` and `i + 1` of every strip by each rotation in order.
fn turn(strips: &mut [Vec<f64>], rotations: &mut Vec<(usize, f64, f64)>) {
    strips.par_iter_mut().for_each(|strip| {
        let rows = strip.as_chunks_mut::<STRIP>().0;
        for &(i, c, s) in &*rotations {
            let [x, y] = &mut rows[i..i + 2] else { continue };
            for (x, y) in x.iter_mut().zip(y) {
                (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
            }
        }
    });
    rotations.clear();
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;

    /// A symmetric matrix of whole numbers in no pattern.
    fn matrix(n: usize) -> Array2<f64> {
        let number = |i: usize, j: usize| ((i * 31 + j * 17) * (i + 3 * j + 5) % 101) as f64 - 50.0;
        Array2::from_shape_fn((n, n), |(i, j)| number(i.min(j), i.max(j)))
    }

    fn check(a: Array2<f64>) -> (Vec<f64>, Array2<f64>) {
        let n = a.nrows();
        let size = a.iter().fold(1.0f64, |m, x| m.max(x.abs())) * n.max(1) as f64;
        let (values, vectors) = symmetric_eigen(a.clone(), |v| v.len()).unwrap();
        assert!(values.is_sorted_by(|a, b| a >= b));
        let off = vectors.dot(&vectors.t()) - Array2::<f64>::eye(n);
        assert!(off.iter().all(|x| x.abs() < 1e-12 * n.max(1) as f64), "not orthogonal");
        let scaled = &vectors * &ndarray::Array1::from(values.clone()).insert_axis(Axis(1));
        let missed = vectors.dot(&a) - scaled;
        assert!(missed.iter().all(|x| x.abs() < 1e-13 * size), "n {n}: {missed}");
        (values, vectors)
    }

    #[test]
    fn every_eigenvector_is_only_stretched_and_they_are_orthogonal() {
        for n in [0, 1, 2, 3, 5, 31, 33, 100] {
            check(matrix(n));
        }
    }

    #[test]
    fn what_is_degenerate_is_decomposed_too() {
        assert_eq!(check(Array2::eye(7)).0, vec![1.0; 7]);
        assert_eq!(check(Array2::zeros((4, 4))).0, vec![0.0; 4]);
        // Of rank one: n, and zeros.
        let values = check(Array2::ones((40, 40))).0;
        assert!((values[0] - 40.0).abs() < 1e-12 && values[1..].iter().all(|v| v.abs() < 1e-12), "{values:?}");
        // Two blocks that know nothing of each other.
        let mut blocks = Array2::zeros((20, 20));
        blocks.slice_mut(ndarray::s![..9, ..9]).assign(&matrix(9));
        blocks.slice_mut(ndarray::s![9.., 9..]).assign(&matrix(11));
        check(blocks);
        check(matrix(12) * 1e-200);
        // The second difference: 2 − 2cos(kπ / (n + 1)).
        let n = 50;
        let chain = Array2::from_shape_fn((n, n), |(i, j)| [2.0, -1.0, 0.0][i.abs_diff(j).min(2)]);
        for (k, value) in check(chain).0.iter().rev().enumerate() {
            let expected = 2.0 - 2.0 * ((k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
            assert!((value - expected).abs() < 1e-13, "{k}: {value} {expected}");
        }
    }

    #[test]
    fn as_many_eigenvectors_as_wanted_the_same_on_any_number_of_threads() {
        let a = matrix(150);
        let all = check(a.clone()).1;
        let some = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| symmetric_eigen(a.clone(), |_| 3).unwrap().1)
        };
        assert_eq!(some(1), some(3));
        assert_eq!(some(1), all.slice(ndarray::s![..3, ..]));
        assert!(symmetric_eigen(Array2::zeros((2, 3)), |v| v.len()).is_err());
        assert!(symmetric_eigen(Array2::from_elem((2, 2), f64::NAN), |v| v.len()).is_err());
    }
}
