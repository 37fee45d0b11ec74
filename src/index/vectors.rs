//! Vectors under keys, and the songs of the largest inner product with a query among them.
//!
//! Every vector lies here twice: as 32-bit floats, and in 8-bit codes that bound its score. A search
//! goes through the codes, and computes the score itself only where the bound reaches the `k`-th best so far; so its
//! answer is that of a scan of all floats, at a fraction of the memory read.
//!
//! The codes lie in one list, or in several, so that a search can leave lists out.

use rayon::prelude::*;

use super::Hit;
use super::blocks::{Blocks, Coded, CodedTogether, TOGETHER};
use super::cells::Cells;
use super::keys::Keys;
use super::lists::Probe;
use super::top::Best;
use crate::error::{Error, Result};
use crate::linalg::{dot, norm};

/// Blocks that are looked through before the threshold is raised: few at first, since without a threshold every song
/// is looked at; then as many as the first cache holds.
const FIRST_BLOCKS: usize = 4;
const MOST_BLOCKS: usize = 64;
/// Songs of the nearest lists by which a filter is judged: 256 facts are read in 10 µs.
const SAMPLED_LISTS: usize = 32;
const SAMPLED_SONGS: usize = 8;
/// Larger numbers could make a product infinite.
const LARGEST: f32 = 1e15;

/// Which vectors lie in one list.
#[derive(Clone, Debug)]
pub(super) enum Partition {
    /// All.
    One,
    /// Those nearest to one centroid (an inverted file): a search may look into the nearest lists only.
    Cells(Cells),
    /// Those of about the same norm: a search for inner products goes from the longest down, and stops where by
    /// Cauchy–Schwarz none that is shorter can be among the best.
    Norms,
}

/// What a search of the nearest lists would find, depending on how far it looks.
pub(super) struct Trace {
    /// For each of the answers, the gap from which on it is found.
    pub gaps: Vec<f32>,
    /// For each list, the gap from which on it is looked into, and the songs in it and in those before.
    pub lists: Vec<(f32, usize)>,
}

/// Norms of one list differ by at most a sixteenth: it is named by the exponent and four bits of the mantissa.
const NORM_BITS: u32 = 19;

/// Vectors under keys, each with `T` beside it.
#[derive(Clone, Debug)]
pub struct Vectors<T = ()> {
    dimensions: usize,
    partition: Partition,
    lists: Vec<Blocks>,
    /// `[slots][d]`
    rows: Vec<f32>,
    keys: Vec<u64>,
    beside: Vec<T>,
    /// List and position of each slot.
    places: Vec<(u32, u32)>,
    slots: Keys,
}

impl<T> Vectors<T> {
    /// None yet, in one list.
    pub fn new(dimensions: usize) -> Vectors<T> {
        Vectors::partitioned(dimensions, Partition::One)
    }

    /// None yet, in lists by their norm, for [`Vectors::search`] among vectors of very different norms.
    pub fn by_norm(dimensions: usize) -> Vectors<T> {
        Vectors::partitioned(dimensions, Partition::Norms)
    }

    /// Rows `[songs][d]`, their keys and what is beside each, `counts` of them in the list of each cell (without cells, all
    /// in one list).
    ///
    /// # Errors
    /// `Mismatch` where these do not fit together, `Invalid` for a number of a row that [`Vectors::upsert`] refuses, or a key
    /// that is there twice.
    pub(super) fn of_lists(
        dimensions: usize,
        cells: Option<Cells>,
        counts: &[u32],
        keys: Vec<u64>,
        rows: Vec<f32>,
        beside: Vec<T>,
    ) -> Result<Vectors<T>> {
        let n = keys.len();
        let lists = cells.as_ref().map_or(1, Cells::len);
        let counted: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if u32::try_from(n).is_err()
            || counts.len() != lists
            || counted != n as u64
            || rows.len() != n * dimensions
            || beside.len() != n
        {
            let found = format!("{counted} in {}, {} numbers, {} facts", counts.len(), rows.len(), beside.len());
            return Err(Error::mismatch("lists and their songs", format!("{n} songs in {lists} lists"), found));
        }
        let firsts: Vec<u32> =
            counts.iter().scan(0, |next, count| Some(std::mem::replace(next, *next + count))).collect();
        let of_list = |(first, count): (&u32, &u32)| {
            let rows = &rows[*first as usize * dimensions..][..*count as usize * dimensions];
            rows.chunks_exact(dimensions.max(1)).try_for_each(|row| check(dimensions, row))?;
            Ok(Blocks::of(dimensions, *first, rows))
        };
        let (lists, slots) = rayon::join(
            || firsts.par_iter().zip(counts).map(of_list).collect::<Result<Vec<Blocks>>>(),
            || Keys::of(&keys),
        );
        let mut places = Vec::with_capacity(n);
        for (list, count) in (0..).zip(counts) {
            places.extend((0..*count).map(|position| (list, position)));
        }
        let partition = cells.map_or(Partition::One, Partition::Cells);
        let slots = slots.ok_or_else(|| Error::invalid("keys of songs", "each of them once", "one of them twice"))?;
        Ok(Vectors { dimensions, partition, lists: lists?, rows, keys, beside, places, slots })
    }

