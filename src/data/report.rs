//! Coverage: how much of what was given, and of what people play, a data set holds.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// What [`super::prepare`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Files that were given.
    pub given: u64,
    /// Tracks with spectrograms.
    pub heard: u64,
    /// Files that could not be heard.
    pub failed: u64,
    /// Files whose id another file had before.
    pub repeated: u64,
    /// Tracks that were heard and that somebody listened to: those that are split.
    pub with_listeners: u64,
    /// Tracks that were heard and that nobody listened to.
    pub without_listeners: u64,
    /// Tracks in the events of which there is no audio.
    pub without_audio: u64,
    /// Plays, completed plays and skips in the events.
    pub plays: u64,
    /// Of these, the share on tracks that were heard.
    pub plays_covered: f64,
    /// Length of the tracks that were heard, in hours, as far as their files say.
    pub hours: f64,
    /// Length of their files.
    pub audio_bytes: u64,
    /// Length of their spectrograms.
    pub spectrogram_bytes: u64,
    /// Tracks with a date of release; the first play stands for that of the others.
    pub released: u64,
    /// Dates of release that are none.
    pub bad_dates: u64,
    /// Tracks by codec.
    pub codecs: BTreeMap<String, u64>,
    /// Files that could not be heard, by reason.
    pub reasons: BTreeMap<String, u64>,
    pub splits: BTreeMap<String, SplitReport>,
}

/// Of one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SplitReport {
    /// How it was made, or why it could not be.
    pub made: String,
    pub train: usize,
    pub valid: usize,
    pub test: usize,
    /// Artists (else albums) of the tracks that are held out.
    pub test_groups: usize,
    /// The share of all plays that is on tracks that are held out.
    pub test_plays: f64,
    /// Of a split by time, plays in the hours before that of its cut, which are all that is learned from.
    pub plays_before_cut: Option<u64>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut rows =
            vec![("files".to_string(), self.given.to_string()), ("tracks heard".into(), self.heard.to_string())];
        rows.extend(self.codecs.iter().map(|(codec, n)| (format!("- {codec}"), n.to_string())));
        rows.push(("not heard".into(), self.failed.to_string()));
        rows.extend(self.reasons.iter().map(|(reason, n)| (format!("- {reason}"), n.to_string())));
        if self.repeated > 0 {
            rows.push(("files of a track that had one".into(), self.repeated.to_string()));
        }
        rows.extend([
            ("hours".into(), format!("{:.1}", self.hours)),
            ("audio".into(), format!("{:.3} GB", self.audio_bytes as f64 / 1e9)),
            ("spectrograms".into(), format!("{:.3} GB", self.spectrogram_bytes as f64 / 1e9)),
            ("heard, and listened to".into(), self.with_listeners.to_string()),
            ("heard, and listened to by nobody".into(), self.without_listeners.to_string()),
            ("listened to, without audio".into(), self.without_audio.to_string()),
            ("plays on tracks that were heard".into(), percent(self.plays_covered)),
            ("with a date of release".into(), self.released.to_string()),
        ]);
        if self.bad_dates > 0 {
            rows.push(("dates of release that are none".into(), self.bad_dates.to_string()));
        }
        writeln!(f, "| | |\n|---|---|")?;
        for (what, how_much) in rows {
            writeln!(f, "| {} | {how_much} |", what.replace('|', "\\|"))?;
        }
        writeln!(f, "\n| split | train | valid | test | artists in test | plays in test | |")?;
        write!(f, "|---|---|---|---|---|---|---|")?;
        for (name, split) in &self.splits {
            let SplitReport { made, train, valid, test, test_groups, test_plays, plays_before_cut } = split;
            let test_plays = percent(*test_plays);
            let before = plays_before_cut.map_or(String::new(), |plays| format!("; {plays} plays before the cut"));
            write!(f, "\n| {name} | {train} | {valid} | {test} | {test_groups} | {test_plays} | {made}{before} |")?;
        }
        Ok(())
    }
}
