//! Codebooks: Huffman codes and the vectors that they stand for (Vorbis I, section 3).

use symphonia::core::errors::{Error, Result};

use super::bits::{Bits, ilog};
use super::setup::{Budget, CUT};

/// Codewords up to this length are found in one look. With 10 bits one in a hundred is longer, and the tables of the
/// books that a packet uses stay within the first-level cache.
const TABLE_BITS: u32 = 10;
/// A table cell is `rank << LENGTH_BITS | length`.
const LENGTH_BITS: u32 = 7;
const LENGTH_MASK: u32 = (1 << LENGTH_BITS) - 1;
/// Lengths above what a refill can give: no such codeword, and the rank is an index into `ranges` instead.
const NONE: u32 = 64;
const LONG: u32 = 65;

/// A codebook. Its used entries are numbered anew by `rank`, their order in the code tree from left to right.
pub(super) struct Codebook {
    pub dimensions: usize,
    /// By the next bits of the packet, `2^n` cells.
    table: Vec<u32>,
    /// Four codewords never exceed the 56 bits of a refill.
    four_in_a_refill: bool,
    /// First and last rank below a cell whose codewords are longer than the table's index.
    ranges: Vec<(u32, u32)>,
    /// `[rank]`: codeword, first bit highest, left-aligned in 32 bits; empty where no codeword is long.
    codes: Vec<u32>,
    /// `[rank]`: its length; as long as `codes`.
    lengths: Vec<u8>,
    /// `[rank]`: the number of the entry in the header.
    entries: Vec<u32>,
    /// `[rank, dimensions]`: the vectors, where entries stand for some.
    vectors: Option<Vec<f32>>,
}

impl Codebook {
    /// Reads one from the setup header (section 3.2.1).
    pub fn read(bits: &mut Bits<'_>, budget: &mut Budget) -> Result<Codebook> {
        if bits.read(24).ok_or(CUT)? != 0x56_4342 {
            return Err(Error::DecodeError("vorbis: no codebook where one should be"));
        }
        let dimensions = bits.read(16).ok_or(CUT)? as usize;
        let entries = bits.read(24).ok_or(CUT)? as usize;
        // Few bits may claim 16 million entries (by lengths in order).
        budget.entries = budget.entries.checked_sub(entries).ok_or(TOO_LARGE)?;
        let lengths = read_lengths(bits, entries)?;
        let tree = tree(&lengths)?;
        let values = Values::read(bits, entries, dimensions)?;
        let vectors = match values {
            None => None,
            Some(values) => {
                let floats = tree.len().saturating_mul(dimensions);
                budget.floats = budget.floats.checked_sub(floats).ok_or(TOO_LARGE)?;
                let mut vectors = Vec::with_capacity(floats);
                for leaf in &tree {
                    values.vector(leaf.entry as usize, dimensions, &mut vectors);
                }
                Some(vectors)
            }
        };
        Ok(Codebook::new(dimensions, &tree, vectors))
    }

    /// From leaves in the order of their codes.
    fn new(dimensions: usize, tree: &[Leaf], vectors: Option<Vec<f32>>) -> Codebook {
        let longest = tree.iter().map(|leaf| leaf.length).max().unwrap_or(0);
        let index_bits = if tree.len() <= 1 { 0 } else { longest.min(TABLE_BITS) };
        let mut table = vec![NONE; 1 << index_bits];
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (rank, leaf) in tree.iter().enumerate() {
            let rank = rank as u32;
            // The first bit of a codeword is the highest of its code and the lowest of the buffer.
            let first = leaf.code.reverse_bits() as usize & (table.len() - 1);
            if leaf.length <= index_bits || tree.len() == 1 {
                // The only codeword of a book takes one bit, whatever that bit is (erratum of 2015-02-26).
                let cells = table[first..].iter_mut().step_by(1 << leaf.length.min(index_bits));
                cells.for_each(|cell| *cell = rank << LENGTH_BITS | leaf.length);
            } else if table[first] & LENGTH_MASK == LONG {
                ranges[(table[first] >> LENGTH_BITS) as usize].1 = rank;
            } else {
                table[first] = (ranges.len() as u32) << LENGTH_BITS | LONG;
                ranges.push((rank, rank));
            }
        }
        let with_long = if ranges.is_empty() { &[] } else { tree };
        Codebook {
            dimensions,
            four_in_a_refill: longest <= 14,
            table,
            ranges,
            codes: with_long.iter().map(|leaf| leaf.code).collect(),
            lengths: with_long.iter().map(|leaf| leaf.length as u8).collect(),
            entries: tree.iter().map(|leaf| leaf.entry).collect(),
            vectors,
        }
    }

