//! What the first bytes of a file say, before symphonia sees them: whether it is of a kind that is not read, which header
//! bytes must be bent for it to be read well and in little memory, and whether the length that it claims may be believed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::source::Deadline;
use crate::error::{Error, Result};

/// Bytes to be read in place of those at an offset.
pub(super) type Bent = (u64, Vec<u8>);

/// Bytes of tags ahead of the music or behind it that symphonia, which reads them whole, may see. Larger ones hold
/// pictures, of up to 256 MB each; they are passed over, and their words with them.
pub(super) const MAX_TAGS: u64 = 16 << 20;
/// A part of a tag (a picture, an attached file) that is longer is hidden from symphonia, which would keep it in memory.
const MAX_PART: u64 = 1 << 20;
/// So much of the parts up to [`MAX_PART`] is seen; what follows is hidden too.
const MAX_PARTS: u64 = 4 << 20;
/// Chunks, blocks and atoms that are looked at; a song's file has some ten of them.
const MAX_STEPS: usize = 10_000;

/// Where atoms of an MP4 file lie.
enum Place {
    File,
    Movie,
    UserData,
    Meta,
    /// The list of items of `meta`: whatever they are called, symphonia reads what is in them.
    List,
    /// An item that is to be hidden.
    Item,
}

/// A file of which a few bytes here and there are read.
pub(super) struct Headers<'a> {
    file: &'a mut File,
    /// Where what symphonia is to see begins and ends.
    start: u64,
    end: u64,
    deadline: Deadline,
    steps: usize,
    /// Bytes of tags that symphonia will see.
    seen: u64,
    bent: Vec<Bent>,
}

