//! Side information (ISO 11172-3, 2.4.1.7; ISO 13818-3, 2.4.1.7) and scale factors.

use super::bands::{Block, LINES, Layout};
use super::header::Header;
use crate::audio::bits::Bits;

/// Bands of a granule have at most this many scale factors.
pub const BANDS: usize = 39;

/// Bits of the scale factors of MPEG-1: of the lower and of the upper bands (2.4.2.7, scalefac_compress).
#[rustfmt::skip]
const SCALE_BITS: [(u8, u8); 16] = [
    (0, 0), (0, 1), (0, 2), (0, 3), (3, 0), (1, 1), (1, 2), (1, 3),
    (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (4, 2), (4, 3),
];

/// What is said about one channel of one granule.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Bits of its scale factors and its lines together (part2_3_length).
    pub length: usize,
    /// Lines that are coded in pairs, twice big_values; the ones behind are coded in fours, or zero.
    pub pairs_end: usize,
    pub global_gain: u8,
    /// How many bits the scale factors have; other numbers at the low rates.
    pub scalefac_compress: usize,
    pub block: Block,
    /// Code tables of the three regions.
    pub tables: [u8; 3],
    /// Of the three windows of a short block, in steps of 12 dB down.
    pub subblock_gain: [u8; 3],
    /// First lines of regions 1 and 2.
    pub regions: [usize; 2],
    /// Higher bands are raised by a fixed pattern.
    pub preflag: bool,
    /// Scale factors are steps of 6 dB instead of 3 dB.
    pub scalefac_scale: bool,
    /// Which of the two tables codes the fours.
    pub count1table_select: usize,
}

#[derive(Clone, Debug)]
pub struct Side {
    /// Bytes before this frame's own data where its first granule begins.
    pub main_data_begin: usize,
    /// Groups of bands whose scale factors granule 1 takes over from granule 0, by channel.
    scfsi: [[bool; 4]; 2],
    /// `[granule][channel]`
    pub channels: [[Channel; 2]; 2],
}

impl Side {
    pub fn parse(header: &Header, bytes: &[u8]) -> Result<Side, &'static str> {
        let mut bits = Bits::new(bytes, 0);
        let two = header.channels == 2;
        let main_data_begin = bits.read(if header.low { 8 } else { 9 }) as usize;
        // Private bits.
        bits.read(match (header.low, two) {
            (false, false) => 5,
            (false, true) => 3,
            (true, false) => 1,
            (true, true) => 2,
        });
        let mut scfsi = [[false; 4]; 2];
        if !header.low {
            for groups in &mut scfsi[..header.channels] {
                *groups = std::array::from_fn(|_| bits.flag());
            }
        }
        let mut channels = [[Channel::of(Block::Long); 2]; 2];
        for granule in &mut channels[..header.granules()] {
            for (i, channel) in granule[..header.channels].iter_mut().enumerate() {
                *channel = Channel::parse(header, i, &mut bits)?;
            }
        }
        Ok(Side { main_data_begin, scfsi, channels })
    }

    /// Whether granule 1 takes over scale factors, without which it means nothing.
    pub fn needs_granule_0(&self) -> bool {
        let takes = |(groups, channel): (&[bool; 4], &Channel)| {
            groups.contains(&true) && !matches!(channel.block, Block::Short { .. })
        };
        self.scfsi.iter().zip(&self.channels[1]).any(takes)
    }

    /// The scale factors of a channel: how many bits they take, and what each of four groups of bands has.
    fn groups(&self, header: &Header, granule: usize, channel: usize) -> [Group; 4] {
        let c = &self.channels[granule][channel];
        if header.low {
            let position = channel == 1 && header.intensity;
            return low_groups(c.scalefac_compress, c.block, position);
        }
        let (lower, upper) = SCALE_BITS[c.scalefac_compress & 15];
        let group = |count, bits| Group { count, bits, shared: false };
        let shared = |i: usize| granule == 1 && self.scfsi[channel][i];
        match c.block {
            Block::Short { mixed: false } => [group(18, lower), group(18, upper), group(0, 0), group(0, 0)],
            Block::Short { mixed: true } => [group(17, lower), group(18, upper), group(0, 0), group(0, 0)],
            _ => [
                Group { count: 6, bits: lower, shared: shared(0) },
                Group { count: 5, bits: lower, shared: shared(1) },
                Group { count: 5, bits: upper, shared: shared(2) },
                Group { count: 5, bits: upper, shared: shared(3) },
            ],
        }
    }

    /// Bits that the scale factors of a channel take.
    pub fn scale_bits(&self, header: &Header, granule: usize, channel: usize) -> usize {
        self.groups(header, granule, channel)
            .iter()
            .filter(|g| !g.shared)
            .map(|g| usize::from(g.count) * usize::from(g.bits))
            .sum()
    }

    /// Reads the scale factors of a channel into `scale`, which holds those of the granule before.
    pub fn read_scale(&self, header: &Header, granule: usize, channel: usize, bits: &mut Bits<'_>, scale: &mut Scale) {
        let mut band = 0;
        for group in self.groups(header, granule, channel) {
            for i in band..band + usize::from(group.count) {
                if !group.shared {
                    scale.factor[i] = bits.read(u32::from(group.bits)) as u8;
                    // The highest number that fits is no position (ISO 13818-3, 2.4.3.2; encoders spend a bit more to
                    // avoid it, though some decoders know only 7 or 31); without bits there is nothing to tell it by.
                    scale.highest[i] = if header.low { (1u16 << group.bits).saturating_sub(1) as u8 } else { 7 };
                }
            }
            band += usize::from(group.count);
        }
        scale.factor[band..].fill(0);
        scale.highest[band..].fill(if header.low { 0 } else { 7 });
    }

    /// The positions of MPEG-2 intensity stereo are steps of √2 instead of ⁴√2 (intensity_scale).
    pub fn wide_positions(&self, granule: usize) -> bool {
        self.channels[granule][1].scalefac_compress & 1 == 1
    }
}

