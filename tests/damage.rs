//! Damaged files of ours: bits flipped, bytes changed, pages lost, ends cut off or grown, in every region of every kind of
//! file. Never a crash, a panic or a hang; and never a wrong answer that nobody speaks of: it is the undamaged one, or there
//! is an error or a warning, or `check` names the damage, or (a log that lost its end) it is that of an earlier commit.
//!
//! Each damaged file is read in a child process, this executable again. `DEBUT_TEST_DAMAGES` says how many each file gets,
//! 30 otherwise, and `DEBUT_TEST_KIND` which kind alone is damaged; the table of what came of them is on standard output
//! (`--nocapture`). Temporary files (events that are being sorted, shards) have no names by which another program could
//! damage them.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use common::verbs::{Contents, Small, VERBS, copy_folder, number_from_environment, problems};
use debut::audio::{FrontEnd, Listening, SpectrogramCache};
use debut::config::Config;
use debut::encoder::dataset::copy_crop;
use debut::encoder::{Device, EncoderConfig, Lesson, Model, Moment, Objective, Spectrograms, TrainConfig, train};
use debut::factors::{Checkpoint, Factors};
use debut::ids::TrackId;
use debut::index::{Filter, IndexConfig};
use debut::recommend::{Query, RecommendConfig, Recommender};
use debut::store::{Change, Store};
use ndarray::{Array2, Array3, ArrayViewMut2};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What the readers of a file say: the answer of each, or its error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Answers {
    of: Vec<(String, Result<String, String>)>,
    warnings: usize,
    /// Of `debut check`.
    problems: Vec<String>,
    panic: Option<String>,
}

impl Answers {
    fn ask(&mut self, reader: &str, answer: impl FnOnce() -> debut::Result<String>) {
        let answer = answer().map_err(|e| e.to_string());
        self.of.push((reader.into(), answer));
    }

    fn is_error(&self) -> bool {
        self.of.iter().any(|(_, answer)| answer.is_err())
    }

    /// Whoever answers, answers as here.
    fn agrees_with(&self, undamaged: &Answers) -> bool {
        self.of.iter().zip(&undamaged.of).all(|(a, b)| a.1.is_err() || a.1 == b.1)
    }
}

fn digest(thing: &impl std::fmt::Debug) -> String {
    blake3::hash(format!("{thing:?}").as_bytes()).to_hex()[..16].to_string()
}

// ------------------------------------------------------------------------------------------------ The readers.

/// The readers of a kind of file.
type Read = fn(&Small, &Path, &mut Answers);

fn recommendations(folder: &Path, index: &IndexConfig) -> debut::Result<String> {
    let recommender = Recommender::open(folder, index, &RecommendConfig::default())?;
    let id = |id: &str| TrackId::new(id).unwrap();
    let mut all = Vec::new();
    for query in [
        Query::Track(id("song-3")),
        Query::Track(id("old-2")),
        Query::User(debut::ids::UserId::new("listener-4").unwrap()),
        Query::Playlist(vec![id("song-8"), id("song-9")]),
    ] {
        all.push(recommender.recommend(&query, 10, &Filter::default())?);
    }
    all.push(recommender.recommend(
        &Query::Track(id("song-3")),
        10,
        &Filter { languages: vec!["en".into()], ..Filter::default() },
    )?);
    Ok(digest(&(all, recommender.audience(&recommender.store().track(&id("song-3"))?.unwrap().vector, 5)?)))
}

fn read_catalogue(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("tracks, listeners, failures", || Contents::read(folder).map(|contents| digest(&contents)));
    answers.ask("status", || {
        let status = Store::read(folder)?.status()?;
        Ok(digest(&debut::store::Status { bytes: 0, ..status }))
    });
    answers.ask("changes", || {
        let mut changes = Vec::new();
        Store::read(folder)?.changes_since(0, &mut |change| changes.push(change))?;
        Ok(digest(&changes))
    });
    answers.ask("recommend", || recommendations(folder, &IndexConfig::default()));
    answers.problems = problems(folder);
    answers.ask("write", || {
        let mut store = Store::open(folder)?;
        let mut track = store.track(&TrackId::new("song-3")?)?.ok_or(debut::Error::Interrupted)?;
        track.id = TrackId::new("one-more")?;
        store.commit(&[Change::Upsert(Box::new(track)), Change::Remove(TrackId::new("song-4")?)])?;
        drop(store);
        Contents::read(folder).map(|contents| digest(&contents))
    });
}

