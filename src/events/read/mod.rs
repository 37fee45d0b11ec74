//! Reads event logs: Parquet, CSV, TSV and JSON lines, one row or batch at a time.
//!
//! The columns (or fields) of our own layout are
//!
//! | column | what | where it is absent |
//! |---|---|---|
//! | `time` | Unix seconds, or ISO 8601 (UTC where it names no zone); in Parquet also a timestamp | an error |
//! | `user` | the listener | an error, but for a table of playlists |
//! | `track` | | an error |
//! | `action` | an [`Action`] | `play`; in a folder `action=skip/`, as Spark and Hive partition, that one |
//! | `value` | as [`Event::value`] | from the next two, else 1 |
//! | `seconds`, `duration` | what was heard, of how much, both in seconds | |
//! | `playlist` | which playlist a track was added to or removed from; the playlist is then a user, too | |
//!
//! and others are ignored. A table of `playlist,track`, without users, is a table of adds; it needs no times.
//!
//! Others' layouts are known by their columns:
//!
//! * the *Last.fm* export of one listener, `uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid`, whose
//!   listener is the name of the file without its extension;
//! * *lastfm-1K*, six columns and no header line (`userid-timestamp-artid-artname-traid-traname.tsv`);
//! * *ListenBrainz*: listens and feedback as JSON lines, from the dumps and from exports, once they are unpacked, and the
//!   Parquet files of the dumps for Spark, whose users are numbers.
//!
//! There a track's id is its MusicBrainz recording id where the row has one, else `artist – title` (an en dash between
//! spaces). The files that come along (`user.json`, `userid-profile.tsv`, …) are passed over in a folder.
//!
//! Text may be compressed with gzip or zstd (`.csv.gz`, `.jsonl.zst`). A bad row is counted with its reason and skipped,
//! or ends the work; a bad file (no such column, truncated) is an error.

mod columns;
mod json;
mod lines;
mod parquet;
mod separated;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Action, Event};
use crate::dates::seconds_of;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId, id_problem};

pub use parquet::write_events_parquet;

use lines::Lines;

/// Examples that are kept of each kind of bad row.
const EXAMPLES: usize = 3;
/// Clocks of other machines may be ahead of ours by so many seconds: a day, for local times taken for UTC.
const CLOCK_SKEW: i64 = 86_400;
const LONG_ID: &str = "an id of more than 512 bytes";
/// What comes along in the folders of ListenBrainz dumps and exports and of lastfm-1K, and holds no events.
const COMPANIONS: [&str; 9] = [
    "user.json",
    "pinned_recording.jsonl",
    "TIMESTAMP",
    "START_TIMESTAMP",
    "END_TIMESTAMP",
    "SCHEMA_SEQUENCE",
    "COPYING",
    "userid-profile.tsv",
    "README.txt",
];

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReadReport {
    /// Rows that were good and handed on.
    pub rows: u64,
    /// Rows that were skipped, by reason.
    pub bad: BTreeMap<&'static str, Bad>,
}

/// Bad rows of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bad {
    pub count: u64,
    /// Up to three, as `file:line: what stands there`.
    pub examples: Vec<String>,
}

impl ReadReport {
    pub fn bad_rows(&self) -> u64 {
        self.bad.values().map(|b| b.count).sum()
    }
}

/// What happens at a bad row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRows {
    /// It is counted, and left out.
    Count,
    /// It is an error.
    Stop,
}

/// Reads the events of a file, or of all files in a folder and its subfolders in the order of their names (hidden
/// files and those that begin with `_` are skipped, as Spark writes them), and hands each on to `take`.
///
/// # Errors
/// `Io`, `Format` or `Unsupported` with the file (and, for a bad row that stops, the line); and whatever `take` returns.
pub fn read_events(path: &Path, bad_rows: BadRows, take: &mut dyn FnMut(Event) -> Result<()>) -> Result<ReadReport> {
    let mut report = ReadReport::default();
    // Where the clock stands before 1970, every event is in the future, and the report says so.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    for file in event_files(path)? {
        let (kind, packing) = kind_of(&file)?;
        let mut source = Source {
            path: &file,
            file_user: stem(&file),
            partition: partition_action(&file),
            latest: clock + CLOCK_SKEW,
            bad_rows,
            report: &mut report,
            take,
        };
        match kind {
            Kind::Separated(delimiter) => separated::read(&mut source, delimiter, packing)?,
            Kind::JsonLines => json::read(&mut source, packing)?,
            Kind::Parquet => parquet::read(&mut source)?,
        }
    }
    Ok(report)
}

enum Kind {
    Separated(u8),
    JsonLines,
    Parquet,
}

/// How text is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Of the last extension of a lower-case file name, and the name without it.
    fn of(name: &str) -> (Packing, &str) {
        for (packing, extension) in [(Packing::Gzip, ".gz"), (Packing::Zstd, ".zst")] {
            if let Some(rest) = name.strip_suffix(extension) {
                return (packing, rest);
            }
        }
        (Packing::Plain, name)
    }

    fn name(self) -> &'static str {
        match self {
            Packing::Plain => "text",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}

