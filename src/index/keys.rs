//! Which slot a key is in.

use std::collections::HashMap;

/// Keys of one page.
const PAGE: u64 = 1024;
const FREE: u32 = u32::MAX;

/// A map from keys to slots that takes 4 bytes a key where keys are dense, as those of a catalogue are.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pages: HashMap<u64, Page>,
}

#[derive(Clone, Debug)]
struct Page {
    used: u32,
    slots: Box<[u32; PAGE as usize]>,
}

impl Keys {
    /// Each key in the slot at which it stands; `None` where one stands there twice.
    pub fn of(keys: &[u64]) -> Option<Keys> {
        let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return Some(Keys::default()) };
        let (first, last) = (first / PAGE, last / PAGE);
        let mut of = Keys::default();
        if last - first > 4 * (keys.len() as u64 / PAGE + 1) {
            return keys.iter().zip(0..).all(|(key, slot)| of.insert(*key, slot).is_none()).then_some(of);
        }
        // Dense: all pages in one piece first, which costs a tenth of asking for the page of each key.
        let mut all = vec![FREE; ((last - first + 1) * PAGE) as usize];
        for (key, slot) in keys.iter().zip(0..) {
            if std::mem::replace(&mut all[(key - first * PAGE) as usize], slot) != FREE {
                return None;
            }
        }
        for (page, slots) in (first..).zip(all.as_chunks().0) {
            let used = slots.iter().filter(|slot| **slot != FREE).count() as u32;
            if used > 0 {
                of.pages.insert(page, Page { used, slots: Box::new(*slots) });
            }
        }
        Some(of)
    }

    pub fn get(&self, key: u64) -> Option<u32> {
        let slot = self.pages.get(&(key / PAGE))?.slots[(key % PAGE) as usize];
        (slot != FREE).then_some(slot)
    }

    /// Returns the slot in which the key was before.
    pub fn insert(&mut self, key: u64, slot: u32) -> Option<u32> {
        let page =
            self.pages.entry(key / PAGE).or_insert_with(|| Page { used: 0, slots: Box::new([FREE; PAGE as usize]) });
        let entry = &mut page.slots[(key % PAGE) as usize];
        let before = std::mem::replace(entry, slot);
        page.used += u32::from(before == FREE);
        (before != FREE).then_some(before)
    }

    pub fn remove(&mut self, key: u64) -> Option<u32> {
        let page = self.pages.get_mut(&(key / PAGE))?;
        let slot = std::mem::replace(&mut page.slots[(key % PAGE) as usize], FREE);
        if slot == FREE {
            return None;
        }
        page.used -= 1;
        if page.used == 0 {
            self.pages.remove(&(key / PAGE));
        }
        Some(slot)
    }

    pub fn bytes(&self) -> usize {
        self.pages.len() * (size_of::<[u32; PAGE as usize]>() + 32)
    }
}

#[test]
fn keys_of_every_size_come_and_go_and_leave_no_page_behind() {
    let mut keys = Keys::default();
    for (slot, key) in [0, 1, 1023, 1024, u64::MAX].into_iter().enumerate() {
        keys.insert(key, slot as u32);
    }
    keys.insert(1, 9);
    assert_eq!(
        [0, 1, 2, 1023, 1024, u64::MAX].map(|k| keys.get(k)),
        [Some(0), Some(9), None, Some(2), Some(3), Some(4)]
    );
    assert_eq!(keys.remove(2), None);
    for key in [0, 1, 1023, 1024, u64::MAX] {
        assert!(keys.remove(key).is_some() && keys.remove(key).is_none());
    }
    assert_eq!(keys.bytes(), 0);
    let of = Keys::of(&[7, 5000, 6]).unwrap();
    assert_eq!([5, 6, 7, 5000].map(|k| of.get(k)), [None, Some(2), Some(0), Some(1)]);
    assert!(Keys::of(&[7, 5000, 7]).is_none() && Keys::of(&[7, u64::MAX, 7]).is_none());
    assert_eq!(Keys::of(&[7, u64::MAX]).unwrap().get(u64::MAX), Some(1));
    assert_eq!(Keys::of(&[]).unwrap().bytes(), 0);
}
