//! Which tracks for whom, and because of what: the catalogue's vectors asked by a listener, a playlist, a track or a
//! sound.
//!
//! A listener is a history: what he met is folded into the space when he asks (Hu, Koren and Volinsky 2008, with the
//! tracks fixed), so a listener of whom nobody has heard needs no refit, and the tracks that pulled each recommendation
//! fall out of the same solve (their section 5). Scores are cosines: direction is taste, length is popularity, and only
//! the first may choose, or no new track would ever be shown. Popularity has a say in the order of what was chosen, and
//! new releases have places of their own: both are settings, [`RecommendConfig`].

use std::collections::HashSet;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::factors::{FoldIn, Space};
use crate::ids::{Ids, TrackId, UserId};

use crate::index::{Filter, Hit, Index, IndexConfig, Standing, Vectors};
use crate::linalg::{norm, unit};
use crate::store::{Listener, Met, SpaceRow, Store, Track};

/// Who, or what, asks.
#[derive(Clone, Debug)]
pub enum Query {
    /// More like this track.
    Track(TrackId),
    /// More like this sound: a unit vector `[d]` that the model predicted.
    Sound(Vec<f32>),
    /// What this listener should hear next.
    User(UserId),
    /// What should follow these tracks.
    Playlist(Vec<TrackId>),
}

/// Settings of what a listener or playlist is shown. What is like a track or a sound is ranked by the cosine alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecommendConfig {
    /// What the most popular track gains over the least in cosine when the candidates are ranked; a new release gains
    /// nothing and loses nothing. 0 ranks by the cosine alone.
    pub popularity: f32,
    /// Candidates per place that are ranked: the nearest by cosine.
    pub candidates: usize,
    /// The share of the places that new releases (`index.new_tracks`, `index.new_plays`) get at least, where there are
    /// any; 0.1 is one of ten.
    pub new_share: f32,
    /// At most so many tracks of one artist, where the query says nothing of it; 0 is any number.
    pub per_artist: usize,
    /// Rank by the inner product with the factors instead: popularity then chooses (needs `index.inner_product`).
    pub inner_product: bool,
}

impl Default for RecommendConfig {
    fn default() -> RecommendConfig {
        RecommendConfig { popularity: 0.4, candidates: 10, new_share: 0.1, per_artist: 0, inner_product: false }
    }
}

impl RecommendConfig {
    /// # Errors
    /// `Invalid` where a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=2.0).contains(&self.popularity) {
            return Err(Error::invalid("setting recommend.popularity", "a number between 0 and 2", self.popularity));
        }
        if !(0.0..=1.0).contains(&self.new_share) {
            return Err(Error::invalid("setting recommend.new_share", "a number between 0 and 1", self.new_share));
        }
        if self.candidates == 0 {
            return Err(Error::invalid("setting recommend.candidates", "1 or more", 0));
        }
        Ok(())
    }
}

/// Why a new release is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum New {
    /// It would be there if it were old.
    Earned,
    /// It has one of the places of [`RecommendConfig::new_share`].
    Quota,
}

/// One track to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    pub track: TrackId,
    /// Cosine with the listener or track that asked, -1 to 1. A list for a listener is in an order that popularity has had
    /// a say in. With [`RecommendConfig::inner_product`], for a listener, that cosine times the length of the track's factor.
    pub score: f32,
    /// It is a new release, and how it came here; only in lists for listeners and playlists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<New>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artist: Option<String>,
    /// Where it was heard; none for a track that is known from plays alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The tracks of the history that speak most for this one, strongest first; empty where a track or sound asked.
    pub because: Vec<Because>,
}

/// A played track that pulled a recommendation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Because {
    pub track: TrackId,
    /// The name of its file where its tags have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its share of the score: the shares of the whole history add up to the score.
    pub share: f32,
}

/// A listener to whom a track would be shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audience {
    pub listener: UserId,
    /// Cosine of the listener's vector with the track's.
    pub score: f32,
}

/// How many tracks a [`Recommendation::because`] names.
const BECAUSE: usize = 3;

/// Answers queries from a catalogue, and follows it as others write to it.
pub struct Recommender {
    config: RecommendConfig,
    store: Store,
    index: Index,
    space: Space,
    fold_in: FoldIn,
    listeners: Listeners,
    listeners_version: i64,
    /// The catalogue serves another generation, which is being opened beside this one.
    opening: Option<JoinHandle<Result<Recommender>>>,
    /// It could not be opened; the next attempt is not before this.
    next_attempt: Option<Instant>,
}

