//! The bag of words: how often each of a few hundred typical sounds occurs in a track, whenever it does (van den Oord et
//! al. 2013, section 4.1, after B. McFee, L. Barrington and G. Lanckriet 2012).
//!
//! ```text
//!  frames of the training tracks ── k-means ──► vocabulary: V typical frames of 39 numbers
//!  a track's frames ── nearest word of each ──► counts [V] ── PCA, 95 % of the variance ──► features
//! ```

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::Pca;
use crate::error::{Error, Result};

/// The paper's words.
const MOST_WORDS: usize = 4000;
/// Frames for each word that the vocabulary is learned from: faiss warns below 39.
const FRAMES_PER_WORD: usize = 100;
/// Passes of k-means at most; the last few move a frame in a hundred.
const PASSES: usize = 30;
/// Frames that are compared with all words at a time. Fixed: the same sums on any number of threads.
const BLOCK: usize = 256;
/// The share of the counts' variance that the principal components keep, the paper's.
const KEPT_VARIANCE: f64 = 0.95;

/// The paper's 4,000 words are for the 9,330 songs of its subset, three for seven; fewer songs have as many fewer, and at
/// least 16, so that counts remain more numerous than words are.
pub fn words_for(tracks: usize) -> usize {
    tracks.saturating_mul(3).div_euclid(7).clamp(16, MOST_WORDS)
}

#[test]
fn words_are_in_the_papers_proportion() {
    assert_eq!([0, 700, 9330, 9334, usize::MAX].map(words_for), [16, 300, 3998, 4000, 4000]);
}

/// Typical frames.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Mean and standard deviation of each number over the frames that it was learned from, `[numbers]`: distances are of
    /// standardised numbers, or the level alone would decide.
    mean: Array1<f32>,
    std: Array1<f32>,
    /// Standardised, a row each, `[words, numbers]`.
    words: Array2<f32>,
    /// Half the squared length of each word.
    halves: Vec<f32>,
}

impl Vocabulary {
    /// `words` typical ones of these `frames` `[n, numbers]` (fewer where fewer differ), by k-means: Lloyd's algorithm
    /// (1957) from the start of k-means++ (D. Arthur and S. Vassilvitskii 2007).
    ///
    /// # Errors
    /// `Invalid` for no frames, no words, or numbers that are not finite.
    pub fn learn(frames: ArrayView2<f32>, words: usize, seed: u64) -> Result<Vocabulary> {
        let (n, numbers) = frames.dim();
        if n == 0 || numbers == 0 || words == 0 {
            return Err(Error::invalid("frames and words of a vocabulary", "some of each", format!("{n} and {words}")));
        }
        if frames.iter().any(|x| !x.is_finite()) {
            return Err(Error::invalid("frames of a vocabulary", "finite numbers", "others"));
        }
        let wide = frames.mapv(f64::from);
        let mean = wide.sum_axis(Axis(0)) / n as f64;
        let centred = wide - &mean;
        let std = (&centred * &centred).sum_axis(Axis(0)).mapv(|sum| (sum / n as f64).sqrt());
        let mut vocabulary = Vocabulary {
            mean: mean.mapv(|x| x as f32),
            // A number that does not vary tells nothing; 1 keeps it at 0.
            std: std.mapv(|x| if x > 1e-6 { x as f32 } else { 1.0 }),
            words: Array2::zeros((0, numbers)),
            halves: Vec::new(),
        };
        let x = vocabulary.standardise(frames);
        vocabulary.set_words(first_words(&x, words, seed));
        let mut before = Vec::new();
        for _ in 0..PASSES {
            let nearest = vocabulary.nearest_on_all_cores(x.view());
            if nearest.iter().map(|n| n.0).eq(before.iter().copied()) {
                break;
            }
            vocabulary.set_words(middles(&x, &nearest, vocabulary.words.nrows()));
            before = nearest.into_iter().map(|n| n.0).collect();
        }
        Ok(vocabulary)
    }

    pub fn len(&self) -> usize {
        self.words.nrows()
    }

    pub fn is_empty(&self) -> bool {
        self.words.nrows() == 0
    }