fn kind_of(path: &Path) -> Result<(Kind, Packing)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (packing, name) = Packing::of(&name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let kind = match (extension, packing) {
        ("csv", _) => Kind::Separated(b','),
        ("tsv", _) => Kind::Separated(b'\t'),
        // The dumps of ListenBrainz are cut into months: 1.listens.
        ("jsonl" | "ndjson" | "listens", _) => Kind::JsonLines,
        ("parquet", Packing::Plain) => Kind::Parquet,
        _ => {
            let expected = "events as .parquet, or as .csv, .tsv, .jsonl, .ndjson or .listens, plain, .gz or .zst";
            return Err(Error::unsupported(path, expected, format!("the name {}", shortened(name.as_bytes()))));
        }
    };
    Ok((kind, packing))
}

/// The name of a file without its extensions: `ann` of `ann.csv.gz`.
fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let packed = Packing::of(&name.to_lowercase()).1.len();
    // Lower case has another length in few alphabets, and then the extension stays.
    let name = name.get(..packed).unwrap_or(name);
    Some(name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_string())
}

/// The action of all rows below a folder `action=skip`: Spark takes the column that it partitions by out of the files.
fn partition_action(path: &Path) -> Option<String> {
    let folders = path.parent()?.iter().filter_map(|folder| folder.to_str());
    folders.filter_map(|folder| folder.strip_prefix("action=")).next_back().map(str::to_string)
}

fn event_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    let shown = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with(['.', '_']);
    for entry in walkdir::WalkDir::new(path).sort_by_file_name().into_iter().filter_entry(shown) {
        let entry = entry.map_err(|e| Error::Io { path: path.to_path_buf(), source: e.into() })?;
        let comes_along = COMPANIONS.iter().any(|name| entry.file_name() == *name);
        if entry.path().is_file() && !comes_along {
            files.push(entry.into_path());
        }
    }
    if files.is_empty() {
        return Err(Error::format(path, "a folder with event files", "none"));
    }
    Ok(files)
}

/// One file on its way into a report.
struct Source<'a> {
    path: &'a Path,
    /// The listener of a file that holds one listener's events, and does not say whose.
    file_user: Option<String>,
    /// The action of rows that do not name one.
    partition: Option<String>,
    /// The last second that is not in the future.
    latest: i64,
    bad_rows: BadRows,
    report: &'a mut ReadReport,
    take: &'a mut dyn FnMut(Event) -> Result<()>,
}

/// A row of whatever format, before it is checked.
#[derive(Default)]
struct Row<'a> {
    time: Option<i64>,
    user: Option<Cow<'a, str>>,
    track: Option<Cow<'a, str>>,
    action: Option<Cow<'a, str>>,
    value: Option<f64>,
    seconds: Option<f64>,
    duration: Option<f64>,
    playlist: Option<Cow<'a, str>>,
}

/// What a good row says: something of the listener, something of the playlist, or both.
type Said = [Option<Event>; 2];

impl Source<'_> {
    /// Hands a good row on; counts a bad one, or stops at it.
    fn give(&mut self, row: Result<Row, &'static str>, line: u64, shown: impl FnOnce() -> String) -> Result<()> {
        match row.and_then(|row| self.check(row)) {
            Ok(said) => {
                for event in said.into_iter().flatten() {
                    (self.take)(event)?;
                }
                self.report.rows += 1;
            }
            Err(reason) => {
                let place = format!("{}:{line}", self.path.display());
                if self.bad_rows == BadRows::Stop {
                    return Err(Error::format(place, "a row that makes sense", format!("{reason}: {}", shown())));
                }
                let bad = self.report.bad.entry(reason).or_default();
                bad.count += 1;
                if bad.examples.len() < EXAMPLES {
                    bad.examples.push(format!("{place}: {}", shown()));
                }
            }
        }
        Ok(())
    }

    fn give_line(&mut self, row: Result<Row, &'static str>, lines: &Lines) -> Result<()> {
        self.give(row, lines.number, || shortened(lines.line()))
    }

    fn check(&self, row: Row) -> Result<Said, &'static str> {
        let action = match row.action.as_deref().or(self.partition.as_deref()) {
            Some(text) => text.parse().map_err(|_| "an unknown action")?,
            None if row.user.is_none() && row.playlist.is_some() => Action::Add,
            None => Action::Play,
        };
        let value = match (row.value, row.seconds, row.duration) {
            (Some(value), ..) => value,
            (None, Some(seconds), Some(duration)) => {
                if !(duration.is_finite() && duration > 0.0) {
                    return Err("a duration that is not above 0");
                }
                if !(seconds.is_finite() && seconds >= 0.0) {
                    return Err("seconds that are not a number, 0 or more");
                }
                let heard = (seconds / duration).min(1.0);
                match action {
                    Action::Play => heard,
                    Action::Skip => 1.0 - heard,
                    _ => 1.0,
                }
            }
            _ => 1.0,
        } as f32;
        if !value.is_finite() {
            return Err("a value that is not a finite number");
        }
        if value < 0.0 {
            return Err("a negative value");
        }
        let track = TrackId::checked(row.track.ok_or("a missing field")?)?;
        // What a playlist holds is no matter of when; what a listener does is.
        let listed = row.playlist.filter(|_| matches!(action, Action::Add | Action::Remove));
        let time = match row.time {
            Some(time) => time,
            None if listed.is_some() && row.user.is_none() => 0,
            None => return Err("a missing field"),
        };
        if time < 0 {
            return Err("a time before 1970");
        }
        if time > self.latest {
            // Also what milliseconds look like. One such row, taken for "now", would make all others ancient.
            return Err("a time in the future");
        }
        let user = row.user.map(UserId::checked).transpose()?;
        // The word before a playlist's id counts in its length.
        let playlist = listed.map(|id| UserId::of_playlist(&id).map_err(|_| id_problem(&id).unwrap_or(LONG_ID)));
        let playlist = playlist.transpose()?;
        let event = |user, track, value| Some(Event { time, user, track, action, value });
        match (user, playlist) {
            (Some(user), Some(list)) => Ok([event(user, track.clone(), value), event(list, track, 1.0)]),
            (Some(user), None) => Ok([event(user, track, value), None]),
            (None, Some(list)) => Ok([event(list, track, 1.0), None]),
            (None, None) => Err("a missing field"),
        }
    }
}

