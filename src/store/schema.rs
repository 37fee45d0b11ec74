//! The tables, their version, and how a catalogue of an earlier version becomes one of this.

use super::Store;
use crate::error::{Error, Result};

/// The version of the tables below, kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: i64 = 3;
/// "debu", kept in SQLite's `application_id`, so that another program's database is refused.
const APPLICATION_ID: i64 = 0x6465_6275;

const SCHEMA: &str = "
CREATE TABLE spaces (
    id          TEXT PRIMARY KEY,
    dimensions  INTEGER NOT NULL,
    description TEXT NOT NULL
);
CREATE TABLE tracks (
    key         INTEGER PRIMARY KEY AUTOINCREMENT,
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
    space       TEXT NOT NULL REFERENCES spaces (id),
    model       TEXT,
    windows     INTEGER,
    predicted   BLOB,
    vector      BLOB NOT NULL,
    norm        REAL NOT NULL,
    source      TEXT NOT NULL,
    plays       INTEGER NOT NULL,
    seq         INTEGER NOT NULL UNIQUE,
    language    TEXT,
    explicit    INTEGER,
    regions     TEXT
) STRICT;
CREATE TABLE removed (
    key INTEGER PRIMARY KEY,
    id  TEXT NOT NULL,
    seq INTEGER NOT NULL UNIQUE
) STRICT;
CREATE TABLE sequence (last INTEGER NOT NULL, listeners INTEGER NOT NULL, catalogue TEXT NOT NULL) STRICT;
INSERT INTO sequence VALUES (0, 0, lower(hex(randomblob(8))));
CREATE TABLE files (
    path     ANY PRIMARY KEY,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    content  TEXT,
    track    TEXT,
    reason   TEXT,
    retry    INTEGER NOT NULL,
    decoder  INTEGER NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX files_track ON files (track);
CREATE INDEX tracks_content ON tracks (content);
CREATE TABLE listeners (
    key    INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE,
    vector BLOB NOT NULL
) STRICT;
CREATE TABLE history (
    listener   INTEGER NOT NULL REFERENCES listeners (key),
    track      TEXT NOT NULL,
    confidence REAL NOT NULL,
    preference REAL NOT NULL,
    PRIMARY KEY (listener, track)
) STRICT, WITHOUT ROWID;
";

/// What version 3 added: a catalogue of version 2 gets it when it is opened for writing.
const VERSION_3: &str = "
ALTER TABLE tracks ADD COLUMN language TEXT;
ALTER TABLE tracks ADD COLUMN explicit INTEGER;
ALTER TABLE tracks ADD COLUMN regions TEXT;
";

impl Store {
    pub(super) fn version(&self) -> Result<i64> {
        let pragma = |name| {
            self.db
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .map_err(|source| Error::Catalogue { path: self.path.clone(), source })
        };
        match pragma("application_id")? {
            APPLICATION_ID => pragma("user_version"),
            0 if pragma("schema_version")? == 0 => Ok(0),
            _ => Err(Error::format(&self.path, "a debut catalogue", "another program's database")),
        }
    }

    pub(super) fn migrate(&mut self) -> Result<()> {
        match self.version()? {
            SCHEMA_VERSION => Ok(()),
            2 => self.transaction(|t| {
                t.execute_batch(VERSION_3)?;
                t.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            0 => self.transaction(|t| {
                t.execute_batch(SCHEMA)?;
                t.pragma_update(None, "application_id", APPLICATION_ID)?;
                t.pragma_update(None, "user_version", SCHEMA_VERSION)
            }),
            found => Err(Error::format(&self.path, format!("catalogue version {SCHEMA_VERSION}"), found)),
        }
    }
}
