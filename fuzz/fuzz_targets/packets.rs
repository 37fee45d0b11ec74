//! Packets straight into our own decoders, past the containers and their checksums.
//!
//! First byte: the codec. Then chunks: two bytes of length (little-endian, at most 4 KiB), then that many bytes. The
//! first chunk is the codec's extra data, every other one a packet.
#![no_main]

use debut::audio::aac::AacDecoder;
use debut::audio::flac::FlacDecoder;
use debut::audio::mp3::Mp3Decoder;
use debut::audio::opus::OpusDecoder;
use debut::audio::vorbis::VorbisDecoder;
use libfuzzer_sys::fuzz_target;
use symphonia::core::audio::{Audio, Channels, GenericAudioBufferRef};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, well_known as id};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::errors::Result;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

fn decoder(codec: u8, extra: &[u8]) -> Result<Box<dyn AudioDecoder>> {
    let mut params = AudioCodecParameters::new();
    params.with_sample_rate([44_100, 48_000, 32_000, 22_050][usize::from(codec >> 4 & 3)]);
    params.with_channels(Channels::Discrete(1 + u16::from(codec >> 6)));
    params.with_extra_data(extra.into());
    let options = AudioDecoderOptions::default();
    match codec % 5 {
        0 => Mp3Decoder::try_registry_new(params.for_codec(id::CODEC_ID_MP3), &options),
        1 => AacDecoder::try_registry_new(params.for_codec(id::CODEC_ID_AAC), &options),
        2 => VorbisDecoder::try_registry_new(params.for_codec(id::CODEC_ID_VORBIS), &options),
        3 => FlacDecoder::try_registry_new(params.for_codec(id::CODEC_ID_FLAC), &options),
        _ => OpusDecoder::<24_000>::try_registry_new(params.for_codec(id::CODEC_ID_OPUS), &options),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&codec, mut rest)) = bytes.split_first() else { return };
    let mut chunk = || -> Option<&[u8]> {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(4096).min(after.len());
        let (chunk, after) = after.split_at(length);
        rest = after;
        Some(chunk)
    };
    let Some(extra) = chunk() else { return };
    let Ok(mut decoder) = decoder(codec, extra) else { return };
    let mut at = 0;
    while let Some(data) = chunk() {
        let packet = Packet::new(0, Timestamp::new(at), Duration::new(1024), data.to_vec());
        at += 1024;
        match decoder.decode(&packet) {
            Ok(GenericAudioBufferRef::F32(heard)) => {
                assert_eq!(heard.num_planes(), 1);
                assert!(heard.frames() <= 1 << 17);
            }
            Ok(_) => panic!("another kind of sample"),
            Err(_) if data.len() % 7 == 0 => decoder.reset(),
            Err(_) => {}
        }
    }
});
