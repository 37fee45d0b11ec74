//! The decoder against symphonia's on what encoders write, and against an encoder of our own for what they never do.

use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::FlacDecoder;
use super::crc::{crc8, crc16};
use super::header::Channels;
use super::predict::MAX_ORDER;
use crate::audio::testing::{Dice, Writer};

fn decoder(channels: u64, bits: u64) -> FlacDecoder {
    let mut block = [0u8; 34];
    block[..4].copy_from_slice(&[0, 16, 0xff, 0xff]);
    let packed = 44_100 << 44 | (channels - 1) << 41 | (bits - 1) << 36;
    block[10..18].copy_from_slice(&packed.to_be_bytes());
    let mut params = AudioCodecParameters::new();
    params.for_codec(CODEC_ID_FLAC).with_extra_data(block.into());
    FlacDecoder::new(&params).unwrap()
}

fn packets(path: &str) -> (AudioCodecParameters, Box<dyn FormatReader>) {
    let file = std::fs::File::open(path).unwrap();
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let options = (FormatOptions::default(), MetadataOptions::default());
    let format = symphonia::default::get_probe().probe(&Hint::new(), stream, options.0, options.1).unwrap();
    let track = format.default_track(TrackType::Audio).unwrap();
    (track.codec_params.as_ref().unwrap().audio().unwrap().clone(), format)
}

