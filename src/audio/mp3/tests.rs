//! The whole decoder beside symphonia's, which gives all channels at the full rate.

use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::formats::FormatOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::super::FrontEnd;
use super::super::mel::LogMel;
use super::super::resample::Resampler;
use super::super::testing::{Dice, Writer};
use super::*;

fn parameters() -> AudioCodecParameters {
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_MP3);
    parameters
}

fn theirs(parameters: &AudioCodecParameters) -> Box<dyn AudioDecoder> {
    symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default()).unwrap()
}

fn ours(full: bool) -> Mp3Decoder {
    let mut decoder = Mp3Decoder::new(&parameters(), &AudioDecoderOptions::default());
    decoder.full = full;
    decoder
}

/// The mean of the channels, and the rate.
fn decode(decoder: &mut dyn AudioDecoder, packet: &Packet) -> Result<(Vec<f32>, u32)> {
    match decoder.decode(packet)? {
        GenericAudioBufferRef::F32(buffer) => {
            let share = 1.0 / buffer.num_planes() as f32;
            let mean = |i: usize| buffer.iter_planes().map(|plane| plane[i]).sum::<f32>() * share;
            Ok(((0..buffer.frames()).map(mean).collect(), buffer.spec().rate()))
        }
        _ => panic!("both decoders give floats"),
    }
}

fn packets(name: &str) -> Vec<Packet> {
    let file = std::fs::File::open(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let mut hint = Hint::new();
    hint.with_extension("mp3");
    let (format, metadata) = (FormatOptions::default(), MetadataOptions::default());
    let mut reader = symphonia::default::get_probe().probe(&hint, stream, format, metadata).unwrap();
    std::iter::from_fn(|| reader.next_packet().unwrap()).collect()
}

/// All samples of a file, and their rate.
fn whole(decoder: &mut dyn AudioDecoder, packets: &[Packet]) -> (Vec<f32>, u32) {
    let mut samples = Vec::new();
    let mut rate = 0;
    for packet in packets {
        let (part, its_rate) = decode(decoder, packet).unwrap();
        samples.extend(part);
        rate = its_rate;
    }
    (samples, rate)
}

fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, s| peak.max(s.abs()))
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (x, y)| worst.max((x - y).abs()))
}

const FILES: [(&str, u32); 9] = [
    ("clicks-joint.mp3", 44_100),
    ("clicks-stereo.mp3", 44_100),
    ("clicks-48k.mp3", 48_000),
    ("steps-cbr.mp3", 44_100),
    ("steps-no-xing.mp3", 32_000),
    ("steps-vbr.mp3", 22_050),
    ("sweep.mp3", 16_000),
    ("sweep-vbr-no-xing.mp3", 16_000),
    ("steps-8k.mp3", 8000),
];

#[test]
fn at_full_rate_it_is_the_mean_of_symphonias_channels() {
    for (name, rate) in FILES {
        let packets = packets(name);
        let (expected, their_rate) = whole(theirs(&parameters()).as_mut(), &packets);
        let (found, our_rate) = whole(&mut ours(true), &packets);
        assert_eq!((their_rate, our_rate), (rate, rate), "{name}");
        let difference = worst(&expected, &found);
        // Measured: up to 1.2e-6, the rounding of 32-bit floats.
        assert!(difference < 5e-6, "{name}: {difference}");
    }
}

