//! The inverted file as a generation: which cells there are, which song lies in which, and how many must be looked into
//! for the recall that is asked for.
//!
//! ```text
//! u32 cells, u32 probes of listeners, u32 probes of songs, f32 recall   u64 songs
//! f32 centroids [cells][d]     u64 key [songs]     u32 cell [songs]     all little-endian
//! ```

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cells::Cells;
use super::facts::Facts;
use super::generation::{self, Origin};
use super::keys::Keys;
use super::top::Best;
use super::vectors::Vectors;
use crate::error::{Error, Result};
use crate::linalg::unit;

const KIND: &str = "lists";
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

/// Writes the cells of `songs` beside the catalogue in `folder`.
pub(super) fn publish(
    folder: &Path,
    identity: &str,
    seq: i64,
    songs: &Vectors<Facts>,
    cells: &Cells,
    probes: Probes,
) -> Result<()> {
    let mut bytes = Vec::with_capacity(24 + 4 * cells.centroids().len() + 12 * songs.len());
    for number in [cells.len(), probes.listeners, probes.songs] {
        bytes.extend((number as u32).to_le_bytes());
    }
    bytes.extend(probes.recall.to_le_bytes());
    bytes.extend((songs.len() as u64).to_le_bytes());
    bytes.extend(cells.centroids().iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend(songs.iter().flat_map(|(key, _)| key.to_le_bytes()));
    bytes.extend(songs.list_of_each().flat_map(|list| list.to_le_bytes()));
    let origin = Origin { seq, catalogue: identity.into(), dimensions: songs.dimensions(), songs: songs.len() };
    generation::publish(folder, KIND, origin, &bytes)
}

/// What [`publish`] wrote.
pub(super) struct Opened {
    pub seq: i64,
    pub cells: Cells,
    /// The cell of each song.
    pub of: Keys,
    pub songs: usize,
    pub probes: Probes,
}

/// # Errors
/// As [`generation::open`].
pub(super) fn open(folder: &Path, identity: &str, dimensions: usize, last_seq: i64) -> Result<Option<Opened>> {
    let Some((path, origin, bytes)) = generation::open(folder, KIND, identity, dimensions, last_seq)? else {
        return Ok(None);
    };
    let odd = || Error::format(&path, "cells, keys and the cell of each", format!("{} bytes", bytes.len()));
    let (head, rest) = bytes.split_first_chunk::<24>().ok_or_else(odd)?;
    let words: Vec<u32> = head.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
    let (cells, listeners, songs_probes) = (words[0] as usize, words[1] as usize, words[2] as usize);
    let n = (u64::from(words[5]) << 32 | u64::from(words[4])) as usize;
    let expected = (cells as u128) * (dimensions as u128) * 4 + (n as u128) * 12;
    if cells == 0 || n != origin.songs || rest.len() as u128 != expected {
        return Err(odd());
    }
    let (centroids, rest) = rest.split_at(cells * dimensions * 4);
    let (keys, lists) = rest.split_at(n * 8);
    let centroids: Vec<f32> = centroids.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    if centroids.iter().any(|x| !x.is_finite()) {
        return Err(odd());
    }
    let mut of = Keys::default();
    for (key, list) in keys.as_chunks::<8>().0.iter().zip(lists.as_chunks::<4>().0) {
        let list = u32::from_le_bytes(*list);
        if list as usize >= cells {
            return Err(odd());
        }
        of.insert(u64::from_le_bytes(*key), list);
    }
    let probes = Probes { listeners, songs: songs_probes, recall: f32::from_bits(words[3]) };
    Ok(Some(Opened { seq: origin.seq, cells: Cells::of(dimensions, centroids), of, songs: n, probes }))
}
