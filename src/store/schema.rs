//! The tables, their version, and how a catalogue of an earlier version becomes one of this.

use rusqlite::Transaction;

use super::generations::{Head, create};
use super::sums::damaged;
use super::write::{put_file, put_listener, put_removed, put_track, put_vector};
use super::{Store, old};
use crate::error::{Error, Result};
use crate::ids::TrackId;

/// The version of the tables below, kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: i64 = 4;
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
            3 => self.transaction(|t| {
                from_3(t)?;
                t.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            found => Err(Error::format(&self.path, format!("catalogue version {SCHEMA_VERSION}"), found)),
        }
    }
}

/// Version 4 parted what lives in a factor space from what does not, and gave every row a checksum.
fn from_3(t: &Transaction) -> rusqlite::Result<()> {
    t.execute_batch(old::ASIDE)?;
    t.execute_batch(SCHEMA)?;
    let mut head = t.query_row("SELECT last, catalogue FROM old_sequence", [], |row| {
        Ok(Head { last_seq: row.get(0)?, identity: row.get(1)?, ..Head::default() })
    })?;
    let last_key =
        "SELECT max(ifnull((SELECT max(key) FROM old_tracks), 0), ifnull((SELECT max(key) FROM old_removed), 0))";
    head.last_key = t.query_row(last_key, [], |row| row.get(0))?;
    Head::insert(t, &head)?;
    if let Some(space) = old::space(t)? {
        let mut generation = create(t, &space, "")?;
        head.served = Some(generation.number);
        old::for_each_track(t, &mut |key, seq, track| {
            head.add(0, put_track(t, key, seq, track)?, 1);
            generation.add(0, put_vector(t, generation.number, key, track)?, 1);
            Ok(())
        })?;
        old::for_each_listener(t, &mut |key, listener| {
            generation.listeners += 1;
            generation.listened = generation.listened.wrapping_add(put_listener(t, generation.number, key, listener)?);
            Ok(())
        })?;
        generation.save(t)?;
    } else if t.prepare("SELECT 1 FROM old_tracks")?.exists([])? {
        return Err(damaged("tracks without a space"));
    }
    old::for_each_removed(t, &mut |key, id, seq| put_removed(t, key, id, seq))?;
    old::for_each_file(t, &mut |file| put_file(t, &file.record, file.track.as_ref().map(TrackId::as_str), file.at))?;
    head.save(t)?;
    t.execute_batch(old::GONE)
}
