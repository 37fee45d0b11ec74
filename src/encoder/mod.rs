//! The network: 599 frames of 128 log-mel bands in, the song's factor out.
//!
//! ```text
//!  mels [b, 599, 128]
//!    standardise each band with the training set's mean and standard deviation
//!    conv1 256 ── pool 4 ──► [b, 149, 256]
//!    conv2 256 ── pool 2 ──► [b,  73, 256]
//!    conv3 512 ── pool 2 ──► [b,  35, 512]
//!    conv4 512 ────────────► [b,  32, 512]
//!    mean, max and RMS over time ──► [b, 1536]
//!    dense1 2048 ── dense2 2048 ── output 40 ──► [b, 40]
//! ```
//!
//! It is the network of S. Dieleman, "Recommending music on Spotify with deep learning" (2014), the deeper successor
//! of A. van den Oord, S. Dieleman, B. Schrauwen, "Deep content-based music recommendation" (NIPS 2013). Convolutions
//! run over time only, are 4 frames wide and unpadded; every layer but the last ends in a ReLU.
//!
//! [`train()`] makes [`Weights`], [`Model`] keeps them in a folder and embeds songs, [`baseline`] is what they must beat.
//! [`AudioEncoder`] is the network's definition, and embeds songs (`embed.rs`) and is trained (`on_device.rs`) on a GPU. On
//! the CPU the same network is written as a few loops, for embedding (`infer.rs`) and for training (`tape.rs`), which are
//! tested against it.

pub mod artist;
pub mod baseline;
mod checkpoint;
pub mod confidence;
pub mod dataset;
pub mod device;
pub mod embed;
mod infer;
mod journal;
mod kernels;
mod learner;
mod loader;
pub mod loss;
pub mod model;
mod objective;
mod on_device;
mod optimiser;
pub mod recipe;
mod tape;
mod tensorboard;
pub mod train;

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{FloatDType, Tensor, TensorData};
use ndarray::{Array1, Array2};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use artist::{ArtistHead, Known};
pub use baseline::LinearBaseline;
pub use checkpoint::{forget, is_begun, start_from};
pub use confidence::Calibration;
pub use dataset::Spectrograms;
pub use device::Device;
pub use embed::BATCH;
pub use learner::check_device;
pub use model::{Confidence, Model, ModelConfig, Prediction, check_name, held_out_hash};
pub use objective::Objective;
pub use recipe::TrainConfig;
pub use train::{Epoch, Lesson, Moment, Trained, train};

/// The shape of the network. `Default` is the preset "dieleman2014".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// Mel bands of the input (128).
    pub mel_bands: usize,
    /// Frames of the input (599, 27.9 s).
    pub frames: usize,
    /// Output channels of the four convolutions.
    pub channels: [usize; 4],
    /// Width of every convolution, in its own frames (4).
    pub kernel: usize,
    /// Max-pooling after the first three convolutions, in frames; a rest that does not fill a pool is dropped.
    pub pools: [usize; 3],
    /// Units of the two hidden dense layers.
    pub dense: [usize; 2],
    /// Numbers in a factor (40).
    pub dimensions: usize,
    /// The share of hidden dense units silenced in each training step (0.5); none when embedding.
    pub dropout: f64,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        EncoderConfig {
            mel_bands: 128,
            frames: 599,
            channels: [256, 256, 512, 512],
            kernel: 4,
            pools: [4, 2, 2],
            dense: [2048, 2048],
            dimensions: 40,
            dropout: 0.5,
        }
    }
}

/// The layers in order, by the names that their weights have in files.
pub const LAYERS: [&str; 7] = ["conv1", "conv2", "conv3", "conv4", "dense1", "dense2", "output"];
const CONVOLUTIONS: usize = 4;

impl EncoderConfig {
    /// Frames after each convolution and its pool: `[599, 149, 73, 35, 32]`, the input first; `None` where the input
    /// is too short to leave a frame.
    pub fn frames_after(&self) -> Option<[usize; 5]> {
        let mut frames = [self.frames; 5];
        for i in 0..CONVOLUTIONS {
            let valid = (frames[i] + 1).checked_sub(self.kernel)?;
            let pool = self.pools.get(i).copied().unwrap_or(1);
            frames[i + 1] = valid.checked_div(pool).filter(|&f| f > 0)?;
        }
        Some(frames)
    }

