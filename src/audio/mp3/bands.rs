//! Scale factor bands: which of the 576 lines of a granule share a scale factor, and where a coded line belongs.
//!
//! The order of the lines in the stream depends on the kind of block:
//!
//! ```text
//! long    line 0, 1, 2 …                                          22 bands
//! short   band 0: window 0, window 1, window 2; band 1: …         13 × 3
//! mixed   long bands as far as three short ones go (36 lines, at 8 kHz 72), short ones from there on
//! ```
//!
//! Short blocks have 192 frequencies; frequency `f` of window `w` is put to line `3·f + w`, so that the lines of every
//! subband stand together (18 lines: 6 frequencies × 3 windows).

use std::sync::LazyLock;

/// Lines of a granule.
pub const LINES: usize = 576;
/// Lines of a mixed block that have the window and the transform of a long one: two subbands. At 8 kHz that is half of
/// those that are coded like a long one.
pub const MIXED_LINES: usize = 36;

/// The kind of a granule's block: its lines and its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    Long,
    /// From long to short. With `mixed` the two lowest subbands have the window of a long block.
    Start {
        mixed: bool,
    },
    /// With `mixed` the two lowest subbands are a long block.
    Short {
        mixed: bool,
    },
    /// From short to long.
    Stop {
        mixed: bool,
    },
}

/// First lines of the bands of long blocks, and the end (ISO 11172-3, table B.8; ISO 13818-3, table B.2).
const LONG: [[usize; 23]; 6] = [
    [0, 4, 8, 12, 16, 20, 24, 30, 36, 44, 52, 62, 74, 90, 110, 134, 162, 196, 238, 288, 342, 418, 576], // 44.1 kHz
    [0, 4, 8, 12, 16, 20, 24, 30, 36, 42, 50, 60, 72, 88, 106, 128, 156, 190, 230, 276, 330, 384, 576], // 48
    [0, 4, 8, 12, 16, 20, 24, 30, 36, 44, 54, 66, 82, 102, 126, 156, 194, 240, 296, 364, 448, 550, 576], // 32
    [0, 6, 12, 18, 24, 30, 36, 44, 54, 66, 80, 96, 116, 140, 168, 200, 238, 284, 336, 396, 464, 522, 576], // 22.05
    [0, 6, 12, 18, 24, 30, 36, 44, 54, 66, 80, 96, 114, 136, 162, 194, 232, 278, 332, 394, 464, 540, 576], // 24
    [0, 12, 24, 36, 48, 60, 72, 88, 108, 132, 160, 192, 232, 280, 336, 400, 476, 566, 568, 570, 572, 574, 576], // 8
];

/// The same of short blocks, in frequencies of one window.
const SHORT: [[usize; 14]; 7] = [
    [0, 4, 8, 12, 16, 22, 30, 40, 52, 66, 84, 106, 136, 192], // 44.1 kHz
    [0, 4, 8, 12, 16, 22, 28, 38, 50, 64, 80, 100, 126, 192], // 48
    [0, 4, 8, 12, 16, 22, 30, 42, 58, 78, 104, 138, 180, 192], // 32
    [0, 4, 8, 12, 18, 24, 32, 42, 56, 74, 100, 132, 174, 192], // 22.05
    [0, 4, 8, 12, 18, 26, 36, 48, 62, 80, 104, 136, 180, 192], // 24
    [0, 4, 8, 12, 18, 26, 36, 48, 62, 80, 104, 134, 174, 192], // 16
    [0, 8, 16, 24, 36, 52, 72, 96, 124, 160, 162, 164, 166, 192], // 8
];

/// Which rows of the tables hold for 44.1, 48, 32, 22.05, 24, 16, 11.025, 12 and 8 kHz.
const ROWS: [(usize, usize); 9] = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (3, 5), (3, 5), (3, 5), (5, 6)];

/// Some lines that share a scale factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Coded lines `start..end`.
    pub start: usize,
    pub end: usize,
    pub place: Place,
}

/// Where coded line `start + j` belongs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// Line `start + j`.
    Long,
    /// Line `3·(frequency + j) + window`.
    Short { window: usize, frequency: usize },
}