    fn partitioned(dimensions: usize, partition: Partition) -> Vectors<T> {
        let lists = match &partition {
            Partition::One => 1,
            Partition::Cells(cells) => cells.len(),
            // Up to the list of the largest number.
            Partition::Norms => (f32::MAX.to_bits() >> NORM_BITS) as usize + 1,
        };
        Vectors {
            dimensions,
            partition,
            lists: vec![Blocks::new(dimensions); lists],
            rows: Vec::new(),
            keys: Vec::new(),
            beside: Vec::new(),
            places: Vec::new(),
            slots: Keys::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub fn contains(&self, key: u64) -> bool {
        self.slots.get(key).is_some()
    }

    /// The vector `[d]` under `key`, and what is beside it.
    pub fn get(&self, key: u64) -> Option<(&[f32], &T)> {
        let slot = self.slots.get(key)?;
        Some((self.row(slot), &self.beside[slot as usize]))
    }

    pub fn beside_mut(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get(key)?;
        Some(&mut self.beside[slot as usize])
    }

    /// Every key and vector.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[f32])> {
        self.keys.iter().zip(self.rows.chunks_exact(self.dimensions.max(1))).map(|(key, row)| (*key, row))
    }

    /// Every key, in the order of [`Vectors::iter`].
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        self.keys.iter().copied()
    }

    /// What is beside each vector, in the order of [`Vectors::iter`].
    pub fn beside(&self) -> impl Iterator<Item = &T> {
        self.beside.iter()
    }

    /// The same, those of one list after those of another.
    pub(super) fn in_lists(&self) -> impl Iterator<Item = (u64, &[f32], &T)> {
        let slots = self.lists.iter().flat_map(Blocks::slots);
        slots.map(|slot| (self.keys[*slot as usize], self.row(*slot), &self.beside[*slot as usize]))
    }

    /// The number of vectors in each list.
    pub(super) fn list_lengths(&self) -> impl Iterator<Item = u32> {
        self.lists.iter().map(|list| list.len() as u32)
    }

    /// Bytes that this occupies, unused capacity included.
    pub fn bytes(&self) -> usize {
        self.lists.iter().map(|list| list.bytes() + size_of::<Blocks>()).sum::<usize>()
            + self.rows.capacity() * size_of::<f32>()
            + self.keys.capacity() * size_of::<u64>()
            + self.beside.capacity() * size_of::<T>()
            + self.places.capacity() * size_of::<(u32, u32)>()
            + self.slots.bytes()
            + self.cells().map_or(0, Cells::bytes)
    }

    /// Adds the vector `[d]` or replaces the one under `key`.
    ///
    /// # Errors
    /// `Mismatch` of dimensions; `Invalid` for numbers that are not finite or beyond ±10¹⁵; nothing is changed then.
    pub fn upsert(&mut self, key: u64, vector: &[f32], beside: T) -> Result<()> {
        self.upsert_into(None, key, vector, beside)
    }

    /// As [`Vectors::upsert`], into the list of its cell, where that is known already.
    pub(super) fn upsert_into(&mut self, list: Option<u32>, key: u64, vector: &[f32], beside: T) -> Result<()> {
        check(self.dimensions, vector)?;
        let list = list.unwrap_or_else(|| self.list_of(vector));
        if let Some(slot) = self.slots.get(key) {
            let at = slot as usize;
            self.rows[at * self.dimensions..][..self.dimensions].copy_from_slice(vector);
            self.beside[at] = beside;
            let (old, position) = self.places[at];
            if old == list {
                self.lists[list as usize].write(position as usize, vector);
                return Ok(());
            }
            self.take_out(old, position);
            self.put_in(list, slot);
            return Ok(());
        }
        let slot = u32::try_from(self.keys.len())
            .map_err(|_| Error::invalid("number of vectors in an index", "at most 4294967295", self.keys.len()))?;
        self.rows.extend_from_slice(vector);
        self.keys.push(key);
        self.beside.push(beside);
        self.places.push((0, 0));
        self.slots.insert(key, slot);
        self.put_in(list, slot);
        Ok(())
    }

