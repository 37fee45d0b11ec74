//! Asking the catalogue.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, RowIndex, Rows, ToSql};

use super::generations::{Generation, Head};
use super::open::DATABASE;
use super::sums::{RowSum, damaged, verified};
use super::{
    Failure, FileOutcome, FileRecord, FileStamp, Listener, Met, Served, Song, Source, SpaceRow, Status, Store, Track,
    TrackChange, TrackInfo, catalogue,
};
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

impl Store {
    pub fn space(&self) -> Result<Option<SpaceRow>> {
        Ok(self.generation()?.map(|generation| generation.space))
    }

    /// The track of which `condition` holds, which is asked of `tracks t`.
    fn track_where(&self, condition: &str, value: &dyn ToSql) -> Result<Option<Track>> {
        let Some(number) = self.working else { return Ok(None) };
        self.ask(|db| {
            db.prepare_cached(&format!("{} WHERE {condition}", track_sql(number)))?
                .query_row([value], track_row)
                .optional()
        })
    }

    pub fn track(&self, id: &TrackId) -> Result<Option<Track>> {
        self.track_where("t.id = ?1", &id.as_str())
    }

    pub fn track_by_key(&self, key: u64) -> Result<Option<Track>> {
        self.track_where("t.key = ?1", &(key as i64))
    }

    /// As [`Store::track`], also of a track that has no vector in what is served (see [`Status::without_vector`]): its
    /// `vector` is empty then, and what comes with one is as of a track that nobody has heard or played.
    pub fn entry(&self, id: &TrackId) -> Result<Option<Track>> {
        self.entry_where("t.id = ?1", &id.as_str())
    }

    /// An [entry](Store::entry) whose audio has this [content hash](crate::artefact::content_hash); the oldest, where
    /// several have it.
    pub fn entry_by_content(&self, content: &str) -> Result<Option<Track>> {
        self.entry_where("t.content = ?1 ORDER BY t.key LIMIT 1", &content)
    }

    fn entry_where(&self, condition: &str, value: &dyn ToSql) -> Result<Option<Track>> {
        let Some(number) = self.working else { return Ok(None) };
        let sql = format!("{} WHERE {condition}", entry_sql(number));
        self.ask(|db| db.prepare_cached(&sql)?.query_row([value], track_row).optional())
    }

    /// Up to `most` of the newest tracks by an artist ([`TrackInfo::artist_or_album`](super::TrackInfo)) whose listeners
    /// have taught where they lie, those with most listeners first. One whose row is damaged is left out: to ingest its file
    /// again mends it, which asks for these songs.
    pub fn songs_of(&self, name: &str, most: usize) -> Result<Vec<Song>> {
        let Some(number) = self.working else { return Ok(Vec::new()) };
        // Of a name that thousands of tracks bear, the newest: what is looked at stays bounded.
        let sql = format!(
            "{} WHERE t.key IN (SELECT key FROM tracks WHERE ifnull(artist, album) = ?1 ORDER BY key DESC LIMIT 2048)
                 AND v.source <> 'predicted' AND v.plays > 0 ORDER BY v.plays DESC, t.key",
            track_sql(number)
        );
        self.ask(|db| {
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query([name])?;
            let mut songs = Vec::new();
            while songs.len() < most
                && let Some(row) = rows.next()?
            {
                match track_row(row) {
                    Ok(Track { id, vector, plays, .. }) => songs.push(Song { id, vector, plays }),
                    Err(rusqlite::Error::FromSqlConversionFailure(_, _, damage)) => {
                        tracing::warn!("{}: a song by {name} is left out: {damage}", self.path.display());
                    }
                    Err(e) => return Err(e),
                }
            }
            Ok(songs)
        })
    }

    /// Whether there is a track of this id, with a vector or without, sound or damaged.
    pub fn contains(&self, id: &TrackId) -> Result<bool> {
        self.ask(|db| db.prepare_cached("SELECT 1 FROM tracks WHERE id = ?1")?.exists([id.as_str()]))
    }

