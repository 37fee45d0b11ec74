//! A new model's vectors for every track, built beside those that are served.
//!
//! ```text
//!  Store::unbuilt ──► spectrograms ──► encoder ──► Store::commit ──► … ──► Store::serve
//!  1024 tracks        cache, else file              building generation     one commit
//! ```
//!
//! The catalogue's writer may go on meanwhile; what it brings is caught up with. A build that was stopped goes on where
//! it was.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::Array2;
use rayon::prelude::*;
use serde::Serialize;

use crate::artefact::content_hash;
use crate::audio::{Listening, SpectrogramCache, hear};
use crate::encoder::{BATCH, Model};
use crate::error::{Error, Result};
use crate::ingest::predict;
use crate::store::{Change, Source, Store, Track};

/// Tracks to a commit: a few seconds of work, which is what a kill costs.
const GROUP: usize = 1024;

/// What became of the tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The new model has heard them.
    pub heard: u64,
    /// Kept as they are served now: those known from plays alone, and as [`Unheard::Keep`] says.
    pub kept: u64,
    /// What is built has no vector of them.
    pub left_out: u64,
}

/// What becomes of a track whose sound cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It keeps the vector that is served, which must be of the same space.
    Keep,
    LeaveOut,
}

/// How a build is watched and stopped.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub stop: &'a AtomicBool,
    pub report: &'a (dyn Fn(&Track, Option<&Error>) + Sync),
}

/// Builds what is missing in the generation that `store` builds ([`Store::build`]), with the model that it is built for.
/// `report` is told of each track once, with what kept it from being heard; of those in `failed`, which failed before and
/// are not tried again, no more.
///
/// # Errors
/// `Interrupted` after `stop`; what the network refuses; what the catalogue's disk says. A track that cannot be heard is
/// no error: it is reported and counted.
pub fn build(
    store: &mut Store,
    model: &Model,
    listening: &Listening,
    cache: Option<&SpectrogramCache>,
    same_space: Option<Unheard>,
    failed: &mut HashSet<u64>,
    job: Job,
) -> Result<Built> {
    let Job { stop, report } = job;
    let mut built = Built::default();
    // What an artist's songs have been taught holds in their space.
    let served = same_space.map(|_| Store::read(store.folder())).transpose()?;
    let mut after = 0;
    loop {
        let group = store.unbuilt(after, GROUP)?;
        let Some((last, _)) = group.last() else { return Ok(built) };
        after = *last;
        let per_batch = (BATCH / listening.segments).max(1);
        let done: Vec<Vec<Outcome>> = group
            .par_chunks(per_batch)
            .map(|batch| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                embed(model, listening, cache, batch, failed, report)
            })
            .collect::<Result<_>>()?;
        let mut changes = Vec::with_capacity(group.len());
        for outcome in done.into_iter().flatten() {
            match outcome {
                Outcome::Heard(track, said) => {
                    built.heard += 1;
                    changes.push(heard(model, listening, track, &said, served.as_ref())?);
                }
                Outcome::Silent(key, track) => {
                    let has_sound = track.content.is_some();
                    let keep = same_space.is_some_and(|unheard| !has_sound || unheard == Unheard::Keep);
                    if keep && !track.vector.is_empty() {
                        built.kept += 1;
                        changes.push(track);
                    } else {
                        built.left_out += 1;
                        failed.extend(has_sound.then_some(key));
                    }
                }
            }
        }
        let changes: Vec<Change> = changes.into_iter().map(|track| Change::Upsert(Box::new(track))).collect();
        store.commit(&changes)?;
    }
}

enum Outcome {
    /// `[d]`, as the network says it.
    Heard(Track, Vec<f32>),
    Silent(u64, Track),
}

