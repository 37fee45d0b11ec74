//! A small world in which every verb that changes a catalogue takes a fraction of a second, and what each of them promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use debut::artefact::{SpaceId, atomic_write};
use debut::encoder::{Model, ModelConfig, Weights};
use debut::events::ConfidenceConfig;
use debut::factors::{AlsConfig, Factors, Ridge, Space};
use debut::ids::{TrackId, UserId};
use debut::store::{Listener, SpaceRow, Store, Track};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::{debut, write_song};

/// Songs of a [`Small`] world.
pub const SONGS: usize = 24;
const LISTENERS: usize = 12;
/// Tracks that are known from plays alone.
const OLD: usize = 6;
/// Small commits, so that most of a run lies between the first and the last of them; lists and a graph of few songs.
const SETTINGS: &str = "[ingest]\nbatch = 4\nworkers = 2\n[index]\nlists_above = 8\ngraph = true\n";

/// A folder with a model of 22 KB, songs, manifests, factors and events. Catalogues are made in its folder `disk`.
pub struct Small {
    path: PathBuf,
    /// Removed with this, by the process that made it.
    _dir: Option<tempfile::TempDir>,
}

/// A verb that writes.
pub struct Verb {
    pub name: &'static str,
    /// What was run before it, undisturbed.
    pub before: &'static [&'static [&'static str]],
    /// What is run; `{}` is the folder of the catalogue.
    pub arguments: &'static [&'static str],
    /// Its exit code.
    pub code: i32,
    /// The lines on standard output that acknowledge a track have one of these as their `status`.
    pub acknowledges: &'static [&'static str],
    /// All of its work appears at once, or none.
    pub at_once: bool,
    /// It may be run again when its work is done.
    pub again: bool,
}

const INGEST: &[&str] = &["ingest", "--manifest", "tracks.csv", "--json"];
const HANDOVER: &[&str] = &["handover", "--factors", "factors", "--events", "events.csv", "--json"];
const REINDEX: &[&str] = &["reindex", "--model", "model-other", "--json"];
const EXPORT: &[&str] = &["export", "{}/export", "--json"];
/// Every second song goes, which leaves holes.
const REMOVE: &[&str] = &[
    "remove", "--json", "song-0", "song-1", "song-2", "song-3", "song-5", "song-7", "song-11", "song-13", "song-17",
    "song-19",
];

/// What the tests kill, and what they run on failing disks.
pub const VERBS: &[Verb] = &[
    Verb {
        // One of the files is broken.
        code: 1,
        acknowledges: &["added", "skipped"],
        ..step_by_step("ingest", &[], INGEST)
    },
    Verb {
        acknowledges: &["replaced", "skipped"],
        ..step_by_step(
            "ingest of other songs under the same ids",
            &[INGEST, HANDOVER],
            &["ingest", "--manifest", "other.csv", "--json"],
        )
    },
    Verb { acknowledges: &["removed", "not_there"], ..step_by_step("remove", &[INGEST], REMOVE) },
    step_by_step("handover", &[INGEST], HANDOVER),
    at_once("reindex", &[INGEST, HANDOVER], REINDEX),
    at_once(
        "reindex into another space",
        &[INGEST, HANDOVER],
        &[
            "reindex",
            "--model",
            "model-elsewhere",
            "--factors",
            "factors-elsewhere",
            "--events",
            "events.csv",
            "--json",
        ],
    ),
    Verb { again: false, ..at_once("reindex --back", &[INGEST, HANDOVER, REINDEX], &["reindex", "--back", "--json"]) },
    at_once("compact", &[INGEST, HANDOVER, REINDEX, REMOVE], COMPACT),
    Verb { again: false, ..at_once("backup", &[INGEST, HANDOVER], &["backup", "{}/copy", "--json"]) },
    Verb { again: false, ..at_once("export", &[INGEST, HANDOVER], EXPORT) },
    Verb {
        again: false,
        ..at_once("import", &[INGEST, HANDOVER, EXPORT], &["import", "{}/export", "--catalogue", "{}/copy", "--json"])
    },
];

/// All of them, or the one that `DEBUT_TEST_VERB` names.
pub fn verbs() -> impl Iterator<Item = &'static Verb> {
    let name = std::env::var("DEBUT_TEST_VERB").ok();
    VERBS.iter().filter(move |verb| name.as_deref().is_none_or(|name| verb.name == name))
}

