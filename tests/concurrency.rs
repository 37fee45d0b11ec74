//! One writer and three readers, each a process of its own. The writer adds, replaces, removes and hands over; a reader
//! sees each commit whole or not at all, never an older one after a newer one, finds what was acknowledged within a
//! second, and recommends nothing that was removed.
//!
//! The oracle: the writer notes what each commit left, the readers note what they find, and in the end every finding must
//! be, to the last track, what some one commit left. `DEBUT_TEST_SECONDS` says how long, 10 otherwise.
#![cfg(unix)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::verbs::{factors, number_from_environment};
use debut::ids::{TrackId, UserId};
use debut::index::{Filter, Index, IndexConfig};
use debut::recommend::{Query, RecommendConfig, Recommender};
use debut::store::{Change, Listener, Met, Source, SpaceRow, Store, Track, TrackInfo};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// All tracks of an album change together.
const ALBUMS: usize = 40;
const TRACKS: usize = 5;
const LISTENERS: usize = 20;
const READERS: usize = 3;
const ROLE: &str = "DEBUT_TEST_ROLE";
const FOLDER: &str = "DEBUT_TEST_FOLDER";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// What a stamp looks like: a direction, by its angle with the first axis. Stamps that follow one another lie far apart.
fn angle(stamp: u32) -> f32 {
    (stamp.wrapping_mul(2_654_435_761) >> 12) as f32 / (1u32 << 20) as f32 * 1.5
}

fn vector(stamp: u32, axis: usize) -> Vec<f32> {
    let mut vector = vec![0.0; 40];
    (vector[0], vector[1 + axis]) = (angle(stamp).cos(), angle(stamp).sin());
    vector
}

fn id(album: usize, track: usize) -> TrackId {
    TrackId::new(format!("{album}/{track}")).unwrap()
}

/// The stamp is in the vector, in its length and in the words: of three commits, say, if they were torn.
fn track(album: usize, number: usize, stamp: u32, source: Source) -> Change {
    Change::Upsert(Box::new(Track {
        id: id(album, number),
        path: None,
        content: None,
        info: TrackInfo {
            title: Some(stamp.to_string()),
            artist: Some(format!("artist {album}")),
            ..TrackInfo::default()
        },
        seconds: None,
        tiled: false,
        model: None,
        windows: None,
        predicted: None,
        length: None,
        confidence: None,
        vector: vector(stamp, number),
        norm: stamp as f32,
        source,
        plays: stamp % 100,
    }))
}

/// One transaction replaces all listeners: all have the direction of one stamp.
fn listeners(stamp: u32) -> Vec<Listener> {
    let met = Met { track: id(0, 0), confidence: 2.0, preference: 1.0 };
    let listener = |i| UserId::new(format!("listener-{i}")).unwrap();
    (0..LISTENERS).map(|i| Listener { id: listener(i), vector: vector(stamp, 0), history: vec![met.clone()] }).collect()
}

/// Notes of a process, a line each: `C seq time key=stamp …` (0: removed) of a commit; `S seq time digest` of what an index
/// holds; `R from to id …` of what was recommended between two times.
struct Notes(File);

impl Notes {
    fn line(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn write(folder: &Path, notes: &mut Notes, until: Instant) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut store = Store::open(folder).unwrap();
    let space = factors("space-golden").space();
    let description = serde_json::to_string(&space).unwrap();
    store.set_space(&SpaceRow { id: space.id, dimensions: 40, description }).unwrap();
    let config = IndexConfig { lists_above: 20, rebuild_share: 0.5, graph: true, ..IndexConfig::default() };
    let mut keys: BTreeMap<TrackId, u64> = BTreeMap::new();
    let (mut stamp, mut published) = (0, Instant::now());
    while Instant::now() < until {
        stamp += 1;
        let first = stamp == 1;
        let mut changes = Vec::new();
        let mut what = BTreeMap::new();
        let albums: BTreeSet<usize> = match first {
            true => (0..ALBUMS).collect(),
            false => (0..rng.random_range(1..4)).map(|_| rng.random_range(0..ALBUMS)).collect(),
        };
        for &album in &albums {
            // The first album is what the listeners met: it stays.
            let removes = !first && album > 0 && keys.contains_key(&id(album, 0)) && rng.random_range(0..3) == 0;
            let source = if rng.random() { Source::Predicted } else { Source::HandedOver };
            for number in 0..TRACKS {
                match removes {
                    true => changes.push(Change::Remove(id(album, number))),
                    false => changes.push(track(album, number, stamp, source)),
                }
                what.insert(id(album, number), if removes { 0 } else { stamp });
            }
        }
        store.commit(&changes).unwrap();
        let time = now();
        let mut line = format!("C {} {time}", store.seq().unwrap());
        for (id, stamp) in what {
            let key = match stamp {
                0 => keys.remove(&id).unwrap(),
                _ => *keys.entry(id.clone()).or_insert_with(|| store.key(&id).unwrap().unwrap()),
            };
            write!(line, " {id}={key}={stamp}").unwrap();
        }
        notes.line(&line);
        if first || rng.random_range(0..10) == 0 {
            store.set_listeners(&listeners(stamp)).unwrap();
        }
        if published.elapsed() > Duration::from_secs(1) {
            // What ends an ingestion.
            store.checkpoint().unwrap();
            let mut index = Index::open(&store, &config).unwrap();
            index.build(&store, &|_| ()).unwrap();
            published = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..20)));
    }
}

