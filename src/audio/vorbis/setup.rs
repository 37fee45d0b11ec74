//! The identification and setup headers (Vorbis I, section 4.2): all that a packet needs to be understood.

use symphonia::core::errors::{Error, Result};

use super::bits::{Bits, ilog};
use super::codebook::Codebook;
use super::floor::Floor;
use super::residue::Residue;

/// What is said of a header that ends too early.
pub(super) const CUT: Error = Error::DecodeError("vorbis: a header is cut short");

/// More channels than the standard gives a meaning (section 4.3.9) are refused.
const MAX_CHANNELS: usize = 8;

/// What a setup header may cost: a few bits can claim gigabytes. Of 870 streams, most of them music of all bitrates,
/// the largest (5.1 channels) needs 19,413 entries, 85,928 floats and 6,000 class words.
pub(super) struct Budget {
    /// Of all codebooks, used or not; they cost up to 14 bytes each.
    pub entries: usize,
    /// In vectors of all codebooks.
    pub floats: usize,
    /// Of all residues, bytes.
    pub class_words: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { entries: 1 << 17, floats: 1 << 19, class_words: 1 << 18 }
    }
}

/// Sections 4.2.2 and 4.2.4.
pub(super) struct Setup {
    pub channels: usize,
    /// Hz.
    pub rate: u32,
    /// Lines in the spectrum of a short and of a long block: half their sizes.
    pub lines: [usize; 2],
    pub books: Vec<Codebook>,
    pub floors: Vec<Floor>,
    pub residues: Vec<Residue>,
    pub mappings: Vec<Mapping>,
    pub modes: Vec<Mode>,
}

pub(super) struct Mapping {
    /// (magnitude, angle) channels.
    pub couplings: Vec<(usize, usize)>,
    /// `[channel]`: the submap it belongs to.
    pub submap_of: Vec<usize>,
    pub submaps: Vec<Submap>,
}

pub(super) struct Submap {
    pub floor: usize,
    pub residue: usize,
}

pub(super) struct Mode {
    pub long: bool,
    pub mapping: usize,
}

impl Setup {
    /// From the identification header and, directly behind it, the setup header, as symphonia's demuxers give them; or
    /// from all three headers with their lengths ahead, as Matroska and others store them.
    pub fn read(extra: &[u8]) -> Result<Setup> {
        let (identification, setup) = match unlace(extra) {
            Some(headers) => headers,
            None => extra.split_at_checked(IDENTIFICATION_BYTES).ok_or(CUT)?,
        };
        let mut bits = Bits::new(body(identification, 1)?);
        if bits.read(32).ok_or(CUT)? != 0 {
            return Err(Error::Unsupported("vorbis: a version after I"));
        }
        let channels = bits.read(8).ok_or(CUT)? as usize;
        let rate = bits.read(32).ok_or(CUT)?;
        // Three bit rates, which are mere hints.
        for _ in 0..3 {
            bits.read(32).ok_or(CUT)?;
        }
        let sizes = [bits.read(4).ok_or(CUT)?, bits.read(4).ok_or(CUT)?];
        if channels == 0 || rate == 0 || sizes[0] < 6 || sizes[1] > 13 || sizes[0] > sizes[1] {
            return Err(Error::DecodeError("vorbis: impossible rate, channels or block sizes"));
        }
        if channels > MAX_CHANNELS {
            return Err(Error::Unsupported("vorbis: more than 8 channels"));
        }
        if !bits.flag().ok_or(CUT)? {
            return Err(Error::DecodeError("vorbis: the identification header is not closed"));
        }
        let lines = sizes.map(|exponent| 1 << (exponent - 1));
        read_setup(&mut Bits::new(body(setup, 5)?), channels, rate, lines)
    }
}

/// With its type and name.
const IDENTIFICATION_BYTES: usize = 30;

/// A header packet without its type and name.
fn body(packet: &[u8], packet_type: u8) -> Result<&[u8]> {
    packet
        .strip_prefix(&[packet_type])
        .and_then(|rest| rest.strip_prefix(b"vorbis"))
        .ok_or(Error::DecodeError("vorbis: a header is missing"))
}

/// First and last of three packets behind their number less one and the lengths of the first two, each the sum of its
/// bytes up to one below 255.
fn unlace(extra: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = extra.strip_prefix(&[2])?;
    let mut length = || {
        let mut sum = 0usize;
        loop {
            let (&byte, behind) = rest.split_first()?;
            rest = behind;
            sum += usize::from(byte);
            if byte < 255 {
                return Some(sum);
            }
        }
    };
    let (first, second) = (length()?, length()?);
    let (identification, rest) = rest.split_at_checked(first)?;
    Some((identification, rest.get(second..)?))
}

