//! Generations: what is derived from the catalogue and kept beside it, so that it need not be made again.
//!
//! On disk: `index/<kind>-<seq>.bin` and `index/<kind>.json`, the manifest that names it with its length, its BLAKE3
//! hash and the catalogue that it was made from. Both are written aside and renamed, the manifest last, so a crash
//! leaves the old generation or the new; and no byte of a generation is used before its hash was seen to be right.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artefact::{atomic_write, file_hash};
use crate::error::{Error, Result};

const FOLDER: &str = "index";
const FORMAT: u32 = 2;
/// The kinds that there are.
pub(super) const KINDS: [&str; 2] = ["lists", "graph"];

/// What a generation is of, and how far it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// Everything up to this number of the catalogue's sequence is in it.
    pub seq: i64,
    /// [`Store::identity`](crate::store::Store::identity) of the catalogue it was made from.
    pub catalogue: String,
    pub dimensions: usize,
    pub songs: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    file: String,
    bytes: u64,
    blake3: String,
    origin: Origin,
}

/// Writes this generation beside the catalogue in `folder` and makes it the current one of its kind.
pub(super) fn publish(folder: &Path, kind: &str, origin: Origin, bytes: &[u8]) -> Result<()> {
    let folder = folder.join(FOLDER);
    let file = file_name(kind, origin.seq);
    let path = folder.join(&file);
    atomic_write(&path, |out| out.write_all(bytes))?;
    let manifest = Manifest {
        format: FORMAT,
        file,
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
        origin,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::format(&path, "a manifest", e))?;
    atomic_write(&folder.join(format!("{kind}.json")), |out| out.write_all(&text))?;
    for old in fs::read_dir(&folder).map_err(Error::io(&folder))?.flatten() {
        let name = old.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&format!("{kind}-")) && name != manifest.file {
            // An old generation that cannot be deleted costs disk, nothing else; a reader may still have it open.
            let _ = fs::remove_file(old.path());
        }
    }
    Ok(())
}

/// The current generation of this kind, verified, and the path that errors name; `None` where there is none.
///
/// # Errors
/// Where it is damaged, belongs to another catalogue, or goes further than `last_seq`.
pub(super) fn open(
    folder: &Path,
    kind: &str,
    identity: &str,
    dimensions: usize,
    last_seq: i64,
) -> Result<Option<(PathBuf, Origin, Vec<u8>)>> {
    let Some((path, manifest)) = manifest(folder, kind)? else { return Ok(None) };
    let of = &manifest.origin;
    if of.catalogue != identity || of.dimensions != dimensions || of.seq > last_seq {
        return Err(Error::mismatch(
            format!("{} and its catalogue", path.display()),
            format!("catalogue {identity}, {dimensions} dimensions, at most seq {last_seq}"),
            format!("catalogue {}, {} dimensions, seq {}", of.catalogue, of.dimensions, of.seq),
        ));
    }
    // Read once, so that what is verified is what is used.
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    if bytes.len() as u64 != manifest.bytes || hash != manifest.blake3 {
        let expected = format!("{} bytes, BLAKE3 {}", manifest.bytes, manifest.blake3);
        return Err(Error::format(&path, expected, format!("{} bytes, BLAKE3 {hash}", bytes.len())));
    }
    Ok(Some((path, manifest.origin, bytes)))
}

/// Verifies every generation of the catalogue in `folder` without using it.
pub(super) fn check(folder: &Path) -> Result<()> {
    for kind in KINDS {
        if let Some((path, manifest)) = manifest(folder, kind)? {
            let hash = file_hash(&path)?;
            if hash != manifest.blake3 {
                return Err(Error::format(&path, manifest.blake3, hash));
            }
        }
    }
    Ok(())
}

/// The manifest of a kind, and the file it names, which has the length that it should have.
fn manifest(folder: &Path, kind: &str) -> Result<Option<(PathBuf, Manifest)>> {
    let path = folder.join(FOLDER).join(format!("{kind}.json"));
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| Error::format(&path, "a manifest", e))?;
    if manifest.format != FORMAT {
        return Err(Error::format(&path, format!("format {FORMAT}"), manifest.format));
    }
    if manifest.file != file_name(kind, manifest.origin.seq) {
        return Err(Error::format(&path, file_name(kind, manifest.origin.seq), manifest.file));
    }
    let file = path.with_file_name(&manifest.file);
    let bytes = fs::metadata(&file).map_err(Error::io(&file))?.len();
    if bytes != manifest.bytes {
        return Err(Error::format(&file, format!("{} bytes", manifest.bytes), bytes));
    }
    Ok(Some((file, manifest)))
}

/// Names a generation, and repeats its `seq`, so that a damaged manifest cannot claim another.
fn file_name(kind: &str, seq: i64) -> String {
    format!("{kind}-{seq}.bin")
}
