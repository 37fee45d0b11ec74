//! Against symphonia's own decoder, on files and on streams that no encoder writes.

use std::f64::consts::TAU;
use std::path::Path;

use realfft::RealFftPlanner;
use realfft::num_complex::Complex;
use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::{Packet, PacketBuilder};
use symphonia::core::units::{Duration, Timestamp};

use super::{VorbisDecoder, output_rate};
use crate::audio::FrontEnd;
use crate::audio::mel::LogMel;
use crate::audio::resample::Resampler;

fn load(name: &str) -> (AudioCodecParameters, Vec<Packet>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let stream = MediaSourceStream::new(Box::new(std::fs::File::open(path).unwrap()), Default::default());
    let options = (FormatOptions::default(), MetadataOptions::default());
    let mut format = symphonia::default::get_probe().probe(&Hint::new(), stream, options.0, options.1).unwrap();
    let params = format.default_track(TrackType::Audio).unwrap().codec_params.clone().unwrap().audio().unwrap().clone();
    let packets = std::iter::from_fn(|| format.next_packet().unwrap()).collect();
    (params, packets)
}

fn ours(params: &AudioCodecParameters) -> Box<dyn AudioDecoder> {
    VorbisDecoder::try_registry_new(params, &AudioDecoderOptions::default()).unwrap()
}

fn theirs(params: &AudioCodecParameters) -> Box<dyn AudioDecoder> {
    symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default()).unwrap()
}

/// The mean of the channels.
fn decode(decoder: &mut dyn AudioDecoder, packet: &Packet) -> Result<Vec<f32>, Error> {
    let GenericAudioBufferRef::F32(buffer) = decoder.decode(packet)? else { panic!("not 32-bit floats") };
    let share = 1.0 / buffer.num_planes() as f32;
    let mut mean = vec![0.0; buffer.frames()];
    for plane in buffer.iter_planes() {
        mean.iter_mut().zip(plane).for_each(|(sum, x)| *sum += share * x);
    }
    Ok(mean)
}

fn decode_all(mut decoder: Box<dyn AudioDecoder>, packets: &[Packet]) -> Vec<f32> {
    packets.iter().flat_map(|packet| decode(&mut *decoder, packet).unwrap()).collect()
}

/// The largest difference, in parts of the peak.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let peak = a.iter().fold(0f32, |peak, x| peak.max(x.abs()));
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    if peak == 0.0 { worst } else { worst / peak }
}

#[test]
fn at_full_rate_it_is_symphonias_decoder_mixed_to_mono() {
    for name in ["sweep.ogg", "steps-5.1.ogg"] {
        let (params, packets) = load(name);
        let differs = difference(&decode_all(theirs(&params), &packets), &decode_all(ours(&params), &packets));
        // Measured: 5e-7.
        assert!(differs < 2e-6, "{name}: {differs}");
    }
}

/// Signal over difference below 10 kHz, in dB, of two signals at 22,050 Hz, the second `late` samples late.
fn agreement(a: &[f32], b: &[f32], late: f64) -> f64 {
    let n = a.len().min(b.len());
    let plan = RealFftPlanner::<f64>::new().plan_fft_forward(n);
    let spectrum = |x: &[f32]| {
        let hann = |i: usize| 0.5 - 0.5 * (TAU * i as f64 / n as f64).cos();
        let mut windowed: Vec<f64> = (0..n).map(|i| f64::from(x[i]) * hann(i)).collect();
        let mut spectrum = plan.make_output_vec();
        plan.process(&mut windowed, &mut spectrum).unwrap();
        spectrum.truncate(n * 10_000 / 22_050);
        spectrum
    };
    let (a, b) = (spectrum(a), spectrum(b));
    let shift = |k: usize| Complex::from_polar(1.0, -TAU * k as f64 / n as f64 * late);
    let signal: f64 = a.iter().map(|z| z.norm_sqr()).sum();
    let rest: f64 = a.iter().zip(&b).enumerate().map(|(k, (x, y))| (x - y * shift(k)).norm_sqr()).sum();
    10.0 * (signal / rest).log10()
}

#[test]
fn at_half_rate_it_sounds_like_the_full_decode_resampled() {
    // Measured: 91 and 97 dB; log-mel below band 123 0.006 and 0.009 at most, 0.0002 and 0.0008 on average; 0.03 and
    // 0.19 in the top bands. Over 554 pieces of music: 84 dB or more, 0.02 and 0.0005 or less, and 1.1 in single frames
    // of the top band, 0.0009 on average over all bands.
    for name in ["steps.ogg", "clicks.ogg"] {
        let (params, packets) = load(name);
        let full = Resampler::new(44_100, 22_050).process(&decode_all(theirs(&params), &packets));
        let half = decode_all(ours(&params), &packets);
        assert_eq!(half.len(), full.len(), "{name}");
        let agreement = agreement(&full, &half, 0.25);
        assert!(agreement > 85.0, "{name}: {agreement:.1} dB below 10 kHz");

        let mut mel = LogMel::new(&FrontEnd::default());
        let (full, half) = (mel.compute(&full), mel.compute(&half));
        let (mut worst, mut worst_of_all, mut sum) = (0f32, 0f32, 0f32);
        for ((at, x), y) in full.indexed_iter().zip(&half) {
            let differs = (x - y).abs();
            worst_of_all = worst_of_all.max(differs);
            if at.1 < 123 {
                worst = worst.max(differs);
                sum += differs;
            }
        }
        let mean = sum / (full.nrows() * 123) as f32;
        assert!(worst < 0.03 && mean < 0.002 && worst_of_all < 0.5, "{name}: {worst}, {mean}, {worst_of_all}");
    }
}