    /// Inputs and outputs of each layer as a matrix, in the order of [`LAYERS`]. A convolution is a matrix too, over
    /// `kernel` consecutive frames.
    pub fn shapes(&self) -> [(usize, usize); 7] {
        let [c1, c2, c3, c4] = self.channels;
        let [d1, d2] = self.dense;
        let k = self.kernel;
        [
            (k * self.mel_bands, c1),
            (k * c1, c2),
            (k * c2, c3),
            (k * c3, c4),
            (3 * c4, d1),
            (d1, d2),
            (d2, self.dimensions),
        ]
    }

    /// Numbers that training adjusts: weights and biases (9,393,704 for the preset).
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|(inputs, outputs)| (inputs + 1) * outputs).sum()
    }

    /// # Errors
    /// `Invalid` where a setting is out of range or the input is too short for the convolutions.
    pub fn check(&self) -> Result<()> {
        let sizes = [("mel_bands", self.mel_bands), ("dimensions", self.dimensions), ("kernel", self.kernel)]
            .into_iter()
            .chain(self.channels.map(|c| ("channels", c)))
            .chain(self.pools.map(|p| ("pools", p)))
            .chain(self.dense.map(|d| ("dense", d)));
        for (name, size) in sizes {
            // 65,536 is far above any sensible layer and keeps every product below within usize.
            if !(1..=1 << 16).contains(&size) {
                return Err(Error::invalid(format!("encoder.{name}"), "1 to 65536", size));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid("encoder.dropout", "at least 0, below 1", self.dropout));
        }
        let frames = if self.frames > 1 << 20 { None } else { self.frames_after() };
        let Some(frames) = frames else {
            return Err(Error::invalid("encoder.frames", "enough for the convolutions and pools", self.frames));
        };
        // A small file can describe few weights and yet many frames of many channels. 2^28 numbers are 1 GB.
        let channels = [self.mel_bands].into_iter().chain(self.channels);
        if let Some(size) = frames.iter().zip(channels).map(|(f, c)| f * c).find(|&size| size > 1 << 28) {
            return Err(Error::invalid("encoder's frames × channels", "at most 2^28", size));
        }
        Ok(())
    }
}

/// One layer's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `[inputs, outputs]`. Row `k * channels + c` of a convolution meets channel `c` of the `k`-th of its frames.
    pub weight: Array2<f32>,
    /// `[outputs]`
    pub bias: Array1<f32>,
}

/// All numbers of a network, outside of any tensor library.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Mean of each band over the training set, `[mel_bands]`; not trained.
    pub mean: Array1<f32>,
    /// Standard deviation of each band over the training set, `[mel_bands]`; not trained.
    pub std: Array1<f32>,
    /// In the order of [`LAYERS`].
    pub layers: Vec<Layer>,
}

impl Weights {
    /// Fresh weights before training, with identity standardisation. Layers before a ReLU get He's variance
    /// 2 / inputs (He et al. 2015, eq. 10), as a uniform distribution; the output layer gets a small one, so that the
    /// first predictions are short beside the unit targets and the first gradients are not about undoing them (with
    /// predictions as long as the targets the first loss was 14 on real music). Biases are 0.
    pub fn random(config: &EncoderConfig, seed: u64) -> Weights {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shapes = config.shapes();
        let last = shapes.len() - 1;
        let layers = shapes
            .iter()
            .enumerate()
            .map(|(i, &(inputs, outputs))| {
                let variance = if i < last { 2.0 / inputs as f32 } else { 0.01 / (inputs * outputs) as f32 };
                let bound = (3.0 * variance).sqrt();
                Layer {
                    weight: Array2::from_shape_simple_fn((inputs, outputs), || rng.random_range(-bound..bound)),
                    bias: Array1::zeros(outputs),
                }
            })
            .collect();
        Weights { mean: Array1::zeros(config.mel_bands), std: Array1::ones(config.mel_bands), layers }
    }

    /// The same shape and standardisation, all trained numbers 0.
    pub(crate) fn zeros_like(&self) -> Weights {
        Weights {
            mean: self.mean.clone(),
            std: self.std.clone(),
            layers: self
                .layers
                .iter()
                .map(|l| Layer { weight: Array2::zeros(l.weight.dim()), bias: Array1::zeros(l.bias.len()) })
                .collect(),
        }
    }

    /// The trained numbers as one row: weight and bias of each layer in turn.
    fn flat(&self) -> Vec<f32> {
        self.layers.iter().flat_map(|l| l.weight.iter().chain(&l.bias)).copied().collect()
    }

    /// What [`flat`](Weights::flat) has made of weights of this shape, which have this mean and standard deviation.
    fn from_flat(config: &EncoderConfig, (mean, std): (&Array1<f32>, &Array1<f32>), row: &[f32]) -> Weights {
        let mut row = row.iter().copied();
        let mut take = |_| row.next().unwrap_or(0.0);
        let shapes = config.shapes().into_iter();
        let layers = shapes.map(|(i, o)| Layer {
            weight: Array2::from_shape_fn((i, o), &mut take),
            bias: Array1::from_shape_fn(o, |_| take((0, 0))),
        });
        Weights { mean: mean.clone(), std: std.clone(), layers: layers.collect() }
    }

