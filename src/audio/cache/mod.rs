//! Spectrograms on disk in half precision, so that training listens only once. A million tracks are not a million files:
//! they lie in shards of 256 MB.
//!
//! ```text
//! <dir>/<id>-<frames>x<windows>/
//!   00000.npy     float16 [rows, windows, frames, mel_bands], a row a track: `np.load(path, mmap_mode="r")` maps it
//!   00000.index   a line for each row that is filled:
//!                 checksum content row {"windows":[BLAKE3 of each window],"about":{…}}
//! ```
//!
//! The id names the front end and the version of the decoders, so that no two of either are mixed. A window of 645 frames and 128
//! bands has 165 kB: a million tracks 165 GB in 616 shards. Half precision keeps 11 bits: at
//! most 0.008 off at the loudest values (about 16), far below what dropout or a crop does to them.
//!
//! A row is written before the line that makes it known, and every reading compares it with the line's hashes: what is torn,
//! lost or damaged is as if it had never been there, and heard again. So nothing needs to be synced. Any number of
//! threads and processes read and add; each process adds to a shard of its own, which it locks.
//!
//! Read by position rather than mapped: a page of a map that the disk cannot read kills the process, and a map needs
//! `unsafe`. A window takes 73 µs, 4 more than mapped, and 26 of it for the hash: together under 1 % of a step of training
//! (`benches/README.md`), so every reading is verified.

mod shard;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{Array2, Array3, ArrayViewMut2, Axis};
use serde::{Deserialize, Serialize};

use self::shard::{Entry, Layout, Line, Place, Scanned, Writer, capacity, content_number, scan, shards_in};
use super::{DECODER_VERSION, FrontEnd, Heard, Listening, Tags, hear};
use crate::artefact::content_hash;
use crate::error::{Error, Result};

/// What a shard has room for, in bytes.
const SHARD_BYTES: u64 = 256 << 20;

/// A folder of spectrograms made with one front end and one choice of windows.
#[derive(Debug)]
pub struct SpectrogramCache {
    folder: PathBuf,
    front_end: FrontEnd,
    layout: Layout,
    listening: Listening,
    rows_of_a_shard: u32,
    known: RwLock<Known>,
    writer: Mutex<Option<Writer>>,
}

/// What the indices said when they were last read.
#[derive(Debug, Default)]
struct Known {
    places: HashMap<u128, Place>,
    /// Further rows of the same content: two processes heard it at once, or the first was damaged and heard again.
    others: HashMap<u128, Vec<Place>>,
    shards: BTreeMap<u32, Scanned>,
}

impl Known {
    fn add(&mut self, content: u128, place: Place) {
        if let Some(before) = self.places.insert(content, place)
            && before != place
        {
            self.others.entry(content).or_default().push(before);
        }
    }

    /// The latest first.
    fn places_of(&self, content: u128) -> Vec<Place> {
        let others = self.others.get(&content).into_iter().flatten().rev();
        self.places.get(&content).into_iter().chain(others).copied().collect()
    }
}

/// 16 hexadecimal digits that differ where spectrograms may.
fn id(front_end: &FrontEnd, decoder_version: u32) -> String {
    let text = format!("{} {decoder_version}", front_end.id());
    blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
}

