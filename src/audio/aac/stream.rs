//! One channel of a packet: its windows, bands, scale factors and spectrum (ISO/IEC 14496-3, sections 4.4.2.7, 4.5.2.3).

use symphonia::core::errors::{Error, Result};

use super::bits::Bits;
use super::huffman::TABLES;
use super::noise;
use super::rates::Rate;
use super::shaping::{Filter, read_filters};

/// Lines of a frame.
pub(super) const LINES: usize = 1024;
/// Lines of each of the eight short windows.
pub(super) const SHORT_LINES: usize = 128;
/// Room for the bands of all groups: 8 of up to 15, or one of up to 51.
pub(super) const BANDS: usize = 128;

/// Codebooks that are not of a spectrum (table 4.150).
const ZERO: u8 = 0;
const RESERVED: u8 = 12;
pub(super) const NOISE: u8 = 13;
/// Against the left channel's phase, and in it.
const OPPOSITE: u8 = 14;
const IN_PHASE: u8 = 15;

pub(super) const CUT_SHORT: Error = Error::DecodeError("aac: packet cut short");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    Long,
    Start,
    Short,
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Sine,
    /// Kaiser-Bessel derived.
    Kbd,
}

/// ics_info: how a frame is cut into windows, groups of them, and bands.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub sequence: Sequence,
    pub shape: Shape,
    /// Bands per group that may be other than zero.
    bands: usize,
    groups: usize,
    /// Windows of each group.
    group_lengths: [u8; 8],
    pub offsets: &'static [u16],
    /// Bands that temporal noise shaping may cover.
    shaped: usize,
}

/// A scale factor band of one group: the lines `from..to` of the windows `window..window + windows`.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub window: usize,
    pub windows: usize,
    pub from: usize,
    pub to: usize,
}

impl Band {
    /// The lines in a frame, per window.
    pub fn lines(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (self.window..self.window + self.windows)
            .map(move |w| w * SHORT_LINES + self.from..w * SHORT_LINES + self.to)
    }
}

impl Layout {
    pub fn read(bits: &mut Bits, rate: &'static Rate) -> Result<Layout> {
        if bits.flag() {
            return Err(Error::DecodeError("aac: reserved bit"));
        }
        let sequence = match bits.read(2) {
            0 => Sequence::Long,
            1 => Sequence::Start,
            2 => Sequence::Short,
            _ => Sequence::Stop,
        };
        let shape = if bits.flag() { Shape::Kbd } else { Shape::Sine };
        let mut group_lengths = [0; 8];
        let (mut groups, bands) = (1, bits.read(if sequence == Sequence::Short { 4 } else { 6 }) as usize);
        group_lengths[0] = 1;
        if sequence == Sequence::Short {
            for _ in 1..8 {
                groups += if bits.flag() { 0 } else { 1 };
                group_lengths[groups - 1] += 1;
            }
        } else if bits.flag() {
            return Err(Error::Unsupported("aac: prediction (AAC Main or LTP)"));
        }
        let (offsets, shaped) =
            if sequence == Sequence::Short { (rate.short, rate.short_shaped) } else { (rate.long, rate.long_shaped) };
        if bands >= offsets.len() {
            return Err(Error::DecodeError("aac: more bands than there are"));
        }
        Ok(Layout { sequence, shape, bands, groups, group_lengths, offsets, shaped })
    }

    pub fn is_short(&self) -> bool {
        self.sequence == Sequence::Short
    }

    /// The bands of all groups, in the order of the stream; up to [`BANDS`].
    pub fn all(&self) -> impl Iterator<Item = Band> {
        let mut next = 0;
        let groups = self.group_lengths.into_iter().take(self.groups).map(move |n| {
            next += usize::from(n);
            (next - usize::from(n), usize::from(n))
        });
        let (offsets, bands) = (self.offsets, self.bands);
        groups.flat_map(move |(window, windows)| {
            offsets.windows(2).take(bands).map(move |edge| {
                let (from, to) = (usize::from(edge[0]), usize::from(edge[1]));
                Band { window, windows, from, to }
            })
        })
    }

    pub fn count(&self) -> usize {
        self.groups * self.bands
    }