/// Changes nothing that a reader sees.
const COMPACT: &[&str] = &["compact", "--json"];

type Arguments = &'static [&'static str];

const fn step_by_step(name: &'static str, before: &'static [Arguments], arguments: Arguments) -> Verb {
    Verb { name, before, arguments, code: 0, acknowledges: &[], at_once: false, again: true }
}

const fn at_once(name: &'static str, before: &'static [Arguments], arguments: Arguments) -> Verb {
    Verb { at_once: true, ..step_by_step(name, before, arguments) }
}

impl Small {
    pub fn new() -> Small {
        Small::at(tempfile::tempdir().unwrap())
    }

    /// In memory, where the system has such a place: for what does not ask how long a disk takes.
    pub fn in_memory() -> Small {
        Small::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    /// That of another process.
    pub fn open(path: &Path) -> Small {
        Small { path: path.to_path_buf(), _dir: None }
    }

    fn at(dir: tempfile::TempDir) -> Small {
        let small = Small { path: dir.path().to_path_buf(), _dir: Some(dir) };
        let at = |name: &str| small.path.join(name);
        fs::write(at("settings.toml"), SETTINGS).unwrap();
        fs::create_dir(at("disk")).unwrap();
        let mut manifests = [String::new(), String::new()];
        for (songs, manifest) in manifests.iter_mut().enumerate() {
            *manifest = "path,id,title,artist,language\n".to_string();
            for i in 0..SONGS {
                let path = format!("music-{songs}/{i}.wav");
                write_song(&at(&path), i + songs * SONGS);
                *manifest += &format!("{path},song-{i},Song {i},Artist {},{}\n", i % 5, ["en", "de"][i % 2]);
            }
        }
        fs::write(at("broken.ogg"), "OggS but not for long").unwrap();
        fs::write(at("tracks.csv"), format!("{}broken.ogg,broken,,,\n", manifests[0])).unwrap();
        fs::write(at("other.csv"), &manifests[1]).unwrap();

        let factors = factors("space-golden");
        factors.save(&at("factors")).unwrap();
        let elsewhere = self::factors("space-elsewhere");
        elsewhere.save(&at("factors-elsewhere")).unwrap();
        let mut events = "time,user,track,action,value\n".to_string();
        for user in 0..LISTENERS {
            for track in 0..SONGS + OLD {
                if (user + track) % 3 == 0 {
                    let track = &factors.tracks[track];
                    events += &format!("{},listener-{user},{track},play,1\n", 1_700_000_000 + user);
                }
            }
        }
        fs::write(at("events.csv"), events).unwrap();

        let golden = || Model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-model")).unwrap();
        save_model(&at("model"), golden(), &factors.space());
        for (name, space, seed) in [("model-other", factors.space(), 3), ("model-elsewhere", elsewhere.space(), 4)] {
            let config = ModelConfig { name: name.into(), space: space.id.clone(), ..golden().config };
            let weights = Weights::random(&config.encoder, seed);
            save_model(&at(name), Model::new(config, &weights).unwrap(), &space);
        }
        small
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the catalogue of this name.
    pub fn catalogue(&self, name: &str) -> PathBuf {
        self.path().join("disk").join(name)
    }

    /// The program, about to run the verb on the catalogue of this name.
    pub fn command(&self, catalogue: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = debut(self.path());
        command
            .env("DEBUT_MODEL", self.path().join("model"))
            .env("DEBUT_CATALOGUE", self.catalogue(catalogue))
            .args(["--config", "settings.toml"])
            .args(arguments.iter().map(|argument| argument.replace("{}", self.catalogue(catalogue).to_str().unwrap())));
        command
    }

    /// Makes the catalogue of this name as it is before the verb.
    pub fn prepare(&self, verb: &Verb, catalogue: &str) {
        for arguments in verb.before {
            let done = self.command(catalogue, arguments).output().unwrap();
            assert!(done.status.code().is_some_and(|code| code < 2), "{arguments:?}: {done:?}");
        }
    }

    /// What a run of the verb that nothing disturbs makes of it: before and after; and how long it takes.
    pub fn undisturbed(&self, verb: &Verb) -> (Contents, Contents, Duration) {
        let name = format!("undisturbed {}", verb.name);
        self.prepare(verb, &name);
        let before = Contents::of(&self.catalogue(&name));
        let started = Instant::now();
        let done = self.command(&name, verb.arguments).output().unwrap();
        let takes = started.elapsed();
        assert_eq!(done.status.code(), Some(verb.code), "{}: {done:?}", verb.name);
        let after = Contents::of(&self.catalogue(&name));
        assert!(before != after || verb.arguments == COMPACT, "{} changes nothing", verb.name);
        (before, after, takes)
    }

    /// Looks whether an interrupted run of the verb has left what it may (see [`Contents::lies_between`]).
    pub fn interrupted(
        &self,
        verb: &Verb,
        catalogue: &str,
        (before, after): (&Contents, &Contents),
        acknowledged: &BTreeSet<String>,
    ) -> Result<Contents, String> {
        let found = Contents::read(&self.catalogue(catalogue)).map_err(|e| e.to_string())?;
        found.lies_between(before, after, acknowledged)?;
        if verb.at_once && found != *before && found != *after {
            return Err("a part of what appears at once".into());
        }
        Ok(found)
    }

    /// Runs the verb to its end on a catalogue on which it was interrupted, and looks whether that is the undisturbed one.
    pub fn complete(&self, verb: &Verb, catalogue: &str, after: &Contents) {
        if verb.again || Contents::of(&self.catalogue(catalogue)) != *after {
            let done = self.command(catalogue, verb.arguments).output().unwrap();
            // What is already removed is not there, says the second run, and exits with 1.
            assert!(done.status.code().is_some_and(|code| code < 2), "{} again: {done:?}", verb.name);
            assert_eq!(&Contents::of(&self.catalogue(catalogue)), after, "{} again", verb.name);
        }
        self.check(catalogue);
    }

    /// What `debut check` looks at must be well.
    pub fn check(&self, catalogue: &str) {
        let problems = problems(&self.catalogue(catalogue));
        assert!(problems.is_empty(), "{problems:?}");
        let copy = self.catalogue(catalogue).join("copy");
        if copy.exists() {
            let problems = self::problems(&copy);
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    /// The same, by the program.
    pub fn check_by_program(&self, catalogue: &str) {
        let done = self.command(catalogue, &["check", "--json"]).output().unwrap();
        let says: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        assert_eq!(says["ok"], true, "{done:?}");
    }
}

/// A model, and beside it the space that it predicts into.
fn save_model(folder: &Path, mut model: Model, space: &Space) {
    let space = serde_json::to_vec(space).unwrap();
    model.config.space_json = blake3::hash(&space).to_hex().to_string();
    model.save(folder).unwrap();
    atomic_write(&folder.join("space.json"), |out| std::io::Write::write_all(out, &space)).unwrap();
}

/// Of seeded noise: those of a small world.
pub fn factors(space: &str) -> Factors {
    let mut rng = ChaCha8Rng::seed_from_u64(space.len() as u64);
    let mut noise = |n: usize| Array2::from_shape_simple_fn((n, 40), || rng.random_range(-1.0..1.0f32));
    let songs = (0..SONGS).map(|i| format!("song-{i}"));
    Factors {
        space: SpaceId::named(space),
        wandered: 0.0,
        config: AlsConfig::default(),
        // JSON and TOML know no infinity; half-lives are finite by default.
        confidence: ConfidenceConfig::default(),
        user_ridge: Ridge::plain(3.0),
        track_ridge: Ridge::plain(3.0),
        users: (0..LISTENERS).map(|i| UserId::new(format!("listener-{i}")).unwrap()).collect(),
        user_factors: noise(LISTENERS),
        tracks: songs.chain((0..OLD).map(|i| format!("old-{i}"))).map(|id| TrackId::new(id).unwrap()).collect(),
        track_factors: noise(SONGS + OLD),
        plays: vec![4; SONGS + OLD],
        held_out: Vec::new(),
    }
}

/// All that a catalogue holds, but for numbers that depend on the order in which files were heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub space: Option<SpaceRow>,
    /// By id, all fields, vectors to the bit.
    pub tracks: BTreeMap<String, Track>,
    pub listeners: BTreeMap<String, Listener>,
    /// Ids that were taken out.
    pub removed: BTreeSet<String>,
    /// Paths that failed, and why.
    pub failures: BTreeMap<PathBuf, String>,
    /// What lies in the folder `copy` of the catalogue's folder, a catalogue, and in `export`.
    pub copies: BTreeMap<&'static str, Contents>,
}

impl Contents {
    /// Those of the catalogue in `folder`; nothing where there is none, or one whose maker was killed before it had tables.
    pub fn of(folder: &Path) -> Contents {
        Contents::read(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    }

    pub fn read(folder: &Path) -> debut::Result<Contents> {
        let mut all = Contents::read_one(folder)?;
        if folder.join("copy").exists() {
            all.copies.insert("copy", Contents::read_one(&folder.join("copy"))?);
        }
        if folder.join("export").exists() {
            let imported = tempfile::tempdir().unwrap();
            debut::exchange::import(&folder.join("export"), imported.path(), &mut |_, _| Ok(()))?;
            all.copies.insert("export", Contents::read_one(imported.path())?);
        }
        Ok(all)
    }

    fn read_one(folder: &Path) -> debut::Result<Contents> {
        let store = match Store::read(folder) {
            Err(debut::Error::NotFound { .. }) => return Ok(Contents::default()),
            // Tables and version appear in one transaction.
            Err(debut::Error::Format { found, .. }) if found == "0" => return Ok(Contents::default()),
            store => store?,
        };
        let mut all = Contents { space: store.space()?, ..Contents::default() };
        store.for_each_track(&mut |_, track| {
            all.tracks.insert(track.id.to_string(), track);
            Ok(())
        })?;
        let mut ids = Vec::new();
        store.for_each_listener(&mut |id, _| ids.push(id))?;
        for id in ids {
            if let Some(mut listener) = store.listener(&id)? {
                listener.history.sort_by(|a, b| a.track.cmp(&b.track));
                all.listeners.insert(id.to_string(), listener);
            }
        }
        for i in 0..SONGS {
            let id = TrackId::new(format!("song-{i}"))?;
            if store.is_removed(&id)? {
                all.removed.insert(id.to_string());
            }
        }
        all.failures = store.failures()?.into_iter().map(|failure| (failure.path, failure.reason)).collect();
        Ok(all)
    }

    /// What an interrupted run may leave: every track as it was before or as it is after, those that were acknowledged as
    /// they are after; and the listeners all the one or all the other. Says what is otherwise.
    pub fn lies_between(
        &self,
        before: &Contents,
        after: &Contents,
        acknowledged: &BTreeSet<String>,
    ) -> Result<(), String> {
        let known: BTreeSet<&String> =
            before.tracks.keys().chain(after.tracks.keys()).chain(self.tracks.keys()).collect();
        for id in known {
            let [was, is, becomes] = [before, self, after].map(|contents| contents.tracks.get(id));
            if acknowledged.contains(id) && is != becomes {
                return Err(format!("acknowledged, then lost: {id}\nis {is:?}\nnot {becomes:?}"));
            }
            if is != was && is != becomes {
                return Err(format!("neither old nor new: {id}\nis {is:?}\nwas {was:?}\nbecomes {becomes:?}"));
            }
        }
        if self.listeners != before.listeners && self.listeners != after.listeners {
            return Err("the listeners are neither the old nor the new".into());
        }
        for copy in ["copy", "export"] {
            let [was, is, becomes] = [before, self, after].map(|contents| contents.copies.get(copy));
            if is != was && is != becomes {
                return Err(format!("half of a {copy}: {is:?}"));
            }
        }
        if !(self.removed.is_superset(&before.removed) && self.removed.is_subset(&after.removed)) {
            return Err(format!("removed: {:?}", self.removed));
        }
        Ok(())
    }
}

/// What `debut check` says of the catalogue, without the process.
pub fn problems(folder: &Path) -> Vec<String> {
    let mut problems = match Store::read(folder).and_then(|store| store.check()) {
        Ok(problems) => problems.iter().map(|problem| problem.to_string()).collect(),
        Err(e) => vec![e.to_string()],
    };
    problems.extend(debut::index::check(folder).err().map(|e| e.to_string()));
    problems
}

/// The tracks that these lines of a verb acknowledge; a line that was cut is none.
pub fn acknowledged<'a>(verb: &Verb, lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["status"].as_str().is_some_and(|status| verb.acknowledges.contains(&status)))
        .filter_map(|line| line["track"].as_str().map(str::to_string))
        .collect()
}

/// How often, unless the environment says otherwise.
pub fn number_from_environment(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Copies a folder and what is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
