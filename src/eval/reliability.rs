//! Does a confidence hold what it says? Among tracks of which a cosine of .6 was expected, the mean should be .6.

use serde::Serialize;

use super::metrics::{MeanSe, mean_se};
use crate::error::{Error, Result};

/// A reliability diagram (Murphy & Winkler 1977) of equally full bins, and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    pub bins: Vec<Bin>,
    /// The expected calibration error: the mean over tracks of their bin's |confidence − cosine| (Guo et al. 2017, eq. 3).
    pub error: f64,
    /// Spearman's rank correlation of confidence and cosine: what is left of a confidence whatever its scale.
    pub rank_correlation: f64,
    /// The share of tracks whose cosine lies above their confidence less the margin.
    pub above_margin: f64,
    /// The share of which that was promised.
    pub promised: f64,
}

/// Some tracks of like confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Mean confidence.
    pub confidence: f64,
    /// The cosines that came of it.
    pub cosine: MeanSe,
}

/// `confidences` and the `cosines` that came of them, `[n]` each, in `bins` bins; of a cosine above the confidence less
/// its margin, of `margins` `[n]`, a share of `promised` was promised.
///
/// # Errors
/// `Mismatch` for other numbers of them; `Invalid` without a bin, with more bins than tracks, or a number that is not
/// finite.
pub fn reliability(
    confidences: &[f32],
    cosines: &[f32],
    margins: &[f32],
    promised: f64,
    bins: usize,
) -> Result<Reliability> {
    let n = confidences.len();
    if (cosines.len(), margins.len()) != (n, n) {
        let found = format!("{} and {}", cosines.len(), margins.len());
        return Err(Error::mismatch("confidences with their cosines and margins", format!("{n} of each"), found));
    }
    if bins == 0 || bins > n {
        return Err(Error::invalid("bins of a reliability diagram", format!("1 to the {n} tracks"), bins));
    }
    if let Some(bad) = confidences.iter().chain(cosines).chain(margins).find(|x| !x.is_finite()) {
        return Err(Error::invalid("confidences, cosines and margins", "finite numbers", bad));
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| confidences[a].total_cmp(&confidences[b]).then(a.cmp(&b)));
    let mut error = 0.0;
    let bins = (0..bins)
        .map(|bin| {
            let tracks = &order[bin * n / bins..(bin + 1) * n / bins];
            let confidence = tracks.iter().map(|&t| f64::from(confidences[t])).sum::<f64>() / tracks.len() as f64;
            let cosine = mean_se(&tracks.iter().map(|&t| f64::from(cosines[t])).collect::<Vec<_>>());
            error += (confidence - cosine.mean).abs() * tracks.len() as f64 / n as f64;
            Bin { confidence, cosine }
        })
        .collect();
    let above = (0..n).filter(|&t| cosines[t] >= confidences[t] - margins[t]).count();
    Ok(Reliability {
        bins,
        error,
        rank_correlation: correlation(&ranks(confidences), &ranks(cosines)),
        above_margin: above as f64 / n as f64,
        promised,
    })
}

/// The place of each among all, the mean place of those that are alike.
fn ranks(x: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut ranks = vec![0.0; x.len()];
    let mut first = 0;
    for alike in order.chunk_by(|&a, &b| x[a] == x[b]) {
        let rank = first as f64 + (alike.len() - 1) as f64 / 2.0;
        alike.iter().for_each(|&i| ranks[i] = rank);
        first += alike.len();
    }
    ranks
}

/// Pearson's; 0 where one of the two does not vary.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        xy += (x - mx) * (y - my);
        xx += (x - mx).powi(2);
        yy += (y - my).powi(2);
    }
    if xx > 0.0 && yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let r = reliability(&[0.2, 0.8, 0.4, 0.6], &[0.1, 0.9, 0.3, 0.5], &[0.11; 4], 0.9, 2).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(near(r.bins[0].confidence, 0.3) && near(r.bins[0].cosine.mean, 0.2));
        assert!(near(r.bins[1].confidence, 0.7) && near(r.bins[1].cosine.mean, 0.7));
        assert!(near(r.error, 0.05) && near(r.rank_correlation, 1.0), "{r:?}");
        assert_eq!(r.above_margin, 1.0);
        let above =
            |margins: &[f32; 4]| reliability(&[0.5; 4], &[0.4, 0.5, 0.6, 0.3], margins, 0.9, 1).unwrap().above_margin;
        assert_eq!((above(&[0.15; 4]), above(&[0.15, 0.0, 0.0, 0.3]), above(&[0.0; 4])), (0.75, 1.0, 0.5));
    }

    #[test]
    fn ranks_share_places_and_what_does_not_vary_correlates_with_nothing() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        assert_eq!(reliability(&[0.5; 3], &[0.1, 0.2, 0.3], &[0.0; 3], 0.9, 1).unwrap().rank_correlation, 0.0);
        assert_eq!(correlation(&[0.0, 1.0, 2.0], &[2.0, 1.0, 0.0]), -1.0);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(reliability(&[0.5], &[], &[0.0], 0.9, 1).is_err() && reliability(&[0.5], &[0.5], &[], 0.9, 1).is_err());
        assert!(reliability(&[0.5], &[0.5], &[0.0], 0.9, 2).is_err() && reliability(&[], &[], &[], 0.9, 0).is_err());
        assert!(reliability(&[f32::NAN], &[0.5], &[0.0], 0.9, 1).is_err());
        assert!(reliability(&[0.5], &[0.5], &[f32::NAN], 0.9, 1).is_err());
    }
}
