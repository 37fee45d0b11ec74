//! Which songs are near a vector: a cache of the catalogue's vectors that follows its change feed.
//!
//! Every acknowledged song can be found at once, and what is found are always the songs of the largest cosine among
//! those that were looked at. What is looked at depends on how many there are:
//!
//! | songs | search | recall |
//! |---|---|---|
//! | below [`IndexConfig::lists_above`] | the [exact scan](vectors) of 8-bit codes | 1, proven by its bound |
//! | above | an inverted file: the lists of the nearest centroids, exactly | [`IndexConfig::recall`], measured when it is built |
//! | few that a [`Filter`] lets through | those few | 1 |
//!
//! The lists are the scan's own, so an index has no second copy of its vectors, and a song goes into the list of its
//! cell when it is acknowledged. A [usearch graph](graph) answers song against song for who asks for it; on our
//! measurements (benches/README.md) it is slower than the lists at every size, and takes a hundred times longer to build.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::thread::JoinHandle;

mod blocks;
mod cells;
mod facts;
mod generation;
mod graph;
mod keys;
mod lists;
mod top;
pub mod vectors;

use cells::Cells;
pub use facts::Filter;
use facts::{Classes, Facts, Ready};
use graph::Graph;
use keys::Keys;
use lists::Probes;
use serde::{Deserialize, Serialize};
use top::Best;
pub use vectors::Vectors;

use crate::error::{Error, Result};
use crate::store::{Served, Store, TrackChange};

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
    /// From this many songs on a search looks into the nearest lists only. 200,000: below, the scan of all takes 0.3 ms
    /// or less and misses nothing.
    pub lists_above: usize,
    /// Share of the true ten best that the lists must find, 0 to 1; 1 looks at everything.
    pub recall: f32,
    /// The cells are learned anew when this many changes were made, as a share of the songs that they were learned from.
    pub rebuild_share: f32,
    /// Song against song by a usearch graph, from [`IndexConfig::lists_above`] songs on.
    pub graph: bool,
    /// Also keep every vector in its length, for [`Index::search_inner_product`]; doubles the memory.
    pub inner_product: bool,
    /// A new release is one of this many that came last …
    pub new_tracks: usize,
    /// … and that fewer listeners than this have met.
    pub new_plays: u32,
}

impl Default for IndexConfig {
    fn default() -> IndexConfig {
        IndexConfig {
            lists_above: 200_000,
            recall: 0.99,
            rebuild_share: 1.0,
            graph: false,
            inner_product: false,
            new_tracks: 10_000,
            new_plays: 5,
        }
    }
}

impl IndexConfig {
    /// # Errors
    /// `Invalid` where a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.recall) {
            return Err(Error::invalid("setting index.recall", "a number between 0 and 1", self.recall));
        }
        if !(self.rebuild_share > 0.0) {
            return Err(Error::invalid("setting index.rebuild_share", "a number above 0", self.rebuild_share));
        }
        Ok(())
    }
}

/// What an index knows of a track besides its vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// How popular, 0 to 1: that of the catalogue's median is one half. Of a new release, one half: nobody knows yet.
    pub popularity: f32,
    /// It is a new release (see [`IndexConfig::new_tracks`]).
    pub new: bool,
    /// Equal for tracks of one artist; 0 where no artist is known.
    pub artist: u64,
}

/// The vectors of a catalogue, ready to be searched.
pub struct Index {
    config: IndexConfig,
    dimensions: usize,
    identity: String,
    songs: Vectors<Facts>,
    classes: Classes,
    /// The new releases again with their artists, so that they can be asked alone; of their keys, the oldest goes first.
    new: Vectors<u64>,
    new_keys: BTreeSet<u64>,
    newest: u64,
    /// Every vector in its length, where inner products are asked for.
    by_norm: Option<Vectors<u64>>,
    /// The median of the norms, and for how many songs it was found.
    median: (f32, usize),
    /// How many lists are looked into, for how many songs they were learned, and the changes since.
    probes: Option<Probes>,
    learned_from: usize,
    changed: usize,
    learning: Option<Learning>,
    graph: Option<Grown>,
    seq: i64,
    data_version: Option<i64>,
}

/// A graph, and what changed since it was built: the songs with their artists, and the keys for which it must not answer.
struct Grown {
    graph: Graph,
    fresh: Vectors<u64>,
    stale: HashSet<u64>,
}

