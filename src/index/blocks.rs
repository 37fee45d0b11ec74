//! Blocks of 16 songs in 8-bit codes, and the kernels that bound sixteen scores at a time.
//!
//! A vector x is kept as x̂ = s·c, with whole numbers c of -127 to 127 and s = max|x|/127; a query q as q̂ = t·b, with
//! whole numbers b of 16 bits. Then b·c is exact in 32-bit integers, the same on every processor, and by Cauchy–Schwarz
//!
//! ```text
//! q·x ≤ q̂·x̂ + ‖q‖·‖x - x̂‖ + ‖q - q̂‖·‖x̂‖ ≤ s·(t·(b·c) + ‖q‖·r + (t/2)·127·d)      r = max of ‖x - x̂‖/s in the block
//! ```
//!
//! So whoever looks for the best `k` need only compute q·x where that bound reaches the `k`-th best so far, and the
//! answer is that of a scan of every 32-bit float. A scan of 40 numbers a song reads 46 bytes instead of 160.

use pulp::NullaryFnOnce;

/// Songs per block: one AVX-512 register of 32-bit sums.
pub(super) const LANES: usize = 16;
/// Queries that share one pass over the blocks: eight sums leave AVX-512 and AVX2 registers for the rest.
pub(super) const TOGETHER: usize = 8;

/// Sixteen songs' codes of two dimensions: `[song][dimension]`.
type Pair = [i8; 2 * LANES];

/// Songs in blocks. Positions are dense; the slot at each is what the caller knows the song by.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    dimensions: usize,
    /// `[blocks][d/2]`, the last pair filled up with zeros where `d` is odd.
    codes: Vec<Pair>,
    /// s of each song; NaN beyond the last, which reaches no threshold.
    scales: Vec<[f32; LANES]>,
    /// r of each block.
    ratios: Vec<f32>,
    slots: Vec<u32>,
}

impl Blocks {
    pub fn new(dimensions: usize) -> Blocks {
        Blocks { dimensions, ..Blocks::default() }
    }

    pub fn with_capacity(dimensions: usize, songs: usize) -> Blocks {
        let blocks = songs.div_ceil(LANES);
        Blocks {
            dimensions,
            codes: Vec::with_capacity(blocks * dimensions.div_ceil(2)),
            scales: Vec::with_capacity(blocks),
            ratios: Vec::with_capacity(blocks),
            slots: Vec::with_capacity(songs),
        }
    }

    /// Of rows `[songs][d]` that are in the slots from `first` on.
    pub fn of(dimensions: usize, first: u32, rows: &[f32]) -> Blocks {
        let mut blocks = Blocks::with_capacity(dimensions, rows.len() / dimensions.max(1));
        rows.chunks_exact(dimensions.max(1)).zip(first..).for_each(|(row, slot)| blocks.push(slot, row));
        blocks
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot at each position.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.scales.len()
    }

    /// Bytes that this occupies, unused capacity included.
    pub fn bytes(&self) -> usize {
        self.codes.capacity() * size_of::<Pair>()
            + self.scales.capacity() * size_of::<[f32; LANES]>()
            + 4 * (self.ratios.capacity() + self.slots.capacity())
    }

    /// Adds a song at the next position.
    pub fn push(&mut self, slot: u32, vector: &[f32]) {
        let position = self.slots.len();
        if position.is_multiple_of(LANES) {
            self.codes.resize(self.codes.len() + self.pairs(), [0; 2 * LANES]);
            self.scales.push([f32::NAN; LANES]);
            self.ratios.push(0.0);
        }
        self.slots.push(slot);
        self.write(position, vector);
    }

    /// Replaces the vector at a position.
    pub fn write(&mut self, position: usize, vector: &[f32]) {
        let (block, lane) = (position / LANES, position % LANES);
        let pairs = self.pairs();
        let (scale, ratio) = dispatch(Code { vector, lane, codes: &mut self.codes[block * pairs..][..pairs] });
        self.scales[block][lane] = scale;
        self.ratios[block] = self.ratios[block].max(ratio);
    }

    /// The slot at a position is now called otherwise.
    pub fn rename(&mut self, position: usize, slot: u32) {
        self.slots[position] = slot;
    }

