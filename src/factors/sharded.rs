//! Implicit alternating least squares where the listeners need not fit into memory: their rows of the matrix and their
//! factors lie on disk, in shards, and only the tracks' side is in memory: factors, and three vectors of conjugate
//! gradient of the same shape.
//!
//! No transposed matrix is needed. With the tracks fixed, the rows of a shard are solved as they are anywhere. With the
//! listeners fixed, conjugate gradient runs for all tracks at once: what it needs of a track's entries are sums over
//! listeners, `Σ (ct − (c−1) x·y) x` for the residual and `Σ (c−1)(x·p) x` for a product with the matrix, and those are
//! added up shard after shard. One pass over the disk serves a shard's listeners and the tracks' residuals, and one more
//! each step:
//!
//! ```text
//! pass 0      shard ──► listeners solved ──► written back
//!                                      ├──► XᵀX
//!                                      └──► residuals of the tracks
//! pass 1..    shard ──► products for all tracks ──► a step of conjugate gradient
//! ```
//!
//! The solver is that of [`fit`](super::fit), with the same preconditioner: only the order of additions differs. On disk
//! the listeners stay in the coordinates in which they were solved; it is the tracks that are turned into those of `XᵀX`'s
//! eigenvectors for the algebra of a step, and back for the next pass.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ndarray::Array2;
use rayon::prelude::*;

use super::als::{Fixed, ROWS_PER_TASK, digest, penalty, random_start, solve_rows, space_of};
use super::{AlsConfig, Factors, Ridge, Solver, checkpoint, read_factors};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};
use crate::events::{Csr, Shards};
use crate::linalg::{CONVERGED, Eigen, Entries, Gram, PaddedRows, Rows, dot};

/// A factorisation under way, after some iterations.
pub struct ShardedProgress<'a> {
    /// From 1.
    pub iteration: usize,
    /// As in [`Progress`](super::Progress).
    pub loss: f64,
    users: &'a UserRows,
    tracks: &'a Rows,
}

impl ShardedProgress<'_> {
    /// Writes all that [`ShardedStart::find`] needs into the folder, over an earlier checkpoint of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, dir: &Path, run: &str) -> Result<()> {
        checkpoint::save(dir, run, self.iteration, |out| self.users.write_npy(out), &self.tracks.to_array())
    }
}

/// Where an interrupted factorisation goes on. It gives, on the same shards with the same settings, bit for bit what would
/// have come without the interruption.
#[derive(Debug)]
pub struct ShardedStart {
    pub iteration: usize,
    users: PathBuf,
    tracks: PathBuf,
}

impl ShardedStart {
    /// The checkpoint in `dir`, if there is one and it is of this run.
    ///
    /// # Errors
    /// `Io`, and `Format` for a damaged one.
    pub fn find(dir: &Path, run: &str) -> Result<Option<ShardedStart>> {
        let found = checkpoint::find(dir, run)?;
        Ok(found.map(|(iteration, [users, tracks])| ShardedStart { iteration, users, tracks }))
    }
}

/// What [`fit_sharded`] finds: factors whose users are on disk.
#[derive(Debug)]
pub struct ShardedFactors<'a> {
    /// Without users.
    factors: Factors,
    users: UserRows,
    data: &'a Shards,
}

impl ShardedFactors<'_> {
    /// All but users and their factors, which are empty here.
    pub fn factors(&self) -> &Factors {
        &self.factors
    }

    /// Writes what [`Factors::save`] does.
    pub fn save(&self, dir: &Path) -> Result<()> {
        atomic_write(&dir.join("users.npy"), |out| self.users.write_npy(out))?;
        atomic_write(&dir.join("users.ids"), |out| self.data.write_names(out))?;
        self.factors.save_beside_users(dir, self.data.users)
    }
}

