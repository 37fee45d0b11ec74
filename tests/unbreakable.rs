//! Nothing that a file is, claims or does stops the job: that file fails with its reason, the rest goes on, and the exit
//! code says that some failed.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{debut, json, music, run, write_song};
use debut::Error;
use debut::audio::{FrontEnd, Listening, hear};
use ndarray::Array2;
use ndarray_npy::ReadNpyExt;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn each_strange_file_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = music(dir.path(), 3);
    let at = |name: &str| folder.join(name);
    // Good ones under unusual names.
    write_song(&folder.join(OsStr::from_bytes(b"not utf-8 \xff\xfe.wav")), 10);
    write_song(&at("new\nline.wav"), 11);
    let mut bad = vec!["empty.mp3", "loop", "nowhere.ogg", "page.m4a", "pipe.wav", "zero.flac"];
    fs::write(at("empty.mp3"), "").unwrap();
    fs::write(at("page.m4a"), "<html>404</html>".repeat(100)).unwrap();
    fs::create_dir(at("folder.mp3")).unwrap();
    symlink(".", at("loop")).unwrap();
    symlink("gone.ogg", at("nowhere.ogg")).unwrap();
    symlink("/dev/zero", at("zero.flac")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.wav")).status().unwrap().success());
    write_song(&at("secret.wav"), 12);
    fs::set_permissions(at("secret.wav"), fs::Permissions::from_mode(0o000)).unwrap();
    // Whoever may read everything (root) has no unreadable file.
    let readable = fs::File::open(at("secret.wav")).is_ok();
    if !readable {
        bad.push("secret.wav");
    }

    let lines = json(dir.path(), 1, &["--catalogue", "c", "ingest", "music", "--json"]);
    let with = |status: &str| lines.iter().filter(|l| l["status"] == status).collect::<Vec<_>>();
    assert_eq!(with("added").len(), 5 + usize::from(readable), "{lines:?}");
    let mut failed: Vec<&str> =
        with("failed").iter().map(|l| l["path"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    failed.sort();
    bad.sort();
    assert_eq!(failed, bad);
    assert!(with("failed").iter().all(|l| !l["reason"].as_str().unwrap().is_empty()));
    assert_eq!(json(dir.path(), 0, &["--catalogue", "c", "check", "--json"])[0]["ok"], true);

    let (code, said, errors) = run(dir.path(), &["embed", "music", "--out", "v.npy"]);
    assert_eq!(code, 1, "{said}{errors}");
    for name in bad {
        assert!(errors.lines().any(|line| line.starts_with("failed: ") && line.contains(name)), "{name}:\n{errors}");
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    music(dir.path(), 3);
    let factors = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/game-music/factors");
    let program = env!("CARGO_BIN_EXE_debut");
    // No file may grow beyond 64 KiB; a spectrogram has 165 kB. The shell ignores the signal, so the write says why.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {program} train --factors {} --audio music --cache spectrograms --out run",
        factors.display()
    );
    let full = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(2), "{errors}");
    // Each is named, with what the disk said.
    assert_eq!(errors.lines().filter(|l| l.contains(".mel") && l.contains("too large")).count(), 3, "{errors}");
    let left: Vec<_> = walkdir::WalkDir::new(dir.path().join("spectrograms"))
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!dir.path().join("run/model.toml").exists());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_heard_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mp3");
    let one = fs::read(data("sweep.mp3")).unwrap();
    let other = fs::read(data("sweep.flac")).unwrap();
    fs::write(&path, &one).unwrap();
    let done = AtomicBool::new(false);
    let (mut heard, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                // In place, so that the reader's open file changes too: cut, longer, of another kind.
                let bytes = if turn % 3 == 2 { &other } else { &one };
                let mut file = fs::OpenOptions::new().write(true).truncate(turn % 2 == 0).open(&path).unwrap();
                file.write_all(&bytes[..bytes.len() * (1 + turn % 4) / 4]).unwrap();
            }
        });
        for _ in 0..300 {
            match hear(&path, &FrontEnd::default(), 40, &Listening { segments: 2, ..Listening::default() }) {
                Ok(one) => {
                    assert!(one.mels.iter().flatten().all(|x| x.is_finite()));
                    heard += 1;
                }
                Err(Error::Decode { .. } | Error::Unsupported { .. } | Error::Io { .. }) => refused += 1,
                Err(e) => panic!("{e}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{heard} heard, {refused} refused");
}

#[test]
fn two_workers_stay_small_whatever_the_headers_claim() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("claims");
    fs::create_dir(&folder).unwrap();
    write_song(&dir.path().join("song.wav"), 1);
    let mut originals = vec![dir.path().join("song.wav")];
    for name in ["steps-cbr.mp3", "steps-vbr.mp3", "steps.m4a", "steps-alac.m4a", "steps-alac.caf", "steps.caf"] {
        originals.push(data(name));
    }
    originals.extend(["steps.aiff", "steps.flac", "steps.ogg", "steps.opus", "steps.aac"].map(data));
    let mut written = 0;
    for original in &originals {
        let bytes = fs::read(original).unwrap();
        let extension = original.extension().unwrap().to_str().unwrap();
        // Every place where a header may hold a length, a rate or a count, in either byte order.
        for at in (0..bytes.len().min(480)).step_by(6) {
            for claim in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0x40]] {
                let mut copy = bytes.clone();
                let there = at..(at + 4).min(copy.len());
                copy[there.clone()].copy_from_slice(&claim[..there.len()]);
                fs::write(folder.join(format!("{written}.{extension}")), copy).unwrap();
                written += 1;
            }
        }
    }
    let output = debut(dir.path())
        .env("RAYON_NUM_THREADS", "2")
        .args(["embed", "claims", "--out", "v.npy", "--timings", "--json"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}\n{errors}", output.status);
    assert!(!errors.contains("panicked at"), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{written} files: {report}");
    assert_eq!(report["timings"]["threads"], 2);
    if cfg!(target_os = "linux") {
        assert!(report["timings"]["peak_memory_mb"].as_u64().unwrap() < 512, "{report}");
    }
}

/// A music file behind four ID3v2.4 tags, each with a picture of 256 MB; the pictures are holes in the file.
#[test]
fn a_gigabyte_of_cover_art_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let music = fs::read(data("sweep.mp3")).unwrap();
    let path = dir.path().join("art.mp3");
    let mut file = fs::File::create(&path).unwrap();
    // The largest size that fits: four times seven bits.
    let (size, largest) = ((1u64 << 28) - 1, [0x7f; 4]);
    for i in 0..4 {
        file.seek(SeekFrom::Start(i * (10 + size))).unwrap();
        file.write_all(&[b"ID3\x04\0\0".as_slice(), &largest, b"APIC", &largest, b"\0\0\0image/png\0\x03\0"].concat())
            .unwrap();
    }
    file.seek(SeekFrom::Start(4 * (10 + size))).unwrap();
    file.write_all(&music).unwrap();
    drop(file);
    let embed = |name: &str| {
        let report = &json(dir.path(), 0, &["embed", name, "--out", "v.npy", "--timings", "--json"])[0];
        assert!(!cfg!(target_os = "linux") || report["timings"]["peak_memory_mb"].as_u64().unwrap() < 256, "{report}");
        Array2::<f32>::read_npy(fs::File::open(dir.path().join("v.npy")).unwrap()).unwrap()
    };
    assert_eq!(embed("art.mp3"), embed(data("sweep.mp3").to_str().unwrap()));
}

