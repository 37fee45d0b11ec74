//! The one error type: what failed, where, what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong. The message names the path (or the thing), what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is of a kind that we read, but its audio cannot be decoded (damaged, silent, too short, not audio).
    #[error("{}: cannot be heard: {reason}", path.display())]
    Decode { path: PathBuf, reason: String },
    /// A well-formed file of a kind, codec or layout that we do not read.
    #[error("{}: unsupported: expected {expected}, found {found}", path.display())]
    Unsupported { path: PathBuf, expected: String, found: String },
    /// A file of ours or of a user's that is ill-formed.
    #[error("{}: malformed: expected {expected}, found {found}", path.display())]
    Format { path: PathBuf, expected: String, found: String },
    /// Two things that cannot be used together: spaces, dimensions, front ends.
    #[error("{what} do not fit together: expected {expected}, found {found}")]
    Mismatch { what: String, expected: String, found: String },
    /// A track, user, model or space that is not there.
    #[error("no such {what}: {name}")]
    NotFound { what: &'static str, name: String },
    /// An argument or setting outside its range.
    #[error("invalid {what}: expected {expected}, found {found}")]
    Invalid { what: String, expected: String, found: String },
    /// The catalogue's database refused.
    #[error("{}: catalogue: {source}", path.display())]
    Catalogue { path: PathBuf, source: rusqlite::Error },
    /// The work was stopped by the user; what was acknowledged is kept.
    #[error("interrupted")]
    Interrupted,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: an I/O error at `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    pub fn decode(path: impl AsRef<Path>, reason: impl ToString) -> Error {
        Error::Decode { path: path.as_ref().to_path_buf(), reason: reason.to_string() }
    }

    pub fn unsupported(path: impl AsRef<Path>, expected: impl ToString, found: impl ToString) -> Error {
        Error::Unsupported {
            path: path.as_ref().to_path_buf(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub fn format(path: impl AsRef<Path>, expected: impl ToString, found: impl ToString) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), expected: expected.to_string(), found: found.to_string() }
    }

    pub fn mismatch(what: impl ToString, expected: impl ToString, found: impl ToString) -> Error {
        Error::Mismatch { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    pub fn invalid(what: impl ToString, expected: impl ToString, found: impl ToString) -> Error {
        Error::Invalid { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}
