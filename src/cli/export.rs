use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Context, count, print_json, print_line, progress};
use crate::error::{Error, Result};
use crate::exchange::{Format, Manifest, export};
use crate::store::Store;

const EXAMPLES: &str = "\
Examples:
  debut export out                               everything, as Parquet: tracks with their vectors, listeners and their
                                                 histories, files; `debut import out` makes a catalogue of it again
  debut export out --format npy                  vectors.npy [n, d], norms.npy, tracks.ids, listeners.npy, listeners.ids
  debut export later --since out                 what changed since that export, and removed.parquet: what went
  debut export later --since 4711                the same, for who remembers the `seq` of the last export (--json); not
                                                 across a `debut reindex`, which gives `catalogue` in space.json another
                                                 name: all vectors are others then

All is of one moment, also while `debut ingest` runs. Vectors are of unit length: the cosine is their inner product;
`norm` is how popular a track is.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A new or an empty folder.
    #[arg(value_name = "DIR")]
    to: PathBuf,

    /// parquet or npy.
    #[arg(long, default_value_t, value_name = "FORMAT")]
    format: Format,

    /// Only what changed after an earlier export: its folder, or its `seq`.
    #[arg(long, value_name = "DIR|SEQ")]
    since: Option<PathBuf>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let store = Store::read(&context.catalogue)?;
    let since = args.since.as_deref().map_or(Ok(0), |since| seq_of(since, &store))?;
    let bar = progress(0, "exporting");
    let done = export(&store, &args.to, args.format, since, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
        if context.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    });
    bar.finish_and_clear();
    let done = done?;
    if context.json {
        print_json(&json!({
            "out": args.to.to_string_lossy(), "tracks": done.tracks, "removed": done.removed,
            "listeners": done.listeners, "left_out": done.left_out, "since": since, "seq": done.seq,
        }))?;
    } else {
        let what = if since > 0 {
            format!("{} changed and {} removed since {since}", count(done.tracks, "track"), done.removed)
        } else {
            format!("{}, {}", count(done.tracks, "track"), count(done.listeners, "listener"))
        };
        if done.left_out > 0 {
            let left_out = count(done.left_out, "track");
            eprintln!(
                "left out: {left_out} without a vector in what is served (`debut ingest` or `debut reindex` makes it)"
            );
        }
        print_line(&format!("{}: {what}; as of {}", args.to.display(), done.seq))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A number is taken as it is. An export must be of this catalogue, and of the space that it has now: where all
/// vectors are others, a list of changes is not what is wanted.
fn seq_of(since: &Path, store: &Store) -> Result<i64> {
    if let Some(seq) = since.to_str().and_then(|text| text.parse().ok()) {
        return Ok(seq);
    }
    let earlier = Manifest::read(since)?;
    let identity = store.identity()?;
    if earlier.catalogue != identity {
        return Err(Error::mismatch("the earlier export and the catalogue", earlier.catalogue, identity));
    }
    if let Some(space) = store.space()? {
        earlier.space.require("the spaces of the earlier export and of the catalogue", &space.id)?;
    }
    Ok(earlier.seq)
}
