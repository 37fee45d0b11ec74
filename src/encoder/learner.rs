//! Where the steps of training are computed: by our own loops on the CPU, or by one of burn's devices.

use std::borrow::Cow;

use burn::tensor::FloatDType;
use half::f16;
use ndarray::{Array2, Array3};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::infer::Network;
use super::on_device::{self, OnDevice};
use super::optimiser::{Optimiser, State, Step};
use super::recipe::Precision;
use super::tape::Tape;
use super::{Device, EncoderConfig, LAYERS, Weights};
use crate::error::{Error, Result};

/// How near the gradient by a layer's weights, or by its biases, must be to the processor's: the cosine, and by how much of
/// its length it may be longer or shorter. Products of 19 bits, which tensor cores make of 32-bit ones, choose another frame
/// of some pools, and leave a cosine of 0.998 or so.
const AGREEMENT: (f64, f64) = (0.99, 0.05);
/// The same for products of 16 bits, seven of them in a row and back: what is wrong is far below.
const ROUGH_AGREEMENT: (f64, f64) = (0.8, 0.5);

/// The network, the optimiser and what they hold.
pub(crate) enum Learner {
    Cpu(Box<OnCpu>),
    Device(Box<OnDevice>),
}

pub(crate) struct OnCpu {
    config: EncoderConfig,
    tape: Tape,
    state: State,
    /// Of the last forward pass.
    dropout: Option<[Array2<f32>; 2]>,
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
            check(device, products, config, rows)?;
            return Ok(Learner::Device(Box::new(OnDevice::new(device, products, config, &state)?)));
        }
        Ok(Learner::Cpu(Box::new(OnCpu { config: config.clone(), tape: Tape::new(config), state, dropout: None })))
    }

    /// The answers to a batch, `[rows, dimensions]`, which the next [`Learner::step`] learns from.
    pub fn forward(&mut self, mels: &Array3<f32>, dropout: Option<[Array2<f32>; 2]>) -> Result<Array2<f32>> {
        match self {
            Learner::Cpu(cpu) => {
                cpu.dropout = dropout;
                Ok(cpu.tape.forward(&cpu.state.weights, mels.view(), cpu.dropout.as_ref()))
            }
            Learner::Device(device) => device.forward(mels, dropout.as_ref()),
        }
    }

    /// One step from the gradient of the loss by the last answers. The gradient is shortened to the length `clip` (0:
    /// never). Returns its length before that; where that is not finite, no step was taken that could be gone on from.
    pub fn step(&mut self, d_answers: &Array2<f32>, step: Step, clip: f64) -> Result<f64> {
        match self {
            Learner::Cpu(cpu) => {
                let OnCpu { tape, state, dropout, .. } = &mut **cpu;
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
            Learner::Cpu(cpu) => Judge::Cpu(Box::new(Network::new(&cpu.config, &cpu.state.average))),
            Learner::Device(device) => Judge::Device(Box::new(device.judge())),
        }
    }

    /// The running average of the weights.
    pub fn average(&self) -> Result<Weights> {
        match self {
            Learner::Cpu(cpu) => Ok(cpu.state.average.clone()),
            Learner::Device(device) => device.average(),
        }
    }

    pub fn state(&self) -> Result<Cow<'_, State>> {
        match self {
            Learner::Cpu(cpu) => Ok(Cow::Borrowed(&cpu.state)),
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
pub fn check_device(device: Device, precision: Precision) -> Result<()> {
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
///
/// # Errors
/// `Invalid` where a layer's differs.
fn check(device: Device, products: FloatDType, config: &EncoderConfig, rows: usize) -> Result<()> {
    let trial = Trial::new(config, rows);
    let found = trial.gradient_on(&mut OnDevice::new(device, products, config, &trial.state)?)?;
    let near = if products == FloatDType::F32 { AGREEMENT } else { ROUGH_AGREEMENT };
    trial.compare(&found, near).map_err(|found| {
        Error::invalid("device", "one that computes the network's gradient rightly", format!("{device}, {found}"))
    })
}

/// A step whose gradient every layer takes part in.
struct Trial {
    config: EncoderConfig,
    state: State,
    mels: Array3<f32>,
    d_answers: Array2<f32>,
}

impl Trial {
    fn new(config: &EncoderConfig, rows: usize) -> Trial {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut weights = Weights::random(config, 1);
        // The output layer begins so small that next to nothing would flow below it.
        if let Some(output) = weights.layers.last_mut() {
            let size = (output.weight.iter().map(|w| w * w).sum::<f32>() / output.weight.len() as f32).sqrt();
            output.weight *= (2.0 / output.weight.nrows() as f32).sqrt() / size;
        }
        // No two frames are alike, so every pool has one loudest.
        let shape = (rows, config.frames, config.mel_bands);
        Trial {
            config: config.clone(),
            state: State::new(weights),
            // As spectrograms travel: a gradient's first layers would show the rounding.
            mels: Array3::from_shape_simple_fn(shape, || f16::from_f32(rng.random_range(-1.7f32..1.7)).to_f32()),
            d_answers: Array2::from_shape_simple_fn((rows, config.dimensions), || rng.random_range(-1.0f32..1.0)),
        }
    }

    /// The gradient by each slice of the weights, on the processor.
    fn gradient(&self) -> Vec<Vec<f32>> {
        let mut tape = Tape::new(&self.config);
        tape.forward(&self.state.weights, self.mels.view(), None);
        tape.backward(&self.state.weights, None, self.d_answers.view()).to_vec()
    }

    /// The same on a device.
    fn gradient_on(&self, device: &mut OnDevice) -> Result<Vec<Vec<f32>>> {
        // Without momentum a step's velocity is the gradient.
        let step = Step {
            optimiser: Optimiser::Sgd,
            learning_rate: 1.0,
            momentum: 0.0,
            weight_decay: 0.0,
            average: 0.0,
            number: 0,
            shorten: 1.0,
        };
        device.forward(&self.mels, None)?;
        device.step(self.d_answers.view(), &step, 0.0)?;
        Ok(device.state()?.first.slices_mut().into_iter().map(|slice| slice.to_vec()).collect())
    }

    /// What is wrong with `found`, if anything is: the first slice with a smaller cosine, or of another length.
    fn compare(&self, found: &[Vec<f32>], (least, apart): (f64, f64)) -> std::result::Result<(), String> {
        for (i, (ours, theirs)) in self.gradient().iter().zip(found).enumerate() {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let (length, other) = (dot(ours, ours).sqrt(), dot(theirs, theirs).sqrt());
            let (cosine, ratio) = (dot(ours, theirs) / (length * other), other / length);
            // Not a number is far, too.
            if !(cosine >= least && (ratio - 1.0).abs() <= apart) {
                let of = if i % 2 == 0 { "weights" } else { "biases" };
                return Err(format!(
                    "whose gradient by the {of} of {} has a cosine of {cosine:.4} with the processor's and is {ratio:.3} times as long",
                    LAYERS[i / 2]
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tests::tiny;

    #[test]
    fn a_device_is_trusted_with_the_right_gradient_alone() {
        for config in [tiny(), EncoderConfig::default()] {
            for (products, near) in [(FloatDType::F32, (0.9999, 0.001)), (FloatDType::BF16, ROUGH_AGREEMENT)] {
                check(Device::Flex, products, &config, 3).unwrap();
                let trial = Trial::new(&config, 3);
                let mut device = OnDevice::new(Device::Flex, products, &config, &trial.state).unwrap();
                let found = trial.gradient_on(&mut device).unwrap();
                trial.compare(&found, near).unwrap();
                // As from a driver that gets one layer wrong, whichever it is.
                for slice in 0..14 {
                    let wrong: [fn(&mut f32); 4] = [|x| *x = -*x, |x| *x = 0.0, |x| *x *= 3.0, |x| *x = f32::NAN];
                    for spoil in wrong {
                        let mut spoilt = found.clone();
                        spoilt[slice].iter_mut().for_each(spoil);
                        let refused = trial.compare(&spoilt, near).unwrap_err();
                        assert!(refused.contains(LAYERS[slice / 2]), "{refused}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_processor_cannot_do_is_refused() {
        let state = State::new(Weights::random(&tiny(), 1));
        let refused = Learner::new(Device::Cpu, Precision::Bf16, &tiny(), state, 2).err().unwrap().to_string();
        assert!(refused.contains("train.precision") && refused.contains("--device"), "{refused}");
    }
}
