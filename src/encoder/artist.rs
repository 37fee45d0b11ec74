//! What an artist's earlier songs say of a new one.
//!
//! A network hears a song as if nobody had ever heard of its artist. But where he has songs that people play, their
//! learned vectors are evidence, and the strongest there is besides the sound: ACARec (arXiv 2604.07090, 2026) reports
//! more than double the recall of content alone. Two facts shape the head that joins them:
//!
//! - An artist has more than one side. His songs are attended to by how near they lie to what was heard, as in the
//!   attention of Bahdanau et al. (2015) with a dot product: `w_j ∝ e_j exp(β ŝ·v_j)`, where `ŝ` is the direction that the
//!   network predicts, `v_j` a song's learned direction, and `e_j` (0 to 1) how much it rests on plays.
//! - One song says less than twenty, and no number of them says all. So their mean `m = Σ w_j v_j` takes the share
//!   `g = G n / (n + κ)` of the answer `(1 − g) s + g m`, with `n = Σ e_j`; an artist without a song gets the sound alone.
//!
//! `m` is not scaled to unit length: songs that scatter say little, and weigh little. Nor is `s`, what the network says,
//! where it was trained with a squared loss; so the length of the answer tells how sure it is ([`super::confidence`]). Under
//! the other losses the network's lengths mean nothing, and are scaled to 1 in the middle ([`ArtistHead::scale`]).
//!
//! Three numbers are trained, `β`, `κ` and `G`, on tracks that the network was not trained on: of its training tracks it
//! knows more than it will of a new one, and would be trusted too much.

use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// At most this many of an artist's songs are attended to.
pub const MOST: usize = 256;

/// A song of the artist that people play.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// `[d]`, unit length: learned from plays.
    pub vector: &'a [f32],
    /// 0 to 1: how much it rests on plays.
    pub evidence: f32,
}

/// The trained head. `Default` trusts the sound alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtistHead {
    /// β: 0 takes an artist's songs alike; at 8 those nearest to what was heard decide.
    pub attention: f32,
    /// κ: so many well-known songs take half of the largest share.
    pub half: f32,
    /// G, 0 to 1: the largest share that an artist's songs can take.
    pub share: f32,
    /// What the network's answer is multiplied by: 1 where its length says how sure it is, else 1 / the median length.
    pub scale: f32,
    /// Listeners at which a song's evidence `n / (n + this)` is a half, as when the head was trained.
    pub half_evidence: f32,
}

impl Default for ArtistHead {
    fn default() -> ArtistHead {
        ArtistHead { attention: 0.0, half: 1.0, share: 0.0, scale: 1.0, half_evidence: 10.0 }
    }
}

