//! Changing the catalogue: all of a commit or none of it, on the disk when it returns.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, ToSql, Transaction};

use super::generations::{Generation, Head, create};
use super::read::{PathValue, TRACK_COLUMNS, VECTOR_COLUMNS, to_bytes};
use super::sums::{sum_of, verified};
use super::{Change, FileOutcome, FileRecord, Listener, Source, SpaceRow, Store, Track};
use crate::error::{Error, Result};
use crate::ids::TrackId;

impl Store {
    /// Takes all changes or none; when this returns they are on the disk. Returns, for each `Upsert`, whether the
    /// track was there before. Of a track in a generation that is being built, the vector alone is taken.
    ///
    /// # Errors
    /// `Mismatch` where a vector has not the space's dimensions or is not of unit length; nothing is written then.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Vec<bool>> {
        let generation = self.generation()?;
        for change in changes {
            if let Change::Upsert(track) = change {
                let generation = generation.as_ref().ok_or_else(|| Error::NotFound {
                    what: "space in the catalogue",
                    name: self.folder.display().to_string(),
                })?;
                for vector in track.predicted.iter().chain([&track.vector]) {
                    check_unit(&track.id, vector, generation.space.dimensions)?;
                }
            }
        }
        let (working, alone) = (self.working, self.writer.is_some());
        self.transaction(|t| {
            let (head, generations) = (Head::load(t)?, Generation::all(t)?);
            let mut batch = Batch { t, head, generations, working, alone, damaged: BTreeSet::new() };
            let mut replaced = Vec::new();
            for change in changes {
                match change {
                    Change::Upsert(track) => replaced.push(batch.upsert(track)?),
                    Change::File(file) => batch.remember(file)?,
                    Change::Remove(id) => {
                        batch.remove(id)?;
                        t.prepare_cached("DELETE FROM files WHERE track = ?1")?.execute([id.as_str()])?;
                    }
                }
            }
            batch.mend()?;
            batch.head.save(t)?;
            for generation in &batch.generations {
                generation.save(t)?;
            }
            Ok(replaced)
        })
    }

    /// Names the space of this catalogue. A catalogue has one; another is refused unless there is no track yet.
    ///
    /// # Errors
    /// `Mismatch` where there are tracks of another space.
    pub fn set_space(&mut self, space: &SpaceRow) -> Result<()> {
        if let Some(now) = self.generation()? {
            if now.space.id != space.id && now.vectors > 0 {
                return Err(Error::mismatch(
                    "the catalogue's space and the new one (`debut reindex` changes it)",
                    now.space.id,
                    &space.id,
                ));
            }
            return self.transaction(|t| {
                let mut generation = Generation { space: space.clone(), ..Generation::load(t, now.number)? };
                if now.space.id != space.id {
                    // Listeners of another space are nobody here.
                    let n = now.number;
                    t.execute_batch(&format!("DELETE FROM history_{n}; DELETE FROM listeners_{n};"))?;
                    (generation.listeners, generation.listened) = (0, 0);
                }
                // A service looks at the description again.
                generation.replaced += 1;
                generation.save(t)
            });
        }
        let number = self.transaction(|t| {
            let number = create(t, space, "")?.number;
            let mut head = Head::load(t)?;
            head.served = Some(number);
            head.save(t)?;
            Ok(number)
        })?;
        self.working = Some(number);
        Ok(())
    }

    /// Replaces all listeners and their histories, in one transaction.
    ///
    /// # Errors
    /// `Mismatch` where a vector has not the space's dimensions.
    pub fn set_listeners(&mut self, listeners: &[Listener]) -> Result<()> {
        let Some(Generation { number, space, .. }) = self.generation()? else {
            return Err(Error::NotFound { what: "space in the catalogue", name: self.folder.display().to_string() });
        };
        if let Some(odd) = listeners.iter().find(|l| l.vector.len() != space.dimensions) {
            let what = format!("the vector of listener {}", odd.id);
            return Err(Error::mismatch(what, space.dimensions, odd.vector.len()));
        }
        self.transaction(|t| {
            t.execute_batch(&format!("DELETE FROM history_{number}; DELETE FROM listeners_{number};"))?;
            let mut generation = Generation::load(t, number)?;
            (generation.listeners, generation.listened) = (listeners.len() as i64, 0);
            generation.replaced += 1;
            for (key, listener) in listeners.iter().enumerate() {
                let sum = put_listener(t, number, key as i64, listener)?;
                generation.listened = generation.listened.wrapping_add(sum);
            }
            generation.save(t)
        })
    }

    /// Moves what the write-ahead log holds into the database file; called when a long write is done.
    pub fn checkpoint(&self) -> Result<()> {
        self.ask(|db| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
    }
}

