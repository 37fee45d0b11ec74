//! Whole files of any kind: containers, tags, seeking, decoders, the resampler and the spectrogram.
#![no_main]

mod dependencies;

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

/// Puts the checksums of Ogg pages right (RFC 3533, section 6), without which a page that was changed is passed over.
fn with_ogg_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = file[at..].windows(4).position(|four| four == b"OggS") {
        at += found;
        let segments = file.get(at + 26).copied().map_or(0, usize::from);
        let Some(lacing) = file.get(at + 27..at + 27 + segments) else { break };
        let length = 27 + segments + lacing.iter().map(|&n| usize::from(n)).sum::<usize>();
        let Some(page) = file.get_mut(at..at + length) else { break };
        page[22..26].fill(0);
        let sum = page.iter().fold(0u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
        });
        page[22..26].copy_from_slice(&sum.to_le_bytes());
        at += length;
    }
    file
}

fuzz_target!(init: dependencies::let_them_panic(), |bytes: &[u8]| {
    FILE.with_borrow(|(_, path)| {
        std::fs::write(path, with_ogg_checksums(bytes)).unwrap();
        let listening = Listening { segments: 2, time_limit_s: 5.0 };
        match hear(path, &FrontEnd::default(), 40, &listening) {
            Ok(heard) => {
                assert_eq!(heard.mels.len(), 2);
                assert!(heard.mels.iter().flatten().all(|x| x.is_finite()));
            }
            Err(Error::Decode { .. } | Error::Unsupported { .. }) => {}
            // On a busy machine; what never ends is found by libFuzzer's own -timeout.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::TimedOut => {}
            Err(e) => panic!("{e}"),
        }
    });
});
