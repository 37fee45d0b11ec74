//! Which tracks a model may learn from, by which its training is judged, and which stand for new ones at the end.
//!
//! Three rules, each a stricter question than the one before:
//!
//! - *track*: by a hash of the id. A held-out track's artist, album and mastering are known from others.
//! - *artist*: whole artists. What is new is new in everything but its style.
//! - *time*: what came out last, and nothing that anyone did from then on: as in service.
//!
//! A split is a file, so that every stage that learns something keeps to the same one:
//!
//! ```text
//! # rule=time seed=1 test=0.2 valid=0.1 cut=1753833600 date=2025-07-30 blake3=…
//! id,part
//! 0ad/alba_longa_burns,train
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::split;
use crate::artefact::atomic_write;
use crate::dates::date_of;
use crate::error::{Error, Result};
use crate::ids::TrackId;

/// Where a track is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Learned from.
    Train,
    /// Learned from by the factorisation, not by the network: it judges the network's epochs.
    Valid,
    /// Taken for new by all.
    Test,
}

/// How large the parts are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Share of the tracks that is held out: 0.2.
    pub test: f64,
    /// Share of the rest by which training is judged: 0.1.
    pub valid: f64,
    /// Of the hashes.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig { test: 0.2, valid: 0.1, seed: 1 }
    }
}

impl SplitConfig {
    /// # Errors
    /// `Invalid` for a share that is not between 0 and 1.
    pub fn check(&self) -> Result<()> {
        for (what, share) in [("split.test", self.test), ("split.valid", self.valid)] {
            if !(share > 0.0 && share < 1.0) {
                return Err(Error::invalid(what, "more than 0 and less than 1", share));
            }
        }
        Ok(())
    }

    fn made(&self, rule: &str) -> String {
        format!("rule={rule} seed={} test={} valid={}", self.seed, self.test, self.valid)
    }
}

/// What a split goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub id: TrackId,
    pub artist: Option<String>,
    pub album: Option<String>,
    /// When it came out, in Unix seconds; else when it was first played.
    pub time: Option<i64>,
}

/// A part for each track.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackSplit {
    /// How it was made, as `name=value` pairs.
    pub made: String,
    /// Of a split by time: nothing that happened from this Unix second on may be learned from.
    pub cut: Option<i64>,
    pub parts: BTreeMap<TrackId, Part>,
}

/// What the first line may say.
const NAMES: [&str; 6] = ["rule", "seed", "test", "valid", "cut", "date"];

/// Another hash than that of the held-out tracks.
const VALID: u64 = 0x76616c;

impl TrackSplit {
    /// By a hash of each id: a track stays where it is however much the catalogue grows.
    ///
    /// # Errors
    /// `Invalid` for a share out of range, and where a part would be empty (of this rule and the others).
    pub fn by_track(tracks: &[Candidate], config: &SplitConfig) -> Result<TrackSplit> {
        let part = |id: &TrackId| match () {
            () if split(id, config.seed) < config.test => Part::Test,
            () if split(id, config.seed ^ VALID) < config.valid => Part::Valid,
            () => Part::Train,
        };
        let parts = tracks.iter().map(|track| (track.id.clone(), part(&track.id)));
        TrackSplit { made: config.made("track"), cut: None, parts: parts.collect() }.checked(config)
    }

    /// By whole artists (the album where there is none, the track itself where there is neither), in the order of a hash
    /// of the name, until the share is met. One that would overshoot it by more than a tenth is passed over. A track without
    /// an artist may be by any that its album names, so all of these stay together (unless they are more than 16).
    pub fn by_artist(tracks: &[Candidate], config: &SplitConfig) -> Result<TrackSplit> {
        let mut groups: BTreeMap<(u8, String), Vec<&TrackId>> = BTreeMap::new();
        for (track, group) in tracks.iter().zip(artists_together(tracks)) {
            groups.entry(group).or_default().push(&track.id);
        }
        let mut parts: BTreeMap<TrackId, Part> = BTreeMap::new();
        let mut left: Vec<_> = groups.into_iter().map(|((kind, name), ids)| (format!("{kind} {name}"), ids)).collect();
        let mut n = tracks.len();
        for (part, share, seed) in
            [(Part::Test, config.test, config.seed), (Part::Valid, config.valid, config.seed ^ VALID)]
        {
            left.sort_by(|a, b| split(&a.0, seed).total_cmp(&split(&b.0, seed)).then_with(|| a.0.cmp(&b.0)));
            let wanted = share * n as f64;
            let mut taken = 0;
            left.retain(|(_, ids)| {
                let takes = (taken as f64) < wanted && (taken + ids.len()) as f64 <= 1.1 * wanted;
                if takes {
                    taken += ids.len();
                    parts.extend(ids.iter().map(|&id| (id.clone(), part)));
                }
                !takes
            });
            n -= taken;
        }
        parts.extend(left.into_iter().flat_map(|(_, ids)| ids).map(|id| (id.clone(), Part::Train)));
        TrackSplit { made: config.made("artist"), cut: None, parts }.checked(config)
    }