fn embed(
    model: &Model,
    listening: &Listening,
    cache: Option<&SpectrogramCache>,
    batch: &[(u64, Track)],
    failed: &HashSet<u64>,
    report: &(dyn Fn(&Track, Option<&Error>) + Sync),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let (mut tracks, mut mels) = (Vec::new(), Vec::new());
    for (key, track) in batch {
        if failed.contains(key) {
            outcomes.push(Outcome::Silent(*key, track.clone()));
            continue;
        }
        match (&track.content, &track.path) {
            (Some(content), path) => match spectrograms(model, listening, cache, content, path.as_deref()) {
                Ok(windows) => {
                    tracks.push(track);
                    mels.push(windows);
                }
                Err(e) => {
                    report(track, Some(&e));
                    outcomes.push(Outcome::Silent(*key, track.clone()));
                }
            },
            // Known from plays alone.
            (None, _) => {
                report(track, None);
                outcomes.push(Outcome::Silent(*key, track.clone()));
            }
        }
    }
    let named = |track: &&Track| track.path.clone().unwrap_or_default();
    let paths: Vec<_> = tracks.iter().map(named).collect();
    let all: Vec<(&Path, &[Array2<f32>])> =
        paths.iter().map(|p| p.as_path()).zip(mels.iter().map(|m| &m[..])).collect();
    if !all.is_empty() {
        let vectors = model.hear_tracks(&all)?;
        for (track, vector) in tracks.into_iter().zip(vectors.outer_iter()) {
            report(track, None);
            outcomes.push(Outcome::Heard(track.clone(), vector.to_vec()));
        }
    }
    Ok(outcomes)
}

/// The windows of the track with this content: from the cache, else from its file, and then into the cache.
fn spectrograms(
    model: &Model,
    listening: &Listening,
    cache: Option<&SpectrogramCache>,
    content: &str,
    path: Option<&Path>,
) -> Result<Vec<Array2<f32>>> {
    if let Some(cache) = cache {
        match cache.load(content) {
            Ok(windows) => return Ok(windows.outer_iter().map(|window| window.to_owned()).collect()),
            Err(Error::NotFound { .. }) => {}
            Err(damage) => tracing::warn!("{damage}; hearing the file again"),
        }
    }
    let path = path.ok_or_else(|| Error::NotFound { what: "file of the track with content", name: content.into() })?;
    let found = content_hash(path)?;
    if found != content {
        let found = format!("{found}, a file that was changed (`debut ingest` takes it in)");
        return Err(Error::mismatch(format!("{} and its track", path.display()), format!("content {content}"), found));
    }
    let front_end = &model.config.front_end;
    let heard = hear(path, front_end, front_end.frames, listening)?;
    if let Some(cache) = cache
        && let Err(e) = cache.keep(content, &heard)
    {
        tracing::warn!("spectrogram not kept: {e}");
    }
    Ok(heard.mels)
}