    /// The line at which `band` begins or, if it may not be shaped, at which that ends.
    pub fn shaped_line(&self, band: usize) -> usize {
        usize::from(self.offsets[band.min(self.shaped).min(self.bands)])
    }
}

/// What one channel says of itself ahead of its spectrum. The arrays' places are those of [`Layout::all`].
pub(super) struct Stream {
    books: [u8; BANDS],
    /// What the numbers of a band are multiplied by; of intensity stereo what the left channel is (without the sign that
    /// the mask gives); of noise the root of the energy in each window.
    gains: [f32; BANDS],
    pub filters: Vec<Filter>,
    /// Lines and what is added to their magnitudes.
    pulses: Vec<(usize, u32)>,
}

impl Stream {
    pub fn new() -> Stream {
        Stream { books: [0; BANDS], gains: [0.0; BANDS], filters: vec![], pulses: vec![] }
    }

    /// individual_channel_stream up to the spectrum, behind ics_info and the first 8 bits.
    pub fn read(&mut self, bits: &mut Bits, layout: &Layout, global_gain: i32) -> Result<()> {
        self.sections(bits, layout)?;
        self.scale_factors(bits, layout, global_gain)?;
        self.pulses.clear();
        if bits.flag() {
            self.read_pulses(bits, layout)?;
        }
        self.filters.clear();
        if bits.flag() {
            read_filters(bits, layout, &mut self.filters)?;
        }
        if bits.flag() {
            return Err(Error::Unsupported("aac: gain control (AAC SSR)"));
        }
        Ok(())
    }

    /// section_data: the codebooks, as runs.
    fn sections(&mut self, bits: &mut Bits, layout: &Layout) -> Result<()> {
        let size = if layout.is_short() { 3 } else { 5 };
        let escape = (1 << size) - 1;
        for group in self.books[..layout.count()].chunks_exact_mut(layout.bands.max(1)) {
            let mut at = 0;
            while at < group.len() {
                let book = bits.read(4) as u8;
                if book == RESERVED {
                    return Err(Error::DecodeError("aac: reserved codebook"));
                }
                let from = at;
                loop {
                    let more = bits.read(size) as usize;
                    at += more;
                    if more != escape || at > group.len() {
                        break;
                    }
                }
                // Runs may be empty, so only the end of the packet ends them.
                if bits.overrun() {
                    return Err(CUT_SHORT);
                }
                group.get_mut(from..at).ok_or(Error::DecodeError("aac: more bands than there are"))?.fill(book);
            }
        }
        Ok(())
    }

    /// scale_factor_data (section 4.6.2.3): each kind of number goes on from the last of its kind.
    fn scale_factors(&mut self, bits: &mut Bits, layout: &Layout, global_gain: i32) -> Result<()> {
        let (mut factor, mut position) = (global_gain, 0);
        let (mut energy, mut first_noise) = (global_gain - 90, true);
        let quarter_powers = |exponent: i32| (exponent as f32 / 4.0).exp2();
        let count = layout.count();
        for (gain, &book) in self.gains[..count].iter_mut().zip(&self.books[..count]) {
            *gain = match book {
                ZERO => 0.0,
                NOISE => {
                    energy += if first_noise { bits.read(9) as i32 - 256 } else { TABLES.difference(bits) };
                    first_noise = false;
                    // What the scale factors can say, so that damage stays finite.
                    quarter_powers(energy.clamp(-100, 155))
                }
                OPPOSITE | IN_PHASE => {
                    position += TABLES.difference(bits);
                    quarter_powers(-position.clamp(-155, 100)) * if book == IN_PHASE { 1.0 } else { -1.0 }
                }
                _ => {
                    factor += TABLES.difference(bits);
                    if !(0..256).contains(&factor) {
                        return Err(Error::DecodeError("aac: impossible scale factor"));
                    }
                    quarter_powers(factor - 100)
                }
            };
        }
        Ok(())
    }

    /// pulse_data (section 4.6.5).
    fn read_pulses(&mut self, bits: &mut Bits, layout: &Layout) -> Result<()> {
        if layout.is_short() {
            return Err(Error::DecodeError("aac: pulses in short windows"));
        }
        let count = bits.read(2) + 1;
        let start = bits.read(6) as usize;
        let mut line = usize::from(*layout.offsets.get(start).ok_or(Error::DecodeError("aac: pulse out of place"))?);
        for _ in 0..count {
            line += bits.read(5) as usize;
            self.pulses.push((line, bits.read(4)));
        }
        if line >= LINES {
            return Err(Error::DecodeError("aac: pulse out of place"));
        }
        Ok(())
    }

