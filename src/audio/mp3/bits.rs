//! Bits, most significant first.

/// A reader that keeps 56 to 63 bits at hand. Past the end of its data it reads zeros: whoever calls it knows where
/// the bits that count end, and compares [`Bits::position`] with that.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    data: &'a [u8],
    /// The byte that the next refill begins with.
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
        bits.skip((at % 8) as u32);
        bits
    }

    /// At least 56 bits can be peeked at and skipped after this.
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

    /// The next `n` bits, 1 to 32.
    #[inline(always)]
    pub fn peek(&self, n: u32) -> usize {
        (self.window >> (64 - n)) as usize
    }

    /// The coming bits, left-aligned: 56 after a refill.
    #[inline(always)]
    pub fn window(&self) -> u64 {
        self.window
    }

    /// No more than are there since the last refill.
    #[inline(always)]
    pub fn skip(&mut self, n: u32) {
        self.window <<= n;
        self.count -= n;
    }

    /// The next `n` bits, 0 to 32.
    #[inline(always)]
    pub fn take(&mut self, n: u32) -> usize {
        if n == 0 {
            return 0;
        }
        self.refill();
        let value = self.peek(n);
        self.skip(n);
        value
    }

    pub fn flag(&mut self) -> bool {
        self.take(1) == 1
    }

    /// Bits from the beginning of the data to the next one.
    #[inline(always)]
    pub fn position(&self) -> usize {
        8 * self.next - self.count as usize
    }
}

/// Eight bytes from `at` on, of which some lie beyond the end. Not a method: a reader whose address nobody takes stays
/// in registers.
#[cold]
fn last_bytes(data: &[u8], at: usize) -> u64 {
    let rest = data.get(at..).unwrap_or_default();
    (0..8).fold(0, |word, i| word << 8 | u64::from(rest.get(i).copied().unwrap_or(0)))
}

#[test]
fn every_split_of_the_bits_gives_the_same_number() {
    let data: Vec<u8> = (0..40u32).map(|i| (i * 151 + 7) as u8).collect();
    let bit = |at: usize| data.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    for width in 1..=32u32 {
        for start in 0..20 {
            let mut bits = Bits::new(&data, start);
            let mut at = start;
            // Beyond the end there are zeros.
            while at < 8 * data.len() + 64 {
                assert_eq!(bits.position(), at);
                let expected = (0..width as usize).fold(0, |value, i| value << 1 | bit(at + i));
                assert_eq!(bits.take(width), expected, "{width} bits at {at}");
                at += width as usize;
            }
        }
    }
}