    /// How often each word is the nearest of a frame of `frames` `[n, numbers]`: `[words]`.
    ///
    /// # Errors
    /// `Mismatch` for frames of other numbers.
    pub fn count(&self, frames: ArrayView2<f32>) -> Result<Array1<f32>> {
        if frames.ncols() != self.mean.len() {
            return Err(Error::mismatch("frames and vocabulary: numbers", self.mean.len(), frames.ncols()));
        }
        let mut counts = Array1::zeros(self.len());
        for block in self.standardise(frames).axis_chunks_iter(Axis(0), BLOCK) {
            self.nearest(block).for_each(|(word, _)| counts[word] += 1.0);
        }
        Ok(counts)
    }

    fn standardise(&self, frames: ArrayView2<f32>) -> Array2<f32> {
        (&frames - &self.mean) / &self.std
    }

    fn set_words(&mut self, words: Array2<f32>) {
        self.halves = words.outer_iter().map(|w| w.dot(&w) / 2.0).collect();
        self.words = words;
    }

    /// The nearest word of each frame, and how near, by `x·w − |w|²/2`: the larger the nearer. Of equals the first.
    fn nearest(&self, x: ArrayView2<f32>) -> impl Iterator<Item = (usize, f32)> {
        let mut products = Array2::zeros((x.nrows(), self.len()));
        general_mat_mul(1.0, &x, &self.words.t(), 0.0, &mut products);
        (0..x.nrows()).map(move |frame| {
            let mut best = (0, f32::NEG_INFINITY);
            for (word, (&product, half)) in products.row(frame).iter().zip(&self.halves).enumerate() {
                if product - half > best.1 {
                    best = (word, product - half);
                }
            }
            best
        })
    }

    fn nearest_on_all_cores(&self, x: ArrayView2<f32>) -> Vec<(usize, f32)> {
        let blocks: Vec<_> = x.axis_chunks_iter(Axis(0), BLOCK).collect();
        let found: Vec<Vec<_>> = blocks.into_par_iter().map(|block| self.nearest(block).collect()).collect();
        found.into_iter().flatten().collect()
    }
}

/// The start of k-means++: each word is a frame, drawn with the square of its distance to the nearest word so far.
fn first_words(x: &Array2<f32>, words: usize, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let frames = x.as_slice().expect("made here in standard layout");
    let numbers = x.ncols();
    let mut chosen = vec![rng.random_range(0..x.nrows())];
    let mut distances = vec![f32::INFINITY; x.nrows()];
    while chosen.len() < words {
        let word = x.row(chosen[chosen.len() - 1]);
        let word = word.as_slice().expect("a row of an array in standard layout");
        distances.par_chunks_mut(BLOCK).zip(frames.par_chunks(BLOCK * numbers)).for_each(|(distances, frames)| {
            for (distance, frame) in distances.iter_mut().zip(frames.chunks_exact(numbers)) {
                let own: f32 = frame.iter().zip(word).map(|(a, b)| (a - b) * (a - b)).sum();
                *distance = distance.min(own);
            }
        });
        let total: f64 = distances.iter().map(|&d| f64::from(d)).sum();
        if total <= 0.0 {
            break; // every frame is a word
        }
        let mut left = rng.random::<f64>() * total;
        let drawn = distances.iter().position(|&d| {
            left -= f64::from(d);
            left < 0.0 && d > 0.0
        });
        // Rounding may leave a little behind the last.
        let last = || distances.iter().rposition(|&d| d > 0.0);
        match drawn.or_else(last) {
            Some(frame) => chosen.push(frame),
            None => break,
        }
    }
    x.select(Axis(0), &chosen)
}

/// The mean of each word's frames; a word without frames becomes the frame that is furthest from its own.
fn middles(x: &Array2<f32>, nearest: &[(usize, f32)], words: usize) -> Array2<f32> {
    let mut sums = Array2::<f64>::zeros((words, x.ncols()));
    let mut counts = vec![0u32; words];
    for (frame, &(word, _)) in x.outer_iter().zip(nearest) {
        sums.row_mut(word).zip_mut_with(&frame, |sum, &x| *sum += f64::from(x));
        counts[word] += 1;
    }
    let mut furthest: Vec<usize> = Vec::new();
    if counts.contains(&0) {
        let distance: Vec<f32> = x.outer_iter().zip(nearest).map(|(x, n)| x.dot(&x) / 2.0 - n.1).collect();
        furthest = (0..x.nrows()).collect();
        // Furthest last, to be popped.
        furthest.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]).then(b.cmp(&a)));
    }
    let mut middles = Array2::zeros(sums.dim());
    for (word, mut middle) in middles.outer_iter_mut().enumerate() {
        match counts[word] {
            0 => middle.assign(&x.row(furthest.pop().unwrap_or(0))),
            n => middle.zip_mut_with(&sums.row(word), |x, sum| *x = (sum / f64::from(n)) as f32),
        }
    }
    middles
}