fn read_setup(bits: &mut Bits<'_>, channels: usize, rate: u32, lines: [usize; 2]) -> Result<Setup> {
    let mut budget = Budget::default();
    // Each list is preceded by its length less one.
    let count = |bits: &mut Bits<'_>, width| bits.read(width).map(|n| n as usize + 1).ok_or(CUT);
    let books = (0..count(bits, 8)?).map(|_| Codebook::read(bits, &mut budget)).collect::<Result<Vec<_>>>()?;
    // Time domain transforms: a place kept free, and zeros.
    for _ in 0..count(bits, 6)? {
        if bits.read(16).ok_or(CUT)? != 0 {
            return Err(Error::DecodeError("vorbis: unknown time domain transform"));
        }
    }
    let floor = |bits: &mut Bits<'_>| match bits.read(16).ok_or(CUT)? {
        0 => Err(Error::Unsupported("vorbis: floor type 0, from before the format was frozen")),
        1 => Floor::read(bits, &books),
        _ => Err(Error::DecodeError("vorbis: unknown floor type")),
    };
    let floors = (0..count(bits, 6)?).map(|_| floor(bits)).collect::<Result<Vec<_>>>()?;
    let residues =
        (0..count(bits, 6)?).map(|_| Residue::read(bits, &books, &mut budget)).collect::<Result<Vec<_>>>()?;
    let mapping = |bits: &mut Bits<'_>| Mapping::read(bits, channels, floors.len(), residues.len());
    let mappings = (0..count(bits, 6)?).map(|_| mapping(bits)).collect::<Result<Vec<_>>>()?;
    let modes = (0..count(bits, 6)?).map(|_| Mode::read(bits, mappings.len())).collect::<Result<Vec<_>>>()?;
    if !bits.flag().ok_or(CUT)? {
        return Err(Error::DecodeError("vorbis: the setup header is not closed"));
    }
    Ok(Setup { channels, rate, lines, books, floors, residues, mappings, modes })
}

impl Mapping {
    /// Section 4.2.4, "Mappings".
    fn read(bits: &mut Bits<'_>, channels: usize, floors: usize, residues: usize) -> Result<Mapping> {
        if bits.read(16).ok_or(CUT)? != 0 {
            return Err(Error::DecodeError("vorbis: unknown mapping type"));
        }
        let submaps = if bits.flag().ok_or(CUT)? { bits.read(4).ok_or(CUT)? as usize + 1 } else { 1 };
        let mut couplings = Vec::new();
        if bits.flag().ok_or(CUT)? {
            let width = ilog(channels as u32 - 1);
            for _ in 0..=bits.read(8).ok_or(CUT)? {
                let magnitude = bits.read(width).ok_or(CUT)? as usize;
                let angle = bits.read(width).ok_or(CUT)? as usize;
                if magnitude == angle || magnitude >= channels || angle >= channels {
                    return Err(Error::DecodeError("vorbis: impossible channel coupling"));
                }
                couplings.push((magnitude, angle));
            }
        }
        if bits.read(2).ok_or(CUT)? != 0 {
            return Err(Error::DecodeError("vorbis: unknown mapping"));
        }
        let submap = |bits: &mut Bits<'_>| if submaps > 1 { bits.read(4).map(|s| s as usize) } else { Some(0) };
        let submap_of: Vec<usize> = (0..channels).map(|_| submap(bits)).collect::<Option<_>>().ok_or(CUT)?;
        let mut read = Vec::with_capacity(submaps);
        for _ in 0..submaps {
            // The first was meant for a time domain transform.
            bits.read(8).ok_or(CUT)?;
            let submap =
                Submap { floor: bits.read(8).ok_or(CUT)? as usize, residue: bits.read(8).ok_or(CUT)? as usize };
            if submap.floor >= floors || submap.residue >= residues {
                return Err(Error::DecodeError("vorbis: no such floor or residue"));
            }
            read.push(submap);
        }
        if submap_of.iter().any(|&submap| submap >= submaps) {
            return Err(Error::DecodeError("vorbis: no such submap"));
        }
        Ok(Mapping { couplings, submap_of, submaps: read })
    }
}

impl Mode {
    fn read(bits: &mut Bits<'_>, mappings: usize) -> Result<Mode> {
        let long = bits.flag().ok_or(CUT)?;
        let (window, transform) = (bits.read(16).ok_or(CUT)?, bits.read(16).ok_or(CUT)?);
        let mapping = bits.read(8).ok_or(CUT)? as usize;
        if window != 0 || transform != 0 || mapping >= mappings {
            return Err(Error::DecodeError("vorbis: unknown window, transform or mapping"));
        }
        Ok(Mode { long, mapping })
    }
}