    /// Whether entries stand for vectors.
    pub fn has_vectors(&self) -> bool {
        self.vectors.is_some()
    }

    /// The entry numbers, `[rank]`.
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// The rank of the next codeword.
    #[inline(always)]
    pub fn rank(&self, bits: &mut Bits<'_>) -> Option<usize> {
        bits.refill();
        self.refilled_rank(bits)
    }

    /// The same, where a refill has already made the longest codeword's bits valid.
    #[inline(always)]
    fn refilled_rank(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let cell = self.table[bits.peek() as usize & (self.table.len() - 1)];
        if bits.skip(cell & LENGTH_MASK) {
            return Some((cell >> LENGTH_BITS) as usize);
        }
        let rank;
        (*bits, rank) = self.long_rank(*bits, cell);
        rank
    }

    /// A codeword longer than the table's index: the last one of its range that is not above the bits to come. (The
    /// tree is complete, so it is the right one.) Or the packet has ended.
    #[cold]
    #[inline(never)]
    fn long_rank<'a>(&self, mut bits: Bits<'a>, cell: u32) -> (Bits<'a>, Option<usize>) {
        if cell & LENGTH_MASK == LONG {
            let (first, last) = self.ranges[(cell >> LENGTH_BITS) as usize];
            let key = (bits.peek() as u32).reverse_bits();
            let range = &self.codes[first as usize..=last as usize];
            let rank = first as usize + range.partition_point(|&code| code <= key).saturating_sub(1);
            if bits.skip(u32::from(self.lengths[rank])) {
                return (bits, Some(rank));
            }
        }
        (Bits::new(&[]), None)
    }

    /// The number of the next entry (a book used for scalars, section 3.3).
    #[inline]
    pub fn scalar(&self, bits: &mut Bits<'_>) -> Option<u32> {
        self.rank(bits).map(|rank| self.entries[rank])
    }

    fn vectors(&self) -> &[f32] {
        self.vectors.as_deref().unwrap_or_default()
    }

    /// Adds as many vectors as fit to `out`, one behind the other; of the last one what fits. `None` where the packet
    /// ends; what came before is added.
    #[inline]
    pub fn add(&self, bits: &mut Bits<'_>, out: &mut [f32]) -> Option<()> {
        match self.dimensions {
            1 => self.add_by::<1>(bits, out),
            2 => self.add_by::<2>(bits, out),
            4 => self.add_by::<4>(bits, out),
            8 => self.add_by::<8>(bits, out),
            _ => {
                for chunk in out.chunks_mut(self.dimensions) {
                    let rank = self.rank(bits)?;
                    let vector = &self.vectors()[rank * self.dimensions..];
                    chunk.iter_mut().zip(vector).for_each(|(x, v)| *x += v);
                }
                Some(())
            }
        }
    }

    fn add_by<const D: usize>(&self, bits: &mut Bits<'_>, out: &mut [f32]) -> Option<()> {
        let vectors = self.vectors().as_chunks::<D>().0;
        let (chunks, rest) = out.as_chunks_mut::<D>();
        // A copy stays in registers.
        let mut local = *bits;
        let (fours, singles) = if self.four_in_a_refill { chunks.as_chunks_mut::<4>() } else { (&mut [][..], chunks) };
        for four in fours {
            // Fewer refills: between two of them a codeword waits only for the table cell of the one before.
            local.refill();
            for chunk in four {
                let Some(rank) = self.refilled_rank(&mut local) else { return bits.run_out() };
                chunk.iter_mut().zip(&vectors[rank]).for_each(|(x, v)| *x += v);
            }
        }
        for chunk in singles {
            let Some(rank) = self.rank(&mut local) else { return bits.run_out() };
            chunk.iter_mut().zip(&vectors[rank]).for_each(|(x, v)| *x += v);
        }
        *bits = local;
        if !rest.is_empty() {
            let vector = &vectors[self.rank(bits)?];
            rest.iter_mut().zip(vector).for_each(|(x, v)| *x += v);
        }
        Some(())
    }

    /// Adds `step` vectors to `out`, value `j` of vector `i` at `i + j·step` (residue format 0, section 8.6.3).
    pub fn add_strided(&self, bits: &mut Bits<'_>, out: &mut [f32], step: usize) -> Option<()> {
        for i in 0..step {
            let rank = self.rank(bits)?;
            let vector = &self.vectors()[rank * self.dimensions..][..self.dimensions];
            out[i..].iter_mut().step_by(step).zip(vector).for_each(|(x, v)| *x += v);
        }
        Some(())
    }

    /// Passes over `n` codewords.
    pub fn pass_over(&self, bits: &mut Bits<'_>, n: usize) -> Option<()> {
        let mut local = *bits;
        let done = (0..n).try_for_each(|_| self.rank(&mut local).map(|_| ()));
        *bits = local;
        done
    }
}

