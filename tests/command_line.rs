//! The command line is a contract: these are its sentences.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{debut, json, music, run, write_song};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

fn statuses(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|l| l["status"].as_str().unwrap()).collect()
}

#[test]
fn what_can_be_read_is_in_the_catalogue_what_cannot_is_in_failures_and_a_second_run_ingests_nothing() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 5);
    fs::write(dir.path().join("music/page.mp3"), "<html>404</html>".repeat(100)).unwrap();
    fs::write(dir.path().join("music/empty.flac"), "").unwrap();
    fs::write(dir.path().join("music/cover.jpg"), "not audio by its name").unwrap();
    // Opening a pipe would wait for ever.
    assert!(std::process::Command::new("mkfifo").arg(dir.path().join("music/pipe.wav")).status().unwrap().success());
    let first = json(dir.path(), 1, &["--catalogue", "c", "ingest", "music", "--json"]);
    assert_eq!(first.len(), 8);
    for line in &first {
        assert!(line["path"].is_string() && line["ms"].as_f64().unwrap() >= 0.0);
        match line["status"].as_str().unwrap() {
            "added" => assert_eq!(line["track"].as_str().unwrap().len(), 32),
            "failed" => assert!(line["track"].is_null() && !line["reason"].as_str().unwrap().is_empty()),
            other => panic!("{other}"),
        }
    }
    let failures = json(dir.path(), 0, &["--catalogue", "c", "failures", "--json"]);
    let failed: Vec<&str> = failures.iter().map(|f| f["path"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(failed, ["empty.flac", "page.mp3", "pipe.wav"]);

    let second = json(dir.path(), 1, &["--catalogue", "c", "ingest", "music", "--json"]);
    assert_eq!(statuses(&second).iter().filter(|s| **s == "skipped").count(), 5);
    assert_eq!(statuses(&second).iter().filter(|s| **s == "failed").count(), 3);
    let status = &json(dir.path(), 0, &["--catalogue", "c", "status", "--json"])[0];
    assert_eq!((status["tracks"].as_u64(), status["failures"].as_u64()), (Some(5), Some(3)));
    // The ids by which tracks are asked for.
    let tracks = json(dir.path(), 0, &["--catalogue", "c", "status", "--tracks", "--json"]);
    let mut listed: Vec<&str> = tracks.iter().map(|t| t["track"].as_str().unwrap()).collect();
    let mut added: Vec<&str> = first.iter().filter_map(|l| l["track"].as_str()).collect();
    listed.sort_unstable();
    added.sort_unstable();
    assert_eq!(listed, added);
    let (_, text, _) = run(dir.path(), &["--catalogue", "c", "status", "--tracks"]);
    assert!(text.lines().count() == 5 && text.lines().all(|line| line.ends_with(".wav")), "{text}");
    let seq = status["seq"].clone();

    // A file that was damaged and is mended is taken; one that is gone from the failures stays gone.
    write_song(&dir.path().join("music/page.mp3"), 40);
    let third = json(dir.path(), 1, &["--catalogue", "c", "ingest", "music", "--json"]);
    assert_eq!(statuses(&third).iter().filter(|s| **s == "added").count(), 1);
    let status = &json(dir.path(), 0, &["--catalogue", "c", "status", "--json"])[0];
    assert_eq!((status["tracks"].as_u64(), status["failures"].as_u64()), (Some(6), Some(2)));
    assert_ne!(status["seq"], seq);
    assert_eq!(json(dir.path(), 0, &["--catalogue", "c", "check", "--json"])[0]["ok"], true);
}

#[test]
fn the_same_content_is_one_track_and_the_same_id_with_new_content_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_song(&at("a.wav"), 1);
    fs::copy(at("a.wav"), at("copy.wav")).unwrap();
    let lines = json(dir.path(), 0, &["ingest", "a.wav", "copy.wav", "--json"]);
    let mut both = statuses(&lines);
    both.sort_unstable();
    assert_eq!(both, ["added", "skipped"]);
    assert_eq!(lines[0]["track"], lines[1]["track"]);

    fs::write(at("m.csv"), "path,id,title,artist\na.wav,song-1,First,Somebody\n").unwrap();
    assert_eq!(statuses(&json(dir.path(), 0, &["ingest", "--manifest", "m.csv", "--json"])), ["added"]);
    assert_eq!(statuses(&json(dir.path(), 0, &["ingest", "--manifest", "m.csv", "--json"])), ["skipped"]);
    fs::write(at("m.csv"), "path,id,title,artist\na.wav,song-1,Renamed,Somebody\n").unwrap();
    assert_eq!(statuses(&json(dir.path(), 0, &["ingest", "--manifest", "m.csv", "--json"])), ["replaced"]);
    write_song(&at("a.wav"), 2);
    let lines = json(dir.path(), 0, &["ingest", "--manifest", "m.csv", "--json"]);
    assert_eq!((statuses(&lines), lines[0]["track"].as_str()), (vec!["replaced"], Some("song-1")));

    let near = json(dir.path(), 0, &["recommend", "--file", "copy.wav", "--json"]);
    assert_eq!(near[0]["title"], "Renamed", "{near:?}");
}

