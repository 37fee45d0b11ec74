//! Training on fewer labels: which tracks keep their targets, and what a teacher says of the others.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::{fmt, fs};

use ndarray::{Array2, ArrayViewMut2};

use super::{Context, progress};
use crate::audio::FrontEnd;
use crate::encoder::{BATCH, Model, Spectrograms};
use crate::error::{Error, Result};
use crate::eval::split;
use crate::factors::Factors;
use crate::ids::TrackId;

/// The training tracks that are learned from with their own targets.
#[derive(Clone, Debug, PartialEq)]
pub enum Labelled {
    /// This share of them.
    Share(f64),
    /// Those whose ids this file holds, one a line.
    File(PathBuf),
}

impl fmt::Display for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Labelled::Share(share) => write!(f, "{share}"),
            Labelled::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for Labelled {
    type Err = Error;

    fn from_str(text: &str) -> Result<Labelled> {
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Labelled::Share(share)),
            Ok(_) => Err(Error::invalid("share of the labelled tracks", "above 0, at most 1", text)),
            Err(_) => Ok(Labelled::File(text.into())),
        }
    }
}

impl Labelled {
    /// Which of these tracks are labelled.
    ///
    /// # Errors
    /// `Io` where the file cannot be read; `Invalid` where none of the tracks is labelled.
    pub fn among(&self, tracks: &[&TrackId], seed: u64) -> Result<Vec<bool>> {
        let labelled: Vec<bool> = match self {
            Labelled::Share(share) => tracks.iter().map(|track| split(track, seed ^ 0x006c_6162) < *share).collect(),
            Labelled::File(path) => {
                let text = fs::read_to_string(path).map_err(Error::io(path))?;
                let mut ids: HashSet<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let labelled = tracks.iter().map(|track| ids.remove(track.as_str())).collect();
                if !ids.is_empty() {
                    let of = path.display();
                    tracing::warn!("{of}: {} of its ids are no training tracks with a factor", ids.len());
                }
                labelled
            }
        };
        match labelled.contains(&true) {
            true => Ok(labelled),
            false => Err(Error::invalid("labelled tracks", format!("some of the {}", tracks.len()), "none")),
        }
    }
}

/// A share of a full weight.
pub fn weight(text: &str) -> Result<f32, String> {
    let weight = text.parse().ok().filter(|w: &f32| (0.0..=1000.0).contains(w));
    weight.ok_or_else(|| "a number from 0 to 1000".into())
}

/// A model that predicts into the space of these factors.
pub fn teacher(folder: &Path, factors: &Factors) -> Result<Model> {
    let model = Model::load(folder)?;
    model.config.space.require("the teacher and the factors", &factors.space)?;
    if model.config.front_end.id() != FrontEnd::default().id() {
        let (expected, found) = (FrontEnd::default().id(), model.config.front_end.id());
        return Err(Error::mismatch("the teacher's front end and that of the spectrograms", expected, found));
    }
    Ok(model)
}

/// Replaces the targets of these tracks by what the teacher predicts from the middle of each of their windows.
///
/// # Errors
/// Those of reading and embedding; `Interrupted`.
pub fn teach(
    teacher: &Model,
    audio: &dyn Spectrograms,
    tracks: &[usize],
    mut targets: ArrayViewMut2<f32>,
    context: &Context,
) -> Result<()> {
    let frames = teacher.config.encoder.frames;
    let bar = progress(tracks.len() as u64, "asking the teacher");
    for block in tracks.chunks((BATCH / audio.windows()).max(1)) {
        if context.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let mut heard = Vec::new();
        for &track in block {
            let mut windows = vec![Array2::zeros((frames, audio.mel_bands())); audio.windows()];
            for (window, mel) in windows.iter_mut().enumerate() {
                audio.load(track, window, (audio.frames() - frames) / 2, mel.view_mut())?;
            }
            heard.push(windows);
        }
        let names: Vec<PathBuf> = block.iter().map(|&track| audio.name(track).into()).collect();
        let named: Vec<(&Path, &[Array2<f32>])> =
            names.iter().zip(&heard).map(|(name, windows)| (name.as_path(), &windows[..])).collect();
        let vectors = teacher.embed_tracks(&named)?;
        block.iter().zip(vectors.outer_iter()).for_each(|(&track, vector)| targets.row_mut(track).assign(&vector));
        bar.inc(block.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_share_holds_a_smaller_one_and_a_file_names_its_own() {
        let ids: Vec<TrackId> = (0..1000).map(|i| TrackId::new(format!("track-{i}")).unwrap()).collect();
        let tracks: Vec<&TrackId> = ids.iter().collect();
        let share = |text: &str| text.parse::<Labelled>().unwrap().among(&tracks, 1).unwrap();
        let (tenth, half) = (share("0.1"), share("0.5"));
        let count = |labelled: &[bool]| labelled.iter().filter(|&&l| l).count();
        // Five standard deviations of a binomial.
        assert!(count(&tenth).abs_diff(100) < 48 && count(&half).abs_diff(500) < 80);
        assert!(tenth.iter().zip(&half).all(|(small, large)| *large || !small));
        assert_eq!(count(&share("1")), 1000);
        for bad in ["0", "1.5", "-1", "nan"] {
            assert!(bad.parse::<Labelled>().is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.txt");
        fs::write(&path, "track-7\n\n  track-12 \nnobody\n").unwrap();
        let named = Labelled::File(path.clone()).among(&tracks, 1).unwrap();
        assert!(count(&named) == 2 && named[7] && named[12]);
        fs::write(&path, "nobody\n").unwrap();
        assert!(Labelled::File(path.clone()).among(&tracks, 1).unwrap_err().to_string().contains("some of the 1000"));
        assert!(Labelled::File(path.join("none")).among(&tracks, 1).is_err());
    }
}
