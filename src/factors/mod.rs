//! The shared space: a vector for every listener and every track, from who listened to what.
//!
//! [`fit`] has matrix and factors in memory; [`fit_sharded`] only the tracks' side, with the listeners on disk.

mod align;
mod als;
mod checkpoint;
mod exchange;
mod fold_in;
mod per_action;
mod sharded;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ndarray::{Array, Array2, ArrayView, ArrayView1, ArrayView2, Dimension, Ix1, Ix2};
use ndarray_npy::{ViewNpyExt, WriteNpyExt};
use serde::{Deserialize, Serialize};

pub use align::{Drift, procrustes};
pub use als::{Checkpoint, Progress, Start, fit, fit_from};
pub use checkpoint::{run_id, run_id_of_shards};
pub use exchange::{Format, Names};
pub use fold_in::FoldIn;
pub use per_action::{Part, PerAction};
pub use sharded::{ShardedFactors, ShardedProgress, ShardedStart, check_solver, fit_sharded};

use crate::artefact::{SpaceId, atomic_write, file_hash, read_sealed_toml, write_sealed_toml};
use crate::error::{Error, Result};
use crate::events::{ConfidenceConfig, Csr};
use crate::ids::{TrackId, UserId, read_ids, write_ids};
use crate::linalg::{gram, norm};

/// How a factorisation is made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlsConfig {
    /// Numbers per vector. 40 as in van den Oord et al. 2013; on track-level data 256 doubled NDCG@10, at five times
    /// the cost. With [`PerAction`] each part has so many.
    pub dimensions: usize,
    /// λ of an average row. Tune it together with `alpha` and `dimensions`: 1 to 30 were best on public data sets,
    /// 3 on track-level data at alpha 40.
    pub regularisation: f32,
    /// ν: a row with `n` entries among `m` columns has λ proportional to `(n + 0.1 m)^ν` (Rendle et al. 2022,
    /// "Revisiting the Performance of iALS"). 1 was as good as 0, or better by up to 2.5 %; 0 is the plain λ of Hu et al.
    pub regularisation_exponent: f32,
    /// Passes over both sides. 15 (16 in Rendle et al.); NDCG is within 1 % of its end after 8.
    pub iterations: usize,
    /// How a row is solved.
    pub solver: Solver,
    /// Steps of conjugate gradient for every row of an iteration. They are preconditioned: 2 go as far as the 3 of Takács et
    /// al. 2011 and `implicit`, whose steps are not; 3 go further, for a quarter more time.
    pub cg_steps: usize,
    /// A refit that is turned into the space of earlier factors (`--warm`, `factors align`) keeps that space's name, so that
    /// models and vectors of the one serve with the other, as long as its tracks cannot lie further than this cosine from
    /// where they were when the space got its name, on average over the tracks shared from night to night: the angles of all
    /// refits since, added up. 0.9 lets six to nine nights
    /// pass that bring 1 % new events each; predictions are off by more (the shipped model's cosine is 0.64). 1: never.
    pub same_space: f64,
    /// Of the random start. The same seed and data give the same factors, whatever the number of threads.
    pub seed: u64,
}

/// How a row of a factorisation is solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// Improved from where it was by a few steps of conjugate gradient: about a quarter of the time of `cholesky` at 40
    /// dimensions, less at more, and the same quality after the same number of iterations.
    Cg,
    /// Solved exactly.
    Cholesky,
}

impl Default for AlsConfig {
    fn default() -> AlsConfig {
        AlsConfig {
            dimensions: 40,
            regularisation: 3.0,
            regularisation_exponent: 1.0,
            iterations: 15,
            solver: Solver::Cg,
            cg_steps: 2,
            same_space: 0.9,
            seed: 1,
        }
    }
}

/// More dimensions than this make rows whose matrix no cache holds; Rendle et al. went to 8192 and gained little
/// from there.
pub const MAX_DIMENSIONS: usize = 4096;

impl AlsConfig {
    /// # Errors
    /// `Invalid` for a setting out of range.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_DIMENSIONS).contains(&self.dimensions) {
            return Err(Error::invalid("als.dimensions", format!("1 to {MAX_DIMENSIONS}"), self.dimensions));
        }
        if !(self.regularisation.is_finite() && self.regularisation > 0.0) {
            return Err(Error::invalid("als.regularisation", "a finite number above 0", self.regularisation));
        }
        if !(0.0..=2.0).contains(&self.regularisation_exponent) {
            return Err(Error::invalid("als.regularisation_exponent", "0 to 2", self.regularisation_exponent));
        }
        if self.solver == Solver::Cg && self.cg_steps == 0 {
            return Err(Error::invalid("als.cg_steps", "at least 1", 0));
        }
        if !(0.0..=1.0).contains(&self.same_space) {
            return Err(Error::invalid("als.same_space", "0 to 1", self.same_space));
        }
        if self.iterations == 0 {
            return Err(Error::invalid("als.iterations", "at least 1", 0));
        }
        Ok(())
    }
}

