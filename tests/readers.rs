//! Reading a catalogue where one may not write: without permission, and on a medium that is read-only; beside a live
//! writer, after one that was killed, and after one that ended. Linux only: the tests are another user, and mount.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::music;
use debut::artefact::SpaceId;
use debut::ids::TrackId;
use debut::store::{Change, Source, SpaceRow, Store, Track, TrackInfo};

fn a_track(name: &str) -> Change {
    Change::Upsert(Box::new(Track {
        id: TrackId::new(name).unwrap(),
        path: None,
        content: None,
        info: TrackInfo::default(),
        seconds: None,
        tiled: false,
        model: None,
        windows: None,
        predicted: None,
        length: None,
        confidence: None,
        vector: vec![0.6, 0.8],
        norm: 1.0,
        source: Source::Learned,
        plays: 0,
    }))
}

fn catalogue(folder: &Path) -> Store {
    let mut store = Store::open(folder).unwrap();
    let space = SpaceRow { id: SpaceId::named("space"), dimensions: 2, description: "{}".into() };
    store.set_space(&space).unwrap();
    store.commit(&[a_track("first")]).unwrap();
    store
}

fn root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// `debut` as somebody who may read and not write what this process owns.
fn stranger(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_debut");
    let mut command = if root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    let output = command.current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Whether this process can be a stranger; as root it takes setpriv (util-linux), and a program that others may run.
fn strangers_can_run(folder: &Path) -> bool {
    let can = !root()
        || Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_debut"), "--version"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
    if !can {
        println!("skipped: setpriv cannot run the program as another user");
    }
    can
}

/// May be read by all, and written by root alone; by nobody where this process is not root.
fn lock_up(folder: &Path, locked: bool) {
    let bits = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    bits(folder.parent().unwrap(), 0o755);
    let (of_folder, of_file) = if root() || !locked { (0o755, 0o644) } else { (0o555, 0o444) };
    for entry in fs::read_dir(folder).unwrap() {
        bits(&entry.unwrap().path(), of_file);
    }
    bits(folder, of_folder);
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_reader_without_write_permission_sees_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if !strangers_can_run(dir.path()) {
        return;
    }
    let folder = dir.path().join("c");
    let tracks = |expected: usize, when: &str| {
        let (code, stdout, stderr) = stranger(dir.path(), &["--catalogue", "c", "status", "--tracks"]);
        assert!(code == 0 && stdout.lines().count() == expected, "{when}: {code} {stdout} {stderr}");
        let (code, stdout, stderr) = stranger(dir.path(), &["--catalogue", "c", "check"]);
        assert_eq!((code, stdout.as_str()), (0, "c: all is well\n"), "{when}: {stderr}");
    };
    let mut store = catalogue(&folder);
    store.commit(&[a_track("second")]).unwrap();
    lock_up(&folder, true);
    tracks(2, "beside a live writer");
    lock_up(&folder, false);
    drop(store);
    assert_eq!(names(&folder), ["catalogue.sqlite", "writer.lock"]);
    lock_up(&folder, true);
    tracks(2, "after a writer who ended");
    assert_eq!(names(&folder), ["catalogue.sqlite", "writer.lock"], "a stranger leaves nothing behind");

    // A log that was left behind, with its shared memory and without.
    lock_up(&folder, false);
    let killed = dir.path().join("k");
    fs::create_dir(&killed).unwrap();
    let mut store = Store::open(&folder).unwrap();
    store.commit(&[a_track("third")]).unwrap();
    for name in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "writer.lock"] {
        fs::copy(folder.join(name), killed.join(name)).unwrap();
    }
    drop(store);
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&killed, &folder).unwrap();
    lock_up(&folder, true);
    tracks(3, "after a writer who was killed");
    lock_up(&folder, false);
    fs::remove_file(folder.join("catalogue.sqlite-shm")).unwrap();
    lock_up(&folder, true);
    tracks(3, "with a log alone");
    assert_eq!(names(&folder), ["catalogue.sqlite", "catalogue.sqlite-wal", "writer.lock"]);

    let unreadable = folder.join("catalogue.sqlite");
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
    let (code, _, stderr) = stranger(dir.path(), &["--catalogue", "c", "status"]);
    assert!(code == 2 && stderr.contains("catalogue.sqlite: Permission denied"), "{stderr}");
    lock_up(&folder, false);
}

