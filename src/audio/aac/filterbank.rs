//! From spectra to samples: the inverse MDCT, at the full or at half the rate, and the overlap of its windows
//! (ISO/IEC 14496-3, section 4.6.11).
//!
//! The inverse transform is a sum of cosines of time. With `N` the length of a window,
//!
//! ```text
//!   x(n) = 2/N · Σ X(k) · cos(2π/N · (n + N/4 + ½)(k + ½)),   k < N/2
//! ```
//!
//! and with half the length, `M = N/2`, and the lower half of the lines, `k < M/2`,
//!
//! ```text
//!   Σ X(k) · cos(2π/M · (m + M/4 + ½)(k + ½)) = Σ X(k) · cos(2π/N · (2m + ½ + N/4 + ½)(k + ½)) :
//! ```
//!
//! the same cosines, seen at the times `n = 2m + ½`. So a transform of half the length gives the lower half of the
//! spectrum at half the rate; its samples lie half a source sample (11 µs at 44.1 kHz) behind every other one. The
//! windows are seen at the same times: the sine window of half the length is that exactly, the Kaiser-Bessel derived
//! one within 2.4e-4, and either cancels its aliases exactly.
//!
//! All of this is linear. Channels are added before the transform where their windows agree, and one overlap serves
//! all.

use std::f64::consts::PI;

use super::stream::{LINES, SHORT_LINES, Sequence, Shape};
use crate::audio::dct::Dct4;

/// What decides the windows of a frame: its sequence, its shape, and the shape of the frame before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    pub sequence: Sequence,
    pub shape: Shape,
    pub before: Shape,
}

pub(super) struct Filterbank {
    /// Samples per frame, and lines used of one: 1024 or 512.
    size: usize,
    long: Dct4,
    short: Dct4,
    /// Rising halves by [`Shape`]: of `size` samples, of `size / 8`, and the latter between zeros and ones.
    rises: [Rises; 2],
    /// The second halves of the last windows, `[size]`.
    overlap: Vec<f32>,
    /// Those of this frame, `[size]`.
    next: Vec<f32>,
    /// Transformed lines, `[size]`.
    folded: Vec<f32>,
}

struct Rises {
    long: Vec<f32>,
    short: Vec<f32>,
    /// Of a long window next to short ones.
    steep: Vec<f32>,
}

impl Filterbank {
    /// At `1 / reduction` of the rate, 1 or 2.
    pub fn new(reduction: usize) -> Filterbank {
        let (size, short) = (LINES / reduction, SHORT_LINES / reduction);
        let rises = [Shape::Sine, Shape::Kbd].map(|shape| {
            let long = rise(shape, size, 4.0);
            let brief = rise(shape, short, 6.0);
            let mut steep = vec![0.0; (size - short) / 2];
            steep.extend(&brief);
            steep.resize(size, 1.0);
            Rises { long, short: brief, steep }
        });
        // Samples are full scale at 32,768 (section 4.6.11.3.1 for 2/N).
        let scale = |window: usize| 2.0 / window as f64 / 32_768.0;
        Filterbank {
            size,
            long: Dct4::new(size, scale(2 * LINES)),
            short: Dct4::new(short, scale(2 * SHORT_LINES)),
            rises,
            overlap: vec![0.0; size],
            next: vec![0.0; size],
            folded: vec![0.0; size],
        }
    }

    /// Samples per frame, and lines used of one.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Forgets the last frame.
    pub fn reset(&mut self) {
        self.overlap.fill(0.0);
    }

    /// The samples of a frame, `[size]`: `gain` times the sum of `spectra`.
    pub fn synthesise<'a>(
        &mut self,
        spectra: impl Iterator<Item = (Windows, &'a [f32; LINES])>,
        gain: f32,
        samples: &mut [f32],
    ) {
        samples.copy_from_slice(&self.overlap);
        self.next.fill(0.0);
        for (windows, lines) in spectra {
            match windows.sequence {
                Sequence::Short => self.add_short(windows, lines, gain, samples),
                _ => self.add_long(windows, lines, gain, samples),
            }
        }
        std::mem::swap(&mut self.overlap, &mut self.next);
    }

