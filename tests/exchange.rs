//! The catalogue goes out and comes back: backup, export and import.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use common::{debut, json, run};
use debut::artefact::SpaceId;
use debut::events::ConfidenceConfig;
use debut::exchange::{Format, MANIFEST, Manifest, export, import};
use debut::factors::{Ridge, Space};
use debut::ids::{TrackId, UserId};
use debut::index::{Filter, IndexConfig};
use debut::recommend::{Query, RecommendConfig, Recommender};
use debut::store::{
    Change, FileOutcome, FileRecord, FileRow, FileStamp, Listener, Met, Source, SpaceRow, Store, Track, TrackInfo,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const D: usize = 8;

fn quiet(_: u64, _: u64) -> debut::Result<()> {
    Ok(())
}

fn id(text: &str) -> TrackId {
    TrackId::new(text).unwrap()
}

fn space() -> SpaceRow {
    let gram: Vec<f32> = (0..D * D).map(|i| if i % (D + 1) == 0 { 2.5 } else { 0.1 }).collect();
    let space = Space {
        id: SpaceId::named("space-of-tests"),
        dimensions: D,
        track_gram: gram.clone(),
        user_ridge: Ridge::plain(0.1),
        user_gram: gram,
        track_ridge: Ridge::plain(0.1),
        typical_norm: 0.3,
        confidence: ConfidenceConfig::default(),
    };
    SpaceRow { id: space.id.clone(), dimensions: D, description: serde_json::to_string(&space).unwrap() }
}

fn unit(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let raw: Vec<f32> = (0..D).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
    raw.iter().map(|v| v / length).collect()
}

fn a_track(i: usize, rng: &mut ChaCha8Rng) -> Track {
    let word = |of: &str, every: usize| i.is_multiple_of(every).then(|| format!("{of} {i} é🎵"));
    let source = [Source::Predicted, Source::HandedOver, Source::Learned][i % 3];
    Track {
        id: id(&format!("t{i:05}")),
        path: (source != Source::Learned).then(|| PathBuf::from(format!("/music/{i}.mp3"))),
        content: word("content", 2),
        info: TrackInfo {
            title: word("title", 1),
            artist: Some(format!("artist {}", i % 17)),
            album: word("album", 3),
            year: (!i.is_multiple_of(5)).then_some(1950 + (i % 70) as i32),
            genre: word("genre", 7),
            isrc: word("isrc", 11),
            musicbrainz: word("mbid", 13),
            released: word("2020-01-01", 17),
            language: Some(["en", "de", "pt-BR"][i % 3].into()),
            explicit: [None, Some(true), Some(false)][i % 3],
            regions: word("DE AT", 19),
        },
        seconds: (!i.is_multiple_of(4)).then_some(i as f64 * 1.7),
        tiled: i.is_multiple_of(6),
        model: word("model", 2),
        windows: i.is_multiple_of(2).then_some(3),
        predicted: (source != Source::Learned).then(|| unit(rng)),
        length: (source != Source::Learned).then_some(0.625),
        confidence: (source == Source::Predicted).then_some(0.75),
        vector: unit(rng),
        norm: rng.random_range(0.0..2.0),
        source,
        plays: (i * 31 % 1000) as u32,
    }
}

fn upsert(track: Track) -> Change {
    Change::Upsert(Box::new(track))
}

fn file(path: &Path, outcome: FileOutcome) -> Change {
    let stamp = FileStamp { path: path.into(), size: 1 << 40, modified: -5 };
    Change::File(FileRecord { stamp, content: Some("hash".into()), outcome, decoder: 3 })
}

fn odd_path() -> PathBuf {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(b"/music/\xff\xfe.mp3").into()
    }
    #[cfg(not(unix))]
    "/music/odd.mp3".into()
}

