//! How far would the scores move, had other tracks been held out? A standard error over listeners does not know: it
//! takes the tracks for given, and 150 of them are few.
//!
//! The bootstrap (B. Efron 1979) over tracks: as many held-out tracks as there are, drawn with replacement; every
//! listener's list is scored again with each track as often in it as it was drawn, and the copies of a track that he
//! loves are all loved. The standard deviation of the mean over listeners is the standard error. The listeners stay as
//! they are. No list is sorted again: a track that was drawn `w` times takes `w` places where it stood, so that a
//! resample costs a listener one pass over the tracks.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cold_start::MAP_LENGTH;

/// Resamples of the held-out tracks.
pub(super) struct Resamples {
    /// How often each track was drawn, `[draws][tracks]`. More than 255 times never happens: the chance is below 1e-500.
    times: Vec<Vec<u8>>,
    /// `1 / log2(rank + 1)` summed over the ranks before, `[min(k, tracks) + 1]`.
    discounts: Vec<f64>,
    k: usize,
}

/// Recall, NDCG, average precision, AUC.
pub(super) const METRICS: usize = 4;

/// Where a listener's positives stand in his list of all tracks.
pub(super) struct Places {
    /// The list, best first, `[tracks]`.
    pub order: Vec<u32>,
    /// Of each positive in the order of the list: its place, and the first and last (exclusive) place of its equals by score.
    pub positives: Vec<(usize, std::ops::Range<usize>)>,
}

impl Places {
    /// `order`: all tracks, best first; `relevant`: sorted.
    pub fn new(order: Vec<u32>, scores: &[f32], relevant: &[u32]) -> Places {
        let at = |place: usize| scores[order[place] as usize];
        // The list falls, so that equals are a run of it. 0 and -0 are equal.
        let equals = |place: usize| {
            let first = order.partition_point(|&track| scores[track as usize] > at(place));
            first..order.partition_point(|&track| scores[track as usize] >= at(place))
        };
        let loved = (0..order.len()).filter(|&place| relevant.binary_search(&order[place]).is_ok());
        let positives = loved.map(|place| (place, equals(place))).collect();
        Places { order, positives }
    }
}

impl Resamples {
    pub fn new(tracks: usize, draws: usize, k: usize, seed: u64) -> Resamples {
        let draw = |number: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(number as u64);
            let mut times = vec![0u8; tracks];
            for _ in 0..tracks {
                let track = &mut times[rng.random_range(0..tracks)];
                *track = track.saturating_add(1);
            }
            times
        };
        let mut discounts = vec![0.0];
        for rank in 1..=k.min(tracks) {
            discounts.push(discounts[rank - 1] + 1.0 / ((rank + 1) as f64).log2());
        }
        Resamples { times: (0..draws).map(draw).collect(), discounts, k }
    }

    pub fn draws(&self) -> usize {
        self.times.len()
    }

    /// A listener's metrics in one resample; none where no track that he loves was drawn, no AUC where no other was.
    /// `before` is room, `[tracks + 1]`.
    pub fn score(&self, draw: usize, list: &Places, before: &mut [usize]) -> Option<([f64; METRICS - 1], Option<f64>)> {
        let times = &self.times[draw];
        let mut places = 0;
        for (before, &track) in before.iter_mut().zip(&list.order) {
            *before = places;
            places += usize::from(times[track as usize]);
        }
        before[list.order.len()] = places;
        let copies = |place: usize| before[place + 1] - before[place];
        let loved: usize = list.positives.iter().map(|(place, _)| copies(*place)).sum();
        if loved == 0 {
            return None;
        }
        let (mut hits, mut gain, mut found, mut precision, mut area) = (0, 0.0, 0, 0.0, 0.0);
        let within = |place: usize| place.min(self.discounts.len() - 1);
        for (place, equals) in &list.positives {
            let (from, to) = (before[*place], before[*place + 1]);
            hits += to.min(self.k) - from.min(self.k);
            gain += self.discounts[within(to)] - self.discounts[within(from)];
            for copy in from..to.min(MAP_LENGTH) {
                found += 1;
                precision += f64::from(found) / (copy + 1) as f64;
            }
            // How many stand below, equals by half: among them are other positives and the copy itself.
            area += (to - from) as f64 * (places as f64 - (before[equals.start] + before[equals.end]) as f64 / 2.0);
        }
        let (loved_f, others) = (loved as f64, (places - loved) as f64);
        // Of two positives one stands below the other, of equal ones each by half: together loved²/2.
        let auc = (others > 0.0).then(|| (area - loved_f * loved_f / 2.0) / (loved_f * others));
        let metrics = [
            hits as f64 / self.k.min(loved) as f64,
            gain / self.discounts[within(loved)],
            precision / MAP_LENGTH.min(loved) as f64,
        ];
        Some((metrics, auc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::{auc, average_precision_at, ndcg_at, rank, recall_at};

    #[test]
    fn a_resample_scores_as_a_list_in_which_tracks_stand_more_than_once() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for n in [1, 7, 40] {
            let resamples = Resamples::new(n, 30, 5, 9);
            // Few different scores, so that many are equal.
            let scores: Vec<f32> = (0..n).map(|_| rng.random_range(-3..4) as f32 / 2.0).collect();
            let relevant: Vec<u32> = (0..n as u32).filter(|_| rng.random_bool(0.3)).collect();
            let list = Places::new(rank(&scores, n, 3, &[]), &scores, &relevant);
            for draw in 0..30 {
                // The oracle: the long list itself, with a new number for each copy.
                let times = &resamples.times[draw];
                let copies = list.order.iter().flat_map(|&t| (0..times[t as usize]).map(move |_| t));
                let long: Vec<(u32, f32)> = copies.map(|t| (t, scores[t as usize])).collect();
                let ranking: Vec<u32> = (0..long.len() as u32).collect();
                let loved: Vec<u32> =
                    ranking.iter().copied().filter(|&i| relevant.contains(&long[i as usize].0)).collect();
                let found = resamples.score(draw, &list, &mut vec![0; n + 1]);
                let Some(([recall, ndcg, precision], area)) = found else {
                    assert!(loved.is_empty());
                    continue;
                };
                let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{n} {draw}: {a} {b}");
                near(recall, recall_at(&ranking, &loved, 5));
                near(ndcg, ndcg_at(&ranking, &loved, 5));
                near(precision, average_precision_at(&ranking, &loved, MAP_LENGTH));
                let expected = auc(&long.iter().map(|l| l.1).collect::<Vec<_>>(), &loved, &[]);
                assert_eq!(area.is_some(), expected.is_some());
                near(area.unwrap_or(0.0), expected.unwrap_or(0.0));
            }
        }
    }
}
