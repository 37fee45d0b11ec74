//! Mel-frequency cepstral coefficients, the speech recogniser's summary of a spectrum, from a cached log-mel spectrogram.
//!
//! `[frames, mel_bands]` of `ln(1 + g·P)` go back to the powers `P`, on to decibels, and through a cosine transform of
//! type II, whose first 13 numbers are the coefficients (S. Davis and P. Mermelstein 1980): level, tilt, and ever finer
//! shapes of the spectrum's envelope. With their first and second differences in time they are the 39 numbers of a frame
//! in van den Oord et al. 2013, section 4.1.

use std::f64::consts::PI;

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};

/// Coefficients of a frame.
pub const COEFFICIENTS: usize = 13;
/// Numbers of a frame: the coefficients, their first and their second differences.
pub const DESCRIPTORS: usize = 3 * COEFFICIENTS;

/// The softest power that is told apart from silence, as in librosa: −100 dB.
const FLOOR: f32 = 1e-10;

/// Turns log-mel spectrograms into MFCCs. Holds the transform.
pub struct Mfcc {
    log_gain: f32,
    /// `[mel_bands, COEFFICIENTS]`
    cosines: Array2<f32>,
}

impl Mfcc {
    /// For spectrograms of `mel_bands` bands of `ln(1 + log_gain · power)`.
    pub fn new(mel_bands: usize, log_gain: f32) -> Mfcc {
        let n = mel_bands as f64;
        // Orthonormal, as scipy's `dct(type=2, norm="ortho")`, which librosa uses.
        let cosines = Array2::from_shape_fn((mel_bands, COEFFICIENTS), |(band, k)| {
            let scale = if k == 0 { 1.0 / n } else { 2.0 / n }.sqrt();
            (scale * (PI * k as f64 * (band as f64 + 0.5) / n).cos()) as f32
        });
        Mfcc { log_gain, cosines }
    }

    /// `[frames, mel_bands]` to `[frames, COEFFICIENTS]`, of decibels.
    pub fn compute(&self, log_mel: ArrayView2<f32>) -> Array2<f32> {
        log_mel.mapv(|y| 10.0 * (y.exp_m1() / self.log_gain).max(FLOOR).log10()).dot(&self.cosines)
    }

    /// `[frames, mel_bands]` to `[frames, DESCRIPTORS]`: the coefficients and their differences.
    pub fn descriptors(&self, log_mel: ArrayView2<f32>) -> Array2<f32> {
        with_differences(&self.compute(log_mel))
    }
}

/// Beside the numbers their first differences, `(x[t+1] − x[t−1]) / 2`, and their second, `x[t−1] − 2x[t] + x[t+1]`; at the
/// ends those of the neighbour. Equal to librosa's `feature.delta(width=3)` of either order. Fewer than three frames have
/// none: 0.
fn with_differences(x: &Array2<f32>) -> Array2<f32> {
    let frames = x.nrows();
    let mut differences = [Array2::zeros(x.dim()), Array2::zeros(x.dim())];
    if frames >= 3 {
        let last = frames - 1;
        let (before, here, after) = (x.slice(s![..last - 1, ..]), x.slice(s![1..last, ..]), x.slice(s![2.., ..]));
        let found = [(&after - &before) / 2.0, &before - &here * 2.0 + after];
        for (all, inner) in differences.iter_mut().zip(found) {
            all.slice_mut(s![1..last, ..]).assign(&inner);
            all.row_mut(0).assign(&inner.row(0));
            all.row_mut(last).assign(&inner.row(last - 2));
        }
    }
    let [first, second] = &differences;
    concatenate(Axis(1), &[x.view(), first.view(), second.view()]).expect("all of the same number of frames")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::baseline::pca::tests::golden;

    #[test]
    fn coefficients_and_differences_are_librosa_s() {
        let (log_mel, expected) = (golden("log_mel"), golden("descriptors"));
        let found = Mfcc::new(log_mel.ncols(), 10_000.0).descriptors(log_mel.view());
        assert_eq!(found.dim(), expected.dim());
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            // Coefficients reach hundreds of decibels; 32-bit floats of spectrogram and sum leave 1e-3 of that.
            assert!((a - b).abs() < 2e-3, "{i}: {a} {b}");
        }
    }

    #[test]
    fn silence_and_few_frames_have_finite_numbers() {
        for frames in 0..4 {
            let found = Mfcc::new(128, 10_000.0).descriptors(Array2::zeros((frames, 128)).view());
            assert_eq!(found.dim(), (frames, DESCRIPTORS));
            // Silence is −100 dB in all bands: √128 · −100 in the first coefficient, nothing in the others.
            assert!(found.rows().into_iter().all(|r| (r[0] + 1131.37).abs() < 0.01 && r[1].abs() < 0.01));
        }
    }
}
