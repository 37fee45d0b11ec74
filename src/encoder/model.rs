//! A trained network in a folder: `model.toml` (what it is) and `model.safetensors` (its weights).
//!
//! The weights are 16-bit floats on disk (18.8 MB for the preset) and 32-bit in memory, under PyTorch's names and
//! layouts: `conv1.weight` `[out, in, width]`, `dense1.weight` `[out, in]`, `*.bias` `[out]`, and the two constants
//! `input.mean` and `input.std` `[mel_bands]`. A [`Model`] is made by reading those bytes even right after training, so
//! what is evaluated is what is shipped.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use half::f16;
use ndarray::{Array1, Array2, ArrayView3};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::artist::{ArtistHead, Known};
use super::confidence::Calibration;
use super::embed::{Engine, normalise};
use super::{CONVOLUTIONS, Device, EncoderConfig, LAYERS, Layer, Weights};
use crate::artefact::{SpaceId, atomic_write, read_sealed_toml, write_sealed_toml};
use crate::audio::FrontEnd;
use crate::error::{Error, Result};
use crate::ids::TrackId;

/// The description in a model's folder.
pub const CONFIG_FILE: &str = "model.toml";
/// The weights in a model's folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// What a model is, and what it goes with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A short name for people; [`Model::id`] is the exact one.
    pub name: String,
    /// The space of the vectors that it predicts.
    pub space: SpaceId,
    /// The median length of the learned track factors: the scale that a unit prediction is given back where it is
    /// used beside learned factors.
    pub typical_norm: f32,
    /// BLAKE3 of the weights file; filled in by [`Model::new`].
    #[serde(default)]
    pub weights: String,
    /// BLAKE3 of `space.json`, which describes the space; empty where none lies beside the model.
    #[serde(default)]
    pub space_json: String,
    /// Names the tracks that it must not know ([`held_out_hash`]), so that it is scored on no others; empty: nobody knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub held_out: String,
    /// The network.
    #[serde(default)]
    pub encoder: EncoderConfig,
    /// How audio becomes what it hears.
    #[serde(default)]
    pub front_end: FrontEnd,
    /// What the songs of a track's artist add to its sound; none where that was not trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artist: Option<ArtistHead>,
    /// How sure an answer is, for each number of windows that this was measured for: the mean of several answers is shorter
    /// than one, and nearer to the truth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confidence: Vec<Confidence>,
    /// How it was trained: tracks, settings, seconds, seed.
    #[serde(default)]
    pub training: BTreeMap<String, String>,
    /// How well it did, on what it had not heard.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
}

impl ModelConfig {
    /// Reads the description alone, without the weights.
    ///
    /// # Errors
    /// `Io`; `Format` where it is damaged or does not hold together.
    pub fn load(dir: &Path) -> Result<ModelConfig> {
        let path = dir.join(CONFIG_FILE);
        let config: ModelConfig = read_sealed_toml(&path, "the description of a model")?;
        config.check().map_err(|e| Error::format(path, "a consistent model", e))?;
        Ok(config)
    }

