//! The catalogue as plain files, for other programs and for another catalogue.
//!
//! ```text
//! space.json         what this is: format, catalogue, space, seq, and each file's rows, bytes and BLAKE3 hash
//! tracks.parquet     id, path, content, title … regions, seconds, tiled, model, windows, source, plays, norm,
//!                    vector, predicted (float32[d], unit length), length, confidence, seq
//! removed.parquet    id, seq                                tracks that were taken out and are not there
//! files.parquet      path, size, modified (ns since 1970), content, track, reason, retry, decoder, at (s since 1970)
//! listeners.parquet  id, vector (float32[d], in the scale of the factorisation)
//! history.parquet    listener, track, confidence, preference   the listeners in the order of listeners.parquet
//! ```
//!
//! A path that is not UTF-8 is null in `path`, and stands in `path_bytes`. Or, for numeric programs, `vectors.npy`
//! `[n, d]`, `norms.npy` `[n]` and `tracks.ids`, `listeners.npy` and `listeners.ids`, each with its rows in the same order.
//!
//! All files of a folder are of one moment; the folder is there when they are whole. Tracks are in the order in which
//! they came into the catalogue, and [`import`] keeps it. `seq` numbers the changes: an export of what came after the
//! number of an earlier one has only the tracks that changed since, and those that went.
//!
//! Another program that has vectors can write what is imported: `space.json` with `format`, `space`, `dimensions` and
//! `description`, and `tracks.parquet` with `id` and `vector`; the other columns and files may be absent.

mod export;
mod import;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

pub use export::{Exported, Format, export};
pub use import::{Imported, import};
use serde::{Deserialize, Serialize};

use crate::artefact::{SpaceId, atomic_write, file_hash};
use crate::error::{Error, Result};
use crate::store::SpaceRow;

/// The version of the files.
pub const FORMAT: u32 = 1;
/// The name of the file that [`Manifest`] is kept in.
pub const MANIFEST: &str = "space.json";

/// So that a number in a file is no memory that is asked for.
const MAX_DIMENSIONS: usize = 1 << 16;

const TRACKS: &str = "tracks.parquet";
const REMOVED: &str = "removed.parquet";
const FILES: &str = "files.parquet";
const LISTENERS: &str = "listeners.parquet";
const HISTORY: &str = "history.parquet";

/// What an exported folder is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// [`Store::identity`](crate::store::Store::identity) of the catalogue; empty where it came from another program.
    #[serde(default)]
    pub catalogue: String,
    /// The factor space of all vectors.
    pub space: SpaceId,
    pub dimensions: usize,
    /// What a fold-in needs to know of the space, as JSON (see [`crate::factors`]).
    pub description: String,
    /// The last change that is in it.
    #[serde(default)]
    pub seq: i64,
    /// Only what changed after this; 0 for all.
    #[serde(default)]
    pub since: i64,
    /// By name. Where one is not listed, it is not compared.
    #[serde(default)]
    pub files: BTreeMap<String, Written>,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    pub rows: u64,
    pub bytes: u64,
    pub blake3: String,
}

impl Written {
    fn of(path: &Path, rows: u64) -> Result<Written> {
        Ok(Written { rows, bytes: fs::metadata(path).map_err(Error::io(path))?.len(), blake3: file_hash(path)? })
    }
}

impl Manifest {
    /// Of the export in `folder`.
    ///
    /// # Errors
    /// `Io`; `Format` where it is none, or one of another version.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).map_err(Error::io(&path))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| Error::format(&path, "what `debut export` writes", e))?;
        if manifest.format != FORMAT {
            return Err(Error::format(&path, format!("format {FORMAT}"), manifest.format));
        }
        if !(1..=MAX_DIMENSIONS).contains(&manifest.dimensions) {
            return Err(Error::format(&path, format!("1 to {MAX_DIMENSIONS} dimensions"), manifest.dimensions));
        }
        Ok(manifest)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::format(&path, "JSON", e))?;
        atomic_write(&path, |out| out.write_all(&text))
    }

    fn space_row(&self) -> SpaceRow {
        SpaceRow { id: self.space.clone(), dimensions: self.dimensions, description: self.description.clone() }
    }

    /// # Errors
    /// `Format` where the file is not the one that was written.
    fn verify(&self, folder: &Path, name: &str) -> Result<()> {
        let Some(was) = self.files.get(name) else { return Ok(()) };
        let path = folder.join(name);
        let bytes = fs::metadata(&path).map_err(Error::io(&path))?.len();
        if bytes != was.bytes {
            return Err(Error::format(&path, format!("{} bytes", was.bytes), bytes));
        }
        let hash = file_hash(&path)?;
        if hash != was.blake3 {
            return Err(Error::format(&path, format!("BLAKE3 {}, as {MANIFEST} has it", was.blake3), hash));
        }
        Ok(())
    }
}
