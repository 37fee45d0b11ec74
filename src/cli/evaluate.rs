use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ndarray::{Array1, Array2, Axis, s};
use rayon::prelude::*;
use serde::Serialize;

use super::factorize::{read_interactions_where, split_of};
use super::{Context, evaluate_factors, evaluate_handover, model_folder, print_json, print_line};
use crate::audio::{EXCERPT_FRAMES, FrontEnd};
use crate::data::DataSet;
use crate::encoder::baseline::mean_mel;
use crate::encoder::{BATCH, LinearBaseline, Model};
use crate::error::{Error, Result};
use crate::eval::{ColdStart, ColdStartScores, split};
use crate::events::{Event, Interactions};
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::linalg::unit_rows;

const EXAMPLES: &str = "\
Examples:
  debut evaluate factors --events events.csv      (see `debut evaluate factors --help`)

  debut prepare --audio tracks.csv --events events.csv --out data
  debut factorize events.csv --split data/splits/artist.csv --out factors
  debut train --data data --factors factors --out runs/mine
  debut evaluate --model runs/mine --factors factors --events events.csv --data data

The held-out tracks are new to everyone: their events were removed before the fit. Half of the listeners reveal what they
thought of them, which the ceiling and the popularity oracle may use; every method is scored on the other half: how well
does it rank the held-out tracks for each listener? Means over listeners, with standard errors.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,

    #[command(flatten)]
    model: Option<ModelArgs>,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Scores factors: learned from a part of the events, they rank what listeners meet in the other.
    Factors(evaluate_factors::Args),
    /// The path of new tracks' vectors as their listeners come in: hand-over, prediction, plays alone, hard switch.
    Handover(evaluate_handover::Args),
}

#[derive(clap::Args, Debug)]
struct ModelArgs {
    /// The model; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Factors made with --split or --hold-out.
    #[arg(long, value_name = "DIR")]
    factors: PathBuf,

    /// The events that the factors were made from.
    #[arg(long, value_name = "EVENTS")]
    events: PathBuf,

    /// What `debut prepare` made: the tracks.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// How many of the windows, evenly spread, the network hears and averages; 1 is the middle one (of an even number
    /// of windows the first of the second half).
    #[arg(long, value_name = "N", default_value_t = 1)]
    segments: usize,

    /// The length of each listener's list.
    #[arg(short, default_value_t = 20)]
    k: usize,

    /// Writes the network's scores into the model's model.toml.
    #[arg(long)]
    save: bool,
}

/// One line of the table.
#[derive(Serialize)]
struct Method {
    method: &'static str,
    #[serde(flatten)]
    scores: ColdStartScores,
    /// Mean cosine of the method's vectors with the ceiling's; none for a method without vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    match (args.what, args.model) {
        (Some(What::Factors(args)), _) => evaluate_factors::run(args, context),
        (Some(What::Handover(args)), _) => evaluate_handover::run(args, context),
        (None, Some(args)) => model(args, context),
        (None, None) => {
            Err(Error::invalid("arguments", "`factors`, `handover`, or --factors, --events and --data", "none"))
        }
    }
}