/// Cells that are being learned by another thread, from a copy of the vectors as they were.
struct Learning {
    thread: JoinHandle<(Cells, Keys)>,
    /// Keys whose vector changed since.
    changed: HashSet<u64>,
}

impl Index {
    /// Loads all vectors of the catalogue, and what is derived of them where it is sound (what is damaged is reported and
    /// ignored: the catalogue is the truth).
    ///
    /// # Errors
    /// `NotFound` where the catalogue has no space yet.
    pub fn open(store: &Store, config: &IndexConfig) -> Result<Index> {
        config.check()?;
        let space = store.space()?.ok_or_else(|| Error::NotFound {
            what: "space in the catalogue",
            name: store.folder().display().to_string(),
        })?;
        let dimensions = space.dimensions;
        let identity = store.identity()?;
        let (folder, last) = (store.folder(), store.seq()?);
        let unused = |what: &str, problem: Error| tracing::warn!("{what} left unused: {problem}");
        let lists = lists::open(folder, &identity, dimensions, last).unwrap_or_else(|problem| {
            unused("the lists are", problem);
            None
        });
        let graph = match config.graph {
            false => None,
            true => Graph::open(folder, &identity, dimensions, last).unwrap_or_else(|problem| {
                unused("the graph is", problem);
                None
            }),
        };
        let mut index = Index {
            config: config.clone(),
            dimensions,
            identity,
            songs: Vectors::new(dimensions),
            classes: Classes::default(),
            new: Vectors::new(dimensions),
            new_keys: BTreeSet::new(),
            newest: 0,
            by_norm: config.inner_product.then(|| Vectors::by_norm(dimensions)),
            median: (0.0, 0),
            probes: None,
            learned_from: 0,
            changed: 0,
            learning: None,
            graph: graph.map(|graph| Grown { graph, fresh: Vectors::new(dimensions), stale: HashSet::new() }),
            seq: 0,
            data_version: None,
        };
        let mut known = (Keys::default(), 0);
        if let Some(lists) = lists {
            index.probes = Some(lists.probes).filter(|probes| probes.recall >= config.recall);
            index.learned_from = lists.songs;
            index.songs = Vectors::in_cells(dimensions, lists.cells);
            known = (lists.of, lists.seq);
        }
        index.take_in(store, &known.0, known.1)?;
        if index.songs.cells().is_some() && index.probes.is_none() && index.len() > 0 {
            // They were measured for a lower recall than is asked for now.
            index.probes = Some(lists::calibrate(&index.songs, config.recall)?);
        }
        Ok(index)
    }

