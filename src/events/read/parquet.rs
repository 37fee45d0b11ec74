//! Parquet.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

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

use super::columns::{Columns, Track};
use super::{Row, Source, number, seconds, shortened, track_name, whole_seconds};
use crate::artefact::{atomic_write, guarded};
use crate::error::{Error, Result};
use crate::events::Event;

/// Rows per batch: of a column of long ids, 4 MiB.
const BATCH: usize = 8192;

pub fn read(source: &mut Source) -> Result<()> {
    let path = source.path;
    let file_user = source.file_user.take();
    let file = File::open(path).map_err(Error::io(path))?;
    // Without the Arrow schema that some writers add, a column has the one type that Parquet itself gives it.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder =
        guarded(path, WHOLE_PARQUET, || ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|f| f.name().to_ascii_lowercase()).collect();
    let columns = Columns::of(&names)
        .map_err(|found| Error::format(path, "the columns time, user and track, each once", found))?;
    let wanted = columns.all();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.iter().copied());
    let fields: Vec<_> = wanted.iter().map(|&c| builder.schema().field(c).clone()).collect();
    let mut reader = guarded(path, WHOLE_PARQUET, || builder.with_batch_size(BATCH).with_projection(mask).build())?;
    let mut first = 1;
    while let Some(batch) = guarded(path, WHOLE_PARQUET, || reader.next().transpose())? {
        let cells: Vec<Cells> = (fields.iter())
            .map(|field| {
                let column = batch
                    .column_by_name(field.name())
                    .ok_or_else(|| Error::format(path, WHOLE_PARQUET, format!("no column {}", field.name())))?;
                Cells::of(column).ok_or_else(|| {
                    let found = format!("{} of {}", field.name(), field.data_type());
                    Error::unsupported(path, "columns of text, numbers or times", found)
                })
            })
            .collect::<Result<_>>()?;
        let cell = |column: usize| {
            let at = wanted.iter().position(|&w| w == column).expect("every column of ours is among those wanted");
            &cells[at]
        };
        let table = Table {
            time: columns.time.map(cell),
            user: columns.user.map(cell),
            track: match columns.track {
                Track::Id(id) => TrackCells::Id(cell(id)),
                Track::Names { mbid, artist, title } => TrackCells::Names(mbid.map(cell), cell(artist), cell(title)),
            },
            action: columns.action.map(cell),
            value: columns.value.map(cell),
            seconds: columns.seconds.map(cell),
            duration: columns.duration.map(cell),
            playlist: columns.playlist.map(cell),
        };
        for i in 0..batch.num_rows() {
            let row = table.row(i, file_user.as_deref().filter(|_| columns.file_is_user));
            let shown = || {
                let text = |cells: &Cells| cells.text(i).ok().flatten().map(|t| shortened(t.as_bytes()));
                let row: Vec<_> = (fields.iter().zip(&cells))
                    .filter_map(|(field, cells)| Some(format!("{} {}", field.name(), text(cells)?)))
                    .collect();
                row.join(" ")
            };
            source.give(row, (first + i) as u64, shown)?;
        }
        first += batch.num_rows();
    }
    Ok(())
}

/// The columns of a batch.
struct Table<'a> {
    time: Option<&'a Cells<'a>>,
    user: Option<&'a Cells<'a>>,
    track: TrackCells<'a>,
    action: Option<&'a Cells<'a>>,
    value: Option<&'a Cells<'a>>,
    seconds: Option<&'a Cells<'a>>,
    duration: Option<&'a Cells<'a>>,
    playlist: Option<&'a Cells<'a>>,
}

enum TrackCells<'a> {
    Id(&'a Cells<'a>),
    /// MusicBrainz id, artist, title
    Names(Option<&'a Cells<'a>>, &'a Cells<'a>, &'a Cells<'a>),
}

impl<'a> Table<'a> {
    fn row(&self, i: usize, file_user: Option<&'a str>) -> Result<Row<'a>, &'static str> {
        let text = |cells: Option<&Cells<'a>>| cells.map_or(Ok(None), |c| c.text(i));
        let filled = |cells| Ok::<_, &'static str>(text(cells)?.filter(|t| !t.trim().is_empty()));
        let number = |cells: Option<&Cells>| cells.map_or(Ok(None), |c| c.number(i));
        Ok(Row {
            time: self.time.map_or(Ok(None), |c| c.seconds(i))?,
            user: text(self.user)?.or(file_user.map(Cow::from)),
            track: match self.track {
                TrackCells::Id(id) => id.text(i)?,
                TrackCells::Names(mbid, artist, title) => match filled(mbid)? {
                    Some(mbid) => Some(mbid),
                    None => track_name(None, filled(Some(artist))?.as_deref(), filled(Some(title))?.as_deref())
                        .map(|name| name.into_owned().into()),
                },
            },
            action: filled(self.action)?,
            value: number(self.value)?,
            seconds: number(self.seconds)?,
            duration: number(self.duration)?,
            playlist: filled(self.playlist)?,
        })
    }
}

const WHOLE_PARQUET: &str = "a whole Parquet file";

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

/// Writes events as one Parquet file (zstd) that [`read_events`](super::read_events) reads: `time` int64 seconds, `user`, `track` and
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