    /// The number of tracks that are served.
    pub fn len(&self) -> Result<u64> {
        Ok(self.generation()?.map_or(0, |generation| generation.vectors as u64))
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The windows that were heard of the track that was changed last, of those that were heard: what is compared with
    /// the catalogue is heard alike.
    pub fn windows(&self) -> Result<Option<u32>> {
        let Some(number) = self.working else { return Ok(None) };
        self.ask(|db| {
            db.prepare_cached(&format!(
                "SELECT v.windows FROM tracks t JOIN vectors_{number} v ON v.track = t.key
                 WHERE v.windows IS NOT NULL ORDER BY t.seq DESC LIMIT 1"
            ))?
            .query_row([], |row| row.get(0))
            .optional()
        })
    }

    /// Whether a track of this id was taken out, and is not there.
    pub fn is_removed(&self, id: &TrackId) -> Result<bool> {
        self.ask(|db| {
            db.prepare_cached(
                "SELECT 1 FROM removed WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM tracks WHERE id = ?1)",
            )?
            .exists([id.as_str()])
        })
    }

    /// The key under which the index knows the track.
    pub fn key(&self, id: &TrackId) -> Result<Option<u64>> {
        self.ask(|db| {
            db.prepare_cached("SELECT key FROM tracks WHERE id = ?1")?
                .query_row([id.as_str()], |row| row.get::<_, i64>(0))
                .optional()
                .map(|key| key.map(|k| k as u64))
        })
    }

    /// The track that this file gave when it was last ingested.
    pub fn file(&self, path: &Path) -> Result<Option<FileRecord>> {
        self.ask(|db| {
            db.prepare_cached(&format!("{FILE} WHERE path = ?1"))?
                .query_row([PathValue(path)], |row| {
                    verified(row, 0, FILE_COLUMNS, "file's record")?;
                    file_row(row)
                })
                .optional()
        })
    }

    /// Calls `each` with every track that is served, in order of its key.
    pub fn for_each_track(&self, each: &mut dyn FnMut(u64, Track) -> Result<()>) -> Result<()> {
        let Some(number) = self.working else { return Ok(()) };
        let failed = || catalogue(&self.path);
        let mut statement = self.db.prepare(&format!("{} ORDER BY t.key", track_sql(number))).map_err(failed())?;
        let mut rows = statement.query([]).map_err(failed())?;
        while let Some(row) = rows.next().map_err(failed())? {
            let key = row.get::<_, i64>(0).map_err(failed())? as u64;
            each(key, track_row(row).map_err(failed())?)?;
        }
        self.must_lie_still()
    }

    pub fn failures(&self) -> Result<Vec<Failure>> {
        self.ask(|db| {
            db.prepare_cached(&format!("{FILE} WHERE reason IS NOT NULL ORDER BY path"))?
                .query_map([], |row| {
                    verified(row, 0, FILE_COLUMNS, "file's record")?;
                    Ok(Failure { path: path_of(row.get_ref(0)?), reason: row.get(5)?, at: row.get(8)? })
                })?
                .collect()
        })
    }

    /// Calls `each` with everything that changed after `seq`, oldest first; after 0 with all tracks, in order of their
    /// keys. Returns the number up to which that is everything.
    ///
    /// # Errors
    /// `Format` where a row is not as it was written or, after 0, where one is missing.
    pub fn changes_since(&self, seq: i64, each: &mut dyn FnMut(TrackChange)) -> Result<i64> {
        let Some(number) = self.working else { return Ok(0) };
        self.snapshot(|db| {
            let head = Head::load(db)?;
            if seq == 0 {
                all_tracks(db, &head, number, each)?;
                return Ok(head.last_seq);
            }
            // Two statements, each in the order of its index, are merged: a union of both would be sorted whole.
            let mut removed = db.prepare_cached("SELECT key, id, seq, sum FROM removed WHERE seq > ?1 ORDER BY seq")?;
            let mut gone = removed.query([seq])?;
            let mut next_gone = gone_row(&mut gone)?;
            let mut statement = db.prepare_cached(&format!("{} WHERE t.seq > ?1 ORDER BY t.seq", track_sql(number)))?;
            let mut rows = statement.query([seq])?;
            while let Some(row) = rows.next()? {
                let change = change_row(row)?;
                while let Some(gone_now) = next_gone.take_if(|gone| gone.seq < change.seq) {
                    each(gone_now);
                    next_gone = gone_row(&mut gone)?;
                }
                each(change);
            }
            while let Some(gone_now) = next_gone {
                each(gone_now);
                next_gone = gone_row(&mut gone)?;
            }
            Ok(head.last_seq)
        })
    }

    /// The number of the last change.
    pub fn seq(&self) -> Result<i64> {
        self.ask(Head::load).map(|head| head.last_seq)
    }

    /// How often the listeners were replaced.
    pub fn listeners_version(&self) -> Result<i64> {
        Ok(self.generation()?.map_or(0, |generation| generation.replaced))
    }

    /// A name that no other catalogue has, nor another generation of this one, so that what is derived from one is not
    /// taken for another's.
    pub fn identity(&self) -> Result<String> {
        let head = self.ask(Head::load)?;
        Ok(format!("{}-{}", head.identity, self.working.unwrap_or(0)))
    }

    /// A number that changes when another connection has committed (SQLite's `data_version`): cheap to poll.
    pub fn data_version(&self) -> Result<i64> {
        self.ask(|db| db.pragma_query_value(None, "data_version", |row| row.get(0)))
    }

    pub fn listener(&self, id: &UserId) -> Result<Option<Listener>> {
        let Some(number) = self.working else { return Ok(None) };
        self.snapshot(|db| {
            let found = db
                .prepare_cached(&format!("{} WHERE id = ?1", listener_sql(number)))?
                .query_row([id.as_str()], |row| {
                    verified(row, 0, LISTENER_COLUMNS, "listener")?;
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, i64>(4)?))
                })
                .optional()?;
            let Some((key, vector, sum)) = found else { return Ok(None) };
            let history = history(db, number, key, sum)?;
            Ok(Some(Listener { id: id.clone(), vector: from_bytes(&vector), history }))
        })
    }

    /// Calls `each` with every listener's id and vector.
    ///
    /// # Errors
    /// `Format` where a row is not as it was written, or missing.
    pub fn for_each_listener(&self, each: &mut dyn FnMut(UserId, Vec<f32>)) -> Result<()> {
        let Some(number) = self.working else { return Ok(()) };
        self.snapshot(|db| {
            let generation = Generation::load(db, number)?;
            let mut statement = db.prepare_cached(&format!("{} ORDER BY key", listener_sql(number)))?;
            let mut rows = statement.query([])?;
            let (mut count, mut total) = (0, 0i64);
            while let Some(row) = rows.next()? {
                count += 1;
                total = total.wrapping_add(verified(row, 0, LISTENER_COLUMNS, "listener")?);
                each(id_of(row, 1)?, from_bytes(row.get_ref(2)?.as_blob()?));
            }
            complete("listeners", (count, total), (generation.listeners, generation.listened))
        })
    }

    pub fn status(&self) -> Result<Status> {
        let mut status = self.snapshot(|db| {
            let head = Head::load(db)?;
            let mut status = Status { seq: head.last_seq, ..Status::default() };
            let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64);
            status.failures = count("SELECT count(*) FROM files WHERE reason IS NOT NULL")?;
            let space = |number| Generation::load(db, number).map(|g| g.space.id.to_string());
            status.previous_space = head.previous.map(space).transpose()?;
            let Some(number) = self.working else { return Ok(status) };
            let generation = Generation::load(db, number)?;
            status.tracks = generation.vectors as u64;
            status.without_vector = (head.tracks - generation.vectors) as u64;
            status.listeners = generation.listeners as u64;
            status.space = Some(generation.space.id.to_string());
            status.dimensions = Some(generation.space.dimensions);
            let mut sources = db.prepare(&format!("SELECT source, count(*) FROM vectors_{number} GROUP BY source"))?;
            let mut rows = sources.query([])?;
            while let Some(row) = rows.next()? {
                *match source_of(row, 0)? {
                    Source::Predicted => &mut status.predicted,
                    Source::HandedOver => &mut status.handed_over,
                    Source::Learned => &mut status.learned,
                } = row.get::<_, i64>(1)? as u64;
            }
            let mut models = db.prepare(&format!(
                "SELECT model, windows, count(*) FROM vectors_{number} WHERE model IS NOT NULL GROUP BY model, windows
                 ORDER BY count(*) DESC"
            ))?;
            status.models = models
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u64)))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(status)
        })?;
        status.bytes = ["", "-wal"]
            .iter()
            .filter_map(|end| fs::metadata(self.folder.join(format!("{DATABASE}{end}"))).ok())
            .map(|m| m.len())
            .sum();
        Ok(status)
    }
}

