//! The network of the preset on made-up spectrograms: songs embedded per second.
//!
//! `cargo bench --profile release --bench network`, or with `-- --json` and any of `--batch B`, `--threads T`,
//! `--songs N` one line of figures for the comparison with its peers (`peers/network.py`):
//!
//! ```text
//! {"engine":"debut","batch":32,"threads":2,"songs_per_cpu_second":278.1,"songs_per_second":531.0}
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use debut::artefact::SpaceId;
use debut::audio::FrontEnd;
use debut::encoder::{EncoderConfig, Model, ModelConfig, Weights};
use divan::counter::ItemsCount;
use ndarray::Array3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().any(|a| a == "--json") {
        true => json(&arguments),
        false => divan::main(),
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
        confidence: None,
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

fn json(arguments: &[String]) {
    let number = |name: &str, default: usize| {
        let place = arguments.iter().position(|a| a == name);
        place.map_or(default, |i| arguments[i + 1].parse().expect("a number"))
    };
    let (batch, threads, songs) = (number("--batch", 32), number("--threads", 1), number("--songs", 512));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
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

/// CPU time of all threads of this process, in seconds. Linux only; it counts in steps of 4 ms or less.
fn cpu_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux's list of threads");
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() * 1e-9
}