fn read_index(_: &Small, folder: &Path, answers: &mut Answers) {
    // As the catalogue was made: see SETTINGS of the small world.
    let index = IndexConfig { lists_above: 8, graph: true, ..IndexConfig::default() };
    answers.ask("recommend", || recommendations(folder, &index));
    answers.problems = problems(folder);
}

fn read_model(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("embed", || {
        let model = Model::load(folder)?;
        let (frames, bands) = (model.config.encoder.frames, model.config.encoder.mel_bands);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mels = Array3::from_shape_simple_fn((1, frames, bands), || rng.random_range(0.0..9.0f32));
        Ok(digest(&(model.embed(mels.view())?.into_raw_vec_and_offset().0, model.id(), &model.config)))
    });
}

/// By the program: the space of a catalogue that a model makes.
fn read_space(small: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("ingest", || {
        let catalogue = small.catalogue("of-a-model");
        let _ = fs::remove_dir_all(&catalogue);
        let mut ingest = small.command("of-a-model", &["ingest", "music-0/0.wav", "--model"]);
        let done = ingest.arg(folder).output().unwrap();
        match done.status.code() {
            Some(0) => Ok(digest(&Contents::read(&catalogue)?)),
            Some(_) => Err(debut::Error::invalid("model", "", String::from_utf8_lossy(&done.stderr))),
            None => panic!("{done:?}"),
        }
    });
}

fn read_factors(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("factors", || Ok(digest(&Factors::load(folder)?)));
}

const RUN: &str = "of these settings and data";

/// A checkpoint that is set aside costs time, and changes nothing.
fn read_fit(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("checkpoint", || match Checkpoint::load(folder, RUN, 50, 30, 8)? {
        Some(c) => {
            Ok(digest(&(c.iteration, c.users.into_raw_vec_and_offset().0, c.tracks.into_raw_vec_and_offset().0)))
        }
        None => Err(debut::Error::NotFound { what: "checkpoint", name: RUN.into() }),
    });
}

/// A training set of seeded noise.
struct Noise;

impl Spectrograms for Noise {
    fn id(&self) -> String {
        "noise".into()
    }
    fn name(&self, track: usize) -> String {
        track.to_string()
    }
    fn len(&self) -> usize {
        12
    }
    fn windows(&self) -> usize {
        1
    }
    fn frames(&self) -> usize {
        tiny().frames
    }
    fn mel_bands(&self) -> usize {
        tiny().mel_bands
    }
    fn load(&self, track: usize, _: usize, first: usize, crop: ArrayViewMut2<f32>) -> debut::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(track as u64);
        let window = Array2::from_shape_simple_fn((self.frames(), self.mel_bands()), || rng.random_range(0.0..9.0));
        copy_crop(window.view(), first, crop)
    }
}

fn tiny() -> EncoderConfig {
    EncoderConfig {
        mel_bands: 8,
        frames: 119,
        channels: [8, 8, 12, 12],
        dense: [24, 24],
        dimensions: 5,
        ..EncoderConfig::default()
    }
}

