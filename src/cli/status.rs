use std::process::ExitCode;

use serde_json::json;

use super::{Context, count, print_json, print_line};
use crate::error::{Error, Result};
use crate::store::{Store, Track};

const EXAMPLES: &str = "\
Examples:
  debut status                                   how many tracks, listeners and failures; which models predicted
  debut status --tracks | grep -i 'so what'      the id that `debut recommend --track` takes";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Lists the tracks, one a line, by their ids.
    #[arg(long, conflicts_with = "settings")]
    tracks: bool,

    /// Prints the settings in force, as a file for --config.
    #[arg(long)]
    settings: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    if args.settings {
        let text = toml::to_string_pretty(&context.config).map_err(|e| Error::invalid("settings", "TOML", e))?;
        print_line(text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = Store::read(&context.catalogue)?;
    if args.tracks {
        store.for_each_track(&mut |_, track| print_track(&track, context.json))?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = store.status()?;
    if context.json {
        print_json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_line(&format!("catalogue  {} ({:.1} MB)", context.catalogue.display(), status.bytes as f64 / 1e6))?;
    print_line(&format!(
        "tracks     {}: {} predicted from sound, {} handed over to plays, {} known from plays alone",
        status.tracks, status.predicted, status.handed_over, status.learned
    ))?;
    print_line(&format!("listeners  {}", status.listeners))?;
    print_line(&format!("failures   {}", count(status.failures, "file")))?;
    if let (Some(space), Some(d)) = (&status.space, status.dimensions) {
        print_line(&format!("space      {space}, {d} dimensions"))?;
    }
    if status.without_vector > 0 {
        let n = count(status.without_vector, "track");
        print_line(&format!(
            "missing    {n} without a vector in this space (`debut ingest` or `debut handover` makes it)"
        ))?;
    }
    if let Some(previous) = &status.previous_space {
        print_line(&format!("kept       the generation before, in {previous}: `debut reindex --back` serves it"))?;
    }
    for (model, windows, n) in &status.models {
        let windows = count(u64::from(*windows), "window");
        print_line(&format!("model      {model}, {windows} of each track: {}", count(*n, "track")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_track(track: &Track, as_json: bool) -> Result<()> {
    let path = track.path.as_ref().map(|p| p.to_string_lossy());
    if as_json {
        return print_json(&json!({
            "track": track.id, "title": track.info.title, "artist": track.info.artist, "path": path,
            "seconds": track.seconds, "source": track.source, "plays": track.plays, "model": track.model,
            "windows": track.windows,
        }));
    }
    let words = [&track.info.title, &track.info.artist].into_iter().flatten().map(String::as_str);
    print_line(&[track.id.as_str()].into_iter().chain(words).chain(path.as_deref()).collect::<Vec<_>>().join("  "))
}