#[test]
fn halved_it_sounds_to_the_model_like_the_resampled_full_rate() {
    let front_end = FrontEnd::default();
    for (name, rate) in FILES.into_iter().filter(|f| f.1 > 32_000) {
        let packets = packets(name);
        let (full, _) = whole(theirs(&parameters()).as_mut(), &packets);
        let (half, half_rate) = whole(&mut ours(false), &packets);
        assert_eq!(half_rate, rate / 2, "{name}");
        // Trimmed to the same moment at both ends.
        assert_eq!(half.len(), full.len().div_ceil(2), "{name}");
        let full = Resampler::new(rate, front_end.sample_rate).process(&full);
        let half = Resampler::new(half_rate, front_end.sample_rate).process(&half);
        let mut log_mel = LogMel::new(&front_end);
        let (expected, found) = (log_mel.compute(&full), log_mel.compute(&half));
        assert_eq!(expected.dim(), found.dim());
        let (mut below, mut mean, mut highest) = (0.0f32, 0.0, 0.0f32);
        for ((_, band), value) in expected.indexed_iter().map(|(at, value)| (at, (value - found[at]).abs())) {
            mean += value / expected.len() as f32;
            if band < 123 {
                below = below.max(value);
            } else {
                highest = highest.max(value);
            }
        }
        // Measured: 0.004, which is what rounding alone does to the softest bands (the files at 16 kHz, of which every
        // sample is decoded, differ as much); 3e-4; and 0.14 in the highest band, which ends where the filters do.
        assert!(below < 0.01, "{name}: {below} below band 123");
        assert!(mean < 1e-3, "{name}: {mean} on average");
        assert!(highest < 0.3, "{name}: {highest} from band 123 on");
    }
}

#[test]
fn halved_samples_lie_at_even_moments_of_the_track() {
    // The tones of this file are far below the edge, so every other sample is the same, if it is the right one.
    let packets = packets("steps-cbr.mp3");
    // LAME's delay makes the first packet begin at an odd moment before the music.
    assert_eq!(packets[0].pts.get(), -1105);
    let (full, _) = whole(theirs(&parameters()).as_mut(), &packets);
    let (half, _) = whole(&mut ours(false), &packets);
    let even: Vec<f32> = full.iter().copied().step_by(2).collect();
    let power = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let rest: Vec<f32> = even.iter().zip(&half).map(|(a, b)| a - b).collect();
    let decibel = 10.0 * (power(&even) / power(&rest)).log10();
    assert!(decibel > 60.0, "{decibel} dB");
}

#[test]
fn trimming_leaves_out_exactly_the_samples_of_the_frames_that_are_trimmed() {
    for frames in [576, 1152] {
        for (step, phase) in [(1, 0), (2, 0), (2, 1)] {
            for start in [0u64, 1, 2, 575, 1151, 5000] {
                for end in [0u64, 1, 2, 3, 600, u64::MAX] {
                    let (before, behind) = trimmed(start, end, step, phase, frames);
                    let kept = |&m: &usize| {
                        let frame = (step * m + phase) as u64;
                        frame >= start && frame < (frames as u64).saturating_sub(end)
                    };
                    let expected: Vec<usize> = (0..frames / step).filter(kept).collect();
                    let found: Vec<usize> = (before..(frames / step).saturating_sub(behind)).collect();
                    assert_eq!(found, expected, "{frames} frames, step {step}, phase {phase}, trim {start}, {end}");
                }
            }
        }
    }
}

#[test]
fn after_a_seek_it_is_soon_as_if_nothing_had_happened() {
    let packets = packets("clicks-joint.mp3");
    let mut straight = ours(false);
    let mut sought = ours(false);
    let from = 20;
    for (i, packet) in packets.iter().enumerate() {
        let expected = decode(&mut straight, packet).unwrap().0;
        if i == 10 {
            decode(&mut sought, packet).unwrap();
            sought.reset();
        }
        if i >= from {
            // The first packets lack the data of those before them, and are silent.
            let found = decode(&mut sought, packet).unwrap().0;
            assert!(i < from + 4 || found == expected, "packet {i}");
        }
    }
}

/// What frames of a stream have in common.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// As in [`Header::rate_index`].
    rate_index: usize,
    /// The two bits of the header, and of its extension (intensity, mid/side).
    mode: u8,
    extension: u8,
}

impl Kind {
    fn low(self) -> bool {
        self.rate_index >= 3
    }

    fn channels(self) -> usize {
        if self.mode == 3 { 1 } else { 2 }
    }
}

