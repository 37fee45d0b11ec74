//! Sorts more records than memory holds: sorted runs in a temporary file, merged as they are read back.
//!
//! The file is run after run, each ascending, every record of the same size, little-endian. It has no name, so nothing of
//! it is left behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// What is sorted: numbers, in whose order lies what is to be sorted by.
pub trait Record: Copy + Ord + Send {
    /// Its size in the file.
    const BYTES: usize;

    /// Fills `bytes`, [`Record::BYTES`] of them.
    fn write(self, bytes: &mut [u8]);

    /// From [`Record::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;
}

impl Record for u128 {
    const BYTES: usize = 16;

    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> u128 {
        u128::from_le_bytes(*bytes.first_chunk().expect("16 bytes"))
    }
}

impl Record for [u64; 3] {
    const BYTES: usize = 24;

    fn write(self, bytes: &mut [u8]) {
        bytes.chunks_exact_mut(8).zip(self).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> [u64; 3] {
        std::array::from_fn(|i| u64::from_le_bytes(*bytes[8 * i..].first_chunk().expect("24 bytes")))
    }
}

/// Takes records in any order.
pub struct Spill<R> {
    /// Records that are kept in memory, at least 1.
    capacity: usize,
    folder: PathBuf,
    records: Vec<R>,
    file: Option<File>,
    /// For each run in the file, where it ends, in records.
    ends: Vec<u64>,
}

impl<R: Record> Spill<R> {
    /// `folder`: where the temporary file goes, if there must be one; the system's where it is empty.
    pub fn new(capacity: usize, folder: &Path) -> Spill<R> {
        let folder = temporary_folder(folder);
        Spill { capacity: capacity.max(1), folder, records: Vec::new(), file: None, ends: Vec::new() }
    }

    /// # Errors
    /// `Io` with the folder where the temporary file cannot be written.
    pub fn push(&mut self, record: R) -> Result<()> {
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

    /// Puts what is in memory into the file, as a run of its own.
    pub fn write_run(&mut self) -> Result<()> {
        self.records.par_sort_unstable();
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.folder).map_err(Error::io(&self.folder))?,
        };
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let mut bytes = vec![0; R::BYTES];
        let written = self.records.iter().try_for_each(|record| {
            record.write(&mut bytes);
            out.write_all(&bytes)
        });
        written.and_then(|()| out.flush()).map_err(Error::io(&self.folder))?;
        drop(out);
        self.file = Some(file);
        self.ends.push(self.ends.last().unwrap_or(&0) + self.records.len() as u64);
        self.records.clear();
        Ok(())
    }

    /// The number of records in memory.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// All records, to be read in order.
    pub fn finish(mut self) -> Result<Sorted<R>> {
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

/// Where temporary files go: the system's place for them where `folder` is empty.
pub fn temporary_folder(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { std::env::temp_dir() } else { folder.to_path_buf() }
}

/// Records in order.
pub enum Sorted<R> {
    InMemory(Vec<R>),
    OnDisk { file: File, folder: PathBuf, ends: Vec<u64>, capacity: usize },
}

/// One run as it is read back.
struct Run<R> {
    /// What is still in the file, in records.
    next: u64,
    end: u64,
    /// What has been read of it, and how much of that has been handed on.
    records: Vec<R>,
    at: usize,
}

impl<R: Record> Run<R> {
    /// The next record; `None` at the end of the run.
    fn pop(&mut self, file: &mut File, bytes: &mut [u8]) -> std::io::Result<Option<R>> {
        if self.at == self.records.len() {
            let count = (bytes.len() / R::BYTES).min((self.end - self.next) as usize);
            let bytes = &mut bytes[..count * R::BYTES];
            file.seek(SeekFrom::Start(self.next * R::BYTES as u64))?;
            file.read_exact(bytes)?;
            self.next += count as u64;
            self.records.clear();
            self.records.extend(bytes.chunks_exact(R::BYTES).map(R::read));
            self.at = 0;
        }
        let record = self.records.get(self.at).copied();
        self.at += 1;
        Ok(record)
    }
}

impl<R: Record> Sorted<R> {
    /// Hands on every record, in ascending order; can be done again.
    ///
    /// # Errors
    /// `Io` with the folder where the temporary file cannot be read; what `take` fails with.
    pub fn for_each(&mut self, mut take: impl FnMut(R) -> Result<()>) -> Result<()> {
        let (file, folder, ends, capacity) = match self {
            Sorted::InMemory(records) => {
                return records.iter().copied().try_for_each(take);
            }
            Sorted::OnDisk { file, folder, ends, capacity } => (file, folder, ends, *capacity),
        };
        // All runs together read ahead by what one of them had in memory; 64 KiB to 1 MiB each where that allows it.
        let ahead = (capacity / ends.len()).clamp(1, 1 << 16);
        let mut bytes = vec![0; ahead * R::BYTES];
        let starts = std::iter::once(&0).chain(ends.iter());
        let mut runs: Vec<Run<R>> =
            starts.zip(ends.iter()).map(|(&next, &end)| Run { next, end, records: Vec::new(), at: 0 }).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (i, run) in runs.iter_mut().enumerate() {
            heads.extend(run.pop(file, &mut bytes).map_err(Error::io(&*folder))?.map(|record| Reverse((record, i))));
        }
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((record, i)) = *head;
            take(record)?;
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
                sorted
                    .for_each(|r| {
                        found.push(r);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(found, expected, "{capacity}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn memory_is_never_reserved_beyond_the_budget() {
        let mut spill = Spill::new(3000, Path::new(""));
        for i in 0..10_000u128 {
            spill.push(i).unwrap();
            assert!(spill.records.capacity() <= 3000);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut spill = Spill::new(2, Path::new("/no/such/folder"));
        let stopped = (0..3u128).find_map(|i| spill.push(i).err()).unwrap().to_string();
        assert!(stopped.contains("/no/such/folder"), "{stopped}");
    }
}
