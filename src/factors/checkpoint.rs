//! A factorisation under way, on disk: what an interruption or a crash does not lose.
//!
//! A folder with `checkpoint.toml`, written last, which names the two arrays beside it.

use std::fs;
use std::io;
use std::path::Path;

use ndarray_npy::WriteNpyExt;
use serde::{Deserialize, Serialize};

use super::als::Checkpoint;
use super::{AlsConfig, read_factors};
use crate::artefact::{atomic_write, file_hash, read_toml, write_toml};
use crate::error::{Error, Result};
use crate::events::Interactions;

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

impl Checkpoint {
    /// Writes the folder, over an earlier checkpoint of it; killed at any moment, one of the two can be read.
    pub fn save(&self, dir: &Path, run: &str) -> Result<()> {
        let write = |side: &str, array: &ndarray::Array2<f32>| {
            let path = dir.join(array_name(side, self.iteration));
            atomic_write(&path, |out| array.write_npy(out).map_err(io::Error::other))?;
            file_hash(&path)
        };
        let (users, tracks) = (write("users", &self.users)?, write("tracks", &self.tracks)?);
        let header = Header { version: VERSION, run: run.into(), iteration: self.iteration, users, tracks };
        write_toml(&dir.join(HEADER), &header)?;
        let kept = [array_name("users", self.iteration), array_name("tracks", self.iteration), HEADER.to_string()];
        for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let is_array = path.extension().is_some_and(|e| e == "npy");
            if is_array && !kept.iter().any(|name| path.ends_with(name)) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// The checkpoint in `dir`, if there is one and it is of this run.
    ///
    /// # Errors
    /// `Io`, and `Format` or `Mismatch` for a damaged one.
    pub fn load(dir: &Path, run: &str, users: usize, tracks: usize, dimensions: usize) -> Result<Option<Checkpoint>> {
        let path = dir.join(HEADER);
        if !path.try_exists().map_err(Error::io(&path))? {
            return Ok(None);
        }
        let header: Header = read_toml(&path, "the description of a checkpoint")?;
        if header.version != VERSION || header.run != run {
            return Ok(None);
        }
        let read = |side: &str, n: usize, expected: &str| {
            let path = dir.join(array_name(side, header.iteration));
            let found = file_hash(&path)?;
            if found != expected {
                return Err(Error::format(path, expected, found));
            }
            read_factors(&path, n, dimensions)
        };
        let users = read("users", users, &header.users)?;
        let tracks = read("tracks", tracks, &header.tracks)?;
        Ok(Some(Checkpoint { iteration: header.iteration, users, tracks }))
    }

    /// Removes the folder, if it is there: the run has ended.
    pub fn remove(dir: &Path) -> Result<()> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(dir)(e)),
            _ => Ok(()),
        }
    }
}
