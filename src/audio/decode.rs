//! From a file to the mono excerpt that is heard: found by seeking, never by decoding the whole track.
//!
//! Files lie and are damaged, so nothing that a header claims is believed without bounds: not the length (when the
//! excerpt comes out short the packets are walked for the true one), not the rate, not the channels. A decoder's panic
//! is caught, its time is limited, and no memory is reserved by a claim.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use symphonia::core::audio::conv::IntoSample;
use symphonia::core::audio::sample::Sample;
use symphonia::core::audio::{Audio, AudioBuffer, GenericAudioBufferRef};
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_ALAC, CODEC_ID_MP3, CODEC_ID_OPUS, CODEC_ID_VORBIS,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration as Ticks, TimeBase, Timestamp};

use super::aac::{self, AacDecoder};
use super::flac::FlacDecoder;
use super::half;
use super::headers::{mpeg_tells_its_length, ogg_is_chained};
use super::mp3::Mp3Decoder;
use super::opus::{OPUS_RATE, OpusDecoder, OpusHead};
use super::pcm::PcmDecoder;
use super::resample::Resampler;
use super::source::{Allowance, Deadline, Source};
use super::tags::Tags;
use super::vorbis::VorbisDecoder;
use super::{Listening, Spent, no_panic};
use crate::error::{Error, Result};

/// Shorter tracks are refused: there is nothing to know a song by.
pub const MIN_SECONDS: f64 = 1.0;
/// −80 dBFS, three steps of a 16-bit sample: what never exceeds it is silence with dither or hum, and its logarithm
/// would be the spectrum of the noise.
pub const SILENCE: f32 = 1e-4;
/// +40 dBFS. A float file may exceed 1 a little; beyond this it is not audio (integers stored as floats, damage), and
/// its spectrogram would be far outside all that a model has seen.
pub const MAX_AMPLITUDE: f32 = 100.0;
/// Above the highest rate that converters sell; a damaged header claims millions.
pub const MAX_RATE: u32 = 768_000;
/// As low as a front end may go. Each rate has its filter, of a length in proportion to the ratio of the rates: from a
/// claimed 1 Hz it has gigabytes.
pub const MIN_RATE: u32 = 1000;
pub const MAX_CHANNELS: usize = 64;
/// Frames that a codec may put into one packet. FLAC may use 65,535; a damaged header claims billions, and decoders
/// allocate that before the first packet.
const MAX_PACKET_FRAMES: u64 = 1 << 18;
/// Decoded ahead of the excerpt and thrown away, in seconds. A packet of mp3 may begin up to 511 bytes of music before
/// itself, which at 32 kbit/s is 0.2 s; AAC needs the overlap of one packet, Opus 80 ms (RFC 7845, section 4.6).
const PREROLL: f64 = 0.25;
/// The same for mp3 at 24 kHz and below, of which a packet may begin up to 255 bytes before itself: at 8 kbit/s a packet
/// of 36 ms has 15 to 23 bytes of music.
const SLOW_PREROLL: f64 = 0.7;
/// A gap between packets is believed (and filled with silence) from this length on, in seconds; below it timestamps
/// may simply be rounded, as in Matroska.
const GAP: f64 = 0.1;
/// What an mp3 encoder may add behind the music: 12 bits in its LAME header, and the rest of a packet, in frames.
const MPEG_PADDING: i64 = 4095 + 1152;
/// Damaged packets in a row after which the rest of the file is given up.
const MAX_ERRORS_IN_A_ROW: usize = 1000;

/// A mono excerpt of a track.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// Mono, full scale is 1.
    pub samples: Vec<f32>,
    /// Hz.
    pub sample_rate: u32,
    /// Where in the track the first sample lies.
    pub start_seconds: f64,
    /// Length of the whole track.
    pub seconds: Option<f64>,
    /// The track is shorter than the excerpt and was repeated to fill it.
    pub tiled: bool,
    pub tags: Tags,
    /// The container, such as `ogg`.
    pub format: &'static str,
    /// The codec, such as `vorbis`.
    pub codec: &'static str,
    /// Hz, of the file.
    pub source_rate: u32,
    /// Of the file; the samples are their mean.
    pub channels: usize,
    /// Part of the excerpt (0 to ½) that could not be decoded and is silent.
    pub lost: f64,
}

/// The `samples` samples at `sample_rate` Hz around `centre` (0 the beginning of the track, 0.5 its middle, 1 its end).
/// Near an end the excerpt is moved inside the track. Of `listening` only its time limit counts.
///
/// # Errors
/// `Io`, `Unsupported`, or `Decode` with the reason: not audio, shorter than a second, silent, damaged beyond half.
pub fn excerpt(path: &Path, sample_rate: u32, samples: usize, centre: f64, listening: &Listening) -> Result<Excerpt> {
    listening.check()?;
    let mut excerpt = None;
    let limit = Duration::from_secs_f64(listening.time_limit_s);
    let listened = listen(path, sample_rate, samples, &[centre], limit, |window| excerpt = Some(window))?;
    let window = excerpt.expect("one centre gives one window");
    Ok(Excerpt {
        samples: window.samples,
        sample_rate,
        start_seconds: window.start_seconds,
        seconds: listened.seconds,
        tiled: listened.tiled,
        tags: listened.tags,
        format: listened.format,
        codec: listened.codec,
        source_rate: listened.source_rate,
        channels: listened.channels,
        lost: window.lost,
    })
}

