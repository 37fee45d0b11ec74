//! Logs as bad as they come, through the program: what can be used is used, the rest is counted and named, and nothing
//! ends in a panic or in half a result. The readers' own tests are beside them, in `src/events/read`.

use std::fs;
use std::path::Path;

use serde_json::Value;

mod common;
use common::run;

const HEADER: &str = "time,user,track,action,value\n";

/// Twelve listeners who meet eight tracks each.
fn good_rows() -> Vec<String> {
    let row = |i: usize| format!("{},u{:02},t{:02},play,1\n", 1_600_000_000 + i * 3600, i / 8, (i * 5 + i / 8) % 20);
    (0..96).map(row).collect()
}

/// What `debut factorize` reports, and its messages, of these rows.
fn factorize(folder: &Path, rows: &str) -> (i32, Option<Value>, String) {
    fs::write(folder.join("events.csv"), format!("{HEADER}{rows}")).unwrap();
    let _ = fs::remove_dir_all(folder.join("f"));
    let settings = ["--set", "als.dimensions=4", "--set", "als.iterations=3", "--json"];
    let (code, stdout, stderr) = run(folder, &[&["factorize", "events.csv", "--out", "f"][..], &settings].concat());
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(folder.join("f/factors.toml").is_file(), code == 0, "factors, or none: {stderr}");
    (code, serde_json::from_str(&stdout).ok(), stderr)
}

fn bytes_of_factors(folder: &Path) -> Vec<u8> {
    ["users.npy", "tracks.npy", "users.ids", "tracks.ids"].map(|f| fs::read(folder.join("f").join(f)).unwrap()).concat()
}

#[test]
fn reordered_rows_make_the_same_factors_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = good_rows();
    assert_eq!(factorize(dir.path(), &rows.concat()).0, 0);
    let expected = bytes_of_factors(dir.path());
    rows.reverse();
    rows.rotate_left(31);
    assert_eq!(factorize(dir.path(), &rows.concat()).0, 0);
    assert!(bytes_of_factors(dir.path()) == expected);
}

#[test]
fn duplicated_rows_are_plays_again_of_the_same_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let (once, twice) = (good_rows().concat(), good_rows().concat().repeat(2));
    let report = factorize(dir.path(), &once).1.unwrap();
    let plays = fs::read(dir.path().join("f/plays.npy")).unwrap();
    let again = factorize(dir.path(), &twice).1.unwrap();
    assert_eq!(
        (&again["users"], &again["tracks"], &again["left_out"]),
        (&report["users"], &report["tracks"], &0.into())
    );
    assert_eq!(fs::read(dir.path().join("f/plays.npy")).unwrap(), plays, "a track has no more listeners for it");
    assert_ne!(again["loss"], report["loss"], "but the more confidence");
}

#[test]
fn rows_that_make_no_sense_are_left_out_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = good_rows().concat();
    assert_eq!(factorize(dir.path(), &good).0, 0);
    let expected = bytes_of_factors(dir.path());
    for bad in [
        "4102444800,u00,t00,play,1\n",    // in 2100
        "1600000000000,u00,t00,play,1\n", // milliseconds
        "-1,u00,t00,play,1\n",
        "1600000000,u00,t00,play,-1\n",
        "1600000000,u00,t00,play,nan\n",
        "1600000000,u00,t00,play,inf\n",
        "1600000000,,t00,play,1\n",
        "1600000000,u00,,play,1\n",
        "1600000000,u00,t00,hum,1\n",
        "soon,u00,t00,play,1\n",
        "nan,u00,t00,play,1\n",
    ] {
        let (code, report, stderr) = factorize(dir.path(), &format!("{bad}{good}"));
        assert_eq!((code, &report.unwrap()["left_out"]), (0, &1.into()), "{bad}: {stderr}");
        assert!(stderr.contains("1 row left out") && stderr.contains("events.csv:2"), "{bad}: {stderr}");
        assert!(bytes_of_factors(dir.path()) == expected, "{bad}: as if it were not there");
        let strict = ["factorize", "events.csv", "--out", "strict", "--strict"];
        let (code, _, stderr) = run(dir.path(), &strict);
        assert!(code == 2 && stderr.contains("events.csv:2") && !dir.path().join("strict").exists(), "{bad}: {stderr}");
    }
}

