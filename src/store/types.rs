//! What the catalogue holds, as the rest of debut sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

/// What a served vector rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The sound alone: nobody has played it.
    Predicted,
    /// The sound and the plays so far (see [`crate::handover`]).
    HandedOver,
    /// The plays alone: debut never heard the track.
    Learned,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Source::Predicted => "predicted",
            Source::HandedOver => "handed_over",
            Source::Learned => "learned",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Source> {
        [Source::Predicted, Source::HandedOver, Source::Learned].into_iter().find(|s| s.as_str() == text)
    }
}

/// What is known of a track besides its vectors; from the manifest, else from the file's tags.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrackInfo {
    pub title: Option<String>,
    pub artist: Option<String>,
    pub album: Option<String>,
    pub year: Option<i32>,
    pub genre: Option<String>,
    pub isrc: Option<String>,
    pub musicbrainz: Option<String>,
    /// Date of release as the manifest gave it (ISO 8601).
    pub released: Option<String>,
    /// Of what is sung, as the manifest writes it (`en`, `pt-BR`).
    pub language: Option<String>,
    /// Marked as not for children.
    pub explicit: Option<bool>,
    /// Where it may be played, as the manifest writes it (`DE AT CH`); none: everywhere.
    pub regions: Option<String>,
}

impl TrackInfo {
    /// Whose songs are evidence of this one: the artist's; where none is named, the album's; of compilations and of what
    /// nobody named, nobody's.
    pub fn artist_or_album(&self) -> Option<&str> {
        let named = |name: &&str| names_somebody(name);
        // An album of various artists is not an artist's.
        match &self.artist {
            Some(artist) => Some(artist.as_str()).filter(named),
            None => self.album.as_deref().filter(named),
        }
    }

    /// What this says, and where it says nothing, what `then` says.
    pub fn or(self, then: TrackInfo) -> TrackInfo {
        TrackInfo {
            title: self.title.or(then.title),
            artist: self.artist.or(then.artist),
            album: self.album.or(then.album),
            year: self.year.or(then.year),
            genre: self.genre.or(then.genre),
            isrc: self.isrc.or(then.isrc),
            musicbrainz: self.musicbrainz.or(then.musicbrainz),
            released: self.released.or(then.released),
            language: self.language.or(then.language),
            explicit: self.explicit.or(then.explicit),
            regions: self.regions.or(then.regions),
        }
    }
}

/// Whether an artist's or album's name is one; taggers write "Various Artists" where they know none.
pub fn names_somebody(name: &str) -> bool {
    const NOBODY: [&str; 7] =
        ["various artists", "various", "va", "unknown artist", "unknown", "unknown album", "[unknown]"];
    let name = name.trim();
    !name.is_empty() && !NOBODY.iter().any(|nobody| name.eq_ignore_ascii_case(nobody))
}

/// One track of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub id: TrackId,
    /// Where it was heard; `None` for a track that is known from plays only.
    pub path: Option<PathBuf>,
    /// [`content_hash`](crate::artefact::content_hash) of what was heard.
    pub content: Option<String>,
    pub info: TrackInfo,
    /// Length, in seconds, where the file says.
    pub seconds: Option<f64>,
    /// The track is shorter than the network's window and was repeated to fill it.
    pub tiled: bool,
    /// The id of the model that predicted.
    pub model: Option<String>,
    /// The windows that it heard of the track: vectors of one window and of three are not of one kind.
    pub windows: Option<u32>,
    /// `[d]`, unit length: what the network predicts from the sound.
    pub predicted: Option<Vec<f32>>,
    /// The length of the network's answer before it was made unit length: how sure it was.
    pub length: Option<f32>,
    /// 0 to 1: the cosine to expect between what is served before anyone has played the track and what its listeners are
    /// going to teach; `None` where the model does not know.
    pub confidence: Option<f32>,
    /// `[d]`, unit length: what is served.
    pub vector: Vec<f32>,
    /// The length of the factor before it was made unit length: how popular the track is.
    pub norm: f32,
    pub source: Source,
    /// The number of listeners it has had.
    pub plays: u32,
}

