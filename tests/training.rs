//! Training as it is met on the command line: recipes that do not fit, runs that are killed, few labels, starts.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::verbs::{SONGS, factors};
use common::{debut, json, music, run};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// A network that trains in a second, with a checkpoint after every step.
const SMALL: &str = "[encoder]\nchannels = [8, 8, 8, 8]\ndense = [16, 16]\n\
                     [train]\nepochs = 4\nbatch_size = 4\nlearning_rate = 0.01\nworkers = 2\ncheckpoint_seconds = 0.0\n";

const TRAIN: &[&str] = &["train", "--factors", "factors", "--data", "data", "--config", "small.toml"];

/// A folder with a data set of songs, factors of them, and the recipe [`SMALL`].
fn world() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), SONGS);
    let mut manifest = String::from("path,id,artist\n");
    let mut events = String::from("time,user,track\n");
    for i in 0..SONGS {
        events += &format!("{},user-{},song-{i}\n", 1_700_000_000 + i * 86_400, i % 5);
        manifest += &format!("music/album {}/song {i:03}.wav,song-{i},artist {}\n", i / 10, i % 2);
    }
    fs::write(dir.path().join("tracks.csv"), manifest).unwrap();
    fs::write(dir.path().join("events.csv"), events).unwrap();
    let prepare = ["prepare", "--audio", "tracks.csv", "--events", "events.csv", "--out", "data", "--cache", "cache"];
    json(dir.path(), 0, &[&prepare[..], &["--json"]].concat());
    fs::write(dir.path().join("small.toml"), SMALL).unwrap();
    factors("space-one").save(&dir.path().join("factors")).unwrap();
    dir
}

fn train(more: &[&str]) -> Vec<String> {
    TRAIN.iter().chain(more).map(|s| s.to_string()).collect()
}

fn run_training(folder: &Path, more: &[&str]) -> (i32, String, String) {
    run(folder, &train(more).iter().map(String::as_str).collect::<Vec<_>>())
}