/// The start of something that may be long, binary or strange, for an example.
fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    let start: String = text.chars().take(80).collect();
    format!("{start:?}")
}

/// A track as others name it: by its MusicBrainz recording id, else by artist and title.
fn track_name<'a>(mbid: Option<&'a str>, artist: Option<&str>, title: Option<&str>) -> Option<Cow<'a, str>> {
    match (mbid, artist, title) {
        (Some(mbid), ..) => Some(mbid.into()),
        (None, Some(artist), Some(title)) => Some(format!("{} – {}", artist.trim(), title.trim()).into()),
        _ => None,
    }
}

/// A time as text: Unix seconds, or ISO 8601.
fn seconds(text: &str) -> Result<i64, &'static str> {
    let text = text.trim();
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    match text.parse() {
        Ok(time) => whole_seconds(time),
        Err(_) => iso_seconds(text).ok_or("a time that is not a number"),
    }
}

fn whole_seconds(time: f64) -> Result<i64, &'static str> {
    // `as` saturates, so that what is too large is refused as the future.
    if time.is_finite() { Ok(time.floor() as i64) } else { Err("a time that is not a number") }
}

/// `2009-04-08T01:57:47Z`, also with a space for the `T`, a fraction (dropped), an offset, or no zone (UTC).
fn iso_seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let is = |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|b| any.contains(b));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"T ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !(separated && fits) {
        return None;
    }
    let mut zone = text.get(19..)?;
    if let Some(fraction) = zone.strip_prefix('.') {
        zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let ahead = match zone.as_bytes() {
        [] | b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, rest @ ..] => {
            let at = text.len() - zone.len();
            let minutes = match rest {
                [] => 0,
                [b':', _, _] => number(at + 4, at + 6)?,
                [_, _] => number(at + 3, at + 5)?,
                _ => return None,
            };
            let ahead = number(at + 1, at + 3)? * 3600 + minutes * 60;
            if *sign == b'+' { ahead } else { -ahead }
        }
        _ => return None,
    };
    Some(seconds_of(year, month, day) + hour * 3600 + minute * 60 + second - ahead)
}

#[test]
fn iso_times_are_read() {
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2009-04-08T01:57:47Z", Some(1_239_155_867)),
        ("2000-02-29 12:00:00", Some(951_825_600)),
        ("2000-03-01T00:00:00.123456", Some(951_868_800)),
        ("2024-12-31T23:59:59+05:30", Some(1_735_669_799)),
        ("2024-12-31T23:59:59-0100", Some(1_735_693_199)),
        ("2024-12-31T23:59:59+01", Some(1_735_685_999)),
        ("2024-13-01T00:00:00Z", None),
        ("2024-12-31T25:00:00Z", None),
        ("2024-12-31", None),
        ("2024-12-31T23:59:59 CET", None),
        ("+024-12-31T23:59:59Z", None),
        ("2024-12-31T23:59:5é", None),
        ("", None),
    ] {
        assert_eq!(iso_seconds(text), expected, "{text}");
    }
}

