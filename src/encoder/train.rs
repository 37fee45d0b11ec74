//! Training: random windows and crops, an objective, an optimiser; the best epoch kept.
//!
//! `out/` holds, each written whole or not at all: `metrics.jsonl` (a line per epoch), `curve.svg`, `best.safetensors` (the
//! weights of the best epoch) and `last.safetensors` (weights, running average and optimiser state, as of any step); and
//! `events.out.tfevents.debut`, which TensorBoard follows as it grows. Training into a folder that holds an unfinished run of
//! the same settings and data continues it, and ends, on the CPU, with the same numbers as if it had never stopped.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Best, LAST, Progress};
use super::dataset::{Batch, Source, Spectrograms, standardisation};
use super::learner::{Learner, check_device};
use super::loader::Loader;
use super::objective::{Jury, Objective, check_split, constant_loss, unit_targets};
use super::optimiser::{State, Step};
use super::recipe::{JudgeBy, Precision, TrainConfig};
use super::{Device, EncoderConfig, Weights, journal};
use crate::error::{Error, Result};

/// What is learned, and from which tracks.
#[derive(Clone, Copy)]
pub struct Lesson<'a> {
    pub spectrograms: &'a dyn Spectrograms,
    pub objective: Objective<'a>,
    /// The tracks that are learned from.
    pub train: &'a [usize],
    /// The tracks that judge each epoch.
    pub valid: &'a [usize],
    /// Weights to begin with instead of random ones, with their standardisation.
    pub start: Option<&'a Weights>,
}

/// How an epoch went: a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean loss over the training batches, with dropout, augmentation and the tracks' weights.
    pub train_loss: f64,
    /// Mean loss over the validation tracks, all weighted alike. Under mse it is the dimensions times the mean squared error, and
    /// 1 is what predicting 0 gives.
    pub valid_loss: f64,
    /// Mean cosine between prediction and target over the validation tracks.
    pub valid_cosine: f64,
    /// The mean over the validation tracks of 1 / the rank of a track's target among the targets of all (of the first 5,000, where
    /// there are more), by cosine with its prediction. 1: every target was found.
    pub valid_mrr: f64,
    /// At its last step.
    pub learning_rate: f64,
    /// Length of the gradient over all weights, before clipping: the mean over the steps, and the longest.
    pub gradient_norm: f64,
    pub gradient_norm_max: f64,
    /// Tracks trained on per second of training.
    pub samples_per_second: f64,
    /// Wall time in which there was no batch to train on: well below `seconds`, or `train.workers` are too few or the disk is slow.
    pub wait_seconds: f64,
    /// Wall time, with validation.
    pub seconds: f64,
    /// When it was over, in Unix seconds.
    pub ended: u64,
}

/// What training made.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Of the best epoch.
    pub weights: Weights,
    pub best: Epoch,
    pub epochs: Vec<Epoch>,
    /// The validation loss of one answer for all tracks, the mean target (in pre-training, of knowing nothing): the floor.
    pub constant_loss: f64,
}

/// Where a run is: what its `progress` is told, between any two steps.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// After a step of training, the `number`-th (from 1) of `steps`, with the loss of its batch.
    Step { number: u64, steps: u64, loss: f64 },
    /// After a batch of validation.
    Judging,
    /// After an epoch.
    Epoch(&'a Epoch),
}