#[test]
fn every_way_to_ask_has_an_answer_of_the_same_form() {
    let dir = tempfile::tempdir().unwrap();
    let folder = music(dir.path(), 12);
    let mut manifest = String::from("path,id,title,artist,released,language,explicit,regions\n");
    for i in 0..12 {
        manifest += &format!(
            "music/album {}/song {i:03}.wav,song-{i},Song {i},Artist {},{}-06-01,{},{},{}\n",
            i / 10,
            i % 3,
            2000 + i,
            ["en", "de"][i % 2],
            i == 4,
            if i == 5 { "JP KR" } else { "" }
        );
    }
    fs::write(dir.path().join("tracks.csv"), manifest).unwrap();
    json(dir.path(), 0, &["ingest", "--manifest", "tracks.csv", "--json"]);
    write_song(&dir.path().join("new.wav"), 3);
    fs::write(dir.path().join("list.m3u"), "#EXTM3U\nsong-1\nmusic/album 0/song 002.wav\nnot here\n").unwrap();

    let asks: [&[&str]; 3] = [&["--track", "song-3"], &["--file", "new.wav"], &["--playlist", "list.m3u"]];
    for ask in asks {
        let arguments = [&["recommend"], ask, &["-k", "4", "--json"]].concat();
        // One line of the playlist is not in the catalogue.
        let lines = json(dir.path(), i32::from(ask[0] == "--playlist"), &arguments);
        assert_eq!(lines.len(), 4, "{ask:?}");
        let scores: Vec<f64> = lines.iter().map(|l| l["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|s| s.abs() <= 1.0 + 1e-5), "{scores:?}");
        for line in &lines {
            assert!(line["track"].is_string() && line["title"].is_string() && line["because"].is_array());
            if ask[0] == "--playlist" {
                let played: Vec<&str> =
                    line["because"].as_array().unwrap().iter().map(|b| b["track"].as_str().unwrap()).collect();
                assert!(played.iter().all(|p| ["song-1", "song-2"].contains(p)), "{played:?}");
                assert!(!["song-1", "song-2"].contains(&line["track"].as_str().unwrap()));
            }
        }
    }
    // new.wav has the content of song-3, under a name that the catalogue does not know: it is song-3, and no track is
    // its own neighbour. Sound that the catalogue does not have is asked for as it sounds.
    let by_file = json(dir.path(), 0, &["recommend", "--file", "new.wav", "-k", "20", "--json"]);
    assert_eq!(by_file, json(dir.path(), 0, &["recommend", "--track", "song-3", "-k", "20", "--json"]));
    assert!(by_file.len() == 11 && by_file.iter().all(|l| l["track"] != "song-3"));
    write_song(&dir.path().join("unheard.wav"), 30);
    assert_eq!(json(dir.path(), 0, &["recommend", "--file", "unheard.wav", "-k", "20", "--json"]).len(), 12);

    // Every filter, alone and together, as an option and in a line.
    let ids = |ask: &[&str]| -> Vec<String> {
        let lines = json(dir.path(), 0, &[&["recommend", "--track", "song-3", "-k", "20", "--json"], ask].concat());
        let mut ids: Vec<String> = lines.iter().map(|l| l["track"].as_str().unwrap().to_string()).collect();
        ids.sort();
        ids
    };
    let songs = |numbers: &[usize]| {
        let mut ids: Vec<String> = numbers.iter().map(|i| format!("song-{i}")).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&["--language", "DE"]), songs(&[1, 5, 7, 9, 11]));
    assert_eq!(ids(&["--years", "2004..2006"]), songs(&[4, 5, 6]));
    assert_eq!(ids(&["--years", "..2001", "--language", "en", "--language", "de"]), songs(&[0, 1]));
    assert_eq!(ids(&["--clean", "--years", "2004..2005"]), songs(&[5]));
    assert_eq!(ids(&["--region", "DE", "--years", "2004..2006"]), songs(&[4, 6]));
    assert_eq!(ids(&["--region", "jp", "--years", "2004..2006"]), songs(&[4, 5, 6]));
    assert_eq!(ids(&["--without-artist", "artist 0", "--without-artist", "Artist 1"]), songs(&[2, 5, 8, 11]));
    assert_eq!(ids(&["--per-artist", "2"]).len(), 6);
    assert_eq!(ids(&["--per-artist", "0"]).len(), 11, "any number");
    assert!(ids(&["--years", "1900"]).is_empty());
    fs::write(
        dir.path().join("f.jsonl"),
        "{\"track\":\"song-3\",\"years\":[2004,2006],\"clean\":true,\"k\":20}\n{\"track\":\"song-3\",\"per_artist\":1}\n",
    )
    .unwrap();
    let filtered = json(dir.path(), 0, &["recommend", "--queries", "f.jsonl", "--language", "de", "--json"]);
    assert_eq!(filtered[0]["recommendations"].as_array().unwrap().len(), 1, "song-5");
    assert_eq!(filtered[1]["recommendations"].as_array().unwrap().len(), 3);
    let (code, _, stderr) = run(dir.path(), &["recommend", "--track", "song-3", "--years", "soon"]);
    assert!(code == 2 && stderr.contains("soon"), "{stderr}");
    let (code, _, stderr) = run(dir.path(), &["recommend", "--track", "song-3", "--years", "2026..2015"]);
    assert!(code == 2 && stderr.contains("2026..2015: no year is in it"), "{stderr}");
    fs::write(
        dir.path().join("odd.jsonl"),
        "{\"track\":\"song-3\",\"years\":[2026,2015]}\n{\"track\":\"song-3\",\"per_artist\":0,\"k\":20}\n",
    )
    .unwrap();
    let odd = json(dir.path(), 1, &["recommend", "--queries", "odd.jsonl", "--per-artist", "1", "--json"]);
    assert!(odd[0]["error"].as_str().unwrap().contains("2026..2015: no year is in it"), "{odd:?}");
    assert_eq!(odd[1]["recommendations"].as_array().unwrap().len(), 11, "any number");

    // Questions that have no answer do not end the service.
    fs::write(
        dir.path().join("q.jsonl"),
        b"{\"track\":\"song-1\"}\n\xff\xfe\n{\"sing\":1}\n{\"playlist\":[\"song-1\"]}\n",
    )
    .unwrap();
    let answers = json(dir.path(), 1, &["recommend", "--queries", "q.jsonl", "--json"]);
    let with = |name: &str| answers.iter().map(|a| a.get(name).is_some()).collect::<Vec<_>>();
    assert_eq!(with("error"), [false, true, true, false]);
    assert_eq!(with("recommendations"), [true, false, false, true]);

    for ask in [["--track", "nobody"], ["--user", "nobody"], ["--file", "nothing.mp3"]] {
        let (code, stdout, stderr) = run(dir.path(), &["recommend", ask[0], ask[1]]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains(ask[1]), "{stderr}");
    }
    fs::remove_dir_all(folder).unwrap();
    assert_eq!(json(dir.path(), 0, &["remove", "song-3", "--json"])[0]["status"], "removed");
    assert_eq!(json(dir.path(), 1, &["remove", "song-3", "--json"])[0]["status"], "not_there");
    let (code, ..) = run(dir.path(), &["recommend", "--track", "song-3"]);
    assert_eq!(code, 2);
}

#[test]
fn another_running_process_knows_a_new_song_within_a_second_of_its_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 6);
    json(dir.path(), 0, &["ingest", "music", "--json"]);
    let mut service = debut(dir.path())
        .args(["recommend", "--queries", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ask = service.stdin.take().unwrap();
    let mut answers = BufReader::new(service.stdout.take().unwrap()).lines();
    let mut query = |line: String| -> Value {
        writeln!(ask, "{line}").unwrap();
        serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
    };
    assert!(query(r#"{"track":"nobody"}"#.into())["error"].as_str().unwrap().contains("nobody"));
    for i in 0..3 {
        let path = dir.path().join(format!("upload {i}.wav"));
        write_song(&path, 20 + i);
        let mut ingest =
            debut(dir.path()).args(["ingest", "--json"]).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
        let line = BufReader::new(ingest.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let acknowledged = Instant::now();
        let new = serde_json::from_str::<Value>(&line).unwrap()["track"].as_str().unwrap().to_string();
        // Its neighbours, and itself among the neighbours of another.
        let own = query(format!(r#"{{"track":"{new}","k":3}}"#));
        assert_eq!(own["recommendations"].as_array().unwrap().len(), 3, "{own}");
        let neighbour = own["recommendations"][0]["track"].as_str().unwrap().to_string();
        let of_neighbour = query(format!(r#"{{"track":"{neighbour}","k":20}}"#));
        assert!(of_neighbour["recommendations"].as_array().unwrap().iter().any(|r| r["track"] == new.as_str()));
        assert!(acknowledged.elapsed() < Duration::from_secs(1), "{:?}", acknowledged.elapsed());
        assert!(ingest.wait().unwrap().success());
    }
    drop(ask);
    assert_eq!(service.wait().unwrap().code(), Some(1), "one query had no answer");
}

#[test]
fn spectrograms_and_vectors_come_out_as_arrays() {
    use ndarray::{Array2, Axis};
    use ndarray_npy::ReadNpyExt;
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 3);
    fs::write(dir.path().join("bad.mp3"), "no audio").unwrap();
    let song = "music/album 0/song 000.wav";
    json(dir.path(), 0, &["mel", song, "--out", "mel.npy", "--wav", "heard.wav", "--json"]);
    let mel = Array2::<f32>::read_npy(fs::File::open(dir.path().join("mel.npy")).unwrap()).unwrap();
    assert_eq!(mel.dim(), (599, 128));
    assert!(mel.iter().all(|v| v.is_finite()) && mel.iter().any(|v| *v > 1.0));
    let heard = hound::WavReader::open(dir.path().join("heard.wav")).unwrap();
    assert_eq!((heard.spec().sample_rate, heard.duration()), (22_050, 614_400));
    json(dir.path(), 0, &["mel", song, "--out", "mel.png", "--json"]);
    assert!(fs::read(dir.path().join("mel.png")).unwrap().starts_with(b"\x89PNG"));

    // One bad input: the rest goes on, and the exit code says so.
    let report = json(dir.path(), 1, &["embed", "music", "bad.mp3", "--out", "v.npy", "--json"]);
    assert_eq!((report[0]["embedded"].as_u64(), report[0]["failed"].as_u64()), (Some(3), Some(1)));
    let vectors = Array2::<f32>::read_npy(fs::File::open(dir.path().join("v.npy")).unwrap()).unwrap();
    assert_eq!(vectors.dim(), (3, 40));
    for row in vectors.axis_iter(Axis(0)) {
        assert!((row.dot(&row) - 1.0).abs() < 1e-5);
    }
    assert_eq!(fs::read_to_string(dir.path().join("v.ids")).unwrap().lines().count(), 3);
    json(dir.path(), 0, &["embed", "music", "--out", "v.parquet", "--json"]);
    let file = fs::File::open(dir.path().join("v.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let names: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["track", "path", "vector", "confidence", "lost"]);
    assert_eq!(reader.build().unwrap().map(|b| b.unwrap().num_rows()).sum::<usize>(), 3);
}

#[test]
fn embedding_that_is_stopped_writes_what_it_has_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 400);
    let run = debut(dir.path())
        .args(["embed", "music", "--out", "v.npy", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The output is made before the work, so whoever sees it finds the work begun.
    let begun = || fs::read_dir(dir.path()).unwrap().any(|f| f.unwrap().path().extension() == Some("partial".as_ref()));
    while !begun() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap().success());
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let (embedded, missing) = (told["embedded"].as_u64().unwrap(), told["missing"].as_u64().unwrap());
    assert!(missing > 0 && embedded + missing == 400, "{told}");
    let vectors = ndarray_npy::read_npy::<_, ndarray::Array2<f32>>(dir.path().join("v.npy")).unwrap();
    assert_eq!(vectors.nrows() as u64, embedded);
    assert!(!begun(), "nothing is left beside it");
}

#[test]
fn a_file_that_is_damaged_in_part_is_heard_and_it_is_said_which_share_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 1);
    let mut hole = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sweep.flac")).unwrap();
    let (from, to) = (hole.len() * 2 / 5, hole.len() * 3 / 5);
    hole[from..to].fill(0);
    fs::write(dir.path().join("music/hole.flac"), hole).unwrap();

    let lines = json(dir.path(), 0, &["ingest", "music", "--json"]);
    for line in &lines {
        let damaged = line["path"].as_str().unwrap().ends_with("hole.flac");
        assert_eq!(line["lost"].as_f64().is_some_and(|lost| lost > 0.0 && lost < 0.5), damaged, "{line}");
    }
    let (code, stdout, stderr) = run(dir.path(), &["embed", "music", "--out", "v.npy"]);
    assert!(code == 0 && stdout.contains("2 embedded (1 damaged in part), 0 failed"), "{stdout}");
    assert!(stderr.lines().any(|line| line.starts_with("damaged: ") && line.contains("hole.flac")), "{stderr}");
}

#[test]
fn an_output_that_cannot_be_written_is_known_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.mp3"), "no audio").unwrap();
    fs::create_dir(dir.path().join("folder.npy")).unwrap();
    for out in ["bad.mp3/v.npy", "folder.npy", "v.txt"] {
        let (code, _, stderr) = run(dir.path(), &["embed", "bad.mp3", "--out", out]);
        assert!(code == 2 && stderr.contains(out.trim_end_matches("/v.npy")), "{stderr}");
        assert!(!stderr.contains("failed: "), "nothing was heard: {stderr}");
    }
}

#[test]
fn plays_become_factors_factors_a_model_and_the_model_a_table() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 48);
    let mut manifest = String::from("path,id,artist\n");
    for i in 0..48 {
        manifest += &format!("music/album {}/song {i:03}.wav,song-{i},artist {}\n", i / 10, i % 2);
    }
    fs::write(dir.path().join("tracks.csv"), manifest).unwrap();
    // Listeners of low songs and listeners of high ones, each of some of the 24, at random.
    let mut events = String::from("time,user,track,action,value\n");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for user in 0..80 {
        let mut songs: Vec<usize> = (0..24).map(|song| song + 24 * (user % 2)).collect();
        songs.shuffle(&mut rng);
        for (i, song) in songs[..12].iter().enumerate() {
            events += &format!("{},user-{user},song-{song},play,1\n", 1_700_000_000 + user * 100 + i);
        }
    }
    events += "never,user-1,song-1,play,1\n";
    fs::write(dir.path().join("events.csv"), events).unwrap();

    let (code, stdout, stderr) = run(
        dir.path(),
        &["factorize", "events.csv", "--out", "factors", "--hold-out", "0.25", "--set", "als.dimensions=8", "--json"],
    );
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("1 row left out") && stderr.contains("events.csv"), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((report["dimensions"].as_u64(), report["left_out"].as_u64()), (Some(8), Some(1)));
    let (code, _, stderr) = run(dir.path(), &["factorize", "events.csv", "--out", "strict", "--strict"]);
    assert!(code == 2 && stderr.contains("events.csv:962") && stderr.contains("never,user-1"), "{code} {stderr}");
    assert!(!dir.path().join("strict").exists());
    let held = report["held_out"].as_u64().unwrap();
    assert_eq!(held + report["tracks"].as_u64().unwrap(), 48);

    let small = "[encoder]\nchannels = [8, 8, 8, 8]\ndense = [16, 16]\ndimensions = 8\ndropout = 0.0\n[train]\nepochs = 3\nbatch_size = 8\n";
    fs::write(dir.path().join("small.toml"), small).unwrap();
    json(dir.path(), 0, &["prepare", "--audio", "tracks.csv", "--events", "events.csv", "--out", "data", "--json"]);
    let train = ["train", "--factors", "factors", "--data", "data", "--out", "runs/small", "--config", "small.toml"];
    let lines = json(dir.path(), 0, &[&train[..], &["--json"]].concat());
    assert_eq!(lines.len(), 4, "three epochs and the model: {lines:?}");
    for file in ["model.toml", "model.safetensors", "space.json", "metrics.jsonl", "curve.svg", "config.toml"] {
        assert!(dir.path().join("runs/small").join(file).is_file(), "{file}");
    }

    let evaluate = [
        "evaluate",
        "--model",
        "runs/small",
        "--factors",
        "factors",
        "--events",
        "events.csv",
        "--data",
        "data",
        "-k",
        "3",
        "--json",
    ];
    let table = json(dir.path(), 0, &evaluate);
    let score = |method: &str| {
        let line = table.iter().find(|l| l["method"].as_str().unwrap().starts_with(method)).unwrap();
        line["auc"]["mean"].as_f64().unwrap()
    };
    assert!((score("random") - 0.5).abs() < 1e-9);
    assert!(score("ceiling: learned factor") > 0.8, "{table:?}");
    // Taste is high or low, which any ear hears, and no artist or album of this manifest tells.
    assert!(score("linear on MFCC words") > 0.7 && score("linear on mean mel") > 0.7, "{table:?}");
    for line in &table {
        let within = |name: &str| {
            let (score, over_tracks) = (&line[name]["mean"], &line["se_over_tracks"][name]);
            (0.0..=1.0).contains(&score.as_f64().unwrap()) && (0.0..0.5).contains(&over_tracks.as_f64().unwrap())
        };
        assert!(["map", "auc", "recall", "ndcg"].into_iter().all(within), "{line}");
    }

    // A second seed of the same recipe shares the row of the first; another recipe has a row of its own.
    let more: [(&str, &[&str]); 2] = [("runs/again", &["--name", "small"]), ("runs/other", &[])];
    for (i, (out, name)) in more.into_iter().enumerate() {
        let seed = format!("train.seed={}", i + 2);
        let again =
            ["train", "--factors", "factors", "--data", "data", "--out", out, "--config", "small.toml", "--set", &seed];
        json(dir.path(), 0, &[&again[..], name, &["--json"]].concat());
    }
    let several = ["--model", "runs/again", "--model", "runs/other", "--save", "--report", "report"];
    let table = json(dir.path(), 0, &[&evaluate[..], &several].concat());
    let networks: Vec<&Value> = table.iter().filter(|l| l["method"].as_str().unwrap().starts_with("network")).collect();
    assert_eq!(networks.iter().map(|l| &l["method"]).collect::<Vec<_>>(), ["network small", "network other"]);
    assert!(networks[0]["se_over_models"]["auc"].is_number() && networks[1]["se_over_models"].is_null());
    let saved = fs::read_to_string(dir.path().join("runs/again/model.toml")).unwrap();
    for score in ["cold_start_map_at_500 = ", "cold_start_auc_se = ", "cold_start_recall_at_3_se_over_tracks = "] {
        assert!(saved.contains(score), "{saved}");
    }
    let (code, _, stderr) = run(dir.path(), &[&evaluate[..], &["--model", "runs/small"]].concat());
    assert!(code == 2 && stderr.contains("runs/small") && stderr.contains("another model"), "{stderr}");

    let [page, text] =
        ["report.html", "report.md"].map(|f| fs::read_to_string(dir.path().join("report").join(f)).unwrap());
    // Every picture is in the page, and beside the Markdown.
    assert_eq!((page.matches("<svg").count(), page.matches("src=").count(), page.matches("http").count()), (6, 0, 6));
    for picture in ["map.svg", "auc.svg", "recall.svg", "ndcg.svg", "recall-curve.svg", "reliability.svg"] {
        assert!(text.contains(picture) && dir.path().join("report").join(picture).is_file(), "{picture}");
    }
    for said in ["debut evaluate --model runs/small", "network small", "artist mean", "0.05016"] {
        assert!(page.contains(said) && text.contains(said), "{said}");
    }
    let (code, stdout, stderr) = run(dir.path(), &evaluate[..evaluate.len() - 1]);
    assert!(
        code == 0 && stdout.contains("| method | mAP@500 | AUC | recall@3 | NDCG@3 | cosine |"),
        "{stdout} {stderr}"
    );

    // The model and the factors are of one space, so they meet in one catalogue; another model's is refused.
    json(dir.path(), 0, &["ingest", "--model", "runs/small", "--manifest", "tracks.csv", "--json"]);
    let report = &json(dir.path(), 0, &["handover", "--factors", "factors", "--events", "events.csv", "--json"])[0];
    assert_eq!((report["listeners"].as_u64(), report["handed_over"].as_u64()), (Some(80), Some(48)));
    let list = json(dir.path(), 0, &["recommend", "--user", "user-4", "-k", "3", "--json"]);
    assert_eq!(list.len(), 3);
    for line in &list {
        let song: usize = line["track"].as_str().unwrap()[5..].parse().unwrap();
        assert!(song < 24, "user-4 plays low songs: {line}");
        assert!(!line["because"].as_array().unwrap().is_empty());
    }
    let (code, _, stderr) = run(dir.path(), &["ingest", "music"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("do not fit together"), "{stderr}");
}

#[test]
fn factors_are_scored_on_what_listeners_meet_next_and_go_to_other_programs_and_back() {
    let dir = tempfile::tempdir().unwrap();
    // Two tastes: even listeners meet even songs, each ten of thirty, an hour apart; a late comer is nobody's to rank.
    let mut events = String::from("time,user,track\n");
    for user in 0..60 {
        for i in 0..10 {
            let song = (user * 7 + i * 11) % 30 * 2 + user % 2;
            events += &format!("{},user-{user:02},song-{song:02}\n", 1_700_000_000 + i * 3600);
        }
    }
    events += "1700050000,late comer,song-01\n";
    fs::write(dir.path().join("events.csv"), events).unwrap();
    let arguments =
        ["evaluate", "factors", "--events", "events.csv", "--set", "als.dimensions=4", "-k", "5,10", "--json"];
    for (split, cold) in [("temporal", 1), ("user-temporal", 0), ("random", 0)] {
        let lines = json(dir.path(), 0, &[&arguments[..], &["--split", split]].concat());
        let [popularity, als] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((&popularity["method"], &als["method"]), (&"popularity".into(), &"als".into()));
        assert_eq!((&als["users"], &als["cold"], &als["catalogue"]), (&60.into(), &cold.into(), &60.into()), "{split}");
        assert_eq!((&als["at"][0]["k"], &als["at"][1]["k"]), (&5.into(), &10.into()));
        let ndcg = |line: &Value| line["at"][1]["ndcg"]["mean"].as_f64().unwrap();
        assert!(ndcg(als) > 1.3 * ndcg(popularity), "{split}: {lines:?}");
        let few = json(dir.path(), 0, &[&arguments[..], &["--split", split, "--users", "7"]].concat());
        assert_eq!(few[1]["users"], 7);
    }
    for wrong in [["-k", "0"], ["--test-share", "1"], ["--test-share", "nan"]] {
        let (code, stdout, stderr) = run(dir.path(), &[&arguments[..4], &wrong].concat());
        assert!(code == 2 && stdout.is_empty() && stderr.contains("invalid"), "{wrong:?}: {stderr}");
    }

    // Factors go to other programs and come back as they were.
    json(dir.path(), 0, &["factorize", "events.csv", "--out", "f", "--set", "als.dimensions=4", "--json"]);
    let vectors = |folder: &str| fs::read(dir.path().join(folder).join("tracks.npy")).unwrap();
    for (format, path) in [("implicit", "x/model.npz"), ("spark", "x/spark"), ("npy", "x/npy")] {
        json(dir.path(), 0, &["factors", "export", "f", "--to", format, "--out", path, "--json"]);
        let back = ["factors", "import", path, "--from", format, "--out", "back", "--events", "events.csv", "--json"];
        let line = &json(dir.path(), 0, &back)[0];
        assert_eq!((&line["users"], &line["tracks"], &line["dimensions"]), (&61.into(), &60.into(), &4.into()));
        assert_eq!(vectors("back"), vectors("f"), "{format}");
        assert_eq!(
            fs::read(dir.path().join("back/plays.npy")).unwrap(),
            fs::read(dir.path().join("f/plays.npy")).unwrap()
        );
    }
    // On disk the factors are the same but for rounding, and nothing stays of what was on the way.
    let settings = ["--set", "als.dimensions=4", "--hold-out", "0.2", "--json"];
    let whole = &json(dir.path(), 0, &[&["factorize", "events.csv", "--out", "m"], &settings[..]].concat())[0];
    let on_disk = ["factorize", "events.csv", "--out", "s", "--shards", "scratch"];
    let sharded = &json(dir.path(), 0, &[&on_disk[..], &settings[..]].concat())[0];
    for count in ["users", "tracks", "dimensions", "held_out", "left_out"] {
        assert_eq!(sharded[count], whole[count], "{count}");
    }
    let loss = |line: &Value| line["loss"].as_array().unwrap().last().unwrap().as_f64().unwrap();
    assert!((loss(sharded) / loss(whole) - 1.0).abs() < 1e-4, "{sharded} {whole}");
    assert_eq!(fs::read_dir(dir.path().join("scratch")).unwrap().count(), 0);
    assert!(!dir.path().join("s/checkpoint").exists());
    for file in ["tracks.ids", "plays.npy", "held_out.ids"] {
        assert_eq!(
            fs::read(dir.path().join("s").join(file)).unwrap(),
            fs::read(dir.path().join("m").join(file)).unwrap()
        );
    }
    json(dir.path(), 0, &["factors", "export", "s", "--to", "npy", "--out", "x/sharded", "--json"]);
    for (set, says) in [("als.solver=cholesky", "als.solver"), ("per_action.like=1", "per_action")] {
        let (code, _, stderr) = run(dir.path(), &[&on_disk[..], &["--set", set]].concat());
        assert!(code == 2 && stderr.contains(says), "{set}: {stderr}");
    }
    let (code, _, stderr) = run(dir.path(), &[&on_disk[..], &["--warm", "m"]].concat());
    assert!(code == 2 && stderr.contains("--warm"), "{stderr}");
    let (code, _, stderr) =
        run(dir.path(), &["factorize", "events.csv", "--out", "s", "--shards", "events.csv/scratch"]);
    assert!(code == 2 && stderr.contains("events.csv/scratch"), "{stderr}");

    // A fit from another start is the same but for a rotation.
    let seed = ["factorize", "events.csv", "--out", "g", "--set", "als.dimensions=2", "--set", "als.seed=5", "--json"];
    json(dir.path(), 0, &seed);
    let (code, _, stderr) = run(dir.path(), &["factors", "align", "g", "--to", "f", "--out", "h"]);
    assert!(code == 2 && stderr.contains("do not fit together"), "2 and 4 dimensions: {stderr}");
    json(dir.path(), 0, &[&seed[..5], &["als.dimensions=4", "--set", "als.seed=5", "--json"]].concat());
    let drift = &json(dir.path(), 0, &["factors", "align", "g", "--to", "f", "--out", "h", "--json"])[0]["drift"];
    assert_eq!(drift["shared"], 60);
    assert!(drift["cosine_after"].as_f64() > drift["cosine_before"].as_f64(), "{drift}");
    let (code, _, stderr) = run(dir.path(), &["factors", "import", "events.csv", "--from", "implicit", "--out", "y"]);
    assert!(code == 2 && stderr.contains("events.csv") && stderr.contains("npz"), "{stderr}");

    fs::write(dir.path().join("events.csv"), "time,user,track\n0,a,b\n0,a,c\n").unwrap();
    let (code, _, stderr) = run(dir.path(), &arguments);
    assert!(code == 2 && stderr.contains("more than one hour"), "{stderr}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in
        [&["ingest"][..], &["recommend"], &["sing"], &["status"], &["--set", "als.nothing=1", "status", "--settings"]]
            .into_iter()
            .chain([
                &["ingest", "--segments", "0", "."][..],
                &["--set", "listen.segments=101", "demo"],
                &["--set", "ingest.batch=0", "ingest", "."],
                &["--set", "index.recall=2", "ingest", "."],
                &["backup"],
                &["backup", "x"],
                &["export", "x"],
                &["import", "x"],
                &["--set", "recommend.new_share=-1", "recommend", "--track", "x"],
            ])
    {
        let (code, stdout, stderr) = run(dir.path(), wrong);
        assert_eq!((code, stdout.is_empty()), (2, true), "{wrong:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    // A model that is named and not there is not silently another.
    let named = debut(dir.path()).env("DEBUT_MODEL", "no/model").args(["ingest", "."]).output().unwrap();
    let stderr = String::from_utf8(named.stderr).unwrap();
    assert!(named.status.code() == Some(2) && stderr.contains("no/model"), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    let verbs =
        ["ingest", "recommend", "embed", "mel", "factorize", "factors", "pretrain", "train", "evaluate", "handover"];
    for verb in verbs.into_iter().chain(["backup", "export", "import"]) {
        let (code, stdout, _) = run(dir.path(), &[verb, "--help"]);
        assert!(code == 0 && stdout.contains("Example"), "{verb}");
    }
    for help in [["evaluate", "factors", "--help"], ["factors", "import", "--help"]] {
        let (code, stdout, _) = run(dir.path(), &help);
        assert!(code == 0 && !stdout.is_empty());
    }
    let (code, stdout, _) = run(dir.path(), &["status", "--settings"]);
    assert!(code == 0 && stdout.contains("[als]") && stdout.contains("[train]"));
}