/// Frames of a track's window, `[frames, numbers]`: `load(track, window)`.
pub type Frames<'a> = dyn Fn(usize, usize) -> Result<Array2<f32>> + Sync + 'a;

/// Every track's features.
#[derive(Debug)]
pub struct BagOfWords {
    pub vocabulary: Vocabulary,
    pub pca: Pca,
    /// `[tracks, components]`
    pub features: Array2<f32>,
}

impl BagOfWords {
    /// Learns vocabulary and components from the tracks `train`, and gives features to all `tracks`, of all their
    /// `windows`. `words` as [`words_for`] says, or otherwise; `heard` is told of each track that is counted.
    ///
    /// # Errors
    /// Those of `load`, and `Invalid` where there is nothing to learn from.
    pub fn learn(
        load: &Frames,
        tracks: usize,
        windows: usize,
        train: &[usize],
        words: usize,
        seed: u64,
        heard: &(dyn Fn() + Sync),
    ) -> Result<BagOfWords> {
        let sample = sample(load, windows, train, words.saturating_mul(FRAMES_PER_WORD), seed)?;
        let vocabulary = Vocabulary::learn(sample.view(), words, seed)?;
        drop(sample);
        let mut counts = Array2::zeros((tracks, vocabulary.len()));
        counts.outer_iter_mut().into_par_iter().enumerate().try_for_each(|(track, mut counts)| {
            for window in 0..windows {
                counts += &vocabulary.count(load(track, window)?.view())?;
            }
            heard();
            Ok(())
        })?;
        let pca = Pca::fit(counts.select(Axis(0), train).view(), KEPT_VARIANCE)?;
        let features = pca.project(counts.view())?;
        Ok(BagOfWords { vocabulary, pca, features })
    }
}

