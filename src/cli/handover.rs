use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ndarray::Array2;
use serde::Serialize;
use serde_json::json;

use super::factorize::read_interactions;
use super::{Context, build_index, count, print_json, print_line, progress};
use crate::artefact::atomic_write;
use crate::encoder::Model;
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
    let report = hand_over_all(&mut store, &factors, &data, &words, &context.config.handover)?;
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
            vector: Vec::new(),
            norm: space.typical_norm,
            source: Source::Learned,
            plays: 0,
        }));
    }

    let bar = progress(tracks.len() as u64, "handing over");
    for mut track in tracks {
        bar.inc(1);
        let before = track.clone();
        if let Some(words) = words.get(&track.id) {
            track.info = words.clone().or(track.info);
        }
        let number = data.tracks.number(&track.id);
        let evidence = number.map(|n| by_track.row(n as usize)).filter(|(who, ..)| !who.is_empty());
        let served: Option<(Vec<f32>, Source)> = match (&track.predicted, evidence) {
            (Some(predicted), Some((who, confidence, preference))) => {
                let mut listeners = Array2::zeros((who.len(), d));
                for (mut to, &user) in listeners.outer_iter_mut().zip(who) {
                    to.assign(&users.row(user as usize));
                }
                let scaled: Vec<f32> = predicted.iter().map(|v| v * length).collect();
                let ridge = space.track_ridge.at(who.len());
                let y = hand_over(&scaled, gram.view(), ridge, listeners.view(), confidence, preference, config)?;
                Some((y, Source::HandedOver))
            }
            (Some(predicted), None) => Some((predicted.iter().map(|v| v * length).collect(), Source::Predicted)),
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
        if track != before {
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