impl<'a> Headers<'a> {
    pub fn new(file: &'a mut File, start: u64, end: u64, deadline: Deadline) -> Headers<'a> {
        Headers { file, start, end, deadline, steps: 0, seen: 0, bent: Vec::new() }
    }

    /// Up to `N` bytes from `at` on, the rest zero; `None` beyond the end, or after too many steps.
    fn at<const N: usize>(&mut self, at: u64) -> io::Result<Option<[u8; N]>> {
        self.steps += 1;
        if at >= self.end || self.steps > MAX_STEPS {
            return Ok(None);
        }
        self.deadline.check()?;
        self.file.seek(SeekFrom::Start(at))?;
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.file.read(&mut bytes[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(Some(bytes))
    }

    fn bend(&mut self, at: u64, bytes: &[u8]) {
        self.bent.push((at - self.start, bytes.to_vec()));
    }

    /// Whether symphonia may see a part of a tag.
    fn may_be_seen(&mut self, size: u64) -> bool {
        let small = size <= MAX_PART && self.seen + size <= MAX_PARTS;
        self.seen += if small { size } else { 0 };
        small
    }

    /// What is to be bent in the file whose music begins at `music`, behind its ID3v2 tags.
    pub fn bent(mut self, music: u64) -> io::Result<Vec<Bent>> {
        if let Some(head) = self.at::<12>(music)? {
            match &head {
                [b'R', b'I' | b'F', b'F' | b'6', b'F' | b'4', .., b'W', b'A', b'V', b'E'] => self.wave(music)?,
                [b'F', b'O', b'R', b'M', .., b'A', b'I', b'F', b'F' | b'C'] => self.aiff(music)?,
                [b'f', b'L', b'a', b'C', ..] => self.flac(music)?,
                [_, _, _, _, b'f', b't', b'y', b'p', ..] => self.atoms(music, self.end, Place::File)?,
                [0x1a, 0x45, 0xdf, 0xa3, ..] => self.matroska(music)?,
                _ => {}
            }
        }
        Ok(self.bent)
    }

    fn wave(&mut self, music: u64) -> io::Result<()> {
        // RF64 is RIFF with 64-bit sizes. Where the size is said to be unknown the chunks go on to the end of the file,
        // and a wrong one does no harm.
        self.bend(music, b"RIFF\xff\xff\xff\xff");
        let mut at = music + 12;
        while let Some([a, b, c, d, size @ ..]) = self.at::<8>(at)? {
            let size = u64::from(u32::from_le_bytes(size));
            let next = at + 8 + size + size % 2;
            match &[a, b, c, d] {
                b"data" => {
                    // Some writers never correct the size that they began with. What follows is then music, not a chunk.
                    let left = self.end.saturating_sub(at + 8);
                    if !fills(size, left) && !self.is_chunk(next)? {
                        let left = u32::try_from(left).unwrap_or(u32::MAX);
                        self.bend(at + 4, &left.to_le_bytes());
                    }
                    // symphonia looks no further.
                    break;
                }
                b"fmt " | b"fact" => {}
                _ if self.may_be_seen(size) => {}
                _ => self.bend(at, b"junk"),
            }
            at = next;
        }
        Ok(())
    }

    /// Whether a RIFF chunk may begin at `at`: a name of printable characters, and a size that fits.
    fn is_chunk(&mut self, at: u64) -> io::Result<bool> {
        let Some([name @ .., a, b, c, d]) = self.at::<8>(at)? else { return Ok(false) };
        let name: [u8; 4] = name;
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        Ok(name.iter().all(|b| (b' '..=b'~').contains(b)) && at + 8 + size <= self.end + 1)
    }

    fn aiff(&mut self, music: u64) -> io::Result<()> {
        let mut at = music + 12;
        while let Some([a, b, c, d, size @ ..]) = self.at::<8>(at)? {
            let size = u64::from(u32::from_be_bytes(size));
            if !matches!(&[a, b, c, d], b"COMM" | b"SSND") && !self.may_be_seen(size) {
                self.bend(at, b"junk");
            }
            at += 8 + size + size % 2;
        }
        Ok(())
    }

    /// Blocks of metadata (RFC 9639, section 8): what is too large becomes padding.
    fn flac(&mut self, music: u64) -> io::Result<()> {
        const PADDING: u8 = 1;
        const STREAM_INFO: u8 = 0;
        let mut at = music + 4;
        while let Some([kind, size @ ..]) = self.at::<4>(at)? {
            let size = size.iter().fold(0, |size, &b| size << 8 | u64::from(b));
            let last = kind & 0x80;
            if !matches!(kind & 0x7f, STREAM_INFO | PADDING) && !self.may_be_seen(size) {
                self.bend(at, &[PADDING | last]);
            }
            if last != 0 {
                break;
            }
            at += 4 + size;
        }
        Ok(())
    }

    /// The atoms of an MP4 file from `at` to `end` (ISO 14496-12): parts of tags that are too large become free space. In
    /// a file that broke off within its media data these get the size that they have now: symphonia passes over an atom
    /// that reaches beyond the end, and with it over all the music.
    fn atoms(&mut self, mut at: u64, end: u64, place: Place) -> io::Result<()> {
        while at + 8 <= end
            && let Some([a, b, c, d, kind @ .., e, f, g, h, i, j, k, l]) = self.at::<16>(at)?
        {
            let kind: [u8; 4] = kind;
            let (head, size) = match u32::from_be_bytes([a, b, c, d]) {
                // To the end of the file.
                0 => break,
                1 => (16, u64::from_be_bytes([e, f, g, h, i, j, k, l])),
                size => (8, u64::from(size)),
            };
            if size < head {
                break;
            }
            if size > end - at {
                if kind == *b"mdat" {
                    let left = end - at;
                    match u32::try_from(left) {
                        Ok(left) if head == 8 => self.bend(at, &left.to_be_bytes()),
                        _ => self.bend(at + 8, &left.to_be_bytes()),
                    }
                }
                break;
            }
            // Fragments of a stream follow, thousands of them.
            if kind == *b"moof" {
                break;
            }
            // In small ones there is nothing to hide; `meta` has four bytes ahead of its atoms.
            let within = match (&place, &kind) {
                (Place::List, _) => (!self.may_be_seen(size)).then_some((head, Place::Item)),
                _ if size <= MAX_PART => None,
                (Place::File, b"moov") => Some((head, Place::Movie)),
                (Place::Movie, b"udta") => Some((head, Place::UserData)),
                (Place::File | Place::UserData, b"meta") => Some((head + 4, Place::Meta)),
                (Place::Meta, b"ilst") => Some((head, Place::List)),
                _ => None,
            };
            if let Some((head, place)) = within {
                self.atoms(at + head, at + size, place)?;
            } else if matches!(place, Place::Item) {
                self.bend(at + 4, b"free");
            }
            at += size;
        }
        Ok(())
    }

    /// The elements of a Matroska segment up to its first cluster (RFC 9559): what is too large becomes void.
    fn matroska(&mut self, music: u64) -> io::Result<()> {
        const SEGMENT: u32 = 0x1853_8067;
        const CLUSTER: u32 = 0x1f43_b675;
        const VOID: u8 = 0xec;
        // Attachments, tags, chapters.
        const PARTS: [u32; 3] = [0x1941_a469, 0x1254_c367, 0x1043_a770];
        let mut at = music;
        while let Some(bytes) = self.at::<12>(at)? {
            let id_length = bytes[0].leading_zeros() as usize + 1;
            if id_length > 4 {
                break;
            }
            let id = bytes[..id_length].iter().fold(0, |id, &b| id << 8 | u32::from(b));
            let size_length = bytes[id_length].leading_zeros() as usize + 1;
            if id == CLUSTER || size_length > 8 {
                break;
            }
            let marked = bytes[id_length..id_length + size_length].iter().fold(0, |size, &b| size << 8 | u64::from(b));
            let size = marked & !(1 << (7 * size_length));
            let head = (id_length + size_length) as u64;
            if id == SEGMENT {
                at += head;
                continue;
            }
            if PARTS.contains(&id) && !self.may_be_seen(size) {
                // The identifier of a void element has one byte, so that its size has room for more, of up to eight.
                let length = (head - 1).min(8);
                let size = size + head - 1 - length;
                let marked = (size | 1 << (7 * length)).to_be_bytes();
                self.bend(at, &[&[VOID][..], &marked[8 - length as usize..]].concat());
            }
            at = at.saturating_add(head).saturating_add(size);
        }
        Ok(())
    }
}

/// Where the ID3v2 tags (ID3v2.4 structure, section 3.1) that begin the file end; 0 where there are none.
pub(super) fn end_of_tags(file: &mut File) -> io::Result<u64> {
    let mut at = 0;
    // A few may follow one another; a file of nothing but tags is refused elsewhere.
    for _ in 0..16 {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 10];
        if file.read(&mut head)? < head.len() {
            break;
        }
        let [b'I', b'D', b'3', _, _, flags, size @ ..] = head else { break };
        let size = size.iter().fold(0, |size, &b| size << 7 | u64::from(b & 0x7f));
        // A footer is ten bytes more.
        at += 10 + size + if flags & 0x10 == 0 { 0 } else { 10 };
    }
    Ok(at)
}

/// Where the tags that end a file of `length` bytes begin: an APE tag with its header (APEv2 specification), an ID3v1 tag,
/// or the one before the other.
pub(super) fn start_of_last_tags(file: &mut File, length: u64) -> io::Result<u64> {
    const ID3V1: usize = 128;
    const FOOTER: usize = 32;
    let mut end = [0; FOOTER + ID3V1];
    let Some(at) = length.checked_sub(end.len() as u64) else { return Ok(length) };
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut end)?;
    let behind = if end[FOOTER..].starts_with(b"TAG") { ID3V1 } else { 0 };
    let footer = &end[ID3V1 - behind..][..FOOTER];
    let length = length - behind as u64;
    let [size, flags] =
        [12, 20].map(|at| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]));
    // The size is that of the items and this footer; bit 31 says that there is a header as well.
    if footer.starts_with(b"APETAGEX")
        && flags >> 31 == 1
        && let Some(at) = length.checked_sub(u64::from(size) + 32)
    {
        let mut header = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        if header == *b"APETAGEX" {
            return Ok(at);
        }
    }
    Ok(length)
}

