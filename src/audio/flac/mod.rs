//! FLAC frames to mono (RFC 9639). Like every decoder it reads all the bits, but it never makes the planes that a
//! player needs: what leaves it is the mean of the channels, which is all that is heard here.
//!
//! ```text
//! packet = one frame
//!   ├─ header: block size, rate, channels, bits       header.rs
//!   ├─ subframe, one for each channel                 subframe.rs
//!   │    ├─ predictor: constant, none, fixed, linear  predict.rs, quad.rs
//!   │    └─ residual: Rice codes                      residual.rs
//!   └─ CRC-16                                         crc.rs
//! mean of the channels                                mix.rs
//! ```
//!
//! The mean of two channels needs neither of them where the difference is coded: with M = ⌊(L + R) / 2⌋ and S = L − R
//! it is M + (S mod 2) / 2, with L and S it is L − S / 2. It is exact, and rounded once, to f32.

mod bits;
mod crc;
mod header;
mod mix;
mod predict;
#[cfg(target_arch = "x86_64")]
mod quad;
mod residual;
mod subframe;
#[cfg(test)]
mod tests;

use symphonia::core::audio::{
    AsGenericAudioBufferRef, Audio, AudioBuffer, AudioMut, AudioSpec, Channels as Layout, GenericAudioBufferRef,
    Position,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

use bits::Bits;
use crc::crc16;
use header::{FrameHeader, StreamInfo};
use mix::mix;
use predict::MAX_ORDER;

/// The symphonia decoder. Its buffers hold one plane: the mean of the channels.
pub struct FlacDecoder {
    params: AudioCodecParameters,
    info: StreamInfo,
    frames: Frames,
    buffer: AudioBuffer<f32>,
}

/// Where frames are decoded.
#[derive(Default)]
struct Frames {
    /// Of two subframes, each behind [`MAX_ORDER`] zeros.
    samples: [Vec<i32>; 2],
    /// Of more than two channels.
    sum: Vec<i64>,
}

impl Frames {
    /// Decodes a frame to the mean of its channels, `mono`, of `header.block` samples.
    fn decode(&mut self, frame: &[u8], header: &FrameHeader, bits_per_sample: u32, mono: &mut [f32]) -> Result<()> {
        let Frames { samples, sum } = self;
        let [a, b] = samples.each_mut().map(|samples| {
            samples.resize(MAX_ORDER + header.block, 0);
            &mut samples[..]
        });
        let mut bits = Bits::new(frame, 8 * header.length);
        let channels = header.channels.count();
        sum.clear();
        if channels > 2 {
            sum.resize(header.block, 0);
        }
        for n in 0..channels {
            let width = bits_per_sample + u32::from(header.channels.is_difference(n));
            let samples = if n == 1 { &mut *b } else { &mut *a };
            subframe::read(&mut bits, width, samples)?;
            for (sum, &sample) in sum.iter_mut().zip(&samples[MAX_ORDER..]) {
                *sum += i64::from(sample);
            }
        }
        // Zeros up to the next byte, then the checksum of all before it.
        let end = bits.position().div_ceil(8);
        let Some(&sum_of_frame) = frame.get(end..).and_then(<[u8]>::first_chunk) else {
            return Err(Error::DecodeError("flac: the frame is cut short"));
        };
        if crc16(&frame[..end]) != u16::from_be_bytes(sum_of_frame) {
            return Err(Error::DecodeError("flac: the checksum of the frame is wrong"));
        }
        mix(header.channels, bits_per_sample, &a[MAX_ORDER..], &b[MAX_ORDER..], sum, mono);
        Ok(())
    }
}

impl FlacDecoder {
    fn new(params: &AudioCodecParameters) -> Result<FlacDecoder> {
        let info = params.extra_data.as_deref().and_then(StreamInfo::parse);
        let info = info.ok_or(Error::Unsupported("flac: no usable stream information"))?;
        let spec = AudioSpec::new(info.rate, Layout::Positioned(Position::FRONT_CENTER));
        let buffer = AudioBuffer::new(spec, info.max_block);
        Ok(FlacDecoder { params: params.clone(), info, frames: Frames::default(), buffer })
    }

    /// The samples of a frame.
    fn mono(&mut self, frame: &[u8]) -> Result<&[f32]> {
        self.buffer.clear();
        let header = FrameHeader::parse(frame)?;
        if header.rate.is_some_and(|rate| rate != self.info.rate) {
            return Err(Error::DecodeError("flac: the sample rate changes"));
        }
        let bits_per_sample = header.bits_per_sample.unwrap_or(self.info.bits_per_sample);
        self.buffer.grow_capacity(header.block);
        self.buffer.render_uninit(Some(header.block));
        let mono = self.buffer.plane_mut(0).ok_or(Error::DecodeError("flac: no plane"))?;
        let decoded = self.frames.decode(frame, &header, bits_per_sample, mono);
        if let Err(error) = decoded {
            self.buffer.clear();
            return Err(error);
        }
        Ok(self.buffer.plane(0).unwrap_or(&[]))
    }
}

impl AudioDecoder for FlacDecoder {
    /// Frames know nothing of one another.
    fn reset(&mut self) {}

    fn codec_info(&self) -> &CodecInfo {
        &Self::supported_codecs()[0].info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.mono(packet.data)?;
        self.buffer.trim(packet.trim_start.get() as usize, packet.trim_end.get() as usize);
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

impl RegisterableAudioDecoder for FlacDecoder {
    fn try_registry_new(params: &AudioCodecParameters, _: &AudioDecoderOptions) -> Result<Box<dyn AudioDecoder>> {
        Ok(Box::new(FlacDecoder::new(params)?))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        const CODECS: &[SupportedAudioCodec] = &[SupportedAudioCodec {
            id: CODEC_ID_FLAC,
            info: CodecInfo { short_name: "flac", long_name: "Free Lossless Audio Codec", profiles: &[] },
        }];
        CODECS
    }
}
