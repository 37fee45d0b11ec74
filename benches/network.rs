//! The network of the preset on made-up spectrograms: songs embedded per second.
//!
//! `cargo bench --profile release --bench network`

use std::collections::BTreeMap;

use debut::artefact::SpaceId;
use debut::audio::FrontEnd;
use debut::encoder::{EncoderConfig, Model, ModelConfig, Weights};
use divan::counter::ItemsCount;
use ndarray::Array3;

fn main() {
    divan::main();
}

/// Numbers as log-mel bands have them: 0 to 9, without a pattern.
fn level(place: usize) -> f32 {
    ((place as u32).wrapping_mul(2_654_435_761) >> 16) as f32 * (9.0 / 65_536.0)
}

#[divan::bench(args = [1, 32])]
fn embed(bencher: divan::Bencher, songs: usize) {
    let encoder = EncoderConfig::default();
    let config = ModelConfig {
        name: "bench".into(),
        space: SpaceId::named("space-bench"),
        typical_norm: 1.0,
        weights: String::new(),
        encoder: encoder.clone(),
        front_end: FrontEnd::default(),
        training: BTreeMap::new(),
        scores: BTreeMap::new(),
    };
    let model = Model::new(config, &Weights::random(&encoder, 1)).unwrap();
    let mels = Array3::from_shape_fn((songs, 599, 128), |(n, t, m)| level((n * 599 + t) * 128 + m));
    bencher.counter(ItemsCount::new(songs)).bench(|| model.embed(mels.view()).unwrap());
}
