//! From files to vectors, without a catalogue.
//!
//! ```text
//!  inputs ──► workers (one a thread) ──► waiting ──► network ──► rows, in the order of the inputs
//!             decode, mel, hash          ≤ 64 windows
//! ```
//!
//! Nobody waits for the slowest of a group of files: each worker takes the next file when it is done with its last. On
//! the CPU the worker whose track fills the batch takes it through the network, alone, while the others go on hearing.
//! A GPU is fed by one more thread, always the same, with batches of one size. What waits, and what is under way, is
//! bounded, so memory is too.

use std::collections::HashSet;
use std::mem::take;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use std::vec;

use ndarray::Array2;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::artefact::content_hash;
use crate::audio::{Listening, Spent, hear};
use crate::encoder::{BATCH, Device, Model, Prediction};
use crate::error::{Error, Result};
use crate::inputs::Input;

/// A file's vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The id of the input, else the hash of the content.
    pub track: String,
    pub path: PathBuf,
    /// `[d]`, unit length.
    pub vector: Vec<f32>,
    /// The cosine to expect between the vector and what listeners are going to teach, 0 to 1, where the model knows.
    pub confidence: Option<f32>,
    /// The share of what was heard that was damaged, and is silent.
    pub lost: f64,
}

/// What became of the inputs.
#[derive(Debug, Default)]
pub struct Embedded {
    /// One a track, in the order of the inputs; of files with one content the first.
    pub rows: Vec<Row>,
    pub failed: u64,
    /// Inputs that were not reached, because the run was stopped.
    pub missing: u64,
    pub times: Times,
}

/// Where the time went: that of all threads, added up, on the clock of the wall. `heard`, `hash` and `network` are those
/// of `tracks`; `failed` is that of the files that failed; `wait` is what remains of `threads` times `seconds`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Tracks that were heard, copies too.
    pub tracks: u64,
    pub threads: usize,
    /// From the first file to the last vector.
    pub seconds: Duration,
    pub heard: Spent,
    /// Reading files to name them by their content.
    pub hash: Duration,
    pub network: Duration,
    pub failed: Duration,
    pub wait: Duration,
}

impl Times {
    /// All stages but the waiting.
    fn at_work(&self) -> Duration {
        let Spent { open, decode, resample, mel } = self.heard;
        open + decode + resample + mel + self.hash + self.network + self.failed
    }

    fn add(&mut self, other: &Times) {
        self.tracks += other.tracks;
        self.heard += other.heard;
        self.hash += other.hash;
        self.network += other.network;
        self.failed += other.failed;
    }
}

/// A track that was heard and waits for the network.
struct Waiting {
    /// Of its input, so that rows can be put in that order.
    place: usize,
    track: String,
    path: PathBuf,
    mels: Vec<Array2<f32>>,
    lost: f64,
}

/// What the workers share.
struct Job<'a> {
    model: &'a Model,
    listening: &'a Listening,
    inputs: Mutex<std::iter::Enumerate<vec::IntoIter<Result<Input>>>>,
    waiting: Mutex<Vec<Waiting>>,
    /// Tracks that make a batch.
    size: usize,
    stop: &'a AtomicBool,
    /// The network has failed.
    over: AtomicBool,
    /// Told once per input, with what kept it from being heard.
    report: &'a (dyn Fn(Option<&Error>) + Sync),
}

/// Where a worker's batches go.
enum Network {
    /// Through the network, here. It shares its work among the threads of the pool that it is called in: this has one.
    Here(ThreadPool),
    /// To the thread that feeds the device.
    Device(SyncSender<Vec<Waiting>>),
}

/// What a worker did.
#[derive(Default)]
struct Done {
    rows: Vec<(usize, Row)>,
    failed: u64,
    times: Times,
}

