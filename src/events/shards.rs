//! Interactions of more listeners than memory holds: the matrix of users over tracks lies on disk, in shards of users.
//!
//! ```text
//! Event ──► 24 bytes, sorted by the hash of the user's name ──► rows ──► minimums, hold-out ──► shards
//!       └─► names, sorted alike ──────────────────────────────────────────────────────────────► names
//! ```
//!
//! Everything about users is on disk, and comes in one order: that of a hash of their names, so that the same events in any
//! order make the same shards. A shard holds its part of the matrix twice, by user and by track, for one pass over the
//! shards serves both sides of a factorisation, and nothing of the size of the matrix is ever turned around.
//! In memory are the tracks, and one byte a user while the shards are made.
//!
//! The temporary files have no names, so nothing of them is left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::confidence::ConfidenceConfig;
use super::interactions::{Gate, Met, Pair, Rows, alphabetical, nobody_is_left, nothing_weighs, numbers, places};
use super::matrix::{Csr, Shape, read_numbers};
use super::names::Names;
use super::spill::{Record, Spill, temporary_folder};
use super::{Event, EventsConfig};
use crate::error::{Error, Result};
use crate::ids::{Ids, TrackId};

/// What is read or written at a time, in bytes.
const BUFFER: usize = 1 << 20;
/// What a pair takes in a shard that is in memory, in bytes: by user and by track, each 12.
const PAIR_BYTES: usize = 24;

/// Takes events one at a time, in any order. Memory: [`EventsConfig::memory_mb`] for events and the names of users, beyond
/// which they go to temporary files; and the names of tracks.
pub struct ShardsBuilder {
    gate: Gate,
    memory: usize,
    folder: PathBuf,
    names: Names,
    tracks: Ids<TrackId>,
    /// The hash of the user's name, then what the event says.
    events: Spill<[u64; 3]>,
}

/// How large shards are.
#[derive(Clone, Copy, Debug)]
pub struct ShardSize {
    /// In memory, in bytes.
    pub bytes: usize,
    /// What a user of the shard takes beside the pairs, in bytes.
    pub user_bytes: usize,
}

impl ShardsBuilder {
    /// `folder`: where the shards go; and the events before them, where [`EventsConfig::spill`] names no other.
    /// `now` as in [`InteractionsBuilder::new`](super::InteractionsBuilder::new).
    ///
    /// # Errors
    /// `Invalid` where a setting is out of range; `Io` where the folder cannot be made.
    pub fn new(config: &ConfidenceConfig, events: &EventsConfig, now: Option<i64>, folder: &Path) -> Result<Self> {
        let gate = Gate::new(config, now)?;
        events.check()?;
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // Known before hours of reading.
        drop(tempfile::tempfile_in(folder).map_err(Error::io(folder))?);
        let memory = events.memory_mb.saturating_mul(1 << 20);
        let spill = if events.spill.as_os_str().is_empty() { folder.to_path_buf() } else { events.spill.clone() };
        Ok(ShardsBuilder {
            gate,
            memory,
            folder: folder.to_path_buf(),
            names: Names::new(temporary_folder(&spill)),
            tracks: Ids::new(),
            events: Spill::new(memory / <[u64; 3]>::BYTES, &spill),
        })
    }

    /// # Errors
    /// As [`InteractionsBuilder::push`](super::InteractionsBuilder::push).
    pub fn push(&mut self, event: &Event) -> Result<()> {
        let Some(met) = self.gate.take(event)? else { return Ok(()) };
        let hash = self.names.push(&event.user);
        let low = Met { track: self.tracks.intern(&event.track), ..met }.pack();
        self.events.push([(hash >> 32) as u64, (hash as u64) << 32 | (low >> 64) as u64, low as u64])?;
        if self.events.len() * <[u64; 3]>::BYTES + self.names.bytes() >= self.memory || self.names.is_long() {
            self.events.write_run()?;
            self.names.write_run()?;
        }
        Ok(())
    }

