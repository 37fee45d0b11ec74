//! The two optimisers, as one pass over plain numbers: weights, moments and running average are read and written once
//! a step, which for nine million weights is several times cheaper than a chain of tensor operations.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Weights;

/// Which rule turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimiser {
    /// Stochastic gradient descent with Nesterov momentum, as in the post.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    AdamW,
}

/// One step's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub optimiser: Optimiser,
    pub learning_rate: f32,
    /// Nesterov's momentum; AdamW's β₁.
    pub momentum: f32,
    /// The share of each weight (not bias) that is shed per step is this times the learning rate.
    pub weight_decay: f32,
    /// How much of the running average is kept per step; 0: the average is the weights.
    pub average: f32,
    /// Steps before this one.
    pub number: u64,
    /// What the gradient is multiplied by.
    pub shorten: f32,
}

/// What an optimiser carries from step to step, and the running average of the weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub weights: Weights,
    pub average: Weights,
    /// Velocity; the gradient's mean.
    pub first: Weights,
    /// The gradient's mean square; all 0 under SGD.
    pub second: Weights,
}

impl State {
    pub fn new(weights: Weights) -> State {
        let zeros = weights.zeros_like();
        State { average: weights.clone(), first: zeros.clone(), second: zeros, weights }
    }

    /// One step. `gradients`: the 14 slices of [`Weights::slices_mut`], in their order.
    pub fn step(&mut self, step: &Step, gradients: &[Vec<f32>]) {
        let slices = self.weights.slices_mut().into_iter().zip(self.average.slices_mut());
        let moments = self.first.slices_mut().into_iter().zip(self.second.slices_mut());
        for (i, ((w, a), ((m, v), g))) in slices.zip(moments.zip(gradients)).enumerate() {
            // Biases sit at the odd places and are not decayed: they do not multiply anything.
            let step = if i % 2 == 1 { Step { weight_decay: 0.0, ..*step } } else { *step };
            // 64 K numbers: large enough to amortise the hand-over, small enough to share evenly.
            const CHUNK: usize = 1 << 16;
            w.par_chunks_mut(CHUNK)
                .zip(a.par_chunks_mut(CHUNK))
                .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                .zip(g.par_chunks(CHUNK))
                .for_each(|(((w, a), (m, v)), g)| match step.optimiser {
                    Optimiser::Sgd => nesterov(&step, w, a, m, g),
                    Optimiser::AdamW => adamw(&step, w, a, m, v, g),
                });
        }
    }
}

/// The average follows fast at first, so that it forgets the random start: min(average, (1 + n) / (10 + n)), the
/// schedule of TensorFlow's ExponentialMovingAverage.
pub(crate) fn kept(step: &Step) -> f32 {
    step.average.min((1 + step.number) as f32 / (10 + step.number) as f32)
}

/// v ← μ v + g;  w ← w − η (g + μ v): Sutskever et al. 2013, in the form that PyTorch uses.
fn nesterov(step: &Step, w: &mut [f32], average: &mut [f32], v: &mut [f32], g: &[f32]) {
    let (eta, mu, keep) = (step.learning_rate, step.momentum, kept(step));
    let shrink = 1.0 - eta * step.weight_decay;
    for (((w, a), v), &g) in w.iter_mut().zip(average).zip(v).zip(g) {
        let g = step.shorten * g;
        *v = mu * *v + g;
        *w = shrink * *w - eta * (g + mu * *v);
        *a = keep * *a + (1.0 - keep) * *w;
    }
}

/// Loshchilov & Hutter 2019, algorithm 2, with β₂ = 0.999 and ε = 1e-8 as there.
fn adamw(step: &Step, w: &mut [f32], average: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    let (eta, beta1, beta2, keep) = (step.learning_rate, step.momentum, 0.999f32, kept(step));
    let n = step.number as i32 + 1;
    let (unbias1, unbias2) = (1.0 / (1.0 - beta1.powi(n)), 1.0 / (1.0 - beta2.powi(n)));
    let shrink = 1.0 - eta * step.weight_decay;
    for ((((w, a), m), v), &g) in w.iter_mut().zip(average).zip(m).zip(v).zip(g) {
        let g = step.shorten * g;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *w = shrink * *w - eta * (*m * unbias1) / ((*v * unbias2).sqrt() + 1e-8);
        *a = keep * *a + (1.0 - keep) * *w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step {
        optimiser: Optimiser::Sgd,
        learning_rate: 0.1,
        momentum: 0.9,
        weight_decay: 0.0,
        average: 0.0,
        number: 0,
        shorten: 1.0,
    };

    /// Three steps down f(w) = w²/2 from w = 1, so g = w.
    fn descend(step: Step) -> (f32, f32) {
        let (mut w, mut a, mut m, mut v) = ([1.0], [1.0], [0.0], [0.0]);
        for number in 0..3 {
            let (step, g) = (Step { number, ..step }, w);
            match step.optimiser {
                Optimiser::Sgd => nesterov(&step, &mut w, &mut a, &mut m, &g),
                Optimiser::AdamW => adamw(&step, &mut w, &mut a, &mut m, &mut v, &g),
            }
        }
        (w[0], a[0])
    }

    /// The expected numbers are those of `torch.optim.SGD(lr=.1, momentum=.9, nesterov=True)` and
    /// `torch.optim.AdamW(lr=.1, weight_decay=.5)` (PyTorch 2.15).
    #[test]
    fn steps_equal_pytorch_s() {
        assert!((descend(STEP).0 - 0.327_321).abs() < 1e-5, "{:?}", descend(STEP));
        let adam = descend(Step { optimiser: Optimiser::AdamW, weight_decay: 0.5, ..STEP });
        assert!((adam.0 - 0.574_974).abs() < 1e-5, "{adam:?}");
    }

    #[test]
    fn a_shortened_gradient_is_a_smaller_one() {
        let (mut w, mut v) = ([1.0], [0.0]);
        nesterov(&Step { shorten: 0.5, ..STEP }, &mut w, &mut [0.0], &mut v, &[2.0]);
        assert_eq!((w[0], v[0]), (1.0 - 0.1 * (1.0 + 0.9), 1.0));
    }

    #[test]
    fn the_average_trails_the_weights() {
        let (w, a) = descend(Step { average: 0.99, ..STEP });
        assert!(w < a && a < 1.0, "{w} {a}");
        assert_eq!(descend(STEP).0, descend(STEP).1, "no averaging: the average is the weights");
    }
}
