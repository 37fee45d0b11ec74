//! Most significant bit first, as FLAC writes everything (RFC 9639, section 5).

use symphonia::core::errors::{Error, Result};

/// Bits that [`Bits::window`] has at least: it begins anywhere in its first byte.
pub const WINDOW: u32 = 57;

/// A reader of at most 57 bits at a time. Zeros follow the data, as many as one number may need, so whoever reads must
/// compare [`Bits::position`] with the end at last.
#[derive(Clone)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    position: usize,
}

impl<'a> Bits<'a> {
    /// `position` is in bits.
    pub fn new(bytes: &'a [u8], position: usize) -> Bits<'a> {
        Bits { bytes, position }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    #[inline(always)]
    pub fn skip(&mut self, bits: u32) {
        self.position += bits as usize;
    }

    /// The bits ahead, the next one uppermost: [`WINDOW`] or a few more, then zeros.
    #[inline(always)]
    pub fn window(&self) -> Result<u64> {
        match self.bytes.get(self.position >> 3..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => Ok(u64::from_be_bytes(*bytes) << (self.position & 7)),
            None => self.last_window(),
        }
    }

    /// The window where less than eight bytes are left.
    #[cold]
    #[inline(never)]
    fn last_window(&self) -> Result<u64> {
        let left = self.bytes.get(self.position >> 3..).unwrap_or(&[]);
        if left.is_empty() {
            return Err(Error::DecodeError("flac: the frame is cut short"));
        }
        let mut bytes = [0; 8];
        bytes[..left.len()].copy_from_slice(left);
        Ok(u64::from_be_bytes(bytes) << (self.position & 7))
    }

    /// An unsigned number of 0 to 57 bits.
    #[inline(always)]
    pub fn unsigned(&mut self, bits: u32) -> Result<u64> {
        debug_assert!(bits <= WINDOW);
        let window = self.window()?;
        self.skip(bits);
        // In two steps, for a shift by 64 is none.
        Ok(window >> 1 >> (63 - bits))
    }

    /// A number of 0 to 57 bits in two's complement.
    #[inline(always)]
    pub fn signed(&mut self, bits: u32) -> Result<i64> {
        let unused = 64 - bits;
        Ok((self.unsigned(bits)?.checked_shl(unused).unwrap_or(0) as i64) >> unused.min(63))
    }

    /// How many zeros precede the next one, which is read too.
    #[inline(always)]
    pub fn unary(&mut self) -> Result<u32> {
        let mut zeros = 0u32;
        loop {
            let here = self.window()?.leading_zeros();
            if here < WINDOW {
                self.skip(here + 1);
                return Ok(zeros.saturating_add(here));
            }
            zeros = zeros.saturating_add(WINDOW);
            self.skip(WINDOW);
        }
    }
}

#[test]
fn numbers_are_read_from_any_bit_on() {
    let bytes: Vec<u8> = (0..16u8).map(|i| i.wrapping_mul(151) ^ 0x5a).collect();
    let bit = |i: usize| u64::from(bytes[i / 8] >> (7 - i % 8) & 1);
    for start in 0..64 {
        for n in 0..=57u32 {
            let expected = (start..start + n as usize).fold(0, |number, i| number << 1 | bit(i));
            let mut bits = Bits::new(&bytes, start);
            assert_eq!(bits.unsigned(n).unwrap(), expected, "{n} bits from {start}");
            assert_eq!(bits.position(), start + n as usize);
            let negative = n > 0 && expected >> (n - 1) == 1;
            let signed = expected as i64 - if negative { 1i64 << n } else { 0 };
            assert_eq!(Bits::new(&bytes, start).signed(n).unwrap(), signed, "{n} bits from {start}");
        }
    }
}

#[test]
fn unary_numbers_may_be_longer_than_a_window_and_end_with_the_data() {
    for zeros in [0, 1, 7, 8, 56, 57, 58, 63, 64, 65, 200] {
        for start in 0..9 {
            let mut bytes = vec![0; (start + zeros) / 8 + 1];
            bytes[(start + zeros) / 8] = 0x80 >> ((start + zeros) % 8);
            let mut bits = Bits::new(&bytes, start);
            assert_eq!(bits.unary().unwrap() as usize, zeros);
            assert_eq!(bits.position(), start + zeros + 1);
        }
    }
    assert!(Bits::new(&[0; 100], 3).unary().is_err());
}