    fn add_long(&mut self, windows: Windows, lines: &[f32; LINES], gain: f32, samples: &mut [f32]) {
        self.long.run(&lines[..self.size], gain, &mut self.folded);
        let (before, now) = (&self.rises[windows.before as usize], &self.rises[windows.shape as usize]);
        let rise = if windows.sequence == Sequence::Stop { &before.steep } else { &before.long };
        let fall = if windows.sequence == Sequence::Start { &now.steep } else { &now.long };
        overlap_add(&self.folded, rise, fall, samples, &mut self.next);
    }

    /// Eight windows of an eighth, which overlap by half in the middle of the frame (section 4.6.11.3.2).
    fn add_short(&mut self, windows: Windows, lines: &[f32; LINES], gain: f32, samples: &mut [f32]) {
        let short = self.size / 8;
        for window in 0..8 {
            let folded = &mut self.folded[..short];
            self.short.run(&lines[window * SHORT_LINES..][..short], gain, folded);
            let rise = &self.rises[if window == 0 { windows.before } else { windows.shape } as usize].short;
            let fall = &self.rises[windows.shape as usize].short;
            // Its first half and its second; the fourth's second ends this frame's samples in the middle of it.
            let (mut first, mut second) = ([0.0; SHORT_LINES], [0.0; SHORT_LINES]);
            let (first, second) = (&mut first[..short], &mut second[..short]);
            overlap_add(folded, rise, fall, first, second);
            let start = (self.size - short) / 2 + window * short;
            for (at, value) in (start..).zip(first.iter().chain(second.iter())) {
                if at < self.size {
                    samples[at] += value;
                } else {
                    self.next[at - self.size] += value;
                }
            }
        }
    }
}

/// Adds the two windowed halves of what a transform of `n` lines stands for to `first` and `second`, all of `n`. Its
/// `2n` samples are, in quarters, where the folded ones are `a b`: `b, −b reversed, −a reversed, −a`.
fn overlap_add(folded: &[f32], rise: &[f32], fall: &[f32], first: &mut [f32], second: &mut [f32]) {
    let half = folded.len() / 2;
    let (a, b) = folded.split_at(half);
    let (rise_up, rise_down) = rise.split_at(half);
    let (up, down) = first.split_at_mut(half);
    for ((x, w), b) in up.iter_mut().zip(rise_up).zip(b) {
        *x += w * b;
    }
    for ((x, w), b) in down.iter_mut().zip(rise_down).zip(b.iter().rev()) {
        *x -= w * b;
    }
    let (fall_down, fall_up) = fall.split_at(half);
    let (up, down) = second.split_at_mut(half);
    for ((x, w), a) in up.iter_mut().zip(fall_up.iter().rev()).zip(a.iter().rev()) {
        *x -= w * a;
    }
    for ((x, w), a) in down.iter_mut().zip(fall_down.iter().rev()).zip(a) {
        *x -= w * a;
    }
}

/// The rising half of a window, `[n]`.
fn rise(shape: Shape, n: usize, alpha: f64) -> Vec<f32> {
    match shape {
        Shape::Sine => (0..n).map(|i| (PI / 2.0 / n as f64 * (i as f64 + 0.5)).sin() as f32).collect(),
        Shape::Kbd => {
            let kaiser = |i: usize| {
                let from_middle = 2.0 * i as f64 / n as f64 - 1.0;
                bessel(PI * alpha * (1.0 - from_middle * from_middle).sqrt())
            };
            let total: f64 = (0..=n).map(kaiser).sum();
            let sums = (0..n).scan(0.0, |sum, i| {
                *sum += kaiser(i);
                Some(*sum)
            });
            sums.map(|sum| (sum / total).sqrt() as f32).collect()
        }
    }
}

