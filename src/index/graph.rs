//! The usearch graph (HNSW): a derived, disposable generation of the index.
//!
//! usearch trusts its caller and its files (a damaged file crashes the process, hangs it, or answers wrongly), so this
//! is the only way in, and it keeps these rules: finite unit vectors and no reserved key go in; the graph never changes
//! once it is built (what came later is scanned exactly beside it); room for threads is reserved after every load;
//! a file is verified, length and BLAKE3, before usearch sees a byte of it.
//!
//! On disk: `index/graph-<seq>.usearch` and `index/manifest.json`, which names it. The manifest is swapped by a rename,
//! last, so a crash leaves the old generation or the new.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use usearch::{Index as Usearch, IndexOptions, MetricKind, ScalarKind};

use super::Hit;
use super::vectors::Vectors;
use crate::artefact::{atomic_write, file_hash};
use crate::error::{Error, Result};

const FOLDER: &str = "index";
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// usearch refuses a search when more threads ask than were reserved; a server has more than cores.
const THREADS: usize = 64;
/// Edges per node; usearch's default, and the best recall per byte at 40 dimensions.
const CONNECTIVITY: usize = 16;
/// Candidates looked at while inserting; usearch's default.
const EXPANSION_ADD: usize = 128;
/// Candidates looked at while searching: recall@10 of 0.99 for songs against songs at 100,000.
const EXPANSION_SEARCH: usize = 128;

/// What the generation on the disk is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    file: String,
    bytes: u64,
    blake3: String,
    /// Everything up to this number of the catalogue's sequence is in it.
    seq: i64,
    /// [`Store::identity`](crate::store::Store::identity) of the catalogue it was made from.
    catalogue: String,
    dimensions: usize,
    songs: usize,
    metric: String,
}

/// A built graph over unit vectors; never changed.
pub struct Graph {
    index: Usearch,
    pub seq: i64,
    pub songs: usize,
}

impl Graph {
    /// Builds a graph of all that `exact` holds, on all cores; `done` hears how many are in.
    pub fn build(dimensions: usize, exact: &Vectors, seq: i64, done: &(dyn Fn(usize) + Sync)) -> Result<Graph> {
        let index = empty(dimensions)?;
        let songs: Vec<(u64, &[f32])> = exact.iter().collect();
        index.reserve_capacity_and_threads(songs.len().max(1), THREADS).map_err(refused)?;
        songs.par_chunks(256).try_for_each(|chunk| {
            for (key, vector) in chunk {
                if *key == u64::MAX || !vector.iter().all(|v| v.is_finite()) {
                    return Err(Error::invalid("vector for the graph", "finite numbers", format!("key {key}")));
                }
                index.add(*key, *vector).map_err(refused)?;
            }
            done(chunk.len());
            Ok(())
        })?;
        Ok(Graph { index, seq, songs: songs.len() })
    }

    /// About the `k` songs of the largest cosine, best first.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        // usearch allocates for `k` before it looks.
        let found = self.index.search(query, k.min(self.songs)).map_err(refused)?;
        Ok(found.keys.into_iter().zip(found.distances).map(|(key, d)| Hit { key, score: 1.0 - d }).collect())
    }

    /// Writes this generation beside the catalogue and makes it the current one.
    pub fn publish(&self, catalogue: &Path, identity: &str, dimensions: usize) -> Result<()> {
        let folder = catalogue.join(FOLDER);
        let file = file_name(self.seq);
        let path = folder.join(&file);
        // usearch's own `save` overwrites in place and does not notice a full disk.
        let mut bytes = vec![0; self.index.serialized_length()];
        self.index.save_to_buffer(&mut bytes).map_err(refused)?;
        atomic_write(&path, |out| out.write_all(&bytes))?;
        let manifest = Manifest {
            format: FORMAT,
            file,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
            seq: self.seq,
            catalogue: identity.into(),
            dimensions,
            songs: self.songs,
            metric: "cosine".into(),
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::format(&path, "a manifest", e))?;
        atomic_write(&folder.join(MANIFEST), |out| out.write_all(&text))?;
        for old in fs::read_dir(&folder).map_err(Error::io(&folder))?.flatten() {
            let name = old.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("graph-") && name != manifest.file {
                // An old generation that cannot be deleted costs disk, nothing else; a reader may still have it open.
                let _ = fs::remove_file(old.path());
            }
        }
        Ok(())
    }

    /// The current generation of the catalogue in this folder, or `None` where there is none.
    ///
    /// # Errors
    /// Where it is damaged or belongs to another catalogue; the index is then built again from the catalogue.
    pub fn open(catalogue: &Path, identity: &str, dimensions: usize, last_seq: i64) -> Result<Option<Graph>> {
        let Some((path, manifest)) = verified(catalogue)? else { return Ok(None) };
        if manifest.catalogue != identity || manifest.dimensions != dimensions || manifest.seq > last_seq {
            return Err(Error::mismatch(
                format!("the graph {} and its catalogue", path.display()),
                format!("catalogue {identity}, {dimensions} dimensions, at most seq {last_seq}"),
                format!("catalogue {}, {} dimensions, seq {}", manifest.catalogue, manifest.dimensions, manifest.seq),
            ));
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        if blake3::hash(&bytes).to_hex().as_str() != manifest.blake3 {
            return Err(Error::format(&path, manifest.blake3, "a file that changed while it was read"));
        }
        let index = empty(dimensions)?;
        index.load_from_buffer(&bytes).map_err(refused)?;
        if index.size() != manifest.songs || index.dimensions() != dimensions {
            return Err(Error::format(&path, format!("{} songs", manifest.songs), index.size()));
        }
        index.reserve_capacity_and_threads(manifest.songs.max(1), THREADS).map_err(refused)?;
        index.change_expansion_search(EXPANSION_SEARCH);
        Ok(Some(Graph { index, seq: manifest.seq, songs: manifest.songs }))
    }

    /// Verifies the generation on the disk without loading it; `None` where there is none.
    pub fn check(catalogue: &Path) -> Result<Option<()>> {
        Ok(verified(catalogue)?.map(|_| ()))
    }
}

fn verified(catalogue: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    let path = catalogue.join(FOLDER).join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| Error::format(&path, "the manifest of a graph", e))?;
    if manifest.format != FORMAT || manifest.metric != "cosine" {
        return Err(Error::format(&path, format!("format {FORMAT}, cosine"), format!("{manifest:?}")));
    }
    if manifest.file != file_name(manifest.seq) {
        return Err(Error::format(&path, file_name(manifest.seq), manifest.file));
    }
    let graph = path.with_file_name(&manifest.file);
    let bytes = fs::metadata(&graph).map_err(Error::io(&graph))?.len();
    if bytes != manifest.bytes {
        return Err(Error::format(&graph, format!("{} bytes", manifest.bytes), bytes));
    }
    let hash = file_hash(&graph)?;
    if hash != manifest.blake3 {
        return Err(Error::format(&graph, manifest.blake3, hash));
    }
    Ok(Some((graph, manifest)))
}

/// Names a generation, and repeats its `seq`, so that a damaged manifest cannot claim another.
fn file_name(seq: i64) -> String {
    format!("graph-{seq}.usearch")
}

fn empty(dimensions: usize) -> Result<Usearch> {
    Usearch::new(&IndexOptions {
        dimensions,
        metric: MetricKind::Cos,
        quantization: ScalarKind::F32,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    })
    .map_err(refused)
}

fn refused(e: impl std::fmt::Display) -> Error {
    Error::invalid("call of usearch", "an answer", e)
}
