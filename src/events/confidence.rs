//! Events become a matrix: how sure we are of every pair of listener and track (confidence), and of what (preference).
//!
//! For a pair, with the weight `w` of each action and the half-life `H`:
//!
//! ```text
//! m⁺ = Σ_{plays, likes, adds} w · value · 2^(−age/H)        m⁻ = Σ_{skips} w · value · 2^(−age/H)
//! confidence c = 1 + α · g(m⁺ + m⁻)                         preference p = m⁺ / (m⁺ + m⁻)
//! ```
//!
//! Hu, Koren & Volinsky 2008 have `c = 1 + αr` and `p = 1` for whatever was consumed; a skip is what they lack. A pair
//! that was only skipped is a *confident zero* (`p = 0`), which in our simulation served better than subtracting.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Action, Event};
use crate::error::{Error, Result};
use crate::ids::{Ids, TrackId, UserId};

/// How events turn into confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfidenceConfig {
    /// Confidence per unit of evidence. Dense data wants about 1, sparse track-level data 40 and more; shorter
    /// half-lives leave less mass and want more. 40, as Hu et al.
    pub alpha: f32,
    /// How confidence grows with evidence.
    pub growth: Growth,
    /// The weight of a play that was heard to the end, against which the others are measured: 1.
    pub play: f32,
    /// The weight of a like: 2. A deliberate act says more than a play; how much more is to be measured, not known.
    pub like: f32,
    /// The weight of an add to a playlist: 3, since it announces more plays.
    pub add: f32,
    /// The weight of a skip, as evidence *against*: 1.
    pub skip: f32,
    /// After so many days an event weighs half; 0 for no decay. 56 to 112 served with and without drift of taste.
    pub half_life_days: f32,
}

impl Default for ConfidenceConfig {
    fn default() -> ConfidenceConfig {
        ConfidenceConfig {
            alpha: 40.0,
            growth: Growth::Linear,
            play: 1.0,
            like: 2.0,
            add: 3.0,
            skip: 1.0,
            half_life_days: 84.0,
        }
    }
}

/// `g` in `c = 1 + α·g(m)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Growth {
    /// `g(m) = m`: every play counts alike.
    Linear,
    /// `g(m) = ln(1 + m)`: for logs in which few pairs hold most plays.
    Log,
}

impl ConfidenceConfig {
    /// # Errors
    /// `Invalid` for a setting that is negative or not a number.
    pub fn check(&self) -> Result<()> {
        for (name, value) in
            [("alpha", self.alpha), ("play", self.play), ("like", self.like), ("add", self.add), ("skip", self.skip)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(format!("confidence.{name}"), "a finite number, 0 or more", value));
            }
        }
        if self.half_life_days.is_nan() || self.half_life_days < 0.0 {
            return Err(Error::invalid("confidence.half_life_days", "days, or 0 for none", self.half_life_days));
        }
        Ok(())
    }

    fn weight(&self, action: Action) -> f32 {
        match action {
            Action::Play => self.play,
            Action::Like => self.like,
            Action::Add => self.add,
            Action::Skip => self.skip,
        }
    }

    /// What is left of an event after `seconds`.
    fn decay(&self, seconds: i64) -> f64 {
        let half_life = f64::from(self.half_life_days) * 86_400.0;
        if half_life > 0.0 { (-(seconds as f64) / half_life).exp2() } else { 1.0 }
    }

    /// Confidence and preference of a pair with this evidence for and against; `None` where there is no evidence.
    pub fn weigh(&self, positive: f64, negative: f64) -> Option<(f32, f32)> {
        let mass = positive + negative;
        if mass.is_nan() || mass <= 0.0 {
            return None;
        }
        let grown = match self.growth {
            Growth::Linear => mass,
            Growth::Log => mass.ln_1p(),
        };
        // No log is so long that it would get there, but infinity must not reach a solve.
        let confidence = (1.0 + f64::from(self.alpha) * grown).min(1e12);
        Some((confidence as f32, (positive / mass) as f32))
    }
}

/// A sparse matrix by rows: of users over tracks, or its transpose. Columns ascend within a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Csr {
    /// Row `i` holds entries `indptr[i]..indptr[i + 1]`; `[rows + 1]`.
    pub indptr: Vec<u64>,
    /// Columns, `[entries]`.
    pub indices: Vec<u32>,
    /// `c ≥ 1`, `[entries]`.
    pub confidence: Vec<f32>,
    /// `p`, 0 (only skipped) to 1 (never skipped), `[entries]`.
    pub preference: Vec<f32>,
    pub columns: usize,
}

