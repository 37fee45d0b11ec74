//! Rows as columns and columns as rows.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    PrimitiveArray, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::Written;
use crate::artefact::guarded;
use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};
use crate::store::{FileOutcome, FileRecord, FileRow, FileStamp, Met, Source, Track, TrackInfo};

/// Rows that are columns at a time: with two vectors of 40 numbers each, 1.3 MB.
const BATCH: usize = 4096;
/// Rows that a file holds together, and that are in memory until they are written (compressed).
const ROW_GROUP: usize = 1 << 16;

/// A kind of row.
pub(super) trait Row: Sized {
    /// The columns that a file of these must have; others are as if they said nothing.
    const REQUIRED: &[&str];

    /// `dimensions` is that of vectors, where it has any. Each column with its name and whether it may be null.
    fn columns(rows: &[Self], dimensions: usize) -> Vec<(&'static str, ArrayRef, bool)>;

    /// # Errors
    /// `Format`, naming the row.
    fn read(columns: &Columns, i: usize, dimensions: usize) -> Result<Self>;
}

/// A Parquet file that is being written, row by row, in bounded memory.
pub(super) struct Writer<R> {
    path: PathBuf,
    dimensions: usize,
    out: ArrowWriter<BufWriter<File>>,
    waiting: Vec<R>,
    rows: u64,
}

impl<R: Row> Writer<R> {
    pub fn create(path: &Path, dimensions: usize) -> Result<Writer<R>> {
        let schema = batch::<R>(&[], dimensions).map_err(problem(path))?.schema();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP));
        // A vector is unlike all others, and nobody asks for those whose third number is above .2.
        for vector in ["vector", "predicted"] {
            let numbers = ColumnPath::new(vec![vector.into(), "list".into(), "item".into()]);
            properties = properties
                .set_column_dictionary_enabled(numbers.clone(), false)
                .set_column_statistics_enabled(numbers, EnabledStatistics::None);
        }
        let file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        let out = ArrowWriter::try_new(file, schema, Some(properties.build())).map_err(problem(path))?;
        Ok(Writer { path: path.to_path_buf(), dimensions, out, waiting: Vec::with_capacity(BATCH), rows: 0 })
    }

    pub fn push(&mut self, row: R) -> Result<()> {
        self.waiting.push(row);
        if self.waiting.len() == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = batch(&self.waiting, self.dimensions).map_err(problem(&self.path))?;
        self.rows += self.waiting.len() as u64;
        self.waiting.clear();
        self.out.write(&batch).map_err(problem(&self.path))
    }

    pub fn finish(mut self) -> Result<Written> {
        self.flush()?;
        self.out.close().map_err(problem(&self.path))?;
        Written::of(&self.path, self.rows)
    }
}

fn batch<R: Row>(rows: &[R], dimensions: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter_with_nullable(R::columns(rows, dimensions))
}

fn problem<E: Into<Box<dyn std::error::Error + Send + Sync>>>(path: &Path) -> impl FnOnce(E) -> Error {
    move |e| Error::io(path)(io::Error::other(e))
}

const PARQUET: &str = "a Parquet file that `debut export` wrote";

/// The rows of a Parquet file that nobody vouches for.
pub(super) struct Reader<R> {
    path: PathBuf,
    dimensions: usize,
    reader: ParquetRecordBatchReader,
    columns: Columns,
    next: usize,
    kind: std::marker::PhantomData<R>,
}

