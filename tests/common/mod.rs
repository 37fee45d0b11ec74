//! What the tests of the program share: running it, and music to run it on.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod verbs;

use std::f32::consts::TAU;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program, in `folder`, with the shipped model.
pub fn debut(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_debut"));
    command
        .current_dir(folder)
        .env("DEBUT_MODEL", Path::new(env!("CARGO_MANIFEST_DIR")).join("models/game-music"))
        .env_remove("DEBUT_CATALOGUE")
        .env_remove("RUST_LOG");
    command
}

/// Runs it and returns exit code, standard output and standard error.
pub fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = debut(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // A program that a signal ended has no code.
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Runs it, expects this exit code, and returns the JSON objects on its standard output.
pub fn json(folder: &Path, code: i32, arguments: &[&str]) -> Vec<Value> {
    let (found, stdout, stderr) = run(folder, arguments);
    assert_eq!(found, code, "{arguments:?}\n{stdout}\n{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Two seconds of a chord that no other `number` has, as 16-bit WAV at 22,050 Hz.
pub fn write_song(path: &Path, number: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 22_050,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut out = hound::WavWriter::create(path, spec).unwrap();
    let root = 110.0 * 1.059_463_1f32.powi((number % 48) as i32);
    for i in 0..44_100 {
        let t = i as f32 / 22_050.0;
        let beat = 0.5 + 0.5 * (TAU * (1.0 + (number / 48) as f32) * t).sin();
        let chord = (TAU * root * t).sin() + (TAU * root * 1.26 * t).sin() + 0.5 * (TAU * root * 3.0 * t).sin();
        out.write_sample((chord * beat * 6000.0) as i16).unwrap();
    }
    out.finalize().unwrap();
}

/// A folder of `n` different songs.
pub fn music(folder: &Path, n: usize) -> PathBuf {
    let music = folder.join("music");
    for i in 0..n {
        write_song(&music.join(format!("album {}/song {i:03}.wav", i / 10)), i);
    }
    music
}

/// The pages of an Ogg file (RFC 3533), as those of the stream `serial`.
pub fn ogg_pages(bytes: &[u8], serial: u32) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let segments = usize::from(rest[26]);
        let length = 27 + segments + rest[27..27 + segments].iter().map(|&n| usize::from(n)).sum::<usize>();
        let (page, behind) = rest.split_at(length);
        let mut page = page.to_vec();
        page[14..18].copy_from_slice(&serial.to_le_bytes());
        ogg_checksum(&mut page);
        pages.push(page);
        rest = behind;
    }
    pages
}

/// Writes the checksum of a page into it.
pub fn ogg_checksum(page: &mut [u8]) {
    page[22..26].fill(0);
    let crc = page.iter().fold(0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    });
    page[22..26].copy_from_slice(&crc.to_le_bytes());
}

/// An element of Matroska: its identifier, eight bytes of length, its content.
pub fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
    [id, &(content.len() as u64 | 1 << 56).to_be_bytes(), content].concat()
}

/// A Matroska file of two seconds of sound, 16-bit PCM at 8 kHz in twenty blocks; `part` is put between its header and these.
pub fn matroska(part: &[u8]) -> Vec<u8> {
    let audio =
        [element(&[0xb5], &8000f32.to_be_bytes()), element(&[0x9f], &[1]), element(&[0x62, 0x64], &[16])].concat();
    let track = [
        element(&[0xd7], &[1]),
        element(&[0x73, 0xc5], &[1]),
        element(&[0x83], &[2]),
        element(&[0x23, 0xe3, 0x83], &100_000_000u32.to_be_bytes()),
        element(&[0x86], b"A_PCM/INT/LIT"),
        element(&[0xe1], &audio),
    ];
    let mut cluster = element(&[0xe7], &[0]);
    for block in 0..20u16 {
        let samples = (0..800).map(|i| ((f32::from(block * 800 + i) * 0.3).sin() * 8000.0) as i16);
        let head = [&[0x81][..], &(block * 100).to_be_bytes(), &[0x80]].concat();
        cluster.extend(element(&[0xa3], &[head, samples.flat_map(i16::to_le_bytes).collect()].concat()));
    }
    let information = [
        element(&[0x2a, 0xd7, 0xb1], &1_000_000u32.to_be_bytes()),
        element(&[0x4d, 0x80], b"test"),
        element(&[0x57, 0x41], b"test"),
    ];
    let segment = [
        element(&[0x15, 0x49, 0xa9, 0x66], &information.concat()),
        element(&[0x16, 0x54, 0xae, 0x6b], &element(&[0xae], &track.concat())),
        part.to_vec(),
        element(&[0x1f, 0x43, 0xb6, 0x75], &cluster),
    ];
    let head = element(&[0x1a, 0x45, 0xdf, 0xa3], &element(&[0x42, 0x82], b"matroska"));
    // The segment goes on to the end of the file.
    [head, b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff".to_vec(), segment.concat()].concat()
}
