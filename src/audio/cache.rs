//! Spectrograms on disk in half precision, one file per track, so that training listens only once.
//!
//! ```text
//! <dir>/<id>-<frames>x<windows>/<content hash>.mel
//!
//! "debutmel"  u32 version  u32 windows  u32 frames  u32 mel_bands  16 bytes id  u32 n
//! n bytes JSON [`About`]   32 bytes BLAKE3 of all that precedes
//! windows × ( frames·mel_bands f16   32 bytes BLAKE3 of them )            all little-endian
//! ```
//!
//! The id names the front end and the version of the decoders, so that no two of either are mixed. Each window has its own checksum, so that one can be read, and trusted, without the others. Half precision keeps
//! 11 bits: at most 0.008 off at the loudest values (about 16), far below what dropout or a crop does to them.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{Array2, Array3};
use serde::{Deserialize, Serialize};

use super::{DECODER_VERSION, FrontEnd, Heard, Listening, Tags, hear};
use crate::artefact::{atomic_write, content_hash};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"debutmel";
const VERSION: u32 = 1;
/// Bytes before the JSON.
const FIXED: usize = 8 + 4 * 4 + 16 + 4;
/// The JSON holds a few short texts; more is damage.
const MAX_ABOUT: usize = 64 << 10;
const HASH: usize = blake3::OUT_LEN;

/// A folder of spectrograms made with one front end and one choice of windows.
#[derive(Clone, Debug)]
pub struct SpectrogramCache {
    folder: PathBuf,
    front_end: FrontEnd,
    frames: usize,
    listening: Listening,
}

/// 16 hexadecimal digits that differ where spectrograms may.
fn id(front_end: &FrontEnd, decoder_version: u32) -> String {
    let text = format!("{} {decoder_version}", front_end.id());
    blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
}

/// The place of one track in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CachedKey {
    /// [`content_hash`] of the audio file.
    pub content: String,
    /// The file that holds the spectrograms.
    pub file: PathBuf,
}

/// What was learned about a track while hearing it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Length of the track.
    pub seconds: Option<f64>,
    /// Where each window begins, in seconds.
    pub start_seconds: Vec<f64>,
    /// Shorter than the window, and repeated.
    pub tiled: bool,
    pub tags: Tags,
    pub format: String,
    pub codec: String,
    /// Hz.
    pub source_rate: u32,
    pub channels: usize,
}

impl SpectrogramCache {
    /// Opens the folder for windows of `frames` frames, as many as `listening` says, below `dir`, and makes it where it is
    /// not there.
    pub fn open(dir: &Path, front_end: &FrontEnd, frames: usize, listening: &Listening) -> Result<Self> {
        front_end.check()?;
        listening.check()?;
        if frames == 0 {
            return Err(Error::invalid("frames of a spectrogram", "at least one", frames));
        }
        let id = id(front_end, DECODER_VERSION);
        let folder = dir.join(format!("{id}-{frames}x{}", listening.segments));
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        Ok(SpectrogramCache { folder, front_end: front_end.clone(), frames, listening: listening.clone() })
    }

    /// The key of the audio file at `path`: found by its content, or heard and stored. A damaged entry is heard again.
    /// Safe to call from several threads and processes: entries appear whole.
    ///
    /// # Errors
    /// Those of [`hear`]; nothing is stored then.
    pub fn get_or_hear(&self, path: &Path) -> Result<CachedKey> {
        let regular = fs::metadata(path).map_err(Error::io(path))?.is_file();
        if !regular {
            return Err(Error::decode(path, "not a regular file"));
        }
        let key = self.key(content_hash(path)?);
        match self.verify(&key) {
            Ok(()) => return Ok(key),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(damage) => tracing::warn!("{damage}; hearing {} again", path.display()),
        }
        let heard = hear(path, &self.front_end, self.frames, &self.listening)?;
        self.keep(&key, &heard)?;
        Ok(key)
    }

    /// Where the spectrograms of the file with this [content hash](content_hash) are, if they are.
    pub fn key(&self, content: String) -> CachedKey {
        CachedKey { file: self.folder.join(format!("{content}.mel")), content }
    }

    /// Stores what was heard, with this cache's front end and windows.
    ///
    /// # Errors
    /// `Io` where it cannot be written; nothing is stored then.
    pub fn keep(&self, key: &CachedKey, heard: &Heard) -> Result<()> {
        let about = About {
            seconds: heard.seconds,
            start_seconds: heard.start_seconds.clone(),
            tiled: heard.tiled,
            tags: heard.tags.clone(),
            format: heard.format.into(),
            codec: heard.codec.into(),
            source_rate: heard.source_rate,
            channels: heard.channels,
        };
        self.store(key, &about, &heard.mels)
    }

