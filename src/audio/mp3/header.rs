//! The four bytes that every frame begins with (ISO 11172-3, 2.4.1.3; ISO 13818-3, 2.4.1.3 for the low rates; MPEG-2.5
//! is an extension without a standard, which halves those once more).

/// Kilobits per second of Layer III, MPEG-1 and the lower rates; 0 is "free format".
const BITRATES: [[usize; 15]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/// What the decoder needs of a header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// MPEG-2 or 2.5 ("low sampling frequencies"): one granule to a frame, other scale factors.
    pub low: bool,
    /// Hz.
    pub rate: u32,
    /// 0 to 8: 44.1, 48, 32 kHz, their halves, their quarters.
    pub rate_index: usize,
    pub channels: usize,
    pub mid_side: bool,
    pub intensity: bool,
    /// Two bytes of checksum follow the header.
    pub checksum: bool,
    /// Bytes of the whole frame; `None` in free format, where only the distance to the next header tells.
    pub bytes: Option<usize>,
}

impl Header {
    /// `None` where these are not the first bytes of a Layer III frame.
    pub fn parse(frame: &[u8]) -> Option<Header> {
        let [0xff, b, c, d, ..] = *frame else { return None };
        let (family, low) = match b >> 3 {
            0b11111 => (0, false),
            0b11110 => (1, true),
            0b11100 => (2, true),
            _ => return None,
        };
        let layer_three = b >> 1 & 3 == 0b01;
        let (bitrate, rate, mode) = (c >> 4, usize::from(c >> 2 & 3), d >> 6);
        if !layer_three || bitrate == 15 || rate == 3 {
            return None;
        }
        let joint = mode == 0b01;
        let hz = [44_100, 48_000, 32_000][rate] >> family;
        let kilobits = BITRATES[usize::from(low)][usize::from(bitrate)];
        let samples = if low { 576 } else { 1152 };
        let bytes = samples / 8 * kilobits * 1000 / hz as usize + usize::from(c >> 1 & 1);
        Some(Header {
            low,
            rate: hz,
            rate_index: 3 * family + rate,
            channels: if mode == 0b11 { 1 } else { 2 },
            mid_side: joint && d & 0x20 != 0,
            intensity: joint && d & 0x10 != 0,
            checksum: b & 1 == 0,
            bytes: (kilobits > 0).then_some(bytes),
        })
    }

    /// Granules of 576 frames each.
    pub fn granules(&self) -> usize {
        if self.low { 1 } else { 2 }
    }

    /// Bytes of the side information.
    pub fn side_bytes(&self) -> usize {
        match (self.low, self.channels) {
            (false, 1) => 17,
            (false, _) => 32,
            (true, 1) => 9,
            (true, _) => 17,
        }
    }
}

#[test]
fn headers_are_read_and_strange_ones_refused() {
    // 128 kbit/s, 44.1 kHz, joint stereo with mid/side, as LAME writes it.
    let h = Header::parse(&[0xff, 0xfb, 0x90, 0x64]).unwrap();
    assert_eq!((h.low, h.rate, h.rate_index, h.channels, h.bytes), (false, 44_100, 0, 2, Some(417)));
    assert!(h.mid_side && !h.intensity && !h.checksum);
    // Padded; 8 kbit/s at 8 kHz in mono, MPEG-2.5.
    assert_eq!(Header::parse(&[0xff, 0xfb, 0x92, 0x64]).unwrap().bytes, Some(418));
    let h = Header::parse(&[0xff, 0xe3, 0x18, 0xc0]).unwrap();
    assert_eq!((h.low, h.rate, h.rate_index, h.channels, h.bytes), (true, 8000, 8, 1, Some(72)));
    assert_eq!(Header::parse(&[0xff, 0xfb, 0x00, 0x64]).unwrap().bytes, None);
    for wrong in [
        [0xfe, 0xfb, 0x90, 0x64],
        [0xff, 0xeb, 0x90, 0x64], // a version that does not exist
        [0xff, 0xfd, 0x90, 0x64], // Layer II
        [0xff, 0xfb, 0xf0, 0x64], // no such bitrate
        [0xff, 0xfb, 0x9c, 0x64], // no such rate
    ] {
        assert_eq!(Header::parse(&wrong), None, "{wrong:02x?}");
    }
    assert_eq!(Header::parse(&[0xff, 0xfb, 0x90]), None);
}
