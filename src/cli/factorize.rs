use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Context, count, print_json, print_line, progress};
use crate::artefact::write_toml;
use crate::error::Result;
use crate::eval::hold_out;
use crate::events::{ConfidenceConfig, EventsConfig, Interactions, InteractionsBuilder, read_events};
use crate::factors::fit;

const EXAMPLES: &str = "\
Examples:
  debut factorize plays.parquet --out factors
  debut factorize events/ --out factors --hold-out 0.2 --set als.dimensions=64 --set confidence.half_life_days=56
  debut factorize listenbrainz-dump/listens --out factors --strict --set confidence.max_tracks_per_user=1000

Events are rows of time,user,track,action,value in CSV, TSV, JSON Lines (all of them also as .gz or .zst) or Parquet; a file,
or a folder of them, partitioned or not. Of these, time is in seconds since 1970, or as 2026-01-31T12:00:00Z; action is one of
play, complete, skip, like, dislike, unlike, add, remove (play where there is none); value is, of a play, the share that was
heard, 0 to 1, and of a skip the share that was not (1 where there is none; or give the columns seconds and duration). An add
with a playlist makes the playlist a user of its own; a table of playlist,track is enough. Exports of ListenBrainz and Last.fm,
unpacked, and the lastfm-1K data set are known by their columns. What each action weighs, recency, caps and minimums are
settings: see [confidence] in `debut status --settings`.

Writes tracks.npy and users.npy (float32 [n, d]), their ids in tracks.ids and users.ids, and factors.toml.";

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

    /// Stop at the first bad row, and say where it is; otherwise bad rows are left out and counted.
    #[arg(long)]
    strict: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    let reading = EventsConfig { strict: args.strict || config.events.strict, ..config.events.clone() };
    let (all, left_out) = read_interactions(&args.events, &config.confidence, &reading)?;
    let (data, held_out) = match args.hold_out {
        None => (all, Vec::new()),
        Some(share) => {
            let parts = hold_out(&all, share, config.als.seed)?;
            (parts.train, parts.held_out.tracks.names().to_vec())
        }
    };
    let bar = progress(config.als.iterations as u64, "factorizing");
    let mut losses = Vec::new();
    let mut factors = fit(&data, &config.als, &mut |_, loss| {
        bar.inc(1);
        bar.set_message(format!("loss {loss:.6e}"));
        losses.push(loss);
        if context.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    factors.held_out = held_out;
    factors.save(&args.out)?;
    write_toml(&args.out.join("config.toml"), config)?;
    if context.json {
        print_json(&json!({
            "space": factors.space, "users": factors.users.len(), "tracks": factors.tracks.len(),
            "dimensions": factors.dimensions(), "held_out": factors.held_out.len(), "left_out": left_out, "loss": losses,
        }))?;
    } else {
        print_line(&format!(
            "{} and {} in {} dimensions, {} held out, loss {:.4e} to {:.4e}: {} in {}",
            count(factors.users.len() as u64, "listener"),
            count(factors.tracks.len() as u64, "track"),
            factors.dimensions(),
            count(factors.held_out.len() as u64, "track"),
            losses.first().copied().unwrap_or(f64::NAN),
            losses.last().copied().unwrap_or(f64::NAN),
            factors.space,
            args.out.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads events into a matrix, and says on standard error which rows were left out and why; returns how many.
pub fn read_interactions(
    path: &Path,
    config: &ConfidenceConfig,
    reading: &EventsConfig,
) -> Result<(Interactions, u64)> {
    let mut builder = InteractionsBuilder::new(config, reading, None)?;
    let bar = progress(0, "reading events");
    let report = read_events(path, reading.bad_rows(), &mut |event| {
        bar.inc(1);
        builder.push(&event)
    })?;
    bar.finish_and_clear();
    for (reason, bad) in &report.bad {
        tracing::warn!("{} left out: {reason}: {}", count(bad.count, "row"), bad.examples.join("; "));
    }
    Ok((builder.finish()?, report.bad_rows()))
}
