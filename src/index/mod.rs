//! Which songs are near a vector: a cache of the catalogue's vectors that follows its change feed.
//!
//! The [exact scan](vectors) is the default and the oracle. Above [`IndexConfig::graph_above`] songs, song against song is
//! answered by a [usearch graph](graph) and an exact scan of what came after it was built; listener against song stays
//! exact, since at 40 dimensions a graph is slower there at equal recall up to a million songs.

use std::collections::HashSet;

mod blocks;
mod cells;
pub mod graph;
mod keys;
mod top;
pub mod vectors;

pub use graph::Graph;
use serde::{Deserialize, Serialize};
use top::Best;
pub use vectors::Vectors;

use crate::error::{Error, Result};
use crate::store::Store;

/// One answer: the key of a track in the catalogue, and its cosine with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    pub key: u64,
    pub score: f32,
}

/// Settings of the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// A graph is used from this many songs on. 100,000: below, the exact scan takes 0.3 ms or less and misses nothing.
    pub graph_above: usize,
    /// A graph is built anew when more than this share of its songs changed since; what changed is scanned exactly.
    pub rebuild_share: f32,
}

impl Default for IndexConfig {
    fn default() -> IndexConfig {
        IndexConfig { graph_above: 100_000, rebuild_share: 0.1 }
    }
}

/// The vectors of a catalogue, ready to be searched.
pub struct Index {
    config: IndexConfig,
    dimensions: usize,
    identity: String,
    all: Vectors,
    graph: Option<Graph>,
    /// Songs that are new or changed since the graph was built, and the keys for which it must not answer.
    fresh: Vectors,
    stale: HashSet<u64>,
    seq: i64,
    data_version: Option<i64>,
}

