//! Of the tracks that a listener has not met, does his list put those first that he is about to meet?
//!
//! Conventions. The catalogue is the tracks of the training part, *all* of them: no sampling of negatives, which
//! changes which method wins (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020). A listener's
//! own training tracks are no candidates. Relevant is what he did more than skip in the held-out part and had not met
//! before; what he met before, what nobody had met and listeners without a past are left out, and counted.

use std::sync::Mutex;

use ndarray::{Array2, ArrayView1, Axis};
use rayon::prelude::*;
use serde::Serialize;

use super::metrics::{
    Exposure, MeanSe, auc, average_precision_at, mean_se, ndcg_at, popularity_percentiles, rank, recall_at,
};
use super::{POSITIVE, split};
use crate::error::{Error, Result};
use crate::events::Interactions;
use crate::factors::Factors;

/// Scores of one block of listeners by all tracks are made at a time: at most so many numbers (16 MiB).
const BLOCK_NUMBERS: usize = 4 << 20;
/// And at most so many listeners: enough for the matrix product to be worth its name.
const BLOCK_LISTENERS: usize = 32;

/// What a method may learn from, and what it must then rank.
pub struct RankingTask {
    pub train: Interactions,
    /// Rows of `train.by_user` of the listeners who are scored: each has something relevant.
    pub users: Vec<u32>,
    /// For each of `users`, his relevant tracks (numbers of `train.tracks`), sorted.
    pub relevant: Vec<Vec<u32>>,
    /// Held-out pairs, not skips, that the listener had met before.
    pub repeated: usize,
    /// Held-out pairs, not skips, whose listener or track is not in the training part.
    pub cold: usize,
}

/// The scores of one method: means over listeners, with standard errors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankingScores {
    /// For each length of list.
    pub at: Vec<ListScores>,
    /// Over all candidates; of the listeners who will meet some, and not all.
    pub auc: MeanSe,
    /// Listeners scored.
    pub users: usize,
    /// Each of them, in the order of [`RankingTask::users`].
    #[serde(skip)]
    pub listeners: Vec<ListenerScores>,
}

/// The scores of lists of length `k`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListScores {
    pub k: usize,
    pub recall: MeanSe,
    pub ndcg: MeanSe,
    pub map: MeanSe,
    /// The mean popularity percentile of what is listed: 0.5 were all tracks listed alike, 1 the most popular only.
    pub popularity: MeanSe,
    /// The share of the catalogue that is in at least one list.
    pub coverage: MeanSe,
    /// The inequality of how often each track of the catalogue is listed: 0 all alike, to 1.
    pub gini: MeanSe,
}

/// What one listener's scores come to.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerScores {
    /// Recall, NDCG, average precision and popularity, for each length.
    pub at: Vec<[f64; 4]>,
    /// None where no other track could be ranked.
    pub auc: Option<f64>,
}

impl RankingTask {
    /// From the two parts of a split.
    ///
    /// # Errors
    /// `Invalid` where nothing is left to rank.
    pub fn new(train: Interactions, held_out: &Interactions) -> Result<RankingTask> {
        let (mut users, mut relevant, mut repeated, mut cold) = (Vec::new(), Vec::new(), 0, 0);
        for (i, user) in held_out.users.names().iter().enumerate() {
            let (tracks, _, preference) = held_out.by_user.row(i);
            let positive = tracks.iter().zip(preference).filter(|(_, p)| **p > POSITIVE).map(|(t, _)| *t);
            let Some(row) = train.users.number(user) else {
                cold += positive.count();
                continue;
            };
            let met = train.by_user.row(row as usize).0;
            let mut new = Vec::new();
            for track in positive {
                match train.tracks.number(&held_out.tracks.names()[track as usize]) {
                    None => cold += 1,
                    Some(track) if met.binary_search(&track).is_ok() => repeated += 1,
                    Some(track) => new.push(track),
                }
            }
            if !new.is_empty() {
                new.sort_unstable();
                users.push(row);
                relevant.push(new);
            }
        }
        if users.is_empty() {
            let found = format!("{repeated} repeated and {cold} cold pairs");
            return Err(Error::invalid("held-out events", "a known track that is new to a known listener", found));
        }
        Ok(RankingTask { train, users, relevant, repeated, cold })
    }