/// A catalogue with everything that there is: replaced and removed tracks, files that failed, listeners.
fn catalogue(folder: &Path, tracks: usize) -> Store {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut store = Store::open(folder).unwrap();
    store.set_space(&space()).unwrap();
    let all: Vec<Change> = (0..tracks).map(|i| upsert(a_track(i, &mut rng))).collect();
    store.commit(&all).unwrap();
    let odd = Track { path: Some(odd_path()), ..a_track(3, &mut rng) };
    let damaged = || FileOutcome::Failed { reason: "silent, ‘all’ of it".into(), retry: true };
    let changes = [
        upsert(odd),
        Change::Remove(id("t00007")),
        Change::Remove(id("t00008")),
        upsert(a_track(8, &mut rng)),
        file(&odd_path(), FileOutcome::Track(id("t00003"))),
        file(Path::new("/music/once good.mp3"), FileOutcome::Track(id("t00004"))),
        file(Path::new("/music/bad.mp3"), damaged()),
    ];
    store.commit(&changes).unwrap();
    store.commit(&[file(Path::new("/music/once good.mp3"), damaged())]).unwrap();
    let listeners: Vec<Listener> = (0..40)
        .map(|u| Listener {
            id: UserId::new(format!("listener {:02}", (u * 7) % 40)).unwrap(),
            vector: unit(&mut rng).iter().map(|v| v * 3.0).collect(),
            history: (0..u % 9)
                .map(|i| Met { track: id(&format!("t{i:05}")), confidence: 1.5 + u as f32, preference: 0.5 })
                .collect(),
        })
        .collect();
    store.set_listeners(&listeners).unwrap();
    store
}

type Contents = (Vec<Track>, Vec<FileRow>, Vec<Listener>, Vec<TrackId>);

