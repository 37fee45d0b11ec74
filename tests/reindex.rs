//! Another model, another space: built beside what is served, swapped under a running service, and back.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{json, music, run};
use debut::encoder::{Model, ModelConfig, Weights};
use debut::factors::{Factors, Space};
use debut::ids::{TrackId, UserId};
use debut::index::{Filter, IndexConfig};
use debut::recommend::{Query, RecommendConfig, Recommender};
use debut::store::{Source, Store};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/game-music");

/// A model of random weights that predicts into `space`.
fn model(folder: &Path, name: &str, space: &Space, seed: u64) {
    let mut config: ModelConfig =
        toml::from_str(&std::fs::read_to_string(Path::new(SHIPPED).join("model.toml")).unwrap()).unwrap();
    (config.name, config.space, config.encoder.dimensions) = (name.into(), space.id.clone(), space.dimensions);
    let (weights, described) = (Weights::random(&config.encoder, seed), serde_json::to_vec(space).unwrap());
    config.space_json = blake3::hash(&described).to_hex().to_string();
    let dir = folder.join(name);
    Model::new(config, &weights).unwrap().save(&dir).unwrap();
    std::fs::write(dir.join("space.json"), described).unwrap();
}

fn shipped_space() -> Space {
    serde_json::from_slice(&std::fs::read(Path::new(SHIPPED).join("space.json")).unwrap()).unwrap()
}

/// Ten songs with names, and what four listeners did with eight of them.
fn songs_and_events(folder: &Path) {
    let music = music(folder, 10);
    let mut manifest = "path,id,artist\n".to_string();
    let mut events = "user,track,action,time\n".to_string();
    for i in 0..10 {
        let path = music.join(format!("album 0/song {i:03}.wav"));
        manifest += &format!("{},song {i},artist {}\n", path.display(), i % 3);
        for user in 0..4 {
            if i < 8 && (i + user) % 2 == 0 {
                events += &format!("user {user},song {i},play,{}\n", 1_700_000_000 + i * 86_400);
            }
        }
    }
    std::fs::write(folder.join("songs.csv"), manifest).unwrap();
    std::fs::write(folder.join("events.csv"), events).unwrap();
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_new_space_goes_live_under_a_running_service_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    songs_and_events(folder);
    json(folder, 0, &["ingest", "--manifest", "songs.csv", "--cache", "mels", "--json"]);
    let mut service =
        Recommender::open(&folder.join("catalogue"), &IndexConfig::default(), &RecommendConfig::default()).unwrap();
    let listener = Query::User(UserId::new("user 1").unwrap());
    assert!(service.recommend(&listener, 3, &Filter::default()).is_err(), "nobody has listened yet");

    let (code, _, said) = run(
        folder,
        &["factorize", "events.csv", "--out", "factors", "--set", "als.dimensions=8", "--set", "als.iterations=3"],
    );
    assert_eq!(code, 0, "{said}");
    let space = Factors::load(&folder.join("factors")).unwrap().space();
    model(folder, "next", &space, 1);
    // The audio goes to an archive: the spectrograms are enough.
    std::fs::rename(folder.join("music"), folder.join("archive")).unwrap();

    let told = json(
        folder,
        0,
        &["reindex", "--model", "next", "--cache", "mels", "--factors", "factors", "--events", "events.csv", "--json"],
    );
    assert_eq!((&told[0]["served"], &told[0]["heard"], &told[0]["missing"]), (&true.into(), &10.into(), &0.into()));
    wait_until("the service goes over to the new space", || {
        service.refresh().unwrap();
        service.space().id == space.id
    });
    let list = service.recommend(&listener, 3, &Filter::default()).unwrap();
    assert!(list.len() == 3 && list.iter().any(|r| !r.because.is_empty()), "{list:?}");
    assert_eq!(json(folder, 0, &["check", "--json"])[0]["ok"], true);

    // The model of the space before has no place here any more.
    std::fs::rename(folder.join("archive"), folder.join("music")).unwrap();
    let (code, _, said) = run(folder, &["ingest", "music"]);
    assert!(code == 2 && said.contains("reindex"), "{said}");
    // And another space needs what is known from plays.
    model(folder, "third", &shipped_space(), 2);
    let (code, _, said) = run(folder, &["reindex", "--model", "third", "--cache", "mels"]);
    assert!(code == 2 && said.contains("--factors"), "{said}");

    let back = json(folder, 0, &["reindex", "--back", "--json"]);
    assert_eq!((&back[0]["tracks"], &back[0]["missing"]), (&10.into(), &0.into()));
    wait_until("the service goes back", || {
        service.refresh().unwrap();
        service.space().id == shipped_space().id
    });
    json(folder, 0, &["ingest", "music", "--json"]);
    assert_eq!(service.len(), 10);
    assert!(json(folder, 0, &["status", "--json"])[0]["previous_space"] == space.id.as_str());
    assert_eq!(json(folder, 0, &["compact", "--json"])[0]["generations_dropped"], 1);
    let (code, _, said) = run(folder, &["reindex", "--back"]);
    assert!(code == 2 && said.contains("no such earlier generation"), "{said}");
    assert_eq!(json(folder, 0, &["check", "--json"])[0]["ok"], true);
}