/// Trains to the end of the second epoch, or interrupts it in its second step.
fn train_some(folder: &Path, stop: bool) -> debut::Result<String> {
    let config = TrainConfig { epochs: 2, batch_size: 4, ..TrainConfig::default() };
    let targets = Array2::from_shape_fn((12, 5), |(i, j)| ((i * 5 + j) as f32).sin());
    let (learn, judge): (Vec<usize>, Vec<usize>) = (0..12).partition(|i| i % 4 != 0);
    let objective = Objective::Targets { targets: targets.view(), weights: &[1.0; 12] };
    let lesson = Lesson { spectrograms: &Noise, objective, train: &learn, valid: &judge, start: None };
    // Three steps are an epoch, so there is a best one.
    let at = |moment: &Moment| stop && matches!(moment, Moment::Step { number: 5, .. });
    let progress = &mut |moment: &Moment| if at(moment) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let trained = train(&config, &tiny(), &lesson, Device::Cpu, folder, progress)?;
    Ok(digest(&trained.weights))
}

fn read_training(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("train", || train_some(folder, false));
}

fn cache(folder: &Path) -> debut::Result<SpectrogramCache> {
    let front_end = FrontEnd { mel_bands: 16, frames: 60, ..FrontEnd::default() };
    let cache = SpectrogramCache::open(folder, &front_end, 60, &Listening { segments: 2, ..Listening::default() });
    // Two rows a shard, so that there is little to damage beside what is looked at.
    cache.map(|cache| cache.with_shards_of(2 * 2 * 60 * 16 * 2))
}

fn read_spectrograms(small: &Small, folder: &Path, answers: &mut Answers) {
    let key = debut::artefact::content_hash(&small.path().join("music-0/0.wav")).unwrap();
    let raw = |array: Array3<f32>| array.into_raw_vec_and_offset().0;
    answers.ask("load", || Ok(digest(&(raw(cache(folder)?.load(&key)?), cache(folder)?.about(&key)?))));
    answers.ask("one window", || Ok(digest(&cache(folder)?.load_window(&key, 1)?.into_raw_vec_and_offset().0)));
    answers.ask("hear again", || {
        let cache = cache(folder)?;
        let key = cache.get_or_hear(&small.path().join("music-0/0.wav"))?;
        Ok(digest(&(raw(cache.load(&key)?), cache.about(&key)?)))
    });
}

fn read_settings(_: &Small, folder: &Path, answers: &mut Answers) {
    answers.ask("settings", || Ok(digest(&Config::load(Some(&folder.join("settings.toml")), &[])?)));
}

// ------------------------------------------------------------------------------------------- The kinds of files.

struct Kind {
    name: &'static str,
    /// The files of this kind in the undamaged folder.
    files: Vec<PathBuf>,
    folder: PathBuf,
    read: &'static str,
    /// The undamaged answers, and those after each earlier commit.
    states: Vec<Answers>,
    /// People write these, so that every change that can be read is theirs.
    is_of_people: bool,
}

const READERS: [(&str, Read); 9] = [
    ("catalogue", read_catalogue),
    ("index", read_index),
    ("model", read_model),
    ("space", read_space),
    ("factors", read_factors),
    ("fit", read_fit),
    ("training", read_training),
    ("spectrograms", read_spectrograms),
    ("settings", read_settings),
];