/// All of it, in the catalogue's order; without what an import makes anew: times of looking and the sequence.
fn contents(folder: &Path) -> Contents {
    let store = Store::read(folder).unwrap();
    assert_eq!(store.check().unwrap(), []);
    let mut all = Contents::default();
    store
        .for_each_track(&mut |_, track| {
            all.0.push(track);
            Ok(())
        })
        .unwrap();
    store
        .for_each_file(&mut |row| {
            all.1.push(FileRow { at: 0, ..row });
            Ok(())
        })
        .unwrap();
    let mut names = Vec::new();
    store.for_each_listener(&mut |id, _| names.push(id)).unwrap();
    all.2 = names.iter().map(|id| store.listener(id).unwrap().unwrap()).collect();
    store
        .for_each_removed(0, &mut |id, _| {
            all.3.push(id);
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn what_is_exported_and_imported_is_the_catalogue_and_recommends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    drop(catalogue(&at("a"), 5000));
    let said = &json(dir.path(), 0, &["--catalogue", "a", "export", "out", "--json"])[0];
    assert_eq!((&said["tracks"], &said["removed"], &said["listeners"]), (&4999.into(), &1.into(), &40.into()));
    let said = &json(dir.path(), 0, &["--catalogue", "b", "import", "out", "--json"])[0];
    assert_eq!((&said["tracks"], &said["files"], &said["listeners"]), (&4999.into(), &3.into(), &40.into()));
    assert_eq!(json(dir.path(), 0, &["--catalogue", "b", "check", "--json"])[0]["ok"], true);
    let (a, b) = (contents(&at("a")), contents(&at("b")));
    assert_eq!(a, b);
    assert_eq!(a.3, [id("t00007")]);
    assert!(a.1.iter().any(|row| row.record.stamp.path == odd_path()));
    let once_good = a.1.iter().find(|row| row.record.stamp.path.ends_with("once good.mp3")).unwrap();
    assert_eq!(once_good.track, Some(id("t00004")), "a file that failed keeps the track that it gave");

    // And out again: all that does not count changes is the same to the byte.
    let again = export(&Store::read(&at("b")).unwrap(), &at("again"), Format::Parquet, 0, &mut quiet).unwrap();
    assert_eq!(again.tracks, 4999);
    let (first, second) = (Manifest::read(&at("out")).unwrap(), Manifest::read(&at("again")).unwrap());
    assert_eq!(first.description, second.description);
    for same in ["listeners.parquet", "history.parquet"] {
        assert_eq!(first.files[same], second.files[same], "{same}");
    }
    import(&at("again"), &at("c"), &mut quiet).unwrap();
    assert_eq!(contents(&at("c")), a);

    let open = |name: &str| Recommender::open(&at(name), &IndexConfig::default(), &RecommendConfig::default()).unwrap();
    let (one, two) = (open("a"), open("b"));
    let asked = [
        Query::Track(id("t00001")),
        Query::User(UserId::new("listener 08").unwrap()),
        Query::Playlist(vec![id("t00001"), id("t04000")]),
    ];
    let german = Filter { languages: vec!["de".into()], years: Some(1990..=2000), ..Filter::default() };
    for query in &asked {
        for filter in [&Filter::default(), &german] {
            let answers = one.recommend(query, 10, filter).unwrap();
            assert_eq!(answers.len(), 10);
            assert_eq!(answers, two.recommend(query, 10, filter).unwrap());
        }
    }
}

/// What a folder of Parquet files says of tracks: seq and the first number of the vector, by id; and what went.
fn exported(folder: &Path) -> (BTreeMap<String, (i64, f32)>, Vec<String>) {
    let batches = |name: &str| {
        let file = fs::File::open(folder.join(name)).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(|b| b.unwrap()).collect::<Vec<_>>()
    };
    let text = |batch: &RecordBatch, name: &str, i| batch[name].as_string::<i32>().value(i).to_string();
    let mut tracks = BTreeMap::new();
    for batch in batches("tracks.parquet") {
        let (seq, vector) = (batch["seq"].as_primitive::<Int64Type>(), batch["vector"].as_fixed_size_list());
        assert_eq!(vector.value_length(), D as i32);
        for i in 0..batch.num_rows() {
            let first = vector.value(i).as_primitive::<Float32Type>().value(0);
            assert!(tracks.insert(text(&batch, "id", i), (seq.value(i), first)).is_none());
        }
    }
    let removed = batches("removed.parquet");
    let removed =
        removed.iter().flat_map(|b| (0..b.num_rows()).map(|i| text(b, "id", i)).collect::<Vec<_>>()).collect();
    (tracks, removed)
}

#[test]
fn exports_of_what_changed_keep_a_copy_elsewhere_true() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut store = catalogue(&at("c"), 300);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    json(dir.path(), 0, &["--catalogue", "c", "export", "e0", "--json"]);
    let (mut copy, _) = exported(&at("e0"));
    for round in 1..6 {
        for _ in 0..20 {
            let i = rng.random_range(0..320);
            let change = if rng.random_bool(0.3) {
                Change::Remove(id(&format!("t{i:05}")))
            } else {
                upsert(a_track(i, &mut rng))
            };
            store.commit(&[change]).unwrap();
        }
        let (before, out) = (format!("e{}", round - 1), format!("e{round}"));
        let said = &json(dir.path(), 0, &["--catalogue", "c", "export", &out, "--since", &before, "--json"])[0];
        let (changed, removed) = exported(&at(&out));
        assert!(said["tracks"] == changed.len() && changed.len() <= 20, "{said}");
        copy.extend(changed);
        removed.iter().for_each(|id| {
            copy.remove(id);
        });
        let whole = format!("whole{round}");
        json(dir.path(), 0, &["--catalogue", "c", "export", &whole, "--json"]);
        assert_eq!(copy, exported(&at(&whole)).0, "round {round}");
        // By number it is the same.
        let since = Manifest::read(&at(&before)).unwrap().seq.to_string();
        let numbered = format!("n{round}");
        json(dir.path(), 0, &["--catalogue", "c", "export", &numbered, "--since", &since, "--json"]);
        assert_eq!(exported(&at(&numbered)), exported(&at(&out)));
    }
    let wrong = |arguments: &[&str], says: &str| {
        let (code, _, stderr) = run(dir.path(), &[&["--catalogue", "c"], arguments].concat());
        assert!(code == 2 && stderr.contains(says), "{arguments:?}: {code} {stderr}");
    };
    wrong(&["export", "x", "--since", "99999"], "expected 0 to");
    wrong(&["export", "x", "--since", "5", "--format", "npy"], "parquet");
    wrong(&["export", "e0"], "holds something");
    assert!(import(&at("e1"), &at("d"), &mut quiet).unwrap_err().to_string().contains("an export of everything"));
    drop(catalogue(&at("other"), 20));
    fs::rename(at("c"), at("first")).unwrap();
    fs::rename(at("other"), at("c")).unwrap();
    wrong(&["export", "x", "--since", "e0"], "the earlier export and the catalogue");
    assert!(!at("x").exists() && !at("d").exists());
}

#[test]
fn tracks_without_a_vector_in_what_is_served_are_left_out_and_their_files_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let store = catalogue(&at("c"), 300);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    json(dir.path(), 0, &["--catalogue", "c", "export", "before", "--json"]);
    // Another generation, which has heard a third of them; t00003, which has a file, is not among them.
    let mut built = Store::build(&at("c"), &space(), "of the test").unwrap();
    for i in (0..300).filter(|i| i % 3 == 1 && *i != 7) {
        let served = store.track(&id(&format!("t{i:05}"))).unwrap().unwrap();
        built.commit(&[upsert(Track { vector: unit(&mut rng), ..served })]).unwrap();
    }
    drop(store);
    built.finish_building().unwrap();
    built.serve().unwrap();
    drop(built);
    let said = &json(dir.path(), 0, &["--catalogue", "c", "export", "after", "--json"])[0];
    assert_eq!((&said["tracks"], &said["left_out"]), (&99.into(), &200.into()));
    assert_eq!(import(&at("after"), &at("d"), &mut quiet).unwrap().tracks, 99);
    let (_, files, ..) = contents(&at("d"));
    let paths: Vec<_> = files.iter().map(|row| row.record.stamp.path.clone()).collect();
    assert_eq!(paths, [Path::new("/music/bad.mp3"), Path::new("/music/once good.mp3")]);
    // What changed since is everything.
    let (code, _, stderr) = run(dir.path(), &["--catalogue", "c", "export", "since", "--since", "before"]);
    assert!(code == 2 && stderr.contains("the earlier export and the catalogue"), "{stderr}");
}

