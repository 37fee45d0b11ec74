//! From new files to catalogue rows: heard on all cores, embedded in batches, committed in groups.
//!
//! ```text
//!  inputs ──► scout ──► workers (one a core) ──► batch ──► encoder ──► Store::commit ──► acknowledged
//!            known?     hash, decode, mel        ≤ 32 windows           one sync a batch
//! ```
//!
//! Every file ends as exactly one [`Outcome`], reported after it is durable, so a killed run loses nothing that it
//! reported, and a rerun does only what is missing. The queues are bounded, so memory is too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::artefact::content_hash;
use crate::audio::{self, DECODER_VERSION, FrontEnd, Heard, Listening, SpectrogramCache, Tags};
use crate::encoder::artist::MOST;
use crate::encoder::{Known, Model, ModelConfig, Prediction};
use crate::error::{Error, Result};
use crate::ids::TrackId;
use crate::inputs::Input;
use crate::store::{Change, FileOutcome, FileRecord, FileStamp, Source, Store, Track, TrackInfo};

/// Settings of the ingestion job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Threads that decode; 0 = one a core.
    pub workers: usize,
    /// Windows that go through the network, and their tracks to the disk, together. Beyond 32 the network gains nothing.
    pub batch: usize,
    /// How long a heard track waits for others to share its batch, in milliseconds: what a lone upload pays.
    pub linger_ms: u64,
}

impl Default for IngestConfig {
    fn default() -> IngestConfig {
        IngestConfig { workers: 0, batch: 32, linger_ms: 5 }
    }
}

impl IngestConfig {
    /// # Errors
    /// `Invalid`, naming the setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |what: &str, value: u64, low: u64, high: u64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("ingest.{what}"), format!("{low} to {high}"), value)),
        };
        within("workers", self.workers as u64, 0, 1024)?;
        // The windows of a batch are in memory together, 0.3 MB each.
        within("batch", self.batch as u64, 1, 1024)?;
        within("linger_ms", self.linger_ms, 0, 60_000)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// New in the catalogue.
    Added,
    /// The same id with other content, other tags, another model or another number of windows than before.
    Replaced,
    /// Nothing to do: the catalogue has it.
    Skipped,
    /// It cannot be used; the catalogue remembers why.
    Failed,
}

/// What became of one input, told after it is durable.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub track: Option<TrackId>,
    #[serde(serialize_with = "crate::store::lossy")]
    pub path: PathBuf,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The share of what was heard just now that was damaged, and is silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<f64>,
    /// From the moment the file was opened until the catalogue had it, in milliseconds.
    pub ms: f64,
}

/// How many files ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub added: u64,
    pub replaced: u64,
    pub skipped: u64,
    pub failed: u64,
    /// Of those added and replaced, which were heard, but not whole.
    pub damaged: u64,
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        *match outcome.status {
            Status::Added => &mut self.added,
            Status::Replaced => &mut self.replaced,
            Status::Skipped => &mut self.skipped,
            Status::Failed => &mut self.failed,
        } += 1;
        self.damaged += u64::from(outcome.lost.is_some());
    }
}

/// A file that a worker is to hear.
struct Job {
    input: Input,
    stamp: FileStamp,
    started: Instant,
}

/// What made a track's vector: where one of these has changed, the track is heard again.
#[derive(Clone, Debug, PartialEq)]
struct Maker {
    /// [`Model::id`].
    model: String,
    windows: u32,
}

impl Maker {
    fn made(&self, track: &Track) -> bool {
        track.model.as_deref() == Some(&self.model) && track.windows == Some(self.windows)
    }
}

/// What is in a file, and the track that it is.
struct Content {
    hash: String,
    id: TrackId,
}

/// A file that was heard and waits for the network.
struct HeardJob {
    job: Job,
    content: Content,
    heard: Heard,
}

/// What comes out of the scout and the workers.
enum Message {
    /// Settled without the network: what is to be written, and what to say once it is.
    Settled(Vec<Change>, Outcome, Instant),
    Heard(Box<HeardJob>),
    /// The catalogue cannot be read: the run cannot go on.
    Broken(Error),
}

