//! Temporal noise shaping: all-pole filters that run over the lines of a spectrum (ISO/IEC 14496-3, section 4.6.9).

use symphonia::core::errors::{Error, Result};

use super::stream::{LINES, Layout, SHORT_LINES};
use crate::audio::bits::Bits;

/// The highest order of any profile; low complexity has 12.
const ORDER: usize = 20;

/// One filter over the lines `from..to` of a window: `y(n) = x(n) − Σ a(k)·y(n − k)`, with `k` counted from where it
/// comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    window: usize,
    from: usize,
    to: usize,
    /// From the highest line to the lowest.
    downward: bool,
    order: usize,
    /// a(1), a(2), …
    coefficients: [f32; ORDER],
}

/// tns_data.
pub(super) fn read_filters(bits: &mut Bits, layout: &Layout, filters: &mut Vec<Filter>) -> Result<()> {
    let short = layout.is_short();
    let (windows, count_size, length_size, order_size) = if short { (8, 1, 4, 3) } else { (1, 2, 6, 5) };
    for window in 0..windows {
        let count = bits.read(count_size);
        let resolution = if count > 0 { 3 + bits.read(1) } else { 0 };
        // They lie from the highest band downwards.
        let mut top = layout.offsets.len() - 1;
        for _ in 0..count {
            let bottom = top.saturating_sub(bits.read(length_size) as usize);
            let order = bits.read(order_size) as usize;
            if order > ORDER {
                return Err(Error::DecodeError("aac: impossible order of noise shaping"));
            }
            if order > 0 {
                let downward = bits.flag();
                let size = resolution - bits.read(1);
                let coefficients = predictor(order, || {
                    // Two's complement of `size` bits.
                    let value = (bits.read(size) << (32 - size)) as i32 >> (32 - size);
                    reflection(value, resolution)
                });
                let (from, to) = (layout.shaped_line(bottom), layout.shaped_line(top));
                if from < to {
                    filters.push(Filter { window, from, to, downward, order, coefficients });
                }
            }
            top = bottom;
        }
    }
    Ok(())
}

/// A reflection coefficient from its number of `resolution` bits (section 4.6.9.3): an arc sine, quantised evenly.
fn reflection(value: i32, resolution: u32) -> f32 {
    let steps = (1 << (resolution - 1)) as f32 + if value >= 0 { -0.5 } else { 0.5 };
    (value as f32 / steps * std::f32::consts::FRAC_PI_2).sin()
}

/// The coefficients of the direct form from the reflection coefficients, one after the other (Levinson's recursion).
fn predictor(order: usize, mut next: impl FnMut() -> f32) -> [f32; ORDER] {
    let mut a = [0.0; ORDER];
    for m in 0..order {
        let reflection = next();
        let shorter = a;
        for i in 0..m {
            a[i] += reflection * shorter[m - 1 - i];
        }
        a[m] = reflection;
    }
    a
}

/// How many lines of each window are needed to know the first `kept` of them: a filter that comes from above carries
/// what lies there down.
pub(super) fn needed(filters: &[Filter], kept: usize) -> usize {
    let reaching = filters.iter().filter(|f| f.downward && f.from < kept && f.to > kept);
    reaching.map(|f| f.to).fold(kept, usize::max)
}

/// Shapes the first `kept` lines of each window, of which those that are [`needed`] are there.
pub(super) fn shape(filters: &[Filter], kept: usize, lines: &mut [f32; LINES]) {
    for filter in filters.iter().filter(|f| f.from < kept) {
        let window = &mut lines[filter.window * SHORT_LINES..];
        let a = &filter.coefficients[..filter.order];
        if filter.downward {
            run(a, window[filter.from..filter.to].iter_mut().rev());
        } else {
            run(a, window[filter.from..filter.to.min(kept)].iter_mut());
        }
    }
}

fn run<'a>(a: &[f32], lines: impl Iterator<Item = &'a mut f32>) {
    // The last outputs, twice, so that they lie in a row wherever the ring begins: `past[at..at + order]`, latest
    // first.
    let order = a.len();
    let mut past = [0.0f32; 2 * ORDER];
    let mut at = 0;
    for line in lines {
        let y = *line - a.iter().zip(&past[at..at + order]).map(|(a, y)| a * y).sum::<f32>();
        *line = y;
        at = if at == 0 { order - 1 } else { at - 1 };
        (past[at], past[at + order]) = (y, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflections_are_those_of_the_table_and_stay_below_one() {
        // Of 4 bits: the sines of −8/8.5 to 7/7.5 of a right angle.
        assert!((reflection(-8, 4) + 0.995_734_2).abs() < 1e-6);
        assert!((reflection(7, 4) - 0.994_521_9).abs() < 1e-6);
        assert!((reflection(1, 3) - 0.433_883_74).abs() < 1e-6);
        assert_eq!(reflection(0, 3), 0.0);
    }

    #[test]
    fn a_filter_undoes_the_prediction_that_made_its_input_in_both_directions() {
        let reflections = [0.7, -0.4, 0.3, 0.1, -0.2];
        let mut next = reflections.iter();
        let coefficients = predictor(5, || *next.next().unwrap());
        let wanted: Vec<f32> = (0..200).map(|i| (i as f32 * 0.7).sin() + (i as f32 * 0.13).cos()).collect();
        // x(n) = y(n) + Σ a(k)·y(n − k).
        let predicted = |y: &[f32]| -> Vec<f32> {
            let past = |n: usize| (1..=5usize.min(n)).map(move |k| (k, n - k));
            (0..y.len()).map(|n| y[n] + past(n).map(|(k, m)| coefficients[k - 1] * y[m]).sum::<f32>()).collect()
        };
        for downward in [false, true] {
            let mut source = wanted.clone();
            if downward {
                source.reverse();
            }
            let mut residual = predicted(&source);
            if downward {
                residual.reverse();
            }
            let mut lines = [0.0; LINES];
            lines[100..300].copy_from_slice(&residual);
            let filter = [Filter { window: 0, from: 100, to: 300, downward, order: 5, coefficients }];
            let kept = 250;
            assert_eq!(needed(&filter, kept), if downward { 300 } else { 250 });
            shape(&filter, kept, &mut lines);
            let worst = (100..kept).map(|i| (lines[i] - wanted[i - 100]).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "differs by {worst}");
        }
    }
}
