//! The codebooks as tables: as many bits as usual are looked up at once, and give the signed values.
//!
//! ```text
//!   next 10 bits ──► first: length, values           a code of up to 10 bits, its sign bits included
//!                          └► second, further bits    a longer one
//! ```
//! Books whose codes are followed by a sign bit for each value that is not zero become books of longer codes that
//! include them, so that no sign is a branch.

use std::sync::LazyLock;

use super::codebooks::{Codebook, SCALE_FACTORS, SPECTRUM};
use crate::audio::bits::Bits;

/// Bits looked up at first. Of 9 to 12 the fastest by 1 to 5 %: smaller tables miss the longer codes, larger ones the
/// cache.
const FIRST: u32 = 10;
/// Set in an entry that leads to the second table; its length is then how many bits more are looked up there.
const LINK: u32 = 1 << 7;
/// Set where a value is ±16, which stands for an escape.
const ESCAPE: u32 = 1 << 6;
/// Largest magnitude that an escape can say (section 4.6.3.3).
const LARGEST: usize = 8191;
/// How many values a quantised number of the books 1 to 4 has, −2 to 2, and of the others, −16 to 16.
const QUAD_BASE: i32 = 5;
const PAIR_BASE: i32 = 33;

/// A prefix code for [`Bits`]. An entry is, from its low end: 6 bits of length, [`ESCAPE`], [`LINK`], the value.
pub(super) struct Lookup {
    first: Box<[u32; 1 << FIRST]>,
    second: Vec<u32>,
}

impl Lookup {
    /// From `(entry's value and flags, code, bits)`; the code is complete.
    fn new(codes: &[(u32, u32, u32)]) -> Lookup {
        let mut first = Box::new([0; 1 << FIRST]);
        let mut second = vec![];
        // Of the codes that begin with these bits, how many more the longest has.
        let mut more = [0; 1 << FIRST];
        for &(_, code, bits) in codes.iter().filter(|c| c.2 > FIRST) {
            let more = &mut more[(code >> (bits - FIRST)) as usize];
            *more = (bits - FIRST).max(*more);
        }
        for (entry, &more) in first.iter_mut().zip(&more).filter(|(_, more)| **more > 0) {
            *entry = (second.len() as u32) << 8 | LINK | more;
            second.resize(second.len() + (1 << more), 0);
        }
        for &(value, code, bits) in codes {
            if bits <= FIRST {
                let spare = FIRST - bits;
                first[(code << spare) as usize..][..1 << spare].fill(value | bits);
            } else {
                let link = first[(code >> (bits - FIRST)) as usize];
                let (start, more) = (link >> 8, link & 63);
                let spare = more + FIRST - bits;
                let within = (code & ((1 << (bits - FIRST)) - 1)) << spare;
                second[(start + within) as usize..][..1 << spare].fill(value | bits);
            }
        }
        Lookup { first, second }
    }

    fn plain(book: &Codebook) -> Lookup {
        let codes: Vec<_> = book.codes().map(|(symbol, code, bits)| (u32::from(symbol) << 8, code, bits)).collect();
        Lookup::new(&codes)
    }

    /// A book whose symbols are `N` numbers in base `base`: magnitudes followed by sign bits, or where `least` is
    /// negative numbers from there on. The entries' values are the numbers in base `to`.
    fn of_values<const N: usize>(book: &Codebook, base: i32, least: i32, to: i32) -> Lookup {
        let mut codes = vec![];
        for (symbol, code, bits) in book.codes() {
            let mut rest = i32::from(symbol);
            let mut values = [0; N];
            for value in values.iter_mut().rev() {
                *value = rest % base + least;
                rest /= base;
            }
            let signs = if least < 0 { 0 } else { values.iter().filter(|&&v| v != 0).count() as u32 };
            let escape = if values.contains(&16) { ESCAPE } else { 0 };
            for pattern in 0..1u32 << signs {
                let mut ahead = signs;
                let index = values.iter().fold(0, |index, &value| {
                    let mut value = value;
                    if value != 0 && signs > 0 {
                        ahead -= 1;
                        value = if pattern >> ahead & 1 == 1 { -value } else { value };
                    }
                    index * to + value + to / 2
                });
                codes.push(((index as u32) << 8 | escape, code << signs | pattern, bits + signs));
            }
        }
        Lookup::new(&codes)
    }

    /// Reads a code, of which up to 20 bits must be ready.
    #[inline(always)]
    fn entry(&self, bits: &mut Bits) -> u32 {
        let mut entry = self.first[bits.peek(FIRST)];
        if entry & LINK != 0 {
            entry = self.linked(entry, bits);
        }
        bits.consume(entry & 63);
        entry
    }

    #[inline(always)]
    fn linked(&self, link: u32, bits: &Bits) -> u32 {
        let more = link & 63;
        let within = bits.peek(FIRST + more) & ((1 << more) - 1);
        self.second[(link >> 8) as usize + within]
    }
}

