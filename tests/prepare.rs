//! A training set: what is heard, joined and split; and that every stage after it keeps to the split.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{debut, json, music, run};
use debut::eval::{Part, TrackSplit};

const SONGS: usize = 48;
const PREPARE: [&str; 9] =
    ["prepare", "--audio", "tracks.csv", "--events", "events.csv", "--out", "data", "--cache", "mels"];
const SMALL: [&str; 4] = ["--config", "small.toml", "--set", "als.dimensions=8"];

/// Songs of twelve artists, one a day; listeners of low songs and of high ones, who hear nothing before its day.
fn world(folder: &Path) {
    music(folder, SONGS);
    fs::write(folder.join("music/noise.mp3"), "<html>404</html>".repeat(100)).unwrap();
    let mut manifest = String::from("path,id,artist,album,released\n");
    for i in 0..SONGS {
        let released = format!("2024-{:02}-{:02}", 1 + i * 7 % 48 / 28, 1 + i * 7 % 48 % 28);
        manifest += &format!("music/album {}/song {i:03}.wav,song-{i:02},Artist {},,{released}\n", i / 10, i % 12);
    }
    manifest += "music/noise.mp3,noise,,,\nmusic/gone.mp3,gone,,,soon\n";
    fs::write(folder.join("tracks.csv"), manifest).unwrap();
    let mut events = String::from("time,user,track,action,value\n");
    for user in 0..80 {
        for i in (0..SONGS).filter(|i| i / 24 == user % 2 && (i * 5 + user) % 3 > 0) {
            let day = 19_726 + i * 7 % 48 + user % 3;
            events += &format!("{},user-{user},song-{i:02},play,1\n", day * 86_400 + user);
        }
        events += &format!("1709999999,user-{user},elsewhere,play,1\n");
    }
    fs::write(folder.join("events.csv"), events).unwrap();
    let small = "[encoder]\nchannels = [8, 8, 8, 8]\ndense = [16, 16]\ndimensions = 8\ndropout = 0.0\n[train]\nepochs = 2\nbatch_size = 8\n";
    fs::write(folder.join("small.toml"), small).unwrap();
}