    /// `name@` and the first 12 hexadecimal digits of the weights' hash: vectors of one id can be compared.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.weights.get(..12).unwrap_or(&self.weights))
    }

    /// What to serve of a track that nobody has played: `sound` `[d]`, the network's answer as it is, the mean over so many
    /// `windows`, and what the `songs` of its artist add.
    ///
    /// # Errors
    /// `Invalid` for an answer without a direction.
    pub fn prediction(&self, sound: &[f32], windows: usize, songs: &[Known]) -> Result<Prediction> {
        let head = self.artist.unwrap_or_default();
        let joined = head.join(sound, songs);
        let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let alone = joined == head.join(sound, &[]);
        let calibration = self.confidence_of(windows).map(|c| if alone { c.sound } else { c.artist });
        let confidence = calibration.map(|c| c.confidence(length(&joined) as f32));
        let margin = calibration.map(|c| c.margin);
        let unit = |v: &[f32]| {
            let mut unit = Array1::from(v.to_vec());
            match normalise(unit.view_mut()) {
                true => Ok(unit.to_vec()),
                false => Err(Error::invalid("a prediction", "a direction", "no finite length")),
            }
        };
        Ok(Prediction { sound: unit(sound)?, length: length(sound) as f32, vector: unit(&joined)?, confidence, margin })
    }

    /// How sure the mean of the answers to so many windows is, where that was measured.
    pub fn confidence_of(&self, windows: usize) -> Option<&Confidence> {
        self.confidence.iter().find(|c| c.windows == windows)
    }

    fn check(&self) -> Result<()> {
        self.encoder.check()?;
        self.artist.map_or(Ok(()), |head| head.check())?;
        self.confidence.iter().try_for_each(|c| c.sound.check().and(c.artist.check()))?;
        check_name(&self.name)?;
        if !(self.typical_norm.is_finite() && self.typical_norm > 0.0) {
            return Err(Error::invalid("typical_norm", "a positive number", self.typical_norm));
        }
        let (heard, made) =
            ((self.encoder.frames, self.encoder.mel_bands), (self.front_end.frames, self.front_end.mel_bands));
        if heard != made {
            return Err(Error::mismatch(
                "network and front end (frames, mel bands)",
                format!("{heard:?}"),
                format!("{made:?}"),
            ));
        }
        Ok(())
    }
}

/// # Errors
/// `Invalid` for a name that a model cannot have.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 64 || name.contains(['@', '/']) || name.contains(char::is_control) {
        return Err(Error::invalid("model name", "1 to 64 bytes without '@', '/' and control characters", name));
    }
    Ok(())
}

/// Names a set of held-out tracks, in whatever order.
pub fn held_out_hash(tracks: &[TrackId]) -> String {
    let mut names: Vec<&str> = tracks.iter().map(TrackId::as_str).collect();
    names.sort_unstable();
    // No id holds a line break.
    blake3::hash(names.join("\n").as_bytes()).to_hex().to_string()
}

/// How sure answers are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// The windows of a track whose answers are averaged.
    pub windows: usize,
    /// Of the sound alone.
    pub sound: Calibration,
    /// Of the sound joined with songs of the artist.
    pub artist: Calibration,
}

/// What a model says of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// `[d]`, unit length: of the sound alone.
    pub sound: Vec<f32>,
    /// The length of the network's answer.
    pub length: f32,
    /// `[d]`, unit length: what to serve.
    pub vector: Vec<f32>,
    /// The cosine to expect between `vector` and what listeners are going to teach, 0 to 1.
    pub confidence: Option<f32>,
    /// Nine of ten tracks lie above the confidence less this.
    pub margin: Option<f32>,
}

/// A network ready to embed songs.
#[derive(Debug)]
pub struct Model {
    pub config: ModelConfig,
    pub(super) engine: Engine,
    device: Device,
    /// The weights file.
    bytes: Vec<u8>,
}

impl Model {
    /// A model with these weights, rounded to what its file will hold. `config.weights` is filled in.
    ///
    /// # Errors
    /// `Invalid` or `Mismatch` where the settings, or settings and weights, do not fit together.
    pub fn new(mut config: ModelConfig, weights: &Weights) -> Result<Model> {
        config.check()?;
        let path = Path::new(WEIGHTS_FILE);
        let bytes = write_tensors(&[("", weights)], Dtype::F16, &config.encoder, HashMap::new())
            .map_err(|e| Error::format(path, "weights that a file can hold", e))?;
        config.weights = blake3::hash(&bytes).to_hex().to_string();
        Model::from_parts(config, bytes, path)
    }

