//! Packets straight into our own decoders, past the containers and their checksums.
//!
//! ```text
//! 1 byte     codec (low half), rate and channels
//! 2 bytes    length of the codec's extra data, and the extra data
//! ...        packets: 1 byte of trims and such, 2 bytes of length, and the packet
//! ```
//! Lengths are little-endian.
#![no_main]

use debut::audio::aac::AacDecoder;
use debut::audio::flac::FlacDecoder;
use debut::audio::mp3::Mp3Decoder;
use debut::audio::opus::OpusDecoder;
use debut::audio::pcm::PcmDecoder;
use debut::audio::vorbis::VorbisDecoder;
use libfuzzer_sys::fuzz_target;
use symphonia::core::audio::{Audio, Channels, GenericAudioBufferRef};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, well_known as id};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::errors::Result;
use symphonia::core::packet::PacketBuilder;
use symphonia::core::units::{Duration, Timestamp};

fn decoder(codec: u8, extra: &[u8]) -> Result<Box<dyn AudioDecoder>> {
    let mut params = AudioCodecParameters::new();
    params.with_sample_rate([44_100, 48_000, 32_000, 22_050][usize::from(codec >> 4 & 3)]);
    params.with_channels(Channels::Discrete(1 + u16::from(codec >> 6)));
    params.with_extra_data(extra.into());
    let options = AudioDecoderOptions::default();
    match codec % 16 % 6 {
        0 => Mp3Decoder::try_registry_new(params.for_codec(id::CODEC_ID_MP3), &options),
        1 => AacDecoder::try_registry_new(params.for_codec(id::CODEC_ID_AAC), &options),
        2 => VorbisDecoder::try_registry_new(params.for_codec(id::CODEC_ID_VORBIS), &options),
        3 => FlacDecoder::try_registry_new(params.for_codec(id::CODEC_ID_FLAC), &options),
        4 => OpusDecoder::<24_000>::try_registry_new(params.for_codec(id::CODEC_ID_OPUS), &options),
        _ => {
            // The first byte of the extra data, of which PCM has none, says how samples are coded.
            let codings = PcmDecoder::supported_codecs();
            let coding = usize::from(extra.first().copied().unwrap_or(0)) % codings.len();
            PcmDecoder::try_registry_new(params.for_codec(codings[coding].id), &options)
        }
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
    let (chunk, after) = after.split_at(length);
    *rest = after;
    Some(chunk)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&codec, mut rest)) = bytes.split_first() else { return };
    let Some(extra) = take(&mut rest) else { return };
    let Ok(mut decoder) = decoder(codec, extra) else { return };
    let mut at = 0;
    while let Some((&about, after)) = rest.split_first() {
        rest = after;
        let Some(data) = take(&mut rest) else { return };
        // Frames to be trimmed at either end, an odd number of frames passed over, and a seek.
        let trim = |n: u8| Duration::new([0, 0, 0, 1, 2, 575, 1151, u64::MAX][usize::from(n & 7)]);
        if about >> 7 == 1 {
            decoder.reset();
        }
        at += i64::from(about >> 6 & 1);
        let packet = PacketBuilder::new()
            .track_id(0)
            .pts(Timestamp::new(at))
            .dur(Duration::new(1024))
            .data(data.to_vec())
            .trim_start(trim(about))
            .trim_end(trim(about >> 3))
            .build();
        at += 1024;
        match decoder.decode(&packet) {
            Ok(GenericAudioBufferRef::F32(heard)) => {
                assert_eq!(heard.num_planes(), 1);
                assert!(heard.frames() <= 1 << 17);
            }
            Ok(_) => panic!("another kind of sample"),
            Err(_) => {}
        }
    }
});
