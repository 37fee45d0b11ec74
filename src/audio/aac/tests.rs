//! Against symphonia's decoder, which plays what this one listens to, and against signals that are known.

use std::path::PathBuf;

use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::*;
use crate::audio::FrontEnd;
use crate::audio::mel::LogMel;
use crate::audio::resample::Resampler;

fn packets(name: &str) -> (AudioCodecParameters, Vec<Packet>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let file = std::fs::File::open(&path).unwrap();
    let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
    let mut hint = Hint::new();
    hint.with_extension(path.extension().unwrap().to_str().unwrap());
    let mut format = symphonia::default::get_probe()
        .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
        .unwrap();
    let track = format.default_track(TrackType::Audio).unwrap().clone();
    let params = track.codec_params.unwrap().audio().unwrap().clone();
    let packets = std::iter::from_fn(|| format.next_packet().unwrap()).collect();
    (params, packets)
}

fn ours(params: &AudioCodecParameters) -> Box<dyn AudioDecoder> {
    AacDecoder::try_registry_new(params, &AudioDecoderOptions::default()).unwrap()
}

/// The mean of the planes, and their rate.
fn decoded(decoder: &mut dyn AudioDecoder, packets: &[Packet]) -> (Vec<f32>, u32) {
    let (mut samples, mut rate) = (vec![], 0);
    for packet in packets {
        let GenericAudioBufferRef::F32(buffer) = decoder.decode(packet).unwrap() else { panic!("not floats") };
        rate = buffer.spec().rate();
        let planes: Vec<&[f32]> = (0..buffer.num_planes()).map(|i| buffer.plane(i).unwrap()).collect();
        let mean = |i: usize| planes.iter().map(|plane| plane[i]).sum::<f32>() / planes.len() as f32;
        samples.extend((0..buffer.frames()).map(mean));
    }
    (samples, rate)
}

fn theirs(name: &str) -> (Vec<f32>, u32) {
    let (params, packets) = packets(name);
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(&params, &AudioDecoderOptions::default()).unwrap();
    decoded(decoder.as_mut(), &packets)
}

fn heard(name: &str) -> (Vec<f32>, u32) {
    let (params, packets) = packets(name);
    decoded(ours(&params).as_mut(), &packets)
}

/// Decibels of `wanted` over its difference from `found`.
fn agreement(wanted: &[f32], found: &[f32]) -> f64 {
    assert_eq!(wanted.len(), found.len());
    let energy = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = energy(&mut wanted.iter().zip(found).map(|(a, b)| a - b));
    10.0 * (energy(&mut wanted.iter().copied()) / difference).log10()
}

#[test]
fn at_the_full_rate_it_is_the_mean_of_the_channels() {
    // 135 dB are the rounding of single precision. Long windows of both shapes; and short ones in one channel or in
    // both, with noise shaping, mid/side and intensity stereo.
    for name in ["sweep.m4a", "steps.aac", "aac-bursts-32k.m4a"] {
        let ((wanted, rate), (found, same_rate)) = (theirs(name), heard(name));
        assert_eq!(rate, same_rate);
        let decibel = agreement(&wanted, &found);
        assert!(decibel > 120.0, "{name}: {decibel:.1} dB");
    }
}

fn mel(samples: &[f32], rate: u32) -> ndarray::Array2<f32> {
    let front_end = FrontEnd::default();
    LogMel::new(&front_end).compute(&Resampler::new(rate, front_end.sample_rate).process(samples))
}

/// The largest and the mean difference of the bands below 10.2 kHz, and the mean of all.
fn differences(name: &str) -> (f32, f32, f32) {
    let ((wanted, rate), (found, half_rate)) = (theirs(name), heard(name));
    assert_eq!((half_rate, found.len()), (output_rate(rate), wanted.len() / 2));
    let difference = mel(&wanted, rate) - mel(&found, half_rate);
    let low = difference.slice(ndarray::s![.., ..123]).mapv(f32::abs);
    let largest = low.iter().copied().fold(0.0, f32::max);
    (largest, low.mean().unwrap(), difference.mapv(f32::abs).mean().unwrap())
}

#[test]
fn at_half_the_rate_it_is_what_decoding_and_resampling_give() {
    // Found are 0.012, 4e-4, 4e-4 and 0.005, 5e-4, 6e-4. Without the shaped upper end the last would be three times
    // that.
    for name in ["steps.m4a", "aac-bursts.m4a"] {
        let (largest, mean, all) = differences(name);
        assert!(largest < 0.03 && mean < 1e-3 && all < 1.2e-3, "{name}: {largest}, {mean}, {all}");
    }
}

#[test]
fn noise_is_as_loud_as_another_decoders() {
    let ((wanted, rate), (found, half_rate)) = (theirs("aac-noise.m4a"), heard("aac-noise.m4a"));
    let difference = mel(&found, half_rate) - mel(&wanted, rate);
    // Each number of noise differs, by a half in the mean of the bands that have it; and their mean not.
    let noisy = difference.slice(ndarray::s![.., 100..127]);
    let (typical, mean) = (noisy.mapv(f32::abs).mean().unwrap(), noisy.mean().unwrap());
    assert!(typical > 0.02 && mean.abs() < 0.25 * typical, "{typical}, {mean}");
}

