use std::cell::Cell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;

use super::{Context, count, cpu_seconds, print_json, print_line, progress};
use crate::artefact::{SpaceId, write_toml};
use crate::dates::date_of;
use crate::error::{Error, Result};
use crate::eval::{Part as TrackPart, TrackSplit, held_out, hold_out};
use crate::events::{
    ConfidenceConfig, Event, EventsConfig, Interactions, InteractionsBuilder, ShardSize, ShardsBuilder, read_events,
};
use crate::factors::{
    AlsConfig, Checkpoint, Drift, Factors, ShardedStart, Start, check_solver, fit_from, fit_sharded, run_id,
    run_id_of_shards,
};
use crate::ids::TrackId;

const EXAMPLES: &str = "\
Examples:
  debut factorize plays.parquet --out factors
  debut factorize plays.parquet --out factors --split data/splits/artist.csv        (of `debut prepare`)
  debut factorize events/ --out factors --hold-out 0.2 --set als.dimensions=64 --set confidence.half_life_days=56
  debut factorize events/ --out factors --set per_action.play=1 --set per_action.like=3 --set per_action.add=2
  debut factorize listenbrainz-dump/listens --out factors --strict --set confidence.max_tracks_per_user=1000
  debut factorize events/ --out factors --shards /mnt/large/scratch

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

    /// Keep the test tracks of a split that `debut prepare` made from the fit, with all their events; of a split by time also
    /// all events from its cut on, and playlist adds without a time. The factors keep a copy, so that `debut train` and `debut evaluate` know it.
    #[arg(long, value_name = "SPLIT.csv", conflicts_with = "hold_out")]
    split: Option<PathBuf>,

    /// Start from these factors, as far as listeners and tracks are the same, and turn the result into their space
    /// (orthogonal Procrustes); says how far tracks drifted. They must not know tracks that are held out now. For a day's new events 2 iterations are then enough
    /// (`--set als.iterations=2`).
    #[arg(long, value_name = "FACTORS")]
    warm: Option<PathBuf>,

    /// Keep listeners on disk (their names, rows of the matrix and factors), in temporary files in this folder, for logs
    /// of more listeners than memory holds. Memory is then events.memory_mb, and about 1 kB a track at 40 dimensions.
    /// Disk is 24 bytes an event while reading, then up to 36 a pair of listener and track, and 4 a number of the
    /// listeners' factors (in --out up to twice that, for checkpoints). The factors are the same but for rounding. Not with --warm, [per_action] or
    /// als.solver="cholesky".
    #[arg(long, value_name = "DIR", conflicts_with = "warm")]
    shards: Option<PathBuf>,

    /// Stop at the first bad row, and say where it is; otherwise bad rows are left out and counted.
    #[arg(long)]
    strict: bool,
}