impl Csr {
    /// From entries (row, column, confidence, preference) in the order of rows.
    pub fn from_sorted(rows: usize, columns: usize, entries: impl Iterator<Item = (u32, u32, f32, f32)>) -> Csr {
        let mut csr = Csr { indptr: vec![0; rows + 1], columns, ..Csr::default() };
        for (row, column, confidence, preference) in entries {
            csr.indptr[row as usize + 1] += 1;
            csr.indices.push(column);
            csr.confidence.push(confidence);
            csr.preference.push(preference);
        }
        for i in 0..rows {
            csr.indptr[i + 1] += csr.indptr[i];
        }
        csr
    }

    pub fn rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Columns, confidences and preferences of a row.
    pub fn row(&self, i: usize) -> (&[u32], &[f32], &[f32]) {
        let entries = self.indptr[i] as usize..self.indptr[i + 1] as usize;
        (&self.indices[entries.clone()], &self.confidence[entries.clone()], &self.preference[entries])
    }

    pub fn row_len(&self, i: usize) -> usize {
        (self.indptr[i + 1] - self.indptr[i]) as usize
    }

    /// The same entries by column.
    pub fn transpose(&self) -> Csr {
        let mut indptr = vec![0u64; self.columns + 1];
        for &column in &self.indices {
            indptr[column as usize + 1] += 1;
        }
        for i in 0..self.columns {
            indptr[i + 1] += indptr[i];
        }
        let mut next = indptr.clone();
        let mut turned = Csr {
            indptr,
            indices: vec![0; self.len()],
            confidence: vec![0.0; self.len()],
            preference: vec![0.0; self.len()],
            columns: self.rows(),
        };
        for row in 0..self.rows() {
            let (columns, confidence, preference) = self.row(row);
            for ((&column, &c), &p) in columns.iter().zip(confidence).zip(preference) {
                let at = next[column as usize] as usize;
                next[column as usize] += 1;
                turned.indices[at] = row as u32;
                turned.confidence[at] = c;
                turned.preference[at] = p;
            }
        }
        turned
    }
}

#[test]
fn a_transpose_holds_the_same_entries_and_turns_back() {
    let entries = [(0, 3, 2.0, 1.0), (0, 1, 3.0, 0.5), (2, 0, 4.0, 0.0), (2, 3, 5.0, 1.0)];
    let csr = Csr::from_sorted(3, 5, entries.into_iter());
    let turned = csr.transpose();
    assert_eq!((turned.rows(), turned.columns), (5, 3));
    assert_eq!(turned.row(3), ([0, 2].as_slice(), [2.0, 5.0].as_slice(), [1.0, 1.0].as_slice()));
    assert_eq!(turned.row_len(4), 0);
    assert_eq!(turned.transpose().transpose(), turned);
}

/// Who met what: the matrix, and the names of its rows and columns in alphabetical order, so that the same events in
/// any order make the same matrix.
#[derive(Clone, Debug)]
pub struct Interactions {
    pub users: Ids<UserId>,
    pub tracks: Ids<TrackId>,
    /// `[users, tracks]`
    pub by_user: Csr,
    /// For each track, the listeners who did more than skip it.
    pub plays: Vec<u32>,
    /// How the confidences were made.
    pub config: ConfidenceConfig,
    /// The Unix time, in seconds, from which ages were counted.
    pub now: i64,
}

impl Interactions {
    /// From pairs (user, track, confidence, preference), each pair once, in any order. Users and tracks without a pair are left out.
    fn from_pairs(
        users: &[UserId],
        tracks: &[TrackId],
        mut pairs: Vec<(u32, u32, f32, f32)>,
        config: ConfidenceConfig,
        now: i64,
    ) -> Interactions {
        let (users, user_rank) = ranked(users, pairs.iter().map(|p| p.0));
        let (tracks, track_rank) = ranked(tracks, pairs.iter().map(|p| p.1));
        for (user, track, ..) in &mut pairs {
            (*user, *track) = (user_rank[*user as usize], track_rank[*track as usize]);
        }
        pairs.par_sort_unstable_by_key(|&(user, track, ..)| (user, track));
        let mut plays = vec![0; tracks.len()];
        for &(_, track, _, preference) in &pairs {
            plays[track as usize] += u32::from(preference > 0.0);
        }
        let by_user = Csr::from_sorted(users.len(), tracks.len(), pairs.into_iter());
        Interactions { users, tracks, by_user, plays, config, now }
    }

