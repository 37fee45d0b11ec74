//! Opening a catalogue: by its one writer, or beside him.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::frozen::reader;
use super::generations::Head;
use super::schema::SCHEMA_VERSION;
use super::{Store, catalogue};
use crate::artefact::create_folder;
use crate::error::{Error, Result};

pub(super) const DATABASE: &str = "catalogue.sqlite";
pub(super) const WRITER: &str = "writer.lock";
pub(super) const BUILDER: &str = "builder.lock";

impl Store {
    /// Opens the catalogue in `folder` for writing, made if it is not there.
    ///
    /// # Errors
    /// `Invalid` where another process writes to it (naming that process), `Io`, `Format`, `Catalogue`.
    pub fn open(folder: &Path) -> Result<Store> {
        create_folder(folder)?;
        let writer = lock(folder, WRITER)?;
        let path = folder.join(DATABASE);
        let db = Connection::open(&path).map_err(catalogue(&path))?;
        let (folder, writer) = (folder.to_path_buf(), Some(writer));
        let mut store = Store { folder, path, db, working: None, frozen: None, writer, builder: None };
        store.configure()?;
        store.migrate()?;
        store.working = store.ask(Head::load)?.served;
        Ok(store)
    }

    /// Opens the catalogue in `folder` for reading, beside whoever writes; also where this process may not write, and on a
    /// medium that nobody can write to (see [`Store::follow`]).
    ///
    /// # Errors
    /// `NotFound` where there is no catalogue, `Io` where it may not be read, `Format`, `Catalogue`.
    pub fn read(folder: &Path) -> Result<Store> {
        let path = folder.join(DATABASE);
        if !path.is_file() {
            return Err(Error::NotFound { what: "catalogue", name: folder.display().to_string() });
        }
        let (db, frozen) = reader(&path)?;
        let mut store = Store {
            folder: folder.to_path_buf(),
            db,
            path: path.clone(),
            working: None,
            frozen,
            writer: None,
            builder: None,
        };
        store.configure()?;
        store.db.pragma_update(None, "query_only", true).map_err(catalogue(&path))?;
        match store.version()? {
            SCHEMA_VERSION => {
                let head = store.ask(Head::load)?;
                store.working = head.served;
                if let Some(frozen) = &mut store.frozen {
                    frozen.identity = head.identity;
                }
                Ok(store)
            }
            found @ 4 => Err(Error::format(
                &path,
                format!("catalogue version {SCHEMA_VERSION} (`debut ingest` or `debut handover` brings it there)"),
                found,
            )),
            found => Err(Error::format(&path, format!("catalogue version {SCHEMA_VERSION}"), found)),
        }
    }

    pub(super) fn configure(&self) -> Result<()> {
        let set = || -> rusqlite::Result<()> {
            self.db.busy_timeout(Duration::from_secs(10))?;
            if self.writer.is_some() || self.builder.is_some() {
                self.db.pragma_update(None, "journal_mode", "WAL")?;
                self.db.pragma_update(None, "synchronous", "FULL")?;
            }
            self.db.set_prepared_statement_cache_capacity(64);
            Ok(())
        };
        set().map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Error::format(&self.path, "a debut catalogue", "another file"),
            _ => catalogue(&self.path)(source),
        })
    }
}

/// Takes the lock of this name, or says who has it.
pub(super) fn lock(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(name);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => {
            // What stands in the file is a courtesy to those who are refused.
            let command: Vec<String> =
                std::env::args_os().map(|arg| arg.to_string_lossy().replace(char::is_control, " ")).collect();
            let text: String = format!("process {}: {}", std::process::id(), command.join(" "));
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(text.chars().take(200).collect::<String>().as_bytes())
            };
            write(&mut file).map_err(Error::io(&path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let since = file.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            let mut holder = String::new();
            // Without what stands in it the refusal still holds.
            let _ = file.take(1000).read_to_string(&mut holder);
            let (what, expected) = match name {
                WRITER => ("writer", "one writer at a time"),
                _ => ("builder", "one builder of a generation at a time"),
            };
            let holder = if holder.is_empty() { "another process".to_string() } else { holder };
            let since = since.map(|d| format!(", for {} s", d.as_secs())).unwrap_or_default();
            Err(Error::invalid(
                format!("second {what} of {}", folder.display()),
                format!("{expected} (try again when the other has ended)"),
                holder + &since,
            ))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path)(e)),
    }
}