    /// The shards of all that was pushed, without the tracks that are `held_out` (and the users who met no other).
    ///
    /// Minimums of tracks per user and users per track take a pass over the rows for each round of leaving out: a few
    /// for any real log, though a chain of users who keep each other in can be made that takes many.
    ///
    /// # Errors
    /// `Invalid` where there was nothing, or nothing is left under the minimums or beside what is held out; `Io` with the
    /// folder where a temporary file cannot be written or read.
    pub fn finish(self, size: ShardSize, held_out: &dyn Fn(&TrackId) -> bool) -> Result<Shards> {
        let ShardsBuilder { gate, memory, folder, names, tracks, mut events } = self;
        if events.len() > 0 {
            events.write_run()?; // so that its memory is free
        }
        let (mut events, mut names) = (events.finish()?, names.finish(memory / 4)?);
        let tracks = tracks.into_names();
        let track_order = alphabetical(&tracks);
        let config = gate.config();
        let weighed = Rows { config, now: gate.now(), track_places: places(&track_order) };
        let of_user = |[high, middle, low]: [u64; 3]| {
            let hash = u128::from(high) << 32 | u128::from(middle >> 32);
            let met = Met::unpack(u128::from(middle as u32) << 64 | u128::from(low));
            (hash, hash & 1 == 1, met)
        };

        // The rows, with tracks as they are numbered now; how many users each track has; and which users have a row.
        let mut rows = RowsFile::create(&folder)?;
        let mut listeners = vec![0u32; tracks.len()];
        let mut is_kept = Vec::new();
        weighed.for_each(&mut events, of_user, |_, row| {
            row.iter().for_each(|pair| listeners[pair.track as usize] += 1);
            is_kept.push(!row.is_empty());
            rows.push(row)
        })?;
        drop(events);
        if !is_kept.contains(&true) {
            return Err(nothing_weighs(&config));
        }
        let (least_tracks, least_users) = (config.min_tracks_per_user.max(1), config.min_users_per_track.max(1));
        let mut changed = least_tracks > 1 || least_users > 1;
        while changed {
            changed = false;
            rows.for_each(tracks.len(), |user, row| {
                let met = row.tracks.iter().filter(|&&t| listeners[t as usize] >= least_users).count();
                if is_kept[user] && met < least_tracks as usize {
                    is_kept[user] = false;
                    row.tracks.iter().for_each(|&t| listeners[t as usize] -= 1);
                    changed = true;
                }
                Ok(())
            })?;
        }
        let is_left = |track: u32| listeners[track as usize] >= least_users;
        let (out, kept): (Vec<u32>, Vec<u32>) =
            track_order.into_iter().filter(|&t| is_left(t)).partition(|&t| held_out(&tracks[t as usize]));
        if kept.is_empty() {
            let everything = format!("all {} of them", out.len());
            return Err(match out.is_empty() {
                true => nobody_is_left(&config),
                false => Error::invalid("tracks to be held out", "some of the tracks", everything),
            });
        }

        let named = |order: &[u32]| order.iter().map(|&t| tracks[t as usize].clone()).collect::<Vec<_>>();
        let track_numbers = numbers(&kept, tracks.len());
        let mut writer = ShardsWriter::create(&folder, named(&kept).into_iter().collect(), size)?;
        let mut row_of_shard: Vec<(u32, f32, f32)> = Vec::new();
        rows.for_each(tracks.len(), |user, row| {
            let name = names.pop()?.ok_or_else(|| damaged(&folder, "there are more rows than names"))?.1;
            if !is_kept[user] {
                return Ok(());
            }
            row_of_shard.clear();
            let entries = row.tracks.iter().zip(row.confidence).zip(row.preference);
            let numbered = entries.map(|((&t, &c), &p)| (track_numbers[t as usize], c, p));
            row_of_shard.extend(numbered.filter(|&(track, ..)| track != u32::MAX));
            row_of_shard.sort_unstable_by_key(|&(track, ..)| track);
            writer.push(name.as_str(), name.is_playlist(), &row_of_shard)
        })?;
        drop(rows);
        writer.finish(config, weighed.now, named(&out))
    }
}

