//! Training: squared distance to unit-length targets, random windows and crops, the best epoch kept.
//!
//! `out/` holds, each written whole or not at all: `metrics.jsonl` (a line per epoch), `curve.svg`,
//! `best.safetensors` (the weights of the best epoch) and `last.safetensors` (weights, running average and optimiser
//! state). Training into a folder that holds an unfinished run of the same settings and data continues it, and ends
//! with the same numbers as if it had never stopped.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::dataset::{Augment, Batch, Message, Source, Spectrograms, standardisation, tensor};
use super::embed::normalise;
use super::model::{read_tensors, write_tensors};
pub use super::optimiser::Optimiser;
use super::optimiser::{State, Step};
use super::tape::Tape;
use super::{AudioEncoder, EncoderConfig, Weights};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};
use crate::plot::{Chart, Series};

/// How to train. `Default` follows the post where it says (Nesterov momentum, dropout, random crops, squared error).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training tracks; each hears one random crop of each track (100).
    pub epochs: usize,
    /// Tracks per step (32).
    pub batch_size: usize,
    /// `sgd` (Nesterov momentum, the reference) or `adamw`.
    pub optimiser: Optimiser,
    /// The highest step size, after warm-up (0.002 for sgd, 0.0003 for adamw). The loss sums over the dimensions of a
    /// factor, so the right value does not depend on their number.
    pub learning_rate: f64,
    /// Nesterov's momentum, AdamW's β₁ (0.9).
    pub momentum: f64,
    /// The share of each weight (not bias) shed per step is this times the learning rate (0; 0.05 under adamw).
    pub weight_decay: f64,
    /// The share of all steps in which the learning rate rises linearly to its highest value (0.05); it then falls to 0
    /// along half a cosine (Loshchilov & Hutter 2017).
    pub warm_up: f64,
    /// Gradients longer than this, over all weights together, are shortened to it (1; 0: never). The loss of most steps
    /// has a shorter one; a rare long one would throw the network out of reach of any gradient (Pascanu et al. 2013).
    pub clip: f64,
    /// How much of a running average of the weights is kept per step (0.99: it spans about 100 steps); the average is
    /// what is validated and kept. It stands for an ensemble of recent networks and costs next to nothing. 0: off.
    pub average: f64,
    /// Whether each visit hears another random crop of the window (true) or always its middle.
    pub crop: bool,
    /// At most this many windows of each track are used, nearest the middle first (8).
    pub windows: usize,
    /// Changes to what the network hears; off by default.
    pub augment: Augment,
    /// Stop when the validation loss has not improved for this many epochs (0: never).
    pub patience: usize,
    /// Equal seeds, settings and data give equal numbers on one machine.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 100,
            batch_size: 32,
            optimiser: Optimiser::Sgd,
            learning_rate: 0.002,
            momentum: 0.9,
            weight_decay: 0.0,
            warm_up: 0.05,
            clip: 1.0,
            average: 0.99,
            crop: true,
            windows: 8,
            augment: Augment::default(),
            patience: 0,
            seed: 1,
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// `Invalid` where a setting is out of range.
    pub fn check(&self) -> Result<()> {
        let counts = [("epochs", self.epochs), ("batch_size", self.batch_size), ("windows", self.windows)];
        for (name, count) in counts {
            if !(1..=1 << 20).contains(&count) {
                return Err(Error::invalid(format!("train.{name}"), "1 to 1048576", count));
            }
        }
        let below_one = [("momentum", self.momentum), ("warm_up", self.warm_up), ("average", self.average)];
        for (name, x) in below_one {
            if !(0.0..1.0).contains(&x) {
                return Err(Error::invalid(format!("train.{name}"), "at least 0, below 1", x));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::invalid("train.learning_rate", "a positive number", self.learning_rate));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0) {
            return Err(Error::invalid("train.weight_decay", "0 to 1 / learning_rate", self.weight_decay));
        }
        if !(self.clip >= 0.0 && self.clip.is_finite()) {
            return Err(Error::invalid("train.clip", "a number from 0", self.clip));
        }
        if !(0.0..=60.0).contains(&self.augment.gain_db) {
            return Err(Error::invalid("train.augment.gain_db", "0 to 60", self.augment.gain_db));
        }
        if !(0.0..=100.0).contains(&self.augment.mixup) {
            return Err(Error::invalid("train.augment.mixup", "0 to 100", self.augment.mixup));
        }
        Ok(())
    }

    /// The learning rate of a step out of `steps`.
    fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = (self.warm_up * steps as f64).ceil();
        let step = step as f64;
        if step < warm {
            return self.learning_rate * (step + 1.0) / warm;
        }
        let done = (step - warm) / (steps as f64 - warm).max(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// How an epoch went: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean weighted squared distance to the target over the training batches, with dropout and augmentation.
    pub train_loss: f64,
    /// Mean squared distance to the target over the validation tracks: the dimensions times the mean squared error. 1
    /// is what predicting 0 gives.
    pub valid_loss: f64,
    /// Mean cosine between prediction and target over the validation tracks.
    pub valid_cosine: f64,
    /// At its last step.
    pub learning_rate: f64,
    /// Wall time.
    pub seconds: f64,
}