/// What a crash may cost, beside the iteration under way.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(30);

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    if args.out.exists() && !args.out.is_dir() {
        return Err(Error::unsupported(&args.out, "a folder, or none yet", "a file"));
    }
    let reading = EventsConfig { strict: args.strict || config.events.strict, ..config.events.clone() };
    let split = args.split.as_deref().map(TrackSplit::load).transpose()?.map(Kept::new).transpose()?;
    let done = match &args.shards {
        Some(folder) => on_disk(&args, &context, &reading, split.as_ref(), folder)?,
        None => in_memory(&args, &context, &reading, split.as_ref())?,
    };
    done.checkpoints.iter().try_for_each(|dir| Checkpoint::remove(dir))?;
    write_toml(&args.out.join("config.toml"), config)?;
    if context.json {
        print_json(&json!({
            "space": done.space, "users": done.users, "tracks": done.tracks, "dimensions": done.dimensions,
            "held_out": done.held_out, "left_out": done.left_out, "loss": done.log.losses,
            "cpu_seconds": done.log.cpu, "drift": done.drift,
        }))?;
    } else {
        // The losses of different parts cannot be compared.
        let loss = match (&done.log.losses[..], config.per_action.parts(&config.confidence).is_empty()) {
            ([first, .., last], true) => format!(", loss {first:.4e} to {last:.4e}"),
            _ => String::new(),
        };
        print_line(&format!(
            "{} and {} in {} dimensions, {} held out{loss}: {} in {}",
            count(done.users as u64, "listener"),
            count(done.tracks as u64, "track"),
            done.dimensions,
            count(done.held_out as u64, "track"),
            done.space,
            args.out.display()
        ))?;
        if let Some(drift) = done.drift {
            print_line(&format!(
                "aligned with the earlier factors, {}: cosine {:.3} (before {:.3}) over {}, {:.1} % of them moved",
                if done.is_same_space { "in their space" } else { "in a space of its own" },
                drift.cosine_after,
                drift.cosine_before,
                count(drift.shared as u64, "shared track"),
                100.0 * drift.moved
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The split that factors were made with, in their folder.
const SPLIT: &str = "split.csv";

/// The split that the factors in this folder were made with, if they were made with one.
///
/// # Errors
/// Those of [`TrackSplit::load`]; `Mismatch` where it is that of other factors.
pub fn split_of(dir: &Path, factors: &Factors) -> Result<Option<TrackSplit>> {
    let path = dir.join(SPLIT);
    if !path.try_exists().map_err(Error::io(&path))? {
        return Ok(None);
    }
    let split = TrackSplit::load(&path)?;
    let is_test = |id: &&TrackId| split.is(id, TrackPart::Test);
    if let Some(id) = factors.tracks.iter().find(is_test).or(factors.held_out.iter().find(|id| !is_test(id))) {
        let found = format!("{id} on the other side");
        return Err(Error::mismatch(format!("{} and the factors beside it", path.display()), "the same split", found));
    }
    Ok(Some(split))
}

/// Puts factors into their folder by `save`, with their split; that of earlier ones is taken away. A split comes before its
/// factors, and goes after them: whatever lies there when a crash comes in between does not fit it, or is of the same split.
pub fn save_with_split(dir: &Path, split: Option<&TrackSplit>, save: impl FnOnce() -> Result<()>) -> Result<()> {
    let path = dir.join(SPLIT);
    if let Some(split) = split {
        split.save(&path)?;
        return save();
    }
    save()?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path)(e)),
        _ => Ok(()),
    }
}

/// A split, and what it has kept from the fit.
struct Kept {
    split: TrackSplit,
    /// Its hash.
    id: String,
    /// Events of test tracks.
    of_tracks: Cell<u64>,
    /// Other events, from the cut on.
    of_time: Cell<u64>,
    /// Other events, of playlists, of which nobody says whether they were before the cut.
    undated: Cell<u64>,
    /// Events that the fit may know of.
    open: Cell<u64>,
    /// All events before the cut, and from it on.
    around_cut: [Cell<u64>; 2],
}

impl Kept {
    fn new(split: TrackSplit) -> Result<Kept> {
        if split.count(TrackPart::Test) == 0 {
            return Err(Error::invalid(format!("split ({})", split.made), "tracks in its part test", "none"));
        }
        Ok(Kept {
            id: split.hash(),
            split,
            of_tracks: Cell::default(),
            of_time: Cell::default(),
            undated: Cell::default(),
            open: Cell::default(),
            around_cut: Default::default(),
        })
    }

    /// Whether the fit may know of it.
    fn is_open(&self, event: &Event) -> bool {
        let add = |count: &Cell<u64>| count.set(count.get() + 1);
        // A table of playlists may have no times, which are then those of 1970.
        let is_undated = self.split.cut.is_some() && event.time == 0 && event.user.is_playlist();
        let is_late = self.split.cut.is_some_and(|cut| event.time >= cut);
        if !is_undated {
            add(&self.around_cut[usize::from(is_late)]);
        }
        let kind = match () {
            () if self.split.is(&event.track, TrackPart::Test) => &self.of_tracks,
            () if is_undated => &self.undated,
            () if is_late => &self.of_time,
            () => &self.open,
        };
        add(kind);
        std::ptr::eq(kind, &self.open)
    }

    /// Says what was left out, once all events are read.
    ///
    /// # Errors
    /// `Mismatch` where there was something, and all of it is left out.
    fn tell(&self) -> Result<()> {
        let [before, after] = self.around_cut.each_ref().map(Cell::get);
        let undated = self.undated.get();
        if undated > 0 {
            tracing::warn!(
                "{} left out, of playlists without times: nobody says whether they were before the cut",
                count(undated, "event")
            );
        }
        if self.open.get() > 0 || before + after + undated == 0 {
            return Ok(());
        }
        let of_test = format!("{} of held-out tracks", self.of_tracks.get());
        Err(match self.split.cut {
            Some(cut) => Error::mismatch(
                format!("the split ({}) and the events", self.split.made),
                format!("events before its cut, {cut} ({}), of tracks that are not held out", date_of(cut)),
                format!("none: {before} events before, {after} from then on, {undated} without a time; {of_test}"),
            ),
            None => Error::mismatch(
                format!("the split ({}) and the events", self.split.made),
                "events of tracks that are not held out",
                format!("{} events, {of_test}", before + after),
            ),
        })
    }

    /// The tracks that were held out.
    ///
    /// # Errors
    /// `Mismatch` where the events know none of them.
    fn held_out(&self) -> Result<Vec<TrackId>> {
        if self.of_tracks.get() == 0 {
            let found = self.split.tracks(TrackPart::Test).next().map_or(String::new(), |id| format!("none, as {id}"));
            return Err(Error::mismatch("the split and the events", "events of its test tracks", found));
        }
        tracing::info!(
            "left out: {} events of held-out tracks, {} later ones",
            self.of_tracks.get(),
            self.of_time.get()
        );
        Ok(self.split.tracks(TrackPart::Test).cloned().collect())
    }
}

/// What there is to say of factors that have been written.
struct Done {
    space: SpaceId,
    users: usize,
    tracks: usize,
    dimensions: usize,
    held_out: usize,
    left_out: u64,
    log: Log,
    drift: Option<Drift>,
    /// Whether they are in the space of the earlier factors.
    is_same_space: bool,
    /// What is needed no longer.
    checkpoints: Vec<PathBuf>,
}

fn in_memory(args: &Args, context: &Context, reading: &EventsConfig, split: Option<&Kept>) -> Result<Done> {
    let config = &context.config;
    let parts = config.per_action.parts(&config.confidence);
    if args.warm.is_some() && !parts.is_empty() {
        // Aligned, the blocks of the parts are turned into one another: there is nothing to start a part from.
        return Err(Error::invalid("--warm", "one factorisation for all actions", "factorisations [per_action]"));
    }
    // What the parts would have together is refused before they are made.
    AlsConfig { dimensions: config.als.dimensions.saturating_mul(parts.len().max(1)), ..config.als }.check()?;
    let earlier = args.warm.as_deref().map(|dir| start_from(dir, split)).transpose()?;
    let configs: Vec<_> = [config.confidence].into_iter().chain(parts.iter().map(|part| part.confidence)).collect();
    let is_open = |event: &Event| split.is_none_or(|kept| kept.is_open(event));
    // The first takes what any of them does.
    let mut builder = InteractionsBuilder::new(&configs[0], reading, None)?;
    let left_out =
        read_reported(&args.events, reading, &mut |event| if is_open(&event) { builder.push(&event) } else { Ok(()) })?;
    split.map_or(Ok(()), Kept::tell)?;
    let mut matrices = builder.finish_each(&configs)?;
    let of_parts = matrices.split_off(1);
    let all = matrices.remove(0);
    let (data, held_out) = match (args.hold_out, split) {
        (None, None) => (all, Vec::new()),
        (_, Some(kept)) => (all, kept.held_out()?),
        (Some(share), None) => {
            let halves = hold_out(&all, share, config.als.seed)?;
            (halves.train, halves.held_out.tracks.names().to_vec())
        }
    };
    if let Some(earlier) = &earlier {
        let is_held_out: HashSet<&TrackId> = held_out.iter().collect();
        if let Some(known) = earlier.tracks.iter().find(|track| is_held_out.contains(track)) {
            let found = format!("{known}, which they know");
            return Err(Error::mismatch("the held-out tracks and the earlier factors", "no track in both", found));
        }
        // Without so many they cannot be aligned, which comes after all the work.
        let shared = earlier.tracks.iter().filter(|track| data.tracks.number(track).is_some()).count();
        if shared < config.als.dimensions {
            let expected = format!("{} tracks or more that the events have, too", config.als.dimensions);
            return Err(Error::mismatch("the earlier factors and the events", expected, shared));
        }
    }
    let mut log = Log::default();
    let mut checkpoints = vec![args.out.join("checkpoint")];
    let mut factors = if parts.is_empty() {
        factorize(&data, earlier.as_ref(), split, &checkpoints[0], false, context, &mut log)?
    } else {
        checkpoints = parts.iter().map(|part| args.out.join(format!("checkpoint-{}", part.name))).collect();
        let mut fitted = Vec::new();
        for ((part, matrix), checkpoints) in parts.iter().zip(of_parts).zip(&checkpoints) {
            let data = part.of(&matrix, &data)?;
            drop(matrix);
            fitted.push((part.weight, factorize(&data, None, split, checkpoints, true, context, &mut log)?));
        }
        Factors::concatenate(&data, &config.als, &fitted)?
    };
    factors.held_out = held_out;
    let drift = earlier.as_ref().map(|earlier| factors.align(earlier)).transpose()?;
    save_with_split(&args.out, split.map(|kept| &kept.split), || factors.save(&args.out))?;
    Ok(Done {
        is_same_space: earlier.is_some_and(|earlier| earlier.space == factors.space),
        dimensions: factors.dimensions(),
        space: factors.space,
        users: factors.users.len(),
        tracks: factors.tracks.len(),
        held_out: factors.held_out.len(),
        left_out,
        log,
        drift,
        checkpoints,
    })
}

/// The factors to start from, which must not know what this fit may not know.
fn start_from(dir: &Path, split: Option<&Kept>) -> Result<Factors> {
    let earlier = Factors::load(dir)?;
    if let Some(kept) = split {
        let theirs = split_of(dir, &earlier)?;
        if theirs.as_ref() != Some(&kept.split) {
            let found = theirs.map_or("none".to_string(), |split| format!("another ({})", split.made));
            let what = format!("--split and that of {}", dir.display());
            return Err(Error::mismatch(what, &kept.split.made, found));
        }
    }
    Ok(earlier)
}

/// The name of a run on disk: with another split it is another run.
fn of_split(run: String, split: Option<&Kept>) -> String {
    split.map_or(run.clone(), |kept| format!("{run} split {}", kept.id))
}

fn on_disk(
    args: &Args,
    context: &Context,
    reading: &EventsConfig,
    split: Option<&Kept>,
    folder: &Path,
) -> Result<Done> {
    let config = &context.config;
    if !config.per_action.parts(&config.confidence).is_empty() {
        return Err(Error::invalid("--shards", "one factorisation for all actions", "factorisations [per_action]"));
    }
    config.als.check()?;
    check_solver(&config.als)?;
    let is_held_out = args.hold_out.map(|share| held_out(share, config.als.seed)).transpose()?;
    let mut builder = ShardsBuilder::new(&config.confidence, reading, None, folder)?;
    let left_out = read_reported(&args.events, reading, &mut |event| {
        if split.is_none_or(|kept| kept.is_open(&event)) { builder.push(&event) } else { Ok(()) }
    })?;
    split.map_or(Ok(()), Kept::tell)?;
    // Two shards are in memory at a time: half of what the events had.
    let size = ShardSize {
        bytes: reading.memory_mb.saturating_mul(1 << 20) / 4,
        user_bytes: size_of::<f32>() * config.als.dimensions.next_multiple_of(16),
    };
    let mut data = builder.finish(size, &|track| is_held_out.as_ref().is_some_and(|is_held_out| is_held_out(track)))?;
    if is_held_out.is_some() && data.held_out.is_empty() {
        let found = format!("0 of {} tracks held out", data.tracks.len());
        return Err(Error::invalid("hold-out fraction", "tracks on both sides", found));
    }
    if let Some(kept) = split {
        data.held_out = kept.held_out()?;
    }
    tracing::info!("{} in {}", count(data.pairs, "pair"), count(data.len() as u64, "shard"));
    let checkpoints = args.out.join("checkpoint");
    let run = of_split(run_id_of_shards(&data, &config.als), split);
    let found = ShardedStart::find(&checkpoints, &run)?.filter(|start| start.iteration <= config.als.iterations);
    let mut log = Log::default();
    let mut watch = Watch::new(context, found.as_ref().map(|start| start.iteration), false, &mut log);
    let fitted = fit_sharded(&data, &config.als, found.as_ref(), &mut |progress| {
        watch.after(progress.iteration, progress.loss, &|| progress.save(&checkpoints, &run))
    });
    let fitted = watch.end(fitted)?;
    save_with_split(&args.out, split.map(|kept| &kept.split), || fitted.save(&args.out))?;
    Ok(Done {
        space: fitted.factors().space.clone(),
        users: data.users,
        tracks: data.tracks.len(),
        dimensions: config.als.dimensions,
        held_out: data.held_out.len(),
        left_out,
        log,
        drift: None,
        is_same_space: false,
        checkpoints: vec![checkpoints],
    })
}

/// Of every iteration that was done; of one part after the other.
#[derive(Default)]
struct Log {
    losses: Vec<f64>,
    /// Seconds, of all threads.
    cpu: Vec<Option<f64>>,
}

/// The BLAKE3 hash of the tracks' factors and names.
fn digest(factors: &Factors) -> String {
    let mut hasher = blake3::Hasher::new();
    for (track, row) in factors.tracks.iter().zip(factors.track_factors.rows()) {
        hasher.update(track.as_str().as_bytes()).update(&[0]);
        row.iter().for_each(|x| {
            hasher.update(&x.to_le_bytes());
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// Fits `data`, from where an earlier run of it left a checkpoint in the folder `checkpoints`, else from `earlier`
/// factors. `is_part`: there is more to fit after it, so that its end is a checkpoint, too.
fn factorize(
    data: &Interactions,
    earlier: Option<&Factors>,
    split: Option<&Kept>,
    checkpoints: &Path,
    is_part: bool,
    context: &Context,
    log: &mut Log,
) -> Result<Factors> {
    let config = &context.config.als;
    let mut run = of_split(run_id(data, config), split);
    if let Some(earlier) = earlier {
        // Another start leads elsewhere.
        run = format!("{run} from {}", digest(earlier));
    }
    let found = Checkpoint::load(checkpoints, &run, data.users.len(), data.tracks.len(), config.dimensions)?
        .filter(|checkpoint| checkpoint.iteration <= config.iterations);
    let start = match (&found, earlier) {
        (Some(checkpoint), _) => Start::Checkpoint(checkpoint),
        (None, Some(earlier)) => Start::Warm(earlier),
        (None, None) => Start::Random,
    };
    let mut watch = Watch::new(context, found.as_ref().map(|checkpoint| checkpoint.iteration), is_part, log);
    let fitted = fit_from(data, config, start, &mut |progress| {
        watch.after(progress.iteration, progress.loss, &|| progress.checkpoint().save(checkpoints, &run))
    });
    watch.end(fitted)
}

/// Watches a fit: shows how far it is, saves it now and then, and stops it when asked to.
struct Watch<'a> {
    context: &'a Context,
    is_part: bool,
    log: &'a mut Log,
    bar: ProgressBar,
    cpu_before: Option<f64>,
    saved: Instant,
    failed: Option<Error>,
}

impl<'a> Watch<'a> {
    /// `found`: the iterations that an earlier run has done.
    fn new(context: &'a Context, found: Option<usize>, is_part: bool, log: &'a mut Log) -> Watch<'a> {
        if let Some(iteration) = found {
            eprintln!("going on after iteration {iteration}, where an earlier run was interrupted");
        }
        let bar = progress(context.config.als.iterations as u64, "factorizing");
        bar.set_position(found.unwrap_or(0) as u64);
        Watch { context, is_part, log, bar, cpu_before: cpu_seconds(), saved: Instant::now(), failed: None }
    }

    fn after(&mut self, iteration: usize, loss: f64, save: &dyn Fn() -> Result<()>) -> ControlFlow<()> {
        self.bar.inc(1);
        self.bar.set_message(format!("loss {loss:.6e}"));
        self.log.losses.push(loss);
        self.log.cpu.push(cpu_seconds().zip(self.cpu_before).map(|(now, before)| now - before));
        let stop = self.context.stop.load(Ordering::Relaxed);
        let is_due = self.saved.elapsed() >= BETWEEN_CHECKPOINTS;
        // The last is saved where more is to come, or where this ends here, before the factors are written.
        let is_last = iteration == self.context.config.als.iterations;
        if stop || if is_last { self.is_part } else { is_due } {
            if let Err(e) = save() {
                self.failed = Some(e);
                return ControlFlow::Break(());
            }
            self.saved = Instant::now();
            if stop {
                self.bar.suspend(|| eprintln!("iteration {iteration} is saved; the same command goes on from there"));
            }
        }
        self.cpu_before = cpu_seconds();
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What was fitted, unless saving it failed.
    fn end<T>(self, fitted: Result<T>) -> Result<T> {
        self.bar.finish_and_clear();
        self.failed.map_or(fitted, Err)
    }
}

/// Reads events into a matrix, and says on standard error which rows were left out and why; returns how many.
pub fn read_interactions(
    path: &Path,
    config: &ConfidenceConfig,
    reading: &EventsConfig,
) -> Result<(Interactions, u64)> {
    read_interactions_where(path, config, reading, &|_| true)
}

/// The same, of the events that `keep` names.
pub fn read_interactions_where(
    path: &Path,
    config: &ConfidenceConfig,
    reading: &EventsConfig,
    keep: &dyn Fn(&Event) -> bool,
) -> Result<(Interactions, u64)> {
    let mut builder = InteractionsBuilder::new(config, reading, None)?;
    let left_out = read_reported(path, reading, &mut |event| if keep(&event) { builder.push(&event) } else { Ok(()) })?;
    Ok((builder.finish()?, left_out))
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
