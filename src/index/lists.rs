//! The lists of an inverted file: how many there are, how they are learned, and how many a search must look into for the
//! recall that is asked for.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cells::Cells;
use super::facts::Facts;
use super::top::Best;
use super::vectors::Vectors;
use crate::error::Result;
use crate::linalg::unit;

/// Queries by which the number of probes is found, of listeners and of songs each.
const QUERIES: usize = 200;
/// The answers whose recall is measured.
const ANSWERS: usize = 10;
/// Songs a cell that k-means learns from: more move the centroids by less than the cells differ.
const SAMPLE: usize = 48;

/// How far a search looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Probes {
    /// Lists for a listener's taste, which lies between songs.
    pub listeners: usize,
    /// Lists for a song.
    pub songs: usize,
    /// The recall@10 that these reach.
    pub recall: f32,
}

/// Cells for so many songs: four times the root, so that choosing the lists costs about what reading them costs.
pub(super) fn cells_for(songs: usize) -> usize {
    (4.0 * (songs as f64).sqrt()).round().max(1.0) as usize
}

/// Learns the cells of `n` vectors, a sample of which is taken from `vectors`.
pub(super) fn learn<'a>(dimensions: usize, n: usize, vectors: impl Iterator<Item = &'a [f32]>) -> Cells {
    let cells = cells_for(n);
    let every = (n / (cells * SAMPLE)).max(1);
    let sample: Vec<f32> = vectors.step_by(every).flatten().copied().collect();
    Cells::train(dimensions, &sample, cells)
}

/// The fewest probes with which recall@10 against the exact scan reaches `recall` (less one standard error) for songs,
/// and for listeners: sums of one to six songs and noise of .4 of their length, since a taste is no mean of songs. For a
/// recall of 1 all lists: no sample can promise that nothing is missed.
pub(super) fn calibrate(songs: &Vectors<Facts>, recall: f32) -> Result<Probes> {
    let lists = songs.lists();
    if recall >= 1.0 {
        return Ok(Probes { listeners: lists, songs: lists, recall });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0x7072_6f62);
    let rows: Vec<&[f32]> = songs.iter().map(|(_, row)| row).collect();
    let d = songs.dimensions();
    let mut sum_of = |n: usize| {
        let mut sum = vec![0.0; d];
        for _ in 0..n {
            let row = rows[rng.random_range(0..rows.len())];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        unit(&sum)
    };
    let mut listeners: Vec<Vec<f32>> = (0..QUERIES).filter_map(|i| sum_of(1 + i % 6)).collect();
    // A song itself is its own first answer; halfway to another it is one that is not there yet.
    let new: Vec<Vec<f32>> = (0..QUERIES)
        .filter_map(|_| {
            let (one, other) = (sum_of(1)?, sum_of(1)?);
            unit(&one.iter().zip(&other).map(|(a, b)| a + 0.3 * b).collect::<Vec<_>>())
        })
        .collect();
    // Evenly distributed in ±√3, so of variance 1.
    let noise = 0.4 / (d as f32).sqrt();
    for x in listeners.iter_mut().flatten() {
        *x += noise * rng.random_range(-1.732..1.732f32);
    }
    let fewest = |queries: &[Vec<f32>]| -> Result<usize> {
        let all: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        let truth = songs.search_many(&all, ANSWERS, &|_, _, _| true)?;
        let mut probes = 1;
        while probes < lists {
            let mut shares = Vec::with_capacity(queries.len());
            for (query, truth) in queries.iter().zip(&truth) {
                let mut best = Best::new(ANSWERS);
                songs.probe(query, probes, &|_, _| true, &|_| 0, &mut best);
                let found = best.into_sorted().iter().filter(|hit| truth.contains(hit)).count();
                shares.push(found as f64 / truth.len().max(1) as f64);
            }
            let n = shares.len() as f64;
            let mean = shares.iter().sum::<f64>() / n;
            let error = (shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n * (n - 1.0).max(1.0))).sqrt();
            if mean - error >= f64::from(recall) {
                break;
            }
            probes += probes.div_ceil(4);
        }
        Ok(probes.min(lists))
    };
    Ok(Probes { listeners: fewest(&listeners)?, songs: fewest(&new)?, recall })
}
