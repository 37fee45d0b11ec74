//! Changing the catalogue: all of a commit or none of it, on the disk when it returns.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Transaction, params};

use super::read::{PathValue, to_bytes};
use super::{Change, FileOutcome, FileRecord, Listener, SpaceRow, Store, Track};
use crate::error::{Error, Result};
use crate::ids::TrackId;

impl Store {
    /// Takes all changes or none; when this returns they are on the disk. Returns, for each `Upsert`, whether the
    /// track was there before.
    ///
    /// # Errors
    /// `Mismatch` where a vector has not the space's dimensions or is not of unit length; nothing is written then.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Vec<bool>> {
        let space = self.space()?;
        for change in changes {
            if let Change::Upsert(track) = change {
                let space = space.as_ref().ok_or_else(|| Error::NotFound {
                    what: "space in the catalogue",
                    name: self.folder.display().to_string(),
                })?;
                for vector in track.predicted.iter().chain([&track.vector]) {
                    check_unit(&track.id, vector, space.dimensions)?;
                }
            }
        }
        let space = space.map(|s| s.id.to_string()).unwrap_or_default();
        self.transaction(|t| {
            let mut replaced = Vec::new();
            for change in changes {
                match change {
                    Change::Upsert(track) => replaced.push(upsert(t, track, &space)?),
                    Change::File(file) => remember(t, file)?,
                    Change::Remove(id) => {
                        remove(t, id)?;
                        t.prepare_cached("DELETE FROM files WHERE track = ?1")?.execute([id.as_str()])?;
                    }
                }
            }
            Ok(replaced)
        })
    }

    /// Names the space of this catalogue. A catalogue has one; another is refused unless there is no track yet.
    ///
    /// # Errors
    /// `Mismatch` where there are tracks of another space.
    pub fn set_space(&mut self, space: &SpaceRow) -> Result<()> {
        if let Some(now) = self.space()?
            && now.id != space.id
            && self.status()?.tracks > 0
        {
            return Err(Error::mismatch("the catalogue's space and the new one", now.id, &space.id));
        }
        self.transaction(|t| {
            t.execute("DELETE FROM spaces WHERE id <> ?1", [space.id.as_str()])?;
            t.execute(
                "INSERT INTO spaces VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET dimensions = ?2, description = ?3",
                params![space.id.as_str(), space.dimensions as i64, space.description],
            )
            .map(|_| ())
        })
    }

    /// Replaces all listeners and their histories, in one transaction.
    ///
    /// # Errors
    /// `Mismatch` where a vector has not the space's dimensions.
    pub fn set_listeners(&mut self, listeners: &[Listener]) -> Result<()> {
        let dimensions = self.space()?.map_or(0, |s| s.dimensions);
        if let Some(odd) = listeners.iter().find(|l| l.vector.len() != dimensions) {
            return Err(Error::mismatch(format!("the vector of listener {}", odd.id), dimensions, odd.vector.len()));
        }
        self.transaction(|t| {
            t.execute_batch(
                "DELETE FROM history; DELETE FROM listeners; UPDATE sequence SET listeners = listeners + 1;",
            )?;
            let mut insert = t.prepare("INSERT INTO listeners VALUES (?1, ?2, ?3)")?;
            let mut met = t.prepare("INSERT INTO history VALUES (?1, ?2, ?3, ?4)")?;
            for (key, listener) in listeners.iter().enumerate() {
                insert.execute(params![key as i64, listener.id.as_str(), to_bytes(&listener.vector)])?;
                for m in &listener.history {
                    met.execute(params![key as i64, m.track.as_str(), m.confidence, m.preference])?;
                }
            }
            Ok(())
        })
    }

    /// Moves what the write-ahead log holds into the database file; called when a long write is done.
    pub fn checkpoint(&self) -> Result<()> {
        self.ask(|db| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
    }
}

/// The next number of the sequence.
fn next_seq(t: &Transaction) -> rusqlite::Result<i64> {
    t.prepare_cached("UPDATE sequence SET last = last + 1 RETURNING last")?.query_row([], |row| row.get(0))
}

