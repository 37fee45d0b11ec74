//! Tonight's factors in last night's space. Two factorisations of nearly the same data are near each other but for a
//! rotation, which the loss does not see; the rotation that brings them together is the orthogonal Procrustes problem.

use std::f64::consts::FRAC_PI_2;

use ndarray::{Array2, ArrayView2, Axis};
use serde::Serialize;

use super::Factors;
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::ids::{Ids, TrackId};
use crate::linalg::orthogonalise;

/// Below this cosine a track has moved: its neighbours are no longer those it had.
const MOVED: f32 = 0.8;

/// How far the shared tracks are from where they were. Cosines are of the vectors that are not zero on either side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Tracks that both factorisations have, with vectors that are not zero.
    pub shared: usize,
    /// The mean cosine of a track's two vectors, before the rotation: near 0 for independent starts.
    pub cosine_before: f64,
    /// And after it: 1 where nothing changed.
    pub cosine_after: f64,
    /// `‖YR − Y′‖ / ‖Y′‖` (Frobenius) over the shared tracks, `Y′` the previous vectors: 0 where nothing changed.
    pub residual: f64,
    /// The share of tracks whose cosine after the rotation is below 0.8.
    pub moved: f64,
}

impl Factors {
    /// Rotates listeners and tracks into the space of `previous`, by the tracks that both have; scores do not change.
    ///
    /// The space has the name of `previous` where its tracks cannot have gone further from those that it was named after
    /// than `config.same_space` allows: models and vectors of it then serve as before. Otherwise it gets a name of its own.
    ///
    /// Cost grows with the cube of the dimensions: 0.15 s at 256.
    ///
    /// # Errors
    /// `Mismatch` where the dimensions differ, or fewer tracks than dimensions are shared; then nothing is changed.
    pub fn align(&mut self, previous: &Factors) -> Result<Drift> {
        let d = self.dimensions();
        if previous.dimensions() != d {
            let found = format!("{} before", previous.dimensions());
            return Err(Error::mismatch("factors to align", format!("{d} dimensions"), found));
        }
        let numbers: Ids<TrackId> = self.tracks.iter().cloned().collect();
        let has_direction = |rows: &Array2<f32>, row: usize| rows.row(row).iter().any(|&x| x != 0.0);
        let (now, then): (Vec<usize>, Vec<usize>) = (previous.tracks.iter().enumerate())
            .filter_map(|(then, track)| Some((numbers.number(track)? as usize, then)))
            .filter(|&(now, then)| {
                has_direction(&self.track_factors, now) && has_direction(&previous.track_factors, then)
            })
            .unzip();
        if now.len() < d {
            return Err(Error::mismatch("factors to align", format!("{d} shared tracks or more"), now.len()));
        }
        let (a, b) = (self.track_factors.select(Axis(0), &now), previous.track_factors.select(Axis(0), &then));
        let rotation = procrustes(a.view(), b.view())?;
        let turned = a.dot(&rotation);
        let (before, after) = (cosines(a.view(), b.view()), cosines(turned.view(), b.view()));
        let mean = |cosines: &[f32]| cosines.iter().map(|&c| f64::from(c)).sum::<f64>() / cosines.len() as f64;
        let squares = |rows: &Array2<f32>| rows.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let drift = Drift {
            shared: now.len(),
            cosine_before: mean(&before),
            cosine_after: mean(&after),
            residual: (squares(&(&turned - &b)) / squares(&b)).sqrt(),
            moved: after.iter().filter(|&&c| c < MOVED).count() as f64 / after.len() as f64,
        };
        self.user_factors = self.user_factors.dot(&rotation);
        self.track_factors = self.track_factors.dot(&rotation);
        // Angles add up, at worst.
        let wandered = previous.wandered + drift.cosine_after.clamp(-1.0, 1.0).acos();
        if wandered < FRAC_PI_2 && wandered.cos() > self.config.same_space {
            (self.space, self.wandered) = (previous.space.clone(), wandered);
        } else {
            let names = [self.space.as_str().as_bytes(), previous.space.as_str().as_bytes()];
            (self.space, self.wandered) = (SpaceId::of(&[b"aligned", names[0], names[1]]), 0.0);
        }
        Ok(drift)
    }
}

