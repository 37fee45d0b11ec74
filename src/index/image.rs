//! The songs as a generation: so that an index is opened by reading them one after another, and not row by row from the
//! catalogue. It holds what the catalogue holds up to its `seq`, and the lists, where there are some.
//!
//! ```text
//! u64 songs, u64 cells, u64 bytes of the classes, u64 songs that the cells were learned from, u64 changes since
//! f32 gap, gap with a filter, and songs of a listener's probe; the same of a song's; f32 recall, u32 0
//! u64 key [songs]     u64 artist [songs]     f32 norm, u32 plays, u32 class: each [songs]
//! f32 vectors [songs][d]     u32 songs of each list [cells]     f32 centroids [cells][d]     classes, in JSON
//! ```
//!
//! All little-endian; the songs of one list after those of another, so that a search reads them side by side. Without
//! cells all songs are one list.

use std::path::Path;

use super::cells::Cells;
use super::facts::{Classes, Facts};
use super::generation::{self, Origin, Reading};
use super::lists::{Probe, Probes};
use super::vectors::Vectors;
use crate::error::{Error, Result};

const KIND: &str = "image";

/// An index as far as its image goes.
pub(super) struct Image {
    pub seq: i64,
    pub songs: Vectors<Facts>,
    pub classes: Classes,
    /// What the lists were measured for, where there are lists.
    pub probes: Option<Probes>,
    /// For how many songs the cells were learned, and how many changed between that and the image.
    pub learned_from: usize,
    pub changed: usize,
}

