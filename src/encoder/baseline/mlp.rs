//! The multilayer perceptron: two hidden layers on the same features as the linear model, so that what it scores more is
//! what lines cannot say (van den Oord et al. 2013, section 5: two layers of 1,000 ReLU units, dropout 0.5).

use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Examples, product};
use crate::encoder::embed::normalise;
use crate::encoder::objective::unit_targets;
use crate::encoder::optimiser::{Optimiser, State, Step};
use crate::encoder::{Layer, Weights};
use crate::error::{Error, Result};

/// How it is trained.
#[derive(Clone, Copy, Debug)]
pub struct MlpConfig {
    /// Units of each hidden layer.
    pub hidden: usize,
    /// The share of them that is silenced in each step.
    pub dropout: f64,
    /// Passes over the training tracks, at most.
    pub epochs: usize,
    /// Passes without a lower validation loss after which training ends; the best pass is kept.
    pub patience: usize,
    pub batch_size: usize,
    /// AdamW's, as is the next.
    pub learning_rate: f32,
    pub weight_decay: f32,
    pub seed: u64,
}

impl Default for MlpConfig {
    fn default() -> MlpConfig {
        MlpConfig {
            hidden: 1000,
            dropout: 0.5,
            epochs: 300,
            patience: 20,
            batch_size: 64,
            learning_rate: 5e-4,
            weight_decay: 0.05,
            seed: 1,
        }
    }
}

/// The weight decays that [`Mlp::choose`] tries, from next to none to one that forgets within some 400 steps.
const DECAYS: [f32; 3] = [0.05, 0.5, 5.0];

/// A trained one.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// Three layers, and the standardisation of the features.
    weights: Weights,
    /// What it was trained with.
    pub weight_decay: f32,
    /// Passes until the best.
    pub best_epoch: usize,
    /// The mean squared distance to the validation targets (0 to 4; 1 is what predicting 0 gives), as
    /// [`LinearBaseline::valid_loss`](super::LinearBaseline::valid_loss).
    pub valid_loss: f64,
}

impl Mlp {
    /// Of some weight decays that which does best on the validation tracks, as the linear model's penalty is chosen.
    ///
    /// # Errors
    /// As [`Mlp::fit`].
    pub fn choose(features: ArrayView2<f32>, examples: &Examples, config: &MlpConfig) -> Result<Mlp> {
        let [first, rest @ ..] = DECAYS;
        let fit = |weight_decay| Mlp::fit(features, examples, &MlpConfig { weight_decay, ..*config });
        let mut best = fit(first)?;
        for weight_decay in rest {
            let other = fit(weight_decay)?;
            if other.valid_loss < best.valid_loss {
                best = other;
            }
        }
        Ok(best)
    }

    /// Fits on the training tracks, from `features` `[tracks, features]`, until the validation tracks gain no more.
    ///
    /// # Errors
    /// As [`LinearBaseline::fit`](super::LinearBaseline::fit).
    pub fn fit(features: ArrayView2<f32>, examples: &Examples, config: &MlpConfig) -> Result<Mlp> {
        let Examples { targets, weights, train, valid } = *examples;
        let targets = unit_targets(targets, weights, train, valid)?;
        if features.nrows() != targets.nrows() {
            return Err(Error::mismatch("features and targets", targets.nrows(), features.nrows()));
        }
        if let Some(track) = train.iter().chain(valid).find(|&&t| features.row(t).iter().any(|v| !v.is_finite())) {
            return Err(Error::invalid(format!("features of track {track}"), "finite numbers", "others"));
        }
        if config.hidden == 0 || config.batch_size == 0 || !(0.0..1.0).contains(&config.dropout) {
            let found = format!("{}, {} and {}", config.hidden, config.batch_size, config.dropout);
            return Err(Error::invalid("hidden units, batch size and dropout", "1, 1, and 0 to below 1", found));
        }
        let total: f64 = train.iter().map(|&t| f64::from(weights[t])).sum();
        let scale = train.len() as f64 / total;
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mut fresh = random(features.ncols(), config.hidden, targets.ncols(), &mut rng);
        (fresh.mean, fresh.std) = standardisation(features.select(Axis(0), train));
        let x = standardised(features, &fresh);

        let valid_targets = targets.select(Axis(0), valid);
        let judge = |weights: &Weights| {
            let missed = forward(weights, x.select(Axis(0), valid), None).pop().expect("four layers") - &valid_targets;
            missed.iter().map(|&m| f64::from(m).powi(2)).sum::<f64>() / valid.len() as f64
        };
        let weight_decay = config.weight_decay;
        let mut best = Mlp { valid_loss: judge(&fresh), weights: fresh.clone(), weight_decay, best_epoch: 0 };
        let mut state = State::new(fresh);
        let mut order = train.to_vec();
        let mut number = 0;
        for epoch in 1..=config.epochs {
            order.shuffle(&mut rng);
            for batch in order.chunks(config.batch_size) {
                let counts: Array1<f32> = batch.iter().map(|&t| (f64::from(weights[t]) * scale) as f32).collect();
                let masks = masks(batch.len(), config, &mut rng);
                let (x, y) = (x.select(Axis(0), batch), targets.select(Axis(0), batch));
                let gradients = gradients(&state.weights, x, &y, &counts, masks.as_ref());
                let step = Step {
                    optimiser: Optimiser::AdamW,
                    learning_rate: config.learning_rate,
                    momentum: 0.9,
                    weight_decay,
                    // The average of some ten passes over 500 tracks, as the network's.
                    average: 0.99,
                    number,
                    shorten: 1.0,
                };
                state.step(&step, &gradients);
                number += 1;
            }
            let valid_loss = judge(&state.average);
            if valid_loss < best.valid_loss {
                best = Mlp { weights: state.average.clone(), weight_decay, best_epoch: epoch, valid_loss };
            }
            if epoch >= best.best_epoch + config.patience {
                break;
            }
        }
        Ok(best)
    }