/// One excerpt, before anything is known about the rest of the track.
pub(super) struct Window {
    pub samples: Vec<f32>,
    pub start_seconds: f64,
    pub lost: f64,
}

/// What is said of the track as a whole.
pub(super) struct Listened {
    pub seconds: Option<f64>,
    pub tiled: bool,
    pub tags: Tags,
    pub format: &'static str,
    pub codec: &'static str,
    pub source_rate: u32,
    pub channels: usize,
    /// Without the time of the spectrograms.
    pub spent: Spent,
}

/// Hands the windows around `centres` to `each`, one after the other.
pub(super) fn listen(
    path: &Path,
    sample_rate: u32,
    samples: usize,
    centres: &[f64],
    limit: Duration,
    mut each: impl FnMut(Window),
) -> Result<Listened> {
    if samples == 0 || sample_rate == 0 || centres.iter().any(|c| !(0.0..=1.0).contains(c)) {
        return Err(Error::invalid(
            "excerpt",
            "samples, a rate and centres from 0 to 1",
            format!("{samples}, {sample_rate}, {centres:?}"),
        ));
    }
    no_panic(path, || {
        let mut listener = Listener::open(path, sample_rate, limit)?;
        let mut loudest = 0.0f32;
        let mut silent_at = 0.0;
        let mut tiled = false;
        for &centre in centres {
            let (window, repeated) = listener.window(samples, centre)?;
            tiled |= repeated;
            silent_at = window.start_seconds;
            loudest = window.samples.iter().fold(loudest, |peak, s| peak.max(s.abs()));
            each(window);
        }
        if loudest < SILENCE {
            let decibel = 20.0 * f64::from(loudest).log10();
            let length = samples as f64 / f64::from(sample_rate);
            return Err(Error::decode(
                path,
                format!(
                    "silent: {length:.1} s from {silent_at:.1} s peak at {decibel:.0} dBFS, expected more than -80"
                ),
            ));
        }
        let reader = listener.reader;
        Ok(Listened {
            seconds: listener.seconds,
            tiled,
            tags: listener.tags,
            format: reader.format_name,
            codec: reader.codec_name,
            source_rate: reader.source_rate,
            channels: reader.channels,
            spent: listener.spent,
        })
    })
}

/// A track being listened to: where it ends, and how to get at its samples at the rate that is wanted.
struct Listener {
    reader: Reader,
    tags: Tags,
    /// Length of the track in seconds: claimed by a header, or found by walking its packets.
    seconds: Option<f64>,
    walked: bool,
    to: u32,
    resampler: Resampler,
    spent: Spent,
}

impl Listener {
    fn open(path: &Path, to: u32, limit: Duration) -> Result<Listener> {
        let started = Instant::now();
        let mut reader = Reader::open(path, to, Deadline::after(limit))?;
        let tags = Tags::of(reader.format.as_mut());
        let seconds = reader.claimed_seconds.filter(|_| !reader.chained);
        let resampler = Resampler::new(reader.rate, to);
        let spent = Spent { open: started.elapsed(), ..Spent::default() };
        Ok(Listener { reader, tags, seconds, walked: false, to, resampler, spent })
    }

    /// The excerpt of `samples` samples around `centre`, and whether it was tiled.
    fn window(&mut self, samples: usize, centre: f64) -> Result<(Window, bool)> {
        let second = self.to as usize;
        loop {
            let Some(seconds) = self.seconds.filter(|&s| s > 0.0 || self.walked) else {
                self.walk()?;
                continue;
            };
            let total = (seconds * f64::from(self.to)).round() as i64;
            if total < (samples + second / 10) as i64 {
                // Short: hear all of it, and a second more to see whether the claim was true.
                let whole = self.resampled(0, samples + second)?;
                if whole.samples.len() == samples + second && !self.walked {
                    self.walk()?;
                    continue;
                }
                if self.found_a_chain()? {
                    continue;
                }
                return self.short(whole, samples, centre);
            }
            let start = centred(total, samples, centre);
            let mut part = self.resampled(start, samples)?;
            if self.found_a_chain()? {
                continue;
            }
            let missing = samples - part.samples.len();
            if missing > second / 20 && !self.walked {
                self.walk()?;
                continue;
            }
            part.samples.resize(samples, 0.0);
            let lost = (part.lost + missing as f64) / samples as f64;
            self.check_lost(lost, start as f64 / f64::from(self.to))?;
            let start_seconds = start as f64 / f64::from(self.to);
            return Ok((Window { samples: part.samples, start_seconds, lost }, false));
        }
    }

