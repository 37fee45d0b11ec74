//! Generations: everything that lives in one factor space, in tables of its own, so that a new model or space is built
//! beside the one that is served, takes its place in one commit, and can be followed by the way back.
//!
//! ```text
//! catalogue.served ──► generations.number ──► vectors_N, listeners_N, history_N
//! catalogue.previous ► kept for the way back            the others: being built
//! ```

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::open::{BUILDER, WRITER, lock};
use super::read::{entry_sql, track_row, track_sql};
use super::sums::{sum_of, verified};
use super::{Change, Source, SpaceRow, Store, Track};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};

/// The one row of `catalogue`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub identity: String,
    pub last_seq: i64,
    pub last_key: i64,
    pub served: Option<i64>,
    pub previous: Option<i64>,
    /// How many tracks there are, and the sum of their checksums.
    pub tracks: i64,
    pub total: i64,
}

impl Head {
    pub fn load(db: &Connection) -> rusqlite::Result<Head> {
        db.prepare_cached("SELECT identity, last_seq, last_key, served, previous, tracks, total, sum FROM catalogue")?
            .query_row([], |row| {
                verified(row, 0, 7, "catalogue's head")?;
                Ok(Head {
                    identity: row.get(0)?,
                    last_seq: row.get(1)?,
                    last_key: row.get(2)?,
                    served: row.get(3)?,
                    previous: row.get(4)?,
                    tracks: row.get(5)?,
                    total: row.get(6)?,
                })
            })
    }

    /// Writes the row, with a new identity where it has none.
    pub fn insert(t: &Transaction, head: &Head) -> rusqlite::Result<()> {
        t.execute("INSERT INTO catalogue VALUES (?1, 0, 0, NULL, NULL, 0, 0, 0)", [&head.identity])?;
        let mut head = head.clone();
        if head.identity.is_empty() {
            head.identity = t.query_row("SELECT lower(hex(randomblob(8)))", [], |row| row.get(0))?;
        }
        head.save(t)
    }

    pub fn save(&self, t: &Transaction) -> rusqlite::Result<()> {
        let Head { identity, last_seq, last_key, served, previous, tracks, total } = self;
        let sum = sum_of(&[identity, last_seq, last_key, served, previous, tracks, total])?;
        t.prepare_cached(
            "UPDATE catalogue SET identity = ?1, last_seq = ?2, last_key = ?3, served = ?4, previous = ?5, tracks = ?6,
                 total = ?7, sum = ?8",
        )?
        .execute(params![identity, last_seq, last_key, served, previous, tracks, total, sum])
        .map(drop)
    }

    /// The next number of the sequence.
    pub fn next_seq(&mut self) -> i64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// A row with checksum `before` became one with `after`, and `more` came (or went).
    pub fn add(&mut self, before: i64, after: i64, more: i64) {
        self.tracks += more;
        self.total = self.total.wrapping_sub(before).wrapping_add(after);
    }
}

/// One row of `generations`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Generation {
    pub number: i64,
    pub space: SpaceRow,
    /// What a build was begun with, so that it is gone on with by the same alone.
    pub made_by: String,
    /// How many vectors there are, and the sum of their checksums.
    pub vectors: i64,
    pub total: i64,
    /// The same of the listeners.
    pub listeners: i64,
    pub listened: i64,
    /// How often the listeners were replaced.
    pub replaced: i64,
}

impl Generation {
    pub fn load(db: &Connection, number: i64) -> rusqlite::Result<Generation> {
        db.prepare_cached(
            "SELECT number, space, dimensions, description, made_by, vectors, total, listeners, listened, replaced, sum
             FROM generations WHERE number = ?1",
        )?
        .query_row([number], |row| {
            verified(row, 0, 10, "generation")?;
            Ok(Generation {
                number,
                space: SpaceRow {
                    id: SpaceId::named(row.get::<_, String>(1)?),
                    dimensions: row.get::<_, i64>(2)? as usize,
                    description: row.get(3)?,
                },
                made_by: row.get(4)?,
                vectors: row.get(5)?,
                total: row.get(6)?,
                listeners: row.get(7)?,
                listened: row.get(8)?,
                replaced: row.get(9)?,
            })
        })
    }

    pub fn all(db: &Connection) -> rusqlite::Result<Vec<Generation>> {
        let numbers: Vec<i64> = db
            .prepare_cached("SELECT number FROM generations ORDER BY number")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        numbers.into_iter().map(|number| Generation::load(db, number)).collect()
    }