/// The files of a data set, but for where it is.
fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = walkdir::WalkDir::new(data).into_iter().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path());
    files.map(|path| (path.strip_prefix(data).unwrap().display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_data_set_is_a_function_of_its_inputs_and_tells_what_it_covers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    world(folder);
    let report = json(folder, 1, &[&PREPARE[..], &["--json"]].concat()).remove(0);
    let n = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((n("given"), n("heard"), n("failed"), n("with_listeners")), (50, 48, 2, 48), "{report}");
    assert_eq!((n("without_audio"), n("released"), n("repeated")), (1, 48, 0));
    // The cut is a midnight, so it is exact.
    let cut = TrackSplit::load(&folder.join("data/splits/time.csv")).unwrap().cut.unwrap();
    let log = fs::read_to_string(folder.join("events.csv")).unwrap();
    let is_before = |line: &&str| line.split(',').next().unwrap().parse::<i64>().is_ok_and(|time| time < cut);
    let before = log.lines().filter(is_before).count();
    assert!(before > 100 && report["splits"]["time"]["plays_before_cut"].as_u64() == Some(before as u64), "{report}");
    assert!(report["splits"]["artist"]["plays_before_cut"].is_null());
    let first = files(&folder.join("data"));
    let names: Vec<_> = first.keys().map(String::as_str).collect();
    let splits = ["splits/artist.csv", "splits/time.csv", "splits/track.csv"];
    assert_eq!(names, [&["data.toml", "failed.csv", "report.json"], &splits[..], &["tracks.csv"]].concat());

    // Another order of the inputs, one thread, a cache that has it all: the same bytes.
    let manifest = fs::read_to_string(folder.join("tracks.csv")).unwrap();
    let (head, rows) = manifest.split_once('\n').unwrap();
    let reversed: Vec<&str> = rows.lines().rev().collect();
    fs::write(folder.join("tracks.csv"), format!("{head}\n{}\n", reversed.join("\n"))).unwrap();
    fs::remove_dir_all(folder.join("data")).unwrap();
    let again = debut(folder).args(PREPARE).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(files(&folder.join("data")), first);

    // What is in the shards is what the table names, and NumPy's array.
    let shards: Vec<_> =
        walkdir::WalkDir::new(folder.join("mels")).into_iter().map(|e| e.unwrap().into_path()).collect();
    let array = shards.iter().find(|path| path.extension().is_some_and(|e| e == "npy")).unwrap();
    let header = fs::read(array).unwrap()[..128].to_vec();
    assert!(
        String::from_utf8_lossy(&header)
            .contains("'descr': '<f2', 'fortran_order': False, 'shape': (1625, 1, 645, 128)")
    );

    // Remembered: not heard again, until its file is another, or one asks.
    let failed = || fs::read_to_string(folder.join("data/failed.csv")).unwrap();
    assert_eq!(failed().lines().count(), 3);
    fs::write(folder.join("data/failed.csv"), failed().replace("cannot be heard", "was not heard")).unwrap();
    run(folder, &PREPARE);
    assert!(failed().contains("was not heard") && failed().contains("gone.mp3"), "{}", failed());
    run(folder, &[&PREPARE[..], &["--retry"]].concat());
    assert!(failed().contains("cannot be heard"), "{}", failed());
    fs::copy(folder.join("music/album 0/song 000.wav"), folder.join("music/noise.mp3")).unwrap();
    fs::write(folder.join("music/gone.mp3"), fs::read(folder.join("music/album 0/song 001.wav")).unwrap()).unwrap();
    let report = json(folder, 0, &[&PREPARE[..], &["--json"]].concat()).remove(0);
    assert_eq!(
        (&report["heard"], &report["bad_dates"], &report["without_listeners"]),
        (&50.into(), &1.into(), &2.into())
    );

    // What was edited, or heard by others, is refused; so is a data set whose spectrograms are gone.
    json(folder, 0, &["factorize", "events.csv", "--out", "factors", "--set", "als.dimensions=8", "--json"]);
    let train = ["train", "--data", "data", "--factors", "factors", "--out", "run"];
    let refused = |part: &str| {
        let (code, _, stderr) = run(folder, &[&train[..], &SMALL].concat());
        assert!(code == 2 && stderr.contains(part), "{part}: {stderr}");
    };
    let table = fs::read_to_string(folder.join("data/tracks.csv")).unwrap();
    fs::write(folder.join("data/tracks.csv"), table.replace("song-11", "song-99")).unwrap();
    refused("tracks.csv");
    fs::write(folder.join("data/tracks.csv"), table).unwrap();
    let by_artist = fs::read(folder.join("data/splits/artist.csv")).unwrap();
    fs::write(folder.join("data/splits/artist.csv"), "id,part\nsong-01,test\n").unwrap();
    refused("artist.csv");
    fs::write(folder.join("data/splits/artist.csv"), by_artist).unwrap();
    fs::remove_dir_all(folder.join("mels")).unwrap();
    refused("run `debut prepare` again");
}

#[test]
fn stopped_or_killed_it_goes_on_and_the_data_set_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    world(folder);
    let whole: Vec<&str> =
        PREPARE.iter().map(|argument| if *argument == "mels" { "others" } else { argument }).collect();
    let whole: Vec<&str> = whole.iter().map(|argument| if *argument == "data" { "whole" } else { argument }).collect();
    assert_eq!(run(folder, &whole).0, 1);
    let rows = || {
        let lines = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
        let paths = walkdir::WalkDir::new(folder.join("mels")).into_iter().filter_map(|entry| entry.ok());
        let paths = paths.map(|entry| entry.into_path()).filter(|path| path.extension().is_some_and(|e| e == "index"));
        paths.map(|path| lines(&path)).sum::<usize>()
    };
    for (round, signal) in ["-KILL", "-INT", "-KILL"].into_iter().enumerate() {
        let mut child =
            debut(folder).args(PREPARE).env("RAYON_NUM_THREADS", "1").stderr(Stdio::null()).spawn().unwrap();
        let (before, wanted) = (rows(), (round + 1) * 10);
        while rows() < wanted.max(before + 1) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let code = child.wait().unwrap().code();
        assert!(rows() > before && [None, Some(2), Some(1)].contains(&code), "{signal}: {code:?}");
        assert!(code == Some(1) || !folder.join("data/data.toml").exists());
    }
    assert_eq!(run(folder, &PREPARE).0, 1);
    let (interrupted, undisturbed) = (files(&folder.join("data")), files(&folder.join("whole")));
    for (name, bytes) in &undisturbed {
        // The place of the cache is in it.
        assert!(name == "data.toml" || interrupted[name] == *bytes, "{name}");
    }
    assert_eq!(rows(), SONGS, "nothing is heard twice");
}

