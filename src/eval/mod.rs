//! How good is it, and how would we know: splits, metrics, and two evaluations: of factors, by what listeners meet next
//! ([`RankingTask`]), and of predicted vectors, on tracks that are new to everyone ([`ColdStart`], and the page about it,
//! [`report`]).

mod bootstrap;
mod cold_start;
mod handover_path;
pub mod metrics;
mod ranking;
mod reliability;
pub mod report;
mod splits;
mod study;
mod track_splits;

pub use cold_start::{Answer, ColdStart, ColdStartScores, MAP_LENGTH, cold_start};
pub use handover_path::{PathPoint, PathSettings, handover_path};
pub use metrics::MeanSe;
pub use ranking::{ListScores, ListenerScores, RankingScores, RankingTask};
pub use reliability::{Bin, Reliability, reliability};
pub use splits::{GlobalCut, MIN_HISTORY, UserCuts, hold_out_pairs};
pub use study::{CURVE, Metrics, Study, StudySettings};
pub use track_splits::{Candidate, Part, SplitConfig, TrackSplit};

use crate::error::{Error, Result};
use crate::events::Interactions;
use crate::ids::TrackId;

/// A pair counts as a success where it was more played than skipped.
const POSITIVE: f32 = 0.5;

/// Where in 0..1 an id falls, evenly and the same on every machine: a track below 0.2 is in the held-out fifth, and
/// stays there however much the catalogue grows.
pub fn split(id: &impl AsRef<str>, seed: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(id.as_ref().as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_split_is_even_fixed_and_another_for_another_seed() {
    let below = |seed, cut| {
        let ids = (0..10_000).map(|i| TrackId::new(format!("track {i}")).unwrap());
        ids.filter(|id| split(id, seed) < cut).map(String::from).collect::<Vec<_>>()
    };
    let fifth = below(1, 0.2);
    assert!((1880..2120).contains(&fifth.len()), "{}", fifth.len()); // 2000 ± 3 × 40
    let both = below(2, 0.2).iter().filter(|id| fifth.contains(id)).count();
    assert!((340..460).contains(&both), "{both}"); // 400 ± 3 × 20
    assert_eq!(fifth[..3], below(1, 0.2)[..3]);
    assert_eq!(split(&"track 0", 1), split(&TrackId::new("track 0").unwrap(), 1));
}

/// Events in two: those to fit on, and those to be predicted.
pub struct HoldOut {
    pub train: Interactions,
    pub held_out: Interactions,
}

/// Which tracks [`hold_out`] holds out: those that [`split`] puts below `fraction`.
///
/// # Errors
/// `Invalid` where the fraction is not between 0 and 1.
pub fn held_out(fraction: f64, seed: u64) -> Result<impl Fn(&TrackId) -> bool> {
    if fraction > 0.0 && fraction < 1.0 {
        Ok(move |track: &TrackId| split(track, seed) < fraction)
    } else {
        Err(Error::invalid("hold-out fraction", "more than 0 and less than 1", fraction))
    }
}

/// Holds out the tracks that [`split`] puts below `fraction`.
///
/// # Errors
/// `Invalid` where the fraction is not between 0 and 1, or leaves nothing on one side.
pub fn hold_out(data: &Interactions, fraction: f64, seed: u64) -> Result<HoldOut> {
    let is_held_out = held_out(fraction, seed)?;
    let parts = HoldOut { train: data.retain_tracks(|t| !is_held_out(t)), held_out: data.retain_tracks(is_held_out) };
    if parts.train.tracks.is_empty() || parts.held_out.tracks.is_empty() {
        let found = format!("{} of {} tracks held out", parts.held_out.tracks.len(), data.tracks.len());
        return Err(Error::invalid("hold-out fraction", "tracks on both sides", found));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use ndarray::Axis;

    use super::*;
    use crate::events::{Action, ConfidenceConfig, Event, interactions};
    use crate::factors::{AlsConfig, fit};
    use crate::ids::UserId;

    /// Listeners and tracks of four tastes; nine in ten plays are of one's own.
    fn tastes() -> Interactions {
        let events = (0..30_000u32).map(|i| {
            let h = i.wrapping_mul(2_654_435_761) ^ (i << 7).wrapping_mul(40_503);
            let (user, any) = (h % 600, (h >> 10) % 200);
            let track = if (h >> 20) % 10 == 0 { any } else { any / 4 * 4 + user % 4 };
            Event {
                time: 1_000_000,
                user: UserId::new(format!("user {user}")).unwrap(),
                track: TrackId::new(format!("track {track}")).unwrap(),
                action: Action::Play,
                value: 1.0,
            }
        });
        interactions(events, &ConfidenceConfig::default(), None).unwrap()
    }

    #[test]
    fn the_ceiling_knows_tastes_that_chance_and_popularity_do_not() {
        let parts = hold_out(&tastes(), 0.25, 1).unwrap();
        let config = AlsConfig { dimensions: 8, ..AlsConfig::default() };
        let factors = fit(&parts.train, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let task = ColdStart::new(&factors, &parts.held_out, 1).unwrap();
        let held = task.tracks.len();
        assert!((30..70).contains(&held) && held + factors.tracks.len() == 200);
        assert!((230..370).contains(&task.users.len()), "half the listeners: {}", task.users.len());

        let ceiling = task.ceiling(&factors).unwrap();
        let best = task.score_vectors(&factors, ceiling.view(), 10).unwrap();
        let popular = task.score_alike(&task.revealed_plays(), 10).unwrap();
        let chance = task.score_chance(10).unwrap();
        assert!((chance.auc.mean - 0.5).abs() < 1e-12 && popular.auc.mean < 0.6, "{chance:?} {popular:?}");
        assert!(best.auc.mean > 0.85 && best.ndcg.mean > 2.0 * popular.ndcg.mean, "{best:?} {popular:?}");

        // Shuffled vectors know nothing: the score is the vectors', not the protocol's.
        let order: Vec<usize> = (0..held).map(|i| (i + held / 2) % held).collect();
        let shuffled = task.score_vectors(&factors, ceiling.select(Axis(0), &order).view(), 10).unwrap();
        assert!((shuffled.auc.mean - 0.5).abs() < 0.1, "{shuffled:?}");
    }

    #[test]
    fn no_revealed_listener_is_scored_and_no_held_out_track_was_fitted() {
        let data = tastes();
        let parts = hold_out(&data, 0.25, 1).unwrap();
        let config = AlsConfig { dimensions: 2, iterations: 1, ..AlsConfig::default() };
        let factors = fit(&parts.train, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let task = ColdStart::new(&factors, &parts.held_out, 1).unwrap();
        assert!(task.revealed.indices.iter().all(|user| !task.users.contains(user)));
        let leaky = fit(&data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(ColdStart::new(&leaky, &parts.held_out, 1).is_err());
        assert!(hold_out(&data, 0.0, 1).is_err() && hold_out(&data, f64::NAN, 1).is_err());
    }
}
