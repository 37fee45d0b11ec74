//! Factors of and for other programs.
//!
//! | format | path | holds |
//! |---|---|---|
//! | [`Format::Implicit`] | a file, `model.npz` | what `save` of the Python package implicit writes and its `load` reads |
//! | [`Format::Spark`] | a folder | what `ALSModel` of Spark MLlib saves and loads: `userFactors` and `itemFactors` (Parquet: `id` int, `features` array of float), `metadata` |
//! | [`Format::Npy`] | a folder | `users.npy` and `tracks.npy`, float32 or float64 `[n, d]` |
//!
//! LightFM has no format of its own: save `model.user_embeddings` and `model.item_embeddings` as `users.npy` and
//! `tracks.npy`. Its biases have no place in an inner product of two vectors and are left out, so rankings differ from
//! LightFM's by what its item biases add.
//!
//! Only implicit's and Spark's *numbers* are kept there; the names are in two more files, a line each: `users.ids` and
//! `tracks.ids` in the folder, `model.users.ids` and `model.tracks.ids` beside `model.npz`. Line `i`, from 0, names row
//! `i`, or Spark's id `i`.

mod implicit;
mod npy;
mod spark;

use std::fs::File;
use std::hash::Hash;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ndarray::{Array2, ArrayView2};
use ndarray_npy::{ViewNpyError, ViewNpyExt};

use super::{AlsConfig, Factors, MAX_DIMENSIONS, Ridge};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::events::ConfidenceConfig;
use crate::ids::{read_ids, write_ids};

/// Whose factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Implicit,
    Spark,
    Npy,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Format> {
        match text {
            "implicit" => Ok(Format::Implicit),
            "spark" => Ok(Format::Spark),
            "npy" => Ok(Format::Npy),
            _ => Err(Error::invalid("format", "implicit, spark or npy", text)),
        }
    }
}

/// Where the names of imported rows come from.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// A file of names, a line each; the one that the format has in its place where this is left out.
    pub users: Option<PathBuf>,
    /// As for the users.
    pub tracks: Option<PathBuf>,
    /// Where there is no such file, the numbers are the names.
    pub numbered: bool,
}

/// One side of a factorisation, as others keep it.
struct Side {
    /// Spark's ids, or the numbers of the rows; ascending, each once.
    numbers: Vec<i64>,
    /// `[numbers, d]`
    factors: Array2<f32>,
}

impl Side {
    fn in_order(factors: Array2<f32>) -> Side {
        Side { numbers: (0..factors.nrows() as i64).collect(), factors }
    }
}

/// What a file of others holds.
struct Foreign {
    users: Side,
    tracks: Side,
    /// λ, where the file has one.
    regularisation: Option<f32>,
}

impl Format {
    /// Where the names of users and of tracks are.
    fn ids(self, path: &Path) -> (PathBuf, PathBuf) {
        match self {
            Format::Implicit => (path.with_extension("users.ids"), path.with_extension("tracks.ids")),
            Format::Spark | Format::Npy => (path.join("users.ids"), path.join("tracks.ids")),
        }
    }
}

impl Factors {
    /// Writes vectors and names for another program. Settings, held-out tracks and numbers of plays stay behind.
    ///
    /// # Errors
    /// `Io`; `Unsupported` for more rows than Spark has ids.
    pub fn export(&self, path: &Path, format: Format) -> Result<()> {
        let (users, tracks) = format.ids(path);
        match format {
            Format::Implicit => implicit::write(path, self)?,
            Format::Spark => spark::write(path, self)?,
            Format::Npy => npy::write(path, self)?,
        }
        write_ids(&users, &self.users)?;
        write_ids(&tracks, &self.tracks)
    }

