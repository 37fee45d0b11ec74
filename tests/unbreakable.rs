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
use std::time::Duration;

use common::{debut, json, matroska, music, ogg_checksum, ogg_pages, run, write_song};
use debut::Error;
use debut::audio::{FrontEnd, Listening, hear};
use ndarray::Array2;
use ndarray_npy::ReadNpyExt;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Found by fuzzing: an APE tag whose size says that it begins before the file was called an error of the disk, to be
/// tried again and again.
#[test]
fn a_tag_that_begins_before_the_file_is_the_file_s_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tagged.mp3");
    let numbers = [2000u32, 568, 0, 0].map(u32::to_le_bytes).concat();
    fs::write(&path, [&[0x55; 200][..], b"APETAGEX", &numbers, &[0; 8]].concat()).unwrap();
    let front_end = FrontEnd::default();
    match hear(&path, &front_end, front_end.frames, &Listening::default()) {
        Err(Error::Decode { .. } | Error::Unsupported { .. }) => {}
        other => panic!("{other:?}"),
    }
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
    fs::write(dir.path().join("events.csv"), "time,user,track\n1,a,b\n").unwrap();
    let program = env!("CARGO_BIN_EXE_debut");
    // No file may grow beyond 64 KiB; a spectrogram has 165 kB. The shell ignores the signal, so the write says why.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {program} prepare --audio music --events events.csv --cache spectrograms --out data"
    );
    let full = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(2), "{errors}");
    assert!(errors.contains(".npy") && errors.contains("too large"), "{errors}");
    let left: Vec<_> = walkdir::WalkDir::new(dir.path().join("spectrograms"))
        .into_iter()
        .map(|entry| entry.unwrap())
        // That of a shard which could not be made is empty.
        .filter(|entry| entry.file_type().is_file() && entry.metadata().unwrap().len() > 0)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!dir.path().join("data").exists());
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
                // Now and then long enough for a track to be heard.
                std::thread::sleep(Duration::from_millis(turn as u64 % 8));
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
    assert!(heard > 0, "{refused} refused");
}

#[test]
fn two_workers_stay_small_whatever_the_headers_claim() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("claims");
    fs::create_dir(&folder).unwrap();
    write_song(&dir.path().join("song.wav"), 1);
    let mut originals = vec![dir.path().join("song.wav")];
    for name in
        ["steps-cbr.mp3", "steps-vbr.mp3", "sweep-faststart.m4a", "steps-alac.m4a", "steps-alac.caf", "steps.caf"]
    {
        originals.push(data(name));
    }
    originals.extend(["steps.aiff", "steps.flac", "steps.ogg", "steps.opus", "steps.aac"].map(data));
    let mut written = 0;
    for original in &originals {
        let bytes = fs::read(original).unwrap();
        let extension = original.extension().unwrap().to_str().unwrap();
        // MP4 has its header in one atom, which may come last.
        let header = match bytes.windows(4).position(|w| w == b"moov") {
            Some(at) if extension == "m4a" => at..(at + 1200).min(bytes.len()),
            _ => 0..bytes.len().min(480),
        };
        let mut pages = vec![0];
        if bytes.starts_with(b"OggS") {
            pages.extend(ogg_pages(&bytes, 0).iter().scan(0, |end, page| {
                *end += page.len();
                Some(*end)
            }));
        }
        // Every place where it may hold a length, a rate or a count, in either byte order: the highest, a high one, one.
        for at in header.step_by(10) {
            for claim in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0x40], [1, 0, 0, 0], [0, 0, 0, 1]] {
                let mut copy = bytes.clone();
                let there = at..(at + 4).min(copy.len());
                copy[there.clone()].copy_from_slice(&claim[..there.len()]);
                // A page of Ogg with a wrong checksum would not be read at all.
                pages.windows(2).for_each(|page| ogg_checksum(&mut copy[page[0]..page[1]]));
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
    // Nor did a decoder, which would be caught and told as that file's failure.
    let panicked: Vec<&str> = errors.lines().filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "{panicked:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{written} files: {report}");
    assert_eq!(report["timings"]["threads"], 2);
    if cfg!(target_os = "linux") {
        assert!(report["timings"]["peak_memory_mb"].as_u64().unwrap() < 512, "{report}");
    }
}