/// All that is looked up while a spectrum is read.
pub(super) struct Tables {
    scale_factors: Lookup,
    books: [Lookup; 11],
    /// Four numbers of −2..2, by their index in base 5, to the power 4/3. Longer than that, so that any 10 bits index
    /// it.
    quads: Box<[[f32; 4]; 1024]>,
    /// Two numbers of −16..16, by their index in base 33, to the power 4/3. Longer than that, as above.
    pairs: Box<[[f32; 2]; 2048]>,
    /// By magnitude, to the power 4/3.
    magnitudes: Box<[f32; LARGEST + 1]>,
    /// 2^(n/4), from n = −100 on.
    gains: [f32; 256],
}

pub(super) static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    // A book's base, least value and whether it is of four values.
    let shapes = [(3, -1), (3, -1), (3, 0), (3, 0), (9, -4), (9, -4), (8, 0), (8, 0), (13, 0), (13, 0), (17, 0)];
    let magnitude = |i: usize| (i as f64).powf(4.0 / 3.0) as f32;
    let signed = |value: i32| magnitude(value.unsigned_abs() as usize) * value.signum() as f32;
    let digit = |index: usize, base: i32, place: u32| signed(index as i32 / base.pow(place) % base - base / 2);
    Tables {
        scale_factors: Lookup::plain(&SCALE_FACTORS),
        books: std::array::from_fn(|i| {
            let ((base, least), book) = (shapes[i], &SPECTRUM[i]);
            if i < 4 {
                Lookup::of_values::<4>(book, base, least, QUAD_BASE)
            } else {
                Lookup::of_values::<2>(book, base, least, PAIR_BASE)
            }
        }),
        quads: Box::new(std::array::from_fn(|i| std::array::from_fn(|k| digit(i, QUAD_BASE, 3 - k as u32)))),
        pairs: Box::new(std::array::from_fn(|i| std::array::from_fn(|k| digit(i, PAIR_BASE, 1 - k as u32)))),
        magnitudes: Box::new(std::array::from_fn(magnitude)),
        gains: std::array::from_fn(|i| ((i as f64 - 100.0) / 4.0).exp2() as f32),
    }
});

impl Tables {
    /// A difference of scale factors (section 4.6.2.3.2), −60 to 60.
    pub fn difference(&self, bits: &mut Bits) -> i32 {
        bits.refill();
        (self.scale_factors.entry(bits) >> 8) as i32 - 60
    }

    /// `sign(q) · |q|^(4/3)` (section 4.6.3.3) of `out.len()` numbers, a multiple of 4, in `book`, 1 to 11. False where
    /// an escape is longer than there are.
    pub fn read(&self, reader: &mut Bits, book: u8, out: &mut [f32]) -> bool {
        // A copy stays in registers.
        let mut bits = *reader;
        let lookup = &self.books[usize::from(book) - 1];
        match book {
            1..=4 => {
                for four in out.as_chunks_mut::<4>().0 {
                    bits.refill();
                    *four = self.quads[(lookup.entry(&mut bits) >> 8) as usize & 1023];
                }
            }
            5..=10 => {
                for four in out.as_chunks_mut::<4>().0 {
                    bits.refill();
                    let [a, b] = self.pairs[(lookup.entry(&mut bits) >> 8) as usize & 2047];
                    let [c, d] = self.pairs[(lookup.entry(&mut bits) >> 8) as usize & 2047];
                    *four = [a, b, c, d];
                }
            }
            _ => {
                for two in out.as_chunks_mut::<2>().0 {
                    bits.refill();
                    let entry = lookup.entry(&mut bits);
                    *two = self.pairs[(entry >> 8) as usize & 2047];
                    if entry & ESCAPE != 0 {
                        let base = PAIR_BASE as u32;
                        let numbers = [(entry >> 8) / base, (entry >> 8) % base].map(|n| n as i32 - PAIR_BASE / 2);
                        for (value, number) in two.iter_mut().zip(numbers).filter(|(_, n)| n.abs() == 16) {
                            let Some(magnitude) = escape(&mut bits) else { return false };
                            *value = self.magnitudes[magnitude] * number.signum() as f32;
                        }
                    }
                }
            }
        }
        *reader = bits;
        true
    }

    /// Passes over `n` numbers, a multiple of 4.
    pub fn pass_over(&self, reader: &mut Bits, book: u8, n: usize) -> bool {
        let mut bits = *reader;
        let lookup = &self.books[usize::from(book) - 1];
        match book {
            1..=4 => {
                for _ in 0..n / 4 {
                    bits.refill();
                    lookup.entry(&mut bits);
                }
            }
            5..=10 => {
                for _ in 0..n / 4 {
                    bits.refill();
                    lookup.entry(&mut bits);
                    lookup.entry(&mut bits);
                }
            }
            _ => {
                for _ in 0..n / 2 {
                    bits.refill();
                    let entry = lookup.entry(&mut bits);
                    if entry & ESCAPE != 0 {
                        let base = PAIR_BASE as u32;
                        for number in [(entry >> 8) / base, (entry >> 8) % base] {
                            if (number == 0 || number == 32) && escape(&mut bits).is_none() {
                                return false;
                            }
                        }
                    }
                }
            }
        }
        *reader = bits;
        true
    }