    /// Takes factors that another program made. What they do not say is from `config`, for folding listeners and
    /// tracks in (its λ, where the format has none; λ is plain, of Spark multiplied
    /// with the number of a row's entries, whatever the exponent) and from `confidence`. The number
    /// of plays is 1 for each track with a vector.
    ///
    /// # Errors
    /// `Io`; `Format` or `Unsupported` for what is damaged or not of that format; `Mismatch` where sides or names do
    /// not fit.
    pub fn import(
        path: &Path,
        format: Format,
        names: &Names,
        config: &AlsConfig,
        confidence: &ConfidenceConfig,
    ) -> Result<Factors> {
        let foreign = match format {
            Format::Implicit => implicit::read(path)?,
            Format::Spark => spark::read(path)?,
            Format::Npy => npy::read(path)?,
        };
        let (users, tracks) = (&foreign.users, &foreign.tracks);
        for (what, side) in [("users", users), ("tracks", tracks)] {
            let (n, d) = side.factors.dim();
            if n == 0 || !(1..=MAX_DIMENSIONS).contains(&d) {
                let expected = format!("{what} with 1 to {MAX_DIMENSIONS} numbers each");
                return Err(Error::format(path, expected, format!("{n} with {d}")));
            }
            if let Some(at) = side.factors.iter().position(|x| !x.is_finite()) {
                let row = side.numbers[at / d];
                return Err(Error::format(path, "finite numbers", format!("NaN or infinity in row {row} of {what}")));
            }
        }
        let d = users.factors.ncols();
        if tracks.factors.ncols() != d {
            let what = format!("{}: users and tracks", path.display());
            return Err(Error::mismatch(what, format!("{d} dimensions"), tracks.factors.ncols()));
        }
        let regularisation = foreign.regularisation.filter(|&λ| λ > 0.0).unwrap_or(config.regularisation);
        // Spark multiplies its λ with the number of a row's entries, as Zhou et al. 2008 do.
        let (exponent, ridge) = match format {
            Format::Spark => (1.0, Ridge { scale: f64::from(regularisation), unobserved: 0.0, exponent: 1.0 }),
            Format::Implicit | Format::Npy => (0.0, Ridge::plain(regularisation)),
        };
        let config = AlsConfig { dimensions: d, regularisation, regularisation_exponent: exponent, ..*config };
        config.check()?;
        confidence.check()?;
        let dense = format != Format::Spark;
        let (users_ids, tracks_ids) = format.ids(path);
        let user_names = name_rows(users, names.users.as_deref(), &users_ids, names.numbered, dense)?;
        let track_names = name_rows(tracks, names.tracks.as_deref(), &tracks_ids, names.numbered, dense)?;
        let has_vector = |row: ndarray::ArrayView1<f32>| u32::from(row.iter().any(|&x| x != 0.0));
        Ok(Factors {
            wandered: 0.0,
            space: SpaceId::of(&[b"imported", &digest(&users.factors), &digest(&tracks.factors)]),
            config,
            confidence: *confidence,
            user_ridge: ridge,
            track_ridge: ridge,
            users: user_names,
            plays: tracks.factors.rows().into_iter().map(has_vector).collect(),
            user_factors: foreign.users.factors,
            tracks: track_names,
            track_factors: foreign.tracks.factors,
            held_out: Vec::new(),
        })
    }
}

/// The BLAKE3 hash of the numbers, little-endian.
fn digest(factors: &Array2<f32>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    factors.iter().for_each(|x| {
        hasher.update(&x.to_le_bytes());
    });
    hasher.finalize().into()
}

/// The names of a side's rows; `dense` where each line must have its row.
fn name_rows<I>(side: &Side, given: Option<&Path>, usual: &Path, numbered: bool, dense: bool) -> Result<Vec<I>>
where
    I: TryFrom<String, Error = Error> + Clone + Eq + Hash,
{
    let path = match given {
        Some(path) => path,
        None if usual.is_file() => usual,
        None if numbered => return side.numbers.iter().map(|n| I::try_from(n.to_string())).collect(),
        None => {
            return Err(Error::NotFound {
                what: "file of names, and the numbers were not asked for",
                name: usual.display().to_string(),
            });
        }
    };
    let ids: Vec<I> = read_ids(path)?;
    if dense && ids.len() != side.numbers.len() {
        return Err(Error::mismatch(path.display(), format!("{} names", side.numbers.len()), ids.len()));
    }
    let name = |&number: &i64| {
        let id = usize::try_from(number).ok().and_then(|n| ids.get(n));
        id.cloned().ok_or_else(|| {
            Error::mismatch(path.display(), format!("a name for id {number}"), format!("{} names", ids.len()))
        })
    };
    side.numbers.iter().map(name).collect()
}

