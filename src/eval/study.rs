//! All that the report says of one method: its scores with standard errors over listeners and over tracks, recall at
//! every length of list, how popular what it lists turns out to be, and where each track stands with those who love it.

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{METRICS, Places, Resamples};
use super::cold_start::{Answer, ColdStart, ColdStartScores, ListenerScores};
use super::metrics::{MeanSe, mean_se, popularity_percentiles, rank};
use crate::error::{Error, Result};
use crate::factors::Factors;

/// Lengths of list for which recall is told: 1 to this.
pub const CURVE: usize = 100;

/// Listeners are taken together in so many groups, whose sums are added in order: the same bits on any number of threads.
const GROUPS: usize = 64;

/// Steps of the bootstrap that a method may take (listeners × tracks × draws; 2 s or so on one core). With more, only
/// every second, third, ... listener is scored again: a standard error of a sample's mean, slightly too large.
const STEPS: usize = 1 << 31;

/// How a study is made.
#[derive(Clone, Copy, Debug)]
pub struct StudySettings {
    /// The length of each listener's list.
    pub k: usize,
    /// Resamples of the tracks: 200 know a standard error to 5 %.
    pub draws: usize,
    /// Of the resamples. Methods with the same seed are scored on the same ones, so that they can be compared in pairs.
    pub seed: u64,
}

/// One number for each metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    pub recall: f64,
    pub ndcg: f64,
    pub map: f64,
    pub auc: f64,
}

impl Metrics {
    fn of([recall, ndcg, map, auc]: [f64; METRICS]) -> Metrics {
        Metrics { recall, ndcg, map, auc }
    }

    fn array(self) -> [f64; METRICS] {
        [self.recall, self.ndcg, self.map, self.auc]
    }
}

impl From<&ColdStartScores> for Metrics {
    fn from(scores: &ColdStartScores) -> Metrics {
        Metrics::of([scores.recall.mean, scores.ndcg.mean, scores.map.mean, scores.auc.mean])
    }
}

/// A method's scores, and what is behind them.
pub struct Study {
    pub scores: ColdStartScores,
    /// The standard errors over tracks, by the bootstrap.
    pub over_tracks: Metrics,
    /// Where several models of one recipe were averaged, the standard errors of that average over them.
    pub over_models: Option<Metrics>,
    /// Mean recall at 1, 2, ... [`CURVE`] tracks, or as many as there are.
    pub recall_curve: Vec<f64>,
    /// Where the listed tracks stand by what the other half of the listeners played, from 0 (least) to 1: 0.5 is no bias.
    pub listed_popularity: MeanSe,
    /// For each held-out track, the mean over the listeners who love it of the share of the tracks they do not love that
    /// stand below it, and how many they are: its part in the AUC, 0.5 by chance.
    pub stands: Vec<(f64, usize)>,
    listeners: Vec<ListenerScores>,
    /// The means over listeners in each resample, `[draws]`.
    resampled: Vec<Metrics>,
}

/// What a group of listeners adds up to.
struct Sums {
    listeners: Vec<ListenerScores>,
    /// Of each draw: sums of metrics, listeners with a positive, listeners with an AUC.
    resampled: Vec<([f64; METRICS], usize, usize)>,
    curve: Vec<f64>,
    popularity: Vec<f64>,
    stands: Vec<(f64, usize)>,
}

impl ColdStart {
    /// Scores what a method answers, and looks behind the scores.
    ///
    /// # Errors
    /// As [`ColdStart::score_vectors`].
    pub fn study(&self, factors: &Factors, answer: Answer, settings: &StudySettings) -> Result<Study> {
        let scores = self.scorer(factors, answer)?;
        let plays: Vec<u32> = self.revealed_plays().iter().map(|&n| n as u32).collect();
        Study::new(&scores, &self.positives, &popularity_percentiles(&plays), settings)
    }
}

