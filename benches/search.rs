//! Search: the exact scan and the usearch graph, at 10,000 and 100,000 songs of 40 numbers.

use debut::artefact::SpaceId;
use debut::ids::TrackId;
use debut::index::{Filter, Index, IndexConfig};
use debut::store::{Change, Source, SpaceRow, Store, Track, TrackInfo};
use divan::Bencher;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const D: usize = 40;

fn main() {
    divan::main();
}

/// Songs cluster: one of 200 styles, and a part of their own.
fn song(rng: &mut impl Rng) -> Vec<f32> {
    let mut style = ChaCha8Rng::seed_from_u64(rng.random_range(0..200));
    let v: Vec<f32> = (0..D).map(|_| style.random_range(-1.0..1.0f32) + rng.random_range(-0.7..0.7f32)).collect();
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.iter().map(|x| x / length).collect()
}

fn index(songs: usize, graph: bool) -> (tempfile::TempDir, Index) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut store = Store::open(dir.path()).expect("a catalogue");
    store
        .set_space(&SpaceRow { id: SpaceId::named("bench"), dimensions: D, description: "{}".into() })
        .expect("a space");
    for start in (0..songs).step_by(10_000) {
        let tracks: Vec<Change> = (start..(start + 10_000).min(songs))
            .map(|i| {
                Change::Upsert(Box::new(Track {
                    id: TrackId::new(format!("song-{i}")).expect("an id"),
                    path: None,
                    content: None,
                    info: TrackInfo::default(),
                    seconds: None,
                    tiled: false,
                    model: None,
                    windows: None,
                    predicted: None,
                    length: None,
                    confidence: None,
                    vector: song(&mut rng),
                    norm: 1.0,
                    source: Source::Learned,
                    plays: 1,
                }))
            })
            .collect();
        store.commit(&tracks).expect("songs");
    }
    let mut index =
        Index::open(&store, &IndexConfig { lists_above: 1, graph, ..IndexConfig::default() }).expect("an index");
    if graph {
        index.build(&store, &|_| ()).expect("a graph");
    }
    (dir, index)
}

#[divan::bench(args = [10_000, 100_000])]
fn exact_top_10(bencher: Bencher, songs: usize) {
    let (_dir, index) = index(songs, false);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    bencher
        .with_inputs(|| song(&mut rng))
        .bench_local_values(|query| index.search(&query, 10, &Filter::default()).expect("hits"));
}

#[divan::bench(args = [10_000, 100_000])]
fn graph_top_10(bencher: Bencher, songs: usize) {
    let (_dir, index) = index(songs, true);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut found = 0;
    for _ in 0..200 {
        let query = song(&mut rng);
        let truth: Vec<u64> =
            index.search(&query, 10, &Filter::default()).expect("hits").iter().map(|h| h.key).collect();
        found += index
            .search_similar(&query, 10, &Filter::default())
            .expect("hits")
            .iter()
            .filter(|h| truth.contains(&h.key))
            .count();
    }
    eprintln!("recall@10 of the graph at {songs}: {:.3}", found as f64 / 2000.0);
    bencher
        .with_inputs(|| song(&mut rng))
        .bench_local_values(|query| index.search_similar(&query, 10, &Filter::default()).expect("hits"));
}
