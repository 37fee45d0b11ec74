//! Samples that are stored as they are, to mono: the mean of each frame straight from its bytes. symphonia deals them
//! out to planes first, which takes six times as long.

use symphonia::core::audio::{
    AsGenericAudioBufferRef, Audio, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef, Position,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_PCM_F32BE, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64BE, CODEC_ID_PCM_F64LE, CODEC_ID_PCM_S8,
    CODEC_ID_PCM_S16BE, CODEC_ID_PCM_S16LE, CODEC_ID_PCM_S24BE, CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32BE,
    CODEC_ID_PCM_S32LE, CODEC_ID_PCM_U8,
};
use symphonia::core::codecs::audio::{
    AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult,
};
use symphonia::core::codecs::registry::{RegisterableAudioDecoder, SupportedAudioCodec};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

/// The symphonia decoder. Its buffers hold one plane: the mean of the channels.
pub struct PcmDecoder {
    params: AudioCodecParameters,
    channels: usize,
    buffer: AudioBuffer<f32>,
}

/// Bits of a sample of a codec.
fn width(codec: AudioCodecId) -> Option<u32> {
    match codec {
        CODEC_ID_PCM_U8 | CODEC_ID_PCM_S8 => Some(8),
        CODEC_ID_PCM_S16LE | CODEC_ID_PCM_S16BE => Some(16),
        CODEC_ID_PCM_S24LE | CODEC_ID_PCM_S24BE => Some(24),
        CODEC_ID_PCM_S32LE | CODEC_ID_PCM_S32BE | CODEC_ID_PCM_F32LE | CODEC_ID_PCM_F32BE => Some(32),
        CODEC_ID_PCM_F64LE | CODEC_ID_PCM_F64BE => Some(64),
        _ => None,
    }
}

/// The mean of each frame of `channels` samples of `BYTES` bytes.
fn means<const BYTES: usize>(data: &[u8], channels: usize, mono: &mut [f32], sample: impl Fn([u8; BYTES]) -> f32) {
    let samples = data.as_chunks::<BYTES>().0;
    match channels {
        1 => mono.iter_mut().zip(samples).for_each(|(mono, &only)| *mono = sample(only)),
        2 => {
            let pairs = samples.as_chunks::<2>().0;
            mono.iter_mut().zip(pairs).for_each(|(mono, &[l, r])| *mono = 0.5 * (sample(l) + sample(r)));
        }
        _ => {
            let share = 1.0 / channels as f32;
            for (mono, frame) in mono.iter_mut().zip(samples.chunks_exact(channels)) {
                *mono = frame.iter().fold(0.0, |sum, &s| sum + sample(s) * share);
            }
        }
    }
}

/// 24 bits as the upper ones of 32.
fn upper([a, b, c]: [u8; 3]) -> f32 {
    i32::from_le_bytes([0, a, b, c]) as f32
}

impl PcmDecoder {
    fn new(params: &AudioCodecParameters) -> Result<PcmDecoder> {
        let unsupported = |what| Error::Unsupported(what);
        let width = width(params.codec).ok_or(unsupported("pcm: another coding"))?;
        // Samples of fewer bits than their bytes have are aligned as their container says.
        if [params.bits_per_sample, params.bits_per_coded_sample].iter().flatten().any(|&bits| bits != width) {
            return Err(unsupported("pcm: samples of fewer bits"));
        }
        let rate = params.sample_rate.filter(|&rate| rate > 0).ok_or(unsupported("pcm: no sample rate"))?;
        let channels = params.channels.as_ref().map_or(0, Channels::count);
        if channels == 0 {
            return Err(unsupported("pcm: no channels"));
        }
        let spec = AudioSpec::new(rate, Channels::Positioned(Position::FRONT_CENTER));
        Ok(PcmDecoder { params: params.clone(), channels, buffer: AudioBuffer::new(spec, 0) })
    }

    /// The mean of each whole frame of `data`.
    fn mono(&mut self, data: &[u8]) -> &[f32] {
        let bytes = width(self.params.codec).map_or(1, |bits| bits as usize / 8);
        let frames = data.len() / (bytes * self.channels);
        self.buffer.clear();
        self.buffer.grow_capacity(frames);
        self.buffer.render_uninit(Some(frames));
        let n = self.channels;
        let mono = self.buffer.plane_mut(0).unwrap_or(&mut []);
        const FULL_16: f32 = 1.0 / 32_768.0;
        const FULL_32: f32 = 1.0 / 2_147_483_648.0;
        match self.params.codec {
            CODEC_ID_PCM_U8 => means(data, n, mono, |[s]| (f32::from(s) - 128.0) / 128.0),
            CODEC_ID_PCM_S8 => means(data, n, mono, |[s]| f32::from(s as i8) / 128.0),
            CODEC_ID_PCM_S16LE => means(data, n, mono, |s| f32::from(i16::from_le_bytes(s)) * FULL_16),
            CODEC_ID_PCM_S16BE => means(data, n, mono, |s| f32::from(i16::from_be_bytes(s)) * FULL_16),
            CODEC_ID_PCM_S24LE => means(data, n, mono, |s| upper(s) * FULL_32),
            CODEC_ID_PCM_S24BE => means(data, n, mono, |[a, b, c]| upper([c, b, a]) * FULL_32),
            CODEC_ID_PCM_S32LE => means(data, n, mono, |s| i32::from_le_bytes(s) as f32 * FULL_32),
            CODEC_ID_PCM_S32BE => means(data, n, mono, |s| i32::from_be_bytes(s) as f32 * FULL_32),
            CODEC_ID_PCM_F32LE => means(data, n, mono, f32::from_le_bytes),
            CODEC_ID_PCM_F32BE => means(data, n, mono, f32::from_be_bytes),
            CODEC_ID_PCM_F64LE => means(data, n, mono, |s| f64::from_le_bytes(s) as f32),
            CODEC_ID_PCM_F64BE => means(data, n, mono, |s| f64::from_be_bytes(s) as f32),
            // `new` has refused the others.
            _ => mono.fill(0.0),
        }
        self.buffer.plane(0).unwrap_or(&[])
    }
}

