//! The index at scale, as `run.py` drives it: prints one JSON object a line.
//!
//! `index ingest FOLDER ITEMS NORMS D` fills a catalogue, `index build FOLDER` learns its lists and writes the image, and
//! `index ask FOLDER USERS SONGS D [--insert FILE]` opens it and times queries. `index filters FOLDER USERS D` and
//! `index open FOLDER` do only a part of that; `index churn FOLDER ITEMS USERS D` changes a small catalogue ten times over.
//! Vectors are raw little-endian f32, `[n][d]`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cpu_time::ThreadTime;
use debut::artefact::SpaceId;
use debut::ids::TrackId;
use debut::index::{Filter, Hit, Index, IndexConfig};
use debut::store::{Change, Source, SpaceRow, Store, Track, TrackInfo};
use serde_json::json;

/// Tracks per commit.
const BATCH: usize = 10_000;
const K: usize = 10;

fn main() {
    // `cargo bench` adds an argument of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["ingest", folder, items, norms, d] => ingest(Path::new(folder), items, norms, number(d)),
        ["filters", folder, users, d] => {
            let (users, (_, index)) = (read(users), open(Path::new(folder), 0.99));
            filters(&index, &users.chunks_exact(number(d)).collect::<Vec<_>>());
        }
        ["open", folder] => drop(open(Path::new(folder), 0.99)),
        ["build", folder] => build(Path::new(folder)),
        ["ask", folder, users, songs, d] => ask(Path::new(folder), users, songs, number(d), None),
        ["ask", folder, users, songs, d, "--insert", more] => {
            ask(Path::new(folder), users, songs, number(d), Some(more));
        }
        ["churn", folder, items, users, d] => churn(Path::new(folder), items, users, number(d)),
        // Run by hand it has nothing to measure.
        _ => eprintln!("driven by benches/index/run.py"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a file of vectors");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// CPU seconds of this process.
fn process_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    // User and system time, in hundredths of a second.
    (fields[11].parse::<f64>().expect("ticks") + fields[12].parse::<f64>().expect("ticks")) / 100.0
}

/// Bytes of memory: `VmRSS` now, `VmHWM` at most.
fn resident(which: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|l| l.starts_with(which)).expect("a line of status");
    line.split_whitespace().nth(1).expect("kB").parse::<f64>().expect("kB") * 1024.0
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Fifty years, eight languages, an artist for fifty tracks: what filters look at.
fn track(number: usize, vector: &[f32], norm: f32) -> Change {
    // Half of all in the first, a quarter in the second, and so on.
    const LANGUAGES: [&str; 8] = ["en", "es", "pt", "de", "fr", "ja", "ko", "hi"];
    let language = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).trailing_zeros().min(7) as usize;
    Change::Upsert(Box::new(Track {
        id: TrackId::new(format!("track-{number}")).expect("an id"),
        path: None,
        content: None,
        info: TrackInfo {
            artist: Some(format!("artist {}", number / 50)),
            year: Some(1975 + (number * 31 % 50) as i32),
            language: Some(LANGUAGES[language].into()),
            ..TrackInfo::default()
        },
        seconds: None,
        tiled: false,
        model: None,
        windows: None,
        predicted: None,
        length: None,
        confidence: None,
        vector: vector.to_vec(),
        norm,
        source: Source::Learned,
        plays: (norm * 1000.0) as u32,
    }))
}

fn ingest(folder: &Path, items: &str, norms: &str, d: usize) {
    let norms = read(norms);
    let mut items = BufReader::with_capacity(1 << 20, File::open(items).expect("items"));
    let mut store = Store::open(folder).expect("a catalogue");
    store
        .set_space(&SpaceRow { id: SpaceId::named("bench"), dimensions: d, description: "{}".into() })
        .expect("a space");
    let (started, before) = (Instant::now(), process_cpu());
    let mut bytes = vec![0; 4 * d];
    for first in (0..norms.len()).step_by(BATCH) {
        let batch: Vec<Change> = (first..(first + BATCH).min(norms.len()))
            .map(|i| {
                items.read_exact(&mut bytes).expect("a vector");
                let vector: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                track(i, &vector, norms[i])
            })
            .collect();
        store.commit(&batch).expect("a commit");
    }
    store.checkpoint().expect("a checkpoint");
    let n = norms.len() as f64;
    println!(
        "{}",
        json!({"what": "ingest", "tracks": norms.len(), "seconds": started.elapsed().as_secs_f64(),
            "cpu": process_cpu() - before, "disk_per_track": folder_bytes(folder) as f64 / n})
    );
}

