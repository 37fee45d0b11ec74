//! What the catalogue says of a new track before anyone has heard it: its artist's other tracks, its album's, all.

use std::collections::HashMap;

use ndarray::{Array1, Array2, ArrayView2};

use crate::error::{Error, Result};

/// Whose track it is, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label<'a> {
    pub artist: Option<&'a str>,
    pub album: Option<&'a str>,
}

/// From where a mean was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Artist,
    Album,
    /// Neither had another track.
    All,
}

/// For each track of `asked`, the weighted mean of what is `known` `[tracks, d]` of its artist's tracks; of its album's
/// where the artist is not given or has none; of all where the album is no help either.
///
/// # Errors
/// `Mismatch` for arrays that do not fit, `Invalid` where nothing known has a weight.
pub fn means(
    known: ArrayView2<f32>,
    weights: &[f32],
    labels: &[Label],
    asked: &[Label],
) -> Result<(Array2<f32>, Vec<Source>)> {
    let (tracks, d) = known.dim();
    if weights.len() != tracks || labels.len() != tracks {
        let found = format!("{} weights and {} labels", weights.len(), labels.len());
        return Err(Error::mismatch("what is known of tracks", format!("{tracks} of each"), found));
    }
    let mut sums: HashMap<(Source, &str), (Array1<f64>, f64)> = HashMap::new();
    for ((row, &weight), label) in known.outer_iter().zip(weights).zip(labels) {
        if weight > 0.0 {
            for key in keys(label) {
                let sum = sums.entry(key).or_insert_with(|| (Array1::zeros(d), 0.0));
                sum.0.zip_mut_with(&row, |sum, &x| *sum += f64::from(weight) * f64::from(x));
                sum.1 += f64::from(weight);
            }
        }
    }
    if !sums.contains_key(&ALL) {
        return Err(Error::invalid("known tracks", "at least one with a weight", "none"));
    }
    let mut out = Array2::zeros((asked.len(), d));
    let mut sources = Vec::with_capacity(asked.len());
    for (mut row, label) in out.outer_iter_mut().zip(asked) {
        let found = keys(label).find_map(|key| Some((key.0, sums.get(&key)?)));
        let (source, (sum, weight)) = found.expect("every label has the key ALL, which is there");
        row.zip_mut_with(sum, |x, sum| *x = (sum / weight) as f32);
        sources.push(source);
    }
    Ok((out, sources))
}

const ALL: (Source, &str) = (Source::All, "");

/// The artist, the album, all.
fn keys<'a>(label: &Label<'a>) -> impl Iterator<Item = (Source, &'a str)> + use<'a> {
    let artist = label.artist.map(|name| (Source::Artist, name));
    let album = label.album.map(|name| (Source::Album, name));
    artist.into_iter().chain(album).chain([ALL])
}

#[test]
fn the_artist_comes_before_the_album_and_the_album_before_all() {
    use ndarray::array;
    let label = |artist, album| Label { artist, album };
    let known = array![[1.0f32, 0.0], [3.0, 4.0], [0.0, 8.0]];
    let labels = [label(Some("a"), Some("x")), label(Some("a"), Some("y")), label(None, Some("y"))];
    let asked = [
        label(Some("a"), Some("y")),
        label(Some("new"), Some("y")),
        label(None, Some("y")),
        label(Some("new"), Some("new")),
        label(None, None),
        label(Some("x"), None), // an album of that name is no artist
    ];
    let (found, sources) = means(known.view(), &[1.0, 3.0, 1.0], &labels, &asked).unwrap();
    let all = [2.0, 4.0];
    assert_eq!(found, ndarray::arr2(&[[2.5, 3.0], [2.25, 5.0], [2.25, 5.0], all, all, all]));
    use Source::{Album, All, Artist};
    assert_eq!(sources, [Artist, Album, Album, All, All, All]);
    // A track that counts nothing says nothing.
    let (found, sources) = means(known.view(), &[0.0, 0.0, 1.0], &labels, &asked[..1]).unwrap();
    assert_eq!((found, sources), (ndarray::arr2(&[[0.0, 8.0]]), vec![Album]));
    assert!(means(known.view(), &[0.0; 3], &labels, &asked).is_err());
    assert!(means(known.view(), &[1.0; 2], &labels, &asked).is_err());
}
