use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Context, count, print_json, print_line, progress};
use crate::error::{Error, Result};
use crate::store::Store;

const EXAMPLES: &str = "\
Examples:
  debut backup backups/2026-11-22                also while `debut ingest` runs
  debut --catalogue backups/2026-11-22 check     a backup is a catalogue: every verb takes it
  cp -r backups/2026-11-22 catalogue             to restore, copy it to where the catalogue was (or move it there), with
                                                 nobody writing

What was acknowledged before the backup began is in it, and nothing of what came later. It is verified before it gets its
name. Killed in the middle, it leaves DIR.XXXXXX.partial, which can be deleted. The index is not in it: the next ingest
builds it again. While it runs, the log beside the catalogue grows by what is written.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A new or an empty folder.
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let store = Store::read(&context.catalogue)?;
    let bar = progress(0, "pages");
    let done = store.backup(&args.to, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
        if done == of {
            bar.set_message("verifying");
        }
        if context.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    });
    bar.finish_and_clear();
    let done = done?;
    if context.json {
        print_json(&json!({
            "out": args.to.to_string_lossy(), "tracks": done.tracks, "listeners": done.listeners, "seq": done.seq,
            "bytes": done.bytes,
        }))?;
    } else {
        let (tracks, listeners) = (count(done.tracks, "track"), count(done.listeners, "listener"));
        print_line(&format!(
            "{}: {tracks}, {listeners}, {:.1} MB, verified",
            args.to.display(),
            done.bytes as f64 / 1e6
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