/// Between two attempts to open what the catalogue serves now: each reads all of it.
const ATTEMPTS_APART: Duration = Duration::from_secs(10);

impl Recommender {
    /// Opens the catalogue in `folder` for reading.
    ///
    /// # Errors
    /// `NotFound` where there is no catalogue, or none with a space.
    pub fn open(folder: &Path, index: &IndexConfig, config: &RecommendConfig) -> Result<Recommender> {
        config.check()?;
        let index = IndexConfig { inner_product: index.inner_product || config.inner_product, ..index.clone() };
        let store = Store::read(folder)?;
        let index = Index::open(&store, &index)?;
        let row = store
            .space()?
            .ok_or_else(|| Error::NotFound { what: "space in the catalogue", name: folder.display().to_string() })?;
        let space = space_of(&row, folder)?;
        let fold_in = space.fold_in_users()?;
        // Read before the listeners, so that a change in between is seen by the next refresh.
        let listeners_version = store.listeners_version()?;
        let listeners = Listeners::load(&store, index.dimensions())?;
        let config = config.clone();
        Ok(Recommender {
            config,
            store,
            index,
            space,
            fold_in,
            listeners,
            listeners_version,
            opening: None,
            next_attempt: None,
        })
    }

    /// Takes in what was acknowledged since, by whomever; returns how many tracks changed. Where the catalogue serves
    /// another model or space since (`debut reindex`), that is opened by another thread, and the first call after it is
    /// done goes over to it; until then the answers are those of before.
    pub fn refresh(&mut self) -> Result<usize> {
        // A catalogue that was opened again counts its versions anew.
        let again = self.store.follow()?;
        if let Some(opened) = self.opening.take_if(|opening| opening.is_finished()) {
            match opened.join() {
                Ok(Ok(opened)) => {
                    *self = opened;
                    // It may be behind what was written while it was opened.
                    return self.refresh().map(|_| self.len());
                }
                Ok(Err(e)) => tracing::warn!("what the catalogue serves now cannot be opened: {e}"),
                Err(_) => tracing::warn!("what the catalogue serves now cannot be opened"),
            }
            self.next_attempt = Some(Instant::now() + ATTEMPTS_APART);
        }
        let wait = self.next_attempt.is_some_and(|at| Instant::now() < at);
        if self.opening.is_none() && !wait && self.store.is_behind()? {
            let (folder, index, config) =
                (self.store.folder().to_path_buf(), self.index.config().clone(), self.config.clone());
            self.opening = Some(std::thread::spawn(move || Recommender::open(&folder, &index, &config)));
        }
        let changed = self.take_in(again);
        if changed.is_err()
            && let Some(opening) = self.opening.take()
        {
            // What this one reads was dropped already: there is nothing to answer from until the other is open.
            *self = opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            return Ok(self.len());
        }
        changed
    }

