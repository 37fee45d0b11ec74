//! The bit reservoir: the main data of a frame may begin up to 511 bytes ahead of the frame's own, in what the frames
//! before have left over (ISO 11172-3, 2.4.2.7, main_data_begin).
//!
//! ```text
//! frame           1              2              3
//! main data of    1 1 1 1 2 2    2 2 2 3 3 3    3 3 3 3 3 4
//!                         └ main_data_begin of frame 2 is 2
//! ```
//!
//! After a seek the bytes ahead are not there, and where a frame was lost others stand in their place. Each byte belongs
//! to one frame: what one has used is given up. A frame that begins among bytes that are given up shows that another one
//! was lost before it, and then nothing of what is left stands directly ahead of it.

/// main_data_begin has 9 bits.
const FARTHEST: usize = 511;

pub struct Reservoir {
    /// Of the frame that was added last, and what there is ahead of it from where its main data begins.
    data: Vec<u8>,
    /// Bytes that this frame has used.
    used: usize,
    /// Bytes before `data` where the next frame may begin, although they are not there.
    absent: usize,
}

impl Reservoir {
    pub fn new() -> Reservoir {
        Reservoir { data: Vec::new(), used: 0, absent: FARTHEST }
    }

    /// As behind a frame that is lost.
    pub fn clear(&mut self) {
        *self = Reservoir { data: std::mem::take(&mut self.data), ..Reservoir::new() };
        self.data.clear();
    }

    /// Adds the bytes of a frame whose main data begins `begin` bytes ahead of them, of which nothing counts as used yet.
    /// Returns how many bytes at the beginning of its main data are not there; the others are [`data`](Self::data).
    pub fn add(&mut self, begin: usize, own: &[u8]) -> usize {
        if begin > self.absent + self.unused() {
            self.clear();
        }
        let missing = begin.saturating_sub(self.unused());
        self.data.drain(..self.data.len() - (begin - missing));
        self.data.extend_from_slice(own);
        (self.used, self.absent) = (0, FARTHEST);
        missing
    }

    /// Adds the bytes of a frame that does not tell where its main data begins.
    pub fn add_unread(&mut self, own: &[u8]) {
        self.add(self.unused().min(FARTHEST), own);
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The frame that was added last, of whose main data `missing` bytes were not there, uses `bits` of it.
    pub fn take(&mut self, missing: usize, bits: usize) {
        let bytes = bits.div_ceil(8);
        self.used = bytes.saturating_sub(missing).min(self.data.len());
        self.absent = missing.saturating_sub(bytes);
    }

    fn unused(&self) -> usize {
        self.data.len() - self.used
    }
}

#[test]
fn a_frame_finds_what_the_frames_before_left_and_nothing_else() {
    // Bytes are the number of the frame that they belong to.
    let mut reservoir = Reservoir::new();
    assert_eq!(reservoir.add(0, &[1, 1, 1, 1, 2, 2]), 0);
    reservoir.take(0, 4 * 8 - 3);
    assert_eq!(reservoir.add(2, &[2, 2, 2, 3, 3, 3]), 0);
    assert_eq!(reservoir.data(), [2, 2, 2, 2, 2, 3, 3, 3]);
    reservoir.take(0, 5 * 8);
    // Behind frame 3, which is lost: three bytes are there, but not the right ones.
    assert_eq!(reservoir.add(4, &[5, 5, 5]), 4);
    assert_eq!(reservoir.data(), [5, 5, 5]);
    // It ends two bytes before its own, which are the next one's.
    reservoir.take(4, 2 * 8);
    assert_eq!(reservoir.add(5, &[6, 6]), 2);
    assert_eq!(reservoir.data(), [5, 5, 5, 6, 6]);
    reservoir.take(2, 5 * 8);
    // Two bytes are left; a frame that leaves one of them out has stuffing ahead.
    assert_eq!(reservoir.add(1, &[7]), 0);
    assert_eq!(reservoir.data(), [6, 7]);
}

#[test]
fn after_a_seek_what_is_there_is_the_end_of_what_the_frames_ask_for() {
    // At the lowest bitrates a frame has fewer bytes than lie between it and its main data.
    let mut reservoir = Reservoir::new();
    let mut missing = vec![];
    for _ in 0..12 {
        missing.push(reservoir.add(100, &[0; 20]));
        reservoir.take(missing[missing.len() - 1], 20 * 8);
    }
    assert_eq!(missing, [100, 80, 60, 40, 20, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn it_never_holds_more_than_a_frame_can_go_back_to() {
    let mut reservoir = Reservoir::new();
    for _ in 0..10 {
        reservoir.add_unread(&[0; 400]);
    }
    assert_eq!(reservoir.data().len(), FARTHEST + 400);
    // All of it may be the next frame's.
    assert_eq!(reservoir.add(FARTHEST, &[]), 0);
    reservoir.clear();
    assert_eq!(reservoir.add(3, &[0; 5]), 3);
}
