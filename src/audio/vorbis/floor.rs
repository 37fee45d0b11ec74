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
    x: u32,
    /// Of the points before this one in the list: the next to the left and the next to the right.
    neighbours: (usize, usize),
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
        let points = xs.iter().enumerate().map(|(i, &x)| Point { x, neighbours: neighbours(&xs, i) }).collect();
        Ok(Floor { partitions, classes, multiplier, points, order })
    }

    /// Reads the curve of one channel from a packet (sections 7.2.3 and 7.2.4). No curve (`curve` stays empty) means
    /// silence; so does a packet that ends within it.
    pub fn read_curve(&self, bits: &mut Bits<'_>, books: &[Codebook], curve: &mut Curve) {
        curve.points.clear();
        let Some((heights, used)) = self.heights(bits, books) else { return };
        for &i in self.order.iter().filter(|&&i| used[i]) {
            let height = (heights[i] * self.multiplier).clamp(0, 255);
            curve.points.push((self.points[i].x as i32, height));
        }
    }

    /// The height of each point, and whether it bends the curve.
    fn heights(&self, bits: &mut Bits<'_>, books: &[Codebook]) -> Option<([i32; MAX_POINTS], [bool; MAX_POINTS])> {
        if !bits.flag()? {
            return None;
        }
        let range = [256, 128, 86, 64][self.multiplier as usize - 1];
        let mut values = [0i32; MAX_POINTS];
        let end_bits = ilog(range as u32 - 1);
        values[0] = bits.read(end_bits)? as i32;
        values[1] = bits.read(end_bits)? as i32;
        let mut at = 2;
        for &class in &self.partitions {
            let class = &self.classes[class];
            let mut choice = if class.subclass_bits > 0 { books[class.master].scalar(bits)? } else { 0 };
            for _ in 0..class.dimensions {
                let book = class.books[choice as usize & (class.books.len() - 1)];
                choice >>= class.subclass_bits;
                if let Some(book) = book {
                    values[at] = books[book].scalar(bits)? as i32;
                }
                at += 1;
            }
        }
        // What is written are differences from the line between the neighbours, folded so that none leaves the range.
        let mut used = [false; MAX_POINTS];
        (used[0], used[1]) = (true, true);
        for (i, point) in self.points.iter().enumerate().skip(2) {
            let (left, right) = point.neighbours;
            let line = Line::between(
                (self.points[left].x as i32, values[left]),
                (self.points[right].x as i32, values[right]),
            );
            let predicted = line.at(point.x as i32);
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
        Some((values, used))
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

/// The nearest of the points before `i` on either side (section 9.2.4). The first two points are the ends, so that
/// there is one, and a header that puts a point beyond them gets the ends.
fn neighbours(xs: &[u32], i: usize) -> (usize, usize) {
    let before = &xs[..i];
    let left = (0..before.len()).filter(|&j| xs[j] < xs[i]).max_by_key(|&j| xs[j]);
    let right = (0..before.len()).filter(|&j| xs[j] > xs[i]).min_by_key(|&j| xs[j]);
    (left.unwrap_or(0), right.unwrap_or(1))
}

/// A line between two points with whole coordinates, rounded towards its beginning (sections 9.2.6 and 9.2.7).
#[derive(Clone, Copy)]
struct Line {
    from: (i32, i32),
    width: i32,
    height: i32,
}

impl Line {
    /// `to` lies right of `from`. Where a header has it otherwise the line is level.
    fn between(from: (i32, i32), to: (i32, i32)) -> Line {
        let width = to.0 - from.0;
        if width > 0 { Line { from, width, height: to.1 - from.1 } } else { Line { from, width: 1, height: 0 } }
    }

    fn at(&self, x: i32) -> i32 {
        self.from.1 + self.height * (x - self.from.0) / self.width
    }
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
            let line = Line::between(pair[0], pair[1]);
            // Height grows by `whole` each step, and by one more (in its direction) when the remainders fill a step.
            let whole = line.height / line.width;
            let step = line.height.signum();
            let rest = line.height.abs() % line.width;
            let range = from..to.min(lines);
            let mut y = line.from.1;
            let mut filled = 0;
            for (sum, residue) in sum[range.clone()].iter_mut().zip(&residue[range]) {
                *sum += residue * amplitudes[(y & 255) as usize];
                filled += rest;
                let full = filled >= line.width;
                y += whole + if full { step } else { 0 };
                filled -= if full { line.width } else { 0 };
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
    // The first, four from within and the last of section 10.1.
    let table = [(0, 1.0649863e-07), (1, 1.1341951e-07), (2, 1.2079015e-07), (254, 0.9389798), (255, 1.0)];
    for (i, amplitude) in table {
        assert!((AMPLITUDES[i] / amplitude - 1.0).abs() < 2e-7, "{i}: {} instead of {amplitude}", AMPLITUDES[i]);
    }
}
