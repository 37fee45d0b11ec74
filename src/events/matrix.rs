//! A sparse matrix by rows.

use std::io::{self, Read, Write};

/// A sparse matrix by rows: of users over tracks, or its transpose. Columns ascend within a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Csr {
    /// Row `i` holds entries `indptr[i]..indptr[i + 1]`; `[rows + 1]`.
    pub indptr: Vec<u64>,
    /// Columns, `[entries]`.
    pub indices: Vec<u32>,
    /// `c ≥ 1`, `[entries]`.
    pub confidence: Vec<f32>,
    preference: Preference,
    pub columns: usize,
}

/// `p`, 0 (only skipped) to 1 (never skipped).
#[derive(Clone, Debug, PartialEq)]
enum Preference {
    /// `[entries]`
    Each(Vec<f32>),
    /// All are 1, as in any log without skips and dislikes: as many ones as the longest row has, so that the matrix is
    /// smaller by a third.
    Ones(Vec<f32>),
}

impl Default for Preference {
    fn default() -> Preference {
        Preference::Ones(Vec::new())
    }
}

impl Csr {
    /// From entries (row, column, confidence, preference) in the order of rows.
    pub fn from_sorted(rows: usize, columns: usize, entries: impl Iterator<Item = (u32, u32, f32, f32)>) -> Csr {
        let mut csr = Csr { indptr: vec![0; rows + 1], columns, ..Csr::default() };
        let mut each = Vec::new();
        for (row, column, confidence, preference) in entries {
            csr.indptr[row as usize + 1] += 1;
            csr.indices.push(column);
            csr.confidence.push(confidence);
            each.push(preference);
        }
        for i in 0..rows {
            csr.indptr[i + 1] += csr.indptr[i];
        }
        csr.with_preference(each)
    }

    /// From its parts; those of the entries may be in memory twice for the time of the call.
    pub(super) fn from_parts(
        indptr: Vec<u64>,
        indices: Vec<u32>,
        confidence: Vec<f32>,
        preference: Vec<f32>,
        columns: usize,
    ) -> Csr {
        Csr { indptr, indices, confidence, columns, ..Csr::default() }.with_preference(preference)
    }

    fn with_preference(mut self, each: Vec<f32>) -> Csr {
        self.preference = if each.iter().all(|&p| p == 1.0) { self.ones() } else { Preference::Each(each) };
        self
    }

    /// A matrix with rows of these lengths, to be filled through [`Csr::row_mut`].
    pub(super) fn with_rows(lengths: impl Iterator<Item = u32>, columns: usize, all_ones: bool) -> Csr {
        let mut indptr = vec![0];
        let mut end = 0;
        for length in lengths {
            end += u64::from(length);
            indptr.push(end);
        }
        let entries = end as usize;
        let mut csr = Csr {
            indptr,
            indices: vec![0; entries],
            confidence: vec![0.0; entries],
            preference: Preference::Each(Vec::new()),
            columns,
        };
        csr.preference = if all_ones { csr.ones() } else { Preference::Each(vec![0.0; entries]) };
        csr
    }

    fn ones(&self) -> Preference {
        let longest = (0..self.rows()).map(|i| self.row_len(i)).max();
        Preference::Ones(vec![1.0; longest.unwrap_or(0)])
    }

    /// Columns and confidences of a row, and its preferences where they are not all 1.
    pub(super) fn row_mut(&mut self, i: usize) -> (&mut [u32], &mut [f32], Option<&mut [f32]>) {
        let entries = self.indptr[i] as usize..self.indptr[i + 1] as usize;
        let preference = match &mut self.preference {
            Preference::Each(each) => Some(&mut each[entries.clone()]),
            Preference::Ones(_) => None,
        };
        (&mut self.indices[entries.clone()], &mut self.confidence[entries], preference)
    }

    pub fn rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Columns, confidences and preferences of a row.
    pub fn row(&self, i: usize) -> (&[u32], &[f32], &[f32]) {
        let entries = self.indptr[i] as usize..self.indptr[i + 1] as usize;
        let preference = match &self.preference {
            Preference::Each(each) => &each[entries.clone()],
            Preference::Ones(ones) => &ones[..entries.len()],
        };
        (&self.indices[entries.clone()], &self.confidence[entries], preference)
    }

    pub fn row_len(&self, i: usize) -> usize {
        (self.indptr[i + 1] - self.indptr[i]) as usize
    }