#[test]
fn rates_are_halved_where_that_leaves_enough() {
    let rates = [8000, 22_050, 32_000, 44_099, 44_100, 44_101, 48_000, 88_200, 96_000];
    assert_eq!(rates.map(output_rate), [8000, 22_050, 32_000, 44_099, 22_050, 44_101, 24_000, 44_100, 48_000]);
    let (params, packets) = load("steps.ogg");
    assert_eq!(ours(&params).decode(&packets[1]).unwrap().spec().rate(), 22_050);
}

#[test]
fn after_a_reset_the_first_packet_is_silent_and_the_next_one_exact() {
    let (params, packets) = load("clicks.ogg");
    let mut decoder = ours(&params);
    let parts: Vec<Vec<f32>> = packets.iter().map(|packet| decode(&mut *decoder, packet).unwrap()).collect();
    assert!(parts[0].is_empty());
    for at in (1..packets.len() - 1).step_by(7) {
        decoder.reset();
        assert!(decode(&mut *decoder, &packets[at]).unwrap().is_empty());
        assert_eq!(decode(&mut *decoder, &packets[at + 1]).unwrap(), parts[at + 1]);
    }
}

fn packet(data: &[u8], trim: (u64, u64)) -> Packet {
    PacketBuilder::new()
        .track_id(0)
        .pts(Timestamp::ZERO)
        .dur(Duration::ZERO)
        .data(data.to_vec())
        .trim_start(Duration::new(trim.0))
        .trim_end(Duration::new(trim.1))
        .build()
}

#[test]
fn a_sample_is_kept_at_the_end_if_one_of_its_two_frames_is_and_at_the_beginning_if_both_are() {
    let (params, packets) = load("steps.ogg");
    for (trim, start, end) in [((0, 0), 0, 0), ((0, 1), 0, 0), ((0, 2), 0, 1), ((3, 5), 2, 2), ((1, u64::MAX), 0, 4096)]
    {
        let mut decoder = ours(&params);
        decode(&mut *decoder, &packets[0]).unwrap();
        let whole = decode(&mut *ours(&params), &packets[0]).and_then(|_| {
            let mut decoder = ours(&params);
            decode(&mut *decoder, &packets[0])?;
            decode(&mut *decoder, &packet(&packets[1].data, (0, 0)))
        });
        let whole = whole.unwrap();
        let kept = whole.get(start..whole.len().saturating_sub(end)).unwrap_or_default();
        assert_eq!(decode(&mut *decoder, &packet(&packets[1].data, trim)).unwrap(), kept, "{trim:?}");
    }
}

#[test]
fn headers_cut_anywhere_or_claiming_much_are_refused() {
    let (mut params, _) = load("steps-5.1.ogg");
    let extra = params.extra_data.clone().unwrap();
    for cut in 0..extra.len() {
        params.extra_data = Some(extra[..cut].into());
        assert!(VorbisDecoder::new(&params).is_err(), "cut at {cut}");
    }
    // The three headers as Matroska has them, the middle one empty.
    let (identification, setup) = extra.split_at(30);
    params.extra_data = Some([&[2, 30, 0], identification, setup].concat().into());
    assert!(VorbisDecoder::new(&params).is_ok());

    // 2^24 − 1 entries, all of length 24, in a few bytes.
    let mut bits = Writer::default();
    bits.put(0, 8);
    bits.put(0x56_4342, 24);
    bits.put(1, 16);
    bits.put((1 << 24) - 1, 24);
    bits.put(1, 1);
    bits.put(23, 5);
    bits.put((1 << 24) - 1, 24);
    params.extra_data = Some([identification, b"\x05vorbis", &bits.bytes()].concat().into());
    assert!(matches!(VorbisDecoder::new(&params), Err(Error::Unsupported(_))));
}

/// Bits, least significant first.
#[derive(Default)]
struct Writer(Vec<bool>);

impl Writer {
    fn put(&mut self, value: u32, width: u32) {
        self.0.extend((0..width).map(|i| value >> i & 1 == 1));
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.chunks(8).map(|byte| byte.iter().enumerate().map(|(i, &bit)| u8::from(bit) << i).sum()).collect()
    }
}
