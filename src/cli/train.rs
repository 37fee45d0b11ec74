use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ndarray::{Array2, ArrayViewMut2};
use rayon::prelude::*;
use serde_json::json;

use super::labels::{self, Labelled};
use super::watch::{Begin, check_recipe, watched};
use super::{Context, count, exit_code, print_json, print_line, progress};
use crate::artefact::{content_hash, write_toml};
use crate::audio::cache::{CachedKey, SpectrogramCache};
use crate::audio::{EXCERPT_FRAMES, FrontEnd, Listening};
use crate::cli::handover::write_space;
use crate::encoder::dataset::copy_crop;
use crate::encoder::{Lesson, Model, ModelConfig, Objective, Spectrograms, start_from};
use crate::error::{Error, Result};
use crate::eval::split;
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut train --factors factors --audio tracks.csv --out runs/mine
  debut train --factors factors --audio ~/Music --out runs/mine --set train.epochs=100 --set train.batch_size=64
  debut train --config recipe.toml --factors factors --audio tracks.csv --out runs/mine --init runs/pre
  debut train --factors factors --audio tracks.csv --out runs/half --labelled 0.5 --teacher runs/mine

Tracks meet their factors by id: the manifest's, or the content hash where --audio is a folder. Spectrograms are kept in
--cache, so a second run starts at once. The run folder holds metrics.jsonl, curve.svg, curves for TensorBoard,
checkpoints, and the model: model.toml, model.safetensors (16-bit), space.json. A run that was stopped, at any moment and
in any way, goes on with the same command and ends with the same numbers.";

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

    /// Begin with the weights of this run (such as `debut pretrain` makes) or model; the output layer is fresh.
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,

    /// Learn from these of the training tracks only: a share, chosen by a hash of their ids (a larger one holds a smaller),
    /// or a file with an id a line.
    #[arg(long, value_name = "SHARE|FILE")]
    labelled: Option<Labelled>,

    /// Give the other training tracks this model's predictions as targets.
    #[arg(long, value_name = "MODEL", requires = "labelled")]
    teacher: Option<PathBuf>,

    /// How much such a target counts; 1 is as much as one that was learned from very many listeners.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.5, requires = "teacher", value_parser = labels::weight)]
    teacher_weight: f32,

    #[command(flatten)]
    run: Begin,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    let config = &context.config;
    check_recipe(&context)?;
    let factors = Factors::load(&args.factors)?;
    if factors.dimensions() != config.encoder.dimensions {
        return Err(Error::mismatch(
            "the factors and encoder.dimensions",
            factors.dimensions(),
            config.encoder.dimensions,
        ));
    }
    args.run.check(&args.out)?;
    let start = args.init.as_deref().map(|dir| start_from(dir, &config.encoder, config.train.seed)).transpose()?;
    let teacher = args.teacher.as_deref().map(|dir| labels::teacher(dir, &factors)).transpose()?;
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
    let mut targets =
        Array2::from_shape_fn((joined.len(), factors.dimensions()), |(i, j)| factors.track_factors[(joined[i].1, j)]);
    let mut weights: Vec<f32> = joined.iter().map(|&(_, row)| config.train.evidence(factors.plays[row])).collect();
    let tracks = joined.iter().map(|&(track, _)| track).collect();
    let audio = Joined { heard: &heard, tracks };
    let is_valid = |i: usize| split(&heard.tracks[joined[i].0], config.train.seed ^ 0x76616c) < args.validation;
    let (valid, mut training): (Vec<usize>, Vec<usize>) = (0..joined.len()).partition(|&i| is_valid(i));
    let mut taught = 0;
    if let Some(labelled) = &args.labelled {
        let names: Vec<&TrackId> = training.iter().map(|&i| &heard.tracks[joined[i].0]).collect();
        let is_labelled = labelled.among(&names, config.train.seed)?;
        let others = training.iter().zip(&is_labelled).filter(|(_, labelled)| !**labelled).map(|(&i, _)| i);
        let others: Vec<usize> = others.collect();
        if let Some(teacher) = &teacher {
            labels::teach(teacher, &audio, &others, targets.view_mut(), &context)?;
            others.iter().for_each(|&i| weights[i] = args.teacher_weight);
            taught = others.len();
        } else {
            let others: HashSet<usize> = others.into_iter().collect();
            training.retain(|i| !others.contains(i));
        }
    }
    if !context.json {
        print_line(&format!(
            "{} to learn from{} and {} to judge by; {} without a factor, {failed} could not be heard",
            count(training.len() as u64, "track"),
            if taught > 0 { format!(" ({taught} of them with the teacher's predictions)") } else { String::new() },
            valid.len(),
            heard.tracks.len() - joined.len(),
        ))?;
    }
    let lesson = Lesson {
        spectrograms: &audio,
        objective: Objective::Targets { targets: targets.view(), weights: &weights },
        train: &training,
        valid: &valid,
        start: start.as_ref(),
    };
    let trained = watched(&lesson, &args.out, args.run.fresh, "training", &context)?;
    let name = args.name.clone().or_else(|| args.out.file_name().map(|n| n.to_string_lossy().into_owned()));
    let mut facts = vec![
        ("tracks", training.len().to_string()),
        ("validation_tracks", valid.len().to_string()),
        ("windows", args.windows.to_string()),
        ("epochs", trained.epochs.len().to_string()),
        ("best_epoch", trained.best.epoch.to_string()),
        ("seconds", format!("{:.0}", started.elapsed().as_secs_f64())),
    ];
    if taught > 0 {
        facts.push(("pseudo_labelled_tracks", taught.to_string()));
    }
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
    keys: Vec<CachedKey>,
    cache: SpectrogramCache,
    pub windows: usize,
}