/// How files are heard.
#[derive(Clone, Copy, Debug)]
pub struct Hearing<'a> {
    pub listening: &'a Listening,
    /// Takes the spectrograms of what is heard, so that another model can hear it again without its file.
    pub cache: Option<&'a SpectrogramCache>,
}

/// Hears every input and puts it into the catalogue. `report` is called once per input, after its outcome is durable;
/// `stop` ends the run early, with what is in flight committed.
///
/// # Errors
/// `Mismatch` where the model's space is not the catalogue's; `Interrupted` after `stop`; what the catalogue's disk
/// says. A file that cannot be used is no error: it is reported and remembered.
pub fn ingest(
    store: &mut Store,
    model: &Model,
    inputs: impl Iterator<Item = Result<Input>> + Send,
    hearing: Hearing,
    config: &IngestConfig,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Outcome),
) -> Result<Summary> {
    let listening = hearing.listening;
    listening.check()?;
    config.check()?;
    if let Some(space) = store.space()? {
        space.id.require("the catalogue's space and the model's", &model.config.space)?;
    }
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let workers = if config.workers == 0 { cores } else { config.workers };
    let maker = Maker { model: model.id(), windows: listening.segments as u32 };
    let (folder, front_end) = (store.folder().to_path_buf(), &model.config.front_end);
    // A heard track is as large as its windows are many.
    let (to_batch, messages) = mpsc::sync_channel::<Message>((2 * workers / listening.segments).max(1));

    thread::scope(|scope| {
        let (to_workers, jobs) = mpsc::sync_channel::<Job>(2 * workers);
        let jobs = Arc::new(Mutex::new(jobs));
        let to_batch_of_scout = to_batch.clone();
        let (folder, maker) = (&folder, &maker);
        scope.spawn(move || scout(folder, maker, inputs, stop, to_workers, to_batch_of_scout));
        for _ in 0..workers {
            let (jobs, to_batch) = (jobs.clone(), to_batch.clone());
            scope.spawn(move || work(folder, maker, front_end, hearing, stop, &jobs, &to_batch));
        }
        drop(to_batch);
        // The workers own the queue: when the last of them leaves, the scout finds nobody listening and leaves too.
        drop(jobs);
        let mut batch = Batch {
            store,
            model,
            maker,
            heard: Vec::new(),
            settled: Vec::new(),
            since: None,
            summary: Summary::default(),
            report,
        };
        let size = (config.batch / listening.segments).max(1);
        let done = batch.run(&messages, size, Duration::from_millis(config.linger_ms), stop);
        if done.is_err() {
            // The threads end when they find nobody listening.
            stop.store(true, Ordering::Relaxed);
        }
        drop(messages);
        done.map(|()| batch.summary)
    })
}

/// Decides, from the catalogue and the file's stamp alone, what needs to be heard.
fn scout(
    folder: &Path,
    maker: &Maker,
    inputs: impl Iterator<Item = Result<Input>>,
    stop: &AtomicBool,
    to_workers: SyncSender<Job>,
    to_batch: SyncSender<Message>,
) {
    let store = match Store::read(folder) {
        Ok(store) => store,
        Err(e) => {
            // Nobody listening means that the run is over already.
            let _ = to_batch.send(Message::Broken(e));
            return;
        }
    };
    for input in inputs {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let started = Instant::now();
        let job = input.and_then(|input| Ok(Job { stamp: FileStamp::of(&input.path)?, input, started }));
        let sent = match job {
            Err(e) => {
                let path = match &e {
                    Error::Io { path, .. } => path.clone(),
                    _ => PathBuf::new(),
                };
                // What is not a file has nothing to be tried again; it is told, not remembered.
                let remember = !path.is_dir();
                let stamp = FileStamp { path, size: 0, modified: 0 };
                let message = match failed(stamp, None, &e, started) {
                    Message::Settled(_, outcome, started) if !remember => {
                        Message::Settled(Vec::new(), outcome, started)
                    }
                    message => message,
                };
                to_batch.send(message).is_ok()
            }
            Ok(job) => match known(&store, &job, maker) {
                Ok(Some(message)) => to_batch.send(message).is_ok(),
                Ok(None) => to_workers.send(job).is_ok(),
                Err(e) => to_batch.send(Message::Broken(e)).is_ok(),
            },
        };
        if !sent {
            return;
        }
    }
}

