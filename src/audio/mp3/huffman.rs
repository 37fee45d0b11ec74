//! From Huffman coded bits to lines: `±|q|^(4/3)` of each quantised number `q`, not yet scaled.
//!
//! ```text
//! lines  0 ........ pairs_end ........ end ........ 575
//!        pairs, three    fours of 0, ±1    zeros
//!        code tables
//! ```
//!
//! A word of up to ten bits is one look-up, which also says where the signs behind it stand; only longer words and
//! numbers from 15 on, to which bits are added, cost a branch that the processor cannot foresee.

use std::sync::LazyLock;

use super::bands::LINES;
use super::books::{BOOKS, FOURS, LINBITS};
use super::side::Channel;
use crate::audio::bits::Bits;

/// Lines, with room for the last four to begin at the last line.
pub type Lines = [f32; LINES + 8];

/// Bits of the first look-up. With more of them fewer words need a second one, but the tables drive each other out of
/// the cache.
const FIRST: u32 = 10;
/// The largest number: 15 and 13 bits more.
const LARGEST: usize = 15 + (1 << 13) - 1;

/// A code book with the look-up by its next `index_bits` bits, at most [`FIRST`].
struct Book {
    index_bits: u32,
    first: Vec<Entry>,
    /// Words that are looked up again, as in [`super::books`].
    rest: Vec<u16>,
}

/// Four bytes, from the lowest one: the bits of a pair with its signs, the bits before the sign of `x`, those before
/// the sign of `y`, and `x` and `y` themselves. If there is a second look-up the lowest is 0; the next one is by how
/// many bits more, and the upper half where in `rest`.
type Entry = u32;

/// The longest word of a four, and its signs.
const FOURS_BITS: u32 = 10;

struct Codes {
    /// By table; 0, 4 and 14 have none.
    books: [Option<Book>; 16 + 9],
    /// Fours, by the next [`FOURS_BITS`] bits: the low byte is the number of bits, the high one an index of `values`.
    fours: [[u16; 1 << FOURS_BITS]; 2],
    values: [[f32; 4]; 81],
    /// `i^(4/3)`
    power: Box<[f32; LARGEST + 1]>,
}

static CODES: LazyLock<Codes> = LazyLock::new(Codes::new);

impl Codes {
    fn new() -> Codes {
        let mut books = [const { None }; 25];
        for (table, words) in BOOKS {
            books[table] = Some(Book::new(words, table >= 16));
        }
        let fours_b: Vec<u16> = (0..16).map(|word| 0x400 | (15 - word)).collect();
        let values = std::array::from_fn(|i| std::array::from_fn(|k| [0.0, 1.0, -1.0][i / [27, 9, 3, 1][k] % 3]));
        let power = Box::new(std::array::from_fn(|i| (i as f64 * (i as f64).cbrt()) as f32));
        Codes { books, fours: [fours_table(&FOURS), fours_table(&fours_b)], values, power }
    }

    /// The book of a table, and how many bits follow a 15.
    fn book(&self, table: u8) -> (Option<&Book>, u32) {
        let index = match table {
            0..16 => table,
            16..24 => 16,
            _ => 24,
        };
        let extra = if table < 16 { 0 } else { LINBITS[usize::from(table & 15)] };
        (self.books[usize::from(index)].as_ref(), extra)
    }
}

/// The words of a complete code in the order of their bits: the length and the word itself.
fn words(lengths: impl Iterator<Item = u32>) -> impl Iterator<Item = (u32, u32)> {
    let mut next = 0u64;
    lengths.map(move |length| {
        let word = next >> (32 - length);
        next += 1 << (32 - length);
        (length, word as u32)
    })
}

impl Book {
    /// `extended`: bits may follow a 15.
    fn new(book: &[u16], extended: bool) -> Book {
        let coded: Vec<(u32, u32, u16)> = words(book.iter().map(|&w| u32::from(w >> 8)))
            .zip(book)
            .map(|((length, word), &entry)| (length, word, entry))
            .collect();
        let index_bits = coded.iter().map(|w| w.0).max().unwrap_or(0).min(FIRST);
        let mut first = Vec::with_capacity(1 << index_bits);
        let mut rest = Vec::new();
        // Words in the order of their bits fill the tables from the beginning to the end.
        for same in coded.chunk_by(|a, b| index(a, index_bits) == index(b, index_bits)) {
            let longest = same.iter().map(|w| w.0).max().unwrap_or(0);
            if longest <= index_bits {
                // A word of its own, or several times in the table.
                let (length, _, entry) = same[0];
                let pair = u32::from(entry & 255);
                let (x, y) = (pair >> 4, pair & 15);
                let y_sign = length + u32::from(x > 0);
                let all = y_sign + u32::from(y > 0);
                let slot = if extended && x.max(y) == 15 {
                    rest.push(entry);
                    (rest.len() as u32 - 1) << 16
                } else {
                    pair << 24 | y_sign << 16 | length << 8 | all
                };
                first.resize(first.len() + (1 << (index_bits - length)), slot);
            } else {
                let more = longest - index_bits;
                first.push((rest.len() as u32) << 16 | more << 8);
                for &(length, _, entry) in same {
                    rest.resize(rest.len() + (1 << (longest - length)), entry);
                }
            }
        }
        Book { index_bits, first, rest }
    }
}

