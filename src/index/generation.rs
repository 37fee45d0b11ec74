//! Generations: what is derived from the catalogue and kept beside it, so that it need not be made again.
//!
//! On disk: `index/<kind>-<seq>.bin` and `index/<kind>.json`, the manifest that names it with its length, its BLAKE3
//! hash and the catalogue that it was made from. Both are written aside and renamed, the manifest last, so a crash
//! leaves the old generation or the new; while a new one is written, both take up disk. What is read of a generation is
//! copied out as numbers, no more of them than the file is long, and used once its hash was seen to be right.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::artefact::{atomic_write, file_hash};
use crate::error::{Error, Result};

const FOLDER: &str = "index";
const FORMAT: u32 = 3;
/// The kinds that there are.
pub(super) const KINDS: [&str; 2] = ["image", "graph"];
/// Read, hashed and written at a time: within the second cache. A multiple of 8, so that no number lies across two.
const PIECE: usize = 1 << 20;

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

/// Writes this generation beside the catalogue in `folder`, makes it the current one of its kind, and takes away what
/// is no longer: older generations, those of earlier formats, and what a process that died had begun.
pub(super) fn publish(
    folder: &Path,
    kind: &str,
    origin: Origin,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let folder = folder.join(FOLDER);
    // Never over the current one, also where nothing changed since but the settings: a reader may be about to open it.
    let [first, second] = file_names(kind, origin.seq);
    let file = if current(&folder, kind).is_some_and(|manifest| manifest.file == first) { second } else { first };
    let path = folder.join(&file);
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    atomic_write(&path, |out| {
        let hashing = Hashing { out, hasher: &mut hasher, bytes: &mut bytes };
        let mut out = BufWriter::with_capacity(PIECE, hashing);
        write(&mut out)?;
        out.flush()
    })?;
    let manifest = Manifest { format: FORMAT, file, bytes, blake3: hasher.finalize().to_hex().to_string(), origin };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::format(&path, "a manifest", e))?;
    atomic_write(&folder.join(format!("{kind}.json")), |out| out.write_all(&text))?;
    let current: Vec<String> = KINDS.iter().filter_map(|kind| current(&folder, kind)).map(|m| m.file).collect();
    for old in fs::read_dir(&folder).map_err(Error::io(&folder))?.flatten() {
        let name = old.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && !current.contains(&name) {
            // What cannot be deleted costs disk, nothing else; a reader may still have it open.
            let _ = fs::remove_file(old.path());
        }
    }
    Ok(())
}

/// A generation, a manifest of an earlier format (`lists.json`, `manifest.json`), or what was being written.
fn is_ours(name: &str) -> bool {
    let of_kind = ["image-", "lists-", "graph-"].iter().any(|kind| name.starts_with(kind));
    let generation = of_kind && (name.ends_with(".bin") || name.ends_with(".usearch"));
    generation || ["lists.json", "manifest.json"].contains(&name) || name.ends_with(".partial")
}

struct Hashing<'a, W> {
    out: W,
    hasher: &'a mut blake3::Hasher,
    bytes: &'a mut u64,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        *self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A generation that is being read. What comes out of it is to be dropped where [`Reading::finish`] fails.
pub(super) struct Reading {
    pub path: PathBuf,
    pub origin: Origin,
    file: File,
    expected: String,
    hasher: blake3::Hasher,
    /// What is in the file beyond `piece`, of which `at` bytes were taken.
    beyond: u64,
    piece: Vec<u8>,
    at: usize,
    /// The room for the next piece.
    next: Vec<u8>,
}

/// Begins to read the current generation of this kind; `None` where there is none.
///
/// # Errors
/// Where its manifest is damaged, or it has another length, belongs to another catalogue, or goes further than
/// `last_seq`.
pub(super) fn read(
    folder: &Path,
    kind: &str,
    identity: &str,
    dimensions: usize,
    last_seq: i64,
) -> Result<Option<Reading>> {
    let folder = folder.join(FOLDER);
    let Some(mut manifest) = manifest(&folder, kind)? else { return Ok(None) };
    let mut opened = open(&folder, &manifest);
    if opened.is_err()
        && let Some(newer) = current(&folder, kind).filter(|newer| *newer != manifest)
    {
        // A new one was published in between, and the old one is gone.
        (opened, manifest) = (open(&folder, &newer), newer);
    }
    let (path, mut file) = opened?;
    let of = &manifest.origin;
    if of.catalogue != identity || of.dimensions != dimensions || of.seq > last_seq {
        return Err(Error::mismatch(
            format!("{} and its catalogue", path.display()),
            format!("catalogue {identity}, {dimensions} dimensions, at most seq {last_seq}"),
            format!("catalogue {}, {} dimensions, seq {}", of.catalogue, of.dimensions, of.seq),
        ));
    }
    let mut piece = vec![0; manifest.bytes.min(PIECE as u64) as usize];
    file.read_exact(&mut piece).map_err(Error::io(&path))?;
    Ok(Some(Reading {
        path,
        beyond: manifest.bytes - piece.len() as u64,
        origin: manifest.origin,
        file,
        expected: manifest.blake3,
        hasher: blake3::Hasher::new(),
        piece,
        at: 0,
        next: Vec::new(),
    }))
}