/// The bands of one kind of block at one rate, in the order of the stream; band `i` has scale factor `i`.
pub struct Layout {
    pub bands: Vec<Band>,
    /// Coded lines that must be read for the lower 16 of the 32 subbands.
    pub half: usize,
}

impl Layout {
    /// `rate_index` as in [`super::header::Header`].
    pub fn of(rate_index: usize, block: Block) -> &'static Layout {
        static LAYOUTS: LazyLock<[[Layout; 3]; 9]> = LazyLock::new(|| {
            std::array::from_fn(|rate| {
                // Where the scale factors of the short bands begin (ISO 11172-3, 2.4.2.7): 6 long and 9 · 3 short ones
                // are as many as the low rates have bits for, at 8 kHz too.
                let mixed = 3 * SHORT[ROWS[rate].1][3];
                [Layout::new(rate, LINES), Layout::new(rate, 0), Layout::new(rate, mixed)]
            })
        });
        &LAYOUTS[rate_index][match block {
            Block::Long | Block::Start { .. } | Block::Stop { .. } => 0,
            Block::Short { mixed: false } => 1,
            Block::Short { mixed: true } => 2,
        }]
    }

    /// Long bands below line `switch`, short ones from there on.
    fn new(rate_index: usize, switch: usize) -> Layout {
        let (long, short) = ROWS[rate_index];
        let below = LONG[long].windows(2).filter(|edge| edge[1] <= switch);
        let mut bands: Vec<Band> =
            below.map(|edge| Band { start: edge[0], end: edge[1], place: Place::Long }).collect();
        let mut start = switch;
        for edge in SHORT[short].windows(2) {
            for window in 0..3 {
                if 3 * edge[0] >= switch {
                    let end = start + edge[1] - edge[0];
                    bands.push(Band { start, end, place: Place::Short { window, frequency: edge[0] } });
                    start = end;
                }
            }
        }
        // Eight lines more than half for the butterflies with subband 16; short blocks have none, but their bands mix
        // low and high lines.
        let half = match bands.last().map(|b| b.place) {
            Some(Place::Long) => LINES / 2 + 8,
            _ => bands
                .iter()
                .filter(|b| match b.place {
                    Place::Long => true,
                    Place::Short { frequency, .. } => frequency < LINES / 6,
                })
                .map(|b| b.end)
                .max()
                .unwrap_or(0),
        };
        Layout { bands, half }
    }

    /// The first coded line of region 1 where the side information does not say it: the first eight bands of a long
    /// block or the first nine (three of each window) of a short one (ISO 11172-3, 2.4.2.7, region0_count). For mixed
    /// blocks of the low rates the standards are unclear; they are taken like short ones.
    pub fn region_one(rate_index: usize, block: Block) -> usize {
        let (long, short) = ROWS[rate_index];
        match block {
            Block::Short { .. } => 3 * SHORT[short][3],
            _ => LONG[long][8],
        }
    }

    /// The first line of long band `band`, or the end of all.
    pub fn long_edge(rate_index: usize, band: usize) -> usize {
        LONG[ROWS[rate_index].0].get(band).copied().unwrap_or(LINES)
    }
}

#[test]
fn every_line_is_coded_once_and_has_one_place() {
    for rate in 0..9 {
        let mixed = [38, 38, 38, 36, 36, 36, 36, 36, 36][rate];
        let kinds = [(Block::Long, 22), (Block::Short { mixed: false }, 39), (Block::Short { mixed: true }, mixed)];
        for (block, bands) in kinds {
            let layout = Layout::of(rate, block);
            assert_eq!(layout.bands.len(), bands, "{block:?} at rate {rate}");
            let mut coded = 0;
            let mut seen = [false; LINES];
            let mut highest_needed = 0;
            for band in &layout.bands {
                assert_eq!(band.start, coded);
                coded = band.end;
                for j in 0..band.end - band.start {
                    let line = match band.place {
                        Place::Long => band.start + j,
                        Place::Short { window, frequency } => 3 * (frequency + j) + window,
                    };
                    assert!(!std::mem::replace(&mut seen[line], true));
                    if line < LINES / 2 {
                        highest_needed = highest_needed.max(band.start + j);
                    }
                }
            }
            assert_eq!(coded, LINES);
            assert!(layout.half > highest_needed && layout.half <= LINES);
        }
    }
}
