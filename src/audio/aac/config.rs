//! What is known of a stream before its packets: the AudioSpecificConfig (ISO/IEC 14496-3, section 1.6.2.1).

use symphonia::core::errors::{Error, Result};

use super::rates::BY_INDEX;
use crate::audio::bits::Bits;

/// The error for what adds half of its bandwidth by a method that we lack. What lies in its core alone sounds like
/// another song.
pub(super) const HE_AAC: Error = Error::Unsupported("aac: HE-AAC (spectral band replication)");

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Config {
    /// Hz.
    pub rate: u32,
    /// `None` where it is left to the packets.
    pub channels: Option<usize>,
}

impl Config {
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        let mut bits = Bits::new(bytes, 0);
        let kind = object_type(&mut bits);
        let rate = match bits.read(4) as usize {
            15 => bits.read(24),
            index => *BY_INDEX.get(index).ok_or(Error::DecodeError("aac: reserved sample rate"))?,
        };
        let layout = bits.read(4);
        match kind {
            2 => {}
            1 => return Err(Error::Unsupported("aac: AAC Main")),
            3 => return Err(Error::Unsupported("aac: AAC SSR (scalable sample rate)")),
            4 => return Err(Error::Unsupported("aac: AAC LTP (long term prediction)")),
            5 | 29 => return Err(HE_AAC),
            23 | 39 => return Err(Error::Unsupported("aac: low-delay AAC")),
            42 => return Err(Error::Unsupported("aac: USAC (xHE-AAC)")),
            _ => return Err(Error::Unsupported("aac: another kind of MPEG-4 audio than AAC-LC")),
        }
        // GASpecificConfig, section 4.4.1.
        if bits.flag() {
            return Err(Error::Unsupported("aac: frames of 960 samples"));
        }
        if bits.flag() {
            bits.skip(14);
        }
        bits.flag();
        let channels = match layout {
            0 => Some(program(&mut bits)),
            1..=6 => Some(layout as usize),
            7 | 12 | 14 => Some(8),
            11 => Some(7),
            _ => return Err(Error::Unsupported("aac: reserved channel configuration")),
        };
        if bits.overrun() || rate == 0 {
            return Err(Error::DecodeError("aac: impossible configuration"));
        }
        // Signalled behind the configuration, where older decoders do not look (section 1.6.5).
        if bits.left() >= 16 && bits.read(11) == 0x2b7 && matches!(object_type(&mut bits), 5 | 22) && bits.flag() {
            return Err(HE_AAC);
        }
        Ok(Config { rate, channels })
    }

    /// Of a stream whose container only counts the channels, as ADTS does.
    pub fn plain(rate: u32, channels: Option<usize>) -> Option<Config> {
        (rate > 0).then_some(Config { rate, channels: channels.filter(|n| (1..=8).contains(n)) })
    }
}

fn object_type(bits: &mut Bits) -> u32 {
    match bits.read(5) {
        31 => 32 + bits.read(6),
        kind => kind,
    }
}

/// A program_config_element (section 4.4.1.1): its channels.
pub(super) fn program(bits: &mut Bits) -> usize {
    // Tag, object type, sample rate.
    bits.skip(10);
    let [front, side, back] = [4, 4, 4].map(|n| bits.read(n));
    let [low, data] = [2, 3].map(|n| bits.read(n) as usize);
    let coupling = bits.read(4) as usize;
    // Mixdowns: the elements for mono and stereo, the index of a matrix.
    for size in [4, 4, 3] {
        if bits.flag() {
            bits.skip(size);
        }
    }
    let mut channels = low;
    for _ in 0..front + side + back {
        channels += if bits.flag() { 2 } else { 1 };
        bits.skip(4);
    }
    bits.skip(4 * low + 4 * data + 5 * coupling);
    bits.align();
    let comment = bits.read(8) as usize;
    bits.skip(8 * comment);
    channels
}

#[test]
fn a_configuration_is_read_or_refused_by_its_name() {
    let stereo = Config { rate: 44_100, channels: Some(2) };
    assert_eq!(Config::parse(&[0x12, 0x10]).unwrap(), stereo);
    // The extension says that there is no replication.
    assert_eq!(Config::parse(&[0x12, 0x10, 0x56, 0xe5, 0x00]).unwrap(), stereo);
    // 5.1 at 48 kHz, and a rate of 44,099 Hz said in full.
    assert_eq!(Config::parse(&[0x11, 0xb0]).unwrap(), Config { rate: 48_000, channels: Some(6) });
    let odd: u64 = (2 << 59) | (15 << 55) | (44_099 << 31) | (1 << 27);
    assert_eq!(Config::parse(&odd.to_be_bytes()).unwrap(), Config { rate: 44_099, channels: Some(1) });
    // A program of a pair in front, one channel behind and one for low frequencies, and a comment of one letter.
    let program =
        concat!("00010", "0100", "0000", "000", "0000", "01", "0100", "0001", "0000", "0001", "01", "000", "0000");
    let program = [program, "000", "10000", "00000", "0000", "00000001", "01000001"].concat();
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, &b| byte << 1 | (b - b'0')) << (8 - bits.len());
    let program: Vec<u8> = program.as_bytes().chunks(8).map(byte).collect();
    assert_eq!(Config::parse(&program).unwrap(), Config { rate: 44_100, channels: Some(4) });
    let refused = |bytes: &[u8]| match Config::parse(bytes) {
        Err(Error::Unsupported(what)) => what,
        other => panic!("{other:?}"),
    };
    for he_aac in [
        &[0x2b, 0x92, 0x08, 0x00][..],
        &[0xeb, 0x92, 0x08, 0x00],
        &[0xeb, 0x8a, 0x08, 0x00],
        &[0x13, 0x90, 0x56, 0xe5, 0xa0],
    ] {
        assert_eq!(refused(he_aac), "aac: HE-AAC (spectral band replication)");
    }
    assert_eq!(refused(&[0x0a, 0x10]), "aac: AAC Main");
    assert_eq!(refused(&[0x1a, 0x10]), "aac: AAC SSR (scalable sample rate)");
    assert_eq!(refused(&[0x22, 0x10]), "aac: AAC LTP (long term prediction)");
    assert_eq!(refused(&[0x12, 0x14]), "aac: frames of 960 samples");
    for short in [&[][..], &[0x12], &[0x17, 0x00], &[0x12, 0x00, 0x05]] {
        assert!(Config::parse(short).is_err(), "{short:?}");
    }
}
