//! Reads event logs: Parquet, CSV, TSV and JSON lines, one row or batch at a time.
//!
//! The columns (or fields) are `time` (Unix seconds; in Parquet also a timestamp), `user`, `track`, and, if they are
//! there, `action` (default `play`) and `value` (default 1); others are ignored. A bad row is counted with its reason
//! and skipped; a bad file (no such column, truncated) is an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::{Action, Event};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId, id_problem};

/// The longest line that is taken, in bytes: two ids of 512 bytes, escaped and quoted, fit ten times.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Examples that are kept of each kind of bad row.
const EXAMPLES: usize = 3;
/// Clocks of other machines may be ahead of ours by so many seconds: a day, for local times taken for UTC.
const CLOCK_SKEW: i64 = 86_400;
/// Rows per Parquet batch: of a column of long ids, 4 MiB.
const BATCH: usize = 8192;

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

    /// Hands a good row on, and counts a bad one.
    fn take(
        &mut self,
        row: Result<Event, &'static str>,
        place: impl FnOnce() -> String,
        take: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        match row {
            Ok(event) => {
                take(event)?;
                self.rows += 1;
            }
            Err(reason) => {
                let bad = self.bad.entry(reason).or_default();
                bad.count += 1;
                if bad.examples.len() < EXAMPLES {
                    bad.examples.push(place());
                }
            }
        }
        Ok(())
    }
}

/// Reads the events of a file, or of all files in a folder and its subfolders in the order of their names (hidden
/// files and those that begin with `_` are skipped, as Spark writes them), and hands each on to `take`.
///
/// # Errors
/// `Io`, `Format` or `Unsupported` with the file; and whatever `take` returns.
pub fn read_events(path: &Path, take: &mut dyn FnMut(Event) -> Result<()>) -> Result<ReadReport> {
    let mut report = ReadReport::default();
    // Where the clock stands before 1970, every event is in the future, and the report says so.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    for file in event_files(path)? {
        let mut source = Source { path: &file, latest: clock + CLOCK_SKEW, report: &mut report, take };
        match Kind::of(&file)? {
            Kind::Separated(delimiter) => source.separated(delimiter)?,
            Kind::JsonLines => source.json_lines()?,
            Kind::Parquet => source.parquet()?,
        }
    }
    Ok(report)
}

enum Kind {
    Separated(u8),
    JsonLines,
    Parquet,
}

impl Kind {
    fn of(path: &Path) -> Result<Kind> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "csv" => Ok(Kind::Separated(b',')),
            "tsv" => Ok(Kind::Separated(b'\t')),
            "jsonl" | "ndjson" => Ok(Kind::JsonLines),
            "parquet" => Ok(Kind::Parquet),
            _ => Err(Error::unsupported(
                path,
                "events as .parquet, .csv, .tsv, .jsonl or .ndjson",
                format!("the extension {extension:?}"),
            )),
        }
    }
}