/// About `frames` frames, as many of each training track, from one of its windows that is drawn at random.
fn sample(load: &Frames, windows: usize, train: &[usize], frames: usize, seed: u64) -> Result<Array2<f32>> {
    if train.is_empty() || windows == 0 {
        let found = format!("{} and {windows}", train.len());
        return Err(Error::invalid("training tracks and windows", "at least one each", found));
    }
    let each = frames.div_ceil(train.len()).max(1);
    let of_track = |&track: &usize| -> Result<Array2<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(track as u64 + 1);
        let all = load(track, rng.random_range(0..windows))?;
        let chosen: Vec<usize> = match all.nrows() {
            0 => Vec::new(),
            n if n <= each => (0..n).collect(),
            n => (0..each).map(|_| rng.random_range(0..n)).collect(),
        };
        Ok(all.select(Axis(0), &chosen))
    };
    let parts: Vec<Array2<f32>> = train.par_iter().map(of_track).collect::<Result<_>>()?;
    let numbers = parts[0].ncols();
    let mut out = Array2::zeros((parts.iter().map(Array2::nrows).sum(), numbers));
    let mut at = 0;
    for part in parts {
        if part.ncols() != numbers {
            return Err(Error::mismatch("numbers of a frame", numbers, part.ncols()));
        }
        out.slice_mut(s![at..at + part.nrows(), ..]).assign(&part);
        at += part.nrows();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` frames around `centres` `[words, numbers]`, in turn.
    fn around(centres: &Array2<f32>, n: usize, spread: f32) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        Array2::from_shape_fn((n, centres.ncols()), |(i, j)| {
            centres[[i % centres.nrows(), j]] + rng.random_range(-spread..spread)
        })
    }

    fn planted(words: usize) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        Array2::from_shape_simple_fn((words, 5), || rng.random_range(-10.0..10.0))
    }

    #[test]
    fn planted_clusters_are_found_and_counted() {
        let centres = planted(12);
        let vocabulary = Vocabulary::learn(around(&centres, 1200, 0.5).view(), 12, 3).unwrap();
        assert_eq!(vocabulary.len(), 12);
        // Each centre's nearest word is its own, and lies where the centre does.
        let mut own: Vec<usize> = vocabulary
            .nearest_on_all_cores(vocabulary.standardise(centres.view()).view())
            .iter()
            .map(|n| n.0)
            .collect();
        let words = &vocabulary.words * &vocabulary.std + &vocabulary.mean;
        for (centre, &word) in centres.outer_iter().zip(&own) {
            assert!(
                centre.iter().zip(words.row(word)).all(|(a, b)| (a - b).abs() < 0.15),
                "{centre} {}",
                words.row(word)
            );
        }
        // 30 frames of the first centre, 10 of the second.
        let frames = around(&centres.slice(s![..2, ..]).to_owned(), 20, 0.5);
        let more = around(&centres.slice(s![..1, ..]).to_owned(), 20, 0.5);
        let counts = vocabulary.count(frames.view()).unwrap() + vocabulary.count(more.view()).unwrap();
        assert_eq!((counts[own[0]], counts[own[1]], counts.sum()), (30.0, 10.0, 40.0));
        own.sort_unstable();
        assert_eq!(own, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn a_vocabulary_is_the_same_on_any_number_of_threads() {
        let frames = around(&planted(9), 3000, 6.0);
        let learn = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Vocabulary::learn(frames.view(), 40, 1).unwrap()).words
        };
        assert_eq!(learn(1), learn(3));
        assert_ne!(learn(1), Vocabulary::learn(frames.view(), 40, 2).unwrap().words);
    }

    #[test]
    fn fewer_frames_than_words_are_all_words() {
        let frames = around(&planted(3), 3, 0.1);
        let twice = ndarray::concatenate![Axis(0), frames, frames];
        assert_eq!(Vocabulary::learn(twice.view(), 10, 1).unwrap().len(), 3);
        assert_eq!(Vocabulary::learn(Array2::ones((4, 2)).view(), 10, 1).unwrap().len(), 1);
        assert!(Vocabulary::learn(Array2::zeros((0, 2)).view(), 10, 1).is_err());
        assert!(Vocabulary::learn(Array2::from_elem((4, 2), f32::NAN).view(), 2, 1).is_err());
    }

    #[test]
    fn a_word_without_frames_takes_the_furthest() {
        let x = ndarray::array![[0.0f32], [1.0], [9.0]];
        // All frames are nearest to word 0, at 0: x·w − |w|²/2 = 0.
        assert_eq!(middles(&x, &[(0, 0.0); 3], 2), ndarray::array![[10.0 / 3.0], [9.0]]);
    }

    #[test]
    fn tracks_of_the_same_sounds_have_the_same_features() {
        let centres = planted(8);
        // Even tracks are of the first four sounds, odd ones of the others.
        let load = |track: usize, window: usize| -> Result<Array2<f32>> {
            let half = centres.slice(s![track % 2 * 4..track % 2 * 4 + 4, ..]).to_owned();
            Ok(around(&half, 40 + window * 8, 0.3))
        };
        let told = std::sync::atomic::AtomicUsize::new(0);
        let tell = || {
            told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let bag = BagOfWords::learn(&load, 10, 2, &[0, 1, 2, 3, 4, 5], 8, 5, &tell).unwrap();
        assert_eq!((bag.features.nrows(), bag.vocabulary.len(), told.into_inner()), (10, 8, 10));
        let distance = |a: usize, b: usize| {
            let difference = &bag.features.row(a) - &bag.features.row(b);
            difference.dot(&difference).sqrt()
        };
        assert!(distance(6, 8) < 1e-3 && distance(6, 7) > 10.0, "{} {}", distance(6, 8), distance(6, 7));
        let broken = |_: usize, _: usize| Err(Error::invalid("a window", "one", "none"));
        assert!(BagOfWords::learn(&broken, 10, 2, &[0, 1], 8, 5, &|| ()).is_err());
        assert!(BagOfWords::learn(&load, 10, 2, &[], 8, 5, &|| ()).is_err());
    }
}
