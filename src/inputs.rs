//! What is to be heard: files, folders of music, and manifests that name each track.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::ids::TrackId;
use crate::store::TrackInfo;

/// Endings under which a folder is searched for music, the ones included that we cannot read: a song in such a file is
/// reported as a failure rather than passed over in silence.
pub const AUDIO_ENDINGS: &[&str] = &[
    "aac", "ac3", "aif", "aifc", "aiff", "alac", "amr", "ape", "au", "caf", "dff", "dsf", "dts", "eac3", "flac", "it",
    "m4a", "m4b", "m4p", "mka", "mod", "mp1", "mp2", "mp3", "mp4", "mpc", "oga", "ogg", "ogx", "opus", "ra", "s3m",
    "snd", "spx", "tta", "w64", "wav", "wave", "webm", "weba", "wma", "wv", "xm",
];

/// One track to be heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Absolute.
    pub path: PathBuf,
    /// The service's name for it; the content hash where there is none.
    pub id: Option<TrackId>,
    /// What the manifest says of it; takes precedence over the file's tags.
    pub info: TrackInfo,
}

impl Input {
    pub fn file(path: &Path) -> Input {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Input { path, id: None, info: TrackInfo::default() }
    }
}

/// The music under `path`, in the order of the names: the file itself, or everything in the folder that is audio by its
/// ending. Links are followed; a loop of links, or a folder that cannot be read, is an error in its place in the list; a
/// folder that holds no music is one too, since whoever names it expects some.
pub fn walk(path: &Path) -> impl Iterator<Item = Result<Input>> + use<> {
    let root = path.to_path_buf();
    let is_file = !root.is_dir();
    let folder = Input::file(path).path;
    let entries = WalkDir::new(path).follow_links(true).sort_by_file_name().into_iter();
    let found = entries.filter_map(move |entry| match entry {
        Ok(entry) if is_file || (!entry.file_type().is_dir() && is_audio(entry.path())) => {
            Some(Ok(Input::file(entry.path())))
        }
        Ok(_) => None,
        Err(e) => {
            let path = Input::file(e.path().unwrap_or(&root)).path;
            let source = match e.io_error() {
                Some(io) => std::io::Error::new(io.kind(), io.to_string()),
                None => std::io::Error::other("a link that leads back to a folder above it"),
            };
            Some(Err(Error::Io { path, source }))
        }
    });
    let mut none = !is_file;
    found.map(Some).chain([None]).filter_map(move |item| match item {
        Some(item) => {
            none = false;
            Some(item)
        }
        None if none => {
            let source =
                std::io::Error::new(std::io::ErrorKind::NotFound, "no file in this folder is audio by its ending");
            Some(Err(Error::Io { path: folder.clone(), source }))
        }
        None => None,
    })
}

/// Whether the file's name ends like one of audio.
pub fn is_audio(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| AUDIO_ENDINGS.contains(&e.to_ascii_lowercase().as_str()))
}

#[derive(Deserialize)]
struct ManifestRow {
    path: PathBuf,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    artist: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    album: Option<String>,
    #[serde(default)]
    released: Option<String>,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    explicit: Option<Mark>,
    #[serde(default)]
    regions: Option<String>,
}

/// A mark, as JSON or as a word of a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Mark {
    Bool(bool),
    Number(u8),
    Word(String),
}

impl Mark {
    /// `None` for nothing; an error for a word that is neither.
    fn read(self) -> std::result::Result<Option<bool>, String> {
        match self {
            Mark::Bool(mark) => Ok(Some(mark)),
            Mark::Number(0) => Ok(Some(false)),
            Mark::Number(1) => Ok(Some(true)),
            Mark::Number(n) => Err(n.to_string()),
            Mark::Word(word) => match word.trim().to_ascii_lowercase().as_str() {
                "" => Ok(None),
                "true" | "yes" | "1" => Ok(Some(true)),
                "false" | "no" | "0" => Ok(Some(false)),
                _ => Err(word),
            },
        }
    }
}