    /// Reads a model's folder.
    ///
    /// # Errors
    /// `Io`; `Format` or `Mismatch`, naming the file, where it is damaged, or is not the one that `model.toml`
    /// describes, or does not fit the network.
    pub fn load(dir: &Path) -> Result<Model> {
        let config = ModelConfig::load(dir)?;
        let path = dir.join(WEIGHTS_FILE);
        let file = File::open(&path).map_err(Error::io(&path))?;
        // The size is known before a byte is read, so a wrong file costs no memory.
        let (least, most) = file_size(&config.encoder);
        let found = file.metadata().map_err(Error::io(&path))?.len();
        if !(least..=most).contains(&found) {
            return Err(Error::format(&path, format!("{least} to {most} bytes"), format!("{found} bytes")));
        }
        let mut bytes = Vec::with_capacity(found as usize);
        file.take(most).read_to_end(&mut bytes).map_err(Error::io(&path))?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        if hash != config.weights {
            let what = format!("{} and its weights", dir.join(CONFIG_FILE).display());
            return Err(Error::mismatch(what, format!("{} with hash {}", path.display(), config.weights), hash));
        }
        Model::from_parts(config, bytes, &path)
    }

    /// Writes the model's folder; `model.toml` comes last, so a folder that has one is whole.
    pub fn save(&self, dir: &Path) -> Result<()> {
        atomic_write(&dir.join(WEIGHTS_FILE), |out| out.write_all(&self.bytes))?;
        write_sealed_toml(&dir.join(CONFIG_FILE), &self.config)
    }

    /// [`ModelConfig::id`].
    pub fn id(&self) -> String {
        self.config.id()
    }

    /// Where the network runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The same model on another device; a new one is on the CPU.
    ///
    /// # Errors
    /// `Invalid` where this program was built without the device's feature, the machine has no such device, or it
    /// cannot run the network.
    pub fn on(self, device: Device) -> Result<Model> {
        // To pack the weights takes as long as to read them.
        if device == self.device {
            return Ok(self);
        }
        let weights = self.weights()?;
        let engine = Engine::new(device, &self.config.encoder, &weights)?;
        Ok(Model { engine, device, ..self })
    }

    /// The numbers of its network, as its file has them.
    pub(super) fn weights(&self) -> Result<Weights> {
        weights_of(&self.config, &self.bytes, Path::new(WEIGHTS_FILE))
    }

    fn from_parts(config: ModelConfig, bytes: Vec<u8>, path: &Path) -> Result<Model> {
        let weights = weights_of(&config, &bytes, path)?;
        let engine = Engine::new(Device::Cpu, &config.encoder, &weights)?;
        Ok(Model { config, engine, device: Device::Cpu, bytes })
    }
}

/// What a weights file holds; `path` is for errors.
fn weights_of(config: &ModelConfig, bytes: &[u8], path: &Path) -> Result<Weights> {
    read_tensors(bytes, "", Dtype::F16, &config.encoder).map_err(|(e, f)| Error::format(path, e, f))
}

/// The least and the most bytes that a weights file of this network can have: its numbers, and up to 1 MiB of header
/// (2 KB in ours).
fn file_size(encoder: &EncoderConfig) -> (u64, u64) {
    let numbers = 2 * (encoder.parameters() as u64 + 2 * encoder.mel_bands as u64);
    (numbers, numbers + (1 << 20))
}

/// Every tensor of a network's file: name and shape, in PyTorch's layout.
fn expected_tensors(encoder: &EncoderConfig) -> Vec<(String, Vec<usize>)> {
    let mut all =
        vec![("input.mean".to_string(), vec![encoder.mel_bands]), ("input.std".to_string(), vec![encoder.mel_bands])];
    for (i, (name, (inputs, outputs))) in LAYERS.iter().zip(encoder.shapes()).enumerate() {
        let shape = match i < CONVOLUTIONS {
            true => vec![outputs, inputs / encoder.kernel, encoder.kernel],
            false => vec![outputs, inputs],
        };
        all.push((format!("{name}.weight"), shape));
        all.push((format!("{name}.bias"), vec![outputs]));
    }
    all
}

/// The numbers of each tensor of [`expected_tensors`], in its order and layout.
fn to_pytorch(weights: &Weights, encoder: &EncoderConfig) -> Vec<Vec<f32>> {
    let mut all = vec![weights.mean.to_vec(), weights.std.to_vec()];
    for (i, layer) in weights.layers.iter().enumerate() {
        let (inputs, outputs) = layer.weight.dim();
        let width = if i < CONVOLUTIONS { encoder.kernel } else { 1 };
        let layout = layer.weight.view().into_shape_with_order((width, inputs / width, outputs));
        // [width, in, out] → [out, in, width]
        all.push(layout.map_or_else(|_| Vec::new(), |w| w.permuted_axes([2, 1, 0]).iter().copied().collect()));
        all.push(layer.bias.to_vec());
    }
    all
}