    /// The window of a track that is hardly longer, or shorter, than the window.
    fn short(&mut self, whole: Part, samples: usize, centre: f64) -> Result<(Window, bool)> {
        let length = whole.samples.len();
        let seconds = length as f64 / f64::from(self.to);
        self.seconds = Some(seconds);
        if seconds < MIN_SECONDS {
            return Err(self.reader.refuse_content(match &self.reader.first_error {
                Some(reason) => format!("only {seconds:.2} s could be decoded, expected at least 1 s: {reason}"),
                None => format!("{seconds:.2} s long, expected at least 1 s"),
            }));
        }
        let lost = whole.lost / length as f64;
        self.check_lost(lost, 0.0)?;
        if length >= samples {
            let start = centred(length as i64, samples, centre);
            let samples = whole.samples[start as usize..start as usize + samples].to_vec();
            return Ok((Window { samples, start_seconds: start as f64 / f64::from(self.to), lost }, false));
        }
        let tiles = whole.samples.iter().copied().cycle().take(samples).collect();
        Ok((Window { samples: tiles, start_seconds: 0.0, lost }, true))
    }

    fn check_lost(&self, lost: f64, start: f64) -> Result<()> {
        if lost <= 0.5 {
            return Ok(());
        }
        let reason = self.reader.first_error.as_deref().unwrap_or("the packets end early");
        let percent = 100.0 * lost;
        Err(self
            .reader
            .refuse_content(format!("{percent:.0} % of the excerpt at {start:.1} s cannot be decoded: {reason}")))
    }

    /// Whether reading came upon the second link of a chain, so that what was taken for the track is its first link.
    fn found_a_chain(&mut self) -> Result<bool> {
        let found = self.reader.chained && !self.walked;
        if found {
            self.walk()?;
        }
        Ok(found)
    }

    /// The true length, by walking all packets without decoding them.
    fn walk(&mut self) -> Result<()> {
        self.seconds = Some(self.reader.walk()?);
        self.walked = true;
        Ok(())
    }

    /// Samples `start..start + n` of the whole track resampled (fewer where it ends), by decoding a little more on both
    /// sides than the filter reaches.
    fn resampled(&mut self, start: i64, n: usize) -> Result<Part> {
        let mut rate_may_change = true;
        loop {
            let (p, q) = self.resampler.ratio();
            let reach = self.resampler.reach();
            // Begin where input and output samples coincide, so that the grid is the whole track's.
            let before = (reach * p).div_ceil(q) as i64;
            let block = ((start - before) / p as i64).max(0);
            let skip = (start - block * p as i64) as usize;
            let from = block * q as i64;
            let wanted = ((skip + n) * q).div_ceil(p) + reach + 1;
            let started = Instant::now();
            let decoded = self.reader.read(from, wanted, rate_may_change)?;
            self.spent.decode += started.elapsed();
            let decoded = match decoded {
                Decoded::Samples { samples, lost } => (samples, lost),
                Decoded::RateIs(rate) => {
                    self.resampler = Resampler::new(rate, self.to);
                    // Once: the links of a chain may have one rate each.
                    rate_may_change = false;
                    continue;
                }
            };
            let (input, lost) = decoded;
            let started = Instant::now();
            let mut samples = self.resampler.process(&input);
            self.spent.resample += started.elapsed();
            let end = (skip + n).min((input.len() * p) / q);
            samples.truncate(end);
            samples.drain(..skip.min(samples.len()));
            return Ok(Part { samples, lost: (lost * p / q) as f64 });
        }
    }
}

/// Resampled samples, and how many of them stand for audio that could not be decoded.
struct Part {
    samples: Vec<f32>,
    lost: f64,
}

/// First of `n` samples around `centre` of `total`, moved inside; `total >= n`.
fn centred(total: i64, n: usize, centre: f64) -> i64 {
    let n = n as i64;
    ((total as f64 * centre).round() as i64 - n / 2).clamp(0, total - n)
}

#[test]
fn excerpts_are_centred_and_stay_inside() {
    assert_eq!(centred(1000, 100, 0.5), 450);
    assert_eq!(centred(1000, 100, 0.0), 0);
    assert_eq!(centred(1000, 100, 1.0), 900);
    // The 30 s excerpt holds the 27.9 s one from its frame 23 on, whatever the length.
    for total in [700_001, 5_000_000, 237_123_457] {
        assert_eq!(centred(total, 661_504, 0.5) + 23 * 1024, centred(total, 614_400, 0.5));
    }
}

/// What [`Reader::read`] gives.
enum Decoded {
    Samples {
        /// Mono at the source's rate; shorter than asked where the track ends.
        samples: Vec<f32>,
        /// How many of them are silence in place of packets that could not be decoded.
        lost: usize,
    },
    /// The packets have another rate than the header says; ask again.
    RateIs(u32),
}

