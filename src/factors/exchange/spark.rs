//! The folder of Spark MLlib's `ALSModel`: two tables of `id` (int) and `features` (array of float) in Parquet, and a line
//! of JSON that says what it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use ndarray::{Array2, ArrayView2, s};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::{Factors, Foreign, Side, open};
use crate::artefact::{atomic_write, guarded};
use crate::error::{Error, Result};
use crate::factors::MAX_DIMENSIONS;

const WHOLE: &str = "a whole Parquet file with an id and an array of numbers, features, in each row";

pub(super) fn write(folder: &Path, factors: &Factors) -> Result<()> {
    write_table(&folder.join("userFactors/part-00000.parquet"), factors.user_factors.view())?;
    write_table(&folder.join("itemFactors/part-00000.parquet"), factors.track_factors.view())?;
    // The fields that Spark's DefaultParamsReader asks for; it takes the defaults, too, from here and nowhere else.
    let metadata = serde_json::json!({
        "class": "org.apache.spark.ml.recommendation.ALSModel",
        "timestamp": 0,
        "sparkVersion": "3.0.0",
        "uid": factors.space.as_str(),
        "paramMap": {},
        "defaultParamMap": {
            "userCol": "user", "itemCol": "item", "predictionCol": "prediction", "coldStartStrategy": "nan",
            "blockSize": 4096,
        },
        "rank": factors.dimensions(),
    });
    use std::io::Write;
    atomic_write(&folder.join("metadata/part-00000"), |out| writeln!(out, "{metadata}"))
}

/// Rows that are written in one go.
const BATCH: usize = 8192;

fn write_table(path: &Path, rows: ArrayView2<f32>) -> Result<()> {
    if i32::try_from(rows.nrows()).is_err() {
        return Err(Error::unsupported(path, "at most 2,147,483,647 rows, Spark's ids", rows.nrows()));
    }
    let element = Arc::new(Field::new("element", DataType::Float32, false));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("features", DataType::List(element.clone()), true),
    ]));
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_dictionary_enabled(false).build();
    atomic_write(path, |out| {
        let problem = std::io::Error::other;
        let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(problem)?;
        for start in (0..rows.nrows()).step_by(BATCH) {
            let end = (start + BATCH).min(rows.nrows());
            let mut features = ListBuilder::new(Float32Builder::new()).with_field(element.clone());
            for row in rows.slice(s![start..end, ..]).rows() {
                row.iter().for_each(|&x| features.values().append_value(x));
                features.append(true);
            }
            let ids = Int32Array::from_iter_values(start as i32..end as i32);
            let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(features.finish())];
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(std::io::Error::other)?;
            writer.write(&batch).map_err(problem)?;
        }
        writer.finish().map(drop).map_err(problem)
    })
}

pub(super) fn read(folder: &Path) -> Result<Foreign> {
    let (users, tracks) = (read_side(&folder.join("userFactors"))?, read_side(&folder.join("itemFactors"))?);
    Ok(Foreign { users, tracks, regularisation: None })
}

/// The rows of all Parquet files of a folder, by their ids.
fn read_side(folder: &Path) -> Result<Side> {
    let mut paths: Vec<PathBuf> = (std::fs::read_dir(folder).map_err(Error::io(folder))?)
        .map(|entry| entry.map(|e| e.path()).map_err(Error::io(folder)))
        .collect::<Result<_>>()?;
    // Hidden files are checksums.
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['.', '_']));
    paths.retain(|p| p.extension().is_some_and(|e| e == "parquet") && !hidden(p));
    paths.sort();
    let mut rows = Rows::default();
    for path in &paths {
        rows.read(path)?;
    }
    let (n, d) = (rows.ids.len(), rows.dimensions.unwrap_or(0));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|&i| rows.ids[i]);
    if let Some(twice) = order.windows(2).find(|w| rows.ids[w[0]] == rows.ids[w[1]]) {
        return Err(Error::format(folder, "every id once", format!("{} again", rows.ids[twice[0]])));
    }
    let numbers = order.iter().map(|&i| rows.ids[i]).collect();
    Ok(Side { numbers, factors: Array2::from_shape_fn((n, d), |(i, j)| rows.features[order[i] * d + j]) })
}

/// Rows that are read in one go.
const READ_BATCH: usize = 256;
/// So many numbers may stand for one byte of a file: a column of floats hardly shrinks, and one that claims more would
/// rather fill the memory.
const NUMBERS_PER_BYTE: u64 = 64;

/// What has been read of a side.
#[derive(Default)]
struct Rows {
    ids: Vec<i64>,
    /// One row's numbers after the other's.
    features: Vec<f32>,
    dimensions: Option<usize>,
}

