//! Batches for training: a random window of each track, a random crop in it, and optional augmentation.

use std::sync::mpsc::SyncSender;

use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayViewMut2, Axis, s};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::EncoderConfig;
use crate::error::{Error, Result};

/// The audio of a training set, already turned into spectrograms. The encoder learns from "a track and its numbers"
/// and need not know where either comes from.
pub trait Spectrograms: Sync {
    /// Tracks.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Windows of each track (excerpts at different places in the song).
    fn windows(&self) -> usize;
    /// Frames of a window, at least the network's: what exceeds them is room for the random crop.
    fn frames(&self) -> usize;
    fn mel_bands(&self) -> usize;
    /// One window of one track, `[frames, mel_bands]`.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn load(&self, track: usize, window: usize) -> Result<Array2<f32>>;
}

/// Changes made to what the network hears (never to what it is judged by). All off by default, as in the post; with
/// few tracks they are worth trying.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Silence a random run of up to this many bands to the training mean (16 is mild): no single band may decide.
    /// With `mask_frames` this is SpecAugment (Park et al. 2019).
    pub mask_bands: usize,
    /// The same for a random run of up to this many frames (100 is mild).
    pub mask_frames: usize,
    /// Play each crop louder or softer by up to this many decibels (6 is mild): mastering is not style.
    pub gain_db: f32,
    /// Move each crop up or down by up to this many bands, about half a semitone each above 1 kHz (4 is mild): a song in
    /// another key is the same song.
    pub shift_bands: usize,
    /// Blend pairs of tracks, spectrograms and targets alike, in proportions drawn from Beta(`mixup`, `mixup`)
    /// (Zhang et al. 2018; 0.2 is common; 0: off). So the network answers a blend of two songs with a blend of factors.
    pub mixup: f32,
}

/// What one step of training sees.
pub(crate) struct Batch {
    /// `[b, frames, mel_bands]`
    pub mels: Array3<f32>,
    /// `[b, dimensions]`
    pub targets: Array2<f32>,
    /// `[b]`, 1 on average over the training set.
    pub weights: Array1<f32>,
    /// What the two hidden dense layers are multiplied by, `[b, dense]`.
    pub dropout: Option<[Array2<f32>; 2]>,
}

pub(crate) enum Message {
    Train(Batch),
    Valid(Batch),
    /// The epoch is over.
    Done,
}

/// Where batches come from.
pub(crate) struct Source<'a> {
    pub spectrograms: &'a dyn Spectrograms,
    pub encoder: &'a EncoderConfig,
    /// `[tracks, dimensions]`, of unit length where they are used.
    pub targets: ArrayView2<'a, f32>,
    /// `[tracks]`
    pub weights: &'a [f32],
    pub train: &'a [usize],
    pub valid: &'a [usize],
    pub batch_size: usize,
    /// The windows of a track that training draws from.
    pub windows: Vec<usize>,
    pub crop: bool,
    pub augment: &'a Augment,
    /// `[mel_bands]`: what a masked band is set to.
    pub mean: &'a Array1<f32>,
    pub seed: u64,
}

