//! From what a song sounds like to how it is listened to: as plays come in, the predicted vector hands over to the
//! learned one.
//!
//! The textbook prior, `(XᵀCX + λI)⁻¹(XᵀCp + λŷ)`, does not return the prediction `ŷ` at zero plays: everyone who has
//! not heard the song counts as a zero and pulls it away. So the prediction stands for the unobserved pairs too. With
//! `δ = y − ŷ`, minimise
//!
//! ```text
//! Σ_{not heard} (x·δ)² + Σ_{heard} c (p − x·ŷ − x·δ)² + λ‖δ‖²
//! ```
//!
//! whose solution is the row solve of the factorisation with residuals for targets:
//! `y = ŷ + (XᵀX + Σ(c−1)xxᵀ + λI)⁻¹ Σ c (p − x·ŷ) x`.

use ndarray::ArrayView2;

use crate::error::{Error, Result};
use crate::linalg::{WeightedRidge, check_entries, dot};

/// A λ that serves: 0.01 of the mean eigenvalue of `XᵀX`. Between 0.001 and 0.3 of it, tuning found no difference.
pub fn default_lambda(user_gram: ArrayView2<f32>) -> f32 {
    let mean = user_gram.diag().mean().unwrap_or(0.0);
    if mean > 0.0 { 0.01 * mean } else { 1.0 }
}

/// The vector `[d]` of a track that was predicted to be at `predicted` `[d]` (in the scale of the space: unit length
/// times the typical norm), after these listeners met it: their vectors `[n, d]`, and of each the confidence `c ≥ 1` and
/// the preference `p` (0: skipped). `user_gram` is `XᵀX` `[d, d]` of all listeners. With no plays it is `predicted`,
/// bit for bit.
///
/// # Errors
/// `Mismatch` of shapes, `Invalid` for numbers out of range.
pub fn hand_over(
    predicted: &[f32],
    user_gram: ArrayView2<f32>,
    listeners: ArrayView2<f32>,
    confidence: &[f32],
    preference: &[f32],
    lambda: f32,
) -> Result<Vec<f32>> {
    let d = predicted.len();
    if user_gram.dim() != (d, d) {
        let found = format!("{:?}", user_gram.shape());
        return Err(Error::mismatch("prediction and Gram matrix", format!("[{d}, {d}]"), found));
    }
    check_entries(d, listeners, confidence, preference)?;
    if !(lambda.is_finite() && lambda > 0.0) {
        return Err(Error::invalid("lambda", "a finite number above 0", lambda));
    }
    if let Some(bad) = predicted.iter().find(|y| !y.is_finite()) {
        return Err(Error::invalid("predicted vector", "finite numbers", bad));
    }
    if confidence.is_empty() {
        return Ok(predicted.to_vec());
    }
    let listeners = listeners.as_standard_layout();
    let entries = listeners.rows().into_iter().zip(confidence).zip(preference).map(|((x, &c), &p)| {
        let x = x.to_slice().expect("in standard layout");
        (x, c, p - dot(x, predicted))
    });
    let mut solver = WeightedRidge::new(d);
    let (correction, _) = solver.solve(user_gram, lambda, entries)?;
    Ok(predicted.iter().zip(correction).map(|(y, delta)| y + delta).collect())
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;
    use crate::linalg::gram;

    const D: usize = 8;

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
        let y = hand_over(&predicted, gram(x.view()).view(), x.slice(s![0..0, ..]), &[], &[], 0.1).unwrap();
        assert_eq!(
            y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
            predicted.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        );
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
            let y = hand_over(&predicted, gram.view(), met.view(), &vec![confidence; count], &p, 0.1).unwrap();
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
            let y = hand_over(&predicted, gram.view(), x.slice(s![17..18, ..]), &[41.0], &[p], 0.1).unwrap();
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
        let (gram, lambda, n) = (gram(x.view()), 0.7, 9);
        let c: Vec<f32> = (0..n).map(|i| 2.0 + i as f32).collect();
        let y = hand_over(&predicted, gram.view(), x.slice(s![..n, ..]), &c, &preference[..n], lambda).unwrap();
        let loss = |y: &[f64]| {
            let delta: Vec<f64> = y.iter().zip(&predicted).map(|(y, &p)| y - f64::from(p)).collect();
            let along = |i: usize, v: &[f64]| x.row(i).iter().zip(v).map(|(&x, v)| f64::from(x) * v).sum::<f64>();
            let heard = (0..n).map(|i| f64::from(c[i]) * (f64::from(preference[i]) - along(i, y)).powi(2)).sum::<f64>();
            let others = (n..60).map(|i| along(i, &delta).powi(2)).sum::<f64>();
            heard + others + f64::from(lambda) * delta.iter().map(|d| d * d).sum::<f64>()
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
        assert!(hand_over(&[0.1; D], g.view(), one, &[2.0], &[1.0], 0.1).is_ok());
        assert!(hand_over(&[0.1; 3], g.view(), one, &[2.0], &[1.0], 0.1).is_err());
        assert!(hand_over(&[0.1; D], g.view(), one, &[2.0], &[], 0.1).is_err());
        assert!(hand_over(&[0.1; D], g.view(), one, &[0.0], &[1.0], 0.1).is_err());
        assert!(hand_over(&[0.1; D], g.view(), one, &[2.0], &[1.0], 0.0).is_err());
        assert!(hand_over(&[f32::NAN; D], g.view(), one, &[2.0], &[1.0], 0.1).is_err());
    }
}
