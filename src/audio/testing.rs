//! What the tests of several decoders share.

/// A generator of numbers that are the same in every run: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ n >> 31
    }

    /// A number of `n` bits, 1 to 63.
    pub fn bits(&mut self, n: u32) -> i64 {
        (self.roll() >> (64 - n)) as i64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits(32) as usize * n) >> 32
    }

    /// From `low` to `high`, inclusive.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.roll() >> 1) as i64 % (high - low + 1)
    }
}

/// Writes bits, most significant first.
#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
    pub bits: usize,
}

impl Writer {
    /// The low `n` bits of `value`.
    pub fn put(&mut self, value: i64, n: u32) {
        for i in (0..n).rev() {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            self.bytes[self.bits / 8] |= ((value >> i & 1) as u8) << (7 - self.bits % 8);
            self.bits += 1;
        }
    }
}
