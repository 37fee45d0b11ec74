use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Context, count, cpu_seconds, print_json, print_line, progress};
use crate::artefact::write_toml;
use crate::error::{Error, Result};
use crate::eval::hold_out;
use crate::events::{ConfidenceConfig, Event, EventsConfig, Interactions, InteractionsBuilder, read_events};
use crate::factors::{AlsConfig, Checkpoint, Factors, Start, fit_from, run_id};

const EXAMPLES: &str = "\
Examples:
  debut factorize plays.parquet --out factors
  debut factorize events/ --out factors --hold-out 0.2 --set als.dimensions=64 --set confidence.half_life_days=56
  debut factorize events/ --out factors --set per_action.play=1 --set per_action.like=3 --set per_action.add=2
  debut factorize listenbrainz-dump/listens --out factors --strict --set confidence.max_tracks_per_user=1000

Events are rows of time,user,track,action,value in CSV, TSV, JSON Lines (all of them also as .gz or .zst) or Parquet; a file,
or a folder of them, partitioned or not. Of these, time is in seconds since 1970, or as 2026-01-31T12:00:00Z; action is one of
play, complete, skip, like, dislike, unlike, add, remove (play where there is none); value is, of a play, the share that was
heard, 0 to 1, and of a skip the share that was not (1 where there is none; or give the columns seconds and duration). An add
with a playlist makes the playlist a user of its own; a table of playlist,track is enough. Exports of ListenBrainz and Last.fm,
unpacked, and the lastfm-1K data set are known by their columns. What each action weighs, recency, caps and minimums are
settings: see [confidence] in `debut status --settings`. All actions go into one matrix; with weights in [per_action] each kind of
them has a factorisation of its own, whose vectors, so weighted, follow one another in the result.

Writes tracks.npy and users.npy (float32 [n, d]), their ids in tracks.ids and users.ids, and factors.toml. Interrupted
(Ctrl-C, or killed: the last half minute is lost then), the same command goes on where it was.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What people did.
    #[arg(value_name = "EVENTS")]
    events: PathBuf,

    /// Where the factors go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Keep this share of the tracks from the fit, chosen by a hash of their ids: `debut evaluate` takes them for new.
    #[arg(long, value_name = "SHARE")]
    hold_out: Option<f64>,

    /// Start from these factors, as far as listeners and tracks are the same, and turn the result into their space
    /// (orthogonal Procrustes); says how far tracks drifted. For a day's new events 2 iterations are then enough
    /// (`--set als.iterations=2`).
    #[arg(long, value_name = "FACTORS")]
    warm: Option<PathBuf>,

    /// Stop at the first bad row, and say where it is; otherwise bad rows are left out and counted.
    #[arg(long)]
    strict: bool,
}

