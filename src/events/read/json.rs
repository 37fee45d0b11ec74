//! JSON lines: our own, and those of ListenBrainz.
//!
//! A listen, of the dumps (`listens/2024/1.listens`) and of a listener's own export (`listens/2024/1.jsonl`):
//!
//! ```json
//! {"user_name": "ann", "listened_at": 1704067200, "track_metadata": {"artist_name": "Björk", "track_name": "Hunter",
//!  "additional_info": {"recording_mbid": "…"}, "mbid_mapping": {"recording_mbid": "…"}}}
//! ```
//!
//! (`timestamp` for `listened_at` in some dumps; in an export no user, who stands in `user.json`). A line of
//! `feedback.jsonl`: `{"recording_mbid": "…", "score": 1, "created": 1704067200}`, with 1 for love and −1 for hate.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::lines::Lines;
use super::{Packing, Row, Source, number, seconds, track_name, whole_seconds};
use crate::error::{Error, Result};

/// Ids and numbers come as either, so both are taken as either.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Whole(i64),
    Number(f64),
}

/// A field of somebody else's, who may put there what he likes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Foreign<'a> {
    Scalar(#[serde(borrow)] Scalar<'a>),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    time: Option<Scalar<'a>>,
    #[serde(borrow)]
    user: Option<Scalar<'a>>,
    #[serde(borrow)]
    track: Option<Scalar<'a>>,
    #[serde(borrow)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Scalar<'a>>,
    #[serde(borrow)]
    seconds: Option<Scalar<'a>>,
    #[serde(borrow)]
    duration: Option<Scalar<'a>>,
    #[serde(borrow)]
    playlist: Option<Scalar<'a>>,
    #[serde(borrow)]
    track_metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    listened_at: Option<Foreign<'a>>,
    #[serde(borrow)]
    timestamp: Option<Foreign<'a>>,
    #[serde(borrow)]
    user_name: Option<Foreign<'a>>,
    #[serde(borrow)]
    score: Option<Foreign<'a>>,
    #[serde(borrow)]
    created: Option<Foreign<'a>>,
    #[serde(borrow)]
    recording_mbid: Option<Foreign<'a>>,
    #[serde(borrow)]
    recording_msid: Option<Foreign<'a>>,
}

/// What a listen says of the track.
#[derive(Deserialize)]
#[serde(untagged)]
enum Metadata<'a> {
    Listen {
        #[serde(borrow)]
        artist_name: Option<Foreign<'a>>,
        #[serde(borrow)]
        track_name: Option<Foreign<'a>>,
        #[serde(borrow)]
        additional_info: Option<Recording<'a>>,
        #[serde(borrow)]
        mbid_mapping: Option<Recording<'a>>,
    },
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Recording<'a> {
    Known {
        #[serde(borrow)]
        recording_mbid: Option<Foreign<'a>>,
    },
    Other(IgnoredAny),
}

/// The name of a listener in the export of his data.
#[derive(Deserialize)]
struct User {
    #[serde(alias = "user_name")]
    username: String,
}

pub fn read(source: &mut Source, packing: Packing) -> Result<()> {
    let mut lines = Lines::open(source.path, packing)?;
    // Looked for when a line needs it.
    let mut export_of: Option<Option<String>> = None;
    while let Some(found) = lines.next()? {
        let line = match found {
            Ok(()) if lines.line().is_empty() => continue,
            Ok(()) => std::str::from_utf8(lines.line())
                .map_err(|_| "not UTF-8")
                .and_then(|line| serde_json::from_str::<Line>(line).map_err(|_| "not a JSON object of plain values")),
            Err(reason) => Err(reason),
        };
        let row = match line {
            Err(reason) => Err(reason),
            Ok(line) if line.track.is_some() => ours(line),
            Ok(line @ Line { track_metadata: Some(_), .. } | line @ Line { score: Some(_), .. }) => {
                if export_of.is_none() && line.user_name.is_none() {
                    export_of = Some(listener_of_export(source.path)?);
                }
                listenbrainz(line, export_of.as_ref().and_then(Option::as_deref))
            }
            Ok(line) => ours(line),
        };
        source.give_line(row, &lines)?;
    }
    Ok(())
}

