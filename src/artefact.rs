//! Files that are whole or absent, hashes that name contents, and the id of a factor space.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The name of a factor space. A factorisation is fixed only up to a rotation, so vectors of two spaces cannot be
/// compared; every artefact that holds vectors carries its space, and mixing two is [`Error::Mismatch`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpaceId(String);

impl SpaceId {
    /// The space made by these bytes (settings and factors): equal contents, equal name.
    pub fn of(parts: &[&[u8]]) -> SpaceId {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        SpaceId(format!("space-{}", &hasher.finalize().to_hex()[..16]))
    }

    /// A space read back from a file or a command line.
    pub fn named(name: impl Into<String>) -> SpaceId {
        SpaceId(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// `Mismatch` where `found` is another space than this.
    pub fn require(&self, what: &str, found: &SpaceId) -> Result<()> {
        if self == found { Ok(()) } else { Err(Error::mismatch(what, self, found)) }
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a file that is whole or absent: written aside in the same folder, synced, renamed over `path`, and the
/// folder synced, so that neither a crash nor a full disk leaves half a file under the name.
pub fn atomic_write(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    Aside::new(path)?.publish(write)
}

/// The file beside `path` that [`atomic_write`] writes. Who works long for what is to be written makes it first, so that
/// a place that cannot be written to is known before the work.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    folder: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Aside {
    /// # Errors
    /// `Io` where no file can be made beside `path`; `Unsupported` where a folder has its name.
    pub fn new(path: &Path) -> Result<Aside> {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        if path.is_dir() {
            return Err(Error::unsupported(path, "the name of a file", "a folder"));
        }
        create_folder(folder)?;
        let file = tempfile::Builder::new().suffix(".partial").tempfile_in(folder).map_err(Error::io(folder))?;
        Ok(Aside { path: path.to_path_buf(), folder: folder.to_path_buf(), file })
    }

    /// Writes it, and gives it its name.
    pub fn publish(self, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
        let Aside { path, folder, file } = self;
        let mut out = BufWriter::new(file.as_file());
        write(&mut out).and_then(|()| out.flush()).map_err(Error::io(&path))?;
        drop(out);
        file.as_file().sync_all().map_err(Error::io(&path))?;
        // Temporary files are private by default; what we publish is as readable as the user's umask would have made it.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o644);
            file.as_file().set_permissions(mode).map_err(Error::io(&path))?;
        }
        let aside = file.into_temp_path();
        // Not by `persist`, which asks the kernel past the C library, so that no test could make it fail.
        fs::rename(&aside, &path).map_err(Error::io(&path))?;
        // It has its name: there is nothing to remove.
        let _ = aside.keep();
        sync_folder(&folder)
    }
}

/// A folder that is whole or absent: filled aside, synced, and renamed to its path when all of it is there. One that is
/// dropped before goes; one whose process is killed stays beside, as `NAME.XXXXXX.partial`, and can be deleted.
#[derive(Debug)]
pub struct AsideFolder {
    path: PathBuf,
    parent: PathBuf,
    folder: tempfile::TempDir,
}

impl AsideFolder {
    /// # Errors
    /// `Unsupported` where `path` is there already, unless as an empty folder; `Io` where none can be made beside it.
    pub fn new(path: &Path) -> Result<AsideFolder> {
        must_be_free(path)?;
        // `a/.` and `a/` are `a`; what has no name (`..`, `/`) is a folder that holds something, or cannot be replaced.
        let path: PathBuf = path.components().collect();
        let name = path.file_name().ok_or_else(|| Error::unsupported(&path, "the name of a folder", "none"))?;
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        create_folder(parent)?;
        let mut prefix = name.to_os_string();
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        // Temporary folders are private by default; this one becomes what the user's umask would have made it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let folder = builder.tempdir_in(parent).map_err(Error::io(parent))?;
        Ok(AsideFolder { parent: parent.to_path_buf(), folder, path })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs what is in it, and gives it its name.
    ///
    /// # Errors
    /// `Io`; `Unsupported` where something came to be under the name meanwhile.
    pub fn publish(self) -> Result<()> {
        sync_all(self.path())?;
        must_be_free(&self.path)?;
        // Elsewhere than on Unix a folder does not replace an empty one.
        #[cfg(not(unix))]
        let _ = fs::remove_dir(&self.path);
        fs::rename(self.folder.path(), &self.path).map_err(Error::io(&self.path))?;
        // It is no longer where it would be deleted.
        let _ = self.folder.keep();
        sync_folder(&self.parent)
    }
}

/// # Errors
/// `Unsupported` where there is anything but an empty folder.
fn must_be_free(path: &Path) -> Result<()> {
    let found = match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "a folder that holds something",
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => "a file",
        Err(e) => return Err(Error::io(path)(e)),
    };
    Err(Error::unsupported(path, "a new or an empty folder", found))
}

/// Syncs every file and folder in `folder`, and itself.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io(&path))?;
        }
    }
    sync_folder(folder)
}