impl Study {
    /// `scores(listener)` and `popularity` are `[tracks]`, `positives` as in [`super::cold_start()`].
    fn new(
        scores: &(dyn Fn(usize) -> Vec<f32> + Sync),
        positives: &[Vec<u32>],
        popularity: &[f64],
        settings: &StudySettings,
    ) -> Result<Study> {
        let (k, tracks) = (settings.k, popularity.len());
        if k == 0 || settings.draws < 2 {
            let found = format!("{k} and {}", settings.draws);
            return Err(Error::invalid("k and the number of resamples", "at least 1 and 2", found));
        }
        let resamples = Resamples::new(tracks, settings.draws, k, settings.seed);
        let curve = CURVE.min(tracks);
        let listeners: Vec<usize> = (0..positives.len()).filter(|&l| !positives[l].is_empty()).collect();
        let every = (listeners.len().saturating_mul(tracks).saturating_mul(settings.draws)).div_ceil(STEPS).max(1);
        let sum_up = |(group, listeners): (usize, &[usize])| -> Result<Sums> {
            let mut sums = Sums {
                listeners: Vec::with_capacity(listeners.len()),
                resampled: vec![Default::default(); resamples.draws()],
                curve: vec![0.0; curve],
                popularity: Vec::with_capacity(listeners.len()),
                stands: vec![(0.0, 0); tracks],
            };
            let mut before = vec![0; tracks + 1];
            for (i, &listener) in listeners.iter().enumerate() {
                let (scores, relevant) = (scores(listener), &positives[listener]);
                if let Some(last) = relevant.last().filter(|&&last| last as usize >= tracks.min(scores.len())) {
                    let expected = format!("more than {last} scores");
                    return Err(Error::mismatch("scores and positives", expected, scores.len()));
                }
                if scores.iter().any(|s| s.is_nan()) {
                    return Err(Error::invalid(format!("scores of listener {listener}"), "numbers", "NaN"));
                }
                let list = Places::new(rank(&scores, tracks, listener as u64, &[]), &scores, relevant);
                sums.listeners.push(ListenerScores::of(&list.order, &scores, relevant, k));
                sums.look(&list, popularity, k);
                if (group + i * GROUPS).is_multiple_of(every) {
                    sums.resample(&resamples, &list, &mut before);
                }
            }
            Ok(sums)
        };
        // Listener i is in group i modulo GROUPS.
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); GROUPS];
        for (i, &listener) in listeners.iter().enumerate() {
            groups[i % GROUPS].push(listener);
        }
        let groups: Vec<(usize, &[usize])> = groups.iter().enumerate().map(|(g, l)| (g, &l[..])).collect();
        let parts: Vec<Sums> = groups.into_par_iter().map(sum_up).collect::<Result<_>>()?;
        Study::of_parts(parts, k, listeners.len())
    }

    fn of_parts(parts: Vec<Sums>, k: usize, users: usize) -> Result<Study> {
        let first = parts.first().expect("there are GROUPS of them");
        let mut curve = vec![0.0; first.curve.len()];
        let mut stands = vec![(0.0, 0); first.stands.len()];
        let mut resampled = vec![([0.0; METRICS], 0, 0); first.resampled.len()];
        let (mut listeners, mut popularity) = (Vec::new(), Vec::new());
        for part in parts {
            curve.iter_mut().zip(&part.curve).for_each(|(sum, x)| *sum += x / users.max(1) as f64);
            stands.iter_mut().zip(&part.stands).for_each(|(sum, x)| *sum = (sum.0 + x.0, sum.1 + x.1));
            for (sum, x) in resampled.iter_mut().zip(&part.resampled) {
                sum.0.iter_mut().zip(&x.0).for_each(|(sum, x)| *sum += x);
                *sum = (sum.0, sum.1 + x.1, sum.2 + x.2);
            }
            listeners.extend(part.listeners);
            popularity.extend(part.popularity);
        }
        let mean = |(sums, users, with_auc): &([f64; METRICS], usize, usize)| {
            let [recall, ndcg, map, auc] = *sums;
            let users = (*users).max(1) as f64;
            Metrics {
                recall: recall / users,
                ndcg: ndcg / users,
                map: map / users,
                auc: auc / (*with_auc).max(1) as f64,
            }
        };
        let resampled: Vec<Metrics> = resampled.iter().map(mean).collect();
        Ok(Study {
            scores: ColdStartScores::mean_of(&listeners, k)?,
            over_tracks: spread(&resampled),
            over_models: None,
            recall_curve: curve,
            listed_popularity: mean_se(&popularity),
            stands: stands.into_iter().map(|(sum, n)| (if n > 0 { sum / n as f64 } else { 0.5 }, n)).collect(),
            listeners,
            resampled,
        })
    }

    /// Models that differ in their seed only, as one method: the mean of all their scores.
    ///
    /// A standard error over listeners, or over tracks, is then that of the mean over the models of each listener's
    /// scores, or of each resample's. That over models is the models' own: how far would another seed's score lie,
    /// divided by the root of their number.
    ///
    /// # Errors
    /// `Invalid` for none; `Mismatch` where they are not of the same listeners.
    pub fn mean_of(studies: Vec<Study>) -> Result<Study> {
        let n = studies.len();
        let mut studies = studies.into_iter();
        let mut mean = studies.next().ok_or_else(|| Error::invalid("studies to average", "at least one", "none"))?;
        if n == 1 {
            return Ok(mean);
        }
        let mut scores = vec![Metrics::from(&mean.scores)];
        let share = 1.0 / n as f64;
        let (mut popularity, mut first) = (vec![mean.listed_popularity], true);
        for other in studies {
            if other.listeners.len() != mean.listeners.len() || other.resampled.len() != mean.resampled.len() {
                return Err(Error::mismatch("studies: listeners", mean.listeners.len(), other.listeners.len()));
            }
            scores.push(Metrics::from(&other.scores));
            popularity.push(other.listed_popularity);
            // The first is scaled when the second comes, so that each counts `share`.
            let own = if std::mem::take(&mut first) { share } else { 1.0 };
            let add = |sum: &mut f64, x: f64| *sum = *sum * own + x * share;
            for (sum, x) in mean.listeners.iter_mut().zip(&other.listeners) {
                add(&mut sum.recall, x.recall);
                add(&mut sum.ndcg, x.ndcg);
                add(&mut sum.average_precision, x.average_precision);
                if let (Some(sum), Some(x)) = (&mut sum.auc, x.auc) {
                    add(sum, x);
                }
            }
            for (sum, x) in mean.resampled.iter_mut().zip(&other.resampled) {
                let (mut sums, xs) = (sum.array(), x.array());
                sums.iter_mut().zip(xs).for_each(|(sum, x)| add(sum, x));
                *sum = Metrics::of(sums);
            }
            mean.recall_curve.iter_mut().zip(&other.recall_curve).for_each(|(sum, x)| add(sum, *x));
            mean.stands.iter_mut().zip(&other.stands).for_each(|((sum, _), (x, _))| add(sum, *x));
        }
        let spread = spread(&scores).array().map(|sd| sd / (n as f64).sqrt());
        Ok(Study {
            scores: ColdStartScores::mean_of(&mean.listeners, mean.scores.k)?,
            over_tracks: self::spread(&mean.resampled),
            over_models: Some(Metrics::of(spread)),
            listed_popularity: MeanSe {
                mean: popularity.iter().map(|p| p.mean).sum::<f64>() * share,
                // No less than of each: those of one listener's lists by two models go together.
                se: popularity.iter().map(|p| p.se).sum::<f64>() * share,
                n: mean.listed_popularity.n,
            },
            ..mean
        })
    }

    /// By how much this method scores more than another, and the standard error of that difference over tracks. Both are
    /// of the same resamples, in which a hard set of tracks is hard for both: the difference is known better than either.
    ///
    /// # Errors
    /// `Mismatch` where they have not as many resamples.
    pub fn ahead_of(&self, other: &Study) -> Result<(Metrics, Metrics)> {
        if self.resampled.len() != other.resampled.len() {
            return Err(Error::mismatch("resamples of two studies", self.resampled.len(), other.resampled.len()));
        }
        let minus = |a: Metrics, b: Metrics| {
            let mut difference = a.array();
            difference.iter_mut().zip(b.array()).for_each(|(a, b)| *a -= b);
            Metrics::of(difference)
        };
        let pairs = self.resampled.iter().zip(&other.resampled);
        let differences: Vec<Metrics> = pairs.map(|(a, b)| minus(*a, *b)).collect();
        Ok((minus((&self.scores).into(), (&other.scores).into()), spread(&differences)))
    }
}

