//! The discrete cosine transform of type IV, to which the inverse MDCT of AAC and of Vorbis folds.

use std::f64::consts::PI;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

/// The DCT-IV of `n` numbers: `y(j) = scale · Σ x(k) · cos(π/n · (j +
/// ½)(k + ½))`, by a complex FFT of `n/2`.
///
/// With `z(k) = (x(2k) + i·x(n−1−2k)) · t(k)`, `t(k) = exp(−iπ(k + ⅛)/n)` and `Z` its FFT, `Z(j)·t(j)` is
/// `y(2j) − i·y(n−1−2j)`.
pub(super) struct Dct4 {
    fft: Arc<dyn Fft<f32>>,
    /// `t`, multiplied by the scale on the way in, `[n/2]`.
    before: Vec<Complex<f32>>,
    after: Vec<Complex<f32>>,
    z: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Dct4 {
    /// For `n` numbers, a multiple of 4.
    pub fn new(n: usize, scale: f64) -> Dct4 {
        let fft = FftPlanner::new().plan_fft_forward(n / 2);
        let twiddles = |scale: f64| {
            let t = |k: usize| Complex::from_polar(scale, -PI * (k as f64 + 0.125) / n as f64);
            (0..n / 2).map(|k| Complex::new(t(k).re as f32, t(k).im as f32)).collect::<Vec<_>>()
        };
        Dct4 {
            before: twiddles(scale),
            after: twiddles(1.0),
            z: vec![Complex::default(); n / 2],
            scratch: vec![Complex::default(); fft.get_inplace_scratch_len()],
            fft,
        }
    }

    /// `gain` times the transform of `x`; `x` and `y` are `[n]`.
    pub fn run(&mut self, x: &[f32], gain: f32, y: &mut [f32]) {
        let pairs = x.as_chunks::<2>().0;
        for (((z, t), low), high) in self.z.iter_mut().zip(&self.before).zip(pairs).zip(pairs.iter().rev()) {
            let (re, im) = (low[0] * gain, high[1] * gain);
            *z = Complex::new(re * t.re - im * t.im, re * t.im + im * t.re);
        }
        self.fft.process_with_scratch(&mut self.z, &mut self.scratch);
        let half = y.len() / 2;
        let (low, high) = y.split_at_mut(half);
        let (low, high) = (low.as_chunks_mut::<2>().0, high.as_chunks_mut::<2>().0);
        // y(2j) = Re, y(n−1−2j) = −Im: each pair of outputs is one of either from both ends.
        let (first, last) = self.z.split_at(half / 2);
        let (t_first, t_last) = self.after.split_at(half / 2);
        for (((out, z), t), (z2, t2)) in
            low.iter_mut().zip(first).zip(t_first).zip(last.iter().rev().zip(t_last.iter().rev()))
        {
            *out = [z.re * t.re - z.im * t.im, -(z2.re * t2.im + z2.im * t2.re)];
        }
        for (((out, z), t), (z2, t2)) in
            high.iter_mut().zip(last).zip(t_last).zip(first.iter().rev().zip(t_first.iter().rev()))
        {
            *out = [z.re * t.re - z.im * t.im, -(z2.re * t2.im + z2.im * t2.re)];
        }
    }
}

#[test]
fn the_transform_is_the_sum_of_cosines() {
    for n in [16, 64, 128, 512, 1024] {
        let x: Vec<f32> = (0..n).map(|i| (i * i % 17) as f32 / 8.0 - 1.0).collect();
        let mut y = vec![0.0; n];
        Dct4::new(n, 2.0).run(&x, 0.5, &mut y);
        for (j, y) in y.iter().enumerate() {
            let cosine = |k: usize| (PI / n as f64 * (j as f64 + 0.5) * (k as f64 + 0.5)).cos();
            let sum: f64 = (0..n).map(|k| f64::from(x[k]) * cosine(k)).sum();
            assert!((f64::from(*y) - sum).abs() < 1e-4, "{n}, {j}: {y}, {sum}");
        }
    }
}