impl Source<'_> {
    /// Sends every batch of these epochs, in order, until the receiver hangs up or a spectrogram cannot be read.
    ///
    /// An epoch's randomness depends on the seed and its number alone, so a resumed run sees what an undisturbed one
    /// would have seen.
    pub fn stream(&self, epochs: std::ops::Range<usize>, out: &SyncSender<Result<Message>>) {
        for epoch in epochs {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(epoch as u64 + 1);
            let mut order = self.train.to_vec();
            order.shuffle(&mut rng);
            let training = order.chunks(self.batch_size).map(|tracks| self.training_batch(tracks, &mut rng));
            let judging =
                self.valid.chunks(self.batch_size).map(|tracks| self.middle_batch(tracks).map(Message::Valid));
            for message in training.map(|b| b.map(Message::Train)).chain(judging).chain([Ok(Message::Done)]) {
                let last = message.is_err();
                if out.send(message).is_err() || last {
                    return;
                }
            }
        }
    }

    fn training_batch(&self, tracks: &[usize], rng: &mut ChaCha8Rng) -> Result<Batch> {
        let mut batch = self.empty_batch(tracks);
        let room = self.spectrograms.frames() - self.encoder.frames;
        for (&track, mut place) in tracks.iter().zip(batch.mels.outer_iter_mut()) {
            let window = self.windows[rng.random_range(0..self.windows.len())];
            let start = if self.crop { rng.random_range(0..=room) } else { room / 2 };
            let mel = load_checked(self.spectrograms, track, window)?;
            place.assign(&mel.slice(s![start..start + self.encoder.frames, ..]));
            if self.augment.gain_db > 0.0 {
                let gain = rng.random_range(-self.augment.gain_db..=self.augment.gain_db);
                amplify(place.view_mut(), gain);
            }
            if self.augment.shift_bands > 0 {
                let most = self.augment.shift_bands.min(self.encoder.mel_bands) as i64;
                shift(place.view_mut(), rng.random_range(-most..=most) as isize);
            }
            if self.augment.mask_bands > 0 {
                let run = random_run(self.encoder.mel_bands, self.augment.mask_bands, rng);
                place.slice_mut(s![.., run.clone()]).assign(&self.mean.slice(s![run]));
            }
            if self.augment.mask_frames > 0 {
                let run = random_run(self.encoder.frames, self.augment.mask_frames, rng);
                place.slice_mut(s![run, ..]).assign(self.mean);
            }
        }
        if self.augment.mixup > 0.0 {
            mixup(&mut batch, self.augment.mixup, rng);
        }
        if self.encoder.dropout > 0.0 {
            let keep = 1.0 - self.encoder.dropout;
            batch.dropout = Some(self.encoder.dense.map(|units| {
                Array2::from_shape_simple_fn((tracks.len(), units), || {
                    if rng.random_bool(keep) { 1.0 / keep as f32 } else { 0.0 }
                })
            }));
        }
        Ok(batch)
    }

    /// The middle crop of the middle window: what validation judges by.
    fn middle_batch(&self, tracks: &[usize]) -> Result<Batch> {
        let mut batch = self.empty_batch(tracks);
        let start = (self.spectrograms.frames() - self.encoder.frames) / 2;
        for (&track, mut place) in tracks.iter().zip(batch.mels.outer_iter_mut()) {
            let mel = load_checked(self.spectrograms, track, self.spectrograms.windows() / 2)?;
            place.assign(&mel.slice(s![start..start + self.encoder.frames, ..]));
        }
        Ok(batch)
    }

    fn empty_batch(&self, tracks: &[usize]) -> Batch {
        Batch {
            mels: Array3::zeros((tracks.len(), self.encoder.frames, self.encoder.mel_bands)),
            targets: self.targets.select(Axis(0), tracks),
            weights: tracks.iter().map(|&t| self.weights[t]).collect(),
            dropout: None,
        }
    }
}

/// A run of 0 to `longest` places somewhere in `0..places`.
fn random_run(places: usize, longest: usize, rng: &mut ChaCha8Rng) -> std::ops::Range<usize> {
    let length = rng.random_range(0..=longest.min(places));
    let start = rng.random_range(0..=places - length);
    start..start + length
}

/// Blends each track with its predecessor in the batch, which is random already.
fn mixup(batch: &mut Batch, alpha: f32, rng: &mut ChaCha8Rng) {
    let n = batch.weights.len();
    let (mels, targets) = (batch.mels.clone(), batch.targets.clone());
    for i in 0..n {
        let other = (i + n - 1) % n;
        let own = beta(alpha, rng).max(0.5); // the track itself stays the louder, so its weight stays the right one
        let blend = |mine: &mut f32, theirs: &f32| *mine = own * *mine + (1.0 - own) * theirs;
        batch.mels.index_axis_mut(Axis(0), i).zip_mut_with(&mels.index_axis(Axis(0), other), blend);
        batch.targets.row_mut(i).zip_mut_with(&targets.row(other), blend);
    }
}

/// Changes the loudness of a log-mel spectrogram `[frames, mel_bands]` as if the audio had been `gain` dB louder. With
/// `y = ln(1 + g·P)`, `g·P` is `e^y - 1` whatever `g`.
fn amplify(mut mel: ArrayViewMut2<f32>, gain: f32) {
    let factor = 10f32.powf(gain / 10.0);
    mel.mapv_inplace(|y| (y.exp_m1() * factor).ln_1p());
}

#[test]
fn ten_decibels_are_ten_times_the_power() {
    let powers = [0.0f32, 1e-6, 3.0, 2e5];
    let mut mel = Array2::from_shape_fn((1, 4), |(_, i)| (10_000.0 * powers[i]).ln_1p());
    amplify(mel.view_mut(), 10.0);
    for (y, power) in mel.iter().zip(powers) {
        let expected = (10_000.0 * 10.0 * power).ln_1p();
        assert!((y - expected).abs() < 1e-4, "{y} {expected}");
    }
}

/// Moves a spectrogram `[frames, mel_bands]` up by `bands` (down where negative); the edge is repeated.
fn shift(mut mel: ArrayViewMut2<f32>, bands: isize) {
    let last = mel.ncols().saturating_sub(1) as isize;
    for mut frame in mel.rows_mut() {
        let old = frame.to_owned();
        for (band, value) in frame.iter_mut().enumerate() {
            *value = old[(band as isize - bands).clamp(0, last) as usize];
        }
    }
}