#[test]
fn of_5_1_every_channel_is_heard() {
    let (params, packets) = packets("aac-5.1.m4a");
    let mut decoder = ours(&params);
    assert_eq!(decoder.codec_params().channels.as_ref().unwrap().count(), 6);
    let (found, rate) = decoded(decoder.as_mut(), &packets);
    assert_eq!(rate, 24_000);
    // The same tone at 1, 0.8, 0.6, 0.4 and 0.2 of its height; in the sixth channel, for low frequencies, the encoder
    // has left nothing of it. That is 0.5 in the mean. The encoder's delay is a frame.
    let tone = |i: usize| {
        let t = i as f32 / 24_000.0;
        0.5 * 0.5 * (std::f32::consts::TAU * if t < 0.5 { 500.0 } else { 1500.0 } * t).sin()
    };
    let wanted: Vec<f32> = (2048..22_000).map(tone).collect();
    let decibel = agreement(&wanted, &found[1024 + 2048..1024 + 22_000]);
    assert!(decibel > 30.0, "{decibel:.1} dB");
}

#[test]
fn a_channel_for_low_frequencies_sounds_as_any_other() {
    let (params, packets) = packets("sweep.m4a");
    let packets = &packets[1..12];
    let low: Vec<Packet> = packets
        .iter()
        .map(|packet| {
            // A single_channel_element begins with 000, an lfe_channel_element with 011; all else is alike.
            let mut bytes = packet.data.to_vec();
            assert_eq!(bytes[0] >> 5, 0);
            bytes[0] |= 0b011 << 5;
            Packet::new(0, packet.pts, packet.dur, bytes)
        })
        .collect();
    assert_eq!(decoded(ours(&params).as_mut(), &low), decoded(ours(&params).as_mut(), packets));
}

#[test]
fn a_track_entered_in_the_middle_sounds_as_from_its_beginning() {
    for name in ["aac-noise.m4a", "aac-bursts-32k.m4a"] {
        let (params, packets) = packets(name);
        let mut decoder = ours(&params);
        let (whole, _) = decoded(decoder.as_mut(), &packets);
        let frames = whole.len() / packets.len();
        for from in [1, 7, 20, 30] {
            decoder.reset();
            let (part, _) = decoded(decoder.as_mut(), &packets[from..]);
            // All but the first packet, which lacks its overlap.
            assert_eq!(part[frames..], whole[(from + 1) * frames..], "{name} from packet {from}");
        }
    }
}

/// The packet with a fill element of an extension, ahead of its channels or behind them.
fn with_extension(packet: &Packet, kind: u8, ahead: bool) -> Packet {
    let fill = format!("110{:04b}{:08b}{kind:04b}{:0228}", 15, 15, 0);
    let channels: String = packet.data.iter().map(|byte| format!("{byte:08b}")).collect();
    let binary = if ahead {
        fill + &channels
    } else {
        // The end of a packet is 111 and what fills up its byte.
        let channels = channels.trim_end_matches('0').strip_suffix("111").unwrap();
        format!("{channels}{fill}111")
    };
    Packet::new(0, packet.pts, packet.dur, to_bytes(&binary))
}

/// From a text of ones and zeros; the last byte is filled up with zeros.
fn to_bytes(binary: &str) -> Vec<u8> {
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, &b| byte << 1 | (b - b'0')) << (8 - bits.len());
    binary.as_bytes().chunks(8).map(byte).collect()
}

#[test]
fn spectral_band_replication_is_noticed() {
    for name in ["sweep.m4a", "steps.m4a", "aac-5.1.m4a"] {
        let (params, packets) = packets(name);
        for ahead in [true, false] {
            // Padding is nothing.
            let mut plain = ours(&params);
            let mut padded = ours(&params);
            for packet in &packets[..12] {
                let frames = plain.decode(packet).unwrap().frames();
                assert_eq!(padded.decode(&with_extension(packet, 0, ahead)).unwrap().frames(), frames);
            }
            // Kinds 13 and 14 are replication, and in such a stream each packet has some.
            for kind in [13, 14] {
                let mut decoder = ours(&params);
                decoder.decode(&packets[0]).unwrap();
                for packet in &packets[1..20] {
                    let replicated = with_extension(packet, kind, ahead);
                    let Err(Error::Unsupported(what)) = decoder.decode(&replicated) else { panic!("{name}: decoded") };
                    assert_eq!(what, "aac: HE-AAC (spectral band replication)");
                }
            }
        }
    }
}

