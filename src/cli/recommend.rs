use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::json;

use super::{Context, exit_code, model_folder, print_json, print_line};
use crate::artefact::content_hash;
use crate::audio::{Listening, hear};
use crate::encoder::Model;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};
use crate::index::Filter;
use crate::inputs::read_playlist;
use crate::recommend::{Audience, New, Query, Recommendation, Recommender};

const EXAMPLES: &str = "\
Examples:
  debut recommend --user listener-17             what this listener should hear next, and because of what
  debut recommend --track 4f2a…  --listeners 5   its nearest tracks, and the listeners it would be shown to
  debut recommend --file new.mp3                 the same for a file that need not be in the catalogue
  debut recommend --playlist road-trip.m3u -k 20
  debut recommend --user listener-17 --language en --language pt --years 2015..2026 --region BR --clean --per-artist 2
  debut recommend --queries - --json             one query a line, one answer a line, for services and batches

A line of --queries is one of {\"track\":ID} {\"user\":ID} {\"file\":PATH} {\"playlist\":[ID,…]}, with \"k\",
\"listeners\" and a filter if wanted (\"languages\":[…], \"years\":[2015,2026], \"clean\":true, \"region\":\"BR\",
\"without_artists\":[…], \"per_artist\":2); its answer is {\"recommendations\":[…],\"listeners\":[…]} or {\"error\":\"…\"}. Each answer
knows everything that was acknowledged before its query was read, also by other processes.

A list for a listener or a playlist is ordered by cosine and popularity, and new releases have places of their own: they
are marked new, and quota where they would not be there without. `[recommend]` and `[index]` of the settings say how much.

With --json otherwise, one line a track: {\"track\":\"…\",\"score\":0.83,\"new\":\"earned|quota\",\"title\":\"…\",\"artist\":\"…\",\"path\":\"…\",\"because\":[…]}";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    query: One,

    /// How many tracks.
    #[arg(short, default_value_t = 10)]
    k: usize,

    /// How many listeners to whom the track would be shown (with --track or --file).
    #[arg(long, default_value_t = 0, value_name = "N")]
    listeners: usize,

    #[command(flatten)]
    filter: FilterArgs,

    /// The model that listens to --file; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct One {
    /// More like this track.
    #[arg(long, value_name = "ID")]
    track: Option<TrackId>,
    /// More like this file.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// What this listener should hear next.
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// What should follow these tracks (.m3u, .m3u8: paths or ids).
    #[arg(long, value_name = "PATH")]
    playlist: Option<PathBuf>,
    /// Many queries, one JSON object a line; - for standard input.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Only tracks that")]
struct FilterArgs {
    /// are in this language, as the manifest has it; may be given again.
    #[arg(long, value_name = "LANGUAGE")]
    language: Vec<String>,
    /// are of these years: 1990..1999, 2020.., ..1960, 1984.
    #[arg(long, value_name = "FROM..TO", value_parser = years)]
    years: Option<RangeInclusive<i32>>,
    /// are not marked as explicit.
    #[arg(long)]
    clean: bool,
    /// may be played in this region.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// are not by this artist; may be given again.
    #[arg(long, value_name = "ARTIST")]
    without_artist: Vec<String>,
    /// are among the best N of their artist; 0 for any number.
    #[arg(long, value_name = "N")]
    per_artist: Option<usize>,
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            languages: self.language.clone(),
            years: self.years.clone(),
            clean: self.clean,
            region: self.region.clone(),
            without_artists: self.without_artist.clone(),
            per_artist: self.per_artist,
            ..Filter::default()
        }
    }
}

/// `FROM..TO`, of which either may be absent, or one year.
fn years(text: &str) -> std::result::Result<RangeInclusive<i32>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let year = |text: &str, open: i32| match text.trim() {
        "" => Ok(open),
        number => number.parse().map_err(|_| format!("{number:?} is not a year")),
    };
    if text.trim().is_empty() {
        return Err("a year, or FROM..TO".into());
    }
    from_to(year(from, i32::MIN)?, year(to, i32::MAX)?).ok_or_else(|| format!("{text}: no year is in it"))
}

/// `None` where no year is in it.
fn from_to(from: i32, to: i32) -> Option<RangeInclusive<i32>> {
    (from <= to).then_some(from..=to)
}