fn number(text: &str) -> Result<f64, &'static str> {
    text.trim().parse().map_err(|_| "a value that is not a finite number")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use ::parquet::arrow::ArrowWriter;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::lines::MAX_LINE_BYTES;
    use super::*;

    const HOUR: i64 = 3600;

    fn samples() -> Vec<Event> {
        let event = |time, user: &str, track: &str, action, value| Event {
            time,
            user: UserId::new(user).unwrap(),
            track: TrackId::new(track).unwrap(),
            action,
            value,
        };
        vec![
            event(1_600_000_000, "ann", "so what", Action::Play, 0.25),
            event(1_500_000_000, "🎧 bob", "comma, \"quote\"", Action::Skip, 1.0),
            event(1_600_000_000, " ann", "so what", Action::Like, 1.0),
            event(0, "7", "12", Action::Add, 1.0),
            event(1_600_000_000, "ann", "so what", Action::Play, 0.25), // again: duplicates are events too
        ]
    }

    fn read(path: &Path) -> Result<(Vec<Event>, ReadReport)> {
        let mut events = Vec::new();
        let report = read_events(path, BadRows::Count, &mut |e| {
            events.push(e);
            Ok(())
        })?;
        Ok((events, report))
    }

    fn read_text(name: &str, text: impl AsRef<[u8]>) -> Result<(Vec<Event>, ReadReport)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        read(&dir.path().join(name))
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('"', "\"\""))
    }

    #[test]
    fn every_format_gives_back_the_same_events() {
        let events = samples();
        let separated = |delimiter: &str, end: &str| {
            let mut text = ["value", "track", "extra", "action", "user", "time"].join(delimiter) + end;
            for e in &events {
                let (value, time) = (e.value.to_string(), e.time.to_string());
                let (track, user) = (quoted(e.track.as_str()), quoted(e.user.as_str()));
                text += &([value.as_str(), &track, "", e.action.as_str(), &user, &time].join(delimiter) + end);
            }
            text
        };
        let json: String = (events.iter())
            .map(|e| {
                let (time, user, track) = (e.time, e.user.as_str(), e.track.as_str());
                serde_json::json!({"time": time, "user": user, "track": track, "action": e.action, "value": e.value, "x": [1]})
                    .to_string()
                    + "\n"
            })
            .collect();
        for (name, text) in [
            ("a.csv", separated(",", "\n")),
            ("a.CSV", format!("\u{feff}{}", separated(",", "\r\n"))),
            ("a.tsv", separated("\t", "\n")),
            ("a.csv", separated(",", "\n").trim_end().to_string()),
            ("a.jsonl", json.clone()),
            ("b.jsonl", format!("\u{feff}{}", json.replace('\n', "\r\n"))),
            ("a.ndjson", json),
        ] {
            let (found, report) = read_text(name, &text).unwrap();
            assert_eq!(found, events, "{name} {text}");
            assert_eq!((report.rows, report.bad_rows()), (5, 0));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        write_events_parquet(&path, events.iter().cloned()).unwrap();
        assert_eq!(read(&path).unwrap().0, events);
        write_events_parquet(&path, std::iter::empty()).unwrap();
        assert_eq!(read(&path).unwrap().0, []);
    }

    #[test]
    fn action_and_value_may_be_absent_and_numbers_may_be_ids() {
        let (events, _) = read_text("a.csv", "user,time,track\n5,10.9,6\n").unwrap();
        assert_eq!((events[0].action, events[0].value, events[0].time), (Action::Play, 1.0, 10));
        let (events, _) =
            read_text("a.csv", "user,time,track,action,value\n5,10,6,,\n5,10,6,playlist_add, 2 \n").unwrap();
        assert_eq!((events[0].action, events[0].value), (Action::Play, 1.0));
        assert_eq!((events[1].action, events[1].value), (Action::Add, 2.0));
        let line = r#"{"time": "10", "user": 5, "track": "6", "action": null}"#;
        let (events, _) = read_text("a.jsonl", line).unwrap();
        assert_eq!((events[0].user.as_str(), events[0].track.as_str(), events[0].action), ("5", "6", Action::Play));
    }

    #[test]
    fn bad_rows_are_counted_with_their_place_and_good_ones_are_kept() {
        let ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + CLOCK_SKEW + HOUR;
        let long = "x".repeat(513);
        let huge = "x".repeat(MAX_LINE_BYTES + 1);
        let text = format!(
            "time,user,track,action,value\n\
             1,u,t,play,1\n\
             1,u,t,listen,1\n\
             1,u,t,play,NaN\n\
             1,u,t,play,inf\n\
             1,u,t,play,1e39\n\
             1,u,t,play,-1\n\
             1,,t,play,1\n\
             1,u,{long},play,1\n\
             1,u,t\u{1},play,1\n\
             -5,u,t,play,1\n\
             {ahead},u,t,play,1\n\
             1600000000000,u,t,play,1\n\
             noon,u,t,play,1\n\
             nan,u,t,play,1\n\
             1,u,t,play\n\
             1,u,t,play,1,9\n\
             1,u,\"t,play,1\n\
             1,u,{huge},play,1\n\
             \n\
             2,u,t,play,1\n"
        );
        let text = [text.as_bytes(), b"1,u\xff,t,play,1\n3,u,t,play,1"].concat();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        std::fs::write(&path, text).unwrap();
        let (events, report) = read(&path).unwrap();
        assert_eq!(events.iter().map(|e| e.time).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(report.rows, 3);
        let counts: Vec<(&str, u64)> = report.bad.iter().map(|(reason, bad)| (*reason, bad.count)).collect();
        assert_eq!(
            counts,
            [
                ("a line of more than 64 KiB", 1),
                ("a negative value", 1),
                ("a time before 1970", 1),
                ("a time in the future", 2),
                ("a time that is not a number", 2),
                ("a value that is not a finite number", 3),
                ("an empty id", 1),
                ("an id of more than 512 bytes", 1),
                ("an id with a control character", 1),
                ("an unclosed quote", 1),
                ("an unknown action", 1),
                ("not UTF-8", 1),
                ("too few fields", 1),
                ("too many fields", 1),
            ]
        );
        assert_eq!(report.bad["an unknown action"].examples, [format!("{}:3: \"1,u,t,listen,1\"", path.display())]);
        assert!(report.bad.values().flat_map(|b| &b.examples).all(|e| e.len() < 400));
    }

    #[test]
    fn bad_json_rows_are_counted() {
        let text = [
            r#"{"time":1,"user":"u","track":"t"}"#,
            "[1]",
            "{\"time\":1",
            r#"{"time":1,"user":"u"}"#,
            r#"{"time":1,"user":{},"track":"t"}"#,
            r#"{"time":1,"user":1.5,"track":"t"}"#,
            r#"{"time":1e300,"user":"u","track":"t"}"#,
            r#"{"time":1,"user":"u","track":"t","value":"much"}"#,
            &"[".repeat(10_000),
            r#"{"time":2,"user":"tab\tin","track":"t"}"#,
            r#"{"time":2,"user":"u","track":"t"}"#,
        ];
        let (events, report) = read_text("a.jsonl", text.join("\n")).unwrap();
        assert_eq!((events.len(), report.bad_rows()), (2, 9), "{report:?}");
        assert_eq!(report.bad["not a JSON object of plain values"].count, 4);
        assert_eq!(report.bad["not a JSON object of plain values"].examples.len(), EXAMPLES);
        assert_eq!(report.bad["a missing field"].count, 1);
    }

    #[test]
    fn files_that_cannot_be_events_say_what_was_expected_and_found() {
        for (name, text, says) in [
            ("a.csv", "", "an empty file"),
            ("a.csv", "time,user,song\n1,u,t\n", "no track among \"time\", \"user\", \"song\""),
            ("a.csv", "196,242,3\n", "no time among"),
            ("a.csv", "time,user,track,user\n", "user twice"),
            ("a.txt", "time,user,track\n", "\"a.txt\""),
            ("a.parquet", "", "a whole Parquet file"),
            ("a.parquet", "PAR1 but not really PAR1", "a whole Parquet file"),
        ] {
            let message = read_text(name, text).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains(name), "{message}");
        }
        assert_eq!(read_text("a.jsonl", "").unwrap().0, [], "no lines are no events");
        assert!(matches!(read(Path::new("no/such/file.csv")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_folder_is_its_files_in_order_and_without_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(read(dir.path()).is_err(), "an empty folder");
        write("b.csv", "time,user,track\n3,u,t\n");
        write("a.jsonl", "{\"time\":1,\"user\":\"u\",\"track\":\"t\"}\n");
        write("aa/part-0.csv", "time,user,track\n2,u,t\n");
        write("_SUCCESS", "");
        write(".part-0.csv.crc", "crc");
        write("_temporary/c.csv", "garbage");
        let (events, report) = read(dir.path()).unwrap();
        assert_eq!(events.iter().map(|e| e.time).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(report.rows, 3);
        write("notes.md", "hello");
        assert!(read(dir.path()).unwrap_err().to_string().contains("notes.md"));
    }

    /// A Parquet file with these columns.
    fn parquet(columns: Vec<(&str, ArrayRef)>) -> Result<(Vec<Event>, ReadReport)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        read(&path)
    }

    #[test]
    fn parquet_columns_of_other_types_and_with_nulls_are_read() {
        use arrow_array::{Float64Array, Int32Array, LargeStringArray, TimestampMillisecondArray};
        let (events, report) = parquet(vec![
            ("track", Arc::new(Int64Array::from(vec![Some(12), Some(12), None, Some(12)]))),
            ("noise", Arc::new(Int32Array::from(vec![1, 2, 3, 4]))),
            ("value", Arc::new(Float64Array::from(vec![None, Some(0.5), Some(1.0), Some(f64::NAN)]))),
            ("user", Arc::new(LargeStringArray::from(vec!["u"; 4]))),
            ("time", Arc::new(TimestampMillisecondArray::from(vec![1_999, 2_000, 3_000, 4_000]))),
            ("action", Arc::new(StringArray::from(vec![None, Some("like"), None, None]))),
        ])
        .unwrap();
        let found: Vec<_> = events.iter().map(|e| (e.time, e.track.as_str(), e.action, e.value)).collect();
        assert_eq!(found, [(1, "12", Action::Play, 1.0), (2, "12", Action::Like, 0.5)]);
        assert_eq!(report.bad["a missing field"].count, 1);
        let example = &report.bad["a value that is not a finite number"].examples[0];
        assert!(example.contains("a.parquet:4: user \"u\" track \"12\""), "{example}");

        let message = parquet(vec![("time", Arc::new(Int64Array::from(vec![1])))]).unwrap_err().to_string();
        assert!(message.contains("no user among \"time\""), "{message}");
        let flags: ArrayRef = Arc::new(arrow_array::BooleanArray::from(vec![true]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let message = parquet(vec![("time", flags), ("user", text.clone()), ("track", text)]).unwrap_err().to_string();
        assert!(message.contains("time of Boolean"), "{message}");
    }

    #[test]
    fn a_damaged_parquet_file_is_an_error_or_other_events_but_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        write_events_parquet(&path, samples().into_iter().cycle().take(300)).unwrap();
        let good = std::fs::read(&path).unwrap();
        for cut in [0, 3, 4, 100, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("a.parquet"), "cut at {cut}");
        }
        // Xorshift; the footer is the part that is believed most.
        let mut state = 12_345u64;
        let mut random = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % n
        };
        for round in 0..1500 {
            let mut bad = good.clone();
            for _ in 0..=round % 4 {
                let at = if round % 2 == 0 { bad.len() - 1 - random(1000) } else { random(bad.len()) };
                bad[at] = random(256) as u8;
            }
            std::fs::write(&path, &bad).unwrap();
            let _ = read(&path); // either way, it returns
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut out, text).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn compressed_text_is_text() {
        let csv = "time,user,track\n1,u,t\n2,u,t\n";
        let json = "{\"time\":1,\"user\":\"u\",\"track\":\"t\"}\n{\"time\":2,\"user\":\"u\",\"track\":\"t\"}\n";
        // Both formats may be several files one after the other, as `cat` makes them.
        let halves = |pack: &dyn Fn(&[u8]) -> Vec<u8>, text: &str| {
            [pack(&text.as_bytes()[..20]), pack(&text.as_bytes()[20..])].concat()
        };
        let zstd = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
        for (name, bytes) in [
            ("a.csv.gz", gzip(csv.as_bytes())),
            ("a.CSV.GZ", halves(&gzip, csv)),
            ("a.jsonl.gz", gzip(json.as_bytes())),
            ("a.tsv.zst", zstd(csv.replace(',', "\t").as_bytes())),
            ("a.csv.zst", halves(&zstd, csv)),
            ("1.listens.zst", zstd(json.as_bytes())),
        ] {
            let (events, report) = read_text(name, bytes).unwrap();
            assert_eq!(events.iter().map(|e| e.time).collect::<Vec<_>>(), [1, 2], "{name} {report:?}");
        }
        for (name, bytes, says) in [
            ("a.csv.gz", csv.as_bytes().to_vec(), "a whole gzip file"),
            ("a.csv.gz", gzip(csv.as_bytes())[..25].to_vec(), "a whole gzip file"),
            ("a.csv.zst", csv.as_bytes().to_vec(), "a whole zstd file"),
            ("a.csv.zst", zstd(csv.as_bytes())[..20].to_vec(), "a whole zstd file"),
            ("a.csv.gz", Vec::new(), "a whole gzip file"),
            ("a.csv.gz", gzip(b""), "an empty file"),
            ("a.parquet.gz", gzip(b"PAR1"), "\"a.parquet\""),
            ("a.gz", gzip(b"time"), "unsupported"),
        ] {
            let message = read_text(name, bytes).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains(name), "{message}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_long_in_the_reading() {
        // 200 MB of empty lines, in some kilobytes; and the same as one line.
        for byte in [b'\n', b'0'] {
            let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(byte), 200 << 20), 1).unwrap();
            assert!(bomb.len() < 100_000);
            let text = [zstd::encode_all(&b"time,user,track\n"[..], 1).unwrap(), bomb].concat();
            let message = read_text("a.csv.zst", text).unwrap_err().to_string();
            assert!(message.contains("1000 times its compressed length"), "{message}");
        }
    }

    #[test]
    fn damaged_compressed_files_are_errors_or_other_rows_but_never_a_panic() {
        let csv: String =
            "time,user,track\n".to_string() + &(0..2000).map(|i| format!("{i},u{},t{i}\n", i % 7)).collect::<String>();
        let mut state = 99u64;
        for (name, good) in
            [("a.csv.gz", gzip(csv.as_bytes())), ("a.csv.zst", zstd::encode_all(csv.as_bytes(), 3).unwrap())]
        {
            for _ in 0..300 {
                let mut bad = good.clone();
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bad.len();
                bad[at] ^= (state >> 24) as u8 | 1;
                let _ = read_text(name, &bad);
            }
        }
    }

    #[test]
    fn the_first_bad_row_stops_a_strict_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        std::fs::write(&path, "time,user,track,action\n1,u,t,play\n2,u,t,sing\n3,u,t,play\n").unwrap();
        let mut count = 0;
        let stopped = read_events(&path, BadRows::Stop, &mut |_| {
            count += 1;
            Ok(())
        });
        let message = stopped.unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}:3:", path.display())), "{message}");
        assert!(message.contains("an unknown action") && message.contains("sing") && count == 1, "{message}");
    }

    #[test]
    fn seconds_of_a_duration_are_the_share_that_was_heard_or_was_not() {
        let csv = "time,user,track,action,seconds,duration,value\n\
                   1,u,t,play,30,120,\n\
                   1,u,t,skip,30,120,\n\
                   1,u,t,complete,120,120,\n\
                   1,u,t,play,300,120,\n\
                   1,u,t,skip,300,120,\n\
                   1,u,t,play,30,120,0.5\n\
                   1,u,t,play,,120,\n\
                   1,u,t,play,30,,\n\
                   1,u,t,play,30,0,\n\
                   1,u,t,play,30,nan,\n\
                   1,u,t,play,-1,120,\n\
                   1,u,t,play,inf,120,\n";
        let (events, report) = read_text("a.csv", csv).unwrap();
        assert_eq!(events.iter().map(|e| e.value).collect::<Vec<_>>(), [0.25, 0.75, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0]);
        assert_eq!(report.bad["a duration that is not above 0"].count, 2);
        assert_eq!(report.bad["seconds that are not a number, 0 or more"].count, 2);
        let json = r#"{"time": 1, "user": "u", "track": "t", "action": "skip", "seconds": 30, "duration": "120"}"#;
        assert_eq!(read_text("a.jsonl", json).unwrap().0[0].value, 0.75);
        let (events, _) = parquet(vec![
            ("time", Arc::new(Int64Array::from(vec![1, 2]))),
            ("user", Arc::new(StringArray::from(vec!["u", "u"]))),
            ("track", Arc::new(StringArray::from(vec!["t", "t"]))),
            ("duration", Arc::new(Int64Array::from(vec![Some(120), None]))),
            ("seconds", Arc::new(arrow_array::Float32Array::from(vec![60.0, 60.0]))),
        ])
        .unwrap();
        assert_eq!(events.iter().map(|e| e.value).collect::<Vec<_>>(), [0.5, 1.0]);
    }

    fn short(events: &[Event]) -> Vec<(i64, &str, &str, Action)> {
        events.iter().map(|e| (e.time, e.user.as_str(), e.track.as_str(), e.action)).collect()
    }

    #[test]
    fn playlists_are_users_of_their_own() {
        use Action::{Add, Play, Remove};
        let csv = "playlist,track\nbeach,a\nbeach,b\n\u{1f3d6},a\n,a\n";
        let (events, report) = read_text("a.csv", csv).unwrap();
        let expected =
            [(0, "playlist:beach", "a", Add), (0, "playlist:beach", "b", Add), (0, "playlist:\u{1f3d6}", "a", Add)];
        assert_eq!(short(&events), expected);
        assert_eq!(report.bad["a missing field"].count, 1);

        let csv = "time,user,track,action,playlist,value\n\
                   1,ann,a,add,beach,0.5\n2,ann,a,remove,beach,\n3,ann,a,add,,\n4,ann,a,play,beach,\n,ann,a,add,beach,\n";
        let (events, report) = read_text("a.csv", csv).unwrap();
        let expected = [
            (1, "ann", "a", Add),
            (1, "playlist:beach", "a", Add),
            (2, "ann", "a", Remove),
            (2, "playlist:beach", "a", Remove),
            (3, "ann", "a", Add),
            (4, "ann", "a", Play), // from a playlist, not onto it
        ];
        assert_eq!(short(&events), expected);
        assert_eq!((events[0].value, events[1].value), (0.5, 1.0));
        assert_eq!((report.rows, report.bad_rows()), (4, 1));

        let lines = "{\"playlist\": 7, \"track\": \"a\"}\n{\"playlist\": \"\", \"track\": \"a\"}";
        let (events, report) = read_text("a.jsonl", lines).unwrap();
        assert_eq!((short(&events), report.bad_rows()), (vec![(0, "playlist:7", "a", Add)], 1));
        let long = "x".repeat(505);
        let (events, report) = read_text("a.csv", format!("playlist,track\n{long},a\n")).unwrap();
        assert_eq!((events.len(), report.bad["an id of more than 512 bytes"].count), (0, 1));
    }

    #[test]
    fn partitioned_folders_are_read_and_an_action_partition_is_the_action() {
        let dir = tempfile::tempdir().unwrap();
        for (i, folder) in
            ["date=2026-01-01", "date=2026-01-02/action=skip", "date=2026-01-02/action=play"].iter().enumerate()
        {
            let path = dir.path().join(folder).join("part-00000.snappy.parquet");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let (time, text): (ArrayRef, ArrayRef) =
                (Arc::new(Int64Array::from(vec![i as i64])), Arc::new(StringArray::from(vec!["x"])));
            let batch = RecordBatch::try_from_iter([("time", time), ("user", text.clone()), ("track", text)]).unwrap();
            let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
        let (events, _) = read(dir.path()).unwrap();
        assert_eq!(
            short(&events),
            [(0, "x", "x", Action::Play), (2, "x", "x", Action::Play), (1, "x", "x", Action::Skip)]
        );
    }

    #[test]
    fn a_last_fm_export_is_its_listener_s() {
        let dir = tempfile::tempdir().unwrap();
        let text = "\u{feff}uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\r\n\
                    \"1704067200\",\"01 Jan 2024, 00:00\",\"Bj\u{f6}rk\",\"\",\"Homogenic\",\"\",\"Hunter\",\"\"\r\n\
                    1704067300,,Boards of Canada,x,,,\"Roygbiv, again\",5b11f4ce-a62d-471e-81fc-a69a8278c7da\r\n\
                    ,now playing,A,,B,,C,\r\n\
                    1704067400,,,,,,Untitled,\r\n";
        std::fs::write(dir.path().join("ann.b.csv.gz"), gzip(text.as_bytes())).unwrap();
        std::fs::write(dir.path().join("\u{1f3a7}.csv"), text).unwrap();
        let (events, report) = read(dir.path()).unwrap();
        let mbid = "5b11f4ce-a62d-471e-81fc-a69a8278c7da";
        let of = |user| {
            [
                (1_704_067_200, user, "Bj\u{f6}rk \u{2013} Hunter", Action::Play),
                (1_704_067_300, user, mbid, Action::Play),
            ]
        };
        assert_eq!(short(&events), [of("ann.b"), of("\u{1f3a7}")].concat());
        assert_eq!(report.bad["a time that is not a number"].count, 2);
        assert_eq!(report.bad["a missing field"].count, 2);
    }

    #[test]
    fn lastfm_1k_has_no_header_and_its_quotes_are_letters() {
        let dir = tempfile::tempdir().unwrap();
        let text = "user_000639\t2009-04-08T01:57:47Z\tMBID\tThe Dogs D'Amour\tid-1\tFall in Love Again?\n\
                    user_000639\t2009-04-08T01:53:56Z\t\tDavid Bowie\t\t\"Heroes\" (live)\n\
                    user_000640\t2009-04-08T01:53:56Z\t\tDavid Bowie\t\t\n\
                    user_000640\tlately\t\tDavid Bowie\t\tFive Years\n\
                    user_000640\t2009-04-08T01:53:56Z\tDavid Bowie\n";
        std::fs::write(dir.path().join("userid-timestamp-artid-artname-traid-traname.tsv"), text).unwrap();
        std::fs::write(dir.path().join("userid-profile.tsv"), "user_000639\tm\t\tMexico\tApr 27, 2005\n").unwrap();
        let (events, report) = read(dir.path()).unwrap();
        let expected = [
            (1_239_155_867, "user_000639", "id-1", Action::Play),
            (1_239_155_636, "user_000639", "David Bowie \u{2013} \"Heroes\" (live)", Action::Play),
        ];
        assert_eq!(short(&events), expected);
        let bad: Vec<_> = report.bad.iter().map(|(reason, bad)| (*reason, bad.count)).collect();
        assert_eq!(bad, [("a missing field", 1), ("a time that is not a number", 1), ("too few fields", 1)]);
    }

    #[test]
    fn listenbrainz_dumps_and_exports_are_read() {
        use Action::{Dislike, Like, Play, Unlike};
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let info = r#""artist_name":"Bj\u00f6rk","track_name":"Hunter""#;
        let lines = |user: &str, time: &str| {
            [
                format!(r#"{{{user}"{time}":1704067200,"track_metadata":{{{info}}},"recording_msid":"m"}}"#),
                format!(r#"{{{user}"{time}":1704067201.5,"track_metadata":{{{info},"additional_info":{{"recording_mbid":"a","x":[1]}},"mbid_mapping":null}}}}"#),
                format!(r#"{{{user}"{time}":1704067202,"track_metadata":{{{info},"additional_info":{{"recording_mbid":"a"}},"mbid_mapping":{{"recording_mbid":"b"}}}}}}"#),
                format!(r#"{{{user}"{time}":1704067203,"track_metadata":{{"artist_name":7,"track_name":""}}}}"#),
                format!(r#"{{{user}"{time}":{{}},"track_metadata":{{{info}}}}}"#),
                format!(r#"{{{user}"{time}":1704067204,"track_metadata":"none"}}"#),
            ]
            .join("\n")
        };
        let of = |user| {
            let name = "Bj\u{f6}rk \u{2013} Hunter";
            [(1_704_067_200, user, name, Play), (1_704_067_201, user, "a", Play), (1_704_067_202, user, "b", Play)]
        };
        write("dump/listens/2024/1.listens", lines(r#""user_id":1,"user_name":"ann","#, "timestamp"));
        for name in ["TIMESTAMP", "SCHEMA_SEQUENCE", "COPYING"] {
            write(&format!("dump/{name}"), "5".into());
        }
        write("export/user.json", r#"{"user_id":2,"username":"bob \ud83c\udfa7"}"#.into());
        write("export/listens/2024/1.jsonl", lines("", "listened_at"));
        let feedback = |score: &str, mbid: &str| {
            format!(r#"{{"recording_msid":"m","recording_mbid":{mbid},"score":{score},"created":1704067205}}"#)
        };
        let all = [feedback("1", r#""a""#), feedback("-1", "null"), feedback("0", r#""b""#), feedback("9", r#""b""#)];
        write("export/feedback.jsonl", all.join("\n"));
        write("export/pinned_recording.jsonl", r#"{"recording_mbid":"a","created":1704067205}"#.into());

        let (events, report) = read(dir.path()).unwrap();
        let bob = "bob \u{1f3a7}";
        let marks =
            [(1_704_067_205, bob, "a", Like), (1_704_067_205, bob, "m", Dislike), (1_704_067_205, bob, "b", Unlike)];
        assert_eq!(short(&events), [of("ann"), marks, of(bob)].concat());
        assert_eq!(report.bad["a missing field"].count, 4);
        assert_eq!(report.bad["a time that is not a number"].count, 2);
        assert_eq!(report.bad["a score that is not -1, 0 or 1"].count, 1);

        std::fs::remove_file(dir.path().join("export/user.json")).unwrap();
        let (events, report) = read(&dir.path().join("export")).unwrap();
        assert!(events.is_empty() && report.bad["no user_name, and no user.json of an export"].count == 10);
        write("export/user.json", "{}".into());
        assert!(read(dir.path()).unwrap_err().to_string().contains("user.json"));

        // A log of our own may have such fields, too.
        let line = r#"{"time":1,"user":"u","track":"t","score":"good","timestamp":{},"created":[],"track_metadata":3}"#;
        assert_eq!(short(&read_text("a.jsonl", line).unwrap().0), [(1, "u", "t", Play)]);

        let (events, _) = parquet(vec![
            ("listened_at", Arc::new(arrow_array::TimestampMicrosecondArray::from(vec![1_704_067_200_000_000; 2]))),
            ("user_id", Arc::new(Int64Array::from(vec![17, 17]))),
            ("artist_name", Arc::new(StringArray::from(vec!["Bj\u{f6}rk"; 2]))),
            ("recording_name", Arc::new(StringArray::from(vec!["Hunter"; 2]))),
            ("recording_mbid", Arc::new(StringArray::from(vec![None, Some("a")]))),
        ])
        .unwrap();
        let expected = [(1_704_067_200, "17", "Bj\u{f6}rk \u{2013} Hunter", Play), (1_704_067_200, "17", "a", Play)];
        assert_eq!(short(&events), expected);
    }

    #[test]
    fn what_the_taker_refuses_ends_the_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "time,user,track\n1,u,t\n2,u,t\n").unwrap();
        let mut count = 0;
        let stopped = read_events(&path, BadRows::Count, &mut |_| {
            count += 1;
            Err(Error::Interrupted)
        });
        assert!(matches!(stopped, Err(Error::Interrupted)) && count == 1);
    }
}