/// The first entry of the first look-up that a word belongs to.
fn index(&(length, word, _): &(u32, u32, u16), index_bits: u32) -> u32 {
    if length > index_bits { word >> (length - index_bits) } else { word << (index_bits - length) }
}

/// By the next bits: how many of them code four lines with their signs, and which of the 81 fours it is.
fn fours_table(book: &[u16]) -> [u16; 1 << FOURS_BITS] {
    let mut table = [0; 1 << FOURS_BITS];
    for ((length, word), &entry) in words(book.iter().map(|&w| u32::from(w >> 8))).zip(book) {
        for tail in 0..1 << (FOURS_BITS - length) {
            let mut at = FOURS_BITS - length;
            let mut index = 0;
            for k in (0..4).rev() {
                index *= 3;
                if entry >> k & 1 == 1 {
                    at -= 1;
                    index += 1 + (tail >> at & 1);
                }
            }
            table[(word << (FOURS_BITS - length) | tail) as usize] = (index << 8 | (FOURS_BITS - at)) as u16;
        }
    }
    table
}

/// Reads the lines of a channel: those below `limit` (and perhaps a few more), from `bits`, which end at position
/// `end`. Returns how many lines were read; all from there to `limit` are zero.
///
/// What a damaged stream codes beyond its end is kept if it is a pair and dropped if it is a four: encoders exist whose
/// stuffing bits look like a four.
pub fn read(bits: &mut Bits<'_>, channel: &Channel, end: usize, limit: usize, lines: &mut Lines) -> usize {
    let codes = &*CODES;
    let mut at = 0;
    if bits.position() < end {
        let edges = [channel.regions[0], channel.regions[1], LINES];
        for (&table, edge) in channel.tables.iter().zip(edges) {
            let region_end = edge.min(channel.pairs_end).min(limit);
            if region_end <= at {
                continue;
            }
            match codes.book(table) {
                (None, _) => {
                    lines[at..region_end].fill(0.0);
                    at = region_end;
                }
                (Some(book), extra) => at += read_pairs(bits, codes, book, extra, end, &mut lines[at..region_end]),
            }
        }
        // At most LINES − 4: the last four lines of all may be coded as such, no line behind them.
        let fours_end = limit.min(LINES - 3);
        let table = &codes.fours[channel.count1table_select];
        while at < fours_end && bits.position() < end {
            bits.refill();
            let entry = table[bits.peek(FOURS_BITS)];
            bits.consume(u32::from(entry & 255));
            if bits.position() > end {
                break;
            }
            lines[at..at + 4].copy_from_slice(&codes.values[usize::from(entry >> 8)]);
            at += 4;
        }
    }
    if at < limit {
        lines[at..limit].fill(0.0);
    }
    at
}

/// Fills `out` (an even number of lines) with pairs, as long as there are bits; returns how many lines it filled.
#[inline(always)]
fn read_pairs(bits: &mut Bits<'_>, codes: &Codes, book: &Book, extra: u32, end: usize, out: &mut [f32]) -> usize {
    /// Pairs that one refill is enough for, if none is looked up twice.
    const GROUP: usize = 56 / (FIRST as usize + 2);
    let pairs = out.as_chunks_mut::<2>().0;
    // A copy whose address nobody takes stays in registers.
    let mut here = *bits;
    let mut at = 0;
    while at < pairs.len() && here.position() < end {
        here.refill();
        // Near the end of the bits each pair is looked at by itself.
        let group = if here.position() + 56 <= end { GROUP } else { 1 };
        for pair in pairs[at..].iter_mut().take(group) {
            let entry = book.first[here.peek(book.index_bits)];
            at += 1;
            if entry & 255 == 0 {
                here.refill();
                (*pair, here) = read_long(here, codes, book, entry, extra);
                break;
            }
            // A zero has no sign, and it does not matter which one it gets.
            let value = |number: u32, sign_at: u32| {
                let sign = (here.window() << (sign_at & 63) >> 63 << 31) as u32;
                f32::from_bits(codes.power[number as usize & 15].to_bits() ^ sign)
            };
            *pair = [value(entry >> 28, entry >> 8), value(entry >> 24, entry >> 16)];
            here.consume(entry & 63);
        }
    }
    *bits = here;
    2 * at
}

