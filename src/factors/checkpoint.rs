//! A factorisation under way, on disk: what an interruption or a crash does not lose.
//!
//! A folder with `checkpoint.toml`, written last, which names the two arrays beside it.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use ndarray::Array2;
use ndarray_npy::WriteNpyExt;
use serde::{Deserialize, Serialize};

use super::als::Checkpoint;
use super::{AlsConfig, read_factors};
use crate::artefact::{atomic_write, file_hash, read_toml, write_toml};
use crate::error::{Error, Result};
use crate::events::{Interactions, Shards};

const HEADER: &str = "checkpoint.toml";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    /// Of data and settings.
    run: String,
    iteration: usize,
    /// BLAKE3 of each array.
    users: String,
    tracks: String,
}

fn array_name(side: &str, iteration: usize) -> String {
    format!("{side}-{iteration}.npy")
}

/// What identifies a run: the data and all settings but the number of iterations. A checkpoint of one is of no use to
/// another.
pub fn run_id(data: &Interactions, config: &AlsConfig) -> String {
    let mut hasher = blake3::Hasher::new();
    let settings = format!("{:?} {:?}", AlsConfig { iterations: 0, ..*config }, data.config);
    hasher.update(settings.as_bytes());
    for id in data.users.names().iter().map(|u| u.as_str()).chain(data.tracks.names().iter().map(|t| t.as_str())) {
        hasher.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
    }
    let mut bytes = Vec::new();
    for user in 0..data.by_user.rows() {
        let (tracks, confidence, preference) = data.by_user.row(user);
        bytes.clear();
        bytes.extend((tracks.len() as u64).to_le_bytes());
        bytes.extend(tracks.iter().flat_map(|t| t.to_le_bytes()));
        bytes.extend(confidence.iter().chain(preference).flat_map(|x| x.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// As [`run_id`], of a matrix on disk. In other shards it is another run: sums are then rounded differently.
pub fn run_id_of_shards(data: &Shards, config: &AlsConfig) -> String {
    let mut hasher = blake3::Hasher::new();
    let settings = format!("shards {:?} {:?}", AlsConfig { iterations: 0, ..*config }, data.config);
    hasher.update(settings.as_bytes()).update(&data.digest);
    hasher.finalize().to_hex().to_string()
}

/// Writes the folder, over an earlier checkpoint of it; killed at any moment, one of the two can be read.
pub(super) fn save(
    dir: &Path,
    run: &str,
    iteration: usize,
    users: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    tracks: &Array2<f32>,
) -> Result<()> {
    let (users_name, tracks_name) = (array_name("users", iteration), array_name("tracks", iteration));
    atomic_write(&dir.join(&users_name), users)?;
    atomic_write(&dir.join(&tracks_name), |out| tracks.write_npy(out).map_err(io::Error::other))?;
    let (users, tracks) = (file_hash(&dir.join(&users_name))?, file_hash(&dir.join(&tracks_name))?);
    write_toml(&dir.join(HEADER), &Header { version: VERSION, run: run.into(), iteration, users, tracks })?;
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let is_array = path.extension().is_some_and(|e| e == "npy");
        if is_array && ![&users_name, &tracks_name].iter().any(|name| path.ends_with(name)) {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// The iteration of the checkpoint in `dir`, and its undamaged arrays, if there is one and it is of this run.
///
/// # Errors
/// `Io`, and `Format` for a damaged one.
pub(super) fn find(dir: &Path, run: &str) -> Result<Option<(usize, [PathBuf; 2])>> {
    let path = dir.join(HEADER);
    if !path.try_exists().map_err(Error::io(&path))? {
        return Ok(None);
    }
    let header: Header = read_toml(&path, "the description of a checkpoint")?;
    if header.version != VERSION || header.run != run {
        return Ok(None);
    }
    let array = |side: &str, expected: &str| {
        let path = dir.join(array_name(side, header.iteration));
        let found = file_hash(&path)?;
        if found == expected { Ok(path) } else { Err(Error::format(path, expected, found)) }
    };
    Ok(Some((header.iteration, [array("users", &header.users)?, array("tracks", &header.tracks)?])))
}

impl Checkpoint {
    /// Writes the folder, over an earlier checkpoint of it; killed at any moment, one of the two can be read.
    pub fn save(&self, dir: &Path, run: &str) -> Result<()> {
        let users = |out: &mut BufWriter<&File>| self.users.write_npy(out).map_err(io::Error::other);
        save(dir, run, self.iteration, users, &self.tracks)
    }

    /// The checkpoint in `dir`, if there is one and it is of this run.
    ///
    /// # Errors
    /// `Io`, and `Format` or `Mismatch` for a damaged one.
    pub fn load(dir: &Path, run: &str, users: usize, tracks: usize, dimensions: usize) -> Result<Option<Checkpoint>> {
        let Some((iteration, [users_npy, tracks_npy])) = find(dir, run)? else { return Ok(None) };
        let users = read_factors(&users_npy, users, dimensions)?;
        let tracks = read_factors(&tracks_npy, tracks, dimensions)?;
        Ok(Some(Checkpoint { iteration, users, tracks }))
    }

    /// Removes the folder, if it is there: the run has ended.
    pub fn remove(dir: &Path) -> Result<()> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(dir)(e)),
            _ => Ok(()),
        }
    }
}
