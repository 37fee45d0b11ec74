//! The linear model. On mean log-mel bands it is what a network must beat to have heard more than timbre's average.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::Examples;
use crate::encoder::embed::normalise;
use crate::encoder::objective::unit_targets;
use crate::error::{Error, Result};

/// Ridge regression from some features of a track to its unit-length factor, in closed form.
#[derive(Clone, Debug)]
pub struct LinearBaseline {
    /// Mean and standard deviation of each feature over the training tracks, `[features]`.
    pub mean: Array1<f64>,
    pub std: Array1<f64>,
    /// `[features, dimensions]`
    pub weight: Array2<f64>,
    /// `[dimensions]`
    pub bias: Array1<f64>,
    /// The penalty that did best on the validation tracks, as a share of the training tracks' total weight.
    pub lambda: f64,
    /// Its mean squared distance to the validation targets (0 to 4; 1 is what predicting 0 gives).
    pub valid_loss: f64,
}

/// The penalties that are tried: from next to none to so much that only the mean remains.
const LAMBDAS: [f64; 13] = [1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0];

/// The features of one track: each band's mean over time, `[frames, mel_bands]` to `[mel_bands]`.
pub fn mean_mel(mel: ArrayView2<f32>) -> Array1<f32> {
    // Summed in f64; `mean_axis` has no answer for no frames.
    let frames = mel.nrows().max(1) as f64;
    mel.axis_iter(Axis(1)).map(|band| (band.iter().map(|&x| f64::from(x)).sum::<f64>() / frames) as f32).collect()
}

impl LinearBaseline {
    /// Fits on the training tracks, from `features` `[tracks, features]`, and chooses the penalty on the validation tracks.
    ///
    /// # Errors
    /// `Mismatch` and `Invalid` for arrays that do not fit, hold numbers that are not finite, or targets of no length.
    pub fn fit(features: ArrayView2<f32>, examples: &Examples) -> Result<LinearBaseline> {
        let Examples { targets, weights, train, valid } = *examples;
        let targets = unit_targets(targets, weights, train, valid)?.mapv(f64::from);
        if features.nrows() != targets.nrows() {
            return Err(Error::mismatch("features and targets", targets.nrows(), features.nrows()));
        }
        let x = features.mapv(f64::from);
        if let Some(track) = train.iter().chain(valid).find(|&&t| x.row(t).iter().any(|v| !v.is_finite())) {
            return Err(Error::invalid(format!("features of track {track}"), "finite numbers", "others"));
        }
        let w: Array1<f64> = train.iter().map(|&t| f64::from(weights[t])).collect();
        let total = w.sum();
        let column = w.view().insert_axis(Axis(1));
        let (train_x, train_y) = (x.select(Axis(0), train), targets.select(Axis(0), train));
        let mean = (&train_x * &column).sum_axis(Axis(0)) / total;
        let centred = train_x - &mean;
        // A feature that does not vary (a silent band) carries nothing; 1 keeps it at 0 instead of dividing by 0.
        let std =
            ((&centred * &centred * column).sum_axis(Axis(0)) / total).mapv(|v| if v > 1e-12 { v.sqrt() } else { 1.0 });
        let z = centred / &std;
        let bias = (&train_y * &column).sum_axis(Axis(0)) / total;
        let weighted = &z * &column;
        // Normal equations (Zᵀ W Z + λ total I) B = Zᵀ W (Y - bias): Z has mean 0, so the bias is separate.
        let (gram, right) = (weighted.t().dot(&z), weighted.t().dot(&(train_y - &bias)));

        let (valid_x, valid_y) = (x.select(Axis(0), valid), targets.select(Axis(0), valid));
        let mut best: Option<LinearBaseline> = None;
        for lambda in LAMBDAS {
            let mut penalised = gram.clone();
            penalised.diag_mut().mapv_inplace(|d| d + lambda * total);
            let Some(weight) = solve(penalised, right.clone()) else { continue };
            let mut model = LinearBaseline {
                mean: mean.clone(),
                std: std.clone(),
                weight,
                bias: bias.clone(),
                lambda,
                valid_loss: 0.0,
            };
            let missed = model.raw(&valid_x) - &valid_y;
            model.valid_loss = (&missed * &missed).sum() / valid.len() as f64;
            if best.as_ref().is_none_or(|b| model.valid_loss < b.valid_loss) {
                best = Some(model);
            }
        }
        best.ok_or_else(|| Error::invalid("the linear baseline", "a solvable system", "none at any penalty"))
    }

