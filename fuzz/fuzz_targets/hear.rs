//! Whole files of any kind: containers, tags, seeking, decoders, the resampler and the spectrogram.
#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;

use debut::Error;
use debut::audio::{FrontEnd, Listening, hear};
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// A file in memory where there is one (`/dev/shm`).
    static FILE: RefCell<(tempfile::TempDir, PathBuf)> = RefCell::new({
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().join("input");
        (dir, path)
    });
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow(|(_, path)| {
        std::fs::write(path, bytes).unwrap();
        let listening = Listening { segments: 2, time_limit_s: 5.0 };
        match hear(path, &FrontEnd::default(), 40, &listening) {
            Ok(heard) => {
                assert_eq!(heard.mels.len(), 2);
                assert!(heard.mels.iter().flatten().all(|x| x.is_finite()));
            }
            // A panic that was caught inside is told as such, and is a finding where it is ours.
            Err(e @ (Error::Decode { .. } | Error::Unsupported { .. })) => {
                let text = e.to_string();
                assert!(!text.contains("panicked") || std::env::var_os("ALLOW_CAUGHT").is_some(), "{text}");
            }
            Err(e) => panic!("{e}"),
        }
    });
});
