//! `cargo bench --bench als`: events to factors, and the solves at query time. One thread unless a line says otherwise.

use std::ops::ControlFlow;

use debut::events::{
    Action, BadRows, ConfidenceConfig, Event, Interactions, interactions, read_events, write_events_parquet,
};
use debut::factors::{AlsConfig, Factors, FoldIn, Ridge, fit};
use debut::handover::{HandoverConfig, hand_over};
use debut::ids::{TrackId, UserId};
use debut::linalg::gram;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ndarray::{Array2, Axis};

fn main() {
    divan::main();
}

const EVENTS: u32 = 300_000;

/// Plays whose listeners and tracks both follow a long tail: about 20,000 listeners, 5,000 tracks, 12 tracks each.
fn events() -> impl Iterator<Item = Event> {
    let even = |i: u32, salt: u32| {
        let mut h = (i ^ salt).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        f64::from(h ^ (h >> 16)) / f64::from(u32::MAX)
    };
    (0..EVENTS).map(move |i| Event {
        time: 1_700_000_000 + i64::from(i),
        user: UserId::new(format!("user-{:05}", (20_000.0 * even(i, 1).powf(1.5)) as u32)).unwrap(),
        track: TrackId::new(format!("track-{:05}", (5_000.0 * even(i, 2).powi(3)) as u32)).unwrap(),
        action: if i % 5 == 0 { Action::Skip } else { Action::Play },
        value: 1.0,
    })
}

fn matrix() -> Interactions {
    interactions(events(), &ConfidenceConfig::default(), None).unwrap()
}

fn one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

/// One iteration and the last half-step; items are pairs of listener and track.
#[divan::bench(args = [40, 64, 128], sample_count = 5)]
fn fit_one_iteration(bencher: Bencher, dimensions: usize) {
    let data = matrix();
    let config = AlsConfig { dimensions, iterations: 1, ..AlsConfig::default() };
    let one = || fit(&data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
    bencher.counter(ItemsCount::new(data.by_user.len())).bench_local(|| one_thread(one));
}

#[divan::bench(args = ["csv", "parquet"], sample_count = 5)]
fn read(bencher: Bencher, extension: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("events.{extension}"));
    if extension == "csv" {
        let rows: String =
            events().map(|e| format!("{},{},{},{}\n", e.time, e.user, e.track, e.action.as_str())).collect();
        std::fs::write(&path, format!("time,user,track,action\n{rows}")).unwrap();
    } else {
        write_events_parquet(&path, events()).unwrap();
    }
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        read_events(&path, BadRows::Count, &mut |event| {
            black_box(event);
            Ok(())
        })
        .unwrap()
    });
}

#[divan::bench(sample_count = 5)]
fn events_to_matrix(bencher: Bencher) {
    let events: Vec<Event> = events().collect();
    let build = || interactions(events.iter().cloned(), &ConfidenceConfig::default(), None).unwrap();
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| one_thread(build));
}

fn factors(n: usize, d: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, d), |(i, j)| (((i * 37 + j * 61 + i * j) % 83) as f32 - 41.0) / 60.0)
}

/// A listener with so many tracks, at 40 dimensions.
#[divan::bench(args = [1, 10, 100, 1000])]
fn fold_in(bencher: Bencher, history: usize) {
    let vectors = factors(history, 40);
    let fold_in = FoldIn::new(factors(5000, 40).view(), Ridge::plain(3.0));
    let (confidence, preference) = (vec![41.0; history], vec![1.0; history]);
    bencher.bench_local(|| fold_in.solve(vectors.view(), &confidence, &preference).unwrap());
}

/// One candidate against 100 tracks of history.
#[divan::bench]
fn explain(bencher: Bencher) {
    let vectors = factors(100, 40);
    let fold_in = FoldIn::new(factors(5000, 40).view(), Ridge::plain(3.0));
    let candidate = vectors.index_axis(Axis(0), 7).to_vec();
    bencher.bench_local(|| fold_in.explain(vectors.view(), &[41.0; 100], &[1.0; 100], &candidate).unwrap());
}

/// A new track after so many plays.
#[divan::bench(args = [1, 50])]
fn handover(bencher: Bencher, plays: usize) {
    let listeners = factors(plays, 40);
    let gram = gram(factors(20_000, 40).view());
    let (confidence, preference, config) = (vec![41.0; plays], vec![1.0; plays], HandoverConfig::default());
    let predicted = [0.1; 40];
    let now = || hand_over(&predicted, gram.view(), 3.0, listeners.view(), &confidence, &preference, &config).unwrap();
    bencher.bench_local(now);
}

/// Written and read back, with its hashes.
#[divan::bench(sample_count = 5)]
fn save_and_load(bencher: Bencher) {
    let config = AlsConfig { iterations: 1, ..AlsConfig::default() };
    let factors = fit(&matrix(), &config, &mut |_| ControlFlow::Continue(())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    bencher.bench_local(|| {
        factors.save(dir.path()).unwrap();
        Factors::load(dir.path()).unwrap()
    });
}