impl Rows {
    fn read(&mut self, path: &Path) -> Result<()> {
        let (file, length) = open(path)?;
        // Without the Arrow schema that some writers add, a column has the one type that Parquet itself gives it.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(path, WHOLE, || ParquetRecordBatchReaderBuilder::try_new_with_options(file, options))?;
        let missing = || Error::format(path, WHOLE, "other columns");
        let root = |name: &str| builder.schema().fields().iter().position(|f| f.name() == name).ok_or_else(missing);
        let roots = [root("id")?, root("features")?];
        let claimed: u64 = (builder.metadata().row_groups().iter().flat_map(|group| group.columns()))
            .map(|column| u64::try_from(column.num_values()).unwrap_or(u64::MAX))
            .fold(0, u64::saturating_add);
        if claimed > length.saturating_mul(NUMBERS_PER_BYTE) {
            let expected = format!("no more numbers than {length} bytes can hold");
            return Err(Error::format(path, expected, claimed));
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let mut reader = guarded(path, WHOLE, || builder.with_batch_size(READ_BATCH).with_projection(mask).build())?;
        while let Some(batch) = guarded(path, WHOLE, || reader.next().transpose())? {
            let column = |name: &str| batch.column_by_name(name).ok_or_else(missing);
            self.take(path, column("id")?, column("features")?)?;
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, ids: &ArrayRef, features: &ArrayRef) -> Result<()> {
        let types = || {
            let found = format!("{} and {}", ids.data_type(), features.data_type());
            Error::unsupported(path, "id as int and features as array of float or double", found)
        };
        let lists = features.as_list_opt::<i32>().ok_or_else(types)?;
        let numbers = lists.values();
        if ids.null_count() + lists.null_count() + numbers.null_count() > 0 {
            return Err(Error::format(path, "no value missing", "a null"));
        }
        if let Some(ids) = ids.as_primitive_opt::<Int32Type>() {
            self.ids.extend(ids.values().iter().map(|&id| i64::from(id)));
        } else {
            self.ids.extend(ids.as_primitive_opt::<Int64Type>().ok_or_else(types)?.values());
        }
        for bounds in lists.value_offsets().windows(2) {
            let (start, length) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
            let d = *self.dimensions.get_or_insert(length);
            if length != d || d > MAX_DIMENSIONS {
                let expected = format!("{} features in every row", d.min(MAX_DIMENSIONS));
                return Err(Error::format(path, expected, length));
            }
            if let Some(numbers) = numbers.as_primitive_opt::<Float32Type>() {
                self.features.extend(&numbers.values()[start..start + length]);
            } else {
                let numbers = numbers.as_primitive_opt::<Float64Type>().ok_or_else(types)?;
                self.features.extend(numbers.values()[start..start + length].iter().map(|&x| x as f32));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ConfidenceConfig;
    use crate::factors::AlsConfig;
    use crate::factors::exchange::{Format, Names};

    fn table(folder: &Path, name: &str, rows: &[(i32, &[f32])]) {
        std::fs::create_dir_all(folder).unwrap();
        let mut features = ListBuilder::new(Float32Builder::new());
        for (_, row) in rows {
            row.iter().for_each(|&x| features.values().append_value(x));
            features.append(true);
        }
        let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.0)));
        let batch = RecordBatch::try_from_iter([("id", ids), ("features", Arc::new(features.finish()) as _)]).unwrap();
        let mut writer =
            ArrowWriter::try_new(std::fs::File::create(folder.join(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn partitions_come_together_by_id_and_ids_may_have_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let (users, items) = (dir.path().join("userFactors"), dir.path().join("itemFactors"));
        table(&users, "part-0.parquet", &[(30, &[3.0, 3.5]), (10, &[1.0, 1.5])]);
        table(&users, "part-1.parquet", &[(20, &[2.0, 2.5])]);
        table(&users, "_part-1.parquet", &[(20, &[9.0, 9.0])]);
        table(&items, "part-0.parquet", &[(-1, &[0.0, 1.0])]);
        let import = |names: &Names| {
            Factors::import(dir.path(), Format::Spark, names, &AlsConfig::default(), &ConfidenceConfig::default())
        };
        let numbered = Names { numbered: true, ..Names::default() };
        let factors = import(&numbered).unwrap();
        assert_eq!(factors.users.iter().map(|u| u.as_str()).collect::<Vec<_>>(), ["10", "20", "30"]);
        assert_eq!(factors.user_factors, ndarray::array![[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]);
        assert_eq!(factors.tracks[0].as_str(), "-1");
        // Names by id: line 30 of a longer file; -1 has none.
        std::fs::write(dir.path().join("users.ids"), (0..40).map(|i| format!("name {i}\n")).collect::<String>())
            .unwrap();
        assert_eq!(import(&numbered).unwrap().users[2].as_str(), "name 30");
        std::fs::write(dir.path().join("tracks.ids"), "zero\n").unwrap();
        assert!(import(&numbered).unwrap_err().to_string().contains("id -1"));
        std::fs::remove_file(dir.path().join("tracks.ids")).unwrap();

        table(&users, "part-2.parquet", &[(20, &[2.0, 2.5])]);
        assert!(import(&numbered).unwrap_err().to_string().contains("20 again"));
        table(&users, "part-2.parquet", &[(40, &[2.0])]);
        assert!(import(&numbered).unwrap_err().to_string().contains("2 features"));
    }
}
