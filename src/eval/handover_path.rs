//! The path of a new song's vector as its listeners come in: the hand-over beside what it must not lose to.

use ndarray::{Array2, ArrayView2, Axis};
use serde::Serialize;

use super::cold_start::{ColdStart, ColdStartScores};
use super::split;
use crate::error::Result;
use crate::factors::Factors;
use crate::handover::{HandoverConfig, hand_over};
use crate::linalg::{gram, unit_rows};

/// The settings that [`PathSettings::tuned`] tries: after so many listeners half of the prediction is left,
const HALF_EXPOSURES: [f32; 8] = [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0];
/// and a hard switch falls at so many listeners.
const SWITCHES: [usize; 6] = [1, 2, 3, 5, 10, 20];

/// What is free in the methods that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PathSettings {
    pub handover: HandoverConfig,
    /// From so many listeners on, a hard switch serves the learned vector.
    pub switch_at: usize,
}

/// The scores of the four methods when every held-out track has so many listeners.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathPoint {
    /// Revealed listeners of each track, at most (a track that has fewer shows all).
    pub listeners: usize,
    /// Their mean over the tracks.
    pub mean_listeners: f64,
    pub content: ColdStartScores,
    pub learned: ColdStartScores,
    pub switch: ColdStartScores,
    pub handover: ColdStartScores,
}

/// The listeners that a track shows first, and what it comes to.
struct Revealed {
    /// For each track, rows of the listeners' factors, confidences and preferences, in the order in which they come.
    of_track: Vec<Vec<(usize, f32, f32)>>,
}

impl Revealed {
    /// In an order drawn by a hash of listener and track.
    fn of(task: &ColdStart, factors: &Factors) -> Revealed {
        let order = |track: usize| {
            let (users, confidence, preference) = task.revealed.row(track);
            let name = &task.tracks[track];
            let mut all: Vec<(f64, (usize, f32, f32))> = (users.iter().zip(confidence).zip(preference))
                .map(|((&user, &c), &p)| {
                    let user = user as usize;
                    // No id holds a line break, so no two pairs are joined alike.
                    let place = split(&format!("{}\n{name}", factors.users[user]), factors.config.seed);
                    (place, (user, c, p))
                })
                .collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            all.into_iter().map(|(_, evidence)| evidence).collect()
        };
        Revealed { of_track: (0..task.tracks.len()).map(order).collect() }
    }

    /// The vectors, confidences and preferences of the first `n` of a track.
    fn first(&self, track: usize, n: usize, factors: &Factors) -> (Array2<f32>, Vec<f32>, Vec<f32>) {
        let first = &self.of_track[track][..n.min(self.of_track[track].len())];
        let rows: Vec<usize> = first.iter().map(|e| e.0).collect();
        let vectors = factors.user_factors.select(Axis(0), &rows);
        (vectors, first.iter().map(|e| e.1).collect(), first.iter().map(|e| e.2).collect())
    }
}

/// The scores at each number of listeners. `predicted` `[tracks, d]` are unit vectors of the task's tracks; lists are of
/// length `k`, and every method is scored by the direction of its vectors, as it is served.
///
/// # Errors
/// As [`ColdStart::score_vectors`] and [`hand_over`].
pub fn handover_path(
    task: &ColdStart,
    factors: &Factors,
    predicted: ArrayView2<f32>,
    counts: &[usize],
    settings: &PathSettings,
    k: usize,
) -> Result<Vec<PathPoint>> {
    let revealed = Revealed::of(task, factors);
    let content = task.score_vectors(factors, predicted, k)?;
    let score = |vectors: &Array2<f32>| task.score_vectors(factors, vectors.view(), k);
    counts
        .iter()
        .map(|&n| {
            let learned = score(&learned(&revealed, factors, predicted.dim(), n)?)?;
            let switch = if n < settings.switch_at { content } else { learned };
            let shown = revealed.of_track.iter().map(|of| n.min(of.len())).sum::<usize>();
            Ok(PathPoint {
                listeners: n,
                mean_listeners: shown as f64 / revealed.of_track.len() as f64,
                content,
                learned,
                switch,
                handover: score(&handed_over(&revealed, factors, predicted, n, &settings.handover)?)?,
            })
        })
        .collect()
}

impl PathSettings {
    /// What the encoder's errors on these tracks call for: the length that its predictions deserve, and the rest such that
    /// the mean NDCG over `counts` is best. To be scored on other tracks.
    ///
    /// # Errors
    /// As [`handover_path`].
    pub fn tuned(
        task: &ColdStart,
        factors: &Factors,
        predicted: ArrayView2<f32>,
        counts: &[usize],
        k: usize,
    ) -> Result<PathSettings> {
        let revealed = Revealed::of(task, factors);
        let content = task.score_vectors(factors, predicted, k)?.ndcg.mean;
        let ndcg = |vectors: &Array2<f32>| Ok(task.score_vectors(factors, vectors.view(), k)?.ndcg.mean);
        let learned: Vec<f64> =
            counts.iter().map(|&n| ndcg(&learned(&revealed, factors, predicted.dim(), n)?)).collect::<Result<_>>()?;
        let switched = |at: usize| -> f64 {
            counts.iter().zip(&learned).map(|(&n, &learned)| if n < at { content } else { learned }).sum()
        };
        let switch_at = SWITCHES.into_iter().max_by(|&a, &b| switched(a).total_cmp(&switched(b)).then(b.cmp(&a)));
        let mut best = (f64::NEG_INFINITY, HandoverConfig::default());
        // The regression of what all revealed listeners teach on what was predicted.
        let known = task.ceiling(factors)?;
        let along = (&known * &predicted).sum() / known.nrows() as f32;
        let prediction_length = (along / factors.typical_norm()).clamp(0.0, 1.0);
        for half_exposure in HALF_EXPOSURES {
            let config = HandoverConfig { prediction_length, half_exposure };
            let mut sum = 0.0;
            for &n in counts {
                sum += ndcg(&handed_over(&revealed, factors, predicted, n, &config)?)?;
            }
            if sum > best.0 {
                best = (sum, config);
            }
        }
        Ok(PathSettings { handover: best.1, switch_at: switch_at.expect("there are switches to choose from") })
    }
}

