//! From the lines of one or two channels to the lines of their mean: scale, undo joint stereo, mix, and put every line
//! where it belongs.
//!
//! All of it is linear with one weight for each channel and band, so a band of the mean costs one multiplication a line
//! and channel, whatever the stereo mode:
//!
//! ```text
//! stereo       (L + R) / 2             weights ½, ½
//! mid/side     L, R = (M ± S) / √2     1/√2, 0         the side channel need not even be read
//! intensity    L, R = a·X, b·X         (a + b) / 2, 0
//! ```

use std::f32::consts::FRAC_1_SQRT_2;

use super::bands::{Band, Layout, Place};
use super::header::Header;
use super::huffman::Lines;
use super::side::{BANDS, Channel, Scale};

/// By how much preflag raises the bands of long blocks (ISO 11172-3, table B.6).
const PRETAB: [u8; 22] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 2, 0];

/// Of each band, what the mean takes of channel 0 and of channel 1.
pub type Weights = [[f32; 2]; BANDS];

/// `2^(q/4)`; `q` is at least −210 − 8·7 − 4·(31 + 3), which a 32-bit float still holds.
fn quarter_power(q: i32) -> f32 {
    const ROOTS: [f32; 4] = [1.0, 1.189_207_1, std::f32::consts::SQRT_2, 1.681_792_8];
    f32::from_bits(((127 + (q >> 2)) as u32) << 23) * ROOTS[(q & 3) as usize]
}

#[test]
fn powers_of_the_fourth_root_of_two_are_exact_over_their_whole_range() {
    for q in -210 - 56 - 136..=255 - 210 {
        let exact = (f64::from(q) / 4.0).exp2();
        assert!((f64::from(quarter_power(q)) / exact - 1.0).abs() < 1.2e-7, "{q}");
    }
}

/// What the lines of a band are multiplied by (ISO 11172-3, 2.4.3.4.7).
fn gain(channel: &Channel, scale: &Scale, index: usize, band: &Band) -> f32 {
    let (raised, window) = match band.place {
        Place::Long => (if channel.preflag { PRETAB[index] } else { 0 }, 0),
        Place::Short { window, .. } => (0, i32::from(channel.subblock_gain[window])),
    };
    let steps = i32::from(scale.factor[index] + raised) * if channel.scalefac_scale { 4 } else { 2 };
    quarter_power(i32::from(channel.global_gain) - 210 - 8 * window - steps)
}

/// Adds the first lines of a channel to `mean`, times the gain of their band and its weight. All others are zero or not
/// wanted.
pub fn add(
    mean: &mut Lines,
    lines: &[f32],
    layout: &Layout,
    channel: &Channel,
    scale: &Scale,
    weight: impl Fn(usize) -> f32,
) {
    for (i, band) in layout.bands.iter().enumerate() {
        if band.start >= lines.len() {
            break;
        }
        let factor = gain(channel, scale, i, band) * weight(i);
        let coded = &lines[band.start..band.end.min(lines.len())];
        match band.place {
            Place::Long => {
                for (sum, line) in mean[band.start..].iter_mut().zip(coded) {
                    *sum += factor * line;
                }
            }
            Place::Short { window, frequency } => {
                for (sum, line) in mean[3 * frequency + window..].iter_mut().step_by(3).zip(coded) {
                    *sum += factor * line;
                }
            }
        }
    }
}

/// The first line that [`fade`] lowers.
const FADE_FIRST: usize = 284;
/// `cos²(π/2 · i/9)` for `i` from 1: lines 283 to 292 are 11,025 Hz ± 172 Hz, half a cosine around the middle.
const FADE: [f32; 8] = [0.969_846_3, 0.883_022_2, 0.75, 0.586_824_1, 0.413_175_9, 0.25, 0.116_977_8, 0.030_153_7];

/// The edge of the band when 44.1 kHz is halved. The filter bank does not end at 11,025 Hz but over the width of a
/// subband, and what lies above would fold back. This is not the curve of our resampler, which has fallen to half at
/// 10,951 Hz, but one fitted to music: over white noise and ten encodings of five tracks the logarithm of the highest
/// band of the spectrogram is on average 0.0005 less than of the full rate resampled (without any curve 0.03 more). All
/// other bands hardly notice.
pub fn fade(lines: &mut Lines) {
    let (faded, rest) = lines[FADE_FIRST..].split_at_mut(FADE.len());
    faded.iter_mut().zip(FADE).for_each(|(line, factor)| *line *= factor);
    rest.fill(0.0);
}

#[test]
fn the_edge_is_half_a_cosine_around_half_the_rate() {
    let mut lines = [1.0; super::bands::LINES + 8];
    fade(&mut lines);
    for (l, &factor) in lines.iter().enumerate() {
        let t = ((l as f64 - 283.0) / 9.0).clamp(0.0, 1.0);
        let expected = (std::f64::consts::FRAC_PI_2 * t).cos().powi(2);
        assert!((f64::from(factor) - expected).abs() < 1e-6, "line {l}");
    }
    // Line l is centred at (l + ½)/576 of half the rate.
    assert_eq!((283.0 + 292.0 + 1.0) / 2.0 / 576.0, 0.5);
}

/// The weights of plain stereo, or of mid/side stereo.
pub fn weights(mid_side: bool) -> Weights {
    [if mid_side { [FRAC_1_SQRT_2, 0.0] } else { [0.5, 0.5] }; BANDS]
}