#[test]
fn the_time_limit_is_a_setting_and_what_it_stops_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("music");
    fs::create_dir(&folder).unwrap();
    // So long that reading it through takes a while: the header is gone, and the length with it.
    let frames = fs::read(data("sweep-vbr-no-xing.mp3")).unwrap();
    fs::write(folder.join("long.mp3"), frames.repeat(400)).unwrap();
    let hasty = ["--catalogue", "c", "--set", "listen.time_limit_s=0.001", "ingest", "music", "--json"];
    let line = &json(dir.path(), 1, &hasty)[0];
    assert!(line["reason"].as_str().unwrap().contains("longer than 0.001 s"), "{line}");
    let line = &json(dir.path(), 0, &["--catalogue", "c", "ingest", "music", "--json"])[0];
    assert_eq!(line["status"], "added");
    let (code, _, errors) = run(dir.path(), &["--set", "listen.time_limit_s=0", "embed", "music", "--out", "v.npy"]);
    assert!(code == 2 && errors.contains("listen.time_limit_s"), "{errors}");
}

#[test]
fn a_track_s_vector_is_the_same_bytes_in_any_company_order_and_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["sweep.mp3", "sweep.flac", "sweep.ogg", "sweep.m4a", "sweep.opus", "sweep-alac.m4a", "steps.caf"];
    let files: Vec<String> = names.iter().map(|name| data(name).display().to_string()).collect();
    let embed = |files: &[&str], threads: &str| -> BTreeMap<String, Vec<u32>> {
        let output = debut(dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .arg("embed")
            .args(files)
            .args(["--out", "v.npy"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let vectors = Array2::<f32>::read_npy(fs::File::open(dir.path().join("v.npy")).unwrap()).unwrap();
        let ids = fs::read_to_string(dir.path().join("v.ids")).unwrap();
        ids.lines()
            .map(str::to_string)
            .zip(vectors.outer_iter().map(|v| v.iter().map(|x| x.to_bits()).collect()))
            .collect()
    };
    let forward: Vec<&str> = files.iter().map(String::as_str).collect();
    let all = embed(&forward, "1");
    assert_eq!(all.len(), names.len());
    let backward: Vec<&str> = forward.iter().rev().copied().collect();
    for threads in ["2", "3"] {
        assert_eq!(embed(&backward, threads), all, "{threads} threads");
    }
    for file in forward {
        let alone = embed(&[file], "2");
        assert!(alone.iter().all(|(id, vector)| all[id] == *vector), "{file}");
    }
}
