//! The bytes of a file, as symphonia is to see them: bounded in time and in number, and with the few header bytes bent that
//! would keep it from reading a file that is good.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use symphonia::core::io::MediaSource;

use super::headers::{Bent, Headers, MAX_TAGS, end_of_tags, refuse_what_is_not_read, start_of_last_tags};
use crate::error::{Error, Result};

/// The moment from which on nothing more is read of a track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub fn after(limit: Duration) -> Deadline {
        Deadline { at: Instant::now() + limit, limit }
    }

    /// # Errors
    /// `TimedOut`, naming the limit, once it has passed.
    pub fn check(&self) -> io::Result<()> {
        if Instant::now() < self.at {
            return Ok(());
        }
        let reason = format!("takes longer than {} s (listen.time_limit_s)", self.limit.as_secs_f64());
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    }
}

/// How many bytes may yet be read for the header and its tags, or for one packet. symphonia keeps what it reads of these,
/// and has no limits of its own: a file of a gigabyte may claim to be one picture, or one packet.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    /// Covers the tags that are seen, and the tables of a recording of a day.
    const BYTES: u64 = 24 << 20;

    pub fn new() -> Allowance {
        Allowance(Arc::new(AtomicU64::new(Allowance::BYTES)))
    }

    /// For the next packet.
    pub fn renew(&self) {
        self.0.store(Allowance::BYTES, Ordering::Relaxed);
    }

    /// For a seek, which may read through the whole file but keeps nothing.
    pub fn lift(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        // One thread reads; nothing else is ordered by this number.
        match self.0.load(Ordering::Relaxed).checked_sub(bytes as u64) {
            Some(left) => {
                self.0.store(left, Ordering::Relaxed);
                Ok(())
            }
            None => {
                let reason = format!("more than {} MiB of tags, tables or one packet", Allowance::BYTES >> 20);
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
        }
    }
}

/// A file whose reads fail once the time is up, or the allowance spent, so that no loop in a demuxer that reads outlives
/// the one, and nothing that it keeps outgrows the other.
pub(super) struct Source {
    file: File,
    /// Where what symphonia is to see begins in the file.
    start: u64,
    /// From `start` on.
    position: u64,
    length: u64,
    deadline: Deadline,
    allowance: Allowance,
    bent: Vec<Bent>,
}

impl Source {
    /// # Errors
    /// `Decode` for what is not a regular file: opening a pipe would block, reading a device never ends. `Unsupported` for
    /// a kind of audio that is known and not read.
    pub fn open(path: &Path, deadline: Deadline, allowance: Allowance) -> Result<Source> {
        let found = std::fs::metadata(path).map_err(Error::io(path))?;
        if !found.is_file() {
            let kind = if found.is_dir() { "a directory" } else { "a pipe, socket or device" };
            return Err(Error::decode(path, format!("{kind}, expected a regular file")));
        }
        if found.len() == 0 {
            return Err(Error::decode(path, "empty file"));
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        let music = end_of_tags(&mut file).map_err(Error::io(path))?;
        refuse_what_is_not_read(path, &mut file, music)?;
        let start = if music > MAX_TAGS { music } else { 0 };
        let behind = start_of_last_tags(&mut file, found.len()).map_err(Error::io(path))?;
        let end = if found.len() - behind > MAX_TAGS { behind } else { found.len() };
        let headers = Headers::new(&mut file, start, end, deadline);
        let bent = headers.bent(music).map_err(Error::io(path))?;
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        let length = end.saturating_sub(start);
        Ok(Source { file, start, position: 0, length, deadline, allowance, bent })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.deadline.check()?;
        let left = self.length.saturating_sub(self.position).min(buffer.len() as u64);
        let n = self.file.read(&mut buffer[..left as usize])?;
        self.allowance.spend(n)?;
        for (at, bytes) in &self.bent {
            // The part of what was read that lies where the bent bytes do.
            let (from, to) = (self.position.max(*at), (self.position + n as u64).min(at + bytes.len() as u64));
            if from < to {
                let there = (from - self.position) as usize..(to - self.position) as usize;
                buffer[there].copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.deadline.check()?;
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(self.start.saturating_add(at)),
            SeekFrom::End(by) => SeekFrom::Start((self.start + self.length).saturating_add_signed(by)),
            SeekFrom::Current(by) => SeekFrom::Current(by),
        };
        // Before the start there is nothing, as before the first byte of a file.
        let reached = self.file.seek(to).map_err(|e| if e.kind() == OUTSIDE { OUTSIDE.into() } else { e })?;
        self.position = reached.checked_sub(self.start).ok_or_else(|| io::Error::from(OUTSIDE))?;
        Ok(self.position)
    }
}

/// What the system says of a seek to before the beginning: not its own trouble, but the file's, whose tags or headers
/// asked for that. So it is passed on without the system's number, by which the others are told apart.
const OUTSIDE: io::ErrorKind = io::ErrorKind::InvalidInput;

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}
