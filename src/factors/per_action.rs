//! The other way to use several actions: a factorisation for each kind of them, where [`fit`](super::fit) has one
//! matrix for all.
//!
//! With the parts' factors `xₐ`, `yₐ` and weights `wₐ` (of sum 1), a listener and a track have the vectors
//!
//! ```text
//! x = [√w₁ x₁ … √wₙ xₙ]      y = [√w₁ y₁ … √wₙ yₙ]      so that x·y = Σ wₐ xₐ·yₐ
//! ```
//!
//! The score is the mean of what the parts expect, 1 for a sure success as in every part. So the whole is a space like any
//! other, of more dimensions: the encoder regresses it (each part a block of its output), the index searches it. Who
//! folds in later, listener or track, is solved against all dimensions at once with the evidence of all actions merged:
//! for two parts that are the same this is the fold-in of one, and a listener then needs no vector per action.
//!
//! On real logs one matrix for all was as good or better (`benches/README.md`), at the cost of one fit: it is the default.

use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};

use super::{AlsConfig, Factors, MAX_DIMENSIONS, Ridge};
use crate::artefact::SpaceId;
use crate::error::{Error, Result};
use crate::events::{ConfidenceConfig, Interactions};
use crate::ids::Ids;

/// A factorisation for each kind of action: the weight of its scores beside the others', 0 for none. All are 0, the
/// default: one factorisation for all actions. Each has [`AlsConfig::dimensions`] of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerAction {
    /// Of plays, completes and skips: what was heard.
    pub play: f32,
    /// Of likes and dislikes, as far as not taken back.
    pub like: f32,
    /// Of adds, listeners' and playlists', as far as not taken back.
    pub add: f32,
}

/// One of the factorisations to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// As the setting is called.
    pub name: &'static str,
    /// Those of all parts sum to 1.
    pub weight: f32,
    /// The confidence of its actions alone. The limits (cap, minimums) are not its own: see [`Interactions::within`].
    pub confidence: ConfidenceConfig,
}

impl PerAction {
    /// # Errors
    /// `Invalid` for a weight that is negative or not a number.
    pub fn check(&self) -> Result<()> {
        for (name, weight) in [("play", self.play), ("like", self.like), ("add", self.add)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::invalid(format!("per_action.{name}"), "a finite number, 0 or more", weight));
            }
        }
        Ok(())
    }

    /// The factorisations to be made where `all` weighs the actions; none where there is one for all.
    pub fn parts(&self, all: &ConfidenceConfig) -> Vec<Part> {
        let none = ConfidenceConfig {
            play: 0.0,
            complete: 0.0,
            skip: 0.0,
            like: 0.0,
            dislike: 0.0,
            add: 0.0,
            playlist: 0.0,
            max_tracks_per_user: 0,
            min_users_per_track: 0,
            min_tracks_per_user: 0,
            ..*all
        };
        // Of three finite numbers, without overflow.
        let sum = [self.play, self.like, self.add].map(f64::from).iter().sum::<f64>();
        let heard = ConfidenceConfig { play: all.play, complete: all.complete, skip: all.skip, ..none };
        let marked = ConfidenceConfig { like: all.like, dislike: all.dislike, ..none };
        let added = ConfidenceConfig { add: all.add, playlist: all.playlist, ..none };
        [("play", self.play, heard), ("like", self.like, marked), ("add", self.add, added)]
            .into_iter()
            .filter(|(_, weight, _)| *weight > 0.0)
            .map(|(name, weight, confidence)| Part { name, weight: (f64::from(weight) / sum) as f32, confidence })
            .collect()
    }
}

impl Part {
    /// Of the `matrix` of its actions what is to be factorised beside `all`.
    ///
    /// # Errors
    /// `Invalid` where nothing is left.
    pub fn of(&self, matrix: &Interactions, all: &Interactions) -> Result<Interactions> {
        let data = matrix.within(all);
        if data.by_user.is_empty() {
            let expected = "at least one within the limits and not held out";
            return Err(Error::invalid(format!("events for per_action.{}", self.name), expected, "none"));
        }
        Ok(data)
    }
}