fn kinds(small: &Small, worker: &mut Worker) -> Vec<Kind> {
    let at = |name: &str| small.path().join(name);
    let handover = VERBS.iter().find(|verb| verb.name == "handover").unwrap();
    small.prepare(handover, "whole");
    assert!(small.command("whole", handover.arguments).output().unwrap().status.success());
    let whole = small.catalogue("whole");
    // A catalogue without an index, and one that only reads its index.
    copy_folder(&whole, &at("catalogue"));
    let _ = fs::remove_dir_all(at("catalogue/index"));
    copy_folder(&whole, &at("index"));

    // The log of a writer that was killed: as it is while the writer lives. What was there before is in the database.
    let contents = Contents::of(&whole);
    let mut store = Store::open(&at("writing")).unwrap();
    store.set_space(contents.space.as_ref().unwrap()).unwrap();
    let tracks: Vec<_> = contents.tracks.values().cloned().map(|track| Change::Upsert(Box::new(track))).collect();
    let (before, since) = tracks.split_at(14);
    store.commit(before).unwrap();
    store.checkpoint().unwrap();
    let mut states = Vec::new();
    let mut keep = || {
        let folder = at(&format!("state-{}", states.len()));
        copy_folder(&at("writing"), &folder);
        states.push(worker.ask("catalogue", &folder));
    };
    keep();
    for group in since.chunks(4) {
        store.commit(group).unwrap();
        keep();
    }
    let listeners: Vec<_> = contents.listeners.values().cloned().collect();
    store.set_listeners(&listeners).unwrap();
    keep();
    store.commit(&[Change::Remove(TrackId::new("song-7").unwrap())]).unwrap();
    keep();
    copy_folder(&at("writing"), &at("log"));
    drop(store);
    states.reverse();

    Factors::load(&at("factors")).unwrap();
    let fit = Checkpoint {
        iteration: 3,
        users: Array2::from_shape_fn((50, 8), |(i, j)| (i * 8 + j) as f32),
        tracks: Array2::from_shape_fn((30, 8), |(i, j)| (i * 8 + j) as f32),
    };
    fit.save(&at("fit"), RUN).unwrap();
    assert!(matches!(train_some(&at("training"), true), Err(debut::Error::Interrupted)));
    cache(&at("spectrograms")).unwrap().get_or_hear(&at("music-0/0.wav")).unwrap();
    fs::create_dir(at("settings")).unwrap();
    fs::write(at("settings/settings.toml"), toml::to_string_pretty(&Config::default()).unwrap()).unwrap();

    let files_of = |folder: &Path| -> Vec<PathBuf> {
        let files = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
        let files = files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path());
        files.map(|path| path.strip_prefix(folder).unwrap().to_path_buf()).collect()
    };
    let mut kinds = Vec::new();
    let mut kind = |name, folder: &str, read, wanted: &dyn Fn(&str) -> bool, states: &[Answers]| {
        let folder = at(folder);
        let mut files = files_of(&folder);
        files.retain(|file| wanted(file.to_str().unwrap()));
        assert!(!files.is_empty(), "{name}");
        kinds.push(Kind { name, files, folder, read, states: states.to_vec(), is_of_people: name == "settings" });
    };
    let ends = |end: &'static str| move |file: &str| file.ends_with(end);
    kind("catalogue.sqlite", "catalogue", "catalogue", &ends(".sqlite"), &[]);
    kind("catalogue.sqlite-wal", "log", "catalogue", &ends("-wal"), &states);
    kind("catalogue.sqlite below a log", "log", "catalogue", &ends(".sqlite"), &states);
    kind("catalogue.sqlite-shm", "log", "catalogue", &ends("-shm"), &states);
    kind("writer.lock", "catalogue", "catalogue", &ends(".lock"), &[]);
    kind("index: image, graph", "index", "index", &ends(".bin"), &[]);
    kind("index: manifests", "index", "index", &ends(".json"), &[]);
    kind("model: weights", "model", "model", &ends(".safetensors"), &[]);
    kind("model: model.toml", "model", "model", &ends(".toml"), &[]);
    kind("model: space.json", "model", "space", &ends("space.json"), &[]);
    kind("factors", "factors", "factors", &|_| true, &[]);
    kind("checkpoint of a fit", "fit", "fit", &|_| true, &[]);
    kind("checkpoint of a training", "training", "training", &ends(".safetensors"), &[]);
    kind("spectrograms", "spectrograms", "spectrograms", &|_| true, &[]);
    kind("settings", "settings", "settings", &|_| true, &[]);
    for kind in &mut kinds {
        let copy = at("undamaged");
        copy_folder(&kind.folder, &copy);
        let undamaged = worker.ask(kind.read, &copy);
        assert!(!undamaged.is_error() && undamaged.panic.is_none(), "{}: {undamaged:?}", kind.name);
        assert!(undamaged.problems.is_empty() && undamaged.warnings == 0, "{}: {undamaged:?}", kind.name);
        if kind.states.is_empty() {
            kind.states.push(undamaged);
        } else {
            assert_eq!(undamaged.of, kind.states[0].of, "{}", kind.name);
        }
        fs::remove_dir_all(copy).unwrap();
    }
    kinds
}