    /// `[n, features]` to unit-length rows `[n, dimensions]`.
    ///
    /// # Errors
    /// As [`LinearBaseline::predict`](super::LinearBaseline::predict).
    pub fn predict(&self, features: ArrayView2<f32>) -> Result<Array2<f32>> {
        if features.ncols() != self.weights.mean.len() {
            return Err(Error::mismatch("features and baseline", self.weights.mean.len(), features.ncols()));
        }
        let x = standardised(features, &self.weights);
        let mut vectors = forward(&self.weights, x, None).pop().expect("four layers");
        for (i, row) in vectors.outer_iter_mut().enumerate() {
            if !normalise(row) {
                return Err(Error::invalid(format!("the prediction for track {i}"), "a direction", "no finite length"));
            }
        }
        Ok(vectors)
    }
}

/// Fresh layers, as [`Weights::random`] makes them.
fn random(features: usize, hidden: usize, dimensions: usize, rng: &mut ChaCha8Rng) -> Weights {
    let shapes = [(features, hidden), (hidden, hidden), (hidden, dimensions)];
    let mut layer = |(inputs, outputs): (usize, usize), variance: f32| {
        let bound = (3.0 * variance).sqrt();
        Layer {
            weight: Array2::from_shape_simple_fn((inputs, outputs), || rng.random_range(-bound..=bound)),
            bias: Array1::zeros(outputs),
        }
    };
    let he = |inputs: usize| 2.0 / inputs.max(1) as f32;
    let layers = vec![
        layer(shapes[0], he(features)),
        layer(shapes[1], he(hidden)),
        layer(shapes[2], 0.01 / (hidden * dimensions.max(1)) as f32),
    ];
    Weights { mean: Array1::zeros(features), std: Array1::ones(features), layers }
}

/// Mean and standard deviation of each feature; one that does not vary has 1.
fn standardisation(x: Array2<f32>) -> (Array1<f32>, Array1<f32>) {
    let wide = x.mapv(f64::from);
    let n = x.nrows() as f64;
    let mean = wide.sum_axis(Axis(0)) / n;
    let centred = wide - &mean;
    let std = (&centred * &centred).sum_axis(Axis(0)).mapv(|sum| (sum / n).sqrt());
    (mean.mapv(|x| x as f32), std.mapv(|x| if x > 1e-6 { x as f32 } else { 1.0 }))
}

fn standardised(features: ArrayView2<f32>, weights: &Weights) -> Array2<f32> {
    (&features - &weights.mean) / &weights.std
}

/// What silences hidden units, `[batch, hidden]` each, none without dropout.
fn masks(batch: usize, config: &MlpConfig, rng: &mut ChaCha8Rng) -> Option<[Array2<f32>; 2]> {
    let keep = 1.0 - config.dropout;
    let mut mask = || {
        Array2::from_shape_simple_fn((batch, config.hidden), || {
            if rng.random_bool(keep) { (1.0 / keep) as f32 } else { 0.0 }
        })
    };
    (config.dropout > 0.0).then(|| [mask(), mask()])
}

/// The inputs of each layer `[batch, inputs]`, and the last one's outputs `[batch, dimensions]`.
fn forward(weights: &Weights, x: Array2<f32>, masks: Option<&[Array2<f32>; 2]>) -> Vec<Array2<f32>> {
    let mut values = vec![x];
    for (i, layer) in weights.layers.iter().enumerate() {
        let mut out = product(values[i].view(), layer.weight.view()) + &layer.bias;
        if i + 1 < weights.layers.len() {
            out.mapv_inplace(|v| v.max(0.0));
            if let Some(masks) = masks {
                out *= &masks[i];
            }
        }
        values.push(out);
    }
    values
}