/// Makes the folder, and those above it, where they are not there, and syncs those that got an entry by this: without, a
/// power loss can take a new folder away with all that was synced in it.
pub fn create_folder(folder: &Path) -> Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

/// Makes the names in a folder durable. The empty path is the folder that we are in.
fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|d| d.sync_all()).map_err(Error::io(folder))
}

/// Writes `value` as TOML, atomically.
pub fn write_toml(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = toml::to_string_pretty(value).map_err(|e| Error::format(path, "a value that TOML can hold", e))?;
    atomic_write(path, |out| out.write_all(text.as_bytes()))
}

/// Stands before the hash, in the first line of a sealed file.
const SEAL: &str = "# BLAKE3 of the lines below: ";

/// `text` under a line with its hash, which [`read_sealed_toml`] asks for.
pub fn seal(text: &str) -> String {
    format!("{SEAL}{}\n{text}", blake3::hash(text.as_bytes()).to_hex())
}

/// As [`write_toml`], with a hash in the first line: in a description that numbers rest on, one changed digit would go
/// unnoticed.
pub fn write_sealed_toml(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = toml::to_string_pretty(value).map_err(|e| Error::format(path, "a value that TOML can hold", e))?;
    atomic_write(path, |out| out.write_all(seal(&text).as_bytes()))
}

/// Reads what [`write_sealed_toml`] wrote.
///
/// # Errors
/// As [`read_toml`]; and `Format` where the hash is missing or another. Who changed the file on purpose finds the right
/// one in the message.
pub fn read_sealed_toml<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes).map_err(|e| Error::format(path, format!("{what}, text in UTF-8"), e))?;
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let (expected, hash) = match first.strip_prefix(SEAL) {
        Some(hash) => (rest, hash),
        // Written without the line, or the line itself is damaged.
        None => (text.as_str(), "none"),
    };
    let found = blake3::hash(expected.as_bytes()).to_hex();
    if hash != found.as_str() {
        let expected = format!("{what} with the first line \"{SEAL}{found}\"");
        return Err(Error::format(path, expected, format!("{hash} there: the file is damaged, or was edited")));
    }
    toml::from_str(rest).map_err(|e| Error::format(path, what, e))
}

#[test]
fn a_sealed_file_tells_every_changed_byte_and_takes_an_edit_with_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let table: toml::Table = toml::from_str("a = 1\nb = 2.5\n[c]\nd = \"e\"\n").unwrap();
    write_sealed_toml(&path, &table).unwrap();
    let read = || read_sealed_toml::<toml::Table>(&path, "settings");
    assert_eq!(read().unwrap(), table);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(matches!(read(), Err(Error::Format { .. })), "byte {at}");
        fs::write(&path, &good[..at]).unwrap();
        assert!(matches!(read(), Err(Error::Format { .. })), "cut at {at}");
    }
    // The message has the line that an edit needs.
    let edited = String::from_utf8(good).unwrap().replace("a = 1", "a = 7");
    fs::write(&path, &edited).unwrap();
    let message = read().unwrap_err().to_string();
    let line = message.split('"').nth(1).unwrap();
    fs::write(&path, [line, edited.split_once('\n').unwrap().1].join("\n")).unwrap();
    assert_eq!(read().unwrap()["a"].as_integer(), Some(7));
}

/// Reads TOML; `what` says for errors what the file should be.
///
/// # Errors
/// `Io`, or `Format` with the line and the field that did not fit.
pub fn read_toml<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes).map_err(|e| Error::format(path, format!("{what}, text in UTF-8"), e))?;
    toml::from_str(&text).map_err(|e| Error::format(path, what, e))
}

#[test]
fn toml_that_is_malformed_is_an_error_that_says_what_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(matches!(read_toml::<toml::Table>(&path, "settings"), Err(Error::Format { .. })));
    fs::write(&path, "name = ").unwrap();
    let message = read_toml::<toml::Table>(&path, "settings").unwrap_err().to_string();
    assert!(message.contains("x.toml: malformed: expected settings, found TOML parse error at line 1"), "{message}");
}

/// What a crate does with a file that nobody vouches for, with its panics as errors: the Parquet crate (60.1) has several
/// on damaged pages. `expected` is what the file should have been.
pub(crate) fn guarded<T, E: fmt::Display>(
    path: &Path,
    expected: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    // What a panic leaves half-done is dropped with the file, unread.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| Error::format(path, expected, e)),
        Err(panic) => {
            let says = (panic.downcast_ref::<String>().map(String::as_str)).or(panic.downcast_ref::<&str>().copied());
            Err(Error::format(path, expected, says.unwrap_or("damage")))
        }
    }
}