#[test]
fn a_shift_moves_bands_and_repeats_the_edge() {
    let mut mel = Array2::from_shape_vec((1, 4), vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    shift(mel.view_mut(), 1);
    assert_eq!(mel.as_slice().unwrap(), [1.0, 1.0, 2.0, 3.0]);
    shift(mel.view_mut(), -2);
    assert_eq!(mel.as_slice().unwrap(), [2.0, 3.0, 3.0, 3.0]);
}

/// A draw from Beta(a, a) by Jöhnk's method (1964): exact, and quick for the small `a` of mixup.
fn beta(a: f32, rng: &mut ChaCha8Rng) -> f32 {
    loop {
        let x = rng.random::<f32>().powf(1.0 / a);
        let y = rng.random::<f32>().powf(1.0 / a);
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
}

/// Mean and standard deviation of each band, `[mel_bands]` both, over the middle windows of these tracks.
pub(crate) fn standardisation(spectrograms: &dyn Spectrograms, tracks: &[usize]) -> Result<(Array1<f32>, Array1<f32>)> {
    let bands = spectrograms.mel_bands();
    let (mut sum, mut squares, mut n) = (Array1::<f64>::zeros(bands), Array1::<f64>::zeros(bands), 0.0);
    for &track in tracks {
        let mel = load_checked(spectrograms, track, spectrograms.windows() / 2)?.mapv(f64::from);
        sum += &mel.sum_axis(Axis(0));
        squares += &mel.mapv(|x| x * x).sum_axis(Axis(0));
        n += mel.nrows() as f64;
    }
    let mean = sum / n;
    // Log-mel bands of music deviate by about 2 (natural logarithm). One that deviates by under 0.1 is silent, as
    // above a codec's low-pass, and must not be magnified into a feature.
    let std = (squares / n - &mean * &mean).mapv(|v| v.max(0.0).sqrt().max(0.1));
    Ok((mean.mapv(|x| x as f32), std.mapv(|x| x as f32)))
}

/// Loads and checks shape and finiteness.
fn load_checked(spectrograms: &dyn Spectrograms, track: usize, window: usize) -> Result<Array2<f32>> {
    let mel = spectrograms.load(track, window)?;
    let expected = (spectrograms.frames(), spectrograms.mel_bands());
    let what = || format!("the spectrogram of track {track}, window {window}");
    if mel.dim() != expected {
        return Err(Error::mismatch(what(), format!("{expected:?}"), format!("{:?}", mel.dim())));
    }
    match mel.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Error::invalid(what(), "finite numbers", x)),
        None => Ok(mel),
    }
}