/// Of the batch's mean weighted squared distance, for each layer's weight and bias in turn.
fn gradients(
    weights: &Weights,
    x: Array2<f32>,
    targets: &Array2<f32>,
    counts: &Array1<f32>,
    masks: Option<&[Array2<f32>; 2]>,
) -> Vec<Vec<f32>> {
    let values = forward(weights, x, masks);
    let layers = weights.layers.len();
    let share = counts.mapv(|c| 2.0 * c / counts.len() as f32).insert_axis(Axis(1));
    let mut back = (&values[layers] - targets) * share;
    let mut gradients = Vec::with_capacity(2 * layers);
    for i in (0..layers).rev() {
        let weight = product(values[i].t(), back.view());
        // Backwards, so bias before weight.
        gradients.push(back.sum_axis(Axis(0)).to_vec());
        gradients.push(weight.into_raw_vec_and_offset().0);
        if i > 0 {
            back = product(back.view(), weights.layers[i].weight.t());
            // What ReLU or dropout silenced has no gradient; where a unit spoke, dropout had made it louder.
            Zip::from(&mut back).and(&values[i]).for_each(|b, &v| *b = if v > 0.0 { *b } else { 0.0 });
            if let Some(masks) = masks {
                back *= &masks[i - 1];
            }
        }
    }
    gradients.reverse();
    gradients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::LinearBaseline;

    #[test]
    fn gradients_are_the_derivatives() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let config = MlpConfig { hidden: 7, ..MlpConfig::default() };
        let mut weights = random(4, 7, 3, &mut rng);
        // The small output layer of a fresh network leaves nothing to see.
        weights.layers[2].weight.mapv_inplace(|w| 10.0 * w);
        // Where dropout silences a whole layer the next would stand at the kink of its ReLU.
        weights.layers.iter_mut().for_each(|l| l.bias.mapv_inplace(|_| rng.random_range(-0.5..0.5)));
        let mut matrix = |n, m| Array2::from_shape_simple_fn((n, m), || rng.random_range(-1.0f32..1.0));
        let (x, y) = (matrix(5, 4), matrix(5, 3));
        let counts = Array1::from_vec(vec![0.5, 2.0, 1.0, 1.0, 0.0]);
        for masks in [None, masks(5, &config, &mut ChaCha8Rng::seed_from_u64(2))] {
            let loss = |weights: &Weights| -> f64 {
                let missed = forward(weights, x.clone(), masks.as_ref()).pop().unwrap() - &y;
                let rows = missed.outer_iter().zip(&counts);
                rows.map(|(m, c)| f64::from(*c) * m.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()).sum::<f64>()
                    / 5.0
            };
            let found = gradients(&weights, x.clone(), &y, &counts, masks.as_ref());
            for (slice, found) in found.iter().enumerate() {
                for at in [0, 2] {
                    let moved = |by: f32| {
                        let mut weights = weights.clone();
                        weights.slices_mut()[slice][at] += by;
                        loss(&weights)
                    };
                    // Further would step over the kink of a ReLU.
                    let expected = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                    let error = (f64::from(found[at]) - expected).abs();
                    assert!(error < 5e-3 * (1.0 + expected.abs()), "{slice} {at}: {} {expected}", found[at]);
                }
            }
        }
    }

    #[test]
    fn it_learns_what_a_line_cannot() {
        // Products of features: no line says anything of them.
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let x = Array2::from_shape_simple_fn((900, 4), || rng.random_range(-1.0f32..1.0));
        let targets = Array2::from_shape_fn((900, 3), |(t, j)| {
            [x[[t, 0]] * x[[t, 1]], x[[t, 2]] * x[[t, 3]], x[[t, 0]] * x[[t, 2]]][j] + 1e-3
        });
        let (train, valid): (Vec<usize>, Vec<usize>) = ((0..700).collect(), (700..900).collect());
        let weights = vec![1.0; 900];
        let examples = Examples { targets: targets.view(), weights: &weights, train: &train, valid: &valid };
        let linear = LinearBaseline::fit(x.view(), &examples).unwrap();
        let config = MlpConfig { hidden: 64, dropout: 0.0, epochs: 60, learning_rate: 5e-3, ..MlpConfig::default() };
        let mlp = Mlp::fit(x.view(), &examples, &config).unwrap();
        assert!(linear.valid_loss > 0.9 && mlp.valid_loss < 0.3, "{} {}", linear.valid_loss, mlp.valid_loss);
        let predicted = mlp.predict(x.view()).unwrap();
        assert!(predicted.outer_iter().all(|row| (row.dot(&row) - 1.0).abs() < 1e-5));
        assert!(mlp.predict(x.slice(ndarray::s![.., 1..])).is_err());

        let fit = |threads, config: MlpConfig| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Mlp::fit(x.view(), &examples, &MlpConfig { epochs: 2, ..config }).unwrap()).weights
        };
        let with_dropout = MlpConfig { dropout: 0.5, hidden: 300, ..config };
        assert_eq!(fit(1, with_dropout), fit(3, with_dropout));
        assert!(Mlp::fit(x.view(), &examples, &MlpConfig { dropout: 1.0, ..config }).is_err());

        // Of few tracks: what is chosen is what did best.
        let few = Examples { train: &train[..60], ..examples };
        let losses = DECAYS
            .map(|weight_decay| Mlp::fit(x.view(), &few, &MlpConfig { weight_decay, ..config }).unwrap().valid_loss);
        let chosen = Mlp::choose(x.view(), &few, &config).unwrap();
        let place = DECAYS.iter().position(|d| *d == chosen.weight_decay).unwrap();
        assert!(losses.iter().enumerate().all(|(i, loss)| i == place || *loss > losses[place]), "{place} {losses:?}");
    }
}
