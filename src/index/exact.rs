//! The exact scan: every vector is looked at, and the answer is right.
//!
//! Vectors lie in blocks of 16, number by number: block `[d][16]`. The inner loop then multiplies one number of the
//! query with the same number of 16 songs that lie side by side, which the compiler turns into SIMD. At 40 numbers a
//! song, a scan is faster than a graph up to about 100,000 songs at equal recall (see the [module](super)).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Hit;

/// Songs per block: two AVX-512 registers' half, four SSE registers; so no instruction set is left idle.
const LANES: usize = 16;

/// Vectors under keys, scanned exactly by inner product.
#[derive(Clone, Debug, Default)]
pub struct Exact {
    dimensions: usize,
    /// `[blocks][dimensions][LANES]`; the lanes after the last song are zero.
    blocks: Vec<f32>,
    /// The key of each slot, in slot order.
    keys: Vec<u64>,
    slots: HashMap<u64, usize>,
}

impl Exact {
    pub fn new(dimensions: usize) -> Exact {
        Exact { dimensions, ..Exact::default() }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn contains(&self, key: u64) -> bool {
        self.slots.contains_key(&key)
    }

    /// Adds the vector `[d]` or replaces the one under `key`.
    pub fn upsert(&mut self, key: u64, vector: &[f32]) {
        debug_assert_eq!(vector.len(), self.dimensions);
        let slot = *self.slots.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        let block = LANES * self.dimensions;
        self.blocks.resize(self.keys.len().div_ceil(LANES) * block, 0.0);
        self.write(slot, |i| vector[i]);
    }

    /// Takes the vector out; the last one moves into its place.
    pub fn remove(&mut self, key: u64) {
        let Some(slot) = self.slots.remove(&key) else { return };
        let last = self.keys.len() - 1;
        if slot != last {
            let moved: Vec<f32> = self.vector_at(last).collect();
            self.write(slot, |i| moved[i]);
            self.keys[slot] = self.keys[last];
            self.slots.insert(self.keys[slot], slot);
        }
        self.write(last, |_| 0.0);
        self.keys.pop();
        self.blocks.truncate(self.keys.len().div_ceil(LANES) * LANES * self.dimensions);
    }

    /// Every key and vector, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Vec<f32>)> + '_ {
        self.keys.iter().enumerate().map(|(slot, &key)| (key, self.vector_at(slot).collect()))
    }

    /// The `k` songs of the largest inner product with `query` `[d]` that `keep` lets through, best first; equal scores
    /// in order of their keys.
    pub fn search(&self, query: &[f32], k: usize, keep: &dyn Fn(u64) -> bool) -> Vec<Hit> {
        debug_assert_eq!(query.len(), self.dimensions);
        let mut best = Best::new(k);
        for (block, keys) in self.blocks.chunks_exact(LANES * self.dimensions.max(1)).zip(self.keys.chunks(LANES)) {
            let mut scores = [0.0f32; LANES];
            for (q, lanes) in query.iter().zip(block.as_chunks::<LANES>().0) {
                for (score, value) in scores.iter_mut().zip(lanes) {
                    *score += q * value;
                }
            }
            for (&key, &score) in keys.iter().zip(&scores) {
                if best.takes(score) && keep(key) {
                    best.push(Hit { key, score });
                }
            }
        }
        best.into_sorted()
    }

    fn write(&mut self, slot: usize, value: impl Fn(usize) -> f32) {
        let at = slot / LANES * LANES * self.dimensions + slot % LANES;
        for i in 0..self.dimensions {
            self.blocks[at + i * LANES] = value(i);
        }
    }

    fn vector_at(&self, slot: usize) -> impl Iterator<Item = f32> + '_ {
        let at = slot / LANES * LANES * self.dimensions + slot % LANES;
        (0..self.dimensions).map(move |i| self.blocks[at + i * LANES])
    }
}

/// The best `k` hits so far: a heap with the worst of them on top.
pub struct Best {
    k: usize,
    heap: BinaryHeap<Worst>,
}

impl Best {
    pub fn new(k: usize) -> Best {
        // Grown as hits come, so that an absurd `k` costs nothing.
        Best { k, heap: BinaryHeap::new() }
    }

    /// Whether a hit of this score can still enter.
    pub fn takes(&self, score: f32) -> bool {
        self.heap.len() < self.k || self.heap.peek().is_some_and(|worst| score >= worst.0.score)
    }

    pub fn push(&mut self, hit: Hit) {
        if self.k == 0 {
            return;
        }
        self.heap.push(Worst(hit));
        if self.heap.len() > self.k {
            self.heap.pop();
        }
    }

    /// Best first.
    pub fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|w| w.0).collect()
    }
}

/// Ordered so that the worst hit is the greatest: lowest score, then highest key.
#[derive(PartialEq)]
struct Worst(Hit);

impl Eq for Worst {}

impl Ord for Worst {
    fn cmp(&self, other: &Worst) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.key.cmp(&other.0.key))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Worst) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The slow clear version: sort all by inner product.
    fn oracle(songs: &HashMap<u64, Vec<f32>>, query: &[f32], k: usize) -> Vec<u64> {
        let mut all: Vec<(f32, u64)> =
            songs.iter().map(|(key, v)| (v.iter().zip(query).map(|(a, b)| a * b).sum(), *key)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(k).map(|(_, key)| key).collect()
    }

    #[test]
    fn equals_a_sort_of_all_through_inserts_replacements_and_removals() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let d = 7;
        let (mut exact, mut songs) = (Exact::new(d), HashMap::new());
        for step in 0..2000u64 {
            let key = rng.random_range(0..300u64);
            if rng.random_range(0..3) == 0 {
                exact.remove(key);
                songs.remove(&key);
            } else {
                // Small integers: sums are exact, so ties are real ties.
                let vector: Vec<f32> = (0..d).map(|_| rng.random_range(-3i8..=3).into()).collect();
                exact.upsert(key, &vector);
                songs.insert(key, vector);
            }
            if step % 50 == 0 {
                let query: Vec<f32> = (0..d).map(|_| rng.random_range(-3i8..=3).into()).collect();
                let found: Vec<u64> = exact.search(&query, 10, &|_| true).iter().map(|h| h.key).collect();
                assert_eq!(found, oracle(&songs, &query, 10), "step {step}");
                assert_eq!(exact.len(), songs.len());
            }
        }
    }

    #[test]
    fn a_filter_costs_no_answers_and_odd_k_no_memory() {
        let mut exact = Exact::new(1);
        for key in 0..100 {
            exact.upsert(key, &[key as f32]);
        }
        let odd = exact.search(&[1.0], 3, &|key| key % 2 == 1);
        assert_eq!(odd.iter().map(|h| h.key).collect::<Vec<_>>(), [99, 97, 95]);
        assert!(exact.search(&[1.0], 0, &|_| true).is_empty());
        assert_eq!(exact.search(&[1.0], usize::MAX, &|_| true).len(), 100);
        assert!(Exact::new(1).search(&[1.0], 5, &|_| true).is_empty());
    }
}
