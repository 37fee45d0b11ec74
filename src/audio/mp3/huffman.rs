//! From Huffman coded bits to lines: `±|q|^(4/3)` of each quantised number `q`, not yet scaled.
//!
//! ```text
//! lines  0 ........ pairs_end ........ end ........ 575
//!        pairs, three    fours of 0, ±1    zeros
//!        code tables
//! ```
//!
//! Ten bits at a time are looked up together with the signs that follow a word, so that nearly all pairs cost one
//! look-up and no branch.

use std::sync::LazyLock;

use super::bands::LINES;
use super::bits::Bits;
use super::books::{BOOKS, FOURS, LINBITS};
use super::side::Channel;

/// Lines, with room for the last four to begin at the last line.
pub type Lines = [f32; LINES + 8];

/// Bits of the first look-up. More would resolve a few more pairs at once and drive each other out of the cache.
const FIRST: u32 = 10;
/// The largest number: 15 and 13 bits more.
const LARGEST: usize = 15 + (1 << 13) - 1;

/// One entry of the first look-up: the low byte is the number of bits that a pair takes with its signs, the others are
/// its two numbers plus 16. Where that byte is 0 the pair is looked up again: the second byte says by how many bits
/// more, the upper half where in `rest`.
struct Book {
    first: [u32; 1 << FIRST],
    /// As in [`super::books`].
    rest: Vec<u16>,
}

struct Codes {
    /// By table; 0, 4 and 14 have none.
    books: [Option<Box<Book>>; 16 + 9],
    /// Fours: the low byte is the number of bits, the high one an index of `values`.
    fours: [[u16; 1 << FIRST]; 2],
    values: [[f32; 4]; 81],
    /// `(i − 16)^(4/3)`, signed.
    small: [f32; 32],
    /// `i^(4/3)`
    power: Vec<f32>,
}

static CODES: LazyLock<Codes> = LazyLock::new(Codes::new);

impl Codes {
    fn new() -> Codes {
        let mut books = [const { None }; 25];
        for (table, words) in BOOKS {
            books[table] = Some(Box::new(Book::new(words, table >= 16)));
        }
        let fours_b: Vec<u16> = (0..16).map(|word| 0x400 | (15 - word)).collect();
        let values =
            std::array::from_fn(|i| std::array::from_fn(|k| [0.0, 1.0, -1.0][i / [27, 9, 3, 1][k] % 3]));
        let power: Vec<f32> = (0..=LARGEST).map(|i| (i as f64).powf(4.0 / 3.0) as f32).collect();
        let small = std::array::from_fn(|i| {
            let number = i as f64 - 16.0;
            (number.signum() * number.abs().powf(4.0 / 3.0)) as f32
        });
        Codes { books, fours: [fours_table(&FOURS), fours_table(&fours_b)], values, small, power }
    }

    /// The book of a table, and how many bits follow a 15.
    fn book(&self, table: u8) -> (Option<&Book>, u32) {
        let index = match table {
            0..16 => table,
            16..24 => 16,
            _ => 24,
        };
        let extra = if table < 16 { 0 } else { LINBITS[usize::from(table & 15)] };
        (self.books[usize::from(index)].as_deref(), extra)
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
    /// `extended`: more bits may follow a 15.
    fn new(book: &[u16], extended: bool) -> Book {
        let mut first = [0; 1 << FIRST];
        let mut rest = Vec::new();
        let coded: Vec<(u32, u32, u16)> = words(book.iter().map(|&w| u32::from(w >> 8)))
            .zip(book)
            .map(|((length, word), &entry)| (length, word, entry))
            .collect();
        for (index, slot) in first.iter_mut().enumerate() {
            let index = index as u32;
            let inside = |&&(length, word, _): &&(u32, u32, u16)| {
                let common = length.min(FIRST);
                word >> (length - common) == index >> (FIRST - common)
            };
            let longest = coded.iter().filter(inside).map(|w| w.0).max().unwrap_or(0);
            let (length, _, entry) = *coded.iter().find(inside).expect("a book is complete");
            let (x, y) = (i32::from(entry >> 4 & 15), i32::from(entry & 15));
            let signs = u32::from(x > 0) + u32::from(y > 0);
            if length + signs <= FIRST && !(extended && x.max(y) == 15) {
                let mut at = FIRST - length;
                let mut signed = |number: i32| {
                    if number == 0 {
                        return 16;
                    }
                    at -= 1;
                    (16 + if index >> at & 1 == 1 { -number } else { number }) as u32
                };
                *slot = signed(x) << 8 | signed(y) << 16 | (length + signs);
                continue;
            }
            // All words that begin with these bits, by the bits that follow.
            let more = longest.saturating_sub(FIRST);
            *slot = (rest.len() as u32) << 16 | more << 8;
            for tail in 0..1u32 << more {
                let bits = index << more | tail;
                let starts = |&&(length, word, _): &&(u32, u32, u16)| {
                    length <= FIRST + more && bits >> (FIRST + more - length) == word
                };
                let found = coded.iter().find(starts);
                rest.push(found.expect("a book is complete").2);
            }
        }
        Book { first, rest }
    }
}

/// By the next ten bits: how many of them code four lines with their signs, and which of the 81 fours it is.
fn fours_table(book: &[u16]) -> [u16; 1 << FIRST] {
    let mut table = [0; 1 << FIRST];
    for ((length, word), &entry) in words(book.iter().map(|&w| u32::from(w >> 8))).zip(book) {
        for tail in 0..1 << (FIRST - length) {
            let mut at = FIRST - length;
            let mut index = 0;
            for k in (0..4).rev() {
                index *= 3;
                if entry >> k & 1 == 1 {
                    at -= 1;
                    index += 1 + (tail >> at & 1);
                }
            }
            table[(word << (FIRST - length) | tail) as usize] = (index << 8 | (FIRST - at)) as u16;
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
        let table = &codes.fours[channel.fours];
        while at < fours_end && bits.position() < end {
            bits.refill();
            let entry = table[bits.peek(FIRST)];
            bits.skip(u32::from(entry & 255));
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
    let mut at = 0;
    for pair in out.as_chunks_mut::<2>().0 {
        if bits.position() >= end {
            break;
        }
        bits.refill();
        let entry = book.first[bits.peek(FIRST)];
        if entry & 255 != 0 {
            bits.skip(entry & 255);
            *pair = [codes.small[(entry >> 8 & 31) as usize], codes.small[(entry >> 16 & 31) as usize]];
        } else {
            *pair = read_long(bits, codes, book, entry, extra);
        }
        at += 2;
    }
    at
}

/// A pair that ten bits do not hold: at most 19 bits, twice 13 more, and two signs.
fn read_long(bits: &mut Bits<'_>, codes: &Codes, book: &Book, entry: u32, extra: u32) -> [f32; 2] {
    let more = entry >> 8 & 255;
    let tail = bits.peek(FIRST + more) & ((1 << more) - 1);
    let word = book.rest[(entry >> 16) as usize + tail];
    bits.skip(u32::from(word >> 8));
    [usize::from(word >> 4 & 15), usize::from(word & 15)].map(|mut number| {
        if number == 15 && extra > 0 {
            number += bits.peek(extra);
            bits.skip(extra);
        }
        if number == 0 {
            return 0.0;
        }
        let value = codes.power[number];
        let negative = bits.peek(1) == 1;
        bits.skip(1);
        if negative { -value } else { value }
    })
}
