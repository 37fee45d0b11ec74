//! Out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::tables::{HistoryRow, ListenerRow, RemovedRow, TrackRow, Writer};
use super::{FILES, FORMAT, HISTORY, LISTENERS, Manifest, REMOVED, TRACKS, Written};
use crate::artefact::AsideFolder;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::store::{FileOutcome, Store, Track};

/// Rows between two reports of progress.
const REPORT: u64 = 1024;

/// The kinds of files that an export can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Everything, for [`import`](super::import) and for whoever reads tables.
    #[default]
    Parquet,
    /// The vectors and their ids.
    Npy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Parquet => "parquet",
            Format::Npy => "npy",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Format> {
        match text {
            "parquet" => Ok(Format::Parquet),
            "npy" => Ok(Format::Npy),
            _ => Err(Error::invalid("format", "parquet or npy", text)),
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub tracks: u64,
    pub removed: u64,
    pub listeners: u64,
    /// Tracks that are not in it, because what is served has no vector of them.
    pub left_out: u64,
    /// The last change that is in it: what the next export is asked for.
    pub seq: i64,
}

/// Counts rows, and says so to `tell` now and then.
struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

impl Progress<'_> {
    fn step(&mut self) -> Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(REPORT) { (self.tell)(self.done, self.total.max(self.done)) } else { Ok(()) }
    }
}

/// Writes the catalogue as it is now into the folder `to`, which is new or empty: all of it, or, `since` a number of its
/// sequence, the tracks that changed after that and those that went. `progress` is told the rows that are done
/// and how many there are, about; an error of its ends the work. Memory does not grow with the catalogue. After a
/// generation was changed over (`debut reindex`) all vectors are others, and no number of before tells what changed.
///
/// # Errors
/// `Unsupported` where `to` holds something; `Invalid` for a `since` that has not come yet, or with [`Format::Npy`];
/// `NotFound` where the catalogue has no space yet; `Io`, `Catalogue`.
pub fn export(
    store: &Store,
    to: &Path,
    format: Format,
    since: i64,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Exported> {
    if format == Format::Npy && since > 0 {
        return Err(Error::invalid("export since a change", "parquet", format));
    }
    let aside = AsideFolder::new(to)?;
    let exported = store.in_snapshot(|| {
        let space = store.space()?.ok_or_else(|| Error::NotFound {
            what: "space in the catalogue",
            name: store.folder().display().to_string(),
        })?;
        let seq = store.seq()?;
        if !(0..=seq).contains(&since) {
            return Err(Error::invalid("change to export from", format!("0 to {seq}"), since));
        }
        let status = store.status()?;
        let total = if since > 0 { (seq - since) as u64 } else { status.tracks + status.listeners };
        let mut out = Out {
            store,
            folder: aside.path(),
            dimensions: space.dimensions,
            progress: Progress { done: 0, total, tell: progress },
            files: BTreeMap::new(),
        };
        match format {
            Format::Parquet => {
                if since > 0 {
                    out.changed_tracks(since)?;
                } else {
                    out.tracks()?;
                    out.listeners()?;
                    out.ingested(status.without_vector > 0)?;
                }
                out.removed(since)?;
            }
            Format::Npy => {
                out.npy_tracks(status.tracks)?;
                out.npy_listeners(status.listeners)?;
            }
        }
        let rows = |name: &str| out.files.get(name).map_or(0, |file| file.rows);
        let (tracks, listeners) = match format {
            Format::Parquet => (rows(TRACKS), rows(LISTENERS)),
            Format::Npy => (status.tracks, status.listeners),
        };
        let exported = Exported { tracks, removed: rows(REMOVED), listeners, left_out: status.without_vector, seq };
        let manifest = Manifest {
            format: FORMAT,
            catalogue: store.identity()?,
            space: space.id,
            dimensions: space.dimensions,
            description: space.description,
            seq,
            since,
            files: out.files,
        };
        manifest.write(aside.path())?;
        Ok(exported)
    })?;
    aside.publish()?;
    Ok(exported)
}

struct Out<'a> {
    store: &'a Store,
    folder: &'a Path,
    dimensions: usize,
    progress: Progress<'a>,
    files: BTreeMap<String, Written>,
}