    fn take_in(&mut self, again: bool) -> Result<usize> {
        let changed =
            if again { self.index.refresh(&self.store)? } else { self.index.refresh_if_changed(&self.store)? };
        self.index.build_in_background();
        let version = self.store.listeners_version()?;
        if version != self.listeners_version {
            self.listeners = Listeners::load(&self.store, self.index.dimensions())?;
            self.listeners_version = version;
            if let Some(row) = self.store.space()? {
                self.space = space_of(&row, self.store.folder())?;
                self.fold_in = self.space.fold_in_users()?;
            }
        }
        Ok(changed)
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The number of tracks that can be recommended.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The `k` best tracks for whoever asks that the filter lets through, best first; never one that the asker has met,
    /// nor the track itself. A [`Filter::per_artist`] of 0 is any number, also where the settings have a limit.
    ///
    /// # Errors
    /// `NotFound` for a track or listener that the catalogue does not have, or a playlist of which it has none.
    pub fn recommend(&self, query: &Query, k: usize, filter: &Filter) -> Result<Vec<Recommendation>> {
        let mut filter = filter.clone();
        if matches!(query, Query::User(_) | Query::Playlist(_)) {
            filter.per_artist.get_or_insert(self.config.per_artist);
        }
        filter.per_artist = filter.per_artist.filter(|n| *n > 0);
        match query {
            Query::Track(id) => {
                let track = self.track(id)?;
                filter.without.extend(self.store.key(id)?);
                let hits = self.index.search_similar(&track.vector, k, &filter)?;
                self.tell(&hits, &|_| Ok(Vec::new()))
            }
            Query::Sound(vector) => {
                let hits = self.index.search_similar(vector, k, &filter)?;
                self.tell(&hits, &|_| Ok(Vec::new()))
            }
            Query::User(id) => {
                let listener = self
                    .store
                    .listener(id)?
                    .ok_or_else(|| Error::NotFound { what: "listener in the catalogue", name: id.to_string() })?;
                self.for_listener(&listener, k, filter)
            }
            Query::Playlist(tracks) => {
                // A playlist is a listener who added each of its tracks once, just now.
                let weights = &self.space.confidence;
                let confidence = weights.weigh(weights.add.into(), 0.0).map_or(1.0, |(c, _)| c);
                let met = |id: &TrackId| Met { track: id.clone(), confidence, preference: 1.0 };
                // Each once, however often it is listed.
                let mut seen = HashSet::new();
                let history: Vec<Met> = tracks.iter().filter(|id| seen.insert(*id)).map(met).collect();
                let name = UserId::new("the playlist")?;
                self.for_listener(&Listener { id: name, vector: Vec::new(), history }, k, filter)
            }
        }
    }

    /// The `k` listeners whose taste is nearest to the track vector `[d]`, best first.
    ///
    /// # Errors
    /// `Mismatch` where the vector is of another space's dimensions.
    pub fn audience(&self, vector: &[f32], k: usize) -> Result<Vec<Audience>> {
        self.listeners.nearest(vector, k)
    }

    fn track(&self, id: &TrackId) -> Result<Track> {
        self.store.track(id)?.ok_or_else(|| Error::NotFound { what: "track in the catalogue", name: id.to_string() })
    }

    fn for_listener(&self, listener: &Listener, k: usize, mut filter: Filter) -> Result<Vec<Recommendation>> {
        // What the catalogue has of the history, in the scale of the factorisation.
        let mut history: Vec<(Track, &Met)> = Vec::new();
        for met in &listener.history {
            if let Some(track) = self.store.track(&met.track)? {
                filter.without.extend(self.store.key(&met.track)?);
                history.push((track, met));
            }
        }
        if history.is_empty() {
            // Of a listener whose tracks are all gone, the learned vector is what is left.
            let Some(taste) = unit(&listener.vector) else {
                return Err(Error::NotFound {
                    what: "track of the history in the catalogue",
                    name: listener.id.to_string(),
                });
            };
            let chosen = self.choose(&taste, k, &filter)?;
            return self.tell_chosen(&chosen, &|_| Ok(Vec::new()));
        }
        let d = self.index.dimensions();
        let mut vectors = Array2::zeros((history.len(), d));
        for (mut row, (track, _)) in vectors.outer_iter_mut().zip(&history) {
            row.iter_mut().zip(&track.vector).for_each(|(to, from)| *to = from * track.norm);
        }
        let confidence: Vec<f32> = history.iter().map(|(_, met)| met.confidence).collect();
        let preference: Vec<f32> = history.iter().map(|(_, met)| met.preference).collect();
        let taste = self.fold_in.solve(vectors.view(), &confidence, &preference)?;
        // A history of skips alone folds in as zero: it says what not to play, and nothing of what to play.
        let Some(direction) = unit(&taste) else { return Ok(Vec::new()) };
        let length = norm(&taste);
        let chosen = self.choose(&direction, k, &filter)?;
        self.tell_chosen(&chosen, &|track| {
            // In the scale of the score.
            let scale = if self.config.inner_product { track.norm } else { 1.0 } / length;
            let shares = self.fold_in.explain(vectors.view(), &confidence, &preference, &track.vector)?;
            let mut because: Vec<Because> = history
                .iter()
                .zip(shares)
                .map(|((played, _), share)| Because {
                    track: played.id.clone(),
                    title: played.info.title.clone().or_else(|| file_name(played)),
                    share: share * scale,
                })
                .filter(|b| b.share > 0.0)
                .collect();
            because.sort_by(|a, b| b.share.total_cmp(&a.share));
            because.truncate(BECAUSE);
            Ok(because)
        })
    }

    /// The `k` tracks for a listener of this taste, best first: candidates by cosine, ranked with their popularity, and
    /// new releases in the places that they are promised.
    fn choose(&self, taste: &[f32], k: usize, filter: &Filter) -> Result<Vec<(Hit, Option<New>)>> {
        let places = ((f64::from(self.config.new_share) * k as f64).round() as usize).min(k);
        let fresh = if places > 0 { self.index.search_new(taste, places, filter)? } else { Vec::new() };
        let standing = |hit: &Hit| self.index.standing(hit.key);
        if self.config.inner_product {
            let hits = self.index.search_inner_product(taste, k, filter)?;
            let ranked: Vec<Ranked> = hits
                .iter()
                .filter_map(|hit| standing(hit).map(|standing| Ranked { hit: *hit, rank: hit.score, standing }))
                .collect();
            // What has a place by quota stands last: few have met it, so its length says little.
            let last = |hit: &Hit| {
                let standing = standing(hit)?;
                let hit = Hit { score: hit.score * standing.norm, ..*hit };
                Some(Ranked { hit, rank: f32::NEG_INFINITY, standing })
            };
            let fresh: Vec<Ranked> = fresh.iter().filter_map(last).collect();
            return Ok(with_quota(ranked, fresh, k, places, filter.per_artist));
        }
        let wanted = if self.config.popularity == 0.0 { k } else { k.saturating_mul(self.config.candidates) };
        let rank = |hit: &Hit| {
            let standing = standing(hit)?;
            let rank = hit.score + self.config.popularity * (standing.popularity - 0.5);
            Some(Ranked { hit: *hit, rank, standing })
        };
        let mut ranked: Vec<Ranked> = self.index.search(taste, wanted, filter)?.iter().filter_map(rank).collect();
        ranked.sort_by(Ranked::best_first);
        Ok(with_quota(ranked, fresh.iter().filter_map(rank).collect(), k, places, filter.per_artist))
    }

    fn tell_chosen(
        &self,
        chosen: &[(Hit, Option<New>)],
        because: &dyn Fn(&Track) -> Result<Vec<Because>>,
    ) -> Result<Vec<Recommendation>> {
        let mut told = Vec::with_capacity(chosen.len());
        for (hit, new) in chosen {
            // A track that was removed since the index looked is left out.
            if let Some(track) = self.store.track_by_key(hit.key)? {
                let because = because(&track)?;
                let (title, artist) = (track.info.title, track.info.artist);
                let path = track.path.map(|p| p.to_string_lossy().into_owned());
                told.push(Recommendation {
                    track: track.id,
                    score: hit.score,
                    new: *new,
                    title,
                    artist,
                    path,
                    because,
                });
            }
        }
        Ok(told)
    }

    fn tell(&self, hits: &[Hit], because: &dyn Fn(&Track) -> Result<Vec<Because>>) -> Result<Vec<Recommendation>> {
        self.tell_chosen(&hits.iter().map(|hit| (*hit, None)).collect::<Vec<_>>(), because)
    }
}

/// A candidate.
#[derive(Clone, Copy)]
struct Ranked {
    hit: Hit,
    rank: f32,
    standing: Standing,
}

impl Ranked {
    fn best_first(&self, other: &Ranked) -> std::cmp::Ordering {
        let by_score = || other.hit.score.total_cmp(&self.hit.score);
        other.rank.total_cmp(&self.rank).then_with(by_score).then(self.hit.key.cmp(&other.hit.key))
    }
}

/// The first `k` of `ranked`, of which at least `places` are new releases as far as `fresh` has some: they take the
/// places of the last that are not new. No artist has more than `per_artist`.
fn with_quota(
    ranked: Vec<Ranked>,
    fresh: Vec<Ranked>,
    k: usize,
    places: usize,
    per_artist: Option<usize>,
) -> Vec<(Hit, Option<New>)> {
    let mut chosen: Vec<(Ranked, Option<New>)> =
        ranked.into_iter().take(k).map(|one| (one, one.standing.new.then_some(New::Earned))).collect();
    let limit = per_artist.unwrap_or(usize::MAX);
    for one in fresh {
        if chosen.iter().filter(|(_, new)| new.is_some()).count() >= places {
            break;
        }
        let artist = one.standing.artist;
        let of_artist = |(other, _): &&(Ranked, Option<New>)| artist != 0 && other.standing.artist == artist;
        if chosen.iter().any(|(other, _)| other.hit.key == one.hit.key) || limit == 0 {
            continue;
        }
        // Where the artist has no room, the new release takes the place of the last by the same artist.
        let full = chosen.iter().filter(of_artist).count() >= limit;
        let place = if chosen.len() < k && !full {
            None
        } else {
            let last = chosen.iter().rposition(|other| other.1.is_none() && (!full || of_artist(&other)));
            if last.is_none() {
                continue;
            }
            last
        };
        place.map(|place| chosen.remove(place));
        chosen.push((one, Some(New::Quota)));
    }
    chosen.sort_by(|(a, _), (b, _)| a.best_first(b));
    chosen.into_iter().map(|(one, new)| (one.hit, new)).collect()
}

/// The description of a catalogue's space, as [`Space`] wrote it.
pub fn space_of(row: &SpaceRow, folder: &Path) -> Result<Space> {
    let space: Space = serde_json::from_str(&row.description)
        .map_err(|e| Error::format(folder, "the description of a factor space", e))?;
    row.id.require("the catalogue's space and its description", &space.id)?;
    Ok(space)
}

/// The file's name without its ending.
fn file_name(track: &Track) -> Option<String> {
    Some(track.path.as_ref()?.file_stem()?.to_string_lossy().into_owned())
}

/// Every listener's direction, scanned exactly.
struct Listeners {
    ids: Ids<UserId>,
    vectors: Vectors,
}

impl Listeners {
    fn load(store: &Store, dimensions: usize) -> Result<Listeners> {
        let mut listeners = Listeners { ids: Ids::new(), vectors: Vectors::new(dimensions) };
        let mut result = Ok(());
        store.for_each_listener(&mut |id, vector| {
            // A listener without a direction is near nothing.
            if let Some(vector) = unit(&vector).filter(|v| v.len() == dimensions && result.is_ok()) {
                let number = listeners.ids.intern(&id);
                result = listeners.vectors.upsert(number.into(), &vector, ());
            }
        })?;
        result.map(|()| listeners)
    }

