//! debut's network against PyTorch's: the same weights give the same vectors. The golden arrays are written by
//! tests/golden/encoder.py, which says how.

use std::path::{Path, PathBuf};

use debut::encoder::Model;
use ndarray::{Array2, Array3};

/// The songs of tests/golden/encoder.py, `[3, frames, bands]`.
fn songs(frames: usize, bands: usize) -> Array3<f32> {
    Array3::from_shape_fn((3, frames, bands), |(n, t, m)| {
        let place = [t, m, n].map(|x| x as u32);
        let h = place[0].wrapping_mul(2_654_435_761);
        let h = h.wrapping_add(place[1].wrapping_mul(2_246_822_519));
        let h = h.wrapping_add(place[2].wrapping_mul(3_266_489_917)).wrapping_add(374_761_393);
        let h = (h ^ (h >> 15)).wrapping_mul(2_246_822_519);
        let distance = (m * 16).abs_diff((t * (n + 1) * 4) % (bands * 16));
        let tone = 112usize.saturating_sub(distance) as f32 / 16.0;
        ((h >> 16) & 255) as f32 / 128.0 + tone
    })
}

/// Every folder with a golden array: the small one, and each shipped model that has one.
fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("tests/golden/small-model")];
    if let Ok(models) = std::fs::read_dir(root.join("models")) {
        folders.extend(models.map(|m| m.unwrap().path()).filter(|m| m.join("golden.npy").exists()));
    }
    folders
}

#[test]
fn the_same_weights_give_pytorch_s_vectors() {
    for folder in folders() {
        let model = Model::load(&folder).unwrap();
        let golden: Array2<f32> = ndarray_npy::read_npy(folder.join("golden.npy")).unwrap();
        let encoder = &model.config.encoder;
        let songs = songs(encoder.frames, encoder.mel_bands);
        let answers = model.predict(songs.view()).unwrap();
        assert_eq!(answers.dim(), golden.dim());
        assert!(golden.iter().any(|x| x.abs() > 0.02), "answers near 0 would agree about nothing");
        let worst = (&answers - &golden).iter().fold(0.0f32, |w, d| w.max(d.abs()));
        println!("{}: largest difference {worst:e}", folder.display());
        assert!(worst < 1e-4, "{}: {worst}", folder.display());

        for (unit, golden) in model.embed(songs.view()).unwrap().outer_iter().zip(golden.outer_iter()) {
            let length = golden.dot(&golden).sqrt();
            assert!(unit.iter().zip(golden).all(|(a, b)| (a - b / length).abs() < 1e-4));
        }
        // The three songs are told apart, so the comparison is not of biases alone.
        assert!((&answers.row(0) - &answers.row(1)).iter().any(|d| d.abs() > 1e-3));
    }
}