/// The kinds of audio that are not read, by their first bytes: symphonia would take some of them for damaged files of
/// other kinds.
const NOT_READ: [(&[u8], &str); 26] = [
    (b"wvpk", "WavPack"),
    (b"MAC ", "Monkey's Audio"),
    (b"TTA1", "True Audio"),
    (b"TTA2", "True Audio"),
    (b"tBaK", "TAK"),
    (b"OFR ", "OptimFROG"),
    (b"ajkg", "Shorten"),
    (b"MPCK", "Musepack"),
    (b"MP+", "Musepack"),
    (b"DSD ", "DSF (1-bit audio)"),
    (b"FRM8", "DSDIFF (1-bit audio)"),
    (b"\x7f\xfe\x80\x01", "DTS"),
    (b"\xfe\x7f\x01\x80", "DTS"),
    (b"\x1f\xff\xe8\x00", "DTS"),
    (b"\xff\x1f\x00\xe8", "DTS"),
    (b"DTSHDHDR", "DTS-HD"),
    (b"\x0b\x77", "AC-3"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (ASF)"),
    (b".RMF", "RealMedia"),
    (b".ra\xfd", "RealAudio"),
    (b"#!AMR", "AMR"),
    (b"riff\x2e\x91\xcf\x11", "Wave64"),
    (b".snd", "Sun audio (AU)"),
    (b"FLV\x01", "Flash video"),
    (b"MThd", "MIDI"),
    (b"\x00\x00\x01\xba", "an MPEG program stream"),
];

/// # Errors
/// `Unsupported`, with its name, if a known kind of audio that is not read begins at `music`.
pub(super) fn refuse_what_is_not_read(path: &Path, file: &mut File, music: u64) -> Result<()> {
    let mut head = Vec::with_capacity(12);
    file.seek(SeekFrom::Start(music)).map_err(Error::io(path))?;
    file.take(12).read_to_end(&mut head).map_err(Error::io(path))?;
    let found = match head[..] {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' '] => Some("AVI"),
        _ => NOT_READ.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, name)| name),
    };
    match found {
        Some(found) => Err(Error::unsupported(path, "a container that we read", found)),
        None => Ok(()),
    }
}

