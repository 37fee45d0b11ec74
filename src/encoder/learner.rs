//! Where the steps of training are computed: by our own loops on the CPU, or by one of burn's devices.

use std::borrow::Cow;

use burn::tensor::FloatDType;
use ndarray::{Array2, Array3};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::infer::Network;
use super::on_device::{self, OnDevice};
use super::optimiser::{State, Step};
use super::recipe::Precision;
use super::tape::Tape;
use super::{Device, EncoderConfig, Weights};
use crate::error::{Error, Result};

/// Below this cosine a device's gradient is not the processor's. With products of 16 bits and eight of them in a row it
/// is about 0.9999.
const AGREEMENT: f64 = 0.99;

/// The network, the optimiser and what they hold.
pub(crate) enum Learner {
    Cpu { config: EncoderConfig, tape: Box<Tape>, state: Box<State>, dropout: Option<[Array2<f32>; 2]> },
    Device(Box<OnDevice>),
}

impl Learner {
    /// `rows`: how many songs a batch has, which a device's kernels depend on.
    ///
    /// # Errors
    /// `Invalid` where the device is not there, does not compute in this precision, or does not find the processor's
    /// gradient.
    pub fn new(
        device: Device,
        precision: Precision,
        config: &EncoderConfig,
        state: State,
        rows: usize,
    ) -> Result<Learner> {
        check_device(device, precision)?;
        if device != Device::Cpu {
            let products = match precision {
                Precision::F32 => FloatDType::F32,
                Precision::Bf16 => FloatDType::BF16,
            };
            check(config, &state.weights, rows, |state| OnDevice::new(device, products, config, state))?;
            return Ok(Learner::Device(Box::new(OnDevice::new(device, products, config, &state)?)));
        }
        Ok(Learner::Cpu {
            config: config.clone(),
            tape: Box::new(Tape::new(config)),
            state: Box::new(state),
            dropout: None,
        })
    }

    /// The answers to a batch, `[rows, dimensions]`, which the next [`Learner::step`] learns from.
    pub fn forward(&mut self, mels: &Array3<f32>, dropout: Option<[Array2<f32>; 2]>) -> Result<Array2<f32>> {
        match self {
            Learner::Cpu { tape, state, dropout: kept, .. } => {
                *kept = dropout;
                Ok(tape.forward(&state.weights, mels.view(), kept.as_ref()))
            }
            Learner::Device(device) => device.forward(mels, dropout.as_ref()),
        }
    }

    /// One step from the gradient of the loss by the last answers. The gradient is shortened to the length `clip` (0:
    /// never). Returns its length before that; where that is not finite, no step was taken that could be gone on from.
    pub fn step(&mut self, d_answers: &Array2<f32>, step: Step, clip: f64) -> Result<f64> {
        match self {
            Learner::Cpu { tape, state, dropout, .. } => {
                let gradients = tape.backward(&state.weights, dropout.as_ref(), d_answers.view());
                let length = length(gradients);
                if length.is_finite() {
                    let shorten = if clip > 0.0 && length > clip { (clip / length) as f32 } else { 1.0 };
                    state.step(&Step { shorten, ..step }, gradients);
                }
                Ok(length)
            }
            Learner::Device(device) => device.step(d_answers.view(), &step, clip),
        }
    }

    /// The network with the running average of the weights, as it is now.
    pub fn judge(&self) -> Judge {
        match self {
            Learner::Cpu { config, state, .. } => Judge::Cpu(Box::new(Network::new(config, &state.average))),
            Learner::Device(device) => Judge::Device(Box::new(device.judge())),
        }
    }

    /// The running average of the weights.
    pub fn average(&self) -> Result<Weights> {
        match self {
            Learner::Cpu { state, .. } => Ok(state.average.clone()),
            Learner::Device(device) => device.average(),
        }
    }

    pub fn state(&self) -> Result<Cow<'_, State>> {
        match self {
            Learner::Cpu { state, .. } => Ok(Cow::Borrowed(state)),
            Learner::Device(device) => device.state().map(Cow::Owned),
        }
    }
}

/// A network that is not trained meanwhile.
pub(crate) enum Judge {
    Cpu(Box<Network>),
    Device(Box<on_device::Judge>),
}

impl Judge {
    /// From spectrograms `[b, frames, mel_bands]` to factors `[b, dimensions]`.
    pub fn predict(&self, mels: &Array3<f32>) -> Result<Array2<f32>> {
        match self {
            Judge::Cpu(network) => Ok(network.predict(mels.view())),
            Judge::Device(device) => device.predict(mels),
        }
    }
}

