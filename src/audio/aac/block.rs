//! A packet, which is one raw_data_block (ISO/IEC 14496-3, section 4.4.2.1): its channels are added up to one.
//!
//! ```text
//!   left  ──► numbers ──┐                                        ┌─► shaped ─┐
//!                       ├─► noise, mid/side, intensity ──► added ┤           ├─► by windows ──► filterbank
//!   right ──► numbers ──┘                 or, where they differ: └─► shaped ─┘
//! ```
//!
//! Only what is heard is computed. All steps behind the numbers are linear, so that the channels of a pair are added as
//! soon as the steps that follow are the same for both. Then mid/side stereo is twice its middle, whose side need not
//! even be read; and of the last channel nothing behind the last line that is needed.

use symphonia::core::errors::{Error, Result};

use super::config::{HE_AAC, program};
use super::filterbank::Windows;
use super::noise;
use super::rates::Rate;
use super::shaping::{needed, shape};
use super::stream::{Bands, CUT_SHORT, LINES, Layout, SHORT_LINES, Shape, Stream, scale};
use crate::audio::bits::Bits;

/// Channel elements of a packet: 16 each of four kinds. More are damage, and would make a packet slow.
const MAX_ELEMENTS: usize = 64;

/// What the packets of a stream are read with.
pub(super) struct Reader {
    rate: &'static Rate,
    /// Lines that are kept of a long window, and of a short one an eighth of them.
    kept: usize,
    /// The streams of a pair, and their spectra.
    streams: [Stream; 2],
    spectra: [Box<[f32; LINES]>; 2],
    /// The window shape of each channel's last frame.
    shapes: Vec<Shape>,
    /// The sums of the spectra that share their windows; those in use are the first `sums_used`.
    sums: Vec<(Windows, Box<[f32; LINES]>)>,
    sums_used: usize,
}

/// How much of a packet is read.
pub(super) struct Extent {
    /// Channels that are heard. What follows them is not.
    pub channels: usize,
    /// On to its end, to see what else there is.
    pub whole: bool,
    /// Decides its noise.
    pub timestamp: i64,
}

/// How far a packet was read.
struct Progress<'a> {
    bits: Bits<'a>,
    extent: &'a Extent,
    /// Channels read so far.
    channels: usize,
    /// And those that are added up.
    heard: usize,
}

impl Progress<'_> {
    /// Whether nothing of interest follows the next `n` channels.
    fn are_last(&self, n: usize) -> bool {
        !self.extent.whole && self.heard + n >= self.extent.channels
    }

    fn seed(&self, channel: usize) -> u64 {
        noise::seed(self.extent.timestamp, channel)
    }
}

impl Reader {
    /// `kept` of 1024 lines.
    pub fn new(rate: &'static Rate, kept: usize) -> Reader {
        Reader {
            rate,
            kept,
            streams: [Stream::new(), Stream::new()],
            spectra: [Box::new([0.0; LINES]), Box::new([0.0; LINES])],
            shapes: vec![],
            sums: vec![],
            sums_used: 0,
        }
    }

    /// Forgets the last packet.
    pub fn reset(&mut self) {
        self.shapes.clear();
    }

    /// The spectra of the last packet.
    pub fn sums(&mut self) -> impl Iterator<Item = (Windows, &mut [f32; LINES])> {
        self.sums[..self.sums_used].iter_mut().map(|(windows, lines)| (*windows, &mut **lines))
    }

    /// Reads a packet; how many channels were added up.
    pub fn read(&mut self, data: &[u8], extent: &Extent) -> Result<usize> {
        self.sums_used = 0;
        let mut at = Progress { bits: Bits::new(data, 0), extent, channels: 0, heard: 0 };
        let mut elements = 0;
        while at.bits.left() >= 3 && !at.are_last(0) {
            let kind = at.bits.read(3);
            if matches!(kind, 0..=3) {
                elements += 1;
                if elements > MAX_ELEMENTS {
                    return Err(Error::DecodeError("aac: more channels than there can be"));
                }
            }
            match kind {
                // The channel for low frequencies counts as any other does, as it does in every codec.
                0 | 3 => self.single(&mut at)?,
                1 => self.pair(&mut at)?,
                // coupling_channel_element: music that is added to other channels (section 4.6.8.3), which we lack.
                2 => return Err(Error::Unsupported("aac: coupling channels")),
                4 => data_stream(&mut at.bits),
                5 => drop(program(&mut at.bits)),
                6 => fill(&mut at.bits)?,
                _ => break,
            }
            if at.bits.overrun() {
                return Err(CUT_SHORT);
            }
        }
        if at.heard == 0 {
            return Err(Error::DecodeError("aac: packet without audio"));
        }
        Ok(at.heard)
    }