/// An array as a tensor of the same shape.
pub(crate) fn tensor<const D: usize, Dim: ndarray::Dimension>(
    array: ndarray::Array<f32, Dim>,
    device: &Device,
) -> Tensor<D> {
    let shape = array.shape().to_vec();
    let numbers =
        if array.is_standard_layout() { array.into_raw_vec_and_offset().0 } else { array.iter().copied().collect() };
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Spectrograms of 128 frames and 8 bands whose bands' levels are the track's hidden numbers, in noise.
    pub(crate) struct Planted {
        /// `[tracks, bands]`
        pub levels: Array2<f32>,
        pub windows: usize,
        /// The track whose spectrogram is broken, if any.
        pub broken: Option<usize>,
    }

    impl Planted {
        pub fn new(tracks: usize) -> Planted {
            let mut rng = ChaCha8Rng::seed_from_u64(11);
            Planted {
                levels: Array2::from_shape_simple_fn((tracks, 8), || rng.random_range(-1.0..1.0)),
                windows: 3,
                broken: None,
            }
        }

        /// Targets `[tracks, d]` that are linear in the levels.
        pub fn targets(&self, d: usize) -> Array2<f32> {
            let mut rng = ChaCha8Rng::seed_from_u64(12);
            self.levels.dot(&Array2::from_shape_simple_fn((8, d), || rng.random_range(-1.0f32..1.0)))
        }
    }

    impl Spectrograms for Planted {
        fn len(&self) -> usize {
            self.levels.nrows()
        }
        fn windows(&self) -> usize {
            self.windows
        }
        fn frames(&self) -> usize {
            128
        }
        fn mel_bands(&self) -> usize {
            8
        }
        fn load(&self, track: usize, window: usize) -> Result<Array2<f32>> {
            let mut rng = ChaCha8Rng::seed_from_u64((track * 10 + window) as u64);
            let levels =
                self.levels.row(track).mapv(|l| 5.0 + l + if self.broken == Some(track) { f32::NAN } else { 0.0 });
            Ok(Array2::from_shape_fn((128, 8), |(_, band)| levels[band] + rng.random_range(-1.0..1.0)))
        }
    }

    fn batches(augment: &Augment, crop: bool) -> (Vec<Batch>, Array2<f32>) {
        let planted = Planted::new(10);
        let encoder = EncoderConfig { dropout: 0.5, ..super::super::tests::tiny() };
        let targets = planted.targets(5);
        let mean = Array1::from_elem(8, -7.0);
        let source = Source {
            spectrograms: &planted,
            encoder: &encoder,
            targets: targets.view(),
            weights: &[1.0; 10],
            train: &[0, 1, 2, 3, 4, 5, 6],
            valid: &[7, 8, 9],
            batch_size: 4,
            windows: vec![0, 1, 2],
            crop,
            augment,
            mean: &mean,
            seed: 1,
        };
        let (send, receive) = std::sync::mpsc::sync_channel(100);
        source.stream(0..2, &send);
        drop(send);
        let batches = receive.iter().filter_map(|m| match m.unwrap() {
            Message::Train(b) | Message::Valid(b) => Some(b),
            Message::Done => None,
        });
        (batches.collect(), targets)
    }

    #[test]
    fn an_epoch_holds_every_track_once_and_the_next_in_another_order() {
        let (batches, targets) = batches(&Augment::default(), true);
        assert_eq!(batches.iter().map(|b| b.weights.len()).collect::<Vec<_>>(), [4, 3, 3, 4, 3, 3]);
        let rows = |range: std::ops::Range<usize>| -> Vec<usize> {
            let rows = batches[range].iter().flat_map(|b| b.targets.outer_iter());
            rows.map(|row| targets.outer_iter().position(|t| t == row).unwrap()).collect()
        };
        let (first, second) = (rows(0..3), rows(3..6));
        assert_ne!(first, second);
        for mut order in [first, second] {
            assert_eq!(order[7..], [7, 8, 9]);
            order.sort_unstable();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
        let mask = &batches[0].dropout.as_ref().unwrap()[0];
        assert_eq!(mask.dim(), (4, 24));
        assert!(mask.iter().all(|&m| m == 0.0 || m == 2.0));
        assert!(batches[2].dropout.is_none());
    }

    #[test]
    fn masks_set_runs_to_the_mean_and_leave_validation_alone() {
        let augment = Augment { mask_bands: 3, mask_frames: 9, ..Augment::default() };
        let (batches, _) = batches(&augment, true);
        let masked = |b: &Batch| b.mels.iter().filter(|&&x| x == -7.0).count();
        assert!(masked(&batches[0]) > 0);
        assert!(masked(&batches[0]) <= 4 * (3 * 119 + 9 * 8));
        assert_eq!(masked(&batches[2]), 0);
    }

    #[test]
    fn mixup_blends_sound_and_targets_alike() {
        let plain = batches(&Augment::default(), false).0;
        let mut batch = Batch { dropout: None, ..batches(&Augment::default(), false).0.remove(0) };
        mixup(&mut batch, 0.4, &mut ChaCha8Rng::seed_from_u64(2));
        for i in 0..4 {
            let other = (i + 3) % 4;
            let share = |mixed: f32, own: f32, theirs: f32| (mixed - theirs) / (own - theirs);
            let by_target = share(batch.targets[[i, 0]], plain[0].targets[[i, 0]], plain[0].targets[[other, 0]]);
            let by_sound = share(batch.mels[[i, 9, 3]], plain[0].mels[[i, 9, 3]], plain[0].mels[[other, 9, 3]]);
            assert!(
                (by_target - by_sound).abs() < 1e-3 && (0.4999..=1.0001).contains(&by_target),
                "{by_target} {by_sound}"
            );
        }
    }

    #[test]
    fn beta_draws_have_beta_s_mean_and_variance() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let draws: Vec<f32> = (0..20_000).map(|_| beta(0.4, &mut rng)).collect();
        let mean = draws.iter().sum::<f32>() / 2e4;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 2e4;
        // Var Beta(a, a) = 1 / (4 (2a + 1)) = 0.1389; the tolerances are about 5 standard errors.
        assert!((mean - 0.5).abs() < 0.014 && (variance - 0.1389).abs() < 0.005, "{mean} {variance}");
    }

    #[test]
    fn standardisation_is_that_of_the_training_tracks_alone() {
        let planted = Planted { broken: Some(0), ..Planted::new(40) };
        let tracks: Vec<usize> = (1..40).collect();
        let (mean, std) = standardisation(&planted, &tracks).unwrap();
        for band in 0..8 {
            let levels = planted.levels.slice(s![1.., band]);
            let expected = 5.0 + levels.mean().unwrap();
            let spread = (levels.var(0.0) + 1.0 / 3.0).sqrt(); // uniform noise on ±1 has variance 1/3
            assert!((mean[band] - expected).abs() < 0.05 && (std[band] - spread).abs() < 0.03);
        }
        assert!(standardisation(&planted, &[0]).unwrap_err().to_string().contains("track 0"));
    }
}