/// Factorises `data`; see [`fit_from`](super::fit_from), from which it differs by rounding. The result does not depend on
/// the number of threads; it does, by rounding, on the size of the shards.
///
/// Memory: two shards, and four times the tracks' factors. Disk, in the folder of the shards: the listeners' factors.
///
/// # Errors
/// `Invalid` for a setting out of range, and for another solver than conjugate gradient (the exact one would need a matrix
/// `[d, d]` for each track); `Mismatch` for a start of another shape; `Io` for the disk; `Interrupted` where `progress`
/// breaks.
pub fn fit_sharded<'a>(
    data: &'a Shards,
    config: &AlsConfig,
    start: Option<&ShardedStart>,
    progress: &mut dyn FnMut(ShardedProgress) -> ControlFlow<()>,
) -> Result<ShardedFactors<'a>> {
    config.check()?;
    check_solver(config)?;
    let (m, d) = (data.tracks.len(), config.dimensions);
    let of_users = data.row_lengths.iter().map(|(&length, &many)| (length as usize, many));
    let of_tracks = data.track_lengths.iter().map(|&length| (length as usize, 1));
    let ridges = Ridges {
        user: Ridge::of_lengths(config, of_users, m),
        track: Ridge::of_lengths(config, of_tracks, data.users),
    };
    let users = UserRows::zeros(data.folder(), data.users, d)?;
    let (done, mut tracks) = match start {
        None => (0, random_start(m, d, config.seed)),
        Some(start) => {
            users.read_npy(&start.users)?;
            (start.iteration, Rows::of(read_factors(&start.tracks, m, d)?.view()))
        }
    };
    for iteration in done + 1..=config.iterations {
        let loss = iterate(data, config, &ridges, &users, &mut tracks)?;
        if progress(ShardedProgress { iteration, loss, users: &users, tracks: &tracks }).is_break() {
            return Err(Error::Interrupted);
        }
    }

    let gram = Fixed::Gram(Gram::of(&tracks));
    let read = |shard, loaded: &mut Loaded| {
        loaded.x = Rows::zeros(data.users_of(shard).len(), d);
        data.read_by_user(shard, &mut loaded.by_user)
    };
    stream(data.len(), read, |shard, Loaded { by_user, x, .. }| {
        solve_rows(by_user, &tracks, &gram, &ridges.user, config, x)?;
        users.write(data.users_of(shard).start, x)
    })?;
    let track_factors = tracks.into_array();
    let space = space_of(config, &data.config, &users.digest()?, &digest(&track_factors));
    let factors = Factors {
        space,
        wandered: 0.0,
        config: *config,
        confidence: data.config,
        user_ridge: ridges.user,
        track_ridge: ridges.track,
        users: Vec::new(),
        user_factors: Array2::zeros((0, d)),
        tracks: data.tracks.names().to_vec(),
        track_factors,
        plays: data.plays.clone(),
        held_out: data.held_out.clone(),
    };
    Ok(ShardedFactors { factors, users, data })
}

/// The exact solver would need a matrix `[d, d]` for each track.
///
/// # Errors
/// `Invalid` for another than conjugate gradient.
pub fn check_solver(config: &AlsConfig) -> Result<()> {
    match config.solver {
        Solver::Cg => Ok(()),
        Solver::Cholesky => Err(Error::invalid("als.solver", "\"cg\", which alone works on shards", "\"cholesky\"")),
    }
}

struct Ridges {
    user: Ridge,
    track: Ridge,
}

/// A shard in memory.
struct Loaded {
    by_user: Csr,
    by_track: Csr,
    /// `[users of the shard, d]`
    x: Rows,
}