/// The modified Bessel function of the first kind, order zero: its power series.
fn bessel(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let mut term = 1.0;
    let mut sum = 1.0;
    for k in 1..60 {
        term *= quarter / f64::from(k * k);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as i32 as f32 / 2f32.powi(31)
        };
        (0..n).map(|_| next()).collect()
    }

    /// The synthesis by the definition, in continuous time: the sum over frames and windows, at the time `n` in
    /// samples. Windows are given as functions of time.
    fn at(n: f64, frames: &[(Sequence, Vec<f32>)]) -> f64 {
        let cosines = |lines: &[f32], window: f64, n: f64| -> f64 {
            let angle = |k: usize| 2.0 * PI / window * (n + window / 4.0 + 0.5) * (k as f64 + 0.5);
            let sum: f64 = lines.iter().enumerate().map(|(k, &x)| f64::from(x) * angle(k).cos()).sum();
            2.0 / window * sum / 32_768.0
        };
        let sine = |n: f64, length: f64| (PI / length * (n + 0.5)).sin();
        let inside = |n: f64, length: f64| (-0.25..length - 0.25).contains(&n);
        let mut sum = 0.0;
        for (i, (sequence, lines)) in frames.iter().enumerate() {
            let n = n - 1024.0 * i as f64;
            if !inside(n, 2048.0) {
                continue;
            }
            // The rise of a short window, and its fall, in the middle of the halves.
            let (rise, fall) = (n - 448.0, n - 1024.0 - 448.0);
            let first = if *sequence != Sequence::Stop {
                sine(n, 2048.0)
            } else if rise < -0.25 {
                0.0
            } else if rise < 127.75 {
                sine(rise, 256.0)
            } else {
                1.0
            };
            let second = if *sequence != Sequence::Start {
                sine(n, 2048.0)
            } else if fall < -0.25 {
                1.0
            } else if fall < 127.75 {
                sine(fall + 128.0, 256.0)
            } else {
                0.0
            };
            sum += match sequence {
                Sequence::Short => (0..8)
                    .map(|w| (&lines[w * 128..][..128], n - 448.0 - 128.0 * w as f64))
                    .filter(|(_, n)| inside(*n, 256.0))
                    .map(|(lines, n)| sine(n, 256.0) * cosines(lines, 256.0, n))
                    .sum::<f64>(),
                _ => cosines(lines, 2048.0, n) * if n < 1023.75 { first } else { second },
            };
        }
        sum
    }

    #[test]
    fn both_rates_are_the_definition_seen_at_their_times() {
        use Sequence::{Long, Short, Start, Stop};
        for reduction in [1, 2] {
            let sequences = [Long, Start, Short, Short, Stop, Long];
            let frames: Vec<(Sequence, Vec<f32>)> = sequences
                .iter()
                .map(|&sequence| {
                    let mut lines = numbers(LINES);
                    // Nothing above the half, which only the full rate has.
                    let (window, kept) = if sequence == Short { (128, 64) } else { (1024, 512) };
                    lines.iter_mut().enumerate().filter(|(i, _)| i % window >= kept).for_each(|(_, x)| *x = 0.0);
                    (sequence, lines.iter().map(|x| x * 32_768.0).collect())
                })
                .collect();
            let mut bank = Filterbank::new(reduction);
            let mut samples = vec![0.0; bank.size()];
            for (i, (sequence, lines)) in frames.iter().enumerate() {
                let windows = Windows { sequence: *sequence, shape: Shape::Sine, before: Shape::Sine };
                // As two halves, as channels are.
                let lines = lines.as_slice().try_into().unwrap();
                bank.synthesise([(windows, lines), (windows, lines)].into_iter(), 0.5, &mut samples);
                for (m, sample) in samples.iter().enumerate().step_by(7) {
                    let time = (reduction * m) as f64 + (reduction - 1) as f64 / 2.0;
                    let wanted = at(time + 1024.0 * i as f64, &frames);
                    assert!((f64::from(*sample) - wanted).abs() < 1e-5, "frame {i} at {time}: {sample}, {wanted}");
                }
            }
        }
    }

    #[test]
    fn windows_cancel_their_aliases() {
        for (shape, n, alpha) in [(Shape::Sine, 512, 4.0), (Shape::Kbd, 512, 4.0), (Shape::Kbd, 64, 6.0)] {
            let window = rise(shape, n, alpha);
            for i in 0..n {
                let power = window[i] * window[i] + window[n - 1 - i] * window[n - 1 - i];
                assert!((power - 1.0).abs() < 1e-6);
            }
        }
        // The first of the long Kaiser-Bessel derived window (13818-7 gives the formula; the value is from double
        // precision elsewhere), and half its height in the middle.
        let window = rise(Shape::Kbd, 1024, 4.0);
        assert!((window[0] - 0.000_292_56).abs() < 1e-7, "{}", window[0]);
    }
}