    /// Takes the vector out, and returns what was beside it; the last one moves into its slot.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let slot = self.slots.remove(key)?;
        let at = slot as usize;
        let (list, position) = self.places[at];
        self.take_out(list, position);
        let last = self.keys.len() - 1;
        self.rows.copy_within(last * self.dimensions.., at * self.dimensions);
        self.rows.truncate(last * self.dimensions);
        self.keys.swap_remove(at);
        self.places.swap_remove(at);
        if at != last {
            self.slots.insert(self.keys[at], slot);
            let (list, position) = self.places[at];
            self.lists[list as usize].rename(position as usize, slot);
        }
        Some(self.beside.swap_remove(at))
    }

    fn put_in(&mut self, list: u32, slot: u32) {
        let blocks = &mut self.lists[list as usize];
        self.places[slot as usize] = (list, blocks.len() as u32);
        blocks.push(slot, &self.rows[slot as usize * self.dimensions..][..self.dimensions]);
    }

    fn take_out(&mut self, list: u32, position: u32) {
        if let Some(moved) = self.lists[list as usize].swap_remove(position as usize) {
            self.places[moved as usize].1 = position;
        }
    }

    fn list_of(&self, vector: &[f32]) -> u32 {
        match &self.partition {
            Partition::One => 0,
            Partition::Cells(cells) => cells.nearest(vector),
            Partition::Norms => norm(vector).to_bits() >> NORM_BITS,
        }
    }

    fn row(&self, slot: u32) -> &[f32] {
        &self.rows[slot as usize * self.dimensions..][..self.dimensions]
    }

    /// The `k` vectors of the largest inner product with `query` `[d]` that `keep` lets through, exactly, best first;
    /// equal scores in order of their keys.
    ///
    /// # Errors
    /// As [`Vectors::upsert`], of the query.
    pub fn search(&self, query: &[f32], k: usize, keep: &dyn Fn(u64, &T) -> bool) -> Result<Vec<Hit>> {
        check(self.dimensions, query)?;
        let mut best = Best::new(k);
        self.scan(query, keep, &|_| 0, &mut best);
        Ok(best.into_sorted())
    }

    /// Goes through all lists, with the threshold that `best` has and raises.
    pub(super) fn scan(
        &self,
        query: &[f32],
        keep: &dyn Fn(u64, &T) -> bool,
        group: &dyn Fn(&T) -> u64,
        best: &mut Best,
    ) {
        let coded = Coded::new(query);
        match &self.partition {
            Partition::One => self.scan_list(0, query, &coded, keep, group, best),
            // The nearest lists first: the threshold that they leave lets hardly anything through in the others.
            Partition::Cells(cells) => {
                let mut seen = vec![false; self.lists.len()];
                for (list, _) in cells.nearest_lists(&coded).take(self.lists.len().div_ceil(64)) {
                    seen[list as usize] = true;
                    self.scan_list(list as usize, query, &coded, keep, group, best);
                }
                for list in (0..self.lists.len()).filter(|list| !seen[*list]) {
                    self.scan_list(list, query, &coded, keep, group, best);
                }
            }
            Partition::Norms => {
                let length = norm(query);
                for list in (0..self.lists.len()).rev() {
                    // The first norm that belongs into the next list; of the last list, infinity.
                    let longest = f32::from_bits((list as u32 + 1) << NORM_BITS);
                    if longest * length * 1.000_01 < best.threshold() {
                        break;
                    }
                    self.scan_list(list, query, &coded, keep, group, best);
                }
            }
        }
    }

    /// Offers each of these keys, without going through the lists.
    pub(super) fn gather(
        &self,
        keys: impl Iterator<Item = u64>,
        query: &[f32],
        keep: &dyn Fn(u64, &T) -> bool,
        group: &dyn Fn(&T) -> u64,
        best: &mut Best,
    ) {
        for (key, slot) in keys.filter_map(|key| Some((key, self.slots.get(key)?))) {
            self.consider(key, slot, query, keep, group, best);
        }
    }

    /// As [`Vectors::scan`] of unit vectors, in the lists whose centroids are near enough to the query: at an angle no more
    /// than a gap (radians) wider than that of the worst of the best so far. Without an end to the gap, in all. It is the
    /// filtered one where `keep` lets through less than half as many of the songs near the query as of all, of which it
    /// lets through this `share`.
    pub(super) fn probe(
        &self,
        query: &[f32],
        gaps: &Probe,
        share: f64,
        keep: &dyn Fn(u64, &T) -> bool,
        group: &dyn Fn(&T) -> u64,
        best: &mut Best,
    ) {
        let (Partition::Cells(cells), true) = (&self.partition, gaps.gap < f32::INFINITY) else {
            return self.scan(query, keep, group, best);
        };
        let (coded, length) = (Coded::new(query), norm(query).max(f32::MIN_POSITIVE));
        let mut lists = cells.nearest_lists(&coded);
        let near: Vec<(u32, f32)> = lists.by_ref().take(if share < 1.0 { SAMPLED_LISTS } else { 0 }).collect();
        let (mut looked_at, mut kept) = (0, 0);
        for slots in near.iter().map(|(list, _)| self.lists[*list as usize].slots()) {
            for slot in slots.iter().step_by(slots.len().div_ceil(SAMPLED_SONGS).max(1)) {
                looked_at += 1;
                kept += usize::from(keep(self.keys[*slot as usize], &self.beside[*slot as usize]));
            }
        }
        let gap = if (kept as f64) < 0.5 * share * f64::from(looked_at) { gaps.filtered } else { gaps.gap };
        for (list, score) in near.into_iter().chain(lists) {
            if wider(score / length, best.threshold() / length) > gap {
                break;
            }
            self.scan_list(list as usize, query, &coded, keep, group, best);
        }
    }

    /// Which lists are the share of all that is nearest to `middle`.
    pub(super) fn region(&self, middle: &[f32], share: f64) -> Vec<bool> {
        let mut among = vec![false; self.lists.len()];
        if let Partition::Cells(cells) = &self.partition {
            let n = (share * self.lists.len() as f64).ceil() as usize;
            cells.nearest_lists(&Coded::new(middle)).take(n).for_each(|(list, _)| among[list as usize] = true);
        }
        among
    }

    /// As [`Vectors::search`], of the songs in these lists.
    pub(super) fn search_region(&self, query: &[f32], k: usize, among: &[bool]) -> Vec<Hit> {
        let (mut best, coded) = (Best::new(k), Coded::new(query));
        for list in (0..self.lists.len()).filter(|list| among[*list]) {
            self.scan_list(list, query, &coded, &|_, _| true, &|_| 0, &mut best);
        }
        best.into_sorted()
    }

    /// What [`Vectors::probe`] does, list after list, as far as it takes to find the nearest, `truth`, where a filter lets
    /// nothing through that is not `among` these lists.
    pub(super) fn trace(&self, query: &[f32], truth: &[Hit], among: &[bool]) -> Trace {
        let mut trace = Trace { gaps: Vec::with_capacity(truth.len()), lists: Vec::new() };
        let (mut best, mut seen) = (Best::new(truth.len()), 0);
        let Partition::Cells(cells) = &self.partition else { return trace };
        let (coded, length) = (Coded::new(query), norm(query).max(f32::MIN_POSITIVE));
        let mut missing: Vec<u32> =
            truth.iter().filter_map(|hit| Some(self.places[self.slots.get(hit.key)? as usize].0)).collect();
        for (list, score) in cells.nearest_lists(&coded) {
            if missing.is_empty() {
                break;
            }
            let gap = wider(score / length, best.threshold() / length);
            let before = missing.len();
            missing.retain(|of| *of != list);
            trace.gaps.extend(std::iter::repeat_n(gap, before - missing.len()));
            if among[list as usize] {
                self.scan_list(list as usize, query, &coded, &|_, _| true, &|_| 0, &mut best);
            }
            seen += self.lists[list as usize].len();
            trace.lists.push((gap, seen));
        }
        trace
    }

    pub(super) fn cells(&self) -> Option<&Cells> {
        match &self.partition {
            Partition::Cells(cells) => Some(cells),
            _ => None,
        }
    }

    /// Puts every vector into the list of its cell, on all cores.
    pub(super) fn divide(&mut self, cells: Cells) {
        let assigned = cells.assign(&self.rows);
        let mut counts = vec![0; cells.len()];
        assigned.iter().for_each(|list| counts[*list as usize] += 1);
        self.lists = counts.into_iter().map(|n| Blocks::with_capacity(self.dimensions, n)).collect();
        self.partition = Partition::Cells(cells);
        for (slot, list) in assigned.into_iter().enumerate() {
            self.put_in(list, slot as u32);
        }
    }

    fn scan_list(
        &self,
        list: usize,
        query: &[f32],
        coded: &Coded,
        keep: &dyn Fn(u64, &T) -> bool,
        group: &dyn Fn(&T) -> u64,
        best: &mut Best,
    ) {
        let blocks = &self.lists[list];
        let (mut start, mut step) = (0, if best.threshold().is_finite() { MOST_BLOCKS } else { FIRST_BLOCKS });
        let mut found = Vec::new();
        while start < blocks.blocks() {
            let end = (start + step).min(blocks.blocks());
            found.clear();
            blocks.reach(coded, best.threshold(), start..end, &mut found);
            for &slot in &found {
                self.consider(self.keys[slot as usize], slot, query, keep, group, best);
            }
            (start, step) = (end, (2 * step).min(MOST_BLOCKS));
        }
    }

    fn consider(
        &self,
        key: u64,
        slot: u32,
        query: &[f32],
        keep: &dyn Fn(u64, &T) -> bool,
        group: &dyn Fn(&T) -> u64,
        best: &mut Best,
    ) {
        let beside = &self.beside[slot as usize];
        if keep(key, beside) {
            let score = dot(query, self.row(slot));
            if score >= best.threshold() {
                best.push(Hit { key, score }, group(beside));
            }
        }
    }

    /// As [`Vectors::search`], for many queries: eight share each pass over the memory.
    ///
    /// # Errors
    /// As [`Vectors::search`]; the first query that is wrong counts for all.
    pub fn search_many(
        &self,
        queries: &[&[f32]],
        k: usize,
        keep: &dyn Fn(usize, u64, &T) -> bool,
    ) -> Result<Vec<Vec<Hit>>> {
        self.scan_many(queries, &|| Best::new(k), keep, &|_| 0)
    }

    /// As [`Vectors::scan`], for many queries.
    pub(super) fn scan_many(
        &self,
        queries: &[&[f32]],
        best: &dyn Fn() -> Best,
        keep: &dyn Fn(usize, u64, &T) -> bool,
        of: &dyn Fn(&T) -> u64,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut answers = Vec::with_capacity(queries.len());
        for (group, eight) in queries.chunks(TOGETHER).enumerate() {
            eight.iter().try_for_each(|query| check(self.dimensions, query))?;
            let coded = CodedTogether::new(self.dimensions, eight.iter().copied());
            let mut best: [Best; TOGETHER] =
                std::array::from_fn(|j| if j < eight.len() { best() } else { Best::new(0) });
            let mut found: [Vec<u32>; TOGETHER] = Default::default();
            let mut step = FIRST_BLOCKS;
            for blocks in &self.lists {
                let mut start = 0;
                while start < blocks.blocks() {
                    let end = (start + step).min(blocks.blocks());
                    let thresholds = std::array::from_fn(|j| best[j].threshold());
                    blocks.reach_together(&coded, &thresholds, start..end, &mut found);
                    for (j, query) in eight.iter().enumerate() {
                        for slot in found[j].drain(..) {
                            let keep = |key, beside: &T| keep(group * TOGETHER + j, key, beside);
                            self.consider(self.keys[slot as usize], slot, query, &keep, of, &mut best[j]);
                        }
                    }
                    (start, step) = (end, (2 * step).min(MOST_BLOCKS));
                }
            }
            answers.extend(best.into_iter().take(eight.len()).map(Best::into_sorted));
        }
        Ok(answers)
    }
}

