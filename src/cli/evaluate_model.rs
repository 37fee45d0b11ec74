//! `debut evaluate`: models on held-out tracks, beside simpler ways to a new track's vector and what cannot be beaten.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use super::evaluate::{ModelArgs, hears_alike, held_out_events, middle, sounds};
use super::factorize::split_of;
use super::{Context, count, model_folder, print_json, print_line, progress};
use crate::data::DataSet;
use crate::encoder::artist::MOST;
use crate::encoder::baseline::{BagOfWords, Examples, Mlp, MlpConfig, bag_of_words, catalogue, mean_mel, mfcc};
use crate::encoder::confidence::SURE;
use crate::encoder::{Known, LinearBaseline, Model, ModelConfig, Prediction, held_out_hash};
use crate::error::{Error, Result};
use crate::eval::report::{self, Method, Report, Role};
use crate::eval::{self};
use crate::eval::{
    Answer, ColdStart, MAP_LENGTH, MeanSe, Part, Reliability, Study, StudySettings, TrackSplit, reliability,
};
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};
use crate::linalg::unit_rows;

/// Resamples of the held-out tracks.
const DRAWS: usize = 200;

pub fn run(args: &ModelArgs, context: &Context) -> Result<ExitCode> {
    if args.words.is_some_and(|words| !(1..=1 << 16).contains(&words)) {
        return Err(Error::invalid("words", "1 to 65536", args.words.unwrap_or(0)));
    }
    let mut models = load_models(&args.model)?;
    let factors = Factors::load(&args.factors)?;
    for (_, model) in &models {
        factors.space.require("the factors' space and the model's", &model.config.space)?;
        require_held_out(&factors, &model.config)?;
    }
    if factors.held_out.is_empty() {
        return Err(Error::invalid(
            args.factors.display(),
            "factors made with --split or --hold-out",
            "no track held out",
        ));
    }
    let heard = DataSet::open(&args.data, &context.config.listen)?;
    models.iter().try_for_each(|(_, model)| hears_alike(model, &args.data, &heard))?;
    if !(1..=heard.windows).contains(&args.segments) {
        return Err(Error::invalid("segments", format!("1 to the {} windows", heard.windows), args.segments));
    }
    let split = split_of(&args.factors, &factors)?;
    let all = held_out_events(&args.factors, &factors, &args.events, context)?;
    let place: HashMap<&TrackId, usize> = heard.tracks.iter().enumerate().map(|(i, id)| (id, i)).collect();
    let held: Ids<TrackId> = factors.held_out.iter().cloned().collect();
    let task = ColdStart::new(
        &factors,
        &all.retain_tracks(|id| held.number(id).is_some() && place.contains_key(id)),
        factors.config.seed,
    )?;
    let new: Vec<usize> = task.tracks.iter().map(|id| place[id]).collect();
    let known = Learned::new(&heard, &factors, split.as_ref(), context.config.train.seed, &new);
    let scoring = Scoring { args, factors: &factors, task: &task, heard: &heard, known: &known };
    let Table { methods: table, confidences, untaught } = scoring.table(&mut models)?;
    let held_by = match &split {
        Some(split) => split.made.clone(),
        None => format!("a hash of their ids, seed {}", factors.config.seed),
    };

    let mut facts = vec![
        format!(
            "{} new to everyone, of {} that were held out ({held_by}); their events were removed before the fit",
            count(task.tracks.len() as u64, "track"),
            factors.held_out.len(),
        ),
        format!(
            "{} to learn from and {} to choose penalties and ends of training by, of the other tracks; {} could not be \
             heard",
            count(known.train.len() as u64, "track"),
            known.valid.len(),
            heard.failed
        ),
        format!(
            "{} scored, each with a track that he loves among the new ones; the plays of as many others are what ceiling and \
             oracle know",
            count(table.first().map_or(0, |m| m.study.scores.users) as u64, "listener")
        ),
    ];
    if untaught > 0 {
        facts.push(format!(
            "{} of which no revealed listener taught anything: cosines and confidences are of the others",
            count(untaught as u64, "new track")
        ));
    }
    if context.json {
        for method in &table {
            print_json(&method.json())?;
        }
    } else {
        for fact in &facts {
            print_line(fact)?;
        }
        print_line(&format!("\n{}", report::table(&table)))?;
        for note in report::notes(&table) {
            print_line(&format!("- {note}"))?;
        }
    }
    if let Some(folder) = &args.report {
        let labels: Vec<String> = new.iter().map(|&track| name(&heard, track)).collect();
        Report { methods: &table, command: &command(), facts: &facts, labels: &labels, confidences: &confidences }
            .write(folder)?;
        if !context.json {
            print_line(&format!("\n{}", folder.join("report.html").display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// That the model was trained without the tracks that these factors hold out: what it was taught it would know.
///
/// # Errors
/// `Mismatch` where it was trained on another split.
pub fn require_held_out(factors: &Factors, model: &ModelConfig) -> Result<()> {
    let found = held_out_hash(&factors.held_out);
    match model.held_out.is_empty() || model.held_out == found {
        true => Ok(()),
        false => {
            let what =
                format!("the tracks that the factors hold out and those that {} was trained without", model.id());
            Err(Error::mismatch(what, &model.held_out, found))
        }
    }
}

/// The models of these folders; the shipped one where none is named.
fn load_models(folders: &[PathBuf]) -> Result<Vec<(PathBuf, Model)>> {
    let folders = if folders.is_empty() { vec![model_folder(None)?] } else { folders.to_vec() };
    let mut models: Vec<(PathBuf, Model)> = Vec::new();
    for folder in folders {
        let model = Model::load(&folder)?;
        if let Some((other, _)) = models.iter().find(|(_, m)| m.id() == model.id()) {
            let expected = format!("another model than that of {}", other.display());
            return Err(Error::invalid(folder.display(), expected, model.id()));
        }
        models.push((folder, model));
    }
    Ok(models)
}

/// The tracks that have a factor and were heard, what is learned from them, and the new tracks behind them.
struct Learned {
    /// Places in the heard tracks: those with a factor, then the new ones.
    tracks: Vec<usize>,
    /// `[known, dimensions]`, of unit length.
    targets: Array2<f32>,
    /// How much each counts, `[known]`.
    weights: Vec<f32>,
    /// Listeners of each, `[known]`.
    plays: Vec<f32>,
    train: Vec<usize>,
    valid: Vec<usize>,
}

impl Learned {
    /// `seed`: that of the training, which chooses the tracks to judge by where no `split` does.
    fn new(heard: &DataSet, factors: &Factors, split: Option<&TrackSplit>, seed: u64, new: &[usize]) -> Learned {
        let rows: Ids<TrackId> = factors.tracks.iter().cloned().collect();
        let (mut tracks, rows): (Vec<usize>, Vec<usize>) = (heard.tracks.iter().enumerate())
            .filter_map(|(track, id)| Some((track, rows.number(id)? as usize)))
            .filter(|&(_, row)| factors.track_factors.row(row).iter().any(|v| *v != 0.0))
            .unzip();
        let plays: Vec<f32> = rows.iter().map(|&row| factors.plays[row] as f32).collect();
        // As `debut train` does unless it is told otherwise; of few tracks one at least.
        let falls = |&i: &usize| eval::split(&heard.tracks[tracks[i]], seed ^ 0x76616c);
        let lowest = (0..rows.len()).min_by(|a, b| falls(a).total_cmp(&falls(b)));
        let is_valid = |i: &usize| match split {
            Some(split) => split.is(&heard.tracks[tracks[*i]], Part::Valid),
            None => falls(i) < 0.1 || Some(*i) == lowest,
        };
        let (valid, train) = (0..rows.len()).partition(is_valid);
        tracks.extend(new);
        Learned {
            tracks,
            targets: unit_rows(factors.track_factors.select(Axis(0), &rows)),
            weights: plays.iter().map(|n| n / (n + 10.0)).collect(),
            plays,
            train,
            valid,
        }
    }

    fn examples(&self) -> Examples<'_> {
        Examples { targets: self.targets.view(), weights: &self.weights, train: &self.train, valid: &self.valid }
    }

    /// Features of all tracks, `[tracks, features]`, as those of the known and of the new ones.
    fn parts<'a>(&self, features: &'a Array2<f32>) -> (ArrayView2<'a, f32>, ArrayView2<'a, f32>) {
        features.view().split_at(Axis(0), self.plays.len())
    }
}

/// How reliable which confidence is.
type Named = (String, Reliability);

/// What was found.
struct Table {
    methods: Vec<Method>,
    /// Of models that say how sure they are.
    confidences: Vec<Named>,
    /// New tracks of which no revealed listener taught anything: there is no direction to be near to.
    untaught: usize,
}

/// What methods are made of and scored on.
struct Scoring<'a> {
    args: &'a ModelArgs,
    factors: &'a Factors,
    task: &'a ColdStart,
    heard: &'a DataSet,
    known: &'a Learned,
}

impl Scoring<'_> {
    /// Every method's scores, from what knows nothing to what knows most.
    fn table(&self, models: &mut [(PathBuf, Model)]) -> Result<Table> {
        let Scoring { args, factors, task, heard, known } = *self;
        let ceiling = task.ceiling(factors)?;
        let unit_ceiling = unit_rows(ceiling.clone());
        let untaught = unit_ceiling.outer_iter().filter(|row| !is_taught(row)).count();
        let row = |name: &str, answer: Answer, role: Role, note: Option<String>| -> Result<Method> {
            let cosine = match answer {
                Answer::Vectors(vectors) if !name.starts_with("ceiling") => Some(cosine(vectors, unit_ceiling.view())),
                _ => None,
            };
            Ok(Method { name: name.into(), study: self.study(answer)?, cosine, note, role })
        };
        // Two steps for each track of the bag of words, which hears every window, and one for each other method.
        let bar = progress(known.tracks.len() as u64, "counting words");
        let mut table = vec![row("random", Answer::Alike(&vec![0.0; task.tracks.len()]), Role::Drawn, None)?];

        let labels: Vec<catalogue::Label> = known.tracks.iter().map(|&t| label(heard, t)).collect();
        let (labels, asked) = labels.split_at(known.plays.len());
        let plays = Array2::from_shape_fn((known.plays.len(), 1), |(i, _)| known.plays[i]);
        let (popularity, _) = catalogue::means(plays.view(), &vec![1.0; known.plays.len()], labels, asked)?;
        let popularity = popularity.column(0).to_vec();
        table.push(row("popularity of the artist or album", Answer::Alike(&popularity), Role::Other, None)?);
        let (artist, sources) = catalogue::means(known.targets.view(), &known.weights, labels, asked)?;
        table.push(row("artist mean", Answer::Vectors(artist.view()), Role::Rival, Some(coverage(&sources)))?);

        let mean = self.mean_mels()?;
        let (to_learn, to_predict) = known.parts(&mean);
        let linear = LinearBaseline::fit(to_learn, &known.examples())?;
        let note = format!("penalty {}, validation loss {:.3}", linear.lambda, linear.valid_loss);
        let vectors = linear.predict(to_predict)?;
        table.push(row("linear on mean mel", Answer::Vectors(vectors.view()), Role::Drawn, Some(note))?);

        let bag = self.bag_of_words(&bar)?;
        let (to_learn, to_predict) = known.parts(&bag.features);
        let linear = LinearBaseline::fit(to_learn, &known.examples())?;
        let note = format!(
            "{} words, {} components with {:.1} % of the variance, penalty {}, validation loss {:.3}",
            bag.vocabulary.len(),
            bag.pca.variance.len(),
            100.0 * bag.pca.share,
            linear.lambda,
            linear.valid_loss
        );
        let vectors = linear.predict(to_predict)?;
        table.push(row("linear on MFCC words", Answer::Vectors(vectors.view()), Role::Drawn, Some(note))?);
        let config = MlpConfig { seed: factors.config.seed, ..MlpConfig::default() };
        let mlp = Mlp::choose(to_learn, &known.examples(), &config)?;
        let note = format!(
            "two layers of {}, weight decay {}, best after {} epochs, validation loss {:.3}",
            config.hidden, mlp.weight_decay, mlp.best_epoch, mlp.valid_loss
        );
        let vectors = mlp.predict(to_predict)?;
        table.push(row("MLP on MFCC words", Answer::Vectors(vectors.view()), Role::Other, Some(note))?);
        bar.finish_and_clear();

        // Models of one name are one method.
        let mut names: Vec<String> = Vec::new();
        for (_, model) in models.iter() {
            if !names.contains(&model.config.name) {
                names.push(model.config.name.clone());
            }
        }
        let mut confidences = Vec::new();
        for name in &names {
            let models_of_one_name = models.iter().filter(|(_, m)| m.config.name == *name).count();
            let (mut studies, mut cosines, mut ids) = (Vec::new(), Vec::new(), Vec::new());
            let (mut with_artist, mut artist_cosines) = (Vec::new(), Vec::new());
            for (folder, model) in models.iter_mut().filter(|(_, m)| m.config.name == *name) {
                let new = &known.tracks[known.plays.len()..];
                let said = sounds(model, heard, new, args.segments)?;
                let vectors = unit_rows(said.clone());
                let study = self.study(Answer::Vectors(vectors.view()))?;
                let (joined, mut sure) = self.with_artists(model, said.view(), unit_ceiling.view())?;
                if model.config.artist.is_some() {
                    with_artist.push(self.study(Answer::Vectors(joined.view()))?);
                    artist_cosines.push(cosine(joined.view(), unit_ceiling.view()));
                }
                if names.len() > 1 || models_of_one_name > 1 {
                    sure.iter_mut().for_each(|(what, _)| *what = format!("{}: {what}", model.id()));
                }
                confidences.extend(sure);
                if args.save {
                    note_scores(model, &study);
                    model.save(folder)?;
                }
                cosines.push(cosine(vectors.view(), unit_ceiling.view()));
                ids.push(model.id());
                studies.push(study);
            }
            table.push(Method {
                name: if names.len() == 1 { "network".into() } else { format!("network {name}") },
                study: Study::mean_of(studies)?,
                cosine: Some(cosines.iter().sum::<f64>() / cosines.len() as f64),
                note: Some(match &ids[..] {
                    [only] => only.clone(),
                    all => format!("the mean of {}", all.join(", ")),
                }),
                role: Role::Network,
            });
            if !with_artist.is_empty() {
                let heads = models.iter().filter(|(_, m)| m.config.name == *name).filter_map(|(_, m)| m.config.artist);
                let heads =
                    heads.map(|h| format!("attention {:.1}, half {:.1}, share {:.2}", h.attention, h.half, h.share));
                let note = Some(heads.collect::<Vec<_>>().join("; "));
                let cosine = Some(artist_cosines.iter().sum::<f64>() / artist_cosines.len() as f64);
                let name =
                    if names.len() == 1 { "network + artist".into() } else { format!("network {name} + artist") };
                table.push(Method { name, study: Study::mean_of(with_artist)?, cosine, note, role: Role::Network });
            }
        }

        let oracle = task.revealed_plays();
        table.push(row("popularity once released (oracle)", Answer::Alike(&oracle), Role::Other, None)?);
        table.push(row("ceiling: learned direction", Answer::Vectors(unit_ceiling.view()), Role::Drawn, None)?);
        table.push(row("ceiling: learned factor", Answer::Vectors(ceiling.view()), Role::Other, None)?);
        Ok(Table { methods: table, confidences, untaught })
    }

    /// What the model serves of the new tracks `[n, d]`, given what its network said of them and their artists' songs; and
    /// whether it was as near to what listeners taught, `taught` `[n, d]`, as it said: by the sound alone, and so.
    fn with_artists(
        &self,
        model: &Model,
        said: ArrayView2<f32>,
        taught: ArrayView2<f32>,
    ) -> Result<(Array2<f32>, Vec<Named>)> {
        let Scoring { heard, known, .. } = *self;
        let head = model.config.artist.unwrap_or_default();
        let mut by_artist: HashMap<&str, Vec<Known>> = HashMap::new();
        for (i, &track) in known.tracks[..known.plays.len()].iter().enumerate() {
            let vector = known.targets.row(i).to_slice().expect("rows of a fresh array are contiguous");
            let song = Known { vector, evidence: head.evidence(known.plays[i] as u32) };
            if let Some(artist) = heard.inputs[track].info.artist_or_album() {
                by_artist.entry(artist).or_default().push(song);
            }
        }
        for songs in by_artist.values_mut() {
            songs.sort_by(|a, b| b.evidence.total_cmp(&a.evidence));
            songs.truncate(MOST);
        }
        let mut joined = Array2::zeros(said.dim());
        let mut sure: [Sure; 2] = Default::default();
        for (i, (said, &track)) in said.outer_iter().zip(&known.tracks[known.plays.len()..]).enumerate() {
            let songs = heard.inputs[track].info.artist_or_album().and_then(|artist| by_artist.get(artist));
            let ways: [&[Known]; 2] = [&[], songs.map_or(&[], Vec::as_slice)];
            let said = said.to_vec();
            for (sure, songs) in sure.iter_mut().zip(ways) {
                let Prediction { vector, confidence, margin, .. } =
                    model.config.prediction(&said, self.args.segments, songs)?;
                joined.row_mut(i).assign(&ArrayView1::from(&vector));
                if let (Some(confidence), Some(margin), true) = (confidence, margin, is_taught(&taught.row(i))) {
                    sure.confidences.push(confidence);
                    sure.cosines.push(joined.row(i).dot(&taught.row(i)));
                    sure.margins.push(margin);
                }
            }
        }
        let mut found = Vec::new();
        let [alone, together] = &sure;
        if !alone.confidences.is_empty() {
            found.push(("by the sound alone".to_string(), alone.reliability()?));
            if model.config.artist.is_some() {
                found.push(("with the artist's songs".to_string(), together.reliability()?));
            }
        }
        Ok((joined, found))
    }

    fn study(&self, answer: Answer) -> Result<Study> {
        let settings = StudySettings { k: self.args.k, draws: DRAWS, seed: self.factors.config.seed };
        self.task.study(self.factors, answer, &settings)
    }

    /// The mean of each mel band of every track, of what the network hears: `[tracks, mel_bands]`.
    fn mean_mels(&self) -> Result<Array2<f32>> {
        let tracks = &self.known.tracks;
        let mut all = Array2::zeros((tracks.len(), self.heard.front_end().mel_bands));
        all.outer_iter_mut().into_par_iter().zip(tracks).try_for_each(|(mut row, &track)| {
            row.assign(&mean_mel(middle(self.heard, track, self.heard.windows / 2)?.view()));
            Ok(())
        })?;
        Ok(all)
    }

    fn bag_of_words(&self, bar: &ProgressBar) -> Result<BagOfWords> {
        let (known, heard) = (self.known, self.heard);
        let front_end = heard.front_end();
        let mfcc = mfcc::Mfcc::new(front_end.mel_bands, front_end.log_gain);
        let load = |track: usize, window: usize| Ok(mfcc.descriptors(heard.load(known.tracks[track], window)?.view()));
        let words = self.args.words.unwrap_or_else(|| bag_of_words::words_for(known.train.len()));
        let seed = self.factors.config.seed;
        BagOfWords::learn(&load, known.tracks.len(), heard.windows, &known.train, words, seed, &|| bar.inc(1))
    }
}

/// Of some tracks, how sure a model was, how near it came, and what it said that it might be off by.
#[derive(Default)]
struct Sure {
    confidences: Vec<f32>,
    cosines: Vec<f32>,
    margins: Vec<f32>,
}

impl Sure {
    fn reliability(&self) -> Result<Reliability> {
        let bins = (self.confidences.len() / 15).clamp(1, 10);
        reliability(&self.confidences, &self.cosines, &self.margins, SURE, bins)
    }
}

/// Whether a row of the ceiling's directions is one: it is zero where nobody taught anything.
fn is_taught(row: &ArrayView1<f32>) -> bool {
    row.iter().any(|x| *x != 0.0)
}

/// The mean cosine of the rows of `a` with those of `b` `[n, d]` that have unit length; those that have none are left out.
fn cosine(a: ArrayView2<f32>, b: ArrayView2<f32>) -> f64 {
    let taught = b.outer_iter().filter(is_taught).count();
    let cosines = unit_rows(a.to_owned());
    let sum: f64 = cosines.outer_iter().zip(b.outer_iter()).map(|(a, b)| f64::from(a.dot(&b))).sum();
    sum / taught.max(1) as f64
}

#[test]
fn what_nobody_taught_is_no_part_of_a_mean_cosine() {
    let said = ndarray::array![[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]];
    let taught = ndarray::array![[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]];
    assert!((cosine(said.view(), taught.view()) - 0.5).abs() < 1e-6);
    assert_eq!(cosine(said.view(), ndarray::Array2::zeros((3, 2)).view()), 0.0);
}

/// Writes the scores where the model keeps what is known of it.
fn note_scores(model: &mut Model, study: &Study) {
    let (scores, tracks) = (&study.scores, &study.over_tracks);
    let k = scores.k;
    let named: [(String, MeanSe, f64); 4] = [
        (format!("recall_at_{k}"), scores.recall, tracks.recall),
        (format!("ndcg_at_{k}"), scores.ndcg, tracks.ndcg),
        (format!("map_at_{MAP_LENGTH}"), scores.map, tracks.map),
        ("auc".into(), scores.auc, tracks.auc),
    ];
    for (name, score, over_tracks) in named {
        for (suffix, value) in [("", score.mean), ("_se", score.se), ("_se_over_tracks", over_tracks)] {
            model.config.scores.insert(format!("cold_start_{name}{suffix}"), value);
        }
    }
}

fn label(heard: &DataSet, track: usize) -> catalogue::Label<'_> {
    let info = &heard.inputs[track].info;
    catalogue::Label { artist: info.artist.as_deref(), album: info.album.as_deref() }
}

/// The artist, else the album.
fn name(heard: &DataSet, track: usize) -> String {
    let label = label(heard, track);
    label.artist.or(label.album).unwrap_or("(unknown)").to_string()
}

/// For how many tracks the mean was of what.
fn coverage(sources: &[catalogue::Source]) -> String {
    let of = |source| sources.iter().filter(|s| **s == source).count();
    use catalogue::Source::{Album, All, Artist};
    format!(
        "of {}, {} by their artist's other tracks, {} by their album's, {} by all tracks'",
        count(sources.len() as u64, "track"),
        of(Artist),
        of(Album),
        of(All)
    )
}

/// The command that runs now, as a shell would take it.
fn command() -> String {
    let quoted = |word: std::ffi::OsString| {
        let word = word.to_string_lossy().into_owned();
        let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words: Vec<String> = std::env::args_os().skip(1).map(quoted).collect();
    format!("debut {}", words.join(" "))
}
