use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ndarray::{Array2, ArrayViewMut2};
use serde_json::json;

use super::calibrate::{Tracks, calibrate};
use super::evaluate::sounds;
use super::factorize::split_of;
use super::labels::{self, Labelled};
use super::watch::{Begin, check_recipe, watched};
use super::{Context, count, print_json, print_line};
use crate::artefact::write_toml;
use crate::cli::handover::write_space;
use crate::data::DataSet;
use crate::encoder::loss::Loss;
use crate::encoder::{Lesson, Model, ModelConfig, Objective, Spectrograms, check_name, held_out_hash, start_from};
use crate::error::{Error, Result};
use crate::eval::{self, Part};
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::store::TrackInfo;

const EXAMPLES: &str = "\
Examples:
  debut prepare --audio tracks.csv --events plays.parquet --out data
  debut factorize plays.parquet --split data/splits/artist.csv --out factors
  debut train --data data --factors factors --out runs/mine --set train.epochs=100 --set train.batch_size=64
  debut train --config recipe.toml --data data --factors factors --out runs/mine --init runs/pre
  debut train --data data --factors factors --out runs/mine --device wgpu --set train.batch_size=128
  debut train --data data --factors factors --out runs/half --labelled 0.5
  debut train --data data --factors factors --out runs/taught --labelled 0.5 --teacher runs/half