/// Works on shard after shard, in order, while the next is read.
fn stream(
    shards: usize,
    read: impl Fn(usize, &mut Loaded) -> Result<()> + Sync,
    mut work: impl FnMut(usize, &mut Loaded) -> Result<()> + Send,
) -> Result<()> {
    let empty = || Loaded { by_user: Csr::default(), by_track: Csr::default(), x: Rows::zeros(0, 1) };
    let (mut this, mut next) = (empty(), empty());
    read(0, &mut this)?;
    for shard in 0..shards {
        let read_next = || if shard + 1 < shards { read(shard + 1, &mut next) } else { Ok(()) };
        let (worked, has_read) = rayon::join(|| work(shard, &mut this), read_next);
        worked?;
        has_read?;
        std::mem::swap(&mut this, &mut next);
    }
    Ok(())
}

/// One iteration; returns the loss after it. Listeners on disk and tracks in memory are in the same coordinates, before
/// and after.
fn iterate(data: &Shards, config: &AlsConfig, ridges: &Ridges, users: &UserRows, tracks: &mut Rows) -> Result<f64> {
    let (m, d) = (data.tracks.len(), config.dimensions);
    let read_tracks_side = |shard, loaded: &mut Loaded| {
        loaded.x = users.read(data.users_of(shard))?;
        data.read_by_track(shard, &mut loaded.by_track)
    };

    let of_tracks = Gram::of(tracks).eigen()?;
    tracks.rotate(&of_tracks);
    let fixed = Fixed::Eigen(of_tracks.clone());
    let (mut residual, mut known) = (Rows::zeros(m, d), vec![0.0; m]);
    let mut gram = Array2::<f64>::zeros((d, d));
    let mut loss = data.loss_of_nothing;
    let read = |shard, loaded: &mut Loaded| {
        data.read_by_user(shard, &mut loaded.by_user)?;
        read_tracks_side(shard, loaded)
    };
    stream(data.len(), read, |shard, Loaded { by_user, by_track, x }| {
        x.rotate(&of_tracks);
        solve_rows(by_user, tracks, &fixed, &ridges.user, config, x)?;
        users.write(data.users_of(shard).start, x)?;
        loss += penalty(by_user, x, &ridges.user);
        gram += &Gram::of(x).to_matrix().mapv(f64::from);
        add_up(by_track, x, |entries, y, out| entries.add_residual(y, out), tracks, &mut residual, &mut known);
        Ok(())
    })?;

    let of_users = Gram::from_matrix(gram.mapv(|x| x as f32).view()).eigen()?;
    let back = of_users.inverse();
    let mut descent = Descent::begin(data, &ridges.track, &of_users, tracks, residual, known);
    for step in 1..=config.cg_steps {
        // Of the last step only the length along the direction is wanted, which needs no product.
        let is_last = step == config.cg_steps;
        let pass: Pass =
            if is_last { |entries, p, _| entries.square(p) } else { |entries, p, out| entries.add_product(p, out) };
        let (mut product, mut squares) = (Rows::zeros(m, d), vec![0.0; m]);
        descent.direction.rotate(&back);
        stream(data.len(), read_tracks_side, |_, Loaded { by_track, x, .. }| {
            add_up(by_track, x, pass, &mut descent.direction, &mut product, &mut squares);
            Ok(())
        })?;
        descent.direction.rotate(&of_users);
        product.rotate(&of_users);
        descent.step(tracks, &mut product, &squares, is_last);
    }
    tracks.rotate(&back);
    loss -= descent.lowered.iter().sum::<f64>();
    // A NaN or an infinity in any factor is one in its Gram matrix.
    if loss.is_finite() && Gram::of(tracks).to_matrix().iter().all(|x| x.is_finite()) {
        Ok(loss)
    } else {
        Err(Error::invalid("confidences", "numbers whose sums are finite", "overflow or NaN in a least squares solve"))
    }
}

/// A pass over some entries of a row, given a vector, into another; returns a sum. See [`Entries::add_product`].
type Pass = fn(Entries, &[f32], &mut [f32]) -> f64;