/// Whether the header of a bare MPEG audio stream tells its length: how many frames there are, and in how many bytes, which
/// must be nearly all that follow. Otherwise symphonia estimates it from the first bitrates, and of files that were joined
/// the first header speaks for its own.
pub(super) fn mpeg_tells_its_length(path: &Path) -> Result<bool> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let at = end_of_tags(&mut file).map_err(Error::io(path))?;
    let length = file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
    let left = start_of_last_tags(&mut file, length).map_err(Error::io(path))?.saturating_sub(at);
    file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
    let mut found = Vec::with_capacity(2048);
    file.take(2048).read_to_end(&mut found).map_err(Error::io(path))?;
    // What is not a frame is junk: not a tidy stream.
    let bytes = match found[..] {
        [0xff, second, ..] if second & 0xe0 == 0xe0 => bytes_of_frames(&found),
        _ => None,
    };
    Ok(bytes.is_some_and(|bytes| fills(u64::from(bytes), left)))
}

/// The bytes of a stream as its Xing, Info or VBRI header has them, which has its number of frames too.
fn bytes_of_frames(first: &[u8]) -> Option<u32> {
    let number = |at: usize| first.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b));
    let find = |names: &[&[u8; 4]]| first.windows(4).position(|w| names.iter().any(|name| w == *name));
    if let Some(at) = find(&[b"Xing", b"Info"]) {
        // Bit 0 says that the frames are told, bit 1 that the bytes are.
        let told = number(at + 4)? & 3 == 3 && number(at + 8)? > 0;
        return if told { number(at + 12) } else { None };
    }
    // A version, a delay and a quality come first, two bytes each.
    let at = find(&[b"VBRI"])?;
    if number(at + 14)? > 0 { number(at + 10) } else { None }
}

