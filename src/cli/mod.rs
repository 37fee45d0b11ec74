//! The command line: one verb a file, in the order in which the data flows. A verb reads arguments, calls the library
//! and prints; where two stages meet (spectrograms and targets, say), they meet here.

mod backup;
mod calibrate;
mod check;
mod compact;
mod demo;
mod embed;
mod evaluate;
mod evaluate_factors;
mod evaluate_handover;
mod evaluate_model;
mod export;
mod factorize;
mod factors;
mod failures;
mod handover;
mod import;
mod ingest;
mod labels;
mod mel;
mod prepare;
mod pretrain;
mod recommend;
mod reindex;
mod remove;
mod status;
mod train;
mod watch;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::index::{Index, IndexConfig};
use crate::store::Store;

/// The model that comes with debut.
pub const SHIPPED_MODEL: &str = "models/game-music";

const EXAMPLES: &str = "\
Examples:
  debut demo                                         the whole path on the clips of audio-samples/
  debut ingest ~/Music                               put your music into ./catalogue
  debut recommend --file new.mp3                     what sounds, to its listeners, like this file
  debut recommend --user listener-17 -k 5 --json     what this listener should hear next, and because of what
  debut factorize plays.parquet --out factors        learn factors from what people do
  debut prepare --audio tracks.csv --events plays.parquet --out data
  debut train --data data --factors factors --out runs/mine

Exit codes: 0 all well; 1 some inputs failed (they are listed); 2 wrong usage, or the work could not be done.";

/// Puts a new song before the right listeners the minute it is uploaded, by listening to it.
#[derive(Parser, Debug)]
#[command(version, about, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// The folder of the catalogue [default: catalogue; demo-catalogue for the demo].
    #[arg(long, global = true, value_name = "DIR", env = "DEBUT_CATALOGUE")]
    catalogue: Option<PathBuf>,

    /// Settings, one section a stage (`debut status --settings` prints all with their defaults).
    #[arg(long, global = true, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// One setting, over the file's; can be given several times.
    #[arg(long = "set", global = true, value_name = "STAGE.NAME=VALUE")]
    set: Vec<String>,

    /// One JSON object a line on standard output, for programs.
    #[arg(long, global = true)]
    json: bool,

    /// More of what happens, on standard error (-v info, -vv debug); RUST_LOG works too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What debut does, in the order of its data.
#[derive(Subcommand, Debug)]
enum Verb {
    /// Runs the main job on the clips that come with debut: ingest, upload one more, recommend it.
    Demo(demo::Args),
    /// Listens to one file: its log-mel spectrogram as npy or PNG, the excerpt as WAV.
    Mel(mel::Args),
    /// Predicts vectors of files into a Parquet or npy file, without a catalogue.
    Embed(embed::Args),
    /// Hears the tracks of a training set, joins them with what people did, and splits them.
    Prepare(prepare::Args),
    /// Learns track and listener factors from plays, skips, likes and playlist adds (implicit ALS).
    Factorize(factorize::Args),
    /// Aligns factors with earlier ones; factors for and from implicit, Spark, LightFM and NumPy.
    Factors(factors::Args),
    /// Trains the network on sound alone, to tell one track's excerpts from another's: a start for `train`.
    Pretrain(pretrain::Args),
    /// Trains the network to predict factors from sound.
    Train(train::Args),
    /// Scores a model on tracks that were held out, beside baselines and the ceiling; or factors, on what listeners meet next.
    Evaluate(evaluate::Args),
    /// Puts new tracks into the catalogue.
    Ingest(ingest::Args),
    /// Brings listeners, and what they taught about the tracks, into the catalogue.
    Handover(handover::Args),
    /// Recommends tracks for a listener, a playlist, a track or a file, and listeners for a track.
    Recommend(recommend::Args),
    /// Counts what the catalogue holds.
    Status(status::Args),
    /// Lists the files that could not be used, and why.
    Failures(failures::Args),
    /// Takes tracks out of the catalogue.
    Remove(remove::Args),
    /// Builds a new model's vectors beside those that are served, and changes over at once; or back.
    Reindex(reindex::Args),
    /// Gives back the room of what was removed.
    Compact(compact::Args),
    /// Verifies the catalogue and its index.
    Check(check::Args),
    /// Copies the catalogue while others write to it.
    Backup(backup::Args),
    /// Writes the catalogue as Parquet or npy, for other programs and for `import`.
    Export(export::Args),
    /// Makes a catalogue of what `export` wrote.
    Import(import::Args),
}

impl Verb {
    /// The verbs that finish or clear away what is in flight on Ctrl-C or SIGTERM; the others have nothing of the kind.
    fn stops_gently(&self) -> bool {
        use Verb::{Backup, Demo, Embed, Export, Factorize, Import, Ingest, Prepare, Pretrain, Reindex, Train};
        matches!(
            self,
            Demo(_)
                | Embed(_)
                | Prepare(_)
                | Factorize(_)
                | Pretrain(_)
                | Train(_)
                | Ingest(_)
                | Reindex(_)
                | Backup(_)
                | Export(_)
                | Import(_)
        )
    }
}

/// What every verb is given.
struct Context {
    catalogue: PathBuf,
    config: Config,
    json: bool,
    /// Set by Ctrl-C and SIGTERM: finish what is in flight, then end.
    stop: Arc<AtomicBool>,
}