const TOO_LARGE: Error = Error::Unsupported("vorbis: codebooks larger than any encoder's");

/// The lengths of the codewords of all entries, 0 for unused ones.
fn read_lengths(bits: &mut Bits<'_>, entries: usize) -> Result<Vec<u8>> {
    let mut lengths = vec![0u8; entries];
    if bits.flag().ok_or(CUT)? {
        // Ordered: for each length how many entries have it.
        let mut length = bits.read(5).ok_or(CUT)? as u8 + 1;
        let mut at = 0;
        while at < entries {
            let n = bits.read(ilog((entries - at) as u32)).ok_or(CUT)? as usize;
            if n > entries - at || length > 32 {
                return Err(Error::DecodeError("vorbis: impossible codeword lengths"));
            }
            lengths[at..at + n].fill(length);
            at += n;
            length += 1;
        }
    } else {
        let sparse = bits.flag().ok_or(CUT)?;
        for length in &mut lengths {
            if !sparse || bits.flag().ok_or(CUT)? {
                *length = bits.read(5).ok_or(CUT)? as u8 + 1;
            }
        }
    }
    Ok(lengths)
}

struct Leaf {
    /// First bit highest, left-aligned.
    code: u32,
    length: u32,
    entry: u32,
}

/// The code tree, leaves from left to right. Each entry in turn takes the leftmost free node of its depth (section
/// 3.2.1).
///
/// Then the free nodes, taken as large as possible, have all different depths, the deepest one leftmost: whoever takes
/// a leaf out of a free node leaves one free sibling at each depth on the way down, each right of the one below it.
fn tree(lengths: &[u8]) -> Result<Vec<Leaf>> {
    let used = lengths.iter().filter(|&&length| length > 0).count();
    let mut leaves = Vec::with_capacity(used);
    // The free node of each depth, left-aligned.
    let mut free: [Option<u32>; 33] = [None; 33];
    free[0] = Some(0);
    for (entry, &length) in lengths.iter().enumerate().filter(|&(_, &length)| length > 0) {
        let length = usize::from(length);
        let depth = (0..=length).rev().find(|&depth| free[depth].is_some());
        let Some((depth, code)) = depth.and_then(|depth| free[depth].take().map(|code| (depth, code))) else {
            return Err(Error::DecodeError("vorbis: more codewords than the code tree has room for"));
        };
        for (below, node) in free.iter_mut().enumerate().take(length + 1).skip(depth + 1) {
            *node = Some(code | 1 << (32 - below));
        }
        leaves.push(Leaf { code, length: length as u32, entry: entry as u32 });
    }
    // A single codeword must be one bit long, others must fill the tree (erratum of 2015-02-26).
    let complete = free.iter().all(Option::is_none);
    let single = matches!(leaves[..], [Leaf { length: 1, .. }]);
    if !(complete || single || leaves.is_empty()) {
        return Err(Error::DecodeError("vorbis: a code tree with holes"));
    }
    leaves.sort_unstable_by_key(|leaf| leaf.code);
    Ok(leaves)
}

