use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::json;

use super::factorize::read_interactions;
use super::handover::{hand_over_all, space_beside};
use super::{Context, build_index, count, exit_code, model_folder, print_json, print_line, progress};
use crate::audio::{Listening, SpectrogramCache};
use crate::encoder::{Device, Model};
use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::reindex::{Built, Job, Unheard, build};
use crate::store::{Store, Track};

const EXAMPLES: &str = "\
Examples:
  debut reindex --model models/new --cache spectrograms       a model of the same space: every track is heard by it
  debut reindex --model models/new --cache spectrograms --factors factors --events plays.parquet
                                                              a model of another space, with its listeners
  debut reindex --back                                        serves what was served before

The new vectors are built beside those that are served, while `debut ingest` may go on; they take their place in one commit,
and services that are running go over by themselves. A build that was stopped goes on where it was. Spectrograms come from
--cache (where `debut ingest --cache` keeps them), else each file is decoded again. What was served before is kept for
--back until the next change; `debut compact` gives its space back.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model that listens; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Factors of the model's space, for tracks and listeners that are known from plays; needed where the space is another.
    #[arg(long, value_name = "DIR", requires = "events")]
    factors: Option<PathBuf>,

    /// The events that the factors were made from.
    #[arg(long, value_name = "EVENTS", requires = "factors")]
    events: Option<PathBuf>,

    /// Where spectrograms are kept.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Windows to hear of each track [default: as many as the catalogue's tracks were heard with].
    #[arg(long, value_name = "N")]
    segments: Option<usize>,

    /// Where the network runs: cpu, or a GPU by way of cuda, wgpu or vulkan (each to be built in: --features NAME).
    #[arg(long, default_value_t)]
    device: Device,

    /// Changes over also where some tracks cannot be heard: they keep the vector of the model before, or, where the space
    /// is another, cannot be found until they are ingested again.
    #[arg(long)]
    leave_out: bool,

    /// Serves what was served before the last change.
    #[arg(long, conflicts_with_all = ["model", "factors", "events", "cache", "segments", "leave_out"])]
    back: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    // A catalogue that is not there is an error here, not a new one.
    let reader = Store::read(&context.catalogue)?;
    if args.back {
        return go_back(&context);
    }
    let folder = model_folder(args.model.as_deref())?;
    let model = Model::load(&folder)?.on(args.device)?;
    let listen = &context.config.listen;
    let windows = reader.windows()?.map_or(listen.segments, |windows| windows as usize);
    let listening = Listening { segments: args.segments.unwrap_or(windows), ..listen.clone() };
    let front_end = &model.config.front_end;
    let open = |dir: &PathBuf| SpectrogramCache::open(dir, front_end, front_end.frames, &listening);
    let cache = args.cache.as_ref().map(open).transpose()?;
    let taught = match (&args.factors, &args.events) {
        (Some(factors), Some(events)) => {
            let factors = Factors::load(factors)?;
            let what = "the model's space and that of the factors";
            model.config.space.require(what, &factors.space().id)?;
            let (data, _) = read_interactions(events, &factors.confidence, &context.config.events)?;
            Some((factors, data))
        }
        _ => None,
    };
    let status = reader.status()?;
    let same_space = status.space.as_deref() == Some(model.config.space.as_str());
    if !same_space && taught.is_none() && status.listeners + status.learned + status.handed_over > 0 {
        return Err(Error::invalid(
            format!("--model of another space ({})", model.config.space),
            "--factors and --events of that space, for what is known from plays",
            format!("{} and {} with plays", count(status.listeners, "listener"), status.learned + status.handed_over),
        ));
    }

    let space = space_beside(&folder, &model)?;
    let made_by = format!("{} x{}", model.id(), listening.segments);
    let mut store = Store::build(&context.catalogue, &space, &made_by)?;
    // From here on it stays.
    if reader.is_behind()? {
        let what = format!("what {} served and what it serves now (run this again)", context.catalogue.display());
        return Err(Error::mismatch(what, status.space.unwrap_or_default(), "another generation"));
    }
    let bar = progress(status.tracks, "reindexing");
    bar.set_position(store.built()?.0);
    let told = bar.clone();
    let report = |track: &Track, failed: Option<&Error>| {
        told.inc(1);
        if let Some(e) = failed {
            told.suspend(|| eprintln!("not heard: {}: {e}", track.id));
        }
    };
    let unheard = if args.leave_out { Unheard::Keep } else { Unheard::LeaveOut };
    let same = same_space.then_some(unheard);
    let (cache, mut failed) = (cache.as_ref(), HashSet::new());
    let job = Job { stop: &context.stop, report: &report };
    let mut built = build(&mut store, &model, &listening, cache, same, &mut failed, job)?;
    // From here on nobody else writes; what came meanwhile is little.
    wait_for_writer(&mut store, &context, &bar)?;
    let Built { heard, kept, left_out } = build(&mut store, &model, &listening, cache, same, &mut failed, job)?;
    built = Built { heard: built.heard + heard, kept: built.kept + kept, left_out };
    bar.finish_and_clear();

    let missing = store.count_unbuilt()?;
    let serve = missing == 0 || args.leave_out;
    if serve {
        if let Some((factors, data)) = &taught {
            hand_over_all(&mut store, factors, data, &HashMap::new(), Some(&model.config), &context.config.handover)?;
        } else if same_space {
            store.take_over_plays()?;
        }
        build_index(&store, &context.config.index)?;
        store.serve()?;
        store.checkpoint()?;
    }
    let (tracks, served) = (store.built()?.0, status.tracks);
    if context.json {
        print_json(&json!({
            "served": serve, "space": space.id, "tracks": tracks, "heard": built.heard, "kept": built.kept,
            "missing": missing,
        }))?;
    } else {
        print_line(&format!("{} heard by {}, {} kept as they were", built.heard, model.id(), built.kept))?;
        let missing_words = format!("{} of {served} have no vector in {}", missing, space.id);
        print_line(&match (serve, missing) {
            (true, 0) => format!("{} served now in {}; `debut reindex --back` is the way back", tracks, space.id),
            (true, _) => format!("{tracks} served now; {missing_words} until they are ingested again"),
            (false, _) => format!(
                "nothing has changed: {missing_words}. Give --cache or bring their files back and run this again, or \
                 serve without them: --leave-out"
            ),
        })?;
    }
    Ok(exit_code(if serve { 0 } else { missing }))
}

/// An ingestion that is under way is waited for: what was built is kept in any case.
fn wait_for_writer(store: &mut Store, context: &Context, bar: &ProgressBar) -> Result<()> {
    let mut told = false;
    loop {
        match store.finish_building() {
            Err(e @ Error::Invalid { .. }) => {
                if !told {
                    bar.suspend(|| eprintln!("built; waiting to change over: {e}"));
                    told = true;
                }
                if context.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            done => return done,
        }
    }
}

fn go_back(context: &Context) -> Result<ExitCode> {
    let mut store = Store::open(&context.catalogue)?;
    let without = store.go_back()?;
    let status = store.status()?;
    let space = status.space.unwrap_or_default();
    if context.json {
        print_json(&json!({ "served": true, "space": space, "tracks": status.tracks, "missing": without }))?;
    } else {
        print_line(&format!("{} served now, in {space}, as before", count(status.tracks, "track")))?;
        if without > 0 {
            let what = count(without, "track");
            print_line(&format!(
                "{what} came or changed since, and cannot be found until `debut ingest` or `debut handover` brings them"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