/// What was learned about a track while hearing it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// not there. Reads the indices: for a million tracks, 0.4 GB in 1.4 s, and their places take 130 MB of memory.
    pub fn open(dir: &Path, front_end: &FrontEnd, frames: usize, listening: &Listening) -> Result<Self> {
        front_end.check()?;
        listening.check()?;
        if frames == 0 {
            return Err(Error::invalid("frames of a spectrogram", "at least one", frames));
        }
        let layout = Layout { windows: listening.segments, frames, mel_bands: front_end.mel_bands };
        let id = id(front_end, DECODER_VERSION);
        let folder = dir.join(format!("{id}-{frames}x{}", listening.segments));
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let cache = SpectrogramCache {
            folder,
            front_end: front_end.clone(),
            layout,
            listening: listening.clone(),
            rows_of_a_shard: rows_in(SHARD_BYTES, &layout),
            known: RwLock::default(),
            writer: Mutex::default(),
        };
        cache.refresh()?;
        Ok(cache)
    }

    /// With room for so many bytes in each new shard, instead of 256 MB; at least for one row.
    pub fn with_shards_of(self, bytes: u64) -> Self {
        SpectrogramCache { rows_of_a_shard: rows_in(bytes, &self.layout), ..self }
    }

    /// The content hash of the audio file at `path`, under which its spectrograms are found; heard and stored where they are
    /// not there or damaged. Safe to call from several threads and processes: rows appear whole.
    ///
    /// # Errors
    /// Those of [`hear`]; nothing is stored then.
    pub fn get_or_hear(&self, path: &Path) -> Result<String> {
        let regular = fs::metadata(path).map_err(Error::io(path))?.is_file();
        if !regular {
            return Err(Error::decode(path, "not a regular file"));
        }
        let content = content_hash(path)?;
        if self.contains(&content)? {
            match self.verify(&content) {
                Ok(()) => return Ok(content),
                Err(damage) => tracing::warn!("{damage}; hearing {} again", path.display()),
            }
        }
        let heard = hear(path, &self.front_end, self.layout.frames, &self.listening)?;
        self.keep(&content, &heard)?;
        Ok(content)
    }

    /// The folder that the shards are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether there are spectrograms of the file with this [content hash](content_hash), as far as was seen by the last
    /// [refresh](Self::refresh).
    ///
    /// # Errors
    /// `Invalid` for what is no content hash.
    pub fn contains(&self, content: &str) -> Result<bool> {
        let content = number(content)?;
        Ok(self.known.read().unwrap_or_else(PoisonError::into_inner).places.contains_key(&content))
    }

    /// Sees what other processes have added.
    pub fn refresh(&self) -> Result<()> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for shard in shards_in(&self.folder)? {
            let mut found = Vec::new();
            let before = known.shards.get(&shard).copied();
            let mut scanned = before.unwrap_or_default();
            scan(&self.folder, shard, &mut scanned, |content, place| found.push((content, place)))?;
            if before.is_none_or(|before| before.capacity == 0) {
                scanned.capacity = capacity(&self.folder, shard, &self.layout, scanned.rows)?;
            }
            known.shards.insert(shard, scanned);
            found.into_iter().for_each(|(content, place)| known.add(content, place));
        }
        Ok(())
    }

    /// Stores what was heard, with this cache's front end and windows.
    ///
    /// # Errors
    /// `Io` where it cannot be written; nothing is stored then. `Invalid` for what is no content hash, `Mismatch` for
    /// spectrograms of another shape.
    pub fn keep(&self, content: &str, heard: &Heard) -> Result<()> {
        let content = number(content)?;
        let shape = (self.layout.frames, self.layout.mel_bands);
        if heard.mels.len() != self.layout.windows || heard.mels.iter().any(|mel| mel.dim() != shape) {
            let expected = format!("{} of {shape:?}", self.layout.windows);
            let found: Vec<_> = heard.mels.iter().map(|mel| mel.dim()).collect();
            return Err(Error::mismatch("spectrograms and their cache", expected, format!("{found:?}")));
        }
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
        let numbers = heard.mels.iter().flatten();
        let bytes: Vec<u8> = numbers.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let hashes = bytes.chunks(self.layout.window_bytes()).map(|window| blake3::hash(window).to_hex().to_string());
        let line = Line { windows: hashes.collect(), about };

        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shard = match writer.take() {
            Some(shard) => shard,
            None => self.shard_with_room()?,
        };
        let place = shard.append(content, &bytes, &line)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.shards.insert(shard.shard(), shard.scanned());
        known.add(content, place);
        if !shard.is_full() {
            *writer = Some(shard);
        }
        Ok(())
    }

    /// The first shard that has room and that no other process adds to; a new one where there is none.
    fn shard_with_room(&self) -> Result<Writer> {
        self.refresh()?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = |shard: &Scanned| shard.capacity > 0 && shard.rows >= shard.capacity;
        let with_room: Vec<u32> = known.shards.iter().filter(|(_, shard)| !is_full(shard)).map(|(&n, _)| n).collect();
        let next = known.shards.keys().next_back().map_or(0, |last| last + 1);
        for shard in with_room.into_iter().chain(next..) {
            let mut scanned = known.shards.get(&shard).copied().unwrap_or_default();
            let mut found = Vec::new();
            let add = |content, place| found.push((content, place));
            let taken = Writer::take(&self.folder, shard, &self.layout, self.rows_of_a_shard, &mut scanned, add)?;
            known.shards.insert(shard, scanned);
            found.into_iter().for_each(|(content, place)| known.add(content, place));
            if let Some(writer) = taken {
                return Ok(writer);
            }
        }
        Err(Error::invalid(self.folder.display(), "a shard with room", "none"))
    }

    /// All windows, `[windows, frames, mel_bands]`.
    ///
    /// # Errors
    /// `NotFound` where there are none of this content; `Io`, or `Format` where they are damaged.
    pub fn load(&self, content: &str) -> Result<Array3<f32>> {
        let Layout { windows, frames, mel_bands } = self.layout;
        self.read(content, |entry| {
            let mut all = Array3::zeros((windows, frames, mel_bands));
            for (window, mel) in all.outer_iter_mut().enumerate() {
                entry.read(window)?;
                convert(&entry.bytes, 0, mel);
            }
            Ok(all)
        })
    }

    /// One window, `[frames, mel_bands]`; the others are not read.
    ///
    /// # Errors
    /// As [`SpectrogramCache::load`]; `Invalid` for a window that there is not.
    pub fn load_window(&self, content: &str, window: usize) -> Result<Array2<f32>> {
        let mut mel = Array2::zeros((self.layout.frames, self.layout.mel_bands));
        self.read_crop(content, window, 0, mel.view_mut())?;
        Ok(mel)
    }

    /// The frames of a window from `first_frame` on, into `crop` `[frames of the crop, mel_bands]`. All of the window is read and
    /// verified, since its hash is of all of it; only the crop is converted.
    ///
    /// # Errors
    /// As [`SpectrogramCache::load`]; `Invalid` for a window, or frames, that there are not.
    pub fn read_crop(&self, content: &str, window: usize, first_frame: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
        if window >= self.layout.windows {
            return Err(Error::invalid("window", format!("less than {}", self.layout.windows), window));
        }
        let (frames, bands) = crop.dim();
        if bands != self.layout.mel_bands || first_frame.saturating_add(frames) > self.layout.frames {
            let expected = format!("within {} frames of {} bands", self.layout.frames, self.layout.mel_bands);
            return Err(Error::invalid("crop", expected, format!("{frames} of {bands}, from {first_frame} on")));
        }
        let mut crop = crop;
        self.read(content, |entry| {
            entry.read(window)?;
            convert(&entry.bytes, first_frame, crop.view_mut());
            Ok(())
        })
    }

    /// What was learned about the track.
    pub fn about(&self, content: &str) -> Result<About> {
        self.read(content, |entry| Ok(std::mem::take(&mut entry.line.about)))
    }

    /// Reads all windows against their hashes.
    fn verify(&self, content: &str) -> Result<()> {
        self.read(content, |entry| (0..self.layout.windows).try_for_each(|window| entry.read(window)))
    }

    /// Reads the latest row of this content that is not damaged.
    fn read<T>(&self, content: &str, mut work: impl FnMut(&mut Entry) -> Result<T>) -> Result<T> {
        let key = number(content)?;
        let places = || self.known.read().unwrap_or_else(PoisonError::into_inner).places_of(key);
        let mut found = places();
        if found.is_empty() {
            self.refresh()?;
            found = places();
        }
        let mut damage = None;
        for place in found {
            match Entry::open(&self.folder, &self.layout, key, place).and_then(|mut entry| work(&mut entry)) {
                Ok(done) => return Ok(done),
                Err(e) => damage = damage.or(Some(e)),
            }
        }
        Err(damage.unwrap_or_else(|| Error::NotFound { what: "spectrogram of", name: content.into() }))
    }
}

