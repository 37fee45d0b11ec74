//! What a sample rate decides: the scale factor bands and how far noise shaping reaches.

/// The offsets of the bands in lines, the last being the end (ISO/IEC 14496-3, tables 4.129 to 4.147), and the number
/// of bands that temporal noise shaping may cover in low complexity (TNS_MAX_BANDS, section 4.6.9).
#[derive(Debug, PartialEq)]
pub(super) struct Rate {
    /// Rates from this one on, in Hz, use the tables of the nominal one (table 4.82).
    from: u32,
    /// Of 1024 lines.
    pub long: &'static [u16],
    /// Of each 128 lines.
    pub short: &'static [u16],
    pub long_shaped: usize,
    pub short_shaped: usize,
}

impl Rate {
    /// Of a sample rate in Hz.
    pub fn of(rate: u32) -> &'static Rate {
        RATES.iter().find(|r| rate >= r.from).unwrap_or(&RATES[RATES.len() - 1])
    }
}

/// The rates by their index in the headers, in Hz (table 1.18).
pub(super) const BY_INDEX: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

const RATES: [Rate; 12] = [
    Rate { from: 92_017, long: &LONG_96, short: &SHORT_64, long_shaped: 31, short_shaped: 9 },
    Rate { from: 75_132, long: &LONG_96, short: &SHORT_64, long_shaped: 31, short_shaped: 9 },
    Rate { from: 55_426, long: &LONG_64, short: &SHORT_64, long_shaped: 34, short_shaped: 10 },
    Rate { from: 46_009, long: &LONG_48, short: &SHORT_48, long_shaped: 40, short_shaped: 14 },
    Rate { from: 37_566, long: &LONG_48, short: &SHORT_48, long_shaped: 42, short_shaped: 14 },
    Rate { from: 27_713, long: &LONG_32, short: &SHORT_48, long_shaped: 51, short_shaped: 14 },
    Rate { from: 23_004, long: &LONG_24, short: &SHORT_24, long_shaped: 46, short_shaped: 14 },
    Rate { from: 18_783, long: &LONG_24, short: &SHORT_24, long_shaped: 46, short_shaped: 14 },
    Rate { from: 13_856, long: &LONG_16, short: &SHORT_16, long_shaped: 42, short_shaped: 14 },
    Rate { from: 11_502, long: &LONG_16, short: &SHORT_16, long_shaped: 42, short_shaped: 14 },
    Rate { from: 9_391, long: &LONG_16, short: &SHORT_16, long_shaped: 42, short_shaped: 14 },
    Rate { from: 0, long: &LONG_8, short: &SHORT_8, long_shaped: 39, short_shaped: 14 },
];

const LONG_96: [u16; 42] = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 64, 72, 80, 88, 96, 108, 120, 132, 144, 156, 172, 188,
    212, 240, 276, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024,
];
const LONG_64: [u16; 48] = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 64, 72, 80, 88, 100, 112, 124, 140, 156, 172, 192, 216,
    240, 268, 304, 344, 384, 424, 464, 504, 544, 584, 624, 664, 704, 744, 784, 824, 864, 904, 944, 984, 1024,
];
const LONG_48: [u16; 50] = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 88, 96, 108, 120, 132, 144, 160, 176, 196, 216, 240,
    264, 292, 320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 832, 864, 896, 928, 1024,
];
const LONG_32: [u16; 52] = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 88, 96, 108, 120, 132, 144, 160, 176, 196, 216, 240,
    264, 292, 320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, 832, 864, 896, 928, 960,
    992, 1024,
];
const LONG_24: [u16; 48] = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 136, 148, 160, 172, 188,
    204, 220, 240, 260, 284, 308, 336, 364, 396, 432, 468, 508, 552, 600, 652, 704, 768, 832, 896, 960, 1024,
];
const LONG_16: [u16; 44] = [
    0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 100, 112, 124, 136, 148, 160, 172, 184, 196, 212, 228, 244, 260, 280,
    300, 320, 344, 368, 396, 424, 456, 492, 532, 572, 616, 664, 716, 772, 832, 896, 960, 1024,
];
const LONG_8: [u16; 41] = [
    0, 12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144, 156, 172, 188, 204, 220, 236, 252, 268, 288, 308, 328, 348,
    372, 396, 420, 448, 476, 508, 544, 580, 620, 664, 712, 764, 820, 880, 944, 1024,
];
const SHORT_64: [u16; 13] = [0, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 92, 128];
const SHORT_48: [u16; 15] = [0, 4, 8, 12, 16, 20, 28, 36, 44, 56, 68, 80, 96, 112, 128];
const SHORT_24: [u16; 16] = [0, 4, 8, 12, 16, 20, 24, 28, 36, 44, 52, 64, 76, 92, 108, 128];
const SHORT_16: [u16; 16] = [0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 60, 72, 88, 108, 128];
const SHORT_8: [u16; 16] = [0, 4, 8, 12, 16, 20, 24, 28, 36, 44, 52, 60, 72, 88, 108, 128];

#[test]
fn bands_rise_by_multiples_of_four_to_the_last_line() {
    for rate in &RATES {
        for (bands, lines, shaped) in [(rate.long, 1024, rate.long_shaped), (rate.short, 128, rate.short_shaped)] {
            assert_eq!((bands[0], bands[bands.len() - 1]), (0, lines));
            assert!(bands.windows(2).all(|w| w[0] < w[1] && (w[1] - w[0]) % 4 == 0));
            assert!(shaped < bands.len());
        }
    }
    for (nominal, rate) in BY_INDEX.iter().zip(RATES.iter().chain([&RATES[11]])) {
        assert_eq!(Rate::of(*nominal), rate);
    }
}
