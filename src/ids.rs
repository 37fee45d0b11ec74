//! The outside names of tracks and users, and their dense numbers.
//!
//! Outside, an id is any text of the service that owns it. Inside, matrices need rows: [`Ids`] numbers what it meets
//! from 0 in order of first sight.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artefact::atomic_write;
use crate::error::{Error, Result};

/// The longest id that is taken, in bytes.
pub const MAX_ID_BYTES: usize = 512;

/// Why a text cannot be an id, or `None` where it can: ids are non-empty, at most [`MAX_ID_BYTES`] long, and hold no
/// control characters (so that a list of them, one per line, can be read back).
pub fn id_problem(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("an empty id")
    } else if text.len() > MAX_ID_BYTES {
        Some("an id of more than 512 bytes")
    } else if text.chars().any(char::is_control) {
        Some("an id with a control character")
    } else {
        None
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// `Invalid` where [`id_problem`] names a problem.
            pub fn new(text: impl Into<String>) -> Result<$name> {
                let text = text.into();
                match id_problem(&text) {
                    None => Ok($name(text)),
                    Some(problem) => Err(Error::invalid(
                        stringify!($name),
                        "1 to 512 bytes without control characters",
                        format!("{problem} ({:?})", text.chars().take(40).collect::<String>()),
                    )),
                }
            }

            /// As [`Self::new`], for millions of them: the error is what [`id_problem`] names.
            pub fn checked(text: Cow<str>) -> Result<$name, &'static str> {
                match id_problem(&text) {
                    None => Ok($name(text.into_owned())),
                    Some(problem) => Err(problem),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<$name> {
                $name::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<$name> {
                $name::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A song, as the service that plays it calls it; the content hash where nobody gave it a name.
    TrackId
);
id!(
    /// A listener, or a playlist that is treated as one ([`UserId::of_playlist`]).
    UserId
);

/// What the names of playlists begin with, where listeners and playlists are users alike.
const PLAYLIST: &str = "playlist:";

impl UserId {
    /// The playlist `id`, as a user of its own: `playlist:id`.
    ///
    /// # Errors
    /// `Invalid` as for any id.
    pub fn of_playlist(id: &str) -> Result<UserId> {
        UserId::new(format!("{PLAYLIST}{id}"))
    }

    /// Whether this is a playlist's name.
    pub fn is_playlist(&self) -> bool {
        self.0.starts_with(PLAYLIST)
    }
}

/// A two-way numbering: outside id <-> dense `u32`, in order of first sight.
#[derive(Clone, Debug, Default)]
pub struct Ids<I> {
    names: Vec<I>,
    numbers: HashMap<I, u32>,
}

impl<I: Clone + Eq + Hash> Ids<I> {
    pub fn new() -> Ids<I> {
        Ids { names: Vec::new(), numbers: HashMap::new() }
    }

    /// The number of `id`, given now if it is new.
    pub fn intern(&mut self, id: &I) -> u32 {
        if let Some(&number) = self.numbers.get(id) {
            return number;
        }
        // 2^32 ids of 40 bytes do not fit into the memory of the machines this runs on.
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 ids");
        self.names.push(id.clone());
        self.numbers.insert(id.clone(), number);
        number
    }

    pub fn number(&self, id: &I) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// All ids, the one numbered `i` at place `i`.
    pub fn names(&self) -> &[I] {
        &self.names
    }

    /// All ids, without the way back.
    pub fn into_names(self) -> Vec<I> {
        self.names
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl<I: Clone + Eq + Hash> FromIterator<I> for Ids<I> {
    fn from_iter<T: IntoIterator<Item = I>>(ids: T) -> Ids<I> {
        let mut all = Ids::new();
        for id in ids {
            all.intern(&id);
        }
        all
    }
}

/// Writes ids one per line, in order: the companion of an npy file whose rows they name.
pub fn write_ids<I: AsRef<str>>(path: &Path, ids: &[I]) -> Result<()> {
    atomic_write(path, |out| {
        for id in ids {
            writeln!(out, "{}", id.as_ref())?;
        }
        Ok(())
    })
}

/// Reads what [`write_ids`] wrote.
///
/// # Errors
/// `Format` with the line number where a line is not an id or comes twice.
pub fn read_ids<I>(path: &Path) -> Result<Vec<I>>
where
    I: TryFrom<String, Error = Error> + Clone + Eq + Hash,
{
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut ids = Ids::new();
    for (line, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(Error::io(path))?;
        let id = I::try_from(text.clone())
            .map_err(|e| Error::format(path, "one id per line", format!("line {}: {e}", line + 1)))?;
        if ids.intern(&id) as usize != line {
            return Err(Error::format(path, "every id once", format!("line {}: {text:?} again", line + 1)));
        }
    }
    Ok(ids.names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbered_in_order_of_first_sight() {
        let mut ids = Ids::new();
        let names: Vec<TrackId> = ["b", "a", "b"].iter().map(|s| TrackId::new(*s).unwrap()).collect();
        assert_eq!(names.iter().map(|n| ids.intern(n)).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(ids.number(&names[1]), Some(1));
        assert_eq!(ids.number(&TrackId::new("c").unwrap()), None);
    }

    #[test]
    fn ids_survive_a_file_with_spaces_and_emoji() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tracks.ids");
        let ids: Vec<TrackId> = ["plain", " spaces  inside ", "🎵 emoji", "comma,quote\""]
            .iter()
            .map(|s| TrackId::new(*s).unwrap())
            .collect();
        write_ids(&path, &ids).unwrap();
        assert_eq!(read_ids::<TrackId>(&path).unwrap(), ids);
    }

    #[test]
    fn what_cannot_be_an_id_is_refused_with_its_line() {
        assert!(TrackId::new("").is_err());
        assert!(TrackId::new("two\nlines").is_err());
        assert!(TrackId::new("x".repeat(513)).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tracks.ids");
        std::fs::write(&path, "one\ntwo\none\n").unwrap();
        let message = read_ids::<TrackId>(&path).unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains("again"), "{message}");
    }
}