/// What training made.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Of the epoch with the lowest validation loss.
    pub weights: Weights,
    pub best: Epoch,
    pub epochs: Vec<Epoch>,
    /// The validation loss of always predicting the training tracks' mean target: the floor.
    pub constant_loss: f64,
    /// Whether all epochs were run or patience ended it; `false`: `progress` stopped it, and it can be continued.
    pub finished: bool,
}

/// The part of a run that `last.safetensors` and `best.safetensors` say in words.
#[derive(Serialize, Deserialize)]
struct Progress {
    /// Hash of settings and data.
    run: String,
    epochs: Vec<Epoch>,
    steps: u64,
}

/// Checkpoints are at least this far apart: one is 150 MB, and writing it takes a second or so.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
const LAST: &str = "last.safetensors";
const BEST: &str = "best.safetensors";

/// Trains a network on the tracks `train` and keeps the epoch that does best on the tracks `valid`.
///
/// `targets` `[tracks, dimensions]` are scaled to unit length here; `weights` `[tracks]` say how much each track counts
/// (only their ratios matter). `progress` sees every epoch and may stop the run, which can then be continued.
///
/// # Errors
/// `Mismatch` and `Invalid` for settings and data that do not fit (also where `out` holds another run), whatever
/// `spectrograms` fail with, and `Invalid` where the loss is no longer a number.
#[allow(clippy::too_many_arguments)] // Each is one thing, and no two belong together.
pub fn train(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    spectrograms: &dyn Spectrograms,
    targets: ArrayView2<f32>,
    weights: &[f32],
    train: &[usize],
    valid: &[usize],
    out: &Path,
    progress: &mut dyn FnMut(&Epoch) -> ControlFlow<()>,
) -> Result<Trained> {
    config.check()?;
    encoder.check()?;
    check_fit(encoder, spectrograms, targets)?;
    let targets = unit_targets(targets, weights, train, valid)?;
    let total: f64 = train.iter().map(|&t| f64::from(weights[t])).sum();
    let scale = train.len() as f64 / total;
    let weights: Vec<f32> = weights.iter().map(|&w| (f64::from(w) * scale) as f32).collect();
    let constant_loss = constant_loss(&targets, &weights, train, valid);

    let run = run_hash(config, encoder, &targets, &weights, train, valid)?;
    let mut state;
    let mut best: Option<(Epoch, Weights)> = None;
    let mut done = Progress { run, epochs: Vec::new(), steps: 0 };
    match read_checkpoint(&out.join(LAST), &done.run, encoder)? {
        Some((progress, found)) => {
            (state, done) = (found, progress);
            best = read_best(&out.join(BEST), &done, encoder)?;
        }
        None => {
            let mut fresh = Weights::random(encoder, config.seed);
            (fresh.mean, fresh.std) = standardisation(spectrograms, train)?;
            state = State::new(fresh);
        }
    }
    let mean = state.weights.mean.clone();
    let source = Source {
        spectrograms,
        encoder,
        targets: targets.view(),
        weights: &weights,
        train,
        valid,
        batch_size: config.batch_size,
        windows: middle_windows(spectrograms.windows(), config.windows),
        crop: config.crop,
        augment: &config.augment,
        mean: &mean,
        seed: config.seed,
    };
    let steps = (train.len().div_ceil(config.batch_size) * config.epochs) as u64;
    let first = done.epochs.len();
    let mut finished = first >= config.epochs || out_of_patience(&done.epochs, config.patience);

    std::thread::scope(|scope| -> Result<()> {
        // Two batches wait while one trains: the disk and the network do not wait for each other.
        let (send, receive) = sync_channel(2);
        let source = &source;
        scope.spawn(move || source.stream(first..config.epochs, &send));
        // Dropping the receiver, at the end of this closure or by an error, ends the loader.
        let receive = receive;
        let mut saved = Instant::now();
        let mut tape = Tape::new(encoder);
        while !finished {
            let epoch = run_epoch(config, encoder, &mut tape, &mut state, &mut done, steps, &receive)?;
            done.epochs.push(epoch.clone());
            if best.as_ref().is_none_or(|(b, _)| epoch.valid_loss < b.valid_loss) {
                best = Some((epoch.clone(), state.average.clone()));
            }
            write_metrics(out, &done.epochs, constant_loss)?;
            let stop = progress(&epoch).is_break();
            finished = done.epochs.len() >= config.epochs || out_of_patience(&done.epochs, config.patience);
            if stop || finished || saved.elapsed() > CHECKPOINT_EVERY {
                write_checkpoints(out, &done, &state, best.as_ref(), encoder)?;
                saved = Instant::now();
            }
            if stop {
                break;
            }
        }
        Ok(())
    })?;
    let (best, weights) = best.ok_or_else(|| Error::invalid("training", "at least one epoch", "none"))?;
    Ok(Trained { weights, best, epochs: done.epochs, constant_loss, finished })
}

