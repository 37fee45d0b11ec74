use std::process::ExitCode;

use super::{Context, count, print_json, print_line};
use crate::error::{Error, Result};
use crate::store::Store;

#[derive(clap::Args, Debug)]
pub struct Args {
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
    let status = Store::read(&context.catalogue)?.status()?;
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
    for (model, windows, n) in &status.models {
        let windows = count(u64::from(*windows), "window");
        print_line(&format!("model      {model}, {windows} of each track: {}", count(*n, "track")))?;
    }
    Ok(ExitCode::SUCCESS)
}
