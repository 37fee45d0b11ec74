//! Batches for training: a random window of each track, a random crop in it, and optional augmentation.

use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayViewMut2, Axis, s};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::EncoderConfig;
use super::objective::{Objective, Truth};
use crate::error::{Error, Result};

/// The audio of a training set, already turned into spectrograms. The encoder learns from "a track and its numbers"
/// and need not know where either comes from. Several threads read at once.
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
    /// Which spectrograms these are: equal for equal ones, so that a run is gone on with on the same data alone.
    fn id(&self) -> String;
    /// What people know the track by, for errors.
    fn name(&self, track: usize) -> String;
    /// Writes a part of one window of one track into `crop` `[n, mel_bands]`: its frames from `first` to `first + n`, which
    /// is at most [`frames`](Spectrograms::frames). Who holds whole windows uses [`copy_crop`].
    ///
    /// # Errors
    /// Where it cannot be read.
    fn load(&self, track: usize, window: usize, first: usize, crop: ArrayViewMut2<f32>) -> Result<()>;
}

/// Copies frames from `first` on of a whole window `[frames, mel_bands]` into `crop` `[n, mel_bands]`.
///
/// # Errors
/// `Mismatch` where the window has other bands, or ends before the crop.
pub fn copy_crop(window: ArrayView2<f32>, first: usize, mut crop: ArrayViewMut2<f32>) -> Result<()> {
    let end = first + crop.nrows();
    if window.nrows() < end || window.ncols() != crop.ncols() {
        let expected = format!("at least {end} frames of {} bands", crop.ncols());
        return Err(Error::mismatch("a spectrogram and its crop", expected, format!("{:?}", window.dim())));
    }
    crop.assign(&window.slice(s![first..end, ..]));
    Ok(())
}

#[test]
fn a_crop_is_a_part_of_its_window_or_refused() {
    let window = Array2::from_shape_fn((10, 2), |(t, m)| (t * 2 + m) as f32);
    let mut crop = Array2::zeros((4, 2));
    copy_crop(window.view(), 6, crop.view_mut()).unwrap();
    assert_eq!(crop, window.slice(s![6.., ..]));
    for (first, shape) in [(7, (4, 2)), (0, (11, 2)), (0, (4, 3))] {
        let refused = copy_crop(window.view(), first, Array2::zeros(shape).view_mut()).unwrap_err();
        assert!(matches!(refused, Error::Mismatch { .. }), "{refused}");
    }
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
    /// Play each crop faster or slower by up to this share, without another pitch (0.05 is mild): a remix in another tempo is
    /// the same song. By linear interpolation along time; slower than the window has frames for is cut to what it has.
    pub stretch: f32,
}

/// What one step of training sees.
pub(crate) struct Batch {
    /// `[rows, frames, mel_bands]`: a row a track, or in pre-training one of each track and then a second of each.
    pub mels: Array3<f32>,
    pub truth: Truth,
    /// What the two hidden dense layers are multiplied by, `[rows, dense]`.
    pub dropout: Option<[Array2<f32>; 2]>,
}