// ------------------------------------------------------------------------------------------------- The damage.

const PAGE: usize = 4096;

/// Damages the file, and says how.
fn damage(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) -> (&'static str, usize) {
    let n = bytes.len();
    // A third in the first bytes, a third in the last, a third anywhere.
    let near = (n / 8).clamp(1, 512);
    let at = match rng.random_range(0..3) {
        0 => rng.random_range(0..near),
        1 => n - 1 - rng.random_range(0..near),
        _ => rng.random_range(0..n),
    };
    let what = match rng.random_range(0..10) {
        0..3 => {
            bytes[at] ^= 1 << rng.random_range(0..8);
            "a bit flipped"
        }
        3..5 => {
            bytes[at] = bytes[at].wrapping_add(rng.random_range(1..=255));
            "a byte changed"
        }
        5 => {
            let page = at / PAGE * PAGE;
            bytes[page..(page + PAGE).min(n)].fill(0);
            "a page of zeros"
        }
        6 => {
            let end = (at + rng.random_range(2..200)).min(n);
            rng.fill(&mut bytes[at..end]);
            "noise"
        }
        7 => {
            // What a misdirected write leaves.
            let (from, to) = (rng.random_range(0..n) / PAGE * PAGE, at / PAGE * PAGE);
            let length = PAGE.min(n - from).min(n - to);
            bytes.copy_within(from..from + length, to);
            "a page of another place"
        }
        8 => {
            let mut more = vec![0; rng.random_range(1..2 * PAGE)];
            rng.fill(&mut more[..]);
            bytes.extend(more);
            "noise appended"
        }
        _ => {
            bytes.truncate(at);
            "cut off"
        }
    };
    (what, at)
}

// -------------------------------------------------------------------------------------------- The child process.

/// This executable again, which reads damaged files, and may die of it.
struct Worker {
    world: PathBuf,
    child: Child,
    to: ChildStdin,
    from: Receiver<String>,
}

const WORKER: &str = "DEBUT_TEST_DAMAGE_WORKER";
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Of address space, in KiB: what damage claims must not be allocated.
const MEMORY_LIMIT: usize = 4 << 20;

impl Worker {
    fn start(world: &Path) -> Worker {
        let mut child = Command::new("bash")
            .args(["-c", &format!("ulimit -v {MEMORY_LIMIT}; ulimit -c 0; exec \"$0\" --exact the_reader --nocapture")])
            .arg(std::env::current_exe().unwrap())
            .env(WORKER, world)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (send, from) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(MARK)
                    && send.send(answer.to_string()).is_err()
                {
                    break;
                }
            }
        });
        Worker { world: world.to_path_buf(), to: child.stdin.take().unwrap(), child, from }
    }

    /// What the readers say of the folder; a death and a hang are a panic, and end this worker.
    fn ask(&mut self, read: &str, folder: &Path) -> Answers {
        let asked = writeln!(self.to, "{read} {}", folder.display()).and_then(|()| self.to.flush());
        let answer = self.from.recv_timeout(TIME_LIMIT);
        let how = match (asked, answer) {
            (Ok(()), Ok(answer)) => return serde_json::from_str(&answer).unwrap(),
            (_, Err(RecvTimeoutError::Timeout)) => "it hangs".to_string(),
            _ => String::new(),
        };
        let _ = self.child.kill();
        let how = if how.is_empty() { format!("it died: {:?}", self.child.wait()) } else { how };
        let _ = self.child.wait();
        *self = Worker::start(&self.world);
        Answers { panic: Some(how), ..Answers::default() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Before an answer, behind what the test harness writes.
const MARK: &str = "@@";
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// Counts what is logged.
struct Counter;

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WARNINGS.fetch_add(1, Ordering::Relaxed);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The child process; no test of its own.
#[test]
fn the_reader() {
    let Some(world) = std::env::var_os(WORKER) else { return };
    let small = Small::open(Path::new(&world));
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| Counter).init();
    for line in io::stdin().lines().map_while(Result::ok) {
        let (name, folder) = line.split_once(' ').unwrap();
        let read = READERS.iter().find(|(of, _)| *of == name).unwrap().1;
        WARNINGS.store(0, Ordering::Relaxed);
        let mut answers = Answers::default();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| read(&small, Path::new(folder), &mut answers))) {
            let says = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            answers.panic = Some(says.unwrap_or("without a word").to_string());
        }
        for (_, answer) in &mut answers.of {
            if let Err(e) = answer {
                *e = e.replace(folder, "FOLDER");
            }
        }
        answers.warnings = WARNINGS.load(Ordering::Relaxed);
        println!("{MARK}{}", serde_json::to_string(&answers).unwrap());
    }
    std::process::exit(0);
}