    pub fn save(&self, t: &Transaction) -> rusqlite::Result<()> {
        let Generation { number, space, made_by, vectors, total, listeners, listened, replaced } = self;
        let (id, dimensions, description) = (space.id.as_str(), space.dimensions as i64, &space.description);
        let values: [&dyn rusqlite::ToSql; 10] =
            [number, &id, &dimensions, description, made_by, vectors, total, listeners, listened, replaced];
        let sum = sum_of(&values)?;
        t.prepare_cached(
            "UPDATE generations SET space = ?2, dimensions = ?3, description = ?4, made_by = ?5, vectors = ?6, total = ?7,
                 listeners = ?8, listened = ?9, replaced = ?10, sum = ?11 WHERE number = ?1",
        )?
        .execute(params![
            number, id, dimensions, description, made_by, vectors, total, listeners, listened, replaced, sum
        ])
        .map(drop)
    }

    /// As [`Head::add`], of vectors.
    pub fn add(&mut self, before: i64, after: i64, more: i64) {
        self.vectors += more;
        self.total = self.total.wrapping_sub(before).wrapping_add(after);
    }
}

/// Where a generation's vectors are.
pub(super) fn vectors_table(number: i64) -> String {
    format!(
        "CREATE TABLE vectors_{number} (
             track      INTEGER PRIMARY KEY,
             content    TEXT,
             model      TEXT,
             windows    INTEGER,
             predicted  BLOB,
             vector     BLOB NOT NULL,
             norm       REAL NOT NULL,
             source     TEXT NOT NULL,
             plays      INTEGER NOT NULL,
             length     REAL,
             confidence REAL,
             sum        INTEGER NOT NULL
         ) STRICT;"
    )
}

/// Makes a generation, empty.
pub(super) fn create(t: &Transaction, space: &SpaceRow, made_by: &str) -> rusqlite::Result<Generation> {
    t.execute(
        "INSERT INTO generations (space, dimensions, description, made_by, vectors, total, listeners, listened,
             replaced, sum) VALUES ('', 0, '', '', 0, 0, 0, 0, 0, 0)",
        [],
    )?;
    let number = t.last_insert_rowid();
    t.execute_batch(&vectors_table(number))?;
    t.execute_batch(&format!(
        "CREATE TABLE listeners_{number} (
             key     INTEGER PRIMARY KEY,
             id      TEXT NOT NULL UNIQUE,
             vector  BLOB NOT NULL,
             sum     INTEGER NOT NULL,
             history INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE history_{number} (
             listener   INTEGER NOT NULL,
             track      TEXT NOT NULL,
             confidence REAL NOT NULL,
             preference REAL NOT NULL,
             PRIMARY KEY (listener, track)
         ) STRICT, WITHOUT ROWID;"
    ))?;
    let generation = Generation {
        number,
        space: space.clone(),
        made_by: made_by.to_string(),
        vectors: 0,
        total: 0,
        listeners: 0,
        listened: 0,
        replaced: 0,
    };
    generation.save(t)?;
    Ok(generation)
}

fn delete(t: &Transaction, number: i64) -> rusqlite::Result<()> {
    t.execute("DELETE FROM generations WHERE number = ?1", [number])?;
    t.execute_batch(&format!(
        "DROP TABLE history_{number}; DROP TABLE listeners_{number}; DROP TABLE vectors_{number};"
    ))
}

impl Store {
    /// Opens the catalogue to build a generation of `space` beside the one that is served, or to go on with one that was
    /// begun with the same `made_by`. The one writer may go on writing: what is read and written through this handle is
    /// what is being built, and of what came meanwhile [`Store::unbuilt`] tells.
    ///
    /// # Errors
    /// `Invalid` where another process builds (naming it); `NotFound` where nothing is served yet.
    pub fn build(folder: &Path, space: &SpaceRow, made_by: &str) -> Result<Store> {
        let mut served = Store::read(folder)?;
        served.served()?;
        served.builder = Some(lock(folder, BUILDER)?);
        served.configure()?;
        served.ask(|db| db.pragma_update(None, "query_only", false))?;
        let number = served.transaction(|t| {
            let head = Head::load(t)?;
            let mut begun = None;
            for other in Generation::all(t)? {
                if [head.served, head.previous].contains(&Some(other.number)) {
                    continue;
                }
                if other.space.id == space.id && other.made_by == made_by && begun.is_none() {
                    begun = Some(other.number);
                } else {
                    delete(t, other.number)?;
                }
            }
            match begun {
                Some(number) => Ok(number),
                None => create(t, space, made_by).map(|generation| generation.number),
            }
        })?;
        served.working = Some(number);
        Ok(served)
    }