/// Learned from the first `n` listeners alone, at unit length; zero where nothing is known.
fn learned(revealed: &Revealed, factors: &Factors, shape: (usize, usize), n: usize) -> Result<Array2<f32>> {
    let fold_in = factors.fold_in_tracks();
    let mut vectors = Array2::zeros(shape);
    for (track, mut to) in vectors.outer_iter_mut().enumerate() {
        let (listeners, confidence, preference) = revealed.first(track, n, factors);
        to.assign(
            &ArrayView2::from_shape((1, shape.1), &fold_in.solve(listeners.view(), &confidence, &preference)?)
                .expect("a row of d numbers")
                .row(0),
        );
    }
    Ok(unit_rows(vectors))
}

fn handed_over(
    revealed: &Revealed,
    factors: &Factors,
    predicted: ArrayView2<f32>,
    n: usize,
    config: &HandoverConfig,
) -> Result<Array2<f32>> {
    let gram = gram(factors.user_factors.view());
    let length = config.prediction_length * factors.typical_norm();
    let mut vectors = Array2::zeros(predicted.dim());
    for (track, mut to) in vectors.outer_iter_mut().enumerate() {
        let scaled: Vec<f32> = predicted.row(track).iter().map(|y| y * length).collect();
        let (listeners, confidence, preference) = revealed.first(track, n, factors);
        let ridge = factors.track_ridge.at(confidence.len());
        let y = hand_over(&scaled, gram.view(), ridge, listeners.view(), &confidence, &preference, config)?;
        to.iter_mut().zip(y).for_each(|(to, y)| *to = y);
    }
    Ok(unit_rows(vectors))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::eval::hold_out;
    use crate::events::{Action, ConfidenceConfig, Event, interactions};
    use crate::factors::{AlsConfig, fit};
    use crate::ids::{TrackId, UserId};

    /// Two crowds, each with its own tracks; a fifth of the tracks are new.
    fn two_crowds() -> (Factors, ColdStart) {
        let mut events = Vec::new();
        for user in 0..300u32 {
            for track in 0..100u32 {
                let h = (user * 100 + track).wrapping_mul(2_654_435_761) >> 16;
                if if user % 2 == track % 2 { h % 100 < 30 } else { h % 100 < 2 } {
                    events.push(Event {
                        time: 0,
                        user: UserId::new(format!("user {user}")).unwrap(),
                        track: TrackId::new(format!("track {track}")).unwrap(),
                        action: Action::Play,
                        value: 1.0,
                    });
                }
            }
        }
        let data = interactions(events.into_iter(), &ConfidenceConfig::default(), None).unwrap();
        let config = AlsConfig { dimensions: 8, regularisation: 3.0, ..AlsConfig::default() };
        let parts = hold_out(&data, 0.2, 1).unwrap();
        let factors = fit(&parts.train, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let task = ColdStart::new(&factors, &parts.held_out, 1).unwrap();
        (factors, task)
    }

    const COUNTS: [usize; 5] = [0, 1, 5, 20, 1000];

    #[test]
    fn the_path_begins_at_the_prediction_and_ends_at_what_was_learned() {
        let (factors, task) = two_crowds();
        let ceiling = unit_rows(task.ceiling(&factors).unwrap());
        // A good prediction, one that is wrong everywhere, and one that knows nothing.
        let wrong = ceiling.mapv(|y| -y);
        for (predicted, good) in [(&ceiling, true), (&wrong, false)] {
            let settings = PathSettings::tuned(&task, &factors, predicted.view(), &COUNTS, 10).unwrap();
            let path = handover_path(&task, &factors, predicted.view(), &COUNTS, &settings, 10).unwrap();
            let (first, last) = (&path[0], &path[4]);
            if good {
                assert_eq!(first.handover.ndcg, first.content.ndcg);
            }
            assert_eq!(first.mean_listeners, 0.0);
            assert!((last.handover.ndcg.mean - last.learned.ndcg.mean).abs() < 0.02, "{last:?}");
            assert_eq!(last.switch.ndcg, last.learned.ndcg);
            assert!(last.learned.ndcg.mean > 0.5 && last.mean_listeners > 10.0);
            assert_eq!(first.content.ndcg.mean > 0.5, good);
        }
    }

    #[test]
    fn a_prediction_gets_the_length_that_it_deserves() {
        let (factors, task) = two_crowds();
        let ceiling = unit_rows(task.ceiling(&factors).unwrap());
        let length = |predicted: &Array2<f32>| {
            let tuned = PathSettings::tuned(&task, &factors, predicted.view(), &COUNTS, 10).unwrap();
            tuned.handover.prediction_length
        };
        let (right, wrong) = (length(&ceiling), length(&ceiling.mapv(|y| -y)));
        let half_right = length(&unit_rows(Array2::from_shape_fn(ceiling.dim(), |(i, j)| {
            ceiling[[i, j]] * if i % 2 == 0 { 1.0 } else { -1.0 }
        })));
        assert!(right > 0.5 && wrong == 0.0 && half_right < 0.5 * right, "{right} {half_right} {wrong}");
    }
}