/// What a shard adds to the sums of all tracks: `out` `[tracks, d]` and `sums` `[tracks]`, with the vectors of `given`
/// `[tracks, d]`. Each track is one thread's, so that the number of threads does not show.
fn add_up(by_track: &Csr, x: &Rows, pass: Pass, given: &mut Rows, out: &mut Rows, sums: &mut [f64]) {
    let tasks = given.par_blocks_mut(ROWS_PER_TASK).zip(out.par_blocks_mut(ROWS_PER_TASK));
    let tasks = tasks.zip(sums.par_chunks_mut(ROWS_PER_TASK)).enumerate();
    tasks.for_each(|(task, ((mut given, mut out), sums)): (usize, ((PaddedRows, PaddedRows), &mut [f64]))| {
        for (i, ((given, out), sum)) in given.iter_mut().zip(out.iter_mut()).zip(sums).enumerate() {
            let (indices, confidence, target) = by_track.row(task * ROWS_PER_TASK + i);
            if !indices.is_empty() {
                *sum += pass(Entries { rows: x, indices, confidence, target }, given, out);
            }
        }
    });
}

/// Preconditioned conjugate gradient for all tracks at once, each with an α and a β of its own, in the coordinates of the
/// eigenvectors of `XᵀX`; the same steps as [`WeightedRidge::improve`](crate::linalg::WeightedRidge::improve) takes.
struct Descent<'a> {
    /// `Λ`, `[d]`
    eigenvalues: &'a [f32],
    /// `[tracks]`
    lambda: Vec<f32>,
    /// `[tracks, d]`
    residual: Rows,
    /// `[tracks, d]`
    direction: Rows,
    /// The residual times the preconditioned one, `[tracks]`.
    rz: Vec<f32>,
    /// By how much each track lowers the loss against `y = 0`, `[tracks]`.
    lowered: Vec<f64>,
}