    /// The same entries by column.
    pub fn transpose(&self) -> Csr {
        let mut lengths = vec![0u32; self.columns];
        for &column in &self.indices {
            lengths[column as usize] += 1;
        }
        let all_ones = matches!(self.preference, Preference::Ones(_));
        let mut turned = Csr::with_rows(lengths.into_iter(), self.rows(), all_ones);
        let mut next = turned.indptr.clone();
        for row in 0..self.rows() {
            let (columns, confidence, preference) = self.row(row);
            for ((&column, &c), &p) in columns.iter().zip(confidence).zip(preference) {
                let at = next[column as usize] as usize;
                next[column as usize] += 1;
                turned.indices[at] = row as u32;
                turned.confidence[at] = c;
                if let Preference::Each(each) = &mut turned.preference {
                    each[at] = p;
                }
            }
        }
        turned
    }

    /// What must be known in order to read it back.
    pub(super) fn shape(&self) -> Shape {
        let all_ones = matches!(self.preference, Preference::Ones(_));
        Shape { rows: self.rows(), columns: self.columns, entries: self.len(), all_ones }
    }

    /// Writes its arrays one after the other, little-endian; the preferences only where they are not all 1.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_numbers(out, &self.indptr, |x| x.to_le_bytes())?;
        write_numbers(out, &self.indices, |x| x.to_le_bytes())?;
        write_numbers(out, &self.confidence, |x| x.to_le_bytes())?;
        match &self.preference {
            Preference::Each(each) => write_numbers(out, each, |x| x.to_le_bytes()),
            Preference::Ones(_) => Ok(()),
        }
    }

    /// Reads what [`Csr::write`] wrote into the memory that this one has.
    ///
    /// # Errors
    /// Where reading fails, and `InvalidData` where rows or columns are out of range.
    pub(super) fn read(&mut self, shape: Shape, from: &mut impl Read) -> io::Result<()> {
        self.columns = shape.columns;
        read_numbers(from, shape.rows + 1, &mut self.indptr, u64::from_le_bytes)?;
        read_numbers(from, shape.entries, &mut self.indices, u32::from_le_bytes)?;
        read_numbers(from, shape.entries, &mut self.confidence, f32::from_le_bytes)?;
        let ends_fit = self.indptr[0] == 0 && self.indptr[shape.rows] == shape.entries as u64;
        let ascends = self.indptr.windows(2).all(|ends| ends[0] <= ends[1]);
        // Without a branch for each number.
        let last = self.indices.iter().fold(0, |last, &column| column.max(last));
        if !(ends_fit && ascends && (last as usize) < shape.columns.max(1)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a shard of the matrix is damaged"));
        }
        if shape.all_ones {
            let mut ones = match std::mem::take(&mut self.preference) {
                Preference::Each(old) | Preference::Ones(old) => old,
            };
            ones.clear();
            ones.resize((0..shape.rows).map(|i| self.row_len(i)).max().unwrap_or(0), 1.0);
            self.preference = Preference::Ones(ones);
        } else {
            let mut each = match std::mem::take(&mut self.preference) {
                Preference::Each(old) | Preference::Ones(old) => old,
            };
            read_numbers(from, shape.entries, &mut each, f32::from_le_bytes)?;
            self.preference = Preference::Each(each);
        }
        Ok(())
    }

    /// The entries of these rows and columns, both numbered anew.
    pub(super) fn select(&self, rows: &[bool], columns: &[bool]) -> Csr {
        let mut number = vec![0; columns.len()];
        let mut kept_columns = 0;
        for (number, _) in number.iter_mut().zip(columns).filter(|(_, kept)| **kept) {
            *number = kept_columns;
            kept_columns += 1;
        }
        let kept_rows = || (0..self.rows()).filter(|&i| rows[i]);
        let kept = |column: &u32| columns[*column as usize];
        let length = |i: usize| self.row(i).0.iter().filter(|c| kept(c)).count() as u32;
        let all_ones = kept_rows().all(|i| self.row(i).0.iter().zip(self.row(i).2).all(|(c, &p)| p == 1.0 || !kept(c)));
        let mut selected = Csr::with_rows(kept_rows().map(length), kept_columns as usize, all_ones);
        for (to, from) in kept_rows().enumerate() {
            let (old, old_confidence, old_preference) = self.row(from);
            let (new, confidence, mut preference) = selected.row_mut(to);
            for (at, i) in (0..old.len()).filter(|&i| kept(&old[i])).enumerate() {
                new[at] = number[old[i] as usize];
                confidence[at] = old_confidence[i];
                if let Some(preference) = &mut preference {
                    preference[at] = old_preference[i];
                }
            }
        }
        selected
    }

    /// Which rows and columns are left once those with fewer than `row_minimum` and `column_minimum` entries are taken
    /// out, and those that fall below because of that, until none does. Takes time in proportion to the entries,
    /// however long the chain.
    pub(super) fn core(&self, row_minimum: u32, column_minimum: u32) -> (Vec<bool>, Vec<bool>) {
        // Rows of each column.
        let mut ends = vec![0u64; self.columns + 1];
        for &column in &self.indices {
            ends[column as usize + 1] += 1;
        }
        for i in 0..self.columns {
            ends[i + 1] += ends[i];
        }
        let mut next = ends.clone();
        let mut by_column = vec![0u32; self.len()];
        for row in 0..self.rows() {
            for &column in self.row(row).0 {
                by_column[next[column as usize] as usize] = row as u32;
                next[column as usize] += 1;
            }
        }
        let mut row_left: Vec<u32> = (0..self.rows()).map(|i| self.row_len(i) as u32).collect();
        let mut column_left: Vec<u32> = ends.windows(2).map(|e| (e[1] - e[0]) as u32).collect();
        let mut rows: Vec<bool> = row_left.iter().map(|&n| n >= row_minimum).collect();
        let mut columns: Vec<bool> = column_left.iter().map(|&n| n >= column_minimum).collect();
        let out = |kept: &[bool]| (0..kept.len() as u32).filter(|&i| !kept[i as usize]).collect::<Vec<u32>>();
        let (mut rows_out, mut columns_out) = (out(&rows), out(&columns));
        // Each row and column goes through here at most once.
        while !(rows_out.is_empty() && columns_out.is_empty()) {
            while let Some(row) = rows_out.pop() {
                for &column in self.row(row as usize).0 {
                    let column_left = &mut column_left[column as usize];
                    *column_left -= 1;
                    if columns[column as usize] && *column_left < column_minimum {
                        columns[column as usize] = false;
                        columns_out.push(column);
                    }
                }
            }
            while let Some(column) = columns_out.pop() {
                for &row in &by_column[ends[column as usize] as usize..ends[column as usize + 1] as usize] {
                    let row_left = &mut row_left[row as usize];
                    *row_left -= 1;
                    if rows[row as usize] && *row_left < row_minimum {
                        rows[row as usize] = false;
                        rows_out.push(row);
                    }
                }
            }
        }
        (rows, columns)
    }
}