/// Bytes of a file, or so many zeros that are a hole in it.
enum Piece {
    Bytes(Vec<u8>),
    Hole(u64),
}

/// Writes a file, and returns its length.
fn sparse(path: &Path, pieces: &[Piece]) -> u64 {
    let mut file = fs::File::create(path).unwrap();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => file.write_all(bytes).unwrap(),
            Piece::Hole(length) => drop(file.seek(SeekFrom::Current(*length as i64)).unwrap()),
        }
    }
    let length = file.stream_position().unwrap();
    file.set_len(length).unwrap();
    length
}

/// An ID3v2.4 tag with a picture of 256 MB: the largest size that fits, four times seven bits.
fn id3_picture() -> [Piece; 2] {
    let largest = [0x7f; 4];
    let head = [b"ID3\x04\0\0".as_slice(), &largest, b"APIC", &largest, b"\0\0\0image/png\0\x03\0"].concat();
    let hole = (1 << 28) - 1 + 10 - head.len() as u64;
    [Piece::Bytes(head), Piece::Hole(hole)]
}

/// The MP4 file `name` with `items` at the end of its list of tags, which is the end of the file.
fn with_items(name: &str, items: Vec<Piece>) -> Vec<Piece> {
    let mut bytes = fs::read(data(name)).unwrap();
    let more: u64 = items
        .iter()
        .map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Hole(length) => *length,
        })
        .sum();
    for atom in [b"moov", b"udta", b"meta", b"ilst"] {
        let at = bytes.windows(4).rposition(|w| w == atom).unwrap() - 4;
        let size = u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(at + size as usize, bytes.len());
        bytes[at..at + 4].copy_from_slice(&(size + more as u32).to_be_bytes());
    }
    [Piece::Bytes(bytes)].into_iter().chain(items).collect()
}

/// An item of a list of tags with `size` bytes of data.
fn item(name: &[u8; 4], size: u32) -> [Piece; 2] {
    let head = [&(size + 24).to_be_bytes(), &name[..], &(size + 16).to_be_bytes(), b"data\0\0\0\x0d\0\0\0\0"];
    [Piece::Bytes(head.concat()), Piece::Hole(size.into())]
}

