//! Our own files (a spectrogram of the cache, a model's weights, the descriptions of models and factors), and the
//! factors of other programs.
//!
//! First byte: which. Checksums are put right, so that what lies behind them is reached too.
#![no_main]

mod dependencies;

use std::fs;
use std::path::Path;

use debut::Error;
use debut::artefact::{read_toml, seal};
use debut::audio::{FrontEnd, Listening, SpectrogramCache};
use debut::encoder::{Model, ModelConfig};
use debut::events::ConfidenceConfig;
use debut::factors::{AlsConfig, Factors, Format, Names};
use libfuzzer_sys::fuzz_target;

/// What is in a file is never an error of reading: a cut one says that it is cut.
fn check<T>(result: Result<T, Error>) {
    if let Err(e @ Error::Io { .. }) = result {
        panic!("{e}");
    }
}

/// With its hash put right, where it is text.
fn sealed(body: &[u8]) -> Vec<u8> {
    std::str::from_utf8(body).map_or_else(|_| body.to_vec(), |text| seal(text).into_bytes())
}

fuzz_target!(init: dependencies::let_them_panic(), |bytes: &[u8]| {
    let Some((&kind, body)) = bytes.split_first() else { return };
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let at = |name: &str| dir.path().join(name);
    match kind % 7 {
        0 => {
            let front_end = FrontEnd { mel_bands: 8, frames: 4, ..FrontEnd::default() };
            let listening = Listening { segments: 2, ..Listening::default() };
            let cache = SpectrogramCache::open(dir.path(), &front_end, 4, &listening).unwrap();
            let content = "0".repeat(32);
            let (index, array) = shard(&content, body);
            fs::write(cache.folder().join("00000.index"), index).unwrap();
            fs::write(cache.folder().join("00000.npy"), array).unwrap();
            check(cache.refresh());
            check(cache.load(&content));
            check(cache.about(&content));
            check(cache.load_window(&content, 1));
        }
        1 => {
            // The weights behind a description that fits them.
            let text = include_str!("tiny-model.toml").replace("HASH", &blake3::hash(body).to_hex());
            fs::write(at("model.toml"), seal(&text)).unwrap();
            fs::write(at("model.safetensors"), body).unwrap();
            check(Model::load(dir.path()));
        }
        2 => {
            fs::write(at("model.toml"), sealed(body)).unwrap();
            fs::write(at("model.safetensors"), b"").unwrap();
            check(Model::load(dir.path()));
            fs::write(at("model.toml"), body).unwrap();
            let _: Result<ModelConfig, _> = read_toml(&at("model.toml"), "the description of a model");
        }
        3 => {
            fs::write(at("factors.toml"), sealed(body)).unwrap();
            // The files that it names are not there.
            let _ = Factors::load(dir.path());
        }
        // The factors of other programs: one array or table for both sides.
        4 => {
            fs::write(at("model.npz"), body).unwrap();
            check(import(&at("model.npz"), Format::Implicit));
        }
        5 => {
            for side in ["userFactors", "itemFactors"] {
                fs::create_dir(at(side)).unwrap();
                fs::write(at(side).join("part-0.parquet"), body).unwrap();
            }
            check(import(dir.path(), Format::Spark));
        }
        _ => {
            fs::write(at("users.npy"), body).unwrap();
            fs::write(at("tracks.npy"), body).unwrap();
            check(import(dir.path(), Format::Npy));
        }
    }
});

fn import(path: &Path, format: Format) -> Result<Factors, Error> {
    let names = Names { numbered: true, ..Names::default() };
    Factors::import(path, format, &names, &AlsConfig::default(), &ConfidenceConfig::default())
}

/// An index of one line, whose JSON is the first line of `body`, with its checksum, and the array of what follows, 64 bytes a
/// window, whose hashes are put where the JSON says HASH0 and HASH1.
fn shard(content: &str, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let end = body.iter().position(|b| *b == b'\n').unwrap_or(body.len());
    let (json, data) = (&body[..end], body.get(end + 1..).unwrap_or_default());
    let mut json = String::from_utf8_lossy(json).into_owned();
    for (i, window) in data.chunks(64).take(2).enumerate() {
        json = json.replace(&format!("HASH{i}"), &blake3::hash(window).to_hex());
    }
    let rest = format!(" {content} 0 {json}");
    let checksum = blake3::hash(rest.as_bytes()).to_hex();
    (format!("{}{rest}\n", &checksum[..16]).into_bytes(), [&[0; 128], data].concat())
}