impl Index {
    /// Loads all vectors of the catalogue, and the graph where there is a sound one (a damaged one is reported and
    /// ignored: the catalogue is the truth).
    ///
    /// # Errors
    /// `NotFound` where the catalogue has no space yet.
    pub fn open(store: &Store, config: &IndexConfig) -> Result<Index> {
        let space = store.space()?.ok_or_else(|| Error::NotFound {
            what: "space in the catalogue",
            name: store.folder().display().to_string(),
        })?;
        let dimensions = space.dimensions;
        let identity = store.identity()?;
        let graph = Graph::open(store.folder(), &identity, dimensions, store.seq()?).unwrap_or_else(|problem| {
            tracing::warn!("the graph is left unused, and the exact scan answers: {problem}");
            None
        });
        let mut index = Index {
            config: config.clone(),
            dimensions,
            identity,
            all: Vectors::new(dimensions),
            graph,
            fresh: Vectors::new(dimensions),
            stale: HashSet::new(),
            seq: 0,
            data_version: None,
        };
        index.refresh(store)?;
        Ok(index)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Everything up to this number of the catalogue's sequence can be found.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Takes in what the catalogue acknowledged since; returns how many songs changed. Cheap when nothing did.
    pub fn refresh(&mut self, store: &Store) -> Result<usize> {
        let graph_seq = self.graph.as_ref().map_or(i64::MAX, |g| g.seq);
        let (all, fresh, stale, seq) = (&mut self.all, &mut self.fresh, &mut self.stale, &mut self.seq);
        let mut changed = 0;
        let mut odd = Ok(());
        store.changes_since(*seq, &mut |change| {
            if odd.is_err() {
                return;
            }
            let after_graph = change.seq > graph_seq;
            match &change.vector {
                Some(vector) => {
                    let mut put_in = || {
                        all.upsert(change.key, vector, ())?;
                        if after_graph {
                            fresh.upsert(change.key, vector, ())?;
                            stale.insert(change.key);
                        }
                        Ok(())
                    };
                    odd = put_in();
                    if odd.is_err() {
                        return;
                    }
                }
                None => {
                    all.remove(change.key);
                    if after_graph {
                        fresh.remove(change.key);
                        stale.insert(change.key);
                    }
                }
            }
            *seq = change.seq;
            changed += 1;
        })?;
        odd.map(|()| changed)
    }

    /// [`Index::refresh`], if another process has committed since the last call; costs microseconds otherwise.
    pub fn refresh_if_changed(&mut self, store: &Store) -> Result<usize> {
        let version = store.data_version()?;
        if self.data_version == Some(version) {
            return Ok(0);
        }
        let changed = self.refresh(store)?;
        self.data_version = Some(version);
        Ok(changed)
    }

    /// The `k` songs of the largest cosine with the unit vector `query` `[d]` that `keep` lets through, exactly.
    ///
    /// # Errors
    /// `Mismatch` of dimensions; `Invalid` for a query that is not finite.
    pub fn search(&self, query: &[f32], k: usize, keep: &dyn Fn(u64) -> bool) -> Result<Vec<Hit>> {
        self.all.search(query, k, &|key, ()| keep(key))
    }

    /// As [`Index::search`], for a query that is itself a song: through the graph where there is one.
    pub fn search_similar(&self, query: &[f32], k: usize, keep: &dyn Fn(u64) -> bool) -> Result<Vec<Hit>> {
        let Some(graph) = &self.graph else { return self.search(query, k, keep) };
        // Twice what is asked for, so that a handful of excluded songs leaves enough.
        let Ok(near) = graph.search(query, k.saturating_mul(2).saturating_add(16)) else {
            return self.search(query, k, keep);
        };
        let mut best = Best::new(k);
        let mut kept = 0;
        for hit in near.into_iter().filter(|h| !self.stale.contains(&h.key) && keep(h.key)) {
            best.push(hit, 0);
            kept += 1;
        }
        if kept < k.min(graph.songs.saturating_sub(self.stale.len())) {
            // The filter is too strict for a graph, which would wander: the scan costs the same as ever.
            return self.search(query, k, keep);
        }
        for hit in self.fresh.search(query, k, &|key, ()| keep(key))? {
            best.push(hit, 0);
        }
        Ok(best.into_sorted())
    }

    /// Whether [`Index::build_graph`] is due: enough songs, and no graph or one that is too old.
    pub fn graph_is_due(&self) -> bool {
        self.len() >= self.config.graph_above.max(1)
            && self.graph.as_ref().is_none_or(|g| self.stale.len() as f32 > self.config.rebuild_share * g.songs as f32)
    }

    /// Builds the graph of all songs and publishes it beside the catalogue, for this process and the ones that open
    /// later. `done` hears of songs as they go in.
    pub fn build_graph(&mut self, store: &Store, done: &(dyn Fn(usize) + Sync)) -> Result<()> {
        let graph = Graph::build(self.dimensions, &self.all, self.seq, done)?;
        graph.publish(store.folder(), &self.identity, self.dimensions)?;
        self.graph = Some(graph);
        self.fresh = Vectors::new(self.dimensions);
        self.stale.clear();
        Ok(())
    }

    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::SpaceId;
    use crate::ids::TrackId;
    use crate::store::{Change, Source, SpaceRow, Track, TrackInfo};
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::fs;

    const D: usize = 16;

    fn unit(rng: &mut impl Rng) -> Vec<f32> {
        // Clustered, as songs are: one of 20 directions plus noise.
        let mut genre = ChaCha8Rng::seed_from_u64(rng.random_range(0..20));
        let v: Vec<f32> = (0..D).map(|_| genre.random_range(-1.0..1.0f32) + rng.random_range(-0.4..0.4f32)).collect();
        let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter().map(|x| x / length).collect()
    }

    fn song(name: usize, vector: Vec<f32>) -> Change {
        Change::Upsert(Box::new(Track {
            id: TrackId::new(format!("song {name}")).unwrap(),
            path: None,
            content: None,
            info: TrackInfo::default(),
            seconds: None,
            tiled: false,
            model: None,
            windows: None,
            predicted: None,
            vector,
            norm: 1.0,
            source: Source::Learned,
            plays: 1,
        }))
    }

    fn catalogue(songs: usize, rng: &mut impl Rng) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.set_space(&SpaceRow { id: SpaceId::named("s"), dimensions: D, description: "{}".into() }).unwrap();
        store.commit(&(0..songs).map(|i| song(i, unit(rng))).collect::<Vec<_>>()).unwrap();
        (dir, store)
    }

    fn keys(hits: &[Hit]) -> Vec<u64> {
        hits.iter().map(|h| h.key).collect()
    }

    /// Share of the exact top 10 that the graph finds, over 100 songs.
    fn recall(index: &Index, rng: &mut impl Rng) -> f64 {
        let mut found = 0;
        for _ in 0..100 {
            let query = unit(rng);
            let truth = keys(&index.search(&query, 10, &|_| true).unwrap());
            found += keys(&index.search_similar(&query, 10, &|_| true).unwrap())
                .iter()
                .filter(|k| truth.contains(k))
                .count();
        }
        found as f64 / 1000.0
    }

