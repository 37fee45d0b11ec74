//! Songs to vectors, in batches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::{Device as BurnDevice, Tensor, TensorData};
use ndarray::{Array2, Array3, ArrayView3, ArrayViewMut1, Axis, concatenate, s};

use super::{AudioEncoder, Device, EncoderConfig, Model, Weights, infer};
use crate::error::{Error, Result};

/// Windows that go through the network together, at most: 20 MB of spectrograms, and 64 rows for the smallest layers.
/// Who gathers batches gathers as many, counted in windows, since a track may have a hundred.
pub const BATCH: usize = 64;

/// Below this cosine a device's vector is not the processor's.
const AGREEMENT: f32 = 0.9999;

/// Of two matrices, each taken as one vector.
fn cosine(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let dot = |a: &Array2<f32>, b: &Array2<f32>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// What runs a model's network.
#[derive(Debug)]
pub(super) enum Engine {
    /// Our own loops, on the threads of rayon's pool.
    Cpu(infer::Network),
    /// The network's definition on one of burn's devices.
    Burn(Box<AudioEncoder>, BurnDevice),
}

impl Engine {
    /// # Errors
    /// `Invalid` where the device is not there.
    pub(super) fn new(device: Device, config: &EncoderConfig, weights: &Weights) -> Result<Engine> {
        match device {
            Device::Cpu => Ok(Engine::Cpu(infer::Network::new(config, weights))),
            _ => {
                let there = device.of_burn()?;
                // Where a driver lacks something burn panics, and some driver multiplies matrices wrongly without a word;
                // better now, on noise, than after hours of decoding.
                // As many as go through it together: kernels are chosen for each shape.
                let noise = Array3::from_shape_fn((BATCH, config.frames, config.mel_bands), |(n, t, m)| {
                    ((t * (n % 3 + 7) + m * 3 + t * m) % 31) as f32 * 0.3
                });
                let expected = infer::Network::new(config, weights).predict(noise.view());
                let (engine, found) = catch_unwind(AssertUnwindSafe(|| {
                    let engine = Engine::burn(there, config, weights);
                    engine.predict(noise.view(), config.dimensions).map(|found| (engine, found))
                }))
                .unwrap_or_else(|_| Err(Error::invalid("device", "one that can run the network", device)))?;
                let cosine = cosine(&expected, &found);
                // NaN is far, too.
                if cosine.is_nan() || cosine < AGREEMENT {
                    let found = format!("{device}, whose answer has a cosine of {cosine:.4} with the processor's");
                    return Err(Error::invalid("device", "one that computes the network rightly", found));
                }
                Ok(engine)
            }
        }
    }

    fn burn(device: BurnDevice, config: &EncoderConfig, weights: &Weights) -> Engine {
        Engine::Burn(Box::new(AudioEncoder::new(config, weights, &device)), device)
    }

    /// From spectrograms `[n, frames, mel_bands]`, of the network's shape, to factors `[n, dimensions]`.
    fn predict(&self, mels: ArrayView3<f32>, dimensions: usize) -> Result<Array2<f32>> {
        match self {
            Engine::Cpu(network) => Ok(network.predict(mels)),
            Engine::Burn(network, device) => {
                let mut rows = vec![Array2::zeros((0, dimensions))];
                for batch in mels.axis_chunks_iter(Axis(0), BATCH) {
                    rows.push(answers(network, batch, device)?);
                }
                concatenate(Axis(0), &rows.iter().map(|r| r.view()).collect::<Vec<_>>())
                    .map_err(|e| Error::mismatch("batches of predictions", "equal widths", e))
            }
        }
    }
}

/// One batch on a device of burn's, `[b, frames, mel_bands]` to `[b, dimensions]`.
fn answers(network: &AudioEncoder, mels: ArrayView3<f32>, device: &BurnDevice) -> Result<Array2<f32>> {
    let (songs, frames, bands) = mels.dim();
    // A GPU's kernels are compiled and tuned for each shape they meet; silence fills up to one of a few.
    let rows = songs.next_power_of_two();
    let mut numbers: Vec<f32> = mels.iter().copied().collect();
    numbers.resize(rows * frames * bands, 0.0);
    let x = Tensor::<3>::from_data(TensorData::new(numbers, [rows, frames, bands]), device);
    let answers = network.forward(x, None);
    let dimensions = answers.dims()[1];
    let numbers = answers.into_data().try_into_vec_as::<f32>();
    let mut numbers = numbers.map_err(|e| Error::invalid("the network's answer", "32-bit floats", format!("{e:?}")))?;
    numbers.truncate(songs * dimensions);
    Array2::from_shape_vec((songs, dimensions), numbers)
        .map_err(|e| Error::mismatch("the network's answer", format!("[{songs}, {dimensions}]"), e))
}

impl Model {
    /// The vectors of songs from their spectrograms: `[n, frames, mel_bands]` to `[n, dimensions]`, rows of unit length.
    ///
    /// On the CPU a song's vector is the same to the last bit whatever songs go with it and on however many threads
    /// (on one kind of processor; others add in another order, which shows in the sixth digit).
    ///
    /// # Errors
    /// `Mismatch` for another shape; `Invalid` where a spectrogram holds a number that is not finite.
    pub fn embed(&self, mels: ArrayView3<f32>) -> Result<Array2<f32>> {
        let mut vectors = self.predict(mels)?;
        for (i, row) in vectors.outer_iter_mut().enumerate() {
            if !normalise(row) {
                return Err(Error::invalid(format!("the prediction for song {i}"), "a direction", "no finite length"));
            }
        }
        Ok(vectors)
    }

    /// The vectors of tracks `[tracks, dimensions]`: what [`hear_tracks`](Model::hear_tracks) gives, scaled to unit length.
    ///
    /// # Errors
    /// As there.
    pub fn embed_tracks(&self, tracks: &[(&Path, &[Array2<f32>])]) -> Result<Array2<f32>> {
        let mut vectors = self.hear_tracks(tracks)?;
        // Each has a length, as is said there.
        for vector in vectors.outer_iter_mut() {
            normalise(vector);
        }
        Ok(vectors)
    }

    /// What the network says of tracks, from the spectrograms of their windows, `[frames, mel_bands]` each: the mean over
    /// a track's windows. `[tracks, dimensions]`. Besides what it is given it holds [`BATCH`] windows, however many
    /// there are.
    ///
    /// # Errors
    /// `Mismatch` or `Invalid`, naming the path: a spectrogram of another shape, or with a number that is not finite; a
    /// track without a window, or of which the network says nothing.
    pub fn hear_tracks(&self, tracks: &[(&Path, &[Array2<f32>])]) -> Result<Array2<f32>> {
        let EncoderConfig { frames, mel_bands, dimensions, .. } = self.config.encoder;
        let windows: Vec<(usize, &Array2<f32>)> =
            tracks.iter().enumerate().flat_map(|(track, (_, mels))| mels.iter().map(move |mel| (track, mel))).collect();
        let path = |track: usize| tracks[track].0.display();
        let mut mels = Array3::zeros((windows.len().min(BATCH), frames, mel_bands));
        let mut vectors = Array2::zeros((tracks.len(), dimensions));
        for block in windows.chunks(BATCH) {
            for (mut to, &(track, mel)) in mels.outer_iter_mut().zip(block) {
                if mel.dim() != to.dim() {
                    let what = format!("the spectrogram of {} and the model", path(track));
                    return Err(Error::mismatch(what, format!("{:?}", to.dim()), format!("{:?}", mel.dim())));
                }
                to.assign(mel);
            }
            let mels = mels.slice(s![..block.len(), .., ..]);
            if let Some((i, x)) = first_not_finite(mels) {
                return Err(Error::invalid(format!("the spectrogram of {}", path(block[i].0)), "finite numbers", x));
            }
            let said = self.engine.predict(mels, dimensions)?;
            for (&(track, _), said) in block.iter().zip(said.outer_iter()) {
                let mut vector = vectors.row_mut(track);
                vector += &said;
            }
        }
        for (track, mut vector) in vectors.outer_iter_mut().enumerate() {
            vector /= tracks[track].1.len().max(1) as f32;
            let length = vector.dot(&vector);
            if !(length.is_finite() && length > 0.0) {
                let what = format!("the prediction for {}", path(track));
                return Err(Error::invalid(what, "a direction", "no finite length"));
            }
        }
        Ok(vectors)
    }

    /// What the network says, before it is scaled to unit length: `[n, frames, mel_bands]` to `[n, dimensions]`. A
    /// short row is an unsure one: under a squared loss the network hedges by pulling its answer towards 0.
    ///
    /// # Errors
    /// As [`embed`](Model::embed).
    pub fn predict(&self, mels: ArrayView3<f32>) -> Result<Array2<f32>> {
        let encoder = &self.config.encoder;
        let (n, frames, bands) = mels.dim();
        if (frames, bands) != (encoder.frames, encoder.mel_bands) {
            let expected = format!("[n, {}, {}]", encoder.frames, encoder.mel_bands);
            return Err(Error::mismatch("spectrograms and model", expected, format!("[{n}, {frames}, {bands}]")));
        }
        if let Some((song, x)) = first_not_finite(mels) {
            return Err(Error::invalid(format!("the spectrogram of song {song}"), "finite numbers", x));
        }
        self.engine.predict(mels, encoder.dimensions)
    }
}

fn first_not_finite(mels: ArrayView3<f32>) -> Option<(usize, f32)> {
    // Row by row without a branch per number, since this reads everything that the network does.
    let sane = |row: &[f32]| row.iter().fold(true, |sane, x| sane & x.is_finite());
    mels.outer_iter().enumerate().find_map(|(i, mel)| {
        let doubtful = mel.outer_iter().filter(|row| !row.as_slice().is_some_and(sane)).collect::<Vec<_>>();
        doubtful.iter().flatten().find(|x| !x.is_finite()).map(|&x| (i, x))
    })
}

/// Scales a vector to unit length, or says `false` and leaves it where it has none (0, infinite, not a number).
pub fn normalise(mut vector: ArrayViewMut1<f32>) -> bool {
    // In f64, so that 1e-30 and 1e30 have a length too.
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let sane = length.is_finite() && length > 0.0;
    if sane {
        vector.mapv_inplace(|x| (f64::from(x) / length) as f32);
    }
    sane
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tests::tiny;
    use crate::encoder::{EncoderConfig, model};
    use ndarray::array;

    #[test]
    fn normalising_keeps_directions_and_refuses_what_has_none() {
        for scale in [1e-30, 1.0, 1e30] {
            let mut v = array![3.0 * scale, 0.0, -4.0 * scale];
            assert!(normalise(v.view_mut()));
            assert!((v[0] - 0.6).abs() < 1e-6 && (v[2] + 0.8).abs() < 1e-6);
        }
        for bad in [array![0.0, 0.0], array![f32::NAN, 1.0], array![f32::INFINITY, 1.0]] {
            assert!(!normalise(bad.clone().view_mut()));
        }
    }

    #[test]
    fn a_track_s_windows_are_averaged_before_they_are_scaled() {
        let model = model::tests::of(&tiny());
        let songs = Array3::from_shape_fn((4, tiny().frames, tiny().mel_bands), |(n, t, m)| {
            ((t * (n + 3) + m * 7) % 31) as f32 * 0.3
        });
        let windows: Vec<Array2<f32>> = songs.outer_iter().map(|mel| mel.to_owned()).collect();
        let said = model.predict(songs.view()).unwrap();
        let (a, b) = (Path::new("a.mp3"), Path::new("b.mp3"));
        let vectors = model.embed_tracks(&[(a, &windows[..1]), (b, &windows[1..])]).unwrap();
        let alone = model.embed(songs.slice(s![..1, .., ..])).unwrap();
        assert_eq!(vectors.row(0), alone.row(0));
        let mean = said.slice(s![1.., ..]).mean_axis(Axis(0)).unwrap();
        let length = mean.dot(&mean).sqrt();
        vectors.row(1).iter().zip(&mean).for_each(|(v, m)| assert!((v - m / length).abs() < 1e-6));
        let refused = model.embed_tracks(&[(a, &windows[..1]), (b, &windows[..0])]).unwrap_err().to_string();
        assert!(refused.contains("b.mp3"), "{refused}");
    }

    #[test]
    fn windows_that_fill_several_batches_are_those_of_their_tracks() {
        let model = model::tests::of(&tiny());
        // Tracks of 40 windows each: the second lies in two batches.
        let windows: Vec<Array2<f32>> = (0..120)
            .map(|n| {
                Array2::from_shape_fn((tiny().frames, tiny().mel_bands), |(t, m)| {
                    ((t * (n % 13 + 3) + m * 7) % 31) as f32 * 0.3
                })
            })
            .collect();
        let path = Path::new("a.mp3");
        let tracks: Vec<(&Path, &[Array2<f32>])> = windows.chunks(40).map(|mels| (path, mels)).collect();
        let together = model.embed_tracks(&tracks).unwrap();
        for (i, track) in tracks.iter().enumerate() {
            assert_eq!(model.embed_tracks(&[*track]).unwrap().row(0), together.row(i));
        }
        let mut bad = windows[..3].to_vec();
        bad[2][[7, 1]] = f32::NAN;
        let refused = model.embed_tracks(&[(Path::new("good"), &windows[..64]), (path, &bad)]).unwrap_err();
        assert!(refused.to_string().contains("a.mp3"), "{refused}");
    }

    #[test]
    fn a_song_s_vector_depends_neither_on_its_company_nor_on_the_threads() {
        let model = model::tests::of(&EncoderConfig::default());
        let songs = Array3::from_shape_fn((5, 599, 128), |(n, t, m)| ((t * (n + 3) + m * 7) % 31) as f32 * 0.3);
        let together = model.predict(songs.view()).unwrap();
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for size in [1, 2, 3, 5] {
                for start in 0..=5 - size {
                    let some = songs.slice(s![start..start + size, .., ..]);
                    let vectors = pool.install(|| model.predict(some)).unwrap();
                    assert_eq!(vectors, together.slice(s![start..start + size, ..]), "{size} from {start}, {threads}");
                }
            }
        }
    }

    #[test]
    fn a_device_of_burn_s_says_the_same() {
        let model = model::tests::of(&tiny());
        let songs = Array3::from_shape_fn((BATCH + 3, 119, 8), |(n, t, m)| ((t * (n + 3) + m * 7) % 31) as f32 * 0.3);
        let ours = model.predict(songs.view()).unwrap();
        let mut weights = Weights::random(&tiny(), 1);
        weights.mean.fill(3.0);
        weights.layers.iter_mut().for_each(|l| l.bias.fill(0.125));
        let engine = Engine::burn(BurnDevice::flex(), &tiny(), &weights);
        // The model's weights are rounded to 16 bits, these are not.
        assert_close(&engine.predict(songs.view(), 5).unwrap(), &ours, 1e-2);
        assert_eq!(engine.predict(songs.slice(s![..0, .., ..]), 5).unwrap().dim(), (0, 5));
    }

    /// Only with a GPU's feature, and only where there is such a device; a machine without one says so.
    #[test]
    fn a_gpu_says_the_same() {
        for device in Device::ALL {
            let model = model::tests::of(&EncoderConfig::default());
            let songs = Array3::from_shape_fn((3, 599, 128), |(n, t, m)| ((t * (n + 3) + m * 7) % 31) as f32 * 0.3);
            let ours = model.embed(songs.view()).unwrap();
            match model.on(device) {
                Ok(there) => assert_close(&there.embed(songs.view()).unwrap(), &ours, 1e-4),
                // Not built in, or not there; a device that is there and answers wrongly fails.
                Err(e) => assert!(device.of_burn().is_err() && device != Device::Cpu, "{e}"),
            }
        }
    }

    fn assert_close(a: &Array2<f32>, b: &Array2<f32>, tolerance: f32) {
        let worst = (a - b).iter().fold(0.0, |worst: f32, x| worst.max(x.abs()));
        assert!(a.dim() == b.dim() && worst <= tolerance, "{worst}");
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_in_any_layout() {
        let mut mels = Array3::zeros((3, 4, 5));
        assert_eq!(first_not_finite(mels.view()), None);
        assert_eq!(first_not_finite(mels.view().reversed_axes()), None);
        mels[[2, 1, 3]] = f32::NEG_INFINITY;
        assert_eq!(first_not_finite(mels.view()), Some((2, f32::NEG_INFINITY)));
        assert_eq!(first_not_finite(mels.view().reversed_axes()), Some((3, f32::NEG_INFINITY)));
    }
}