/// The packets of one audio track and their decoder. Positions are frames of the track at the decoder's rate; frame 0
/// is the first that is meant to be heard (encoder delay excluded).
struct Reader {
    path: PathBuf,
    deadline: Deadline,
    allowance: Allowance,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    time_base: TimeBase,
    /// Hz, of the excerpts that are asked for.
    to: u32,
    /// Hz, of the decoder's frames.
    rate: u32,
    /// Hz, of the file.
    source_rate: u32,
    /// How many frames of the file the decoder makes into one.
    decimation: u32,
    channels: usize,
    /// When frame 0 is played, on the clock of the timestamps; in a chain, frame 0 of its present link.
    starts_at: f64,
    /// The frame at which the present link of a chain begins.
    link_start: i64,
    /// One past the last frame of all packets so far.
    end: i64,
    /// An Ogg file of several streams, one after the other.
    chained: bool,
    /// Of the present link, in a chain; `None` where the header claims no length or one that is only an estimate.
    claimed_seconds: Option<f64>,
    format_name: &'static str,
    codec_name: &'static str,
    /// A bare MPEG audio stream, as mp3 files are.
    mpeg: bool,
    opus: bool,
    /// A seek has failed, or gone too far.
    seek_failed: bool,
    /// No packet has been read since the file was opened.
    fresh: bool,
    first_error: Option<String>,
    /// What a packet turned out to be that its header did not tell, as HE-AAC may.
    unsupported: Option<&'static str>,
}

