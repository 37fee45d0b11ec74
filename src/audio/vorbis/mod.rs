//! Vorbis I, decoded to what the front end hears of it: one channel, and from 44.1 kHz on half the rate.
//!
//! Decoding is most of what a track costs, and of a stereo track at 44.1 kHz the difference of its channels and
//! everything above 11 kHz are thrown away behind the decoder. All that follows the reading of the codewords is linear,
//! but for the coupling of channels, which concerns each line of the spectrum by itself. So the channels are mixed as
//! spectra, of which only the lower half is computed at all, and one inverse transform of half the size remains of two:
//!
//! ```text
//! packet ─► floors ────────────────────────────┐
//!        ─► residues ─► kept lines ─► decouple ─┴─► floor × residue, mean ─► fade ─► inverse MDCT ─► overlap
//!           all read    lower half    channels                  mono          44.1     half size      half rate
//! ```
//!
//! A line of the MDCT is a cosine of time, sampled. Transform and window of half the size are the same cosines and the
//! same window sampled half as often, midway between two frames: sample `m` lies at frame `2m + ½`. Against a full
//! decode that is resampled everything is thus early by half a frame (11 µs at 44.1 kHz), which moves the log-mel
//! spectrogram by 0.0003 on average. Apart from that they agree within 90 to 110 dB up to 10 kHz.
//!
//! Half the rate suits a front end at 22,050 Hz or below; one at a higher rate needs symphonia's own decoder.

mod bits;
mod codebook;
mod floor;
mod residue;
mod setup;
mod synthesis;
#[cfg(test)]
mod tests;

