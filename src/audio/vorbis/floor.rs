//! Floors: the spectrum's coarse envelope, straight lines on a decibel scale (Vorbis I, section 7, floor type 1).
//!
//! Type 0, line spectral pairs, has not been written by any encoder since before the format was frozen.

use std::sync::LazyLock;

use symphonia::core::errors::{Error, Result};

use super::bits::{Bits, ilog};
use super::codebook::Codebook;
use super::setup::CUT;

/// The most points of a curve (section 7.2.2).
const MAX_POINTS: usize = 65;

/// How a floor is written.
pub(super) struct Floor {
    /// Of each partition of points its class.
    partitions: Vec<usize>,
    classes: Vec<Class>,
    /// Heights are multiples of this.
    multiplier: i32,
    points: Vec<Point>,
    /// The points from left to right.
    order: Vec<usize>,
}

struct Class {
    /// Points in a partition.
    dimensions: usize,
    subclass_bits: u32,
    /// Which chooses the subclasses, where there are several.
    master: usize,
    /// `[2^subclass_bits]`
    books: Vec<Option<usize>>,
}

struct Point {
    x: i32,
    /// Of the points before this one in the list: the next to the left and the next to the right.
    neighbours: (usize, usize),
    /// How far it lies on the way from the one to the other, as [`ratio`] has it.
    share: u64,
}

impl Floor {
    pub fn read(bits: &mut Bits<'_>, books: &[Codebook]) -> Result<Floor> {
        let n = bits.read(5).ok_or(CUT)?;
        let partitions: Vec<usize> =
            (0..n).map(|_| bits.read(4).map(|class| class as usize)).collect::<Option<_>>().ok_or(CUT)?;
        let n = partitions.iter().max().map_or(0, |most| most + 1);
        let classes = (0..n).map(|_| Class::read(bits, books)).collect::<Result<Vec<_>>>()?;
        let multiplier = bits.read(2).ok_or(CUT)? as i32 + 1;
        let x_bits = bits.read(4).ok_or(CUT)?;
        let mut xs = vec![0, 1 << x_bits];
        for &class in &partitions {
            for _ in 0..classes[class].dimensions {
                xs.push(bits.read(x_bits).ok_or(CUT)?);
            }
        }
        if xs.len() > MAX_POINTS {
            return Err(Error::DecodeError("vorbis: a floor of more than 65 points"));
        }
        let mut order: Vec<usize> = (0..xs.len()).collect();
        order.sort_by_key(|&i| xs[i]);
        if order.windows(2).any(|pair| xs[pair[0]] == xs[pair[1]]) {
            return Err(Error::DecodeError("vorbis: two points of a floor in one place"));
        }
        let point = |i: usize| {
            let (left, right) = neighbours(&xs, i);
            let (x, from, to) = (xs[i] as i32, xs[left] as i32, xs[right] as i32);
            Point { x, neighbours: (left, right), share: ratio(x - from, to - from) }
        };
        let points = (0..xs.len()).map(point).collect();
        Ok(Floor { partitions, classes, multiplier, points, order })
    }

    /// Reads the curve of one channel from a packet (sections 7.2.3 and 7.2.4). No curve (`curve` stays empty) means
    /// silence; so does a packet that ends within it.
    pub fn read_curve(&self, bits: &mut Bits<'_>, books: &[Codebook], curve: &mut Curve) {
        curve.points.clear();
        let mut values = [0; MAX_POINTS];
        if self.read_values(bits, books, &mut values).is_none() {
            return;
        }
        let used = self.unfold(&mut values);
        for &i in self.order.iter().filter(|&&i| used[i]) {
            let height = (values[i] * self.multiplier).clamp(0, 255);
            curve.points.push((self.points[i].x, height));
        }
    }

    /// A value for each point; `None` where there is no curve, or only the beginning of one.
    fn read_values(&self, packet: &mut Bits<'_>, books: &[Codebook], values: &mut [i32; MAX_POINTS]) -> Option<()> {
        if !packet.flag()? {
            return None;
        }
        // A copy stays in registers. Where the packet ends nothing more is read from it anyway.
        let mut bits = std::mem::replace(packet, Bits::new(&[]));
        let range = self.range();
        let end_bits = ilog(range as u32 - 1);
        values[0] = bits.read(end_bits)? as i32;
        values[1] = bits.read(end_bits)? as i32;
        let mut at = 2;
        for &class in &self.partitions {
            let class = &self.classes[class];
            let mut choice = if class.subclass_bits > 0 { books[class.master].scalar(&mut bits)? } else { 0 };
            for _ in 0..class.dimensions {
                let book = class.books[choice as usize & (class.books.len() - 1)];
                choice >>= class.subclass_bits;
                if let Some(book) = book {
                    values[at] = books[book].scalar(&mut bits)? as i32;
                }
                at += 1;
            }
        }
        *packet = bits;
        Some(())
    }

