//! What a run says of itself, epoch by epoch: `metrics.jsonl`, `curve.svg`, and an event file for TensorBoard.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::tensorboard;
use super::train::Epoch;
use crate::artefact::atomic_write;
use crate::error::{Error, Result};
use crate::plot::{Chart, Series};

/// TensorBoard looks for files with `tfevents` in their names.
const EVENTS: &str = "events.out.tfevents.debut";

/// Writes what is known of the epochs so far: the end of the last one may not have been reached by the last checkpoint.
pub(crate) fn begin(out: &Path, epochs: &[Epoch], constant_loss: f64) -> Result<()> {
    let path = out.join(EVENTS);
    if epochs.is_empty() {
        // A run that starts over must not leave another's curves.
        for old in ["metrics.jsonl", "curve.svg"].map(|name| out.join(name)) {
            match fs::remove_file(&old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&old)(e)),
                _ => {}
            }
        }
    } else {
        lines_and_curve(out, epochs, constant_loss)?;
    }
    atomic_write(&path, |file| {
        file.write_all(&tensorboard::version(epochs.first().map_or(0, |e| e.ended) as f64))?;
        epochs.iter().try_for_each(|epoch| file.write_all(&scalars(epoch)))
    })
}

/// Adds the last of these epochs.
pub(crate) fn add(out: &Path, epochs: &[Epoch], constant_loss: f64) -> Result<()> {
    lines_and_curve(out, epochs, constant_loss)?;
    let Some(epoch) = epochs.last() else { return Ok(()) };
    // Appended, since TensorBoard keeps the file open and reads on where it was. A record that a crash has cut is passed over
    // there, and written anew when the run goes on.
    let path = out.join(EVENTS);
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(&scalars(epoch))).map_err(Error::io(&path))
}

fn scalars(epoch: &Epoch) -> Vec<u8> {
    let values = [
        ("loss/train", epoch.train_loss),
        ("loss/valid", epoch.valid_loss),
        ("valid/cosine", epoch.valid_cosine),
        ("valid/mrr", epoch.valid_mrr),
        ("learning_rate", epoch.learning_rate),
        ("gradient_norm/mean", epoch.gradient_norm),
        ("gradient_norm/max", epoch.gradient_norm_max),
        ("speed/samples_per_second", epoch.samples_per_second),
        ("speed/wait_seconds", epoch.wait_seconds),
    ];
    tensorboard::scalars(epoch.ended as f64, epoch.epoch as u64, &values)
}

fn lines_and_curve(out: &Path, epochs: &[Epoch], constant_loss: f64) -> Result<()> {
    let path = out.join("metrics.jsonl");
    let lines: Result<Vec<String>, _> = epochs.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|e| Error::format(&path, "a value that JSON can hold", e))?;
    atomic_write(&path, |file| lines.iter().try_for_each(|line| writeln!(file, "{line}")))?;
    let points = |y: fn(&Epoch) -> f64| epochs.iter().map(|e| (e.epoch as f64, y(e))).collect();
    let ends = epochs.first().zip(epochs.last()).map(|(a, b)| [a.epoch as f64, b.epoch as f64]);
    let line = |name: &str, y, dashed| Series { name: name.into(), points: points(y), dashed };
    let constant = ends.into_iter().flatten().map(|x| (x, constant_loss)).collect();
    let chart = Chart {
        title: "Training".into(),
        x_label: "epoch".into(),
        y_label: "loss (cosine and reciprocal rank: dashed)".into(),
        series: vec![
            line("training", |e| e.train_loss, false),
            line("validation", |e| e.valid_loss, false),
            Series { name: "validation, same for all".into(), points: constant, dashed: false },
            line("validation cosine", |e| e.valid_cosine, true),
            line("validation reciprocal rank", |e| e.valid_mrr, true),
        ],
    };
    atomic_write(&out.join("curve.svg"), |file| file.write_all(chart.svg().as_bytes()))
}
