//! Looking at everything that can be verified.

use std::fmt;

use rusqlite::{Connection, Row};
use serde::Serialize;

use super::generations::{Generation, Head};
use super::read::{
    FILE_COLUMNS, TOMBSTONE_COLUMNS, TRACK_COLUMNS, VECTOR_COLUMNS, complete, from_bytes, history, track_row, track_sql,
};
use super::sums::verified;
use super::write::check_unit;
use super::{Store, Track};
use crate::error::Result;

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  what to do: {}", self.problem, self.remedy)
    }
}

/// At most so many problems of a kind are told: a disk that loses pages loses thousands of rows.
const TOLD: usize = 20;

const RESTORE: &str = "copy a backup (`debut backup`) into a new folder and ingest what came since; without one, begin a \
    new catalogue with `debut --catalogue NEW ingest`";
const AGAIN: &str = "ingest the track's file again, or take the track out (`debut remove`); if there are many, the disk is \
    failing: restore a backup";
const FILE_AGAIN: &str = "ingest the file again";
const HAND_OVER: &str = "run `debut handover` again";
const COMPACT: &str = "it is not served: `debut compact` drops it";

impl Store {
    /// Looks at everything that can be verified: the database's pages, every row's checksum and whether all rows are
    /// there, every vector's length and dimensions, every reference. Empty when all is well.
    pub fn check(&self) -> Result<Vec<Problem>> {
        let mut found = Found::default();
        self.snapshot(|db| {
            let pages = db.prepare("PRAGMA integrity_check")?.query_map([], |row| row.get(0))?.collect();
            match pages {
                Ok(lines) => {
                    let lines: Vec<String> = lines;
                    let lines = lines.into_iter().filter(|line| line != "ok");
                    lines.for_each(|line| found.add("pages", &format!("the database: {line}"), RESTORE));
                }
                Err(e) => found.add("pages", &format!("the database: {e}"), RESTORE),
            }
            let Some(head) = found.of("head", RESTORE, Head::load(db)) else { return Ok(()) };
            let Some(generations) = found.of("generations", RESTORE, Generation::all(db)) else { return Ok(()) };
            found.rows(db, "tracks", "SELECT * FROM tracks", TRACK_COLUMNS, Some((head.tracks, head.total)), AGAIN);
            found.rows(db, "removed", "SELECT * FROM removed", TOMBSTONE_COLUMNS, None, RESTORE);
            found.rows(db, "files", "SELECT * FROM files", FILE_COLUMNS, None, FILE_AGAIN);
            for generation in &generations {
                let n = generation.number;
                let vectors = Some((generation.vectors, generation.total));
                let is_served = head.served == Some(n);
                let or = |remedy| if is_served { remedy } else { COMPACT };
                found.rows(
                    db,
                    &format!("vectors_{n}"),
                    &format!("SELECT * FROM vectors_{n}"),
                    VECTOR_COLUMNS,
                    vectors,
                    or(AGAIN),
                );
                let listeners = Some((generation.listeners, generation.listened));
                let sql = format!("SELECT key, id, vector, sum, history FROM listeners_{n}");
                found.rows(db, &format!("listeners_{n}"), &sql, 3, listeners, or(HAND_OVER));
                let histories = found.histories(db, generation, or(HAND_OVER));
                found.of(&format!("history_{n}"), or(HAND_OVER), histories);
            }
            if let Some(served) = generations.iter().find(|g| head.served == Some(g.number)) {
                let vectors = found.vectors(db, served, &head);
                found.of("vectors", RESTORE, vectors);
            } else if head.served.is_some() {
                found.add("generations", "the generation that is served is not there", RESTORE);
            }
            let orphans: rusqlite::Result<Vec<(String, i64)>> = db
                .prepare(
                    "SELECT track, count(*) FROM files
                     WHERE track IS NOT NULL AND track NOT IN (SELECT id FROM tracks) GROUP BY track",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect();
            for (id, n) in found.of("files", RESTORE, orphans).unwrap_or_default() {
                let what = format!("{n} file(s) name track {id}, which is not there");
                found.add("orphans", &what, "ingest the files again");
            }
            Ok(())
        })?;
        Ok(found.into_problems())
    }
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    kinds: Vec<(String, usize)>,
}

impl Found {
    fn add(&mut self, kind: &str, problem: &str, remedy: &str) {
        let at = self.kinds.iter().position(|(k, _)| k == kind).unwrap_or_else(|| {
            self.kinds.push((kind.to_string(), 0));
            self.kinds.len() - 1
        });
        self.kinds[at].1 += 1;
        if self.kinds[at].1 <= TOLD {
            self.problems.push(Problem { problem: problem.to_string(), remedy: remedy.to_string() });
        }
    }