fn damaged(folder: &Path, what: &str) -> Error {
    Error::io(folder)(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Rows one after the other in a temporary file: of each its length, its tracks, confidences and preferences.
struct RowsFile {
    folder: PathBuf,
    out: BufWriter<File>,
}

struct Row<'a> {
    tracks: &'a [u32],
    confidence: &'a [f32],
    preference: &'a [f32],
}

impl RowsFile {
    fn create(folder: &Path) -> Result<RowsFile> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
        Ok(RowsFile { folder: folder.to_path_buf(), out: BufWriter::with_capacity(BUFFER, file) })
    }

    fn push(&mut self, row: &[Pair]) -> Result<()> {
        let mut write = || {
            self.out.write_all(&(row.len() as u32).to_le_bytes())?;
            row.iter().try_for_each(|pair| self.out.write_all(&pair.track.to_le_bytes()))?;
            row.iter().try_for_each(|pair| self.out.write_all(&pair.confidence.to_le_bytes()))?;
            row.iter().try_for_each(|pair| self.out.write_all(&pair.preference.to_le_bytes()))
        };
        write().map_err(Error::io(&self.folder))
    }

    /// Hands on the rows and their numbers; can be done again.
    fn for_each(&mut self, tracks: usize, mut take: impl FnMut(usize, Row) -> Result<()>) -> Result<()> {
        let io = |e| Error::io(&self.folder)(e);
        self.out.flush().map_err(io)?;
        let file = self.out.get_mut();
        let mut left = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut from = BufReader::with_capacity(BUFFER, &*file);
        let (mut columns, mut confidence, mut preference) = (Vec::new(), Vec::new(), Vec::new());
        for user in 0.. {
            if left == 0 {
                break;
            }
            let mut length = [0; 4];
            from.read_exact(&mut length).map_err(io)?;
            let length = u32::from_le_bytes(length) as usize;
            let bytes = 4 + 12 * length as u64;
            if length > tracks || bytes > left {
                return Err(damaged(&self.folder, "a row is longer than can be"));
            }
            left -= bytes;
            read_numbers(&mut from, length, &mut columns, u32::from_le_bytes).map_err(io)?;
            read_numbers(&mut from, length, &mut confidence, f32::from_le_bytes).map_err(io)?;
            read_numbers(&mut from, length, &mut preference, f32::from_le_bytes).map_err(io)?;
            if columns.iter().any(|&track| track as usize >= tracks) {
                return Err(damaged(&self.folder, "a row has a track that is none"));
            }
            take(user, Row { tracks: &columns, confidence: &confidence, preference: &preference })?;
        }
        Ok(())
    }
}

/// Who met what, on disk: the matrix in shards of users, each by user and by track, and the users' names.
#[derive(Debug)]
pub struct Shards {
    /// The number of users.
    pub users: usize,
    /// In alphabetical order.
    pub tracks: Ids<TrackId>,
    /// For each track, the listeners (playlists are none) who did more than skip it.
    pub plays: Vec<u32>,
    /// For each track, its entries.
    pub track_lengths: Vec<u32>,
    /// For each track, whether a preference for it is above 0.
    pub is_preferred: Vec<bool>,
    /// How many rows of users have so many entries.
    pub row_lengths: BTreeMap<u32, u64>,
    /// `Σ c p²`: the loss of predicting 0 everywhere.
    pub loss_of_nothing: f64,
    /// The number of entries.
    pub pairs: u64,
    /// How the confidences were made.
    pub config: ConfidenceConfig,
    /// The Unix time, in seconds, from which ages were counted.
    pub now: i64,
    /// The tracks that were left out.
    pub held_out: Vec<TrackId>,
    /// BLAKE3 of names and matrix.
    pub digest: [u8; 32],
    folder: PathBuf,
    matrix: Mutex<File>,
    names: Mutex<File>,
    shards: Vec<Shard>,
}