/// The BLAKE3 hash of a whole file, as 64 hexadecimal digits.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Up to this many bytes a file is hashed whole by [`content_hash`].
pub const WHOLE_HASH_BYTES: u64 = 16 << 20;
/// Of a longer file, this many blocks, evenly spread from its first byte to its last, are hashed with its length.
pub const SAMPLED_BLOCKS: u64 = 256;
/// The length of one such block, in bytes.
pub const SAMPLED_BLOCK_BYTES: u64 = 64 << 10;

/// The identity of an upload, as 32 hexadecimal digits: BLAKE3 of the whole file up to [`WHOLE_HASH_BYTES`], and of
/// the length and [`SAMPLED_BLOCKS`] blocks beyond. So a three-hour mix costs no more to recognise than a song; two
/// long files of equal length that differ only between the sampled blocks are taken for one.
pub fn content_hash(path: &Path) -> Result<String> {
    // Asked before it is opened: opening a pipe waits for a writer, and a device has no end.
    if !fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::unsupported(path, "a regular file", "a folder, pipe or device"));
    }
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut hasher = blake3::Hasher::new();
    if length <= WHOLE_HASH_BYTES {
        // `take` bounds the work on a file that grows while it is read.
        io::copy(&mut file.take(WHOLE_HASH_BYTES), &mut hasher).map_err(Error::io(path))?;
    } else {
        hasher.update(&length.to_le_bytes());
        let mut block = vec![0; SAMPLED_BLOCK_BYTES as usize];
        let last = length - SAMPLED_BLOCK_BYTES;
        for i in 0..SAMPLED_BLOCKS {
            let at = (u128::from(last) * u128::from(i) / u128::from(SAMPLED_BLOCKS - 1)) as u64;
            file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
            file.read_exact(&mut block).map_err(Error::io(path))?;
            hasher.update(&block);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("a.txt");
        atomic_write(&path, |out| out.write_all(b"old")).unwrap();
        let failed = atomic_write(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_known_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        for place in ["file/v.npy", "."] {
            let path = dir.path().join(place);
            let refused = Aside::new(&path).unwrap_err().to_string();
            assert!(refused.contains(dir.path().to_str().unwrap()), "{refused}");
        }
        let unused = Aside::new(&dir.path().join("new")).unwrap();
        drop(unused);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what is not published goes");
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("whole");
        let aside = AsideFolder::new(&path).unwrap();
        fs::write(aside.path().join("a"), "1").unwrap();
        drop(aside);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "what is not published goes");

        fs::create_dir(&path).unwrap();
        let (aside, late) = (AsideFolder::new(&path).unwrap(), AsideFolder::new(&path).unwrap());
        fs::create_dir(aside.path().join("inner")).unwrap();
        fs::write(aside.path().join("inner").join("a"), "1").unwrap();
        aside.publish().unwrap();
        assert_eq!(fs::read_to_string(path.join("inner").join("a")).unwrap(), "1");
        for refused in [late.publish().unwrap_err(), AsideFolder::new(&path).unwrap_err()] {
            assert!(refused.to_string().contains("holds something"), "{refused}");
        }
        assert!(AsideFolder::new(&path.join("inner").join("a")).unwrap_err().to_string().contains("a file"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_content_hash_sees_length_ends_and_middle_of_a_long_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        let mut bytes = vec![7u8; (WHOLE_HASH_BYTES + 1_000_003) as usize];
        let hash = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            content_hash(&path).unwrap()
        };
        let first = hash(&bytes);
        assert_eq!(first, hash(&bytes));
        let n = bytes.len();
        let middle_block = (n - SAMPLED_BLOCK_BYTES as usize) * 128 / 255;
        for at in [0, middle_block + 100, n - 1] {
            bytes[at] ^= 1;
            assert_ne!(first, hash(&bytes), "a change at byte {at} of {n}");
            bytes[at] ^= 1;
        }
        assert_ne!(first, hash(&bytes[..n - 1]));
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_not_hashed() {
        for path in ["/dev/zero", "/dev", "/nothing/there"] {
            assert!(content_hash(Path::new(path)).unwrap_err().to_string().starts_with(path));
        }
    }

    #[test]
    fn two_spaces_do_not_mix() {
        let (a, b) = (SpaceId::of(&[b"x", b"y"]), SpaceId::of(&[b"xy"]));
        assert!(a.require("vectors", &a.clone()).is_ok());
        assert!(matches!(a.require("vectors", &b), Err(Error::Mismatch { .. })));
    }
}
