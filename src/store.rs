//! The catalogue: the truth about every track, kept in SQLite so that what was acknowledged survives `kill -9` and
//! power loss (write-ahead log, `synchronous=FULL`).
//!
//! One writer at a time (a lock file names it), any number of readers in other processes. Every change of a track gets
//! the next number of one monotonic sequence, `seq`; whoever keeps a copy (the [index](crate::index)) asks for what
//! came after the number it knows.
//!
//! ```text
//! spaces     the factor space that all vectors below live in, and what a fold-in needs to know of it
//! tracks     a track: where it lies, its tags, its predicted vector, and the vector that is served
//! removed    tombstones: which key went at which seq
//! files      every path that was ever ingested: its size and time, and the track it gave or why it failed
//! listeners  a listener and his vector          history   the tracks he met, with confidence and preference
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

/// The version of the tables below, kept in SQLite's `user_version`.
pub const SCHEMA_VERSION: i64 = 3;
/// "debu", kept in SQLite's `application_id`, so that another program's database is refused.
const APPLICATION_ID: i64 = 0x6465_6275;
const DATABASE: &str = "catalogue.sqlite";
const LOCK: &str = "writer.lock";

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

/// What a served vector rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The sound alone: nobody has played it.
    Predicted,
    /// The sound and the plays so far (see [`crate::handover`]).
    HandedOver,
    /// The plays alone: debut never heard the track.
    Learned,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Source::Predicted => "predicted",
            Source::HandedOver => "handed_over",
            Source::Learned => "learned",
        }
    }

    fn parse(text: &str) -> Option<Source> {
        [Source::Predicted, Source::HandedOver, Source::Learned].into_iter().find(|s| s.as_str() == text)
    }
}

/// What is known of a track besides its vectors; from the manifest, else from the file's tags.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrackInfo {
    pub title: Option<String>,
    pub artist: Option<String>,
    pub album: Option<String>,
    pub year: Option<i32>,
    pub genre: Option<String>,
    pub isrc: Option<String>,
    pub musicbrainz: Option<String>,
    /// Date of release as the manifest gave it (ISO 8601).
    pub released: Option<String>,
    /// Of what is sung, as the manifest writes it (`en`, `pt-BR`).
    pub language: Option<String>,
    /// Marked as not for children.
    pub explicit: Option<bool>,
    /// Where it may be played, as the manifest writes it (`DE AT CH`); none: everywhere.
    pub regions: Option<String>,
}

impl TrackInfo {
    /// What this says, and where it says nothing, what `then` says.
    pub fn or(self, then: TrackInfo) -> TrackInfo {
        TrackInfo {
            title: self.title.or(then.title),
            artist: self.artist.or(then.artist),
            album: self.album.or(then.album),
            year: self.year.or(then.year),
            genre: self.genre.or(then.genre),
            isrc: self.isrc.or(then.isrc),
            musicbrainz: self.musicbrainz.or(then.musicbrainz),
            released: self.released.or(then.released),
            language: self.language.or(then.language),
            explicit: self.explicit.or(then.explicit),
            regions: self.regions.or(then.regions),
        }
    }
}

/// One track of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub id: TrackId,
    /// Where it was heard; `None` for a track that is known from plays only.
    pub path: Option<PathBuf>,
    /// [`content_hash`](crate::artefact::content_hash) of what was heard.
    pub content: Option<String>,
    pub info: TrackInfo,
    /// Length, in seconds, where the file says.
    pub seconds: Option<f64>,
    /// The track is shorter than the network's window and was repeated to fill it.
    pub tiled: bool,
    /// The id of the model that predicted.
    pub model: Option<String>,
    /// The windows that it heard of the track: vectors of one window and of three are not of one kind.
    pub windows: Option<u32>,
    /// `[d]`, unit length: what the network predicts from the sound.
    pub predicted: Option<Vec<f32>>,
    /// `[d]`, unit length: what is served.
    pub vector: Vec<f32>,
    /// The length of the factor before it was made unit length: how popular the track is.
    pub norm: f32,
    pub source: Source,
    /// The number of listeners it has had.
    pub plays: u32,
}

/// A file as it was when it was looked at; an unchanged stamp means an unchanged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
}

impl FileStamp {
    /// # Errors
    /// `Io` where the file cannot be looked at.
    pub fn of(path: &Path) -> Result<FileStamp> {
        let meta = fs::metadata(path).map_err(Error::io(path))?;
        // A file system without times, or a time before 1970, reads as 0: the size still tells most changes.
        let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok(FileStamp {
            path: path.to_path_buf(),
            size: meta.len(),
            modified: modified.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
        })
    }
}