/// Columns of a track that its checksum is of, and of a vector; each checksum stands behind them.
pub(super) const TRACK_COLUMNS: usize = 18;
pub(super) const VECTOR_COLUMNS: usize = 11;
pub(super) const FILE_COLUMNS: usize = 9;
pub(super) const TOMBSTONE_COLUMNS: usize = 3;
const LISTENER_COLUMNS: usize = 3;

/// Tracks with what the generation `number` has of them: [`track_row`] reads it.
pub(super) fn track_sql(number: i64) -> String {
    joined(number, "JOIN")
}

/// As [`track_sql`], also of tracks of which the generation has nothing.
pub(super) fn entry_sql(number: i64) -> String {
    joined(number, "LEFT JOIN")
}

fn joined(number: i64, join: &str) -> String {
    format!(
        "SELECT t.key, t.id, t.path, t.content, t.title, t.artist, t.album, t.year, t.genre, t.isrc, t.musicbrainz,
             t.released, t.seconds, t.tiled, t.language, t.explicit, t.regions, t.seq, t.sum,
             v.track, v.content, v.model, v.windows, v.predicted, v.vector, v.norm, v.source, v.plays,
             v.length, v.confidence, v.sum
         FROM tracks t {join} vectors_{number} v ON v.track = t.key"
    )
}