impl Reader {
    /// For excerpts at `to` Hz.
    fn open(path: &Path, to: u32, deadline: Deadline) -> Result<Reader> {
        let allowance = Allowance::new();
        let source = Source::open(path, deadline, allowance.clone())?;
        let options = MediaSourceStreamOptions { buffer_len: 64 << 10 };
        let stream = MediaSourceStream::new(Box::new(source), options);
        let mut hint = Hint::new();
        if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
            hint.with_extension(extension);
        }
        // The limits of symphonia's options are not heeded by its readers; the source has its own.
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|e| not_opened(path, &e))?;
        let track =
            format.default_track(TrackType::Audio).ok_or_else(|| Error::decode(path, "no audio track"))?.clone();
        let prepared = Prepared::of(path, &track, to)?;
        let name = format.format_info().short_name;
        let mpeg = matches!(name, "mp1" | "mp2" | "mp3");
        let chained = name == "ogg" && ogg_is_chained(path)?;
        // ADTS has no header; its claim is an estimate from the bitrate of its beginning.
        let trusted = name != "aac" && (!mpeg || mpeg_tells_its_length(path)?);
        Ok(Reader {
            path: path.to_path_buf(),
            deadline,
            allowance,
            track: track.id,
            time_base: prepared.time_base,
            to,
            rate: prepared.rate,
            source_rate: prepared.source_rate,
            decimation: prepared.decimation,
            channels: prepared.channels,
            starts_at: prepared.starts_at,
            link_start: 0,
            end: 0,
            chained,
            claimed_seconds: prepared.claimed_seconds.filter(|_| trusted),
            format_name: name,
            codec_name: prepared.decoder.codec_info().short_name,
            mpeg,
            opus: prepared.opus,
            seek_failed: false,
            decoder: prepared.decoder,
            format,
            fresh: true,
            first_error: None,
            unsupported: None,
        })
    }

    fn refuse(&self, reason: impl ToString) -> Error {
        Error::decode(&self.path, reason)
    }

    /// What cannot be heard: by its kind, if a packet told that, else by damage.
    fn refuse_content(&self, damage: String) -> Error {
        match self.unsupported {
            Some(what) => Error::unsupported(&self.path, "a codec that we decode", what),
            None => self.refuse(damage),
        }
    }

    /// Opens the file again, at its beginning.
    fn reopen(&mut self) -> Result<()> {
        let again = Reader::open(&self.path, self.to, self.deadline)?;
        *self = Reader {
            rate: self.rate,
            source_rate: self.source_rate,
            channels: self.channels,
            chained: again.chained || self.chained,
            seek_failed: self.seek_failed,
            first_error: self.first_error.take(),
            unsupported: self.unsupported,
            ..again
        };
        Ok(())
    }

    /// Within a chain, symphonia seeks in the present link and by that link's own time. With several streams in one link
    /// it never comes back from a packet of another stream, and reads nothing meanwhile, so that no time limit ends it.
    fn can_seek(&self) -> bool {
        let one_stream = self.format_name != "ogg" || !self.chained && self.format.tracks().len() == 1;
        one_stream && !self.seek_failed
    }

    /// Timestamp of frame 0 of the track, in frames.
    fn origin(&self) -> i64 {
        (self.starts_at * f64::from(self.rate)).round() as i64 - self.link_start
    }

    /// A timestamp or duration in frames.
    fn frames(&self, ticks: i64) -> i64 {
        let (n, d) = (i128::from(self.time_base.numer.get()), i128::from(self.time_base.denom.get()));
        let scaled = i128::from(ticks) * n * i128::from(self.rate);
        let rounded = (2 * scaled + d).div_euclid(2 * d);
        rounded.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4)) as i64
    }

    /// Where the frames of a packet that are to be heard begin.
    fn position(&self, packet: &Packet) -> i64 {
        let trimmed = packet.trim_start.get().min(i64::MAX as u64) as i64;
        // Added before they are rounded: halves of two odd numbers would be rounded twice.
        self.frames(packet.pts.get().saturating_add(trimmed)) - self.origin()
    }

    /// How many frames of a packet are to be heard.
    fn length(&self, packet: &Packet) -> i64 {
        self.frames(packet.dur.get().min(i64::MAX as u64) as i64)
    }

    /// The next packet of our track; `None` at the end, or where the rest is lost.
    fn next(&mut self) -> Result<Option<Packet>> {
        self.fresh = false;
        let mut errors = 0;
        loop {
            self.check_time()?;
            self.allowance.renew();
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => {
                    self.end = self.end.max(self.position(&packet).saturating_add(self.length(&packet)));
                    return Ok(Some(packet));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(SymphoniaError::ResetRequired) => {
                    if !self.next_link() {
                        return Ok(None);
                    }
                }
                Err(SymphoniaError::DecodeError(reason)) if errors < MAX_ERRORS_IN_A_ROW => {
                    self.note(reason);
                    errors += 1;
                }
                Err(e) => {
                    self.check_time()?;
                    if let Some(e) = disk_problem(&self.path, &e) {
                        return Err(e);
                    }
                    self.note(e);
                    return Ok(None);
                }
            }
        }
    }

    /// A chained Ogg file goes on with another stream, whose first frame follows on the last one so far.
    fn next_link(&mut self) -> bool {
        self.chained = true;
        let link = self.format.default_track(TrackType::Audio).cloned();
        let link = link.and_then(|track| Some((track.id, Prepared::of(&self.path, &track, self.to).ok()?)));
        let Some((track, link)) = link else {
            self.note("the file goes on with a stream that is not read");
            return false;
        };
        if link.rate != self.rate {
            // Its time still counts, and a window that lies in it is heard.
            self.note(format!("the sample rate changes within the file, to {} Hz", link.source_rate));
        }
        self.link_start = self.end;
        (self.track, self.time_base, self.starts_at) = (track, link.time_base, link.starts_at);
        (self.decoder, self.decimation, self.claimed_seconds) = (link.decoder, link.decimation, link.claimed_seconds);
        true
    }

    fn note(&mut self, reason: impl ToString) {
        self.first_error.get_or_insert_with(|| reason.to_string());
    }

    fn check_time(&self) -> Result<()> {
        // The machine may have been busy, or asleep: an error of the reading, not of the file.
        self.deadline.check().map_err(Error::io(&self.path))
    }

    /// Length in seconds, to the end of the last packet.
    fn walk(&mut self) -> Result<f64> {
        self.reopen()?;
        while self.next()?.is_some() {}
        Ok(self.end as f64 / f64::from(self.rate))
    }

    /// Goes to `target` or before it. Where the format cannot seek, its packets are passed over without being decoded;
    /// the answer is then the frame up to which they may be.
    fn go_to(&mut self, target: i64) -> Result<Option<i64>> {
        if target <= 0 {
            if !self.fresh {
                self.reopen()?;
            }
            return Ok(None);
        }
        if self.can_seek() {
            let (n, d) = (i128::from(self.time_base.numer.get()), i128::from(self.time_base.denom.get()));
            let ticks = i128::from(target + self.origin()) * d / (n * i128::from(self.rate));
            let to = SeekTo::Timestamp { ts: Timestamp::new(ticks as i64), track_id: self.track };
            self.fresh = false;
            self.allowance.lift();
            match self.format.seek(SeekMode::Accurate, to) {
                Ok(sought) if self.frames(sought.actual_ts.get()) - self.origin() <= target => {
                    self.decoder.reset();
                    return Ok(None);
                }
                Ok(_) => {}
                Err(_) => self.check_time()?,
            }
            self.seek_failed = true;
        }
        self.reopen()?;
        Ok(Some(target))
    }

    /// Frames `from..from + n` as mono; where `rate_may_change` is false, what has another rate is lost.
    fn read(&mut self, from: i64, n: usize, rate_may_change: bool) -> Result<Decoded> {
        let slow = self.mpeg && self.source_rate <= 24_000;
        let preroll = (if slow { SLOW_PREROLL } else { PREROLL } * f64::from(self.rate)) as i64;
        let pass_over = self.go_to(from - preroll)?;
        let gap = (GAP * f64::from(self.rate)) as i64;
        let end = from + n as i64;
        // What was asked for, not what a header claims; capped all the same.
        let mut samples: Vec<f32> = Vec::with_capacity(n.min(1 << 21));
        let mut lost = 0;
        // Position of the next frame to be decoded; unknown at first, and in doubt after an error.
        let mut at: Option<i64> = None;
        let mut in_doubt = false;
        let mut link_start = self.link_start;
        while let Some(mut packet) = self.next()? {
            let (position, length) = (self.position(&packet), self.length(&packet));
            if pass_over.is_some_and(|limit| position + length <= limit) {
                continue;
            }
            let claimed_end = self.claimed_seconds.map(|s| self.link_start + (s * f64::from(self.rate)) as i64);
            let untrimmed = match claimed_end {
                // symphonia cuts mp3 off at the length it was told or has guessed; where that is wrong (a variable
                // bitrate without a header, files that were joined) music follows.
                claimed if self.mpeg => claimed.is_none_or(|end| position > end + MPEG_PADDING),
                // The granule positions that ffmpeg writes into Opus files are up to 10 ms off on some pages, and
                // symphonia cuts the packets there. Only the end of the track is meant to be cut.
                Some(end) if self.opus => position + i64::from(self.rate) < end,
                _ => false,
            };
            if untrimmed {
                packet.trim_end = Ticks::ZERO;
            }
            let decoded = match self.decoder.decode(&packet) {
                Ok(decoded) => decoded,
                Err(e) => {
                    if matches!(e, SymphoniaError::ResetRequired) {
                        self.decoder.reset();
                    }
                    // What fails ahead of the excerpt only lacked its predecessors.
                    if position + length > from {
                        if let SymphoniaError::Unsupported(what) = e {
                            self.unsupported = Some(what);
                        }
                        let reason = e.to_string();
                        self.note(reason);
                    }
                    in_doubt = true;
                    continue;
                }
            };
            let (rate, frames, channels) = (decoded.spec().rate(), decoded.frames(), decoded.num_planes());
            if frames == 0 {
                continue;
            }
            if rate != self.rate {
                let possible = (MIN_RATE..=MAX_RATE).contains(&rate);
                if !possible {
                    self.note(format!("a packet has a sample rate of {rate} Hz, expected 1 to 768 kHz"));
                }
                if possible && rate_may_change && samples.is_empty() {
                    (self.rate, self.source_rate) = (rate, rate * self.decimation);
                    return Ok(Decoded::RateIs(rate));
                }
                in_doubt = true;
                continue;
            }
            let new_link = self.link_start != link_start;
            link_start = self.link_start;
            let here = match at {
                None => position,
                // A link may begin with what is only there to start its decoder.
                Some(expected) if new_link && position < expected => position,
                Some(expected) if position > expected + if in_doubt { 0 } else { gap } => position,
                Some(expected) => expected,
            };
            in_doubt = false;
            // Silence for what is missing between the samples so far and this packet.
            let missing = (here.min(end) - from - samples.len() as i64).max(0) as usize;
            if missing > 0 {
                lost += missing;
                samples.resize(samples.len() + missing, 0.0);
            }
            let first = (from + samples.len() as i64 - here).clamp(0, frames as i64) as usize;
            let take = (frames - first).min(n - samples.len());
            let before = samples.len();
            downmix(&decoded, first, take, &mut samples);
            if let Some(wrong) = samples[before..].iter().find(|s| s.is_nan() || s.abs() > MAX_AMPLITUDE) {
                // Damage to this packet, which the next one must not overlap with; or to all, and then nothing is left.
                let reason = format!("a sample is {wrong}, expected finite numbers around -1 to 1");
                samples.truncate(before);
                self.note(reason);
                self.decoder.reset();
                in_doubt = true;
                continue;
            }
            // A decoder of the lower half mixes the channels itself.
            self.channels = self.channels.max(channels);
            at = Some(here + frames as i64);
            if samples.len() >= n {
                break;
            }
        }
        Ok(Decoded::Samples { samples, lost })
    }
}

