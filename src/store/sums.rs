//! Checksums: a flipped bit on the disk is an error, and never another answer.
//!
//! SQLite looks at the structure of its pages, not at what they hold. So every row carries 64 bits of the BLAKE3 hash of
//! its values, its key among them, which are looked at whenever the row is read; and the catalogue keeps how many rows
//! there are and the sum of their checksums (modulo 2^64), changed with each commit, so that whoever reads all rows
//! also knows that none is missing.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Row, ToSql};

/// The bytes that a checksum is made of: each value with its kind and, where that varies, its length.
#[derive(Default)]
pub(super) struct RowSum(Vec<u8>);

impl RowSum {
    pub fn add(&mut self, value: ValueRef) {
        let (kind, bytes): (u8, &[u8]) = match value {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(i) => return self.fixed(1, i.to_le_bytes()),
            ValueRef::Real(x) => return self.fixed(2, x.to_le_bytes()),
            ValueRef::Text(text) => (3, text),
            ValueRef::Blob(blob) => (4, blob),
        };
        self.fixed(kind, (bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }

    fn fixed(&mut self, kind: u8, bytes: [u8; 8]) {
        self.0.push(kind);
        self.0.extend(bytes);
    }

    pub fn finish(self) -> i64 {
        // A hash has 32 bytes.
        i64::from_le_bytes(*blake3::hash(&self.0).as_bytes().first_chunk().expect("more than eight bytes"))
    }
}

/// The checksum of the row that these values will be.
pub(super) fn sum_of(values: &[&dyn ToSql]) -> rusqlite::Result<i64> {
    let mut sum = RowSum::default();
    for value in values {
        match value.to_sql()? {
            ToSqlOutput::Borrowed(value) => sum.add(value),
            ToSqlOutput::Owned(value) => sum.add(ValueRef::from(&value)),
            // Nothing of ours is a blob that is written later or an array.
            _ => sum.add(ValueRef::from(&Value::Null)),
        }
    }
    Ok(sum.finish())
}

/// The checksum of `columns` values of `row` from `first` on, which is what stands in the next one.
///
/// # Errors
/// [`Damage`], naming `what`, where it is another.
pub(super) fn verified(row: &Row, first: usize, columns: usize, what: &str) -> rusqlite::Result<i64> {
    let mut sum = RowSum::default();
    for column in first..first + columns {
        sum.add(row.get_ref(column)?);
    }
    let sum = sum.finish();
    match row.get_ref(first + columns)? {
        ValueRef::Integer(there) if there == sum => Ok(sum),
        _ => Err(damaged(format!("a {what} with another checksum"))),
    }
}

/// What was read is not what was written.
#[derive(Debug)]
pub(super) struct Damage(pub String);

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damage {}

pub(super) fn damaged(what: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, Box::new(Damage(what.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_other_kinds_lengths_and_places_have_other_sums() {
        let rows: [&[&dyn ToSql]; 9] = [
            &[],
            &[&rusqlite::types::Null],
            &[&0i64],
            &[&0f64],
            &[&"0"],
            &[&vec![b'0']],
            &[&"0", &""],
            &[&"", &"0"],
            &[&"0", &rusqlite::types::Null],
        ];
        let sums: std::collections::HashSet<i64> = rows.iter().map(|row| sum_of(row).unwrap()).collect();
        assert_eq!(sums.len(), rows.len());
    }
}
