//! Names in the order of their hashes, of which memory need not hold all: sorted runs in a temporary file, merged as they
//! are read back, each name once.
//!
//! The file is run after run, each ascending: a name's hash (12 bytes, little-endian), its length (2 bytes), its bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::ids::{MAX_ID_BYTES, UserId};

/// Bits of a hash, one of which says whether it is a playlist's. Among 100 million names, two of the same have a chance
/// of 1 in 10¹³.
pub const HASH_BITS: u32 = 96;
/// Hash and length, in bytes.
const HEAD: usize = HASH_BITS as usize / 8 + 2;
/// What a name takes in memory beside its bytes: a slot of a table that is half full, and one to be sorted by.
const OVERHEAD: usize = 100;

/// The first [`HASH_BITS`] of the name's BLAKE3 hash, the last of them saying whether it is a playlist's.
pub fn name_hash(user: &UserId) -> u128 {
    let hash = blake3::hash(user.as_str().as_bytes());
    let bits = u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes")) >> (128 - HASH_BITS);
    bits & !1 | u128::from(user.is_playlist())
}

/// Takes names in any order, and any number of times.
pub struct Names {
    folder: PathBuf,
    /// Where in `text` the name is.
    known: HashMap<u128, u32>,
    /// Length (2 bytes) and bytes of each.
    text: Vec<u8>,
    file: Option<File>,
    /// For each run in the file, where it ends, in bytes.
    ends: Vec<u64>,
}

impl Names {
    pub fn new(folder: PathBuf) -> Names {
        Names { folder, known: HashMap::new(), text: Vec::new(), file: None, ends: Vec::new() }
    }

    /// The hash of the name, which will come back.
    pub fn push(&mut self, user: &UserId) -> u128 {
        let hash = name_hash(user);
        self.known.entry(hash).or_insert_with(|| {
            let at = self.text.len() as u32; // runs are far below 4 GiB, see `is_long`
            self.text.extend((user.as_str().len() as u16).to_le_bytes());
            self.text.extend(user.as_str().as_bytes());
            at
        });
        hash
    }

    /// What the names in memory take, in bytes.
    pub fn bytes(&self) -> usize {
        self.known.len() * OVERHEAD + self.text.len()
    }

    /// Whether the run must end, however much memory there is: places are numbers of 32 bits.
    pub fn is_long(&self) -> bool {
        self.text.len() > 1 << 31
    }

    /// Puts what is in memory into the file, as a run of its own.
    ///
    /// # Errors
    /// `Io` with the folder where the temporary file cannot be written.
    pub fn write_run(&mut self) -> Result<()> {
        let mut sorted: Vec<(u128, u32)> = self.known.drain().collect();
        sorted.sort_unstable();
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.folder).map_err(Error::io(&self.folder))?,
        };
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let mut written = 0;
        let run = sorted.iter().try_for_each(|&(hash, at)| {
            let text = &self.text[at as usize..];
            let length = usize::from(u16::from_le_bytes([text[0], text[1]]));
            written += (HEAD + length) as u64;
            out.write_all(&hash.to_le_bytes()[..HEAD - 2])?;
            out.write_all(&text[..2 + length])
        });
        run.and_then(|()| out.flush()).map_err(Error::io(&self.folder))?;
        drop(out);
        self.file = Some(file);
        self.ends.push(self.ends.last().unwrap_or(&0) + written);
        self.text.clear();
        Ok(())
    }

    /// All names, to be read in the order of their hashes. All runs together read ahead by `memory` bytes.
    pub fn finish(mut self, memory: usize) -> Result<SortedNames> {
        self.write_run()?;
        let file = self.file.expect("writing a run keeps it");
        let ahead = (memory / self.ends.len()).clamp(4 * (HEAD + MAX_ID_BYTES), 1 << 20);
        let starts = std::iter::once(&0).chain(&self.ends);
        let mut runs: Vec<Run> =
            starts.zip(&self.ends).map(|(&next, &end)| Run { next, end, bytes: Vec::new(), at: 0 }).collect();
        let mut names = SortedNames { file, folder: self.folder, ahead, heads: BinaryHeap::new(), runs: Vec::new() };
        for (i, run) in runs.iter_mut().enumerate() {
            let head = run.pop(&mut names.file, ahead).map_err(Error::io(&names.folder))?;
            names.heads.extend(head.map(|(hash, name)| Reverse((hash, i, name))));
        }
        names.runs = runs;
        Ok(names)
    }
}