/// What a track needs before its packets can be decoded.
struct Prepared {
    decoder: Box<dyn AudioDecoder>,
    time_base: TimeBase,
    /// Hz, of what the decoder gives.
    rate: u32,
    /// Hz, of the file.
    source_rate: u32,
    /// How many frames of the file the decoder makes into one.
    decimation: u32,
    channels: usize,
    /// Timestamp of the first frame that is to be heard, in seconds.
    starts_at: f64,
    /// Length of what is to be heard.
    claimed_seconds: Option<f64>,
    opus: bool,
}

impl Prepared {
    fn of(path: &Path, track: &Track, to: u32) -> Result<Prepared> {
        let params = track
            .codec_params
            .as_ref()
            .and_then(|p| p.audio())
            .ok_or_else(|| Error::unsupported(path, "a codec that we decode", "an unknown one"))?;
        check_params(path, params)?;
        let mut half = to <= HALF_BAND;
        let codecs = if half { &LOWER_HALF } else { &WHOLE_BAND };
        let options = AudioDecoderOptions::default();
        let decoder = match codecs.make_audio_decoder(params, &options) {
            // What ours leave to symphonia's: 20 bits in 24, and such.
            Err(SymphoniaError::Unsupported(what))
                if what.starts_with("pcm: ") || what.starts_with("vorbis: floor") =>
            {
                half = false;
                symphonia::default::get_codecs().make_audio_decoder(params, &options)
            }
            made => made,
        };
        let decoder = decoder.map_err(|e| match e {
            SymphoniaError::Unsupported("aac: aac too complex") => {
                Error::unsupported(path, "AAC-LC", "AAC of another kind")
            }
            SymphoniaError::Unsupported(what) => Error::unsupported(path, "a codec that we decode", what),
            damage => Error::decode(path, damage),
        })?;
        let header_rate = params.sample_rate.filter(|&rate| rate > 0);
        let time_base = track
            .time_base
            .or_else(|| header_rate.and_then(TimeBase::try_from_recip))
            .ok_or_else(|| Error::decode(path, "no time base"))?;
        // MP4 has no room for rates from 64 kHz on and says 0; its timescale is the rate then. Whatever we take, the
        // first packet corrects it.
        let source_rate = header_rate.unwrap_or(time_base.denom.get()).clamp(MIN_RATE, MAX_RATE);
        let rate = if half { lower_half_rate(params.codec, source_rate) } else { source_rate };
        let head = params
            .extra_data
            .as_deref()
            .filter(|_| params.codec == CODEC_ID_OPUS)
            .and_then(|head| OpusHead::parse(head).ok());
        // The granule position of Opus counts the pre-skip (RFC 7845, section 4.3).
        let pre_skipped = head.as_ref().map_or(0.0, |h| f64::from(h.pre_skip) / f64::from(OPUS_RATE));
        let seconds = track.duration.and_then(|d| time_base.calc_duration(d)).map(|t| t.as_secs_f64());
        let start = time_base.calc_time(track.start_ts).map_or(0.0, |t| t.as_secs_f64());
        // A recording cut out of a longer stream begins late; a negative start is the encoder's delay, which is trimmed.
        let starts_at = start.max(0.0) + pre_skipped;
        let channels = params.channels.as_ref().map_or(0, |c| c.count());
        let decimation = (source_rate / rate.max(1)).max(1);
        Ok(Prepared {
            decoder,
            time_base,
            rate,
            source_rate,
            decimation,
            channels,
            starts_at,
            claimed_seconds: seconds.map(|s| s - pre_skipped),
            opus: head.is_some(),
        })
    }
}