impl<'a> Descent<'a> {
    /// `residual`: what the entries say, and `known` `Σ ct x·y`, in the coordinates of the tracks; all are turned.
    fn begin(
        data: &Shards,
        ridge: &Ridge,
        of_users: &'a Eigen,
        tracks: &mut Rows,
        mut residual: Rows,
        known: Vec<f64>,
    ) -> Descent<'a> {
        tracks.rotate(of_users);
        residual.rotate(of_users);
        let m = tracks.len();
        let eigenvalues = of_users.values();
        let lambda: Vec<f32> = data.track_lengths.iter().map(|&length| ridge.at(length as usize)).collect();
        let (mut direction, mut rz, mut lowered) = (Rows::zeros(m, tracks.dimensions()), vec![0.0; m], known);
        let rows = tracks.par_blocks_mut(ROWS_PER_TASK).zip(residual.par_blocks_mut(ROWS_PER_TASK));
        let rows = rows.zip(direction.par_blocks_mut(ROWS_PER_TASK));
        let sums = rz.par_chunks_mut(ROWS_PER_TASK).zip(lowered.par_chunks_mut(ROWS_PER_TASK));
        rows.zip(sums).enumerate().for_each(|(task, (((mut y, mut r), mut p), (rz, lowered)))| {
            let rows = y.iter_mut().zip(r.iter_mut()).zip(p.iter_mut());
            for (i, (((y, r), p), (rz, lowered))) in rows.zip(rz.iter_mut().zip(lowered)).enumerate() {
                let track = task * ROWS_PER_TASK + i;
                if !data.is_preferred[track] {
                    // What was only refused has no place.
                    y.fill(0.0);
                    r.fill(0.0);
                    *lowered = 0.0;
                    continue;
                }
                for (j, eigenvalue) in eigenvalues.iter().enumerate() {
                    let a = eigenvalue + lambda[track];
                    r[j] -= a * y[j];
                    p[j] = r[j] / a;
                }
                *rz = dot(r, p);
                *lowered += f64::from(dot(r, y));
            }
        });
        Descent { eigenvalues, lambda, residual, direction, rz, lowered }
    }

    /// `product` `Σ (c−1)(x·p) x` `[tracks, d]` and `squares` `Σ (c−1)(x·p)²` `[tracks]`, of the direction `p`.
    fn step(&mut self, tracks: &mut Rows, product: &mut Rows, squares: &[f64], is_last: bool) {
        let Descent { eigenvalues, lambda, residual, direction, rz, lowered } = self;
        let rows = tracks.par_blocks_mut(ROWS_PER_TASK).zip(residual.par_blocks_mut(ROWS_PER_TASK));
        let rows = rows.zip(direction.par_blocks_mut(ROWS_PER_TASK).zip(product.par_blocks_mut(ROWS_PER_TASK)));
        let sums = rz.par_chunks_mut(ROWS_PER_TASK).zip(lowered.par_chunks_mut(ROWS_PER_TASK));
        rows.zip(sums).enumerate().for_each(|(task, (((mut y, mut r), (mut p, mut ap)), (rz, lowered)))| {
            let rows = y.iter_mut().zip(r.iter_mut()).zip(p.iter_mut().zip(ap.iter_mut()));
            for (i, (((y, r), (p, ap)), (rz, lowered))) in rows.zip(rz.iter_mut().zip(lowered)).enumerate() {
                let track = task * ROWS_PER_TASK + i;
                if *rz < CONVERGED {
                    p.fill(0.0);
                    continue;
                }
                let mut pap = squares[track] as f32;
                for (j, eigenvalue) in eigenvalues.iter().enumerate() {
                    let product = (eigenvalue + lambda[track]) * p[j];
                    pap += product * p[j];
                    ap[j] += product;
                }
                let alpha = *rz / pap;
                y.iter_mut().zip(&*p).for_each(|(y, p)| *y += alpha * p);
                *lowered += f64::from(alpha) * f64::from(*rz);
                if is_last {
                    continue;
                }
                for (j, eigenvalue) in eigenvalues.iter().enumerate() {
                    r[j] -= alpha * ap[j];
                    ap[j] = r[j] / (eigenvalue + lambda[track]); // the preconditioned residual
                }
                let before = std::mem::replace(rz, dot(r, ap));
                let beta = *rz / before;
                p.iter_mut().zip(&*ap).for_each(|(p, z)| *p = z + beta * *p);
            }
        });
    }
}

/// The listeners' factors `[users, d]`, as they lie in a temporary file: row by row, little-endian.
#[derive(Debug)]
struct UserRows {
    file: Mutex<File>,
    folder: PathBuf,
    users: usize,
    d: usize,
}

/// Numbers that are read at a time.
const BLOCK: usize = 1 << 16;

