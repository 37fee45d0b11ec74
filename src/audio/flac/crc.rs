//! The two checksums of a frame (RFC 9639, sections 9.1.8 and 9.3).

/// Of the frame header: polynomial x⁸ + x² + x + 1, starting from 0.
pub fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ byte, |c, _| (c << 1) ^ if c & 0x80 != 0 { 0x07 } else { 0 }))
}

/// Bytes that [`crc16`] takes at once.
const STRIDE: usize = 16;
/// `TABLES[n][byte]` is what `byte` leaves in the CRC-16 after `n` more bytes. By linearity the checksum of a run is
/// the exclusive or of what each of its bytes leaves, and these look-ups do not wait for one another.
static TABLES: [[u16; 256]; STRIDE] = {
    let mut tables = [[0u16; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut n = 0;
        while n < 8 * STRIDE {
            crc = (crc << 1) ^ if crc & 0x8000 != 0 { 0x8005 } else { 0 };
            n += 1;
            if n % 8 == 0 {
                tables[n / 8 - 1][byte] = crc;
            }
        }
        byte += 1;
    }
    tables
};

/// Of the frame: polynomial x¹⁶ + x¹⁵ + x² + 1, starting from 0.
pub fn crc16(bytes: &[u8]) -> u16 {
    let (runs, rest) = bytes.as_chunks::<STRIDE>();
    let mut crc = 0u16;
    for run in runs {
        let mut run = *run;
        // What the bytes before have left meets the first two.
        run[0] ^= (crc >> 8) as u8;
        run[1] ^= crc as u8;
        crc = 0;
        for (table, byte) in TABLES.iter().rev().zip(run) {
            crc ^= table[usize::from(byte)];
        }
    }
    rest.iter().fold(crc, |crc, byte| (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)])
}

#[test]
fn the_checksums_of_the_usual_test_string() {
    // CRC-8/SMBUS and CRC-16/UMTS in the catalogues of checksums.
    assert_eq!(crc8(b"123456789"), 0xf4);
    assert_eq!(crc16(b"123456789"), 0xfee8);
}

#[test]
fn sixteen_bytes_at_once_are_what_bit_by_bit_gives() {
    let bytes: Vec<u8> = (0..200u32).map(|i| ((i * i * 37) >> 3) as u8).collect();
    for length in 0..bytes.len() {
        let slow = bytes[..length].iter().fold(0u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(*byte) << 8), |c, _| (c << 1) ^ if c & 0x8000 != 0 { 0x8005 } else { 0 })
        });
        assert_eq!(crc16(&bytes[..length]), slow, "{length} bytes");
    }
}