    /// All windows, `[windows, frames, mel_bands]`.
    ///
    /// # Errors
    /// `Io`, or `Format` where the entry is damaged or belongs to another front end.
    pub fn load(&self, key: &CachedKey) -> Result<Array3<f32>> {
        let mut entry = Entry::open(self, key)?;
        let mut all = Array3::zeros((self.listening.segments, self.frames, self.front_end.mel_bands));
        for mut window in all.outer_iter_mut() {
            entry.read(window.as_slice_mut().expect("a window of a fresh array is contiguous"))?;
        }
        Ok(all)
    }

    /// One window, `[frames, mel_bands]`; the others are not read.
    pub fn load_window(&self, key: &CachedKey, window: usize) -> Result<Array2<f32>> {
        if window >= self.listening.segments {
            return Err(Error::invalid("window", format!("less than {}", self.listening.segments), window));
        }
        let mut entry = Entry::open(self, key)?;
        entry.skip(window)?;
        let mut one = Array2::zeros((self.frames, self.front_end.mel_bands));
        entry.read(one.as_slice_mut().expect("a fresh array is contiguous"))?;
        Ok(one)
    }

    /// What was learned about the track.
    pub fn about(&self, key: &CachedKey) -> Result<About> {
        Ok(Entry::open(self, key)?.about)
    }

    /// Numbers in one window.
    fn window_len(&self) -> usize {
        self.frames * self.front_end.mel_bands
    }

    /// Reads the whole entry against its checksums.
    fn verify(&self, key: &CachedKey) -> Result<()> {
        let mut entry = Entry::open(self, key)?;
        (0..self.listening.segments).try_for_each(|_| entry.read_bytes())
    }

    fn header(&self, about_len: usize) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        let shape = [VERSION, self.listening.segments as u32, self.frames as u32, self.front_end.mel_bands as u32];
        header.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        header.extend(id(&self.front_end, DECODER_VERSION).as_bytes());
        header.extend((about_len as u32).to_le_bytes());
        header
    }

    fn store(&self, key: &CachedKey, about: &About, mels: &[Array2<f32>]) -> Result<()> {
        let about = serde_json::to_vec(about).map_err(|e| Error::format(&key.file, "text that JSON can hold", e))?;
        let mut head = self.header(about.len());
        head.extend(about);
        head.extend(*blake3::hash(&head).as_bytes());
        atomic_write(&key.file, |out| {
            out.write_all(&head)?;
            for mel in mels {
                let bytes: Vec<u8> = mel.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
                out.write_all(&bytes)?;
                out.write_all(blake3::hash(&bytes).as_bytes())?;
            }
            Ok(())
        })
    }
}

/// An entry being read, behind its checked header.
struct Entry<'a> {
    path: &'a Path,
    file: File,
    about: About,
    /// Of one window, as they are on disk.
    bytes: Vec<u8>,
}

