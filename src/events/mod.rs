//! What listeners did: plays, skips, likes, playlist adds; read from files, weighed into a confidence matrix.

mod confidence;
mod read;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use confidence::{ConfidenceConfig, Csr, Growth, Interactions, InteractionsBuilder, interactions};
pub use read::{Bad, ReadReport, read_events, write_events_parquet};

use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

/// What a listener did with a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Play,
    Skip,
    Like,
    /// Put it on a playlist.
    #[serde(alias = "playlist_add", alias = "playlist-add")]
    Add,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Play => "play",
            Action::Skip => "skip",
            Action::Like => "like",
            Action::Add => "add",
        }
    }
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Action> {
        match text {
            "play" => Ok(Action::Play),
            "skip" => Ok(Action::Skip),
            "like" => Ok(Action::Like),
            "add" | "playlist_add" | "playlist-add" => Ok(Action::Add),
            _ => Err(Error::invalid("action", "play, skip, like or add", format!("{text:?}"))),
        }
    }
}

/// One line of a listening log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unix time, in seconds.
    pub time: i64,
    pub user: UserId,
    pub track: TrackId,
    pub action: Action,
    /// Of a play: the fraction that was heard, 0 to 1 (or a count, in a log that is already summed up); 1 where
    /// nobody says, and for the other actions.
    pub value: f32,
}