    /// Only the tracks that `keep` names, and the listeners who met one of them.
    pub fn retain_tracks(&self, keep: impl Fn(&TrackId) -> bool) -> Interactions {
        let kept: Vec<bool> = self.tracks.names().iter().map(keep).collect();
        let mut pairs = Vec::new();
        for user in 0..self.users.len() {
            let (tracks, confidence, preference) = self.by_user.row(user);
            for ((&track, &c), &p) in tracks.iter().zip(confidence).zip(preference) {
                if kept[track as usize] {
                    pairs.push((user as u32, track, c, p));
                }
            }
        }
        Interactions::from_pairs(self.users.names(), self.tracks.names(), pairs, self.config, self.now)
    }
}

/// The names that are used, sorted, and for each old number its new one.
fn ranked<I: Clone + Ord + std::hash::Hash>(names: &[I], used: impl Iterator<Item = u32>) -> (Ids<I>, Vec<u32>) {
    let mut is_used = vec![false; names.len()];
    used.for_each(|i| is_used[i as usize] = true);
    let mut order: Vec<u32> = (0..names.len() as u32).filter(|&i| is_used[i as usize]).collect();
    order.sort_unstable_by_key(|&i| &names[i as usize]);
    let mut rank = vec![u32::MAX; names.len()];
    for (new, &old) in order.iter().enumerate() {
        rank[old as usize] = new as u32;
    }
    (order.iter().map(|&i| names[i as usize].clone()).collect(), rank)
}

/// Evidence on one pair: one event, or several that were merged.
#[derive(Clone, Copy)]
struct Evidence {
    user: u32,
    track: u32,
    /// The newest event's; masses are as of then.
    time: i64,
    positive: f32,
    negative: f32,
}

/// Takes events one at a time, in any order. Memory grows with the number of distinct pairs, not of events.
pub struct InteractionsBuilder {
    config: ConfidenceConfig,
    now: Option<i64>,
    newest: i64,
    users: Ids<UserId>,
    tracks: Ids<TrackId>,
    evidence: Vec<Evidence>,
    /// Evidence is merged when it has grown to this many.
    merge_at: usize,
}

/// Evidence that is worth a merge: 24 MB of it.
const MERGE_AT: usize = 1 << 20;

impl InteractionsBuilder {
    /// `now`: ages are counted from this Unix time in seconds, and later events left out; from the newest event where
    /// it is `None`.
    ///
    /// # Errors
    /// `Invalid` where a setting is out of range.
    pub fn new(config: &ConfidenceConfig, now: Option<i64>) -> Result<InteractionsBuilder> {
        config.check()?;
        Ok(InteractionsBuilder {
            config: *config,
            now,
            newest: i64::MIN,
            users: Ids::new(),
            tracks: Ids::new(),
            evidence: Vec::new(),
            merge_at: MERGE_AT,
        })
    }

    /// # Errors
    /// `Invalid` for a value that is negative or not finite; reading has refused those already.
    pub fn push(&mut self, event: &Event) -> Result<()> {
        if !(event.value.is_finite() && event.value >= 0.0) {
            return Err(Error::invalid("event value", "a finite number, 0 or more", event.value));
        }
        if self.now.is_some_and(|now| event.time > now) {
            return Ok(());
        }
        self.newest = self.newest.max(event.time);
        let mass = self.config.weight(event.action) * event.value;
        if mass > 0.0 {
            let (positive, negative) = if event.action == Action::Skip { (0.0, mass) } else { (mass, 0.0) };
            let (user, track) = (self.users.intern(&event.user), self.tracks.intern(&event.track));
            self.evidence.push(Evidence { user, track, time: event.time, positive, negative });
            if self.evidence.len() >= self.merge_at {
                self.merge();
            }
        }
        Ok(())
    }