    /// Takes a song out; the last one moves to its position. Returns the slot of the one that moved.
    pub fn swap_remove(&mut self, position: usize) -> Option<u32> {
        let last = self.slots.len() - 1;
        let pairs = self.pairs();
        let (from, to) = ((last / LANES) * pairs, (position / LANES) * pairs);
        for pair in 0..pairs {
            for half in 0..2 {
                self.codes[to + pair][2 * (position % LANES) + half] =
                    self.codes[from + pair][2 * (last % LANES) + half];
            }
        }
        self.scales[position / LANES][position % LANES] = self.scales[last / LANES][last % LANES];
        self.ratios[position / LANES] = self.ratios[position / LANES].max(self.ratios[last / LANES]);
        self.scales[last / LANES][last % LANES] = f32::NAN;
        self.slots.swap_remove(position);
        if last.is_multiple_of(LANES) {
            self.codes.truncate(from);
            self.scales.pop();
            self.ratios.pop();
        }
        self.slots.get(position).copied()
    }

    /// Adds to `found` the slots in these blocks whose bound reaches `threshold`.
    pub fn reach(&self, query: &Coded, threshold: f32, blocks: std::ops::Range<usize>, found: &mut Vec<u32>) {
        dispatch(Reach { songs: self, query, threshold, blocks, found });
    }

    /// As [`Blocks::reach`], for several queries in one pass over the memory; `found[j]` are those of query `j`.
    pub fn reach_together(
        &self,
        query: &CodedTogether,
        thresholds: &[f32; TOGETHER],
        blocks: std::ops::Range<usize>,
        found: &mut [Vec<u32>; TOGETHER],
    ) {
        dispatch(ReachTogether { songs: self, query, thresholds, blocks, found });
    }

    /// q̂·x̂ of every position, in order.
    pub fn approximate(&self, query: &Coded, scores: &mut Vec<f32>) {
        scores.clear();
        dispatch(Approximate { songs: self, query, scores });
        scores.truncate(self.len());
    }

    /// For each query, the position of the largest q̂·x̂.
    pub fn nearest(&self, query: &CodedTogether) -> [u32; TOGETHER] {
        dispatch(Nearest { songs: self, query })
    }

    fn pairs(&self) -> usize {
        self.dimensions.div_ceil(2)
    }

    fn block(&self, block: usize) -> &[Pair] {
        let pairs = self.pairs();
        &self.codes[block * pairs..][..pairs]
    }
}

/// A query in 16-bit whole numbers.
pub(super) struct Coded {
    /// Two of them a number, the first in the lower half.
    pairs: Vec<i32>,
    /// t.
    step: f32,
    /// What the bound adds, in units of s: that times r of the block, and the rest.
    norm: f32,
    rest: f32,
}

impl Coded {
    pub fn new(query: &[f32]) -> Coded {
        let d = query.len() as f64;
        let largest = query.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let taxicab: f64 = query.iter().map(|x| f64::from(x.abs())).sum();
        // |b·c| ≤ 127·Σ|b| stays below 2³⁰, also for thousands of dimensions.
        let step = (f64::from(largest) / 32_767.0).max(taxicab * 127.0 / f64::from(1 << 30));
        let step = (step as f32).max(f32::MIN_POSITIVE);
        let code = |x: f32| (x / step).round().clamp(-32_767.0, 32_767.0) as i16;
        let pairs = query
            .chunks(2)
            .map(|two| {
                let second = two.get(1).map_or(0, |x| code(*x));
                i32::from(code(two[0]) as u16 as i16) & 0xffff | i32::from(second) << 16
            })
            .collect();
        let norm = query.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // ‖q - q̂‖·‖x̂‖, with ‖x̂‖ ≤ 127·√d; and the rounding of these sums and of the exact product, at most
        // (d + 8)·2⁻²³·‖q‖·‖x‖.
        let coding = f64::from(step) * 0.5 * 127.0 * d;
        let rounding = (d + 8.0) * f64::from(f32::EPSILON) * norm * 128.0 * d.sqrt();
        Coded { pairs, step, norm: (norm * 1.000_001) as f32, rest: ((coding + rounding) * 1.000_001) as f32 }
    }
}

