//! The network for training on one of burn's devices: [`Tape`](super::tape::Tape) and [`State`] in one.
//!
//! ```text
//!  host     mels ──────────► ┌──────────────────────────────────────────────┐ device
//!           16 bits          │ forward, as `AudioEncoder` has it            │
//!  loss ◄── answers [b, 40] ─┤                                              │
//!           d answers ─────► │ backward, by burn's autodiff                 │
//!           length ◄──────── │ clipping, optimiser, running average: `flat` │
//!                            └──────────────────────────────────────────────┘
//! ```
//!
//! Weights, their running average and the optimiser's moments stay on the device, each as one row of numbers: a step of
//! the optimiser is then a dozen operations, whatever the number of layers. The loss is the same function of a few
//! thousand numbers as on the CPU, and computed there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Device as BurnDevice, FloatDType, Tensor, TensorData};
use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{Array1, Array2, Array3, ArrayView2};
use rayon::prelude::*;

use super::optimiser::{Optimiser, State, Step, kept};
use super::{AudioEncoder, Device, EncoderConfig, Weights};
use crate::error::{Error, Result};

/// What trains on a device.
pub(crate) struct OnDevice {
    config: EncoderConfig,
    name: Device,
    device: BurnDevice,
    /// What the matrix products are computed in.
    products: FloatDType,
    /// What spectrograms travel in.
    spectrograms: FloatDType,
    mean: Array1<f32>,
    std: Array1<f32>,
    flat: Flat,
    /// 1 for each weight, 0 for each bias.
    decayed: Tensor<1>,
    /// The last forward pass, until its step is taken.
    open: Option<(AudioEncoder, Tensor<2>)>,
}

/// The parts of a [`State`], each as one row: weights and biases of the layers in turn.
struct Flat {
    weights: Tensor<1>,
    average: Tensor<1>,
    first: Tensor<1>,
    second: Tensor<1>,
}

impl OnDevice {
    /// # Errors
    /// `Invalid` where the device is not there, or does not compute in `products`.
    pub fn new(name: Device, products: FloatDType, config: &EncoderConfig, state: &State) -> Result<OnDevice> {
        let device = name.of_burn()?;
        if !device.supports_dtype(products) {
            let what = format!("train.precision on {name}");
            return Err(Error::invalid(what, "one that the device computes in", format!("{products:?}")));
        }
        let spectrograms = if device.supports_dtype(FloatDType::F16) { FloatDType::F16 } else { FloatDType::F32 };
        let decayed = config.shapes().into_iter().flat_map(|(i, o)| [(i * o, 1.0), (o, 0.0)]);
        let decayed: Vec<f32> = decayed.flat_map(|(numbers, by)| std::iter::repeat_n(by, numbers)).collect();
        guarded(name, || {
            let row = |weights: &Weights| upload(weights.flat(), &device);
            Ok(OnDevice {
                config: config.clone(),
                name,
                products,
                spectrograms,
                mean: state.weights.mean.clone(),
                std: state.weights.std.clone(),
                flat: Flat {
                    weights: row(&state.weights),
                    average: row(&state.average),
                    first: row(&state.first),
                    second: row(&state.second),
                },
                decayed: upload(decayed, &device),
                open: None,
                device: device.clone(),
            })
        })
    }

    /// From spectrograms `[b, frames, mel_bands]` to factors `[b, dimensions]`; what [`OnDevice::step`] needs is kept.
    ///
    /// `dropout`: as [`AudioEncoder::forward`] has it.
    pub fn forward(&mut self, mels: &Array3<f32>, dropout: Option<&[Array2<f32>; 2]>) -> Result<Array2<f32>> {
        let autodiff = self.device.clone().autodiff();
        guarded(self.name, || {
            let network = self.network(&self.flat.weights, &autodiff);
            let masks = dropout.map(|[a, b]| [matrix(a.view(), &autodiff), matrix(b.view(), &autodiff)]);
            let answers = network.forward(spectrograms(mels, self.spectrograms, &autodiff), masks);
            let numbers = download(answers.clone().inner())?;
            self.open = Some((network, answers));
            rows(numbers, self.config.dimensions)
        })
    }

