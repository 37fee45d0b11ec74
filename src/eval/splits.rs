//! Which events a method may learn from, and which it must then predict.
//!
//! Three splits, the honest one first:
//!
//! - *temporal*: one moment for everyone ([`GlobalCut`]). What came before is learned from, what comes after predicted,
//!   as in service. Listeners and tracks that appear only afterwards are nobody's to rank.
//! - *temporal per user* ([`UserCuts`]): the latest share of each listener's events. Everyone is tested, but the method
//!   learns from what others did later.
//! - *random per user* ([`hold_out_pairs`]): a share of each listener's tracks. For logs without times, and to compare
//!   with papers: it overstates what a service will see (on MovieLens 100K, NDCG@10 .447 for a temporal .195).
//!
//! A listener with fewer than [`MIN_HISTORY`] events (tracks, in the random split) is learned from only.

use std::collections::{BTreeMap, HashMap};

use super::{HoldOut, split};
use crate::error::{Error, Result};
use crate::events::{Event, Interactions};
use crate::ids::UserId;

/// Of a shorter history nothing is taken away: one would test on what is left of a listener, not on a listener.
pub const MIN_HISTORY: usize = 5;

fn check_share(share: f64) -> Result<()> {
    if share > 0.0 && share < 1.0 {
        Ok(())
    } else {
        Err(Error::invalid("test share", "more than 0 and less than 1", share))
    }
}

/// Finds the moment that leaves the latest share of all events to be predicted. Memory grows with the hours that the
/// log spans, not with its events.
#[derive(Clone, Debug, Default)]
pub struct GlobalCut {
    /// Events by the hour of their time, in hours since 1970.
    hours: BTreeMap<i64, u64>,
}

impl GlobalCut {
    pub fn push(&mut self, event: &Event) {
        *self.hours.entry(event.time.div_euclid(3600)).or_default() += 1;
    }

    /// The Unix time, in seconds, from which events are to be predicted: the first full hour (UTC) after which lies no
    /// more than `share` of them; the last hour of the log where that alone is more.
    ///
    /// # Errors
    /// `Invalid` for a share that is not between 0 and 1, and for a log of a single hour: it has no before and after.
    pub fn at(&self, share: f64) -> Result<i64> {
        check_share(share)?;
        if self.hours.len() < 2 {
            return Err(Error::invalid("events for a temporal split", "times of more than one hour", self.hours.len()));
        }
        let most = share * self.hours.values().sum::<u64>() as f64;
        let mut cut = None;
        let mut later = 0;
        // The first hour is never cut off: something must be learned from.
        for (hour, events) in self.hours.iter().skip(1).rev() {
            later += events;
            if cut.is_some() && later as f64 > most {
                break;
            }
            cut = Some(*hour);
        }
        Ok(cut.expect("at least one hour after the first") * 3600)
    }
}

/// For each listener, the moment from which his events are to be predicted. Memory grows with the number of events, by
/// 8 bytes each.
#[derive(Clone, Debug, Default)]
pub struct UserCuts {
    times: HashMap<UserId, Vec<i64>>,
}

impl UserCuts {
    pub fn push(&mut self, event: &Event) {
        match self.times.get_mut(&event.user) {
            Some(times) => times.push(event.time),
            None => {
                self.times.insert(event.user.clone(), vec![event.time]);
            }
        }
    }

    /// The cuts that leave to each listener's future the latest `share` of his events, rounded, at least one, and with
    /// them all that happened in the same second as the earliest of these. Listeners with a short history, or with all
    /// events in that second, have no cut.
    ///
    /// # Errors
    /// `Invalid` for a share that is not between 0 and 1, and where nobody has a cut.
    pub fn at(self, share: f64) -> Result<HashMap<UserId, i64>> {
        check_share(share)?;
        let cut = |(user, mut times): (UserId, Vec<i64>)| {
            times.sort_unstable();
            let test = ((share * times.len() as f64).round() as usize).max(1);
            let cut = times[times.len() - test.min(times.len())];
            (times.len() >= MIN_HISTORY && cut > times[0]).then_some((user, cut))
        };
        let cuts: HashMap<UserId, i64> = self.times.into_iter().filter_map(cut).collect();
        if cuts.is_empty() {
            let expected = format!("a listener with {MIN_HISTORY} events at more than one time");
            return Err(Error::invalid("events for a temporal split", expected, "none"));
        }
        Ok(cuts)
    }
}