fn ours(line: Line) -> Result<Row, &'static str> {
    Ok(Row {
        time: line.time.map(time).transpose()?,
        user: line.user.map(id).transpose()?,
        track: line.track.map(id).transpose()?,
        action: line.action,
        value: line.value.map(amount).transpose()?,
        seconds: line.seconds.map(amount).transpose()?,
        duration: line.duration.map(amount).transpose()?,
        playlist: line.playlist.map(id).transpose()?.filter(|list| !list.trim().is_empty()),
    })
}

fn listenbrainz<'a>(line: Line<'a>, export_of: Option<&'a str>) -> Result<Row<'a>, &'static str> {
    let user = text(line.user_name).or(export_of.map(Cow::from));
    let row = Row { user: Some(user.ok_or("no user_name, and no user.json of an export")?), ..Row::default() };
    if let Some(score) = line.score {
        let action = match score {
            Foreign::Scalar(Scalar::Whole(1)) => "like",
            Foreign::Scalar(Scalar::Whole(0)) => "unlike",
            Foreign::Scalar(Scalar::Whole(-1)) => "dislike",
            _ => return Err("a score that is not -1, 0 or 1"),
        };
        return Ok(Row {
            time: line.created.map(foreign_time).transpose()?,
            track: text(line.recording_mbid).or(text(line.recording_msid)),
            action: Some(action.into()),
            ..row
        });
    }
    let Some(Metadata::Listen { artist_name, track_name: title, additional_info, mbid_mapping }) = line.track_metadata
    else {
        return Err("a missing field");
    };
    let mbid = |recording| match recording {
        Some(Recording::Known { recording_mbid }) => text(recording_mbid),
        Some(Recording::Other(_)) | None => None,
    };
    // The mapping already prefers what the listener's player said.
    let track = match mbid(mbid_mapping).or(mbid(additional_info)) {
        Some(mbid) => Some(mbid),
        None => track_name(None, text(artist_name).as_deref(), text(title).as_deref()).map(|n| n.into_owned().into()),
    };
    let time = line.listened_at.or(line.timestamp).map(foreign_time).transpose()?;
    Ok(Row { time, track, ..row })
}

/// Text that is there; empty text is as good as none.
fn text(field: Option<Foreign>) -> Option<Cow<str>> {
    match field {
        Some(Foreign::Scalar(Scalar::Text(text))) if !text.trim().is_empty() => Some(text),
        _ => None,
    }
}

fn foreign_time(field: Foreign) -> Result<i64, &'static str> {
    match field {
        Foreign::Scalar(scalar) => time(scalar),
        Foreign::Other(_) => Err("a time that is not a number"),
    }
}

fn id(field: Scalar) -> Result<Cow<str>, &'static str> {
    match field {
        Scalar::Text(text) => Ok(text),
        Scalar::Whole(number) => Ok(number.to_string().into()),
        Scalar::Number(_) => Err("an id that is a fraction"),
    }
}

fn time(field: Scalar) -> Result<i64, &'static str> {
    match field {
        Scalar::Text(text) => seconds(&text),
        Scalar::Whole(time) => Ok(time),
        Scalar::Number(time) => whole_seconds(time),
    }
}

fn amount(field: Scalar) -> Result<f64, &'static str> {
    match field {
        Scalar::Text(text) => number(&text),
        Scalar::Whole(value) => Ok(value as f64),
        Scalar::Number(value) => Ok(value),
    }
}

/// Who stands in the `user.json` of the export that a file belongs to: in its folder, or up to two above
/// (`listens/2024/1.jsonl`).
fn listener_of_export(file: &Path) -> Result<Option<String>> {
    let mut paths = file.ancestors().skip(1).take(3).map(|folder| folder.join("user.json"));
    let Some(path) = paths.find(|path| path.is_file()) else { return Ok(None) };
    let mut text = String::new();
    // It is a line; what is longer is something else.
    let file = std::fs::File::open(&path).map_err(Error::io(&path))?;
    file.take(1 << 16).read_to_string(&mut text).map_err(Error::io(&path))?;
    let user: User = serde_json::from_str(&text).map_err(|e| Error::format(&path, "an object with a username", e))?;
    Ok(Some(user.username))
}