    /// One step from the gradient of a loss by the answers `[b, dimensions]` of the last forward pass, which it may take
    /// once. `step.shorten` is not used: the gradient is shortened to the length `clip` here (0: never). Returns its
    /// length before that; where that is no number, nor are the weights any more.
    pub fn step(&mut self, d_answers: ArrayView2<f32>, step: &Step, clip: f64) -> Result<f64> {
        let (network, answers) = self.open.take().ok_or_else(|| {
            Error::invalid("a step of training", "a forward pass before each", "a second step after one pass")
        })?;
        guarded(self.name, || {
            let by = matrix(d_answers, &self.device.clone().autodiff());
            let mut gradients = (answers * by).sum().backward();
            let of_layers = network.layers.iter().flat_map(|layer| {
                let weight = layer.weight.val().grad_remove(&mut gradients).map(|g| g.flatten::<1>(0, 1));
                [weight, layer.bias.val().grad_remove(&mut gradients)]
            });
            let slices: Option<Vec<Tensor<1>>> = of_layers.collect();
            let slices = slices.ok_or_else(|| Error::invalid("a gradient", "one by every layer", "a layer without"))?;
            let gradient = Tensor::cat(slices, 0);
            let length = gradient.clone().square().sum().sqrt();
            let gradient = if clip > 0.0 {
                // Decided over there, so that the step need not wait for the host to know the length.
                gradient * (length.clone().recip() * clip as f32).clamp_max(1.0)
            } else {
                gradient
            };
            self.flat.step(step, gradient, &self.decayed);
            let length = download(length)?;
            Ok(length.first().map_or(f64::NAN, |&length| f64::from(length)))
        })
    }

    /// The network with the running average of the weights, as it is now.
    pub fn judge(&self) -> Judge {
        let network = self.network(&self.flat.average, &self.device);
        let OnDevice { name, device, spectrograms, config, .. } = self;
        Judge {
            name: *name,
            device: device.clone(),
            spectrograms: *spectrograms,
            network,
            dimensions: config.dimensions,
        }
    }

    /// Weights, running average and moments, as they are now.
    pub fn state(&self) -> Result<State> {
        let Flat { weights, average, first, second } = &self.flat;
        let [weights, average, first, second] = [weights, average, first, second].map(|row| self.weights(row));
        Ok(State { weights: weights?, average: average?, first: first?, second: second? })
    }

    /// The running average of the weights, as it is now.
    pub fn average(&self) -> Result<Weights> {
        self.weights(&self.flat.average)
    }

    fn weights(&self, row: &Tensor<1>) -> Result<Weights> {
        let numbers = guarded(self.name, || download(row.clone()))?;
        Ok(Weights::from_flat(&self.config, (&self.mean, &self.std), &numbers))
    }

    fn network(&self, row: &Tensor<1>, device: &BurnDevice) -> AudioEncoder {
        let mut at = 0;
        let mut take = |numbers: usize| {
            at += numbers;
            row.clone().narrow(0, at - numbers, numbers)
        };
        let layers = self.config.shapes().into_iter().map(|(i, o)| (take(i * o).reshape([i, o]), take(o))).collect();
        AudioEncoder::of(&self.config, (&self.mean, &self.std), layers, device, self.products)
    }
}

impl Flat {
    /// The optimisers of [`State::step`], in the same words.
    fn step(&mut self, step: &Step, g: Tensor<1>, decayed: &Tensor<1>) {
        let (eta, beta, keep) = (step.learning_rate, step.momentum, kept(step));
        let mut w = self.weights.clone();
        if step.weight_decay > 0.0 {
            w = w * (decayed.clone() * (-eta * step.weight_decay) + 1.0);
        }
        self.weights = match step.optimiser {
            Optimiser::Sgd => {
                self.first = self.first.clone() * beta + g.clone();
                w - (g + self.first.clone() * beta) * eta
            }
            Optimiser::AdamW => {
                let beta2 = 0.999f32;
                let n = step.number as i32 + 1;
                let (unbias1, unbias2) = (1.0 / (1.0 - beta.powi(n)), 1.0 / (1.0 - beta2.powi(n)));
                self.first = self.first.clone() * beta + g.clone() * (1.0 - beta);
                self.second = self.second.clone() * beta2 + g.square() * (1.0 - beta2);
                w - self.first.clone() * (eta * unbias1) / ((self.second.clone() * unbias2).sqrt() + 1e-8)
            }
        };
        self.average = self.average.clone() * keep + self.weights.clone() * (1.0 - keep);
    }
}

