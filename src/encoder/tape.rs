//! The network for training on the CPU: its answers, then the gradient of a loss by each of its weights.
//!
//! [`Tape::forward`] keeps what [`Tape::backward`] needs, as frameworks' tapes do, but for this one network and in
//! buffers that every step uses again:
//!
//! ```text
//!  forward:  x0 ──conv, pool──► x1 ──conv, pool──► x2 ──► x3 ──conv──► x4 ──over time──► heard ──► dense ──► answers
//!               keeps x and which frame of each pool was the loudest                              keeps x
//!
//!  backward: terms ◄── dx1 ◄── terms ◄── dx2 ◄── … ◄── dx4 ◄── d heard ◄── dense ◄── d answers
//!              └─► d conv1       └─► d conv2                                 └─► d dense
//! ```
//!
//! In the gradient by a convolution's sums most numbers are 0: all but one frame of each pool, and whatever the ReLU
//! silenced (half of it, about). So it is written as two sets of lists of what is left, and both products that a
//! convolution needs on the way back are sums over lists ([`Gather`]), exact and several times shorter:
//!
//! ```text
//!  d weight[k·c + i, channel] = Σ over (frame, g) of channel   g · x[frame + k, i]         lists by channel
//!  dx[frame .. frame + kernel] += Σ over (channel, g) of frame  g · weight[.., channel]     lists by frame
//! ```
//!
//! Every number is summed by one thread in one order, so a step's result is the same on any number of threads.
//! [`AudioEncoder`](super::AudioEncoder) on an autodiff device is the same thing written clearly, and the oracle of the
//! tests below.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayView3, Axis};
use pulp::Arch;
use rayon::prelude::*;

use super::kernels::{Aligned, Gather, Packed, Product, Term, Terms, lanes, over_time, standardise, transpose};
use super::{CONVOLUTIONS, EncoderConfig, Layer, Weights};

/// Inputs of a convolution whose weights are summed up together: 16 registers of AVX-512, and at 512 channels half of a
/// second-level cache.
const BLOCK: usize = 256;

/// Numbers that one gather reads again and again: 24 KB, most of a first-level cache. (With all of a song's frames or
/// all of a layer's weights in turn it waits for the second-level cache, a third longer in all.)
const NEAR: usize = 6 << 10;

/// Songs whose lists are held at once: 20 MB of them for the preset.
const GROUP: usize = 32;

/// Rows of a dense layer's gradient that one thread finishes at a time.
const ROWS: usize = 48;

/// What a forward pass keeps for the backward pass, and the buffers of both (1.2 MB a song and 80 MB for the preset).
pub(crate) struct Tape {
    config: EncoderConfig,
    arch: Arch,
    songs: Vec<Song>,
    /// The convolutions' weights, as a forward pass reads them.
    packed: Vec<Packed>,
    /// The inputs of the dense layers, `[b, 3 * channels]` and twice `[b, dense]`.
    x: [Vec<f32>; 3],
    /// The gradient of a convolution's weights, and these weights, in blocks `[outputs, BLOCK]`.
    sums: Aligned,
    blocks: Aligned,
    /// For each song of a group.
    lists: Vec<Lists>,
    gradients: Vec<Vec<f32>>,
}

/// One song's part of a tape.
#[derive(Default)]
struct Song {
    /// The inputs of the convolutions and the last one's output, `[frames, channels]`.
    x: [Aligned; CONVOLUTIONS + 1],
    /// Which frame of its pool each of `x[1..]` is.
    places: [Vec<u32>; CONVOLUTIONS],
    /// The gradient by one of `x`.
    dy: Aligned,
}

/// What is left of a song's gradient by one convolution's sums.
#[derive(Default)]
struct Lists {
    by_channel: Terms,
    by_frame: Terms,
}

impl Tape {
    pub fn new(config: &EncoderConfig) -> Tape {
        Tape::on(Arch::new(), config)
    }