/// What the catalogue already knows of an unchanged file; `None` if it must be heard.
fn known(store: &Store, job: &Job, maker: &Maker) -> Result<Option<Message>> {
    let record = sound(store.file(&job.input.path))?.filter(|r| r.stamp == job.stamp);
    let Some(record) = record else { return Ok(None) };
    match record.outcome {
        FileOutcome::Failed { reason, retry: false } if record.decoder == DECODER_VERSION => {
            let outcome = outcome(job, None, Status::Failed, Some(reason));
            Ok(Some(Message::Settled(Vec::new(), outcome, job.started)))
        }
        FileOutcome::Track(id) if job.input.id.as_ref().is_none_or(|wanted| *wanted == id) => {
            let Some(track) = sound(store.track(&id))?.filter(|t| maker.made(t)) else {
                return Ok(None);
            };
            let mut retitled = track.clone();
            retitled.info = job.input.info.clone().or(track.info.clone());
            let (changes, status, reason) = if retitled == track {
                (Vec::new(), Status::Skipped, "unchanged")
            } else {
                (vec![Change::Upsert(Box::new(retitled))], Status::Replaced, "the manifest's words changed")
            };
            let outcome = outcome(job, Some(id), status, Some(reason.into()));
            Ok(Some(Message::Settled(changes, outcome, job.started)))
        }
        _ => Ok(None),
    }
}

/// What the catalogue knows, or nothing where that is damaged: hearing the file again makes it sound.
fn sound<T>(known: Result<Option<T>>) -> Result<Option<T>> {
    match known {
        Err(Error::Format { path, found, .. }) => {
            tracing::warn!("{}: {found}; hearing the file again", path.display());
            Ok(None)
        }
        known => known,
    }
}

/// Hears files until there are no more.
fn work(
    folder: &Path,
    maker: &Maker,
    front_end: &FrontEnd,
    hearing: Hearing,
    stop: &AtomicBool,
    jobs: &Mutex<Receiver<Job>>,
    to_batch: &SyncSender<Message>,
) {
    let store = match Store::read(folder) {
        Ok(store) => store,
        Err(e) => {
            let _ = to_batch.send(Message::Broken(e));
            return;
        }
    };
    loop {
        // A worker that panicked holding the lock held nothing but a receiver.
        let job = jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut job = job;
        job.started = Instant::now();
        let message = match content_hash(&job.input.path) {
            Err(e) => failed(job.stamp, None, &e, job.started),
            Ok(hash) => match recognise(&store, &job, hash, maker) {
                Err(e) => Message::Broken(e),
                Ok(Recognised::Settled(message)) => *message,
                Ok(Recognised::New(content)) => {
                    match audio::hear(&job.input.path, front_end, front_end.frames, hearing.listening) {
                        Ok(heard) => {
                            keep(hearing.cache, &content.hash, &heard);
                            Message::Heard(Box::new(HeardJob { job, content, heard }))
                        }
                        Err(e) => failed(job.stamp, Some(content.hash), &e, job.started),
                    }
                }
            },
        };
        if to_batch.send(message).is_err() {
            return;
        }
    }
}

/// A spectrogram that cannot be kept costs a decoding later, and no track now.
fn keep(cache: Option<&SpectrogramCache>, content: &str, heard: &Heard) {
    let Some(cache) = cache else { return };
    let kept = cache.contains(content).and_then(|is_there| if is_there { Ok(()) } else { cache.keep(content, heard) });
    if let Err(e) = kept {
        tracing::warn!("spectrogram not kept: {e}");
    }
}

enum Recognised {
    New(Content),
    Settled(Box<Message>),
}