fn model(args: ModelArgs, context: Context) -> Result<ExitCode> {
    let folder = model_folder(args.model.as_deref())?;
    let mut model = Model::load(&folder)?;
    let factors = Factors::load(&args.factors)?;
    factors.space.require("the factors' space and the model's", &model.config.space)?;
    if factors.held_out.is_empty() {
        return Err(Error::invalid(
            args.factors.display(),
            "factors made with --split or --hold-out",
            "no track held out",
        ));
    }
    let heard = DataSet::open(&args.data, &context.config.listen)?;
    if !(1..=heard.windows).contains(&args.segments) {
        return Err(Error::invalid("segments", format!("1 to the {} windows", heard.windows), args.segments));
    }
    let all = held_out_events(&args.factors, &factors, &args.events, &context)?;
    let place: HashMap<&TrackId, usize> = heard.tracks.iter().enumerate().map(|(i, id)| (id, i)).collect();
    let held: Ids<TrackId> = factors.held_out.iter().cloned().collect();
    let task = ColdStart::new(
        &factors,
        &all.retain_tracks(|id| held.number(id).is_some() && place.contains_key(id)),
        factors.config.seed,
    )?;

    let at: Vec<usize> = task.tracks.iter().map(|id| place[id]).collect();
    let network = network(&model, &heard, &at, args.segments)?;
    let linear = linear(&heard, &factors, &at)?;
    let ceiling = task.ceiling(&factors)?;
    let unit_ceiling = unit_rows(ceiling.clone());
    let ceiling_cosine = |vectors: &Array2<f32>| {
        let cosines = vectors.outer_iter().zip(unit_ceiling.outer_iter()).map(|(a, b)| f64::from(a.dot(&b)));
        Some(cosines.sum::<f64>() / vectors.nrows() as f64)
    };
    let k = args.k;
    let vectors = |method, v: &Array2<f32>, cosine| -> Result<Method> {
        Ok(Method { method, scores: task.score_vectors(&factors, v.view(), k)?, cosine })
    };
    let alike = |method, scores: &[f32]| -> Result<Method> {
        Ok(Method { method, scores: task.score_alike(scores, k)?, cosine: None })
    };
    let (by_artist, oracle) = (known_popularity(&heard, &factors, &at), task.revealed_plays());
    let table = [
        Method { method: "random", scores: task.score_chance(k)?, cosine: None },
        alike("popularity of the artist or album", &by_artist)?,
        vectors("linear on mean mel", &linear, ceiling_cosine(&linear))?,
        vectors("network", &network, ceiling_cosine(&network))?,
        alike("popularity once released (oracle)", &oracle)?,
        vectors("ceiling: learned direction", &unit_ceiling, None)?,
        vectors("ceiling: learned factor", &ceiling, None)?,
    ];
    if args.save {
        for m in table.iter().filter(|m| m.method == "network") {
            for (name, score) in [("recall", m.scores.recall), ("ndcg", m.scores.ndcg), ("auc", m.scores.auc)] {
                let at = if name == "auc" { String::new() } else { format!("_at_{k}") };
                model.config.scores.insert(format!("cold_start_{name}{at}"), score.mean);
            }
        }
        model.save(&folder)?;
    }
    if context.json {
        for line in &table {
            print_json(line)?;
        }
    } else {
        print_line(&format!("{} held-out tracks, {} listeners\n", task.tracks.len(), table[0].scores.users))?;
        print_line(&format!("| method | recall@{k} | NDCG@{k} | AUC | cosine |"))?;
        print_line("|---|---|---|---|---|")?;
        for m in &table {
            let cell = |v: crate::eval::MeanSe| format!("{:.4} ± {:.4}", v.mean, v.se);
            print_line(&format!(
                "| {} | {} | {} | {} | {} |",
                m.method,
                cell(m.scores.recall),
                cell(m.scores.ndcg),
                cell(m.scores.auc),
                m.cosine.map_or(String::new(), |c| format!("{c:.3}"))
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What people did, as far as held-out tracks may be judged by it: of a split by time nothing before its cut.
pub fn held_out_events(dir: &Path, factors: &Factors, events: &Path, context: &Context) -> Result<Interactions> {
    let cut = split_of(dir, factors)?.and_then(|split| split.cut);
    let is_of_then = |event: &Event| cut.is_none_or(|cut| event.time >= cut);
    let read = read_interactions_where(events, &factors.confidence, &context.config.events, &is_of_then);
    read.map(|(all, _)| all)
}

/// What the network hears of a window, `[frames, mel_bands]`: its middle.
pub fn middle(heard: &DataSet, track: usize, window: usize) -> Result<Array2<f32>> {
    let frames = FrontEnd::default().frames;
    let start = (EXCERPT_FRAMES - frames) / 2;
    Ok(heard.load(track, window)?.slice(s![start..start + frames, ..]).to_owned())
}

/// The network's vectors `[n, d]` of these tracks, from the middles of `segments` of their windows.
pub fn network(model: &Model, heard: &DataSet, tracks: &[usize], segments: usize) -> Result<Array2<f32>> {
    let windows = |track: usize| -> Result<Vec<Array2<f32>>> {
        (0..segments).map(|i| middle(heard, track, (2 * i + 1) * heard.windows / (2 * segments))).collect()
    };
    let mut vectors = Array2::zeros((tracks.len(), model.config.encoder.dimensions));
    // A batch at a time, since the spectrograms of all would not fit into memory.
    let size = (BATCH / segments).max(1);
    for (block, mut vectors) in tracks.chunks(size).zip(vectors.axis_chunks_iter_mut(Axis(0), size)) {
        let mels: Vec<Vec<Array2<f32>>> = block.par_iter().map(|&track| windows(track)).collect::<Result<_>>()?;
        let tracks: Vec<(&Path, &[Array2<f32>])> =
            block.iter().zip(&mels).map(|(&track, mels)| (heard.inputs[track].path.as_path(), &mels[..])).collect();
        vectors.assign(&model.embed_tracks(&tracks)?);
    }
    Ok(vectors)
}

/// The baseline's unit vectors `[n, d]` of the held-out tracks, fitted on the tracks that have factors.
fn linear(heard: &DataSet, factors: &Factors, held_out: &[usize]) -> Result<Array2<f32>> {
    let rows: Ids<TrackId> = factors.tracks.iter().cloned().collect();
    let train: Vec<(usize, usize)> = (heard.tracks.iter().enumerate())
        .filter_map(|(track, id)| Some((track, rows.number(id)? as usize)))
        .filter(|&(_, row)| factors.track_factors.row(row).iter().any(|v| *v != 0.0))
        .collect();
    let features = |tracks: Vec<usize>| -> Result<Array2<f32>> {
        let means: Vec<Array1<f32>> = tracks
            .par_iter()
            .map(|&track| Ok(mean_mel(middle(heard, track, heard.windows / 2)?.view())))
            .collect::<Result<_>>()?;
        let mut all = Array2::zeros((means.len(), FrontEnd::default().mel_bands));
        all.outer_iter_mut().zip(&means).for_each(|(mut to, mean)| to.assign(mean));
        Ok(all)
    };
    let targets = unit_rows(Array2::from_shape_fn((train.len(), factors.dimensions()), |(i, j)| {
        factors.track_factors[(train[i].1, j)]
    }));
    let weights = vec![1.0; train.len()];
    // The penalty is chosen on a fifth of the training tracks.
    let is_valid = |i: usize| split(&heard.tracks[train[i].0], factors.config.seed ^ 0x6c696e) < 0.2;
    let (valid, fit): (Vec<usize>, Vec<usize>) = (0..train.len()).partition(|&i| is_valid(i));
    let all = features(train.iter().map(|t| t.0).collect())?;
    let baseline = LinearBaseline::fit(all.view(), targets.view(), &weights, &fit, &valid)?;
    Ok(unit_rows(baseline.predict(features(held_out.to_vec())?.view())?))
}

/// What one can know of a new track's popularity: the mean number of listeners of its artist's tracks, else its album's.
fn known_popularity(heard: &DataSet, factors: &Factors, held_out: &[usize]) -> Vec<f32> {
    let rows: Ids<TrackId> = factors.tracks.iter().cloned().collect();
    let mut sums: HashMap<(bool, &str), (f32, f32)> = HashMap::new();
    for (id, input) in heard.tracks.iter().zip(&heard.inputs) {
        let Some(row) = rows.number(id) else { continue };
        for key in names(input) {
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + factors.plays[row as usize] as f32, sum.1 + 1.0);
        }
    }
    let mean = |key| sums.get(&key).map(|(plays, n)| plays / n);
    held_out.iter().map(|&track| names(&heard.inputs[track]).into_iter().find_map(mean).unwrap_or(0.0)).collect()
}

/// The artist, then the album.
fn names(input: &crate::inputs::Input) -> Vec<(bool, &str)> {
    let artist = input.info.artist.as_deref().map(|a| (true, a));
    let album = input.info.album.as_deref().map(|a| (false, a));
    artist.into_iter().chain(album).collect()
}
