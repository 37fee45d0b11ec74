//! A shard: an array of spectrograms that NumPy can map, and beside it a line for each row that is filled.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::About;
use crate::artefact::atomic_write;
use crate::error::{Error, Result};

/// Bytes of an array's header: where the first row begins.
const HEADER: usize = 128;
/// A line holds a few short texts and a hash for each window; more is damage.
const MAX_LINE: u64 = 64 << 10;
/// Digits of the checksum before a line.
const CHECKSUM: usize = 16;
/// Digits of a content hash.
const CONTENT: usize = 32;

/// The shape of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub windows: usize,
    pub frames: usize,
    pub mel_bands: usize,
}

impl Layout {
    /// Bytes of one window.
    pub fn window_bytes(&self) -> usize {
        2 * self.frames * self.mel_bands
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.windows as u64 * self.window_bytes() as u64
    }

    /// Where a row begins, in bytes.
    pub fn start_of(&self, row: u32) -> u64 {
        HEADER as u64 + u64::from(row) * self.row_bytes()
    }

    /// The header, of version 1.0, of the array with so many rows.
    fn header(&self, rows: u32) -> Vec<u8> {
        let Layout { windows, frames, mel_bands } = self;
        let shape = format!("({rows}, {windows}, {frames}, {mel_bands})");
        let text = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}");
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        let length = HEADER - header.len() - 2;
        header.extend((length as u16).to_le_bytes());
        header.extend(format!("{text:<0$}\n", length - 1).as_bytes());
        header
    }
}

/// What is known of a filled row.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// BLAKE3 of each window's bytes.
    pub windows: Vec<String>,
    pub about: About,
}

/// `checksum content row {json}` and a newline; the checksum is of all between it and the newline.
fn write_line(content: u128, row: u32, line: &Line) -> serde_json::Result<Vec<u8>> {
    let rest = format!(" {content:032x} {row} {}", serde_json::to_string(line)?);
    let checksum = blake3::hash(rest.as_bytes()).to_hex();
    Ok(format!("{}{rest}\n", &checksum[..CHECKSUM]).into_bytes())
}

/// Content and row of a line with its newline, and its JSON; `None` where it is damaged.
fn read_line(line: &[u8]) -> Option<(u128, u32, &str)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (checksum, rest) = text.split_at_checked(CHECKSUM)?;
    if blake3::hash(rest.as_bytes()).to_hex()[..CHECKSUM] != *checksum {
        return None;
    }
    let mut parts = rest.strip_prefix(' ')?.splitn(3, ' ');
    Some((content_number(parts.next()?)?, parts.next()?.parse().ok()?, parts.next()?))
}

/// A content hash as a number, so that a million of them take little room.
pub(super) fn content_number(content: &str) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (content.len() == CONTENT && content.bytes().all(is_digit)).then(|| u128::from_str_radix(content, 16).ok())?
}

/// Where a track's line and row are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub shard: u32,
    pub row: u32,
    /// The line's first byte in the index, and its bytes.
    at: u64,
    length: u32,
}

pub(super) fn array_path(folder: &Path, shard: u32) -> PathBuf {
    folder.join(format!("{shard:05}.npy"))
}

pub(super) fn index_path(folder: &Path, shard: u32) -> PathBuf {
    folder.join(format!("{shard:05}.index"))
}

/// The numbers of the shards in the folder, in order.
pub(super) fn shards_in(folder: &Path) -> Result<Vec<u32>> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".index")).and_then(|digits| digits.parse().ok());
        // A file of another name, as `0 (copy).index`, is nobody's.
        shards.extend(number.filter(|&number: &u32| index_path(folder, number).ends_with(&name)));
    }
    shards.sort_unstable();
    Ok(shards)
}

/// How far the index of a shard was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scanned {
    /// The byte after the last whole line.
    pub end: u64,
    /// The row after the last that a line names.
    pub rows: u32,
    /// How many rows the array has.
    pub capacity: u32,
}