/// One line of `--queries`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    track: Option<TrackId>,
    user: Option<UserId>,
    file: Option<PathBuf>,
    playlist: Option<Vec<TrackId>>,
    k: Option<usize>,
    listeners: Option<usize>,
    languages: Option<Vec<String>>,
    years: Option<(i32, i32)>,
    clean: Option<bool>,
    region: Option<String>,
    without_artists: Option<Vec<String>>,
    per_artist: Option<usize>,
}

impl Line {
    /// The line's filter; what it does not say is as the command line has it.
    ///
    /// # Errors
    /// `Invalid` for years of which there are none.
    fn filter(&self, otherwise: Filter) -> Result<Filter> {
        let years = match self.years {
            None => otherwise.years,
            Some((from, to)) => Some(from_to(from, to).ok_or_else(|| {
                Error::invalid("years", "the first and the last", format!("{from}..{to}: no year is in it"))
            })?),
        };
        Ok(Filter {
            languages: self.languages.clone().unwrap_or(otherwise.languages),
            years,
            clean: self.clean.unwrap_or(otherwise.clean),
            region: self.region.clone().or(otherwise.region),
            without_artists: self.without_artists.clone().unwrap_or(otherwise.without_artists),
            per_artist: self.per_artist.or(otherwise.per_artist),
            without: otherwise.without,
        })
    }
}

struct Answer {
    tracks: Vec<Recommendation>,
    listeners: Vec<Audience>,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let recommender = Recommender::open(&context.catalogue, &context.config.index, &context.config.recommend)?;
    let mut ear = Ear { given: args.model.clone(), model: None, listening: context.config.listen.clone() };
    if let Some(path) = &args.query.queries {
        return answer_lines(path, recommender, &mut ear, &args, &context);
    }
    let mut missing = 0;
    let query = match args.query {
        One { track: Some(id), .. } => Query::Track(id),
        One { user: Some(id), .. } => Query::User(id),
        One { file: Some(path), .. } => ear.query(&recommender, &path)?,
        One { playlist: Some(path), .. } => playlist(&recommender, &path, &mut missing)?,
        // clap asks for exactly one, and --queries was answered above.
        One { .. } => return Err(Error::invalid("query", "one of --track --file --user --playlist --queries", "none")),
    };
    let answer = answer(&recommender, &query, args.k, args.listeners, &args.filter.filter())?;
    if context.json {
        for track in &answer.tracks {
            print_json(track)?;
        }
        for listener in &answer.listeners {
            print_json(listener)?;
        }
    } else {
        print_answer(&answer)?;
    }
    Ok(exit_code(missing))
}

fn answer(recommender: &Recommender, query: &Query, k: usize, listeners: usize, filter: &Filter) -> Result<Answer> {
    let vector = match query {
        _ if listeners == 0 => None,
        Query::Track(id) => recommender.store().track(id)?.map(|t| t.vector),
        Query::Sound(vector) => Some(vector.clone()),
        _ => None,
    };
    Ok(Answer {
        tracks: recommender.recommend(query, k, filter)?,
        listeners: vector.map_or_else(|| Ok(Vec::new()), |v| recommender.audience(&v, listeners))?,
    })
}

fn print_answer(answer: &Answer) -> Result<()> {
    for (i, track) in answer.tracks.iter().enumerate() {
        let new = match track.new {
            Some(New::Quota) => "  (new, by quota)",
            Some(New::Earned) => "  (new)",
            None => "",
        };
        print_line(&format!("{:>3}  {:.3}  {}{new}", i + 1, track.score, named(track)))?;
        if !track.because.is_empty() {
            let played: Vec<String> = track
                .because
                .iter()
                .map(|b| format!("{} ({:.2})", b.title.as_deref().unwrap_or(b.track.as_str()), b.share))
                .collect();
            print_line(&format!("            because of {}", played.join(", ")))?;
        }
    }
    if !answer.listeners.is_empty() {
        print_line("shown to")?;
        for l in &answer.listeners {
            print_line(&format!("     {:.3}  {}", l.score, l.listener))?;
        }
    }
    Ok(())
}

