//! The newcomer's first command.

mod common;

use common::run;

#[test]
fn the_demo_takes_in_the_samples_and_recommends_the_upload_twice() {
    let dir = tempfile::tempdir().unwrap();
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/audio-samples");
    for _ in 0..2 {
        let (code, stdout, stderr) = run(dir.path(), &["demo", "--samples", samples]);
        assert_eq!(code, 0, "{stdout}\n{stderr}");
        for part in ["0 failed", "from file to recommendable", "Its nearest of", "because of", "<- the upload"] {
            assert!(stdout.contains(part), "{part}\n{stdout}");
        }
        assert!(!stderr.contains("listening"), "no progress bar where there is no terminal: {stderr}");
    }
    let (code, stdout, _) = run(dir.path(), &["--catalogue", "demo-catalogue", "check"]);
    assert!(code == 0 && stdout.contains("all is well"), "{stdout}");
    // Somebody's own catalogue is not taken for one to be replaced.
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    assert_eq!(run(dir.path(), &["--catalogue", "mine", "demo", "--samples", samples]).0, 2);
}
