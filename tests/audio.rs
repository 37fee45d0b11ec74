//! The audio front end against librosa, against known signals in every codec, against itself, and against damage.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use common::{matroska, ogg_pages};
use debut::Error;
use debut::audio::resample::Resampler;
use debut::audio::{Excerpt, FrontEnd, Listening, LogMel, Tags, excerpt, hear};
use ndarray::{Array2, Array3};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn bands() -> FrontEnd {
    FrontEnd::default()
}

fn windows(segments: usize) -> Listening {
    Listening { segments, ..Listening::default() }
}

// Against librosa.

#[test]
fn the_mel_power_is_librosas() {
    for name in ["music", "synthetic"] {
        let golden: Array2<f32> = ndarray_npy::read_npy(data(&format!("golden/{name}_mel.npy"))).unwrap();
        let mut wav = hound::WavReader::open(data(&format!("golden/{name}.wav"))).unwrap();
        let samples: Vec<f32> = wav.samples::<i16>().map(|s| f32::from(s.unwrap()) / 32768.0).collect();
        let ours = LogMel::new(&bands()).power(&samples);
        assert_eq!(ours.dim(), golden.dim());
        let worst = ours.iter().zip(&golden).map(|(a, b)| (a - b).abs() / b).fold(0.0, f32::max);
        println!("{name}: relative error of the power at most {worst:.1e}");
        assert!(worst < 1e-4, "{name}: {worst}");
        let log = LogMel::new(&bands()).compute(&samples);
        let worst = log.iter().zip(&golden).map(|(a, b)| (a - (1.0 + 1e4 * b).ln()).abs()).fold(0.0, f32::max);
        println!("{name}: the logarithm differs by at most {worst:.1e}");
        assert!(worst < 1e-5, "{name}: logarithm differs by {worst}");
    }
}

/// A tone that rises, noise and an impulse: as in tests/golden/resample.py.
fn sweep_noise_and_impulse(rate: u32) -> Vec<f32> {
    let (n, top) = (rate as usize * 6 / 5, 9600f64.min(0.4 * f64::from(rate)));
    let mut state = 1u32;
    let mut samples: Vec<f64> = (0..n)
        .map(|i| {
            let t = i as f64 / f64::from(rate);
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = f64::from(state) / 2f64.powi(31) - 1.0;
            0.4 * (std::f64::consts::TAU * (100.0 * t + (top - 100.0) / 2.4 * t * t)).sin() + 0.05 * noise
        })
        .collect();
    samples[n / 2] += 0.5;
    samples.iter().map(|&x| x as f32).collect()
}

#[test]
fn resampled_mels_are_those_of_soxr_and_librosa_from_every_rate() {
    let golden: Array3<f32> = ndarray_npy::read_npy(data("golden/resampled_mel.npy")).unwrap();
    let rates = [8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000];
    for (rate, golden) in rates.into_iter().zip(golden.outer_iter()) {
        let resampled = Resampler::new(rate, 22_050).process(&sweep_noise_and_impulse(rate));
        let ours = LogMel::new(&bands()).compute(&resampled[2048..2048 + 20_480]);
        assert_eq!(ours.dim(), golden.dim());
        // soxr fades out from 0.91 of the lower Nyquist frequency on, and from some rates it is 1e-4 short below that too
        // (a transform of the whole clip is not).
        for (share, limit) in [(0.6, 1e-4), (0.88, 1e-3)] {
            let top = share * f64::from(rate.min(22_050)) / 2.0;
            let mel = |hz: f64| 15.0 + (hz / 1000.0).ln() / (6.4f64.ln() / 27.0);
            // Bands that end below it: 123 below 0.88 of 11,025 Hz.
            let flat = (mel(top) / mel(11_025.0) * 129.0) as usize - 1;
            let differences = ours.indexed_iter().filter(|((_, band), _)| *band < flat);
            let worst = differences.map(|(at, x)| (x - (1.0 + 1e4 * golden[at]).ln()).abs()).fold(0.0, f32::max);
            println!("{rate} Hz: {flat} bands, the logarithm differs by at most {worst:.1e}");
            assert!(worst < limit, "{rate} Hz: {worst}");
        }
    }
}

#[test]
fn too_few_samples_give_no_frames() {
    let mut mel = LogMel::new(&bands());
    assert_eq!(mel.compute(&[]).dim(), (0, 128));
    assert_eq!(mel.compute(&[0.0; 2047]).dim(), (0, 128));
    assert_eq!(mel.compute(&[0.0; 2048]).dim(), (1, 128));
    assert_eq!(mel.compute(&[0.0; 2048 + 1024]).dim(), (2, 128));
}

