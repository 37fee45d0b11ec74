//! The upper end of what is heard, where a source at 44.1 kHz is halved to 22,050 Hz.
//!
//! All other sources are resampled to that, by a filter that ends a little below 11,025 Hz. Here none follows, and the
//! lines would go on to the last one: the highest mel band would be louder than of the same song in another format, by
//! 0.05 in the mean of its logarithms. So the last lines are made as loud as the filter would make them; then it is
//! 0.007.

use super::stream::{LINES, SHORT_LINES};

/// The first line that is not passed as it is: its middle lies at 10,864 Hz.
const FIRST: usize = 504;
/// The resampler's response to 44.1 kHz at the middles of the lines 504 to 511, 21.5 Hz apart.
const GAINS: [f32; 8] = [0.9953, 0.9550, 0.8179, 0.5658, 0.2844, 0.0916, 0.0152, 0.0006];
/// Of the last line of a short window, which is 172 Hz wide and mostly below the end; fitted to clicks.
const SHORT_GAIN: f32 = 0.85;

/// Shapes the lines of a frame at 44.1 kHz.
pub(super) fn shape(short: bool, lines: &mut [f32; LINES]) {
    if short {
        lines.iter_mut().skip(SHORT_LINES / 2 - 1).step_by(SHORT_LINES).for_each(|line| *line *= SHORT_GAIN);
    } else {
        lines[FIRST..].iter_mut().zip(GAINS).for_each(|(line, gain)| *line *= gain);
    }
}

#[test]
fn the_lines_are_as_loud_as_the_resampler_makes_a_tone() {
    use crate::audio::resample::Resampler;
    for (k, gain) in (FIRST..).zip(GAINS) {
        let hz = (k as f64 + 0.5) * 44_100.0 / 2048.0;
        let tone: Vec<f32> =
            (0..88_200).map(|i| (std::f64::consts::TAU * hz * f64::from(i) / 44_100.0).sin() as f32).collect();
        let heard = Resampler::new(44_100, 22_050).process(&tone);
        let middle = &heard[11_025..33_075];
        let power = middle.iter().map(|x| x * x).sum::<f32>() / middle.len() as f32;
        assert!(((2.0 * power).sqrt() - gain).abs() < 0.005, "{hz} Hz: {}, expected {gain}", (2.0 * power).sqrt());
    }
}
