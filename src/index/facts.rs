//! What lies beside each vector, and what a filter asks of it.
//!
//! Songs of the same language, year, mark and regions form a class. A filter is put to each class once, so it knows how
//! many songs it lets through before it looks at one; where they are few, their list is all that is read.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Served;

/// What lies beside each vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub class: u32,
    /// Where the key stands in its class.
    place: u32,
    /// [`artist_number`]; 0 where it is not known.
    pub artist: u64,
    /// The length of the factor: how popular the song is.
    pub norm: f32,
    pub plays: u32,
}

/// Which songs may be shown. The default lets all through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// One of these languages, as the manifest writes them (case does not count); any where there is none. A song whose
    /// language is not known is let through only then.
    pub languages: Vec<String>,
    /// Released in these years; a song of no known year is not let through.
    pub years: Option<RangeInclusive<i32>>,
    /// None that is marked as explicit.
    pub clean: bool,
    /// Only what may be played in this region; what names no regions may be played everywhere.
    pub region: Option<String>,
    /// None by these artists (case does not count).
    pub without_artists: Vec<String>,
    /// None of these keys: what was heard already.
    pub without: HashSet<u64>,
    /// At most so many by one artist.
    pub per_artist: Option<usize>,
}

/// A filter, put to the classes of a catalogue.
pub(super) struct Ready<'a> {
    filter: &'a Filter,
    artists: HashSet<u64>,
    /// Whether each class is let through; empty where all are.
    classes: Vec<bool>,
    /// Songs of the classes that are let through.
    pub songs: usize,
}

impl Ready<'_> {
    pub fn keeps(&self, key: u64, facts: &Facts) -> bool {
        (self.classes.is_empty() || self.classes[facts.class as usize]) && self.keeps_of_class(key, facts)
    }

    /// Of a song whose class is let through; without artists to leave out, its facts are not even read.
    pub fn keeps_of_class(&self, key: u64, facts: &Facts) -> bool {
        !self.filter.without.contains(&key)
            && (self.artists.is_empty() || facts.artist == 0 || !self.artists.contains(&facts.artist))
    }

    /// Whether some classes are left out, so that [`Classes::keys`] are what may be let through.
    pub fn is_by_class(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Share of the `all` songs that is let through for what they are: one only where nothing is asked of them.
    pub fn share(&self, all: usize) -> f64 {
        match self.is_by_class() || !self.artists.is_empty() {
            true => (self.songs as f64 / all.max(1) as f64).min(1.0 - f64::EPSILON),
            false => 1.0,
        }
    }

    pub fn per_artist(&self) -> usize {
        self.filter.per_artist.unwrap_or(usize::MAX)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    /// In lower case, as all words here.
    language: Option<String>,
    year: Option<i32>,
    explicit: bool,
    /// Separated by spaces; none: everywhere.
    regions: Option<String>,
}

/// The classes of a catalogue's songs.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Class, u32>,
    /// Each class, and the keys of its songs.
    members: Vec<(Class, Vec<u64>)>,
    songs: usize,
}

impl Classes {
    /// Counts the song in. The caller puts the facts beside its vector.
    pub fn insert(&mut self, key: u64, song: &Served) -> Facts {
        let class = Class {
            language: song.language.as_deref().map(plain),
            year: song.year,
            explicit: song.explicit == Some(true),
            regions: song.regions.as_deref().map(plain),
        };
        let members = &mut self.members;
        let number = *self.numbers.entry(class).or_insert_with_key(|class| {
            members.push((class.clone(), Vec::new()));
            members.len() as u32 - 1
        });
        let keys = &mut members[number as usize].1;
        keys.push(key);
        self.songs += 1;
        let artist = song.artist.as_deref().map_or(0, artist_number);
        Facts { class: number, place: keys.len() as u32 - 1, artist, norm: song.norm, plays: song.plays }
    }

    /// Takes the song out of its class. The song of the returned key, if any, now stands in its place.
    pub fn remove(&mut self, facts: &Facts) -> Option<u64> {
        let keys = &mut self.members[facts.class as usize].1;
        keys.swap_remove(facts.place as usize);
        self.songs -= 1;
        keys.get(facts.place as usize).copied()
    }

    /// The song stands where `of` stood.
    pub fn moved(facts: &mut Facts, of: &Facts) {
        facts.place = of.place;
    }