    /// The latest are held out, those before them judge. Equal times stay together: a boundary falls between two times,
    /// where the share is met best. A track without a time counts as the oldest.
    pub fn by_time(tracks: &[Candidate], config: &SplitConfig) -> Result<TrackSplit> {
        let mut order: Vec<(i64, &TrackId)> =
            tracks.iter().map(|track| (track.time.unwrap_or(i64::MIN), &track.id)).collect();
        order.sort_unstable();
        let of_all = boundary(&order, config.test);
        let of_rest = boundary(&order[..of_all], config.valid);
        let part = |i: usize| match () {
            () if i >= of_all => Part::Test,
            () if i >= of_rest => Part::Valid,
            () => Part::Train,
        };
        let parts: BTreeMap<_, _> = order.iter().enumerate().map(|(i, &(_, id))| (id.clone(), part(i))).collect();
        let Some(&(cut, _)) = order.get(of_all) else {
            return Err(Error::invalid("split by time", "tracks of more than one time", tracks.len()));
        };
        let made = format!("{} cut={cut} date={}", config.made("time"), date_of(cut));
        TrackSplit { made, cut: Some(cut), parts }.checked(config)
    }

    fn checked(self, config: &SplitConfig) -> Result<TrackSplit> {
        config.check()?;
        for part in [Part::Train, Part::Valid, Part::Test] {
            if self.count(part) == 0 {
                let found = format!("none {part:?} of {}", self.parts.len());
                return Err(Error::invalid(format!("split ({})", self.made), "tracks in each part", found));
            }
        }
        Ok(self)
    }

    pub fn count(&self, part: Part) -> usize {
        self.parts.values().filter(|p| **p == part).count()
    }

    pub fn is(&self, id: &TrackId, part: Part) -> bool {
        self.parts.get(id) == Some(&part)
    }

    pub fn tracks(&self, part: Part) -> impl Iterator<Item = &TrackId> {
        self.parts.iter().filter(move |(_, p)| **p == part).map(|(id, _)| id)
    }

    /// The file: a line that says how it was made, with the hash of it all, then `id,part` by id.
    pub fn to_csv(&self) -> String {
        let mut rows = csv::Writer::from_writer(Vec::new());
        let mut write = |row: [&str; 2]| rows.write_record(row).expect("memory takes what is written");
        write(["id", "part"]);
        for (id, part) in &self.parts {
            write([id.as_str(), ["train", "valid", "test"][*part as usize]]);
        }
        let rows = rows.into_inner().expect("memory takes what is written");
        let rows = String::from_utf8(rows).expect("ids are text");
        format!("# {} blake3={}\n{rows}", self.made, seal(&self.made, &rows))
    }

    /// Tells this split from any other.
    pub fn hash(&self) -> String {
        blake3::hash(self.to_csv().as_bytes()).to_hex().to_string()
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        atomic_write(path, |out| out.write_all(self.to_csv().as_bytes()))
    }