/// A frame whose header is in order and all the rest of which is dice: any bits at all are Huffman codes. `left`: the
/// bytes of the frames before that have not been used.
fn random_frame(kind: Kind, dice: &mut Dice, left: &mut usize) -> Vec<u8> {
    let low = kind.low();
    let version = [0xf8u8, 0xf0, 0xe0][kind.rate_index / 3];
    let checksum = dice.below(4) == 0;
    let bitrate = 5 + dice.below(10) as u8;
    let header = [
        0xff,
        version | 0b010 | u8::from(!checksum),
        bitrate << 4 | (kind.rate_index as u8 % 3) << 2 | (dice.below(2) as u8) << 1,
        kind.mode << 6 | kind.extension << 4,
    ];
    let parsed = Header::parse(&header).unwrap();
    let length = parsed.bytes.unwrap();
    let (granules, channels) = (parsed.granules(), kind.channels());
    let own = length - 4 - if checksum { 2 } else { 0 } - parsed.side_bytes();

    let mut side = Writer::default();
    let begin = dice.below((*left).min(if low { 255 } else { 511 }) + 1);
    side.put(begin as i64, if low { 8 } else { 9 });
    side.put(0, [[5, 3], [1, 2]][usize::from(low)][channels - 1]);
    if !low {
        for _ in 0..channels {
            side.put(dice.bits(4), 4);
        }
    }
    // symphonia refuses a frame whose last code runs over the last byte; eight bytes are left to it.
    let mut budget = 8 * (begin + own).saturating_sub(8);
    let mut used = 0;
    for granule in 0..granules {
        // Joint stereo wants the same block in both channels.
        let kinds = [0, 1].map(|_| if dice.below(3) == 0 { 0 } else { dice.below(4) as i64 });
        for channel in 0..channels {
            let block = if kind.mode == 1 { kinds[0] } else { kinds[channel] };
            let parts = (granules - granule) * channels - channel;
            // Now and then the bits end in the middle of the codes, or there are too many of them.
            let bits = (budget / parts).min(4095) * (1 + dice.below(3)) / 3;
            budget -= bits;
            used += bits;
            side.put(bits as i64, 12);
            let pairs = if dice.below(2) == 0 { 40 } else { 289 };
            side.put(dice.below(pairs) as i64, 9);
            side.put(120 + dice.bits(5), 8);
            if low {
                // Now and then with preflag.
                side.put(if dice.below(4) == 0 { 500 + dice.bits(3) } else { dice.below(500) as i64 }, 9);
            } else {
                // Positions of intensity stereo up to 3, so that none is the forbidden one.
                let intensity = channel == 1 && kind.extension & 1 == 1;
                let few = [0, 1, 2, 5, 6, 8, 9];
                side.put(if intensity { few[dice.below(few.len())] } else { dice.bits(4) }, 4);
            }
            let table = |dice: &mut Dice| {
                let tables = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15];
                // The largest numbers of the tables with extra bits would drown all others.
                if dice.below(3) == 0 { 16 + dice.bits(4) } else { tables[dice.below(tables.len())] }
            };
            if block == 0 {
                side.put(0, 1);
                for _ in 0..3 {
                    side.put(table(dice), 5);
                }
                side.put(dice.bits(7), 7);
            } else {
                side.put(1, 1);
                side.put(block, 2);
                side.put(0, 1);
                for _ in 0..2 {
                    side.put(table(dice), 5);
                }
                side.put(dice.bits(9), 9);
            }
            if !low {
                side.put(dice.bits(1), 1);
            }
            side.put(dice.bits(2), 2);
        }
    }
    assert_eq!(side.bytes.len(), parsed.side_bytes());
    *left = begin + own - used.div_ceil(8);
    let mut frame = header.to_vec();
    frame.resize(if checksum { 6 } else { 4 }, 0);
    frame.extend(side.bytes);
    frame.extend((0..own).map(|_| dice.bits(8) as u8));
    assert_eq!(frame.len(), length);
    frame
}

fn packet(frame: Vec<u8>) -> Packet {
    Packet::new(0, Timestamp::new(0), Duration::new(0), frame)
}

#[test]
fn behind_a_damaged_frame_it_is_as_after_a_seek() {
    let packets = packets("clicks-joint.mp3");
    let damage: [fn(&mut Vec<u8>); 2] = [|bytes| bytes[0] = 0, |bytes| bytes.truncate(300)];
    for damage in damage {
        let (mut damaged, mut sought) = (ours(false), ours(false));
        packets[..20].iter().for_each(|packet| drop(decode(&mut damaged, packet).unwrap()));
        let mut bytes = packets[20].data.to_vec();
        damage(&mut bytes);
        assert!(decode(&mut damaged, &packet(bytes)).is_err());
        for (i, packet) in packets.iter().enumerate().skip(21) {
            let (found, wanted) = (decode(&mut damaged, packet).unwrap(), decode(&mut sought, packet).unwrap());
            assert_eq!(found, wanted, "packet {i}");
        }
    }
}

