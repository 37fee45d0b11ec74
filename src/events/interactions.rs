//! Events become a matrix of users over tracks.
//!
//! Each event is kept as one number of 16 bytes, and the numbers are sorted, so that the events of a pair come together
//! and in the order of time. What does not fit into memory is sorted on disk. The matrix therefore depends neither on
//! the order in which events arrive nor on how much memory there was: it is the same to the bit.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::confidence::{ConfidenceConfig, Evidence, Keep};
use super::matrix::Csr;
use super::spill::{Record, Sorted, Spill};
use super::{Action, Event, EventsConfig};
use crate::error::{Error, Result};
use crate::ids::{Ids, TrackId, UserId};

/// Who met what: the matrix, and the names of its rows and columns in alphabetical order, so that the same events in
/// any order make the same matrix.
#[derive(Clone, Debug)]
pub struct Interactions {
    pub users: Ids<UserId>,
    pub tracks: Ids<TrackId>,
    /// `[users, tracks]`
    pub by_user: Csr,
    /// For each track, the listeners (playlists are none) who did more than skip it.
    pub plays: Vec<u32>,
    /// How the confidences were made.
    pub config: ConfidenceConfig,
    /// The Unix time, in seconds, from which ages were counted.
    pub now: i64,
}

impl Interactions {
    fn new(users: Ids<UserId>, tracks: Ids<TrackId>, by_user: Csr, config: ConfidenceConfig, now: i64) -> Interactions {
        let mut plays = vec![0; tracks.len()];
        for (row, _) in users.names().iter().enumerate().filter(|(_, user)| !user.is_playlist()) {
            let (tracks, _, preference) = by_user.row(row);
            for (&track, _) in tracks.iter().zip(preference).filter(|(_, p)| **p > 0.0) {
                plays[track as usize] += 1;
            }
        }
        Interactions { users, tracks, by_user, plays, config, now }
    }

    /// Without the users and tracks below the minimums.
    ///
    /// # Errors
    /// `Invalid` where nothing is left.
    fn above_minimums(self) -> Result<Interactions> {
        let config = &self.config;
        if config.min_users_per_track <= 1 && config.min_tracks_per_user <= 1 {
            return Ok(self); // nobody is there without one
        }
        // Who loses all to the other side's minimum goes, too.
        let (least_tracks, least_users) = (config.min_tracks_per_user.max(1), config.min_users_per_track.max(1));
        let (users, tracks) = self.by_user.core(least_tracks, least_users);
        if !users.contains(&true) {
            return Err(nobody_is_left(config));
        }
        Ok(self.select(&users, &tracks))
    }

    /// Only the tracks that `keep` names, and the users who met one of them.
    pub fn retain_tracks(&self, keep: impl Fn(&TrackId) -> bool) -> Interactions {
        let tracks: Vec<bool> = self.tracks.names().iter().map(keep).collect();
        let met = |row| self.by_user.row(row).0.iter().any(|&t| tracks[t as usize]);
        let users: Vec<bool> = (0..self.users.len()).map(met).collect();
        self.select(&users, &tracks)
    }

    /// Only the pairs whose entry (a place in `by_user.indices`) `keep` names, and the users and tracks that are in one.
    pub fn retain_pairs(&self, keep: impl Fn(usize) -> bool) -> Interactions {
        let entries = |row: usize| self.by_user.indptr[row] as usize..self.by_user.indptr[row + 1] as usize;
        let mut has_user = vec![false; self.users.len()];
        let mut has_track = vec![false; self.tracks.len()];
        for (row, has_user) in has_user.iter_mut().enumerate() {
            for entry in entries(row).filter(|&entry| keep(entry)) {
                *has_user = true;
                has_track[self.by_user.indices[entry] as usize] = true;
            }
        }
        let (user_numbers, track_numbers) = (numbers_of(&has_user), numbers_of(&has_track));
        let pairs = (0..self.users.len()).flat_map(|row| {
            let (tracks, confidence, preference) = self.by_user.row(row);
            let of_row = entries(row).zip(tracks).zip(confidence.iter().zip(preference));
            let kept = of_row.filter(|((entry, _), _)| keep(*entry));
            let (user_numbers, track_numbers) = (&user_numbers, &track_numbers);
            kept.map(move |((_, &track), (&c, &p))| (user_numbers[row], track_numbers[track as usize], c, p))
        });
        let (users, tracks) = (kept(self.users.names(), &has_user), kept(self.tracks.names(), &has_track));
        let by_user = Csr::from_sorted(users.len(), tracks.len(), pairs);
        Interactions::new(users, tracks, by_user, self.config, self.now)
    }