/// The weights of intensity stereo. Where the right channel has no more lines other than zero, its scale factors are
/// positions between left and right (ISO 11172-3, 2.4.3.4.9.3; ISO 13818-3, 2.4.3.2); below, and where a position is
/// the forbidden one, the frame is stereo or mid/side. In short blocks each window has an end of its own.
pub fn intensity_weights(
    header: &Header,
    layout: &Layout,
    right: &Lines,
    filled: usize,
    scale: &Scale,
    wide: bool,
) -> Weights {
    let mut weights = weights(header.mid_side);
    let reached = empty_above(layout, right, filled);
    // The last band has no scale factor. Its position is that of the band before it (of its window), or the middle
    // where that one is not reached and has none.
    let windows = if layout.bands.last().is_some_and(|b| b.place == Place::Long) { 1 } else { 3 };
    let last = layout.bands.len() - windows;
    for i in (0..layout.bands.len()).filter(|&i| reached[i]) {
        let (position, highest) = match i {
            _ if i < last => (scale.factor[i], scale.highest[i]),
            _ if reached[i - windows] => (scale.factor[i - windows], scale.highest[i - windows]),
            _ => (0, 0),
        };
        if position < highest || highest == 0 {
            weights[i] = [0.5 * (if header.low { low_shares(position, wide) } else { 1.0 }), 0.0];
        }
    }
    weights
}

/// For each band, whether it and all bands above it (of its window) are zero.
fn empty_above(layout: &Layout, lines: &Lines, filled: usize) -> [bool; BANDS] {
    let mut reached = [false; BANDS];
    let mut empty = [true; 3];
    for (i, band) in layout.bands.iter().enumerate().rev() {
        let end = band.end.min(filled);
        let zero = band.start >= end || lines[band.start..end].iter().all(|&line| line == 0.0);
        reached[i] = match band.place {
            // Long bands lie below the bands of all windows.
            Place::Long => {
                empty = [zero && empty == [true; 3]; 3];
                empty[0]
            }
            Place::Short { window, .. } => {
                empty[window] &= zero;
                empty[window]
            }
        };
    }
    reached
}

/// The shares of left and right added. In MPEG-1 they are `r/(1+r)` and `1/(1+r)`, always one together; at the low
/// rates one side keeps all and the other is lowered by half as many steps as the position says, rounded up.
fn low_shares(position: u8, wide: bool) -> f32 {
    let steps = i32::from(position.div_ceil(2));
    1.0 + quarter_power(-steps * if wide { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::super::bands::{Block, LINES};
    use super::*;

    fn header(low: bool, mid_side: bool) -> Header {
        // Bytes of a header with intensity, of 44.1 or 22.05 kHz.
        let bytes = [0xff, if low { 0xf3 } else { 0xfb }, 0x90, if mid_side { 0x70 } else { 0x50 }];
        Header::parse(&bytes).unwrap()
    }

    #[test]
    fn intensity_begins_behind_the_last_line_of_the_right_channel() {
        let mut right = [0.0; LINES + 8];
        right[100] = 1.0; // in band 13 of 22 (90 to 110)
        let mut scale = Scale { factor: [2; BANDS], highest: [7; BANDS] };
        scale.factor[15] = 7; // the forbidden position
        let layout = Layout::of(0, Block::Long);
        let found = intensity_weights(&header(false, true), layout, &right, 110, &scale, false);
        for (band, &weight) in found.iter().enumerate().take(22) {
            let mid = band <= 13 || band == 15;
            assert_eq!(weight, [if mid { FRAC_1_SQRT_2 } else { 0.5 }, 0.0], "band {band}");
        }
        // Without mid/side the mean of the rest is plain.
        let found = intensity_weights(&header(false, false), layout, &right, 110, &scale, false);
        assert_eq!((found[13], found[14], found[15]), ([0.5, 0.5], [0.5, 0.0], [0.5, 0.5]));
    }

    #[test]
    fn the_windows_of_a_short_block_have_ends_of_their_own() {
        let layout = Layout::of(0, Block::Short { mixed: false });
        let mut right = [0.0; LINES + 8];
        let band = layout.bands[3 * 5 + 1];
        right[band.start] = -1.0; // band 5 of window 1
        let scale = Scale { factor: [0; BANDS], highest: [7; BANDS] };
        let found = intensity_weights(&header(false, true), layout, &right, band.end, &scale, false);
        for (i, weight) in found.iter().enumerate() {
            assert_eq!(weight[0] == FRAC_1_SQRT_2, i % 3 == 1 && i / 3 <= 5, "band {} of window {}", i / 3, i % 3);
        }
    }

    #[test]
    fn at_low_rates_one_side_is_lowered_and_the_other_kept() {
        // Position 0 is the middle at full height, 1 and 2 lower one side by a step, 3 and 4 by two.
        for (position, steps) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (30, 15)] {
            for (wide, step) in [(false, 0.25), (true, 0.5f32)] {
                let expected = 1.0 + (-step * steps as f32).exp2();
                assert!((low_shares(position, wide) - expected).abs() < 1e-6);
            }
        }
        // Each band has its own forbidden position, the highest that its bits can say; the last band, whose
        // predecessor is in use, stands in the middle.
        let layout = Layout::of(3, Block::Long);
        let mut right = [0.0; LINES + 8];
        let mut scale = Scale { factor: [3; BANDS], highest: [7; BANDS] };
        scale.highest[20] = 3;
        let weights = |right: &Lines, filled: usize, scale: &Scale| {
            intensity_weights(&header(true, true), layout, right, filled, scale, true)
        };
        let found = weights(&right, 0, &scale);
        assert_eq!((found[0], found[20], found[21]), ([0.75, 0.0], [FRAC_1_SQRT_2, 0.0], [FRAC_1_SQRT_2, 0.0]));
        right[layout.bands[20].start] = 1.0;
        let found = weights(&right, LINES, &scale);
        assert_eq!((found[0], found[20], found[21]), ([FRAC_1_SQRT_2, 0.0], [FRAC_1_SQRT_2, 0.0], [1.0, 0.0]));
    }
}
