//! What the tests of the program share: running it, and music to run it on.
#![allow(dead_code, reason = "each test file uses its part")]

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
