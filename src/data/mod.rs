//! A data set: tracks that were heard, joined with what listeners did with them, and split. [`prepare`] makes it once;
//! training and evaluation read it.
//!
//! ```text
//! DATA/
//!   data.toml     how it was made, where the spectrograms are, and the hashes of the files below; written last
//!   tracks.csv    id,path,content,artist,album,released,first_play,listeners,seconds,windows of each track that was heard
//!   splits/       track.csv artist.csv time.csv, of the tracks that somebody listened to (see [`crate::eval::TrackSplit`])
//!   failed.csv    path,reason,content,decoder_version of each file that could not be heard
//!   report.json   coverage
//! ```
//!
//! All of it is a function of the inputs and the settings, whatever was heard when and by how many threads.

mod prepare;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayViewMut2};
use serde::{Deserialize, Serialize};

pub use prepare::{Failure, Hearing, ListenedTo, Settings, hear_all, prepare, read_failures, write_failures};
pub use report::{Report, SplitReport};

use crate::artefact::{file_hash, read_sealed_toml};
use crate::audio::{DECODER_VERSION, EXCERPT_FRAMES, FrontEnd, Listening, SpectrogramCache};
use crate::error::{Error, Result};
use crate::eval::SplitConfig;
use crate::ids::TrackId;
use crate::inputs::Input;
use crate::store::TrackInfo;

const VERSION: u32 = 1;
const HEADER: &str = "data.toml";
const TRACKS: &str = "tracks.csv";
/// The splits, as they are named below `splits/`.
pub const SPLITS: [&str; 3] = ["track", "artist", "time"];

/// `data.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    /// Of the decoders that heard the tracks.
    decoder_version: u32,
    /// Where the spectrograms are kept.
    cache: PathBuf,
    frames: usize,
    windows: usize,
    tracks: usize,
    failed: usize,
    front_end: FrontEnd,
    split: SplitConfig,
    /// BLAKE3 of the table of tracks and of each split: they are of one run.
    files: BTreeMap<String, String>,
}

/// A line of `tracks.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub id: TrackId,
    pub path: PathBuf,
    /// The content hash of the file, under which its spectrograms are found.
    pub content: String,
    pub artist: Option<String>,
    pub album: Option<String>,
    /// As the manifest has it.
    pub released: Option<String>,
    /// Unix seconds.
    pub first_play: Option<i64>,
    /// Who did more than skip it.
    pub listeners: u32,
    /// Its length, where the file says.
    pub seconds: Option<f64>,
    pub windows: usize,
}

/// The tracks of a data set, with their spectrograms.
#[derive(Debug)]
pub struct DataSet {
    pub tracks: Vec<TrackId>,
    /// File, artist and album of each.
    pub inputs: Vec<Input>,
    /// Windows of each track, 30 s apart or evenly spread.
    pub windows: usize,
    /// Files that could not be heard.
    pub failed: usize,
    contents: Vec<String>,
    cache: SpectrogramCache,
    front_end: FrontEnd,
}

impl DataSet {
    /// Reads what [`prepare`] wrote, and looks whether every track's spectrograms are there.
    ///
    /// # Errors
    /// `Io`; `Format` for a damaged or edited file, a split among them; `Mismatch` where other decoders heard it, or spectrograms are gone:
    /// it must be prepared again, which hears only what is missing.
    pub fn open(dir: &Path, listening: &Listening) -> Result<DataSet> {
        let path = dir.join(HEADER);
        let header: Header = read_sealed_toml(&path, "the description of a data set")?;
        if header.version != VERSION {
            return Err(Error::unsupported(path, format!("version {VERSION}"), header.version));
        }
        let stale = |expected: String, found: String| {
            Error::mismatch(format!("{} (run `debut prepare` again)", dir.display()), expected, found)
        };
        if (header.decoder_version, header.frames) != (DECODER_VERSION, EXCERPT_FRAMES) {
            let expected = format!("decoders of version {DECODER_VERSION}, {EXCERPT_FRAMES} frames");
            return Err(stale(expected, format!("{}, {}", header.decoder_version, header.frames)));
        }
        for (name, hash) in &header.files {
            let (file, found) = (dir.join(name), file_hash(&dir.join(name))?);
            if *hash != found {
                let expected =
                    format!("the file of which data.toml has the hash {hash} (or run `debut prepare` again)");
                return Err(Error::format(file, expected, found));
            }
        }
        let rows = read_rows(&dir.join(TRACKS))?;
        let listening = Listening { segments: header.windows, ..listening.clone() };
        let cache = SpectrogramCache::open(&header.cache, &header.front_end, header.frames, &listening)?;
        let mut missing = 0;
        for row in &rows {
            missing += usize::from(!cache.contains(&row.content)?);
        }
        if missing > 0 {
            let found = format!("{missing} of them missing");
            return Err(stale(format!("spectrograms of {} tracks in {}", rows.len(), header.cache.display()), found));
        }
        let mut data = DataSet {
            tracks: Vec::new(),
            inputs: Vec::new(),
            windows: header.windows,
            failed: header.failed,
            contents: Vec::new(),
            cache,
            front_end: header.front_end,
        };
        for row in rows {
            let info =
                TrackInfo { artist: row.artist, album: row.album, released: row.released, ..TrackInfo::default() };
            data.inputs.push(Input { path: row.path, id: Some(row.id.clone()), info });
            data.tracks.push(row.id);
            data.contents.push(row.content);
        }
        Ok(data)
    }

    /// The content hash of a track's file.
    pub fn content(&self, track: usize) -> &str {
        &self.contents[track]
    }

    /// Frames of a window.
    pub fn frames(&self) -> usize {
        EXCERPT_FRAMES
    }

    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// One window of one track, `[EXCERPT_FRAMES, mel_bands]`.
    pub fn load(&self, track: usize, window: usize) -> Result<Array2<f32>> {
        self.cache.load_window(&self.contents[track], window)
    }

    /// The frames of a window from `first_frame` on, into `crop` `[frames of the crop, mel_bands]`.
    pub fn read_crop(&self, track: usize, window: usize, first_frame: usize, crop: ArrayViewMut2<f32>) -> Result<()> {
        self.cache.read_crop(&self.contents[track], window, first_frame, crop)
    }
}

/// # Errors
/// `Io`; `Format` for a row that does not fit.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut reader = csv::Reader::from_reader(file);
    reader.deserialize().collect::<Result<_, _>>().map_err(|e| Error::format(path, "rows of tracks", e))
}