/// The regularisation of one side of a factorisation: of a row with `n` entries, `scale · (n + unobserved)^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ridge {
    pub scale: f64,
    /// What the entries that were not observed count, all together: 0.1 of the number of columns.
    pub unobserved: f64,
    pub exponent: f64,
}

/// How much an unobserved entry counts in a row's regularisation, against an observed one.
const UNOBSERVED_SHARE: f64 = 0.1;

impl Ridge {
    /// The same λ for every row.
    pub fn plain(lambda: f32) -> Ridge {
        Ridge { scale: f64::from(lambda), unobserved: 0.0, exponent: 0.0 }
    }

    /// Such that the mean over the rows of `side` is `config.regularisation`.
    fn of(config: &AlsConfig, side: &Csr) -> Ridge {
        Ridge::of_lengths(config, (0..side.rows()).map(|i| (side.row_len(i), 1)), side.columns)
    }

    /// The same for rows of so many entries, each with the number of such rows.
    fn of_lengths(config: &AlsConfig, lengths: impl Iterator<Item = (usize, u64)>, columns: usize) -> Ridge {
        let exponent = f64::from(config.regularisation_exponent);
        let unobserved = UNOBSERVED_SHARE * columns as f64;
        let (mut rows, mut sum) = (0, 0.0);
        for (length, many) in lengths {
            rows += many;
            sum += many as f64 * (length as f64 + unobserved).powf(exponent);
        }
        Ridge { scale: f64::from(config.regularisation) * rows as f64 / sum, unobserved, exponent }
    }

    /// λ of a row with `n` entries.
    pub fn at(&self, n: usize) -> f32 {
        (self.scale * (n as f64 + self.unobserved).powf(self.exponent)) as f32
    }
}

#[test]
fn the_mean_ridge_is_the_regularisation_and_longer_rows_have_more() {
    let side = Csr::from_sorted(2, 10, [(0, 1, 2.0, 1.0), (1, 1, 2.0, 1.0), (1, 2, 2.0, 1.0)].into_iter());
    let config = AlsConfig { regularisation: 5.0, ..AlsConfig::default() };
    let ridge = Ridge::of(&config, &side);
    assert!((ridge.at(1) - 4.0).abs() < 1e-6 && (ridge.at(2) - 6.0).abs() < 1e-6, "{ridge:?}");
    let plain = Ridge::of(&AlsConfig { regularisation_exponent: 0.0, ..config }, &side);
    assert_eq!((plain.at(1), plain.at(1000)), (5.0, 5.0));
}

/// A factorisation: what [`fit`] finds.
#[derive(Clone, Debug)]
pub struct Factors {
    pub space: SpaceId,
    /// How far tracks may lie from where they were when the space got its name, in radians: 0 for a fit of its own, and for
    /// aligned ones the angle of the mean cosine to the earlier factors and what those had, added up.
    pub wandered: f64,
    pub config: AlsConfig,
    /// How the confidences were made, so that a listener who folds in later is weighed alike.
    pub confidence: ConfidenceConfig,
    pub user_ridge: Ridge,
    pub track_ridge: Ridge,
    pub users: Vec<UserId>,
    /// `[users, d]`
    pub user_factors: Array2<f32>,
    pub tracks: Vec<TrackId>,
    /// `[tracks, d]`; zero for a track that was only skipped.
    pub track_factors: Array2<f32>,
    /// For each track, its listeners: how much evidence the factor rests on.
    pub plays: Vec<u32>,
    /// Tracks that were kept from the fit, so that they can stand for new ones in an evaluation.
    pub held_out: Vec<TrackId>,
}

/// What one needs of a factorisation in order to serve from it: small, and enough to fold listeners and tracks in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    pub id: SpaceId,
    pub dimensions: usize,
    /// `YᵀY` of the track factors, `[d, d]` row by row: with it, listeners fold in.
    pub track_gram: Vec<f32>,
    pub user_ridge: Ridge,
    /// `XᵀX` of the user factors, `[d, d]` row by row: with it, tracks fold in and predictions are handed over.
    pub user_gram: Vec<f32>,
    pub track_ridge: Ridge,
    /// The median norm of a track factor: the length of a prediction, whose own is lost to unit length.
    pub typical_norm: f32,
    pub confidence: ConfidenceConfig,
}