/// Trains over one epoch's batches and judges the running average on its validation batches.
fn run_epoch(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    tape: &mut Tape,
    state: &mut State,
    done: &mut Progress,
    steps: u64,
    batches: &Receiver<Result<Message>>,
) -> Result<Epoch> {
    let start = Instant::now();
    let number = done.epochs.len() + 1;
    let (mut trained, mut judged) = (Mean::default(), Mean::default());
    let (mut cosines, mut judge) = (Mean::default(), None);
    let mut rate = 0.0;
    loop {
        let message =
            batches.recv().map_err(|_| Error::invalid("training", "another batch", "a loader that stopped"))??;
        match message {
            Message::Train(batch) => {
                rate = config.rate(done.steps, steps);
                let tracks = batch.weights.len();
                let answers = tape.forward(&state.weights, batch.mels.view(), batch.dropout.as_ref());
                let (loss, d_answers) = squared_distance(&answers, &batch);
                let gradients = tape.backward(&state.weights, batch.dropout.as_ref(), d_answers.view());
                let length = length(gradients);
                if !loss.is_finite() || !length.is_finite() {
                    let what = format!("the loss of epoch {number}, step {}", done.steps);
                    return Err(Error::invalid(what, "a finite number", format!("{loss}: lower the learning rate")));
                }
                let step = Step {
                    optimiser: config.optimiser,
                    learning_rate: rate as f32,
                    momentum: config.momentum as f32,
                    weight_decay: config.weight_decay as f32,
                    average: config.average as f32,
                    number: done.steps,
                    shorten: if config.clip > 0.0 && length > config.clip {
                        (config.clip / length) as f32
                    } else {
                        1.0
                    },
                };
                state.step(&step, gradients);
                trained.add(loss, tracks);
                done.steps += 1;
            }
            Message::Valid(batch) => {
                let net = judge.get_or_insert_with(|| AudioEncoder::new(encoder, &state.average, &Device::flex()));
                for (loss, cosine) in judgements(net, batch)? {
                    judged.add(loss, 1);
                    cosines.add(cosine, 1);
                }
            }
            Message::Done => break,
        }
    }
    Ok(Epoch {
        epoch: number,
        train_loss: rounded(trained.value()),
        valid_loss: rounded(judged.value()),
        valid_cosine: rounded(cosines.value()),
        learning_rate: rounded(rate),
        seconds: rounded(start.elapsed().as_secs_f64()),
    })
}