/// Which track the file is: the one that the manifest names; else the one that somebody named when this path came in
/// before, so that a changed file stays the same track; else the one that has this content, wherever it lay; else a new
/// one, named by its content.
///
/// Where the catalogue has heard this very content of it, only its place has to be remembered.
fn recognise(store: &Store, job: &Job, hash: String, maker: &Maker) -> Result<Recognised> {
    let by_path = || -> Result<Option<TrackId>> {
        let Some(FileOutcome::Track(id)) = sound(store.file(&job.input.path))?.map(|record| record.outcome) else {
            return Ok(None);
        };
        let named = sound(store.entry(&id))?.is_some_and(|t| t.content.as_deref() != Some(id.as_str()));
        Ok(named.then_some(id))
    };
    let id = match &job.input.id {
        Some(id) => id.clone(),
        None => match by_path()? {
            Some(id) => id,
            None => match sound(store.entry_by_content(&hash))? {
                Some(track) => track.id,
                None => TrackId::new(hash.clone())?,
            },
        },
    };
    let content = &hash;
    let same = |t: &Track| t.content.as_deref() == Some(content) && maker.made(t);
    let Some(track) = sound(store.track(&id))?.filter(same) else { return Ok(Recognised::New(Content { hash, id })) };
    let mut changes = vec![file_of(job, content, &id)];
    let mut now = track.clone();
    now.info = job.input.info.clone().or(track.info.clone());
    let there = track.path.as_deref().unwrap_or(Path::new(""));
    let reason = if there == job.input.path {
        "same content as before".to_string()
    } else if there.exists() {
        format!("same content as {}", there.display())
    } else {
        now.path = Some(job.input.path.clone());
        format!("moved here from {}", there.display())
    };
    let status = if now.info == track.info { Status::Skipped } else { Status::Replaced };
    if now != track {
        changes.push(Change::Upsert(Box::new(now)));
    }
    let outcome = outcome(job, Some(id), status, Some(reason));
    Ok(Recognised::Settled(Box::new(Message::Settled(changes, outcome, job.started))))
}

/// What is heard and settled but not yet on the disk.
struct Batch<'a> {
    store: &'a mut Store,
    model: &'a Model,
    maker: &'a Maker,
    heard: Vec<HeardJob>,
    settled: Vec<(Vec<Change>, Outcome, Instant)>,
    /// When what waits longest began to wait.
    since: Option<Instant>,
    summary: Summary,
    report: &'a mut dyn FnMut(&Outcome),
}