impl Space {
    /// Folds listeners (and playlists) in.
    ///
    /// # Errors
    /// `Mismatch` where the Gram matrix has not `dimensions²` numbers.
    pub fn fold_in_users(&self) -> Result<FoldIn> {
        FoldIn::from_gram(self.matrix(&self.track_gram)?, self.user_ridge)
    }

    /// Folds tracks in.
    ///
    /// # Errors
    /// `Mismatch` where the Gram matrix has not `dimensions²` numbers.
    pub fn fold_in_tracks(&self) -> Result<FoldIn> {
        FoldIn::from_gram(self.matrix(&self.user_gram)?, self.track_ridge)
    }

    fn matrix(&self, gram: &[f32]) -> Result<Array2<f32>> {
        let d = self.dimensions;
        Array2::from_shape_vec((d, d), gram.to_vec()).map_err(|_| {
            Error::mismatch(format!("{} and its Gram matrix", self.id), format!("{d}² numbers"), gram.len())
        })
    }
}

/// `factors.toml`, written last: a folder without it is no factorisation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Of this layout of files.
    version: u32,
    space: SpaceId,
    #[serde(default)]
    wandered: f64,
    users: usize,
    tracks: usize,
    held_out: usize,
    config: AlsConfig,
    confidence: ConfidenceConfig,
    user_ridge: Ridge,
    track_ridge: Ridge,
    /// BLAKE3 of each file.
    files: std::collections::BTreeMap<String, String>,
}

const VERSION: u32 = 1;
const HEADER: &str = "factors.toml";
const FILES: [&str; 6] = ["users.npy", "users.ids", "tracks.npy", "tracks.ids", "plays.npy", "held_out.ids"];

impl Factors {
    pub fn dimensions(&self) -> usize {
        self.track_factors.ncols()
    }

    /// The median norm of the track factors that are not zero; 1 where all are.
    pub fn typical_norm(&self) -> f32 {
        let mut norms: Vec<f32> =
            self.track_factors.rows().into_iter().map(|row| norm(&row.to_vec())).filter(|n| *n > 0.0).collect();
        norms.sort_unstable_by(f32::total_cmp);
        norms.get(norms.len() / 2).copied().unwrap_or(1.0)
    }

    pub fn space(&self) -> Space {
        let flat = |rows: ArrayView2<f32>| gram(rows).into_iter().collect();
        Space {
            id: self.space.clone(),
            dimensions: self.dimensions(),
            track_gram: flat(self.track_factors.view()),
            user_ridge: self.user_ridge,
            user_gram: flat(self.user_factors.view()),
            track_ridge: self.track_ridge,
            typical_norm: self.typical_norm(),
            confidence: self.confidence,
        }
    }

    /// Folds listeners (and playlists) in.
    pub fn fold_in_users(&self) -> FoldIn {
        FoldIn::new(self.track_factors.view(), self.user_ridge)
    }

    /// Folds tracks in.
    pub fn fold_in_tracks(&self) -> FoldIn {
        FoldIn::new(self.user_factors.view(), self.track_ridge)
    }

    /// Writes a folder: `tracks.npy` and `users.npy` (float32 `[n, d]`), their names in `tracks.ids` and `users.ids`
    /// (a line each), `plays.npy` (uint32 `[tracks]`), `held_out.ids`, and, last, `factors.toml` with settings, shapes
    /// and hashes.
    pub fn save(&self, dir: &Path) -> Result<()> {
        atomic_write(&dir.join("users.npy"), |out| self.user_factors.write_npy(out).map_err(io::Error::other))?;
        write_ids(&dir.join("users.ids"), &self.users)?;
        self.save_beside_users(dir, self.users.len())
    }

    /// All that [`Factors::save`] writes but the users, who are there already.
    fn save_beside_users(&self, dir: &Path, users: usize) -> Result<()> {
        let npy = |name: &str, array: &dyn Fn(&mut dyn io::Write) -> Result<(), ndarray_npy::WriteNpyError>| {
            atomic_write(&dir.join(name), |out| array(out).map_err(io::Error::other))
        };
        npy("tracks.npy", &|out| self.track_factors.write_npy(out))?;
        write_ids(&dir.join("tracks.ids"), &self.tracks)?;
        npy("plays.npy", &|out| ArrayView1::from(&self.plays).write_npy(out))?;
        write_ids(&dir.join("held_out.ids"), &self.held_out)?;
        let files =
            FILES.iter().map(|name| Ok((name.to_string(), file_hash(&dir.join(name))?))).collect::<Result<_>>()?;
        let header = Header {
            version: VERSION,
            space: self.space.clone(),
            wandered: self.wandered,
            users,
            tracks: self.tracks.len(),
            held_out: self.held_out.len(),
            config: self.config,
            confidence: self.confidence,
            user_ridge: self.user_ridge,
            track_ridge: self.track_ridge,
            files,
        };
        write_sealed_toml(&dir.join(HEADER), &header)
    }