impl<R: Row> Reader<R> {
    pub fn open(path: &Path, dimensions: usize) -> Result<Reader<R>> {
        let file = File::open(path).map_err(Error::io(path))?;
        // Without the Arrow schema that some writers add, a column has the one type that Parquet itself gives it.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(path, PARQUET, || ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))?;
        let names: BTreeSet<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
        if let Some(missing) = R::REQUIRED.iter().find(|name| !names.contains(*name)) {
            let found = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::format(path, format!("a column {missing}"), found));
        }
        let schema = builder.schema().clone();
        let reader = guarded(path, PARQUET, || builder.with_batch_size(BATCH).build())?;
        let columns = Columns { path: path.to_path_buf(), first: 1, batch: RecordBatch::new_empty(schema) };
        Ok(Reader { path: path.to_path_buf(), dimensions, reader, columns, next: 0, kind: std::marker::PhantomData })
    }

    /// The next row, and its number, from 1.
    ///
    /// # Errors
    /// `Format`, naming the row.
    pub fn next(&mut self) -> Result<Option<(u64, R)>> {
        while self.next == self.columns.batch.num_rows() {
            let first = self.columns.first + self.next as u64;
            let read = guarded(&self.path, PARQUET, || self.reader.next().transpose());
            // Which page is damaged only the rows tell.
            let Some(batch) =
                read.map_err(|e| Error::format(&self.path, PARQUET, format!("after row {}: {e}", first - 1)))?
            else {
                return Ok(None);
            };
            self.columns = Columns { path: self.path.clone(), first, batch };
            self.next = 0;
        }
        let row = R::read(&self.columns, self.next, self.dimensions)?;
        self.next += 1;
        Ok(Some((self.columns.first + self.next as u64 - 1, row)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Some rows of a file, as columns of the types that the file claims.
pub(super) struct Columns {
    path: PathBuf,
    /// The number of the first of them, from 1.
    first: u64,
    batch: RecordBatch,
}

impl Columns {
    /// For `map_err`, and by itself: what is wrong with row `i` of these.
    fn bad(&self, i: usize, expected: impl ToString, found: impl std::fmt::Display) -> Error {
        Error::format(&self.path, expected, format!("row {}: {found}", self.first + i as u64))
    }

    /// The value in this row of the column, where it is there and the row has one.
    fn value<'a, A: Array + 'static, V>(
        &'a self,
        name: &str,
        kind: &str,
        i: usize,
        of: impl Fn(&'a A, usize) -> V,
    ) -> Result<Option<V>> {
        let Some(column) = self.batch.column_by_name(name) else { return Ok(None) };
        let column: &A = column
            .as_any()
            .downcast_ref()
            .ok_or_else(|| Error::format(&self.path, format!("{kind} in column {name}"), column.data_type()))?;
        Ok((!column.is_null(i)).then(|| of(column, i)))
    }

    /// # Errors
    /// Where the row has none; a column that is not there is `otherwise`, if there is such a thing.
    fn some<V>(&self, name: &str, i: usize, value: Option<V>, otherwise: Option<V>) -> Result<V> {
        let otherwise = otherwise.filter(|_| self.batch.column_by_name(name).is_none());
        value.or(otherwise).ok_or_else(|| self.bad(i, format!("a value in column {name}"), "none"))
    }

    fn text(&self, name: &str, i: usize) -> Result<Option<&str>> {
        self.value(name, "text", i, |column: &StringArray, i| column.value(i))
    }

    fn owned(&self, name: &str, i: usize) -> Result<Option<String>> {
        Ok(self.text(name, i)?.map(String::from))
    }

    fn id<I: std::str::FromStr<Err = Error>>(&self, name: &str, i: usize) -> Result<I> {
        let text = self.some(name, i, self.text(name, i)?, None)?;
        text.parse().map_err(|e| self.bad(i, format!("an id in column {name}"), e))
    }

    fn number<T: ArrowPrimitiveType>(&self, name: &str, i: usize) -> Result<Option<T::Native>> {
        self.value(name, &T::DATA_TYPE.to_string(), i, |column: &PrimitiveArray<T>, i| column.value(i))
    }

    fn number_or<T: ArrowPrimitiveType>(&self, name: &str, i: usize, otherwise: T::Native) -> Result<T::Native> {
        self.some(name, i, self.number::<T>(name, i)?, Some(otherwise))
    }

    /// # Errors
    /// Where the row has none, or one that is not finite.
    fn finite(&self, name: &str, i: usize, otherwise: Option<f32>) -> Result<f32> {
        let found = self.some(name, i, self.number::<Float32Type>(name, i)?, otherwise)?;
        if found.is_finite() { Ok(found) } else { Err(self.bad(i, format!("a finite number in column {name}"), found)) }
    }

    /// # Errors
    /// Where the row has one outside of the range, or one that is not a number.
    fn within(&self, name: &str, i: usize, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        match self.number::<Float32Type>(name, i)? {
            Some(found) if !range.contains(&found) => {
                Err(self.bad(i, format!("{} to {} in column {name}", range.start(), range.end()), found))
            }
            found => Ok(found),
        }
    }

    fn flag(&self, name: &str, i: usize) -> Result<Option<bool>> {
        self.value(name, "true or false", i, |column: &BooleanArray, i| column.value(i))
    }

    fn vector(&self, name: &str, i: usize, dimensions: usize) -> Result<Option<Vec<f32>>> {
        let Some(numbers) = self.value(name, "lists of float32", i, |column: &ListArray, i| column.value(i))? else {
            return Ok(None);
        };
        let Some(vector) = numbers.as_primitive_opt::<Float32Type>() else {
            let found = format!("lists of {}", numbers.data_type());
            return Err(Error::format(&self.path, format!("lists of float32 in column {name}"), found));
        };
        if vector.len() != dimensions || vector.null_count() > 0 {
            let found = format!("{}, {} of them null", vector.len(), vector.null_count());
            return Err(self.bad(i, format!("{dimensions} numbers in column {name}"), found));
        }
        match vector.values().iter().find(|v| !v.is_finite()) {
            None => Ok(Some(vector.values().to_vec())),
            Some(odd) => Err(self.bad(i, format!("finite numbers in column {name}"), odd)),
        }
    }

    /// Of the columns `path` and `path_bytes`.
    fn path(&self, i: usize) -> Result<Option<PathBuf>> {
        if let Some(text) = self.text("path", i)? {
            return Ok(Some(text.into()));
        }
        let bytes = self.value("path_bytes", "bytes", i, |column: &BinaryArray, i| column.value(i))?;
        let Some(bytes) = bytes else { return Ok(None) };
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            Ok(Some(std::ffi::OsStr::from_bytes(bytes).into()))
        }
        #[cfg(not(unix))]
        Err(self.bad(i, "a path in UTF-8", "bytes, which are a path on Unix alone"))
    }
}

fn texts<'a>(of: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(of.collect::<StringArray>())
}

/// `path` and `path_bytes`.
fn paths<'a>(of: impl Iterator<Item = Option<&'a Path>> + Clone) -> [(&'static str, ArrayRef, bool); 2] {
    let text = texts(of.clone().map(|path| path.and_then(Path::to_str)));
    let bytes = |path: &'a Path| path.as_os_str().as_encoded_bytes();
    let bytes: BinaryArray = of.map(|path| path.filter(|p| p.to_str().is_none()).map(bytes)).collect();
    [("path", text, true), ("path_bytes", Arc::new(bytes), true)]
}

/// `[n, dimensions]`.
fn vectors<'a>(of: impl Iterator<Item = Option<&'a [f32]>>, dimensions: usize) -> ArrayRef {
    // A space has fewer than 2^31 dimensions: its vectors are in memory.
    let mut list = FixedSizeListBuilder::new(Float32Builder::new(), dimensions as i32);
    for vector in of {
        match vector {
            Some(vector) => list.values().append_slice(vector),
            None => list.values().append_nulls(dimensions),
        }
        list.append(vector.is_some());
    }
    Arc::new(list.finish())
}

/// A track, and the number of its last change.
pub(super) struct TrackRow {
    pub track: Track,
    pub seq: i64,
}

impl Row for TrackRow {
    const REQUIRED: &[&str] = &["id", "vector"];

    fn columns(rows: &[TrackRow], dimensions: usize) -> Vec<(&'static str, ArrayRef, bool)> {
        let all = || rows.iter().map(|row| &row.track);
        let word = |of: fn(&TrackInfo) -> &Option<String>| texts(all().map(|t| of(&t.info).as_deref()));
        let [path, path_bytes] = paths(all().map(|t| t.path.as_deref()));
        vec![
            ("id", texts(all().map(|t| Some(t.id.as_str()))), false),
            path,
            path_bytes,
            ("content", texts(all().map(|t| t.content.as_deref())), true),
            ("title", word(|i| &i.title), true),
            ("artist", word(|i| &i.artist), true),
            ("album", word(|i| &i.album), true),
            ("year", Arc::new(all().map(|t| t.info.year).collect::<Int32Array>()), true),
            ("genre", word(|i| &i.genre), true),
            ("isrc", word(|i| &i.isrc), true),
            ("musicbrainz", word(|i| &i.musicbrainz), true),
            ("released", word(|i| &i.released), true),
            ("language", word(|i| &i.language), true),
            ("explicit", Arc::new(all().map(|t| t.info.explicit).collect::<BooleanArray>()), true),
            ("regions", word(|i| &i.regions), true),
            ("seconds", Arc::new(all().map(|t| t.seconds).collect::<Float64Array>()), true),
            ("tiled", Arc::new(all().map(|t| Some(t.tiled)).collect::<BooleanArray>()), false),
            ("model", texts(all().map(|t| t.model.as_deref())), true),
            ("windows", Arc::new(all().map(|t| t.windows).collect::<UInt32Array>()), true),
            ("source", texts(all().map(|t| Some(t.source.as_str()))), false),
            ("plays", Arc::new(UInt32Array::from_iter_values(all().map(|t| t.plays))), false),
            ("norm", Arc::new(Float32Array::from_iter_values(all().map(|t| t.norm))), false),
            ("vector", vectors(all().map(|t| Some(t.vector.as_slice())), dimensions), false),
            ("predicted", vectors(all().map(|t| t.predicted.as_deref()), dimensions), true),
            ("length", Arc::new(all().map(|t| t.length).collect::<Float32Array>()), true),
            ("confidence", Arc::new(all().map(|t| t.confidence).collect::<Float32Array>()), true),
            ("seq", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.seq))), false),
        ]
    }

    fn read(c: &Columns, i: usize, dimensions: usize) -> Result<TrackRow> {
        let source = c.some("source", i, c.text("source", i)?, Some(Source::Learned.as_str()))?;
        let track = Track {
            id: c.id("id", i)?,
            path: c.path(i)?,
            content: c.owned("content", i)?,
            info: TrackInfo {
                title: c.owned("title", i)?,
                artist: c.owned("artist", i)?,
                album: c.owned("album", i)?,
                year: c.number::<Int32Type>("year", i)?,
                genre: c.owned("genre", i)?,
                isrc: c.owned("isrc", i)?,
                musicbrainz: c.owned("musicbrainz", i)?,
                released: c.owned("released", i)?,
                language: c.owned("language", i)?,
                explicit: c.flag("explicit", i)?,
                regions: c.owned("regions", i)?,
            },
            seconds: c.number::<Float64Type>("seconds", i)?,
            tiled: c.some("tiled", i, c.flag("tiled", i)?, Some(false))?,
            model: c.owned("model", i)?,
            windows: c.number::<UInt32Type>("windows", i)?,
            predicted: c.vector("predicted", i, dimensions)?,
            length: c.within("length", i, 0.0..=f32::MAX)?,
            confidence: c.within("confidence", i, 0.0..=1.0)?,
            vector: c.some("vector", i, c.vector("vector", i, dimensions)?, None)?,
            norm: c.finite("norm", i, Some(1.0))?,
            source: Source::parse(source).ok_or_else(|| c.bad(i, "a source of a vector", source))?,
            plays: c.number_or::<UInt32Type>("plays", i, 0)?,
        };
        Ok(TrackRow { track, seq: c.number_or::<Int64Type>("seq", i, 0)? })
    }
}

