//! From any sample rate to the front end's, without aliasing.
//!
//! ```text
//! two blocks ──► one complex FFT ──► × filter, cut to the new rate ──► inverse FFT ──► two blocks at the new rate
//! ```
//!
//! Overlap-save (Oppenheim & Schafer, "Discrete-Time Signal Processing", section 8.7.3): a block of `N` input samples of
//! which `2·reach` only feed the filter; the inverse transform has `N·p/q` bins instead of `N`, which is the change of
//! rate. As the filter is real, two blocks go through as one complex signal. A third of the time of the general
//! resampler that it replaces, at the same pass band.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::sync::{Arc, LazyLock, Mutex};

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

/// Half the filter's length, in samples at the lower rate: long enough that its transition is 184 Hz wide (from 44.1
/// kHz: flat to 10,840 Hz, −100 dB from 11,025 Hz on). ffmpeg's default resampler aliases at −15 dB just above 11 kHz.
const REACH: usize = 384;
/// Attenuation of what would alias, in dB.
const ATTENUATION: f64 = 100.0;
/// A block is at least so many reaches long: a fifth of the work, or less, is overlap.
const BLOCK: usize = 10;
/// Plans are kept for ratios of terms up to this; all usual rates are. A damaged header may claim any rate.
const MAX_KEPT: usize = 1000;

/// Resamples one channel by the exact ratio `to : from`. The delay of the filter is taken out: output sample `k` lies
/// at time `k / to` of the input.
pub struct Resampler {
    /// The ratio in lowest terms: `p` samples come out for `q` that go in.
    p: usize,
    q: usize,
    /// `None` where the rates are equal.
    plan: Option<Arc<Plan>>,
}

/// What depends on the ratio alone.
struct Plan {
    /// Samples on either side that the filter reaches.
    reach: usize,
    /// New samples in a block, in and out.
    hop: (usize, usize),
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    /// The filter's response at bins 0, 1, 2 .. of the shorter transform, up to and with its middle; real, as the
    /// filter is symmetric around its block's first sample. Scaled for the unnormalised transforms.
    response: Vec<f32>,
}

/// By the ratio in lowest terms.
type Plans = HashMap<(usize, usize), Arc<Plan>>;

static PLANS: LazyLock<Mutex<Plans>> = LazyLock::new(Mutex::default);

impl Plan {
    fn of(p: usize, q: usize) -> Arc<Plan> {
        if p.max(q) > MAX_KEPT {
            return Arc::new(Plan::new(p, q));
        }
        // Nothing that could panic runs while it is locked but the planning, which leaves the table whole.
        let mut plans = PLANS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        plans.entry((p, q)).or_insert_with(|| Arc::new(Plan::new(p, q))).clone()
    }

    fn new(p: usize, q: usize) -> Plan {
        // In input samples.
        let reach = (REACH * q.max(p)).div_ceil(p);
        // At least one step of the ratio must be new in each block.
        let blocks = (BLOCK * reach).div_ceil(q).max((2 * reach).div_ceil(q) + 1).next_power_of_two();
        let (n, m) = (q * blocks, p * blocks);
        let hop = (n - 2 * reach) / q;
        let mut planner = FftPlanner::new();
        let (forward, inverse) = (planner.plan_fft_forward(n), planner.plan_fft_inverse(m));
        // Kaiser's window design (Oppenheim & Schafer, section 7.5.3): the stop band begins at the lower of the two
        // Nyquist frequencies, so that nothing is cut off where the bins end.
        let beta = 0.1102 * (ATTENUATION - 8.7);
        let transition = (ATTENUATION - 7.95) / (2.285 * 2.0 * reach as f64);
        let cutoff = PI * (p.min(q) as f64 / q as f64) - transition / 2.0;
        let mut h = vec![Complex::new(0.0f32, 0.0); n];
        for i in 0..=reach {
            let t = i as f64;
            let sinc = if i == 0 { cutoff / PI } else { (cutoff * t).sin() / (PI * t) };
            let window = bessel_i0(beta * (1.0 - (t / reach as f64).powi(2)).sqrt()) / bessel_i0(beta);
            let tap = Complex::new((sinc * window) as f32, 0.0);
            h[i] = tap;
            h[(n - i) % n] = tap;
        }
        forward.process(&mut h);
        let response = h[..=n.min(m) / 2].iter().map(|z| z.re / n as f32).collect();
        Plan { reach, hop: (hop * q, hop * p), forward, inverse, response }
    }
}

