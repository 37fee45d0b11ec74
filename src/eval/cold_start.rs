//! The question that debut exists for: of songs that nobody has heard, does each listener's list put those first that
//! he went on to love?
//!
//! The protocol. Tracks are held out by a hash of their name ([`super::hold_out`]), and their events are removed before
//! the fit, so that no listener's vector knows them. The listeners are split by a hash of their name, too: the plays
//! of one half are what the *ceiling* may see, a factor learned for each held-out track with the listeners fixed;
//! every method, the ceiling included, is scored on the other half.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::metrics::{MeanSe, auc, average_precision_at, mean_se, ndcg_at, rank, recall_at};
use super::{POSITIVE, split};
use crate::error::{Error, Result};
use crate::events::{Csr, Interactions};
use crate::factors::Factors;
use crate::ids::{Ids, TrackId};

/// The share of listeners whose plays the ceiling sees.
const REVEALED: f64 = 0.5;

/// The length of the list of which mean average precision is taken, as in van den Oord et al. 2013, tables 2 and 3: 500.
/// Where fewer tracks are held out it is that of all of them.
pub const MAP_LENGTH: usize = 500;

/// Means over listeners.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColdStartScores {
    /// The length of the list.
    pub k: usize,
    pub recall: MeanSe,
    pub ndcg: MeanSe,
    /// Mean average precision of the first [`MAP_LENGTH`], or of all where there are fewer: each listener's sum over the
    /// hits is divided by `min(500, his positives)`.
    pub map: MeanSe,
    /// Over the whole list of tracks; of the listeners who love some, and not all, of them.
    pub auc: MeanSe,
    /// Listeners with at least one positive, over whom the means are.
    pub users: usize,
}

/// Scores a method. `scores(user)` `[tracks]` are its scores of all tracks for a listener; `positives[user]` are the
/// tracks that he loved, sorted. Listeners without one are left out.
///
/// # Errors
/// `Mismatch` where scores and positives do not fit; `Invalid` for a score that is not a number, or without a positive.
pub fn cold_start(
    scores: &(dyn Fn(usize) -> Vec<f32> + Sync),
    positives: &[Vec<u32>],
    k: usize,
) -> Result<ColdStartScores> {
    if k == 0 {
        return Err(Error::invalid("k", "at least 1", 0));
    }
    let measured = (0..positives.len()).into_par_iter().filter(|&user| !positives[user].is_empty()).map(|user| {
        let (scores, relevant) = (scores(user), &positives[user]);
        if let Some(last) = relevant.last().filter(|&&last| last as usize >= scores.len()) {
            return Err(Error::mismatch("scores and positives", format!("more than {last} scores"), scores.len()));
        }
        if scores.iter().any(|s| s.is_nan()) {
            return Err(Error::invalid(format!("scores of listener {user}"), "numbers", "NaN"));
        }
        Ok(ListenerScores::of(&rank(&scores, k.max(MAP_LENGTH), user as u64, &[]), &scores, relevant, k))
    });
    ColdStartScores::mean_of(&measured.collect::<Result<Vec<_>>>()?, k)
}

/// One listener's.
pub(super) struct ListenerScores {
    pub recall: f64,
    pub ndcg: f64,
    pub average_precision: f64,
    /// None where he loves all tracks.
    pub auc: Option<f64>,
}

impl ListenerScores {
    /// `ranking`: the first `k` and the first [`MAP_LENGTH`] tracks, at least.
    pub fn of(ranking: &[u32], scores: &[f32], relevant: &[u32], k: usize) -> ListenerScores {
        ListenerScores {
            recall: recall_at(ranking, relevant, k),
            ndcg: ndcg_at(ranking, relevant, k),
            average_precision: average_precision_at(ranking, relevant, MAP_LENGTH),
            auc: auc(scores, relevant, &[]),
        }
    }
}

impl ColdStartScores {
    /// # Errors
    /// `Invalid` where there is no listener.
    pub(super) fn mean_of(listeners: &[ListenerScores], k: usize) -> Result<ColdStartScores> {
        if listeners.is_empty() {
            return Err(Error::invalid("evaluation", "a listener with a positive among the held-out tracks", "none"));
        }
        let mean = |value: &dyn Fn(&ListenerScores) -> Option<f64>| {
            mean_se(&listeners.iter().filter_map(value).collect::<Vec<_>>())
        };
        Ok(ColdStartScores {
            k,
            recall: mean(&|l| Some(l.recall)),
            ndcg: mean(&|l| Some(l.ndcg)),
            map: mean(&|l| Some(l.average_precision)),
            auc: mean(&|l| l.auc),
            users: listeners.len(),
        })
    }
}