    /// The number of the generation that is served.
    fn served(&self) -> Result<i64> {
        self.ask(Head::load)?
            .served
            .ok_or_else(|| Error::NotFound { what: "space in the catalogue", name: self.folder.display().to_string() })
    }

    /// Whether this handle reads another generation than the one that is served now.
    pub fn is_behind(&self) -> Result<bool> {
        Ok(self.ask(Head::load)?.served != self.working)
    }

    /// Takes the writer's place beside the builder's, so that nothing changes until what was built is served; and drops
    /// of it what has changed since.
    ///
    /// # Errors
    /// `Invalid` where another process writes, naming it.
    pub fn finish_building(&mut self) -> Result<()> {
        self.writer = Some(lock(&self.folder, WRITER)?);
        match self.working {
            Some(working) => self.transaction(|t| drop_stale(t, working)),
            None => Ok(()),
        }
    }

    /// Up to `limit` tracks, in order of their keys after `after`, that the generation being built has not, or has from
    /// another content, with their keys: as they are served now, or as [`Store::entry`] tells of those that are not.
    pub fn unbuilt(&self, after: u64, limit: usize) -> Result<Vec<(u64, Track)>> {
        let Some(working) = self.working else { return Ok(Vec::new()) };
        let tracks = entry_sql(self.served()?);
        let sql = format!("{tracks} WHERE t.key > ?1 AND {} ORDER BY t.key LIMIT ?2", missing_in(working));
        self.ask(|db| {
            db.prepare_cached(&sql)?
                .query_map(params![after as i64, limit as i64], |row| {
                    Ok((row.get::<_, i64>(0)? as u64, track_row(row)?))
                })?
                .collect()
        })
    }

