//! The cells of an inverted file: spherical k-means (Dhillon and Modha 2001), so that a search can leave out the
//! songs of all but the nearest centroids (Sivic and Zisserman 2003; Jégou, Douze and Schmid 2011, section IV).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::blocks::{Blocks, Coded, CodedTogether, TOGETHER};
use crate::linalg::unit;

/// Rounds of k-means: recall at equal probes gains less than 0.005 from twice as many.
const ROUNDS: usize = 8;

/// Centroids of unit length, one a list.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    dimensions: usize,
    /// `[lists][d]`
    centroids: Vec<f32>,
    codes: Blocks,
}

/// Lists, the nearest first; no more of them are sorted than are asked for.
pub(super) struct Nearest {
    scores: Vec<f32>,
    order: Vec<u32>,
    sorted: usize,
    next: usize,
}

impl Iterator for Nearest {
    type Item = (u32, f32);

    fn next(&mut self) -> Option<(u32, f32)> {
        if self.next == self.sorted {
            let rest = &mut self.order[self.sorted..];
            let n = rest.len().min(self.sorted.max(64));
            let by_score =
                |a: &u32, b: &u32| self.scores[*b as usize].total_cmp(&self.scores[*a as usize]).then(a.cmp(b));
            if n < rest.len() {
                rest.select_nth_unstable_by(n, by_score);
            }
            rest[..n].sort_unstable_by(by_score);
            self.sorted += n;
        }
        let list = *self.order.get(self.next)?;
        self.next += 1;
        Some((list, self.scores[list as usize]))
    }
}

impl Cells {
    /// Of centroids `[lists][d]`.
    pub fn of(dimensions: usize, centroids: Vec<f32>) -> Cells {
        let codes = Blocks::of(dimensions, 0, &centroids);
        Cells { dimensions, centroids, codes }
    }

    /// Learns `lists` cells from the unit vectors `sample` `[n][d]`; the same ones each time.
    pub fn train(dimensions: usize, sample: &[f32], lists: usize) -> Cells {
        let mut rng = ChaCha8Rng::seed_from_u64(0x6465_6275);
        let rows: Vec<&[f32]> = sample.chunks_exact(dimensions).collect();
        let lists = lists.clamp(1, rows.len().max(1));
        // Distinct rows to begin with: a shuffle's first `lists`.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        for i in 0..lists.min(rows.len()) {
            order.swap(i, rng.random_range(i..rows.len()));
        }
        let mut centroids: Vec<f32> = order.iter().take(lists).flat_map(|i| rows[*i]).copied().collect();
        for _ in 0..ROUNDS {
            let cells = Cells::of(dimensions, centroids);
            let assigned = cells.assign(sample);
            let mut sums = vec![0.0f64; lists * dimensions];
            let mut counts = vec![0usize; lists];
            for (row, cell) in rows.iter().zip(&assigned) {
                counts[*cell as usize] += 1;
                let sum = &mut sums[*cell as usize * dimensions..][..dimensions];
                sum.iter_mut().zip(*row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            centroids = cells.centroids;
            for (cell, count) in counts.into_iter().enumerate() {
                let centroid = &mut centroids[cell * dimensions..][..dimensions];
                let mean: Vec<f32> = sums[cell * dimensions..][..dimensions].iter().map(|s| *s as f32).collect();
                // A cell that nobody is in starts again at some song.
                let fresh = || rows[rng.random_range(0..rows.len())].to_vec();
                let now = unit(&mean).filter(|_| count > 0).unwrap_or_else(fresh);
                centroid.copy_from_slice(&now);
            }
        }
        Cells::of(dimensions, centroids)
    }

    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// `[lists][d]`
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// The cell that `vector` belongs into: that of the largest inner product with the centroid, by its 8-bit code, which
    /// is the same on every processor.
    pub fn nearest(&self, vector: &[f32]) -> u32 {
        self.codes.nearest(&CodedTogether::new(self.dimensions, [vector].into_iter()))[0]
    }

    /// [`Cells::nearest`] of the rows `[n][d]`, on all cores.
    pub fn assign(&self, rows: &[f32]) -> Vec<u32> {
        let d = self.dimensions;
        let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
        rows.par_chunks(TOGETHER)
            .flat_map_iter(|eight| {
                let nearest = self.codes.nearest(&CodedTogether::new(d, eight.iter().copied()));
                nearest.into_iter().take(eight.len())
            })
            .collect()
    }

    /// The lists and the inner products of their centroids with the query, the nearest first.
    pub fn nearest_lists(&self, query: &Coded) -> Nearest {
        let mut scores = Vec::with_capacity(self.len() + TOGETHER);
        self.codes.approximate(query, &mut scores);
        let order = (0..scores.len() as u32).collect();
        Nearest { scores, order, sorted: 0, next: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.centroids.capacity() * size_of::<f32>() + self.codes.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::dot;
    use rand::Rng;
    use std::collections::HashSet;

    fn unit_vectors(rng: &mut impl Rng, n: usize, d: usize) -> Vec<f32> {
        (0..n)
            .flat_map(|_| unit(&(0..d).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>()).unwrap())
            .collect()
    }

    /// Twelve tight clumps, far from one another: each becomes one cell, or is cut in two where another got two.
    #[test]
    fn clumps_become_cells() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (d, clumps) = (16, 12);
        let middles = unit_vectors(&mut rng, clumps, d);
        let rows: Vec<f32> = (0..1200)
            .flat_map(|i| {
                let middle = &middles[i % clumps * d..][..d];
                unit(&middle.iter().map(|x| x + rng.random_range(-0.02..0.02f32)).collect::<Vec<_>>()).unwrap()
            })
            .collect();
        let cells = Cells::train(d, &rows, 3 * clumps);
        let assigned = cells.assign(&rows);
        for (row, cell) in rows.chunks(d).zip(&assigned) {
            let centroid = &cells.centroids()[*cell as usize * d..][..d];
            assert!(dot(row, centroid) > 0.99);
            assert_eq!(cells.nearest(row), *cell);
        }
    }

    #[test]
    fn lists_come_nearest_first_and_odd_counts_are_no_fault() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let d = 8;
        let cells = Cells::of(d, unit_vectors(&mut rng, 370, d));
        let query = &unit_vectors(&mut rng, 1, d)[..];
        let all: Vec<(u32, f32)> = cells.nearest_lists(&Coded::new(query)).collect();
        let score = |list: u32| dot(query, &cells.centroids()[list as usize * d..][..d]);
        assert_eq!(all.iter().map(|(list, _)| list).collect::<HashSet<_>>().len(), 370);
        // Codes of 8 bits put neighbours in another order only where they hardly differ.
        assert!(all.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        assert!(all.iter().all(|(list, near)| (score(*list) - near).abs() < 0.02));
        assert_eq!(Cells::train(d, &unit_vectors(&mut rng, 3, d), 10).len(), 3);
    }
}