/// A commit under way.
struct Batch<'a> {
    t: &'a Transaction<'a>,
    head: Head,
    generations: Vec<Generation>,
    /// The generation that this handle writes to.
    working: Option<i64>,
    /// It is the writer's: a builder's handle writes beside him until it has his place.
    alone: bool,
    /// Tables of which a row went whose checksum was not that of its values.
    damaged: BTreeSet<String>,
}

impl Batch<'_> {
    fn upsert(&mut self, track: &Track) -> rusqlite::Result<bool> {
        let there = self.before("tracks", "id", &track.id.as_str(), TRACK_COLUMNS)?;
        let building = self.working != self.head.served;
        let key = match there {
            Some((key, _)) if building => key,
            Some((key, before)) => {
                let after = put_track(self.t, key, self.head.next_seq(), track)?;
                self.head.add(before, after, 0);
                key
            }
            // It was taken out since it was read, to be built.
            None if building && (!self.alone || track.content.is_some()) => return Ok(false),
            None => {
                self.head.last_key += 1;
                let after = put_track(self.t, self.head.last_key, self.head.next_seq(), track)?;
                self.head.add(0, after, 1);
                self.head.last_key
            }
        };
        // `commit` has seen that there is a generation.
        if let Some(number) = self.working {
            let before = self.before(&format!("vectors_{number}"), "track", &key, VECTOR_COLUMNS)?;
            let after = put_vector(self.t, number, key, track)?;
            if let Some(generation) = self.generations.iter_mut().find(|g| g.number == number) {
                generation.add(before.map_or(0, |(_, sum)| sum), after, i64::from(before.is_none()));
            }
        }
        Ok(there.is_some())
    }

    /// Key and checksum of the row that is about to go. Where it is damaged, which is no reason not to replace it, nobody
    /// knows what it added to the table's sum.
    fn before(
        &mut self,
        table: &str,
        column: &str,
        value: &dyn ToSql,
        columns: usize,
    ) -> rusqlite::Result<Option<(i64, i64)>> {
        let found = self
            .t
            .prepare_cached(&format!("SELECT * FROM {table} WHERE {column} = ?1"))?
            .query_row([value], |row| Ok((row.get(0)?, verified(row, 0, columns, table).ok())))
            .optional()?;
        Ok(found.map(|(key, sum)| {
            if sum.is_none() {
                self.damaged.insert(table.to_string());
            }
            (key, sum.unwrap_or(0))
        }))
    }

    /// Adds up anew the tables of which a damaged row went: a row whose own checksum was damaged would be missing from
    /// the sum for ever. How many rows there must be is not counted anew, so what is lost stays known.
    fn mend(&mut self) -> rusqlite::Result<()> {
        for table in std::mem::take(&mut self.damaged) {
            let mut total = 0i64;
            let mut statement = self.t.prepare(&format!("SELECT sum FROM {table}"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                total = total.wrapping_add(row.get(0)?);
            }
            let number: Option<i64> = table.strip_prefix("vectors_").and_then(|number| number.parse().ok());
            match self.generations.iter_mut().find(|g| Some(g.number) == number) {
                Some(generation) => generation.total = total,
                None => self.head.total = total,
            }
        }
        Ok(())
    }

    fn remember(&mut self, file: &FileRecord) -> rusqlite::Result<()> {
        let before: Option<String> = self
            .t
            .prepare_cached("SELECT track FROM files WHERE path = ?1")?
            .query_row([PathValue(&file.stamp.path)], |row| row.get(0))
            .optional()?
            .flatten();
        let now = match &file.outcome {
            FileOutcome::Track(id) => Some(id.as_str()),
            FileOutcome::Failed { .. } => None,
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        put_file(self.t, file, now.or(before.as_deref()), at)?;
        // The file held another track until now (it was re-tagged, say, so that its content hash changed): the old one is
        // gone from the disk. A file that failed keeps the track that it gave before, until it gives another. A track that
        // somebody named stays until somebody removes it.
        let asks = |sql: &str, id: &str| self.t.prepare_cached(sql)?.exists([id]);
        if let Some(before) = before
            && now.is_some_and(|now| now != before)
            && asks("SELECT 1 FROM tracks WHERE id = ?1 AND content = id", &before)?
            && !asks("SELECT 1 FROM files WHERE track = ?1", &before)?
            && let Ok(before) = TrackId::new(before)
        {
            self.remove(&before)?;
        }
        Ok(())
    }

    fn remove(&mut self, id: &TrackId) -> rusqlite::Result<()> {
        let Some((key, sum)) = self.before("tracks", "id", &id.as_str(), TRACK_COLUMNS)? else { return Ok(()) };
        self.t.prepare_cached("DELETE FROM tracks WHERE id = ?1")?.execute([id.as_str()])?;
        self.head.add(sum, 0, -1);
        for at in 0..self.generations.len() {
            let table = format!("vectors_{}", self.generations[at].number);
            if let Some((_, sum)) = self.before(&table, "track", &key, VECTOR_COLUMNS)? {
                self.t.prepare_cached(&format!("DELETE FROM {table} WHERE track = ?1"))?.execute([key])?;
                self.generations[at].add(sum, 0, -1);
            }
        }
        put_removed(self.t, key, id.as_str(), self.head.next_seq())
    }
}

/// Writes a row with its checksum behind it, in the place of the one with the same `key`, its first value; returns the
/// checksum.
pub(super) fn put(t: &Transaction, table: &str, key: &str, values: &[&dyn ToSql]) -> rusqlite::Result<i64> {
    let sum = sum_of(values)?;
    // Not `INSERT OR REPLACE`: that would also delete another row with the same seq or id, where one is damaged.
    t.prepare_cached(&format!("DELETE FROM {table} WHERE {key} = ?1"))?.execute([values[0]])?;
    let marks = vec!["?"; values.len() + 1].join(", ");
    let mut statement = t.prepare_cached(&format!("INSERT INTO {table} VALUES ({marks})"))?;
    statement.execute(rusqlite::params_from_iter(values.iter().copied().chain([&sum as &dyn ToSql])))?;
    Ok(sum)
}

pub(super) fn put_track(t: &Transaction, key: i64, seq: i64, track: &Track) -> rusqlite::Result<i64> {
    let Track { path, content, info: i, seconds, tiled, .. } = track;
    let path = path.as_deref().map(PathValue);
    put(
        t,
        "tracks",
        "key",
        &[
            &key,
            &track.id.as_str(),
            &path,
            content,
            &i.title,
            &i.artist,
            &i.album,
            &i.year,
            &i.genre,
            &i.isrc,
            &i.musicbrainz,
            &i.released,
            seconds,
            tiled,
            &i.language,
            &i.explicit,
            &i.regions,
            &seq,
        ],
    )
}

pub(super) fn put_vector(t: &Transaction, generation: i64, key: i64, track: &Track) -> rusqlite::Result<i64> {
    let vector = to_bytes(&track.vector);
    // What is served of a track that nobody has played is the prediction, which is not kept twice.
    let alike = track.source == Source::Predicted && track.predicted.as_ref() == Some(&track.vector);
    let predicted = track.predicted.as_deref().filter(|_| !alike).map(to_bytes);
    put(
        t,
        &format!("vectors_{generation}"),
        "track",
        &[
            &key,
            &track.content,
            &track.model,
            &track.windows,
            &predicted,
            &vector,
            &track.norm,
            &track.source.as_str(),
            &track.plays,
            &track.length,
            &track.confidence,
        ],
    )
}

/// Returns the checksum of id and vector; that of the history stands behind it.
pub(super) fn put_listener(t: &Transaction, generation: i64, key: i64, listener: &Listener) -> rusqlite::Result<i64> {
    let vector = to_bytes(&listener.vector);
    let sum = sum_of(&[&key, &listener.id.as_str(), &vector])?;
    // In the order of their primary key, in which they are read.
    let mut history: Vec<_> = listener.history.iter().collect();
    history.sort_by(|a, b| a.track.cmp(&b.track));
    let mut met = t.prepare_cached(&format!("INSERT INTO history_{generation} VALUES (?1, ?2, ?3, ?4)"))?;
    let mut histories = super::sums::RowSum::default();
    for m in history {
        let (confidence, preference) = (f64::from(m.confidence), f64::from(m.preference));
        met.execute(rusqlite::params![key, m.track.as_str(), confidence, preference])?;
        histories.add(m.track.as_str().into());
        histories.add(rusqlite::types::ValueRef::Real(confidence));
        histories.add(rusqlite::types::ValueRef::Real(preference));
    }
    t.prepare_cached(&format!("INSERT INTO listeners_{generation} VALUES (?1, ?2, ?3, ?4, ?5)"))?
        .execute(rusqlite::params![key, listener.id.as_str(), vector, sum, histories.finish()])?;
    Ok(sum)
}

pub(super) fn put_removed(t: &Transaction, key: i64, id: &str, seq: i64) -> rusqlite::Result<()> {
    put(t, "removed", "key", &[&key, &id, &seq]).map(drop)
}

/// `track`: what the file gives, or, of one that failed, gave before.
pub(super) fn put_file(t: &Transaction, file: &FileRecord, track: Option<&str>, at: i64) -> rusqlite::Result<()> {
    let (reason, retry) = match &file.outcome {
        FileOutcome::Track(_) => (None, false),
        FileOutcome::Failed { reason, retry } => (Some(reason), *retry),
    };
    let FileRecord { stamp, content, decoder, .. } = file;
    put(
        t,
        "files",
        "path",
        &[
            &PathValue(&stamp.path),
            &(stamp.size as i64),
            &stamp.modified,
            content,
            &track,
            &reason,
            &retry,
            decoder,
            &at,
        ],
    )
    .map(drop)
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