    pub fn ready<'a>(&self, filter: &'a Filter) -> Ready<'a> {
        let artists = filter.without_artists.iter().map(|name| artist_number(name)).collect();
        let Filter { languages, years, clean, region, .. } = filter;
        if languages.is_empty() && years.is_none() && !clean && region.is_none() {
            return Ready { filter, artists, classes: Vec::new(), songs: self.songs };
        }
        let languages: Vec<String> = languages.iter().map(|l| plain(l)).collect();
        let region = region.as_deref().map(plain);
        let lets = |class: &Class| {
            (languages.is_empty() || class.language.as_ref().is_some_and(|l| languages.contains(l)))
                && years.as_ref().is_none_or(|years| class.year.is_some_and(|year| years.contains(&year)))
                && !(*clean && class.explicit)
                && region.as_ref().is_none_or(|region| {
                    class.regions.as_ref().is_none_or(|all| all.split_whitespace().any(|one| one == region))
                })
        };
        let classes: Vec<bool> = self.members.iter().map(|(class, _)| lets(class)).collect();
        let songs = self.members.iter().zip(&classes).filter(|(_, lets)| **lets).map(|((_, keys), _)| keys.len()).sum();
        Ready { filter, artists, classes, songs }
    }

    /// The keys of all songs whose class is let through.
    pub fn keys<'a>(&'a self, ready: &'a Ready) -> impl Iterator<Item = u64> + 'a {
        self.members.iter().zip(&ready.classes).filter(|(_, lets)| **lets).flat_map(|((_, keys), _)| keys).copied()
    }

    /// The classes in order of their numbers, and not which songs are theirs.
    pub fn to_json(&self) -> Vec<u8> {
        let classes: Vec<&Class> = self.members.iter().map(|(class, _)| class).collect();
        // Words, numbers and nothing else.
        serde_json::to_vec(&classes).expect("classes are plain")
    }

    /// What [`Classes::to_json`] wrote, with the class, the key, and the artist, norm and plays of each song, and the facts
    /// that lie beside each.
    ///
    /// # Errors
    /// `Invalid` where it is no such thing, or a song is of a class that there is not.
    pub fn read(
        json: &[u8],
        of_each: &[u32],
        keys: &[u64],
        facts: impl Iterator<Item = (u64, f32, u32)>,
    ) -> Result<(Classes, Vec<Facts>)> {
        let odd = |found: String| Error::invalid("classes of songs", "languages, years, marks and regions", found);
        let classes: Vec<Class> = serde_json::from_slice(json).map_err(|e| odd(e.to_string()))?;
        let mut counts = vec![0; classes.len()];
        for class in of_each {
            *counts.get_mut(*class as usize).ok_or_else(|| odd(format!("class {class} of {}", classes.len())))? += 1;
        }
        let mut members: Vec<Vec<u64>> = counts.into_iter().map(Vec::with_capacity).collect();
        let mut all = Vec::with_capacity(keys.len());
        for ((class, key), (artist, norm, plays)) in of_each.iter().zip(keys).zip(facts) {
            let members = &mut members[*class as usize];
            all.push(Facts { class: *class, place: members.len() as u32, artist, norm, plays });
            members.push(*key);
        }
        let numbers = classes.iter().cloned().zip(0..).collect();
        let members = classes.into_iter().zip(members).collect();
        Ok((Classes { numbers, members, songs: all.len() }, all))
    }

    pub fn bytes(&self) -> usize {
        self.members.iter().map(|(_, keys)| 8 * keys.capacity() + 2 * size_of::<Class>() + 64).sum()
    }
}

/// 64 bits of a hash of the name: two artists of one number are not to be expected below a billion names. Never 0.
fn artist_number(name: &str) -> u64 {
    let hash = blake3::hash(plain(name).as_bytes());
    hash.as_bytes().first_chunk().map_or(1, |eight| u64::from_le_bytes(*eight)).max(1)
}

fn plain(words: &str) -> String {
    words.trim().to_lowercase().replace(',', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn song(language: &str, year: i32, explicit: bool, regions: &str, artist: &str) -> Served {
        let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
        Served {
            vector: vec![1.0],
            norm: 1.0,
            plays: 0,
            artist: text(artist),
            language: text(language),
            year: (year != 0).then_some(year),
            explicit: Some(explicit),
            regions: text(regions),
        }
    }

    #[test]
    fn a_filter_means_what_it_says() {
        let mut classes = Classes::default();
        let songs = [
            song("de", 1999, false, "", "Nena"),
            song("DE", 2020, true, "DE,AT", "Other"),
            song("en", 2020, false, "us gb", ""),
            song("", 0, false, "", "nena "),
        ];
        let facts: Vec<Facts> = songs.iter().enumerate().map(|(key, song)| classes.insert(key as u64, song)).collect();
        let kept = |filter: Filter| {
            let ready = classes.ready(&filter);
            let kept: Vec<usize> = (0..4).filter(|key| ready.keeps(*key as u64, &facts[*key])).collect();
            if !ready.classes.is_empty() {
                assert_eq!(classes.keys(&ready).count(), ready.songs);
            }
            kept
        };
        let none = Filter::default;
        assert_eq!(kept(none()), [0, 1, 2, 3]);
        assert_eq!(kept(Filter { languages: vec!["De".into()], ..none() }), [0, 1]);
        assert_eq!(kept(Filter { years: Some(2000..=2020), ..none() }), [1, 2]);
        assert_eq!(kept(Filter { clean: true, ..none() }), [0, 2, 3]);
        assert_eq!(kept(Filter { region: Some("at".into()), ..none() }), [0, 1, 3]);
        assert_eq!(kept(Filter { region: Some("GB".into()), ..none() }), [0, 2, 3]);
        assert_eq!(kept(Filter { without_artists: vec!["NENA".into()], ..none() }), [1, 2]);
        assert_eq!(kept(Filter { without: HashSet::from([1, 3]), ..none() }), [0, 2]);
        assert_eq!(kept(Filter { clean: true, languages: vec!["en".into(), "de".into()], ..none() }), [0, 2]);
    }
}
