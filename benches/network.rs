//! The network of the preset on made-up spectrograms: songs embedded per second, tracks trained on per second.
//!
//! `cargo bench --profile release --bench network`

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use debut::Result;
use debut::artefact::SpaceId;
use debut::audio::FrontEnd;
use debut::encoder::{EncoderConfig, Model, ModelConfig, Spectrograms, TrainConfig, Weights, train};
use divan::counter::ItemsCount;
use ndarray::{Array2, Array3};

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

struct MadeUp(usize);

impl Spectrograms for MadeUp {
    fn len(&self) -> usize {
        self.0
    }
    fn windows(&self) -> usize {
        1
    }
    fn frames(&self) -> usize {
        645
    }
    fn mel_bands(&self) -> usize {
        128
    }
    fn load(&self, track: usize, _: usize) -> Result<Array2<f32>> {
        Ok(Array2::from_shape_fn((645, 128), |(t, m)| level((track * 645 + t) * 128 + m)))
    }
}

/// One epoch of four steps, and what belongs to it once: standardisation, one validation track, checkpoints.
#[divan::bench(args = [32, 64, 128], sample_count = 5)]
fn four_training_steps(bencher: divan::Bencher, batch_size: usize) {
    let tracks = 4 * batch_size;
    let targets = Array2::from_shape_fn((tracks + 1, 40), |(t, d)| level(t * 40 + d) - 4.5);
    let (training, validation): (Vec<usize>, [usize; 1]) = ((0..tracks).collect(), [tracks]);
    let config = TrainConfig { epochs: 1, batch_size, ..TrainConfig::default() };
    bencher.counter(ItemsCount::new(tracks)).with_inputs(|| tempfile::tempdir().unwrap()).bench_values(|out| {
        train(
            &config,
            &EncoderConfig::default(),
            &MadeUp(tracks + 1),
            targets.view(),
            &vec![1.0; tracks + 1],
            &training,
            &validation,
            out.path(),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap()
    });
}