    /// The number of different heights.
    fn range(&self) -> i32 {
        [256, 128, 86, 64][self.multiplier as usize - 1]
    }

    /// Values to heights, in place: they are differences from the line between the neighbours, folded so that none
    /// leaves the range. And whether each point bends the curve.
    fn unfold(&self, values: &mut [i32; MAX_POINTS]) -> [bool; MAX_POINTS] {
        let range = self.range();
        let mut used = [false; MAX_POINTS];
        (used[0], used[1]) = (true, true);
        for (i, point) in self.points.iter().enumerate().skip(2) {
            let (left, right) = point.neighbours;
            // On the line between the neighbours (section 9.2.6).
            let rise = values[right] - values[left];
            let way = ((u64::from(rise.unsigned_abs()) * point.share) >> 32) as i32;
            let predicted = values[left] + if rise < 0 { -way } else { way };
            let value = values[i];
            if value == 0 {
                values[i] = predicted;
                continue;
            }
            (used[left], used[right], used[i]) = (true, true, true);
            let (above, below) = (range - predicted, predicted);
            let height = if value >= 2 * above.min(below) {
                if above > below { value } else { range - 1 - value }
            } else if value & 1 == 1 {
                predicted - (value + 1) / 2
            } else {
                predicted + value / 2
            };
            // Only damage leads outside.
            values[i] = height.clamp(0, range - 1);
        }
        used
    }
}

impl Class {
    fn read(bits: &mut Bits<'_>, books: &[Codebook]) -> Result<Class> {
        let book = |number: usize| {
            if number < books.len() { Ok(number) } else { Err(Error::DecodeError("vorbis: no such codebook (floor)")) }
        };
        let dimensions = bits.read(3).ok_or(CUT)? as usize + 1;
        let subclass_bits = bits.read(2).ok_or(CUT)?;
        let master = if subclass_bits > 0 { book(bits.read(8).ok_or(CUT)? as usize)? } else { 0 };
        let subclass = |_| match bits.read(8).ok_or(CUT)? as usize {
            0 => Ok(None),
            number => book(number - 1).map(Some),
        };
        let books = (0..1 << subclass_bits).map(subclass).collect::<Result<_>>()?;
        Ok(Class { dimensions, subclass_bits, master, books })
    }
}

/// Of the points before `i` the nearest to the left and to the right (section 9.2.4). The first two points are the ends
/// of the range that the others can name.
fn neighbours(xs: &[u32], i: usize) -> (usize, usize) {
    let (mut left, mut right) = (0, 1);
    for j in 2..i {
        if (xs[left]..xs[i]).contains(&xs[j]) {
            left = j;
        }
        if (xs[i]..xs[right]).contains(&xs[j]) {
            right = j;
        }
    }
    (left, right)
}

/// A little more than `numerator / denominator`, with 32 bits behind the point; 1 too much in the last of them.
///
/// The standard draws lines with whole numbers: at `x` of `width` a height difference of `h` has become `⌊h·x/width⌋`.
/// That equals `h·ratio(x, width) >> 32` and `x·ratio(h, width) >> 32`: the quotient, if not whole, is at least
/// 1/width ≥ 2⁻¹⁵ below the next whole number, and the excess becomes at most 2⁻³² times 2¹⁵ (x) or 2⁸ (h).
fn ratio(numerator: i32, denominator: i32) -> u64 {
    (f64::from(numerator) / f64::from(denominator) * (1u64 << 32) as f64) as i64 as u64 + 1
}

/// The envelope of one channel in one packet.
#[derive(Default)]
pub(super) struct Curve {
    /// From left to right: line of the spectrum, height as an index of [`AMPLITUDES`].
    points: Vec<(i32, i32)>,
}

