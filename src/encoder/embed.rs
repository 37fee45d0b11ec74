//! Songs to vectors, in batches.

use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array2, Array3, ArrayView3, ArrayViewMut1, Axis, concatenate, s};

use super::Model;
use crate::error::{Error, Result};

/// Songs that go through the network together. More gains under 5 % and costs 3 MB of memory each.
pub const BATCH: usize = 16;

impl Model {
    /// The vectors of songs from their spectrograms: `[n, frames, mel_bands]` to `[n, dimensions]`, rows of unit length.
    ///
    /// A song's vector is the same to the last bit whatever songs go with it (on one kind of processor; others add in
    /// another order, which shows in the sixth digit).
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

    /// The vectors of tracks from the spectrograms of their windows, `[frames, mel_bands]` each: the mean of what the
    /// network says of a track's windows, scaled to unit length. `[tracks, dimensions]`.
    ///
    /// # Errors
    /// As [`embed`](Model::embed); `Invalid` for a track without a window.
    pub fn embed_tracks(&self, tracks: &[&[Array2<f32>]]) -> Result<Array2<f32>> {
        let encoder = &self.config.encoder;
        let windows = || tracks.iter().copied().flatten();
        let mut mels = Array3::zeros((windows().count(), encoder.frames, encoder.mel_bands));
        for (mut to, mel) in mels.outer_iter_mut().zip(windows()) {
            if mel.dim() != to.dim() {
                return Err(Error::mismatch("spectrogram and model", format!("{:?}", to.dim()), format!("{:?}", mel.dim())));
            }
            to.assign(mel);
        }
        let said = self.predict(mels.view())?;
        let mut vectors = Array2::zeros((tracks.len(), encoder.dimensions));
        let mut first = 0;
        for (i, (mut vector, track)) in vectors.outer_iter_mut().zip(tracks).enumerate() {
            // Their sum points where their mean does.
            vector.assign(&said.slice(s![first..first + track.len(), ..]).sum_axis(Axis(0)));
            first += track.len();
            if !normalise(vector) {
                return Err(Error::invalid(format!("the prediction for track {i}"), "a direction", "no finite length"));
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
        let device = Device::flex();
        let mut rows = Vec::new();
        for batch in mels.axis_chunks_iter(Axis(0), BATCH) {
            let numbers: Vec<f32> = batch.iter().copied().collect();
            let x = Tensor::<3>::from_data(TensorData::new(numbers, [batch.len_of(Axis(0)), frames, bands]), &device);
            rows.push(self.answers(x)?);
        }
        match rows.is_empty() {
            true => Ok(Array2::zeros((0, encoder.dimensions))),
            false => concatenate(Axis(0), &rows.iter().map(|r| r.view()).collect::<Vec<_>>())
                .map_err(|e| Error::mismatch("batches of predictions", "equal widths", e)),
        }
    }

    /// One batch, `[b, frames, mel_bands]` to `[b, dimensions]`.
    fn answers(&self, mels: Tensor<3>) -> Result<Array2<f32>> {
        let songs = mels.dims()[0];
        let heard = self.network.listen(mels);
        // A product with a single row takes another path, which adds in another order: a song alone would get other
        // last bits than the same song in a batch. So it goes in twice, which costs nothing beside reading the weights.
        let heard = if songs == 1 { Tensor::cat(vec![heard.clone(), heard], 0) } else { heard };
        let answers = self.network.answer(heard, None).slice(0..songs);
        let [_, dimensions] = answers.dims();
        let numbers = answers.into_data().try_into_vec_as::<f32>();
        let numbers = numbers.map_err(|e| Error::invalid("the network's answer", "32-bit floats", format!("{e:?}")))?;
        Array2::from_shape_vec((songs, dimensions), numbers)
            .map_err(|e| Error::mismatch("the network's answer", format!("[{songs}, {dimensions}]"), e))
    }
}

fn first_not_finite(mels: ArrayView3<f32>) -> Option<(usize, f32)> {
    let songs = mels.outer_iter().enumerate();
    songs.flat_map(|(i, mel)| mel.iter().find(|x| !x.is_finite()).map(|&x| (i, x))).next()
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
        let vectors = model.embed_tracks(&[&windows[..1], &windows[1..]]).unwrap();
        let alone = model.embed(songs.slice(s![..1, .., ..])).unwrap();
        assert_eq!(vectors.row(0), alone.row(0));
        let mean = said.slice(s![1.., ..]).mean_axis(Axis(0)).unwrap();
        let length = mean.dot(&mean).sqrt();
        vectors.row(1).iter().zip(&mean).for_each(|(v, m)| assert!((v - m / length).abs() < 1e-6));
        assert!(matches!(model.embed_tracks(&[&windows[..0]]), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_song_s_vector_does_not_depend_on_its_company() {
        let model = model::tests::of(&EncoderConfig::default());
        let songs = Array3::from_shape_fn((5, 599, 128), |(n, t, m)| ((t * (n + 3) + m * 7) % 31) as f32 * 0.3);
        let together = model.predict(songs.view()).unwrap();
        for size in [1, 2, 3] {
            for start in 0..=5 - size {
                let some = model.predict(songs.slice(s![start..start + size, .., ..])).unwrap();
                assert_eq!(some, together.slice(s![start..start + size, ..]), "{size} from {start}");
            }
        }
    }
}