#[test]
fn what_encoders_write_is_decoded_as_symphonia_does() {
    for name in ["steps.flac", "steps-24.flac", "steps-5.1.flac", "pair-24.flac", "sweep.flac"] {
        let (params, mut format) = packets(&format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR")));
        let options = AudioDecoderOptions::default();
        let mut theirs = symphonia_bundle(&params, &options);
        let mut ours = FlacDecoder::try_registry_new(&params, &options).unwrap();
        let mut frames = 0;
        while let Some(packet) = format.next_packet().unwrap() {
            let GenericAudioBufferRef::S32(planes) = theirs.decode(&packet).unwrap() else { panic!("not 32 bits") };
            let GenericAudioBufferRef::F32(mono) = ours.decode(&packet).unwrap() else { panic!("not f32") };
            assert_eq!((mono.num_planes(), mono.frames()), (1, planes.frames()), "{name}");
            for (i, &sample) in mono.plane(0).unwrap().iter().enumerate() {
                let sum: i64 = planes.iter_planes().map(|plane| i64::from(plane[i])).sum();
                let mean = sum as f64 / (planes.num_planes() as f64 * 2f64.powi(31));
                assert_eq!(sample, mean as f32, "{name}, sample {i}");
            }
            frames += mono.frames();
        }
        assert!(frames > 8000, "{name}: {frames}");
    }
}

fn symphonia_bundle(params: &AudioCodecParameters, options: &AudioDecoderOptions) -> Box<dyn AudioDecoder> {
    symphonia::default::get_codecs().make_audio_decoder(params, options).unwrap()
}

#[test]
fn the_first_example_of_the_standard() {
    // Appendix D.1: one sample, both subframes verbatim with wasted bits.
    let frame = [0xff, 0xf8, 0x69, 0x18, 0, 0, 0xbf, 0x03, 0x58, 0xfd, 0x03, 0x12, 0x8b, 0xaa, 0x9a];
    let mut decoder = decoder(2, 16);
    assert_eq!(decoder.mono(&frame).unwrap(), [(25_588.0 + 10_416.0) / 65_536.0]);
    for cut in 0..frame.len() {
        assert!(decoder.mono(&frame[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..8 * frame.len() {
        let mut damaged = frame;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decoder.mono(&damaged).is_err(), "bit {bit}");
    }
}

impl Writer {
    fn unary(&mut self, zeros: i64) {
        (0..zeros).for_each(|_| self.put(0, 1));
        self.put(1, 1);
    }

    fn rice(&mut self, residual: i64, k: u32) {
        let folded = if residual < 0 { -2 * residual - 1 } else { 2 * residual };
        self.unary(folded >> k);
        self.put(folded, k);
    }

    fn residual(&mut self, dice: &mut Dice, residual: &[i64], order: usize) {
        let block = residual.len() + order;
        let method = dice.between(0, 1);
        self.put(method, 2);
        let orders: Vec<i64> =
            (0..=8).filter(|&o| block.is_multiple_of(1 << o) && block >> o >= order.max(1)).collect();
        let partitions = orders[dice.roll() as usize % orders.len()];
        self.put(partitions, 4);
        let mut rest = residual;
        for n in 0..1 << partitions {
            let length = (block >> partitions) - if n == 0 { order } else { 0 };
            let part;
            (part, rest) = rest.split_at(length);
            let largest = part.iter().map(|r| if *r < 0 { !r } else { *r }).max().unwrap_or(0);
            let width = 64 - largest.leading_zeros();
            // Sometimes far off the best parameter, as far as the zeros stay bearable.
            let k = (i64::from(width) + dice.between(-7, 3)).clamp(0, if method == 0 { 14 } else { 30 });
            let escape = dice.between(0, 3) == 0 && width < 31;
            let parameter_bits = 4 + method as u32;
            if escape || largest >> k > 1000 {
                self.put(-1, parameter_bits);
                let width = if largest == 0 && part.iter().all(|&r| r == 0) { 0 } else { width + 1 };
                assert!(width < 32, "the generator must not make such residuals");
                self.put(i64::from(width), 5);
                part.iter().for_each(|&r| self.put(r, width));
            } else {
                self.put(k, parameter_bits);
                part.iter().for_each(|&r| self.rice(r, k as u32));
            }
        }
    }

    /// One of all kinds of subframes that can hold `samples`, of `bits` bits.
    fn subframe(&mut self, dice: &mut Dice, samples: &[i64], bits: u32) {
        let wasted = samples.iter().fold(0, |union, s| union | s).trailing_zeros().min(bits - 1);
        let samples: Vec<i64> = samples.iter().map(|s| s >> wasted).collect();
        let width = bits - wasted;
        let head = |w: &mut Writer, kind: usize| {
            w.put(kind as i64, 7);
            w.put(i64::from(wasted > 0), 1);
            if wasted > 0 {
                w.unary(i64::from(wasted) - 1);
            }
        };
        let kind = dice.between(0, 9);
        if samples.iter().all(|s| *s == samples[0]) && kind < 7 {
            head(self, 0);
            return self.put(samples[0], width);
        }
        let (kind, order, coefficients, precision, shift) = match kind {
            0..=3 => {
                // (1 - z)^order, without its leading 1.
                let order = dice.between(0, 4) as usize;
                let rows: [&[i64]; 5] = [&[], &[1], &[2, -1], &[3, -3, 1], &[4, -6, 4, -1]];
                (8 + order, order, rows[order].to_vec(), 0, 0)
            }
            _ => {
                // Extrapolation of order two and something of everything before, in as many bits as there may be.
                let order = dice.between(1, MAX_ORDER as i64) as usize;
                let precision = dice.between(5, 15) as u32;
                let shift = dice.between(0, i64::from(precision) - 3);
                let mut c: Vec<i64> = (0..order).map(|_| dice.between(-(1 << shift) / 8, (1 << shift) / 8)).collect();
                c[0] += [1 << shift, 2 << shift][order.min(2) - 1];
                if order > 1 {
                    c[1] -= 1 << shift;
                }
                (31 + order, order, c, precision, shift)
            }
        };
        let residual = (samples.len() >= order).then(|| {
            (order..samples.len()).map(|n| {
                let sum: i64 = coefficients.iter().enumerate().map(|(i, c)| c * samples[n - 1 - i]).sum();
                samples[n] - (sum >> shift)
            })
        });
        let residual: Option<Vec<i64>> = residual.map(Iterator::collect);
        // Residuals must fit 32 bits (and here 31, so that they may be escaped).
        let Some(residual) = residual.filter(|all| all.iter().all(|r| (-(1 << 30)..1 << 30).contains(r))) else {
            head(self, 1);
            return samples.iter().for_each(|&s| self.put(s, width));
        };
        head(self, kind);
        samples[..order].iter().for_each(|&s| self.put(s, width));
        if kind > 31 {
            self.put(i64::from(precision) - 1, 4);
            self.put(shift, 5);
            coefficients.iter().for_each(|&c| self.put(c, precision));
        }
        self.residual(dice, &residual, order);
    }

    fn checksum(&mut self) {
        self.put(0, (8 - self.bits as u32 % 8) % 8);
        self.put(i64::from(crc16(&self.bytes)), 16);
    }
}

/// A frame of what `planes` hold, all as long, of `bits` bits.
fn encode(dice: &mut Dice, planes: &[Vec<i64>], channels: Channels, bits: u32) -> Writer {
    let mut w = Writer::default();
    w.put(0xfff8, 16);
    // Block size in 16 bits, the rate of the stream.
    w.put(0x70, 8);
    let assignment = match channels {
        Channels::Independent(n) => i64::from(n) - 1,
        Channels::LeftSide => 8,
        Channels::SideRight => 9,
        Channels::MidSide => 10,
    };
    w.put(assignment << 4, 8);
    // A frame number of one, two or seven bytes.
    match dice.between(0, 2) {
        0 => w.put(0x7f, 8),
        1 => w.put(0xc2a2, 16),
        _ => w.put(0xfe_bf_bf_bf_bf_bf_bf, 56),
    }
    w.put(planes[0].len() as i64 - 1, 16);
    w.put(i64::from(crc8(&w.bytes)), 8);
    let side = |l: &Vec<i64>, r: &Vec<i64>| -> Vec<i64> { l.iter().zip(r).map(|(l, r)| l - r).collect() };
    match (channels, planes) {
        (Channels::Independent(_), _) => planes.iter().for_each(|plane| w.subframe(dice, plane, bits)),
        (Channels::LeftSide, [l, r]) => {
            w.subframe(dice, l, bits);
            w.subframe(dice, &side(l, r), bits + 1);
        }
        (Channels::SideRight, [l, r]) => {
            w.subframe(dice, &side(l, r), bits + 1);
            w.subframe(dice, r, bits);
        }
        (Channels::MidSide, [l, r]) => {
            let mid: Vec<i64> = l.iter().zip(r).map(|(l, r)| (l + r) >> 1).collect();
            w.subframe(dice, &mid, bits);
            w.subframe(dice, &side(l, r), bits + 1);
        }
        _ => panic!("two planes have a difference"),
    }
    w.checksum();
    w
}

/// A channel of a random kind: silence, a tone, noise, full scale, low bits wasted.
fn plane(dice: &mut Dice, block: usize, bits: u32) -> Vec<i64> {
    let full = 1i64 << (bits - 1);
    let (loud, noise) = (dice.between(0, full - 1), full >> dice.between(0, i64::from(bits)));
    let kind = dice.between(0, 7);
    let wasted = [0, dice.between(0, i64::from(bits) - 1)][usize::from(kind > 5)];
    let step = 0.0005 * dice.between(1, 2000) as f64;
    let sample = |n: usize| match kind {
        0 => loud,
        1 => [full - 1, -full][n / 3 % 2],
        2 => dice.between(-full, full - 1),
        _ => ((n as f64 * step).sin() * loud as f64) as i64 + dice.between(-noise, noise) / 8,
    };
    (0..block).map(sample).map(|s| s.clamp(-full, full - 1) >> wasted << wasted).collect()
}

fn random_frame(dice: &mut Dice, block: usize) -> (Writer, Vec<Vec<i64>>, u32) {
    let bits = dice.between(4, 32) as u32;
    let channels = match dice.between(0, 5) {
        0 => Channels::LeftSide,
        1 => Channels::SideRight,
        2 => Channels::MidSide,
        3 => Channels::Independent(dice.between(3, 8) as u32),
        n => Channels::Independent(n as u32 - 3),
    };
    let mut planes: Vec<Vec<i64>> = (0..channels.count()).map(|_| plane(dice, block, bits)).collect();
    if channels.count() == 2 && dice.between(0, 1) == 0 {
        // Nearly the same, so that the difference is small.
        planes[1] = planes[0].iter().map(|s| (s - dice.between(0, 1)).max(-(1 << (bits - 1)))).collect();
    }
    (encode(dice, &planes, channels, bits), planes, bits)
}

#[test]
fn every_kind_of_frame_gives_the_mean_of_what_was_encoded() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000 {
        let block = [1, 2, 16, 31, 64, 192, 500, 1152][round % 8];
        let (frame, planes, bits) = random_frame(&mut dice, block);
        let mut decoder = decoder(planes.len() as u64, u64::from(bits));
        let mono = decoder.mono(&frame.bytes).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(mono.len(), block);
        for (i, &sample) in mono.iter().enumerate() {
            let sum: i64 = planes.iter().map(|plane| plane[i]).sum();
            let mean = sum as f64 / (planes.len() as f64 * 2f64.powi(bits as i32 - 1));
            assert_eq!(sample, mean as f32, "round {round}, sample {i}");
        }
    }
}

#[test]
fn the_longest_block_is_decoded() {
    let mut dice = Dice(7);
    let planes = vec![plane(&mut dice, 65_535, 16), plane(&mut dice, 65_535, 16)];
    let frame = encode(&mut dice, &planes, Channels::MidSide, 16);
    let mut decoder = decoder(2, 16);
    let mono = decoder.mono(&frame.bytes).unwrap();
    let mean = |i: usize| (planes[0][i] + planes[1][i]) as f32 / 65_536.0;
    assert!(mono.len() == 65_535 && mono.iter().enumerate().all(|(i, &sample)| sample == mean(i)));
}

#[test]
fn the_difference_of_loud_channels_needs_33_bits() {
    let mut dice = Dice(33);
    let full = 2f64.powi(31) - 1.0;
    let left: Vec<i64> = (0..500).map(|n| ((0.02 * n as f64).sin() * full) as i64).collect();
    let right: Vec<i64> = left.iter().map(|l| -l + dice.between(-9, 0)).collect();
    assert!(left.iter().zip(&right).any(|(l, r)| l - r > i64::from(u32::MAX / 2) + 1));
    let planes = [left, right];
    for _ in 0..50 {
        for channels in [Channels::LeftSide, Channels::SideRight, Channels::MidSide] {
            let frame = encode(&mut dice, &planes, channels, 32);
            let mut decoder = decoder(2, 32);
            for (i, &sample) in decoder.mono(&frame.bytes).unwrap().iter().enumerate() {
                assert_eq!(sample, (planes[0][i] + planes[1][i]) as f32 / 2f32.powi(32), "{channels:?}, sample {i}");
            }
        }
    }
}

/// Damage is found by the checksum; where that is right by accident, or on purpose, it is at worst noise.
#[test]
fn damaged_frames_are_refused_and_forged_ones_do_no_harm() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut refused = 0;
    for round in 0..3000 {
        let (frame, planes, bits) = random_frame(&mut dice, [16, 64, 192][round % 3]);
        let mut decoder = decoder(planes.len() as u64, u64::from(bits));
        let mut bytes = frame.bytes;
        let end = bytes.len() - 2;
        for _ in 0..dice.between(1, 4) {
            let at = dice.between(0, 8 * end as i64 - 1) as usize;
            bytes[at / 8] ^= 1 << (at % 8);
        }
        bytes.truncate(dice.between(end as i64 - 20, end as i64 + 2).max(1) as usize);
        if crc16(&bytes) != 0 {
            assert!(decoder.mono(&bytes).is_err(), "round {round}");
        }
        // Any 16 bits behind a frame that match it make the checksum of the whole zero.
        let sum = crc16(&bytes).to_be_bytes();
        bytes.extend(sum);
        refused += usize::from(decoder.mono(&bytes).is_err());
    }
    assert!(refused < 3000, "none of the forged frames got through");
}