impl ArtistHead {
    /// # Errors
    /// `Invalid` for a number out of range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("attention", self.attention, 0.0, 1e3),
            ("half", self.half, 0.0, 1e6),
            ("share", self.share, 0.0, 1.0),
            ("scale", self.scale, f32::MIN_POSITIVE, 1e6),
            ("half_evidence", self.half_evidence, 0.0, 1e6),
        ];
        for (name, found, least, most) in ranges {
            if !(least..=most).contains(&found) {
                return Err(Error::invalid(format!("artist.{name}"), format!("{least} to {most}"), found));
            }
        }
        Ok(())
    }

    /// How much a song with so many listeners counts, 0 to 1.
    pub fn evidence(&self, listeners: u32) -> f32 {
        let n = listeners as f32;
        if n > 0.0 { n / (n + self.half_evidence) } else { 0.0 }
    }

    /// `[d]`, not of unit length: what the sound (`[d]`, as the network says it) and the artist's songs say together.
    pub fn join(&self, sound: &[f32], songs: &[Known]) -> Vec<f32> {
        let n: f32 = songs.iter().map(|song| song.evidence).sum();
        let g = if n > 0.0 { self.share * n / (n + self.half) } else { 0.0 };
        if g == 0.0 {
            return sound.iter().map(|x| self.scale * x).collect();
        }
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let length = dot(sound, sound).sqrt().max(f32::MIN_POSITIVE);
        // Cosines are at most 1, so at most exp(0) here, and nothing overflows.
        let weight = |song: &Known| song.evidence * (self.attention * (dot(sound, song.vector) / length - 1.0)).exp();
        let total: f32 = songs.iter().map(weight).sum();
        let mut joined: Vec<f32> = sound.iter().map(|x| (1.0 - g) * self.scale * x).collect();
        for song in songs {
            let share = g * weight(song) / total;
            joined.iter_mut().zip(song.vector).for_each(|(x, v)| *x += share * v);
        }
        joined
    }

    /// The head with the highest mean cosine between what it says and what listeners taught, weighted by evidence, over
    /// these tracks; none of whose targets may be among their own artist's `songs`. The first grid has sound alone in it,
    /// so the head is never worse there; then each number is refined in turn. `start` has
    /// the numbers that are not trained.
    ///
    /// # Errors
    /// `Mismatch` or `Invalid` for arrays that do not fit, and where there is no track.
    pub fn fit(examples: &Examples, start: ArtistHead) -> Result<ArtistHead> {
        examples.check()?;
        let score = |head: ArtistHead| (examples.cosine(&head), head);
        // Of equals the first, the one that asks less of the artist.
        let better = |best: (f64, ArtistHead), new: (f64, ArtistHead)| if new.0 > best.0 + 1e-9 { new } else { best };
        let mut grid = Vec::new();
        for share in [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0] {
            for half in [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
                for attention in [0.0, 1.0, 2.0, 4.0, 8.0, 16.0] {
                    grid.push(ArtistHead { attention, half, share, ..start });
                }
            }
        }
        let scores: Vec<(f64, ArtistHead)> = grid.into_par_iter().map(score).collect();
        let mut best = scores.into_iter().reduce(better).expect("the grid is not empty");
        for factor in [1.5f32, 1.2] {
            for _ in 0..4 {
                let (_, h) = best;
                let near = [
                    ArtistHead { attention: h.attention * factor, ..h },
                    ArtistHead { attention: h.attention / factor, ..h },
                    ArtistHead { half: h.half * factor, ..h },
                    ArtistHead { half: h.half / factor, ..h },
                    ArtistHead { share: (h.share * factor).min(1.0), ..h },
                    ArtistHead { share: h.share / factor, ..h },
                ];
                let scores: Vec<(f64, ArtistHead)> = near.into_par_iter().map(score).collect();
                best = scores.into_iter().fold(best, better);
            }
        }
        Ok(best.1)
    }
}

/// Tracks to train a head on.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// `[n, d]`: what the network says.
    pub sounds: ArrayView2<'a, f32>,
    /// `[n, d]`: what listeners taught, at any length.
    pub targets: ArrayView2<'a, f32>,
    /// `[n]`: how much each counts.
    pub weights: &'a [f32],
    /// `[n]`: the other songs of each track's artist.
    pub songs: &'a [Vec<Known<'a>>],
}

impl Examples<'_> {
    fn check(&self) -> Result<()> {
        let (n, d) = self.sounds.dim();
        let found = (self.targets.nrows(), self.weights.len(), self.songs.len());
        if found != (n, n, n) || self.targets.ncols() != d {
            let what = "sounds and targets, weights, songs of each";
            return Err(Error::mismatch(
                what,
                format!("{n} rows of {d}"),
                format!("{found:?}, {}", self.targets.ncols()),
            ));
        }
        if let Some(song) = self.songs.iter().flatten().find(|song| song.vector.len() != d) {
            return Err(Error::mismatch("sounds and an artist's songs: dimensions", d, song.vector.len()));
        }
        if n == 0 || !self.weights.iter().any(|w| *w > 0.0) {
            return Err(Error::invalid("tracks to train the artist head on", "one that counts", n));
        }
        Ok(())
    }

    /// Mean cosine between what the head says and the targets.
    pub fn cosine(&self, head: &ArtistHead) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (i, songs) in self.songs.iter().enumerate() {
            let said = head.join(&self.sounds.row(i).to_vec(), songs);
            let weight = f64::from(self.weights[i]);
            sum += weight * cosine(ArrayView1::from(&said), self.targets.row(i));
            total += weight;
        }
        sum / total
    }
}