/// What came of a file when it was last looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRecord {
    pub stamp: FileStamp,
    pub content: Option<String>,
    pub outcome: FileOutcome,
    /// [`DECODER_VERSION`](crate::audio::DECODER_VERSION) at that time.
    pub decoder: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FileOutcome {
    Track(TrackId),
    /// Why it cannot be used, and whether trying the same bytes again may help (a disk that did not answer) or not.
    Failed {
        reason: String,
        retry: bool,
    },
}

/// A file that could not be used, for `debut failures`.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    pub reason: String,
    /// Seconds since 1970.
    pub at: i64,
}

/// A path as JSON can hold it: what is not UTF-8 is replaced.
pub(crate) fn lossy<S: serde::Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&path.to_string_lossy())
}

/// One step of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds the track, or replaces the one of the same id.
    Upsert(Box<Track>),
    /// Remembers what came of a file. Where the file gave another track before that is named by its content, and no
    /// other file gives that one, it goes: its content is nowhere any more.
    File(FileRecord),
    Remove(TrackId),
}

/// A line of the change feed: what that key has now, or that it is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackChange {
    pub key: u64,
    pub seq: i64,
    pub served: Option<Served>,
}

/// What an index needs to know of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// `[d]`, unit length.
    pub vector: Vec<f32>,
    pub norm: f32,
    pub plays: u32,
    pub artist: Option<String>,
    pub year: Option<i32>,
    pub language: Option<String>,
    pub explicit: Option<bool>,
    pub regions: Option<String>,
}

/// The factor space of a catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct SpaceRow {
    pub id: SpaceId,
    pub dimensions: usize,
    /// What a fold-in needs, as JSON (see [`crate::factors`]).
    pub description: String,
}

/// A listener, and what he met.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub id: UserId,
    /// `[d]`, in the scale of the factorisation.
    pub vector: Vec<f32>,
    pub history: Vec<Met>,
}

/// One track that a listener met.
#[derive(Clone, Debug, PartialEq)]
pub struct Met {
    pub track: TrackId,
    /// c of Hu, Koren and Volinsky (2008), at least 1.
    pub confidence: f32,
    /// p, 0 (skipped) to 1 (liked).
    pub preference: f32,
}

/// Counts, for `debut status`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub tracks: u64,
    pub predicted: u64,
    pub handed_over: u64,
    pub learned: u64,
    pub failures: u64,
    pub listeners: u64,
    pub seq: i64,
    pub space: Option<String>,
    pub dimensions: Option<usize>,
    /// Models that predicted the vectors, the windows that they heard of a track, and how many tracks each.
    pub models: Vec<(String, u32, u64)>,
    /// Bytes of the database, its log included.
    pub bytes: u64,
}

/// An open catalogue.
pub struct Store {
    folder: PathBuf,
    path: PathBuf,
    db: Connection,
    /// Held by the writer as long as it lives; the operating system releases it when the process dies.
    _lock: Option<File>,
}

