//! Sorts more records than memory holds: sorted runs in a temporary file, merged as they are read back.
//!
//! The file is run after run, each ascending, every record 16 bytes, little-endian. It has no name, so nothing of it is
//! left behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// The size of a record, in bytes.
pub const RECORD_BYTES: usize = size_of::<u128>();

/// Takes records in any order.
pub struct Spill {
    /// Records that are kept in memory, at least 1.
    capacity: usize,
    folder: PathBuf,
    records: Vec<u128>,
    file: Option<File>,
    /// For each run in the file, where it ends, in records.
    ends: Vec<u64>,
}

impl Spill {
    /// `folder`: where the temporary file goes, if there must be one; the system's where it is empty.
    pub fn new(capacity: usize, folder: &Path) -> Spill {
        let folder = if folder.as_os_str().is_empty() { std::env::temp_dir() } else { folder.to_path_buf() };
        Spill { capacity: capacity.max(1), folder, records: Vec::new(), file: None, ends: Vec::new() }
    }

    /// # Errors
    /// `Io` with the folder where the temporary file cannot be written.
    pub fn push(&mut self, record: u128) -> Result<()> {
        if self.records.len() == self.capacity {
            self.write_run()?;
        }
        if self.records.len() == self.records.capacity() {
            // Doubled, but never beyond what may be held.
            let more = self.records.len().max(1024).min(self.capacity - self.records.len());
            self.records.reserve_exact(more);
        }
        self.records.push(record);
        Ok(())
    }

    fn write_run(&mut self) -> Result<()> {
        self.records.par_sort_unstable();
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.folder).map_err(Error::io(&self.folder))?,
        };
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let written = self.records.iter().try_for_each(|record| out.write_all(&record.to_le_bytes()));
        written.and_then(|()| out.flush()).map_err(Error::io(&self.folder))?;
        drop(out);
        self.file = Some(file);
        self.ends.push(self.ends.last().unwrap_or(&0) + self.records.len() as u64);
        self.records.clear();
        Ok(())
    }

    /// All records, to be read in order.
    pub fn finish(mut self) -> Result<Sorted> {
        if self.file.is_none() {
            self.records.par_sort_unstable();
            return Ok(Sorted::InMemory(self.records));
        }
        if !self.records.is_empty() {
            self.write_run()?;
        }
        let file = self.file.expect("checked above, and writing a run keeps it");
        Ok(Sorted::OnDisk { file, folder: self.folder, ends: self.ends, capacity: self.capacity })
    }
}

/// Records in order.
pub enum Sorted {
    InMemory(Vec<u128>),
    OnDisk { file: File, folder: PathBuf, ends: Vec<u64>, capacity: usize },
}

/// One run as it is read back.
struct Run {
    /// What is still in the file, in records.
    next: u64,
    end: u64,
    /// What has been read of it, and how much of that has been handed on.
    records: Vec<u128>,
    at: usize,
}

impl Run {
    /// The next record; `None` at the end of the run.
    fn pop(&mut self, file: &mut File, bytes: &mut [u8]) -> std::io::Result<Option<u128>> {
        if self.at == self.records.len() {
            let count = (bytes.len() / RECORD_BYTES).min((self.end - self.next) as usize);
            let bytes = &mut bytes[..count * RECORD_BYTES];
            file.seek(SeekFrom::Start(self.next * RECORD_BYTES as u64))?;
            file.read_exact(bytes)?;
            self.next += count as u64;
            self.records.clear();
            let record = |b: &[u8]| u128::from_le_bytes(b.try_into().expect("chunks of the size of a record"));
            self.records.extend(bytes.chunks_exact(RECORD_BYTES).map(record));
            self.at = 0;
        }
        let record = self.records.get(self.at).copied();
        self.at += 1;
        Ok(record)
    }
}

impl Sorted {
    /// Hands on every record, in ascending order; can be done again.
    ///
    /// # Errors
    /// `Io` with the folder where the temporary file cannot be read.
    pub fn for_each(&mut self, mut take: impl FnMut(u128)) -> Result<()> {
        let (file, folder, ends, capacity) = match self {
            Sorted::InMemory(records) => {
                records.iter().copied().for_each(take);
                return Ok(());
            }
            Sorted::OnDisk { file, folder, ends, capacity } => (file, folder, ends, *capacity),
        };
        // All runs together read ahead by what one of them had in memory; 64 KiB to 1 MiB each where that allows it.
        let ahead = (capacity / ends.len()).clamp(1, 1 << 16);
        let mut bytes = vec![0; ahead * RECORD_BYTES];
        let starts = std::iter::once(&0).chain(ends.iter());
        let mut runs: Vec<Run> =
            starts.zip(ends.iter()).map(|(&next, &end)| Run { next, end, records: Vec::new(), at: 0 }).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (i, run) in runs.iter_mut().enumerate() {
            heads.extend(run.pop(file, &mut bytes).map_err(Error::io(&*folder))?.map(|record| Reverse((record, i))));
        }
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((record, i)) = *head;
            take(record);
            match runs[i].pop(file, &mut bytes).map_err(Error::io(&*folder))? {
                Some(next) => *head = Reverse((next, i)),
                None => {
                    PeekMut::pop(head);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_however_few_fit_into_memory() {
        let records: Vec<u128> = (0..5000u128).map(|i| ((i * 0x9e37_79b9_7f4a_7c15 % 4099) << 64) | (i % 3)).collect();
        let mut expected = records.clone();
        expected.sort_unstable();
        let dir = tempfile::tempdir().unwrap();
        for capacity in [0, 1, 7, 999, 4999, 5000, 1 << 20] {
            let mut spill = Spill::new(capacity, dir.path());
            records.iter().for_each(|&r| spill.push(r).unwrap());
            let mut sorted = spill.finish().unwrap();
            assert_eq!(matches!(sorted, Sorted::InMemory(_)), capacity >= 5000);
            for _ in 0..2 {
                let mut found = Vec::new();
                sorted.for_each(|r| found.push(r)).unwrap();
                assert_eq!(found, expected, "{capacity}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn memory_is_never_reserved_beyond_the_budget() {
        let mut spill = Spill::new(3000, Path::new(""));
        for i in 0..10_000 {
            spill.push(i).unwrap();
            assert!(spill.records.capacity() <= 3000);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut spill = Spill::new(2, Path::new("/no/such/folder"));
        let stopped = (0..3).find_map(|i| spill.push(i).err()).unwrap().to_string();
        assert!(stopped.contains("/no/such/folder"), "{stopped}");
    }
}
