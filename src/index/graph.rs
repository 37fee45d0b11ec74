//! The usearch graph (HNSW): a derived, disposable generation of the index, for who asks for it (`index.graph`).
//!
//! usearch trusts its caller and its files (a damaged file crashes the process, hangs it, or answers wrongly), so this
//! is the only way in, and it keeps these rules: finite vectors and no reserved key go in, finite queries and no more
//! than there is are asked; the graph never changes once it is built (what came later is scanned exactly beside it), so
//! nothing reserves, saves or loads while somebody searches; room for threads is reserved after every load; a file is
//! verified, length and BLAKE3, before usearch sees a byte of it; filters are put to the answer, never to usearch.

use std::path::Path;

use rayon::prelude::*;
use usearch::{Index as Usearch, IndexOptions, MetricKind, ScalarKind};

use super::generation::{self, Origin};
use super::{Hit, Vectors};
use crate::error::{Error, Result};

const KIND: &str = "graph";
/// usearch refuses a search when more threads ask than were reserved; a server has more than cores.
const THREADS: usize = 64;
/// Edges per node; usearch's default, and the best recall per byte at 40 dimensions.
const CONNECTIVITY: usize = 16;
/// Candidates looked at while inserting; usearch's default.
const EXPANSION_ADD: usize = 128;
/// Candidates looked at while searching: recall@10 of 0.99 for songs against songs at 100,000.
const EXPANSION_SEARCH: usize = 128;

/// A built graph over unit vectors; never changed.
pub(super) struct Graph {
    index: Usearch,
    pub seq: i64,
    pub songs: usize,
}

impl Graph {
    /// Builds a graph of all `songs`, on all cores; `done` hears how many are in.
    pub fn build<T>(songs: &Vectors<T>, seq: i64, done: &(dyn Fn(usize) + Sync)) -> Result<Graph> {
        let index = empty(songs.dimensions())?;
        let songs: Vec<(u64, &[f32])> = songs.iter().collect();
        index.reserve_capacity_and_threads(songs.len().max(1), THREADS).map_err(refused)?;
        songs.par_chunks(256).try_for_each(|chunk| {
            for (key, vector) in chunk {
                if *key == u64::MAX || !vector.iter().all(|v| v.is_finite()) {
                    return Err(Error::invalid("vector for the graph", "finite numbers", format!("key {key}")));
                }
                index.add(*key, vector).map_err(refused)?;
            }
            done(chunk.len());
            Ok(())
        })?;
        Ok(Graph { index, seq, songs: songs.len() })
    }

    /// About the `k` songs of the largest cosine, best first.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        // usearch allocates for `k` before it looks.
        let found = self.index.search(query, k.min(self.songs)).map_err(refused)?;
        Ok(found.keys.into_iter().zip(found.distances).map(|(key, d)| Hit { key, score: 1.0 - d }).collect())
    }

    /// Writes this generation beside the catalogue in `folder` and makes it the current one.
    pub fn publish(&self, folder: &Path, identity: &str) -> Result<()> {
        // usearch's own `save` overwrites in place and does not notice a full disk.
        let mut bytes = vec![0; self.index.serialized_length()];
        self.index.save_to_buffer(&mut bytes).map_err(refused)?;
        let dimensions = self.index.dimensions();
        let origin = Origin { seq: self.seq, catalogue: identity.into(), dimensions, songs: self.songs };
        generation::publish(folder, KIND, origin, |out| out.write_all(&bytes))
    }

    /// The current generation of the catalogue in this folder, or `None` where there is none.
    ///
    /// # Errors
    /// Where it is damaged or belongs to another catalogue; the index is then built again from the catalogue.
    pub fn open(folder: &Path, identity: &str, dimensions: usize, last_seq: i64) -> Result<Option<Graph>> {
        let Some(mut reading) = generation::read(folder, KIND, identity, dimensions, last_seq)? else {
            return Ok(None);
        };
        let (path, origin) = (reading.path.clone(), reading.origin.clone());
        let length = reading.left() as usize;
        let bytes = reading.numbers(length, |[byte]: [u8; 1]| byte)?;
        reading.finish()?;
        let index = empty(dimensions)?;
        index.load_from_buffer(&bytes).map_err(refused)?;
        if index.size() != origin.songs || index.dimensions() != dimensions {
            return Err(Error::format(&path, format!("{} songs", origin.songs), index.size()));
        }
        index.reserve_capacity_and_threads(origin.songs.max(1), THREADS).map_err(refused)?;
        index.change_expansion_search(EXPANSION_SEARCH);
        Ok(Some(Graph { index, seq: origin.seq, songs: origin.songs }))
    }
}

fn empty(dimensions: usize) -> Result<Usearch> {
    Usearch::new(&IndexOptions {
        dimensions,
        metric: MetricKind::Cos,
        quantization: ScalarKind::F32,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    })
    .map_err(refused)
}

fn refused(e: impl std::fmt::Display) -> Error {
    Error::invalid("call of usearch", "an answer", e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const D: usize = 12;

    fn song(rng: &mut impl Rng) -> Vec<f32> {
        crate::linalg::unit(&(0..D).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>()).unwrap()
    }

    fn songs(n: u64, rng: &mut impl Rng) -> Vectors {
        let mut songs = Vectors::new(D);
        (1..=n).for_each(|key| songs.upsert(key, &song(rng), ()).unwrap());
        songs
    }

    /// usearch takes both without a word: the one is never found again, the other ruins the recall of all.
    #[test]
    fn a_reserved_key_and_numbers_that_are_not_finite_stay_outside() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut with_reserved = songs(20, &mut rng);
        assert!(Graph::build(&with_reserved, 1, &|_| ()).is_ok());
        with_reserved.upsert(u64::MAX, &song(&mut rng), ()).unwrap();
        assert!(Graph::build(&with_reserved, 1, &|_| ()).is_err());
        assert!(with_reserved.upsert(5, &[f32::NAN; D], ()).is_err());
    }

    #[test]
    fn an_absurd_k_allocates_what_there_is() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let graph = Graph::build(&songs(50, &mut rng), 1, &|_| ()).unwrap();
        assert_eq!(graph.search(&song(&mut rng), usize::MAX).unwrap().len(), 50);
        assert!(graph.search(&song(&mut rng), 0).unwrap().is_empty());
        let none = Graph::build(&songs(0, &mut rng), 0, &|_| ()).unwrap();
        assert!(none.search(&song(&mut rng), 10).unwrap().is_empty());
    }

    /// As many threads as there is room for search at once, also after a load, which forgets the room.
    #[test]
    fn many_threads_search_a_loaded_graph() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let dir = tempfile::tempdir().unwrap();
        let built = Graph::build(&songs(500, &mut rng), 7, &|_| ()).unwrap();
        built.publish(dir.path(), "c").unwrap();
        let loaded = Graph::open(dir.path(), "c", D, 7).unwrap().unwrap();
        let queries: Vec<Vec<f32>> = (0..20).map(|_| song(&mut rng)).collect();
        let expected: Vec<Vec<Hit>> = queries.iter().map(|q| built.search(q, 5).unwrap()).collect();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..10 {
                        for (query, expected) in queries.iter().zip(&expected) {
                            assert_eq!(&loaded.search(query, 5).unwrap(), expected);
                        }
                    }
                });
            }
        });
    }
}
