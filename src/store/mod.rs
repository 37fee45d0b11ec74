//! The catalogue: the truth about every track, kept in SQLite so that what was acknowledged survives `kill -9` and
//! power loss (write-ahead log, `synchronous=FULL`).
//!
//! One writer at a time (a lock file names it), any number of readers in other processes. Every change of a track gets
//! the next number of one monotonic sequence, `seq`; whoever keeps a copy (the [index](crate::index)) asks for what
//! came after the number it knows.
//!
//! ```text
//! catalogue    one row: its name, the last seq and key, which generation is served, how many tracks there are
//! tracks       a track: where it lies, and its words            removed   tombstones: which key went at which seq
//! files        every path that was ever ingested: its size and time, and the track it gave or why it failed
//! generations  a factor space, and what a fold-in needs to know of it; its tables:
//!   vectors_N    what a track has in that space: its predicted vector, and the vector that is served
//!   listeners_N  a listener and his vector                      history_N the tracks he met, with confidence and preference
//! ```
//!
//! Every row has a checksum, which is verified when it is read (see `sums.rs`).

mod backup;
mod check;
mod feed;
mod frozen;
mod generations;
mod open;
mod read;
mod schema;
mod sums;
mod types;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use backup::BackedUp;
pub use check::Problem;
pub use feed::FileRow;
use rusqlite::{Connection, Transaction};
pub use schema::SCHEMA_VERSION;
pub(crate) use types::lossy;
pub use types::{
    Change, Failure, FileOutcome, FileRecord, FileStamp, Listener, Met, Served, Song, Source, SpaceRow, Status, Track,
    TrackChange, TrackInfo, names_somebody,
};

use crate::error::{Error, Result};
use frozen::Frozen;

/// An open catalogue.
pub struct Store {
    folder: PathBuf,
    path: PathBuf,
    db: Connection,
    /// The generation that this handle reads and writes: the one that was served when it was opened, or one being built.
    working: Option<i64>,
    /// Where the database is read as it lay there when it was opened.
    frozen: Option<Frozen>,
    /// Held by the writer as long as it lives; the operating system releases it when the process dies.
    writer: Option<File>,
    /// The same of who builds a generation.
    builder: Option<File>,
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

    /// Several questions to the catalogue as it is at one moment.
    fn snapshot<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.ask(|db| {
            // Within a transaction of this handle it is that one's moment.
            let transaction = db.is_autocommit().then(|| db.unchecked_transaction()).transpose()?;
            let done = work(db)?;
            transaction.map_or(Ok(()), Transaction::commit)?;
            Ok(done)
        })
    }

    fn ask<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let done = work(&self.db);
        // What a reader finds while somebody writes beneath him may be anything, an error too.
        self.must_lie_still()?;
        done.map_err(catalogue(&self.path))
    }
}