    fn nearest(&self, vector: &[f32], k: usize) -> Result<Vec<Audience>> {
        let hits = self.vectors.search(vector, k, &|_, ()| true)?;
        let names = self.ids.names();
        Ok(hits.iter().map(|h| Audience { listener: names[h.key as usize].clone(), score: h.score }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(key: u64, rank: f32, new: bool, artist: u64) -> Ranked {
        Ranked { hit: Hit { key, score: rank }, rank, standing: Standing { popularity: 0.5, new, norm: 1.0, artist } }
    }

    fn told(chosen: Vec<(Hit, Option<New>)>) -> Vec<(u64, Option<New>)> {
        chosen.into_iter().map(|(hit, new)| (hit.key, new)).collect()
    }

    #[test]
    fn new_releases_take_the_last_places_up_to_their_share_and_no_more() {
        let old: Vec<Ranked> = (0..10).map(|i| ranked(i, 1.0 - i as f32 / 10.0, i == 8, 0)).collect();
        let fresh: Vec<Ranked> = (0..5).map(|i| ranked(100 + i, 0.05 - i as f32 / 100.0, true, 0)).collect();
        let chosen = |places| told(with_quota(old.clone(), fresh.clone(), 5, places, None));
        assert_eq!(chosen(0), (0..5).map(|key| (key, None)).collect::<Vec<_>>());
        let two = chosen(2);
        assert_eq!(two[..3], [(0, None), (1, None), (2, None)]);
        assert_eq!(two[3..], [(100, Some(New::Quota)), (101, Some(New::Quota))]);
        assert!(chosen(5).iter().all(|(_, new)| *new == Some(New::Quota)));

        // What earns its place counts for the share.
        let wide = told(with_quota(old.clone(), fresh.clone(), 9, 1, None));
        assert_eq!(wide.last(), Some(&(8, Some(New::Earned))));
        assert_eq!(wide.len(), 9);
        // Fewer than k in all: nobody has to go.
        let few = told(with_quota(old[..2].to_vec(), fresh[..1].to_vec(), 5, 1, None));
        assert_eq!(few, [(0, None), (1, None), (100, Some(New::Quota))]);
    }

    #[test]
    fn what_stands_last_by_quota_is_in_order_of_its_score() {
        let fresh = |key, score| Ranked { hit: Hit { key, score }, ..ranked(key, f32::NEG_INFINITY, true, 0) };
        let chosen = told(with_quota(vec![ranked(1, 0.1, false, 0)], vec![fresh(8, 0.2), fresh(9, 0.3)], 3, 2, None));
        assert_eq!(chosen, [(1, None), (9, Some(New::Quota)), (8, Some(New::Quota))]);
    }

    #[test]
    fn a_quota_gives_no_artist_more_than_he_may_have() {
        let old: Vec<Ranked> = (0..4).map(|i| ranked(i, 1.0 - i as f32 / 10.0, false, 1 + i)).collect();
        let fresh = vec![ranked(100, 0.2, true, 2), ranked(101, 0.1, true, 2), ranked(102, 0.0, true, 9)];
        let chosen = told(with_quota(old, fresh, 4, 2, Some(1)));
        // The first goes in for the other of its artist, the second finds no room, the third takes the last place.
        assert_eq!(chosen, [(0, None), (2, None), (100, Some(New::Quota)), (102, Some(New::Quota))]);
    }
}