    /// Reads a split that [`TrackSplit::save`] wrote, or one made by hand, which needs no first line.
    ///
    /// # Errors
    /// `Io`; `Format` with the line for a row that is none, an id given twice, or a hash that is another.
    pub fn load(path: &Path) -> Result<TrackSplit> {
        let text = fs::read(path).map_err(Error::io(path))?;
        let text = String::from_utf8(text).map_err(|e| Error::format(path, "text in UTF-8", e))?;
        let (made, rows, skipped) = match text.strip_prefix("# ").and_then(|text| text.split_once('\n')) {
            None => ("rule=given", text.as_str(), 0),
            Some((made, rows)) => match made.trim_end().rsplit_once(" blake3=") {
                None => (made.trim_end(), rows, 1),
                Some((made, found)) if seal(made, rows) == found => (made, rows, 1),
                Some((_, found)) => {
                    let expected =
                        "the hash that stands in its first line (leave blake3=… out of a split made by hand)";
                    return Err(Error::format(path, expected, format!("another than {found}")));
                }
            },
        };
        // Of a line of ours every word is known: one that is damaged is not taken for a remark.
        let is_pair = |pair: &str| {
            pair.split_once('=').is_some_and(|(name, value)| NAMES.contains(&name) && !value.contains('='))
        };
        if made.contains("rule=")
            && let Some(pair) = made.split(' ').find(|pair| !is_pair(pair))
        {
            return Err(Error::format(path, format!("NAME=VALUE of {NAMES:?} in its first line"), pair));
        }
        let value = |name: &str| made.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let cut = match value("cut").map(str::parse) {
            None if value("rule") == Some("time") => {
                return Err(Error::format(path, "a split by time with its cut=", "none"));
            }
            None => None,
            Some(Ok(cut)) => Some(cut),
            Some(Err(e)) => return Err(Error::format(path, "cut=, in Unix seconds", e)),
        };
        let mut parts = BTreeMap::new();
        let mut reader = csv::Reader::from_reader(rows.as_bytes());
        for (i, row) in reader.deserialize::<Row>().enumerate() {
            let row = row.map_err(|e| Error::format(path, "columns id,part with part train, valid or test", e))?;
            if let Some(id) = parts.insert(row.id.clone(), row.part).map(|_| row.id) {
                let found = format!("line {}: {id} again", i + 2 + skipped);
                return Err(Error::format(path, "every id once", found));
            }
        }
        Ok(TrackSplit { made: made.into(), cut, parts })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: TrackId,
    part: Part,
}

fn seal(made: &str, rows: &str) -> String {
    blake3::hash(format!("{made}\n{rows}").as_bytes()).to_hex()[..16].to_string()
}

/// A kind of name that tracks are kept together by, and the name, however it is written.
type Group = (u8, String);

fn name(text: &Option<String>) -> Option<String> {
    text.as_ref().map(|t| t.trim().to_lowercase()).filter(|t| !t.is_empty())
}

fn group(track: &Candidate) -> Group {
    match (name(&track.artist), name(&track.album)) {
        (Some(artist), _) => (0, artist),
        (None, Some(album)) => (1, album),
        (None, None) => (2, track.id.to_string()),
    }
}

/// An album that names more artists joins none: of a compilation, each would bring in all that is his elsewhere.
const NAMED_AT_MOST: usize = 16;

/// The group of each track, where an album with tracks of no artist has joined the artists that it names.
fn artists_together(tracks: &[Candidate]) -> Vec<Group> {
    let groups: Vec<Group> = tracks.iter().map(group).collect();
    // Numbered in the order of their names, so that the order of the tracks does not matter.
    let names: Vec<&Group> = groups.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let number = |group: &Group| names.binary_search(&group).ok();
    let mut named: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (track, group) in tracks.iter().zip(&groups) {
        // Only an album that is a group of its own has tracks without an artist.
        let album = name(&track.album).and_then(|album| number(&(1, album)));
        if let (Some(album), Some(artist)) = (album, number(group).filter(|_| group.0 == 0)) {
            named.entry(album).or_default().insert(artist);
        }
    }
    // A forest: each points to another of the same artists, the first of them to itself.
    let mut first: Vec<usize> = (0..names.len()).collect();
    let find = |first: &mut Vec<usize>, mut at: usize| {
        while first[at] != at {
            first[at] = first[first[at]];
            at = first[at];
        }
        at
    };
    for (album, artists) in named.into_iter().filter(|(_, artists)| artists.len() <= NAMED_AT_MOST) {
        for artist in artists {
            let (a, b) = (find(&mut first, artist), find(&mut first, album));
            first[a.max(b)] = a.min(b);
        }
    }
    let joined = |group: &Group| names[find(&mut first, number(group).expect("numbered above"))].clone();
    groups.iter().map(joined).collect()
}

/// The place, where one time ends and the next begins, that leaves a share as near as can be to this behind it, and
/// something on both sides; the end where all times are equal.
fn boundary(order: &[(i64, &TrackId)], share: f64) -> usize {
    let wanted = order.len() as f64 * (1.0 - share);
    let between = (1..order.len()).filter(|&i| order[i - 1].0 < order[i].0);
    between.min_by(|&a, &b| (a as f64 - wanted).abs().total_cmp(&(b as f64 - wanted).abs())).unwrap_or(order.len())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// 1000 tracks of 83 artists, of whom the `i`th has `i % 24` or so, on albums without an artist and with none of both.
    fn tracks() -> Vec<Candidate> {
        let mut tracks = Vec::new();
        for i in 0.. {
            for _ in 0..=i * 7 % 23 {
                let n = tracks.len();
                tracks.push(Candidate {
                    id: TrackId::new(format!("track, \"{n}\"")).unwrap(),
                    artist: (i % 5 != 0).then(|| format!("{} {i}", if n % 2 == 0 { "Artist" } else { "artist" })),
                    album: (i % 10 != 0).then(|| format!("Album {i}")),
                    time: (n % 50 != 7).then_some((n as i64 * 7919 % 1000) / 4 * 1000),
                });
                if tracks.len() == 1000 {
                    return tracks;
                }
            }
        }
        unreachable!()
    }

    fn all(tracks: &[Candidate], config: &SplitConfig) -> [TrackSplit; 3] {
        [TrackSplit::by_track, TrackSplit::by_artist, TrackSplit::by_time].map(|rule| rule(tracks, config).unwrap())
    }

    #[test]
    fn every_track_has_a_part_and_the_parts_their_size_whatever_the_order() {
        let mut tracks = tracks();
        let splits = all(&tracks, &SplitConfig::default());
        for split in &splits {
            assert_eq!(split.parts.len(), 1000);
            let (test, valid) = (split.count(Part::Test) as f64, split.count(Part::Valid) as f64);
            assert!((160.0..=240.0).contains(&test), "{}: {test}", split.made);
            assert!((0.06..=0.13).contains(&(valid / (1000.0 - test))), "{}: {valid}", split.made);
        }
        tracks.reverse();
        assert_eq!(all(&tracks, &SplitConfig::default()), splits);
        let other = all(&tracks, &SplitConfig { seed: 2, ..SplitConfig::default() });
        assert!(other[0].parts != splits[0].parts && other[1].parts != splits[1].parts);
        assert_eq!(other[2].parts, splits[2].parts, "time knows no seed");
    }

    #[test]
    fn no_artist_is_in_two_parts_and_the_share_is_not_overshot() {
        let tracks = tracks();
        for seed in 0..50 {
            let config = SplitConfig { seed, ..SplitConfig::default() };
            let split = TrackSplit::by_artist(&tracks, &config).unwrap();
            let mut parts: HashMap<_, BTreeSet<_>> = HashMap::new();
            for track in &tracks {
                parts.entry(group(track)).or_default().insert(split.parts[&track.id] as usize);
            }
            assert!(parts.values().all(|parts| parts.len() == 1), "seed {seed}");
            let (test, valid) = (split.count(Part::Test), split.count(Part::Valid));
            assert!((200..=220).contains(&test), "seed {seed}: {test}");
            assert!(valid as f64 >= 0.1 * (1000 - test) as f64 && valid as f64 <= 0.11 * (1000 - test) as f64);
        }
        // A track without an artist is kept with everyone that its album names, and with all that is theirs.
        let mut loose = tracks.clone();
        let of = |artist: Option<&str>, album: &str, track: &mut Candidate| {
            (track.artist, track.album) = (artist.map(String::from), Some(album.into()));
        };
        for (n, track) in loose.iter_mut().enumerate().take(60) {
            match n % 6 {
                0 => of(Some("Ann"), "Both", track),
                1 => of(Some("Bob"), "both ", track),
                2 => of(None, "Both", track),
                3 => of(Some("bob"), "Another", track),
                4 => of(None, "Another", track),
                _ => of(Some("Ann"), "Alone", track),
            }
        }
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let split = TrackSplit::by_artist(&loose, &SplitConfig { seed, ..SplitConfig::default() }).unwrap();
            let parts: BTreeSet<_> = loose[..60].iter().map(|track| split.parts[&track.id] as usize).collect();
            assert_eq!(parts.len(), 1, "seed {seed}");
            seen.extend(parts);
        }
        assert_eq!(seen.len(), 3, "it is held out, too");
        // A compilation of many joins nobody.
        for (n, track) in loose.iter_mut().enumerate().take(400) {
            let artist = format!("one of many, {}", n % 20);
            of(Some(&artist).filter(|_| n >= 20).map(String::as_str), if n < 40 { "Hits" } else { "Own" }, track);
        }
        let split = TrackSplit::by_artist(&loose, &SplitConfig::default()).unwrap();
        let parts: BTreeSet<_> = loose[20..400].iter().map(|track| split.parts[&track.id] as usize).collect();
        assert!(parts.len() > 1);
        // Who has more than the share stays.
        let of_one = |n: usize| Candidate { artist: Some("one".into()), album: None, ..tracks[n].clone() };
        let most: Vec<_> = (0..600).map(of_one).chain(tracks[600..].iter().cloned()).collect();
        let split = TrackSplit::by_artist(&most, &SplitConfig::default()).unwrap();
        assert!(most[..600].iter().all(|track| split.is(&track.id, Part::Train)));
    }