fn catalogue(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |source| {
        let found = match &source {
            rusqlite::Error::FromSqlConversionFailure(_, _, e) => e.downcast_ref::<sums::Damage>().map(|e| e.0.clone()),
            _ => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseCorrupt) => Some(source.to_string()),
                _ => None,
            },
        };
        match found {
            Some(found) => Error::format(path, "what was written (`debut check` says what is damaged)", found),
            None => Error::Catalogue { path, source },
        }
    }
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

    pub(crate) fn track(name: &str, vector: &[f32]) -> Track {
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
            length: Some(0.625),
            confidence: Some(0.75),
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

    /// What `store` was in version 4: vectors without length and confidence, and no way from an artist to tracks.
    fn as_version_4(store: Store) {
        let vector = "track, content, model, windows, predicted, vector, norm, source, plays";
        store
            .db
            .execute_batch(
                "ALTER TABLE vectors_1 RENAME TO new;
                 CREATE TABLE vectors_1 (
                     track     INTEGER PRIMARY KEY,
                     content   TEXT,
                     model     TEXT,
                     windows   INTEGER,
                     predicted BLOB,
                     vector    BLOB NOT NULL,
                     norm      REAL NOT NULL,
                     source    TEXT NOT NULL,
                     plays     INTEGER NOT NULL,
                     sum       INTEGER NOT NULL
                 ) STRICT;",
            )
            .unwrap();
        let mut total = 0i64;
        {
            let mut rows = store.db.prepare(&format!("SELECT {vector} FROM new")).unwrap();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let mut values: Vec<rusqlite::types::Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
                let sum = sums::sum_of(&values.iter().map(|v| v as &dyn rusqlite::ToSql).collect::<Vec<_>>()).unwrap();
                total = total.wrapping_add(sum);
                values.push(sum.into());
                let insert = "INSERT INTO vectors_1 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
                store.db.execute(insert, rusqlite::params_from_iter(values)).unwrap();
            }
        }
        let mut generation = generations::Generation::load(&store.db, 1).unwrap();
        generation.total = total;
        let t = store.db.unchecked_transaction().unwrap();
        generation.save(&t).unwrap();
        t.execute_batch("DROP TABLE new; DROP INDEX tracks_artist; PRAGMA user_version = 4;").unwrap();
        t.commit().unwrap();
    }

    #[test]
    fn a_catalogue_of_the_version_before_is_brought_up_by_its_writer() {
        let (dir, mut store) = store_of(2);
        let folder = dir.path().join("catalogue");
        let learned = Track {
            id: id("b"),
            content: None,
            predicted: None,
            length: None,
            confidence: None,
            source: Source::Learned,
            plays: 7,
            ..track("b", &[0.0, 1.0])
        };
        store.commit(&[upsert_of(track("a", &[1.0, 0.0])), upsert_of(learned.clone())]).unwrap();
        as_version_4(store);
        let refused = Store::read(&folder).err().unwrap().to_string();
        assert!(refused.contains("debut ingest"), "{refused}");
        let mut store = Store::open(&folder).unwrap();
        let heard = Track { length: None, confidence: None, ..track("a", &[1.0, 0.0]) };
        assert_eq!(store.track(&id("a")).unwrap().unwrap(), heard);
        assert_eq!(store.track(&id("b")).unwrap().unwrap(), learned);
        assert_eq!(store.check().unwrap(), []);
        store.commit(&[upsert_of(track("c", &[0.0, 1.0]))]).unwrap();
        assert_eq!(Store::read(&folder).unwrap().track(&id("c")).unwrap().unwrap(), track("c", &[0.0, 1.0]));
        // What was damaged before is not made good by a new checksum.
        store.commit(&[Change::Remove(id("c"))]).unwrap();
        as_version_4(store);
        Connection::open(folder.join(DATABASE)).unwrap().execute("UPDATE vectors_1 SET norm = 9", []).unwrap();
        assert!(Store::open(&folder).err().unwrap().to_string().contains("checksum"));
    }

    #[test]
    fn an_artist_s_songs_are_those_that_people_play_the_most_played_first() {
        let (_dir, mut store) = store_of(2);
        let by = |name: &str, artist: Option<&str>, album: Option<&str>, plays: u32| {
            let info =
                TrackInfo { artist: artist.map(Into::into), album: album.map(Into::into), ..TrackInfo::default() };
            let source = if plays > 0 { Source::HandedOver } else { Source::Predicted };
            upsert_of(Track { info, plays, source, ..track(name, &[0.6, 0.8]) })
        };
        let changes = [
            by("a", Some("Ann"), None, 3),
            by("b", Some("Ann"), Some("One"), 9),
            by("c", Some("Ann"), None, 0),
            by("d", Some("Bob"), Some("One"), 5),
            by("e", None, Some("One"), 4),
        ];
        store.commit(&changes).unwrap();
        let songs = |name: &str, most: usize| -> Vec<(String, u32)> {
            store.songs_of(name, most).unwrap().into_iter().map(|s| (s.id.to_string(), s.plays)).collect()
        };
        assert_eq!(songs("Ann", 9), [("b".to_string(), 9), ("a".to_string(), 3)]);
        assert_eq!(songs("Ann", 1), [("b".to_string(), 9)]);
        assert_eq!(songs("One", 9), [("e".to_string(), 4)], "an artist's song is his");
        assert_eq!(songs("Eve", 9), []);
        let info = |artist: Option<&str>| TrackInfo {
            artist: artist.map(Into::into),
            album: Some("One".into()),
            ..TrackInfo::default()
        };
        assert_eq!(info(Some("Ann")).artist_or_album(), Some("Ann"));
        assert_eq!(info(None).artist_or_album(), Some("One"));
        assert_eq!(info(Some("Various Artists")).artist_or_album(), None);
        assert_eq!(TrackInfo::default().artist_or_album(), None);
        // A damaged song does not keep another from being heard: the rest is given, and as many as were asked for.
        let damage = |sql: &str| store.db.execute(sql, []).unwrap();
        damage("UPDATE vectors_1 SET norm = 9 WHERE track = (SELECT key FROM tracks WHERE id = 'b')");
        assert_eq!(songs("Ann", 1), [("a".to_string(), 3)]);
        assert!(store.track(&id("b")).is_err());
        damage("UPDATE tracks SET title = 'x' WHERE id = 'a'");
        assert_eq!(songs("Ann", 9), []);
    }

    fn changes_since(store: &Store, seq: i64) -> Vec<TrackChange> {
        let mut all = Vec::new();
        store.changes_since(seq, &mut |change| all.push(change)).unwrap();
        all
    }

    #[test]
    fn what_was_changed_behind_our_back_is_an_error_wherever_it_is_read() {
        for (damage, seen_by) in [
            ("UPDATE tracks SET artist = 'Other' WHERE id = 'a'", "feed track"),
            ("UPDATE vectors_1 SET vector = x'000000000000803f' WHERE track = 1", "feed track"),
            ("UPDATE vectors_1 SET track = 77 WHERE track = 1", "feed"),
            ("UPDATE vectors_1 SET norm = norm * 2", "feed track"),
            ("DELETE FROM tracks WHERE id = 'a'", "feed"),
            ("DELETE FROM vectors_1 WHERE track = 2", "feed"),
            ("UPDATE listeners_1 SET vector = x'0000803f0000803f'", "listeners listener"),
            ("DELETE FROM listeners_1", "listeners"),
            ("UPDATE history_1 SET preference = 0", "listener"),
            ("DELETE FROM history_1", "listener"),
            ("UPDATE files SET size = 11", "file"),
            ("UPDATE removed SET key = 1", "changes"),
            ("UPDATE catalogue SET last_seq = 1", "feed changes status"),
            ("UPDATE generations SET description = '{\"x\": 1}'", "feed listeners status"),
        ] {
            let (_dir, mut store) = store_of(2);
            store.commit(&[upsert_of(track("a", &[1.0, 0.0])), upsert_of(track("b", &[0.0, 1.0]))]).unwrap();
            store.commit(&[upsert_of(track("c", &[1.0, 0.0])), Change::Remove(id("c"))]).unwrap();
            store.commit(&[file("/1", FileOutcome::Track(id("a")))]).unwrap();
            let met = Met { track: id("a"), confidence: 3.5, preference: 1.0 };
            let u = Listener { id: UserId::new("u").unwrap(), vector: vec![0.25, -2.0], history: vec![met] };
            store.set_listeners(std::slice::from_ref(&u)).unwrap();
            assert_eq!(store.check().unwrap(), []);
            store.db.execute_batch(damage).unwrap();
            let reads: [(&str, Result<()>); 7] = [
                ("feed", store.changes_since(0, &mut |_| ()).map(drop)),
                ("changes", store.changes_since(2, &mut |_| ()).map(drop)),
                ("track", store.track(&id("a")).map(drop)),
                ("listeners", store.for_each_listener(&mut |_, _| ())),
                ("listener", store.listener(&u.id).map(drop)),
                ("file", store.file(Path::new("/1")).map(drop)),
                ("status", store.status().map(drop)),
            ];
            for (what, read) in reads.iter().filter(|(what, _)| seen_by.split(' ').any(|s| s == *what)) {
                let said = read.as_ref().expect_err(&format!("{damage}: {what}")).to_string();
                assert!(said.contains(DATABASE) && said.contains("debut check"), "{damage}: {what}: {said}");
            }
            let told = store.check().unwrap();
            assert!(!told.is_empty() && told.iter().all(|p| !p.remedy.is_empty()), "{damage}");
        }
    }

    #[test]
    fn a_damaged_row_is_mended_by_its_replacement_or_removal_and_what_is_lost_stays_known() {
        for damage in [
            "UPDATE tracks SET artist = 'Other' WHERE id = 'a'",
            "UPDATE tracks SET sum = sum + 1 WHERE id = 'a'",
            "UPDATE vectors_1 SET norm = norm * 2 WHERE track = 1",
            "UPDATE vectors_1 SET sum = sum + 1 WHERE track = 1",
        ] {
            for mend in [upsert_of(track("a", &[0.0, 1.0])), Change::Remove(id("a"))] {
                let (_dir, mut store) = store_of(2);
                store.commit(&["a", "b", "c"].map(|name| upsert_of(track(name, &[1.0, 0.0])))).unwrap();
                store.db.execute_batch(damage).unwrap();
                assert!(store.track(&id("a")).is_err() && store.contains(&id("a")).unwrap());
                let told = store.check().unwrap();
                assert!(told.iter().all(|p| p.remedy.contains("ingest")), "{told:?}");
                store.commit(std::slice::from_ref(&mend)).unwrap();
                assert_eq!(store.check().unwrap(), [], "{damage}, {mend:?}");
                store.changes_since(0, &mut |_| ()).unwrap();
                // A row that is gone is no row that is mended.
                store
                    .db
                    .execute_batch(
                        "UPDATE vectors_1 SET sum = 0 WHERE track = 2; DELETE FROM vectors_1 WHERE track = 3;",
                    )
                    .unwrap();
                store.commit(&[upsert_of(track("b", &[1.0, 0.0]))]).unwrap();
                assert!(store.changes_since(0, &mut |_| ()).is_err());
            }
        }
    }

    #[test]
    fn what_is_handed_over_while_a_generation_is_built_comes_along_and_what_is_removed_does_not() {
        let (_dir, mut writer) = store_of(2);
        writer.commit(&["a", "b"].map(|name| upsert_of(track(name, &[1.0, 0.0])))).unwrap();
        let plays =
            Track { content: None, predicted: None, source: Source::Learned, plays: 3, ..track("p", &[1.0, 0.0]) };
        writer.commit(&[upsert_of(plays)]).unwrap();
        let space = writer.space().unwrap().unwrap();
        let mut builder = Store::build(writer.folder(), &space, "m@2").unwrap();
        let all = builder.unbuilt(0, 10).unwrap();
        let heard = |t: Track| match t.content {
            Some(_) => Track { predicted: Some(vec![0.0, 1.0]), vector: vec![0.0, 1.0], ..t },
            None => t,
        };
        // Taken out between the reading and the commit of a builder who is not the writer.
        writer.commit(&[Change::Remove(id("p"))]).unwrap();
        builder.commit(&all.into_iter().map(|(_, t)| upsert_of(heard(t))).collect::<Vec<_>>()).unwrap();
        assert!(!writer.contains(&id("p")).unwrap());
        // Handed over after it was built; and what a fold-in needs to know is newer than what the model brought.
        let served = Track { source: Source::HandedOver, plays: 7, norm: 2.0, ..track("a", &[0.6, 0.8]) };
        let taught = Track { predicted: Some(vec![1.0, 0.0]), ..served };
        writer.commit(&[upsert_of(taught)]).unwrap();
        writer.set_space(&SpaceRow { description: "{\"newer\":1}".into(), ..space }).unwrap();
        let u = Listener { id: UserId::new("u").unwrap(), vector: vec![1.0, 1.0], history: vec![] };
        writer.set_listeners(std::slice::from_ref(&u)).unwrap();
        assert!(builder.take_over_plays().is_err(), "only in the writer's place");
        drop(writer);
        builder.finish_building().unwrap();
        assert_eq!(builder.count_unbuilt().unwrap(), 0);
        builder.take_over_plays().unwrap();
        builder.serve().unwrap();
        let now = Store::read(builder.folder()).unwrap();
        let a = now.track(&id("a")).unwrap().unwrap();
        assert_eq!((a.vector, a.predicted, a.plays, a.norm), (vec![0.6, 0.8], Some(vec![0.0, 1.0]), 7, 2.0));
        assert_eq!(now.track(&id("b")).unwrap().unwrap().vector, [0.0, 1.0]);
        assert_eq!(now.space().unwrap().unwrap().description, "{\"newer\":1}");
        assert_eq!(now.listener(&u.id).unwrap().unwrap(), u);
        assert_eq!(now.check().unwrap(), []);
    }

    #[test]
    fn a_generation_is_built_beside_the_one_that_is_served_and_takes_its_place_at_once() {
        let (_dir, mut writer) = store_of(2);
        let all = ["a", "b", "c", "d"];
        writer.commit(&all.map(|name| upsert_of(track(name, &[1.0, 0.0])))).unwrap();
        let folder = writer.folder().to_path_buf();
        let next = SpaceRow { id: SpaceId::named("space-b"), dimensions: 3, description: "{}".into() };
        let mut builder = Store::build(&folder, &next, "m@2").unwrap();
        let refused = Store::build(&folder, &next, "m@2").err().unwrap().to_string();
        assert!(refused.contains("builder") && refused.contains("process"), "{refused}");
        let build = |builder: &mut Store, limit| {
            let (mut after, mut n) = (0, 0);
            loop {
                let some = builder.unbuilt(after, limit).unwrap();
                let Some((last, _)) = some.last() else { return n };
                (after, n) = (*last, n + some.len());
                let vector =
                    |t: Track| Track { predicted: Some(vec![0.0, 0.6, 0.8]), vector: vec![0.0, 0.6, 0.8], ..t };
                builder.commit(&some.into_iter().map(|(_, t)| upsert_of(vector(t))).collect::<Vec<_>>()).unwrap();
            }
        };
        // Half of it, then an interruption.
        let half = builder.unbuilt(0, 2).unwrap();
        let vector = |t: Track| Track { predicted: None, vector: vec![0.0, 0.6, 0.8], source: Source::Learned, ..t };
        builder.commit(&half.into_iter().map(|(_, t)| upsert_of(vector(t))).collect::<Vec<_>>()).unwrap();
        assert_eq!(builder.built().unwrap(), (2, 4));
        drop(builder);
        let mut builder = Store::build(&folder, &next, "m@2").unwrap();
        assert_eq!(build(&mut builder, 1), 2, "what was built is not built again");

        // Meanwhile the writer writes: one is new, one has other audio, one other words, one is gone.
        let seq = writer.seq().unwrap();
        let other = Track { content: Some("other".into()), ..track("b", &[0.0, 1.0]) };
        writer.commit(&[upsert_of(track("e", &[0.0, 1.0])), upsert_of(other), Change::Remove(id("d"))]).unwrap();
        let mut words = track("c", &[1.0, 0.0]);
        words.info.title = Some("new words".into());
        writer.commit(&[upsert_of(words)]).unwrap();
        assert_eq!(changes_since(&writer, seq).len(), 4, "what is built is no change of what is served");
        assert!(builder.finish_building().unwrap_err().to_string().contains("writer"));
        assert!(builder.serve().is_err());
        drop(writer);
        builder.finish_building().unwrap();
        assert_eq!(build(&mut builder, 10), 2, "the new one and the one with other audio");
        let reader = Store::read(&folder).unwrap();
        assert_eq!(reader.space().unwrap().unwrap().id, SpaceId::named("space-a"));
        let before = reader.identity().unwrap();
        builder.serve().unwrap();
        assert!(reader.is_behind().unwrap());
        assert_eq!(
            reader.track(&id("b")).unwrap().unwrap().vector,
            [0.0, 1.0],
            "who has not looked yet reads the old one"
        );
        let reader = Store::read(&folder).unwrap();
        assert!(!reader.is_behind().unwrap());
        assert_eq!(reader.space().unwrap().unwrap(), next);
        assert_ne!(reader.identity().unwrap(), before);
        let mut names = Vec::new();
        reader
            .for_each_track(&mut |_, t| {
                assert_eq!(t.vector, [0.0, 0.6, 0.8]);
                names.push(t.id.to_string());
                Ok(())
            })
            .unwrap();
        assert_eq!(names, ["a", "b", "c", "e"]);
        assert_eq!(reader.track(&id("c")).unwrap().unwrap().info.title.unwrap(), "new words");
        assert_eq!(reader.check().unwrap(), []);
        drop(builder);

        // And back: what came or changed since has no vector there until it is heard again.
        let mut writer = Store::open(&folder).unwrap();
        let new = Track { predicted: None, source: Source::Learned, ..track("f", &[1.0, 0.0, 0.0][..]) };
        writer.commit(&[upsert_of(new)]).unwrap();
        assert_eq!(writer.go_back().unwrap(), 1);
        assert_eq!(writer.space().unwrap().unwrap().id, SpaceId::named("space-a"));
        assert!(writer.track(&id("f")).unwrap().is_none() && writer.track(&id("e")).unwrap().is_some());
        assert_eq!((writer.status().unwrap().tracks, writer.status().unwrap().without_vector), (4, 1));
        assert_eq!(writer.check().unwrap(), []);
        writer.commit(&[upsert_of(track("f", &[1.0, 0.0]))]).unwrap();
        assert_eq!(writer.status().unwrap().without_vector, 0);
        assert_eq!(writer.go_back().unwrap(), 0);
        assert_eq!(writer.drop_unserved().unwrap(), 1);
        assert!(matches!(writer.go_back(), Err(Error::NotFound { .. })));
        writer.compact().unwrap();
        assert_eq!(writer.check().unwrap(), []);
    }

    #[test]
    fn the_change_feed_tells_each_change_once_and_in_order() {
        let (_dir, mut store) = store_of(2);
        store.commit(&[upsert_of(track("a", &[1.0, 0.0])), upsert_of(track("b", &[0.0, 1.0]))]).unwrap();
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
        assert_eq!(store.entry_by_content("other").unwrap().unwrap().id, id("named"));
        assert!(store.is_removed(&id("old")).unwrap() && !store.is_removed(&id("named")).unwrap());
    }

    #[test]
    fn a_second_writer_is_told_who_the_first_is_and_readers_are_welcome() {
        let (_dir, store) = store_of(2);
        let refused = Store::open(store.folder()).err().unwrap().to_string();
        let holder = format!("process {}: ", std::process::id());
        assert!(refused.contains(&holder) && refused.contains("debut") && refused.contains(", for "), "{refused}");
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
