//! What a network must beat: simpler ways to a new track's vector, from what the catalogue says of it and from its sound.
//!
//! - [`catalogue`]: the mean of its artist's other tracks, or its album's: nothing is heard at all;
//! - [`LinearBaseline`] on the mean of each mel band ([`mean_mel`]): timbre's average;
//! - the same on a [bag of words](bag_of_words) of MFCCs, and [`Mlp`] on that: the baselines of van den Oord et al. 2013.
//!
//! All learn the same unit-length factors from the same tracks, weighted by the same evidence, and choose what is to be
//! chosen (a penalty, when to stop) on the same validation tracks as a network does.

pub mod bag_of_words;
pub mod catalogue;
mod linear;
pub mod mfcc;
mod mlp;
mod pca;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

pub use bag_of_words::{BagOfWords, Vocabulary};
pub use linear::{LinearBaseline, mean_mel};
pub use mlp::{Mlp, MlpConfig};
pub use pca::Pca;

/// What the learning baselines are given.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// `[tracks, dimensions]`, scaled to unit length where they are used.
    pub targets: ArrayView2<'a, f32>,
    /// How much each track counts, `[tracks]`, as for the network.
    pub weights: &'a [f32],
    /// Tracks to learn from.
    pub train: &'a [usize],
    /// Tracks to choose by.
    pub valid: &'a [usize],
}

/// Rows and columns that one task multiplies. Fixed, so that the same sums are made in the same order on any number of
/// threads.
const TILE: (usize, usize) = (64, 256);

/// The product of `a` `[n, k]` and `b` `[k, m]`, on all cores.
fn product(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    let rows = a.axis_chunks_iter(Axis(0), TILE.0).zip(out.axis_chunks_iter_mut(Axis(0), TILE.0));
    let mut tasks = Vec::new();
    for (a, mut out) in rows {
        let columns = b.axis_chunks_iter(Axis(1), TILE.1);
        for b in columns {
            let (part, rest) = out.split_at(Axis(1), b.ncols());
            tasks.push((a, b, part));
            out = rest;
        }
    }
    tasks.into_par_iter().for_each(|(a, b, mut out)| general_mat_mul(1.0, &a, &b, 0.0, &mut out));
    out
}

#[test]
fn a_product_in_parts_is_the_product() {
    for (n, k, m) in [(1, 1, 1), (65, 3, 257), (130, 40, 600), (3, 0, 2)] {
        let a = Array2::from_shape_fn((n, k), |(i, j)| (i * 7 + j * 3) as f32 % 5.0);
        let b = Array2::from_shape_fn((k, m), |(i, j)| (i * 2 + j * 11) as f32 % 7.0);
        assert_eq!(product(a.view(), b.view()), a.dot(&b));
    }
}
