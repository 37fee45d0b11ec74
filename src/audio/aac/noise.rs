//! Perceptual noise substitution: bands of which only the energy is in the stream (ISO/IEC 14496-3, section 4.6.13).
//!
//! The noise is a function of the packet's time, the channel and the band. So a track that is entered in the middle
//! sounds exactly as when it is heard from its beginning, and no band depends on whether another one was wanted.

/// Of a packet's timestamp and the number of a channel in it.
pub(super) fn seed(timestamp: i64, channel: usize) -> u64 {
    mixed((timestamp as u64).wrapping_mul(256).wrapping_add(channel as u64))
}

/// Fills lines with evenly distributed numbers whose squares sum to `root`².
pub(super) fn fill(seed: u64, place: usize, root: f32, lines: &mut [f32]) {
    let mut state = mixed(seed.wrapping_add(place as u64)) as u32;
    let mut energy = 0.0;
    for line in lines.iter_mut() {
        // Numerical Recipes' generator; its low bits are poor and become the fraction.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *line = state as i32 as f32;
        energy += *line * *line;
    }
    let scale = if energy > 0.0 { root / energy.sqrt() } else { 0.0 };
    for line in lines {
        *line *= scale;
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers become unlike ones.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[test]
fn noise_has_its_energy_and_is_its_own_in_each_place() {
    let noise = |timestamp, channel, place| {
        let mut lines = [0.0f32; 96];
        fill(seed(timestamp, channel), place, 3.0, &mut lines);
        lines
    };
    let one = noise(1024, 0, 7);
    let energy = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
    assert!((energy(&one) - 9.0).abs() < 1e-4);
    assert_eq!(one, noise(1024, 0, 7));
    for other in [noise(2048, 0, 7), noise(1024, 1, 7), noise(1024, 0, 8)] {
        let product: f32 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
        // 9 if they were alike; of independent ones the deviation is 9/√96.
        assert!(product.abs() < 9.0 * 0.45, "{product}");
    }
}
