use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ndarray::Array2;
use serde::Serialize;
use serde_json::json;

use super::factorize::read_interactions;
use super::{Context, build_index, count, print_json, print_line, progress};
use crate::artefact::atomic_write;
use crate::encoder::artist::MOST;
use crate::encoder::embed::normalise;
use crate::encoder::{Known, Model, ModelConfig, Prediction};
use crate::error::{Error, Result};
use crate::events::Interactions;
use crate::factors::{Factors, Space};
use crate::handover::{HandoverConfig, hand_over};
use crate::ids::{Ids, TrackId};
use crate::inputs::read_manifest;
use crate::store::{Change, Listener, Met, Source, SpaceRow, Store, Track, TrackInfo};

const EXAMPLES: &str = "\
Example:
  debut factorize plays.parquet --out factors
  debut handover --factors factors --events plays.parquet

For each track that was heard and played, the vector that is served moves from the prediction towards what its listeners
say; a track that was played but never heard is added with its learned factor. The listeners come along with their
histories, so that `debut recommend --user` can answer and say because of what.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `debut factorize` made.
    #[arg(long, value_name = "DIR")]
    factors: PathBuf,

    /// The events it was made from (CSV, JSON Lines, Parquet, or a folder of them).
    #[arg(long, value_name = "EVENTS")]
    events: PathBuf,

    /// The model that predicted: then an artist's songs, as far as people play them, are evidence of his others. Without it
    /// the sound alone is.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Titles, artists and the rest of a manifest; what it leaves empty stays as the catalogue has it.
    #[arg(long, value_name = "tracks.csv|jsonl")]
    tracks: Option<PathBuf>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let factors = Factors::load(&args.factors)?;
    let (data, _) = read_interactions(&args.events, &factors.confidence, &context.config.events)?;
    let words = match &args.tracks {
        None => HashMap::new(),
        Some(path) => read_manifest(path)?.into_iter().filter_map(|i| Some((i.id?, i.info))).collect(),
    };
    let mut store = Store::open(&context.catalogue)?;
    let model = args.model.as_deref().map(ModelConfig::load).transpose()?;
    if let Some(model) = &model {
        factors.space.require("the factors' space and the model's", &model.space)?;
    }
    let report = hand_over_all(&mut store, &factors, &data, &words, model.as_ref(), &context.config.handover)?;
    store.checkpoint()?;
    build_index(&store, &context.config.index)?;
    if context.json {
        print_json(&report)?;
    } else {
        print_line(&format!(
            "{}; {} handed over to plays, {} known from plays alone, {} with sound alone",
            count(report.listeners, "listener"),
            report.handed_over,
            report.learned,
            report.predicted
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a hand-over did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Report {
    pub listeners: u64,
    pub handed_over: u64,
    pub learned: u64,
    pub predicted: u64,
}

/// Gives every track the vector that its evidence supports, and the catalogue its listeners.
pub fn hand_over_all(
    store: &mut Store,
    factors: &Factors,
    data: &Interactions,
    words: &HashMap<TrackId, TrackInfo>,
    model: Option<&ModelConfig>,
    config: &HandoverConfig,
) -> Result<Report> {
    config.check()?;
    let space = factors.space();
    adopt(store, &space)?;
    let d = space.dimensions;

    // The vector of every user of the events: the learned one, or folded in if the fit did not know him (or none of the
    // actions that were factorised).
    let is_known = |row: &usize| factors.user_factors.row(*row).iter().any(|v| *v != 0.0);
    let known: HashMap<_, _> =
        (0..factors.users.len()).filter(is_known).map(|row| (&factors.users[row], row)).collect();
    let rows: HashMap<_, _> = factors.tracks.iter().enumerate().map(|(row, id)| (id, row)).collect();
    let fold_in = space.fold_in_users()?;
    let mut users = Array2::<f32>::zeros((data.users.len(), d));
    for (user, id) in data.users.names().iter().enumerate() {
        if let Some(&row) = known.get(id) {
            users.row_mut(user).assign(&factors.user_factors.row(row));
            continue;
        }
        let (tracks, confidence, preference) = data.by_user.row(user);
        let met: Vec<usize> =
            (0..tracks.len()).filter(|&i| rows.contains_key(&data.tracks.names()[tracks[i] as usize])).collect();
        let mut vectors = Array2::zeros((met.len(), d));
        for (mut to, &i) in vectors.outer_iter_mut().zip(&met) {
            to.assign(&factors.track_factors.row(rows[&data.tracks.names()[tracks[i] as usize]]));
        }
        let pick = |from: &[f32]| met.iter().map(|&i| from[i]).collect::<Vec<f32>>();
        let vector = fold_in.solve(vectors.view(), &pick(confidence), &pick(preference))?;
        users.row_mut(user).iter_mut().zip(vector).for_each(|(to, v)| *to = v);
    }

    let gram = Array2::from_shape_vec((d, d), space.user_gram.clone())
        .map_err(|_| Error::mismatch("the Gram matrix of the users", d * d, space.user_gram.len()))?;
    let length = config.prediction_length * space.typical_norm;
    let by_track = data.by_user.transpose();
    let mut report = Report::default();
    let mut changes = Vec::new();
    let mut seen: Ids<TrackId> = Ids::new();
    let mut tracks: Vec<Track> = Vec::new();
    store.for_each_track(&mut |_, track| {
        seen.intern(&track.id);
        tracks.push(track);
        Ok(())
    })?;
    let fresh = factors.tracks.iter().chain(data.tracks.names()).filter(|id| seen.number(id).is_none());
    let mut fresh: Vec<TrackId> = fresh.cloned().collect();
    fresh.sort();
    fresh.dedup();
    // What somebody took out does not come back because people once played it.
    for id in std::mem::take(&mut fresh) {
        if !store.is_removed(&id)? {
            fresh.push(id);
        }
    }
    for id in fresh {
        // It may be there without a vector in this space, and with its file and words.
        tracks.push(store.entry(&id)?.unwrap_or_else(|| Track {
            info: words.get(&id).cloned().unwrap_or_default(),
            id,
            path: None,
            content: None,
            seconds: None,
            tiled: false,
            model: None,
            windows: None,
            predicted: None,
            length: None,
            confidence: None,
            vector: Vec::new(),
            norm: space.typical_norm,
            source: Source::Learned,
            plays: 0,
        }));
    }

    let as_named = |track: &Track| match words.get(&track.id) {
        Some(words) => words.clone().or(track.info.clone()),
        None => track.info.clone(),
    };
    let artists = Artists::new(tracks.iter().map(|track| (&track.id, as_named(track))), factors, model);
    let bar = progress(tracks.len() as u64, "handing over");
    for before in &tracks {
        bar.inc(1);
        let mut track = Track { info: as_named(before), ..before.clone() };
        let predicted = artists.prediction(&track)?;
        if let Some((_, confidence)) = &predicted {
            track.confidence = *confidence;
        }
        let number = data.tracks.number(&track.id);
        let evidence = number.map(|n| by_track.row(n as usize)).filter(|(who, ..)| !who.is_empty());
        let served: Option<(Vec<f32>, Source)> = match (&predicted, evidence) {
            (Some((predicted, _)), Some((who, confidence, preference))) => {
                let mut listeners = Array2::zeros((who.len(), d));
                for (mut to, &user) in listeners.outer_iter_mut().zip(who) {
                    to.assign(&users.row(user as usize));
                }
                let scaled: Vec<f32> = predicted.iter().map(|v| v * length).collect();
                let ridge = space.track_ridge.at(who.len());
                let y = hand_over(&scaled, gram.view(), ridge, listeners.view(), confidence, preference, config)?;
                Some((y, Source::HandedOver))
            }
            (Some((predicted, _)), None) => Some((predicted.iter().map(|v| v * length).collect(), Source::Predicted)),
            (None, _) => rows.get(&track.id).map(|&row| (factors.track_factors.row(row).to_vec(), Source::Learned)),
        };
        // A track that was only ever skipped has no direction; what is served stays, and a new one is not added.
        let length_of = |raw: &[f32]| raw.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let served = served.map(|(raw, source)| (length_of(&raw), raw, source)).filter(|(norm, ..)| *norm >= 1e-9);
        if let Some((norm, raw, source)) = served {
            track.plays = number.map_or(0, |n| data.plays[n as usize]);
            track.vector = raw.iter().map(|v| (f64::from(*v) / norm) as f32).collect();
            track.norm = norm as f32;
            track.source = source;
            match source {
                Source::Predicted => report.predicted += 1,
                Source::HandedOver => report.handed_over += 1,
                Source::Learned => report.learned += 1,
            }
        } else if before.vector.is_empty() {
            continue;
        }
        if track != *before {
            changes.push(Change::Upsert(Box::new(track)));
        }
        if changes.len() == 1000 {
            store.commit(&std::mem::take(&mut changes))?;
        }
    }
    store.commit(&changes)?;
    bar.finish_and_clear();

    // A playlist is a user among others as evidence, but nobody to whom a track can be shown.
    let listeners = data.users.names().iter().enumerate().filter(|(_, id)| !id.is_playlist());
    let listeners: Vec<Listener> =
        listeners
            .map(|(user, id)| {
                let (tracks, confidence, preference) = data.by_user.row(user);
                let met = tracks.iter().zip(confidence).zip(preference).map(|((&track, &confidence), &preference)| {
                    Met { track: data.tracks.names()[track as usize].clone(), confidence, preference }
                });
                Listener { id: id.clone(), vector: users.row(user).to_vec(), history: met.collect() }
            })
            .collect();
    store.set_listeners(&listeners)?;
    report.listeners = listeners.len() as u64;
    Ok(report)
}

/// What is known of artists, for the model that joins it with the sound of their other songs.
struct Artists<'a> {
    model: Option<&'a ModelConfig>,
    /// Of each artist the songs that people play, the most played first.
    songs: HashMap<String, Vec<Played<'a>>>,
}

/// A song that people play: its learned direction `[d]`, and how much that rests on plays.
type Played<'a> = (&'a TrackId, Vec<f32>, f32);

impl<'a> Artists<'a> {
    fn new(
        tracks: impl Iterator<Item = (&'a TrackId, TrackInfo)>,
        factors: &Factors,
        model: Option<&'a ModelConfig>,
    ) -> Artists<'a> {
        let head = model.and_then(|model| model.artist).filter(|head| head.share > 0.0);
        let mut songs: HashMap<String, Vec<Played>> = HashMap::new();
        if let Some(head) = head {
            let rows: HashMap<&TrackId, usize> = factors.tracks.iter().zip(0..).collect();
            for (id, info) in tracks {
                let (Some(artist), Some(&row)) = (info.artist_or_album(), rows.get(id)) else { continue };
                let mut vector = factors.track_factors.row(row).to_owned();
                let evidence = head.evidence(factors.plays[row]);
                if evidence > 0.0 && normalise(vector.view_mut()) {
                    songs.entry(artist.to_string()).or_default().push((id, vector.to_vec(), evidence));
                }
            }
            for songs in songs.values_mut() {
                songs.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(b.0)));
                // One more, since a song is not its own evidence.
                songs.truncate(MOST + 1);
            }
        }
        Artists { model, songs }
    }

    /// What is served of a track until somebody plays it `[d]`, of unit length, and how sure that is; `None` where no
    /// network heard it.
    fn prediction(&self, track: &Track) -> Result<Option<(Vec<f32>, Option<f32>)>> {
        let Some(sound) = &track.predicted else { return Ok(None) };
        // Of another model's answer this one's head knows nothing.
        let (Some(model), Some(length), Some(windows)) =
            (self.model.filter(|m| track.model == Some(m.id())), track.length, track.windows)
        else {
            return Ok(Some((sound.clone(), track.confidence)));
        };
        let said: Vec<f32> = sound.iter().map(|x| x * length).collect();
        let songs = track.info.artist_or_album().and_then(|artist| self.songs.get(artist));
        let songs: Vec<Known> = songs
            .into_iter()
            .flatten()
            .filter(|(id, ..)| **id != track.id)
            .take(MOST)
            .map(|(_, vector, evidence)| Known { vector, evidence: *evidence })
            .collect();
        let Prediction { vector, confidence, .. } = model.prediction(&said, windows as usize, &songs)?;
        Ok(Some((vector, confidence)))
    }
}