pub(super) const FILE: &str = "SELECT path, size, modified, content, track, reason, retry, decoder, at, sum FROM files";

fn listener_sql(number: i64) -> String {
    format!("SELECT key, id, vector, sum, history FROM listeners_{number}")
}

/// The checksums of a row of [`track_sql`]: of the track and of the vector.
fn verified_track(row: &Row) -> rusqlite::Result<(i64, i64)> {
    let track = verified(row, 0, TRACK_COLUMNS, "track")?;
    let vector = verified(row, TRACK_COLUMNS + 1, VECTOR_COLUMNS, "vector")?;
    Ok((track, vector))
}

pub(super) fn track_row(row: &Row) -> rusqlite::Result<Track> {
    let has_vector = row.get_ref(TRACK_COLUMNS + 1)? != ValueRef::Null;
    if has_vector {
        verified_track(row)?;
    } else {
        verified(row, 0, TRACK_COLUMNS, "track")?;
    }
    let (source, vector) = match has_vector {
        true => (source_of(row, 26)?, from_bytes(row.get_ref(24)?.as_blob()?)),
        false => (Source::Learned, Vec::new()),
    };
    let predicted = match row.get_ref(23)? {
        // What is served is the prediction, which is not kept twice.
        ValueRef::Null => (source == Source::Predicted).then(|| vector.clone()),
        predicted => Some(from_bytes(predicted.as_blob()?)),
    };
    Ok(Track {
        id: id_of(row, 1)?,
        path: match row.get_ref(2)? {
            ValueRef::Null => None,
            value => Some(path_of(value)),
        },
        content: row.get(3)?,
        info: TrackInfo {
            title: row.get(4)?,
            artist: row.get(5)?,
            album: row.get(6)?,
            year: row.get(7)?,
            genre: row.get(8)?,
            isrc: row.get(9)?,
            musicbrainz: row.get(10)?,
            released: row.get(11)?,
            language: row.get(14)?,
            explicit: row.get(15)?,
            regions: row.get(16)?,
        },
        seconds: row.get(12)?,
        tiled: row.get(13)?,
        model: row.get(21)?,
        windows: row.get(22)?,
        predicted,
        vector,
        norm: if has_vector { row.get(25)? } else { 0.0 },
        source,
        plays: if has_vector { row.get(27)? } else { 0 },
        length: row.get(28)?,
        confidence: row.get(29)?,
    })
}

/// Of a row of [`track_sql`], what an index needs.
fn change_row(row: &Row) -> rusqlite::Result<TrackChange> {
    verified_track(row)?;
    Ok(TrackChange {
        key: row.get::<_, i64>(0)? as u64,
        seq: row.get(17)?,
        served: Some(Served {
            vector: from_bytes(row.get_ref(24)?.as_blob()?),
            norm: row.get(25)?,
            plays: row.get(27)?,
            artist: row.get(5)?,
            year: row.get(7)?,
            language: row.get(14)?,
            explicit: row.get(15)?,
            regions: row.get(16)?,
        }),
    })
}