/// Where a shard is in the file, in bytes: by user from `start`, then by track.
#[derive(Clone, Copy, Debug)]
struct Shard {
    first_user: usize,
    start: u64,
    by_user: Shape,
    by_track: Shape,
}

impl Shards {
    /// The number of shards.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Where the temporary files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The users of a shard, by their numbers.
    pub fn users_of(&self, shard: usize) -> std::ops::Range<usize> {
        let Shard { first_user, by_user, .. } = self.shards[shard];
        first_user..first_user + by_user.rows
    }

    /// Reads a shard, `[its users, tracks]`, into the memory of `csr`.
    ///
    /// # Errors
    /// `Io` with the folder where it cannot be read, or is damaged such that rows or columns are out of range.
    pub fn read_by_user(&self, shard: usize, csr: &mut Csr) -> Result<()> {
        let Shard { start, by_user, .. } = self.shards[shard];
        self.read(start, by_user, csr)
    }

    /// The same by track, `[tracks, its users]`, with users numbered from 0 in each shard.
    ///
    /// # Errors
    /// As [`Shards::read_by_user`].
    pub fn read_by_track(&self, shard: usize, csr: &mut Csr) -> Result<()> {
        let Shard { start, by_user, by_track, .. } = self.shards[shard];
        self.read(start + by_user.bytes(), by_track, csr)
    }

    fn read(&self, at: u64, shape: Shape, csr: &mut Csr) -> Result<()> {
        let mut file = self.matrix.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = || {
            file.seek(SeekFrom::Start(at))?;
            csr.read(shape, &mut *file)
        };
        read().map_err(Error::io(&self.folder))
    }

    /// Writes the users' names, one a line.
    pub fn write_names(&self, out: &mut impl Write) -> io::Result<()> {
        let mut file = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut *file, out).map(|_| ())
    }
}

/// Collects rows into shards.
struct ShardsWriter {
    size: ShardSize,
    matrix: BufWriter<File>,
    names: BufWriter<File>,
    hasher: blake3::Hasher,
    /// Without its last fields, which come at the end.
    done: Shards,
    at: u64,
    indptr: Vec<u64>,
    indices: Vec<u32>,
    confidence: Vec<f32>,
    preference: Vec<f32>,
}

impl ShardsWriter {
    fn create(folder: &Path, tracks: Ids<TrackId>, size: ShardSize) -> Result<ShardsWriter> {
        let file = || tempfile::tempfile_in(folder).map_err(Error::io(folder));
        let (matrix, names) = (file()?, file()?);
        let again = |file: &File| file.try_clone().map_err(Error::io(folder));
        let mut hasher = blake3::Hasher::new();
        for track in tracks.names() {
            hasher.update(&(track.as_str().len() as u64).to_le_bytes()).update(track.as_str().as_bytes());
        }
        let n = tracks.len();
        Ok(ShardsWriter {
            size,
            hasher,
            done: Shards {
                users: 0,
                tracks,
                plays: vec![0; n],
                track_lengths: vec![0; n],
                is_preferred: vec![false; n],
                row_lengths: BTreeMap::new(),
                loss_of_nothing: 0.0,
                pairs: 0,
                config: ConfidenceConfig::default(),
                now: 0,
                held_out: Vec::new(),
                digest: [0; 32],
                folder: folder.to_path_buf(),
                matrix: Mutex::new(again(&matrix)?),
                names: Mutex::new(again(&names)?),
                shards: Vec::new(),
            },
            matrix: BufWriter::with_capacity(BUFFER, matrix),
            names: BufWriter::with_capacity(BUFFER, names),
            at: 0,
            indptr: vec![0],
            indices: Vec::new(),
            confidence: Vec::new(),
            preference: Vec::new(),
        })
    }

