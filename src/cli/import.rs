use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Context, build_index, count, print_json, print_line, progress};
use crate::error::{Error, Result};
use crate::exchange::import;
use crate::store::Store;

const EXAMPLES: &str = "\
Examples:
  debut --catalogue copy import out              a new catalogue in ./copy of what `debut export out` wrote

All or nothing: every file is compared with its hash, every row is looked at, and the catalogue gets its name when it is
whole and verified. The new catalogue counts its changes anew.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder that `debut export` wrote, as parquet.
    #[arg(value_name = "DIR")]
    from: PathBuf,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let bar = progress(0, "importing");
    let done = import(&args.from, &context.catalogue, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
        if context.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    });
    bar.finish_and_clear();
    let done = done?;
    let store = Store::open(&context.catalogue)?;
    if store.space()?.is_some() {
        build_index(&store, &context.config.index)?;
    }
    if context.json {
        print_json(&json!({
            "catalogue": context.catalogue.to_string_lossy(), "tracks": done.tracks, "listeners": done.listeners,
            "files": done.files,
        }))?;
    } else {
        let (tracks, listeners) = (count(done.tracks, "track"), count(done.listeners, "listener"));
        print_line(&format!("{}: {tracks}, {listeners}", context.catalogue.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