/// The columns of a manifest.
const COLUMNS: &str = "path,id,artist,title,album,released,language,explicit,regions";

/// Reads a manifest: CSV with a header, or JSON Lines, of
/// `path,id,artist,title,album,released,language,explicit,regions`, of which only `path` must be there. A relative path starts at the manifest's folder.
///
/// # Errors
/// `Format` with the line: a row without a path, an id that is none, an id given twice.
pub fn read_manifest(path: &Path) -> Result<Vec<Input>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut ids = HashSet::new();
    let mut take = |line: usize, row: ManifestRow| -> Result<Input> {
        let text = |field: Option<String>| field.filter(|t| !t.trim().is_empty());
        if row.path.as_os_str().is_empty() {
            return Err(Error::format(path, "a path in every row", format!("line {line}: none")));
        }
        let id = match text(row.id) {
            None => None,
            Some(id) => {
                Some(TrackId::new(id).map_err(|e| Error::format(path, "a track id", format!("line {line}: {e}")))?)
            }
        };
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            return Err(Error::format(path, "every id once", format!("line {line}: {id} again")));
        }
        let (artist, title, album) = (text(row.artist), text(row.title), text(row.album));
        let (released, language, regions) = (text(row.released), text(row.language), text(row.regions));
        let explicit = match row.explicit.map_or(Ok(None), Mark::read) {
            Ok(mark) => mark,
            Err(word) => {
                return Err(Error::format(path, "true or false as explicit", format!("line {line}: {word}")));
            }
        };
        let year = released.as_ref().and_then(|r| r.get(..4)).and_then(|y| y.parse().ok());
        Ok(Input {
            id,
            info: TrackInfo {
                title,
                artist,
                album,
                year,
                released,
                language,
                explicit,
                regions,
                ..TrackInfo::default()
            },
            ..Input::file(&folder.join(row.path))
        })
    };
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "csv" | "tsv" => {
            let delimiter = if ending == "tsv" { b'\t' } else { b',' };
            let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::Headers).from_reader(file);
            let rows = reader.deserialize::<ManifestRow>();
            rows.enumerate()
                .map(|(i, row)| {
                    let row = row.map_err(|e| Error::format(path, format!("columns {COLUMNS}"), e))?;
                    take(i + 2, row)
                })
                .collect()
        }
        "jsonl" | "ndjson" => BufReader::new(file)
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.as_ref().is_ok_and(|l| l.trim().is_empty()))
            .map(|(i, line)| {
                let line = line.map_err(Error::io(path))?;
                let problem = |e| Error::format(path, "an object with a path", format!("line {}: {e}", i + 1));
                let mut row: serde_json::Value = serde_json::from_str(&line).map_err(problem)?;
                // Services number their songs; a number is an id like any other.
                if let Some(id) = row.get_mut("id").filter(|id| id.is_number()) {
                    *id = id.to_string().into();
                }
                take(i + 1, serde_json::from_value(row).map_err(problem)?)
            })
            .collect(),
        _ => Err(Error::unsupported(path, "a manifest ending in .csv, .tsv, .jsonl or .ndjson", format!(".{ending}"))),
    }
}