/// Trains a network on the tracks of the lesson and keeps the epoch that does best on its validation tracks.
///
/// `progress` is told every [`Moment`] and may stop the run there, which the same call then continues. On the CPU it ends with
/// the same numbers; a GPU sums in another order from run to run. A run may be gone on with on another device.
///
/// # Errors
/// `Invalid` where the device is not there, or does not compute the network's gradient rightly. `Mismatch` and `Invalid` for settings and data that do not fit (also where `out` holds another run), whatever
/// the spectrograms fail with, and `Invalid` where the loss is no longer a number. `Interrupted` where `progress` stopped
/// it, after a checkpoint.
pub fn train(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    lesson: &Lesson,
    device: Device,
    out: &Path,
    progress: &mut dyn FnMut(&Moment) -> ControlFlow<()>,
) -> Result<Trained> {
    config.check()?;
    encoder.check()?;
    check_device(device, config.precision)?;
    check_fit(encoder, lesson)?;
    let Lesson { spectrograms, train, valid, .. } = *lesson;
    let (targets, weights);
    let (objective, constant_loss) = match lesson.objective {
        Objective::Targets { targets: given, weights: shares } => {
            targets = unit_targets(given, shares, train, valid)?;
            let total: f64 = train.iter().map(|&t| f64::from(shares[t])).sum();
            let scale = train.len() as f64 / total;
            weights = shares.iter().map(|&w| (f64::from(w) * scale) as f32).collect::<Vec<f32>>();
            let floor = constant_loss(config, targets.view(), &weights, train, valid);
            (Objective::Targets { targets: targets.view(), weights: &weights }, floor)
        }
        Objective::SameTrack => {
            check_split(spectrograms.len(), train, valid)?;
            if config.augment.mixup > 0.0 {
                let what = "train.augment.mixup in pre-training, where there are no targets to blend";
                return Err(Error::invalid(what, 0, config.augment.mixup));
            }
            // One of the 2n - 1 other views of a batch of n tracks.
            let floor = |tracks: &[usize]| tracks.len() as f64 * (2.0 * tracks.len() as f64 - 1.0).ln();
            (Objective::SameTrack, valid.chunks(config.batch_size).map(floor).sum::<f64>() / valid.len() as f64)
        }
    };

    let judge = objective.judge(config);
    let name = run_hash(config, encoder, &Lesson { objective, ..*lesson })?;
    let (done, state, best) = match checkpoint::read_last(out, &name, encoder)? {
        Some((done, state)) => {
            let best = match best_of(judge, &done.epochs) {
                Some(best) => checkpoint::read_best(out, &done, best, encoder)?,
                None => None,
            };
            (done, state, best)
        }
        None => {
            let fresh = match lesson.start {
                Some(weights) => weights.clone(),
                None => {
                    let mut weights = Weights::random(encoder, config.seed);
                    (weights.mean, weights.std) = standardisation(spectrograms, train)?;
                    weights
                }
            };
            (Progress { run: name, ..Progress::default() }, State::new(fresh), None)
        }
    };
    let mean = state.weights.mean.clone();
    let source = Source {
        spectrograms,
        encoder,
        objective,
        train,
        valid,
        batch_size: config.batch_size,
        windows: middle_windows(spectrograms.windows(), config.windows),
        crop: config.crop,
        augment: &config.augment,
        mean: &mean,
        seed: config.seed,
    };
    let source = &source;
    journal::begin(out, &done.epochs, constant_loss)?;
    if is_finished(config, judge, &done.epochs) {
        return trained(best, done.epochs, constant_loss);
    }
    let saved = Instant::now();
    // Of the largest batch, which most are.
    let rows = config.batch_size.min(train.len()) * if matches!(objective, Objective::SameTrack) { 2 } else { 1 };
    let learner = Learner::new(device, config.precision, encoder, state, rows)?;
    let mut run = Run { config, encoder, source, judge, constant_loss, out, done, learner, best, saved };
    let place = (run.done.epochs.len(), (run.done.steps - run.first_step()) as usize);
    let workers = workers(config, device, rows * encoder.frames * encoder.mel_bands);
    std::thread::scope(|scope| {
        // Dropped at the end of this closure or by an error, it ends its threads.
        let mut loader = Loader::start(scope, source, workers, place, config.epochs);
        while !run.is_finished() {
            run.epoch(&mut loader, progress)?;
        }
        Ok(())
    })?;
    trained(run.best, run.done.epochs, constant_loss)
}

fn trained(best: Option<Best>, epochs: Vec<Epoch>, constant_loss: f64) -> Result<Trained> {
    let best = best.ok_or_else(|| Error::invalid("training", "a best epoch", "none"))?;
    Ok(Trained { weights: best.weights, best: best.epoch, epochs, constant_loss })
}

fn is_finished(config: &TrainConfig, judge: JudgeBy, epochs: &[Epoch]) -> bool {
    epochs.len() >= config.epochs || out_of_patience(judge, epochs, config.patience)
}

/// A run under way.
struct Run<'a> {
    config: &'a TrainConfig,
    encoder: &'a EncoderConfig,
    source: &'a Source<'a>,
    judge: JudgeBy,
    constant_loss: f64,
    out: &'a Path,
    done: Progress,
    learner: Learner,
    best: Option<Best>,
    /// When the last checkpoint was written.
    saved: Instant,
}

