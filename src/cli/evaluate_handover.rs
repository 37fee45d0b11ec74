use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use ndarray::{Array2, Axis};
use serde_json::json;

use super::evaluate::{hears_alike, held_out_events, network};
use super::evaluate_model::require_held_out;
use super::{Context, model_folder, print_json, print_line};
use crate::artefact::atomic_write;
use crate::data::DataSet;
use crate::encoder::Model;
use crate::error::{Error, Result};
use crate::eval::{ColdStart, PathPoint, PathSettings, handover_path, split};
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::plot::{Chart, Series};

const EXAMPLES: &str = "\
Example:
  debut evaluate handover --model runs/mine --factors factors --events events.csv --data data --svg path.svg

The held-out tracks show their first 0, 1, 2, 5, ... listeners (of the half that reveals what it thought of them). With each
number, how well do their vectors rank them for the other half of the listeners: the prediction alone, what the plays alone
teach, a hard switch from one to the other, and the hand-over? The settings are measured on half of the held-out tracks (the
length that predictions deserve; the rest by the mean NDCG over the numbers of listeners), the scores are of the other half.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Factors made with --split or --hold-out.
    #[arg(long, value_name = "DIR")]
    factors: PathBuf,

    /// The events that the factors were made from.
    #[arg(long, value_name = "EVENTS")]
    events: PathBuf,

    /// What `debut prepare` made: the tracks.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// The numbers of listeners.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [0, 1, 2, 5, 10, 20, 50, 200])]
    listeners: Vec<usize>,

    /// The length of each listener's list.
    #[arg(short, default_value_t = 10)]
    k: usize,

    /// Draws the curves.
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let model = Model::load(&model_folder(args.model.as_deref())?)?;
    let factors = Factors::load(&args.factors)?;
    factors.space.require("the factors' space and the model's", &model.config.space)?;
    require_held_out(&factors, &model.config)?;
    if factors.held_out.is_empty() {
        return Err(Error::invalid(
            args.factors.display(),
            "factors made with --split or --hold-out",
            "no track held out",
        ));
    }
    let heard = DataSet::open(&args.data, &context.config.listen)?;
    hears_alike(&model, &args.data, &heard)?;
    let all = held_out_events(&args.factors, &factors, &args.events, &context)?;
    let place: HashMap<&TrackId, usize> = heard.tracks.iter().enumerate().map(|(i, id)| (id, i)).collect();
    let held: Ids<TrackId> = factors.held_out.iter().cloned().collect();
    // Another hash than those of the splits before.
    let seed = factors.config.seed ^ 0x7061_7468;
    let half = |tuning: bool| -> Result<(ColdStart, Array2<f32>)> {
        let mine =
            |id: &TrackId| held.number(id).is_some() && place.contains_key(id) && (split(id, seed) < 0.5) == tuning;
        let task = ColdStart::new(&factors, &all.retain_tracks(mine), factors.config.seed)?;
        let at: Vec<usize> = task.tracks.iter().map(|id| place[id]).collect();
        let predicted = network(&model, &heard, &at, 1)?;
        Ok((task, predicted))
    };
    let (task, predicted) = half(true)?;
    let settings = PathSettings::tuned(&task, &factors, predicted.view(), &args.listeners, args.k)?;
    let (task, predicted) = half(false)?;
    let path = handover_path(&task, &factors, predicted.view(), &args.listeners, &settings, args.k)?;

    if let Some(svg) = &args.svg {
        let picture = chart(&path, args.k).svg();
        atomic_write(svg, |out| std::io::Write::write_all(out, picture.as_bytes()))?;
    }
    let tracks = predicted.len_of(Axis(0));
    if context.json {
        print_json(&json!({"tracks": tracks, "settings": settings, "path": path}))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_line(&format!(
        "{tracks} new tracks, {} listeners; NDCG@{} ± standard error. Chosen on as many other tracks:\n\
         --set handover.prediction_length={:.2} --set handover.half_exposure={}; the hard switch falls at {} listeners.\n",
        path.first().map_or(0, |point| point.content.users),
        args.k,
        settings.handover.prediction_length,
        settings.handover.half_exposure,
        settings.switch_at
    ))?;
    print_line("| listeners | prediction | plays alone | hard switch | hand-over |")?;
    print_line("|---|---|---|---|---|")?;
    for point in &path {
        let cells = methods(point).map(|(_, scores)| format!("{:.4} ± {:.4}", scores.ndcg.mean, scores.ndcg.se));
        print_line(&format!("| {} (mean {:.1}) | {} |", point.listeners, point.mean_listeners, cells.join(" | ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn methods(point: &PathPoint) -> [(&'static str, &crate::eval::ColdStartScores); 4] {
    [
        ("prediction", &point.content),
        ("plays alone", &point.learned),
        ("hard switch", &point.switch),
        ("hand-over", &point.handover),
    ]
}

fn chart(path: &[PathPoint], k: usize) -> Chart {
    let series = (0..4).filter_map(|method| {
        let (name, _) = methods(path.first()?)[method];
        let points = path.iter().map(|point| ((1.0 + point.mean_listeners).log2(), methods(point)[method].1.ndcg.mean));
        Some(Series { name: name.into(), points: points.collect(), dashed: name != "hand-over" })
    });
    Chart {
        title: "A new song's vector as its listeners come in".into(),
        x_label: "log₂(1 + mean number of listeners)".into(),
        y_label: format!("NDCG@{k}"),
        series: series.collect(),
    }
}
