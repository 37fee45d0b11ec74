use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use ndarray::{Array2, ArrayView2};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Context, exit_code, model_folder, print_json, print_line, progress, write_npy};
use crate::artefact::{atomic_write, content_hash};
use crate::audio::{Heard, Listening, Spent, hear};
use crate::encoder::{Device, Model};
use crate::error::{Error, Result};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut embed ~/Music --out vectors.parquet      columns track, path, vector (40 numbers of unit length)
  debut embed a.mp3 b.flac --out vectors.npy     float32 [n, 40], and vectors.ids with the track of each row
  debut embed ~/Music --out v.npy --timings      where the time goes, stage by stage";

/// Tracks that are heard while those before them go through the network: enough for all cores, and for full batches.
const CHUNK: usize = 64;

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

    /// Windows of 28 s to hear of each track, spread over it; more are for pieces that change [default: listen.segments, 1].
    #[arg(long, value_name = "N")]
    segments: Option<usize>,

    /// Where the network runs: cpu, or a GPU by way of cuda, wgpu or vulkan (each to be built in: --features NAME).
    #[arg(long, default_value_t)]
    device: Device,

    /// Tell where the time went.
    #[arg(long)]
    timings: bool,
}

/// One row of the result.
struct Row {
    track: String,
    path: String,
}

/// What the run took, on the clock of the wall, added up over its threads.
#[derive(Default)]
struct Timings {
    heard: Spent,
    /// Reading files to name them by their content.
    hash: Duration,
    network: Duration,
    write: Duration,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let started = Instant::now();
    let ending = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !["parquet", "npy"].contains(&ending) {
        return Err(Error::unsupported(&args.out, "a name ending in .parquet or .npy", format!(".{ending}")));
    }
    let config = &context.config.listen;
    let listening = Listening { segments: args.segments.unwrap_or(config.segments), ..config.clone() };
    listening.check()?;
    let model = Model::load(&model_folder(args.model.as_deref())?)?.on(args.device)?;
    let mut inputs: Vec<Result<Input>> = args.paths.iter().flat_map(|path| walk(path)).collect();
    if let Some(manifest) = &args.manifest {
        inputs.extend(read_manifest(manifest)?.into_iter().map(Ok));
    }
    let bar = progress(inputs.len() as u64, "embedding");
    let (mut rows, mut vectors, mut failed) = (Vec::new(), Vec::new(), 0);
    let mut timings = Timings::default();
    let mut seen = HashSet::new();
    // The next chunk is heard while this one goes through the network, and no more, so that memory is bounded.
    let (to_network, chunks) = mpsc::sync_channel(1);
    let done = thread::scope(|scope| {
        let (model, listening, bar, stop) = (&model, &listening, &bar, &context.stop);
        scope.spawn(move || {
            while !inputs.is_empty() && !stop.load(Ordering::Relaxed) {
                let chunk: Vec<Result<Input>> = inputs.drain(..CHUNK.min(inputs.len())).collect();
                let heard: Vec<_> = chunk
                    .into_par_iter()
                    .map(|input| input.and_then(|input| one(&input, model, listening)))
                    .inspect(|_| bar.inc(1))
                    .collect();
                // Nobody listens once the network has failed.
                if to_network.send(heard).is_err() {
                    return;
                }
            }
        });
        for chunk in chunks {
            let mut good: Vec<Vec<Array2<f32>>> = Vec::new();
            for one in chunk {
                match one {
                    Ok((row, heard, hash)) => {
                        timings.heard += heard.spent;
                        timings.hash += hash;
                        // Copies of one recording are one row, so that the ids name rows.
                        if seen.insert(row.track.clone()) {
                            rows.push(row);
                            good.push(heard.mels);
                        }
                    }
                    Err(e) => {
                        failed += 1;
                        bar.suspend(|| eprintln!("failed: {e}"));
                    }
                }
            }
            let started = Instant::now();
            let heard = rows[rows.len() - good.len()..].iter().zip(&good);
            let tracks: Vec<(&Path, &[Array2<f32>])> = heard.map(|(row, mels)| (Path::new(&row.path), &mels[..])).collect();
            vectors.extend(model.embed_tracks(&tracks)?.iter().copied());
            timings.network += started.elapsed();
        }
        Ok(())
    });
    bar.finish_and_clear();
    done?;
    if context.stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let d = model.config.encoder.dimensions;
    let vectors = Array2::from_shape_vec((rows.len(), d), vectors)
        .map_err(|e| Error::mismatch("vectors and rows", rows.len(), e))?;
    let writing = Instant::now();
    if ending == "npy" {
        write_npy(&args.out, &vectors)?;
        let ids = args.out.with_extension("ids");
        atomic_write(&ids, |out| {
            rows.iter().try_for_each(|r| std::io::Write::write_all(out, format!("{}\n", r.track).as_bytes()))
        })?;
    } else {
        write_parquet(&args.out, &rows, vectors.view(), &model)?;
    }
    timings.write = writing.elapsed();
    let report = args.timings.then(|| timings.report(args.device, rows.len(), started.elapsed()));
    if context.json {
        let mut told = json!({ "embedded": rows.len(), "failed": failed, "out": args.out.to_string_lossy() });
        if let Some(report) = report {
            told["timings"] = report;
        }
        print_json(&told)?;
    } else {
        print_line(&format!("{} embedded, {failed} failed: {}", rows.len(), args.out.display()))?;
        if let Some(report) = report {
            print_report(&report)?;
        }
    }
    Ok(exit_code(failed))
}