    /// Keeps `n` of the listeners who are scored, chosen by a hash of their names; all where there are no more.
    pub fn sample(mut self, n: usize, seed: u64) -> RankingTask {
        let place = |&user: &u32| split(&self.train.users.names()[user as usize], seed);
        let mut order: Vec<(f64, usize)> = self.users.iter().map(place).zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.truncate(n);
        let mut kept: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
        kept.sort_unstable();
        self.relevant = kept.iter().map(|&i| std::mem::take(&mut self.relevant[i])).collect();
        self.users = kept.iter().map(|&i| self.users[i]).collect();
        self
    }

    /// Scores factors of the training part by the inner products of listeners and tracks. `progress` is told how many
    /// more listeners are done.
    ///
    /// # Errors
    /// `Mismatch` where the factors are of other listeners or tracks; those of [`RankingTask::score`].
    pub fn score_factors(
        &self,
        factors: &Factors,
        lengths: &[usize],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<RankingScores> {
        if factors.users != self.train.users.names() || factors.tracks != self.train.tracks.names() {
            let name = |users: usize, tracks: usize| format!("{users} listeners and {tracks} tracks");
            return Err(Error::mismatch(
                "factors and training part",
                format!("the same {}", name(self.train.users.len(), self.train.tracks.len())),
                name(factors.users.len(), factors.tracks.len()),
            ));
        }
        let method = |users: &[u32]| {
            let rows: Vec<usize> = users.iter().map(|&u| u as usize).collect();
            factors.user_factors.select(Axis(0), &rows).dot(&factors.track_factors.t())
        };
        self.score(&method, lengths, progress)
    }

    /// Scores the ranking that is the same for everyone: by the number of listeners in the training part.
    pub fn score_popularity(&self, lengths: &[usize], progress: &(dyn Fn(usize) + Sync)) -> Result<RankingScores> {
        let plays: Vec<f32> = self.train.plays.iter().map(|&p| p as f32).collect();
        let plays = ArrayView1::from(&plays);
        let method = |users: &[u32]| {
            // The row of all tracks, once for each listener.
            let shape = (users.len(), plays.len());
            plays.broadcast(shape).expect("a row broadcasts to rows of its length").to_owned()
        };
        self.score(&method, lengths, progress)
    }

    /// Scores a method: `method(rows)` `[rows, tracks]` are its scores of all tracks for these listeners.
    ///
    /// # Errors
    /// `Invalid` where a length of list is 0, there is none, or a score is not a number; `Mismatch` for scores of another shape.
    pub fn score(
        &self,
        method: &(dyn Fn(&[u32]) -> Array2<f32> + Sync),
        lengths: &[usize],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<RankingScores> {
        let Some(longest) = lengths.iter().copied().max().filter(|_| !lengths.contains(&0)) else {
            return Err(Error::invalid("lengths of lists", "one or more, each at least 1", format!("{lengths:?}")));
        };
        let tracks = self.train.tracks.len();
        let percentiles = popularity_percentiles(&self.train.plays);
        let block = (BLOCK_NUMBERS / tracks.max(1)).clamp(1, BLOCK_LISTENERS);
        let exposures = Mutex::new(vec![Exposure::new(tracks); lengths.len()]);
        let blocks = self.users.par_chunks(block).enumerate().map(|(number, users)| {
            let scores = method(users);
            if scores.dim() != (users.len(), tracks) {
                let expected = format!("{:?}", (users.len(), tracks));
                return Err(Error::mismatch("scores and catalogue", expected, format!("{:?}", scores.dim())));
            }
            let scores = scores.as_standard_layout();
            let of = |(i, scores): (usize, ArrayView1<f32>)| {
                let scores = scores.to_slice().expect("in standard layout");
                self.listener(number * block + i, scores, lengths, longest, &percentiles)
            };
            let measured = scores.rows().into_iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
            // Sums of whole numbers: the order of the blocks does not show.
            let mut exposures = exposures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (i, (_, list)) in measured.iter().enumerate() {
                for (exposure, &k) in exposures.iter_mut().zip(lengths) {
                    exposure.show(number * block + i, &list[..k.min(list.len())]);
                }
            }
            drop(exposures);
            progress(users.len());
            Ok(measured.into_iter().map(|(listener, _)| listener).collect())
        });
        let blocks: Vec<Vec<ListenerScores>> = blocks.collect::<Result<_>>()?;
        let listeners: Vec<ListenerScores> = blocks.into_iter().flatten().collect();
        let exposures = exposures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mean = |length: usize, metric: usize| {
            mean_se(&listeners.iter().map(|listener| listener.at[length][metric]).collect::<Vec<_>>())
        };
        let at = (lengths.iter().zip(&exposures).enumerate())
            .map(|(i, (&k, exposure))| ListScores {
                k,
                recall: mean(i, 0),
                ndcg: mean(i, 1),
                map: mean(i, 2),
                popularity: mean(i, 3),
                coverage: exposure.coverage(),
                gini: exposure.gini(),
            })
            .collect();
        let aucs: Vec<f64> = listeners.iter().filter_map(|listener| listener.auc).collect();
        Ok(RankingScores { at, auc: mean_se(&aucs), users: listeners.len(), listeners })
    }

    /// Listener number `i` of `users`, and the longest list.
    fn listener(
        &self,
        i: usize,
        scores: &[f32],
        lengths: &[usize],
        longest: usize,
        percentiles: &[f64],
    ) -> Result<(ListenerScores, Vec<u32>)> {
        let (user, relevant) = (self.users[i], &self.relevant[i]);
        if scores.iter().any(|s| s.is_nan()) {
            let name = &self.train.users.names()[user as usize];
            return Err(Error::invalid(format!("scores of listener {name}"), "numbers", "NaN"));
        }
        let met = self.train.by_user.row(user as usize).0;
        let list = rank(scores, longest, u64::from(user), met);
        let of = |&k: &usize| {
            let shown = &list[..k.min(list.len())];
            let popularity = shown.iter().map(|&t| percentiles[t as usize]).sum::<f64>() / shown.len() as f64;
            [
                recall_at(&list, relevant, k),
                ndcg_at(&list, relevant, k),
                average_precision_at(&list, relevant, k),
                popularity,
            ]
        };
        let at = lengths.iter().map(of).collect();
        Ok((ListenerScores { at, auc: auc(scores, relevant, met) }, list))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::eval::hold_out_pairs;
    use crate::events::{Action, ConfidenceConfig, Event, interactions};
    use crate::factors::{AlsConfig, fit};
    use crate::ids::{TrackId, UserId};

    /// Pairs of listener and track; a skip where the third is true.
    fn data(pairs: &[(&str, &str, bool)]) -> Interactions {
        let events = pairs.iter().map(|&(user, track, skip)| Event {
            time: 0,
            user: UserId::new(user).unwrap(),
            track: TrackId::new(track).unwrap(),
            action: if skip { Action::Skip } else { Action::Play },
            value: 1.0,
        });
        interactions(events, &ConfidenceConfig::default(), None).unwrap()
    }

    fn task() -> RankingTask {
        let train = [("ann", "a"), ("ann", "b"), ("bob", "b"), ("bob", "c"), ("cat", "b"), ("cat", "d"), ("cat", "e")];
        let train: Vec<_> = train.iter().map(|&(u, t)| (u, t, false)).collect();
        let held_out = [
            ("ann", "c", false),
            ("ann", "d", true),    // a skip is nothing to recommend
            ("ann", "a", false),   // repeated
            ("ann", "new", false), // a track that nobody had met
            ("bob", "d", false),
            ("bob", "e", false),
            ("cat", "b", false), // repeated, and all that cat did
            ("dan", "a", false), // a listener without a past
        ];
        RankingTask::new(data(&train), &data(&held_out)).unwrap()
    }

    #[test]
    fn what_is_new_and_liked_is_relevant_and_the_rest_is_counted() {
        let task = task();
        let tracks = |list: &[u32]| list.iter().map(|&t| task.train.tracks.names()[t as usize].as_str()).collect();
        let found: Vec<(&str, Vec<&str>)> = (task.users.iter().zip(&task.relevant))
            .map(|(&u, r)| (task.train.users.names()[u as usize].as_str(), tracks(r)))
            .collect();
        assert_eq!(found, [("ann", vec!["c"]), ("bob", vec!["d", "e"])]);
        assert_eq!((task.repeated, task.cold), (2, 2));
        let nothing = RankingTask::new(data(&[("ann", "a", false)]), &data(&[("ann", "a", false)]));
        assert!(nothing.err().unwrap().to_string().contains("1 repeated"));
    }

    #[test]
    fn lists_by_hand() {
        // Tracks a to e; ann has met a and b, bob b and c. Plays: a 1, b 3, c 1, d 1, e 1.
        let task = task();
        let method = |users: &[u32]| {
            let row = |u: &u32| if *u == 0 { [9.0, 9.0, 1.0, 3.0, 2.0] } else { [1.0, 9.0, 9.0, 3.0, 0.0] };
            Array2::from_shape_fn((users.len(), 5), |(i, j)| row(&users[i])[j])
        };
        let scores = task.score(&method, &[1, 2, 9], &|_| ()).unwrap();
        // ann: d e c, relevant c: rank 3. bob: d a e, relevant d e: ranks 1 and 3.
        let [one, two, nine] = &scores.at[..] else { panic!() };
        assert_eq!((one.recall.mean, two.recall.mean, nine.recall.mean), (0.5, 0.25, 1.0));
        assert_eq!((one.ndcg.mean, one.map.mean), (0.5, 0.5));
        assert!((nine.ndcg.mean - (0.5 + 1.5 / (1.0 + 1.0 / 3f64.log2())) / 2.0).abs() < 1e-12);
        assert!((nine.map.mean - (1.0 / 3.0 + (1.0 + 2.0 / 3.0) / 2.0) / 2.0).abs() < 1e-12);
        // ann: c is below both others. bob: of (d, a) and (e, a) the first only.
        assert_eq!((scores.auc.mean, scores.users), (0.25, 2));
        assert_eq!((one.coverage.mean, two.coverage.mean, nine.coverage.mean), (0.2, 0.6, 0.8));
        assert_eq!(one.popularity.mean, 0.4, "of a, c, d, e alike: (0 + 4) / 2 / 5");
        assert_eq!(one.gini.mean, 0.8, "one track has all");
        for bad in [vec![], vec![0], vec![1, 0]] {
            assert!(task.score(&method, &bad, &|_| ()).is_err());
        }
        assert!(task.score(&|users| Array2::zeros((users.len(), 4)), &[1], &|_| ()).is_err());
        assert!(task.score(&|users| Array2::from_elem((users.len(), 5), f32::NAN), &[1], &|_| ()).is_err());
    }

    /// Listeners of four tastes, who each meet half of their 25 tracks; one in ten plays is of anything.
    fn tastes() -> Interactions {
        let mut pairs = Vec::new();
        let names: Vec<String> =
            (0..400).map(|i| format!("u{i:03}")).chain((0..100).map(|i| format!("t{i:03}"))).collect();
        for user in 0..400u32 {
            for i in 0..13u32 {
                let h = (user * 131 + i).wrapping_mul(2_654_435_761) >> 9;
                let track = if h % 10 == 0 { h / 10 % 100 } else { h / 10 % 25 * 4 + user % 4 };
                pairs.push((names[user as usize].as_str(), names[400 + track as usize].as_str(), false));
            }
        }
        data(&pairs)
    }

    #[test]
    fn factors_know_tastes_that_popularity_does_not_and_the_report_says_so() {
        let parts = hold_out_pairs(&tastes(), 0.2, 1).unwrap();
        let config = AlsConfig { dimensions: 8, ..AlsConfig::default() };
        let factors = fit(&parts.train, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let task = RankingTask::new(parts.train, &parts.held_out).unwrap();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let count = |n| {
            done.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        };
        let als = task.score_factors(&factors, &[10, 20], &count).unwrap();
        assert_eq!(done.into_inner(), als.users);
        let popular = task.score_popularity(&[10, 20], &|_| ()).unwrap();
        assert!(als.auc.mean > 0.8 && als.at[0].ndcg.mean > 2.0 * popular.at[0].ndcg.mean, "{als:?} {popular:?}");
        assert!(als.at[0].coverage.mean > 0.9 && popular.at[0].coverage.mean < 0.6, "{als:?} {popular:?}");
        assert!(popular.at[0].popularity.mean > 0.8 && popular.at[0].gini.mean > als.at[0].gini.mean);

        // Factors of other tracks are refused, and a sample is part of the whole.
        let other = Factors { tracks: factors.tracks.iter().rev().cloned().collect(), ..factors.clone() };
        assert!(task.score_factors(&other, &[10], &|_| ()).is_err());
        let all: Vec<_> = task.users.iter().copied().zip(task.relevant.clone()).collect();
        let few = task.sample(50, 3);
        assert_eq!(few.users.len(), 50);
        assert!(few.users.iter().copied().zip(few.relevant.clone()).all(|pair| all.contains(&pair)));
        let fewer = few.score_factors(&factors, &[10], &|_| ()).unwrap();
        assert_eq!(fewer.users, 50);
        assert!((fewer.at[0].ndcg.mean - als.at[0].ndcg.mean).abs() < 4.0 * fewer.at[0].ndcg.se);
    }

    /// `tests/golden/ranking.py` wrote it, with NumPy and scikit-learn.
    #[derive(serde::Deserialize)]
    struct Golden {
        /// `[users, tracks]`
        scores: Vec<Vec<f32>>,
        train: Vec<(String, String)>,
        held_out: Vec<(String, String)>,
        at: Vec<GoldenAt>,
        auc: [f64; 2],
        users: usize,
    }

    /// Mean and standard error of each.
    #[derive(serde::Deserialize)]
    struct GoldenAt {
        k: usize,
        recall: [f64; 2],
        ndcg: [f64; 2],
        map: [f64; 2],
        popularity: [f64; 2],
        coverage: f64,
        gini: f64,
    }

    #[test]
    fn every_metric_is_that_of_the_oracle() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/ranking.json")).unwrap();
        let part = |pairs: &[(String, String)]| {
            data(&pairs.iter().map(|(u, t)| (u.as_str(), t.as_str(), false)).collect::<Vec<_>>())
        };
        let task = RankingTask::new(part(&golden.train), &part(&golden.held_out)).unwrap();
        // The oracle's users and tracks are numbered in the order of their names, as ours.
        let method = |users: &[u32]| {
            let tracks = golden.scores[0].len();
            Array2::from_shape_fn((users.len(), tracks), |(i, j)| golden.scores[users[i] as usize][j])
        };
        let lengths: Vec<usize> = golden.at.iter().map(|at| at.k).collect();
        let found = task.score(&method, &lengths, &|_| ()).unwrap();
        let near = |what: &str, found: MeanSe, [mean, se]: [f64; 2]| {
            assert!((found.mean - mean).abs() < 1e-9 && (found.se - se).abs() < 1e-9, "{what}: {found:?} {mean} {se}");
        };
        assert_eq!(found.users, golden.users);
        near("auc", found.auc, golden.auc);
        for (found, expected) in found.at.iter().zip(&golden.at) {
            near("recall", found.recall, expected.recall);
            near("ndcg", found.ndcg, expected.ndcg);
            near("map", found.map, expected.map);
            near("popularity", found.popularity, expected.popularity);
            assert!((found.coverage.mean - expected.coverage).abs() < 1e-9);
            assert!((found.gini.mean - expected.gini).abs() < 1e-9);
        }
    }
}