#[test]
fn npy_holds_the_vectors_and_their_ids_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let store = catalogue(&at("c"), 300);
    json(dir.path(), 0, &["--catalogue", "c", "export", "out", "--format", "npy", "--json"]);
    let read = |name: &str| -> ndarray::Array2<f32> { ndarray_npy::read_npy(at("out").join(name)).unwrap() };
    let ids = |name: &str| fs::read_to_string(at("out").join(name)).unwrap();
    let (vectors, listeners) = (read("vectors.npy"), read("listeners.npy"));
    let norms: ndarray::Array1<f32> = ndarray_npy::read_npy(at("out").join("norms.npy")).unwrap();
    assert_eq!((vectors.dim(), norms.dim(), listeners.dim()), ((299, D), 299, (40, D)));
    for ((vector, norm), line) in vectors.outer_iter().zip(norms).zip(ids("tracks.ids").lines()) {
        let track = store.track(&id(line)).unwrap().unwrap();
        assert_eq!((vector.to_vec(), norm), (track.vector, track.norm));
    }
    for (vector, line) in listeners.outer_iter().zip(ids("listeners.ids").lines()) {
        assert_eq!(vector.to_vec(), store.listener(&UserId::new(line).unwrap()).unwrap().unwrap().vector);
    }
    let refused = import(&at("out"), &at("d"), &mut quiet).unwrap_err().to_string();
    assert!(refused.contains("an export as parquet"), "{refused}");
}

#[test]
fn a_damaged_export_is_refused_with_its_name_and_makes_no_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    drop(catalogue(&at("c"), 400));
    let store = Store::read(&at("c")).unwrap();
    export(&store, &at("out"), Format::Parquet, 0, &mut quiet).unwrap();
    let manifest = fs::read(at("out").join(MANIFEST)).unwrap();
    let mut unlisted: Value = serde_json::from_slice(&manifest).unwrap();
    unlisted["files"] = Value::Object(serde_json::Map::new());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // Each takes two imports, and each of these some ten syncs.
    let rounds = if std::env::var_os("DEBUT_TEST_ALL").is_some() { 120 } else { 8 };
    let (mut refused, mut taken) = (0, 0);
    for name in ["tracks.parquet", "removed.parquet", "files.parquet", "listeners.parquet", "history.parquet"] {
        let path = at("out").join(name);
        let sound = fs::read(&path).unwrap();
        for round in 0..rounds {
            let mut bytes = sound.clone();
            // From end to end, so that pages, headers and the footer are met.
            let place = (bytes.len() - 1) * round / (rounds - 1);
            match round % 3 {
                0 => bytes[place] ^= 1 << rng.random_range(0..8),
                1 => bytes.truncate(place),
                _ => {
                    let end = bytes.len().min(place + 64);
                    bytes[place..end].fill(0);
                }
            }
            if bytes == sound {
                continue;
            }
            fs::write(&path, &bytes).unwrap();
            fs::write(at("out").join(MANIFEST), &manifest).unwrap();
            let error = import(&at("out"), &at("d"), &mut quiet).unwrap_err().to_string();
            assert!(error.contains(name) && !at("d").exists(), "{error}");
            // Without the hash, as another program may write it: an error, or what the file now says, but no panic.
            fs::write(at("out").join(MANIFEST), unlisted.to_string()).unwrap();
            match import(&at("out"), &at("d"), &mut quiet) {
                Ok(_) => {
                    taken += 1;
                    assert!(Store::read(&at("d")).unwrap().check().unwrap().is_empty());
                    fs::remove_dir_all(at("d")).unwrap();
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(name) && !at("d").exists(), "{error}");
                }
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    println!("without hashes: {refused} refused, {taken} taken");
    for damage in [&b"{"[..], b"{\"format\": 2}", b""] {
        fs::write(at("out").join(MANIFEST), damage).unwrap();
        assert!(import(&at("out"), &at("d"), &mut quiet).unwrap_err().to_string().contains(MANIFEST));
    }
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "nothing half-made is left: {beside:?}");
}