/// The standard deviation of each metric (with `n − 1`).
fn spread(values: &[Metrics]) -> Metrics {
    let deviation = |metric: usize| {
        let values: Vec<f64> = values.iter().map(|m| m.array()[metric]).collect();
        // A mean's standard error is the deviation over √n.
        mean_se(&values).se * (values.len() as f64).sqrt()
    };
    Metrics::of([deviation(0), deviation(1), deviation(2), deviation(3)])
}

impl Sums {
    fn look(&mut self, list: &Places, popularity: &[f64], k: usize) {
        let (loved, tracks) = (list.positives.len(), list.order.len());
        let mut hits = list.positives.iter().map(|p| p.0).peekable();
        let mut found = 0;
        for (place, sum) in self.curve.iter_mut().enumerate() {
            found += usize::from(hits.next_if_eq(&place).is_some());
            *sum += found as f64 / loved.min(place + 1) as f64;
        }
        let listed = &list.order[..k.min(tracks)];
        self.popularity.push(listed.iter().map(|&t| popularity[t as usize]).sum::<f64>() / listed.len() as f64);
        if loved == tracks {
            return;
        }
        for (place, equals) in &list.positives {
            // Below, with equals by half and without itself: of all tracks, less the loved ones.
            let half = |from: usize, to: usize, all: usize| all as f64 - (from + to) as f64 / 2.0 - 0.5;
            let from = list.positives.partition_point(|p| p.0 < equals.start);
            let to = list.positives.partition_point(|p| p.0 < equals.end);
            let below = half(equals.start, equals.end, tracks) - half(from, to, loved);
            let stand = &mut self.stands[list.order[*place] as usize];
            *stand = (stand.0 + below / (tracks - loved) as f64, stand.1 + 1);
        }
    }