/// Opens the catalogue and its index, and says what that took.
fn open(folder: &Path, recall: f32) -> (Store, Index) {
    let store = Store::open(folder).expect("a catalogue");
    let config = IndexConfig { lists_above: 1, recall, ..IndexConfig::default() };
    let (empty, started, before) = (resident("VmRSS"), Instant::now(), process_cpu());
    let index = Index::open(&store, &config).expect("an index");
    let (seconds, cpu, n) = (started.elapsed().as_secs_f64(), process_cpu() - before, index.len());
    println!(
        "{}",
        json!({"what": "open", "lists": index.has_lists(), "tracks": n, "seconds": seconds, "cpu": cpu,
            "resident_per_track": (resident("VmRSS") - empty) / n as f64, "peak_per_track": resident("VmHWM") / n as f64,
            "counted_per_track": index.bytes() as f64 / n as f64})
    );
    (store, index)
}

fn build(folder: &Path) {
    let (store, mut index) = open(folder, 0.99);
    let (started, before, n) = (Instant::now(), process_cpu(), index.len());
    index.build(&store, &|_| ()).expect("lists");
    println!(
        "{}",
        json!({"what": "build", "tracks": n, "seconds": started.elapsed().as_secs_f64(), "cpu": process_cpu() - before,
            "disk_per_track": folder_bytes(&folder.join("index")) as f64 / n as f64})
    );
}

fn ask(folder: &Path, users: &str, songs: &str, d: usize, more: Option<&str>) {
    let (users, songs) = (read(users), read(songs));
    let users: Vec<&[f32]> = users.chunks_exact(d).collect();
    let songs: Vec<&[f32]> = songs.chunks_exact(d).collect();

    let (store, mut index) = open(folder, 0.99);
    let n = index.len();

    let all = Filter::default();
    for (who, queries) in [("users", &users), ("songs", &songs)] {
        let (started, before) = (Instant::now(), process_cpu());
        let truth = index.search_many(queries, K, &all).expect("hits");
        let each = 1e6 / queries.len() as f64;
        println!(
            "{}",
            json!({"what": "query", "tracks": n, "who": who, "how": "exact, 8 together", "threads": 1,
                "p50": (process_cpu() - before) * each, "wall50": started.elapsed().as_secs_f64() * each, "recall": 1.0})
        );
        // A scan of all takes as long for each.
        let some = &queries[..queries.len().min(100)];
        let exact = timed(some, 1, &|q| index.search_exact(q, K, &all).expect("hits"));
        told(n, who, "exact", 1, exact, Some(1.0));
        for recall in [0.95, 0.99] {
            index.ask_for_recall(recall).expect("probes");
            let ask = |q: &[f32]| match who {
                "users" => index.search(q, K, &all).expect("hits"),
                _ => index.search_similar(q, K, &all).expect("hits"),
            };
            let found: usize = queries
                .iter()
                .zip(&truth)
                .map(|(q, truth)| ask(q).iter().filter(|hit| truth.contains(hit)).count())
                .sum();
            let measured = found as f64 / (K * queries.len()) as f64;
            for threads in [1, 2] {
                told(
                    n,
                    who,
                    &format!("lists, recall {recall}"),
                    threads,
                    timed(queries, threads, &ask),
                    Some(measured),
                );
            }
        }
    }

    filters(&index, &users);
    if let Some(more) = more {
        inserts(store, index, &users, &read(more), d);
    }
}

