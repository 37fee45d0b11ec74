//! From what a song sounds like to how it is listened to: as plays come in, the predicted vector hands over to the
//! learned one.
//!
//! Learned factors are shrunk towards zero, by the ridge λ and by everyone who did not meet the song. A prediction is
//! evidence of where the factor will be, so it should be shrunk towards that instead: towards `q`, the predicted
//! direction at the length that predictions deserve, the mean of `y·ŷ` over tracks whose factor `y` is known. (That is
//! the encoder's error, measured: the regression of `y` on `ŷ`. A prediction that knows nothing has length 0, and
//! everything below becomes plain ALS.) And while nobody has met the song, those who have not are no evidence against
//! it: the prediction stands for them too, and gives way. Of `n` listeners, `b = n₀/(n + n₀)` of that is left. With
//! the λ that the track's row would have in the factorisation, minimise
//!
//! ```text
//! Σ_{not heard} (x·y − b x·q)² + Σ_{heard} c (p − x·y)² + λ‖y − q‖²
//! ```
//!
//! whose solution is the row solve of the factorisation with another right-hand side:
//!
//! ```text
//! y = bq + (XᵀX + Σ(c−1)xxᵀ + λI)⁻¹ (Σ c (p − x·bq) x + (1−b)λq)
//! ```
//!
//! At no plays that is `q`, after many the row of plain ALS. `b = 0` is the textbook's prior (Wang & Blei, "Collaborative
//! Topic Modeling", KDD 2011), which forgets the prediction where plays weigh much; `b = 1` for ever holds on to it where
//! they weigh little.
//!
//! Measured, NDCG@10 of cosine over new tracks for listeners who were not revealed. First the game music of
//! `models/game-music` (its network, 154 held-out tracks, 4,000 simulated listeners, α = 1; the length is 0.39 of a
//! typical factor's), then 141 tracks of the part of KGAT's `last-fm` set in `test.txt` (23,529 listeners, d = 40, α = 40,
//! three seeds; predictions with noise to the R² stated). "Before" is what debut did until 0.1: the whole length, λ of
//! 0.01 of the mean eigenvalue of `XᵀX`, n₀ = 5.
//!
//! | | listeners | 0 | 1 | 2 | 5 | 10 | 20 | 50 | 200 |
//! |---|---|---|---|---|---|---|---|---|---|
//! | game music | prediction | .203 | .203 | .203 | .203 | .203 | .203 | .203 | .203 |
//! | | plays alone | .103 | .160 | .175 | .220 | .251 | .307 | .363 | .414 |
//! | | textbook, q at whole length | .203 | .213 | .225 | .253 | .272 | .324 | .379 | .448 |
//! | | n₀ = 0.2 | .203 | .213 | .225 | .267 | .288 | .340 | .384 | .436 |
//! | | **n₀ = 1** | .203 | .207 | .216 | .251 | .273 | .332 | .383 | .436 |
//! | KGAT, R² = 0.3 | plays alone | .035 | .229 | .279 | .351 | .403 | .434 | | |
//! | | before | .269 | .309 | .347 | .382 | .412 | .437 | | |
//! | | n₀ = 0.2 | .269 | .282 | .303 | .355 | .404 | .434 | | |
//! | | **n₀ = 1** | .269 | .311 | .335 | .367 | .407 | .435 | | |
//! | KGAT, R² = 0.1 | before | .147 | .223 | .287 | .360 | .406 | .435 | | |
//! | | **n₀ = 1** | .147 | .249 | .296 | .357 | .405 | .434 | | |
//! | KGAT, random | before | .038 | .091 | .179 | .324 | .398 | .433 | | |
//! | | **n₀ = 1** | .038 | .229 | .279 | .351 | .403 | .434 | | |
//!
//! With n₀ = 1 it lies on or above prediction, plays alone, and any switch between them, in all of these. How much a play
//! weighs against the prediction depends on the data, so n₀ is worth measuring: `debut evaluate handover` does.

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::linalg::{Entries, Gram, Rows, WeightedRidge, check_entries, dot};

/// How far, and how long, a prediction is believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoverConfig {
    /// The length that predictions deserve, of a typical factor's: the mean of `y·ŷ` over tracks with a known factor, by
    /// the typical norm. 0 knows nothing, 1 is always right. 0.4, measured for the shipped model (0.39);
    /// `debut evaluate handover` measures it for others.
    pub prediction_length: f32,
    /// n₀: after so many listeners have met a track, half of its prediction is left to stand for those who have not: 1
    /// (the table in the heading). Less where single plays say little (α of 1), 5 where they say much (α of 40); 0 ends
    /// that with the first listener, `inf` never.
    pub half_exposure: f32,
}