/// Id and vector.
type ForeignRow<'a> = (Option<&'a str>, &'a [f32]);

/// A table of ids and vectors, as another program may write it.
fn foreign(folder: &Path, rows: &[ForeignRow], fixed: bool) {
    fs::create_dir_all(folder).unwrap();
    let ids: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>());
    let vectors: ArrayRef = if fixed {
        let mut list = FixedSizeListBuilder::new(Float32Builder::new(), D as i32);
        rows.iter().for_each(|row| {
            list.values().append_slice(row.1);
            list.append(true);
        });
        Arc::new(list.finish())
    } else {
        let mut list = ListBuilder::new(Float32Builder::new());
        rows.iter().for_each(|row| {
            list.values().append_slice(row.1);
            list.append(true);
        });
        Arc::new(list.finish())
    };
    let years: ArrayRef = Arc::new((0..rows.len()).map(|i| Some(1990 + i as i32)).collect::<Int32Array>());
    let batch = RecordBatch::try_from_iter([("id", ids), ("vector", vectors), ("year", years)]).unwrap();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(folder.join("tracks.parquet")).unwrap(), batch.schema(), None);
    writer.as_mut().unwrap().write(&batch).unwrap();
    writer.unwrap().close().unwrap();
    let SpaceRow { id, dimensions, description } = space();
    let text = serde_json::json!({ "format": 1, "space": id, "dimensions": dimensions, "description": description });
    fs::write(folder.join(MANIFEST), text.to_string()).unwrap();
}

#[test]
fn ids_and_vectors_of_another_program_become_a_catalogue_and_bad_rows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut axes = [[0.0; D]; 3];
    (0..3).for_each(|i| axes[i][i] = 1.0);
    let [x, y, z] = &axes;
    for fixed in [true, false] {
        foreign(&at("in"), &[(Some("x"), x), (Some("y"), y), (Some("z"), z)], fixed);
        let name = format!("fixed-{fixed}");
        assert_eq!(import(&at("in"), &at(&name), &mut quiet).unwrap().tracks, 3);
        let lines =
            json(dir.path(), 0, &["--catalogue", &name, "recommend", "--track", "y", "--years", "1992", "--json"]);
        assert_eq!((lines.len(), &lines[0]["track"]), (1, &"z".into()));
    }
    let nan = [f32::NAN; D];
    let long = [1.0; D];
    let cases: [(&[ForeignRow], &str); 6] = [
        (&[(Some("x"), x), (Some("x"), y)], "rows 1 to 2: x again"),
        (&[(Some("x"), x), (None, y)], "row 2: none"),
        (&[(Some("x"), x), (Some("two\nlines"), y)], "row 2: invalid TrackId"),
        (&[(Some("x"), x), (Some("y"), &y[1..])], "row 2: 7, 0 of them null"),
        (&[(Some("x"), x), (Some("y"), &nan)], "row 2: NaN"),
        (&[(Some("x"), x), (Some("y"), &long)], "rows 1 to 2: the vector of track y"),
    ];
    for (rows, says) in cases {
        foreign(&at("bad"), rows, false);
        let (code, _, stderr) = run(dir.path(), &["--catalogue", "none", "import", "bad"]);
        assert!(code == 2 && stderr.contains(says) && stderr.contains("tracks.parquet"), "{code} {stderr}, not {says}");
        assert!(!at("none").exists());
    }
    let manifest = at("bad").join(MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"dimensions\":8", "\"dimensions\":1000000000000")).unwrap();
    assert!(import(&at("bad"), &at("none"), &mut quiet).unwrap_err().to_string().contains("dimensions"));
    let full = catalogue(&at("full"), 10);
    drop(full);
    let refused = import(&at("in"), &at("full"), &mut quiet).unwrap_err().to_string();
    assert!(refused.contains("holds something"), "{refused}");
}