/// "Title, by Artist  [id]"; the file's name where there is no title.
pub(super) fn named(track: &Recommendation) -> String {
    let file =
        || track.path.as_deref().and_then(|p| Path::new(p).file_stem()).map(|n| n.to_string_lossy().into_owned());
    match (track.title.clone().or_else(file), &track.artist) {
        (Some(title), Some(artist)) => format!("{title}, by {artist}  [{}]", track.track),
        (Some(title), None) => format!("{title}  [{}]", track.track),
        (None, _) => track.track.to_string(),
    }
}

/// Listens to files, with a model that is loaded for the first of them.
struct Ear {
    given: Option<PathBuf>,
    model: Option<Model>,
    listening: Listening,
}

impl Ear {
    /// The catalogue's own track where it has this very content, else what the file sounds like.
    fn query(&mut self, recommender: &Recommender, path: &Path) -> Result<Query> {
        let known = recommender.store().entry_by_content(&content_hash(path)?)?;
        if let Some(track) = known.filter(|track| !track.vector.is_empty()) {
            return Ok(Query::Track(track.id));
        }
        if self.model.is_none() {
            self.model = Some(Model::load(&model_folder(self.given.as_deref())?)?);
        }
        // Set just above.
        let model = self.model.as_ref().expect("a model");
        recommender.space().id.require("the catalogue's space and the model's", &model.config.space)?;
        let front_end = &model.config.front_end;
        // As the catalogue's tracks were heard.
        let segments = recommender.store().windows()?.map_or(self.listening.segments, |n| n as usize);
        let listening = Listening { segments, ..self.listening };
        let heard = hear(path, front_end, front_end.frames, &listening)?;
        let vector = model.embed_tracks(&[(path, &heard.mels)])?;
        Ok(Query::Sound(vector.row(0).to_vec()))
    }
}

/// A playlist's lines as tracks: by id, or by the path from which a track came; counts the lines that are neither.
fn playlist(recommender: &Recommender, path: &Path, missing: &mut u64) -> Result<Query> {
    let mut tracks = Vec::new();
    for (line, file) in read_playlist(path)? {
        let by_path = recommender.store().file(&file)?.and_then(|record| match record.outcome {
            crate::store::FileOutcome::Track(id) => Some(id),
            crate::store::FileOutcome::Failed { .. } => None,
        });
        match by_path.map_or_else(|| TrackId::new(line.clone()), Ok) {
            Ok(id) if recommender.store().track(&id)?.is_some() => tracks.push(id),
            _ => {
                *missing += 1;
                tracing::warn!("{}: not in the catalogue: {line}", path.display());
            }
        }
    }
    if tracks.is_empty() {
        return Err(Error::format(path, "at least one track of the catalogue", "none"));
    }
    Ok(Query::Playlist(tracks))
}

fn answer_lines(
    path: &Path,
    mut recommender: Recommender,
    ear: &mut Ear,
    args: &Args,
    context: &Context,
) -> Result<ExitCode> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(Error::io(path))?))
    };
    let mut failed = 0;
    for line in input.split(b'\n') {
        let line = line.map_err(Error::io(path))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mut ask = || {
            recommender.refresh()?;
            let line: Line = serde_json::from_slice(&line).map_err(|e| Error::invalid("query", "a JSON object", e))?;
            let filter = line.filter(args.filter.filter())?;
            let (k, listeners) = (line.k.unwrap_or(args.k), line.listeners.unwrap_or(args.listeners));
            let query = match line {
                Line { track: Some(id), user: None, file: None, playlist: None, .. } => Query::Track(id),
                Line { track: None, user: Some(id), file: None, playlist: None, .. } => Query::User(id),
                Line { track: None, user: None, file: Some(path), playlist: None, .. } => {
                    ear.query(&recommender, &path)?
                }
                Line { track: None, user: None, file: None, playlist: Some(ids), .. } => Query::Playlist(ids),
                _ => return Err(Error::invalid("query", "one of track, user, file, playlist", "none or several")),
            };
            answer(&recommender, &query, k, listeners, &filter)
        };
        match ask() {
            Ok(answer) if context.json => {
                print_json(&json!({ "recommendations": answer.tracks, "listeners": answer.listeners }))?;
            }
            Ok(answer) => print_answer(&answer)?,
            Err(e) => {
                failed += 1;
                if context.json {
                    print_json(&json!({ "error": e.to_string() }))?;
                } else {
                    print_line(&format!("error: {e}"))?;
                }
            }
        }
    }
    Ok(exit_code(failed))
}