/// Writes the songs beside the catalogue in `folder`; the lists with them where there are `probes`.
pub(super) fn publish(
    folder: &Path,
    identity: &str,
    seq: i64,
    songs: &Vectors<Facts>,
    classes: &Classes,
    probes: Option<Probes>,
    [learned_from, changed]: [usize; 2],
) -> Result<()> {
    let cells = songs.cells().filter(|_| probes.is_some());
    let probed = probes.map_or([0.0; 7], |Probes { listeners: a, songs: b, recall }| {
        [a.gap, a.filtered, a.songs, b.gap, b.filtered, b.songs, recall]
    });
    let classes = classes.to_json();
    let counts: Vec<u32> = songs.list_lengths().collect();
    let origin = Origin { seq, catalogue: identity.into(), dimensions: songs.dimensions(), songs: songs.len() };
    generation::publish(folder, KIND, origin, |out| {
        let lists = cells.map_or(0, Cells::len);
        for number in [songs.len(), lists, classes.len(), learned_from, changed] {
            out.write_all(&(number as u64).to_le_bytes())?;
        }
        probed.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
        out.write_all(&[0; 4])?;
        songs.in_lists().try_for_each(|(key, ..)| out.write_all(&key.to_le_bytes()))?;
        songs.in_lists().try_for_each(|(.., facts)| out.write_all(&facts.artist.to_le_bytes()))?;
        songs.in_lists().try_for_each(|(.., facts)| out.write_all(&facts.norm.to_le_bytes()))?;
        songs.in_lists().try_for_each(|(.., facts)| out.write_all(&facts.plays.to_le_bytes()))?;
        songs.in_lists().try_for_each(|(.., facts)| out.write_all(&facts.class.to_le_bytes()))?;
        let mut bytes = Vec::with_capacity(4 * songs.dimensions());
        for (_, row, _) in songs.in_lists() {
            bytes.clear();
            bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        if let Some(cells) = cells {
            counts.iter().try_for_each(|count| out.write_all(&count.to_le_bytes()))?;
            cells.centroids().iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
        }
        out.write_all(&classes)
    })
}

/// What [`publish`] wrote; `None` where there is none.
///
/// # Errors
/// Where it is damaged or not of this catalogue; the index is then read from the catalogue.
pub(super) fn open(folder: &Path, identity: &str, dimensions: usize, last_seq: i64) -> Result<Option<Image>> {
    match generation::read(folder, KIND, identity, dimensions, last_seq)? {
        Some(reading) => read(reading, dimensions).map(Some),
        None => Ok(None),
    }
}

fn read(mut from: Reading, d: usize) -> Result<Image> {
    let path = from.path.clone();
    let odd = |what: &str| Error::format(&path, "an image of songs", what);
    let (word, half, real) = (u64::from_le_bytes, u32::from_le_bytes, f32::from_le_bytes);
    let head = from.numbers(5, word)?;
    let probed = from.numbers(8, real)?;
    let size = |i: usize| usize::try_from(head[i]).map_err(|_| odd(&format!("a number of {}", head[i])));
    let (n, lists, classes) = (size(0)?, size(1)?, size(2)?);
    let (learned_from, changed) = (size(3)?, size(4)?);
    let probe = |i: usize| Probe { gap: probed[i], filtered: probed[i + 1], songs: probed[i + 2] };
    let probes = Probes { listeners: probe(0), songs: probe(3), recall: probed[6] };
    // The sizes are not believed before the hash; this bounds what is allocated by the length of the file.
    let (n128, d128, lists128) = (n as u128, d as u128, lists as u128);
    let expected = n128 * (28 + 4 * d128) + lists128 * (4 + 4 * d128) + classes as u128;
    if n != from.origin.songs || expected != u128::from(from.left()) {
        return Err(odd(&format!("{n} songs and {lists} cells in {} bytes", from.left())));
    }
    let keys = from.numbers(n, word)?;
    let artists = from.numbers(n, word)?;
    let (norms, plays) = (from.numbers(n, real)?, from.numbers(n, half)?);
    let of_class = from.numbers(n, half)?;
    let rows = from.numbers(n * d, real)?;
    let counts = from.numbers(lists, half)?;
    let centroids = from.numbers(lists * d, real)?;
    let classes = from.numbers(classes, |[byte]: [u8; 1]| byte)?;
    let seq = from.origin.seq;
    from.finish()?;

    // It is what was written. Whoever wrote it may still have been wrong.
    if centroids.iter().any(|x| !x.is_finite()) {
        return Err(odd("a centroid that is not finite"));
    }
    let facts = artists.into_iter().zip(norms).zip(plays).map(|((artist, norm), plays)| (artist, norm, plays));
    let (classes, facts) =
        Classes::read(&classes, &of_class, &keys, facts).map_err(|problem| odd(&problem.to_string()))?;
    let cells = (lists > 0).then(|| Cells::of(d, centroids));
    let counts = if lists > 0 { counts } else { vec![n as u32] };
    let songs = Vectors::of_lists(d, cells, &counts, keys, rows, facts).map_err(|e| odd(&e.to_string()))?;
    Ok(Image { seq, songs, classes, probes: (lists > 0).then_some(probes), learned_from, changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Served;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const D: usize = 3;
    const PROBES: Probes = Probes {
        listeners: Probe { gap: 0.25, filtered: 0.5, songs: 30.0 },
        songs: Probe { gap: f32::INFINITY, filtered: f32::INFINITY, songs: 40.0 },
        recall: 0.9,
    };

    fn songs(n: u64, cells: Option<Cells>) -> (Vectors<Facts>, Classes) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut songs, mut classes) = (Vectors::new(D), Classes::default());
        for key in 1..=n {
            let served = Served {
                vector: (0..D).map(|_| rng.random_range(-1.0..1.0)).collect(),
                norm: rng.random_range(0.0..2.0),
                plays: rng.random_range(0..9),
                artist: (key % 3 > 0).then(|| format!("artist {}", key % 7)),
                year: (key % 5 > 0).then_some(1990 + (key % 4) as i32),
                language: (key % 2 > 0).then(|| "pt-BR \"ü\"".into()),
                explicit: Some(key % 11 == 0),
                regions: (key % 13 == 0).then(|| "DE AT".into()),
            };
            let facts = classes.insert(1000 * key, &served);
            songs.upsert(1000 * key, &served.vector, facts).unwrap();
        }
        if let Some(cells) = cells {
            songs.divide(cells);
        }
        (songs, classes)
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let probes = PROBES;
        let of_cells = || Cells::of(D, vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        for (n, cells) in [(0, None), (1, None), (100, None), (1, Some(of_cells())), (100, Some(of_cells()))] {
            let dir = tempfile::tempdir().unwrap();
            let probes = cells.as_ref().map(|_| probes);
            let (songs, classes) = songs(n, cells);
            assert!(open(dir.path(), "c", D, 5).unwrap().is_none());
            publish(dir.path(), "c", 5, &songs, &classes, probes, [77, 8]).unwrap();
            let image = open(dir.path(), "c", D, 5).unwrap().unwrap();
            assert_eq!((image.seq, image.probes, image.learned_from, image.changed), (5, probes, 77, 8));
            let all = |songs: &Vectors<Facts>| {
                let all = songs.in_lists().map(|(key, row, facts)| {
                    let Facts { class, artist, norm, plays, .. } = *facts;
                    (key, row.to_vec(), [u64::from(class), artist, u64::from(norm.to_bits()), u64::from(plays)])
                });
                all.collect::<Vec<_>>()
            };
            assert_eq!(all(&image.songs), all(&songs));
            assert_eq!(image.songs.list_lengths().collect::<Vec<_>>(), songs.list_lengths().collect::<Vec<_>>());
            assert_eq!(image.classes.to_json(), classes.to_json());
            for (identity, dimensions, seq) in [("d", D, 5), ("c", D + 1, 5), ("c", D, 4)] {
                assert!(open(dir.path(), identity, dimensions, seq).is_err());
            }
        }
    }

    /// Files whose hash is right, as a faulty writer would leave them.
    #[test]
    fn an_image_that_does_not_fit_together_is_refused_before_it_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let (songs, classes) = songs(40, Some(Cells::of(D, vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0])));
        publish(dir.path(), "c", 5, &songs, &classes, Some(PROBES), [40, 0]).unwrap();
        let file = dir.path().join("index/image-5.bin");
        let whole = std::fs::read(&file).unwrap();
        let faulty = |at: usize, bytes: &[u8]| {
            let mut faulty = whole.clone();
            faulty[at..at + bytes.len()].copy_from_slice(bytes);
            let origin = Origin { seq: 5, catalogue: "c".into(), dimensions: D, songs: 40 };
            generation::publish(dir.path(), KIND, origin, |out| out.write_all(&faulty)).unwrap();
            open(dir.path(), "c", D, 5).err().map(|e| e.to_string())
        };
        assert_eq!(faulty(0, &[]), None);
        let huge = u64::MAX.to_le_bytes();
        for word in [0, 8, 16] {
            assert!(faulty(word, &huge).is_some() && faulty(word, &(1u64 << 40).to_le_bytes()).is_some(), "{word}");
        }
        let (keys, class, rows) = (72, 72 + 40 * 24, 72 + 40 * 28);
        let counts = rows + 40 * 4 * D;
        for (at, bytes, says) in [
            (keys + 8, &whole[keys..keys + 8], "twice"),
            (class, &[255; 4], "class 4294967295 of"),
            (rows, &f32::NAN.to_le_bytes(), "NaN"),
            (counts, &[255; 4], "40 songs in 2 lists"),
            (counts + 8, &f32::INFINITY.to_le_bytes(), "centroid"),
            (whole.len() - 1, b"}", "classes"),
        ] {
            let refused = faulty(at, bytes).expect(says);
            assert!(refused.contains(says), "{refused}");
        }
    }
}