/// Reads what was added to the shard's index since `scanned`, and calls `found` for each line. A damaged line is as if not
/// there, and told of; an unfinished last one is left for its writer to finish, or for the next one to cut off.
pub(super) fn scan(folder: &Path, shard: u32, scanned: &mut Scanned, mut found: impl FnMut(u128, Place)) -> Result<()> {
    let path = index_path(folder, shard);
    let mut file = File::open(&path).map_err(Error::io(&path))?;
    file.seek(SeekFrom::Start(scanned.end)).map_err(Error::io(&path))?;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(Error::io(&path))? as u64;
        if n == 0 || (n < MAX_LINE && line.last() != Some(&b'\n')) {
            return Ok(());
        }
        match read_line(&line) {
            Some((content, row, _)) => {
                found(content, Place { shard, row, at: scanned.end, length: n as u32 });
                scanned.rows = scanned.rows.max(row.saturating_add(1));
            }
            None => {
                tracing::warn!("{}: a damaged line at byte {}; its track is heard again", path.display(), scanned.end)
            }
        }
        scanned.end += n;
    }
}

/// How many rows the shard's array has; 0 where there is no array. A header or a length that is damaged costs no row, since
/// these are found and verified without it, but NumPy would not read the file: it is mended.
pub(super) fn capacity(folder: &Path, shard: u32, layout: &Layout, rows: u32) -> Result<u32> {
    let path = array_path(folder, shard);
    let mut file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file.map_err(Error::io(&path))?,
    };
    let length = file.metadata().map_err(Error::io(&path))?.len();
    let whole = length.saturating_sub(HEADER as u64) / layout.row_bytes();
    let capacity = u32::try_from(whole).unwrap_or(u32::MAX).max(rows).max(1);
    let mut header = Vec::new();
    Read::by_ref(&mut file).take(HEADER as u64).read_to_end(&mut header).map_err(Error::io(&path))?;
    if header != layout.header(capacity) || length != layout.start_of(capacity) {
        let mended = OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            file.write_all(&layout.header(capacity))?;
            file.set_len(layout.start_of(capacity))
        });
        match mended {
            Ok(()) => tracing::warn!("{}: its header or length was damaged, and is mended", path.display()),
            Err(e) => tracing::warn!("{}: its header or length is damaged, and cannot be mended: {e}", path.display()),
        }
    }
    Ok(capacity)
}

/// A shard that this process alone adds to, as long as this lives: the lock is on the index.
#[derive(Debug)]
pub(super) struct Writer {
    shard: u32,
    layout: Layout,
    index_path: PathBuf,
    index: File,
    array_path: PathBuf,
    array: File,
    scanned: Scanned,
}

