//! What a network learns, and how well it has: one training loop serves targets and pre-training.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::embed::normalise;
use super::loss::{Graded, cosine_distance, info_nce, nt_xent, squared_error};
use super::recipe::{JudgeBy, Loss, TrainConfig};
use crate::error::{Error, Result};

/// What a network learns about its tracks.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'a> {
    /// To predict each track's numbers: `targets` `[tracks, dimensions]`, scaled to unit length for use, and how much each
    /// track counts, `[tracks]`, of which only the ratios matter.
    Targets { targets: ArrayView2<'a, f32>, weights: &'a [f32] },
    /// To tell two excerpts of a track from those of others, without any target: SimCLR (Chen et al. 2020), with the dense
    /// layers as the head in which the loss is taken.
    SameTrack,
}

impl Objective<'_> {
    /// What a run is judged by.
    pub(crate) fn judge(&self, config: &TrainConfig) -> JudgeBy {
        match (config.judge_by, self, config.loss) {
            (JudgeBy::Auto, Objective::SameTrack, _) | (JudgeBy::Auto, _, Loss::Contrastive) => JudgeBy::Mrr,
            (JudgeBy::Auto, _, Loss::Cosine) => JudgeBy::Cosine,
            (JudgeBy::Auto, _, Loss::Mse) => JudgeBy::Loss,
            (chosen, ..) => chosen,
        }
    }

    /// The loss of a batch and its derivative by the network's outputs `[rows, d]`.
    pub(crate) fn grade(&self, config: &TrainConfig, outputs: ArrayView2<f32>, batch: &Truth) -> Graded {
        let (targets, weights) = (batch.targets.view(), batch.weights.view());
        match (self, config.loss) {
            (Objective::SameTrack, _) => nt_xent(outputs, config.temperature),
            (_, Loss::Mse) => squared_error(outputs, targets, weights),
            (_, Loss::Cosine) => cosine_distance(outputs, targets, weights),
            (_, Loss::Contrastive) => {
                let (mut value, mut derivative) = info_nce(outputs, targets, weights, config.temperature);
                if config.mix > 0.0 {
                    let (distance, d_distance) = cosine_distance(outputs, targets, weights);
                    value += config.mix * distance;
                    derivative.scaled_add(config.mix as f32, &d_distance);
                }
                (value, derivative)
            }
        }
    }
}

/// What a batch's outputs are held against.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Truth {
    /// `[b, dimensions]`; empty in pre-training, where the outputs are held against each other.
    pub targets: Array2<f32>,
    /// `[b]`, 1 on average over the training set.
    pub weights: Array1<f32>,
}

/// How well the validation tracks were predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub loss: f64,
    pub cosine: f64,
    pub mrr: f64,
}

/// Gathers the answers to the validation batches.
#[derive(Default)]
pub(crate) struct Jury {
    loss: Mean,
    /// Rows of predictions and of what they should point to, one after the other.
    predicted: Vec<f32>,
    wanted: Vec<f32>,
    dimensions: usize,
}

impl Jury {
    /// Takes the answers `[rows, d]` to a batch.
    pub fn hear(&mut self, objective: &Objective, config: &TrainConfig, answers: ArrayView2<f32>, truth: &Truth) {
        let tracks = truth.weights.len();
        self.dimensions = answers.ncols();
        self.loss.add(objective.grade(config, answers, truth).0, tracks);
        self.predicted.extend(answers.slice(s![..tracks, ..]));
        match objective {
            Objective::Targets { .. } => self.wanted.extend(&truth.targets),
            // The other view is where each should point.
            Objective::SameTrack => self.wanted.extend(answers.slice(s![tracks.., ..])),
        }
    }

    pub fn verdict(&self) -> Result<Verdict> {
        let rows = self.predicted.len() / self.dimensions.max(1);
        let units = |numbers: &[f32]| {
            let mut all = Array2::from_shape_vec((rows, self.dimensions), numbers.to_vec())
                .map_err(|e| Error::mismatch("predictions and targets", "as many of both", e))?;
            // What points nowhere stays as it is: it is at a right angle to everything, and ranks nothing.
            all.outer_iter_mut().for_each(|row| _ = normalise(row));
            Ok(all)
        };
        let (predicted, wanted) = (units(&self.predicted)?, units(&self.wanted)?);
        let cosines = predicted.outer_iter().zip(wanted.outer_iter()).map(|(p, w)| cosine(p, w));
        let cosine = cosines.sum::<f64>() / rows.max(1) as f64;
        Ok(Verdict { loss: self.loss.value(), cosine, mrr: mean_reciprocal_rank(predicted.view(), wanted.view()) })
    }
}

