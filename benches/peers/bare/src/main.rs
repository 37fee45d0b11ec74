//! Opens, seeks to 0.1 s before the middle 27.86 s, decodes until they are over, and drops what it decoded: what the
//! front end would cost if everything but symphonia were free.

use std::fs::File;
use std::path::Path;

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, SeekMode, SeekTo, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::units::Timestamp;

#[path = "../../harness.rs"]
mod harness;
/// symphonia has no Opus decoder; the front end's is the floor there.
#[allow(dead_code, reason = "the front end needs more of it than its decoder")]
#[path = "../../../../src/audio/opus.rs"]
mod opus;

/// 614,400 samples at 22,050 Hz, in seconds.
const EXCERPT: f64 = 614_400.0 / 22_050.0;
/// Seconds decoded ahead of it: what an mp3's bit reservoir reaches back, and 80 ms for Opus.
const AHEAD: f64 = 0.1;

fn main() {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<opus::OpusDecoder<48_000>>();
    harness::run(harness::Clock::Thread, |path: &Path| match decode(path, &codecs) {
        Ok(seconds) if seconds >= EXCERPT => Ok(harness::Heard::default()),
        Ok(seconds) => Err(format!("only {seconds:.2} s were decoded")),
        Err(e) => Err(e.to_string()),
    });
}

/// How much was decoded, in seconds.
fn decode(path: &Path, codecs: &CodecRegistry) -> Result<f64, Box<dyn std::error::Error>> {
    let stream = MediaSourceStream::new(Box::new(File::open(path)?), MediaSourceStreamOptions::default());
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    let probe = symphonia::default::get_probe();
    let mut format = probe.probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())?;
    let track = format.default_track(TrackType::Audio).ok_or("no audio track")?.clone();
    let params = track.codec_params.as_ref().and_then(|p| p.audio()).ok_or("no audio parameters")?;
    let mut decoder = codecs.make_audio_decoder(params, &AudioDecoderOptions::default())?;
    let base = track.time_base.ok_or("no time base")?;
    let tick = f64::from(base.numer.get()) / f64::from(base.denom.get());
    let length = track.duration.ok_or("no duration")?.get() as f64 * tick;
    let start = (length - EXCERPT) / 2.0;
    let ts = Timestamp::new(((start - AHEAD) / tick) as i64 + track.start_ts.get());
    format.seek(SeekMode::Accurate, SeekTo::Timestamp { ts, track_id: track.id })?;
    decoder.reset();
    let mut seconds = 0.0;
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track.id {
            continue;
        }
        let decoded = decoder.decode(&packet)?;
        seconds += decoded.frames() as f64 / f64::from(decoded.spec().rate());
        if packet.pts.get() as f64 * tick >= start + EXCERPT {
            break;
        }
    }
    Ok(seconds)
}