    /// The trained numbers as 14 slices: weight and bias of each layer in turn.
    pub(crate) fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        self.layers
            .iter_mut()
            .flat_map(|l| [l.weight.as_slice_mut(), l.bias.as_slice_mut()])
            .map(|s| s.expect("made here in standard layout"))
            .collect()
    }
}

/// A layer on a device.
#[derive(Module, Debug)]
struct Affine {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// The network on a device.
///
/// Everything is laid out `[batch, time, channels]`, as the front end writes it, so that the frames under one
/// convolution window are one run of memory and a convolution over a whole batch is one matrix product without a copy.
#[derive(Module, Debug)]
pub struct AudioEncoder {
    mean: Tensor<1>,
    std: Tensor<1>,
    layers: Vec<Affine>,
    /// Whether the device multiplies a matrix whose rows overlap in memory; the kernels of GPUs do not.
    #[module(skip)]
    overlapping: bool,
    /// What the matrix products and the pools are computed in.
    #[module(skip)]
    products: FloatDType,
    #[module(skip)]
    config: EncoderConfig,
}

/// Under the root of the RMS over time: keeps the gradient of a silent channel finite and changes no other visibly.
const RMS_FLOOR: f32 = 1e-12;

impl AudioEncoder {
    /// The network with these weights. On an autodiff device its layers collect gradients.
    pub fn new(config: &EncoderConfig, weights: &Weights, device: &burn::tensor::Device) -> AudioEncoder {
        let matrix = |a: &Array2<f32>| {
            let numbers = a.as_standard_layout().as_slice().map(<[f32]>::to_vec).unwrap_or_default();
            Tensor::<2>::from_data(TensorData::new(numbers, [a.nrows(), a.ncols()]), device)
        };
        let layers = weights.layers.iter().map(|l| (matrix(&l.weight), vector(&l.bias, device))).collect();
        AudioEncoder::of(config, (&weights.mean, &weights.std), layers, device, FloatDType::F32)
    }

    /// The network with the weights and biases of `layers`, which lie on the device, whose matrix products are computed in
    /// `products`: below 32 bits, that is mixed precision (Micikevicius et al. 2018), with weights, biases, ReLUs and all that is
    /// summed over time in 32.
    fn of(
        config: &EncoderConfig,
        (mean, std): (&Array1<f32>, &Array1<f32>),
        layers: Vec<(Tensor<2>, Tensor<1>)>,
        device: &burn::tensor::Device,
        products: FloatDType,
    ) -> AudioEncoder {
        let is_autodiff = device.is_autodiff();
        fn placed<const D: usize>(x: Tensor<D>, is_autodiff: bool) -> Param<Tensor<D>> {
            Param::from_tensor(if is_autodiff { x.autodiff() } else { x })
        }
        let layer = |(weight, bias)| Affine { weight: placed(weight, is_autodiff), bias: placed(bias, is_autodiff) };
        AudioEncoder {
            mean: vector(mean, device),
            std: vector(std, device),
            layers: layers.into_iter().map(layer).collect(),
            overlapping: device.clone().inner() == burn::tensor::Device::flex(),
            products,
            config: config.clone(),
        }
    }

    /// From spectrograms `[b, frames, mel_bands]` to factors `[b, dimensions]`.
    ///
    /// `dropout`: for training, what the two hidden dense layers' outputs `[b, dense]` are multiplied by.
    pub fn forward(&self, mels: Tensor<3>, dropout: Option<[Tensor<2>; 2]>) -> Tensor<2> {
        self.answer(self.listen(mels), dropout)
    }

    /// The convolutions: spectrograms `[b, frames, mel_bands]` to what was heard anywhere in them, `[b, 3 * channels]`.
    fn listen(&self, mels: Tensor<3>) -> Tensor<2> {
        let bands = self.config.mel_bands;
        let mean = self.mean.clone().reshape([1, 1, bands]);
        let std = self.std.clone().reshape([1, 1, bands]);
        let x = (0..CONVOLUTIONS).fold((mels - mean) / std, |x, i| self.convolve(i, x));
        over_time(x)
    }

