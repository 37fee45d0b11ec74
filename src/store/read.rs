//! Asking the catalogue.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{OptionalExtension, Row, ToSql};

use super::open::DATABASE;
use super::{
    Failure, FileOutcome, FileRecord, FileStamp, Listener, Met, Served, Source, SpaceRow, Status, Store, Track,
    TrackChange, TrackInfo, catalogue,
};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

impl Store {
    pub fn space(&self) -> Result<Option<SpaceRow>> {
        self.ask(|db| {
            db.prepare_cached("SELECT id, dimensions, description FROM spaces")?
                .query_row([], |row| {
                    Ok(SpaceRow {
                        id: SpaceId::named(row.get::<_, String>(0)?),
                        dimensions: row.get::<_, i64>(1)? as usize,
                        description: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    pub fn track(&self, id: &TrackId) -> Result<Option<Track>> {
        self.ask(|db| {
            db.prepare_cached(&format!("{TRACK} WHERE id = ?1"))?.query_row([id.as_str()], track_row).optional()
        })
    }

    pub fn track_by_key(&self, key: u64) -> Result<Option<Track>> {
        self.ask(|db| {
            db.prepare_cached(&format!("{TRACK} WHERE key = ?1"))?.query_row([key as i64], track_row).optional()
        })
    }

    /// A track whose audio has this [content hash](crate::artefact::content_hash); the oldest, where several have it.
    pub fn track_by_content(&self, content: &str) -> Result<Option<Track>> {
        self.ask(|db| {
            db.prepare_cached(&format!("{TRACK} WHERE content = ?1 ORDER BY key LIMIT 1"))?
                .query_row([content], track_row)
                .optional()
        })
    }

    /// The windows that were heard of the track that was changed last, of those that were heard: what is compared with
    /// the catalogue is heard alike.
    pub fn windows(&self) -> Result<Option<u32>> {
        self.ask(|db| {
            db.prepare_cached("SELECT windows FROM tracks WHERE windows IS NOT NULL ORDER BY seq DESC LIMIT 1")?
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
            db.prepare_cached(
                "SELECT path, size, modified, content, track, reason, retry, decoder FROM files WHERE path = ?1",
            )?
            .query_row([PathValue(path)], file_row)
            .optional()
        })
    }

    /// Calls `each` with every track, in order of its key.
    pub fn for_each_track(&self, each: &mut dyn FnMut(u64, Track) -> Result<()>) -> Result<()> {
        let mut statement = self.db.prepare(&format!("{TRACK} ORDER BY key")).map_err(catalogue(&self.path))?;
        let mut rows = statement.query([]).map_err(catalogue(&self.path))?;
        while let Some(row) = rows.next().map_err(catalogue(&self.path))? {
            let key = row.get::<_, i64>("key").map_err(catalogue(&self.path))? as u64;
            each(key, track_row(row).map_err(catalogue(&self.path))?)?;
        }
        Ok(())
    }

    pub fn failures(&self) -> Result<Vec<Failure>> {
        self.ask(|db| {
            db.prepare_cached("SELECT path, reason, at FROM files WHERE reason IS NOT NULL ORDER BY path")?
                .query_map([], |row| {
                    Ok(Failure { path: path_of(row.get_ref(0)?), reason: row.get(1)?, at: row.get(2)? })
                })?
                .collect()
        })
    }

    /// Calls `each` with everything that changed after `seq`, oldest first.
    pub fn changes_since(&self, seq: i64, each: &mut dyn FnMut(TrackChange)) -> Result<()> {
        self.ask(|db| {
            let mut statement = db.prepare_cached(
                "SELECT key, seq, vector, norm, plays, artist, year, language, explicit, regions
                 FROM tracks WHERE seq > ?1
                 UNION ALL SELECT key, seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
                 FROM removed WHERE seq > ?1 ORDER BY seq",
            )?;
            let mut rows = statement.query([seq])?;
            while let Some(row) = rows.next()? {
                let served = match row.get_ref(2)?.as_blob_or_null()? {
                    None => None,
                    Some(vector) => Some(Served {
                        vector: from_bytes(vector),
                        norm: row.get(3)?,
                        plays: row.get(4)?,
                        artist: row.get(5)?,
                        year: row.get(6)?,
                        language: row.get(7)?,
                        explicit: row.get(8)?,
                        regions: row.get(9)?,
                    }),
                };
                each(TrackChange { key: row.get::<_, i64>(0)? as u64, seq: row.get(1)?, served });
            }
            Ok(())
        })
    }

    /// The number of the last change.
    pub fn seq(&self) -> Result<i64> {
        self.ask(|db| db.prepare_cached("SELECT last FROM sequence")?.query_row([], |row| row.get(0)))
    }

    /// How often the listeners were replaced.
    pub fn listeners_version(&self) -> Result<i64> {
        self.ask(|db| db.prepare_cached("SELECT listeners FROM sequence")?.query_row([], |row| row.get(0)))
    }

    /// A random name given when the catalogue was made, so that what is derived from it is not taken for another's.
    pub fn identity(&self) -> Result<String> {
        self.ask(|db| db.prepare_cached("SELECT catalogue FROM sequence")?.query_row([], |row| row.get(0)))
    }

    /// A number that changes when another connection has committed (SQLite's `data_version`): cheap to poll.
    pub fn data_version(&self) -> Result<i64> {
        self.ask(|db| db.pragma_query_value(None, "data_version", |row| row.get(0)))
    }

    pub fn listener(&self, id: &UserId) -> Result<Option<Listener>> {
        self.ask(|db| {
            let found = db
                .prepare_cached("SELECT key, vector FROM listeners WHERE id = ?1")?
                .query_row([id.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))
                .optional()?;
            let Some((key, vector)) = found else { return Ok(None) };
            let history = db
                .prepare_cached("SELECT track, confidence, preference FROM history WHERE listener = ?1")?
                .query_map([key], |row| {
                    Ok(Met { track: id_of(row, 0)?, confidence: row.get(1)?, preference: row.get(2)? })
                })?
                .collect::<rusqlite::Result<Vec<Met>>>()?;
            Ok(Some(Listener { id: id.clone(), vector: from_bytes(&vector), history }))
        })
    }

    /// Calls `each` with every listener's id and vector.
    pub fn for_each_listener(&self, each: &mut dyn FnMut(UserId, Vec<f32>)) -> Result<()> {
        self.ask(|db| {
            let mut statement = db.prepare_cached("SELECT id, vector FROM listeners ORDER BY key")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                each(id_of(row, 0)?, from_bytes(row.get_ref(1)?.as_blob()?));
            }
            Ok(())
        })
    }

    pub fn status(&self) -> Result<Status> {
        let mut status = self.ask(|db| {
            let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64);
            let mut models = db.prepare(
                "SELECT model, windows, count(*) FROM tracks WHERE model IS NOT NULL GROUP BY model, windows
                 ORDER BY count(*) DESC",
            )?;
            Ok(Status {
                tracks: count("SELECT count(*) FROM tracks")?,
                predicted: count("SELECT count(*) FROM tracks WHERE source = 'predicted'")?,
                handed_over: count("SELECT count(*) FROM tracks WHERE source = 'handed_over'")?,
                learned: count("SELECT count(*) FROM tracks WHERE source = 'learned'")?,
                failures: count("SELECT count(*) FROM files WHERE reason IS NOT NULL")?,
                listeners: count("SELECT count(*) FROM listeners")?,
                seq: db.query_row("SELECT last FROM sequence", [], |row| row.get(0))?,
                models: models
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u64)))?
                    .collect::<rusqlite::Result<_>>()?,
                ..Status::default()
            })
        })?;
        if let Some(space) = self.space()? {
            status.space = Some(space.id.to_string());
            status.dimensions = Some(space.dimensions);
        }
        status.bytes = ["", "-wal"]
            .iter()
            .filter_map(|end| fs::metadata(self.folder.join(format!("{DATABASE}{end}"))).ok())
            .map(|m| m.len())
            .sum();
        Ok(status)
    }
}

const TRACK: &str = "SELECT key, id, path, content, title, artist, album, year, genre, isrc, musicbrainz, released,
    seconds, tiled, model, windows, predicted, vector, norm, source, plays, language, explicit, regions FROM tracks";

fn track_row(row: &Row) -> rusqlite::Result<Track> {
    let source: String = row.get("source")?;
    Ok(Track {
        id: id_of(row, 1)?,
        path: match row.get_ref("path")? {
            ValueRef::Null => None,
            value => Some(path_of(value)),
        },
        content: row.get("content")?,
        info: TrackInfo {
            title: row.get("title")?,
            artist: row.get("artist")?,
            album: row.get("album")?,
            year: row.get("year")?,
            genre: row.get("genre")?,
            isrc: row.get("isrc")?,
            musicbrainz: row.get("musicbrainz")?,
            released: row.get("released")?,
            language: row.get("language")?,
            explicit: row.get("explicit")?,
            regions: row.get("regions")?,
        },
        seconds: row.get("seconds")?,
        tiled: row.get("tiled")?,
        model: row.get("model")?,
        windows: row.get("windows")?,
        predicted: row.get::<_, Option<Vec<u8>>>("predicted")?.map(|b| from_bytes(&b)),
        vector: from_bytes(row.get_ref("vector")?.as_blob()?),
        norm: row.get("norm")?,
        source: Source::parse(&source).ok_or_else(|| damaged(19, format!("vector source {source:?}")))?,
        plays: row.get("plays")?,
    })
}

fn file_row(row: &Row) -> rusqlite::Result<FileRecord> {
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

fn id_of<I: TryFrom<String, Error = Error>>(row: &Row, column: usize) -> rusqlite::Result<I> {
    I::try_from(row.get(column)?).map_err(|e| damaged(column, e.to_string()))
}

fn damaged(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
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

fn path_of(value: ValueRef) -> PathBuf {
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

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