#[test]
fn a_packet_that_looks_replicated_does_not_spoil_the_next_ones() {
    let (params, packets) = packets("steps.m4a");
    let mut decoder = ours(&params);
    let replicated = |i: usize| with_extension(&packets[i], 13, false);
    decoded(decoder.as_mut(), &packets[..20]);
    // Read only as far as its channels go, so that this is not seen.
    decoder.decode(&replicated(20)).unwrap();
    let damaged = Packet::new(0, packets[21].pts, packets[21].dur, vec![0xff; 4]);
    for lost in [damaged, with_extension(&packets[21], 13, true)] {
        assert!(decoder.decode(&lost).is_err());
        let mut fresh = ours(&params);
        assert_eq!(decoded(decoder.as_mut(), &packets[22..25]), decoded(fresh.as_mut(), &packets[22..25]));
        // The first eight are read whole again.
        assert!(decoder.decode(&replicated(25)).is_err());
    }
}

#[test]
fn coupling_channels_are_refused_by_their_name() {
    let (params, packets) = packets("steps.m4a");
    for name in ["010", "1100000010"] {
        // At the beginning, and behind an empty fill element.
        let channels: String = packets[1].data.iter().map(|byte| format!("{byte:08b}")).collect();
        let packet = Packet::new(0, packets[1].pts, packets[1].dur, to_bytes(&(name.to_string() + &channels)));
        let Err(Error::Unsupported(what)) = ours(&params).decode(&packet) else { panic!("decoded") };
        assert_eq!(what, "aac: coupling channels");
    }
}

#[test]
fn fill_elements_of_any_length_are_passed_over() {
    let (params, packets) = packets("sweep.m4a");
    let channels: String = packets[3].data.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut plain, mut padded) = (ours(&params), ours(&params));
    // Up to 14 bytes in 4 bits; from 15 on a second number says how many beyond 14.
    for bytes in [0, 1, 14, 15, 16, 269] {
        let count = if bytes < 15 { format!("{bytes:04b}") } else { format!("1111{:08b}", bytes - 14) };
        let fill = format!("110{count}{}", "00000000".repeat(bytes));
        let packet = |binary: &str| Packet::new(0, packets[3].pts, packets[3].dur, to_bytes(binary));
        plain.reset();
        padded.reset();
        let (wanted, _) = decoded(plain.as_mut(), &packets[3..4]);
        let (found, _) = decoded(padded.as_mut(), &[packet(&(fill + &channels))]);
        assert_eq!(wanted, found, "{bytes} bytes");
    }
    // The shortest long count, 15 and then 0, which is 14: once an overflow.
    let short = format!("110111100000000{}{channels}", "0".repeat(14 * 8));
    let packet = Packet::new(0, packets[3].pts, packets[3].dur, to_bytes(&short));
    padded.reset();
    decoded(padded.as_mut(), &[packet]);
}

#[test]
fn what_is_trimmed_is_counted_in_frames_of_the_source() {
    let (params, packets) = packets("steps.m4a");
    let frames = |start: u64, end: u64| {
        let mut packet = packets[5].clone();
        (packet.trim_start, packet.trim_end) = (Duration::new(start), Duration::new(end));
        ours(&params).decode(&packet).unwrap().frames()
    };
    assert_eq!(frames(0, 0), 512);
    // Samples lie at 2m + ½: the first goes with its frame 0, the last stays with its frame 1022.
    assert_eq!([frames(1, 0), frames(2, 0), frames(3, 0)], [511, 511, 510]);
    assert_eq!([frames(0, 1), frames(0, 2), frames(0, 3)], [512, 511, 511]);
    assert_eq!([frames(1024, 0), frames(u64::MAX, u64::MAX)], [0, 0]);
}

#[test]
fn damage_is_an_error_or_sound_and_the_decoder_goes_on() {
    let mut state = 1u64;
    let mut number = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for name in ["aac-bursts.m4a", "aac-noise.m4a", "aac-bursts-32k.m4a", "aac-5.1.m4a", "steps-96k.m4a"] {
        let (params, packets) = packets(name);
        let mut decoder = ours(&params);
        // Of each quarter of the rounds, how many were sound and how many an error.
        let mut outcomes = [[0; 2]; 4];
        for round in 0..3000 {
            let packet = &packets[number() % packets.len()];
            let mut bytes = packet.data.to_vec();
            match round % 4 {
                0 => bytes.truncate(number() % bytes.len()),
                1 => bytes.iter_mut().for_each(|byte| *byte = number() as u8),
                // The first bytes say what the others are.
                2 => (0..3).for_each(|_| bytes[number() % packet.data.len().min(30)] ^= 1 << (number() % 8)),
                _ => (0..5).for_each(|_| bytes[number() % packet.data.len()] = number() as u8),
            }
            let damaged = Packet::new(0, Timestamp::new(i64::MAX - 7), packet.dur, bytes);
            outcomes[round / 750][usize::from(decoder.decode(&damaged).is_err())] += 1;
        }
        assert!(outcomes.iter().flatten().all(|&n| n > 20), "{name}: {outcomes:?}");
        decoder.reset();
        let wanted = decoded(ours(&params).as_mut(), &packets[..1]);
        assert_eq!(decoded(decoder.as_mut(), &packets[..1]), wanted, "{name}");
    }
}