impl HeardTracks {
    /// `[EXCERPT_FRAMES, mel_bands]` of one window of one track.
    pub fn load(&self, track: usize, window: usize) -> Result<Array2<f32>> {
        self.cache.load_window(&self.keys[track], window)
    }
}

/// Hears every track that the cache does not know yet, on all cores; says on standard error which could not be heard.
pub fn hear_tracks(audio: &Path, cache: &Path, windows: usize, context: &Context) -> Result<(HeardTracks, u64)> {
    let inputs: Vec<Result<Input>> =
        if audio.is_dir() { walk(audio).collect() } else { read_manifest(audio)?.into_iter().map(Ok).collect() };
    let listening = Listening { segments: windows, ..context.config.listen.clone() };
    let cache = SpectrogramCache::open(cache, &FrontEnd::default(), EXCERPT_FRAMES, &listening)?;
    let bar = progress(inputs.len() as u64, "listening");
    let heard: Vec<Result<(TrackId, Input, CachedKey)>> = inputs
        .into_par_iter()
        .map(|input| {
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let input = input?;
            let key = cache.get_or_hear(&input.path)?;
            let id = match &input.id {
                Some(id) => id.clone(),
                None => TrackId::new(content_hash(&input.path)?)?,
            };
            bar.inc(1);
            Ok((id, input, key))
        })
        .collect();
    bar.finish_and_clear();
    let mut found = HeardTracks { tracks: Vec::new(), inputs: Vec::new(), keys: Vec::new(), cache, windows };
    let mut failed = 0;
    for one in heard {
        match one {
            Ok((id, input, key)) => {
                found.tracks.push(id);
                found.inputs.push(input);
                found.keys.push(key);
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

/// Those of the heard tracks that are trained on.
pub struct Joined<'a> {
    pub heard: &'a HeardTracks,
    pub tracks: Vec<usize>,
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

    fn load(&self, track: usize, window: usize, first: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
        copy_crop(self.heard.load(self.tracks[track], window)?.view(), first, crop)
    }
}
