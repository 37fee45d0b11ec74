//! Several actions, from a log to a recommendation: one factorisation for each kind of them, and playlists, which are
//! evidence and nobody's to serve.

use std::fs;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

mod common;
use common::{json, music, run};

const EVENTS: &str = "events.csv";

/// Two tastes: even listeners play some of the even songs of `songs`, at random, and odd ones odd songs, ten each, an hour
/// apart; every third they like, and put on a playlist, too.
fn write_log(folder: &Path, songs: usize) {
    let mut events = String::from("time,user,track,action,playlist\n");
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for user in 0..60 {
        let mut own: Vec<usize> = (0..songs / 2).map(|song| 2 * song + user % 2).collect();
        own.shuffle(&mut rng);
        for (i, song) in own[..10].iter().enumerate() {
            let time = 1_700_000_000 + i * 3600;
            events += &format!("{time},user-{user:02},song-{song:02},play,\n");
            if i % 3 == 0 {
                events += &format!("{time},user-{user:02},song-{song:02},like,\n");
                events += &format!("{time},user-{user:02},song-{song:02},add,mix {}\n", user % 6);
            }
        }
    }
    fs::write(folder.join(EVENTS), events).unwrap();
}

const PER_ACTION: [&str; 4] = ["--set", "per_action.play=1", "--set", "per_action.like=3"];

#[test]
fn factors_per_action_are_regressed_searched_and_handed_over_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 24);
    let mut manifest = String::from("path,id\n");
    for i in 0..24 {
        manifest += &format!("music/album {}/song {i:03}.wav,song-{i:02}\n", i / 10);
    }
    fs::write(dir.path().join("tracks.csv"), manifest).unwrap();
    write_log(dir.path(), 24);

    let factorize = ["factorize", EVENTS, "--out", "factors", "--set", "als.dimensions=4", "--json"];
    let report = &json(dir.path(), 0, &[&factorize[..], &PER_ACTION].concat())[0];
    assert_eq!((&report["dimensions"], &report["tracks"]), (&8.into(), &24.into()), "two parts of 4 dimensions");
    assert_eq!(report["loss"].as_array().unwrap().len(), 30, "of both parts");
    let left = fs::read_dir(dir.path().join("factors")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("checkpoint")), "none is left");

    // The encoder's output is as wide as the parts are together, and no narrower.
    let small =
        "[encoder]\nchannels = [8, 8, 8, 8]\ndense = [16, 16]\ndropout = 0.0\n[train]\nepochs = 2\nbatch_size = 8\n";
    fs::write(dir.path().join("small.toml"), small).unwrap();
    json(dir.path(), 0, &["prepare", "--audio", "tracks.csv", "--events", EVENTS, "--out", "data", "--json"]);
    let train = ["train", "--factors", "factors", "--data", "data", "--config", "small.toml", "--json"];
    let wide = ["--out", "runs/wide", "--set", "encoder.dimensions=8"];
    json(dir.path(), 0, &[&train[..], &wide].concat());
    let narrow = ["--out", "runs/narrow", "--set", "encoder.dimensions=4"];
    let (code, _, stderr) = run(dir.path(), &[&train[..], &narrow].concat());
    assert!(code == 2 && stderr.contains("do not fit together"), "{code} {stderr}");

    // From there on it is a space like any other. Of the playlists no listener comes.
    json(dir.path(), 0, &["ingest", "--model", "runs/wide", "--manifest", "tracks.csv", "--json"]);
    let report = &json(dir.path(), 0, &["handover", "--factors", "factors", "--events", EVENTS, "--json"])[0];
    assert_eq!((&report["listeners"], &report["handed_over"]), (&60.into(), &24.into()), "and no playlist");
    let audience = json(dir.path(), 0, &["recommend", "--track", "song-03", "--listeners", "60", "-k", "1", "--json"]);
    let listeners: Vec<&str> = audience.iter().filter_map(|line| line["listener"].as_str()).collect();
    assert!(listeners.len() == 60 && listeners.iter().all(|name| name.starts_with("user-")), "{listeners:?}");
    let is_odd = |name: &str| name[5..].parse::<u32>().unwrap() % 2 == 1;
    assert!(listeners[..30].iter().all(|name| is_odd(name)), "{listeners:?}");
    let (code, _, stderr) = run(dir.path(), &["recommend", "--user", "playlist:mix 1"]);
    assert!(code == 2 && stderr.contains("no such listener"), "{stderr}");
    for line in json(dir.path(), 0, &["recommend", "--user", "user-04", "-k", "2", "--json"]) {
        assert!(!is_odd(line["track"].as_str().unwrap()), "user-04 is even: {line}");
        assert!(!line["because"].as_array().unwrap().is_empty());
    }

    let warm = ["factorize", EVENTS, "--out", "again", "--warm", "factors"];
    let (code, _, stderr) = run(dir.path(), &[&warm[..], &PER_ACTION].concat());
    assert!(code == 2 && stderr.contains("--warm") && stderr.contains("[per_action]"), "{stderr}");
}

