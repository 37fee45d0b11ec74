//! Bits of a packet, least significant first (Vorbis I, section 2.1.4).

/// Reads from a packet. Running over its end is no error in itself: a packet may be cut short anywhere, and what was
/// read before counts (section 2.1.8). Hence `None`, and it is `None` ever after.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Next byte to be loaded.
    at: usize,
    /// The next bits, the first one lowest. Above `count` it holds zeros or the right bits.
    buffer: u64,
    /// How many bits of the buffer are valid, at most 63.
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Bits<'a> {
        Bits { data, at: 0, buffer: 0, count: 0 }
    }

    /// Makes at least 56 bits valid, fewer only where the packet ends.
    #[inline(always)]
    pub fn refill(&mut self) {
        if let Some(word) = self.data.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            self.buffer |= u64::from_le_bytes(*word) << self.count;
            self.at += ((63 - self.count) / 8) as usize;
            self.count |= 56;
        } else {
            *self = self.refilled_at_the_end();
        }
    }

    /// By value, as all rare cases are: a reader whose address is taken would not stay in registers.
    #[cold]
    #[inline(never)]
    fn refilled_at_the_end(mut self) -> Self {
        while let (true, Some(&byte)) = (self.count < 56, self.data.get(self.at)) {
            self.buffer |= u64::from(byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
        self
    }

    /// The bits to come, at least 56 after a [`refill`](Self::refill); zeros behind the end.
    #[inline(always)]
    pub fn peek(&self) -> u64 {
        self.buffer
    }

    /// Passes over `n` bits that a refill has made valid; false where the packet ends before.
    #[inline(always)]
    pub fn skip(&mut self, n: u32) -> bool {
        if n > self.count {
            return false;
        }
        self.buffer >>= n & 63;
        self.count -= n;
        true
    }

    /// The packet has ended within a number or codeword.
    pub fn run_out<T>(&mut self) -> Option<T> {
        *self = Bits::new(&[]);
        None
    }

    /// A number of `n` bits, 0 to 32.
    #[inline]
    pub fn read(&mut self, n: u32) -> Option<u32> {
        self.refill();
        let value = self.buffer & ((1 << n) - 1);
        if self.skip(n) { Some(value as u32) } else { self.run_out() }
    }

    #[inline]
    pub fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    /// How many bits are left.
    pub fn left(&self) -> usize {
        (self.data.len() - self.at) * 8 + self.count as usize
    }
}

/// The number of bits of `x`, 0 for 0 (section 9.2.1).
pub(super) fn ilog(x: u32) -> u32 {
    u32::BITS - x.leading_zeros()
}

#[test]
fn numbers_of_any_width_come_out_as_they_went_in() {
    // (value, width) pairs laid out by shifting one by one, the clear way.
    let fields: Vec<(u32, u32)> = (0..400u32)
        .map(|i| (i.wrapping_mul(2_654_435_761), i * 7 % 33))
        .map(|(value, width)| (if width == 32 { value } else { value & ((1 << width) - 1) }, width))
        .collect();
    let ones: Vec<bool> = fields.iter().flat_map(|&(v, w)| (0..w).map(move |i| v >> i & 1 == 1)).collect();
    let bytes: Vec<u8> = ones.chunks(8).map(|c| c.iter().enumerate().map(|(i, &b)| u8::from(b) << i).sum()).collect();
    let mut bits = Bits::new(&bytes);
    let mut left = bytes.len() * 8;
    for (value, width) in fields {
        assert_eq!(bits.read(width), Some(value));
        left -= width as usize;
        assert_eq!(bits.left(), left);
    }
    assert!(left < 8);
    assert_eq!(bits.read(left as u32 + 1), None);
    assert_eq!(bits.read(1), None, "once over the end, always over the end");
    assert_eq!(bits.read(0), Some(0));
}