impl Store {
    /// Opens the catalogue in `folder` for writing, made if it is not there.
    ///
    /// # Errors
    /// `Invalid` where another process writes to it (naming that process), `Io`, `Format`, `Catalogue`.
    pub fn open(folder: &Path) -> Result<Store> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let lock = lock(folder)?;
        let path = folder.join(DATABASE);
        let db = Connection::open(&path).map_err(catalogue(&path))?;
        let mut store = Store { folder: folder.to_path_buf(), path, db, _lock: Some(lock) };
        store.configure()?;
        store.migrate()?;
        Ok(store)
    }

    /// Opens the catalogue in `folder` for reading, beside whoever writes.
    ///
    /// # Errors
    /// `NotFound` where there is no catalogue.
    pub fn read(folder: &Path) -> Result<Store> {
        let path = folder.join(DATABASE);
        if !path.is_file() {
            return Err(Error::NotFound { what: "catalogue", name: folder.display().to_string() });
        }
        // A reader takes part in the write-ahead log's shared memory, so it opens read-write, and never writes
        // (`query_only`). On a medium that nobody can write it opens the database as it stands.
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let probe = |db: Connection| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map(|()| db);
        let writable = OpenOptions::new().write(true).open(&path).map(drop);
        let db = match writable {
            Ok(()) => Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(probe),
            Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                let uri = format!("file:{}?immutable=1", uri_escape(&path));
                Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(probe)
            }
            // Without the shared memory a reader would not see what is being written.
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let store =
            Store { folder: folder.to_path_buf(), db: db.map_err(catalogue(&path))?, path: path.clone(), _lock: None };
        store.configure()?;
        store.db.pragma_update(None, "query_only", true).map_err(catalogue(&path))?;
        match store.version()? {
            SCHEMA_VERSION => Ok(store),
            found @ 2 => Err(Error::format(
                &path,
                format!("catalogue version {SCHEMA_VERSION} (`debut ingest` or `debut remove` brings it there)"),
                found,
            )),
            found => Err(Error::format(&path, format!("catalogue version {SCHEMA_VERSION}"), found)),
        }
    }

    /// The folder that holds this catalogue and what is derived from it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn configure(&self) -> Result<()> {
        let set = || -> rusqlite::Result<()> {
            self.db.busy_timeout(Duration::from_secs(10))?;
            if self._lock.is_some() {
                self.db.pragma_update(None, "journal_mode", "WAL")?;
                self.db.pragma_update(None, "synchronous", "FULL")?;
                self.db.pragma_update(None, "foreign_keys", true)?;
            }
            self.db.set_prepared_statement_cache_capacity(64);
            Ok(())
        };
        set().map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Error::format(&self.path, "a debut catalogue", "another file"),
            _ => Error::Catalogue { path: self.path.clone(), source },
        })
    }

    fn version(&self) -> Result<i64> {
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

    fn migrate(&mut self) -> Result<()> {
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

    fn transaction<T>(&mut self, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        let path = self.path.clone();
        let run = || {
            let t = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let done = work(&t)?;
            t.commit()?;
            Ok(done)
        };
        run().map_err(catalogue(&path))
    }

    fn ask<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.db).map_err(catalogue(&self.path))
    }

    // ---- writing ------------------------------------------------------------------------------------------------

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

    // ---- reading ------------------------------------------------------------------------------------------------

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

    /// Looks at everything that can be verified, and says what is wrong, one line each; empty when all is well.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut wrong: Vec<String> = self.ask(|db| {
            db.prepare("PRAGMA integrity_check")?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        })?;
        wrong.retain(|line| line != "ok");
        let space = self.space()?;
        let last = self.seq()?;
        self.for_each_track(&mut |key, track| {
            let Some(space) = &space else {
                wrong.push(format!("track {}: there is no space for its vector", track.id));
                return Ok(());
            };
            for vector in track.predicted.iter().chain([&track.vector]) {
                if let Err(e) = check_unit(&track.id, vector, space.dimensions) {
                    wrong.push(e.to_string());
                }
            }
            let (seq, of): (i64, String) = self.ask(|db| {
                db.prepare_cached("SELECT seq, space FROM tracks WHERE key = ?1")?
                    .query_row([key as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            })?;
            if seq > last {
                wrong.push(format!("track {}: seq {seq} is after the last, {last}", track.id));
            }
            if of != space.id.as_str() {
                wrong.push(format!("track {}: its space is {of}, the catalogue's is {}", track.id, space.id));
            }
            Ok(())
        })?;
        if let Some(space) = &space {
            self.for_each_listener(&mut |id, vector| {
                if vector.len() != space.dimensions || !vector.iter().all(|v| v.is_finite()) {
                    wrong.push(format!("listener {id}: expected {} finite numbers", space.dimensions));
                }
            })?;
        }
        let orphans: Vec<(String, i64)> = self.ask(|db| {
            db.prepare(
                "SELECT track, count(*) FROM files
                 WHERE track IS NOT NULL AND track NOT IN (SELECT id FROM tracks) GROUP BY track",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        wrong.extend(orphans.into_iter().map(|(id, n)| format!("{n} file(s) name track {id}, which is not there")));
        Ok(wrong)
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
fn check_unit(id: &TrackId, vector: &[f32], dimensions: usize) -> Result<()> {
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

/// Little-endian f32, 4 bytes a number.
fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A path as SQLite keeps it: text where it is UTF-8 (so that people can read it), else its bytes.
struct PathValue<'a>(&'a Path);

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

fn uri_escape(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

fn catalogue(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Catalogue { path, source }
}

/// Takes the writer's lock, or says who has it.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => {
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                write!(file, "process {}", std::process::id())
            };
            write(&mut file).map_err(Error::io(&path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // What stands in the file is a courtesy; without it the refusal still holds.
            let _ = file.take(64).read_to_string(&mut holder);
            Err(Error::invalid(
                format!("second writer for {}", folder.display()),
                "one writer at a time",
                if holder.is_empty() { "another process".into() } else { holder },
            ))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn store_of(dimensions: usize) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("catalogue")).unwrap();
        let space = SpaceRow { id: SpaceId::named("space-a"), dimensions, description: "{}".into() };
        store.set_space(&space).unwrap();
        (dir, store)
    }

    fn id(text: &str) -> TrackId {
        TrackId::new(text).unwrap()
    }

    fn track(name: &str, vector: &[f32]) -> Track {
        Track {
            id: id(name),
            path: Some(PathBuf::from(format!("/music/{name}.mp3"))),
            content: Some(name.to_string()),
            info: TrackInfo {
                title: Some(name.to_uppercase()),
                year: Some(2014),
                language: Some("en".into()),
                explicit: Some(true),
                regions: Some("GB IE".into()),
                ..TrackInfo::default()
            },
            seconds: Some(180.5),
            tiled: false,
            model: Some("m@1".into()),
            windows: Some(3),
            predicted: Some(vector.to_vec()),
            vector: vector.to_vec(),
            norm: 0.5,
            source: Source::Predicted,
            plays: 0,
        }
    }

    fn file(path: &str, outcome: FileOutcome) -> Change {
        let stamp = FileStamp { path: path.into(), size: 10, modified: 20 };
        Change::File(FileRecord { stamp, content: None, outcome, decoder: 1 })
    }

    fn upsert_of(t: Track) -> Change {
        Change::Upsert(Box::new(t))
    }

    #[test]
    fn a_track_comes_back_as_it_went_in_also_in_another_process() {
        let (_dir, mut store) = store_of(3);
        let t = track("a", &[0.6, 0.0, 0.8]);
        assert_eq!(store.commit(&[upsert_of(t.clone())]).unwrap(), [false]);
        assert_eq!(store.commit(&[upsert_of(t.clone())]).unwrap(), [true]);
        let reader = Store::read(store.folder()).unwrap();
        assert_eq!(reader.track(&t.id).unwrap().unwrap(), t);
        assert!(reader.track(&id("b")).unwrap().is_none());
    }

    #[test]
    fn a_catalogue_of_the_version_before_is_brought_up_by_its_writer() {
        let (_dir, mut store) = store_of(2);
        store.commit(&[upsert_of(track("a", &[1.0, 0.0]))]).unwrap();
        let folder = store.folder().to_path_buf();
        drop(store);
        // As version 2 left it.
        let db = Connection::open(folder.join(DATABASE)).unwrap();
        db.execute_batch(
            "ALTER TABLE tracks DROP COLUMN language; ALTER TABLE tracks DROP COLUMN explicit;
             ALTER TABLE tracks DROP COLUMN regions; PRAGMA user_version = 2;",
        )
        .unwrap();
        drop(db);
        let refused = Store::read(&folder).err().unwrap().to_string();
        assert!(refused.contains("debut ingest"), "{refused}");
        let mut store = Store::open(&folder).unwrap();
        let mut old = track("a", &[1.0, 0.0]);
        (old.info.language, old.info.explicit, old.info.regions) = (None, None, None);
        assert_eq!(store.track(&id("a")).unwrap().unwrap(), old);
        store.commit(&[upsert_of(track("b", &[0.0, 1.0]))]).unwrap();
        assert_eq!(Store::read(&folder).unwrap().track(&id("b")).unwrap().unwrap(), track("b", &[0.0, 1.0]));
        assert!(store.check().unwrap().is_empty());
    }

    #[test]
    fn the_change_feed_tells_each_change_once_and_in_order() {
        let (_dir, mut store) = store_of(2);
        store.commit(&[upsert_of(track("a", &[1.0, 0.0])), upsert_of(track("b", &[0.0, 1.0]))]).unwrap();
        let changes_since = |store: &Store, seq| {
            let mut all = Vec::new();
            store.changes_since(seq, &mut |change| all.push(change)).unwrap();
            all
        };
        let first = changes_since(&store, 0);
        assert_eq!(
            first.iter().map(|c| c.served.clone().unwrap().vector).collect::<Vec<_>>(),
            [[1.0, 0.0], [0.0, 1.0]]
        );
        let known = first[1].seq;
        store.commit(&[upsert_of(track("a", &[-1.0, 0.0])), Change::Remove(id("b"))]).unwrap();
        let then = changes_since(&store, known);
        assert_eq!(then[0].served.as_ref().unwrap().vector, [-1.0, 0.0]);
        assert_eq!(then[0].key, first[0].key, "a replaced track keeps its key");
        assert_eq!((then[1].key, then[1].served.clone()), (first[1].key, None));
        store.commit(&[upsert_of(track("b", &[0.0, 1.0]))]).unwrap();
        let again = changes_since(&store, then[1].seq);
        assert!(again[0].key > first[1].key, "a key is never used again");
    }

    #[test]
    fn what_would_poison_the_index_is_refused_whole() {
        let (_dir, mut store) = store_of(2);
        for bad in [vec![1.0], vec![f32::NAN, 1.0], vec![0.0, 0.0], vec![3.0, 4.0]] {
            let result = store.commit(&[upsert_of(track("good", &[1.0, 0.0])), upsert_of(track("bad", &bad))]);
            assert!(matches!(result, Err(Error::Mismatch { .. })), "{bad:?}");
        }
        assert_eq!(store.status().unwrap().tracks, 0);
        let other = SpaceRow { id: SpaceId::named("space-b"), dimensions: 2, description: "{}".into() };
        store.commit(&[upsert_of(track("a", &[1.0, 0.0]))]).unwrap();
        assert!(matches!(store.set_space(&other), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn a_file_that_changed_takes_its_old_track_along_unless_another_file_holds_it() {
        let (_dir, mut store) = store_of(2);
        store.commit(&[upsert_of(track("old", &[1.0, 0.0])), upsert_of(track("new", &[0.0, 1.0]))]).unwrap();
        let old = || FileOutcome::Track(id("old"));
        let new = || FileOutcome::Track(id("new"));
        store.commit(&[file("/1", old()), file("/2", old())]).unwrap();
        store.commit(&[file("/1", new())]).unwrap();
        assert!(store.track(&id("old")).unwrap().is_some());
        let failed = FileOutcome::Failed { reason: "damaged".into(), retry: false };
        store.commit(&[file("/3", failed.clone()), file("/2", failed.clone())]).unwrap();
        assert_eq!(store.failures().unwrap().len(), 2);
        assert!(store.track(&id("old")).unwrap().is_some(), "a damaged file takes nothing away");
        store.commit(&[file("/2", new())]).unwrap();
        assert!(store.track(&id("old")).unwrap().is_none());
        assert_eq!(store.failures().unwrap().len(), 1);
        assert_eq!(store.file(Path::new("/3")).unwrap().unwrap().outcome, failed);
        assert!(store.check().unwrap().is_empty());

        // A track that somebody named does not go with its file.
        let named = Track { content: Some("other".into()), ..track("named", &[1.0, 0.0]) };
        store.commit(&[upsert_of(named), file("/4", FileOutcome::Track(id("named")))]).unwrap();
        store.commit(&[file("/4", new())]).unwrap();
        assert_eq!(store.track_by_content("other").unwrap().unwrap().id, id("named"));
        assert!(store.is_removed(&id("old")).unwrap() && !store.is_removed(&id("named")).unwrap());
    }

    #[test]
    fn a_second_writer_is_told_who_the_first_is_and_readers_are_welcome() {
        let (_dir, store) = store_of(2);
        let refused = Store::open(store.folder()).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(Store::read(store.folder()).is_ok());
        let folder = store.folder().to_path_buf();
        drop(store);
        assert!(Store::open(&folder).is_ok());
    }

    #[test]
    fn other_files_under_the_name_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE);
        fs::write(&path, "this is not a database, whatever its name says. ".repeat(40)).unwrap();
        assert!(Store::open(dir.path()).is_err());
        assert!(Store::read(dir.path()).is_err());
        assert!(fs::read_to_string(&path).unwrap().starts_with("this is not"));
        fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        let refused = Store::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains("another program's database"), "{refused}");
    }

    #[test]
    fn listeners_and_their_histories_are_replaced_whole() {
        let (_dir, mut store) = store_of(2);
        let met = Met { track: id("a"), confidence: 3.5, preference: 1.0 };
        let one = Listener { id: UserId::new("u 🎧").unwrap(), vector: vec![0.25, -2.0], history: vec![met] };
        store.set_listeners(std::slice::from_ref(&one)).unwrap();
        assert_eq!(store.listener(&one.id).unwrap().unwrap(), one);
        let two = Listener { id: UserId::new("v").unwrap(), vector: vec![1.0, 1.0], history: vec![] };
        store.set_listeners(std::slice::from_ref(&two)).unwrap();
        assert!(store.listener(&one.id).unwrap().is_none());
        assert_eq!(store.status().unwrap().listeners, 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_kept_as_it_is() {
        use std::os::unix::ffi::OsStrExt;
        let (_dir, mut store) = store_of(2);
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/music/\xff\xfe.mp3"));
        let stamp = FileStamp { path: path.into(), size: 1, modified: 1 };
        let outcome = FileOutcome::Failed { reason: "silent".into(), retry: false };
        store.commit(&[Change::File(FileRecord { stamp, content: None, outcome, decoder: 1 })]).unwrap();
        assert_eq!(store.file(path).unwrap().unwrap().stamp.path, path);
        assert_eq!(store.failures().unwrap()[0].path, path);
    }
}