/// The file beside a model that describes the space it predicts into.
const SPACE: &str = "space.json";

/// Writes the description of the space beside a model, and returns its hash for
/// [`ModelConfig::space_json`](crate::encoder::ModelConfig::space_json).
pub fn write_space(model: &Path, space: &Space) -> Result<String> {
    let path = model.join(SPACE);
    let text = describe(space, &path)?;
    atomic_write(&path, |out| std::io::Write::write_all(out, text.as_bytes()))?;
    Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
}

/// Gives the catalogue the space of this model, or finds that it has it.
///
/// # Errors
/// `Mismatch` where the catalogue lives in another space, or the space is not described as the model says.
pub fn adopt_space(store: &mut Store, folder: &Path, model: &Model) -> Result<()> {
    let space = space_beside(folder, model)?;
    match store.space()? {
        // The catalogue may know a newer description of the same space, with more listeners.
        Some(row) if row.id == space.id => Ok(()),
        // Refused where there are tracks of another space.
        _ => store.set_space(&space),
    }
}

/// The space that this model, which lies in `folder`, predicts into.
pub fn space_beside(folder: &Path, model: &Model) -> Result<SpaceRow> {
    let path = folder.join(SPACE);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let hash = blake3::hash(&text).to_hex();
    if hash.as_str() != model.config.space_json {
        let what = format!("the model of {} and its {SPACE}", folder.display());
        return Err(Error::mismatch(what, format!("BLAKE3 {}", model.config.space_json), hash));
    }
    let space: Space =
        serde_json::from_slice(&text).map_err(|e| Error::format(&path, "the description of a factor space", e))?;
    model.config.space.require(&format!("the model and {}", path.display()), &space.id)?;
    let description = describe(&space, &path)?;
    Ok(SpaceRow { id: space.id, dimensions: space.dimensions, description })
}