// Against known signals.

/// The strongest band of each frame must be the one around the tone that sounds then, at the right loudness.
/// `tolerance` is in units of ln(10⁴·power): 0.23 is 1 dB.
fn sounds_like_the_steps(path: &Path, amplitude: f32, tolerance: f32) -> Result<(), String> {
    // 30 frames of 46 ms are 1.44 s: nearly all of the file, and not tiled.
    let frames = 30;
    let front_end = bands();
    let heard = hear(path, &front_end, frames, &windows(1)).map_err(|e| e.to_string())?;
    if heard.tiled {
        return Err(format!("tiled, {:?} s", heard.seconds));
    }
    let mut tone = LogMel::new(&front_end);
    let mut reference = |hz: f32| {
        let sine: Vec<f32> =
            (0..2048).map(|i| amplitude * (i as f32 * hz * 2.0 * std::f32::consts::PI / 22050.0).sin()).collect();
        tone.compute(&sine).row(0).to_vec()
    };
    let strongest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let mut checked = 0;
    for (t, row) in heard.mels[0].outer_iter().enumerate() {
        let middle = heard.start_seconds[0] + (t * 1024 + 1024) as f64 / 22050.0;
        let (step, within) = ((middle / 0.5) as usize, middle % 0.5);
        // The window is 93 ms long, and codecs smear a few more.
        if !(0.08..0.42).contains(&within) {
            continue;
        }
        let expected = reference([500.0, 1500.0, 3000.0][step]);
        let band = strongest(&expected);
        let found = strongest(row.as_slice().unwrap());
        if found != band {
            return Err(format!("at {middle:.2} s band {found} is the strongest, expected {band}"));
        }
        if (row[band] - expected[band]).abs() > tolerance {
            return Err(format!("at {middle:.2} s the tone is {:.2}, expected {:.2}", row[band], expected[band]));
        }
        checked += 1;
    }
    if checked < 18 { Err(format!("only {checked} frames fell into a step")) } else { Ok(()) }
}

