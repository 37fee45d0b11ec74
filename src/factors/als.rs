//! Implicit alternating least squares: Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
//! ICDM 2008. Rows are solved exactly, or improved by a few steps of conjugate gradient.

use std::ops::ControlFlow;

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{AlsConfig, Factors, Ridge, Solver};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::events::{ConfidenceConfig, Csr, Interactions};
use crate::ids::Ids;
use crate::linalg::{Eigen, Entries, Gram, PaddedRows, Rows, WeightedRidge, norm};

/// Rows that one task solves: enough to pay for the task, few enough that one popular track delays nobody.
pub(super) const ROWS_PER_TASK: usize = 16;

/// A factorisation under way, after some iterations.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// From 1.
    pub iteration: usize,
    /// `Σ_{all pairs} c (p − x·y)² + Σ λ‖x‖² + Σ λ‖y‖²` (Hu et al., equation 3). It never rises but for rounding.
    pub loss: f64,
    users: &'a Rows,
    tracks: &'a Rows,
}

impl Progress<'_> {
    /// All that [`Start::Checkpoint`] needs in order to go on from here.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { iteration: self.iteration, users: self.users.to_array(), tracks: self.tracks.to_array() }
    }
}

/// A factorisation that was interrupted after `iteration` iterations. To continue it gives, on the same data with the
/// same settings, bit for bit what would have come without the interruption.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub iteration: usize,
    /// `[users, d]`
    pub users: Array2<f32>,
    /// `[tracks, d]`
    pub tracks: Array2<f32>,
}