/// The scale factors of one channel.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub factor: [u8; BANDS],
    /// In the right channel of intensity stereo the factor is a position, unless it is this.
    pub highest: [u8; BANDS],
}

impl Default for Scale {
    fn default() -> Self {
        Scale { factor: [0; BANDS], highest: [0; BANDS] }
    }
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// Scale factors.
    count: u8,
    /// Each.
    bits: u8,
    shared: bool,
}

/// ISO 13818-3, 2.4.3.2: `slen` and `nr_of_sfb` of the low rates. `position`: the right channel of intensity stereo.
fn low_groups(compress: usize, block: Block, position: bool) -> [Group; 4] {
    let (bits, counts): ([usize; 4], [[u8; 4]; 3]) = if position {
        let c = compress >> 1;
        match c {
            0..180 => ([c / 36, c % 36 / 6, c % 6, 0], [[7, 7, 7, 0], [12, 12, 12, 0], [6, 15, 12, 0]]),
            180..244 => {
                let c = c - 180;
                ([c >> 4, c >> 2 & 3, c & 3, 0], [[6, 6, 6, 3], [12, 9, 9, 6], [6, 12, 9, 6]])
            }
            _ => {
                let c = c - 244;
                ([c / 3, c % 3, 0, 0], [[8, 8, 5, 0], [15, 12, 9, 0], [6, 18, 9, 0]])
            }
        }
    } else {
        match compress {
            0..400 => {
                let c = compress;
                ([(c >> 4) / 5, (c >> 4) % 5, c >> 2 & 3, c & 3], [[6, 5, 5, 5], [9, 9, 9, 9], [6, 9, 9, 9]])
            }
            400..500 => {
                let c = compress - 400;
                ([(c >> 2) / 5, (c >> 2) % 5, c & 3, 0], [[6, 5, 7, 3], [9, 9, 12, 6], [6, 9, 12, 6]])
            }
            _ => {
                let c = compress - 500;
                ([c / 3, c % 3, 0, 0], [[11, 10, 0, 0], [18, 18, 0, 0], [15, 18, 0, 0]])
            }
        }
    };
    let counts = counts[match block {
        Block::Short { mixed: false } => 1,
        Block::Short { mixed: true } => 2,
        _ => 0,
    }];
    std::array::from_fn(|i| Group { count: counts[i], bits: bits[i] as u8, shared: false })
}

impl Channel {
    /// Without any bits.
    pub fn of(block: Block) -> Channel {
        Channel {
            length: 0,
            pairs_end: 0,
            global_gain: 0,
            scalefac_compress: 0,
            block,
            tables: [0; 3],
            subblock_gain: [0; 3],
            regions: [0; 2],
            preflag: false,
            scalefac_scale: false,
            count1table_select: 0,
        }
    }

    fn parse(header: &Header, index: usize, bits: &mut Bits<'_>) -> Result<Channel, &'static str> {
        let length = bits.read(12) as usize;
        let pairs_end = 2 * bits.read(9) as usize;
        if pairs_end > LINES {
            return Err("mp3: more than 576 lines");
        }
        let global_gain = bits.read(8) as u8;
        let scalefac_compress = bits.read(if header.low { 9 } else { 4 }) as usize;
        let mut tables = [0; 3];
        let mut subblock_gain = [0; 3];
        let block;
        let regions;
        if bits.flag() {
            let kind = bits.read(2);
            let mixed = bits.flag();
            block = match kind {
                1 => Block::Start { mixed },
                2 => Block::Short { mixed },
                3 => Block::Stop { mixed },
                _ => return Err("mp3: forbidden block type"),
            };
            tables[0] = bits.read(5) as u8;
            tables[1] = bits.read(5) as u8;
            subblock_gain = std::array::from_fn(|_| bits.read(3) as u8);
            regions = [Layout::region_one(header.rate_index, block), LINES];
        } else {
            block = Block::Long;
            tables = std::array::from_fn(|_| bits.read(5) as u8);
            let one = bits.read(4) as usize + 1;
            let two = one + bits.read(3) as usize + 1;
            regions = [Layout::long_edge(header.rate_index, one), Layout::long_edge(header.rate_index, two)];
        }
        // At the low rates the lengths of the scale factors say it, except where they are positions.
        let position = header.intensity && index == 1;
        let preflag = if header.low { scalefac_compress >= 500 && !position } else { bits.flag() };
        Ok(Channel {
            length,
            pairs_end,
            global_gain,
            scalefac_compress,
            block,
            tables,
            subblock_gain,
            regions,
            preflag,
            scalefac_scale: bits.flag(),
            count1table_select: bits.read(1) as usize,
        })
    }
}

#[test]
fn every_scale_factor_has_a_band() {
    for (block, bands) in [(Block::Long, 21), (Block::Short { mixed: false }, 36), (Block::Short { mixed: true }, 33)] {
        for compress in 0..512 {
            for position in [false, true] {
                let groups = low_groups(compress, block, position);
                let count: u32 = groups.iter().map(|g| u32::from(g.count)).sum();
                assert_eq!(count, bands, "{block:?} {compress} {position}");
                assert!(groups.iter().all(|g| g.bits <= 5));
            }
        }
    }
}
