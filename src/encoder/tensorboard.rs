//! Curves for TensorBoard: its event files, written by hand, since they are little more than numbers in a row.
//!
//! A file is a sequence of records (TensorFlow's TFRecord): length, checksum of the length, content, checksum of the content.
//! The content is a protocol buffer, the message `Event` of TensorFlow's `event.proto`; we write two kinds of it, the version
//! at the beginning and summaries of scalars.

/// A file's first record.
pub(crate) fn version(wall_time: f64) -> Vec<u8> {
    let mut event = double(1, wall_time);
    event.extend(bytes(3, b"brain.Event:2"));
    record(&event)
}

/// A record of scalars at a step. `wall_time`: Unix seconds.
pub(crate) fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = bytes(1, tag.as_bytes());
        // simple_value, a 32-bit float.
        one.extend(key(2, 5));
        one.extend((*value as f32).to_le_bytes());
        summary.extend(bytes(1, &one));
    }
    let mut event = double(1, wall_time);
    event.extend(key(2, 0));
    event.extend(varint(step));
    event.extend(bytes(5, &summary));
    record(&event)
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), content, &masked_crc(content).to_le_bytes()].concat()
}

/// The number and wire type of a field.
fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

fn double(field: u64, x: f64) -> Vec<u8> {
    [key(field, 1), x.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn varint(mut x: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
    out
}

/// CRC-32C (Castagnoli, reflected), turned and shifted as TensorFlow does so that a checksum of checksums is no fixed point.
fn masked_crc(content: &[u8]) -> u32 {
    let crc = !content.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/golden/events.py` wrote it, with the Python package `tensorboard`.
    #[test]
    fn the_bytes_are_those_of_tensorboard_s_own_writer() {
        let mut ours = version(1_700_000_000.25);
        ours.extend(scalars(1_700_000_001.5, 1, &[("loss/train", 0.75), ("loss/valid", 1.0), ("wait_seconds", 0.0)]));
        let long = "a/tag/that/is/longer/than/one/hundred/and/twenty-seven/bytes/".repeat(3);
        ours.extend(scalars(1_700_000_002.0, 300, &[("learning_rate", 1e-30), (&long, -1.5e30)]));
        assert_eq!(ours, include_bytes!("../../tests/golden/events.out.tfevents.golden"));
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        // RFC 3720, B.4, unmasked: 32 bytes of zeros have 0x8a9136aa.
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aau32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