/// [`TOGETHER`] queries; missing ones are zero.
pub(super) struct CodedTogether {
    /// `[d/2]`
    pairs: Vec<[i32; TOGETHER]>,
    step: [f32; TOGETHER],
    norm: [f32; TOGETHER],
    rest: [f32; TOGETHER],
}

impl CodedTogether {
    pub fn new<'a>(dimensions: usize, queries: impl Iterator<Item = &'a [f32]>) -> CodedTogether {
        let zero = [0.0; TOGETHER];
        let pairs = vec![[0; TOGETHER]; dimensions.div_ceil(2)];
        let mut together = CodedTogether { pairs, step: zero, norm: zero, rest: zero };
        for (j, query) in queries.take(TOGETHER).enumerate() {
            let coded = Coded::new(query);
            together.pairs.iter_mut().zip(&coded.pairs).for_each(|(to, from)| to[j] = *from);
            (together.step[j], together.norm[j], together.rest[j]) = (coded.step, coded.norm, coded.rest);
        }
        together
    }
}

/// Writes c of a vector into its lane, and returns s and ‖x - x̂‖/s.
struct Code<'a> {
    vector: &'a [f32],
    lane: usize,
    codes: &'a mut [Pair],
}

impl Work for Code<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<E: Engine>(self, _: E) -> (f32, f32) {
        let Code { vector, lane, codes } = self;
        let eights = || {
            vector.chunks(8).map(|some| {
                let mut eight = [0.0f32; 8];
                eight[..some.len()].copy_from_slice(some);
                eight
            })
        };
        let mut largest = [0.0f32; 8];
        for eight in eights() {
            largest.iter_mut().zip(eight).for_each(|(m, x)| *m = m.max(x.abs()));
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        // A vector of tiny numbers keeps a scale that is not zero, so that its error has a bound in it.
        let scale = (largest / 127.0).max(f32::MIN_POSITIVE);
        let inverse = 1.0 / scale;
        let mut errors = [0.0f64; 8];
        for (eight, pairs) in eights().zip(codes.chunks_mut(4)) {
            let mut code = [0i32; 8];
            for i in 0..8 {
                let scaled = eight[i] * inverse;
                code[i] = ((scaled + 0.5f32.copysign(scaled)) as i32).clamp(-127, 127);
                errors[i] += (f64::from(eight[i]) - f64::from(code[i]) * f64::from(scale)).powi(2);
            }
            for (pair, two) in pairs.iter_mut().zip(code.as_chunks::<2>().0) {
                (pair[2 * lane], pair[2 * lane + 1]) = (two[0] as i8, two[1] as i8);
            }
        }
        // A little more than it is, for the rounding of this number itself.
        let ratio = (errors.iter().sum::<f64>().sqrt() / f64::from(scale)) as f32 * 1.000_001;
        (scale, ratio)
    }
}

struct Reach<'a> {
    songs: &'a Blocks,
    query: &'a Coded,
    threshold: f32,
    blocks: std::ops::Range<usize>,
    found: &'a mut Vec<u32>,
}

impl Work for Reach<'_> {
    type Output = ();

    #[inline(always)]
    fn run<E: Engine>(self, engine: E) {
        let Coded { step, norm, rest, .. } = *self.query;
        for block in self.blocks {
            let products = engine.products(self.songs.block(block), &self.query.pairs);
            let margin = norm * self.songs.ratios[block] + rest;
            let bounds = bounds(&products, &self.songs.scales[block], step, margin);
            if reaches(&bounds, self.threshold) {
                take(&bounds, self.threshold, &self.songs.slots[block * LANES..], self.found);
            }
        }
    }
}

struct ReachTogether<'a> {
    songs: &'a Blocks,
    query: &'a CodedTogether,
    thresholds: &'a [f32; TOGETHER],
    blocks: std::ops::Range<usize>,
    found: &'a mut [Vec<u32>; TOGETHER],
}

impl Work for ReachTogether<'_> {
    type Output = ();

    #[inline(always)]
    fn run<E: Engine>(self, engine: E) {
        let CodedTogether { step, norm, rest, .. } = self.query;
        for block in self.blocks {
            let products = engine.products_together(self.songs.block(block), &self.query.pairs);
            for j in 0..TOGETHER {
                let margin = norm[j] * self.songs.ratios[block] + rest[j];
                let bounds = bounds(&products[j], &self.songs.scales[block], step[j], margin);
                if reaches(&bounds, self.thresholds[j]) {
                    take(&bounds, self.thresholds[j], &self.songs.slots[block * LANES..], &mut self.found[j]);
                }
            }
        }
    }
}

