//! The checkpoints of a run: files that are whole, verified, and enough to go on as if it had never stopped.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::model::{CONFIG_FILE, Model, read_tensors, write_tensors};
use super::objective::{Mean, bits};
use super::optimiser::State;
use super::train::Epoch;
use super::{EncoderConfig, LAYERS, Weights};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};

/// Weights, running average, the optimiser's two moments, and where in which epoch they are.
pub(crate) const LAST: &str = "last.safetensors";
/// The weights of the best epoch.
pub(crate) const BEST: &str = "best.safetensors";

/// The part of a run that a checkpoint says in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Hash of settings and data.
    pub run: String,
    /// Those that are over.
    pub epochs: Vec<Epoch>,
    /// Since the first epoch began.
    pub steps: u64,
    /// Of the epoch that is not over.
    pub part: Part,
}

/// What an epoch has measured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub loss: Mean,
    pub gradient_norm: Mean,
    #[serde(with = "bits")]
    pub gradient_norm_max: f64,
    /// Wall time of its training, and of it the time in which there was no batch.
    #[serde(with = "bits")]
    pub seconds: f64,
    #[serde(with = "bits")]
    pub wait_seconds: f64,
}

/// The best epoch and its weights.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    pub epoch: Epoch,
    pub weights: Weights,
    /// Whether its file holds it.
    pub saved: bool,
}

/// Writes [`BEST`], where it is not yet, and [`LAST`].
pub(crate) fn write(
    out: &Path,
    done: &Progress,
    state: &State,
    best: Option<&mut Best>,
    encoder: &EncoderConfig,
) -> Result<()> {
    // The best first: where only one of the two is written, the last is older, and repeats the way to this best.
    if let Some(best) = best.filter(|best| !best.saved) {
        let words = Progress { epochs: vec![best.epoch.clone()], part: Part::default(), ..done.clone() };
        write_one(&out.join(BEST), &[("", &best.weights)], &words, encoder)?;
        best.saved = true;
    }
    let parts = [
        ("weights.", &state.weights),
        ("average.", &state.average),
        ("first.", &state.first),
        ("second.", &state.second),
    ];
    write_one(&out.join(LAST), &parts, done, encoder)
}

fn write_one(path: &Path, networks: &[(&str, &Weights)], words: &Progress, encoder: &EncoderConfig) -> Result<()> {
    let words = serde_json::to_string(words).map_err(|e| Error::format(path, "progress that JSON can hold", e))?;
    let metadata = HashMap::from([("progress".to_string(), words), (HASH.to_string(), NO_HASH.to_string())]);
    let mut bytes = write_tensors(networks, Dtype::F32, encoder, metadata)
        .map_err(|e| Error::format(path, "weights that a file can hold", e))?;
    let hash = blake3::hash(&bytes).to_hex();
    if let Some(place) = place_of_hash(&mut bytes) {
        place.copy_from_slice(hash.as_bytes());
    }
    atomic_write(path, |file| file.write_all(&bytes))
}

/// The metadata that holds the BLAKE3 hash of the whole checkpoint, as it was with [`NO_HASH`] in its place.
const HASH: &str = "blake3";
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn place_of_hash(bytes: &mut [u8]) -> Option<&mut [u8]> {
    let name = format!("\"{HASH}\":\"");
    let at = bytes.windows(name.len()).position(|w| w == name.as_bytes())? + name.len();
    bytes.get_mut(at..at + NO_HASH.len())
}

/// A checkpoint's bytes and words, `None` where there is none.
fn read_words(path: &Path) -> Result<Option<(Vec<u8>, Progress)>> {
    let mut bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io(path))?,
    };
    let place =
        place_of_hash(&mut bytes).ok_or_else(|| Error::format(path, "a checkpoint", "a file without a hash"))?;
    let expected = String::from_utf8_lossy(place).into_owned();
    place.copy_from_slice(NO_HASH.as_bytes());
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() != expected {
        return Err(Error::format(path, format!("BLAKE3 {expected}"), found));
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| Error::format(path, "a checkpoint", e))?;
    let words = header.metadata().as_ref().and_then(|m| m.get("progress"));
    let words = words.ok_or_else(|| Error::format(path, "a checkpoint", "a file without progress"))?;
    let progress = serde_json::from_str(words).map_err(|e| Error::format(path, "a checkpoint", e))?;
    Ok(Some((bytes, progress)))
}

/// The last checkpoint of this run, `None` where there is none.
///
/// # Errors
/// `Format` where it is damaged, `Mismatch` where it is of other settings or data.
pub(crate) fn read_last(out: &Path, run: &str, encoder: &EncoderConfig) -> Result<Option<(Progress, State)>> {
    let path = out.join(LAST);
    let Some((bytes, progress)) = read_words(&path)? else { return Ok(None) };
    if progress.run != run {
        let what = format!("{} and these settings and data", path.display());
        let expected = "a checkpoint of this run (or an empty folder, or --fresh to start over)";
        return Err(Error::mismatch(what, expected, "one of another run"));
    }
    let part = |prefix| read_tensors(&bytes, prefix, Dtype::F32, encoder).map_err(|(e, f)| Error::format(&path, e, f));
    let state = State {
        weights: part("weights.")?,
        average: part("average.")?,
        first: part("first.")?,
        second: part("second.")?,
    };
    Ok(Some((progress, state)))
}