impl AudioDecoder for PcmDecoder {
    fn reset(&mut self) {}

    fn codec_info(&self) -> &CodecInfo {
        let mut codecs = Self::supported_codecs().iter();
        &codecs.find(|codec| codec.id == self.params.codec).unwrap_or(&Self::supported_codecs()[0]).info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.mono(packet.data);
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

impl RegisterableAudioDecoder for PcmDecoder {
    fn try_registry_new(params: &AudioCodecParameters, _: &AudioDecoderOptions) -> Result<Box<dyn AudioDecoder>> {
        Ok(Box::new(PcmDecoder::new(params)?))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        const fn pcm(id: AudioCodecId, short_name: &'static str, long_name: &'static str) -> SupportedAudioCodec {
            SupportedAudioCodec { id, info: CodecInfo { short_name, long_name, profiles: &[] } }
        }
        const CODECS: &[SupportedAudioCodec] = &[
            pcm(CODEC_ID_PCM_U8, "pcm_u8", "PCM Unsigned 8-bit"),
            pcm(CODEC_ID_PCM_S8, "pcm_s8", "PCM Signed 8-bit"),
            pcm(CODEC_ID_PCM_S16LE, "pcm_s16le", "PCM Signed 16-bit Little-Endian"),
            pcm(CODEC_ID_PCM_S16BE, "pcm_s16be", "PCM Signed 16-bit Big-Endian"),
            pcm(CODEC_ID_PCM_S24LE, "pcm_s24le", "PCM Signed 24-bit Little-Endian"),
            pcm(CODEC_ID_PCM_S24BE, "pcm_s24be", "PCM Signed 24-bit Big-Endian"),
            pcm(CODEC_ID_PCM_S32LE, "pcm_s32le", "PCM Signed 32-bit Little-Endian"),
            pcm(CODEC_ID_PCM_S32BE, "pcm_s32be", "PCM Signed 32-bit Big-Endian"),
            pcm(CODEC_ID_PCM_F32LE, "pcm_f32le", "PCM 32-bit Little-Endian Floating Point"),
            pcm(CODEC_ID_PCM_F32BE, "pcm_f32be", "PCM 32-bit Big-Endian Floating Point"),
            pcm(CODEC_ID_PCM_F64LE, "pcm_f64le", "PCM 64-bit Little-Endian Floating Point"),
            pcm(CODEC_ID_PCM_F64BE, "pcm_f64be", "PCM 64-bit Big-Endian Floating Point"),
        ];
        CODECS
    }
}

#[test]
fn every_coding_gives_the_mean_that_symphonia_has_in_its_planes() {
    use symphonia::core::packet::Packet;
    use symphonia::core::units::{Duration, Timestamp};

    // Numbers of all sizes in any coding; and floats that are numbers, in both byte orders.
    let mut state = 1u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(24 * 1000)
    .collect();
    for eight in bytes.chunks_exact_mut(8) {
        for at in [0, 3, 4, 7] {
            eight[at] = eight[at] & 0x80 | 0x3e;
        }
    }
    for codec in PcmDecoder::supported_codecs() {
        for channels in [1, 2, 3, 6] {
            let mut params = AudioCodecParameters::new();
            params.for_codec(codec.id).with_sample_rate(44_100).with_channels(Channels::Discrete(channels));
            let theirs = symphonia::default::get_codecs().make_audio_decoder(&params, &AudioDecoderOptions::default());
            let mut theirs = theirs.unwrap();
            let mut ours = PcmDecoder::new(&params).unwrap();
            assert_eq!(ours.codec_info().short_name, theirs.codec_info().short_name);
            // A cut frame at the end is left out.
            for length in [bytes.len(), bytes.len() - 7, 1, 0] {
                let packet = Packet::new(
                    0,
                    Timestamp::new(0),
                    Duration::from(0u32),
                    bytes[..length].to_vec().into_boxed_slice(),
                );
                let planes = theirs.decode(&packet).unwrap();
                let mut all = vec![Vec::<f32>::new(); usize::from(channels)];
                planes.copy_to_vecs_planar(&mut all);
                let mono = ours.mono(&packet.data);
                assert_eq!(mono.len(), planes.frames());
                for (i, &sample) in mono.iter().enumerate() {
                    let mean = all.iter().map(|plane| f64::from(plane[i])).sum::<f64>() / f64::from(channels);
                    // Six sums round six times, to 24 bits.
                    let close = 4e-7 * all.iter().fold(0.0f32, |peak, plane| peak.max(plane[i].abs()));
                    let name = codec.info.short_name;
                    assert!((sample - mean as f32).abs() <= close, "{name} × {channels}: {sample}, expected {mean}");
                }
            }
        }
    }
}

#[test]
fn samples_of_fewer_bits_than_their_bytes_are_left_to_others() {
    let mut params = AudioCodecParameters::new();
    params.for_codec(CODEC_ID_PCM_S24LE).with_sample_rate(48_000).with_channels(Channels::Discrete(2));
    assert!(PcmDecoder::new(&params).is_ok());
    params.with_bits_per_coded_sample(24);
    assert!(PcmDecoder::new(&params).is_ok());
    params.with_bits_per_coded_sample(20);
    assert!(PcmDecoder::new(&params).is_err());
}
