//! Lines of bounded length from a text file, plain or compressed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::Packing;
use crate::error::{Error, Result};

/// The longest line that is taken, in bytes: two ids of 512 bytes, escaped and quoted, fit ten times.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// A compressed file may hold so many times its own length, and [`FREE_BYTES`] more. Logs shrink to a tenth; gzip cannot
/// do better than 1032, zstd can, and a file of a megabyte would then keep a machine busy for a day.
const MAX_GROWTH: u64 = 1000;
const FREE_BYTES: u64 = 64 << 20;

/// Lines without their ends.
pub struct Lines {
    path: PathBuf,
    packing: Packing,
    reader: Box<dyn BufRead>,
    /// How many more bytes there may be.
    left: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the line begins.
    start: usize,
    /// The number of the line last read, from 1.
    pub number: u64,
}

impl Lines {
    pub fn open(path: &Path, packing: Packing) -> Result<Lines> {
        let file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let file = BufReader::with_capacity(1 << 16, file);
        let (reader, left): (Box<dyn BufRead>, u64) = match packing {
            Packing::Plain => (Box::new(file), u64::MAX),
            Packing::Gzip => (Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))), 0),
            Packing::Zstd => {
                // Refuses windows of more than 128 MiB, as the command line tool does.
                let decoder = zstd::Decoder::with_buffer(file).map_err(Error::io(path))?;
                (Box::new(BufReader::with_capacity(1 << 16, decoder)), 0)
            }
        };
        let left = left.max(length.saturating_mul(MAX_GROWTH).saturating_add(FREE_BYTES));
        Ok(Lines { path: path.to_path_buf(), packing, reader, left, buffer: Vec::new(), start: 0, number: 0 })
    }

    /// Goes to the next line, which [`Lines::line`] then is, or says why it is none; `None` at the end.
    ///
    /// # Errors
    /// `Io`; `Format` for a compressed file that is damaged or grows beyond measure.
    pub fn next(&mut self) -> Result<Option<Result<(), &'static str>>> {
        self.buffer.clear();
        self.start = 0;
        let (mut any, mut too_long) = (false, false);
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(e) if self.packing == Packing::Plain => {
                    return Err(Error::Io { path: self.path.clone(), source: e });
                }
                Err(e) => return Err(Error::format(&self.path, format!("a whole {} file", self.packing.name()), e)),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|&b| b == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let used = part.len() + usize::from(end.is_some());
            let room = MAX_LINE_BYTES - self.buffer.len();
            too_long |= part.len() > room;
            self.buffer.extend_from_slice(&part[..part.len().min(room)]);
            self.reader.consume(used);
            match self.left.checked_sub(used as u64) {
                Some(left) => self.left = left,
                None => {
                    let expected = format!("text of at most {MAX_GROWTH} times its compressed length");
                    return Err(Error::format(&self.path, expected, "more"));
                }
            }
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        if too_long {
            return Ok(Some(Err("a line of more than 64 KiB")));
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        // The mark that some editors put before UTF-8.
        self.start = if self.number == 1 && self.buffer.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Ok(Some(Ok(())))
    }

    /// The line last read; of one that is too long, its beginning.
    pub fn line(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}