use symphonia::core::audio::{
    AsGenericAudioBufferRef, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::CODEC_ID_VORBIS;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

use bits::{Bits, ilog};
use floor::Curve;
use residue::{Extent, Scratch};
use setup::Setup;
use synthesis::Synthesis;

use super::half::{output_rate, reduction};

/// The symphonia decoder. Like symphonia's own it gives nothing for the first packet after a reset, whose first half
/// lacks its predecessor; unlike it, it keeps to the standard's order where channels take part in several couplings.
///
/// What a packet says is to be trimmed is in frames of the source. A sample stands for two of them: one is kept at the
/// end if either of its frames is, and at the beginning if both are. So odd lengths are rounded up; and the single
/// frames that symphonia trims in the middle of some old files, whose pages were stamped one too low, stay.
pub struct VorbisDecoder {
    params: AudioCodecParameters,
    setup: Setup,
    /// Frames of the source to one of ours.
    reduction: usize,
    /// `[channel]`
    curves: Vec<Curve>,
    /// `[channel, line]`
    spectra: Vec<Vec<f32>>,
    /// Their mean, of the lines that are kept.
    mono: Vec<f32>,
    scratch: Scratch,
    synthesis: Synthesis,
    /// Of short and of long blocks: gains of the highest lines kept.
    edge: [Vec<f32>; 2],
    buffer: AudioBuffer<f32>,
}

impl VorbisDecoder {
    fn new(params: &AudioCodecParameters) -> Result<VorbisDecoder> {
        let extra = params.extra_data.as_deref().ok_or(Error::Unsupported("vorbis: no headers"))?;
        let setup = Setup::read(extra)?;
        let reduction = reduction(setup.rate);
        let kept = setup.lines.map(|lines| lines / reduction);
        let spec = AudioSpec::new(output_rate(setup.rate), Channels::Discrete(1));
        Ok(VorbisDecoder {
            params: params.clone(),
            curves: (0..setup.channels).map(|_| Curve::default()).collect(),
            spectra: vec![vec![0.0; setup.lines[1]]; setup.channels],
            mono: vec![0.0; kept[1]],
            scratch: Scratch::default(),
            synthesis: Synthesis::new(kept, 1.0 / setup.channels as f64),
            buffer: AudioBuffer::new(spec, kept[1]),
            edge: setup.lines.map(|lines| edge(setup.rate, lines)),
            reduction,
            setup,
        })
    }

    /// Decodes a packet into the buffer (section 4.3).
    fn decode_packet(&mut self, data: &[u8]) -> Result<()> {
        const NOT_AUDIO: Error = Error::DecodeError("vorbis: not an audio packet");
        let setup = &self.setup;
        let mut bits = Bits::new(data);
        if bits.flag().ok_or(NOT_AUDIO)? {
            return Err(NOT_AUDIO);
        }
        let mode = bits.read(ilog(setup.modes.len() as u32 - 1)).ok_or(NOT_AUDIO)? as usize;
        let mode = setup.modes.get(mode).ok_or(Error::DecodeError("vorbis: no such mode"))?;
        if mode.long {
            // The sizes of the neighbouring blocks, which we know or shall see.
            bits.read(2).ok_or(NOT_AUDIO)?;
        }
        let lines = setup.lines[usize::from(mode.long)];
        let kept = lines / self.reduction;
        let mapping = &setup.mappings[mode.mapping];

        for (curve, &submap) in self.curves.iter_mut().zip(&mapping.submap_of) {
            setup.floors[mapping.submaps[submap].floor].read_curve(&mut bits, &setup.books, curve);
        }
        // A channel without a curve is silent, but if it is coupled to another its residue is needed (4.3.3).
        let mut wanted = [false; 8];
        for (wanted, curve) in wanted.iter_mut().zip(&self.curves) {
            *wanted = !curve.is_empty();
        }
        for &(magnitude, angle) in &mapping.couplings {
            let either = wanted[magnitude] || wanted[angle];
            (wanted[magnitude], wanted[angle]) = (either, either);
        }

        for (spectrum, _) in self.spectra.iter_mut().zip(wanted).filter(|(_, wanted)| !wanted) {
            spectrum[..kept].fill(0.0);
        }
        for (number, submap) in mapping.submaps.iter().enumerate() {
            let residue = &setup.residues[submap.residue];
            let mut channels = [0; 8];
            let mut n = 0;
            let members = || (0..setup.channels).filter(|&channel| mapping.submap_of[channel] == number);
            let any = members().any(|channel| wanted[channel]);
            for channel in members().filter(|&channel| wanted[channel] || any && residue.takes_all()) {
                channels[n] = channel;
                n += 1;
            }
            let extent = Extent { lines, kept, last: number + 1 == mapping.submaps.len() };
            residue.decode(&mut bits, &setup.books, &channels[..n], &mut self.spectra, extent, &mut self.scratch);
        }

        for &(magnitude, angle) in mapping.couplings.iter().rev() {
            let [magnitude, angle] =
                self.spectra.get_disjoint_mut([magnitude, angle]).expect("the setup checked that they differ");
            decouple(&mut magnitude[..kept], &mut angle[..kept]);
        }

        // The synthesis divides the sum by the number of channels.
        let mono = &mut self.mono[..kept];
        mono.fill(0.0);
        for (curve, spectrum) in self.curves.iter().zip(&self.spectra).filter(|(curve, _)| !curve.is_empty()) {
            curve.multiply_add(spectrum, mono);
        }
        let edge = &self.edge[usize::from(mode.long)];
        mono[kept - edge.len()..].iter_mut().zip(edge).for_each(|(x, gain)| *x *= gain);
        self.buffer.render_uninit(Some(self.synthesis.samples(mode.long)));
        let out = self.buffer.plane_mut(0).ok_or(Error::DecodeError("vorbis: no room"))?;
        self.synthesis.next(mode.long, mono, out);
        Ok(())
    }
}

/// Gains of the highest lines kept of a block of `lines`, so that the top of the spectrum fades as it does on the other
/// way to 22,050 Hz, through the resampler: its filter has fallen to ½ at 10,951 Hz, and lies between 0.95 and 0.05 for
/// 27 Hz on either side. From other rates a resampler follows.
///
/// Where lines are narrow they take the filter's value. In short blocks (lines 172 Hz apart) the filter would cut
/// through the last line. What is missing there is not only that line's share of the power but also what the lines
/// above would have spread below; measured over music, the top mel band comes out right on average when the last line
/// keeps 0.9, as if the cut were at 10,992 Hz.
fn edge(rate: u32, lines: usize) -> Vec<f32> {
    if rate != 44_100 {
        return Vec::new();
    }
    let width = 22_050.0 / lines as f64;
    let gain = |line: usize| {
        let low = line as f64 * width;
        if width < 50.0 {
            // A logistic curve, which is within 0.01 of the filter's.
            1.0 / (1.0 + ((low + width / 2.0 - 10_951.0) / 9.75).exp())
        } else {
            ((10_992.0 - low) / width).clamp(0.0, 1.0).sqrt()
        }
    };
    (0..lines / 2).map(|line| gain(line) as f32).skip_while(|&gain| gain > 0.999).collect()
}

/// Magnitude and angle to left and right (section 4.3.5), in place.
fn decouple(magnitude: &mut [f32], angle: &mut [f32]) {
    for (m, a) in magnitude.iter_mut().zip(angle) {
        let signed = if *m > 0.0 { *a } else { -*a };
        let (left, right) = if *a > 0.0 { (*m, *m - signed) } else { (*m + signed, *m) };
        (*m, *a) = (left, right);
    }
}

impl AudioDecoder for VorbisDecoder {
    fn reset(&mut self) {
        self.synthesis.reset();
    }

    fn codec_info(&self) -> &CodecInfo {
        &Self::supported_codecs()[0].info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        if let Err(e) = self.decode_packet(packet.data) {
            self.buffer.clear();
            // What the block before left must not overlap with one that is not its neighbour.
            self.synthesis.reset();
            return Err(e);
        }
        let (start, end) = (packet.trim_start.get() as usize, packet.trim_end.get() as usize);
        self.buffer.trim(start.div_ceil(self.reduction), end / self.reduction);
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

impl RegisterableAudioDecoder for VorbisDecoder {
    fn try_registry_new(params: &AudioCodecParameters, _: &AudioDecoderOptions) -> Result<Box<dyn AudioDecoder>> {
        Ok(Box::new(VorbisDecoder::new(params)?))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        const CODECS: &[SupportedAudioCodec] = &[SupportedAudioCodec {
            id: CODEC_ID_VORBIS,
            info: CodecInfo { short_name: "vorbis", long_name: "Vorbis", profiles: &[] },
        }];
        CODECS
    }
}
