//! Looking at everything that can be verified.

use super::Store;
use super::write::check_unit;
use crate::error::Result;

impl Store {
    /// Looks at everything that can be verified, and says what is wrong, one line each; empty when all is well.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut wrong: Vec<String> = self.ask(|db| {
            db.prepare("PRAGMA integrity_check")?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        })?;
        wrong.retain(|line| line != "ok");
        let space = self.space()?;
        let last = self.seq()?;
        self.for_each_track(&mut |key, track| {
            let Some(space) = &space else {
                wrong.push(format!("track {}: there is no space for its vector", track.id));
                return Ok(());
            };
            for vector in track.predicted.iter().chain([&track.vector]) {
                if let Err(e) = check_unit(&track.id, vector, space.dimensions) {
                    wrong.push(e.to_string());
                }
            }
            let (seq, of): (i64, String) = self.ask(|db| {
                db.prepare_cached("SELECT seq, space FROM tracks WHERE key = ?1")?
                    .query_row([key as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            })?;
            if seq > last {
                wrong.push(format!("track {}: seq {seq} is after the last, {last}", track.id));
            }
            if of != space.id.as_str() {
                wrong.push(format!("track {}: its space is {of}, the catalogue's is {}", track.id, space.id));
            }
            Ok(())
        })?;
        if let Some(space) = &space {
            self.for_each_listener(&mut |id, vector| {
                if vector.len() != space.dimensions || !vector.iter().all(|v| v.is_finite()) {
                    wrong.push(format!("listener {id}: expected {} finite numbers", space.dimensions));
                }
            })?;
        }
        let orphans: Vec<(String, i64)> = self.ask(|db| {
            db.prepare(
                "SELECT track, count(*) FROM files
                 WHERE track IS NOT NULL AND track NOT IN (SELECT id FROM tracks) GROUP BY track",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        wrong.extend(orphans.into_iter().map(|(id, n)| format!("{n} file(s) name track {id}, which is not there")));
        Ok(wrong)
    }
}
