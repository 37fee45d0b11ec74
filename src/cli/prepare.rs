use std::path::PathBuf;
use std::process::ExitCode;

use super::factorize::read_reported;
use super::{Context, count, exit_code, print_json, print_line, progress};
use crate::audio::{EXCERPT_FRAMES, FrontEnd, Listening, SpectrogramCache};
use crate::data::{ListenedTo, Settings, hear_all, prepare, read_failures, write_failures};
use crate::error::{Error, Result};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut prepare --audio tracks.csv --events plays.parquet --out data
  debut prepare --audio ~/Music --events plays.csv --out data --windows 6 --set split.test=0.1
  debut factorize plays.parquet --split data/splits/artist.csv --out factors
  debut train --data data --factors factors --out runs/mine

Tracks meet their events by id: the manifest's, or the content hash where --audio is a folder. A manifest has columns
path,id,artist,title,album,released, of which only path must be there. Spectrograms are kept in --cache (165 kB a window and
track), so what was heard is not heard again; stopped (Ctrl-C) or killed, the same command goes on. What cannot be heard is
left out, and remembered in failed.csv.

Writes tracks.csv, report.json, and three splits of the tracks that were listened to: splits/track.csv by a hash of the id;
artist.csv by whole artists (albums where there is none; artists of an album with tracks of nobody stay together); time.csv by release (`released`, a date or a year; else the first
play). [split] in `debut status --settings` has the shares and the seed.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The tracks' audio: a manifest with ids, or a folder.
    #[arg(long, value_name = "DIR|MANIFEST")]
    audio: PathBuf,

    /// What people did.
    #[arg(long, value_name = "EVENTS")]
    events: PathBuf,

    /// Where the data set goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// 30 s windows of each track to learn from, spread evenly.
    #[arg(long, value_name = "N", default_value_t = 1)]
    windows: usize,

    /// Where spectrograms are kept.
    #[arg(long, value_name = "DIR", default_value = "runs/spectrograms")]
    cache: PathBuf,

    /// Hears again what could not be heard before.
    #[arg(long)]
    retry: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let config = &context.config;
    config.split.check()?;
    let inputs: Vec<Result<Input>> = if args.audio.is_dir() {
        walk(&args.audio).collect()
    } else {
        read_manifest(&args.audio)?.into_iter().map(Ok).collect()
    };
    let known = if args.retry { Vec::new() } else { read_failures(&args.out)? };
    let mut listened_to = ListenedTo::new(&config.events)?;
    read_reported(&args.events, &config.events, &mut |event| listened_to.push(&event))?;

    let listening = Listening { segments: args.windows, ..config.listen.clone() };
    let front_end = FrontEnd::default();
    let cache = SpectrogramCache::open(&args.cache, &front_end, EXCERPT_FRAMES, &listening)?;
    let given = inputs.len() as u64;
    let bar = progress(given, "listening");
    let hearing = hear_all(inputs, &cache, &known, &context.stop, &|| bar.inc(1));
    bar.finish_and_clear();
    let hearing = hearing?;
    if hearing.stopped {
        let mut failures = hearing.failures;
        let not_met: Vec<_> = known.into_iter().filter(|old| failures.iter().all(|new| new.path != old.path)).collect();
        failures.extend(not_met);
        write_failures(&args.out, &failures)?;
        eprintln!("stopped; what was heard is in {}, and the same command goes on from there", args.cache.display());
        return Err(Error::Interrupted);
    }
    for failure in &hearing.failures {
        tracing::warn!("{}: {}", failure.path.display(), failure.reason);
    }
    let settings = Settings {
        out: &args.out,
        cache: &args.cache,
        front_end: &front_end,
        windows: args.windows,
        split: &config.split,
        given,
    };
    let report = prepare(hearing, listened_to, &settings)?;
    if context.json {
        print_json(&report)?;
    } else {
        print_line(&report.to_string())?;
        print_line(&format!("\n{} in {}", count(report.heard, "track"), args.out.display()))?;
    }
    Ok(exit_code(report.failed))
}