    #[test]
    fn what_came_last_is_held_out_and_equal_times_stay_together() {
        let tracks = tracks();
        let split = TrackSplit::by_time(&tracks, &SplitConfig::default()).unwrap();
        let cut = split.cut.unwrap();
        let time_of = |track: &Candidate| track.time.unwrap_or(i64::MIN);
        let times = |part| {
            let of_part = tracks.iter().filter(|track| split.is(&track.id, part));
            of_part.map(time_of).collect::<Vec<_>>()
        };
        let [train, valid, test] = [Part::Train, Part::Valid, Part::Test].map(times);
        assert!(test.iter().min() == Some(&cut) && valid.iter().max().unwrap() < &cut);
        assert!(train.iter().max() < valid.iter().min());
        let same: Vec<_> = tracks.iter().map(|track| Candidate { time: Some(7), ..track.clone() }).collect();
        assert!(TrackSplit::by_time(&same, &SplitConfig::default()).is_err());
    }

    #[test]
    fn a_split_comes_back_from_its_file_and_no_changed_byte_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("split.csv");
        for split in all(&tracks()[..60], &SplitConfig { test: 0.3, valid: 0.3, seed: 3 }) {
            split.save(&path).unwrap();
            assert_eq!(TrackSplit::load(&path).unwrap(), split);
            let good = fs::read(&path).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(&path, &bad).unwrap();
                assert!(TrackSplit::load(&path).is_err(), "byte {at}");
            }
        }
        fs::write(&path, "id,part\na,test\nb,train\n").unwrap();
        let by_hand = TrackSplit::load(&path).unwrap();
        assert_eq!((by_hand.count(Part::Test), by_hand.cut, by_hand.made.as_str()), (1, None, "rule=given"));
        fs::write(&path, "# rule=time cut=9\nid,part\na,test\n").unwrap();
        assert_eq!(TrackSplit::load(&path).unwrap().cut, Some(9));
        for (text, part) in [
            ("id,part\na,test\na,train\n", "line 3: a again"),
            ("id,part\na,tests\n", "valid"),
            ("id\na\n", "id,part"),
            ("# rule=time\nid,part\na,test\n", "cut="),
            ("# rule=time cut=x\nid,part\na,test\n", "Unix"),
        ] {
            fs::write(&path, text).unwrap();
            let message = TrackSplit::load(&path).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("split.csv"), "{message}");
        }
    }

    #[test]
    fn a_part_that_would_be_empty_is_refused() {
        let few = &tracks()[..2];
        for rule in [TrackSplit::by_track, TrackSplit::by_artist, TrackSplit::by_time] {
            assert!(rule(few, &SplitConfig::default()).is_err());
            assert!(rule(&tracks(), &SplitConfig { test: 1.0, ..SplitConfig::default() }).is_err());
            assert!(rule(&tracks(), &SplitConfig { valid: f64::NAN, ..SplitConfig::default() }).is_err());
        }
    }
}
