use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ndarray::Array2;
use rayon::prelude::*;
use serde_json::json;

use super::{Context, count, exit_code, print_json, print_line, progress};
use crate::artefact::write_toml;
use crate::audio::{EXCERPT_FRAMES, FrontEnd, Listening, SpectrogramCache};
use crate::cli::handover::write_space;
use crate::encoder::{Model, ModelConfig, Spectrograms, train};
use crate::error::{Error, Result};
use crate::eval::split;
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut train --factors factors --audio tracks.csv --out runs/mine
  debut train --factors factors --audio ~/Music --out runs/mine --set train.epochs=100 --set train.batch_size=64

Tracks meet their factors by id: the manifest's, or the content hash where --audio is a folder. Spectrograms are kept in
--cache, so a second run starts at once. The run folder holds metrics.jsonl, curve.svg, checkpoints, and the model:
model.toml, model.safetensors (16-bit), space.json.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `debut factorize` made: the targets.
    #[arg(long, value_name = "DIR")]
    factors: PathBuf,

    /// The tracks' audio: a manifest with ids, or a folder.
    #[arg(long, value_name = "DIR|MANIFEST")]
    audio: PathBuf,

    /// Where the run, and the model, go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Where spectrograms are kept.
    #[arg(long, value_name = "DIR", default_value = "runs/spectrograms")]
    cache: PathBuf,

    /// The model's name; the last part of --out where none is given.
    #[arg(long)]
    name: Option<String>,

    /// Share of the tracks that judge each epoch, chosen by a hash of their ids.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    validation: f64,

    /// 30 s windows of each track to learn from, spread evenly.
    #[arg(long, value_name = "N", default_value_t = 1)]
    windows: usize,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    let config = &context.config;
    let factors = Factors::load(&args.factors)?;
    if factors.dimensions() != config.encoder.dimensions {
        return Err(Error::mismatch(
            "the factors and encoder.dimensions",
            factors.dimensions(),
            config.encoder.dimensions,
        ));
    }
    let (heard, failed) = hear_tracks(&args.audio, &args.cache, args.windows, &context)?;
    let rows: Ids<TrackId> = factors.tracks.iter().cloned().collect();
    let joined: Vec<(usize, usize)> = (heard.tracks.iter().enumerate())
        .filter_map(|(track, id)| Some((track, rows.number(id)? as usize)))
        .filter(|&(_, row)| factors.track_factors.row(row).iter().any(|v| *v != 0.0))
        .collect();
    if joined.is_empty() {
        return Err(Error::mismatch(
            format!("ids of {} and {}", args.factors.display(), args.audio.display()),
            "tracks in both",
            "none",
        ));
    }
    let targets =
        Array2::from_shape_fn((joined.len(), factors.dimensions()), |(i, j)| factors.track_factors[(joined[i].1, j)]);
    // A factor learned from few listeners is noise for a target: its weight grows with them, and halves at ten.
    let weights: Vec<f32> = joined.iter().map(|&(_, row)| factors.plays[row] as f32).map(|n| n / (n + 10.0)).collect();
    let audio = Joined { heard: &heard, tracks: joined.iter().map(|&(track, _)| track).collect() };
    let is_valid = |i: usize| split(&heard.tracks[joined[i].0], config.train.seed ^ 0x76616c) < args.validation;
    let (valid, training): (Vec<usize>, Vec<usize>) = (0..joined.len()).partition(|&i| is_valid(i));
    if !context.json {
        print_line(&format!(
            "{} to learn from and {} to judge by; {} without a factor, {failed} could not be heard",
            count(training.len() as u64, "track"),
            valid.len(),
            heard.tracks.len() - joined.len(),
        ))?;
    }
    let bar = progress(config.train.epochs as u64, "training");
    let mut printed = Ok(());
    let trained = train(
        &config.train,
        &config.encoder,
        &audio,
        targets.view(),
        &weights,
        &training,
        &valid,
        &args.out,
        &mut |epoch| {
            bar.inc(1);
            if context.json {
                printed = print_json(epoch);
            } else {
                bar.set_message(format!(
                    "loss {:.4}, validation {:.4}, cosine {:.4}",
                    epoch.train_loss, epoch.valid_loss, epoch.valid_cosine
                ));
                tracing::info!(
                    "epoch {}: loss {:.4}, validation {:.4}, cosine {:.4}",
                    epoch.epoch,
                    epoch.train_loss,
                    epoch.valid_loss,
                    epoch.valid_cosine
                );
            }
            if printed.is_err() || context.stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    bar.finish_and_clear();
    printed?;
    if !trained.finished {
        eprintln!("stopped after epoch {}; the same command goes on from there", trained.epochs.len());
        return Err(Error::Interrupted);
    }
    let name = args.name.clone().or_else(|| args.out.file_name().map(|n| n.to_string_lossy().into_owned()));
    let facts = [
        ("tracks", training.len().to_string()),
        ("validation_tracks", valid.len().to_string()),
        ("windows", args.windows.to_string()),
        ("epochs", trained.epochs.len().to_string()),
        ("best_epoch", trained.best.epoch.to_string()),
        ("seconds", format!("{:.0}", started.elapsed().as_secs_f64())),
    ];
    let model_config = ModelConfig {
        name: name.unwrap_or_else(|| "model".into()),
        space: factors.space.clone(),
        typical_norm: factors.typical_norm(),
        weights: String::new(),
        space_json: write_space(&args.out, &factors.space())?,
        encoder: config.encoder.clone(),
        front_end: FrontEnd::default(),
        training: facts.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        scores: [("validation_cosine".to_string(), trained.best.valid_cosine)].into(),
    };
    write_toml(&args.out.join("config.toml"), config)?;
    let model = Model::new(model_config, &trained.weights)?;
    model.save(&args.out)?;
    if context.json {
        print_json(
            &json!({ "model": model.id(), "out": args.out.to_string_lossy(), "seconds": started.elapsed().as_secs_f64() }),
        )?;
    } else {
        print_line(&format!(
            "{} in {}: best at epoch {} of {}, validation cosine {:.4}, {:.0} s",
            model.id(),
            args.out.display(),
            trained.best.epoch,
            trained.epochs.len(),
            trained.best.valid_cosine,
            started.elapsed().as_secs_f64()
        ))?;
    }
    Ok(exit_code(failed))
}

/// Tracks whose spectrograms are in the cache.
pub struct HeardTracks {
    pub tracks: Vec<TrackId>,
    /// What the manifest says of each: the artist and album, for the baselines.
    pub inputs: Vec<Input>,
    contents: Vec<String>,
    cache: SpectrogramCache,
    pub windows: usize,
}

impl HeardTracks {
    /// `[EXCERPT_FRAMES, mel_bands]` of one window of one track.
    pub fn load(&self, track: usize, window: usize) -> Result<Array2<f32>> {
        self.cache.load_window(&self.contents[track], window)
    }
}

/// Hears every track that the cache does not know yet, on all cores; says on standard error which could not be heard.
pub fn hear_tracks(audio: &Path, cache: &Path, windows: usize, context: &Context) -> Result<(HeardTracks, u64)> {
    let inputs: Vec<Result<Input>> =
        if audio.is_dir() { walk(audio).collect() } else { read_manifest(audio)?.into_iter().map(Ok).collect() };
    let listening = Listening { segments: windows, ..context.config.listen.clone() };
    let cache = SpectrogramCache::open(cache, &FrontEnd::default(), EXCERPT_FRAMES, &listening)?;
    let bar = progress(inputs.len() as u64, "listening");
    let heard: Vec<Result<(TrackId, Input, String)>> = inputs
        .into_par_iter()
        .map(|input| {
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let input = input?;
            let content = cache.get_or_hear(&input.path)?;
            let id = match &input.id {
                Some(id) => id.clone(),
                None => TrackId::new(content.clone())?,
            };
            bar.inc(1);
            Ok((id, input, content))
        })
        .collect();
    bar.finish_and_clear();
    let mut found = HeardTracks { tracks: Vec::new(), inputs: Vec::new(), contents: Vec::new(), cache, windows };
    let mut failed = 0;
    for one in heard {
        match one {
            Ok((id, input, content)) => {
                found.tracks.push(id);
                found.inputs.push(input);
                found.contents.push(content);
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => {
                failed += 1;
                tracing::warn!("{e}");
            }
        }
    }
    Ok((found, failed))
}

/// The heard tracks that have a factor.
struct Joined<'a> {
    heard: &'a HeardTracks,
    tracks: Vec<usize>,
}

impl Spectrograms for Joined<'_> {
    fn len(&self) -> usize {
        self.tracks.len()
    }

    fn windows(&self) -> usize {
        self.heard.windows
    }

    fn frames(&self) -> usize {
        EXCERPT_FRAMES
    }

    fn mel_bands(&self) -> usize {
        FrontEnd::default().mel_bands
    }

    fn load(&self, track: usize, window: usize) -> Result<Array2<f32>> {
        self.heard.load(self.tracks[track], window)
    }
}
