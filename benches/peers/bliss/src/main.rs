//! bliss-audio's analysis: the whole song, decoded to mono at 22,050 Hz, to its feature vector. Its stages run in
//! threads of their own, so the process's CPU time is measured.

use bliss_audio::decoder::Decoder;
use bliss_audio::decoder::symphonia::SymphoniaDecoder;

#[path = "../../harness.rs"]
mod harness;

fn main() {
    harness::run(harness::Clock::Process, |path| {
        let song = SymphoniaDecoder::song_from_path(path).map_err(|e| e.to_string())?;
        Ok(harness::Heard { values: song.analysis.as_vec(), ..Default::default() })
    });
}