#[test]
fn what_symphonia_decodes_for_us_has_its_whole_rate() {
    // The headers of a Vorbis stream at 44.1 kHz with a floor of type 0, which ours leaves to symphonia; numbers of so
    // many bits, the least significant first.
    let header = |kind: u8, numbers: &[(u32, u32)]| {
        let bits: Vec<bool> = numbers.iter().flat_map(|&(x, width)| (0..width).map(move |i| x >> i & 1 == 1)).collect();
        let bytes = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit)));
        [&[kind][..], b"vorbis", &bytes.collect::<Vec<u8>>()].concat()
    };
    let identification = [(0, 32), (1, 8), (44_100, 32), (0, 32), (0, 32), (0, 32), (8, 4), (11, 4), (1, 1)];
    let book = [(0, 8), (0x56_4342, 24), (1, 16), (2, 24), (0, 1), (0, 1), (0, 5), (0, 5), (0, 4)];
    let times = [(0, 6), (0, 16)];
    let floor = [(0, 6), (0, 16), (2, 8), (44_100, 16), (64, 16), (6, 6), (100, 8), (0, 4), (0, 8)];
    let residue = [(0, 6), (0, 16), (0, 24), (0, 24), (0, 24), (0, 6), (0, 8), (0, 3), (0, 1)];
    let mapping = [(0, 6), (0, 16), (0, 1), (0, 1), (0, 2), (0, 8), (0, 8), (0, 8)];
    let mode = [(0, 6), (0, 1), (0, 16), (0, 16), (0, 8), (1, 1)];
    let setup = [&book[..], &times, &floor, &residue, &mapping, &mode].concat();
    let mut params = AudioCodecParameters::new();
    params
        .for_codec(CODEC_ID_VORBIS)
        .with_sample_rate(44_100)
        .with_extra_data([header(1, &identification), header(5, &setup)].concat().into());
    let mut track = Track::new(0);
    track.with_codec_params(symphonia::core::codecs::CodecParameters::Audio(params));
    let prepared = Prepared::of(Path::new("x.ogg"), &track, 22_050).unwrap();
    assert_eq!((prepared.rate, prepared.source_rate, prepared.decimation), (44_100, 44_100, 1));
}

/// The decoders of symphonia, with Opus, FLAC and PCM to mono: the whole band.
static WHOLE_BAND: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<OpusDecoder<48_000>>();
    codecs.register_audio_decoder::<FlacDecoder>();
    codecs.register_audio_decoder::<PcmDecoder>();
    codecs
});

/// Decoders to mono that leave out the upper half of the band where a front end of up to [`HALF_BAND`] Hz would throw
/// it away; for what has none of these, those of symphonia.
static LOWER_HALF: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<OpusDecoder<24_000>>();
    codecs.register_audio_decoder::<Mp3Decoder>();
    codecs.register_audio_decoder::<AacDecoder>();
    codecs.register_audio_decoder::<VorbisDecoder>();
    codecs.register_audio_decoder::<FlacDecoder>();
    codecs.register_audio_decoder::<PcmDecoder>();
    codecs
});

/// The highest rate, Hz, for which half of 44.1 kHz is enough.
const HALF_BAND: u32 = 22_050;

/// The rate at which the decoders of [`LOWER_HALF`] give what has `rate` in the file, both in Hz.
fn lower_half_rate(codec: AudioCodecId, rate: u32) -> u32 {
    match codec {
        CODEC_ID_OPUS => OPUS_RATE / 2,
        CODEC_ID_MP3 | CODEC_ID_AAC | CODEC_ID_VORBIS => half::output_rate(rate),
        _ => rate,
    }
}

