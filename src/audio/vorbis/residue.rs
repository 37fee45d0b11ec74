//! Residues: the spectrum's fine structure, in partitions that each choose their own codebooks (Vorbis I, section 8).

use symphonia::core::errors::{Error, Result};

use super::bits::Bits;
use super::codebook::Codebook;
use super::setup::{Budget, CUT};

/// A partition is coded in up to this many passes, each refining the last.
const PASSES: usize = 8;

/// How residues are written.
pub(super) struct Residue {
    format: Format,
    begin: usize,
    end: usize,
    partition: usize,
    class_book: usize,
    /// Partitions that one codeword of the class book classifies.
    classes_per_word: usize,
    /// `[rank, classes_per_word]`: the classes that a codeword stands for.
    class_words: Vec<u8>,
    /// `[class][pass]`
    books: Vec<[Option<u8>; PASSES]>,
    /// `[class]`: the passes that have a book, one bit each, the first lowest.
    passes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    /// 0: the values of a vector are spread over the partition.
    Spread,
    /// 1: they stand side by side.
    Plain,
    /// 2: as 1, all channels in one, line by line.
    Interleaved,
}

impl Residue {
    /// Reads one from the setup header (section 8.6.1).
    pub fn read(bits: &mut Bits<'_>, books: &[Codebook], budget: &mut Budget) -> Result<Residue> {
        let format = match bits.read(16).ok_or(CUT)? {
            0 => Format::Spread,
            1 => Format::Plain,
            2 => Format::Interleaved,
            _ => return Err(Error::DecodeError("vorbis: unknown residue format")),
        };
        let begin = bits.read(24).ok_or(CUT)? as usize;
        let end = bits.read(24).ok_or(CUT)? as usize;
        let partition = bits.read(24).ok_or(CUT)? as usize + 1;
        let classes = bits.read(6).ok_or(CUT)? as usize + 1;
        let class_book = bits.read(8).ok_or(CUT)? as usize;
        let mut passes = Vec::with_capacity(classes);
        for _ in 0..classes {
            let low = bits.read(3).ok_or(CUT)?;
            let high = if bits.flag().ok_or(CUT)? { bits.read(5).ok_or(CUT)? } else { 0 };
            passes.push((high << 3 | low) as u8);
        }
        let mut of_classes = Vec::with_capacity(classes);
        for used in &passes {
            let mut of_class = [None; PASSES];
            for (_, book) in of_class.iter_mut().enumerate().filter(|(pass, _)| used >> pass & 1 == 1) {
                let number = bits.read(8).ok_or(CUT)? as u8;
                if !books.get(usize::from(number)).is_some_and(Codebook::has_vectors) {
                    return Err(Error::DecodeError("vorbis: no such codebook of vectors (residue)"));
                }
                *book = Some(number);
            }
            of_classes.push(of_class);
        }
        let Some(words) = books.get(class_book).filter(|book| book.dimensions > 0) else {
            return Err(Error::DecodeError("vorbis: no such codebook (residue classes)"));
        };
        if begin > end {
            return Err(Error::DecodeError("vorbis: a residue that ends before it begins"));
        }
        let class_words = class_words(words, classes, budget)?;
        let classes_per_word = words.dimensions;
        Ok(Residue {
            format,
            begin,
            end,
            partition,
            class_book,
            classes_per_word,
            class_words,
            books: of_classes,
            passes,
        })
    }

    /// Reads what a packet holds for the channels of one submap (section 8.6.2) into the first `extent.kept` lines of
    /// `spectra`, `[channel, extent.lines]`. `channels` are those of the submap, less the silent ones (for format 2:
    /// all, unless all are silent). The packet may end anywhere, what came before counts.
    pub fn decode(
        &self,
        bits: &mut Bits<'_>,
        books: &[Codebook],
        channels: &[usize],
        spectra: &mut [Vec<f32>],
        extent: Extent,
        scratch: &mut Scratch,
    ) {
        let Scratch { classes, refined, interleaved } = scratch;
        let Extent { lines, kept, last } = extent;
        let n = channels.len();
        if self.format != Format::Interleaved || n < 2 {
            for &channel in channels {
                spectra[channel][..lines].fill(0.0);
            }
            // Where the packet ends, so does the work.
            let _ = self.decode_partitions(bits, books, channels, spectra, extent, (classes, refined));
            return;
        }
        interleaved.clear();
        interleaved.resize(lines * n, 0.0);
        let all = Extent { lines: lines * n, kept: kept * n, last };
        let spectrum = std::slice::from_mut(interleaved);
        let _ = self.decode_partitions(bits, books, &[0], spectrum, all, (classes, refined));
        if let [first, second] = *channels {
            let [first, second] = spectra.get_disjoint_mut([first, second]).expect("a submap has no channel twice");
            let pairs = interleaved.as_chunks::<2>().0;
            for ((x, y), pair) in first[..kept].iter_mut().zip(&mut second[..kept]).zip(pairs) {
                [*x, *y] = *pair;
            }
            return;
        }
        for (i, &channel) in channels.iter().enumerate() {
            let values = interleaved[i..].iter().step_by(n);
            spectra[channel][..kept].iter_mut().zip(values).for_each(|(x, v)| *x = *v);
        }
    }

