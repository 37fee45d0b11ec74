//! Implicit alternating least squares: Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
//! ICDM 2008, every row solved exactly.

use std::ops::ControlFlow;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{AlsConfig, Factors, Ridge};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::events::{Csr, Interactions};
use crate::linalg::{WeightedRidge, gram, norm};

/// Rows that one task solves: enough to pay for the task, few enough that one popular track delays nobody.
const ROWS_PER_TASK: usize = 16;

/// Factorises `data`. After each iteration, `progress` gets its number (from 1) and the loss
///
/// ```text
/// Σ_{all pairs} c (p − x·y)² + Σ λ‖x‖² + Σ λ‖y‖²        (Hu et al., equation 3)
/// ```
///
/// which never rises but for rounding. At the end the listeners are solved once more, so that each is exactly what
/// [`FoldIn`](super::FoldIn) makes of the same history and the final tracks.
///
/// # Errors
/// `Invalid` for a setting out of range; `Interrupted` where `progress` breaks.
pub fn fit(
    data: &Interactions,
    config: &AlsConfig,
    progress: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Factors> {
    config.check()?;
    let d = config.dimensions;
    let by_user = &data.by_user;
    let by_track = by_user.transpose();
    let (user_ridge, track_ridge) = (Ridge::of(config, by_user), Ridge::of(config, &by_track));
    // Σ c p²: the loss of predicting 0 everywhere.
    let row = |i| std::iter::zip(by_user.row(i).1, by_user.row(i).2);
    let nothing: f64 = (0..by_user.rows()).flat_map(row).map(|(&c, &p)| f64::from(c * p) * f64::from(p)).sum();
    let mut users = Array2::zeros((by_user.rows(), d));
    let mut tracks = random_start(by_track.rows(), d, config.seed);
    for iteration in 1..=config.iterations {
        half_step(by_user, tracks.view(), &user_ridge, &mut users)?;
        let lowered = half_step(&by_track, users.view(), &track_ridge, &mut tracks)?;
        // With the listeners fixed, the loss is a sum of one quadratic per track. At its minimum y = A⁻¹b a quadratic
        // is b·y below its value at 0, so the exact loss costs one product per track and no pass over the data.
        let loss = nothing - lowered + penalty(by_user, users.view(), &user_ridge);
        if progress(iteration, loss).is_break() {
            return Err(Error::Interrupted);
        }
    }
    half_step(by_user, tracks.view(), &user_ridge, &mut users)?;
    let settings = format!("{config:?} {:?}", data.config);
    Ok(Factors {
        space: SpaceId::of(&[settings.as_bytes(), &digest(&users), &digest(&tracks)]),
        config: *config,
        confidence: data.config,
        user_ridge,
        track_ridge,
        users: data.users.names().to_vec(),
        user_factors: users,
        tracks: data.tracks.names().to_vec(),
        track_factors: tracks,
        plays: data.plays.clone(),
        held_out: Vec::new(),
    })
}

/// Solves every row of one side with the `other` side `[columns, d]` fixed, in place; returns by how much the rows
/// together lower the loss.
pub(super) fn half_step(side: &Csr, other: ArrayView2<f32>, ridge: &Ridge, rows: &mut Array2<f32>) -> Result<f64> {
    let d = other.ncols();
    let gram = gram(other);
    let solve_rows = |solver: &mut WeightedRidge, (task, mut rows): (usize, ndarray::ArrayViewMut2<f32>)| {
        let mut lowered = 0.0;
        for (i, mut row) in rows.rows_mut().into_iter().enumerate() {
            let row_number = task * ROWS_PER_TASK + i;
            let (columns, confidence, preference) = side.row(row_number);
            let entries = (columns.iter().zip(confidence).zip(preference)).map(|((&column, &c), &p)| {
                (other.row(column as usize).to_slice().expect("rows of factors are contiguous"), c, p)
            });
            let (solution, by) = solver.solve(gram.view(), ridge.at(columns.len()), entries)?;
            row.iter_mut().zip(solution).for_each(|(x, s)| *x = *s);
            lowered += by;
        }
        Ok(lowered)
    };
    let tasks: Vec<f64> = (rows.axis_chunks_iter_mut(Axis(0), ROWS_PER_TASK).into_par_iter().enumerate())
        .map_init(|| WeightedRidge::new(d), solve_rows)
        .collect::<Result<_>>()?;
    // Summed in the order of the rows: the same bits whatever the number of threads.
    Ok(tasks.iter().sum())
}

/// `Σ λ‖x‖²`
fn penalty(side: &Csr, rows: ArrayView2<f32>, ridge: &Ridge) -> f64 {
    let row_penalty = |(i, row): (usize, ndarray::ArrayView1<f32>)| {
        let length = f64::from(norm(row.to_slice().expect("rows of factors are contiguous")));
        f64::from(ridge.at(side.row_len(i))) * length * length
    };
    rows.rows().into_iter().enumerate().map(row_penalty).sum()
}

/// Uniform in ±0.1/√d: small against the factors to come, so that the first solve of the listeners sees mostly who
/// met what, and nothing depends on it but the rotation.
fn random_start(n: usize, d: usize, seed: u64) -> Array2<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = 0.1 / (d as f32).sqrt();
    Array2::from_shape_simple_fn((n, d), || random.random_range(-width..width))
}

