//! MPEG-1, 2 and 2.5 Layer III inside symphonia, decoded to what this program hears: mono, and of 44.1 and 48 kHz the
//! lower half of the band.
//!
//! Decoding is nearly all that listening to an mp3 costs, and a decoder that gives two channels at 44.1 kHz gives four
//! times what the spectrogram needs, which holds the mean of the channels up to 11 kHz. Nearly everything behind the
//! Huffman codes is linear. So the mean is taken of the spectral lines, and one inverse transform and one filter bank
//! serve both channels; lines above half the band are not even read, nor is the side channel of mid/side stereo; and
//! the filter bank computes only every other sample.
//!
//! ```text
//! frame ─► header ─► side ─► huffman ─► requantise ─► hybrid ─► polyphase ─► 44.1, 48 kHz: every other sample
//!                    info    lines      lines of      subbands  samples      32 kHz and below: every sample
//!                                       the mean
//! ```
//!
//! Layers I and II are left to symphonia.

mod bands;
mod books;
mod header;
mod huffman;
mod hybrid;
mod polyphase;
mod requantise;
mod reservoir;
mod side;
#[cfg(test)]
mod tests;

use pulp::{Arch, Simd, WithSimd};
use symphonia::core::audio::{
    AsGenericAudioBufferRef, Audio, AudioBuffer, AudioMut, AudioSpec, GenericAudioBufferRef, layouts,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

use bands::{Block, LINES, Layout};
use header::Header;
use huffman::Lines;
use hybrid::{Hybrid, SLOTS, Subbands};
use polyphase::Polyphase;
use reservoir::Reservoir;
use side::{Scale, Side};

use super::bits::Bits;
use super::half::output_rate;

/// The symphonia decoder. One plane comes out, the mean of the channels, at `output_rate`.
///
/// At half rate, where timestamps count frames of the source (as in mp3 files), the samples lie at the even ones,
/// whether the first packet begins with an even or (as LAME's delay makes it) an odd one. Where they count milliseconds,
/// as in Matroska, it is left to chance which of two neighbouring frames is taken. Of what a packet says is to be
/// trimmed, in source frames, exactly the samples at those frames are left out.
pub struct Mp3Decoder {
    params: AudioCodecParameters,
    gapless: bool,
    /// Decode 44.1 and 48 kHz at their own rate too, so that the tests can compare.
    full: bool,
    synthesis: Option<Synthesis>,
    scratch: Box<Scratch>,
    reservoir: Reservoir,
    buffer: AudioBuffer<f32>,
}

/// Where a granule is put together.
struct Scratch {
    /// Of each channel.
    lines: [Lines; 2],
    /// Their sum is the mean of the channels.
    blocks: [(Lines, Block); 2],
}

/// The filters for the rate of the stream.
struct Synthesis {
    /// Hz, of the source.
    rate: u32,
    /// Samples come for every `step`-th frame of the source, beginning at the `phase`-th of a packet.
    step: usize,
    phase: usize,
    filters: Filters,
}

enum Filters {
    Full(Box<Bank<32, 64>>),
    Half(Box<Bank<16, 32>>),
}

struct Bank<const B: usize, const V: usize> {
    hybrid: Hybrid<B>,
    polyphase: Polyphase<B, V>,
}

impl<const B: usize, const V: usize> Bank<B, V> {
    fn new(phase: usize) -> Box<Self> {
        Box::new(Bank { hybrid: Hybrid::new(), polyphase: Polyphase::new(phase) })
    }
}

impl Synthesis {
    fn new(rate: u32, halve: bool, phase: usize) -> Synthesis {
        if halve {
            Synthesis { rate, step: 2, phase, filters: Filters::Half(Bank::new(phase)) }
        } else {
            Synthesis { rate, step: 1, phase: 0, filters: Filters::Full(Bank::new(0)) }
        }
    }

    /// One granule of the sum of `blocks`.
    fn process(&mut self, blocks: &mut [(Lines, Block)], out: &mut [f32]) {
        match &mut self.filters {
            Filters::Full(bank) => Arch::new().dispatch(Granule { bank, blocks, out }),
            Filters::Half(bank) => Arch::new().dispatch(Granule { bank, blocks, out }),
        }
    }
}

struct Granule<'a, const B: usize, const V: usize> {
    bank: &'a mut Bank<B, V>,
    blocks: &'a mut [(Lines, Block)],
    out: &'a mut [f32],
}