/// A track that is not there any more, and when it went.
pub(super) struct RemovedRow {
    pub id: TrackId,
    pub seq: i64,
}

impl Row for RemovedRow {
    const REQUIRED: &[&str] = &["id"];

    fn columns(rows: &[RemovedRow], _: usize) -> Vec<(&'static str, ArrayRef, bool)> {
        vec![
            ("id", texts(rows.iter().map(|row| Some(row.id.as_str()))), false),
            ("seq", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.seq))), false),
        ]
    }

    fn read(c: &Columns, i: usize, _: usize) -> Result<RemovedRow> {
        Ok(RemovedRow { id: c.id("id", i)?, seq: c.number_or::<Int64Type>("seq", i, 0)? })
    }
}

impl Row for FileRow {
    const REQUIRED: &[&str] = &["path", "size", "modified"];

    fn columns(rows: &[FileRow], _: usize) -> Vec<(&'static str, ArrayRef, bool)> {
        let all = || rows.iter().map(|row| &row.record);
        let failed = |record: &FileRecord| match &record.outcome {
            FileOutcome::Track(_) => (None, false),
            FileOutcome::Failed { reason, retry } => (Some(reason.clone()), *retry),
        };
        let [path, path_bytes] = paths(all().map(|r| Some(r.stamp.path.as_path())));
        let int64 = |of: fn(&FileRow) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(of)));
        vec![
            path,
            path_bytes,
            ("size", int64(|row| row.record.stamp.size as i64), false),
            ("modified", int64(|row| row.record.stamp.modified), false),
            ("content", texts(all().map(|r| r.content.as_deref())), true),
            ("track", texts(rows.iter().map(|row| row.track.as_ref().map(TrackId::as_str))), true),
            ("reason", Arc::new(all().map(|r| failed(r).0).collect::<StringArray>()), true),
            ("retry", Arc::new(all().map(|r| Some(failed(r).1)).collect::<BooleanArray>()), false),
            ("decoder", Arc::new(UInt32Array::from_iter_values(all().map(|r| r.decoder))), false),
            ("at", int64(|row| row.at), false),
        ]
    }

    fn read(c: &Columns, i: usize, _: usize) -> Result<FileRow> {
        let track: Option<TrackId> = c.text("track", i)?.map(|_| c.id("track", i)).transpose()?;
        let outcome = match (c.owned("reason", i)?, &track) {
            (Some(reason), _) => FileOutcome::Failed { reason, retry: c.flag("retry", i)?.unwrap_or(false) },
            (None, Some(track)) => FileOutcome::Track(track.clone()),
            (None, None) => return Err(c.bad(i, "a track or a reason", "neither")),
        };
        let record = FileRecord {
            stamp: FileStamp {
                path: c.some("path", i, c.path(i)?, None)?,
                size: c.some("size", i, c.number::<Int64Type>("size", i)?, None)? as u64,
                modified: c.some("modified", i, c.number::<Int64Type>("modified", i)?, None)?,
            },
            content: c.owned("content", i)?,
            outcome,
            decoder: c.number_or::<UInt32Type>("decoder", i, 0)?,
        };
        Ok(FileRow { record, track, at: c.number_or::<Int64Type>("at", i, 0)? })
    }
}