/// A stranger who stays: questions on standard input, answers on standard output.
#[test]
fn a_reader_without_write_permission_notices_a_writer() {
    use std::io::{BufRead, BufReader, Write};
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if !strangers_can_run(dir.path()) || !root() {
        println!("skipped: this process cannot write where a child of its cannot");
        return;
    }
    // A real catalogue, for a real recommender.
    let songs = music(dir.path(), 3);
    let ingest = |path: &str| {
        let out = common::debut(dir.path()).args(["--catalogue", "c", "ingest", path]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    ingest("music");
    let folder = dir.path().join("c");
    let first = {
        let mut ids = Vec::new();
        let store = Store::read(&folder).unwrap();
        store
            .for_each_track(&mut |_, track| {
                ids.push(track.id.to_string());
                Ok(())
            })
            .unwrap();
        ids[0].clone()
    };
    assert_eq!(names(&folder).iter().filter(|n| n.starts_with("catalogue")).count(), 1, "no writer, no log");
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_debut")])
        .args(["--catalogue", "c", "recommend", "--queries", "-", "--json"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ask = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let mut found = || {
        writeln!(ask, "{{\"track\": \"{first}\", \"k\": 100}}").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        answer["recommendations"].as_array().unwrap_or_else(|| panic!("{line}")).len()
    };
    assert_eq!(found(), 2);
    // Three writers, who come and go; then one who stays.
    for (new, expected) in [(10, 3), (11, 4), (12, 5)] {
        common::write_song(&songs.join(format!("{new}.wav")), new);
        ingest("music");
        let (started, mut now) = (Instant::now(), found());
        while now != expected && started.elapsed() < Duration::from_secs(1) {
            now = found();
        }
        assert_eq!(now, expected, "a second after it was acknowledged");
    }
    let mut store = Store::open(&folder).unwrap();
    let any = store.track(&TrackId::new(first.clone()).unwrap()).unwrap().unwrap();
    for i in 0..5 {
        let new = Track { id: TrackId::new(format!("new {i}")).unwrap(), ..any.clone() };
        store.commit(&[Change::Upsert(Box::new(new))]).unwrap();
        assert_eq!(found(), 6 + i);
    }
    drop(store);
    assert_eq!(found(), 10);
    drop(ask);
    assert!(child.wait().unwrap().success());
}

/// Runs a script where it may mount; `None` where that is not possible.
fn in_a_namespace(folder: &Path, script: &str) -> Option<(i32, String, String)> {
    let unshare = |script: &str| {
        // Without root, as root of a namespace of its own.
        let mine: &[&str] = if root() { &["-m"] } else { &["-rm"] };
        Command::new("unshare").args(mine).args(["sh", "-ec", script]).current_dir(folder).output()
    };
    let possible = unshare("mount -t tmpfs tmpfs /mnt").is_ok_and(|o| o.status.success());
    if !possible {
        println!("skipped: no file system can be mounted here (unshare, mount)");
        return None;
    }
    let output = unshare(script).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
}

#[test]
fn a_read_only_medium_serves_the_newest_state_also_from_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("c");
    let mut store = catalogue(&folder);
    store.checkpoint().unwrap();
    store.commit(&[a_track("second, in the log alone")]).unwrap();
    let program = env!("CARGO_BIN_EXE_debut");
    // The writer lives, so his files are as a kill would leave them; a copy of them is what a medium is made of.
    for (without, expected) in [("", 2), ("catalogue.sqlite-shm", 2)] {
        let script = format!(
            "mount -t tmpfs tmpfs /mnt && cp -r c /mnt/c && rm -f /mnt/c/{without} 2>/dev/null || true
             mount -o remount,ro,bind /mnt
             '{program}' --catalogue /mnt/c status --tracks
             '{program}' --catalogue /mnt/c check"
        );
        let Some((code, stdout, stderr)) = in_a_namespace(dir.path(), &script) else { return };
        assert!(code == 0 && stdout.lines().count() == expected + 1, "without {without}: {code} {stdout} {stderr}");
    }
    // The writer's own folder, mounted read-only for a reader beside him: live, not a copy.
    let script = format!(
        "mount --bind c /mnt && mount -o remount,ro,bind /mnt
         '{program}' --catalogue /mnt status --tracks"
    );
    let (code, stdout, stderr) = in_a_namespace(dir.path(), &script).unwrap();
    assert!(code == 0 && stdout.lines().count() == 2, "{code} {stdout} {stderr}");
    drop(store);
    let script = format!(
        "mount -t tmpfs tmpfs /mnt && cp -r c /mnt/c && mount -o remount,ro,bind /mnt
         '{program}' --catalogue /mnt/c status --tracks && '{program}' --catalogue /mnt/c check"
    );
    let (code, stdout, stderr) = in_a_namespace(dir.path(), &script).unwrap();
    assert!(code == 0 && stdout.lines().count() == 3, "without a log: {code} {stdout} {stderr}");
}

#[test]
fn a_full_disk_leaves_no_half_backup_export_or_import() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = catalogue(&dir.path().join("c"));
    // Directions that cannot be compressed away.
    let many = (0..40_000).map(|i| {
        let (y, x) = (i as f32).sin_cos();
        match a_track(&format!("a track with a rather long id {i:06}")) {
            Change::Upsert(track) => Change::Upsert(Box::new(Track { vector: vec![x, y], ..*track })),
            other => other,
        }
    });
    let many: Vec<Change> = many.collect();
    store.commit(&many).unwrap();
    store.checkpoint().unwrap();
    let program = env!("CARGO_BIN_EXE_debut");
    let script = format!(
        "'{program}' --catalogue c export exported
         mount -t tmpfs -o size=192k tmpfs /mnt
         for verb in 'backup /mnt/new' 'export /mnt/new' '--catalogue /mnt/new import exported'; do
             code=0; DEBUT_CATALOGUE=c '{program}' $verb || code=$?
             echo \"$code $(ls -A /mnt | wc -l)\"
         done"
    );
    let Some((code, stdout, stderr)) = in_a_namespace(dir.path(), &script) else { return };
    let told: Vec<&str> = stdout.lines().skip(1).collect();
    assert!(code == 0 && told == ["2 0"; 3], "{code} {stdout} {stderr}");
    assert!(stderr.contains("No space left") || stderr.contains("disk is full"), "{stderr}");
}
