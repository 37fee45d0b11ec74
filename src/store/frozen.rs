//! Reading where one may not write.
//!
//! A reader of a write-ahead log writes, too: into the shared memory (`-shm`) where readers and writer tell each other
//! what they use. Where this process may not, there are three cases, and none may show an older state than what was
//! acknowledged:
//!
//! - Log and shared memory are there, because somebody writes or was killed. SQLite (3.22 and later) reads both without
//!   writing: beside a live writer through his shared memory, else by its own index of the log, on the heap.
//! - The log is there without the shared memory: the catalogue was copied, or a medium made, from a writer that had not
//!   ended. SQLite wants shared memory that it cannot make, except for a connection that is alone (`locking_mode =
//!   EXCLUSIVE`), whose index of the log is on the heap; and alone it can be, where it may not write, only without locks
//!   (`vfs=unix-none`; `nolock=1` reads no log).
//! - There is no log: the database holds everything. SQLite wants to make one, unless nothing ever changes (`immutable=1`).
//!
//! The last two hold as long as nobody writes. On a medium that nobody can write to nobody does; elsewhere one may begin
//! to, and would pull the pages from under the reader. So such a reader looks at the files after each question, and
//! throws the answer away where they have changed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::generations::Head;
use super::{Store, catalogue};
use crate::error::{Error, Result};

/// What a reader that may not write has opened.
#[derive(Debug)]
pub(super) struct Frozen {
    files: Files,
    /// The catalogue's name; empty until it is known.
    pub identity: String,
}

/// The database and its log: length in bytes and time of the last change, where they are there.
#[derive(Debug, PartialEq)]
struct Files([Option<(u64, Option<SystemTime>)>; 2]);

/// Somebody may begin or end to write between looking at the files and opening them.
const ATTEMPTS: usize = 20;
const SETTLED: Duration = Duration::from_millis(20);

impl Files {
    fn of(database: &Path) -> Result<Files> {
        let look = |path: PathBuf| match fs::metadata(&path) {
            Ok(meta) => Ok(Some((meta.len(), meta.modified().ok()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path)(e)),
        };
        Ok(Files([look(database.to_path_buf())?, look(beside(database, "-wal"))?]))
    }

    /// Whether the last change is so long ago that the next one will have another time: file systems count in steps of up
    /// to 10 ms.
    fn settled(&self) -> bool {
        let young = |at: SystemTime| at.elapsed().is_ok_and(|age| age < SETTLED);
        !self.0.iter().flatten().any(|(_, changed)| changed.is_some_and(young))
    }

    /// Whether there is a log with something in it.
    fn has_log(&self) -> bool {
        self.0[1].is_some_and(|(bytes, _)| bytes > 0)
    }
}

/// A connection that reads the database at `path`, and how it lay there where that must not change.
pub(super) fn reader(path: &Path) -> Result<(Connection, Option<Frozen>)> {
    // SQLite says "unable to open" whatever the reason.
    File::open(path).map_err(Error::io(path))?;
    if OpenOptions::new().write(true).open(path).is_ok() {
        match open(path, None, "") {
            Ok(db) => return Ok((db, None)),
            // The folder cannot be written to: no log and no shared memory.
            Err(e) if cannot_write(&e) => {}
            Err(e) => return Err(catalogue(path)(e)),
        }
    }
    for _ in 0..ATTEMPTS {
        let before = Files::of(path)?;
        if before.0[1].is_some() && beside(path, "-shm").exists() {
            // `readonly_shm`: or it would be made, in a folder that can be written to, as a file that the writer might
            // not be able to open.
            match open(path, Some("mode=ro&readonly_shm=1"), "") {
                Ok(db) => return Ok((db, None)),
                Err(e) if cannot_write(&e) => {}
                Err(e) => return Err(catalogue(path)(e)),
            }
        }
        if !before.settled() {
            std::thread::sleep(SETTLED);
            continue;
        }
        let opened = if before.has_log() {
            let log = beside(path, "-wal");
            File::open(&log).map_err(Error::io(&log))?;
            open(path, Some("mode=ro&vfs=unix-none"), "PRAGMA locking_mode = EXCLUSIVE")
        } else {
            open(path, Some("mode=ro&immutable=1"), "")
        };
        if Files::of(path)? == before {
            let frozen = Frozen { files: before, identity: String::new() };
            return opened.map(|db| (db, Some(frozen))).map_err(|e| match cannot_write(&e) {
                // Where there is no such way to do without locks (it is one of Unix).
                true => Error::unsupported(path, "a catalogue without a log, where one may not write", WRITE_ONCE),
                false => catalogue(path)(e),
            });
        }
    }
    Err(moving(path))
}

/// With SQLite's parameters `how`; without, for reading and writing.
fn open(path: &Path, how: Option<&str>, first: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = match how {
        None => Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)?,
        Some(how) => {
            let uri = format!("file:{}?{how}", escaped(path));
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?
        }
    };
    db.execute_batch(first)?;
    // Nothing of the file is looked at before it is asked.
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(db)
}

/// A path in an URI, which is bytes.
fn escaped(path: &Path) -> String {
    let escape = |&byte: &u8| match byte {
        b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    path.as_os_str().as_encoded_bytes().iter().map(escape).collect()
}

fn cannot_write(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

const WRITE_ONCE: &str = "one with a log; `debut status` by somebody who may write takes it in";

fn moving(path: &Path) -> Error {
    Error::mismatch(
        format!("{} and a reader that may not write", path.display()),
        "the catalogue as it was opened",
        "one that somebody has written to since; ask again",
    )
}

impl Store {
    /// Opens the catalogue again where this reader could only read it as it lay there and somebody has written to it
    /// since; returns whether. Every question is refused from then until this is called.
    ///
    /// # Errors
    /// As [`Store::read`]; `Mismatch` where another catalogue lies there now.
    pub fn follow(&mut self) -> Result<bool> {
        if self.must_lie_still().is_ok() {
            return Ok(false);
        }
        let mut again = Store::read(&self.folder)?;
        let (was, is) = (self.frozen.as_ref().map(|f| f.identity.as_str()), again.ask(Head::load)?.identity);
        // Whoever follows knows this catalogue's numbers.
        if was.is_some_and(|was| was != is) {
            let was = was.unwrap_or_default();
            return Err(Error::mismatch("the catalogue that was opened and the one that lies there now", was, is));
        }
        // What is served now may be another generation: [`Store::is_behind`] tells.
        again.working = self.working;
        *self = again;
        Ok(true)
    }

    /// # Errors
    /// `Mismatch` where this reader sees the files as they lay there, and they have changed.
    pub(super) fn must_lie_still(&self) -> Result<()> {
        match &self.frozen {
            Some(frozen) if Files::of(&self.path)? != frozen.files => Err(moving(&self.path)),
            _ => Ok(()),
        }
    }
}
