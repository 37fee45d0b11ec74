use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch, StringArray};
use ndarray::Array2;
use ndarray_npy::WriteNpyExt;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::{Context, damage, exit_code, model_folder, of_them_damaged, print_json, print_line, progress};
use crate::artefact::Aside;
use crate::audio::{Listening, Spent};
use crate::embed::{Row, Times, embed};
use crate::encoder::{Device, Model};
use crate::error::{Error, Result};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut embed ~/Music --out vectors.parquet      columns track, path, vector (40 numbers of unit length), confidence
                                                 (the cosine to expect with what listeners will teach), and lost: the
                                                 share of what was heard that was damaged, and is silent
  debut embed a.mp3 b.flac --out vectors.npy     float32 [n, 40], and vectors.ids with the track of each row
  debut embed ~/Music --out v.npy --timings      where the time goes, stage by stage

Rows are in the order of the inputs; files with the same content are one row. Ctrl-C writes what has been heard so far. The
same command begins anew: `debut ingest` is the one that goes on where it was stopped.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files, and folders that are searched for audio.
    #[arg(required_unless_present = "manifest", value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// A list of tracks with their ids.
    #[arg(long, value_name = "tracks.csv|jsonl")]
    manifest: Option<PathBuf>,

    /// Where the vectors go; .parquet or .npy.
    #[arg(long)]
    out: PathBuf,

    /// The model that listens; the shipped one where none is given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Windows of 27.9 s to hear of each track, spread over it; more are for pieces that change [default: listen.segments, 1].
    #[arg(long, value_name = "N")]
    segments: Option<usize>,

    /// Where the network runs: cpu, or a GPU by way of cuda, wgpu or vulkan (each to be built in: --features NAME).
    #[arg(long, default_value_t)]
    device: Device,

    /// Tell where the time went.
    #[arg(long)]
    timings: bool,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    let config = &context.config.listen;
    let listening = Listening { segments: args.segments.unwrap_or(config.segments), ..config.clone() };
    listening.check()?;
    let model = Model::load(&model_folder(args.model.as_deref())?)?.on(args.device)?;
    let load = started.elapsed();
    let out = Out::new(&args.out)?;
    let mut inputs: Vec<Result<Input>> = args.paths.iter().flat_map(|path| walk(path)).collect();
    if let Some(manifest) = &args.manifest {
        inputs.extend(read_manifest(manifest)?.into_iter().map(Ok));
    }
    let find = started.elapsed() - load;

    let bar = progress(inputs.len() as u64, "embedding");
    let embedded = embed(&model, inputs, &listening, &context.stop, &|failed| {
        bar.inc(1);
        if let Some(e) = failed {
            bar.suspend(|| eprintln!("failed: {e}"));
        }
    });
    bar.finish_and_clear();
    let embedded = embedded?;
    let (rows, failed, missing) = (&embedded.rows, embedded.failed, embedded.missing);
    let damaged: Vec<&Row> = rows.iter().filter(|row| row.lost > 0.0).collect();
    for row in &damaged {
        eprintln!("{}", damage(&row.path, row.lost));
    }
    let writing = Instant::now();
    out.write(rows, &model, &listening)?;
    let around = Around { load, find, write: writing.elapsed(), all: started.elapsed() };

    let report = args.timings.then(|| report(&embedded.times, &around, args.device));
    if context.json {
        let mut told = json!({
            "embedded": rows.len(), "damaged": damaged.len(), "failed": failed, "missing": missing, "out": args.out.to_string_lossy(),
        });
        if let Some(report) = report {
            told["timings"] = report;
        }
        print_json(&told)?;
    } else {
        let missing = if missing > 0 { format!(", {missing} missing") } else { String::new() };
        let damaged = of_them_damaged(damaged.len() as u64);
        print_line(&format!("{} embedded{damaged}, {failed} failed{missing}: {}", rows.len(), args.out.display()))?;
        if let Some(report) = report {
            print_report(&report)?;
        }
    }
    if missing > 0 { Err(Error::Interrupted) } else { Ok(exit_code(failed)) }
}

/// What the time before and after the work went to.
struct Around {
    load: Duration,
    find: Duration,
    write: Duration,
    /// All, with the work.
    all: Duration,
}

/// For programs, and for [`print_report`].
fn report(times: &Times, around: &Around, device: Device) -> Value {
    let each = |time: Duration| 1e3 * time.as_secs_f64() / times.tracks.max(1) as f64;
    let Spent { open, decode, resample, mel } = times.heard;
    let rate = times.tracks as f64 / around.all.as_secs_f64();
    json!({
        "tracks": times.tracks,
        "seconds": around.all.as_secs_f64(),
        "processor_seconds": processor_seconds(),
        "tracks_per_second": rate,
        "tracks_per_day": (rate * 86_400.0).round(),
        "device": device.to_string(),
        "threads": times.threads,
        "peak_memory_mb": peak_memory_mb(),
        "ms_per_track": {
            "open": each(open),
            "decode": each(decode),
            "resample": each(resample),
            "mel": each(mel),
            "hash": each(times.hash),
            "network": each(times.network),
        },
        "thread_seconds": {
            "failed": times.failed.as_secs_f64(),
            "wait": times.wait.as_secs_f64(),
        },
        "seconds_around": {
            "load": around.load.as_secs_f64(),
            "find": around.find.as_secs_f64(),
            "write": around.write.as_secs_f64(),
        },
    })
}