#[test]
fn every_codec_sounds_as_it_should() {
    let mut files: Vec<PathBuf> = fs::read_dir(data("data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("steps"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 19);
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let (amplitude, tolerance) = if ["flac", "alac", "aiff", "caf"].iter().any(|kind| name.contains(kind)) {
                (0.5 / 16.0, 0.02)
            } else if name.contains("5.1") {
                // One of the six channels is for low frequencies and carries no tone.
                (0.5, 1.2)
            } else {
                // The lowest bitrates are up to 2 dB off.
                (0.5, 0.5)
            };
            sounds_like_the_steps(path, amplitude, tolerance).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn layouts_and_rates_are_reported() {
    for (name, format, codec, rate, channels) in [
        ("steps-cbr.mp3", "mp3", "mp3", 44_100, 2),
        ("steps-8k.mp3", "mp3", "mp3", 8_000, 1),
        ("steps.m4a", "isomp4", "aac", 44_100, 2),
        ("steps-96k.m4a", "isomp4", "aac", 96_000, 1),
        ("steps-alac.m4a", "isomp4", "alac", 8_000, 1),
        ("steps-5.1.ogg", "ogg", "vorbis", 11_025, 6),
        ("steps-5.1.opus", "ogg", "opus", 48_000, 6),
        ("steps-5.1.flac", "flac", "flac", 8_000, 6),
    ] {
        let heard = hear(&data("data").join(name), &bands(), 20, &windows(1)).unwrap();
        assert_eq!(
            (heard.format, heard.codec, heard.source_rate, heard.channels, heard.lost),
            (format, codec, rate, channels, 0.0),
            "{name}"
        );
        let seconds = heard.seconds.unwrap();
        // AAC, and mp3 without a header, count the encoder's delay and padding.
        assert!((1.5 - 1e-3..1.75).contains(&seconds), "{name}: {seconds} s");
    }
}

/// A WAV file of the steps at full precision.
fn wav(dir: &Path, name: &str, spec: hound::WavSpec) -> PathBuf {
    let path = dir.join(name);
    let mut out = hound::WavWriter::create(&path, spec).unwrap();
    for i in 0..spec.sample_rate * 3 / 2 {
        let t = f64::from(i) / f64::from(spec.sample_rate);
        let hz = [500.0, 1500.0, 3000.0][(t / 0.5) as usize];
        let x = 0.5 * (std::f64::consts::TAU * hz * t).sin();
        for _ in 0..spec.channels {
            match spec.sample_format {
                hound::SampleFormat::Float => out.write_sample(x as f32).unwrap(),
                hound::SampleFormat::Int => {
                    out.write_sample((x * f64::from(1u32 << (spec.bits_per_sample - 1))) as i32).unwrap();
                }
            }
        }
    }
    out.finalize().unwrap();
    path
}

#[test]
fn every_kind_of_wav_sounds_as_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let int = hound::SampleFormat::Int;
    let float = hound::SampleFormat::Float;
    for (bits, format) in [(8, int), (16, int), (24, int), (32, int), (32, float)] {
        for channels in [1, 2, 6] {
            let spec = hound::WavSpec { channels, sample_rate: 48_000, bits_per_sample: bits, sample_format: format };
            let path = wav(dir.path(), "x.wav", spec);
            sounds_like_the_steps(&path, 0.5, 0.05)
                .unwrap_or_else(|why| panic!("{bits} bits {format:?} × {channels}: {why}"));
        }
    }
    for rate in [8000, 11_025, 16_000, 22_050, 32_000, 44_100, 88_200, 96_000, 176_400, 192_000] {
        let spec = hound::WavSpec { channels: 2, sample_rate: rate, bits_per_sample: 16, sample_format: int };
        sounds_like_the_steps(&wav(dir.path(), "x.wav", spec), 0.5, 0.05)
            .unwrap_or_else(|why| panic!("{rate} Hz: {why}"));
    }
}

#[test]
fn channels_are_averaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wav");
    let spec = hound::WavSpec {
        channels: 3,
        sample_rate: 22_050,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut out = hound::WavWriter::create(&path, spec).unwrap();
    for _ in 0..44_100 {
        for x in [3000i16, -600, 0] {
            out.write_sample(x).unwrap();
        }
    }
    out.finalize().unwrap();
    let heard = excerpt(&path, 22_050, 22_050, 0.5, &windows(1)).unwrap();
    assert!(heard.samples.iter().all(|&x| (x - 800.0 / 32768.0).abs() < 1e-7));
    assert_eq!((heard.start_seconds, heard.seconds, heard.tiled, heard.channels), (0.5, Some(2.0), false, 3));
}

#[test]
fn windows_are_spread_over_the_track_and_short_tracks_are_tiled() {
    let front_end = bands();
    let sweep = data("data/sweep.mp3");
    let heard = hear(&sweep, &front_end, 10, &windows(4)).unwrap();
    let length = front_end.samples(10) as f64 / 22050.0;
    let seconds = heard.seconds.unwrap();
    assert!((seconds - 5.0).abs() < 0.1);
    for (i, (start, mel)) in heard.start_seconds.iter().zip(&heard.mels).enumerate() {
        assert_eq!(mel.dim(), (10, 128));
        let centre = (i as f64 + 0.5) / 4.0 * seconds;
        assert!((start + length / 2.0 - centre).abs() < 1e-3, "window {i} starts at {start} s");
    }
    // The tone rises, so the bands do.
    let strongest = |mel: &Array2<f32>| {
        let row = mel.row(5).to_vec();
        (0..128).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    };
    assert!(heard.mels.windows(2).all(|pair| strongest(&pair[0]) < strongest(&pair[1])));

    let tiled = excerpt(&sweep, 22_050, 22_050 * 12, 0.5, &windows(1)).unwrap();
    assert!(tiled.tiled && tiled.start_seconds == 0.0);
    let period = (tiled.seconds.unwrap() * 22_050.0).round() as usize;
    assert_eq!(tiled.samples[..1000], tiled.samples[2 * period..2 * period + 1000]);
}

#[test]
fn tags_are_read_in_every_dialect() {
    for name in ["steps-cbr.mp3", "steps.m4a", "steps.ogg", "steps.opus", "steps.flac"] {
        let tags = hear(&data("data").join(name), &bands(), 20, &windows(1)).unwrap().tags;
        let found = [&tags.title, &tags.artist, &tags.album, &tags.genre].map(|tag| tag.as_deref().unwrap_or_default());
        assert_eq!(found, ["Drei_Töne", "Signal", "Generated", "Test"], "{name}");
        assert_eq!(tags.year, Some(2026), "{name}");
        // ffmpeg writes no ISRC into MP4, and recordings' ids only into Vorbis comments.
        let (isrc, recording) = match name {
            "steps.m4a" => (None, None),
            "steps-cbr.mp3" => (Some("DEZ652600001"), None),
            _ => (Some("DEZ652600001"), Some("11111111-2222-4333-8444-555555555555")),
        };
        assert_eq!((tags.isrc.as_deref(), tags.musicbrainz_recording.as_deref()), (isrc, recording), "{name}");
    }
    assert_eq!(hear(&data("data/steps.aiff"), &bands(), 20, &windows(1)).unwrap().tags, Tags::default());
}

// Against itself: seeking gives what decoding everything gives.

/// Signal to noise in dB of `part` against the same moments of `whole`.
fn agreement(whole: &Excerpt, part: &Excerpt) -> f64 {
    let from = ((part.start_seconds - whole.start_seconds) * 22_050.0).round() as usize;
    let same = &whole.samples[from..from + part.samples.len()];
    let power = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let signal = power(&mut same.iter().copied());
    let noise = power(&mut same.iter().zip(&part.samples).map(|(a, b)| a - b));
    10.0 * (signal / noise.max(1e-30)).log10()
}

#[test]
fn seeking_gives_what_decoding_everything_gives() {
    let dir = tempfile::tempdir().unwrap();
    let int = hound::SampleFormat::Int;
    let spec = hound::WavSpec { channels: 2, sample_rate: 44_100, bits_per_sample: 16, sample_format: int };
    let wav = wav(dir.path(), "x.wav", spec);
    // Lossless codecs, and mp3 and Vorbis behind their pre-roll, agree to the precision of the resampler (110 dB);
    // AAC and Opus never quite forget what came before (see the table of seeks in the documentation of their decoders).
    for (path, least) in [
        (wav, 90.0),
        (data("data/sweep.flac"), 90.0),
        (data("data/sweep-alac.m4a"), 90.0),
        (data("data/sweep.ogg"), 90.0),
        (data("data/sweep.mp3"), 90.0),
        (data("data/sweep-vbr-no-xing.mp3"), 90.0),
        (data("data/sweep.m4a"), 40.0),
        (data("data/sweep.opus"), 40.0),
    ] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let length = hear(&path, &bands(), 10, &windows(1)).unwrap().seconds.unwrap();
        // Longer than the track: read from its beginning without a seek.
        let whole = excerpt(&path, 22_050, ((length + 0.5) * 22_050.0) as usize, 0.5, &windows(1)).unwrap();
        assert!(whole.tiled && whole.start_seconds == 0.0);
        for centre in [0.35, 0.5, 0.8, 1.0] {
            let part = excerpt(&path, 22_050, 11_025, centre, &windows(1)).unwrap();
            assert!(centre == 1.0 || part.start_seconds > 0.2, "{name}");
            let decibel = agreement(&whole, &part);
            println!("{name} at {centre}: {decibel:.0} dB");
            assert!(decibel > least, "{name} at {centre}: {decibel:.0} dB");
        }
    }
}

#[test]
fn the_true_length_is_found_where_no_header_tells_it() {
    // 5 s of sound; symphonia's estimate from the first bitrates is far off.
    for name in ["sweep-vbr-no-xing.mp3", "sweep.mp3"] {
        let seconds = hear(&data("data").join(name), &bands(), 10, &windows(1)).unwrap().seconds.unwrap();
        assert!((4.99..5.2).contains(&seconds), "{name}: {seconds} s");
    }
    // Three files joined: the first one's header speaks for 5 s only, yet all of it is music.
    let dir = tempfile::tempdir().unwrap();
    let joined = dir.path().join("joined.mp3");
    fs::write(&joined, fs::read(data("data/sweep.mp3")).unwrap().repeat(3)).unwrap();
    let heard = excerpt(&joined, 22_050, 22_050 * 10, 0.5, &windows(1)).unwrap();
    assert!(!heard.tiled && (14.5..15.5).contains(&heard.seconds.unwrap()), "{:?}", heard.seconds);
    // Nor does it mislead where the window is shorter than what it speaks for.
    let heard = excerpt(&joined, 22_050, 22_050, 0.5, &windows(1)).unwrap();
    assert!((6.5..7.5).contains(&heard.start_seconds), "{} of {:?} s", heard.start_seconds, heard.seconds);
}

#[test]
fn a_length_that_leaves_much_of_the_file_over_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    // An mp3 header that tells bytes but no frames (or the other way round): symphonia would estimate the length.
    let mp3 = fs::read(data("data/sweep.mp3")).unwrap();
    let at = mp3.windows(4).position(|w| w == b"Info" || w == b"Xing").unwrap();
    let path = dir.path().join("x.mp3");
    for flags in [0x0d, 0x0e] {
        let mut bytes = mp3.clone();
        bytes[at + 7] = flags;
        fs::write(&path, bytes).unwrap();
        let seconds = hear(&path, &bands(), 10, &windows(1)).unwrap().seconds.unwrap();
        assert!((4.9..5.2).contains(&seconds), "flags {flags}: {seconds} s");
    }

    // A WAV file whose size was written after two seconds, and never again.
    let path = dir.path().join("x.wav");
    float_wav(&path, 8.0, |i| 0.3 * (i as f32 * 0.1).sin());
    let good = fs::read(&path).unwrap();
    let size = good.windows(4).position(|w| w == b"data").unwrap() + 4;
    let claiming = |seconds: u32, behind: &[u8]| {
        let mut bytes = [&good, behind].concat();
        bytes[size..size + 4].copy_from_slice(&(seconds * 4 * 22_050).to_le_bytes());
        fs::write(&path, bytes).unwrap();
        hear(&path, &bands(), 10, &windows(1)).unwrap().seconds.unwrap()
    };
    for seconds in [0, 2] {
        assert!((claiming(seconds, &[]) - 8.0).abs() < 1e-3, "{seconds} s claimed");
    }
    // What follows as a chunk is no music.
    let list = [b"LIST", &200_000u32.to_le_bytes()[..], &[0; 200_000]].concat();
    assert!((claiming(8, &list) - 8.0).abs() < 1e-3);
}

