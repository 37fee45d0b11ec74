//! The lists of an inverted file: how many there are, how they are learned, and how many a search must look into for the
//! recall that is asked for.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::cells::Cells;
use super::facts::Facts;
use super::vectors::{Trace, Vectors};
use crate::error::Result;
use crate::linalg::unit;

/// Queries by which the gaps are found, of listeners and of songs each.
const QUERIES: usize = 400;
/// Share of the lists that a filter lets through which goes with the style.
const REGION: f64 = 0.1;
/// The answers whose recall is measured.
const ANSWERS: usize = 10;
/// Songs a cell that k-means learns from: more move the centroids by less than the cells differ.
const SAMPLE: usize = 48;

/// How far a search looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Probes {
    /// For a listener's taste, which lies between songs.
    pub listeners: Probe,
    /// For a song.
    pub songs: Probe,
    /// The recall@10 that these reach.
    pub recall: f32,
}

/// A search goes from list to list, the nearest centroid first, until the angle between one and the query is by more than
/// the gap wider than that of the `k`-th best so far. (Were the gap the radius of the widest cell, then by the triangle
/// inequality nothing would be missed.) So it goes further by itself where a filter lets few songs through, or more of
/// them are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Probe {
    /// In radians.
    pub gap: f32,
    /// The same where a filter leaves out the style of the query: what it lets through lies farther from the query than
    /// what is nearest to it, and further from its centroid towards the query.
    pub filtered: f32,
    /// How many songs lie in the lists that are looked into, without a filter.
    pub songs: f32,
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

/// The smallest gaps with which recall@10 against the exact scan reaches `recall` with something to spare, for songs,
/// and for listeners: sums of one to six songs and noise of .4 of their length, since a taste is no mean of songs. For a
/// recall of 1 no gap is large enough: no sample can promise that nothing is missed.
pub(super) fn calibrate(songs: &Vectors<Facts>, recall: f32) -> Result<Probes> {
    if recall >= 1.0 {
        let all = Probe { gap: f32::INFINITY, filtered: f32::INFINITY, songs: songs.len() as f32 };
        return Ok(Probes { listeners: all, songs: all, recall });
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
    let regions: Vec<Vec<bool>> = (0..QUERIES).filter_map(|_| Some(songs.region(&sum_of(1)?, REGION))).collect();
    // Evenly distributed in ±√3, so of variance 1.
    let noise = 0.4 / (d as f32).sqrt();
    for x in listeners.iter_mut().flatten() {
        *x += noise * rng.random_range(-1.732..1.732f32);
    }
    // Three quarters of what may be missed: who asks is not who was drawn here.
    let aim = 1.0 - 0.75 * (1.0 - f64::from(recall));
    let smallest = |traces: &[Trace]| -> f32 {
        let is_enough = |gap: f32| {
            let share = |t: &Trace| t.gaps.iter().filter(|g| **g <= gap).count() as f64 / t.gaps.len().max(1) as f64;
            let shares: Vec<f64> = traces.iter().map(share).collect();
            let n = shares.len() as f64;
            let mean = shares.iter().sum::<f64>() / n;
            let error = (shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n * (n - 1.0).max(1.0))).sqrt();
            mean - error >= aim
        };
        let mut gaps: Vec<f32> = traces.iter().flat_map(|trace| trace.gaps.iter().copied()).collect();
        gaps.sort_unstable_by(f32::total_cmp);
        let enough = gaps.partition_point(|gap| !is_enough(*gap));
        // The last one finds them all.
        gaps.get(enough).or(gaps.last()).copied().unwrap_or(f32::INFINITY)
    };
    let probe = |queries: &[Vec<f32>]| -> Result<Probe> {
        let all: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        let (truth, everywhere) =
            (songs.search_many(&all, ANSWERS, &|_, _, _| true)?, songs.region(&vec![0.0; d], 1.0));
        let near: Vec<Trace> =
            all.par_iter().zip(&truth).map(|(query, truth)| songs.trace(query, truth, &everywhere)).collect();
        let far = all.par_iter().zip(&regions).map(|(query, region)| {
            let truth = songs.search_region(query, ANSWERS, region);
            songs.trace(query, &truth, region)
        });
        let (gap, filtered) = (smallest(&near), smallest(&far.collect::<Vec<Trace>>()));
        let seen =
            |t: &Trace| t.lists[..t.lists.partition_point(|(g, _)| *g <= gap)].last().map_or(0, |(_, songs)| *songs);
        let seen: usize = near.iter().map(seen).sum();
        Ok(Probe { gap, filtered: filtered.max(gap), songs: seen as f32 / near.len().max(1) as f32 })
    };
    Ok(Probes { listeners: probe(&listeners)?, songs: probe(&new)?, recall })
}