impl Writer {
    /// Locks the shard, after reading its index to the end; `None` where another process has it, or it is full.
    pub fn take(
        folder: &Path,
        shard: u32,
        layout: &Layout,
        rows_of_a_new_one: u32,
        scanned: &mut Scanned,
        found: impl FnMut(u128, Place),
    ) -> Result<Option<Writer>> {
        let (index_path, array_path) = (index_path(folder, shard), array_path(folder, shard));
        let mut open = OpenOptions::new();
        let index = open.write(true).create(true).truncate(false).open(&index_path).map_err(Error::io(&index_path))?;
        match index.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            locked => locked.map_err(|e| Error::io(&index_path)(e.into()))?,
        }
        scan(folder, shard, scanned, found)?;
        scanned.capacity = capacity(folder, shard, layout, scanned.rows)?;
        if scanned.capacity == 0 {
            // New; or lost, and then its lines lead nowhere and its rows are not used again.
            scanned.capacity = scanned.rows.saturating_add(rows_of_a_new_one);
            let (header, length) = (layout.header(scanned.capacity), layout.start_of(scanned.capacity));
            atomic_write(&array_path, |out| {
                out.write_all(&header)?;
                out.flush()?;
                // Rows that are not filled take no room on the disk.
                out.get_ref().set_len(length)
            })?;
        }
        if scanned.rows >= scanned.capacity {
            return Ok(None);
        }
        // What a writer that was killed left unfinished.
        index.set_len(scanned.end).map_err(Error::io(&index_path))?;
        let array = OpenOptions::new().write(true).open(&array_path).map_err(Error::io(&array_path))?;
        Ok(Some(Writer { shard, layout: *layout, index_path, index, array_path, array, scanned: *scanned }))
    }

    /// Fills the next row: first the data, then the line that makes them known.
    pub fn append(&mut self, content: u128, bytes: &[u8], line: &Line) -> Result<Place> {
        let row = self.scanned.rows;
        let text = write_line(content, row, line)
            .map_err(|e| Error::format(&self.index_path, "text that JSON can hold", e))?;
        if text.len() as u64 >= MAX_LINE {
            return Err(Error::format(&self.index_path, format!("lines of less than {MAX_LINE} bytes"), text.len()));
        }
        self.write_row(row, bytes)?;
        let at = self.scanned.end;
        let written = self.index.seek(SeekFrom::Start(at)).and_then(|_| self.index.write_all(&text));
        if let Err(e) = written {
            // Half a line must not stay before the next. Where it cannot be cut off, that one is damaged, too, and heard again.
            let _ = self.index.set_len(at);
            return Err(Error::io(&self.index_path)(e));
        }
        self.scanned.end += text.len() as u64;
        self.scanned.rows += 1;
        Ok(Place { shard: self.shard, row, at, length: text.len() as u32 })
    }

    /// Puts data into a row that no line names yet.
    fn write_row(&mut self, row: u32, bytes: &[u8]) -> Result<()> {
        let start = SeekFrom::Start(self.layout.start_of(row));
        self.array.seek(start).and_then(|_| self.array.write_all(bytes)).map_err(Error::io(&self.array_path))
    }

    pub fn is_full(&self) -> bool {
        self.scanned.rows >= self.scanned.capacity
    }

    pub fn shard(&self) -> u32 {
        self.shard
    }

    pub fn scanned(&self) -> Scanned {
        self.scanned
    }
}

/// A filled row that is being read, behind its verified line.
pub(super) struct Entry {
    pub line: Line,
    layout: Layout,
    place: Place,
    path: PathBuf,
    file: File,
    /// Of the window that was read last.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// # Errors
    /// `Io`; `Format` where the line is no longer the one that was seen, or not that of this content.
    pub fn open(folder: &Path, layout: &Layout, content: u128, place: Place) -> Result<Entry> {
        let path = index_path(folder, place.shard);
        let damaged = |found: &str| Error::format(&path, format!("the line of {content:032x}"), found);
        let mut bytes = vec![0; place.length as usize];
        let mut index = File::open(&path).map_err(Error::io(&path))?;
        index.seek(SeekFrom::Start(place.at)).map_err(Error::io(&path))?;
        index.read_exact(&mut bytes).map_err(cut(&path))?;
        let (of, row, json) = read_line(&bytes).ok_or_else(|| damaged("a damaged one"))?;
        if (of, row) != (content, place.row) {
            return Err(damaged("another track's"));
        }
        let line: Line = serde_json::from_str(json).map_err(|e| damaged(&e.to_string()))?;
        if line.windows.len() != layout.windows {
            return Err(damaged(&format!("one of {} windows, not {}", line.windows.len(), layout.windows)));
        }
        let path = array_path(folder, place.shard);
        let file = File::open(&path).map_err(Error::io(&path))?;
        Ok(Entry { line, layout: *layout, place, path, file, bytes: Vec::new() })
    }