/// What a method says of the held-out tracks.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A vector each, `[tracks, d]`: a listener's score is its inner product with his.
    Vectors(ArrayView2<'a, f32>),
    /// A number each, `[tracks]`, the same for every listener: popularity.
    Alike(&'a [f32]),
}

/// Held-out tracks, the half of the listeners on whom methods are scored, and what the other half says.
pub struct ColdStart {
    /// Held-out tracks, as rows of what methods predict.
    pub tracks: Vec<TrackId>,
    /// Rows of `Factors::user_factors` of the listeners on whom methods are scored: each has a positive.
    pub users: Vec<u32>,
    /// For each of `users`, his positives: places in `tracks`, sorted.
    pub positives: Vec<Vec<u32>>,
    /// Held-out tracks over all listeners of the fit, the other half's evidence only.
    pub revealed: Csr,
}

impl ColdStart {
    /// From the events of the held-out tracks ([`super::hold_out`] made them). Listeners who are not in `factors` met
    /// nothing but held-out tracks, and are left out.
    ///
    /// # Errors
    /// `Mismatch` where a track of `held_out` was in the fit.
    pub fn new(factors: &Factors, held_out: &Interactions, seed: u64) -> Result<ColdStart> {
        if let Some(seen) = factors.tracks.iter().find(|t| held_out.tracks.number(t).is_some()) {
            return Err(Error::mismatch("factors and held-out tracks", "no track in both", seen));
        }
        let rows: Ids<_> = factors.users.iter().cloned().collect();
        let (mut users, mut positives, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for (i, user) in held_out.users.names().iter().enumerate() {
            let Some(row) = rows.number(user) else { continue };
            let (tracks, confidence, preference) = held_out.by_user.row(i);
            // Another hash than that of the tracks, so that a user and a track of the same name are independent.
            if split(user, seed ^ 0x0075_7365_7273) < REVEALED {
                pairs.extend((0..tracks.len()).map(|e| (row, tracks[e], confidence[e], preference[e])));
            } else {
                let loved: Vec<u32> =
                    (0..tracks.len()).filter(|&e| preference[e] > POSITIVE).map(|e| tracks[e]).collect();
                if !loved.is_empty() {
                    users.push(row);
                    positives.push(loved);
                }
            }
        }
        pairs.sort_unstable_by_key(|&(row, track, ..)| (row, track));
        let revealed = Csr::from_sorted(factors.users.len(), held_out.tracks.len(), pairs.into_iter()).transpose();
        Ok(ColdStart { tracks: held_out.tracks.names().to_vec(), users, positives, revealed })
    }

    /// Scores the method that gives the held-out tracks these `vectors` `[tracks, d]`, by their inner products with the
    /// listeners.
    pub fn score_vectors(&self, factors: &Factors, vectors: ArrayView2<f32>, k: usize) -> Result<ColdStartScores> {
        cold_start(&self.scorer(factors, Answer::Vectors(vectors))?, &self.positives, k)
    }

    /// What a method's answer gives each listener's tracks, `[tracks]`.
    ///
    /// # Errors
    /// `Mismatch` where it is not about as many tracks, or dimensions.
    pub(super) fn scorer(&self, factors: &Factors, answer: Answer) -> Result<impl Fn(usize) -> Vec<f32> + Sync> {
        let (tracks, d) = (self.tracks.len(), factors.dimensions());
        let found = match answer {
            Answer::Vectors(vectors) => vectors.dim(),
            Answer::Alike(scores) => (scores.len(), d),
        };
        if found != (tracks, d) {
            let expected = format!("{:?}", (tracks, d));
            return Err(Error::mismatch("what a method says of the held-out tracks", expected, format!("{found:?}")));
        }
        Ok(move |user: usize| match answer {
            Answer::Vectors(vectors) => vectors.dot(&factors.user_factors.row(self.users[user] as usize)).to_vec(),
            Answer::Alike(scores) => scores.to_vec(),
        })
    }

    /// Scores a method that ranks the tracks alike for everyone, by one number for each: popularity.
    pub fn score_alike(&self, track_scores: &[f32], k: usize) -> Result<ColdStartScores> {
        if track_scores.len() != self.tracks.len() {
            return Err(Error::mismatch("scores of held-out tracks", self.tracks.len(), track_scores.len()));
        }
        cold_start(&|_| track_scores.to_vec(), &self.positives, k)
    }

    /// Chance: all tracks alike, and ties fall arbitrarily.
    pub fn score_chance(&self, k: usize) -> Result<ColdStartScores> {
        self.score_alike(&vec![0.0; self.tracks.len()], k)
    }

    /// For each held-out track, its listeners in the revealed half: the popularity that no new song has yet, and a
    /// baseline that therefore no method can be asked to beat everywhere.
    pub fn revealed_plays(&self) -> Vec<f32> {
        let listeners = |track| self.revealed.row(track).2.iter().filter(|p| **p > 0.0).count() as f32;
        (0..self.tracks.len()).map(listeners).collect()
    }

    /// The ceiling `[tracks, d]`: each held-out track learned from the revealed half, with the listeners fixed.
    pub fn ceiling(&self, factors: &Factors) -> Result<Array2<f32>> {
        let fold_in = factors.fold_in_tracks();
        let mut vectors = Array2::zeros((self.tracks.len(), factors.dimensions()));
        for (track, mut vector) in vectors.rows_mut().into_iter().enumerate() {
            let (users, confidence, preference) = self.revealed.row(track);
            let rows: Vec<usize> = users.iter().map(|&u| u as usize).collect();
            let listeners = factors.user_factors.select(Axis(0), &rows);
            let solved = fold_in.solve(listeners.view(), confidence, preference)?;
            vector.iter_mut().zip(solved).for_each(|(v, s)| *v = s);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_scores_what_chance_must() {
        // 3000 listeners, 200 tracks, 1 to 5 positives of each listener.
        let n = 200;
        let positives: Vec<Vec<u32>> = (0..3000u32)
            .map(|u| {
                let mut p: Vec<u32> = (0..=u % 5).map(|i| (u * 31 + i * 37) % n).collect();
                p.sort_unstable();
                p
            })
            .collect();
        let (k, n) = (20, n as usize);
        let scores = cold_start(&|_| vec![0.0; n], &positives, k).unwrap();
        // Each relevant track is among the first k with probability k/n, so recall is k/n; every rank's discount counts
        // with probability (relevant)/n, so NDCG is relevant/n × (sum over k ranks) / (sum over the relevant).
        let discounts = |k: usize| (0..k).map(|r| 1.0 / ((r + 2) as f64).log2()).sum::<f64>();
        let ndcg = |p: &Vec<u32>| p.len() as f64 / n as f64 * discounts(k) / discounts(p.len());
        let expected = positives.iter().map(ndcg).sum::<f64>() / positives.len() as f64;
        let near = |found: MeanSe, expected: f64| (found.mean - expected).abs() < 4.0 * found.se;
        assert!(near(scores.recall, k as f64 / n as f64), "{scores:?}");
        assert!(near(scores.ndcg, expected), "{expected} {scores:?}");
        assert_eq!(scores.auc, MeanSe { mean: 0.5, se: 0.0, n: 3000 });
    }

    #[test]
    fn the_perfect_method_scores_one_and_listeners_without_positives_are_left_out() {
        let positives = vec![vec![3], vec![], vec![0, 1]];
        let perfect = |u: usize| (0..4).map(|t| f32::from(u8::from(positives[u].contains(&t)))).collect::<Vec<_>>();
        let scores = cold_start(&perfect, &positives, 2).unwrap();
        assert_eq!((scores.recall.mean, scores.ndcg.mean, scores.map.mean), (1.0, 1.0, 1.0));
        assert_eq!((scores.auc.mean, scores.users), (1.0, 2));
    }

    #[test]
    fn mean_average_precision_is_of_500_and_of_all_where_there_are_fewer() {
        // The one positive stands in place `at` of `n`.
        let map = |at: usize, n: usize| {
            let falls = |_| (0..n).map(|t| -(t as f32)).collect::<Vec<_>>();
            cold_start(&falls, &[vec![at as u32 - 1]], 5).unwrap().map.mean
        };
        assert_eq!((map(40, 100), map(100, 100), map(500, 600), map(501, 600)), (1.0 / 40.0, 0.01, 0.002, 0.0));
    }

    #[test]
    fn nonsense_is_refused() {
        let zeros = |_| vec![0.0; 4];
        assert!(cold_start(&zeros, &[vec![4]], 2).is_err());
        assert!(cold_start(&zeros, &[vec![]], 2).is_err());
        assert!(cold_start(&zeros, &[vec![1]], 0).is_err());
        assert!(cold_start(&|_| vec![f32::NAN; 4], &[vec![1]], 2).is_err());
    }
}