fn event_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    let shown = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with(['.', '_']);
    for entry in walkdir::WalkDir::new(path).sort_by_file_name().into_iter().filter_entry(shown) {
        let entry = entry.map_err(|e| Error::Io { path: path.to_path_buf(), source: e.into() })?;
        if entry.path().is_file() {
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
    /// The last second that is not in the future.
    latest: i64,
    report: &'a mut ReadReport,
    take: &'a mut dyn FnMut(Event) -> Result<()>,
}

impl Source<'_> {
    fn separated(&mut self, delimiter: u8) -> Result<()> {
        let mut lines = Lines::open(self.path)?;
        let mut fields = Fields::default();
        let columns = match lines.next().map_err(Error::io(self.path))? {
            Some(Ok(header)) => {
                let header = header.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(header);
                let read = fields.split(header, delimiter);
                let names: Vec<String> = (0..fields.len())
                    .map(|i| String::from_utf8_lossy(fields.get(i)).trim().to_ascii_lowercase())
                    .collect();
                read.map_err(str::to_string).and_then(|()| Columns::of(&names))
            }
            Some(Err(reason)) => Err(reason.to_string()),
            None => Err("an empty file".to_string()),
        };
        let columns = columns.map_err(|found| {
            Error::format(self.path, "a header line with the columns time, user and track, each once", found)
        })?;
        let count = fields.len();
        while let Some(line) = lines.next().map_err(Error::io(self.path))? {
            let row = match line {
                Ok([]) => continue,
                Ok(line) => fields.split(line, delimiter).and_then(|()| {
                    if fields.len() < count {
                        Err("too few fields")
                    } else if fields.len() > count {
                        Err("too many fields")
                    } else {
                        let text = |i| std::str::from_utf8(fields.get(i)).map_err(|_| "not UTF-8");
                        let action = columns.action.map(text).transpose()?;
                        let value = columns.value.map(text).transpose()?.filter(|v| !v.trim().is_empty());
                        self.event(
                            seconds(text(columns.time)?)?,
                            text(columns.user)?.into(),
                            text(columns.track)?.into(),
                            action.filter(|a| !a.is_empty()),
                            value.map(number).transpose()?,
                        )
                    }
                }),
                Err(reason) => Err(reason),
            };
            self.give(row, &lines)?;
        }
        Ok(())
    }

    fn json_lines(&mut self) -> Result<()> {
        /// Ids and numbers come as either, so both are taken as either.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar<'a> {
            Text(#[serde(borrow)] Cow<'a, str>),
            Whole(i64),
            Number(f64),
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
        }
        fn id(field: Option<Scalar>) -> Result<Cow<str>, &'static str> {
            match field {
                Some(Scalar::Text(text)) => Ok(text),
                Some(Scalar::Whole(number)) => Ok(number.to_string().into()),
                Some(Scalar::Number(_)) => Err("an id that is a fraction"),
                None => Err("a missing field"),
            }
        }
        let mut lines = Lines::open(self.path)?;
        while let Some(line) = lines.next().map_err(Error::io(self.path))? {
            let row = match line {
                Ok([]) => continue,
                Ok(line) => std::str::from_utf8(line).map_err(|_| "not UTF-8").and_then(|line| {
                    let line: Line = serde_json::from_str(line).map_err(|_| "not a JSON object of plain values")?;
                    let time = match line.time.ok_or("a missing field")? {
                        Scalar::Text(text) => seconds(&text)?,
                        Scalar::Whole(time) => time,
                        Scalar::Number(time) => whole_seconds(time)?,
                    };
                    let value = match line.value {
                        None => None,
                        Some(Scalar::Text(text)) => Some(number(&text)?),
                        Some(Scalar::Whole(value)) => Some(value as f64),
                        Some(Scalar::Number(value)) => Some(value),
                    };
                    self.event(time, id(line.user)?, id(line.track)?, line.action.as_deref(), value)
                }),
                Err(reason) => Err(reason),
            };
            self.give(row, &lines)?;
        }
        Ok(())
    }

    fn parquet(&mut self) -> Result<()> {
        let file = File::open(self.path).map_err(Error::io(self.path))?;
        // Without the Arrow schema that some writers add, a column has the one type that Parquet itself gives it.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(self.path, || ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))?;
        let names: Vec<String> = builder.schema().fields().iter().map(|f| f.name().to_ascii_lowercase()).collect();
        let columns = Columns::of(&names)
            .map_err(|found| Error::format(self.path, "the columns time, user and track, each once", found))?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.all());
        let wanted = columns.all().map(|c| builder.schema().field(c).clone()).collect::<Vec<_>>();
        let mut reader = guarded(self.path, || builder.with_batch_size(BATCH).with_projection(mask).build())?;
        let mut first = 1;
        while let Some(batch) = guarded(self.path, || reader.next().transpose())? {
            let cells: Vec<Cells> = (wanted.iter())
                .map(|field| {
                    let column = batch.column_by_name(field.name()).ok_or_else(|| {
                        Error::format(self.path, WHOLE_PARQUET, format!("no column {}", field.name()))
                    })?;
                    Cells::of(column).ok_or_else(|| {
                        Error::unsupported(
                            self.path,
                            "columns of text, numbers or times",
                            format!("{} of {}", field.name(), field.data_type()),
                        )
                    })
                })
                .collect::<Result<_>>()?;
            let cell = |name: Option<usize>| name.and_then(|c| columns.all().position(|a| a == c)).map(|at| &cells[at]);
            let (time, user, track) = (cell(Some(columns.time)), cell(Some(columns.user)), cell(Some(columns.track)));
            let (action, value) = (cell(columns.action), cell(columns.value));
            for i in 0..batch.num_rows() {
                let row = (|| {
                    let time = time.map_or(Ok(None), |c| c.seconds(i))?.ok_or("a missing field")?;
                    let action = action.map_or(Ok(None), |c| c.text(i))?;
                    let value = value.map_or(Ok(None), |c| c.number(i))?;
                    let user = user.map_or(Ok(None), |c| c.text(i))?.ok_or("a missing field")?;
                    let track = track.map_or(Ok(None), |c| c.text(i))?.ok_or("a missing field")?;
                    self.event(time, user, track, action.as_deref(), value)
                })();
                let path = self.path;
                let place = || {
                    let shown = |c: Option<&Cells>| {
                        c.and_then(|c| c.text(i).ok().flatten()).map(|t| shortened(t.as_bytes())).unwrap_or_default()
                    };
                    format!("{}:{}: user {} track {}", path.display(), first + i, shown(user), shown(track))
                };
                self.report.take(row, place, self.take)?;
            }
            first += batch.num_rows();
        }
        Ok(())
    }

    /// A row of whatever format, checked.
    fn event(
        &self,
        time: i64,
        user: Cow<str>,
        track: Cow<str>,
        action: Option<&str>,
        value: Option<f64>,
    ) -> Result<Event, &'static str> {
        if let Some(problem) = id_problem(&user).or_else(|| id_problem(&track)) {
            return Err(problem);
        }
        let action = match action {
            None => Action::Play,
            Some(text) => text.parse().map_err(|_| "an unknown action")?,
        };
        let value = value.unwrap_or(1.0) as f32;
        if !value.is_finite() {
            return Err("a value that is not a finite number");
        }
        if value < 0.0 {
            return Err("a negative value");
        }
        if time < 0 {
            return Err("a time before 1970");
        }
        if time > self.latest {
            // Also what milliseconds look like. One such row, taken for "now", would make all others ancient.
            return Err("a time in the future");
        }
        let taken = "just checked by id_problem";
        let (user, track) = (UserId::new(user).expect(taken), TrackId::new(track).expect(taken));
        Ok(Event { time, user, track, action, value })
    }

    fn give(&mut self, row: Result<Event, &'static str>, lines: &Lines) -> Result<()> {
        let place = || format!("{}:{}: {}", self.path.display(), lines.number, shortened(&lines.buffer));
        self.report.take(row, place, self.take)
    }
}