#[test]
fn nothing_to_learn_from_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for (rows, says) in [
        ("", "at least one that carries weight"),
        ("1600000000,u,t,play,0\n", "at least one that carries weight"), // heard nothing
        ("1600000000,u,t,unlike,1\n", "at least one that carries weight"),
        ("-5,u,t,play,1\n", "1 row left out"),
    ] {
        let (code, report, stderr) = factorize(dir.path(), rows);
        assert!(code == 2 && report.is_none() && stderr.contains(says), "{rows:?}: {stderr}");
    }
    fs::write(dir.path().join("nothing.csv"), "").unwrap();
    let (code, _, stderr) = run(dir.path(), &["factorize", "nothing.csv", "--out", "f"]);
    assert!(code == 2 && stderr.contains("nothing.csv"), "{stderr}");
}

#[test]
fn the_smallest_logs_are_logs() {
    let dir = tempfile::tempdir().unwrap();
    let one_user: String = (0..5).map(|i| format!("1600000000,u,t{i},play,1\n")).collect();
    let one_song: String = (0..5).map(|i| format!("1600000000,u{i},t,play,1\n")).collect();
    for (rows, users, tracks) in
        [("1600000000,u,t,play,1\n", 1, 1), (one_user.as_str(), 1, 5), (one_song.as_str(), 5, 1)]
    {
        let (code, report, stderr) = factorize(dir.path(), rows);
        let report = report.unwrap_or_else(|| panic!("{code} {stderr}"));
        assert_eq!((&report["users"], &report["tracks"]), (&users.into(), &tracks.into()));
        assert!(report["loss"].as_array().unwrap().iter().all(|loss| loss.as_f64().is_some_and(f64::is_finite)));
    }
    // There is nothing to rank for them, and that is said.
    let (code, stdout, stderr) =
        run(dir.path(), &["evaluate", "factors", "--events", "events.csv", "--split", "random"]);
    assert!(code == 2 && stdout.is_empty() && stderr.contains("5 tracks"), "{stderr}");
}

#[test]
fn a_song_without_users_has_no_vector_and_one_that_was_only_skipped_a_zero() {
    let dir = tempfile::tempdir().unwrap();
    let more = "1600000000,u00,unheard,play,0\n1600000000,u00,taken back,unlike,1\n1600000000,u00,skipped,skip,1\n";
    assert_eq!(factorize(dir.path(), &(good_rows().concat() + more)).0, 0);
    let tracks = fs::read_to_string(dir.path().join("f/tracks.ids")).unwrap();
    let tracks: Vec<&str> = tracks.lines().collect();
    assert!(tracks.len() == 21 && tracks[0] == "skipped", "{tracks:?}");
    let vectors = fs::read(dir.path().join("f/tracks.npy")).unwrap();
    let first = &vectors[vectors.len() - 21 * 4 * 4..][..16];
    assert_eq!(first, [0; 16]);
}

#[test]
fn ids_may_hold_spaces_commas_and_emoji() {
    let dir = tempfile::tempdir().unwrap();
    let rename = |row: String| row.replace(",u", ",\"🎧 listener, no. ").replace(",t", "\",Ünïcödé 🎵 ");
    let rows: String = good_rows().into_iter().map(rename).collect();
    let (code, report, stderr) = factorize(dir.path(), &rows);
    assert_eq!((code, &report.unwrap()["left_out"]), (0, &0.into()), "{stderr}");
    let users = fs::read_to_string(dir.path().join("f/users.ids")).unwrap();
    assert_eq!(users.lines().nth(3), Some("🎧 listener, no. 03"));
    let handover = ["handover", "--factors", "f", "--events", "events.csv"];
    assert_eq!(run(dir.path(), &handover).0, 0);
    let (code, stdout, stderr) = run(dir.path(), &["recommend", "--user", "🎧 listener, no. 03", "-k", "2", "--json"]);
    assert!(code == 0 && stdout.contains("Ünïcödé 🎵 "), "{stderr}");
}
