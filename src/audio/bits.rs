//! Bits, most significant first, as MPEG audio writes them.

/// A reader that keeps 56 to 63 bits at hand. Beyond the end it reads zeros, so that inner loops need not ask:
/// [`Bits::overrun`] tells, or whoever knows where the bits that count end compares [`Bits::position`] with that.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The byte that the next refill begins with; beyond the end it counts on.
    next: usize,
    /// The coming bits, left-aligned. Below the `count` that are accounted for there may be bits of the byte at `next`;
    /// a refill puts the same bits there again.
    window: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Begins at bit `at` of `data`.
    pub fn new(data: &'a [u8], at: usize) -> Bits<'a> {
        let mut bits = Bits { data, next: at / 8, window: 0, count: 0 };
        bits.refill();
        bits.consume((at % 8) as u32);
        bits
    }

    /// At least 56 bits can be peeked at and consumed after this.
    #[inline(always)]
    pub fn refill(&mut self) {
        let coming = match self.data.get(self.next..).and_then(|rest| rest.first_chunk()) {
            Some(eight) => u64::from_be_bytes(*eight),
            None => last_bytes(self.data, self.next),
        };
        self.window |= coming >> self.count;
        self.next += ((63 - self.count) / 8) as usize;
        self.count |= 56;
    }

    /// The next `n` bits, 1 to 32, of those that are ready.
    #[inline(always)]
    pub fn peek(&self, n: u32) -> usize {
        (self.window >> (64 - n)) as usize
    }

    /// The coming bits, left-aligned: 56 after a refill.
    #[inline(always)]
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Passes over `n` bits, which must be ready.
    #[inline(always)]
    pub fn consume(&mut self, n: u32) {
        self.window <<= n;
        self.count -= n;
    }

    /// The next `n` bits, 0 to 32, as a number.
    #[inline(always)]
    pub fn read(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        self.refill();
        let value = self.peek(n) as u32;
        self.consume(n);
        value
    }

    pub fn flag(&mut self) -> bool {
        self.read(1) == 1
    }

    /// Bits from the beginning of the data to the next one.
    #[inline(always)]
    pub fn position(&self) -> usize {
        8 * self.next - self.count as usize
    }

    /// Passes over any number of bits.
    pub fn skip(&mut self, n: usize) {
        let to = self.position().saturating_add(n).min(8 * self.data.len() + 64);
        *self = Bits::new(self.data, to);
    }

    /// Passes over what is left of a byte.
    pub fn align(&mut self) {
        self.skip(self.position().wrapping_neg() % 8);
    }

    /// Bits that are left.
    pub fn left(&self) -> usize {
        (8 * self.data.len()).saturating_sub(self.position())
    }

    /// More was read than there is.
    pub fn overrun(&self) -> bool {
        self.position() > 8 * self.data.len()
    }
}

/// Eight bytes from `at` on, of which some lie beyond the end. Not a method: a reader whose address nobody takes stays
/// in registers.
#[cold]
#[inline(never)]
fn last_bytes(data: &[u8], at: usize) -> u64 {
    let rest = data.get(at..).unwrap_or_default();
    (0..8).fold(0, |word, i| word << 8 | u64::from(rest.get(i).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_of_the_bits_gives_the_same_number() {
        let data: Vec<u8> = (0..40u32).map(|i| (i * 151 + 7) as u8).collect();
        let bit = |at: usize| data.get(at / 8).map_or(0, |byte| u32::from(byte >> (7 - at % 8) & 1));
        for width in 1..=32 {
            for start in 0..20 {
                let mut bits = Bits::new(&data, start);
                let mut at = start;
                // Beyond the end there are zeros.
                while at < 8 * data.len() + 64 {
                    assert_eq!(bits.position(), at);
                    assert_eq!(bits.left(), (8 * data.len()).saturating_sub(at));
                    assert_eq!(bits.overrun(), at > 8 * data.len());
                    let expected = (0..width as usize).fold(0, |value, i| value << 1 | bit(at + i));
                    assert_eq!(bits.read(width), expected, "{width} bits at {at}");
                    at += width as usize;
                }
            }
        }
    }

    #[test]
    fn any_number_of_bits_is_passed_over() {
        let data = [0b1010_0101; 20];
        let mut bits = Bits::new(&data, 0);
        let mut at = 0;
        for n in [0, 1, 7, 8, 9, 50] {
            bits.skip(n);
            at += n;
            assert_eq!((bits.position(), bits.clone().read(1)), (at, u32::from(data[0]) >> (7 - at % 8) & 1));
        }
        bits.align();
        assert_eq!(bits.position(), 80);
        bits.align();
        assert_eq!(bits.position(), 80);
        bits.skip(usize::MAX);
        assert!(bits.overrun());
        assert_eq!((bits.read(32), bits.left()), (0, 0));
    }
}