/// The start of something that may be long, binary or strange, for an example.
fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    let start: String = text.chars().take(80).collect();
    format!("{start:?}")
}

fn seconds(text: &str) -> Result<i64, &'static str> {
    let text = text.trim();
    text.parse().or_else(|_| whole_seconds(text.parse().map_err(|_| "a time that is not a number")?))
}

fn whole_seconds(time: f64) -> Result<i64, &'static str> {
    // `as` saturates, so that what is too large is refused as the future.
    if time.is_finite() { Ok(time.floor() as i64) } else { Err("a time that is not a number") }
}

fn number(text: &str) -> Result<f64, &'static str> {
    text.trim().parse().map_err(|_| "a value that is not a finite number")
}

/// Where our columns stand among those of a file.
struct Columns {
    time: usize,
    user: usize,
    track: usize,
    action: Option<usize>,
    value: Option<usize>,
}

impl Columns {
    /// The error says what was found.
    fn of(names: &[String]) -> Result<Columns, String> {
        let find = |name: &str| {
            let mut places = names.iter().enumerate().filter(|(_, n)| *n == name).map(|(i, _)| i);
            match (places.next(), places.next()) {
                (_, Some(_)) => Err(format!("{name} twice")),
                (place, None) => Ok(place),
            }
        };
        let need = |name: &str| {
            let shown: Vec<String> = names.iter().take(20).map(|n| shortened(n.as_bytes())).collect();
            find(name)?.ok_or_else(|| format!("no {name} among {}", shown.join(", ")))
        };
        Ok(Columns {
            time: need("time")?,
            user: need("user")?,
            track: need("track")?,
            action: find("action")?,
            value: find("value")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = usize> + use<> {
        [Some(self.time), Some(self.user), Some(self.track), self.action, self.value].into_iter().flatten()
    }
}

/// The fields of one line of separated text, quoted as in RFC 4180. A line break ends a row even within quotes: no id
/// holds one, and an unclosed quote then costs one row and not the rest of the file.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    fn split(&mut self, line: &[u8], delimiter: u8) -> Result<(), &'static str> {
        self.bytes.clear();
        self.ends.clear();
        let mut at = 0;
        loop {
            if line.get(at) == Some(&b'"') {
                at += 1;
                loop {
                    match (line.get(at), line.get(at + 1)) {
                        (Some(b'"'), Some(b'"')) => {
                            self.bytes.push(b'"');
                            at += 2;
                        }
                        (Some(b'"'), next) if next.is_none_or(|&n| n == delimiter) => {
                            at += 1;
                            break;
                        }
                        (Some(b'"') | None, _) => return Err("an unclosed quote"),
                        (Some(&byte), _) => {
                            self.bytes.push(byte);
                            at += 1;
                        }
                    }
                }
            } else {
                let rest = &line[at..];
                let length = rest.iter().position(|&b| b == delimiter).unwrap_or(rest.len());
                self.bytes.extend_from_slice(&rest[..length]);
                at += length;
            }
            self.ends.push(self.bytes.len());
            if at >= line.len() {
                return Ok(());
            }
            at += 1; // the delimiter
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

#[test]
fn fields_are_split_as_rfc_4180_says() {
    let split = |line: &str| {
        let mut fields = Fields::default();
        let read = fields.split(line.as_bytes(), b',');
        read.map(|()| (0..fields.len()).map(|i| String::from_utf8(fields.get(i).to_vec()).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(split("a,b").unwrap(), ["a", "b"]);
    assert_eq!(split(",a,,").unwrap(), ["", "a", "", ""]);
    assert_eq!(split("\"a, b\",\"say \"\"hi\"\"\",\"\"").unwrap(), ["a, b", "say \"hi\"", ""]);
    assert_eq!(split("a \"quoted\" b").unwrap(), ["a \"quoted\" b"]);
    assert_eq!(split("a,\"b"), Err("an unclosed quote"));
    assert_eq!(split("\"a\"b,c"), Err("an unclosed quote"));
}

/// Lines of bounded length, without their ends.
struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    /// The number of the line last read, from 1.
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Lines { reader: BufReader::with_capacity(1 << 16, file), buffer: Vec::new(), number: 0 })
    }

    /// The next line, or why it is none; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Result<&[u8], &'static str>>> {
        self.buffer.clear();
        let (mut any, mut too_long) = (false, false);
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|&b| b == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let used = part.len() + usize::from(end.is_some());
            let room = MAX_LINE_BYTES - self.buffer.len();
            too_long |= part.len() > room;
            self.buffer.extend_from_slice(&part[..part.len().min(room)]);
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        if too_long {
            return Ok(Some(Err("a line of more than 64 KiB")));
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        Ok(Some(Ok(&self.buffer)))
    }
}

const WHOLE_PARQUET: &str = "a whole Parquet file";

/// What the Parquet crate does, with its panics as errors: version 60.1 has several on damaged pages.
fn guarded<T, E: std::fmt::Display>(path: &Path, work: impl FnOnce() -> Result<T, E>) -> Result<T> {
    // What a panic leaves half-done is dropped with the file, unread.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| Error::format(path, WHOLE_PARQUET, e)),
        Err(panic) => {
            let says = (panic.downcast_ref::<String>().map(String::as_str)).or(panic.downcast_ref::<&str>().copied());
            Err(Error::format(path, WHOLE_PARQUET, says.unwrap_or("damage")))
        }
    }
}

/// A Parquet column of one of the types that we take.
struct Cells<'a> {
    column: &'a ArrayRef,
}

impl<'a> Cells<'a> {
    fn of(column: &'a ArrayRef) -> Option<Cells<'a>> {
        use DataType::{Binary, Date32, Float32, Float64, Int32, Int64, Timestamp, UInt32, UInt64, Utf8};
        let known = matches!(
            column.data_type(),
            Utf8 | Binary | Int32 | Int64 | UInt32 | UInt64 | Float32 | Float64 | Date32 | Timestamp(..)
        );
        known.then_some(Cells { column })
    }

    fn text(&self, i: usize) -> Result<Option<Cow<'a, str>>, &'static str> {
        if self.column.is_null(i) {
            return Ok(None);
        }
        match self.column.data_type() {
            DataType::Utf8 => Ok(Some(self.column.as_string::<i32>().value(i).into())),
            DataType::Binary => match std::str::from_utf8(self.column.as_binary::<i32>().value(i)) {
                Ok(text) => Ok(Some(text.into())),
                Err(_) => Err("not UTF-8"),
            },
            _ => match self.whole(i) {
                Some(number) => Ok(Some(number.to_string().into())),
                None => Err("an id that is a fraction or a time"),
            },
        }
    }

    fn number(&self, i: usize) -> Result<Option<f64>, &'static str> {
        if self.column.is_null(i) {
            return Ok(None);
        }
        match self.column.data_type() {
            DataType::Float32 => Ok(Some(self.column.as_primitive::<Float32Type>().value(i).into())),
            DataType::Float64 => Ok(Some(self.column.as_primitive::<Float64Type>().value(i))),
            DataType::Utf8 => number(self.column.as_string::<i32>().value(i)).map(Some),
            _ => self.whole(i).map(|n| Some(n as f64)).ok_or("a value that is not a finite number"),
        }
    }

    /// Unix seconds.
    fn seconds(&self, i: usize) -> Result<Option<i64>, &'static str> {
        if self.column.is_null(i) {
            return Ok(None);
        }
        let time = match self.column.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => self.column.as_primitive::<TimestampSecondType>().value(i),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                self.column.as_primitive::<TimestampMillisecondType>().value(i).div_euclid(1_000)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.column.as_primitive::<TimestampMicrosecondType>().value(i).div_euclid(1_000_000)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                self.column.as_primitive::<TimestampNanosecondType>().value(i).div_euclid(1_000_000_000)
            }
            DataType::Date32 => i64::from(self.column.as_primitive::<Date32Type>().value(i)) * 86_400,
            DataType::Float32 => whole_seconds(self.column.as_primitive::<Float32Type>().value(i).into())?,
            DataType::Float64 => whole_seconds(self.column.as_primitive::<Float64Type>().value(i))?,
            DataType::Utf8 => seconds(self.column.as_string::<i32>().value(i))?,
            _ => self.whole(i).ok_or("a time that is not a number")?.try_into().unwrap_or(i64::MAX),
        };
        Ok(Some(time))
    }

    fn whole(&self, i: usize) -> Option<i128> {
        match self.column.data_type() {
            DataType::Int32 => Some(self.column.as_primitive::<Int32Type>().value(i).into()),
            DataType::Int64 => Some(self.column.as_primitive::<Int64Type>().value(i).into()),
            DataType::UInt32 => Some(self.column.as_primitive::<UInt32Type>().value(i).into()),
            DataType::UInt64 => Some(self.column.as_primitive::<UInt64Type>().value(i).into()),
            _ => None,
        }
    }
}