    /// One piece of evidence per pair.
    fn merge(&mut self) {
        // Equal keys are equal in every field, so no order of arrival can show in the sums.
        let key = |e: &Evidence| (e.user, e.track, e.time, e.positive.to_bits(), e.negative.to_bits());
        self.evidence.par_sort_unstable_by_key(key);
        let config = self.config;
        let mut kept = 0;
        let mut start = 0;
        while start < self.evidence.len() {
            let mut sum = self.evidence[start];
            let (mut positive, mut negative) = (f64::from(sum.positive), f64::from(sum.negative));
            let mut end = start + 1;
            while let Some(next) = self.evidence.get(end).filter(|e| (e.user, e.track) == (sum.user, sum.track)) {
                let left = config.decay(next.time.saturating_sub(sum.time));
                positive = positive * left + f64::from(next.positive);
                negative = negative * left + f64::from(next.negative);
                sum.time = next.time;
                end += 1;
            }
            (sum.positive, sum.negative) = (positive as f32, negative as f32);
            self.evidence[kept] = sum;
            kept += 1;
            start = end;
        }
        self.evidence.truncate(kept);
        // Twice what is left, so that a pair is sorted again only a logarithmic number of times.
        self.merge_at = MERGE_AT.max(2 * kept);
    }

    /// The matrix of all that was pushed.
    ///
    /// # Errors
    /// `Invalid` where there was nothing.
    pub fn finish(mut self) -> Result<Interactions> {
        self.merge();
        let now = self.now.unwrap_or(self.newest);
        let pairs: Vec<_> = (self.evidence.iter())
            .filter_map(|e| {
                let left = self.config.decay(now.saturating_sub(e.time));
                let (confidence, preference) =
                    self.config.weigh(f64::from(e.positive) * left, f64::from(e.negative) * left)?;
                Some((e.user, e.track, confidence, preference))
            })
            .collect();
        if pairs.is_empty() {
            return Err(Error::invalid("events", "at least one that carries weight", "none"));
        }
        Ok(Interactions::from_pairs(self.users.names(), self.tracks.names(), pairs, self.config, now))
    }
}