/// Hears one file, and how long it took to name it.
fn one(input: &Input, model: &Model, listening: &Listening) -> Result<(Row, Heard, Duration)> {
    let front_end = &model.config.front_end;
    let heard = hear(&input.path, front_end, front_end.frames, listening)?;
    let started = Instant::now();
    let track = match &input.id {
        Some(id) => id.to_string(),
        None => content_hash(&input.path)?,
    };
    Ok((Row { track, path: input.path.to_string_lossy().into_owned() }, heard, started.elapsed()))
}

impl Timings {
    /// For programs, and for [`print_report`]. Stages are in milliseconds a track, added up over the threads.
    fn report(&self, device: Device, tracks: usize, wall: Duration) -> Value {
        let each = |time: Duration| 1e3 * time.as_secs_f64() / tracks.max(1) as f64;
        let Spent { open, decode, resample, mel } = self.heard;
        let rate = tracks as f64 / wall.as_secs_f64();
        json!({
            "tracks": tracks,
            "seconds": wall.as_secs_f64(),
            "tracks_per_second": rate,
            "tracks_per_day": (rate * 86_400.0).round(),
            "device": device.to_string(),
            "threads": rayon::current_num_threads(),
            "peak_memory_mb": peak_memory_mb(),
            "ms_per_track": {
                "open": each(open),
                "decode": each(decode),
                "resample": each(resample),
                "mel": each(mel),
                "hash": each(self.hash),
                "network": each(self.network),
                "write": each(self.write),
            },
        })
    }
}

fn print_report(report: &Value) -> Result<()> {
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    print_line(&format!(
        "{:.1} s on {} threads: {:.1} tracks a second, {:.1} million a day{}",
        number("seconds"),
        report["threads"],
        number("tracks_per_second"),
        number("tracks_per_day") / 1e6,
        report["peak_memory_mb"].as_u64().map_or(String::new(), |mb| format!("; {mb} MB at most")),
    ))?;
    print_line(
        "milliseconds a track, added up over the threads (the network's are of the wall, all threads at once):",
    )?;
    let stages = ["open", "decode", "resample", "mel", "hash", "network", "write"];
    for stage in stages {
        print_line(&format!("  {stage:<9}{:>8.2}", report["ms_per_track"][stage].as_f64().unwrap_or(0.0)))?;
    }
    Ok(())
}

/// The most memory that this process has held so far; where the system tells it (Linux).
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb / 1024)
}

fn write_parquet(path: &Path, rows: &[Row], vectors: ArrayView2<f32>, model: &Model) -> Result<()> {
    let problem = |e: &dyn std::fmt::Display| Error::format(path, "vectors that Parquet can hold", e);
    let width = i32::try_from(vectors.ncols()).map_err(|e| problem(&e))?;
    let mut list = FixedSizeListBuilder::new(Float32Builder::new(), width);
    for row in vectors.outer_iter() {
        row.iter().for_each(|v| list.values().append_value(*v));
        list.append(true);
    }
    let column = |text: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(text))) as ArrayRef;
    let batch = RecordBatch::try_from_iter([
        ("track", column(|r| &r.track)),
        ("path", column(|r| &r.path)),
        ("vector", Arc::new(list.finish()) as ArrayRef),
    ])
    .map_err(|e| problem(&e))?;
    // Which network, and which space: vectors without them cannot be compared with anything.
    let named = |key: &str, value: String| KeyValue::new(key.to_string(), value);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![
            named("debut.model", model.id()),
            named("debut.space", model.config.space.to_string()),
        ]))
        .build();
    atomic_write(path, |out| {
        let file: &mut std::io::BufWriter<&File> = out;
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).map_err(std::io::Error::other)?;
        writer.write(&batch).map_err(std::io::Error::other)?;
        writer.finish().map_err(std::io::Error::other)?;
        Ok(())
    })
}