/// Embeds every input, on as many threads as the pool of rayon's that it is called in has; a GPU takes one more.
/// `report` is told of each input once it was heard, or why it could not be; `stop` ends the run early, with all that
/// was heard embedded.
///
/// # Errors
/// What the network refuses, naming the track. A file that cannot be heard is no error: it is reported and counted.
pub fn embed(
    model: &Model,
    inputs: Vec<Result<Input>>,
    listening: &Listening,
    stop: &AtomicBool,
    report: &(dyn Fn(Option<&Error>) + Sync),
) -> Result<Embedded> {
    run(model, model.device() == Device::Cpu, inputs, listening, stop, report)
}

/// `on_cpu`: workers take their batches through the network; else this thread does.
fn run(
    model: &Model,
    on_cpu: bool,
    inputs: Vec<Result<Input>>,
    listening: &Listening,
    stop: &AtomicBool,
    report: &(dyn Fn(Option<&Error>) + Sync),
) -> Result<Embedded> {
    listening.check()?;
    let started = Instant::now();
    let workers = rayon::current_num_threads();
    let job = Job {
        model,
        listening,
        inputs: Mutex::new(inputs.into_iter().enumerate()),
        waiting: Mutex::new(Vec::new()),
        size: (BATCH / listening.segments).max(1),
        stop,
        over: AtomicBool::new(false),
        report,
    };
    let mut all = Done::default();
    let done = thread::scope(|scope| -> Result<()> {
        let (to_device, batches) = sync_channel(1);
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let to_device = (!on_cpu).then(|| to_device.clone());
                let job = &job;
                scope.spawn(move || {
                    let done = work(job, to_device);
                    job.over.fetch_or(done.is_err(), Ordering::Relaxed);
                    done
                })
            })
            .collect();
        drop(to_device);
        for batch in batches {
            if let Err(e) = through_network(model, batch, 1, &mut all) {
                job.over.store(true, Ordering::Relaxed);
                return Err(e);
            }
        }
        for worker in workers {
            // A worker catches the panics of decoders; any other is passed on.
            let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.rows.extend(done.rows);
            all.failed += done.failed;
            all.times.add(&done.times);
        }
        Ok(())
    });
    done?;
    // All threads have nothing else to do now.
    let rest = take(&mut *lock(&job.waiting));
    through_network(model, rest, if on_cpu { workers as u32 } else { 1 }, &mut all)?;

    let Done { mut rows, failed, mut times } = all;
    rows.sort_unstable_by_key(|(place, _)| *place);
    let mut seen = HashSet::new();
    rows.retain(|(_, row)| seen.insert(row.track.clone()));
    times.threads = workers + usize::from(!on_cpu);
    times.seconds = started.elapsed();
    times.wait = (times.seconds * times.threads as u32).saturating_sub(times.at_work());
    let missing = lock(&job.inputs).len() as u64;
    Ok(Embedded { rows: rows.into_iter().map(|(_, row)| row).collect(), failed, missing, times })
}