/// The matrix of `events`; `now` as in [`InteractionsBuilder::new`].
pub fn interactions(
    events: impl Iterator<Item = Event>,
    config: &ConfidenceConfig,
    now: Option<i64>,
) -> Result<Interactions> {
    let mut builder = InteractionsBuilder::new(config, now)?;
    for event in events {
        builder.push(&event)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn event(day: i64, user: &str, track: &str, action: Action, value: f32) -> Event {
        Event { time: day * DAY, user: UserId::new(user).unwrap(), track: TrackId::new(track).unwrap(), action, value }
    }

    /// The pair's confidence and preference.
    fn pair(data: &Interactions, user: &str, track: &str) -> Option<(f32, f32)> {
        let user = data.users.number(&UserId::new(user).unwrap())?;
        let track = data.tracks.number(&TrackId::new(track).unwrap())?;
        let (tracks, confidence, preference) = data.by_user.row(user as usize);
        let at = tracks.iter().position(|&t| t == track)?;
        Some((confidence[at], preference[at]))
    }

    #[test]
    fn confidence_and_preference_are_the_formula() {
        let config = ConfidenceConfig {
            alpha: 10.0,
            play: 1.0,
            like: 2.0,
            add: 3.0,
            skip: 0.5,
            half_life_days: 84.0,
            growth: Growth::Linear,
        };
        let events = [
            event(84, "ann", "a", Action::Play, 1.0),  // one half-life old: 0.5
            event(168, "ann", "a", Action::Play, 0.5), // fresh, half heard: 0.5
            event(168, "ann", "b", Action::Skip, 1.0), // 0.5 against
            event(0, "bob", "a", Action::Like, 1.0),   // two half-lives: 0.5
            event(168, "bob", "a", Action::Skip, 1.0), // 0.5 against
            event(168, "bob", "b", Action::Add, 1.0),
            event(168, "bob", "c", Action::Play, 0.0), // heard nothing: says nothing
        ];
        let data = interactions(events.iter().cloned(), &config, None).unwrap();
        assert_eq!(data.now, 168 * DAY);
        assert_eq!(pair(&data, "ann", "a"), Some((11.0, 1.0)));
        assert_eq!(pair(&data, "ann", "b"), Some((6.0, 0.0)));
        assert_eq!(pair(&data, "bob", "a"), Some((11.0, 0.5)));
        assert_eq!(pair(&data, "bob", "b"), Some((31.0, 1.0)));
        assert_eq!(pair(&data, "bob", "c"), None);
        assert_eq!(data.tracks.len(), 2);
        assert_eq!(data.plays, [2, 1]);

        let still = ConfidenceConfig { half_life_days: 0.0, ..config };
        let data = interactions(events.iter().cloned(), &still, None).unwrap();
        assert_eq!(pair(&data, "ann", "a"), Some((16.0, 1.0)));
        let later = interactions(events.iter().cloned(), &config, Some(252 * DAY)).unwrap();
        assert_eq!(pair(&later, "ann", "a"), Some((6.0, 1.0)), "all is one half-life older");
        let earlier = interactions(events.into_iter(), &config, Some(84 * DAY)).unwrap();
        assert_eq!(pair(&earlier, "ann", "a"), Some((11.0, 1.0)), "the second play has not happened yet");
        assert_eq!(pair(&earlier, "bob", "b"), None);
    }

    #[test]
    fn the_same_events_in_any_order_make_the_same_matrix() {
        let actions = [Action::Play, Action::Skip, Action::Like, Action::Add];
        let mut events: Vec<Event> = (0..5000u32)
            .map(|i| {
                let h = i.wrapping_mul(2_654_435_761);
                let (user, track) = (format!("u{}", h >> 27), format!("t{}", (h >> 20) & 31));
                event(i64::from(h % 300), &user, &track, actions[i as usize % 4], (h % 7) as f32 / 7.0)
            })
            .collect();
        let config = ConfidenceConfig::default();
        let first = interactions(events.iter().cloned(), &config, None).unwrap();
        events.reverse();
        events.rotate_left(1234);
        let second = interactions(events.into_iter(), &config, None).unwrap();
        assert_eq!(first.by_user, second.by_user);
        assert_eq!(first.users.names(), second.users.names());
        assert_eq!(first.tracks.names(), second.tracks.names());
    }

    #[test]
    fn merging_on_the_way_changes_nothing_but_rounding() {
        let events = || (0..40_000i64).map(|i| event(i / 100, &format!("u{}", i % 50), "t", Action::Play, 1.0));
        let config = ConfidenceConfig::default();
        let mut often = InteractionsBuilder::new(&config, None).unwrap();
        for e in events() {
            often.push(&e).unwrap();
            if often.evidence.len() > 300 {
                often.merge();
            }
        }
        let (often, once) = (often.finish().unwrap(), interactions(events(), &config, None).unwrap());
        for (a, b) in often.by_user.confidence.iter().zip(&once.by_user.confidence) {
            assert!((a - b).abs() <= 1e-6 * b, "{a} {b}");
        }
    }

    #[test]
    fn one_user_and_one_song_are_a_matrix_and_nothing_is_an_error() {
        let config = ConfidenceConfig::default();
        let data = interactions([event(1, "u", "t", Action::Play, 1.0)].into_iter(), &config, None).unwrap();
        assert_eq!((data.users.len(), data.tracks.len(), data.by_user.len()), (1, 1, 1));
        assert!(interactions(std::iter::empty(), &config, None).is_err());
        assert!(interactions([event(1, "u", "t", Action::Play, 0.0)].into_iter(), &config, None).is_err());
        assert!(interactions([event(1, "u", "t", Action::Play, f32::NAN)].into_iter(), &config, None).is_err());
        let negative = ConfidenceConfig { skip: -1.0, ..config };
        assert!(interactions(std::iter::empty(), &negative, None).unwrap_err().to_string().contains("skip"));
    }

    #[test]
    fn retaining_tracks_drops_the_listeners_who_met_no_other() {
        let events = [
            event(1, "ann", "a", Action::Play, 1.0),
            event(1, "bob", "b", Action::Play, 1.0),
            event(1, "cem", "a", Action::Skip, 1.0),
            event(1, "cem", "b", Action::Play, 1.0),
        ];
        let data = interactions(events.into_iter(), &ConfidenceConfig::default(), None).unwrap();
        let only_b = data.retain_tracks(|t| t.as_str() == "b");
        assert_eq!(only_b.users.names().iter().map(UserId::as_str).collect::<Vec<_>>(), ["bob", "cem"]);
        assert_eq!((only_b.tracks.len(), only_b.plays), (1, vec![2]));
        assert_eq!(only_b.by_user.confidence, [41.0, 41.0]);
    }
}