/// Holds out a share (rounded, at least one) of each listener's tracks, chosen by a hash of both names: the same
/// pairs whatever the order of the events.
///
/// # Errors
/// `Invalid` for a share that is not between 0 and 1, and where every history is too short.
pub fn hold_out_pairs(data: &Interactions, share: f64, seed: u64) -> Result<HoldOut> {
    check_share(share)?;
    let mut held_out = vec![false; data.by_user.len()];
    let mut order: Vec<(f64, usize)> = Vec::new();
    for (row, user) in data.users.names().iter().enumerate() {
        let first = data.by_user.indptr[row] as usize;
        let tracks = data.by_user.row(row).0;
        if tracks.len() < MIN_HISTORY {
            continue;
        }
        order.clear();
        // No id holds a line break, so no two pairs are joined alike.
        let place = |track: u32| split(&format!("{user}\n{}", data.tracks.names()[track as usize]), seed);
        order.extend(tracks.iter().enumerate().map(|(i, &track)| (place(track), first + i)));
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // Of 5 and more, a share below 1 that is rounded to all still leaves one.
        let test = ((share * tracks.len() as f64).round() as usize).clamp(1, tracks.len() - 1);
        order[..test].iter().for_each(|&(_, entry)| held_out[entry] = true);
    }
    if held_out.iter().all(|h| !h) {
        return Err(Error::invalid(
            "events for a random split",
            format!("a listener with {MIN_HISTORY} tracks"),
            "none",
        ));
    }
    Ok(HoldOut { train: data.retain_pairs(|i| !held_out[i]), held_out: data.retain_pairs(|i| held_out[i]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Action, ConfidenceConfig, interactions};
    use crate::ids::TrackId;

    fn event(time: i64, user: &str, track: &str) -> Event {
        let (user, track) = (UserId::new(user).unwrap(), TrackId::new(track).unwrap());
        Event { time, user, track, action: Action::Play, value: 1.0 }
    }

    #[test]
    fn a_global_cut_falls_on_the_hour_that_leaves_no_more_than_the_share() {
        let mut cut = GlobalCut::default();
        assert!(cut.at(0.5).is_err(), "no event");
        (0..10).for_each(|hour| cut.push(&event(hour * 3600 + 59 * 60, "u", "t")));
        assert_eq!(cut.at(0.3).unwrap(), 7 * 3600);
        assert_eq!(cut.at(0.39).unwrap(), 7 * 3600);
        assert_eq!(cut.at(0.01).unwrap(), 9 * 3600, "the last hour alone is more, and is taken");
        assert_eq!(cut.at(0.99).unwrap(), 3600, "the first hour is always learned from");
        for share in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(cut.at(share).is_err());
        }
        let mut same = GlobalCut::default();
        (0..9).for_each(|_| same.push(&event(7, "u", "t")));
        assert!(same.at(0.2).unwrap_err().to_string().contains("more than one hour"));
    }

    #[test]
    fn each_listener_has_a_cut_of_his_own() {
        let mut cuts = UserCuts::default();
        (0..10).for_each(|i| cuts.push(&event(100 - i, "ten", "t")));
        (0..4).for_each(|i| cuts.push(&event(i, "short", "t")));
        (0..9).for_each(|_| cuts.push(&event(7, "at once", "t")));
        [1, 2, 9, 9, 9].iter().for_each(|&time| cuts.push(&event(time, "tied", "t")));
        let found = cuts.clone().at(0.2).unwrap();
        let of = |name: &str| found.get(&UserId::new(name).unwrap()).copied();
        assert_eq!((of("ten"), of("short"), of("at once"), of("tied")), (Some(99), None, None, Some(9)));
        assert!(cuts.at(0.0).is_err() && UserCuts::default().at(0.5).is_err());
    }

    fn grid(users: u32, tracks: impl Fn(u32) -> u32) -> Interactions {
        let events = (0..users).flat_map(|u| (0..tracks(u)).map(move |t| (u, t)));
        let events = events.map(|(u, t)| event(0, &format!("u{u}"), &format!("t{t}")));
        interactions(events, &ConfidenceConfig::default(), None).unwrap()
    }

    #[test]
    fn a_random_split_takes_the_share_of_everyone_and_loses_nothing() {
        let data = grid(50, |u| 2 + u);
        let parts = hold_out_pairs(&data, 0.25, 1).unwrap();
        assert_eq!(parts.train.by_user.len() + parts.held_out.by_user.len(), data.by_user.len());
        for (row, user) in data.users.names().iter().enumerate() {
            let all = data.by_user.row_len(row);
            let of = |part: &Interactions| part.users.number(user).map_or(0, |r| part.by_user.row_len(r as usize));
            let expected = if all < MIN_HISTORY { 0 } else { (all as f64 / 4.0).round().max(1.0) as usize };
            assert_eq!((of(&parts.held_out), of(&parts.train)), (expected, all - expected), "{user} of {all}");
        }
        // Names, numbers and counts agree with those of the pairs that are in a part.
        for part in [&parts.train, &parts.held_out] {
            let mut plays = vec![0; part.tracks.len()];
            for (row, user) in part.users.names().iter().enumerate() {
                for &track in part.by_user.row(row).0 {
                    plays[track as usize] += 1;
                    let name = &part.tracks.names()[track as usize];
                    let known = data.by_user.row(data.users.number(user).unwrap() as usize).0;
                    assert!(known.contains(&data.tracks.number(name).unwrap()));
                }
            }
            assert_eq!(plays, part.plays);
            assert!(part.tracks.names().is_sorted() && part.users.names().is_sorted());
        }
        let again = hold_out_pairs(&data, 0.25, 1).unwrap();
        assert_eq!(again.train.by_user, parts.train.by_user);
        assert_ne!(hold_out_pairs(&data, 0.25, 2).unwrap().train.by_user, parts.train.by_user);
        assert!(hold_out_pairs(&grid(5, |_| 4), 0.25, 1).is_err(), "all too short");
        assert!(hold_out_pairs(&data, 1.0, 1).is_err());
    }
}