impl<'a> Entry<'a> {
    fn open(cache: &SpectrogramCache, key: &'a CachedKey) -> Result<Entry<'a>> {
        let path = key.file.as_path();
        let mut file = File::open(path).map_err(Error::io(path))?;
        let damaged = |found: &str| Error::format(path, "a spectrogram of this front end and shape", found);
        let mut head = vec![0; FIXED];
        file.read_exact(&mut head).map_err(cut(path))?;
        let n = u32::from_le_bytes(*head.last_chunk().expect("the header is longer than four bytes")) as usize;
        if head != cache.header(n) {
            return Err(damaged("another header"));
        }
        if n > MAX_ABOUT {
            return Err(damaged("an absurd length"));
        }
        head.resize(FIXED + n + HASH, 0);
        file.read_exact(&mut head[FIXED..]).map_err(cut(path))?;
        let (content, hash) = head.split_at(FIXED + n);
        if blake3::hash(content).as_bytes() != hash {
            return Err(damaged("a header with a wrong checksum"));
        }
        let about = serde_json::from_slice(&content[FIXED..]).map_err(|e| damaged(&e.to_string()))?;
        Ok(Entry { path, file, about, bytes: vec![0; 2 * cache.window_len() + HASH] })
    }

    fn skip(&mut self, windows: usize) -> Result<()> {
        let to = SeekFrom::Current((windows * self.bytes.len()) as i64);
        self.file.seek(to).map(drop).map_err(Error::io(self.path))
    }

    fn read_bytes(&mut self) -> Result<()> {
        self.file.read_exact(&mut self.bytes).map_err(cut(self.path))?;
        let (data, hash) = self.bytes.split_at(self.bytes.len() - HASH);
        if blake3::hash(data).as_bytes() != hash {
            return Err(Error::format(self.path, "a spectrogram with its checksum", "another checksum"));
        }
        Ok(())
    }

    fn read(&mut self, out: &mut [f32]) -> Result<()> {
        self.read_bytes()?;
        let halves: Vec<f16> =
            self.bytes[..2 * out.len()].chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        halves.convert_to_f32_slice(out);
        Ok(())
    }
}

/// The end of the file where more was due is damage, not a failure of the disk.
fn cut(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::format(path, "a whole spectrogram", "the end of the file"),
        _ => Error::Io { path: path.to_path_buf(), source: e },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::write_wav;

    fn windows(segments: usize) -> Listening {
        Listening { segments, ..Listening::default() }
    }

    fn song(path: &Path, seconds: usize, hz: f32) {
        let samples: Vec<f32> = (0..22_050 * seconds).map(|i| 0.5 * (i as f32 * hz * 2.849_517e-4).sin()).collect();
        write_wav(path, &samples, 22_050).unwrap();
    }

    #[test]
    fn what_is_stored_is_what_was_heard_to_half_precision() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 12, 440.0);
        let front_end = FrontEnd::default();
        let cache = SpectrogramCache::open(dir.path(), &front_end, 40, &windows(3)).unwrap();
        let key = cache.get_or_hear(&path).unwrap();
        let all = cache.load(&key).unwrap();
        let heard = hear(&path, &front_end, 40, &windows(3)).unwrap();
        for (window, mel) in heard.mels.iter().enumerate() {
            assert_eq!(cache.load_window(&key, window).unwrap(), all.index_axis(ndarray::Axis(0), window));
            for (a, b) in all.index_axis(ndarray::Axis(0), window).iter().zip(mel) {
                assert!((a - b).abs() <= b.abs() * 0.0005 + 1e-6, "{a} for {b}");
            }
        }
        let about = cache.about(&key).unwrap();
        assert_eq!((about.seconds, about.codec.as_str(), about.tiled), (heard.seconds, heard.codec, heard.tiled));
        assert_eq!(about.start_seconds, heard.start_seconds);
        assert!(matches!(cache.load_window(&key, 3), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_hit_does_not_listen_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 3, 440.0);
        let cache = SpectrogramCache::open(dir.path(), &FrontEnd::default(), 20, &windows(1)).unwrap();
        let key = cache.get_or_hear(&path).unwrap();
        let written = fs::metadata(&key.file).unwrap().modified().unwrap();
        // The same content under another name is the same track.
        let copy = dir.path().join("copy.wav");
        fs::copy(&path, &copy).unwrap();
        assert_eq!(cache.get_or_hear(&copy).unwrap(), key);
        assert_eq!(fs::metadata(&key.file).unwrap().modified().unwrap(), written);
        // Another front end, length or number of windows never meets this entry.
        let other = FrontEnd { log_gain: 1000.0, ..FrontEnd::default() };
        for cache in [
            SpectrogramCache::open(dir.path(), &other, 20, &windows(1)).unwrap(),
            SpectrogramCache::open(dir.path(), &FrontEnd::default(), 21, &windows(1)).unwrap(),
            SpectrogramCache::open(dir.path(), &FrontEnd::default(), 20, &windows(2)).unwrap(),
        ] {
            assert!(matches!(cache.load(&key), Err(Error::Format { .. })));
        }
        // Nor do other decoders.
        assert_ne!(id(&cache.front_end, DECODER_VERSION), id(&cache.front_end, DECODER_VERSION - 1));
        assert!(cache.folder.ends_with(format!("{}-20x1", id(&cache.front_end, DECODER_VERSION))));
    }

    #[test]
    fn the_time_limit_holds_for_what_is_cached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp3");
        // A frame of 36 bytes (8 kbit/s at 16 kHz) over and over, without a length: three hours to be walked.
        let frame = [&[0xff, 0xf3, 0x18, 0xc4][..], &[0; 32]].concat();
        fs::write(&path, frame.repeat(300_000)).unwrap();
        let hasty = Listening { time_limit_s: 0.001, ..Listening::default() };
        let cache = SpectrogramCache::open(dir.path(), &FrontEnd::default(), 20, &hasty).unwrap();
        let refused = cache.get_or_hear(&path).unwrap_err().to_string();
        assert!(refused.contains("longer than 0.001 s"), "{refused}");
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed_and_healed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 2, 440.0);
        let front_end = FrontEnd { mel_bands: 8, window_length: 256, hop_length: 256, ..FrontEnd::default() };
        let cache = SpectrogramCache::open(dir.path(), &front_end, 4, &windows(2)).unwrap();
        let key = cache.get_or_hear(&path).unwrap();
        let whole = fs::read(&key.file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&key.file, &damaged).unwrap();
            assert!(matches!(cache.load(&key), Err(Error::Format { .. })), "byte {at}");
            fs::write(&key.file, &whole[..at]).unwrap();
            assert!(matches!(cache.load(&key), Err(Error::Format { .. })), "cut at {at}");
        }
        assert_eq!(cache.get_or_hear(&path).unwrap(), key);
        assert_eq!(fs::read(&key.file).unwrap(), whole);
    }

    #[test]
    fn what_cannot_be_heard_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "not a song").unwrap();
        let cache = SpectrogramCache::open(&dir.path().join("cache"), &FrontEnd::default(), 20, &windows(1)).unwrap();
        assert!(matches!(cache.get_or_hear(&path), Err(Error::Decode { .. })));
        assert!(matches!(cache.get_or_hear(dir.path()), Err(Error::Decode { .. })));
        assert!(matches!(cache.get_or_hear(&dir.path().join("none")), Err(Error::Io { .. })));
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0);
    }
}