impl UserRows {
    fn zeros(folder: &Path, users: usize, d: usize) -> Result<UserRows> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
        let rows = UserRows { file: Mutex::new(file), folder: folder.to_path_buf(), users, d };
        // Zeros take no room on most disks until they are written over.
        rows.with_file(|file| file.set_len(4 * (users * d) as u64))?;
        Ok(rows)
    }

    fn with_file<T>(&self, work: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T> {
        work(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner)).map_err(Error::io(&self.folder))
    }

    fn read(&self, users: Range<usize>) -> Result<Rows> {
        let mut rows = Rows::zeros(users.len(), self.d);
        let mut bytes = vec![0; 4 * self.d * (BLOCK / self.d).max(1)];
        self.with_file(|file| {
            file.seek(SeekFrom::Start(4 * (users.start * self.d) as u64))?;
            let mut next = 0;
            while next < users.len() {
                let many = (bytes.len() / (4 * self.d)).min(users.len() - next);
                let bytes = &mut bytes[..4 * self.d * many];
                file.read_exact(bytes)?;
                for row in bytes.chunks_exact(4 * self.d) {
                    let numbers = row.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
                    rows.row_mut(next).iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
                    next += 1;
                }
            }
            Ok(rows)
        })
    }

    fn write(&self, first: usize, rows: &Rows) -> Result<()> {
        self.with_file(|file| {
            file.seek(SeekFrom::Start(4 * (first * self.d) as u64))?;
            let mut out = BufWriter::with_capacity(4 * BLOCK, file);
            let mut bytes = Vec::with_capacity(4 * self.d);
            for i in 0..rows.len() {
                bytes.clear();
                bytes.extend(rows.row(i).iter().flat_map(|x| x.to_le_bytes()));
                out.write_all(&bytes)?;
            }
            out.flush()
        })
    }

    /// Copies all numbers, little-endian.
    fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut *file, out).map(|_| ())
    }

    /// As [`digest`] of the same numbers in memory.
    fn digest(&self) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        self.copy_to(&mut hasher).map_err(Error::io(&self.folder))?;
        Ok(hasher.finalize().into())
    }

    fn write_npy(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&npy_header(self.users, self.d))?;
        self.copy_to(out)
    }

    /// Takes the numbers of a file that [`UserRows::write_npy`] wrote.
    ///
    /// # Errors
    /// `Mismatch` for another shape; `Io`.
    fn read_npy(&self, path: &Path) -> Result<()> {
        let mut from = BufReader::with_capacity(4 * BLOCK, File::open(path).map_err(Error::io(path))?);
        let expected = npy_header(self.users, self.d);
        let mut header = vec![0; expected.len()];
        let bytes = expected.len() as u64 + 4 * (self.users * self.d) as u64;
        let length = from.get_ref().metadata().map_err(Error::io(path))?.len();
        if length == bytes {
            from.read_exact(&mut header).map_err(Error::io(path))?;
        }
        if header != expected {
            let shape = format!("float32 [{}, {}]", self.users, self.d);
            return Err(Error::mismatch(path.display(), shape, format!("another array, of {length} bytes")));
        }
        // Which of the two failed is to be said.
        let mut read = Ok(());
        self.with_file(|file| {
            file.seek(SeekFrom::Start(0))?;
            let mut block = vec![0; 4 * BLOCK];
            loop {
                match from.read(&mut block) {
                    Ok(0) => return Ok(()),
                    Ok(n) => file.write_all(&block[..n])?,
                    Err(e) => {
                        read = Err(e);
                        return Ok(());
                    }
                }
            }
        })?;
        read.map_err(Error::io(path))
    }
}

/// The header of an npy file (version 1.0 of the format) with 32-bit floats `[n, d]`, row by row.
fn npy_header(n: usize, d: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
    // Magic, version and length are 10 bytes; with a line's end, the data begin at a multiple of 64.
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(length - 1 - text.len()));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