    /// The dense layers: `[b, 3 * channels]` to factors `[b, dimensions]`.
    fn answer(&self, heard: Tensor<2>, dropout: Option<[Tensor<2>; 2]>) -> Tensor<2> {
        let [first, second] = dropout.map_or([None, None], |masks| masks.map(Some));
        let drop = |x: Tensor<2>, mask: Option<Tensor<2>>| mask.map_or_else(|| x.clone(), |m| x.clone() * m);
        let x = drop(relu(self.affine(4, heard)), first);
        let x = drop(relu(self.affine(5, x)), second);
        self.affine(6, x)
    }

    fn affine(&self, layer: usize, x: Tensor<2>) -> Tensor<2> {
        let Affine { weight, bias } = &self.layers[layer];
        let product = x.cast(self.products).matmul(weight.val().cast(self.products));
        product.cast(FloatDType::F32) + bias.val().unsqueeze::<2>()
    }

    /// Convolution `i`, its max-pool, bias and ReLU: `[b, t, c]` to `[b, (t - kernel + 1) / pool, c']`.
    ///
    /// The pool comes before the bias and the ReLU: both are monotonic, so the result is the same for less work.
    fn convolve(&self, i: usize, x: Tensor<3>) -> Tensor<3> {
        let [b, t, c] = x.dims();
        let Affine { weight, bias } = &self.layers[i];
        let (x, weight, bias) = (x.cast(self.products), weight.val().cast(self.products), bias.val());
        let [_, channels] = weight.dims();
        let kernel = self.config.kernel;
        let pool = self.config.pools.get(i).copied().unwrap_or(1);
        let valid = t - kernel + 1;
        let pooled = valid / pool;
        let loudest = if self.overlapping {
            // Views, not copies. Row r of the product starts at frame r of the batch's b * t frames; the kernel - 1 rows
            // that straddle two songs are computed (0.5 % of the work) and skipped by the next view.
            let rows = b * t - kernel + 1;
            let windows = x.reshape([b * t * c]).unfold::<2, _>(0, kernel * c, c);
            let product = windows.matmul(weight).reshape([rows * channels]);
            let songs = product.unfold::<2, _>(0, valid * channels, t * channels);
            let pools = songs.unfold::<3, _>(1, pool * channels, pool * channels);
            let mut frames =
                (0..pool).map(|j| pools.clone().slice([0..b, 0..pooled, j * channels..(j + 1) * channels]));
            let first = frames.next().expect("checked: a pool is at least 1 frame");
            frames.fold(first, Tensor::max_pair)
        } else {
            // Only the frames that a pool takes in.
            let taken = pooled * pool;
            let frames = (0..kernel).map(|k| x.clone().slice([0..b, k..k + taken, 0..c])).collect();
            let windows = Tensor::cat(frames, 2).reshape([b * taken, kernel * c]);
            windows.matmul(weight).reshape([b, pooled, pool, channels]).max_dim(2).reshape([b, pooled, channels])
        };
        // In 32 bits again, since the way back sums a bias over all frames.
        relu(loudest.cast(FloatDType::F32) + bias.reshape([1, 1, channels]))
    }
}

fn vector(a: &Array1<f32>, device: &burn::tensor::Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(a.to_vec(), [a.len()]), device)
}

