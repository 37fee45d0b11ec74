//! How sure we are of a pair of listener and track (confidence), and of what (preference).
//!
//! With the weight `w` of each action and the half-life `H`, the sums over the events of a pair:
//!
//! ```text
//! m⁺ = Σ_{plays, completes} w·value·2^(−age/H) + like + adds       m⁻ = Σ_{skips} w·value·2^(−age/H) + dislike
//! confidence c = 1 + α·g(m⁺ + m⁻)                                  preference p = m⁺ / (m⁺ + m⁻)
//! ```
//!
//! Plays, completes and skips add up. *Like, dislike and unlike* set one mark, as the buttons do: the newest decides, and
//! its own age counts; a like that was given twice is one like, an unlike leaves no trace. *Adds* add up, since a track
//! may be on many playlists, and a remove takes back one of those before it: as nobody says which, the mean of them.
//! What was taken back is no evidence against.
//!
//! Hu, Koren & Volinsky 2008 have `c = 1 + αr` and `p = 1` for whatever was consumed; evidence against is what they
//! lack. A pair that was only skipped is a *confident zero* (`p = 0`), which in our simulation served better than
//! subtracting.
//!
//! A *playlist* is a user of its own ([`crate::ids::UserId::of_playlist`]) whose adds weigh `playlist` and never age:
//! what goes together goes together next year, too.

use serde::{Deserialize, Serialize};

use super::Action;
use crate::error::{Error, Result};

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
    /// The weight of hearing a track to the end: 1, as a play. In a log that has a `play` when a track starts and a
    /// `complete` when it ends, `play` wants to be lower.
    pub complete: f32,
    /// The weight of a like: 2. A deliberate act says more than a play; 2 to 4 were alike on real logs.
    pub like: f32,
    /// The weight of an add to a playlist: 3, since it announces more plays.
    pub add: f32,
    /// The weight of a skip at the first second, as evidence *against*: 1.
    pub skip: f32,
    /// The weight of a dislike, as evidence *against*: 5, so that it outweighs the like or the few plays before it.
    pub dislike: f32,
    /// The weight of a track on a playlist that is a user of its own: 1, as a play. 0 leaves playlists out.
    pub playlist: f32,
    /// After so many days an event weighs half; 0 for no decay. 56 to 112 served in a simulation of daily listening, with
    /// and without drift of taste, hence 84. On real logs of rarer events no half-life was better than none
    /// (`benches/README.md`): it wants to be long against the pauses between a listener's visits, and 0 where these
    /// are months.
    pub half_life_days: f32,
    /// Events older than so many days are left out; 0 for none, the default. It bounds the work, as `max_tracks_per_user`
    /// does, and serves nothing else: in a simulation a window of 28 days lost a quarter of the NDCG that a half-life of
    /// 56 found; on real logs 28 and 90 days lost more than any half-life.
    pub window_days: f32,
    /// Of each user only so many tracks; 0 for all, the default. 1000 keeps robots and shop loudspeakers from being most
    /// of the data.
    pub max_tracks_per_user: u32,
    /// Which tracks those are.
    pub keep: Keep,
    /// Tracks that fewer users met are left out; and so on until nothing changes, as users fall below their minimum,
    /// too. 0 for none, the default: what a track's few listeners say is worth more than nothing, and the hand-over
    /// weighs it.
    pub min_users_per_track: u32,
    /// Users who met fewer tracks are left out; 0 for none, the default.
    pub min_tracks_per_user: u32,
}