fn rows_in(bytes: u64, layout: &Layout) -> u32 {
    u32::try_from(bytes / layout.row_bytes()).unwrap_or(u32::MAX).max(1)
}

fn number(content: &str) -> Result<u128> {
    content_number(content)
        .ok_or_else(|| Error::invalid("content hash", "32 hexadecimal digits", format!("{content:?}")))
}

/// Half floats as they are on disk, from `first_frame` on.
fn convert(bytes: &[u8], first_frame: usize, mut into: ArrayViewMut2<f32>) {
    let bands = into.len_of(Axis(1));
    let frames = bytes.chunks_exact(2 * bands).skip(first_frame);
    let mut halves = vec![f16::ZERO; bands];
    for (mut to, frame) in into.rows_mut().into_iter().zip(frames) {
        for (half, bytes) in halves.iter_mut().zip(frame.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        match to.as_slice_mut() {
            Some(to) => halves.convert_to_f32_slice(to),
            None => to.iter_mut().zip(&halves).for_each(|(to, half)| *to = half.to_f32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::audio::write_wav;

    fn windows(segments: usize) -> Listening {
        Listening { segments, ..Listening::default() }
    }

    fn song(path: &Path, seconds: usize, hz: f32) {
        let samples: Vec<f32> = (0..22_050 * seconds).map(|i| 0.5 * (i as f32 * hz * 2.849_517e-4).sin()).collect();
        write_wav(path, &samples, 22_050).unwrap();
    }

    /// Of 128 bytes a row, with shards of so many of these.
    fn small(dir: &Path, rows: u64) -> SpectrogramCache {
        let front_end = FrontEnd { mel_bands: 8, window_length: 256, hop_length: 256, ..FrontEnd::default() };
        SpectrogramCache::open(dir, &front_end, 4, &windows(2)).unwrap().with_shards_of(128 * rows)
    }

    fn content(n: usize) -> String {
        format!("{n:032x}")
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
        entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
    }

    #[test]
    fn what_is_stored_is_what_was_heard_to_half_precision() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 12, 440.0);
        let front_end = FrontEnd::default();
        let cache = SpectrogramCache::open(dir.path(), &front_end, 40, &windows(3)).unwrap();
        let content = cache.get_or_hear(&path).unwrap();
        let all = cache.load(&content).unwrap();
        let heard = hear(&path, &front_end, 40, &windows(3)).unwrap();
        for (window, mel) in heard.mels.iter().enumerate() {
            let whole = all.index_axis(Axis(0), window);
            assert_eq!(cache.load_window(&content, window).unwrap(), whole);
            for (a, b) in whole.iter().zip(mel) {
                assert!((a - b).abs() <= b.abs() * 0.0005 + 1e-6, "{a} for {b}");
            }
            // A crop, into memory that is not in order, too.
            let mut crop = Array2::zeros((30, 128));
            cache.read_crop(&content, window, 7, crop.view_mut()).unwrap();
            assert_eq!(crop, whole.slice(ndarray::s![7..37, ..]));
            let mut turned = Array2::zeros((128, 30));
            cache.read_crop(&content, window, 7, turned.view_mut().reversed_axes()).unwrap();
            assert_eq!(turned.t(), crop);
        }
        let about = cache.about(&content).unwrap();
        assert_eq!((about.seconds, about.codec.as_str(), about.tiled), (heard.seconds, heard.codec, heard.tiled));
        assert_eq!(about.start_seconds, heard.start_seconds);
        assert!(matches!(cache.load_window(&content, 3), Err(Error::Invalid { .. })));
        for (frames, bands, first) in [(30, 128, 11), (41, 128, 0), (30, 127, 0), (1, 128, usize::MAX)] {
            let crop = cache.read_crop(&content, 0, first, Array2::zeros((frames, bands)).view_mut());
            assert!(matches!(crop, Err(Error::Invalid { .. })), "{frames} {bands} {first}");
        }
        assert!(matches!(cache.load("../../etc/passwd"), Err(Error::Invalid { .. })));
        assert!(matches!(cache.load(&self::content(1)), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_hit_does_not_listen_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 3, 440.0);
        let cache = SpectrogramCache::open(dir.path(), &FrontEnd::default(), 20, &windows(1)).unwrap();
        let content = cache.get_or_hear(&path).unwrap();
        // The same content under another name is the same track.
        let copy = dir.path().join("copy.wav");
        fs::copy(&path, &copy).unwrap();
        assert_eq!(cache.get_or_hear(&copy).unwrap(), content);
        assert_eq!(cache.writer.lock().unwrap().as_ref().unwrap().scanned().rows, 1);
        // Another front end, length or number of windows never meets this entry.
        let other = FrontEnd { log_gain: 1000.0, ..FrontEnd::default() };
        for cache in [
            SpectrogramCache::open(dir.path(), &other, 20, &windows(1)).unwrap(),
            SpectrogramCache::open(dir.path(), &FrontEnd::default(), 21, &windows(1)).unwrap(),
            SpectrogramCache::open(dir.path(), &FrontEnd::default(), 20, &windows(2)).unwrap(),
        ] {
            assert!(!cache.contains(&content).unwrap());
            assert!(matches!(cache.load(&content), Err(Error::NotFound { .. })));
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
        let mels = dir.path().join("mels");
        let first = small(&mels, 3);
        let content = first.get_or_hear(&path).unwrap();
        let whole = first.load(&content).unwrap();
        let about = first.about(&content).unwrap();
        // Also seen by one who has read the index before the damage.
        let early = small(&mels, 3);
        drop(first);
        let [index, array] = <[PathBuf; 2]>::try_from(files(&mels)).unwrap();
        let kept = [fs::read(&index).unwrap(), fs::read(&array).unwrap()];
        assert_eq!(kept[1].len(), 128 + 3 * 128);
        for (path_of_it, bytes) in [(&index, &kept[0]), (&array, &kept[1])] {
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x10;
                for (what, damaged) in [("byte", &flipped[..]), ("cut at", &bytes[..at])] {
                    fs::write(path_of_it, damaged).unwrap();
                    let is_data =
                        path_of_it == &index || (if what == "byte" { 128..256 } else { 0..256 }).contains(&at);
                    for (who, cache) in [("early", &early), ("late", &small(&mels, 3))] {
                        match cache.load(&content) {
                            Ok(found) => assert!(!is_data && found == whole, "{who}: {what} {at}"),
                            Err(Error::Format { .. } | Error::NotFound { .. }) => {
                                assert!(is_data, "{who}: {what} {at}")
                            }
                            Err(e) => panic!("{who}: {what} {at}: {e}"),
                        }
                    }
                    // Who heals it tells of the rest, too, and NumPy can read the file.
                    if at % 16 == 3 {
                        let cache = small(&mels, 3);
                        assert_eq!(cache.get_or_hear(&path).unwrap(), content);
                        assert_eq!(
                            (cache.load(&content).unwrap(), cache.about(&content).unwrap()),
                            (whole.clone(), about.clone())
                        );
                        drop(cache);
                        assert_eq!(small(&mels, 3).load(&content).unwrap(), whole, "{what} {at}");
                        for array in files(&mels).iter().filter(|path| path.extension().is_some_and(|e| e == "npy")) {
                            let rows = (fs::metadata(array).unwrap().len() - 128) / 128;
                            assert_eq!(fs::read(array).unwrap().len() as u64, 128 + 128 * rows);
                            let shape = format!("({rows}, 2, 4, 8)");
                            assert!(String::from_utf8_lossy(&fs::read(array).unwrap()[..128]).contains(&shape));
                        }
                    }
                    for file in files(&mels) {
                        fs::remove_file(file).unwrap();
                    }
                    fs::write(&index, &kept[0]).unwrap();
                    fs::write(&array, &kept[1]).unwrap();
                }
            }
        }
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

    /// Numbers that tell which track they are of.
    fn heard(n: usize) -> Heard {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        song(&path, 1, 440.0);
        let front_end = FrontEnd { mel_bands: 8, window_length: 256, hop_length: 256, ..FrontEnd::default() };
        let mut heard = hear(&path, &front_end, 4, &windows(2)).unwrap();
        heard.mels.iter_mut().for_each(|mel| mel.fill((n % 2048) as f32));
        heard
    }

    /// Whether these tracks are there, each as it was kept.
    fn holds(cache: &SpectrogramCache, tracks: impl Iterator<Item = usize>) {
        for n in tracks {
            assert!(cache.load(&content(n)).unwrap().iter().all(|x| *x == (n % 2048) as f32), "track {n}");
        }
    }

    #[test]
    fn full_shards_are_sealed_and_half_full_ones_filled_up() {
        let dir = tempfile::tempdir().unwrap();
        for run in 0..3 {
            let cache = small(dir.path(), 4);
            for n in 5 * run..5 * run + 5 {
                cache.keep(&content(n), &heard(n)).unwrap();
            }
        }
        let cache = small(dir.path(), 4);
        holds(&cache, 0..15);
        let rows: Vec<u32> = cache.known.read().unwrap().shards.values().map(|shard| shard.rows).collect();
        assert_eq!(rows, [4, 4, 4, 3]);
        // A shard that is lost costs its tracks, not the others'.
        fs::remove_file(cache.folder.join("00001.npy")).unwrap();
        let cache = small(dir.path(), 4);
        holds(&cache, (0..4).chain(8..15));
        assert!(matches!(cache.load(&content(5)), Err(Error::Io { .. })));
        cache.keep(&content(5), &heard(5)).unwrap();
        holds(&small(dir.path(), 4), (0..4).chain([5]).chain(8..15));
        let odd = Heard { mels: Vec::new(), ..heard(0) };
        assert!(matches!(cache.keep(&content(0), &odd), Err(Error::Mismatch { .. })));
    }

    const CHILD: &str = "DEBUT_TEST_CACHE_CHILD";

    /// The process that [`processes_write_at_once_and_one_is_killed`] starts; no test of its own.
    #[test]
    fn the_child_that_writes() {
        let Ok(folder) = std::env::var(CHILD) else { return };
        let cache = small(Path::new(&folder), 50);
        for n in 1000.. {
            cache.keep(&content(n), &heard(n)).unwrap();
            println!("@@{n}");
        }
    }

    #[test]
    fn processes_write_at_once_and_one_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let start = |_| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "audio::cache::tests::the_child_that_writes", "--nocapture"]).env(CHILD, dir.path());
            let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            (child, lines.map_while(|line| line.ok()).filter_map(|line| line.split_once("@@")?.1.parse::<usize>().ok()))
        };
        let mut children: Vec<_> = (0..2).map(start).collect();
        let cache = small(dir.path(), 50);
        // Threads of this process beside the two, and each of the three in a shard of its own.
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    (0..40).for_each(|i| cache.keep(&content(thread * 40 + i), &heard(thread * 40 + i)).unwrap())
                });
            }
        });
        let mut acknowledged = Vec::new();
        for (child, lines) in &mut children {
            acknowledged.extend(lines.by_ref().take(60));
            child.kill().unwrap();
            acknowledged.extend(lines);
            child.wait().unwrap();
        }
        assert!(acknowledged.len() >= 120);
        // Who has it open sees what the others have written since, and so does who comes later.
        cache.refresh().unwrap();
        drop(cache.writer.lock().unwrap().take());
        for cache in [cache, small(dir.path(), 50)] {
            holds(&cache, (0..160).chain(acknowledged.iter().copied()));
            // What the killed ones had begun is written over.
            (2000..2200).for_each(|n| cache.keep(&content(n), &heard(n)).unwrap());
            holds(&cache, (0..160).chain(acknowledged.iter().copied()).chain(2000..2200));
        }
        let shards = files(dir.path()).len() / 2;
        assert!((9..=15).contains(&shards), "{shards}");
    }
}