/// Mean, maximum and RMS over time, side by side: `[b, t, c]` to `[b, 3 * c]`.
///
/// The RMS stands for the post's "L2 norm": it is that norm over √t, so it stays on the scale of the other two
/// whatever the length; the next layer's weights make the two the same network.
fn over_time(x: Tensor<3>) -> Tensor<2> {
    let [b, _, c] = x.dims();
    let mean = x.clone().mean_dim(1);
    let max = x.clone().max_dim(1);
    let rms = (x.square().mean_dim(1) + RMS_FLOOR).sqrt();
    Tensor::cat(vec![mean, max, rms], 2).reshape([b, 3 * c])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::Device;
    use burn::tensor::module::{conv1d, max_pool1d};
    use burn::tensor::ops::{ConvOptions, MaxPoolOptions};

    /// A network that trains in milliseconds.
    pub(crate) fn tiny() -> EncoderConfig {
        EncoderConfig {
            mel_bands: 8,
            frames: 119,
            channels: [8, 8, 12, 12],
            dense: [24, 24],
            dimensions: 5,
            dropout: 0.0,
            ..EncoderConfig::default()
        }
    }

    fn noise(shape: [usize; 3], seed: u64) -> Tensor<3> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(0.0..8.0)).collect();
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn the_preset_has_the_post_s_parameters_and_shapes() {
        let config = EncoderConfig::default();
        config.check().unwrap();
        assert_eq!(config.parameters(), 9_393_704);
        assert_eq!(config.frames_after(), Some([599, 149, 73, 35, 32]));
        let net = AudioEncoder::new(&config, &Weights::random(&config, 1), &Device::flex());
        assert_eq!(net.num_params(), 9_393_704);

        let mut x = noise([2, 599, 128], 1);
        for (i, shape) in [[2, 149, 256], [2, 73, 256], [2, 35, 512], [2, 32, 512]].into_iter().enumerate() {
            x = net.convolve(i, x);
            assert_eq!(x.dims(), shape);
        }
        let heard = over_time(x);
        assert_eq!(heard.dims(), [2, 1536]);
        assert_eq!(net.answer(heard, None).dims(), [2, 40]);
    }

    /// The network as one would write it down, slowly.
    fn clear_forward(net: &AudioEncoder, mels: Tensor<3>) -> Tensor<2> {
        let bands = net.config.mel_bands;
        let x = (mels - net.mean.clone().reshape([1, 1, bands])) / net.std.clone().reshape([1, 1, bands]);
        let mut x = x.swap_dims(1, 2); // [b, channels, time]
        for i in 0..CONVOLUTIONS {
            let Affine { weight, bias } = &net.layers[i];
            let [inputs, outputs] = weight.val().dims();
            let weight = weight.val().reshape([net.config.kernel, inputs / net.config.kernel, outputs]);
            let options = ConvOptions::new([1], [0], [1], 1);
            x = relu(conv1d(x, weight.permute([2, 1, 0]), Some(bias.val()), options));
            if let Some(&pool) = net.config.pools.get(i) {
                x = max_pool1d(x, MaxPoolOptions::new([pool]));
            }
        }
        let [b, c, t] = x.dims();
        let l2 = (x.clone().square().sum_dim(2) / t as f32).sqrt();
        let x = Tensor::cat(vec![x.clone().mean_dim(2), x.max_dim(2), l2], 1).reshape([b, 3 * c]);
        let dense =
            |i: usize, x: Tensor<2>| x.matmul(net.layers[i].weight.val()) + net.layers[i].bias.val().unsqueeze();
        dense(6, relu(dense(5, relu(dense(4, x)))))
    }

    #[test]
    fn the_fast_forward_equals_the_clear_one() {
        for (config, songs) in [(tiny(), 1), (tiny(), 5), (EncoderConfig::default(), 2)] {
            let mut weights = Weights::random(&config, 3);
            weights.mean.fill(4.0);
            weights.std.fill(2.3);
            weights
                .layers
                .iter_mut()
                .for_each(|l| l.bias.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 7) as f32 * 0.1 - 0.3));
            let mut net = AudioEncoder::new(&config, &weights, &Device::flex());
            assert!(net.overlapping);
            let x = noise([songs, config.frames, config.mel_bands], 4);
            let clear = numbers(clear_forward(&net, x.clone()));
            assert!(clear.iter().any(|y| y.abs() > 0.05), "{clear:?}");
            for overlapping in [true, false] {
                net.overlapping = overlapping;
                let fast = numbers(net.forward(x.clone(), None));
                let worst = fast.iter().zip(&clear).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{overlapping}: {worst}");
            }
        }
    }

    #[test]
    fn silence_has_finite_gradients() {
        let config = tiny();
        let mut weights = Weights::random(&config, 5);
        weights.layers[3].bias.fill(-1e3); // the last convolution never fires
        let net = AudioEncoder::new(&config, &weights, &Device::flex().autodiff());
        let zeros = Tensor::zeros([2, config.frames, config.mel_bands], &Device::flex().autodiff());
        let grads = net.forward(zeros, None).square().sum().backward();
        for layer in &net.layers {
            assert!(numbers(layer.weight.val().grad(&grads).unwrap()).iter().all(|g| g.is_finite()));
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let bad = [
            EncoderConfig { frames: 100, ..EncoderConfig::default() },
            EncoderConfig { frames: 0, ..EncoderConfig::default() },
            EncoderConfig { kernel: 0, ..EncoderConfig::default() },
            EncoderConfig { pools: [0, 2, 2], ..EncoderConfig::default() },
            EncoderConfig { dimensions: 0, ..EncoderConfig::default() },
            EncoderConfig { dense: [usize::MAX, 2048], ..EncoderConfig::default() },
            EncoderConfig { frames: 1 << 20, channels: [1 << 16, 1, 1, 1], ..EncoderConfig::default() },
            EncoderConfig { dropout: 1.0, ..EncoderConfig::default() },
            EncoderConfig { dropout: f64::NAN, ..EncoderConfig::default() },
        ];
        for config in bad {
            assert!(matches!(config.check(), Err(Error::Invalid { .. })), "{config:?}");
        }
    }
}