/// A whole file in memory.
///
/// # Errors
/// `Io`; `Unsupported` for what is no file: a pipe or a device may have no end.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let (file, length) = open(path)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<(File, u64)> {
    // Asked before it is opened: opening a pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::unsupported(path, "a regular file", "a folder, pipe or device"));
    }
    Ok((File::open(path).map_err(Error::io(path))?, metadata.len()))
}

/// The matrix of an npy file in memory, of float32 or float64; what its header claims is checked against its length
/// before anything is allocated.
fn matrix(bytes: &[u8], path: &Path, what: &str) -> Result<Array2<f32>> {
    let wrong = |e: ViewNpyError| Error::format(path, format!("{what}: a NumPy array of two dimensions"), e);
    match ArrayView2::<f32>::view_npy(bytes) {
        Ok(array) => Ok(array.as_standard_layout().into_owned()),
        Err(ViewNpyError::WrongDescriptor(_)) => {
            let array = ArrayView2::<f64>::view_npy(bytes).map_err(wrong)?;
            Ok(array.as_standard_layout().mapv(|x| x as f32))
        }
        Err(e) => Err(wrong(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{TrackId, UserId};

    const FORMATS: [(Format, &str); 3] =
        [(Format::Implicit, "model.npz"), (Format::Spark, "model"), (Format::Npy, "model")];

    pub(super) fn small() -> Factors {
        let names = |prefix: &str, n: usize| (0..n).map(|i| format!("{prefix} {i} 🎵")).collect::<Vec<_>>();
        Factors {
            wandered: 0.0,
            space: SpaceId::of(&[b"small"]),
            config: AlsConfig { dimensions: 3, regularisation: 0.25, ..AlsConfig::default() },
            confidence: ConfidenceConfig::default(),
            user_ridge: Ridge::plain(0.25),
            track_ridge: Ridge::plain(0.25),
            users: names("user", 9000).into_iter().map(|n| UserId::new(n).unwrap()).collect(),
            user_factors: Array2::from_shape_fn((9000, 3), |(i, j)| i as f32 / 3.0 - j as f32),
            tracks: names("track", 2).into_iter().map(|n| TrackId::new(n).unwrap()).collect(),
            track_factors: ndarray::array![[0.1, -0.2, 0.3], [0.0, 0.0, 0.0]],
            plays: vec![7, 0],
            held_out: vec![],
        }
    }

    fn import(path: &Path, format: Format, names: &Names) -> Result<Factors> {
        Factors::import(path, format, names, &AlsConfig::default(), &ConfidenceConfig::default())
    }

    #[test]
    fn what_goes_out_comes_back() {
        let factors = small();
        for (format, name) in FORMATS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            factors.export(&path, format).unwrap();
            let back = import(&path, format, &Names::default()).unwrap();
            assert_eq!((&back.users, &back.tracks), (&factors.users, &factors.tracks), "{format:?}");
            assert_eq!((&back.user_factors, &back.track_factors), (&factors.user_factors, &factors.track_factors));
            assert_eq!((back.config.dimensions, back.plays.clone()), (3, vec![1, 0]));
            let expected = if format == Format::Implicit { 0.25 } else { AlsConfig::default().regularisation };
            let of_twelve = if format == Format::Spark { 12.0 * expected } else { expected };
            assert_eq!((back.config.regularisation, back.user_ridge.at(12)), (expected, of_twelve));
            assert_eq!(back.user_ridge, back.track_ridge);
            // What was imported is a factorisation like any: it saves, loads and folds in.
            back.save(&dir.path().join("saved")).unwrap();
            assert_eq!(Factors::load(&dir.path().join("saved")).unwrap().space, back.space);
            // And once more, under names of its own.
            std::fs::write(dir.path().join("two.ids"), "one\ntwo\n").unwrap();
            let names = Names { tracks: Some(dir.path().join("two.ids")), ..Names::default() };
            assert_eq!(import(&path, format, &names).unwrap().tracks[1].as_str(), "two");
            let (users, tracks) = format.ids(&path);
            std::fs::write(&tracks, "one\n").unwrap();
            assert!(matches!(import(&path, format, &Names::default()), Err(Error::Mismatch { .. })), "{format:?}");
            std::fs::remove_file(&tracks).unwrap();
            let missing = import(&path, format, &Names::default()).unwrap_err().to_string();
            assert!(missing.contains("tracks.ids"), "{missing}");
            std::fs::remove_file(&users).unwrap();
            let numbered = import(&path, format, &Names { numbered: true, ..Names::default() }).unwrap();
            assert_eq!((numbered.users[8999].as_str(), numbered.tracks[1].as_str()), ("8999", "1"));
        }
    }

    /// All files below.
    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(|e| e.unwrap().into_path());
        entries.filter(|p| p.is_file()).collect()
    }

    #[test]
    fn no_damaged_file_is_taken_for_another_or_ends_the_program() {
        let factors = Factors {
            users: small().users[..5].to_vec(),
            user_factors: small().user_factors.slice(ndarray::s![..5, ..]).to_owned(),
            ..small()
        };
        for (format, name) in FORMATS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            factors.export(&path, format).unwrap();
            for file in files(dir.path()) {
                let good = std::fs::read(&file).unwrap();
                for bad in [&b""[..], b"not this", &good[..good.len() / 2], &good[..good.len() - 1]] {
                    std::fs::write(&file, bad).unwrap();
                    let is_text = file.extension().is_some_and(|e| e == "ids") || file.ends_with("metadata/part-00000");
                    match import(&path, format, &Names::default()) {
                        // A name without its last letter, and metadata, which are Spark's, are not missed.
                        Ok(_) => assert!(
                            is_text && (bad.len() + 1 == good.len() || !file.ends_with("users.ids")),
                            "{file:?}"
                        ),
                        Err(e) => assert!(!e.to_string().is_empty()),
                    }
                }
                // Every byte changed once: an error, or numbers that are finite and as many as before.
                for at in (0..good.len()).step_by(1 + good.len() / 100) {
                    let mut bad = good.clone();
                    bad[at] ^= 0x81;
                    std::fs::write(&file, &bad).unwrap();
                    if let Ok(back) = import(&path, format, &Names::default()) {
                        assert!(back.user_factors.iter().all(|x| x.is_finite()));
                        assert_eq!(back.user_factors.dim(), (5, 3), "{file:?} at {at}");
                    }
                }
                std::fs::write(&file, good).unwrap();
            }
            import(&path, format, &Names::default()).unwrap();
        }
    }

    #[test]
    fn what_is_not_finite_or_of_two_sizes_is_refused() {
        let path = Path::new("model");
        let dir = tempfile::tempdir().unwrap();
        for (users, tracks, expected) in [
            (ndarray::array![[1.0, f32::NAN]], ndarray::array![[1.0, 2.0]], "row 0 of users"),
            (ndarray::array![[1.0, 2.0]], ndarray::array![[1.0, 2.0], [f32::INFINITY, 0.0]], "row 1 of tracks"),
            (ndarray::array![[1.0, 2.0]], ndarray::array![[1.0, 2.0, 3.0]], "found 3"),
            (Array2::zeros((0, 2)), ndarray::array![[1.0, 2.0]], "found 0 with"),
        ] {
            let factors = Factors {
                users: small().users[..users.nrows()].to_vec(),
                user_factors: users,
                tracks: small().tracks[..tracks.nrows()].to_vec(),
                track_factors: tracks,
                ..small()
            };
            for (format, name) in FORMATS {
                let path = dir.path().join(format!("{format:?}")).join(name);
                factors.export(&path, format).unwrap();
                let message = import(&path, format, &Names::default()).unwrap_err().to_string();
                assert!(message.contains(expected), "{format:?}: {message}");
            }
        }
        assert!(matches!(import(path, Format::Implicit, &Names::default()), Err(Error::Io { .. })));
        assert!("csv".parse::<Format>().is_err());
    }
}