impl Default for ConfidenceConfig {
    fn default() -> ConfidenceConfig {
        ConfidenceConfig {
            alpha: 40.0,
            growth: Growth::Linear,
            play: 1.0,
            complete: 1.0,
            like: 2.0,
            add: 3.0,
            skip: 1.0,
            dislike: 5.0,
            playlist: 1.0,
            half_life_days: 84.0,
            window_days: 0.0,
            max_tracks_per_user: 0,
            keep: Keep::Top,
            min_users_per_track: 0,
            min_tracks_per_user: 0,
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

/// Which of a user's tracks are kept where there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of most evidence, for or against: the same as the last ones where the half-life is short.
    Top,
    /// Those met last.
    Last,
}

impl ConfidenceConfig {
    /// The same without window, caps and minimums: for what is held out, of which nothing must be missing.
    pub fn without_limits(&self) -> ConfidenceConfig {
        ConfidenceConfig {
            window_days: 0.0,
            max_tracks_per_user: 0,
            min_users_per_track: 0,
            min_tracks_per_user: 0,
            ..*self
        }
    }

    /// # Errors
    /// `Invalid` for a setting that is negative or not a number.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("alpha", self.alpha),
            ("play", self.play),
            ("complete", self.complete),
            ("like", self.like),
            ("add", self.add),
            ("skip", self.skip),
            ("dislike", self.dislike),
            ("playlist", self.playlist),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(format!("confidence.{name}"), "a finite number, 0 or more", value));
            }
        }
        for (name, days) in [("half_life_days", self.half_life_days), ("window_days", self.window_days)] {
            if days.is_nan() || days < 0.0 {
                return Err(Error::invalid(format!("confidence.{name}"), "days, or 0 for none", days));
            }
        }
        Ok(())
    }

    /// The settings of the actions that count as evidence.
    pub(super) fn weighed(&self) -> String {
        let weights = [
            ("play", self.play),
            ("complete", self.complete),
            ("like", self.like),
            ("add", self.add),
            ("skip", self.skip),
            ("dislike", self.dislike),
            ("playlist", self.playlist),
        ];
        weights.iter().filter(|(_, weight)| *weight > 0.0).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// What a whole action weighs; those that take another back weigh nothing.
    fn weight(&self, action: Action) -> f32 {
        match action {
            Action::Play => self.play,
            Action::Complete => self.complete,
            Action::Skip => self.skip,
            Action::Like => self.like,
            Action::Dislike => self.dislike,
            Action::Add => self.add,
            Action::Unlike | Action::Remove => 0.0,
        }
    }

    /// What is left of an event after `seconds`; 0 beyond the window.
    fn decay(&self, seconds: i64) -> f64 {
        let (half_life, window) = (f64::from(self.half_life_days) * DAY, f64::from(self.window_days) * DAY);
        if window > 0.0 && seconds as f64 > window {
            0.0
        } else if half_life > 0.0 {
            (-(seconds as f64) / half_life).exp2()
        } else {
            1.0
        }
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

/// In seconds.
const DAY: f64 = 86_400.0;

/// Evidence on one pair, taken event by event in the order of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Plays and completes.
    heard: f64,
    skipped: f64,
    /// The mark that stands: above 0 a like, below 0 a dislike.
    mark: f64,
    added: f64,
    adds: u64,
    /// The Unix time, in seconds, of the last event that counts.
    pub last: i64,
}

impl Evidence {
    /// `is_playlist`: whether the user is one.
    pub(super) fn take(
        &mut self,
        config: &ConfidenceConfig,
        is_playlist: bool,
        action: Action,
        value: f32,
        time: i64,
        now: i64,
    ) {
        let (weight, left) = match (is_playlist, action) {
            (true, Action::Add) => (config.playlist, 1.0),
            (true, Action::Remove) => (0.0, 1.0),
            _ => (config.weight(action), config.decay(now.saturating_sub(time))),
        };
        if left == 0.0 {
            return;
        }
        let mass = f64::from(weight) * f64::from(value) * left;
        match action {
            Action::Play | Action::Complete => self.heard += mass,
            Action::Skip => self.skipped += mass,
            Action::Like => self.mark = mass,
            Action::Dislike => self.mark = -mass,
            Action::Unlike => self.mark = 0.0,
            Action::Add => {
                self.added += mass;
                self.adds += 1;
            }
            Action::Remove if self.adds > 0 => {
                self.added *= (self.adds - 1) as f64 / self.adds as f64;
                self.adds -= 1;
            }
            // Of an add that was before the log began.
            Action::Remove => {}
        }
        if mass > 0.0 {
            self.last = time;
        }
    }

    /// `(m⁺, m⁻)`
    pub(super) fn masses(&self) -> (f64, f64) {
        (self.heard + self.mark.max(0.0) + self.added, self.skipped + (-self.mark).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(m⁺, m⁻)` of actions a day apart, the last of them now, without decay.
    fn masses(actions: &[Action]) -> (f64, f64) {
        let config = ConfidenceConfig { half_life_days: 0.0, ..ConfidenceConfig::default() };
        let mut evidence = Evidence::default();
        for (day, &action) in actions.iter().enumerate() {
            evidence.take(&config, false, action, 1.0, day as i64 * 86_400, actions.len() as i64 * 86_400);
        }
        evidence.masses()
    }

    #[test]
    fn what_was_taken_back_leaves_no_trace() {
        use Action::{Add, Complete, Dislike, Like, Play, Remove, Skip, Unlike};
        for (actions, expected) in [
            (&[Play, Play, Complete, Skip][..], (3.0, 1.0)),
            (&[Like], (2.0, 0.0)),
            (&[Like, Like], (2.0, 0.0)),
            (&[Like, Unlike], (0.0, 0.0)),
            (&[Unlike, Like], (2.0, 0.0)),
            (&[Like, Unlike, Unlike, Like], (2.0, 0.0)),
            (&[Like, Dislike], (0.0, 5.0)),
            (&[Dislike, Like], (2.0, 0.0)),
            (&[Play, Dislike, Unlike], (1.0, 0.0)),
            (&[Add, Add, Remove], (3.0, 0.0)),
            (&[Remove, Add], (3.0, 0.0)),
            (&[Add, Remove, Remove, Remove], (0.0, 0.0)),
            (&[Add, Remove, Add, Like, Unlike], (3.0, 0.0)),
        ] {
            assert_eq!(masses(actions), expected, "{actions:?}");
        }
    }

    #[test]
    fn a_mark_is_as_old_as_itself_and_the_window_ends_what_is_older() {
        let config = ConfidenceConfig { half_life_days: 10.0, window_days: 20.0, ..ConfidenceConfig::default() };
        let of = |events: &[(i64, Action)], is_playlist| {
            let mut evidence = Evidence::default();
            for &(day, action) in events {
                evidence.take(&config, is_playlist, action, 1.0, day * 86_400, 30 * 86_400);
            }
            evidence.masses()
        };
        assert_eq!(of(&[(20, Action::Like)], false), (1.0, 0.0));
        assert_eq!(of(&[(20, Action::Like), (30, Action::Like)], false), (2.0, 0.0));
        assert_eq!(of(&[(10, Action::Play), (9, Action::Play)], false), (0.25, 0.0));
        assert_eq!(of(&[(20, Action::Add), (30, Action::Add), (30, Action::Remove)], false), (2.25, 0.0));
        assert_eq!(of(&[(0, Action::Add)], true), (1.0, 0.0), "a playlist does not age");
        assert_eq!(of(&[(0, Action::Add), (0, Action::Remove)], true), (0.0, 0.0));
    }

    #[test]
    fn every_setting_that_makes_no_sense_is_named() {
        let names = [
            "alpha",
            "play",
            "complete",
            "like",
            "add",
            "skip",
            "dislike",
            "playlist",
            "half_life_days",
            "window_days",
        ];
        for name in names {
            for bad in ["-1.0", "nan"] {
                let config: ConfidenceConfig = toml::from_str(&format!("{name} = {bad}")).unwrap();
                let message = config.check().unwrap_err().to_string();
                assert!(message.contains(&format!("confidence.{name}")), "{message}");
            }
        }
        let infinite = ConfidenceConfig { alpha: f32::INFINITY, ..ConfidenceConfig::default() };
        assert!(infinite.check().is_err());
        assert!(toml::from_str::<ConfidenceConfig>("max_tracks_per_user = -1").is_err());
        ConfidenceConfig { half_life_days: f32::INFINITY, ..ConfidenceConfig::default() }.check().unwrap();
    }
}