impl Curve {
    /// No curve: the channel is silent.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Adds `residue × amplitude` to `sum`, both `[lines]` (sections 7.2.4, step 2, and 4.3.6).
    pub fn multiply_add(&self, residue: &[f32], sum: &mut [f32]) {
        let amplitudes: &[f32; 256] = &AMPLITUDES;
        let lines = sum.len();
        let residue = &residue[..lines];
        let mut end = 0;
        let mut height = 0;
        for pair in self.points.windows(2) {
            let (from, to) = (pair[0].0 as usize, pair[1].0 as usize);
            (end, height) = (to, pair[1].1);
            if from >= lines {
                break;
            }
            // The way from the first height with 32 bits behind the point; downwards so that cutting them off rounds
            // up (section 9.2.7).
            let rise = pair[1].1 - pair[0].1;
            let step = ratio(rise.abs(), pair[1].0 - pair[0].0);
            let mut y = (pair[0].1 as u64) << 32;
            let step = if rise < 0 {
                y += 0xffff_ffff;
                step.wrapping_neg()
            } else {
                step
            };
            let range = from..to.min(lines);
            for (sum, residue) in sum[range.clone()].iter_mut().zip(&residue[range]) {
                *sum += residue * amplitudes[(y >> 32) as usize & 255];
                y = y.wrapping_add(step);
            }
        }
        // Beyond the last point the height stays.
        if end < lines {
            let amplitude = amplitudes[(height & 255) as usize];
            sum[end..].iter_mut().zip(&residue[end..]).for_each(|(sum, residue)| *sum += residue * amplitude);
        }
    }
}

/// Amplitude of a height, `[256]`: evenly spaced on a logarithmic scale from 1.0649863·10⁻⁷ to 1, which gives the
/// numbers of the standard's table (section 10.1) to the last bit or two.
static AMPLITUDES: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let lowest = 1.064_986_3e-7f64.ln();
    std::array::from_fn(|i| (lowest * (255 - i) as f64 / 255.0).exp() as f32)
});

#[test]
fn amplitudes_are_those_of_the_standards_table() {
    // The first, the last and some from within section 10.1.
    let table = [(0, 1.0649863e-07), (1, 1.1341951e-07), (2, 1.2079015e-07), (254, 0.9389798), (255, 1.0)];
    for (i, amplitude) in table {
        assert!((AMPLITUDES[i] / amplitude - 1.0).abs() < 2e-7, "{i}: {} instead of {amplitude}", AMPLITUDES[i]);
    }
}

/// The standard's way to draw a line (section 9.2.7), step by step.
#[cfg(test)]
fn render_line((x0, y0): (i32, i32), (x1, y1): (i32, i32)) -> Vec<i32> {
    let (dy, adx) = (y1 - y0, x1 - x0);
    let base = dy / adx;
    let sy = if dy < 0 { base - 1 } else { base + 1 };
    let ady = dy.abs() - base.abs() * adx;
    let (mut y, mut err) = (y0, 0);
    let mut line = vec![y];
    for _ in x0 + 1..x1 {
        err += ady;
        if err >= adx {
            err -= adx;
            y += sy;
        } else {
            y += base;
        }
        line.push(y);
    }
    line
}

#[test]
fn lines_are_drawn_as_the_standard_draws_them() {
    for width in (1..70).chain([127, 128, 255, 1000, 4095, 32_768]) {
        for (from, to) in [(0, 0), (0, 255), (255, 0), (17, 18), (200, 199), (3, 90), (250, 13), (128, 64), (9, 200)] {
            let curve = Curve { points: vec![(0, from), (width, to)] };
            let expected: Vec<f32> =
                render_line((0, from), (width, to)).iter().map(|&y| AMPLITUDES[y as usize]).collect();
            // Three lines further: there the curve stays level.
            let mut sum = vec![0.0; width as usize + 3];
            curve.multiply_add(&vec![1.0; sum.len()], &mut sum);
            assert_eq!(sum[..width as usize], expected, "{width} wide from {from} to {to}");
            assert_eq!(sum[width as usize..], [AMPLITUDES[to as usize]; 3]);
            // The points between are predicted likewise (section 9.2.6).
            for x in 0..width.min(300) {
                let predicted = (((to - from).unsigned_abs() as u64 * ratio(x, width)) >> 32) as i32;
                assert_eq!(predicted, (to - from).abs() * x / width);
            }
        }
    }
}
