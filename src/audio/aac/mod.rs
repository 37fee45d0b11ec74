//! AAC-LC (ISO/IEC 14496-3 and 13818-7) inside symphonia, for listening: one channel, the mean of all, and of the rates
//! from 44.1 kHz on half the rate.
//!
//! What is heard of a track is mono at 22,050 Hz, and decoding is most of what that costs. A decoder for playing
//! computes two channels to twice that rate, of which all is thrown away but the lower half of their mean. This one
//! computes the lower half of their mean:
//!
//! ```text
//!   packet ──► block ──► sums of spectra, 512 of 1024 lines ──► filterbank ──► 512 samples
//! ```
//!
//! `filterbank` says why half of a spectrum is the signal at half the rate, `block` what of a packet need not even be
//! read.
//!
//! Time: sample `m` of a packet lies at its source frame `2m + ½`. That it is not `2m` moves the music by 11 µs.
//!
//! Frames that are to be trimmed are counted at the source's rate. Kept are the samples that lie among the frames that
//! are kept: an odd count loses the half from the beginning of a packet, and not from its end.

mod block;
mod codebooks;
mod config;
mod edge;
mod filterbank;
mod huffman;
mod noise;
mod rates;
mod shaping;
mod stream;
#[cfg(test)]
mod tests;

use symphonia::core::audio::{
    AsGenericAudioBufferRef, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

use block::{Extent, Reader};
use config::Config;
use filterbank::Filterbank;
use rates::Rate;
use stream::{LINES, Sequence};

use super::half::{HALVED_FROM, output_rate, reduction};

/// Packets that are read to their end, to see whether spectral band replication follows the channels: the first ones
/// after a reset or an error, and then one of every so many, since recorded streams change. Where there is replication
/// each packet has its part, and so each is refused.
const FIRST_WHOLE: u64 = 8;
const WHOLE_EVERY: u64 = 64;

/// Whether a stream with this AudioSpecificConfig is one that a decoder of AAC-LC decodes, all of it.
///
/// # Errors
/// `Unsupported`, naming its kind, or `DecodeError`.
pub fn check(config: &[u8]) -> Result<()> {
    Config::parse(config).map(|_| ())
}

/// The symphonia decoder. It gives one plane, at half the rate where that is enough (see `output_rate`).
pub struct AacDecoder {
    params: AudioCodecParameters,
    /// Source frames per sample.
    reduction: usize,
    /// The upper end is made as a resampler would.
    shaped: bool,
    /// How many there are, where that is known before the packets.
    channels: Option<usize>,
    reader: Reader,
    filterbank: Filterbank,
    /// Packets since the last reset or error.
    packets: u64,
    buffer: AudioBuffer<f32>,
}

impl AacDecoder {
    /// Fills the buffer.
    fn packet(&mut self, packet: &PacketRef<'_>) -> Result<()> {
        let whole = self.packets < FIRST_WHOLE || self.packets.is_multiple_of(WHOLE_EVERY);
        self.packets += 1;
        let extent = Extent {
            channels: self.channels.unwrap_or(usize::MAX),
            whole: whole || self.channels.is_none(),
            timestamp: packet.pts.get(),
        };
        let channels = self.reader.read(packet.data, &extent)?;
        self.buffer.render_uninit(Some(self.filterbank.size()));
        let samples = self.buffer.plane_mut(0).ok_or(Error::DecodeError("aac: no buffer"))?;
        if self.shaped {
            self.reader.sums().for_each(|(windows, lines)| edge::shape(windows.sequence == Sequence::Short, lines));
        }
        let spectra = self.reader.sums().map(|(windows, lines)| (windows, &*lines));
        self.filterbank.synthesise(spectra, 1.0 / channels as f32, samples);
        let [start, end] = [packet.trim_start, packet.trim_end].map(|d| d.get().min(LINES as u64) as usize);
        self.buffer.trim(start.div_ceil(self.reduction), end / self.reduction);
        Ok(())
    }
}

impl AudioDecoder for AacDecoder {
    /// The first packet after a seek lacks the half of the one before that overlaps it.
    fn reset(&mut self) {
        self.reader.reset();
        self.filterbank.reset();
        self.packets = 0;
    }

    fn codec_info(&self) -> &CodecInfo {
        &Self::supported_codecs()[0].info
    }

    /// Those of the stream: rate and channels of the source.
    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        if let Err(e) = self.packet(packet) {
            self.buffer.clear();
            // Half of a packet that is not there must not sound into the next one. And what looked like replication may
            // have been damage: only the packets that follow can tell.
            self.reset();
            return Err(e);
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

impl RegisterableAudioDecoder for AacDecoder {
    fn try_registry_new(params: &AudioCodecParameters, _: &AudioDecoderOptions) -> Result<Box<dyn AudioDecoder>> {
        let config = match &params.extra_data {
            Some(bytes) => Config::parse(bytes)?,
            None => params
                .sample_rate
                .and_then(|rate| Config::plain(rate, params.channels.as_ref().map(|c| c.count())))
                .ok_or(Error::Unsupported("aac: no sample rate"))?,
        };
        let reduction = reduction(config.rate);
        let filterbank = Filterbank::new(reduction);
        let mut params = params.clone();
        params.with_sample_rate(config.rate);
        if let Some(channels) = config.channels {
            params.with_channels(Channels::Discrete(channels as u16));
        }
        Ok(Box::new(AacDecoder {
            params,
            reduction,
            shaped: config.rate == HALVED_FROM,
            channels: config.channels.filter(|&channels| channels > 0),
            reader: Reader::new(Rate::of(config.rate), filterbank.size()),
            packets: 0,
            buffer: AudioBuffer::new(
                AudioSpec::new(output_rate(config.rate), Channels::Discrete(1)),
                filterbank.size(),
            ),
            filterbank,
        }))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        const CODECS: &[SupportedAudioCodec] = &[SupportedAudioCodec {
            id: CODEC_ID_AAC,
            info: CodecInfo { short_name: "aac", long_name: "Advanced Audio Coding", profiles: &[] },
        }];
        CODECS
    }
}