/// What a crash may cost, beside the iteration under way.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(30);

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    let parts = config.per_action.parts(&config.confidence);
    if args.warm.is_some() && !parts.is_empty() {
        // Aligned, the blocks of the parts are turned into one another: there is nothing to start a part from.
        return Err(Error::invalid("--warm", "one factorisation for all actions", "factorisations [per_action]"));
    }
    // What the parts would have together is refused before they are made.
    AlsConfig { dimensions: config.als.dimensions * parts.len().max(1), ..config.als }.check()?;
    let reading = EventsConfig { strict: args.strict || config.events.strict, ..config.events.clone() };
    let configs: Vec<_> = [config.confidence].into_iter().chain(parts.iter().map(|part| part.confidence)).collect();
    let (mut matrices, left_out) = read_matrices(&args.events, &configs, &reading)?;
    let of_parts = matrices.split_off(1);
    let all = matrices.remove(0);
    let (data, held_out) = match args.hold_out {
        None => (all, Vec::new()),
        Some(share) => {
            let halves = hold_out(&all, share, config.als.seed)?;
            (halves.train, halves.held_out.tracks.names().to_vec())
        }
    };
    let earlier = args.warm.as_deref().map(Factors::load).transpose()?;
    let mut log = Log::default();
    let mut checkpoints = vec![args.out.join("checkpoint")];
    let mut factors = if parts.is_empty() {
        factorize(&data, earlier.as_ref(), &checkpoints[0], false, &context, &mut log)?
    } else {
        checkpoints = parts.iter().map(|part| args.out.join(format!("checkpoint-{}", part.name))).collect();
        let mut fitted = Vec::new();
        for ((part, matrix), checkpoints) in parts.iter().zip(of_parts).zip(&checkpoints) {
            let data = part.of(&matrix, &data)?;
            drop(matrix);
            fitted.push((part.weight, factorize(&data, None, checkpoints, true, &context, &mut log)?));
        }
        Factors::concatenate(&data, &config.als, &fitted)?
    };
    factors.held_out = held_out;
    let drift = earlier.as_ref().map(|earlier| factors.align(earlier)).transpose()?;
    factors.save(&args.out)?;
    checkpoints.iter().try_for_each(|dir| Checkpoint::remove(dir))?;
    write_toml(&args.out.join("config.toml"), config)?;
    if context.json {
        print_json(&json!({
            "space": factors.space, "users": factors.users.len(), "tracks": factors.tracks.len(),
            "dimensions": factors.dimensions(), "held_out": factors.held_out.len(), "left_out": left_out,
            "loss": log.losses, "cpu_seconds": log.cpu, "drift": drift,
        }))?;
    } else {
        // The losses of different parts cannot be compared.
        let loss = match (&log.losses[..], parts.is_empty()) {
            ([first, .., last], true) => format!(", loss {first:.4e} to {last:.4e}"),
            _ => String::new(),
        };
        print_line(&format!(
            "{} and {} in {} dimensions, {} held out{loss}: {} in {}",
            count(factors.users.len() as u64, "listener"),
            count(factors.tracks.len() as u64, "track"),
            factors.dimensions(),
            count(factors.held_out.len() as u64, "track"),
            factors.space,
            args.out.display()
        ))?;
        if let (Some(drift), Some(earlier)) = (drift, earlier) {
            let same = factors.space == earlier.space;
            print_line(&format!(
                "aligned with the earlier factors, {}: cosine {:.3} (before {:.3}) over {}, {:.1} % of them moved",
                if same { "in their space" } else { "in a space of its own" },
                drift.cosine_after,
                drift.cosine_before,
                count(drift.shared as u64, "shared track"),
                100.0 * drift.moved
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of every iteration that was done; of one part after the other.
#[derive(Default)]
struct Log {
    losses: Vec<f64>,
    /// Seconds, of all threads.
    cpu: Vec<Option<f64>>,
}

/// Fits `data`, from where an earlier run of it left a checkpoint in the folder `checkpoints`, else from `earlier`
/// factors. `is_part`: there is more to fit after it, so that its end is a checkpoint, too.
fn factorize(
    data: &Interactions,
    earlier: Option<&Factors>,
    checkpoints: &Path,
    is_part: bool,
    context: &Context,
    log: &mut Log,
) -> Result<Factors> {
    let config = &context.config.als;
    let run = run_id(data, config);
    let found = Checkpoint::load(checkpoints, &run, data.users.len(), data.tracks.len(), config.dimensions)?
        .filter(|checkpoint| checkpoint.iteration <= config.iterations);
    let start = match (&found, earlier) {
        (Some(checkpoint), _) => {
            eprintln!("going on after iteration {}, where an earlier run was interrupted", checkpoint.iteration);
            Start::Checkpoint(checkpoint)
        }
        (None, Some(earlier)) => Start::Warm(earlier),
        (None, None) => Start::Random,
    };
    let bar = progress(config.iterations as u64, "factorizing");
    bar.set_position(found.as_ref().map_or(0, |checkpoint| checkpoint.iteration) as u64);
    let mut cpu_before = cpu_seconds();
    let mut saved = Instant::now();
    let mut failed = None;
    let fitted = fit_from(data, config, start, &mut |progress| {
        bar.inc(1);
        bar.set_message(format!("loss {:.6e}", progress.loss));
        log.losses.push(progress.loss);
        log.cpu.push(cpu_seconds().zip(cpu_before).map(|(now, before)| now - before));
        let stop = context.stop.load(Ordering::Relaxed);
        let is_due = stop || saved.elapsed() >= BETWEEN_CHECKPOINTS;
        if if progress.iteration < config.iterations { is_due } else { is_part } {
            if let Err(e) = progress.checkpoint().save(checkpoints, &run) {
                failed = Some(e);
                return ControlFlow::Break(());
            }
            saved = Instant::now();
            if stop {
                bar.suspend(|| {
                    eprintln!("iteration {} is saved; the same command goes on from there", progress.iteration)
                });
            }
        }
        cpu_before = cpu_seconds();
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    match (failed, fitted) {
        (Some(e), _) => Err(e),
        (None, fitted) => fitted,
    }
}

/// Reads events into a matrix, and says on standard error which rows were left out and why; returns how many.
pub fn read_interactions(
    path: &Path,
    config: &ConfidenceConfig,
    reading: &EventsConfig,
) -> Result<(Interactions, u64)> {
    let (mut matrices, left_out) = read_matrices(path, std::slice::from_ref(config), reading)?;
    Ok((matrices.remove(0), left_out))
}

/// The same, into a matrix for each of `configs`, of which the first takes what any of them does.
fn read_matrices(
    path: &Path,
    configs: &[ConfidenceConfig],
    reading: &EventsConfig,
) -> Result<(Vec<Interactions>, u64)> {
    let mut builder = InteractionsBuilder::new(&configs[0], reading, None)?;
    let left_out = read_reported(path, reading, &mut |event| builder.push(&event))?;
    Ok((builder.finish_each(configs)?, left_out))
}

/// Reads events one by one, and says on standard error which rows were left out and why; returns how many.
pub fn read_reported(path: &Path, reading: &EventsConfig, take: &mut dyn FnMut(Event) -> Result<()>) -> Result<u64> {
    let bar = progress(0, "reading events");
    let report = read_events(path, reading.bad_rows(), &mut |event| {
        bar.inc(1);
        take(event)
    })?;
    bar.finish_and_clear();
    for (reason, bad) in &report.bad {
        tracing::warn!("{} left out: {reason}: {}", count(bad.count, "row"), bad.examples.join("; "));
    }
    Ok(report.bad_rows())
}