/// One run as it is read back.
struct Run {
    /// What is still in the file.
    next: u64,
    end: u64,
    /// What has been read of it, and how much of that has been handed on.
    bytes: Vec<u8>,
    at: usize,
}

impl Run {
    fn pop(&mut self, file: &mut File, ahead: usize) -> io::Result<Option<(u128, String)>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the temporary file of names is damaged");
        // The longest name is there as a whole, or the end is.
        if self.bytes.len() - self.at < HEAD + MAX_ID_BYTES && self.next < self.end {
            self.bytes.drain(..self.at);
            self.at = 0;
            let more = (self.end - self.next).min(ahead as u64);
            let kept = self.bytes.len();
            self.bytes.resize(kept + more as usize, 0);
            file.seek(SeekFrom::Start(self.next))?;
            file.read_exact(&mut self.bytes[kept..])?;
            self.next += more;
        }
        let bytes = &self.bytes[self.at..];
        if bytes.is_empty() {
            return Ok(None);
        }
        let head = bytes.get(..HEAD).ok_or_else(damaged)?;
        let mut hash = [0; 16];
        hash[..HEAD - 2].copy_from_slice(&head[..HEAD - 2]);
        let length = usize::from(u16::from_le_bytes([head[HEAD - 2], head[HEAD - 1]]));
        let name = bytes.get(HEAD..HEAD + length).ok_or_else(damaged)?.to_vec();
        self.at += HEAD + length;
        Ok(Some((u128::from_le_bytes(hash), String::from_utf8(name).map_err(|_| damaged())?)))
    }
}

/// Names in the order of their hashes.
pub struct SortedNames {
    file: File,
    folder: PathBuf,
    ahead: usize,
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<(u128, usize, String)>>,
}

impl SortedNames {
    /// The next name, and its hash.
    ///
    /// # Errors
    /// `Io` with the folder where the temporary file cannot be read; `Invalid` for two names of one hash.
    pub fn pop(&mut self) -> Result<Option<(u128, UserId)>> {
        let Some(Reverse((hash, run, name))) = self.heads.pop() else { return Ok(None) };
        self.refill(run)?;
        while let Some(Reverse((same, ..))) = self.heads.peek()
            && *same == hash
        {
            if let Some(Reverse((_, run, other))) = self.heads.pop() {
                if other != name {
                    return Err(Error::invalid(
                        "listeners",
                        "names of different hashes",
                        format!("{name:?}, {other:?}"),
                    ));
                }
                self.refill(run)?;
            }
        }
        Ok(Some((hash, UserId::new(name)?)))
    }

    fn refill(&mut self, run: usize) -> Result<()> {
        let head = self.runs[run].pop(&mut self.file, self.ahead).map_err(Error::io(&self.folder))?;
        self.heads.extend(head.map(|(hash, name)| Reverse((hash, run, name))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_once_in_the_order_of_hashes_however_often_it_was_pushed() {
        let user = |i: usize| match i % 5 {
            0 => UserId::of_playlist(&format!("🏖 {i}")).unwrap(),
            1 => UserId::new(format!("{i}{}", "x".repeat(500))).unwrap(),
            _ => UserId::new(format!("u{i}")).unwrap(),
        };
        let mut expected: Vec<(u128, UserId)> = (0..3000).map(|i| (name_hash(&user(i)), user(i))).collect();
        expected.sort();
        assert!(expected.iter().all(|(hash, user)| hash >> HASH_BITS == 0 && (hash & 1 == 1) == user.is_playlist()));
        let dir = tempfile::tempdir().unwrap();
        for run in [7, 999, 100_000] {
            let mut names = Names::new(dir.path().to_path_buf());
            for i in 0..9000 {
                assert_eq!(names.push(&user(i * 7 % 3000)), name_hash(&user(i * 7 % 3000)));
                if i % run == run - 1 {
                    names.write_run().unwrap();
                }
            }
            let mut sorted = names.finish(1 << 16).unwrap();
            let found: Vec<_> = std::iter::from_fn(|| sorted.pop().unwrap()).collect();
            assert!(found == expected, "{run}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = Names::new(dir.path().to_path_buf());
        names.push(&UserId::new("ann").unwrap());
        names.write_run().unwrap();
        let mut file = names.file.as_ref().unwrap();
        file.seek(SeekFrom::Start(HEAD as u64 - 2)).unwrap();
        file.write_all(&[200]).unwrap();
        let message = names.finish(1 << 16).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("damaged") && message.contains(dir.path().to_str().unwrap()), "{message}");
    }
}
