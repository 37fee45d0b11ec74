//! Principal component analysis (K. Pearson 1901): the directions in which features vary most.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::product;
use crate::error::{Error, Result};
use crate::linalg::symmetric_eigen;

/// Features' mean and principal directions.
#[derive(Clone, Debug)]
pub struct Pca {
    /// `[features]`
    pub mean: Array1<f32>,
    /// The directions, a column each, the most varying first: `[features, components]`.
    pub directions: Array2<f32>,
    /// The variance along each, `[components]`.
    pub variance: Vec<f64>,
    /// The share of all variance that they hold.
    pub share: f64,
}

impl Pca {
    /// Of `x` `[n, features]`: as few directions as hold this share of the variance, at least one.
    ///
    /// # Errors
    /// `Invalid` for fewer than two rows, no features, numbers that are not finite, or a share that is not in 0..=1.
    pub fn fit(x: ArrayView2<f32>, share: f64) -> Result<Pca> {
        let (n, features) = x.dim();
        if n < 2 || features == 0 || !(0.0..=1.0).contains(&share) {
            let found = format!("{n} × {features}, {share}");
            return Err(Error::invalid("features for principal components, and a share", "some, 0 to 1", found));
        }
        let x = x.mapv(f64::from);
        let mean = x.sum_axis(Axis(0)) / n as f64;
        let centred = x - &mean;
        let covariance = centred.t().dot(&centred) / (n - 1) as f64;
        drop(centred);
        let total: f64 = covariance.diag().sum();
        // Rounding may leave the sum of all just below the whole.
        let enough = share * total * (1.0 - 1e-12);
        let (mut variance, vectors) = symmetric_eigen(covariance, |variance| {
            let mut held = 0.0;
            let more = |along: &&f64| {
                let wanted = held < enough;
                held += **along;
                wanted
            };
            variance.iter().take_while(more).count().max(1)
        })?;
        variance.truncate(vectors.nrows());
        Ok(Pca {
            mean: mean.mapv(|x| x as f32),
            directions: vectors.reversed_axes().mapv(|x| x as f32),
            share: if total > 0.0 { variance.iter().sum::<f64>() / total } else { 1.0 },
            variance,
        })
    }

    /// `[n, features]` to `[n, components]`.
    ///
    /// # Errors
    /// `Mismatch` for another number of features.
    pub fn project(&self, x: ArrayView2<f32>) -> Result<Array2<f32>> {
        if x.ncols() != self.mean.len() {
            return Err(Error::mismatch("features and principal components", self.mean.len(), x.ncols()));
        }
        Ok(product((&x - &self.mean).view(), self.directions.view()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use super::*;

    /// An array of `tests/golden/baselines.json`, which `baselines.py` beside it wrote.
    pub(in super::super) fn golden(name: &str) -> Array2<f32> {
        let text = include_str!("../../../tests/golden/baselines.json");
        let all: HashMap<String, Vec<Vec<f32>>> = serde_json::from_str(text).unwrap();
        let rows = &all[name];
        Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
    }

    #[test]
    fn components_and_their_variance_are_numpy_s() {
        let (x, variance, projected) = (golden("pca_x"), golden("pca_variance"), golden("pca_projected"));
        let pca = Pca::fit(x.view(), 0.95).unwrap();
        assert_eq!(pca.variance.len(), variance.ncols(), "as many as hold 95 %");
        for (found, expected) in pca.variance.iter().zip(&variance) {
            assert!((found / f64::from(*expected) - 1.0).abs() < 1e-4, "{found} {expected}");
        }
        let found = pca.project(x.view()).unwrap();
        for (found, expected) in found.axis_iter(Axis(1)).zip(projected.axis_iter(Axis(1))) {
            // The sign of a direction is nobody's.
            let sign = found.dot(&expected).signum();
            assert!(found.iter().zip(expected).all(|(a, b)| (a * sign - b).abs() < 2e-3));
        }
        assert!((0.95..1.0).contains(&pca.share));
        assert!(pca.project(x.slice(ndarray::s![.., 1..])).is_err());
    }

    #[test]
    fn more_features_than_rows_and_none_that_vary_are_no_trouble() {
        let few = Array2::from_shape_fn((3, 9), |(i, j)| ((i * 5 + j * 3) % 7) as f32);
        let pca = Pca::fit(few.view(), 1.0).unwrap();
        assert!(pca.variance.len() <= 3 && pca.project(few.view()).unwrap().iter().all(|x| x.is_finite()));
        let same = Pca::fit(Array2::ones((4, 3)).view(), 0.95).unwrap();
        assert_eq!((same.variance.len(), same.project(Array2::ones((2, 3)).view()).unwrap()[[1, 0]]), (1, 0.0));
        assert!(Pca::fit(few.slice(ndarray::s![..1, ..]), 0.95).is_err());
        assert!(Pca::fit(Array2::from_elem((3, 2), f32::NAN).view(), 0.95).is_err());
    }
}