impl Cli {
    /// Logs to standard error: warnings, or what `-v` and `RUST_LOG` ask for.
    pub fn start_log(&self) {
        let level = ["warn", "debut=info", "debut=debug"][usize::from(self.verbose.min(2))];
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init();
    }

    /// Runs the verb.
    ///
    /// # Errors
    /// What kept the work from being done; the exit code is 2 then. Inputs that failed are no error but exit code 1.
    pub fn run(self) -> Result<ExitCode> {
        let stop = Arc::new(AtomicBool::new(false));
        if self.verb.stops_gently() {
            let flag = stop.clone();
            // Without a handler either kills, which loses nothing that was acknowledged; so a failure here is no reason
            // to refuse to work.
            let _ = ctrlc::set_handler(move || {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("stopping after what is in flight (once more: at once)");
            });
        }
        let config = Config::load(self.config.as_deref(), &self.set)?;
        let default = if matches!(self.verb, Verb::Demo(_)) { "demo-catalogue" } else { "catalogue" };
        let catalogue = self.catalogue.unwrap_or_else(|| default.into());
        let context = Context { catalogue, config, json: self.json, stop };
        match self.verb {
            Verb::Demo(args) => demo::run(args, context),
            Verb::Mel(args) => mel::run(args, context),
            Verb::Embed(args) => embed::run(args, context),
            Verb::Prepare(args) => prepare::run(args, context),
            Verb::Factorize(args) => factorize::run(args, context),
            Verb::Factors(args) => factors::run(args, context),
            Verb::Pretrain(args) => pretrain::run(args, context),
            Verb::Train(args) => train::run(args, context),
            Verb::Evaluate(args) => evaluate::run(args, context),
            Verb::Ingest(args) => ingest::run(args, context),
            Verb::Handover(args) => handover::run(args, context),
            Verb::Recommend(args) => recommend::run(args, context),
            Verb::Status(args) => status::run(args, context),
            Verb::Failures(args) => failures::run(args, context),
            Verb::Remove(args) => remove::run(args, context),
            Verb::Reindex(args) => reindex::run(args, context),
            Verb::Compact(args) => compact::run(args, context),
            Verb::Check(args) => check::run(args, context),
            Verb::Backup(args) => backup::run(args, context),
            Verb::Export(args) => export::run(args, context),
            Verb::Import(args) => import::run(args, context),
        }
    }
}

/// Where the model is: as given, else `$DEBUT_MODEL`, else the shipped one, here or where debut was built.
fn model_folder(given: Option<&Path>) -> Result<PathBuf> {
    // Whoever names one does not want another where it is not there.
    let named = given
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("DEBUT_MODEL").filter(|v| !v.is_empty()).map(PathBuf::from));
    if let Some(folder) = named {
        return Ok(folder);
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(SHIPPED_MODEL);
    let places = [SHIPPED_MODEL.into(), built];
    places.into_iter().find(|folder: &PathBuf| folder.join("model.toml").is_file()).ok_or_else(|| Error::NotFound {
        what: "model (give --model DIR or set DEBUT_MODEL)",
        name: SHIPPED_MODEL.into(),
    })
}

/// Writes one JSON object and a newline to standard output.
fn print_json(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value).map_err(|e| Error::invalid("output", "JSON", e))?;
    print_line(&line)
}

/// Writes a line to standard output.
///
/// # Errors
/// `Io`; a reader that has gone away (`| head`) among them: the work ends, and the exit code says that it did.
fn print_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::io("standard output"))
}

/// A bar on standard error; none where that is not a terminal. `total` 0: the length is not known yet.
fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    // The template is a constant that is tried by every test of a verb.
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {per_sec} eta {eta} {msg}");
    bar.set_style(style.expect("a well-formed template"));
    bar.set_prefix(what.to_string());
    bar
}

/// Makes the image, the lists and the graph of the catalogue's index where that is due, for whoever opens it next.
fn build_index(store: &Store, config: &IndexConfig) -> Result<()> {
    let mut index = Index::open(store, config)?;
    if index.is_due() {
        let bar = progress(index.len() as u64, "building the index");
        index.build(store, &|n| bar.inc(n as u64))?;
        bar.finish_and_clear();
    }
    Ok(())
}

/// 0, or 1 where some inputs failed.
fn exit_code(failed: u64) -> ExitCode {
    ExitCode::from(u8::from(failed > 0))
}

/// What to say of a file that was heard, but not whole.
fn damage(path: &Path, lost: f64) -> String {
    // A damaged packet of 9 ms is not "0.0 %".
    let share = if lost < 1e-3 { "less than 0.1".to_string() } else { format!("{:.1}", 1e2 * lost) };
    format!("damaged: {}: {share} % of what is heard was lost, and is silent", path.display())
}

/// Behind a count of files that were heard.
fn of_them_damaged(n: u64) -> String {
    if n == 0 { String::new() } else { format!(" ({n} damaged in part)") }
}

/// "1 track", "2 tracks".
fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Writes an array as npy, atomically.
fn write_npy<T: ndarray_npy::WritableElement, D: ndarray::Dimension>(
    path: &Path,
    array: &ndarray::Array<T, D>,
) -> Result<()> {
    use ndarray_npy::WriteNpyExt;
    crate::artefact::atomic_write(path, |out| array.write_npy(out).map_err(std::io::Error::other))
}

/// CPU seconds of all threads of this process so far; `None` where the system does not tell (it is Linux that does).
pub(crate) fn cpu_seconds() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    Some(nanoseconds.sum::<f64>() * 1e-9)
}