/// The weighted mean over a batch of the squared distance to the target, and its gradient by the answers
/// `[b, dimensions]`: 2 w (y - target) / b.
fn squared_distance(answers: &Array2<f32>, batch: &Batch) -> (f64, Array2<f32>) {
    let mut gradient = answers - &batch.targets;
    let mut sum = 0.0;
    for (mut missed, &weight) in gradient.outer_iter_mut().zip(&batch.weights) {
        sum += f64::from(weight) * missed.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        missed *= 2.0 * weight / batch.weights.len() as f32;
    }
    (sum / batch.weights.len() as f64, gradient)
}

/// The length of a gradient, over all of its slices.
fn length(gradients: &[Vec<f32>]) -> f64 {
    // Chunks of one size summed in order: the same on any number of cores.
    let squares: Vec<f64> = gradients
        .iter()
        .flat_map(|g| {
            g.par_chunks(1 << 16).map(|c| c.iter().map(|&x| f64::from(x).powi(2)).sum()).collect::<Vec<f64>>()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// Squared distance and cosine to the target, of each track of a batch.
fn judgements(net: &AudioEncoder, batch: Batch) -> Result<Vec<(f64, f64)>> {
    let answers: Tensor<2> = net.forward(tensor(batch.mels, &Device::flex()), None);
    let answers: Vec<f32> = answers
        .into_data()
        .try_into_vec_as()
        .map_err(|e| Error::invalid("the network's answer", "32-bit floats", format!("{e:?}")))?;
    let rows = answers.chunks(batch.targets.ncols()).zip(batch.targets.outer_iter());
    Ok(rows
        .map(|(answer, target)| {
            let answer = Array1::from_iter(answer.iter().map(|&x| f64::from(x)));
            let target = target.mapv(f64::from);
            let missed = &answer - &target;
            let length = answer.dot(&answer).sqrt() * target.dot(&target).sqrt();
            // A prediction of length 0 points nowhere: no better than one at a right angle.
            let cosine = if length > 0.0 { answer.dot(&target) / length } else { 0.0 };
            (missed.dot(&missed), cosine)
        })
        .collect())
}

/// To 7 significant digits: all that the losses have, and what a line of JSON gives back exactly.
fn rounded(x: f64) -> f64 {
    format!("{x:.6e}").parse().unwrap_or(x)
}

/// A running mean.
#[derive(Default)]
struct Mean {
    sum: f64,
    n: usize,
}

impl Mean {
    fn add(&mut self, value: f64, times: usize) {
        self.sum += value * times as f64;
        self.n += times;
    }
    fn value(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }
}

fn check_fit(encoder: &EncoderConfig, spectrograms: &dyn Spectrograms, targets: ArrayView2<f32>) -> Result<()> {
    let pairs = [
        ("spectrograms and targets: tracks", spectrograms.len(), targets.nrows()),
        ("network and targets: dimensions", encoder.dimensions, targets.ncols()),
        ("network and spectrograms: mel bands", encoder.mel_bands, spectrograms.mel_bands()),
    ];
    for (what, expected, found) in pairs {
        if expected != found {
            return Err(Error::mismatch(what, expected, found));
        }
    }
    if spectrograms.frames() < encoder.frames {
        let expected = format!("at least {}", encoder.frames);
        return Err(Error::mismatch("network and spectrograms: frames", expected, spectrograms.frames()));
    }
    if spectrograms.windows() == 0 {
        return Err(Error::invalid("spectrograms", "at least one window per track", 0));
    }
    Ok(())
}

/// The targets scaled to unit length where they are used, after checking that they, the weights and the split can be.
pub(super) fn unit_targets(
    targets: ArrayView2<f32>,
    weights: &[f32],
    train: &[usize],
    valid: &[usize],
) -> Result<Array2<f32>> {
    let tracks = targets.nrows();
    if weights.len() != tracks {
        return Err(Error::mismatch("targets and weights: tracks", tracks, weights.len()));
    }
    if train.is_empty() || valid.is_empty() {
        let found = format!("{} and {}", train.len(), valid.len());
        return Err(Error::invalid("training and validation tracks", "at least one each", found));
    }
    let mut seen = vec![false; tracks];
    let mut units = targets.to_owned();
    for &track in train.iter().chain(valid) {
        if track >= tracks {
            return Err(Error::invalid("a track of the split", format!("below {tracks}"), track));
        }
        if std::mem::replace(&mut seen[track], true) {
            return Err(Error::invalid("the split", "each track once", format!("track {track} twice")));
        }
        if !normalise(units.row_mut(track)) {
            let found = format!("{:?}", targets.row(track).iter().take(3).collect::<Vec<_>>());
            return Err(Error::invalid(format!("the target of track {track}"), "a finite length above 0", found));
        }
    }
    let bad = |&&t: &&usize| !(weights[t].is_finite() && weights[t] >= 0.0);
    if let Some(&track) = train.iter().find(bad) {
        return Err(Error::invalid(format!("the weight of track {track}"), "a number from 0", weights[track]));
    }
    if train.iter().all(|&t| weights[t] == 0.0) {
        return Err(Error::invalid("the training tracks' weights", "one above 0", "none"));
    }
    Ok(units)
}

/// The validation loss of predicting the training tracks' weighted mean target everywhere.
fn constant_loss(targets: &Array2<f32>, weights: &[f32], train: &[usize], valid: &[usize]) -> f64 {
    let targets = targets.mapv(f64::from);
    let mut mean = Array1::<f64>::zeros(targets.ncols());
    for &t in train {
        mean.scaled_add(f64::from(weights[t]) / train.len() as f64, &targets.row(t));
    }
    let missed = targets.select(Axis(0), valid) - &mean;
    (&missed * &missed).sum() / valid.len() as f64
}

/// At most `most` windows of `windows`, nearest the middle first.
fn middle_windows(windows: usize, most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..windows).collect();
    all.sort_by_key(|&w| (w.abs_diff(windows / 2), w));
    all.truncate(most);
    all
}

fn out_of_patience(epochs: &[Epoch], patience: usize) -> bool {
    let best = epochs.iter().min_by(|a, b| a.valid_loss.total_cmp(&b.valid_loss));
    patience > 0 && best.is_some_and(|best| epochs.len() - best.epoch >= patience)
}

/// Names a run: its settings, its targets and its split. (Not its spectrograms, which would have to be read.)
fn run_hash(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    targets: &Array2<f32>,
    weights: &[f32],
    train: &[usize],
    valid: &[usize],
) -> Result<String> {
    let words = serde_json::to_vec(&(config, encoder, train, valid))
        .map_err(|e| Error::invalid("training settings", "a value that JSON can hold", e))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&words);
    // Of unused tracks too: a changed target file is another run.
    targets.iter().chain(weights).for_each(|x| {
        hasher.update(&x.to_le_bytes());
    });
    Ok(hasher.finalize().to_hex().to_string())
}

fn write_metrics(out: &Path, epochs: &[Epoch], constant_loss: f64) -> Result<()> {
    let path = out.join("metrics.jsonl");
    let lines: Result<Vec<String>, _> = epochs.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|e| Error::format(&path, "a value that JSON can hold", e))?;
    atomic_write(&path, |file| lines.iter().try_for_each(|line| writeln!(file, "{line}")))?;
    let points = |y: fn(&Epoch) -> f64| epochs.iter().map(|e| (e.epoch as f64, y(e))).collect();
    let ends = epochs.first().zip(epochs.last()).map(|(a, b)| [a.epoch as f64, b.epoch as f64]);
    let chart = Chart {
        title: "Training".into(),
        x_label: "epoch".into(),
        y_label: "squared distance to the target (cosine: dashed)".into(),
        series: vec![
            Series { name: "training".into(), points: points(|e| e.train_loss), dashed: false },
            Series { name: "validation".into(), points: points(|e| e.valid_loss), dashed: false },
            Series {
                name: "validation, mean target".into(),
                points: ends.into_iter().flatten().map(|x| (x, constant_loss)).collect(),
                dashed: false,
            },
            Series { name: "validation cosine".into(), points: points(|e| e.valid_cosine), dashed: true },
        ],
    };
    atomic_write(&out.join("curve.svg"), |file| file.write_all(chart.svg().as_bytes()))
}