impl Default for HandoverConfig {
    fn default() -> HandoverConfig {
        HandoverConfig { prediction_length: 0.4, half_exposure: 1.0 }
    }
}

impl HandoverConfig {
    /// # Errors
    /// `Invalid` for a setting out of range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.prediction_length) {
            return Err(Error::invalid("handover.prediction_length", "0 to 1", self.prediction_length));
        }
        if self.half_exposure.is_nan() || self.half_exposure < 0.0 {
            return Err(Error::invalid("handover.half_exposure", "listeners, 0 or more, or inf", self.half_exposure));
        }
        Ok(())
    }

    /// `b`: what is left of the prediction, for those who have not met the track, when `listeners` have.
    pub fn belief(&self, listeners: usize) -> f32 {
        if listeners == 0 { 1.0 } else { 1.0 / (1.0 + listeners as f32 / self.half_exposure) }
    }
}

#[test]
fn belief_is_whole_then_half_then_none() {
    let belief = |half_exposure, n| HandoverConfig { half_exposure, ..HandoverConfig::default() }.belief(n);
    assert_eq!([belief(5.0, 0), belief(5.0, 5), belief(5.0, 15)], [1.0, 0.5, 0.25]);
    assert_eq!([belief(f32::INFINITY, 1_000_000), belief(0.0, 0), belief(0.0, 1)], [1.0, 1.0, 0.0]);
}