/// A pair that the first look-up does not hold: at most 19 bits, twice 13 more, and two signs.
#[inline(always)]
fn read_long<'a>(mut bits: Bits<'a>, codes: &Codes, book: &Book, entry: Entry, extra: u32) -> ([f32; 2], Bits<'a>) {
    let more = entry >> 8 & 255;
    let tail = bits.peek(book.index_bits + more) & ((1 << more) - 1);
    let word = book.rest[(entry >> 16) as usize + tail];
    bits.consume(u32::from(word >> 8));
    let pair = [usize::from(word >> 4 & 15), usize::from(word & 15)].map(|mut number| {
        if number == 15 && extra > 0 {
            number += bits.peek(extra);
            bits.consume(extra);
        }
        if number == 0 {
            return 0.0;
        }
        let value = codes.power[number];
        let negative = bits.peek(1) == 1;
        bits.consume(1);
        if negative { -value } else { value }
    });
    (pair, bits)
}

#[cfg(test)]
mod tests {
    use super::super::bands::Block;
    use super::*;

    #[test]
    fn books_are_complete() {
        for (table, book) in BOOKS.into_iter().chain([(32, FOURS.as_slice())]) {
            let shares: u64 = book.iter().map(|w| 1u64 << (32 - (w >> 8))).sum();
            assert_eq!(shares, 1 << 32, "table {table}");
            let mut pairs: Vec<u16> = book.iter().map(|w| w & 255).collect();
            pairs.sort_unstable();
            pairs.dedup();
            assert_eq!(pairs.len(), book.len(), "table {table}");
        }
    }

    /// Bits as text; long, but plain.
    fn bytes(text: &str) -> Vec<u8> {
        let bits: Vec<u8> = text.bytes().map(|c| c - b'0').collect();
        bits.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, bit)| byte | bit << (7 - i))).collect()
    }

    #[test]
    fn every_word_of_every_table_is_read_with_its_signs_and_extra_bits() {
        for table in (1..32u8).filter(|t| ![4, 14].contains(t)) {
            let book = BOOKS.iter().rev().find(|b| b.0 <= usize::from(table)).unwrap().1;
            let extra = if table < 16 { 0 } else { LINBITS[usize::from(table) - 16] };
            let coded = words(book.iter().map(|&w| u32::from(w >> 8)));
            let all: Vec<((u32, u32), u16)> = coded.zip(book.iter().copied()).collect();
            for (part, words) in all.chunks(100).enumerate() {
                let mut text = String::new();
                let mut expected = Vec::new();
                for (i, &((length, word), entry)) in words.iter().enumerate() {
                    text += &format!("{word:0length$b}", length = length as usize);
                    for (k, number) in [entry >> 4 & 15, entry & 15].into_iter().enumerate() {
                        let more = if number == 15 { (i * 37 + k) % (1 << extra) } else { 0 };
                        if number == 15 && extra > 0 {
                            text += &format!("{more:0extra$b}", extra = extra as usize);
                        }
                        let negative = (i + k) % 3 == 0;
                        if number > 0 {
                            text += if negative { "1" } else { "0" };
                        }
                        let value = (f64::from(number) + more as f64).powf(4.0 / 3.0);
                        expected.push(if negative { -value } else { value });
                    }
                }
                let channel = Channel {
                    pairs_end: expected.len(),
                    tables: [table; 3],
                    regions: [2, 30],
                    ..Channel::of(Block::Long)
                };
                let data = bytes(&text);
                let mut lines = [7.0; LINES + 8];
                let filled = read(&mut Bits::new(&data, 0), &channel, text.len(), LINES, &mut lines);
                assert_eq!(filled, expected.len(), "table {table}, part {part}");
                for (i, (found, expected)) in lines.iter().zip(expected.into_iter().chain([0.0; 8])).enumerate() {
                    assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected.abs(), "table {table}, line {i}");
                }
            }
        }
    }

    #[test]
    fn fours_are_read_to_the_end_and_one_beyond_it_is_dropped() {
        for (fours, word, length) in [(0, "000001", 6), (1, "0000", 4)] {
            // All four of them one, with signs + − − +.
            let text = format!("{word}0110").repeat(3);
            let data = bytes(&(text + "1111111111111111"));
            let channel = Channel { count1table_select: fours, ..Channel::of(Block::Long) };
            for end in [3 * (length + 4), 3 * (length + 4) - 1] {
                let mut lines = [7.0; LINES + 8];
                let filled = read(&mut Bits::new(&data, 0), &channel, end, LINES, &mut lines);
                assert_eq!(filled, if end % 2 == 0 { 12 } else { 8 });
                for i in 0..LINES {
                    let expected = if i < filled { [1.0, -1.0, -1.0, 1.0][i % 4] } else { 0.0 };
                    assert_eq!(lines[i], expected, "line {i} of table {fours}");
                }
            }
        }
    }
}