    /// 2^(n/4), of −100 to 155 and not beyond: what scale factors say (section 4.6.2.3.3).
    pub fn gain(&self, n: i32) -> f32 {
        self.gains[(n.clamp(-100, 155) + 100) as usize]
    }

    /// `|q|^(4/3)`, of no more than an escape can say.
    pub fn power(&self, magnitude: usize) -> f32 {
        self.magnitudes[magnitude.min(LARGEST)]
    }
}

/// A magnitude of 16 or more (section 4.6.3.3): as many ones as bits follow the zero beyond four, then its bits below
/// the highest. Two of up to 21 bits fit behind a code without a refill.
#[inline(always)]
fn escape(bits: &mut Bits) -> Option<usize> {
    let ones = bits.window().leading_ones();
    if ones > 8 {
        return None;
    }
    bits.consume(ones + 1);
    let low = bits.peek(ones + 4);
    bits.consume(ones + 4);
    Some(1 << (ones + 4) | low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::testing::Writer;

    fn number(state: &mut u32) -> u32 {
        *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        *state >> 8
    }

    #[test]
    fn what_is_written_by_the_definition_is_read_back_and_passed_over() {
        // Numbers per code, the largest, and whether their sign is part of the code (table 4.151).
        let shapes = [(4, 1, 1), (4, 1, 1), (4, 2, 0), (4, 2, 0), (2, 4, 1), (2, 4, 1)];
        let shapes = shapes.into_iter().chain([(2, 7, 0), (2, 7, 0), (2, 12, 0), (2, 12, 0), (2, 8191, 0)]);
        let mut state = 1;
        for (book, (n, largest, signed)) in (1u8..).zip(shapes) {
            let codes: Vec<_> = SPECTRUM[usize::from(book) - 1].codes().collect();
            let (mut writer, mut expected) = (Writer::default(), vec![]);
            // Often enough that each symbol is likely to be among them.
            for _ in 0..4000 {
                let values: Vec<i32> = (0..n)
                    .map(|_| {
                        // Of the escape book, half of the numbers from each power of two.
                        let range = if largest == 8191 { 1 << (1 + number(&mut state) % 13) } else { largest + 1 };
                        let value = (number(&mut state) % range as u32) as i32;
                        if number(&mut state).is_multiple_of(2) { value } else { -value }
                    })
                    .collect();
                let symbol = values.iter().fold(0, |symbol, &v| {
                    if signed == 1 {
                        symbol * (2 * largest + 1) + v + largest
                    } else {
                        symbol * (largest.min(16) + 1) + v.abs().min(16)
                    }
                });
                let &(_, code, bits) = codes.iter().find(|c| i32::from(c.0) == symbol).unwrap();
                writer.put(i64::from(code), bits);
                if signed == 0 {
                    values.iter().filter(|&&v| v != 0).for_each(|&v| writer.put(i64::from(v < 0), 1));
                }
                for v in values.iter().map(|v| v.unsigned_abs()).filter(|&v| largest == 8191 && v >= 16) {
                    let beyond = v.ilog2() - 4;
                    writer.put((1 << (beyond + 1)) - 2, beyond + 1);
                    writer.put(i64::from(v) - (16 << beyond), beyond + 4);
                }
                expected.extend(values.iter().map(|&v| v as f32));
            }
            let mut bits = Bits::new(&writer.bytes, 0);
            let mut read = vec![0.0; expected.len()];
            assert!(TABLES.read(&mut bits, book, &mut read));
            assert_eq!(bits.position(), writer.bits);
            for (read, expected) in read.iter().zip(&expected) {
                let wanted = expected.signum() * expected.abs().powf(4.0 / 3.0);
                assert!((read - wanted).abs() <= 1e-5 * wanted.abs(), "book {book}: {read}, expected {wanted}");
            }
            let mut bits = Bits::new(&writer.bytes, 0);
            assert!(TABLES.pass_over(&mut bits, book, expected.len()));
            assert_eq!(bits.position(), writer.bits);
        }
    }

    #[test]
    fn a_difference_of_scale_factors_is_read_back() {
        for (symbol, code, length) in SCALE_FACTORS.codes() {
            let bytes = (code << (32 - length)).to_be_bytes();
            let mut bits = Bits::new(&bytes, 0);
            assert_eq!(TABLES.difference(&mut bits), i32::from(symbol) - 60);
            assert_eq!(bits.position() as u32, length);
        }
    }

    #[test]
    fn an_escape_that_never_ends_is_refused() {
        let mut values = [0.0; 64];
        // The code of (16, 16) and two signs; then ones that do not end.
        let &(_, code, length) = &SPECTRUM[10].codes().find(|c| c.0 == 288).unwrap();
        let mut writer = Writer::default();
        writer.put(i64::from(code), length);
        writer.put(0, 2);
        (0..20).for_each(|_| writer.put(-1, 32));
        assert!(!TABLES.read(&mut Bits::new(&writer.bytes, 0), 11, &mut values));
        assert!(!TABLES.pass_over(&mut Bits::new(&writer.bytes, 0), 11, 64));
    }
}