/// From all songs down to about one in a thousand.
fn filters(index: &Index, users: &[&[f32]]) {
    let n = index.len();
    let none = Filter::default;
    let of = |language: &str| vec![language.to_string()];
    for (name, filter) in [
        ("1 in 4 (a language)", Filter { languages: of("es"), ..none() }),
        ("1 in 10 (five years)", Filter { years: Some(1980..=1984), ..none() }),
        ("1 in 17 (three years)", Filter { years: Some(1980..=1982), ..none() }),
        ("1 in 50 (a year)", Filter { years: Some(1980..=1980), ..none() }),
        ("1 in 200 (both)", Filter { years: Some(1980..=1980), languages: of("es"), ..none() }),
        ("1 in 1600 (a rarer one)", Filter { years: Some(1980..=1980), languages: of("fr"), ..none() }),
        ("1000 tracks heard", Filter { without: (1..=1000).map(|i| (i * 977) % n as u64 + 1).collect(), ..none() }),
        ("1 per artist", Filter { per_artist: Some(1), ..none() }),
    ] {
        let some = &users[..users.len().min(100)];
        let (mut found, mut all) = (0, 0);
        for query in some {
            let truth = index.search_exact(query, K, &filter).expect("hits");
            found += index.search(query, K, &filter).expect("hits").iter().filter(|hit| truth.contains(hit)).count();
            all += truth.len();
        }
        let times = timed(some, 1, &|q| index.search(q, K, &filter).expect("hits"));
        told(n, "users", &format!("filter: {name}"), 1, times, Some(found as f64 / all.max(1) as f64));
    }
}

/// Readers ask while the writer commits a thousand new tracks at a time and the index takes them in.
fn inserts(mut store: Store, index: Index, users: &[&[f32]], new: &[f32], d: usize) {
    let (n, all) = (index.len(), Filter::default());
    let new: Vec<&[f32]> = new.chunks_exact(d).collect();
    let shared = RwLock::new(index);
    let half = new.len() / 2;
    for threads in [1, 2] {
        let stop = AtomicBool::new(false);
        let (times, per_second) = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads)
                .map(|t| {
                    let (shared, stop, all) = (&shared, &stop, &all);
                    scope.spawn(move || {
                        let mut times = Vec::new();
                        for query in users.iter().cycle().skip(t * 37) {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            times.push(time(&|| shared.read().expect("no panic").search(query, K, all).expect("hits")));
                        }
                        times
                    })
                })
                .collect();
            let first = (threads - 1) * half;
            let started = Instant::now();
            for (batch, vectors) in new[first..first + half].chunks(1000).enumerate() {
                let numbers = n + first + batch * 1000..;
                let changes: Vec<Change> = vectors.iter().zip(numbers).map(|(v, i)| track(i, v, 0.01)).collect();
                store.commit(&changes).expect("a commit");
                shared.write().expect("no panic").refresh(&store).expect("a refresh");
            }
            let per_second = half as f64 / started.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            (readers.into_iter().flat_map(|r| r.join().expect("no panic")).collect(), per_second)
        });
        told(n, "users", "lists, recall 0.99, while inserts run", threads, times, None);
        println!("{}", json!({"what": "insert", "tracks": n, "readers": threads, "per_second": per_second}));
    }
}