    /// Only the pairs that `other` has, too: a matrix of some actions, under the limits (and without what is held out)
    /// of the matrix of all.
    pub fn within(&self, other: &Interactions) -> Interactions {
        let users: Vec<Option<u32>> = self.users.names().iter().map(|user| other.users.number(user)).collect();
        let tracks: Vec<Option<u32>> = self.tracks.names().iter().map(|track| other.tracks.number(track)).collect();
        let mut kept = vec![false; self.by_user.len()];
        for (row, user) in users.iter().enumerate() {
            let Some(theirs) = user.map(|user| other.by_user.row(user as usize).0) else { continue };
            for entry in self.by_user.indptr[row] as usize..self.by_user.indptr[row + 1] as usize {
                let track = tracks[self.by_user.indices[entry] as usize];
                kept[entry] = track.is_some_and(|track| theirs.binary_search(&track).is_ok());
            }
        }
        self.retain_pairs(|entry| kept[entry])
    }

    fn select(&self, users: &[bool], tracks: &[bool]) -> Interactions {
        let by_user = self.by_user.select(users, tracks);
        let (users, tracks) = (kept(self.users.names(), users), kept(self.tracks.names(), tracks));
        Interactions::new(users, tracks, by_user, self.config, self.now)
    }
}

fn kept<I: Clone + Eq + std::hash::Hash>(names: &[I], keep: &[bool]) -> Ids<I> {
    names.iter().zip(keep).filter(|(_, keep)| **keep).map(|(name, _)| name.clone()).collect()
}

/// For each of `has`, how many before it are true: its number among those that are.
fn numbers_of(has: &[bool]) -> Vec<u32> {
    let mut next = 0;
    let number = |&has: &bool| {
        next += u32::from(has);
        next - u32::from(has)
    };
    has.iter().map(number).collect()
}

/// What an event says of its user, in 96 bits, from the highest: track 32, time 32 (Unix seconds), action 3, value 29
/// (those of an `f32` without its sign and its last two bits). Their order is that of tracks, times and actions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Met {
    pub track: u32,
    pub time: u32,
    pub action: Action,
    /// To one part in four million.
    pub value: f32,
}

impl Met {
    pub fn pack(self) -> u128 {
        // Rounded; the largest number stays finite.
        let value = ((self.value.to_bits() + 2) >> 2).min(f32::MAX.to_bits() >> 2);
        u128::from(self.track) << 64
            | u128::from(self.time) << 32
            | u128::from(self.action as u32) << 29
            | u128::from(value)
    }

    /// From the lowest 96 bits.
    pub fn unpack(bits: u128) -> Met {
        let low = bits as u32;
        Met {
            track: (bits >> 64) as u32,
            time: (bits >> 32) as u32,
            action: Action::ALL[(low >> 29) as usize],
            value: f32::from_bits((low & ((1 << 29) - 1)) << 2),
        }
    }
}

#[test]
fn a_record_comes_back_from_its_bits() {
    for (i, action) in Action::ALL.into_iter().enumerate() {
        assert_eq!(action as usize, i, "the order of ALL");
        for value in [0.0, 1.0, 0.25, 1e-30, 1.0 / 3.0, 12_345.0, f32::MAX] {
            let met = Met { track: u32::MAX - 7, time: u32::MAX, action, value };
            assert!(met.pack() < 1 << 96);
            let back = Met::unpack(met.pack() | 5 << 96);
            assert!((back.value - value).abs() <= value * 2.5e-7 && back.value.is_finite(), "{value} {}", back.value);
            assert_eq!(Met { value, ..back }, met);
            assert_eq!(Met::unpack(back.pack()), back);
        }
    }
}

/// Which events count, and the time of the log's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    config: ConfidenceConfig,
    now: Option<i64>,
    newest: i64,
}

impl Gate {
    /// `now` as in [`InteractionsBuilder::new`].
    pub fn new(config: &ConfidenceConfig, now: Option<i64>) -> Result<Gate> {
        config.check()?;
        Ok(Gate { config: *config, now, newest: i64::MIN })
    }

    /// The event as it is kept, with track 0; `None` where it does nothing, whatever the settings of its action.
    ///
    /// # Errors
    /// As [`InteractionsBuilder::push`].
    pub fn take(&mut self, event: &Event) -> Result<Option<Met>> {
        if !(event.value.is_finite() && event.value >= 0.0) {
            return Err(Error::invalid("event value", "a finite number, 0 or more", event.value));
        }
        let Ok(time) = u32::try_from(event.time) else {
            let range = format!("Unix seconds, 0 to {} (in 2106)", u32::MAX);
            return Err(Error::invalid("event time", range, event.time));
        };
        if self.now.is_some_and(|now| event.time > now) {
            return Ok(None);
        }
        if event.user.is_playlist() && self.config.playlist == 0.0 {
            return Ok(None);
        }
        // An undated playlist is as old as 1970, which says nothing of the log's end.
        self.newest = self.newest.max(event.time);
        if event.value == 0.0 && matches!(event.action, Action::Play | Action::Complete | Action::Skip) {
            return Ok(None);
        }
        Ok(Some(Met { track: 0, time, action: event.action, value: event.value }))
    }

