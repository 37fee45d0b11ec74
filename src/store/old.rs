//! Reading the tables of version 3, put aside under other names.

use rusqlite::{OptionalExtension, Row, Transaction};

use super::read::{file_row, from_bytes, id_of, path_of};
use super::sums::damaged;
use super::{FileRow, Listener, Met, Source, SpaceRow, Track, TrackInfo};
use crate::artefact::SpaceId;

/// Makes way for the tables of today.
pub(super) const ASIDE: &str = "
DROP INDEX files_track;
DROP INDEX tracks_content;
ALTER TABLE spaces RENAME TO old_spaces;
ALTER TABLE tracks RENAME TO old_tracks;
ALTER TABLE removed RENAME TO old_removed;
ALTER TABLE sequence RENAME TO old_sequence;
ALTER TABLE files RENAME TO old_files;
ALTER TABLE listeners RENAME TO old_listeners;
ALTER TABLE history RENAME TO old_history;
";

pub(super) const GONE: &str = "
DROP TABLE old_history;
DROP TABLE old_listeners;
DROP TABLE old_files;
DROP TABLE old_sequence;
DROP TABLE old_removed;
DROP TABLE old_tracks;
DROP TABLE old_spaces;
";

pub(super) fn space(t: &Transaction) -> rusqlite::Result<Option<SpaceRow>> {
    t.query_row("SELECT id, dimensions, description FROM old_spaces", [], |row| {
        Ok(SpaceRow {
            id: SpaceId::named(row.get::<_, String>(0)?),
            dimensions: row.get::<_, i64>(1)? as usize,
            description: row.get(2)?,
        })
    })
    .optional()
}

/// Key, seq and track, in order of the key.
pub(super) fn for_each_track(
    t: &Transaction,
    each: &mut dyn FnMut(i64, i64, &Track) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = t.prepare("SELECT * FROM old_tracks ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get("key")?, row.get("seq")?, &track(row)?)?;
    }
    Ok(())
}

fn track(row: &Row) -> rusqlite::Result<Track> {
    let source: String = row.get("source")?;
    let path = row.get_ref("path")?;
    Ok(Track {
        id: id_of(row, "id")?,
        path: (path != rusqlite::types::ValueRef::Null).then(|| path_of(path)),
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
        source: Source::parse(&source).ok_or_else(|| damaged(format!("the source {source:?} of a vector")))?,
        plays: row.get("plays")?,
    })
}

pub(super) fn for_each_listener(
    t: &Transaction,
    each: &mut dyn FnMut(i64, &Listener) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = t.prepare("SELECT key, id, vector FROM old_listeners ORDER BY key")?;
    let mut history = t.prepare("SELECT track, confidence, preference FROM old_history WHERE listener = ?1")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(0)?;
        let met = |row: &Row| Ok(Met { track: id_of(row, 0)?, confidence: row.get(1)?, preference: row.get(2)? });
        let history = history.query_map([key], met)?.collect::<rusqlite::Result<_>>()?;
        let vector = from_bytes(row.get_ref(2)?.as_blob()?);
        each(key, &Listener { id: id_of(row, 1)?, vector, history })?;
    }
    Ok(())
}

pub(super) fn for_each_removed(
    t: &Transaction,
    each: &mut dyn FnMut(i64, &str, i64) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = t.prepare("SELECT key, id, seq FROM old_removed")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, row.get_ref(1)?.as_str()?, row.get(2)?)?;
    }
    Ok(())
}

pub(super) fn for_each_file(
    t: &Transaction,
    each: &mut dyn FnMut(&FileRow) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement =
        t.prepare("SELECT path, size, modified, content, track, reason, retry, decoder, at FROM old_files")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let track = row.get::<_, Option<String>>(4)?.map(|_| id_of(row, 4)).transpose()?;
        each(&FileRow { record: file_row(row)?, track, at: row.get(8)? })?;
    }
    Ok(())
}
