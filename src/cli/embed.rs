use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use ndarray::{Array2, Array3, ArrayView2, Axis};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;
use serde_json::json;

use super::{Context, exit_code, model_folder, print_json, print_line, progress, write_npy};
use crate::artefact::{atomic_write, content_hash};
use crate::audio::hear;
use crate::encoder::Model;
use crate::error::{Error, Result};
use crate::inputs::{Input, read_manifest, walk};

const EXAMPLES: &str = "\
Examples:
  debut embed ~/Music --out vectors.parquet      columns track, path, vector (40 numbers of unit length)
  debut embed a.mp3 b.flac --out vectors.npy     float32 [n, 40], and vectors.ids with the track of each row";

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
}

/// One row of the result.
struct Row {
    track: String,
    path: String,
}

pub fn run(args: Args, context: Context) -> Result<ExitCode> {
    let ending = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !["parquet", "npy"].contains(&ending) {
        return Err(Error::unsupported(&args.out, "a name ending in .parquet or .npy", format!(".{ending}")));
    }
    let model = Model::load(&model_folder(args.model.as_deref())?)?;
    let mut inputs: Vec<Result<Input>> = args.paths.iter().flat_map(|path| walk(path)).collect();
    if let Some(manifest) = &args.manifest {
        inputs.extend(read_manifest(manifest)?.into_iter().map(Ok));
    }
    let bar = progress(inputs.len() as u64, "embedding");
    let (mut rows, mut vectors, mut failed) = (Vec::new(), Vec::new(), 0);
    let front_end = &model.config.front_end;
    let mut seen = HashSet::new();
    // Two batches' worth in memory: enough for all cores to decode while results stay in order.
    for chunk in inputs.chunks_mut(64) {
        if context.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let heard: Vec<Result<(Row, Array2<f32>)>> = chunk
            .par_iter_mut()
            .map(|input| {
                let input = std::mem::replace(input, Err(Error::Interrupted))?;
                let heard = hear(&input.path, front_end, front_end.frames, 1)?;
                let track = match &input.id {
                    Some(id) => id.to_string(),
                    None => content_hash(&input.path)?,
                };
                bar.inc(1);
                let mel = heard.mels.into_iter().next();
                let mel = mel.ok_or_else(|| Error::decode(&input.path, "no window"))?;
                Ok((Row { track, path: input.path.to_string_lossy().into_owned() }, mel))
            })
            .collect();
        let mut good = Vec::new();
        for one in heard {
            match one {
                // Copies of one recording are one row, so that the ids name rows.
                Ok((row, _)) if !seen.insert(row.track.clone()) => {}
                Ok((row, mel)) => {
                    rows.push(row);
                    good.push(mel);
                }
                Err(e) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("failed: {e}"));
                }
            }
        }
        for batch in good.chunks(32) {
            let mut mels = Array3::zeros((batch.len(), front_end.frames, front_end.mel_bands));
            for (mut to, mel) in mels.axis_iter_mut(Axis(0)).zip(batch) {
                to.assign(mel);
            }
            vectors.extend(model.embed(mels.view())?.iter().copied());
        }
    }
    bar.finish_and_clear();
    let d = model.config.encoder.dimensions;
    let vectors = Array2::from_shape_vec((rows.len(), d), vectors)
        .map_err(|e| Error::mismatch("vectors and rows", rows.len(), e))?;
    if ending == "npy" {
        write_npy(&args.out, &vectors)?;
        let ids = args.out.with_extension("ids");
        atomic_write(&ids, |out| {
            rows.iter().try_for_each(|r| std::io::Write::write_all(out, format!("{}\n", r.track).as_bytes()))
        })?;
    } else {
        write_parquet(&args.out, &rows, vectors.view(), &model)?;
    }
    if context.json {
        print_json(&json!({ "embedded": rows.len(), "failed": failed, "out": args.out.to_string_lossy() }))?;
    } else {
        print_line(&format!("{} embedded, {failed} failed: {}", rows.len(), args.out.display()))?;
    }
    Ok(exit_code(failed))
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