#[test]
fn an_interrupted_factorisation_per_action_keeps_the_parts_that_were_done() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), 24);
    let factorize = |out: &str| {
        run(dir.path(), &[&["factorize", EVENTS, "--out", out, "--set", "als.dimensions=4"], &PER_ACTION[..]].concat())
    };
    // The folder of the second part's checkpoint cannot be made: an interruption whose moment is known.
    fs::create_dir(dir.path().join("f")).unwrap();
    fs::write(dir.path().join("f/checkpoint-like"), "in the way").unwrap();
    let (code, _, stderr) = factorize("f");
    assert!(code == 2 && stderr.contains("checkpoint-like"), "{stderr}");
    assert!(!dir.path().join("f/factors.toml").exists());
    fs::remove_file(dir.path().join("f/checkpoint-like")).unwrap();
    let (code, _, stderr) = factorize("f");
    assert!(code == 0 && stderr.contains("going on after iteration 15"), "{stderr}");
    assert_eq!(factorize("whole").0, 0);
    for file in ["users.npy", "tracks.npy", "factors.toml"] {
        let bytes = |folder: &str| fs::read(dir.path().join(folder).join(file)).unwrap();
        assert!(bytes("f") == bytes("whole"), "{file}");
    }
}

#[test]
fn parts_without_events_and_weights_that_make_no_sense_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(EVENTS), "time,user,track,action\n0,a,x,play\n0,a,y,play\n0,b,y,play\n").unwrap();
    let factorize = |setting: &str| {
        let all = ["factorize", EVENTS, "--out", "f", "--set", "per_action.play=1", "--set", setting];
        let (code, _, stderr) = run(dir.path(), &all);
        assert!(code == 2 && !dir.path().join("f").exists(), "{stderr}");
        stderr
    };
    assert!(factorize("per_action.like=1").contains("(like, dislike)"));
    assert!(factorize("per_action.like=-1").contains("per_action.like"));
    assert!(factorize("per_action.share=1").contains("share"));
    assert!(factorize("als.dimensions=5000").contains("als.dimensions"));
}

#[test]
fn ways_to_use_actions_are_compared_on_the_same_listeners_and_tracks() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), 60);
    let evaluate = |more: &[&str]| {
        let all = ["evaluate", "factors", "--events", EVENTS, "-k", "3,5", "--set", "als.dimensions=4", "--json"];
        json(dir.path(), 0, &[&all[..], more].concat())
    };
    let what_is_ranked =
        |line: &Value| ["users", "catalogue", "repeated", "cold"].map(|name| line[name].as_u64().unwrap());
    let merged = evaluate(&[]);
    let parts = evaluate(&[&PER_ACTION[..], &["--listeners", "scores.csv"]].concat());
    let methods: Vec<&str> = parts.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["popularity", "als", "als, folded in"]);
    let auc = |line: &Value| line["auc"]["mean"].as_f64().unwrap();
    for line in &parts {
        assert_eq!(what_is_ranked(line), what_is_ranked(&merged[0]));
    }
    assert!(auc(&parts[0]) < 0.55 && auc(&parts[1]) > 0.62 && auc(&parts[2]) > 0.7, "{parts:?}");
    // Neither do limits change whom and what is ranked: they bound what is learned from.
    for limit in ["window_days=0.1", "max_tracks_per_user=2", "min_users_per_track=15"] {
        let limited = evaluate(&["--set", &format!("confidence.{limit}")]);
        assert_eq!(what_is_ranked(&limited[1]), what_is_ranked(&merged[1]), "{limit}");
        assert!(limited[1] != merged[1], "{limit}");
        assert_eq!(limited[0]["at"], merged[0]["at"], "popularity is of all");
    }
    for split in ["random", "user-temporal"] {
        let lines = evaluate(&[&PER_ACTION[..], &["--split", split]].concat());
        assert!(auc(&lines[1]) > auc(&lines[0]) + 0.1, "{split}: {lines:?}");
    }

    // The means are those of the listeners.
    let mut rows = csv::Reader::from_path(dir.path().join("scores.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len() as u64, 3 * 2 * parts[0]["users"].as_u64().unwrap());
    for line in &parts {
        let of_method = rows.iter().filter(|row| row[0] == line["method"] && &row[2] == "5");
        let values: Vec<f64> = of_method.map(|row| row[4].parse().unwrap()).collect();
        let mean = line["at"][1]["ndcg"]["mean"].as_f64().unwrap();
        assert!((values.iter().sum::<f64>() / values.len() as f64 - mean).abs() < 1e-12);
    }
}
