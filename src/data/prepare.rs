//! Making a data set: hear, join, split, write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{HEADER, Header, Report, Row, SPLITS, SplitReport, TRACKS, VERSION};
use crate::artefact::{atomic_write, content_hash, create_folder, file_hash, write_sealed_toml};
use crate::audio::cache::About;
use crate::audio::{DECODER_VERSION, EXCERPT_FRAMES, FrontEnd, SpectrogramCache};
use crate::dates::parse_date;
use crate::error::{Error, Result};
use crate::eval::{Candidate, Part, SplitConfig, TrackSplit};
use crate::events::{Action, ConfidenceConfig, Event, EventsConfig, InteractionsBuilder};
use crate::ids::TrackId;
use crate::inputs::Input;
use crate::store::names_somebody;

/// The file of failures in a data set.
const FAILED: &str = "failed.csv";

/// A file that could not be heard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    pub path: PathBuf,
    pub reason: String,
    /// Of the file as it was; none where it could not be read at all, and then it is tried again by the next run.
    pub content: Option<String>,
    /// The version of the decoders that failed.
    pub decoder_version: u32,
}

/// The failures that an earlier run left in `dir`; none where there was no run.
///
/// # Errors
/// `Io`; `Format` where the table is damaged.
pub fn read_failures(dir: &Path) -> Result<Vec<Failure>> {
    let path = dir.join(FAILED);
    if !path.try_exists().map_err(Error::io(&path))? {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let rows: Result<_, _> = csv::Reader::from_reader(&bytes[..]).deserialize().collect();
    rows.map_err(|e| Error::format(&path, "rows of path,reason,content,decoder_version (or no file)", e))
}

/// Remembers failures in `dir`, for the next run.
pub fn write_failures(dir: &Path, failures: &[Failure]) -> Result<()> {
    create_folder(dir)?;
    write_csv(&dir.join(FAILED), &["path", "reason", "content", "decoder_version"], failures)
}

/// What came of hearing.
#[derive(Debug, Default)]
pub struct Hearing {
    heard: Vec<HeardTrack>,
    pub failures: Vec<Failure>,
    /// It was stopped: not all inputs were heard.
    pub stopped: bool,
}

#[derive(Debug)]
struct HeardTrack {
    id: TrackId,
    input: Input,
    content: String,
    about: About,
    bytes: u64,
}

enum Outcome {
    Heard(Box<HeardTrack>),
    Failed(Failure),
    Stopped,
}

/// Hears, on all cores, what is not in `cache`, and not among the `failures` of an earlier run, into it. `stop` ends it
/// early: what was heard stays in the cache. `done` is called once an input.
///
/// # Errors
/// `Io` where the cache cannot be written.
pub fn hear_all(
    inputs: Vec<Result<Input>>,
    cache: &SpectrogramCache,
    failures: &[Failure],
    stop: &AtomicBool,
    done: &(dyn Fn() + Sync),
) -> Result<Hearing> {
    let failed: HashMap<&Path, &Failure> = failures
        .iter()
        .filter(|failure| failure.decoder_version == DECODER_VERSION)
        .map(|failure| (failure.path.as_path(), failure))
        .collect();
    let outcomes: Result<Vec<Outcome>> = inputs
        .into_par_iter()
        .map(|input| {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            let outcome = hear_one(input, cache, &failed);
            done();
            outcome
        })
        .collect();
    let mut hearing = Hearing::default();
    for outcome in outcomes? {
        match outcome {
            Outcome::Heard(track) => hearing.heard.push(*track),
            Outcome::Failed(failure) => hearing.failures.push(failure),
            Outcome::Stopped => hearing.stopped = true,
        }
    }
    hearing.failures.sort();
    Ok(hearing)
}

fn hear_one(input: Result<Input>, cache: &SpectrogramCache, failed: &HashMap<&Path, &Failure>) -> Result<Outcome> {
    let failure = |path: &Path, e: Error, content: Option<String>| {
        // A disk may be well again tomorrow; a file that is no music will not be music then.
        let content = content.filter(|_| !matches!(e, Error::Io { .. }));
        let name = path.to_string_lossy().into_owned();
        let reason = e.to_string();
        let reason = reason.strip_prefix(&format!("{name}: ")).unwrap_or(&reason).to_string();
        Ok(Outcome::Failed(Failure { path: name.into(), reason, content, decoder_version: DECODER_VERSION }))
    };
    let input = match input {
        Ok(input) => input,
        Err(e) => {
            let path = if let Error::Io { path, .. } = &e { path.clone() } else { PathBuf::new() };
            return failure(&path, e, None);
        }
    };
    let path = &input.path;
    if path.to_str().is_none() {
        // A table of tracks is text.
        return failure(path, Error::unsupported(path, "a path in UTF-8", "another (rename it)"), None);
    }
    let content = match content_hash(path) {
        Ok(content) => content,
        Err(e) => return failure(path, e, None),
    };
    if let Some(&known) = failed.get(path.as_path())
        && known.content.as_ref() == Some(&content)
    {
        return Ok(Outcome::Failed(known.clone()));
    }
    // The hash of what was heard: the file may have been another a moment ago.
    let content = match cache.get_or_hear(path) {
        Ok(heard) => heard,
        // No fault of the track's.
        Err(Error::Io { path, source }) if path.starts_with(cache.folder()) => return Err(Error::Io { path, source }),
        Err(e) => return failure(path, e, Some(content)),
    };
    let about = match cache.about(&content) {
        Ok(about) => about,
        Err(e) => return failure(path, e, None),
    };
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let id = match &input.id {
        Some(id) => id.clone(),
        None => TrackId::new(content.clone())?,
    };
    Ok(Outcome::Heard(Box::new(HeardTrack { id, input, content, about, bytes })))
}

/// Seconds.
const HOUR: i64 = 3600;

/// What listeners did, track by track.
pub struct ListenedTo {
    builder: InteractionsBuilder,
    tracks: HashMap<TrackId, Plays>,
    /// Plays in each hour since 1970.
    hours: HashMap<i64, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Plays {
    first: Option<i64>,
    plays: u64,
    listeners: u32,
}

impl ListenedTo {
    pub fn new(reading: &EventsConfig) -> Result<ListenedTo> {
        let builder = InteractionsBuilder::new(&ConfidenceConfig::default().without_limits(), reading, None)?;
        Ok(ListenedTo { builder, tracks: HashMap::new(), hours: HashMap::new() })
    }

    /// # Errors
    /// As [`InteractionsBuilder::push`].
    pub fn push(&mut self, event: &Event) -> Result<()> {
        self.builder.push(event)?;
        if !self.tracks.contains_key(&event.track) {
            self.tracks.insert(event.track.clone(), Plays::default());
        }
        // Playlists have no times, and likes come after plays.
        if matches!(event.action, Action::Play | Action::Complete | Action::Skip)
            && let Some(track) = self.tracks.get_mut(&event.track)
        {
            track.plays += 1;
            *self.hours.entry(event.time.div_euclid(HOUR)).or_default() += 1;
            track.first = Some(track.first.map_or(event.time, |first| first.min(event.time)));
        }
        Ok(())
    }

    /// Of each track, and in each hour.
    fn finish(mut self) -> Result<(HashMap<TrackId, Plays>, HashMap<i64, u64>)> {
        let all = self.builder.finish()?;
        for (id, &listeners) in all.tracks.names().iter().zip(&all.plays) {
            if let Some(track) = self.tracks.get_mut(id) {
                track.listeners = listeners;
            }
        }
        Ok((self.tracks, self.hours))
    }
}

/// Where and how a data set is made.
pub struct Settings<'a> {
    /// The folder of the data set.
    pub out: &'a Path,
    /// The folder that the cache is in.
    pub cache: &'a Path,
    pub front_end: &'a FrontEnd,
    pub windows: usize,
    pub split: &'a SplitConfig,
    /// Files that were given.
    pub given: u64,
}

/// Joins what was heard with what was listened to, splits it, and writes the data set.
///
/// # Errors
/// `Io`; `Mismatch` where nobody listened to any track that was heard.
pub fn prepare(hearing: Hearing, listened_to: ListenedTo, settings: &Settings) -> Result<Report> {
    settings.split.check()?;
    let out = settings.out;
    let (plays, hours) = listened_to.finish()?;
    let mut report = Report { given: settings.given, failed: hearing.failures.len() as u64, ..Report::default() };
    for failure in &hearing.failures {
        *report.reasons.entry(failure.reason.clone()).or_default() += 1;
    }

    // By id; of several files of one id the first by its path, so that the order of the inputs is nothing to it.
    let mut heard = hearing.heard;
    heard.sort_by(|a, b| (&a.id, &a.input.path).cmp(&(&b.id, &b.input.path)));
    let before = heard.len();
    heard.dedup_by(|b, a| a.id == b.id);
    report.repeated = (before - heard.len()) as u64;
    report.heard = heard.len() as u64;
    let row_bytes = 2 * settings.windows * EXCERPT_FRAMES * settings.front_end.mel_bands;
    report.spectrogram_bytes = report.heard * row_bytes as u64;

    let (mut rows, mut candidates, mut seconds, mut covered) = (Vec::new(), Vec::new(), 0.0, 0);
    for track in heard {
        let HeardTrack { id, input, content, about, bytes } = track;
        report.audio_bytes += bytes;
        seconds += about.seconds.unwrap_or(0.0);
        *report.codecs.entry(about.codec.clone()).or_default() += 1;
        let played = plays.get(&id).copied();
        // What the manifest says goes before what the file's tags say.
        let artist = input.info.artist.or(about.tags.artist);
        let album = input.info.album.or(about.tags.album);
        let released = input.info.released.as_deref().map(parse_date);
        report.released += u64::from(matches!(released, Some(Some(_))));
        report.bad_dates += u64::from(released == Some(None));
        let Plays { first, plays, listeners } = played.unwrap_or_default();
        covered += plays;
        if played.is_some() {
            let time = released.flatten().or(first);
            let named = |name: &Option<String>| name.clone().filter(|name| names_somebody(name));
            candidates.push(Candidate { id: id.clone(), artist: named(&artist), album: named(&album), time });
        }
        rows.push(Row {
            id,
            path: input.path,
            content,
            artist,
            album,
            released: input.info.released,
            first_play: first,
            listeners,
            seconds: about.seconds,
            windows: settings.windows,
        });
    }
    if candidates.is_empty() {
        let found =
            rows.first().map_or("no track was heard".to_string(), |row| format!("none of the ids, as {}", row.id));
        return Err(Error::mismatch("ids of the audio and of the events", "tracks in both", found));
    }
    let all_plays: u64 = plays.values().map(|track| track.plays).sum();
    report.hours = seconds / 3600.0;
    report.with_listeners = candidates.len() as u64;
    report.without_listeners = report.heard - report.with_listeners;
    report.without_audio = plays.len() as u64 - report.with_listeners;
    report.plays = all_plays;
    report.plays_covered = covered as f64 / all_plays.max(1) as f64;

    let mut splits = Vec::new();
    for name in SPLITS {
        let made = match name {
            "track" => TrackSplit::by_track(&candidates, settings.split),
            "artist" => TrackSplit::by_artist(&candidates, settings.split),
            _ => TrackSplit::by_time(&candidates, settings.split),
        };
        let told = match made {
            Ok(split) => {
                let mut told = tell(&split, &candidates, &plays, all_plays);
                told.plays_before_cut = split.cut.map(|cut| {
                    hours.iter().filter(|(hour, _)| **hour < cut.div_euclid(HOUR)).map(|(_, plays)| plays).sum()
                });
                if told.plays_before_cut == Some(0) {
                    tracing::warn!("the split by {name} leaves no play to learn from ({})", split.made);
                }
                splits.push((name, Some(split)));
                told
            }
            // Few tracks, or one artist, or one day: there may be no such split, and the others are none the worse.
            Err(e) => {
                splits.push((name, None));
                tracing::warn!("no split by {name}: {e}");
                SplitReport { made: format!("none: {e}"), ..SplitReport::default() }
            }
        };
        report.splits.insert(name.into(), told);
    }
    create_folder(&out.join("splits"))?;
    write_csv(&out.join(TRACKS), &[], &rows)?;
    write_failures(out, &hearing.failures)?;
    let json = serde_json::to_string_pretty(&report).map_err(|e| Error::invalid("report", "JSON", e))?;
    atomic_write(&out.join("report.json"), |file| writeln!(file, "{json}"))?;
    // What is made of a data set begins with a split: it comes when the rest is there.
    let mut files = vec![TRACKS.to_string()];
    for (name, split) in splits {
        let file = format!("splits/{name}.csv");
        match split {
            Some(split) => {
                split.save(&out.join(&file))?;
                files.push(file);
            }
            None => remove(&out.join(&file))?,
        }
    }
    let hashes = files.into_iter().map(|name| Ok((name.clone(), file_hash(&out.join(&name))?)));
    let header = Header {
        version: VERSION,
        decoder_version: DECODER_VERSION,
        cache: std::path::absolute(settings.cache).map_err(Error::io(settings.cache))?,
        frames: EXCERPT_FRAMES,
        windows: settings.windows,
        tracks: rows.len(),
        failed: hearing.failures.len(),
        front_end: settings.front_end.clone(),
        split: *settings.split,
        files: hashes.collect::<Result<BTreeMap<_, _>>>()?,
    };
    write_sealed_toml(&out.join(HEADER), &header)?;
    Ok(report)
}

fn tell(split: &TrackSplit, tracks: &[Candidate], plays: &HashMap<TrackId, Plays>, all_plays: u64) -> SplitReport {
    let test = || tracks.iter().filter(|track| split.is(&track.id, Part::Test));
    let groups: BTreeSet<_> = test().map(|track| track.artist.as_ref().or(track.album.as_ref())).collect();
    let test_plays: u64 = test().filter_map(|track| Some(plays.get(&track.id)?.plays)).sum();
    SplitReport {
        made: split.made.clone(),
        train: split.count(Part::Train),
        valid: split.count(Part::Valid),
        test: split.count(Part::Test),
        test_groups: groups.len(),
        test_plays: test_plays as f64 / all_plays.max(1) as f64,
        plays_before_cut: None,
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// A table with a header, which is `columns` where there is no row to take them from.
fn write_csv(path: &Path, columns: &[&str], rows: &[impl Serialize]) -> Result<()> {
    atomic_write(path, |file| {
        let mut out = csv::Writer::from_writer(file);
        if rows.is_empty() {
            out.write_record(columns)?;
        }
        rows.iter().try_for_each(|row| out.serialize(row))?;
        out.flush()
    })
}

#[cfg(unix)]
#[test]
fn a_name_that_no_table_can_hold_is_a_failure_of_that_file_alone() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let front_end = FrontEnd::default();
    let cache = SpectrogramCache::open(&dir.path().join("mels"), &front_end, 20, &Default::default()).unwrap();
    let named = |name: &[u8]| Input::file(&dir.path().join(std::ffi::OsStr::from_bytes(name)));
    let inputs = [named(b"caf\xe9.wav"), named("none/café.wav".as_bytes())];
    let heard = hear_all(inputs.map(Ok).into(), &cache, &[], &AtomicBool::new(false), &|| ()).unwrap();
    write_failures(dir.path(), &heard.failures).unwrap();
    let reasons: Vec<String> = read_failures(dir.path()).unwrap().into_iter().map(|failure| failure.reason).collect();
    assert!(
        reasons.len() == 2 && reasons[0].contains("a path in UTF-8") && !reasons[1].contains("UTF-8"),
        "{reasons:?}"
    );
}