/// What the vectors are computed from (section 3.2.1, "VQ lookup table").
struct Values {
    multiplicands: Vec<f32>,
    /// Lookup type 1: all dimensions choose from the same values. Else each entry has its own.
    lattice: bool,
    /// Each value is added to the one before it.
    sequence: bool,
}

impl Values {
    fn read(bits: &mut Bits<'_>, entries: usize, dimensions: usize) -> Result<Option<Values>> {
        let lattice = match bits.read(4).ok_or(CUT)? {
            0 => return Ok(None),
            1 => true,
            2 => false,
            _ => return Err(Error::DecodeError("vorbis: unknown kind of vectors in a codebook")),
        };
        if dimensions == 0 {
            return Err(Error::DecodeError("vorbis: vectors of no dimension"));
        }
        let minimum = unpack_float(bits.read(32).ok_or(CUT)?);
        let delta = unpack_float(bits.read(32).ok_or(CUT)?);
        let width = bits.read(4).ok_or(CUT)? + 1;
        let sequence = bits.flag().ok_or(CUT)?;
        let n = if lattice { lattice_side(entries, dimensions) } else { entries.saturating_mul(dimensions) };
        if n > bits.left() / width as usize {
            return Err(CUT);
        }
        let multiplicands =
            (0..n).map(|_| bits.read(width).map(|m| m as f32 * delta + minimum)).collect::<Option<_>>().ok_or(CUT)?;
        Ok(Some(Values { multiplicands, lattice, sequence }))
    }

    /// Appends the vector of an entry (section 3.3).
    fn vector(&self, entry: usize, dimensions: usize, out: &mut Vec<f32>) {
        let mut last = 0.0;
        let mut rest = entry;
        for i in 0..dimensions {
            let value = if self.lattice {
                let side = self.multiplicands.len();
                let value = self.multiplicands[rest % side];
                rest /= side;
                value
            } else {
                self.multiplicands[entry * dimensions + i]
            };
            out.push(value + last);
            if self.sequence {
                last += value;
            }
        }
    }
}

/// The greatest number whose power by `dimensions` does not exceed `entries` (section 9.2.3).
fn lattice_side(entries: usize, dimensions: usize) -> usize {
    let fits = |side: u64| side.saturating_pow(dimensions as u32) <= entries as u64;
    // A float is at most one off.
    let guess = (entries as f64).powf(1.0 / dimensions as f64) as u64;
    (guess.saturating_sub(1)..=guess + 1).rev().find(|&side| fits(side)).unwrap_or(0) as usize
}