    pub fn config(&self) -> ConfidenceConfig {
        self.config
    }

    /// The Unix time from which ages are counted.
    pub fn now(&self) -> i64 {
        self.now.unwrap_or(self.newest)
    }
}

/// Takes events one at a time, in any order. Memory: 16 bytes an event up to [`EventsConfig::memory_mb`], beyond which
/// they go to a temporary file; the names; and the matrix, of 8 bytes a pair (12 where there are skips or dislikes).
pub struct InteractionsBuilder {
    gate: Gate,
    users: Ids<UserId>,
    tracks: Ids<TrackId>,
    /// The user's number above what the event says.
    events: Spill<u128>,
}

impl InteractionsBuilder {
    /// `now`: ages are counted from this Unix time in seconds, and later events left out; from the newest event where
    /// it is `None`.
    ///
    /// # Errors
    /// `Invalid` where a setting is out of range.
    pub fn new(config: &ConfidenceConfig, events: &EventsConfig, now: Option<i64>) -> Result<InteractionsBuilder> {
        let gate = Gate::new(config, now)?;
        events.check()?;
        let capacity = events.memory_mb.saturating_mul((1 << 20) / u128::BYTES);
        Ok(InteractionsBuilder {
            gate,
            users: Ids::new(),
            tracks: Ids::new(),
            events: Spill::new(capacity, &events.spill),
        })
    }

    /// # Errors
    /// `Invalid` for a value that is negative or not finite, or a time before 1970 or after 2106; reading has refused
    /// those already. `Io` where the temporary file cannot be written.
    pub fn push(&mut self, event: &Event) -> Result<()> {
        let Some(met) = self.gate.take(event)? else { return Ok(()) };
        let (user, track) = (self.users.intern(&event.user), self.tracks.intern(&event.track));
        self.events.push(u128::from(user) << 96 | Met { track, ..met }.pack())
    }

    /// The matrix of all that was pushed.
    ///
    /// # Errors
    /// `Invalid` where there was nothing, or nothing is left under the minimums.
    pub fn finish(self) -> Result<Interactions> {
        let config = self.gate.config();
        let mut matrices = self.finish_each(&[config])?;
        Ok(matrices.pop().expect("one for one configuration"))
    }

    /// A matrix for each of `configs`, instead of that for the configuration of [`InteractionsBuilder::new`], of the
    /// same events, which are kept and sorted once. Ages are counted from the same moment.
    ///
    /// # Errors
    /// `Invalid` where a setting is out of range, and where a matrix would be empty.
    pub fn finish_each(self, configs: &[ConfidenceConfig]) -> Result<Vec<Interactions>> {
        let InteractionsBuilder { gate, users, tracks, events } = self;
        let mut events = events.finish()?;
        let (users, tracks) = (users.into_names(), tracks.into_names());
        let (user_order, track_order) = (alphabetical(&users), alphabetical(&tracks));
        let mut rows =
            Rows { config: ConfidenceConfig::default(), now: gate.now(), track_places: places(&track_order) };
        let matrix = |config: &ConfidenceConfig| {
            config.check()?;
            rows.config = *config;
            rows.matrix(&mut events, (&users, &user_order), (&tracks, &track_order))
        };
        let matrices = configs.iter().map(matrix).collect::<Result<Vec<_>>>()?;
        drop(events);
        matrices.into_iter().map(Interactions::above_minimums).collect()
    }
}

pub(super) fn nothing_weighs(config: &ConfidenceConfig) -> Error {
    let expected = format!("at least one that carries weight ({})", config.weighed());
    Error::invalid("events", expected, "none")
}

pub(super) fn nobody_is_left(config: &ConfidenceConfig) -> Error {
    let settings = "confidence.min_users_per_track and confidence.min_tracks_per_user";
    let found = format!("{} and {}", config.min_users_per_track, config.min_tracks_per_user);
    Error::invalid(settings, "minimums that somebody meets", found)
}

/// The numbers of `names` in the order of the names.
pub(super) fn alphabetical<I: Ord + Sync>(names: &[I]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.par_sort_unstable_by_key(|&i| &names[i as usize]);
    order
}

/// For each number, where it stands in `order`, which holds them all.
pub(super) fn places(order: &[u32]) -> Vec<u32> {
    numbers(order, order.len())
}

/// For each of `n` numbers, where it stands in `order`; `u32::MAX` for one that is not there.
pub(super) fn numbers(order: &[u32], n: usize) -> Vec<u32> {
    let mut numbers = vec![u32::MAX; n];
    order.iter().zip(0..).for_each(|(&old, new)| numbers[old as usize] = new);
    numbers
}

