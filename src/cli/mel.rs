use std::path::PathBuf;
use std::process::ExitCode;

use super::{Context, print_json, print_line};
use crate::audio::{EXCERPT_FRAMES, FrontEnd, LogMel, excerpt, write_wav};
use crate::error::{Error, Result};
use crate::plot::spectrogram_png;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  debut mel song.mp3 --out song.npy      float32 [599, 128]: frames of 46 ms, mel bands from 0 to 11,025 Hz
  debut mel song.mp3 --out song.png      the same as a picture
  debut mel song.mp3 --wav heard.wav     the 27.9 s that the network hears, mono at 22,050 Hz";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An audio file.
    path: PathBuf,

    /// Where the log-mel spectrogram goes; .npy or .png.
    #[arg(long, required_unless_present = "wav")]
    out: Option<PathBuf>,

    /// Where the excerpt goes, as 32-bit float WAV.
    #[arg(long)]
    wav: Option<PathBuf>,

    /// The whole 30 s that training crops from (645 frames), instead of the 599 frames that the network sees.
    #[arg(long)]
    whole: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let front_end = FrontEnd::default();
    let frames = if args.whole { EXCERPT_FRAMES } else { front_end.frames };
    let heard = excerpt(&args.path, front_end.sample_rate, front_end.samples(frames), 0.5, &context.config.listen)?;
    let mel = LogMel::new(&front_end).compute(&heard.samples);
    if let Some(out) = &args.out {
        match out.extension().and_then(|e| e.to_str()) {
            Some("npy") => super::write_npy(out, &mel)?,
            Some("png") => spectrogram_png(out, mel.view(), 2)?,
            _ => return Err(Error::unsupported(out, "a name ending in .npy or .png", "another")),
        }
    }
    if let Some(wav) = &args.wav {
        write_wav(wav, &heard.samples, front_end.sample_rate)?;
    }
    if context.json {
        print_json(&json!({
            "path": args.path.to_string_lossy(), "shape": mel.shape(), "start_seconds": heard.start_seconds,
            "seconds": heard.seconds, "tiled": heard.tiled, "codec": heard.codec, "sample_rate": heard.source_rate,
            "channels": heard.channels,
        }))?;
    } else {
        print_line(&format!(
            "{}: {} at {} Hz, {} channel(s){}; {} frames from {:.2} s{}",
            args.path.display(),
            heard.codec,
            heard.source_rate,
            heard.channels,
            heard.seconds.map_or(String::new(), |s| format!(", {s:.2} s")),
            mel.nrows(),
            heard.start_seconds,
            if heard.tiled { ", repeated to fill the window" } else { "" }
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