/// 0 where one of the two points nowhere.
pub(crate) fn cosine(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f64 {
    let dot = |a: ArrayView1<f32>, b: ArrayView1<f32>| {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Axis};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn known(vector: &[f32], evidence: f32) -> Known<'_> {
        Known { vector, evidence }
    }

    const HEAD: ArtistHead = ArtistHead { attention: 4.0, half: 1.0, share: 0.8, scale: 1.0, half_evidence: 10.0 };

    #[test]
    fn a_new_artist_gets_the_sound_alone_and_a_known_one_more_of_his_songs_the_more_there_are() {
        let sound = [0.6, 0.0];
        let song = [0.0, 1.0];
        assert_eq!(HEAD.join(&sound, &[]), sound);
        assert_eq!(HEAD.join(&sound, &[known(&song, 0.0)]), sound, "a song that nobody has played is no evidence");
        assert_eq!(ArtistHead::default().join(&sound, &[known(&song, 1.0)]), sound);
        let pull = |songs: usize| HEAD.join(&sound, &vec![known(&song, 1.0); songs])[1];
        assert!((pull(1) - 0.4).abs() < 1e-6, "{}", pull(1));
        assert!(pull(1) < pull(3) && pull(3) < pull(100) && pull(100) < 0.8);
        // One that rests on few plays counts less.
        assert!(HEAD.join(&sound, &[known(&song, 0.3)])[1] < pull(1));
        assert_eq!((HEAD.evidence(0), HEAD.evidence(10), HEAD.evidence(30)), (0.0, 0.5, 0.75));
    }

    #[test]
    fn songs_near_to_what_was_heard_are_attended_to_and_scattered_ones_weigh_little() {
        let (loud, quiet) = ([1.0, 0.0], [-1.0, 0.0]);
        let both = [known(&loud, 1.0), known(&quiet, 1.0)];
        let sure = HEAD.join(&[0.5, 0.0], &both);
        assert!(sure[0] > 0.6, "{sure:?}");
        // Without attention the two cancel, and what is left is short.
        let torn = ArtistHead { attention: 0.0, ..HEAD }.join(&[0.5, 0.0], &both);
        assert!((torn[0] - 0.5 * (1.0 - 0.8 * 2.0 / 3.0)).abs() < 1e-6, "{torn:?}");
        // Answers whose lengths mean nothing are scaled first.
        let long = ArtistHead { scale: 0.1, ..HEAD }.join(&[5.0, 0.0], &both);
        assert!(long.iter().zip(&sure).all(|(a, b)| (a - b).abs() < 1e-6), "{long:?} {sure:?}");
        // Nothing overflows, however sharp.
        let sharp = ArtistHead { attention: 1000.0, ..HEAD }.join(&[0.5, 0.0], &both);
        assert!(sharp.iter().all(|x| x.is_finite()), "{sharp:?}");
    }

    /// Songs whose directions are partly their artist's, partly what can be heard, partly their own.
    fn world(artists: usize, common: f32, heard: f32) -> (Array2<f32>, Array2<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut noise = |n: usize| Array2::from_shape_simple_fn((n, 8), || rng.random_range(-1.0f32..1.0));
        let n = artists * 6;
        let (centres, own, audible) = (noise(artists), noise(n), noise(n));
        let mut targets = common * centres.select(Axis(0), &(0..n).map(|i| i / 6).collect::<Vec<_>>());
        targets = targets + heard * &audible + 0.3 * own;
        let lengths = targets.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        targets /= &lengths.insert_axis(Axis(1));
        (0.7 * audible, targets)
    }

    fn fit(common: f32, heard: f32) -> (ArtistHead, f64, f64) {
        let (sounds, targets) = world(60, common, heard);
        let rows: Vec<Vec<f32>> = targets.outer_iter().map(|row| row.to_vec()).collect();
        let songs: Vec<Vec<Known>> = (0..rows.len())
            .map(|i| (i / 6 * 6..i / 6 * 6 + 6).filter(|j| *j != i).map(|j| known(&rows[j], 0.9)).collect())
            .collect();
        let examples =
            Examples { sounds: sounds.view(), targets: targets.view(), weights: &vec![1.0; rows.len()], songs: &songs };
        let head = ArtistHead::fit(&examples, ArtistHead::default()).unwrap();
        head.check().unwrap();
        (head, examples.cosine(&ArtistHead::default()), examples.cosine(&head))
    }

    #[test]
    fn it_finds_how_much_artists_say() {
        let (head, before, after) = fit(1.0, 0.5);
        assert!(head.share > 0.5 && after > before + 0.3, "{head:?} {before} {after}");
        // Where an artist says nothing he gets nothing to say.
        let (head, before, after) = fit(0.0, 1.0);
        assert!(head.share <= 0.2 && after >= before, "{head:?} {before} {after}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let sounds = Array2::zeros((1, 2));
        let vector = [1.0f32, 0.0, 0.0];
        let of = |weights: &[f32], songs: &[Vec<Known>]| {
            let examples = Examples { sounds: sounds.view(), targets: sounds.view(), weights, songs };
            ArtistHead::fit(&examples, ArtistHead::default()).is_err()
        };
        assert!(of(&[], &[vec![]]) && of(&[0.0], &[vec![]]) && of(&[1.0], &[vec![known(&vector, 1.0)]]));
        assert!(
            ArtistHead { share: 1.5, ..HEAD }.check().is_err()
                && ArtistHead { half: f32::NAN, ..HEAD }.check().is_err()
        );
    }
}