    /// Reads one window into `bytes`, and verifies it.
    pub fn read(&mut self, window: usize) -> Result<()> {
        let length = self.layout.window_bytes();
        let start = self.layout.start_of(self.place.row) + (window * length) as u64;
        self.bytes.resize(length, 0);
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io(&self.path))?;
        self.file.read_exact(&mut self.bytes).map_err(cut(&self.path))?;
        if blake3::hash(&self.bytes).to_hex().as_str() != self.line.windows[window] {
            let expected = format!("window {window} of row {} with its checksum", self.place.row);
            return Err(Error::format(&self.path, expected, "another checksum"));
        }
        Ok(())
    }
}

/// The end of the file where more was due is damage, not a failure of the disk.
fn cut(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::format(path, "a whole spectrogram", "the end of the file"),
        _ => Error::Io { path: path.to_path_buf(), source: e },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { windows: 2, frames: 3, mel_bands: 4 };

    fn line() -> Line {
        Line {
            windows: vec!["a".into(), "b".into()],
            about: About { codec: "a\nb \u{1f3b5}".into(), ..About::default() },
        }
    }

    #[test]
    fn the_header_is_numpys() {
        // `numpy.lib.format.write_array_header_1_0` of numpy 2.3, for an array of this shape.
        let expected = b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (270, 6, 645, 128), }";
        let header = Layout { windows: 6, frames: 645, mel_bands: 128 }.header(270);
        assert_eq!((header.len(), &header[..expected.len()]), (HEADER, &expected[..]));
        assert!(header[expected.len()..HEADER - 1].iter().all(|b| *b == b' ') && header[HEADER - 1] == b'\n');
        assert_eq!(Layout { windows: 60_000, frames: 100_000, mel_bands: 30_000 }.header(u32::MAX).len(), HEADER);
    }

    #[test]
    fn a_line_tells_every_changed_byte() {
        let whole = write_line(7, 3, &line()).unwrap();
        let (content, row, json) = read_line(&whole).unwrap();
        assert_eq!((content, row, serde_json::from_str::<Line>(json).unwrap()), (7, 3, line()));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert_eq!(read_line(&damaged), None, "byte {at}");
            assert_eq!(read_line(&whole[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_writer_killed_between_the_data_and_the_line_or_in_the_line_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let take = || {
            let mut found = Vec::new();
            let taken = Writer::take(folder, 0, &LAYOUT, 3, &mut Scanned::default(), |content, _| found.push(content));
            (taken.unwrap(), found)
        };
        let (writer, _) = take();
        let mut writer = writer.unwrap();
        writer.append(1, &[1; 48], &line()).unwrap();
        assert!(take().0.is_none(), "two writers of one shard");
        writer.write_row(1, &[2; 48]).unwrap();
        drop(writer);
        let torn = write_line(2, 1, &line()).unwrap();
        let path = index_path(folder, 0);
        for length in 0..torn.len() {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn[..length]).unwrap();
            let (writer, found) = take();
            assert_eq!((found, writer.unwrap().scanned.rows), (vec![1], 1), "{length} bytes of the line");
        }
        let mut writer = take().0.unwrap();
        assert_eq!(writer.append(3, &[3; 48], &line()).unwrap().row, 1);
        assert!(!writer.is_full());
        writer.append(4, &[4; 48], &line()).unwrap();
        assert!(writer.is_full());
        drop(writer);
        let (writer, found) = take();
        assert!(writer.is_none() && found == [1, 3, 4], "a full shard is nobody's");
    }

    #[test]
    fn a_line_without_end_is_damage_and_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![b'x'; 3 * MAX_LINE as usize + 5];
        bytes.push(b'\n');
        bytes.extend(write_line(9, 0, &line()).unwrap());
        fs::write(index_path(dir.path(), 0), bytes).unwrap();
        let (mut scanned, mut found) = (Scanned::default(), Vec::new());
        scan(dir.path(), 0, &mut scanned, |content, _| found.push(content)).unwrap();
        assert_eq!((found, scanned.rows), (vec![9], 1));
    }
}
