use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

use super::factorize::{read_interactions_where, split_of};
use super::{Context, evaluate_factors, evaluate_handover, evaluate_model};
use crate::audio::EXCERPT_FRAMES;
use crate::data::DataSet;
use crate::encoder::{BATCH, Model};
use crate::error::{Error, Result};
use crate::events::{Event, Interactions};
use crate::factors::Factors;
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
does it rank the held-out tracks for each listener? Means over listeners, with standard errors over them and, by resampling,
over the held-out tracks. --report adds curves, artists won and lost, and differences with their standard errors.";

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
pub(super) struct ModelArgs {
    /// The model; the shipped one where none is given. May be given several times: models of one name (`train --name`) are
    /// one recipe's, with other seeds, and share a row with the standard error over them; others have a row each.
    #[arg(long, value_name = "DIR")]
    pub(super) model: Vec<PathBuf>,

    /// Factors made with --split or --hold-out.
    #[arg(long, value_name = "DIR")]
    pub(super) factors: PathBuf,

    /// The events that the factors were made from.
    #[arg(long, value_name = "EVENTS")]
    pub(super) events: PathBuf,

    /// What `debut prepare` made: the tracks.
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,

    /// How many of the windows, evenly spread, the network hears and averages; 1 is the middle one (of an even number
    /// of windows the first of the second half).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) segments: usize,

    /// The length of each listener's list.
    #[arg(short, default_value_t = 20)]
    pub(super) k: usize,

    /// Writes the network's scores, with their standard errors, into the model's model.toml.
    #[arg(long)]
    pub(super) save: bool,

    /// Writes report.html, and report.md with its pictures, into this folder.
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,

    /// Words of the bag-of-words baselines; three for every seven tracks to learn from, at most 4,000, where none are given.
    #[arg(long, value_name = "N")]
    pub(super) words: Option<usize>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    match (args.what, args.model) {
        (Some(What::Factors(args)), _) => evaluate_factors::run(args, context),
        (Some(What::Handover(args)), _) => evaluate_handover::run(args, context),
        (None, Some(args)) => evaluate_model::run(&args, &context),
        (None, None) => {
            Err(Error::invalid("arguments", "`factors`, `handover`, or --factors, --events and --data", "none"))
        }
    }
}

/// What people did, as far as held-out tracks may be judged by it: of a split by time nothing before its cut.
pub fn held_out_events(dir: &Path, factors: &Factors, events: &Path, context: &Context) -> Result<Interactions> {
    let cut = split_of(dir, factors)?.and_then(|split| split.cut);
    let is_of_then = |event: &Event| cut.is_none_or(|cut| event.time >= cut);
    let read = read_interactions_where(events, &factors.confidence, &context.config.events, &is_of_then);
    read.map(|(all, _)| all)
}

/// # Errors
/// `Mismatch` where the model hears with another front end than the data set was prepared with.
pub(super) fn hears_alike(model: &Model, data: &Path, heard: &DataSet) -> Result<()> {
    let (expected, found) = (&model.config.front_end, heard.front_end());
    if expected == found {
        return Ok(());
    }
    let what = format!("the front ends of the model {} and of {}", model.id(), data.display());
    Err(Error::mismatch(what, format!("{expected:?}"), format!("{found:?}")))
}

/// What the network hears of a window, `[frames, mel_bands]`: its middle.
pub(super) fn middle(heard: &DataSet, track: usize, window: usize) -> Result<Array2<f32>> {
    let frames = heard.front_end().frames;
    let start = (EXCERPT_FRAMES - frames) / 2;
    Ok(heard.load(track, window)?.slice(s![start..start + frames, ..]).to_owned())
}

/// The network's vectors `[n, d]` of these tracks, of unit length.
pub fn network(model: &Model, heard: &DataSet, tracks: &[usize], segments: usize) -> Result<Array2<f32>> {
    Ok(unit_rows(sounds(model, heard, tracks, segments)?))
}

/// What the network says of these tracks `[n, d]`, from the middles of `segments` of their windows.
pub fn sounds(model: &Model, heard: &DataSet, tracks: &[usize], segments: usize) -> Result<Array2<f32>> {
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
        vectors.assign(&model.hear_tracks(&tracks)?);
    }
    Ok(vectors)
}