/// Frames in mono, and what their side information says.
fn mono_frame(rate_index: usize, dice: &mut Dice, mut left: usize) -> (Vec<u8>, Side) {
    let frame = random_frame(Kind { rate_index, mode: 3, extension: 0 }, dice, &mut left);
    let side = Side::parse(&Header::parse(&frame).unwrap(), split(&frame).unwrap().1).unwrap();
    (frame, side)
}

#[test]
fn where_a_frame_was_lost_the_next_one_is_not_made_of_another_ones_bytes() {
    let mut dice = Dice(11);
    let mut compared = 0;
    while compared < 50 {
        let (first, side) = mono_frame(3, &mut dice, 0);
        let unused = split(&first).unwrap().2.len() - side.channels[0][0].length.div_ceil(8);
        let (next, side) = mono_frame(3, &mut dice, 255);
        let mut decoder = ours(true);
        if side.main_data_begin <= unused || decode(&mut decoder, &packet(first.clone())).is_err() {
            continue;
        }
        let found = decode(&mut decoder, &packet(next.clone())).unwrap();
        // Silence: the same without any bits. Their number lies behind main_data_begin and a private bit.
        let mut silent = next;
        let at = silent.len() - split(&silent).unwrap().2.len() - 9;
        silent[at + 1] &= 0x80;
        silent[at + 2] &= 0x07;
        let mut decoder = ours(true);
        decode(&mut decoder, &packet(first)).unwrap();
        assert_eq!(found, decode(&mut decoder, &packet(silent)).unwrap());
        compared += 1;
    }
}

#[test]
fn a_granule_that_shares_scale_factors_is_nothing_without_the_one_that_has_them() {
    let mut dice = Dice(13);
    let (mut silent, mut heard) = (0, 0);
    for _ in 0..600 {
        // The bytes ahead of it, where its granule 0 begins, are not there.
        let (frame, side) = mono_frame(0, &mut dice, 60);
        let [first, second] = [0, 1].map(|granule| side.channels[granule][0]);
        if side.main_data_begin == 0 || first.length < 8 * side.main_data_begin {
            continue;
        }
        // scfsi lies behind 9 bits of main_data_begin and 5 private ones.
        let bytes = split(&frame).unwrap().1;
        let shares = (bytes[1] & 3, bytes[2] & 0xc0) != (0, 0) && !matches!(second.block, Block::Short { .. });
        let Ok((samples, _)) = decode(&mut ours(true), &packet(frame)) else { continue };
        if shares {
            assert_eq!(peak(&samples), 0.0);
            silent += 1;
        } else {
            heard += usize::from(peak(&samples) > 0.0);
        }
    }
    assert!(silent > 20 && heard > 20, "{silent} silent, {heard} heard");
}

