//! What a track sounds like: decoded, resampled and turned into log-mel spectrograms.
//!
//! ```text
//! path ──► decode ──► resample ──► mel ──► [frames, 128]      cache keeps them, half precision
//!          excerpt    22,050 Hz    ln(1 + 10⁴·power)
//! ```
//!
//! Decoding is nearly all of the cost, and most of what a decoder makes is thrown away: all above 11 kHz, and the
//! difference of the channels. So [`mp3`], [`aac`] and [`vorbis`] have decoders here that never make it, [`flac`] and
//! [`pcm`] ones that are quicker, and [`opus`] is asked for what is heard; symphonia finds the packets, and decodes everything else.
//!
//! Every decoder takes the mean of all channels alike, the one for low frequencies included, so that a song sounds the
//! same in any container.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub mod aac;
mod bits;
pub mod cache;
mod dct;
pub mod decode;
pub mod flac;
mod half;
mod headers;
pub mod mel;
pub mod mp3;
pub mod opus;
pub mod pcm;
pub mod resample;
mod source;
pub mod tags;
#[cfg(test)]
mod testing;
pub mod vorbis;

pub use cache::SpectrogramCache;
pub use decode::{Excerpt, excerpt};
pub use mel::LogMel;
pub use tags::Tags;

/// Raised when decoding changes so that a file which failed may now succeed, or another part of it is heard: recorded
/// failures are then retried, and spectrograms that were kept are made again.
pub const DECODER_VERSION: u32 = 3;

/// Frames of the 30 s excerpt that training keeps (661,504 samples); 599 of them are cropped at random, and its frames
/// 23..622 are exactly what inference hears.
pub const EXCERPT_FRAMES: usize = 645;

/// How sound becomes numbers. A model works only with the front end that it was trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontEnd {
    /// Hz, mono. 22,050: half of the usual 44,100, everything up to 11 kHz.
    pub sample_rate: u32,
    /// Samples in a window, and in its Fourier transform: 2048 (93 ms).
    pub window_length: usize,
    /// Samples from one frame to the next: 1024 (46 ms).
    pub hop_length: usize,
    /// Bands on Slaney's mel scale: 128.
    pub mel_bands: usize,
    /// Lower edge of the lowest band, Hz: 0.
    pub f_min: f32,
    /// Upper edge of the highest band, Hz: 11,025, half the sample rate.
    pub f_max: f32,
    /// Frames that the network sees: 599 (27.9 s).
    pub frames: usize,
    /// `ln(1 + log_gain · power)`: 10,000, so that −40 dB of mel power lies at the knee.
    pub log_gain: f32,
}

impl Default for FrontEnd {
    fn default() -> Self {
        FrontEnd {
            sample_rate: 22_050,
            window_length: 2048,
            hop_length: 1024,
            mel_bands: 128,
            f_min: 0.0,
            f_max: 11_025.0,
            frames: 599,
            log_gain: 10_000.0,
        }
    }
}

impl FrontEnd {
    /// How many samples give exactly `frames` frames (without padding): 614,400 for 599.
    pub fn samples(&self, frames: usize) -> usize {
        if frames == 0 { 0 } else { self.window_length + (frames - 1) * self.hop_length }
    }

    /// Names the settings: equal settings, equal id; 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let FrontEnd { sample_rate, window_length, hop_length, mel_bands, f_min, f_max, frames, log_gain } = self;
        // `{:?}` of a float is its shortest exact form, so no two settings share a text.
        let text = format!(
            "mel-1 {sample_rate} {window_length} {hop_length} {mel_bands} {f_min:?} {f_max:?} {frames} {log_gain:?}"
        );
        blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
    }

    /// # Errors
    /// `Invalid`, naming the first setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |what: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::invalid(format!("front end: {what}"), format!("{low} to {high}"), value))
            }
        };
        within("sample_rate", f64::from(self.sample_rate), 1000.0, 192_000.0)?;
        within("window_length", self.window_length as f64, 16.0, 65_536.0)?;
        if !self.window_length.is_multiple_of(2) {
            return Err(Error::invalid("front end: window_length", "an even number", self.window_length));
        }
        within("hop_length", self.hop_length as f64, 1.0, self.window_length as f64)?;
        within("mel_bands", self.mel_bands as f64, 1.0, self.window_length as f64 / 2.0)?;
        within("f_min", f64::from(self.f_min), 0.0, f64::from(self.sample_rate) / 2.0)?;
        within("f_max", f64::from(self.f_max), f64::from(self.f_min) + 1.0, f64::from(self.sample_rate) / 2.0)?;
        within("frames", self.frames as f64, 1.0, 100_000.0)?;
        within("log_gain", f64::from(self.log_gain), 1e-6, 1e12)
    }
}