/// The weights of the best epoch as of the progress `done`, which is `best`; `None` where the file holds one from beyond that
/// progress, which will be found again.
///
/// # Errors
/// `Format` where it is damaged, missing, or another than it must be by what [`write()`] does first.
pub(crate) fn read_best(out: &Path, done: &Progress, best: &Epoch, encoder: &EncoderConfig) -> Result<Option<Best>> {
    let path = out.join(BEST);
    let expected = format!("the weights of epoch {} of the run of {LAST}", best.epoch);
    let Some((bytes, progress)) = read_words(&path)? else { return Err(Error::format(&path, expected, "no file")) };
    match progress.epochs.into_iter().next() {
        Some(epoch) if progress.run == done.run && epoch.epoch > done.epochs.len() => Ok(None),
        Some(epoch) if progress.run == done.run && epoch.epoch == best.epoch => {
            let weights = read_tensors(&bytes, "", Dtype::F32, encoder).map_err(|(e, f)| Error::format(&path, e, f))?;
            Ok(Some(Best { epoch, weights, saved: true }))
        }
        _ => Err(Error::format(&path, expected, "those of another epoch or run")),
    }
}

/// Takes the checkpoints and the model of an earlier run away, so that the next one starts over.
pub fn forget(out: &Path) -> Result<()> {
    // The model first, which is another's from now on; then the last: a best without it is not gone on from.
    for name in [CONFIG_FILE, LAST, BEST] {
        let path = out.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether there is a run to go on with.
pub fn is_begun(out: &Path) -> bool {
    out.join(LAST).exists()
}

/// Weights to start from: those of the best epoch of the run, or of the model, in `folder`, for a network of the shape
/// `encoder`. Only the output layer may have another shape there; it is a fresh one, seeded by `seed`, in any case: it is the
/// part that knows what was predicted there.
///
/// # Errors
/// `NotFound` where the folder holds neither a run nor a model; `Format` where that is damaged; `Mismatch` where its network
/// has another shape.
pub fn start_from(folder: &Path, encoder: &EncoderConfig, seed: u64) -> Result<Weights> {
    let (path, mut weights) = found_weights(folder, encoder)?;
    let fresh = Weights::random(encoder, seed);
    let last = LAYERS.len() - 1;
    for (name, (found, expected)) in LAYERS.iter().zip(weights.layers.iter().zip(&fresh.layers)).take(last) {
        let (found, expected) = (found.weight.dim(), expected.weight.dim());
        if found != expected {
            let what = format!("{} and this network: {name}", path.display());
            return Err(Error::mismatch(what, format!("{expected:?} weights"), format!("{found:?}")));
        }
    }
    weights.layers[last] = fresh.layers[last].clone();
    Ok(weights)
}

/// The weights in a run's or a model's folder, whatever their shape, and their file.
fn found_weights(folder: &Path, encoder: &EncoderConfig) -> Result<(PathBuf, Weights)> {
    let path = folder.join(BEST);
    if let Some((bytes, _)) = read_words(&path)? {
        let shape = |name: &str| {
            let file = SafeTensors::deserialize(&bytes).map_err(|e| Error::format(&path, "a checkpoint", e))?;
            let shape = file.tensor(name).map(|t| t.shape().to_vec());
            shape.map_err(|e| Error::format(&path, format!("a tensor {name}"), e))
        };
        // The shapes as they are in the file, so that an error can say which layer differs.
        let mut found = encoder.clone();
        for (i, channels) in found.channels.iter_mut().enumerate() {
            *channels = shape(&format!("conv{}.weight", i + 1))?.first().copied().unwrap_or(0);
        }
        let first = shape("conv1.weight")?;
        (found.mel_bands, found.kernel) = (first.get(1).copied().unwrap_or(0), first.get(2).copied().unwrap_or(0));
        for (i, units) in found.dense.iter_mut().enumerate() {
            *units = shape(&format!("dense{}.weight", i + 1))?.first().copied().unwrap_or(0);
        }
        found.dimensions = shape("output.weight")?.first().copied().unwrap_or(0);
        found.check().map_err(|e| Error::format(&path, "a network", e))?;
        if found.mel_bands != encoder.mel_bands {
            let what = format!("{} and this network: mel bands", path.display());
            return Err(Error::mismatch(what, encoder.mel_bands, found.mel_bands));
        }
        let weights = read_tensors(&bytes, "", Dtype::F32, &found).map_err(|(e, f)| Error::format(&path, e, f))?;
        return Ok((path, weights));
    }
    if !folder.join(CONFIG_FILE).is_file() {
        return Err(Error::NotFound { what: "run or model to start from", name: folder.display().to_string() });
    }
    let model = Model::load(folder)?;
    if model.config.encoder.mel_bands != encoder.mel_bands {
        let what = format!("{} and this network: mel bands", folder.display());
        return Err(Error::mismatch(what, encoder.mel_bands, model.config.encoder.mel_bands));
    }
    Ok((folder.join(super::model::WEIGHTS_FILE), model.weights()?))
}