/// The tracks of a playlist (`.m3u`, `.m3u8`): one path or id per line, `#` starts a comment. Each line is returned as
/// written and as the path it would be, seen from the playlist's folder.
pub fn read_playlist(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(String::from_utf8_lossy(&bytes)
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| (line.to_string(), Input::file(&folder.join(line)).path))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_gives_its_music_and_nothing_else_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/2.MP3", "b/1.ogg", "a.flac", "cover.jpg", "notes.txt", "tracker.xm"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path(), dir.path().join("b/loop")).unwrap();
        let (found, errors): (Vec<_>, Vec<_>) = walk(dir.path()).partition(|r| r.is_ok());
        let names: Vec<String> = found
            .into_iter()
            .map(|r| r.unwrap().path.strip_prefix(dir.path()).unwrap().to_string_lossy().replace('\\', "/"))
            .collect();
        assert_eq!(names, ["a.flac", "b/1.ogg", "b/2.MP3", "tracker.xm"]);
        #[cfg(unix)]
        assert!(errors.into_iter().next().unwrap().unwrap_err().to_string().contains("loop"));
        // A file that is named outright is taken whatever its ending; one that is not there is an error.
        assert_eq!(walk(&dir.path().join("notes.txt")).count(), 1);
        assert!(walk(&dir.path().join("nothing.mp3")).next().unwrap().is_err());
    }

    #[test]
    fn a_folder_without_music_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cover.jpg"), "x").unwrap();
        let found: Vec<_> = walk(dir.path()).collect();
        assert_eq!(found.len(), 1);
        let message = found[0].as_ref().unwrap_err().to_string();
        assert!(message.starts_with(dir.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn a_manifest_is_the_same_as_csv_and_as_json_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (csv, jsonl) = (dir.path().join("m.csv"), dir.path().join("m.jsonl"));
        fs::write(&csv, "path,id,title,released\nx.mp3,one 🎵,\"A, B\",2014-08-05\nsub/y.ogg,,,\n").unwrap();
        fs::write(
            &jsonl,
            "{\"path\":\"x.mp3\",\"id\":\"one 🎵\",\"title\":\"A, B\",\"released\":\"2014-08-05\"}\n\n{\"path\":\"sub/y.ogg\"}\n",
        )
        .unwrap();
        let inputs = read_manifest(&csv).unwrap();
        assert_eq!(inputs, read_manifest(&jsonl).unwrap());
        assert_eq!(inputs[0].info.year, Some(2014));
        assert_eq!(inputs[0].info.title.as_deref(), Some("A, B"));
        assert_eq!(inputs[1].path, dir.path().join("sub/y.ogg"));
        assert_eq!(inputs[1].id, None);
        let marked = |line: &str| {
            fs::write(&jsonl, format!("{line}\n")).unwrap();
            read_manifest(&jsonl).map(|inputs| inputs[0].info.clone())
        };
        let info =
            marked("{\"path\":\"x.mp3\",\"language\":\"pt-BR\",\"explicit\":true,\"regions\":\"BR PT\"}").unwrap();
        assert_eq!((info.language.as_deref(), info.explicit), (Some("pt-BR"), Some(true)));
        assert_eq!(info.regions.as_deref(), Some("BR PT"));
        fs::write(&csv, "path,language,explicit,regions\nx.mp3,pt-BR,yes,BR PT\ny.mp3,,,\n").unwrap();
        let inputs = read_manifest(&csv).unwrap();
        assert_eq!(inputs[0].info, info);
        assert_eq!((inputs[1].info.explicit, &inputs[1].info.regions), (None, &None));
        assert!(marked("{\"path\":\"x.mp3\",\"explicit\":\"perhaps\"}").unwrap_err().to_string().contains("perhaps"));
        fs::write(&jsonl, "{\"path\":\"x.mp3\",\"id\":4711}\n").unwrap();
        assert_eq!(read_manifest(&jsonl).unwrap()[0].id.as_ref().unwrap().as_str(), "4711");
    }

    #[test]
    fn a_manifest_that_is_wrong_says_in_which_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        for (text, part) in [
            ("path,id\na.mp3,x\nb.mp3,x\n", "line 3"),
            ("id,title\nx,y\n", "path"),
            ("path,id\n,x\n", "line 2"),
            ("path,id\na.mp3,x,too,many\n", "line: 2"),
        ] {
            fs::write(&path, text).unwrap();
            let message = read_manifest(&path).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("m.csv"), "{message}");
        }
    }

    #[test]
    fn a_playlist_is_its_lines_without_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.m3u8");
        fs::write(&path, "\u{feff}#EXTM3U\r\n#EXTINF:1,x\r\nsongs/a.mp3\r\n\r\nsome id\r\n").unwrap();
        let lines = read_playlist(&path).unwrap();
        assert_eq!(lines[0], ("songs/a.mp3".to_string(), dir.path().join("songs/a.mp3")));
        assert_eq!(lines[1].0, "some id");
    }
}