    fn on(arch: Arch, config: &EncoderConfig) -> Tape {
        let pools = config.pools.iter().copied().chain([1]);
        Tape {
            config: config.clone(),
            arch,
            songs: Vec::new(),
            packed: pools.map(|pool| Packed { pool, clip: true, ..Packed::empty(lanes(arch)) }).collect(),
            x: Default::default(),
            sums: Aligned::default(),
            blocks: Aligned::default(),
            lists: Vec::new(),
            gradients: config.shapes().iter().flat_map(|(i, o)| [vec![0.0; i * o], vec![0.0; *o]]).collect(),
        }
    }

    /// From spectrograms `[b, frames, mel_bands]`, of the network's shape, to factors `[b, dimensions]`.
    ///
    /// `dropout`: what the two hidden dense layers' outputs `[b, dense]` are multiplied by, numbers from 0.
    pub fn forward(
        &mut self,
        weights: &Weights,
        mels: ArrayView3<f32>,
        dropout: Option<&[Array2<f32>; 2]>,
    ) -> Array2<f32> {
        let songs = mels.len_of(Axis(0));
        let width = 3 * self.config.channels[CONVOLUTIONS - 1];
        self.songs.resize_with(songs, Song::default);
        self.x[0].resize(songs * width, 0.0);
        for (packed, layer) in self.packed.iter_mut().zip(&weights.layers) {
            packed.fill(layer.weight.view(), bias(layer));
        }
        let Tape { config, arch, packed, x, .. } = self;
        let heard = x[0].par_chunks_exact_mut(width);
        self.songs.par_iter_mut().zip(mels.axis_iter(Axis(0)).into_par_iter()).zip(heard).for_each(
            |((song, mel), heard)| {
                song.forward(*arch, config, weights, packed, mel);
                arch.dispatch(|| over_time(&song.x[CONVOLUTIONS], width / 3, heard));
            },
        );
        for (i, layer) in weights.layers[CONVOLUTIONS..].iter().enumerate() {
            let mut y = self.dense(&self.x[i], songs, layer.bias.len(), |packed, columns| {
                packed.clip = i < 2;
                packed.fill(layer.weight.slice(ndarray::s![.., columns.clone()]), &bias(layer)[columns]);
            });
            if i == 2 {
                return Array2::from_shape_vec((songs, self.config.dimensions), y).expect("as many as its shape says");
            }
            if let Some(masks) = dropout {
                y.iter_mut().zip(&masks[i]).for_each(|(y, mask)| *y *= mask);
            }
            self.x[i + 1] = y;
        }
        unreachable!("the third dense layer returns")
    }

    /// From the gradient of a loss by the factors `[b, dimensions]` of the last [`Tape::forward`], which had these
    /// weights and masks, to that by each of the 14 slices of [`Weights::slices_mut`].
    pub fn backward(
        &mut self,
        weights: &Weights,
        dropout: Option<&[Array2<f32>; 2]>,
        d_answers: ArrayView2<f32>,
    ) -> &[Vec<f32>] {
        let mut dy: Vec<f32> = d_answers.iter().copied().collect();
        for i in (0..3).rev() {
            let layer = &weights.layers[CONVOLUTIONS + i];
            dy = self.dense_back(i, layer, &dy);
            if i > 0 {
                // Where a mask is 0 so is x.
                let gate = |(dy, &x): (&mut f32, &f32)| *dy = if x > 0.0 { *dy } else { 0.0 };
                dy.iter_mut().zip(&self.x[i]).for_each(gate);
                if let Some(masks) = dropout {
                    dy.iter_mut().zip(&masks[i - 1]).for_each(|(dy, mask)| *dy *= mask);
                }
            }
        }
        let channels = self.config.channels[CONVOLUTIONS - 1];
        let heard = self.x[0].par_chunks_exact(3 * channels).zip(dy.par_chunks_exact(3 * channels));
        let arch = self.arch;
        self.songs.par_iter_mut().zip(heard).for_each(|(song, (heard, d_heard))| {
            let x = &song.x[CONVOLUTIONS];
            song.dy.resize(x.len());
            arch.dispatch(|| over_time_back(x, channels, heard, d_heard, &mut song.dy));
        });
        for i in (0..CONVOLUTIONS).rev() {
            self.convolution_back(i, &weights.layers[i]);
        }
        &self.gradients
    }