    pub fn len(&self) -> usize {
        self.songs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.songs.is_empty()
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Everything up to this number of the catalogue's sequence can be found.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Bytes that this occupies, unused capacity included and a graph not.
    pub fn bytes(&self) -> usize {
        self.songs.bytes() + self.classes.bytes() + self.new.bytes() + self.by_norm.as_ref().map_or(0, Vectors::bytes)
    }

    /// Takes in what the catalogue acknowledged since; returns how many songs changed. Cheap when nothing did.
    pub fn refresh(&mut self, store: &Store) -> Result<usize> {
        if self.learning.as_ref().is_some_and(|learning| learning.thread.is_finished()) {
            self.take_cells()?;
        }
        self.take_in(store, &Keys::default(), 0)
    }

    /// [`Index::refresh`], if another process has committed since the last call; costs microseconds otherwise.
    pub fn refresh_if_changed(&mut self, store: &Store) -> Result<usize> {
        let version = store.data_version()?;
        if self.data_version == Some(version) && self.learning.is_none() {
            return Ok(0);
        }
        let changed = self.refresh(store)?;
        self.data_version = Some(version);
        Ok(changed)
    }

    /// `known` has the lists of songs that did not change after `known_seq`.
    fn take_in(&mut self, store: &Store, known: &Keys, known_seq: i64) -> Result<usize> {
        let (mut changed, mut result) = (0, Ok(()));
        let first = self.seq == 0;
        store.changes_since(self.seq, &mut |change| {
            if result.is_ok() {
                let list = known.get(change.key).filter(|_| change.seq <= known_seq);
                self.changed += usize::from(change.seq > known_seq);
                result = self.take(&change, list, first);
                self.seq = change.seq;
                changed += 1;
            }
        })?;
        result?;
        if first {
            // Once all keys are known, and not while each of them was the newest.
            let from = self.newest.saturating_sub(self.config.new_tracks as u64) + 1;
            for key in from..=self.newest {
                self.keep_if_new(key)?;
            }
        }
        if changed > 0 && self.median.1.abs_diff(self.len()) * 10 >= self.median.1 {
            let mut norms: Vec<f32> = self.songs.beside().map(|facts| facts.norm).collect();
            let middle = norms.len() / 2;
            if middle < norms.len() {
                self.median = (*norms.select_nth_unstable_by(middle, f32::total_cmp).1, norms.len());
            }
        }
        Ok(changed)
    }

    fn take(&mut self, change: &TrackChange, list: Option<u32>, first: bool) -> Result<()> {
        let key = change.key;
        if let Some(learning) = &mut self.learning {
            learning.changed.insert(key);
        }
        match &change.served {
            Some(served) => {
                vectors::check(self.dimensions, &served.vector)?;
                if let Some((_, facts)) = self.songs.get(key) {
                    let facts = *facts;
                    self.leave_class(&facts);
                }
                let facts = self.classes.insert(key, served);
                self.songs.upsert_into(list, key, &served.vector, facts)?;
                if let Some(by_norm) = &mut self.by_norm {
                    by_norm.upsert(key, &scaled(served), facts.artist)?;
                }
            }
            None => {
                if let Some(facts) = self.songs.remove(key) {
                    self.leave_class(&facts);
                }
                if let Some(by_norm) = &mut self.by_norm {
                    by_norm.remove(key);
                }
            }
        }
        if let Some(Grown { graph, fresh, stale }) = &mut self.graph
            && change.seq > graph.seq
        {
            match self.songs.get(key) {
                Some((vector, facts)) => fresh.upsert(key, vector, facts.artist)?,
                None => drop(fresh.remove(key)),
            }
            stale.insert(key);
        }
        self.newest = self.newest.max(key);
        if first { Ok(()) } else { self.keep_if_new(key) }
    }

    fn leave_class(&mut self, facts: &Facts) {
        if let Some(moved) = self.classes.remove(facts)
            && let Some(other) = self.songs.beside_mut(moved)
        {
            Classes::moved(other, facts);
        }
    }

    /// Puts the song among the new releases or takes it out, and with it those that are no longer among the newest.
    fn keep_if_new(&mut self, key: u64) -> Result<()> {
        let oldest = self.newest.saturating_sub(self.config.new_tracks as u64);
        match self.songs.get(key).filter(|(_, facts)| key > oldest && facts.plays < self.config.new_plays) {
            Some((vector, facts)) => {
                self.new.upsert(key, vector, facts.artist)?;
                self.new_keys.insert(key);
            }
            None => {
                self.new.remove(key);
                self.new_keys.remove(&key);
            }
        }
        while self.new_keys.first().is_some_and(|first| *first <= oldest) {
            if let Some(gone) = self.new_keys.pop_first() {
                self.new.remove(gone);
            }
        }
        Ok(())
    }

    /// The `k` songs of the largest cosine with a listener's taste `query` `[d]`, a unit vector, that the filter lets
    /// through, best first; at the recall of [`IndexConfig::recall`] where there are lists, else exactly.
    ///
    /// # Errors
    /// `Mismatch` of dimensions; `Invalid` for a query that is not finite.
    pub fn search(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Hit>> {
        self.find(query, k, filter, self.probes.map(|probes| probes.listeners))
    }

    /// As [`Index::search`], for a query that is itself a song; through the graph where there is one.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_similar(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Hit>> {
        if let Some(grown) = &self.graph
            && let Some(hits) = self.find_in_graph(grown, query, k, filter)?
        {
            return Ok(hits);
        }
        self.find(query, k, filter, self.probes.map(|probes| probes.songs))
    }

    /// As [`Index::search`], and nothing is missed.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_exact(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Hit>> {
        self.find(query, k, filter, None)
    }