// Ogg files that go on with another one.

/// Links of a chain, each a file of the test data, with streams of their own.
fn chain(names: &[&str]) -> Vec<u8> {
    let link =
        |(i, name): (usize, &&str)| ogg_pages(&fs::read(data("data").join(name)).unwrap(), 100 + i as u32).concat();
    names.iter().enumerate().flat_map(link).collect()
}

/// All of a file, from its beginning.
fn whole(path: &Path) -> Excerpt {
    let length = hear(path, &bands(), 10, &windows(1)).unwrap().seconds.unwrap();
    excerpt(path, 22_050, ((length + 0.5) * 22_050.0) as usize, 0.5, &windows(1)).unwrap()
}

#[test]
fn the_links_of_a_chain_are_heard_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ogg");
    for names in [["clicks.ogg", "steps.ogg", "clicks.ogg"], ["steps.opus", "steps.opus", "steps.opus"]] {
        fs::write(&path, chain(&names)).unwrap();
        let all = whole(&path);
        let mut at = 0;
        for name in names {
            let link = whole(&data("data").join(name));
            let length = (link.seconds.unwrap() * 22_050.0).round() as usize;
            // But for the seams, where the resampler reaches into the neighbour.
            let (from, to) = (1000, length - 1000);
            let worst = (from..to).map(|i| (link.samples[i] - all.samples[at + i]).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-3, "{name} at {at} of {names:?}: {worst}");
            at += length;
        }
        let seconds = all.seconds.unwrap();
        assert!((seconds - at as f64 / 22_050.0).abs() < 0.01, "{names:?}: {seconds} s");
        // A window, wherever it lies, is that part of the whole.
        for centre in [0.1, 0.35, 0.5, 0.8, 1.0] {
            let part = excerpt(&path, 22_050, 11_025, centre, &windows(1)).unwrap();
            assert!((part.start_seconds - (centre * seconds - 0.25).clamp(0.0, seconds - 0.5)).abs() < 0.01);
            assert_eq!(part.seconds, all.seconds);
            let decibel = agreement(&all, &part);
            assert!(decibel > 40.0, "{names:?} at {centre}: {decibel:.0} dB");
        }
    }
}