fn write_checkpoints(
    out: &Path,
    done: &Progress,
    state: &State,
    best: Option<&(Epoch, Weights)>,
    encoder: &EncoderConfig,
) -> Result<()> {
    let write = |name: &str, networks: &[(&str, &Weights)], words: String| {
        let path = out.join(name);
        let metadata = HashMap::from([("progress".to_string(), words), (HASH.to_string(), NO_HASH.to_string())]);
        let mut bytes = write_tensors(networks, Dtype::F32, encoder, metadata)
            .map_err(|e| Error::format(&path, "weights that a file can hold", e))?;
        let hash = blake3::hash(&bytes).to_hex();
        if let Some(place) = place_of_hash(&mut bytes) {
            place.copy_from_slice(hash.as_bytes());
        }
        atomic_write(&path, |file| file.write_all(&bytes))
    };
    let words = |epochs: Vec<Epoch>| {
        serde_json::to_string(&Progress { run: done.run.clone(), epochs, steps: done.steps })
            .map_err(|e| Error::invalid("training progress", "a value that JSON can hold", e))
    };
    // The best first: where only one of the two is written, the last is older, and repeats the way to this best.
    if let Some((epoch, weights)) = best {
        write(BEST, &[("", weights)], words(vec![epoch.clone()])?)?;
    }
    let parts = [
        ("weights.", &state.weights),
        ("average.", &state.average),
        ("first.", &state.first),
        ("second.", &state.second),
    ];
    write(LAST, &parts, words(done.epochs.clone())?)
}