/// Whether training can run there, as far as that is known without a batch.
///
/// # Errors
/// `Invalid` where the device is not there, or this precision is not for it.
pub(crate) fn check_device(device: Device, precision: Precision) -> Result<()> {
    if device == Device::Cpu && precision != Precision::F32 {
        let expected = "f32 on the processor (others: --device)";
        return Err(Error::invalid("train.precision", expected, format!("{precision:?}").to_lowercase()));
    }
    device.of_burn().map(|_| ())
}

/// The length of a gradient, over all of its slices.
fn length(gradients: &[Vec<f32>]) -> f64 {
    // Chunks of one size summed in order: the same on any number of cores.
    let squares: Vec<f64> = gradients
        .iter()
        .flat_map(|g| {
            g.par_chunks(1 << 16).map(|c| c.iter().map(|&x| f64::from(x).powi(2)).sum()).collect::<Vec<f64>>()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// Compares a device's gradient with the processor's before it is trusted with hours: a driver was seen that multiplied
/// matrices wrongly without a word. On noise, at the size that training has, since kernels are chosen for each.
fn check(
    config: &EncoderConfig,
    weights: &Weights,
    rows: usize,
    open: impl FnOnce(&State) -> Result<OnDevice>,
) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // Noise about what each band is like, so that no unit is all on or off; no two frames alike, so that every pool has
    // one loudest.
    let mels = Array3::from_shape_fn((rows, config.frames, config.mel_bands), |(.., m)| {
        weights.mean[m] + weights.std[m] * rng.random_range(-1.7f32..1.7)
    });
    let d_answers = Array2::from_shape_simple_fn((rows, config.dimensions), || rng.random_range(-1.0f32..1.0));
    let mut tape = Tape::new(config);
    tape.forward(weights, mels.view(), None);
    let expected = tape.backward(weights, None, d_answers.view());
    // One step of plain descent along the gradient, at a rate of 1 and without momentum, is the gradient.
    let (start, zeros) = (weights.clone(), weights.zeros_like());
    let state = State { average: start.clone(), first: zeros.clone(), second: zeros, weights: start };
    let mut there = open(&state)?;
    let step = Step {
        optimiser: super::recipe::Optimiser::Sgd,
        learning_rate: 1.0,
        momentum: 0.0,
        weight_decay: 0.0,
        average: 0.0,
        number: 0,
        shorten: 1.0,
    };
    there.forward(&mels, None)?;
    there.step(d_answers.view(), &step, 0.0)?;
    // Without momentum the velocity is the gradient.
    let found = there.state()?.first.flat();
    let expected = expected.iter().flatten().copied();
    let (mut dot, mut ours, mut theirs) = (0.0, 0.0, 0.0);
    for (a, b) in expected.zip(found) {
        let (a, b) = (f64::from(a), f64::from(b));
        dot += a * b;
        ours += a * a;
        theirs += b * b;
    }
    let cosine = dot / (ours * theirs).sqrt();
    let ratio = (theirs / ours).sqrt();
    // Not a number is far, too.
    if cosine >= AGREEMENT && (ratio - 1.0).abs() < 0.05 {
        return Ok(());
    }
    let found = format!("a gradient with a cosine of {cosine:.4} with the processor's, {ratio:.3} times as long");
    Err(Error::invalid("device", "one that computes the network's gradient rightly", found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tests::tiny;

    /// Standardised as `check`'s noise is.
    fn weights(config: &EncoderConfig) -> Weights {
        let mut weights = Weights::random(config, 3);
        weights.mean.fill(4.0);
        weights.std.fill(2.0);
        weights
    }

    #[test]
    fn a_device_is_trusted_with_the_right_gradient_alone() {
        for (config, products) in [
            (tiny(), FloatDType::F32),
            (tiny(), FloatDType::BF16),
            (EncoderConfig::default(), FloatDType::F32),
            (EncoderConfig::default(), FloatDType::BF16),
        ] {
            let weights = weights(&config);
            let open = |state: &State| OnDevice::new(Device::Flex, products, &config, state);
            check(&config, &weights, 3, open).unwrap();
            // As from a driver that gets one of the layers wrong.
            let wrong = |state: &State| {
                let mut state = state.clone();
                state.weights.layers[1].weight.mapv_inplace(|w| -w);
                open(&state)
            };
            let refused = check(&config, &weights, 3, wrong).unwrap_err().to_string();
            assert!(refused.contains("gradient with a cosine"), "{refused}");
        }
    }

    #[test]
    fn what_the_processor_cannot_do_is_refused() {
        let state = State::new(weights(&tiny()));
        let refused = Learner::new(Device::Cpu, Precision::Bf16, &tiny(), state, 2).err().unwrap().to_string();
        assert!(refused.contains("train.precision") && refused.contains("--device"), "{refused}");
    }
}