/// The vector `[d]` of a track, and its listeners' so far.
///
/// `predicted` `[d]` is `q`: the predicted direction at the length that it deserves. `user_gram` is `XᵀX` `[d, d]` of all
/// listeners, and `ridge` the λ that the track's row has in the factorisation ([`Ridge::at`]). Of the listeners who met
/// the track: their vectors `[n, d]`, and of each the confidence `c ≥ 1` and the preference `p` (0: skipped). With no
/// plays it is `predicted`, bit for bit; with many, the row of plain ALS.
///
/// [`Ridge::at`]: crate::factors::Ridge::at
///
/// # Errors
/// `Mismatch` of shapes, `Invalid` for numbers out of range.
pub fn hand_over(
    predicted: &[f32],
    user_gram: ArrayView2<f32>,
    ridge: f32,
    listeners: ArrayView2<f32>,
    confidence: &[f32],
    preference: &[f32],
    config: &HandoverConfig,
) -> Result<Vec<f32>> {
    config.check()?;
    let d = predicted.len();
    if user_gram.dim() != (d, d) {
        let found = format!("{:?}", user_gram.shape());
        return Err(Error::mismatch("prediction and Gram matrix", format!("[{d}, {d}]"), found));
    }
    check_entries(d, listeners, confidence, preference)?;
    if let Some(bad) = predicted.iter().chain([&ridge]).find(|y| !y.is_finite()) {
        return Err(Error::invalid("predicted vector and ridge", "finite numbers", bad));
    }
    if confidence.is_empty() {
        return Ok(predicted.to_vec());
    }
    let belief = config.belief(confidence.len());
    let prior: Vec<f32> = predicted.iter().map(|y| belief * y).collect();
    let pull: Vec<f32> = predicted.iter().map(|y| (1.0 - belief) * ridge * y).collect();
    let rows = Rows::of(listeners);
    let indices: Vec<u32> = (0..rows.len() as u32).collect();
    let target: Vec<f32> = preference.iter().enumerate().map(|(i, p)| p - dot(rows.row(i), &prior)).collect();
    let entries = Entries { rows: &rows, indices: &indices, confidence, target: &target };
    let mut solver = WeightedRidge::new(d);
    let correction = solver.solve_with(&Gram::from_matrix(user_gram), ridge, entries, &pull)?;
    Ok(prior.iter().zip(correction).map(|(y, delta)| y + delta).collect())
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;
    use crate::linalg::gram;

    const D: usize = 8;
    const RIDGE: f32 = 2.0;
    /// The prediction is believed for ever.
    const FAITHFUL: HandoverConfig = HandoverConfig { prediction_length: 1.0, half_exposure: f32::INFINITY };

    fn default() -> HandoverConfig {
        HandoverConfig::default()
    }

    /// `n` listeners in every direction.
    fn listeners(n: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, D), |(i, j)| (((i * 2_654_435 + j * 40_503 + i * i * j) % 199) as f32 - 99.0) / 100.0)
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    }

    /// Two directions that have little to do with each other, and preferences within 0..=1 by the second.
    fn prediction_and_truth(x: &Array2<f32>) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let predicted: Vec<f32> = (0..D).map(|j| if j % 2 == 0 { 0.3 } else { -0.1 }).collect();
        let truth: Vec<f32> = (0..D).map(|j| 0.05 * (j as f32 - 3.0)).collect();
        let preference = x.rows().into_iter().map(|x| dot(&x.to_vec(), &truth).clamp(0.0, 1.0)).collect();
        (predicted, truth, preference)
    }

    #[test]
    fn without_plays_it_is_the_prediction_bit_for_bit() {
        let x = listeners(500);
        let (predicted, ..) = prediction_and_truth(&x);
        for half_exposure in [0.0, 5.0, f32::INFINITY] {
            let config = HandoverConfig { half_exposure, ..default() };
            let y =
                hand_over(&predicted, gram(x.view()).view(), RIDGE, x.slice(s![0..0, ..]), &[], &[], &config).unwrap();
            assert_eq!(
                y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
                predicted.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
            );
        }
    }

    /// The row of plain ALS, which knows no prediction.
    fn plain_row(gram: &Array2<f32>, met: &Array2<f32>, confidence: &[f32], preference: &[f32]) -> Vec<f32> {
        let (rows, indices) = (Rows::of(met.view()), (0..met.nrows() as u32).collect::<Vec<_>>());
        let entries = Entries { rows: &rows, indices: &indices, confidence, target: preference };
        WeightedRidge::new(D).solve(&Gram::from_matrix(gram.view()), RIDGE, entries).unwrap().0.to_vec()
    }

    #[test]
    fn with_many_plays_even_a_worthless_prediction_gives_way_to_the_row_of_plain_als() {
        let x = listeners(2000);
        let (_, truth, _) = prediction_and_truth(&x);
        let gram = gram(x.view());
        // Those who like the song by the truth play it; the prediction says the opposite, at ten times the length.
        let fans: Vec<usize> = (0..2000).filter(|&i| dot(&x.row(i).to_vec(), &truth) > 0.1).collect();
        let worthless: Vec<f32> = truth.iter().map(|t| -10.0 * t).collect();
        let mut last = f32::INFINITY;
        for n in [1, 2, 5, 10, 20, 50, 100, 200, fans.len()] {
            let met = x.select(ndarray::Axis(0), &fans[..n]);
            let (c, p) = (vec![41.0; n], vec![1.0; n]);
            let plain = plain_row(&gram, &met, &c, &p);
            let y = |config: &HandoverConfig| {
                hand_over(&worthless, gram.view(), RIDGE, met.view(), &c, &p, config).unwrap()
            };
            let away = distance(&y(&default()), &plain);
            assert!(away < last, "{n}: {away} after {last}");
            // All that is left of the prediction is its share, and the ridge's pull (λ of 2 against eigenvalues above 600).
            let share = away / distance(&y(&FAITHFUL), &plain);
            assert!((share - default().belief(n)).abs() < 1e-2, "{n}: {share}");
            last = away;
            if n == fans.len() {
                let size = plain.iter().map(|y| y * y).sum::<f32>().sqrt();
                assert!(n > 500 && away < 3e-2 * size, "{n}: {away} of {size}");
            }
            let at_once = HandoverConfig { half_exposure: 0.0, ..default() };
            assert!(distance(&y(&at_once), &plain) < 3e-2 * distance(&worthless, &plain));
        }
    }

    /// A past mistake: of a song that was predicted for one crowd and is played by another, the first never hears, so
    /// nothing corrected the prediction there.
    #[test]
    fn a_song_that_others_play_is_no_longer_recommended_where_it_was_predicted() {
        let x = Array2::from_shape_fn((80, D), |(i, j)| if j == i % 2 { 1.0 } else { 0.02 * ((i * 7 + j) % 5) as f32 });
        let predicted: Vec<f32> = (0..D).map(|j| if j == 1 { 0.8 } else { 0.0 }).collect();
        let met = x.select(ndarray::Axis(0), &(0..40).step_by(2).collect::<Vec<_>>());
        let crowds = |config: &HandoverConfig| {
            let y = hand_over(&predicted, gram(x.view()).view(), RIDGE, met.view(), &[41.0; 20], &[1.0; 20], config)
                .unwrap();
            [60, 61].map(|i| dot(&x.row(i).to_vec(), &y))
        };
        let [players, predicted_for] = crowds(&FAITHFUL);
        assert!(predicted_for > 0.5 * players, "the mistake: {predicted_for} {players}");
        let [players, predicted_for] = crowds(&default());
        assert!(predicted_for < 0.25 * players, "{predicted_for} {players}");
    }

    #[test]
    fn with_many_plays_it_is_where_the_listeners_put_it() {
        let x = listeners(2000);
        let (predicted, truth, preference) = prediction_and_truth(&x);
        // Only those whose preference the truth explains, so that the limit is the truth itself.
        let heard: Vec<usize> = (0..2000).filter(|&i| preference[i] > 0.0).collect();
        let gram = gram(x.view());
        let mut last = distance(&predicted, &truth);
        for (count, confidence, close) in [(10, 5.0, 1.0), (100, 50.0, 0.6), (heard.len(), 1e5, 1e-2)] {
            let chosen = &heard[..count];
            let p: Vec<f32> = chosen.iter().map(|&i| preference[i]).collect();
            let met = x.select(ndarray::Axis(0), chosen);
            let y = hand_over(&predicted, gram.view(), RIDGE, met.view(), &vec![confidence; count], &p, &default())
                .unwrap();
            let now = distance(&y, &truth);
            assert!(now < last && now < close * distance(&predicted, &truth), "{count}: {now} after {last}");
            last = now;
        }
    }

    #[test]
    fn plays_pull_towards_their_listener_and_skips_push_away() {
        let x = listeners(500);
        let (predicted, ..) = prediction_and_truth(&x);
        let gram = gram(x.view());
        let one = x.row(17).to_vec();
        let score = |p: f32| {
            let y =
                hand_over(&predicted, gram.view(), RIDGE, x.slice(s![17..18, ..]), &[41.0], &[p], &FAITHFUL).unwrap();
            dot(&one, &y)
        };
        let before = dot(&one, &predicted);
        assert!(score(1.0) > before, "a play");
        assert!(if before > 0.0 { score(0.0) < before } else { score(0.0) > before }, "a skip pulls the score to zero");
        assert!(score(0.0).abs() < before.abs());
    }

    #[test]
    fn it_is_the_minimum_of_the_loss_in_the_heading() {
        let x = listeners(60);
        let (predicted, _, preference) = prediction_and_truth(&x);
        let (gram, n) = (gram(x.view()), 9);
        let config = HandoverConfig { half_exposure: 20.0, ..default() };
        let belief = config.belief(n);
        let c: Vec<f32> = (0..n).map(|i| 2.0 + i as f32).collect();
        let y = hand_over(&predicted, gram.view(), RIDGE, x.slice(s![..n, ..]), &c, &preference[..n], &config).unwrap();
        let loss = |y: &[f64]| {
            let delta: Vec<f64> = y.iter().zip(&predicted).map(|(y, &p)| y - f64::from(belief * p)).collect();
            let along = |i: usize, v: &[f64]| x.row(i).iter().zip(v).map(|(&x, v)| f64::from(x) * v).sum::<f64>();
            let heard = (0..n).map(|i| f64::from(c[i]) * (f64::from(preference[i]) - along(i, y)).powi(2)).sum::<f64>();
            let others = (n..60).map(|i| along(i, &delta).powi(2)).sum::<f64>();
            let prior: f64 = y.iter().zip(&predicted).map(|(y, &p)| (y - f64::from(p)).powi(2)).sum();
            heard + others + f64::from(RIDGE) * prior
        };
        let y: Vec<f64> = y.into_iter().map(f64::from).collect();
        let lowest = loss(&y);
        for j in 0..D {
            for step in [-0.003, 0.003] {
                let mut beside = y.clone();
                beside[j] += step;
                assert!(loss(&beside) > lowest, "{j} {step}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let x = listeners(10);
        let g = gram(x.view());
        let one = x.slice(s![0..1, ..]);
        assert!(hand_over(&[0.1; D], g.view(), RIDGE, one, &[2.0], &[1.0], &default()).is_ok());
        assert!(hand_over(&[0.1; 3], g.view(), RIDGE, one, &[2.0], &[1.0], &default()).is_err());
        assert!(hand_over(&[0.1; D], g.view(), RIDGE, one, &[2.0], &[], &default()).is_err());
        assert!(hand_over(&[0.1; D], g.view(), RIDGE, one, &[0.0], &[1.0], &default()).is_err());
        for (prediction_length, half_exposure) in [(-0.1, 5.0), (f32::NAN, 5.0), (0.5, -1.0), (0.5, f32::NAN)] {
            let config = HandoverConfig { prediction_length, half_exposure };
            assert!(hand_over(&[0.1; D], g.view(), RIDGE, one, &[2.0], &[1.0], &config).is_err());
        }
        assert!(hand_over(&[f32::NAN; D], g.view(), RIDGE, one, &[2.0], &[1.0], &default()).is_err());
        assert!(hand_over(&[0.1; D], g.view(), f32::NAN, one, &[2.0], &[1.0], &default()).is_err());
    }
}