#[test]
fn every_stage_keeps_to_the_split() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    world(folder);
    assert_eq!(run(folder, &PREPARE).0, 1);
    let lines = |path: &str| -> BTreeSet<String> {
        fs::read_to_string(folder.join(path)).unwrap().lines().map(str::to_string).collect()
    };
    for rule in ["track", "artist", "time"] {
        let path = format!("data/splits/{rule}.csv");
        let split = TrackSplit::load(&folder.join(&path)).unwrap();
        let of = |part| split.tracks(part).map(|id| id.to_string()).collect::<BTreeSet<_>>();
        let factors = format!("factors-{rule}");
        let factorize = ["factorize", "events.csv", "--split", &path, "--out", &factors, "--json"];
        let report = &json(folder, 0, &[&factorize[..], &SMALL].concat())[0];
        assert_eq!(report["held_out"].as_u64().unwrap() as usize, split.count(Part::Test));
        assert_eq!(lines(&format!("{factors}/held_out.ids")), of(Part::Test), "{rule}");
        let fitted = lines(&format!("{factors}/tracks.ids"));
        assert!(fitted.is_disjoint(&of(Part::Test)) && fitted.contains("elsewhere") == (rule != "time"), "{rule}");
        assert_eq!(TrackSplit::load(&folder.join(&factors).join("split.csv")).unwrap(), split);
        // With listeners on disk, too.
        let sharded = ["factorize", "events.csv", "--split", &path, "--out", "sharded", "--shards", "scratch"];
        assert_eq!(run(folder, &[&sharded[..], &SMALL].concat()).0, 0);
        assert_eq!(lines("sharded/users.ids"), lines(&format!("{factors}/users.ids")));
        for file in ["tracks.ids", "held_out.ids", "split.csv", "plays.npy"] {
            let read = |factors: &str| fs::read(folder.join(factors).join(file)).unwrap();
            assert!(read("sharded") == read(&factors), "{rule}: {file}");
        }

        let model = format!("run-{rule}");
        let train = ["train", "--data", "data", "--factors", &factors, "--out", &model];
        let (code, said, stderr) = run(folder, &[&train[..], &SMALL].concat());
        let judge =
            format!("{} tracks to learn from and {} to judge by", split.count(Part::Train), split.count(Part::Valid));
        assert!(code == 0 && said.contains(&judge), "{rule}: {judge}\n{said}\n{stderr}");
        let (code, _, stderr) = run(folder, &[&train[..], &SMALL, &["--validation", "0.2"]].concat());
        assert!(code == 2 && stderr.contains("--validation"), "{stderr}");
        let evaluate =
            ["evaluate", "--model", &model, "--data", "data", "--factors", &factors, "--events", "events.csv"];
        let table = json(folder, 0, &[&evaluate[..], &["-k", "3", "--json"]].concat());
        assert!(table.len() > 3);
    }
    // What the cut cuts off is nobody's: the factors of a log without it are the same.
    let split = TrackSplit::load(&folder.join("data/splits/time.csv")).unwrap();
    let log = fs::read_to_string(folder.join("events.csv")).unwrap();
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split(',').collect();
        let is_late = fields[0].parse::<i64>().is_ok_and(|time| time >= split.cut.unwrap());
        !is_late || split.is(&fields[2].parse().unwrap(), Part::Test)
    };
    let before: Vec<&str> = log.lines().filter(is_open).collect();
    assert!(before.len() > 100 && before.len() < log.lines().count() - 50);
    fs::write(folder.join("before.csv"), before.join("\n")).unwrap();
    let early = ["factorize", "before.csv", "--split", "data/splits/time.csv", "--out", "early", "--json"];
    let early = json(folder, 0, &[&early[..], &SMALL].concat());
    let space = fs::read_to_string(folder.join("factors-time/factors.toml")).unwrap();
    assert!(space.contains(early[0]["space"].as_str().unwrap()), "{early:?}");

    // A playlist without times may have been made after the cut: it is left out, and says so.
    let lists: String = (0..SONGS).map(|i| format!("mine,song-{i:02}\n")).collect();
    fs::create_dir(folder.join("logs")).unwrap();
    fs::write(folder.join("logs/lists.csv"), format!("playlist,track\n{lists}")).unwrap();
    fs::copy(folder.join("before.csv"), folder.join("logs/before.csv")).unwrap();
    let listed = ["factorize", "logs", "--split", "data/splits/time.csv", "--out", "listed"];
    let (code, _, stderr) = run(folder, &[&listed[..], &SMALL].concat());
    let left = format!("{} events left out, of playlists without times", SONGS - split.count(Part::Test));
    assert!(code == 0 && stderr.contains(&left), "{left}: {stderr}");
    assert_eq!(lines("listed/users.ids"), lines("early/users.ids"));
    // A cut before all that anyone did leaves nothing to fit.
    let early = fs::read_to_string(folder.join("data/splits/time.csv")).unwrap();
    let (_, rows) = early.split_once('\n').unwrap();
    fs::write(folder.join("first.csv"), format!("# rule=time cut=86400\n{rows}")).unwrap();
    let (code, _, stderr) = run(folder, &["factorize", "events.csv", "--split", "first.csv", "--out", "none"]);
    let said = ["86400 (1970-01-02)", &format!("none: 0 events before, {} from then on", log.lines().count() - 1)];
    assert!(code == 2 && said.iter().all(|said| stderr.contains(said)), "{stderr}");
    // Nor is what earlier factors know new.
    let warm = ["factorize", "events.csv", "--out", "known", "--hold-out", "0.3", "--warm", "all"];
    assert_eq!(run(folder, &["factorize", "events.csv", "--out", "all", SMALL[2], SMALL[3]]).0, 0);
    let (code, _, stderr) = run(folder, &[&warm[..], &SMALL].concat());
    assert!(code == 2 && stderr.contains("which they know") && !folder.join("known").exists(), "{stderr}");

    // Two splits do not mix, neither in a warm start nor in a folder.
    let warm = ["factorize", "events.csv", "--split", "data/splits/artist.csv", "--out", "warm", "--warm"];
    let (code, _, stderr) = run(folder, &[&warm[..], &["factors-track"], &SMALL].concat());
    assert!(code == 2 && stderr.contains("rule=artist") && stderr.contains("rule=track"), "{stderr}");
    assert_eq!(run(folder, &[&warm[..], &["factors-artist"], &SMALL].concat()).0, 0);
    let align = ["factors", "align", "factors-artist", "--to", "factors-track", "--out", "aligned"];
    assert_eq!(run(folder, &align).0, 0);
    assert_eq!(lines("aligned/split.csv"), lines("factors-artist/split.csv"));
    fs::copy(folder.join("data/splits/time.csv"), folder.join("factors-artist/split.csv")).unwrap();
    let train = ["train", "--data", "data", "--factors", "factors-artist", "--out", "mixed"];
    let (code, _, stderr) = run(folder, &[&train[..], &SMALL].concat());
    assert!(code == 2 && stderr.contains("split.csv"), "{stderr}");
    // Factors of everything, in the folder of some with a split: the split is gone with these.
    assert_eq!(run(folder, &["factorize", "events.csv", "--out", "factors-track", SMALL[2], SMALL[3]]).0, 0);
    assert!(!folder.join("factors-track/split.csv").exists());
    let both = ["factorize", "events.csv", "--split", "data/splits/time.csv", "--hold-out", "0.1", "--out", "both"];
    assert_eq!(run(folder, &both).0, 2);
    fs::write(folder.join("strangers.csv"), "id,part\nnobody,test\nsong-01,train\n").unwrap();
    let (code, _, stderr) = run(folder, &["factorize", "events.csv", "--split", "strangers.csv", "--out", "none"]);
    assert!(code == 2 && stderr.contains("nobody") && !folder.join("none/factors.toml").exists(), "{stderr}");
}
