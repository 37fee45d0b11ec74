//! How near a predicted vector will lie to the one that listeners are going to teach: a calibrated confidence.
//!
//! A network trained on unit targets with a squared loss answers with their conditional mean, whose length is the mean
//! cosine with what may come: an answer that hedges is short. So are answers that disagree, of a track's windows or of
//! its sound and its artist, once they are averaged. The length of the answer is thus the one feature, whatever made it,
//! and what is left to do is to calibrate it: on tracks that the network was not trained on, the cosine with the learned
//! direction is regressed on it. A loss that does not look at lengths (cosine, contrastive) leaves the disagreement alone.
//!
//! What no answer can know of itself is how far off the one case may be. The margin says it as in split conformal prediction
//! (Vovk et al. 2005; Lei et al. 2018, algorithm 2): of new tracks that are drawn as those were, [`SURE`] have a cosine above
//! the confidence less [`Calibration::margin`]. Unlike there the line is fitted to the same tracks, which makes the margin a
//! little small where they are few (simulated: .86 instead of .9 of 8, from 12 on .89 and more); below nine there is none.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The share of tracks whose cosine lies above the confidence less the margin.
pub const SURE: f64 = 0.9;

/// A cosine is never further off.
const MOST: f32 = 2.0;

/// From the length of an answer to the cosine to expect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Expected cosine of an answer of length 0.
    pub intercept: f32,
    /// How much it grows with the length; never negative.
    pub slope: f32,
    /// What must be taken off so that nine of ten tracks lie above.
    pub margin: f32,
}

impl Calibration {
    /// From the answers' lengths and the cosines that came of them, `[n]` each, and how much each track counts.
    ///
    /// # Errors
    /// `Mismatch` for other numbers of them, `Invalid` for fewer than two that count, or a number that is not finite.
    pub fn fit(lengths: &[f32], cosines: &[f32], weights: &[f32]) -> Result<Calibration> {
        let n = lengths.len();
        if (cosines.len(), weights.len()) != (n, n) {
            let found = format!("{} and {}", cosines.len(), weights.len());
            return Err(Error::mismatch("lengths and their cosines, weights", n, found));
        }
        if let Some(bad) = lengths.iter().chain(cosines).chain(weights).find(|x| !x.is_finite()) {
            return Err(Error::invalid("lengths, cosines and weights", "finite numbers", bad));
        }
        if weights.iter().filter(|w| **w > 0.0).count() < 2 {
            return Err(Error::invalid("tracks to calibrate confidence on", "two that count", n));
        }
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mean = |x: &dyn Fn(usize) -> f64| (0..n).map(|i| f64::from(weights[i]) * x(i)).sum::<f64>() / total;
        let (length, cosine) = (|i: usize| f64::from(lengths[i]), |i: usize| f64::from(cosines[i]));
        let (ml, mc) = (mean(&length), mean(&cosine));
        let variance = mean(&|i| (length(i) - ml).powi(2));
        let together = mean(&|i| (length(i) - ml) * (cosine(i) - mc));
        // A line that falls would be noise: a longer answer is never a worse one.
        let slope = if variance > 1e-12 { (together / variance).max(0.0) } else { 0.0 };
        let mut calibration = Calibration { intercept: (mc - slope * ml) as f32, slope: slope as f32, margin: 0.0 };
        let mut short: Vec<f32> =
            (0..n).filter(|&i| weights[i] > 0.0).map(|i| calibration.confidence(lengths[i]) - cosines[i]).collect();
        short.sort_unstable_by(f32::total_cmp);
        // The ⌈(n + 1)(1 − α)⌉-th smallest; of fewer than nine tracks there is no such one.
        let rank = ((short.len() as f64 + 1.0) * SURE).ceil() as usize;
        calibration.margin = short.get(rank - 1).map_or(MOST, |short| short.max(0.0));
        Ok(calibration)
    }

    /// # Errors
    /// `Invalid` for a number out of range.
    pub fn check(&self) -> Result<()> {
        let Calibration { intercept, slope, margin } = *self;
        if !(intercept.is_finite() && (0.0..=1e6).contains(&slope) && (0.0..=2.0).contains(&margin)) {
            let found = format!("intercept {intercept}, slope {slope}, margin {margin}");
            return Err(Error::invalid("confidence", "a finite intercept, slope from 0, margin 0 to 2", found));
        }
        Ok(())
    }

    /// The cosine to expect of an answer of this length, 0 to 1.
    pub fn confidence(&self, length: f32) -> f32 {
        (self.intercept + self.slope * length).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Cosines about `0.1 + 0.8 * length`, with noise of up to 0.2.
    fn drawn(n: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| {
                let length = rng.random_range(0.2f32..0.9);
                (length, 0.1 + 0.8 * length + rng.random_range(-0.2f32..0.2))
            })
            .unzip()
    }

    #[test]
    fn it_finds_a_planted_line_and_nine_of_ten_new_tracks_lie_above_the_margin() {
        let (lengths, cosines) = drawn(2000, 1);
        let found = Calibration::fit(&lengths, &cosines, &[1.0; 2000]).unwrap();
        found.check().unwrap();
        assert!((found.intercept - 0.1).abs() < 0.02 && (found.slope - 0.8).abs() < 0.03, "{found:?}");
        let (lengths, cosines) = drawn(4000, 2);
        let above = |(l, c): (&f32, &f32)| *c >= found.confidence(*l) - found.margin;
        let share = lengths.iter().zip(&cosines).filter(|&p| above(p)).count() as f64 / 4000.0;
        assert!((share - SURE).abs() < 0.02, "{share}");
    }

    #[test]
    fn lengths_that_say_nothing_give_the_mean_and_tracks_that_do_not_count_are_not_seen() {
        let found = Calibration::fit(&[1.0; 4], &[0.2, 0.4, 0.6, 0.9], &[1.0, 1.0, 1.0, 0.0]).unwrap();
        assert_eq!((found.slope, found.confidence(1.0)), (0.0, 0.4));
        let falling = Calibration::fit(&[0.1, 0.9], &[0.9, 0.1], &[1.0; 2]).unwrap();
        assert_eq!((falling.slope, falling.confidence(0.3)), (0.0, 0.5));
        assert_eq!(Calibration { intercept: 0.5, slope: 2.0, margin: 0.0 }.confidence(9.0), 1.0);
    }

    #[test]
    fn what_cannot_be_calibrated_is_refused() {
        assert!(Calibration::fit(&[1.0], &[1.0], &[1.0]).is_err());
        assert!(Calibration::fit(&[1.0; 2], &[1.0; 2], &[1.0, 0.0]).is_err());
        assert!(Calibration::fit(&[1.0; 2], &[1.0; 3], &[1.0; 2]).is_err());
        assert!(Calibration::fit(&[1.0, f32::NAN], &[1.0; 2], &[1.0; 2]).is_err());
        assert!(Calibration { intercept: 0.0, slope: -1.0, margin: 0.0 }.check().is_err());
    }
}
