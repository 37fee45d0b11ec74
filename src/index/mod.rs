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
//! cell when it is acknowledged. An [image](IndexConfig::image_above) of the songs is kept beside a catalogue that is not
//! small: who opens it reads that, and of the catalogue only what came since. A usearch graph ([`IndexConfig::graph`]) answers song against song for
//! who asks for it: at 100,000 songs it is slower than the lists and takes six times as long to build (benches/README.md).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::thread::JoinHandle;

mod blocks;
mod cells;
mod facts;
mod generation;
mod graph;
mod image;
mod keys;
mod lists;
mod top;
pub mod vectors;

pub use facts::Filter;
use facts::{Classes, Facts};
use graph::Graph;
use image::Image;
use lists::{Probe, Probes};
use serde::{Deserialize, Serialize};
use top::Best;
pub use vectors::Vectors;

use crate::error::{Error, Result};
use crate::store::{Store, TrackChange};

/// One answer: the key of a track in the catalogue, and its cosine with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    pub key: u64,
    pub score: f32,
}

/// To fetch a song by its key costs as much as to pass over so many in a scan.
const BY_KEY: f64 = 20.0;
/// So many changes are taken in together.
const TOGETHER: usize = 1024;
/// So many of the last changes that an image knows are compared with the catalogue when it is opened: one that was put
/// back to an earlier state, and written to since, has the image's numbers for other changes.
const COMPARED: i64 = 100;
/// So few songs are all looked at: a tenth of a millisecond, and none is missed.
const FEW: usize = 1000;

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
    /// From this many songs on an image of them is kept beside the catalogue, so that it is opened without reading every
    /// row. 10,000: below, the rows are read in 50 ms.
    pub image_above: usize,
    /// The image is written anew when this many changes were made, as a share of its songs.
    pub image_share: f32,
    /// Song against song by a usearch graph, from [`IndexConfig::lists_above`] songs on.
    pub graph: bool,
    /// Also keep every vector in its length, for [`Index::search_inner_product`]; doubles the memory.
    pub inner_product: bool,
    /// A new release is a track that fewer listeners than this have met …
    pub new_plays: u32,
    /// … and one of the last this many of them that came into the catalogue.
    pub new_tracks: usize,
}