impl Run<'_> {
    fn is_finished(&self) -> bool {
        is_finished(self.config, self.judge, &self.done.epochs)
    }

    /// The step that the epoch begins with.
    fn first_step(&self) -> u64 {
        (self.done.epochs.len() * self.source.training_batches()) as u64
    }

    fn steps(&self) -> u64 {
        (self.config.epochs * self.source.training_batches()) as u64
    }

    /// Trains over the rest of an epoch's batches, and judges the running average on its validation batches.
    fn epoch(&mut self, loader: &mut Loader, progress: &mut dyn FnMut(&Moment) -> ControlFlow<()>) -> Result<()> {
        let (number, end) = (self.done.epochs.len() + 1, self.first_step() + self.source.training_batches() as u64);
        while self.done.steps < end {
            let start = Instant::now();
            let loss = self.step(number, loader.next()?)?;
            self.done.part.seconds += start.elapsed().as_secs_f64();
            self.done.part.wait_seconds += loader.waited().as_secs_f64();
            self.after(progress(&Moment::Step { number: self.done.steps, steps: self.steps(), loss }))?;
        }
        let start = Instant::now();
        let verdict = {
            let (mut jury, network) = (Jury::default(), self.learner.judge());
            for _ in 0..self.source.validation_batches() {
                let batch = loader.next()?;
                let answers = network.predict(&batch.mels)?;
                jury.hear(&self.source.objective, self.config, answers.view(), &batch.truth);
                self.after(progress(&Moment::Judging))?;
            }
            jury.verdict()?
        };
        if !(verdict.loss.is_finite() && verdict.cosine.is_finite()) {
            return Err(self.exploded(number, "validation loss", verdict.loss));
        }
        let part = std::mem::take(&mut self.done.part);
        let epoch = Epoch {
            epoch: number,
            train_loss: rounded(part.loss.value()),
            valid_loss: rounded(verdict.loss),
            valid_cosine: rounded(verdict.cosine),
            valid_mrr: rounded(verdict.mrr),
            learning_rate: rounded(self.config.rate(end - 1, self.steps())),
            gradient_norm: rounded(part.gradient_norm.value()),
            gradient_norm_max: rounded(part.gradient_norm_max),
            samples_per_second: rounded(self.source.train.len() as f64 / part.seconds),
            wait_seconds: rounded(part.wait_seconds + loader.waited().as_secs_f64()),
            seconds: rounded(part.seconds + start.elapsed().as_secs_f64()),
            ended: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        };
        self.done.epochs.push(epoch.clone());
        // Among all epochs, not against the best in memory: after a kill between two files there may be none there yet.
        if best_of(self.judge, &self.done.epochs).is_some_and(|best| best.epoch == epoch.epoch) {
            self.best = Some(Best { epoch: epoch.clone(), weights: self.learner.average()?, saved: false });
        }
        journal::add(self.out, &self.done.epochs, self.constant_loss)?;
        let answer = progress(&Moment::Epoch(&epoch));
        if self.is_finished() { self.save() } else { self.after(answer) }
    }

    /// One step on a batch; returns its loss.
    fn step(&mut self, epoch: usize, batch: Batch) -> Result<f64> {
        let config = self.config;
        let learning_rate = config.rate(self.done.steps, self.steps()) as f32;
        let Batch { mels, truth, dropout } = batch;
        let outputs = self.learner.forward(&mels, dropout)?;
        let (loss, d_outputs) = self.source.objective.grade(config, outputs.view(), &truth);
        if !loss.is_finite() {
            return Err(self.exploded(epoch, "loss", loss));
        }
        let step = Step {
            optimiser: config.optimiser,
            learning_rate,
            momentum: config.momentum as f32,
            weight_decay: config.weight_decay as f32,
            average: config.average as f32,
            number: self.done.steps,
            shorten: 1.0,
        };
        let length = self.learner.step(&d_outputs, step, config.clip)?;
        if !length.is_finite() {
            return Err(self.exploded(epoch, "gradient's length", length));
        }
        let part = &mut self.done.part;
        part.loss.add(loss, truth.weights.len());
        part.gradient_norm.add(length, 1);
        part.gradient_norm_max = part.gradient_norm_max.max(length);
        self.done.steps += 1;
        Ok(loss)
    }

    /// A checkpoint where one is due, or where the run is to stop.
    fn after(&mut self, answer: ControlFlow<()>) -> Result<()> {
        if answer.is_break() || self.saved.elapsed().as_secs_f64() >= self.config.checkpoint_seconds {
            self.save()?;
        }
        if answer.is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn save(&mut self) -> Result<()> {
        checkpoint::write(self.out, &self.done, &*self.learner.state()?, self.best.as_mut(), self.encoder)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// What to say where a number is none. What was saved before stays: it may be just what shows why.
    fn exploded(&self, epoch: usize, what: &str, found: f64) -> Error {
        let kept = self.out.join(LAST);
        let kept =
            if kept.exists() { format!("; the last checkpoint is kept in {}", kept.display()) } else { String::new() };
        let remedy = format!("{found}: lower train.learning_rate or train.clip and start over (--fresh){kept}");
        Error::invalid(format!("{what} of epoch {epoch}, step {}", self.done.steps + 1), "a finite number", remedy)
    }
}

/// Threads that make batches, each of so many numbers.
fn workers(config: &TrainConfig, device: Device, numbers: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match (config.workers, device) {
        (0, Device::Cpu) => cores.min(4),
        // The cores have nothing else to do, and the device is several times as fast. Each thread holds two batches: 2 GB.
        (0, _) => cores.min(32).min((1 << 31) / (8 * numbers)).max(1),
        (chosen, _) => chosen,
    }
}

/// To 7 significant digits: all that the losses have, and what a line of JSON gives back exactly.
fn rounded(x: f64) -> f64 {
    format!("{x:.6e}").parse().unwrap_or(x)
}

fn check_fit(encoder: &EncoderConfig, lesson: &Lesson) -> Result<()> {
    let spectrograms = lesson.spectrograms;
    let mut pairs = vec![("network and spectrograms: mel bands", encoder.mel_bands, spectrograms.mel_bands())];
    if let Objective::Targets { targets, .. } = lesson.objective {
        pairs.push(("spectrograms and targets: tracks", spectrograms.len(), targets.nrows()));
        pairs.push(("network and targets: dimensions", encoder.dimensions, targets.ncols()));
    }
    if let Some(start) = lesson.start {
        pairs.push(("network and the weights to start from: mel bands", encoder.mel_bands, start.mean.len()));
        for ((inputs, outputs), layer) in encoder.shapes().into_iter().zip(&start.layers) {
            pairs.push(("network and the weights to start from: inputs of a layer", inputs, layer.weight.nrows()));
            pairs.push(("network and the weights to start from: outputs of a layer", outputs, layer.weight.ncols()));
        }
    }
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

/// At most `most` windows of `windows`, nearest the middle first.
fn middle_windows(windows: usize, most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..windows).collect();
    all.sort_by_key(|&w| (w.abs_diff(windows / 2), w));
    all.truncate(most);
    all
}

/// Whether `a` is better than `b`.
fn is_better(judge: JudgeBy, a: &Epoch, b: &Epoch) -> bool {
    match judge {
        JudgeBy::Loss | JudgeBy::Auto => a.valid_loss < b.valid_loss,
        JudgeBy::Cosine => a.valid_cosine > b.valid_cosine,
        JudgeBy::Mrr => a.valid_mrr > b.valid_mrr,
    }
}

/// The first of those that none is better than.
fn best_of(judge: JudgeBy, epochs: &[Epoch]) -> Option<&Epoch> {
    epochs.iter().reduce(|best, epoch| if is_better(judge, epoch, best) { epoch } else { best })
}

fn out_of_patience(judge: JudgeBy, epochs: &[Epoch], patience: usize) -> bool {
    patience > 0 && best_of(judge, epochs).is_some_and(|best| epochs.len() - best.epoch >= patience)
}

/// Names a run: its settings, its spectrograms, its targets, its split and its start. (Not what changes no number: how many
/// threads make batches, and how often they are saved; nor the precision: a run is gone on with where there is no other.)
fn run_hash(config: &TrainConfig, encoder: &EncoderConfig, lesson: &Lesson) -> Result<String> {
    let config = TrainConfig { workers: 0, checkpoint_seconds: 0.0, precision: Precision::F32, ..config.clone() };
    let words = serde_json::to_vec(&(config, encoder, lesson.train, lesson.valid))
        .map_err(|e| Error::invalid("training settings", "a value that JSON can hold", e))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&words);
    let heard = lesson.spectrograms;
    hasher.update(format!("{} {} {}\n", heard.windows(), heard.frames(), heard.id()).as_bytes());
    match lesson.objective {
        // Of unused tracks too: a changed target file is another run.
        Objective::Targets { targets, weights } => {
            hasher.update(b"targets");
            targets.outer_iter().for_each(|row| hash_floats(&mut hasher, row.iter()));
            hash_floats(&mut hasher, weights.iter());
        }
        Objective::SameTrack => _ = hasher.update(b"same track"),
    }
    if let Some(start) = lesson.start {
        hasher.update(b"start");
        hash_floats(&mut hasher, start.mean.iter().chain(&start.std));
        start.layers.iter().for_each(|l| hash_floats(&mut hasher, l.weight.iter().chain(&l.bias)));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_floats<'a>(hasher: &mut blake3::Hasher, numbers: impl Iterator<Item = &'a f32>) {
    hasher.update(&numbers.flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use ndarray::{Array2, ArrayViewMut2, Axis, s};

    use super::*;
    use crate::encoder::dataset::tests::Planted;
    use crate::encoder::recipe::{Augment, Loss, Optimiser};
    use crate::encoder::tests::tiny;

    fn quick() -> TrainConfig {
        TrainConfig { epochs: 8, batch_size: 16, learning_rate: 0.01, average: 0.8, ..TrainConfig::default() }
    }

    fn split(tracks: usize) -> (Vec<usize>, Vec<usize>) {
        (0..tracks).partition(|t| t % 4 != 0)
    }

    /// Trains on 160 planted tracks; `stop` is asked after every step and epoch.
    fn run_until(
        config: &TrainConfig,
        encoder: &EncoderConfig,
        same_track: bool,
        out: &Path,
        stop: impl Fn(&Moment) -> bool,
    ) -> Result<Trained> {
        run_on(Device::Cpu, config, encoder, same_track, out, &stop)
    }

    fn run_on(
        device: Device,
        config: &TrainConfig,
        encoder: &EncoderConfig,
        same_track: bool,
        out: &Path,
        stop: &dyn Fn(&Moment) -> bool,
    ) -> Result<Trained> {
        let planted = Planted::new(160);
        let targets = planted.targets(5);
        let (train_tracks, valid) = split(160);
        let by_targets = Objective::Targets { targets: targets.view(), weights: &[2.0; 160] };
        let lesson = Lesson {
            spectrograms: &planted,
            objective: if same_track { Objective::SameTrack } else { by_targets },
            train: &train_tracks,
            valid: &valid,
            start: None,
        };
        let progress =
            &mut |moment: &Moment| if stop(moment) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        train(config, encoder, &lesson, device, out, progress)
    }

    fn run(config: &TrainConfig, encoder: &EncoderConfig, out: &Path) -> Result<Trained> {
        run_until(config, encoder, false, out, |_| false)
    }

    /// Without its times, which no two runs share.
    fn numbers(epochs: &[Epoch]) -> Vec<Epoch> {
        let timeless =
            |e: &Epoch| Epoch { seconds: 0.0, wait_seconds: 0.0, samples_per_second: 0.0, ended: 0, ..e.clone() };
        epochs.iter().map(timeless).collect()
    }

    #[test]
    fn it_learns_what_is_planted_with_every_loss_and_optimiser() {
        let encoder = EncoderConfig { channels: [16, 16, 24, 24], dense: [48, 48], ..tiny() };
        for (loss, optimiser, learning_rate) in [
            (Loss::Mse, Optimiser::Sgd, 0.007),
            (Loss::Mse, Optimiser::AdamW, 0.004),
            (Loss::Cosine, Optimiser::AdamW, 0.004),
            (Loss::Contrastive, Optimiser::AdamW, 0.004),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let config = TrainConfig { epochs: 25, batch_size: 8, loss, optimiser, learning_rate, ..quick() };
            let trained = run(&config, &encoder, dir.path()).unwrap();
            let best = &trained.best;
            assert_eq!(trained.epochs.len(), 25);
            assert!(best.valid_loss < 0.6 * trained.constant_loss, "{loss:?} {best:?} {}", trained.constant_loss);
            // By chance the rank of one of forty has a mean reciprocal of 0.11.
            assert!(best.valid_cosine > 0.8 && best.valid_mrr > 0.3, "{loss:?} {best:?}");
            let judged = trained.epochs.iter().map(|e| if loss == Loss::Mse { -e.valid_loss } else { e.valid_cosine });
            if loss != Loss::Contrastive {
                let by = if loss == Loss::Mse { -best.valid_loss } else { best.valid_cosine };
                assert_eq!(judged.fold(f64::NEG_INFINITY, f64::max), by);
            }
            let lines = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
            let lines: Vec<Epoch> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(lines, trained.epochs);
            assert!(fs::read_to_string(dir.path().join("curve.svg")).unwrap().contains("</svg>"));
            assert!(lines.iter().all(|e| e.gradient_norm > 0.0 && e.gradient_norm_max >= e.gradient_norm));
            assert!(lines.iter().all(|e| e.samples_per_second > 0.0 && e.wait_seconds <= e.seconds));
        }
    }

    #[test]
    fn a_device_learns_goes_on_and_hands_over() {
        let encoder = EncoderConfig { channels: [16, 16, 24, 24], dense: [48, 48], dropout: 0.2, ..tiny() };
        let config =
            TrainConfig { epochs: 12, batch_size: 8, optimiser: Optimiser::AdamW, learning_rate: 0.004, ..quick() };
        let on = |device, config: &TrainConfig, out: &Path, stop: &dyn Fn(&Moment) -> bool| {
            run_on(device, config, &encoder, false, out, stop)
        };
        let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
        let never = |_: &Moment| false;
        let ours = on(Device::Cpu, &config, dirs[0].path(), &never).unwrap();
        let theirs = on(Device::Flex, &config, dirs[1].path(), &never).unwrap();
        // The same lessons from the same start: the first epochs are alike, and the last as good.
        let (a, b) = (&ours.epochs[0], &theirs.epochs[0]);
        let apart = |a: f64, b: f64| (a / b - 1.0).abs();
        assert!(apart(a.valid_loss, b.valid_loss) < 0.05 && apart(a.train_loss, b.train_loss) < 0.05, "{a:?} {b:?}");
        assert!((ours.best.valid_cosine - theirs.best.valid_cosine).abs() < 0.05, "{:?} {:?}", ours.best, theirs.best);
        // Mixed precision learns it too.
        let mixed = TrainConfig { precision: Precision::Bf16, ..config.clone() };
        let mixed = on(Device::Flex, &mixed, dirs[2].path(), &never).unwrap();
        assert!((ours.best.valid_cosine - mixed.best.valid_cosine).abs() < 0.05, "{:?} {:?}", ours.best, mixed.best);
        // Stopped on one device, gone on with on the other, and back.
        let out = dirs[3].path();
        let at = |n: u64| move |moment: &Moment| matches!(moment, Moment::Step { number, .. } if *number == n);
        for (device, stop) in [(Device::Flex, 20), (Device::Cpu, 70), (Device::Flex, 130)] {
            assert!(matches!(on(device, &config, out, &at(stop)), Err(Error::Interrupted)));
        }
        let both = on(Device::Cpu, &config, out, &never).unwrap();
        assert_eq!(both.epochs.len(), 12);
        assert!((ours.best.valid_cosine - both.best.valid_cosine).abs() < 0.05, "{:?} {:?}", ours.best, both.best);
    }

    #[test]
    fn pre_training_tells_tracks_apart_without_a_target() {
        let encoder = EncoderConfig { channels: [16, 16, 24, 24], dense: [48, 48], ..tiny() };
        let dir = tempfile::tempdir().unwrap();
        let config =
            TrainConfig { epochs: 15, optimiser: Optimiser::AdamW, learning_rate: 0.004, temperature: 0.2, ..quick() };
        let trained = run_until(&config, &encoder, true, dir.path(), |_| false).unwrap();
        let best = &trained.best;
        // Random networks hear the planted levels too: it must do better than the first epoch, and far better than chance.
        assert!(best.valid_mrr > trained.epochs[0].valid_mrr.max(0.5), "{best:?} {:?}", trained.epochs[0]);
        assert!(best.valid_loss < 0.7 * trained.constant_loss, "{best:?} {}", trained.constant_loss);
        assert_eq!(best.valid_mrr, trained.epochs.iter().map(|e| e.valid_mrr).fold(0.0, f64::max));

        let mixup = TrainConfig { augment: Augment { mixup: 0.2, ..Augment::default() }, ..config };
        let refused = run_until(&mixup, &encoder, true, dir.path(), |_| false).unwrap_err().to_string();
        assert!(refused.contains("mixup"), "{refused}");

        // Its weights are a start: all but the output layer, of this shape or another's.
        let other = EncoderConfig { dimensions: 7, ..encoder.clone() };
        let start = checkpoint::start_from(dir.path(), &other, 3).unwrap();
        assert_eq!(start.layers[..6], trained.weights.layers[..6]);
        assert_eq!((&start.mean, &start.std), (&trained.weights.mean, &trained.weights.std));
        assert_eq!(start.layers[6], Weights::random(&other, 3).layers[6]);
        for (misfit, named) in [
            (EncoderConfig { mel_bands: 9, ..encoder.clone() }, "mel bands"),
            (EncoderConfig { channels: [16, 17, 24, 24], ..encoder.clone() }, "conv2"),
            (EncoderConfig { dense: [48, 47], ..encoder.clone() }, "dense2"),
            (EncoderConfig { kernel: 3, ..encoder.clone() }, "conv1"),
        ] {
            let refused = checkpoint::start_from(dir.path(), &misfit, 3).unwrap_err();
            assert!(matches!(&refused, Error::Mismatch { .. }) && refused.to_string().contains(named), "{refused}");
        }
        let nothing = tempfile::tempdir().unwrap();
        assert!(matches!(checkpoint::start_from(nothing.path(), &other, 3), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_start_is_gone_on_from_and_is_another_run() {
        let (dirs, planted) = ([(); 2].map(|()| tempfile::tempdir().unwrap()), Planted::new(160));
        let targets = planted.targets(5);
        let (train_tracks, valid) = split(160);
        let mut start = Weights::random(&tiny(), 77);
        start.mean.fill(5.0);
        let go = |out: &Path, start: Option<&Weights>, learning_rate| {
            let objective = Objective::Targets { targets: targets.view(), weights: &[1.0; 160] };
            let lesson = Lesson { spectrograms: &planted, objective, train: &train_tracks, valid: &valid, start };
            let config = TrainConfig { epochs: 1, learning_rate, average: 0.0, ..quick() };
            train(&config, &tiny(), &lesson, Device::Cpu, out, &mut |_| ControlFlow::Continue(()))
        };
        let hardly = go(dirs[0].path(), Some(&start), 1e-12).unwrap();
        assert_eq!(hardly.weights.mean, start.mean);
        let moved = |layer: usize| (&hardly.weights.layers[layer].weight - &start.layers[layer].weight).mapv(f32::abs);
        assert!((0..7).all(|layer| moved(layer).iter().all(|&d| d < 1e-6)), "a step of nothing leaves the start");
        let other = go(dirs[0].path(), None, 1e-12).unwrap_err();
        assert!(matches!(&other, Error::Mismatch { .. }) && other.to_string().contains("--fresh"), "{other}");
        checkpoint::forget(dirs[0].path()).unwrap();
        go(dirs[0].path(), None, 1e-12).unwrap();
        let misfit = Weights::random(&EncoderConfig { dense: [24, 25], ..tiny() }, 1);
        assert!(matches!(go(dirs[1].path(), Some(&misfit), 0.01), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn one_seed_gives_one_result_on_any_number_of_threads_and_another_seed_another() {
        let encoder = EncoderConfig { dropout: 0.3, ..tiny() };
        let augment =
            Augment { mask_bands: 2, mask_frames: 5, gain_db: 3.0, shift_bands: 1, mixup: 0.2, stretch: 0.05 };
        let config = TrainConfig { epochs: 3, augment, loss: Loss::Contrastive, mix: 0.5, workers: 1, ..quick() };
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let first = run(&config, &encoder, dirs[0].path()).unwrap();
        let second = run(&TrainConfig { workers: 3, ..config.clone() }, &encoder, dirs[1].path()).unwrap();
        let third = run(&TrainConfig { seed: 2, ..config }, &encoder, dirs[2].path()).unwrap();
        assert_eq!(numbers(&first.epochs), numbers(&second.epochs));
        assert_eq!(first.weights, second.weights);
        assert_ne!(numbers(&first.epochs), numbers(&third.epochs));
    }

    #[test]
    fn a_run_stopped_after_any_step_continues_to_the_undisturbed_result() {
        let encoder = EncoderConfig { dropout: 0.3, ..tiny() };
        for (same_track, optimiser) in [(false, Optimiser::Sgd), (false, Optimiser::AdamW), (true, Optimiser::AdamW)] {
            // 120 tracks are eight steps an epoch.
            let config = TrainConfig { epochs: 2, optimiser, learning_rate: 0.003, ..quick() };
            let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let undisturbed = run_until(&config, &encoder, same_track, dirs[0].path(), |_| false).unwrap();
            // Now interrupted at every other moment, with other threads.
            let mut stops = 0;
            let continued = loop {
                let moments = AtomicUsize::new(0);
                let config = TrainConfig { workers: 1 + stops % 3, ..config.clone() };
                // The first moment of validation is only ever reached at the end of a pair.
                let stop = |_: &Moment| moments.fetch_add(1, Ordering::Relaxed) == 1;
                match run_until(&config, &encoder, same_track, dirs[1].path(), stop) {
                    Err(Error::Interrupted) => stops += 1,
                    done => break done.unwrap(),
                }
                if stops > 12 {
                    // Validation has more moments than two: it would be begun again for ever.
                    break run_until(&config, &encoder, same_track, dirs[1].path(), |_| false).unwrap();
                }
            };
            assert!(stops >= 4, "{stops}");
            assert_eq!(numbers(&undisturbed.epochs), numbers(&continued.epochs));
            assert_eq!(undisturbed.weights, continued.weights);
            // And a finished run is not run again.
            let again = run_until(&config, &encoder, same_track, dirs[1].path(), |_| true).unwrap();
            assert_eq!(again.epochs, continued.epochs);
            assert_eq!(again.weights, continued.weights);
        }
    }

    #[test]
    fn every_step_of_every_epoch_is_a_place_to_go_on_from() {
        let config = TrainConfig { epochs: 2, ..quick() };
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let undisturbed = run(&config, &tiny(), dirs[0].path()).unwrap();
        for stop in 1..=16 {
            let out = dirs[1].path().join(stop.to_string());
            let at = |moment: &Moment| matches!(moment, Moment::Step { number, .. } if *number == stop);
            assert!(matches!(run_until(&config, &tiny(), false, &out, at), Err(Error::Interrupted)));
            let continued = run(&config, &tiny(), &out).unwrap();
            assert_eq!(numbers(&undisturbed.epochs), numbers(&continued.epochs), "stopped after step {stop}");
            assert_eq!(undisturbed.weights, continued.weights);
        }
    }

    #[test]
    fn a_checkpoint_is_written_when_its_time_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let steps_saved = |checkpoint_seconds| {
            let config = TrainConfig { epochs: 1, checkpoint_seconds, ..quick() };
            let saved = AtomicUsize::new(0);
            let out = dir.path().join(checkpoint_seconds.to_string());
            let look = |moment: &Moment| {
                if let Moment::Step { .. } = moment {
                    saved.fetch_add(usize::from(checkpoint::is_begun(&out)), Ordering::Relaxed);
                }
                false
            };
            run_until(&config, &tiny(), false, &out, look).unwrap();
            assert!(checkpoint::is_begun(&out), "the end is saved in any case");
            saved.into_inner()
        };
        assert_eq!(steps_saved(0.0), 7, "before each step but the first");
        assert_eq!(steps_saved(1e6), 0);
    }

    /// Spectrograms that take their time.
    struct Slow(Planted);

    impl Spectrograms for Slow {
        fn id(&self) -> String {
            "slow".into()
        }
        fn name(&self, track: usize) -> String {
            track.to_string()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn windows(&self) -> usize {
            self.0.windows
        }
        fn frames(&self) -> usize {
            self.0.frames()
        }
        fn mel_bands(&self) -> usize {
            self.0.mel_bands()
        }
        fn load(&self, track: usize, window: usize, first: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
            std::thread::sleep(Duration::from_millis(5));
            self.0.load(track, window, first, crop)
        }
    }

    #[test]
    fn a_loader_that_starves_the_trainer_shows() {
        let (slow, dir) = (Slow(Planted::new(80)), tempfile::tempdir().unwrap());
        let targets = slow.0.targets(5);
        let (train_tracks, valid) = split(80);
        let objective = Objective::Targets { targets: targets.view(), weights: &[1.0; 80] };
        let lesson = Lesson { spectrograms: &slow, objective, train: &train_tracks, valid: &valid, start: None };
        let config = TrainConfig { epochs: 1, workers: 1, ..quick() };
        let trained =
            train(&config, &tiny(), &lesson, Device::Cpu, dir.path(), &mut |_| ControlFlow::Continue(())).unwrap();
        // 60 tracks of 5 ms each, of which the loader can be ahead by a few.
        let epoch = &trained.epochs[0];
        assert!(epoch.wait_seconds > 0.1 && epoch.wait_seconds < epoch.seconds, "{epoch:?}");
    }

    #[test]
    fn a_folder_with_another_run_or_a_damaged_checkpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { epochs: 1, ..quick() };
        run(&config, &tiny(), dir.path()).unwrap();
        let other = run(&TrainConfig { seed: 9, ..config.clone() }, &tiny(), dir.path()).unwrap_err();
        assert!(matches!(&other, Error::Mismatch { .. }) && other.to_string().contains(LAST), "{other}");
        let path = dir.path().join(LAST);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let damaged = run(&config, &tiny(), dir.path()).unwrap_err();
        assert!(matches!(&damaged, Error::Format { .. }), "{damaged}");
        // Without its best, or with an older one, a run would end with another model.
        fs::write(&path, &bytes).unwrap();
        fs::remove_file(dir.path().join(checkpoint::BEST)).unwrap();
        let missing = run(&config, &tiny(), dir.path()).unwrap_err();
        assert!(matches!(&missing, Error::Format { .. }) && missing.to_string().contains("epoch 1"), "{missing}");
    }

    #[test]
    fn a_loss_that_explodes_stops_with_its_place_and_keeps_the_last_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { learning_rate: 1e6, clip: 0.0, checkpoint_seconds: 0.0, ..quick() };
        let exploded = run(&config, &tiny(), dir.path()).unwrap_err().to_string();
        for part in ["epoch 1, step ", "lower train.learning_rate", "--fresh", LAST] {
            assert!(exploded.contains(part), "{part}: {exploded}");
        }
        // The checkpoint is whole, and leads to the same place.
        let again = run(&config, &tiny(), dir.path()).unwrap_err().to_string();
        assert_eq!(again, exploded);
    }

    #[test]
    fn a_track_that_cannot_be_read_or_learned_from_stops_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let planted = Planted { broken: Some(8), ..Planted::new(20) };
        let (train_tracks, valid) = split(20);
        let go = |tracks: &[usize], weights: &[f32], targets: &Array2<f32>| {
            let objective = Objective::Targets { targets: targets.view(), weights };
            let lesson = Lesson { spectrograms: &planted, objective, train: tracks, valid: &valid, start: None };
            train(&quick(), &tiny(), &lesson, Device::Cpu, dir.path(), &mut |_| ControlFlow::Continue(()))
        };
        let targets = planted.targets(5);
        assert!(go(&train_tracks, &[1.0; 20], &targets).unwrap_err().to_string().contains("track 8"));
        assert!(go(&[1, 1], &[1.0; 20], &targets).unwrap_err().to_string().contains("track 1 twice"));
        assert!(go(&[1, 20], &[1.0; 20], &targets).unwrap_err().to_string().contains("below 20"));
        assert!(go(&[], &[1.0; 20], &targets).is_err());
        assert!(go(&[1], &[0.0; 20], &targets).unwrap_err().to_string().contains("weights"));
        assert!(go(&[1], &[1.0; 19], &targets).is_err());
        assert!(go(&[1], &[1.0; 20], &planted.targets(6)).unwrap_err().to_string().contains("dimensions"));
        assert!(go(&[1], &[1.0; 19], &targets.slice(s![..19, ..]).to_owned()).is_err());
        for bad in [0.0, f32::NAN] {
            let mut targets = targets.clone();
            targets.index_axis_mut(Axis(0), 1).fill(bad);
            assert!(go(&[1], &[1.0; 20], &targets).unwrap_err().to_string().contains("target of track 1"));
        }
    }

    #[test]
    fn windows_are_taken_from_the_middle_out_and_patience_ends() {
        assert_eq!(middle_windows(5, 3), [2, 1, 3]);
        assert_eq!(middle_windows(1, 8), [0]);
        let epochs = |losses: &[f64]| -> Vec<Epoch> {
            let epoch =
                |(i, &valid_loss)| Epoch { epoch: i + 1, valid_loss, valid_mrr: valid_loss, ..Epoch::default() };
            losses.iter().enumerate().map(epoch).collect()
        };
        let tired = |judge, losses: &[f64], patience| out_of_patience(judge, &epochs(losses), patience);
        assert!(!tired(JudgeBy::Loss, &[3.0, 1.0, 2.0], 2));
        assert!(tired(JudgeBy::Loss, &[3.0, 1.0, 2.0, 2.0], 2));
        assert!(!tired(JudgeBy::Loss, &[3.0, 1.0, 2.0, 2.0], 0));
        assert!(tired(JudgeBy::Mrr, &[3.0, 1.0, 2.0], 2) && !tired(JudgeBy::Mrr, &[1.0, 1.0, 2.0], 2));
    }
}