impl Factors {
    /// The factorisations `parts`, each with its weight, as one of all that `all` holds (see the head of this file).
    /// Zero are the vectors of listeners and tracks that no part knows, and the blocks of the parts that do not know
    /// them; what only a part knows is left out. One part of weight 1 that knows all is itself, under another name.
    ///
    /// # Errors
    /// `Invalid` where there is no part, or they have more than [`MAX_DIMENSIONS`] together.
    pub fn concatenate(all: &Interactions, config: &AlsConfig, parts: &[(f32, Factors)]) -> Result<Factors> {
        let dimensions = parts.iter().map(|(_, part)| part.dimensions()).sum();
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let expected = format!("1 to {MAX_DIMENSIONS} for all parts together");
            return Err(Error::invalid("als.dimensions", expected, dimensions));
        }
        let mut user_factors = Array2::zeros((all.users.len(), dimensions));
        let mut track_factors = Array2::zeros((all.tracks.len(), dimensions));
        let mut name = format!("{config:?} {:?}", all.config);
        let mut from = 0;
        for (weight, part) in parts {
            let block = s![.., from..from + part.dimensions()];
            place(&part.users, &part.user_factors, weight.sqrt(), &all.users, user_factors.slice_mut(block));
            place(&part.tracks, &part.track_factors, weight.sqrt(), &all.tracks, track_factors.slice_mut(block));
            from += part.dimensions();
            name.push_str(&format!(" {weight} {}", part.space));
        }
        Ok(Factors {
            wandered: 0.0,
            space: SpaceId::of(&[name.as_bytes()]),
            config: AlsConfig { dimensions, ..*config },
            confidence: all.config,
            user_ridge: Ridge::of(config, &all.by_user),
            track_ridge: Ridge::of(config, &all.by_user.transpose()),
            users: all.users.names().to_vec(),
            user_factors,
            tracks: all.tracks.names().to_vec(),
            track_factors,
            plays: all.plays.clone(),
            held_out: Vec::new(),
        })
    }
}