/// The JSON lines of a training that must go well.
fn trained(folder: &Path, more: &[&str]) -> Vec<Value> {
    let all = train(&[more, &["--json"]].concat());
    json(folder, 0, &all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What a run has come to: its weights, and its epochs but for their times.
fn result(run: &Path) -> (Vec<u8>, Vec<Value>) {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let epochs = lines.lines().map(|line| {
        let mut epoch: Value = serde_json::from_str(line).unwrap();
        for time in ["seconds", "wait_seconds", "samples_per_second", "ended"] {
            assert!(epoch.as_object_mut().unwrap().remove(time).is_some(), "{time}: {line}");
        }
        epoch
    });
    (fs::read(run.join("model.safetensors")).unwrap(), epochs.collect())
}

#[test]
fn a_killed_or_interrupted_training_goes_on_to_the_same_bits() {
    let dir = world();
    trained(dir.path(), &["--out", "warm-up", "--set", "train.epochs=1"]);
    let start = Instant::now();
    trained(dir.path(), &["--out", "undisturbed"]);
    let takes = start.elapsed();
    let undisturbed = result(&dir.path().join("undisturbed"));

    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut began = 0;
    let spawn = || {
        let mut command = debut(dir.path());
        command.args(train(&["--out", "killed"])).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    for _ in 0..8 {
        let mut child = spawn();
        std::thread::sleep(takes.mul_f64(rng.random_range(0.0..0.6)));
        child.kill().unwrap();
        child.wait().unwrap();
        began += usize::from(dir.path().join("killed/last.safetensors").exists());
    }
    assert!(began > 0, "no kill came after the first of the checkpoints");
    // Then by Ctrl-C, as soon as it has gone on; where it was too quick for that it is through.
    let mut child = spawn();
    std::thread::sleep(takes / 3);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ended = child.wait().unwrap();
    assert!(matches!(ended.code(), Some(0 | 2)), "{ended:?}");
    trained(dir.path(), &["--out", "killed", "--resume", "--set", "train.workers=3"]);
    let killed = result(&dir.path().join("killed"));
    assert_eq!(killed.1, undisturbed.1);
    assert!(killed.0 == undisturbed.0, "other weights");
    let left: Vec<String> = fs::read_dir(dir.path().join("killed"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".partial"))
        .collect();
    for file in ["metrics.jsonl", "curve.svg", "events.out.tfevents.debut", "best.safetensors", "config.toml"] {
        assert!(left.iter().any(|name| name == file), "{file}: {left:?}");
    }

    // Other settings do not go on from there, unless they start over.
    let (code, _, stderr) = run_training(dir.path(), &["--out", "killed", "--set", "train.seed=5"]);
    assert!(code == 2 && stderr.contains("--fresh"), "{stderr}");
    trained(dir.path(), &["--out", "killed", "--set", "train.seed=5", "--fresh"]);
    assert!(result(&dir.path().join("killed")).0 != undisturbed.0);
}

#[test]
fn ctrl_c_saves_the_step_that_it_arrives_at() {
    let dir = world();
    // Long, and with no checkpoint of its own.
    let long = ["--out", "long", "--set", "train.epochs=100000", "--set", "train.checkpoint_seconds=100000"];
    let mut child = debut(dir.path()).args(train(&long)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !dir.path().join("long/metrics.jsonl").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!dir.path().join("long/last.safetensors").exists());
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(dir.path().join("long/last.safetensors").exists());
}

#[test]
fn recipes_that_do_not_fit_are_refused_before_anything_is_made() {
    let dir = world();
    for (recipe, says) in [
        ("[encoder]\ndimensions = 39", "dimensions"),
        ("[encoder]\nmel_bands = 64", "encoder.mel_bands and the front end"),
        ("[encoder]\nframes = 700", "encoder.frames and the front end"),
        ("[encoder]\nkernel = 0", "encoder.kernel"),
        ("[train]\nlearning_rat = 0.1", "learning_rat"),
        ("[train]\nloss = \"huber\"", "huber"),
        ("[train]\nepochs = 0", "train.epochs"),
        ("[train]\ntemperature = 0.0", "train.temperature"),
        ("[train]\nmomentum = 1.5", "train.momentum"),
        ("[train.augment]\nstretch = -0.5", "train.augment.stretch"),
        ("[train.augment]\npitch = 1", "pitch"),
        ("[training]\nepochs = 3", "training"),
        ("[train\nepochs = 3", "bad.toml"),
    ] {
        fs::write(dir.path().join("bad.toml"), recipe).unwrap();
        let arguments = ["train", "--config", "bad.toml", "--factors", "factors", "--data", "data", "--out", "run"];
        let (code, stdout, stderr) = run(dir.path(), &arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{recipe}: {stderr}");
    }
    let (code, _, stderr) = run_training(dir.path(), &["--out", "run", "--resume"]);
    assert!(code == 2 && stderr.contains("no such run to resume: run"), "{stderr}");
    let (code, _, stderr) = run_training(dir.path(), &["--out", "run", "--init", "nothing"]);
    assert!(code == 2 && stderr.contains("nothing"), "{stderr}");
    assert!(!dir.path().join("run").exists(), "nothing was made");
}

#[test]
fn few_labels_a_teacher_and_a_start() {
    let dir = world();
    let whole = trained(dir.path(), &["--out", "whole", "--set", "train.loss=contrastive"]);
    assert!(whole[0]["valid_mrr"].as_f64().unwrap() > 0.0);
    let count = |run: &str, what: &str| {
        let text = fs::read_to_string(dir.path().join(run).join("model.toml")).unwrap();
        let model: toml::Table = text.parse().unwrap();
        model["training"].get(what).map(|n| n.as_str().unwrap().parse::<usize>().unwrap())
    };
    let all = count("whole", "tracks").unwrap();

    trained(dir.path(), &["--out", "half", "--labelled", "0.5"]);
    let half = count("half", "tracks").unwrap();
    assert!(half > 0 && half < all, "{half} of {all}");
    trained(dir.path(), &["--out", "taught", "--labelled", "0.5", "--teacher", "whole", "--teacher-weight", "0.3"]);
    assert_eq!((count("taught", "tracks"), count("taught", "pseudo_labelled_tracks")), (Some(all), Some(all - half)));
    // What the teacher says is another target than the truth, and no label another than one.
    let weights = |run: &str| result(&dir.path().join(run)).0;
    trained(dir.path(), &["--out", "plain"]);
    assert!(weights("taught") != weights("plain") && weights("half") != weights("plain"));

    let two: Vec<String> = (0..SONGS).step_by(2).map(|i| format!("song-{i}\n")).collect();
    fs::write(dir.path().join("ids.txt"), two.concat()).unwrap();
    trained(dir.path(), &["--out", "named", "--labelled", "ids.txt"]);
    assert!((1..=12).contains(&count("named", "tracks").unwrap()));

    factors("space-another").save(&dir.path().join("others")).unwrap();
    let other = [
        "train",
        "--factors",
        "others",
        "--data",
        "data",
        "--config",
        "small.toml",
        "--out",
        "x",
        "--labelled",
        "0.5",
        "--teacher",
        "whole",
    ];
    let (code, _, stderr) = run(dir.path(), &other);
    assert!(code == 2 && stderr.contains("the teacher and the factors do not fit together"), "{stderr}");

    // Pre-training needs no factors, and makes a start.
    let pretrain = ["pretrain", "--data", "data", "--config", "small.toml", "--json"];
    let lines = json(dir.path(), 0, &[&pretrain[..], &["--out", "pre", "--set", "encoder.dimensions=16"]].concat());
    assert!(lines.len() == 5 && lines[4]["best"]["valid_mrr"].as_f64().unwrap() > 0.0, "{lines:?}");
    trained(dir.path(), &["--out", "started", "--init", "pre"]);
    assert!(weights("started") != weights("plain"));
    trained(dir.path(), &["--out", "tuned", "--init", "whole"]);
    let misfit = ["--out", "y", "--init", "pre", "--set", "encoder.dense=[16, 17]"];
    let (code, _, stderr) = run_training(dir.path(), &misfit);
    assert!(code == 2 && stderr.contains("dense2"), "{stderr}");
    assert!(!dir.path().join("y").exists());
}