/// What the index holds, as a digest of every key and stamp; the vectors must be those of the stamps.
fn state(index: &Index) -> String {
    let mut axis = vec![0.0; 40];
    axis[0] = 1.0;
    let hits = index.search_exact(&axis, 100_000, &Filter::default()).unwrap();
    assert_eq!(hits.len(), index.len());
    let mut all: Vec<(u64, u32)> = Vec::new();
    for hit in hits {
        let stamp = index.standing(hit.key).unwrap().norm as u32;
        assert!((hit.score - angle(stamp).cos()).abs() < 1e-5, "torn: stamp {stamp}, score {}", hit.score);
        all.push((hit.key, stamp));
    }
    all.sort_unstable();
    digest(&all)
}

fn digest(all: &[(u64, u32)]) -> String {
    blake3::hash(format!("{all:?}").as_bytes()).to_hex()[..16].to_string()
}

fn read(number: usize, folder: &Path, notes: &mut Notes, until: Instant) {
    let index = match number {
        0 => IndexConfig::default(),
        // Learns its lists anew again and again, in the background.
        1 => IndexConfig { lists_above: 20, rebuild_share: 0.3, ..IndexConfig::default() },
        // Opens what the writer published.
        _ => IndexConfig { lists_above: 20, graph: true, ..IndexConfig::default() },
    };
    let config = RecommendConfig::default();
    // The writer has not begun, or has no listeners yet.
    let open = || Recommender::open(folder, &index, &config).ok();
    let wait = || std::thread::sleep(Duration::from_millis(5));
    let mut reader = loop {
        match open() {
            Some(reader) if !reader.is_empty() && reader.store().listeners_version().unwrap() > 0 => break reader,
            _ => wait(),
        }
    };
    reader.refresh().unwrap();
    let (mut seq, mut refreshes) = (0, 0);
    while Instant::now() < until {
        let from = now();
        if number == 2 && refreshes % 20 == 19 {
            reader = Recommender::open(folder, &index, &config).unwrap();
        }
        reader.refresh().unwrap();
        refreshes += 1;
        let seen = reader.index().seq();
        assert!(seen >= seq, "seq went from {seq} back to {seen}");
        if seen > seq {
            let found = state(reader.index());
            notes.line(&format!("S {seen} {} {found}", now()));
            seq = seen;
        }
        let user = UserId::new(format!("listener-{}", refreshes % LISTENERS)).unwrap();
        let asked = [Query::User(user), Query::Track(id(0, refreshes % TRACKS))];
        for query in asked {
            let told = reader.recommend(&query, 20, &Filter::default()).unwrap();
            assert_eq!(told.iter().map(|r| &r.track).collect::<BTreeSet<_>>().len(), told.len(), "twice in a list");
            let ids: Vec<&str> = told.iter().map(|r| r.track.as_str()).collect();
            notes.line(&format!("R {from} {} {}", now(), ids.join(" ")));
        }
        // Listeners are replaced all at once.
        let audience = reader.audience(&vector(0, 0), LISTENERS + 1).unwrap();
        assert_eq!(audience.len(), LISTENERS);
        assert!(audience.iter().all(|one| one.score == audience[0].score), "torn listeners: {audience:?}");
        // The store's own snapshot: an album has one stamp in all its tracks, or is not there.
        if refreshes % 50 == 0 {
            let mut albums: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let collect = &mut |_, track: Track| {
                let album = track.id.as_str().split('/').next().unwrap().to_string();
                let stamp = track.info.title.unwrap();
                assert_eq!(track.norm.to_string(), stamp);
                albums.entry(album).or_default().push(stamp);
                Ok(())
            };
            reader.store().for_each_track(collect).unwrap();
            for (album, stamps) in albums {
                assert!(stamps.len() == TRACKS && stamps.iter().all(|s| *s == stamps[0]), "album {album}: {stamps:?}");
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("reader {number}: {refreshes} refreshes");
}

/// The other processes; no test of its own.
#[test]
fn a_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let mut notes = Notes(File::create(folder.join(format!("notes-{role}"))).unwrap());
    let until = Instant::now() + seconds();
    match role.as_str() {
        "writer" => write(&folder.join("catalogue"), &mut notes, until),
        reader => read(reader.parse().unwrap(), &folder.join("catalogue"), &mut notes, until),
    }
}

fn seconds() -> Duration {
    Duration::from_secs(number_from_environment("DEBUT_TEST_SECONDS", 10) as u64)
}

/// A commit, as the writer noted it.
struct Commit {
    time: u64,
    state: String,
}

#[test]
fn readers_see_every_commit_whole_and_soon() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let start = |role: String| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process", "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let roles = ["writer".to_string()].into_iter().chain((0..READERS).map(|i| i.to_string()));
    let children: Vec<_> = roles.map(|role| (role.clone(), start(role))).collect();
    for (role, child) in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{role}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(Store::read(&dir.path().join("catalogue")).unwrap().check().unwrap().is_empty());

    let notes = |role: &str| fs::read_to_string(dir.path().join(format!("notes-{role}"))).unwrap();
    // What each commit left; and when each track was gone: from its acknowledged removal until what may have brought it back.
    let mut commits: BTreeMap<i64, Commit> = BTreeMap::new();
    let mut now_there: BTreeMap<u64, u32> = BTreeMap::new();
    let mut gone: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    let mut before = 0;
    for line in notes("writer").lines() {
        let mut words = line.split(' ').skip(1);
        let seq = words.next().unwrap().parse().unwrap();
        let time: u64 = words.next().unwrap().parse().unwrap();
        for word in words {
            let parts: Vec<&str> = word.split('=').collect();
            let (key, stamp) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
            let times = gone.entry(parts[0].into()).or_default();
            if stamp == 0 {
                now_there.remove(&key).unwrap();
                times.push((time, u64::MAX));
            } else {
                now_there.insert(key, stamp);
                // It may be there from the acknowledgement before on.
                if let Some((_, until)) = times.last_mut() {
                    *until = before.min(*until);
                }
            }
        }
        before = time;
        let all: Vec<(u64, u32)> = now_there.iter().map(|(key, stamp)| (*key, *stamp)).collect();
        commits.insert(seq, Commit { time, state: digest(&all) });
    }

    println!("{} commits", commits.len());
    for number in 0..READERS {
        let mut seen: Vec<(i64, u64)> = Vec::new();
        let mut lists = 0;
        for line in notes(&number.to_string()).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if words[0] == "S" {
                let seq = words[1].parse().unwrap();
                let commit =
                    commits.get(&seq).unwrap_or_else(|| panic!("reader {number} saw seq {seq}: half a commit"));
                assert_eq!(words[3], commit.state, "reader {number} at seq {seq}");
                seen.push((seq, words[2].parse().unwrap()));
            } else {
                lists += 1;
                let (from, to): (u64, u64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
                for id in words[3..].iter().filter(|id| !id.is_empty()) {
                    let wrong = gone[*id].iter().find(|(removed, back)| *removed < from && to < *back);
                    assert!(wrong.is_none(), "reader {number}: {id} was removed at {wrong:?}, shown at {from} to {to}");
                }
            }
        }
        // How long after its acknowledgement each commit was in the index; what was acknowledged after the last look is not
        // counted.
        let mut waits: Vec<u64> = Vec::new();
        let (first, mut look) = (seen[0].0, 0);
        for (seq, commit) in commits.range(first..) {
            while look < seen.len() && seen[look].0 < *seq {
                look += 1;
            }
            if let Some((_, time)) = seen.get(look) {
                waits.push(time.saturating_sub(commit.time));
            }
        }
        waits.sort_unstable();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize] as f64 * 1e-6;
        println!(
            "reader {number}: {} states, {lists} lists; findable after p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms",
            seen.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        assert!(seen.len() > 20 && waits.len() > 20, "reader {number} saw little");
        assert!(at(0.99) < 1000.0, "reader {number}: {} ms", at(0.99));
    }
}
