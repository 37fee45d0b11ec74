//! Bits of a packet, most significant first.

/// Reads on beyond the end as zeros; [`Bits::overrun`] tells, so that the inner loops need not ask.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Of the byte that goes into the window next; beyond the end it counts on.
    next: usize,
    /// The bits to come, from the top; below the `count` valid ones lie copies of those that follow, or zeros.
    window: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Bits<'a> {
        Bits { data, next: 0, window: 0, count: 0 }
    }

    /// Makes at least 56 bits ready for [`Bits::peek`] and [`Bits::consume`].
    #[inline(always)]
    pub fn refill(&mut self) {
        let word = match self.data.get(self.next..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => tail(self.data, self.next),
        };
        self.window |= word >> self.count;
        let bytes = (63 - self.count) / 8;
        self.next += bytes as usize;
        self.count += 8 * bytes;
    }

    /// The next `n` bits, 1 to 32, which must be ready.
    #[inline(always)]
    pub fn peek(&self, n: u32) -> usize {
        (self.window >> (64 - n)) as usize
    }

    /// Passes over `n` bits, which must be ready; at most 63.
    #[inline(always)]
    pub fn consume(&mut self, n: u32) {
        self.window <<= n;
        self.count -= n;
    }

    /// How many ones the ready bits begin with.
    #[inline(always)]
    pub fn leading_ones(&self) -> u32 {
        self.window.leading_ones()
    }

    /// The next `n` bits, 0 to 32, as a number.
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

    /// Bits read so far.
    pub fn position(&self) -> usize {
        8 * self.next - self.count as usize
    }

    /// Passes over any number of bits.
    pub fn skip(&mut self, n: usize) {
        let to = self.position().saturating_add(n).min(8 * self.data.len() + 64);
        (self.next, self.window, self.count) = (to / 8, 0, 0);
        self.read((to % 8) as u32);
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

/// The eight bytes from `next` on, near the end or beyond it.
#[cold]
#[inline(never)]
fn tail(data: &[u8], next: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = data.get(next..).unwrap_or_default();
    for (to, &from) in bytes.iter_mut().zip(rest) {
        *to = from;
    }
    u64::from_be_bytes(bytes)
}

#[test]
fn bits_are_those_of_the_binary_numerals() {
    let data: Vec<u8> = (0..40u32).map(|i| (i * 151 + 7) as u8).collect();
    let numeral: String = data.iter().map(|b| format!("{b:08b}")).collect();
    let mut bits = Bits::new(&data);
    let mut at = 0;
    for n in (0..33).cycle() {
        if at + n > numeral.len() {
            break;
        }
        assert_eq!(bits.position(), at);
        assert_eq!(bits.left(), numeral.len() - at);
        let expected = if n == 0 { 0 } else { u32::from_str_radix(&numeral[at..at + n], 2).unwrap() };
        assert_eq!(bits.read(n as u32), expected);
        at += n;
        if n == 20 {
            bits.skip(13);
            bits.align();
            at = (at + 13).div_ceil(8) * 8;
        }
    }
    assert!(at > 250 && !bits.overrun());
    bits.skip(400);
    assert!(bits.overrun());
    assert_eq!((bits.read(32), bits.left()), (0, 0));
}
