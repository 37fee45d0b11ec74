//! The network without training: the same weights and the same answers as [`AudioEncoder`](super::AudioEncoder), at
//! the speed that the processor has.
//!
//! Its loops are those of `kernels.rs`. Weights are packed into panels once, when a model is loaded. Those of the dense
//! layers stay 16 bits wide, as they are in files, since one song's dense layers only wait for memory; they are widened
//! in registers.

use std::fmt;

use ndarray::{Array2, ArrayView2, ArrayView3, ArrayViewMut2, Axis};
use pulp::Arch;
use rayon::prelude::*;

use super::kernels::{Packed, Product, lanes, over_time, standardise};
use super::{CONVOLUTIONS, EncoderConfig, Weights};

/// Songs that go through the dense layers together, at most. 64 make reading these layers' 15 MB of weights 2 % of a
/// song's time, and take 2 MB.
const BATCH: usize = 64;

/// A network for inference on the processor that runs it.
pub struct Network {
    config: EncoderConfig,
    /// Mean and standard deviation of each band, `[mel_bands]`.
    mean: Vec<f32>,
    std: Vec<f32>,
    layers: Vec<Packed>,
    arch: Arch,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Network").field("config", &self.config).field("arch", &self.arch).finish_non_exhaustive()
    }
}

impl Network {
    /// The network with these weights, which have the shapes of `config`.
    pub fn new(config: &EncoderConfig, weights: &Weights) -> Network {
        Network::on(Arch::new(), config, weights)
    }

    fn on(arch: Arch, config: &EncoderConfig, weights: &Weights) -> Network {
        let lanes = lanes(arch);
        let layers = weights.layers.iter().enumerate();
        Network {
            config: config.clone(),
            mean: weights.mean.to_vec(),
            std: weights.std.to_vec(),
            layers: layers
                .map(|(i, layer)| Packed {
                    pool: config.pools.get(i).copied().unwrap_or(1),
                    clip: i + 1 < weights.layers.len(),
                    ..Packed::new(layer, lanes, i >= CONVOLUTIONS)
                })
                .collect(),
            arch,
        }
    }

    /// From spectrograms `[n, frames, mel_bands]`, of the network's shape, to factors `[n, dimensions]`, on the threads
    /// of rayon's pool.
    pub fn predict(&self, mels: ArrayView3<f32>) -> Array2<f32> {
        let mut answers = Array2::zeros((mels.len_of(Axis(0)), self.config.dimensions));
        let batches = mels.axis_chunks_iter(Axis(0), BATCH);
        for (mels, answers) in batches.zip(answers.axis_chunks_iter_mut(Axis(0), BATCH)) {
            self.answer(self.listen(mels), answers);
        }
        answers
    }

    /// The convolutions: `[n, frames, mel_bands]` to mean, maximum and RMS of each channel, `[n, 3 * channels]`.
    fn listen(&self, mels: ArrayView3<f32>) -> Vec<f32> {
        let songs = mels.len_of(Axis(0));
        let width = 3 * self.config.channels[CONVOLUTIONS - 1];
        let mut heard = vec![0.0; songs * width];
        let threads = rayon::current_num_threads();
        if threads == 1 {
            let mut buffers = Buffers::default();
            for (heard, mel) in heard.chunks_exact_mut(width).zip(mels.outer_iter()) {
                self.convolve(mel, &mut buffers, false, heard);
            }
            return heard;
        }
        // Whole songs to each thread as long as all threads have one; they share the work on each of the rest.
        let (shared_out, shared) = heard.split_at_mut((songs - songs % threads) * width);
        shared_out.par_chunks_exact_mut(width).enumerate().for_each_init(Buffers::default, |buffers, (song, heard)| {
            self.convolve(mels.index_axis(Axis(0), song), buffers, false, heard);
        });
        let mut buffers = Buffers::default();
        for (i, heard) in shared.chunks_exact_mut(width).enumerate() {
            let mel = mels.index_axis(Axis(0), songs - songs % threads + i);
            self.convolve(mel, &mut buffers, true, heard);
        }
        heard
    }