#[test]
fn the_header_is_what_ndarray_reads() {
    for (n, d) in [(0, 1), (3, 40), (1_000_000, 256)] {
        let header = npy_header(n, d);
        assert_eq!(header.len() % 64, 0);
        assert!(header.ends_with(b"\n"));
    }
    let mut bytes = npy_header(2, 3);
    bytes.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
    let read = <Array2<f32> as ndarray_npy::ReadNpyExt>::read_npy(bytes.as_slice()).unwrap();
    assert_eq!(read, ndarray::arr2(&[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        Action, ConfidenceConfig, Event, EventsConfig, Interactions, ShardSize, ShardsBuilder, interactions,
    };
    use crate::factors::{fit, run_id_of_shards};
    use crate::ids::{Ids, TrackId, UserId};

    /// Listeners with tastes, one of whom knows everything; playlists; a track that is only skipped.
    fn log() -> Vec<Event> {
        let mut events = Vec::new();
        for user in 0..300u32 {
            for track in 0..60u32 {
                let h = (user * 60 + track).wrapping_mul(2_654_435_761) >> 8;
                let is_taste = user % 5 == track % 5;
                if h % (if is_taste { 3 } else { 17 }) != 0 && user != 7 {
                    continue;
                }
                let action = match track {
                    59 => Action::Skip,
                    _ => [Action::Play, Action::Play, Action::Like, Action::Add, Action::Skip][(h >> 9) as usize % 5],
                };
                let name = if user % 10 == 3 { format!("playlist:{user}") } else { format!("u{user}") };
                events.push(Event {
                    time: i64::from(h % 1_000_000),
                    user: UserId::new(name).unwrap(),
                    track: TrackId::new(format!("t{track:02}")).unwrap(),
                    action,
                    value: 1.0,
                });
            }
        }
        events
    }

    fn confidence() -> ConfidenceConfig {
        ConfidenceConfig { max_tracks_per_user: 50, ..ConfidenceConfig::default() }
    }

    fn shards(folder: &Path, bytes: usize) -> Shards {
        let mut builder = ShardsBuilder::new(&confidence(), &EventsConfig::default(), None, folder).unwrap();
        log().iter().for_each(|event| builder.push(event).unwrap());
        builder.finish(ShardSize { bytes, user_bytes: 64 }, &|_| false).unwrap()
    }

    fn in_memory() -> Interactions {
        interactions(log().into_iter(), &confidence(), None).unwrap()
    }

    /// The factors, saved and loaded, and the losses.
    fn fitted(data: &Shards, config: &AlsConfig) -> (Factors, Vec<f64>) {
        let (mut losses, dir) = (Vec::new(), tempfile::tempdir().unwrap());
        let fitted = fit_sharded(data, config, None, &mut |progress| {
            losses.push(progress.loss);
            assert_eq!(progress.iteration, losses.len());
            ControlFlow::Continue(())
        });
        fitted.unwrap().save(dir.path()).unwrap();
        (Factors::load(dir.path()).unwrap(), losses)
    }

    /// `[users, tracks]`, with users in the order of their names.
    fn scores(f: &Factors) -> Array2<f32> {
        let mut order: Vec<usize> = (0..f.users.len()).collect();
        order.sort_by_key(|&i| &f.users[i]);
        f.user_factors.select(ndarray::Axis(0), &order).dot(&f.track_factors.t())
    }

    #[test]
    fn many_shards_and_one_find_what_the_fit_in_memory_finds() {
        let (data, dir) = (in_memory(), tempfile::tempdir().unwrap());
        for (dimensions, cg_steps) in [(8, 1), (12, 2), (40, 3), (70, 2)] {
            let config = AlsConfig { dimensions, cg_steps, iterations: 8, regularisation: 1.0, ..AlsConfig::default() };
            let mut expected = Vec::new();
            let whole = fit(&data, &config, &mut |progress| {
                expected.push(progress.loss);
                ControlFlow::Continue(())
            })
            .unwrap();
            for bytes in [1, 20_000, usize::MAX] {
                let shards = shards(dir.path(), bytes);
                let many = match bytes {
                    1 => 10..=300,
                    20_000 => 2..=9,
                    _ => 1..=1,
                };
                assert!(many.contains(&shards.len()), "{bytes}: {}", shards.len());
                let (found, losses) = fitted(&shards, &config);
                for (loss, expected) in losses.iter().zip(&expected) {
                    assert!((loss / expected - 1.0).abs() < 1e-5, "{dimensions} {bytes}: {losses:?} {expected}");
                }
                assert_eq!((&found.tracks, &found.plays), (&whole.tracks, &whole.plays));
                assert!((found.user_ridge.scale / whole.user_ridge.scale - 1.0).abs() < 1e-9);
                assert!((found.track_ridge.scale / whole.track_ridge.scale - 1.0).abs() < 1e-9);
                let worst = (scores(&found) - scores(&whole)).iter().fold(0.0f32, |worst, x| worst.max(x.abs()));
                assert!(worst < 2e-3, "{dimensions} {bytes}: {worst}");
                let skipped = found.tracks.iter().position(|t| t.as_str() == "t59").unwrap();
                assert!(found.track_factors.row(skipped).iter().all(|&y| y == 0.0));
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_listener_is_what_folding_in_makes_of_the_history() {
        let (data, dir) = (in_memory(), tempfile::tempdir().unwrap());
        let (f, _) = fitted(&shards(dir.path(), 20_000), &AlsConfig { dimensions: 10, ..AlsConfig::default() });
        let (fold_in, ids) = (f.fold_in_users(), f.users.iter().cloned().collect::<Ids<UserId>>());
        for (row, user) in data.users.names().iter().enumerate() {
            let (tracks, confidence, preference) = data.by_user.row(row);
            let met = tracks.iter().map(|&t| t as usize).collect::<Vec<_>>();
            let vectors = f.track_factors.select(ndarray::Axis(0), &met);
            let x = fold_in.solve(vectors.view(), confidence, preference).unwrap();
            let found = f.user_factors.row(ids.number(user).unwrap() as usize);
            found.iter().zip(&x).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{user}: {a} {b}"));
        }
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let config = AlsConfig { dimensions: 12, iterations: 4, ..AlsConfig::default() };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fitted(&shards(dir.path(), 3_000), &config))
        };
        let ((one, one_losses), (three, three_losses)) = (with(1), with(3));
        assert_eq!((one.space, one_losses), (three.space, three_losses));
        assert_eq!(one.track_factors, three.track_factors);
        assert_eq!((one.users, one.user_factors), (three.users, three.user_factors));
    }

    #[test]
    fn an_interrupted_run_goes_on_to_the_same_bits() {
        let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let data = shards(folder.path(), 3_000);
        let config = AlsConfig { dimensions: 12, iterations: 6, ..AlsConfig::default() };
        let (whole, _) = fitted(&data, &config);
        let run = run_id_of_shards(&data, &config);
        let stopped = fit_sharded(&data, &config, None, &mut |progress| {
            progress.save(dir.path(), &run).unwrap();
            if progress.iteration == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "only the last one is kept");

        // As a new process would: the same shards, made again.
        let again = shards(folder.path(), 3_000);
        assert_eq!(run_id_of_shards(&again, &config), run);
        let start = ShardedStart::find(dir.path(), &run).unwrap().unwrap();
        assert_eq!(start.iteration, 4);
        let mut iterations = Vec::new();
        let rest = fit_sharded(&again, &config, Some(&start), &mut |progress| {
            iterations.push(progress.iteration);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((iterations, &rest.factors().space), (vec![5, 6], &whole.space));

        for other in [AlsConfig { seed: 2, ..config }, AlsConfig { dimensions: 13, ..config }] {
            assert!(ShardedStart::find(dir.path(), &run_id_of_shards(&data, &other)).unwrap().is_none());
        }
        let other = run_id_of_shards(&shards(folder.path(), 9_000), &config);
        assert!(ShardedStart::find(dir.path(), &other).unwrap().is_none(), "other shards round differently");
        // A start of another shape, and a damaged one.
        let wider = AlsConfig { dimensions: 13, ..config };
        let refused = fit_sharded(&data, &wider, Some(&start), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(Error::Mismatch { .. })));
        let path = dir.path().join("users-4.npy");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let message = ShardedStart::find(dir.path(), &run).unwrap_err().to_string();
        assert!(message.contains("users-4.npy"), "{message}");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = shards(dir.path(), usize::MAX);
        for (config, name) in [
            (AlsConfig { solver: Solver::Cholesky, ..AlsConfig::default() }, "als.solver"),
            (AlsConfig { dimensions: 0, ..AlsConfig::default() }, "als.dimensions"),
        ] {
            let refused = fit_sharded(&data, &config, None, &mut |_| ControlFlow::Continue(()));
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        let stopped = fit_sharded(&data, &AlsConfig::default(), None, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