/// The modified Bessel function of the first kind of order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0;
    for k in 1..200 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
        if term < 1e-17 * sum {
            break;
        }
    }
    sum
}

#[test]
fn bessel_i0_has_its_tabulated_values() {
    // Abramowitz & Stegun, table 9.8.
    for (x, value) in [(0.0, 1.0), (1.0, 1.266_065_877_752), (10.0, 2_815.716_628_466)] {
        assert!((bessel_i0(x) / value - 1.0).abs() < 1e-12, "{x}");
    }
}

impl Resampler {
    /// Rates in Hz, neither zero.
    pub fn new(from: u32, to: u32) -> Resampler {
        let divisor = gcd(from, to) as usize;
        let (p, q) = (to as usize / divisor, from as usize / divisor);
        Resampler { p, q, plan: (p != q).then(|| Plan::of(p, q)) }
    }

    /// `(p, q)`: the output at sample `k·p` is exactly the input at sample `k·q`.
    pub fn ratio(&self) -> (usize, usize) {
        (self.p, self.q)
    }

    /// How many input samples on either side an output sample depends on.
    pub fn reach(&self) -> usize {
        self.plan.as_ref().map_or(0, |plan| plan.reach)
    }

    /// Resamples a whole clip; before and after it is silence. `n` samples give `⌈n·p/q⌉`.
    pub fn process(&self, input: &[f32]) -> Vec<f32> {
        let Some(plan) = &self.plan else { return input.to_vec() };
        let (n, m) = (plan.forward.len(), plan.inverse.len());
        let zero = Complex::new(0.0f32, 0.0);
        let (mut block, mut bins) = (vec![zero; n], vec![zero; m]);
        let scratch = plan.forward.get_inplace_scratch_len().max(plan.inverse.get_inplace_scratch_len());
        let mut scratch = vec![zero; scratch];
        let mut output = vec![0.0; (input.len() * self.p).div_ceil(self.q)];
        for (i, out) in output.chunks_mut(2 * plan.hop.1).enumerate() {
            let at = 2 * i * plan.hop.0;
            load(input, at, plan, &mut block);
            plan.forward.process_with_scratch(&mut block, &mut scratch);
            filter(&block, &plan.response, &mut bins);
            plan.inverse.process_with_scratch(&mut bins, &mut scratch);
            let (first, second) = out.split_at_mut(plan.hop.1.min(out.len()));
            first.iter_mut().zip(&bins).for_each(|(y, z)| *y = z.re);
            second.iter_mut().zip(&bins).for_each(|(y, z)| *y = z.im);
        }
        output
    }
}

/// The block at `at` into the real parts, the next one into the imaginary ones. Each begins with its first new sample;
/// the ones that the filter reaches before it lie at the end, as the transform is circular.
fn load(input: &[f32], at: usize, plan: &Plan, block: &mut [Complex<f32>]) {
    let (reach, hop, n) = (plan.reach, plan.hop.0, block.len());
    // Where both blocks lie within the clip nothing needs a check.
    if at >= reach && at + hop + n - reach <= input.len() {
        let (a, b) = (&input[at - reach..][..n], &input[at - reach + hop..][..n]);
        for (to, from) in [(n - reach..n, 0..reach), (0..n - reach, reach..n)] {
            let parts = a[from.clone()].iter().zip(&b[from]);
            block[to].iter_mut().zip(parts).for_each(|(z, (&re, &im))| *z = Complex::new(re, im));
        }
        return;
    }
    let sample = |i: usize| i.checked_sub(reach).and_then(|i| input.get(i)).copied().unwrap_or(0.0);
    for (i, z) in block.iter_mut().enumerate() {
        let i = at + (i + reach) % n;
        *z = Complex::new(sample(i), sample(i + hop));
    }
}

/// The bins of the block times the filter, cut or filled up with zeros to the new length.
fn filter(block: &[Complex<f32>], response: &[f32], bins: &mut [Complex<f32>]) {
    let (n, m) = (block.len(), bins.len());
    let half = n.min(m) / 2;
    bins[half..m - half].fill(Complex::new(0.0, 0.0));
    bins[..half].iter_mut().zip(block).zip(response).for_each(|((y, x), r)| *y = x * r);
    let (above, response) = (&block[n - half..], response[1..=half].iter().rev());
    bins[m - half..].iter_mut().zip(above).zip(response).for_each(|((y, x), r)| *y = x * r);
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
            let resampler = Resampler::new(rate, 22050);
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
            let resampler = Resampler::new(rate, 22050);
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