#[inline(always)]
fn bounds(products: &[i32; LANES], scales: &[f32; LANES], step: f32, margin: f32) -> [f32; LANES] {
    let mut bounds = [0.0; LANES];
    for ((bound, product), scale) in bounds.iter_mut().zip(products).zip(scales) {
        *bound = scale * (step * *product as f32 + margin);
    }
    bounds
}

#[inline(always)]
fn reaches(bounds: &[f32; LANES], threshold: f32) -> bool {
    bounds.iter().fold(false, |any, bound| any | (*bound >= threshold))
}

#[cold]
fn take(bounds: &[f32; LANES], threshold: f32, slots: &[u32], found: &mut Vec<u32>) {
    found.extend(bounds.iter().zip(slots).filter(|(bound, _)| **bound >= threshold).map(|(_, slot)| *slot));
}

struct Approximate<'a> {
    songs: &'a Blocks,
    query: &'a Coded,
    scores: &'a mut Vec<f32>,
}

impl Work for Approximate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<E: Engine>(self, engine: E) {
        for block in 0..self.songs.blocks() {
            let products = engine.products(self.songs.block(block), &self.query.pairs);
            self.scores.extend(bounds(&products, &self.songs.scales[block], self.query.step, 0.0));
        }
    }
}

struct Nearest<'a> {
    songs: &'a Blocks,
    query: &'a CodedTogether,
}

impl Work for Nearest<'_> {
    type Output = [u32; TOGETHER];

    #[inline(always)]
    fn run<E: Engine>(self, engine: E) -> [u32; TOGETHER] {
        // The best of each lane so far, and the block it is in.
        let mut best = [[f32::NEG_INFINITY; LANES]; TOGETHER];
        let mut place = [[0u32; LANES]; TOGETHER];
        for block in 0..self.songs.blocks() {
            let products = engine.products_together(self.songs.block(block), &self.query.pairs);
            for j in 0..TOGETHER {
                let scores = bounds(&products[j], &self.songs.scales[block], 1.0, 0.0);
                for lane in 0..LANES {
                    let better = scores[lane] > best[j][lane];
                    best[j][lane] = if better { scores[lane] } else { best[j][lane] };
                    place[j][lane] = if better { block as u32 } else { place[j][lane] };
                }
            }
        }
        std::array::from_fn(|j| {
            let lane = (0..LANES).reduce(|a, b| if best[j][b] > best[j][a] { b } else { a }).unwrap_or(0);
            place[j][lane] * LANES as u32 + lane as u32
        })
    }
}

/// What runs with an [`Engine`].
trait Work {
    type Output;
    fn run<E: Engine>(self, engine: E) -> Self::Output;
}

/// The inner products of whole numbers, by the widest instructions at hand; all engines agree to the bit.
trait Engine: Copy {
    /// b·c of 16 songs.
    fn products(self, block: &[Pair], query: &[i32]) -> [i32; LANES];
    /// The same for several queries.
    fn products_together(self, block: &[Pair], query: &[[i32; TOGETHER]]) -> [[i32; LANES]; TOGETHER];
}

/// Plain loops, for processors that are not x86-64 with AVX2, and the oracle of the others.
#[derive(Clone, Copy)]
struct Plain;

impl Engine for Plain {
    #[inline(always)]
    fn products(self, block: &[Pair], query: &[i32]) -> [i32; LANES] {
        let mut sums = [0; LANES];
        for (pair, query) in block.iter().zip(query) {
            let (first, second) = (i32::from(*query as i16), query >> 16);
            for (sum, codes) in sums.iter_mut().zip(pair.as_chunks::<2>().0) {
                *sum += i32::from(codes[0]) * first + i32::from(codes[1]) * second;
            }
        }
        sums
    }