    /// How many of the tracks that [`Store::unbuilt`] would tell of have a sound.
    pub fn count_unbuilt(&self) -> Result<u64> {
        let Some(working) = self.working else { return Ok(0) };
        let sql = format!("SELECT count(*) FROM tracks t WHERE t.content IS NOT NULL AND {}", missing_in(working));
        self.ask(|db| db.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64))
    }

    /// Of the generation being built: how many tracks it has, and how many are served.
    pub fn built(&self) -> Result<(u64, u64)> {
        let served = self.served()?;
        let count = |number| self.ask(|db| Generation::load(db, number)).map(|g| g.vectors as u64);
        Ok((self.working.map_or(Ok(0), count)?, count(served)?))
    }

    /// Gives the generation being built what listeners taught the one that is served, which must be of its space: the
    /// listeners, what a fold-in needs to know of them, and of the tracks with plays the vectors that are served.
    ///
    /// # Errors
    /// `Mismatch` where it is of another; `Invalid` without the writer's place ([`Store::finish_building`]).
    pub fn take_over_plays(&mut self) -> Result<()> {
        if self.writer.is_none() {
            return Err(Error::invalid("taking over of listeners", "the catalogue's writer", "a reader"));
        }
        let served = self.served()?;
        let Some(working) = self.working else { return Ok(()) };
        let (from, to) = self.ask(|db| Ok((Generation::load(db, served)?, Generation::load(db, working)?)))?;
        from.space.id.require("the listeners' space and the one that is built", &to.space.id)?;
        self.transaction(|t| {
            t.execute_batch(&format!(
                "DELETE FROM listeners_{working}; DELETE FROM history_{working};
                 INSERT INTO listeners_{working} SELECT * FROM listeners_{served};
                 INSERT INTO history_{working} SELECT * FROM history_{served};"
            ))?;
            let (space, replaced) = (from.space.clone(), to.replaced + 1);
            Generation { space, listeners: from.listeners, listened: from.listened, replaced, ..to.clone() }.save(t)
        })?;
        // What was handed over after the track was built.
        let sql = format!(
            "SELECT s.track FROM vectors_{served} s JOIN vectors_{working} w ON w.track = s.track
             WHERE s.track > ?1 AND (s.source <> 'predicted' OR w.source <> 'predicted')
                 AND (s.vector <> w.vector OR s.norm <> w.norm OR s.source <> w.source OR s.plays <> w.plays)
             ORDER BY s.track LIMIT 1024"
        );
        let mut after = 0;
        loop {
            let keys: Vec<i64> =
                self.ask(|db| db.prepare_cached(&sql)?.query_map([after], |row| row.get(0))?.collect())?;
            let Some(last) = keys.last() else { return Ok(()) };
            after = *last;
            let mut changes = Vec::with_capacity(keys.len());
            for key in keys {
                let of = |number| {
                    let sql = format!("{} WHERE t.key = ?1", track_sql(number));
                    self.ask(|db| db.prepare_cached(&sql)?.query_row([key], track_row).optional())
                };
                if let (Some(served), Some(built)) = (of(served)?, of(working)?) {
                    let Track { vector, norm, source, plays, .. } = served;
                    let vector = match (source, &built.predicted) {
                        (Source::Predicted, Some(predicted)) => predicted.clone(),
                        _ => vector,
                    };
                    changes.push(Change::Upsert(Box::new(Track { vector, norm, source, plays, ..built })));
                }
            }
            self.commit(&changes)?;
        }
    }

    /// Serves what was built, in one commit, and keeps what was served until now for [`Store::go_back`]. What was kept
    /// before that goes.
    ///
    /// # Errors
    /// `Invalid` without the writer's place ([`Store::finish_building`]).
    pub fn serve(&mut self) -> Result<()> {
        let Some(working) = self.working.filter(|_| self.writer.is_some()) else {
            return Err(Error::invalid("change of what is served", "the catalogue's writer", "a reader"));
        };
        self.transaction(|t| {
            let mut head = Head::load(t)?;
            if head.served == Some(working) {
                return Ok(());
            }
            if let Some(older) = head.previous {
                delete(t, older)?;
            }
            (head.previous, head.served) = (head.served, Some(working));
            drop_stale(t, working)?;
            head.save(t)
        })
    }

    /// Serves the generation before the one that is served, which is kept in its place. Tracks that came or changed since
    /// have no vector there, until they are ingested again; returns how many.
    ///
    /// # Errors
    /// `NotFound` where none is kept.
    pub fn go_back(&mut self) -> Result<u64> {
        // Who builds has begun with what is served.
        let _builder = lock(&self.folder, BUILDER)?;
        let Some(previous) = self.ask(Head::load)?.previous else {
            return Err(Error::NotFound { what: "earlier generation in", name: self.folder.display().to_string() });
        };
        self.working = Some(previous);
        self.transaction(|t| {
            let mut head = Head::load(t)?;
            (head.previous, head.served) = (head.served, Some(previous));
            drop_stale(t, previous)?;
            head.save(t)?;
            Ok((head.tracks - Generation::load(t, previous)?.vectors) as u64)
        })
    }

    /// Drops the generations that are not served: those kept for the way back, and what of a build was left unfinished.
    pub fn drop_unserved(&mut self) -> Result<usize> {
        let _builder = lock(&self.folder, BUILDER)?;
        self.transaction(|t| {
            let mut head = Head::load(t)?;
            let others: Vec<i64> =
                Generation::all(t)?.iter().map(|g| g.number).filter(|number| head.served != Some(*number)).collect();
            for number in &others {
                delete(t, *number)?;
            }
            head.previous = None;
            head.save(t)?;
            Ok(others.len())
        })
    }

    /// Gives the space back that removed rows took, by writing the database anew.
    pub fn compact(&mut self) -> Result<()> {
        self.ask(|db| db.execute_batch("VACUUM"))?;
        self.checkpoint()
    }

    pub(super) fn generation(&self) -> Result<Option<Generation>> {
        self.working.map(|number| self.ask(|db| Generation::load(db, number))).transpose()
    }
}

/// Of a track `t`: the generation `number` has no vector of it, or one of another content.
fn missing_in(number: i64) -> String {
    format!("NOT EXISTS (SELECT 1 FROM vectors_{number} w WHERE w.track = t.key AND w.content IS t.content)")
}

/// Vectors of tracks that are gone, or whose content has changed since, are not served.
fn drop_stale(t: &Transaction, number: i64) -> rusqlite::Result<()> {
    let mut generation = Generation::load(t, number)?;
    let stale: Vec<(i64, i64)> = t
        .prepare(&format!(
            "SELECT v.track, v.sum FROM vectors_{number} v LEFT JOIN tracks t ON t.key = v.track
             WHERE t.key IS NULL OR v.content IS NOT t.content"
        ))?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut delete = t.prepare(&format!("DELETE FROM vectors_{number} WHERE track = ?1"))?;
    for (key, sum) in stale {
        delete.execute([key])?;
        generation.add(sum, 0, -1);
    }
    generation.save(t)
}