#[test]
fn a_link_with_another_rate_counts_and_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ogg");
    // 5 s at 16 kHz, 4 s at 44.1 kHz.
    fs::write(&path, chain(&["sweep.ogg", "clicks.ogg"])).unwrap();
    let (sweep, clicks) = (whole(&data("data/sweep.ogg")), whole(&data("data/clicks.ogg")));
    for (centre, link, rate, start) in [(0.2, &sweep, 16_000, 0.0), (0.8, &clicks, 44_100, 5.0)] {
        let mut part = excerpt(&path, 22_050, 11_025, centre, &windows(1)).unwrap();
        assert_eq!((part.source_rate, part.lost), (rate, 0.0));
        assert!((part.seconds.unwrap() - 9.0).abs() < 0.01, "{:?}", part.seconds);
        part.start_seconds -= start;
        let decibel = agreement(link, &part);
        assert!(decibel > 40.0, "at {centre}: {decibel:.0} dB");
    }
    // Each window has its own rate; none is lost.
    let heard = hear(&path, &bands(), 10, &windows(4)).unwrap();
    assert!(heard.lost < 0.1, "{}", heard.lost);
    // Across the seam only one of the links is heard, and that is said.
    let across = excerpt(&path, 22_050, 22_050 * 3, 4.5 / 9.0, &windows(1)).unwrap();
    assert!((0.2..0.5).contains(&across.lost), "{}", across.lost);
}