    #[test]
    fn a_song_is_found_as_soon_as_the_catalogue_has_it_and_no_longer_than_that() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (_dir, mut store) = catalogue(50, &mut rng);
        let mut index = Index::open(&store, &IndexConfig::default()).unwrap();
        let new = unit(&mut rng);
        store.commit(&[song(1000, new.clone())]).unwrap();
        assert_eq!(index.refresh(&store).unwrap(), 1);
        let best = index.search(&new, 1, &|_| true).unwrap()[0];
        assert!((best.score - 1.0).abs() < 1e-5);
        let track = store.track_by_key(best.key).unwrap().unwrap();
        assert_eq!(track.id.as_str(), "song 1000");
        store.commit(&[Change::Remove(track.id)]).unwrap();
        index.refresh(&store).unwrap();
        assert_ne!(index.search(&new, 1, &|_| true).unwrap()[0].key, best.key);
        assert_eq!(index.refresh(&store).unwrap(), 0);
    }

    #[test]
    fn the_graph_agrees_with_the_scan_also_after_changes_and_a_reopening() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (_dir, mut store) = catalogue(3000, &mut rng);
        let config = IndexConfig { graph_above: 1000, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        assert!(index.graph_is_due() && !index.has_graph());
        index.build_graph(&store, &|_| ()).unwrap();
        assert!(recall(&index, &mut rng) >= 0.95);

        let moved: Vec<Change> = (0..100).map(|i| song(i, unit(&mut rng))).collect();
        store.commit(&moved).unwrap();
        let gone: Vec<Change> =
            (100..150).map(|i| Change::Remove(TrackId::new(format!("song {i}")).unwrap())).collect();
        store.commit(&gone).unwrap();
        store.commit(&(3000..3100).map(|i| song(i, unit(&mut rng))).collect::<Vec<_>>()).unwrap();
        index.refresh(&store).unwrap();
        assert!(recall(&index, &mut rng) >= 0.95);
        assert!(!index.graph_is_due(), "250 of 3000 changed");

        let reopened = Index::open(&Store::read(store.folder()).unwrap(), &config).unwrap();
        assert!(reopened.has_graph());
        assert!(recall(&reopened, &mut rng) >= 0.95);
        let query = unit(&mut rng);
        assert_eq!(
            keys(&reopened.search_similar(&query, 10, &|k| k % 500 == 0).unwrap()),
            keys(&reopened.search(&query, 10, &|k| k % 500 == 0).unwrap()),
            "a strict filter falls back to the scan"
        );
    }

    #[test]
    fn a_damaged_graph_is_never_loaded() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (_dir, store) = catalogue(500, &mut rng);
        let config = IndexConfig { graph_above: 100, ..IndexConfig::default() };
        Index::open(&store, &config).unwrap().build_graph(&store, &|_| ()).unwrap();
        let folder = store.folder().join("index");
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let whole = fs::read(&path).unwrap();
            for trial in 0..40 {
                let mut bytes = whole.clone();
                match trial % 3 {
                    0 => bytes[rng.random_range(0..whole.len())] ^= 1 << rng.random_range(0..8),
                    1 => bytes.truncate(rng.random_range(0..whole.len())),
                    _ => {
                        let at = rng.random_range(0..whole.len());
                        let end = (at + 64).min(whole.len());
                        bytes[at..end].fill(0);
                    }
                }
                fs::write(&path, &bytes).unwrap();
                let index = Index::open(&store, &config).unwrap();
                let query = unit(&mut rng);
                if bytes != whole && path.extension().is_some_and(|e| e == "usearch") {
                    assert!(!index.has_graph());
                    assert_eq!(
                        index.search_similar(&query, 5, &|_| true).unwrap(),
                        index.search(&query, 5, &|_| true).unwrap()
                    );
                }
                assert_eq!(index.search_similar(&query, 5, &|_| true).unwrap().len(), 5);
            }
            fs::write(&path, &whole).unwrap();
        }
        assert!(Index::open(&store, &config).unwrap().has_graph());
    }

    #[test]
    fn a_graph_of_another_catalogue_is_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (_a, first) = catalogue(300, &mut rng);
        let (_b, second) = catalogue(300, &mut rng);
        let config = IndexConfig { graph_above: 100, ..IndexConfig::default() };
        Index::open(&first, &config).unwrap().build_graph(&first, &|_| ()).unwrap();
        fs::create_dir(second.folder().join("index")).unwrap();
        for entry in fs::read_dir(first.folder().join("index")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, second.folder().join("index").join(path.file_name().unwrap())).unwrap();
        }
        assert!(!Index::open(&second, &config).unwrap().has_graph());
    }
}
