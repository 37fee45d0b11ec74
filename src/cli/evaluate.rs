use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

use super::train::HeardTracks;
use super::{Context, evaluate_factors, evaluate_handover, evaluate_model};
use crate::audio::{EXCERPT_FRAMES, FrontEnd};
use crate::encoder::{BATCH, Model};
use crate::error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  debut evaluate factors --events events.csv      (see `debut evaluate factors --help`)

  debut factorize events.csv --hold-out 0.2 --out factors
  debut train --factors factors --audio tracks.csv --out runs/mine
  debut evaluate --model runs/mine --factors factors --events events.csv --audio tracks.csv

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

    /// Factors made with --hold-out.
    #[arg(long, value_name = "DIR")]
    pub(super) factors: PathBuf,

    /// The events that the factors were made from.
    #[arg(long, value_name = "EVENTS")]
    pub(super) events: PathBuf,

    /// The tracks' audio: a manifest with ids, or a folder.
    #[arg(long, value_name = "DIR|MANIFEST")]
    pub(super) audio: PathBuf,

    /// Where spectrograms are kept.
    #[arg(long, value_name = "DIR", default_value = "runs/spectrograms")]
    pub(super) cache: PathBuf,

    /// As it was for `debut train`, so that the cache is shared.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) windows: usize,

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
            Err(Error::invalid("arguments", "`factors`, `handover`, or --factors, --events and --audio", "none"))
        }
    }
}

/// What the network hears of a window, `[frames, mel_bands]`: its middle.
pub(super) fn middle(heard: &HeardTracks, track: usize, window: usize) -> Result<Array2<f32>> {
    let frames = FrontEnd::default().frames;
    let start = (EXCERPT_FRAMES - frames) / 2;
    Ok(heard.load(track, window)?.slice(s![start..start + frames, ..]).to_owned())
}

/// The network's vectors `[n, d]` of these tracks, from the middles of `segments` of their windows.
pub fn network(model: &Model, heard: &HeardTracks, tracks: &[usize], segments: usize) -> Result<Array2<f32>> {
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