#[test]
fn a_chain_with_two_streams_in_one_link_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ogg");
    let file = |name: &str, serial| ogg_pages(&fs::read(data("data").join(name)).unwrap(), serial);
    // The pages of the second link are those of two files in turn.
    let (one, other) = (file("clicks.ogg", 2), file("clicks.ogg", 3));
    let turns = one.into_iter().zip(other).flat_map(|(a, b)| [a, b]);
    fs::write(&path, file("steps.ogg", 1).into_iter().chain(turns).collect::<Vec<_>>().concat()).unwrap();
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        // Longer than the first link, shorter than both: the file is walked, and then sought in. The last window begins
        // behind the first page of the stream.
        let heard = hear(&path, &bands(), 64, &windows(4)).map(|heard| heard.seconds);
        done.send(heard).unwrap();
    });
    let seconds = waiting.recv_timeout(Duration::from_secs(60)).expect("a seek that never ends").unwrap().unwrap();
    assert!((seconds - 5.5).abs() < 0.05, "{seconds} s");
}

// Against damage.

/// What every damaged file must do: be heard or be refused, with the path, in finite numbers.
fn heard_or_refused(path: &Path) -> Result<(), Error> {
    match hear(path, &bands(), 40, &windows(2)) {
        Ok(heard) => {
            assert!(heard.mels.iter().all(|mel| mel.dim() == (40, 128) && mel.iter().all(|x| x.is_finite())));
            Ok(())
        }
        Err(e) => {
            assert!(matches!(e, Error::Decode { .. } | Error::Unsupported { .. }), "{e:?}");
            assert!(e.to_string().starts_with(path.to_str().unwrap()), "{e}");
            assert!(!e.to_string().contains("panicked"), "{e}");
            Err(e)
        }
    }
}

fn refusal(path: &Path) -> String {
    heard_or_refused(path).expect_err("should have been refused").to_string()
}

#[test]
fn damaged_files_are_heard_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let spec =
        hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut sound = vec![wav(dir.path(), "steps.wav", spec)];
    for name in [
        "steps.flac",
        "steps.ogg",
        "steps-5.1.opus",
        "steps-cbr.mp3",
        "steps.m4a",
        "steps-alac.caf",
        "steps.aiff",
        "steps.aac",
    ] {
        sound.push(data("data").join(name));
    }
    let (mut heard, mut refused) = (0, 0);
    for original in sound {
        let bytes = fs::read(&original).unwrap();
        let extension = original.extension().unwrap().to_str().unwrap();
        let path = dir.path().join(format!("damaged.{extension}"));
        let mut damaged: Vec<Vec<u8>> = Vec::new();
        for part in [0.02, 0.3, 0.7, 0.97] {
            damaged.push(bytes[..(bytes.len() as f64 * part) as usize].to_vec());
        }
        for flips in [1, 20, 400] {
            for header_only in [true, false] {
                let mut copy = bytes.clone();
                let reach = if header_only { 400.min(copy.len()) } else { copy.len() };
                for _ in 0..flips {
                    copy[rng.random_range(0..reach)] ^= 1 << rng.random_range(0..8);
                }
                damaged.push(copy);
            }
        }
        let mut hole = bytes.clone();
        let at = hole.len() / 3;
        hole[at..at + 2000.min(bytes.len() / 3)].fill(0);
        damaged.push(hole);
        let mut ones = bytes.clone();
        ones[20..60].fill(0xff);
        damaged.push(ones);
        for copy in damaged {
            fs::write(&path, copy).unwrap();
            match heard_or_refused(&path) {
                Ok(()) => heard += 1,
                Err(_) => refused += 1,
            }
        }
    }
    println!("{heard} heard, {refused} refused");
    assert!(heard > 20 && refused > 20);
}