/// The metadata that holds the BLAKE3 hash of the whole checkpoint, as it was with [`NO_HASH`] in its place.
const HASH: &str = "blake3";
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn place_of_hash(bytes: &mut [u8]) -> Option<&mut [u8]> {
    let name = format!("\"{HASH}\":\"");
    let at = bytes.windows(name.len()).position(|w| w == name.as_bytes())? + name.len();
    bytes.get_mut(at..at + NO_HASH.len())
}

/// A checkpoint's bytes and words, `None` where there is none.
fn read_words(path: &Path) -> Result<Option<(Vec<u8>, Progress)>> {
    let mut bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io(path))?,
    };
    let place =
        place_of_hash(&mut bytes).ok_or_else(|| Error::format(path, "a checkpoint", "a file without a hash"))?;
    let expected = String::from_utf8_lossy(place).into_owned();
    place.copy_from_slice(NO_HASH.as_bytes());
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() != expected {
        return Err(Error::format(path, format!("BLAKE3 {expected}"), found));
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| Error::format(path, "a checkpoint", e))?;
    let words = header.metadata().as_ref().and_then(|m| m.get("progress"));
    let words = words.ok_or_else(|| Error::format(path, "a checkpoint", "a file without progress"))?;
    let progress = serde_json::from_str(words).map_err(|e| Error::format(path, "a checkpoint", e))?;
    Ok(Some((bytes, progress)))
}

fn read_checkpoint(path: &Path, run: &str, encoder: &EncoderConfig) -> Result<Option<(Progress, State)>> {
    let Some((bytes, progress)) = read_words(path)? else { return Ok(None) };
    if progress.run != run {
        let what = format!("{} and these settings and data", path.display());
        return Err(Error::mismatch(what, "a checkpoint of this run (or an empty folder)", "one of another run"));
    }
    let part = |prefix| read_tensors(&bytes, prefix, Dtype::F32, encoder).map_err(|(e, f)| Error::format(path, e, f));
    let state = State {
        weights: part("weights.")?,
        average: part("average.")?,
        first: part("first.")?,
        second: part("second.")?,
    };
    Ok(Some((progress, state)))
}

