//! One channel of a packet: its windows, bands, scale factors and spectrum (ISO/IEC 14496-3, sections 4.4.2.7,
//! 4.5.2.3).

use std::ops::Range;

use symphonia::core::errors::{Error, Result};

use super::huffman::TABLES;
use super::noise;
use super::rates::Rate;
use super::shaping::{Filter, read_filters};
use crate::audio::bits::Bits;

/// Lines of a frame.
pub(super) const LINES: usize = 1024;
/// Lines of each of the eight short windows.
pub(super) const SHORT_LINES: usize = 128;
/// Room for the bands of all groups: 8 of up to 15, or one of up to 51.
const BANDS: usize = 128;

/// Codebooks that are not of a spectrum (section 4.6.3).
const ZERO: u8 = 0;
const RESERVED: u8 = 12;
const NOISE: u8 = 13;
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
pub(super) struct Layout {
    pub sequence: Sequence,
    pub shape: Shape,
    /// Bands of each group that may be other than zero.
    per_group: usize,
    /// Those of all groups, in the order of the stream; `count` of them.
    bands: [Band; BANDS],
    count: usize,
    pub offsets: &'static [u16],
    /// Bands that temporal noise shaping may cover.
    shaped: usize,
}

/// A scale factor band of one group: the lines `from..to` of the windows `window..window + windows`.
#[derive(Clone, Copy, Default)]
pub(super) struct Band {
    window: u8,
    windows: u8,
    from: u16,
    to: u16,
}

impl Band {
    /// The lines in a frame, per window.
    pub fn lines(self) -> impl Iterator<Item = Range<usize>> {
        let (from, to) = (usize::from(self.from), usize::from(self.to));
        (self.window..self.window + self.windows).map(move |window| {
            let start = usize::from(window) * SHORT_LINES;
            start + from..start + to
        })
    }

    /// Of all its windows.
    fn size(self) -> usize {
        usize::from(self.to - self.from) * usize::from(self.windows)
    }
}

/// Bands of a [`Layout`], by their places.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Bands(pub u128);

impl Bands {
    pub const ALL: Bands = Bands(u128::MAX);

    fn range(places: Range<usize>) -> Bands {
        // Of no more than 128 places, so that no shift is of 128.
        let below = |n: usize| if n < BANDS { (1 << n) - 1 } else { u128::MAX };
        Bands(below(places.end) & !below(places.start))
    }

    pub fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    pub fn and(self, other: Bands) -> Bands {
        Bands(self.0 & other.0)
    }

    pub fn without(self, other: Bands) -> Bands {
        Bands(self.0 & !other.0)
    }

    fn with(self, other: Bands) -> Bands {
        Bands(self.0 | other.0)
    }

    pub fn places(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let place = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (place < BANDS).then_some(place)
        })
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
        let is_short = sequence == Sequence::Short;
        let per_group = bits.read(if is_short { 4 } else { 6 }) as usize;
        let (mut groups, mut group_lengths) = (1, [0u8; 8]);
        group_lengths[0] = 1;
        if is_short {
            for _ in 1..8 {
                groups += if bits.flag() { 0 } else { 1 };
                group_lengths[groups - 1] += 1;
            }
        } else if bits.flag() {
            return Err(Error::Unsupported("aac: prediction (AAC Main or LTP)"));
        }
        let (offsets, shaped) = if is_short { (rate.short, rate.short_shaped) } else { (rate.long, rate.long_shaped) };
        if per_group >= offsets.len() {
            return Err(Error::DecodeError("aac: more bands than there are"));
        }
        let mut bands = [Band::default(); BANDS];
        let mut window = 0;
        for (group, &windows) in group_lengths[..groups].iter().enumerate() {
            // Up to 8 · 15, or 1 · 51.
            for (band, edge) in bands[group * per_group..].iter_mut().zip(offsets.windows(2)).take(per_group) {
                *band = Band { window, windows, from: edge[0], to: edge[1] };
            }
            window += windows;
        }
        Ok(Layout { sequence, shape, per_group, bands, count: groups * per_group, offsets, shaped })
    }

    pub fn is_short(&self) -> bool {
        self.sequence == Sequence::Short
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The bands of some places.
    pub fn bands(&self, places: Bands) -> impl Iterator<Item = (usize, Band)> {
        places.and(Bands::range(0..self.count)).places().map(|place| (place, self.bands[place]))
    }

    /// Calls with the place of a band and its lines in each of its windows.
    #[inline(always)]
    pub fn each(&self, places: Bands, mut call: impl FnMut(usize, Range<usize>)) {
        for (place, band) in self.bands(places) {
            band.lines().for_each(|range| call(place, range));
        }
    }

    /// The places of the bands that begin below a line of their windows.
    pub fn below(&self, line: usize) -> Bands {
        let within = self.offsets[..self.per_group].partition_point(|&from| usize::from(from) < line);
        let groups = self.count.checked_div(self.per_group).unwrap_or(0);
        let starts = (0..groups).map(|group| group * self.per_group);
        starts.fold(Bands::default(), |bands, start| bands.with(Bands::range(start..start + within)))
    }

    /// The line at which `band` begins or, if it may not be shaped, at which that ends.
    pub fn shaped_line(&self, band: usize) -> usize {
        usize::from(self.offsets[band.min(self.shaped).min(self.per_group)])
    }
}

