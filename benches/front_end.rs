//! The front end, stage by stage, on the small files of the tests: `cargo bench --bench front_end`.

use std::path::{Path, PathBuf};

use debut::audio::resample::Resampler;
use debut::audio::{FrontEnd, Listening, LogMel, excerpt, hear};
use divan::Bencher;

fn main() {
    divan::main();
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Half a minute of noise-like sound, mono.
fn sound(samples: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..samples).map(|i| 0.3 * (i as f32 * 0.05).sin() + 0.1 * next()).collect()
}

/// 599 frames: `[614400]` samples to `[599, 128]`.
#[divan::bench]
fn log_mel(bencher: Bencher) {
    let front_end = FrontEnd::default();
    let samples = sound(front_end.samples(599));
    let mut mel = LogMel::new(&front_end);
    bencher.bench_local(|| mel.compute(&samples));
}

#[divan::bench]
fn make_log_mel() -> LogMel {
    LogMel::new(&FrontEnd::default())
}

/// 27.86 s to 22,050 Hz, from the rate given.
#[divan::bench(args = [44_100, 48_000, 96_000])]
fn resample(bencher: Bencher, rate: u32) {
    let input = sound((27.86 * f64::from(rate)) as usize);
    let resampler = Resampler::new(rate, 22_050);
    bencher.bench_local(|| resampler.process(&input));
}

#[divan::bench(args = [44_100, 48_000])]
fn make_resampler(rate: u32) -> Resampler {
    Resampler::new(rate, 22_050)
}

/// One second out of a 1.5 s file: opening, seeking, decoding, resampling.
#[divan::bench(args = ["steps-cbr.mp3", "steps.m4a", "steps.ogg", "steps.opus", "steps-5.1.opus", "steps.flac", "steps-alac.m4a", "steps.aiff"])]
fn decode(bencher: Bencher, name: &str) {
    let path = data(name);
    bencher.bench_local(|| excerpt(&path, 22_050, 22_050, 0.5, &Listening::default()).unwrap());
}

/// File to spectrogram, tiled to 599 frames.
#[divan::bench(args = ["steps-cbr.mp3", "steps.flac"])]
fn file_to_mel(bencher: Bencher, name: &str) {
    let path = data(name);
    let front_end = FrontEnd::default();
    bencher.bench_local(|| hear(&path, &front_end, 599, &Listening::default()).unwrap());
}