fn adopt(store: &mut Store, space: &Space) -> Result<()> {
    let description = describe(space, store.folder())?;
    store.set_space(&SpaceRow { id: space.id.clone(), dimensions: space.dimensions, description })
}

fn describe(space: &Space, path: &Path) -> Result<String> {
    serde_json::to_string(&json!(space)).map_err(|e| Error::format(path, "a space that JSON can hold", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::FrontEnd;
    use crate::encoder::{ArtistHead, EncoderConfig};
    use crate::events::{Action, ConfidenceConfig, Event, interactions};
    use crate::factors::{AlsConfig, fit};
    use crate::ids::UserId;

    fn id(name: &str) -> TrackId {
        TrackId::new(name).unwrap()
    }

    /// Two crowds, each with songs of its own.
    fn world() -> (Interactions, Factors) {
        let events = (0..40u32).flat_map(|u| (0..4).map(move |t| (u, if u < 20 { t } else { 4 + t })));
        let events = events.map(|(u, t)| Event {
            time: 0,
            user: UserId::new(format!("u{u}")).unwrap(),
            track: id(&format!("t{t}")),
            action: Action::Play,
            value: 1.0,
        });
        let data = interactions(events, &ConfidenceConfig::default(), None).unwrap();
        let config = AlsConfig { dimensions: 2, regularisation: 0.1, ..AlsConfig::default() };
        let factors = fit(&data, &config, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        (data, factors)
    }

    /// A song that the network heard and places between the crowds, by an artist.
    fn heard(name: &str, artist: &str, model: &ModelConfig) -> Track {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        Track {
            id: id(name),
            path: None,
            content: Some(name.into()),
            info: TrackInfo { artist: Some(artist.into()), ..TrackInfo::default() },
            seconds: None,
            tiled: false,
            model: Some(model.id()),
            windows: Some(1),
            predicted: Some(vec![half, half]),
            length: Some(0.5),
            confidence: None,
            vector: vec![half, half],
            norm: 1.0,
            source: Source::Predicted,
            plays: 0,
        }
    }

    #[test]
    fn a_new_song_moves_to_its_artist_s_listeners_when_the_model_comes_along() {
        let dir = tempfile::tempdir().unwrap();
        let (data, factors) = world();
        let head = ArtistHead { attention: 0.0, half: 0.5, share: 0.9, scale: 1.0, half_evidence: 1.0 };
        let model = ModelConfig {
            name: "m".into(),
            space: factors.space.clone(),
            typical_norm: 1.0,
            weights: "w".into(),
            space_json: String::new(),
            encoder: EncoderConfig { dimensions: 2, ..EncoderConfig::default() },
            front_end: FrontEnd::default(),
            artist: Some(head),
            confidence: Vec::new(),
            held_out: String::new(),
            training: Default::default(),
            scores: Default::default(),
        };
        let mut store = Store::open(dir.path()).unwrap();
        adopt(&mut store, &factors.space()).unwrap();
        let songs = [heard("t0", "Ann", &model), heard("t4", "Bob", &model), heard("new", "Ann", &model)];
        store.commit(&songs.map(|t| Change::Upsert(Box::new(t)))).unwrap();
        let near = |store: &Store, one: &str, other: &str| {
            let vector = |name: &str| store.track(&id(name)).unwrap().unwrap().vector;
            vector(one).iter().zip(vector(other)).map(|(a, b)| a * b).sum::<f32>()
        };
        let run = |store: &mut Store, model: Option<&ModelConfig>| {
            hand_over_all(store, &factors, &data, &HashMap::new(), model, &HandoverConfig::default()).unwrap();
            (near(store, "new", "t0"), near(store, "new", "t4"))
        };
        let (before, _) = run(&mut store, None);
        let (ann, bob) = run(&mut store, Some(&model));
        assert!(ann > before + 0.05 && ann > bob + 0.3, "{before} {ann} {bob}");
        // The same again, whatever was served before: also of tracks that people play.
        let all = |store: &Store| {
            let mut all = Vec::new();
            let mut keep = |_, track| {
                all.push(track);
                Ok(())
            };
            store.for_each_track(&mut keep).unwrap();
            all
        };
        let with = all(&store);
        for model in [None, Some(&model)] {
            run(&mut store, model);
            let first = all(&store);
            run(&mut store, model);
            assert_eq!(all(&store), first);
        }
        assert_eq!(all(&store), with);
        // Another model's predictions are not joined by this one's head.
        let other = ModelConfig { weights: "x".into(), ..model.clone() };
        assert_eq!(run(&mut store, Some(&other)).0, before);
    }
}