/// One entry of a row to be.
pub(super) struct Pair {
    pub track: u32,
    /// `m⁺ + m⁻`
    mass: f64,
    /// Unix seconds.
    last: i64,
    pub confidence: f32,
    pub preference: f32,
}

/// What it takes to turn sorted events into rows.
pub(super) struct Rows {
    pub config: ConfidenceConfig,
    pub now: i64,
    /// For each track, its place in the alphabet, by which ties are broken.
    pub track_places: Vec<u32>,
}

impl Rows {
    /// The matrix of these events; `users` and `tracks` are names and their numbers in alphabetical order.
    fn matrix(
        &self,
        events: &mut Sorted<u128>,
        (users, user_order): (&[UserId], &[u32]),
        (tracks, track_order): (&[TrackId], &[u32]),
    ) -> Result<Interactions> {
        let of_user = |bits: u128| {
            let user = (bits >> 96) as u32;
            (user, users[user as usize].is_playlist(), Met::unpack(bits))
        };
        // First how long the rows are, then the rows themselves: so the matrix is made once, at its size.
        let mut lengths = vec![0u32; users.len()];
        let mut is_met = vec![false; tracks.len()];
        let mut all_ones = true;
        self.for_each(events, of_user, |user, row| {
            lengths[user as usize] = row.len() as u32;
            for pair in row {
                is_met[pair.track as usize] = true;
                all_ones &= pair.preference == 1.0;
            }
            Ok(())
        })?;
        let used = |order: &[u32], is_used: &dyn Fn(u32) -> bool| -> Vec<u32> {
            order.iter().copied().filter(|&i| is_used(i)).collect()
        };
        let user_order = used(user_order, &|user| lengths[user as usize] > 0);
        let track_order = used(track_order, &|track| is_met[track as usize]);
        if user_order.is_empty() {
            return Err(nothing_weighs(&self.config));
        }
        let (user_numbers, track_numbers) = (numbers(&user_order, users.len()), numbers(&track_order, tracks.len()));
        let row_lengths = user_order.iter().map(|&user| lengths[user as usize]);
        let mut by_user = Csr::with_rows(row_lengths, track_order.len(), all_ones);
        self.for_each(events, of_user, |user, row| {
            if row.is_empty() {
                return Ok(());
            }
            row.sort_unstable_by_key(|pair| track_numbers[pair.track as usize]);
            let (columns, confidence, preference) = by_user.row_mut(user_numbers[user as usize] as usize);
            for (i, pair) in row.iter().enumerate() {
                columns[i] = track_numbers[pair.track as usize];
                confidence[i] = pair.confidence;
            }
            if let Some(preference) = preference {
                preference.iter_mut().zip(row).for_each(|(p, pair)| *p = pair.preference);
            }
            Ok(())
        })?;
        Ok(Interactions::new(
            user_order.iter().map(|&i| users[i as usize].clone()).collect(),
            track_order.iter().map(|&i| tracks[i as usize].clone()).collect(),
            by_user,
            self.config,
            self.now,
        ))
    }

    /// Hands on, user by user, the pairs that carry weight, and no more of them than a user may have. `of_record`: the
    /// user, whether it is a playlist, and what the event says of it.
    pub fn for_each<R: Record, U: Copy + PartialEq>(
        &self,
        events: &mut Sorted<R>,
        of_record: impl Fn(R) -> (U, bool, Met),
        mut take: impl FnMut(U, &mut Vec<Pair>) -> Result<()>,
    ) -> Result<()> {
        let mut row = Vec::new();
        let mut current: Option<(U, u32, Evidence)> = None;
        events.for_each(|record| {
            let (next_user, is_playlist, event) = of_record(record);
            let (user, track, mut evidence) = match current.take() {
                Some(same) if (same.0, same.1) == (next_user, event.track) => same,
                other => {
                    if let Some((user, track, evidence)) = other {
                        self.weigh(track, evidence, &mut row);
                        if user != next_user {
                            self.cap(&mut row);
                            take(user, &mut row)?;
                            row.clear();
                        }
                    }
                    (next_user, event.track, Evidence::default())
                }
            };
            evidence.take(&self.config, is_playlist, event.action, event.value, event.time.into(), self.now);
            current = Some((user, track, evidence));
            Ok(())
        })?;
        if let Some((user, track, evidence)) = current {
            self.weigh(track, evidence, &mut row);
            self.cap(&mut row);
            take(user, &mut row)?;
        }
        Ok(())
    }

    fn weigh(&self, track: u32, evidence: Evidence, row: &mut Vec<Pair>) {
        let (positive, negative) = evidence.masses();
        row.extend(self.config.weigh(positive, negative).map(|(confidence, preference)| Pair {
            track,
            mass: positive + negative,
            last: evidence.last,
            confidence,
            preference,
        }));
    }

