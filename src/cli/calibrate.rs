//! What a trained network does not know yet: what an artist's songs add to its answers, and how sure they are. Both are
//! learned from the validation tracks, which the network was not trained on.

use std::collections::HashMap;
use std::path::Path;

use ndarray::{Array2, ArrayView2, Axis};

use crate::encoder::artist::{Examples, MOST, cosine};
use crate::encoder::embed::normalise;
use crate::encoder::{ArtistHead, BATCH, Calibration, Confidence, Known, Model};
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
}

/// What came of it, as mean cosines over the validation tracks (which it was made on).
pub struct Calibrated {
    pub head: Option<ArtistHead>,
    pub confidence: Confidence,
    /// With the sound alone, and with the artist's songs.
    pub cosines: (f64, f64),
    /// Validation tracks whose artist has other songs.
    pub with_songs: usize,
}

/// Trains the artist head and calibrates confidence. `window` gives the spectrogram `[frames, mel_bands]` of a track, as
/// the network hears it.
///
/// # Errors
/// Those of `window`, and of the network.
pub fn calibrate(
    model: &Model,
    tracks: &Tracks,
    window: &(dyn Fn(usize) -> Result<Array2<f32>> + Sync),
) -> Result<Calibrated> {
    let sounds = sounds(model, tracks.validation, window)?;
    let unit: HashMap<usize, Vec<f32>> = (tracks.training.iter())
        .filter_map(|&track| {
            let mut vector = tracks.targets.row(track).to_owned();
            normalise(vector.view_mut()).then(|| (track, vector.to_vec()))
        })
        .collect();
    let blank = ArtistHead { half_evidence: tracks.half_evidence, ..ArtistHead::default() };
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
    let examples = Examples { sounds: sounds.view(), targets: targets.view(), weights: &weights, songs: &songs };
    let with_songs = songs.iter().filter(|songs| !songs.is_empty()).count();
    let head = if with_songs >= ENOUGH { Some(ArtistHead::fit(&examples, tracks.half_evidence)?) } else { None };

    let fit = |head: &ArtistHead, which: &dyn Fn(usize) -> bool| {
        let (mut lengths, mut cosines, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for i in (0..songs.len()).filter(|&i| which(i)) {
            let said = ndarray::Array1::from(head.join(&sounds.row(i).to_vec(), &songs[i]));
            lengths.push(said.dot(&said).sqrt());
            cosines.push(cosine(said.view(), targets.row(i)) as f32);
            counts.push(weights[i]);
        }
        Calibration::fit(&lengths, &cosines, &counts)
    };
    let sound = fit(&blank, &|_| true)?;
    let artist = match &head {
        Some(head) => fit(head, &|i| !songs[i].is_empty())?,
        None => sound,
    };
    let cosines = (examples.cosine(&blank), examples.cosine(&head.unwrap_or(blank)));
    Ok(Calibrated { head, confidence: Confidence { sound, artist }, cosines, with_songs })
}

/// What the network says of these tracks, `[n, d]`, a batch at a time.
fn sounds(
    model: &Model,
    tracks: &[usize],
    window: &(dyn Fn(usize) -> Result<Array2<f32>> + Sync),
) -> Result<Array2<f32>> {
    let mut sounds = Array2::zeros((tracks.len(), model.config.encoder.dimensions));
    for (block, mut to) in tracks.chunks(BATCH).zip(sounds.axis_chunks_iter_mut(Axis(0), BATCH)) {
        let mels: Vec<[Array2<f32>; 1]> = block.iter().map(|&track| Ok([window(track)?])).collect::<Result<_>>()?;
        let tracks: Vec<(&Path, &[Array2<f32>])> =
            mels.iter().map(|mel| (Path::new("a validation track"), &mel[..])).collect();
        to.assign(&model.hear_tracks(&tracks)?);
    }
    Ok(sounds)
}