    /// One song: `[frames, mel_bands]` to `[3 * channels]`.
    fn convolve(&self, mel: ArrayView2<f32>, buffers: &mut Buffers, share: bool, heard: &mut [f32]) {
        let Buffers { x, y } = buffers;
        let mel = mel.as_standard_layout();
        let mel = mel.as_slice().expect("made so in the line above");
        x.resize(mel.len(), 0.0);
        self.arch.dispatch(|| standardise(mel, &self.mean, &self.std, x));
        let mut channels = self.config.mel_bands;
        let mut frames = self.config.frames;
        for layer in &self.layers[..CONVOLUTIONS] {
            frames = (frames + 1 - self.config.kernel) / layer.pool;
            self.product(layer, x, channels, frames, share, y);
            channels = layer.outputs;
            std::mem::swap(x, y);
        }
        self.arch.dispatch(|| over_time(x, channels, heard));
    }

    /// The dense layers: `[n, 3 * channels]` to `[n, dimensions]`.
    fn answer(&self, heard: Vec<f32>, mut answers: ArrayViewMut2<f32>) {
        let songs = answers.nrows();
        let share = rayon::current_num_threads() > 1;
        let (mut x, mut y) = (heard, Vec::new());
        for layer in &self.layers[CONVOLUTIONS..] {
            self.product(layer, &x, layer.inputs, songs, share, &mut y);
            std::mem::swap(&mut x, &mut y);
        }
        answers.iter_mut().zip(x).for_each(|(answer, x)| *answer = x);
    }