    /// `[n, features]` to unit-length rows `[n, dimensions]`.
    ///
    /// # Errors
    /// `Mismatch` for another number of features, `Invalid` where one is not finite.
    pub fn predict(&self, features: ArrayView2<f32>) -> Result<Array2<f32>> {
        if features.ncols() != self.mean.len() {
            return Err(Error::mismatch("features and baseline", self.mean.len(), features.ncols()));
        }
        let mut vectors = self.raw(&features.mapv(f64::from)).mapv(|x| x as f32);
        for (i, row) in vectors.outer_iter_mut().enumerate() {
            if !normalise(row) {
                return Err(Error::invalid(format!("the prediction for track {i}"), "a direction", "no finite length"));
            }
        }
        Ok(vectors)
    }

    fn raw(&self, features: &Array2<f64>) -> Array2<f64> {
        ((features - &self.mean) / &self.std).dot(&self.weight) + &self.bias
    }
}

/// X of A X = B for a symmetric positive definite A, by Cholesky; `None` where it is not.
fn solve(mut a: Array2<f64>, mut b: Array2<f64>) -> Option<Array2<f64>> {
    let n = a.nrows();
    // Row by row, so that every sum runs along two rows.
    for i in 0..n {
        let (done, mut row) = a.multi_slice_mut((s![..i, ..], s![i, ..]));
        for j in 0..i {
            let known = row.slice(s![..j]).dot(&done.slice(s![j, ..j]));
            row[j] = (row[j] - known) / done[[j, j]];
        }
        let before = row.slice(s![..i]);
        let pivot = row[i] - before.dot(&before);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        row[i] = pivot.sqrt();
    }
    for i in 0..n {
        let (done, mut row) = b.multi_slice_mut((s![..i, ..], s![i, ..]));
        row -= &a.slice(s![i, ..i]).dot(&done);
        row /= a[[i, i]];
    }
    for i in (0..n).rev() {
        let (mut row, done) = b.multi_slice_mut((s![i, ..], s![i + 1.., ..]));
        row -= &a.slice(s![i + 1.., i]).dot(&done);
        row /= a[[i, i]];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::dataset::tests::Planted;
    use ndarray::array;

    #[test]
    fn solving_gives_back_what_was_multiplied() {
        let a = array![[4.0, 2.0, 0.6], [2.0, 5.0, 1.0], [0.6, 1.0, 3.0]];
        let x = array![[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]];
        let found = solve(a.clone(), a.dot(&x)).unwrap();
        assert!((found - x).iter().all(|d| d.abs() < 1e-12));
        assert!(solve(array![[1.0, 2.0], [2.0, 1.0]], array![[1.0], [1.0]]).is_none(), "indefinite");
    }

    #[test]
    fn it_finds_planted_linear_targets_and_shrinks_on_noise() {
        let planted = Planted::new(300);
        let features = Array2::from_shape_fn((300, 8), |(t, b)| planted.levels[[t, b]] * 3.0 + 5.0);
        let (train, valid): (Vec<usize>, Vec<usize>) = ((0..200).collect(), (200..300).collect());
        let weights = vec![1.0; 300];
        let targets = planted.targets(5);
        let examples = Examples { targets: targets.view(), weights: &weights, train: &train, valid: &valid };
        let model = LinearBaseline::fit(features.view(), &examples).unwrap();
        let predicted = model.predict(features.view()).unwrap();
        let cosine = |t: usize| predicted.row(t).dot(&targets.row(t)) / targets.row(t).dot(&targets.row(t)).sqrt();
        let mean = valid.iter().map(|&t| cosine(t)).sum::<f32>() / 100.0;
        // Not 1: scaling targets to unit length is not linear.
        assert!(mean > 0.93, "{mean}");

        let unrelated = Planted::new(301).targets(5).slice(ndarray::s![1.., ..]).to_owned();
        let lost = LinearBaseline::fit(features.view(), &Examples { targets: unrelated.view(), ..examples }).unwrap();
        assert!(lost.lambda > model.lambda && lost.valid_loss > 0.9, "{} {}", lost.lambda, lost.valid_loss);
    }

    #[test]
    fn a_silent_band_and_a_single_track_do_not_break_it() {
        let features = array![[1.0f32, 0.0], [2.0, 0.0], [4.0, 0.0]];
        let targets = array![[1.0f32, 0.1], [0.5, 1.0], [-1.0, 0.3]];
        let examples = Examples { targets: targets.view(), weights: &[1.0; 3], train: &[0, 1], valid: &[2] };
        let model = LinearBaseline::fit(features.view(), &examples).unwrap();
        assert!(model.predict(features.view()).unwrap().iter().all(|x| x.is_finite()));
        LinearBaseline::fit(features.view(), &Examples { train: &[0], ..examples }).unwrap();
        assert!(model.predict(array![[f32::NAN, 0.0]].view()).is_err());
    }

    #[test]
    fn mean_mel_is_the_mean_over_time() {
        assert_eq!(mean_mel(array![[1.0, 10.0], [3.0, 20.0]].view()), array![2.0, 15.0]);
        assert_eq!(mean_mel(Planted::new(1).window(0, 0).view()).len(), 8);
    }
}