    /// As [`Index::search_exact`] of each query without a filter: eight share each pass over the memory.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_many(&self, queries: &[&[f32]], k: usize) -> Result<Vec<Vec<Hit>>> {
        self.songs.search_many(queries, k, &|_, _, _| true)
    }

    /// The `k` songs of the largest inner product with `query` `[d]`, which need not be a unit vector, exactly, of vectors
    /// in the length of their factors: popularity chooses. Goes from the longest down, and stops where by
    /// Cauchy–Schwarz no shorter one can be among the best.
    ///
    /// # Errors
    /// As [`Index::search`]; `Invalid` without [`IndexConfig::inner_product`].
    pub fn search_inner_product(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Hit>> {
        vectors::check(self.dimensions, query)?;
        let by_norm = self
            .by_norm
            .as_ref()
            .ok_or_else(|| Error::invalid("search by inner product", "index.inner_product = true", "false"))?;
        let ready = self.classes.ready(filter);
        let keep = |key, _: &u64| self.songs.get(key).is_some_and(|(_, facts)| ready.keeps(key, facts));
        let mut best = Best::with_limit(k, ready.per_artist());
        by_norm.scan(query, &keep, &|artist| *artist, &mut best);
        Ok(best.into_sorted())
    }

    /// As [`Index::search_exact`], among the new releases only.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_new(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Hit>> {
        vectors::check(self.dimensions, query)?;
        let ready = self.classes.ready(filter);
        let keep = |key, _: &u64| self.songs.get(key).is_some_and(|(_, facts)| ready.keeps(key, facts));
        let mut best = Best::with_limit(k, ready.per_artist());
        self.new.scan(query, &keep, &|artist| *artist, &mut best);
        Ok(best.into_sorted())
    }

    /// What is known of a track that is in the index.
    pub fn standing(&self, key: u64) -> Option<Standing> {
        let (_, facts) = self.songs.get(key)?;
        let new = self.new.contains(key);
        let popularity = if new || self.median.0 <= 0.0 { 0.5 } else { facts.norm / (facts.norm + self.median.0) };
        Some(Standing { popularity, new, artist: facts.artist })
    }

    /// The number of new releases.
    pub fn new_releases(&self) -> usize {
        self.new.len()
    }

    fn find(&self, query: &[f32], k: usize, filter: &Filter, probes: Option<usize>) -> Result<Vec<Hit>> {
        vectors::check(self.dimensions, query)?;
        let ready = self.classes.ready(filter);
        let best = || Best::with_limit(k, ready.per_artist());
        let (keep, group) = (|key, facts: &Facts| ready.keeps(key, facts), |facts: &Facts| facts.artist);
        // To fetch a vector by its key costs about 64 times what it costs to pass over it in a scan.
        if ready.songs.saturating_mul(64) < self.len() {
            let mut best = best();
            self.songs.gather(self.classes.keys(&ready), query, &keep, &group, &mut best);
            return Ok(best.into_sorted());
        }
        if let Some(probes) = probes {
            let probes = self.probes_for(probes, k, &ready);
            if probes < self.songs.lists() {
                let mut best = best();
                self.songs.probe(query, probes, &keep, &group, &mut best);
                if best.len() == k {
                    return Ok(best.into_sorted());
                }
            }
        }
        let mut best = best();
        self.songs.scan(query, &keep, &group, &mut best);
        Ok(best.into_sorted())
    }

    /// Lists to look into so that as many songs are seen that may be shown as without a filter. Ten answers were
    /// measured; more, or no more than so many of an artist, reach further down.
    fn probes_for(&self, probes: usize, k: usize, ready: &Ready) -> usize {
        let let_through = self.len() as f64 / ready.songs.max(1) as f64;
        let per_list = self.len() as f64 / self.songs.lists() as f64;
        let wanted = (k as f64 / 10.0).max(1.0) * if ready.per_artist() == usize::MAX { 1.0 } else { 4.0 };
        let named = ready.named() as f64 / per_list.max(1.0);
        ((probes as f64 * wanted.sqrt() + named) * let_through).ceil() as usize
    }

    /// `None` where the graph cannot answer: too strict a filter, or one that it knows nothing of.
    fn find_in_graph(&self, grown: &Grown, query: &[f32], k: usize, filter: &Filter) -> Result<Option<Vec<Hit>>> {
        vectors::check(self.dimensions, query)?;
        let ready = self.classes.ready(filter);
        let Grown { graph, fresh, stale } = grown;
        // Twice what is asked for, so that a handful of excluded songs leaves enough.
        let Ok(near) = graph.search(query, k.saturating_mul(2).saturating_add(16)) else { return Ok(None) };
        let facts = |key| self.songs.get(key).map(|(_, facts)| *facts);
        let keep = |key| facts(key).is_some_and(|facts| ready.keeps(key, &facts));
        let mut best = Best::with_limit(k, ready.per_artist());
        for hit in near.into_iter().filter(|hit| !stale.contains(&hit.key) && keep(hit.key)) {
            best.push(hit, facts(hit.key).map_or(0, |facts| facts.artist));
        }
        if best.len() < k.min(graph.songs.saturating_sub(stale.len())) {
            return Ok(None);
        }
        fresh.scan(query, &|key, _| keep(key), &|artist| *artist, &mut best);
        Ok(Some(best.into_sorted()))
    }

    /// Whether [`Index::build`] is due: enough songs, and no lists or graph, or ones that are too old.
    pub fn is_due(&self) -> bool {
        self.len() >= self.config.lists_above.max(1) && (self.lists_are_due() || self.graph_is_due())
    }

    fn lists_are_due(&self) -> bool {
        self.learning.is_none()
            && (self.songs.cells().is_none()
                || self.changed as f64 > f64::from(self.config.rebuild_share) * self.learned_from as f64)
    }

    fn graph_is_due(&self) -> bool {
        // A graph is scanned beside what changed since, so it goes stale sooner.
        self.config.graph
            && self
                .graph
                .as_ref()
                .is_none_or(|g| 10.0 * g.stale.len() as f32 > self.config.rebuild_share * g.graph.songs as f32)
    }

    /// Learns the cells (and builds the graph, where it is asked for) of all songs, where it is due, and publishes them
    /// beside the catalogue, for this process and the ones that open later. `done` hears of songs as they go in.
    ///
    /// # Errors
    /// `Io` where it cannot be written.
    pub fn build(&mut self, store: &Store, done: &(dyn Fn(usize) + Sync)) -> Result<()> {
        if self.lists_are_due() && !self.is_empty() {
            let cells = lists::learn(self.dimensions, self.len(), self.songs.iter().map(|(_, row)| row));
            self.use_cells(cells, &Keys::default())?;
            if let (Some(cells), Some(probes)) = (self.songs.cells(), self.probes) {
                lists::publish(store.folder(), &self.identity, self.seq, &self.songs, cells, probes)?;
            }
        }
        if self.graph_is_due() {
            let graph = Graph::build(&self.songs, self.seq, done)?;
            graph.publish(store.folder(), &self.identity)?;
            self.graph = Some(Grown { graph, fresh: Vectors::new(self.dimensions), stale: HashSet::new() });
        }
        Ok(())
    }

    /// Begins to learn the cells anew in another thread, where that is due; the first [`Index::refresh`] after it is
    /// done takes them over. Until then the old ones serve. Takes a copy of the vectors, 4·d bytes a song.
    pub fn build_in_background(&mut self) {
        if self.len() < self.config.lists_above.max(1) || !self.lists_are_due() {
            return;
        }
        let dimensions = self.dimensions;
        let keys: Vec<u64> = self.songs.iter().map(|(key, _)| key).collect();
        let rows: Vec<f32> = self.songs.iter().flat_map(|(_, row)| row).copied().collect();
        let thread = std::thread::spawn(move || {
            let cells = lists::learn(dimensions, keys.len(), rows.chunks_exact(dimensions));
            let mut of = Keys::default();
            keys.iter().zip(cells.assign(&rows)).for_each(|(key, list)| of.insert(*key, list));
            (cells, of)
        });
        self.learning = Some(Learning { thread, changed: HashSet::new() });
    }

    fn take_cells(&mut self) -> Result<()> {
        let Some(learning) = self.learning.take() else { return Ok(()) };
        let Ok((cells, mut of)) = learning.thread.join() else {
            tracing::warn!("the lists could not be learned anew; the old ones stay");
            return Ok(());
        };
        for key in &learning.changed {
            of.remove(*key);
        }
        self.use_cells(cells, &of)?;
        // What changed while they were learned is of the next ones' account.
        self.changed = learning.changed.len();
        Ok(())
    }

    fn use_cells(&mut self, cells: Cells, known: &Keys) -> Result<()> {
        self.songs.divide(cells, known);
        self.probes = Some(lists::calibrate(&self.songs, self.config.recall)?);
        (self.learned_from, self.changed) = (self.len(), 0);
        Ok(())
    }

    pub fn has_lists(&self) -> bool {
        self.songs.cells().is_some()
    }

    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }
}