/// A file as it was when it was looked at; an unchanged stamp means an unchanged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
}

impl FileStamp {
    /// # Errors
    /// `Io` where the file cannot be looked at.
    pub fn of(path: &Path) -> Result<FileStamp> {
        let meta = fs::metadata(path).map_err(Error::io(path))?;
        // A file system without times, or a time before 1970, reads as 0: the size still tells most changes.
        let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok(FileStamp {
            path: path.to_path_buf(),
            size: meta.len(),
            modified: modified.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
        })
    }
}

/// What came of a file when it was last looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRecord {
    pub stamp: FileStamp,
    pub content: Option<String>,
    pub outcome: FileOutcome,
    /// [`DECODER_VERSION`](crate::audio::DECODER_VERSION) at that time.
    pub decoder: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FileOutcome {
    Track(TrackId),
    /// Why it cannot be used, and whether trying the same bytes again may help (a disk that did not answer) or not.
    Failed {
        reason: String,
        retry: bool,
    },
}

/// A file that could not be used, for `debut failures`.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    pub reason: String,
    /// Seconds since 1970.
    pub at: i64,
}

/// A path as JSON can hold it: what is not UTF-8 is replaced.
pub(crate) fn lossy<S: serde::Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&path.to_string_lossy())
}

/// One step of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds the track, or replaces the one of the same id.
    Upsert(Box<Track>),
    /// Remembers what came of a file. Where the file gave another track before that is named by its content, and no
    /// other file gives that one, it goes: its content is nowhere any more.
    File(FileRecord),
    Remove(TrackId),
}

/// A track whose listeners have taught where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Song {
    pub id: TrackId,
    /// `[d]`, unit length: what is served.
    pub vector: Vec<f32>,
    /// The number of listeners it has had.
    pub plays: u32,
}

/// A line of the change feed: what that key has now, or that it is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackChange {
    pub key: u64,
    pub seq: i64,
    pub served: Option<Served>,
}

/// What an index needs to know of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// `[d]`, unit length.
    pub vector: Vec<f32>,
    pub norm: f32,
    pub plays: u32,
    pub artist: Option<String>,
    pub year: Option<i32>,
    pub language: Option<String>,
    pub explicit: Option<bool>,
    pub regions: Option<String>,
}

/// The factor space of a catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct SpaceRow {
    pub id: SpaceId,
    pub dimensions: usize,
    /// What a fold-in needs, as JSON (see [`crate::factors`]).
    pub description: String,
}

/// A listener, and what he met.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub id: UserId,
    /// `[d]`, in the scale of the factorisation.
    pub vector: Vec<f32>,
    pub history: Vec<Met>,
}

/// One track that a listener met.
#[derive(Clone, Debug, PartialEq)]
pub struct Met {
    pub track: TrackId,
    /// c of Hu, Koren and Volinsky (2008), at least 1.
    pub confidence: f32,
    /// p, 0 (skipped) to 1 (liked).
    pub preference: f32,
}

/// Counts, for `debut status`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub tracks: u64,
    pub predicted: u64,
    pub handed_over: u64,
    pub learned: u64,
    pub failures: u64,
    pub listeners: u64,
    pub seq: i64,
    pub space: Option<String>,
    pub dimensions: Option<usize>,
    /// Models that predicted the vectors, the windows that they heard of a track, and how many tracks each.
    pub models: Vec<(String, u32, u64)>,
    /// Tracks that have no vector in the space that is served, and cannot be found until they are ingested again.
    pub without_vector: u64,
    /// The space of the generation that `debut reindex --back` would serve.
    pub previous_space: Option<String>,
    /// Bytes of the database, its log included.
    pub bytes: u64,
}