#[test]
fn the_default_front_end_is_the_one_that_the_models_use() {
    let front_end = FrontEnd::default();
    front_end.check().unwrap();
    assert_eq!(front_end.samples(599), 614_400);
    assert_eq!(front_end.samples(EXCERPT_FRAMES), 661_504);
    // Frame 23 of the excerpt begins where the middle 599 frames begin.
    assert_eq!((front_end.samples(EXCERPT_FRAMES) - front_end.samples(599)) / 2, 23 * front_end.hop_length);
    assert_eq!(front_end.id().len(), 16);
    assert_ne!(front_end.id(), FrontEnd { hop_length: 512, ..front_end.clone() }.id());
    for wrong in [
        FrontEnd { hop_length: 0, ..front_end.clone() },
        FrontEnd { window_length: 2047, ..front_end.clone() },
        FrontEnd { f_max: 12_000.0, ..front_end.clone() },
        FrontEnd { f_min: f32::NAN, ..front_end.clone() },
        FrontEnd { mel_bands: 0, ..front_end.clone() },
    ] {
        assert!(matches!(wrong.check(), Err(Error::Invalid { .. })), "{wrong:?}");
    }
}

/// How a track is listened to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listening {
    /// Windows spread over the track, centred at `(i + 0.5) / segments` of it; what the network says of them is
    /// averaged. One is its middle; more are for pieces that change, and cost as many times the time.
    pub segments: usize,
    /// The longest time, in seconds, that one track may take: 30 (a song takes 0.03). It may be a damaged file, or a slow
    /// disk: such a failure is tried again by the next run. Asked before each read, seek and packet, so what it cannot
    /// end is a call of the system that does not return, and a loop in a demuxer that reads nothing (a thread cannot be
    /// stopped from outside without harm). The content hash that names a track is not in it.
    pub time_limit_s: f64,
}

impl Default for Listening {
    fn default() -> Listening {
        Listening { segments: 1, time_limit_s: 30.0 }
    }
}

impl Listening {
    /// # Errors
    /// `Invalid`, naming the setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        // The windows of a track are in memory together, 0.3 MB each.
        if !(1..=100).contains(&self.segments) {
            return Err(Error::invalid("listen.segments", "1 to 100", self.segments));
        }
        if !(0.001..=86_400.0).contains(&self.time_limit_s) {
            return Err(Error::invalid("listen.time_limit_s", "0.001 to 86400 seconds", self.time_limit_s));
        }
        Ok(())
    }
}

#[test]
fn listening_settings_have_ranges() {
    Listening::default().check().unwrap();
    for wrong in [
        Listening { segments: 0, ..Listening::default() },
        Listening { segments: 101, ..Listening::default() },
        Listening { time_limit_s: 0.0, ..Listening::default() },
        Listening { time_limit_s: f64::NAN, ..Listening::default() },
    ] {
        assert!(matches!(wrong.check(), Err(Error::Invalid { .. })), "{wrong:?}");
    }
}

/// Where the time of one track went; on the clock of the wall, in the thread that heard it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Opening, probing, reading tags.
    pub open: Duration,
    /// Seeking, reading, decoding and mixing to mono.
    pub decode: Duration,
    pub resample: Duration,
    pub mel: Duration,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Spent) {
        self.open += other.open;
        self.decode += other.decode;
        self.resample += other.resample;
        self.mel += other.mel;
    }
}