    fn resample(&mut self, resamples: &Resamples, list: &Places, before: &mut [usize]) {
        for (draw, sums) in self.resampled.iter_mut().enumerate() {
            let Some((metrics, auc)) = resamples.score(draw, list, before) else { continue };
            sums.0.iter_mut().zip(metrics).for_each(|(sum, x)| *sum += x);
            sums.1 += 1;
            if let Some(auc) = auc {
                sums.0[METRICS - 1] += auc;
                sums.2 += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::eval::cold_start;

    const SETTINGS: StudySettings = StudySettings { k: 10, draws: 100, seed: 1 };

    type Scores = Vec<Vec<f32>>;

    /// 80 tracks, and 60 listeners in three tastes, each of whom loves a third of the tracks of his taste. A track's
    /// score for a taste is right but for a noise of its own, the same for all listeners.
    fn world(seed: u64) -> (Scores, Vec<Vec<u32>>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tracks: Vec<(usize, f32)> =
            (0..80).map(|_| (rng.random_range(0..3), rng.random_range(-2.0..2.0))).collect();
        let listeners = (0..60usize).map(|listener| {
            let loved = (0..80).filter(|&t| tracks[t].0 == listener % 3 && rng.random_bool(0.33)).map(|t| t as u32);
            let scores = tracks.iter().map(|t| t.1 + f32::from(u8::from(t.0 == listener % 3)));
            (scores.collect(), loved.collect())
        });
        listeners.unzip()
    }

    fn study(scores: &Scores, positives: &[Vec<u32>], settings: &StudySettings) -> Study {
        Study::new(&|l| scores[l].clone(), positives, &vec![0.5; scores[0].len()], settings).unwrap()
    }

    #[test]
    fn the_error_over_tracks_is_how_far_scores_move_when_other_tracks_are_drawn() {
        let worlds: Vec<Study> = (0..150).map(|seed| world(seed + 10)).map(|(s, p)| study(&s, &p, &SETTINGS)).collect();
        let found: Vec<Metrics> = worlds.iter().map(|w| Metrics::from(&w.scores)).collect();
        let moved = spread(&found).array();
        for (metric, moved) in moved.into_iter().enumerate() {
            let told = worlds.iter().map(|w| w.over_tracks.array()[metric]).sum::<f64>() / 150.0;
            // 150 worlds know their own spread to 6 %.
            assert!((0.8..1.25).contains(&(told / moved)), "metric {metric}: told {told}, moved {moved}");
        }
        // Listeners who are all alike leave no doubt about other listeners, and all of it about other tracks.
        let (scores, positives) = world(1);
        let alike = study(&vec![scores[0].clone(); 9], &vec![positives[0].clone(); 9], &SETTINGS);
        assert!(alike.scores.auc.se < 1e-12 && alike.over_tracks.auc > 0.02, "{:?}", alike.over_tracks);
    }

    #[test]
    fn a_study_scores_as_the_table_always_did_on_any_number_of_threads() {
        let (scores, positives) = world(1);
        let found = study(&scores, &positives, &SETTINGS);
        let plain = cold_start(&|l| scores[l].clone(), &positives, 10).unwrap();
        let near = |a: MeanSe, b: MeanSe| (a.mean - b.mean).abs() < 1e-12 && (a.se - b.se).abs() < 1e-12 && a.n == b.n;
        assert!(near(found.scores.recall, plain.recall) && near(found.scores.ndcg, plain.ndcg));
        assert!(near(found.scores.map, plain.map) && near(found.scores.auc, plain.auc));
        assert!((found.recall_curve[9] - plain.recall.mean).abs() < 1e-12);
        // A track's stand is its part in the AUC, which weighs each listener alike, not each pair.
        let pairs = found.stands.iter().map(|s| s.1).sum::<usize>();
        assert_eq!(pairs, positives.iter().map(Vec::len).sum::<usize>());
        let one = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| study(&scores, &positives, &SETTINGS));
            (found.over_tracks, found.recall_curve, found.stands, found.scores)
        };
        assert_eq!(one(1), one(3));
    }

    #[test]
    fn a_stand_is_the_area_of_one_track() {
        // Track 2 is loved and ties with track 1; track 0 stands above both and is loved by nobody.
        let found = study(&vec![vec![0.9, 0.5, 0.5, 0.1]], &[vec![2]], &StudySettings { k: 2, ..SETTINGS });
        assert_eq!(found.stands[2], (0.5, 1));
        assert_eq!((found.stands[0], found.scores.auc.mean), ((0.5, 0), 0.5));
        // Two are loved: of the others one stands above and one below the first, both above the second.
        let found = study(&vec![vec![0.9, 0.5, 0.4, 0.1]], &[vec![1, 3]], &StudySettings { k: 2, ..SETTINGS });
        assert_eq!((found.stands[1].0, found.stands[3].0), (0.5, 0.0));
        assert_eq!(found.scores.auc.mean, 0.25);
        assert_eq!(found.recall_curve, [0.0, 0.5, 0.5, 1.0]);
    }

    #[test]
    fn methods_are_compared_in_pairs_and_models_of_one_recipe_averaged() {
        let (scores, positives) = world(2);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut louder = |by: f32| -> Scores {
            scores.iter().map(|s| s.iter().map(|x| x + rng.random_range(-by..by)).collect()).collect()
        };
        let (near, far) = (louder(0.05), louder(3.0));
        let [plain, near, far] = [&scores, &near, &far].map(|s| study(s, &positives, &SETTINGS));
        let (more, error) = plain.ahead_of(&near).unwrap();
        // Nearly the same method: what moves one moves the other.
        assert!(more.auc.abs() < 0.02 && error.auc < 0.3 * plain.over_tracks.auc, "{more:?} {error:?}");
        let (more, _) = plain.ahead_of(&far).unwrap();
        assert!((more.auc - (plain.scores.auc.mean - far.scores.auc.mean)).abs() < 1e-12 && more.auc > 0.05);

        let (a, b) = (plain.scores.auc.mean, far.scores.auc.mean);
        let mean = Study::mean_of(vec![plain, far]).unwrap();
        assert!((mean.scores.auc.mean - (a + b) / 2.0).abs() < 1e-12);
        // Two values: the deviation is |a − b| / √2, that of their mean |a − b| / 2.
        assert!((mean.over_models.unwrap().auc - (a - b).abs() / 2.0).abs() < 1e-12);
        assert!(Study::mean_of(vec![]).is_err() && Study::mean_of(vec![near]).unwrap().over_models.is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |scores: Vec<f32>, positives: &[Vec<u32>], settings: &StudySettings| {
            Study::new(&|_| scores.clone(), positives, &[0.5; 4], settings).is_err()
        };
        assert!(refused(vec![0.0; 4], &[vec![4]], &SETTINGS));
        assert!(refused(vec![0.0; 4], &[vec![]], &SETTINGS));
        assert!(refused(vec![f32::NAN; 4], &[vec![1]], &SETTINGS));
        assert!(refused(vec![0.0; 4], &[vec![1]], &StudySettings { k: 0, ..SETTINGS }));
        assert!(refused(vec![0.0; 4], &[vec![1]], &StudySettings { draws: 1, ..SETTINGS }));
        assert!(!refused(vec![0.0; 4], &[vec![1]], &SETTINGS));
    }
}