/// Of each pair of rows.
fn cosines(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Vec<f32> {
    let cosine = |(a, b): (ndarray::ArrayView1<f32>, ndarray::ArrayView1<f32>)| {
        a.dot(&b) / (a.dot(&a).sqrt() * b.dot(&b).sqrt())
    };
    a.rows().into_iter().zip(b.rows()).map(cosine).collect()
}

/// Rows whose products are summed in one go: a block of 1024 × 256 doubles is 2 MiB.
const BLOCK: usize = 1024;

/// The orthogonal matrix `R` `[d, d]` (a rotation, with a reflection where that fits better) for which `‖AR − B‖` is
/// smallest, of `A` and `B` `[n, d]`: with the singular value decomposition `AᵀB = UΣVᵀ` it is `UVᵀ` (P. Schönemann, "A
/// generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966).
///
/// # Errors
/// `Mismatch` of shapes; `Invalid` where the numbers are not finite.
pub fn procrustes(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Result<Array2<f32>> {
    if a.dim() != b.dim() {
        return Err(Error::mismatch("matrices to align", format!("{:?}", a.dim()), format!("{:?}", b.dim())));
    }
    let d = a.ncols();
    // BᵀA, whose rows are the columns of AᵀB: those are what the decomposition turns, so they are kept contiguous.
    let mut columns = Array2::<f64>::zeros((d, d));
    for (a, b) in a.axis_chunks_iter(Axis(0), BLOCK).zip(b.axis_chunks_iter(Axis(0), BLOCK)) {
        columns += &b.mapv(f64::from).t().dot(&a.mapv(f64::from));
    }
    if columns.iter().any(|x| !x.is_finite()) {
        return Err(Error::invalid("matrices to align", "finite numbers", "overflow or NaN in their product"));
    }
    let (u, v) = polar(columns)?;
    Ok(u.t().dot(&v).mapv(|x| x as f32))
}

/// Singular values below this share of the largest are the rounding of f32 factors, not a direction that both share.
const RANK: f64 = 1e-6;

/// The singular vectors of the matrix with these `columns` (each a row here): `U` and `V`, a vector a row, by turning
/// the columns until all are orthogonal. Where the matrix lacks a direction, its left vector is as near to the right one as may be,
/// so that nothing turns without evidence.
fn polar(mut columns: Array2<f64>) -> Result<(Array2<f64>, Array2<f64>)> {
    let d = columns.nrows();
    let mut v = Array2::<f64>::eye(d);
    orthogonalise(&mut columns, &mut v, f64::EPSILON * d as f64)?;
    let values: Vec<f64> = columns.rows().into_iter().map(|column| column.dot(&column).sqrt()).collect();
    let largest = values.iter().copied().fold(0.0, f64::max);
    let mut u = columns;
    let mut known = Vec::with_capacity(d);
    for (i, &value) in values.iter().enumerate() {
        if value > RANK * largest {
            u.row_mut(i).mapv_inplace(|x| x / value);
            known.push(i);
        }
    }
    for i in (0..d).filter(|&i| values[i] <= RANK * largest) {
        let right = v.row(i).to_owned();
        // Among right vector and axes, one keeps its share of what is left: the axes alone span the space, so of the
        // best of them at least 1/d is outside of what is known.
        let axes = (0..d).map(|axis| ndarray::Array1::from_shape_fn(d, |j| f64::from(u8::from(j == axis))));
        let outside = std::iter::once(right).chain(axes).find_map(|mut candidate| {
            // Twice is enough (Kahan; Parlett, *The Symmetric Eigenvalue Problem*, section 6.9).
            for _ in 0..2 {
                for &j in &known {
                    let share = candidate.dot(&u.row(j));
                    candidate.scaled_add(-share, &u.row(j));
                }
            }
            let length = candidate.dot(&candidate).sqrt();
            (length * length > 0.5 / d as f64).then(|| candidate / length)
        });
        u.row_mut(i).assign(&outside.expect("an axis outside of fewer than d directions"));
        known.push(i);
    }
    Ok((u, v))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::events::ConfidenceConfig;
    use crate::factors::{AlsConfig, Ridge};
    use crate::ids::UserId;

    fn random(n: usize, d: usize, seed: u64) -> Array2<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((n, d), || random.random_range(-1.0f32..1.0))
    }

    /// An orthogonal matrix, by Gram and Schmidt; with a reflection for some seeds.
    fn orthogonal(d: usize, seed: u64) -> Array2<f32> {
        let mut q = random(d, d, seed).mapv(f64::from);
        for i in 0..d {
            for _ in 0..2 {
                for j in 0..i {
                    let share = q.row(i).dot(&q.row(j));
                    let other = q.row(j).to_owned();
                    q.row_mut(i).scaled_add(-share, &other);
                }
            }
            let length = q.row(i).dot(&q.row(i)).sqrt();
            q.row_mut(i).mapv_inplace(|x| x / length);
        }
        q.mapv(|x| x as f32)
    }

    fn factors(tracks: Array2<f32>, users: Array2<f32>) -> Factors {
        Factors {
            space: SpaceId::of(&[b"test"]),
            wandered: 0.0,
            config: AlsConfig::default(),
            confidence: ConfidenceConfig::default(),
            user_ridge: Ridge::plain(1.0),
            track_ridge: Ridge::plain(1.0),
            users: (0..users.nrows()).map(|i| UserId::new(format!("u{i}")).unwrap()).collect(),
            user_factors: users,
            tracks: (0..tracks.nrows()).map(|i| TrackId::new(format!("t{i}")).unwrap()).collect(),
            plays: vec![1; tracks.nrows()],
            track_factors: tracks,
            held_out: Vec::new(),
        }
    }

    fn worst(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
        (a - b).iter().fold(0.0, |worst, x| worst.max(x.abs()))
    }

    #[test]
    fn a_known_rotation_is_undone_and_scores_stay() {
        for (d, seed) in [(1, 1), (2, 2), (7, 3), (40, 4), (256, 5)] {
            let now = factors(random(3 * d + 5, d, seed), random(30, d, seed + 10));
            let turn = orthogonal(d, seed + 20);
            let mut then = factors(now.track_factors.dot(&turn), random(4, d, 0));
            // Other tracks before and behind, in another order, and one without a direction.
            then.tracks.rotate_left(2);
            then.track_factors = ndarray::concatenate![
                Axis(0),
                then.track_factors.slice(ndarray::s![2.., ..]),
                then.track_factors.slice(ndarray::s![..2, ..])
            ];
            then.tracks[0] = TrackId::new("gone").unwrap();
            then.space = SpaceId::of(&[b"then"]);
            then.track_factors.row_mut(1).fill(0.0);
            let mut aligned = now.clone();
            let drift = aligned.align(&then).unwrap();
            assert_eq!(drift.shared, 3 * d + 3);
            assert!(drift.residual < 1e-5 && drift.cosine_after > 0.99999 && drift.moved == 0.0, "{d}: {drift:?}");
            assert!(d < 7 || drift.cosine_before.abs() < 0.5, "{d}: {drift:?}");
            assert!(worst(&aligned.track_factors, &now.track_factors.dot(&turn)) < 1e-4, "{d}");
            let score = |f: &Factors| f.user_factors.dot(&f.track_factors.t());
            assert!(worst(&score(&aligned), &score(&now)) < 1e-4 * d as f32, "{d}");
            assert_eq!(aligned.space, then.space);
        }
    }

    #[test]
    fn a_space_keeps_its_name_until_refits_may_have_led_too_far_from_it() {
        let noisy = |rows: &Array2<f32>, seed: u64| rows + random(rows.nrows(), rows.ncols(), seed) * 0.25;
        let mut last = factors(random(500, 12, 1), random(3, 12, 2));
        let first = last.clone();
        let mut names = vec![last.space.clone()];
        for night in 0..12 {
            let mut next =
                factors(noisy(&last.track_factors, night + 10).dot(&orthogonal(12, night)), random(3, 12, 3));
            next.space = SpaceId::of(&[&night.to_le_bytes()]);
            let drift = next.align(&last).unwrap();
            assert!((0.9..0.99).contains(&drift.cosine_after), "{drift:?}");
            if next.space == first.space {
                // The promise, measured.
                let cosines = cosines(next.track_factors.view(), first.track_factors.view());
                let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
                assert!(f64::from(mean) >= next.config.same_space, "{night}: {mean}");
            }
            if *names.last().unwrap() != next.space {
                assert_eq!(next.wandered, 0.0);
                names.push(next.space.clone());
            }
            last = next;
        }
        assert!((3..12).contains(&names.len()), "{names:?}");
        let never = AlsConfig { same_space: 1.0, ..AlsConfig::default() };
        let mut next = Factors { config: never, ..factors(noisy(&first.track_factors, 9), random(3, 12, 2)) };
        next.align(&first).unwrap();
        assert_ne!(next.space, first.space);
    }

    #[test]
    fn with_noise_it_is_the_best_rotation() {
        let (n, d) = (500, 12);
        let (a, turn) = (random(n, d, 1), orthogonal(d, 2));
        let b = a.dot(&turn) + random(n, d, 3) * 0.2;
        let found = procrustes(a.view(), b.view()).unwrap();
        assert!(worst(&found.t().dot(&found), &Array2::eye(d)) < 1e-5);
        assert!(worst(&found, &turn) < 0.05, "{}", worst(&found, &turn));
        let miss = |r: &Array2<f32>| (a.dot(r) - &b).iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let best = miss(&found);
        assert!(best < miss(&turn));
        // Turned a little in any plane, it is worse.
        for (i, j, angle) in [(0, 1, 0.02f32), (3, 7, -0.02), (10, 11, 0.05), (2, 9, -0.05)] {
            let mut little = Array2::<f32>::eye(d);
            (little[[i, i]], little[[j, j]]) = (angle.cos(), angle.cos());
            (little[[i, j]], little[[j, i]]) = (angle.sin(), -angle.sin());
            assert!(miss(&found.dot(&little)) > best, "{i} {j}");
        }
    }

    #[test]
    fn what_is_not_seen_does_not_turn() {
        // Tracks of three directions out of eight.
        let (basis, turn) = (random(3, 8, 1), orthogonal(8, 2));
        let a = random(100, 3, 3).dot(&basis);
        let found = procrustes(a.view(), a.dot(&turn).view()).unwrap();
        assert!(worst(&found.t().dot(&found), &Array2::eye(8)) < 1e-5);
        assert!(worst(&a.dot(&found), &a.dot(&turn)) < 1e-4);
        let still = procrustes(a.view(), a.view()).unwrap();
        assert!(worst(&still, &Array2::eye(8)) < 1e-4, "{still}");
        let zero = Array2::zeros((9, 8));
        assert_eq!(procrustes(zero.view(), zero.view()).unwrap(), Array2::<f32>::eye(8));
    }

    #[test]
    fn tracks_that_moved_are_counted() {
        let (n, d) = (400, 16);
        let now = factors(random(n, d, 1), random(3, d, 2));
        let mut then = now.clone();
        then.track_factors = then.track_factors.dot(&orthogonal(d, 3));
        // A tenth of the tracks is where nobody expects it.
        then.track_factors.slice_mut(ndarray::s![..40, ..]).assign(&random(40, d, 4));
        let drift = now.clone().align(&then).unwrap();
        assert!((0.08..=0.1).contains(&drift.moved), "{drift:?}");
        assert!((0.85..0.95).contains(&drift.cosine_after) && (0.2..0.6).contains(&drift.residual), "{drift:?}");
    }

    #[test]
    fn too_few_tracks_and_other_dimensions_are_refused_and_nothing_changes() {
        let now = factors(random(20, 8, 1), random(3, 8, 2));
        let mut few = now.clone();
        few.tracks.iter_mut().skip(7).for_each(|t| *t = TrackId::new(format!("other {t}")).unwrap());
        for then in [few, factors(random(20, 7, 1), random(3, 7, 2))] {
            let mut unchanged = now.clone();
            let message = unchanged.align(&then).unwrap_err().to_string();
            assert!(message.contains("found 7"), "{message}");
            assert_eq!((unchanged.track_factors, unchanged.space), (now.track_factors.clone(), now.space.clone()));
        }
        let bad = Array2::from_elem((9, 2), f32::NAN);
        assert!(procrustes(bad.view(), bad.view()).is_err());
        assert!(procrustes(random(9, 2, 1).view(), random(8, 2, 1).view()).is_err());
    }
}
