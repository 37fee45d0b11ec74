//! What the file says about itself.

use serde::Serialize;
use symphonia::core::formats::FormatReader;
use symphonia::core::meta::{MetadataContainer, RawValue, StandardTag, Tag};

/// The longest text that is kept of one tag, in bytes; longer ones are cut at a character.
const MAX_TEXT: usize = 1024;

/// Title, artist and the like, as the file's tags give them; absent where the file says nothing or only spaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct Tags {
    pub title: Option<String>,
    pub artist: Option<String>,
    pub album: Option<String>,
    /// Of release, else of recording.
    pub year: Option<i32>,
    pub genre: Option<String>,
    /// International standard recording code, e.g. `USRC17607839`.
    pub isrc: Option<String>,
    /// MusicBrainz identifier of the recording, a UUID.
    pub musicbrainz_recording: Option<String>,
}

impl Tags {
    /// All tags of a file that has been probed. Where several say the same thing, the first that says something wins;
    /// tags of the container come before those at the end of the file.
    pub fn of(reader: &mut dyn FormatReader) -> Tags {
        let mut tags = Tags::default();
        let mut fallback = Fallback::default();
        let mut log = reader.metadata();
        loop {
            if let Some(revision) = log.current() {
                tags.add(&revision.media, &mut fallback);
                for track in &revision.per_track {
                    tags.add(&track.metadata, &mut fallback);
                }
            }
            if log.pop().is_none() {
                break;
            }
        }
        tags.artist = tags.artist.or(fallback.album_artist);
        tags.year = tags.year.or(fallback.year);
        tags.musicbrainz_recording = tags.musicbrainz_recording.or(fallback.musicbrainz);
        tags
    }

    fn add(&mut self, container: &MetadataContainer, fallback: &mut Fallback) {
        for tag in &container.tags {
            match &tag.std {
                Some(StandardTag::TrackTitle(s)) => set(&mut self.title, s),
                Some(StandardTag::Artist(s)) => set(&mut self.artist, s),
                Some(StandardTag::AlbumArtist(s)) => set(&mut fallback.album_artist, s),
                Some(StandardTag::Album(s)) => set(&mut self.album, s),
                Some(StandardTag::Genre(s)) => set(&mut self.genre, s),
                Some(StandardTag::IdentIsrc(s)) => set(&mut self.isrc, s),
                Some(StandardTag::ReleaseDate(s)) => self.year = self.year.or(year(s)),
                Some(StandardTag::ReleaseYear(y)) => self.year = self.year.or(Some(i32::from(*y))),
                Some(StandardTag::RecordingDate(s) | StandardTag::OriginalReleaseDate(s)) => {
                    fallback.year = fallback.year.or(year(s));
                }
                Some(StandardTag::RecordingYear(y) | StandardTag::OriginalReleaseYear(y)) => {
                    fallback.year = fallback.year.or(Some(i32::from(*y)));
                }
                Some(StandardTag::MusicBrainzRecordingId(s)) => set(&mut self.musicbrainz_recording, s),
                // Taggers write the recording's id into the field that is called "track id".
                Some(StandardTag::MusicBrainzTrackId(s)) => set(&mut fallback.musicbrainz, s),
                Some(_) => {}
                None => unique_file_id(tag, &mut self.musicbrainz_recording),
            }
        }
    }
}

/// Second choices, taken where the first are silent.
#[derive(Default)]
struct Fallback {
    album_artist: Option<String>,
    year: Option<i32>,
    musicbrainz: Option<String>,
}

/// In ID3v2 the recording's id is a unique-file-identifier frame whose owner is MusicBrainz.
fn unique_file_id(tag: &Tag, recording: &mut Option<String>) {
    let ours = tag.raw.key == "UFID"
        && tag.raw.sub_fields.as_ref().is_some_and(|fields| {
            fields.iter().any(|f| matches!(&f.value, RawValue::String(s) if s.contains("musicbrainz.org")))
        });
    if let (true, RawValue::Binary(bytes)) = (ours, &tag.raw.value) {
        set(recording, &String::from_utf8_lossy(bytes));
    }
}

fn set(field: &mut Option<String>, text: &str) {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    if field.is_none() && !text.is_empty() {
        let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        *field = Some(text[..end].to_string());
    }
}

/// The year of a date such as `1999-12-31`.
fn year(date: &str) -> Option<i32> {
    let digits: String = date.trim().chars().take_while(char::is_ascii_digit).collect();
    (digits.len() == 4).then(|| digits.parse().ok()).flatten()
}

#[test]
fn texts_are_trimmed_cut_at_a_character_and_the_first_wins() {
    let mut field = None;
    set(&mut field, " \0 ");
    assert_eq!(field, None);
    set(&mut field, &"é".repeat(MAX_TEXT));
    assert_eq!(field.as_ref().unwrap().len(), MAX_TEXT);
    set(&mut field, "later");
    assert!(field.unwrap().starts_with('é'));
    assert_eq!(
        (year("1999-12-31"), year(" 2004"), year("99"), year("12345"), year("")),
        (Some(1999), Some(2004), None, None, None)
    );
}
