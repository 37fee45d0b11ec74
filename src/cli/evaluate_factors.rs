use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use ndarray::{Array2, Axis};
use rayon::prelude::*;
use serde::Serialize;

use super::factorize::read_reported;
use super::{Context, count, print_json, print_line, progress};
use crate::artefact::Aside;
use crate::config::Config;
use crate::error::Result;
use crate::eval::{GlobalCut, HoldOut, MeanSe, RankingScores, RankingTask, UserCuts, hold_out_pairs};
use crate::events::{Event, Interactions, InteractionsBuilder};
use crate::factors::{Factors, Part, fit};

const EXAMPLES: &str = "\
Examples:
  debut evaluate factors --events plays.parquet
  debut evaluate factors --events plays.csv --users 5000 --set als.dimensions=128 --set confidence.alpha=10
  debut evaluate factors --events ratings.csv --split random --json
  debut evaluate factors --events log/ --set per_action.play=1 --set per_action.like=3 --listeners scores.csv

Learns factors from a part of the events and ranks, for each listener, all tracks that he has not met; relevant is what he
meets in the other part and does not skip. Beside it, the ranking by popularity, the same for everyone. The window, cap and
minimums of [confidence] bound what is learned from, never whom and what is ranked. Nothing is saved.

With [per_action], `als` has the weighted sum of the parts' scores, and `als, folded in` those of listeners who come after the
fit: solved from all their actions at once, as `debut recommend` does.

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

    /// Writes each listener's recall, NDCG and MAP here, too: listeners are paired when settings are compared.
    #[arg(long, value_name = "CSV")]
    listeners: Option<PathBuf>,
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
    let listeners = args.listeners.as_deref().map(Aside::new).transpose()?;
    let parts = config.per_action.parts(&config.confidence);
    let Halves { train, limited, of_parts, held_out, left_out } = split(&args, config, &parts)?;
    let mut task = RankingTask::new(train, &held_out)?;
    if let Some(users) = args.users {
        task = task.sample(users, config.als.seed);
    }
    // Popularity first, so that what cannot be ranked is said before the fit and not after it.
    let bar = progress(task.users.len() as u64, "ranking by popularity");
    let popularity = task.score_popularity(&args.k, &|listeners| bar.inc(listeners as u64))?;
    bar.finish_and_clear();
    let factorize = |data: &Interactions| {
        let bar = progress(config.als.iterations as u64, "factorizing");
        let factors = fit(data, &config.als, &mut |progress| {
            bar.inc(1);
            bar.set_message(format!("loss {:.6e}", progress.loss));
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        factors
    };
    let data = limited.as_ref().unwrap_or(&task.train);
    let factors = if parts.is_empty() {
        vec![(1.0, factorize(data)?)]
    } else {
        let of_parts = parts.iter().zip(&of_parts);
        of_parts.map(|(part, matrix)| Ok((part.weight, factorize(&part.of(matrix, data)?)?))).collect::<Result<_>>()?
    };
    // A history is folded in with the λ of those that were factorised.
    let user_ridge = Factors::concatenate(data, &config.als, &factors)?.user_ridge;
    // Of all that are ranked, whatever the limits: zeros for what was not factorised.
    let factors = Factors::concatenate(&task.train, &config.als, &factors)?;
    let rank = |what: &str, factors: &Factors| {
        let bar = progress(task.users.len() as u64, what);
        let scores = task.score_factors(factors, &args.k, &|listeners| bar.inc(listeners as u64));
        bar.finish_and_clear();
        scores
    };
    let mut scores = vec![("popularity", popularity), ("als", rank("ranking by factors", &factors)?)];
    if !parts.is_empty() {
        let factors = Factors { user_ridge, ..factors };
        let folded = Factors { user_factors: fold_in(&factors, data)?, ..factors };
        scores.push(("als, folded in", rank("ranking by folding in", &folded)?));
    }
    if let Some(file) = listeners {
        write_listeners(file, &task, &args.k, &scores)?;
    }
    let lines: Vec<Method> = (scores.into_iter())
        .map(|(method, scores)| Method {
            method,
            split: args.split,
            scores,
            catalogue: task.train.tracks.len(),
            repeated: task.repeated,
            cold: task.cold,
            left_out,
        })
        .collect();
    if context.json {
        lines.iter().try_for_each(print_json)?;
    } else {
        print_table(&lines, &task)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The vectors `[factors.users, d]` that the listeners have by their whole history in `data`, all actions together, as
/// whoever comes after the fit.
fn fold_in(factors: &Factors, data: &Interactions) -> Result<Array2<f32>> {
    let rows: HashMap<_, _> = factors.tracks.iter().enumerate().map(|(row, id)| (id, row)).collect();
    let fold_in = factors.fold_in_users();
    let users = factors.users.par_iter().map(|user| {
        let Some(row) = data.users.number(user) else { return Ok(vec![0.0; factors.dimensions()]) };
        let (tracks, confidence, preference) = data.by_user.row(row as usize);
        let met: Vec<usize> = tracks.iter().map(|&track| rows[&data.tracks.names()[track as usize]]).collect();
        fold_in.solve(factors.track_factors.select(Axis(0), &met).view(), confidence, preference)
    });
    let users = users.collect::<Result<Vec<_>>>()?.concat();
    let shape = factors.user_factors.dim();
    Ok(Array2::from_shape_vec(shape, users).expect("a vector of d numbers for each listener"))
}

/// A row for each method, listener and length of list: what a paired comparison of settings needs.
fn write_listeners(
    file: Aside,
    task: &RankingTask,
    lengths: &[usize],
    scores: &[(&'static str, RankingScores)],
) -> Result<()> {
    file.publish(|out| {
        let mut rows = csv::Writer::from_writer(out);
        rows.write_record(["method", "user", "k", "recall", "ndcg", "map"])?;
        for (method, scores) in scores {
            for (&user, listener) in task.users.iter().zip(&scores.listeners) {
                for (k, [recall, ndcg, map, _]) in lengths.iter().zip(&listener.at) {
                    let user = task.train.users.names()[user as usize].as_str();
                    let numbers = [recall, ndcg, map].map(f64::to_string);
                    rows.write_record([method, user, &k.to_string(), &numbers[0], &numbers[1], &numbers[2]])?;
                }
            }
        }
        rows.flush()
    })
}

/// A split log.
struct Halves {
    /// To learn from, without any limit: a window, a cap or a minimum is a method's own choice, and must neither change
    /// what is ranked nor for whom.
    train: Interactions,
    /// The same under the limits; `None` where there are none.
    limited: Option<Interactions>,
    /// For each part, that of its actions.
    of_parts: Vec<Interactions>,
    held_out: Interactions,
    /// Rows of the log that made no sense.
    left_out: u64,
}

fn split(args: &Args, config: &Config, parts: &[Part]) -> Result<Halves> {
    match args.split {
        Split::Random => {
            let mut builder = InteractionsBuilder::new(&config.confidence, &config.events, None)?;
            let left_out = read_reported(&args.events, &config.events, &mut |event| builder.push(&event))?;
            let (all, limited, of_parts) = matrices(builder, config, parts)?;
            let HoldOut { train, held_out } = hold_out_pairs(&all, args.test_share, config.als.seed)?;
            let limited = limited.map(|limited| limited.within(&train));
            let of_parts = of_parts.iter().map(|part| part.within(&train)).collect();
            Ok(Halves { train, limited, of_parts, held_out, left_out })
        }
        Split::Temporal => {
            let mut times = GlobalCut::default();
            read_reported(&args.events, &config.events, &mut |event| {
                times.push(&event);
                Ok(())
            })?;
            let cut = times.at(args.test_share)?;
            read_halves(args, config, parts, Some(cut - 1), &|event| event.time >= cut)
        }
        Split::UserTemporal => {
            let mut times = UserCuts::default();
            read_reported(&args.events, &config.events, &mut |event| {
                times.push(&event);
                Ok(())
            })?;
            let cuts = times.at(args.test_share)?;
            read_halves(args, config, parts, None, &|event| cuts.get(&event.user).is_some_and(|&cut| event.time >= cut))
        }
    }
}

/// Reads the log once more, each event into its half. The ages of the training half are counted from `now`.
fn read_halves(
    args: &Args,
    config: &Config,
    parts: &[Part],
    now: Option<i64>,
    is_test: &dyn Fn(&Event) -> bool,
) -> Result<Halves> {
    let mut train = InteractionsBuilder::new(&config.confidence, &config.events, now)?;
    let mut held_out = InteractionsBuilder::new(&config.confidence.without_limits(), &config.events, None)?;
    let left_out = read_reported(&args.events, &config.events, &mut |event| {
        if is_test(&event) { held_out.push(&event) } else { train.push(&event) }
    })?;
    let (train, limited, of_parts) = matrices(train, config, parts)?;
    Ok(Halves { train, limited, of_parts, held_out: held_out.finish()?, left_out })
}

/// The matrices of the training half: without limits, under them (where there are any), and of each part.
fn matrices(
    builder: InteractionsBuilder,
    config: &Config,
    parts: &[Part],
) -> Result<(Interactions, Option<Interactions>, Vec<Interactions>)> {
    let unlimited = config.confidence.without_limits();
    let limited = (config.confidence != unlimited).then_some(config.confidence);
    let of_parts = parts.iter().map(|part| part.confidence);
    let configs: Vec<_> = [unlimited].into_iter().chain(limited).chain(of_parts).collect();
    let mut matrices = builder.finish_each(&configs)?.into_iter();
    let train = matrices.next().expect("a matrix for each configuration");
    let limited = limited.and_then(|_| matrices.next());
    Ok((train, limited, matrices.collect()))
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
