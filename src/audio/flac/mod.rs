//! FLAC frames to mono (RFC 9639). Like every decoder it reads all the bits, but it never makes the planes that a
//! player needs: what leaves it is the mean of the channels, which is all that is heard here.
//!
//! ```text
//! packet = one frame                                  header.rs
//!   ├─ header: block size, rate, channels, bits       header.rs
//!   ├─ subframe, one for each channel                 subframe.rs
//!   │    ├─ predictor: constant, none, fixed, linear  predict.rs
//!   │    └─ residual: Rice codes                      residual.rs
//!   └─ CRC-16                                         crc.rs
//! ```
//!
//! The mean of two channels needs neither of them where the difference is coded: with M = ⌊(L + R) / 2⌋ and S = L − R it
//! is M + (S mod 2) / 2, with L and S it is L − S / 2. It is exact, and rounded once, to f32.

mod bits;
mod crc;
mod header;
mod predict;
mod quad;
mod residual;
mod subframe;
#[cfg(test)]
mod tests;

use pulp::{Arch, WithSimd};
use symphonia::core::audio::{
    AsGenericAudioBufferRef, Audio, AudioBuffer, AudioMut, AudioSpec, Channels as Layout, GenericAudioBufferRef, Position,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

use bits::{Bits};
use crc::crc16;
use predict::MAX_ORDER;
use header::{Channels, FrameHeader, MAX_BLOCK, StreamInfo};

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
    /// Of the two subframes at work, modulo 2^32.
    samples: [Vec<i32>; 2],
    /// Of more channels than two.
    sum: Vec<i64>,
}

impl Frames {
    /// Decodes a frame of a stream to `header.block` samples of the mean of its channels; full scale is 1.
    fn decode(&mut self, frame: &[u8], header: &FrameHeader, bits_per_sample: u32, mono: &mut [f32]) -> Result<()> {
        for samples in &mut self.samples {
            samples.resize(MAX_ORDER + MAX_BLOCK, 0);
        }
        let end = Arch::new().dispatch(Body { frames: self, frame, header, bits_per_sample, mono })?;
        // Zeros up to the next byte, then the checksum of all before it.
        let end = end.div_ceil(8);
        let Some(&[c0, c1]) = frame.get(end..).and_then(<[u8]>::first_chunk) else {
            return Err(Error::DecodeError("flac: the frame is cut short"));
        };
        if crc16(&frame[..end]) != u16::from_be_bytes([c0, c1]) {
            return Err(Error::DecodeError("flac: the checksum of the frame is wrong"));
        }
        Ok(())
    }
}

/// The subframes of a frame, decoded with the instructions that this machine has: counting zeros takes one of them
/// where a portable program needs several.
struct Body<'a> {
    frames: &'a mut Frames,
    frame: &'a [u8],
    header: &'a FrameHeader,
    bits_per_sample: u32,
    mono: &'a mut [f32],
}

impl WithSimd for Body<'_> {
    /// The bit behind the subframes.
    type Output = Result<usize>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Result<usize> {
        let Body { frames: Frames { samples, sum }, frame, header, bits_per_sample, mono } = self;
        let mut bits = Bits::new(frame, 8 * header.length);
        let channels = header.channels.count();
        let [a, b] = samples.each_mut().map(|samples| &mut samples[..MAX_ORDER + header.block]);
        if channels > 2 {
            sum.clear();
            sum.resize(header.block, 0);
        }
        for n in 0..channels {
            let width = bits_per_sample + u32::from(header.channels.is_difference(n));
            let samples = if n == 1 { &mut *b } else { &mut *a };
            subframe::read(&mut bits, width, samples)?;
            if channels > 2 {
                for (sum, &sample) in sum.iter_mut().zip(&samples[MAX_ORDER..]) {
                    *sum += i64::from(sample);
                }
            }
        }
        let scale = 1.0 / ((1u64 << (bits_per_sample - 1)) as f64 * f64::from(channels));
        mix(header.channels, bits_per_sample, &a[MAX_ORDER..], &b[MAX_ORDER..], sum, scale as f32, mono);
        Ok(bits.position())
    }
}

/// The mean of the channels from their samples modulo 2^32; `scale` makes it of their sum.
#[inline(always)]
fn mix(channels: Channels, bits: u32, a: &[i32], b: &[i32], sum: &[i64], scale: f32, mono: &mut [f32]) {
    match channels {
        Channels::Independent(1) => mono.iter_mut().zip(a).for_each(|(mono, &a)| *mono = a as f32 * scale),
        Channels::Independent(2) => {
            two(bits, a, b, scale, mono, |a, b| a.wrapping_add(b), |a, b| i64::from(a) + i64::from(b))
        }
        Channels::Independent(n) => {
            let full = (n as f64) * 2f64.powi(bits as i32 - 1);
            mono.iter_mut().zip(sum).for_each(|(mono, &sum)| *mono = (sum as f64 / full) as f32)
        }
        Channels::LeftSide => two(
            bits,
            a,
            b,
            scale,
            mono,
            |left, side| (left << 1).wrapping_sub(side),
            |left, side| i64::from(left) + i64::from(left.wrapping_sub(side)),
        ),
        Channels::SideRight => two(
            bits,
            a,
            b,
            scale,
            mono,
            |side, right| (right << 1).wrapping_add(side),
            |side, right| i64::from(right) + i64::from(right.wrapping_add(side)),
        ),
        Channels::MidSide => two(
            bits,
            a,
            b,
            scale,
            mono,
            |mid, side| (mid << 1) | (side & 1),
            |mid, side| (i64::from(mid) << 1) | i64::from(side & 1),
        ),
    }
}

#[inline(always)]
fn two(
    bits: u32,
    a: &[i32],
    b: &[i32],
    scale: f32,
    mono: &mut [f32],
    narrow: impl Fn(i32, i32) -> i32,
    exact: impl Fn(i32, i32) -> i64,
) {
    let pairs = mono.iter_mut().zip(a.iter().zip(b));
    if bits <= 30 {
        pairs.for_each(|(mono, (&a, &b))| *mono = narrow(a, b) as f32 * scale);
    } else {
        pairs.for_each(|(mono, (&a, &b))| *mono = exact(a, b) as f32 * scale);
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