Learns from the tracks of the data set that have a factor. Those by which the epochs are judged are the valid ones of the
split that the factors were made with. The run folder holds metrics.jsonl, curve.svg, curves for TensorBoard, checkpoints,
and the model: model.toml, model.safetensors (16-bit), space.json. A run that was stopped, at any moment and in any way,
goes on with the same command; on the CPU it ends with the same numbers. A GPU is compared with the CPU on a first gradient, and
refused where they differ.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `debut factorize` made: the targets.
    #[arg(long, value_name = "DIR")]
    factors: PathBuf,

    /// What `debut prepare` made: the tracks.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where the run, and the model, go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The model's name; the last part of --out where none is given.
    #[arg(long)]
    name: Option<String>,

    /// Share of the tracks that judge each epoch, chosen by a hash of their ids, where the factors were made without a split
    /// [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,

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
    check_recipe(args.run.device, &context)?;
    let factors = Factors::load(&args.factors)?;
    if factors.dimensions() != config.encoder.dimensions {
        return Err(Error::mismatch(
            "the factors and encoder.dimensions",
            factors.dimensions(),
            config.encoder.dimensions,
        ));
    }
    let split = split_of(&args.factors, &factors)?;
    if let (Some(split), Some(share)) = (&split, args.validation) {
        let what = format!("--validation of factors with a split ({})", split.made);
        return Err(Error::invalid(what, "none: the split has tracks to judge by", share));
    }
    let name = args.name.clone().or_else(|| args.out.file_name().map(|n| n.to_string_lossy().into_owned()));
    let name = name.unwrap_or_else(|| "model".into());
    check_name(&name)?;
    args.run.check(&args.out)?;
    let start = args.init.as_deref().map(|dir| start_from(dir, &config.encoder, config.train.seed)).transpose()?;
    let teacher = args.teacher.as_deref().map(|dir| labels::teacher(dir, &factors)?.on(args.run.device)).transpose()?;
    let data = DataSet::open(&args.data, &config.listen)?;
    let rows: Ids<TrackId> = factors.tracks.iter().cloned().collect();
    let joined: Vec<(usize, usize)> = (data.tracks.iter().enumerate())
        .filter_map(|(track, id)| Some((track, rows.number(id)? as usize)))
        .filter(|&(_, row)| factors.track_factors.row(row).iter().any(|v| *v != 0.0))
        .collect();
    if joined.is_empty() {
        return Err(Error::mismatch(
            format!("ids of {} and {}", args.factors.display(), args.data.display()),
            "tracks in both",
            "none",
        ));
    }
    let mut targets =
        Array2::from_shape_fn((joined.len(), factors.dimensions()), |(i, j)| factors.track_factors[(joined[i].1, j)]);
    let mut weights: Vec<f32> = joined.iter().map(|&(_, row)| config.train.evidence(factors.plays[row])).collect();
    let audio = Joined { data: &data, tracks: joined.iter().map(|&(track, _)| track).collect() };
    let share = args.validation.unwrap_or(0.1);
    let is_valid = |i: usize| {
        let id = &data.tracks[joined[i].0];
        match &split {
            Some(split) => split.is(id, Part::Valid),
            None => eval::split(id, config.train.seed ^ 0x76616c) < share,
        }
    };
    let (valid, mut training): (Vec<usize>, Vec<usize>) = (0..joined.len()).partition(|&i| is_valid(i));
    let mut others = HashSet::new();
    if let Some(labelled) = &args.labelled {
        let names: Vec<&TrackId> = training.iter().map(|&i| &data.tracks[joined[i].0]).collect();
        let is_labelled = labelled.among(&names, config.train.seed)?;
        others = training.iter().zip(&is_labelled).filter(|(_, labelled)| !**labelled).map(|(&i, _)| i).collect();
    }
    let labelled: Vec<usize> = training.iter().copied().filter(|i| !others.contains(i)).collect();
    let mut taught = 0;
    match &teacher {
        Some(teacher) => {
            let others: Vec<usize> = training.iter().copied().filter(|i| others.contains(i)).collect();
            labels::teach(teacher, &audio, &others, targets.view_mut(), &context)?;
            others.iter().for_each(|&i| weights[i] = args.teacher_weight);
            taught = others.len();
        }
        None => training.clone_from(&labelled),
    }
    if !context.json {
        print_line(&format!(
            "{} to learn from{} and {} to judge by; {} without a factor",
            count(training.len() as u64, "track"),
            if taught > 0 { format!(" ({taught} of them with the teacher's predictions)") } else { String::new() },
            valid.len(),
            data.tracks.len() - joined.len(),
        ))?;
    }
    let lesson = Lesson {
        spectrograms: &audio,
        objective: Objective::Targets { targets: targets.view(), weights: &weights },
        train: &training,
        valid: &valid,
        start: start.as_ref(),
    };
    let trained = watched(&lesson, &args.out, &args.run, "training", &context)?;
    let mut facts = vec![
        ("tracks", training.len().to_string()),
        ("validation_tracks", valid.len().to_string()),
        ("windows", data.windows.to_string()),
        ("epochs", trained.epochs.len().to_string()),
        ("best_epoch", trained.best.epoch.to_string()),
        ("seconds", format!("{:.0}", started.elapsed().as_secs_f64())),
    ];
    if let Some(asked) = &args.labelled {
        facts.push(("labelled", asked.to_string()));
        facts.push(("labelled_tracks", labelled.len().to_string()));
    }
    if let Some(init) = &args.init {
        facts.push(("init", init.display().to_string()));
    }
    if let Some(teacher) = &teacher {
        facts.push(("teacher", teacher.id()));
        facts.push(("teacher_weight", args.teacher_weight.to_string()));
    }
    if taught > 0 {
        facts.push(("pseudo_labelled_tracks", taught.to_string()));
    }
    let model_config = ModelConfig {
        name,
        space: factors.space.clone(),
        typical_norm: factors.typical_norm(),
        weights: String::new(),
        space_json: write_space(&args.out, &factors.space())?,
        encoder: config.encoder.clone(),
        front_end: data.front_end().clone(),
        artist: None,
        confidence: Vec::new(),
        held_out: held_out_hash(&factors.held_out),
        training: facts.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        scores: [("validation_cosine".to_string(), trained.best.valid_cosine)].into(),
    };
    write_toml(&args.out.join("config.toml"), config)?;
    let on_cpu = |why| {
        tracing::warn!("the trained network is asked on the CPU: {why}");
        Model::new(model_config.clone(), &trained.weights)
    };
    let mut model = Model::new(model_config.clone(), &trained.weights)?.on(args.run.device).or_else(on_cpu)?;
    let infos: Vec<&TrackInfo> = joined.iter().map(|&(track, _)| &data.inputs[track].info).collect();
    let listeners: Vec<u32> = joined.iter().map(|&(_, row)| factors.plays[row]).collect();
    let tracks = Tracks {
        infos: &infos,
        targets: targets.view(),
        weights: &weights,
        listeners: &listeners,
        training: &labelled,
        validation: &valid,
        half_evidence: config.train.half_evidence as f32,
        lengths_tell: config.train.loss == Loss::Mse,
    };
    // As ingestion hears tracks unless it is told otherwise, and as thoroughly as there are windows.
    let judges: Vec<usize> = valid.iter().map(|&i| joined[i].0).collect();
    let mut said = vec![(1, sounds(&model, &data, &judges, 1)?)];
    if data.windows > 1 {
        said.push((data.windows, sounds(&model, &data, &judges, data.windows)?));
    }
    let calibrated = calibrate(&tracks, &said)?;
    model.config.artist = calibrated.head;
    model.config.confidence = calibrated.confidence;
    let (alone, joined_with) = calibrated.cosines;
    model.config.training.insert("validation_cosine_with_artist".into(), format!("{joined_with:.4} (fitted there)"));
    if !context.json {
        print_line(&format!(
            "{} of {} validation tracks have an artist with other songs: cosine {alone:.4} by the sound alone, {joined_with:.4} with them",
            calibrated.with_songs,
            valid.len()
        ))?;
    }
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
    Ok(ExitCode::SUCCESS)
}

/// The tracks of a data set that are trained on.
pub struct Joined<'a> {
    pub data: &'a DataSet,
    pub tracks: Vec<usize>,
}

impl Spectrograms for Joined<'_> {
    fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.data.front_end().id().as_bytes());
        for &track in &self.tracks {
            hasher.update(b"\n").update(self.data.content(track).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn name(&self, track: usize) -> String {
        let track = self.tracks[track];
        format!("{} ({})", self.data.tracks[track], self.data.inputs[track].path.display())
    }

    fn len(&self) -> usize {
        self.tracks.len()
    }

    fn windows(&self) -> usize {
        self.data.windows
    }

    fn frames(&self) -> usize {
        self.data.frames()
    }

    fn mel_bands(&self) -> usize {
        self.data.front_end().mel_bands
    }

    fn load(&self, track: usize, window: usize, first: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
        self.data.read_crop(self.tracks[track], window, first, crop)
    }
}