/// By how much the angle whose cosine is `one` is wider than that of `other`, in radians; of none to compare with, by
/// minus infinity.
fn wider(one: f32, other: f32) -> f32 {
    match other {
        f32::NEG_INFINITY => f32::NEG_INFINITY,
        _ => one.clamp(-1.0, 1.0).acos() - other.clamp(-1.0, 1.0).acos(),
    }
}

/// What may be put in or asked: `d` finite numbers whose products are finite.
pub(super) fn check(dimensions: usize, vector: &[f32]) -> Result<()> {
    if vector.len() != dimensions {
        return Err(Error::mismatch("a vector and the index", format!("{dimensions} numbers"), vector.len()));
    }
    match vector.iter().find(|x| !(-LARGEST..=LARGEST).contains(*x)) {
        None => Ok(()),
        Some(odd) => Err(Error::invalid("number of a vector", format!("at most {LARGEST:e} in size"), odd)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::HashMap;

    /// The slow clear version: sort all by inner product.
    fn oracle(songs: &HashMap<u64, Vec<f32>>, query: &[f32], k: usize) -> Vec<Hit> {
        let mut all: Vec<Hit> = songs.iter().map(|(key, v)| Hit { key: *key, score: dot(query, v) }).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
        all.truncate(k);
        all
    }

    /// Vectors with ties, of very different lengths, and zero ones among them.
    fn vector(rng: &mut impl Rng, d: usize) -> Vec<f32> {
        let size = 4f32.powi(rng.random_range(-6..4));
        match rng.random_range(0..4) {
            0 => (0..d).map(|_| f32::from(rng.random_range(-1i8..=1)) * size).collect(),
            _ => (0..d).map(|_| rng.random_range(-size..size)).collect(),
        }
    }

    fn unit(rng: &mut impl Rng, d: usize) -> Vec<f32> {
        crate::linalg::unit(&(0..d).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>()).unwrap()
    }

    /// One list, lists by norm, cells: each equals a sort of all, to the bit of each score, through inserts,
    /// replacements and removals.
    #[test]
    fn every_partition_equals_a_sort_of_all() {
        for d in [1, 7, 40] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let cells = Cells::of(d, (0..9).flat_map(|_| unit(&mut rng, d)).collect());
            for partition in [Partition::One, Partition::Norms, Partition::Cells(cells)] {
                let (mut vectors, mut songs) = (Vectors::partitioned(d, partition), HashMap::new());
                for step in 0..3000u64 {
                    let key = rng.random_range(0..600u64);
                    if rng.random_range(0..4) == 0 {
                        assert_eq!(vectors.remove(key), songs.remove(&key).map(|_| ()));
                    } else {
                        let vector = vector(&mut rng, d);
                        vectors.upsert(key, &vector, ()).unwrap();
                        songs.insert(key, vector);
                    }
                    assert_eq!(vectors.len(), songs.len());
                    if step % 100 == 0 {
                        let queries: Vec<Vec<f32>> = (0..11).map(|_| vector(&mut rng, d)).collect();
                        let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
                        let many = vectors.search_many(&queries, 10, &|_, _, _| true).unwrap();
                        for (query, of_many) in queries.iter().zip(many) {
                            let found = vectors.search(query, 10, &|_, _| true).unwrap();
                            assert_eq!(found, oracle(&songs, query, 10), "step {step}");
                            assert_eq!(found, of_many);
                        }
                    }
                }
                for (key, song) in &songs {
                    assert_eq!(vectors.get(*key).unwrap().0, song);
                }
                assert_eq!(vectors.iter().count(), songs.len());
            }
        }
    }

    #[test]
    fn a_filter_costs_no_answers_and_odd_k_no_memory() {
        let mut vectors = Vectors::new(1);
        for key in 0..100u64 {
            vectors.upsert(key, &[key as f32], key % 7).unwrap();
        }
        let odd = vectors.search(&[1.0], 3, &|key, seventh| key % 2 == 1 && *seventh != 1).unwrap();
        assert_eq!(odd.iter().map(|h| h.key).collect::<Vec<_>>(), [97, 95, 93]);
        assert!(vectors.search(&[1.0], 0, &|_, _| true).unwrap().is_empty());
        assert_eq!(vectors.search(&[1.0], usize::MAX, &|_, _| true).unwrap().len(), 100);
        assert!(Vectors::<()>::new(1).search(&[1.0], 5, &|_, _| true).unwrap().is_empty());
    }

    #[test]
    fn what_would_poison_a_search_is_refused() {
        let mut vectors = Vectors::new(2);
        vectors.upsert(1, &[0.6, 0.8], ()).unwrap();
        for odd in [&[f32::NAN, 0.0][..], &[f32::INFINITY, 0.0], &[1e20, 0.0], &[1.0], &[1.0, 0.0, 0.0], &[]] {
            assert!(vectors.upsert(1, odd, ()).is_err() && vectors.upsert(2, odd, ()).is_err());
            assert!(vectors.search(odd, 1, &|_, _| true).is_err());
            assert!(vectors.search_many(&[&[1.0, 0.0], odd], 1, &|_, _, _| true).is_err());
        }
        assert_eq!(vectors.get(1).unwrap().0, [0.6, 0.8]);
        assert_eq!(vectors.len(), 1);
    }
}