fn upsert(t: &Transaction, track: &Track, space: &str) -> rusqlite::Result<bool> {
    let there = t.prepare_cached("SELECT 1 FROM tracks WHERE id = ?1")?.exists([track.id.as_str()])?;
    let seq = next_seq(t)?;
    let i = &track.info;
    t.prepare_cached(
        "INSERT INTO tracks (id, path, content, title, artist, album, year, genre, isrc, musicbrainz, released, seconds,
             tiled, space, model, windows, predicted, vector, norm, source, plays, seq, language, explicit, regions)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
             ?23, ?24, ?25)
         ON CONFLICT (id) DO UPDATE SET path = ?2, content = ?3, title = ?4, artist = ?5, album = ?6, year = ?7,
             genre = ?8, isrc = ?9, musicbrainz = ?10, released = ?11, seconds = ?12, tiled = ?13, space = ?14,
             model = ?15, windows = ?16, predicted = ?17, vector = ?18, norm = ?19, source = ?20, plays = ?21, seq = ?22,
             language = ?23, explicit = ?24, regions = ?25",
    )?
    .execute(params![
        track.id.as_str(),
        track.path.as_deref().map(PathValue),
        track.content,
        i.title,
        i.artist,
        i.album,
        i.year,
        i.genre,
        i.isrc,
        i.musicbrainz,
        i.released,
        track.seconds,
        track.tiled,
        space,
        track.model,
        track.windows,
        track.predicted.as_deref().map(to_bytes),
        to_bytes(&track.vector),
        track.norm,
        track.source.as_str(),
        track.plays,
        seq,
        i.language,
        i.explicit,
        i.regions
    ])?;
    Ok(there)
}

fn remember(t: &Transaction, file: &FileRecord) -> rusqlite::Result<()> {
    let (track, reason, retry) = match &file.outcome {
        FileOutcome::Track(id) => (Some(id.as_str()), None, false),
        FileOutcome::Failed { reason, retry } => (None, Some(reason.as_str()), *retry),
    };
    let path = PathValue(&file.stamp.path);
    let before: Option<String> = t
        .prepare_cached("SELECT track FROM files WHERE path = ?1")?
        .query_row([&path], |row| row.get(0))
        .optional()?
        .flatten();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    t.prepare_cached(
        "INSERT INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (path) DO UPDATE SET size = ?2, modified = ?3, content = ?4,
             track = CASE WHEN ?6 IS NULL THEN ?5 ELSE track END, reason = ?6, retry = ?7,
             decoder = ?8, at = ?9",
    )?
    .execute(params![
        path,
        file.stamp.size as i64,
        file.stamp.modified,
        file.content,
        track,
        reason,
        retry,
        file.decoder,
        at
    ])?;
    // The file held another track until now (it was re-tagged, say, so that its content hash changed): the old one is
    // gone from the disk. A file that failed keeps the track that it gave before, until it gives another. A track that
    // somebody named stays until somebody removes it.
    if let Some(before) = before
        && track.is_some_and(|now| now != before)
        && t.prepare_cached("SELECT 1 FROM tracks WHERE id = ?1 AND content = id")?.exists([&before])?
        && !t.prepare_cached("SELECT 1 FROM files WHERE track = ?1")?.exists([&before])?
        && let Ok(before) = TrackId::new(before)
    {
        remove(t, &before)?;
    }
    Ok(())
}

fn remove(t: &Transaction, id: &TrackId) -> rusqlite::Result<()> {
    let key: Option<i64> = t
        .prepare_cached("DELETE FROM tracks WHERE id = ?1 RETURNING key")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(key) = key {
        let seq = next_seq(t)?;
        t.prepare_cached("INSERT INTO removed VALUES (?1, ?2, ?3)")?.execute(params![key, id.as_str(), seq])?;
    }
    Ok(())
}

/// A catalogue vector must be finite and of unit length, or every search that meets it is wrong.
pub(super) fn check_unit(id: &TrackId, vector: &[f32], dimensions: usize) -> Result<()> {
    if vector.len() != dimensions {
        return Err(Error::mismatch(
            format!("the vector of track {id}"),
            format!("{dimensions} numbers"),
            vector.len(),
        ));
    }
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    // 40 f32 numbers, normalised, are within 1e-6; a NaN fails this comparison too.
    if (length - 1.0).abs() < 1e-4 {
        Ok(())
    } else {
        Err(Error::mismatch(format!("the vector of track {id}"), "length 1", format!("length {length}")))
    }
}