/// Writes events as one Parquet file (zstd) that [`read_events`] reads: `time` int64 seconds, `user`, `track` and
/// `action` text, `value` float.
pub fn write_events_parquet(path: &Path, events: impl Iterator<Item = Event>) -> Result<()> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("time", DataType::Int64, false),
        Field::new("user", DataType::Utf8, false),
        Field::new("track", DataType::Utf8, false),
        Field::new("action", DataType::Utf8, false),
        Field::new("value", DataType::Float32, false),
    ]));
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    atomic_write(path, |out| {
        let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
        let mut events = events.peekable();
        while events.peek().is_some() {
            let rows: Vec<Event> = events.by_ref().take(BATCH).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|e| e.time))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|e| e.user.as_str()))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|e| e.track.as_str()))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|e| e.action.as_str()))),
                Arc::new(Float32Array::from_iter_values(rows.iter().map(|e| e.value))),
            ];
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(io::Error::other)?;
            writer.write(&batch)?;
        }
        writer.close()?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
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
        let report = read_events(path, &mut |e| {
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
            ("a.txt", "time,user,track\n", "\"txt\""),
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

    #[test]
    fn what_the_taker_refuses_ends_the_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "time,user,track\n1,u,t\n2,u,t\n").unwrap();
        let mut count = 0;
        let stopped = read_events(&path, &mut |_| {
            count += 1;
            Err(Error::Interrupted)
        });
        assert!(matches!(stopped, Err(Error::Interrupted)) && count == 1);
    }
}
