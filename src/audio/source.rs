//! The bytes of a file, as symphonia is to see them: bounded in time, and with the few header bytes bent that would keep
//! it from reading a file that is good.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use symphonia::core::io::MediaSource;

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

/// A file whose reads fail once the time is up, so that no loop in a demuxer outlives it. It also bends two headers
/// to what symphonia reads.
pub(super) struct Source {
    file: File,
    /// Where what symphonia is to see begins in the file.
    start: u64,
    /// From `start` on.
    position: u64,
    length: u64,
    deadline: Deadline,
    /// Bytes to be read in place of those at an offset.
    bent: Option<(u64, Vec<u8>)>,
}

impl Source {
    /// # Errors
    /// `Decode` for what is not a regular file: opening a pipe would block, reading a device never ends.
    pub fn open(path: &Path, deadline: Deadline) -> Result<Source> {
        let found = std::fs::metadata(path).map_err(Error::io(path))?;
        if !found.is_file() {
            let kind = if found.is_dir() { "a directory" } else { "a pipe, socket or device" };
            return Err(Error::decode(path, format!("{kind}, expected a regular file")));
        }
        if found.len() == 0 {
            return Err(Error::decode(path, "empty file"));
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        let tags = end_of_tags(&mut file).map_err(Error::io(path))?;
        let start = if tags > MAX_TAGS { tags } else { 0 };
        let length = found.len().saturating_sub(start);
        let bent = if start == 0 { bend(&mut file, length) } else { None };
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        Ok(Source { file, start, position: 0, length, deadline, bent })
    }
}

/// Bytes of ID3v2 tags ahead of the music that symphonia, which reads them whole, may see. Larger ones hold pictures, of
/// up to 256 MB each; they are passed over, and their words with them.
const MAX_TAGS: u64 = 16 << 20;

/// Where the ID3v2 tags (ID3v2.4 structure, section 3.1) that begin the file end; 0 where there are none.
fn end_of_tags(file: &mut File) -> io::Result<u64> {
    let mut at = 0;
    // A few may follow one another; a file of nothing but tags is refused elsewhere.
    for _ in 0..16 {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 10];
        if file.read(&mut head)? < head.len() {
            break;
        }
        let [b'I', b'D', b'3', _, _, flags, size @ ..] = head else { break };
        let size = size.iter().fold(0, |size, &b| size << 7 | u64::from(b & 0x7f));
        // A footer is ten bytes more.
        at += 10 + size + if flags & 0x10 == 0 { 0 } else { 10 };
    }
    Ok(at)
}

/// What a header must say for symphonia to read the file.
fn bend(file: &mut File, length: u64) -> Option<(u64, Vec<u8>)> {
    let mut start = [0; 12];
    file.rewind().ok()?;
    file.read_exact(&mut start).ok()?;
    match &start {
        // RF64 is RIFF with 64-bit sizes. Where the size is said to be unknown the chunks go on to the end of the file,
        // and a wrong one does no harm.
        [b'R', b'I' | b'F', b'F' | b'6', b'F' | b'4', .., b'W', b'A', b'V', b'E'] => {
            Some((0, b"RIFF\xff\xff\xff\xff".to_vec()))
        }
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => whole_mdat(file, length).ok().flatten(),
        _ => None,
    }
}

/// In an MP4 file that broke off within its media data, the size that these have now: symphonia passes over an atom
/// that reaches beyond the end, and with it over all the music.
fn whole_mdat(file: &mut File, length: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut at = 0u64;
    // ftyp, moov, a few free, one mdat; fragmented files have more, and keep their music in small ones.
    for _ in 0..64 {
        if at.saturating_add(16) > length {
            break;
        }
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ .., e, f, g, h, i, j, k, l] = head;
        let size = match u32::from_be_bytes([a, b, c, d]) {
            // To the end of the file.
            0 => break,
            1 => u64::from_be_bytes([e, f, g, h, i, j, k, l]),
            size => u64::from(size),
        };
        if size < 8 {
            break;
        }
        if at.saturating_add(size) > length {
            let left = length - at;
            let large = size > u64::from(u32::MAX) || [a, b, c, d] == 1u32.to_be_bytes();
            let bytes =
                if large { (at + 8, left.to_be_bytes().to_vec()) } else { (at, (left as u32).to_be_bytes().to_vec()) };
            return Ok((kind == *b"mdat").then_some(bytes));
        }
        at += size;
    }
    Ok(None)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.deadline.check()?;
        let n = self.file.read(buffer)?;
        if let Some((at, bytes)) = &self.bent {
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
            other => other,
        };
        // Before the start there is nothing, as before the first byte of a file.
        let reached = self.file.seek(to)?.checked_sub(self.start);
        self.position = reached.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}

/// Whether this is an MPEG audio stream without a Xing, Info or VBRI header, whose length symphonia can only estimate
/// from its first bitrates. Looks for the header in the first frame behind the ID3v2 tags.
pub(super) fn mpeg_without_length(path: &Path) -> Result<bool> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let at = end_of_tags(&mut file).map_err(Error::io(path))?;
    file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
    let mut found = Vec::with_capacity(2048);
    file.take(2048).read_to_end(&mut found).map_err(Error::io(path))?;
    Ok(match found[..] {
        [0xff, second, ..] if second & 0xe0 == 0xe0 => {
            let has = |name: &[u8]| found.windows(4).any(|w| w == name);
            !(has(b"Xing") || has(b"Info") || has(b"VBRI"))
        }
        // Junk ahead of the first frame: not a tidy stream, so its length is not believed either.
        _ => path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mp3")),
    })
}
