//! What a stream says of itself in its STREAMINFO block (RFC 9639, section 8.2), and each frame in its header
//! (section 9.1).

use symphonia::core::errors::{Error, Result};

use super::crc::crc8;

/// The most that a block may hold, in samples of a channel: block sizes are 16-bit numbers that exclude 65,536.
pub const MAX_BLOCK: usize = 65_535;

/// The part of STREAMINFO that decoding needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamInfo {
    /// Samples of a channel.
    pub max_block: usize,
    /// Hz.
    pub rate: u32,
    pub bits_per_sample: u32,
}

impl StreamInfo {
    /// Reads the 34 bytes of the block.
    pub fn parse(block: &[u8]) -> Option<StreamInfo> {
        let [_, _, b0, b1, _, _, _, _, _, _, r0, r1, r2, r3, ..] = *block else { return None };
        // Rate (20 bits), channels - 1 (3), bits per sample - 1 (5); the rest counts samples.
        let packed = u32::from_be_bytes([r0, r1, r2, r3]);
        let info = StreamInfo {
            max_block: usize::from(u16::from_be_bytes([b0, b1])),
            rate: packed >> 12,
            bits_per_sample: (packed >> 4 & 31) + 1,
        };
        (block.len() >= 34 && info.rate > 0 && info.bits_per_sample >= 4).then_some(info)
    }
}

#[test]
fn the_stream_says_its_rate_and_bits() {
    let mut block = [0; 34];
    block[..18].copy_from_slice(&[16, 0, 16, 0, 0, 0, 14, 0, 43, 214, 0x0a, 0xc4, 0x42, 0xf0, 0, 80, 191, 224]);
    let info = StreamInfo { max_block: 4096, rate: 44_100, bits_per_sample: 16 };
    assert_eq!(StreamInfo::parse(&block), Some(info));
    assert_eq!(StreamInfo::parse(&block[..33]), None);
    assert_eq!(StreamInfo::parse(&[0; 34]), None, "a rate of 0 Hz");
}

/// How the subframes of a frame make its channels (section 9.1.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Channels {
    Independent(u32),
    /// Left, and left minus right.
    LeftSide,
    /// Left minus right, and right.
    SideRight,
    /// Half of the sum, rounded down, and left minus right, whose lowest bit is that of the sum too.
    MidSide,
}

impl Channels {
    pub fn count(self) -> u32 {
        match self {
            Channels::Independent(n) => n,
            Channels::LeftSide | Channels::SideRight | Channels::MidSide => 2,
        }
    }

    /// The difference of two channels needs one bit more than they.
    pub fn is_difference(self, subframe: u32) -> bool {
        match self {
            Channels::Independent(_) => false,
            Channels::SideRight => subframe == 0,
            Channels::LeftSide | Channels::MidSide => subframe == 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameHeader {
    /// Samples of a channel, 1 to 65,535.
    pub block: usize,
    /// Hz; `None` is that of the stream.
    pub rate: Option<u32>,
    pub channels: Channels,
    /// `None` is that of the stream.
    pub bits_per_sample: Option<u32>,
    /// Of the header itself, in bytes.
    pub length: usize,
}

impl FrameHeader {
    /// The header at the beginning of a frame. The number of the frame is passed over: containers count better.
    pub fn parse(frame: &[u8]) -> Result<FrameHeader> {
        let cut = || Error::DecodeError("flac: the frame header is cut short");
        let bad = |what| Err(Error::DecodeError(what));
        let &[sync0, sync1, sizes, layout, number, ..] = frame else { return Err(cut()) };
        // Fourteen bits of sync code, a reserved 0, and whether blocks vary in size.
        if sync0 != 0xff || sync1 & 0xfe != 0xf8 {
            return bad("flac: no frame begins here");
        }
        // A coded number like in UTF-8, of one to seven bytes (section 9.1.5).
        let mut at = 4 + match number.leading_ones() {
            0 => 1,
            n @ 2..=7 => n as usize,
            _ => return bad("flac: invalid frame number"),
        };
        let mut uncommon = |bytes: usize| -> Result<u32> {
            let field = frame.get(at..at + bytes).ok_or_else(cut)?;
            at += bytes;
            Ok(field.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
        };
        // Sections 9.1.1 and 9.1.6.
        let block = match sizes >> 4 {
            0 => return bad("flac: reserved block size"),
            1 => 192,
            n @ 2..=5 => 144 << n,
            6 => uncommon(1)? + 1,
            7 => uncommon(2)? + 1,
            n => 1 << n,
        };
        if block as usize > MAX_BLOCK {
            return bad("flac: forbidden block size");
        }
        // Sections 9.1.2 and 9.1.7.
        let rate = match sizes & 15 {
            0 => None,
            1 => Some(88_200),
            2 => Some(176_400),
            3 => Some(192_000),
            4 => Some(8_000),
            5 => Some(16_000),
            6 => Some(22_050),
            7 => Some(24_000),
            8 => Some(32_000),
            9 => Some(44_100),
            10 => Some(48_000),
            11 => Some(96_000),
            12 => Some(uncommon(1)? * 1000),
            13 => Some(uncommon(2)?),
            14 => Some(uncommon(2)? * 10),
            _ => return bad("flac: forbidden sample rate"),
        };
        let channels = match layout >> 4 {
            n @ 0..=7 => Channels::Independent(u32::from(n) + 1),
            8 => Channels::LeftSide,
            9 => Channels::SideRight,
            10 => Channels::MidSide,
            _ => return bad("flac: reserved channel assignment"),
        };
        // Section 9.1.4.
        let bits_per_sample = match layout >> 1 & 7 {
            0 => None,
            1 => Some(8),
            2 => Some(12),
            4 => Some(16),
            5 => Some(20),
            6 => Some(24),
            7 => Some(32),
            _ => return bad("flac: reserved bit depth"),
        };
        if layout & 1 != 0 {
            return bad("flac: reserved bit");
        }
        if crc8(frame.get(..at).ok_or_else(cut)?) != *frame.get(at).ok_or_else(cut)? {
            return bad("flac: the checksum of the frame header is wrong");
        }
        Ok(FrameHeader { block: block as usize, rate, channels, bits_per_sample, length: at + 1 })
    }
}

#[test]
fn a_frame_header_is_read_and_each_damage_found() {
    // The first frame of the example in appendix D.2 of the RFC.
    let frame = [0xff, 0xf8, 0x69, 0x98, 0x00, 0x0f, 0x99];
    let header = FrameHeader {
        block: 16,
        rate: Some(44_100),
        channels: Channels::SideRight,
        bits_per_sample: Some(16),
        length: 7,
    };
    assert_eq!(FrameHeader::parse(&frame).unwrap(), header);
    for cut in 0..frame.len() {
        assert!(FrameHeader::parse(&frame[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..8 * frame.len() {
        let mut damaged = frame;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(FrameHeader::parse(&damaged).is_err(), "bit {bit}");
    }
}