#[test]
fn what_is_not_audio_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert!(refusal(&file("empty.mp3", b"")).contains("empty file"));
    assert!(refusal(&file("text.mp3", &b"la la la ".repeat(1000))).contains("not audio"));
    assert!(refusal(&file("zeros.wav", &[0; 100_000])).contains("not audio"));
    assert!(refusal(&file("tags.mp3", &b"ID3\x04\0\0\0\0\0\0".repeat(5000))).contains("not audio"));
    let mut noise = vec![0u8; 200_000];
    ChaCha8Rng::seed_from_u64(1).fill(&mut noise[..]);
    heard_or_refused(&file("noise.mp3", &noise)).unwrap_err();
    assert!(refusal(dir.path()).contains("a directory"));
    #[cfg(unix)]
    assert!(refusal(Path::new("/dev/zero")).contains("regular file"));
    assert!(matches!(hear(&dir.path().join("none.mp3"), &bands(), 40, &windows(1)), Err(Error::Io { .. })));
}

/// A float WAV file of `seconds` s at 22,050 Hz.
fn float_wav(path: &Path, seconds: f64, sample: impl Fn(usize) -> f32) {
    let samples: Vec<f32> = (0..(seconds * 22_050.0) as usize).map(sample).collect();
    debut::audio::write_wav(path, &samples, 22_050).unwrap();
}

#[test]
fn silence_short_files_and_wild_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wav");
    let tone = |i: usize| 0.3 * (i as f32 * 0.1).sin();

    float_wav(&path, 0.9, tone);
    assert!(refusal(&path).contains("0.90 s long"), "{}", refusal(&path));
    float_wav(&path, 1.1, tone);
    heard_or_refused(&path).unwrap();

    float_wav(&path, 40.0, |_| 0.0);
    assert!(refusal(&path).contains("silent"));
    // −86 dBFS is silence, −74 dBFS is not.
    float_wav(&path, 5.0, |i| tone(i) * 5e-5 / 0.3);
    assert!(refusal(&path).contains("silent"));
    float_wav(&path, 5.0, |i| tone(i) * 2e-4 / 0.3);
    heard_or_refused(&path).unwrap();
    // A quiet end does not make a track silent.
    float_wav(&path, 20.0, |i| if i < 22_050 * 8 { tone(i) } else { 0.0 });
    heard_or_refused(&path).unwrap();

    for wild in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e38, 3e4] {
        // In every packet; and in one, which is then lost like any that is damaged.
        float_wav(&path, 5.0, |i| if i % 500 == 0 { wild } else { tone(i) });
        assert!(refusal(&path).contains("finite"), "{wild}");
        float_wav(&path, 5.0, |i| if i == 55_000 { wild } else { tone(i) });
        let heard = hear(&path, &bands(), 40, &windows(1)).unwrap();
        assert!(heard.lost > 0.0 && heard.lost < 0.1, "{wild}: {}", heard.lost);
        assert!(heard.mels[0].iter().all(|x| (0.0..20.0).contains(x)), "{wild}");
    }
    float_wav(&path, 5.0, |i| 3.0 * tone(i));
    heard_or_refused(&path).unwrap();
}

#[test]
fn claims_that_are_too_large_to_be_true_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wav");
    float_wav(&path, 3.0, |i| 0.3 * (i as f32 * 0.1).sin());
    let good = fs::read(&path).unwrap();
    let patched = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        fs::write(&path, bytes).unwrap();
        heard_or_refused(&path)
    };
    let data_size = good.windows(4).position(|w| w == b"data").unwrap() + 4;
    // 4 GB of samples in a file of 260 kB: what is there is heard.
    for size in [u32::MAX, u32::MAX - 1, 0xf000_0000] {
        patched(data_size, &size.to_le_bytes()).unwrap();
        patched(4, &size.to_le_bytes()).unwrap();
    }
    // Channels, rate and bytes of a frame.
    for channels in [0u16, 65, u16::MAX] {
        println!("{channels} channels: {:?}", patched(22, &channels.to_le_bytes()));
    }
    for rate in [0u32, 1, 999, 768_001, u32::MAX] {
        patched(24, &rate.to_le_bytes()).unwrap_err();
    }
    // An MP4 file that does not say its rate, in ticks of which there is one a second: the packets tell.
    let mut m4a = fs::read(data("data/steps-alac.m4a")).unwrap();
    let after = |name: &[u8]| m4a.windows(4).position(|w| w == name).unwrap() + 4;
    let (rate, ticks) = (after(b"stsd") + 8 + 32, after(b"mdhd") + 12);
    assert_eq!((&m4a[rate..rate + 2], &m4a[ticks..ticks + 4]), (&[0x1f, 0x40][..], &[0, 0, 0x1f, 0x40][..]));
    m4a[rate..rate + 2].fill(0);
    m4a[ticks..ticks + 4].copy_from_slice(&1u32.to_be_bytes());
    let path = dir.path().join("x.m4a");
    fs::write(&path, m4a).unwrap();
    let heard = hear(&path, &bands(), 10, &windows(1));
    println!("ALAC: {:?}", heard.as_ref().map(|heard| (heard.source_rate, heard.seconds)));
    assert!(heard.is_err() || heard.unwrap().source_rate == 8000);
    for align in [0u16, u16::MAX] {
        let _ = patched(32, &align.to_le_bytes());
    }
    // A FLAC header that claims the longest possible track: the true length is found.
    let mut flac = fs::read(data("data/sweep.flac")).unwrap();
    flac[21] |= 0x0f;
    flac[22..26].fill(0xff);
    let path = dir.path().join("x.flac");
    fs::write(&path, flac).unwrap();
    let heard = hear(&path, &bands(), 20, &windows(1)).unwrap();
    assert!((heard.seconds.unwrap() - 2.5).abs() < 0.01, "{:?}", heard.seconds);
}