    fn cap(&self, row: &mut Vec<Pair>) {
        let most = self.config.max_tracks_per_user as usize;
        if most == 0 || row.len() <= most {
            return;
        }
        let better = |a: &Pair, b: &Pair| -> Ordering {
            let (by_mass, by_time) = (b.mass.total_cmp(&a.mass), b.last.cmp(&a.last));
            let first = match self.config.keep {
                Keep::Top => by_mass.then(by_time),
                Keep::Last => by_time.then(by_mass),
            };
            first.then_with(|| self.track_places[a.track as usize].cmp(&self.track_places[b.track as usize]))
        };
        row.select_nth_unstable_by(most - 1, better);
        row.truncate(most);
    }
}

/// The matrix of `events`; `now` as in [`InteractionsBuilder::new`].
pub fn interactions(
    events: impl Iterator<Item = Event>,
    config: &ConfidenceConfig,
    now: Option<i64>,
) -> Result<Interactions> {
    let mut builder = InteractionsBuilder::new(config, &EventsConfig::default(), now)?;
    for event in events {
        builder.push(&event)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Growth;

    const DAY: i64 = 86_400;

    fn event(day: i64, user: &str, track: &str, action: Action, value: f32) -> Event {
        Event { time: day * DAY, user: UserId::new(user).unwrap(), track: TrackId::new(track).unwrap(), action, value }
    }

    fn play(day: i64, user: &str, track: &str) -> Event {
        event(day, user, track, Action::Play, 1.0)
    }

    /// The pair's confidence and preference.
    fn pair(data: &Interactions, user: &str, track: &str) -> Option<(f32, f32)> {
        let user = data.users.number(&UserId::new(user).unwrap())?;
        let track = data.tracks.number(&TrackId::new(track).unwrap())?;
        let (tracks, confidence, preference) = data.by_user.row(user as usize);
        let at = tracks.iter().position(|&t| t == track)?;
        Some((confidence[at], preference[at]))
    }

    fn names<'a, I: AsRef<str> + Clone + Eq + std::hash::Hash + 'a>(ids: &'a Ids<I>) -> Vec<&'a str> {
        ids.names().iter().map(AsRef::as_ref).collect()
    }

    /// Everything that a matrix is.
    fn whole(data: &Interactions) -> (Vec<&str>, Vec<&str>, &Csr, &[u32], i64) {
        (names(&data.users), names(&data.tracks), &data.by_user, &data.plays, data.now)
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
            ..ConfidenceConfig::default()
        };
        let events = [
            event(84, "ann", "a", Action::Play, 1.0),  // one half-life old: 0.5
            event(168, "ann", "a", Action::Play, 0.5), // fresh, half heard: 0.5
            event(168, "ann", "b", Action::Skip, 1.0), // 0.5 against
            event(0, "bob", "a", Action::Like, 1.0),   // two half-lives: 0.5
            event(168, "bob", "a", Action::Skip, 1.0), // 0.5 against
            event(168, "bob", "b", Action::Add, 1.0),
            event(168, "bob", "c", Action::Play, 0.0), // heard nothing: says nothing
            event(160, "bob", "d", Action::Like, 1.0),
            event(168, "bob", "d", Action::Unlike, 1.0), // as if there had been nothing
        ];
        let data = interactions(events.iter().cloned(), &config, None).unwrap();
        assert_eq!(data.now, 168 * DAY);
        assert_eq!(pair(&data, "ann", "a"), Some((11.0, 1.0)));
        assert_eq!(pair(&data, "ann", "b"), Some((6.0, 0.0)));
        assert_eq!(pair(&data, "bob", "a"), Some((11.0, 0.5)));
        assert_eq!(pair(&data, "bob", "b"), Some((31.0, 1.0)));
        assert_eq!(pair(&data, "bob", "c"), None);
        assert_eq!(names(&data.tracks), ["a", "b"]);
        assert_eq!(data.plays, [2, 1]);

        let still = ConfidenceConfig { half_life_days: 0.0, ..config };
        let data = interactions(events.iter().cloned(), &still, None).unwrap();
        assert_eq!(pair(&data, "ann", "a"), Some((16.0, 1.0)));
        let later = interactions(events.iter().cloned(), &config, Some(252 * DAY)).unwrap();
        assert_eq!(pair(&later, "ann", "a"), Some((6.0, 1.0)), "all is one half-life older");
        let earlier = interactions(events.iter().cloned(), &config, Some(84 * DAY)).unwrap();
        assert_eq!(pair(&earlier, "ann", "a"), Some((11.0, 1.0)), "the second play has not happened yet");
        assert_eq!(pair(&earlier, "bob", "b"), None);
        let window = ConfidenceConfig { window_days: 30.0, ..config };
        let recent = interactions(events.into_iter(), &window, None).unwrap();
        assert_eq!(pair(&recent, "ann", "a"), Some((6.0, 1.0)));
        assert_eq!(pair(&recent, "bob", "a"), Some((6.0, 0.0)));
    }

    /// A log with every action, playlists, and repeats at the same second.
    fn log(n: u32) -> Vec<Event> {
        let events = (0..n).map(|i| {
            let mut h = i.wrapping_mul(2_654_435_761);
            h ^= h >> 15;
            let user = if h % 7 == 0 { format!("playlist:{}", h >> 29) } else { format!("u{}", h >> 27) };
            let action = Action::ALL[(h >> 3) as usize % 8];
            event(i64::from(h % 300), &user, &format!("t{}", (h >> 20) & 31), action, (h % 7) as f32 / 7.0)
        });
        events.collect()
    }

    #[test]
    fn the_same_events_in_any_order_make_the_same_matrix() {
        let mut events = log(5000);
        let config = ConfidenceConfig { max_tracks_per_user: 20, ..ConfidenceConfig::default() };
        let first = interactions(events.iter().cloned(), &config, None).unwrap();
        events.reverse();
        events.rotate_left(1234);
        let second = interactions(events.into_iter(), &config, None).unwrap();
        assert_eq!(whole(&first), whole(&second));
    }

    #[test]
    fn the_matrix_is_the_same_to_the_bit_however_little_memory_there_is() {
        let config =
            ConfidenceConfig { max_tracks_per_user: 25, min_users_per_track: 2, ..ConfidenceConfig::default() };
        let expected = interactions(log(20_000).into_iter(), &config, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for capacity in [1, 100, 6_667, 19_999, 20_000] {
            let mut builder = InteractionsBuilder::new(&config, &EventsConfig::default(), None).unwrap();
            builder.events = Spill::new(capacity, dir.path());
            log(20_000).iter().for_each(|e| builder.push(e).unwrap());
            assert_eq!(whole(&builder.finish().unwrap()), whole(&expected), "{capacity}");
        }
    }

    #[test]
    fn evidence_on_a_pair_is_what_a_plain_loop_makes_of_it() {
        let config = ConfidenceConfig { half_life_days: 30.0, ..ConfidenceConfig::default() };
        let data = interactions(log(5000).into_iter(), &config, None).unwrap();
        let mut pairs = std::collections::BTreeMap::new();
        for e in log(5000) {
            pairs.entry((e.user.to_string(), e.track.to_string())).or_insert_with(Vec::new).push(e);
        }
        let mut seen = 0;
        for ((user, track), mut events) in pairs {
            events.sort_by(|a, b| (a.time, a.action).cmp(&(b.time, b.action)).then(a.value.total_cmp(&b.value)));
            let (mut heard, mut skipped, mut mark, mut adds) = (0.0, 0.0, 0.0, Vec::new());
            for e in events {
                let listed = user.starts_with("playlist:") && e.action == Action::Add;
                let age = (data.now - e.time) as f64 / DAY as f64;
                let mass = f64::from(e.value) * (-age / 30.0).exp2();
                match e.action {
                    Action::Play | Action::Complete => heard += mass,
                    Action::Skip => skipped += mass,
                    Action::Like => mark = 2.0 * mass,
                    Action::Dislike => mark = -5.0 * mass,
                    Action::Unlike => mark = 0.0,
                    Action::Add if listed => adds.push(f64::from(e.value)),
                    Action::Add => adds.push(3.0 * mass),
                    Action::Remove => {
                        let mean = adds.iter().sum::<f64>() / adds.len() as f64;
                        adds.pop();
                        adds.iter_mut().for_each(|a| *a = mean);
                    }
                }
            }
            let positive: f64 = heard + f64::max(mark, 0.0) + adds.iter().sum::<f64>();
            let negative: f64 = skipped + f64::max(-mark, 0.0);
            match (pair(&data, &user, &track), config.weigh(positive, negative)) {
                (Some((c, p)), Some((expected, preference))) => {
                    assert!((c - expected).abs() <= 1e-5 * expected && (p - preference).abs() < 1e-5, "{user} {track}");
                    seen += 1;
                }
                (found, expected) => assert_eq!(found, expected, "{user} {track}"),
            }
        }
        assert!(seen > 900 && seen == data.by_user.len(), "{seen}");
    }

    #[test]
    fn one_reading_makes_many_matrices_each_as_if_alone() {
        let all = ConfidenceConfig { min_users_per_track: 2, ..ConfidenceConfig::default() };
        let configs = [
            all,
            ConfidenceConfig { like: 0.0, dislike: 0.0, ..all },
            ConfidenceConfig { play: 0.0, complete: 0.0, skip: 0.0, add: 0.0, playlist: 0.0, ..all },
            ConfidenceConfig { half_life_days: 7.0, max_tracks_per_user: 5, ..all },
        ];
        let dir = tempfile::tempdir().unwrap();
        for capacity in [700, 5000] {
            let mut builder = InteractionsBuilder::new(&all, &EventsConfig::default(), None).unwrap();
            builder.events = Spill::new(capacity, dir.path());
            log(5000).iter().for_each(|e| builder.push(e).unwrap());
            let together = builder.finish_each(&configs).unwrap();
            assert_eq!(together.len(), configs.len());
            for (config, found) in configs.iter().zip(&together) {
                let alone = interactions(log(5000).into_iter(), config, None).unwrap();
                assert_eq!(whole(found), whole(&alone), "{config:?}");
                assert_eq!(&found.config, config);
            }
        }
        let mut builder = InteractionsBuilder::new(&all, &EventsConfig::default(), None).unwrap();
        builder.push(&play(1, "u", "t")).unwrap();
        let likes = ConfidenceConfig { min_users_per_track: 0, ..configs[2] };
        let message = builder.finish_each(&[likes]).unwrap_err().to_string();
        assert!(message.contains("carries weight (like, dislike)"), "{message}");
    }

    #[test]
    fn a_matrix_within_another_has_the_pairs_that_are_in_both_as_they_were() {
        let config = ConfidenceConfig::default();
        let mut events = log(3000);
        let part =
            interactions(events.clone().into_iter().filter(|e| e.action == Action::Play), &config, None).unwrap();
        events.retain(|e| !e.track.as_str().ends_with('7') && !e.user.as_str().ends_with('3'));
        let other = ConfidenceConfig { max_tracks_per_user: 9, ..config };
        let other = interactions(events.into_iter(), &other, None).unwrap();
        let within = part.within(&other);
        let mut seen = 0;
        for user in part.users.names() {
            for track in part.tracks.names() {
                let (user, track) = (user.as_str(), track.as_str());
                let expected = pair(&part, user, track).filter(|_| pair(&other, user, track).is_some());
                assert_eq!(pair(&within, user, track), expected, "{user} {track}");
                seen += usize::from(expected.is_some());
            }
        }
        assert!(seen == within.by_user.len() && (50..part.by_user.len()).contains(&seen), "{seen}");
        assert!(within.users.names().is_sorted() && within.tracks.names().is_sorted());
        let listeners = |t: usize| {
            let of = |user: &UserId| {
                !user.is_playlist() && pair(&within, user.as_str(), within.tracks.names()[t].as_str()).is_some()
            };
            within.users.names().iter().filter(|user| of(user)).count() as u32
        };
        assert!((0..within.tracks.len()).all(|t| within.plays[t] == listeners(t)));
        assert_eq!(whole(&part.within(&part)), whole(&part));
    }

    #[test]
    fn one_user_and_one_song_are_a_matrix_and_nothing_is_an_error() {
        let config = ConfidenceConfig::default();
        let of = |event: Event| interactions([event].into_iter(), &config, None);
        let data = of(play(1, "u", "t")).unwrap();
        assert_eq!((data.users.len(), data.tracks.len(), data.by_user.len()), (1, 1, 1));
        assert!(interactions(std::iter::empty(), &config, None).is_err());
        assert!(of(event(1, "u", "t", Action::Play, 0.0)).is_err());
        assert!(of(event(1, "u", "t", Action::Unlike, 1.0)).is_err());
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            assert!(of(event(1, "u", "t", Action::Play, value)).unwrap_err().to_string().contains("value"));
        }
        for time in [-1, i64::MIN, i64::MAX, 1 << 32] {
            let message = of(Event { time, ..play(1, "u", "t") }).unwrap_err().to_string();
            assert!(message.contains("time") && message.contains("2106"), "{message}");
        }
        let huge = of(event(1, "u", "t", Action::Play, f32::MAX)).unwrap();
        assert_eq!(pair(&huge, "u", "t"), Some((1e12, 1.0)));
    }

    #[test]
    fn a_log_that_came_twice_is_twice_the_plays_and_no_other_mark() {
        let config = ConfidenceConfig { alpha: 1.0, half_life_days: 0.0, ..ConfidenceConfig::default() };
        let once = [play(1, "u", "a"), event(1, "u", "a", Action::Like, 1.0), event(1, "u", "b", Action::Dislike, 1.0)];
        let twice = once.iter().chain(&once).cloned();
        let (once, twice) = (interactions(once.clone().into_iter(), &config, None), interactions(twice, &config, None));
        let (once, twice) = (once.unwrap(), twice.unwrap());
        assert_eq!((pair(&once, "u", "a"), pair(&twice, "u", "a")), (Some((4.0, 1.0)), Some((5.0, 1.0))));
        assert_eq!((pair(&once, "u", "b"), pair(&twice, "u", "b")), (Some((6.0, 0.0)), Some((6.0, 0.0))));
        assert_eq!(once.plays, [1, 0], "a song that was only disliked has no listener");
    }

    #[test]
    fn retaining_tracks_drops_the_listeners_who_met_no_other() {
        let events =
            [play(1, "ann", "a"), play(1, "bob", "b"), event(1, "cem", "a", Action::Skip, 1.0), play(1, "cem", "b")];
        let data = interactions(events.into_iter(), &ConfidenceConfig::default(), None).unwrap();
        let only_b = data.retain_tracks(|t| t.as_str() == "b");
        assert_eq!(names(&only_b.users), ["bob", "cem"]);
        assert_eq!((only_b.tracks.len(), only_b.plays.as_slice()), (1, &[2][..]));
        assert_eq!(only_b.by_user.confidence, [41.0, 41.0]);
        let expected = Csr::from_sorted(2, 1, [(0, 0, 41.0, 1.0), (1, 0, 41.0, 1.0)].into_iter());
        assert_eq!(only_b.by_user, expected, "all ones, once the skip is gone");
    }

    #[test]
    fn a_user_keeps_the_tracks_of_most_evidence_or_the_last_ones() {
        let events = || {
            [
                play(1, "u", "often"),
                play(2, "u", "often"),
                play(3, "u", "often"),
                event(4, "u", "hated", Action::Dislike, 1.0),
                play(5, "u", "b"),
                play(5, "u", "a"),
                play(6, "u", "newest"),
                play(1, "v", "often"),
            ]
        };
        let with = |most, keep| {
            let config = ConfidenceConfig {
                max_tracks_per_user: most,
                keep,
                half_life_days: 0.0,
                ..ConfidenceConfig::default()
            };
            interactions(events().into_iter(), &config, None).unwrap()
        };
        assert_eq!(names(&with(2, Keep::Top).tracks), ["hated", "often"]);
        assert_eq!(names(&with(2, Keep::Last).tracks), ["a", "newest", "often"], "often is v's; a before b in a tie");
        assert_eq!(with(2, Keep::Last).by_user.row_len(0), 2);
        assert_eq!(with(0, Keep::Last).by_user.len(), 6);
        assert_eq!(with(9, Keep::Top).by_user.len(), 6);
    }

    #[test]
    fn minimums_hold_for_what_is_left() {
        // c is met by two users, one of whom then has only one track: so c falls below, too.
        let events = || {
            [
                play(1, "x", "a"),
                play(1, "x", "b"),
                play(1, "y", "a"),
                play(1, "y", "b"),
                play(1, "y", "c"),
                play(1, "z", "c"),
                play(1, "z", "d"),
            ]
        };
        let with = |users, tracks| {
            let config = ConfidenceConfig {
                min_users_per_track: users,
                min_tracks_per_user: tracks,
                ..ConfidenceConfig::default()
            };
            interactions(events().into_iter(), &config, None)
        };
        let data = with(2, 2).unwrap();
        assert_eq!((names(&data.users), names(&data.tracks)), (vec!["x", "y"], vec!["a", "b"]));
        assert_eq!((data.by_user.len(), data.plays), (4, vec![2, 2]));
        assert_eq!(with(1, 1).unwrap().by_user.len(), 7);
        assert_eq!(names(&with(0, 3).unwrap().users), ["y"]);
        let message = with(3, 2).unwrap_err().to_string();
        assert!(message.contains("min_users_per_track") && message.contains("3 and 2"), "{message}");
    }

    #[test]
    fn playlists_are_users_that_are_no_listeners_and_do_not_age() {
        let list = |track, action| Event {
            user: UserId::of_playlist("🏖 beach").unwrap(),
            ..event(0, "-", track, action, 1.0)
        };
        let events = || {
            [
                list("a", Action::Add),
                list("b", Action::Add),
                list("b", Action::Remove),
                list("c", Action::Add),
                play(500, "ann", "a"),
            ]
        };
        let config = ConfidenceConfig { playlist: 2.0, alpha: 1.0, ..ConfidenceConfig::default() };
        let data = interactions(events().into_iter(), &config, None).unwrap();
        assert_eq!(names(&data.users), ["ann", "playlist:🏖 beach"]);
        assert_eq!(names(&data.tracks), ["a", "c"]);
        assert_eq!(pair(&data, "playlist:🏖 beach", "c"), Some((3.0, 1.0)));
        assert_eq!(data.plays, [1, 0]);
        let without = ConfidenceConfig { playlist: 0.0, ..config };
        assert_eq!(names(&interactions(events().into_iter(), &without, None).unwrap().tracks), ["a"]);
    }
}
