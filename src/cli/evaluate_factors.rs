use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::factorize::{read_interactions, read_reported};
use super::{Context, count, print_json, print_line, progress};
use crate::config::Config;
use crate::error::Result;
use crate::eval::{GlobalCut, HoldOut, MeanSe, RankingScores, RankingTask, UserCuts, hold_out_pairs};
use crate::events::{Event, InteractionsBuilder};
use crate::factors::fit;

const EXAMPLES: &str = "\
Examples:
  debut evaluate factors --events plays.parquet
  debut evaluate factors --events plays.csv --users 5000 --set als.dimensions=128 --set confidence.alpha=10
  debut evaluate factors --events ratings.csv --split random --json

Learns factors from a part of the events and ranks, for each listener, all tracks that he has not met; relevant is what he
meets in the other part and does not skip. Beside it, the ranking by popularity, the same for everyone. Nothing is saved.

  recall      of the relevant, the share on the list (of k, where more are relevant)
  NDCG, MAP   the same, by rank
  AUC         how likely a relevant track is ranked above another
  coverage    the share of the catalogue that is on somebody's list
  popularity  the mean percentile, by listeners, of what is listed: 0.5 were all tracks listed alike
  Gini        how unequally the tracks are listed: 0 all alike, to 1

Means over listeners, with standard errors; those of coverage and Gini by leaving out groups of listeners.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What people did.
    #[arg(long, value_name = "EVENTS")]
    events: PathBuf,

    /// Which part is predicted.
    #[arg(long, value_enum, default_value_t = Split::Temporal)]
    split: Split,

    /// How large that part is.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    test_share: f64,

    /// Scores so many listeners, chosen by a hash of their ids; all where this is left out.
    #[arg(long, value_name = "N")]
    users: Option<usize>,

    /// The lengths of the lists.
    #[arg(short, value_name = "K,…", value_delimiter = ',', default_values_t = [10, 20])]
    k: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Split {
    /// The latest events of all, as in service.
    Temporal,
    /// The latest events of each listener.
    UserTemporal,
    /// Any tracks of each listener: for logs without times.
    Random,
}

/// One line with `--json`.
#[derive(Serialize)]
struct Method {
    method: &'static str,
    split: Split,
    #[serde(flatten)]
    scores: RankingScores,
    /// Tracks of the training part: what is ranked.
    catalogue: usize,
    repeated: usize,
    cold: usize,
    left_out: u64,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    let (parts, left_out) = split(&args, config)?;
    let mut task = RankingTask::new(parts.train, &parts.held_out)?;
    if let Some(users) = args.users {
        task = task.sample(users, config.als.seed);
    }
    // Popularity first, so that what cannot be ranked is said before the fit and not after it.
    let bar = progress(task.users.len() as u64, "ranking by popularity");
    let popularity = task.score_popularity(&args.k, &|listeners| bar.inc(listeners as u64))?;
    bar.finish_and_clear();
    let bar = progress(config.als.iterations as u64, "factorizing");
    let factors = fit(&task.train, &config.als, &mut |progress| {
        bar.inc(1);
        bar.set_message(format!("loss {:.6e}", progress.loss));
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    let bar = progress(task.users.len() as u64, "ranking by factors");
    let als = task.score_factors(&factors, &args.k, &|listeners| bar.inc(listeners as u64))?;
    bar.finish_and_clear();
    let lines = [("popularity", popularity), ("als", als)].map(|(method, scores)| Method {
        method,
        split: args.split,
        scores,
        catalogue: task.train.tracks.len(),
        repeated: task.repeated,
        cold: task.cold,
        left_out,
    });
    if context.json {
        lines.iter().try_for_each(print_json)?;
    } else {
        print_table(&lines, &task)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The two parts, and how many rows of the log made no sense.
fn split(args: &Args, config: &Config) -> Result<(HoldOut, u64)> {
    match args.split {
        Split::Random => {
            let (all, left_out) = read_interactions(&args.events, &config.confidence, &config.events)?;
            Ok((hold_out_pairs(&all, args.test_share, config.als.seed)?, left_out))
        }
        Split::Temporal => {
            let mut times = GlobalCut::default();
            read_reported(&args.events, &config.events, &mut |event| {
                times.push(&event);
                Ok(())
            })?;
            let cut = times.at(args.test_share)?;
            read_parts(args, config, Some(cut - 1), &|event| event.time >= cut)
        }
        Split::UserTemporal => {
            let mut times = UserCuts::default();
            read_reported(&args.events, &config.events, &mut |event| {
                times.push(&event);
                Ok(())
            })?;
            let cuts = times.at(args.test_share)?;
            read_parts(args, config, None, &|event| cuts.get(&event.user).is_some_and(|&cut| event.time >= cut))
        }
    }
}

/// Reads the log once more, each event into its part. The ages of the training part are counted from `now`.
fn read_parts(
    args: &Args,
    config: &Config,
    now: Option<i64>,
    is_test: &dyn Fn(&Event) -> bool,
) -> Result<(HoldOut, u64)> {
    let mut train = InteractionsBuilder::new(&config.confidence, &config.events, now)?;
    let mut held_out = InteractionsBuilder::new(&config.confidence.without_limits(), &config.events, None)?;
    let left_out = read_reported(&args.events, &config.events, &mut |event| {
        if is_test(&event) { held_out.push(&event) } else { train.push(&event) }
    })?;
    Ok((HoldOut { train: train.finish()?, held_out: held_out.finish()? }, left_out))
}

fn print_table(lines: &[Method], task: &RankingTask) -> Result<()> {
    print_line(&format!(
        "{} scored of {}, {}; left out as repeated {}, as new to everyone {}\n",
        count(task.users.len() as u64, "listener"),
        task.train.users.len(),
        count(task.train.tracks.len() as u64, "track"),
        count(task.repeated as u64, "pair"),
        count(task.cold as u64, "pair"),
    ))?;
    print_line("| method | k | recall@k | NDCG@k | MAP@k | AUC | coverage | popularity | Gini |")?;
    print_line("|---|---|---|---|---|---|---|---|---|")?;
    let cell = |v: MeanSe| format!("{:.4} ± {:.4}", v.mean, v.se);
    for line in lines {
        for at in &line.scores.at {
            print_line(&format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                line.method,
                at.k,
                cell(at.recall),
                cell(at.ndcg),
                cell(at.map),
                cell(line.scores.auc),
                cell(at.coverage),
                cell(at.popularity),
                cell(at.gini),
            ))?;
        }
    }
    Ok(())
}
