use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::train::{Joined, hear_tracks};
use super::watch::{Begin, check_recipe, watched};
use super::{Context, count, exit_code, print_json, print_line};
use crate::artefact::write_toml;
use crate::encoder::{Lesson, Objective};
use crate::error::Result;
use crate::eval::split;
use crate::factors::Factors;
use crate::ids::TrackId;

const EXAMPLES: &str = "\
Examples:
  debut pretrain --audio ~/Music --out runs/pre --windows 6
  debut pretrain --audio tracks.csv --factors factors --out runs/pre --set train.batch_size=64 --set train.temperature=0.2
  debut train --factors factors --audio tracks.csv --out runs/mine --init runs/pre

Two excerpts of every track, from two of its windows where it has several, go through the network, and it learns to tell
which belong together (NT-Xent, Chen et al. 2020). The more tracks in a batch, the harder and the better the question. The
settings are those of training, section [train]; a recipe's loss and mixup are for targets, and must be left out.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The tracks' audio: a manifest with ids, or a folder.
    #[arg(long, value_name = "DIR|MANIFEST")]
    audio: PathBuf,

    /// Where the run goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Leave out the tracks that these factors hold out, so that what is learned can be evaluated on them.
    #[arg(long, value_name = "DIR")]
    factors: Option<PathBuf>,

    /// Where spectrograms are kept.
    #[arg(long, value_name = "DIR", default_value = "runs/spectrograms")]
    cache: PathBuf,

    /// Share of the tracks that judge each epoch, chosen by a hash of their ids.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    validation: f64,

    /// 30 s windows of each track to learn from, spread evenly.
    #[arg(long, value_name = "N", default_value_t = 2)]
    windows: usize,

    #[command(flatten)]
    run: Begin,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    check_recipe(&context)?;
    args.run.check(&args.out)?;
    let held_out: HashSet<TrackId> = match &args.factors {
        Some(dir) => Factors::load(dir)?.held_out.into_iter().collect(),
        None => HashSet::new(),
    };
    let (heard, failed) = hear_tracks(&args.audio, &args.cache, args.windows, &context)?;
    let tracks: Vec<usize> = (0..heard.tracks.len()).filter(|&i| !held_out.contains(&heard.tracks[i])).collect();
    let left_out = heard.tracks.len() - tracks.len();
    // As in training, so that its validation tracks are unheard here too.
    let is_valid = |i: usize| split(&heard.tracks[tracks[i]], context.config.train.seed ^ 0x76616c) < args.validation;
    let (valid, training): (Vec<usize>, Vec<usize>) = (0..tracks.len()).partition(|&i| is_valid(i));
    if !context.json {
        print_line(&format!(
            "{} to learn from and {} to judge by; {left_out} held out, {failed} could not be heard",
            count(training.len() as u64, "track"),
            valid.len(),
        ))?;
    }
    let audio = Joined { heard: &heard, tracks };
    let lesson =
        Lesson { spectrograms: &audio, objective: Objective::SameTrack, train: &training, valid: &valid, start: None };
    let trained = watched(&lesson, &args.out, args.run.fresh, "pre-training", &context)?;
    write_toml(&args.out.join("config.toml"), &context.config)?;
    let seconds = started.elapsed().as_secs_f64();
    if context.json {
        print_json(&json!({ "out": args.out.to_string_lossy(), "best": trained.best, "seconds": seconds }))?;
    } else {
        print_line(&format!(
            "{}: best at epoch {} of {}, mean reciprocal rank {:.4}, {seconds:.0} s",
            args.out.display(),
            trained.best.epoch,
            trained.epochs.len(),
            trained.best.valid_mrr,
        ))?;
    }
    Ok(exit_code(failed))
}