/// Whether `claimed` bytes are nearly all of `left`; the rest may be tags of other kinds.
fn fills(claimed: u64, left: u64) -> bool {
    claimed.saturating_add(claimed / 10) >= left
}

#[test]
fn a_header_with_frames_and_bytes_tells_the_length() {
    let frame = |rest: &[u8]| [&[0xff, 0xfb, 0x90, 0x64][..], &[0; 32], rest].concat();
    assert_eq!(bytes_of_frames(&frame(b"Xing\0\0\0\x0f\0\0\0\x05\0\0\x10\0")), Some(4096));
    assert_eq!(bytes_of_frames(&frame(b"Info\0\0\0\x03\0\0\0\x05\0\0\x10\0")), Some(4096));
    assert_eq!(bytes_of_frames(&frame(b"VBRI\0\x01\0\0\0\0\0\0\x10\0\0\0\0\x05")), Some(4096));
    // No frames, no bytes, none of both, cut off.
    for none in [&b"Xing\0\0\0\x02\0\0\x10\0"[..], b"Xing\0\0\0\x01\0\0\0\x05", b"Info\0\0\0\0", b"Xing\0\0\0\x03\0\0"]
    {
        assert_eq!(bytes_of_frames(&frame(none)), None);
    }
    assert!(fills(1000, 1100) && !fills(1000, 1101) && fills(u64::MAX, 5));
}

/// Whether an Ogg file ends in another stream than those which it begins with: links of a chain, of which the headers of
/// the first speak for the first.
pub(super) fn ogg_is_chained(path: &Path) -> Result<bool> {
    const PAGE: u64 = 27 + 255 + 255 * 255;
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut at = end_of_tags(&mut file).map_err(Error::io(path))?;
    // The first pages of all streams of the first link come first, and are short: one packet of identification each.
    let mut first = Vec::new();
    loop {
        let mut head = [0; 27 + 255];
        file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
        let n = file.read(&mut head).map_err(Error::io(path))?;
        match page(&head[..n]) {
            Some((serial, true)) if first.len() < 64 => first.push(serial),
            _ => break,
        }
        let segments = usize::from(head[26]);
        at += 27 + segments as u64 + head[27..27 + segments].iter().map(|&b| u64::from(b)).sum::<u64>();
    }
    let length = file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
    file.seek(SeekFrom::Start(length.saturating_sub(PAGE))).map_err(Error::io(path))?;
    let mut end = Vec::with_capacity(PAGE as usize);
    file.take(PAGE).read_to_end(&mut end).map_err(Error::io(path))?;
    let last = (0..end.len()).rev().find_map(|at| page(&end[at..]));
    Ok(last.is_some_and(|(serial, _)| !first.is_empty() && !first.contains(&serial)))
}

/// The stream of the Ogg page (RFC 3533, section 6) that begins here, and whether it is its first.
fn page(bytes: &[u8]) -> Option<(u32, bool)> {
    match bytes.first_chunk::<27>()? {
        [b'O', b'g', b'g', b'S', 0, flags, _, _, _, _, _, _, _, _, a, b, c, d, ..] if flags & 0xf8 == 0 => {
            Some((u32::from_le_bytes([*a, *b, *c, *d]), flags & 2 != 0))
        }
        _ => None,
    }
}
