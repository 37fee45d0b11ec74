//! The network of the preset on made-up spectrograms: songs embedded, or trained on, per second.
//!
//! `cargo bench --profile release --bench network`, or with `-- --json` and any of `--batch B`, `--threads T`,
//! `--songs N` one line of figures for the comparison with its peers (`peers/network.py`):
//!
//! ```text
//! {"engine":"debut","batch":32,"threads":2,"songs_per_cpu_second":278.1,"songs_per_second":531.0}
//! ```
//!
//! `-- --train`, with the same settings, is that for training (`peers/train.py`): whole epochs of [`train`], with loader,
//! dropout, clipping, optimiser, running average and the validation of one song an epoch. `peak_mb` is the
//! process's before its last checkpoint, which takes 300 MB of its own. `--device wgpu` (built with that feature)
//! trains there, `--device cuda --bf16` in mixed precision, with as many threads for batches as there are.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use debut::artefact::SpaceId;
use debut::audio::FrontEnd;
use debut::encoder::dataset::copy_crop;
use debut::encoder::recipe::Precision;
use debut::encoder::{
    Device, EncoderConfig, Lesson, Model, ModelConfig, Moment, Objective, Spectrograms, TrainConfig, Weights, train,
};
use divan::counter::ItemsCount;
use ndarray::{Array2, Array3, ArrayViewMut2, Axis};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |name| arguments.iter().any(|a| a == name);
    if asked("--train") {
        training(&arguments);
    } else if asked("--json") {
        json(&arguments);
    } else {
        divan::main();
    }
}

/// Numbers as log-mel bands have them: 0 to 9, without a pattern.
fn level(place: usize) -> f32 {
    ((place as u32).wrapping_mul(2_654_435_761) >> 16) as f32 * (9.0 / 65_536.0)
}

fn model() -> Model {
    let encoder = EncoderConfig::default();
    let config = ModelConfig {
        name: "bench".into(),
        space: SpaceId::named("space-bench"),
        typical_norm: 1.0,
        weights: String::new(),
        space_json: String::new(),
        encoder: encoder.clone(),
        front_end: FrontEnd::default(),
        artist: None,
        confidence: Vec::new(),
        held_out: String::new(),
        training: BTreeMap::new(),
        scores: BTreeMap::new(),
    };
    Model::new(config, &Weights::random(&encoder, 1)).unwrap()
}

/// `[songs, 599, 128]`
fn spectrograms(songs: usize) -> Array3<f32> {
    Array3::from_shape_fn((songs, 599, 128), |(n, t, m)| level((n * 599 + t) * 128 + m))
}

#[divan::bench(args = [1, 32])]
fn embed(bencher: divan::Bencher, songs: usize) {
    let model = model();
    let mels = spectrograms(songs);
    bencher.counter(ItemsCount::new(songs)).bench(|| model.embed(mels.view()).unwrap());
}

/// What follows an argument.
fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().skip_while(|&a| a != name).nth(1).map(String::as_str)
}

/// Batch size, threads and songs; the threads are started.
fn settings(arguments: &[String]) -> (usize, usize, usize) {
    let number = |name: &str, default: usize| value(arguments, name).map_or(default, |n| n.parse().expect("a number"));
    let threads = number("--threads", 1);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    (number("--batch", 32), threads, number("--songs", 512))
}

fn json(arguments: &[String]) {
    let (batch, threads, songs) = settings(arguments);
    let model = model();
    let mels = spectrograms(batch);
    let calls = songs.div_ceil(batch);
    model.embed(mels.view()).unwrap();
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    for _ in 0..calls {
        model.embed(mels.view()).unwrap();
    }
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let done = (calls * batch) as f64;
    let line = serde_json::json!({
        "engine": "debut", "batch": batch, "threads": threads,
        "songs_per_cpu_second": done / cpu, "songs_per_second": done / wall,
    });
    println!("{line}");
}

/// A few windows of a cache, each of them many tracks'.
struct Windows(Array3<f32>);

impl Spectrograms for Windows {
    fn len(&self) -> usize {
        1 << 16
    }
    fn windows(&self) -> usize {
        1
    }
    fn frames(&self) -> usize {
        self.0.dim().1
    }
    fn mel_bands(&self) -> usize {
        self.0.dim().2
    }
    fn id(&self) -> String {
        "made up".into()
    }
    fn name(&self, track: usize) -> String {
        track.to_string()
    }
    fn load(&self, track: usize, _: usize, first: usize, crop: ArrayViewMut2<f32>) -> debut::Result<()> {
        copy_crop(self.0.index_axis(Axis(0), track % self.0.dim().0), first, crop)
    }
}

/// Epochs of a few batches; the first one is not counted.
fn training(arguments: &[String]) {
    let (batch, threads, songs) = settings(arguments);
    let windows = Windows(Array3::from_shape_fn((16, 646, 128), |(n, t, m)| level((n * 646 + t) * 128 + m)));
    let tracks = windows.len();
    let targets = Array2::from_shape_fn((tracks, 40), |(n, d)| level(n * 40 + d) - 4.5);
    // One thread makes batches, beside those that train: PyTorch is given its batches ready made.
    let device: Device = value(arguments, "--device").map_or(Device::Cpu, |name| name.parse().unwrap());
    let precision = if arguments.iter().any(|a| a == "--bf16") { Precision::Bf16 } else { Precision::F32 };
    let workers = if device == Device::Cpu { 1 } else { 0 };
    // What an epoch ends with is longer than many of a GPU's steps.
    let batches = if device == Device::Cpu { 4 } else { 100.min((tracks - 1) / batch) };
    let epoch: Vec<usize> = (1..=batches * batch).collect();
    let epochs = 1 + songs.div_ceil(epoch.len());
    let config = TrainConfig { epochs, batch_size: batch, workers, precision, ..TrainConfig::default() };
    let folder = tempfile::tempdir().unwrap();
    let (mut start, mut end, mut peak) = (None, None, 0.0);
    let encoder = EncoderConfig::default();
    let weights = vec![1.0; tracks];
    let lesson = Lesson {
        spectrograms: &windows,
        objective: Objective::Targets { targets: targets.view(), weights: &weights },
        train: &epoch,
        valid: &[0],
        start: None,
    };
    train(&config, &encoder, &lesson, device, folder.path(), &mut |moment| {
        if matches!(moment, Moment::Epoch(_)) {
            end = Some((cpu_seconds(), Instant::now()));
            peak = peak_mb();
            start = start.or(end);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let ((cpu, wall), (cpu_end, wall_end)) = start.zip(end).expect("two epochs at least");
    let done = ((epochs - 1) * epoch.len()) as f64;
    let line = serde_json::json!({
        "engine": "debut", "batch": batch, "threads": threads,
        "samples_per_cpu_second": done / (cpu_end - cpu),
        "samples_per_second": done / (wall_end - wall).as_secs_f64(),
        "updates_per_second": done / batch as f64 / (wall_end - wall).as_secs_f64(),
        "peak_mb": peak,
    });
    println!("{line}");
}

/// The most memory that this process has had, in MB. Linux only.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux's account of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line on the peak");
    line.trim_end_matches("kB").trim().parse::<f64>().expect("a number") * 1024.0 / 1e6
}

/// CPU time of this process, threads that have ended included, in seconds. Linux only; it counts in hundredths.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux's account of a process");
    // Behind the name, which may hold anything: user and system time are the 12th and 13th field.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields[i].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
