//! Reading all of the catalogue, as it was at one moment, for who takes it elsewhere.

use rusqlite::{Row, ToSql};

use super::read::{FILE, FILE_COLUMNS, TOMBSTONE_COLUMNS, file_row, id_of};
use super::sums::verified;
use super::{FileRecord, Store, catalogue};
use crate::error::Result;
use crate::ids::TrackId;

/// A file of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRow {
    pub record: FileRecord,
    /// The track that it gave when it last gave one; also of a file that has failed since.
    pub track: Option<TrackId>,
    /// When it was looked at, in seconds since 1970.
    pub at: i64,
}

impl Store {
    /// Does `work`, which sees the catalogue as it is when it begins, whatever is committed meanwhile. The log of a
    /// writer grows until it is done.
    ///
    /// # Errors
    /// Those of `work`; `Catalogue`.
    pub fn in_snapshot<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let snapshot = self.db.unchecked_transaction().map_err(catalogue(&self.path))?;
        // It begins with its first question.
        self.seq()?;
        let done = work()?;
        snapshot.finish().map_err(catalogue(&self.path))?;
        Ok(done)
    }

    /// The number of the last change of the track with this key.
    pub fn seq_of(&self, key: u64) -> Result<i64> {
        self.ask(|db| {
            db.prepare_cached("SELECT seq FROM tracks WHERE key = ?1")?.query_row([key as i64], |row| row.get(0))
        })
    }

    /// Calls `each` with the id and seq of every track that was taken out after `seq` and is not there, oldest first.
    pub fn for_each_removed(&self, seq: i64, each: &mut dyn FnMut(TrackId, i64) -> Result<()>) -> Result<()> {
        // An id that came and went again has several tombstones.
        let sql = "SELECT key, id, seq, sum FROM removed AS r
            WHERE seq > ?1 AND NOT EXISTS (SELECT 1 FROM tracks WHERE id = r.id)
                AND NOT EXISTS (SELECT 1 FROM removed AS later WHERE later.id = r.id AND later.seq > r.seq)
            ORDER BY seq";
        self.for_each_row(
            sql,
            &[&seq],
            &mut |row| {
                verified(row, 0, TOMBSTONE_COLUMNS, "tombstone")?;
                Ok((id_of(row, "id")?, row.get("seq")?))
            },
            &mut |(id, seq)| each(id, seq),
        )
    }

    /// Calls `each` with every file that was ever ingested, in order of its path.
    pub fn for_each_file(&self, each: &mut dyn FnMut(FileRow) -> Result<()>) -> Result<()> {
        self.for_each_row(
            &format!("{FILE} ORDER BY path"),
            &[],
            &mut |row| {
                verified(row, 0, FILE_COLUMNS, "file's record")?;
                let track = row.get::<_, Option<String>>("track")?.map(|_| id_of(row, "track")).transpose()?;
                Ok(FileRow { record: file_row(row)?, track, at: row.get("at")? })
            },
            each,
        )
    }

    fn for_each_row<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: &mut dyn FnMut(&Row) -> rusqlite::Result<T>,
        each: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let failed = || catalogue(&self.path);
        let mut statement = self.db.prepare(sql).map_err(failed())?;
        let mut rows = statement.query(values).map_err(failed())?;
        while let Some(row) = rows.next().map_err(failed())? {
            each(read(row).map_err(failed())?)?;
        }
        self.must_lie_still()
    }
}