    /// A row's entries: track, confidence, preference, with tracks ascending; one without any is left out.
    fn push(&mut self, name: &str, is_playlist: bool, row: &[(u32, f32, f32)]) -> Result<()> {
        if row.is_empty() {
            return Ok(());
        }
        let done = &mut self.done;
        writeln!(self.names, "{name}").map_err(Error::io(&done.folder))?;
        self.hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        self.hasher.update(&(row.len() as u64).to_le_bytes());
        for &(track, c, p) in row {
            done.track_lengths[track as usize] += 1;
            done.is_preferred[track as usize] |= p > 0.0;
            done.plays[track as usize] += u32::from(!is_playlist && p > 0.0);
            done.loss_of_nothing += f64::from(c * p) * f64::from(p);
            self.indices.push(track);
            self.confidence.push(c);
            self.preference.push(p);
        }
        done.users += 1;
        done.pairs += row.len() as u64;
        *done.row_lengths.entry(row.len() as u32).or_default() += 1;
        self.indptr.push(self.indices.len() as u64);
        // A shard has a place for each track, too: few entries on many tracks would be mostly that.
        let places = size_of::<u64>() * done.tracks.len();
        let users = (self.indptr.len() - 1) * (2 * size_of::<u64>() + self.size.user_bytes);
        if PAIR_BYTES * self.indices.len() + users >= self.size.bytes.max(places) {
            self.end_shard()?;
        }
        Ok(())
    }

    fn end_shard(&mut self) -> Result<()> {
        let indptr = std::mem::replace(&mut self.indptr, vec![0]);
        let (indices, confidence) = (std::mem::take(&mut self.indices), std::mem::take(&mut self.confidence));
        let by_user =
            Csr::from_parts(indptr, indices, confidence, std::mem::take(&mut self.preference), self.done.tracks.len());
        let by_track = by_user.transpose();
        // The same bytes in `read_by_user`, so hashed as they are written.
        let mut out = Hashed { out: &mut self.matrix, hasher: &mut self.hasher };
        by_user
            .write(&mut out)
            .and_then(|()| by_track.write(&mut self.matrix))
            .map_err(Error::io(&self.done.folder))?;
        let shard = Shard {
            first_user: self.done.users - by_user.rows(),
            start: self.at,
            by_user: by_user.shape(),
            by_track: by_track.shape(),
        };
        self.at += shard.by_user.bytes() + shard.by_track.bytes();
        self.done.shards.push(shard);
        Ok(())
    }

    fn finish(mut self, config: ConfidenceConfig, now: i64, held_out: Vec<TrackId>) -> Result<Shards> {
        if self.indptr.len() > 1 {
            self.end_shard()?;
        }
        let mut done = self.done;
        self.matrix.flush().and_then(|()| self.names.flush()).map_err(Error::io(&done.folder))?;
        (done.config, done.now, done.held_out) = (config, now, held_out);
        done.digest = self.hasher.finalize().into();
        Ok(done)
    }
}