impl<const B: usize, const V: usize> WithSimd for Granule<'_, B, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut subbands: Subbands<B> = [[0.0; B]; SLOTS];
        self.bank.hybrid.begin(&mut subbands);
        for (lines, block) in self.blocks {
            self.bank.hybrid.add(simd, lines, *block, &mut subbands);
        }
        self.bank.polyphase.process(simd, &subbands, self.out);
    }
}

impl Mp3Decoder {
    pub fn new(params: &AudioCodecParameters, options: &AudioDecoderOptions) -> Mp3Decoder {
        Mp3Decoder {
            params: params.clone(),
            gapless: options.gapless,
            full: false,
            synthesis: None,
            scratch: Box::new(Scratch { lines: [[0.0; LINES + 8]; 2], blocks: [([0.0; LINES + 8], Block::Long); 2] }),
            reservoir: Reservoir::new(),
            buffer: AudioBuffer::default(),
        }
    }

    fn decode_frame(&mut self, packet: &PacketRef<'_>) -> std::result::Result<(), &'static str> {
        let (header, side, own) = split(packet.data).inspect_err(|_| self.reservoir.clear())?;
        // Its bytes belong to the next frames too, even if its side information turns out to be damaged.
        let side = Side::parse(&header, side).inspect_err(|_| self.reservoir.add_unread(own))?;
        let missing = self.reservoir.add(side.main_data_begin, own);
        let (spans, bits) = spans(&header, &side, missing, self.reservoir.data().len())?;
        self.reservoir.take(missing, bits);

        let halve = !self.full && output_rate(header.rate) != header.rate;
        if self.synthesis.as_ref().is_none_or(|s| s.rate != header.rate) {
            let phase = packet.pts.get().rem_euclid(2) as usize;
            self.synthesis = Some(Synthesis::new(header.rate, halve, phase));
        }
        let Some(synthesis) = &mut self.synthesis else { return Err("mp3: no filters") };

        let rate = header.rate / synthesis.step as u32;
        if self.buffer.spec().rate() != rate || self.buffer.is_unused() {
            self.buffer = AudioBuffer::new(AudioSpec::new(rate, layouts::CHANNEL_LAYOUT_MONO), 2 * LINES);
        }
        let samples = LINES / synthesis.step;
        self.buffer.render_uninit(Some(header.granules() * samples));
        let plane = self.buffer.plane_mut(0).ok_or("mp3: no plane")?;
        let mut scale = [Scale::default(); 2];
        for (granule, out) in plane.chunks_exact_mut(samples).enumerate() {
            let count = match &spans[granule] {
                Some(edges) => {
                    let part = Part { header: &header, side: &side, granule, edges, half: synthesis.step == 2 };
                    part.read(self.reservoir.data(), &mut scale, &mut self.scratch)
                }
                None => 0,
            };
            synthesis.process(&mut self.scratch.blocks[..count], out);
        }
        if self.gapless {
            let frames = header.granules() * LINES;
            let (start, end) = (packet.trim_start.get(), packet.trim_end.get());
            let (before, behind) = trimmed(start, end, synthesis.step, synthesis.phase, frames);
            self.buffer.trim(before, behind);
        }
        Ok(())
    }
}

/// A frame's header, its side information, and its bytes of main data.
fn split(frame: &[u8]) -> std::result::Result<(Header, &[u8], &[u8]), &'static str> {
    let header = Header::parse(frame).ok_or("mp3: not a Layer III frame")?;
    let bytes = header.bytes.unwrap_or(frame.len());
    let side_start = if header.checksum { 6 } else { 4 };
    let rest = frame.get(..bytes).and_then(|frame| frame.get(side_start..));
    let (side, own) =
        rest.and_then(|rest| rest.split_at_checked(header.side_bytes())).ok_or("mp3: the frame is cut off")?;
    Ok((header, side, own))
}

/// How many samples to leave out at the beginning and at the end of a packet of which `start` and `end` frames are to
/// be trimmed: those that lie at these frames. Sample `m` lies at frame `step·m + phase` of its `frames`.
fn trimmed(start: u64, end: u64, step: usize, phase: usize, frames: usize) -> (usize, usize) {
    let limit = |trim: u64| trim.min(frames as u64) as usize;
    let samples_before = |frame: usize| frame.saturating_sub(phase).div_ceil(step);
    (samples_before(limit(start)), frames / step - samples_before(frames - limit(end)))
}

/// For each granule the bits where its channels begin and where the last one ends.
type Spans = [Option<[usize; 3]>; 2];