    /// Reads what [`Factors::save`] wrote, and believes none of it unchecked: hashes, shapes, numbers.
    ///
    /// # Errors
    /// `Io`, `Format` for a damaged file, `Mismatch` where the files do not belong together.
    pub fn load(dir: &Path) -> Result<Factors> {
        let header: Header = read_sealed_toml(&dir.join(HEADER), "the description of factors")?;
        if header.version != VERSION {
            return Err(Error::unsupported(dir.join(HEADER), format!("version {VERSION}"), header.version));
        }
        header.config.check()?;
        header.confidence.check()?;
        for name in FILES {
            let (path, expected) = (dir.join(name), header.files.get(name));
            let found = file_hash(&path)?;
            if expected != Some(&found) {
                let expected = expected.map_or("a hash in factors.toml", String::as_str);
                return Err(Error::format(path, expected, found));
            }
        }
        let d = header.config.dimensions;
        let factors = Factors {
            users: read_ids(&dir.join("users.ids"))?,
            user_factors: read_factors(&dir.join("users.npy"), header.users, d)?,
            tracks: read_ids(&dir.join("tracks.ids"))?,
            track_factors: read_factors(&dir.join("tracks.npy"), header.tracks, d)?,
            plays: read_array::<u32, Ix1>(&dir.join("plays.npy"), header.tracks)?.to_vec(),
            held_out: read_ids(&dir.join("held_out.ids"))?,
            space: header.space,
            wandered: header.wandered,
            config: header.config,
            confidence: header.confidence,
            user_ridge: header.user_ridge,
            track_ridge: header.track_ridge,
        };
        for (what, expected, found) in [
            ("users.ids", header.users, factors.users.len()),
            ("tracks.ids", header.tracks, factors.tracks.len()),
            ("held_out.ids", header.held_out, factors.held_out.len()),
        ] {
            if expected != found {
                let what = format!("{} and factors.toml", dir.join(what).display());
                return Err(Error::mismatch(what, format!("{expected} ids"), found));
            }
        }
        Ok(factors)
    }
}

/// A `[n, d]` array of finite numbers.
fn read_factors(path: &Path, n: usize, d: usize) -> Result<Array2<f32>> {
    let expected = format!("[{n}, {d}]");
    let count =
        n.checked_mul(d).ok_or_else(|| Error::format(path, &expected, "more numbers than memory has room for"))?;
    let array = read_array::<f32, Ix2>(path, count)?;
    if array.dim() != (n, d) {
        return Err(Error::mismatch(path.display(), expected, format!("{:?}", array.shape())));
    }
    match array.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::format(path, "finite numbers", format!("NaN or infinity in row {}", at / d))),
        None => Ok(array),
    }
}