/// A run of bands, of one group, with the same codebook.
#[derive(Clone, Copy)]
struct Section {
    book: u8,
    from: u8,
    to: u8,
}

impl Section {
    fn places(self) -> Range<usize> {
        usize::from(self.from)..usize::from(self.to)
    }
}

/// individual_channel_stream: what one channel says of itself ahead of its spectrum, by the places of its [`Layout`].
pub(super) struct Stream {
    /// Those that are not zero, in order.
    sections: Vec<Section>,
    /// Bands whose numbers are in the stream.
    coded: Bands,
    pub noise: Bands,
    /// Bands made from the left channel's.
    pub intensity: Bands,
    /// What the numbers of a band are multiplied by; of intensity stereo what the left channel is (without the sign
    /// that the mask gives); of noise the root of the energy in each window.
    pub gains: [f32; BANDS],
    pub filters: Vec<Filter>,
    /// Lines and what is added to their magnitudes.
    pulses: Vec<(usize, u32)>,
}

impl Stream {
    pub fn new() -> Stream {
        let none = Bands::default();
        Stream {
            sections: vec![],
            coded: none,
            noise: none,
            intensity: none,
            gains: [0.0; BANDS],
            filters: vec![],
            pulses: vec![],
        }
    }

    /// individual_channel_stream up to the spectrum, behind ics_info and the first 8 bits.
    pub fn read(&mut self, bits: &mut Bits, layout: &Layout, global_gain: i32) -> Result<()> {
        self.read_sections(bits, layout)?;
        self.read_scale_factors(bits, global_gain)?;
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
    fn read_sections(&mut self, bits: &mut Bits, layout: &Layout) -> Result<()> {
        let size = if layout.is_short() { 3 } else { 5 };
        let escape = (1 << size) - 1;
        self.sections.clear();
        (self.coded, self.noise, self.intensity) = Default::default();
        let (mut at, mut end) = (0, layout.per_group);
        while at < layout.count {
            if at == end {
                end += layout.per_group;
            }
            let book = bits.read(4) as u8;
            let from = at;
            loop {
                let more = bits.read(size) as usize;
                at += more;
                if more != escape || at > end {
                    break;
                }
            }
            // Runs may be empty, so only the end of the packet ends them.
            if bits.overrun() {
                return Err(CUT_SHORT);
            }
            if at > end {
                return Err(Error::DecodeError("aac: more bands than there are"));
            }
            let kind = match book {
                ZERO => continue,
                RESERVED => return Err(Error::DecodeError("aac: reserved codebook")),
                NOISE => &mut self.noise,
                OPPOSITE | IN_PHASE => &mut self.intensity,
                _ => &mut self.coded,
            };
            *kind = kind.with(Bands::range(from..at));
            // Places are less than 128.
            self.sections.push(Section { book, from: from as u8, to: at as u8 });
        }
        Ok(())
    }

    /// scale_factor_data (section 4.6.2.3): each kind of number goes on from the last of its kind.
    fn read_scale_factors(&mut self, bits: &mut Bits, global_gain: i32) -> Result<()> {
        let (mut factor, mut position) = (global_gain, 0);
        let (mut energy, mut first_noise) = (global_gain - 90, true);
        for section in &self.sections {
            let gains = &mut self.gains[section.places()];
            match section.book {
                NOISE => {
                    for gain in gains {
                        energy += if first_noise { bits.read(9) as i32 - 256 } else { TABLES.difference(bits) };
                        first_noise = false;
                        *gain = TABLES.gain(energy);
                    }
                }
                OPPOSITE | IN_PHASE => {
                    let sign = if section.book == IN_PHASE { 1.0 } else { -1.0 };
                    for gain in gains {
                        position += TABLES.difference(bits);
                        *gain = TABLES.gain(-position) * sign;
                    }
                }
                _ => {
                    for gain in gains {
                        factor += TABLES.difference(bits);
                        if !(0..256).contains(&factor) {
                            return Err(Error::DecodeError("aac: impossible scale factor"));
                        }
                        *gain = TABLES.gain(factor - 100);
                    }
                }
            }
        }
        Ok(())
    }

    /// pulse_data.
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

    /// Bands that are zero.
    pub fn zero(&self) -> Bands {
        Bands::ALL.without(self.coded).without(self.noise).without(self.intensity)
    }

    /// spectral_data: the lines of the bands that are `wanted`, and zeros in place of their noise and above all bands.
    /// The other lines are left as they were. Of the last channel that is of interest what follows the last number
    /// wanted `may_end`, and is not passed over.
    pub fn spectrum(
        &self,
        bits: &mut Bits,
        layout: &Layout,
        wanted: Bands,
        may_end: bool,
        lines: &mut [f32; LINES],
    ) -> Result<()> {
        layout.each(wanted.without(self.coded), |_, range| lines[range].fill(0.0));
        let top = usize::from(layout.offsets[layout.per_group]);
        for window in lines.chunks_exact_mut(if layout.is_short() { SHORT_LINES } else { LINES }) {
            window[top..].fill(0.0);
        }

        let wanted = wanted.and(self.coded);
        let end = if may_end { BANDS - wanted.0.leading_zeros() as usize } else { layout.count };
        for section in self.sections.iter().filter(|s| matches!(s.book, 1..RESERVED)) {
            let Range { start: mut at, end: to } = section.places();
            let to = to.min(end);
            while at < to {
                // Bands that are all wanted, or all not.
                let ahead = wanted.0 >> at;
                let alike = if ahead & 1 == 1 { ahead.trailing_ones() } else { ahead.trailing_zeros() };
                let run = at..to.min(at + alike as usize);
                at = run.end;
                let bands = &layout.bands[run.clone()];
                let known = if ahead & 1 == 0 {
                    TABLES.pass_over(bits, section.book, bands.iter().map(|band| band.size()).sum())
                } else if layout.is_short() {
                    let mut windows = bands.iter().flat_map(|band| band.lines());
                    windows.all(|range| TABLES.read(bits, section.book, &mut lines[range]))
                } else {
                    let range = usize::from(bands[0].from)..usize::from(bands[bands.len() - 1].to);
                    TABLES.read(bits, section.book, &mut lines[range])
                };
                if !known {
                    return Err(Error::DecodeError("aac: impossible escape"));
                }
                if ahead & 1 == 1 {
                    for (band, &gain) in bands.iter().zip(&self.gains[run]) {
                        band.lines().for_each(|range| scale(&mut lines[range], gain));
                    }
                }
            }
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
    fn add_pulses(&self, layout: &Layout, wanted: Bands, lines: &mut [f32; LINES]) {
        for &(line, height) in &self.pulses {
            let found = layout.bands(wanted).find(|(_, band)| (band.from..band.to).contains(&(line as u16)));
            let Some((place, _)) = found else { continue };
            let gain = self.gains[place];
            let magnitude = (lines[line].abs() / gain).powf(0.75).round() as usize;
            // A zero counts as negative (section 4.6.3.3: what is above zero is increased, all else decreased).
            let sign = if lines[line] > 0.0 { 1.0 } else { -1.0 };
            lines[line] = sign * gain * TABLES.power(magnitude + height as usize);
        }
    }

    /// Fills the wanted bands of noise; `seed` says which noise.
    pub fn add_noise(&self, layout: &Layout, wanted: Bands, seed: u64, lines: &mut [f32; LINES]) {
        for (place, band) in layout.bands(wanted.and(self.noise)) {
            for (window, range) in band.lines().enumerate() {
                noise::fill(seed, place * 8 + window, self.gains[place], &mut lines[range]);
            }
        }
    }
}

/// Multiplies the lines of a band, whose number is a multiple of four.
#[inline(always)]
pub(super) fn scale(lines: &mut [f32], factor: f32) {
    lines.as_chunks_mut::<4>().0.iter_mut().for_each(|four| *four = four.map(|x| x * factor));
}