/// Bytes before the music: a tag of ten bytes of zeros.
const SMALL_TAG: &[u8] = b"ID3\x04\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0";

#[test]
fn kinds_of_audio_that_are_not_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (magic, name) in [
        (&b"wvpk\x20\0\0\0"[..], "WavPack"),
        (b"MAC \x96\x0f", "Monkey's Audio"),
        (b"TTA1\x01\0", "True Audio"),
        (b"DSD \x1c\0", "DSF"),
        (b"\x7f\xfe\x80\x01\xfc\x3c", "DTS"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
        (b"RIFF\0\x10\0\0AVI LIST", "AVI"),
    ] {
        // Sync words of mp3, which a scan would find.
        let frames = [0xff, 0xfb, 0x90, 0x64].repeat(10_000);
        for tag in [&b""[..], SMALL_TAG] {
            let path = dir.path().join("x.mp3");
            fs::write(&path, [tag, magic, &frames].concat()).unwrap();
            let refused = hear(&path, &bands(), 40, &windows(1)).unwrap_err();
            assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
            assert!(refused.to_string().contains(&format!("found {name}")), "{refused}");
        }
    }
}

#[test]
fn the_time_limit_holds_for_an_excerpt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mp3");
    fs::write(&path, fs::read(data("data/sweep-vbr-no-xing.mp3")).unwrap().repeat(400)).unwrap();
    let hasty = Listening { time_limit_s: 0.001, ..Listening::default() };
    let refused = excerpt(&path, 22_050, 22_050, 0.5, &hasty).unwrap_err().to_string();
    assert!(refused.contains("longer than 0.001 s"), "{refused}");
    let never = Listening { time_limit_s: f64::NAN, ..Listening::default() };
    assert!(matches!(excerpt(&path, 22_050, 22_050, 0.5, &never), Err(Error::Invalid { .. })));
}

#[test]
fn what_is_silent_in_place_of_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.flac");
    let whole = fs::read(data("data/sweep.flac")).unwrap();
    // Frames in the middle of the file that are no frames.
    let mut hole = whole.clone();
    let (from, to) = (whole.len() * 2 / 5, whole.len() * 3 / 5);
    hole[from..to].fill(0);
    for (bytes, least, most) in [(whole, 0.0, 0.0), (hole, 0.1, 0.5)] {
        fs::write(&path, bytes).unwrap();
        let heard = hear(&path, &bands(), 40, &windows(1)).unwrap();
        assert!((least..=most).contains(&heard.lost), "{}", heard.lost);
    }
}

#[test]
fn matroska_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mka");
    fs::write(&path, matroska(&[])).unwrap();
    let heard = hear(&path, &bands(), 20, &windows(1)).unwrap();
    assert_eq!((heard.format, heard.source_rate, heard.lost), ("matroska", 8000, 0.0));
    assert!((heard.seconds.unwrap() - 2.0).abs() < 0.01, "{:?}", heard.seconds);
}

#[test]
fn a_download_that_broke_off_is_heard_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["sweep.mp3", "sweep.ogg", "sweep.opus", "sweep.flac", "sweep-faststart.m4a"] {
        let bytes = fs::read(data("data").join(name)).unwrap();
        let path = dir.path().join(name);
        fs::write(&path, &bytes[..bytes.len() * 7 / 10]).unwrap();
        let heard = hear(&path, &bands(), 20, &windows(1)).unwrap_or_else(|e| panic!("{e}"));
        assert!(!heard.tiled, "{name}: {:?}", heard.seconds);
    }
}
