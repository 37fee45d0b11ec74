//! Our front end, for the comparison with its peers (`run.sh`): file to log-mel `[599, 128]` of the middle 27.86 s.

use debut::audio::{FrontEnd, Listening, hear};

mod harness;

fn main() {
    let front_end = FrontEnd::default();
    harness::run(harness::Clock::Thread, |path| {
        let heard = hear(path, &front_end, front_end.frames, &Listening::default()).map_err(|e| e.to_string())?;
        Ok(harness::Heard {
            start: heard.start_seconds[0],
            seconds: heard.seconds.unwrap_or_default(),
            values: heard.mels.into_iter().flatten().collect(),
        })
    });
}