#[test]
fn a_killed_build_goes_on_and_what_cannot_be_heard_stops_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    songs_and_events(folder);
    json(folder, 0, &["ingest", "--manifest", "songs.csv", "--json"]);
    let space = Space { id: debut::artefact::SpaceId::named("space-other"), ..shipped_space() };
    model(folder, "next", &space, 1);
    let gone = folder.join("music/album 0/song 004.wav");
    std::fs::rename(&gone, folder.join("kept.wav")).unwrap();
    let catalogue = folder.join("catalogue");
    let before = Store::read(&catalogue).unwrap().identity().unwrap();

    let told = json(folder, 1, &["reindex", "--model", "next", "--json"]);
    assert_eq!((&told[0]["served"], &told[0]["heard"], &told[0]["missing"]), (&false.into(), &9.into(), &1.into()));
    assert_eq!(Store::read(&catalogue).unwrap().identity().unwrap(), before);
    let (code, said, _) = run(folder, &["reindex", "--model", "next"]);
    assert!(code == 1 && said.contains("0 heard") && said.contains("--leave-out"), "what was built is there: {said}");
    std::fs::rename(folder.join("kept.wav"), &gone).unwrap();
    let told = json(folder, 0, &["reindex", "--model", "next", "--json"]);
    assert_eq!((&told[0]["served"], &told[0]["heard"], &told[0]["tracks"]), (&true.into(), &1.into(), &10.into()));
    assert_ne!(Store::read(&catalogue).unwrap().identity().unwrap(), before);
}

#[test]
fn a_hand_over_keeps_file_and_words_of_a_track_that_the_new_space_could_not_hear() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    songs_and_events(folder);
    json(folder, 0, &["ingest", "--manifest", "songs.csv", "--json"]);
    let (code, _, said) = run(
        folder,
        &["factorize", "events.csv", "--out", "factors", "--set", "als.dimensions=8", "--set", "als.iterations=3"],
    );
    assert_eq!(code, 0, "{said}");
    model(folder, "next", &Factors::load(&folder.join("factors")).unwrap().space(), 1);
    std::fs::rename(folder.join("music/album 0/song 003.wav"), folder.join("kept.wav")).unwrap();
    let handed_over = ["--factors", "factors", "--events", "events.csv", "--json"];
    let reindex =
        |more: &[&str], code| json(folder, code, &[&["reindex", "--model", "next"], &handed_over[..], more].concat());
    let catalogue = folder.join("catalogue");
    let three = TrackId::new("song 3").unwrap();
    let before = Store::read(&catalogue).unwrap().track(&three).unwrap().unwrap();
    assert_eq!(reindex(&[], 1)[0]["missing"], 1);
    assert_eq!(Store::read(&catalogue).unwrap().track(&three).unwrap().unwrap(), before, "nothing has changed");
    reindex(&["--leave-out"], 0);
    json(folder, 0, &[&["handover"], &handed_over[..]].concat());
    let after = Store::read(&catalogue).unwrap().track(&three).unwrap().unwrap();
    assert_eq!((after.info, after.path, after.content), (before.info, before.path, before.content));
    assert_eq!(after.source, Source::Learned);
    std::fs::rename(folder.join("kept.wav"), folder.join("music/album 0/song 003.wav")).unwrap();
    json(folder, 0, &["ingest", "music", "--model", "next", "--json"]);
    let heard = Store::read(&catalogue).unwrap().track(&three).unwrap().unwrap();
    assert!(heard.predicted.is_some() && heard.info.artist.as_deref() == Some("artist 0"));
    assert_eq!(Store::read(&catalogue).unwrap().len().unwrap(), 10);
}