impl Reading {
    /// Bytes that were not taken yet.
    pub fn left(&self) -> u64 {
        self.beyond + (self.piece.len() - self.at) as u64
    }

    /// The next `n` numbers, of `N` bytes each.
    ///
    /// # Errors
    /// Where there are fewer; nothing is allocated for them then.
    pub fn numbers<const N: usize, T>(&mut self, n: usize, of: impl Fn([u8; N]) -> T + Sync) -> Result<Vec<T>>
    where
        T: Clone + Default + Send,
    {
        let bytes = n as u128 * N as u128;
        if bytes > u128::from(self.left()) {
            return Err(Error::format(&self.path, format!("{bytes} bytes more"), format!("{} bytes", self.left())));
        }
        // Memory that was never touched is touched by all cores: that costs more than the copying.
        let mut numbers = vec![T::default(); n];
        let mut rest = &mut numbers[..];
        while !rest.is_empty() {
            let Reading { path, file, hasher, beyond, piece, at, next, .. } = self;
            let from = piece[*at..].as_chunks::<N>().0;
            let (to, later) = rest.split_at_mut(from.len().min(rest.len()));
            if to.is_empty() {
                return Err(Error::format(path, format!("numbers of {N} bytes"), "a part of one"));
            }
            (*at, rest) = (*at + N * to.len(), later);
            let half = to.len().div_ceil(2);
            let halves = to.par_chunks_mut(half).zip(from.par_chunks(half));
            let copy = || halves.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, from)| *to = of(*from)));
            if *at < piece.len() {
                copy();
                continue;
            }
            // The next piece is read while this one is hashed.
            next.resize((*beyond).min(PIECE as u64) as usize, 0);
            let hash = || {
                hasher.update(piece);
            };
            let (read, _) = rayon::join(|| file.read_exact(next), || rayon::join(hash, copy));
            read.map_err(Error::io(path))?;
            (*beyond, *at) = (*beyond - next.len() as u64, 0);
            std::mem::swap(piece, next);
        }
        Ok(numbers)
    }

    /// # Errors
    /// Where something is left, or the hash of all is not that of what was written.
    pub fn finish(self) -> Result<()> {
        if self.left() > 0 {
            return Err(Error::format(&self.path, "its end", format!("{} bytes more", self.left())));
        }
        let hash = self.hasher.finalize().to_hex().to_string();
        match hash == self.expected {
            true => Ok(()),
            false => Err(Error::format(&self.path, format!("BLAKE3 {}", self.expected), hash)),
        }
    }
}

/// Verifies every generation of the catalogue in `folder` without using it.
pub(super) fn check(folder: &Path) -> Result<()> {
    let folder = folder.join(FOLDER);
    for kind in KINDS {
        if let Some(manifest) = manifest(&folder, kind)? {
            let (path, _) = open(&folder, &manifest)?;
            let hash = file_hash(&path)?;
            if hash != manifest.blake3 {
                return Err(Error::format(&path, manifest.blake3, hash));
            }
        }
    }
    Ok(())
}

/// The manifest of a kind in this `index` folder.
fn manifest(folder: &Path, kind: &str) -> Result<Option<Manifest>> {
    let path = folder.join(format!("{kind}.json"));
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| Error::format(&path, "a manifest", e))?;
    if manifest.format != FORMAT {
        return Err(Error::format(&path, format!("format {FORMAT}"), manifest.format));
    }
    let names = file_names(kind, manifest.origin.seq);
    if !names.contains(&manifest.file) {
        return Err(Error::format(&path, names[0].clone(), manifest.file));
    }
    Ok(Some(manifest))
}

/// The same, where it is sound.
fn current(folder: &Path, kind: &str) -> Option<Manifest> {
    manifest(folder, kind).ok().flatten()
}

/// The file that a manifest names, which has the length that it should have.
fn open(folder: &Path, manifest: &Manifest) -> Result<(PathBuf, File)> {
    let path = folder.join(&manifest.file);
    let file = File::open(&path).map_err(Error::io(&path))?;
    let bytes = file.metadata().map_err(Error::io(&path))?.len();
    if bytes != manifest.bytes {
        return Err(Error::format(&path, format!("{} bytes", manifest.bytes), bytes));
    }
    Ok((path, file))
}

/// What a generation may be called: by its `seq`, so that a damaged manifest cannot claim another.
fn file_names(kind: &str, seq: i64) -> [String; 2] {
    [format!("{kind}-{seq}.bin"), format!("{kind}-{seq}-again.bin")]
}
