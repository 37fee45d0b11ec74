//! Which tracks for whom, and because of what: the catalogue's vectors asked by a listener, a playlist, a track or a
//! sound.
//!
//! A listener is a history: what he met is folded into the space when he asks (Hu, Koren and Volinsky 2008, with the
//! tracks fixed), so a listener of whom nobody has heard needs no refit, and the tracks that pulled each recommendation
//! fall out of the same solve (their section 5). Scores are cosines: direction is taste, length is popularity, and only
//! the first may choose, or no new track would ever be shown.

use std::collections::HashSet;
use std::path::Path;

use ndarray::Array2;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::factors::{FoldIn, Space};
use crate::ids::{Ids, TrackId, UserId};

use crate::index::{Hit, Index, IndexConfig, Vectors};
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

/// One track to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    pub track: TrackId,
    /// Cosine with the listener or track that asked, -1 to 1.
    pub score: f32,
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
    store: Store,
    index: Index,
    space: Space,
    fold_in: FoldIn,
    listeners: Listeners,
    listeners_version: i64,
}

impl Recommender {
    /// Opens the catalogue in `folder` for reading.
    ///
    /// # Errors
    /// `NotFound` where there is no catalogue, or none with a space.
    pub fn open(folder: &Path, config: &IndexConfig) -> Result<Recommender> {
        let store = Store::read(folder)?;
        let index = Index::open(&store, config)?;
        let row = store
            .space()?
            .ok_or_else(|| Error::NotFound { what: "space in the catalogue", name: folder.display().to_string() })?;
        let space = space_of(&row, folder)?;
        let fold_in = space.fold_in_users()?;
        // Read before the listeners, so that a change in between is seen by the next refresh.
        let listeners_version = store.listeners_version()?;
        let listeners = Listeners::load(&store, index.dimensions())?;
        Ok(Recommender { store, index, space, fold_in, listeners, listeners_version })
    }

    /// Takes in what was acknowledged since, by whomever; returns how many tracks changed.
    pub fn refresh(&mut self) -> Result<usize> {
        let changed = self.index.refresh_if_changed(&self.store)?;
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

    /// The `k` best tracks for whoever asks, best first; never one that the asker has met, nor the track itself.
    ///
    /// # Errors
    /// `NotFound` for a track or listener that the catalogue does not have, or a playlist of which it has none.
    pub fn recommend(&self, query: &Query, k: usize) -> Result<Vec<Recommendation>> {
        match query {
            Query::Track(id) => {
                let track = self.track(id)?;
                let own = self.store.key(id)?;
                let hits = self.index.search_similar(&track.vector, k, &|key| Some(key) != own)?;
                self.tell(&hits, &|_| Ok(Vec::new()))
            }
            Query::Sound(vector) => {
                if vector.len() != self.index.dimensions() {
                    return Err(Error::mismatch(
                        "the sound's vector and the catalogue",
                        self.index.dimensions(),
                        vector.len(),
                    ));
                }
                let hits = self.index.search_similar(vector, k, &|_| true)?;
                self.tell(&hits, &|_| Ok(Vec::new()))
            }
            Query::User(id) => {
                let listener = self
                    .store
                    .listener(id)?
                    .ok_or_else(|| Error::NotFound { what: "listener in the catalogue", name: id.to_string() })?;
                self.for_listener(&listener, k)
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
                self.for_listener(&Listener { id: name, vector: Vec::new(), history }, k)
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

    fn for_listener(&self, listener: &Listener, k: usize) -> Result<Vec<Recommendation>> {
        // What the catalogue has of the history, in the scale of the factorisation.
        let mut history: Vec<(Track, &Met)> = Vec::new();
        let mut heard = HashSet::new();
        for met in &listener.history {
            if let Some(track) = self.store.track(&met.track)? {
                heard.extend(self.store.key(&met.track)?);
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
            let hits = self.index.search(&taste, k, &|_| true)?;
            return self.tell(&hits, &|_| Ok(Vec::new()));
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
        let hits = self.index.search(&direction, k, &|key| !heard.contains(&key))?;
        self.tell(&hits, &|track| {
            let shares = self.fold_in.explain(vectors.view(), &confidence, &preference, &track.vector)?;
            let mut because: Vec<Because> = history
                .iter()
                .zip(shares)
                .map(|((played, _), share)| Because {
                    track: played.id.clone(),
                    title: played.info.title.clone().or_else(|| file_name(played)),
                    share: share / length,
                })
                .filter(|b| b.share > 0.0)
                .collect();
            because.sort_by(|a, b| b.share.total_cmp(&a.share));
            because.truncate(BECAUSE);
            Ok(because)
        })
    }

    /// Looks up what is shown of each hit. A track that was removed since the index looked is left out.
    fn tell(&self, hits: &[Hit], because: &dyn Fn(&Track) -> Result<Vec<Because>>) -> Result<Vec<Recommendation>> {
        let mut told = Vec::with_capacity(hits.len());
        for hit in hits {
            if let Some(track) = self.store.track_by_key(hit.key)? {
                let because = because(&track)?;
                let (title, artist) = (track.info.title, track.info.artist);
                let path = track.path.map(|p| p.to_string_lossy().into_owned());
                told.push(Recommendation { track: track.id, score: hit.score, title, artist, path, because });
            }
        }
        Ok(told)
    }
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