/// Copies the rows of `factors`, times `scale`, to where `all` has their names.
fn place<I: Clone + Eq + std::hash::Hash>(
    names: &[I],
    factors: &Array2<f32>,
    scale: f32,
    all: &Ids<I>,
    mut block: ndarray::ArrayViewMut2<f32>,
) {
    for (name, factor) in names.iter().zip(factors.rows()) {
        if let Some(row) = all.number(name) {
            block.row_mut(row as usize).zip_mut_with(&factor, |to, from| *to = scale * from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::events::{Action, Event, EventsConfig, InteractionsBuilder};
    use crate::factors::fit;
    use crate::ids::{TrackId, UserId};

    const ALS: AlsConfig = AlsConfig {
        dimensions: 6,
        regularisation: 1.0,
        regularisation_exponent: 1.0,
        iterations: 8,
        solver: crate::factors::Solver::Cholesky,
        cg_steps: 3,
        same_space: 0.9,
        seed: 1,
    };

    /// Everybody plays anything, and likes and adds what is of his own of four tastes. Some never like, and some tracks
    /// nobody adds.
    fn events() -> Vec<Event> {
        let mut events = Vec::new();
        for i in 0..6000u32 {
            let h = i.wrapping_mul(2_654_435_761) >> 7;
            let (user, any) = (h % 120, h / 120 % 60);
            let own = any / 4 * 4 + user % 4;
            let (track, action) = match h / 7200 % 10 {
                0..6 => (any, Action::Play),
                6 => (any, Action::Skip),
                7 if user < 100 => (own, Action::Like),
                8 if own < 50 => (own, Action::Add),
                _ => (any, Action::Play),
            };
            let user = UserId::new(format!("u{user:03}")).unwrap();
            let track = TrackId::new(format!("t{track:02}")).unwrap();
            events.push(Event { time: i64::from(h % 1000) * 86_400, user, track, action, value: 1.0 });
        }
        events
    }

    /// The matrix of all actions, and the parts fitted.
    fn fitted(
        weights: &PerAction,
        events: &[Event],
        confidence: ConfidenceConfig,
    ) -> (Interactions, Vec<(f32, Factors)>) {
        let parts = weights.parts(&confidence);
        let mut builder = InteractionsBuilder::new(&confidence, &EventsConfig::default(), None).unwrap();
        events.iter().for_each(|event| builder.push(event).unwrap());
        let configs: Vec<_> = [confidence].into_iter().chain(parts.iter().map(|part| part.confidence)).collect();
        let mut matrices = builder.finish_each(&configs).unwrap().into_iter();
        let all = matrices.next().unwrap();
        let fit = |data: Interactions| fit(&data.within(&all), &ALS, &mut |_| ControlFlow::Continue(())).unwrap();
        let factors = parts.iter().zip(matrices).map(|(part, data)| (part.weight, fit(data))).collect();
        (all, factors)
    }

    const WEIGHTS: PerAction = PerAction { play: 1.0, like: 3.0, add: 2.0 };

    #[test]
    fn the_score_is_the_weighted_mean_of_the_parts_scores() {
        let (all, parts) = fitted(&WEIGHTS, &events(), ConfidenceConfig::default());
        assert_eq!(parts.iter().map(|(w, _)| *w).collect::<Vec<_>>(), [1.0 / 6.0, 0.5, 1.0 / 3.0]);
        assert!(parts[1].1.users.len() == 100 && parts[2].1.tracks.len() < 60, "not all are in every part");
        let whole = Factors::concatenate(&all, &ALS, &parts).unwrap();
        assert_eq!((whole.dimensions(), whole.config.dimensions), (18, 18));
        let scores = whole.user_factors.dot(&whole.track_factors.t());
        let mut largest = 0.0f32;
        for (u, user) in whole.users.iter().enumerate() {
            for (t, track) in whole.tracks.iter().enumerate() {
                let mut expected = 0.0;
                for (weight, part) in &parts {
                    let row = part.users.iter().position(|name| name == user);
                    let column = part.tracks.iter().position(|name| name == track);
                    if let (Some(row), Some(column)) = (row, column) {
                        expected += weight * part.user_factors.row(row).dot(&part.track_factors.row(column));
                    }
                }
                assert!((scores[[u, t]] - expected).abs() < 1e-5, "{user} {track}: {} {expected}", scores[[u, t]]);
                largest = largest.max(expected);
            }
        }
        assert!(largest > 0.5);
        assert_eq!((whole.plays, whole.confidence), (all.plays, ConfidenceConfig::default()));
    }

    #[test]
    fn one_part_alone_is_the_plain_factorisation() {
        let plays: Vec<Event> =
            events().into_iter().filter(|e| matches!(e.action, Action::Play | Action::Skip)).collect();
        let (all, parts) =
            fitted(&PerAction { play: 7.0, ..PerAction::default() }, &plays, ConfidenceConfig::default());
        let alone = Factors::concatenate(&all, &ALS, &parts).unwrap();
        let plain = fit(&all, &ALS, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((&alone.users, &alone.tracks, &alone.plays), (&plain.users, &plain.tracks, &plain.plays));
        assert_eq!(alone.user_factors, plain.user_factors);
        assert_eq!(alone.track_factors, plain.track_factors);
        assert_eq!((alone.user_ridge, alone.track_ridge, alone.config), (plain.user_ridge, plain.track_ridge, ALS));
    }

    #[test]
    fn who_folds_into_two_parts_that_are_the_same_folds_into_one() {
        let (all, parts) =
            fitted(&PerAction { play: 1.0, ..PerAction::default() }, &events(), ConfidenceConfig::default());
        let plain = Factors::concatenate(&all, &ALS, &parts).unwrap();
        let twice = [(0.3, parts[0].1.clone()), (0.7, parts[0].1.clone())];
        let twice = Factors::concatenate(&all, &ALS, &twice).unwrap();
        let (tracks, confidence, preference) = all.by_user.row(5);
        let rows: Vec<usize> = tracks.iter().map(|&t| t as usize).collect();
        let score = |factors: &Factors| {
            let met = factors.track_factors.select(ndarray::Axis(0), &rows);
            let x = factors.fold_in_users().solve(met.view(), confidence, preference).unwrap();
            factors.track_factors.dot(&ndarray::Array1::from(x))
        };
        let (one, two) = (score(&plain), score(&twice));
        assert!(one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-4), "{one} {two}");
        assert!(one.iter().any(|s| *s > 0.2));
    }

    /// Mean scores of the tracks of a listener's own taste, and of the others.
    fn own_and_others(factors: &Factors, users: &Array2<f32>) -> (f32, f32) {
        let scores = users.dot(&factors.track_factors.t());
        let (mut own, mut others) = ((0.0, 0), (0.0, 0));
        for ((u, t), score) in scores.indexed_iter() {
            let number = |name: &str| name[1..].parse::<usize>().unwrap();
            let is_own = number(factors.users[u].as_str()) % 4 == number(factors.tracks[t].as_str()) % 4;
            let sum = if is_own { &mut own } else { &mut others };
            *sum = (sum.0 + score, sum.1 + 1);
        }
        (own.0 / own.1 as f32, others.0 / others.1 as f32)
    }

    #[test]
    fn a_taste_that_only_likes_show_is_found_by_its_part_and_by_who_folds_in() {
        let only = |weights: PerAction| {
            let (all, parts) = fitted(&weights, &events(), ConfidenceConfig::default());
            (Factors::concatenate(&all, &ALS, &parts).unwrap(), all)
        };
        let lead = |factors: &Factors, users: &Array2<f32>| {
            let (own, others) = own_and_others(factors, users);
            own - others
        };
        let (plays, _) = only(PerAction { play: 1.0, ..PerAction::default() });
        let of_plays = lead(&plays, &plays.user_factors);
        let (whole, all) = only(WEIGHTS);
        let fold_in = whole.fold_in_users();
        let mut folded = Array2::zeros(whole.user_factors.dim());
        for (row, mut x) in folded.outer_iter_mut().enumerate() {
            let (tracks, confidence, preference) = all.by_user.row(row);
            let rows: Vec<usize> = tracks.iter().map(|&t| t as usize).collect();
            let met = whole.track_factors.select(ndarray::Axis(0), &rows);
            x.assign(&ndarray::Array1::from(fold_in.solve(met.view(), confidence, preference).unwrap()));
        }
        let (of_whole, of_folded) = (lead(&whole, &whole.user_factors), lead(&whole, &folded));
        assert!(of_whole > 0.15 && of_folded > 0.15, "{of_whole} {of_folded}");
        assert!(of_plays < 0.05, "plays say nothing of it: {of_plays}");
    }

    #[test]
    fn parts_keep_to_the_limits_of_the_whole() {
        let confidence =
            ConfidenceConfig { max_tracks_per_user: 10, min_users_per_track: 20, ..ConfidenceConfig::default() };
        let (all, parts) = fitted(&WEIGHTS, &events(), confidence);
        assert!((0..all.users.len()).all(|row| all.by_user.row_len(row) <= 10));
        for (_, part) in &parts {
            assert!(part.tracks.iter().all(|track| all.tracks.number(track).is_some()));
            assert!(part.confidence.min_users_per_track == 0, "their minimums are those of the whole");
        }
        let pairs = |part: &str| {
            let part = WEIGHTS.parts(&confidence).into_iter().find(|p| p.name == part).unwrap();
            let mut builder = InteractionsBuilder::new(&confidence, &EventsConfig::default(), None).unwrap();
            events().iter().for_each(|event| builder.push(event).unwrap());
            let of_part = builder.finish_each(&[part.confidence]).unwrap().pop().unwrap();
            (of_part.by_user.len(), of_part.within(&all).by_user.len())
        };
        let (before, after) = pairs("play");
        assert!(after < before && after <= all.by_user.len());
    }

    #[test]
    fn weights_that_make_no_sense_and_parts_too_large_are_refused() {
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let message = PerAction { like: bad, ..WEIGHTS }.check().unwrap_err().to_string();
            assert!(message.contains("per_action.like"), "{message}");
        }
        assert!(toml::from_str::<PerAction>("skip = 1.0").is_err());
        assert!(PerAction::default().parts(&ConfidenceConfig::default()).is_empty());
        let (all, parts) =
            fitted(&PerAction { like: 1.0, ..PerAction::default() }, &events(), ConfidenceConfig::default());
        assert!(Factors::concatenate(&all, &ALS, &[]).is_err());
        let many = vec![(0.001, parts[0].1.clone()); 700];
        assert!(Factors::concatenate(&all, &ALS, &many).unwrap_err().to_string().contains("4200"));
    }
}