fn gone_row(rows: &mut Rows) -> rusqlite::Result<Option<TrackChange>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    verified(row, 0, TOMBSTONE_COLUMNS, "tombstone")?;
    Ok(Some(TrackChange { key: row.get::<_, i64>(0)? as u64, seq: row.get(2)?, served: None }))
}

/// Every track, and the certainty that it is every track.
fn all_tracks(db: &Connection, head: &Head, number: i64, each: &mut dyn FnMut(TrackChange)) -> rusqlite::Result<()> {
    let generation = Generation::load(db, number)?;
    let mut statement = db.prepare_cached(&format!("{} ORDER BY t.key", track_sql(number)))?;
    let mut rows = statement.query([])?;
    let (mut count, mut tracks, mut vectors) = (0, 0i64, 0i64);
    while let Some(row) = rows.next()? {
        let (track, vector) = verified_track(row)?;
        (count, tracks, vectors) = (count + 1, tracks.wrapping_add(track), vectors.wrapping_add(vector));
        each(change_row(row)?);
    }
    complete("vectors", (count, vectors), (generation.vectors, generation.total))?;
    // Tracks without a vector are not met here.
    match head.tracks == count {
        true => complete("tracks", (count, tracks), (head.tracks, head.total)),
        false => Ok(()),
    }
}

/// # Errors
/// [`damaged`] where the rows that were read are not all that were written.
pub(super) fn complete(what: &str, read: (i64, i64), written: (i64, i64)) -> rusqlite::Result<()> {
    if read == written {
        return Ok(());
    }
    Err(damaged(match read.0 == written.0 {
        true => format!("{} {what}, of which some are others", read.0),
        false => format!("{} {what} of {}", read.0, written.0),
    }))
}

/// What a listener met, whose checksum must be `sum`.
pub(super) fn history(db: &Connection, number: i64, listener: i64, sum: i64) -> rusqlite::Result<Vec<Met>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT track, confidence, preference FROM history_{number} WHERE listener = ?1 ORDER BY track"
    ))?;
    let mut rows = statement.query([listener])?;
    let (mut all, mut read) = (Vec::new(), RowSum::default());
    while let Some(row) = rows.next()? {
        (0..3).try_for_each(|column| row.get_ref(column).map(|value| read.add(value)))?;
        all.push(Met { track: id_of(row, 0)?, confidence: row.get(1)?, preference: row.get(2)? });
    }
    match read.finish() == sum {
        true => Ok(all),
        false => Err(damaged("a listener's history with another checksum")),
    }
}

fn source_of(row: &Row, column: usize) -> rusqlite::Result<Source> {
    let source = row.get_ref(column)?.as_str()?;
    Source::parse(source).ok_or_else(|| damaged(format!("the source {source:?} of a vector")))
}

pub(super) fn file_row(row: &Row) -> rusqlite::Result<FileRecord> {
    let outcome = match row.get::<_, Option<String>>("reason")? {
        Some(reason) => FileOutcome::Failed { reason, retry: row.get("retry")? },
        None => FileOutcome::Track(id_of(row, 4)?),
    };
    Ok(FileRecord {
        stamp: FileStamp {
            path: path_of(row.get_ref("path")?),
            size: row.get::<_, i64>("size")? as u64,
            modified: row.get("modified")?,
        },
        content: row.get("content")?,
        outcome,
        decoder: row.get("decoder")?,
    })
}

pub(super) fn id_of<I: TryFrom<String, Error = Error>>(row: &Row, column: impl RowIndex) -> rusqlite::Result<I> {
    I::try_from(row.get(column)?).map_err(|e| damaged(e.to_string()))
}

/// A path as SQLite keeps it: text where it is UTF-8 (so that people can read it), else its bytes.
pub(super) struct PathValue<'a>(pub &'a Path);

impl ToSql for PathValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0.to_str() {
            Some(text) => text.into(),
            None => ToSqlOutput::Owned(Value::Blob(self.0.as_os_str().as_encoded_bytes().to_vec())),
        })
    }
}

pub(super) fn path_of(value: ValueRef) -> PathBuf {
    match value {
        #[cfg(unix)]
        ValueRef::Blob(bytes) => {
            use std::os::unix::ffi::OsStrExt;
            std::ffi::OsStr::from_bytes(bytes).into()
        }
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned().into(),
        _ => PathBuf::new(),
    }
}

/// Little-endian f32, 4 bytes a number.
pub(super) fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(super) fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