#[test]
fn gigabytes_of_cover_art_are_passed_over() {
    const LARGE: u32 = 700 << 20;
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str| fs::read(data(name)).unwrap();
    let chunk = |name: &[u8], size: [u8; 4], content: &[u8]| Piece::Bytes([name, &size, content].concat());
    write_song(&dir.path().join("song.wav"), 1);
    let song = fs::read(dir.path().join("song.wav")).unwrap();
    fs::write(dir.path().join("plain.mka"), matroska(&[])).unwrap();

    // In FLAC a block may have 16 MB, and there may be many.
    let flac = bytes("steps.flac");
    let largest = (1u32 << 24) - 1;
    let picture =
        [&[6][..], &largest.to_be_bytes()[1..], &3u32.to_be_bytes(), &9u32.to_be_bytes(), b"image/png"].concat();
    let picture = [&picture[..], &[0; 4], &[0, 0, 0, 1].repeat(4), &(largest - 41).to_be_bytes()].concat();
    let pictures = (0..45).flat_map(|_| [Piece::Bytes(picture.clone()), Piece::Hole(u64::from(largest - 41))]);
    // The stream's own block has 34 bytes, and is not the last.
    let with_pictures: Vec<Piece> = [Piece::Bytes(flac[..42].to_vec())]
        .into_iter()
        .chain(pictures)
        .chain([Piece::Bytes(flac[42..].to_vec())])
        .collect();

    let [id3, hole] = id3_picture();
    let id3_size = (1u32 << 28) - 1 + 10;
    let mut aiff = bytes("steps.aiff");
    let form = (aiff.len() as u32 - 8 + 8 + id3_size + 1).to_be_bytes();
    aiff[4..8].copy_from_slice(&form);
    let with_chunk = vec![Piece::Bytes(aiff), chunk(b"ID3 ", id3_size.to_be_bytes(), &[]), id3, hole, Piece::Hole(1)];

    let list = [b"INFOIART", &(LARGE - 12).to_le_bytes()[..]].concat();
    let in_wave = vec![
        Piece::Bytes(song[..36].to_vec()),
        chunk(b"LIST", LARGE.to_le_bytes(), &list),
        Piece::Hole(u64::from(LARGE - 12)),
        Piece::Bytes(song[36..].to_vec()),
    ];

    let mka = matroska(b"HERE");
    let here = mka.windows(4).position(|w| w == b"HERE").unwrap();
    let attached = [&[0x61, 0xa7][..], &((u64::from(LARGE) - 10) | (1 << 56)).to_be_bytes()].concat();
    let attachments = [&[0x19, 0x41, 0xa4, 0x69][..], &(u64::from(LARGE) | 1 << 56).to_be_bytes(), &attached].concat();
    let with_attachments = vec![
        Piece::Bytes([&mka[..here], &attachments].concat()),
        Piece::Hole(u64::from(LARGE) - 10),
        Piece::Bytes(mka[here + 4..].to_vec()),
    ];

    let ape = |size: u32| [b"APETAGEX\xd0\x07\0\0", &size.to_le_bytes()[..], b"\x01\0\0\0"].concat();
    let behind = vec![
        Piece::Bytes(bytes("sweep.mp3")),
        Piece::Bytes([&ape(LARGE + 58)[..], b"\0\0\0\xa0\0\0\0\0\0\0\0\0"].concat()),
        Piece::Bytes([&LARGE.to_le_bytes(), &b"\x02\0\0\0Cover Art (Front)\0"[..]].concat()),
        Piece::Hole(LARGE.into()),
        Piece::Bytes([&ape(LARGE + 58)[..], b"\0\0\0\x80\0\0\0\0\0\0\0\0"].concat()),
    ];

    let before: Vec<Piece> = (0..4).flat_map(|_| id3_picture()).chain([Piece::Bytes(bytes("sweep.mp3"))]).collect();
    let many = (0..250).flat_map(|_| item(b"covr", 1 << 20)).collect();
    let embed = |path: &Path| {
        let path = path.to_str().unwrap();
        let report = &json(dir.path(), 0, &["embed", path, "--out", "v.npy", "--timings", "--json"])[0];
        let vector = Array2::<f32>::read_npy(fs::File::open(dir.path().join("v.npy")).unwrap()).unwrap();
        (vector, report["timings"]["peak_memory_mb"].as_u64().unwrap())
    };
    for (plain, name, pieces) in [
        (data("sweep.mp3"), "before.mp3", before),
        (data("sweep.mp3"), "behind.mp3", behind),
        (data("steps.m4a"), "one.m4a", with_items("steps.m4a", item(b"covr", LARGE).into())),
        (data("steps.m4a"), "text.m4a", with_items("steps.m4a", item(b"\xa9lyr", LARGE).into())),
        (data("steps.m4a"), "many.m4a", with_items("steps.m4a", many)),
        (data("steps.flac"), "pictures.flac", with_pictures),
        (data("steps.aiff"), "tag.aiff", with_chunk),
        (dir.path().join("song.wav"), "list.wav", in_wave),
        (dir.path().join("plain.mka"), "attached.mka", with_attachments),
    ] {
        let path = dir.path().join(name);
        let length = sparse(&path, &pieces);
        assert!(length > 250 << 20);
        let ((vector, peak), (expected, usual)) = (embed(&path), embed(&plain));
        println!("{name}: {peak} MB, without {usual} MB");
        assert_eq!(vector, expected, "{name}");
        assert!(!cfg!(target_os = "linux") || peak < usual + 64, "{name}: {peak} MB, without {usual} MB");
    }

    // What is not art is no smaller, and there is no music in it.
    let block = [&[0xa3][..], &(u64::from(LARGE) | 1 << 56).to_be_bytes(), &[0x81, 0, 0, 0x80]].concat();
    let cluster = [&[0x1f, 0x43, 0xb6, 0x75, 0x01][..], &[0xff; 7], &[0xe7, 0x81, 0], &block].concat();
    let path = dir.path().join("block.mka");
    sparse(&path, &[Piece::Bytes([&mka[..here], &cluster].concat()), Piece::Hole(u64::from(LARGE) - 4)]);
    let output =
        debut(dir.path()).args(["embed", "block.mka", "--out", "v.npy", "--timings", "--json"]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(errors.contains("24 MiB"), "{said}{errors}");
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
