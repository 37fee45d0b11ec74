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

mod check;
mod open;
mod read;
mod schema;
mod types;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction};
pub use schema::SCHEMA_VERSION;
pub(crate) use types::lossy;
pub use types::{
    Change, Failure, FileOutcome, FileRecord, FileStamp, Listener, Met, Served, Source, SpaceRow, Status, Track,
    TrackChange, TrackInfo,
};

use crate::error::{Error, Result};

/// An open catalogue.
pub struct Store {
    folder: PathBuf,
    path: PathBuf,
    db: Connection,
    /// Held by the writer as long as it lives; the operating system releases it when the process dies.
    _lock: Option<File>,
}

impl Store {
    /// The folder that holds this catalogue and what is derived from it.
    pub fn folder(&self) -> &Path {
        &self.folder
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
}

fn catalogue(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Catalogue { path, source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::open::DATABASE;
    use super::*;
    use crate::artefact::SpaceId;
    use crate::ids::{TrackId, UserId};

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
