use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use super::{
    Context, build_index, count, damage, exit_code, model_folder, of_them_damaged, print_json, print_line, progress,
};
use crate::audio::{Listening, SpectrogramCache};
use crate::cli::handover::adopt_space;
use crate::encoder::{Device, Model};
use crate::error::Result;
use crate::ingest::{Hearing, Outcome, Status, ingest};
use crate::inputs::{Input, read_manifest, walk};
use crate::store::Store;

const EXAMPLES: &str = "\
Examples:
  debut ingest ~/Music                                 every audio file in the folder, into ./catalogue
  debut --catalogue /data/cat ingest --manifest new.csv --json
  debut ingest ~/Music                                 again: does only what is new or was interrupted

A manifest is CSV or JSON Lines of path,id,artist,title,album,released,language,explicit,regions; only path must be there.
Without an id, the id is the hash of the content, so that a file which is renamed or moved stays the same track. Regions are
those where it may be played, separated by spaces; none means everywhere.

With --json, one line a file, told once it is durable:
  {\"track\":\"…\",\"path\":\"…\",\"status\":\"added|replaced|skipped|failed\",\"reason\":\"…\",\"lost\":0.1,\"ms\":41.0}
lost is there where a share of what was heard was damaged, and is silent.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files, and folders that are searched for audio.
    #[arg(required_unless_present = "manifest", value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// A list of tracks with their ids and words.
    #[arg(long, value_name = "tracks.csv|jsonl")]
    manifest: Vec<PathBuf>,

    /// The model that listens; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Windows of 27.9 s to hear of each track, spread over it; more are for pieces that change [default: listen.segments, 1].
    #[arg(long, value_name = "N")]
    segments: Option<usize>,

    /// Keeps the spectrograms here (150 kB a window), so that `debut reindex` need not decode the files again.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Where the network runs: cpu, or a GPU by way of cuda, wgpu or vulkan (each to be built in: --features NAME).
    #[arg(long, default_value_t)]
    device: Device,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    let listening = Listening { segments: args.segments.unwrap_or(config.listen.segments), ..config.listen };
    // Before anything is made.
    listening.check()?;
    let folder = model_folder(args.model.as_deref())?;
    let model = Model::load(&folder)?.on(args.device)?;
    let front_end = &model.config.front_end;
    let open = |dir: &PathBuf| SpectrogramCache::open(dir, front_end, front_end.frames, &listening);
    let cache = args.cache.as_ref().map(open).transpose()?;
    let mut inputs: Vec<Input> = Vec::new();
    for manifest in &args.manifest {
        inputs.extend(read_manifest(manifest)?);
    }
    let mut store = Store::open(&context.catalogue)?;
    adopt_space(&mut store, &folder, &model)?;

    let bar = progress(inputs.len() as u64, "listening");
    let found = bar.clone();
    // A file that a manifest names is that track, also where a folder holds it.
    let listed: HashSet<PathBuf> = inputs.iter().map(|i| i.path.clone()).collect();
    let from_folders = args
        .paths
        .clone()
        .into_iter()
        .flat_map(|path| walk(&path))
        .filter(move |input| !input.as_ref().is_ok_and(|i| listed.contains(&i.path)))
        .inspect(move |_| found.inc_length(1));
    let all = inputs.into_iter().map(Ok).chain(from_folders);
    let mut printed = Ok(());
    let hearing = Hearing { listening: &listening, cache: cache.as_ref() };
    let result = ingest(&mut store, &model, all, hearing, &config.ingest, &context.stop, &mut |outcome| {
        bar.inc(1);
        let line = if context.json {
            bar.suspend(|| print_json(outcome))
        } else if matches!(outcome.status, Status::Failed) {
            bar.suspend(|| print_line(&in_words(outcome)))
        } else if let Some(lost) = outcome.lost {
            bar.suspend(|| print_line(&damage(&outcome.path, lost)))
        } else {
            Ok(())
        };
        if line.is_err() {
            printed = line;
            context.stop.store(true, Ordering::Relaxed);
        }
    });
    bar.finish_and_clear();
    printed?;
    let summary = result?;
    store.checkpoint()?;

    build_index(&store, &context.config.index)?;
    if !context.json {
        print_line(&format!(
            "{} added, {} replaced{}, {} skipped, {} failed; {} in {}",
            summary.added,
            summary.replaced,
            of_them_damaged(summary.damaged),
            summary.skipped,
            summary.failed,
            count(store.len()?, "track"),
            context.catalogue.display()
        ))?;
        if summary.failed > 0 {
            print_line("`debut failures` lists what failed and why")?;
        }
    }
    Ok(exit_code(summary.failed))
}

fn in_words(outcome: &Outcome) -> String {
    format!("failed: {}: {}", outcome.path.display(), outcome.reason.as_deref().unwrap_or("no reason given"))
}