/// An array of exactly `count` four-byte numbers. The length of the file is checked against what it should hold before
/// anything is allocated, and the array's claims against that length: a header can claim anything.
fn read_array<A: ndarray_npy::ViewElement + Clone, D: Dimension>(path: &Path, count: usize) -> Result<Array<A, D>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let expected = 4 * count as u64;
    if !(expected..=expected + MAX_NPY_HEADER).contains(&length) {
        return Err(Error::mismatch(path.display(), format!("{count} numbers"), format!("{length} bytes")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(expected + MAX_NPY_HEADER).read_to_end(&mut bytes).map_err(Error::io(path))?;
    let array = ArrayView::<A, D>::view_npy(&bytes).map_err(|e| Error::format(path, "a NumPy array", e))?;
    Ok(array.as_standard_layout().into_owned())
}

/// In bytes: more than the header of any array of two dimensions.
const MAX_NPY_HEADER: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Factors {
        let names = |prefix: &str, n: usize| (0..n).map(|i| format!("{prefix} {i} 🎵")).collect::<Vec<_>>();
        Factors {
            space: SpaceId::of(&[b"small"]),
            wandered: 0.25,
            config: AlsConfig { dimensions: 3, ..AlsConfig::default() },
            confidence: ConfidenceConfig { half_life_days: f32::INFINITY, ..ConfidenceConfig::default() },
            user_ridge: Ridge::plain(0.1),
            track_ridge: Ridge { scale: 1.0 / 3.0, unobserved: 0.7, exponent: 1.0 },
            users: names("user", 4).into_iter().map(|n| UserId::new(n).unwrap()).collect(),
            user_factors: Array2::from_shape_fn((4, 3), |(i, j)| i as f32 / 3.0 - j as f32),
            tracks: names("track", 2).into_iter().map(|n| TrackId::new(n).unwrap()).collect(),
            track_factors: Array2::from_shape_fn((2, 3), |(i, j)| 1.0 / (1.0 + i as f32 + j as f32)),
            plays: vec![7, 0],
            held_out: vec![TrackId::new("new").unwrap()],
        }
    }

    #[test]
    fn factors_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let saved = small();
        saved.save(dir.path()).unwrap();
        let loaded = Factors::load(dir.path()).unwrap();
        assert_eq!(loaded.user_factors, saved.user_factors);
        assert_eq!(loaded.track_factors, saved.track_factors);
        assert_eq!(loaded.wandered, saved.wandered);
        assert_eq!((loaded.users, loaded.tracks, loaded.held_out), (saved.users, saved.tracks, saved.held_out));
        assert_eq!((loaded.plays, loaded.space), (saved.plays, saved.space));
        assert_eq!((loaded.config, loaded.confidence), (saved.config, saved.confidence));
        assert_eq!((loaded.user_ridge, loaded.track_ridge), (saved.user_ridge, saved.track_ridge));
    }

    #[test]
    fn a_space_survives_json() {
        let mut space = small().space();
        space.confidence.half_life_days = 84.0; // JSON knows no infinity
        assert_eq!(serde_json::from_str::<Space>(&serde_json::to_string(&space).unwrap()).unwrap(), space);
        space.track_gram.pop();
        assert!(space.fold_in_users().is_err() && space.fold_in_tracks().is_ok());
    }

    #[test]
    fn every_changed_or_missing_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        small().save(dir.path()).unwrap();
        for name in FILES {
            let path = dir.path().join(name);
            let good = std::fs::read(&path).unwrap();
            for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat()[..], b""] {
                std::fs::write(&path, bad).unwrap();
                let message = Factors::load(dir.path()).unwrap_err().to_string();
                assert!(message.contains(name), "{message}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(matches!(Factors::load(dir.path()), Err(Error::Io { .. })));
            std::fs::write(&path, good).unwrap();
        }
        Factors::load(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join(HEADER)).unwrap();
        assert!(matches!(Factors::load(dir.path()), Err(Error::Io { .. })));
    }

    /// Puts `bytes` under the name and their hash into the header: files that are consistent, and wrong.
    fn forge(dir: &Path, name: &str, bytes: &[u8]) -> String {
        let header: Header = read_sealed_toml(&dir.join(HEADER), "the description of factors").unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
        let files = header.files.into_iter().chain([(name.to_string(), file_hash(&dir.join(name)).unwrap())]).collect();
        write_sealed_toml(&dir.join(HEADER), &Header { files, ..header }).unwrap();
        Factors::load(dir).unwrap_err().to_string()
    }

    #[test]
    fn files_with_the_right_hash_and_the_wrong_contents_are_refused() {
        let npy = |array: Array2<f32>| {
            let mut bytes = Vec::new();
            array.write_npy(&mut bytes).unwrap();
            bytes
        };
        let fresh = || {
            let dir = tempfile::tempdir().unwrap();
            small().save(dir.path()).unwrap();
            dir
        };
        let turned = forge(fresh().path(), "users.npy", &npy(Array2::zeros((3, 4))));
        assert!(turned.contains("[4, 3]") && turned.contains("[3, 4]"), "{turned}");
        let mut holes = small().track_factors;
        holes[[1, 2]] = f32::NAN;
        let holes = forge(fresh().path(), "tracks.npy", &npy(holes));
        assert!(holes.contains("row 1"), "{holes}");
        assert!(forge(fresh().path(), "users.ids", b"one\ntwo\n").contains("users.ids"));
        // A header that claims 3 TB.
        let mut huge = npy(small().track_factors);
        let at = huge.windows(6).position(|w| w == b"(2, 3)").unwrap();
        huge.splice(at..at + 22, *b"(1000000, 1000000)    ");
        let huge = forge(fresh().path(), "tracks.npy", &huge);
        assert!(huge.contains("tracks.npy"), "{huge}");
    }
}