/// The vector in the length of its factor.
fn scaled(song: &Served) -> Vec<f32> {
    song.vector.iter().map(|x| x * song.norm).collect()
}

/// Verifies what is derived of the catalogue in this folder, without using it.
///
/// # Errors
/// What is damaged, with its path.
pub fn check(folder: &Path) -> Result<()> {
    generation::check(folder)
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

    /// One of 50 years, one of two languages, one of 300 artists.
    fn info(name: usize) -> TrackInfo {
        TrackInfo {
            year: Some(1970 + (name % 50) as i32),
            language: Some(if name.is_multiple_of(3) { "de" } else { "en" }.into()),
            artist: Some(format!("artist {}", name * 7 % 300)),
            ..TrackInfo::default()
        }
    }

    fn song(name: usize, vector: Vec<f32>) -> Change {
        Change::Upsert(Box::new(Track {
            id: TrackId::new(format!("song {name}")).unwrap(),
            path: None,
            content: None,
            info: info(name),
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
            let truth = keys(&index.search(&query, 10, &Filter::default()).unwrap());
            found += keys(&index.search_similar(&query, 10, &Filter::default()).unwrap())
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
        let best = index.search(&new, 1, &Filter::default()).unwrap()[0];
        assert!((best.score - 1.0).abs() < 1e-5);
        let track = store.track_by_key(best.key).unwrap().unwrap();
        assert_eq!(track.id.as_str(), "song 1000");
        store.commit(&[Change::Remove(track.id)]).unwrap();
        index.refresh(&store).unwrap();
        assert_ne!(index.search(&new, 1, &Filter::default()).unwrap()[0].key, best.key);
        assert_eq!(index.refresh(&store).unwrap(), 0);
    }

    #[test]
    fn the_graph_agrees_with_the_scan_also_after_changes_and_a_reopening() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (_dir, mut store) = catalogue(3000, &mut rng);
        let config = IndexConfig { lists_above: 1000, graph: true, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        assert!(index.is_due() && !index.has_graph());
        index.build(&store, &|_| ()).unwrap();
        assert!(recall(&index, &mut rng) >= 0.95);

        let moved: Vec<Change> = (0..100).map(|i| song(i, unit(&mut rng))).collect();
        store.commit(&moved).unwrap();
        let gone: Vec<Change> =
            (100..150).map(|i| Change::Remove(TrackId::new(format!("song {i}")).unwrap())).collect();
        store.commit(&gone).unwrap();
        store.commit(&(3000..3100).map(|i| song(i, unit(&mut rng))).collect::<Vec<_>>()).unwrap();
        index.refresh(&store).unwrap();
        assert!(recall(&index, &mut rng) >= 0.95);
        assert!(!index.is_due(), "250 of 3000 changed");

        let reopened = Index::open(&Store::read(store.folder()).unwrap(), &config).unwrap();
        assert!(reopened.has_graph());
        assert!(recall(&reopened, &mut rng) >= 0.95);
        let query = unit(&mut rng);
        let strict = Filter { years: Some(1980..=1980), languages: vec!["de".into()], ..Filter::default() };
        assert_eq!(
            keys(&reopened.search_similar(&query, 10, &strict).unwrap()),
            keys(&reopened.search(&query, 10, &strict).unwrap()),
            "a strict filter falls back to the scan"
        );
    }

    #[test]
    fn a_damaged_graph_is_never_loaded() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (_dir, store) = catalogue(500, &mut rng);
        let config = IndexConfig { lists_above: 100, graph: true, ..IndexConfig::default() };
        Index::open(&store, &config).unwrap().build(&store, &|_| ()).unwrap();
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
                if bytes != whole && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("graph-")) {
                    assert!(!index.has_graph());
                    assert_eq!(
                        index.search_similar(&query, 5, &Filter::default()).unwrap(),
                        index.search(&query, 5, &Filter::default()).unwrap()
                    );
                }
                assert_eq!(index.search_similar(&query, 5, &Filter::default()).unwrap().len(), 5);
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
        let config = IndexConfig { lists_above: 100, graph: true, ..IndexConfig::default() };
        Index::open(&first, &config).unwrap().build(&first, &|_| ()).unwrap();
        fs::create_dir(second.folder().join("index")).unwrap();
        for entry in fs::read_dir(first.folder().join("index")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, second.folder().join("index").join(path.file_name().unwrap())).unwrap();
        }
        assert!(!Index::open(&second, &config).unwrap().has_graph());
    }
}