/// Refuses what would make a decoder allocate by a claim, and what would be decoded wrongly.
fn check_params(path: &Path, params: &AudioCodecParameters) -> Result<()> {
    let refuse = |expected: &str, found: String| Err(Error::unsupported(path, expected, found));
    // 0 is not told.
    if let Some(rate) = params.sample_rate.filter(|&rate| rate > 0)
        && !(MIN_RATE..=MAX_RATE).contains(&rate)
    {
        return refuse("a sample rate of 1 to 768 kHz", format!("{rate} Hz"));
    }
    if let Some(channels) = params.channels.as_ref().map(|c| c.count())
        && !(1..=MAX_CHANNELS).contains(&channels)
    {
        return refuse("1 to 64 channels", format!("{channels}"));
    }
    let frames = params.max_frames_per_packet.max(params.frames_per_block).unwrap_or(0);
    if frames > MAX_PACKET_FRAMES {
        return refuse("packets of up to 262,144 frames", format!("{frames}"));
    }
    let extra = params.extra_data.as_deref().unwrap_or_default();
    if params.codec == CODEC_ID_ALAC
        && let Some(frames) = extra.first_chunk().map(|b| u32::from_be_bytes(*b))
        && u64::from(frames) > MAX_PACKET_FRAMES
    {
        return refuse("ALAC packets of up to 262,144 frames", format!("{frames}"));
    }
    if params.codec == CODEC_ID_AAC
        && let Some(config) = &params.extra_data
    {
        // The decoder for the whole band would take HE-AAC for plain AAC, without its upper half and without a word.
        aac::check(config).map_err(|e| match e {
            SymphoniaError::Unsupported(what) => Error::unsupported(path, "AAC-LC", what),
            damage => Error::decode(path, damage),
        })?;
    }
    Ok(())
}

#[test]
fn aac_is_refused_by_its_kind_before_any_decoder_sees_it() {
    let check = |config: &[u8]| {
        let mut params = AudioCodecParameters::new();
        params.for_codec(CODEC_ID_AAC).with_extra_data(config.into());
        check_params(Path::new("x.m4a"), &params).map_err(|e| e.to_string())
    };
    check(&[0x12, 0x10]).unwrap();
    let replicated = check(&[0x13, 0x90, 0x56, 0xe5, 0xa0]).unwrap_err();
    assert!(replicated.contains("HE-AAC"), "{replicated}");
    let cut = check(&[0x12]).unwrap_err();
    assert!(cut.contains("impossible configuration"), "{cut}");
}

/// The mean of the channels of `frames` frames from `first` on.
fn downmix(buffer: &GenericAudioBufferRef<'_>, first: usize, frames: usize, out: &mut Vec<f32>) {
    use GenericAudioBufferRef::{F32, F64, S8, S16, S24, S32, U8, U16, U24, U32};
    match buffer {
        U8(b) => mean(b, first, frames, out),
        U16(b) => mean(b, first, frames, out),
        U24(b) => mean(b, first, frames, out),
        U32(b) => mean(b, first, frames, out),
        S8(b) => mean(b, first, frames, out),
        S16(b) => mean(b, first, frames, out),
        S24(b) => mean(b, first, frames, out),
        S32(b) => mean(b, first, frames, out),
        F32(b) => mean(b, first, frames, out),
        F64(b) => mean(b, first, frames, out),
    }
}

fn mean<S: Sample + IntoSample<f32>>(buffer: &AudioBuffer<S>, first: usize, frames: usize, out: &mut Vec<f32>) {
    let range = first..first + frames;
    let float = |s: &S| -> f32 { (*s).into_sample() };
    match buffer.plane_pair(0, 1).filter(|_| buffer.num_planes() == 2) {
        Some((left, right)) => {
            let pairs = left[range.clone()].iter().zip(&right[range]);
            out.extend(pairs.map(|(l, r)| 0.5 * (float(l) + float(r))));
        }
        None => {
            let at = out.len();
            out.resize(at + frames, 0.0);
            let share = 1.0 / buffer.num_planes() as f32;
            for plane in buffer.iter_planes() {
                for (sum, s) in out[at..].iter_mut().zip(&plane[range.clone()]) {
                    *sum += float(s) * share;
                }
            }
        }
    }
}

/// What the operating system or the clock said: it tells nothing about the file, which may be read another time.
fn disk_problem(path: &Path, error: &SymphoniaError) -> Option<Error> {
    match error {
        SymphoniaError::IoError(e) if e.raw_os_error().is_some() || e.kind() == io::ErrorKind::TimedOut => {
            Some(Error::io(path)(io::Error::new(e.kind(), e.to_string())))
        }
        _ => None,
    }
}

/// The error of a file that no demuxer wanted, or that broke one.
fn not_opened(path: &Path, error: &SymphoniaError) -> Error {
    if let Some(problem) = disk_problem(path, error) {
        return problem;
    }
    match error {
        SymphoniaError::Unsupported(what) if what.starts_with("core") => {
            Error::decode(path, format!("not audio of a kind that we read ({what})"))
        }
        // What symphonia calls unsupported because a part is not there is damage.
        SymphoniaError::Unsupported(what) if what.contains("missing") => Error::decode(path, what),
        SymphoniaError::Unsupported(what) => Error::unsupported(path, "a container that we read", what),
        SymphoniaError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Error::decode(path, "not audio, or cut off within its header")
        }
        other => Error::decode(path, other),
    }
}