    /// Whether all channels of a submap are decoded if one of them is.
    pub fn takes_all(&self) -> bool {
        self.format == Format::Interleaved
    }

    fn decode_partitions(
        &self,
        bits: &mut Bits<'_>,
        books: &[Codebook],
        channels: &[usize],
        spectra: &mut [Vec<f32>],
        extent: Extent,
        memory: (&mut Vec<u8>, &mut Vec<u32>),
    ) -> Option<()> {
        let begin = self.begin.min(extent.lines);
        let partitions = (self.end.min(extent.lines) - begin) / self.partition;
        let kept = extent.kept.saturating_sub(begin).div_ceil(self.partition).min(partitions);
        let n = channels.len();
        if n == 0 || partitions == 0 {
            return Some(());
        }
        let mut partition = |bits: &mut Bits<'_>, pass: usize, class: u8, at: usize| -> Option<()> {
            let Some(book) = self.books[usize::from(class)][pass] else { return Some(()) };
            let book = &books[usize::from(book)];
            if at >= kept * n {
                return book.pass_over(bits, self.codewords(book));
            }
            let first = begin + at / n * self.partition;
            let out = &mut spectra[channels[at % n]][first..first + self.partition];
            match self.format {
                Format::Spread => book.add_strided(bits, out, self.codewords(book)),
                Format::Plain | Format::Interleaved => book.add(bits, out),
            }
        };

        // The first pass gives a few partitions their classes, then decodes them, and so on.
        let (classes, refined) = memory;
        classes.clear();
        classes.resize(partitions * n, 0);
        let only_pass = self.passes.iter().all(|&passes| passes <= 1);
        let end = if extent.last && only_pass { kept } else { partitions };
        for first in (0..end).step_by(self.classes_per_word) {
            for channel in 0..n {
                let word = books[self.class_book].rank(bits)? * self.classes_per_word;
                let word = &self.class_words[word..word + self.classes_per_word];
                let of_channel = classes[first * n + channel..].iter_mut().step_by(n);
                of_channel.zip(word).for_each(|(class, of_word)| *class = *of_word);
            }
            let read = first * n..(first + self.classes_per_word).min(end) * n;
            for (at, &class) in read.clone().zip(&classes[read]) {
                partition(bits, 0, class, at)?;
            }
        }

        // The other passes refine some of them. Behind the last one of a partition that is wanted nothing is.
        let passes_of = |class: &u8| self.passes[usize::from(*class)];
        let wanted = if extent.last { kept * n } else { partitions * n };
        let passes = classes[..wanted].iter().fold(0, |all, class| all | passes_of(class));
        refined.clear();
        refined.extend((0..).zip(classes.iter()).filter(|(_, class)| passes_of(class) > 1).map(|(at, _)| at));
        for pass in (1..PASSES).take_while(|pass| passes >> pass != 0) {
            let end = if passes >> pass == 1 { wanted } else { partitions * n };
            for at in refined.iter().map(|&at| at as usize).take_while(|&at| at < end) {
                partition(bits, pass, classes[at], at)?;
            }
        }
        Some(())
    }

    /// How many codewords of a book make up a partition.
    fn codewords(&self, book: &Codebook) -> usize {
        match self.format {
            Format::Spread => self.partition / book.dimensions,
            Format::Plain | Format::Interleaved => self.partition.div_ceil(book.dimensions),
        }
    }
}

/// How much of the spectrum is coded, and how much of it is wanted.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Lines of the spectrum.
    pub lines: usize,
    /// The lowest lines, which alone are wanted. The codewords above are passed over to reach what follows.
    pub kept: usize,
    /// Nothing that is wanted follows in the packet, so that reading may end with the last codeword that is.
    pub last: bool,
}

/// Memory kept from packet to packet.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[partition, channel]`
    classes: Vec<u8>,
    /// Indices of those that a later pass refines.
    refined: Vec<u32>,
    /// `[line, channel]`
    interleaved: Vec<f32>,
}

/// The classes behind each codeword of the class book, `[rank, dimensions]`: the digits of its entry number, the most
/// significant first.
fn class_words(book: &Codebook, classes: usize, budget: &mut Budget) -> Result<Vec<u8>> {
    let n = book.entries().len() * book.dimensions;
    budget.class_words = budget.class_words.checked_sub(n).ok_or(TOO_LARGE)?;
    let mut words = vec![0; n];
    for (word, &entry) in words.chunks_exact_mut(book.dimensions).zip(book.entries()) {
        let mut rest = entry as usize;
        for class in word.iter_mut().rev() {
            *class = (rest % classes) as u8;
            rest /= classes;
        }
    }
    Ok(words)
}

const TOO_LARGE: Error = Error::Unsupported("vorbis: a residue's class book larger than any encoder's");