/// The opposite of [`to_pytorch`].
fn from_pytorch(numbers: Vec<Vec<f32>>, encoder: &EncoderConfig) -> Option<Weights> {
    let mut numbers = numbers.into_iter();
    let (mean, std) = (Array1::from(numbers.next()?), Array1::from(numbers.next()?));
    let mut layers = Vec::new();
    for (i, (inputs, outputs)) in encoder.shapes().into_iter().enumerate() {
        let width = if i < CONVOLUTIONS { encoder.kernel } else { 1 };
        let weight = numbers.next()?;
        let view = ArrayView3::from_shape((outputs, inputs / width, width), &weight).ok()?;
        let weight = view.permuted_axes([2, 1, 0]).iter().copied().collect();
        layers.push(Layer {
            weight: Array2::from_shape_vec((inputs, outputs), weight).ok()?,
            bias: Array1::from(numbers.next()?),
        });
    }
    Some(Weights { mean, std, layers })
}

/// A safetensors file that holds these networks' numbers, each under its prefix, as F16 or F32.
pub(super) fn write_tensors(
    networks: &[(&str, &Weights)],
    dtype: Dtype,
    encoder: &EncoderConfig,
    mut metadata: HashMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut tensors = Vec::new();
    for (prefix, weights) in networks {
        for ((name, shape), numbers) in expected_tensors(encoder).into_iter().zip(to_pytorch(weights, encoder)) {
            let bytes: Vec<u8> = match dtype {
                Dtype::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            };
            tensors.push((format!("{prefix}{name}"), shape, bytes));
        }
    }
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, shape, bytes)| TensorView::new(dtype, shape.clone(), bytes).map(|view| (name, view)))
        .collect();
    // The mark by which readers of the format know PyTorch's layouts.
    metadata.insert("format".into(), "pt".into());
    views.and_then(|views| safetensors::serialize(views, Some(metadata))).map_err(|e| e.to_string())
}

