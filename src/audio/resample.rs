//! From any sample rate to the front end's, without aliasing.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

/// Frames per block at the source rate. Long enough that the transition band is narrow (−1 dB at 10.8 kHz from 44.1
/// kHz) and the alias below −150 dB; ffmpeg's default resampler aliases at −15 dB just above 11 kHz.
const BLOCK: usize = 4096;

/// Resamples one channel by the exact ratio `to : from`. The delay of the filter is taken out: output sample `k` lies
/// at time `k / to` of the input.
pub struct Resampler {
    /// The ratio in lowest terms: `p` samples come out for `q` that go in.
    p: usize,
    q: usize,
    /// `None` where the rates are equal.
    fft: Option<Fft<f32>>,
}

impl Resampler {
    /// Rates in Hz, neither zero.
    pub fn new(from: u32, to: u32) -> Resampler {
        let divisor = gcd(from, to) as usize;
        let (p, q) = (to as usize / divisor, from as usize / divisor);
        let fft = (p != q).then(|| {
            let (from, to) = (from as usize, to as usize);
            // A block is a multiple of the ratio; an even one, so that the delay, half a block, is a whole sample.
            let block = q * BLOCK.div_ceil(q).next_multiple_of(2);
            Fft::new_custom(from, to, block, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
                .expect("the rates and the block are not zero, and nothing else is refused")
        });
        Resampler { p, q, fft }
    }

    /// `(p, q)`: the output at sample `k·p` is exactly the input at sample `k·q`.
    pub fn ratio(&self) -> (usize, usize) {
        (self.p, self.q)
    }

    /// How many input samples on either side an output sample depends on.
    pub fn reach(&self) -> usize {
        self.fft.as_ref().map_or(0, |fft| fft.fft_size_in().div_ceil(2))
    }

    /// Resamples a whole clip; before and after it is silence. `n` samples give `⌈n·p/q⌉`.
    pub fn process(&mut self, input: &[f32]) -> Vec<f32> {
        let Some(fft) = &mut self.fft else { return input.to_vec() };
        fft.reset();
        let mut output = vec![0.0; fft.process_all_needed_output_len(input.len())];
        let room = output.len();
        let source = SequentialSlice::new(input, 1, input.len()).expect("one channel of this length");
        let mut target = SequentialSlice::new_mut(&mut output, 1, room).expect("one channel of this length");
        fft.process_all_into_buffer(&source, &mut target, input.len(), None).expect("the room it asked for");
        output.truncate((input.len() * self.p).div_ceil(self.q));
        output
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    const RATES: [u32; 14] =
        [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 44099, 48000, 88200, 96000, 176400, 192000];

    fn sine(rate: u32, hz: f64, seconds: f64) -> Vec<f32> {
        (0..(seconds * f64::from(rate)) as usize)
            .map(|i| (TAU * hz * i as f64 / f64::from(rate)).sin() as f32)
            .collect()
    }

    /// Amplitude of the part at `hz`, and the root mean square of all the rest, of the middle of `x` at 22,050 Hz.
    fn tone(x: &[f32], hz: f64) -> (f64, f64) {
        let middle = &x[x.len() / 4..x.len() * 3 / 4];
        let n = middle.len() as f64;
        let (mut c, mut s, mut cc, mut ss, mut cs) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let wave = |i: usize| (TAU * hz * (i + x.len() / 4) as f64 / 22050.0).sin_cos();
        for (i, &v) in middle.iter().enumerate() {
            let (sin, cos) = wave(i);
            (c, s) = (c + f64::from(v) * cos, s + f64::from(v) * sin);
            (cc, ss, cs) = (cc + cos * cos, ss + sin * sin, cs + cos * sin);
        }
        // Least squares of a·sin + b·cos.
        let det = ss * cc - cs * cs;
        let (a, b) = ((s * cc - c * cs) / det, (c * ss - s * cs) / det);
        let rest: f64 = middle
            .iter()
            .enumerate()
            .map(|(i, &v)| {
                let (sin, cos) = wave(i);
                (f64::from(v) - a * sin - b * cos).powi(2)
            })
            .sum();
        (a.hypot(b), (rest / n).sqrt())
    }

    #[test]
    fn a_sine_stays_a_sine_of_its_amplitude_and_phase() {
        for rate in RATES {
            let y = Resampler::new(rate, 22050).process(&sine(rate, 997.0, 2.0));
            assert_eq!(y.len(), 44100, "{rate} Hz");
            let (amplitude, rest) = tone(&y, 997.0);
            assert!((amplitude - 1.0).abs() < 1e-4 && rest < 1e-5, "{rate} Hz: amplitude {amplitude}, rest {rest}");
            // The same phase: compared with the sine computed at the new rate.
            let ideal = sine(22050, 997.0, 2.0);
            let worst = (11025..33075).map(|i| (y[i] - ideal[i]).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-4, "{rate} Hz: differs from the sine by {worst}");
        }
    }

    #[test]
    fn a_tone_above_the_new_nyquist_frequency_vanishes() {
        for rate in RATES.into_iter().filter(|&r| r > 2 * 12000) {
            for hz in [11_500.0, 12_050.0, f64::from(rate) * 0.45] {
                let y = Resampler::new(rate, 22050).process(&sine(rate, hz, 2.0));
                let middle = &y[11025..33075];
                let power: f64 = middle.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / middle.len() as f64;
                let decibel = 10.0 * (power / 0.5).log10();
                assert!(decibel < -100.0, "{hz} Hz at {rate} Hz leaves {decibel:.0} dB");
            }
        }
    }

    #[test]
    fn an_impulse_stays_where_it_was() {
        for rate in RATES {
            let mut resampler = Resampler::new(rate, 22050);
            let (p, q) = resampler.ratio();
            let blocks = 20_000 / q + 1;
            let mut x = vec![0.0; 2 * blocks * q];
            x[blocks * q] = 1.0;
            let y = resampler.process(&x);
            let peak = (0..y.len()).max_by(|&a, &b| y[a].abs().total_cmp(&y[b].abs())).unwrap();
            assert_eq!(peak, blocks * p, "{rate} Hz");
            // The filter is symmetric, so its delay is whole and nothing leans to one side.
            let skew = (1..200).map(|i| (y[peak + i] - y[peak - i]).abs()).fold(0.0, f32::max);
            assert!(skew < 1e-5, "{rate} Hz: {skew}");
        }
    }

    #[test]
    fn a_part_with_its_reach_on_both_sides_equals_the_part_of_the_whole() {
        for rate in RATES {
            let mut resampler = Resampler::new(rate, 22050);
            let (p, q) = resampler.ratio();
            let mut state = 1u32;
            let noise: Vec<f32> = (0..rate as usize * 5)
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    state as f32 / 2f32.powi(31) - 1.0
                })
                .collect();
            let whole = resampler.process(&noise);
            let first = 20_000 / q + 1;
            let from = first * q;
            let to = from + 2 * rate as usize;
            let skip = resampler.reach().div_ceil(q) * p;
            let part = resampler.process(&noise[from..to]);
            let worst = (skip..part.len() - skip).map(|i| (part[i] - whole[first * p + i]).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{rate} Hz: the part differs from the whole by {worst}");
        }
    }
}