impl Batch<'_> {
    /// `size` tracks to a batch.
    fn run(&mut self, messages: &Receiver<Message>, size: usize, linger: Duration, stop: &AtomicBool) -> Result<()> {
        loop {
            let message = match self.since {
                Some(since) => messages.recv_timeout(linger.saturating_sub(since.elapsed())),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Heard(heard)) => {
                    self.heard.push(*heard);
                    self.since.get_or_insert_with(Instant::now);
                }
                // Nothing to write: nothing to wait for.
                Ok(Message::Settled(changes, outcome, started)) if changes.is_empty() => {
                    self.acknowledge(outcome, started);
                }
                Ok(Message::Settled(changes, outcome, started)) => {
                    self.settled.push((changes, outcome, started));
                    self.since.get_or_insert_with(Instant::now);
                }
                Ok(Message::Broken(e)) => return Err(e),
                Err(RecvTimeoutError::Timeout) => self.flush()?,
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush()?;
                    return if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) };
                }
            }
            // Settled files are cheap; they share a commit, but not without end.
            if self.heard.len() >= size || self.settled.len() >= 16 * size {
                self.flush()?;
            }
        }
    }

    /// Embeds, commits, acknowledges.
    fn flush(&mut self) -> Result<()> {
        let heard = std::mem::take(&mut self.heard);
        let settled = std::mem::take(&mut self.settled);
        let mut changes: Vec<Change> = Vec::new();
        let mut outcomes: Vec<(Instant, Outcome)> = Vec::new();
        self.since = None;
        for (settled_changes, outcome, started) in settled {
            changes.extend(settled_changes);
            outcomes.push((started, outcome));
        }
        if !heard.is_empty() {
            let tracks: Vec<(&Path, &[Array2<f32>])> =
                heard.iter().map(|h| (h.job.input.path.as_path(), &h.heard.mels[..])).collect();
            let said = self.model.hear_tracks(&tracks)?;
            let mut in_batch: HashMap<TrackId, String> = HashMap::new();
            for (h, said) in heard.into_iter().zip(said.outer_iter()) {
                let HeardJob { job, content: Content { hash: content, id }, heard } = h;
                let before = sound(self.store.entry(&id))?;
                let same = |t: &Track| t.content.as_deref() == Some(&content) && self.maker.made(t);
                let twin = in_batch.get(&id) == Some(&content) || before.as_ref().is_some_and(same);
                changes.push(file_of(&job, &content, &id));
                let (status, reason, lost) = if twin {
                    (Status::Skipped, Some("same content as another file of this run".to_string()), None)
                } else {
                    let audio_before = before.as_ref().is_some_and(|t| t.content.is_some());
                    let track = self.track(&job, &id, &content, &heard, &said.to_vec(), before)?;
                    changes.push(Change::Upsert(Box::new(track)));
                    in_batch.insert(id.clone(), content);
                    let lost = (heard.lost > 0.0).then_some(heard.lost);
                    (if audio_before { Status::Replaced } else { Status::Added }, None, lost)
                };
                outcomes.push((job.started, Outcome { lost, ..outcome(&job, Some(id), status, reason) }));
            }
        }
        self.store.commit(&changes)?;
        for (started, outcome) in outcomes {
            self.acknowledge(outcome, started);
        }
        Ok(())
    }

    /// The catalogue row of a track just heard. What its listeners taught about it stays: the hand-over looks at both.
    fn track(
        &self,
        job: &Job,
        id: &TrackId,
        content: &str,
        heard: &Heard,
        said: &[f32],
        before: Option<Track>,
    ) -> Result<Track> {
        // The manifest's words where it has some, the tags' otherwise. For some there are no tags, so what a manifest said
        // of them before stays.
        let mut info = job.input.info.clone();
        // Of the same sound, which another model hears, what was said before holds.
        if let Some(before) = before.as_ref().filter(|before| before.content.as_deref() == Some(content)) {
            info = info.or(before.info.clone());
        }
        info = info.or(info_of(&heard.tags));
        if let Some(before) = &before {
            let TrackInfo { released, language, explicit, regions, .. } = before.info.clone();
            info = info.or(TrackInfo { released, language, explicit, regions, ..TrackInfo::default() });
        }
        let heard_as = (said, self.maker.windows as usize);
        let predicted = predict(self.store, &self.model.config, id, &info, heard_as)?;
        let played = before.filter(|t| t.plays > 0);
        Ok(Track {
            id: id.clone(),
            path: Some(job.input.path.clone()),
            content: Some(content.to_string()),
            info,
            seconds: heard.seconds,
            tiled: heard.tiled,
            model: Some(self.maker.model.clone()),
            windows: Some(self.maker.windows),
            vector: played.as_ref().map_or(predicted.vector, |t| t.vector.clone()),
            predicted: Some(predicted.sound),
            length: Some(predicted.length),
            confidence: predicted.confidence,
            norm: played.as_ref().map_or(self.model.config.typical_norm, |t| t.norm),
            source: played.as_ref().map_or(Source::Predicted, |t| t.source),
            plays: played.as_ref().map_or(0, |t| t.plays),
        })
    }

    fn acknowledge(&mut self, mut outcome: Outcome, started: Instant) {
        outcome.ms = started.elapsed().as_secs_f64() * 1e3;
        self.summary.count(&outcome);
        (self.report)(&outcome);
    }
}

/// What to serve of a track until somebody plays it, given what the network said of so many windows of its sound and what
/// the catalogue knows of its artist.
pub(crate) fn predict(
    store: &Store,
    model: &ModelConfig,
    id: &TrackId,
    info: &TrackInfo,
    (said, windows): (&[f32], usize),
) -> Result<Prediction> {
    let head = model.artist.unwrap_or_default();
    let songs = match info.artist_or_album() {
        Some(artist) if head.share > 0.0 => store.songs_of(artist, MOST)?,
        _ => Vec::new(),
    };
    let songs = songs.iter().filter(|song| song.id != *id);
    let songs: Vec<Known> =
        songs.map(|song| Known { vector: &song.vector, evidence: head.evidence(song.plays) }).collect();
    model.prediction(said, windows, &songs)
}