// ---------------------------------------------------------------------------------------------------- The test.

/// The first two columns are the undamaged answers; the damage was in nothing that they rest on, or was told of.
const OUTCOMES: [&str; 9] =
    ["the same", "same, told", "an error", "warned of", "check tells", "older state", "other words", "SILENT", "CRASH"];

fn outcome(kind: &Kind, answers: &Answers) -> &'static str {
    if answers.panic.is_some() {
        "CRASH"
    } else if answers.agrees_with(&kind.states[0]) {
        match answers.warnings == 0 && answers.problems.is_empty() {
            _ if answers.is_error() => "an error",
            true => "the same",
            false => "same, told",
        }
    } else if kind.states[1..].iter().any(|state| state.of == answers.of) {
        "older state"
    } else if answers.warnings > 0 {
        "warned of"
    } else if !answers.problems.is_empty() {
        "check tells"
    } else if kind.is_of_people {
        "other words"
    } else {
        "SILENT"
    }
}

#[test]
fn no_damage_crashes_or_changes_an_answer_without_a_word() {
    let wanted = number_from_environment("DEBUT_TEST_DAMAGES", 30);
    let small = Small::in_memory();
    let mut worker = Worker::start(small.path());
    let kinds = kinds(&small, &mut worker);
    let mut rng = ChaCha8Rng::seed_from_u64(number_from_environment("DEBUT_TEST_SEED", 5) as u64);
    let mut bad = Vec::new();
    println!("{:30} {:>6} {}", "", "", OUTCOMES.map(|name| format!("{name:>12}")).concat());
    let wanted_kind = std::env::var("DEBUT_TEST_KIND").unwrap_or_default();
    for kind in kinds.iter().filter(|kind| wanted_kind.is_empty() || kind.name == wanted_kind) {
        let mut counts = BTreeMap::<&str, usize>::new();
        for number in 0..wanted * kind.files.len() {
            let file = &kind.files[number % kind.files.len()];
            let folder = small.path().join("damaged");
            copy_folder(&kind.folder, &folder);
            let before = fs::read(folder.join(file)).unwrap();
            if before.is_empty() {
                continue;
            }
            let mut bytes = before.clone();
            let (what, at) = damage(&mut bytes, &mut rng);
            if bytes != before {
                fs::write(folder.join(file), &bytes).unwrap();
                let answers = worker.ask(kind.read, &folder);
                let outcome = outcome(kind, &answers);
                *counts.entry(outcome).or_default() += 1;
                if matches!(outcome, "SILENT" | "CRASH") {
                    let (file, length) = (file.display(), before.len());
                    bad.push(format!("{outcome}: {}: {file}: {what} at {at} of {length}: {answers:?}", kind.name));
                }
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        let count = |name| format!("{:>12}", counts.get(name).copied().unwrap_or(0));
        println!("{:30} {:>6} {}", kind.name, counts.values().sum::<usize>(), OUTCOMES.map(count).concat());
    }
    let shown: Vec<&String> = bad.iter().take(20).collect();
    assert!(bad.is_empty(), "{} of them bad: {shown:#?}", bad.len());
}
