//! A listener who was not in the fit, from the tracks he met: the same row solve, with the tracks fixed. And a track,
//! from its listeners.

use ndarray::{Array2, ArrayView2};

use super::Ridge;
use crate::error::{Error, Result};
use crate::linalg::{Entries, Gram, Rows, WeightedRidge, check_entries, dot};

/// Solves rows against one side of a factorisation.
#[derive(Clone, Debug)]
pub struct FoldIn {
    /// `YᵀY` of the fixed side.
    gram: Gram,
    ridge: Ridge,
}

impl FoldIn {
    /// Against these factors `[n, d]`: all of them, since those that a row has not met count too, as zeros.
    pub fn new(factors: ArrayView2<f32>, ridge: Ridge) -> FoldIn {
        FoldIn { gram: Gram::of_array(factors), ridge }
    }

    /// Against the factors whose Gram matrix `[d, d]` this is.
    ///
    /// # Errors
    /// `Mismatch` where it is not square.
    pub fn from_gram(gram: Array2<f32>, ridge: Ridge) -> Result<FoldIn> {
        if gram.is_square() {
            Ok(FoldIn { gram: Gram::from_matrix(gram.view()), ridge })
        } else {
            Err(Error::mismatch("rows and columns of a Gram matrix", gram.nrows(), gram.ncols()))
        }
    }

    pub fn dimensions(&self) -> usize {
        self.gram.dimensions()
    }

    /// The vector `[d]` of a listener (or playlist) who met `vectors` `[n, d]`, with the confidence `c ≥ 1` and the
    /// preference `p` (0..=1) of each. Zero where there is no history.
    ///
    /// # Errors
    /// `Mismatch` of shapes, `Invalid` for numbers out of range.
    pub fn solve(&self, vectors: ArrayView2<f32>, confidence: &[f32], preference: &[f32]) -> Result<Vec<f32>> {
        check_entries(self.dimensions(), vectors, confidence, preference)?;
        let (rows, indices) = (Rows::of(vectors), numbers(vectors));
        let entries = Entries { rows: &rows, indices: &indices, confidence, target: preference };
        let mut solver = WeightedRidge::new(self.dimensions());
        Ok(solver.solve(&self.gram, self.ridge.at(confidence.len()), entries)?.0.to_vec())
    }

    /// What each track of the history contributes to the score of `candidate` `[d]`, in the order of the history:
    /// `cⱼ pⱼ · candidateᵀ W vⱼ` with `W = (G + Σ(c−1)vvᵀ + λI)⁻¹` (Hu et al. 2008, section 5). They sum to `x·candidate`
    /// for the `x` of [`FoldIn::solve`]. Skipped tracks have pushed `x` as well, but contribute 0.
    ///
    /// # Errors
    /// As [`FoldIn::solve`].
    pub fn explain(
        &self,
        vectors: ArrayView2<f32>,
        confidence: &[f32],
        preference: &[f32],
        candidate: &[f32],
    ) -> Result<Vec<f32>> {
        check_entries(self.dimensions(), vectors, confidence, preference)?;
        if candidate.len() != self.dimensions() {
            let expected = format!("{} dimensions", self.dimensions());
            return Err(Error::mismatch("candidate and Gram matrix", expected, candidate.len()));
        }
        let (rows, indices) = (Rows::of(vectors), numbers(vectors));
        let nothing = vec![0.0; preference.len()];
        let entries = Entries { rows: &rows, indices: &indices, confidence, target: &nothing };
        let mut solver = WeightedRidge::new(self.dimensions());
        let through = solver.solve_with(&self.gram, self.ridge.at(confidence.len()), entries, candidate)?;
        let weights = confidence.iter().zip(preference);
        Ok(weights.enumerate().map(|(i, (c, p))| c * p * dot(rows.row(i), through)).collect())
    }
}

/// 0, 1, 2, ... for each row.
fn numbers(rows: ArrayView2<f32>) -> Vec<u32> {
    (0..rows.nrows() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(n: usize, d: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, d), |(i, j)| (((i * 37 + j * 61 + i * j) % 83) as f32 - 41.0) / 60.0)
    }

    #[test]
    fn contributions_sum_to_the_score() {
        let all = tracks(300, 24);
        let fold_in = FoldIn::new(all.view(), Ridge::plain(2.0));
        let history = all.slice(ndarray::s![10..40, ..]);
        let confidence: Vec<f32> = (0..30).map(|i| 1.0 + i as f32 * 3.0).collect();
        let preference: Vec<f32> = (0..30).map(|i| [1.0, 0.0, 0.7][i % 3]).collect();
        let x = fold_in.solve(history, &confidence, &preference).unwrap();
        for candidate in [0, 12, 299] {
            let candidate = all.row(candidate).to_vec();
            let because = fold_in.explain(history, &confidence, &preference, &candidate).unwrap();
            let (sum, score) = (because.iter().sum::<f32>(), dot(&x, &candidate));
            assert!((sum - score).abs() < 1e-4, "{sum} {score}");
            assert_eq!(because[1], 0.0, "a skip");
        }
    }

    #[test]
    fn the_track_that_was_played_explains_itself_and_one_like_it() {
        // Two clusters on two axes; one play in each, the first of them many times.
        let all = Array2::from_shape_fn((100, 2), |(i, j)| f32::from(u8::from(i % 2 == j)));
        let fold_in = FoldIn::new(all.view(), Ridge::plain(0.1));
        let because =
            fold_in.explain(all.slice(ndarray::s![0..2, ..]), &[41.0, 41.0], &[1.0, 1.0], &[1.0, 0.0]).unwrap();
        assert!(because[0] > 0.4 && because[1].abs() < 1e-6, "{because:?}");
    }

    #[test]
    fn no_history_is_zero_and_nonsense_is_refused() {
        let all = tracks(50, 8);
        let fold_in = FoldIn::new(all.view(), Ridge::plain(1.0));
        assert_eq!(fold_in.solve(all.slice(ndarray::s![0..0, ..]), &[], &[]).unwrap(), [0.0; 8]);
        let one = all.slice(ndarray::s![0..1, ..]);
        assert!(fold_in.solve(one, &[2.0], &[1.0]).is_ok());
        assert!(matches!(fold_in.solve(one, &[2.0, 2.0], &[1.0]), Err(Error::Mismatch { .. })));
        assert!(matches!(fold_in.solve(tracks(1, 7).view(), &[2.0], &[1.0]), Err(Error::Mismatch { .. })));
        for (confidence, preference) in
            [(0.5, 1.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0), (2.0, -1.0), (2.0, f32::NAN)]
        {
            assert!(matches!(fold_in.solve(one, &[confidence], &[preference]), Err(Error::Invalid { .. })));
        }
        assert!(fold_in.solve(Array2::from_elem((1, 8), f32::NAN).view(), &[2.0], &[1.0]).is_err());
        assert!(fold_in.explain(one, &[2.0], &[1.0], &[1.0; 7]).is_err());
        assert!(FoldIn::from_gram(Array2::zeros((3, 2)), Ridge::plain(1.0)).is_err());
    }
}