fn file_of(job: &Job, content: &str, id: &TrackId) -> Change {
    Change::File(FileRecord {
        stamp: job.stamp.clone(),
        content: Some(content.to_string()),
        outcome: FileOutcome::Track(id.clone()),
        decoder: DECODER_VERSION,
    })
}

fn outcome(job: &Job, track: Option<TrackId>, status: Status, reason: Option<String>) -> Outcome {
    Outcome { track, path: job.input.path.clone(), status, reason, lost: None, ms: 0.0 }
}

fn failed(stamp: FileStamp, content: Option<String>, error: &Error, started: Instant) -> Message {
    // The path has its own field.
    let text = error.to_string();
    let reason = text.strip_prefix(&format!("{}: ", stamp.path.display())).unwrap_or(&text).to_string();
    let outcome = Outcome {
        track: None,
        path: stamp.path.clone(),
        status: Status::Failed,
        reason: Some(reason.clone()),
        lost: None,
        ms: 0.0,
    };
    // A disk that did not answer may answer tomorrow; a damaged file stays damaged until it changes.
    let retry = matches!(error, Error::Io { .. });
    let file = FileRecord { stamp, content, outcome: FileOutcome::Failed { reason, retry }, decoder: DECODER_VERSION };
    Message::Settled(vec![Change::File(file)], outcome, started)
}

