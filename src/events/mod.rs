//! What listeners did: plays, skips, likes, playlist adds; read from files, weighed into a confidence matrix.
//!
//! ```text
//! Parquet, CSV, JSON lines ──► Event ──► 16 bytes each, sorted (beyond a budget: on disk) ──► pair by pair ──► Csr
//!               read                              spill                                confidence  interactions
//! ```
//!
//! Where the matrix itself is beyond memory, [`Shards`] hold it on disk, in parts.

mod confidence;
mod interactions;
mod matrix;
mod names;
mod read;
mod shards;
mod spill;

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use confidence::{ConfidenceConfig, Growth, Keep};
pub use interactions::{Interactions, InteractionsBuilder, interactions};
pub use matrix::Csr;
pub use read::{Bad, BadRows, ReadReport, read_events, write_events_parquet};
pub use shards::{ShardSize, Shards, ShardsBuilder};

use crate::error::{Error, Result};
use crate::ids::{TrackId, UserId};

/// What a listener did with a track. Of two in the same second, the later in this list counts as the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Heard some of it.
    Play,
    /// Heard it to the end, in a log that has a row for that.
    Complete,
    /// Went on to another before the end.
    Skip,
    /// Marked it as liked (loved, a thumb up).
    Like,
    /// Marked it as disliked (hated, banned, a thumb down).
    Dislike,
    /// Took the mark back, whichever it was.
    Unlike,
    /// Put it on a playlist.
    #[serde(alias = "playlist_add", alias = "playlist-add")]
    Add,
    /// Took it off a playlist.
    #[serde(alias = "playlist_remove", alias = "playlist-remove")]
    Remove,
}

impl Action {
    pub const ALL: [Action; 8] = [
        Action::Play,
        Action::Complete,
        Action::Skip,
        Action::Like,
        Action::Dislike,
        Action::Unlike,
        Action::Add,
        Action::Remove,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Play => "play",
            Action::Complete => "complete",
            Action::Skip => "skip",
            Action::Like => "like",
            Action::Dislike => "dislike",
            Action::Unlike => "unlike",
            Action::Add => "add",
            Action::Remove => "remove",
        }
    }
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Action> {
        let name = text.strip_prefix("playlist_").or(text.strip_prefix("playlist-"));
        let name = name.filter(|n| ["add", "remove"].contains(n)).unwrap_or(text);
        Action::ALL.into_iter().find(|action| action.as_str() == name).ok_or_else(|| {
            let names = Action::ALL.map(Action::as_str).join(", ");
            Error::invalid("action", format!("one of {names}"), format!("{text:?}"))
        })
    }
}

#[test]
fn actions_are_read_as_they_are_written() {
    for action in Action::ALL {
        assert_eq!(action.as_str().parse::<Action>().unwrap(), action);
        assert_eq!(serde_json::to_string(&action).unwrap(), format!("\"{}\"", action.as_str()));
    }
    assert_eq!("playlist_remove".parse::<Action>().unwrap(), Action::Remove);
    assert!("playlist_play".parse::<Action>().unwrap_err().to_string().contains("dislike"));
}

/// One line of a listening log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unix time, in seconds.
    pub time: i64,
    /// A listener; or a playlist, by the name that [`UserId::of_playlist`] gives it.
    pub user: UserId,
    pub track: TrackId,
    pub action: Action,
    /// How much of the action there was; 1 where nobody says. Of a play the share of the track that was heard, 0 to 1
    /// (or a count, in a log that is already summed up). Of a skip the share that was *not* heard: 1 at the first
    /// second, 0 at the last.
    pub value: f32,
}

/// How events are read, and how much memory that may take. None of it changes the matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// Events beyond so many MiB, of 16 bytes each, are sorted and put into a temporary file. 1024 hold 67 million; the
    /// matrix, and the factorisation after it, come on top. With `factorize --shards` it bounds names of listeners
    /// and shards of the matrix, too, and only the tracks come on top.
    pub memory_mb: usize,
    /// The folder of that file, which needs 16 bytes an event (24 for shards) and is gone when the program ends, however it ends; where
    /// empty, the system's (`TMPDIR`), or that of `factorize --shards`.
    pub spill: PathBuf,
    /// Whether the first bad row ends the work: no, since a log of any length has some.
    pub strict: bool,
}

impl Default for EventsConfig {
    fn default() -> EventsConfig {
        EventsConfig { memory_mb: 1024, spill: PathBuf::new(), strict: false }
    }
}

impl EventsConfig {
    /// # Errors
    /// `Invalid` where there would be no memory at all.
    pub fn check(&self) -> Result<()> {
        if self.memory_mb == 0 {
            return Err(Error::invalid("events.memory_mb", "1 MiB or more", 0));
        }
        Ok(())
    }

    /// What happens at a bad row.
    pub fn bad_rows(&self) -> BadRows {
        if self.strict { BadRows::Stop } else { BadRows::Count }
    }
}