/// A network on a device, for judging.
pub(crate) struct Judge {
    name: Device,
    device: BurnDevice,
    spectrograms: FloatDType,
    network: AudioEncoder,
    dimensions: usize,
}

impl Judge {
    /// From spectrograms `[b, frames, mel_bands]` to factors `[b, dimensions]`.
    pub fn predict(&self, mels: &Array3<f32>) -> Result<Array2<f32>> {
        guarded(self.name, || {
            let answers = self.network.forward(spectrograms(mels, self.spectrograms, &self.device), None);
            rows(download(answers)?, self.dimensions)
        })
    }
}

/// Spectrograms on the device. They travel as 16-bit floats, as they are stored, where it knows those: at 128 songs a step
/// they are 20 MB, which a step waits for. (What augmentation has changed is rounded by it: 5e-4 of a number.)
fn spectrograms(mels: &Array3<f32>, travel: FloatDType, device: &BurnDevice) -> Tensor<3> {
    let shape = <[usize; 3]>::from(mels.dim());
    let numbers = mels.as_standard_layout();
    let numbers = numbers.as_slice().expect("made so in the line above");
    if travel == FloatDType::F32 {
        return Tensor::from_data(TensorData::new(numbers.to_vec(), shape), device);
    }
    let mut halves = vec![f16::ZERO; numbers.len()];
    halves
        .par_chunks_mut(1 << 16)
        .zip(numbers.par_chunks(1 << 16))
        .for_each(|(to, from)| to.convert_from_f32_slice(from));
    let halves: Tensor<3> = Tensor::from_data(TensorData::new(halves, shape), (device, DType::F16));
    halves.cast(FloatDType::F32)
}