/// Ten times as many changes as there are tracks, nine in ten of them replacements, while their styles move away from those
/// that the cells were learned from; the cells are learned anew beside it, where that is due.
fn churn(folder: &Path, items: &str, users: &str, d: usize) {
    const TRACKS: usize = 50_000;
    const ROUNDS: usize = 50;
    let (items, users) = (read(items), read(users));
    let items: Vec<&[f32]> = items.chunks_exact(d).collect();
    let moved = |vector: &[f32], round: usize| -> Vec<f32> {
        // Towards one direction, up to a length of one: half of what a track is then.
        let drift = round as f32 / ROUNDS as f32;
        let vector: Vec<f32> =
            vector.iter().enumerate().map(|(j, x)| x + if j == d / 2 { drift } else { 0.0 }).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter().map(|x| x / length).collect()
    };
    let mut store = Store::open(folder).expect("a catalogue");
    let space = SpaceRow { id: SpaceId::named("bench"), dimensions: d, description: "{}".into() };
    store.set_space(&space).expect("a space");
    for first in (0..TRACKS).step_by(BATCH) {
        store.commit(&(first..first + BATCH).map(|i| track(i, items[i], 0.5)).collect::<Vec<_>>()).expect("a commit");
    }
    let config = IndexConfig { lists_above: 1, ..IndexConfig::default() };
    let mut index = Index::open(&store, &config).expect("an index");
    index.build(&store, &|_| ()).expect("lists");
    let (started, before) = (Instant::now(), process_cpu());
    let (mut next, mut lowest, mut all) = (TRACKS, [1.0f64; 2], [0.0; 2]);
    for round in 1..=ROUNDS {
        let batch: Vec<Change> = (0..BATCH)
            .map(|i| {
                next += 1;
                // A new track in ten; else one that is there, a prime's multiples apart.
                let number = if i % 10 == 0 { next } else { next * 7919 % TRACKS };
                track(number, &moved(items[next], round), 0.5)
            })
            .collect();
        for some in batch.chunks(1000) {
            store.commit(some).expect("a commit");
            index.refresh(&store).expect("a refresh");
            index.build_in_background();
        }
        let songs: Vec<Vec<f32>> = (0..250).map(|i| moved(items[items.len() - 1 - i], round)).collect();
        let songs: Vec<&[f32]> = songs.iter().map(Vec::as_slice).collect();
        let users: Vec<Vec<f32>> = users.chunks_exact(d).take(250).map(|user| moved(user, round)).collect();
        let users: Vec<&[f32]> = users.iter().map(Vec::as_slice).collect();
        for (which, queries) in [users, songs].into_iter().enumerate() {
            let truth = index.search_many(&queries, K, &Filter::default()).expect("hits");
            let found = queries.iter().zip(&truth).map(|(query, truth)| {
                let hits = match which {
                    0 => index.search(query, K, &Filter::default()),
                    _ => index.search_similar(query, K, &Filter::default()),
                };
                hits.expect("hits").iter().filter(|hit| truth.contains(hit)).count()
            });
            let recall = found.sum::<usize>() as f64 / (K * queries.len()) as f64;
            lowest[which] = lowest[which].min(recall);
            all[which] += recall / ROUNDS as f64;
        }
    }
    println!(
        "{}",
        json!({"what": "churn", "tracks": TRACKS, "changes": ROUNDS * BATCH, "now": index.len(), "users": all[0],
            "users_lowest": lowest[0], "songs": all[1], "songs_lowest": lowest[1], "seconds": started.elapsed().as_secs_f64(),
            "cpu": process_cpu() - before})
    );
}

/// Microseconds of the thread, and of the wall.
#[derive(Clone, Copy)]
struct Time {
    cpu: f64,
    wall: f64,
}

fn time(ask: &dyn Fn() -> Vec<Hit>) -> Time {
    let (wall, cpu) = (Instant::now(), ThreadTime::now());
    std::hint::black_box(ask());
    Time { cpu: cpu.elapsed().as_secs_f64() * 1e6, wall: wall.elapsed().as_secs_f64() * 1e6 }
}

/// Each query, on so many threads at once.
fn timed(queries: &[&[f32]], threads: usize, ask: &(dyn Fn(&[f32]) -> Vec<Hit> + Sync)) -> Vec<Time> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn(move || {
                    let mine = queries.iter().skip(t).step_by(threads);
                    mine.map(|query| time(&|| ask(query))).collect::<Vec<Time>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("no panic")).collect()
    })
}

fn told(n: usize, who: &str, how: &str, threads: usize, times: Vec<Time>, recall: Option<f64>) {
    let at = |of: &dyn Fn(&Time) -> f64, share: f64| {
        let mut sorted: Vec<f64> = times.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    };
    let (cpu, wall) = (|t: &Time| t.cpu, |t: &Time| t.wall);
    println!(
        "{}",
        json!({"what": "query", "tracks": n, "who": who, "how": how, "threads": threads, "recall": recall,
            "p50": at(&cpu, 0.5), "p99": at(&cpu, 0.99), "wall50": at(&wall, 0.5), "wall99": at(&wall, 0.99)})
    );
}