pub(super) struct ListenerRow {
    pub id: UserId,
    pub vector: Vec<f32>,
}

impl Row for ListenerRow {
    const REQUIRED: &[&str] = &["id", "vector"];

    fn columns(rows: &[ListenerRow], dimensions: usize) -> Vec<(&'static str, ArrayRef, bool)> {
        vec![
            ("id", texts(rows.iter().map(|row| Some(row.id.as_str()))), false),
            ("vector", vectors(rows.iter().map(|row| Some(row.vector.as_slice())), dimensions), false),
        ]
    }

    fn read(c: &Columns, i: usize, dimensions: usize) -> Result<ListenerRow> {
        Ok(ListenerRow { id: c.id("id", i)?, vector: c.some("vector", i, c.vector("vector", i, dimensions)?, None)? })
    }
}

pub(super) struct HistoryRow {
    pub listener: UserId,
    pub met: Met,
}

impl Row for HistoryRow {
    const REQUIRED: &[&str] = &["listener", "track", "confidence", "preference"];

    fn columns(rows: &[HistoryRow], _: usize) -> Vec<(&'static str, ArrayRef, bool)> {
        let float = |of: fn(&Met) -> f32| Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| of(&row.met))));
        vec![
            ("listener", texts(rows.iter().map(|row| Some(row.listener.as_str()))), false),
            ("track", texts(rows.iter().map(|row| Some(row.met.track.as_str()))), false),
            ("confidence", float(|met| met.confidence), false),
            ("preference", float(|met| met.preference), false),
        ]
    }

    fn read(c: &Columns, i: usize, _: usize) -> Result<HistoryRow> {
        let met = Met {
            track: c.id("track", i)?,
            confidence: c.finite("confidence", i, None)?,
            preference: c.finite("preference", i, None)?,
        };
        Ok(HistoryRow { listener: c.id("listener", i)?, met })
    }
}