/// Where a factorisation begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// At random tracks; fixed by the seed.
    Random,
    /// Where an earlier one ended, as far as listeners and tracks are the same: a warm start. Two or three iterations
    /// are then enough for a day's new events.
    Warm(&'a Factors),
    Checkpoint(&'a Checkpoint),
}

/// Factorises `data` from a random start; see [`fit_from`].
///
/// # Errors
/// As [`fit_from`].
pub fn fit(
    data: &Interactions,
    config: &AlsConfig,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Factors> {
    fit_from(data, config, Start::Random, progress)
}

/// Factorises `data`; `progress` hears of every iteration. At the end the listeners are solved once more, exactly, so
/// that each is what [`FoldIn`](super::FoldIn) makes of the same history and the final tracks.
///
/// # Errors
/// `Invalid` for a setting out of range; `Mismatch` for a start of other dimensions, listeners or tracks; `Interrupted`
/// where `progress` breaks.
pub fn fit_from(
    data: &Interactions,
    config: &AlsConfig,
    start: Start,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Factors> {
    config.check()?;
    let by_user = &data.by_user;
    let by_track = by_user.transpose();
    let (user_ridge, track_ridge) = (Ridge::of(config, by_user), Ridge::of(config, &by_track));
    // Σ c p²: the loss of predicting 0 everywhere.
    let nothing: f64 = (0..by_user.rows())
        .flat_map(|user| {
            let (_, confidence, preference) = by_user.row(user);
            confidence.iter().zip(preference).map(|(&c, &p)| f64::from(c * p) * f64::from(p))
        })
        .sum();
    let (done, mut users, mut tracks) = begin(data, config, start)?;
    for iteration in done + 1..=config.iterations {
        half_step(by_user, &mut tracks, &user_ridge, config, &mut users)?;
        let lowered = half_step(&by_track, &mut users, &track_ridge, config, &mut tracks)?;
        // With the listeners fixed, the loss is a sum of one quadratic per track, and the solver knows how far below
        // its value at 0 each is: the exact loss needs no pass over the data.
        let loss = nothing - lowered + penalty(by_user, &users, &user_ridge);
        if progress(Progress { iteration, loss, users: &users, tracks: &tracks }).is_break() {
            return Err(Error::Interrupted);
        }
    }
    drop(by_track);
    let exact = AlsConfig { solver: Solver::Cholesky, ..*config };
    half_step(by_user, &mut tracks, &user_ridge, &exact, &mut users)?;
    let (user_factors, track_factors) = (users.into_array(), tracks.into_array());
    Ok(Factors {
        wandered: 0.0,
        space: space_of(config, &data.config, &digest(&user_factors), &digest(&track_factors)),
        config: *config,
        confidence: data.config,
        user_ridge,
        track_ridge,
        users: data.users.names().to_vec(),
        user_factors,
        tracks: data.tracks.names().to_vec(),
        track_factors,
        plays: data.plays.clone(),
        held_out: Vec::new(),
    })
}

/// Iterations done, listeners and tracks.
fn begin(data: &Interactions, config: &AlsConfig, start: Start) -> Result<(usize, Rows, Rows)> {
    let (n, m, d) = (data.users.len(), data.tracks.len(), config.dimensions);
    let mut users = Rows::zeros(n, d);
    let mut tracks = random_start(m, d, config.seed);
    match start {
        Start::Random => Ok((0, users, tracks)),
        Start::Warm(earlier) => {
            if earlier.dimensions() != d {
                return Err(Error::mismatch(
                    "the factors to start from",
                    format!("{d} dimensions"),
                    earlier.dimensions(),
                ));
            }
            // What is new begins as in a cold start: tracks at random, small beside the others, listeners at zero.
            take_known(&data.users, &earlier.users, &earlier.user_factors, &mut users);
            take_known(&data.tracks, &earlier.tracks, &earlier.track_factors, &mut tracks);
            Ok((0, users, tracks))
        }
        Start::Checkpoint(checkpoint) => {
            let shapes = (checkpoint.users.dim(), checkpoint.tracks.dim());
            if shapes != ((n, d), (m, d)) {
                let expected = format!("listeners [{n}, {d}] and tracks [{m}, {d}]");
                let found = format!("{:?} and {:?}", checkpoint.users.shape(), checkpoint.tracks.shape());
                return Err(Error::mismatch("the checkpoint", expected, found));
            }
            Ok((checkpoint.iteration, Rows::of(checkpoint.users.view()), Rows::of(checkpoint.tracks.view())))
        }
    }
}

/// Copies the rows of those who are in both.
fn take_known<I: Clone + Eq + std::hash::Hash>(ids: &Ids<I>, earlier: &[I], factors: &Array2<f32>, rows: &mut Rows) {
    for (id, row) in earlier.iter().zip(factors.rows()) {
        if let Some(i) = ids.number(id) {
            rows.row_mut(i as usize).iter_mut().zip(row).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Solves (or improves) every row of one side with the `other` side fixed, in place; returns by how much the rows
/// together lower the loss.
///
/// For conjugate gradient both sides are first turned into the coordinates of the eigenvectors of the other's Gram
/// matrix. No score changes by that, and so neither does the loss: factors are given but for a rotation.
fn half_step(side: &Csr, other: &mut Rows, ridge: &Ridge, config: &AlsConfig, rows: &mut Rows) -> Result<f64> {
    let gram = Gram::of(other);
    let fixed = match config.solver {
        Solver::Cg => {
            let eigen = gram.eigen()?;
            other.rotate(&eigen);
            rows.rotate(&eigen);
            Fixed::Eigen(eigen)
        }
        Solver::Cholesky => Fixed::Gram(gram),
    };
    solve_rows(side, other, &fixed, ridge, config, rows)
}

/// What all rows of a side need of the other.
pub(super) enum Fixed {
    /// For conjugate gradient, in the coordinates of its eigenvectors.
    Eigen(Eigen),
    /// For the exact solve.
    Gram(Gram),
}

/// Solves (or improves) every row of one side, in place; returns by how much the rows together lower the loss.
pub(super) fn solve_rows(
    side: &Csr,
    other: &Rows,
    fixed: &Fixed,
    ridge: &Ridge,
    config: &AlsConfig,
    rows: &mut Rows,
) -> Result<f64> {
    let solve = |solver: &mut WeightedRidge, (task, mut rows): (usize, PaddedRows)| {
        let mut lowered = 0.0;
        for (i, x) in rows.iter_mut().enumerate() {
            let (indices, confidence, target) = side.row(task * ROWS_PER_TASK + i);
            let entries = Entries { rows: other, indices, confidence, target };
            let lambda = ridge.at(indices.len());
            lowered += match fixed {
                Fixed::Eigen(eigen) => solver.improve(eigen, lambda, entries, config.cg_steps, x)?,
                Fixed::Gram(gram) => {
                    let (solution, by) = solver.solve(gram, lambda, entries)?;
                    x[..solution.len()].copy_from_slice(solution);
                    by
                }
            };
        }
        Ok(lowered)
    };
    let tasks: Vec<f64> = (rows.par_blocks_mut(ROWS_PER_TASK).enumerate())
        .map_init(|| WeightedRidge::new(config.dimensions), solve)
        .collect::<Result<_>>()?;
    // Summed in the order of the rows: the same bits whatever the number of threads.
    Ok(tasks.iter().sum())
}

/// `Σ λ‖x‖²`
pub(super) fn penalty(side: &Csr, rows: &Rows, ridge: &Ridge) -> f64 {
    let row_penalty = |i: usize| {
        let length = f64::from(norm(rows.row(i)));
        f64::from(ridge.at(side.row_len(i))) * length * length
    };
    (0..rows.len()).map(row_penalty).sum()
}

/// Uniform in ±0.1/√d: small against the factors to come, so that the first solve of the listeners sees mostly who
/// met what, and nothing depends on it but the rotation.
pub(super) fn random_start(n: usize, d: usize, seed: u64) -> Rows {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = 0.1 / (d as f32).sqrt();
    let mut rows = Rows::zeros(n, d);
    for i in 0..n {
        rows.row_mut(i).iter_mut().for_each(|x| *x = random.random_range(-width..width));
    }
    rows
}

/// The name of the space of factors with these digests.
pub(super) fn space_of(config: &AlsConfig, confidence: &ConfidenceConfig, users: &[u8], tracks: &[u8]) -> SpaceId {
    SpaceId::of(&[format!("{config:?} {confidence:?}").as_bytes(), users, tracks])
}

/// The BLAKE3 hash of all numbers, row by row, little-endian.
pub(super) fn digest(array: &Array2<f32>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for row in array.rows() {
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::run_id;
    use crate::ids::{Ids, TrackId, UserId};
    use crate::linalg::dot;
    use ndarray::Axis;

    /// A matrix with numbers for names, in the order of the numbers.
    fn matrix(users: usize, tracks: usize, entries: &[(u32, u32, f32, f32)]) -> Interactions {
        let by_user = Csr::from_sorted(users, tracks, entries.iter().copied());
        let mut plays = vec![0; tracks];
        entries.iter().filter(|e| e.3 > 0.0).for_each(|e| plays[e.1 as usize] += 1);
        Interactions {
            users: (0..users).map(|i| UserId::new(format!("u{i:04}")).unwrap()).collect::<Ids<_>>(),
            tracks: (0..tracks).map(|i| TrackId::new(format!("t{i:04}")).unwrap()).collect::<Ids<_>>(),
            by_user,
            plays,
            config: ConfidenceConfig::default(),
            now: 0,
        }
    }

    fn quietly(data: &Interactions, config: &AlsConfig) -> Factors {
        fit(data, config, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    /// Some matrix with skips, empty corners and a long row.
    fn tangled() -> Interactions {
        let mut entries = Vec::new();
        for user in 0..90u32 {
            for track in 0..40u32 {
                let h = (user * 40 + track).wrapping_mul(2_654_435_761) >> 16;
                if h % 11 == 0 || user == 7 {
                    entries.push((
                        user,
                        track,
                        1.0 + (h % 50) as f32 / 2.0,
                        [1.0, 1.0, 0.5, 0.0][(h / 11 % 4) as usize],
                    ));
                }
            }
        }
        matrix(90, 40, &entries)
    }

    /// The loss as equation 3 has it, pair by pair.
    fn plain_loss(data: &Interactions, f: &Factors) -> f64 {
        let mut seen = Array2::from_elem((data.users.len(), data.tracks.len()), (1.0f64, 0.0f64));
        for user in 0..data.users.len() {
            let (tracks, c, p) = data.by_user.row(user);
            for i in 0..tracks.len() {
                seen[[user, tracks[i] as usize]] = (c[i].into(), p[i].into());
            }
        }
        let by_track = data.by_user.transpose();
        let (x, y) = (f.user_factors.mapv(f64::from), f.track_factors.mapv(f64::from));
        let scores = x.dot(&y.t());
        let data_loss: f64 = seen.iter().zip(&scores).map(|((c, p), s)| c * (p - s).powi(2)).sum();
        let square = |row: ndarray::ArrayView1<f64>| row.dot(&row);
        let users = x.rows().into_iter().enumerate();
        let tracks = y.rows().into_iter().enumerate();
        data_loss
            + users.map(|(i, r)| f64::from(f.user_ridge.at(data.by_user.row_len(i))) * square(r)).sum::<f64>()
            + tracks.map(|(i, r)| f64::from(f.track_ridge.at(by_track.row_len(i))) * square(r)).sum::<f64>()
    }

    #[test]
    fn a_checkerboard_is_completed() {
        // Listeners of even number hear even tracks, odd hear odd; everyone's own track is left out, and must come
        // back as his best.
        let n = 50u32;
        let alike = |i: u32, j: u32| i % 2 == j % 2;
        let entries: Vec<_> = (0..n)
            .flat_map(|i| (0..n).filter(move |&j| alike(i, j) && i != j).map(move |j| (i, j, 41.0, 1.0)))
            .collect();
        let data = matrix(50, 50, &entries);
        for dimensions in [2, 16, 60] {
            let config = AlsConfig { dimensions, regularisation: 20.0, ..AlsConfig::default() };
            let f = quietly(&data, &config);
            for i in 0..n {
                let scores = f.track_factors.dot(&f.user_factors.row(i as usize));
                let worst_alike = (0..n).filter(|&j| alike(i, j)).map(|j| scores[j as usize]).fold(f32::MAX, f32::min);
                let best_other = (0..n).filter(|&j| !alike(i, j)).map(|j| scores[j as usize]).fold(f32::MIN, f32::max);
                assert!(worst_alike > best_other + 0.3, "{dimensions}: {i}: {worst_alike} {best_other}");
            }
        }
    }

    #[test]
    fn the_loss_is_the_papers_and_never_rises() {
        let data = tangled();
        for regularisation_exponent in [0.0, 1.0] {
            let config = AlsConfig {
                dimensions: 8,
                iterations: 12,
                regularisation: 0.5,
                regularisation_exponent,
                seed: 3,
                ..AlsConfig::default()
            };
            let (mut losses, mut last) = (Vec::new(), None);
            let f = fit(&data, &config, &mut |progress| {
                losses.push(progress.loss);
                assert_eq!(progress.iteration, losses.len());
                last = Some(progress.checkpoint());
                ControlFlow::Continue(())
            })
            .unwrap();
            losses.windows(2).for_each(|w| assert!(w[1] <= w[0] * (1.0 + 1e-6), "{losses:?}"));
            // The last reported loss is of the listeners before the final, exact solve.
            let Checkpoint { users, tracks, .. } = last.unwrap();
            let plain = plain_loss(&data, &Factors { user_factors: users, track_factors: tracks, ..f.clone() });
            assert!((losses[11] - plain).abs() < 1e-5 * plain, "{} {plain}", losses[11]);
            assert!(plain_loss(&data, &f) <= plain * (1.0 + 1e-6));
        }
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let data = tangled();
        let config = AlsConfig { dimensions: 12, iterations: 4, ..AlsConfig::default() };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut losses = Vec::new();
                let f = fit(&data, &config, &mut |progress| {
                    losses.push(progress.loss);
                    ControlFlow::Continue(())
                });
                (f.unwrap(), losses)
            })
        };
        let ((one, one_losses), (two, two_losses)) = (with(1), with(2));
        assert_eq!(one.track_factors, two.track_factors);
        assert_eq!(one.user_factors, two.user_factors);
        assert_eq!((one.space, one_losses), (two.space, two_losses));
        let other = quietly(&data, &AlsConfig { seed: 2, ..config });
        assert_ne!(one.track_factors, other.track_factors);
    }

    #[test]
    fn an_interrupted_run_goes_on_to_the_same_bits() {
        let data = tangled();
        let config = AlsConfig { dimensions: 12, iterations: 6, ..AlsConfig::default() };
        let whole = quietly(&data, &config);
        let dir = tempfile::tempdir().unwrap();
        let run = run_id(&data, &config);
        let stopped = fit(&data, &config, &mut |progress| {
            progress.checkpoint().save(dir.path(), &run).unwrap();
            if progress.iteration == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Interrupted)));
        let (n, m) = (data.users.len(), data.tracks.len());
        let checkpoint = Checkpoint::load(dir.path(), &run, n, m, 12).unwrap().unwrap();
        let mut iterations = Vec::new();
        let rest = fit_from(&data, &config, Start::Checkpoint(&checkpoint), &mut |progress| {
            iterations.push(progress.iteration);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((iterations, rest.space), (vec![5, 6], whole.space));
        assert_eq!((&rest.user_factors, &rest.track_factors), (&whole.user_factors, &whole.track_factors));
        // Only the last one is kept, and it is of this run alone.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        let other = run_id(&data, &AlsConfig { seed: 2, ..config });
        assert!(Checkpoint::load(dir.path(), &other, n, m, 12).unwrap().is_none());
        let longer = run_id(&data, &AlsConfig { iterations: 60, ..config });
        assert_eq!(longer, run);
        let mut bytes = std::fs::read(dir.path().join("tracks-4.npy")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(dir.path().join("tracks-4.npy"), bytes).unwrap();
        assert!(matches!(Checkpoint::load(dir.path(), &run, n, m, 12), Err(Error::Format { .. })));
        Checkpoint::remove(dir.path()).unwrap();
        assert!(Checkpoint::load(dir.path(), &run, n, m, 12).unwrap().is_none());
        Checkpoint::remove(dir.path()).unwrap();
    }

    #[test]
    fn a_warm_start_is_at_the_end_at_once_and_takes_who_is_new() {
        let data = tangled();
        let config = AlsConfig { dimensions: 12, iterations: 40, ..AlsConfig::default() };
        let mut losses = Vec::new();
        let full = fit(&data, &config, &mut |progress| {
            losses.push(progress.loss);
            ControlFlow::Continue(())
        })
        .unwrap();
        let yesterday = quietly(&data.retain_tracks(|t| t.as_str() != "t0003"), &config);
        let first_loss = |start: Start| {
            let mut loss = 0.0;
            let two = AlsConfig { iterations: 2, ..config };
            let f = fit_from(&data, &two, start, &mut |progress| {
                loss = progress.loss;
                ControlFlow::Continue(())
            });
            (loss, f.unwrap())
        };
        let (warm, f) = first_loss(Start::Warm(&yesterday));
        let (cold, _) = first_loss(Start::Random);
        let end = losses[39];
        assert!(warm - end < 0.3 * (cold - end), "{warm} {cold} {end}");
        let new = data.tracks.names().iter().position(|t| t.as_str() == "t0003").unwrap();
        assert!(f.track_factors.row(new).iter().any(|&y| y != 0.0));
        let again = first_loss(Start::Warm(&full)).0;
        assert!((again / end - 1.0).abs() < 1e-3, "{again} {end}");
        let other = AlsConfig { dimensions: 13, ..config };
        assert!(matches!(
            fit_from(&data, &other, Start::Warm(&full), &mut |_| ControlFlow::Continue(())),
            Err(Error::Mismatch { .. })
        ));
    }

    #[test]
    fn both_solvers_come_to_the_same_loss() {
        let data = tangled();
        let loss = |solver: Solver| {
            let mut loss = 0.0;
            let config =
                AlsConfig { dimensions: 8, iterations: 60, regularisation: 5.0, solver, ..AlsConfig::default() };
            let f = fit(&data, &config, &mut |progress| {
                loss = progress.loss;
                ControlFlow::Continue(())
            });
            assert!((loss / plain_loss(&data, &f.unwrap()) - 1.0).abs() < 1e-3);
            loss
        };
        let (cg, cholesky) = (loss(Solver::Cg), loss(Solver::Cholesky));
        assert!((cg / cholesky - 1.0).abs() < 2e-3, "{cg} {cholesky}");
    }

    #[test]
    fn folding_in_a_row_gives_the_row() {
        let data = tangled();
        let f = quietly(&data, &AlsConfig { dimensions: 10, ..AlsConfig::default() });
        let fold_in = f.fold_in_users();
        for user in 0..data.users.len() {
            let (tracks, confidence, preference) = data.by_user.row(user);
            let vectors = f.track_factors.select(Axis(0), &tracks.iter().map(|&t| t as usize).collect::<Vec<_>>());
            let x = fold_in.solve(vectors.view(), confidence, preference).unwrap();
            f.user_factors.row(user).iter().zip(&x).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{user}: {a} {b}"));
        }
    }

    #[test]
    fn one_user_one_song_and_more_dimensions_than_data() {
        let data = matrix(1, 1, &[(0, 0, 41.0, 1.0)]);
        let f = quietly(&data, &AlsConfig { regularisation: 0.01, ..AlsConfig::default() });
        let score = dot(f.user_factors.as_slice().unwrap(), f.track_factors.as_slice().unwrap());
        assert!((score - 1.0).abs() < 0.05, "{score}");
        let skipped = quietly(&matrix(1, 1, &[(0, 0, 41.0, 0.0)]), &AlsConfig::default());
        assert!(skipped.track_factors.iter().all(|&y| y == 0.0));
    }

    #[test]
    fn a_break_is_an_interrupt_and_bad_settings_are_refused() {
        let data = matrix(1, 1, &[(0, 0, 41.0, 1.0)]);
        let stopped = fit(&data, &AlsConfig::default(), &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        for (config, name) in [
            (AlsConfig { dimensions: 0, ..AlsConfig::default() }, "dimensions"),
            (AlsConfig { dimensions: 1 << 40, ..AlsConfig::default() }, "dimensions"),
            (AlsConfig { regularisation: 0.0, ..AlsConfig::default() }, "regularisation"),
            (AlsConfig { regularisation: f32::NAN, ..AlsConfig::default() }, "regularisation"),
            (AlsConfig { iterations: 0, ..AlsConfig::default() }, "iterations"),
        ] {
            let message = fit(&data, &config, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    /// `tests/golden/als.py` wrote it, with NumPy and the `implicit` package.
    #[derive(serde::Deserialize)]
    struct Golden {
        users: usize,
        tracks: usize,
        dimensions: usize,
        regularisation: f32,
        /// user, track, confidence, preference
        entries: Vec<(u32, u32, f32, f32)>,
        track_factors: Vec<Vec<f32>>,
        user_factors: Vec<Vec<f32>>,
        iterations: usize,
        implicit_loss: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../tests/golden/als.json")).unwrap()
    }

    #[test]
    fn half_an_iteration_equals_a_dense_solve_in_numpy() {
        let g = golden();
        let data = matrix(g.users, g.tracks, &g.entries);
        let tracks = Array2::from_shape_fn((g.tracks, g.dimensions), |(i, j)| g.track_factors[i][j]);
        // Exactly, and by conjugate gradient, in twice as many steps as there are dimensions.
        for (solver, cg_steps) in [(Solver::Cholesky, 0), (Solver::Cg, 2 * g.dimensions)] {
            let mut users = Rows::zeros(g.users, g.dimensions);
            let config = AlsConfig { dimensions: g.dimensions, solver, cg_steps, ..AlsConfig::default() };
            let ridge = Ridge::plain(g.regularisation);
            let mut turned = Rows::of(tracks.view());
            half_step(&data.by_user, &mut turned, &ridge, &config, &mut users).unwrap();
            // Conjugate gradient turns both sides: what stays are the scores.
            let expected = Array2::from_shape_fn((g.users, g.dimensions), |(i, j)| g.user_factors[i][j]);
            let (scores, expected) = (users.to_array().dot(&turned.to_array().t()), expected.dot(&tracks.t()));
            let worst = (scores - expected).iter().fold(0.0f32, |worst, x| worst.max(x.abs()));
            assert!(worst < 1e-4, "{solver:?}: {worst}");
        }
    }

    #[test]
    fn the_loss_is_within_a_percent_of_implicits() {
        let g = golden();
        let data = matrix(g.users, g.tracks, &g.entries);
        let config = AlsConfig {
            dimensions: g.dimensions,
            regularisation: g.regularisation,
            regularisation_exponent: 0.0,
            iterations: g.iterations,
            ..AlsConfig::default()
        };
        let loss = plain_loss(&data, &quietly(&data, &config));
        assert!((loss / g.implicit_loss - 1.0).abs() < 0.01, "{loss} {}", g.implicit_loss);
    }
}