/// 21 bits of mantissa, 10 of exponent, one of sign (section 9.2.2).
fn unpack_float(x: u32) -> f32 {
    let mantissa = f64::from(x & 0x1f_ffff);
    let exponent = (x >> 21 & 0x3ff) as i32 - 788;
    let magnitude = (mantissa * f64::from(exponent).exp2()) as f32;
    if x >> 31 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codewords_are_those_of_the_standards_example() {
        // Section 3.2.1, "Huffman decision tree representation".
        let leaves = tree(&[2, 4, 4, 4, 4, 2, 3, 3]).unwrap();
        let mut words: Vec<(u32, String)> = leaves
            .iter()
            .map(|leaf| (leaf.entry, format!("{:032b}", leaf.code)[..leaf.length as usize].to_string()))
            .collect();
        words.sort();
        let words: Vec<&str> = words.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["00", "0100", "0101", "0110", "0111", "10", "110", "111"]);
    }

    #[test]
    fn trees_must_be_full_unless_they_have_one_leaf() {
        assert!(tree(&[1, 1]).is_ok() && tree(&[2, 0, 1, 2]).is_ok() && tree(&[0, 1, 0]).is_ok() && tree(&[]).is_ok());
        for wrong in [&[1, 2][..], &[1, 1, 1], &[2], &[1, 2, 3], &[32, 32], &[2, 2, 2, 2, 32]] {
            assert!(tree(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn long_codewords_are_found_as_short_ones_are() {
        // A comb: lengths 1, 2, .. 31, 32, 32.
        let lengths: Vec<u8> = (1..=32).chain([32]).collect();
        let book = Codebook::new(0, &tree(&lengths).unwrap(), None);
        for entry in 0..33 {
            // `entry` ones, then a zero (but for the last two, which differ in the 32nd bit), then ones.
            let word = if entry < 32 { !(1u64 << entry) } else { !0 };
            let bytes = word.to_le_bytes();
            let mut bits = Bits::new(&bytes);
            assert_eq!(book.scalar(&mut bits), Some(entry));
            assert_eq!(bits.left(), 64 - usize::from(lengths[entry as usize]));
            // Behind as many other bits as make it end with the packet, and then one bit behind the packet's end.
            let length = u32::from(lengths[entry as usize]);
            for (missing, expected) in [(0, Some(entry)), (1, None)] {
                let ahead = (length - missing).wrapping_neg() % 8;
                let bytes = (word << ahead).to_le_bytes();
                let mut bits = Bits::new(&bytes[..((ahead + length - missing) / 8) as usize]);
                bits.read(ahead);
                assert_eq!(book.scalar(&mut bits), expected, "entry {entry}, {missing} bits missing");
            }
        }
    }

    #[test]
    fn a_single_codeword_takes_one_bit_and_a_book_without_any_gives_nothing() {
        let single = Codebook::new(0, &tree(&[0, 1]).unwrap(), None);
        let mut bits = Bits::new(&[0b10]);
        assert_eq!(
            [(); 9].map(|()| single.scalar(&mut bits)),
            [Some(1); 8].into_iter().chain([None]).collect::<Vec<_>>()[..]
        );
        assert_eq!(Codebook::new(0, &[], None).scalar(&mut Bits::new(&[0; 100])), None);
    }

    #[test]
    fn lattices_are_as_large_as_their_entries_allow() {
        for (entries, dimensions, side) in
            [(0, 3, 0), (1, 65_535, 1), (80, 4, 2), (81, 4, 3), (6560, 8, 2), (6561, 8, 3), (131_072, 1, 131_072)]
        {
            assert_eq!(lattice_side(entries, dimensions), side, "{entries} entries of {dimensions}");
        }
    }

    #[test]
    fn floats_are_unpacked() {
        // Mantissa · 2^(exponent − 788): 1, −1.5 (3 · 2⁻¹), 0, and the smallest that is not a zero in 32 bits.
        assert_eq!(unpack_float(788 << 21 | 1), 1.0);
        assert_eq!(unpack_float(1 << 31 | 787 << 21 | 3), -1.5);
        assert_eq!(unpack_float(900 << 21), 0.0);
        assert_eq!(unpack_float((788 - 149) << 21 | 1), f32::from_bits(1));
    }
}