/// The BLAKE3 hash of all numbers, row by row, little-endian.
fn digest(array: &Array2<f32>) -> [u8; 32] {
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
    use crate::events::ConfidenceConfig;
    use crate::ids::{Ids, TrackId, UserId};
    use crate::linalg::dot;

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
        fit(data, config, &mut |_, _| ControlFlow::Continue(())).unwrap()
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
            let config =
                AlsConfig { dimensions: 8, iterations: 12, regularisation: 0.5, regularisation_exponent, seed: 3 };
            let mut losses = Vec::new();
            let f = fit(&data, &config, &mut |iteration, loss| {
                losses.push(loss);
                assert_eq!(iteration, losses.len());
                ControlFlow::Continue(())
            })
            .unwrap();
            losses.windows(2).for_each(|w| assert!(w[1] <= w[0] * (1.0 + 1e-6), "{losses:?}"));
            // The last reported loss is of the listeners before the final solve; run that solve's predecessor again.
            let one_less =
                fit(&data, &AlsConfig { iterations: 11, ..config }, &mut |_, _| ControlFlow::Continue(())).unwrap();
            let half = Factors { user_factors: one_less.user_factors, ..f.clone() };
            let plain = plain_loss(&data, &half);
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
                let f = fit(&data, &config, &mut |_, loss| {
                    losses.push(loss);
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
        let stopped = fit(&data, &AlsConfig::default(), &mut |_, _| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        for (config, name) in [
            (AlsConfig { dimensions: 0, ..AlsConfig::default() }, "dimensions"),
            (AlsConfig { dimensions: 1 << 40, ..AlsConfig::default() }, "dimensions"),
            (AlsConfig { regularisation: 0.0, ..AlsConfig::default() }, "regularisation"),
            (AlsConfig { regularisation: f32::NAN, ..AlsConfig::default() }, "regularisation"),
            (AlsConfig { iterations: 0, ..AlsConfig::default() }, "iterations"),
        ] {
            let message = fit(&data, &config, &mut |_, _| ControlFlow::Continue(())).unwrap_err().to_string();
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
        let mut users = Array2::zeros((g.users, g.dimensions));
        half_step(&data.by_user, tracks.view(), &Ridge::plain(g.regularisation), &mut users).unwrap();
        for ((i, j), x) in users.indexed_iter() {
            assert!((x - g.user_factors[i][j]).abs() < 1e-4, "{i} {j}: {x} {}", g.user_factors[i][j]);
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
            seed: 1,
        };
        let loss = plain_loss(&data, &quietly(&data, &config));
        assert!((loss / g.implicit_loss - 1.0).abs() < 0.01, "{loss} {}", g.implicit_loss);
    }
}