/// With which symphonia has trouble; tests/golden/mixed.py says how the files were made.
#[test]
fn mixed_blocks_are_decoded_as_ffmpeg_does() {
    for name in ["mixed-8k", "mixed-32k"] {
        let read = |kind| std::fs::read(format!("{}/tests/golden/{name}.{kind}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let expected: Vec<f32> = read("f32").as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let (file, mut decoder, mut found) = (read("mp3"), ours(true), vec![]);
        let mut rest = &file[..];
        while let Some(length) = Header::parse(rest).and_then(|header| header.bytes) {
            let (frame, behind) = rest.split_at(length);
            found.extend(decode(&mut decoder, &packet(frame.to_vec())).unwrap().0);
            rest = behind;
        }
        let difference = worst(&expected, &found) / peak(&expected);
        assert!(difference < 1e-5, "{name}: {difference} of the peak");
    }
}

/// Every rate, every stereo mode, every block (mixed ones excepted), every table, in
/// combinations that no encoder thinks of. Low rates with intensity stereo are excepted too: symphonia takes 31 for the
/// forbidden position of all bands, ISO 13818-3 the highest number of each.
#[test]
fn streams_of_random_frames_are_decoded_as_symphonia_does() {
    let mut dice = Dice(3);
    let mut compared = 0;
    for rate_index in 0..9 {
        for (mode, extension) in [(3, 0), (0, 0), (2, 0), (1, 0), (1, 2), (1, 1), (1, 3)] {
            let kind = Kind { rate_index, mode, extension };
            if kind.low() && extension & 1 == 1 {
                continue;
            }
            let (mut theirs, mut ours) = (theirs(&parameters()), ours(true));
            let mut left = 0;
            // The loudest sample among this packet and those before it whose overlap it has.
            let mut loudest = [0.0f32; 3];
            for i in 0..40 {
                let packet = packet(random_frame(kind, &mut dice, &mut left));
                match (decode(theirs.as_mut(), &packet), decode(&mut ours, &packet)) {
                    (Ok((expected, rate)), Ok((found, our_rate))) => {
                        assert_eq!(rate, our_rate);
                        // Of all channels: what cancels in the mean is rounded nevertheless.
                        let GenericAudioBufferRef::F32(planes) = theirs.last_decoded() else { unreachable!() };
                        let loud = planes.iter_planes().fold(0.0f32, |loud, plane| loud.max(peak(plane)));
                        loudest = [loud, loudest[0], loudest[1]];
                        let difference = worst(&expected, &found) / peak(&loudest);
                        // Measured: 2.6e-6.
                        assert!(difference < 1e-5, "{kind:?}, packet {i}: {difference} of the peak");
                        compared += 1;
                    }
                    (Err(_), Err(_)) => {
                        // Each forgets in its own way what came before.
                        theirs.reset();
                        ours.reset();
                        left = 0;
                    }
                    (expected, found) => {
                        panic!("{kind:?}, packet {i}: {:?} but {:?}", expected.err(), found.err())
                    }
                }
            }
        }
    }
    assert!(compared > 1000, "only {compared} frames were in order");
}

#[test]
fn damaged_frames_are_errors_or_sound_but_nothing_worse() {
    let mut dice = Dice(5);
    let mut decoders = [ours(false), ours(true)];
    let mut errors = 0;
    let rounds = 3000;
    for round in 0..rounds {
        let kind = Kind { rate_index: dice.below(9), mode: dice.bits(2) as u8, extension: dice.bits(2) as u8 };
        let mut left = dice.below(600);
        let mut frame = random_frame(kind, &mut dice, &mut left);
        match round % 3 {
            // Anything in the side information.
            0 => (0..dice.below(40)).for_each(|_| {
                let at = 4 + dice.below(36);
                if let Some(byte) = frame.get_mut(at) {
                    *byte = dice.bits(8) as u8;
                }
            }),
            // Anything anywhere.
            1 => (0..=dice.below(5)).for_each(|_| {
                let at = dice.below(frame.len());
                frame[at] ^= 1 << dice.below(8);
            }),
            _ => frame.truncate(dice.below(frame.len() + 1)),
        }
        let packet = packet(frame);
        for decoder in &mut decoders {
            match decode(decoder, &packet) {
                Ok((samples, _)) => assert!(samples.iter().all(|s| s.is_finite())),
                Err(_) => errors += 1,
            }
        }
    }
    assert!(errors > rounds / 10 && errors < 2 * rounds, "{errors} errors");
}

#[test]
fn the_rate_is_the_one_of_the_frame_header() {
    let mut dice = Dice(7);
    let mut decoder = ours(false);
    for (rate_index, expected) in [(0, 22_050), (1, 24_000), (2, 32_000), (3, 22_050), (8, 8000), (0, 22_050)] {
        let kind = Kind { rate_index, mode: 0, extension: 0 };
        let rates: Vec<u32> = (0..20)
            .filter_map(|_| decode(&mut decoder, &packet(random_frame(kind, &mut dice, &mut 0))).ok())
            .map(|(_, rate)| rate)
            .collect();
        assert!(!rates.is_empty() && rates.iter().all(|&rate| rate == expected), "{rates:?}, not {expected}");
    }
}
