//! Where in a table the things stand that make an event, in our own layout and in those of others.

/// The columns of a table, by number from 0.
#[derive(Debug, Default, PartialEq)]
pub struct Columns {
    pub time: Option<usize>,
    pub user: Option<usize>,
    pub track: Track,
    pub action: Option<usize>,
    pub value: Option<usize>,
    pub seconds: Option<usize>,
    pub duration: Option<usize>,
    pub playlist: Option<usize>,
    /// Whether the listener is whoever the file is called after.
    pub file_is_user: bool,
}

/// What tells a track.
#[derive(Debug, PartialEq)]
pub enum Track {
    Id(usize),
    /// Its MusicBrainz recording id where the row has one, else its artist and title.
    Names {
        mbid: Option<usize>,
        artist: usize,
        title: usize,
    },
}

impl Default for Track {
    fn default() -> Track {
        Track::Id(0)
    }
}

impl Columns {
    /// From the names of the columns, in lower case. The error says what was found.
    pub fn of(names: &[String]) -> Result<Columns, String> {
        let find = |name: &str| {
            let mut places = names.iter().enumerate().filter(|(_, n)| *n == name).map(|(i, _)| i);
            match (places.next(), places.next()) {
                (_, Some(_)) => Err(format!("{name} twice")),
                (place, None) => Ok(place),
            }
        };
        let need = |name: &str| {
            let shown: Vec<String> = names.iter().take(20).map(|n| super::shortened(n.as_bytes())).collect();
            find(name)?.ok_or_else(|| format!("no {name} among {}", shown.join(", ")))
        };
        if let Some(time) = find("uts")? {
            // The usual export of one listener's Last.fm: uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid.
            let track = Track::Names { mbid: find("track_mbid")?, artist: need("artist")?, title: need("track")? };
            return Ok(Columns { time: Some(time), track, file_is_user: true, ..Columns::default() });
        }
        if let Some(time) = find("listened_at")? {
            // The Parquet files of the ListenBrainz dumps.
            let (artist, title) = (need("artist_name")?, need("recording_name")?);
            let track = Track::Names { mbid: find("recording_mbid")?, artist, title };
            return Ok(Columns { time: Some(time), user: Some(need("user_id")?), track, ..Columns::default() });
        }
        let playlist = find("playlist")?;
        // A table of playlists and tracks needs neither a listener nor a time.
        let of_playlists = playlist.is_some() && find("user")?.is_none();
        Ok(Columns {
            time: if of_playlists { find("time")? } else { Some(need("time")?) },
            user: if of_playlists { None } else { Some(need("user")?) },
            track: Track::Id(need("track")?),
            action: find("action")?,
            value: find("value")?,
            seconds: find("seconds")?,
            duration: find("duration")?,
            playlist,
            file_is_user: false,
        })
    }

    /// The lastfm-1K data set has no header line: user, time, artist's id, artist, track's id, title.
    pub fn of_lastfm_1k() -> Columns {
        let track = Track::Names { mbid: Some(4), artist: 3, title: 5 };
        Columns { time: Some(1), user: Some(0), track, ..Columns::default() }
    }

    /// All columns that are read.
    pub fn all(&self) -> Vec<usize> {
        let (track, names) = match self.track {
            Track::Id(id) => (Some(id), [None; 2]),
            Track::Names { mbid, artist, title } => (mbid, [Some(artist), Some(title)]),
        };
        let own = [self.time, self.user, track, self.action, self.value, self.seconds, self.duration, self.playlist];
        own.into_iter().chain(names).flatten().collect()
    }
}
