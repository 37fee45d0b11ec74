//! The log-mel spectrogram: equal to librosa's `melspectrogram(center=False, htk=False, norm='slaney', power=2)`, then
//! `ln(1 + gain · power)`.

use std::f64::consts::TAU;
use std::sync::Arc;

use ndarray::Array2;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::FrontEnd;

/// Turns samples into mel bands. Holds the plan, the window and the filters, and its scratch space; one per thread.
pub struct LogMel {
    hop: usize,
    log_gain: f32,
    /// Periodic Hann, `[window_length]`.
    window: Vec<f64>,
    /// In double precision: in single, the rounding of the loud bins is 4e-4 of the softest bands.
    fft: Arc<dyn RealToComplex<f64>>,
    filters: Vec<Filter>,
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f32>,
}

/// One mel band: the weights of the bins `first..first + weights.len()`, all others being zero.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    pub fn new(front_end: &FrontEnd) -> LogMel {
        let n = front_end.window_length;
        let fft = RealFftPlanner::new().plan_fft_forward(n);
        LogMel {
            hop: front_end.hop_length,
            log_gain: front_end.log_gain,
            window: (0..n).map(|i| 0.5 - 0.5 * (TAU * i as f64 / n as f64).cos()).collect(),
            filters: filters(front_end),
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; n / 2 + 1],
            fft,
        }
    }

    /// Samples (mono, at the front end's rate) to `[(n − window) / hop + 1, mel_bands]`, natural logarithms; no frames
    /// where there are fewer samples than the window is long.
    pub fn compute(&mut self, samples: &[f32]) -> Array2<f32> {
        let mut mel = self.power(samples);
        let gain = self.log_gain;
        mel.mapv_inplace(|power| (1.0 + gain * power).ln());
        mel
    }

    /// The mel power before the logarithm, of the same shape.
    pub fn power(&mut self, samples: &[f32]) -> Array2<f32> {
        let n = self.window.len();
        let frames = if samples.len() < n { 0 } else { (samples.len() - n) / self.hop + 1 };
        let mut mel = Array2::zeros((frames, self.filters.len()));
        for (t, mut row) in mel.outer_iter_mut().enumerate() {
            let at = &samples[t * self.hop..t * self.hop + n];
            for ((x, s), w) in self.frame.iter_mut().zip(at).zip(&self.window) {
                *x = f64::from(*s) * w;
            }
            self.fft
                .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)
                .expect("buffers of the lengths that the plan asked for");
            for (p, z) in self.power.iter_mut().zip(&self.spectrum) {
                *p = z.norm_sqr() as f32;
            }
            for (band, filter) in row.iter_mut().zip(&self.filters) {
                *band = dot(&filter.weights, &self.power[filter.first..]);
            }
        }
        mel
    }
}

/// Eight partial sums, so that the compiler may use its vectors; `b` may be longer.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Triangles between neighbouring points that are evenly spaced in mel, each of area one (Slaney's normalisation).
fn filters(front_end: &FrontEnd) -> Vec<Filter> {
    let bands = front_end.mel_bands;
    let (low, high) = (mel(f64::from(front_end.f_min)), mel(f64::from(front_end.f_max)));
    let points: Vec<f64> = (0..bands + 2).map(|i| hertz(low + (high - low) * i as f64 / (bands + 1) as f64)).collect();
    let bin_hz = f64::from(front_end.sample_rate) / front_end.window_length as f64;
    let bins = front_end.window_length / 2 + 1;
    points
        .windows(3)
        .map(|p| {
            let area = 2.0 / (p[2] - p[0]);
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let (rise, fall) = ((hz - p[0]) / (p[1] - p[0]), (p[2] - hz) / (p[2] - p[1]));
                (rise.min(fall).max(0.0) * area) as f32
            };
            let first = ((p[0] / bin_hz).floor() as usize).min(bins);
            let end = ((p[2] / bin_hz).ceil() as usize + 1).clamp(first, bins);
            Filter { first, weights: (first..end).map(weight).collect() }
        })
        .collect()
}

/// Slaney's mel scale (Auditory Toolbox): linear up to 1 kHz, then 27 steps to a factor of 6.4.
fn mel(hz: f64) -> f64 {
    if hz < 1000.0 { hz * 3.0 / 200.0 } else { 15.0 + (hz / 1000.0).ln() / (6.4f64.ln() / 27.0) }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * ((mel - 15.0) * (6.4f64.ln() / 27.0)).exp() }
}

#[test]
fn the_mel_scale_returns_and_is_linear_below_1_khz() {
    for hz in [0.0, 440.0, 999.0, 1000.0, 1001.0, 6400.0, 11025.0] {
        assert!((hertz(mel(hz)) - hz).abs() < 1e-9 * hz.max(1.0));
    }
    assert_eq!(mel(500.0), 7.5);
    assert!((mel(6400.0) - 42.0).abs() < 1e-12);
}