    /// One layer. Row r of its input is the `layer.inputs` numbers of `x` from `r * stride` on; `y` becomes
    /// `[rows, layer.outputs]`. `share`: with all threads.
    fn product(&self, layer: &Packed, x: &[f32], stride: usize, rows: usize, share: bool, y: &mut Vec<f32>) {
        y.resize(rows * layer.outputs, 0.0);
        let panels = layer.panels();
        if !share {
            let columns = layer.outputs;
            return self.arch.dispatch(Product { layer, x, stride, panels: 0..panels, out: y, columns, places: None });
        }
        // Each panel's columns of the result as a block [rows, width] of its own, since threads cannot write into the
        // same rows. With fewer panels than twice the threads the blocks are divided by rows too.
        let width = layer.width();
        let mut blocks = vec![0.0; panels * rows * width];
        let span = rows.div_ceil((2 * rayon::current_num_threads()).div_ceil(panels));
        blocks.par_chunks_exact_mut(rows * width).enumerate().for_each(|(panel, block)| {
            block.par_chunks_mut(span * width).enumerate().for_each(|(part, out)| {
                let x = &x[part * span * layer.pool * stride..];
                let panels = panel..panel + 1;
                self.arch.dispatch(Product { layer, x, stride, panels, out, columns: width, places: None });
            });
        });
        for (panel, block) in blocks.chunks_exact(rows * width).enumerate() {
            for (to, from) in y.chunks_exact_mut(layer.outputs).zip(block.chunks_exact(width)) {
                to.iter_mut().skip(panel * width).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// One song's numbers between two layers, `[time, channels]` (460 KB for the preset).
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::AudioEncoder;
    use crate::encoder::kernels::Columns;
    use crate::encoder::kernels::tests::instruction_sets;
    use crate::encoder::tests::tiny;
    use burn::tensor::{Device, Tensor, TensorData};
    use half::f16;
    use ndarray::Array3;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Weights as a model has them, all exact in 16 bits.
    fn weights(config: &EncoderConfig, seed: u64) -> Weights {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Weights::random(config, seed);
        weights.mean.iter_mut().for_each(|m| *m = rng.random_range(3.0..5.0));
        weights.std.iter_mut().for_each(|s| *s = rng.random_range(1.0..3.0));
        for layer in &mut weights.layers {
            layer.weight.mapv_inplace(|w| f16::from_f32(w).to_f32());
            layer.bias.iter_mut().for_each(|b| *b = rng.random_range(-0.3..0.3));
        }
        weights
    }

    fn noise(config: &EncoderConfig, songs: usize) -> Array3<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        Array3::from_shape_simple_fn((songs, config.frames, config.mel_bands), || rng.random_range(0.0..8.0))
    }

    fn burn(config: &EncoderConfig, weights: &Weights, mels: &Array3<f32>) -> Array2<f32> {
        let device = Device::flex();
        let data = TensorData::new(mels.iter().copied().collect(), <[usize; 3]>::from(mels.dim()));
        let answers = AudioEncoder::new(config, weights, &device).forward(Tensor::from_data(data, &device), None);
        Array2::from_shape_vec((mels.dim().0, config.dimensions), answers.into_data().try_into_vec_as().unwrap())
            .unwrap()
    }

    #[test]
    fn it_is_the_network() {
        let odd = EncoderConfig {
            mel_bands: 3,
            frames: 200,
            channels: [5, 33, 7, 50],
            kernel: 3,
            pools: [5, 3, 1],
            dense: [17, 100],
            dimensions: 1,
            dropout: 0.0,
        };
        let narrow =
            EncoderConfig { mel_bands: 1, kernel: 1, channels: [16, 48, 1, 31], pools: [64, 1, 2], ..odd.clone() };
        let cases =
            [(EncoderConfig::default(), 2), (tiny(), 1), (tiny(), 20), (odd.clone(), 7), (odd, 70), (narrow, 3)];
        for (config, songs) in cases {
            config.check().unwrap();
            let weights = weights(&config, 3);
            let mels = noise(&config, songs);
            let truth = burn(&config, &weights, &mels);
            let scale = truth.iter().fold(1.0, |most: f32, y| most.max(y.abs()));
            assert!(truth.iter().any(|y| y.abs() > 0.01), "{truth}");
            for arch in instruction_sets() {
                let ours = Network::on(arch, &config, &weights).predict(mels.view());
                let worst = ours.iter().zip(&truth).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
                assert!(worst < 1e-5 * scale, "{worst} of {scale} with {arch:?}, {config:?}");
            }
        }
    }

    /// Both multiply and add in one rounding, in the same order.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn avx2_and_avx512_agree_to_the_last_bit() {
        let config = EncoderConfig { dense: [40, 33], ..tiny() };
        let weights = weights(&config, 1);
        let mels = noise(&config, 3);
        let fused: Vec<_> = instruction_sets()[1..].iter().map(|&a| Network::on(a, &config, &weights)).collect();
        for pair in fused.windows(2) {
            assert_eq!(pair[0].predict(mels.view()), pair[1].predict(mels.view()));
        }
    }

    #[test]
    fn any_layout_of_the_input_is_read() {
        let (config, mels) = (tiny(), noise(&tiny(), 3));
        let network = Network::new(&config, &weights(&config, 1));
        let mut other = Array3::zeros((119, 3, 8)).permuted_axes([1, 0, 2]);
        other.assign(&mels);
        assert_eq!(network.predict(other.view()), network.predict(mels.view()));
        assert_eq!(network.predict(mels.slice(ndarray::s![..0, .., ..])).dim(), (0, 5));
    }

    #[test]
    fn a_layer_is_halved_only_where_that_changes_nothing() {
        let config = tiny();
        let exact = weights(&config, 1);
        let mels = noise(&config, 15);
        let half = Network::new(&config, &exact);
        let mut wide = Network::new(&config, &exact);
        for (i, layer) in exact.layers.iter().enumerate().skip(CONVOLUTIONS) {
            assert!(matches!(half.layers[i].columns, Columns::Half(_)));
            wide.layers[i].columns = Packed::new(layer, wide.layers[i].lanes, false).columns;
        }
        assert_eq!(half.predict(mels.view()), wide.predict(mels.view()));

        for weight in [200.0, 0.1] {
            let mut weights = exact.clone();
            weights.layers[4].weight[[35, 23]] = weight;
            assert!(matches!(Network::new(&config, &weights).layers[4].columns, Columns::Wide(_)));
        }
    }
}