    /// `[rows, inputs]` to `[rows, outputs]`. `fill` packs some columns of the weights, one panel of them.
    fn dense(
        &self,
        x: &[f32],
        rows: usize,
        outputs: usize,
        fill: impl Fn(&mut Packed, Range<usize>) + Sync,
    ) -> Vec<f32> {
        let lanes = lanes(self.arch);
        let width = 2 * lanes;
        // Each panel's columns as a block [rows, width] of its own, since threads cannot write into the same rows.
        let mut blocks = vec![0.0; outputs.div_ceil(width) * rows * width];
        let panels = blocks.par_chunks_exact_mut(rows * width).enumerate();
        panels.for_each_init(
            || Packed::empty(lanes),
            |layer, (panel, out)| {
                fill(layer, panel * width..outputs.min((panel + 1) * width));
                let stride = layer.inputs;
                self.arch.dispatch(Product { layer, x, stride, panels: 0..1, out, columns: width, places: None });
            },
        );
        let mut y = vec![0.0; rows * outputs];
        for (panel, block) in blocks.chunks_exact(rows * width).enumerate() {
            for (to, from) in y.chunks_exact_mut(outputs).zip(block.chunks_exact(width)) {
                to.iter_mut().skip(panel * width).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
        y
    }

    /// The gradient by the weights of dense layer `i` from that by its outputs, `[b, outputs]`; returned is that by its
    /// inputs, `[b, inputs]`.
    fn dense_back(&mut self, i: usize, layer: &Layer, dy: &[f32]) -> Vec<f32> {
        let songs = self.songs.len();
        let (inputs, outputs) = layer.weight.dim();
        let [d_weight, d_bias] = &mut self.gradients[2 * (CONVOLUTIONS + i)..][..2] else { unreachable!("7 pairs") };
        d_bias.fill(0.0);
        for dy in dy.chunks_exact(outputs) {
            d_bias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        // d weight = xᵀ dy
        let mut columns = vec![0.0; self.x[i].len()];
        transpose(&self.x[i], inputs, &mut columns, songs);
        let mut packed = Packed::empty(lanes(self.arch));
        packed.fill(ArrayView2::from_shape((songs, outputs), dy).expect("as many as its shape says"), &[]);
        d_weight.par_chunks_mut(ROWS * outputs).zip(columns.par_chunks(ROWS * songs)).for_each(|(out, x)| {
            let panels = 0..packed.panels();
            let layer = &packed;
            self.arch.dispatch(Product { layer, x, stride: songs, panels, out, columns: outputs, places: None });
        });
        // dx = dy weightᵀ
        let weight = layer.weight.as_slice().expect("made in standard layout");
        self.dense(dy, songs, inputs, |packed, columns| {
            packed.fill_transposed(&weight[columns.start * outputs..columns.end * outputs], outputs);
        })
    }

    /// The gradient by the weights of convolution `i` from that by its outputs, the `dy` of each song; afterwards that is
    /// the one by its inputs, unless there is no layer before.
    fn convolution_back(&mut self, i: usize, layer: &Layer) {
        let Tape { config, arch, songs, sums, blocks, lists, gradients, .. } = self;
        let pool = config.pools.get(i).copied().unwrap_or(1);
        let outputs = config.channels[i];
        let step = if i == 0 { config.mel_bands } else { config.channels[i - 1] };
        let frames = songs.first().map_or(0, |song| song.dy.len() / outputs);
        let near = Near {
            frames: evenly(frames, NEAR / (pool * step.min(BLOCK))),
            channels: if i == 0 { 0 } else { evenly(outputs, NEAR / BLOCK) },
        };
        let [d_weight, d_bias] = &mut gradients[2 * i..][..2] else { unreachable!("7 pairs") };
        let weight = layer.weight.as_slice().expect("made in standard layout");
        let size = BLOCK * outputs;
        sums.resize(weight.len());
        sums.fill(0.0);
        d_bias.fill(0.0);
        if i > 0 {
            blocks.resize(weight.len());
            blocks.par_chunks_mut(size).zip(weight.par_chunks(size)).for_each(|(to, from)| {
                transpose(from, outputs, to, to.len() / outputs);
            });
        }
        // Where there are more threads than blocks, some of a block's channels to each.
        let parts = (2 * rayon::current_num_threads()).div_ceil(weight.len().div_ceil(size));
        let channels = outputs.div_ceil(parts);
        for songs in songs.chunks_mut(GROUP) {
            if lists.len() < songs.len() {
                lists.resize_with(songs.len(), Lists::default);
            }
            let lists = &mut lists[..songs.len()];
            songs.par_iter().zip(&mut *lists).for_each(|(song, lists)| {
                arch.dispatch(|| lists.write(&song.dy, &song.x[i + 1], &song.places[i], outputs, pool, near));
            });
            // Lists of a channel: one for each part of the frames.
            let of = |channel: usize| (channel..).step_by(outputs).take(frames.div_ceil(near.frames));
            d_bias.par_iter_mut().enumerate().for_each(|(channel, sum)| {
                for terms in lists.iter().flat_map(|song| of(channel).map(|list| song.by_channel.list(list))) {
                    *sum += terms.iter().map(|term| term.by).sum::<f32>();
                }
            });
            // A block at a time for all songs, so that its sums stay in the second-level cache.
            sums.par_chunks_mut(size).enumerate().for_each(|(block, sums)| {
                let width = sums.len() / outputs;
                sums.par_chunks_mut(width * channels).enumerate().for_each(|(part, out)| {
                    for (song, lists) in songs.iter().zip(&*lists) {
                        for first in of(part * channels) {
                            let (terms, source) = (&lists.by_channel, &song.x[i][block * BLOCK..]);
                            let lists = first..first + out.len() / width;
                            arch.dispatch(Gather { terms, lists, source, step, out, stride: width, width });
                        }
                    }
                });
            });
            if i == 0 {
                continue;
            }
            // Here too a block for many songs; no number of a song depends on which others its thread has.
            let share = songs.len().div_ceil(rayon::current_num_threads());
            songs.par_chunks_mut(share).zip(lists.par_chunks(share)).for_each(|(songs, lists)| {
                for song in &mut *songs {
                    song.dy.resize(song.x[i].len());
                    song.dy.fill(0.0);
                }
                for (source, first) in blocks.chunks(size).zip((0..).step_by(BLOCK)) {
                    let width = source.len() / outputs;
                    let frames = frames * pool;
                    for part in (0..outputs.div_ceil(near.channels)).map(|i| i * frames..(i + 1) * frames) {
                        for (song, lists) in songs.iter_mut().zip(lists) {
                            let (terms, lists, out) = (&lists.by_frame, part.clone(), &mut song.dy[first..]);
                            arch.dispatch(Gather { terms, lists, source, step: width, out, stride: step, width });
                        }
                    }
                }
            });
        }
        d_weight.par_chunks_mut(size).zip(sums.par_chunks(size)).for_each(|(to, from)| {
            transpose(from, from.len() / outputs, to, outputs);
        });
    }
}

/// The size of the fewest equal parts, the last one excepted, of at most `most` things (of 1 at least).
fn evenly(things: usize, most: usize) -> usize {
    things.div_ceil(things.div_ceil(most.max(1)).max(1)).max(1)
}

fn bias(layer: &Layer) -> &[f32] {
    layer.bias.as_slice().expect("made in standard layout")
}

impl Song {
    /// The convolutions.
    fn forward(
        &mut self,
        arch: Arch,
        config: &EncoderConfig,
        weights: &Weights,
        packed: &[Packed],
        mel: ArrayView2<f32>,
    ) {
        let mel = mel.as_standard_layout();
        let mel = mel.as_slice().expect("made so in the line above");
        self.x[0].resize(mel.len());
        let (mean, std) = (weights.mean.as_slice(), weights.std.as_slice());
        let (mean, std) = mean.zip(std).expect("made in standard layout");
        arch.dispatch(|| standardise(mel, mean, std, &mut self.x[0]));
        let mut frames = config.frames;
        let mut stride = config.mel_bands;
        for (i, layer) in packed.iter().enumerate() {
            frames = (frames + 1 - config.kernel) / layer.pool;
            let columns = layer.outputs;
            let [x, out] = &mut self.x[i..][..2] else { unreachable!("one more than layers") };
            out.resize(frames * columns);
            self.places[i].resize(frames * columns, 0);
            let places = (layer.pool > 1).then_some(&mut self.places[i][..]);
            let panels = 0..layer.panels();
            arch.dispatch(Product { layer, x, stride, panels, out, columns, places });
            stride = columns;
        }
    }
}

impl Lists {
    /// What of a convolution's `dy` passes its ReLU, at the frame that its pool took. All are `[frames, channels]`.
    #[inline(always)]
    fn write(&mut self, dy: &[f32], y: &[f32], places: &[u32], channels: usize, pool: usize, near: Near) {
        let frames = dy.len() / channels;
        self.by_channel.reset(frames.div_ceil(near.frames) * channels, near.frames);
        if near.channels > 0 {
            self.by_frame.reset(channels.div_ceil(near.channels) * frames * pool, near.channels);
        }
        let rows = dy.chunks_exact(channels).zip(y.chunks_exact(channels)).zip(places.chunks_exact(channels));
        for (row, ((dy, y), places)) in rows.enumerate() {
            let by_channel = row / near.frames * channels;
            for (channel, ((&dy, &y), &place)) in dy.iter().zip(y).zip(places).enumerate() {
                let by = if y > 0.0 { dy } else { 0.0 };
                let at = (row * pool) as u32 + place;
                self.by_channel.push(by_channel + channel, Term { at, by });
            }
            if near.channels > 0 {
                let parts = dy.chunks(near.channels).zip(y.chunks(near.channels)).zip(places.chunks(near.channels));
                for (part, ((dy, y), places)) in parts.enumerate() {
                    let first = (part * frames + row) * pool;
                    for (at, ((&dy, &y), &place)) in (part * near.channels..).zip(dy.iter().zip(y).zip(places)) {
                        let by = if y > 0.0 { dy } else { 0.0 };
                        self.by_frame.push(first + place as usize, Term { at: at as u32, by });
                    }
                }
            }
        }
    }
}

/// How lists are divided, so that what one gather reads stays near: so many frames' terms in a list by channel, after
/// all channels' lists those of the next frames; so many channels' in a list by frame (0: no such lists).
#[derive(Clone, Copy)]
struct Near {
    frames: usize,
    channels: usize,
}

/// The gradient by `x` `[time, channels]` from that by its mean, maximum and RMS over time.
#[inline(always)]
fn over_time_back(x: &[f32], channels: usize, heard: &[f32], d_heard: &[f32], dx: &mut [f32]) {
    let frames = (x.len() / channels) as f32;
    let (max, rms) = heard[channels..].split_at(channels);
    let (d_mean, rest) = d_heard.split_at(channels);
    let (d_max, d_rms) = rest.split_at(channels);
    // RMS = √(Σ x² / t + floor), so its derivative is x / (t · RMS).
    let by_mean: Vec<f32> = d_mean.iter().map(|d| d / frames).collect();
    let by_x: Vec<f32> = d_rms.iter().zip(rms).map(|(d, rms)| d / (frames * rms)).collect();
    for (x, dx) in x.chunks_exact(channels).zip(dx.chunks_exact_mut(channels)) {
        for (((dx, x), by_mean), by_x) in dx.iter_mut().zip(x).zip(&by_mean).zip(&by_x) {
            *dx = by_mean + by_x * x;
        }
    }
    for channel in 0..channels {
        // The first of equals.
        let loudest = x.iter().skip(channel).step_by(channels).position(|&x| x == max[channel]);
        if let Some(frame) = loudest {
            dx[frame * channels + channel] += d_max[channel];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::AudioEncoder;
    use crate::encoder::infer::Network;
    use crate::encoder::kernels::tests::instruction_sets;
    use crate::encoder::tests::tiny;
    use burn::tensor::{Device, Tensor, TensorData};
    use ndarray::Array3;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// What a step is given.
    struct Case {
        config: EncoderConfig,
        weights: Weights,
        mels: Array3<f32>,
        dropout: Option<[Array2<f32>; 2]>,
        d_answers: Array2<f32>,
    }

    impl Case {
        fn new(config: &EncoderConfig, songs: usize) -> Case {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let mut weights = Weights::random(config, 3);
            weights.mean.iter_mut().for_each(|m| *m = rng.random_range(3.0..5.0));
            weights.std.iter_mut().for_each(|s| *s = rng.random_range(1.0..3.0));
            for layer in &mut weights.layers {
                layer.bias.iter_mut().for_each(|b| *b = rng.random_range(-0.3..0.3));
            }
            let shape = (songs, config.frames, config.mel_bands);
            Case {
                config: config.clone(),
                weights,
                mels: Array3::from_shape_simple_fn(shape, || rng.random_range(0.0..8.0)),
                dropout: None,
                d_answers: Array2::from_shape_simple_fn((songs, config.dimensions), || rng.random_range(-1.0..1.0)),
            }
        }

        fn with_dropout(config: &EncoderConfig, songs: usize) -> Case {
            let mut rng = ChaCha8Rng::seed_from_u64(6);
            let mask =
                |width| Array2::from_shape_simple_fn((songs, width), || if rng.random_bool(0.5) { 2.0 } else { 0.0 });
            Case { dropout: Some(config.dense.map(mask)), ..Case::new(config, songs) }
        }

        fn silent(config: &EncoderConfig, songs: usize) -> Case {
            let mut case = Case::new(config, songs);
            case.mels.fill(0.0);
            case.weights.layers[3].bias.fill(-1e3); // the last convolution never fires
            case
        }

        fn step(&self, tape: &mut Tape) -> (Array2<f32>, Vec<Vec<f32>>) {
            let answers = tape.forward(&self.weights, self.mels.view(), self.dropout.as_ref());
            let gradients = tape.backward(&self.weights, self.dropout.as_ref(), self.d_answers.view());
            (answers, gradients.to_vec())
        }

        /// The same by automatic differentiation, of a loss whose gradient by the answers is `d_answers`.
        fn oracle(&self, overlapping: bool) -> (Array2<f32>, Vec<Vec<f32>>) {
            let device = Device::flex().autodiff();
            let matrix = |x: &Array2<f32>| {
                let data = TensorData::new(x.iter().copied().collect(), <[usize; 2]>::from(x.dim()));
                Tensor::<2>::from_data(data, &device)
            };
            let mut net = AudioEncoder::new(&self.config, &self.weights, &device);
            net.overlapping = overlapping;
            let mels = TensorData::new(self.mels.iter().copied().collect(), <[usize; 3]>::from(self.mels.dim()));
            let masks = self.dropout.as_ref().map(|[a, b]| [matrix(a), matrix(b)]);
            let answers = net.forward(Tensor::from_data(mels, &device), masks);
            let mut grads = (answers.clone() * matrix(&self.d_answers)).sum().backward();
            let numbers = answers.into_data().try_into_vec_as().unwrap();
            let gradients = net.layers.iter().flat_map(|layer| {
                let weight = layer.weight.val().grad_remove(&mut grads).unwrap().into_data();
                let bias = layer.bias.val().grad_remove(&mut grads).unwrap().into_data();
                [weight, bias].map(|data| data.try_into_vec_as().unwrap())
            });
            (Array2::from_shape_vec(self.d_answers.dim(), numbers).unwrap(), gradients.collect())
        }
    }

    /// The length of the difference as a share of the length.
    fn error(ours: &[f32], truth: &[f32]) -> f64 {
        assert_eq!(ours.len(), truth.len());
        let missed: f64 = ours.iter().zip(truth).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let length: f64 = truth.iter().map(|&b| f64::from(b).powi(2)).sum();
        if missed == 0.0 { 0.0 } else { (missed / length).sqrt() }
    }

    #[test]
    fn gradients_are_those_of_automatic_differentiation() {
        let odd = EncoderConfig {
            mel_bands: 3,
            frames: 200,
            channels: [5, 33, 70, 50],
            kernel: 3,
            pools: [5, 3, 1],
            dense: [17, 100],
            dimensions: 1,
            dropout: 0.0,
        };
        let narrow =
            EncoderConfig { mel_bands: 1, kernel: 1, channels: [16, 48, 1, 31], pools: [64, 1, 2], ..odd.clone() };
        let preset = EncoderConfig::default();
        let cases = [
            Case::new(&tiny(), 1),
            Case::with_dropout(&tiny(), 50),
            Case::silent(&tiny(), 2),
            Case::new(&odd, 7),
            Case::with_dropout(&odd, 33),
            Case::new(&narrow, 3),
            Case::new(&preset, 2),
            Case::with_dropout(&preset, 3),
            Case::silent(&preset, 1),
        ];
        for (i, case) in cases.iter().enumerate() {
            let (answers, truth) = case.oracle(true);
            // As GPUs have it.
            let (_, copied) = case.oracle(false);
            copied.iter().zip(&truth).for_each(|(a, b)| assert!(error(a, b) < 1e-4, "case {i}: {}", error(a, b)));
            let moving = truth.iter().filter(|slice| slice.iter().any(|&g| g.abs() > 1e-4)).count();
            assert!(moving >= 5, "case {i}: {moving} of 14");
            for arch in instruction_sets() {
                let (found, gradients) = case.step(&mut Tape::on(arch, &case.config));
                assert!(error(found.as_slice().unwrap(), answers.as_slice().unwrap()) < 1e-5, "case {i}, {arch:?}");
                for (slice, (ours, truth)) in gradients.iter().zip(&truth).enumerate() {
                    let error = error(ours, truth);
                    assert!(error < 1e-4, "case {i}, {arch:?}, slice {slice}: {error}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_slopes() {
        let mut case = Case::with_dropout(&tiny(), 4);
        let mut tape = Tape::new(&case.config);
        let (_, gradients) = case.step(&mut tape);
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        for (slice, gradient) in gradients.iter().enumerate() {
            // Along the gradient of one slice, so that the slope is far above the rounding of the loss, and some noise.
            let length = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let way: Vec<f32> = gradient.iter().map(|g| g / length * rng.random_range(0.5..1.5)).collect();
            let expected: f32 = way.iter().zip(gradient).map(|(w, g)| w * g).sum();
            let mut loss_at = |distance: f32| {
                let mut weights = case.weights.clone();
                weights.slices_mut()[slice].iter_mut().zip(&way).for_each(|(w, way)| *w += distance * way);
                std::mem::swap(&mut weights, &mut case.weights);
                let answers = tape.forward(&case.weights, case.mels.view(), case.dropout.as_ref());
                std::mem::swap(&mut weights, &mut case.weights);
                (answers * &case.d_answers).mapv(f64::from).sum()
            };
            let slope = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3;
            assert!((slope / f64::from(expected) - 1.0).abs() < 0.02, "slice {slice}: {slope}, {expected}");
        }
    }

    #[test]
    fn training_and_embedding_run_the_same_network_to_the_last_bit() {
        for config in [tiny(), EncoderConfig::default()] {
            let case = Case::new(&config, 3);
            let answers = Tape::new(&config).forward(&case.weights, case.mels.view(), None);
            assert_eq!(answers, Network::new(&config, &case.weights).predict(case.mels.view()));
        }
    }

    #[test]
    fn a_step_is_the_same_on_any_number_of_threads_and_in_used_buffers() {
        let config = EncoderConfig { channels: [40, 300, 70, 90], dense: [130, 60], ..tiny() };
        let cases = [Case::with_dropout(&config, 7), Case::new(&config, 20), Case::with_dropout(&config, 1)];
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let fresh: Vec<_> = cases.iter().map(|case| on(1).install(|| case.step(&mut Tape::new(&config)))).collect();
        for threads in [1, 2, 3, 8] {
            let mut tape = Tape::new(&config);
            for (case, fresh) in cases.iter().zip(&fresh) {
                assert!(&on(threads).install(|| case.step(&mut tape)) == fresh, "{threads} threads");
            }
        }
    }
}