fn read_best(path: &Path, done: &Progress, encoder: &EncoderConfig) -> Result<Option<(Epoch, Weights)>> {
    let Some((bytes, progress)) = read_words(path)? else { return Ok(None) };
    let Some(epoch) = progress.epochs.into_iter().next() else { return Ok(None) };
    // A best from beyond the last checkpoint will be found again.
    if progress.run != done.run || epoch.epoch > done.epochs.len() {
        return Ok(None);
    }
    let weights = read_tensors(&bytes, "", Dtype::F32, encoder).map_err(|(e, f)| Error::format(path, e, f))?;
    Ok(Some((epoch, weights)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::dataset::tests::Planted;
    use crate::encoder::tests::tiny;

    fn quick() -> TrainConfig {
        TrainConfig { epochs: 8, batch_size: 16, learning_rate: 0.01, average: 0.8, ..TrainConfig::default() }
    }

    fn split(tracks: usize) -> (Vec<usize>, Vec<usize>) {
        (0..tracks).partition(|t| t % 4 != 0)
    }

    fn run(config: &TrainConfig, encoder: &EncoderConfig, out: &Path, stop_after: usize) -> Result<Trained> {
        let planted = Planted::new(160);
        let (train_tracks, valid) = split(160);
        train(
            config,
            encoder,
            &planted,
            planted.targets(5).view(),
            &[2.0; 160],
            &train_tracks,
            &valid,
            out,
            &mut |epoch| if epoch.epoch == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) },
        )
    }

    /// Without its times, which no two runs share.
    fn numbers(epochs: &[Epoch]) -> Vec<Epoch> {
        epochs.iter().map(|e| Epoch { seconds: 0.0, ..e.clone() }).collect()
    }

    #[test]
    fn it_learns_what_is_planted() {
        let encoder = EncoderConfig { channels: [16, 16, 24, 24], dense: [48, 48], ..tiny() };
        for (optimiser, learning_rate) in [(Optimiser::Sgd, 0.007), (Optimiser::AdamW, 0.004)] {
            let dir = tempfile::tempdir().unwrap();
            let config = TrainConfig { epochs: 25, batch_size: 8, optimiser, learning_rate, ..quick() };
            let trained = run(&config, &encoder, dir.path(), 0).unwrap();
            let best = &trained.best;
            assert!(trained.finished && trained.epochs.len() == 25);
            assert!(best.valid_loss < 0.35 * trained.constant_loss, "{best:?} {}", trained.constant_loss);
            assert!(best.valid_cosine > 0.85, "{best:?}");
            let lines = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
            let lines: Vec<Epoch> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(lines, trained.epochs);
            assert!(fs::read_to_string(dir.path().join("curve.svg")).unwrap().contains("</svg>"));
        }
    }

    #[test]
    fn one_seed_gives_one_result_and_another_another() {
        let encoder = EncoderConfig { dropout: 0.3, ..tiny() };
        let augment = Augment { mask_bands: 2, mask_frames: 5, gain_db: 3.0, shift_bands: 1, mixup: 0.2 };
        let config = TrainConfig { epochs: 3, augment, ..quick() };
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let first = run(&config, &encoder, dirs[0].path(), 0).unwrap();
        let second = run(&config, &encoder, dirs[1].path(), 0).unwrap();
        let third = run(&TrainConfig { seed: 2, ..config }, &encoder, dirs[2].path(), 0).unwrap();
        assert_eq!(numbers(&first.epochs), numbers(&second.epochs));
        assert_eq!(first.weights, second.weights);
        assert_ne!(numbers(&first.epochs), numbers(&third.epochs));
    }

    #[test]
    fn a_stopped_run_continues_to_the_undisturbed_result() {
        for optimiser in [Optimiser::Sgd, Optimiser::AdamW] {
            let config = TrainConfig { epochs: 6, optimiser, learning_rate: 0.003, ..quick() };
            let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let undisturbed = run(&config, &tiny(), dirs[0].path(), 0).unwrap();
            let stopped = run(&config, &tiny(), dirs[1].path(), 2).unwrap();
            assert!(!stopped.finished && stopped.epochs.len() == 2);
            let continued = run(&config, &tiny(), dirs[1].path(), 0).unwrap();
            assert_eq!(numbers(&undisturbed.epochs), numbers(&continued.epochs));
            assert_eq!(undisturbed.weights, continued.weights);
            // And a finished run is not run again.
            let again = run(&config, &tiny(), dirs[1].path(), 0).unwrap();
            assert_eq!(again.epochs, continued.epochs);
            assert_eq!(again.weights, continued.weights);
        }
    }

    #[test]
    fn a_folder_with_another_run_or_a_damaged_checkpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { epochs: 1, ..quick() };
        run(&config, &tiny(), dir.path(), 0).unwrap();
        let other = run(&TrainConfig { seed: 9, ..config.clone() }, &tiny(), dir.path(), 0).unwrap_err();
        assert!(matches!(&other, Error::Mismatch { .. }) && other.to_string().contains(LAST), "{other}");
        let path = dir.path().join(LAST);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let damaged = run(&config, &tiny(), dir.path(), 0).unwrap_err();
        assert!(matches!(&damaged, Error::Format { .. }), "{damaged}");
    }

    #[test]
    fn a_loss_that_explodes_and_a_track_that_cannot_be_read_stop_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let exploded = run(&TrainConfig { learning_rate: 1e6, ..quick() }, &tiny(), dir.path(), 0).unwrap_err();
        assert!(exploded.to_string().contains("lower the learning rate"), "{exploded}");

        let planted = Planted { broken: Some(8), ..Planted::new(20) };
        let (train_tracks, valid) = split(20);
        let go = |tracks: &[usize], weights: &[f32], targets: &Array2<f32>| {
            let unbothered = &mut |_: &Epoch| ControlFlow::Continue(());
            train(&quick(), &tiny(), &planted, targets.view(), weights, tracks, &valid, dir.path(), unbothered)
        };
        let targets = planted.targets(5);
        assert!(go(&train_tracks, &[1.0; 20], &targets).unwrap_err().to_string().contains("track 8"));
        assert!(go(&[1, 1], &[1.0; 20], &targets).unwrap_err().to_string().contains("track 1 twice"));
        assert!(go(&[1, 20], &[1.0; 20], &targets).unwrap_err().to_string().contains("below 20"));
        assert!(go(&[], &[1.0; 20], &targets).is_err());
        assert!(go(&[1], &[0.0; 20], &targets).unwrap_err().to_string().contains("weights"));
        assert!(go(&[1], &[1.0; 19], &targets).is_err());
        for bad in [0.0, f32::NAN] {
            let mut targets = targets.clone();
            targets.row_mut(1).fill(bad);
            assert!(go(&[1], &[1.0; 20], &targets).unwrap_err().to_string().contains("target of track 1"));
        }
    }

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let config = TrainConfig { warm_up: 0.1, ..TrainConfig::default() };
        let rates: Vec<f64> = (0..100).map(|s| config.rate(s, 100)).collect();
        assert!((rates[0] - 0.0002).abs() < 1e-12 && rates[9] == 0.002 && rates[10] == 0.002);
        assert!(rates[10..].is_sorted_by(|a, b| a >= b));
        assert!((rates[55] - 0.001).abs() < 1e-9 && rates[99] < 1e-5);
    }

    #[test]
    fn windows_are_taken_from_the_middle_out_and_patience_ends() {
        assert_eq!(middle_windows(5, 3), [2, 1, 3]);
        assert_eq!(middle_windows(1, 8), [0]);
        let epochs = |losses: &[f64]| -> Vec<Epoch> {
            let epoch = |(i, &valid_loss)| Epoch {
                epoch: i + 1,
                train_loss: 0.0,
                valid_loss,
                valid_cosine: 0.0,
                learning_rate: 0.0,
                seconds: 0.0,
            };
            losses.iter().enumerate().map(epoch).collect()
        };
        assert!(!out_of_patience(&epochs(&[3.0, 1.0, 2.0]), 2));
        assert!(out_of_patience(&epochs(&[3.0, 1.0, 2.0, 2.0]), 2));
        assert!(!out_of_patience(&epochs(&[3.0, 1.0, 2.0, 2.0]), 0));
    }
}
