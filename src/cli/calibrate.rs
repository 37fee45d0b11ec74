//! What a trained network does not know yet: what an artist's songs add to its answers, and how sure they are. Both are
//! learned from the validation tracks, which the network was not trained on.

use std::collections::HashMap;

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::encoder::artist::{Examples, MOST, cosine};
use crate::encoder::embed::normalise;
use crate::encoder::{ArtistHead, Calibration, Confidence, Known};
use crate::error::Result;
use crate::store::TrackInfo;

/// Below this many validation tracks with an artist who has other songs, the head is not trained, nor is its confidence.
const ENOUGH: usize = 20;

/// The tracks of a training run.
pub struct Tracks<'a> {
    pub infos: &'a [&'a TrackInfo],
    /// `[tracks, d]`: what listeners taught.
    pub targets: ArrayView2<'a, f32>,
    /// `[tracks]`: how much each target counts.
    pub weights: &'a [f32],
    /// `[tracks]`
    pub listeners: &'a [u32],
    pub training: &'a [usize],
    pub validation: &'a [usize],
    pub half_evidence: f32,
    /// Whether the length of the network's answer says how sure it is.
    pub lengths_tell: bool,
}

/// What came of it.
pub struct Calibrated {
    pub head: Option<ArtistHead>,
    pub confidence: Vec<Confidence>,
    /// Mean cosines over the validation tracks, which it was made on: with the sound alone, and with the artist's songs.
    pub cosines: (f64, f64),
    /// Validation tracks whose artist has other songs.
    pub with_songs: usize,
}

/// Trains the artist head, and calibrates confidence for each of some numbers of windows. `said`: that number, and what the
/// network says of the validation tracks `[validation, d]`, the mean over so many windows; the first trains the head.
///
/// # Errors
/// `Mismatch` or `Invalid` for arrays that do not fit.
pub fn calibrate(tracks: &Tracks, said: &[(usize, Array2<f32>)]) -> Result<Calibrated> {
    let first = said.first().map_or_else(|| tracks.targets.slice(ndarray::s![..0, ..]), |(_, sounds)| sounds.view());
    let scale = if tracks.lengths_tell { 1.0 } else { 1.0 / median_length(first) };
    let unit: HashMap<usize, Vec<f32>> = (tracks.training.iter())
        .filter_map(|&track| {
            let mut vector = tracks.targets.row(track).to_owned();
            normalise(vector.view_mut()).then(|| (track, vector.to_vec()))
        })
        .collect();
    let blank = ArtistHead { scale, half_evidence: tracks.half_evidence, ..ArtistHead::default() };
    let mut by_artist: HashMap<&str, Vec<Known>> = HashMap::new();
    for track in tracks.training {
        if let (Some(artist), Some(vector)) = (tracks.infos[*track].artist_or_album(), unit.get(track)) {
            let song = Known { vector, evidence: blank.evidence(tracks.listeners[*track]) };
            by_artist.entry(artist).or_default().push(song);
        }
    }
    for songs in by_artist.values_mut() {
        songs.sort_by(|a, b| b.evidence.total_cmp(&a.evidence));
        songs.truncate(MOST);
    }
    let songs_of = |track: &usize| -> Vec<Known> {
        tracks.infos[*track].artist_or_album().and_then(|artist| by_artist.get(artist)).cloned().unwrap_or_default()
    };
    let songs: Vec<Vec<Known>> = tracks.validation.iter().map(songs_of).collect();
    let targets = tracks.targets.select(Axis(0), tracks.validation);
    let weights: Vec<f32> = tracks.validation.iter().map(|&track| tracks.weights[track]).collect();
    let examples = Examples { sounds: first, targets: targets.view(), weights: &weights, songs: &songs };
    let with_songs = songs.iter().filter(|songs| !songs.is_empty()).count();
    let head = if with_songs >= ENOUGH { Some(ArtistHead::fit(&examples, blank)?) } else { None };

    let fit = |sounds: &Array2<f32>, head: &ArtistHead, which: &dyn Fn(usize) -> bool| {
        let (mut lengths, mut cosines, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for i in (0..songs.len()).filter(|&i| which(i)) {
            let said = Array1::from(head.join(&sounds.row(i).to_vec(), &songs[i]));
            lengths.push(said.dot(&said).sqrt());
            cosines.push(cosine(said.view(), targets.row(i)) as f32);
            counts.push(weights[i]);
        }
        // Of one track there is nothing to be learned.
        let enough = counts.iter().filter(|w| **w > 0.0).count() >= 2;
        enough.then(|| Calibration::fit(&lengths, &cosines, &counts)).transpose()
    };
    let mut confidence = Vec::new();
    for (windows, sounds) in said {
        let Some(sound) = fit(sounds, &blank, &|_| true)? else { continue };
        let artist = match &head {
            Some(head) => fit(sounds, head, &|i| !songs[i].is_empty())?.unwrap_or(sound),
            None => sound,
        };
        confidence.push(Confidence { windows: *windows, sound, artist });
    }
    let cosines = match songs.is_empty() {
        true => (0.0, 0.0),
        false => (examples.cosine(&blank), examples.cosine(&head.unwrap_or(blank))),
    };
    Ok(Calibrated { head: head.or((scale != 1.0).then_some(blank)), confidence, cosines, with_songs })
}

fn median_length(sounds: ArrayView2<f32>) -> f32 {
    let mut lengths: Vec<f32> = sounds.outer_iter().map(|row| row.dot(&row).sqrt()).filter(|l| *l > 0.0).collect();
    lengths.sort_unstable_by(f32::total_cmp);
    lengths.get(lengths.len() / 2).copied().unwrap_or(1.0)
}
