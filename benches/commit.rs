//! Group commit: what it costs to have a track on the disk, alone and in company.
//!
//! One writer commits synced groups of 1 to 1000 new tracks (and, beside each, the record of its file, as ingestion does),
//! while nobody and while one reader follows the change feed. Prints tracks a second, and what a commit takes, p50 and p99.
//! Folder: the first argument, else a temporary one; a memory disk syncs for nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use debut::artefact::SpaceId;
use debut::ids::TrackId;
use debut::store::{Change, FileOutcome, FileRecord, FileStamp, Source, SpaceRow, Store, Track, TrackInfo};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const D: usize = 40;
const SECONDS: u64 = 5;

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    println!("| tracks a commit | readers | tracks a second | commit p50 / p99, ms |\n|---|---|---|---|");
    for (group, reader) in [1, 10, 32, 100, 1000].into_iter().flat_map(|group| [(group, false), (group, true)]) {
        let dir = match &folder {
            Some(folder) => tempfile::tempdir_in(folder),
            None => tempfile::tempdir(),
        };
        let dir = dir.expect("a folder");
        let (rate, mut times) = run(dir.path(), group, reader);
        times.sort_unstable();
        let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
        println!("| {group} | {} | {rate:.0} | {:.2} / {:.2} |", u8::from(reader), at(0.5), at(0.99));
    }
}

fn run(folder: &Path, group: usize, with_reader: bool) -> (f64, Vec<Duration>) {
    let mut store = Store::open(folder).expect("a catalogue");
    let space = SpaceRow { id: SpaceId::named("bench"), dimensions: D, description: "{}".into() };
    store.set_space(&space).expect("a space");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if with_reader {
            scope.spawn(|| {
                let reader = Store::read(folder).expect("a reader");
                let mut seq = 0;
                while !over.load(Ordering::Relaxed) {
                    seq = reader.changes_since(seq, &mut |_| ()).expect("changes");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (started, mut times, mut n) = (Instant::now(), Vec::new(), 0);
        while started.elapsed() < Duration::from_secs(SECONDS) {
            let changes: Vec<Change> = (n..n + group).flat_map(|i| upload(&mut rng, i)).collect();
            let began = Instant::now();
            store.commit(&changes).expect("a commit");
            times.push(began.elapsed());
            n += group;
        }
        let spent: Duration = times.iter().sum();
        over.store(true, Ordering::Relaxed);
        (n as f64 / spent.as_secs_f64(), times)
    })
}

fn upload(rng: &mut ChaCha8Rng, i: usize) -> [Change; 2] {
    let v: Vec<f32> = (0..D).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let vector: Vec<f32> = v.iter().map(|x| x / length).collect();
    let content = format!("{i:032x}");
    let id = TrackId::new(content.clone()).expect("an id");
    let path = PathBuf::from(format!("/music/artist {}/song {i}.mp3", i % 1000));
    let track = Track {
        id: id.clone(),
        path: Some(path.clone()),
        content: Some(content.clone()),
        info: TrackInfo {
            title: Some(format!("Song {i}")),
            artist: Some(format!("Artist {}", i % 1000)),
            ..TrackInfo::default()
        },
        seconds: Some(200.0),
        tiled: false,
        model: Some("bench@0123456789abcdef".into()),
        windows: Some(1),
        predicted: Some(vector.clone()),
        length: None,
        confidence: None,
        vector,
        norm: 1.0,
        source: Source::Predicted,
        plays: 0,
    };
    let stamp = FileStamp { path, size: 5_000_000, modified: 1_700_000_000_000_000_000 };
    let file = FileRecord { stamp, content: Some(content), outcome: FileOutcome::Track(id), decoder: 1 };
    [Change::File(file), Change::Upsert(Box::new(track))]
}