    #[inline(always)]
    fn products_together(self, block: &[Pair], query: &[[i32; TOGETHER]]) -> [[i32; LANES]; TOGETHER] {
        let mut sums = [[0; LANES]; TOGETHER];
        for (pair, query) in block.iter().zip(query) {
            for (sums, query) in sums.iter_mut().zip(query) {
                let (first, second) = (i32::from(*query as i16), query >> 16);
                for (sum, codes) in sums.iter_mut().zip(pair.as_chunks::<2>().0) {
                    *sum += i32::from(codes[0]) * first + i32::from(codes[1]) * second;
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Engine, LANES, Pair, TOGETHER};
    use pulp::cast;
    use pulp::x86::{V3, V4};

    impl Engine for V4 {
        #[inline(always)]
        fn products(self, block: &[Pair], query: &[i32]) -> [i32; LANES] {
            let (wide, bytes) = (self.avx512f, self.avx512bw);
            // Two sums, so that one addition need not wait for the one before.
            let mut sums = [wide._mm512_setzero_si512(); 2];
            for (i, (pair, query)) in block.iter().zip(query).enumerate() {
                let codes = bytes._mm512_cvtepi8_epi16(cast(*pair));
                let product = bytes._mm512_madd_epi16(codes, wide._mm512_set1_epi32(*query));
                sums[i % 2] = wide._mm512_add_epi32(sums[i % 2], product);
            }
            cast(wide._mm512_add_epi32(sums[0], sums[1]))
        }

        #[inline(always)]
        fn products_together(self, block: &[Pair], query: &[[i32; TOGETHER]]) -> [[i32; LANES]; TOGETHER] {
            let (wide, bytes) = (self.avx512f, self.avx512bw);
            let mut sums = [wide._mm512_setzero_si512(); TOGETHER];
            for (pair, query) in block.iter().zip(query) {
                let codes = bytes._mm512_cvtepi8_epi16(cast(*pair));
                for (sum, query) in sums.iter_mut().zip(query) {
                    let product = bytes._mm512_madd_epi16(codes, wide._mm512_set1_epi32(*query));
                    *sum = wide._mm512_add_epi32(*sum, product);
                }
            }
            sums.map(cast)
        }
    }

    impl Engine for V3 {
        #[inline(always)]
        fn products(self, block: &[Pair], query: &[i32]) -> [i32; LANES] {
            let (avx, avx2) = (self.avx, self.avx2);
            let mut sums = [avx._mm256_setzero_si256(); 2];
            for (pair, query) in block.iter().zip(query) {
                let halves: [[i8; LANES]; 2] = cast(*pair);
                let query = avx._mm256_set1_epi32(*query);
                for (sum, half) in sums.iter_mut().zip(halves) {
                    let product = avx2._mm256_madd_epi16(avx2._mm256_cvtepi8_epi16(cast(half)), query);
                    *sum = avx2._mm256_add_epi32(*sum, product);
                }
            }
            cast(sums)
        }

        #[inline(always)]
        fn products_together(self, block: &[Pair], query: &[[i32; TOGETHER]]) -> [[i32; LANES]; TOGETHER] {
            let (avx, avx2) = (self.avx, self.avx2);
            let mut all = [[0; LANES]; TOGETHER];
            // Half of the songs at a time: eight of the sixteen registers are sums.
            for half in 0..2 {
                let mut sums = [avx._mm256_setzero_si256(); TOGETHER];
                for (pair, query) in block.iter().zip(query) {
                    let halves: [[i8; LANES]; 2] = cast(*pair);
                    let codes = avx2._mm256_cvtepi8_epi16(cast(halves[half]));
                    for (sum, query) in sums.iter_mut().zip(query) {
                        let product = avx2._mm256_madd_epi16(codes, avx._mm256_set1_epi32(*query));
                        *sum = avx2._mm256_add_epi32(*sum, product);
                    }
                }
                for (all, sum) in all.iter_mut().zip(sums) {
                    let sum: [i32; LANES / 2] = cast(sum);
                    all[half * LANES / 2..][..LANES / 2].copy_from_slice(&sum);
                }
            }
            all
        }
    }
}

struct Run<W, E>(W, E);

impl<W: Work, E: Engine> NullaryFnOnce for Run<W, E> {
    type Output = W::Output;

    #[inline(always)]
    fn call(self) -> W::Output {
        self.0.run(self.1)
    }
}

/// Runs `work` with what this processor has.
fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(engine) = pulp::x86::V4::try_new() {
            return engine.vectorize(Run(work, engine));
        }
        if let Some(engine) = pulp::x86::V3::try_new() {
            return engine.vectorize(Run(work, engine));
        }
    }
    Run(work, Plain).call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn vector(rng: &mut impl Rng, d: usize) -> Vec<f32> {
        let size = 10f32.powi(rng.random_range(-20..5));
        (0..d).map(|_| rng.random_range(-size..size)).collect()
    }

    #[test]
    fn every_engine_gives_the_same_whole_numbers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for d in [1, 2, 7, 40, 129, 1000] {
            let mut blocks = Blocks::new(d);
            for slot in 0..16 {
                blocks.push(slot, &vector(&mut rng, d));
            }
            let queries: Vec<Vec<f32>> = (0..TOGETHER).map(|_| vector(&mut rng, d)).collect();
            let together = CodedTogether::new(d, queries.iter().map(Vec::as_slice));
            let expected = Plain.products_together(blocks.block(0), &together.pairs);
            for (j, query) in queries.iter().enumerate() {
                let coded = Coded::new(query);
                let plain = Plain.products(blocks.block(0), &coded.pairs);
                assert_eq!(plain, expected[j]);
                // The sum as it is, in 64 bits: nothing overflowed.
                for (lane, product) in plain.iter().enumerate() {
                    let sum: i64 = (0..d)
                        .map(|i| {
                            let b = coded.pairs[i / 2] >> (16 * (i % 2));
                            i64::from(b as i16) * i64::from(blocks.block(0)[i / 2][2 * lane + i % 2])
                        })
                        .sum();
                    assert_eq!(i64::from(*product), sum);
                }
                #[cfg(target_arch = "x86_64")]
                {
                    struct Products<'a>(&'a [Pair], &'a [i32]);
                    impl Work for Products<'_> {
                        type Output = [i32; LANES];
                        #[inline(always)]
                        fn run<E: Engine>(self, engine: E) -> [i32; LANES] {
                            engine.products(self.0, self.1)
                        }
                    }
                    let work = || Products(blocks.block(0), &coded.pairs);
                    if let Some(engine) = pulp::x86::V3::try_new() {
                        assert_eq!(engine.vectorize(Run(work(), engine)), plain);
                    }
                    assert_eq!(dispatch(work()), plain);
                }
            }
            #[cfg(target_arch = "x86_64")]
            {
                struct Together<'a>(&'a [Pair], &'a [[i32; TOGETHER]]);
                impl Work for Together<'_> {
                    type Output = [[i32; LANES]; TOGETHER];
                    #[inline(always)]
                    fn run<E: Engine>(self, engine: E) -> [[i32; LANES]; TOGETHER] {
                        engine.products_together(self.0, self.1)
                    }
                }
                let work = || Together(blocks.block(0), &together.pairs);
                if let Some(engine) = pulp::x86::V3::try_new() {
                    assert_eq!(engine.vectorize(Run(work(), engine)), expected);
                }
                assert_eq!(dispatch(work()), expected);
            }
        }
    }

    /// The bound holds for each of many vectors of every size and kind, and is not much wider than it must be.
    #[test]
    fn the_bound_is_never_below_the_product() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for d in [1, 3, 16, 40, 300] {
            let mut blocks = Blocks::new(d);
            let mut vectors = Vec::new();
            for slot in 0..500 {
                let v = match slot {
                    0 => vec![0.0; d],
                    1 => vec![1e-40; d],
                    2 => vec![-1e15; d],
                    3 => (0..d).map(|i| if i == 0 { 1.0 } else { 1e-5 }).collect(),
                    _ => vector(&mut rng, d),
                };
                blocks.push(slot, &v);
                vectors.push(v);
            }
            for trial in 0..50 {
                let query = match trial {
                    0 => vec![0.0; d],
                    1 => vectors[2].clone(),
                    2..20 => vectors[rng.random_range(0..vectors.len())].clone(),
                    _ => vector(&mut rng, d),
                };
                let coded = Coded::new(&query);
                for (slot, v) in vectors.iter().enumerate() {
                    let score = crate::linalg::dot(&query, v);
                    let mut found = Vec::new();
                    blocks.reach(&coded, score, slot / LANES..slot / LANES + 1, &mut found);
                    assert!(found.contains(&(slot as u32)), "d {d}: {slot} with {score} is missed");
                }
            }
        }
    }
}