    /// Whether the numbers of a band, by its place, are in the stream.
    pub fn is_coded(&self, band: usize) -> bool {
        (1..RESERVED).contains(&self.books[band])
    }

    pub fn is_zero(&self, band: usize) -> bool {
        self.books[band] == ZERO
    }

    pub fn is_noise(&self, band: usize) -> bool {
        self.books[band] == NOISE
    }

    /// What the left channel is multiplied by to give this one, before the sign of the mask.
    pub fn intensity(&self, band: usize) -> Option<f32> {
        (self.books[band] >= OPPOSITE).then(|| self.gains[band])
    }

    /// spectral_data: the numbers of the bands that are wanted; the lines of all others are zero. Of the last channel
    /// that is of interest what follows the last band wanted `may_end`, and is not passed over.
    pub fn spectrum(
        &self,
        bits: &mut Bits,
        layout: &Layout,
        wanted: &[bool; BANDS],
        may_end: bool,
        lines: &mut [f32; LINES],
    ) -> Result<()> {
        lines.fill(0.0);
        let long_enough = |ok: bool| if ok { Ok(()) } else { Err(Error::DecodeError("aac: impossible escape")) };
        let count = layout.count();
        let end = if may_end { (0..count).rfind(|&b| wanted[b]).map_or(0, |b| b + 1) } else { count };
        let mut passed = (0, 0);
        for (place, band) in layout.all().enumerate().take(end) {
            if !self.is_coded(place) {
                continue;
            }
            let book = self.books[place];
            if !wanted[place] {
                // Neighbours with the same book are passed over together.
                let n = (band.to - band.from) * band.windows;
                if passed.0 == book {
                    passed.1 += n;
                    continue;
                }
                if passed.1 > 0 {
                    long_enough(TABLES.pass_over(bits, passed.0, passed.1))?;
                }
                passed = (book, n);
                continue;
            }
            if passed.1 > 0 {
                long_enough(TABLES.pass_over(bits, passed.0, passed.1))?;
                passed = (0, 0);
            }
            for range in band.lines() {
                long_enough(TABLES.read(bits, book, self.gains[place], &mut lines[range]))?;
            }
        }
        if passed.1 > 0 {
            long_enough(TABLES.pass_over(bits, passed.0, passed.1))?;
        }
        if bits.overrun() {
            return Err(CUT_SHORT);
        }
        if !self.pulses.is_empty() {
            self.add_pulses(layout, wanted, lines);
        }
        Ok(())
    }

    /// Pulses are added to the magnitudes of the numbers in the stream, which are found again from the lines.
    fn add_pulses(&self, layout: &Layout, wanted: &[bool; BANDS], lines: &mut [f32; LINES]) {
        for &(line, height) in &self.pulses {
            let found = layout.all().position(|band| (band.from..band.to).contains(&line));
            let Some(place) = found.filter(|&p| wanted[p] && self.is_coded(p)) else { continue };
            let gain = self.gains[place];
            let magnitude = (lines[line].abs() / gain).powf(0.75).round() as usize;
            // A zero counts as negative (section 4.6.5.3: only what is above zero is increased).
            let sign = if lines[line] > 0.0 { 1.0 } else { -1.0 };
            lines[line] = sign * gain * TABLES.power(magnitude + height as usize);
        }
    }

    /// Fills the wanted bands of noise. `seed` says which noise; another channel's where it is `shared`.
    pub fn add_noise(
        &self,
        layout: &Layout,
        wanted: &[bool; BANDS],
        seed: impl Fn(usize) -> u64,
        lines: &mut [f32; LINES],
    ) {
        if !self.books[..layout.count()].contains(&NOISE) {
            return;
        }
        for (place, band) in layout.all().enumerate() {
            if self.is_noise(place) && wanted[place] {
                for (window, range) in band.lines().enumerate() {
                    noise::fill(seed(place), place * 8 + window, self.gains[place], &mut lines[range]);
                }
            }
        }
    }
}