impl Out<'_> {
    fn tracks(&mut self) -> Result<()> {
        let mut out = Writer::create(&self.folder.join(TRACKS), self.dimensions)?;
        self.store.for_each_track(&mut |key, track| {
            out.push(TrackRow { track, seq: self.store.seq_of(key)? })?;
            self.progress.step()
        })?;
        self.files.insert(TRACKS.into(), out.finish()?);
        Ok(())
    }

    /// In the order of their changes.
    fn changed_tracks(&mut self, since: i64) -> Result<()> {
        let mut out = Writer::create(&self.folder.join(TRACKS), self.dimensions)?;
        let mut result = Ok(());
        self.store.changes_since(since, &mut |change| {
            if result.is_ok() && change.served.is_some() {
                result = self.store.track_by_key(change.key).and_then(|track| {
                    track.map_or(Ok(()), |track| out.push(TrackRow { track, seq: change.seq }))?;
                    self.progress.step()
                });
            }
        })?;
        result?;
        self.files.insert(TRACKS.into(), out.finish()?);
        Ok(())
    }

    fn removed(&mut self, since: i64) -> Result<()> {
        let mut out = Writer::create(&self.folder.join(REMOVED), self.dimensions)?;
        self.store.for_each_removed(since, &mut |id, seq| out.push(RemovedRow { id, seq }))?;
        self.files.insert(REMOVED.into(), out.finish()?);
        Ok(())
    }

    /// Where tracks are left out, their files are unknown to who imports: so they are ingested again.
    fn ingested(&mut self, some_left_out: bool) -> Result<()> {
        let mut out = Writer::create(&self.folder.join(FILES), self.dimensions)?;
        self.store.for_each_file(&mut |mut row| {
            if let Some(track) = row.track.as_ref().filter(|_| some_left_out)
                && self.store.track(track)?.is_none()
            {
                match row.record.outcome {
                    FileOutcome::Track(_) => return Ok(()),
                    FileOutcome::Failed { .. } => row.track = None,
                }
            }
            out.push(row)
        })?;
        self.files.insert(FILES.into(), out.finish()?);
        Ok(())
    }

    fn listeners(&mut self) -> Result<()> {
        let mut out = Writer::create(&self.folder.join(LISTENERS), self.dimensions)?;
        let mut history = Writer::create(&self.folder.join(HISTORY), self.dimensions)?;
        for_each_listener(self.store, &mut |id, vector| {
            for met in self.store.listener(&id)?.map_or_else(Vec::new, |listener| listener.history) {
                history.push(HistoryRow { listener: id.clone(), met })?;
            }
            out.push(ListenerRow { id, vector })?;
            self.progress.step()
        })?;
        self.files.insert(LISTENERS.into(), out.finish()?);
        self.files.insert(HISTORY.into(), history.finish()?);
        Ok(())
    }

    fn npy_tracks(&mut self, n: u64) -> Result<()> {
        let mut vectors = Npy::create(&self.folder.join("vectors.npy"), n, Some(self.dimensions))?;
        let mut norms = Npy::create(&self.folder.join("norms.npy"), n, None)?;
        let mut ids = Lines::create(&self.folder.join("tracks.ids"))?;
        self.store.for_each_track(&mut |_, Track { id, vector, norm, .. }| {
            vectors.row(&vector)?;
            norms.row(&[norm])?;
            ids.line(id.as_str())?;
            self.progress.step()
        })?;
        for (name, written) in
            [("vectors.npy", vectors.finish()?), ("norms.npy", norms.finish()?), ("tracks.ids", ids.finish()?)]
        {
            self.files.insert(name.into(), written);
        }
        Ok(())
    }

    fn npy_listeners(&mut self, n: u64) -> Result<()> {
        let mut vectors = Npy::create(&self.folder.join("listeners.npy"), n, Some(self.dimensions))?;
        let mut ids = Lines::create(&self.folder.join("listeners.ids"))?;
        for_each_listener(self.store, &mut |id, vector| {
            vectors.row(&vector)?;
            ids.line(id.as_str())?;
            self.progress.step()
        })?;
        for (name, written) in [("listeners.npy", vectors.finish()?), ("listeners.ids", ids.finish()?)] {
            self.files.insert(name.into(), written);
        }
        Ok(())
    }
}

fn for_each_listener(store: &Store, each: &mut dyn FnMut(UserId, Vec<f32>) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    store.for_each_listener(&mut |id, vector| {
        if result.is_ok() {
            result = each(id, vector);
        }
    })?;
    result
}

/// A file of one line after another.
struct Lines {
    path: PathBuf,
    out: BufWriter<File>,
    rows: u64,
}

impl Lines {
    fn create(path: &Path) -> Result<Lines> {
        let out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        Ok(Lines { path: path.to_path_buf(), out, rows: 0 })
    }

    fn line(&mut self, text: &str) -> Result<()> {
        self.rows += 1;
        writeln!(self.out, "{text}").map_err(Error::io(&self.path))
    }

    fn finish(mut self) -> Result<Written> {
        self.out.flush().map_err(Error::io(&self.path))?;
        Written::of(&self.path, self.rows)
    }
}

/// A float32 array in NumPy's format (version 1.0), whose number of rows is known before and whose rows come one by one.
struct Npy {
    lines: Lines,
    expected: u64,
}

impl Npy {
    /// `[n, width]`, or `[n]` where there is no width.
    fn create(path: &Path, n: u64, width: Option<usize>) -> Result<Npy> {
        let mut lines = Lines::create(path)?;
        let shape = width.map_or(format!("({n},)"), |width| format!("({n}, {width})"));
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        // 6 bytes of magic, 2 of version, 2 of length, the header, spaces and a newline: a multiple of 64.
        let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(format!("{header:<0$}\n", length - 1).bytes());
        lines.out.write_all(&bytes).map_err(Error::io(path))?;
        Ok(Npy { lines, expected: n })
    }

    fn row(&mut self, numbers: &[f32]) -> Result<()> {
        self.lines.rows += 1;
        numbers.iter().try_for_each(|x| self.lines.out.write_all(&x.to_le_bytes())).map_err(Error::io(&self.lines.path))
    }

    fn finish(self) -> Result<Written> {
        if self.lines.rows != self.expected {
            let found = format!("{} rows", self.lines.rows);
            return Err(Error::format(&self.lines.path, format!("{} rows, as counted", self.expected), found));
        }
        self.lines.finish()
    }
}