/// One track, heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Log-mel spectrograms, one `[frames, mel_bands]` per window.
    pub mels: Vec<Array2<f32>>,
    /// Where each window begins in the track, in seconds.
    pub start_seconds: Vec<f64>,
    /// Length of the whole track, in seconds.
    pub seconds: Option<f64>,
    /// The track is shorter than the window and was repeated to fill it.
    pub tiled: bool,
    pub tags: Tags,
    /// The container, such as `ogg`.
    pub format: &'static str,
    /// The codec, such as `vorbis`.
    pub codec: &'static str,
    /// Sample rate of the file, Hz.
    pub source_rate: u32,
    /// Channels of the file; what is heard is their mean.
    pub channels: usize,
    /// Part of all windows (0 to ½) that could not be decoded and is silent.
    pub lost: f64,
    pub spent: Spent,
}

/// Listens to windows of `frames` frames each, as many as `listening` says. Costs the same for a song and for a
/// three-hour mix.
///
/// # Errors
/// `Io`, `Unsupported`, or `Decode` with the reason: not audio, shorter than a second, silent, damaged beyond half.
pub fn hear(path: &Path, front_end: &FrontEnd, frames: usize, listening: &Listening) -> Result<Heard> {
    front_end.check()?;
    listening.check()?;
    if frames == 0 {
        return Err(Error::invalid("frames to hear", "at least one", frames));
    }
    let windows = listening.segments;
    let samples = front_end.samples(frames);
    let centres: Vec<f64> = (0..windows).map(|i| (i as f64 + 0.5) / windows as f64).collect();
    let mut log_mel = LogMel::new(front_end);
    let mut mels = Vec::with_capacity(windows);
    let mut start_seconds = Vec::with_capacity(windows);
    let mut lost = 0.0;
    let mut mel_time = Duration::ZERO;
    let limit = Duration::from_secs_f64(listening.time_limit_s);
    let listened = decode::listen(path, front_end.sample_rate, samples, &centres, limit, |window| {
        let started = Instant::now();
        mels.push(log_mel.compute(&window.samples));
        start_seconds.push(window.start_seconds);
        lost += window.lost / windows as f64;
        mel_time += started.elapsed();
    })?;
    Ok(Heard {
        mels,
        start_seconds,
        seconds: listened.seconds,
        tiled: listened.tiled,
        tags: listened.tags,
        format: listened.format,
        codec: listened.codec,
        source_rate: listened.source_rate,
        channels: listened.channels,
        lost,
        spent: Spent { mel: mel_time, ..listened.spent },
    })
}

thread_local! {
    /// Whether this thread is inside [`no_panic`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Keeps a panic that is caught here, and told as a file's failure, from printing as well. For programs: it changes what
/// the whole process does on a panic.
pub fn silence_caught_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CAUGHT.get() {
            before(info);
        }
    }));
}

/// Runs `f`, and turns a panic in it (a decoder's bug, met by a damaged file) into an error about `path`.
fn no_panic<T>(path: &Path, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let outside = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(outside);
    result.unwrap_or_else(|payload: Box<dyn Any + Send>| {
        let said = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::decode(path, format!("the decoder panicked: {said}")))
    })
}

/// Writes mono samples as a 32-bit float WAV file, atomically.
pub fn write_wav(path: &Path, samples: &[f32], sample_rate: u32) -> Result<()> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 32, sample_format: hound::SampleFormat::Float };
    let failed = |e: hound::Error| match e {
        hound::Error::IoError(e) => e,
        other => std::io::Error::other(other),
    };
    crate::artefact::atomic_write(path, |out| {
        let mut wav = hound::WavWriter::new(out, spec).map_err(failed)?;
        for &sample in samples {
            wav.write_sample(sample).map_err(failed)?;
        }
        wav.finalize().map_err(failed)
    })
}

#[test]
fn a_written_wav_is_read_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wav");
    let samples: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.01).sin()).collect();
    write_wav(&path, &samples, 22_050).unwrap();
    let mut wav = hound::WavReader::open(&path).unwrap();
    assert_eq!(wav.spec().sample_rate, 22_050);
    assert_eq!(wav.samples::<f32>().map(|s| s.unwrap()).collect::<Vec<_>>(), samples);
}