/// Reads one network's numbers back: the tensors whose names start with `prefix`, which must be exactly those of
/// [`expected_tensors`].
///
/// # Errors
/// What was expected and what was found.
pub(super) fn read_tensors(
    bytes: &[u8],
    prefix: &str,
    dtype: Dtype,
    encoder: &EncoderConfig,
) -> Result<Weights, (String, String)> {
    let fail = |expected: &str, found: String| (expected.to_string(), found);
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail("a safetensors file", e.to_string()))?;
    let expected = expected_tensors(encoder);
    let names: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_prefix(prefix)).collect();
    if let Some(extra) = names.iter().find(|n| !expected.iter().any(|(name, _)| name == *n)) {
        return Err(fail("only the network's tensors", format!("{extra:?}")));
    }
    let mut numbers = Vec::with_capacity(expected.len());
    for (name, shape) in &expected {
        let tensor =
            file.tensor(&format!("{prefix}{name}")).map_err(|e| fail(&format!("a tensor {name}"), e.to_string()))?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(fail(&format!("{name} to be {dtype:?} {shape:?}"), found));
        }
        let values: Vec<f32> = match dtype {
            Dtype::F16 => tensor.data().as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            _ => tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        };
        if let Some(x) = values.iter().find(|x| !x.is_finite() || (name == "input.std" && **x <= 0.0)) {
            let range = if name == "input.std" { "positive" } else { "finite" };
            return Err(fail(&format!("{range} numbers in {name}"), x.to_string()));
        }
        numbers.push(values);
    }
    from_pytorch(numbers, encoder).ok_or_else(|| fail("tensors of the network's shapes", "others".into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::artefact::seal;
    use crate::encoder::tests::tiny;
    use ndarray::Array3;
    use rand::{RngExt, SeedableRng};
    use std::fs;

    fn config(encoder: EncoderConfig) -> ModelConfig {
        ModelConfig {
            name: "tiny".into(),
            space: SpaceId::named("space-test"),
            typical_norm: 1.5,
            weights: String::new(),
            space_json: String::new(),
            front_end: FrontEnd { frames: encoder.frames, mel_bands: encoder.mel_bands, ..FrontEnd::default() },
            encoder,
            artist: None,
            confidence: Vec::new(),
            held_out: String::new(),
            training: BTreeMap::from([("seed".into(), "1".into())]),
            scores: BTreeMap::from([("recall@20".into(), 0.25)]),
        }
    }

    /// A model with random weights.
    pub(in crate::encoder) fn of(encoder: &EncoderConfig) -> Model {
        let mut weights = Weights::random(encoder, 1);
        weights.mean.fill(3.0);
        weights.layers.iter_mut().for_each(|l| l.bias.fill(0.125));
        Model::new(config(encoder.clone()), &weights).unwrap()
    }

    fn model() -> Model {
        of(&tiny())
    }

    fn songs(n: usize, seed: u64) -> Array3<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        Array3::from_shape_simple_fn((n, tiny().frames, tiny().mel_bands), || rng.random_range(0.0..9.0))
    }

    #[test]
    fn a_saved_model_comes_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        model.save(dir.path()).unwrap();
        let back = Model::load(dir.path()).unwrap();
        assert_eq!(back.config, model.config);
        assert_eq!(back.id(), model.id());
        assert!(back.id().starts_with("tiny@") && back.id().len() == 17);
        let songs = songs(3, 1);
        assert_eq!(back.embed(songs.view()).unwrap(), model.embed(songs.view()).unwrap());
        assert!(model.embed(songs.view()).unwrap().outer_iter().all(|v| (v.dot(&v) - 1.0).abs() < 1e-6));
    }

    #[test]
    fn files_hold_pytorch_s_names_and_layouts() {
        let model = model();
        let file = SafeTensors::deserialize(&model.bytes).unwrap();
        assert_eq!(file.len(), 16);
        let weight = file.tensor("conv2.weight").unwrap();
        assert_eq!((weight.shape(), weight.dtype()), (&[8usize, 8, 4][..], Dtype::F16));
        assert_eq!(file.tensor("dense1.weight").unwrap().shape(), [24, 36]);
        // conv2.weight[out 5][in 3][frame 2]
        let at = 2 * ((5 * 8 + 3) * 4 + 2);
        let stored = f16::from_le_bytes([weight.data()[at], weight.data()[at + 1]]);
        let ours = Weights::random(&tiny(), 1).layers[1].weight[[2 * 8 + 3, 5]];
        assert_eq!(stored, f16::from_f32(ours));
    }

    #[test]
    fn thirty_two_bits_survive_a_round_trip_under_a_prefix() {
        let weights = Weights::random(&tiny(), 2);
        let other = Weights::random(&tiny(), 3);
        let bytes = write_tensors(&[("a/", &weights), ("b/", &other)], Dtype::F32, &tiny(), HashMap::new()).unwrap();
        assert_eq!(read_tensors(&bytes, "a/", Dtype::F32, &tiny()).unwrap(), weights);
        assert_eq!(read_tensors(&bytes, "b/", Dtype::F32, &tiny()).unwrap(), other);
    }

    #[test]
    fn songs_of_another_shape_or_with_nan_are_refused() {
        let model = model();
        let wrong = Array3::zeros((1, tiny().frames, tiny().mel_bands + 1));
        assert!(matches!(model.embed(wrong.view()), Err(Error::Mismatch { .. })));
        let mut songs = songs(20, 1);
        songs[[17, 3, 2]] = f32::NAN;
        assert!(model.embed(songs.view()).unwrap_err().to_string().contains("song 17"));
        assert_eq!(model.embed(songs.slice(ndarray::s![..0, .., ..])).unwrap().dim(), (0, 5));
    }

    /// Loads the folder after `damage` had its way with the weights file, whose hash is then put right if `sign`.
    fn load_damaged(sign: bool, damage: impl FnOnce(&mut Vec<u8>)) -> Error {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        model.save(dir.path()).unwrap();
        let path = dir.path().join(WEIGHTS_FILE);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        if sign {
            let config = ModelConfig { weights: blake3::hash(&bytes).to_hex().to_string(), ..model.config };
            write_sealed_toml(&dir.path().join(CONFIG_FILE), &config).unwrap();
        }
        let error = Model::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains(WEIGHTS_FILE), "{error}");
        error
    }

    #[test]
    fn damaged_files_are_refused_by_their_hash() {
        assert!(matches!(load_damaged(false, |b| b[5000] ^= 1), Error::Mismatch { .. }));
        assert!(matches!(
            load_damaged(false, |b| b.truncate(b.len() - 1)),
            Error::Mismatch { .. } | Error::Format { .. }
        ));
        assert!(matches!(load_damaged(false, |b| b.truncate(10)), Error::Format { .. }));
        assert!(matches!(load_damaged(false, |b| b.resize(b.len() + (2 << 20), 0)), Error::Format { .. }));
    }

    #[test]
    fn ill_formed_files_are_refused_even_with_the_right_hash() {
        let huge_header = |b: &mut Vec<u8>| b[..8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        assert!(load_damaged(true, huge_header).to_string().contains("header too large"));
        let long_header = |b: &mut Vec<u8>| b[..8].copy_from_slice(&99_999_999u64.to_le_bytes());
        assert!(load_damaged(true, long_header).to_string().contains("header length"));
        assert!(load_damaged(true, |b| b.truncate(b.len() - 2)).to_string().contains("not fully covered"));
        assert!(load_damaged(true, |b| b.extend([0; 2])).to_string().contains("not fully covered"));
        let nan = |b: &mut Vec<u8>| {
            let end = b.len();
            b[end - 2..].copy_from_slice(&f16::NAN.to_le_bytes());
        };
        assert!(load_damaged(true, nan).to_string().contains("finite"));
        let replace = |from: &'static str, to: &'static str| {
            move |b: &mut Vec<u8>| {
                assert_eq!(from.len(), to.len());
                let at = b.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
                b[at..at + from.len()].copy_from_slice(to.as_bytes());
            }
        };
        assert!(load_damaged(true, replace("conv2.bias", "conv9.bias")).to_string().contains("conv9.bias"));
        assert!(load_damaged(true, replace("[24,36]", "[36,24]")).to_string().contains("[36, 24]"));
        assert!(load_damaged(true, replace("\"F16\"", "\"I16\"")).to_string().contains("I16"));
    }

    #[test]
    fn another_network_s_weights_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        model.save(dir.path()).unwrap();
        // As many numbers in other shapes: 8 × 8 channels are 8 × 8 either way, dense layers are swapped.
        let encoder = EncoderConfig { dense: [24, 23], ..tiny() };
        write_sealed_toml(&dir.path().join(CONFIG_FILE), &ModelConfig { encoder, ..model.config.clone() }).unwrap();
        let error = Model::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("dense2") && error.to_string().contains(WEIGHTS_FILE), "{error}");
    }

    #[test]
    fn descriptions_that_do_not_hold_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        model().save(dir.path()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (from, to, named) in [
            ("mel_bands = 8", "mel_bands = 9", "network and front end"),
            ("typical_norm = 1.5", "typical_norm = nan", "typical_norm"),
            ("name = \"tiny\"", "name = \"a@b\"", "model name"),
            ("kernel = 4", "kernel = 0", "kernel"),
            ("[scores]", "[scorse]", "scorse"),
        ] {
            assert!(text.contains(from), "{text}");
            let (_, text) = text.split_once('\n').unwrap();
            fs::write(&path, seal(&text.replacen(from, to, 1))).unwrap();
            let error = Model::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(CONFIG_FILE), "{error}");
        }
    }

    #[test]
    fn weights_beyond_sixteen_bits_are_refused() {
        let mut weights = Weights::random(&tiny(), 1);
        weights.layers[4].weight[[0, 0]] = 1e6;
        assert!(Model::new(config(tiny()), &weights).unwrap_err().to_string().contains("dense1.weight"));
    }
}
