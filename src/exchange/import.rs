//! In.

use std::collections::HashSet;
use std::path::Path;

use super::tables::{HistoryRow, ListenerRow, Reader, RemovedRow, Row, TrackRow};
use super::{FILES, HISTORY, LISTENERS, MANIFEST, Manifest, REMOVED, TRACKS};
use crate::artefact::AsideFolder;
use crate::error::{Error, Result};
use crate::ids::TrackId;
use crate::store::{Change, FileOutcome, FileRecord, FileRow, Listener, Source, Store, Track, TrackInfo};

/// Changes of one commit.
const GROUP: usize = 8192;
/// Of what is wrong with a catalogue, so many lines are told.
const TOLD: usize = 5;

/// What was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub tracks: u64,
    pub listeners: u64,
    pub files: u64,
}

/// Makes a catalogue in the folder `to`, which is new or empty, of what [`export`](super::export) wrote into `from`.
/// Everything or nothing: the catalogue is made aside, verified by [`Store::check`], and gets its name when it is whole.
/// It is another catalogue with the same contents: tracks in the same order, counted anew by its own sequence.
/// `progress` is told the rows that are done and how many there are; an error of its ends the work.
///
/// # Errors
/// `Unsupported` where `to` holds something, or `from` has changes only; `Format`, with the row, where a file is damaged or
/// makes no sense; `Io`, `Catalogue`.
pub fn import(from: &Path, to: &Path, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Imported> {
    let manifest = Manifest::read(from)?;
    let path = from.join(MANIFEST);
    if manifest.since != 0 {
        return Err(Error::unsupported(
            &path,
            "an export of everything",
            format!("what changed since {}", manifest.since),
        ));
    }
    if !from.join(TRACKS).is_file() {
        return Err(Error::unsupported(from, "an export as parquet", format!("no {TRACKS}")));
    }
    let aside = AsideFolder::new(to)?;
    for name in [TRACKS, REMOVED, FILES, LISTENERS, HISTORY] {
        manifest.verify(from, name)?;
    }
    let mut store = Store::open(aside.path())?;
    store.set_space(&manifest.space_row())?;
    let total = manifest.files.values().map(|file| file.rows).sum();
    let mut into = Into { store, from, manifest: &manifest, done: 0, total, progress };
    into.removed()?;
    let tracks = into.tracks()?;
    let files = into.files()?;
    let listeners = into.listeners()?;
    let store = into.store;
    store.checkpoint()?;
    let wrong = store.check()?;
    if !wrong.is_empty() {
        let told: Vec<&str> = wrong.iter().take(TOLD).map(|p| p.problem.as_str()).collect();
        return Err(Error::format(from, "an export of a sound catalogue", told.join("; ")));
    }
    drop(store);
    aside.publish()?;
    Ok(Imported { tracks, listeners, files })
}

struct Into<'a> {
    store: Store,
    from: &'a Path,
    manifest: &'a Manifest,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

impl Into<'_> {
    /// `None` where the file is not there, and nothing says that it should be.
    fn open<R: Row>(&self, name: &str) -> Result<Option<Reader<R>>> {
        let path = self.from.join(name);
        if !self.manifest.files.contains_key(name) && !path.exists() {
            return Ok(None);
        }
        Reader::open(&path, self.manifest.dimensions).map(Some)
    }

    /// Takes in a file group by group; returns how many rows it had.
    fn table<R: Row>(&mut self, name: &str, change: &mut dyn FnMut(R, &mut Vec<Change>)) -> Result<u64> {
        let Some(mut reader) = self.open::<R>(name)? else { return Ok(0) };
        let mut group = Vec::with_capacity(GROUP);
        let (mut rows, mut first) = (0, 1);
        loop {
            let next = reader.next()?;
            if next.is_none() || group.len() >= GROUP {
                let what = format!("rows {first} to {rows}");
                let replaced = self.store.commit(&group).map_err(about(reader.path(), &what))?;
                if let Some(twice) = replaced.iter().position(|&there| there) {
                    // Each row of a table with an id is one upsert, at the same place of its group or the next one.
                    let ids: Vec<&TrackId> = group.iter().filter_map(upserted).collect();
                    let found = format!("{what}: {} again", ids[twice]);
                    return Err(Error::format(reader.path(), "every id once", found));
                }
                self.step(rows + 1 - first)?;
                group.clear();
                first = rows + 1;
            }
            let Some((row, content)) = next else { break };
            rows = row;
            change(content, &mut group);
        }
        let claimed = self.manifest.files.get(name).map_or(rows, |file| file.rows);
        if rows != claimed {
            return Err(Error::format(reader.path(), format!("{claimed} rows"), rows));
        }
        Ok(rows)
    }

    fn step(&mut self, rows: u64) -> Result<()> {
        self.done += rows;
        (self.progress)(self.done, self.total.max(self.done))
    }

    fn tracks(&mut self) -> Result<u64> {
        self.table(TRACKS, &mut |row: TrackRow, group| group.push(Change::Upsert(Box::new(row.track))))
    }

    /// A catalogue remembers what was taken out of it, so that the next fit does not bring it back.
    fn removed(&mut self) -> Result<u64> {
        let mut vector = vec![0.0; self.manifest.dimensions];
        vector[0] = 1.0;
        self.table(REMOVED, &mut |row: RemovedRow, group| {
            // There is no other way to be remembered than to have been there.
            group.push(Change::Upsert(Box::new(stand_in(row.id.clone(), vector.clone()))));
            group.push(Change::Remove(row.id));
        })
    }

    fn files(&mut self) -> Result<u64> {
        self.table(FILES, &mut |row: FileRow, group| {
            let failed = matches!(row.record.outcome, FileOutcome::Failed { .. });
            // A file that failed keeps the track that it gave before.
            if let Some(track) = row.track.filter(|_| failed) {
                group.push(Change::File(FileRecord { outcome: FileOutcome::Track(track), ..row.record.clone() }));
            }
            group.push(Change::File(row.record));
        })
    }

    fn listeners(&mut self) -> Result<u64> {
        let Some(mut listeners) = self.open::<ListenerRow>(LISTENERS)? else { return Ok(0) };
        let mut history = self.open::<HistoryRow>(HISTORY)?;
        let mut next_met = || history.as_mut().map_or(Ok(None), Reader::next);
        let mut next = next_met()?;
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        while let Some((row, ListenerRow { id, vector })) = listeners.next()? {
            let (mut met, mut tracks) = (Vec::new(), HashSet::new());
            while let Some((row, HistoryRow { met: of, .. })) = next.take_if(|(_, of)| of.listener == id) {
                if !tracks.insert(of.track.clone()) {
                    return Err(twice(&self.from.join(HISTORY), row, &of.track));
                }
                met.push(of);
                next = next_met()?;
            }
            if !seen.insert(id.clone()) {
                return Err(twice(listeners.path(), row, &id));
            }
            self.step(1 + met.len() as u64)?;
            all.push(Listener { id, vector, history: met });
        }
        if let Some((row, of)) = next {
            let found = format!("row {row}: {}", of.listener);
            let path = self.from.join(HISTORY);
            return Err(Error::format(path, format!("listeners in the order of {LISTENERS}"), found));
        }
        self.store.set_listeners(&all).map_err(about(listeners.path(), "listeners"))?;
        Ok(all.len() as u64)
    }
}

fn twice(path: &Path, row: u64, id: &dyn std::fmt::Display) -> Error {
    Error::format(path, "everything once", format!("row {row}: {id} again"))
}

/// For `map_err`: the catalogue refused `what` of the file at `path`. Where it is the disk that refused, that is said.
fn about(path: &Path, what: &str) -> impl FnOnce(Error) -> Error {
    let (path, what) = (path.to_path_buf(), what.to_string());
    move |e| match e {
        Error::Mismatch { .. } | Error::Invalid { .. } => {
            Error::format(path, "what a catalogue can hold", format!("{what}: {e}"))
        }
        other => other,
    }
}

fn upserted(change: &Change) -> Option<&TrackId> {
    match change {
        Change::Upsert(track) => Some(&track.id),
        _ => None,
    }
}

fn stand_in(id: TrackId, vector: Vec<f32>) -> Track {
    Track {
        id,
        path: None,
        content: None,
        info: TrackInfo::default(),
        seconds: None,
        tiled: false,
        model: None,
        windows: None,
        predicted: None,
        length: None,
        confidence: None,
        vector,
        norm: 0.0,
        source: Source::Learned,
        plays: 0,
    }
}