/// Where batches come from. What is random in a batch depends on the seed, its epoch and its number alone: whoever makes it,
/// and whenever, makes the same.
pub(crate) struct Source<'a> {
    pub spectrograms: &'a dyn Spectrograms,
    pub encoder: &'a EncoderConfig,
    /// Targets are of unit length, and weights 1 on average, where they are used.
    pub objective: Objective<'a>,
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
    /// Batches that an epoch trains on.
    pub fn training_batches(&self) -> usize {
        self.train.len().div_ceil(self.batch_size)
    }

    /// Batches that it is judged by.
    pub fn validation_batches(&self) -> usize {
        self.valid.len().div_ceil(self.batch_size)
    }

    /// The training tracks in the order of this epoch (from 0).
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.train.to_vec();
        order.shuffle(&mut self.random(epoch, 0));
        order
    }

    /// Stream 0 of an epoch orders it, stream n + 1 is for its batch n.
    fn random(&self, epoch: usize, stream: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((epoch as u64 + 1) << 32 | stream as u64);
        rng
    }

    /// A batch that is trained on, the `number`-th (from 0) of an epoch with this [order](Source::order).
    pub fn training_batch(&self, epoch: usize, number: usize, order: &[usize]) -> Result<Batch> {
        let first = number * self.batch_size;
        let tracks = &order[first..order.len().min(first + self.batch_size)];
        let rng = &mut self.random(epoch, number + 1);
        let mut batch = self.empty_batch(tracks);
        for (i, &track) in tracks.iter().enumerate() {
            let one = rng.random_range(0..self.windows.len());
            self.hear(track, self.windows[one], batch.mels.index_axis_mut(Axis(0), i), rng)?;
            if let Objective::SameTrack = self.objective {
                // Another window where there is one.
                let step = if self.windows.len() > 1 { rng.random_range(1..self.windows.len()) } else { 0 };
                let other = self.windows[(one + step) % self.windows.len()];
                self.hear(track, other, batch.mels.index_axis_mut(Axis(0), tracks.len() + i), rng)?;
            }
        }
        if self.augment.mixup > 0.0 {
            mixup(&mut batch, self.augment.mixup, rng);
        }
        if self.encoder.dropout > 0.0 {
            let keep = 1.0 - self.encoder.dropout;
            let rows = batch.mels.len_of(Axis(0));
            batch.dropout =
                Some(self.encoder.dense.map(|units| {
                    Array2::from_shape_simple_fn((rows, units), || {
                        if rng.random_bool(keep) { 1.0 / keep as f32 } else { 0.0 }
                    })
                }));
        }
        Ok(batch)
    }

    /// Fills `place` `[frames, mel_bands]` with a crop of a window as training hears it.
    fn hear(&self, track: usize, window: usize, mut place: ArrayViewMut2<f32>, rng: &mut ChaCha8Rng) -> Result<()> {
        let (all, frames, augment) = (self.spectrograms.frames(), self.encoder.frames, self.augment);
        let taken = if augment.stretch > 0.0 {
            let pace = rng.random_range(1.0 - augment.stretch..=1.0 + augment.stretch);
            ((frames as f32 * pace).round() as usize).clamp(1, all)
        } else {
            frames
        };
        let room = all - taken;
        let first = if self.crop { rng.random_range(0..=room) } else { room / 2 };
        if taken == frames {
            read(self.spectrograms, track, window, first, place.view_mut())?;
        } else {
            let mut heard = Array2::zeros((taken, self.encoder.mel_bands));
            read(self.spectrograms, track, window, first, heard.view_mut())?;
            stretch(heard.view(), place.view_mut());
        }
        if augment.gain_db > 0.0 {
            let gain = rng.random_range(-augment.gain_db..=augment.gain_db);
            amplify(place.view_mut(), gain);
        }
        if augment.shift_bands > 0 {
            let most = augment.shift_bands.min(self.encoder.mel_bands) as i64;
            shift(place.view_mut(), rng.random_range(-most..=most) as isize);
        }
        if augment.mask_bands > 0 {
            let run = random_run(self.encoder.mel_bands, augment.mask_bands, rng);
            place.slice_mut(s![.., run.clone()]).assign(&self.mean.slice(s![run]));
        }
        if augment.mask_frames > 0 {
            let run = random_run(frames, augment.mask_frames, rng);
            place.slice_mut(s![run, ..]).assign(self.mean);
        }
        Ok(())
    }

    /// The `number`-th batch that an epoch is judged by: the middle crop of each track's middle window; in pre-training the
    /// beginning of the first and the end of the last of those that it learns from.
    pub fn validation_batch(&self, number: usize) -> Result<Batch> {
        let first = number * self.batch_size;
        let tracks = &self.valid[first..self.valid.len().min(first + self.batch_size)];
        let mut batch = self.empty_batch(tracks);
        batch.truth.weights.fill(1.0);
        let room = self.spectrograms.frames() - self.encoder.frames;
        let views: Vec<(usize, usize)> = match self.objective {
            Objective::Targets { .. } => vec![(self.spectrograms.windows() / 2, room / 2)],
            Objective::SameTrack => {
                let (first, last) = (self.windows.iter().min(), self.windows.iter().max());
                vec![(first.copied().unwrap_or(0), 0), (last.copied().unwrap_or(0), room)]
            }
        };
        let rows = views.iter().flat_map(|view| tracks.iter().map(move |track| (track, view)));
        for ((&track, &(window, first)), place) in rows.zip(batch.mels.outer_iter_mut()) {
            read(self.spectrograms, track, window, first, place)?;
        }
        Ok(batch)
    }

    fn empty_batch(&self, tracks: &[usize]) -> Batch {
        let (rows, truth) = match self.objective {
            Objective::Targets { targets, weights } => {
                let weights = tracks.iter().map(|&t| weights[t]).collect();
                (tracks.len(), Truth { targets: targets.select(Axis(0), tracks), weights })
            }
            Objective::SameTrack => {
                let targets = Array2::zeros((0, self.encoder.dimensions));
                (2 * tracks.len(), Truth { targets, weights: Array1::ones(tracks.len()) })
            }
        };
        Batch { mels: Array3::zeros((rows, self.encoder.frames, self.encoder.mel_bands)), truth, dropout: None }
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
    let n = batch.truth.weights.len();
    let (mels, targets) = (batch.mels.clone(), batch.truth.targets.clone());
    for i in 0..n {
        let other = (i + n - 1) % n;
        let share = beta(alpha, rng);
        let own = share.max(1.0 - share); // the track itself stays the louder, so its weight stays the right one
        let blend = |mine: &mut f32, theirs: &f32| *mine = own * *mine + (1.0 - own) * theirs;
        batch.mels.index_axis_mut(Axis(0), i).zip_mut_with(&mels.index_axis(Axis(0), other), blend);
        batch.truth.targets.row_mut(i).zip_mut_with(&targets.row(other), blend);
    }
}