    /// Lines kept of each window.
    fn kept(&self, layout: &Layout) -> usize {
        if layout.is_short() { self.kept / (LINES / SHORT_LINES) } else { self.kept }
    }

    /// single_channel_element, or lfe_channel_element.
    fn single(&mut self, at: &mut Progress) -> Result<()> {
        let heard = at.heard < at.extent.channels;
        let last = at.are_last(usize::from(heard));
        at.bits.skip(4);
        let gain = at.bits.read(8) as i32;
        let layout = Layout::read(&mut at.bits, self.rate)?;
        let stream = &mut self.streams[0];
        stream.read(&mut at.bits, &layout, gain)?;
        let (kept, lines) = (self.kept(&layout), &mut self.spectra[0]);
        let stream = &self.streams[0];
        let windows = windows(&mut self.shapes, at.channels, &layout);
        let seed = at.seed(at.channels);
        at.channels += 1;
        if !heard {
            return stream.spectrum(&mut at.bits, &layout, Bands::default(), last, lines);
        }
        let wanted = layout.below(needed(&stream.filters, kept));
        stream.spectrum(&mut at.bits, &layout, wanted, last, lines)?;
        stream.add_noise(&layout, wanted, seed, lines);
        shape(&stream.filters, kept, lines);
        at.heard += 1;
        self.add(windows, 0);
        Ok(())
    }

    /// channel_pair_element.
    fn pair(&mut self, at: &mut Progress) -> Result<()> {
        let heard = at.heard < at.extent.channels;
        let last = at.are_last(if heard { 2 } else { 0 });
        at.bits.skip(4);
        let common = if at.bits.flag() { Some(Layout::read(&mut at.bits, self.rate)?) } else { None };
        let mask = match &common {
            Some(layout) => Mask::read(&mut at.bits, layout)?,
            None => Mask::default(),
        };

        // The left channel, for now as far as itself needs.
        let gain = at.bits.read(8) as i32;
        let own_left = if common.is_none() { Some(Layout::read(&mut at.bits, self.rate)?) } else { None };
        let left = own_left.as_ref().or(common.as_ref()).ok_or(CUT_SHORT)?;
        self.streams[0].read(&mut at.bits, left, gain)?;
        let numbers = at.bits;
        let kept_left = self.kept(left);
        let needed_left = needed(&self.streams[0].filters, kept_left);
        let mut wanted = if heard { left.below(needed_left) } else { Bands::default() };
        self.streams[0].spectrum(&mut at.bits, left, wanted, false, &mut self.spectra[0])?;

        let gain = at.bits.read(8) as i32;
        let own_right = if common.is_none() { Some(Layout::read(&mut at.bits, self.rate)?) } else { None };
        let right = own_right.as_ref().or(common.as_ref()).ok_or(CUT_SHORT)?;
        self.streams[1].read(&mut at.bits, right, gain)?;
        let kept_right = self.kept(right);
        let needed_right = needed(&self.streams[1].filters, kept_right);

        let windows = [(0, left), (1, right)].map(|(i, layout)| windows(&mut self.shapes, at.channels + i, layout));
        let seeds = [at.seed(at.channels), at.seed(at.channels + 1)];
        at.channels += 2;
        let [left_stream, right_stream] = &self.streams;
        let [left_lines, right_lines] = &mut self.spectra;
        if !heard {
            return right_stream.spectrum(&mut at.bits, right, Bands::default(), last, right_lines);
        }
        at.heard += 2;

        // How the right channel's bands are made.
        let from_left = right_stream.intensity;
        let mid_side = mask.used.without(from_left).without(left_stream.noise).without(right_stream.noise);
        let factor = |place: usize| right_stream.gains[place] * if mask.inverts(place) { -1.0 } else { 1.0 };
        // Both channels' noise is the same where the mask is set (section 4.6.13).
        let shared = mask.used.and(left_stream.noise);

        let alike = common.is_some() && windows[0] == windows[1] && left_stream.filters == right_stream.filters;
        if alike {
            // The side, and what is made from the left channel, is not needed for the sum.
            let own = wanted.without(mid_side).without(from_left).without(right_stream.zero());
            right_stream.spectrum(&mut at.bits, right, own, last, right_lines)?;
            left_stream.add_noise(left, wanted, seeds[0], left_lines);
            right_stream.add_noise(right, own.and(shared), seeds[0], right_lines);
            right_stream.add_noise(right, own.without(shared), seeds[1], right_lines);
            left.each(own, |_, range| {
                let right = right_lines[range.clone()].as_chunks::<4>().0;
                for (sum, right) in left_lines[range].as_chunks_mut::<4>().0.iter_mut().zip(right) {
                    *sum = std::array::from_fn(|i| sum[i] + right[i]);
                }
            });
            left.each(wanted.and(mid_side), |_, range| scale(&mut left_lines[range], 2.0));
            left.each(wanted.and(from_left), |place, range| scale(&mut left_lines[range], 1.0 + factor(place)));
            shape(&left_stream.filters, kept_left, left_lines);
            self.add(windows[0], 0);
            return Ok(());
        }

        let mut wanted_right = right.below(needed_right);
        if common.is_some() {
            // Each is made from both, so that both must go as far as either needs.
            wanted_right = right.below(needed_left.max(needed_right));
            if wanted_right != wanted {
                wanted = wanted_right;
                left_stream.spectrum(&mut numbers.clone(), left, wanted, true, left_lines)?;
            }
        }
        right_stream.spectrum(&mut at.bits, right, wanted_right, last, right_lines)?;
        left_stream.add_noise(left, wanted, seeds[0], left_lines);
        right_stream.add_noise(right, wanted_right.and(shared), seeds[0], right_lines);
        right_stream.add_noise(right, wanted_right.without(shared), seeds[1], right_lines);
        if common.is_some() {
            left.each(wanted.and(mid_side), |_, range| {
                for (left, right) in left_lines[range.clone()].iter_mut().zip(&mut right_lines[range]) {
                    (*left, *right) = (*left + *right, *left - *right);
                }
            });
            left.each(wanted.and(from_left), |place, range| {
                right_lines[range.clone()].copy_from_slice(&left_lines[range.clone()]);
                scale(&mut right_lines[range], factor(place));
            });
        }
        shape(&left_stream.filters, kept_left, left_lines);
        shape(&right_stream.filters, kept_right, right_lines);
        self.add(windows[0], 0);
        self.add(windows[1], 1);
        Ok(())
    }

