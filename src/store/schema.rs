//! The tables, their version, and how a catalogue of an earlier version becomes one of this.

use rusqlite::types::{Null, Value};
use rusqlite::{ToSql, Transaction};

use super::Store;
use super::generations::{Generation, Head, vectors_table};
use super::read::{VECTOR_COLUMNS, complete};
use super::sums::verified;
use super::write::put;
use crate::error::{Error, Result};

/// The version of the tables below, kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: i64 = 5;
/// "debu", kept in SQLite's `application_id`, so that another program's database is refused.
const APPLICATION_ID: i64 = 0x6465_6275;

/// All but the tables of generations ([`create`]). `sum` is the row's checksum (see [`super::sums`]).
const SCHEMA: &str = "
CREATE TABLE catalogue (
    identity  TEXT NOT NULL,
    last_seq  INTEGER NOT NULL,
    last_key  INTEGER NOT NULL,
    served    INTEGER,
    previous  INTEGER,
    tracks    INTEGER NOT NULL,
    total     INTEGER NOT NULL,
    sum       INTEGER NOT NULL
) STRICT;
CREATE TABLE generations (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    space       TEXT NOT NULL,
    dimensions  INTEGER NOT NULL,
    description TEXT NOT NULL,
    made_by     TEXT NOT NULL,
    vectors     INTEGER NOT NULL,
    total       INTEGER NOT NULL,
    listeners   INTEGER NOT NULL,
    listened    INTEGER NOT NULL,
    replaced    INTEGER NOT NULL,
    sum         INTEGER NOT NULL
) STRICT;
CREATE TABLE tracks (
    key         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    path        ANY,
    content     TEXT,
    title       TEXT,
    artist      TEXT,
    album       TEXT,
    year        INTEGER,
    genre       TEXT,
    isrc        TEXT,
    musicbrainz TEXT,
    released    TEXT,
    seconds     REAL,
    tiled       INTEGER NOT NULL,
    language    TEXT,
    explicit    INTEGER,
    regions     TEXT,
    seq         INTEGER NOT NULL UNIQUE,
    sum         INTEGER NOT NULL
) STRICT;
CREATE INDEX tracks_content ON tracks (content);
CREATE INDEX tracks_artist ON tracks (ifnull(artist, album));
CREATE TABLE removed (
    key INTEGER PRIMARY KEY,
    id  TEXT NOT NULL,
    seq INTEGER NOT NULL UNIQUE,
    sum INTEGER NOT NULL
) STRICT;
CREATE INDEX removed_id ON removed (id);
CREATE TABLE files (
    path     ANY PRIMARY KEY,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    content  TEXT,
    track    TEXT,
    reason   TEXT,
    retry    INTEGER NOT NULL,
    decoder  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    sum      INTEGER NOT NULL
) STRICT;
CREATE INDEX files_track ON files (track);
";

impl Store {
    pub(super) fn version(&self) -> Result<i64> {
        let pragma = |name| self.ask(|db| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        match pragma("application_id")? {
            APPLICATION_ID => pragma("user_version"),
            0 if pragma("schema_version")? == 0 => Ok(0),
            _ => Err(Error::format(&self.path, "a debut catalogue", "another program's database")),
        }
    }

    /// Makes the tables, or brings those of an earlier version to this one, in one transaction.
    pub(super) fn migrate(&mut self) -> Result<()> {
        match self.version()? {
            SCHEMA_VERSION => Ok(()),
            0 => self.transaction(|t| {
                t.execute_batch(SCHEMA)?;
                Head::insert(t, &Head::default())?;
                t.pragma_update(None, "application_id", APPLICATION_ID)?;
                t.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            4 => self.transaction(|t| {
                from_4(t)?;
                t.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            found => Err(Error::format(&self.path, format!("catalogue version {SCHEMA_VERSION}"), found)),
        }
    }
}

/// Version 5 knows how sure a prediction is, and finds an artist's tracks.
fn from_4(t: &Transaction) -> rusqlite::Result<()> {
    t.execute_batch("CREATE INDEX tracks_artist ON tracks (ifnull(artist, album));")?;
    for mut generation in Generation::all(t)? {
        let number = generation.number;
        t.execute_batch(&format!("ALTER TABLE vectors_{number} RENAME TO old_vectors; {}", vectors_table(number)))?;
        let mut statement = t.prepare("SELECT * FROM old_vectors ORDER BY track")?;
        let mut rows = statement.query([])?;
        let (mut count, mut before) = (0, 0i64);
        generation.total = 0;
        let written = (
            generation.vectors,
            t.query_row("SELECT total FROM generations WHERE number = ?1", [number], |row| row.get(0))?,
        );
        while let Some(row) = rows.next()? {
            before = before.wrapping_add(verified(row, 0, VECTOR_COLUMNS - 2, "vector")?);
            let values: Vec<Value> = (0..VECTOR_COLUMNS - 2).map(|i| row.get(i)).collect::<rusqlite::Result<_>>()?;
            let nulls = [&Null as &dyn ToSql; 2];
            let values: Vec<&dyn ToSql> = values.iter().map(|v| v as &dyn ToSql).chain(nulls).collect();
            generation.total = generation.total.wrapping_add(put(t, &format!("vectors_{number}"), "track", &values)?);
            count += 1;
        }
        complete("vectors", (count, before), written)?;
        drop(rows);
        drop(statement);
        generation.save(t)?;
        t.execute_batch("DROP TABLE old_vectors")?;
    }
    Ok(())
}
