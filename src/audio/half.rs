//! Which sources are decoded to half their rate.

/// The lowest rate, Hz, that is halved: half of it still holds all that is heard, up to 11,025 Hz.
pub const HALVED_FROM: u32 = 44_100;

/// How many frames of a source at `rate` Hz make one sample: 2, or 1 where half would leave too little or half a hertz.
pub fn reduction(rate: u32) -> usize {
    if rate >= HALVED_FROM && rate.is_multiple_of(2) { 2 } else { 1 }
}

/// The rate, Hz, to which a source at `rate` Hz is decoded.
pub fn output_rate(rate: u32) -> u32 {
    rate / reduction(rate) as u32
}

#[test]
fn rates_are_halved_where_that_leaves_enough() {
    let rates = [0, 8000, 22_050, 32_000, 44_099, 44_100, 44_101, 48_000, 88_200, 96_000];
    assert_eq!(rates.map(output_rate), [0, 8000, 22_050, 32_000, 44_099, 22_050, 44_101, 24_000, 44_100, 48_000]);
}
