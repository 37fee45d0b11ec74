//! A copy of the catalogue while somebody writes to it.
//!
//! SQLite's online backup copies pages, and begins again when another connection has changed the database between two of
//! its steps. It looks for that where a read transaction begins (`sqlite3PagerSharedLock`, which asks the write-ahead
//! log and calls `sqlite3BackupRestart`), and `sqlite3_backup_step` begins one only where its source has none. So the
//! source holds one all the time: every page is of one moment, and no writer can make the copy begin again. What he
//! writes meanwhile stays in the log, which grows until the copy is done.

use std::fs::File;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::open::DATABASE;
use super::{Store, catalogue};
use crate::artefact::AsideFolder;
use crate::error::{Error, Result};

/// Pages of 4 KiB between two reports of progress.
const STEP: i32 = 256;
/// Of what is wrong with a copy, so many lines are told.
const TOLD: usize = 5;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    pub tracks: u64,
    pub listeners: u64,
    /// The last change that is in it.
    pub seq: i64,
    pub bytes: u64,
}

impl Store {
    /// Copies the catalogue, as it is now, into the folder `to`, which is new or empty. The copy is made aside, verified by
    /// [`Store::check`], synced, and gets its name when it is whole. It is a catalogue like any other; what is derived (the
    /// index) is not in it. `progress` is told the pages that are done and how many there are; an error of its ends it.
    ///
    /// # Errors
    /// `Unsupported` where `to` holds something, `Io`, `Catalogue`; `Format` where the catalogue is damaged, and so
    /// is its copy.
    pub fn backup(&self, to: &Path, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<BackedUp> {
        let aside = AsideFolder::new(to)?;
        let path = aside.path().join(DATABASE);
        let seq = self.in_snapshot(|| {
            self.copy_pages(&path, progress)?;
            self.seq()
        })?;
        File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io(&path))?;
        let copy = Store::read(aside.path())?;
        let wrong = copy.check()?;
        if !wrong.is_empty() {
            let told: Vec<&str> = wrong.iter().take(TOLD).map(|p| p.problem.as_str()).collect();
            return Err(Error::format(&self.path, "a catalogue without damage", told.join("; ")));
        }
        if copy.seq()? != seq {
            return Err(Error::mismatch("the catalogue and its copy", format!("seq {seq}"), copy.seq()?));
        }
        let status = copy.status()?;
        // Its log goes with the last who reads.
        drop(copy);
        aside.publish()?;
        Ok(BackedUp { tracks: status.tracks, listeners: status.listeners, seq, bytes: status.bytes })
    }

    /// Must be called in a snapshot.
    fn copy_pages(&self, path: &Path, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut to = Connection::open(path).map_err(catalogue(path))?;
        // Nobody sees the copy before it is whole and synced: it needs no journal, and no sync of its own.
        to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;").map_err(catalogue(path))?;
        let backup = Backup::new(&self.db, &mut to).map_err(catalogue(path))?;
        loop {
            let step = backup.step(STEP).map_err(catalogue(path))?;
            let of = backup.progress();
            let done = of.pagecount.saturating_sub(of.remaining);
            progress(done.max(0) as u64, of.pagecount.max(0) as u64)?;
            match step {
                StepResult::Done => return Ok(()),
                StepResult::More => {}
                // Nobody else has the copy open, and this connection does not write.
                other => {
                    return Err(Error::format(path, "a copy that nobody else has open", format!("{other:?}")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::store::Change;
    use crate::store::tests::{store_of, track};

    /// Tracks enough for several steps, and one whose every change is a commit of its own.
    fn large() -> (tempfile::TempDir, Store) {
        let (dir, mut store) = store_of(40);
        let vector: Vec<f32> = (0..40).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect();
        let all: Vec<Change> =
            (0..10_000).map(|i| Change::Upsert(Box::new(track(&format!("t{i:05}"), &vector)))).collect();
        store.commit(&all).unwrap();
        (dir, store)
    }

    fn change(store: &mut Store) {
        let vector: Vec<f32> = (0..40).map(|i| if i == 1 { 1.0 } else { 0.0 }).collect();
        // Early and late pages of the table.
        for name in ["t00000", "t09999"] {
            store.commit(&[Change::Upsert(Box::new(track(name, &vector)))]).unwrap();
        }
    }

    #[test]
    fn a_writer_who_commits_between_all_steps_does_not_make_the_copy_begin_again() {
        let (dir, mut writer) = large();
        let reader = Store::read(writer.folder()).unwrap();
        let (before, to) = (reader.seq().unwrap(), dir.path().join("copy"));
        let mut steps: Vec<(u64, u64)> = Vec::new();
        let backed_up = reader
            .backup(&to, &mut |done, of| {
                change(&mut writer);
                steps.push((done, of));
                Ok(())
            })
            .unwrap();
        assert!(steps.len() > 3, "{steps:?}");
        assert!(steps.is_sorted() && steps.iter().all(|s| s.1 == steps[0].1), "each page once: {steps:?}");
        assert_eq!((backed_up.tracks, backed_up.seq), (10_000, before));
        let copy = Store::read(&to).unwrap();
        let id = track("t09999", &[]).id;
        assert_eq!(copy.track(&id).unwrap().unwrap().vector[0], 1.0, "as it was when the copy began");
        assert_eq!(writer.track(&id).unwrap().unwrap().vector[1], 1.0);
        assert_eq!(copy.identity().unwrap(), reader.identity().unwrap());

        // A backup is a catalogue that can be written to.
        drop(copy);
        change(&mut Store::open(&to).unwrap());
        assert!(Store::read(&to).unwrap().check().unwrap().is_empty());
        let refused = reader.backup(&to, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(refused.contains("holds something"), "{refused}");
    }

    /// What the test above would see if the source held no transaction.
    #[test]
    fn without_a_snapshot_sqlite_begins_again() {
        let (dir, mut writer) = large();
        let reader = Store::read(writer.folder()).unwrap();
        let mut steps: Vec<(u64, u64)> = Vec::new();
        let copied = reader.copy_pages(&dir.path().join("copy.sqlite"), &mut |done, of| {
            change(&mut writer);
            steps.push((done, of));
            if steps.len() == 20 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(matches!(copied, Err(Error::Interrupted)), "it never comes to an end: {steps:?}");
        assert!(steps.iter().all(|(done, of)| done < of));
    }

    #[test]
    fn a_damaged_catalogue_and_a_stop_leave_no_backup() {
        let (dir, store) = large();
        let folder = store.folder().to_path_buf();
        store.checkpoint().unwrap();
        let to = dir.path().join("copy");
        let stopped = store.backup(&to, &mut |_, _| Err(Error::Interrupted));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        drop(store);
        let path: PathBuf = folder.join(DATABASE);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let refused = Store::read(&folder).and_then(|s| s.backup(&to, &mut |_, _| Ok(())));
        assert!(refused.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the catalogue alone");
    }
}