    /// Adds a spectrum to those of its windows. What is in its place then is undefined.
    fn add(&mut self, windows: Windows, spectrum: usize) {
        let lines = &mut self.spectra[spectrum];
        if let Some((_, sum)) = self.sums[..self.sums_used].iter_mut().find(|(w, _)| *w == windows) {
            sum.iter_mut().zip(lines.iter()).for_each(|(sum, x)| *sum += x);
            return;
        }
        if self.sums_used == self.sums.len() {
            self.sums.push((windows, Box::new([0.0; LINES])));
        }
        let (key, sum) = &mut self.sums[self.sums_used];
        *key = windows;
        std::mem::swap(sum, lines);
        self.sums_used += 1;
    }
}

/// ms_mask_present and ms_used.
#[derive(Default)]
struct Mask {
    used: Bands,
    /// The bits are in the stream, one for each band.
    given: bool,
}

impl Mask {
    fn read(bits: &mut Bits, layout: &Layout) -> Result<Mask> {
        match bits.read(2) {
            0 => Ok(Mask::default()),
            1 => {
                let used = (0..layout.count()).fold(0, |used, place| used | u128::from(bits.flag()) << place);
                Ok(Mask { used: Bands(used), given: true })
            }
            2 => Ok(Mask { used: Bands::ALL, given: false }),
            _ => Err(Error::DecodeError("aac: reserved mid/side mask")),
        }
    }

    /// Of intensity stereo a bit means the other sign (section 4.6.8.2.3).
    fn inverts(&self, place: usize) -> bool {
        self.given && self.used.has(place)
    }
}

/// The windows of a channel's frame, whose shape is remembered. Ahead of the first one others assume the sine.
fn windows(shapes: &mut Vec<Shape>, channel: usize, layout: &Layout) -> Windows {
    if shapes.len() <= channel {
        shapes.resize(channel + 1, Shape::Sine);
    }
    let before = std::mem::replace(&mut shapes[channel], layout.shape);
    Windows { sequence: layout.sequence, shape: layout.shape, before }
}

/// data_stream_element.
fn data_stream(bits: &mut Bits) {
    bits.skip(4);
    let aligned = bits.flag();
    let mut bytes = bits.read(8) as usize;
    if bytes == 255 {
        bytes += bits.read(8) as usize;
    }
    if aligned {
        bits.align();
    }
    bits.skip(8 * bytes);
}

/// fill_element: padding, dynamic range control; or the upper half of the spectrum.
fn fill(bits: &mut Bits) -> Result<()> {
    let mut bytes = bits.read(4) as usize;
    if bytes == 15 {
        bytes = 14 + bits.read(8) as usize;
    }
    if bytes > 0 {
        // EXT_SBR_DATA and EXT_SBR_DATA_CRC.
        if matches!(bits.read(4), 13 | 14) {
            return Err(HE_AAC);
        }
        bits.skip(8 * bytes - 4);
    }
    Ok(())
}