/// Hears files until there are no more; on the CPU also takes the batches that it filled through the network.
fn work(job: &Job, to_device: Option<SyncSender<Vec<Waiting>>>) -> Result<Done> {
    let mut done = Done::default();
    let network = match to_device {
        Some(device) => Network::Device(device),
        None => Network::Here(one_thread()?),
    };
    while !job.stop.load(Ordering::Relaxed) && !job.over.load(Ordering::Relaxed) {
        let Some((place, input)) = lock(&job.inputs).next() else { break };
        let started = Instant::now();
        let heard = input.and_then(|input| one(job, place, input, &mut done.times));
        (job.report)(heard.as_ref().err());
        let Ok(heard) = heard else {
            done.failed += 1;
            done.times.failed += started.elapsed();
            continue;
        };
        let mut waiting = lock(&job.waiting);
        waiting.push(heard);
        if waiting.len() < job.size {
            continue;
        }
        let batch = take(&mut *waiting);
        match &network {
            Network::Here(alone) => {
                drop(waiting);
                alone.install(|| through_network(job.model, batch, 1, &mut done))?;
            }
            // The lock is kept, so that the other workers wait too when the device is behind, each with one track.
            Network::Device(device) => {
                if device.send(batch).is_err() {
                    // Nobody listens once the network has failed.
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// Hears one file and names it.
fn one(job: &Job, place: usize, input: Input, times: &mut Times) -> Result<Waiting> {
    let front_end = &job.model.config.front_end;
    let heard = hear(&input.path, front_end, front_end.frames, job.listening)?;
    let started = Instant::now();
    let track = match input.id {
        Some(id) => id.to_string(),
        None => content_hash(&input.path)?,
    };
    times.tracks += 1;
    times.heard += heard.spent;
    times.hash += started.elapsed();
    Ok(Waiting { place, track, path: input.path, mels: heard.mels, lost: heard.lost })
}

/// Embeds a batch, with so many threads at work on it.
fn through_network(model: &Model, batch: Vec<Waiting>, threads: u32, done: &mut Done) -> Result<()> {
    let started = Instant::now();
    let tracks: Vec<(&Path, &[Array2<f32>])> = batch.iter().map(|w| (w.path.as_path(), &w.mels[..])).collect();
    let said = model.hear_tracks(&tracks)?;
    let predictions: Vec<Prediction> = (batch.iter().zip(said.outer_iter()))
        .map(|(w, said)| model.config.prediction(&said.to_vec(), w.mels.len(), &[]))
        .collect::<Result<_>>()?;
    done.times.network += started.elapsed() * threads;
    let row = |(w, p): (Waiting, Prediction)| {
        let row = Row { track: w.track, path: w.path, vector: p.vector, confidence: p.confidence, lost: w.lost };
        (w.place, row)
    };
    done.rows.extend(batch.into_iter().zip(predictions).map(row));
    Ok(())
}

fn one_thread() -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(1).build();
    pool.map_err(|e| Error::invalid("threads", "as many as the system gives", e))
}

/// What a lock holds here is whole between any two steps, so also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::SpaceId;
    use crate::audio::{FrontEnd, write_wav};
    use crate::encoder::{EncoderConfig, ModelConfig, Weights};
    use crate::ids::TrackId;
    use std::sync::atomic::AtomicU64;

    /// A small model; its weights times 0 it predicts nothing, which is an error.
    fn model(scale: f32) -> Model {
        let encoder = EncoderConfig { channels: [4; 4], dense: [4; 2], dimensions: 4, ..EncoderConfig::default() };
        let mut weights = Weights::random(&encoder, 1);
        weights.layers.iter_mut().for_each(|layer| {
            layer.weight *= scale;
            layer.bias *= scale;
        });
        let config = ModelConfig {
            name: "test".into(),
            space: SpaceId::named("s"),
            typical_norm: 1.0,
            weights: String::new(),
            space_json: String::new(),
            encoder,
            front_end: FrontEnd::default(),
            artist: None,
            confidence: Vec::new(),
            held_out: String::new(),
            training: Default::default(),
            scores: Default::default(),
        };
        Model::new(config, &weights).unwrap()
    }

    /// Tones, named by their numbers; every tenth file is none.
    fn inputs(folder: &Path, n: usize) -> Vec<Result<Input>> {
        (0..n)
            .map(|i| {
                let path = folder.join(format!("{i:03}.wav"));
                let tone = |t: usize| (t as f32 * (0.02 + 0.001 * i as f32)).sin() * 0.5;
                match i % 10 {
                    9 => std::fs::write(&path, "not audio").unwrap(),
                    _ => write_wav(&path, &(0..30_000).map(tone).collect::<Vec<f32>>(), 22_050).unwrap(),
                }
                Ok(Input { id: Some(TrackId::new(format!("{i}")).unwrap()), ..Input::file(&path) })
            })
            .collect()
    }

    fn embed_with(
        threads: usize,
        model: &Model,
        inputs: Vec<Result<Input>>,
        segments: usize,
        stop_after: u64,
    ) -> Result<Embedded> {
        embed_where(true, threads, model, inputs, segments, stop_after)
    }

    fn embed_where(
        on_cpu: bool,
        threads: usize,
        model: &Model,
        inputs: Vec<Result<Input>>,
        segments: usize,
        stop_after: u64,
    ) -> Result<Embedded> {
        let (stop, told) = (AtomicBool::new(false), AtomicU64::new(0));
        let listening = Listening { segments, ..Listening::default() };
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            run(model, on_cpu, inputs, &listening, &stop, &|_| {
                if told.fetch_add(1, Ordering::Relaxed) + 1 >= stop_after {
                    stop.store(true, Ordering::Relaxed);
                }
            })
        })
    }

    #[test]
    fn rows_are_those_of_the_inputs_in_their_order_on_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(1.0);
        // More than two batches of 64; with 3 windows, of 21 tracks.
        for (n, segments) in [(150, 1), (50, 3), (0, 1)] {
            let alone = embed_with(1, &model, inputs(dir.path(), n), segments, u64::MAX).unwrap();
            let tracks: Vec<usize> = alone.rows.iter().map(|row| row.track.parse().unwrap()).collect();
            assert_eq!(tracks, (0..n).filter(|i| i % 10 != 9).collect::<Vec<_>>());
            assert_eq!((alone.failed, alone.missing), (n as u64 / 10, 0));
            for threads in [2, 5] {
                let many = embed_with(threads, &model, inputs(dir.path(), n), segments, u64::MAX).unwrap();
                assert_eq!(many.rows, alone.rows);
                // No stage is given more time than the threads had, and none is left out.
                let Times { threads: had, seconds, wait, .. } = many.times;
                assert_eq!((had, many.times.tracks), (threads, tracks.len() as u64));
                assert_eq!(many.times.at_work() + wait, seconds * had as u32);
            }
        }
    }

    #[test]
    fn one_thread_that_feeds_a_device_makes_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(1.0);
        let here = embed_with(2, &model, inputs(dir.path(), 200), 1, u64::MAX).unwrap();
        let there = embed_where(false, 3, &model, inputs(dir.path(), 200), 1, u64::MAX).unwrap();
        assert_eq!((there.rows, there.times.threads), (here.rows, 4));
        let stopped = embed_where(false, 3, &model, inputs(dir.path(), 200), 1, 150).unwrap();
        assert_eq!(stopped.rows.len() as u64 + stopped.failed + stopped.missing, 200);
        assert!(embed_where(false, 3, &self::model(0.0), inputs(dir.path(), 200), 1, u64::MAX).is_err());
    }

    #[test]
    fn files_with_one_content_are_one_row_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = inputs(dir.path(), 1).remove(0).unwrap().path;
        let copy = dir.path().join("000 copy.wav");
        std::fs::copy(&first, &copy).unwrap();
        let both = vec![Ok(Input::file(&copy)), Ok(Input::file(&first))];
        let embedded = embed_with(2, &model(1.0), both, 1, u64::MAX).unwrap();
        assert_eq!(embedded.rows.iter().map(|row| &row.path).collect::<Vec<_>>(), [&copy]);
        assert_eq!(embedded.times.tracks, 2);
    }

    #[test]
    fn what_was_heard_before_a_stop_is_embedded_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(1.0);
        let all = embed_with(1, &model, inputs(dir.path(), 100), 1, u64::MAX).unwrap().rows;
        for threads in [1, 3] {
            let some = embed_with(threads, &model, inputs(dir.path(), 100), 1, 70).unwrap();
            let reached = 100 - some.missing;
            // Each worker ends the file that it is at.
            assert!((70..70 + threads as u64).contains(&reached), "{reached}");
            assert_eq!(some.rows.len() as u64 + some.failed, reached);
            assert!(some.rows.iter().all(|row| all.contains(row)));
        }
    }

    #[test]
    fn a_network_that_fails_ends_the_run_and_names_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for n in [3, 150] {
            let message = embed_with(2, &model(0.0), inputs(dir.path(), n), 1, u64::MAX).unwrap_err().to_string();
            assert!(message.contains("direction") && message.contains(".wav"), "{message}");
        }
    }
}