/// Hashes what is written.
struct Hashed<'a, W> {
    out: &'a mut W,
    hasher: &'a mut blake3::Hasher,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Action, Interactions, interactions};
    use crate::ids::UserId;

    /// A log with every action, playlists, and repeats at the same second.
    fn log(n: u32) -> Vec<Event> {
        let events = (0..n).map(|i| {
            let mut h = i.wrapping_mul(2_654_435_761);
            h ^= h >> 15;
            let user = if h % 7 == 0 { format!("playlist:{} 🏖", h >> 29) } else { format!("u{}", h >> 25) };
            Event {
                time: i64::from(h % 300) * 86_400,
                user: UserId::new(user).unwrap(),
                track: TrackId::new(format!("t{}", (h >> 20) & 31)).unwrap(),
                action: Action::ALL[(h >> 3) as usize % 8],
                value: (h % 7) as f32 / 7.0,
            }
        });
        events.collect()
    }

    /// `write_run` after so many events.
    fn builder(events: &[Event], config: &ConfidenceConfig, folder: &Path, run: usize) -> ShardsBuilder {
        let mut builder = ShardsBuilder::new(config, &EventsConfig::default(), None, folder).unwrap();
        for (i, event) in events.iter().enumerate() {
            builder.push(event).unwrap();
            if i % run == run - 1 {
                builder.events.write_run().unwrap();
                builder.names.write_run().unwrap();
            }
        }
        builder
    }

    fn size(bytes: usize) -> ShardSize {
        ShardSize { bytes, user_bytes: 0 }
    }

    type Entry = (String, u32, u32, u32);

    /// User, track, and the bits of confidence and preference, in order; by user and by track must hold the same.
    fn entries(shards: &Shards) -> Vec<Entry> {
        let mut names = Vec::new();
        shards.write_names(&mut names).unwrap();
        let names = String::from_utf8(names).unwrap();
        let names: Vec<&str> = names.lines().collect();
        assert_eq!(names.len(), shards.users);
        let (mut all, mut csr, mut turned) = (Vec::new(), Csr::default(), Csr::default());
        let mut next = 0;
        for shard in 0..shards.len() {
            let users = shards.users_of(shard);
            assert_eq!(users.start, next);
            next = users.end;
            shards.read_by_user(shard, &mut csr).unwrap();
            shards.read_by_track(shard, &mut turned).unwrap();
            assert_eq!(csr.transpose(), turned);
            for (row, user) in users.enumerate() {
                let (tracks, c, p) = csr.row(row);
                assert!(tracks.windows(2).all(|t| t[0] < t[1]));
                let row = tracks.iter().zip(c).zip(p);
                all.extend(row.map(|((&t, c), p)| (names[user].to_string(), t, c.to_bits(), p.to_bits())));
            }
        }
        assert_eq!((next, all.len() as u64), (shards.users, shards.pairs));
        all.sort();
        all
    }

    fn entries_in_memory(data: &Interactions) -> Vec<Entry> {
        let mut all = Vec::new();
        for (row, user) in data.users.names().iter().enumerate() {
            let (tracks, c, p) = data.by_user.row(row);
            let row = tracks.iter().zip(c).zip(p);
            all.extend(row.map(|((&t, c), p)| (user.to_string(), t, c.to_bits(), p.to_bits())));
        }
        all.sort();
        all
    }

    #[test]
    fn shards_hold_the_matrix_that_is_made_in_memory_whatever_caps_and_minimums() {
        let (events, dir) = (log(20_000), tempfile::tempdir().unwrap());
        // Some tracks have five times the listeners of others.
        let mut few = log(900);
        few.retain(|event| event.track.as_str() < "t2" || event.time % (5 * 86_400) == 0);
        for (events, max, tracks, users) in
            [(&events, 0, 0, 0), (&events, 20, 0, 0), (&few, 0, 2, 8), (&few, 8, 2, 12), (&few, 0, 0, 12)]
        {
            let config = ConfidenceConfig {
                max_tracks_per_user: max,
                min_tracks_per_user: tracks,
                min_users_per_track: users,
                ..ConfidenceConfig::default()
            };
            let expected = interactions(events.iter().cloned(), &config, None).unwrap();
            let shards = builder(events, &config, dir.path(), 777).finish(size(1000), &|_| false).unwrap();
            assert!(shards.len() > 5, "{}", shards.len());
            assert_eq!((shards.users, shards.now), (expected.users.len(), expected.now));
            let unlimited = interactions(events.iter().cloned(), &config.without_limits(), None).unwrap();
            assert_eq!(unlimited.by_user.len() > expected.by_user.len(), max + tracks + users > 0);
            assert_eq!((shards.tracks.names(), &shards.plays), (expected.tracks.names(), &expected.plays));
            assert_eq!(entries(&shards), entries_in_memory(&expected), "{max} {tracks} {users}");
            let by_track = expected.by_user.transpose();
            let lengths: Vec<u32> = (0..by_track.rows()).map(|t| by_track.row_len(t) as u32).collect();
            assert_eq!(shards.track_lengths, lengths);
            assert_eq!(shards.row_lengths.values().sum::<u64>(), shards.users as u64);
            let liked = |t| by_track.row(t).2.iter().any(|&p| p > 0.0);
            assert!((0..by_track.rows()).all(|t| shards.is_preferred[t] == liked(t)));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn neither_the_order_of_events_nor_memory_shows() {
        let (mut events, dir) = (log(5000), tempfile::tempdir().unwrap());
        let config = ConfidenceConfig { max_tracks_per_user: 20, ..ConfidenceConfig::default() };
        let digest = |events: &[Event], run, bytes| {
            builder(events, &config, dir.path(), run).finish(size(bytes), &|_| false).unwrap().digest
        };
        let expected = digest(&events, 100_000, 1000);
        assert_eq!(digest(&events, 33, 1000), expected);
        events.reverse();
        events.rotate_left(1234);
        assert_eq!(digest(&events, 4999, 1000), expected);
        assert_ne!(digest(&events[1..], 4999, 1000), expected);
    }

    #[test]
    fn what_is_held_out_is_out_with_those_who_met_nothing_else() {
        let (events, dir) = (log(300), tempfile::tempdir().unwrap());
        let config = ConfidenceConfig { min_users_per_track: 2, ..ConfidenceConfig::default() };
        let held_out = |track: &TrackId| track.as_str().ends_with(['1', '2', '3', '4', '5', '6', '7']);
        let data = interactions(events.iter().cloned(), &config, None).unwrap();
        let (kept, out) = (data.retain_tracks(|t| !held_out(t)), data.retain_tracks(held_out));
        assert!(kept.users.len() < data.users.len());
        let with = |held_out: &dyn Fn(&TrackId) -> bool| {
            builder(&events, &config, dir.path(), 1000).finish(size(1000), held_out)
        };
        let shards = with(&held_out).unwrap();
        assert_eq!(entries(&shards), entries_in_memory(&kept));
        assert_eq!((shards.tracks.names(), &shards.plays), (kept.tracks.names(), &kept.plays));
        assert_eq!(shards.held_out, out.tracks.names());
        assert!(with(&|_| true).unwrap_err().to_string().contains("held out"));
    }

    #[test]
    fn nothing_and_too_little_are_errors() {
        let (events, dir) = (log(100), tempfile::tempdir().unwrap());
        let none = ConfidenceConfig::default();
        let message = builder(&[], &none, dir.path(), 1).finish(size(1), &|_| false).unwrap_err().to_string();
        assert!(message.contains("carries weight"), "{message}");
        let strict = ConfidenceConfig { min_users_per_track: 5000, ..none };
        let message = builder(&events, &strict, dir.path(), 9).finish(size(1), &|_| false).unwrap_err().to_string();
        assert!(message.contains("min_users_per_track"), "{message}");
        let event = Event { value: f32::NAN, ..events[0].clone() };
        assert!(builder(&[], &none, dir.path(), 1).push(&event).is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_and_damage_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file");
        fs::write(&file, "x").unwrap();
        let (config, reading) = (ConfidenceConfig::default(), EventsConfig::default());
        let refused = ShardsBuilder::new(&config, &reading, None, &file.join("shards")).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("a file"), "{refused}");

        let shards = builder(&log(2000), &config, dir.path(), 1000).finish(size(1000), &|_| false).unwrap();
        let last = shards.len() - 1;
        let mut csr = Csr::default();
        let before = entries(&shards);
        // In the first row's end; then short by a byte.
        shards.matrix.lock().unwrap().seek(SeekFrom::Start(shards.shards[last].start + 8)).unwrap();
        shards.matrix.lock().unwrap().write_all(&[0xff; 8]).unwrap();
        let message = shards.read_by_user(last, &mut csr).unwrap_err().to_string();
        assert!(message.contains("damaged") && message.contains(dir.path().to_str().unwrap()), "{message}");
        let length = shards.matrix.lock().unwrap().metadata().unwrap().len();
        shards.matrix.lock().unwrap().set_len(length - 1).unwrap();
        let message = shards.read_by_track(last, &mut csr).unwrap_err().to_string();
        assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
        assert!(!before.is_empty() && shards.read_by_user(0, &mut csr).is_ok());
    }
}