/// Changes the loudness of a log-mel spectrogram `[frames, mel_bands]` as if the audio had been `gain` dB louder. With
/// `y = ln(1 + g·P)`, `g·P` is `e^y - 1` whatever `g`.
fn amplify(mut mel: ArrayViewMut2<f32>, gain: f32) {
    let factor = 10f32.powf(gain / 10.0);
    // Not by `exp_m1` and `ln_1p`, which take four times as long: the last digits of a silent band are below what is stored.
    mel.mapv_inplace(|y| (1.0 + factor * (y.exp() - 1.0)).ln());
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

/// Spreads `heard` `[n, mel_bands]` over the frames of `place`, from the first on the first to the last on the last, by linear
/// interpolation.
fn stretch(heard: ArrayView2<f32>, mut place: ArrayViewMut2<f32>) {
    let last = heard.nrows().saturating_sub(1);
    let step = last as f32 / place.nrows().saturating_sub(1).max(1) as f32;
    for (t, mut frame) in place.outer_iter_mut().enumerate() {
        let at = t as f32 * step;
        let before = (at as usize).min(last);
        let after = (before + 1).min(last);
        let share = at - before as f32;
        let blend = |a: &f32, b: &f32| a + share * (b - a);
        ndarray::Zip::from(&mut frame)
            .and(heard.row(before))
            .and(heard.row(after))
            .for_each(|out, a, b| *out = blend(a, b));
    }
}

#[test]
fn a_stretched_line_is_a_line_between_the_same_ends() {
    for (from, to) in [(5, 9), (9, 5), (7, 7), (1, 3), (3, 1)] {
        let heard = Array2::from_shape_fn((from, 2), |(t, m)| t as f32 * (m + 1) as f32);
        let mut place = Array2::zeros((to, 2));
        stretch(heard.view(), place.view_mut());
        for ((t, m), x) in place.indexed_iter() {
            let expected = (t * (from - 1) * (m + 1)) as f32 / (to - 1).max(1) as f32;
            assert!((x - expected).abs() < 1e-5, "{from} to {to}: {x} {expected}");
        }
    }
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

/// So many tracks tell what bands are like: beyond them a mean moves by less than a hundredth of a deviation.
const ENOUGH: usize = 20_000;

/// Mean and standard deviation of each band, `[mel_bands]` both, over the middle windows of these tracks; of more than
/// [`ENOUGH`], of so many, evenly spread.
pub(crate) fn standardisation(spectrograms: &dyn Spectrograms, tracks: &[usize]) -> Result<(Array1<f32>, Array1<f32>)> {
    let (frames, bands) = (spectrograms.frames(), spectrograms.mel_bands());
    let none = || (Array1::<f64>::zeros(bands), Array1::<f64>::zeros(bands));
    let asked = tracks.len().min(ENOUGH);
    let tracks: Vec<usize> = (0..asked).map(|i| tracks[i * tracks.len() / asked]).collect();
    // Groups of one size, added in order: the same on any number of cores.
    let groups = tracks.par_chunks(64).map(|group| {
        let (mut sum, mut squares) = none();
        let mut mel = Array2::zeros((frames, bands));
        for &track in group {
            read(spectrograms, track, spectrograms.windows() / 2, 0, mel.view_mut())?;
            let wide = mel.mapv(f64::from);
            sum += &wide.sum_axis(Axis(0));
            squares += &wide.mapv(|x| x * x).sum_axis(Axis(0));
        }
        Ok((sum, squares))
    });
    let (mut sum, mut squares) = none();
    for (s, q) in groups.collect::<Result<Vec<_>>>()? {
        sum += &s;
        squares += &q;
    }
    let n = (tracks.len() * frames) as f64;
    let mean = sum / n;
    // Log-mel bands of music deviate by about 2 (natural logarithm). One that deviates by under 0.1 is silent, as
    // above a codec's low-pass, and must not be magnified into a feature.
    let std = (squares / n - &mean * &mean).mapv(|v| v.max(0.0).sqrt().max(0.1));
    Ok((mean.mapv(|x| x as f32), std.mapv(|x| x as f32)))
}

/// Loads, and checks that all numbers are finite.
fn read(
    spectrograms: &dyn Spectrograms,
    track: usize,
    window: usize,
    first: usize,
    mut crop: ArrayViewMut2<f32>,
) -> Result<()> {
    spectrograms.load(track, window, first, crop.view_mut())?;
    match crop.iter().find(|x| !x.is_finite()) {
        Some(x) => {
            let what = format!("the spectrogram of {}, window {window}", spectrograms.name(track));
            Err(Error::invalid(what, "finite numbers", x))
        }
        None => Ok(()),
    }
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

        /// `[128, 8]`
        pub fn window(&self, track: usize, window: usize) -> Array2<f32> {
            let mut rng = ChaCha8Rng::seed_from_u64((track * 10 + window) as u64);
            let levels =
                self.levels.row(track).mapv(|l| 5.0 + l + if self.broken == Some(track) { f32::NAN } else { 0.0 });
            Array2::from_shape_fn((128, 8), |(_, band)| levels[band] + rng.random_range(-1.0..1.0))
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
        fn id(&self) -> String {
            format!("planted {:?}", self.broken)
        }
        fn name(&self, track: usize) -> String {
            format!("track {track}")
        }
        fn load(&self, track: usize, window: usize, first: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
            copy_crop(self.window(track, window).view(), first, crop)
        }
    }

    /// What two epochs of ten tracks see, seven of them to train on, in batches of four.
    fn batches(augment: &Augment, crop: bool, same_track: bool) -> (Vec<Batch>, Array2<f32>) {
        let planted = Planted::new(10);
        let encoder = EncoderConfig { dropout: 0.5, ..super::super::tests::tiny() };
        let targets = planted.targets(5);
        let mean = Array1::from_elem(8, -7.0);
        let by_targets = Objective::Targets { targets: targets.view(), weights: &[1.0; 10] };
        let source = Source {
            spectrograms: &planted,
            encoder: &encoder,
            objective: if same_track { Objective::SameTrack } else { by_targets },
            train: &[0, 1, 2, 3, 4, 5, 6],
            valid: &[7, 8, 9],
            batch_size: 4,
            windows: vec![0, 1, 2],
            crop,
            augment,
            mean: &mean,
            seed: 1,
        };
        let mut batches = Vec::new();
        for epoch in 0..2 {
            let order = source.order(epoch);
            batches.extend((0..source.training_batches()).map(|n| source.training_batch(epoch, n, &order).unwrap()));
            batches.extend((0..source.validation_batches()).map(|n| source.validation_batch(n).unwrap()));
        }
        (batches, targets)
    }

    #[test]
    fn an_epoch_holds_every_track_once_and_the_next_in_another_order() {
        let (batches, targets) = batches(&Augment::default(), true, false);
        assert_eq!(batches.iter().map(|b| b.truth.weights.len()).collect::<Vec<_>>(), [4, 3, 3, 4, 3, 3]);
        let rows = |range: std::ops::Range<usize>| -> Vec<usize> {
            let rows = batches[range].iter().flat_map(|b| b.truth.targets.outer_iter());
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
        let (batches, _) = batches(&augment, true, false);
        let masked = |b: &Batch| b.mels.iter().filter(|&&x| x == -7.0).count();
        assert!(masked(&batches[0]) > 0);
        assert!(masked(&batches[0]) <= 4 * (3 * 119 + 9 * 8));
        assert_eq!(masked(&batches[2]), 0);
    }

    #[test]
    fn mixup_blends_sound_and_targets_alike() {
        let plain = batches(&Augment::default(), false, false).0;
        let mut batch = Batch { dropout: None, ..batches(&Augment::default(), false, false).0.remove(0) };
        mixup(&mut batch, 0.4, &mut ChaCha8Rng::seed_from_u64(2));
        for i in 0..4 {
            let other = (i + 3) % 4;
            let wanted = &plain[0].truth.targets;
            let share = |mixed: f32, own: f32, theirs: f32| (mixed - theirs) / (own - theirs);
            let by_target = share(batch.truth.targets[[i, 0]], wanted[[i, 0]], wanted[[other, 0]]);
            let by_sound = share(batch.mels[[i, 9, 3]], plain[0].mels[[i, 9, 3]], plain[0].mels[[other, 9, 3]]);
            assert!(
                (by_target - by_sound).abs() < 1e-3 && (0.4999..=1.0001).contains(&by_target),
                "{by_target} {by_sound}"
            );
        }
    }

    #[test]
    fn in_pre_training_each_track_is_heard_twice_at_different_places() {
        let (batches, _) = batches(&Augment::default(), false, true);
        let planted = Planted::new(10);
        let middle = |track, window| planted.window(track, window).slice(s![4..123, ..]).to_owned();
        let place = |mel: ArrayView2<f32>| {
            let all = (0..10).flat_map(|track| (0..3).map(move |window| (track, window)));
            all.into_iter().find(|&(track, window)| mel == middle(track, window)).unwrap()
        };
        for batch in [&batches[0], &batches[1]] {
            let tracks = batch.truth.weights.len();
            assert_eq!(batch.mels.len_of(Axis(0)), 2 * tracks);
            assert_eq!(batch.dropout.as_ref().unwrap()[1].nrows(), 2 * tracks);
            for i in 0..tracks {
                let pair = [i, tracks + i].map(|row| place(batch.mels.index_axis(Axis(0), row)));
                assert!(pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1, "{pair:?}");
            }
        }
        // To judge by: the beginning of the first window, the end of the last.
        let judged = &batches[2].mels;
        assert_eq!(judged.index_axis(Axis(0), 0), planted.window(7, 0).slice(s![..119, ..]));
        assert_eq!(judged.index_axis(Axis(0), 5), planted.window(9, 2).slice(s![9.., ..]));
    }

    #[test]
    fn a_stretched_crop_keeps_the_levels_of_its_track() {
        let augment = Augment { stretch: 0.3, ..Augment::default() };
        let (batches, targets) = batches(&augment, true, false);
        let planted = Planted::new(10);
        for (mel, target) in batches[0].mels.outer_iter().zip(batches[0].truth.targets.outer_iter()) {
            let track = targets.outer_iter().position(|t| t == target).unwrap();
            for (band, level) in mel.mean_axis(Axis(0)).unwrap().iter().zip(planted.levels.row(track)) {
                // 119 frames of noise on ±1, a little smoothed: a standard error of 0.06.
                assert!((band - 5.0 - level).abs() < 0.3, "{band} {level}");
            }
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