fn cosine(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// At most this many validation tracks are ranked among each other, the first: the work grows with the square.
const RANKED: usize = 5_000;

/// The mean over rows of 1 / the rank of row `i` of `wanted` among all of its rows, by their cosine with row `i` of
/// `predicted`; both `[n, d]` with rows of unit length. Ties share their ranks, so that answering everything alike is worth no
/// more than chance.
fn mean_reciprocal_rank(predicted: ArrayView2<f32>, wanted: ArrayView2<f32>) -> f64 {
    let n = wanted.nrows().min(RANKED);
    let wanted = wanted.slice(s![..n, ..]);
    let ranks: Vec<f64> = (0..n)
        .into_par_iter()
        .map(|i| {
            let own = cosine(predicted.row(i), wanted.row(i));
            let mut rank = 1.0;
            for (j, other) in wanted.outer_iter().enumerate() {
                match cosine(predicted.row(i), other) {
                    it if j == i || it < own => {}
                    it if it == own => rank += 0.5,
                    _ => rank += 1.0,
                }
            }
            1.0 / rank
        })
        .collect();
    ranks.iter().sum::<f64>() / n.max(1) as f64
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    #[serde(with = "bits")]
    sum: f64,
    n: usize,
}

/// A float as the integer of its bits: JSON gives back a float's last digit only by luck.
pub(crate) mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(x.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

impl Mean {
    pub fn add(&mut self, value: f64, times: usize) {
        self.sum += value * times as f64;
        self.n += times;
    }
    pub fn value(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }
}

/// The targets scaled to unit length where they are used, after checking that they, the weights and the split can be.
pub(super) fn unit_targets(
    targets: ArrayView2<f32>,
    weights: &[f32],
    train: &[usize],
    valid: &[usize],
) -> Result<Array2<f32>> {
    let tracks = targets.nrows();
    if weights.len() != tracks {
        return Err(Error::mismatch("targets and weights: tracks", tracks, weights.len()));
    }
    check_split(tracks, train, valid)?;
    let mut units = targets.to_owned();
    for &track in train.iter().chain(valid) {
        if !normalise(units.row_mut(track)) {
            let found = format!("{:?}", targets.row(track).iter().take(3).collect::<Vec<_>>());
            return Err(Error::invalid(format!("the target of track {track}"), "a finite length above 0", found));
        }
    }
    let bad = |&&t: &&usize| !(weights[t].is_finite() && weights[t] >= 0.0);
    if let Some(&track) = train.iter().find(bad) {
        return Err(Error::invalid(format!("the weight of track {track}"), "a number from 0", weights[track]));
    }
    if train.iter().all(|&t| weights[t] == 0.0) {
        return Err(Error::invalid("the training tracks' weights", "one above 0", "none"));
    }
    Ok(units)
}

/// # Errors
/// `Invalid` unless every track of the split is there, and in it once.
pub(super) fn check_split(tracks: usize, train: &[usize], valid: &[usize]) -> Result<()> {
    if train.is_empty() || valid.is_empty() {
        let found = format!("{} and {}", train.len(), valid.len());
        return Err(Error::invalid("training and validation tracks", "at least one each", found));
    }
    let mut seen = vec![false; tracks];
    for &track in train.iter().chain(valid) {
        if track >= tracks {
            return Err(Error::invalid("a track of the split", format!("below {tracks}"), track));
        }
        if std::mem::replace(&mut seen[track], true) {
            return Err(Error::invalid("the split", "each track once", format!("track {track} twice")));
        }
    }
    Ok(())
}

/// The validation loss of predicting the training tracks' weighted mean target everywhere.
pub(super) fn constant_loss(
    config: &TrainConfig,
    targets: ArrayView2<f32>,
    weights: &[f32],
    train: &[usize],
    valid: &[usize],
) -> f64 {
    let mut mean = Array1::<f32>::zeros(targets.ncols());
    for &t in train {
        mean.scaled_add(weights[t] / train.len() as f32, &targets.row(t));
    }
    let objective = Objective::Targets { targets, weights };
    let mut loss = Mean::default();
    // In the batches of validation, which a contrastive loss depends on.
    for tracks in valid.chunks(config.batch_size) {
        let truth = Truth { targets: targets.select(Axis(0), tracks), weights: Array1::ones(tracks.len()) };
        let constant = Array2::from_shape_fn(truth.targets.dim(), |(_, j)| mean[j]);
        loss.add(objective.grade(config, constant.view(), &truth).0, tracks.len());
    }
    loss.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ranks_are_counted_from_one_and_ties_are_shared() {
        let axes = Array2::<f32>::eye(4);
        assert_eq!(mean_reciprocal_rank(axes.view(), axes.view()), 1.0);
        // Each points at its neighbour: the others tie behind it, at 2 and 3 and 4, so all have rank 3.
        let turned = array![[0.0f32, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]];
        assert_eq!(mean_reciprocal_rank(turned.view(), axes.view()), 1.0 / 3.0);
        // Silence ranks all alike: 1, 2, 3, 4 shared is 2.5.
        assert_eq!(mean_reciprocal_rank(Array2::zeros((4, 4)).view(), axes.view()), 0.4);
    }

    #[test]
    fn the_jury_knows_right_from_wrong_in_both_objectives() {
        let (config, targets) = (TrainConfig::default(), Array2::<f32>::eye(3));
        let hear = |objective: Objective, answers: &Array2<f32>, targets: Array2<f32>| {
            let mut jury = Jury::default();
            jury.hear(&objective, &config, answers.view(), &Truth { targets, weights: Array1::ones(3) });
            jury.verdict().unwrap()
        };
        let by_targets = Objective::Targets { targets: targets.view(), weights: &[1.0; 3] };
        let verdict = hear(by_targets, &(&targets * 2.0), targets.clone());
        assert_eq!(verdict, Verdict { loss: 1.0, cosine: 1.0, mrr: 1.0 });
        // Two views in agreement, and then in none.
        let same = ndarray::concatenate![Axis(0), targets, targets];
        let verdict = hear(Objective::SameTrack, &same, Array2::zeros((0, 3)));
        assert!(verdict.cosine == 1.0 && verdict.mrr == 1.0 && verdict.loss < 1e-3);
        let other = array![[0.0f32, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]];
        let verdict =
            hear(Objective::SameTrack, &ndarray::concatenate![Axis(0), targets, other], Array2::zeros((0, 3)));
        assert!(verdict.cosine == 0.0 && verdict.mrr < 0.5 && verdict.loss > 5.0);
    }

    #[test]
    fn what_judges_goes_with_the_loss_unless_chosen() {
        let targets = Array2::zeros((1, 1));
        let by_targets = Objective::Targets { targets: targets.view(), weights: &[1.0] };
        let by = |loss, judge_by| by_targets.judge(&TrainConfig { loss, judge_by, ..TrainConfig::default() });
        assert_eq!(by(Loss::Mse, JudgeBy::Auto), JudgeBy::Loss);
        assert_eq!(by(Loss::Cosine, JudgeBy::Auto), JudgeBy::Cosine);
        assert_eq!(by(Loss::Contrastive, JudgeBy::Auto), JudgeBy::Mrr);
        assert_eq!(by(Loss::Contrastive, JudgeBy::Loss), JudgeBy::Loss);
        assert_eq!(Objective::SameTrack.judge(&TrainConfig::default()), JudgeBy::Mrr);
    }

    #[test]
    fn a_constant_answer_has_the_spread_of_the_targets() {
        let targets = array![[1.0f32, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]];
        let loss = constant_loss(&TrainConfig::default(), targets.view(), &[1.5, 0.5, 1.0, 1.0], &[0, 1], &[2, 3]);
        // The mean is (0.75, 0.25): (1.75² + 0.25² + 0.75² + 0.75²) / 2.
        assert!((loss - 2.125).abs() < 1e-6, "{loss}");
    }
}