/// The track as the new model hears it. What its listeners taught about it, and about its artist's songs, holds in its
/// space: there `served` is the catalogue as it is served.
fn heard(model: &Model, listening: &Listening, track: Track, said: &[f32], served: Option<&Store>) -> Result<Track> {
    let played = served.is_some() && track.plays > 0;
    let predicted = match served {
        Some(store) => predict(store, &model.config, &track.id, &track.info, (said, listening.segments))?,
        None => model.config.prediction(said, listening.segments, &[])?,
    };
    Ok(Track {
        model: Some(model.id()),
        windows: Some(listening.segments as u32),
        vector: if played { track.vector } else { predicted.vector },
        predicted: Some(predicted.sound),
        length: Some(predicted.length),
        confidence: predicted.confidence,
        norm: if played { track.norm } else { model.config.typical_norm },
        source: if played { track.source } else { Source::Predicted },
        ..track
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::artefact::SpaceId;
    use crate::audio::{FrontEnd, write_wav};
    use crate::encoder::{EncoderConfig, ModelConfig, Weights};
    use crate::ids::TrackId;
    use crate::ingest::{Hearing, IngestConfig, ingest};
    use crate::inputs::Input;
    use crate::store::{SpaceRow, TrackInfo};

    fn model(name: &str, space: &str, dimensions: usize, seed: u64) -> Model {
        let encoder = EncoderConfig { channels: [4; 4], dense: [4; 2], dimensions, ..EncoderConfig::default() };
        let weights = Weights::random(&encoder, seed);
        let config = ModelConfig {
            name: name.into(),
            space: SpaceId::named(space),
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

    fn space(model: &Model) -> SpaceRow {
        let dimensions = model.config.encoder.dimensions;
        SpaceRow { id: model.config.space.clone(), dimensions, description: "{}".into() }
    }

    /// Six tones, of which two have plays, and a track that is known from plays alone.
    fn catalogue(folder: &Path, model: &Model, cache: &SpectrogramCache) -> Store {
        let mut store = Store::open(&folder.join("catalogue")).unwrap();
        store.set_space(&space(model)).unwrap();
        let inputs = (0..6).map(|i| {
            let path = folder.join(format!("{i}.wav"));
            let tone = |t: usize| (t as f32 * (0.02 + 0.005 * i as f32)).sin() * 0.5;
            write_wav(&path, &(0..30_000).map(tone).collect::<Vec<f32>>(), 22_050).unwrap();
            Ok(Input { id: Some(TrackId::new(format!("tone {i}")).unwrap()), ..Input::file(&path) })
        });
        let hearing = Hearing { listening: &Listening::default(), cache: Some(cache) };
        let stop = AtomicBool::new(false);
        // One worker: keys in the order of the names.
        let config = IngestConfig { workers: 1, ..IngestConfig::default() };
        ingest(&mut store, model, inputs, hearing, &config, &stop, &mut |_| ()).unwrap();
        let mut changes = Vec::new();
        for i in 0..2 {
            let id = TrackId::new(format!("tone {i}")).unwrap();
            let mut vector = vec![0.0; model.config.encoder.dimensions];
            vector[i] = 1.0;
            let played = store.track(&id).unwrap().unwrap();
            changes.push(Track { vector, norm: 2.0, source: Source::HandedOver, plays: 9, ..played });
        }
        let mut vector = vec![0.0; model.config.encoder.dimensions];
        vector[2] = 1.0;
        changes.push(Track {
            id: TrackId::new("unheard").unwrap(),
            path: None,
            content: None,
            info: TrackInfo::default(),
            seconds: None,
            tiled: false,
            model: None,
            windows: None,
            predicted: None,
            length: None,
            confidence: None,
            vector,
            norm: 3.0,
            source: Source::Learned,
            plays: 5,
        });
        store.commit(&changes.into_iter().map(|t| Change::Upsert(Box::new(t))).collect::<Vec<_>>()).unwrap();
        store
    }

    fn all(store: &Store) -> Vec<Track> {
        let mut all = Vec::new();
        let mut keep = |_, track| {
            all.push(track);
            Ok(())
        };
        store.for_each_track(&mut keep).unwrap();
        all
    }

    /// Builds and serves; returns what became of the tracks, and those that failed.
    fn reindex(folder: &Path, model: &Model, cache: Option<&SpectrogramCache>, same: bool) -> (Built, Vec<String>) {
        let mut store = Store::build(&folder.join("catalogue"), &space(model), &model.id()).unwrap();
        let failed = Mutex::new(Vec::new());
        let report = |track: &Track, e: Option<&Error>| {
            failed.lock().unwrap().extend(e.map(|e| format!("{}: {e}", track.id)));
        };
        let job = Job { stop: &AtomicBool::new(false), report: &report };
        let same = same.then_some(Unheard::Keep);
        let built = build(&mut store, model, &Listening::default(), cache, same, &mut HashSet::new(), job).unwrap();
        store.finish_building().unwrap();
        store.serve().unwrap();
        (built, failed.into_inner().unwrap())
    }

    #[test]
    fn a_new_model_of_the_space_hears_every_track_from_its_spectrogram_and_what_listeners_taught_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (model("old", "s", 4, 1), model("new", "s", 4, 2));
        let cache = SpectrogramCache::open(&dir.path().join("mels"), &FrontEnd::default(), 599, &Listening::default());
        let cache = cache.unwrap();
        let store = catalogue(dir.path(), &old, &cache);
        let before = all(&store);
        drop(store);
        // The audio is in an archive; of one track the spectrogram is lost, too.
        for i in 0..6 {
            std::fs::remove_file(dir.path().join(format!("{i}.wav"))).unwrap();
        }
        let index = walkdir::WalkDir::new(dir.path().join("mels")).into_iter().map(|e| e.unwrap().into_path());
        let index = index.into_iter().find(|path| path.extension().is_some_and(|e| e == "index")).unwrap();
        let lines = std::fs::read_to_string(&index).unwrap();
        std::fs::write(&index, lines.replace(before[4].content.as_ref().unwrap(), &"0".repeat(32))).unwrap();
        let (built, failed) = reindex(dir.path(), &new, Some(&cache), true);
        assert_eq!(built, Built { heard: 5, kept: 2, left_out: 0 });
        assert!(failed.len() == 1 && failed[0].contains("tone 4") && failed[0].contains("4.wav"), "{failed:?}");
        let store = Store::read(&dir.path().join("catalogue")).unwrap();
        assert_eq!(store.check().unwrap(), []);
        for (i, (was, is)) in before.iter().zip(all(&store)).enumerate() {
            assert_eq!((&was.id, &was.info, &was.path, was.plays), (&is.id, &is.info, &is.path, is.plays));
            match i {
                4 | 6 => assert_eq!(*was, is),
                _ => {
                    let windows = cache.load(is.content.as_ref().unwrap()).unwrap();
                    let said = new.embed(windows.view()).unwrap();
                    assert_eq!(is.predicted.as_deref(), said.row(0).as_slice(), "track {i}");
                    assert_eq!(is.model, Some(new.id()));
                    assert_eq!(is.vector == was.vector, i < 2, "what is served of a track with plays: theirs");
                }
            }
        }
    }

    #[test]
    fn a_new_space_takes_the_place_of_the_old_at_once_and_leaves_out_what_it_cannot_hear() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (model("old", "s", 4, 1), model("new", "other", 5, 2));
        let cache = SpectrogramCache::open(&dir.path().join("mels"), &FrontEnd::default(), 599, &Listening::default());
        let cache = cache.unwrap();
        let mut store = catalogue(dir.path(), &old, &cache);
        let one = TrackId::new("tone 0").unwrap();
        let mut words = store.track(&one).unwrap().unwrap();
        (words.info.explicit, words.info.language) = (Some(true), Some("en".into()));
        store.commit(&[Change::Upsert(Box::new(words))]).unwrap();
        drop(store);
        // One file was changed since; without a cache that is not the track any more.
        std::fs::copy(dir.path().join("1.wav"), dir.path().join("0.wav")).unwrap();
        let (built, failed) = reindex(dir.path(), &new, None, false);
        assert_eq!(built, Built { heard: 5, kept: 0, left_out: 2 });
        assert!(failed.len() == 1 && failed[0].contains("debut ingest"), "{failed:?}");
        let mut store = Store::open(&dir.path().join("catalogue")).unwrap();
        assert_eq!(store.space().unwrap().unwrap(), space(&new));
        let now = all(&store);
        assert_eq!(now.len(), 5);
        assert!(now.iter().all(|t| t.vector.len() == 5 && t.source == Source::Predicted));
        assert_eq!(store.status().unwrap().without_vector, 2);
        let unheard = TrackId::new("unheard").unwrap();
        for id in [&one, &unheard] {
            assert!(store.track(id).unwrap().is_none() && store.contains(id).unwrap());
            assert!(store.entry(id).unwrap().unwrap().vector.is_empty());
        }
        // The old model has no place here any more; the new one hears what was left out.
        let hear = |store: &mut Store, model: &Model| {
            let hearing = Hearing { listening: &Listening::default(), cache: None };
            // Without its name: it is the track that this path was before.
            let input = Input::file(&dir.path().join("0.wav"));
            let stop = AtomicBool::new(false);
            ingest(store, model, [Ok(input)].into_iter(), hearing, &IngestConfig::default(), &stop, &mut |_| ())
        };
        assert!(matches!(hear(&mut store, &old), Err(Error::Mismatch { .. })));
        hear(&mut store, &new).unwrap();
        assert_eq!(store.status().unwrap().without_vector, 1);
        let heard = store.track(&one).unwrap().unwrap();
        assert_eq!((heard.info.explicit, heard.info.language.as_deref()), (Some(true), Some("en")));
        assert_eq!(store.len().unwrap(), 6, "no second track of another name");
        store.commit(&[Change::Remove(unheard.clone())]).unwrap();
        assert_eq!(store.status().unwrap().without_vector, 0);
        assert!(store.is_removed(&unheard).unwrap());
        assert_eq!(store.check().unwrap(), []);
    }
}