fn print_report(report: &Value) -> Result<()> {
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    print_line(&format!(
        "{:.1} s on {}{}: {:.1} tracks a second, {:.1} million a day{}",
        number("seconds"),
        super::count(report["threads"].as_u64().unwrap_or(0), "thread"),
        report["processor_seconds"].as_f64().map_or(String::new(), |s| format!(", {s:.1} s of the processor")),
        number("tracks_per_second"),
        number("tracks_per_day") / 1e6,
        report["peak_memory_mb"].as_u64().map_or(String::new(), |mb| format!("; {mb} MB at most")),
    ))?;
    let stages = |section: &str, names: &[&str]| {
        names.iter().try_for_each(|name| {
            print_line(&format!("  {name:<9}{:>8.2}", report[section][name].as_f64().unwrap_or(0.0)))
        })
    };
    print_line("milliseconds of one thread for each track that was heard:")?;
    stages("ms_per_track", &["open", "decode", "resample", "mel", "hash", "network"])?;
    print_line("seconds of one thread, those of all threads added up: files that failed, waiting")?;
    stages("thread_seconds", &["failed", "wait"])?;
    print_line("seconds before and after: loading the model, finding the files, writing")?;
    stages("seconds_around", &["load", "find", "write"])
}

/// The time that the processor worked for this process so far, on all threads; where the system tells it (Linux). The
/// stages are on the clock of the wall: where other programs want the processor too, they are longer than the work.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold anything: fields 14 and 15 of proc(5), in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((ticks(14)? + ticks(15)?) as f64 / 100.0)
}

/// The most memory that this process has held so far; where the system tells it (Linux).
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb / 1024)
}

/// The files that are to hold the vectors, made before the work.
enum Out {
    Npy { vectors: Aside, ids: Aside },
    Parquet(PathBuf, Aside),
}

impl Out {
    fn new(path: &Path) -> Result<Out> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Out::Npy { vectors: Aside::new(path)?, ids: Aside::new(&path.with_extension("ids"))? }),
            Some("parquet") => Ok(Out::Parquet(path.to_path_buf(), Aside::new(path)?)),
            _ => Err(Error::unsupported(path, "a name ending in .parquet or .npy", "another")),
        }
    }

    fn write(self, rows: &[Row], model: &Model, listening: &Listening) -> Result<()> {
        match self {
            Out::Npy { vectors, ids } => {
                let d = model.config.encoder.dimensions;
                let array = Array2::from_shape_fn((rows.len(), d), |(i, j)| rows[i].vector[j]);
                vectors.publish(|out| array.write_npy(out).map_err(std::io::Error::other))?;
                ids.publish(|out| rows.iter().try_for_each(|row| writeln!(out, "{}", row.track)))
            }
            Out::Parquet(path, file) => write_parquet(&path, file, rows, model, listening),
        }
    }
}

fn write_parquet(path: &Path, file: Aside, rows: &[Row], model: &Model, listening: &Listening) -> Result<()> {
    let dimensions = model.config.encoder.dimensions;
    // Which network, how many windows, and which space: vectors without them cannot be compared with anything.
    let named = |key: &str, value: String| KeyValue::new(key.to_string(), value);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![
            named("debut.model", model.id()),
            named("debut.segments", listening.segments.to_string()),
            named("debut.space", model.config.space.to_string()),
        ]))
        .build();
    let schema = table(path, dimensions, &[])?.schema();
    let batches: Vec<RecordBatch> =
        rows.chunks(1 << 16).map(|rows| table(path, dimensions, rows)).collect::<Result<_>>()?;
    file.publish(|out| {
        let out: &mut BufWriter<&File> = out;
        let mut writer = ArrowWriter::try_new(out, schema, Some(properties)).map_err(std::io::Error::other)?;
        for batch in &batches {
            writer.write(batch).map_err(std::io::Error::other)?;
        }
        writer.finish().map_err(std::io::Error::other)?;
        Ok(())
    })
}

/// Some rows as columns. Arrow's texts are limited to 2 GB a column, and so is what is given here.
fn table(path: &Path, dimensions: usize, rows: &[Row]) -> Result<RecordBatch> {
    let problem = |e: &dyn std::fmt::Display| Error::format(path, "vectors that Parquet can hold", e);
    let width = i32::try_from(dimensions).map_err(|e| problem(&e))?;
    let mut list = FixedSizeListBuilder::new(Float32Builder::new(), width);
    for row in rows {
        list.values().append_slice(&row.vector);
        list.append(true);
    }
    let tracks = StringArray::from_iter_values(rows.iter().map(|row| &row.track));
    let paths = StringArray::from_iter_values(rows.iter().map(|row| row.path.to_string_lossy()));
    RecordBatch::try_from_iter([
        ("track", Arc::new(tracks) as ArrayRef),
        ("path", Arc::new(paths) as ArrayRef),
        ("vector", Arc::new(list.finish()) as ArrayRef),
        ("confidence", Arc::new(rows.iter().map(|row| row.confidence).collect::<Float32Array>())),
        ("lost", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.lost))) as ArrayRef),
    ])
    .map_err(|e| problem(&e))
}