    fn of<T>(&mut self, kind: &str, remedy: &str, result: rusqlite::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                let text = match &e {
                    rusqlite::Error::FromSqlConversionFailure(_, _, e) => e.to_string(),
                    e => e.to_string(),
                };
                self.add(kind, &format!("{kind}: {text}"), remedy);
                None
            }
        }
    }

    /// The checksum of every row, and that there are as many as were written.
    fn rows(
        &mut self,
        db: &Connection,
        kind: &str,
        sql: &str,
        columns: usize,
        written: Option<(i64, i64)>,
        remedy: &str,
    ) {
        let mut work = || -> rusqlite::Result<()> {
            let mut statement = db.prepare(sql)?;
            let mut rows = statement.query([])?;
            let (mut count, mut total) = (0, 0i64);
            while let Some(row) = rows.next()? {
                count += 1;
                match verified(row, 0, columns, "row") {
                    Ok(sum) => total = total.wrapping_add(sum),
                    Err(_) => self.add(kind, &format!("{kind}: row {} has another checksum", name(row)), remedy),
                }
            }
            written.map_or(Ok(()), |written| complete(kind, (count, total), written))
        };
        let done = work();
        let lost = if remedy == AGAIN { RESTORE } else { remedy };
        self.of(kind, lost, done);
    }

    fn histories(&mut self, db: &Connection, generation: &Generation, remedy: &str) -> rusqlite::Result<()> {
        let n = generation.number;
        let mut statement = db.prepare(&format!("SELECT key, vector, history, id FROM listeners_{n}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let vector = from_bytes(row.get_ref(1)?.as_blob()?);
            let (id, d) = (row.get_ref(3)?.as_str().unwrap_or("?").to_string(), generation.space.dimensions);
            if vector.len() != d || !vector.iter().all(|v| v.is_finite()) {
                self.add("listeners", &format!("listener {id}: expected {d} finite numbers"), remedy);
            }
            if history(db, n, row.get(0)?, row.get(2)?).is_err() {
                self.add("histories", &format!("the history of listener {id} has another checksum"), remedy);
            }
        }
        Ok(())
    }

    /// What is served is of unit length, and belongs to a track.
    fn vectors(&mut self, db: &Connection, served: &Generation, head: &Head) -> rusqlite::Result<()> {
        let mut statement = db.prepare(&format!("{} ORDER BY t.key", track_sql(served.number)))?;
        let mut rows = statement.query([])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            let seq: i64 = row.get(17)?;
            if seq > head.last_seq {
                self.add("seq", &format!("track {}: seq {seq} of {} at most", name(row), head.last_seq), RESTORE);
            }
            // A row that cannot be read was told of above.
            let Ok(track) = track_row(row) else { continue };
            let Track { id, predicted, vector, .. } = track;
            for vector in predicted.iter().chain([&vector]) {
                if let Err(e) = check_unit(&id, vector, served.space.dimensions) {
                    self.add("units", &e.to_string(), AGAIN);
                }
            }
        }
        if count != served.vectors {
            let problem = format!("{count} of {} vectors belong to a track", served.vectors);
            self.add("orphans", &problem, RESTORE);
        }
        Ok(())
    }

    fn into_problems(mut self) -> Vec<Problem> {
        for (kind, n) in self.kinds.iter().filter(|(_, n)| *n > TOLD) {
            let problem = format!("{kind}: {} more of the same", n - TOLD);
            self.problems.push(Problem { problem, remedy: RESTORE.to_string() });
        }
        self.problems
    }
}

/// What a person may call the row by: the values of its first two columns.
fn name(row: &Row) -> String {
    let column = |i| {
        row.get_ref(i).ok().map(|value| match value {
            rusqlite::types::ValueRef::Integer(i) => i.to_string(),
            rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            _ => "?".to_string(),
        })
    };
    [column(0), column(1)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