/// The [`Spans`] of a frame, `None` for one that begins among the
/// `missing` bytes at the beginning of the frame's main data; and how many bits of main data there are, these included.
/// `length` bytes are there, from which the bits are counted.
fn spans(
    header: &Header,
    side: &Side,
    missing: usize,
    length: usize,
) -> std::result::Result<(Spans, usize), &'static str> {
    let missing = 8 * missing;
    let mut spans = [None; 2];
    let mut at = 0;
    for granule in 0..header.granules() {
        let start = at;
        let mut edges = [0; 3];
        for channel in 0..header.channels {
            edges[channel] = at;
            at += side.channels[granule][channel].length;
            edges[channel + 1] = at;
        }
        if start < missing || granule == 1 && spans[0].is_none() && side.needs_granule_0() {
            continue;
        }
        for channel in 0..header.channels {
            let length = side.channels[granule][channel].length;
            if length > 0 && side.scale_bits(header, granule, channel) > length {
                return Err("mp3: more scale factors than data");
            }
        }
        if at - missing > 8 * length {
            return Err("mp3: more data than bytes");
        }
        spans[granule] = Some(edges.map(|edge| edge.saturating_sub(missing)));
    }
    Ok((spans, at))
}

/// One granule in the stream.
struct Part<'a> {
    header: &'a Header,
    side: &'a Side,
    granule: usize,
    /// As [`spans`] gives them.
    edges: &'a [usize; 3],
    /// Only the lower half of the lines is wanted.
    half: bool,
}

impl Part<'_> {
    /// Reads the granule into blocks whose sum is the mean of its channels; returns how many, one or two. `scale` holds
    /// the scale factors of the granule before.
    fn read(&self, data: &[u8], scale: &mut [Scale; 2], scratch: &mut Scratch) -> usize {
        let Part { header, side, granule, edges, half } = *self;
        let channels = &side.channels[granule];
        let layouts = [0, 1].map(|c| Layout::of(header.rate_index, channels[c].block));
        let limits = layouts.map(|layout| if half { layout.half } else { LINES });
        // The side channel has no part in the mean. Where there is intensity it says how far that reaches.
        let wanted = if header.channels == 1 || header.mid_side && !header.intensity { 1 } else { 2 };
        let mut filled = [0; 2];
        for c in (0..wanted).filter(|&c| channels[c].length > 0) {
            let mut bits = Bits::new(data, edges[c]);
            side.read_scale(header, granule, c, &mut bits, &mut scale[c]);
            let limit = if header.intensity && c == 1 { LINES } else { limits[c] };
            filled[c] = huffman::read(&mut bits, &channels[c], edges[c + 1], limit, &mut scratch.lines[c]);
        }
        let alike = channels[0].block == channels[1].block;
        let weights = if header.channels == 1 {
            [[1.0, 0.0]; side::BANDS]
        } else if header.intensity && alike {
            let wide = side.wide_positions(granule);
            requantise::intensity_weights(header, layouts[0], &scratch.lines[1], filled[1], &scale[1], wide)
        } else {
            requantise::weights(header.mid_side)
        };
        let count = if wanted == 2 && !alike { 2 } else { 1 };
        for (block, channel) in scratch.blocks[..count].iter_mut().zip(channels) {
            block.0.fill(0.0);
            block.1 = channel.block;
        }
        for c in 0..wanted {
            let lines = &scratch.lines[c][..filled[c].min(limits[c])];
            let mean = &mut scratch.blocks[c.min(count - 1)].0;
            requantise::add(mean, lines, layouts[c], &channels[c], &scale[c], |band| weights[band][c]);
        }
        if half && header.rate == 44_100 {
            scratch.blocks[..count].iter_mut().for_each(|(lines, _)| requantise::fade(lines));
        }
        count
    }
}

impl AudioDecoder for Mp3Decoder {
    fn reset(&mut self) {
        self.synthesis = None;
        self.reservoir.clear();
    }

    fn codec_info(&self) -> &CodecInfo {
        &Self::supported_codecs()[0].info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        if let Err(reason) = self.decode_frame(packet) {
            self.buffer.clear();
            // What the granule before left must not overlap with one that is not its neighbour.
            self.synthesis = None;
            return Err(Error::DecodeError(reason));
        }
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

impl RegisterableAudioDecoder for Mp3Decoder {
    fn try_registry_new(params: &AudioCodecParameters, options: &AudioDecoderOptions) -> Result<Box<dyn AudioDecoder>> {
        Ok(Box::new(Mp3Decoder::new(params, options)))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        const CODECS: &[SupportedAudioCodec] = &[SupportedAudioCodec {
            id: CODEC_ID_MP3,
            info: CodecInfo { short_name: "mp3", long_name: "MPEG Audio Layer 3", profiles: &[] },
        }];
        CODECS
    }
}
