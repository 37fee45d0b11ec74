use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::factorize::split_of;
use super::train::Joined;
use super::watch::{Begin, check_recipe, watched};
use super::{Context, count, print_json, print_line};
use crate::artefact::write_toml;
use crate::data::DataSet;
use crate::encoder::loss::Loss;
use crate::encoder::{Lesson, Objective};
use crate::error::{Error, Result};
use crate::eval::{self, Part};
use crate::factors::Factors;
use crate::ids::TrackId;

const EXAMPLES: &str = "\
Examples:
  debut pretrain --data data --out runs/pre
  debut pretrain --data data --factors factors --out runs/pre --set train.batch_size=64 --set train.temperature=0.2
  debut train --data data --factors factors --out runs/mine --init runs/pre

Two excerpts of every track, from two of its windows where it has several, go through the network, and it learns to tell
which belong together (NT-Xent, Chen et al. 2020). The more tracks in a batch, the harder and the better the question. The
settings are those of training, section [train]; a recipe's loss and mixup are for targets, and must be left out.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `debut prepare` made. Tracks that nobody listened to are learned from, too.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where the run goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Leave out the tracks that these factors hold out, so that what is learned can be evaluated on them.
    #[arg(long, value_name = "DIR")]
    factors: Option<PathBuf>,

    /// Share of the tracks that judge each epoch, chosen by a hash of their ids, where no factors with a split are given
    /// [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,

    #[command(flatten)]
    run: Begin,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    check_recipe(args.run.device, &context)?;
    args.run.check(&args.out)?;
    let factors = args.factors.as_deref().map(Factors::load).transpose()?;
    let split = match (&args.factors, &factors) {
        (Some(dir), Some(factors)) => split_of(dir, factors)?,
        _ => None,
    };
    if let (Some(split), Some(share)) = (&split, args.validation) {
        let what = format!("--validation of factors with a split ({})", split.made);
        return Err(Error::invalid(what, "none: the split has tracks to judge by", share));
    }
    let train = &context.config.train;
    if (train.loss, train.mix) != (Loss::Mse, 0.0) {
        let found = format!("{:?}, mix {}", train.loss, train.mix);
        return Err(Error::invalid("train.loss of pre-training, which has one of its own", "none", found));
    }
    let held_out: HashSet<TrackId> = factors.into_iter().flat_map(|factors| factors.held_out).collect();
    let data = DataSet::open(&args.data, &context.config.listen)?;
    if data.windows == 1 {
        tracing::warn!(
            "one window of each track: its two excerpts share nine tenths of their frames (prepare --windows 6)"
        );
    }
    let tracks: Vec<usize> = (0..data.tracks.len()).filter(|&i| !held_out.contains(&data.tracks[i])).collect();
    let left_out = data.tracks.len() - tracks.len();
    let share = args.validation.unwrap_or(0.1);
    // As in training, so that its validation tracks are unheard here too.
    let is_valid = |i: usize| {
        let id = &data.tracks[tracks[i]];
        match &split {
            Some(split) => split.is(id, Part::Valid),
            None => eval::split(id, context.config.train.seed ^ 0x76616c) < share,
        }
    };
    let (valid, training): (Vec<usize>, Vec<usize>) = (0..tracks.len()).partition(|&i| is_valid(i));
    if !context.json {
        print_line(&format!(
            "{} to learn from and {} to judge by; {left_out} held out",
            count(training.len() as u64, "track"),
            valid.len(),
        ))?;
    }
    let audio = Joined { data: &data, tracks };
    let lesson =
        Lesson { spectrograms: &audio, objective: Objective::SameTrack, train: &training, valid: &valid, start: None };
    let trained = watched(&lesson, &args.out, &args.run, "pre-training", &context)?;
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
    Ok(ExitCode::SUCCESS)
}