fn info_of(tags: &Tags) -> TrackInfo {
    let t = tags.clone();
    TrackInfo {
        title: t.title,
        artist: t.artist,
        album: t.album,
        year: t.year,
        genre: t.genre,
        isrc: t.isrc,
        musicbrainz: t.musicbrainz_recording,
        ..TrackInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::SpaceId;
    use crate::encoder::{ArtistHead, Calibration, Confidence, EncoderConfig, Weights};
    use crate::store::SpaceRow;

    /// A small model whose weights are all `scale` times a random one's: at 0 it predicts nothing, which is an error.
    fn model(scale: f32) -> Model {
        let encoder = EncoderConfig { channels: [4; 4], dense: [4; 2], dimensions: 4, ..EncoderConfig::default() };
        let mut weights = Weights::random(&encoder, 1);
        for layer in &mut weights.layers {
            layer.weight *= scale;
            layer.bias *= scale;
        }
        let config = ModelConfig {
            name: "test".into(),
            space: SpaceId::named("s"),
            typical_norm: 1.0,
            weights: String::new(),
            space_json: String::new(),
            encoder,
            front_end: FrontEnd::default(),
            artist: Some(ArtistHead { attention: 2.0, half: 1.0, share: 0.8, scale: 1.0, half_evidence: 10.0 }),
            confidence: vec![Confidence {
                windows: 1,
                sound: Calibration { intercept: 0.25, slope: 0.0, margin: 0.1 },
                artist: Calibration { intercept: 0.5, slope: 0.25, margin: 0.1 },
            }],
            held_out: String::new(),
            training: Default::default(),
            scores: Default::default(),
        };
        Model::new(config, &weights).unwrap()
    }

    fn songs(folder: &Path, n: usize) -> Vec<Result<Input>> {
        (0..n)
            .map(|i| {
                let path = folder.join(format!("{i:02}.wav"));
                let tone = |t: usize| (t as f32 * (0.02 + 0.003 * i as f32)).sin() * 0.5;
                audio::write_wav(&path, &(0..30_000).map(tone).collect::<Vec<f32>>(), 22_050).unwrap();
                Ok(Input::file(&path))
            })
            .collect()
    }

    fn run(store: &mut Store, scale: f32, inputs: Vec<Result<Input>>) -> Result<(Summary, Vec<Outcome>)> {
        run_with(store, scale, inputs, &Listening::default())
    }

    fn run_with(
        store: &mut Store,
        scale: f32,
        inputs: Vec<Result<Input>>,
        listening: &Listening,
    ) -> Result<(Summary, Vec<Outcome>)> {
        let config = IngestConfig { workers: 1, batch: 2, ..IngestConfig::default() };
        let mut outcomes = Vec::new();
        let stop = AtomicBool::new(false);
        let hearing = Hearing { listening, cache: None };
        let summary = ingest(store, &model(scale), inputs.into_iter(), hearing, &config, &stop, &mut |o| {
            outcomes.push(o.clone())
        })?;
        Ok((summary, outcomes))
    }

    fn catalogue(folder: &Path) -> Store {
        let mut store = Store::open(&folder.join("catalogue")).unwrap();
        store.set_space(&SpaceRow { id: SpaceId::named("s"), dimensions: 4, description: "{}".into() }).unwrap();
        store
    }

    #[test]
    fn an_error_in_the_batch_ends_the_run_with_files_still_queued() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = catalogue(dir.path());
        // Far more files than the queues hold.
        let message = run(&mut store, 0.0, songs(dir.path(), 30)).unwrap_err().to_string();
        assert!(message.contains("direction") && message.contains(".wav"), "{message}");
        assert_eq!(store.status().unwrap().tracks, 0);
        assert_eq!(run(&mut store, 1.0, songs(dir.path(), 30)).unwrap().0.added, 30);
    }

    #[test]
    fn another_number_of_windows_is_heard_again_as_another_model_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = catalogue(dir.path());
        let windows = |n| Listening { segments: n, ..Listening::default() };
        let paths: Vec<PathBuf> = songs(dir.path(), 3).into_iter().map(|i| i.unwrap().path).collect();
        let unchanged = || paths.iter().map(|path| Ok(Input::file(path))).collect::<Vec<_>>();
        for (n, added, replaced, skipped) in [(1, 3, 0, 0), (3, 0, 3, 0), (3, 0, 0, 3), (1, 0, 3, 0)] {
            let (summary, _) = run_with(&mut store, 1.0, unchanged(), &windows(n)).unwrap();
            assert_eq!(summary, Summary { added, replaced, skipped, failed: 0, damaged: 0 }, "{n} windows");
            assert_eq!(store.windows().unwrap(), Some(n as u32));
        }
        // Written anew the files are known by their content, and what was heard of it counts too.
        for (n, replaced, skipped) in [(1, 0, 3), (2, 3, 0)] {
            let (summary, _) = run_with(&mut store, 1.0, songs(dir.path(), 3), &windows(n)).unwrap();
            assert_eq!((summary.replaced, summary.skipped), (replaced, skipped), "{n} windows");
        }
        let all = store.status().unwrap().models;
        assert_eq!(all.iter().map(|(_, windows, tracks)| (*windows, *tracks)).collect::<Vec<_>>(), [(2, 3)]);
    }

    #[test]
    fn what_only_a_manifest_can_say_stays_when_a_track_is_heard_again_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = catalogue(dir.path());
        let path = songs(dir.path(), 1).remove(0).unwrap().path;
        let said = TrackInfo {
            released: Some("2020-02-02".into()),
            language: Some("en".into()),
            explicit: Some(true),
            regions: Some("DE AT".into()),
            ..TrackInfo::default()
        };
        let id = TrackId::new("one").unwrap();
        let first = Input { id: Some(id.clone()), info: said.clone(), ..Input::file(&path) };
        run(&mut store, 1.0, vec![Ok(first)]).unwrap();
        let again = |windows, info| {
            let listening = Listening { segments: windows, ..Listening::default() };
            (vec![Ok(Input { id: Some(id.clone()), info, ..Input::file(&path) })], listening)
        };
        let (inputs, listening) = again(2, TrackInfo::default());
        assert_eq!(run_with(&mut store, 1.0, inputs, &listening).unwrap().0.replaced, 1);
        assert_eq!(store.track(&id).unwrap().unwrap().info, said);
        // A manifest that says something else is believed.
        let (inputs, listening) = again(3, TrackInfo { explicit: Some(false), ..TrackInfo::default() });
        assert_eq!(run_with(&mut store, 1.0, inputs, &listening).unwrap().0.replaced, 1);
        assert_eq!(store.track(&id).unwrap().unwrap().info, TrackInfo { explicit: Some(false), ..said });
    }

    #[test]
    fn a_named_track_keeps_its_name_when_its_file_comes_again_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = catalogue(dir.path());
        let named = |name: &str, path: &Path| Ok(Input { id: Some(TrackId::new(name).unwrap()), ..Input::file(path) });
        let paths: Vec<PathBuf> = songs(dir.path(), 2).into_iter().map(|i| i.unwrap().path).collect();
        run(&mut store, 1.0, vec![named("one", &paths[0])]).unwrap();
        let ids =
            |outcomes: &[Outcome]| outcomes.iter().map(|o| o.track.as_ref().unwrap().to_string()).collect::<Vec<_>>();

        // The same file in a folder, a copy elsewhere, and new content at the same place: all are still "one".
        let copy = dir.path().join("copy.wav");
        std::fs::copy(&paths[0], &copy).unwrap();
        let (summary, outcomes) =
            run(&mut store, 1.0, vec![Ok(Input::file(&paths[0])), Ok(Input::file(&copy))]).unwrap();
        assert_eq!((summary.skipped, ids(&outcomes)), (2, vec!["one".to_string(); 2]));
        std::fs::copy(&paths[1], &paths[0]).unwrap();
        let (summary, outcomes) = run(&mut store, 1.0, vec![Ok(Input::file(&paths[0]))]).unwrap();
        assert_eq!((summary.replaced, ids(&outcomes)), (1, vec!["one".to_string()]));

        // One recording under two names is two tracks, and stays two.
        let two = || vec![named("a", &paths[1]), named("b", &paths[1])];
        run(&mut store, 1.0, two()).unwrap();
        assert_eq!(run(&mut store, 1.0, two()).unwrap().0.skipped, 2);
        assert_eq!(store.status().unwrap().tracks, 3);
        assert!(store.check().unwrap().is_empty());
    }

    #[test]
    fn a_known_artist_s_new_song_is_served_nearer_to_what_people_play_of_him() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = catalogue(dir.path());
        let by = |artist: &str, input: Result<Input>| {
            let info = TrackInfo { artist: Some(artist.into()), ..TrackInfo::default() };
            Ok(Input { info, ..input.unwrap() })
        };
        let mut inputs = songs(dir.path(), 3).into_iter();
        let mut next = || inputs.next().unwrap();
        run(&mut store, 1.0, vec![by("Ann", next())]).unwrap();
        let first = store.songs_of("Ann", 9).unwrap();
        assert_eq!(first, [], "nobody has played it");
        let mut played = None;
        store
            .for_each_track(&mut |_, track| {
                played = Some(track);
                Ok(())
            })
            .unwrap();
        let alone = played.unwrap();
        assert_eq!((&alone.predicted.clone().unwrap(), alone.confidence), (&alone.vector, Some(0.25)));
        let taught = vec![0.0, 0.0, 0.0, 1.0];
        let learned = Track { vector: taught.clone(), source: Source::HandedOver, plays: 90, ..alone };
        store.commit(&[Change::Upsert(Box::new(learned))]).unwrap();

        let (_, outcomes) = run(&mut store, 1.0, vec![by("Ann", next()), by("Bob", next())]).unwrap();
        let track = |i: usize| store.track(outcomes[i].track.as_ref().unwrap()).unwrap().unwrap();
        let (ann, bob) = (track(0), track(1));
        let (sound, length) = (ann.predicted.clone().unwrap(), ann.length.unwrap());
        let toward = |v: &[f32]| v[3];
        assert!(toward(&ann.vector) > toward(&sound) + 0.1, "{:?} after {sound:?}", ann.vector);
        assert_eq!((Some(&bob.vector), bob.confidence), (bob.predicted.as_ref(), Some(0.25)));
        // As the model joins what was kept.
        let said: Vec<f32> = sound.iter().map(|x| x * length).collect();
        let again = model(1.0).config.prediction(&said, 1, &[Known { vector: &taught, evidence: 0.9 }]).unwrap();
        assert!(again.vector.iter().zip(&ann.vector).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!((again.confidence.unwrap() - ann.confidence.unwrap()).abs() < 1e-6 && ann.confidence != Some(0.25));
    }
}