impl Default for IndexConfig {
    fn default() -> IndexConfig {
        IndexConfig {
            lists_above: 200_000,
            recall: 0.99,
            rebuild_share: 1.0,
            image_above: 10_000,
            image_share: 0.05,
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
        for (name, share) in [("rebuild_share", self.rebuild_share), ("image_share", self.image_share)] {
            if share.is_nan() || share <= 0.0 {
                return Err(Error::invalid(format!("setting index.{name}"), "a number above 0", share));
            }
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
    /// The length of its factor.
    pub norm: f32,
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
    /// The oldest key that there was room for when they were full: what is older has had its time.
    new_from: u64,
    /// Every vector in its length, where inner products are asked for.
    by_norm: Option<Vectors<u64>>,
    /// The median of the norms, for how many songs it was found, and the changes since.
    median: (f32, usize),
    median_changed: usize,
    /// How far is looked into the lists, for how many songs they were learned, and the changes since.
    probes: Option<Probes>,
    /// The image that was opened or written, for which recall its lists were measured, and the changes since.
    image: Option<Published>,
    learned_from: usize,
    changed: usize,
    learning: Option<Learning>,
    graph: Option<Grown>,
    seq: i64,
    data_version: Option<i64>,
}

struct Published {
    songs: usize,
    recall: Option<f32>,
    changed: usize,
}

/// A graph, and what changed since it was built: the songs with their artists, and the keys for which it must not answer.
struct Grown {
    graph: Graph,
    fresh: Vectors<u64>,
    stale: HashSet<u64>,
}

/// Cells that are being learned by another thread, for a copy of the songs as they were.
struct Learning {
    thread: JoinHandle<Result<(Vectors<Facts>, Probes)>>,
    /// Keys of which something changed since.
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
        let (dimensions, identity) = (space.dimensions, store.identity()?);
        let image = image::open(store.folder(), &identity, dimensions, store.seq()?).unwrap_or_else(|problem| {
            unused("the image of the songs is", problem);
            None
        });
        if image.is_some() {
            match Index::opened(store, config, dimensions, &identity, image) {
                Err(problem @ Error::Mismatch { .. }) => unused("the image of the songs is", problem),
                opened => return opened,
            }
        }
        Index::opened(store, config, dimensions, &identity, None)
    }

    /// # Errors
    /// `Mismatch` where the image knows the catalogue's last rows otherwise.
    fn opened(
        store: &Store,
        config: &IndexConfig,
        dimensions: usize,
        identity: &str,
        image: Option<Image>,
    ) -> Result<Index> {
        let graph = match config.graph {
            false => None,
            true => Graph::open(store.folder(), identity, dimensions, store.seq()?).unwrap_or_else(|problem| {
                unused("the graph is", problem);
                None
            }),
        };
        let mut index = Index {
            config: config.clone(),
            dimensions,
            identity: identity.to_string(),
            songs: Vectors::new(dimensions),
            classes: Classes::default(),
            new: Vectors::new(dimensions),
            new_keys: BTreeSet::new(),
            new_from: 0,
            by_norm: config.inner_product.then(|| Vectors::by_norm(dimensions)),
            median: (0.0, 0),
            median_changed: 0,
            probes: None,
            image: None,
            learned_from: 0,
            changed: 0,
            learning: None,
            graph: graph.map(|graph| Grown { graph, fresh: Vectors::new(dimensions), stale: HashSet::new() }),
            seq: 0,
            data_version: None,
        };
        let mut imaged = 0;
        if let Some(image) = image {
            imaged = image.seq;
            index.image = Some(Published {
                songs: image.songs.len(),
                recall: image.probes.map(|probes| probes.recall),
                changed: 0,
            });
            index.probes = image.probes.filter(|probes| probes.recall >= config.recall);
            (index.learned_from, index.changed) = (image.learned_from, image.changed);
            (index.songs, index.classes) = (image.songs, image.classes);
            index.seq = (image.seq - COMPARED).max(0);
            if let Some(by_norm) = &mut index.by_norm {
                for (key, row, facts) in index.songs.in_lists() {
                    by_norm.upsert(key, &scaled(row, facts.norm), facts.artist)?;
                }
            }
            // What the image knows and the graph does not, it must hear of as well.
            if let Some(Grown { graph, .. }) = &index.graph {
                index.seq = index.seq.min(graph.seq);
            }
        }
        index.take_in(store, Some(imaged))?;
        if index.probes.is_none() {
            // They were measured for a lower recall than is asked for now; the next build publishes what that takes.
            index.ask_for_recall(config.recall)?;
        }
        Ok(index)
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &IndexConfig {
        &self.config
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
            self.take_learned()?;
        }
        self.take_in(store, None)
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

    /// `opening`: nothing was asked yet, and everything up to this number is in already.
    fn take_in(&mut self, store: &Store, opening: Option<i64>) -> Result<usize> {
        let (first, known) = (opening.is_some(), opening.unwrap_or(self.seq));
        let (mut changed, mut result, mut some) = (0, Ok(()), Vec::with_capacity(TOGETHER));
        let seq = store.changes_since(self.seq, &mut |change| {
            changed += usize::from(change.seq > known);
            some.push(change);
            if some.len() == TOGETHER {
                if result.is_ok() {
                    result = self.take_all(&some, known, first);
                }
                some.clear();
            }
        })?;
        result.and_then(|()| self.take_all(&some, known, first))?;
        self.seq = seq;
        // A replacement counts as an addition does: it moves the median, and the image and the cells have not seen it.
        self.changed += changed;
        self.median_changed += changed;
        if let Some(image) = &mut self.image {
            image.changed += changed;
        }
        if first {
            // Once all keys are known, and not while each of them was the newest.
            let few = |(key, facts): &(u64, &Facts)| (facts.plays < self.config.new_plays).then_some(*key);
            let mut keys: Vec<u64> = self.songs.keys().zip(self.songs.beside()).filter_map(|one| few(&one)).collect();
            let most = self.config.new_tracks;
            if most < keys.len() {
                keys.select_nth_unstable_by_key(most, |key| Reverse(*key));
                keys.truncate(most);
            }
            keys.sort_unstable_by_key(|key| Reverse(*key));
            for key in keys {
                self.keep_if_new(key)?;
            }
        }
        if (first || changed > 0) && self.median_changed.saturating_mul(10) >= self.median.1 {
            let mut norms: Vec<f32> = self.songs.beside().map(|facts| facts.norm).collect();
            let middle = norms.len() / 2;
            if middle < norms.len() {
                self.median = (*norms.select_nth_unstable_by(middle, f32::total_cmp).1, norms.len());
                self.median_changed = 0;
            }
        }
        Ok(changed)
    }

    /// Whether this is what is known already.
    fn knows(&self, change: &TrackChange) -> bool {
        match (&change.served, self.songs.get(change.key)) {
            (Some(served), Some((vector, facts))) => {
                let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                bits(&served.vector) == bits(vector) && (served.norm, served.plays) == (facts.norm, facts.plays)
            }
            (served, known) => served.is_none() && known.is_none(),
        }
    }

    /// Their cells are found on all cores, eight tracks in one pass over the centroids: of twelve thousand, that costs more
    /// than all else.
    fn take_all(&mut self, changes: &[TrackChange], known: i64, first: bool) -> Result<()> {
        let rows = || changes.iter().filter_map(|change| Some(&change.served.as_ref()?.vector));
        rows().try_for_each(|row| vectors::check(self.dimensions, row))?;
        let rows: Vec<f32> = rows().flatten().copied().collect();
        let mut lists = self.songs.cells().map(|cells| cells.assign(&rows)).into_iter().flatten();
        for change in changes {
            if change.seq <= known && !self.knows(change) {
                let expected = format!("track {} as it was at seq {}", change.key, change.seq);
                return Err(Error::mismatch("an image and its catalogue", expected, "another track"));
            }
            let list = change.served.as_ref().and_then(|_| lists.next());
            self.take(change, list, first)?;
        }
        Ok(())
    }

    fn take(&mut self, change: &TrackChange, list: Option<u32>, first: bool) -> Result<()> {
        let key = change.key;
        if let Some(learning) = &mut self.learning {
            learning.changed.insert(key);
        }
        match &change.served {
            Some(served) => {
                if let Some((_, facts)) = self.songs.get(key) {
                    let facts = *facts;
                    self.leave_class(&facts);
                }
                let facts = self.classes.insert(key, served);
                self.songs.upsert_into(list, key, &served.vector, facts)?;
                if let Some(by_norm) = &mut self.by_norm {
                    by_norm.upsert(key, &scaled(&served.vector, served.norm), facts.artist)?;
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
        if first { Ok(()) } else { self.keep_if_new(key) }
    }

    fn leave_class(&mut self, facts: &Facts) {
        if let Some(moved) = self.classes.remove(facts)
            && let Some(other) = self.songs.beside_mut(moved)
        {
            Classes::moved(other, facts);
            if let Some(learning) = &mut self.learning {
                learning.changed.insert(moved);
            }
        }
    }

    /// Puts the song among the new releases or takes it out; where they are too many, the oldest goes. Room that one of
    /// them leaves is for the songs to come, not for those that once were too old.
    fn keep_if_new(&mut self, key: u64) -> Result<()> {
        let in_time = key >= self.new_from;
        match self.songs.get(key).filter(|(_, facts)| in_time && facts.plays < self.config.new_plays) {
            Some((vector, facts)) => {
                self.new.upsert(key, vector, facts.artist)?;
                self.new_keys.insert(key);
            }
            None => {
                self.new.remove(key);
                self.new_keys.remove(&key);
            }
        }
        if self.new_keys.len() > self.config.new_tracks
            && let Some(oldest) = self.new_keys.pop_first()
        {
            self.new.remove(oldest);
        }
        if self.new_keys.len() >= self.config.new_tracks
            && let Some(oldest) = self.new_keys.first()
        {
            self.new_from = *oldest;
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
            && self.is_large()
            && !self.graph_is_due()
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

    /// As [`Index::search_exact`] of each query: eight share each pass over the memory.
    ///
    /// # Errors
    /// As [`Index::search`]; the first query that is wrong counts for all.
    pub fn search_many(&self, queries: &[&[f32]], k: usize, filter: &Filter) -> Result<Vec<Vec<Hit>>> {
        let ready = self.classes.ready(filter);
        // The pass that eight share costs each of them a fifth of one alone.
        if 5.0 * BY_KEY * (ready.songs as f64) < self.len() as f64 {
            return queries.iter().map(|query| self.search_exact(query, k, filter)).collect();
        }
        let (keep, group) = (|_, key, facts: &Facts| ready.keeps(key, facts), |facts: &Facts| facts.artist);
        self.songs.scan_many(queries, &|| Best::with_limit(k, ready.per_artist()), &keep, &group)
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
        Some(Standing { popularity, new, norm: facts.norm, artist: facts.artist })
    }

    /// The number of new releases.
    pub fn new_releases(&self) -> usize {
        self.new.len()
    }

    fn find(&self, query: &[f32], k: usize, filter: &Filter, probe: Option<Probe>) -> Result<Vec<Hit>> {
        vectors::check(self.dimensions, query)?;
        let ready = self.classes.ready(filter);
        let group = |facts: &Facts| facts.artist;
        let mut best = Best::with_limit(k, ready.per_artist());
        let n = self.len() as f64;
        let probe = probe.filter(|_| self.is_large());
        // A filter that lets through one in four makes a search pass over twice as many songs, about.
        let further = (n / ready.songs.max(1) as f64).sqrt();
        let passed_over = probe.map_or(n, |probe| (f64::from(probe.songs) * further).min(n));
        let few = ready.is_by_class() && ready.songs <= FEW;
        if few || BY_KEY * (ready.songs as f64) < passed_over {
            let keep = |key, facts: &Facts| ready.keeps_of_class(key, facts);
            self.songs.gather(self.classes.keys(&ready), query, &keep, &group, &mut best);
        } else {
            let keep = |key, facts: &Facts| ready.keeps(key, facts);
            match probe {
                Some(probe) => self.songs.probe(query, &probe, ready.share(self.len()), &keep, &group, &mut best),
                None => self.songs.scan(query, &keep, &group, &mut best),
            }
        }
        Ok(best.into_sorted())
    }

    /// `None` where the graph finds fewer than `k`: too strict a filter, too many that changed, or no more songs.
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
        if best.len() < k {
            return Ok(None);
        }
        fresh.scan(query, &|key, _| keep(key), &|artist| *artist, &mut best);
        Ok(Some(best.into_sorted()))
    }

    /// Whether [`Index::build`] is due: enough songs, and no lists, graph or image, or ones that are too old.
    pub fn is_due(&self) -> bool {
        self.image_is_due() || self.lists_are_due() || self.probes_are_due() || self.graph_is_due()
    }

    fn image_is_due(&self) -> bool {
        let share = f64::from(self.config.image_share);
        self.len() >= self.config.image_above.max(1)
            && self.image.as_ref().is_none_or(|image| image.changed as f64 > share * image.songs as f64)
    }

    /// Whether there are so many songs that a search may leave some out.
    fn is_large(&self) -> bool {
        self.len() >= self.config.lists_above.max(1)
    }

    /// The lists were measured, or published, for another recall than the one that is asked for.
    fn probes_are_due(&self) -> bool {
        let asked = Some(self.config.recall);
        self.is_large()
            && self.learning.is_none()
            && self.has_lists()
            && (self.image.as_ref().and_then(|image| image.recall) != asked
                || self.probes.map(|probes| probes.recall) != asked)
    }

    fn lists_are_due(&self) -> bool {
        self.is_large()
            && self.learning.is_none()
            && (self.songs.cells().is_none()
                || self.changed as f64 > f64::from(self.config.rebuild_share) * self.learned_from as f64)
    }

    fn graph_is_due(&self) -> bool {
        // A graph is scanned beside what changed since, so it goes stale sooner.
        self.is_large()
            && self.config.graph
            && self
                .graph
                .as_ref()
                .is_none_or(|g| 10.0 * g.stale.len() as f32 > self.config.rebuild_share * g.graph.songs as f32)
    }

    /// Learns the cells (and builds the graph, where it is asked for) of all songs, where it is due, measures the lists
    /// again where they were measured for another recall than is asked for, and publishes them with an image of the songs
    /// beside the catalogue, for this process and the ones that open later. `done` hears of songs as they go into a graph.
    ///
    /// # Errors
    /// `Io` where it cannot be written.
    pub fn build(&mut self, store: &Store, done: &(dyn Fn(usize) + Sync)) -> Result<()> {
        let (learn, measure) = (self.lists_are_due(), self.probes_are_due());
        if learn {
            let cells = lists::learn(self.dimensions, self.len(), self.songs.iter().map(|(_, row)| row));
            self.songs.divide(cells);
            (self.learned_from, self.changed) = (self.len(), 0);
        }
        let recall = self.config.recall;
        if learn || (measure && self.probes.is_none_or(|probes| probes.recall != recall)) {
            self.probes = Some(lists::calibrate(&self.songs, recall)?);
        }
        if learn || measure || self.image_is_due() {
            let learned = [self.learned_from, self.changed];
            let Index { identity, seq, songs, classes, probes, .. } = self;
            image::publish(store.folder(), identity, *seq, songs, classes, *probes, learned)?;
            self.image = Some(Published { songs: self.len(), recall: self.probes.map(|p| p.recall), changed: 0 });
        }
        if self.graph_is_due() {
            let graph = Graph::build(&self.songs, self.seq, done)?;
            graph.publish(store.folder(), &self.identity)?;
            self.graph = Some(Grown { graph, fresh: Vectors::new(self.dimensions), stale: HashSet::new() });
        }
        Ok(())
    }

    /// Begins to learn the cells anew in another thread, where that is due; the first [`Index::refresh`] after it is
    /// done takes them over. Until then the old ones serve. Takes a copy of the songs, [`Index::bytes`] of them.
    pub fn build_in_background(&mut self) {
        if !self.lists_are_due() {
            return;
        }
        let (mut songs, recall) = (self.songs.clone(), self.config.recall);
        let thread = std::thread::spawn(move || {
            let cells = lists::learn(songs.dimensions(), songs.len(), songs.iter().map(|(_, row)| row));
            songs.divide(cells);
            let probes = lists::calibrate(&songs, recall)?;
            Ok((songs, probes))
        });
        self.learning = Some(Learning { thread, changed: HashSet::new() });
    }

    /// Takes over what was learned, and what changed since.
    fn take_learned(&mut self) -> Result<()> {
        let Some(Learning { thread, changed }) = self.learning.take() else { return Ok(()) };
        let Ok(learned) = thread.join() else {
            tracing::warn!("the lists could not be learned anew; the old ones stay");
            self.changed = 0;
            return Ok(());
        };
        let (mut songs, probes) = learned?;
        self.learned_from = songs.len();
        for key in &changed {
            match self.songs.get(*key) {
                Some((vector, facts)) => songs.upsert(*key, vector, *facts)?,
                None => drop(songs.remove(*key)),
            }
        }
        // Another recall may have been asked for while they were learned.
        let probes = match probes.recall == self.config.recall || songs.is_empty() {
            true => probes,
            false => lists::calibrate(&songs, self.config.recall)?,
        };
        (self.songs, self.probes, self.changed) = (songs, Some(probes), changed.len());
        Ok(())
    }

    /// Asks the lists, where there are some, for another recall than [`IndexConfig::recall`]; measures what that takes.
    ///
    /// # Errors
    /// `Invalid` where it is not between 0 and 1.
    pub fn ask_for_recall(&mut self, recall: f32) -> Result<()> {
        let config = IndexConfig { recall, ..self.config.clone() };
        config.check()?;
        self.config = config;
        if self.has_lists() && !self.is_empty() {
            self.probes = Some(lists::calibrate(&self.songs, recall)?);
        }
        Ok(())
    }

    pub fn has_lists(&self) -> bool {
        self.songs.cells().is_some()
    }

    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }
}

fn unused(what: &str, problem: Error) {
    tracing::warn!("{what} left unused: {problem}");
}

/// The vector in the length of its factor.
fn scaled(vector: &[f32], norm: f32) -> Vec<f32> {
    vector.iter().map(|x| x * norm).collect()
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
            length: None,
            confidence: None,
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
        let config = IndexConfig { lists_above: 100, recall: 1.0, graph: true, ..IndexConfig::default() };
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
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if bytes != whole && name.starts_with("image-") {
                    assert!(!index.has_lists());
                    assert_eq!(
                        index.search(&query, 5, &Filter::default()).unwrap(),
                        index.search_exact(&query, 5, &Filter::default()).unwrap()
                    );
                }
                if bytes != whole && name.starts_with("graph-") {
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

    /// Every answer and every fact, to the bit.
    fn assert_equal(one: &Index, other: &Index, lists: bool, rng: &mut impl Rng) {
        assert_eq!((one.len(), one.seq(), one.new_releases()), (other.len(), other.seq(), other.new_releases()));
        let last = one.songs.keys().max().unwrap();
        (0..last + 5).for_each(|key| assert_eq!(one.standing(key), other.standing(key)));
        for filter in filters(rng, last) {
            let query = unit(rng);
            let exact = one.search_exact(&query, 12, &filter).unwrap();
            assert_eq!(exact, other.search_exact(&query, 12, &filter).unwrap(), "{filter:?}");
            assert_eq!(one.search_new(&query, 5, &filter).unwrap(), other.search_new(&query, 5, &filter).unwrap());
            let by_norm = |index: &Index| index.search_inner_product(&query, 9, &filter).unwrap();
            assert_eq!(by_norm(one), by_norm(other));
            if lists {
                assert_eq!(one.search(&query, 10, &filter).unwrap(), other.search(&query, 10, &filter).unwrap());
            }
        }
    }

    #[test]
    fn an_index_from_its_image_equals_one_from_the_catalogue() {
        for lists_above in [1500, 100_000] {
            let mut rng = ChaCha8Rng::seed_from_u64(13);
            let (_dir, mut store) = catalogue(2000, &mut rng);
            let config = IndexConfig {
                lists_above,
                image_above: 1000,
                inner_product: true,
                graph: true,
                new_plays: 2,
                new_tracks: 70,
                ..IndexConfig::default()
            };
            let mut live = Index::open(&store, &config).unwrap();
            assert!(live.is_due() && live.image.is_none());
            live.build(&store, &|_| ()).unwrap();
            assert!(!live.is_due());
            for round in 0..3 {
                let mut changes: Vec<Change> = (0..80).map(|i| song(2000 + 50 * round + i, unit(&mut rng))).collect();
                let gone = (0..20).map(|i| TrackId::new(format!("song {}", 100 * round + 3 * i)).unwrap());
                changes.extend(gone.map(Change::Remove));
                changes.extend((0..10).map(|i| {
                    let Change::Upsert(mut track) = song(7 * i + round, unit(&mut rng)) else { unreachable!() };
                    (track.norm, track.plays, track.info.language) = (3.0, 9, Some(format!("x{round}")));
                    Change::Upsert(track)
                }));
                store.commit(&changes).unwrap();
                live.refresh(&store).unwrap();
                let imaged = Index::open(&store, &config).unwrap();
                assert!(imaged.image.is_some() && imaged.has_lists() == (lists_above < 2000));
                assert_eq!((imaged.probes, imaged.learned_from), (live.probes, live.learned_from));
                // Who was there counts a song each time it changes; who comes later, once.
                assert!(imaged.changed <= live.changed && imaged.is_due() == live.is_due());
                assert_equal(&imaged, &live, true, &mut rng);
                let similar = |index: &Index| index.search_similar(&[0.25; D], 10, &Filter::default()).unwrap();
                assert_eq!(similar(&imaged), similar(&live));
                assert_eq!(live.graph.as_ref().map(|g| &g.stale), imaged.graph.as_ref().map(|g| &g.stale));

                let (index, aside) = (store.folder().join("index"), store.folder().join("aside"));
                fs::rename(&index, &aside).unwrap();
                let from_rows = Index::open(&store, &config).unwrap();
                fs::rename(&aside, &index).unwrap();
                assert!(from_rows.image.is_none());
                assert_equal(&imaged, &from_rows, false, &mut rng);
                // 110 changes are more than a twentieth of 2000 songs: the image is due, but not the lists or the graph.
                if round == 1 {
                    assert!(live.is_due());
                    live.build(&store, &|_| ()).unwrap();
                    assert!(!live.is_due());
                    assert_eq!(Index::open(&store, &config).unwrap().image.unwrap().changed, 0);
                }
            }
        }
    }

    #[test]
    fn an_image_is_written_when_it_is_due_and_takes_away_what_it_replaces() {
        let mut rng = ChaCha8Rng::seed_from_u64(14);
        let (_dir, mut store) = catalogue(500, &mut rng);
        let config = IndexConfig { image_above: 400, image_share: 0.1, ..IndexConfig::default() };
        let small = Index::open(&store, &IndexConfig { image_above: 501, ..config.clone() }).unwrap();
        assert!(!small.is_due());
        let mut index = Index::open(&store, &config).unwrap();
        // What earlier formats left, and a process that died; and what is not ours.
        let folder = store.folder().join("index");
        fs::create_dir(&folder).unwrap();
        for name in ["lists.json", "lists-3.bin", "manifest.json", "graph-3.usearch", ".tmpX.partial", "notes.txt"] {
            fs::write(folder.join(name), "old").unwrap();
        }
        let files = || {
            let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            names.collect::<BTreeSet<String>>()
        };
        index.build(&store, &|_| ()).unwrap();
        let now = |image: &str| ["image.json", "notes.txt", image].map(String::from).into();
        assert_eq!(files(), now("image-500.bin"));

        for (songs, due) in [(0..50, false), (50..51, true)] {
            store.commit(&songs.map(|i| song(i, unit(&mut rng))).collect::<Vec<_>>()).unwrap();
            index.refresh(&store).unwrap();
            assert_eq!((index.is_due(), Index::open(&store, &config).unwrap().is_due()), (due, due));
        }
        index.build(&store, &|_| ()).unwrap();
        assert_eq!(files(), now("image-551.bin"));
        // The same songs again, for another recall: never over the file that a reader may be about to open.
        for (recall, name) in [(0.5, "image-551-again.bin"), (0.6, "image-551.bin")] {
            let config = IndexConfig { recall, lists_above: 100, ..config.clone() };
            let mut index = Index::open(&store, &config).unwrap();
            index.build(&store, &|_| ()).unwrap();
            assert_eq!(files(), now(name));
            assert!(!Index::open(&store, &config).unwrap().is_due());
        }
    }

    /// As after a backup was put back, or a log that was cut: the same name, and the same numbers for other changes.
    #[test]
    fn an_image_of_another_history_of_the_same_catalogue_is_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(16);
        let (_dir, mut store) = catalogue(300, &mut rng);
        let config = IndexConfig { image_above: 100, image_share: 0.01, ..IndexConfig::default() };
        store.checkpoint().unwrap();
        let database = store.folder().join("catalogue.sqlite");
        let backup = fs::read(&database).unwrap();
        let mut more = |store: &mut Store, songs: std::ops::Range<usize>| {
            store.commit(&songs.map(|i| song(i, unit(&mut rng))).collect::<Vec<_>>()).unwrap();
        };
        more(&mut store, 300..350);
        Index::open(&store, &config).unwrap().build(&store, &|_| ()).unwrap();
        let folder = store.folder().to_path_buf();
        drop(store);
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(folder.join(format!("catalogue.sqlite{end}")));
        }
        fs::write(&database, &backup).unwrap();
        let mut store = Store::open(&folder).unwrap();
        assert!(Index::open(&store, &config).unwrap().image.is_none(), "it goes further than the catalogue");
        more(&mut store, 400..460);
        let index = Index::open(&store, &config).unwrap();
        assert!(index.image.is_none() && index.len() == 360 && index.is_due());
        let query = [0.25; D];
        let expected = oracle(&store, 10, &Filter::default(), &|track| crate::linalg::dot(&query, &track.vector));
        assert_eq!(keys(&index.search(&query, 10, &Filter::default()).unwrap()), expected);
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

    /// Every song as the store has it, in the order of `score`, as a filter leaves them: the slow clear version.
    fn oracle(store: &Store, k: usize, filter: &Filter, score: &dyn Fn(&Track) -> f32) -> Vec<u64> {
        let mut all = Vec::new();
        store
            .for_each_track(&mut |key, track| {
                let i = &track.info;
                let passes = (filter.languages.is_empty()
                    || i.language.as_ref().is_some_and(|l| filter.languages.contains(l)))
                    && filter.years.as_ref().is_none_or(|years| years.contains(&i.year.unwrap()))
                    && !filter.without_artists.contains(i.artist.as_ref().unwrap())
                    && !filter.without.contains(&key);
                if passes {
                    all.push((score(&track), key, i.artist.clone()));
                }
                Ok(())
            })
            .unwrap();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut of_artist = std::collections::HashMap::new();
        all.retain(|(_, _, artist)| {
            let count = of_artist.entry(artist.clone()).or_insert(0);
            *count += 1;
            *count <= filter.per_artist.unwrap_or(usize::MAX)
        });
        all.into_iter().take(k).map(|(_, key, _)| key).collect()
    }

    /// From one that lets all through to one that lets 1 of 1000 through.
    fn filters(rng: &mut impl Rng, songs: u64) -> Vec<Filter> {
        let none = Filter::default;
        let german = || vec!["de".to_string()];
        vec![
            none(),
            Filter { languages: german(), ..none() },
            Filter { years: Some(1980..=1984), ..none() },
            Filter { years: Some(1980..=1980), languages: german(), ..none() },
            Filter { years: Some(1900..=1910), ..none() },
            Filter { per_artist: Some(1), ..none() },
            Filter { per_artist: Some(2), languages: german(), without: (0..songs / 2).collect(), ..none() },
            Filter { without: (0..300).map(|_| rng.random_range(1..=songs)).collect(), ..none() },
            Filter { without_artists: (0..250).map(|i| format!("artist {i}")).collect(), ..none() },
            Filter {
                years: Some(1981..=1981),
                without_artists: (0..285).map(|i| format!("artist {i}")).collect(),
                ..none()
            },
        ]
    }

    #[test]
    fn what_a_filter_lets_through_is_found_exactly_and_through_lists_at_the_stated_recall() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (_dir, mut store) = catalogue(6000, &mut rng);
        let config = IndexConfig { lists_above: 1000, recall: 0.97, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        // Removals and replacements move songs within their classes.
        let gone: Vec<Change> = (0..6000)
            .step_by(7)
            .map(|i| match i % 2 {
                0 => Change::Remove(TrackId::new(format!("song {i}")).unwrap()),
                _ => song(i + 6000, unit(&mut rng)),
            })
            .collect();
        store.commit(&gone).unwrap();
        index.refresh(&store).unwrap();
        let filters = filters(&mut rng, 6000);
        let dot = |query: &[f32]| {
            let query = query.to_vec();
            move |track: &Track| crate::linalg::dot(&query, &track.vector)
        };
        for filter in &filters {
            let query = unit(&mut rng);
            let expected = oracle(&store, 10, filter, &dot(&query));
            assert_eq!(keys(&index.search(&query, 10, filter).unwrap()), expected, "{filter:?}");
            assert_eq!(keys(&index.search_similar(&query, 10, filter).unwrap()), expected);
        }

        index.build(&store, &|_| ()).unwrap();
        assert!(index.has_lists() && !index.is_due());
        let reopened = Index::open(&store, &config).unwrap();
        // Ten answers were measured; a hundred reach further by themselves.
        let none = Filter::default();
        for (filter, k) in filters.iter().map(|filter| (filter, 10)).chain([(&none, 1), (&none, 100)]) {
            let (mut found, mut all) = (0, 0);
            for _ in 0..50 {
                let query = unit(&mut rng);
                let truth = index.search_exact(&query, k, filter).unwrap();
                let hits = index.search(&query, k, filter).unwrap();
                assert_eq!(reopened.search(&query, k, filter).unwrap(), hits);
                assert_eq!(hits.len(), truth.len());
                found += hits.iter().filter(|hit| truth.contains(hit)).count();
                all += truth.len();
            }
            assert!(found as f64 >= 0.95 * all as f64, "{k}, {filter:?}: {found} of {all}");
        }
    }

    /// Languages that are styles, too: what a filter lets through lies together, mostly elsewhere than the query.
    #[test]
    fn recall_holds_where_a_filter_goes_with_the_style() {
        let mut rng = ChaCha8Rng::seed_from_u64(15);
        let (_dir, mut store) = catalogue(0, &mut rng);
        let genre = |genre: u64, rng: &mut ChaCha8Rng| {
            let mut middle = ChaCha8Rng::seed_from_u64(genre);
            let v: Vec<f32> =
                (0..D).map(|_| middle.random_range(-1.0..1.0f32) + rng.random_range(-0.4..0.4f32)).collect();
            crate::linalg::unit(&v).unwrap()
        };
        let songs: Vec<Change> = (0..12_000)
            .map(|name| {
                let Change::Upsert(mut track) = song(name, genre(name as u64 % 20, &mut rng)) else { unreachable!() };
                track.info.language = Some(format!("x{}", name % 20));
                Change::Upsert(track)
            })
            .collect();
        store.commit(&songs).unwrap();
        let config = IndexConfig { lists_above: 1000, recall: 0.97, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        index.build(&store, &|_| ()).unwrap();
        for languages in [2, 5, 10] {
            let languages = (0..languages).map(|i| format!("x{i}")).collect();
            let filter = Filter { languages, ..Filter::default() };
            let (mut found, mut all) = (0, 0);
            for style in 0..100 {
                let query = genre(style % 20, &mut rng);
                let truth = index.search_exact(&query, 10, &filter).unwrap();
                let hits = index.search(&query, 10, &filter).unwrap();
                found += hits.iter().filter(|hit| truth.contains(hit)).count();
                all += truth.len();
            }
            assert!(found as f64 >= 0.95 * all as f64, "{filter:?}: {found} of {all}");
        }
    }

    /// Ten times as many replacements and new songs as there are songs, whose styles move away from those that the cells
    /// were learned from; the cells are learned anew beside it.
    #[test]
    fn recall_survives_ten_times_the_catalogue_in_changes() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let (_dir, mut store) = catalogue(2000, &mut rng);
        let config = IndexConfig { lists_above: 1000, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        index.build(&store, &|_| ()).unwrap();
        let mut learned = 0;
        for round in 0..20 {
            let drift: Vec<f32> = (0..D).map(|i| if i % 4 == round % 4 { round as f32 * 0.1 } else { 0.0 }).collect();
            let changes: Vec<Change> = (0..1000)
                .map(|i| {
                    let moved: Vec<f32> = unit(&mut rng).iter().zip(&drift).map(|(x, d)| x + d).collect();
                    let name = if i % 10 == 0 { 10_000 + round * 1000 + i } else { rng.random_range(0..2000) };
                    song(name, crate::linalg::unit(&moved).unwrap())
                })
                .collect();
            store.commit(&changes).unwrap();
            index.refresh(&store).unwrap();
            index.build_in_background();
            // What was acknowledged is found, cells being learned or not.
            let Change::Upsert(last) = changes.last().unwrap() else { unreachable!() };
            let hit = index.search(&last.vector, 1, &Filter::default()).unwrap()[0];
            assert_eq!(store.track_by_key(hit.key).unwrap().unwrap().id, last.id);
            let learning = index.learning.is_some();
            while index.learning.is_some() {
                std::thread::sleep(std::time::Duration::from_millis(1));
                index.refresh(&store).unwrap();
            }
            learned += usize::from(learning);
        }
        assert!(learned >= 4, "{learned} times in 20,000 changes of 2,000 to 4,000 songs");
        let (mut found, mut similar) = (0, 0);
        for _ in 0..200 {
            let query = unit(&mut rng);
            let truth = index.search_exact(&query, 10, &Filter::default()).unwrap();
            let count = |hits: Vec<Hit>| hits.iter().filter(|hit| truth.contains(hit)).count();
            found += count(index.search(&query, 10, &Filter::default()).unwrap());
            similar += count(index.search_similar(&query, 10, &Filter::default()).unwrap());
        }
        assert!(found >= 1900 && similar >= 1900, "{found} and {similar} of 2000");
    }

    #[test]
    fn new_releases_are_the_newest_that_few_have_met() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (_dir, mut store) = catalogue(100, &mut rng);
        let config = IndexConfig { new_tracks: 30, new_plays: 5, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        let plays = |name: usize, plays: u32, vector: Vec<f32>| {
            let Change::Upsert(mut track) = song(name, vector) else { unreachable!() };
            (track.plays, track.norm) = (plays, 1.0 + plays as f32);
            Change::Upsert(track)
        };
        let changes = [
            plays(80, 5, unit(&mut rng)),
            plays(90, 4, unit(&mut rng)),
            plays(200, 0, unit(&mut rng)),
            plays(201, 9, unit(&mut rng)),
            Change::Remove(TrackId::new("song 95").unwrap()),
        ];
        store.commit(&changes).unwrap();
        index.refresh(&store).unwrap();
        // Song n has key n + 1, song 200 the next, 101. Who opens anew finds one more, the next older, in the place of the
        // one that was played.
        let new: Vec<u64> = (71..=101).filter(|key| ![81, 96].contains(key)).collect();
        let reopened = Index::open(&store, &config).unwrap();
        let query = unit(&mut rng);
        for (index, new) in [(&index, new.clone()), (&reopened, [&[70][..], &new].concat())] {
            let mut found = keys(&index.search_new(&query, 100, &Filter::default()).unwrap());
            found.sort_unstable();
            assert_eq!(found, new);
            assert_eq!(index.new_releases(), new.len());
            let one = index.search_new(&query, 100, &Filter { per_artist: Some(1), ..Filter::default() }).unwrap();
            let artists: HashSet<u64> = one.iter().map(|hit| index.standing(hit.key).unwrap().artist).collect();
            assert_eq!(artists.len(), one.len());
            assert_eq!(index.standing(91).map(|s| (s.new, s.popularity)), Some((true, 0.5)));
            let known = index.standing(102).unwrap();
            assert!(!known.new && known.popularity > 0.5, "{known:?}");
            assert!(index.standing(96).is_none());
        }
    }

    #[test]
    fn a_replacement_of_an_old_song_is_no_new_release_and_moves_the_median() {
        let mut rng = ChaCha8Rng::seed_from_u64(10);
        let (_dir, mut store) = catalogue(100, &mut rng);
        let config = IndexConfig { new_tracks: 30, new_plays: 5, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        let mut replaced = |name: usize, plays: u32, norm: f32| {
            let Change::Upsert(mut track) = song(name, unit(&mut rng)) else { unreachable!() };
            (track.plays, track.norm) = (plays, norm);
            Change::Upsert(track)
        };
        // One leaves the new releases; an old one, and then the one that left, come again.
        for (change, new) in [(replaced(80, 9, 1.0), 29), (replaced(10, 0, 1.0), 29), (replaced(80, 0, 1.0), 30)] {
            store.commit(&[change]).unwrap();
            index.refresh(&store).unwrap();
            assert_eq!(index.new_releases(), new);
        }
        assert!(!index.standing(11).unwrap().new && index.standing(81).unwrap().new);

        // As many songs as before, of which most are longer now: the median is one of theirs.
        let longer: Vec<Change> = (0..60).map(|name| replaced(name, 9, 4.0)).collect();
        store.commit(&longer).unwrap();
        index.refresh(&store).unwrap();
        assert_eq!(index.standing(1).unwrap().popularity, 0.5);
        assert_eq!(index.standing(66).unwrap().popularity, 0.2);
    }

    #[test]
    fn a_graph_that_most_songs_came_after_leaves_the_answer_to_the_scan() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (_dir, mut store) = catalogue(300, &mut rng);
        let config = IndexConfig { lists_above: 100, graph: true, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        index.build(&store, &|_| ()).unwrap();
        store.commit(&(300..700).map(|i| song(i, unit(&mut rng))).collect::<Vec<_>>()).unwrap();
        index.refresh(&store).unwrap();
        let year = Filter { years: Some(1980..=1980), ..Filter::default() };
        for _ in 0..20 {
            let query = unit(&mut rng);
            let exact = index.search_exact(&query, 10, &year).unwrap();
            assert_eq!(exact.len(), 10);
            assert_eq!(index.search_similar(&query, 10, &year).unwrap(), exact);
        }
    }

    #[test]
    fn below_the_number_for_lists_and_at_a_recall_of_1_nothing_is_missed() {
        let mut rng = ChaCha8Rng::seed_from_u64(12);
        let (_dir, mut store) = catalogue(2000, &mut rng);
        let low = IndexConfig { lists_above: 1500, recall: 0.3, ..IndexConfig::default() };
        let mut index = Index::open(&store, &low).unwrap();
        index.build(&store, &|_| ()).unwrap();
        let queries: Vec<Vec<f32>> = (0..100).map(|_| unit(&mut rng)).collect();
        let missed = |index: &Index| {
            let all = Filter::default();
            let exact = |query| index.search_exact(query, 10, &all).unwrap();
            let of_listeners = queries.iter().filter(|q| index.search(q, 10, &all).unwrap() != exact(q)).count();
            of_listeners + queries.iter().filter(|q| index.search_similar(q, 10, &all).unwrap() != exact(q)).count()
        };
        assert!(missed(&index) > 0, "a recall of .3 misses something");

        let mut all = Index::open(&store, &IndexConfig { recall: 1.0, ..low.clone() }).unwrap();
        assert_eq!(missed(&all), 0);
        let everything = Probe { gap: f32::INFINITY, filtered: f32::INFINITY, songs: 2000.0 };
        assert_eq!(all.probes, Some(Probes { listeners: everything, songs: everything, recall: 1.0 }));
        // What the new recall takes is published once, and is due again when another one is asked for.
        assert!(all.is_due());
        all.build(&store, &|_| ()).unwrap();
        assert!(!all.is_due());
        let reopened = Index::open(&store, &IndexConfig { recall: 1.0, ..low.clone() }).unwrap();
        assert!(!reopened.is_due() && reopened.probes == all.probes);
        let mut lowered = Index::open(&store, &low).unwrap();
        assert!(lowered.is_due() && lowered.probes == all.probes);
        lowered.build(&store, &|_| ()).unwrap();
        assert!(!lowered.is_due() && lowered.probes.map(|probes| probes.recall) == Some(low.recall));

        let gone = (0..600).map(|i| Change::Remove(TrackId::new(format!("song {i}")).unwrap()));
        store.commit(&gone.collect::<Vec<_>>()).unwrap();
        index.refresh(&store).unwrap();
        assert!(index.has_lists() && index.len() < low.lists_above);
        assert_eq!(missed(&index), 0);
    }

    #[test]
    fn inner_products_are_searched_exactly() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let (_dir, mut store) = catalogue(0, &mut rng);
        let songs: Vec<Change> = (0..3000)
            .map(|name| {
                let Change::Upsert(mut track) = song(name, unit(&mut rng)) else { unreachable!() };
                // A power law, as popularity has it; some are of no length at all.
                track.norm = if name % 50 == 0 { 0.0 } else { (1.0 + name as f32).powf(-0.7) };
                Change::Upsert(track)
            })
            .collect();
        store.commit(&songs).unwrap();
        assert!(
            Index::open(&store, &IndexConfig::default())
                .unwrap()
                .search_inner_product(&[1.0; D], 1, &Filter::default())
                .is_err()
        );
        let index = Index::open(&store, &IndexConfig { inner_product: true, ..IndexConfig::default() }).unwrap();
        for filter in filters(&mut rng, 3000) {
            let query: Vec<f32> = unit(&mut rng).iter().map(|x| 3.0 * x).collect();
            let product = |track: &Track| {
                let scaled: Vec<f32> = track.vector.iter().map(|x| x * track.norm).collect();
                crate::linalg::dot(&query, &scaled)
            };
            let found = keys(&index.search_inner_product(&query, 20, &filter).unwrap());
            assert_eq!(found, oracle(&store, 20, &filter, &product), "{filter:?}");
        }
    }

    #[test]
    fn odd_queries_and_settings_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let (_dir, store) = catalogue(50, &mut rng);
        let config = IndexConfig { lists_above: 10, graph: true, inner_product: true, ..IndexConfig::default() };
        let mut index = Index::open(&store, &config).unwrap();
        index.build(&store, &|_| ()).unwrap();
        let all = Filter::default();
        for odd in [vec![f32::NAN; D], vec![f32::INFINITY; D], vec![0.5; D - 1], vec![]] {
            assert!(index.search(&odd, 5, &all).is_err() && index.search_similar(&odd, 5, &all).is_err());
            assert!(index.search_new(&odd, 5, &all).is_err() && index.search_inner_product(&odd, 5, &all).is_err());
        }
        let query = unit(&mut rng);
        assert_eq!(index.search(&query, usize::MAX, &all).unwrap().len(), 50);
        assert_eq!(index.search_similar(&query, usize::MAX, &all).unwrap().len(), 50);
        assert!(index.search_similar(&query, 0, &all).unwrap().is_empty());
        for odd in [
            IndexConfig { recall: 1.5, ..config.clone() },
            IndexConfig { recall: f32::NAN, ..config.clone() },
            IndexConfig { rebuild_share: 0.0, ..config.clone() },
        ] {
            assert!(Index::open(&store, &odd).is_err());
        }
    }
}