/// Of a matrix in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub rows: usize,
    pub columns: usize,
    pub entries: usize,
    pub all_ones: bool,
}

impl Shape {
    /// The size in the file, in bytes.
    pub fn bytes(&self) -> u64 {
        8 * (self.rows as u64 + 1) + if self.all_ones { 8 } else { 12 } * self.entries as u64
    }
}

/// Numbers that are turned into bytes, or back, at a time.
const BLOCK: usize = 1 << 13;

pub(crate) fn write_numbers<T: Copy, const N: usize>(
    out: &mut impl Write,
    numbers: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(BLOCK * N);
    for block in numbers.chunks(BLOCK) {
        bytes.clear();
        bytes.extend(block.iter().flat_map(|&x| to_bytes(x)));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Exactly `count` numbers, into the memory that `numbers` has.
pub(crate) fn read_numbers<T: Copy, const N: usize>(
    from: &mut impl Read,
    count: usize,
    numbers: &mut Vec<T>,
    of_bytes: impl Fn([u8; N]) -> T,
) -> io::Result<()> {
    numbers.clear();
    numbers.reserve(count);
    let mut bytes = vec![0; BLOCK.min(count) * N];
    while numbers.len() < count {
        let bytes = &mut bytes[..BLOCK.min(count - numbers.len()) * N];
        from.read_exact(bytes)?;
        numbers.extend(bytes.as_chunks::<N>().0.iter().map(|&b| of_bytes(b)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_holds_the_same_entries_and_turns_back() {
        let entries = [(0, 3, 2.0, 1.0), (0, 1, 3.0, 0.5), (2, 0, 4.0, 0.0), (2, 3, 5.0, 1.0)];
        let csr = Csr::from_sorted(3, 5, entries.into_iter());
        let turned = csr.transpose();
        assert_eq!((turned.rows(), turned.columns), (5, 3));
        assert_eq!(turned.row(3), ([0, 2].as_slice(), [2.0, 5.0].as_slice(), [1.0, 1.0].as_slice()));
        assert_eq!(turned.row_len(4), 0);
        assert_eq!(turned.transpose().transpose(), turned);
    }

    #[test]
    fn preferences_that_are_all_one_are_not_stored_and_read_as_any_other() {
        let entries = [(0, 1, 2.0, 1.0), (0, 3, 3.0, 1.0), (2, 0, 4.0, 1.0)];
        let csr = Csr::from_sorted(3, 4, entries.into_iter());
        assert_eq!(csr.preference, Preference::Ones(vec![1.0; 2]));
        assert_eq!(csr.row(0).2, [1.0, 1.0]);
        assert_eq!(csr.row(1).2, [0.0; 0]);
        assert_eq!(csr.transpose().transpose(), csr);
        assert_eq!(csr.transpose().preference, Preference::Ones(vec![1.0; 1]));
        assert_eq!(Csr::default().transpose().rows(), 0);
    }

    #[test]
    fn a_matrix_comes_back_from_its_bytes_and_a_damaged_one_is_refused() {
        let some = Csr::from_sorted(3, 5, [(0, 3, 2.0, 1.0), (0, 1, 3.0, 0.5), (2, 4, 4.0, 0.0)].into_iter());
        let ones = Csr::from_sorted(4, 5, (0..4).flat_map(|i| [(i, 0, 2.5, 1.0), (i, i + 1, 1.5, 1.0)]));
        // Into the same memory, one after the other.
        let mut read = Csr::default();
        for csr in [&ones, &some, &ones, &Csr::from_sorted(2, 0, [].into_iter())] {
            let mut bytes = Vec::new();
            csr.write(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, csr.shape().bytes());
            read.read(csr.shape(), &mut bytes.as_slice()).unwrap();
            assert_eq!(&read, csr);
            assert!(read.read(csr.shape(), &mut &bytes[..bytes.len() - 1]).is_err());
        }
        let mut bytes = Vec::new();
        some.write(&mut bytes).unwrap();
        // The first row's end, then a column.
        for at in [8, 15, 32, 35] {
            let mut bad = bytes.clone();
            bad[at] |= 0x80;
            let error = read.read(some.shape(), &mut bad.as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at}");
        }
    }

    #[test]
    fn a_selection_is_numbered_anew() {
        let entries = [(0, 1, 2.0, 1.0), (0, 3, 3.0, 0.5), (1, 1, 7.0, 1.0), (2, 0, 4.0, 1.0), (2, 3, 5.0, 1.0)];
        let csr = Csr::from_sorted(3, 4, entries.into_iter());
        let left = csr.select(&[true, false, true], &[false, true, false, true]);
        let expected = [(0, 0, 2.0, 1.0), (0, 1, 3.0, 0.5), (1, 1, 5.0, 1.0)];
        assert_eq!(left, Csr::from_sorted(2, 2, expected.into_iter()));
        let ones = csr.select(&[true; 3], &[true, true, true, false]);
        assert_eq!(ones.preference, Preference::Ones(vec![1.0; 1]));
    }

    #[test]
    fn the_core_is_what_peeling_by_hand_leaves() {
        let mut state = 7u32;
        for round in 0..200 {
            let mut entries = Vec::new();
            for row in 0..12 {
                for column in 0..9 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if state >> 24 < 60 + round {
                        entries.push((row, column, 1.0, 1.0));
                    }
                }
            }
            let csr = Csr::from_sorted(12, 9, entries.iter().copied());
            let mut left = entries.clone();
            loop {
                let before = left.len();
                let many = |left: &[(u32, u32, f32, f32)], row| left.iter().filter(|e| e.0 == row).count() >= 2;
                left = left.iter().copied().filter(|e| many(&left, e.0)).collect();
                left = left.iter().copied().filter(|e| left.iter().filter(|f| f.1 == e.1).count() >= 3).collect();
                if left.len() == before {
                    break;
                }
            }
            let (rows, columns) = csr.core(2, 3);
            assert!((0..12u32).all(|row| rows[row as usize] == left.iter().any(|e| e.0 == row)));
            assert!((0..9u32).all(|column| columns[column as usize] == left.iter().any(|e| e.1 == column)));
        }
    }

    #[test]
    fn a_long_chain_is_peeled_in_one_go() {
        // Row i meets columns i and i + 1: nothing but the ends is below 2, and all goes.
        let n = 300_000;
        let csr = Csr::from_sorted(n, n + 1, (0..n as u32).flat_map(|i| [(i, i, 1.0, 1.0), (i, i + 1, 1.0, 1.0)]));
        let (rows, columns) = csr.core(2, 2);
        assert!(!rows.contains(&true) && !columns.contains(&true));
        let (rows, columns) = csr.core(2, 1);
        assert!(!rows.contains(&false) && !columns.contains(&false));
    }
}