#[test]
fn an_export_and_a_backup_are_of_one_moment_however_much_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut store = catalogue(&at("c"), 2000);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let pair = ["t00001", "t01501"].map(id);
    store.commit(&pair.clone().map(Change::Remove)).unwrap();
    let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let writer = std::thread::spawn({
        let (stop, commits) = (stop.clone(), commits.clone());
        move || {
            // Every commit brings two tracks, far from one another, to the same number of plays; the first is removed now
            // and then with the second.
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let pair = pair.clone();
                let changes: Vec<Change> = if round % 5 == 4 {
                    pair.map(Change::Remove).into()
                } else {
                    pair.map(|id| upsert(Track { id, plays: round, ..a_track(1, &mut rng) })).into()
                };
                store.commit(&changes).unwrap();
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // So that the writer writes between any two reports of progress.
    let wait = |_: u64, _: u64| {
        let (now, patience) = (commits.load(Ordering::Relaxed), Instant::now());
        while commits.load(Ordering::Relaxed) == now && patience.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let plays = |store: &Store, name: &str| store.track(&id(name)).unwrap().map(|t| t.plays);
    let mut seen = Vec::new();
    for round in 0..12 {
        let reader = Store::read(&at("c")).unwrap();
        let copy = at(&format!("copy{round}"));
        if round % 2 == 0 {
            reader.backup(&copy, &mut wait.clone()).unwrap();
        } else {
            export(&reader, &at(&format!("out{round}")), Format::Parquet, 0, &mut wait.clone()).unwrap();
            import(&at(&format!("out{round}")), &copy, &mut quiet).unwrap();
        }
        let copy = Store::read(&copy).unwrap();
        assert_eq!(plays(&copy, "t00001"), plays(&copy, "t01501"), "round {round}: a torn copy");
        assert_eq!(copy.check().unwrap(), []);
        seen.push(plays(&copy, "t00001"));
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    seen.dedup();
    assert!(seen.len() > 3, "the writer wrote meanwhile: {seen:?}");
}

#[test]
fn killed_at_any_moment_backup_export_and_import_leave_nothing_or_all_under_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    drop(catalogue(&at("c"), 12_000));
    let whole = contents(&at("c"));
    json(dir.path(), 0, &["--catalogue", "c", "export", "exported", "--json"]);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (verb, arguments) in [
        ("backup", &["--catalogue", "c", "backup", "new"][..]),
        ("export", &["--catalogue", "c", "export", "new"]),
        ("import", &["--catalogue", "new", "import", "exported"]),
    ] {
        fs::remove_dir_all(at("new")).ok();
        let started = Instant::now();
        let (code, _, stderr) = run(dir.path(), arguments);
        assert_eq!(code, 0, "{stderr}");
        let takes = started.elapsed();
        let (mut early, mut late) = (0, 0);
        for _ in 0..7 {
            fs::remove_dir_all(at("new")).ok();
            let mut child =
                debut(dir.path()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(takes.mul_f64(rng.random_range(0.05..1.0)));
            child.kill().unwrap();
            child.wait().unwrap();
            if !at("new").exists() {
                early += 1;
                continue;
            }
            late += 1;
            if verb == "export" {
                fs::remove_dir_all(at("imported")).ok();
                import(&at("new"), &at("imported"), &mut quiet).unwrap();
                assert_eq!(contents(&at("imported")), whole);
            } else {
                assert_eq!(contents(&at("new")), whole);
            }
        }
        println!("{verb}: {early} killed before it was whole, {late} after; {takes:?} undisturbed");
        assert!(early > 0);
        fs::remove_dir_all(at("new")).ok();
        // What was left behind is in nobody's way.
        let (code, _, stderr) = run(dir.path(), arguments);
        assert_eq!(code, 0, "{stderr}");
    }
    assert_eq!(contents(&at("c")), whole);
}