fn upload(numbers: Vec<f32>, device: &BurnDevice) -> Tensor<1> {
    let shape = [numbers.len()];
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

fn matrix(x: ArrayView2<f32>, device: &BurnDevice) -> Tensor<2> {
    Tensor::from_data(TensorData::new(x.iter().copied().collect(), <[usize; 2]>::from(x.dim())), device)
}

fn download<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>> {
    let numbers = x.into_data().try_into_vec_as::<f32>();
    numbers.map_err(|e| Error::invalid("a device's answer", "32-bit floats", format!("{e:?}")))
}

fn rows(numbers: Vec<f32>, columns: usize) -> Result<Array2<f32>> {
    let rows = numbers.len() / columns;
    Array2::from_shape_vec((rows, columns), numbers)
        .map_err(|e| Error::mismatch("a device's answer", format!("[{rows}, {columns}]"), e))
}

/// burn panics where a device fails, such as for want of memory.
fn guarded<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let found = format!("{device}: {} (out of memory? train.batch_size)", said.unwrap_or("a panic"));
        Err(Error::invalid("device", "one that can train the network", found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::learner::Learner;
    use crate::encoder::recipe::Precision;
    use crate::encoder::tests::tiny;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn start(config: &EncoderConfig) -> State {
        let mut weights = Weights::random(config, 3);
        weights.mean.fill(4.0);
        weights.std.fill(2.0);
        State::new(weights)
    }

    /// The length of the difference as a share of the length.
    fn error(ours: &Weights, truth: &Weights) -> f64 {
        let (ours, truth) = (ours.flat(), truth.flat());
        let missed: f64 = ours.iter().zip(&truth).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (missed / truth.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>()).sqrt()
    }

    #[test]
    fn a_state_comes_back_as_it_went() {
        let mut state = start(&tiny());
        (state.average, state.first, state.second) =
            (Weights::random(&tiny(), 4), Weights::random(&tiny(), 5), Weights::random(&tiny(), 6));
        for weights in [&mut state.average, &mut state.first, &mut state.second] {
            (weights.mean, weights.std) = (state.weights.mean.clone(), state.weights.std.clone());
            weights.layers[2].bias.fill(0.25);
        }
        let device = OnDevice::new(Device::Flex, FloatDType::F32, &tiny(), &state).unwrap();
        assert!(device.state().unwrap() == state);
        assert!(device.average().unwrap() == state.average);
    }

    /// burn's own backend for the processor, and with a GPU's feature, where there is one, that.
    fn devices() -> impl Iterator<Item = Device> {
        let there = Device::ALL.into_iter().filter(|&device| device != Device::Cpu && device.of_burn().is_ok());
        std::iter::once(Device::Flex).chain(there)
    }

    #[test]
    fn steps_are_those_of_the_processor() {
        devices().for_each(steps_are_those_of_the_processor_on);
    }

    fn steps_are_those_of_the_processor_on(device: Device) {
        // A card's tensor cores may make 19-bit products of 32-bit ones.
        let near: f32 = if device == Device::Flex { 1e-4 } else { 0.1 };
        let config = EncoderConfig { dropout: 0.5, ..tiny() };
        let base = Step {
            optimiser: Optimiser::Sgd,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
            average: 0.5,
            number: 0,
            shorten: 1.0,
        };
        let adamw = Step { optimiser: Optimiser::AdamW, weight_decay: 0.5, ..base };
        // Clipping at 3 is felt by each of these steps, at 100,000 by none.
        for (step, clip) in [(base, 0.0), (base, 3.0), (Step { weight_decay: 0.5, ..base }, 1e5), (adamw, 3.0)] {
            let new = |device| Learner::new(device, Precision::F32, &config, start(&config), 6).unwrap();
            let (mut ours, mut theirs) = (new(Device::Cpu), new(device));
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            for number in 0..4 {
                // Halves, as spectrograms travel.
                let shape = (6, config.frames, config.mel_bands);
                let mels = Array3::from_shape_simple_fn(shape, || f16::from_f32(rng.random_range(0.0..8.0)).to_f32());
                let dropout = config.dense.map(|units| {
                    Array2::from_shape_simple_fn((6, units), || if rng.random_bool(0.5) { 2.0f32 } else { 0.0 })
                });
                let d_answers = Array2::from_shape_simple_fn((6, 5), || rng.random_range(-1.0f32..1.0));
                let [a, b] = [&mut ours, &mut theirs].map(|learner| {
                    let answers = learner.forward(&mels, Some(dropout.clone())).unwrap();
                    (answers, learner.step(&d_answers, Step { number, ..step }, clip).unwrap())
                });
                assert!((&a.0 - &b.0).iter().all(|x| x.abs() < near), "{number}: {} {}", a.0, b.0);
                assert!(
                    (a.1 / b.1 - 1.0).abs() < near as f64 && (3.0..1e5).contains(&a.1),
                    "{number}: {} {}",
                    a.1,
                    b.1
                );
            }
            let (ours, theirs) = (ours.state().unwrap(), theirs.state().unwrap());
            assert!(error(&ours.weights, &start(&config).weights) > 1e-3, "it went nowhere");
            for (a, b) in [(&theirs.weights, &ours.weights), (&theirs.average, &ours.average)] {
                assert!(error(a, b) < near as f64, "{step:?} {}", error(a, b));
            }
            assert!(error(&theirs.first, &ours.first) < near as f64);
            let second = if step.optimiser == Optimiser::AdamW { error(&theirs.second, &ours.second) } else { 0.0 };
            assert!(second < near as f64, "{second}");
        }
    }

    #[test]
    fn a_step_needs_a_pass_before_it() {
        let mut device = OnDevice::new(Device::Flex, FloatDType::F32, &tiny(), &start(&tiny())).unwrap();
        let step = Step {
            optimiser: Optimiser::Sgd,
            learning_rate: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
            average: 0.0,
            number: 0,
            shorten: 1.0,
        };
        let nothing = Array2::zeros((1, 5));
        device.forward(&Array3::zeros((1, tiny().frames, tiny().mel_bands)), None).unwrap();
        device.step(nothing.view(), &step, 1.0).unwrap();
        assert!(matches!(device.step(nothing.view(), &step, 1.0), Err(Error::Invalid { .. })));
        // A gradient of nothing has no length, and shortens nothing.
        assert!(device.state().unwrap().weights == start(&tiny()).weights);
    }
}
