//! A killed ingestion loses nothing that it acknowledged, and a rerun completes it.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{debut, json, music, run};
use debut::store::{Store, Track};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small commits, so that most of the run lies between the first and the last of them.
const BATCH: &str = "ingest.batch=4";

/// Every track by its id, all fields, vectors to the bit.
fn contents(catalogue: &Path) -> BTreeMap<String, Track> {
    let mut all = BTreeMap::new();
    let store = Store::read(catalogue).unwrap();
    store
        .for_each_track(&mut |_, track| {
            all.insert(track.id.to_string(), track);
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn twenty_kills_at_random_moments_end_in_the_catalogue_of_an_undisturbed_run() {
    let dir = tempfile::tempdir().unwrap();
    let songs = 60;
    let music = music(dir.path(), songs);
    std::fs::write(music.join("broken.ogg"), "OggS but not for long").unwrap();
    let started = Instant::now();
    json(dir.path(), 1, &["--catalogue", "undisturbed", "--set", BATCH, "ingest", "music", "--json"]);
    let undisturbed = started.elapsed();
    let expected = contents(&dir.path().join("undisturbed"));
    assert_eq!(expected.len(), songs);

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut kills, mut midway, mut round) = (0, 0, 0);
    while kills < 20 {
        let catalogue = format!("killed-{round}");
        round += 1;
        // One catalogue is killed again and again until a run of it gets through.
        for attempt in 0.. {
            let mut run = debut(dir.path())
                .args(["--catalogue", &catalogue, "--set", BATCH, "ingest", "music", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let out = BufReader::new(run.stdout.take().unwrap());
            let listen = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
            std::thread::sleep(Duration::from_secs_f64(rng.random_range(0.0..1.0) * undisturbed.as_secs_f64()));
            run.kill().unwrap();
            let ended = run.wait().unwrap();
            let acknowledged = listen.join().unwrap();
            if ended.code().is_some() {
                break;
            }
            kills += 1;
            // Killed before it made a catalogue, it acknowledged nothing.
            let folder = dir.path().join(&catalogue);
            let there =
                if folder.join("catalogue.sqlite").exists() { contents_or_empty(&folder) } else { BTreeMap::new() };
            let added: Vec<String> = acknowledged
                .iter()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .filter(|line| line["status"] == "added" || line["status"] == "skipped")
                .map(|line| line["track"].as_str().unwrap().to_string())
                .collect();
            midway += usize::from(!there.is_empty() && there.len() < songs);
            for track in &added {
                assert_eq!(there.get(track), expected.get(track), "acknowledged, then lost: {track}");
            }
            if attempt == 4 {
                break;
            }
        }
        let (code, stdout, stderr) = run(dir.path(), &["--catalogue", &catalogue, "ingest", "music"]);
        assert_eq!(code, 1, "the broken file fails: {stdout} {stderr}");
        assert_eq!(contents(&dir.path().join(&catalogue)), expected);
        assert_eq!(json(dir.path(), 0, &["--catalogue", &catalogue, "check", "--json"])[0]["ok"], true);
        assert_eq!(json(dir.path(), 0, &["--catalogue", &catalogue, "failures", "--json"]).len(), 1);
    }
    assert!(midway > 0, "at least one of {kills} kills must hit the middle of the work");
}

/// A process that was killed while it made the tables leaves a database without them.
fn contents_or_empty(catalogue: &Path) -> BTreeMap<String, Track> {
    match Store::read(catalogue) {
        Ok(_) => contents(catalogue),
        Err(_) => BTreeMap::new(),
    }
}
